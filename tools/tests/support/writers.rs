//! Writers of a cluster's table, through the real client, each with keys of its own and a ledger of
//! what was acknowledged.
//!
//! ```text
//!   key     acknowledged last    then, with unknown outcome
//!   w0-17   217                  317, 417                    may hold 217, 317 or 417
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use forebay_core::item::{Item, Value};
use forebay_core::table::{KeySchema, KeyType};
use forebay_net::client::{Client, ClientError, Table};

/// Keys of one writer.
const KEYS: u64 = 100;
/// Writers of a load.
const WRITERS: usize = 4;

/// Creates a table of items with a string `id`.
pub async fn create(client: &Client, name: &str, partitions: u32) -> Table {
    let schema = KeySchema::partition_only("id", KeyType::S);
    client.create_table(name, schema).partitions(partitions).send().await.expect("it is created")
}

/// What a writer knows of each of its keys: the last number acknowledged, and those after it whose
/// outcome it was not told.
type Ledger = HashMap<String, (u64, Vec<u64>)>;

/// What became of a writer's writes.
#[derive(Debug)]
pub struct Written {
    ledger: Ledger,
    /// When each acknowledgement came.
    pub times: Vec<Instant>,
    /// Writes whose outcome is not known.
    pub unknown: u64,
    /// Of writes that were not done, and of reads.
    pub errors: Vec<ClientError>,
    /// The longest time between two acknowledgements, of writes and of reads if there are any.
    pub gap: Duration,
}

impl Written {
    /// Writes acknowledged later than `at`.
    pub fn after(&self, at: Instant) -> usize {
        self.times.iter().filter(|time| **time > at).count()
    }
}

fn number_of(id: &str, found: Option<&Item>) -> u64 {
    found.map_or(0, |item| match item.0.get("number") {
        Some(Value::N(number)) => number.to_u64().expect("a small number"),
        other => panic!("{id}: {other:?}"),
    })
}

fn check_key(id: &str, found: Option<&Item>, (acknowledged, unknown): &(u64, Vec<u64>)) {
    let number = number_of(id, found);
    assert!(
        number == *acknowledged || unknown.contains(&number),
        "{id}: {number} is there, {acknowledged} was acknowledged last, then {unknown:?}"
    );
}

/// Writes until told to stop; with `reads`, reads each key back at once, which must find what is
/// there by the ledger.
async fn write(table: Table, writer: usize, reads: bool, stop: Arc<AtomicBool>) -> Written {
    let mut written = Written {
        ledger: Ledger::new(),
        times: Vec::new(),
        unknown: 0,
        errors: Vec::new(),
        gap: Duration::ZERO,
    };
    let (mut number, mut last) = (0, Instant::now());
    while !stop.load(Relaxed) {
        number += 1;
        let id = format!("w{writer}-{}", number % KEYS);
        let item = Item::new().with("id", id.as_str()).with("number", number);
        let entry = written.ledger.entry(id.clone()).or_default();
        match table.put(&item).send().await {
            Ok(_) => {
                *entry = (number, Vec::new());
                written.gap = written.gap.max(last.elapsed());
                last = Instant::now();
                written.times.push(last);
            }
            Err(ClientError::Unknown { .. }) => {
                written.unknown += 1;
                entry.1.push(number);
            }
            Err(error) => written.errors.push(error),
        }
        if !reads {
            continue;
        }
        match table.get(&Item::new().with("id", id.as_str())).consistent(true).send().await {
            Ok(found) => {
                check_key(&id, found.as_ref(), entry);
                written.gap = written.gap.max(last.elapsed());
                last = Instant::now();
            }
            Err(error) => written.errors.push(error),
        }
    }
    written.gap = written.gap.max(last.elapsed());
    written
}

/// Every key of these ledgers holds what it must.
pub async fn check(table: &Table, all: &[Written]) {
    for (id, entry) in all.iter().flat_map(|written| &written.ledger) {
        let key = Item::new().with("id", id.as_str());
        let found = table.get(&key).consistent(true).send().await.expect("a leader answers");
        check_key(id, found.as_ref(), entry);
    }
}

/// Writers that go on until they are asked what became of it.
pub struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<Written>>,
}

impl Load {
    /// Four writers, the first with this number; no two writers of a table may have the same.
    pub fn begin(table: &Table, first: usize) -> Load {
        Load::begin_with(table, first, false)
    }

    /// The same, and each reads its key back, strongly, after each write.
    pub fn begin_with_reads(table: &Table, first: usize) -> Load {
        Load::begin_with(table, first, true)
    }

    fn begin_with(table: &Table, first: usize, reads: bool) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let begin = |writer| tokio::spawn(write(table.clone(), writer, reads, Arc::clone(&stop)));
        let writers = (first..first + WRITERS).map(begin).collect();
        Load { stop, writers }
    }

    /// Ends, and no write or read may have failed.
    pub async fn end(self) -> Vec<Written> {
        let all = self.end_whatever().await;
        let errors = all.iter().flat_map(|written| &written.errors).map(ClientError::to_string);
        assert_eq!(errors.collect::<Vec<_>>(), Vec::<String>::new(), "clients see no errors");
        all
    }

    /// Ends; writes may have been refused, or not have found a node.
    pub async fn end_whatever(self) -> Vec<Written> {
        self.stop.store(true, Relaxed);
        let mut all = Vec::new();
        for writer in self.writers {
            all.push(writer.await.expect("a writer does not panic"));
        }
        for error in all.iter().flat_map(|written| &written.errors) {
            let may_be = matches!(
                error,
                ClientError::Refused { .. }
                    | ClientError::Timeout { .. }
                    | ClientError::Connect { .. }
            );
            assert!(may_be, "{error}");
        }
        let unknown: u64 = all.iter().map(|written| written.unknown).sum();
        let acknowledged: usize = all.iter().map(|written| written.times.len()).sum();
        let gap = longest_gap(&all);
        eprintln!("{acknowledged} acknowledged, {unknown} unknown, longest gap {gap:?}");
        all
    }
}

/// The longest time that one of the writers had no success.
pub fn longest_gap(all: &[Written]) -> Duration {
    all.iter().map(|written| written.gap).max().unwrap_or_default()
}
