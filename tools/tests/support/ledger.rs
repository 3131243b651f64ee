//! A ledger of acknowledged writes: what a node may hold after it was killed.
//!
//! ```text
//!   key      acknowledged      issued after it, no answer yet
//!   w0-17    put 41            delete 55, put 60              → 41, nothing, or 60; all of it
//!   w0-18    delete 12         —                              → nothing
//!   c0-3     7                 7 → 8                          → 7 or 8, never less
//! ```
//!
//! A writer has keys of its own, so the order in which it issues writes is the order in which the
//! node takes them. Counters are raised by conditional updates, one at a time each. What is found
//! after a restart is the truth from then on: a write that was not there must not come back.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use forebay_core::expression::{
    Comparison, Condition, ConditionExpression, Operand, Update, UpdateExpression,
};
use forebay_core::item::{Item, Value};
use forebay_core::key::partition_hash;
use forebay_core::message::{ErrorCode, ReturnValues, UpdateRequest};
use forebay_core::table::TableDescription;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use super::client::{self, Answer, Client};

/// Requests in flight on one connection.
const DEPTH: usize = 32;
/// The same while reading everything back.
const READ_DEPTH: usize = 64;
/// Counters of one writer.
const COUNTERS: usize = 16;

/// A write to a key: a delete, unless it is a put.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Op {
    sequence: u64,
    put: bool,
}

#[derive(Debug)]
struct Key {
    name: String,
    seed: u64,
    acknowledged: Op,
    /// Issued after it, in order.
    issued: Vec<Op>,
}

#[derive(Debug)]
struct Counter {
    name: String,
    acknowledged: u64,
    in_flight: bool,
}

/// What a request was about.
#[derive(Clone, Copy)]
enum Asked {
    Key(usize, Op),
    Counter(usize),
}

/// Figures of all writers.
#[derive(Debug, Default)]
pub struct Tally {
    pub acknowledged: AtomicU64,
    pub refused: AtomicU64,
    pub verified: AtomicU64,
}

/// One connection's writes, all to one shard.
pub struct Writer {
    table: u64,
    shard: usize,
    keys: Vec<Key>,
    counters: Vec<Counter>,
    sequence: u64,
    random: SmallRng,
}

impl Writer {
    /// Writer `number` of the table, with `keys` keys on one of the node's shards.
    pub fn new(number: usize, table: &TableDescription, shards: usize, keys: usize) -> Writer {
        let shard = number % shards;
        let here = |name: &String| {
            let hash = partition_hash(&table.hash_seed, name.as_bytes());
            usize::from(table.partition_of(hash).shard.0) == shard
        };
        let names = |prefix: char| (0..).map(move |index| format!("{prefix}{number}-{index}"));
        let key = |(name, index): (String, u64)| Key {
            name,
            seed: (number as u64) << 32 | index,
            acknowledged: Op { sequence: 0, put: false },
            issued: Vec::new(),
        };
        let counter = |name| Counter { name, acknowledged: 0, in_flight: false };
        Writer {
            table: table.id.0,
            shard,
            keys: names('w').filter(here).zip(0..).map(key).take(keys).collect(),
            counters: names('c').filter(here).map(counter).take(COUNTERS).collect(),
            sequence: 0,
            random: SmallRng::seed_from_u64(number as u64),
        }
    }

    fn connect(&self, at: SocketAddr, ports: &[u16]) -> io::Result<Client> {
        Client::connect(SocketAddr::new(at.ip(), ports[self.shard]))
    }

    /// Writes without end: until the node is gone.
    pub fn write(&mut self, at: SocketAddr, ports: &[u16], tally: &Tally) {
        let Ok(mut client) = self.connect(at, ports) else { return };
        let mut window = HashMap::new();
        loop {
            while window.len() < DEPTH {
                self.issue(&mut client, &mut window);
            }
            let answered = client.flush().and_then(|()| self.answers(&mut client, &mut window));
            let wait = match answered {
                Ok(Answered { acknowledged, refused, wait }) => {
                    tally.acknowledged.fetch_add(acknowledged, Relaxed);
                    tally.refused.fetch_add(refused, Relaxed);
                    wait
                }
                Err(error) => {
                    let kind = error.kind();
                    let stuck = [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&kind);
                    assert!(!stuck && kind != ErrorKind::InvalidData, "{error}");
                    break;
                }
            };
            std::thread::sleep(wait);
        }
        for counter in &mut self.counters {
            counter.in_flight = false;
        }
    }

