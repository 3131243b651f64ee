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
//! Any other mix, with its phases, sizes and keys, is a scenario file ([`scenario`]).
//!
//! Left out: YCSB's ten fields (one value here), and reads of other threads' inserts: in workload d
//! a thread's "latest" are the loaded records and its own acknowledged inserts, so that a read never
//! misses because of another thread's timing.

mod args;
mod distribution;
mod keys;
mod ledger;
mod load;
mod mixed;
mod names;
mod scenario;
mod sizes;
#[cfg(test)]
mod tests;
mod value;
mod zipfian;

use rand::SeedableRng;
use rand::rngs::SmallRng;

pub(crate) use args::{RunShapeArgs, ShapeArgs, WorkloadArg};
pub(crate) use distribution::Distribution;
use keys::KeyChooser;
pub(crate) use keys::{KEY_BYTES_MAX, KEY_BYTES_MIN, KeySpelling};
pub(crate) use ledger::{LedgerKeys, LedgerPut};
pub(crate) use load::{Load, Records};
pub(crate) use mixed::{Mixed, Shape};
pub(crate) use names::{Mix, WorkloadName};
pub(crate) use scenario::{PHASES_MAX, PhaseSpec, Scenario};
pub(crate) use sizes::Sizes;
#[cfg(test)]
pub(crate) use value::write_ledger_value;
pub(crate) use value::{
    LEDGER_VALUE_BYTES_MIN, LedgerValueError, VALUES_MADE, Values, read_ledger_value,
};

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

    /// Whether it may change a record.
    pub(crate) fn writes(self) -> bool {
        !matches!(self, OpKind::Get | OpKind::Scan | OpKind::Query)
    }

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
            Source::Mixed(mixed) => mixed.value(),
            Source::Load(load) => load.value(),
            Source::Ledger(ledger) => ledger.value(planned),
        }
    }

    /// The kinds that will occur.
    pub(crate) fn has(&self, kind: OpKind) -> bool {
        match self {
            Source::Mixed(mixed) => mixed.has(kind),
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
