//! Three warm shards that replicate a group allocate nothing for a Put: a counting allocator watches
//! their calls.
//!
//! ```text
//!   64 connections ─► leader ─┬─► follower     a step: each takes what the step before sent,
//!                             └─► follower     and the disks have done what it asked for
//! ```
//!
//! Disks are memory, wires keep everything, and time goes by as it does under load. What a Put costs in
//! instructions, over all three, without the kernel:
//! `valgrind --tool=callgrind --toggle-collect='*watched*' target/…/group_allocations-… --test-threads=1`
//! (the Puts are printed with `--nocapture`).

mod counting;

use std::net::SocketAddr;
use std::sync::Arc;

use counting::{allocations, watched};
use forebay_core::ids::{GroupId, ShardId};
use forebay_core::item::{Item, ItemRef};
use forebay_core::message::{
    ArchivedTableReply, CreateTableRequest, Kind, PutRequest, ReturnValues,
};
use forebay_core::table::TableDescription;
use forebay_core::time::Nanos;
use forebay_net::frame;
use forebay_net::machine::{CloseReason, ConnId, Effects, Machine, SendBuf};
use forebay_net::metrics::ShardMetrics;
use forebay_net::replication::{Topology, TopologyNode};
use forebay_net::shard::{
    Clock, ClusterContext, METRIC_NAMES, PEER_LISTENER, Shard, ShardContext, ShardMail,
};
use forebay_storage::block::{BLOCK_BYTES, BlockBuf, DiskDone, DiskOp, ShardFile};
use forebay_storage::log::LogConfig;
use forebay_storage::store::{self, BlockingDisk, StoreConfig};

const CONNECTIONS: u32 = 64;
const PASSES: usize = 6;
const STEP_NANOS: u64 = 190 * Nanos::PER_MICRO;
const NODES: usize = 3;
const NATIVE_PORT: u16 = 4700;
const PEER_PORT: u16 = 4800;

/// The bytes of both files.
#[derive(Default)]
struct Memory {
    log: Vec<u8>,
    pages: Vec<u8>,
}

impl Memory {
    fn file(&mut self, file: ShardFile) -> &mut Vec<u8> {
        match file {
            ShardFile::Log => &mut self.log,
            ShardFile::Pages => &mut self.pages,
        }
    }
}

impl BlockingDisk for Memory {
    fn carry_out(&mut self, op: DiskOp) -> DiskDone {
        let (op, buf) = match op {
            DiskOp::Read { op, file: from, offset_bytes, mut buf } => {
                let bytes = buf.len();
                buf.copy_from_slice(&self.file(from)[offset_bytes as usize..][..bytes]);
                (op, Some(buf))
            }
            DiskOp::Write { op, file: to, offset_bytes, buf, bytes, .. } => {
                self.file(to)[offset_bytes as usize..][..bytes].copy_from_slice(&buf[..bytes]);
                (op, Some(buf))
            }
            DiskOp::Grow { op, file: of, file_bytes } => {
                self.file(of).resize(file_bytes as usize, 0);
                (op, None)
            }
            DiskOp::Flush { op, .. } => (op, None),
        };
        DiskDone { op, buf, result: Ok(()) }
    }
}

/// A node with one shard.
struct Node {
    shard: Shard,
    disk: Memory,
    fx: Effects,
    /// Asked for, and done when the next step begins.
    ops: Vec<DiskOp>,
    slots: u32,
}

/// See the module's docs.
struct Bench {
    nodes: Vec<Node>,
    now: Nanos,
    /// Both ends of each connection between nodes.
    wires: Vec<[(usize, ConnId); 2]>,
    /// Handed out by a node, to be with the other end when the next step begins.
    on_their_way: Vec<(usize, ConnId, SendBuf)>,
    /// Frames for clients of the last steps, one after another.
    replies: SendBuf,
}

fn address(port: u16, place: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port + place as u16))
}

fn node_id(place: usize) -> u128 {
    0x5eed + place as u128
}

fn store_config() -> StoreConfig {
    let mut log = LogConfig::standard(ShardId(0), 7);
    log.segments = 4;
    StoreConfig {
        log,
        overlay_generation_bytes: 8 << 20,
        cache_bytes: 64 << 20,
        checkpoint_interval_nanos: 30 * Nanos::PER_SECOND,
        overlay_fill_percent: 50,
        log_fill_percent: 50,
        checkpoints_off: false,
        merge_slice_micros: 200,
        marker_nanos: 5 * Nanos::PER_MILLI,
    }
}

