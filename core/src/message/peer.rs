//! What two shards say to each other: who they are, that they live, and their groups' Paxos.
//!
//! ```text
//!   dialer ── Hello ─────────────────────►  acceptor
//!          ◄─ Welcome, or HelloRefused ──              then, in both directions:
//!          ── Heartbeat Ack Ask Answer ──►             core::liveness, one message each
//!          ── GroupBatch ────────────────►             a turn's messages of all groups
//!          ── TableStep ─────────────────►             members are to be made or dropped; they were
//!          ── MemberStep ────────────────►             members of groups are watched and replaced
//!          ── Snapshot… ─────────────────►             a whole state, part by part
//!          ── KeepAlive ─────────────────►             when there was nothing else to say
//! ```
//!
//! They travel in the frames of `forebay-net`, like the clients' messages, under [`PeerKind`]s of
//! their own: a client cannot utter them by accident, nor a peer a request. Correlation ids are 0,
//! because nothing answers anything here: every message may be lost.
//!
//! Trust ends at [`decode`]: it validates the archive (bytecheck), then what it says, and names
//! what is wrong. What passes cannot make the machines of [`crate::liveness`] and [`crate::paxos`]
//! panic or count past the end of a number, nor hold more memory than its frame did.
//!
//! | kind | limits, besides the frame's |
//! |---|---|
//! | Hello, Welcome, HelloRefused | fixed size, [`HANDSHAKE_FRAME_BYTES_MAX`] |
//! | Heartbeat, Answer | [`CLAIMS_MAX`] claims |
//! | GroupBatch | [`BATCH_MESSAGES_MAX`] messages; each entry [`ENTRY_BYTES_MAX`]; slots below 2^62, rounds below 2^43 |
//! | TableStep, MemberStep | a body of [`DESCRIPTION_BYTES_MAX`] |
//! | SnapshotPart | [`snapshot::PART_BYTES_MAX`] of entries |
//! | Promise in it | [`RUNS_MAX`] runs, [`CONFIGURATIONS_MAX`] configurations |

mod batch;
mod decode;
mod error;
mod group;
mod hello;
mod member;
mod pair;
pub mod snapshot;
mod table;
#[cfg(test)]
mod tests;

pub use batch::{
    BATCH_BYTES, BATCH_MESSAGES_MAX, BatchBuilder, BatchReader, ENTRY_BYTES_MAX, Entries, Entry,
    GroupMessage, Pushed, Route,
};
pub use decode::{PeerFrame, decode};
pub use error::PeerError;
pub use group::{CONFIGURATIONS_MAX, ROUND_MAX, RUNS_MAX, SLOT_MAX};
pub use hello::{
    ArchivedHello, ArchivedHelloRefused, ArchivedWelcome, Authentication, Expected, Hello,
    HelloRefusal, HelloRefused, Identity, Welcome,
};
pub use member::{ArchivedMemberFrame, GroupReport, Marks, MemberFrame, MemberStep};
pub use pair::{
    Ack, Answer, ArchivedAck, ArchivedAnswer, ArchivedAsk, ArchivedHeartbeat, ArchivedKeepAlive,
    Ask, CLAIMS_MAX, Heartbeat, KeepAlive,
};

pub use snapshot::{
    NoteKind, SnapshotAsk, SnapshotHead, SnapshotMessage, SnapshotNote, SnapshotPart,
};
pub use table::{ArchivedTableStep, DESCRIPTION_BYTES_MAX, StepKind, TableStep};

/// Oldest version of this protocol that this program speaks.
pub const PEER_PROTOCOL_OLDEST: u16 = 1;
/// Newest version of this protocol that this program speaks.
pub const PEER_PROTOCOL_NEWEST: u16 = 1;

/// A frame of the handshake is no longer than this; nobody need hold more for a stranger.
pub const HANDSHAKE_FRAME_BYTES_MAX: usize = 512;

/// What a peer's frame carries. The numbers are the wire's; they are never reused, and differ from
/// those of [`super::Kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum PeerKind {
    /// [`Hello`]
    Hello = 0x4001,
    /// [`Welcome`]
    Welcome = 0x4002,
    /// [`HelloRefused`]
    HelloRefused = 0x4003,
    /// [`KeepAlive`]
    KeepAlive = 0x4004,
    /// [`Heartbeat`]
    Heartbeat = 0x4011,
    /// [`Ack`]
    Ack = 0x4012,
    /// [`Ask`]
    Ask = 0x4013,
    /// [`Answer`]
    Answer = 0x4014,
    /// Made by [`BatchBuilder`], read by [`BatchReader`].
    GroupBatch = 0x4021,
    /// [`TableStep`]
    TableStep = 0x4031,
    /// [`MemberStep`]
    MemberStep = 0x4032,
    /// [`SnapshotAsk`]
    SnapshotAsk = 0x4041,
    /// [`SnapshotPart`]
    SnapshotPart = 0x4042,
    /// [`SnapshotNote`]
    SnapshotNote = 0x4043,
}

impl PeerKind {
    /// Every kind.
    pub const ALL: [PeerKind; 14] = [
        PeerKind::Hello,
        PeerKind::Welcome,
        PeerKind::HelloRefused,
        PeerKind::KeepAlive,
        PeerKind::Heartbeat,
        PeerKind::Ack,
        PeerKind::Ask,
        PeerKind::Answer,
        PeerKind::GroupBatch,
        PeerKind::TableStep,
        PeerKind::MemberStep,
        PeerKind::SnapshotAsk,
        PeerKind::SnapshotPart,
        PeerKind::SnapshotNote,
    ];

    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_wire(number: u16) -> Option<PeerKind> {
        PeerKind::ALL.into_iter().find(|kind| *kind as u16 == number)
    }

    /// The version of the kind's layout that this program writes, which is also the newest it
    /// reads.
    #[must_use]
    pub fn version(self) -> u16 {
        1
    }
}

/// A message between shards, with its kind.
pub trait PeerMessage {
    /// What the frame header says; [`PeerKind::version`] has the layout's version.
    const KIND: PeerKind;
}

macro_rules! peer_messages {
    ($($name:ident $(<$life:lifetime>)?,)*) => {
        $(impl $(<$life>)? PeerMessage for $name $(<$life>)? {
            const KIND: PeerKind = PeerKind::$name;
        })*
    };
}

peer_messages! { Hello, Welcome, HelloRefused, KeepAlive, Heartbeat<'a>, Ack, Ask, Answer<'a>,
TableStep<'a>, SnapshotAsk<'a>, SnapshotPart<'a>, SnapshotNote, }

impl PeerMessage for MemberFrame<'_> {
    const KIND: PeerKind = PeerKind::MemberStep;
}
