//! Logs of all sizes, however small, go on beside entries that nobody may let go of.

use forebay_core::paxos::MemberRole;

use super::member::Watch;
use super::*;

/// Turns in which the other group gets at least one write in.
const PATIENCE: usize = 600;

/// A log of any shape; some have hardly a reserve.
fn some_config(random: &mut SimRandom) -> StoreConfig {
    let mut config = smallest();
    let log = &mut config.log;
    log.batch_bytes_max = [4, 8, 16][random.below(3)] << 10;
    log.record_bytes_max = [5_000, 9_000, 12_000][random.below(3)];
    log.segment_bytes = [32, 48, 96][random.below(3)] << 10;
    log.segments = 4 + random.below(8) as u32;
    let least = 3 * BLOCK_BYTES as u64;
    let most = log.capacity_bytes() - 2 * log.segment_bytes;
    let blocks = random.bits() % ((most - least) / BLOCK_BYTES as u64);
    log.reserve_bytes =
        if random.chance(1, 4) { least } else { least + blocks * BLOCK_BYTES as u64 };
    log.validate().expect("a valid log");
    config
}

/// Entries of a replicated group that may never be trimmed, as many as the store takes; each alone in
/// its block, or some together. Another group writes on all the while.
fn entries_that_stay(seed: u64) -> (u64, u64) {
    let mut random = SimRandom::new(seed);
    let config = some_config(&mut random);
    let role = [MemberRole::Storage, MemberRole::Log][random.below(2)];
    let mut watch = Watch::new(config, role, seed, 0);
    watch.promise(17);
    watch.settle();
    let busy = watch.rig.create();
    watch.checkpoint();
    let (most, together) = ([40, 400, 1_500][random.below(3)], [1, 1, 6][random.below(3)]);
    let mut waited = 0;
    let laps = 6 * config.log.capacity_bytes();
    let mut number = 0;
    while watch.rig.store.log.end_lsn().0 < laps {
        number += 1;
        let sizes: Vec<usize> =
            (0..1 + random.below(together)).map(|_| 1 + random.below(most)).collect();
        let first = watch.last() + 1;
        watch.accept_if_room(17, first, &sizes);
        if random.chance(1, 4) {
            watch.choose(watch.last().saturating_sub(random.below(3) as u64));
        }
        watch.turn();
        // Blocks of their own for the two groups, or one for both.
        if random.chance(2, 3) {
            while watch.complete() {}
        }
        waited += 1;
        match watch.rig.put(busy, &key(number % 20), 1 + random.below(1_500)) {
            Ok(_) => waited = 0,
            Err(Refused::Overloaded) => {}
            Err(other) => panic!("{other}"),
        }
        watch.turn();
        for _ in 0..1 + random.below(4) {
            watch.complete();
        }
        assert!(
            waited < PATIENCE,
            "seed {seed}: the log stands, {}, {role:?}, {:?}: {:?}",
            watch.rig.store.checkpoint_phase(),
            config.log,
            watch.rig.store.stats()
        );
    }
    let stats = watch.rig.store.stats();
    assert_eq!(stats.log_read_errors, 0);
    (watch.last(), stats.log_copied_records)
}

#[test]
fn entries_that_stay_stop_no_other_writes_however_small_the_log() {
    let (mut kept, mut copied) = (0, 0);
    for seed in 0..40 {
        let (entries, copies) = entries_that_stay(seed);
        (kept, copied) = (kept + entries, copied + copies);
    }
    println!("{kept} entries kept, {copied} times appended again");
    assert!(kept > 1_000 && copied > kept);
}

