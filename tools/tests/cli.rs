//! The binary from outside: exit codes, messages, and what is left behind.

mod support;

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use forebay_core::ids::{Lsn, ShardId};
use forebay_storage::block::BLOCK_BYTES;
use forebay_storage::directory::{DataDirectory, Geometry, Request, check_direct_io};
use forebay_storage::log::BatchKind;
use forebay_storage::log::format::{BATCH_HEADER_BYTES, BatchHeader};
use forebay_storage::log::{LogConfig, LogPoint};
use forebay_storage::superblock::{LogGeometry, Superblock};
use forebay_storage::tree::TreeRef;
use support::disk::SmallDisk;
use support::process::{
    Node, code, command, forebay, piped, refused, refused_with, stderr, stdout,
};
use support::{scratch, skip, text};
use tempfile::TempDir;

fn create(path: &Path) -> DataDirectory {
    let geometry = Geometry { shards: 1, log_segment_bytes: 64 << 10, log_segments: 4 };
    // Of short records, so that segments can be small.
    let log = LogConfig {
        record_bytes_max: 8 << 10,
        reserve_bytes: 64 << 10,
        batch_bytes_max: 8 << 10,
        ..LogConfig::standard(ShardId(0), 0)
    };
    let request = Request {
        defaults: geometry,
        shards: None,
        log_segment_bytes: None,
        log_segments: None,
        log,
    };
    DataDirectory::open_or_create(path, &request, &mut |_| {}).unwrap()
}

fn superblock(checkpoint: u64) -> Superblock {
    Superblock {
        node: 1,
        shard: ShardId(0),
        checkpoint,
        log_start: LogPoint { lsn: Lsn(4096), previous_checksum: 0, incarnation: 1 },
        history_bytes: 0,
        durable_lsn: Lsn(8192),
        log: LogGeometry::of(&LogConfig::standard(ShardId(0), 1)),
        catalog: TreeRef::EMPTY,
        file_blocks: 256,
        space_digest: 0,
        logs_lost: 0,
    }
}

#[test]
fn every_command_has_help_with_examples() {
    let help = stdout(&forebay(&["--help"]));
    for code in ["10  io_uring", "14  another process", "17  data that was there"] {
        assert!(help.contains(code), "{help}");
    }
    for command in ["dev", "node", "probe-disk", "status", "inspect", "simulate"] {
        let output = forebay(&[command, "--help"]);
        assert_eq!(code(&output), 0);
        let example = format!("Examples:\n  forebay {command}");
        assert!(stdout(&output).contains(&example), "{}", stdout(&output));
    }
}

#[test]
fn wrong_arguments_are_named() {
    refused(&["dev", "--nodes", "0"], 2, &["--nodes 0", "1 to 16"]);
    refused(&["dev", "--memory", "lots"], 2, &["--memory", "512MiB"]);
    refused(&["dev", "--memory", "1MiB"], 2, &["--memory", "too few"]);
    refused(&["dev", "--native", "here"], 2, &["--native"]);
    refused(&["dev", "--http", "here"], 2, &["--http", "off"]);
    refused(&["dev", "--log", "1000"], 2, &["--log", "16MiB"]);
    refused(&["dev", "--shards", "0"], 2, &["--shards"]);
    refused(&["dev", "--native", "127.0.0.1:4690"], 2, &["--http", "4690"]);
    refused(&["node"], 2, &["--config"]);
    refused(&["node", "--config", "/nonexistent/forebay.toml"], 2, &["forebay.toml", "No such"]);
    refused(&["probe-disk", "/tmp", "--seconds-per-point", "0"], 2, &["--seconds-per-point"]);
    refused(&["probe-disk", "/tmp", "--file", "1KiB"], 2, &["--file"]);
    refused(&["frobnicate"], 2, &["frobnicate"]);
}

