//! How full pages are, and how many are written for it.

use super::harness::{Batch, Store};
use crate::sim_disk::SimRandom;
use crate::tree::merge::blocks_max;

const CACHE: usize = 32 << 20;
/// Of the README's comparison of engines: 24 B keys under a hash, 150 B values.
const ITEM_BYTES: usize = 160;

fn key(n: u64) -> Vec<u8> {
    let mut key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec();
    key.extend_from_slice(&[0, 24]);
    key.extend_from_slice(format!("{n:024}").as_bytes());
    key
}

struct Load {
    store: Store,
    random: SimRandom,
    items: u64,
}

impl Load {
    /// `items` new items in random order, in `merges` merges.
    fn new(items: u64, merges: u64) -> Load {
        let mut load = Load { store: Store::create(CACHE, 1), random: SimRandom::new(7), items: 0 };
        for _ in 0..merges {
            load.insert(items / merges, ITEM_BYTES);
        }
        load
    }

    fn insert(&mut self, count: u64, bytes: usize) -> f64 {
        let first = self.items;
        self.items += count;
        self.merge((first..first + count).map(|n| (key(n), Some(vec![n as u8; bytes]))).collect())
    }

    /// Overwrites `count` of the items with values of these sizes, or fewer where one is drawn twice.
    fn update(&mut self, count: u64, bytes: std::ops::Range<usize>) -> f64 {
        let mut batch = Batch::new();
        for _ in 0..count {
            let n = self.random.bits() % self.items;
            let size = bytes.start + self.random.below(bytes.len());
            batch.insert(key(n), Some(vec![n as u8; size]));
        }
        self.merge(batch)
    }

    /// Pages written for each change.
    fn merge(&mut self, batch: Batch) -> f64 {
        self.store.merge(&batch);
        let written = self.store.merge.stats().pages_written as f64;
        self.store.checkpoint();
        written / batch.len() as f64
    }

    /// The part of its pages that the tree uses.
    fn fill(&mut self) -> f64 {
        let tree = self.store.tree;
        let (report, _) = self.store.verify(&tree);
        assert_eq!(report.damages, []);
        report.used_bytes as f64 / report.page_bytes as f64
    }
}

fn mean(rounds: usize, mut round: impl FnMut() -> f64) -> f64 {
    (0..rounds).map(|_| round()).sum::<f64>() / rounds as f64
}

#[test]
fn a_random_load_in_a_few_merges_fills_pages_nine_tenths() {
    for merges in [2, 4, 8] {
        let fill = Load::new(40_000, merges).fill();
        println!("{merges} merges: {fill:.3} full");
        assert!(fill > 0.9);
    }
    // Large entries: three or four to a page, of which one more or less is a lot.
    for (bytes, least) in [(600, 0.85), (900, 0.75), (1_200, 0.72)] {
        let mut load = Load::new(0, 1);
        for _ in 0..8 {
            load.insert(1_000, bytes);
        }
        let fill = load.fill();
        println!("{bytes} bytes: {fill:.3} full");
        assert!(fill > least);
    }
}

/// What these took when each leaf was cut by itself, in even parts: pages for each change.
#[test]
fn packing_writes_no_more_pages_for_updates_than_cutting_each_leaf_by_itself_did() {
    let same = [(100, 1.442), (1_000, 0.888), (4_000, 0.535), (20_000, 0.164)];
    let other = [(100, 1.511), (1_000, 0.946), (4_000, 0.585), (20_000, 0.204)];
    for (sizes, before) in [(160..161, same), (60..260, other)] {
        for (count, before) in before {
            let mut load = Load::new(40_000, 8);
            let written = mean(8, || load.update(count, sizes.clone()));
            let fill = load.fill();
            println!("{count} of {sizes:?} bytes: {written:.4} pages each, {fill:.3} full");
            assert!(written < before && fill > 0.88);
        }
    }
}