/// Needed entries, each alone in its block and one of them damaged, until nothing more is taken.
/// Whether it came to the damaged one before that.
fn fill_behind_a_damaged_entry(seed: u64) -> bool {
    let mut random = SimRandom::new(seed);
    let config = some_config(&mut random);
    let mut watch = Watch::new(config, MemberRole::Storage, seed, 0);
    watch.promise(17);
    watch.settle();
    watch.checkpoint();
    let (mut damaged, mut refused) = (false, 0);
    while refused < PATIENCE {
        if let Some(failure) = watch.rig.store.failure() {
            let unreadable = matches!(failure, StoreFailure::Unreadable { .. });
            assert!(damaged && unreadable, "seed {seed}: {failure:?}");
            return true;
        }
        let took = watch.accept_if_room(17, watch.last() + 1, &[1 + random.below(40)]);
        refused = if took { 0 } else { refused + 1 };
        watch.choose(watch.last().saturating_sub(1));
        watch.rig.now = watch.rig.now + 10 * Nanos::PER_MILLI;
        watch.turn();
        while watch.complete() {}
        let (store, disk) = (&watch.rig.store, &mut watch.rig.disk);
        if !damaged && store.log.end_lsn().0 > config.log.client_bytes() / 3 {
            let oldest = store.member(watch.group).oldest_needed().expect("none is trimmed");
            disk.flip_bit(ShardFile::Log, config.log.offset_bytes(oldest) + 40, 1);
            damaged = true;
        }
    }
    let stats = watch.rig.store.stats();
    assert_eq!(stats.log_read_errors, 0, "seed {seed}: refused for good: {stats:?}");
    false
}

#[test]
fn a_log_that_is_full_behind_a_damaged_entry_ends_the_service_and_does_not_refuse_for_good() {
    let ended = (0..20).filter(|seed| fill_behind_a_damaged_entry(*seed)).count();
    assert!(ended > 10, "{ended} of 20");
}

/// Laps of the log by a group on its own, beside a member that holds what is there already. What of
/// the member's entries the shell was told to trim in that time.
fn push_on(watch: &mut Watch, busy: u64, laps: u64) -> Option<Slot> {
    let end = watch.rig.store.log.end_lsn().0 + laps * watch.rig.store.config.log.capacity_bytes();
    let mut named = None;
    while watch.rig.store.log.end_lsn().0 < end {
        push(watch, busy);
        named = named.max(watch.rig.store.old_slots(watch.group));
    }
    named
}

fn push(watch: &mut Watch, busy: u64) {
    match watch.rig.put(busy, &key(1), 1_500) {
        Ok(_) | Err(Refused::Overloaded) => watch.turn(),
        Err(other) => panic!("{other}"),
    }
    while watch.complete() {}
}

#[test]
fn one_small_old_entry_stays_before_a_large_state_and_not_before_a_small_one() {
    for (bytes, stays) in [(3_000, true), (100, false)] {
        let mut config = tiny();
        config.log.segments *= 4;
        let mut watch = Watch::new(config, MemberRole::Storage, 5, 0);
        watch.promise(17);
        watch.settle();
        for slot in 1..=7 {
            watch.accept(17, slot, &[bytes]);
        }
        // Of the next lead.
        watch.promise(18);
        watch.accept(18, 8, &[1]);
        watch.choose(8);
        watch.settle();
        watch.checkpoint();
        let busy = watch.rig.create();
        assert_eq!(push_on(&mut watch, busy, 1), Some(Slot(8)), "all of its entries are no few");
        watch.trim(7);
        let copied = watch.rig.store.stats().log_copied_records;
        let named = push_on(&mut watch, busy, 3);
        assert_eq!(named, (!stays).then_some(Slot(8)));
        assert!(watch.rig.store.stats().log_copied_records > copied);
    }
}

