//! Bugs on purpose, to measure what the tests catch.
//!
//! A machine built for tests can carry one [`Bug`]; the simulation and the model must catch each of
//! them (`cargo test -p forebay-core every_planted_bug -- --nocapture` prints the table). In
//! every other build [`Planted`] is empty and `has` is a constant no.

/// One way to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// Answers a Prepare before the promise is durable.
    AnswerUndurablePromise,
    /// Asks for promises to a ballot that it may forget, and use again.
    PrepareUndurableBallot,
    /// Acknowledges entries before they are durable.
    AcknowledgeUndurable,
    /// Leads on the lease after its end.
    TrustExpiredLease,
    /// Takes a damaged range in a promise for an empty one.
    IgnoreUnknownRange,
    /// A log replica stands for election.
    LogReplicaLeads,
    /// Proposes the accepted value of the lowest ballot.
    LowestBallotValue,
    /// Proposes what is left of an older lead behind entries of a newer one.
    JoinOtherLeads,
    /// Proposes nothing of what its promises reveal.
    ForgetPromisedValues,
    /// Comes back from a restart without its accepted entries.
    ForgetAccepted,
    /// Comes back from a restart without its promise.
    ForgetPromise,
    /// Counts a membership change, and what follows it, by the configuration before.
    WrongConfiguration,
    /// Accepts under a ballot lower than promised.
    AcceptLowerBallot,
    /// Accepts and acknowledges beyond a gap.
    AcknowledgeBeyondGap,
    /// Begins a membership change while another is on its way.
    TwoChangesAtOnce,
    /// Promises while it supports the leader.
    PromiseDespiteSupport,
    /// Promises at once after a restart.
    NoWaitAfterRestart,
    /// After a restart, takes no account of the support it has told of since.
    ForgetSupportToldSinceRestart,
    /// A lapsed support goes on under its old epoch.
    EndedEpochReturns,
    /// Serves before what it learned is chosen under its own ballot and applied.
    ServeBeforeOwnBallot,
    /// Takes the leader's chosen watermark for entries of another ballot.
    ChosenOverStaleEntries,
    /// Goes on serving after it relinquished.
    ServeAfterRelinquish,
    /// Takes a ballot for relinquished when the owner of a higher one gives that up.
    RelinquishedCoversLower,
    /// Counts acknowledgements of another ballot.
    CountStaleAcknowledgement,
    /// Becomes leader with one promise less than a quorum.
    PromiseQuorumTooSmall,
    /// Calls a slot chosen that all but one of a quorum hold.
    AcceptQuorumTooSmall,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 26] = [
        Bug::AnswerUndurablePromise,
        Bug::PrepareUndurableBallot,
        Bug::AcknowledgeUndurable,
        Bug::TrustExpiredLease,
        Bug::IgnoreUnknownRange,
        Bug::LogReplicaLeads,
        Bug::LowestBallotValue,
        Bug::ForgetPromisedValues,
        Bug::JoinOtherLeads,
        Bug::ForgetAccepted,
        Bug::ForgetPromise,
        Bug::WrongConfiguration,
        Bug::AcceptLowerBallot,
        Bug::AcknowledgeBeyondGap,
        Bug::TwoChangesAtOnce,
        Bug::PromiseDespiteSupport,
        Bug::NoWaitAfterRestart,
        Bug::ForgetSupportToldSinceRestart,
        Bug::EndedEpochReturns,
        Bug::ServeBeforeOwnBallot,
        Bug::ChosenOverStaleEntries,
        Bug::ServeAfterRelinquish,
        Bug::RelinquishedCoversLower,
        Bug::CountStaleAcknowledgement,
        Bug::PromiseQuorumTooSmall,
        Bug::AcceptQuorumTooSmall,
    ];

    /// What it breaks: a Rule of the design, or of Paxos itself.
    #[cfg(any(test, feature = "planted-bugs"))]
    #[must_use]
    pub fn breaks(self) -> &'static str {
        match self {
            Bug::AnswerUndurablePromise | Bug::ForgetPromise => "a promise is durable first",
            Bug::PrepareUndurableBallot => "no ballot is used twice",
            Bug::AcknowledgeUndurable | Bug::ForgetAccepted => "an acceptance is durable first",
            Bug::AcceptLowerBallot => "nothing is accepted below the promise",
            Bug::AcknowledgeBeyondGap => "slot n only with n - 1: no gap",
            Bug::IgnoreUnknownRange => "damaged is unknown, never empty",
            Bug::LogReplicaLeads => "a log replica never leads",
            Bug::LowestBallotValue | Bug::ForgetPromisedValues => {
                "a leader proposes the value of the highest ballot"
            }
            Bug::JoinOtherLeads => "an entry follows those that its leader saw",
            Bug::ServeBeforeOwnBallot => "a new leader serves what its own ballot has chosen",
            Bug::WrongConfiguration | Bug::TwoChangesAtOnce => {
                "one change at a time, by both majorities"
            }
            Bug::TrustExpiredLease | Bug::ServeAfterRelinquish => "a read only under the lease",
            Bug::PromiseDespiteSupport
            | Bug::NoWaitAfterRestart
            | Bug::ForgetSupportToldSinceRestart
            | Bug::RelinquishedCoversLower => "no promise while the leader is supported",
            Bug::EndedEpochReturns => "an ended epoch never returns",
            Bug::ChosenOverStaleEntries | Bug::CountStaleAcknowledgement => {
                "acknowledgements and watermarks count for their ballot only"
            }
            Bug::PromiseQuorumTooSmall | Bug::AcceptQuorumTooSmall => "quorums intersect",
        }
    }
}

/// The bug that a machine carries, if any.
#[cfg(any(test, feature = "planted-bugs"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Planted(pub(crate) Option<Bug>);

/// The bug that a machine carries: none.
#[cfg(not(any(test, feature = "planted-bugs")))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Planted;

#[cfg(any(test, feature = "planted-bugs"))]
impl Planted {
    /// What [`crate::planted`] says for machines that are made on this thread.
    pub(crate) fn of_thread() -> Planted {
        Planted(crate::planted::in_protocol())
    }

    pub(crate) fn has(self, bug: Bug) -> bool {
        self.0 == Some(bug)
    }
}

#[cfg(not(any(test, feature = "planted-bugs")))]
impl Planted {
    pub(crate) const fn of_thread() -> Planted {
        Planted
    }

    #[inline(always)]
    pub(crate) const fn has(self, _: Bug) -> bool {
        false
    }
}
