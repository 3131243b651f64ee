//! Which members groups should have, and the next step towards that: what the leader of the system
//! group decides until there is an autoadmin.
//!
//! ```text
//!     reports of the groups' leaders ─┐                 ┌─► Create ─► a spare shard
//!     who is missed, who reaches whom ┼─► Placement ────┼─► Remove, Add, Promote ─► the group's leader
//!     what spare shards answer ───────┘   step(now)
//!
//!     {A B C}  C dead ─► Create d ─► Remove C ─► {A B} ─► Add d ─► {A B d} ─► Promote d ─► {A B D}
//! ```
//!
//! A state machine without I/O that keeps **no plan of record**: the next step follows from the
//! configuration that a group's leader reported last, so whoever leads the system group next goes on
//! where this one stopped. All that it would lose is the name of a member that was created and never
//! added; its shard drops it when the group is whole ([`MemberStep::Holds`]).
//!
//! **Who is lost.** A member that its group's leader does not reach, nor has any other storage replica of
//! the group for [`DEAD_AFTER_NANOS`] (operators may say longer, or shorter); or one whose shard lives and
//! says that it has no such member. Each shard's heartbeats say whom it reaches
//! ([`Liveness::reached_by`](forebay_core::liveness::Liveness::reached_by)), so the leader of the system
//! group knows of links that are not its own, and one broken link replaces nobody, whoever leads on which
//! side of it: the group goes on with two copies until its lead has moved to a member that reaches all
//! ([`successor`]), which costs no copy. A member that nobody who could lead its group reaches is of no
//! use to it, even if others hear it. A restart within that time costs no copy either.
//!
//! **The spare** is created before anything is removed, and the dead member is removed before the
//! spare is added: {A B} needs the two votes that {A B C} without C needs, while {A B C d} would need
//! all three that live, and in a cluster of three AZs the spare next to C could not be added while C
//! is a member. It stands in the dead member's AZ if there is one, never in an AZ of another member
//! where the cluster has three, and where the fewest members are. It is a shard of the same number on
//! another node, because clients find a partition's shard by that number.
//!
//! Invariants, asserted: an order to a group's leader names the configuration that it was made of;
//! no member is removed but a dead one; no group is left with log replicas only.
//!
//! Left out: moving members that live (balance over time is the autoadmin's), and telling a node that is
//! stopped for maintenance from a dead one: `replace_after_seconds` of the configuration is for both.

use std::collections::{BTreeMap, BTreeSet};

use forebay_core::ids::{GroupId, ShardId, Slot};
use forebay_core::liveness::{Peer, SHARDS_PER_NODE};
use forebay_core::message::peer::{GroupReport, MemberStep};
use forebay_core::paxos::{Az, Member, MemberId, MemberRole};
use forebay_core::time::Nanos;

use super::topology::{Topology, node_of, peer_of};

/// A shard that has not been reached for so long is lost, and its members are replaced: the detection
/// time, to which the [400 ms](forebay_core::liveness::LivenessSettings) of its last heartbeat are to be
/// added. Longer than a restart takes, shorter than anybody would like to wait with two copies.
pub const DEAD_AFTER_NANOS: u64 = 5 * Nanos::PER_SECOND;
/// Members that a group should have.
pub const MEMBERS_WANTED: usize = 3;
/// An order that has not shown in a report is given again.
const RETRY_NANOS: u64 = 200 * Nanos::PER_MILLI;
/// The same of a promotion, which may wait for a long copy.
const PROMOTE_RETRY_NANOS: u64 = 500 * Nanos::PER_MILLI;
/// A shard that must keep an earlier member of a group is not asked for another one for so long.
const OCCUPIED_NANOS: u64 = 2 * Nanos::PER_SECOND;
/// Groups whose members are replaced at a time. Each takes a few round trips.
const REPLACED_AT_ONCE: usize = 64;

/// A member that is being created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spare {
    /// Its identity.
    pub member: MemberId,
    /// The shard that holds it.
    pub peer: Peer,
    az: Az,
    /// It exists.
    pub created: bool,
}

#[derive(Clone, Debug)]
struct Group {
    shard: ShardId,
    /// Before the first report: as the system group knows them.
    peers: Vec<Peer>,
    /// Who leads, and what it said last.
    report: Option<(Peer, GroupReport)>,
    spare: Option<Spare>,
    retry_at: Nanos,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    az: Az,
    /// 0: another node took its place.
    shards: u16,
}

