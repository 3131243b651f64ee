//! etcd 3, over gRPC: KV.Range, KV.Put and KV.Txn of the same records.
//!
//! A record is one key in etcd's one ordered key space; the table's name is not used. Gets are
//! linearizable, as etcd's own default is, or serializable if any replica may answer. A scan is a
//! range of keys from the start key on, a query the same within its partition key's prefix, and a
//! conditional put a transaction that compares the key's version.
//!
//! Of several endpoints the leader is used, whatever it is when the run begins: a follower would
//! forward every write and confirm every linearizable read with it, so this is etcd at its best. If
//! the leader moves meanwhile, requests go the longer way, and latencies show it. Serializable reads
//! go there too.
//!
//! etcd keeps every version of a key until it is compacted, and refuses writes once its quota of 2 GB
//! (by default) is reached; a long run of puts then reports refusals in etcd's own words.

mod messages;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use forebay_net::machine::SendBuf;

use super::grpc::{CallEnd, GrpcConnection};
use super::{
    CONDITION_FAILED, Codec, Outcome, ProtocolError, Request, Setup, Target, TargetUrl, split_key,
};
use crate::error::BenchError;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";
const MEMBERS: &str = "/etcdserverpb.Cluster/MemberList";

/// `range_end` for "to the end of the key space".
const TO_THE_END: &[u8] = b"\0";

/// An etcd cluster.
#[derive(Debug)]
pub(crate) struct Etcd {
    addresses: [SocketAddr; 1],
    authority: String,
    facts: Vec<(String, String)>,
    sort_digits: usize,
    serializable: bool,
}

impl Etcd {
    /// Asks every endpoint of `url` who it is, and finds the leader.
    pub(crate) fn setup(url: &TargetUrl, setup: &Setup<'_>) -> Result<Etcd, BenchError> {
        let addresses = url.resolve_all()?;
        let mut told = Vec::new();
        for &address in &addresses {
            let message = ask(address, STATUS, setup.timeout)
                .map_err(|source| BenchError::unreachable(url, address, source))?;
            told.push(messages::status(&message)?);
        }
        let members = ask(addresses[0], MEMBERS, setup.timeout)
            .map_err(|source| BenchError::unreachable(url, addresses[0], source))?;
        let members = messages::members(&members)?;
        let leads = |status: &messages::Status| status.member == status.leader;
        let (at, is_leader) = match told.iter().position(leads) {
            Some(at) => (at, true),
            None => (0, false),
        };
        let goes_to = match (is_leader, addresses.len()) {
            (true, 1) => "the leader, the one endpoint given".to_owned(),
            (true, given) => format!("the leader, of {given} endpoints given"),
            (false, _) => {
                "a follower, which forwards writes: the leader is not among the endpoints"
                    .to_owned()
            }
        };
        let reads = match setup.consistent {
            true => "linearizable",
            false => "serializable: the member's own state, perhaps stale",
        };
        let facts = [
            ("etcd_version", told[at].version.clone()),
            ("members", members.to_string()),
            ("requests_go_to", goes_to),
            ("reads", reads.to_owned()),
            (
                "durability",
                format!(
                    "a write is acknowledged when {} of {members} logs have it on the device \
                     (unless started with --unsafe-no-fsync, which etcd does not tell)",
                    members / 2 + 1
                ),
            ),
        ];
        Ok(Etcd {
            addresses: [addresses[at]],
            authority: addresses[at].to_string(),
            facts: facts.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            sort_digits: setup.sort_digits,
            serializable: !setup.consistent,
        })
    }
}

impl Target for Etcd {
    type Codec = EtcdCodec;

    fn codec(&self) -> EtcdCodec {
        EtcdCodec {
            grpc: GrpcConnection::new(&self.authority),
            message: Vec::new(),
            end: Vec::new(),
            sort_digits: self.sort_digits,
            serializable: self.serializable,
        }
    }

    fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    fn facts(&self) -> &[(String, String)] {
        &self.facts
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct EtcdCodec {
    grpc: GrpcConnection,
    message: Vec<u8>,
    end: Vec<u8>,
    sort_digits: usize,
    serializable: bool,
}

impl Codec for EtcdCodec {
    fn encode(&mut self, request: Request<'_>, correlation: u64, out: &mut SendBuf) {
        self.message.clear();
        let message = &mut self.message;
        let path = match request {
            Request::Get { key } => {
                messages::range(message, key, None, 0, self.serializable);
                RANGE
            }
            Request::Put { key, value } => {
                messages::put(message, key, value);
                PUT
            }
            Request::PutExisting { key, value } => {
                messages::put_existing(message, key, value);
                TXN
            }
            Request::Query { key, items } => {
                let (partition, _) = split_key(key, self.sort_digits);
                prefix_end(partition, &mut self.end);
                messages::range(message, key, Some(&self.end), items, self.serializable);
                RANGE
            }
            Request::Scan { key, items } => {
                messages::range(message, key, Some(TO_THE_END), items, self.serializable);
                RANGE
            }
        };
        self.grpc.call(path, &self.message, correlation, out);
    }

    fn decode(
        &mut self,
        bytes: &[u8],
        reply: &mut impl FnMut(u64, Outcome<'_>),
    ) -> Result<(), ProtocolError> {
        let mut damaged = None;
        self.grpc.receive(bytes, &mut |correlation, path, end| match outcome_of(path, end) {
            Ok(outcome) => reply(correlation, outcome),
            Err(error) => damaged = Some(error),
        })?;
        damaged.map_or(Ok(()), Err)
    }

    fn speak(&mut self, out: &mut SendBuf) {
        self.grpc.speak(out);
    }
}

fn outcome_of<'a>(path: &str, end: CallEnd<'a>) -> Result<Outcome<'a>, ProtocolError> {
    let message = match end {
        CallEnd::Message(message) => message,
        CallEnd::Failed(words) => return Ok(Outcome::Refused(words)),
    };
    Ok(match path {
        RANGE => match messages::range_value(message)? {
            Some(value) => Outcome::Value(value),
            None => Outcome::Missing,
        },
        TXN if !messages::txn_succeeded(message)? => Outcome::Refused(CONDITION_FAILED),
        _ => Outcome::Done,
    })
}

/// The first key after all those that begin with `prefix`, which ends with a digit.
fn prefix_end(prefix: &[u8], end: &mut Vec<u8>) {
    end.clear();
    end.extend_from_slice(prefix);
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
}

/// One call with an empty message over a blocking socket; the answer's message.
fn ask(address: SocketAddr, path: &'static str, timeout: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = crate::target::dial(address, timeout)?;
    let mut grpc = GrpcConnection::new(&address.to_string());
    let mut out = SendBuf::new();
    grpc.call(path, &[], 0, &mut out);
    let mut answer = None;
    let mut piece = [0; 4096];
    loop {
        stream.write_all(&out)?;
        out.clear();
        if let Some(answer) = answer {
            return answer;
        }
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Err(std::io::Error::other("the peer closed the connection: is this etcd 3?"));
        }
        grpc.receive(&piece[..read], &mut |_, _, end| {
            answer = Some(match end {
                CallEnd::Message(message) => Ok(message.to_vec()),
                CallEnd::Failed(words) => Err(std::io::Error::other(words.to_owned())),
            });
        })
        .map_err(std::io::Error::other)?;
        grpc.speak(&mut out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec() -> EtcdCodec {
        EtcdCodec {
            grpc: GrpcConnection::new("127.0.0.1:2379"),
            message: Vec::new(),
            end: Vec::new(),
            sort_digits: 2,
            serializable: false,
        }
    }

    #[test]
    fn a_query_stays_within_its_partition_key() {
        let mut codec = codec();
        codec.encode(Request::Query { key: b"user000942", items: 7 }, 1, &mut SendBuf::new());
        assert_eq!(codec.message, b"\x0a\x0auser000942\x12\x08user000:\x18\x07");
        codec.encode(Request::Scan { key: b"user000942", items: 7 }, 2, &mut SendBuf::new());
        assert_eq!(codec.message, b"\x0a\x0auser000942\x12\x01\0\x18\x07");
    }

    #[test]
    fn answers_are_read_by_what_was_asked() {
        let read = |path, message| outcome_of(path, CallEnd::Message(message));
        assert_eq!(read(RANGE, b"\x12\x05\x0a\x01k\x2a\x00"), Ok(Outcome::Value(b"")));
        assert_eq!(read(RANGE, b""), Ok(Outcome::Missing));
        assert_eq!(read(PUT, b""), Ok(Outcome::Done));
        assert_eq!(read(TXN, b"\x10\x01"), Ok(Outcome::Done));
        assert_eq!(read(TXN, b""), Ok(Outcome::Refused(CONDITION_FAILED)));
        let refused = outcome_of(PUT, CallEnd::Failed("etcdserver: too many requests"));
        assert_eq!(refused, Ok(Outcome::Refused("etcdserver: too many requests")));
        assert!(read(RANGE, b"\x12\x09").is_err());
    }
}
