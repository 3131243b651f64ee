//! What recovery brings has right checksums and cannot be read: the shard says what, serves nothing
//! and stops, and nothing panics.

use std::sync::Arc;

use forebay_core::ids::{GroupId, ShardId};
use forebay_core::item::Item;
use forebay_core::time::Nanos;
use forebay_net::machine::{Effects, Machine};
use forebay_net::metrics::ShardMetrics;
use forebay_net::shard::{METRIC_NAMES, Shard, ShardContext, Unreadable};
use forebay_storage::block::{BLOCK_BYTES, BlockBuf, DiskDone, DiskOp};
use forebay_storage::sim_disk::SimDisk;
use forebay_storage::store::{self, BlockingDisk, GroupDescriptor, Store};

use crate::shell::SimConfig;

struct Blocking(SimDisk);

impl BlockingDisk for Blocking {
    fn carry_out(&mut self, op: DiskOp) -> DiskDone {
        self.0.submit(op);
        self.0.complete_next().expect("one at a time")
    }
}

fn open(disk: &mut Blocking) -> Store {
    let config = SimConfig::SMALL.store(0);
    let blocks = config.log.batch_bytes_max as usize / BLOCK_BYTES;
    let buffers = (0..config.log.buffers_wanted()).map(|_| BlockBuf::zeroed(blocks)).collect();
    let opened = store::open(config, 7, buffers, disk, Nanos(0), &mut |_| {});
    opened.expect("the store opens").store
}

/// A disk on which a store wrote these groups, with an item each; read again from its log.
fn disk_with(groups: &[(GroupId, &[u8], &[u8])]) -> Blocking {
    let config = SimConfig::SMALL.store(0);
    let mut disk = Blocking(SimDisk::new(config.log.capacity_bytes(), 2 * BLOCK_BYTES as u64));
    let mut store = open(&mut disk);
    for (id, payload, item) in groups {
        let descriptor = GroupDescriptor { id: *id, payload };
        let (group, _) = store.create_group(descriptor).expect("room");
        store.put(group, b"0123456789", item).expect("room");
    }
    let mut begun = Vec::new();
    while store.chosen_ticket() < store.last_ticket() {
        store.turn(Nanos(1), &mut begun);
        for op in begun.drain(..) {
            let done = disk.carry_out(op);
            store.disk_done(done, Nanos(1));
        }
    }
    disk
}

fn shard(disk: &mut Blocking) -> Shard {
    let context = ShardContext {
        shard: ShardId(0),
        node_id: [7; 16],
        ports: vec![4700],
        random_seed: 1,
        unix_millis_at_zero: 0,
        metrics: Arc::new(ShardMetrics::new(ShardId(0), METRIC_NAMES)),
        cluster: None,
    };
    let store = open(disk);
    Shard::new(context, store, Nanos(2))
}

/// Turns until the shard asks to be stopped.
fn stops(shard: &mut Shard, disk: &mut Blocking) -> bool {
    let mut now = Nanos(3);
    for _ in 0..10_000 {
        let mut fx = Effects::default();
        now = now + Nanos::PER_MILLI;
        shard.turn(now, &mut fx);
        if fx.stop {
            return true;
        }
        for op in fx.disk.drain(..) {
            let done = disk.carry_out(op);
            shard.disk_done(done, now);
        }
    }
    false
}

#[test]
fn a_group_whose_description_cannot_be_read_is_named_at_once_and_the_shard_stops() {
    // No item; an item that is no table; cut short.
    let no_table = Item::new().with("k", "v").to_bytes().expect("valid");
    for payload in [&b"garbage"[..], &no_table, &no_table[..no_table.len() / 2], b""] {
        let mut disk = disk_with(&[(GroupId(77), payload, b"item")]);
        let mut shard = shard(&mut disk);
        assert_eq!(shard.unreadable(), Some(&Unreadable::Group { group: GroupId(77) }));
        let said = shard.unreadable().map_or_else(String::new, ToString::to_string);
        assert!(said.contains("group 77") && said.contains("restore"), "{said}");
        assert!(!shard.is_ready());
        assert!(stops(&mut shard, &mut disk));
    }
}

#[test]
fn an_item_of_the_system_group_that_is_no_table_is_named_and_the_shard_stops() {
    let no_table = Item::new().with("k", "v").to_bytes().expect("valid");
    for item in [&b"garbage"[..], &no_table, b""] {
        let mut disk = disk_with(&[(GroupId::SYSTEM, b"", item)]);
        let mut shard = shard(&mut disk);
        assert_eq!(shard.unreadable(), None, "not read yet");
        assert!(stops(&mut shard, &mut disk));
        assert_eq!(shard.unreadable(), Some(&Unreadable::Table { number: 1 }));
        assert!(!shard.is_ready());
    }
}