/// Full pages split at the first new entry, as pages do that fill one by one: it evens out.
#[test]
fn inserts_into_packed_pages_cost_what_they_did() {
    for (count, before) in [(100, 1.505), (500, 1.157), (1_000, 1.103), (4_000, 0.608)] {
        let mut load = Load::new(20_000, 8);
        let written = mean(20_000 / count as usize, || load.insert(count, ITEM_BYTES));
        let fill = load.fill();
        println!("{count} new: {written:.4} pages each, {fill:.3} full");
        assert!(written < before * 1.02 && fill > 0.7);
    }
}

#[test]
fn a_few_inserts_after_a_large_load_do_not_split_every_page() {
    for bytes in [130, 190, 215, 240, 300] {
        let mut load = Load::new(0, 1);
        for _ in 0..3 {
            load.insert(13_000, bytes);
        }
        let before = load.fill();
        load.insert(1_000, bytes);
        let fill = load.fill();
        println!("{bytes} bytes: {before:.3} full, then {fill:.3}");
        assert!(before > 0.87 && fill > 0.87);
    }
}

/// A merge's blocks as a part of what it may take; leaf entries have 28 bytes beside key and item.
fn part_of_bound(load: &mut Load, batch: Batch) -> f64 {
    let live = load.store.space.live_blocks();
    let bytes = |(key, item): (&Vec<u8>, &Option<Vec<u8>>)| {
        key.len() + item.as_ref().map_or(0, |item| item.len() + 28)
    };
    let bytes: usize = batch.iter().map(bytes).sum();
    let bound = blocks_max(batch.len() as u64, bytes as u64, live) + 4;
    load.merge(batch);
    load.store.merge.stats().blocks_written as f64 / bound as f64
}

#[test]
fn no_merge_takes_more_than_it_may() {
    let mut longest = 0.0_f64;
    for seed in 0..30 {
        let mut random = SimRandom::new(seed);
        let most = [20, 300, 1_200][random.below(3)];
        let mut load = Load::new(0, 1);
        let size = |random: &mut SimRandom| 1 + random.below(most);
        for round in 0..8 {
            // New ones, or every nth of the old ones: growing by a byte or as it comes, or shrinking.
            let mut batch = Batch::new();
            let nth_max = [2, 20, 200][random.below(3)];
            let nth = 1 + random.below(nth_max) as u64;
            let count = [200, 3_000][random.below(2)];
            let kind = if round == 0 { 0 } else { random.below(4) };
            for n in 0..count as u64 {
                match kind {
                    0 => {
                        batch.insert(key(load.items), Some(vec![1; size(&mut random)]));
                        load.items += 1;
                    }
                    1 => {
                        let n = n * nth % load.items;
                        batch.insert(key(n), Some(vec![1; size(&mut random)]));
                    }
                    2 => drop(batch.insert(key(n * nth % load.items), None)),
                    _ => {
                        // Right behind an old one, and tiny: where pages are full, they split.
                        let mut key = key(n * nth % load.items);
                        key.push(round as u8);
                        batch.insert(key, Some(vec![1]));
                    }
                }
            }
            let part = part_of_bound(&mut load, batch);
            assert!(
                part <= 1.0,
                "seed {seed}: {part:.3} of what it may take, {kind} {nth} {count}"
            );
            longest = longest.max(part);
        }
    }
    println!("{longest:.3} of what a merge may take");
    // Full leaves, each of which gets one tiny entry, or every second or third one.
    for bytes in [100, 600, 1_290] {
        for every in 1..5 {
            let mut load = Load::new(0, 1);
            load.insert(6_000, bytes);
            let per_page = 4_000 / (bytes + 62);
            let sorted: std::collections::BTreeSet<Vec<u8>> = (0..6_000).map(key).collect();
            let mut batch = Batch::new();
            for old in sorted.into_iter().step_by(per_page * every) {
                batch.insert([old, vec![7]].concat(), Some(vec![1]));
            }
            let part = part_of_bound(&mut load, batch);
            println!("{bytes} bytes, every {every}: {part:.3}");
            assert!(part <= 1.0);
        }
    }
}
