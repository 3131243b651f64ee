//! The entries that a member holds and has not applied, in memory: who proposed each, how long it
//! is, and the shell's handle of its bytes.
//!
//! ```text
//!            base                                  last
//!     ────────┤ s+1 │ s+2 │ s+3 │ s+4 │ s+5 │ s+6 │
//!     applied │ ballot 7  │ ballot 9  │ ballot 7  │     one contiguous ring; an older leader's
//!                                                       tail stays behind a newer one's entries
//! ```
//!
//! The tail of an older ballot stays until it is overwritten slot by slot: it may be chosen, and a
//! later candidate must learn of it. Invariant: no gap between `base` and `last`, because an
//! acceptor accepts slot n only if it holds n−1.
//!
//! The ring grows to the window of the flow control and then never allocates again.

use std::collections::VecDeque;

use super::effect::Handle;
use super::message::{EntryKind, Run};
use crate::ids::{Ballot, Slot};

/// An entry as a member holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// Under which it was accepted.
    pub ballot: Ballot,
    /// Under which it was proposed for the first time: with its slot, its identity.
    pub origin: Ballot,
    /// The shell's name for its bytes.
    pub handle: Handle,
    /// How many.
    pub bytes: u32,
    /// What it is.
    pub kind: EntryKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Journal {
    base: Slot,
    entries: VecDeque<Held>,
}

impl Journal {
    pub(crate) fn new(base: Slot) -> Journal {
        Journal { base, entries: VecDeque::new() }
    }

    /// The last slot held.
    pub(crate) fn last(&self) -> Slot {
        Slot(self.base.0 + self.entries.len() as u64)
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Held> {
        let index = slot.0.checked_sub(self.base.0 + 1)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// Puts an entry in its slot; returns the one that it replaces.
    ///
    /// # Panics
    /// If the slot before is not held.
    pub(crate) fn put(&mut self, slot: Slot, entry: Held) -> Option<Held> {
        assert!(slot > self.base, "slot {slot} is applied: nobody overwrites it");
        assert!(slot <= self.last().next(), "slot {slot} would leave a gap after {}", self.last());
        let index = (slot.0 - self.base.0 - 1) as usize;
        if index == self.entries.len() {
            self.entries.push_back(entry);
            return None;
        }
        let old = &mut self.entries[index];
        assert!(old.ballot <= entry.ballot || old.kind == EntryKind::Unknown);
        Some(core::mem::replace(old, entry))
    }

    /// Only for planted bugs: a gap is filled with entries that nobody proposed.
    pub(crate) fn pad_to(&mut self, slot: Slot) {
        while self.last() < slot {
            let kind = EntryKind::NoOp;
            self.entries.push_back(Held {
                ballot: Ballot(0),
                origin: Ballot(0),
                handle: Handle::NONE,
                bytes: 0,
                kind,
            });
        }
    }

    /// Forgets everything up to `slot`; what comes after stays.
    pub(crate) fn release(&mut self, slot: Slot) {
        while self.base < slot {
            self.base = self.base.next();
            if self.entries.pop_front().is_none() {
                self.base = slot;
            }
        }
    }

    /// Takes the last entry away, if it is after `slot`.
    pub(crate) fn pop_after(&mut self, slot: Slot) -> Option<Held> {
        if self.last() > slot { self.entries.pop_back() } else { None }
    }

    /// Bytes of `first..=last`, as far as they are held here.
    pub(crate) fn bytes(&self, first: Slot, last: Slot) -> u64 {
        let from = first.0.saturating_sub(self.base.0 + 1) as usize;
        let to = last.0.saturating_sub(self.base.0) as usize;
        let (from, to) = (from.min(self.entries.len()), to.min(self.entries.len()));
        if from >= to {
            return 0;
        }
        self.entries.range(from..to).map(|held| u64::from(held.bytes)).sum()
    }

    /// The entries after `slot`, as runs of one ballot and one lead.
    pub(crate) fn runs_after(&self, slot: Slot) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut at = slot.next();
        while let Some(held) = self.get(at) {
            let unknown = held.kind == EntryKind::Unknown;
            let begins_lead = held.kind == EntryKind::NoOp;
            let (ballot, origin) = (held.ballot, held.origin);
            let of_run = |run: &Run| (run.ballot, run.origin, run.unknown);
            match runs.last_mut() {
                Some(run) if !begins_lead && of_run(run) == (ballot, origin, unknown) => {
                    run.last = at;
                }
                _ => runs.push(Run { first: at, last: at, ballot, origin, begins_lead, unknown }),
            }
            at = at.next();
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(ballot: u64) -> Held {
        let (origin, kind) = (Ballot(ballot), EntryKind::Data);
        Held { ballot: Ballot(ballot), origin, handle: Handle(ballot), bytes: 10, kind }
    }

    #[test]
    fn an_older_tail_stays_behind_newer_entries() {
        let mut journal = Journal::new(Slot(4));
        for slot in 5..=8 {
            assert_eq!(journal.put(Slot(slot), held(1)), None);
        }
        assert_eq!(journal.put(Slot(5), held(2)), Some(held(1)));
        let runs = journal.runs_after(Slot(4));
        assert_eq!(runs.len(), 2);
        assert_eq!((runs[0].last, runs[0].ballot), (Slot(5), Ballot(2)));
        assert_eq!((runs[1].first, runs[1].last, runs[1].ballot), (Slot(6), Slot(8), Ballot(1)));
        assert_eq!(journal.bytes(Slot(5), Slot(7)), 30);
        journal.release(Slot(6));
        assert_eq!(journal.bytes(Slot(5), Slot(7)), 10);
        assert_eq!(journal.last(), Slot(8));
        journal.release(Slot(12));
        assert_eq!(journal.last(), Slot(12));
    }

    #[test]
    #[should_panic(expected = "would leave a gap")]
    fn a_gap_is_impossible() {
        Journal::new(Slot(4)).put(Slot(6), held(1));
    }
}
