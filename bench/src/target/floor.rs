//! The bare echo servers: what a ring costs before any store is built on it.
//!
//! | offset | bytes | request frame |
//! |-------:|------:|---|
//! | 0      | 4     | total length, a multiple of 16, u32 LE |
//! | 4      | 12    | zero |
//! | 16     | 8     | correlation, u64 LE |
//! | 24     | 8     | zero |
//! | 32     | n     | key, then value; zeros up to the total length |
//!
//! The reply is 48 bytes with the same header, so a floor's numbers include the same bytes in and
//! about the same bytes out as a store's, and no work in between.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use forebay_net::machine::SendBuf;

use super::{Carry, Codec, Outcome, ProtocolError, Request, Target, TargetUrl};
use crate::error::BenchError;

/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 32;
/// Bytes of every reply.
pub(crate) const REPLY_BYTES: usize = 48;
/// Where the correlation stands.
const CORRELATION_AT: usize = 16;

const _: () = assert!(HEADER_BYTES.is_multiple_of(16) && REPLY_BYTES.is_multiple_of(16));

/// An echo server.
#[derive(Debug)]
pub(crate) struct Floor {
    addresses: [SocketAddr; 1],
    facts: Vec<(String, String)>,
}

impl Floor {
    /// Checks that something listens at `url`.
    pub(crate) fn setup(url: &TargetUrl, timeout: Duration) -> Result<Floor, BenchError> {
        let address = url.resolve()?;
        TcpStream::connect_timeout(&address, timeout)
            .map_err(|source| BenchError::unreachable(url, address, source))?;
        let facts = vec![("stores".to_owned(), "nothing: a floor, not a store".to_owned())];
        Ok(Floor { addresses: [address], facts })
    }

    /// One at `address`, unchecked.
    #[cfg(test)]
    pub(crate) fn at(address: SocketAddr) -> Floor {
        Floor { addresses: [address], facts: Vec::new() }
    }
}

impl Target for Floor {
    type Codec = FloorCodec;

    fn codec(&self) -> FloorCodec {
        FloorCodec::default()
    }

    fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    fn facts(&self) -> &[(String, String)] {
        &self.facts
    }
}

/// One connection: only a torn reply to remember.
#[derive(Debug, Default)]
pub(crate) struct FloorCodec {
    carry: Carry,
}

impl Codec for FloorCodec {
    fn encode(&mut self, request: Request<'_>, correlation: u64, out: &mut SendBuf) {
        let value: &[u8] = match request {
            Request::Put { value, .. } | Request::PutExisting { value, .. } => value,
            Request::Get { .. } | Request::Query { .. } | Request::Scan { .. } => &[],
        };
        let key = request.key();
        let payload = key.len() + value.len();
        let total = (HEADER_BYTES + payload).next_multiple_of(16);
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&(total as u32).to_le_bytes());
        header[CORRELATION_AT..CORRELATION_AT + 8].copy_from_slice(&correlation.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(key);
        out.extend_from_slice(value);
        out.extend_from_slice(&[0; 15][..total - HEADER_BYTES - payload]);
    }

    fn decode(
        &mut self,
        bytes: &[u8],
        reply: &mut impl FnMut(u64, Outcome<'_>),
    ) -> Result<(), ProtocolError> {
        self.carry.feed(bytes, |bytes| {
            let Some(frame) = bytes.first_chunk::<REPLY_BYTES>() else { return Ok(None) };
            let total = u32::from_le_bytes(*frame.first_chunk().expect("48 bytes hold four"));
            if total as usize != REPLY_BYTES {
                return Err(ProtocolError::Length);
            }
            let word = &frame[CORRELATION_AT..CORRELATION_AT + 8];
            let correlation = u64::from_le_bytes(word.try_into().expect("eight bytes"));
            reply(correlation, Outcome::Done);
            Ok(Some(REPLY_BYTES))
        })
    }
}

/// The reply to the request with `correlation`.
#[cfg(test)]
pub(crate) fn reply_frame(correlation: u64) -> [u8; REPLY_BYTES] {
    let mut frame = [0; REPLY_BYTES];
    frame[..4].copy_from_slice(&(REPLY_BYTES as u32).to_le_bytes());
    frame[CORRELATION_AT..CORRELATION_AT + 8].copy_from_slice(&correlation.to_le_bytes());
    frame
}

/// The correlations of the request frames in `bytes`, which are whole.
#[cfg(test)]
pub(crate) fn request_correlations(mut bytes: &[u8]) -> Vec<u64> {
    let mut found = Vec::new();
    while let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        let total = u32::from_le_bytes(*header.first_chunk().unwrap()) as usize;
        found.push(u64::from_le_bytes(header[16..24].try_into().unwrap()));
        bytes = &bytes[total..];
    }
    assert!(bytes.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Owned, every_split_decodes_alike};
    use super::*;

    #[test]
    fn frames_are_padded_and_carry_their_correlation() {
        let mut out = SendBuf::new();
        FloorCodec::default().encode(
            Request::Put { key: &[1; 24], value: &[2; 100] },
            0x0102,
            &mut out,
        );
        assert_eq!(out.len(), 160);
        assert_eq!(&out[..4], &160u32.to_le_bytes());
        assert_eq!(&out[16..18], &[2, 1]);
        assert_eq!(&out[32..56], &[1; 24]);
        assert_eq!(&out[56..156], &[2; 100]);
        assert_eq!(&out[156..], &[0; 4]);
        assert_eq!(request_correlations(&out), [0x0102]);
    }

    #[test]
    fn replies_in_any_pieces_are_found() {
        let stream = [reply_frame(3), reply_frame(1 << 40)].concat();
        let expected = [(3, Owned::Done), (1 << 40, Owned::Done)];
        every_split_decodes_alike(FloorCodec::default, &stream, &expected);
        let foreign = FloorCodec::default().decode(&[9; 48], &mut |_, _| {});
        assert_eq!(foreign, Err(ProtocolError::Length));
    }
}
