//! Forebay, over its native protocol.
//!
//! A record is an item of two attributes: `id` (S, the key) and `v` (B, the value). The table has
//! `id` as its partition key and no sort key, so the comparison with a plain key-value store is one
//! key to one key; key order is then the order of the keys' hashes, and a scan (workload e) reads
//! the items whose hashes follow the start key's, within its partition.
//!
//! Requests are unconditional puts and consistent gets. Each goes straight to the shard that leads
//! its partition.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use forebay_core::expression::{Condition, ConditionExpression, SortKeyCondition};
use forebay_core::item::{ItemRef, ItemWriter, ValueRef};
use forebay_core::key::partition_hash;
use forebay_core::limits::FRAME_BYTES_MAX;
use forebay_core::message::{
    ArchivedDescribeNodeReply, ArchivedErrorReply, ArchivedGetReply, ArchivedTableReply,
    CreateTableRequest, DescribeNodeRequest, DescribeTableRequest, ErrorCode, GetRequest, Kind,
    Message, PutRequest, QueryRequest, ReturnValues, ScanRequest,
};
use forebay_core::table::{KeySchema, KeyType, TableDescription, TableStatus};
use forebay_net::frame::{self, Frame, FrameSerializer, Inbox, PROTOCOL_VERSION};
use forebay_net::machine::SendBuf;

use super::{Codec, Outcome, ProtocolError, Request, Setup, Target, TargetUrl, split_key};
use crate::error::BenchError;

/// The key attribute.
const ID: &str = "id";
/// The sort key attribute, in tables that have one.
const SORT: &str = "n";
/// The value attribute.
const VALUE: &str = "v";
/// How long a new table may take to serve.
const TABLE_READY: Duration = Duration::from_secs(30);
/// Between two looks at it.
const TABLE_POLL: Duration = Duration::from_millis(20);

/// A node, and a table on it.
#[derive(Debug)]
pub(crate) struct Forebay {
    /// Of the shards that lead partitions of the table.
    addresses: Vec<SocketAddr>,
    facts: Vec<(String, String)>,
    route: Route,
}

/// What a codec needs to know of the table.
#[derive(Clone, Debug)]
struct Route {
    table: u64,
    hash_seed: [u8; 16],
    /// Last hash of each partition, ascending, and the address that serves it.
    partitions: Vec<(u64, usize)>,
    /// Digits at a key's end that are its sort key.
    sort_digits: usize,
    consistent: bool,
}

impl Route {
    fn hash(&self, key: &[u8]) -> u64 {
        partition_hash(&self.hash_seed, split_key(key, self.sort_digits).0)
    }

    fn partition(&self, hash: u64) -> (u64, usize) {
        self.partitions[self.partitions.partition_point(|&(last, _)| last < hash)]
    }
}

impl Forebay {
    /// Finds or creates `table` on the node at `url`.
    pub(crate) fn setup(url: &TargetUrl, setup: &Setup<'_>) -> Result<Forebay, BenchError> {
        let Setup { table, sort_digits, consistent, timeout, .. } = *setup;
        let address = url.resolve()?;
        let mut node = Asker::connect(address, timeout)
            .map_err(|source| BenchError::unreachable(url, address, source))?;
        let request = DescribeNodeRequest { protocol_version: PROTOCOL_VERSION };
        let shards: BTreeMap<u16, SocketAddr> =
            node.ask(&request, "to describe itself", |frame| {
                let reply = frame.message::<ArchivedDescribeNodeReply>()?;
                let shards = reply.shards.iter();
                Some(
                    shards
                        .map(|at| {
                            (at.shard.to_native(), SocketAddr::new(address.ip(), at.port.into()))
                        })
                        .collect(),
                )
            })?;
        let system = shards.get(&0).copied().unwrap_or(address);
        let mut system = Asker::connect(system, timeout)
            .map_err(|source| BenchError::unreachable(url, system, source))?;
        let table = find_or_create(&mut system, table, &schema(sort_digits))?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        let mut partitions = Vec::new();
        for partition in &table.partitions {
            let address = shards.get(&partition.shard.0).copied().ok_or(BenchError::Refused {
                what: "the table's place",
                words: format!("no shard {} on this node", partition.shard),
            })?;
            let index = addresses.iter().position(|&known| known == address);
            let index = index.unwrap_or_else(|| {
                addresses.push(address);
                addresses.len() - 1
            });
            partitions.push((partition.hash_last, index));
        }
        let facts = vec![
            ("protocol".to_owned(), PROTOCOL_VERSION.to_string()),
            ("shards".to_owned(), shards.len().to_string()),
            ("partitions".to_owned(), partitions.len().to_string()),
            ("reads".to_owned(), if consistent { "consistent" } else { "eventual" }.to_owned()),
            ("durability".to_owned(), "every acknowledged write is on the device".to_owned()),
        ];
        let route = Route {
            table: table.id.0,
            hash_seed: table.hash_seed,
            partitions,
            sort_digits,
            consistent,
        };
        Ok(Forebay { addresses, facts, route })
    }
}

