//! Memcached, over its text protocol: `set`, `replace` and `get` of the same records.
//!
//! ```text
//!   set KEY 0 0 LENGTH\r\nVALUE\r\n   ─►  STORED\r\n
//!   get KEY\r\n                       ─►  VALUE KEY FLAGS LENGTH\r\nVALUE\r\nEND\r\n   or   END\r\n
//! ```
//!
//! Values are binary: their length is stated, so they may hold anything. Requests are pipelined, and
//! answers come in the order of the requests. Nothing is durable, which the facts say: it is here as
//! the lower end of what a cache costs, not as a peer of a store. Evicted records are found missing,
//! and counted as such.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use forebay_net::machine::SendBuf;

use super::{
    CONDITION_FAILED, Carry, Codec, Outcome, ProtocolError, Request, Setup, Target, TargetUrl,
};
use crate::error::BenchError;
use crate::workload::OpKind;

/// Longest key that memcached accepts.
const KEY_BYTES_MAX: usize = 250;
/// Longest line of an answer: a key, its numbers, or an error message.
const LINE_BYTES_MAX: usize = 4096;
/// More than any item that memcached may be configured for.
const VALUE_BYTES_MAX: usize = 1 << 30;

/// A memcached server.
#[derive(Debug)]
pub(crate) struct Memcached {
    addresses: [SocketAddr; 1],
    facts: Vec<(String, String)>,
}

impl Memcached {
    /// Asks the server at `url` for its version and its memory.
    pub(crate) fn setup(url: &TargetUrl, setup: &Setup<'_>) -> Result<Memcached, BenchError> {
        let address = url.resolve()?;
        let facts = super::dial(address, setup.timeout).and_then(|stream| ask_facts(&stream));
        let facts = facts.map_err(|source| BenchError::unreachable(url, address, source))?;
        Ok(Memcached { addresses: [address], facts })
    }
}

impl Target for Memcached {
    type Codec = MemcachedCodec;

    fn codec(&self) -> MemcachedCodec {
        MemcachedCodec::default()
    }

    fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    fn facts(&self) -> &[(String, String)] {
        &self.facts
    }

    fn refuses(&self, kind: OpKind) -> Option<&'static str> {
        matches!(kind, OpKind::Scan | OpKind::Query).then_some(
            "memcached has no ordered key space to scan; scans and queries run on forebay://, \
             etcd:// and dynamodb+http://",
        )
    }

    fn refuses_keys(&self, key_bytes: usize) -> Option<&'static str> {
        (key_bytes > KEY_BYTES_MAX).then_some("memcached's keys have at most 250 bytes")
    }
}

/// One connection's requests in order, and the torn reply at its end.
#[derive(Debug, Default)]
pub(crate) struct MemcachedCodec {
    asked: VecDeque<u64>,
    carry: Carry,
}

impl Codec for MemcachedCodec {
    fn encode(&mut self, request: Request<'_>, correlation: u64, out: &mut SendBuf) {
        self.asked.push_back(correlation);
        match request {
            Request::Get { key } => {
                out.extend_from_slice(b"get ");
                out.extend_from_slice(key);
                out.extend_from_slice(b"\r\n");
            }
            Request::Put { key, value } => push_store(b"set ", key, value, out),
            Request::PutExisting { key, value } => push_store(b"replace ", key, value, out),
            Request::Query { .. } | Request::Scan { .. } => {
                unreachable!("scans and queries are refused before a run starts")
            }
        }
    }

