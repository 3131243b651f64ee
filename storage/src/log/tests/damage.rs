//! Damage at rest: found, named, never served and never silently cut.

use super::super::format::MAGIC;
use super::*;
use crate::sim_disk::{EIO, Fault};

/// A few settled batches, then a marker: lsns of the batches, and the rig.
fn marked() -> (Vec<Lsn>, Rig) {
    let mut rig = Rig::new(tiny());
    let mut lsns = Vec::new();
    for bytes in [100, 4500, 900, 0, 6000, 14 << 10, 300] {
        rig.append(bytes).expect("room");
        rig.settle();
    }
    assert!(rig.marker());
    rig.settle();
    let image = rig.disk.image(ShardFile::Log);
    for (block, bytes) in image.chunks(4096).enumerate() {
        if bytes[..8] == MAGIC {
            lsns.push(Lsn(block as u64 * 4096));
        }
    }
    (lsns, rig)
}

#[test]
fn a_bit_flip_at_any_offset_below_durable_lsn_is_reported_as_damage() {
    let (lsns, rig) = marked();
    let marker = *lsns.last().expect("a marker");
    let mut sealed_rest = 0;
    for offset in 0..marker.0 {
        let mut disk = rig.image();
        disk.flip_bit(ShardFile::Log, offset, (offset % 8) as u8);
        let (recovered, found) = recover(&rig.config, &mut disk, rig.start);
        let batch = *lsns.iter().rfind(|lsn| lsn.0 <= offset).expect("lsn 0");
        match recovered {
            Err(ScanError::Damage(damage)) => {
                assert_eq!(damage.lsn, batch, "offset {offset}");
                assert_eq!(damage.durable_lsn, marker, "offset {offset}");
                let next = lsns.iter().find(|lsn| **lsn > batch);
                assert_eq!(damage.next_good_lsn.as_ref(), next, "offset {offset}");
                assert_eq!(found[..], rig.appended[..found.len()], "offset {offset}");
                assert!(found.iter().all(|(lsn, ..)| *lsn < batch), "offset {offset}");
            }
            Ok(_) => {
                // Only what a seal skipped at a segment's end: nothing was written there.
                assert_eq!(found, rig.appended, "offset {offset}");
                let block = Lsn(offset / 4096 * 4096);
                assert!(!lsns.contains(&block), "offset {offset}");
                sealed_rest += 1;
            }
            Err(other) => panic!("offset {offset}: {other}"),
        }
    }
    assert_eq!(sealed_rest % 4096, 0);
    assert!(sealed_rest < 2 * 4096, "the history seals at most one segment: {sealed_rest}");
}

#[test]
fn a_flip_in_the_marker_itself_cuts_only_the_marker() {
    let (lsns, rig) = marked();
    let marker = *lsns.last().expect("a marker");
    for offset in marker.0..marker.0 + 4096 {
        let mut disk = rig.image();
        disk.flip_bit(ShardFile::Log, offset, 3);
        let (recovered, found) = recover(&rig.config, &mut disk, rig.start);
        assert_eq!(recovered.expect("a tail").point.lsn, marker);
        assert_eq!(found, rig.appended);
    }
}

#[test]
fn the_last_batch_before_its_marker_is_the_one_that_can_be_mistaken_for_a_tail() {
    let mut rig = Rig::new(tiny());
    rig.write_settled(&[100, 200, 300]);
    let last = Lsn(2 * 4096);
    let mut disk = rig.image();
    disk.flip_bit(ShardFile::Log, last.0 + 200, 1);
    let (recovered, found) = recover(&rig.config, &mut disk, rig.start);
    let recovered = recovered.expect("taken for a tail");
    assert_eq!(recovered.point.lsn, last);
    assert!(recovered.cut.is_some_and(|cut| cut.batches == 1));
    assert_eq!(found[..], rig.appended[..2]);
    // The batch before it was vouched for by the last one, and so was the last one by a superblock.
    let mut disk = rig.image();
    disk.flip_bit(ShardFile::Log, 4096 + 200, 1);
    let (recovered, _) = recover(&rig.config, &mut disk, rig.start);
    assert!(matches!(recovered, Err(ScanError::Damage(LogDamage { lsn: Lsn(4096), .. }))));
    let mut disk = rig.image();
    disk.flip_bit(ShardFile::Log, last.0 + 200, 1);
    let start = ScanStart { durable_lsn: rig.log.durable_lsn(), ..rig.start };
    let (recovered, _) = recover(&rig.config, &mut disk, start);
    assert!(matches!(recovered, Err(ScanError::Damage(damage)) if damage.lsn == last));
}

#[test]
fn a_lost_or_misdirected_acknowledged_write_is_damage() {
    let elsewhere = Fault::MisdirectWrite { offset_bytes: 20 * 4096 };
    for fault in [Fault::LoseWrite, elsewhere] {
        let mut rig = Rig::new(tiny());
        rig.write_settled(&[100]);
        rig.disk.inject(ShardFile::Log, fault);
        rig.write_settled(&[200, 300]);
        let (recovered, found) = recover(&rig.config, &mut rig.image(), rig.start);
        let damage = recovered.expect_err("acknowledged records are missing");
        assert!(matches!(damage, ScanError::Damage(LogDamage { lsn: Lsn(4096), .. })), "{damage}");
        assert_eq!(found[..], rig.appended[..1]);
    }
}