/// The key of a table whose records' last digits are their sort key.
fn schema(sort_digits: usize) -> KeySchema {
    let schema = KeySchema::partition_only(ID, KeyType::S);
    if sort_digits == 0 { schema } else { schema.with_sort(SORT, KeyType::S) }
}

fn find_or_create(
    node: &mut Asker,
    name: &str,
    schema: &KeySchema,
) -> Result<TableDescription, BenchError> {
    let began = Instant::now();
    let mut created = false;
    loop {
        let described =
            node.ask(&DescribeTableRequest { name }, "to describe the table", read_table);
        match described {
            Ok(table) if table.status == TableStatus::Active => {
                if table.schema != *schema {
                    let sort = schema.sort.as_ref().map_or("no sort key", |_| "sort key `n` (S)");
                    return Err(BenchError::Usage(format!(
                        "table {name} has another key than `{ID}` (S) and {sort}: choose another \
                         --table"
                    )));
                }
                return Ok(table);
            }
            Ok(_) => {}
            Err(BenchError::Refused { words, .. })
                if !created && words.starts_with(ErrorCode::UnknownTable.name()) =>
            {
                created = true;
                let request = CreateTableRequest {
                    name,
                    partition_key: ID,
                    partition_key_type: b'S',
                    sort_key: schema.sort.as_ref().map_or("", |_| SORT),
                    sort_key_type: schema.sort.as_ref().map_or(0, |_| b'S'),
                    partitions: 0,
                };
                match node.ask(&request, "to create the table", |_| Some(())) {
                    // Another client was faster: its table is as good.
                    Err(BenchError::Refused { words, .. })
                        if words.starts_with(ErrorCode::TableExists.name()) => {}
                    other => other?,
                }
            }
            Err(BenchError::Refused { words, .. })
                if words.starts_with(ErrorCode::TableNotActive.name()) => {}
            Err(error) => return Err(error),
        }
        if began.elapsed() > TABLE_READY {
            return Err(BenchError::Refused {
                what: "to serve the table",
                words: format!("{name} is not active after {} s", TABLE_READY.as_secs()),
            });
        }
        std::thread::sleep(TABLE_POLL);
    }
}

fn read_table(frame: Frame<'_>) -> Option<TableDescription> {
    let reply = frame.message::<ArchivedTableReply<'_>>()?;
    let item = ItemRef::validate(&reply.description).ok()?;
    TableDescription::from_item(item).ok()
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
        self.route.partition(self.route.hash(key)).1
    }

    fn facts(&self) -> &[(String, String)] {
        &self.facts
    }
}

/// One connection to one shard.
#[derive(Debug)]
pub(crate) struct ForebayCodec {
    route: Route,
    /// The item being sent.
    item: Vec<u8>,
    inbox: Inbox,
    /// The condition of conditional puts, while none is being encoded.
    exists: Option<Condition>,
    /// A sort key's buffer, likewise.
    sort: Vec<u8>,
}