#[test]
fn a_wrong_configuration_names_file_line_and_field() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("forebay.toml");
    let file = path.to_str().unwrap();
    fs::write(&path, "data = \"d\"\nmemmory = \"1GiB\"\n").unwrap();
    refused(&["node", "--config", file], 2, &["forebay.toml", "line 2", "memmory"]);
    fs::write(&path, "data = \"d\"\n\nbatches_in_flight = 100\n").unwrap();
    refused(&["node", "--config", file], 2, &["forebay.toml", "line 3", "batches_in_flight"]);
}

#[test]
fn the_sample_configuration_is_printed() {
    let output = forebay(&["node", "--print-sample-config"]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("data = \"/var/lib/forebay\""));
}

#[test]
fn a_directory_in_use_is_refused_with_the_holders_number() {
    let Some(dir) = scratch() else { return };
    let held = create(dir.path());
    let pid = format!("({})", std::process::id());
    refused(&["dev", "--data", dir.path().to_str().unwrap()], 14, &["in use", &pid]);
    drop(held);
}

#[test]
fn a_foreign_directory_is_left_alone() {
    let Some(dir) = scratch() else { return };
    fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    refused(&["dev", "--data", dir.path().to_str().unwrap()], 2, &["letter.txt"]);
    assert!(!dir.path().join("node.toml").exists());
}

#[test]
fn a_directory_goes_on_with_the_nodes_that_it_was_made_with() {
    let Some(dir) = scratch() else { return };
    Node::dev(dir.path(), &["--http", "off"]).stop();
    let data = dir.path().to_str().unwrap();
    refused(&["dev", "--nodes", "3", "--data", data], 2, &["has 1 node", "--nodes"]);
    let node = Node::spawn({
        let mut command = command();
        command.args(["dev", "--data", data, "--native", "127.0.0.1:0", "--http", "off"]);
        piped(&mut command);
        command
    });
    assert!(!node.value("native").contains(','), "{}", node.ready_line());
    assert!(node.stop().contains("a single node's"));
}

#[test]
fn a_directory_of_a_newer_program_is_refused() {
    let Some(dir) = scratch() else { return };
    drop(create(dir.path()));
    let node = dir.path().join("node.toml");
    let text = fs::read_to_string(&node).unwrap().replace("format = 1", "format = 7");
    fs::write(&node, text).unwrap();
    refused(&["dev", "--data", dir.path().to_str().unwrap()], 16, &["format 7", "newer"]);
}

#[test]
fn a_directory_that_lost_its_log_is_damaged() {
    let Some(dir) = scratch() else { return };
    drop(create(dir.path()));
    fs::remove_file(dir.path().join("shard-0/log")).unwrap();
    refused(&["dev", "--data", dir.path().to_str().unwrap()], 17, &["shard-0/log", "missing"]);
}

#[test]
fn a_wrong_disk_profile_is_named() {
    let Some(dir) = scratch() else { return };
    fs::write(dir.path().join("disk.toml"), "durable_mode = \"hope\"\nbatches_in_flight = 1")
        .unwrap();
    let data = dir.path().to_str().unwrap();
    refused(&["dev", "--data", data], 2, &["disk.toml", "hope", "probe-disk"]);
}

#[test]
fn memory_file_systems_are_refused() {
    let shm = Path::new("/dev/shm");
    if !shm.exists() || check_direct_io(shm).is_ok() {
        return skip("no tmpfs at /dev/shm");
    }
    let dir = TempDir::new_in(shm).unwrap();
    let path = dir.path().to_str().unwrap();
    refused(&["dev", "--data", path], 11, &["tmpfs", "ext4"]);
    refused(&["probe-disk", path], 11, &["tmpfs"]);
}

#[test]
fn a_full_disk_is_refused_and_gets_its_space_back() {
    let Some(dir) = scratch() else { return };
    let Some(disk) = SmallDisk::new(&dir.path().join("image"), 32 << 20) else { return };
    let data = disk.path().to_str().unwrap();
    refused(&["dev", "--data", data], 15, &["no space left", "smaller log"]);
    assert!(!disk.path().join("shard-0").exists());
    refused(&["probe-disk", data], 15, &["no space left"]);
}

