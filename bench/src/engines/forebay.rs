//! This project's store in-process: the state machine and the ring of a shard, without sockets.
//!
//! ```text
//!   put, delete, get, range ──► Store ──DiskOp──► Ring (io_uring, O_DIRECT, RWF_DSYNC) ──► device
//!        wait ──► Ring::run ──► Host::turn ──► Store::turn …  until the goal is reached
//! ```
//!
//! What answers from memory is a plain call, as between a shard and its store. What waits (for
//! durability, for a page, for room) runs the ring's own loop until then, so that merges and
//! checkpoints take their slices exactly as in a node. The ring's stop does not linger: what is in
//! flight when a wait ends goes on and is told to the store in the next one.
//!
//! The data directory, the file layout, the length of the log, the division of memory and the pace of
//! checkpoints are those of a node with as much memory as the engine's cache ([`NodeConfig`] decides
//! them here as there), but for one thing: the longest time between two checkpoints, because a node's
//! 30 s would only make the waits between the phases longer.
//!
//! Items are what a table of binary keys holds: attribute `k` of 24 bytes and attribute `v` of 150,
//! encoded, under the encoded key (a hash, a length, the partition key). The order of keys is
//! therefore that of hashes, and a range read is a piece of a Scan.

use std::fs::File;
use std::ops::Bound;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use forebay_core::ids::{GroupId, ShardId};
use forebay_core::item::{ItemRef, ItemWriter, ValueRef};
use forebay_core::key::KeyBuf;
use forebay_core::time::Nanos;
use forebay_net::machine::{Effects, Machine};
use forebay_net::node::config::NodeConfig;
use forebay_net::ring::{self, DurableMode, Ring, RingConfig};
use forebay_storage::block::{
    BLOCK_BYTES, BlockBuf, DiskDone, DiskError, DiskOp, Durability, ShardFile,
};
use forebay_storage::directory::{DataDirectory, ShardFiles, preallocate};
use forebay_storage::log::LogConfig;
use forebay_storage::store::{
    self, BlockingDisk, GroupDescriptor, GroupOrdinal, PageId, RangeEnd, Read, Refused, Store,
    StoreConfig, Ticket, Visit,
};

use super::engine::{Engine, Fault, Parts, Reader, Setting};
use super::workload::{Key, Pair};

const SHARD: ShardId = ShardId(0);
const KEY: &str = "k";
const VALUE: &str = "v";
/// Of the keyed hash; a table draws its own.
const HASH_SEED: [u8; 16] = *b"forebay engines.";
/// As in a node.
const MARKER_NANOS: u64 = 100 * Nanos::PER_MILLI;
/// Writes begun between two turns of the loop. A shard with this many requests waiting takes them in
/// one turn, too.
const PUTS_EACH_TURN: usize = 256;

/// The store, its ring, and buffers for one key and one item.
pub(crate) struct Forebay {
    ring: Ring,
    host: Host,
    group: GroupOrdinal,
    key: KeyBuf,
    item: Vec<u8>,
    log_bytes: u64,
    overlay_bytes: u64,
    checkpoint_millis: u64,
    /// Holds the directory's lock.
    _directory: DataDirectory,
}

/// What a run of the ring waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// One turn, and what it asked for is on its way.
    Turn,
    /// The write and all before it are durable and applied.
    Chosen(Ticket),
    /// A write of ordinary size would be taken.
    Room,
    /// Any page has arrived.
    Page,
    /// Every write is in the tree, in a durable checkpoint.
    Checkpointed,
    /// Everything is on disk, and nothing is in flight.
    Closed,
}

/// The machine that the ring drives: the store, and what is waited for.
struct Host {
    store: Store,
    group: Option<GroupOrdinal>,
    goal: Goal,
    turns: u32,
    in_flight: usize,
    loaded: Vec<PageId>,
}

impl Host {
    fn has_reached(&self) -> bool {
        match self.goal {
            Goal::Turn => self.turns > 1,
            Goal::Chosen(ticket) => self.store.chosen_ticket() >= ticket,
            Goal::Room => self.store.has_room(),
            Goal::Page => !self.loaded.is_empty(),
            Goal::Checkpointed => {
                let stats = self.store.stats();
                let is_saved = |group| {
                    let figures = self.store.group_figures(group);
                    figures.checkpoint_slot == figures.applied_slot
                };
                stats.overlay_active_bytes + stats.overlay_frozen_bytes == 0
                    && self.group.is_none_or(is_saved)
            }
            Goal::Closed => self.store.is_closed() && self.in_flight == 0,
        }
    }
}

