//! A member's disk: what survives a crash.

use super::super::super::{ConfigurationAt, EntryKind, Held, Recovered};
use crate::ids::{Ballot, Slot};
use crate::paxos::{Configuration, Handle};

/// An entry's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::paxos::tests) struct Record {
    pub(in crate::paxos::tests) kind: EntryKind,
    pub(in crate::paxos::tests) origin: Ballot,
    pub(in crate::paxos::tests) value: u64,
    pub(in crate::paxos::tests) bytes: u32,
    pub(in crate::paxos::tests) configuration: Option<Configuration>,
}

/// A stretch of a group's log: slots after `base`, without a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::paxos::tests) struct Log {
    pub(in crate::paxos::tests) base: Slot,
    pub(in crate::paxos::tests) entries: Vec<(Ballot, Record)>,
}

impl Log {
    pub(in crate::paxos::tests) fn last(&self) -> Slot {
        Slot(self.base.0 + self.entries.len() as u64)
    }

    pub(in crate::paxos::tests) fn get(&self, slot: Slot) -> Option<&(Ballot, Record)> {
        self.entries.get(slot.0.checked_sub(self.base.0 + 1)? as usize)
    }

    pub(in crate::paxos::tests) fn put(&mut self, slot: Slot, entry: (Ballot, Record)) {
        if slot <= self.base {
            return;
        }
        let index = (slot.0 - self.base.0 - 1) as usize;
        assert!(index <= self.entries.len(), "the log has no gap");
        if index == self.entries.len() {
            self.entries.push(entry);
        } else {
            self.entries[index] = entry;
        }
    }

    /// Forgets everything up to `base`.
    pub(in crate::paxos::tests) fn begin_after(&mut self, base: Slot) {
        if base > self.base {
            let gone = ((base.0 - self.base.0) as usize).min(self.entries.len());
            self.entries.drain(..gone);
            self.base = base;
        }
    }
}

/// What waits for the disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::paxos::tests) enum Write {
    Promise(Ballot),
    Entries { first: Slot, entries: Vec<(Ballot, Record)>, chosen: Slot },
    Base { base: Slot, configuration: ConfigurationAt },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::paxos::tests) struct Disk {
    pub(in crate::paxos::tests) promised: Ballot,
    pub(in crate::paxos::tests) log: Log,
    /// In force after the log's base; none on a member that knows nothing yet.
    pub(in crate::paxos::tests) configuration: Option<ConfigurationAt>,
    pub(in crate::paxos::tests) chosen: Slot,
    /// Of the entry at `chosen`; 0 if that was never here.
    pub(in crate::paxos::tests) chosen_origin: Ballot,
    /// Has the state, not only the log.
    pub(in crate::paxos::tests) keeps_state: bool,
    pub(in crate::paxos::tests) snapshot: Option<(Slot, ConfigurationAt)>,
    /// Of the entry at the snapshot's slot, where this member had it.
    pub(in crate::paxos::tests) snapshot_origin: Ballot,
}

impl Disk {
    pub(in crate::paxos::tests) fn write(&mut self, write: Write) {
        match write {
            Write::Promise(ballot) => self.promised = self.promised.max(ballot),
            Write::Entries { first, entries, chosen } => {
                let mut slot = first;
                for entry in entries {
                    self.promised = self.promised.max(entry.0);
                    self.log.put(slot, entry);
                    slot = slot.next();
                }
                let chosen = chosen.min(self.log.last());
                if chosen > self.chosen {
                    self.chosen = chosen;
                    self.chosen_origin = self.origin(chosen);
                }
            }
            Write::Base { base, configuration } => self.begin_after(base, configuration),
        }
    }

    pub(in crate::paxos::tests) fn begin_after(
        &mut self,
        base: Slot,
        configuration: ConfigurationAt,
    ) {
        if base >= self.log.base {
            self.log.begin_after(base);
            self.configuration = Some(configuration);
            if base > self.chosen {
                (self.chosen, self.chosen_origin) = (base, Ballot(0));
            }
        }
    }

    fn origin(&self, slot: Slot) -> Ballot {
        self.log.get(slot).map_or(Ballot(0), |(_, record)| record.origin)
    }

    pub(in crate::paxos::tests) fn recovered(&self) -> Recovered {
        let base = self.log.base;
        let checkpoint = self.snapshot.map_or(Slot(0), |(slot, _)| slot);
        let noted = [(self.chosen, self.chosen_origin), (checkpoint, self.snapshot_origin)];
        let (chosen, chosen_origin) =
            noted.into_iter().max().expect("there are two").max((base, Ballot(0)));
        let mut configurations: Vec<_> = self.configuration.into_iter().collect();
        let mut entries = Vec::new();
        for (index, (ballot, record)) in self.log.entries.iter().enumerate() {
            let slot = Slot(base.0 + 1 + index as u64);
            if let (EntryKind::Configuration, Some(configuration)) =
                (record.kind, record.configuration)
            {
                configurations.push(ConfigurationAt { slot, configuration });
            }
            if slot > chosen {
                let (handle, bytes) = (Handle(record.value), record.bytes);
                let (ballot, origin, kind) = (*ballot, record.origin, record.kind);
                entries.push(Held { ballot, origin, handle, bytes, kind });
            }
        }
        Recovered {
            promised: self.promised,
            chosen,
            chosen_origin,
            applied: if self.keeps_state { chosen } else { Slot(0) },
            checkpoint,
            trimmed: base,
            configurations,
            entries,
        }
    }
}
