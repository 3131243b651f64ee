//! Reads that any storage replica answers, and how far behind the answer may be.
//!
//! ```text
//!   version 1   GetRequest ──────────────────────────► leader ──► GetReply
//!   version 2   Eventual { GetRequest, limit } ─► any storage replica ──► Lagging { GetReply, Lag }
//! ```
//!
//! Get, Query, Scan and BatchGet and their replies have a second version, which wraps the first: a
//! strong read stays as it was, byte by byte, and nodes of both versions understand it. (A Get or Query
//! of version 1 that need not be consistent is answered in the same way, without the lag.)
//!
//! DynamoDB's word for the choice is ConsistentRead. Its eventual reads say nothing of their age; here a
//! reader is told, and may state the most that it accepts.

use rkyv::{Archive, Serialize};

/// Of the messages here, beside version 1 of the ones that they wrap.
pub const EVENTUAL_VERSION: u16 = 2;

/// A read that any storage replica may answer from what it has applied.
#[derive(Debug, Archive, Serialize)]
pub struct Eventual<R> {
    /// The read; what it says of consistency does not count.
    pub read: R,
    /// Refuse ([`super::ErrorCode::TooStale`]) if the state may be older; 0: any age will do.
    pub staleness_max_millis: u32,
}

/// How far a replica's state may be behind the leader's.
///
/// | offset | bytes | field | meaning |
/// |---|---|---|---|
/// | 0 | 8 | `behind_slots` | entries that the leader has told of and that are not in the state |
/// | 8 | 8 | `age_millis` | since the replica last knew that its state was everything chosen; all ones: it never knew |
///
/// The leader itself says 0 and 0. What a follower knows is what its leader's messages and answered
/// heartbeats say, by its own clock: a message that is still on its way is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Clone, Copy, Debug))]
pub struct Lag {
    /// See the table.
    pub behind_slots: u64,
    /// See the table.
    pub age_millis: u64,
}

const _: () = {
    assert!(size_of::<ArchivedLag>() == 16);
    assert!(core::mem::offset_of!(ArchivedLag, age_millis) == 8);
};

impl Lag {
    /// Of a state that is everything chosen.
    pub const NONE: Lag = Lag { behind_slots: 0, age_millis: 0 };
    /// An age that is not known.
    pub const UNKNOWN_AGE: u64 = u64::MAX;

    /// Of an answer that was gathered from states with both lags.
    #[must_use]
    pub fn max(self, other: Lag) -> Lag {
        Lag {
            behind_slots: self.behind_slots.max(other.behind_slots),
            age_millis: self.age_millis.max(other.age_millis),
        }
    }
}

impl From<&ArchivedLag> for Lag {
    fn from(lag: &ArchivedLag) -> Lag {
        Lag { behind_slots: lag.behind_slots.to_native(), age_millis: lag.age_millis.to_native() }
    }
}

/// The answer to an [`Eventual`] read.
#[derive(Debug, Archive, Serialize)]
pub struct Lagging<R> {
    /// The answer.
    pub reply: R,
    /// Of the state that it was read from.
    pub lag: Lag,
}

#[cfg(test)]
mod tests;
