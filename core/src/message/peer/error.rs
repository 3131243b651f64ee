//! What is wrong with a peer's message.

use thiserror::Error;

/// A peer's message breaks a rule. Close the connection and count it: the peer is broken, or of
/// another version. Nothing of the frame was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PeerError {
    /// No such kind of message between shards.
    #[error("no message between shards has kind {kind:#06x}")]
    Kind {
        /// As in the frame header.
        kind: u16,
    },
    /// The layout is of a version that this program does not read.
    #[error("version {version} of message kind {kind:#06x} is not known here")]
    Version {
        /// As in the frame header.
        kind: u16,
        /// As in the frame header.
        version: u16,
    },
    /// The bytes are no archive of their kind.
    #[error("{bytes} bytes are no message of kind {kind:#06x}")]
    Archive {
        /// As in the frame header.
        kind: u16,
        /// Of the payload.
        bytes: usize,
    },
    /// A range of protocol versions that ends before it begins, or a shard that greets itself.
    #[error("a hello of shard {from} to shard {to}, versions {oldest} to {newest}")]
    Hello {
        /// Who greets.
        from: u32,
        /// Whom.
        to: u32,
        /// Of the range.
        oldest: u16,
        /// Of the range.
        newest: u16,
    },
    /// A number that stands for a reason, a kind of entry or a way to authenticate stands for none.
    #[error("number {number} has no meaning as {what}")]
    Number {
        /// As what it was read.
        what: &'static str,
        /// What it is.
        number: u16,
    },
    /// More of something than the limit.
    #[error("{count} {what}, at most {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A batch without a message.
    #[error("an empty batch")]
    Empty,
    /// A member that is none, or that speaks to itself.
    #[error("a message from member {from} to member {to}")]
    Member {
        /// From whom.
        from: u64,
        /// To whom.
        to: u64,
    },
    /// A slot beyond all that can be reached, or slots out of order.
    #[error("slot {slot} is out of range or order as {what}")]
    Slot {
        /// As what it was read.
        what: &'static str,
        /// What it is.
        slot: u64,
    },
    /// A ballot that nobody can have.
    #[error("ballot {ballot:#x} belongs to nobody or is out of reach")]
    Ballot {
        /// What it is.
        ballot: u64,
    },
    /// Entries with a message that has none, none with one that has some, or other than counted.
    #[error("message {index} of a batch has {entries} entries")]
    Entries {
        /// Which message of the batch, from 0.
        index: usize,
        /// How many entries it claims.
        entries: u32,
    },
    /// The bytes of the entries are not those of their lengths.
    #[error("entries of {expected} bytes came with {found}")]
    EntryBytes {
        /// By their lengths.
        expected: u64,
        /// What came.
        found: usize,
    },
    /// Bytes that should be a configuration are none.
    #[error("{bytes} bytes are no configuration")]
    Configuration {
        /// How many.
        bytes: usize,
    },
}

impl PeerError {
    /// A short name for metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        PeerError::NAMES[self.index()]
    }

    /// All names, in the order of [`PeerError::index`].
    pub const NAMES: [&'static str; 13] = [
        "kind",
        "message_version",
        "archive",
        "hello",
        "number",
        "too_many",
        "empty",
        "member",
        "slot",
        "ballot",
        "entries",
        "entry_bytes",
        "configuration",
    ];

    /// Place in tables of counters.
    #[must_use]
    pub fn index(&self) -> usize {
        match self {
            PeerError::Kind { .. } => 0,
            PeerError::Version { .. } => 1,
            PeerError::Archive { .. } => 2,
            PeerError::Hello { .. } => 3,
            PeerError::Number { .. } => 4,
            PeerError::TooMany { .. } => 5,
            PeerError::Empty => 6,
            PeerError::Member { .. } => 7,
            PeerError::Slot { .. } => 8,
            PeerError::Ballot { .. } => 9,
            PeerError::Entries { .. } => 10,
            PeerError::EntryBytes { .. } => 11,
            PeerError::Configuration { .. } => 12,
        }
    }
}