#[test]
fn an_unreadable_block_or_a_failed_flush_decides_nothing() {
    let (_, mut rig) = marked();
    let mut disk = rig.image();
    disk.inject(ShardFile::Log, Fault::Read(EIO));
    let (recovered, _) = recover(&rig.config, &mut disk, rig.start);
    assert_eq!(recovered, Err(ScanError::Read { offset_bytes: 0, errno: EIO }));
    rig.disk.inject(ShardFile::Log, Fault::Flush(EIO));
    let (recovered, _) = recover(&rig.config, &mut rig.disk, rig.start);
    assert_eq!(recovered, Err(ScanError::Flush { errno: EIO }));
}

#[test]
fn another_logs_batches_are_never_this_ones() {
    let (_, rig) = marked();
    let other = LogConfig { log_id: 5, ..rig.config };
    let (recovered, found) = recover(&other, &mut rig.image(), rig.start);
    assert_eq!(recovered.expect("an empty log").point.lsn, Lsn(0));
    assert!(found.is_empty());
}

#[test]
fn batches_of_two_histories_of_one_log_never_make_one_chain() {
    // A mirror's legs that were written one after the other, and then are read together: the same
    // log, positions and incarnation, so that only the chain of checksums tells them apart.
    let mut rig = Rig::new(tiny());
    rig.write_settled(&[100]);
    let shared = rig.appended.len();
    let leg = |slot: u64| {
        let (config, start, mut disk) = (rig.config, rig.start, rig.image());
        let (recovered, appended) = recover(&config, &mut disk, start);
        let recovered = recovered.expect("no damage");
        let log = LogWriter::new(config, &recovered, Lsn(0), WRITER_OPS, buffers(&config));
        let mut leg = Rig { config, disk, log, start, appended, slot };
        leg.write_settled(&[200, 300, 400]);
        assert!(leg.marker(), "or the last batch looks like a tail");
        leg.settle();
        leg
    };
    let (left, right) = (leg(10), leg(20));
    assert_eq!(left.log.durable_point().incarnation, right.log.durable_point().incarnation);
    assert_eq!(left.log.end_lsn(), right.log.end_lsn());
    let (left_bytes, right_bytes) =
        (left.disk.image(ShardFile::Log), right.disk.image(ShardFile::Log));
    for batches_of_left in 1..3 {
        let cut = (shared + batches_of_left) * 4096;
        let mixed = [&left_bytes[..cut], &right_bytes[cut..]].concat();
        let (recovered, found) =
            recover(&rig.config, &mut SimDisk::from_image(&mixed, &[]), rig.start);
        assert_eq!(found[..], left.appended[..found.len()], "nothing of the other history");
        let refused = recovered.expect_err("an acknowledged batch is not there");
        let ScanError::Damage(damage) = refused else { panic!("{refused}") };
        assert_eq!(damage.lsn, Lsn(cut as u64));
        assert!(matches!(damage.bad, BadBatch::Chain { .. }), "{damage}");
    }
}

#[test]
fn a_log_of_a_later_program_is_refused_and_not_cut() {
    let (lsns, rig) = marked();
    let mut bytes = rig.disk.image(ShardFile::Log);
    let at = lsns[2].0 as usize;
    bytes[at + 12] = 2;
    let checksum = crc32fast::hash(&bytes[at + 12..at + 80]);
    bytes[at + 8..at + 12].copy_from_slice(&checksum.to_le_bytes());
    let mut disk = SimDisk::from_image(&bytes, &[]);
    let (recovered, _) = recover(&rig.config, &mut disk, rig.start);
    assert_eq!(recovered, Err(ScanError::Newer { lsn: lsns[2], found: 2 }));
}

#[test]
fn arbitrary_bytes_in_the_file_never_panic_the_scan() {
    let config = tiny();
    let (_, rig) = marked();
    for seed in 0..100 {
        let mut random = SimRandom::new(seed);
        let mut bytes = rig.disk.image(ShardFile::Log);
        for _ in 0..1 + random.below(200) {
            let at = random.below(bytes.len());
            let end = bytes.len().min(at + 1 + random.below(600));
            bytes[at..end].fill_with(|| random.bits() as u8);
        }
        let _ = recover(&config, &mut SimDisk::from_image(&bytes, &[]), ScanStart::default());
    }
}

#[test]
fn progress_ends_at_the_whole_ring() {
    let (_, rig) = marked();
    let mut scan = LogScan::new(rig.config, rig.start, SCAN_OPS);
    let (mut out, mut disk) = (Vec::new(), rig.image());
    while !matches!(scan.advance(&mut out, |_, _| {}), Ok(ScanStep::Finished(_))) {
        out.drain(..).for_each(|op| disk.submit(op));
        scan.done(disk.complete_next().expect("in flight"));
    }
    let progress = scan.progress();
    assert_eq!(progress.bytes_scanned, progress.bytes_total);
    assert_eq!(progress.bytes_total, rig.config.capacity_bytes());
    assert_eq!(progress.records, rig.appended.len() as u64);
}
