//! Records of members on their way into the log, in the order in which they were asked for.

use forebay_core::ids::{Ballot, Lsn, Slot};
use forebay_core::paxos::{Configuration, ConfigurationAt, EntryKind, Handle, PersistId};
use forebay_core::planted::{self, Flaw};

use super::super::{GroupOrdinal, PendingEntry, Store};
use super::{A_MEMBER, AcceptedEntry, check_base, held};
use crate::log::format::{ORIGIN_BYTES, PutPayload, record_bytes};
use crate::log::{AppendError, RecordHeader, RecordKind};

/// A record to be appended, or what is durable after it.
#[derive(Clone, Debug)]
pub(in crate::store) enum Append {
    Promise(Ballot),
    Base(Slot, Box<ConfigurationAt>),
    Chosen(Slot),
    Entry {
        slot: Slot,
        ballot: Ballot,
        origin: Ballot,
        kind: EntryKind,
        handle: Handle,
        configuration: Option<Box<Configuration>>,
    },
    /// Everything before it was asked for under this id, or an earlier one.
    Id(PersistId),
}

impl Store {
    /// Logs a promise: nothing below `ballot` is accepted from now on.
    pub fn persist_promise(&mut self, group: GroupOrdinal, id: PersistId, ballot: Ballot) {
        let state = self.groups.get_mut(group);
        state.changed = true;
        let member = state.member.as_deref_mut().expect(A_MEMBER);
        member.promised = member.promised.max(ballot);
        if !planted::has(Flaw::ForgetPromise) {
            self.append_or_queue(group, Append::Promise(ballot));
        }
        self.append_or_queue(group, Append::Id(id));
    }

    /// Logs that this member's entries begin after `base`, where `at` is in force. What it holds
    /// beyond stays.
    pub fn persist_base(
        &mut self,
        group: GroupOrdinal,
        id: PersistId,
        base: Slot,
        at: ConfigurationAt,
    ) {
        check_base(base, &at);
        let state = self.groups.get_mut(group);
        state.changed = true;
        let member = state.member.as_deref_mut().expect(A_MEMBER);
        assert!(!member.keeps_state() || base <= member.released(), "a state has no gap");
        let before = member.history_bytes();
        for gone in member.begin_after(base, at) {
            if gone.handle != Handle::NONE {
                self.discard(gone.handle);
            }
        }
        self.history_changed(group, before);
        self.append_or_queue(group, Append::Base(base, Box::new(at)));
        self.append_or_queue(group, Append::Id(id));
    }

