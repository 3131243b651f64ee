//! Full disks, full logs, full memory: refused by name or made to wait, never lost, never stuck.

use super::*;

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

#[test]
fn a_disk_that_is_full_before_the_first_write_is_refused_at_the_opening() {
    let config = tiny();
    let mut disk = device(&config);
    disk.set_bytes_max(ShardFile::Pages, disk.file_bytes(ShardFile::Pages));
    let refused = open_on(&config, &mut disk, Nanos(0)).expect_err("no room");
    assert!(matches!(refused, OpenError::Disk(_)), "{refused}");
    disk.set_bytes_max(ShardFile::Pages, u64::MAX);
    open_on(&config, &mut disk, Nanos(0)).expect("there is room now");
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
