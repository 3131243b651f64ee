//! Bugs on purpose, to measure what simulations of whole nodes catch.
//!
//! [`crate::paxos`] has bugs of its own, of the protocol; these are the ones that storage, shard and
//! links around it could have. They exist in builds with the feature `planted-bugs` only, which no
//! release has: there [`has`] is a constant no. One is planted for a thread, because a simulation is
//! one thread, and its nodes are made again and again.
//! `cargo test -p forebay-tools --test planted -- --nocapture` prints which simulated seed catches
//! which.

#[cfg(any(test, feature = "planted-bugs"))]
use std::cell::Cell;

/// One way to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// A write is answered when it is proposed.
    ReplyUnchosen,
    /// It does not look again between a read and its reply.
    SkipSecondLook,
    /// A write whose leader stepped down is answered as refused, without effect.
    LostIsRefused,
    /// Replies go on waiting for their slots when the lead is over.
    KeepWaitingAfterLead,
    /// What was derived from entries in flight is answered at once.
    AnswerFromInFlight,
    /// Conditions are evaluated on what is chosen, whatever is in flight.
    IgnoreInFlight,
    /// Reads miss what a checkpoint is merging.
    MissFrozen,
    /// Promises are not logged.
    ForgetPromise,
    /// Records of members are reported as durable when they are appended.
    ReportUndurable,
    /// Pages are not flushed before the superblock is written.
    SkipPageFlush,
    /// A superblock does not wait for the log to have what its trees contain.
    SuperblockBeforeLog,
    /// Freed pages are reused at once.
    ReusePagesAtOnce,
    /// Entries leave the log when this member's own checkpoint has them.
    TrimByOwnCheckpoint,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Flaw; 13] = [
        Flaw::ReplyUnchosen,
        Flaw::SkipSecondLook,
        Flaw::LostIsRefused,
        Flaw::KeepWaitingAfterLead,
        Flaw::AnswerFromInFlight,
        Flaw::IgnoreInFlight,
        Flaw::MissFrozen,
        Flaw::ForgetPromise,
        Flaw::ReportUndurable,
        Flaw::SkipPageFlush,
        Flaw::SuperblockBeforeLog,
        Flaw::ReusePagesAtOnce,
        Flaw::TrimByOwnCheckpoint,
    ];
}

#[cfg(any(test, feature = "planted-bugs"))]
thread_local! {
    static FLAW: Cell<Option<Flaw>> = const { Cell::new(None) };
    static BUG: Cell<Option<crate::paxos::Bug>> = const { Cell::new(None) };
}

/// Whether what runs on this thread has this bug.
#[cfg(any(test, feature = "planted-bugs"))]
#[must_use]
pub fn has(flaw: Flaw) -> bool {
    FLAW.get() == Some(flaw)
}

/// Whether what runs on this thread has this bug: no.
#[cfg(not(any(test, feature = "planted-bugs")))]
#[inline(always)]
#[must_use]
pub const fn has(_: Flaw) -> bool {
    false
}

/// From now on, what runs on this thread has this bug, or none.
#[cfg(any(test, feature = "planted-bugs"))]
pub fn plant(flaw: Option<Flaw>) {
    FLAW.set(flaw);
}

/// Replicas and leases that are made on this thread from now on have this bug, or none.
#[cfg(any(test, feature = "planted-bugs"))]
pub fn plant_in_protocol(bug: Option<crate::paxos::Bug>) {
    BUG.set(bug);
}

#[cfg(any(test, feature = "planted-bugs"))]
pub(crate) fn in_protocol() -> Option<crate::paxos::Bug> {
    BUG.get()
}
