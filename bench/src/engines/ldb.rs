//! What RocksDB needs on disk for the same items, where this build has no RocksDB: its own tool `ldb`
//! loads them in one go and compacts them.
//!
//! ```text
//!   items ──"0xKEY ==> 0xVALUE" lines──► ldb load --bulk_load --compact ──► one sorted run of files
//! ```
//!
//! One run of everything is the least that RocksDB ever needs; a store that has just been written in
//! ordinary commits holds more. So a ratio to this is never too kind to the other side of it.

use std::io::{BufWriter, Read as _, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::engine::Fault;
use super::workload::{Watch, Workload, disk_bytes};

/// What it was told.
pub(crate) const SETTINGS: &str = "size only: loaded and compacted by its own tool ldb \
    (load --bulk_load --compact), no compression, Bloom filters of 10 bits";

/// Items between two words about progress.
const STRIDE: u64 = 4096;

/// Bytes on disk of all items that the workload has written when others' sizes are measured.
pub(crate) fn size(
    ldb: &Path,
    dir: &Path,
    workload: &Workload,
    watch: &mut dyn Watch,
) -> Result<f64, Fault> {
    let items = workload.items_when_full();
    watch.begin("load by ldb", items);
    let mut child = Command::new(ldb)
        .arg(format!("--db={}", dir.display()))
        .args(["--hex", "--create_if_missing", "--compression_type=no", "--bloom_bits=10"])
        .args(["load", "--disable_wal", "--bulk_load", "--compact"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", ldb.display()))?;
    let mut lines = BufWriter::new(child.stdin.take().expect("it was asked for"));
    let mut text = Vec::new();
    let mut written = Ok(());
    for index in 0..items {
        let (key, value) = workload.pair(index);
        text.clear();
        push_hex(&key, &mut text);
        text.extend_from_slice(b" ==> ");
        push_hex(&value, &mut text);
        text.push(b'\n');
        written = lines.write_all(&text);
        if written.is_err() {
            break;
        }
        if index % STRIDE == STRIDE - 1 {
            watch.step(STRIDE);
        }
    }
    let written = written.and_then(|()| lines.flush());
    drop(lines);
    let mut words = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut words)?;
    }
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("ldb failed ({status}): {}", words.trim()).into());
    }
    written?;
    Ok(disk_bytes(dir)? as f64)
}

/// As it says itself.
pub(crate) fn version(ldb: &Path) -> Result<String, Fault> {
    let output = Command::new(ldb).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().last().unwrap_or("unknown").to_owned())
}

fn push_hex(bytes: &[u8], text: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.extend_from_slice(b"0x");
    for byte in bytes {
        text.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::workload::{Counts, Row};
    use super::*;

    struct Silent;

    impl Watch for Silent {
        fn begin(&mut self, _: &'static str, _: u64) {}
        fn step(&mut self, _: u64) {}
        fn end(&mut self, _: Row, _: f64) {}
    }

    fn workload() -> Workload {
        Workload { counts: Counts::of(20_000), seed: 3, only: Vec::new() }
    }

    #[test]
    fn bytes_are_spelled_as_ldb_reads_them() {
        let mut text = Vec::new();
        push_hex(&[0, 0x5A, 0xFF], &mut text);
        assert_eq!(text, b"0x005AFF");
    }

    #[test]
    fn a_tool_that_is_absent_or_fails_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let absent = size(Path::new("/nowhere/ldb"), dir.path(), &workload(), &mut Silent);
        assert!(absent.unwrap_err().to_string().contains("/nowhere/ldb"));
        let fails = size(Path::new("/bin/false"), dir.path(), &workload(), &mut Silent);
        assert!(fails.unwrap_err().to_string().contains("ldb failed"));
    }

    #[test]
    fn the_size_is_that_of_the_items_and_little_more() {
        let ldb = Path::new("/usr/bin/ldb");
        if !ldb.is_file() {
            let _ = writeln!(std::io::stderr(), "SKIPPED: no ldb; Debian: rocksdb-tools");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let bytes = size(ldb, dir.path(), &workload(), &mut Silent).unwrap();
        let items = workload().items_when_full() as f64;
        let each = bytes / items;
        assert!((174.0..=230.0).contains(&each), "{each} bytes for each item");
        assert!(version(ldb).unwrap().starts_with(|c: char| c.is_ascii_digit()));
    }
}
