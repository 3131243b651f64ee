//! Crashes at every point: what was acknowledged is there, the rest is whole or not at all.

use super::*;
use crate::sim_disk::CrashOptions;

/// Recovery from `disk` yields a prefix of what was appended that holds all acknowledged records.
#[track_caller]
fn assert_recovers(rig: &Rig, disk: &mut SimDisk, seed: u64) -> RecoveredLog {
    let (recovered, found) = recover(&rig.config, disk, rig.start);
    let recovered = recovered.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let acknowledged = rig.acknowledged();
    assert!(found.len() >= acknowledged, "seed {seed}: {} of {acknowledged}", found.len());
    assert!(found.len() <= rig.appended.len(), "seed {seed}: records from nowhere");
    assert_eq!(found[..], rig.appended[..found.len()], "seed {seed}");
    assert!(recovered.point.lsn >= rig.log.durable_lsn(), "seed {seed}");
    recovered
}

/// One turn of a random life.
fn step(rig: &mut Rig, random: &mut SimRandom) {
    match random.below(10) {
        0..4 => {
            let bytes = if random.chance(1, 12) { 9000 } else { random.below(1500) };
            match rig.append(bytes) {
                Ok(_) | Err(AppendError::Busy { .. }) => {}
                Err(AppendError::Full { .. }) => rig.checkpoint(),
                Err(other) => panic!("{other}"),
            }
        }
        4..7 => rig.seal(),
        7..9 => {
            rig.complete(random);
        }
        _ if random.chance(1, 4) => rig.checkpoint(),
        _ => {
            rig.marker();
        }
    }
}

#[test]
fn a_crash_at_any_point_keeps_every_acknowledged_record_and_no_half_of_another() {
    for seed in 0..12 {
        let mut random = SimRandom::new(seed);
        let mut rig = Rig::new(tiny());
        for _ in 0..40 {
            step(&mut rig, &mut random);
            for sector_bytes in [512, 4096] {
                let options = CrashOptions { images_max: 8, sector_bytes, seed: random.bits() };
                for mut image in rig.disk.crash_images(options) {
                    assert_recovers(&rig, &mut image, seed);
                }
            }
        }
    }
}

#[test]
fn every_crash_state_of_three_batches_in_flight_recovers() {
    let mut rig = Rig::new(tiny());
    rig.write_settled(&[300]);
    for bytes in [5000, 600, 4200] {
        rig.append(bytes).expect("room");
        rig.seal();
    }
    assert_eq!(rig.log.in_flight(), 3);
    let options = CrashOptions { images_max: 1 << 10, sector_bytes: 4096, seed: 1 };
    let images = rig.disk.crash_images(options);
    assert!(images.is_exhaustive());
    let mut lengths = [0; 5];
    for mut image in images {
        assert_recovers(&rig, &mut image, 0);
        let (_, found) = recover(&rig.config, &mut image, rig.start);
        lengths[found.len()] += 1;
    }
    // Blocks of 2, 1 and 2: of 32 states, 3/4 lose the first, and so on in order.
    assert_eq!(lengths, [0, 24, 4, 3, 1]);
}

#[test]
fn a_stale_batch_after_a_cut_never_returns_over_repeated_crashes() {
    for seed in 0..40 {
        let mut random = SimRandom::new(1000 + seed);
        let mut rig = Rig::new(tiny());
        for _ in 0..30 {
            for _ in 0..random.below(12) {
                step(&mut rig, &mut random);
            }
            let image = if random.chance(1, 4) {
                rig.disk.after_process_crash(&mut random)
            } else {
                rig.disk.after_power_cut(&mut random)
            };
            let known = std::mem::take(&mut rig.appended);
            let acknowledged =
                known.iter().filter(|(lsn, ..)| *lsn < rig.log.durable_lsn()).count();
            // The same slots again, so that a stale batch could be mistaken for a new one.
            let slot = known.first().map_or(rig.slot, |(_, first, _)| *first);
            rig = rig.restart(image);
            assert!(rig.appended.len() >= acknowledged, "seed {seed}");
            assert_eq!(rig.appended[..], known[..rig.appended.len()], "seed {seed}");
            rig.slot = rig.appended.last().map_or(slot, |(_, last, _)| last + 1);
        }
    }
}

#[test]
fn an_identical_batch_after_a_cut_does_not_bring_back_its_old_successor() {
    let config = tiny();
    let mut rig = Rig::new(config);
    for _ in 0..3 {
        // Of two batches in flight only the second lands, and the first is lost.
        rig.append(100).expect("room");
        rig.seal();
        rig.append(200).expect("room");
        rig.seal();
        let second = rig.disk.in_flight().last().expect("two batches");
        let done = rig.disk.complete(second).expect("in flight");
        rig.log.done(done).expect("no fault");
        let options = CrashOptions { images_max: 64, sector_bytes: 512, seed: 1 };
        let lost = rig.disk.crash_images(options).next().expect("everything lost");
        rig = rig.restart(lost);
        assert!(rig.appended.is_empty());
        rig.slot = 0;
    }
    // The same record at the same place, with the stale second batch right behind it.
    rig.append(100).expect("room");
    rig.settle();
    let (recovered, found) = recover(&config, &mut rig.image(), rig.start);
    assert_eq!(found, rig.appended);
    let cut = recovered.expect("no damage").cut.expect("the stale batch is seen");
    assert!(matches!(cut.bad, BadBatch::Incarnation { .. }), "{:?}", cut.bad);
}

#[test]
fn what_recovery_delivered_survives_a_power_cut_right_after() {
    let mut rig = Rig::new(tiny());
    rig.append(100).expect("room");
    rig.seal();
    let mut random = SimRandom::new(1);
    let mut survived = 0;
    for _ in 0..32 {
        let mut disk = rig.disk.after_process_crash(&mut random);
        let (_, delivered) = recover(&rig.config, &mut disk, rig.start);
        let mut disk = disk.after_power_cut(&mut random);
        let (_, found) = recover(&rig.config, &mut disk, rig.start);
        assert_eq!(delivered, found);
        survived += found.len();
    }
    assert!(survived > 0);
}