impl Node {
    fn new(place: usize, topology: &Arc<Topology>, now: Nanos) -> Node {
        let config = store_config();
        let blocks = config.log.batch_bytes_max as usize / BLOCK_BYTES;
        let buffers = (0..config.log.buffers_wanted()).map(|_| BlockBuf::zeroed(blocks)).collect();
        // The superblocks' two blocks are there from the start, as in a data directory.
        let log = vec![0; config.log.capacity_bytes() as usize];
        let mut disk = Memory { log, pages: vec![0; 64 * BLOCK_BYTES] };
        let opened = store::open(config, node_id(place), buffers, &mut disk, now, &mut |_| {});
        let context = ShardContext {
            shard: ShardId(0),
            node_id: node_id(place).to_be_bytes(),
            ports: vec![NATIVE_PORT + place as u16],
            random_seed: 1 + place as u64,
            unix_millis_at_zero: 0,
            metrics: Arc::new(ShardMetrics::new(ShardId(0), METRIC_NAMES)),
            cluster: Some(ClusterContext {
                az: place as u16,
                peer: vec![address(PEER_PORT, place)],
                // Nothing stops the process in the middle of a turn.
                clock: Clock(Arc::new(|| Nanos(0))),
                grows: true,
            }),
        };
        let mut shard = Shard::new(context, opened.expect("opens").store, now);
        let topology = Arc::clone(topology);
        shard.mail(ShardMail::Topology { topology, bootstrap: true }, now);
        let (fx, ops) = (Effects::default(), Vec::with_capacity(1024));
        Node { shard, disk, fx, ops, slots: CONNECTIONS }
    }
}

fn client(slot: u32) -> ConnId {
    ConnId { slot, generation: 1 }
}

impl Bench {
    /// Three nodes, each with connections for clients.
    fn new() -> Bench {
        let node = |place| TopologyNode {
            node_id: node_id(place).to_be_bytes(),
            az: place as u16,
            certified: None,
            native: vec![address(NATIVE_PORT, place)],
            peer: vec![address(PEER_PORT, place)],
        };
        let topology = Topology { cluster_id: [0x5e; 16], nodes: (0..NODES).map(node).collect() };
        let (topology, now) = (Arc::new(topology), Nanos(Nanos::PER_SECOND));
        let mut replies = SendBuf::new();
        replies.reserve(1 << 20);
        let mut bench = Bench {
            nodes: (0..NODES).map(|place| Node::new(place, &topology, now)).collect(),
            now,
            wires: Vec::new(),
            on_their_way: Vec::with_capacity(1024),
            replies,
        };
        for node in &mut bench.nodes {
            (0..CONNECTIONS).for_each(|slot| node.shard.connected(client(slot), 0, None, now));
        }
        bench
    }

    fn receive(&mut self, place: usize, slot: u32, frame: &[u8]) {
        let (now, Node { shard, fx, .. }) = (self.now, &mut self.nodes[place]);
        watched(|| shard.received(client(slot), frame, now, fx));
    }

    fn open(&mut self, place: usize, listener: usize, token: Option<u64>) -> (usize, ConnId) {
        let node = &mut self.nodes[place];
        node.slots += 1;
        let conn = ConnId { slot: node.slots, generation: 1 };
        node.shard.connected(conn, listener, token, self.now);
        (place, conn)
    }

    fn other_end(&self, here: (usize, ConnId)) -> Option<(usize, ConnId)> {
        let wire = self.wires.iter().find(|wire| wire.contains(&here))?;
        Some(wire[usize::from(wire[0] == here)])
    }

    /// Everybody takes what was sent to them, their disks are done, and they run a turn each.
    fn step(&mut self) {
        self.now = self.now + STEP_NANOS;
        let now = self.now;
        for (from, conn, buf) in std::mem::take(&mut self.on_their_way) {
            match self.other_end((from, conn)) {
                Some((to, there)) => {
                    let Node { shard, fx, .. } = &mut self.nodes[to];
                    watched(|| shard.received(there, &buf, now, fx));
                }
                None => self.replies.extend_from_slice(&buf),
            }
            let shard = &mut self.nodes[from].shard;
            watched(|| shard.sent(conn, buf, now));
        }
        for place in 0..NODES {
            let Node { shard, disk, fx, ops, .. } = &mut self.nodes[place];
            for op in ops.drain(..) {
                let done = disk.carry_out(op);
                watched(|| shard.disk_done(done, now));
            }
            watched(|| shard.turn(now, fx));
            ops.append(&mut fx.disk);
            self.on_their_way.extend(fx.send.drain(..).map(|(conn, buf)| (place, conn, buf)));
            (fx.run_again, fx.wake_at) = (false, None);
            let (dials, ended) = (std::mem::take(&mut fx.connect), std::mem::take(&mut fx.close));
            for (token, to) in dials {
                let here = self.open(place, 0, Some(token));
                let there = self.open(usize::from(to.port() - PEER_PORT), PEER_LISTENER, None);
                self.wires.push([here, there]);
            }
            for conn in ended {
                let there = self.other_end((place, conn));
                for (place, conn) in [(place, conn)].into_iter().chain(there) {
                    self.nodes[place].shard.closed(conn, CloseReason::Asked, now);
                }
                self.wires.retain(|wire| !wire.contains(&(place, conn)));
            }
        }
    }

