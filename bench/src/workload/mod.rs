//! What is asked of a store: mixes of operations, the records they touch, the bytes they write.
//!
//! ```text
//!   Source ──next()──► Planned { kind, record, … } ──► generator ──► target
//!          ◄─finished()──────────────────────────────────────────────'
//! ```
//!
//! A [`Source`] belongs to one generator thread and is determined by its seed, so a run can be
//! repeated. YCSB's core workloads (Cooper et al., "Benchmarking Cloud Serving Systems with YCSB",
//! SoCC 2010, table 2):
//!
//! | name | mix | records |
//! |---|---|---|
//! | a | 50 % get, 50 % put | zipfian |
//! | b | 95 % get, 5 % put | zipfian |
//! | c | get | zipfian |
//! | d | 95 % get, 5 % insert | latest |
//! | e | 95 % scan of 1 to 100 items, 5 % insert | zipfian |
//! | f | 50 % get, 50 % read-modify-write | zipfian |
//! | puts | put | uniform |
//! | gets | get | uniform |
//! | ledger | put of proof-carrying values, one at a time for each key | each connection its own |
//!
//! Left out: YCSB's ten fields (one value here), and reads of other threads' inserts: in workload d
//! a thread's "latest" are the loaded records and its own acknowledged inserts, so that a read never
//! misses because of another thread's timing.

mod keys;
mod ledger;
mod value;
mod zipfian;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub(crate) use keys::{Distribution, KEY_BYTES_MAX, KEY_BYTES_MIN, KeyChooser, KeySpelling};
pub(crate) use ledger::{LedgerKeys, LedgerPut};
#[cfg(test)]
pub(crate) use value::write_ledger_value;
pub(crate) use value::{LEDGER_VALUE_BYTES_MIN, LedgerValueError, Values, read_ledger_value};

/// Most items that one scan asks for.
pub(crate) const SCAN_ITEMS_MAX: u32 = 100;

/// The operations that latencies are reported for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpKind {
    /// Read one record (YCSB's read).
    Get,
    /// Write a whole record, there or not (YCSB's update).
    Put,
    /// Write a new record.
    Insert,
    /// Read some records in key order.
    Scan,
    /// Read a record, then write it; one latency for both.
    ReadModifyWrite,
    /// Write a whole record on the condition that it is there.
    ConditionalPut,
    /// Read some records of one partition key in the order of their sort keys.
    Query,
}

impl OpKind {
    /// All of them, in the order of reports.
    pub(crate) const ALL: [OpKind; 7] = [
        OpKind::Get,
        OpKind::Put,
        OpKind::Insert,
        OpKind::Scan,
        OpKind::ReadModifyWrite,
        OpKind::ConditionalPut,
        OpKind::Query,
    ];
    /// How many there are.
    pub(crate) const COUNT: usize = OpKind::ALL.len();

    /// Its name in reports.
    pub(crate) fn label(self) -> &'static str {
        match self {
            OpKind::Get => "get",
            OpKind::Put => "put",
            OpKind::Insert => "insert",
            OpKind::Scan => "scan",
            OpKind::ReadModifyWrite => "read_modify_write",
            OpKind::ConditionalPut => "conditional_put",
            OpKind::Query => "query",
        }
    }
}

/// Percentages of each operation; they add up to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mix {
    /// In the order of [`OpKind::ALL`].
    pub(crate) percent: [u32; OpKind::COUNT],
}

impl Mix {
    /// So many of each hundred; what is not named does not occur.
    pub(crate) fn of(parts: &[(OpKind, u32)]) -> Mix {
        let mut percent = [0; OpKind::COUNT];
        for &(kind, part) in parts {
            percent[kind as usize] += part;
        }
        assert_eq!(percent.iter().sum::<u32>(), 100, "percentages of a whole");
        Mix { percent }
    }

    fn draw(&self, rng: &mut impl Rng) -> OpKind {
        let mut point = rng.random_range(0..100u32);
        for kind in OpKind::ALL {
            let percent = self.percent[kind as usize];
            if point < percent {
                return kind;
            }
            point -= percent;
        }
        unreachable!("a mix's percentages add up to 100")
    }

    /// Whether the mix contains `kind`.
    pub(crate) fn has(&self, kind: OpKind) -> bool {
        self.percent[kind as usize] > 0
    }
}

/// The named workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WorkloadName {
    /// YCSB A: half gets, half puts, zipfian
    A,
    /// YCSB B: 95 % gets, 5 % puts, zipfian
    B,
    /// YCSB C: gets, zipfian
    C,
    /// YCSB D: 95 % gets of the latest, 5 % inserts
    D,
    /// YCSB E: 95 % scans of up to 100 items, 5 % inserts
    E,
    /// YCSB F: half gets, half read-modify-writes, zipfian
    F,
    /// Only puts, uniform over the records
    Puts,
    /// Only gets, uniform over the records
    Gets,
    /// Puts that prove themselves, acknowledged ones noted in the file of --ledger
    Ledger,
}

