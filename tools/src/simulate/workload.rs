//! What all clients of a run share: the table, what they know of it, and what they were told.

use std::collections::BTreeMap;

use forebay_core::key::partition_hash;
use forebay_core::table::TableDescription;
use forebay_storage::sim_disk::SimRandom;

use super::history::{Call, History, OpName, Outcome};
use super::items::{Name, entry_name, register_name};
use super::ledger::{Ledger, Reading};
use super::staleness::Staleness;

/// Keys that are written again and again. Few, so that clients meet.
pub(super) const REGISTERS: usize = 12;

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The first client makes the table.
    Setup,
    /// All work, and things go wrong.
    Work,
    /// What is under way ends; nothing new begins.
    Drain,
    /// Every key is read once more.
    Audit,
    /// All is read.
    Over,
}

/// A key to be read in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Register(usize),
    Entry(usize),
}

/// What a request does to one key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Register(OpName),
    EntryWrite(usize),
    EntryRead(Reading),
}

impl Part {
    /// The key that it is about.
    pub(super) fn name(self) -> Name {
        match self {
            Part::Register(name) => register_name(name.key),
            Part::EntryWrite(entry) => entry_name(entry),
            Part::EntryRead(reading) => entry_name(reading.entry),
        }
    }
}

/// Counts for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Clients wanted so many.
    pub wanted: u64,
    /// No connection was open, or too much was under way.
    pub not_sent: u64,
    /// Answered.
    pub answered: u64,
    /// Refused without effect.
    pub refused: u64,
    /// Nobody knows.
    pub unknown: u64,
    /// Eventual reads that were answered.
    pub eventual: u64,
    /// Eventual reads that a replica refused because its state was too old.
    pub too_stale: u64,
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) stage: Stage,
    pub(super) table: Option<TableDescription>,
    pub(super) history: History,
    pub(super) ledger: Ledger,
    pub(super) staleness: Staleness,
    pub(super) operations: Operations,
    /// What each register held when somebody last heard of it.
    last_seen: Vec<Option<u64>>,
    next_value: u64,
    /// Keys to be read in the end, and those under way.
    pub(super) targets: Vec<Target>,
    pub(super) auditing: usize,
    /// Whose replicas are read in the end, whoever leads.
    pub(super) reread: Option<usize>,
    /// The first thing that must not be.
    pub(super) violation: Option<String>,
    /// Refusals by code, for people.
    pub(super) refusals: BTreeMap<&'static str, u64>,
    /// The latest beginning of a write, and of a read, that succeeded.
    pub(super) last_write: u64,
    pub(super) last_read: u64,
}

impl Workload {
    pub(super) fn new() -> Workload {
        Workload {
            stage: Stage::Setup,
            table: None,
            history: History::new(REGISTERS),
            ledger: Ledger::default(),
            staleness: Staleness::default(),
            operations: Operations::default(),
            last_seen: vec![None; REGISTERS],
            next_value: 1,
            targets: Vec::new(),
            auditing: 0,
            reread: None,
            violation: None,
            refusals: BTreeMap::new(),
            last_write: 0,
            last_read: 0,
        }
    }

    fn made(&self) -> &TableDescription {
        self.table.as_ref().expect("the work begins when the table is there")
    }

    pub(super) fn table_id(&self) -> u64 {
        self.made().id.0
    }

    /// Which partition of the table holds a key, by its place in the description.
    pub(super) fn partition(&self, target: Target) -> usize {
        let name = match target {
            Target::Register(key) => register_name(key),
            Target::Entry(entry) => entry_name(entry),
        };
        let table = self.made();
        let hash = partition_hash(&table.hash_seed, name.as_bytes());
        let mut partitions = table.partitions.iter();
        partitions.position(|partition| partition.contains(hash)).expect("every hash is held")
    }

    /// A value that was never used.
    pub(super) fn value(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    /// What a swap should expect: often what is there.
    pub(super) fn guess(&self, key: usize, random: &mut SimRandom) -> Option<u64> {
        if random.chance(1, 16) { None } else { self.last_seen[key] }
    }

    pub(super) fn broken(&mut self, what: Result<(), String>) {
        if let Err(what) = what {
            self.violation.get_or_insert(what);
        }
    }

    /// Something is known of a part of a request that began at `began`.
    pub(super) fn ended(&mut self, part: Part, outcome: Outcome, began: u64, now: u64) {
        match outcome {
            Outcome::Unknown => self.operations.unknown += 1,
            Outcome::NoEffect => self.operations.refused += 1,
            Outcome::Found(_) | Outcome::Done => {
                self.operations.answered += 1;
                let is_write = match part {
                    Part::Register(name) => self.history.call(name) != Call::Read,
                    Part::EntryWrite(_) => true,
                    Part::EntryRead(_) => false,
                };
                let last = if is_write { &mut self.last_write } else { &mut self.last_read };
                *last = began.max(*last);
            }
        }
        match part {
            Part::Register(name) => {
                let call = self.history.call(name);
                self.history.end(name, outcome, now);
                match outcome {
                    Outcome::Found(found) if matches!(call, Call::Read | Call::Swap { .. }) => {
                        self.last_seen[name.key] = found;
                    }
                    Outcome::Found(_) | Outcome::Done => {
                        self.last_seen[name.key] = call.leaves().flatten();
                    }
                    Outcome::Unknown | Outcome::NoEffect => {}
                }
            }
            Part::EntryWrite(entry) => {
                let known = match outcome {
                    Outcome::Done => self.ledger.acknowledged(entry, now),
                    Outcome::NoEffect => self.ledger.refused(entry),
                    Outcome::Unknown => Ok(()),
                    Outcome::Found(_) => unreachable!("a put finds nothing"),
                };
                self.broken(known);
            }
            Part::EntryRead(reading) => {
                if let Outcome::Found(found) = outcome {
                    let known = self.ledger.found(reading, found.is_some(), now);
                    self.broken(known);
                }
            }
        }
    }

    /// What is to be read in the end.
    pub(super) fn begin_audit(&mut self) {
        self.targets.extend((0..self.ledger.len()).map(Target::Entry));
        self.targets.extend((0..REGISTERS).map(Target::Register));
        self.stage = Stage::Audit;
    }

    /// Everything is to be read once more, of this node's replicas.
    pub(super) fn begin_to_reread(&mut self, node: usize) {
        self.reread = Some(node);
        self.begin_audit();
    }

    /// Whether all was read.
    pub(super) fn audit_is_over(&self) -> bool {
        self.stage == Stage::Audit && self.targets.is_empty() && self.auditing == 0
    }
}
