//! Full disks, full logs, full memory: refused by name or made to wait, never lost, never stuck.

use super::*;
use crate::space::SpaceError;

/// Puts until the disk is full.
fn fill(rig: &mut Rig, group: u64, bytes: usize) -> (usize, Refused) {
    for number in 0..200_000 {
        loop {
            match rig.put(group, &key(number), bytes) {
                Ok(_) => break,
                Err(Refused::Overloaded) => rig.pump(),
                Err(refused) => return (number, refused),
            }
        }
    }
    panic!("the disk is never full");
}

#[test]
fn a_full_disk_refuses_puts_by_name_and_deletes_make_room() {
    for (seed, bytes) in [(1, 900), (2, 100), (3, 12_000)] {
        let mut rig = Rig::new(tiny(), seed);
        let group = rig.create();
        rig.settle();
        rig.disk.set_bytes_max(ShardFile::Pages, rig.disk.file_bytes(ShardFile::Pages));
        let (count, refused) = fill(&mut rig, group, bytes);
        assert!(matches!(refused, Refused::DiskFull { .. }), "{refused}");
        assert!(count > 20);
        // What was accepted becomes durable in the trees.
        rig.settle();
        assert!(rig.store.has_room(), "a put is to be refused by name, not to wait");
        rig.checkpoint_if_changed();
        space::assert_no_leak_when_idle(&mut rig);
        // Deletes are accepted, all of them in the end, and make room.
        for number in 0..count {
            for _ in 0..10_000 {
                match rig.delete(group, &key(number)) {
                    Ok(_) => break,
                    Err(Refused::Overloaded) => rig.pump(),
                    Err(other) => panic!("{other}"),
                }
            }
        }
        rig.settle();
        let mut rig = rig.reopen();
        assert!(rig.model.chosen[&group].is_empty());
        let mut accepted = false;
        for _ in 0..20_000 {
            match rig.put(group, &key(1), bytes) {
                Ok(_) => {
                    accepted = true;
                    break;
                }
                Err(Refused::Overloaded | Refused::DiskFull { .. }) => rig.pump(),
                Err(other) => panic!("{other}"),
            }
        }
        assert!(accepted, "deletes made room: {:?}", rig.store.stats());
        rig.reopen();
    }
}