impl WorkloadName {
    /// Its name on the command line and in reports.
    pub(crate) fn label(self) -> &'static str {
        match self {
            WorkloadName::A => "a",
            WorkloadName::B => "b",
            WorkloadName::C => "c",
            WorkloadName::D => "d",
            WorkloadName::E => "e",
            WorkloadName::F => "f",
            WorkloadName::Puts => "puts",
            WorkloadName::Gets => "gets",
            WorkloadName::Ledger => "ledger",
        }
    }

    /// Its mix.
    pub(crate) fn mix(self) -> Mix {
        use OpKind::{Get, Insert, Put, ReadModifyWrite, Scan};
        match self {
            WorkloadName::A => Mix::of(&[(Get, 50), (Put, 50)]),
            WorkloadName::B => Mix::of(&[(Get, 95), (Put, 5)]),
            WorkloadName::C | WorkloadName::Gets => Mix::of(&[(Get, 100)]),
            WorkloadName::D => Mix::of(&[(Get, 95), (Insert, 5)]),
            WorkloadName::E => Mix::of(&[(Scan, 95), (Insert, 5)]),
            WorkloadName::F => Mix::of(&[(Get, 50), (ReadModifyWrite, 50)]),
            WorkloadName::Puts | WorkloadName::Ledger => Mix::of(&[(Put, 100)]),
        }
    }

    /// How it chooses records unless the command line says otherwise.
    pub(crate) fn distribution(self) -> Distribution {
        match self {
            WorkloadName::A
            | WorkloadName::B
            | WorkloadName::C
            | WorkloadName::E
            | WorkloadName::F => Distribution::Zipfian,
            WorkloadName::D => Distribution::Latest,
            WorkloadName::Puts | WorkloadName::Gets | WorkloadName::Ledger => Distribution::Uniform,
        }
    }
}

/// One operation to carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// What.
    pub(crate) kind: OpKind,
    /// On which record (a scan starts there).
    pub(crate) record: u64,
    /// Items to read, for a scan; the sequence number, for a ledger put.
    pub(crate) argument: u64,
}

/// What a source says when asked for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Do this.
    Op(Planned),
    /// This lane has nothing to do again.
    LaneIdle,
    /// Nothing is left for anyone.
    Exhausted,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The store did it.
    Done,
    /// The store answered with an error.
    Refused,
    /// No answer: whether and when it takes effect is not known.
    Unanswered,
}

/// One thread's operations.
#[derive(Debug)]
pub(crate) enum Source {
    /// A mix until time is up.
    Mixed(Mixed),
    /// Every record once.
    Load(Load),
    /// Proof-carrying puts.
    Ledger(LedgerKeys),
}

impl Source {
    /// The next operation for `lane`.
    pub(crate) fn next(&mut self, lane: u32) -> Next {
        match self {
            Source::Mixed(mixed) => Next::Op(mixed.next()),
            Source::Load(load) => load.next(),
            Source::Ledger(ledger) => ledger.next(lane),
        }
    }

    /// `planned` ended.
    pub(crate) fn finished(&mut self, lane: u32, planned: Planned, end: End) {
        match self {
            Source::Mixed(mixed) => mixed.finished(planned),
            Source::Load(load) => load.finished(planned, end),
            Source::Ledger(ledger) => ledger.finished(lane, planned, end),
        }
    }

    /// The bytes that `planned` writes.
    pub(crate) fn value(&mut self, planned: Planned) -> &[u8] {
        match self {
            Source::Mixed(mixed) => mixed.values.draw(&mut mixed.rng),
            Source::Load(load) => load.values.draw(&mut load.rng),
            Source::Ledger(ledger) => ledger.value(planned),
        }
    }

    /// The kinds that will occur.
    pub(crate) fn has(&self, kind: OpKind) -> bool {
        match self {
            Source::Mixed(mixed) => mixed.mix.has(kind),
            Source::Load(_) => kind == OpKind::Insert,
            Source::Ledger(_) => kind == OpKind::Put,
        }
    }
}

/// This thread among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its number, from 0.
    pub(crate) thread: u64,
    /// How many there are.
    pub(crate) threads: u64,
}

fn rng(seed: u64, part: Part) -> SmallRng {
    // seed_from_u64 mixes its argument, so neighbouring seeds give unrelated streams; the odd
    // multiplier keeps (seed, thread) pairs apart.
    SmallRng::seed_from_u64(seed ^ (part.thread + 1).wrapping_mul(0xD1B5_4A32_D192_ED03))
}

