//! Redis, over RESP2: SET and GET of the same records.
//!
//! Replies come in the order of the requests, so the connection's correlations wait in a queue. Scans
//! are refused: redis has no ordered key space to scan, and any substitute would measure something
//! else. A read-modify-write is a GET and then a SET. The table's name is not used: one database,
//! one key space.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use forebay_net::machine::SendBuf;

use super::{CONDITION_FAILED, Carry, Codec, Outcome, ProtocolError, Request, Target, TargetUrl};
use crate::error::BenchError;
use crate::workload::OpKind;

/// Largest bulk string that redis itself accepts.
const BULK_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Longest line: a length or an error message.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// A redis server.
#[derive(Debug)]
pub(crate) struct Redis {
    addresses: [SocketAddr; 1],
    facts: Vec<(String, String)>,
}

impl Redis {
    /// Asks the server at `url` for its version and durability settings.
    pub(crate) fn setup(url: &TargetUrl, timeout: Duration) -> Result<Redis, BenchError> {
        let address = url.resolve()?;
        let facts = super::dial(address, timeout).and_then(|stream| ask_facts(&stream));
        let facts = facts.map_err(|source| BenchError::unreachable(url, address, source))?;
        Ok(Redis { addresses: [address], facts })
    }
}

impl Target for Redis {
    type Codec = RedisCodec;

    fn codec(&self) -> RedisCodec {
        RedisCodec::default()
    }

    fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    fn facts(&self) -> &[(String, String)] {
        &self.facts
    }

    fn refuses(&self, kind: OpKind) -> Option<&'static str> {
        matches!(kind, OpKind::Scan | OpKind::Query).then_some(
            "redis has no ordered key space to scan; scans and queries run on forebay://, etcd:// \
             and dynamodb+http://",
        )
    }
}

/// One connection's requests in order, and the torn reply at its end.
#[derive(Debug, Default)]
pub(crate) struct RedisCodec {
    /// Correlations, and whether a null answer means that a condition failed.
    asked: VecDeque<(u64, bool)>,
    carry: Carry,
    get: Template,
    set: Template,
}

impl Codec for RedisCodec {
    fn encode(&mut self, request: Request<'_>, correlation: u64, out: &mut SendBuf) {
        let is_conditional = matches!(request, Request::PutExisting { .. });
        self.asked.push_back((correlation, is_conditional));
        match request {
            Request::Get { key } => self.get.push(b"*2\r\n$3\r\nGET", key, None, out),
            Request::Put { key, value } => {
                self.set.push(b"*3\r\n$3\r\nSET", key, Some(value), out);
                out.extend_from_slice(b"\r\n");
            }
            Request::PutExisting { key, value } => {
                self.set.push(b"*4\r\n$3\r\nSET", key, Some(value), out);
                out.extend_from_slice(b"\r\n$2\r\nXX\r\n");
            }
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
            let (correlation, is_conditional) = asked.pop_front().ok_or(ProtocolError::Unasked)?;
            let outcome = match outcome {
                Outcome::Missing if is_conditional => Outcome::Refused(CONDITION_FAILED),
                outcome => outcome,
            };
            reply(correlation, outcome);
            Ok(Some(used))
        })
    }
}

/// A command spelled out up to its value. Most are as long as the one before and differ in the key
/// alone, so that most cost one copy of all that stands before the value.
///
/// ```text
///   *3 CRLF $3 CRLF SET CRLF $24 CRLF user…0123 CRLF $100 CRLF │ value
///   └── verb ─────────┘               └─ key_at              └─ the template's end
/// ```
#[derive(Debug, Default)]
struct Template {
    text: Vec<u8>,
    verb: &'static [u8],
    key_at: usize,
    key_bytes: usize,
    value_bytes: Option<usize>,
}

impl Template {
    /// Appends everything up to the value's end; a get has no value.
    fn push(&mut self, verb: &'static [u8], key: &[u8], value: Option<&[u8]>, out: &mut SendBuf) {
        let value_bytes = value.map(<[u8]>::len);
        if (self.verb, self.key_bytes, self.value_bytes) != (verb, key.len(), value_bytes) {
            self.spell(verb, key.len(), value_bytes);
        }
        self.text[self.key_at..][..key.len()].copy_from_slice(key);
        out.extend_from_slice(&self.text);
        if let Some(value) = value {
            out.extend_from_slice(value);
        }
    }

