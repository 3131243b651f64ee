//! A node: shards on their cores, and the control lane beside them.
//!
//! ```text
//!   start ─┬─► thread "shard-0": ring, listener ─► recovery ─► Shard driven by the ring ─┐
//!          ├─► thread "shard-1": …                      ▲ mail through bounded queues ────┤
//!          └─► control threads: health, metrics, status │ eventfd wakes the ring          │
//!   stop  ───────────────────────────────────────────────────────────────────────────────►┘
//! ```
//!
//! A shard's thread makes its ring, because a ring belongs to its thread, and recovers its store
//! with plain blocking I/O before the ring runs: nobody is served until then, so nothing is gained
//! by interleaving. A panic on a shard aborts the process: its state is not to be trusted, and the
//! log has what was acknowledged.

pub mod config;
mod disk;
mod maintenance;
mod shard_thread;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forebay_core::ids::ShardId;
use forebay_storage::directory::{DataDirectory, DirectoryError};
use forebay_storage::maintenance::VerifierError;
use forebay_storage::store::OpenError;

use crate::control::{ControlConfig, ControlError, ControlServer, NodeSource};
use crate::lane::{Receiver, Sender, Waker, Wakeup, channel as lane};
use crate::metrics::ShardMetrics;
use crate::replication::{Joined, Topology, TopologyNode};
use crate::ring::{RingConfig, RingError, listen};
use crate::shard::{METRIC_NAMES, ShardMail, Unreadable};
use crate::tls::{
    ARRIVALS_QUEUE, Arrival, DIALS_QUEUE, Desk, Dial, Door, Lobby, LobbyPlan, NodeTls, TlsError,
    Which,
};
use config::{ClusterPlace, NodeConfig, shard_address};
use shard_thread::{Hello, Ports, Secure, ShardPlan};

/// Messages on their way from one shard to another at most; more wait at the sender.
const MAIL_QUEUE: usize = 1024;
/// A shard that has not opened its files and its port by then is stuck.
const START_MAX: Duration = Duration::from_secs(30);
/// For the other shards' threads to end when one is stuck.
const END_MAX: Duration = Duration::from_secs(2);

/// Why a node did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The ring could not be made; the error says what is missing and what to change.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A file of the data directory could not be opened.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A shard's data could not be recovered.
    #[error("shard {shard}: {source}")]
    Open {
        /// Which shard.
        shard: ShardId,
        /// Why.
        source: OpenError,
    },
    /// The operator's HTTP could not start.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The certificates cannot be used, or the handshakes' threads not be made.
    #[error(transparent)]
    Tls(Box<TlsError>),
    /// The maintenance lane could not open the log.
    #[error(transparent)]
    Maintenance(#[from] VerifierError),
    /// A thread could not be made: look at the limits on processes and memory.
    #[error("starting a thread: {0}")]
    Thread(std::io::Error),
    /// A shard cannot read what it recovered, and serves nothing.
    #[error("shard {shard}: {source}")]
    Unreadable {
        /// Which shard.
        shard: ShardId,
        /// What it cannot read.
        source: Unreadable,
    },
    /// A shard's thread gave no sign of life: the device or the file system does not answer. The
    /// threads that could end have ended; end this process, which ends the others, too.
    #[error(
        "a shard did not open its files and port within {} s; {threads} of its threads cannot be \
         ended and keep their files locked until this process ends; look at the device and the \
         kernel's log, then start again",
        START_MAX.as_secs()
    )]
    Stuck {
        /// Threads that were still running when this was said.
        threads: usize,
    },
    /// A shard met a failed write and serves nothing: restart the node, look at the device.
    #[error("shard {shard} stopped serving: {reason}")]
    ShardFailed {
        /// Which shard.
        shard: ShardId,
        /// Why.
        reason: String,
    },
}

impl From<TlsError> for NodeError {
    fn from(error: TlsError) -> NodeError {
        NodeError::Tls(Box::new(error))
    }
}

#[derive(Debug)]
struct ShardHandle {
    thread: Option<JoinHandle<Result<(), NodeError>>>,
    native: SocketAddr,
    peer: Option<SocketAddr>,
    metrics: Arc<ShardMetrics>,
    waker: Waker,
    /// What the node tells it.
    told: Sender<ShardMail>,
}

/// A running node. Dropping it without [`Node::stop`] leaves its threads running.
#[derive(Debug)]
pub struct Node {
    shards: Vec<ShardHandle>,
    stop: Arc<AtomicBool>,
    control: Option<ControlServer>,
    tls: Option<Arc<NodeTls>>,
    /// Where clients and peers wait until their certificates are checked.
    lobby: Option<Lobby>,
    directory: DataDirectory,
    cluster: Option<ClusterPlace>,
    /// What operators have told a shard.
    joins: mpsc::Receiver<Joined>,
}