    /// Logs the entries `first..=last`, accepted under `ballot`; `entry` says what the replica
    /// holds in a slot.
    pub fn persist_entries<'a>(
        &mut self,
        group: GroupOrdinal,
        id: PersistId,
        ballot: Ballot,
        (first, last): (Slot, Slot),
        mut entry: impl FnMut(Slot) -> AcceptedEntry<'a>,
    ) {
        let state = self.groups.get_mut(group);
        state.changed = true;
        let member = state.member.as_deref_mut().expect(A_MEMBER);
        let chosen = member.released();
        if chosen > member.noted {
            member.noted = chosen;
            self.append_or_queue(group, Append::Chosen(chosen));
        }
        let mut slot = first;
        while slot <= last {
            let accepted = entry(slot);
            let AcceptedEntry { kind, handle, configuration, origin } = accepted;
            assert_eq!(kind == EntryKind::Data, handle != Handle::NONE, "data has bytes");
            if kind == EntryKind::Data {
                let staged = self.staged.get(handle).staged;
                self.overlay.set_slot(staged, slot);
            }
            let member = self.groups.get_mut(group).member.as_deref_mut().expect(A_MEMBER);
            assert!(slot <= member.last().next(), "slot {slot} would leave a gap");
            member.put(slot, held(ballot, &accepted, false));
            member.accept_configuration(slot, configuration);
            let configuration = configuration.copied().map(Box::new);
            let append = Append::Entry { slot, ballot, origin, kind, handle, configuration };
            self.append_or_queue(group, append);
            slot = slot.next();
        }
        self.append_or_queue(group, Append::Id(id));
    }

    fn append_or_queue(&mut self, group: GroupOrdinal, append: Append) {
        if self.failure.is_some() {
            return;
        }
        if self.appends.is_empty() && self.append(group, &append) {
            return;
        }
        if let Append::Entry { handle, .. } = append
            && handle != Handle::NONE
        {
            self.staged.get_mut(handle).queued += 1;
        }
        self.appends.push_back((group, append));
    }

    /// Appends what waited for room in the log, as far as there is.
    pub(in crate::store) fn append_queued(&mut self) {
        while let Some((group, append)) = self.appends.pop_front() {
            if !self.append(group, &append) {
                self.appends.push_front((group, append));
                return;
            }
            let Append::Entry { slot, handle, .. } = append else { continue };
            if handle != Handle::NONE {
                let entry = self.staged.get_mut(handle);
                entry.queued -= 1;
                if entry.queued == 0 && std::mem::take(&mut entry.discarded) {
                    self.discard(handle);
                }
            }
            if slot <= self.member(group).chosen {
                self.apply_chosen(group);
            }
        }
    }

    /// Appends a record; false if there is no room for it now.
    fn append(&mut self, group: GroupOrdinal, append: &Append) -> bool {
        let state = self.groups.get(group);
        let id = state.progress.id();
        let header =
            |kind, slot, ballot| RecordHeader { kind, group: id, slot, ballot, origin: ballot };
        let (none, kept) = (Ballot(0), self.config.log.reserve_bytes / 2);
        let appended = match append {
            Append::Id(persist) if planted::has(Flaw::ReportUndurable) => {
                self.note_persisted(group, *persist);
                return true;
            }
            Append::Id(persist) => {
                let entry = PendingEntry::Persisted(*persist);
                self.enqueue(self.appended_lsn, group, Slot(0), entry);
                return true;
            }
            Append::Promise(ballot) => {
                self.log.append_keeping(kept, &header(RecordKind::PROMISE, Slot(0), *ballot), &[])
            }
            Append::Chosen(slot) => {
                self.log.append_keeping(kept, &header(RecordKind::CHOSEN, *slot, none), &[])
            }
            Append::Base(base, at) => {
                let mut bytes = Vec::new();
                at.encode(&mut bytes);
                self.log.append_keeping(kept, &header(RecordKind::BASE, *base, none), &[&bytes])
            }
            Append::Entry { slot, ballot, origin, kind, handle, configuration } => {
                let (slot, ballot, origin) = (*slot, *ballot, *origin);
                let header = |kind| RecordHeader { kind, group: id, slot, ballot, origin };
                match kind {
                    EntryKind::NoOp => {
                        let header = header(RecordKind::NO_OP);
                        self.log.append_keeping(kept, &header, &[])
                    }
                    EntryKind::Configuration => {
                        let configuration = configuration.as_deref().expect("it has one");
                        let mut bytes = Vec::new();
                        configuration.encode(&mut bytes);
                        let header = header(RecordKind::CONFIGURATION);
                        self.log.append_keeping(kept, &header, &[&bytes])
                    }
                    EntryKind::Data => {
                        let entry = self.overlay.staged(self.staged.get(*handle).staged);
                        match entry.item {
                            Some(item) => {
                                let header = header(RecordKind::PUT);
                                let prefix = PutPayload::prefix(entry.key);
                                self.log.append_keeping(kept, &header, &[&prefix, entry.key, item])
                            }
                            None => {
                                let header = header(RecordKind::DELETE);
                                self.log.append_keeping(kept, &header, &[entry.key])
                            }
                        }
                    }
                    EntryKind::Unknown => unreachable!("nobody accepts what nobody knows"),
                }
            }
        };
        match appended {
            Ok(position) => {
                let before = self.member(group).history_bytes();
                self.appended(group, append, position);
                self.history_changed(group, before);
            }
            Err(AppendError::Full { .. }) => {
                self.checkpoint.hasten();
                return false;
            }
            Err(AppendError::Busy { .. }) => return false,
            // Nothing will be durable any more.
            Err(AppendError::Failed(_)) => {}
            Err(AppendError::TooLarge { .. }) => unreachable!("checked when it was staged"),
        }
        true
    }

    fn appended(&mut self, group: GroupOrdinal, append: &Append, position: Lsn) {
        self.appended_lsn = position;
        let Append::Entry { slot, ballot, origin, kind, handle, configuration } = append else {
            return;
        };
        let batch = self.log.batch_lsn();
        let payload_bytes = match kind {
            EntryKind::Data => self.staged.get(*handle).bytes as usize + 2,
            _ => configuration.as_deref().map_or(0, Configuration::encoded_bytes),
        };
        let origin_bytes = if origin == ballot { 0 } else { ORIGIN_BYTES };
        let bytes = record_bytes(payload_bytes + origin_bytes) as u64;
        let member = self.groups.get_mut(group).member.as_deref_mut().expect(A_MEMBER);
        if *slot > member.trimmed {
            member.positions.note(&self.config.log, *slot, *ballot, batch, bytes);
        }
        if let Some(accepted) = member.get_mut(*slot)
            && (accepted.ballot, accepted.handle) == (*ballot, *handle)
        {
            accepted.logged = true;
        }
        if *handle != Handle::NONE {
            self.staged.logged(*handle);
        }
    }
}
