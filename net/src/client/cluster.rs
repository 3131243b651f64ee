//! The nodes that a client knows, and where to send a request.
//!
//! ```text
//!   addresses given ─┐                    ┌─ node ─ shard 0, 1, …
//!   "the leader is" ─┴─► Endpoint ─hello──┴─ node ─ shard 0, 1, …      one Endpoint for each address
//!
//!   group ──► its leader, if one is known and can be reached ──► that one
//!     └────── otherwise one node after the other, from a place of the group's own; the dead left out
//! ```
//!
//! A leader is remembered for each group, that is, for each partition of a table (key ranges move
//! between nodes by themselves), and forgotten as soon as it says that it leads no more, cannot be
//! reached, or its connection ends. What is remembered is a guess and is never trusted: a shard that
//! does not lead does not begin the request, whoever sends it there.
//!
//! Invariants: one endpoint for each address, so that all groups share its connections and its
//! history; nodes are told apart by their identity, so two addresses of one node make one node; all
//! tables are bounded.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use forebay_core::ids::{GroupId, ShardId};
use tokio::time::Instant;

use super::config::ClientConfig;
use super::connection::Hello;
use super::endpoint::{Endpoint, State};

/// Addresses that are remembered; those in use beyond that work, but share nothing.
const ENDPOINTS_MAX: usize = 16 * 1024;
/// Leaders that are remembered.
const LEADERS_MAX: usize = 64 * 1024;
/// Between two looks at nodes none of which can be asked.
const LOOK_MIN: Duration = Duration::from_millis(2);
const LOOK_MAX: Duration = Duration::from_millis(25);

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) group: GroupId,
    /// The number of the members' shards on their nodes.
    pub(super) shard: ShardId,
}

impl Place {
    /// The system group.
    pub(super) const SYSTEM: Place = Place { group: GroupId::SYSTEM, shard: ShardId(0) };
}

/// What to do with a request.
#[derive(Debug)]
pub(super) enum Choice {
    /// Send it there.
    Ask(Arc<Endpoint>),
    /// Nobody can be asked at the moment; look again after so long. The error is of this one.
    Later(Duration, Arc<Endpoint>),
    /// No node has such a shard.
    NoShard,
}

#[derive(Debug)]
struct Node {
    id: [u8; 16],
    /// By shard number.
    shards: Vec<Option<Arc<Endpoint>>>,
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Cluster {
    config: Arc<ClientConfig>,
    /// As the application named them.
    given: Vec<Arc<Endpoint>>,
    /// Shards 0 of nodes, as a table's description named them: nodes that joined meanwhile.
    met: RwLock<Vec<Arc<Endpoint>>>,
    nodes: RwLock<Vec<Node>>,
    endpoints: Mutex<HashMap<SocketAddr, Arc<Endpoint>>>,
    leaders: RwLock<HashMap<GroupId, Arc<Endpoint>>>,
}

impl Cluster {
    pub(super) fn new(addrs: &[SocketAddr], config: Arc<ClientConfig>) -> Cluster {
        let mut cluster = Cluster {
            config,
            given: Vec::new(),
            met: RwLock::default(),
            nodes: RwLock::default(),
            endpoints: Mutex::default(),
            leaders: RwLock::default(),
        };
        cluster.given = addrs.iter().map(|addr| cluster.endpoint_at(*addr)).collect();
        cluster
    }

    /// The endpoints of the addresses that the application named.
    pub(super) fn given(&self) -> &[Arc<Endpoint>] {
        &self.given
    }

    /// There are nodes at these addresses.
    pub(super) fn meet(&self, addrs: impl Iterator<Item = SocketAddr>) {
        let all: Vec<Arc<Endpoint>> = addrs.map(|addr| self.endpoint_at(addr)).collect();
        let mut met = self.met.write().unwrap_or_else(PoisonError::into_inner);
        let known = |endpoint: &&Arc<Endpoint>| {
            self.given.iter().chain(&*met).any(|known| Arc::ptr_eq(known, endpoint))
        };
        let new: Vec<Arc<Endpoint>> =
            all.iter().filter(|endpoint| !known(endpoint)).cloned().collect();
        // The newest description names those that are there now.
        met.retain(|known| all.iter().any(|endpoint| Arc::ptr_eq(known, endpoint)));
        met.extend(new);
    }

    /// The endpoint of an address, made if there is none.
    pub(super) fn endpoint_at(&self, addr: SocketAddr) -> Arc<Endpoint> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = endpoints.get(&addr) {
            return known.clone();
        }
        if endpoints.len() >= ENDPOINTS_MAX {
            endpoints.retain(|_, endpoint| Arc::strong_count(endpoint) > 1);
        }
        let endpoint = Endpoint::new(addr, self.config.clone());
        if endpoints.len() < ENDPOINTS_MAX {
            endpoints.insert(addr, endpoint.clone());
        }
        endpoint
    }

    /// Whether there is another node to go to.
    pub(super) fn has_several_nodes(&self) -> bool {
        self.node_count() > 1
    }

