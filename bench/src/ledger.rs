//! The ledger of a crash test: what a store has acknowledged, on a file of ours.
//!
//! ```text
//!   forebay-ledger 1 key_bytes=24 table=usertable
//!   17 1763700000000123
//!   42 1763700000000124          record, sequence number; one line for each acknowledged put
//! ```
//!
//! A put is noted after its acknowledgement, so every line is a promise of the store's. Lines leave
//! in one write at the end of each turn; this process is not the one that is killed, but a torn last
//! line is tolerated. Later runs append to the same file.
//!
//! [`verify`] reads every noted key back: its value must be whole, be the record's own, and carry a
//! sequence number no lower than the highest noted one. (A higher one is a put that was under way
//! when the store, or one of its nodes, died: its outcome was unknown, so it may be there.)

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::target::session::Session;
use crate::target::{Outcome, Request, Target, follow};
use crate::workload::{KeySpelling, LedgerPut, LedgerValueError, read_ledger_value};

const MAGIC: &str = "forebay-ledger 1";

/// What all lines of a ledger share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LedgerHeader {
    /// Length of keys.
    pub(crate) key_bytes: usize,
    /// The table.
    pub(crate) table: String,
}

/// Appends to a ledger file; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct LedgerWriter {
    path: PathBuf,
    file: Arc<Mutex<File>>,
    lines: Vec<u8>,
    written: u64,
}

impl LedgerWriter {
    /// Opens or creates the ledger at `path`; returns with it the first sequence number to use.
    pub(crate) fn open(
        path: &Path,
        header: &LedgerHeader,
    ) -> Result<(LedgerWriter, u64), BenchError> {
        let failed = |source| BenchError::File { path: path.to_owned(), source };
        // Time grows between runs, so no number is used twice on the same data, even with another
        // ledger file; and a clock set back cannot go below this file's own numbers.
        let clock = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(1, |since| since.as_micros() as u64);
        let mut first_seq = clock;
        let mut start = format!("{MAGIC} key_bytes={} table={}\n", header.key_bytes, header.table);
        if path.exists() && std::fs::metadata(path).map_err(failed)?.len() > 0 {
            let (found, puts) = read(path)?;
            if found != *header {
                return Err(BenchError::Ledger {
                    path: path.to_owned(),
                    line: 1,
                    reason: "written with another --key-bytes or --table; use a new file",
                });
            }
            // Each key has at most one unacknowledged put beyond its last acknowledged one, and
            // all keys share one sequence.
            let highest = puts.values().copied().max().unwrap_or(0);
            first_seq = clock.max(highest + puts.len() as u64 + 1);
            // Ends a torn last line.
            start = "\n".to_owned();
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        file.write_all(start.as_bytes()).map_err(failed)?;
        let writer = LedgerWriter {
            path: path.to_owned(),
            file: Arc::new(Mutex::new(file)),
            lines: Vec::new(),
            written: 0,
        };
        Ok((writer, first_seq))
    }

    /// Notes acknowledged puts.
    pub(crate) fn append(
        &mut self,
        puts: impl Iterator<Item = LedgerPut>,
    ) -> Result<(), BenchError> {
        self.lines.clear();
        for LedgerPut { record, seq } in puts {
            writeln!(self.lines, "{record} {seq}").expect("writing to memory does not fail");
            self.written += 1;
        }
        if self.lines.is_empty() {
            return Ok(());
        }
        let mut file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        file.write_all(&self.lines)
            .map_err(|source| BenchError::File { path: self.path.clone(), source })
    }

    /// Puts noted through this clone.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }
}

/// The header and each record's highest acknowledged sequence number.
pub(crate) fn read(path: &Path) -> Result<(LedgerHeader, BTreeMap<u64, u64>), BenchError> {
    let bytes =
        std::fs::read(path).map_err(|source| BenchError::File { path: path.to_owned(), source })?;
    let text = String::from_utf8_lossy(&bytes);
    let bad = |line, reason| BenchError::Ledger { path: path.to_owned(), line, reason };
    let mut lines = text.split_inclusive('\n').enumerate();
    let header = lines
        .next()
        .and_then(|(_, line)| parse_header(line.trim_end()))
        .ok_or_else(|| bad(1, "not a ledger of `run --workload ledger`"))?;
    let mut puts: BTreeMap<u64, u64> = BTreeMap::new();
    let mut torn_before = None;
    for (index, line) in lines {
        if let Some(number) = torn_before.take() {
            return Err(bad(number, "expected a record and a sequence number"));
        }
        let parsed = line
            .trim_end()
            .split_once(' ')
            .and_then(|(record, seq)| Some((record.parse().ok()?, seq.parse().ok()?)));
        match parsed {
            // Without its newline the last number may be cut short.
            Some((record, seq)) if line.ends_with('\n') => {
                let highest = puts.entry(record).or_insert(seq);
                *highest = seq.max(*highest);
            }
            // What follows a torn line is the newline of the next run.
            None if line.trim_end().is_empty() => {}
            // A cut number followed by nothing: the end of a run that was killed.
            _ if !line.ends_with('\n') => {}
            _ => torn_before = Some(index + 1),
        }
    }
    match torn_before {
        Some(number) => Err(bad(number, "expected a record and a sequence number")),
        None => Ok((header, puts)),
    }
}

fn parse_header(line: &str) -> Option<LedgerHeader> {
    let rest = line.strip_prefix(MAGIC)?.trim_start().strip_prefix("key_bytes=")?;
    let (key_bytes, table) = rest.split_once(" table=")?;
    Some(LedgerHeader { key_bytes: key_bytes.parse().ok()?, table: table.to_owned() })
}

/// What became of acknowledged puts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// Keys read back.
    pub(crate) keys: u64,
    /// Of them, those that hold a later put than the last acknowledged one.
    pub(crate) newer: u64,
    /// Not there.
    pub(crate) missing: u64,
    /// An older put than the acknowledged one.
    pub(crate) stale: u64,
    /// Not the bytes that were written.
    pub(crate) damaged: u64,
    /// The store refused to serve it.
    pub(crate) refused: u64,
    /// The first violations, for a person.
    pub(crate) examples: Vec<String>,
}

