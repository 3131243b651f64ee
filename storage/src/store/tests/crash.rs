//! Every legal crash state at every point of short histories.
//!
//! A point is a moment between two events at the disk: an operation handed in, or one finished. At
//! each the simulated disk lists the states that a power cut may leave, torn at 512 bytes: all of
//! them where they are few, else a sample that always holds "everything lost" and "everything
//! kept". In each, after [`open`], the contents are the acknowledged ones and a prefix of the rest.

use super::*;
use crate::sim_disk::CrashOptions;

/// Examines every point of a history.
struct Watch {
    rig: Rig,
    images_max: usize,
    points: u64,
    exhaustive: u64,
    images: u64,
    second_crashes: u64,
    warnings: u64,
}

impl Watch {
    fn new(seed: u64, images_max: usize) -> Watch {
        let rig = Rig::new(smallest(), seed);
        let (points, exhaustive, images) = (0, 0, 0);
        let (second_crashes, warnings) = (0, 0);
        Watch { rig, images_max, points, exhaustive, images, second_crashes, warnings }
    }

    fn examine(&mut self) {
        let rig = &mut self.rig;
        let seed = rig.random.bits();
        let options = CrashOptions { images_max: self.images_max, sector_bytes: 512, seed };
        let images = rig.disk.crash_images(options);
        self.points += 1;
        self.exhaustive += u64::from(images.is_exhaustive());
        for mut image in images {
            self.images += 1;
            let context = format!("point {}, image {}", self.points, self.images);
            let opened = open_on(&rig.config, &mut image, rig.now)
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            let Opened { mut store, warning } = opened;
            self.warnings += u64::from(warning.is_some());
            let found = contents(&mut store, &mut image, rig.now)
                .unwrap_or_else(|_| panic!("{context}: damage"));
            drop(store);
            // Whatever that store had begun by now.
            let mut image = image.after_process_crash(&mut rig.random);
            let model = rig.model.recovered(found, &context);
            if self.images.is_multiple_of(4) {
                let again = open_on(&rig.config, &mut image, rig.now).expect("it was readable");
                let mut store = again.store;
                let again = contents(&mut store, &mut image, rig.now).expect("as before");
                assert!(again == model.chosen, "{context}: recovering twice gives the same");
                image = image.after_process_crash(&mut rig.random);
            }
            if self.images.is_multiple_of(6) {
                self.second_crashes += 1;
                let random = SimRandom::new(seed + self.images);
                crash_again(&rig.config, image, model, rig.now, random, &context);
            }
        }
    }

    /// A turn, operation by operation.
    fn turn(&mut self) -> Work {
        let rig = &mut self.rig;
        rig.now.0 += 1000;
        if rig.eager {
            rig.store.space.rewind();
        }
        let work = rig.store.turn(rig.now, &mut rig.ops);
        for op in std::mem::take(&mut self.rig.ops) {
            self.rig.disk.submit(op);
            self.examine();
        }
        work
    }

    fn complete(&mut self) -> bool {
        let some = self.rig.complete();
        if some {
            self.examine();
        }
        some
    }

    /// Turns and completions, as many as it takes.
    fn settle(&mut self) {
        loop {
            let work = self.turn();
            if !self.complete() && !work.run_again {
                assert!(self.rig.model.pending.is_empty());
                return;
            }
        }
    }

    fn checkpoint(&mut self) {
        let before = self.rig.store.checkpoint.number();
        self.rig.now.0 += 2 * self.rig.config.checkpoint_interval_nanos;
        for _ in 0..1_000 {
            if self.rig.store.checkpoint.number() > before {
                return;
            }
            self.turn();
            self.complete();
        }
        // Everything had gone into an earlier one.
        assert!(self.rig.store.checkpoint.is_idle());
    }

    fn report(&self, name: &str) {
        eprintln!(
            "{name}: {} points, {} of them exhaustive; {} images, {} crashed again, {} warnings",
            self.points, self.exhaustive, self.images, self.second_crashes, self.warnings
        );
    }
}

