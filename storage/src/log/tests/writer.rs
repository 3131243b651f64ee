//! The writing end: order, space, refusal.

use super::*;
use crate::block::DiskOp;
use crate::sim_disk::{EIO, Fault};

#[test]
fn out_of_order_completions_are_acknowledged_in_order() {
    let mut rig = Rig::new(tiny());
    let mut ops = Vec::new();
    let mut positions = Vec::new();
    for _ in 0..3 {
        positions.push(rig.append(100).expect("room"));
        let mut out = Vec::new();
        rig.log.seal(&mut out);
        let [DiskOp::Write { op, .. }] = &out[..] else { panic!("one batch a turn") };
        ops.push(*op);
        rig.disk.submit(out.remove(0));
    }
    for (op, acknowledged) in [(ops[2], 0), (ops[0], 1), (ops[1], 3)] {
        let done = rig.disk.complete(op).expect("in flight");
        let durable = rig.log.done(done).expect("no fault");
        assert_eq!(positions.iter().filter(|lsn| **lsn < durable).count(), acknowledged);
    }
    assert_eq!(rig.log.durable_lsn(), Lsn(3 * 4096));
    assert!(rig.log.is_idle());
}

#[test]
fn while_all_batches_are_in_flight_the_open_one_grows_and_then_buffers_run_out() {
    let mut rig = Rig::new(LogConfig { in_flight_max: 1, segments: 8, ..tiny() });
    rig.append(100).expect("room");
    rig.seal();
    let mut appended = 0;
    let refused = loop {
        match rig.append(500) {
            Ok(_) => appended += 1,
            Err(refused) => break refused,
        }
        rig.seal();
        assert_eq!(rig.log.in_flight(), 1, "no second batch in flight");
    };
    assert_eq!(refused, AppendError::Busy { in_flight: 1 });
    assert!(appended > 2 * (8192 / 600), "several full batches wait: {appended}");
    rig.settle();
    assert!(rig.append(500).is_ok());
    rig.settle();
    let batches = rig.log.stats().batches;
    assert!(batches < 10, "{batches} batches for {appended} records");
    let (recovered, found) = recover(&rig.config, &mut rig.image(), rig.start);
    assert_eq!(found, rig.appended);
    assert_eq!(recovered.expect("clean").point.lsn, rig.log.durable_lsn());
}

#[test]
fn a_failed_write_is_final_whatever_happens_to_the_others() {
    let mut rig = Rig::new(tiny());
    rig.append(10).expect("room");
    rig.seal();
    rig.disk.inject(ShardFile::Log, Fault::Write(EIO));
    rig.append(10).expect("room");
    rig.seal();
    rig.append(10).expect("room");
    rig.seal();
    let mut failed = LogFailed { lsn: Lsn(4096), errno: EIO };
    let results: Vec<_> =
        std::iter::from_fn(|| rig.disk.complete_next()).map(|done| rig.log.done(done)).collect();
    assert_eq!(results, [Ok(Lsn(4096)), Err(failed), Err(failed)]);
    assert_eq!(rig.log.append(&record(9), &[b"x"]), Err(AppendError::Failed(failed)));
    rig.seal();
    assert_eq!(rig.disk.in_flight().len(), 0);
    assert!(!rig.marker());
    assert_eq!(rig.log.durable_lsn(), Lsn(4096));
    failed.errno = 0;
    assert_ne!(rig.log.failed(), Some(failed));
}

#[test]
fn a_full_log_refuses_clients_first_then_everyone_and_trimming_frees_it() {
    let mut rig = Rig::new(tiny());
    let capacity = rig.config.capacity_bytes();
    let full = loop {
        match rig.append(3000) {
            Ok(_) => rig.settle(),
            Err(full) => break full,
        }
    };
    assert!(matches!(full, AppendError::Full { needed_bytes: 4096, .. }), "{full}");
    assert_eq!(rig.log.end_lsn().0, capacity - rig.config.reserve_bytes);
    assert_eq!(rig.log.free_bytes(), 0);
    let before = rig.disk.image(ShardFile::Log);
    let lsn = rig.log.append_reserved(&record(rig.slot), &[&payload(rig.slot, 3000)]);
    rig.appended.push((lsn.expect("the reserve"), rig.slot, payload(rig.slot, 3000)));
    rig.slot += 1;
    rig.settle();
    let full = rig.log.append_reserved(&record(99), &[b"x"]);
    assert_eq!(full, Err(AppendError::Full { needed_bytes: 4096, free_bytes: 0 }));
    assert!(rig.log.needs_marker() && !rig.marker(), "no room for a marker");
    let after = rig.disk.image(ShardFile::Log);
    let kept = (capacity - rig.config.reserve_bytes) as usize;
    assert_eq!(before[..kept], after[..kept]);
    let (recovered, found) = recover(&rig.config, &mut rig.image(), rig.start);
    assert_eq!(found, rig.appended, "a log that fills its ring is read to the end");
    assert_eq!(recovered.expect("clean").point.lsn.0, capacity - BLOCK, "an opening's block");
    rig.checkpoint();
    assert!(rig.append(3000).is_ok());
}

