//! **Rule (opening block)**: what a recovery cut does not come back after a second crash.
//!
//! ```text
//!   block at P:     older lap   |x x x x x . . .|     sectors; the rest are zeros
//!   old batch       torn        |O O x O x . . .|     cut by the first recovery
//!   next batch      torn        |. . o . z . . .|     o: the same bytes, z: zeros
//!                               |O O O O z . . .|     the old batch, whole again
//! ```

use super::*;
use crate::sim_disk::{CrashOptions, EIO, Fault};

/// Sectors of older laps, of the batch that is cut, and of the one that follows it.
struct Case {
    sector_bytes: usize,
    lap_bytes: usize,
    old_bytes: usize,
    next_bytes: usize,
    /// The batch that follows has the item of the batch that was cut.
    same_item: bool,
}

/// Padding completes the old batch.
const PADDING: Case = Case {
    sector_bytes: 512,
    lap_bytes: 2_400,
    old_bytes: 1_200,
    next_bytes: 700,
    same_item: false,
};
/// The middle of the same large item does.
const SAME_ITEM: Case = Case {
    sector_bytes: 4_096,
    lap_bytes: 3_900,
    old_bytes: 3 * 4_096,
    next_bytes: 3 * 4_096,
    same_item: true,
};

impl Case {
    fn images<'a>(&self, disk: &'a SimDisk) -> impl Iterator<Item = SimDisk> + use<'a> {
        let options =
            CrashOptions { images_max: 1 << 12, sector_bytes: self.sector_bytes, seed: 1 };
        let images = disk.crash_images(options);
        assert!(images.is_exhaustive());
        images
    }

    /// A log in its second lap with one acknowledged record.
    fn begun(&self) -> Rig {
        let mut rig = Rig::new(tiny());
        while rig.log.end_lsn().0 < rig.config.capacity_bytes() {
            rig.write_settled(&[self.lap_bytes]);
            rig.checkpoint();
        }
        rig.write_settled(&[100]);
        rig
    }

    fn write_next(&self, rig: &mut Rig, old: &[u8]) {
        let next = payload(rig.slot, self.next_bytes);
        let payload = if self.same_item { old.to_vec() } else { next };
        let lsn = rig.log.append(&record(rig.slot), &[&payload]).expect("room");
        rig.appended.push((lsn, rig.slot, payload));
        rig.seal();
    }

    /// Everything that a second crash may leave of `rig`, whose recovery cut the record of `slot`:
    /// the states, and how many of them have that record.
    fn crash_again(&self, mut rig: Rig, slot: u64, old: &[u8]) -> (u64, u64) {
        let kept = rig.appended.len();
        self.write_next(&mut rig, old);
        let (mut states, mut returned) = (0, 0);
        for mut disk in self.images(&rig.disk) {
            states += 1;
            let (recovered, found) = recover(&rig.config, &mut disk, rig.start);
            recovered.expect("a crash is not damage");
            assert_eq!(found[..kept], rig.appended[..kept], "acknowledged");
            assert!(found.len() <= kept + 1);
            if found.iter().any(|(_, found, _)| *found == slot) {
                returned += 1;
            } else {
                assert_eq!(found[..], rig.appended[..found.len()], "whole or not at all");
            }
        }
        (states, returned)
    }

    /// Both crashes, in every state that they may leave.
    fn play(&self, marked: bool) -> (u64, u64) {
        let mut rig = self.begun();
        let kept = rig.appended.len();
        let slot = rig.slot;
        rig.append(self.old_bytes).expect("room");
        let old = rig.appended[kept].2.clone();
        rig.seal();
        let (mut states, mut returned) = (0, 0);
        for disk in self.images(&rig.disk) {
            let again = Rig { disk: device(&rig.config), ..self.begun() };
            let mut again = again.restart_unmarked(disk);
            if again.appended.len() > kept {
                continue; // Nothing was cut.
            }
            again.slot = slot + 1;
            if marked {
                again.mark_opening();
            }
            let (more, of_old) = self.crash_again(again, slot, &old);
            (states, returned) = (states + more, returned + of_old);
        }
        (states, returned)
    }
}