#[test]
fn a_memlock_limit_below_the_registered_buffers_is_named() {
    let Some(dir) = scratch() else { return };
    let data = text(dir.path());
    let limited = |limit: &str| {
        // Without the capability that lifts the limit.
        let mut command = Command::new("prlimit");
        command.args([limit, "setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]);
        command
    };
    if !limited("--memlock=1048576:1048576").arg("true").status().is_ok_and(|s| s.success()) {
        return skip("no prlimit and setpriv, or no right to drop capabilities");
    }
    let mut command = limited("--memlock=1048576:1048576");
    command.arg(env!("CARGO_BIN_EXE_forebay")).args(["dev", "--nodes", "1", "--http", "off"]);
    command.args(["--native", "127.0.0.1:0", "--data", data]);
    let output = command.output().unwrap();
    refused_with(output, 12, &["memlock", "1048576", "ulimit -l 2048"]);
    assert!(!dir.path().join("node.toml").exists(), "asked before anything is created");
}

#[test]
fn a_superblock_of_a_newer_program_is_refused_and_left_as_it_is() {
    let Some(dir) = scratch() else { return };
    Node::dev(dir.path(), &["--http", "off"]).stop();
    let path = dir.path().join("shard-0/pages");
    let pages = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut block = vec![0; BLOCK_BYTES];
    pages.read_exact_at(&mut block, BLOCK_BYTES as u64).unwrap();
    block[8..10].copy_from_slice(&9u16.to_le_bytes());
    let crc = crc32fast::hash(&block[4..]);
    block[..4].copy_from_slice(&crc.to_le_bytes());
    pages.write_all_at(&block, BLOCK_BYTES as u64).unwrap();
    let before = fs::read(&path).unwrap();
    let data = text(dir.path());
    let args = ["dev", "--data", data, "--native", "127.0.0.1:0", "--http", "off"];
    refused(&args, 16, &["newer", "9"]);
    assert!(fs::read(&path).unwrap() == before, "nothing was changed");
}

#[test]
fn probe_disk_measures_writes_its_file_and_leaves_nothing_else() {
    let Some(dir) = scratch() else { return };
    let data = dir.path().to_str().unwrap();
    let output = forebay(&["probe-disk", data, "--seconds-per-point", "0.01", "--file", "16MiB"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let table = stdout(&output);
    assert!(table.contains("linked_fdatasync") && table.contains("durable_mode ="), "{table}");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["disk.toml"]);
    let text = fs::read_to_string(dir.path().join("disk.toml")).unwrap();
    let profile: toml::Table = text.parse().unwrap();
    assert_eq!(profile["point"].as_array().unwrap().len(), 37);
}

#[test]
fn status_says_that_no_node_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    drop(listener);
    refused(&["status", "--http", &at], 18, &["no node answers", &at]);
}

#[test]
fn status_survives_answers_that_are_not_a_nodes() {
    for answer in [
        &b""[..],
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 404 Not Found\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\n\r\n{\"hello\": 1}",
        b"\xff\xfe\x00",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer);
        });
        refused(&["status", "--http", &at], 18, &[&at]);
        server.join().unwrap();
    }
}

#[test]
fn inspect_names_what_is_not_there() {
    let Some(dir) = scratch() else { return };
    let data = dir.path().to_str().unwrap();
    refused(&["inspect", "superblock", data], 2, &["data directory", "shard 0"]);
    refused(&["inspect", "log", data, "--shard", "4"], 2, &["shard-4"]);
}

