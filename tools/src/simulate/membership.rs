//! Members come and go: data that are deleted, nodes that are taken in again, and whether every group is
//! whole.
//!
//! ```text
//!   away for long ──► production replaces its members on the fourth node ──► back: it drops them
//!   data deleted ──► another node at the same addresses ──► taken in ──► production gives it members
//! ```
//!
//! **What may be lost.** The rules let a group lose one member's data at a time. So data are deleted
//! only while every group has three storage replicas whose data are there: who was lost before is
//! replaced by then, and each chosen entry has a copy elsewhere. And only while all other nodes hear each
//! other: one that is missed may be on its way out, and the two that are left of its group then need
//! each other. Anything may happen to them afterwards: a leader that has lost one member, and misses
//! another, has no lease to remove it with.
//!
//! **Taking in** is done as `forebay node` does it (its `rejoin`): the node that leads the system group
//! looks once a second at the addresses of nodes that it misses, and what answers there without a
//! cluster becomes another node of this one, in the old one's stead.
//!
//! In the end every group must have three storage replicas in three places, each with a checkpoint of
//! everything; and nobody may keep members that the groups do not list.

use forebay_core::ids::GroupId;
use forebay_core::liveness::{Peer, SHARDS_PER_NODE};
use forebay_core::paxos::{Member, MemberId, MemberRole};
use forebay_net::replication::{MEMBERS_WANTED, Topology};

use super::between;
use super::node::{Down, Node, listener_of};
use super::queue::What;
use super::repair;
use super::world::World;

const MILLI: u64 = 1_000_000;
/// Between two looks for a moment at which data may be deleted.
const DELETE_AGAIN_NANOS: u64 = 100 * MILLI;
/// Between the end of the data and the next start of their node.
const START_NANOS: (u64, u64) = (MILLI, 3_000 * MILLI);

/// What a group's leader says of its members, and where it runs.
struct Led<'a> {
    node: &'a Node,
    members: Vec<Member>,
    changing: bool,
}

/// The group as the member that holds its lease knows it.
fn led(nodes: &[Node], group: GroupId, now: u64) -> Option<Led<'_>> {
    nodes.iter().find_map(|node| {
        let replication = node.shard.as_ref()?.replication()?;
        let local = node.clock.local(now);
        let mut statuses = replication.statuses();
        let leads = statuses.find(|status| {
            status.group == group && status.serves && replication.holds_lease(status.ordinal, local)
        })?;
        let members = replication.members_of(leads.ordinal).copied().collect();
        Some(Led { node, members, changing: leads.changing })
    })
}

/// The machine whose data a member was made of, if they are still there.
fn holder<'a>(nodes: &'a [Node], topology: &Topology, peer: Peer) -> Option<&'a Node> {
    let place = topology.nodes.get((peer.0 / SHARDS_PER_NODE) as usize)?;
    nodes.iter().find(|node| node.node_id() == place.node_id)
}

