//! The stores that can be measured, each as a protocol codec.
//!
//! ```text
//!   generator ── Request, correlation ──► Codec::encode ──► bytes ──► socket
//!             ◄─ correlation, Outcome ─── Codec::decode ◄── bytes ◄──
//! ```
//!
//! A [`Target`] is what the threads share: addresses, routing, the facts about the store that a
//! report must state. A [`Codec`] is one connection's protocol state. Neither opens a socket, so the
//! generator drives every target alike, and [`session`] drives the same codecs over blocking sockets
//! for setup and verification.
//!
//! A lane is what the command line calls a connection: up to `depth` operations outstanding. It has
//! one socket to every address of its target, because a sharded store serves each key from its own
//! port; with one address a lane is one socket. Of a replicated store it has one to every node as well:
//! a client that meets a dead leader then has the next one's connection at hand, and what a report
//! shows is the store's pause, not the time that connecting takes.

pub(crate) mod dynamodb;
pub(crate) mod etcd;
pub(crate) mod floor;
pub(crate) mod forebay;
mod grpc;
pub(crate) mod memcached;
pub(crate) mod redis;
pub(crate) mod session;
pub(crate) mod tls;
mod url;

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use forebay_net::machine::SendBuf;
pub(crate) use url::{Scheme, TargetUrl};

use crate::workload::OpKind;

/// How long reaching a target may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Sets up the target behind `$url` and evaluates `$body` with it as `$target`.
macro_rules! with_target {
    ($url:expr, $setup:expr, |$target:ident| $body:expr) => {{
        use std::sync::Arc;

        use $crate::target::{Scheme, Setup, TargetUrl};

        let (url, setup): (&TargetUrl, &Setup<'_>) = ($url, $setup);
        match url.scheme {
            Scheme::Redis => {
                let $target = Arc::new(
                    $crate::target::redis::Redis::setup(url, setup.timeout)
                        .map_err(|e| e.of(url))?,
                );
                $body
            }
            Scheme::Floor => {
                let $target = Arc::new(
                    $crate::target::floor::Floor::setup(url, setup.timeout)
                        .map_err(|e| e.of(url))?,
                );
                $body
            }
            Scheme::Forebay => {
                let $target = Arc::new(
                    $crate::target::forebay::Forebay::setup(url, setup).map_err(|e| e.of(url))?,
                );
                $body
            }
            Scheme::ForebayTls => {
                let $target =
                    Arc::new($crate::target::tls::forebay(url, setup).map_err(|e| e.of(url))?);
                $body
            }
            Scheme::Etcd => {
                let $target =
                    Arc::new($crate::target::etcd::Etcd::setup(url, setup).map_err(|e| e.of(url))?);
                $body
            }
            Scheme::DynamoDb => {
                let $target = Arc::new(
                    $crate::target::dynamodb::DynamoDb::setup(url, setup).map_err(|e| e.of(url))?,
                );
                $body
            }
            Scheme::DynamoDbTls => {
                let $target =
                    Arc::new($crate::target::tls::dynamodb(url, setup).map_err(|e| e.of(url))?);
                $body
            }
            Scheme::Memcached => {
                let $target = Arc::new(
                    $crate::target::memcached::Memcached::setup(url, setup)
                        .map_err(|e| e.of(url))?,
                );
                $body
            }
        }
    }};
}
pub(crate) use with_target;

/// A blocking connection for questions before or after a run; `timeout` is for reaching the server,
/// and for each answer.
fn dial(address: SocketAddr, timeout: Duration) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What a store is told about the data before a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup<'a> {
    /// The table, where a store has tables.
    pub(crate) table: &'a str,
    /// How many digits at a key's end are its sort key; 0 for none. What comes before is the
    /// partition key, so 10 to that power records share one.
    pub(crate) sort_digits: usize,
    /// Reads see every acknowledged write. Otherwise a store may answer from any replica.
    pub(crate) consistent: bool,
    /// How long reaching it may take.
    pub(crate) timeout: Duration,
    /// Whom to believe about a server's name, in PEM, instead of whom this system believes.
    pub(crate) ca_pem: Option<&'a [u8]>,
}

/// Parts of a record's key where its last `sort_digits` digits are the sort key.
pub(crate) fn split_key(key: &[u8], sort_digits: usize) -> (&[u8], &[u8]) {
    key.split_at(key.len() - sort_digits)
}

/// One request on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request<'a> {
    /// Read one record.
    Get {
        /// Its key.
        key: &'a [u8],
    },
    /// Write one record.
    Put {
        /// Its key.
        key: &'a [u8],
        /// Its bytes.
        value: &'a [u8],
    },
    /// Write one record if it is there.
    PutExisting {
        /// Its key.
        key: &'a [u8],
        /// Its bytes.
        value: &'a [u8],
    },
    /// Read records of `key`'s partition key, from its sort key on.
    Query {
        /// Where to start.
        key: &'a [u8],
        /// At most so many.
        items: u32,
    },
    /// Read records from `key` on.
    Scan {
        /// Where to start.
        key: &'a [u8],
        /// At most so many.
        items: u32,
    },
}

