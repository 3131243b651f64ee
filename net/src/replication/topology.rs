//! Who is in the cluster, and where: what a shard must know before it can hear anybody.
//!
//! ```text
//!   peer number = 256 * node + shard, the node by its place in the list, which never changes
//!
//!   nodes   A  B  C          join D          A  B  C  D         C's data is gone: it is E now
//!   place   0  1  2   ─────────────────────► 0  1  2  3   ────► A  B  –  D  E
//! ```
//!
//! The list only grows, so of two lists the longer one is newer. A node whose data is gone comes back
//! under a new id and in a new place; its old place stays, without addresses. **A peer number is one
//! data directory for ever**, so nobody is taken for who it was before.

use std::net::SocketAddr;

use forebay_core::digest::Digest;
use forebay_core::ids::ShardId;
use forebay_core::liveness::{Peer, SHARDS_PER_NODE};
use forebay_core::message::peer::Expected;
use forebay_core::paxos::{Az, MemberId};
use serde::{Deserialize, Serialize};

use crate::link::PeerInfo;

/// Nodes whose shard 0 holds a member of the system group from the beginning.
const FOUNDERS: usize = 3;

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopologyNode {
    /// Its data directory's random id.
    pub node_id: [u8; 16],
    /// Where it stands.
    pub az: u16,
    /// Its name in its certificate, without `node.`; none where no certificates are in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certified: Option<String>,
    /// Where its shards listen for clients, by shard number.
    pub native: Vec<SocketAddr>,
    /// Where its shards listen for peers, by shard number; none if the node was replaced.
    pub peer: Vec<SocketAddr>,
}

/// See the module's docs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Random, drawn when the cluster was made.
    pub cluster_id: [u8; 16],
    /// Its nodes; places are never reused.
    pub nodes: Vec<TopologyNode>,
}

/// News of the cluster that a node is to write down, and then to tell all its shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Who is in it.
    pub topology: Topology,
    /// The cluster is new: its first nodes create the system group.
    pub founded: bool,
}

/// The place of a shard's node.
pub(crate) fn node_of(peer: Peer) -> usize {
    (peer.0 / SHARDS_PER_NODE) as usize
}

/// Why a node cannot join, or a list of nodes does not follow another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// Ask the node again: its data directory is another one now.
    #[error("node {node_id:032x} is in the cluster already, in place {place}")]
    Joined {
        /// Which.
        node_id: u128,
        /// Where.
        place: usize,
    },
    /// Configure other addresses, or end the node that has them.
    #[error("{address} is the address of node {node_id:032x}, in place {place}")]
    AddressTaken {
        /// Which.
        address: SocketAddr,
        /// Whose.
        node_id: u128,
        /// Where that is.
        place: usize,
    },
    /// Give the new node at least as many shards as the others have.
    #[error("the node has {shards} shards, the cluster's have {expected}")]
    Shards {
        /// Of the new node.
        shards: usize,
        /// Of the cluster's.
        expected: usize,
    },
    /// Configure addresses that the other nodes can reach.
    #[error("{address} can be reached from the node itself only, or not at all")]
    Unreachable {
        /// Which.
        address: SocketAddr,
    },
    /// The node is one of another cluster: leave it where it is.
    #[error("cluster {found:032x}, not {expected:032x}")]
    OtherCluster {
        /// Its own.
        expected: u128,
        /// The other's.
        found: u128,
    },
    /// One of the lists is made up: compare the nodes' cluster.json.
    #[error("another node in place {place} than before")]
    Rewritten {
        /// Which.
        place: usize,
    },
    /// There is no room for more.
    #[error("a cluster has at most {max} nodes in all its time")]
    Full {
        /// The limit.
        max: usize,
    },
}

/// Nodes that a cluster can have in all its time: what peer numbers have room for is far more.
const NODES_MAX: usize = 4096;

/// The number of a node's shard.
#[must_use]
pub fn peer_of(node: usize, shard: ShardId) -> Peer {
    Peer(node as u32 * SHARDS_PER_NODE + u32::from(shard.0))
}

