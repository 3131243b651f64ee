//! A warm shard allocates nothing for a Put or a Get: a counting allocator watches its calls.
//!
//! The disk is one that forgets: every write succeeds at once, and nothing is ever read, because
//! the cache holds all pages.

mod counting;

use std::sync::Arc;

use counting::{allocations, watched};
use forebay_core::ids::ShardId;
use forebay_core::item::{Item, ItemRef};
use forebay_core::message::{
    ArchivedTableReply, CreateTableRequest, GetRequest, Kind, PutRequest, ReturnValues,
};
use forebay_core::table::TableDescription;
use forebay_core::time::Nanos;
use forebay_net::frame;
use forebay_net::machine::{ConnId, Effects, Machine, SendBuf};
use forebay_net::metrics::ShardMetrics;
use forebay_net::shard::{METRIC_NAMES, Shard, ShardContext};
use forebay_storage::block::{BLOCK_BYTES, BlockBuf, DiskDone, DiskOp};
use forebay_storage::log::LogConfig;
use forebay_storage::store::{self, BlockingDisk, StoreConfig};

struct Forgetful;

impl BlockingDisk for Forgetful {
    fn carry_out(&mut self, op: DiskOp) -> DiskDone {
        match op {
            DiskOp::Read { op, buf, .. } | DiskOp::Write { op, buf, .. } => {
                DiskDone { op, buf: Some(buf), result: Ok(()) }
            }
            DiskOp::Flush { op, .. } | DiskOp::Grow { op, .. } => {
                DiskDone { op, buf: None, result: Ok(()) }
            }
        }
    }
}

const CONNECTIONS: u32 = 64;

struct Bench {
    shard: Shard,
    fx: Effects,
    ops: Vec<DiskOp>,
    now: Nanos,
    /// Frames of the replies of the last round, one after another.
    replies: SendBuf,
}

fn conn(slot: u32) -> ConnId {
    ConnId { slot, generation: 1 }
}

impl Bench {
    fn new() -> Bench {
        let mut log = LogConfig::standard(ShardId(0), 7);
        log.segments = 4;
        let config = StoreConfig {
            log,
            overlay_generation_bytes: 8 << 20,
            cache_bytes: 64 << 20,
            checkpoint_interval_nanos: 30 * Nanos::PER_SECOND,
            overlay_fill_percent: 50,
            log_fill_percent: 50,
            checkpoints_off: false,
            merge_slice_micros: 200,
            marker_nanos: 5 * Nanos::PER_MILLI,
        };
        let buffers = (0..log.buffers_wanted())
            .map(|_| BlockBuf::zeroed(log.batch_bytes_max as usize / BLOCK_BYTES))
            .collect();
        let now = Nanos(Nanos::PER_SECOND);
        let opened = store::open(config, 1, buffers, &mut Forgetful, now, &mut |_| {});
        let context = ShardContext {
            shard: ShardId(0),
            node_id: [1; 16],
            ports: vec![4700],
            random_seed: 1,
            unix_millis_at_zero: 0,
            metrics: Arc::new(ShardMetrics::new(ShardId(0), METRIC_NAMES)),
            cluster: None,
        };
        let mut shard = Shard::new(context, opened.expect("opens").store, now);
        for slot in 0..CONNECTIONS {
            shard.connected(conn(slot), 0, None, now);
        }
        let mut replies = SendBuf::new();
        replies.reserve(1 << 20);
        let mut bench =
            Bench { shard, fx: Effects::default(), ops: Vec::with_capacity(1024), now, replies };
        bench.turn();
        bench
    }

    fn receive(&mut self, slot: u32, frame: &[u8]) {
        watched(|| self.shard.received(conn(slot), frame, self.now, &mut self.fx));
    }