impl<'a> Request<'a> {
    /// The key that decides where it goes.
    pub(crate) fn key(&self) -> &'a [u8] {
        match self {
            Request::Get { key }
            | Request::Put { key, .. }
            | Request::PutExisting { key, .. }
            | Request::Query { key, .. }
            | Request::Scan { key, .. } => key,
        }
    }
}

/// The words of a conditional write whose record was not there. The load wrote every record, so it
/// tells that something is wrong, and counts as an error.
pub(crate) const CONDITION_FAILED: &str = "the condition failed: no such record";

/// What a store answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome<'a> {
    /// A write was acknowledged, or records were scanned.
    Done,
    /// A record's bytes.
    Value(&'a [u8]),
    /// There is no such record.
    Missing,
    /// An error, in the store's words.
    Refused(&'a str),
    /// An error that leaves open whether a write takes effect, in the store's words.
    Unknown(&'a str),
    /// Not executed, because another replica leads; perhaps it says where (an unspecified address:
    /// where the one asked is).
    Elsewhere(Option<SocketAddr>),
}

/// Bytes that are not the protocol. The connection is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// A reply of a kind that no request asks for, or no reply at all.
    #[error("byte 0x{found:02x} where a reply should begin; is this address really that store?")]
    ReplyKind {
        /// The byte.
        found: u8,
    },
    /// A length that is no number or beyond any reply.
    #[error("a reply's length is malformed or too large")]
    Length,
    /// More replies than requests.
    #[error("a reply without a request")]
    Unasked,
    /// The server ends the connection, or speaks HTTP/2 as it must not.
    #[error("HTTP/2: {what} (code {code})")]
    Http2 {
        /// What happened.
        what: &'static str,
        /// HTTP/2's error code, where there is one.
        code: u32,
    },
    /// TLS that cannot go on.
    #[error("TLS: {what}")]
    Tls {
        /// Why.
        what: &'static str,
    },
    /// A frame that fails its checks.
    #[error("a reply frame is damaged: {what}")]
    Damaged {
        /// Which check.
        what: &'static str,
    },
}

/// One connection's protocol.
pub(crate) trait Codec {
    /// Appends `request` to `out`. Its reply will carry `correlation`.
    fn encode(&mut self, request: Request<'_>, correlation: u64, out: &mut SendBuf);

    /// Takes what arrived, in pieces of any size, and hands over every whole reply.
    fn decode(
        &mut self,
        bytes: &[u8],
        reply: &mut impl FnMut(u64, Outcome<'_>),
    ) -> Result<(), ProtocolError>;

    /// Appends what the protocol itself has to send, on a new connection and after [`Codec::decode`]:
    /// greetings, acknowledgements, or requests that had to wait. Most protocols have nothing to say.
    fn speak(&mut self, _out: &mut SendBuf) {}

    /// Appends a question that a live server answers at once, to tell a slow one from a stopped one.
    /// Asked only of targets with replicas.
    fn probe(&mut self, _out: &mut SendBuf) {}

    /// Whether operations may be asked. A protocol that must come to an understanding first says no
    /// until it has; it speaks first, and then whenever something arrives.
    fn is_ready(&self) -> bool {
        true
    }
}

/// A store to measure.
pub(crate) trait Target: Send + Sync + 'static {
    /// Its protocol.
    type Codec: Codec;

    /// The state of a new connection.
    fn codec(&self) -> Self::Codec;
    /// Where each lane connects.
    fn addresses(&self) -> &[SocketAddr];
    /// Which of the addresses serves `key`.
    fn route(&self, _key: &[u8]) -> usize {
        0
    }
    /// How many addresses hold each key, of which one leads: the addresses are so many equal parts, one
    /// a node, and the same place in another part is the next replica. With one there is no leader to
    /// look for.
    fn replicas(&self) -> usize {
        1
    }
    /// What was sent to address `from` for `key` goes to address `to` from here on, unless it was sent
    /// elsewhere already by another's word.
    fn lead(&self, _key: &[u8], _from: usize, _to: usize) {}
    /// What a report must say about it: version, durability settings.
    fn facts(&self) -> &[(String, String)];
    /// Why `kind` cannot be asked of it.
    fn refuses(&self, _kind: OpKind) -> Option<&'static str> {
        None
    }
    /// Why it takes no keys of so many bytes.
    fn refuses_keys(&self, _key_bytes: usize) -> Option<&'static str> {
        None
    }
}

/// The replica after address `at`.
pub(crate) fn next_replica(target: &impl Target, at: usize) -> usize {
    let addresses = target.addresses().len();
    (at + addresses / target.replicas()) % addresses
}

