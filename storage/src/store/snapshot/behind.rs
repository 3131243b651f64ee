//! A state that is behind what its member has released: it is applied from the member's own log.
//!
//! ```text
//!      state (snapshot)        released                 last
//!   ──────┤  chosen, in the log only │  in memory         │
//!         └── read again, applied ──►└── applied as it is chosen, once the state has come here
//! ```
//!
//! That is so of a log replica that has become a storage replica, and after a restart before it got
//! to the end. Reads go through [`super::super::members`]' `read_entries`; each entry is admitted like
//! a write, and waits for room like one.
//!
//! If the log has lost what is needed (damage, or it was trimmed), the state cannot go on:
//! [`Store::take_lost_states`] tells, and the member needs another snapshot.

use forebay_core::ids::Slot;
use forebay_core::time::Nanos;

use super::super::members::OWN_TOKEN;
use super::super::{GroupOrdinal, PastEntries, PastEntry, Refused, Store, Work};
use crate::overlay::KeyHash;
use crate::space::Runs;

/// Entries applied in one turn.
const TURN_ENTRIES: usize = 256;
/// When there was no room, or nothing could be read.
const RETRY_NANOS: u64 = 5 * Nanos::PER_MILLI;
/// Reads in a row that find nothing before the log is taken to have lost it.
const FRUITLESS_MAX: u32 = 200;

/// The members whose state is behind, and the entries being applied.
#[derive(Debug, Default)]
pub(in crate::store) struct Behind {
    groups: Vec<GroupOrdinal>,
    reading: bool,
    past: Option<PastEntries>,
    fruitless: u32,
    retry_at: Nanos,
    lost: Vec<(GroupOrdinal, Slot)>,
}

impl Behind {
    pub(in crate::store) fn add(&mut self, group: GroupOrdinal) {
        if !self.groups.contains(&group) {
            self.groups.push(group);
        }
    }

    pub(in crate::store) fn forget(&mut self, group: GroupOrdinal) {
        self.groups.retain(|other| *other != group);
        self.lost.retain(|(other, _)| *other != group);
        if self.past.as_ref().is_some_and(|past| past.group == group) {
            self.past = None;
        }
    }

    fn next(&mut self) {
        self.groups.rotate_left(1);
        self.fruitless = 0;
    }
}

impl Store {
    /// Members whose state cannot go on from their own log, and the slot that a snapshot must have at
    /// least.
    pub fn take_lost_states(&mut self, lost: &mut Vec<(GroupOrdinal, Slot)>) {
        lost.append(&mut self.snapshots.behind.lost);
    }

    /// Whether the state of a member is behind what it has released.
    fn is_behind(&self, group: GroupOrdinal) -> bool {
        let state = self.groups.get(group);
        let member = state.member.as_deref().filter(|_| !state.dropped);
        let member = member.filter(|member| !member.stopped && !member.lost);
        member.is_some_and(|member| member.keeps_state() && member.applied() < member.released())
    }

    /// Lists every member whose state is behind, after recovery.
    pub(in crate::store) fn list_behind(&mut self) {
        let groups: Vec<GroupOrdinal> = self.groups.iter().map(|(group, _)| group).collect();
        for group in groups {
            if self.is_behind(group) {
                self.snapshots.behind.add(group);
            }
        }
    }

    /// A turn's worth.
    pub(in crate::store) fn step_behind(&mut self, now: Nanos, work: &mut Work) {
        let Some(group) = self.snapshots.behind.groups.first().copied() else { return };
        if now < self.snapshots.behind.retry_at {
            return work.wake_by(self.snapshots.behind.retry_at);
        }
        if let Some(past) = self.snapshots.behind.past.take() {
            return self.apply_past(past, now, work);
        }
        if self.snapshots.behind.reading {
            return;
        }
        if !self.is_behind(group) {
            self.snapshots.behind.groups.remove(0);
            work.run_again = true;
            return;
        }
        let member = self.member(group);
        let (first, last) = (member.applied().next(), member.released());
        if first <= member.trimmed || self.snapshots.behind.fruitless > FRUITLESS_MAX {
            self.snapshots.behind.groups.remove(0);
            self.snapshots.behind.fruitless = 0;
            self.snapshots.behind.lost.push((group, last));
            return;
        }
        if self.read_entries(group, first, last, OWN_TOKEN) {
            self.snapshots.behind.reading = true;
        } else {
            self.read_nothing(now, work);
        }
    }

    fn read_nothing(&mut self, now: Nanos, work: &mut Work) {
        let behind = &mut self.snapshots.behind;
        behind.fruitless += 1;
        behind.retry_at = now + RETRY_NANOS;
        work.wake_by(behind.retry_at);
    }

    /// A read of this module ended.
    pub(in crate::store) fn behind_read(&mut self, past: PastEntries) {
        self.snapshots.behind.reading = false;
        if self.snapshots.behind.groups.contains(&past.group) {
            self.snapshots.behind.past = Some(past);
        }
    }

    fn apply_past(&mut self, past: PastEntries, now: Nanos, work: &mut Work) {
        let group = past.group;
        if past.count() == 0 {
            return self.read_nothing(now, work);
        }
        let before = self.member(group).applied();
        let mut waits = false;
        for _ in 0..TURN_ENTRIES {
            let member = self.member(group);
            let slot = member.applied().next();
            // What is in memory comes by itself, once the state is there.
            if slot > member.released() {
                break;
            }
            let Some(entry) = past.get(slot) else { break };
            if let PastEntry::Data(bytes) = entry
                && self.apply_again(group, slot, bytes.key, bytes.item).is_err()
            {
                waits = true;
                break;
            }
            let state = self.groups.get_mut(group);
            state.changed = true;
            state.member.as_deref_mut().expect("it is behind").set_applied(slot);
        }
        let applied = self.member(group).applied();
        if applied > before {
            self.note_applied(group, applied);
            self.snapshots.behind.fruitless = 0;
        }
        if waits {
            self.snapshots.behind.retry_at = now + RETRY_NANOS;
            work.wake_by(self.snapshots.behind.retry_at);
        } else {
            work.run_again = true;
        }
        if past.get(applied.next()).is_some() && self.is_behind(group) {
            self.snapshots.behind.past = Some(past);
        } else {
            self.snapshots.behind.next();
        }
    }

    /// Applies an entry of the log that has left memory.
    fn apply_again(
        &mut self,
        group: GroupOrdinal,
        slot: Slot,
        key: &[u8],
        item: Option<&[u8]>,
    ) -> Result<(), Refused> {
        let runs = Runs::of(key, item);
        self.admit(key.len() + item.map_or(0, <[u8]>::len), runs, item.is_none())?;
        self.set_aside(runs, item.is_none())?;
        let Ok(staged) = self.overlay.stage(group.0, slot, key, item) else {
            self.space.give_back(runs);
            self.checkpoint.hasten();
            return Err(Refused::Overloaded);
        };
        self.overlay.apply(staged, KeyHash::of(group.0, key));
        Ok(())
    }
}
