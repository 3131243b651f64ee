//! Forebay, over its native protocol.
//!
//! A record is an item of two attributes: `id` (S, the key) and `v` (B, the value). The table has
//! `id` as its partition key and no sort key, so the comparison with a plain key-value store is one
//! key to one key; key order is then the order of the keys' hashes, and a scan (workload e) reads
//! the items whose hashes follow the start key's, within its partition.
//!
//! Requests are unconditional puts and consistent gets. Each goes straight to the shard that leads
//! its partition. On one node that is known from the start. Of several nodes
//! (`forebay://A:P,B:P,C:P`) each may lead any partition, and the leaders change:
//!
//! ```text
//!   addresses   node A: shard 0, shard 1 │ node B: shard 0, shard 1 │ node C: …     a part for each node
//!   leading     partition ─► address      one atomic number each, shared by all threads
//! ```
//!
//! Gets and queries that need not be consistent (`run --eventual`) go to the nodes in turn.
//!
//! A partition is asked of the first node until an answer names another ([`Outcome::Elsewhere`]). No
//! connection carries operations before its node has answered once, because the kernel accepts
//! connections for a stopped process too.

mod setup;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use forebay_core::expression::{Condition, ConditionExpression, SortKeyCondition};
use forebay_core::item::{ItemRef, ItemWriter, ValueRef};
use forebay_core::key::partition_hash;
use forebay_core::message::{
    ArchivedErrorReply, ArchivedGetReply, ArchivedNotLeaderReply, DescribeNodeRequest, ErrorCode,
    GetRequest, Kind, PutRequest, QueryRequest, ReturnValues, ScanRequest,
};
use forebay_net::frame::{self, Frame, Inbox, PROTOCOL_VERSION};
use forebay_net::machine::SendBuf;
use forebay_net::tls::ClientTls;

use super::{Codec, Outcome, ProtocolError, Request, Setup, Target, TargetUrl, split_key};
use crate::error::BenchError;

/// The key attribute.
const ID: &str = "id";
/// The sort key attribute, in tables that have one.
const SORT: &str = "n";
/// The value attribute.
const VALUE: &str = "v";
/// Correlation of what a connection asks for itself; no operation has it.
const PROBE: u64 = u64::MAX;

/// A cluster, and a table on it.
#[derive(Debug)]
pub(crate) struct Forebay {
    /// Of the shards that hold partitions of the table, node by node.
    addresses: Vec<SocketAddr>,
    nodes: usize,
    /// By partition, the address that its requests go to.
    leading: Vec<AtomicU32>,
    facts: Vec<(String, String)>,
    route: Route,
}

/// What a codec needs to know of the table.
#[derive(Clone, Debug)]
struct Route {
    table: u64,
    hash_seed: [u8; 16],
    /// Last hash of each partition, ascending.
    partitions: Vec<u64>,
    /// Digits at a key's end that are its sort key.
    sort_digits: usize,
    consistent: bool,
    /// There are several nodes, so connections begin with a question.
    is_replicated: bool,
}

impl Route {
    fn hash(&self, key: &[u8]) -> u64 {
        partition_hash(&self.hash_seed, split_key(key, self.sort_digits).0)
    }

    /// The number of a hash's partition.
    fn partition(&self, hash: u64) -> usize {
        self.partitions.partition_point(|&last| last < hash)
    }
}

impl Forebay {
    /// Finds or creates `table` on the nodes at `url`.
    pub(crate) fn setup(url: &TargetUrl, setup: &Setup<'_>) -> Result<Forebay, BenchError> {
        setup::setup(url, setup, None)
    }

    /// The same, over TLS.
    pub(crate) fn setup_over(
        url: &TargetUrl,
        setup: &Setup<'_>,
        tls: &ClientTls,
    ) -> Result<Forebay, BenchError> {
        setup::setup(url, setup, Some(tls))
    }
}

impl Target for Forebay {
    type Codec = ForebayCodec;

    fn codec(&self) -> ForebayCodec {
        ForebayCodec::new(self.route.clone())
    }

    fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    fn route(&self, key: &[u8]) -> usize {
        if self.addresses.len() == 1 {
            return 0;
        }
        let partition = self.route.partition(self.route.hash(key));
        self.leading[partition].load(Ordering::Relaxed) as usize
    }

    fn route_read(&self, key: &[u8], turn: u32) -> usize {
        let leader = self.route(key);
        if self.route.consistent || self.nodes == 1 {
            return leader;
        }
        // The same place in another node's part.
        let part = self.addresses.len() / self.nodes;
        (leader + turn as usize % self.nodes * part) % self.addresses.len()
    }

    fn replicas(&self) -> usize {
        self.nodes
    }

    fn lead(&self, key: &[u8], from: usize, to: usize) {
        let leading = &self.leading[self.route.partition(self.route.hash(key))];
        // Where another was faster, its word is as good.
        let _ =
            leading.compare_exchange(from as u32, to as u32, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn facts(&self) -> &[(String, String)] {
        &self.facts
    }
}

/// One connection to one shard.
#[derive(Debug)]
pub(crate) struct ForebayCodec {
    route: Route,
    greeting: Greeting,
    /// The item being sent.
    item: Vec<u8>,
    inbox: Inbox,
    /// The condition of conditional puts, while none is being encoded.
    exists: Option<Condition>,
    /// A sort key's buffer, likewise.
    sort: Vec<u8>,
}

/// How far the node's first sign of life is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    Due,
    Asked,
    Answered,
}

impl ForebayCodec {
    fn new(route: Route) -> ForebayCodec {
        let exists = ConditionExpression::exists(ID).compile();
        let greeting = if route.is_replicated { Greeting::Due } else { Greeting::Answered };
        ForebayCodec {
            route,
            greeting,
            item: Vec::new(),
            inbox: Inbox::default(),
            exists: Some(exists.expect("a condition on one attribute")),
            sort: Vec::new(),
        }
    }

    /// A put, perhaps on a condition, which comes back for the next one.
    fn put(
        &mut self,
        key: &[u8],
        value: &[u8],
        condition: Option<Condition>,
        correlation: u64,
        out: &mut SendBuf,
    ) -> Option<Condition> {
        self.write_item(key, Some(value));
        let message = PutRequest {
            table: self.route.table,
            epoch: 0,
            item: &self.item,
            condition,
            return_values: ReturnValues::None,
            return_old_on_failure: false,
        };
        frame::append(out, correlation, &message);
        message.condition
    }

    fn write_item(&mut self, key: &[u8], value: Option<&[u8]>) {
        // Keys are spelled in ASCII and lengths were checked on the command line.
        let key = std::str::from_utf8(key).expect("keys are ASCII");
        self.item.clear();
        let mut writer = ItemWriter::new(&mut self.item);
        let (partition, sort) = key.split_at(key.len() - self.route.sort_digits);
        writer
            .push(ID, ValueRef::S(partition))
            .and_then(|()| match sort {
                "" => Ok(()),
                sort => writer.push(SORT, ValueRef::S(sort)),
            })
            .and_then(|()| match value {
                Some(value) => writer.push(VALUE, ValueRef::B(value)),
                None => Ok(()),
            })
            .and_then(|()| writer.finish().map(drop))
            .expect("a record is a valid item");
    }
}

impl Codec for ForebayCodec {
    fn encode(&mut self, request: Request<'_>, correlation: u64, out: &mut SendBuf) {
        let table = self.route.table;
        match request {
            Request::Get { key } => {
                self.write_item(key, None);
                let message = GetRequest {
                    table,
                    epoch: 0,
                    key: &self.item,
                    projection: None,
                    consistent: self.route.consistent,
                };
                frame::append(out, correlation, &message);
            }
            Request::Put { key, value } => {
                self.put(key, value, None, correlation, out);
            }
            Request::PutExisting { key, value } => {
                let exists = self.exists.take();
                self.exists = self.put(key, value, exists, correlation, out);
            }
            Request::Query { key, items } => {
                let (partition_key, sort) = split_key(key, self.route.sort_digits);
                self.sort.clear();
                self.sort.extend_from_slice(sort);
                let sort_key = (!sort.is_empty())
                    .then(|| SortKeyCondition::GreaterOrEqual(std::mem::take(&mut self.sort)));
                let message = QueryRequest {
                    table,
                    epoch: 0,
                    partition_key,
                    sort_key,
                    descending: false,
                    limit: items,
                    filter: None,
                    projection: None,
                    resume: None,
                    consistent: self.route.consistent,
                };
                frame::append(out, correlation, &message);
                if let Some(SortKeyCondition::GreaterOrEqual(sort)) = message.sort_key {
                    self.sort = sort;
                }
            }
            Request::Scan { key, items } => {
                let hash = self.route.hash(key);
                let message = ScanRequest {
                    table,
                    epoch: 0,
                    hash_first: hash,
                    hash_last: self.route.partitions[self.route.partition(hash)],
                    limit: items,
                    filter: None,
                    projection: None,
                    resume: None,
                };
                frame::append(out, correlation, &message);
            }
        }
    }