/// Takes in that address `from` does not lead for `key`, as it says itself. Returns the address to ask
/// next if it was named; otherwise the next replica is the one to try, after a pause.
pub(crate) fn follow<T: Target>(
    target: &T,
    key: &[u8],
    from: usize,
    leader: Option<SocketAddr>,
    can_be_asked: impl Fn(usize) -> bool,
) -> Option<usize> {
    let place = |mut leader: SocketAddr| {
        if leader.ip().is_unspecified() {
            leader.set_ip(target.addresses()[from].ip());
        }
        target.addresses().iter().position(|known| *known == leader)
    };
    let named = leader.and_then(place).filter(|&at| at != from && can_be_asked(at));
    target.lead(key, from, named.unwrap_or_else(|| next_replica(target, from)));
    named
}

/// The address that serves `key`, or the next replica that can be asked; None if none can.
pub(crate) fn open_route<T: Target>(
    target: &T,
    key: &[u8],
    can_be_asked: impl Fn(usize) -> bool,
) -> Option<usize> {
    for _ in 0..target.replicas() {
        let at = target.route(key);
        if can_be_asked(at) {
            return Some(at);
        }
        target.lead(key, at, next_replica(target, at));
    }
    None
}

/// Bytes of a reply that has not arrived whole.
///
/// Most reads bring whole replies, which are then decoded where they lie; only a torn one's bytes
/// are copied here.
#[derive(Debug, Default)]
pub(crate) struct Carry {
    bytes: Vec<u8>,
}

impl Carry {
    /// Calls `one` on what is there until it wants more. `one` returns the bytes that it used, or
    /// None if the reply is not whole yet.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        mut one: impl FnMut(&[u8]) -> Result<Option<usize>, ProtocolError>,
    ) -> Result<(), ProtocolError> {
        if self.bytes.is_empty() {
            let used = consume(bytes, &mut one)?;
            self.bytes.extend_from_slice(&bytes[used..]);
        } else {
            self.bytes.extend_from_slice(bytes);
            let used = consume(&self.bytes, &mut one)?;
            self.bytes.drain(..used);
        }
        Ok(())
    }
}

fn consume(
    bytes: &[u8],
    one: &mut impl FnMut(&[u8]) -> Result<Option<usize>, ProtocolError>,
) -> Result<usize, ProtocolError> {
    let mut used = 0;
    while used < bytes.len() {
        match one(&bytes[used..])? {
            Some(more) => used += more,
            None => break,
        }
    }
    Ok(used)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::allocations::allocations_in;

    /// An outcome that outlives the bytes it was read from.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) enum Owned {
        Done,
        Value(Vec<u8>),
        Missing,
        Refused(String),
        Unknown(String),
        Elsewhere(Option<SocketAddr>),
    }

    impl From<Outcome<'_>> for Owned {
        fn from(outcome: Outcome<'_>) -> Owned {
            match outcome {
                Outcome::Done => Owned::Done,
                Outcome::Value(bytes) => Owned::Value(bytes.to_vec()),
                Outcome::Missing => Owned::Missing,
                Outcome::Refused(words) => Owned::Refused(words.to_owned()),
                Outcome::Unknown(words) => Owned::Unknown(words.to_owned()),
                Outcome::Elsewhere(leader) => Owned::Elsewhere(leader),
            }
        }
    }

    /// Feeds `stream` in pieces of every size to codecs from `codec`, and demands `expected` always.
    pub(crate) fn every_split_decodes_alike<C: Codec>(
        mut codec: impl FnMut() -> C,
        stream: &[u8],
        expected: &[(u64, Owned)],
    ) {
        for piece in 1..=stream.len() {
            let mut codec = codec();
            let mut got = Vec::new();
            for bytes in stream.chunks(piece) {
                codec
                    .decode(bytes, &mut |correlation, outcome| {
                        got.push((correlation, Owned::from(outcome)));
                    })
                    .unwrap();
            }
            assert_eq!(got, expected, "in pieces of {piece}");
        }
    }

    /// Asks and answers many times; only the first rounds may allocate.
    pub(crate) fn a_warm_codec_allocates_nothing<C: Codec>(
        mut codec: C,
        answers: impl Fn(&mut SendBuf),
        correlations: u64,
    ) {
        let mut out = SendBuf::new();
        let mut stream = SendBuf::new();
        answers(&mut stream);
        let mut round = || {
            out.clear();
            for correlation in 0..correlations {
                let request = match correlation % 2 {
                    0 => Request::Put { key: &[b'k'; 24], value: &[7; 100] },
                    _ => Request::Get { key: &[b'k'; 24] },
                };
                codec.encode(request, correlation, &mut out);
            }
            let mut replies = 0;
            // A torn reply each time.
            for piece in [&stream[..stream.len() - 5], &stream[stream.len() - 5..]] {
                codec.decode(piece, &mut |_, _| replies += 1).unwrap();
            }
            assert_eq!(replies, correlations);
        };
        (0..10).for_each(|_| round());
        assert_eq!(allocations_in(|| (0..100).for_each(|_| round())), 0);
    }
}
