//! Members whose state is damaged: they do not lead, and get another state.
//!
//! ```text
//!   Store: a page is damaged ─► leads? ─ yes ─► hands over to a storage replica whose state is near
//!                                 │ no                    │ nobody: it goes on to serve what it can read
//!                                 ▼                       ▼
//!                     follows a leader ─► its state is stopped ─► wants a snapshot ─► whole
//! ```
//!
//! The store says what a damaged state is and what becomes of it ([`forebay_storage`]'s `store::repair`).
//! It is stopped only while somebody leads and somebody else keeps the state: what can be read of the
//! last one is better than nothing. The state of a member that its group has removed is nobody's: it is
//! stopped where it is in the way of being dropped.
//!
//! A stopped member tells its leader that it keeps no state, so no leader hands over to it, and refuses
//! reads that need not be strong: its clients ask another one.

use forebay_core::ids::Slot;
use forebay_core::paxos::{At, MemberId, MemberRole, RoleName};
use forebay_core::time::Nanos;
use forebay_storage::store::{GroupOrdinal, Store};

use super::Replication;
use super::member::Members;
use super::wanting::Want;

/// A member that cannot be stopped yet is looked at again after this.
const AGAIN_NANOS: u64 = 100 * Nanos::PER_MILLI;
/// Between two attempts to hand over: longer than one lasts, because writes wait for it.
const HAND_OVER_AGAIN_NANOS: u64 = 500 * Nanos::PER_MILLI;

impl Replication {
    /// Nobody needs this member: if its state is damaged, nothing waits for it from here on.
    pub fn stop_unneeded(&mut self, store: &mut Store, ordinal: GroupOrdinal) {
        if store.is_state_damaged(ordinal) && !store.is_stopped(ordinal) {
            store.stop_state(ordinal);
            self.members.set_stopped(ordinal, true);
        }
    }
}

impl Members {
    /// Gets damaged states replaced. When to come back, if there are some that have to wait.
    pub(super) fn repair(&mut self, store: &mut Store, now: Nanos) -> Option<Nanos> {
        store.take_damaged(&mut self.damaged);
        if self.damaged.is_empty() {
            return None;
        }
        let mut damaged = std::mem::take(&mut self.damaged);
        damaged.retain(|ordinal| !self.begin_repair(store, *ordinal, now));
        self.damaged.append(&mut damaged);
        (!self.damaged.is_empty()).then(|| now + AGAIN_NANOS)
    }

    /// Whether nothing more is to be begun.
    fn begin_repair(&mut self, store: &mut Store, ordinal: GroupOrdinal, now: Nanos) -> bool {
        let Some(member) = self.find(ordinal) else { return true };
        let role = member.replica.figures().role;
        if member.serves {
            if now >= member.hand_over_at {
                member.hand_over_at = now + HAND_OVER_AGAIN_NANOS;
                self.hand_over_damaged(store, ordinal, now);
            }
            return false;
        }
        let follows = role == RoleName::Following && member.replica.follows().is_some();
        if !follows || self.sources(ordinal).is_empty() {
            return false;
        }
        store.stop_state(ordinal);
        self.set_stopped(ordinal, true);
        let at_least = store.applied_slot(ordinal).max(Slot(1));
        self.wants(ordinal, Want { from: None, at_least });
        true
    }

    /// Lets somebody lead whose state is whole, as far as is known.
    fn hand_over_damaged(&mut self, store: &mut Store, ordinal: GroupOrdinal, now: Nanos) {
        let Members { liveness, list, effects, .. } = self;
        let Some(member) = list[ordinal.0 as usize].as_deref_mut() else { return };
        let at = At { now, liveness, random: 0 };
        let known = member.replica.configuration().map(|at| at.configuration);
        let members = known.iter().flat_map(|configuration| configuration.members());
        let whole: Vec<MemberId> = members
            .filter(|other| other.id != member.id && other.role == MemberRole::Storage)
            .filter(|other| member.replica.may_promote(other.id))
            .map(|other| other.id)
            .collect();
        for other in whole {
            if member.replica.hand_over(other, at, effects).is_ok() {
                break;
            }
        }
        self.carry_out(store, ordinal);
    }

    /// The member's state is damaged and waits for another one, or is whole.
    pub(super) fn set_stopped(&mut self, ordinal: GroupOrdinal, stopped: bool) {
        let Some(member) = self.find(ordinal) else { return };
        if member.stopped != stopped {
            member.stopped = stopped;
            member.replica.set_damaged(stopped);
            self.touch(ordinal);
        }
    }
}