/// How many violations are told in words.
const EXAMPLES_MAX: usize = 20;
/// Reads under way at once.
const BATCH: usize = 64;
/// Between two looks for a leader.
const ELSEWHERE_PAUSE: Duration = Duration::from_millis(20);

impl Verdict {
    /// Acknowledged puts that are not there as acknowledged.
    pub(crate) fn violations(&self) -> u64 {
        self.missing + self.stale + self.damaged + self.refused
    }

    /// In one line.
    pub(crate) fn words(&self) -> String {
        let Verdict { keys, newer, missing, stale, damaged, refused, .. } = self;
        format!(
            "{keys} acknowledged keys: {newer} hold a later put, {missing} missing, {stale} stale, \
             {damaged} damaged, {refused} not served"
        )
    }

    fn judge(&mut self, record: u64, acknowledged: u64, outcome: Outcome<'_>) {
        self.keys += 1;
        let words = match outcome {
            Outcome::Value(bytes) => match read_ledger_value(record, bytes) {
                Ok(seq) if seq >= acknowledged => {
                    self.newer += u64::from(seq > acknowledged);
                    return;
                }
                Ok(seq) => {
                    self.stale += 1;
                    format!("holds {seq}, acknowledged {acknowledged}")
                }
                Err(
                    error @ (LedgerValueError::Short { .. }
                    | LedgerValueError::Checksum { .. }
                    | LedgerValueError::Record { .. }),
                ) => {
                    self.damaged += 1;
                    error.to_string()
                }
            },
            Outcome::Missing | Outcome::Done => {
                self.missing += 1;
                format!("is not there, acknowledged {acknowledged}")
            }
            Outcome::Refused(words) | Outcome::Unknown(words) => {
                self.refused += 1;
                format!("is not served: {words}")
            }
            Outcome::Elsewhere(_) => {
                self.refused += 1;
                "is not served: no replica leads".to_owned()
            }
        };
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("record {record}: {words}"));
        }
    }
}

