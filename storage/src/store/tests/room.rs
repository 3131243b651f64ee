//! How long the pages file gets, and that what it is short of is never what was promised.

use super::full::all_merged;
use super::*;

/// Memory and log for a large part of the tree, and checkpoints by those alone.
fn config(generation_bytes: usize, log_segments: u32) -> StoreConfig {
    let mut config = tiny();
    config.checkpoint_interval_nanos = 3_600 * Nanos::PER_SECOND;
    config.log.segment_bytes = 512 << 10;
    config.log.segments = log_segments;
    config.overlay_generation_bytes = generation_bytes;
    config.cache_bytes = 8 << 20;
    config
}

fn short_key(number: usize) -> Vec<u8> {
    let mut key = SimRandom::new(number as u64).bits().to_be_bytes().to_vec();
    key.extend_from_slice(&(number as u64).to_be_bytes());
    key
}

/// While a merge is under way, free blocks suffice for the worst it may come to. (What these workloads
/// come to is less: so the promise is checked, and not only that nothing is stuck.)
fn assert_promise(rig: &Rig) {
    let (left, free) = (rig.store.merge_left_blocks(), rig.store.space.free_blocks());
    assert!(left <= free, "{left} blocks may be taken, {free} are free: {:?}", rig.store.stats());
}

/// One write of any of `keys` keys, or work until one is possible.
fn put_any(rig: &mut Rig, group: u64, keys: usize, bytes: usize) -> Result<Ticket, Refused> {
    let number = rig.random.below(keys);
    let put = rig.put(group, &short_key(number), bytes);
    if rig.random.chance(1, 8) || put.is_err() {
        rig.pump();
    }
    put
}

#[test]
fn rewriting_everything_over_and_over_takes_three_times_the_tree_and_what_is_in_memory() {
    for (keys, generation) in [(8_000, 4 << 20), (20_000, 4 << 20), (20_000, 2 << 20)] {
        let mut rig = Rig::new(config(generation, 24), 2);
        let group = rig.create();
        for number in 0..keys {
            rig.put_patiently(group, &short_key(number), 300);
        }
        for _ in 0..6 * keys {
            let _ = put_any(&mut rig, group, keys, 300);
        }
        let stats = rig.store.stats();
        let (tree, memory) = (stats.pages_live_blocks, 2 * generation as u64 / BLOCK_BYTES as u64);
        let file = stats.pages_file_bytes / BLOCK_BYTES as u64;
        println!(
            "file {file}, tree {tree}, memory {memory}, {} checkpoints",
            stats.checkpoint_number
        );
        assert!(stats.checkpoint_number > 10);
        assert!(file <= 3 * (tree + memory) + 2_500);
        rig.settle();
        rig.reopen();
    }
}

#[test]
fn what_was_admitted_on_a_full_disk_is_merged_after_a_crash_at_any_moment() {
    let (mut crashes, mut full, mut cleared) = (0, 0, 0);
    for seed in 0..6 {
        let generation = [256 << 10, 1 << 20, 8 << 20][seed as usize % 3];
        let mut rig = Rig::new(config(generation, 24), seed);
        let group = rig.create();
        let (keys, bytes) = ([6_000, 20_000][seed as usize % 2], 300);
        for number in 0..keys / 3 {
            rig.put_patiently(group, &short_key(number), bytes);
        }
        all_merged(&mut rig);
        let limit = rig.disk.file_bytes(ShardFile::Pages);
        for _ in 0..8 {
            rig.disk.set_bytes_max(ShardFile::Pages, limit);
            assert_promise(&rig);
            for _ in 0..500 + rig.random.below(8_000) {
                match put_any(&mut rig, group, keys, bytes) {
                    Ok(_) | Err(Refused::Overloaded) => {}
                    Err(Refused::DiskFull { .. }) => full += 1,
                    Err(other) => panic!("{other}"),
                }
                cleared += usize::from(rig.store.checkpoint.cleared);
                assert_promise(&rig);
            }
            // Often late in a checkpoint: its pages are written, and no superblock says so.
            let late = rig.random.chance(2, 3);
            let is_late = |rig: &Rig| rig.store.checkpoint.phase_name().starts_with("Flushing");
            for _ in 0..30_000 {
                if !late || is_late(&rig) && rig.store.overlay.active_entries() > 0 {
                    break;
                }
                let _ = put_any(&mut rig, group, keys, bytes);
            }
            let disk = if rig.random.chance(1, 2) {
                rig.disk.after_power_cut(&mut rig.random)
            } else {
                rig.disk.after_process_crash(&mut rig.random)
            };
            rig = rig.after_crash(disk);
            rig.disk.set_bytes_max(ShardFile::Pages, limit);
            crashes += 1;
            if rig.random.chance(1, 2) {
                // Everything that is in memory goes into the trees, on a disk that stays full.
                while !rig.store.checkpoint.is_idle() || rig.store.overlay.entries() > 0 {
                    rig.now.0 += rig.config.checkpoint_interval_nanos / 100;
                    rig.pump();
                    assert_promise(&rig);
                }
                space::assert_no_leak_when_idle(&mut rig);
            }
        }
        all_merged(&mut rig);
        rig.reopen();
    }
    println!("{crashes} crashes, {full} puts refused, in {cleared} steps room was made");
    assert!(full > 1_000 && cleared > 10);
}