#[test]
fn a_batch_that_recovery_cut_is_not_completed_by_the_next_one_torn_over_it() {
    for case in [PADDING, SAME_ITEM] {
        let (states, returned) = case.play(true);
        println!("{states} states after two crashes");
        assert!(states > 100);
        assert_eq!(returned, 0);
        // Without the block there are such states: it is what keeps the batch out.
        assert!(case.play(false).1 > 0);
    }
}

#[test]
fn a_batch_whose_write_failed_and_that_recovery_did_not_see_does_not_appear_later() {
    for marked in [true, false] {
        let mut rig = PADDING.begun();
        let slot = rig.slot;
        rig.disk.inject(ShardFile::Log, Fault::Write(EIO));
        let old = payload(slot, PADDING.old_bytes);
        rig.append(PADDING.old_bytes).expect("room");
        rig.seal();
        let done = rig.disk.complete_next().expect("in flight");
        rig.log.done(done).expect_err("it failed");
        // The process starts again, on a device that may still have any part of that write.
        let disk = rig.disk.after_process_crash(&mut SimRandom::new(1));
        let mut rig = rig.restart_unmarked(disk);
        assert_eq!(rig.appended.len(), 1);
        rig.slot = slot + 1;
        if marked {
            rig.mark_opening();
        }
        let (_, returned) = PADDING.crash_again(rig, slot, &old);
        assert_eq!(returned == 0, marked, "{returned}");
    }
}

#[test]
fn an_opening_cut_off_at_its_block_leaves_the_batch_whole_or_not_at_all() {
    let mut rig = PADDING.begun();
    rig.append(PADDING.old_bytes).expect("room");
    rig.seal();
    let appended = rig.appended.clone();
    let mut whole = 0;
    for disk in PADDING.images(&rig.disk) {
        let mut opening = PADDING.begun().restart_unmarked(disk);
        let block = opening.opening_block().expect("room");
        opening.disk.submit(block);
        for mut disk in PADDING.images(&opening.disk) {
            let (recovered, found) = recover(&opening.config, &mut disk, opening.start);
            assert!(recovered.expect("no damage").point.incarnation > 1);
            assert_eq!(found[..], appended[..found.len()]);
            whole += u64::from(found.len() > opening.appended.len());
        }
    }
    // Completed by the block's zeros, before anybody was served.
    assert!(whole > 0);
}

#[test]
fn no_two_openings_have_the_same_incarnation_even_if_nothing_is_written_between_them() {
    let mut rig = Rig::new(tiny());
    rig.write_settled(&[10]);
    for opening in 2..20 {
        let image = rig.image();
        rig = rig.restart(image);
        assert_eq!(rig.log.incarnation(), opening);
        assert_eq!(rig.log.end_lsn(), Lsn(4096), "an opening takes no room");
    }
    let (recovered, _) = recover(&rig.config, &mut rig.image(), rig.start);
    assert_eq!(recovered.expect("no damage").cut, None, "an opening block is nothing that was cut");
}

#[test]
fn what_was_there_at_an_opening_is_vouched_for() {
    let mut rig = Rig::new(tiny());
    rig.write_settled(&[100]);
    let image = rig.image();
    let mut rig = rig.restart(image);
    rig.disk.flip_bit(ShardFile::Log, 200, 1);
    let (recovered, _) = recover(&rig.config, &mut rig.disk, rig.start);
    let Err(ScanError::Damage(damage)) = recovered else { panic!("{recovered:?}") };
    assert_eq!((damage.lsn, damage.durable_lsn), (Lsn(0), Lsn(4096)));
}

