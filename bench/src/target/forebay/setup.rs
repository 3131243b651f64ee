//! Finding the nodes and the table, over blocking sockets.
//!
//! The system group has a leader like any other: questions about tables go from node to node until one
//! answers them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use forebay_core::item::{ItemRef, ValueRef};
use forebay_core::limits::FRAME_BYTES_MAX;
use forebay_core::message::{
    ArchivedDescribeNodeReply, ArchivedErrorReply, ArchivedNotLeaderReply, ArchivedTableReply,
    CreateTableRequest, DescribeNodeRequest, DescribeTableRequest, ErrorCode, Kind, Message,
};
use forebay_core::table::{KeySchema, KeyType, NODES_ATTRIBUTE, TableDescription, TableStatus};
use forebay_net::frame::{self, Frame, FrameSerializer, PROTOCOL_VERSION};
use forebay_net::machine::SendBuf;
use forebay_net::tls::ClientTls;

use super::super::dynamodb::Stream;
use super::super::{ProtocolError, Setup, TargetUrl, dial};
use super::{Forebay, ID, Route, SORT, code_name};
use crate::error::BenchError;

/// How long a new table may take to serve, a first leader's election included.
const TABLE_READY: Duration = Duration::from_secs(30);
/// Between two looks at it.
const TABLE_POLL: Duration = Duration::from_millis(20);

/// A node, as far as it is known.
struct Node {
    id: [u8; 16],
    /// Where each shard serves. Of a node that does not answer, only what the command line says, which
    /// is taken for its shard 0.
    shards: BTreeMap<u16, SocketAddr>,
}

/// Finds or creates the table on the nodes at `url`.
pub(super) fn setup(
    url: &TargetUrl,
    setup: &Setup<'_>,
    tls: Option<&ClientTls>,
) -> Result<Forebay, BenchError> {
    let Setup { table, sort_digits, consistent, timeout, .. } = *setup;
    let reach = Reach { timeout, tls };
    let (mut nodes, silent) = find_nodes(url, reach)?;
    let addresses = nodes.iter().filter_map(|node| node.shards.get(&0)).copied().collect();
    let mut system = System { addresses, at: 0, asker: None, reach, began: Instant::now() };
    let (table, others) = find_or_create(&mut system, table, &schema(sort_digits))?;
    // Of a cluster, the command line need not name every node.
    for address in others {
        let known = nodes.iter().any(|node| node.shards.values().any(|at| *at == address));
        if !known && let Ok(node) = describe_node(url, address, reach) {
            let twice = nodes.iter().any(|other| other.id == node.id);
            nodes.extend((!twice).then_some(node));
        }
    }

    // The same shards of every node, in the same order, so that a replica's address is so many places
    // further on.
    let mut numbers: Vec<u16> = Vec::new();
    let mut places = Vec::new();
    for partition in &table.partitions {
        let number = partition.shard.0;
        let place = numbers.iter().position(|known| *known == number).unwrap_or_else(|| {
            numbers.push(number);
            numbers.len() - 1
        });
        places.push(AtomicU32::new(place as u32));
    }
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for node in &nodes {
        for number in &numbers {
            let fallback = node.shards.values().next().filter(|_| node.id == SILENT);
            let address = node.shards.get(number).or(fallback).copied();
            addresses.push(address.ok_or_else(|| BenchError::Refused {
                what: "the table's place",
                words: format!("no shard {number} on this node"),
            })?);
        }
    }
    let mut facts = vec![
        ("protocol".to_owned(), PROTOCOL_VERSION.to_string()),
        ("shards".to_owned(), nodes[0].shards.len().to_string()),
        ("partitions".to_owned(), table.partitions.len().to_string()),
        ("reads".to_owned(), if consistent { "consistent" } else { "eventual" }.to_owned()),
        ("durability".to_owned(), "every acknowledged write is on the device".to_owned()),
    ];
    if nodes.len() > 1 {
        let silent = if silent > 0 { format!(" ({silent} did not answer)") } else { String::new() };
        facts.push(("nodes".to_owned(), format!("{}{silent}", nodes.len())));
    }
    let route = Route {
        table: table.id.0,
        hash_seed: table.hash_seed,
        partitions: table.partitions.iter().map(|partition| partition.hash_last).collect(),
        sort_digits,
        consistent,
        is_replicated: nodes.len() > 1,
    };
    Ok(Forebay { addresses, nodes: nodes.len(), leading: places, facts, route })
}