/// Every group that some node has a member of.
fn groups(nodes: &[Node]) -> Vec<GroupId> {
    let shards = nodes.iter().filter_map(|node| node.shard.as_ref()?.replication());
    let mut groups: Vec<GroupId> =
        shards.flat_map(|shard| shard.statuses().map(|status| status.group)).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Nothing, if three storage replicas of every group have their data.
pub(super) fn what_is_missing(nodes: &[Node], now: u64) -> Option<String> {
    let groups = groups(nodes);
    if groups.len() < 2 {
        return Some("there is no table yet".to_owned());
    }
    groups.into_iter().find_map(|group| {
        let Some(Led { node, members, changing }) = led(nodes, group, now) else {
            return Some(format!("nobody leads group {group}"));
        };
        if changing || members.len() != MEMBERS_WANTED {
            return Some(format!("group {group} has {} members, or is changing", members.len()));
        }
        let topology = node.topology.as_ref().expect("a leader knows its cluster");
        members.iter().find_map(|member| {
            let Member { id, peer, role, .. } = *member;
            let Some(holder) = holder(nodes, topology, peer) else {
                return Some(format!("member {} of group {group} has lost its data", id.0));
            };
            let has = holder.shard.as_ref().is_none_or(|shard| {
                // A node that has just started does not know its cluster yet.
                shard.store().members().any(|(ordinal, here, role)| {
                    here == id && role == MemberRole::Storage && {
                        shard.store().group_id(ordinal) == group
                    }
                })
            });
            let keeps = role == MemberRole::Storage && has;
            (!keeps).then(|| format!("member {} of group {group} keeps no state yet", id.0))
        })
    })
}

/// Nothing, if all replicas hold everything in a checkpoint, so that their digests were compared, and
/// nobody keeps what no group needs.
pub(super) fn what_is_left(nodes: &[Node], now: u64) -> Option<String> {
    if nodes.len() == 1 {
        return None;
    }
    if let Some(node) = nodes.iter().find(|node| node.shard.is_none()) {
        return Some(format!("node {} does not run", node.number));
    }
    what_is_missing(nodes, now).or_else(|| repair::what_is_damaged(nodes)).or_else(|| {
        nodes.iter().find_map(|node| {
            let store = node.shard.as_ref().expect("just looked").store();
            store
                .members()
                .find_map(|(ordinal, id, _)| behind(nodes, node, store, (ordinal, id), now))
        })
    })
}

/// What a member here lacks.
fn behind(
    nodes: &[Node],
    node: &Node,
    store: &forebay_storage::store::Store,
    (ordinal, id): (forebay_storage::store::GroupOrdinal, MemberId),
    now: u64,
) -> Option<String> {
    let figures = store.group_figures(ordinal);
    let (group, number) = (figures.id, node.number);
    let led = led(nodes, group, now)?;
    if led.members.iter().all(|member| member.id != id) {
        return Some(format!("node {number} keeps member {} of group {group} for nobody", id.0));
    }
    let leader = led.node.shard.as_ref()?.store();
    let chosen = leader.group_figures(leader.group(group)?).chosen_slot;
    (figures.chosen_slot != chosen || figures.checkpoint_slot != chosen).then(|| {
        format!(
            "node {number} knows slots of group {group} up to {}, its checkpoint has {}, and {chosen} \
             are chosen",
            figures.chosen_slot, figures.checkpoint_slot
        )
    })
}

impl World {
    /// A node is to lose its data, at the first moment until `until` at which the rules allow it.
    pub(super) fn lose_data(&mut self, number: usize, until: u64) {
        let now = self.now;
        let missing = what_is_missing(&self.nodes, now);
        if let Some(reason) = missing.or_else(|| self.who_is_missed(number)) {
            let at = now + DELETE_AGAIN_NANOS;
            if at < until {
                self.queue.push(at, What::DeleteData { node: number, until });
            } else {
                self.trace.say(now, || format!("node {number} keeps its data: {reason}"));
            }
            return;
        }
        self.trace.say(now, || format!("node {number}'s data are deleted"));
        self.stats.deletions += 1;
        self.delete_data(number);
    }

    /// A node other than this one that another one does not hear.
    fn who_is_missed(&self, number: usize) -> Option<String> {
        let own = self.nodes[number].node_id();
        self.nodes.iter().filter(|node| node.number != number).find_map(|node| {
            let replication = node.shard.as_ref().and_then(|shard| shard.replication());
            let (Some(replication), Some(topology)) = (replication, &node.topology) else {
                return Some(format!("node {} does not run", node.number));
            };
            let local = node.clock.local(self.now);
            let mut others = topology.peers().map(|(info, _)| info.expected);
            let missed = others.find(|other| {
                other.node_id != own && replication.missed_nanos(Peer(other.peer), local) > 0
            })?;
            Some(format!("node {} misses peer {}", node.number, missed.peer))
        })
    }

    /// Its process ends, its data go, and another node starts there after a while.
    pub(super) fn delete_data(&mut self, number: usize) {
        if self.nodes[number].shard.is_some() {
            self.crash(number, Down::Process);
        }
        let node = &mut self.nodes[number];
        let ended = node.delete_data();
        self.members_end(ended);
        let node = &mut self.nodes[number];
        if node.down == Some(Down::Process) {
            let incarnation = node.incarnation;
            let at = self.now + between(&mut self.random, START_NANOS.0, START_NANOS.1);
            self.queue.push(at, What::Restart { node: number, incarnation });
        }
    }

    /// Nodes that lead the system group look for nodes that have lost their data.
    pub(super) fn take_in(&mut self) {
        if self.nodes.iter().all(|node| node.topology.is_some() || node.shard.is_none()) {
            return;
        }
        for number in 0..self.nodes.len() {
            for address in self.missed_by(number) {
                let (other, _) = listener_of(address);
                if other != number && self.reaches(number, other) {
                    self.offer(number, other);
                }
            }
        }
    }

    /// Where nodes listen that this one misses, if it leads the system group.
    fn missed_by(&self, number: usize) -> Vec<std::net::SocketAddr> {
        let node = &self.nodes[number];
        let replication = node.shard.as_ref().and_then(|shard| shard.replication());
        let (Some(replication), Some(topology)) = (replication, &node.topology) else {
            return Vec::new();
        };
        let mut statuses = replication.statuses();
        if !statuses.any(|status| status.group == GroupId::SYSTEM && status.serves) {
            return Vec::new();
        }
        let local = node.clock.local(self.now);
        let peers = topology.peers().map(|(info, _)| Peer(info.expected.peer));
        let missed = peers.filter(|peer| replication.missed_nanos(*peer, local) > 0);
        missed.filter_map(|peer| topology.native(peer)).collect()
    }

    /// Whether both run, and hear each other.
    fn reaches(&self, a: usize, b: usize) -> bool {
        let runs = |number: usize| {
            let node = &self.nodes[number];
            node.shard.is_some() && node.paused_until <= self.now
        };
        runs(a) && runs(b) && self.network.passes(a, b) && self.network.passes(b, a)
    }

    /// Who is in no cluster becomes a node of this one's, or is told that it is.
    fn offer(&mut self, number: usize, other: usize) {
        if self.nodes[other].topology.is_some() {
            return;
        }
        let now = self.now;
        let known = self.nodes[number].topology.clone().expect("it is in a cluster");
        let new = self.nodes[other].listed();
        if known.place_of(&new.node_id).is_some() {
            self.trace.say(now, || format!("node {other} is told that it is in the cluster"));
            self.nodes[other].learn(Topology::clone(&known), now);
            self.stats.taken_in += 1;
            return self.turn_soon(other);
        }
        let old = known.nodes.iter().find(|old| old.native == new.native).map(|old| old.node_id);
        let shard = self.nodes[number].shard.as_mut().expect("it runs");
        let answer = shard.grow(new, old);
        self.trace.say(now, || format!("node {number} takes node {other} in: {answer:?}"));
        self.turn_soon(number);
    }

    /// The cluster has grown, as a node has learned in its last turn.
    pub(super) fn note_growth(&mut self, number: usize) {
        let now = self.now;
        let shard = self.nodes[number].shard.as_mut();
        let Some(joined) = shard.and_then(|shard| shard.take_joined()) else { return };
        let places = joined.topology.nodes.len();
        self.trace.say(now, || format!("node {number} knows {places} places of the cluster"));
        self.nodes[number].learn(joined.topology, now);
        self.turn_soon(number);
    }

    /// Counts what became of the groups' members.
    pub(super) fn note_members(&mut self) {
        if self.nodes.len() == 1 {
            return;
        }
        for group in groups(&self.nodes) {
            let Some(Led { members, .. }) = led(&self.nodes, group, self.now) else { continue };
            let members: Vec<_> = members.iter().map(|member| (member.id, member.role)).collect();
            let known = self.members.entry(group).or_insert_with(|| members.clone());
            if *known != members {
                let (now, counts) = (self.now, members.len());
                let keep = members.iter().filter(|(_, role)| *role == MemberRole::Storage).count();
                self.trace.say(now, || {
                    format!("group {group} has {counts} members now, {keep} of them keep its state")
                });
                *known = members;
                self.stats.changes += 1;
            }
        }
    }
}