impl Topology {
    /// Every shard of every node, with its node's AZ.
    pub fn peers(&self) -> impl Iterator<Item = (PeerInfo, Az)> + '_ {
        self.nodes.iter().enumerate().flat_map(|(place, node)| {
            node.peer.iter().enumerate().map(move |(shard, address)| {
                let (node_id, az, shard) = (node.node_id, node.az, shard as u16);
                let Peer(peer) = peer_of(place, ShardId(shard));
                let expected = Expected { node_id, peer, shard, az };
                (PeerInfo { expected, address: *address }, Az(az))
            })
        })
    }

    /// Where a shard listens for clients.
    #[must_use]
    pub fn native(&self, peer: Peer) -> Option<SocketAddr> {
        let node = self.nodes.get(node_of(peer))?;
        node.native.get((peer.0 % SHARDS_PER_NODE) as usize).copied()
    }

    /// The node whose certificate bears this name.
    #[must_use]
    pub fn certified(&self, name: &str) -> Option<&TopologyNode> {
        self.nodes.iter().find(|node| node.certified.as_deref() == Some(name))
    }

    /// Where a node of the cluster has these data, if it has.
    #[must_use]
    pub fn place_of(&self, node_id: &[u8; 16]) -> Option<usize> {
        self.nodes.iter().position(|node| node.node_id == *node_id)
    }

    /// The list with one more node. Where `replaces` names a place, the node there has lost its data,
    /// and its addresses are the new one's.
    ///
    /// # Errors
    /// If the node cannot be one of this cluster.
    pub fn joined(
        &self,
        node: TopologyNode,
        replaces: Option<usize>,
    ) -> Result<Topology, TopologyError> {
        if let Some(place) = self.place_of(&node.node_id) {
            let node_id = u128::from_be_bytes(node.node_id);
            return Err(TopologyError::Joined { node_id, place });
        }
        if self.nodes.len() >= NODES_MAX {
            return Err(TopologyError::Full { max: NODES_MAX });
        }
        let (shards, expected) = (node.peer.len(), self.shards());
        if shards < expected || shards != node.native.len() || shards > SHARDS_PER_NODE as usize {
            return Err(TopologyError::Shards { shards, expected });
        }
        let mut new = self.clone();
        if let Some(replaced) = replaces.and_then(|place| new.nodes.get_mut(place)) {
            (replaced.native, replaced.peer) = (Vec::new(), Vec::new());
            // Whoever shows that name from now on is the new node.
            replaced.certified = None;
        }
        let others = || new.nodes.iter().filter(|other| !other.peer.is_empty());
        let loopback = others().any(|other| other.peer.iter().all(|at| at.ip().is_loopback()));
        for address in node.native.iter().chain(&node.peer).copied() {
            let ip = address.ip();
            if address.port() == 0 || ip.is_unspecified() || (ip.is_loopback() && !loopback) {
                return Err(TopologyError::Unreachable { address });
            }
            let has = |other: &&TopologyNode| {
                other.native.contains(&address) || other.peer.contains(&address)
            };
            if let Some(other) = others().find(has) {
                let node_id = u128::from_be_bytes(other.node_id);
                let place = self.place_of(&other.node_id).unwrap_or(0);
                return Err(TopologyError::AddressTaken { address, node_id, place });
            }
        }
        new.nodes.push(node);
        Ok(new)
    }

    /// Whether this list comes after `older`, as it grew.
    ///
    /// # Errors
    /// If it is not of the same cluster, or has other nodes in the same places.
    pub fn follows(&self, older: &Topology) -> Result<bool, TopologyError> {
        if self.cluster_id != older.cluster_id {
            let [expected, found] = [older, self].map(|list| u128::from_be_bytes(list.cluster_id));
            return Err(TopologyError::OtherCluster { expected, found });
        }
        let pairs = self.nodes.iter().zip(&older.nodes);
        match pairs.enumerate().find(|(_, (new, old))| new.node_id != old.node_id) {
            Some((place, _)) => Err(TopologyError::Rewritten { place }),
            None => Ok(self.nodes.len() > older.nodes.len()),
        }
    }

    /// Nodes that have not been replaced.
    fn current(&self) -> impl Iterator<Item = &TopologyNode> {
        self.nodes.iter().filter(|node| !node.peer.is_empty())
    }

    /// Shards of every node, at least.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.current().map(|node| node.peer.len()).min().unwrap_or(0)
    }

    /// Availability zones.
    #[must_use]
    pub fn azs(&self) -> u16 {
        let mut azs: Vec<u16> = self.current().map(|node| node.az).collect();
        azs.sort_unstable();
        azs.dedup();
        azs.len() as u16
    }

    /// The members that the system group begins with.
    #[must_use]
    pub fn system_founders(&self) -> Vec<(MemberId, Peer, Az)> {
        let founders = self.nodes.iter().take(FOUNDERS).enumerate();
        let founder = |(place, node): (usize, &TopologyNode)| {
            // As random as the two ids; every founder computes the same.
            let id = Digest::of(&self.cluster_id, &node.node_id).0 as u64;
            (MemberId(id | 1), peer_of(place, ShardId(0)), Az(node.az))
        };
        founders.map(founder).collect()
    }

    /// The shards that hold the partition numbered `index` when it is made: one number on each of
    /// three nodes in different AZs where there are so many, beginning at another node each time.
    #[must_use]
    pub fn place(&self, index: usize) -> (ShardId, Vec<(Peer, Az)>) {
        let shard = ShardId((index % self.shards().max(1)) as u16);
        let count = self.nodes.len();
        let lives = |node: &usize| !self.nodes[*node].peer.is_empty();
        let around = || (0..count).map(move |step| (index + step) % count).filter(lives);
        let mut chosen: Vec<usize> = Vec::with_capacity(FOUNDERS);
        let fresh_az = |chosen: &[usize], node: usize| {
            chosen.iter().all(|other| self.nodes[*other].az != self.nodes[node].az)
        };
        for node in around() {
            if chosen.len() < FOUNDERS && fresh_az(&chosen, node) {
                chosen.push(node);
            }
        }
        for node in around() {
            if chosen.len() < FOUNDERS && !chosen.contains(&node) {
                chosen.push(node);
            }
        }
        let member = |node: usize| (peer_of(node, shard), Az(self.nodes[node].az));
        (shard, chosen.into_iter().map(member).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(azs: &[u16]) -> Topology {
        let address = |port: u16| vec![SocketAddr::from(([127, 0, 0, 1], port))];
        let node = |(place, az): (usize, &u16)| TopologyNode {
            node_id: [place as u8; 16],
            az: *az,
            certified: None,
            native: address(1000 + place as u16),
            peer: address(2000 + place as u16),
        };
        Topology { cluster_id: [7; 16], nodes: azs.iter().enumerate().map(node).collect() }
    }

    #[test]
    fn members_of_a_group_stand_in_three_azs_where_there_are_three() {
        let topology = topology(&[0, 0, 1, 2, 2]);
        for index in 0..10 {
            let (_, members) = topology.place(index);
            let mut azs: Vec<u16> = members.iter().map(|(_, az)| az.0).collect();
            azs.sort_unstable();
            assert_eq!(azs, [0, 1, 2], "partition {index}");
        }
    }

    #[test]
    fn three_nodes_hold_a_group_however_few_azs_there_are() {
        let (_, mut members) = topology(&[0, 0, 0]).place(1);
        members.sort_unstable();
        assert_eq!(members, [0, 1, 2].map(|node| (peer_of(node, ShardId(0)), Az(0))));
    }

    #[test]
    fn numbers_name_addresses() {
        let topology = topology(&[0, 1, 2]);
        let peer = peer_of(2, ShardId(0));
        assert_eq!(topology.native(peer), Some(SocketAddr::from(([127, 0, 0, 1], 1002))));
        assert_eq!(topology.native(peer_of(3, ShardId(0))), None);
        assert_eq!(topology.peers().count(), 3);
        assert_eq!(topology.azs(), 3);
    }

    #[test]
    fn a_node_joins_in_a_place_of_its_own() {
        let node = |n: u8, port: u16| TopologyNode {
            node_id: [n; 16],
            az: 0,
            certified: None,
            native: vec![SocketAddr::from(([127, 0, 0, 1], port))],
            peer: vec![SocketAddr::from(([127, 0, 0, 1], port + 1000))],
        };
        let three = topology(&[0, 1, 2]);
        let four = three.joined(node(9, 1003), None).unwrap();
        assert_eq!(four.follows(&three), Ok(true));
        assert_eq!(three.follows(&four), Ok(false));
        assert_eq!(four.place_of(&[9; 16]), Some(3));
        let joined = four.joined(node(9, 1004), None);
        assert!(matches!(joined, Err(TopologyError::Joined { place: 3, .. })));
        let taken = four.joined(node(10, 1001), None);
        assert!(matches!(taken, Err(TopologyError::AddressTaken { place: 1, .. })), "{taken:?}");
        let other = Topology { cluster_id: [8; 16], ..three.clone() };
        assert!(matches!(other.follows(&three), Err(TopologyError::OtherCluster { .. })));
        let mut rewritten = four.clone();
        rewritten.nodes[1].node_id = [77; 16];
        assert_eq!(rewritten.follows(&three), Err(TopologyError::Rewritten { place: 1 }));
    }

    #[test]
    fn a_node_that_lost_its_data_is_another_one() {
        let three = topology(&[0, 1, 2]);
        let again = TopologyNode { node_id: [9; 16], ..three.nodes[1].clone() };
        assert!(three.joined(again.clone(), None).is_err(), "the addresses are the old one's");
        let four = three.joined(again.clone(), Some(1)).unwrap();
        assert_eq!(four.native(peer_of(1, ShardId(0))), None);
        assert_eq!(four.native(peer_of(3, ShardId(0))), Some(again.native[0]));
        assert_eq!((four.peers().count(), four.azs(), four.shards()), (3, 3, 1));
        for index in 0..4 {
            let (_, members) = four.place(index);
            assert!(members.iter().all(|(peer, _)| node_of(*peer) != 1), "{members:?}");
        }
    }
}