/// How a node is reached.
#[derive(Clone, Copy)]
struct Reach<'a> {
    timeout: Duration,
    tls: Option<&'a ClientTls>,
}

/// In place of the identity of a node that does not answer.
const SILENT: [u8; 16] = [0; 16];

/// The nodes at `url`, each once, those that answer first; and how many did not.
fn find_nodes(url: &TargetUrl, reach: Reach<'_>) -> Result<(Vec<Node>, usize), BenchError> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut silent: Vec<Node> = Vec::new();
    let mut failed = None;
    let addresses = url.resolve_all()?;
    for &address in &addresses {
        match describe_node(url, address, reach) {
            Ok(node) if nodes.iter().any(|known| known.id == node.id) => {}
            Ok(node) => nodes.push(node),
            Err(error) if addresses.len() == 1 => return Err(error),
            Err(error) => {
                failed = Some(error);
                silent.push(Node { id: SILENT, shards: BTreeMap::from([(0, address)]) });
            }
        }
    }
    // What does not answer as a node may be another address of one that does.
    silent.retain(|one| {
        let mut known = nodes.iter().flat_map(|node| node.shards.values());
        !known.any(|address| *address == one.shards[&0])
    });
    let count = silent.len();
    match failed {
        Some(error) if nodes.is_empty() => Err(error),
        _ => {
            nodes.extend(silent);
            Ok((nodes, count))
        }
    }
}

fn describe_node(
    url: &TargetUrl,
    address: SocketAddr,
    reach: Reach<'_>,
) -> Result<Node, BenchError> {
    let mut node = Asker::connect(address, reach)
        .map_err(|source| BenchError::unreachable(url, address, source))?;
    let request = DescribeNodeRequest { protocol_version: PROTOCOL_VERSION };
    node.ask(&request, "to describe itself", |frame| {
        let reply = frame.message::<ArchivedDescribeNodeReply>()?;
        let at = |port: u16| SocketAddr::new(address.ip(), port);
        let shards = reply.shards.iter().map(|it| (it.shard.to_native(), at(it.port.into())));
        Some(Node { id: reply.node_id, shards: shards.collect() })
    })
}

/// Whoever leads the system group.
struct System<'a> {
    /// Shard 0 of each node.
    addresses: Vec<SocketAddr>,
    at: usize,
    asker: Option<Asker>,
    reach: Reach<'a>,
    began: Instant,
}

