//! Creation, the lock, interrupted creations, and directories that must not be touched.

use std::os::unix::fs::MetadataExt;

use tempfile::TempDir;

use super::*;
use crate::log::{LogConfigError, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_MIN};

const SMALL: Geometry = Geometry { shards: 2, log_segment_bytes: 64 * 1024, log_segments: 4 };
/// A log of records so short that segments can be small.
const LOG: LogConfig = LogConfig {
    shard: ShardId(0),
    log_id: 0,
    segment_bytes: 0,
    segments: 0,
    record_bytes_max: 8 << 10,
    reserve_bytes: 64 << 10,
    batch_bytes_max: 8 << 10,
    in_flight_max: 1,
};
const PLAIN: Request = Request {
    defaults: SMALL,
    shards: None,
    log_segment_bytes: None,
    log_segments: None,
    log: LOG,
};

fn open(path: &Path) -> Result<DataDirectory, DirectoryError> {
    DataDirectory::open_or_create(path, &PLAIN, &mut |_| {})
}

/// A directory with direct I/O, or None with a word about the skipped test.
fn scratch() -> Option<TempDir> {
    let dir = tempfile::tempdir().unwrap();
    match check_direct_io(dir.path()) {
        Ok(()) => Some(dir),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

#[test]
fn a_new_directory_has_prewritten_logs_and_keeps_its_identity() {
    let Some(dir) = scratch() else { return };
    let mut last = None;
    let first = DataDirectory::open_or_create(dir.path(), &PLAIN, &mut |p| last = Some(p)).unwrap();
    assert!(first.was_created());
    assert_eq!(last, Some(Progress { done_bytes: 512 * 1024, total_bytes: 512 * 1024 }));
    for shard in first.shards() {
        let log = first.shard_path(shard).join("log");
        let metadata = fs::metadata(&log).unwrap();
        assert_eq!(metadata.len(), SMALL.log_bytes());
        assert!(metadata.blocks() * 512 >= SMALL.log_bytes(), "no holes");
        assert!(fs::read(&log).unwrap().iter().all(|&byte| byte == 0));
        first.open_shard(shard).unwrap();
    }
    let id = first.node_id();
    drop(first);
    let second = open(dir.path()).unwrap();
    assert_eq!(second.node_id(), id);
    assert!(!second.was_created());
}

#[test]
fn a_second_owner_is_refused_and_told_who_holds_it() {
    let Some(dir) = scratch() else { return };
    let first = open(dir.path()).unwrap();
    match open(dir.path()) {
        Err(DirectoryError::InUse { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    drop(first);
    open(dir.path()).unwrap();
}

#[test]
fn an_interrupted_creation_is_made_again_wherever_it_stopped() {
    let Some(dir) = scratch() else { return };
    let first = open(dir.path()).unwrap();
    let id = first.node_id();
    drop(first);
    let mut interrupted = read_node(dir.path()).unwrap().unwrap();
    interrupted.state = State::Creating;
    write_node(dir.path(), &mut interrupted).unwrap();
    fs::write(dir.path().join("shard-0/log"), b"half").unwrap();
    fs::remove_dir_all(dir.path().join("shard-1")).unwrap();
    let again = open(dir.path()).unwrap();
    assert!(again.was_created());
    assert_ne!(again.node_id(), id);
    drop(again);
    assert!(!open(dir.path()).unwrap().was_created());
}

#[test]
fn a_lost_file_of_a_directory_that_served_is_damage_not_a_fresh_start() {
    for name in ["shard-0/log", "shard-1/pages"] {
        let Some(dir) = scratch() else { return };
        drop(open(dir.path()).unwrap());
        let lost = dir.path().canonicalize().unwrap().join(name);
        fs::remove_file(&lost).unwrap();
        match open(dir.path()) {
            Err(error @ DirectoryError::FileMissing { .. }) => assert!(error.is_damage()),
            other => panic!("{other:?}"),
        }
        assert!(!lost.exists());
    }
}

#[test]
fn a_log_of_another_length_is_damage() {
    let Some(dir) = scratch() else { return };
    drop(open(dir.path()).unwrap());
    let log = OpenOptions::new().write(true).open(dir.path().join("shard-0/log")).unwrap();
    log.set_len(4096).unwrap();
    assert!(matches!(open(dir.path()), Err(DirectoryError::LogLength { found_bytes: 4096, .. })));
}

#[test]
fn a_newer_format_is_refused_even_with_unknown_fields() {
    let Some(dir) = scratch() else { return };
    drop(open(dir.path()).unwrap());
    let node = dir.path().join("node.toml");
    let text = fs::read_to_string(&node).unwrap().replace("format = 1", "format = 2");
    fs::write(&node, format!("{text}\nencryption = \"yes\"\n")).unwrap();
    assert!(matches!(open(dir.path()), Err(DirectoryError::Newer { found: 2, known: 1, .. })));
}

#[test]
fn a_flipped_or_cut_node_file_is_an_error_or_says_the_same() {
    let Some(dir) = scratch() else { return };
    let id = open(dir.path()).unwrap().node_id();
    let node = dir.path().join("node.toml");
    let good = fs::read(&node).unwrap();
    let check = |bytes: &[u8]| {
        fs::write(&node, bytes).unwrap();
        match open(dir.path()) {
            // A flip in the comment, in the case of a digit, or the last newline cut away.
            Ok(opened) => assert_eq!((opened.node_id(), opened.was_created()), (id, false)),
            Err(DirectoryError::Newer { .. }) => {}
            Err(error) => assert!(error.is_damage(), "{error}"),
        }
    };
    for place in 0..good.len() {
        check(&good[..place]);
        for bit in 0..8 {
            let mut flipped = good.clone();
            flipped[place] ^= 1 << bit;
            check(&flipped);
        }
    }
}

#[test]
fn a_directory_with_other_files_is_left_alone() {
    let Some(dir) = scratch() else { return };
    fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    match open(dir.path()) {
        Err(DirectoryError::NotADataDirectory { example, .. }) => {
            assert_eq!(example, "thesis.tex");
        }
        other => panic!("{other:?}"),
    }
    assert!(!dir.path().join("node.toml").exists());
}

#[test]
fn asking_for_another_geometry_names_the_setting() {
    let Some(dir) = scratch() else { return };
    drop(open(dir.path()).unwrap());
    let request = Request { shards: Some(3), ..PLAIN };
    let refused = DataDirectory::open_or_create(dir.path(), &request, &mut |_| {});
    match refused {
        Err(DirectoryError::Geometry { field: "shards", asked: 3, found: 2, .. }) => {}
        other => panic!("{other:?}"),
    }
    let request = Request { shards: Some(2), log_segments: Some(4), ..PLAIN };
    DataDirectory::open_or_create(dir.path(), &request, &mut |_| {}).unwrap();
}

#[test]
fn a_log_larger_than_the_disk_is_refused_and_the_directory_can_be_created_smaller() {
    let Some(dir) = scratch() else { return };
    let (log_segment_bytes, log_segments) = (Some(SEGMENT_BYTES_MAX), Some(1 << 14));
    let request = Request { log_segment_bytes, log_segments, ..PLAIN };
    match DataDirectory::open_or_create(dir.path(), &request, &mut |_| {}) {
        Err(DirectoryError::DiskFull { .. }) => {}
        // ext4 and others refuse a length beyond their largest file before they look for space.
        Err(DirectoryError::Io { source, .. }) => {
            assert_eq!(source.raw_os_error(), Some(libc::EFBIG));
        }
        other => panic!("{other:?}"),
    }
    open(dir.path()).unwrap();
}

#[test]
fn memory_file_systems_are_refused_by_name() {
    let shm = Path::new("/dev/shm");
    if !shm.exists() || !sys::is_memory_only(shm).unwrap() {
        eprintln!("skipped: no tmpfs at /dev/shm");
        return;
    }
    assert!(matches!(check_direct_io(shm), Err(DirectoryError::MemoryOnly { .. })));
}

#[test]
fn a_log_geometry_that_the_log_would_not_take_is_refused_by_name_before_anything_is_made() {
    let Some(dir) = scratch() else { return };
    let create = |log_segment_bytes, log_segments| {
        let asked = Request {
            log_segment_bytes: Some(log_segment_bytes),
            log_segments: Some(log_segments),
            log: LogConfig::standard(ShardId(0), 0),
            ..PLAIN
        };
        DataDirectory::open_or_create(dir.path(), &asked, &mut |_| {})
    };
    let segment_bytes = SEGMENT_BYTES_MIN;
    for (bytes, segments) in [
        (1 << 20, 16),
        (segment_bytes - 4096, SEGMENTS_MIN),
        (SEGMENT_BYTES_MAX + 4096, SEGMENTS_MIN),
        (segment_bytes + 1, SEGMENTS_MIN),
        (segment_bytes, SEGMENTS_MIN - 1),
        (0, 0),
    ] {
        let refused = create(bytes, segments).expect_err("a limit is broken");
        assert!(matches!(refused, DirectoryError::LogLimits { .. }), "{refused}");
        assert!(!refused.is_damage() && refused.to_string().contains("log_segment_bytes"));
        assert!(!dir.path().join("node.toml").exists(), "{bytes} {segments}");
    }
    // The least that is allowed is allowed.
    let least =
        LogConfig { segment_bytes, segments: SEGMENTS_MIN, ..LogConfig::standard(ShardId(0), 0) };
    assert_eq!(least.validate(), Ok(()));
    // A directory that has such a geometry is refused when it is opened, not by a panic later.
    drop(open(dir.path()).unwrap());
    let asked = Request { log: LogConfig::standard(ShardId(0), 0), ..PLAIN };
    match DataDirectory::open_or_create(dir.path(), &asked, &mut |_| {}) {
        Err(DirectoryError::LogLimits { source: LogConfigError::SegmentBytes { .. }, .. }) => {}
        other => panic!("{other:?}"),
    }
}
