//! A whole shard that one connection sends arbitrary bytes to. Input: options (1 byte), how the
//! bytes arrive (1 byte), then the bytes.
//!
//! ```text
//!   data ──► connection A ─┐
//!                          ├─► Shard ◄─► simulated disk
//!   asks ──► connection B ─┘
//! ```

use std::sync::Arc;

use forebay_core::ids::ShardId;
use forebay_core::item::{Item, ItemRef};
use forebay_core::key::KeyBuf;
use forebay_core::message::{
    ArchivedDescribeNodeReply, ArchivedErrorReply, ArchivedGetReply, ArchivedTableReply,
    CreateTableRequest, DescribeNodeRequest, DescribeTableRequest, GetRequest, Kind, PutRequest,
    ReturnValues,
};
use forebay_core::table::TableDescription;
use forebay_core::time::Nanos;
use forebay_net::frame::{self, FrameError, HEADER_BYTES, Inbox};
use forebay_net::machine::{CloseReason, ConnId, Effects, Machine, SendBuf};
use forebay_net::metrics::ShardMetrics;
use forebay_net::shard::{METRIC_NAMES, Shard, ShardContext};
use forebay_storage::sim_disk::SimRandom;

use super::sim::{self, Disk};
use super::{Input, frame as frames, item, message, u32_at};

const A: ConnId = ConnId { slot: 0, generation: 1 };
const B: ConnId = ConnId { slot: 1, generation: 1 };

/// Whatever A sends: each of its whole frames is answered once, a broken stream ends A's connection
/// and no other, B is served before and after, and (if asked) the shard stops cleanly and opens
/// again.
pub fn run(data: &[u8]) {
    BASE.with(|base| {
        let mut input = Input(data);
        let (options, cuts) = (input.byte(), input.byte());
        let mut stream = input.0.to_vec();
        if options & 1 == 0 {
            frames::seal(&mut stream);
        }
        let mut host = Host::open(base.disk.copy());
        host.machine.connected(A, 0, None, host.now);
        host.machine.connected(B, 0, None, host.now);
        host.settle();

        host.ask_b(base);
        let mut random = SimRandom::new(cuts.into());
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let bytes = 1 + random.below(if cuts % 2 == 0 { rest.len() } else { 200 });
            let (piece, after) = rest.split_at(bytes.min(rest.len()));
            rest = after;
            host.receive(A, piece);
            if random.chance(1, 2) {
                host.turn();
            }
        }
        if options & 2 != 0 {
            // A leaves before it is answered.
            host.close(A);
            host.settle();
        } else {
            host.settle();
            host.check_a(&stream);
        }
        host.ask_b(base);

        if options & 4 != 0 {
            host.machine.stop();
            host.settle();
            let mut disk = host.disk;
            let opened = sim::open(&mut disk).expect("a stopped shard opens again");
            assert_eq!(opened.warning, None);
        }
    });
}

/// The shell's part.
struct Host {
    machine: Shard,
    disk: Disk,
    fx: Effects,
    now: Nanos,
    random: SimRandom,
    /// Bytes sent to A and B.
    sent: [SendBuf; 2],
    open: [bool; 2],
    stopped: bool,
}

impl Host {
    fn open(mut disk: Disk) -> Host {
        let opened = sim::open(&mut disk).expect("an undamaged shard");
        assert_eq!(opened.warning, None);
        let context = ShardContext {
            shard: ShardId(0),
            node_id: sim::NODE.to_be_bytes(),
            ports: vec![4700],
            random_seed: 1,
            unix_millis_at_zero: 0,
            metrics: Arc::new(ShardMetrics::new(ShardId(0), METRIC_NAMES)),
            cluster: None,
        };
        let now = Nanos(1);
        Host {
            machine: Shard::new(context, opened.store, now),
            disk,
            fx: Effects::default(),
            now,
            random: SimRandom::new(2),
            sent: [SendBuf::new(), SendBuf::new()],
            open: [true; 2],
            stopped: false,
        }
    }

    fn receive(&mut self, conn: ConnId, bytes: &[u8]) {
        if self.open[conn.slot as usize] {
            self.machine.received(conn, bytes, self.now, &mut self.fx);
        }
    }