#[test]
fn what_is_needed_for_long_leaves_room_for_a_checkpoint_that_takes_its_time() {
    let mut config = tiny();
    config.log.segments *= 16;
    (config.overlay_generation_bytes, config.checkpoint_interval_nanos) =
        (16 << 20, 1_000 * Nanos::PER_SECOND);
    let all = config.log.client_bytes();
    let mut watch = Watch::new(config, MemberRole::Storage, 11, 0);
    watch.promise(17);
    watch.settle();
    watch.checkpoint();
    let busy = watch.rig.create();
    let (mut room_min, mut number, mut checkpoints) = (all, 0_usize, 0);
    let end = watch.rig.store.log.end_lsn().0 + 6 * config.log.capacity_bytes();
    while watch.rig.store.log.end_lsn().0 < end {
        number += 1;
        // An entry in so many blocks stays, up to a tenth of the log.
        if number.is_multiple_of(16) && watch.last() * 200 < all / 10 {
            watch.accept(17, watch.last() + 1, &[100]);
            watch.choose(watch.last());
        }
        match watch.rig.put(busy, &key(number % 20), 100 + number % 900) {
            Ok(_) | Err(Refused::Overloaded) => watch.turn(),
            Err(other) => panic!("{other}"),
        }
        // Among the log's writes, the operations of a checkpoint take their time.
        for _ in 0..3 {
            watch.complete();
        }
        let store = &watch.rig.store;
        let held = store.log.end_lsn().0 - store.log.trim_lsn().0;
        room_min = room_min.min(all.saturating_sub(held));
        checkpoints = store.stats().checkpoint_number;
    }
    let stats = watch.rig.store.stats();
    println!("{room_min} of {all} bytes of room at least, {checkpoints} checkpoints; {stats:?}");
    assert!(stats.log_copied_records > watch.last(), "all were copied");
    assert!(room_min > all / 6, "{room_min} of {all}");
}

#[test]
fn copying_and_checkpoints_end_once_needed_entries_take_all_they_may() {
    let mut config = tiny();
    config.log.segments *= 16;
    (config.overlay_generation_bytes, config.checkpoint_interval_nanos) =
        (16 << 20, 1_000 * Nanos::PER_SECOND);
    let mut watch = Watch::new(config, MemberRole::Storage, 12, 0);
    watch.promise(17);
    watch.settle();
    while watch.accept_if_room(17, watch.last() + 1, &[3_000]) {
        watch.choose(watch.last());
        watch.settle();
    }
    // All that can be gained is, and then there is peace, however often those who were refused try again.
    let mut before = None;
    for tries in [0, 1] {
        for _ in 0..400 {
            for _ in 0..tries {
                assert!(!watch.accept_if_room(17, watch.last() + 1, &[3_000]));
            }
            watch.settle();
            watch.rig.now = watch.rig.now + 10 * Nanos::PER_MILLI;
        }
        let stats = watch.rig.store.stats();
        let after = (stats.log_copied_records, stats.checkpoint_number);
        let (copied, checkpoints) = before.replace(after).unwrap_or(after);
        assert_eq!(after.0, copied, "copies of copies");
        assert!(after.1 <= checkpoints + 2, "{after:?}, {checkpoints} checkpoints before");
    }
}

#[test]
fn what_may_go_does_not_stay_behind_what_cannot_be_read() {
    let mut config = tiny();
    config.log.segments *= 4;
    let mut watch = Watch::new(config, MemberRole::Storage, 6, 0);
    watch.promise(17);
    watch.settle();
    for slot in 1..=7 {
        watch.accept(17, slot, &[3_000]);
    }
    watch.promise(18);
    watch.accept(18, 8, &[1]);
    watch.choose(8);
    watch.settle();
    watch.checkpoint();
    watch.trim(7);
    let busy = watch.rig.create();
    let oldest = watch.rig.store.member(watch.group).oldest_needed().expect("slot 8");
    watch.rig.disk.flip_bit(ShardFile::Log, config.log.offset_bytes(oldest) + 40, 1);
    let named = (0..PATIENCE).find_map(|_| {
        push(&mut watch, busy);
        watch.rig.store.old_slots(watch.group)
    });
    assert_eq!(named, Some(Slot(8)));
    assert!(watch.rig.store.stats().log_read_errors > 0);
    watch.trim(8);
    push_on(&mut watch, busy, 3);
    assert_eq!(watch.rig.store.failure(), None);
}
