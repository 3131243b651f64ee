//! One shard's thread: ring, recovery, service.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use forebay_core::ids::ShardId;
use forebay_core::time::Nanos;
use forebay_storage::block::{BLOCK_BYTES, BlockBuf, DiskDone, ShardFile};
use forebay_storage::directory::{Geometry, ShardFiles};
use forebay_storage::log::LogConfig;
use forebay_storage::maintenance::{Verifier, VerifierConfig};
use forebay_storage::store::{self, StoreConfig};

use super::config::{DurableMode, NodeConfig};
use super::disk::FileDisk;
use super::maintenance::{Maintenance, VERIFY_BYTES_PER_SECOND, VERIFY_JOBS};
use super::{Incoming, NodeError, Outgoing};
use crate::control::boottime_nanos;
use crate::lane::{Receiver, Waker, Wakeup};
use crate::machine::{CloseReason, ConnId, Effects, Machine, SendBuf};
use crate::metrics::{ShardMetrics, ShardPhase};
use crate::replication::Joined;
use crate::ring::{self, Ring, RingConfig};
use crate::shard::{Clock, ClusterContext, Mail, PEER_LISTENER, Shard, ShardContext};
use crate::tls::{Arrival, Dial, Host, NodeTls};

/// An idle log gets its marker after this long.
const MARKER_NANOS: u64 = 5 * Nanos::PER_MILLI;

/// What a shard's thread is told.
pub(super) struct ShardPlan {
    pub(super) shard: ShardId,
    pub(super) config: NodeConfig,
    pub(super) shards: usize,
    pub(super) log_path: PathBuf,
    pub(super) files: ShardFiles,
    pub(super) node_id: u128,
    pub(super) log_id: u64,
    pub(super) geometry: Geometry,
    pub(super) core: Option<usize>,
    pub(super) listen: Vec<SocketAddr>,
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
    pub(super) wakers: Vec<Waker>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) metrics: Arc<ShardMetrics>,
    pub(super) hello: mpsc::Sender<Hello>,
    pub(super) ports_known: mpsc::Receiver<Ports>,
    pub(super) joined: mpsc::Sender<Joined>,
    /// The doors are the control lane's, and what comes through them arrives here.
    pub(super) tls: Option<Secure>,
}

/// A shard's part in TLS.
pub(super) struct Secure {
    pub(super) tls: Arc<NodeTls>,
    pub(super) arrivals: Receiver<Arrival>,
    pub(super) dials: tokio::sync::mpsc::Sender<Dial>,
    pub(super) native: SocketAddr,
    pub(super) peer: Option<SocketAddr>,
}

/// Where all shards of the node listen.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    pub(super) native: Vec<u16>,
    /// None where the node stands alone.
    pub(super) peer: Vec<SocketAddr>,
}

/// A shard's first word: where it listens.
pub(super) struct Hello {
    pub(super) shard: ShardId,
    pub(super) native: SocketAddr,
    pub(super) peer: Option<SocketAddr>,
}

