//! How old a follower's state may be, for reads that need not be strong.
//!
//! ```text
//!   heartbeat to the leader's shard ── sent at 100 ──► answered
//!                                                        │ whatever the leader had chosen at 100 …
//!   told upto slot 57 (Accept, Chosen) ──────────────────┤ … is at most slot 57
//!   applied slot 57 ──► the state was complete at 100, by this shard's own clock
//! ```
//!
//! A follower knows that its state was complete at a time when three things come together: the lead
//! that told it of slots goes on (its shard, in the same start, has answered a heartbeat that was sent at
//! that time: a leader that lives and is supported gives its lead up only by saying so), and both shards
//! have heard each other ever since; everything up to
//! the last slot that it was told of is applied; and nothing was told after that. Under load the last
//! slot told is rarely applied already, so one slot is marked, with the time that goes with it, and the
//! next one when that is applied: the age is then that of a heartbeat and of one round of entries.
//!
//! A leader that does not hear a member may remove it, and then tells it nothing any more: so after each
//! silence, of either side, the leader tells every member again (core's `paxos::replication`), and what
//! it told before counts for nothing. A member that waits for that in vain may have been removed.
//!
//! *What it does not see*: entries that wait behind others on their way from the leader, or that were
//! lost with a connection and are sent again. That adds what a link may hold back, and at most the
//! leader's pause before it repeats itself.
//!
//! *Invariants*: times only grow; another lead, or another start of the leader's shard, begins anew.

use forebay_core::ids::Slot;
use forebay_core::liveness::{Epoch, Peer};
use forebay_core::message::Lag;
use forebay_core::paxos::MemberId;
use forebay_core::time::Nanos;

/// Who told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lead {
    pub(super) member: MemberId,
    pub(super) peer: Peer,
    /// Under which the leader's shard has heard this one, in one start.
    pub(super) heard: Epoch,
    /// Under which this shard has heard the leader's.
    pub(super) hears: Epoch,
}

/// See the module's docs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fresh {
    lead: Option<Lead>,
    told: Slot,
    mark: Option<(Slot, Nanos)>,
    complete_at: Option<Nanos>,
}

impl Fresh {
    /// Of a lead that has told this member something; the shard whose heartbeats count.
    pub(super) fn lead(&self) -> Option<Lead> {
        self.lead
    }

    /// The leader has told of everything up to `slot`. None: whether it hears this shard is not known.
    pub(super) fn told(&mut self, lead: Option<Lead>, slot: Slot) {
        if self.lead != lead {
            self.lead = lead;
            self.told = Slot(0);
            self.mark = None;
        }
        self.told = self.told.max(slot);
    }

    /// Whether something becomes known when `applied` is.
    pub(super) fn waits_for(&self, applied: Slot) -> bool {
        self.mark.is_some_and(|(slot, _)| slot <= applied)
    }

    /// The lead goes on: its shard has answered what was sent at `answered`. None: it does not, or that
    /// is not known.
    pub(super) fn settle(&mut self, answered: Option<Nanos>, applied: Slot) {
        if let Some((_, at)) = self.mark.take_if(|(slot, _)| *slot <= applied) {
            self.complete_at = self.complete_at.max(Some(at));
        }
        match answered {
            None => {}
            Some(at) if applied >= self.told => self.complete_at = self.complete_at.max(Some(at)),
            Some(at) => {
                self.mark.get_or_insert((self.told, at));
            }
        }
    }

    /// How far behind a state with everything up to `applied` may be.
    pub(super) fn lag(&self, applied: Slot, now: Nanos) -> Lag {
        let age = self.complete_at.map(|at| now.since(at).div_ceil(Nanos::PER_MILLI));
        Lag {
            behind_slots: self.told.0.saturating_sub(applied.0),
            age_millis: age.unwrap_or(Lag::UNKNOWN_AGE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARD: Epoch = Epoch { incarnation: 4, count: 1 };
    const LEAD: Lead = Lead { member: MemberId(1), peer: Peer(0), heard: HEARD, hears: HEARD };

    fn millis(millis: u64) -> Nanos {
        Nanos(millis * Nanos::PER_MILLI)
    }

    #[test]
    fn nothing_is_known_before_the_leader_has_told_and_answered() {
        let mut fresh = Fresh::default();
        assert_eq!(fresh.lag(Slot(9), millis(50)).age_millis, Lag::UNKNOWN_AGE);
        fresh.told(Some(LEAD), Slot(9));
        fresh.settle(None, Slot(9));
        assert_eq!(fresh.lag(Slot(9), millis(50)).age_millis, Lag::UNKNOWN_AGE);
        fresh.settle(Some(millis(10)), Slot(9));
        assert_eq!(fresh.lag(Slot(9), millis(50)), Lag { behind_slots: 0, age_millis: 40 });
    }

    #[test]
    fn under_load_the_age_is_that_of_the_slot_that_was_marked_last() {
        let mut fresh = Fresh::default();
        fresh.told(Some(LEAD), Slot(9));
        fresh.settle(Some(millis(10)), Slot(7));
        fresh.told(Some(LEAD), Slot(12));
        fresh.settle(Some(millis(20)), Slot(8));
        assert_eq!(fresh.lag(Slot(8), millis(30)).behind_slots, 4);
        assert_eq!(fresh.lag(Slot(8), millis(30)).age_millis, Lag::UNKNOWN_AGE);
        assert!(!fresh.waits_for(Slot(8)) && fresh.waits_for(Slot(9)));
        // Slot 9 was the last told when 10 was answered; the next mark is made at once.
        fresh.settle(Some(millis(25)), Slot(9));
        assert_eq!(fresh.lag(Slot(9), millis(30)), Lag { behind_slots: 3, age_millis: 20 });
        fresh.settle(None, Slot(12));
        assert_eq!(fresh.lag(Slot(12), millis(30)), Lag { behind_slots: 0, age_millis: 5 });
    }

    #[test]
    fn another_lead_begins_anew_and_what_was_known_stays_known() {
        let mut fresh = Fresh::default();
        fresh.told(Some(LEAD), Slot(100));
        fresh.settle(Some(millis(10)), Slot(90));
        // The old lead's tail was never chosen.
        fresh.told(Some(Lead { member: MemberId(2), ..LEAD }), Slot(95));
        fresh.settle(Some(millis(20)), Slot(95));
        assert_eq!(fresh.lag(Slot(95), millis(30)), Lag { behind_slots: 0, age_millis: 10 });
        let heard = Epoch { incarnation: 5, count: 1 };
        fresh.told(Some(Lead { heard, ..LEAD }), Slot(97));
        assert_eq!(fresh.lag(Slot(95), millis(30)), Lag { behind_slots: 2, age_millis: 10 });
    }
}
