//! The open loop of Puts, and the ledger of what was acknowledged.
//!
//! ```text
//!   key      last acknowledged    open
//!   k5       17                                     may hold 17
//!   k9       4                    5                 retired: may hold 4 or 5, never written again
//! ```
//!
//! *Invariants*: a key has at most one write under way; numbers of a key only grow; a key with an
//! outcome that is not known gets no further write.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use forebay_core::item::{Item, Value};
use forebay_net::client::{ClientError, Table};
use serde::Serialize;
use tokio::task::{JoinHandle, JoinSet};

/// Reads of a verification under way at a time.
const READS_AT_ONCE: usize = 64;
/// How long a verification waits for an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Violations shown.
const EXAMPLES_MAX: usize = 10;
/// How often the schedule looks at the clock; what is due by then begins together, and counts from
/// then.
const TICK: Duration = Duration::from_micros(500);

/// What is known of a key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) id: String,
    /// The last number acknowledged; 0 before the first.
    pub(super) acknowledged: u64,
    /// The number whose outcome is not known.
    pub(super) open: Option<u64>,
}

impl Key {
    /// Whether it may hold `number` (0: nothing).
    pub(super) fn allows(&self, number: u64) -> bool {
        number == self.acknowledged || self.open == Some(number)
    }
}

/// What one trial's load came to.
#[derive(Debug, Default)]
struct Counts {
    /// Since the load's first beginning.
    successes: Vec<u64>,
    asked: u64,
    unknown: u64,
    refused: u64,
    /// All keys had a write under way.
    not_asked: u64,
    first_refusal: Option<String>,
}

#[derive(Debug)]
struct State {
    keys: Vec<Key>,
    free: VecDeque<usize>,
    retired: Vec<Key>,
    /// How many keys there have ever been.
    named: u64,
    counts: Counts,
}

#[derive(Debug)]
struct Shared {
    began: Instant,
    value: String,
    state: Mutex<State>,
    /// When the latest success was; 0 before the first.
    last_success: AtomicU64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nanos_at(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_nanos() as u64
    }

    async fn put(self: Arc<Self>, table: Table, key: usize) {
        let (item, number) = {
            let state = self.state();
            let Key { id, acknowledged, .. } = &state.keys[key];
            let number = acknowledged + 1;
            let item = Item::new().with("id", id.as_str()).with("number", number);
            (item.with("value", self.value.as_str()), number)
        };
        let answer = table.put(&item).send().await;
        let now = self.nanos_at(Instant::now());
        let mut state = self.state();
        match answer {
            Ok(_) => {
                state.keys[key].acknowledged = number;
                state.counts.successes.push(now);
                self.last_success.fetch_max(now, Relaxed);
            }
            Err(ClientError::Unknown { .. }) => {
                state.counts.unknown += 1;
                state.keys[key].open = Some(number);
                state.named += 1;
                let fresh = fresh(state.named);
                let ended = std::mem::replace(&mut state.keys[key], fresh);
                state.retired.push(ended);
            }
            Err(error) => {
                // Nothing was written.
                state.counts.refused += 1;
                state.counts.first_refusal.get_or_insert_with(|| error.to_string());
            }
        }
        state.free.push_back(key);
    }
}

fn fresh(number: u64) -> Key {
    Key { id: format!("k{number}"), acknowledged: 0, open: None }
}

/// See the module's docs.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
}

/// A load under way.
#[derive(Debug)]
pub(crate) struct Running {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    schedule: JoinHandle<JoinSet<()>>,
}

/// A load that has ended: nothing of it is under way.
#[derive(Debug)]
pub(crate) struct Log {
    began: Instant,
    pub(crate) ended_at: Instant,
    pub(crate) successes: Vec<u64>,
    pub(crate) asked: u64,
    pub(crate) unknown: u64,
    pub(crate) refused: u64,
    pub(crate) not_asked: u64,
    pub(crate) first_refusal: Option<String>,
}

impl Log {
    /// In the unit of the successes.
    pub(crate) fn nanos_at(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_nanos() as u64
    }
}

impl Load {
    /// On so many keys, with values of so many bytes.
    pub(crate) fn new(keys: u32, value_bytes: u32) -> Load {
        let count = keys as usize;
        let state = State {
            keys: (1..=count as u64).map(fresh).collect(),
            free: (0..count).collect(),
            retired: Vec::new(),
            named: count as u64,
            counts: Counts::default(),
        };
        let shared = Shared {
            began: Instant::now(),
            value: "v".repeat(value_bytes as usize),
            state: Mutex::new(state),
            last_success: AtomicU64::new(0),
        };
        Load { shared: Arc::new(shared) }
    }

