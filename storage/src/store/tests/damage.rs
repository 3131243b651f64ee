//! Flipped bits at rest: never wrong data.
//!
//! What a flip may do: be reported by [`open`] as an error that names it, be reported by a read as
//! [`Read::Damaged`], or change nothing that is served. The one exception, stated by the design:
//! nothing on the disk says that the last batch before its marker was durable, so damage to it
//! looks like a crash tail, and it is cut as a whole, with a warning.

use super::*;
use crate::superblock::{Superblock, SuperblockError};

/// What flips did.
#[derive(Debug, Default)]
struct Outcomes {
    refused: u64,
    damaged: u64,
    harmless: u64,
    warned: u64,
}

impl Outcomes {
    fn sum(&self) -> u64 {
        self.refused + self.damaged + self.harmless
    }
}

fn copy(rig: &Rig) -> SimDisk {
    assert_eq!(rig.disk.in_flight().len(), 0);
    rig.disk.after_process_crash(&mut SimRandom::new(0))
}

/// A store with items in two groups: some in trees, some only in the log.
fn sample(marker: bool) -> Rig {
    let mut rig = Rig::new(smallest(), 77);
    let groups = [rig.create(), rig.create()];
    for number in 0..36 {
        let bytes = [20, 700, 1500, 90, 6000][number % 5];
        rig.put_patiently(groups[number % 2], &key(number), bytes);
        if number == 14 {
            rig.checkpoint();
        }
    }
    rig.settle();
    rig.checkpoint();
    for number in 0..5 {
        rig.put(groups[0], &key(number * 2), 150).expect("room");
        rig.settle();
    }
    rig.delete(groups[1], &key(1)).expect("room");
    rig.settle();
    if marker {
        rig.now.0 += 2 * rig.config.marker_nanos;
        rig.settle();
    }
    assert_eq!(rig.store.log.needs_marker(), !marker);
    rig
}

/// Flips one bit and checks what is served.
fn flip(rig: &Rig, file: ShardFile, at: u64, bit: u8, outcomes: &mut Outcomes) {
    let mut disk = copy(rig);
    disk.flip_bit(file, at, bit);
    match open_on(&rig.config, &mut disk, rig.now) {
        Err(_) => outcomes.refused += 1,
        Ok(Opened { mut store, warning }) => {
            match contents(&mut store, &mut disk, rig.now) {
                Err(Damaged) => outcomes.damaged += 1,
                Ok(found) => {
                    let same = found == rig.model.chosen;
                    assert!(same, "{file:?} {at} bit {bit}: {}", rig.model.explain(&found));
                    outcomes.harmless += 1;
                }
            }
            outcomes.warned += u64::from(warning.is_some());
        }
    }
}

#[test]
fn a_flipped_bit_in_the_log_is_never_served() {
    let rig = sample(true);
    let mut random = SimRandom::new(1);
    let mut outcomes = Outcomes::default();
    let start = rig.config.log.offset_bytes(rig.store.superblock.log_start.lsn);
    let bytes = rig.config.log.capacity_bytes();
    let mut at = 0;
    while at < bytes {
        flip(&rig, ShardFile::Log, at, random.below(8) as u8, &mut outcomes);
        // Every byte of headers and first records of what is replayed; beyond them a sample.
        let replayed =
            (at + bytes - start) % bytes < (rig.store.log.end_lsn().0 + bytes - start) % bytes;
        at += match at % BLOCK_BYTES as u64 {
            0..300 if replayed => 1,
            _ => 1 + random.below(120) as u64,
        };
    }
    eprintln!("log: {} flips: {outcomes:?}", outcomes.sum());
    assert!(outcomes.refused > 500 && outcomes.harmless > 100);
}

#[test]
fn damage_to_the_last_batch_before_its_marker_is_taken_for_a_tail_and_cut_whole() {
    // The one exception of the module's page.
    let mut rig = sample(false);
    // A checkpoint would make the log before it something that nobody reads.
    rig.store.config.log_fill_percent = 100;
    let before = rig.model.chosen.clone();
    let start = rig.store.log.end_lsn();
    let group = *before.keys().next().expect("two groups");
    rig.put(group, &key(5), 900).expect("room");
    rig.put(group, &key(6), 900).expect("room");
    rig.settle();
    let end = rig.store.log.end_lsn();
    assert_eq!(end.0 - start.0, BLOCK_BYTES as u64, "one batch, acknowledged, not marked");
    let at = rig.config.log.offset_bytes(start);
    let mut random = SimRandom::new(2);
    let mut flips = 0;
    for offset in (0..BLOCK_BYTES as u64).step_by(3) {
        let mut disk = copy(&rig);
        disk.flip_bit(ShardFile::Log, at + offset, random.below(8) as u8);
        let mut opened = open_on(&rig.config, &mut disk, rig.now).expect("it looks like a tail");
        let found = contents(&mut opened.store, &mut disk, rig.now).expect("no damage");
        assert!(found == before, "as a whole: {}", rig.model.explain(&found));
        flips += 1;
    }
    // With its marker behind it, the same damage is reported.
    rig.now.0 += 2 * rig.config.marker_nanos;
    rig.settle();
    for offset in (0..BLOCK_BYTES as u64).step_by(9) {
        let mut disk = copy(&rig);
        disk.flip_bit(ShardFile::Log, at + offset, random.below(8) as u8);
        let opened = open_on(&rig.config, &mut disk, rig.now);
        assert!(matches!(opened, Err(OpenError::Log(_))), "{offset}");
        flips += 1;
    }
    eprintln!("last batch: {flips} flips");
}

