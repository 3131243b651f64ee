//! A node: the production shard, its disk and its clock, driven by hand.
//!
//! The node does what the ring's shell does in production, with the simulated disk and network in
//! the kernel's place: deliver everything that is ready, call `turn` once, carry out the effects. Like
//! the node's process it keeps the list of the cluster's nodes with its data.
//!
//! A machine whose data are deleted starts again at the same addresses as another node: with another
//! id, in no cluster, until somebody takes it in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_core::ids::{GroupId, Lsn, ShardId, Slot};
use forebay_core::paxos::MemberId;
use forebay_core::time::Nanos;
use forebay_net::machine::{CloseReason, ConnId, Effects, Machine, SendBuf};
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
/// Of every log.
const SEGMENTS: u32 = 8;
/// Two superblocks, as in a new data directory.
const PAGES_BYTES: u64 = 64 * BLOCK_BYTES as u64;

/// How the nodes of a run differ from those of others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variant {
    /// Of a log of [`SEGMENTS`]: a small one fills up within seconds and lets go of entries, so that
    /// who was away for longer needs a snapshot; a large one holds most of a run.
    segment_bytes: u64,
    /// The fourth node shares the first one's zone.
    shares_zone: bool,
    /// See [`StoreConfig::marker_nanos`]: nearly every write's batch gets a marker, or few do.
    pub(super) marker_nanos: u64,
    /// Old entries are copied to the log's head, whether or not they might be trimmed.
    pub(super) keeps_old: bool,
}

impl Variant {
    /// Draws one.
    pub(super) fn draw(random: &mut SimRandom) -> Variant {
        let segment_bytes = match random.below(8) {
            0 => 384 << 10,
            1..3 => 1 << 20,
            _ => 2 << 20,
        };
        let marker_nanos = if random.chance(1, 2) { 5 * MILLI } else { 40 * MILLI };
        let keeps_old = random.chance(1, 8);
        Variant { segment_bytes, shares_zone: random.chance(1, 4), marker_nanos, keeps_old }
    }
}