impl ForebayCodec {
    fn new(route: Route) -> ForebayCodec {
        let exists = ConditionExpression::exists(ID).compile();
        ForebayCodec {
            route,
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
                    hash_last: self.route.partition(hash).0,
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
        self.inbox
            .receive(bytes, |frame| match outcome_of(&frame) {
                Ok(outcome) => reply(frame.correlation, outcome),
                Err(what) => damaged = Some(what),
            })
            .map_err(|error| ProtocolError::Damaged { what: error.name() })?;
        match damaged {
            None => Ok(()),
            Some(what) => Err(ProtocolError::Damaged { what }),
        }
    }
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
            Ok(Outcome::Refused(code_name(reply)))
        }
        _ => Err("reply of an unknown kind"),
    }
}

fn code_name(reply: &ArchivedErrorReply<'_>) -> &'static str {
    ErrorCode::from_wire(reply.code.to_native()).map_or("an unknown error code", ErrorCode::name)
}

/// One question at a time over a blocking socket, for setup.
struct Asker {
    stream: TcpStream,
    address: SocketAddr,
    out: SendBuf,
}

impl Asker {
    fn connect(address: SocketAddr, timeout: Duration) -> std::io::Result<Asker> {
        let stream = super::dial(address, timeout)?;
        Ok(Asker { stream, address, out: SendBuf::new() })
    }

    /// Sends `request` and reads its reply with `read`. An error reply becomes
    /// [`BenchError::Refused`], its words beginning with the code's name.
    fn ask<M, R>(
        &mut self,
        request: &M,
        what: &'static str,
        read: impl FnOnce(Frame<'_>) -> Option<R>,
    ) -> Result<R, BenchError>
    where
        M: Message + for<'a> rkyv::Serialize<FrameSerializer<'a>>,
    {
        self.out.clear();
        frame::append(&mut self.out, 1, request);
        let failed = |source| BenchError::connection(self.address, source);
        self.stream.write_all(&self.out).map_err(failed)?;
        let mut got = SendBuf::new();
        let mut piece = [0; 4096];
        loop {
            let damaged = |what| BenchError::Protocol(ProtocolError::Damaged { what });
            if let Some(frame) = frame::split(&got).map_err(|error| damaged(error.name()))? {
                if frame.kind == Kind::ErrorReply as u16 {
                    let reply =
                        frame.message::<ArchivedErrorReply<'_>>().ok_or(damaged("error reply"))?;
                    let words = format!("{}: {}", code_name(reply), &*reply.message);
                    return Err(BenchError::Refused { what, words });
                }
                return read(frame).ok_or(damaged("reply"));
            }
            let count = self.stream.read(&mut piece).map_err(failed)?;
            if count == 0 || got.len() > FRAME_BYTES_MAX {
                return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
            }
            got.extend_from_slice(&piece[..count]);
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_core::message::{
        ArchivedPutRequest, ArchivedQueryRequest, ArchivedScanRequest, ErrorReply, GetReply,
        WriteReply,
    };

    use super::super::tests::{Owned, a_warm_codec_allocates_nothing, every_split_decodes_alike};
    use super::*;

    fn codec() -> ForebayCodec {
        let half = u64::MAX / 2;
        let route = Route {
            table: 7,
            hash_seed: [3; 16],
            partitions: vec![(half, 0), (u64::MAX, 1)],
            sort_digits: 0,
            consistent: true,
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
        let (last, _) = codec.route.partition(hash);
        assert_eq!((scan.hash_first.to_native(), scan.hash_last.to_native()), (hash, last));
        assert!(hash <= last);
        assert_eq!(scan.limit.to_native(), 42);
    }

    #[test]
    fn partitions_are_found_by_their_bounds() {
        let route = codec().route;
        let half = u64::MAX / 2;
        for (hash, address) in [(0, 0), (half, 0), (half + 1, 1), (u64::MAX, 1)] {
            assert_eq!(route.partition(hash).1, address, "hash {hash}");
        }
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
