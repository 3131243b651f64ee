//! HTTP/2 frames (RFC 9113, section 4), as much as a client needs.
//!
//! | offset | bytes | frame header |
//! |-------:|------:|---|
//! | 0      | 3     | length of the payload, big-endian |
//! | 3      | 1     | type |
//! | 4      | 1     | flags |
//! | 5      | 4     | stream, big-endian, the highest bit reserved |

use super::super::ProtocolError;
use forebay_net::machine::SendBuf;

/// Bytes of a frame's header.
pub(super) const HEADER_BYTES: usize = 9;
/// Longest payload that is accepted: the protocol's least value, which no setting here raises.
pub(super) const PAYLOAD_BYTES_MAX: usize = 16_384;
/// What a connection begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types.
pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags.
pub(super) mod flag {
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
    pub(crate) const PADDED: u8 = 8;
    pub(crate) const PRIORITY: u8 = 32;
}

/// Settings.
pub(super) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
}

/// A whole frame in a stream of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame in `bytes` and its length, if it is whole.
    pub(super) fn split(bytes: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, ProtocolError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        if length > PAYLOAD_BYTES_MAX {
            // An HTTP/1 server's "HTTP/1.1 400 …" ends here too.
            return Err(ProtocolError::Length);
        }
        let Some(payload) = bytes.get(HEADER_BYTES..HEADER_BYTES + length) else {
            return Ok(None);
        };
        let stream = u32::from_be_bytes([header[5] & 0x7f, header[6], header[7], header[8]]);
        let frame = Frame { kind: header[3], flags: header[4], stream, payload };
        Ok(Some((frame, HEADER_BYTES + length)))
    }

    /// Whether `flag` is set.
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload of DATA or HEADERS without padding and priority.
    pub(super) fn content(&self) -> Result<&'a [u8], ProtocolError> {
        let mut content = self.payload;
        let mut padding = 0;
        if self.has(flag::PADDED) {
            let (&length, rest) = content.split_first().ok_or(SHORT)?;
            (padding, content) = (usize::from(length), rest);
        }
        if self.kind == kind::HEADERS && self.has(flag::PRIORITY) {
            content = content.get(5..).ok_or(SHORT)?;
        }
        let length = content.len().checked_sub(padding).ok_or(SHORT)?;
        Ok(&content[..length])
    }

    /// The four bytes at `at` of the payload, as a number.
    pub(super) fn number(&self, at: usize) -> Result<u32, ProtocolError> {
        let bytes = self.payload.get(at..at + 4).ok_or(SHORT)?;
        Ok(u32::from_be_bytes(bytes.try_into().expect("four bytes")))
    }
}

/// A frame too short for what it should hold.
const SHORT: ProtocolError = ProtocolError::Damaged { what: "a frame shorter than its fields" };

/// Appends a frame's header.
pub(super) fn push_header(out: &mut SendBuf, length: usize, kind: u8, flags: u8, stream: u32) {
    debug_assert!(length <= PAYLOAD_BYTES_MAX);
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags, s0, s1, s2, s3]);
}

/// Appends a WINDOW_UPDATE.
pub(super) fn push_window_update(out: &mut SendBuf, stream: u32, increment: u32) {
    push_header(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&increment.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_golden_bytes_and_read_back() {
        let mut out = SendBuf::new();
        push_header(&mut out, 3, kind::DATA, flag::END_STREAM, 0x0102_0305);
        assert_eq!(out.as_slice(), [0, 0, 3, 0, 1, 1, 2, 3, 5]);
        out.extend_from_slice(b"abc");
        let (frame, used) = Frame::split(&out).unwrap().unwrap();
        assert_eq!(
            (frame.kind, frame.stream, frame.payload, used),
            (0, 0x0102_0305, &b"abc"[..], 12)
        );
        assert!(frame.has(flag::END_STREAM));
        assert_eq!(Frame::split(&out[..11]), Ok(None));
        assert_eq!(Frame::split(b"HTTP/1.1 400"), Err(ProtocolError::Length));
    }

    #[test]
    fn padding_and_priority_are_taken_off_and_never_read_beyond() {
        let frame = |kind, flags, payload| Frame { kind, flags, stream: 1, payload };
        let padded = frame(kind::DATA, flag::PADDED, &[2, b'x', 0, 0]);
        assert_eq!(padded.content(), Ok(&b"x"[..]));
        let both = flag::PADDED | flag::PRIORITY;
        let headers = frame(kind::HEADERS, both, &[1, 0, 0, 0, 0, 9, b'h', 0]);
        assert_eq!(headers.content(), Ok(&b"h"[..]));
        assert!(frame(kind::DATA, flag::PADDED, &[]).content().is_err());
        assert!(frame(kind::DATA, flag::PADDED, &[9, 1]).content().is_err());
        assert!(frame(kind::HEADERS, flag::PRIORITY, &[1, 2]).content().is_err());
        assert!(frame(kind::PING, 0, &[1, 2]).number(0).is_err());
    }
}
