//! A mix of operations over loaded records.

use std::collections::VecDeque;

use rand::Rng as _;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};

use super::{Distribution, KeyChooser, Mix, OpKind, Part, Planned, Sizes, Values, rng};

/// Most items that one scan asks for, unless it is said otherwise: YCSB's.
const SCAN_ITEMS_MAX: u32 = 100;

/// What a mixed load looks like, whatever its rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Which operations.
    pub(crate) mix: Mix,
    /// On which records.
    pub(crate) distribution: Distribution,
    /// How long values are.
    pub(crate) sizes: Sizes,
    /// Fewest and most items of a scan or a query.
    pub(crate) items: (u32, u32),
}

impl Shape {
    /// Gets, uniform, of values of these sizes.
    pub(crate) fn of(sizes: Sizes) -> Shape {
        Shape {
            mix: Mix::of(&[(OpKind::Get, 100)]),
            distribution: Distribution::Uniform,
            sizes,
            items: (1, SCAN_ITEMS_MAX),
        }
    }

    /// What is wrong with a shape that did not come from this process's command line.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Shape { mix, distribution, sizes, items } = self;
        let percent: u64 = mix.percent.iter().map(|percent| u64::from(*percent)).sum();
        let wrong = match () {
            () if percent != 100 => Some(format!("a mix of {percent} percent, not 100")),
            () if !distribution.is_sound() => Some(format!("a choice of records: {distribution}")),
            () if !sizes.is_sound() => Some(format!("lengths of values: {sizes}")),
            () if items.0 == 0 || items.0 > items.1 => Some(format!("{items:?} items of a scan")),
            () => None,
        };
        wrong.map_or(Ok(()), Err)
    }
}

/// A mix of operations over loaded records.
#[derive(Debug)]
pub(crate) struct Mixed {
    rng: SmallRng,
    mix: Mix,
    chooser: KeyChooser,
    values: Values,
    /// Fewest and most items of a scan or a query.
    items: (u32, u32),
    records: u64,
    part: Part,
    /// Own inserts handed out, and how many of them, from the first on, have ended.
    inserts_planned: u64,
    inserts_ended: u64,
    /// Which of the inserts after `inserts_ended` have ended; as long as what is in flight.
    window: VecDeque<bool>,
}

impl Mixed {
    /// `mix` over `records` loaded records, with values of one length.
    pub(crate) fn new(
        mix: Mix,
        distribution: Distribution,
        records: u64,
        value_bytes: usize,
        seed: u64,
        part: Part,
    ) -> Mixed {
        let shape = Shape { mix, distribution, ..Shape::of(Sizes::Fixed(value_bytes)) };
        Mixed::shaped(&shape, records, seed, part)
    }

    /// A load of this `shape` over `records` loaded records.
    pub(crate) fn shaped(shape: &Shape, records: u64, seed: u64, part: Part) -> Mixed {
        let mut rng = rng(seed, part);
        let values = Values::new(shape.sizes.clone(), &mut rng);
        Mixed {
            chooser: KeyChooser::new(shape.distribution, records, part),
            rng,
            mix: shape.mix,
            items: shape.items,
            values,
            records,
            part,
            inserts_planned: 0,
            inserts_ended: 0,
            window: VecDeque::new(),
        }
    }

    pub(super) fn next(&mut self) -> Planned {
        let kind = self.mix.draw(&mut self.rng);
        let record = if kind == OpKind::Insert {
            self.inserts_planned += 1;
            self.window.push_back(false);
            self.insert_record(self.inserts_planned - 1)
        } else {
            let known = self.records + self.inserts_ended;
            match self.chooser.draw(&mut self.rng, known) {
                index if index < self.records => index,
                index => self.insert_record(index - self.records),
            }
        };
        let argument = match kind {
            OpKind::Scan | OpKind::Query => {
                u64::from(self.rng.random_range(self.items.0..=self.items.1))
            }
            _ => 0,
        };
        Planned { kind, record, argument }
    }

    /// The threads' inserts interleave above the loaded records.
    fn insert_record(&self, nth: u64) -> u64 {
        self.records + nth * self.part.threads + self.part.thread
    }

    /// The bytes of a record.
    pub(super) fn value(&mut self) -> &[u8] {
        self.values.draw(&mut self.rng)
    }

    /// Whether `kind` occurs.
    pub(super) fn has(&self, kind: OpKind) -> bool {
        self.mix.has(kind)
    }

    pub(super) fn finished(&mut self, planned: Planned) {
        if planned.kind != OpKind::Insert {
            return;
        }
        let nth = (planned.record - self.records - self.part.thread) / self.part.threads;
        self.window[(nth - self.inserts_ended) as usize] = true;
        while self.window.front() == Some(&true) {
            self.window.pop_front();
            self.inserts_ended += 1;
        }
    }
}
