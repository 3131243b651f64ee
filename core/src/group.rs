//! A group's progress through its log, as its leader sees it.
//!
//! ```text
//!   slots   1 2 3 4 5 6 7 8 9
//!                 │   │     └ last_slot     proposed: staged and on its way to the members' logs
//!                 │   └ chosen_slot         durable on a quorum of the members' logs
//!                 └ applied_slot            in the overlay, visible to reads
//! ```
//!
//! Slots are proposed in order and an acceptor accepts slot n only if it holds n−1, so what a
//! member holds is described by one number, and the chosen slots are a prefix: `chosen_slot` is
//! the quorum-th largest of the members' durable slots ("Paxos Made Simple", section 3, with the
//! acceptors' gap rule). In a group of one, durable is chosen.
//!
//! Invariant: `applied_slot <= chosen_slot <= last_slot`.

use crate::ids::{Ballot, GroupId, Slot};

/// Members of a group at most: three replicas, and one more while membership changes.
pub const MEMBERS_MAX: usize = 4;

/// See the module's docs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    id: GroupId,
    ballot: Ballot,
    members: usize,
    durable_slots: [Slot; MEMBERS_MAX],
    last_slot: Slot,
    chosen_slot: Slot,
    applied_slot: Slot,
}

impl Group {
    /// A group of `members` replicas that leads under `ballot` and whose every slot up to
    /// `chosen_slot` is chosen, applied, and durable on all members.
    ///
    /// # Panics
    /// If `members` is not between 1 and [`MEMBERS_MAX`].
    #[must_use]
    pub fn new(id: GroupId, ballot: Ballot, members: usize, chosen_slot: Slot) -> Group {
        assert!((1..=MEMBERS_MAX).contains(&members));
        Group {
            id,
            ballot,
            members,
            durable_slots: [chosen_slot; MEMBERS_MAX],
            last_slot: chosen_slot,
            chosen_slot,
            applied_slot: chosen_slot,
        }
    }

    /// The group's id.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The ballot that it leads under.
    #[must_use]
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// The newest proposed slot.
    #[must_use]
    pub fn last_slot(&self) -> Slot {
        self.last_slot
    }

    /// The newest chosen slot.
    #[must_use]
    pub fn chosen_slot(&self) -> Slot {
        self.chosen_slot
    }

    /// The newest applied slot.
    #[must_use]
    pub fn applied_slot(&self) -> Slot {
        self.applied_slot
    }

    /// Members whose logs must hold a slot before it is chosen.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.members / 2 + 1
    }

    /// Takes the next slot for a proposal.
    pub fn propose(&mut self) -> Slot {
        self.last_slot = self.last_slot.next();
        self.last_slot
    }

    /// `member`'s log holds every slot up to `slot` durably. Returns the new chosen slot if it moved.
    ///
    /// # Panics
    /// If the member claims a slot that was never proposed, or takes one back.
    pub fn durable(&mut self, member: usize, slot: Slot) -> Option<Slot> {
        assert!(slot <= self.last_slot, "slot {slot} is beyond the proposed {}", self.last_slot);
        let held = &mut self.durable_slots[..self.members][member];
        assert!(slot >= *held, "a durable slot never goes back");
        *held = slot;
        let mut sorted = self.durable_slots;
        sorted[..self.members].sort_unstable();
        let chosen = sorted[self.members - self.quorum()];
        (chosen > self.chosen_slot).then(|| {
            self.chosen_slot = chosen;
            chosen
        })
    }

    /// The next slot was applied.
    ///
    /// # Panics
    /// If `slot` is not the one after the applied slot, or not chosen yet.
    pub fn apply(&mut self, slot: Slot) {
        assert_eq!(slot, self.applied_slot.next(), "slots are applied in order");
        assert!(slot <= self.chosen_slot, "only chosen slots are applied");
        self.applied_slot = slot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_group_of_one_durable_is_chosen() {
        let mut group = Group::new(GroupId(1), Ballot(1), 1, Slot(5));
        assert_eq!(group.propose(), Slot(6));
        assert_eq!(group.propose(), Slot(7));
        assert_eq!(group.durable(0, Slot(6)), Some(Slot(6)));
        group.apply(Slot(6));
        assert_eq!(group.durable(0, Slot(6)), None);
        assert_eq!(group.applied_slot(), Slot(6));
    }

    #[test]
    fn of_three_members_two_must_hold_a_slot() {
        let mut group = Group::new(GroupId(1), Ballot(1), 3, Slot(0));
        for _ in 0..4 {
            group.propose();
        }
        assert_eq!(group.durable(0, Slot(4)), None);
        assert_eq!(group.durable(2, Slot(3)), Some(Slot(3)));
        assert_eq!(group.durable(1, Slot(2)), None);
        assert_eq!(group.durable(1, Slot(4)), Some(Slot(4)));
    }

    #[test]
    #[should_panic(expected = "only chosen slots are applied")]
    fn a_slot_that_is_not_chosen_is_never_applied() {
        let mut group = Group::new(GroupId(1), Ballot(1), 3, Slot(0));
        let slot = group.propose();
        group.apply(slot);
    }
}