    fn close(&mut self, conn: ConnId) {
        if std::mem::take(&mut self.open[conn.slot as usize]) {
            self.machine.closed(conn, CloseReason::Peer, self.now);
        }
    }

    /// One turn, and a random part of what it asked for. True if anything happened or will.
    fn turn(&mut self) -> bool {
        self.now = self.now + 1000;
        self.machine.turn(self.now, &mut self.fx);
        assert!(self.machine.take_mail().next().is_none(), "one shard writes to nobody");
        let fx = std::mem::take(&mut self.fx);
        let mut busy = fx.run_again || !fx.send.is_empty() || !fx.close.is_empty();
        assert!(fx.connect.is_empty());
        fx.disk.into_iter().for_each(|op| self.disk.0.submit(op));
        for (conn, buf) in fx.send {
            let slot = conn.slot as usize;
            if self.open[slot] {
                self.sent[slot].extend_from_slice(&buf);
            }
            self.machine.sent(conn, buf, self.now);
        }
        for conn in fx.close {
            if std::mem::take(&mut self.open[conn.slot as usize]) {
                self.machine.closed(conn, CloseReason::Asked, self.now);
            }
        }
        let in_flight = self.disk.0.in_flight().len();
        if in_flight > 0 {
            for _ in 0..1 + self.random.below(in_flight) {
                let done = self.disk.0.complete_one(&mut self.random).expect("in flight");
                self.machine.disk_done(done, self.now);
            }
            busy = true;
        }
        self.stopped |= fx.stop;
        busy
    }

    /// Turns until nothing happens any more, and until the shard has stopped if it should.
    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..100_000 {
            quiet = if self.turn() { 0 } else { quiet + 1 };
            if self.machine.is_stopping() {
                if self.stopped {
                    return;
                }
                // Peers that do not take their last replies are not waited for.
                self.now = self.now + Nanos::PER_MILLI;
            } else if quiet > 2 {
                return;
            }
        }
        panic!("the shard never comes to rest");
    }

    /// Replies to a connection since the last call.
    fn take_replies(&mut self, conn: ConnId) -> SendBuf {
        std::mem::take(&mut self.sent[conn.slot as usize])
    }

    /// B asks what its own requests are answered by.
    fn ask_b(&mut self, base: &Base) {
        self.receive(B, &base.question);
        self.settle();
        let bytes = self.take_replies(B);
        let mut rest = &bytes[..];
        let mut answered = 0;
        while let Some(frame) = frame::split(rest).expect("well-formed replies") {
            answered |= frame.correlation;
            match frame.correlation {
                1 => {
                    let reply = frame.message::<ArchivedDescribeNodeReply>().expect("valid");
                    assert_eq!(reply.node_id, sim::NODE.to_be_bytes());
                }
                // A may have changed the item or dropped the table, if it guessed the id.
                _ if frame.kind == Kind::GetReply as u16 => {
                    let reply = frame.message::<ArchivedGetReply<'_>>().expect("valid");
                    assert!(reply.item.iter().all(|item| ItemRef::validate(item).is_ok()));
                }
                _ => assert!(frame.message::<ArchivedErrorReply<'_>>().is_some()),
            }
            rest = &rest[frame.frame_bytes..];
        }
        assert!(rest.is_empty() && self.open[1] && answered == 3, "B is served");
    }

    /// A was answered once for each frame that it sent, and ended if its stream was broken.
    fn check_a(&mut self, stream: &[u8]) {
        let mut asked = Vec::new();
        let mut inbox = Inbox::default();
        let end = inbox.receive(stream, |frame| asked.push(frame.correlation));
        let bytes = self.take_replies(A);
        let mut answered = Vec::new();
        let mut rest = &bytes[..];
        while let Some(frame) = frame::split(rest).expect("well-formed replies") {
            answered.push(frame.correlation);
            assert!(Kind::from_wire(frame.kind).is_some_and(|kind| !kind.is_request()));
            rest = &rest[frame.frame_bytes..];
        }
        assert!(rest.is_empty());
        if let Err(error) = &end {
            asked.push(0);
            assert!(!matches!(error, FrameError::Length { frame_bytes, .. }
                if *frame_bytes as usize == HEADER_BYTES));
        }
        if end.is_err() {
            assert!(!self.open[0], "a broken stream ends its connection");
            // Writes in flight when the connection ended have nobody to be answered to.
            assert!(answered.len() <= asked.len());
        } else {
            assert!(self.open[0]);
            asked.sort_unstable();
            answered.sort_unstable();
            assert_eq!(answered, asked, "every request is answered once");
        }
    }
}