/// What is to be done about a group in this step. Few at a time, so their size does not matter.
#[allow(clippy::large_enum_variant)]
enum Next {
    /// Nothing, until something is heard of it.
    Nothing,
    /// Come again in the next step.
    Wait,
    /// This order, and again after so long.
    Order(Peer, MemberStep, u64),
    /// Make this log replica on that shard a storage replica.
    Promote(MemberId, Peer),
}

/// See the module's docs.
#[derive(Debug)]
pub struct Placement {
    /// Missed for so long, a shard is dead.
    dead_after_nanos: u64,
    nodes: Vec<Node>,
    groups: BTreeMap<GroupId, Group>,
    /// Those to be looked at in the next step.
    sick: BTreeSet<GroupId>,
    heard: BTreeSet<Peer>,
    dead: BTreeSet<Peer>,
    /// Which shard has not reached which other one, as far as is known, and since when.
    cuts: BTreeMap<(Peer, Peer), Nanos>,
    /// Those that have lasted as long as it takes to be lost.
    apart: BTreeSet<(Peer, Peer)>,
    /// It has taken a look.
    looked: bool,
    occupied: Vec<(GroupId, Peer, Nanos)>,
}

/// What the leader of the system group knows of a shard at the moment.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// How long it has been missed; 0 while it is heard.
    pub missed_nanos: u64,
    /// Whom it reaches.
    pub reaches: &'a [Peer],
}

/// Who should lead instead of the member on shard `me`, which has not reached some members for long: a
/// storage replica that reaches all of them, so that a healthy one need not be replaced. The caller sees
/// to it that it reaches whom it asks.
pub(super) fn successor(
    members: &[Member],
    me: Peer,
    reaches: impl Fn(Peer, Peer) -> bool,
) -> impl Iterator<Item = Member> {
    let reaches_all = move |member: &Member| {
        let others = members.iter().filter(|other| other.peer != member.peer);
        others.map(|other| other.peer).all(|other| reaches(member.peer, other))
    };
    let able = |member: &&Member| member.role == MemberRole::Storage;
    let others = members.iter().filter(move |member| member.peer != me);
    others.filter(able).copied().filter(reaches_all)
}

impl Default for Placement {
    fn default() -> Placement {
        Placement::new(DEAD_AFTER_NANOS)
    }
}

impl Placement {
    /// Knows nothing yet; shards that are missed for so long will be dead.
    #[must_use]
    pub fn new(dead_after_nanos: u64) -> Placement {
        Placement {
            dead_after_nanos,
            nodes: Vec::new(),
            groups: BTreeMap::new(),
            sick: BTreeSet::new(),
            heard: BTreeSet::new(),
            dead: BTreeSet::new(),
            cuts: BTreeMap::new(),
            apart: BTreeSet::new(),
            looked: false,
            occupied: Vec::new(),
        }
    }

    /// Learns the cluster's nodes.
    pub fn set_nodes(&mut self, topology: &Topology) {
        let node =
            |node: &super::TopologyNode| Node { az: Az(node.az), shards: node.peer.len() as u16 };
        self.nodes = topology.nodes.iter().map(node).collect();
        self.sick.extend(self.groups.keys());
    }

    /// The group exists, on shards of that number.
    pub fn know(&mut self, group: GroupId, shard: ShardId, peers: impl Iterator<Item = Peer>) {
        let new = || Group {
            shard,
            peers: peers.collect(),
            report: None,
            spare: None,
            retry_at: Nanos(0),
        };
        self.groups.entry(group).or_insert_with(new);
    }

    /// The group exists no more.
    pub fn forget(&mut self, group: GroupId) {
        self.groups.remove(&group);
        self.sick.remove(&group);
    }