/// Reads back every record of `puts`.
pub(crate) fn verify<T: Target>(
    target: &T,
    header: &LedgerHeader,
    puts: &BTreeMap<u64, u64>,
    timeout: Duration,
) -> Result<Verdict, BenchError> {
    let mut session = Session::connect(target, timeout)?;
    let mut keys = KeySpelling::new(header.key_bytes);
    let mut verdict = Verdict::default();
    let noted: Vec<(u64, u64)> = puts.iter().map(|(&record, &seq)| (record, seq)).collect();
    for batch in noted.chunks(BATCH) {
        let began = Instant::now();
        let mut left: Vec<u64> = (0..batch.len() as u64).collect();
        // Whom each was asked of: by the time of its answer another one's may have named the leader.
        let mut asked = vec![0; batch.len()];
        while !left.is_empty() {
            for &at in &left {
                let (record, _) = batch[at as usize];
                let key = keys.spell(record);
                asked[at as usize] = target.route(key);
                session.ask(target, Request::Get { key }, at)?;
            }
            left.clear();
            let is_late = began.elapsed() > timeout;
            session.exchange(|at, outcome| {
                let (record, seq) = batch[at as usize];
                match outcome {
                    Outcome::Elsewhere(leader) if !is_late => {
                        let key = keys.spell(record);
                        follow(target, key, asked[at as usize], leader, |_| true);
                        left.push(at);
                    }
                    outcome => verdict.judge(record, seq, outcome),
                }
            })?;
            if !left.is_empty() {
                std::thread::sleep(ELSEWHERE_PAUSE);
            }
        }
    }
    Ok(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::write_ledger_value;

    fn header() -> LedgerHeader {
        LedgerHeader { key_bytes: 24, table: "usertable".to_owned() }
    }

    #[test]
    fn a_ledger_is_read_back_over_runs_and_torn_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let (mut writer, first) = LedgerWriter::open(&path, &header()).unwrap();
        let puts = [(1, first), (2, first + 1), (1, first + 2)];
        writer.append(puts.map(|(record, seq)| LedgerPut { record, seq }).into_iter()).unwrap();
        assert_eq!(writer.written(), 3);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        write!(file, "2 99999999999999999").unwrap();
        let expected = BTreeMap::from([(1, first + 2), (2, first + 1)]);
        assert_eq!(read(&path).unwrap(), (header(), expected));

        let (_, again) = LedgerWriter::open(&path, &header()).unwrap();
        assert!(again > first + 2, "numbers grow over runs");
        let other = LedgerHeader { key_bytes: 30, ..header() };
        assert!(matches!(LedgerWriter::open(&path, &other), Err(BenchError::Ledger { .. })));
    }

    #[test]
    fn foreign_files_are_named_with_their_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        std::fs::write(&path, "hello\n").unwrap();
        assert!(matches!(read(&path), Err(BenchError::Ledger { line: 1, .. })));
        let text = format!("{MAGIC} key_bytes=24 table=t\n1 2\nx y\n3 4\n");
        std::fs::write(&path, text).unwrap();
        assert!(matches!(read(&path), Err(BenchError::Ledger { line: 3, .. })));
    }

    #[test]
    fn every_kind_of_loss_is_a_violation() {
        let mut verdict = Verdict::default();
        let value = |record, seq| {
            let mut bytes = vec![0; 40];
            write_ledger_value(record, seq, &mut bytes);
            bytes
        };
        verdict.judge(1, 10, Outcome::Value(&value(1, 10)));
        verdict.judge(1, 10, Outcome::Value(&value(1, 11)));
        assert_eq!((verdict.violations(), verdict.newer), (0, 1));
        verdict.judge(1, 10, Outcome::Value(&value(1, 9)));
        verdict.judge(1, 10, Outcome::Value(&value(2, 10)));
        verdict.judge(1, 10, Outcome::Missing);
        verdict.judge(1, 10, Outcome::Refused("Damaged"));
        assert_eq!((verdict.keys, verdict.violations()), (6, 4));
        assert_eq!(verdict.examples.len(), 4);
    }
}
