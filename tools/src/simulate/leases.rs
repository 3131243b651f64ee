//! Who leads, and by what right.
//!
//! **Rule (leases).** At one moment one member of a group at most holds its lease, by its own clock:
//! a paused one, too, because it may wake and answer. What a lease allows changes with time only
//! towards less, so it is enough to look whenever a member begins to lead; now and then all are
//! looked at anyway.
//!
//! The lease is looked at after a read, and again before its answer leaves: a process may be stopped
//! between the two. Here such a stop comes before the answers of a turn leave, so an answer to a
//! strong read that leaves at its end without the lease has not been looked at again.
//!
//! **Gray failures.** While one link is broken, in one direction or both, every member still hears
//! the leader or somebody who does, and so no leader may change.

use forebay_core::message::Kind;
use forebay_net::frame;

use super::network::Owner;
use super::node::Node;
use super::world::World;

/// See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// How often members began to lead.
    pub(super) elections: u64,
    /// By node: of its present process, as it was looked at last.
    reigns: Vec<u64>,
}

impl Leases {
    /// Whether members of the node have begun to lead since this was last asked.
    pub(super) fn observe(&mut self, node: &Node) -> bool {
        let replication = node.shard.as_ref().and_then(|shard| shard.replication());
        let reigns = replication.map_or(0, |replication| replication.reigns());
        if self.reigns.len() <= node.number {
            self.reigns.resize(node.number + 1, 0);
        }
        let before = std::mem::replace(&mut self.reigns[node.number], reigns);
        // A process that was started again counts from nothing.
        let begun = if reigns < before { reigns } else { reigns - before };
        self.elections += begun;
        begun > 0
    }
}

impl World {
    /// An answer to a strong read that the node is about to give without the lease, at the end of a
    /// turn in the middle of which it was stopped.
    pub(super) fn read_without_lease(&mut self, number: usize, end: u64) -> Option<String> {
        let table = self.work.table.as_ref()?;
        let node = &mut self.nodes[number];
        let (local, replication) = (node.clock.local(end), node.shard.as_ref()?.replication()?);
        let mut reads = Vec::new();
        for (conn, buf) in &node.fx.send {
            let Some(conn) = node.conns.get(*conn) else { continue };
            let far = self.network.owner(conn.wire, 1 - conn.side);
            let Some(Owner::Client { client, .. }) = far else { continue };
            let mut rest: &[u8] = buf;
            while let Ok(Some(frame)) = frame::split(rest) {
                rest = &rest[frame.frame_bytes..];
                if frame.kind == Kind::GetReply as u16 {
                    let client = &self.clients[client];
                    reads.extend(client.strong_read(number, frame.correlation, &self.work));
                }
            }
        }
        let held = |partition: &usize| {
            let group = table.partitions[*partition].group;
            let status = replication.statuses().find(|status| status.group == group);
            status.is_some_and(|status| replication.holds_lease(status.ordinal, local))
        };
        let partition = reads.iter().find(|partition| !held(partition))?;
        Some(format!(
            "node {number} was stopped, and answers a strong read of partition {partition} without \
             its lease"
        ))
    }
}

/// Two members that hold the lease of one group now.
pub(super) fn two_leaseholders(nodes: &[Node], now: u64) -> Option<String> {
    let mut held: Vec<(u64, usize)> = Vec::new();
    for node in nodes {
        let Some(replication) = node.shard.as_ref().and_then(|shard| shard.replication()) else {
            continue;
        };
        let local = node.clock.local(now);
        for status in replication.statuses() {
            if !replication.holds_lease(status.ordinal, local) {
                continue;
            }
            let group = status.group.0;
            if let Some((_, other)) = held.iter().find(|(of, _)| *of == group) {
                return Some(format!(
                    "nodes {other} and {} hold the lease of group {group} at the same moment",
                    node.number
                ));
            }
            held.push((group, node.number));
        }
    }
    None
}