    /// Begins to write, `rate` times a second.
    pub(crate) fn begin(&self, table: &Table, rate: u64) -> Running {
        let (shared, table) = (self.shared.clone(), table.clone());
        let stop = Arc::new(AtomicBool::new(false));
        shared.state().counts = Counts::default();
        let schedule = {
            let (shared, stop) = (shared.clone(), stop.clone());
            async move {
                let (began, mut begun, mut under_way) = (Instant::now(), 0u64, JoinSet::new());
                while !stop.load(Relaxed) {
                    let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
                    for _ in begun..due {
                        let key = {
                            let mut state = shared.state();
                            let key = state.free.pop_front();
                            match key {
                                Some(_) => state.counts.asked += 1,
                                None => state.counts.not_asked += 1,
                            }
                            key
                        };
                        if let Some(key) = key {
                            under_way.spawn(shared.clone().put(table.clone(), key));
                        }
                    }
                    begun = due;
                    while under_way.try_join_next().is_some() {}
                    tokio::time::sleep(TICK).await;
                }
                under_way
            }
        };
        Running { shared, stop, schedule: tokio::spawn(schedule) }
    }

    /// Reads every key, and says what is not as it must be. Nothing may be under way.
    pub(crate) async fn verify(&self, table: &Table) -> Verdict {
        let (keys, written): (Vec<Key>, Vec<Key>) = {
            let state = self.shared.state();
            (state.keys.clone(), state.retired.clone())
        };
        let all: Vec<Key> = keys.into_iter().chain(written).collect();
        let (mut verdict, mut reads) = (Verdict::default(), JoinSet::new());
        for key in all {
            while reads.len() >= READS_AT_ONCE {
                verdict.note(reads.join_next().await);
            }
            let table = table.clone();
            reads.spawn(async move {
                let item = Item::new().with("id", key.id.as_str());
                let found = table.get(&item).consistent(true).timeout(READ_TIMEOUT).send().await;
                (key, found)
            });
        }
        while !reads.is_empty() {
            verdict.note(reads.join_next().await);
        }
        verdict
    }
}

impl Running {
    /// Waits for a success later than `at`; whether there was one in time.
    pub(crate) async fn until_success_after(&self, at: Instant, patience: Duration) -> bool {
        let (from, deadline) = (self.shared.nanos_at(at), Instant::now() + patience);
        while self.shared.last_success.load(Relaxed) <= from {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        true
    }

    /// Begins no more writes, and waits for those under way.
    pub(crate) async fn end(self) -> Log {
        self.stop.store(true, Relaxed);
        let ended_at = Instant::now();
        let under_way = self.schedule.await.expect("the schedule does not panic");
        under_way.join_all().await;
        let Counts { successes, asked, unknown, refused, not_asked, first_refusal } =
            std::mem::take(&mut self.shared.state().counts);
        let began = self.shared.began;
        Log { began, ended_at, successes, asked, unknown, refused, not_asked, first_refusal }
    }
}

/// What a verification found.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Verdict {
    /// Keys with an acknowledged write that were read.
    pub(crate) keys: u64,
    /// Keys whose open write has taken effect.
    pub(crate) open_done: u64,
    /// An acknowledged write is gone.
    pub(crate) lost: u64,
    /// Something is there that was never written so.
    pub(crate) wrong: u64,
    /// Not readable.
    pub(crate) not_served: u64,
    pub(crate) examples: Vec<String>,
}

type Read = (Key, Result<Option<Item>, ClientError>);

impl Verdict {
    fn note(&mut self, read: Option<Result<Read, tokio::task::JoinError>>) {
        let (key, found) = read.expect("one is under way").expect("a read does not panic");
        self.judge(&key, found.map_err(|error| error.to_string()));
    }

    pub(super) fn judge(&mut self, key: &Key, found: Result<Option<Item>, String>) {
        self.keys += u64::from(key.acknowledged > 0);
        let number = match &found {
            Err(words) => {
                self.not_served += 1;
                return self.example(format!("{}: not served: {words}", key.id));
            }
            Ok(None) => Some(0),
            Ok(Some(item)) => match item.0.get("number") {
                Some(Value::N(number)) => number.to_u64(),
                _ => None,
            },
        };
        let open = key.open.map_or_else(String::new, |open| format!(", {open} is open"));
        let words = |what: &str| {
            format!("{}: {what}, {} was acknowledged last{open}", key.id, key.acknowledged)
        };
        match number {
            Some(number) if key.allows(number) => {
                self.open_done += u64::from(key.open == Some(number));
            }
            Some(number) if number < key.acknowledged => {
                self.lost += 1;
                self.example(words(&format!("holds {number}")));
            }
            number => {
                self.wrong += 1;
                self.example(words(&format!("holds {number:?}")));
            }
        }
    }

    fn example(&mut self, words: String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(words);
        }
    }

    /// Adds what another one found; counts of keys are of the last.
    pub(crate) fn take(&mut self, other: &Verdict) {
        (self.keys, self.open_done) = (other.keys, other.open_done);
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.not_served += other.not_served;
        other.examples.iter().for_each(|words| self.example(words.clone()));
    }

    /// Keys that do not hold what they must.
    pub(crate) fn violations(&self) -> u64 {
        self.lost + self.wrong + self.not_served
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        format!("{} keys verified, {} lost", self.keys, self.violations())
    }
}
