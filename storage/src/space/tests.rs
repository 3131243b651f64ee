//! The space map alone: runs, growth, slots, leftovers.

use std::collections::HashMap;

use super::region::BITS_AT;
use super::*;
use crate::sim_disk::SimRandom;

const SHARD: ShardId = ShardId(2);

/// A file as a map of blocks.
#[derive(Default, Clone)]
struct File(HashMap<u64, Vec<u8>>);

impl File {
    fn write(&mut self, writes: Vec<DiskOp>) {
        for write in writes {
            let DiskOp::Write { offset_bytes, buf, .. } = write else { panic!("only writes") };
            self.0.insert(offset_bytes / BLOCK_BYTES as u64, buf.to_vec());
        }
    }

    fn read(&self, block: u64) -> Option<BlockBuf> {
        let mut buf = BlockBuf::zeroed(1);
        if let Some(bytes) = self.0.get(&block) {
            buf.copy_from_slice(bytes);
        }
        Some(buf)
    }

    fn load(&self, newest: &SpaceRoot, older: Option<&SpaceRoot>) -> Result<SpaceMap, SpaceError> {
        SpaceMap::load(SHARD, newest, older, |block| self.read(block))
    }
}

fn grow(map: &mut SpaceMap, blocks: u64) {
    map.grow(blocks, blocks, OpId(1)).unwrap();
    assert_eq!(map.grown(Ok(())), Ok(true));
}

fn allocate(map: &mut SpaceMap, blocks: u16) -> u64 {
    loop {
        match map.allocate(blocks) {
            Some(id) => return id,
            None => grow(map, u64::from(blocks)),
        }
    }
}

fn seal(map: &mut SpaceMap, file: &mut File) -> SpaceRoot {
    let mut writes = Vec::new();
    let root = map.seal(|| OpId(1), || BlockBuf::zeroed(1), &mut writes);
    file.write(writes);
    root
}

fn checkpoint(map: &mut SpaceMap, file: &mut File) -> SpaceRoot {
    let root = seal(map, file);
    map.superblock_durable(root.checkpoint);
    root
}

#[test]
fn runs_never_overlap_each_other_or_the_bitmaps_and_come_back() {
    let mut random = SimRandom::new(1);
    let mut map = SpaceMap::new(SHARD);
    let mut file = File::default();
    let mut held: Vec<(u64, u16)> = Vec::new();
    for round in 0..400 {
        for _ in 0..40 {
            let blocks = 1 + if random.chance(1, 10) { random.below(1_030) } else { 0 } as u16;
            held.push((allocate(&mut map, blocks), blocks));
        }
        for _ in 0..random.below(60).min(held.len()) {
            let (id, blocks) = held.swap_remove(random.below(held.len()));
            map.free(id, blocks);
        }
        if round % 3 == 0 {
            checkpoint(&mut map, &mut file);
        }
    }
    let mut all: Vec<(u64, u64)> = held.iter().map(|&(id, n)| (id, id + u64::from(n))).collect();
    for region in 0..regions_of(map.file_blocks()) {
        let slots = slot_block(region, 0);
        all.push((slots, slots + SLOTS));
    }
    all.push((0, SUPERBLOCKS));
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0].1 <= pair[1].0), "no overlap");
    assert!(all.last().unwrap().1 <= map.file_blocks());
    assert!(map.file_blocks() > 3 * REGION_BLOCKS, "several regions");
    held.drain(..).for_each(|(id, blocks)| map.free(id, blocks));
    checkpoint(&mut map, &mut file);
    checkpoint(&mut map, &mut file);
    let metadata = SUPERBLOCKS + SLOTS * regions_of(map.file_blocks());
    assert_eq!(map.free_blocks() + metadata, map.file_blocks());
    assert_eq!((map.live_blocks(), map.deferred_blocks()), (0, 0));
}

#[test]
fn a_freed_block_is_not_reused_before_the_second_superblock_also_after_recovery() {
    for recover in [false, true] {
        let mut map = SpaceMap::new(SHARD);
        let mut file = File::default();
        let id = allocate(&mut map, 1);
        let older = checkpoint(&mut map, &mut file);
        map.free(id, 1);
        let newest = checkpoint(&mut map, &mut file);
        if recover {
            map = file.load(&newest, Some(&older)).unwrap();
        }
        assert_eq!(map.deferred_blocks(), 1);
        while let Some(other) = map.allocate(1) {
            assert_ne!(other, id);
        }
        checkpoint(&mut map, &mut file);
        assert_eq!(map.allocate(1), Some(id));
    }
}