    fn decode(
        &mut self,
        bytes: &[u8],
        reply: &mut impl FnMut(u64, Outcome<'_>),
    ) -> Result<(), ProtocolError> {
        let asked = &mut self.asked;
        self.carry.feed(bytes, |bytes| {
            let Some((outcome, used)) = parse(bytes)? else { return Ok(None) };
            let correlation = asked.pop_front().ok_or(ProtocolError::Unasked)?;
            reply(correlation, outcome);
            Ok(Some(used))
        })
    }
}

fn push_store(command: &[u8], key: &[u8], value: &[u8], out: &mut SendBuf) {
    out.extend_from_slice(command);
    out.extend_from_slice(key);
    // Flags and expiry.
    out.extend_from_slice(b" 0 0 ");
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = value.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The first reply in `bytes` and its length, if it is whole.
fn parse(bytes: &[u8]) -> Result<Option<(Outcome<'_>, usize)>, ProtocolError> {
    // Every answer begins with a capital word.
    if !bytes[0].is_ascii_uppercase() {
        return Err(ProtocolError::ReplyKind { found: bytes[0] });
    }
    let Some(line_end) = bytes.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\n') else {
        return if bytes.len() < LINE_BYTES_MAX { Ok(None) } else { Err(ProtocolError::Length) };
    };
    let line = bytes[..line_end].strip_suffix(b"\r").ok_or(ProtocolError::Length)?;
    let used = line_end + 1;
    match line {
        b"STORED" => Ok(Some((Outcome::Done, used))),
        b"END" => Ok(Some((Outcome::Missing, used))),
        _ if line.starts_with(b"VALUE ") => {
            let length = value_length(line).ok_or(ProtocolError::Length)?;
            let end = used + length;
            let Some(tail) = bytes.get(end..end + VALUE_END.len()) else { return Ok(None) };
            if tail != VALUE_END {
                return Err(ProtocolError::Length);
            }
            Ok(Some((Outcome::Value(&bytes[used..end]), end + VALUE_END.len())))
        }
        b"NOT_STORED" => Ok(Some((Outcome::Refused(CONDITION_FAILED), used))),
        b"EXISTS" | b"NOT_FOUND" | b"ERROR" => refused(line, used),
        _ if line.starts_with(b"SERVER_ERROR") || line.starts_with(b"CLIENT_ERROR") => {
            refused(line, used)
        }
        _ => Err(ProtocolError::ReplyKind { found: bytes[0] }),
    }
}

/// What follows a value: one record was asked for, so `END` comes next.
const VALUE_END: &[u8] = b"\r\nEND\r\n";

fn refused(line: &[u8], used: usize) -> Result<Option<(Outcome<'_>, usize)>, ProtocolError> {
    let words = std::str::from_utf8(line).unwrap_or("an error that is not UTF-8");
    Ok(Some((Outcome::Refused(words), used)))
}

/// The last number of `VALUE KEY FLAGS LENGTH`.
fn value_length(line: &[u8]) -> Option<usize> {
    let digits = line.rsplit(|&byte| byte == b' ').next()?;
    if digits.is_empty() || digits.len() > 10 {
        return None;
    }
    digits
        .iter()
        .try_fold(0usize, |sum, digit| {
            digit.is_ascii_digit().then(|| sum * 10 + usize::from(digit - b'0'))
        })
        .filter(|&length| length <= VALUE_BYTES_MAX)
}

/// Version and memory.
fn ask_facts(mut stream: &TcpStream) -> std::io::Result<Vec<(String, String)>> {
    stream.write_all(b"version\r\nstats settings\r\n")?;
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    while !text.ends_with(b"END\r\n") {
        let read = stream.read(&mut piece)?;
        text.extend_from_slice(&piece[..read]);
        let is_foreign = !text.starts_with(&b"VERSION "[..text.len().min(8)]);
        if read == 0 || is_foreign || text.len() > 64 * 1024 {
            return Err(std::io::Error::other("the peer does not speak memcached's text protocol"));
        }
    }
    let text = String::from_utf8_lossy(&text);
    let setting = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("STAT ")?.strip_prefix(name));
        line.map_or_else(|| "not reported".to_owned(), |value| value.trim().to_owned())
    };
    let version = text.lines().find_map(|line| line.strip_prefix("VERSION ")).unwrap_or_default();
    Ok(vec![
        ("memcached_version".to_owned(), version.to_owned()),
        ("maxbytes".to_owned(), setting("maxbytes ")),
        ("evictions".to_owned(), setting("evictions ")),
        ("durability".to_owned(), "none: everything is in memory alone".to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Owned, a_warm_codec_allocates_nothing, every_split_decodes_alike};
    use super::*;

    #[test]
    fn requests_are_golden_text() {
        let mut codec = MemcachedCodec::default();
        let mut out = SendBuf::new();
        codec.encode(Request::Put { key: b"user1", value: b"a\r\nb" }, 1, &mut out);
        codec.encode(Request::PutExisting { key: b"user1", value: b"" }, 2, &mut out);
        codec.encode(Request::Get { key: b"user1" }, 3, &mut out);
        assert_eq!(
            out.as_slice(),
            b"set user1 0 0 4\r\na\r\nb\r\nreplace user1 0 0 0\r\n\r\nget user1\r\n"
        );
    }

    #[test]
    fn replies_in_any_pieces_match_requests_in_order() {
        let codec = || {
            let mut codec = MemcachedCodec::default();
            let mut out = SendBuf::new();
            for correlation in [7, 5, 9, 1, 2, 3] {
                codec.encode(Request::Get { key: b"k" }, correlation, &mut out);
            }
            codec
        };
        let stream = b"STORED\r\nVALUE k 0 7\r\nEND\r\nbc\r\nEND\r\nEND\r\n\
                       SERVER_ERROR out of memory\r\nVALUE k 0 0\r\n\r\nEND\r\nNOT_STORED\r\n";
        let expected = [
            (7, Owned::Done),
            (5, Owned::Value(b"END\r\nbc".to_vec())),
            (9, Owned::Missing),
            (1, Owned::Refused("SERVER_ERROR out of memory".to_owned())),
            (2, Owned::Value(Vec::new())),
            (3, Owned::Refused(CONDITION_FAILED.to_owned())),
        ];
        every_split_decodes_alike(codec, stream, &expected);
    }

    #[test]
    fn a_warm_connection_allocates_nothing() {
        let answers = |out: &mut SendBuf| {
            out.extend_from_slice(b"STORED\r\nEND\r\nSTORED\r\nVALUE k 0 3\r\nabc\r\nEND\r\n");
        };
        a_warm_codec_allocates_nothing(MemcachedCodec::default(), answers, 4);
    }

    #[test]
    fn foreign_bytes_are_named_errors() {
        let decode = |bytes: &[u8], asked: u64| {
            let mut codec = MemcachedCodec { asked: (0..asked).collect(), carry: Carry::default() };
            codec.decode(bytes, &mut |_, _| {})
        };
        assert_eq!(decode(b"+PONG\r\n", 1), Err(ProtocolError::ReplyKind { found: b'+' }));
        assert_eq!(decode(b"HTTP/1.1 400\r\n", 1), Err(ProtocolError::ReplyKind { found: b'H' }));
        assert_eq!(decode(b"STORED\r\n", 0), Err(ProtocolError::Unasked));
        assert_eq!(decode(b"VALUE k 0 x\r\n", 1), Err(ProtocolError::Length));
        assert_eq!(decode(b"VALUE k 0 99999999999\r\n", 1), Err(ProtocolError::Length));
        assert_eq!(decode(b"VALUE k 0 1\r\nabcdefgh\r\n", 1), Err(ProtocolError::Length));
        assert_eq!(decode(&[b'S'; LINE_BYTES_MAX], 1), Err(ProtocolError::Length));
    }
}