    fn spell(&mut self, verb: &'static [u8], key_bytes: usize, value_bytes: Option<usize>) {
        let text = &mut self.text;
        text.clear();
        text.extend_from_slice(verb);
        push_length(key_bytes, text);
        self.key_at = text.len();
        text.resize(self.key_at + key_bytes, 0);
        match value_bytes {
            Some(bytes) => push_length(bytes, text),
            None => text.extend_from_slice(b"\r\n"),
        }
        (self.verb, self.key_bytes, self.value_bytes) = (verb, key_bytes, value_bytes);
    }
}

/// Ends a line, and adds the one that says a bulk string's length.
fn push_length(bytes: usize, text: &mut Vec<u8>) {
    text.extend_from_slice(b"\r\n$");
    let digits_at = text.len();
    let mut rest = bytes;
    loop {
        text.push(b'0' + (rest % 10) as u8);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    text[digits_at..].reverse();
    text.extend_from_slice(b"\r\n");
}

/// The first reply in `bytes` and its length, if it is whole.
fn parse(bytes: &[u8]) -> Result<Option<(Outcome<'_>, usize)>, ProtocolError> {
    let kind = bytes[0];
    if !matches!(kind, b'+' | b'-' | b':' | b'$') {
        return Err(ProtocolError::ReplyKind { found: kind });
    }
    // What a put is answered with, nearly always.
    if let Some(b"+OK\r\n") = bytes.first_chunk() {
        return Ok(Some((Outcome::Done, 5)));
    }
    let Some(line_end) = bytes.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\n') else {
        return if bytes.len() < LINE_BYTES_MAX { Ok(None) } else { Err(ProtocolError::Length) };
    };
    let line = bytes[1..line_end].strip_suffix(b"\r").ok_or(ProtocolError::Length)?;
    let used = line_end + 1;
    match kind {
        b'-' => {
            let words = std::str::from_utf8(line).unwrap_or("an error that is not UTF-8");
            Ok(Some((Outcome::Refused(words), used)))
        }
        b'$' if line == b"-1" => Ok(Some((Outcome::Missing, used))),
        b'$' => {
            let length = parse_length(line).ok_or(ProtocolError::Length)?;
            let end = used + length;
            if bytes.len() < end + 2 {
                return Ok(None);
            }
            if &bytes[end..end + 2] != b"\r\n" {
                return Err(ProtocolError::Length);
            }
            Ok(Some((Outcome::Value(&bytes[used..end]), end + 2)))
        }
        _ => Ok(Some((Outcome::Done, used))),
    }
}

fn parse_length(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    digits
        .iter()
        .try_fold(0usize, |sum, digit| {
            digit.is_ascii_digit().then(|| sum * 10 + usize::from(digit - b'0'))
        })
        .filter(|&length| length <= BULK_BYTES_MAX)
}