#[test]
fn leftover_bitmaps_of_a_checkpoint_that_never_completed_are_never_believed() {
    // Twice the same number without a superblock, with different regions touched each time.
    let mut map = SpaceMap::new(SHARD);
    let mut file = File::default();
    let first = allocate(&mut map, 1);
    grow(&mut map, 2 * REGION_BLOCKS);
    let one = checkpoint(&mut map, &mut file);
    let two = checkpoint(&mut map, &mut file);
    map.free(first, 1);
    let in_second_region = loop {
        let id = map.allocate(1).unwrap();
        if id > REGION_BLOCKS {
            break id;
        }
    };
    let torn = seal(&mut map, &mut file);
    assert_eq!(torn.checkpoint, 3);
    let mut map = file.load(&two, Some(&one)).unwrap();
    assert!(map.is_live(first, 1) && !map.is_live(in_second_region, 1));
    let three = checkpoint(&mut map, &mut file);
    let map = file.load(&three, Some(&two)).unwrap();
    assert!(map.is_live(first, 1) && !map.is_live(in_second_region, 1));
    assert_eq!(map.live_blocks(), 1);
    // The old root of the torn one does not fit what is there now.
    assert!(matches!(file.load(&torn, None), Err(SpaceError::Digest { checkpoint: 3, .. })));
}

#[test]
fn two_leftovers_of_one_region_do_not_survive_as_one_number() {
    // Checkpoint 3 completed and 4 did not, then superblock 3 was lost: both are leftovers to 2.
    let mut map = SpaceMap::new(SHARD);
    let mut file = File::default();
    let mut roots = vec![];
    for _ in 0..2 {
        allocate(&mut map, 1);
        roots.push(checkpoint(&mut map, &mut file));
    }
    allocate(&mut map, 1);
    checkpoint(&mut map, &mut file);
    allocate(&mut map, 1);
    seal(&mut map, &mut file);
    let mut newest = roots[1];
    let mut map = file.load(&newest, None).unwrap();
    // From here on every checkpoint loads, with the one before it, also from the files alone.
    for live in 3..8 {
        allocate(&mut map, 2);
        let root = checkpoint(&mut map, &mut file);
        map = file.load(&root, Some(&newest)).unwrap();
        assert_eq!(map.live_blocks(), 2 + 2 * (live - 2));
        newest = root;
        let mut torn = file.clone();
        let mut next = file.load(&newest, None).unwrap();
        allocate(&mut next, 1);
        seal(&mut next, &mut torn);
        torn.load(&newest, None).unwrap();
    }
}

#[test]
fn a_lost_or_damaged_bitmap_write_is_found() {
    let mut map = SpaceMap::new(SHARD);
    let mut file = File::default();
    allocate(&mut map, 1);
    let one = checkpoint(&mut map, &mut file);
    let before = file.clone();
    allocate(&mut map, 1);
    let two = checkpoint(&mut map, &mut file);
    assert!(file.load(&two, Some(&one)).is_ok());
    assert!(matches!(before.load(&two, Some(&one)), Err(SpaceError::Digest { .. })));
    for slot in 0..2 {
        let block = slot_block(0, slot);
        for at in [0, 4, 9, 10, 12, 16, 50, BITS_AT, BLOCK_BYTES - 1] {
            let mut damaged = file.clone();
            damaged.0.get_mut(&block).unwrap()[at] ^= 4;
            assert!(damaged.load(&two, Some(&one)).is_err(), "slot {slot} byte {at}");
        }
    }
}

#[test]
fn refused_growth_is_tried_in_smaller_steps_then_named_and_changes_nothing() {
    let mut map = SpaceMap::new(SHARD);
    grow(&mut map, 1);
    let (free, blocks) = (map.free_blocks(), map.file_blocks());
    let error = DiskError { errno: libc::ENOSPC };
    let mut steps = Vec::new();
    loop {
        let op = map.grow(100, 5_000, OpId(1)).expect("none is under way");
        let DiskOp::Grow { file_bytes, .. } = op else { panic!("{op:?}") };
        steps.push(file_bytes / BLOCK_BYTES as u64 - blocks);
        assert!(map.grow(1, 1, OpId(2)).is_none(), "one at a time");
        match map.grown(Err(error)) {
            Ok(grown) => assert!(!grown),
            Err(refused) => {
                assert!(matches!(refused, SpaceError::DiskFull { .. }));
                break;
            }
        }
    }
    assert!(steps.is_sorted_by(|a, b| a > b) && steps.len() > 2, "{steps:?}");
    assert!((100..110).contains(steps.last().unwrap()), "{steps:?}");
    assert_eq!((map.free_blocks(), map.file_blocks()), (free, blocks));
    // What there is is taken, and then the steps become larger again.
    let mut grown = map.file_blocks();
    for step in [100, 400, 1_600, 2_048] {
        grow(&mut map, 100);
        assert!(map.file_blocks() - grown >= step, "{step}");
        grown = map.file_blocks();
    }
    grow(&mut map, 5_000);
    assert!(map.allocate(5_000).is_some());
}

fn runs(item_bytes: usize) -> Runs {
    Runs::of(b"key", Some(&vec![0; item_bytes]))
}