/// Goes on from a recovered image with a write and a checkpoint, is cut off at some point of that,
/// and has lost nothing of what the first recovery gave.
fn crash_again(
    config: &StoreConfig,
    mut image: SimDisk,
    model: Model,
    now: Nanos,
    mut random: SimRandom,
    context: &str,
) {
    let store = open_on(config, &mut image, now).expect("it was readable").store;
    let (ops, next_item) = (Vec::new(), random.bits() >> 1);
    let group = model.chosen.keys().next().copied();
    let config = *config;
    let events = random.below(30);
    let mut rig = Rig {
        config,
        disk: image,
        store,
        now,
        random,
        model,
        ops,
        next_group: 900,
        next_item,
        eager: true,
    };
    match group {
        // The log may be full.
        Some(group) => {
            assert!(matches!(rig.put(group, &key(3), 500), Ok(_) | Err(Refused::Overloaded)))
        }
        None => drop(rig.create()),
    }
    rig.now.0 += 2 * config.checkpoint_interval_nanos;
    for _ in 0..events {
        rig.turn();
        rig.complete();
    }
    let mut cut = if rig.random.chance(1, 4) {
        rig.disk.after_process_crash(&mut rig.random)
    } else {
        rig.disk.after_power_cut(&mut rig.random)
    };
    let opened = open_on(&config, &mut cut, rig.now);
    let mut store = opened.unwrap_or_else(|error| panic!("{context}, again: {error}")).store;
    let found = contents(&mut store, &mut cut, rig.now).expect("a crash is no damage");
    rig.model.recovered(found, &format!("{context}, again after {events} events"));
}

#[test]
fn puts_overwrites_and_deletes_survive_every_crash_state_whole_or_not_at_all() {
    let mut watch = Watch::new(1, 150);
    let group = watch.rig.create();
    watch.turn();
    let writes = [(1, 100), (2, 5000), (1, 900), (11, 1500), (3, 0), (2, 40), (22, 7000)];
    for (number, bytes) in writes {
        watch.rig.put(group, &key(number), bytes).expect("room");
        watch.turn();
        if number != 1 {
            watch.complete();
        }
    }
    watch.rig.delete(group, &key(2)).expect("room");
    watch.settle();
    watch.checkpoint();
    watch.rig.delete(group, &key(11)).expect("room");
    watch.rig.put(group, &key(3), 700).expect("room");
    watch.turn();
    watch.rig.put(group, &key(1), 6000).expect("room");
    watch.checkpoint();
    watch.settle();
    watch.report("puts, overwrites, deletes");
    assert!(watch.images > 1_000);
}

#[test]
fn checkpoints_with_writes_in_flight_survive_every_crash_state() {
    for seed in 2..5 {
        let mut watch = Watch::new(seed, 70);
        let group = watch.rig.create();
        for round in 0..3 {
            for number in 0..6 {
                let bytes = [60, 1400, 3000, 10][(number + round) % 4];
                watch.rig.put(group, &key(number * 3 + round), bytes).expect("room");
            }
            let before = watch.rig.store.checkpoint.number();
            watch.rig.now.0 += 2 * watch.rig.config.checkpoint_interval_nanos;
            let mut written = 0;
            while watch.rig.store.checkpoint.number() == before {
                assert!(watch.points < 10_000);
                watch.turn();
                if written < 4 {
                    watch.rig.put(group, &key(written), 30 * written).expect("room");
                    written += 1;
                }
                watch.complete();
            }
        }
        watch.report("checkpoints with writes in flight");
    }
}

#[test]
fn groups_created_and_dropped_survive_every_crash_state() {
    for seed in 5..7 {
        let mut watch = Watch::new(seed, 60);
        let first = watch.rig.create();
        let second = watch.rig.create();
        watch.turn();
        for number in 0..4 {
            watch.rig.put(first, &key(number), 300).expect("room");
            watch.rig.put(second, &key(number), 1500).expect("room");
            watch.turn();
        }
        watch.checkpoint();
        watch.rig.put(second, &key(9), 10).expect("room");
        watch.turn();
        watch.rig.drop_group(second);
        watch.turn();
        let third = watch.rig.create();
        watch.rig.put(third, &key(1), 10).expect("room");
        watch.checkpoint();
        watch.rig.drop_group(first);
        let fourth = watch.rig.create();
        watch.rig.put(fourth, &key(2), 2000).expect("room");
        watch.checkpoint();
        watch.settle();
        watch.report("groups");
    }
}

#[test]
fn a_log_that_wraps_survives_every_crash_state() {
    let mut watch = Watch::new(9, 16);
    let group = watch.rig.create();
    let laps = 3 * watch.rig.config.log.capacity_bytes();
    let mut number = 0;
    while watch.rig.store.log.end_lsn().0 < laps {
        number += 1;
        let bytes = [100, 5000, 9000, 2500][number % 4];
        match watch.rig.put(group, &key(number % 20), bytes) {
            Ok(_) | Err(Refused::Overloaded) => {}
            Err(other) => panic!("{other}"),
        }
        watch.turn();
        for _ in 0..watch.rig.random.below(3) {
            watch.complete();
        }
    }
    watch.report("three laps of the log");
}