impl Machine for Host {
    fn disk_done(&mut self, done: DiskDone, now: Nanos) {
        self.in_flight -= 1;
        self.store.disk_done(done, now);
    }
    fn turn(&mut self, now: Nanos, fx: &mut Effects) {
        self.turns += 1;
        let before = fx.disk.len();
        let work = self.store.turn(now, &mut fx.disk);
        self.in_flight += fx.disk.len() - before;
        self.store.take_loaded(&mut self.loaded);
        fx.wake_at = work.wake_at;
        // A lone turn is followed by another, before which the ring submits.
        fx.run_again = work.run_again || self.goal == Goal::Turn;
        fx.stop = self.has_reached() || self.store.failure().is_some();
    }
}

impl Forebay {
    /// A new data directory with a store of one group.
    pub(crate) fn open(setting: &Setting<'_>) -> Result<Forebay, Fault> {
        let path: &Path = setting.dir;
        let node =
            NodeConfig { memory_bytes: setting.cache_bytes, ..NodeConfig::new(path.to_owned()) };
        let request = node.directory_request();
        let directory = DataDirectory::open_or_create(path, &request, &mut |_| {})?;
        let ShardFiles { log, pages } = directory.open_shard(SHARD)?;
        let geometry = directory.geometry();
        let log_config = LogConfig {
            segment_bytes: geometry.log_segment_bytes,
            segments: geometry.log_segments,
            in_flight_max: node.batches_in_flight,
            ..LogConfig::standard(SHARD, directory.log_id())
        };
        let config = store_config(setting, &node, log_config)?;
        let ring = Ring::new(RingConfig {
            connections_max: 1,
            files: vec![(ShardFile::Log, log.try_clone()?), (ShardFile::Pages, pages.try_clone()?)],
            durable: DurableMode::Dsync,
            stop_linger: std::time::Duration::ZERO,
            ..RingConfig::default()
        })?;
        let mut buffers: Vec<BlockBuf> = (0..config.log.buffers_wanted())
            .map(|_| BlockBuf::zeroed(config.log.batch_bytes_max as usize / BLOCK_BYTES))
            .collect();
        let registered = node.registered_bytes / u64::from(config.log.batch_bytes_max);
        let registered = (registered as usize).min(buffers.len());
        ring.register_buffers(&mut buffers[..registered])?;
        let mut disk = FileDisk { log, pages };
        let node_id = directory.node_id();
        let opened = store::open(config, node_id, buffers, &mut disk, ring::now(), &mut |_| {})?;
        let mut store = opened.store;
        store.populate_memory();
        let descriptor = GroupDescriptor { id: GroupId(1), payload: b"engines" };
        let (group, ticket) = store.create_group(descriptor)?;
        let host = Host {
            store,
            group: Some(group),
            goal: Goal::Turn,
            turns: 0,
            in_flight: 0,
            loaded: Vec::new(),
        };
        let mut engine = Forebay {
            ring,
            host,
            group,
            key: KeyBuf::with_room_for_any_key(),
            item: Vec::new(),
            log_bytes: config.log.capacity_bytes(),
            overlay_bytes: 2 * config.overlay_generation_bytes as u64,
            checkpoint_millis: setting.checkpoint_millis,
            _directory: directory,
        };
        engine.wait(Goal::Chosen(ticket))?;
        Ok(engine)
    }

