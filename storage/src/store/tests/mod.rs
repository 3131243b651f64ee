//! The whole store over the simulated disk, compared with a model.
//!
//! ```text
//!   Rig ── put, delete, create, drop ──► Store ── DiskOp ──► SimDisk (any order, any crash)
//!    └──── the same ──► Model: what is chosen, and what is proposed, in log order
//! ```
//!
//! The model keeps the chosen contents and the queue of proposals behind them. Because all groups
//! of a shard share one log, what a crash leaves is the chosen contents plus a prefix of that
//! queue, whatever the groups.

mod carry;
mod crash;
mod damage;
mod failures;
mod fallback;
mod full;
mod groups;
mod member;
mod model;
mod pacing;
mod repair;
mod room;
mod scrub;
mod snapshot;
mod space;
mod three;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use forebay_core::ids::{GroupId, Lsn, ShardId, Slot};
use forebay_core::time::Nanos;

use super::*;
use crate::block::{BLOCK_BYTES, BlockBuf, DiskDone, DiskOp, ShardFile};
use crate::log::LogConfig;
use crate::sim_disk::{SimDisk, SimRandom};

const NODE: u128 = 0xfeed;

/// Carries out one operation after the other on a simulated disk.
struct Blocking<'a>(&'a mut SimDisk);

impl BlockingDisk for Blocking<'_> {
    fn carry_out(&mut self, op: DiskOp) -> DiskDone {
        self.0.submit(op);
        let op = self.0.in_flight().last().expect("just submitted");
        self.0.complete(op).expect("in flight")
    }
}

/// So little of everything that log, memory and cache run out all the time.
fn tiny() -> StoreConfig {
    StoreConfig {
        log: LogConfig {
            shard: ShardId(3),
            log_id: 0x1122_3344_5566_7788,
            segment_bytes: 96 << 10,
            segments: 4,
            record_bytes_max: 40 << 10,
            reserve_bytes: 16 << 10,
            batch_bytes_max: 16 << 10,
            in_flight_max: 3,
        },
        overlay_generation_bytes: 128 << 10,
        cache_bytes: crate::cache::BUDGET_BYTES_MIN,
        checkpoint_interval_nanos: Nanos::PER_SECOND,
        overlay_fill_percent: 50,
        log_fill_percent: 50,
        checkpoints_off: false,
        merge_slice_micros: 200,
        marker_nanos: 5 * Nanos::PER_MILLI,
    }
}

/// Cheap to open: for the tests that open thousands of images.
fn smallest() -> StoreConfig {
    let mut config = tiny();
    config.log.segment_bytes = 32 << 10;
    config.log.segments = 3;
    config.log.record_bytes_max = 12 << 10;
    config.log.reserve_bytes = 8 << 10;
    config.log.batch_bytes_max = 8 << 10;
    config.overlay_generation_bytes = 64 << 10;
    config
}

fn device(config: &StoreConfig) -> SimDisk {
    SimDisk::new(config.log.capacity_bytes(), 2 * BLOCK_BYTES as u64)
}

fn buffers(config: &StoreConfig) -> Vec<BlockBuf> {
    let blocks = config.log.batch_bytes_max as usize / BLOCK_BYTES;
    (0..config.log.buffers_wanted()).map(|_| BlockBuf::zeroed(blocks)).collect()
}

fn open_on(config: &StoreConfig, disk: &mut SimDisk, now: Nanos) -> Result<Opened, OpenError> {
    open(*config, NODE, buffers(config), &mut Blocking(disk), now, &mut |_| {})
}

/// A key that its number determines: some share their hash, some are as long as keys get.
fn key(number: usize) -> Vec<u8> {
    let hash = SimRandom::new(number as u64 / 3).bits();
    let bytes = match number % 11 {
        0 => 3072,
        1 => 700,
        n => 2 + n,
    };
    let mut key = hash.to_be_bytes().to_vec();
    key.extend_from_slice(&(bytes as u16).to_be_bytes());
    key.extend((0..bytes).map(|i| (number >> (8 * (i % 2))) as u8));
    key
}

