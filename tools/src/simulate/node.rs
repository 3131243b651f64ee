//! A node: the production shard, its disk and its clock, driven by hand.
//!
//! The node does what the ring's shell does in production, with the simulated disk and network in
//! the kernel's place: deliver everything that is ready, call `turn` once, carry out the effects.

use std::net::SocketAddr;
use std::sync::Arc;

use forebay_core::ids::ShardId;
use forebay_core::time::Nanos;
use forebay_net::machine::{CloseReason, ConnId, Effects, SendBuf};
use forebay_net::metrics::ShardMetrics;
use forebay_net::shard::{METRIC_NAMES, Shard, ShardContext};
use forebay_storage::block::{BLOCK_BYTES, BlockBuf};
use forebay_storage::log::LogConfig;
use forebay_storage::store::{self, OpenError, Opened, StoreConfig};

use super::clock::Clock;
use super::disk::Disk;
use super::network::WireId;

const MILLI: u64 = Nanos::PER_MILLI;

/// Checkpoints are no further apart.
pub(super) const CHECKPOINT_NANOS: u64 = 10 * Nanos::PER_SECOND;
/// Two superblocks, as in a new data directory.
const PAGES_BYTES: u64 = 64 * BLOCK_BYTES as u64;

/// The sizes of a simulated store: real enough to fill, small enough to be opened many times.
pub(super) fn store_config(node: usize) -> StoreConfig {
    let log = LogConfig {
        segment_bytes: 1 << 20,
        segments: 8,
        record_bytes_max: 24 << 10,
        reserve_bytes: 1 << 20,
        batch_bytes_max: 32 << 10,
        ..LogConfig::standard(ShardId(0), 0x5eed_0000 + node as u64)
    };
    debug_assert!(log.validate().is_ok());
    StoreConfig {
        log,
        overlay_generation_bytes: 1 << 20,
        cache_bytes: 1 << 20,
        checkpoint_interval_nanos: CHECKPOINT_NANOS,
        overlay_fill_percent: 50,
        log_fill_percent: 50,
        checkpoints_off: false,
        merge_slice_micros: 200,
        marker_nanos: 5 * MILLI,
    }
}

/// The node and listener behind an address: port 4700 and the node's number.
pub(super) fn listener_of(address: SocketAddr) -> (usize, usize) {
    (usize::from(address.port()) - 4700, 0)
}

/// What the node's machine hears before its next turn.
#[derive(Debug)]
pub(super) enum Pending {
    Sent(ConnId, SendBuf),
    Closed(ConnId, CloseReason),
}

/// An open connection of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conn {
    pub(super) wire: WireId,
    pub(super) side: usize,
    /// The machine asked for its end.
    pub(super) closing: bool,
}

/// The node's connections by slot. A generation is never used twice.
#[derive(Debug, Default)]
pub(super) struct Conns {
    slots: Vec<(u32, Option<Conn>)>,
    free: Vec<u32>,
}

impl Conns {
    pub(super) fn insert(&mut self, conn: Conn) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        let (generation, place) = &mut self.slots[slot as usize];
        *generation += 1;
        *place = Some(conn);
        ConnId { slot, generation: *generation }
    }

    pub(super) fn get(&mut self, id: ConnId) -> Option<&mut Conn> {
        let (generation, conn) = self.slots.get_mut(id.slot as usize)?;
        conn.as_mut().filter(|_| *generation == id.generation)
    }

    /// It is over; the slot stays taken until its machine has heard so.
    pub(super) fn remove(&mut self, id: ConnId) -> Option<Conn> {
        let (generation, conn) = self.slots.get_mut(id.slot as usize)?;
        if *generation == id.generation { conn.take() } else { None }
    }

    /// Its machine has heard that it is over.
    pub(super) fn release(&mut self, id: ConnId) {
        debug_assert!(self.slots[id.slot as usize].1.is_none());
        self.free.push(id.slot);
    }
}

/// Why a node does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Down {
    /// Its machine has no power.
    Power,
    /// Its process is dead.
    Process,
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) number: usize,
    pub(super) shard: Option<Shard>,
    pub(super) down: Option<Down>,
    pub(super) disk: Disk,
    pub(super) clock: Clock,
    /// Raised by every end of the process.
    pub(super) incarnation: u32,
    /// Handles nothing before.
    pub(super) paused_until: u64,
    /// The turn that is due.
    pub(super) turn_at: Option<u64>,
    pub(super) conns: Conns,
    pub(super) pending: Vec<Pending>,
    pub(super) fx: Effects,
    pub(super) metrics: Arc<ShardMetrics>,
    seed: u64,
    /// Checkpoints of earlier starts.
    checkpoints: u64,
}

impl Node {
    pub(super) fn new(number: usize, seed: u64, clock: Clock, lies: bool) -> Node {
        let config = store_config(number);
        Node {
            number,
            shard: None,
            down: Some(Down::Process),
            disk: Disk::new(config.log.capacity_bytes(), PAGES_BYTES, seed, lies),
            clock,
            incarnation: 0,
            paused_until: 0,
            turn_at: None,
            conns: Conns::default(),
            pending: Vec::new(),
            fx: Effects::default(),
            metrics: Arc::new(ShardMetrics::new(ShardId(0), METRIC_NAMES)),
            seed,
            checkpoints: 0,
        }
    }

    /// The random id that is kept with its data.
    fn id(&self) -> u128 {
        0x5eed_0000_0000 + self.number as u128
    }

    /// Starts the process: recovery, then service.
    pub(super) fn start(&mut self, now: u64) -> Result<Option<String>, OpenError> {
        let config = store_config(self.number);
        let local = self.clock.local(now);
        let blocks = config.log.batch_bytes_max as usize / BLOCK_BYTES;
        let buffers = (0..config.log.buffers_wanted()).map(|_| BlockBuf::zeroed(blocks)).collect();
        let Opened { store, warning } =
            store::open(config, self.id(), buffers, &mut self.disk, local, &mut |_| {})?;
        let context = ShardContext {
            shard: ShardId(0),
            node_id: self.id().to_be_bytes(),
            ports: vec![4700 + self.number as u16],
            random_seed: self.seed ^ (u64::from(self.incarnation) << 32),
            unix_millis_at_zero: 1_700_000_000_000,
            metrics: Arc::clone(&self.metrics),
        };
        self.shard = Some(Shard::new(context, store, local));
        self.down = None;
        Ok(warning)
    }

    /// The process is gone.
    pub(super) fn end(&mut self, how: Down) {
        self.checkpoints = self.checkpoints();
        self.shard = None;
        self.down = Some(how);
        self.incarnation += 1;
        self.turn_at = None;
        self.conns = Conns::default();
        self.pending.clear();
        self.fx = Effects::default();
        match how {
            Down::Power => self.disk.cut_power(),
            Down::Process => self.disk.kill(),
        }
    }

    /// Checkpoints so far, of all starts.
    pub(super) fn checkpoints(&self) -> u64 {
        let number = |shard: &Shard| shard.store().stats().checkpoint_number;
        self.shard.as_ref().map_or(self.checkpoints, number)
    }
}