#[test]
fn what_needs_no_run_sets_nothing_aside() {
    for item_bytes in [0, 100, 1_300, 1_400, 4_000] {
        assert!(runs(item_bytes).is_none(), "{item_bytes}");
    }
    assert_eq!(runs(4_060).blocks(), 2);
    assert_eq!(runs(30_000).blocks(), 8);
    assert_eq!(Runs::of(&[0; 1_296], None), Runs::default());
    assert_eq!(Runs::of(&[0; 1_297], None).blocks(), 12);
    assert_eq!(Runs::of(&[0; 3_000], Some(&[0; 30_000])).blocks(), 20);
}

#[test]
fn a_run_set_aside_is_there_for_the_merge_in_a_file_in_pieces() {
    let mut map = SpaceMap::new(SHARD);
    let mut file = File::default();
    map.keep_reserve(16);
    grow(&mut map, 1);
    assert_eq!((map.aside_blocks(), map.reserve_missing_blocks()), (16, 0));
    let free = map.free_blocks();
    assert!(map.set_aside(runs(30_000), false));
    assert!(map.set_aside(runs(30_000), false));
    assert!(map.set_aside(runs(5_000), false));
    assert_eq!(map.aside_blocks(), 16 + 8 + 8 + 2);
    assert_eq!(map.free_blocks(), free - 18);
    // Everything else is taken by single pages, and every second one freed.
    let singles: Vec<u64> = (0..map.free_blocks()).map(|_| map.allocate(1).unwrap()).collect();
    singles.iter().step_by(2).for_each(|id| map.free(*id, 1));
    checkpoint(&mut map, &mut file);
    checkpoint(&mut map, &mut file);
    assert!(map.free_blocks() > 900);
    assert!(!map.set_aside(runs(30_000), true), "there is no run of 8");
    assert!(!map.set_aside(runs(5_000), false), "nor of 2");
    // One of the values is in flight when the generation is frozen.
    map.freeze_aside([runs(30_000)].into_iter());
    assert!(map.allocate_extent(8).is_some());
    assert_eq!(map.allocate_extent(8), None, "that one is the next generation's");
    // The other was overwritten: its run is free again, for any page.
    map.drop_frozen_aside();
    assert_eq!(map.aside_blocks(), 16 + 8);
    assert!(map.allocate(2).is_some());
    map.freeze_aside([].into_iter());
    assert!(map.allocate_extent(8).is_some());
    map.drop_frozen_aside();
    assert_eq!(map.aside_bytes(), 0);
    // Pages of several blocks have the reserve.
    for _ in 0..4 {
        assert!(map.allocate(4).is_some());
    }
    assert_eq!((map.allocate(4), map.reserve_missing_blocks()), (None, 16));
    // Deletes of long keys could have used it, and it is filled when runs come free.
    singles.iter().skip(1).step_by(2).for_each(|id| map.free(*id, 1));
    checkpoint(&mut map, &mut file);
    let root = checkpoint(&mut map, &mut file);
    assert_eq!(map.reserve_missing_blocks(), 0);
    let long = Runs::of(&[0; 2_000], None);
    while map.allocate(1).is_some() {}
    assert_eq!(map.reserve_missing_blocks(), 16, "single pages use it last");
    assert!(!map.set_aside(long, true));
    // On the disk nothing of this is held.
    let live = map.live_blocks();
    let map = file.load(&root, None).unwrap();
    assert!(map.live_blocks() < live && map.aside_blocks() == 0);
}

#[test]
fn a_write_that_was_not_made_gives_its_runs_back() {
    let mut map = SpaceMap::new(SHARD);
    grow(&mut map, 1);
    let free = map.free_blocks();
    let long = Runs::of(&[0; 2_000], Some(&[0; 30_000]));
    assert!(map.set_aside(long, false));
    assert_eq!(map.free_blocks(), free - 20);
    map.give_back(long);
    assert_eq!((map.free_blocks(), map.aside_blocks(), map.aside_bytes()), (free, 0, 0));
    // Also when only some of them were there.
    while map.free_blocks() > 16 {
        map.allocate(1).unwrap();
    }
    assert!(!map.set_aside(long, false));
    assert_eq!((map.free_blocks(), map.aside_blocks(), map.aside_bytes()), (16, 0, 0));
}

#[test]
fn golden_bytes_of_a_bitmap_slot() {
    let mut map = SpaceMap::new(SHARD);
    let mut file = File::default();
    grow(&mut map, 1);
    assert_eq!(map.allocate(2), Some(5));
    let root = checkpoint(&mut map, &mut file);
    let bytes = &file.0[&slot_block(0, 0)];
    let hex: String = bytes[..BITS_AT + 2].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "9cb0e8df4642736d010002000000000001000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000006000"
    );
    assert!(bytes[BITS_AT + 2..].iter().all(|&byte| byte == 0));
    assert_eq!(root.digest, 77743294939728627775288075040060371085);
}
