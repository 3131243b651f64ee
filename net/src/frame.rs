//! Frames: the fixed header before every message, and the cutting of a byte stream into frames.
//!
//! ```text
//! offset bytes field
//!      0     4 frame_bytes      header, payload and padding; a multiple of 16
//!      4     4 checksum         CRC-32 of bytes 8.., begun with frame_bytes
//!      8     2 protocol_version 1
//!     10     2 kind             forebay_core::message::Kind
//!     12     2 message_version  version of the kind's layout
//!     14     2 reserved         0
//!     16     8 correlation      chosen by the requester, returned in the reply
//!     24     4 payload_bytes    length of the archive, without padding
//!     28     4 reserved         0
//!     32       payload          an rkyv archive, then zeros up to frame_bytes
//! ```
//!
//! All integers are little-endian. Header and frame are multiples of 16 bytes, so an archive in a
//! 16-aligned buffer is itself aligned and can be used in place. A frame that breaks a rule of the
//! header ends its connection, because the stream can no longer be trusted; a message that breaks
//! a rule of its own gets an error reply.

use crc32fast::Hasher;
use forebay_core::limits::FRAME_BYTES_MAX;
use forebay_core::message::Message;
use forebay_core::message::peer::PeerMessage;
use rkyv::Portable;
use rkyv::Serialize;
use rkyv::api::high::{HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;

use crate::machine::SendBuf;

/// Bytes of the header.
pub const HEADER_BYTES: usize = 32;
/// Alignment of headers and frames.
pub const FRAME_ALIGN: usize = 16;
/// The protocol version that this program speaks.
pub const PROTOCOL_VERSION: u16 = 1;

const _: () = assert!(HEADER_BYTES.is_multiple_of(FRAME_ALIGN));
const _: () = assert!(FRAME_BYTES_MAX.is_multiple_of(FRAME_ALIGN));

/// What is wrong with a frame. Every variant ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is below the header's, not a multiple of 16, or above the limit.
    #[error("frame length {frame_bytes} is not a multiple of 16 between 32 and {bytes_max}")]
    Length {
        /// Length in the header.
        frame_bytes: u32,
        /// The limit.
        bytes_max: usize,
    },
    /// Bytes changed on the way, or the peer speaks another protocol.
    #[error("frame checksum {found:#010x} in the header, {expected:#010x} computed")]
    Checksum {
        /// Computed.
        expected: u32,
        /// In the header.
        found: u32,
    },
    /// The peer speaks another version.
    #[error("protocol version {version}, this program speaks {PROTOCOL_VERSION}")]
    Version {
        /// In the header.
        version: u16,
    },
    /// Reserved bytes are not zero, or the payload's length does not fit the frame's.
    #[error("frame header has nonzero reserved bytes or a payload length of {payload_bytes}")]
    Header {
        /// In the header.
        payload_bytes: u32,
    },
}

impl FrameError {
    /// A short name for metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            FrameError::Length { .. } => "length",
            FrameError::Checksum { .. } => "checksum",
            FrameError::Version { .. } => "version",
            FrameError::Header { .. } => "header",
        }
    }
}

/// One whole frame whose header and checksum are right. The payload is not validated yet.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Kind as on the wire.
    pub kind: u16,
    /// Version of the kind's layout.
    pub message_version: u16,
    /// Returned in the reply.
    pub correlation: u64,
    /// The archive.
    pub payload: &'a [u8],
    /// Bytes of the whole frame.
    pub frame_bytes: usize,
}