#[test]
fn a_flipped_bit_in_the_pages_is_never_served() {
    let rig = sample(true);
    let mut random = SimRandom::new(3);
    let mut outcomes = Outcomes::default();
    let used = rig.disk.image(ShardFile::Pages);
    for (block, bytes) in used.chunks_exact(BLOCK_BYTES).enumerate() {
        if bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        let mut within = 0;
        while within < BLOCK_BYTES {
            let at = (block * BLOCK_BYTES + within) as u64;
            flip(&rig, ShardFile::Pages, at, random.below(8) as u8, &mut outcomes);
            within += if within < 64 { 3 } else { 1 + random.below(250) };
        }
    }
    eprintln!("pages: {} flips: {outcomes:?}", outcomes.sum());
    assert!(outcomes.damaged > 500 && outcomes.harmless > 100 && outcomes.refused > 50);
}

#[test]
fn a_lost_superblock_is_reported_and_loses_nothing_also_in_what_follows() {
    for newest in [true, false] {
        for seed in 0..4 {
            let mut rig = sample(true);
            rig.random = SimRandom::new(seed);
            rig.eager = seed > 1;
            // A crash while the next checkpoint is being written makes it harder.
            let group = *rig.model.chosen.keys().next().expect("two groups");
            rig.put(group, &key(7), 1000).expect("room");
            rig.settle();
            if seed > 0 {
                rig.now.0 += 2 * rig.config.checkpoint_interval_nanos;
                while !rig.store.checkpoint_phase().starts_with("Flushing") {
                    rig.turn();
                    rig.complete();
                }
                while rig.complete() {}
            } else {
                rig.now.0 += 2 * rig.config.marker_nanos;
                rig.settle();
            }
            let number = rig.store.superblock.checkpoint;
            let block = if newest { number % 2 } else { (number + 1) % 2 };
            let at = block * BLOCK_BYTES as u64 + rig.random.below(BLOCK_BYTES) as u64;
            let mut disk = rig.disk.after_process_crash(&mut rig.random);
            disk.flip_bit(ShardFile::Pages, at, 3);
            let opened = open_on(&rig.config, &mut disk, rig.now).expect("the other one is valid");
            let warning = opened.warning.expect("it is reported");
            assert!(warning.contains("superblock"), "{warning}");
            drop(opened.store);
            let mut rig = rig.after_crash(disk);
            for round in 0..12 {
                for number in 0..8 {
                    let bytes = 100 * (1 + number);
                    rig.put_patiently(group, &key(number + round), bytes);
                }
                let events = rig.random.below(60);
                rig.now.0 += 2 * rig.config.checkpoint_interval_nanos;
                for _ in 0..events {
                    rig.turn();
                    rig.complete();
                }
                let cut = rig.disk.after_power_cut(&mut rig.random);
                rig = rig.after_crash(cut);
                space::assert_no_leak_when_idle(&mut rig);
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_either_superblock_is_reported() {
    let rig = sample(true);
    let mut flips = 0;
    for at in (0..2 * BLOCK_BYTES).filter(|at| at % BLOCK_BYTES < 200 || at % 64 == 0) {
        for bit in 0..8 {
            let mut disk = copy(&rig);
            disk.flip_bit(ShardFile::Pages, at as u64, bit);
            let opened = open_on(&rig.config, &mut disk, rig.now).expect("the other is valid");
            assert!(opened.warning.is_some_and(|warning| warning.contains("superblock")));
            flips += 1;
            if bit > 0 && at % BLOCK_BYTES > 48 {
                break;
            }
        }
    }
    eprintln!("superblocks: {flips} flips");
    let mut disk = copy(&rig);
    disk.flip_bit(ShardFile::Pages, 100, 0);
    disk.flip_bit(ShardFile::Pages, BLOCK_BYTES as u64 + 100, 0);
    let refused = open_on(&rig.config, &mut disk, rig.now).expect_err("no superblock is left");
    assert!(matches!(refused, OpenError::Superblock(SuperblockError::Checksum { .. })));
}

#[test]
fn blank_superblocks_over_a_log_with_batches_are_a_loss_not_a_new_disk() {
    let rig = sample(true);
    let log = rig.disk.image(ShardFile::Log);
    let blank = vec![0; 8 * BLOCK_BYTES];
    // Also when the first block of the log is lost too.
    let mut torn = log.clone();
    torn[..BLOCK_BYTES].fill(0);
    let mut first_lap = Rig::new(smallest(), 5);
    let group = first_lap.create();
    for number in 0..3 {
        first_lap.put(group, &key(number), 10).expect("room");
        first_lap.turn();
    }
    while first_lap.complete() {}
    let mut unacknowledged = first_lap.disk.image(ShardFile::Log);
    unacknowledged[..BLOCK_BYTES].fill(0);
    for log in [log, torn, unacknowledged] {
        let mut disk = SimDisk::from_image(&log, &blank);
        let refused = open_on(&rig.config, &mut disk, rig.now).expect_err("data was lost");
        let named = matches!(refused, OpenError::SuperblocksLost { .. } | OpenError::Log(_));
        assert!(named, "{refused}");
    }
}

#[test]
fn a_pages_file_shorter_than_its_superblock_says_is_refused_by_name() {
    let rig = sample(true);
    let (log, pages) = (rig.disk.image(ShardFile::Log), rig.disk.image(ShardFile::Pages));
    let file_blocks = rig.store.superblock.file_blocks as usize;
    for blocks in [2, file_blocks / 2, file_blocks - 1] {
        let mut disk = SimDisk::from_image(&log, &pages[..blocks * BLOCK_BYTES]);
        let refused = open_on(&rig.config, &mut disk, rig.now).expect_err("it was cut");
        assert!(matches!(refused, OpenError::PagesLength { .. }), "{refused}");
    }
    // One that claims to be longer than any disk takes no memory for it.
    let superblock = Superblock { file_blocks: 1 << 46, ..rig.store.superblock };
    let mut pages = pages;
    superblock.encode(&mut pages[superblock.block() as usize * BLOCK_BYTES..][..BLOCK_BYTES]);
    let mut disk = SimDisk::from_image(&log, &pages);
    let refused = open_on(&rig.config, &mut disk, rig.now).expect_err("no such file");
    let named =
        matches!(refused, OpenError::PagesLength { file_blocks, .. } if file_blocks == 1 << 46);
    assert!(named, "{refused}");
}

#[test]
fn files_of_another_node_or_geometry_are_refused_by_name() {
    let mut rig = sample(true);
    let mut config = rig.config;
    let opened =
        open(config, 7, buffers(&config), &mut Blocking(&mut rig.disk), rig.now, &mut |_| {});
    assert!(matches!(opened, Err(OpenError::Foreign { expected: 7, found: NODE })));
    config.log.segments += 1;
    let opened = open_on(&config, &mut rig.disk, rig.now);
    assert!(matches!(opened, Err(OpenError::Geometry { segments: 3, .. })));
    config = rig.config;
    config.log.shard = ShardId(4);
    let opened = open_on(&config, &mut rig.disk, rig.now);
    assert!(matches!(opened, Err(OpenError::Superblock(SuperblockError::WrongShard { .. }))));
}

#[test]
fn a_superblock_of_a_page_write_that_went_astray_is_noticed() {
    let mut found_out = 0;
    for seed in 0..40 {
        let mut rig = sample(true);
        let group = *rig.model.chosen.keys().next().expect("two groups");
        let mut random = SimRandom::new(seed);
        for number in 0..6 {
            rig.put_patiently(group, &key(random.below(36)), 100 + number);
        }
        // One of the coming page writes is lost, or lands on some other page.
        let fault = if seed % 2 == 0 {
            crate::sim_disk::Fault::LoseWrite
        } else {
            let block = 5 + random.below(30) as u64;
            crate::sim_disk::Fault::MisdirectWrite { offset_bytes: block * BLOCK_BYTES as u64 }
        };
        rig.settle();
        rig.now.0 += 2 * rig.config.checkpoint_interval_nanos;
        for _ in 0..random.below(4) {
            rig.turn();
            rig.complete();
        }
        rig.disk.inject(ShardFile::Pages, fault);
        rig.checkpoint();
        while rig.complete() {}
        match open_on(&rig.config, &mut rig.disk, rig.now) {
            Err(_) => found_out += 1,
            Ok(Opened { mut store, .. }) => match contents(&mut store, &mut rig.disk, rig.now) {
                Err(Damaged) => found_out += 1,
                Ok(found) => assert!(found == rig.model.chosen, "seed {seed}"),
            },
        }
    }
    eprintln!("{found_out} of 40 stray or lost page writes mattered");
    assert!(found_out > 10);
    // A superblock's place is checked too: its number's parity is its block.
    let rig = sample(true);
    let block = rig.disk.image(ShardFile::Pages)[..BLOCK_BYTES].to_vec();
    assert!(Superblock::decode(&block, 1, ShardId(3)).is_err());
}