    fn issue(&mut self, client: &mut Client, window: &mut HashMap<u64, Asked>) {
        self.sequence += 1;
        let index = self.random.random_range(0..self.counters.len());
        let counter = &mut self.counters[index];
        if self.random.random_ratio(1, 10) && !counter.in_flight {
            counter.in_flight = true;
            let key = client::key(&counter.name);
            let request = raise(self.table, &key, counter.acknowledged);
            window.insert(client.queue(&request), Asked::Counter(index));
            return;
        }
        let index = self.random.random_range(0..self.keys.len());
        let op = Op { sequence: self.sequence, put: !self.random.random_ratio(1, 6) };
        let key = &mut self.keys[index];
        key.issued.push(op);
        let correlation = if op.put {
            let item = key.item(op.sequence).to_bytes().unwrap();
            client.queue(&client::put(self.table, &item))
        } else {
            client.queue(&client::delete(self.table, &client::key(&key.name)))
        };
        window.insert(correlation, Asked::Key(index, op));
    }

    /// Takes one answer, and those that came with it.
    fn answers(
        &mut self,
        client: &mut Client,
        window: &mut HashMap<u64, Asked>,
    ) -> io::Result<Answered> {
        let mut sum = Answered::default();
        let mut next = Some(client.receive()?);
        while let Some((correlation, answer)) = next {
            let asked = window.remove(&correlation).expect("an answer to a request in flight");
            match answer {
                Answer::Written(item) => {
                    sum.acknowledged += 1;
                    self.acknowledged(asked, item.as_ref());
                }
                Answer::Refused { code: ErrorCode::Overloaded, retry_after, .. } => {
                    sum.refused += 1;
                    sum.wait = sum.wait.max(retry_after);
                    self.had_no_effect(asked);
                }
                other => panic!("a write came to {other:?}"),
            }
            next = client.take()?;
        }
        Ok(sum)
    }

    fn acknowledged(&mut self, asked: Asked, item: Option<&Item>) {
        match asked {
            Asked::Key(index, op) => {
                let key = &mut self.keys[index];
                key.acknowledged = op;
                key.issued.retain(|later| later.sequence > op.sequence);
            }
            Asked::Counter(index) => {
                let counter = &mut self.counters[index];
                counter.acknowledged += 1;
                counter.in_flight = false;
                let found = item.and_then(|item| number(item, "n"));
                assert_eq!(found, Some(counter.acknowledged), "{}", counter.name);
            }
        }
    }

    fn had_no_effect(&mut self, asked: Asked) {
        match asked {
            Asked::Key(index, op) => self.keys[index].issued.retain(|other| *other != op),
            Asked::Counter(index) => self.counters[index].in_flight = false,
        }
    }

    /// Reads everything back and compares; what is found counts as acknowledged from here on.
    pub fn verify(&mut self, at: SocketAddr, ports: &[u16], tally: &Tally) {
        let mut client = self.connect(at, ports).unwrap();
        let names: Vec<String> = self.keys.iter().map(|key| key.name.clone()).collect();
        let counters = self.counters.iter().map(|counter| counter.name.clone());
        let names: Vec<String> = names.into_iter().chain(counters).collect();
        let (mut asked, mut answered) = (0, 0);
        while answered < names.len() {
            while asked < names.len() && asked - answered < READ_DEPTH {
                let expected = client.queue(&client::get(self.table, &client::key(&names[asked])));
                assert_eq!(expected, asked as u64 + 1);
                asked += 1;
            }
            client.flush().unwrap();
            let mut next = Some(client.receive().unwrap());
            while let Some((correlation, answer)) = next {
                answered += 1;
                let index = correlation as usize - 1;
                match index.checked_sub(self.keys.len()) {
                    None => self.keys[index].verify(answer.got()),
                    Some(index) => self.counters[index].verify(answer.got()),
                }
                next = client.take().unwrap();
            }
        }
        tally.verified.fetch_add(names.len() as u64, Relaxed);
    }
}

#[derive(Default)]
struct Answered {
    acknowledged: u64,
    refused: u64,
    wait: Duration,
}

