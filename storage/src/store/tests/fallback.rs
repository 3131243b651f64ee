//! The newest superblock is damaged: what the older one refers to is still there, log and pages.
//!
//! ```text
//!   lsn   0 ──── A ──────────── B ──────────────────────── A + capacity − reserve
//!                │ older        │ newest superblock        │ full: no write goes further
//!                └ the log is kept from here on, because the newest may be damaged
//! ```

use super::*;

/// Puts until the log takes nothing more. Only its own writes complete: no page of a checkpoint
/// that this begins reaches the device, so that A and B stay the two superblocks.
fn fill_the_log(rig: &mut Rig, group: u64) {
    let (mut number, mut log_writes) = (0, Vec::new());
    let before = rig.store.superblock.checkpoint;
    for _ in 0..10_000 {
        // One batch for each, so that the log fills before memory does.
        number += 1;
        // It never ends here: writes are not paced by it, and may fill the log.
        rig.store.checkpoint.blocked = true;
        let put = rig.put(group, &key(number % 40), 60);
        rig.store.turn(rig.now, &mut rig.ops);
        for op in rig.ops.drain(..) {
            if let DiskOp::Write { op, file: ShardFile::Log, .. } = &op {
                log_writes.push(*op);
            }
            rig.disk.submit(op);
        }
        let idle = log_writes.is_empty();
        for op in log_writes.drain(..) {
            let done = rig.disk.complete(op).expect("in flight");
            rig.store.disk_done(done, rig.now);
        }
        rig.model.advance(rig.store.chosen_ticket());
        if idle && put == Err(Refused::Overloaded) {
            let full = rig.store.log.check_room(60);
            assert!(matches!(full, Err(AppendError::Full { .. })), "{full:?}");
            assert_eq!(rig.store.superblock.checkpoint, before, "A and B are still the two");
            return;
        }
    }
    panic!("the log is never full");
}

#[test]
fn the_log_is_kept_from_the_older_superblock_on_also_after_a_restart() {
    for seed in 0..8 {
        let (restarted, killed) = (seed % 2 == 0, seed % 4 < 2);
        let mut config = smallest();
        config.checkpoint_interval_nanos = u64::MAX / 4;
        let mut rig = Rig::new(config, seed);
        rig.config.checkpoint_interval_nanos = Nanos::PER_SECOND;
        let group = rig.create();
        rig.settle();
        let mut points = Vec::new();
        // More than two checkpoints, so that which block holds the newest varies.
        for round in 0..2 + seed as usize / 4 {
            // One batch for each: between A and B lies more than the log's reserve.
            for number in 0..4 {
                rig.put(group, &key(7 * round + number), 300).expect("room");
                rig.settle();
            }
            rig.store.config.checkpoint_interval_nanos = Nanos::PER_SECOND;
            rig.checkpoint();
            rig.store.config.checkpoint_interval_nanos = u64::MAX / 4;
            points.push(rig.store.superblock.log_start.lsn);
        }
        let [.., older, newest] = points[..] else { panic!("at least two checkpoints") };
        assert!(newest.0 - older.0 > config.log.reserve_bytes, "or the reserve would hide a slip");
        rig.config = config;
        if restarted {
            rig.cold_start();
        }
        fill_the_log(&mut rig, group);
        let end = rig.store.log.end_lsn();
        assert!(end.0 > newest.0 + config.log.capacity_bytes() / 2, "{older} {newest} {end}");

        let mut disk = match killed {
            true => rig.disk.after_process_crash(&mut rig.random),
            false => rig.disk.after_power_cut(&mut rig.random),
        };
        let block = rig.store.superblock.block();
        disk.flip_bit(ShardFile::Pages, block * BLOCK_BYTES as u64 + 43, 2);
        let opened = open_on(&config, &mut disk, rig.now).expect("the older superblock is valid");
        let warning = opened.warning.expect("it is reported");
        assert!(warning.contains("superblock"), "{warning}");
        assert_eq!(opened.store.superblock.log_start.lsn, older, "seed {seed}");
        // All acknowledged writes are there, and the store goes on.
        let mut rig = rig.after_crash(disk);
        rig.put_patiently(group, &key(1), 300);
        rig.settle();
        rig.reopen();
    }
}
