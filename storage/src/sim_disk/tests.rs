//! The simulated device's crash states and faults.

use super::*;

fn filled(blocks: usize, byte: u8) -> BlockBuf {
    let mut buf = BlockBuf::zeroed(blocks);
    buf.fill(byte);
    buf
}

fn write(op: u64, block: u64, blocks: usize, byte: u8, durability: Durability) -> DiskOp {
    DiskOp::Write {
        op: OpId(op),
        file: ShardFile::Log,
        offset_bytes: block * BLOCK_BYTES as u64,
        buf: filled(blocks, byte),
        bytes: blocks * BLOCK_BYTES,
        durability,
    }
}

fn first_bytes(disk: &SimDisk) -> Vec<u8> {
    disk.image(ShardFile::Log).chunks(BLOCK_BYTES).map(|block| block[0]).collect()
}

fn exhaustive() -> CrashOptions {
    CrashOptions { images_max: 1 << 12, sector_bytes: BLOCK_BYTES, seed: 1 }
}

#[test]
fn a_write_in_flight_survives_in_every_subset_of_its_sectors() {
    let mut disk = SimDisk::new(2 * BLOCK_BYTES as u64, 0);
    disk.submit(write(1, 0, 2, 7, Durability::Durable));
    let images = disk.crash_images(exhaustive());
    assert!(images.is_exhaustive());
    let mut states: Vec<_> = images.map(|image| first_bytes(&image)).collect();
    states.sort();
    assert_eq!(states, [[0, 0], [0, 7], [7, 0], [7, 7]]);
    let sectors = CrashOptions { sector_bytes: 512, images_max: 1 << 16, seed: 1 };
    assert_eq!(disk.crash_images(sectors).count(), 1 << 16);
}

#[test]
fn a_completed_durable_write_survives_and_a_volatile_one_needs_its_flush() {
    let mut disk = SimDisk::new(2 * BLOCK_BYTES as u64, 0);
    disk.submit(write(1, 0, 1, 1, Durability::Durable));
    disk.submit(write(2, 1, 1, 2, Durability::Volatile));
    assert!(disk.complete(OpId(2)).is_some_and(|done| done.result.is_ok()));
    assert!(disk.complete(OpId(1)).is_some_and(|done| done.result.is_ok()));
    assert_eq!(first_bytes(&disk), [1, 2]);
    let mut states: Vec<_> =
        disk.crash_images(exhaustive()).map(|image| first_bytes(&image)).collect();
    states.sort();
    assert_eq!(states, [[1, 0], [1, 2]]);
    disk.submit(DiskOp::Flush { op: OpId(3), file: ShardFile::Log });
    disk.submit(write(4, 0, 1, 9, Durability::Volatile));
    disk.complete(OpId(4));
    disk.complete(OpId(3));
    let mut states: Vec<_> =
        disk.crash_images(exhaustive()).map(|image| first_bytes(&image)).collect();
    states.sort();
    assert_eq!(states, [[1, 2], [9, 2]], "the flush covers what completed before it");
}

#[test]
fn a_failed_flush_dooms_what_it_should_have_covered() {
    let mut disk = SimDisk::new(BLOCK_BYTES as u64, 0);
    disk.submit(write(1, 0, 1, 1, Durability::Volatile));
    disk.complete_next();
    disk.inject(ShardFile::Log, Fault::Flush(EIO));
    for op in [2, 3] {
        disk.submit(DiskOp::Flush { op: OpId(op), file: ShardFile::Log });
        let done = disk.complete_next().expect("in flight");
        assert_eq!(done.result.is_err(), op == 2);
    }
    assert_eq!(disk.crash_images(exhaustive()).count(), 2, "still lost or kept");
}

#[test]
fn growth_is_lost_or_kept_until_flushed_and_stops_at_the_limit() {
    let mut disk = SimDisk::new(0, 0);
    disk.set_bytes_max(ShardFile::Log, 8192);
    let grow = |op, file_bytes| DiskOp::Grow { op: OpId(op), file: ShardFile::Log, file_bytes };
    disk.submit(grow(1, 4096));
    disk.submit(grow(2, 12288));
    assert!(disk.complete_next().is_some_and(|done| done.result.is_ok()));
    let full = disk.complete_next().expect("in flight");
    assert_eq!(full.result, Err(DiskError { errno: ENOSPC }));
    let lengths: Vec<_> =
        disk.crash_images(exhaustive()).map(|image| image.file_bytes(ShardFile::Log)).collect();
    assert_eq!(lengths, [0, 4096]);
    disk.submit(write(3, 0, 1, 1, Durability::Durable));
    disk.complete_next();
    assert_eq!(disk.crash_images(exhaustive()).count(), 1);
}

#[test]
fn faults_hit_the_next_matching_operation_only() {
    let mut disk = SimDisk::new(3 * BLOCK_BYTES as u64, 0);
    disk.inject(ShardFile::Log, Fault::MisdirectWrite { offset_bytes: 8192 });
    disk.inject(ShardFile::Log, Fault::LoseWrite);
    disk.inject(ShardFile::Log, Fault::Write(EIO));
    for op in 1..=4 {
        disk.submit(write(op, 0, 1, op as u8, Durability::Durable));
        let done = disk.complete_next().expect("in flight");
        assert_eq!(done.result.is_err(), op == 3);
    }
    assert_eq!(first_bytes(&disk), [4, 0, 1]);
    assert_eq!(disk.stats().writes, 4);
}

#[test]
fn a_killed_process_leaves_unflushed_writes_to_the_next_power_cut() {
    let mut disk = SimDisk::new(BLOCK_BYTES as u64, 0);
    disk.submit(write(1, 0, 1, 5, Durability::Durable));
    let mut random = SimRandom::new(3);
    let seen: Vec<usize> = (0..20)
        .map(|_| {
            let disk = disk.after_process_crash(&mut random);
            let states = disk.crash_images(exhaustive()).count();
            assert_eq!(states == 2, first_bytes(&disk) == [5]);
            states
        })
        .collect();
    assert!(seen.contains(&1) && seen.contains(&2));
}

#[test]
fn what_failed_does_not_come_back_over_what_was_flushed_later() {
    let mut disk = SimDisk::new(2 * BLOCK_BYTES as u64, 0);
    disk.inject(ShardFile::Log, Fault::Write(EIO));
    disk.submit(write(1, 0, 2, 7, Durability::Volatile));
    assert!(disk.complete(OpId(1)).is_some_and(|done| done.result.is_err()));
    disk.submit(write(2, 0, 1, 9, Durability::Volatile));
    disk.complete(OpId(2));
    disk.submit(DiskOp::Flush { op: OpId(3), file: ShardFile::Log });
    disk.complete(OpId(3));
    // The second block was not written again.
    let mut states: Vec<_> =
        disk.crash_images(exhaustive()).map(|image| first_bytes(&image)).collect();
    states.sort();
    assert_eq!(states, [[9, 0], [9, 7]]);
}
