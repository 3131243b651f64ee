//! A node: the production shard, its disk and its clock, driven by hand.
//!
//! The node does what the ring's shell does in production, with the simulated disk and network in
//! the kernel's place: deliver everything that is ready, call `turn` once, carry out the effects.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_core::ids::ShardId;
use forebay_core::time::Nanos;
use forebay_net::machine::{CloseReason, ConnId, Effects, SendBuf};
use forebay_net::metrics::ShardMetrics;
use forebay_net::replication::{Topology, TopologyNode};
use forebay_net::shard::{
    Clock as ShardClock, ClusterContext, METRIC_NAMES, PEER_LISTENER, Shard, ShardContext,
    ShardMail,
};
use forebay_storage::block::{BLOCK_BYTES, BlockBuf};
use forebay_storage::log::LogConfig;
use forebay_storage::sim_disk::SimRandom;
use forebay_storage::store::{self, OpenError, Opened, StoreConfig};

use super::clock::Clock;
use super::disk::Disk;
use super::network::WireId;

const MILLI: u64 = Nanos::PER_MILLI;

/// Checkpoints are no further apart.
pub(super) const CHECKPOINT_NANOS: u64 = 10 * Nanos::PER_SECOND;
/// Two superblocks, as in a new data directory.
const PAGES_BYTES: u64 = 64 * BLOCK_BYTES as u64;

/// How the stores of a run differ from those of others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variant {
    /// A small log fills up within seconds and lets go of entries, a large one holds most of a run.
    pub(super) small_log: bool,
    /// See [`StoreConfig::marker_nanos`]: nearly every write's batch gets a marker, or few do.
    pub(super) marker_nanos: u64,
}

impl Variant {
    /// Draws one.
    pub(super) fn draw(random: &mut SimRandom) -> Variant {
        let small_log = random.chance(1, 4);
        let marker_nanos = if random.chance(1, 2) { 5 * MILLI } else { 40 * MILLI };
        Variant { small_log, marker_nanos }
    }
}

/// The sizes of a simulated store: small enough to be opened many times.
fn store_config(node: usize, variant: Variant) -> StoreConfig {
    let log = LogConfig {
        segment_bytes: if variant.small_log { 1 << 20 } else { 3 << 20 },
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
        marker_nanos: variant.marker_nanos,
    }
}

/// Clients reach a node at this port and its number, peers at the other.
const NATIVE_PORT: u16 = 4700;
const PEER_PORT: u16 = 4800;

fn address(port: u16, node: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port + node as u16))
}

/// The node and listener behind an address.
pub(super) fn listener_of(address: SocketAddr) -> (usize, usize) {
    match address.port() {
        port if port >= PEER_PORT => (usize::from(port - PEER_PORT), PEER_LISTENER),
        port => (usize::from(port - NATIVE_PORT), 0),
    }
}

/// The random id that is kept with a node's data.
fn node_id(node: usize) -> u128 {
    0x5eed_0000_0000 + node as u128
}

/// A cluster of so many nodes, each in a zone of its own; None for a node that stands alone.
pub(super) fn topology(nodes: usize) -> Option<Arc<Topology>> {
    let node = |node| TopologyNode {
        node_id: node_id(node).to_be_bytes(),
        certified: None,
        az: node as u16,
        native: vec![address(NATIVE_PORT, node)],
        peer: vec![address(PEER_PORT, node)],
    };
    let all = || Topology { cluster_id: [0x5e; 16], nodes: (0..nodes).map(node).collect() };
    (nodes > 1).then(|| Arc::new(all()))
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
    /// The process is stopped for so long in the middle of its next turn that serves clients.
    pub(super) stop_inside: u64,
    /// Clients' bytes have arrived since the last turn.
    pub(super) is_asked: bool,
    /// What the shard reads in the middle of a turn.
    glance: Arc<AtomicU64>,
    topology: Option<Arc<Topology>>,
    variant: Variant,
    seed: u64,
    /// Checkpoints of earlier starts.
    checkpoints: u64,
}

impl Node {
    pub(super) fn new(
        number: usize,
        seed: u64,
        clock: Clock,
        topology: Option<Arc<Topology>>,
        variant: Variant,
        lies: bool,
    ) -> Node {
        let config = store_config(number, variant);
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
            stop_inside: 0,
            is_asked: false,
            glance: Arc::default(),
            topology,
            variant,
            seed,
            checkpoints: 0,
        }
    }

    /// Starts the process: recovery, then service.
    pub(super) fn start(&mut self, now: u64) -> Result<Option<String>, OpenError> {
        let config = store_config(self.number, self.variant);
        let local = self.clock.local(now);
        let blocks = config.log.batch_bytes_max as usize / BLOCK_BYTES;
        let buffers = (0..config.log.buffers_wanted()).map(|_| BlockBuf::zeroed(blocks)).collect();
        let Opened { store, warning } =
            store::open(config, node_id(self.number), buffers, &mut self.disk, local, &mut |_| {})?;
        let context = ShardContext {
            shard: ShardId(0),
            node_id: node_id(self.number).to_be_bytes(),
            ports: vec![NATIVE_PORT + self.number as u16],
            random_seed: self.seed ^ (u64::from(self.incarnation) << 32),
            unix_millis_at_zero: 1_700_000_000_000,
            metrics: Arc::clone(&self.metrics),
            cluster: self.topology.as_ref().map(|_| self.cluster_context()),
        };
        let mut shard = Shard::new(context, store, local);
        shard.watch_chosen();
        if let Some(topology) = &self.topology {
            let topology = Arc::clone(topology);
            shard.mail(ShardMail::Topology { topology, bootstrap: self.incarnation == 0 }, local);
        }
        self.shard = Some(shard);
        self.down = None;
        Ok(warning)
    }

    fn cluster_context(&self) -> ClusterContext {
        let glance = Arc::clone(&self.glance);
        let clock = move || Nanos(glance.load(Ordering::Relaxed));
        let (az, peer) = (self.number as u16, vec![address(PEER_PORT, self.number)]);
        ClusterContext { az, peer, clock: ShardClock(Arc::new(clock)), grows: true }
    }

    /// What the shard sees if it looks at its clock in the turn that begins now; when the turn ends.
    pub(super) fn begin_turn(&mut self, now: u64) -> u64 {
        let stops = std::mem::take(&mut self.is_asked);
        let end = now + if stops { std::mem::take(&mut self.stop_inside) } else { 0 };
        self.glance.store(self.clock.local(end).0, Ordering::Relaxed);
        end
    }

    /// The process is gone.
    pub(super) fn end(&mut self, how: Down) {
        self.checkpoints = self.checkpoints();
        self.shard = None;
        self.down = Some(how);
        self.incarnation += 1;
        self.turn_at = None;
        self.stop_inside = 0;
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