    /// Runs the ring until `goal` is reached.
    fn wait(&mut self, goal: Goal) -> Result<(), Fault> {
        self.host.goal = goal;
        self.host.turns = 0;
        self.host.loaded.clear();
        self.ring.run(&mut self.host)?;
        match self.host.store.failure() {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    }

    /// Begins a write, as often as the store asks to try later.
    fn begin(&mut self, key: &Key, value: Option<&[u8]>) -> Result<Ticket, Fault> {
        self.key.set(&HASH_SEED, key, b"")?;
        self.item.clear();
        if let Some(value) = value {
            let mut writer = ItemWriter::new(&mut self.item);
            writer.push(KEY, ValueRef::B(key))?;
            writer.push(VALUE, ValueRef::B(value))?;
            writer.finish()?;
        }
        loop {
            let store = &mut self.host.store;
            let begun = match value {
                Some(_) => store.put(self.group, self.key.as_bytes(), &self.item),
                None => store.delete(self.group, self.key.as_bytes()),
            };
            match begun {
                Ok(ticket) => return Ok(ticket),
                // A refused write wants another turn even if there is room again.
                Err(Refused::Overloaded) => {
                    self.wait(Goal::Turn)?;
                    self.wait(Goal::Room)?;
                }
                Err(refused) => return Err(refused.into()),
            }
        }
    }

    /// Begins all `writes`, and waits for them once.
    fn write_all<'w>(
        &mut self,
        writes: impl Iterator<Item = (Key, Option<&'w [u8]>)>,
    ) -> Result<(), Fault> {
        let mut last = None;
        for (count, (key, value)) in (1usize..).zip(writes) {
            last = Some(self.begin(&key, value)?);
            if count.is_multiple_of(PUTS_EACH_TURN) {
                self.wait(Goal::Turn)?;
            }
        }
        last.map_or(Ok(()), |ticket| self.wait(Goal::Chosen(ticket)))
    }
}

fn store_config(
    setting: &Setting<'_>,
    node: &NodeConfig,
    log: LogConfig,
) -> Result<StoreConfig, Fault> {
    let budget = node.budget(1)?;
    let pacing = node.checkpoint;
    Ok(StoreConfig {
        log,
        overlay_generation_bytes: (budget.overlay_bytes / 2) as usize,
        cache_bytes: budget.cache_bytes as usize,
        checkpoint_interval_nanos: setting.checkpoint_millis * Nanos::PER_MILLI,
        checkpoints_off: false,
        overlay_fill_percent: pacing.overlay_fill_percent,
        log_fill_percent: pacing.log_fill_percent,
        merge_slice_micros: pacing.slice_microseconds,
        marker_nanos: MARKER_NANOS,
    })
}

impl Engine for Forebay {
    fn settings(&self) -> String {
        format!(
            "each write durable in the log (O_DIRECT, RWF_DSYNC) before it is acknowledged, pages and \
             superblock flushed by checkpoints (here at most {} ms apart, a node's may be 30 s); all \
             else as in a node of one shard with this cache as its memory: {} MiB of it for new \
             writes (the overlay), a log of {} MiB (twice that, 256 MiB to 4 GiB), written once \
             before the start and kept",
            self.checkpoint_millis,
            self.overlay_bytes >> 20,
            self.log_bytes >> 20
        )
    }

    fn load(&mut self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<(), Fault> {
        let mut last = None;
        for (count, (key, value)) in (1usize..).zip(pairs) {
            last = Some(self.begin(&key, Some(&value))?);
            if count.is_multiple_of(PUTS_EACH_TURN) {
                self.wait(Goal::Turn)?;
            }
        }
        last.map_or(Ok(()), |ticket| self.wait(Goal::Chosen(ticket)))
    }

    fn put_batch(&mut self, pairs: &[Pair]) -> Result<(), Fault> {
        self.write_all(pairs.iter().map(|(key, value)| (*key, Some(&value[..]))))
    }

    fn remove(&mut self, keys: &mut dyn Iterator<Item = Key>) -> Result<(), Fault> {
        self.write_all(keys.map(|key| (key, None)))
    }

    fn reader(&mut self) -> Result<Box<dyn Reader + '_>, Fault> {
        Ok(Box::new(View { last: Vec::new(), engine: self }))
    }

    fn settle(&mut self) -> Result<(), Fault> {
        self.wait(Goal::Checkpointed)
    }

    fn compact(&mut self) -> Result<bool, Fault> {
        Ok(false)
    }

    fn parts(&self) -> Option<Parts> {
        let stats = self.host.store.stats();
        let live_bytes = stats.pages_live_blocks * stats.page_bytes;
        Some(Parts { live_bytes, log_bytes: self.log_bytes })
    }

