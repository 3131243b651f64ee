//! Who is in the cluster, and where: what a shard must know before it can hear anybody.
//!
//! ```text
//!   peer number = 256 * node + shard, the node by its place in the list, which never changes
//! ```

use std::net::SocketAddr;

use forebay_core::digest::Digest;
use forebay_core::ids::ShardId;
use forebay_core::liveness::Peer;
use forebay_core::message::peer::Expected;
use forebay_core::paxos::{Az, MemberId};
use serde::{Deserialize, Serialize};

use crate::link::PeerInfo;

/// Shards of a node that have peer numbers.
const SHARDS_PER_NODE: u32 = 256;
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
    /// Where its shards listen for peers, by shard number.
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
        let node = self.nodes.get((peer.0 / SHARDS_PER_NODE) as usize)?;
        node.native.get((peer.0 % SHARDS_PER_NODE) as usize).copied()
    }

    /// The node whose certificate bears this name.
    #[must_use]
    pub fn certified(&self, name: &str) -> Option<&TopologyNode> {
        self.nodes.iter().find(|node| node.certified.as_deref() == Some(name))
    }

    /// Shards of every node, at least.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.nodes.iter().map(|node| node.peer.len()).min().unwrap_or(0)
    }

    /// Availability zones.
    #[must_use]
    pub fn azs(&self) -> u16 {
        let mut azs: Vec<u16> = self.nodes.iter().map(|node| node.az).collect();
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
        let around = || (0..count).map(move |step| (index + step) % count);
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
}
