//! Where in the shard's log a member's entries lie, to read them again.
//!
//! ```text
//!   slot    41 ........ 90 | 91 .... 120 | 121 ... 124 | 125 ........
//!   run     ballot 7       | ballot 7    | ballot 9    | lost
//!           from lsn 40 KiB| 300 KiB     | 610 KiB     |
//! ```
//!
//! A *run* says: reading the log from its batch on, the first record of this group with a slot of
//! the run and the run's ballot is that slot's entry. It is sparse on purpose: a run ends when the
//! ballot changes or after `LogConfig::run_bytes` of log (256 KiB but in tiny logs), so a busy group
//! needs 32 bytes for that much log, and reading an entry costs one or two reads of that size. Entries of an older ballot that
//! were overwritten lie in the log too; the ballot tells them apart.
//!
//! Lost runs are slots whose records are damaged: nobody reads them here.
//!
//! A run also knows about how many bytes its records take, in proportion where only a part of them
//! is let go of: what admission goes by ([`super::carry`]).

use std::collections::VecDeque;

use forebay_core::ids::{Ballot, Lsn, Slot};

use crate::log::LogConfig;

/// The ballot of lost runs: no entry has it.
const LOST: Ballot = Ballot(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: Slot,
    ballot: Ballot,
    batch: Lsn,
    /// Of its records, about.
    bytes: u64,
}

impl Run {
    fn lost(first: Slot) -> Run {
        Run { first, ballot: LOST, batch: Lsn(0), bytes: 0 }
    }
}

/// See the module's docs. Invariant: runs are in order of slots and cover them without a gap up to
/// `last`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Positions {
    runs: VecDeque<Run>,
    last: Slot,
    /// Of all runs.
    bytes: u64,
}

impl Positions {
    /// Of a member whose log begins after `base`.
    pub(super) fn after(base: Slot) -> Positions {
        Positions { runs: VecDeque::new(), last: base, bytes: 0 }
    }

    /// Slots after `base` up to `last` are in the log, but where is not known yet.
    pub(super) fn unread(base: Slot, last: Slot) -> Positions {
        let mut positions = Positions::after(base);
        if last > base {
            positions.runs.push_back(Run::lost(base.next()));
            positions.last = last;
        }
        positions
    }

    /// The last slot that has, or had, an entry in the log.
    pub(super) fn last(&self) -> Slot {
        self.last
    }

    /// What all entries take in the log, about.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The entry of `slot` under `ballot` is in the batch at `batch` of a log of this configuration, and
    /// takes `bytes` there.
    pub(super) fn note(
        &mut self,
        config: &LogConfig,
        slot: Slot,
        ballot: Ballot,
        batch: Lsn,
        bytes: u64,
    ) {
        let new = Run { first: slot, ballot, batch, bytes };
        let joins = |run: &Run| {
            run.ballot == ballot && run.batch <= batch && batch.0 - run.batch.0 < config.run_bytes()
        };
        if slot > self.last {
            self.bytes += bytes;
            if slot > self.last.next() {
                self.runs.push_back(Run::lost(self.last.next()));
            } else if let Some(run) = self.runs.back_mut().filter(|run| joins(run)) {
                run.bytes += bytes;
                self.last = slot;
                return;
            }
            self.runs.push_back(new);
            self.last = slot;
            return;
        }
        let Some(at) = self.runs.partition_point(|run| run.first <= slot).checked_sub(1) else {
            return;
        };
        let (first, end) = (self.runs[at].first, self.end_of(at));
        // What this slot took until now.
        let share = self.runs[at].bytes / (end.0 - first.0 + 1);
        self.runs[at].bytes -= share;
        self.bytes = self.bytes - share + bytes;
        if first == slot {
            // The run keeps what comes after; the run before may take this slot.
            let taken = at > 0 && joins(&self.runs[at - 1]);
            if taken {
                self.runs[at - 1].bytes += bytes;
            }
            match (taken, end == slot) {
                (true, true) => {
                    // Less than a slot's share was left over by rounding.
                    self.bytes -= self.runs[at].bytes;
                    self.runs.remove(at);
                }
                (true, false) => self.runs[at].first = slot.next(),
                (false, true) => {
                    self.bytes -= self.runs[at].bytes;
                    self.runs[at] = new;
                }
                (false, false) => {
                    self.runs[at].first = slot.next();
                    self.runs.insert(at, new);
                }
            }
            return;
        }
        self.runs.insert(at + 1, new);
        if end > slot {
            let run = &mut self.runs[at];
            let behind = run.bytes * (end.0 - slot.0) / (end.0 - first.0);
            run.bytes -= behind;
            let rest = Run { first: slot.next(), bytes: behind, ..*run };
            self.runs.insert(at + 2, rest);
        }
    }

    fn end_of(&self, at: usize) -> Slot {
        self.runs.get(at + 1).map_or(self.last, |next| Slot(next.first.0 - 1))
    }

    /// Everything noted so far may have been overwritten by something that cannot be read.
    pub(super) fn lose(&mut self) {
        if let Some(front) = self.runs.front().copied() {
            self.runs.clear();
            self.runs.push_back(Run::lost(front.first));
            self.bytes = 0;
        }
    }

    /// Slots up to this one are not needed any more.
    pub(super) fn release(&mut self, slot: Slot) {
        while self.runs.get(1).is_some_and(|next| next.first <= slot.next()) {
            self.bytes -= self.runs.pop_front().map_or(0, |run| run.bytes);
        }
        if slot >= self.last {
            (self.last, self.bytes) = (slot, 0);
            self.runs.clear();
        } else if let Some(front) = self.runs.front().copied()
            && front.first <= slot
        {
            let slots = self.end_of(0).0 - front.first.0 + 1;
            let gone = front.bytes * (slot.0 - front.first.0 + 1) / slots;
            self.bytes -= gone;
            self.runs[0] = Run { first: slot.next(), bytes: front.bytes - gone, ..front };
        }
    }