impl Node {
    /// Starts every shard of `directory` and the control lane. Recovery goes on behind it: watch
    /// the shards' phases.
    ///
    /// # Errors
    /// Something is missing or in use; the error says what to change. Nothing is left running, but
    /// for what [`NodeError::Stuck`] says.
    pub fn start(config: &NodeConfig, directory: DataDirectory) -> Result<Node, NodeError> {
        let count = usize::from(directory.geometry().shards);
        let cores = plan_cores(config.pin_cores, count);
        let tls = config.tls.as_ref().map(NodeTls::read).transpose()?.map(Arc::new);
        let mut secured = match &tls {
            Some(tls) => Some(open_doors(config, tls, count)?),
            None => None,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let wakeups: Vec<Wakeup> = (0..count)
            .map(|_| Wakeup::new())
            .collect::<Result<_, _>>()
            .map_err(NodeError::Thread)?;
        let wakers: Vec<Waker> = wakeups.iter().map(Wakeup::waker).collect();
        let (mut outgoing, mut incoming) = mail_routes(count);
        let (hello, hellos) = channel();
        let (joined, joins) = channel();
        let mut node = Node {
            shards: Vec::new(),
            stop,
            control: None,
            tls,
            lobby: None,
            directory,
            cluster: config.cluster,
            joins,
        };
        let mut go = Vec::new();
        for (index, wakeup) in wakeups.into_iter().enumerate() {
            let (told, hears) = lane(MAIL_QUEUE);
            incoming[index].push(hears);
            let shard = ShardId(index as u16);
            let metrics = Arc::new(ShardMetrics::new(shard, METRIC_NAMES));
            let (ports, ports_known) = channel();
            go.push(ports);
            let plan = ShardPlan {
                shard,
                config: config.clone(),
                shards: count,
                log_path: node.directory.shard_path(shard).join("log"),
                files: node.directory.open_shard(shard)?,
                node_id: node.directory.node_id(),
                log_id: node.directory.log_id(),
                geometry: node.directory.geometry(),
                core: cores.as_ref().map(|cores| cores[index]),
                listen: match &secured {
                    Some(_) => Vec::new(),
                    None => listeners(config, shard),
                },
                outgoing: std::mem::take(&mut outgoing[index]),
                incoming: std::mem::take(&mut incoming[index]),
                wakers: wakers.clone(),
                stop: Arc::clone(&node.stop),
                metrics: Arc::clone(&metrics),
                hello: hello.clone(),
                ports_known,
                joined: joined.clone(),
                tls: secured.as_mut().and_then(|secured| secured.shards.pop_front()),
            };
            let thread = std::thread::Builder::new()
                .name(format!("shard-{shard}"))
                .spawn(move || shard_thread::run(plan, wakeup))
                .map_err(NodeError::Thread)?;
            node.shards.push(ShardHandle {
                thread: Some(thread),
                native: config.native,
                peer: None,
                metrics,
                waker: wakers[index].clone(),
                told,
            });
        }
        drop(hello);
        let deadline = Instant::now() + START_MAX;
        for _ in 0..count {
            let left = deadline.saturating_duration_since(Instant::now());
            match hellos.recv_timeout(left) {
                Ok(Hello { shard, native, peer }) => {
                    let shard = &mut node.shards[usize::from(shard.0)];
                    let told = |bound| {
                        config
                            .cluster
                            .map_or(bound, |place| place.told(shard.metrics.shard(), bound))
                    };
                    (shard.native, shard.peer) = (native, peer.map(told));
                }
                Err(RecvTimeoutError::Timeout) => {
                    drop(go);
                    return Err(NodeError::Stuck { threads: node.abandon(END_MAX) });
                }
                // A thread ended before it said where it listens: its result says why.
                Err(RecvTimeoutError::Disconnected) => {
                    drop(go);
                    let ended = NodeError::Stuck { threads: 0 };
                    return Err(node.first_error().unwrap_or(ended));
                }
            }
        }
        let ports = Ports {
            native: node.shards.iter().map(|shard| shard.native.port()).collect(),
            peer: node.shards.iter().filter_map(|shard| shard.peer).collect(),
        };
        for ports_known in go {
            // A shard that has ended meanwhile says why when it is joined.
            let _ = ports_known.send(ports.clone());
        }
        let core = cores.and_then(|cores| cores.last().copied());
        if let Some(Doors { doors, desks, dials, .. }) = secured
            && let Some(tls) = node.tls.clone()
        {
            let desks = desks.into_iter().zip(&wakers);
            let desk = |(arrivals, waker): (_, &Waker)| Desk { arrivals, waker: waker.clone() };
            let desks = desks.map(desk).collect();
            match Lobby::start(LobbyPlan { tls, core, doors, desks, dials }) {
                Ok(lobby) => node.lobby = Some(lobby),
                Err(error) => {
                    let _ = node.stop();
                    return Err(error.into());
                }
            }
        }
        if let Some(listen) = config.http {
            let server = ControlConfig { core, ..ControlConfig::at(listen) };
            match ControlServer::start(server, node.source(config)) {
                Ok(control) => node.control = Some(control),
                Err(error) => {
                    let _ = node.stop();
                    return Err(error.into());
                }
            }
        }
        Ok(node)
    }

    fn source(&self, config: &NodeConfig) -> Arc<NodeSource> {
        Arc::new(NodeSource {
            node_id: format!("{:032x}", self.directory.node_id()),
            data_dir: self.directory.path().display().to_string(),
            durable_mode: config.durable_mode.name().to_owned(),
            pinned: plan_cores(config.pin_cores, self.shards.len()).is_some(),
            started: Instant::now(),
            tls: self.tls.clone(),
            shards: self
                .shards
                .iter()
                .map(|shard| (shard.native, Arc::clone(&shard.metrics)))
                .collect(),
        })
    }

    /// Where the shards listen, in order.
    #[must_use]
    pub fn native_addrs(&self) -> Vec<SocketAddr> {
        self.shards.iter().map(|shard| shard.native).collect()
    }

    /// This node as the others must know it; None if it stands alone.
    #[must_use]
    pub fn topology_node(&self) -> Option<TopologyNode> {
        Some(TopologyNode {
            node_id: self.directory.node_id().to_be_bytes(),
            az: self.cluster?.az,
            certified: self.tls.as_ref().map(|tls| tls.name().to_owned()),
            native: self.native_addrs(),
            peer: self.shards.iter().map(|shard| shard.peer).collect::<Option<_>>()?,
        })
    }

    /// The cluster that an operator has put this node in since the last call, or how its own has
    /// grown. Write it down, then call [`Node::set_topology`], now and at every start.
    #[must_use]
    pub fn take_joined(&self) -> Option<Joined> {
        self.joins.try_recv().ok()
    }

    /// Tells every shard who is in the cluster. With `bootstrap` the cluster is new, and its first
    /// three nodes create the system group.
    pub fn set_topology(&mut self, topology: &Arc<Topology>, bootstrap: bool) {
        for shard in &mut self.shards {
            let topology = Arc::clone(topology);
            // A shard that takes no mail has ended, and says why when it is joined.
            let _ = shard.told.try_send(ShardMail::Topology { topology, bootstrap });
            shard.waker.wake();
        }
    }

    /// Where the operator's HTTP listens.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.control.as_ref().map(ControlServer::local_addr)
    }

