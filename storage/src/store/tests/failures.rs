//! Devices that fail: final for the store, and nothing acknowledged is lost.

use super::*;
use crate::sim_disk::{EIO, Fault};

/// A life with one fault injected at some point; then what is left is opened again.
fn fail_somewhere(seed: u64, file: ShardFile, fault: Fault) -> Option<StoreFailure> {
    let mut rig = Rig::new(smallest(), seed);
    let group = rig.create();
    let at = rig.random.below(120);
    for event in 0..400 {
        if event == at {
            rig.disk.inject(file, fault);
        }
        match rig.put(group, &key(event % 25), 10 + 40 * (event % 30)) {
            Ok(_) | Err(Refused::Overloaded) => {}
            Err(Refused::Failed) => break,
            Err(other) => panic!("{other}"),
        }
        if event % 10 == 0 {
            rig.now.0 += rig.config.checkpoint_interval_nanos;
        }
        rig.pump();
    }
    let failure = rig.store.failure()?;
    assert_eq!(rig.put(group, &key(1), 10), Err(Refused::Failed));
    assert_eq!(rig.delete(group, &key(1)), Err(Refused::Failed));
    assert!(rig.store.is_closed(), "there is nothing to wait for");
    // Nothing more is written, whatever still completes.
    while rig.complete() {}
    rig.store.turn(rig.now, &mut rig.ops);
    assert!(rig.ops.is_empty(), "{:?}", rig.ops);
    assert_eq!(rig.store.failure(), Some(failure), "the first failure is the reason");
    let disk = match seed % 3 {
        0 => rig.disk.after_process_crash(&mut rig.random),
        _ => rig.disk.after_power_cut(&mut rig.random),
    };
    let mut rig = rig.after_crash(disk);
    rig.put_patiently(group, &key(2), 100);
    rig.settle();
    rig.checkpoint_if_changed();
    rig.reopen();
    Some(failure)
}

#[test]
fn a_failed_log_write_is_final_and_loses_nothing_acknowledged() {
    for seed in 0..40 {
        let failure = fail_somewhere(seed, ShardFile::Log, Fault::Write(EIO));
        assert!(matches!(failure, Some(StoreFailure::Log(_))), "{failure:?}");
    }
}

#[test]
fn a_failed_page_or_superblock_write_is_final_and_loses_nothing_acknowledged() {
    for seed in 100..160 {
        let failure = fail_somewhere(seed, ShardFile::Pages, Fault::Write(EIO));
        assert!(matches!(failure, Some(StoreFailure::Checkpoint(_))), "{failure:?}");
    }
}

#[test]
fn a_failed_flush_of_the_pages_is_final_and_loses_nothing_acknowledged() {
    for seed in 200..240 {
        let failure = fail_somewhere(seed, ShardFile::Pages, Fault::Flush(EIO));
        assert!(matches!(failure, Some(StoreFailure::Checkpoint(_))), "{failure:?}");
    }
}

#[test]
fn a_failed_superblock_write_leaves_the_older_one() {
    for seed in 0..20 {
        let mut rig = Rig::new(smallest(), seed);
        let group = rig.create();
        for number in 0..10 {
            rig.put_patiently(group, &key(number), 700);
        }
        rig.settle();
        rig.checkpoint();
        rig.put(group, &key(3), 10).expect("room");
        rig.settle();
        rig.now.0 += 2 * rig.config.checkpoint_interval_nanos;
        while !rig.store.checkpoint_phase().starts_with("Flushing") {
            rig.turn();
            rig.complete();
        }
        rig.disk.inject(ShardFile::Pages, Fault::Write(EIO));
        while rig.store.failure().is_none() {
            rig.turn();
            rig.complete();
        }
        let disk = rig.disk.after_power_cut(&mut rig.random);
        rig.after_crash(disk);
    }
}

#[test]
fn a_failed_read_or_flush_at_the_opening_is_an_error_and_the_next_opening_succeeds() {
    let mut rig = Rig::new(smallest(), 1);
    let group = rig.create();
    rig.put(group, &key(1), 700).expect("room");
    rig.settle();
    rig.checkpoint();
    rig.put(group, &key(2), 700).expect("room");
    rig.settle();
    let mut disk = rig.disk.after_process_crash(&mut rig.random);
    for (file, fault) in [
        (ShardFile::Log, Fault::Read(EIO)),
        (ShardFile::Log, Fault::Flush(EIO)),
        (ShardFile::Pages, Fault::Read(EIO)),
        (ShardFile::Pages, Fault::Flush(EIO)),
    ] {
        disk.inject(file, fault);
        assert!(open_on(&rig.config, &mut disk, rig.now).is_err(), "{file:?} {fault:?}");
    }
    rig.after_crash(disk);
}