    fn close(mut self: Box<Self>) -> Result<(), Fault> {
        self.host.store.close();
        self.wait(Goal::Closed)
    }

    #[cfg(test)]
    fn place(&self, key: &Key) -> Vec<u8> {
        let mut place = KeyBuf::new();
        place.set(&HASH_SEED, key, b"").expect("the key's length is allowed");
        place.as_bytes().to_vec()
    }
}

/// Reads chosen items.
struct View<'e> {
    engine: &'e mut Forebay,
    /// The key behind which a range read goes on when a page has arrived.
    last: Vec<u8>,
}

const DAMAGED: &str = "a page cannot be read, or fails its checksum";

/// The value attribute of an item that the store validated when it came in.
fn value_of(item: &[u8]) -> &[u8] {
    match ItemRef::trusted(item).get(VALUE) {
        Some(ValueRef::B(value)) => value,
        _ => &[],
    }
}

impl Reader for View<'_> {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Fault> {
        let engine = &mut *self.engine;
        engine.key.set(&HASH_SEED, key, b"")?;
        loop {
            match engine.host.store.get(engine.group, engine.key.as_bytes()) {
                Read::Item(item) => {
                    see(value_of(item));
                    return Ok(true);
                }
                Read::Absent => return Ok(false),
                Read::Damaged => return Err(DAMAGED.into()),
                Read::Wait(page) => {
                    engine.host.store.fetch(page);
                    engine.wait(Goal::Page)?;
                }
            }
        }
    }

    fn range(&mut self, from: &Key, items: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        let engine = &mut *self.engine;
        engine.key.set(&HASH_SEED, from, b"")?;
        self.last.clear();
        let mut left = items;
        loop {
            let from = match self.last.is_empty() {
                true => Bound::Included(engine.key.as_bytes()),
                false => Bound::Excluded(&self.last[..]),
            };
            let mut missed = Vec::new();
            let ended = engine.host.store.range(
                engine.group,
                from,
                Bound::Unbounded,
                false,
                &mut |key, item| {
                    see(value_of(item));
                    left -= 1;
                    // Only a walk that meets an absent page needs to know where it was.
                    missed.clear();
                    missed.extend_from_slice(key);
                    if left == 0 { Visit::Stop } else { Visit::Continue }
                },
            );
            match ended {
                RangeEnd::Exhausted | RangeEnd::Stopped => return Ok(()),
                RangeEnd::Damaged => return Err(DAMAGED.into()),
                RangeEnd::Wait(page) => {
                    if !missed.is_empty() {
                        self.last = missed;
                    }
                    engine.host.store.fetch(page);
                    engine.wait(Goal::Page)?;
                }
            }
        }
    }
}

/// Blocking I/O for the opening, before the ring runs.
struct FileDisk {
    log: File,
    pages: File,
}

impl BlockingDisk for FileDisk {
    fn carry_out(&mut self, op: DiskOp) -> DiskDone {
        let file = |file| match file {
            ShardFile::Log => &self.log,
            ShardFile::Pages => &self.pages,
        };
        // A transfer that ends early carries no errno: the file is shorter than it must be.
        let failed =
            |error: std::io::Error| DiskError { errno: error.raw_os_error().unwrap_or(libc::EIO) };
        match op {
            DiskOp::Read { op, file: of, offset_bytes, mut buf } => {
                let result = file(of).read_exact_at(&mut buf, offset_bytes).map_err(failed);
                DiskDone { op, buf: Some(buf), result }
            }
            DiskOp::Write { op, file: of, offset_bytes, buf, bytes, durability } => {
                let written = file(of).write_all_at(&buf[..bytes], offset_bytes);
                let result = written.and_then(|()| match durability {
                    Durability::Durable => file(of).sync_data(),
                    Durability::Volatile => Ok(()),
                });
                DiskDone { op, buf: Some(buf), result: result.map_err(failed) }
            }
            DiskOp::Flush { op, file: of } => {
                DiskDone { op, buf: None, result: file(of).sync_data().map_err(failed) }
            }
            DiskOp::Grow { op, file: of, file_bytes } => {
                let result = preallocate(file(of), file_bytes).map_err(failed);
                DiskDone { op, buf: None, result }
            }
        }
    }
}