    /// Whether the group is known.
    #[must_use]
    pub fn knows(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// The newest report about the group.
    #[must_use]
    pub fn report(&self, group: GroupId) -> Option<&GroupReport> {
        self.groups.get(&group)?.report.as_ref().map(|(_, report)| report)
    }

    /// Members that are being created.
    pub fn spares(&self) -> impl Iterator<Item = (GroupId, &Spare)> {
        let spares = self.groups.iter().map(|(id, group)| (*id, group.spare.as_ref()));
        spares.filter_map(|(id, spare)| Some((id, spare?)))
    }

    /// A group's leader reported. Older reports than the newest are of no use.
    pub fn reported(&mut self, from: Peer, report: GroupReport) {
        let Some(group) = self.groups.get_mut(&report.group) else { return };
        let order = |report: &GroupReport| (report.ballot, report.at.slot);
        if let Some((_, known)) = &group.report
            && (order(known) > order(&report) || known.at.slot > report.at.slot)
        {
            return;
        }
        let listed = |spare: &Spare| report.at.configuration.find(spare.member).is_some();
        if group.spare.as_ref().is_some_and(listed) {
            group.spare = None;
        }
        group.report = Some((from, report));
        group.retry_at = Nanos(0);
        self.sick.insert(report.group);
    }

    /// The shard has the member.
    pub fn created(&mut self, id: GroupId, member: MemberId, from: Peer) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let Some(spare) = &mut group.spare else { return };
        if (spare.member, spare.peer) == (member, from) {
            spare.created = true;
            group.retry_at = Nanos(0);
            self.sick.insert(id);
        }
    }

    /// The shard must keep an earlier member of the group.
    pub fn occupied(&mut self, group: GroupId, from: Peer, now: Nanos) {
        self.occupied.retain(|(id, peer, _)| (*id, *peer) != (group, from));
        self.occupied.push((group, from, now + OCCUPIED_NANOS));
        let Some(known) = self.groups.get_mut(&group) else { return };
        known.spare = known.spare.filter(|spare| spare.peer != from);
        self.sick.insert(group);
    }

    /// Whether a shard may let go of `member`, which no leader writes to: its group is gone, or does
    /// not list it and has three storage replicas again (**Rule (trimming)**). `written` says up to
    /// which slot the system group itself has written down who the members are: nobody founds a group
    /// again by what it was before.
    #[must_use]
    pub fn may_drop(&self, group: GroupId, member: MemberId, written: Slot) -> bool {
        let Some(known) = self.groups.get(&group) else { return true };
        let Some((_, report)) = &known.report else { return false };
        let members = report.at.configuration.members();
        let storage = members.iter().filter(|member| member.role == MemberRole::Storage);
        storage.count() >= MEMBERS_WANTED
            && written >= report.at.slot
            && members.iter().all(|listed| listed.id != member)
            && known.spare.is_none_or(|spare| spare.member != member)
    }