/// A store whose items are in the tree and not in the cache.
fn cold() -> (Rig, u64) {
    let mut rig = Rig::new(smallest(), 9);
    let group = rig.create();
    for number in 0..40 {
        rig.put_patiently(group, &key(number), 600);
    }
    rig.settle();
    let mut rig = rig.reopen();
    // That read everything: forget it again.
    rig.cold_start();
    (rig, group)
}

#[test]
fn a_failed_page_read_fails_that_read_and_no_later_one() {
    let (mut rig, group) = cold();
    let ordinal = rig.ordinal(group);
    let Read::Wait(page) = rig.store.get(ordinal, &key(4)) else { panic!("the cache is cold") };
    rig.disk.inject(ShardFile::Pages, Fault::Read(EIO));
    load(&mut rig.store, &mut rig.disk, page, rig.now);
    assert!(matches!(rig.store.get(ordinal, &key(4)), Read::Damaged));
    let mut copy = Vec::new();
    assert_eq!(rig.store.current(ordinal, &key(4), &mut copy), Current::Damaged);
    let all = (Bound::Unbounded, Bound::Unbounded);
    let end = rig.store.range(ordinal, all.0, all.1, false, &mut |_, _| Visit::Continue);
    assert_eq!(end, RangeEnd::Damaged);
    assert_eq!(rig.store.stats().page_read_errors, 1);
    assert_eq!(rig.store.failure(), None);
    // Writes go on, and so do reads of what is in memory.
    rig.put(group, &key(1), 50).expect("room");
    rig.settle();
    assert!(matches!(rig.store.get(ordinal, &key(1)), Read::Item(_)));
    // Later the device answers again.
    rig.now.0 += Nanos::PER_SECOND;
    rig.turn();
    let found = contents(&mut rig.store, &mut rig.disk, rig.now).expect("readable again");
    assert!(found == rig.model.chosen);
}

#[test]
fn a_checkpoint_whose_page_reads_fail_waits_and_then_completes() {
    let (mut rig, group) = cold();
    for _ in 0..5 {
        rig.disk.inject(ShardFile::Pages, Fault::Read(EIO));
    }
    rig.put(group, &key(4), 10).expect("room");
    rig.settle();
    let reads = rig.disk.stats().reads;
    rig.checkpoint();
    assert!(rig.store.stats().page_read_errors >= 1);
    assert!(rig.disk.stats().reads - reads < 100, "the device is not hammered");
    rig.reopen();
}

#[test]
fn a_page_that_stays_damaged_stops_the_checkpoint_but_not_the_reads_of_others() {
    let (mut rig, group) = cold();
    // Damage the leaf of one key.
    let ordinal = rig.ordinal(group);
    let damaged = loop {
        match rig.store.get(ordinal, &key(4)) {
            Read::Wait(page) if page.level == 0 => break page,
            Read::Wait(page) => load(&mut rig.store, &mut rig.disk, page, rig.now),
            other => panic!("{other:?}"),
        }
    };
    rig.disk.flip_bit(ShardFile::Pages, damaged.id * BLOCK_BYTES as u64 + 200, 1);
    rig.put(group, &key(4), 10).expect("room");
    rig.settle();
    let reads = rig.disk.stats().reads;
    for _ in 0..2_000 {
        rig.now.0 += Nanos::PER_MILLI;
        rig.turn();
        rig.complete();
    }
    assert!(rig.disk.stats().reads - reads < 200, "the device is not hammered");
    assert!(!rig.store.checkpoint.is_idle(), "it waits");
    let mut right = 0;
    for number in 0..40 {
        loop {
            match rig.store.get(ordinal, &key(number)) {
                Read::Wait(page) => load(&mut rig.store, &mut rig.disk, page, rig.now),
                Read::Item(item) => {
                    assert_eq!(item, rig.model.chosen[&group][&key(number)]);
                    right += 1;
                    break;
                }
                Read::Absent => panic!("it is there"),
                Read::Damaged => break,
            }
        }
    }
    assert!((20..40).contains(&right), "{right} readable");
    // It does not keep the node from stopping either: the log has everything.
    rig.close();
    let mut disk = rig.disk.after_process_crash(&mut rig.random);
    disk.flip_bit(ShardFile::Pages, damaged.id * BLOCK_BYTES as u64 + 200, 1);
    rig.after_crash(disk);
}