/// The sizes of a simulated store: small enough to be opened many times.
fn store_config(node_id: u128, variant: Variant) -> StoreConfig {
    let log = LogConfig {
        segment_bytes: variant.segment_bytes,
        segments: SEGMENTS,
        record_bytes_max: 24 << 10,
        reserve_bytes: 1 << 20,
        batch_bytes_max: 32 << 10,
        ..LogConfig::standard(ShardId(0), node_id as u64)
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

/// The random id that is kept with a machine's data; of its first, second, … data.
fn node_id(node: usize, life: u32) -> u128 {
    0x5eed_0000_0000 + (u128::from(life) << 16) + node as u128
}

/// As the cluster's other nodes know it.
fn listed(node: usize, life: u32, variant: Variant) -> TopologyNode {
    TopologyNode {
        node_id: node_id(node, life).to_be_bytes(),
        certified: None,
        az: zone(node, variant),
        native: vec![address(NATIVE_PORT, node)],
        peer: vec![address(PEER_PORT, node)],
    }
}

fn zone(node: usize, variant: Variant) -> u16 {
    if node == 3 && variant.shares_zone { 0 } else { node as u16 }
}

/// A cluster of so many nodes; None for a node that stands alone.
pub(super) fn topology(nodes: usize, variant: Variant) -> Option<Arc<Topology>> {
    let node = |node| listed(node, 0, variant);
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
    /// Raised whenever its data are deleted.
    pub(super) life: u32,
    /// Its disk has changed what it holds, by a fault.
    pub(super) is_damaged: bool,
    /// Raised by every end of the process.
    pub(super) incarnation: u32,
    /// Handles nothing before.
    pub(super) paused_until: u64,
    /// The turn that is due.
    pub(super) turn_at: Option<u64>,
    /// The turn that the shard has asked for.
    pub(super) wants_turn_at: Option<u64>,
    /// Something has happened since its last turn, other than that a buffer has gone.
    pub(super) has_news: bool,
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
    is_clustered: bool,
    /// The cluster that it is in, as its data say.
    pub(super) topology: Option<Arc<Topology>>,
    variant: Variant,
    seed: u64,
    /// Of the store that it had before its present start.
    past: Past,
}

/// What earlier starts of a node have done.
#[derive(Clone, Debug, Default)]
struct Past {
    /// Numbered on by the next start.
    checkpoints: u64,
    /// Of earlier data.
    checkpoints_deleted: u64,
    snapshots: u64,
    /// What of the log must be there.
    log: (Lsn, Lsn),
    /// Logs that were lost, as its data say.
    logs_lost: u64,
    /// The members that it had when it ended.
    members: Vec<(GroupId, MemberId)>,
    /// One of them was in a checkpoint.
    has_checkpointed: bool,
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
        let config = store_config(node_id(number, 0), variant);
        Node {
            number,
            shard: None,
            down: Some(Down::Process),
            disk: Disk::new(config.log.capacity_bytes(), PAGES_BYTES, seed, lies),
            clock,
            life: 0,
            is_damaged: false,
            incarnation: 0,
            paused_until: 0,
            turn_at: None,
            wants_turn_at: None,
            has_news: false,
            conns: Conns::default(),
            pending: Vec::new(),
            fx: Effects::default(),
            metrics: Arc::new(ShardMetrics::new(ShardId(0), METRIC_NAMES)),
            stop_inside: 0,
            is_asked: false,
            glance: Arc::default(),
            is_clustered: topology.is_some(),
            topology,
            variant,
            seed,
            past: Past::default(),
        }
    }

    /// Of its present data.
    pub(super) fn node_id(&self) -> [u8; 16] {
        node_id(self.number, self.life).to_be_bytes()
    }

    /// As the cluster's other nodes know it.
    pub(super) fn listed(&self) -> TopologyNode {
        listed(self.number, self.life, self.variant)
    }

    /// Starts the process: recovery, then service.
    pub(super) fn start(&mut self, now: u64) -> Result<Option<String>, OpenError> {
        let id = node_id(self.number, self.life);
        let config = store_config(id, self.variant);
        let local = self.clock.local(now);
        let blocks = config.log.batch_bytes_max as usize / BLOCK_BYTES;
        let buffers = (0..config.log.buffers_wanted()).map(|_| BlockBuf::zeroed(blocks)).collect();
        let Opened { store, warning } =
            store::open(config, id, buffers, &mut self.disk, local, &mut |_| {})?;
        let context = ShardContext {
            shard: ShardId(0),
            node_id: id.to_be_bytes(),
            ports: vec![NATIVE_PORT + self.number as u16],
            random_seed: self.seed ^ (u64::from(self.incarnation) << 32),
            unix_millis_at_zero: 1_700_000_000_000,
            metrics: Arc::clone(&self.metrics),
            cluster: self.is_clustered.then(|| self.cluster_context()),
        };
        let mut shard = Shard::new(context, store, local);
        shard.watch_chosen();
        if self.variant.keeps_old {
            shard.keep_old();
        }
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
        let az = zone(self.number, self.variant);
        let peer = vec![address(PEER_PORT, self.number)];
        ClusterContext { az, peer, clock: ShardClock(Arc::new(clock)), grows: true }
    }

    /// The cluster has grown, or this node is one of it from now on: it is written down, and the shard
    /// is told.
    pub(super) fn learn(&mut self, topology: Topology, now: u64) {
        let topology = Arc::new(topology);
        self.topology = Some(Arc::clone(&topology));
        let local = self.clock.local(now);
        let shard = self.shard.as_mut().expect("it runs");
        shard.mail(ShardMail::Topology { topology, bootstrap: false }, local);
    }

    /// Gives back what has gone, before the turn that is due now. Whether there need be one: a turn that
    /// finds no news, nothing to send and no time come has no effect, and is left out.
    pub(super) fn has_reason_to_turn(&mut self, now: u64) -> bool {
        let local = self.clock.local(now);
        let Some(shard) = self.shard.as_mut() else { return false };
        for pending in self.pending.drain(..) {
            match pending {
                Pending::Sent(conn, buf) => shard.sent(conn, buf, local),
                Pending::Closed(conn, reason) => {
                    self.conns.release(conn);
                    shard.closed(conn, reason, local);
                    self.has_news = true;
                }
            }
        }
        let is_due = self.wants_turn_at.is_some_and(|at| at <= now);
        std::mem::take(&mut self.has_news) || is_due || shard.has_unsent()
    }

    /// What the shard sees if it looks at its clock in the turn that begins now; when the turn ends.
    pub(super) fn begin_turn(&mut self, now: u64) -> u64 {
        let stops = std::mem::take(&mut self.is_asked);
        let end = now + if stops { std::mem::take(&mut self.stop_inside) } else { 0 };
        self.glance.store(self.clock.local(end).0, Ordering::Relaxed);
        end
    }

    /// Whether it leads a group.
    pub(super) fn serves(&self) -> bool {
        let replication = self.shard.as_ref().and_then(|shard| shard.replication());
        replication.is_some_and(|replication| replication.statuses().any(|status| status.serves))
    }

    /// The process is gone.
    pub(super) fn end(&mut self, how: Down) {
        self.past.checkpoints =
            self.shard.as_ref().map_or(self.past.checkpoints, checkpoint_number);
        self.past.snapshots = self.snapshots();
        self.past.log = self.log();
        self.past.members = self.members();
        self.past.has_checkpointed = self.had_checkpointed_members();
        self.shard = None;
        self.down = Some(how);
        self.incarnation += 1;
        (self.turn_at, self.wants_turn_at) = (None, None);
        self.has_news = false;
        self.stop_inside = 0;
        self.conns = Conns::default();
        self.pending.clear();
        self.fx = Effects::default();
        match how {
            Down::Power => self.disk.cut_power(),
            Down::Process => self.disk.kill(),
        }
    }

    /// Its data are deleted while it does not run. Returns the members that were among them.
    pub(super) fn delete_data(&mut self) -> Vec<(GroupId, MemberId)> {
        assert!(self.shard.is_none(), "a process that runs keeps its files");
        self.life += 1;
        self.is_damaged = false;
        self.topology = None;
        self.past.checkpoints_deleted += std::mem::take(&mut self.past.checkpoints);
        self.past.log = (Lsn(0), Lsn(0));
        self.past.logs_lost = 0;
        self.past.has_checkpointed = false;
        let config = store_config(node_id(self.number, self.life), self.variant);
        self.disk.make_anew(config.log.capacity_bytes(), PAGES_BYTES);
        std::mem::take(&mut self.past.members)
    }

    /// The members that it has, or had when it ended.
    pub(super) fn members(&self) -> Vec<(GroupId, MemberId)> {
        let Some(shard) = &self.shard else { return self.past.members.clone() };
        let store = shard.store();
        store.members().map(|(ordinal, id, _)| (store.group_id(ordinal), id)).collect()
    }

    /// Whether its last checkpoint before it ended has members.
    pub(super) fn had_checkpointed_members(&self) -> bool {
        let Some(shard) = &self.shard else { return self.past.has_checkpointed };
        let store = shard.store();
        let mut members = store.members();
        members.any(|(ordinal, _, _)| store.group_figures(ordinal).checkpoint_slot > Slot(0))
    }

    /// The members that this start has cost it, because its log was damaged.
    pub(super) fn take_lost(&mut self) -> Option<Vec<(GroupId, MemberId)>> {
        let logs_lost = self.shard.as_ref()?.store().logs_lost();
        let before = std::mem::replace(&mut self.past.logs_lost, logs_lost);
        (logs_lost > before).then(|| std::mem::take(&mut self.past.members))
    }

    /// Checkpoints so far, of all starts.
    pub(super) fn checkpoints(&self) -> u64 {
        let present = self.shard.as_ref().map_or(self.past.checkpoints, checkpoint_number);
        self.past.checkpoints_deleted + present
    }

    /// Snapshots that were installed so far, of all starts.
    pub(super) fn snapshots(&self) -> u64 {
        let present = self.shard.as_ref().map(|shard| shard.store().stats().snapshots_installed);
        self.past.snapshots + present.unwrap_or(0)
    }

    /// From where to where the log is durable and may not be lost.
    fn log(&self) -> (Lsn, Lsn) {
        let present = self.shard.as_ref().map(|shard| shard.store().stats());
        present.map_or(self.past.log, |stats| (stats.trim_lsn, stats.durable_lsn))
    }

    /// Where in the log's file a place of the part that may not be lost is, given in millionths of it.
    pub(super) fn log_offset(&self, at: u64) -> u64 {
        let (first, end) = self.log();
        let lsn = first.0 + (u128::from(end.0 - first.0) * u128::from(at) / 1_000_000) as u64;
        store_config(node_id(self.number, self.life), self.variant).log.offset_bytes(Lsn(lsn))
    }
}

fn checkpoint_number(shard: &Shard) -> u64 {
    shard.store().stats().checkpoint_number
}
