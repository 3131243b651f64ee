//! Every block of the pages file is accounted for, once.

use std::collections::HashSet;

use super::*;
use crate::block::DiskError;
use crate::space::{REGION_BLOCKS, SLOTS, SUPERBLOCKS, regions_of};
use crate::tree::{PageRef, TreeRef, verify};

/// The bytes of an extent as a later read would find them.
fn read(disk: &mut SimDisk, page: &PageRef) -> Result<BlockBuf, DiskError> {
    let done = Blocking(disk).carry_out(DiskOp::Read {
        op: OpId(1),
        file: ShardFile::Pages,
        offset_bytes: page.id * BLOCK_BYTES as u64,
        buf: BlockBuf::zeroed(usize::from(page.blocks)),
    });
    done.result?;
    Ok(done.buf.expect("a read brings its buffer back"))
}

/// Pages of the catalog and every group's tree, free and deferred blocks and metadata are together
/// the file, and no page is in two trees. Between checkpoints, when all pages are written.
pub(super) fn assert_no_leak_when_idle(rig: &mut Rig) {
    assert_no_leak(&rig.store, &mut rig.disk);
}

/// The same of a store and its disk.
pub(super) fn assert_no_leak(store: &Store, disk: &mut SimDisk) {
    if !store.checkpoint.is_idle() || !store.cache.is_written() {
        return;
    }
    let mut trees: Vec<TreeRef> = store.groups.iter().map(|(_, state)| state.tree).collect();
    trees.push(store.catalog);
    let mut blocks = HashSet::new();
    let space = &store.space;
    for tree in trees {
        let report = verify::verify(ShardId(3), &tree, &mut |page| read(disk, page), &mut |page| {
            assert!(space.is_live(page.id, page.blocks), "{page:?} is marked free");
            for block in page.id..page.id + u64::from(page.blocks) {
                assert!(blocks.insert(block), "block {block} is in use twice");
            }
        });
        assert_eq!(report.damages, []);
        assert_eq!(report.totals, tree.totals());
    }
    let file = space.file_blocks();
    let metadata = SUPERBLOCKS + SLOTS * regions_of(file);
    assert!(file < REGION_BLOCKS, "one region is enough for these tests");
    assert_eq!(blocks.len() as u64, space.live_blocks(), "leaked blocks");
    let sum = space.live_blocks() + space.free_blocks() + space.deferred_blocks() + metadata;
    assert_eq!(sum + space.aside_blocks() + space.borrowed_blocks(), file);
}

#[test]
fn checkpoints_of_groups_that_come_and_go_leak_nothing_and_use_nothing_twice() {
    let mut rig = Rig::new(tiny(), 7);
    let keep = rig.create();
    for round in 0..40 {
        let passing = rig.create();
        for number in 0..30 {
            rig.put_patiently(passing, &key(number), 200 + 97 * number);
            let bytes = if number % 10 == 3 { 9_000 } else { 300 };
            rig.put_patiently(keep, &key((number * 7 + round) % 60), bytes);
        }
        rig.checkpoint();
        assert_no_leak_when_idle(&mut rig);
        rig.drop_group(passing);
        rig.checkpoint();
        assert_no_leak_when_idle(&mut rig);
        if round % 10 == 9 {
            rig = rig.reopen();
            assert_no_leak_when_idle(&mut rig);
        }
    }
    // What was freed came back: the file did not grow with the rounds.
    assert!(rig.store.space.file_blocks() <= 3 * crate::space::GROW_BLOCKS_MIN);
    let number = rig.store.checkpoint.number();
    eprintln!("{number} checkpoints accounted for");
}

#[test]
fn dropping_every_group_gives_all_their_blocks_back() {
    let mut rig = Rig::new(tiny(), 8);
    let groups: Vec<u64> = (0..6).map(|_| rig.create()).collect();
    for number in 0..200 {
        for group in &groups {
            rig.put_patiently(*group, &key(number), 700);
        }
    }
    rig.checkpoint();
    for group in groups {
        rig.drop_group(group);
    }
    for _ in 0..3 {
        let group = rig.create();
        rig.checkpoint();
        rig.drop_group(group);
        rig.checkpoint();
    }
    assert_no_leak_when_idle(&mut rig);
    assert_eq!(rig.store.groups.iter().count(), 0);
    assert!(rig.store.space.live_blocks() <= 1, "{}", rig.store.space.live_blocks());
}
