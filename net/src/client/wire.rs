//! Messages on their way to and from frames, as the client needs it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use forebay_core::item::{Item, ItemRef};
use forebay_core::limits::FRAME_BYTES_MAX;
use forebay_core::message::{
    ArchivedErrorReply, ArchivedNotLeaderReply, EVENTUAL_VERSION, ErrorCode, Kind, Message,
    version_of,
};
use rkyv::api::high::{HighSerializer, HighValidator, to_bytes_in};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::ser::{Positional, Writer};
use rkyv::{Portable, Serialize};

use super::error::{ClientError, ProtocolError, UnknownCause};
use crate::frame::{self, FRAME_ALIGN, Frame, FrameSerializer, HEADER_BYTES};
use crate::machine::SendBuf;

/// A message that a client sends.
pub(super) trait Request:
    Message
    + Sync
    + for<'a> Serialize<FrameSerializer<'a>>
    + for<'a> Serialize<HighSerializer<Measure, ArenaHandle<'a>, Failure>>
{
}

impl<M> Request for M where
    M: Message
        + Sync
        + for<'a> Serialize<FrameSerializer<'a>>
        + for<'a> Serialize<HighSerializer<Measure, ArenaHandle<'a>, Failure>>
{
}

/// A writer that only counts: a request's length is known before a buffer is taken for it.
#[derive(Debug)]
pub(super) struct Measure {
    bytes: usize,
}

impl Positional for Measure {
    fn pos(&self) -> usize {
        self.bytes
    }
}

impl<E> Writer<E> for Measure {
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.bytes += bytes.len();
        Ok(())
    }
}

/// A request that may be encoded several times, once for each connection that it is tried on.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    encode: &'a (dyn Fn(&mut SendBuf, u64) + Sync),
    /// Its outcome matters when it is lost.
    pub(super) write: bool,
    /// Only the group's leader can answer it.
    pub(super) leads: bool,
}

impl<'a> Call<'a> {
    pub(super) fn new(encode: &'a (dyn Fn(&mut SendBuf, u64) + Sync), kind: Kind) -> Call<'a> {
        let write = matches!(
            kind,
            Kind::Put
                | Kind::Delete
                | Kind::Update
                | Kind::BatchWrite
                | Kind::CreateTable
                | Kind::DeleteTable
        );
        Call { encode, write, leads: true }
    }

    /// Any replica may answer.
    pub(super) fn of_any(self) -> Call<'a> {
        Call { leads: false, ..self }
    }

    pub(super) fn encode(&self, out: &mut SendBuf, correlation: u64) {
        (self.encode)(out, correlation);
    }
}

/// Refuses a message that does not fit a frame.
pub(super) fn check_size(message: &impl Request) -> Result<(), ClientError> {
    let measured = to_bytes_in::<_, Failure>(message, Measure { bytes: HEADER_BYTES });
    let bytes = measured.expect("counting does not fail").bytes;
    let frame_bytes = bytes.next_multiple_of(FRAME_ALIGN);
    if frame_bytes > FRAME_BYTES_MAX {
        return Err(ClientError::TooLarge { frame_bytes, limit: FRAME_BYTES_MAX });
    }
    Ok(())
}

pub(super) fn append(out: &mut SendBuf, correlation: u64, message: &impl Request) {
    frame::append(out, correlation, message);
}

/// A reply, out of its frame.
#[derive(Debug)]
pub(super) struct Received {
    kind: u16,
    version: u16,
    payload: SendBuf,
}

impl Received {
    pub(super) fn new(frame: &Frame<'_>) -> Received {
        let mut payload = SendBuf::with_capacity(frame.payload.len());
        payload.extend_from_slice(frame.payload);
        Received { kind: frame.kind, version: frame.message_version, payload }
    }

    /// Whether it is the reply asked for, as far as its kind shows, or says why there is none.
    /// `reached` is where the shard was asked.
    pub(super) fn answer(&self, reached: IpAddr, write: bool) -> Result<Answer, ClientError> {
        let refusal = if self.kind == Kind::ErrorReply as u16 {
            self.refusal()
        } else if self.kind == Kind::NotLeaderReply as u16 {
            self.not_leader(reached)
        } else {
            return Ok(Answer::Reply);
        };
        refusal.map(Answer::Refused).map_err(|error| not_understood(error, write))
    }

    fn not_leader(&self, reached: IpAddr) -> Result<Refusal, ProtocolError> {
        let reply = self.message::<ArchivedNotLeaderReply>(Kind::NotLeaderReply)?;
        let leader = reply.leader(reached);
        Ok(Refusal {
            code: ErrorCode::NotLeader,
            message: match leader {
                Some(leader) => {
                    format!("the member asked does not lead; the leader is said to be {leader}")
                }
                None => String::from("the member asked does not lead, and knows no leader"),
            },
            retry_after: retry_after(reply.retry_after_micros.to_native()),
            item: None,
            leader,
        })
    }