    /// What is to be done now, as orders to shards. `see` says what is known of a shard at the moment.
    /// [`MemberStep::Create`] comes without the payload.
    pub fn step<'a>(
        &mut self,
        now: Nanos,
        see: impl Fn(Peer) -> Seen<'a>,
        mut random: impl FnMut() -> u64,
        orders: &mut Vec<(Peer, MemberStep)>,
    ) {
        self.look(now, see);
        self.occupied.retain(|(_, _, until)| now < *until);
        if self.sick.is_empty() {
            return;
        }
        let mut load = self.load();
        let mut filling: BTreeSet<Peer> = BTreeSet::new();
        let mut replaced = self.groups.values().filter(|group| group.spare.is_some()).count();
        for id in std::mem::take(&mut self.sick) {
            let had = self.groups[&id].spare.is_some();
            let may_begin = replaced < REPLACED_AT_ONCE;
            let next = self.next(id, may_begin, &mut load, &mut random);
            let group = self.groups.get_mut(&id).expect("sick groups are known");
            replaced += usize::from(group.spare.is_some() && !had);
            let due = now >= group.retry_at;
            match next {
                Next::Nothing => continue,
                Next::Wait => {}
                Next::Order(to, order, pause) => {
                    if due {
                        orders.push((to, order));
                        group.retry_at = now + pause;
                    }
                }
                Next::Promote(member, holder) => {
                    // One copy at a time for each shard that receives one.
                    if filling.insert(holder) && due {
                        let (leader, report) = group.report.as_ref().expect("it was decided by it");
                        let slot = report.at.slot;
                        orders.push((*leader, MemberStep::Promote { group: id, slot, member }));
                        group.retry_at = now + PROMOTE_RETRY_NANOS;
                    }
                }
            }
            self.sick.insert(id);
        }
    }

    /// It was blind for a while: for how long shards have not reached each other is to be found out again.
    pub fn look_anew(&mut self) {
        self.cuts.clear();
        self.looked = false;
    }

    /// Takes a look at all shards; if one died or came back, or two are apart or together again, all
    /// groups are looked at. It costs what a round of heartbeats does.
    fn look<'a>(&mut self, now: Nanos, see: impl Fn(Peer) -> Seen<'a>) {
        let (mut heard, mut dead) = (BTreeSet::new(), BTreeSet::new());
        let nodes = self.nodes.iter().enumerate();
        let shards = nodes.flat_map(|(place, node)| {
            (0..node.shards).map(move |shard| peer_of(place, ShardId(shard)))
        });
        let shards: Vec<(Peer, u64)> = shards.map(|peer| (peer, see(peer).missed_nanos)).collect();
        for (peer, missed) in &shards {
            match *missed {
                0 => _ = heard.insert(*peer),
                missed if missed >= self.dead_after_nanos => _ = dead.insert(*peer),
                _ => {}
            }
        }
        let mut cuts = BTreeMap::new();
        let mut reaches: BTreeSet<Peer> = BTreeSet::new();
        for from in shards.iter().map(|(peer, _)| *peer) {
            // All members of a group are on shards of one number.
            let beside = |to: &Peer| to.0 % SHARDS_PER_NODE == from.0 % SHARDS_PER_NODE;
            reaches.clear();
            reaches.extend(see(from).reaches.iter().filter(|to| beside(to)));
            for (to, missed) in shards.iter().filter(|(to, _)| *to != from && beside(to)) {
                if !reaches.contains(to) {
                    // Whoever led before has waited for as long as this shard has.
                    let begun = if self.looked { now } else { Nanos(now.since(Nanos(*missed))) };
                    let since = self.cuts.get(&(from, *to)).copied().unwrap_or(begun);
                    cuts.insert((from, *to), since);
                }
            }
        }
        (self.cuts, self.looked) = (cuts, true);
        let lasting = self.cuts.iter().filter(|(_, since)| {
            let lasted = now.since(**since);
            lasted >= self.dead_after_nanos
        });
        let apart = lasting.map(|(pair, _)| *pair).collect();
        if (&heard, &dead, &apart) != (&self.heard, &self.dead, &self.apart) {
            (self.heard, self.dead, self.apart) = (heard, dead, apart);
            self.sick.extend(self.groups.keys());
        }
    }

    /// Whether no storage replica among `members` has reached this one of them for too long.
    fn is_lost_to(&self, members: &[Member], lost: &Member) -> bool {
        let able = |member: &&Member| member.role == MemberRole::Storage && member.id != lost.id;
        let mut able = members.iter().filter(able);
        able.all(|member| self.apart.contains(&(member.peer, lost.peer)))
    }

    /// Members on each node.
    fn load(&self) -> Vec<u32> {
        let mut load = vec![0; self.nodes.len()];
        let mut count = |peer: Peer| {
            if let Some(members) = load.get_mut(node_of(peer)) {
                *members += 1;
            }
        };
        for group in self.groups.values() {
            match &group.report {
                Some((_, report)) => {
                    report.at.configuration.members().iter().for_each(|member| count(member.peer));
                }
                None => group.peers.iter().copied().for_each(&mut count),
            }
            group.spare.iter().for_each(|spare| count(spare.peer));
        }
        load
    }

    /// Whether the shard's node is in the cluster no more, or was not heard for too long.
    fn is_dead(&self, peer: Peer) -> bool {
        self.is_gone(peer) || self.dead.contains(&peer)
    }

    /// Whether the shard's node is in the cluster no more.
    fn is_gone(&self, peer: Peer) -> bool {
        self.nodes.get(node_of(peer)).is_some_and(|node| node.shards == 0)
    }

    fn next(
        &mut self,
        id: GroupId,
        may_begin: bool,
        load: &mut [u32],
        random: &mut impl FnMut() -> u64,
    ) -> Next {
        let group = &self.groups[&id];
        let Some((leader, report)) = group.report else { return Next::Nothing };
        if self.is_dead(leader) {
            // Another one leads soon, and reports.
            return Next::Nothing;
        }
        if report.marks.is_changing() {
            return Next::Wait;
        }
        let (slot, members) = (report.at.slot, report.at.configuration.members());
        let gone = |(place, member): &(usize, &Member)| {
            let unreached = report.marks.is_unreached(*place);
            let silent =
                unreached && (self.is_gone(member.peer) || self.is_lost_to(members, member));
            member.peer != leader && (report.marks.is_lost(*place) || silent)
        };
        let dead = members.iter().enumerate().find(gone).map(|(_, member)| *member);
        let left = members.iter().filter(|member| dead.is_none_or(|dead| dead.id != member.id));
        let left: Vec<Member> = left.copied().collect();
        if left.iter().all(|member| member.role == MemberRole::Log) {
            // A state to make impossible: the last state is on the dead member's node.
            return Next::Nothing;
        }
        let nodes = self.nodes.iter().filter(|node| node.shards > 0).count();
        if dead.is_none() && (left.len() >= MEMBERS_WANTED || nodes < MEMBERS_WANTED) {
            self.groups.get_mut(&id).expect("just there").spare = None;
            let log = left
                .iter()
                .find(|member| member.role == MemberRole::Log && self.heard.contains(&member.peer));
            return log.map_or(Next::Nothing, |log| Next::Promote(log.id, log.peer));
        }
        if left.len() < MEMBERS_WANTED {
            let spare = group.spare.filter(|spare| self.is_free(id, spare.peer, &left));
            let spare = spare.or_else(|| {
                let (peer, az) = may_begin.then(|| self.choose(id, dead, &left, load)).flatten()?;
                load[node_of(peer)] += 1;
                Some(Spare { member: MemberId(random() | 1), peer, az, created: false })
            });
            self.groups.get_mut(&id).expect("just there").spare = spare;
            let Some(Spare { member, peer, az, created }) = spare else {
                let waits = !may_begin || self.occupied.iter().any(|(group, _, _)| *group == id);
                return if waits { Next::Wait } else { Next::Nothing };
            };
            if !created {
                let order = MemberStep::Create { group: id, member, payload: Vec::new() };
                return Next::Order(peer, order, RETRY_NANOS);
            }
            if dead.is_none() {
                let order = MemberStep::Add { group: id, slot, member, peer, az };
                return Next::Order(leader, order, RETRY_NANOS);
            }
        }
        let dead = dead.expect("the group has enough members, or one to remove");
        let order = MemberStep::Remove { group: id, slot, member: dead.id };
        Next::Order(leader, order, RETRY_NANOS)
    }

    /// Whether a new member of the group may be on that shard, next to the members `left`.
    fn is_free(&self, group: GroupId, peer: Peer, left: &[Member]) -> bool {
        let node = node_of(peer);
        let occupied = self.occupied.iter().any(|(id, at, _)| (*id, *at) == (group, peer));
        let shares = |member: &Member| {
            node_of(member.peer) == node || (self.azs() >= 3 && member.az == self.nodes[node].az)
        };
        self.heard.contains(&peer) && !occupied && !left.iter().any(shares)
    }

    fn azs(&self) -> usize {
        let nodes = self.nodes.iter().filter(|node| node.shards > 0);
        nodes.map(|node| node.az).collect::<BTreeSet<Az>>().len()
    }

    /// The best shard for a new member of the group.
    fn choose(
        &self,
        id: GroupId,
        dead: Option<Member>,
        left: &[Member],
        load: &[u32],
    ) -> Option<(Peer, Az)> {
        let shard = self.groups[&id].shard;
        let places = self.nodes.iter().enumerate().filter(|(_, node)| shard.0 < node.shards);
        let free = places.map(|(place, node)| (peer_of(place, shard), node.az, load[place]));
        let free = free.filter(|(peer, _, _)| self.is_free(id, *peer, left));
        let rank = |(peer, az, load): &(Peer, Az, u32)| {
            let shared = left.iter().any(|member| member.az == *az);
            let elsewhere = dead.is_some_and(|dead| dead.az != *az);
            (shared, elsewhere, *load, *peer)
        };
        free.min_by_key(rank).map(|(peer, az, _)| (peer, az))
    }
}

#[cfg(test)]
mod tests;
