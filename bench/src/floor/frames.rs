//! The floor's wire format: just enough to cost what a request costs.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | length of the whole frame, u32 little-endian, a multiple of 16 |
//! | 4 | 12 | opaque, echoed |
//! | 16 | 8 | correlation id, echoed |
//! | 24 | 8 | opaque, echoed |
//! | 32 | … | payload |
//!
//! A reply is the request's header with the length [`REPLY_BYTES`], and 16 bytes of nothing: as
//! large as the reply to a Put.

use forebay_net::machine::SendBuf;

/// Bytes of a frame's header.
pub(super) const HEADER_BYTES: usize = 32;
/// Bytes of a reply.
pub(super) const REPLY_BYTES: usize = 48;
/// Longest frame accepted: one log batch.
pub(super) const FRAME_BYTES_MAX: usize = 256 * 1024;

const _: () = assert!(REPLY_BYTES.is_multiple_of(16) && HEADER_BYTES.is_multiple_of(16));

/// A frame's header as it came.
pub(super) type Header = [u8; HEADER_BYTES];

/// The peer sent a length that is no frame's; close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadFrame;

/// Cuts a connection's bytes into frames.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The beginning of a frame whose end has not arrived.
    carry: Vec<u8>,
}

impl Frames {
    /// Calls `each` with every complete frame.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&Header, &[u8]),
    ) -> Result<(), BadFrame> {
        if self.carry.is_empty() {
            let used = cut(bytes, &mut each)?;
            self.carry.extend_from_slice(&bytes[used..]);
        } else {
            self.carry.extend_from_slice(bytes);
            let used = cut(&self.carry, &mut each)?;
            self.carry.drain(..used);
        }
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.carry.clear();
    }
}

/// Visits the complete frames at the start of `bytes`; returns how many bytes they took.
fn cut(bytes: &[u8], each: &mut impl FnMut(&Header, &[u8])) -> Result<usize, BadFrame> {
    let mut used = 0;
    while let Some(header) = bytes[used..].first_chunk::<HEADER_BYTES>() {
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if !(HEADER_BYTES..=FRAME_BYTES_MAX).contains(&length) || !length.is_multiple_of(16) {
            return Err(BadFrame);
        }
        let Some(frame) = bytes[used..].get(..length) else { break };
        each(header, frame);
        used += length;
    }
    Ok(used)
}

/// Appends the reply to a request with this header.
pub(super) fn append_reply(out: &mut SendBuf, header: &Header) {
    let mut reply = [0; REPLY_BYTES];
    reply[..HEADER_BYTES].copy_from_slice(header);
    reply[..4].copy_from_slice(&(REPLY_BYTES as u32).to_le_bytes());
    out.extend_from_slice(&reply);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: u32, id: u8) -> Vec<u8> {
        let mut frame = vec![id; length as usize];
        frame[..4].copy_from_slice(&length.to_le_bytes());
        frame
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_split() {
        let stream = [frame(32, 1), frame(160, 2), frame(48, 3)].concat();
        for step in 1..=stream.len() {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for piece in stream.chunks(step) {
                frames.push(piece, |_, frame| seen.push((frame.len(), frame[16]))).expect("frames");
            }
            assert_eq!(seen, [(32, 1), (160, 2), (48, 3)]);
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for length in [0u32, 16, 31, 33, FRAME_BYTES_MAX as u32 + 16, u32::MAX] {
            let mut bytes = [0; HEADER_BYTES];
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            assert_eq!(Frames::default().push(&bytes, |_, _| ()), Err(BadFrame), "{length}");
        }
    }

    #[test]
    fn a_reply_is_the_header_with_its_own_length() {
        let mut header = [7; HEADER_BYTES];
        header[..4].copy_from_slice(&160u32.to_le_bytes());
        let mut out = SendBuf::new();
        append_reply(&mut out, &header);
        assert_eq!(out.len(), REPLY_BYTES);
        assert_eq!(out[..4], 48u32.to_le_bytes());
        assert_eq!(out[4..32], [7; 28]);
    }
}