/// Version and durability, asked with inline commands: each answer is one bulk string or an array of
/// two, and all that matters is in its lines.
fn ask_facts(mut stream: &TcpStream) -> std::io::Result<Vec<(String, String)>> {
    stream
        .write_all(b"INFO server\r\nCONFIG GET appendonly\r\nCONFIG GET appendfsync\r\nPING\r\n")?;
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    // PONG ends the answers; an error to PING (authentication) does too.
    while !text.ends_with(b"+PONG\r\n") {
        let read = stream.read(&mut piece)?;
        if read == 0 || text.len() > LINE_BYTES_MAX {
            return Err(std::io::Error::other("the peer does not speak the redis protocol"));
        }
        text.extend_from_slice(&piece[..read]);
        if text.starts_with(b"-NOAUTH") {
            return Err(std::io::Error::other("the server wants a password; use one without"));
        }
        // INFO is answered with a bulk string by whatever calls itself redis.
        if text[0] != b'$' {
            let line: String = String::from_utf8_lossy(&text).lines().take(1).collect();
            let words = format!("the peer does not speak the redis protocol; it says {line:.60?}");
            return Err(std::io::Error::other(words));
        }
    }
    let text = String::from_utf8_lossy(&text);
    let mut facts = Vec::new();
    if let Some(version) = text.lines().find_map(|line| line.strip_prefix("redis_version:")) {
        facts.push(("redis_version".to_owned(), version.to_owned()));
    }
    for setting in ["appendonly", "appendfsync"] {
        let mut lines = text.lines().skip_while(|line| *line != setting);
        // The name, then the length of the value, then the value.
        if let Some(value) = lines.nth(2) {
            facts.push((setting.to_owned(), value.to_owned()));
        }
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Owned, a_warm_codec_allocates_nothing, every_split_decodes_alike};
    use super::*;

    #[test]
    fn requests_are_golden_resp() {
        let mut codec = RedisCodec::default();
        let mut out = SendBuf::new();
        codec.encode(Request::Put { key: b"user1", value: &[b'x'; 12] }, 1, &mut out);
        codec.encode(Request::Get { key: b"user1" }, 2, &mut out);
        assert_eq!(
            out.as_slice(),
            b"*3\r\n$3\r\nSET\r\n$5\r\nuser1\r\n$12\r\nxxxxxxxxxxxx\r\n*2\r\n$3\r\nGET\r\n$5\r\nuser1\r\n"
        );
    }

    #[test]
    fn a_command_of_another_shape_is_spelled_anew() {
        let mut codec = RedisCodec::default();
        for (key, value) in
            [("k", &b""[..]), ("key", b"abc"), ("yek", b"xyz"), ("k", b""), ("k", b"0123456789")]
        {
            let mut expected = String::new();
            let text = std::str::from_utf8(value).unwrap();
            for (count, end) in [(3, ""), (4, "$2\r\nXX\r\n"), (3, "")] {
                expected += &format!(
                    "*{count}\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{text}\r\n{end}",
                    key.len(),
                    value.len()
                );
            }
            expected += &format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
            let mut out = SendBuf::new();
            let key = key.as_bytes();
            for request in [
                Request::Put { key, value },
                Request::PutExisting { key, value },
                Request::Put { key, value },
                Request::Get { key },
            ] {
                codec.encode(request, 0, &mut out);
            }
            assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
        }
    }

    #[test]
    fn replies_in_any_pieces_match_requests_in_order() {
        let codec = || {
            let mut codec = RedisCodec::default();
            let mut out = SendBuf::new();
            for correlation in [7, 5, 9, 1, 2] {
                codec.encode(Request::Get { key: b"k" }, correlation, &mut out);
            }
            codec
        };
        let stream = b"+OK\r\n$5\r\na\r\nbc\r\n$-1\r\n-MISCONF no disk\r\n$0\r\n\r\n";
        let expected = [
            (7, Owned::Done),
            (5, Owned::Value(b"a\r\nbc".to_vec())),
            (9, Owned::Missing),
            (1, Owned::Refused("MISCONF no disk".to_owned())),
            (2, Owned::Value(Vec::new())),
        ];
        every_split_decodes_alike(codec, stream, &expected);
    }

    #[test]
    fn a_condition_that_fails_is_a_refusal_and_a_missing_record_is_not() {
        let mut codec = RedisCodec::default();
        let mut out = SendBuf::new();
        codec.encode(Request::PutExisting { key: b"k", value: b"v" }, 1, &mut out);
        codec.encode(Request::Get { key: b"k" }, 2, &mut out);
        assert!(out.starts_with(b"*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n$2\r\nXX\r\n"));
        let mut got = Vec::new();
        codec.decode(b"$-1\r\n$-1\r\n", &mut |n, o| got.push((n, Owned::from(o)))).unwrap();
        let refused = Owned::Refused(CONDITION_FAILED.to_owned());
        assert_eq!(got, [(1, refused), (2, Owned::Missing)]);
    }

    #[test]
    fn a_warm_connection_allocates_nothing() {
        let answers =
            |out: &mut SendBuf| out.extend_from_slice(b"+OK\r\n$-1\r\n+OK\r\n$3\r\nabc\r\n");
        a_warm_codec_allocates_nothing(RedisCodec::default(), answers, 4);
    }

    #[test]
    fn foreign_bytes_are_named_errors() {
        let decode = |bytes: &[u8], asked: u64| {
            let mut codec = RedisCodec {
                asked: (0..asked).map(|n| (n, false)).collect(),
                ..RedisCodec::default()
            };
            codec.decode(bytes, &mut |_, _| {})
        };
        assert_eq!(decode(b"HTTP/1.1", 1), Err(ProtocolError::ReplyKind { found: b'H' }));
        assert_eq!(decode(b"+OK\r\n", 0), Err(ProtocolError::Unasked));
        assert_eq!(decode(b"$x\r\n", 1), Err(ProtocolError::Length));
        assert_eq!(decode(b"$9999999999\r\n", 1), Err(ProtocolError::Length));
        assert_eq!(decode(b"$1\r\nabc", 1), Err(ProtocolError::Length));
        assert_eq!(decode(&[b'+'; LINE_BYTES_MAX], 1), Err(ProtocolError::Length));
    }
}