#[test]
fn a_full_disk_loses_nothing_in_a_crash_and_goes_on_when_space_returns() {
    for seed in 0..6 {
        let mut rig = Rig::new(tiny(), seed);
        let group = rig.create();
        rig.settle();
        rig.disk.set_bytes_max(ShardFile::Pages, rig.disk.file_bytes(ShardFile::Pages));
        let bytes = [300, 1500, 20_000][seed as usize % 3];
        let (count, _) = fill(&mut rig, group, bytes);
        for _ in 0..rig.random.below(200) {
            rig.pump();
        }
        let disk = rig.disk.after_power_cut(&mut rig.random);
        let mut rig = rig.after_crash(disk);
        // Overwrites of everything, by and by, while there is no space: accepted, or refused by
        // name; never an error, never lost.
        for number in 0..count.min(300) {
            match rig.put(group, &key(number), bytes) {
                Ok(_) | Err(Refused::Overloaded | Refused::DiskFull { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            rig.pump();
        }
        rig.disk.set_bytes_max(ShardFile::Pages, u64::MAX);
        for number in 0..60 {
            for attempt in 0.. {
                match rig.put(group, &key(number), bytes) {
                    Ok(_) => break,
                    Err(Refused::Overloaded | Refused::DiskFull { .. }) => {
                        assert!(attempt < 50_000, "{:?}", rig.store.stats());
                        rig.pump();
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
        rig.reopen();
    }
}

/// Lets the store work until `done`, for long enough.
#[track_caller]
fn work_until(rig: &mut Rig, what: &str, mut done: impl FnMut(&mut Rig) -> bool) {
    for _ in 0..50_000 {
        if done(rig) {
            return;
        }
        rig.pump();
    }
    panic!("{what} never: {}", rig.store.checkpoint_phase());
}

fn delete_patiently(rig: &mut Rig, group: u64, key: &[u8]) {
    work_until(rig, "a delete", |rig| match rig.delete(group, key) {
        Ok(_) => true,
        Err(Refused::Overloaded) => false,
        Err(other) => panic!("{other}"),
    });
}

#[test]
fn on_a_full_disk_in_pieces_checkpoints_end_and_deletes_make_room_for_large_values() {
    let (mut refused, mut crashes) = ([0; 2], 0);
    for seed in 0..10 {
        let mut rig = Rig::new(tiny(), seed);
        let group = rig.create();
        rig.settle();
        let limit = rig.disk.file_bytes(ShardFile::Pages) + ((seed % 3) << 20);
        rig.disk.set_bytes_max(ShardFile::Pages, limit);
        // Until the first refusal of each size, in all sizes: the disk is full, and in pieces.
        let sizes = [300, 900, 3_000, 9_000, 20_000, 34_000];
        let keys = 2_000;
        for round in 0..60 {
            for _ in 0..40 {
                let number = rig.random.below(keys);
                // Many more writes than deletes at first, and none of the largest later.
                if round > 20 && rig.random.chance(1, 3) {
                    delete_patiently(&mut rig, group, &key(number));
                    continue;
                }
                let bytes = sizes[rig.random.below(sizes.len())];
                // To be answered, one way or the other.
                work_until(&mut rig, "an answer", |rig| {
                    match rig.put(group, &key(number), bytes) {
                        Ok(_) => true,
                        Err(Refused::DiskFull { .. }) => {
                            refused[usize::from(bytes > 4_000)] += 1;
                            true
                        }
                        Err(Refused::Overloaded) => false,
                        Err(other) => panic!("{other}"),
                    }
                });
            }
            let number = rig.store.checkpoint.number();
            work_until(&mut rig, "a checkpoint", |rig| {
                rig.now.0 += Nanos::PER_MILLI;
                let idle = rig.store.checkpoint.is_idle() && rig.model.pending.is_empty();
                idle && rig.store.checkpoint.number() > number
            });
            space::assert_no_leak_when_idle(&mut rig);
            if rig.random.chance(1, 8) {
                crashes += 1;
                // With as much in memory as there may be, and on a disk that is still full.
                for number in 0..20 {
                    let _ = rig.put(group, &key(number * 7), sizes[number % sizes.len()]);
                    rig.turn();
                }
                let disk = rig.disk.after_power_cut(&mut rig.random);
                rig = rig.after_crash(disk);
                rig.disk.set_bytes_max(ShardFile::Pages, limit);
            }
        }
        for number in 0..keys {
            delete_patiently(&mut rig, group, &key(number));
        }
        work_until(&mut rig, "a large value", |rig| {
            rig.now.0 += Nanos::PER_MILLI;
            rig.put(group, &key(1), 34_000).is_ok()
        });
        rig.settle();
        rig.reopen();
    }
    eprintln!("{} small and {} large puts refused, {crashes} crashes", refused[0], refused[1]);
    assert!(refused[0] > 100 && refused[1] > 100 && crashes > 20);
}

/// Memory and log for hundreds of large values, and no checkpoint by time for an hour.
fn roomy() -> StoreConfig {
    let mut config = tiny();
    config.checkpoint_interval_nanos = 3_600 * Nanos::PER_SECOND;
    config.log.segment_bytes = 4 << 20;
    config.log.segments = 6;
    config.overlay_generation_bytes = 8 << 20;
    config
}

/// Puts values of `bytes` under keys from `first` on until one is refused; how many were accepted.
fn put_until_full(rig: &mut Rig, group: u64, first: usize, bytes: usize) -> usize {
    for count in 0..2_000 {
        let mut full = false;
        work_until(rig, "an answer", |rig| match rig.put(group, &key(first + count), bytes) {
            Ok(_) => true,
            Err(Refused::DiskFull { .. }) => {
                full = true;
                true
            }
            Err(Refused::Overloaded) => false,
            Err(other) => panic!("{other}"),
        });
        if full {
            return count;
        }
    }
    panic!("the disk is never full");
}

/// What is in memory gets into the trees, by checkpoints as time goes by.
#[track_caller]
pub(super) fn all_merged(rig: &mut Rig) {
    work_until(rig, "the end of a merge", |rig| {
        rig.now.0 += rig.config.checkpoint_interval_nanos / 100;
        let in_memory = rig.store.overlay.entries() + rig.model.pending.len();
        in_memory == 0 && rig.store.checkpoint.is_idle()
    });
}

/// Breaks the free space up: every second block is taken for good, but for `runs` runs of `blocks`.
fn break_up(rig: &mut Rig, runs: usize, blocks: usize) {
    let space = &mut rig.store.space;
    space.rewind();
    let free: Vec<u64> = (0..space.free_blocks()).map(|_| space.allocate(1).unwrap()).collect();
    let mut whole: Vec<&[u64]> = free
        .chunk_by(|a, b| a + 1 == *b)
        .flat_map(|run| run.chunks_exact(blocks + 1))
        .map(|run| &run[..blocks])
        .collect();
    whole.truncate(runs);
    assert_eq!(whole.len(), runs);
    for (at, id) in free.iter().enumerate() {
        let first = whole.partition_point(|run| run[blocks - 1] < *id);
        let in_run = whole.get(first).is_some_and(|run| run.contains(id));
        if in_run || (at % 2 == 0 && first == runs) {
            space.unallocate(*id, 1);
        }
    }
}

#[test]
fn after_a_crash_the_runs_of_replayed_values_are_not_given_to_others() {
    const LARGE: usize = 34_000;
    for seed in 0..8 {
        let mut rig = Rig::new(roomy(), seed);
        let group = rig.create();
        rig.put_patiently(group, &key(999), 10);
        all_merged(&mut rig);
        rig.disk.set_bytes_max(ShardFile::Pages, rig.disk.file_bytes(ShardFile::Pages));
        // Also without a large value before: what is asked for was not free when they came.
        for number in 0..20 * (seed as usize % 2) {
            rig.put_patiently(group, &key(number), LARGE);
        }
        all_merged(&mut rig);
        break_up(&mut rig, 12, 9);
        let accepted = put_until_full(&mut rig, group, 101, LARGE);
        assert!((1..=12).contains(&accepted), "{accepted}");
        let admitted = rig.store.admit_to_disk(LARGE, Runs::default(), false);
        assert_eq!(admitted, Ok(()), "only runs are short");
        rig.settle();
        let disk = match seed % 3 {
            0 => rig.disk.after_process_crash(&mut rig.random),
            _ => rig.disk.after_power_cut(&mut rig.random),
        };
        rig = rig.after_crash(disk);
        let more = put_until_full(&mut rig, group, 200, LARGE);
        assert!(accepted + more <= 12, "{accepted} and {more}");
        all_merged(&mut rig);
        // Deletes of large values leave runs for others. No checkpoint is due by time, and single
        // blocks are not short: refusals ask for it.
        for number in (0..20 * (seed as usize % 2)).chain(101..101 + accepted) {
            delete_patiently(&mut rig, group, &key(number));
        }
        work_until(&mut rig, "a large value", |rig| {
            rig.now.0 += Nanos::PER_MILLI;
            rig.put(group, &key(300), LARGE).is_ok()
        });
        rig.settle();
        rig.reopen();
    }
}

#[test]
fn what_was_admitted_while_the_file_could_grow_is_merged_when_it_no_longer_can() {
    for (seed, bytes) in [(0, 3_000), (1, 1_500), (2, 9_000), (3, 100)] {
        let mut rig = Rig::new(roomy(), seed);
        let group = rig.create();
        rig.settle();
        // No growth ends, and the log's writes do.
        let mut number = 0;
        loop {
            match rig.put(group, &key(number), bytes) {
                Ok(_) => number += 1,
                Err(Refused::Overloaded) if rig.store.log.check_room(bytes + 200).is_err() => {}
                Err(Refused::Overloaded) => break,
                Err(other) => panic!("{other}"),
            }
            rig.turn();
            let log_writes: Vec<_> =
                rig.disk.in_flight().filter(|op| rig.store.log.owns(*op)).collect();
            for op in log_writes {
                let done = rig.disk.complete(op).expect("in flight");
                rig.store.disk_done(done, rig.now);
            }
            rig.model.advance(rig.store.chosen_ticket());
        }
        assert!(number > 100, "{number}");
        // Now the file system is full, before the growth that was asked for.
        rig.disk.set_bytes_max(ShardFile::Pages, rig.disk.file_bytes(ShardFile::Pages));
        all_merged(&mut rig);
        rig.reopen();
    }
}

#[test]
fn a_disk_that_is_full_before_the_first_write_is_refused_at_the_opening_or_serves() {
    let config = tiny();
    let (mut refusals, mut served) = (0, 0);
    for blocks in (0..1_200).step_by(37) {
        let mut disk = device(&config);
        let limit = disk.file_bytes(ShardFile::Pages) + blocks * BLOCK_BYTES as u64;
        disk.set_bytes_max(ShardFile::Pages, limit);
        let opened = open_on(&config, &mut disk, Nanos(0));
        let Ok(Opened { mut store, .. }) = opened else {
            let refused = opened.expect_err("no room");
            assert!(matches!(refused, OpenError::Space(SpaceError::DiskFull { .. })), "{refused}");
            refusals += 1;
            disk.set_bytes_max(ShardFile::Pages, u64::MAX);
            open_on(&config, &mut disk, Nanos(0)).expect("there is room now");
            continue;
        };
        served += 1;
        // What serves has room for its first groups, and says what it has none for.
        for group in 0..3 {
            let descriptor = GroupDescriptor { id: GroupId(group), payload: &[1; 300] };
            store.create_group(descriptor).expect("room for a group");
        }
    }
    assert!(refusals > 5 && served > 5, "{refusals} {served}");
}

/// Puts as fast as they are accepted and checks that they always go on, although no checkpoint is
/// due by time.
fn never_stuck(config: StoreConfig, puts: usize, bytes: impl Fn(usize) -> usize) -> StoreStats {
    let mut rig = Rig::new(config, 3);
    let group = rig.create();
    let (mut refused, mut waited) = (0, 0);
    for number in 0..puts {
        loop {
            if !rig.store.has_room() {
                waited += 1;
            }
            match rig.put(group, &key(number % 50), bytes(number)) {
                Ok(_) => {
                    refused = 0;
                    break;
                }
                Err(Refused::Overloaded) => {
                    refused += 1;
                    assert!(refused < 50_000, "stuck: {}", rig.store.checkpoint_phase());
                    rig.now.0 += 100;
                    rig.turn();
                    rig.complete();
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    rig.settle();
    let stats = rig.store.stats();
    eprintln!("{puts} puts, {waited} waits, {} checkpoints", stats.checkpoint_number);
    rig.reopen();
    stats
}

fn no_clock(mut config: StoreConfig) -> StoreConfig {
    config.checkpoint_interval_nanos = u64::MAX / 4;
    config
}

#[test]
fn a_full_log_makes_writes_wait_for_a_checkpoint_and_then_go_on() {
    let mut config = no_clock(tiny());
    config.overlay_generation_bytes = 8 << 20;
    never_stuck(config, 2_000, |_| 900);
    // Whatever part of the log begins a checkpoint, also one that two checkpoints cannot both have.
    for percent in [10, 60, 90] {
        config.log_fill_percent = percent;
        never_stuck(config, 1_500, |_| 2_000);
        never_stuck(config, 300, |number| if number % 7 == 0 { 36_000 } else { 50 });
    }
}

#[test]
fn a_log_with_a_large_reserve_gets_its_checkpoint_before_clients_have_filled_it() {
    for (percent, held) in [(50, 0), (75, 0), (90, 1)] {
        let mut config = no_clock(tiny());
        config.overlay_generation_bytes = 8 << 20;
        config.log.segments = 8;
        config.log.reserve_bytes = 5 * config.log.segment_bytes;
        config.log_fill_percent = percent;
        let mut rig = Rig::new(config, 3);
        let group = rig.create();
        // Slow enough that a checkpoint ends meanwhile, if it begins in time.
        for number in 0..1_500 {
            rig.put(group, &key(number % 50), 1_000).expect("room");
            rig.settle();
        }
        let stats = rig.store.stats();
        assert_eq!(stats.log.full, 0);
        assert!(stats.checkpoint_number > 10 + held, "{}", stats.checkpoint_number);
        rig.reopen();
    }
}

#[test]
fn full_memory_makes_writes_wait_for_a_merge_and_then_go_on() {
    for (overlay_fill_percent, bytes) in
        [(50, 300), (90, 300), (90, 3000), (10, 25_000), (90, 25_000)]
    {
        let config = StoreConfig { overlay_fill_percent, ..no_clock(tiny()) };
        never_stuck(config, 1_200, |_| bytes);
    }
}

#[test]
fn with_checkpoints_off_they_still_happen_when_memory_or_log_are_full() {
    let mut config = no_clock(tiny());
    config.checkpoints_off = true;
    assert!(never_stuck(config, 1_500, |_| 700).checkpoint_number > 2);
    config.overlay_generation_bytes = 8 << 20;
    assert!(never_stuck(config, 1_500, |_| 700).checkpoint_number > 2);
}

#[test]
fn refused_writes_use_up_neither_memory_nor_slots() {
    let mut rig = Rig::new(no_clock(smallest()), 4);
    let group = rig.create();
    rig.settle();
    // Fill the log's buffers without letting the device work.
    let mut accepted = 0;
    while rig.put(group, &key(accepted % 10), 6_000).is_ok() {
        accepted += 1;
        rig.turn();
    }
    while rig.put(group, &key(1), 1_250).is_ok() {}
    let bytes = rig.store.overlay.active_bytes();
    for _ in 0..1_000 {
        assert_eq!(rig.put(group, &key(1), 6_000), Err(Refused::Overloaded));
    }
    assert_eq!(rig.store.overlay.active_bytes(), bytes);
    assert!(!rig.store.has_room());
    rig.settle();
    assert!(rig.store.has_room());
    rig.put_patiently(group, &key(1), 6_000);
    rig.settle();
    rig.reopen();
}

#[test]
fn what_can_never_fit_is_refused_as_too_large_not_as_a_matter_of_time() {
    let mut rig = Rig::new(tiny(), 5);
    let group = rig.create();
    let refused = rig.put(group, &key(1), 50 << 10);
    assert!(matches!(refused, Err(Refused::TooLarge { .. })), "{refused:?}");
    // A log record could hold it, but memory for writes, or the page cache, could not.
    let mut config = tiny();
    config.log.record_bytes_max = 400 << 10;
    config.log.segment_bytes = 1 << 20;
    let mut rig = Rig::new(config, 5);
    let group = rig.create();
    let refused = rig.put(group, &key(1), 350 << 10);
    assert!(matches!(refused, Err(Refused::TooLarge { .. })), "{refused:?}");
    config.overlay_generation_bytes = 4 << 20;
    let mut rig = Rig::new(config, 5);
    let group = rig.create();
    let refused = rig.put(group, &key(1), 350 << 10);
    assert!(matches!(refused, Err(Refused::TooLarge { .. })), "{refused:?}");
    rig.put_patiently(group, &key(1), 40 << 10);
    rig.settle();
    rig.checkpoint();
    rig.reopen();
}

#[test]
fn memory_for_recovery_is_there_even_if_both_superblocks_worth_of_log_is_replayed() {
    // The newest superblock is lost: the log of two checkpoints comes back into memory at once.
    for seed in 0..6 {
        let mut rig = Rig::new(tiny(), seed);
        let group = rig.create();
        while rig.store.checkpoint.number() < 4 {
            let number = rig.random.below(60);
            rig.put_patiently(group, &key(number), 700);
        }
        for number in 0..100 {
            if rig.put(group, &key(number % 60), 700).is_err() {
                rig.pump();
            }
        }
        while rig.complete() {}
        rig.turn();
        let newest = rig.store.superblock.checkpoint % 2;
        rig.disk.flip_bit(ShardFile::Pages, newest * BLOCK_BYTES as u64 + 40, 0);
        let disk = rig.disk.after_process_crash(&mut rig.random);
        let mut rig = rig.after_crash(disk);
        for number in 0..200 {
            rig.put_patiently(group, &key(number % 60), 700);
        }
        rig.settle();
        rig.reopen();
    }
}