    fn decode(
        &mut self,
        bytes: &[u8],
        reply: &mut impl FnMut(u64, Outcome<'_>),
    ) -> Result<(), ProtocolError> {
        let mut damaged = None;
        let (greeting, is_replicated) = (&mut self.greeting, self.route.is_replicated);
        self.inbox
            .receive(bytes, |frame| match outcome_of(&frame) {
                // Whatever it says, it lives.
                _ if frame.correlation == PROBE => *greeting = Greeting::Answered,
                Ok(Outcome::Refused(name)) if is_replicated && is_of_another_node(name) => {
                    reply(frame.correlation, Outcome::Elsewhere(None));
                }
                Ok(outcome) => reply(frame.correlation, outcome),
                Err(what) => damaged = Some(what),
            })
            .map_err(|error| ProtocolError::Damaged { what: error.name() })?;
        match damaged {
            None => Ok(()),
            Some(what) => Err(ProtocolError::Damaged { what }),
        }
    }

    fn speak(&mut self, out: &mut SendBuf) {
        if self.greeting == Greeting::Due {
            self.greeting = Greeting::Asked;
            self.probe(out);
        }
    }

    fn is_ready(&self) -> bool {
        self.greeting == Greeting::Answered
    }

    fn probe(&mut self, out: &mut SendBuf) {
        let request = DescribeNodeRequest { protocol_version: PROTOCOL_VERSION };
        frame::append(out, PROBE, &request);
    }
}

/// Whether a node says this that has no member of the partition: in a cluster of more nodes than members,
/// another one has.
fn is_of_another_node(name: &str) -> bool {
    [ErrorCode::UnknownTable, ErrorCode::WrongPartition].iter().any(|code| code.name() == name)
}

fn outcome_of<'a>(frame: &Frame<'a>) -> Result<Outcome<'a>, &'static str> {
    match Kind::from_wire(frame.kind) {
        Some(Kind::WriteReply | Kind::PageReply) => Ok(Outcome::Done),
        Some(Kind::GetReply) => {
            let reply = frame.message::<ArchivedGetReply<'_>>().ok_or("get reply")?;
            let Some(item) = reply.item.as_ref() else { return Ok(Outcome::Missing) };
            let item = ItemRef::validate(item).map_err(|_| "item")?;
            match item.get(VALUE) {
                Some(ValueRef::B(value)) => Ok(Outcome::Value(value)),
                _ => Err("item without its value"),
            }
        }
        Some(Kind::ErrorReply) => {
            let reply = frame.message::<ArchivedErrorReply<'_>>().ok_or("error reply")?;
            Ok(match ErrorCode::from_wire(reply.code.to_native()) {
                Some(ErrorCode::NotLeader) => Outcome::Elsewhere(None),
                // What it has begun may still be chosen, or not; what it has not, another may do.
                Some(code) if !code.had_no_effect() => Outcome::Unknown(code.name()),
                _ => Outcome::Refused(code_name(reply)),
            })
        }
        Some(Kind::NotLeaderReply) => {
            let reply = frame.message::<ArchivedNotLeaderReply>().ok_or("leader's address")?;
            Ok(Outcome::Elsewhere(reply.leader(IpAddr::V4(Ipv4Addr::UNSPECIFIED))))
        }
        _ => Err("reply of an unknown kind"),
    }
}

fn code_name(reply: &ArchivedErrorReply<'_>) -> &'static str {
    ErrorCode::from_wire(reply.code.to_native()).map_or("an unknown error code", ErrorCode::name)
}

#[cfg(test)]
mod tests {
    use forebay_core::message::{
        ArchivedPutRequest, ArchivedQueryRequest, ArchivedScanRequest, DescribeNodeReply,
        ErrorReply, GetReply, NotLeaderReply, WriteReply,
    };

    use super::super::tests::{Owned, a_warm_codec_allocates_nothing, every_split_decodes_alike};
    use super::super::{follow, open_route};
    use super::*;

    fn codec() -> ForebayCodec {
        let half = u64::MAX / 2;
        let route = Route {
            table: 7,
            hash_seed: [3; 16],
            partitions: vec![half, u64::MAX],
            sort_digits: 0,
            consistent: true,
            is_replicated: false,
        };
        ForebayCodec::new(route)
    }

    #[test]
    fn a_put_is_an_item_of_key_and_value() {
        let mut out = SendBuf::new();
        codec().encode(Request::Put { key: b"user1", value: b"abc" }, 9, &mut out);
        let frame = frame::split(&out).unwrap().unwrap();
        assert_eq!((frame.kind, frame.correlation), (Kind::Put as u16, 9));
        let put = frame.message::<ArchivedPutRequest<'_>>().unwrap();
        assert_eq!(put.table.to_native(), 7);
        let item = ItemRef::validate(&put.item).unwrap();
        assert_eq!(item.get(ID), Some(ValueRef::S("user1")));
        assert_eq!(item.get(VALUE), Some(ValueRef::B(b"abc")));
    }

    #[test]
    fn the_last_digits_of_a_key_are_its_sort_key_where_a_table_has_one() {
        let mut codec = codec();
        codec.route.sort_digits = 3;
        let mut out = SendBuf::new();
        codec.encode(Request::PutExisting { key: b"user00042017", value: b"abc" }, 1, &mut out);
        let frame = frame::split(&out).unwrap().unwrap();
        let put = frame.message::<ArchivedPutRequest<'_>>().unwrap();
        let item = ItemRef::validate(&put.item).unwrap();
        assert_eq!(item.get(ID), Some(ValueRef::S("user00042")));
        assert_eq!(item.get(SORT), Some(ValueRef::S("017")));
        assert!(put.condition.is_some());
        for _ in 0..2 {
            out.clear();
            codec.encode(Request::Query { key: b"user00042017", items: 9 }, 1, &mut out);
            let frame = frame::split(&out).unwrap().unwrap();
            let query = frame.message::<ArchivedQueryRequest<'_>>().unwrap();
            assert_eq!((&*query.partition_key, query.limit.to_native()), (&b"user00042"[..], 9));
            assert!(query.sort_key.is_some() && query.consistent);
        }
        assert!(codec.exists.is_some(), "the condition is there for the next put");
        let other = codec.route.hash(b"user00042999");
        assert_eq!(codec.route.hash(b"user00042000"), other, "one partition key, one place");
    }

    #[test]
    fn a_scan_stays_in_its_partition() {
        let mut codec = codec();
        let mut out = SendBuf::new();
        codec.encode(Request::Scan { key: b"user1", items: 42 }, 1, &mut out);
        let frame = frame::split(&out).unwrap().unwrap();
        let scan = frame.message::<ArchivedScanRequest<'_>>().unwrap();
        let hash = codec.route.hash(b"user1");
        let last = codec.route.partitions[codec.route.partition(hash)];
        assert_eq!((scan.hash_first.to_native(), scan.hash_last.to_native()), (hash, last));
        assert!(hash <= last);
        assert_eq!(scan.limit.to_native(), 42);
    }

    #[test]
    fn partitions_are_found_by_their_bounds() {
        let route = codec().route;
        let half = u64::MAX / 2;
        for (hash, partition) in [(0, 0), (half, 0), (half + 1, 1), (u64::MAX, 1)] {
            assert_eq!(route.partition(hash), partition, "hash {hash}");
        }
    }

    /// Three nodes of two shards each, with a partition on every shard.
    fn cluster() -> Forebay {
        let addresses = (1..=6).map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect();
        Forebay {
            addresses,
            nodes: 3,
            leading: vec![AtomicU32::new(0), AtomicU32::new(1)],
            facts: Vec::new(),
            route: Route { is_replicated: true, ..codec().route },
        }
    }

    #[test]
    fn reads_that_need_no_leader_go_to_the_same_shard_of_every_node_in_turn() {
        let mut cluster = cluster();
        let at = |cluster: &Forebay, turn| cluster.route_read(b"user1", turn);
        let leader = cluster.route(b"user1");
        assert!((0..9).all(|turn| at(&cluster, turn) == leader), "as long as it is consistent");
        cluster.route.consistent = false;
        let mut asked: Vec<usize> = (0..3).map(|turn| at(&cluster, turn)).collect();
        assert!((3..9).all(|turn| at(&cluster, turn) == asked[turn as usize % 3]));
        asked.sort_unstable();
        assert_eq!(asked, [leader % 2, leader % 2 + 2, leader % 2 + 4]);
    }

    #[test]
    fn a_named_leader_is_followed_and_otherwise_the_next_node_is_tried() {
        let (cluster, any) = (cluster(), |_: usize| true);
        let keys: Vec<String> = (0..50).map(|n| format!("user{n}")).collect();
        let key = |shard| {
            let mut of_shard = keys.iter().filter(|key| cluster.route(key.as_bytes()) % 2 == shard);
            of_shard.next().unwrap().as_bytes()
        };
        let (first, second) = (key(0), key(1));
        let leader = |port| Some(SocketAddr::from(([10, 0, 0, 1], port)));
        assert_eq!((cluster.route(first), cluster.route(second)), (0, 1));
        assert_eq!(follow(&cluster, first, 0, leader(5), any), Some(4));
        assert_eq!(cluster.route(first), 4);
        assert_eq!(follow(&cluster, first, 0, leader(3), any), Some(2), "an older answer");
        assert_eq!(cluster.route(first), 4, "the newer word stays");
        assert_eq!(follow(&cluster, second, 1, None, any), None);
        assert_eq!(cluster.route(second), 3, "the same shard of the next node");
        let here = SocketAddr::from(([0, 0, 0, 0], 6));
        assert_eq!(follow(&cluster, second, 3, Some(here), any), Some(5), "on the same machine");
        // A leader without a connection, one that is none, itself: the next node.
        for (from, to, leader) in [(5, 1, leader(4)), (1, 3, leader(77)), (3, 5, leader(4))] {
            assert_eq!(follow(&cluster, second, from, leader, |at| at != 3), None);
            assert_eq!(cluster.route(second), to);
        }
        assert_eq!(open_route(&cluster, second, |at| at == 3), Some(3));
        assert_eq!(open_route(&cluster, second, |at| at == 0), None, "no replica is up");
    }

    #[test]
    fn a_connection_to_one_of_several_nodes_is_ready_once_the_node_has_answered() {
        let mut alone = codec();
        let mut out = SendBuf::new();
        alone.speak(&mut out);
        assert!(alone.is_ready() && out.is_empty());
        let mut codec = cluster().codec();
        assert!(!codec.is_ready());
        codec.speak(&mut out);
        let asked = frame::split(&out).unwrap().unwrap();
        assert_eq!((asked.kind, asked.correlation), (Kind::DescribeNode as u16, PROBE));
        let bytes = out.len();
        codec.speak(&mut out);
        assert_eq!(out.len(), bytes, "asked once");
        let mut answer = SendBuf::new();
        let reply = DescribeNodeReply { node_id: [1; 16], shards: Vec::new(), protocol_version: 1 };
        frame::append(&mut answer, PROBE, &reply);
        codec.decode(&answer, &mut |_, _| panic!("no operation's answer")).unwrap();
        assert!(codec.is_ready());
    }

    #[test]
    fn answers_of_members_that_do_not_lead_say_whether_anything_was_begun() {
        let mut stream = SendBuf::new();
        let at = SocketAddr::from(([10, 0, 0, 2], 4701));
        frame::append(&mut stream, 1, &NotLeaderReply::leader_is(at));
        frame::append(&mut stream, 2, &NotLeaderReply::unknown(0));
        for (correlation, code) in
            [(3, ErrorCode::NotLeader), (4, ErrorCode::LeadershipLost), (5, ErrorCode::ShardFailed)]
        {
            let (code, message) = (code as u16, "as the shard says");
            let error = ErrorReply { code, retry_after_micros: 0, message, item: None };
            frame::append(&mut stream, correlation, &error);
        }
        let expected = [
            (1, Owned::Elsewhere(Some(at))),
            (2, Owned::Elsewhere(None)),
            (3, Owned::Elsewhere(None)),
            (4, Owned::Unknown("LeadershipLost".to_owned())),
            (5, Owned::Unknown("ShardFailed".to_owned())),
        ];
        every_split_decodes_alike(codec, &stream, &expected);
    }

    #[test]
    fn a_node_of_a_cluster_without_the_partition_sends_the_client_on() {
        let mut stream = SendBuf::new();
        for (correlation, code) in [(1, ErrorCode::UnknownTable), (2, ErrorCode::WrongPartition)] {
            let (code, message) = (code as u16, "as the shard says");
            let error = ErrorReply { code, retry_after_micros: 0, message, item: None };
            frame::append(&mut stream, correlation, &error);
        }
        let replicated = || {
            let mut codec = codec();
            codec.route.is_replicated = true;
            codec
        };
        let elsewhere = [(1, Owned::Elsewhere(None)), (2, Owned::Elsewhere(None))];
        every_split_decodes_alike(replicated, &stream, &elsewhere);
        let refused = |code: ErrorCode| Owned::Refused(code.name().to_owned());
        let refused =
            [(1, refused(ErrorCode::UnknownTable)), (2, refused(ErrorCode::WrongPartition))];
        every_split_decodes_alike(codec, &stream, &refused);
    }

    #[test]
    fn a_warm_connection_allocates_nothing() {
        let answers = |out: &mut SendBuf| {
            frame::append(out, 0, &WriteReply { attributes: None });
            frame::append(out, 1, &GetReply { item: None });
        };
        a_warm_codec_allocates_nothing(codec(), answers, 2);
    }

    #[test]
    fn replies_in_any_pieces_are_found_by_their_correlation() {
        let mut item = Vec::new();
        let mut writer = ItemWriter::new(&mut item);
        writer.push(ID, ValueRef::S("user1")).unwrap();
        writer.push(VALUE, ValueRef::B(b"abc")).unwrap();
        writer.finish().unwrap();
        let mut stream = SendBuf::new();
        frame::append(&mut stream, 5, &WriteReply { attributes: None });
        frame::append(&mut stream, 4, &GetReply { item: Some(&item) });
        frame::append(&mut stream, 3, &GetReply { item: None });
        let error = ErrorReply {
            code: ErrorCode::Overloaded as u16,
            retry_after_micros: 100,
            message: "the queue is full",
            item: None,
        };
        frame::append(&mut stream, 2, &error);
        let expected = [
            (5, Owned::Done),
            (4, Owned::Value(b"abc".to_vec())),
            (3, Owned::Missing),
            (2, Owned::Refused("Overloaded".to_owned())),
        ];
        every_split_decodes_alike(codec, &stream, &expected);
        let mut broken = stream.clone();
        broken[40] ^= 1;
        let error = codec().decode(&broken, &mut |_, _| {});
        assert_eq!(error, Err(ProtocolError::Damaged { what: "checksum" }));
    }
}