/// A mix of operations over loaded records.
#[derive(Debug)]
pub(crate) struct Mixed {
    rng: SmallRng,
    mix: Mix,
    chooser: KeyChooser,
    values: Values,
    records: u64,
    part: Part,
    /// Own inserts handed out, and how many of them, from the first on, have ended.
    inserts_planned: u64,
    inserts_ended: u64,
    /// Which of the inserts after `inserts_ended` have ended; as long as what is in flight.
    window: VecDeque<bool>,
}

impl Mixed {
    /// `mix` over `records` loaded records.
    pub(crate) fn new(
        mix: Mix,
        distribution: Distribution,
        records: u64,
        value_bytes: usize,
        seed: u64,
        part: Part,
    ) -> Mixed {
        assert_eq!(mix.percent.iter().sum::<u32>(), 100);
        let mut rng = rng(seed, part);
        let values = Values::new(value_bytes, &mut rng);
        Mixed {
            chooser: KeyChooser::new(distribution, records),
            rng,
            mix,
            values,
            records,
            part,
            inserts_planned: 0,
            inserts_ended: 0,
            window: VecDeque::new(),
        }
    }

    fn next(&mut self) -> Planned {
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
            OpKind::Scan => u64::from(self.rng.random_range(1..=SCAN_ITEMS_MAX)),
            _ => 0,
        };
        Planned { kind, record, argument }
    }

    /// The threads' inserts interleave above the loaded records.
    fn insert_record(&self, nth: u64) -> u64 {
        self.records + nth * self.part.threads + self.part.thread
    }

    fn finished(&mut self, planned: Planned) {
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
        value_bytes: usize,
        seed: u64,
        part: Part,
        left: Arc<Mutex<Vec<u64>>>,
    ) -> Load {
        let mut rng = rng(seed, part);
        let values = Values::new(value_bytes, &mut rng);
        Load { rng, values, next: part.thread, records, part, left }
    }

    fn next(&mut self) -> Next {
        let Some(record) = self.records.get(self.next) else { return Next::Exhausted };
        self.next += self.part.threads;
        Next::Op(Planned { kind: OpKind::Insert, record, argument: 0 })
    }

    fn finished(&mut self, planned: Planned, end: End) {
        if end != End::Done {
            self.left.lock().expect("nobody panics with it").push(planned.record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Part = Part { thread: 0, threads: 1 };

    fn mixed(name: WorkloadName, seed: u64) -> Mixed {
        Mixed::new(name.mix(), name.distribution(), 1000, 10, seed, ALONE)
    }

    #[test]
    fn every_mix_is_whole_and_drawn_in_its_proportions() {
        use WorkloadName::*;
        for name in [A, B, C, D, E, F, Puts, Gets, Ledger] {
            assert_eq!(name.mix().percent.iter().sum::<u32>(), 100, "{name:?}");
            let mut source = mixed(name, 42);
            let mut counts = [0u32; OpKind::COUNT];
            for _ in 0..20_000 {
                let planned = source.next();
                counts[planned.kind as usize] += 1;
                source.finished(planned);
            }
            for kind in OpKind::ALL {
                let want = name.mix().percent[kind as usize] * 200;
                let got = counts[kind as usize];
                assert!(got.abs_diff(want) <= 300, "{name:?} {kind:?}: {got} of {want}");
                assert_eq!(name.mix().has(kind), got > 0);
            }
        }
    }

    #[test]
    fn equal_seeds_repeat_and_others_differ() {
        let plan = |seed| {
            let mut source = mixed(WorkloadName::A, seed);
            (0..100).map(|_| source.next()).collect::<Vec<_>>()
        };
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
        let threads = |thread| rng(1, Part { thread, threads: 2 }).random::<u64>();
        assert_ne!(threads(0), threads(1));
    }

    #[test]
    fn latest_reads_only_what_was_inserted_and_acknowledged() {
        let mut source = mixed(WorkloadName::D, 4);
        let mut flying = VecDeque::new();
        let mut acknowledged = std::collections::HashSet::new();
        for _ in 0..20_000 {
            let planned = source.next();
            if planned.kind == OpKind::Get {
                assert!(planned.record < 1000 || acknowledged.contains(&planned.record));
            }
            flying.push_back(planned);
            if flying.len() == 50 {
                // Newest first, so that acknowledgements come out of order.
                while let Some(done) = flying.pop_back() {
                    source.finished(done);
                    if done.kind == OpKind::Insert {
                        acknowledged.insert(done.record);
                    }
                }
            }
        }
        assert!(acknowledged.len() > 500);
    }

    #[test]
    fn threads_load_every_record_once() {
        let mut seen = vec![0; 103];
        for thread in 0..4 {
            let mut load =
                Load::new(Records::All(103), 10, 1, Part { thread, threads: 4 }, Arc::default());
            while let Next::Op(planned) = load.next() {
                seen[planned.record as usize] += 1;
            }
        }
        assert!(seen.iter().all(|&times| times == 1));
    }
}
