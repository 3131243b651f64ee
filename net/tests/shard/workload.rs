//! Random work against a model, phase after phase, with a power cut, a kill or a clean stop in
//! between. A failure prints the seed; the seed repeats it.
//!
//! The model keeps, for each key, when each write was asked for and when its reply was seen. What a
//! read (or a failed condition, or the first read after a restart) finds must have been written by
//! somebody who asked before the read ended, and must not have been overwritten for certain: by a
//! write that was asked for after that one was acknowledged, and acknowledged before the read was
//! asked for. Values are unique, so no value is swapped for another one twice, and what a refused
//! write would have left is never seen.

use std::collections::{HashMap, HashSet};

use forebay_core::expression::{Comparison, ConditionExpression, Operand};
use forebay_core::item::{Item, Value};
use forebay_core::message::{ErrorCode, PutRequest};
use forebay_core::time::Nanos;
use forebay_storage::sim_disk::SimRandom;

use crate::requests::*;
use crate::shell::{Client, Reply, Sim, SimConfig};

const KEYS: usize = 40;
const CLIENTS: usize = 6;

/// A write's effect: the value it leaves, or none.
type State = Option<i64>;

#[derive(Clone, Copy, Debug)]
enum Work {
    Read,
    /// Leaves this state.
    Write(State),
    /// From this state, to that one.
    Swap(State, i64),
}

#[derive(Debug)]
struct Asked {
    key: usize,
    work: Work,
    at: Nanos,
}

/// A write that took or may take effect.
#[derive(Debug)]
struct Write {
    id: u64,
    state: State,
    asked: Nanos,
    /// The end of time while it is open.
    acknowledged: Nanos,
}

/// What was done to one key since the last restart.
#[derive(Debug)]
struct History {
    writes: Vec<Write>,
    swapped: HashSet<i64>,
    seen: HashSet<i64>,
}

const OPEN: Nanos = Nanos(u64::MAX);
/// After everything that was acknowledged.
const LATER: Nanos = Nanos(u64::MAX - 1);

impl History {
    fn at(state: State, now: Nanos) -> History {
        let first = Write { id: 0, state, asked: Nanos(0), acknowledged: now };
        History { writes: vec![first], swapped: HashSet::new(), seen: HashSet::new() }
    }

    fn saw(&mut self, state: State, asked: Nanos, now: Nanos) {
        self.seen.extend(state);
        let overwritten = |write: &Write| {
            let mut later = self.writes.iter();
            later.any(|other| other.asked > write.acknowledged && other.acknowledged < asked)
        };
        let mut writers = self.writes.iter().filter(|write| write.state == state);
        let found = writers.any(|write| write.asked <= now && !overwritten(write));
        assert!(found, "{state:?} is not what {self:?} allows");
    }

    fn acknowledged(&mut self, id: u64, now: Nanos) {
        let write = self.writes.iter_mut().find(|write| write.id == id).expect("open");
        write.acknowledged = now;
    }

    /// It was refused: nobody may have seen it.
    fn refused(&mut self, id: u64) {
        let at = self.writes.iter().position(|write| write.id == id).expect("open");
        let write = self.writes.swap_remove(at);
        assert!(write.state.is_none_or(|value| !self.seen.contains(&value)), "{write:?} was seen");
    }
}

struct Model {
    keys: Vec<History>,
    next_value: i64,
}

fn pk(key: usize) -> String {
    format!("key-{key}")
}

fn padded(key: usize, value: i64) -> Item {
    // From a few bytes to overflow extents.
    let padding = [0, 10, 300, 2_000, 9_000][(value % 5) as usize];
    item(&pk(key), value).with("pad", vec![value as u8; padding])
}

fn state_of(key: usize, found: &Option<Item>) -> State {
    let item = found.as_ref()?;
    let Value::N(value) = &item.0["value"] else { panic!("a number") };
    let value = value.to_i64().expect("small");
    assert_eq!(*item, padded(key, value), "whole");
    Some(value)
}

fn is(state: State) -> forebay_core::expression::Condition {
    match state {
        None => absent(),
        Some(value) => ConditionExpression::compare(
            Operand::path("value"),
            Comparison::Equal,
            Operand::value(value),
        )
        .compile()
        .expect("valid"),
    }
}

fn run(seed: u64, config: SimConfig) {
    let mut random = SimRandom::new(seed);
    let mut sim = Sim::new(config, seed);
    let table = sim.create_table("table", None, 3).id.0;
    let keys = (0..KEYS).map(|_| History::at(None, sim.now)).collect();
    let mut model = Model { keys, next_value: 1 };
    for phase in 0..6 {
        let clients: Vec<Client> = (0..CLIENTS).map(|_| sim.connect(0)).collect();
        let mut asked: HashMap<u64, (Client, Asked)> = HashMap::new();
        let rounds = 50 + random.below(300);
        for _ in 0..rounds {
            for client in &clients {
                while random.chance(2, 3) && asked.len() < 200 {
                    let (id, request) = ask(&mut sim, *client, table, &mut model, &mut random);
                    asked.insert(id, (*client, request));
                }
            }
            sim.step();
            collect(&mut sim, &mut asked, &mut model);
        }
        let ending = random.below(4);
        if ending == 0 {
            // Everything is answered.
            for _ in 0..20_000 {
                if asked.is_empty() {
                    break;
                }
                sim.step();
                collect(&mut sim, &mut asked, &mut model);
            }
            assert!(asked.is_empty(), "phase {phase}: {asked:?}");
        }
        if ending <= 1 {
            sim.stop();
            sim.steps(2);
            collect(&mut sim, &mut asked, &mut model);
        }
        let kept = sim.hosts[0].shard.store().stats().durable_lsn;
        sim = if random.chance(1, 2) { sim.after_power_cut() } else { sim.after_kill() };
        assert!(sim.hosts[0].shard.store().stats().next_lsn >= kept, "phase {phase}");
        settle(&mut sim, table, &mut model);
    }
}

