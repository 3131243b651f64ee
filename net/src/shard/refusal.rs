//! Why a request is not done, on its way to the error reply.

use std::borrow::Cow;
use std::net::SocketAddr;

use forebay_core::expression::ExpressionError;
use forebay_core::item::ItemError;
use forebay_core::key::KeyError;
use forebay_core::message::{ErrorCode, ErrorReply};
use forebay_core::table::TableError;
use forebay_core::time::Nanos;

/// Longest message of an error reply.
const MESSAGE_BYTES_MAX: usize = 512;

/// A named error with its words for a person.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) message: Cow<'static, str>,
    pub(super) retry_after_micros: u64,
    /// The current item, when a failed condition was asked to return it.
    pub(super) item: Option<Vec<u8>>,
    /// With [`ErrorCode::NotLeader`]: where the leader serves clients, if that is known.
    pub(super) leader: Option<SocketAddr>,
}

impl Refusal {
    pub(super) fn constant(code: ErrorCode, message: &'static str) -> Refusal {
        Refusal {
            code,
            message: Cow::Borrowed(message),
            retry_after_micros: 0,
            item: None,
            leader: None,
        }
    }

    pub(super) fn new(code: ErrorCode, mut message: String) -> Refusal {
        // Words may quote the request; a reply is never larger for that.
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        Refusal {
            code,
            message: Cow::Owned(message),
            retry_after_micros: 0,
            item: None,
            leader: None,
        }
    }

    /// Worth trying again after `nanos`.
    pub(super) fn retry_after(mut self, nanos: u64) -> Refusal {
        self.retry_after_micros = nanos / Nanos::PER_MICRO;
        self
    }

    pub(super) fn malformed() -> Refusal {
        Refusal::constant(ErrorCode::MalformedMessage, "the payload is not a valid message")
    }

    pub(super) fn failed() -> Refusal {
        Refusal::constant(
            ErrorCode::ShardFailed,
            "this shard met a failed write and serves nothing until it has recovered",
        )
    }

    pub(super) fn reply(&self) -> ErrorReply<'_> {
        ErrorReply {
            code: self.code as u16,
            retry_after_micros: self.retry_after_micros,
            message: &self.message,
            item: self.item.as_deref(),
        }
    }
}

impl From<ItemError> for Refusal {
    fn from(error: ItemError) -> Refusal {
        let code = match error {
            ItemError::TooLarge { .. } => ErrorCode::ItemTooLarge,
            _ => ErrorCode::InvalidItem,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Refusal {
        Refusal::new(ErrorCode::InvalidKey, error.to_string())
    }
}

impl From<TableError> for Refusal {
    fn from(error: TableError) -> Refusal {
        Refusal::new(ErrorCode::InvalidRequest, error.to_string())
    }
}

impl From<ExpressionError> for Refusal {
    fn from(error: ExpressionError) -> Refusal {
        match error {
            // The expression is fine; what it makes of the item is not.
            ExpressionError::Item(error) => error.into(),
            error => Refusal::new(ErrorCode::InvalidExpression, error.to_string()),
        }
    }
}
