//! What the store keeps in memory of one member: numbers, configurations, and its accepted entries
//! that are not applied.
//!
//! ```text
//!      trimmed          released            last
//!   ──────┤  in the log     │ s+1 │ s+2 │ … │ in the log (or on its way) and in memory
//!                           applied, or on a log replica chosen
//! ```
//!
//! A log replica that has become a storage replica by a snapshot is applied only up to the snapshot's
//! slot at first; what was released before is read from the log again
//! ([`super::super::snapshot::behind`]).

use std::collections::VecDeque;

use forebay_core::ids::{Ballot, Lsn, Slot};
use forebay_core::paxos::{
    Configuration, ConfigurationAt, EntryKind, Handle, MemberId, MemberRole,
};

use super::positions::Positions;

/// An accepted entry in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Accepted {
    pub(super) ballot: Ballot,
    pub(super) origin: Ballot,
    pub(in crate::store) handle: Handle,
    pub(super) kind: EntryKind,
    /// Its record is appended.
    pub(super) logged: bool,
}

impl Accepted {
    pub(super) const UNKNOWN: Accepted = Accepted {
        ballot: Ballot(0),
        origin: Ballot(0),
        handle: Handle::NONE,
        kind: EntryKind::Unknown,
        logged: true,
    };
}

/// What the checkpoint under way stores.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct FrozenMember {
    pub(in crate::store) promised: Ballot,
    pub(in crate::store) chosen: Slot,
    pub(in crate::store) chosen_origin: Ballot,
    pub(in crate::store) trimmed: Slot,
    pub(in crate::store) last: Slot,
    pub(in crate::store) configurations: Vec<ConfigurationAt>,
}

/// See the module's docs.
#[derive(Debug)]
pub(in crate::store) struct MemberState {
    pub(in crate::store) id: MemberId,
    pub(in crate::store) role: MemberRole,
    pub(in crate::store) created_lsn: Lsn,
    /// The highest that was handed to the log, as a promise or with an entry.
    pub(in crate::store) promised: Ballot,
    /// As the caller said; what is applied may be behind while entries wait for room in the log.
    pub(in crate::store) chosen: Slot,
    /// The newest watermark that the log has a note of.
    pub(super) noted: Slot,
    pub(in crate::store) trimmed: Slot,
    /// Applied, or on a log replica chosen: not in memory any more.
    released: Slot,
    /// Of the entry at `released`; 0 if that was never here as the chosen one.
    released_origin: Ballot,
    /// The state contains every slot up to here; of no meaning on a log replica.
    state_slot: Slot,
    accepted: VecDeque<Accepted>,
    /// In force after `trimmed`, and every one accepted since.
    pub(super) configurations: Vec<ConfigurationAt>,
    pub(super) positions: Positions,
    pub(in crate::store) frozen: FrozenMember,
    /// Its promises are lost: it takes no part any more, and waits to be reborn or dropped
    /// ([`super::super::repair`]).
    pub(in crate::store) lost: bool,
    /// Damaged pages of its state that are known of.
    pub(in crate::store) damaged_pages: Vec<u64>,
    /// Its state is damaged, grows no more, and is about to be replaced.
    pub(in crate::store) stopped: bool,
}

impl MemberState {
    pub(super) fn new(
        id: MemberId,
        role: MemberRole,
        created_lsn: Lsn,
        first: Option<ConfigurationAt>,
    ) -> MemberState {
        MemberState {
            id,
            role,
            created_lsn,
            promised: Ballot(0),
            chosen: Slot(0),
            noted: Slot(0),
            trimmed: Slot(0),
            released: Slot(0),
            released_origin: Ballot(0),
            state_slot: Slot(0),
            accepted: VecDeque::new(),
            configurations: first.into_iter().collect(),
            positions: Positions::after(Slot(0)),
            frozen: FrozenMember::default(),
            lost: false,
            damaged_pages: Vec::new(),
            stopped: false,
        }
    }

    /// A member whose log holds `trimmed..=last`, whose knowledge is at `chosen` and whose state is at
    /// `applied`.
    pub(in crate::store) fn restored(
        member: super::super::catalog::CatalogMember,
        promised: Ballot,
        chosen: Slot,
        applied: Slot,
    ) -> MemberState {
        let keeps_state = member.role == MemberRole::Storage;
        let state_slot = if keeps_state { applied } else { Slot(0) };
        let released = chosen.max(state_slot);
        let known = released == chosen;
        let released_origin = if known { member.chosen_origin } else { Ballot(0) };
        MemberState {
            id: member.id,
            role: member.role,
            created_lsn: member.created_lsn,
            promised,
            chosen: released,
            noted: released,
            trimmed: member.trimmed_slot,
            released,
            released_origin,
            state_slot,
            accepted: VecDeque::new(),
            configurations: member.configurations,
            positions: Positions::unread(member.trimmed_slot, member.last_slot),
            frozen: FrozenMember::default(),
            lost: member.lost,
            damaged_pages: Vec::new(),
            stopped: false,
        }
    }