/// A shard with two tables and an item.
struct Base {
    disk: Disk,
    /// A's table.
    table: u64,
    /// What B asks: about the node (1), and for its item (2).
    question: SendBuf,
    seed: [u8; 16],
}

thread_local! {
    static BASE: Base = base();
}

fn own_item() -> Vec<u8> {
    item::every_type().to_bytes().expect("within the limits")
}

fn own_key() -> Vec<u8> {
    Item::new().with("at", 7).with("id", "one").to_bytes().expect("within the limits")
}

fn base() -> Base {
    let mut host = Host::open(Disk::blank());
    host.machine.connected(A, 0, None, host.now);
    host.machine.connected(B, 0, None, host.now);
    host.settle();
    let tables = ["orders", "others"].map(|name| {
        let mut request = SendBuf::new();
        let create = CreateTableRequest {
            name,
            partition_key: "id",
            partition_key_type: b'S',
            sort_key: "at",
            sort_key_type: b'N',
            partitions: 2,
        };
        frame::append(&mut request, 1, &create);
        frame::append(&mut request, 2, &DescribeTableRequest { name });
        host.receive(A, &request[..u32_at(&request, 0) as usize]);
        host.settle();
        host.receive(A, &request[u32_at(&request, 0) as usize..]);
        host.settle();
        let replies = host.take_replies(A);
        let reply = frame::split(&replies).ok().flatten().expect("a reply");
        let reply = reply.message::<ArchivedTableReply<'_>>().expect("a table");
        let item = ItemRef::validate(&reply.description).expect("an item");
        TableDescription::from_item(item).expect("a description")
    });
    let (item, key) = (own_item(), own_key());
    for (index, table) in tables.iter().enumerate() {
        let mut put = SendBuf::new();
        let request = PutRequest {
            table: table.id.0,
            epoch: 0,
            item: &item,
            condition: None,
            return_values: ReturnValues::None,
            return_old_on_failure: false,
        };
        frame::append(&mut put, 1, &request);
        host.receive(A, &put);
        host.settle();
        // The first table's item is in a tree, the second's in the log.
        if index == 0 {
            host.now = host.now + 2 * sim::CHECKPOINT_NANOS;
            host.settle();
        }
    }
    let mut question = SendBuf::new();
    frame::append(&mut question, 1, &DescribeNodeRequest { protocol_version: 1 });
    let get = GetRequest {
        table: tables[1].id.0,
        epoch: 0,
        key: &key,
        projection: None,
        consistent: true,
    };
    frame::append(&mut question, 2, &get);
    // The log's marker.
    host.now = host.now + 10 * Nanos::PER_MILLI;
    host.settle();
    let [orders, _] = tables;
    Base { disk: host.disk, table: orders.id.0, question, seed: orders.hash_seed }
}

/// Every request alone, all at once, and with replies left behind.
pub fn seeds() -> Vec<Vec<u8>> {
    BASE.with(|base| {
        let mut key = KeyBuf::new();
        let seven: forebay_core::item::Number = 7.into();
        key.set(&base.seed, b"one", seven.as_bytes()).expect("a short key");
        let requests = message::requests(base.table, &own_key(), &own_item(), key.as_bytes());
        let mut seeds: Vec<Vec<u8>> =
            requests.iter().map(|request| [&[0, 0], &request[..]].concat()).collect();
        let all = requests.iter().map(|request| &request[..]).collect::<Vec<_>>().concat();
        seeds.push([&[4, 1], &all[..]].concat());
        seeds.push([&[6, 0], &all[..]].concat());
        seeds.push([&[1, 7], &all[..], b"not a frame, and not of a good length"].concat());
        seeds
    })
}