    /// The shards' metrics, in order.
    #[must_use]
    pub fn metrics(&self) -> Vec<Arc<ShardMetrics>> {
        self.shards.iter().map(|shard| Arc::clone(&shard.metrics)).collect()
    }

    /// Reads the certificates again, for connections from here on; None where there are none. An error
    /// says which file is wrong and how, and nothing has changed.
    #[must_use]
    pub fn reload_certificates(&self) -> Option<Result<(), TlsError>> {
        self.tls.as_ref().map(|tls| tls.reload())
    }

    /// Why a shard ended by itself, once one has.
    pub fn failure(&mut self) -> Option<NodeError> {
        let ended = |shard: &ShardHandle| shard.thread.as_ref().is_some_and(|t| t.is_finished());
        let index = self.shards.iter().position(ended)?;
        let thread = self.shards[index].thread.take().expect("just seen");
        let shard = ShardId(index as u16);
        match join(thread) {
            Err(error) => Some(error),
            Ok(()) => Some(NodeError::ShardFailed { shard, reason: "it ended".to_owned() }),
        }
    }

    /// Stops every shard in order: no new requests, everything accepted answered, a last
    /// checkpoint. Returns when all threads have ended.
    ///
    /// # Errors
    /// The first shard that did not end well.
    pub fn stop(mut self) -> Result<(), NodeError> {
        match self.first_error() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Lets every thread end that can; how many are left after `patience`. Nobody can be joined who
    /// may never end.
    fn abandon(&mut self, patience: Duration) -> usize {
        self.stop.store(true, Ordering::Release);
        for shard in &self.shards {
            shard.waker.wake();
        }
        still_running(self.shards.iter().filter_map(|shard| shard.thread.as_ref()), patience)
    }

    /// Ends all threads and returns the first error of one.
    fn first_error(&mut self) -> Option<NodeError> {
        self.stop.store(true, Ordering::Release);
        for shard in &self.shards {
            shard.waker.wake();
        }
        let mut first = None;
        for shard in &mut self.shards {
            let result = shard.thread.take().map_or(Ok(()), join);
            first = first.or(result.err());
        }
        self.control = None;
        self.lobby = None;
        first
    }
}

/// Threads that have not ended after `patience`.
fn still_running<'a, T: 'a>(
    threads: impl Iterator<Item = &'a JoinHandle<T>> + Clone,
    patience: Duration,
) -> usize {
    let deadline = Instant::now() + patience;
    loop {
        let running = threads.clone().filter(|thread| !thread.is_finished()).count();
        if running == 0 || Instant::now() >= deadline {
            return running;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn join(thread: JoinHandle<Result<(), NodeError>>) -> Result<(), NodeError> {
    thread.join().unwrap_or_else(|_| unreachable!("a panic on a shard aborts the process"))
}

/// Where a shard listens: for clients, and in a cluster for peers.
fn listeners(config: &NodeConfig, shard: ShardId) -> Vec<SocketAddr> {
    let peer = config.cluster.map(|cluster| shard_address(cluster.peer, shard.0));
    std::iter::once(config.native_addr(shard.0)).chain(peer).collect()
}

/// The ports of a node that speaks TLS, and the ways between its lobby and its shards.
struct Doors {
    doors: Vec<Door>,
    desks: Vec<Sender<Arrival>>,
    dials: tokio::sync::mpsc::Receiver<Dial>,
    shards: VecDeque<Secure>,
}

fn open_doors(config: &NodeConfig, tls: &Arc<NodeTls>, count: usize) -> Result<Doors, NodeError> {
    let (dial, dials) = tokio::sync::mpsc::channel(DIALS_QUEUE);
    let (mut doors, mut desks, mut shards) = (Vec::new(), Vec::new(), VecDeque::new());
    for shard in 0..count {
        let mut addresses = Vec::new();
        for (which, at) in
            [Which::Native, Which::Peer].into_iter().zip(listeners(config, ShardId(shard as u16)))
        {
            let RingConfig { backlog, bind_retry, .. } = RingConfig::default();
            let listener = listen(at, backlog, bind_retry)?;
            addresses.push(listener.local_addr().map_err(NodeError::Thread)?);
            doors.push(Door { listener, shard, which });
        }
        let (desk, arrivals) = lane(ARRIVALS_QUEUE);
        desks.push(desk);
        shards.push_back(Secure {
            tls: Arc::clone(tls),
            arrivals,
            dials: dial.clone(),
            native: addresses[0],
            peer: addresses.get(1).copied(),
        });
    }
    Ok(Doors { doors, desks, dials, shards })
}

/// A core for each shard and, last, one for the other lanes; None if there are too few.
fn plan_cores(pin: bool, shards: usize) -> Option<Vec<usize>> {
    let cores: Vec<usize> =
        core_affinity::get_core_ids()?.into_iter().map(|core| core.id).collect();
    (pin && cores.len() > shards).then(|| cores[..=shards].to_vec())
}

type Outgoing = Vec<Option<Sender<ShardMail>>>;
type Incoming = Vec<Receiver<ShardMail>>;

/// A queue from every shard to every other.
fn mail_routes(count: usize) -> (Vec<Outgoing>, Vec<Incoming>) {
    let mut incoming: Vec<Incoming> = (0..count).map(|_| Vec::new()).collect();
    let routes_from = |from: usize, incoming: &mut [Incoming]| {
        let route = |(to, queue): (usize, &mut Incoming)| {
            (from != to).then(|| {
                let (sender, receiver) = lane(MAIL_QUEUE);
                queue.push(receiver);
                sender
            })
        };
        incoming.iter_mut().enumerate().map(route).collect()
    };
    let outgoing = (0..count).map(|from| routes_from(from, &mut incoming)).collect();
    (outgoing, incoming)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_can_end_are_waited_for_and_those_that_cannot_are_counted() {
        let (keep, kept) = channel::<()>();
        let threads = [
            std::thread::spawn(|| std::thread::sleep(Duration::from_millis(30))),
            std::thread::spawn(move || assert!(kept.recv().is_err(), "nothing is sent")),
        ];
        assert_eq!(still_running(threads.iter(), Duration::from_millis(300)), 1);
        assert!(threads[0].is_finished());
        drop(keep);
        assert_eq!(still_running(threads.iter(), Duration::from_secs(10)), 0);
        let said = NodeError::Stuck { threads: 1 }.to_string();
        assert!(said.contains("1 of its threads") && said.contains("this process"), "{said}");
    }
}
