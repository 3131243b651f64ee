//! Writing every record once.

use std::sync::{Arc, Mutex};

use rand::rngs::SmallRng;

use super::{End, Next, OpKind, Part, Planned, Sizes, Values, rng};

/// Every `threads`-th of some records from the `thread`-th on, once.
#[derive(Debug)]
pub(crate) struct Load {
    rng: SmallRng,
    values: Values,
    next: u64,
    records: Records,
    part: Part,
    left: Arc<Mutex<Vec<u64>>>,
}

/// Which records to load.
#[derive(Clone, Debug)]
pub(crate) enum Records {
    /// 0 up to this one.
    All(u64),
    /// These, left by an earlier pass.
    Left(Arc<[u64]>),
}

impl Records {
    fn get(&self, nth: u64) -> Option<u64> {
        match self {
            Records::All(count) => (nth < *count).then_some(nth),
            Records::Left(list) => list.get(nth as usize).copied(),
        }
    }
}

impl Load {
    /// This thread's part of `records`. What fails goes to `left`, for another pass.
    pub(crate) fn new(
        records: Records,
        sizes: Sizes,
        seed: u64,
        part: Part,
        left: Arc<Mutex<Vec<u64>>>,
    ) -> Load {
        let mut rng = rng(seed, part);
        let values = Values::new(sizes, &mut rng);
        Load { rng, values, next: part.thread, records, part, left }
    }

    pub(super) fn next(&mut self) -> Next {
        let Some(record) = self.records.get(self.next) else { return Next::Exhausted };
        self.next += self.part.threads;
        Next::Op(Planned { kind: OpKind::Insert, record, argument: 0 })
    }

    /// The bytes of a record.
    pub(super) fn value(&mut self) -> &[u8] {
        self.values.draw(&mut self.rng)
    }

    pub(super) fn finished(&mut self, planned: Planned, end: End) {
        if end != End::Done {
            self.left.lock().expect("nobody panics with it").push(planned.record);
        }
    }
}
