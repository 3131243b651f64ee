//! Random merges, reads and restarts against an ordered map.

use super::harness::{Batch, Input, Model, Store, apply};
use crate::block::{BLOCK_BYTES, ShardFile};
use crate::cache::BUDGET_BYTES_MIN;
use crate::sim_disk::SimRandom;
use crate::space::SpaceError;
use crate::tree::merge::MergeStep;
use crate::tree::{TreeRef, page};

const CACHE: usize = 2 << 20;

/// The shapes of keys that matter: hashed, clustered under one partition key, long, tiny.
#[derive(Clone, Copy, Debug)]
enum Keys {
    Hashed,
    Sequential,
    Long,
    Tiny,
}

fn key(keys: Keys, random: &mut SimRandom) -> Vec<u8> {
    match keys {
        Keys::Hashed => {
            let n = random.below(3_000) as u64;
            let mut key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec();
            key.extend_from_slice(format!("user{n}").as_bytes());
            key
        }
        Keys::Sequential => {
            let mut key = b"hash____pk".to_vec();
            key.extend_from_slice(&(random.below(5_000) as u32).to_be_bytes());
            key
        }
        Keys::Long => {
            let mut key = vec![b'a' + random.below(3) as u8; 2058];
            key[9] = random.below(4) as u8;
            let sort = random.below(1025);
            key.resize(2058 + sort, b'x');
            if sort > 2 {
                key[2060] = random.below(3) as u8;
            }
            key
        }
        Keys::Tiny => (0..random.below(4)).map(|_| random.below(3) as u8 * 127).collect(),
    }
}

fn item(random: &mut SimRandom) -> Vec<u8> {
    let bytes = match random.below(20) {
        0 => random.below(40_000),
        1 => 1_200 + random.below(400),
        2 => 0,
        3..7 => 1_100,
        _ => random.below(200),
    };
    let fill = random.bits() as u8;
    (0..bytes).map(|i| fill.wrapping_add(i as u8)).collect()
}

fn batch(keys: Keys, size: usize, deletes: usize, random: &mut SimRandom) -> Batch {
    (0..size)
        .map(|_| {
            let put = !random.chance(deletes, 100);
            (key(keys, random), put.then(|| item(random)))
        })
        .collect()
}

fn run_against_model(keys: Keys, seed: u64, rounds: usize) {
    println!("{keys:?} seed {seed}");
    let mut random = SimRandom::new(seed);
    let mut store = Store::create(CACHE, seed);
    let mut model = Model::new();
    for round in 0..rounds {
        let most = [5, 60, 600][random.below(3)];
        let size = 1 + random.below(most);
        let deletes = [5, 30, 90][random.below(3)];
        let mut changes = batch(keys, size, deletes, &mut random);
        if random.chance(1, 12) {
            // Everything goes.
            changes = model.keys().map(|key| (key.clone(), None)).collect();
        } else if random.chance(1, 6) && !model.is_empty() {
            // A whole range goes.
            let start = key(keys, &mut random);
            let n = random.below(model.len());
            changes = model.range(start..).take(n).map(|(key, _)| (key.clone(), None)).collect();
        }
        store.merge(&changes);
        apply(&mut model, &changes);
        store.check(&model);
        if random.chance(3, 4) {
            store.checkpoint();
        }
        if random.chance(1, 4) {
            store.checkpoint();
            store = store.reopen();
            store.check(&model);
        }
        if round % 4 == 0 {
            store.check_reads(&model);
        }
    }
    store.check_reads(&model);
}

#[test]
fn hashed_keys_behave_like_an_ordered_map() {
    (0..3).for_each(|seed| run_against_model(Keys::Hashed, seed, 25));
}

#[test]
fn clustered_keys_behave_like_an_ordered_map() {
    (10..13).for_each(|seed| run_against_model(Keys::Sequential, seed, 25));
}

#[test]
fn longest_keys_behave_like_an_ordered_map() {
    (20..23).for_each(|seed| run_against_model(Keys::Long, seed, 20));
}

#[test]
fn tiny_and_empty_keys_behave_like_an_ordered_map() {
    (30..36).for_each(|seed| run_against_model(Keys::Tiny, seed, 25));
}

fn numbered(n: u64, hashed: bool) -> Vec<u8> {
    let n = if hashed { n.wrapping_mul(0x9e37_79b9_7f4a_7c15) } else { n };
    let mut key = n.to_be_bytes().to_vec();
    key.extend_from_slice(&[0, 4, b'u', b's', b'e', b'r']);
    key
}

#[test]
fn smallest_cache_suffices_for_any_tree() {
    let mut store = Store::create(BUDGET_BYTES_MIN, 1);
    let mut model = Model::new();
    for round in 0..6 {
        let changes: Batch = (0..800)
            .map(|n| (numbered(n * 7 + round, true), Some(vec![round as u8; 300])))
            .collect();
        store.merge(&changes);
        apply(&mut model, &changes);
        store.check(&model);
        let stats = store.cache.stats();
        assert!(stats.resident_bytes <= BUDGET_BYTES_MIN as u64);
        store.checkpoint();
    }
    assert!(store.cache.stats().evictions > 0);
    store.check_reads(&model);
}