impl<'a> Frame<'a> {
    /// The message, validated; None if the bytes are not a valid archive of `T`.
    pub fn message<T>(&self) -> Option<&'a T>
    where
        T: Portable + for<'c> CheckBytes<HighValidator<'c, Failure>>,
    {
        rkyv::access::<T, Failure>(self.payload).ok()
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(u32_at(frame, 0));
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// Takes the first frame off `bytes`: None if it is not all there yet.
///
/// # Errors
/// The stream is unusable from here on; close the connection.
pub fn split(bytes: &[u8]) -> Result<Option<Frame<'_>>, FrameError> {
    if bytes.len() < 4 {
        return Ok(None);
    }
    let frame_bytes = u32_at(bytes, 0);
    let length = frame_bytes as usize;
    if !(HEADER_BYTES..=FRAME_BYTES_MAX).contains(&length) || !length.is_multiple_of(FRAME_ALIGN) {
        return Err(FrameError::Length { frame_bytes, bytes_max: FRAME_BYTES_MAX });
    }
    // The version is looked at before the rest arrives: a later protocol may check differently.
    if bytes.len() >= 10 && u16_at(bytes, 8) != PROTOCOL_VERSION {
        return Err(FrameError::Version { version: u16_at(bytes, 8) });
    }
    if bytes.len() < length {
        return Ok(None);
    }
    let frame = &bytes[..length];
    let (expected, found) = (checksum(frame), u32_at(frame, 4));
    if expected != found {
        return Err(FrameError::Checksum { expected, found });
    }
    let payload_bytes = u32_at(frame, 24);
    let padded = (payload_bytes as usize).checked_next_multiple_of(FRAME_ALIGN);
    if u16_at(frame, 14) != 0
        || u32_at(frame, 28) != 0
        || padded != Some(length - HEADER_BYTES)
        || frame[HEADER_BYTES + payload_bytes as usize..].iter().any(|byte| *byte != 0)
    {
        return Err(FrameError::Header { payload_bytes });
    }
    Ok(Some(Frame {
        kind: u16_at(frame, 10),
        message_version: u16_at(frame, 12),
        correlation: u64::from_le_bytes(frame[16..24].try_into().expect("eight bytes")),
        payload: &frame[HEADER_BYTES..HEADER_BYTES + payload_bytes as usize],
        frame_bytes: length,
    }))
}

/// Serializer of messages into frames.
pub type FrameSerializer<'a> = HighSerializer<AlignedVec<16>, ArenaHandle<'a>, Failure>;

/// Appends `message` as one frame to `out`, whose length must be a multiple of 16.
///
/// # Panics
/// If `out` is not aligned so, or the frame would be longer than the limit: senders check sizes
/// before they build a message.
pub fn append<M>(out: &mut SendBuf, correlation: u64, message: &M)
where
    M: Message + for<'a> Serialize<FrameSerializer<'a>>,
{
    append_as(out, M::KIND as u16, M::VERSION, correlation, message);
}

/// The same, of a message between shards.
///
/// # Panics
/// As [`append`].
pub fn append_peer<M>(out: &mut SendBuf, message: &M)
where
    M: PeerMessage + for<'a> Serialize<FrameSerializer<'a>>,
{
    append_as(out, M::KIND as u16, M::KIND.version(), 0, message);
}

fn append_as<M>(out: &mut SendBuf, kind: u16, version: u16, correlation: u64, message: &M)
where
    M: for<'a> Serialize<FrameSerializer<'a>>,
{
    let start = begin(out);
    let buffer = std::mem::take(out);
    // The serializer fails only when its writer does, and a vector's writes do not.
    *out = rkyv::api::high::to_bytes_in::<_, Failure>(message, buffer)
        .expect("serializing into memory succeeds");
    seal(out, start, kind, version, correlation);
}

/// Leaves room for a frame's header at the end of `out`; returns where the frame begins. Put the
/// payload after it, then [`seal`].
///
/// # Panics
/// If the length of `out` is not a multiple of 16.
pub fn begin(out: &mut SendBuf) -> usize {
    let start = out.len();
    assert!(start.is_multiple_of(FRAME_ALIGN), "frames start at multiples of {FRAME_ALIGN}");
    out.extend_from_slice(&[0; HEADER_BYTES]);
    start
}

/// Makes a frame of what `out` holds from `start` on: fills in the header and pads the end.
///
/// # Panics
/// If the frame would be longer than the limit.
pub fn seal(out: &mut SendBuf, start: usize, kind: u16, version: u16, correlation: u64) {
    let payload_bytes = out.len() - start - HEADER_BYTES;
    let padding = payload_bytes.next_multiple_of(FRAME_ALIGN) - payload_bytes;
    out.extend_from_slice(&[0; FRAME_ALIGN][..padding]);
    let frame = &mut out[start..];
    assert!(frame.len() <= FRAME_BYTES_MAX, "a frame of {} bytes", frame.len());
    let frame_bytes = frame.len() as u32;
    frame[0..4].copy_from_slice(&frame_bytes.to_le_bytes());
    frame[8..10].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    frame[10..12].copy_from_slice(&kind.to_le_bytes());
    frame[12..14].copy_from_slice(&version.to_le_bytes());
    frame[24..28].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
    set_correlation(frame, correlation);
}

/// A message that is sent again and again, serialized once: only the correlation differs.
#[derive(Debug)]
pub struct Template {
    frame: SendBuf,
}

impl Template {
    /// The template of `message`.
    pub fn of<M>(message: &M) -> Template
    where
        M: Message + for<'a> Serialize<FrameSerializer<'a>>,
    {
        let mut frame = SendBuf::new();
        append(&mut frame, 0, message);
        Template { frame }
    }

