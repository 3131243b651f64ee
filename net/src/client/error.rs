//! Why an operation failed, and what to do about it.
//!
//! The one distinction that an application must make: after [`ClientError::Unknown`] a write may or
//! may not have taken effect; after every other error it certainly had none.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use forebay_core::expression::ExpressionError;
use forebay_core::item::{Item, ItemError};
use forebay_core::key::KeyError;
use forebay_core::message::ErrorCode;
use forebay_core::table::TableError;

use crate::frame::FrameError;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The node refused, for the reason that the code names. See the code for what to do; a busy
    /// node was asked again already, as often as the configuration says, and a leader was looked for
    /// all the time that there was.
    #[error("refused ({}): {message}", code.name())]
    Refused {
        /// The named reason.
        code: ErrorCode,
        /// For a person.
        message: String,
        /// When it may help to try again.
        retry_after: Option<Duration>,
        /// The current item, where a failed condition was asked to return it.
        item: Option<Box<Item>>,
    },
    /// The time was up. Nothing was written: the request was a read, or it was never sent. Try
    /// again, or allow more time.
    #[error("no answer within {waited:?}")]
    Timeout {
        /// How long the operation took.
        waited: Duration,
    },
    /// The write was sent and its outcome is not known: it may have taken effect, or may still do
    /// so. Read the item before deciding, or repeat the write if doing it twice is harmless.
    #[error("the outcome of the write is not known: {cause}")]
    Unknown {
        /// What came between.
        cause: UnknownCause,
    },
    /// A read was sent twice and both connections broke. Try again when the node is reachable.
    #[error("the connection was lost: {0}")]
    Lost(Lost),
    /// No connection to any node could be made within the time. Check the addresses and whether the
    /// nodes run.
    /// Nothing was sent.
    #[error("cannot connect to {addr}: {source}")]
    Connect {
        /// The address that was tried last.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
    /// The node's answer to a read cannot be understood: it speaks another version, or a program
    /// between changes bytes. Use a client and node of matching versions.
    #[error("the node's answer is not understood: {0}")]
    Protocol(ProtocolError),
    /// The key does not fit the table's schema: correct it. Nothing was sent.
    #[error("invalid key: {0}")]
    InvalidKey(#[from] KeyError),
    /// The item breaks a limit: correct it. Nothing was sent.
    #[error("invalid item: {0}")]
    InvalidItem(#[from] ItemError),
    /// The condition, update, filter or projection is invalid: correct it. Nothing was sent.
    #[error("invalid expression: {0}")]
    InvalidExpression(#[from] ExpressionError),
    /// The table's name or schema is invalid: correct it. Nothing was sent.
    #[error("invalid table: {0}")]
    InvalidTable(#[from] TableError),
    /// A segment that is not one of the scan's: number them from 0. Nothing was sent.
    #[error("segment {segment} of {segments}; there may be 1 to {limit} of them")]
    InvalidSegment {
        /// The one asked for.
        segment: u64,
        /// How many there are.
        segments: u64,
        /// How many there may be.
        limit: u64,
    },
    /// The bytes are no place to resume at, or are of another read: begin again. Nothing was sent.
    #[error("the resume key is not of this read")]
    InvalidResume,
    /// Two writes of one batch have the same key, so their order would be chance: put them into two
    /// batches. Nothing was sent.
    #[error("writes {first} and {second} of the batch have the same key")]
    DuplicateKey {
        /// Index of the first.
        first: usize,
        /// Index of the second.
        second: usize,
    },
    /// The request does not fit a frame: use shorter expressions. Nothing was sent.
    #[error("the request takes {frame_bytes} bytes; {limit} are allowed")]
    TooLarge {
        /// Its frame's length.
        frame_bytes: usize,
        /// The most that is allowed.
        limit: usize,
    },
}

impl ClientError {
    /// Whether the write's condition did not hold.
    #[must_use]
    pub fn condition_failed(&self) -> bool {
        self.code() == Some(ErrorCode::ConditionFailed)
    }

    /// The node's reason, if it refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether a write may have taken effect all the same.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, ClientError::Unknown { .. })
    }

    /// Whether the request went by an old description of its table.
    pub(super) fn is_stale(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::UnknownTable | ErrorCode::WrongPartition))
    }

    /// A refusal without more than its code.
    pub(super) fn refused(code: ErrorCode, message: impl Into<String>) -> ClientError {
        ClientError::Refused { code, message: message.into(), retry_after: None, item: None }
    }
}

/// What came between a write and the knowledge of its outcome.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UnknownCause {
    /// The time was up after the request had been sent.
    #[error("no answer within {waited:?}")]
    Timeout {
        /// How long the operation took.
        waited: Duration,
    },
    /// The connection broke after the request had been sent.
    #[error("the connection was lost: {0}")]
    Lost(Lost),
    /// The shard met a failed disk write; what survived shows when it has recovered.
    #[error("the shard failed: {message}")]
    ShardFailed {
        /// The node's words.
        message: String,
    },
    /// The member stopped leading before the write was chosen; the next leader may choose it.
    #[error("the leader changed: {message}")]
    LeadershipLost {
        /// The node's words.
        message: String,
    },
    /// The answer came but cannot be understood.
    #[error("the node's answer is not understood: {0}")]
    Protocol(ProtocolError),
}