#[test]
fn inspect_reads_a_fresh_directory_and_changes_nothing() {
    let Some(dir) = scratch() else { return };
    let held = create(dir.path());
    let data = dir.path().to_str().unwrap();
    let output = forebay(&["inspect", "superblock", data]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("has not been formatted"), "{}", stdout(&output));
    assert!(stdout(&output).contains("may be using the directory"));
    drop(held);
    let output = forebay(&["inspect", "log", data]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("0 batches in 256 KiB"), "{}", stdout(&output));
    let output = forebay(&["inspect", "page", data, "5"]);
    assert!(stdout(&output).contains("zeros"), "{}", stdout(&output));
    let pages = fs::read(dir.path().join("shard-0/pages")).unwrap();
    assert!(pages.iter().all(|&byte| byte == 0));
}

#[test]
fn inspect_shows_superblocks_and_reports_a_torn_one() {
    let Some(dir) = scratch() else { return };
    drop(create(dir.path()));
    let data = dir.path().to_str().unwrap();
    let pages = OpenOptions::new().write(true).open(dir.path().join("shard-0/pages")).unwrap();
    for checkpoint in [7, 8] {
        let superblock = superblock(checkpoint);
        let mut block = vec![0; BLOCK_BYTES];
        superblock.encode(&mut block);
        pages.write_all_at(&block, superblock.block() * BLOCK_BYTES as u64).unwrap();
    }
    let output = forebay(&["inspect", "superblock", data]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("chosen: checkpoint 8"), "{}", stdout(&output));
    let output = forebay(&["inspect", "tree", data]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("catalog: empty"));

    pages.write_all_at(b"torn", 2000).unwrap();
    let output = forebay(&["inspect", "superblock", data]);
    assert_eq!(code(&output), 17);
    assert!(stdout(&output).contains("chosen: checkpoint 7"), "{}", stdout(&output));
    assert!(stdout(&output).contains("fallen back"), "{}", stdout(&output));
}

#[test]
fn inspect_shows_batches_their_chain_and_bad_headers() {
    let Some(dir) = scratch() else { return };
    drop(create(dir.path()));
    let data = dir.path().to_str().unwrap();
    let log = OpenOptions::new().write(true).open(dir.path().join("shard-0/log")).unwrap();
    let mut previous_checksum = 0;
    for index in 0..3u64 {
        let header = BatchHeader {
            shard: ShardId(0),
            log_id: 9,
            incarnation: 1,
            segment: 0,
            lsn: Lsn(index * 4096),
            durable_lsn: Lsn(index * 4096),
            batch_bytes: 4096,
            payload_bytes: 0,
            record_count: 0,
            records_checksum: 0,
            previous_checksum,
            kind: BatchKind::Marker,
        };
        let header = BatchHeader { records_checksum: header.identity_checksum(), ..header };
        let mut bytes = [0; BATCH_HEADER_BYTES];
        // The third pretends to follow another batch than the second.
        previous_checksum = header.encode(&mut bytes) ^ u32::from(index == 1);
        log.write_all_at(&bytes, index * 4096).unwrap();
    }
    let output = forebay(&["inspect", "log", data, "--records"]);
    let text = stdout(&output);
    assert_eq!(code(&output), 0, "{text}");
    assert!(text.contains("3 batches in 256 KiB; highest durable_lsn 8192"), "{text}");
    assert_eq!(text.matches("does not follow").count(), 1, "{text}");
    let output = forebay(&["inspect", "log", data, "--last", "1"]);
    assert!(stdout(&output).contains("2 earlier batches"), "{}", stdout(&output));

    // A header that does not verify is shown; the body of a batch below durable_lsn is damage.
    log.write_all_at(b"!", 2 * 4096 + 40).unwrap();
    log.write_all_at(b"!", 4096 - 1).unwrap();
    let output = forebay(&["inspect", "log", data]);
    let text = stdout(&output);
    assert!(text.contains("at offset 8192: batch header checksum"), "{text}");
    assert!(text.contains("BAD: bytes after the last record"), "{text}");
    assert_eq!(code(&output), 17, "{text}");
}