/// A disk that examines its crash states around every operation of an [`open`].
struct Watched {
    disk: SimDisk,
    config: StoreConfig,
    points: u64,
    images: u64,
    expected: Contents,
}

impl Watched {
    fn examine(&mut self) {
        let options = CrashOptions { images_max: 64, sector_bytes: 512, seed: self.points };
        self.points += 1;
        for mut image in self.disk.crash_images(options) {
            self.images += 1;
            let opened = open_on(&self.config, &mut image, Nanos(0));
            let mut store = opened.unwrap_or_else(|e| panic!("point {}: {e}", self.points)).store;
            let found = contents(&mut store, &mut image, Nanos(0)).expect("no damage");
            assert!(found == self.expected);
        }
    }
}

impl BlockingDisk for Watched {
    fn carry_out(&mut self, op: DiskOp) -> DiskDone {
        self.disk.submit(op);
        self.examine();
        let done = self.disk.complete_next().expect("just submitted");
        self.examine();
        done
    }
}

#[test]
fn a_format_cut_off_anywhere_is_begun_again() {
    let config = smallest();
    let (disk, expected) = (device(&config), Contents::new());
    let mut watched = Watched { disk, config, points: 0, images: 0, expected };
    open(config, NODE, buffers(&config), &mut watched, Nanos(0), &mut |_| {}).expect("blank");
    eprintln!("format: {} points, {} images", watched.points, watched.images);
    assert!(watched.points > 8);
}

#[test]
fn a_recovery_cut_off_anywhere_is_begun_again() {
    let mut images = 0;
    for seed in 0..6 {
        let mut rig = Rig::new(smallest(), seed);
        let group = rig.create();
        for number in 0..20 {
            rig.put_patiently(group, &key(number), 40 * number);
            rig.pump();
            if number == 9 {
                rig.settle();
                rig.checkpoint();
            }
        }
        // What the first recovery serves, every later one must: before that there is a choice.
        let mut disk = rig.disk.after_process_crash(&mut rig.random);
        let mut store = open_on(&rig.config, &mut disk, rig.now).expect("no damage").store;
        let expected = contents(&mut store, &mut disk, rig.now).expect("no damage");
        rig.model.recovered(expected.clone(), "killed");
        // Whatever that store had begun by now.
        let disk = disk.after_process_crash(&mut rig.random);
        let mut watched = Watched { disk, config: rig.config, points: 0, images: 0, expected };
        open(rig.config, NODE, buffers(&rig.config), &mut watched, rig.now, &mut |_| {})
            .expect("no damage");
        images += watched.images;
    }
    eprintln!("recovery: {images} images");
}

#[test]
fn a_superblock_from_a_volatile_cache_stays_once_it_was_built_upon() {
    let mut seen = 0;
    for seed in 0..12 {
        let mut rig = Rig::new(smallest(), seed);
        let group = rig.create();
        let mut number = 0;
        while rig.store.checkpoint.number() < 4 || !rig.store.is_writing_superblock() {
            number += 1;
            let _ = rig.put(group, &key(number % 20), 1_000);
            rig.pump();
        }
        rig.turn();
        // Killed with the superblock's write in flight: it may have reached the device's cache.
        let before = rig.store.superblock.checkpoint;
        let disk = rig.disk.after_process_crash(&mut rig.random);
        rig = rig.after_crash(disk);
        seen += u64::from(rig.store.superblock.checkpoint > before);
        // The log is filled up to what that superblock frees, and no page reaches the medium.
        let mut log_writes = Vec::new();
        for number in 0..400 {
            let _ = rig.put(group, &key(number % 20), 1_000);
            rig.store.turn(rig.now, &mut rig.ops);
            for op in rig.ops.drain(..) {
                if let DiskOp::Write { op, file: ShardFile::Log, .. } = &op {
                    log_writes.push(*op);
                }
                rig.disk.submit(op);
            }
            for op in log_writes.drain(..) {
                let done = rig.disk.complete(op).expect("in flight");
                rig.store.disk_done(done, rig.now);
            }
            rig.model.advance(rig.store.chosen_ticket());
        }
        let options = CrashOptions { images_max: 4, sector_bytes: 4096, seed };
        let lost = rig.disk.crash_images(options).next().expect("everything lost");
        rig.after_crash(lost);
    }
    assert!((1..12).contains(&seen), "{seen}");
}