/// An item that its number determines.
fn item(number: u64, bytes: usize) -> Vec<u8> {
    let mut random = SimRandom::new(number);
    let mut item = Vec::with_capacity(bytes + 8);
    while item.len() < bytes {
        item.extend_from_slice(&random.bits().to_le_bytes());
    }
    item.truncate(bytes);
    item
}

type Items = BTreeMap<Vec<u8>, Vec<u8>>;
type Contents = BTreeMap<u64, Items>;

#[derive(Clone, Debug)]
enum Change {
    Put(u64, Vec<u8>, Vec<u8>),
    Delete(u64, Vec<u8>),
    Create(u64),
    Drop(u64),
}

fn change(contents: &mut Contents, change: &Change) {
    match change {
        Change::Put(group, key, item) => {
            let items = contents.get_mut(group).expect("the group exists");
            items.insert(key.clone(), item.clone());
        }
        Change::Delete(group, key) => {
            contents.get_mut(group).expect("the group exists").remove(key);
        }
        Change::Create(group) => {
            contents.insert(*group, Items::new());
        }
        Change::Drop(group) => {
            contents.remove(group);
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Model {
    chosen: Contents,
    pending: VecDeque<(Ticket, Change)>,
}

impl Model {
    fn advance(&mut self, chosen: Ticket) {
        while self.pending.front().is_some_and(|(ticket, _)| *ticket <= chosen) {
            let (_, next) = self.pending.pop_front().expect("looked at above");
            change(&mut self.chosen, &next);
        }
    }

    /// What the newest proposal makes of a key.
    fn current(&self, group: u64, key: &[u8]) -> Option<&[u8]> {
        for (_, change) in self.pending.iter().rev() {
            match change {
                Change::Put(g, k, item) if *g == group && k == key => return Some(item),
                Change::Delete(g, k) if *g == group && k == key => return None,
                _ => {}
            }
        }
        self.chosen.get(&group)?.get(key).map(Vec::as_slice)
    }

    /// Whether `found` is the chosen contents and a prefix of the proposals; how long a prefix.
    fn prefix(&self, found: &Contents) -> Option<usize> {
        let mut contents = self.chosen.clone();
        for (applied, (_, next)) in self.pending.iter().enumerate() {
            if contents == *found {
                return Some(applied);
            }
            change(&mut contents, next);
        }
        (contents == *found).then_some(self.pending.len())
    }

    /// The model after a crash that left `found`.
    #[track_caller]
    fn recovered(&self, found: Contents, context: &str) -> Model {
        if self.prefix(&found).is_none() {
            panic!("{context}: {}", self.explain(&found));
        }
        Model { chosen: found, pending: VecDeque::new() }
    }

    fn explain(&self, found: &Contents) -> String {
        let count = |contents: &Contents| {
            contents.iter().map(|(group, items)| (*group, items.len())).collect::<Vec<_>>()
        };
        let mut words = format!(
            "recovered {:?}, acknowledged {:?}, {} proposals behind;",
            count(found),
            count(&self.chosen),
            self.pending.len()
        );
        for (group, items) in &self.chosen {
            for (key, item) in items {
                let got = found.get(group).and_then(|items| items.get(key));
                if got != Some(item) {
                    let head = &key[..key.len().min(16)];
                    let lengths = (item.len(), got.map(Vec::len));
                    words += &format!(" group {group} key {head:02x?} bytes {lengths:?}");
                }
            }
        }
        words
    }
}

/// Some page on the way is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Damaged;

/// Has `page` read, with everything else that the store wants done.
fn load(store: &mut Store, disk: &mut SimDisk, page: crate::tree::PageRef, now: Nanos) {
    let wanted = store.fetch(page);
    let (mut ops, mut loaded) = (Vec::new(), Vec::new());
    for _ in 0..100_000 {
        store.take_loaded(&mut loaded);
        if loaded.contains(&wanted) {
            return;
        }
        store.turn(now, &mut ops);
        ops.drain(..).for_each(|op| disk.submit(op));
        if let Some(done) = disk.complete_next() {
            store.disk_done(done, now);
        }
    }
    panic!("page {page:?} never arrives: {store:?}");
}

/// Everything in the store, by ranges.
fn contents(store: &mut Store, disk: &mut SimDisk, now: Nanos) -> Result<Contents, Damaged> {
    let groups: Vec<_> = store.groups().map(|(at, group)| (at, group.id.0)).collect();
    let mut contents = Contents::new();
    for (ordinal, id) in groups {
        let mut items = Items::new();
        loop {
            let last = items.last_key_value().map(|(key, _)| key.clone());
            let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let end = store.range(ordinal, from, Bound::Unbounded, false, &mut |key, item| {
                assert!(items.insert(key.to_vec(), item.to_vec()).is_none(), "visited twice");
                Visit::Continue
            });
            match end {
                RangeEnd::Exhausted => break,
                RangeEnd::Wait(page) => load(store, disk, page, now),
                RangeEnd::Damaged => return Err(Damaged),
                RangeEnd::Stopped => unreachable!("nobody stops it"),
            }
        }
        contents.insert(id, items);
    }
    Ok(contents)
}

/// A store, its disk, and the model of both.
struct Rig {
    config: StoreConfig,
    disk: SimDisk,
    store: Store,
    now: Nanos,
    random: SimRandom,
    model: Model,
    ops: Vec<DiskOp>,
    next_group: u64,
    next_item: u64,
    /// Free blocks are taken from the file's start, so that what may be reused is.
    eager: bool,
}

impl Rig {
    fn new(config: StoreConfig, seed: u64) -> Rig {
        let now = Nanos(Nanos::PER_SECOND);
        let mut disk = device(&config);
        let opened = open_on(&config, &mut disk, now).expect("a blank disk is formatted");
        assert_eq!(opened.warning, None);
        Rig {
            config,
            disk,
            store: opened.store,
            now,
            random: SimRandom::new(seed),
            model: Model::default(),
            ops: Vec::new(),
            next_group: 1,
            next_item: 1,
            eager: seed % 2 == 1,
        }
    }

    fn ordinal(&self, group: u64) -> GroupOrdinal {
        self.store.group(GroupId(group)).expect("the group exists")
    }

    fn create(&mut self) -> u64 {
        let id = self.next_group;
        self.next_group += 1;
        let payload = item(id, 50);
        let descriptor = GroupDescriptor { id: GroupId(id), payload: &payload };
        let (_, ticket) = self.store.create_group(descriptor).expect("room for a group");
        self.model.pending.push_back((ticket, Change::Create(id)));
        id
    }

    fn drop_group(&mut self, group: u64) {
        let ticket = self.store.drop_group(self.ordinal(group)).expect("room for a drop");
        self.model.pending.push_back((ticket, Change::Drop(group)));
    }

    fn put(&mut self, group: u64, key: &[u8], bytes: usize) -> Result<Ticket, Refused> {
        let item = item(self.next_item, bytes);
        self.next_item += 1;
        let ticket = self.store.put(self.ordinal(group), key, &item)?;
        self.model.pending.push_back((ticket, Change::Put(group, key.to_vec(), item)));
        Ok(ticket)
    }

    fn delete(&mut self, group: u64, key: &[u8]) -> Result<Ticket, Refused> {
        let ticket = self.store.delete(self.ordinal(group), key)?;
        self.model.pending.push_back((ticket, Change::Delete(group, key.to_vec())));
        Ok(ticket)
    }

    fn turn(&mut self) -> Work {
        if self.eager && self.store.space.file_blocks() > 0 {
            self.store.space.rewind();
        }
        let work = self.store.turn(self.now, &mut self.ops);
        self.ops.drain(..).for_each(|op| self.disk.submit(op));
        work
    }

    /// Finishes any one operation.
    fn complete(&mut self) -> bool {
        let Some(done) = self.disk.complete_one(&mut self.random) else { return false };
        self.store.disk_done(done, self.now);
        self.model.advance(self.store.chosen_ticket());
        true
    }

    /// A turn and a few completions, in any order.
    fn pump(&mut self) {
        self.now.0 += 1 + self.random.bits() % 200_000;
        self.turn();
        for _ in 0..self.random.below(4) {
            self.complete();
        }
    }

    /// Turns until nothing is in flight and nothing wants to run now.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            let work = self.turn();
            let idle = self.disk.in_flight().len() == 0 && !work.run_again;
            if idle && (self.model.pending.is_empty() || self.store.failure().is_some()) {
                return;
            }
            self.complete();
        }
        panic!("never settles: {:?}", self.store.checkpoint_phase());
    }

    /// Runs a whole checkpoint, due by time.
    fn checkpoint(&mut self) {
        let before = self.store.checkpoint.number();
        for _ in 0..100_000 {
            self.now.0 += self.config.checkpoint_interval_nanos / 100;
            self.turn();
            self.complete();
            if self.store.checkpoint.number() > before && self.store.checkpoint.is_idle() {
                return;
            }
        }
        panic!("no checkpoint: {:?}", self.store.checkpoint_phase());
    }

    /// A checkpoint, unless there is nothing to do.
    fn checkpoint_if_changed(&mut self) {
        for _ in 0..1_000 {
            self.now.0 += self.config.checkpoint_interval_nanos / 100;
            self.turn();
            self.complete();
        }
        while !self.store.checkpoint.is_idle() {
            self.turn();
            self.complete();
        }
    }

    /// The process was killed and started again: nothing is in the cache.
    fn cold_start(&mut self) {
        self.disk = self.disk.after_process_crash(&mut self.random);
        self.store = open_on(&self.config, &mut self.disk, self.now).expect("no damage").store;
    }

    /// Puts, and lets the store work until there is room.
    fn put_patiently(&mut self, group: u64, key: &[u8], bytes: usize) {
        for _ in 0..100_000 {
            match self.put(group, key, bytes) {
                Ok(_) => return,
                Err(Refused::Overloaded) => self.pump(),
                Err(other) => panic!("{other}"),
            }
        }
        panic!("no room, ever: {:?} {:?}", self.store.checkpoint_phase(), self.store.stats());
    }

    /// Closes in order and opens again; nothing is missing and nobody complains.
    fn reopen(self) -> Rig {
        let mut rig = self;
        rig.close();
        rig.store_again(None)
    }

    fn close(&mut self) {
        self.store.close();
        for _ in 0..200_000 {
            if self.store.is_closed() {
                assert_eq!(self.store.failure(), None);
                assert!(self.model.pending.is_empty());
                return;
            }
            self.now.0 += 1000;
            self.turn();
            self.complete();
        }
        panic!("never closes: {:?}", self.store.checkpoint_phase());
    }

    /// Opens what a crash left, and goes on with it.
    fn after_crash(self, disk: SimDisk) -> Rig {
        self.store_again(Some(disk))
    }

    fn store_again(mut self, crashed: Option<SimDisk>) -> Rig {
        let clean = crashed.is_none();
        let mut disk = crashed.unwrap_or(self.disk);
        let Opened { mut store, warning } =
            open_on(&self.config, &mut disk, self.now).expect("a crash is no damage");
        let found = contents(&mut store, &mut disk, self.now).expect("no damage");
        if clean {
            assert_eq!(warning, None);
            assert!(found == self.model.chosen, "{}", self.model.explain(&found));
        }
        self.model = self.model.recovered(found, "after a crash");
        Rig { disk, store, ops: Vec::new(), ..self }
    }
}

impl Store {
    fn is_writing_superblock(&self) -> bool {
        self.checkpoint.phase_name().starts_with("Superblock")
    }

    /// For messages of tests.
    fn checkpoint_phase(&self) -> String {
        format!("{} {:?}", self.checkpoint.phase_name(), self.stats())
    }
}
