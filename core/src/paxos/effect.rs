//! What a replica asks its shell to do.

use super::membership::MemberId;
use super::message::{ConfigurationAt, Message};
use crate::ids::{Ballot, Slot};

/// The shell's name for an entry's staged bytes. The machine never looks behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub u64);

impl Handle {
    /// Of entries that the machine makes itself: no-ops and membership changes.
    pub const NONE: Handle = Handle(0);
}

/// Position in the sequence of things to make durable. The log is written in that order, so one
/// number says what is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistId(pub u64);

/// An effect, in the order to carry them out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Append the promise to the log; say [`super::Input::Persisted`] once it is durable.
    PersistPromise {
        /// Which.
        id: PersistId,
        /// The ballot promised.
        ballot: Ballot,
    },
    /// Append the entries of these slots to the log (see [`super::Replica::held`]) under `ballot`;
    /// say [`super::Input::Persisted`] once they are durable.
    PersistEntries {
        /// Which.
        id: PersistId,
        /// Under which they are accepted.
        ballot: Ballot,
        /// The first slot.
        first: Slot,
        /// The last slot.
        last: Slot,
    },
    /// Append a note to the log that this member's part of it begins after `base`; say
    /// [`super::Input::Persisted`] once it is durable.
    PersistBase {
        /// Which.
        id: PersistId,
        /// Chosen, and never held here.
        base: Slot,
        /// In force after it.
        configuration: Box<ConfigurationAt>,
    },
    /// Send a message. With `Accept` and `Fetched` go the entries up to `last`.
    Send {
        /// To which member.
        to: MemberId,
        /// What.
        message: Message,
        /// The last slot of the entries that go with it; below the message's `first` if none do.
        last: Slot,
    },
    /// Every slot up to this one is chosen: apply in order, then say [`super::Input::Applied`]. What
    /// rests on entries up to here may be answered.
    Chosen {
        /// The watermark.
        slot: Slot,
    },
    /// The bytes staged under this handle are not held any more.
    Discard {
        /// Which.
        handle: Handle,
    },
    /// This member leads: every slot that it learned is chosen under `ballot` and applied. It takes
    /// writes, and reads while [`super::Replica::begin_read`] says so.
    Leads {
        /// Its ballot.
        ballot: Ballot,
    },
    /// This member does not lead any more: the outcome of what it proposed and has not answered is
    /// unknown to it.
    StepsDown {
        /// The ballot that it led under.
        ballot: Ballot,
    },
    /// What this storage replica needs next has left the logs: get a snapshot at `at_least` or
    /// later from a storage replica, then say [`super::Input::SnapshotInstalled`].
    NeedsSnapshot {
        /// The leader, who knows the storage replicas.
        from: MemberId,
        /// The earliest slot of use.
        at_least: Slot,
    },
    /// Slots up to this one are in the checkpoints of two storage replicas: they may leave the log.
    /// Say [`super::Input::Trimmed`] when they have.
    MayTrim {
        /// The last slot that is not needed.
        slot: Slot,
    },
    /// A configuration chosen at `slot` does not list this member: keep the files until the group
    /// has three storage replicas, and take no part any more.
    Removed {
        /// Slot of that configuration's entry.
        slot: Slot,
    },
}