    /// Appends the message to `out` as [`append`] would.
    pub fn append(&self, out: &mut SendBuf, correlation: u64) {
        let start = out.len();
        debug_assert!(start.is_multiple_of(FRAME_ALIGN));
        out.extend_from_slice(&self.frame);
        set_correlation(&mut out[start..], correlation);
    }
}

/// Sets a frame's correlation, and its checksum, which is the last thing to be set.
fn set_correlation(frame: &mut [u8], correlation: u64) {
    frame[16..24].copy_from_slice(&correlation.to_le_bytes());
    let sum = checksum(frame);
    frame[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// One connection's received bytes that do not make a whole frame yet.
#[derive(Debug, Default)]
pub struct Inbox {
    pending: AlignedVec<16>,
}

/// An inbox that grew beyond this for one large frame gives the memory back.
const INBOX_KEEP_BYTES: usize = 64 * 1024;

impl Inbox {
    /// Hands every whole frame in the stream so far to `on_frame`, in order. Frames are used where
    /// they arrived if they are aligned there; the rest is copied until it is whole.
    ///
    /// # Errors
    /// The stream is unusable from here on; frames before the bad one were handed out.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        mut on_frame: impl FnMut(Frame<'_>),
    ) -> Result<(), FrameError> {
        self.receive_while(bytes, true, |frame| {
            on_frame(frame);
            true
        })
    }

    /// The same, but only while `wanted`, which `on_frame` decides anew with each frame. What is not
    /// wanted stays, whole frames too; hand in no bytes to get it later.
    ///
    /// # Errors
    /// The stream is unusable from here on; frames before the bad one were handed out.
    pub fn receive_while(
        &mut self,
        bytes: &[u8],
        mut wanted: bool,
        mut on_frame: impl FnMut(Frame<'_>) -> bool,
    ) -> Result<(), FrameError> {
        let mut rest = bytes;
        if self.pending.is_empty() && bytes.as_ptr().addr().is_multiple_of(FRAME_ALIGN) {
            while wanted && let Some(frame) = split(rest)? {
                rest = &rest[frame.frame_bytes..];
                wanted = on_frame(frame);
            }
            self.pending.extend_from_slice(rest);
            return Ok(());
        }
        self.pending.extend_from_slice(rest);
        let mut taken = 0;
        while wanted && let Some(frame) = split(&self.pending[taken..])? {
            taken += frame.frame_bytes;
            wanted = on_frame(frame);
        }
        if taken > 0 {
            let left = self.pending.len() - taken;
            self.pending.copy_within(taken.., 0);
            self.pending.resize(left, 0);
            if left < INBOX_KEEP_BYTES && self.pending.capacity() > 2 * INBOX_KEEP_BYTES {
                self.pending.shrink_to_fit();
            }
        }
        Ok(())
    }

    /// Bytes waiting for the rest of their frame.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending.len()
    }
}

#[cfg(test)]
mod tests;