#[test]
fn the_ring_wraps_and_batches_never_cross_a_segment() {
    let mut rig = Rig::new(tiny());
    let mut random = SimRandom::new(5);
    for turn in 0..400 {
        for _ in 0..random.below(4) {
            let bytes = if random.chance(1, 9) { 14 << 10 } else { random.below(2000) };
            match rig.append(bytes) {
                Ok(_) | Err(AppendError::Busy { .. }) => {}
                Err(AppendError::Full { .. }) => rig.checkpoint(),
                Err(other) => panic!("{other}"),
            }
        }
        rig.seal();
        while random.chance(2, 3) && rig.complete(&mut random) {}
        if turn % 40 == 0 {
            rig.settle();
            let (recovered, found) = recover(&rig.config, &mut rig.image(), rig.start);
            assert_eq!(found, rig.appended);
            assert_eq!(recovered.expect("clean").point.lsn, rig.log.durable_lsn());
        }
    }
    assert!(rig.log.end_lsn().0 > 5 * rig.config.capacity_bytes(), "several laps");
}

#[test]
fn a_record_beyond_the_buffers_gets_a_batch_of_its_own_and_at_most_two_wait() {
    let mut rig = Rig::new(LogConfig { in_flight_max: 1, segments: 8, ..tiny() });
    let large = rig.config.record_bytes_max as usize;
    rig.append(large).expect("room");
    rig.append(large).expect("room");
    assert_eq!(rig.append(large), Err(AppendError::Busy { in_flight: 0 }));
    let too_large = AppendError::TooLarge { bytes: large as u64 + 1, max: large as u64 };
    assert_eq!(rig.append(large + 1), Err(too_large));
    rig.append(5).expect("room");
    rig.settle();
    assert!(rig.append(large).is_ok());
    rig.settle();
    let (_, found) = recover(&rig.config, &mut rig.image(), rig.start);
    assert_eq!(found, rig.appended);
}

#[test]
fn an_idle_log_is_marked_once() {
    let mut rig = Rig::new(tiny());
    assert!(!rig.log.needs_marker(), "nothing was ever written");
    rig.append(10).expect("room");
    assert!(!rig.marker(), "a record is open");
    rig.seal();
    assert!(!rig.marker(), "a batch is in flight");
    rig.settle();
    assert!(rig.marker());
    assert!(!rig.marker());
    rig.settle();
    assert!(!rig.log.needs_marker());
    let image = rig.image();
    let rig = rig.restart(image);
    assert!(!rig.log.needs_marker(), "recovery knows that the log ends with a marker");
}

#[test]
fn sealed_segments_are_listed_until_the_ring_comes_round() {
    let mut rig = Rig::new(tiny());
    let segment = rig.config.segment_bytes;
    let mut listed = 0;
    for _ in 0..100 {
        rig.write_settled(&[3000]);
        rig.checkpoint();
        let sealed: Vec<_> = rig.log.sealed_segments().collect();
        for pair in sealed.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
        }
        for sealed in &sealed {
            assert_eq!(sealed.start.lsn.0, sealed.number * segment);
            assert_eq!(sealed.end.lsn.0, sealed.start.lsn.0 + segment);
            assert!(rig.log.still_holds(sealed.start.lsn));
        }
        let end = rig.log.durable_lsn().0;
        let whole =
            end / segment - end.saturating_sub(rig.config.capacity_bytes()).div_ceil(segment);
        assert_eq!(sealed.len() as u64, whole);
        listed = listed.max(sealed.len());
    }
    assert_eq!(listed, 4);
}

#[test]
fn a_warm_writer_keeps_its_buffers() {
    let mut rig = Rig::new(tiny());
    let wanted = rig.config.buffers_wanted();
    for _ in 0..200 {
        rig.write_settled(&[700]);
        rig.checkpoint();
    }
    for _ in 0..wanted {
        assert!(rig.append(7000).is_ok());
    }
    assert!(matches!(rig.append(7000), Err(AppendError::Busy { .. })));
}