/// Ends the process when the thread unwinds.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Runs a shard until it is told to stop or fails.
pub(super) fn run(plan: ShardPlan, wakeup: Wakeup) -> Result<(), NodeError> {
    let _abort = AbortOnPanic;
    let config = &plan.config;
    let store_config = store_config(config, &plan.geometry, plan.shard, plan.shards, plan.log_id);
    // Before the ring pins this thread: the lane's own must not inherit that.
    let waker = plan.wakers[usize::from(plan.shard.0)].clone();
    let verifier = Verifier::start(
        VerifierConfig {
            path: plan.log_path,
            log: store_config.log,
            bytes_per_second: VERIFY_BYTES_PER_SECOND,
            queue_jobs: VERIFY_JOBS,
        },
        move || waker.wake(),
    )?;
    let log_again = plan.files.log.try_clone().map_err(NodeError::Thread)?;
    let pages_again = plan.files.pages.try_clone().map_err(NodeError::Thread)?;
    let mut ring = Ring::new(RingConfig {
        core: plan.core,
        listen: plan.listen.clone(),
        connections_max: config.connections_max,
        files: vec![(ShardFile::Log, log_again), (ShardFile::Pages, pages_again)],
        durable: match config.durable_mode {
            DurableMode::Dsync => ring::DurableMode::Dsync,
            DurableMode::LinkedFdatasync => ring::DurableMode::LinkedFdatasync,
        },
        wakeup: Some(wakeup.as_raw_fd()),
        busy_poll: Duration::from_micros(config.busy_poll_microseconds.into()),
        ..RingConfig::default()
    })?;
    let (native, peer) = match &plan.tls {
        Some(secure) => (secure.native, secure.peer),
        None => {
            let peer = (plan.listen.len() > PEER_LISTENER).then(|| ring.local_addr(PEER_LISTENER));
            (ring.local_addr(0)?, peer.transpose()?)
        }
    };
    // The starter is gone only if it failed meanwhile; then the ports never come.
    let _ = plan.hello.send(Hello { shard: plan.shard, native, peer });
    drop(plan.hello);
    let Ok(ports) = plan.ports_known.recv() else { return Ok(()) };

    plan.metrics.set_phase(ShardPhase::Recovering);
    let mut buffers: Vec<BlockBuf> = (0..store_config.log.buffers_wanted())
        .map(|_| BlockBuf::zeroed(store_config.log.batch_bytes_max as usize / BLOCK_BYTES))
        .collect();
    let registered = (config.registered_bytes / u64::from(store_config.log.batch_bytes_max))
        .min(buffers.len() as u64) as usize;
    if registered > 0 {
        ring.register_buffers(&mut buffers[..registered])?;
    }
    let started = Instant::now();
    let mut disk = FileDisk { log: plan.files.log, pages: plan.files.pages };
    let metrics = Arc::clone(&plan.metrics);
    let opened = store::open(
        store_config,
        plan.node_id,
        buffers,
        &mut disk,
        Nanos(boottime_nanos()),
        &mut |progress| {
            metrics.recovery_replayed_bytes.set(progress.done_bytes);
            metrics.recovery_total_bytes.set(progress.total_bytes);
            metrics.recovery_applied_entries.set(progress.entries);
        },
    )
    .map_err(|source| NodeError::Open { shard: plan.shard, source })?;
    let mut store = opened.store;
    store.populate_memory();
    plan.metrics.recovery_duration_microseconds.set(started.elapsed().as_micros() as u64);
    if let Some(warning) = opened.warning {
        eprintln!("forebay: shard {}: {warning}", plan.shard);
    }

    let context = ShardContext {
        shard: plan.shard,
        node_id: plan.node_id.to_be_bytes(),
        ports: ports.native,
        random_seed: random_seed(),
        unix_millis_at_zero: unix_millis().saturating_sub(boottime_nanos() / Nanos::PER_MILLI),
        metrics: Arc::clone(&plan.metrics),
        cluster: config.cluster.map(|cluster| ClusterContext {
            az: cluster.az,
            peer: ports.peer,
            clock: Clock(Arc::new(|| Nanos(boottime_nanos()))),
            grows: cluster.peer.port() != 0,
        }),
    };
    let mut shard = Shard::new(context, store, Nanos(boottime_nanos()));
    shard.set_snapshot_bytes_per_second(config.snapshot_bytes_per_second);
    let scrub = (config.scrub_seconds > 0).then(|| u64::from(config.scrub_seconds));
    shard.set_scrub_period(scrub.map(|seconds| seconds * Nanos::PER_SECOND));
    shard.set_replace_after(u64::from(config.replace_after_seconds) * Nanos::PER_SECOND);
    let tls = plan.tls.map(|Secure { tls, arrivals, dials, .. }| {
        shard.certify(tls.name().to_owned());
        Box::new(Host::new(tls, usize::from(plan.shard.0), arrivals, dials))
    });
    if let Some(source) = shard.unreadable().cloned() {
        return Err(NodeError::Unreadable { shard: plan.shard, source });
    }
    let mut machine = Hosted {
        shard,
        tls,
        wakeup,
        outgoing: plan.outgoing,
        incoming: plan.incoming,
        wakers: plan.wakers,
        unsent: VecDeque::new(),
        stop: plan.stop,
        counters: ring.counters(),
        metrics: plan.metrics,
        maintenance: Maintenance::new(verifier),
        joined: plan.joined,
    };
    ring.run(&mut machine)?;
    if let Some(source) = machine.shard.unreadable().cloned() {
        return Err(NodeError::Unreadable { shard: plan.shard, source });
    }
    match machine.shard.store().failure() {
        None => Ok(()),
        Some(reason) => {
            Err(NodeError::ShardFailed { shard: plan.shard, reason: reason.to_string() })
        }
    }
}

fn store_config(
    config: &NodeConfig,
    geometry: &Geometry,
    shard: ShardId,
    shards: usize,
    log_id: u64,
) -> StoreConfig {
    let share = config.memory_bytes / shards as u64;
    let overlay_bytes = config.overlay_bytes.unwrap_or(share / 4);
    let mut log = LogConfig::standard(shard, log_id);
    log.segment_bytes = geometry.log_segment_bytes;
    log.segments = geometry.log_segments;
    log.in_flight_max = config.batches_in_flight;
    StoreConfig {
        log,
        overlay_generation_bytes: (overlay_bytes / 2) as usize,
        cache_bytes: (share - overlay_bytes) as usize,
        checkpoint_interval_nanos: u64::from(config.checkpoint.interval_seconds)
            * Nanos::PER_SECOND,
        checkpoints_off: !config.checkpoint.enabled,
        overlay_fill_percent: config.checkpoint.overlay_fill_percent,
        log_fill_percent: config.checkpoint.log_fill_percent,
        merge_slice_micros: config.checkpoint.slice_microseconds,
        marker_nanos: MARKER_NANOS,
    }
}