    /// Of all nodes, so far.
    fn checkpoints(&self) -> u64 {
        self.nodes.iter().map(|node| node.shard.store().stats().checkpoint_number).sum()
    }

    /// Counts the replies since the last call, all of this kind.
    fn take_replies(&mut self, kind: Kind) -> usize {
        let (mut at, mut count) = (0, 0);
        while let Some(frame) = frame::split(&self.replies[at..]).expect("whole frames") {
            assert_eq!(frame.kind, kind as u16);
            at += frame.frame_bytes;
            count += 1;
        }
        self.replies.clear();
        count
    }

    /// The member that leads the only table's group.
    fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|node| {
            let mut members = node.shard.replication().expect("a cluster").statuses();
            members.any(|member| member.serves && member.group != GroupId::SYSTEM)
        })
    }

    /// Creates a table of one partition, and waits for its leader: the table's id, and who that is.
    fn create_table(&mut self) -> (u64, usize) {
        let request = CreateTableRequest {
            name: "table",
            partition_key: "pk",
            partition_key_type: b'S',
            sort_key: "",
            sort_key_type: 0,
            partitions: 1,
        };
        let mut bytes = SendBuf::new();
        frame::append(&mut bytes, 1, &request);
        for attempt in 0.. {
            assert!(attempt < 1000, "no table is created");
            self.replies.clear();
            self.receive(attempt % NODES, 0, &bytes);
            while self.replies.is_empty() {
                self.step();
            }
            let frame = frame::split(&self.replies).expect("whole").expect("there");
            if frame.kind == Kind::TableReply as u16 {
                break;
            }
            (0..100).for_each(|_| self.step());
        }
        let frame = frame::split(&self.replies).expect("whole").expect("there");
        let reply = frame.message::<ArchivedTableReply<'_>>().expect("a table");
        let item = ItemRef::validate(reply.description.get()).expect("valid");
        let id = TableDescription::from_item(item).expect("valid").id.0;
        self.replies.clear();
        for _ in 0..100_000 {
            if let Some(leader) = self.leader() {
                return (id, leader);
            }
            self.step();
        }
        panic!("nobody leads");
    }
}

const KEYS: usize = 8_000;
/// Heartbeats and gauges are no requests: what they may allocate in a pass over all keys. One for each
/// Accept would be more.
const OTHER_ALLOCATIONS_MAX: u64 = 180;
/// Nor is a checkpoint: its catalog entries, bitmaps and lists may allocate.
const ALLOCATIONS_PER_CHECKPOINT_MAX: u64 = 300;

fn puts(table: u64) -> Vec<SendBuf> {
    let frame_of = |n: usize| {
        let mut out = SendBuf::new();
        let item = Item::new().with("pk", format!("user{n:010}")).with("value", vec![n as u8; 100]);
        let request = PutRequest {
            table,
            epoch: 0,
            item: &item.to_bytes().expect("valid"),
            condition: None,
            return_values: ReturnValues::None,
            return_old_on_failure: false,
        };
        frame::append(&mut out, n as u64, &request);
        out
    };
    // In an order that is none.
    (0..KEYS).map(|n| frame_of(n * 7_919 % KEYS)).collect()
}

/// Sends every frame once, over all connections; the allocations that it took.
fn run(bench: &mut Bench, leader: usize, frames: &[SendBuf]) -> u64 {
    let before = allocations();
    for round in frames.chunks(CONNECTIONS as usize) {
        for (slot, frame) in round.iter().enumerate() {
            bench.receive(leader, slot as u32, frame);
        }
        let mut count = 0;
        while count < round.len() {
            bench.step();
            count += bench.take_replies(Kind::WriteReply);
        }
    }
    allocations() - before
}

#[test]
fn a_warm_group_of_three_puts_without_allocating() {
    let mut bench = Bench::new();
    let (table, leader) = bench.create_table();
    let frames = puts(table);
    let passes: Vec<(u64, u64)> = (0..PASSES)
        .map(|_| {
            let before = bench.checkpoints();
            let made = run(&mut bench, leader, &frames);
            (made, bench.checkpoints() - before)
        })
        .collect();
    println!("{} Puts, allocations and checkpoints: {passes:?}", PASSES * KEYS);
    let (cold, warm) = passes.split_at(2);
    assert!(cold[0].0 > 0 && warm.iter().any(|(_, checkpoints)| *checkpoints > 0));
    for (made, checkpoints) in warm {
        let others = OTHER_ALLOCATIONS_MAX + checkpoints * ALLOCATIONS_PER_CHECKPOINT_MAX;
        assert!(*made <= others, "{passes:?}");
    }
}