impl System<'_> {
    fn is_late(&self) -> bool {
        self.began.elapsed() > TABLE_READY
    }

    /// As [`Asker::ask`], of one node after the other until one answers that leads.
    fn ask<M, R>(
        &mut self,
        request: &M,
        what: &'static str,
        read: impl Fn(Frame<'_>) -> Option<R>,
    ) -> Result<R, BenchError>
    where
        M: Message + for<'a> rkyv::Serialize<FrameSerializer<'a>>,
    {
        loop {
            let asked = self.ask_one(request, what, &read);
            let told = match &asked {
                Err(BenchError::Refused { words, .. }) if is_code(words, ErrorCode::NotLeader) => {
                    self.asker.as_ref().and_then(|asker| asker.leader)
                }
                Err(BenchError::Connection { .. }) if self.addresses.len() > 1 => None,
                _ => return asked,
            };
            if self.is_late() {
                return asked;
            }
            self.addresses.extend(told.filter(|told| !self.addresses.contains(told)));
            let named = self.addresses.iter().position(|address| Some(*address) == told);
            self.asker = None;
            self.at =
                named.filter(|at| *at != self.at).unwrap_or((self.at + 1) % self.addresses.len());
            std::thread::sleep(TABLE_POLL);
        }
    }

    fn ask_one<M, R>(
        &mut self,
        request: &M,
        what: &'static str,
        read: impl Fn(Frame<'_>) -> Option<R>,
    ) -> Result<R, BenchError>
    where
        M: Message + for<'a> rkyv::Serialize<FrameSerializer<'a>>,
    {
        let address = self.addresses[self.at];
        let asker = match &mut self.asker {
            Some(asker) => asker,
            none => none.insert(
                Asker::connect(address, self.reach)
                    .map_err(|source| BenchError::connection(address, source))?,
            ),
        };
        asker.ask(request, what, read)
    }
}

/// Whether a refusal's words begin with the code's name.
fn is_code(words: &str, code: ErrorCode) -> bool {
    words.split(':').next() == Some(code.name())
}

/// The key of a table whose records' last digits are their sort key.
fn schema(sort_digits: usize) -> KeySchema {
    let schema = KeySchema::partition_only(ID, KeyType::S);
    if sort_digits == 0 { schema } else { schema.with_sort(SORT, KeyType::S) }
}

fn find_or_create(
    system: &mut System<'_>,
    name: &str,
    schema: &KeySchema,
) -> Result<(TableDescription, Vec<SocketAddr>), BenchError> {
    let mut created = false;
    loop {
        let described =
            system.ask(&DescribeTableRequest { name }, "to describe the table", read_table);
        match described {
            Ok((table, nodes)) if table.status == TableStatus::Active => {
                if table.schema != *schema {
                    let sort = schema.sort.as_ref().map_or("no sort key", |_| "sort key `n` (S)");
                    return Err(BenchError::Usage(format!(
                        "table {name} has another key than `{ID}` (S) and {sort}: choose another \
                         --table"
                    )));
                }
                return Ok((table, nodes));
            }
            Ok(_) => {}
            Err(BenchError::Refused { words, .. })
                if !created && is_code(&words, ErrorCode::UnknownTable) =>
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
                match system.ask(&request, "to create the table", |_| Some(())) {
                    // Another client was faster: its table is as good.
                    Err(BenchError::Refused { words, .. })
                        if is_code(&words, ErrorCode::TableExists) => {}
                    other => other?,
                }
            }
            Err(BenchError::Refused { words, .. })
                if is_code(&words, ErrorCode::TableNotActive) => {}
            Err(error) => return Err(error),
        }
        if system.is_late() {
            return Err(BenchError::Refused {
                what: "to serve the table",
                words: format!("{name} is not active after {} s", TABLE_READY.as_secs()),
            });
        }
        std::thread::sleep(TABLE_POLL);
    }
}

/// The table, and where the cluster's nodes are, if it is one's.
fn read_table(frame: Frame<'_>) -> Option<(TableDescription, Vec<SocketAddr>)> {
    let reply = frame.message::<ArchivedTableReply<'_>>()?;
    let item = ItemRef::validate(&reply.description).ok()?;
    let mut nodes = Vec::new();
    if let Some(ValueRef::L(list)) = item.as_map().get(NODES_ATTRIBUTE) {
        nodes.extend(list.iter().filter_map(|value| match value {
            ValueRef::S(text) => text.parse::<SocketAddr>().ok(),
            _ => None,
        }));
    }
    Some((TableDescription::from_item(item).ok()?, nodes))
}

/// One question at a time over a blocking socket, for setup.
struct Asker {
    stream: Box<dyn Stream>,
    address: SocketAddr,
    out: SendBuf,
    /// Who leads, by the last answer.
    leader: Option<SocketAddr>,
}

impl Asker {
    fn connect(address: SocketAddr, reach: Reach<'_>) -> std::io::Result<Asker> {
        let stream = dial(address, reach.timeout)?;
        let stream: Box<dyn Stream> = match reach.tls {
            Some(tls) => Box::new(tls.wrap(stream)?),
            None => Box::new(stream),
        };
        Ok(Asker { stream, address, out: SendBuf::new(), leader: None })
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
                if frame.kind == Kind::NotLeaderReply as u16 {
                    let reply = frame.message::<ArchivedNotLeaderReply>();
                    let reply = reply.ok_or(damaged("leader's address"))?;
                    self.leader = reply.leader(self.address.ip());
                    let words = format!("{}: another node leads", ErrorCode::NotLeader.name());
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