    /// From where on to read for `slot`, under which ballot, and up to which slot that holds.
    pub(super) fn find(&self, slot: Slot) -> Option<(Lsn, Ballot, Slot)> {
        let at = self.runs.partition_point(|run| run.first <= slot).checked_sub(1)?;
        let run = self.runs[at];
        (slot <= self.last && run.ballot != LOST).then(|| (run.batch, run.ballot, self.end_of(at)))
    }

    /// The begin of the oldest batch that has an entry.
    pub(super) fn oldest(&self) -> Option<Lsn> {
        let known = self.runs.iter().filter(|run| run.ballot != LOST);
        known.map(|run| run.batch).min()
    }

    /// The last slot that, like all before it, is of a run that begins before `lsn`.
    pub(super) fn last_before(&self, lsn: Lsn) -> Option<Slot> {
        let is_later = |run: &Run| run.ballot != LOST && run.batch >= lsn;
        let end = self.runs.iter().position(is_later).unwrap_or(self.runs.len());
        end.checked_sub(1).map(|at| self.end_of(at))
    }

    /// The last lost slot up to `slot`, if there is one.
    pub(super) fn last_lost(&self, slot: Slot) -> Option<Slot> {
        let lost = |at: &usize| self.runs[*at].ballot == LOST && self.runs[*at].first <= slot;
        let at = (0..self.runs.len()).rev().find(lost)?;
        Some(self.end_of(at).min(slot))
    }
}

#[cfg(test)]
mod tests {
    use forebay_core::ids::ShardId;

    use super::*;

    /// The same, one place for each slot.
    #[derive(Default)]
    struct Model(std::collections::BTreeMap<u64, (u64, u64)>);

    #[test]
    fn every_slot_is_found_at_or_before_its_batch_under_its_ballot() {
        let mut random = crate::sim_disk::SimRandom::new(5);
        let log = LogConfig::standard(ShardId(0), 1);
        for _ in 0..200 {
            let (mut positions, mut model) = (Positions::after(Slot(0)), Model::default());
            let (mut ballot, mut batch, mut slot) = (1, 0, 0);
            for _ in 0..300 {
                batch += 4096 * random.below(4) as u64;
                slot += 1;
                match random.below(30) {
                    0 => {
                        ballot += 1;
                        slot = (positions.last().0 + 1).saturating_sub(random.below(9) as u64);
                        slot = slot.max(*model.0.keys().next().unwrap_or(&1));
                    }
                    1 if slot > 20 => {
                        let upto = slot - 10;
                        positions.release(Slot(upto));
                        model.0.retain(|slot, _| *slot > upto);
                    }
                    _ => {}
                }
                positions.note(&log, Slot(slot), Ballot(ballot), Lsn(batch), 100);
                model.0.insert(slot, (ballot, batch));
                for (slot, (ballot, batch)) in &model.0 {
                    let (from, under, upto) = positions.find(Slot(*slot)).expect("noted");
                    assert_eq!(under.0, *ballot);
                    assert!(from.0 <= *batch && *batch - from.0 < log.run_bytes());
                    assert!(upto.0 >= *slot);
                }
                // All are of one size, so shares are exact.
                assert_eq!(positions.bytes(), 100 * model.0.len() as u64);
                let sum: u64 = positions.runs.iter().map(|run| run.bytes).sum();
                assert_eq!(positions.bytes(), sum);
                let oldest = positions.oldest().expect("not empty");
                assert!(model.0.values().all(|(_, batch)| oldest.0 <= *batch));
            }
        }
    }

    #[test]
    fn slots_are_old_when_nothing_of_them_or_before_them_is_new() {
        let log = LogConfig::standard(ShardId(0), 1);
        let at = |slot: u64| Lsn(slot * log.run_bytes());
        let mut positions = Positions::after(Slot(0));
        for slot in 1..=20 {
            positions.note(&log, Slot(slot), Ballot(1), at(slot), 100);
        }
        assert_eq!(positions.last_before(at(1)), None);
        assert_eq!(positions.last_before(at(5)), Some(Slot(4)));
        assert_eq!(positions.last_before(at(21)), Some(Slot(20)));
        // One of them is written anew: it is not old any more, nor is what comes after it.
        positions.note(&log, Slot(3), Ballot(1), at(21), 100);
        assert_eq!(positions.last_before(at(21)), Some(Slot(2)));
    }

    #[test]
    fn lost_slots_are_found_nowhere_until_they_are_written_again() {
        let log = LogConfig::standard(ShardId(0), 1);
        let mut positions = Positions::unread(Slot(4), Slot(9));
        assert_eq!((positions.find(Slot(5)), positions.oldest()), (None, None));
        positions.note(&log, Slot(5), Ballot(1), Lsn(0), 100);
        positions.note(&log, Slot(6), Ballot(1), Lsn(0), 100);
        assert_eq!(positions.find(Slot(6)), Some((Lsn(0), Ballot(1), Slot(6))));
        assert_eq!(positions.last_lost(Slot(8)), Some(Slot(8)));
        assert_eq!(positions.last_lost(Slot(6)), None);
        positions.lose();
        positions.note(&log, Slot(8), Ballot(2), Lsn(4096), 100);
        assert_eq!(positions.last_lost(Slot(8)), Some(Slot(7)));
        assert_eq!(positions.find(Slot(8)), Some((Lsn(4096), Ballot(2), Slot(8))));
        positions.release(Slot(20));
        assert_eq!((positions.last(), positions.oldest()), (Slot(20), None));
    }
}