/// Drawn from the operating system by way of std's hash keys, so that no two nodes draw the same
/// ids.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The shard with its queues to the other shards.
struct Hosted {
    shard: Shard,
    /// Where TLS is spoken, all connections go through it.
    tls: Option<Box<Host>>,
    wakeup: Wakeup,
    outgoing: Outgoing,
    incoming: Incoming,
    wakers: Vec<Waker>,
    /// Mail for which a queue had no room.
    unsent: VecDeque<Mail>,
    stop: Arc<AtomicBool>,
    counters: Arc<ring::RingCounters>,
    metrics: Arc<ShardMetrics>,
    maintenance: Maintenance,
    joined: mpsc::Sender<Joined>,
}

impl Hosted {
    fn receive_mail(&mut self, now: Nanos) {
        for queue in &mut self.incoming {
            while let Ok(message) = queue.try_recv() {
                self.shard.mail(message, now);
            }
        }
    }

    fn send_mail(&mut self, fx: &mut Effects) {
        self.unsent.extend(self.shard.take_mail());
        while let Some(Mail { to, message }) = self.unsent.pop_front() {
            let index = usize::from(to.0);
            let queue = self.outgoing[index].as_mut().expect("no shard writes to itself");
            match queue.try_send(message) {
                Ok(()) => self.wakers[index].wake(),
                Err(full) => {
                    self.unsent.push_front(Mail { to, message: full.0 });
                    fx.run_again = true;
                    break;
                }
            }
        }
    }
}

impl Machine for Hosted {
    fn connected(&mut self, conn: ConnId, listener: usize, token: Option<u64>, now: Nanos) {
        match (&mut self.tls, token) {
            (Some(tls), Some(token)) => tls.connected(&mut self.shard, conn, token, now),
            _ => self.shard.connected(conn, listener, token, now),
        }
    }

    fn connect_failed(&mut self, token: u64, errno: i32, now: Nanos) {
        match &mut self.tls {
            None => self.shard.connect_failed(token, errno, now),
            Some(tls) => tls.refused(&mut self.shard, token, errno, now),
        }
    }

    fn received(&mut self, conn: ConnId, bytes: &[u8], now: Nanos, fx: &mut Effects) {
        match &mut self.tls {
            None => self.shard.received(conn, bytes, now, fx),
            Some(tls) => tls.received(&mut self.shard, conn, bytes, now, fx),
        }
    }

    fn sent(&mut self, conn: ConnId, buf: SendBuf, now: Nanos) {
        match &mut self.tls {
            None => self.shard.sent(conn, buf, now),
            Some(tls) => tls.sent(&mut self.shard, conn, buf, now),
        }
    }

    fn closed(&mut self, conn: ConnId, reason: CloseReason, now: Nanos) {
        match &mut self.tls {
            None => self.shard.closed(conn, reason, now),
            Some(tls) => tls.closed(&mut self.shard, conn, reason, now),
        }
    }

    fn disk_done(&mut self, done: DiskDone, now: Nanos) {
        self.shard.disk_done(done, now);
    }

    fn woken(&mut self, now: Nanos) {
        self.shard.woken(now);
    }

    fn turn(&mut self, now: Nanos, fx: &mut Effects) {
        // Armed before the queues are drained: whoever sends after this rings.
        self.wakeup.arm();
        self.receive_mail(now);
        if self.stop.load(Ordering::Acquire) {
            self.shard.stop();
        }
        if let Some(tls) = &mut self.tls {
            tls.before_turn(&mut self.shard, now, fx);
        }
        self.shard.turn(now, fx);
        if let Some(tls) = &mut self.tls {
            tls.after_turn(&mut self.shard, now, fx);
        }
        self.send_mail(fx);
        if let Some(joined) = self.shard.take_joined() {
            // The node is gone only when it is stopping.
            let _ = self.joined.send(joined);
        }
        if self.shard.published_at(now) {
            publish(&self.counters, &self.metrics);
            if let Some(tls) = &mut self.tls {
                tls.observe(&self.shard);
            }
            self.maintenance.step(&mut self.shard, &self.metrics);
        }
    }
}

/// Copies the ring's counters to where the control lane reads them.
fn publish(counters: &ring::RingCounters, metrics: &ShardMetrics) {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    metrics.ring_enters.set_total(get(&counters.enters));
    metrics.ring_submissions.set_total(get(&counters.submissions));
    metrics.ring_completions.set_total(get(&counters.completions));
    metrics.ring_buffer_shortages.set_total(get(&counters.receive_no_buffers));
    metrics.connections_refused.set_total(get(&counters.refused));
    metrics.turns.set_total(get(&counters.turns));
    metrics.turn_max_microseconds.set(get(&counters.turn_nanos_max) / Nanos::PER_MICRO);
}