    /// The message, if it is the expected kind and valid.
    pub(super) fn message<T>(&self, kind: Kind) -> Result<&T, ProtocolError>
    where
        T: Portable + for<'c> CheckBytes<HighValidator<'c, Failure>>,
    {
        self.message_of(kind, version_of(kind))
    }

    /// The answer to an eventual read, if it is the expected kind and valid.
    pub(super) fn eventual<T>(&self, kind: Kind) -> Result<&T, ProtocolError>
    where
        T: Portable + for<'c> CheckBytes<HighValidator<'c, Failure>>,
    {
        self.message_of(kind, EVENTUAL_VERSION)
    }

    fn message_of<T>(&self, kind: Kind, version: u16) -> Result<&T, ProtocolError>
    where
        T: Portable + for<'c> CheckBytes<HighValidator<'c, Failure>>,
    {
        if self.kind != kind as u16 {
            return Err(ProtocolError::Kind { expected: kind as u16, found: self.kind });
        }
        if self.version != version {
            return Err(ProtocolError::Version { kind: self.kind, version: self.version });
        }
        rkyv::access::<T, Failure>(&self.payload)
            .map_err(|_| ProtocolError::Malformed { kind: self.kind })
    }

    /// What an error reply says.
    fn refusal(&self) -> Result<Refusal, ProtocolError> {
        let reply = self.message::<ArchivedErrorReply<'_>>(Kind::ErrorReply)?;
        let code = reply.code.to_native();
        Ok(Refusal {
            code: ErrorCode::from_wire(code).ok_or(ProtocolError::ErrorCode { code })?,
            message: reply.message.get().to_owned(),
            retry_after: retry_after(reply.retry_after_micros.to_native()),
            item: item(reply.item.as_ref().map(|item| item.get()), Kind::ErrorReply)?,
            leader: None,
        })
    }

    /// What an error reply says that ends its connection, as far as it can be read.
    pub(super) fn last_words(&self) -> Option<(u16, String)> {
        let reply = self.message::<ArchivedErrorReply<'_>>(Kind::ErrorReply).ok()?;
        Some((reply.code.to_native(), reply.message.get().to_owned()))
    }
}

fn retry_after(micros: u64) -> Option<Duration> {
    (micros > 0).then(|| Duration::from_micros(micros))
}

/// What a reply is.
#[derive(Debug)]
pub(super) enum Answer {
    /// Of the kind asked for, or none that is known; not looked at yet.
    Reply,
    /// A named reason why there is none.
    Refused(Refusal),
}

/// An error reply or "the leader is …", read.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    message: String,
    pub(super) retry_after: Option<Duration>,
    item: Option<Item>,
    /// Who leads, according to whom was asked.
    pub(super) leader: Option<SocketAddr>,
}

impl Refusal {
    pub(super) fn into_error(self, write: bool) -> ClientError {
        if write && !self.code.had_no_effect() {
            return ClientError::Unknown { cause: UnknownCause::of(self.code, self.message) };
        }
        ClientError::Refused {
            code: self.code,
            message: self.message,
            retry_after: self.retry_after,
            item: self.item.map(Box::new),
        }
    }
}

/// The error for an answer that cannot be understood.
pub(super) fn not_understood(error: ProtocolError, write: bool) -> ClientError {
    if write {
        ClientError::Unknown { cause: UnknownCause::Protocol(error) }
    } else {
        ClientError::Protocol(error)
    }
}

/// An item of a reply of `kind`, checked and owned.
pub(super) fn item(bytes: Option<&[u8]>, kind: Kind) -> Result<Option<Item>, ProtocolError> {
    let Some(bytes) = bytes else { return Ok(None) };
    match ItemRef::validate(bytes) {
        Ok(item) => Ok(Some(Item::from(item))),
        Err(_) => Err(ProtocolError::Malformed { kind: kind as u16 }),
    }
}

/// Cuts `u32 length, bytes` sequences, as pages and batches carry them.
pub(super) struct Lengths<'a> {
    rest: &'a [u8],
}

impl<'a> Lengths<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Lengths<'a> {
        Lengths { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next length; None if the bytes end before.
    pub(super) fn length(&mut self) -> Option<u32> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        Some(u32::from_le_bytes(*length))
    }

    /// The next `length` bytes; None if there are fewer.
    pub(super) fn bytes(&mut self, length: u32) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length as usize)?;
        self.rest = rest;
        Some(bytes)
    }
}