    /// Nodes that have said what they are.
    pub(super) fn node_count(&self) -> usize {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes in what `endpoint`'s node has said of itself, if that is new. A refusal is returned.
    pub(super) fn hear(&self, endpoint: &Endpoint) -> Option<(u16, String)> {
        match endpoint.take_news()? {
            Hello::Refused { code, message } => Some((code, message)),
            Hello::Node { id, shards } => {
                self.learn(endpoint.addr().ip(), id, &shards);
                None
            }
        }
    }

    fn learn(&self, ip: IpAddr, id: [u8; 16], ports: &[(u16, u16)]) {
        let mut shards: Vec<Option<Arc<Endpoint>>> = Vec::new();
        for &(shard, port) in ports {
            let index = usize::from(shard);
            if shards.len() <= index {
                shards.resize(index + 1, None);
            }
            shards[index] = Some(self.endpoint_at(SocketAddr::new(ip, port)));
        }
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        // An address is one node's: whoever had it before was replaced.
        let is_elsewhere = |endpoint: &Arc<Endpoint>| {
            shards.iter().flatten().any(|here| Arc::ptr_eq(here, endpoint))
        };
        nodes.retain(|node| node.id == id || !node.shards.iter().flatten().any(is_elsewhere));
        match nodes.iter_mut().find(|node| node.id == id) {
            Some(known) => known.shards = shards,
            None => nodes.push(Node { id, shards }),
        }
    }

    /// Where to send a request for `place`: to the leader, as far as `leads` asks for it and it is
    /// known; otherwise to a node from number `turn` on, but not again to `asked` if there is another.
    pub(super) fn choose(
        &self,
        place: Place,
        leads: bool,
        turn: usize,
        asked: Option<&Arc<Endpoint>>,
    ) -> Choice {
        if leads && let Some(leader) = self.leader(place.group) {
            if can_be_asked(&leader) {
                return Choice::Ask(leader);
            }
            self.forget(place.group, &leader);
        }
        let met = self.met.read().unwrap_or_else(PoisonError::into_inner);
        for known in self.given.iter().chain(&*met) {
            self.hear(known);
        }
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let (mut again, mut soonest, mut dead) = (None, None, None);
        for nth in 0..nodes.len() {
            let node = &nodes[(turn + nth) % nodes.len()];
            let Some(Some(endpoint)) = node.shards.get(usize::from(place.shard.0)) else {
                continue;
            };
            match endpoint.state() {
                State::Open | State::New if asked.is_some_and(|at| Arc::ptr_eq(at, endpoint)) => {
                    again = Some(endpoint);
                }
                State::Open | State::New => return Choice::Ask(endpoint.clone()),
                State::Resting(until) => soonest = Some(soonest.unwrap_or(until).min(until)),
                State::Due => endpoint.wake(),
            }
            dead = Some(endpoint);
        }
        // Nodes that did not answer yet, and addresses of nodes that may serve elsewhere by now.
        for known in self.given.iter().chain(&*met) {
            if matches!(known.state(), State::Due | State::New) {
                known.wake();
            }
        }
        if let Some(again) = again {
            return Choice::Ask(again.clone());
        }
        let Some(dead) = dead else { return Choice::NoShard };
        let wait = soonest.map_or(LOOK_MAX, |at| at.saturating_duration_since(Instant::now()));
        Choice::Later(wait.clamp(LOOK_MIN, LOOK_MAX), dead.clone())
    }

    fn leader(&self, group: GroupId) -> Option<Arc<Endpoint>> {
        let leaders = self.leaders.read().unwrap_or_else(PoisonError::into_inner);
        leaders.get(&group).cloned()
    }

    /// `endpoint` leads the group, it says, or another member does.
    pub(super) fn remember(&self, group: GroupId, endpoint: &Arc<Endpoint>) {
        if self.leader(group).is_some_and(|known| Arc::ptr_eq(&known, endpoint)) {
            return;
        }
        let mut leaders = self.leaders.write().unwrap_or_else(PoisonError::into_inner);
        if leaders.len() >= LEADERS_MAX {
            leaders.clear();
        }
        leaders.insert(group, endpoint.clone());
    }

    /// `endpoint` does not lead the group, or cannot be reached.
    pub(super) fn forget(&self, group: GroupId, endpoint: &Arc<Endpoint>) {
        let mut leaders = self.leaders.write().unwrap_or_else(PoisonError::into_inner);
        if leaders.get(&group).is_some_and(|known| Arc::ptr_eq(known, endpoint)) {
            leaders.remove(&group);
        }
    }

    /// The group's leader is not known, whoever it was.
    pub(super) fn forget_leader(&self, group: GroupId) {
        self.leaders.write().unwrap_or_else(PoisonError::into_inner).remove(&group);
    }
}

/// Whether a request may be given to it at once, or after one attempt to connect.
pub(super) fn can_be_asked(endpoint: &Endpoint) -> bool {
    matches!(endpoint.state(), State::Open | State::New)
}
