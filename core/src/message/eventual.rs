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
mod tests {
    use rkyv::api::high::to_bytes;
    use rkyv::rancor::Error;

    use super::*;
    use crate::message::{GetReply, GetRequest};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn golden_bytes_of_an_eventual_get_and_its_answer() {
        let key = [0xaa; 8];
        let read =
            GetRequest { table: 1, epoch: 2, key: &key, projection: None, consistent: false };
        let bytes = to_bytes::<Error>(&Eventual { read, staleness_max_millis: 250 }).unwrap();
        let found = hex(&bytes);
        assert!(found.starts_with("aaaaaaaaaaaaaaaa01000000000000000200000000000000"), "{found}");
        assert!(found.contains("fa000000"), "{found}");
        let archived = rkyv::access::<ArchivedEventual<GetRequest<'_>>, Error>(&bytes).unwrap();
        assert_eq!(archived.staleness_max_millis, 250);
        assert_eq!((&archived.read.key[..], archived.read.table.to_native()), (&key[..], 1));

        let lag = Lag { behind_slots: 3, age_millis: 40 };
        let reply = Lagging { reply: GetReply { item: None }, lag };
        let bytes = to_bytes::<Error>(&reply).unwrap();
        let found = hex(&bytes);
        assert!(found.ends_with("03000000000000002800000000000000"), "{found}");
        let archived = rkyv::access::<ArchivedLagging<GetReply<'_>>, Error>(&bytes).unwrap();
        assert!(archived.reply.item.is_none());
        assert_eq!(Lag::from(&archived.lag), lag);
    }

    #[test]
    fn an_answer_of_several_looks_is_as_late_as_the_latest() {
        let lag = |behind_slots, age_millis| Lag { behind_slots, age_millis };
        assert_eq!(lag(1, 50).max(lag(7, 20)), lag(7, 50));
        assert_eq!(Lag::NONE.max(lag(0, Lag::UNKNOWN_AGE)).age_millis, Lag::UNKNOWN_AGE);
    }
}