fn ask(
    sim: &mut Sim,
    client: Client,
    table: u64,
    model: &mut Model,
    random: &mut SimRandom,
) -> (u64, Asked) {
    let key = random.below(KEYS);
    let encoded = crate::requests::key(&pk(key));
    let (id, work) = match random.below(10) {
        0..3 => (sim.ask(client, &get(table, &encoded)), Work::Read),
        3 => (sim.ask(client, &delete(table, &encoded)), Work::Write(None)),
        4..7 => {
            let value = model.next_value;
            model.next_value += 1;
            let item = bytes(&padded(key, value));
            (sim.ask(client, &put(table, &item)), Work::Write(Some(value)))
        }
        _ => {
            let value = model.next_value;
            model.next_value += 1;
            let item = bytes(&padded(key, value));
            // Often right, often not.
            let history = &model.keys[key];
            let from = history.writes[random.below(history.writes.len())].state;
            let request = PutRequest {
                condition: Some(is(from)),
                return_old_on_failure: true,
                ..put(table, &item)
            };
            (sim.ask(client, &request), Work::Swap(from, value))
        }
    };
    let history = &mut model.keys[key];
    let state = match work {
        Work::Read => None,
        Work::Write(state) => Some(state),
        Work::Swap(_, value) => Some(Some(value)),
    };
    let at = sim.now;
    if let Some(state) = state {
        history.writes.push(Write { id, state, asked: at, acknowledged: OPEN });
    }
    (id, Asked { key, work, at })
}

/// Looks at every reply that has come.
fn collect(sim: &mut Sim, asked: &mut HashMap<u64, (Client, Asked)>, model: &mut Model) {
    let mut ready: Vec<u64> = asked
        .iter()
        .filter(|(id, (client, _))| sim.peer(*client).replies.contains_key(id))
        .map(|(id, _)| *id)
        .collect();
    ready.sort_unstable();
    for id in ready {
        let (client, Asked { key, work, at }) = asked.remove(&id).expect("listed");
        let reply = sim.reply(client, id).expect("listed");
        let history = &mut model.keys[key];
        match (work, reply) {
            (Work::Read, Reply::Item(found)) => history.saw(state_of(key, &found), at, sim.now),
            (Work::Write(_), Reply::Written(None)) => history.acknowledged(id, sim.now),
            (Work::Swap(from, _), Reply::Written(None)) => {
                history.acknowledged(id, sim.now);
                let first = from.is_none_or(|value| history.swapped.insert(value));
                assert!(first, "key {key}: {from:?} was swapped twice");
            }
            (Work::Swap(from, _), Reply::Error(error))
                if error.code == ErrorCode::ConditionFailed =>
            {
                let state = state_of(key, &error.item);
                assert_ne!(state, from, "the condition held");
                history.saw(state, at, sim.now);
                history.refused(id);
            }
            (Work::Read, Reply::Error(error)) if error.code == ErrorCode::ShuttingDown => {}
            (_, Reply::Error(error)) if error.code == ErrorCode::ShuttingDown => {
                history.refused(id);
            }
            (work, reply) => panic!("{work:?} got {reply:?}"),
        }
    }
}

/// After a restart: each key has one of the states that may be, and that one is current.
fn settle(sim: &mut Sim, table: u64, model: &mut Model) {
    let client = sim.connect(0);
    for (key, history) in model.keys.iter_mut().enumerate() {
        let found = sim.call(client, &get(table, &crate::requests::key(&pk(key)))).item();
        let state = state_of(key, &found);
        history.saw(state, LATER, LATER);
        *history = History::at(state, sim.now);
    }
}

/// `FOREBAY_SEEDS=10000` goes on for as long as one likes.
fn repeated(first: u64, config: SimConfig) {
    let count = std::env::var("FOREBAY_SEEDS").ok().and_then(|text| text.parse().ok());
    for seed in first..first + count.unwrap_or(20) {
        println!("seed {seed}");
        run(seed, config);
    }
}

#[test]
fn acknowledged_writes_are_seen_and_survive() {
    repeated(1_000, SimConfig::SMALL);
}

#[test]
fn the_same_with_little_memory_and_checkpoints_all_the_time() {
    let config = SimConfig {
        generation_bytes: 512 << 10,
        cache_bytes: 400 << 10,
        checkpoint_interval_nanos: Nanos::PER_MILLI,
        ..SimConfig::SMALL
    };
    repeated(1_000_000, config);
}
