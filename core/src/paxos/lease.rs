//! When a member may promise, and when a leader may serve.
//!
//! ```text
//!   old leader P ── lease: support of a quorum, each under the epoch that P was told of ──►│
//!   member S     ── supports P under epoch 7 ─────────────────────────────────────► ended │
//!                       refuses Q's Prepare: "supporting"              promises Q ──┘
//!   candidate Q                                                        quorum of promises ─► leads
//! ```
//!
//! Q's quorum and the quorum of P's lease share a member, whose support for P ended before it
//! promised Q, and by P's own clock even before that (Gray and Cheriton, SOSP'89). So when Q leads,
//! P's lease is over, and nobody measures anything but lengths.
//!
//! A member tells its epoch with Promise and Accepted, and remembers the newest that it told. P's
//! lease counts a support only under the epoch told for P's ballot: after a lapse the epochs differ,
//! and P asks each member once per group before it serves again.

use super::membership::MemberId;
use super::planted::Bug;
use super::replica::{At, Replica, Role};
use crate::ids::{Ballot, Slot};
use crate::liveness::{Epoch, Peer};
use crate::time::Nanos;

/// Leave to read, given before the read and checked again before the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadGrant {
    /// The leader's ballot when the read began.
    pub ballot: Ballot,
    /// The state that is read contains every slot up to here.
    pub applied: Slot,
}

/// Why a strong read is not served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotServed {
    /// Ask the leader, if one is known.
    NotLeading {
        /// Who that may be.
        leader: Option<MemberId>,
    },
    /// Wait: the leader has not yet chosen and applied what it learned.
    NotYet,
    /// Wait, or ask the others: the lease is over, and perhaps another leads.
    NoLease,
}

impl Replica {
    /// Whether this member may promise a ballot to a candidate on shard `candidate`.
    pub(super) fn may_promise(&self, candidate: Peer, at: At<'_>) -> bool {
        if self.restarted {
            // Whom it told of its support before it restarted is forgotten, but over by then. The
            // promise in its log does not say whom: to follow a leader that has nothing to accept
            // is to tell it, and nothing is logged. What it has told since counts as always.
            let over = at.now >= at.liveness.promises_from();
            if !over && !self.planted.has(Bug::NoWaitAfterRestart) {
                return false;
            }
            if self.planted.has(Bug::ForgetSupportToldSinceRestart) {
                return true;
            }
        }
        let promised = self.acceptor.promised();
        let owner = self.owner;
        if promised == Ballot(0) || self.is_relinquished(promised) || owner.peer == Some(candidate)
        {
            return true;
        }
        if self.planted.has(Bug::PromiseDespiteSupport) {
            return true;
        }
        let (Some(peer), Some(told)) = (owner.peer, owner.epoch) else { return true };
        at.liveness.supports(peer, at.now) != Some(told)
    }

    /// The support to tell the leader (or candidate) on `peer` of; remembered as told.
    pub(super) fn bind(&mut self, peer: Peer, at: At<'_>) -> Option<Epoch> {
        debug_assert_eq!(self.owner.peer, Some(peer));
        let epoch = at.liveness.supports(peer, at.now)?;
        self.owner.epoch = Some(epoch);
        Some(epoch)
    }

    /// Until when the lease holds, if nothing more arrives; 0 if it does not.
    #[must_use]
    pub fn lease_until(&self, at: At<'_>) -> Nanos {
        let Role::Leading(leadership) = &self.role else { return Nanos(0) };
        if self.acceptor.promised() != leadership.ballot {
            return Nanos(0);
        }
        let until = |id: MemberId, peer: Peer| {
            if id == self.id {
                return Nanos(u64::MAX);
            }
            let bound = leadership.progress(id).and_then(|progress| progress.bound);
            match at.liveness.granted(peer) {
                Some((epoch, until)) if bound == Some(epoch) => until,
                _ => Nanos(0),
            }
        };
        let relevant = self.configurations.relevant().iter();
        let quorums = relevant
            .map(|known| known.configuration.quorum_value(|member| until(member.id, member.peer)));
        quorums.min().unwrap_or_default()
    }

    /// Whether this member leads and its lease holds at this moment.
    #[must_use]
    pub fn holds_lease(&self, at: At<'_>) -> bool {
        let until = self.lease_until(at);
        at.now < until || (until > Nanos(0) && self.planted.has(Bug::TrustExpiredLease))
    }

    /// Leave to serve a strong read from the applied state.
    ///
    /// # Errors
    /// If this member may not; see [`NotServed`].
    pub fn begin_read(&self, at: At<'_>) -> Result<ReadGrant, NotServed> {
        let Role::Leading(leadership) = &self.role else {
            return Err(NotServed::NotLeading { leader: self.leader() });
        };
        if !leadership.serving && !self.planted.has(Bug::ServeBeforeOwnBallot) {
            return Err(NotServed::NotYet);
        }
        if !self.holds_lease(at) {
            return Err(NotServed::NoLease);
        }
        Ok(ReadGrant { ballot: leadership.ballot, applied: self.applied })
    }

    /// To be asked after the read, right before the reply: the process may have been stopped since.
    #[must_use]
    pub fn check_read(&self, grant: ReadGrant, at: At<'_>) -> bool {
        self.begin_read(at).is_ok_and(|now| now.ballot == grant.ballot)
    }
}
