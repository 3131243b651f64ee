//! The verifier against a real file.

use std::sync::atomic::AtomicU64;

use forebay_core::ids::{Ballot, GroupId, ShardId, Slot};

use super::*;
use crate::block::{BlockBuf, ShardFile};
use crate::log::{LogWriter, RecordHeader, RecordKind, RecoveredLog};
use crate::sim_disk::SimDisk;

const SEGMENT: u64 = 1 << 20;

/// A log of two sealed segments and a bit, as a file's bytes.
fn written() -> (LogConfig, Vec<SealedSegment>, Vec<u8>) {
    let config = LogConfig {
        segment_bytes: SEGMENT,
        segments: 4,
        record_bytes_max: 200 << 10,
        reserve_bytes: 64 << 10,
        batch_bytes_max: 64 << 10,
        ..LogConfig::standard(ShardId(1), 99)
    };
    let mut disk = SimDisk::new(config.capacity_bytes(), 0);
    let buffers = (0..config.buffers_wanted()).map(|_| BlockBuf::zeroed(16)).collect();
    let mut log = LogWriter::new(config, &RecoveredLog::brand_new(), Lsn(0), 1 << 48, buffers);
    let (mut out, mut slot) = (Vec::new(), 0);
    while log.sealed_segments().count() < 2 {
        slot += 1;
        let kind = RecordKind::PUT;
        let (ballot, origin) = (Ballot(1), Ballot(1));
        let record = RecordHeader { kind, group: GroupId(1), slot: Slot(slot), ballot, origin };
        let payload = vec![slot as u8; 100 + slot as usize * 997 % 30_000];
        log.append(&record, &[&payload]).expect("room");
        log.seal(&mut out);
        out.drain(..).for_each(|op| disk.submit(op));
        while let Some(done) = disk.complete_next() {
            log.done(done).expect("no fault");
        }
    }
    let sealed = log.sealed_segments().collect();
    (config, sealed, disk.image(ShardFile::Log))
}

/// Starts a verifier over these bytes, or says loudly why it cannot.
fn start(
    bytes: &[u8],
    log: LogConfig,
    bytes_per_second: u64,
) -> Option<(Verifier, Arc<AtomicU64>, tempfile::TempDir)> {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join("log");
    std::fs::write(&path, bytes).expect("room for the test's file");
    let woken = Arc::new(AtomicU64::new(0));
    let wake = {
        let woken = woken.clone();
        move || {
            woken.fetch_add(1, Ordering::SeqCst);
        }
    };
    let config = VerifierConfig { path, log, bytes_per_second, queue_jobs: 4 };
    match Verifier::start(config, wake) {
        Ok(verifier) => Some((verifier, woken, directory)),
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            println!("SKIPPED, this machine cannot run the maintenance lane: {error}: {source:?}");
            None
        }
    }
}

fn in_a_minute(segment: SealedSegment) -> VerifyJob {
    VerifyJob { segment, expires: Instant::now() + Duration::from_secs(60) }
}

fn wait(verifier: &Verifier) -> VerifyReport {
    let give_up = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(report) = verifier.poll() {
            return report;
        }
        assert!(Instant::now() < give_up, "no report");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn intact_segments_verify_and_the_shard_is_woken() {
    let (config, sealed, bytes) = written();
    let Some((verifier, woken, _directory)) = start(&bytes, config, 1 << 30) else { return };
    for segment in &sealed {
        verifier.submit(in_a_minute(*segment)).expect("room in the queue");
    }
    for segment in &sealed {
        let report = wait(&verifier);
        assert_eq!(report.outcome, VerifyOutcome::Verified);
        assert_eq!((report.segment, report.bytes), (*segment, SEGMENT));
        assert!(report.batches > 10);
    }
    drop(verifier);
    assert_eq!(woken.load(Ordering::SeqCst), 2);
}

#[test]
fn a_flipped_bit_and_an_overwritten_segment_are_suspect() {
    let (config, sealed, mut bytes) = written();
    bytes[SEGMENT as usize + 50_001] ^= 0x10;
    let Some((verifier, _, _directory)) = start(&bytes, config, 1 << 30) else { return };
    verifier.submit(in_a_minute(sealed[1])).expect("room");
    let report = wait(&verifier);
    let VerifyOutcome::Suspect { lsn, .. } = report.outcome else { panic!("{report:?}") };
    assert!(lsn.0 <= SEGMENT + 50_001 && lsn > sealed[1].start.lsn);
    // What the shard believes to be there is a lap later.
    let mut moved = sealed[0];
    moved.start.lsn = moved.start.lsn.after(config.capacity_bytes());
    moved.end.lsn = moved.end.lsn.after(config.capacity_bytes());
    verifier.submit(in_a_minute(moved)).expect("room");
    let report = wait(&verifier);
    let VerifyOutcome::Suspect { bad: BadBatch::Position { .. }, .. } = report.outcome else {
        panic!("{report:?}")
    };
    let mut other_end = sealed[0];
    other_end.end.previous_checksum ^= 1;
    verifier.submit(in_a_minute(other_end)).expect("room");
    assert!(matches!(wait(&verifier).outcome, VerifyOutcome::WrongEnd { .. }));
}

#[test]
fn the_rate_is_bounded_a_pin_expires_and_a_full_queue_gives_the_job_back() {
    let (config, sealed, bytes) = written();
    let Some((verifier, _, _directory)) = start(&bytes, config, 4 << 20) else { return };
    let began = Instant::now();
    verifier.submit(in_a_minute(sealed[0])).expect("room");
    assert_eq!(wait(&verifier).outcome, VerifyOutcome::Verified);
    let least = Duration::from_millis(180);
    assert!(began.elapsed() >= least, "three pauses of 62 ms: {:?}", began.elapsed());
    let expired = VerifyJob { segment: sealed[0], expires: began };
    verifier.submit(expired).expect("room");
    assert_eq!(wait(&verifier).outcome, VerifyOutcome::Expired);
    let refused = (0..20).filter(|_| verifier.submit(in_a_minute(sealed[0])).is_err()).count();
    assert!((12..=17).contains(&refused), "{refused}");
}

#[test]
fn a_missing_file_is_named() {
    let config = VerifierConfig {
        path: PathBuf::from("nowhere/log"),
        log: LogConfig::standard(ShardId(0), 1),
        bytes_per_second: 1,
        queue_jobs: 1,
    };
    let error = Verifier::start(config, || {}).expect_err("no such file");
    assert!(matches!(error, VerifierError::Open { .. }), "{error}");
}