    /// Whether entries are applied here.
    pub(in crate::store) fn keeps_state(&self) -> bool {
        self.role == MemberRole::Storage
    }

    /// The state contains every slot up to here; 0 on a log replica.
    pub(in crate::store) fn applied(&self) -> Slot {
        if self.keeps_state() { self.state_slot } else { Slot(0) }
    }

    /// The state is that after `slot`.
    pub(in crate::store) fn set_applied(&mut self, slot: Slot) {
        assert!(self.keeps_state() && slot >= self.state_slot, "a state grows");
        self.state_slot = slot;
    }

    /// Slots up to this one are not in memory.
    pub(in crate::store) fn released(&self) -> Slot {
        self.released
    }

    /// Of the entry at [`MemberState::released`]; 0 if it was never here.
    pub(in crate::store) fn released_origin(&self) -> Ballot {
        self.released_origin
    }

    /// The last slot in memory.
    pub(super) fn last(&self) -> Slot {
        Slot(self.released.0 + self.accepted.len() as u64)
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Accepted> {
        let index = slot.0.checked_sub(self.released.0 + 1)?;
        self.accepted.get(usize::try_from(index).ok()?)
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Accepted> {
        let index = slot.0.checked_sub(self.released.0 + 1)?;
        self.accepted.get_mut(usize::try_from(index).ok()?)
    }

    /// Puts an entry in its slot; returns the one that was there. What lies between the last one
    /// and this is unknown: only recovery from a damaged log finds such a gap.
    pub(super) fn put(&mut self, slot: Slot, entry: Accepted) -> Option<Accepted> {
        assert!(slot > self.released, "slot {slot} is applied: nobody overwrites it");
        self.promised = self.promised.max(entry.ballot);
        while self.last().next() < slot {
            self.accepted.push_back(Accepted::UNKNOWN);
        }
        let index = (slot.0 - self.released.0 - 1) as usize;
        if index == self.accepted.len() {
            self.accepted.push_back(entry);
            return None;
        }
        let old = &mut self.accepted[index];
        assert!(old.ballot <= entry.ballot, "an entry is overwritten under a higher ballot only");
        Some(std::mem::replace(old, entry))
    }

    /// Takes the next entry that is chosen and in the log out of memory. With it comes whether the
    /// state contains its slot now, because it follows the state.
    pub(super) fn pop_chosen(&mut self) -> Option<(Slot, Accepted, bool)> {
        let front = self.accepted.front()?;
        if self.released >= self.chosen || !front.logged || front.kind == EntryKind::Unknown {
            return None;
        }
        (self.released, self.released_origin) = (self.released.next(), front.origin);
        let follows =
            self.keeps_state() && !self.stopped && self.released == self.state_slot.next();
        if follows {
            self.state_slot = self.released;
        }
        Some((self.released, self.accepted.pop_front().expect("just looked"), follows))
    }

    /// Takes the next entry out of memory if it is at most `slot`; nothing of it is needed here.
    pub(super) fn pop_upto(&mut self, slot: Slot) -> Option<Accepted> {
        while self.released < slot {
            // What is here may be another's that was never chosen.
            (self.released, self.released_origin) = (self.released.next(), Ballot(0));
            match self.accepted.pop_front() {
                Some(entry) => return Some(entry),
                None => self.released = slot,
            }
        }
        None
    }

    /// Nothing in memory can be relied on: returns what was there.
    pub(super) fn lose(&mut self) -> Vec<Accepted> {
        self.accepted.iter_mut().map(|entry| std::mem::replace(entry, Accepted::UNKNOWN)).collect()
    }

    /// Every slot that the log had an entry of and that was not read is unknown.
    pub(super) fn fill_unknown(&mut self) {
        while self.last() < self.positions.last() {
            self.accepted.push_back(Accepted::UNKNOWN);
        }
    }

    pub(super) fn accepted(&self) -> impl Iterator<Item = &Accepted> {
        self.accepted.iter()
    }

    /// `slot` holds this configuration now, or none.
    pub(super) fn accept_configuration(
        &mut self,
        slot: Slot,
        configuration: Option<&Configuration>,
    ) {
        let newest = self.configurations.last().map(|at| at.slot);
        if configuration.is_none() && newest.is_none_or(|newest| newest < slot) {
            return;
        }
        self.configurations.retain(|at| at.slot != slot);
        if let Some(&configuration) = configuration {
            let place = self.configurations.partition_point(|at| at.slot < slot);
            self.configurations.insert(place, ConfigurationAt { slot, configuration });
        }
    }

    /// The configuration that governs the slots after `slot`, which is not trimmed.
    pub(in crate::store) fn configuration_after(&self, slot: Slot) -> Option<ConfigurationAt> {
        self.configurations.iter().rev().find(|at| at.slot <= slot).copied()
    }

    /// The newest that is known.
    pub(in crate::store) fn newest_configuration(&self) -> Option<ConfigurationAt> {
        self.configurations.last().copied()
    }

    /// Those of slots up to this one.
    pub(in crate::store) fn configurations_until(&self, slot: Slot) -> Vec<ConfigurationAt> {
        self.configurations.iter().filter(|at| at.slot <= slot).copied().collect()
    }

    /// The member's entries begin after `base`. Returns what it let go of.
    pub(in crate::store) fn begin_after(
        &mut self,
        base: Slot,
        at: ConfigurationAt,
    ) -> Vec<Accepted> {
        let mut gone = Vec::new();
        while let Some(entry) = self.pop_upto(base) {
            gone.push(entry);
        }
        self.chosen = self.chosen.max(base);
        self.noted = self.noted.max(base);
        self.configurations.retain(|known| known.slot > at.slot);
        self.configurations.insert(0, at);
        self.trim(base);
        gone
    }

    /// Slots up to `slot` leave the log.
    pub(super) fn trim(&mut self, slot: Slot) {
        if slot <= self.trimmed {
            return;
        }
        self.trimmed = slot;
        self.positions.release(slot);
        let in_force = self.configurations.partition_point(|at| at.slot <= slot);
        self.configurations.drain(..in_force.saturating_sub(1));
    }

    /// The log is gone, and with it what this member promised. Its state stays: all of it was chosen.
    pub(in crate::store) fn lose_log(&mut self) {
        self.lost = true;
        if let Some(at) = self.own_state() {
            let slot = self.state_slot;
            if self.released != slot {
                self.released_origin = Ballot(0);
            }
            (self.released, self.chosen, self.noted) = (slot, slot, slot);
            self.configurations.retain(|known| (at.slot..=slot).contains(&known.slot));
        }
        self.trimmed = self.released;
        self.positions = Positions::after(self.released);
    }

    /// What is in force after the last slot of the state, if it has one that a log can go on from.
    fn own_state(&self) -> Option<ConfigurationAt> {
        let keeps = self.keeps_state() && self.state_slot > Slot(0);
        self.configuration_after(self.state_slot).filter(|_| keeps)
    }

    /// Whether another identity may take over what it has: it has never promised or accepted anything,
    /// or nobody will ever let it vote.
    pub(in crate::store) fn may_be_reborn(&self) -> bool {
        self.lost || (self.promised == Ballot(0) && self.accepted.is_empty())
    }

    /// A new member begins with the state that is here, and with nothing else of the old one.
    pub(in crate::store) fn reborn(&mut self, id: MemberId, created_lsn: Lsn) {
        assert!(self.may_be_reborn() && id != self.id, "an identity never comes back");
        let whole = self.own_state().is_some() && self.released == self.state_slot;
        if !whole {
            *self = MemberState::new(id, MemberRole::Log, created_lsn, None);
            return;
        }
        (self.id, self.created_lsn) = (id, created_lsn);
        (self.promised, self.lost) = (Ballot(0), false);
    }

    /// Fixes what the checkpoint that begins now stores.
    pub(in crate::store) fn freeze(&mut self) {
        let chosen = self.released.max(self.state_slot);
        let configurations = self.configurations.iter().filter(|at| at.slot <= chosen);
        self.frozen = FrozenMember {
            promised: self.promised,
            chosen,
            chosen_origin: if chosen == self.released { self.released_origin } else { Ballot(0) },
            trimmed: self.trimmed,
            last: self.positions.last(),
            configurations: configurations.copied().collect(),
        };
    }

    /// What the entries that it may not trim take in the log, about.
    pub(in crate::store) fn history_bytes(&self) -> u64 {
        self.positions.bytes()
    }

    /// The begin of the oldest batch that this member needs.
    pub(in crate::store) fn oldest_needed(&self) -> Option<Lsn> {
        self.positions.oldest()
    }
}