#[test]
fn appending_fills_pages_and_random_inserts_keep_them_seven_tenths_full() {
    let mut store = Store::create(8 << 20, 1);
    for round in 0..10 {
        let changes: Batch =
            (0..1_000).map(|n| (numbered(round * 1_000 + n, false), Some(vec![1; 100]))).collect();
        store.merge(&changes);
        store.checkpoint();
    }
    let tree = store.tree;
    let (report, _) = store.verify(&tree);
    let fill = report.used_bytes as f64 / report.page_bytes as f64;
    println!("appended: {fill:.3} full, {} leaves, {} interiors", report.leaves, report.interiors);
    assert!(fill > 0.9);

    let mut store = Store::create(8 << 20, 1);
    let mut random = SimRandom::new(5);
    let mut fills = 0.0;
    for round in 0..40 {
        let changes: Batch =
            (0..500).map(|_| (numbered(random.bits() >> 20, true), Some(vec![1; 100]))).collect();
        store.merge(&changes);
        store.checkpoint();
        if round >= 20 {
            let tree = store.tree;
            let (report, _) = store.verify(&tree);
            fills += report.used_bytes as f64 / report.page_bytes as f64 / 20.0;
        }
    }
    println!("inserted at random: {fills:.3} full");
    assert!(fills > 0.68);
}

#[test]
fn three_values_of_a_kibibyte_share_a_page() {
    let mut store = Store::create(CACHE, 1);
    let changes: Batch =
        (0..300).map(|n| (numbered(n, false), Some(vec![1; 1024 + 128]))).collect();
    store.merge(&changes);
    let tree = store.tree;
    let (report, _) = store.verify(&tree);
    assert_eq!((report.leaves, report.extents), (100, 0));
}

#[test]
fn a_merge_that_changes_nothing_writes_nothing() {
    let mut store = Store::create(CACHE, 1);
    let changes: Batch = (0..2_000).map(|n| (numbered(n, true), Some(vec![1; 100]))).collect();
    store.merge(&changes);
    let tree = store.tree;
    let absent: Batch = (5_000..5_500).map(|n| (numbered(n, true), None)).collect();
    store.merge(&absent);
    assert_eq!(store.tree, tree);
    assert_eq!(store.merge.stats().pages_written, 0);
    store.merge(&Batch::new());
    assert_eq!(store.tree, tree);
}

#[test]
fn a_full_disk_stops_the_merge_and_abandoning_it_loses_nothing() {
    let mut store = Store::create(CACHE, 1);
    let mut model = Model::new();
    let changes: Batch = (0..3_000).map(|n| (numbered(n, true), Some(vec![1; 100]))).collect();
    store.merge(&changes);
    apply(&mut model, &changes);
    store.checkpoint();
    store.disk.set_bytes_max(ShardFile::Pages, store.space.file_blocks() * BLOCK_BYTES as u64);
    let big: Batch = (0..3_000).map(|n| (numbered(n * 3, true), Some(vec![2; 5_000]))).collect();
    let mut input = Input::new(&big);
    store.merge.reset(store.tree);
    let blocks = loop {
        match store.merge.step(&mut input, &mut store.cache, &mut store.space, 1_000) {
            MergeStep::Progress => {}
            MergeStep::Missing => {
                let missing = store.merge.missing().to_vec();
                missing.iter().for_each(|page| store.read(page));
            }
            MergeStep::CacheFull => store.write_pages(),
            MergeStep::NeedSpace(blocks) => break blocks,
            MergeStep::Done(_) => panic!("the file cannot hold it"),
        }
    };
    assert!(matches!(store.grow(blocks), Err(SpaceError::DiskFull { .. })));
    store.merge.abandon(&mut store.cache, &mut store.space);
    store.check(&model);
    // Deletes go through, and what they free comes back.
    store.checkpoint();
    store.checkpoint();
    let fewer: Batch = (0..1_500).map(|n| (numbered(n, true), None)).collect();
    store.merge(&fewer);
    apply(&mut model, &fewer);
    store.checkpoint();
    store.check(&model);
    store = store.reopen();
    store.check_reads(&model);
}

#[test]
fn freed_pages_wait_for_two_superblocks_and_for_holds() {
    let mut store = Store::create(CACHE, 1);
    let changes = |byte: u8| -> Batch {
        (0..200).map(|n| (numbered(n, true), Some(vec![byte; 100]))).collect()
    };
    store.merge(&changes(1));
    store.checkpoint();
    let (held, held_number) = (store.tree, store.space.building() - 1);
    let (report, _) = store.verify(&held);
    store.space.hold(held_number);
    for byte in 2..8 {
        store.merge(&changes(byte));
        store.checkpoint();
        // The held tree stays whole on the device, whatever is written.
        assert_eq!(store.verify(&held).0, report);
    }
    let waiting = store.space.deferred_blocks();
    store.space.release(held_number);
    assert!(store.space.deferred_blocks() < waiting);
    // Without holds, the tree before the last is still whole, as the older superblock needs.
    let before = store.tree;
    let (report, _) = store.verify(&before);
    store.merge(&changes(8));
    store.checkpoint();
    assert_eq!(store.verify(&before).0, report);
    let mut store = store.reopen();
    store.merge(&changes(9));
    store.write_pages();
    // After a restart too: until the next superblock is durable, both old ones can be needed.
    assert_eq!(store.verify(&before).0, report);
}

#[test]
fn largest_item_makes_the_round_trip() {
    let mut store = Store::create(CACHE * 8, 1);
    let bytes = forebay_core::limits::ENCODED_ITEM_BYTES_MAX;
    let large: Vec<u8> = (0..bytes).map(|i| (i / 7) as u8).collect();
    let changes = Batch::from([(b"a".to_vec(), Some(large.clone()))]);
    store.merge(&changes);
    store.checkpoint();
    let mut store = store.reopen();
    assert_eq!(store.get(b"a"), Some(large));
    store.merge(&Batch::from([(b"a".to_vec(), None)]));
    assert_eq!(store.tree, TreeRef::EMPTY);
    store.checkpoint();
    store.checkpoint();
    assert_eq!(store.space.live_blocks() + store.space.deferred_blocks(), 0);
    assert!(page::overflow_blocks(bytes) > 1_000);
}