impl UnknownCause {
    /// For a code that leaves a write open.
    pub(super) fn of(code: ErrorCode, message: String) -> UnknownCause {
        match code {
            ErrorCode::LeadershipLost => UnknownCause::LeadershipLost { message },
            _ => UnknownCause::ShardFailed { message },
        }
    }
}

/// Why a connection ended. Requests that were not sent yet go to another one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Lost {
    /// The node closed it: it stops, or was restarted.
    #[error("the node closed the connection")]
    Closed,
    /// The system reported an error.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// The received bytes are not a stream of frames; they cannot be trusted from there on.
    #[error("{0}")]
    Frame(FrameError),
    /// A whole frame that is no answer to what was asked.
    #[error("{0}")]
    Protocol(ProtocolError),
    /// Nothing arrived for too long while requests waited.
    #[error("nothing arrived for {silence:?}")]
    Silent {
        /// How long.
        silence: Duration,
    },
    /// The node refused to go on with the connection, because of what it received.
    #[error("the node ended the connection ({code}): {message}")]
    Refused {
        /// An [`ErrorCode`]'s number.
        code: u16,
        /// The node's words.
        message: String,
    },
    /// This client let go of the connection, or its runtime stopped.
    #[error("the client closed the connection")]
    Dropped,
}

/// A whole frame that this program does not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The reply is of another kind than the request asks for.
    #[error("a reply of kind {found:#06x}, {expected:#06x} expected")]
    Kind {
        /// The kind that answers the request.
        expected: u16,
        /// What came.
        found: u16,
    },
    /// A version of the reply that this program does not read: use a newer client.
    #[error("version {version} of a reply of kind {kind:#06x}")]
    Version {
        /// The reply's kind.
        kind: u16,
        /// The version.
        version: u16,
    },
    /// The payload is not a valid message of its kind.
    #[error("a malformed reply of kind {kind:#06x}")]
    Malformed {
        /// The kind.
        kind: u16,
    },
    /// An answer to a request that was never sent.
    #[error("an answer with the unknown correlation {correlation:#x}")]
    Correlation {
        /// The frame's correlation id.
        correlation: u64,
    },
    /// An error code that this program does not know: use a newer client.
    #[error("the unknown error code {code}")]
    ErrorCode {
        /// The number.
        code: u16,
    },
    /// The node describes itself without shards, or a table with a shard that it does not have.
    #[error("the node has no shard {shard}")]
    NoShard {
        /// The shard's number.
        shard: u16,
    },
}
