//! Opening a shard whose files were damaged. Input: damages, each a kind (1 byte) and two places
//! (3 bytes each).
//!
//! The files hold two checkpoints and entries after them, and end with a marker, so everything in
//! them is known to be durable.

use std::collections::BTreeMap;

use forebay_core::ids::{GroupId, Lsn};
use forebay_core::time::Nanos;
use forebay_storage::block::{BLOCK_BYTES, BlockBuf, DiskOp, Durability, OpId, ShardFile};
use forebay_storage::store::{BlockingDisk, GroupDescriptor, Read, Store};

use super::sim::{self, Disk};
use super::{Input, put};

const GROUP: GroupId = GroupId(7);
const DAMAGES_MAX: usize = 6;
const SECTOR: usize = 512;

/// Damaged files open with an error that names the damage, or serve what they held and nothing else:
/// every item is itself, or is reported damaged. With one damage only, none is missing either.
pub fn run(data: &[u8]) {
    IMAGE.with(|image| {
        let mut disk = image.disk.copy();
        let mut input = Input(data);
        let mut changed = 0;
        for _ in 0..DAMAGES_MAX {
            if !input.0.is_empty() {
                changed += usize::from(damage(&mut disk, &mut input));
            }
        }
        match sim::open(&mut disk) {
            Ok(opened) => check(opened.store, &mut disk, image, changed),
            Err(error) => assert!(changed > 0 && !error.to_string().is_empty(), "{error}"),
        }
    });
}

/// Damages a block; false if it is as before.
fn damage(disk: &mut Disk, input: &mut Input<'_>) -> bool {
    let kind = input.byte();
    let (to, from) = (input.number(3) as usize, input.number(3) as usize);
    let file = if kind & 1 == 0 { ShardFile::Log } else { ShardFile::Pages };
    // Most of the pages file is free space.
    let reach = (disk.0.file_bytes(file) as usize).min(64 * BLOCK_BYTES);
    let (block, at) = (to % reach / BLOCK_BYTES, to % BLOCK_BYTES);
    let before = read(disk, file, block);
    let mut after = before.clone();
    match kind >> 1 & 3 {
        0 => after[at] ^= 1 << (from % 8),
        1 => after[at / SECTOR * SECTOR..][..SECTOR].fill(from as u8),
        2 => after = read(disk, file, from % reach / BLOCK_BYTES),
        _ => {
            let garbage = (from as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
            let bytes = (1 + from % 8).min(BLOCK_BYTES - at);
            put(&mut after, at, &garbage[..bytes]);
        }
    }
    let mut buf = BlockBuf::zeroed(1);
    buf.copy_from_slice(&after);
    let offset_bytes = (block * BLOCK_BYTES) as u64;
    let (op, durability) = (OpId(0), Durability::Durable);
    let write = DiskOp::Write { op, file, offset_bytes, buf, bytes: BLOCK_BYTES, durability };
    assert_eq!(disk.carry_out(write).result, Ok(()));
    before != after
}

fn read(disk: &mut Disk, file: ShardFile, block: usize) -> Vec<u8> {
    let (op, offset_bytes) = (OpId(0), (block * BLOCK_BYTES) as u64);
    let done = disk.carry_out(DiskOp::Read { op, file, offset_bytes, buf: BlockBuf::zeroed(1) });
    done.buf.expect("a read brings its buffer back").to_vec()
}

fn check(mut store: Store, disk: &mut Disk, image: &Image, changed: usize) {
    let Some(group) = store.group(GROUP) else {
        assert!(changed > 1, "one damage hides no group");
        return;
    };
    for (key, expected) in &image.items {
        let mut asked = 0;
        loop {
            match store.get(group, key) {
                Read::Item(item) if changed <= 1 => assert_eq!(Some(item), expected.as_deref()),
                Read::Item(item) => {
                    let known = image.history.iter().any(|(of, value)| of == key && value == item);
                    assert!(known, "an item that was never stored");
                }
                Read::Absent => assert!(changed > 1 || expected.is_none(), "an item is missing"),
                Read::Damaged => assert!(changed > 0),
                Read::Wait(page) => {
                    asked += 1;
                    assert!(asked < 100, "a page is read once");
                    store.fetch(page);
                    drive(&mut store, disk, Nanos(0));
                    continue;
                }
            }
            break;
        }
    }
}

/// Turns until nothing is in flight.
fn drive(store: &mut Store, disk: &mut Disk, now: Nanos) {
    let mut ops = Vec::new();
    loop {
        let work = store.turn(now, &mut ops);
        if ops.is_empty() && !work.run_again {
            return;
        }
        ops.drain(..).for_each(|op| disk.0.submit(op));
        while let Some(done) = disk.0.complete_next() {
            store.disk_done(done, now);
        }
    }
}

struct Image {
    disk: Disk,
    /// The item under each key in the end.
    items: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Everything that was ever stored.
    history: Vec<(Vec<u8>, Vec<u8>)>,
}

thread_local! {
    static IMAGE: Image = image();
}

fn image() -> Image {
    let mut disk = Disk::blank();
    let mut store = sim::open(&mut disk).expect("a new shard").store;
    let descriptor = GroupDescriptor { id: GROUP, payload: b"a group" };
    let (group, _) = store.create_group(descriptor).expect("a new shard has room");
    let mut history = Vec::new();
    let mut now = Nanos(0);
    let mut items = BTreeMap::new();
    for round in 0..3u8 {
        for key in 0..20u8 {
            let name = [b"key 0123", &[key][..]].concat();
            if round > 0 && key % 7 == round {
                store.delete(group, &name).expect("room");
                items.insert(name, None);
            } else if round == 0 || key % 2 == 0 {
                // Small items, and two that need extents of their own.
                let bytes = if key % 9 == 5 { 3000 } else { 20 + usize::from(key) };
                let item = vec![key ^ round; bytes];
                store.put(group, &name, &item).expect("room");
                history.push((name.clone(), item.clone()));
                items.insert(name, Some(item));
            }
            drive(&mut store, &mut disk, now);
        }
        // The last round's entries stay in the log.
        now = now + if round < 2 { 2 * sim::CHECKPOINT_NANOS } else { 10 * Nanos::PER_MILLI };
        drive(&mut store, &mut disk, now);
    }
    let stats = store.stats();
    assert!(stats.durable_lsn > Lsn(0) && stats.checkpoint_number >= 2);
    Image { disk, items: items.into_iter().collect(), history }
}

/// No damage, and one of each kind in each file.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![]];
    for kind in 0..8u8 {
        seeds.push(vec![kind, 0x10, 0x20, 0, 5, 0x50, 0]);
        seeds.push(vec![kind, 0x64, 0, 0, 7, 0, 0, kind ^ 3, 0, 0x10, 0, 1, 1, 0]);
    }
    seeds
}