impl Key {
    /// The item of a put: bytes that follow from key and sequence number, so that no part of
    /// another item can pass for it. Most are small, some need overflow pages.
    fn item(&self, sequence: u64) -> Item {
        let mut random = SmallRng::seed_from_u64(self.seed ^ sequence.rotate_left(24));
        let bytes = match random.random_range(0..100) {
            0..60 => random.random_range(0..400),
            60..90 => random.random_range(400..4_000),
            90..99 => random.random_range(4_000..20_000),
            _ => random.random_range(20_000..120_000),
        };
        let mut body = vec![0; bytes];
        random.fill_bytes(&mut body);
        Item::new().with("k", self.name.as_str()).with("s", sequence).with("body", body)
    }

    fn verify(&mut self, found: Option<Item>) {
        let found = match found {
            Some(item) => {
                let sequence = number(&item, "s").unwrap_or_else(|| panic!("{item:?}"));
                assert!(item == self.item(sequence), "{}: put {sequence} is not whole", self.name);
                Op { sequence, put: true }
            }
            None => {
                let mut allowed = self.issued.iter().rev().chain([&self.acknowledged]);
                *allowed
                    .find(|op| !op.put)
                    .unwrap_or_else(|| panic!("an acknowledged put is gone: {self:?}"))
            }
        };
        let allowed = found == self.acknowledged || self.issued.contains(&found);
        assert!(allowed, "{found:?} is neither acknowledged nor later: {self:?}");
        self.acknowledged = found;
        self.issued.clear();
    }
}

impl Counter {
    fn verify(&mut self, found: Option<Item>) {
        let found = found.map_or(0, |item| number(&item, "n").expect("a counter"));
        let allowed = self.acknowledged..=self.acknowledged + 1;
        assert!(allowed.contains(&found), "counter {} went to {found}: {self:?}", self.name);
        self.acknowledged = found;
    }
}

fn number(item: &Item, name: &str) -> Option<u64> {
    match item.0.get(name) {
        Some(Value::N(number)) => number.to_u64(),
        _ => None,
    }
}

/// Raises the counter from `from` by one, if that is what it is.
fn raise(table: u64, key: &[u8], from: u64) -> UpdateRequest<'_> {
    let (update, condition) = raise_expressions(from);
    UpdateRequest {
        table,
        epoch: 0,
        key,
        update,
        condition: Some(condition),
        return_values: ReturnValues::UpdatedNew,
        return_old_on_failure: false,
    }
}

fn raise_expressions(from: u64) -> (Update, Condition) {
    let condition = match from {
        0 => ConditionExpression::not_exists("n"),
        _ => ConditionExpression::compare(
            Operand::path("n"),
            Comparison::Equal,
            Operand::value(from),
        ),
    };
    (UpdateExpression::new().add("n", 1).compile().unwrap(), condition.compile().unwrap())
}

/// Lets every writer write for `time`, and on until `least` writes were acknowledged; then calls
/// `end`, which ends the node. Returns the time until the first acknowledgement.
///
/// # Panics
/// If that takes longer than `patience`: the node refuses what it should take.
pub fn write_until(
    writers: &mut [Writer],
    (at, ports): (SocketAddr, &[u16]),
    tally: &Tally,
    (time, least, patience): (Duration, u64, Duration),
    end: impl FnOnce(),
) -> Duration {
    let before = tally.acknowledged.load(Relaxed);
    let begun = Instant::now();
    let mut first = None;
    std::thread::scope(|scope| {
        for writer in &mut *writers {
            scope.spawn(move || writer.write(at, ports, tally));
        }
        let mut late = false;
        while !late {
            let acknowledged = tally.acknowledged.load(Relaxed) - before;
            if acknowledged > 0 {
                first.get_or_insert_with(|| begun.elapsed());
            }
            if begun.elapsed() >= time && acknowledged >= least {
                break;
            }
            late = begun.elapsed() >= patience;
            std::thread::sleep(Duration::from_millis(1));
        }
        // Before the panic: the writers end when the node does.
        end();
        let refused = tally.refused.load(Relaxed);
        assert!(!late, "{before} + less than {least} acknowledged, {refused} refused so far");
    });
    first.unwrap_or_else(|| begun.elapsed())
}