#[test]
fn a_batch_is_cut_with_a_warning_once() {
    let mut rig = Rig::new(tiny());
    for bytes in [100, 200, 300] {
        rig.append(bytes).expect("room");
        rig.seal();
    }
    let last = rig.disk.in_flight().last().expect("three batches");
    rig.disk.complete(last).expect("in flight");
    let lost = CrashOptions { images_max: 2, sector_bytes: 512, seed: 1 };
    let mut image = rig.disk.crash_images(lost).next().expect("everything else lost");
    for stale in [0, 1, 1] {
        let (recovered, _) = recover(&rig.config, &mut image, rig.start);
        let cut = recovered.expect("no damage").cut.expect("a batch is there");
        assert_eq!((cut.batches, cut.stale_batches), (1, stale));
        rig = rig.restart(image);
        image = rig.image();
    }
}

/// Opens the log again and again, and writes on; whatever there is room for.
fn openings_of_a_full_ring(seed: u64) {
    let mut random = SimRandom::new(seed);
    let mut rig = Rig::new(tiny());
    let bytes_max = [100, 3_000, rig.config.record_bytes_max as usize][random.below(3)];
    // A new directory's superblock knows its incarnation.
    rig.checkpoint();
    let (mut incarnation, mut openings) = (rig.log.incarnation(), 0);
    while openings < 40 {
        for _ in 0..random.below(60) {
            let payload = payload(rig.slot, random.below(bytes_max + 1));
            if let Ok(lsn) = rig.log.append_reserved(&record(rig.slot), &[&payload]) {
                rig.appended.push((lsn, rig.slot, payload));
                rig.slot += 1;
            }
            if random.chance(1, 2) {
                rig.settle();
            }
        }
        rig.settle();
        if random.chance(1, 8) {
            rig.checkpoint();
        } else if random.chance(1, 4) {
            rig.marker();
            rig.settle();
        }
        let (appended, full) = (rig.appended.clone(), rig.log.reserved_bytes() < BLOCK);
        for _ in 0..1 + random.below(3) {
            let image = rig.image();
            rig = rig.restart_unmarked(image);
            assert_eq!(rig.appended, appended, "seed {seed}");
            assert!(rig.log.incarnation() > incarnation, "seed {seed}: no two are the same");
            incarnation = rig.log.incarnation();
            assert!(rig.opening_block().is_some(), "seed {seed}: there is room, full or not");
            rig.mark_opening();
            openings += u64::from(full);
        }
        if full && random.chance(1, 2) {
            rig.checkpoint();
        }
    }
}

#[test]
fn no_two_openings_have_the_same_incarnation_however_full_the_ring() {
    (0..20).for_each(openings_of_a_full_ring);
}

#[test]
fn a_ring_that_an_earlier_version_filled_to_its_last_block_opens_as_it_is() {
    let mut rig = Rig::new(tiny());
    rig.write_settled(&[3000]);
    let config = rig.config;
    let end = Lsn(config.capacity_bytes());
    let point = LogPoint { lsn: end, ..rig.log.durable_point() };
    assert!(opening_block(&config, point, Lsn(0), OpId(9)).is_none());
    let recovered = RecoveredLog { point, ..RecoveredLog::brand_new() };
    let mut log = LogWriter::new(config, &recovered, Lsn(0), WRITER_OPS, buffers(&config));
    assert_eq!((log.free_bytes(), log.reserved_bytes()), (0, 0));
    let refused = log.append_reserved(&record(1), &[b"more"]);
    assert!(matches!(refused, Err(AppendError::Full { free_bytes: 0, .. })), "{refused:?}");
    assert!(!log.marker(&mut Vec::new()));
    log.trim_to(Lsn(BLOCK));
    log.append_reserved(&record(1), &[b"more"]).expect_err("the block is the next opening's");
    log.trim_to(Lsn(2 * BLOCK));
    log.append_reserved(&record(1), &[b"more"]).expect("room");
}