    /// Ends the disk operations of the turn before, then runs one.
    fn turn(&mut self) {
        // Slow enough that the gauges are hardly ever published, which may allocate.
        self.now = self.now + 100;
        for op in self.ops.drain(..) {
            let done = Forgetful.carry_out(op);
            watched(|| self.shard.disk_done(done, self.now));
        }
        watched(|| self.shard.turn(self.now, &mut self.fx));
        self.ops.append(&mut self.fx.disk);
        for (to, buf) in self.fx.send.drain(..) {
            self.replies.extend_from_slice(&buf);
            watched(|| self.shard.sent(to, buf, self.now));
        }
        self.fx.run_again = false;
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

    fn create_table(&mut self) -> u64 {
        let mut request = SendBuf::new();
        frame::append(
            &mut request,
            1,
            &CreateTableRequest {
                name: "table",
                partition_key: "pk",
                partition_key_type: b'S',
                sort_key: "",
                sort_key_type: 0,
                partitions: 1,
            },
        );
        self.receive(0, &request);
        while self.replies.is_empty() {
            self.turn();
        }
        let frame = frame::split(&self.replies).expect("whole").expect("there");
        let reply = frame.message::<ArchivedTableReply<'_>>().expect("a table");
        let item = ItemRef::validate(reply.description.get()).expect("valid");
        let id = TableDescription::from_item(item).expect("valid").id.0;
        self.replies.clear();
        id
    }
}

const KEYS: usize = 20_000;
/// A checkpoint is no request: its catalog entries, bitmaps and lists may allocate.
const ALLOCATIONS_PER_CHECKPOINT_MAX: u64 = 40;

fn frames(table: u64, gets: bool) -> Vec<SendBuf> {
    let frame_of = |n: usize| {
        let mut out = SendBuf::new();
        let key = Item::new().with("pk", format!("user{n:010}"));
        let item = key.clone().with("value", vec![n as u8; 100]);
        let (key, item) = (key.to_bytes().expect("valid"), item.to_bytes().expect("valid"));
        if gets {
            let request =
                GetRequest { table, epoch: 0, key: &key, projection: None, consistent: true };
            frame::append(&mut out, n as u64, &request);
        } else {
            let request = PutRequest {
                table,
                epoch: 0,
                item: &item,
                condition: None,
                return_values: ReturnValues::None,
                return_old_on_failure: false,
            };
            frame::append(&mut out, n as u64, &request);
        }
        out
    };
    // In an order that is none.
    (0..KEYS).map(|n| frame_of(n * 7_919 % KEYS)).collect()
}

/// Sends every frame once, over all connections; the allocations that it took.
fn run(bench: &mut Bench, frames: &[SendBuf], kind: Kind) -> u64 {
    let before = allocations();
    for round in frames.chunks(CONNECTIONS as usize) {
        for (slot, frame) in round.iter().enumerate() {
            bench.receive(slot as u32, frame);
        }
        let mut count = 0;
        while count < round.len() {
            bench.turn();
            count += bench.take_replies(kind);
        }
    }
    allocations() - before
}

#[test]
fn a_warm_shard_puts_and_gets_without_allocating() {
    let mut bench = Bench::new();
    let table = bench.create_table();
    assert!(allocations() > 0, "the allocator counts");
    let (puts, gets) = (frames(table, false), frames(table, true));
    let mut rounds = Vec::new();
    for _ in 0..12 {
        let from = bench.shard.store().stats().checkpoint_number;
        let put = run(&mut bench, &puts, Kind::WriteReply);
        let checkpoints = bench.shard.store().stats().checkpoint_number - from;
        let get = run(&mut bench, &gets, Kind::GetReply);
        rounds.push((put, get, checkpoints));
    }
    let warm = &rounds[8..];
    assert!(warm.iter().any(|(_, _, checkpoints)| *checkpoints > 0), "merging is watched as well");
    for (put, get, checkpoints) in warm {
        assert_eq!(*get, 0, "{rounds:?}");
        assert!(*put <= checkpoints * ALLOCATIONS_PER_CHECKPOINT_MAX, "{rounds:?}");
    }
}
