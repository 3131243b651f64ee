//! Clusters in which nodes die and come back and links break at random, and orders and reports are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use forebay_core::ids::{Ballot, GroupId, ShardId, Slot};
use forebay_core::liveness::Peer;
use forebay_core::message::peer::{GroupReport, Marks, MemberStep};
use forebay_core::paxos::{
    Az, Change, Configuration, ConfigurationAt, Member, MemberId, MemberRole,
};
use forebay_core::time::Nanos;
use forebay_storage::sim_disk::SimRandom;

use super::super::membership::APART_NANOS;
use super::super::topology::{Topology, TopologyNode, node_of};
use super::{DEAD_AFTER_NANOS, MEMBERS_WANTED, Placement, Seen, successor};

const STEP_NANOS: u64 = 100 * Nanos::PER_MILLI;

fn topology(azs: &[u16]) -> Topology {
    let node = |(place, az): (usize, &u16)| TopologyNode {
        node_id: [place as u8 + 1; 16],
        az: *az,
        certified: None,
        native: vec![SocketAddr::from(([127, 0, 0, 1], 1000 + place as u16))],
        peer: vec![SocketAddr::from(([127, 0, 0, 1], 2000 + place as u16))],
    };
    Topology { cluster_id: [7; 16], nodes: azs.iter().enumerate().map(node).collect() }
}

/// A group as its members have it.
struct Group {
    at: ConfigurationAt,
    ballot: u64,
    leader: Option<MemberId>,
    /// What the shards hold, listed or not: the member, and whether it has caught up.
    held: BTreeMap<Peer, (MemberId, bool)>,
    seen: BTreeSet<MemberId>,
    /// Listed at some time: with others nothing is lost.
    listed: BTreeSet<MemberId>,
    /// Not listed at a time when the group had three storage replicas.
    free: BTreeSet<MemberId>,
}

struct World {
    random: SimRandom,
    topology: Topology,
    placement: Placement,
    groups: BTreeMap<GroupId, Group>,
    /// Since when each node is down.
    down: Vec<Option<Nanos>>,
    /// Links that are broken, by their two nodes, the lower one first.
    cut: BTreeSet<(usize, usize)>,
    /// Since when two nodes have not heard each other.
    silent: BTreeMap<(usize, usize), Nanos>,
    /// Where the leader of the system group is; None: it hears everybody that is up.
    watcher: Option<usize>,
    /// Its own links break, too, and it knows less.
    deaf: bool,
    replace_after: u64,
    now: Nanos,
    loses: bool,
    removed: usize,
    moved: usize,
}

fn storage(members: &[Member]) -> usize {
    members.iter().filter(|member| member.role == MemberRole::Storage).count()
}

impl World {
    fn new(seed: u64, azs: &[u16], groups: usize) -> World {
        World::replacing_after(DEAD_AFTER_NANOS, seed, azs, groups)
    }

    fn replacing_after(replace_after: u64, seed: u64, azs: &[u16], groups: usize) -> World {
        let topology = topology(azs);
        let mut placement = Placement::new(replace_after);
        placement.set_nodes(&topology);
        let mut world = World {
            random: SimRandom::new(seed),
            down: vec![None; azs.len()],
            cut: BTreeSet::new(),
            silent: BTreeMap::new(),
            watcher: None,
            deaf: false,
            replace_after,
            topology,
            placement,
            groups: BTreeMap::new(),
            now: Nanos(Nanos::PER_SECOND),
            loses: true,
            removed: 0,
            moved: 0,
        };
        for index in 0..groups {
            let id = GroupId(index as u64);
            let (shard, places) = world.topology.place(index);
            world.placement.know(id, shard, places.iter().map(|(peer, _)| *peer));
            let members: Vec<_> = (1..)
                .zip(places)
                .map(|(n, (peer, az))| (MemberId(100 * index as u64 + n), peer, az))
                .collect();
            let configuration = Configuration::bootstrap(&members, world.topology.azs()).unwrap();
            let held = members.iter().map(|(id, peer, _)| (*peer, (*id, true))).collect();
            let seen: BTreeSet<MemberId> = members.iter().map(|(id, _, _)| *id).collect();
            let listed = seen.clone();
            let at = ConfigurationAt { slot: Slot(0), configuration };
            world.groups.insert(
                id,
                Group { at, ballot: 0, leader: None, held, seen, listed, free: BTreeSet::new() },
            );
        }
        world
    }

    fn is_up(&self, peer: Peer) -> bool {
        self.down[node_of(peer)].is_none()
    }

    /// Whether the member takes part.
    fn works(&self, group: &Group, member: &Member) -> bool {
        let holds = group.held.get(&member.peer).is_some_and(|(id, _)| *id == member.id);
        holds && self.is_up(member.peer)
    }

    /// Since when the two do not hear each other, if so.
    fn apart(&self, one: usize, other: usize) -> Option<Nanos> {
        let pair = (one.min(other), one.max(other));
        let broken = self.cut.contains(&pair) || one != other && self.is_one_down(one, other);
        broken.then(|| self.silent.get(&pair).copied().unwrap_or(self.now))
    }

    fn is_one_down(&self, one: usize, other: usize) -> bool {
        self.down[one].or(self.down[other]).is_some()
    }

    /// Notes who has begun to be apart.
    fn note_apart(&mut self) {
        let places = 0..self.down.len();
        let pairs = places.clone().flat_map(|one| (one + 1..places.end).map(move |two| (one, two)));
        let apart = pairs.filter_map(|(one, two)| Some(((one, two), self.apart(one, two)?)));
        self.silent = apart.collect();
    }

    fn reaches(&self, one: Peer, other: Peer) -> bool {
        let up = self.is_up(one) && self.is_up(other);
        up && self.apart(node_of(one), node_of(other)).is_none()
    }

    fn break_link(&mut self, one: usize, other: usize) {
        if one != other {
            self.cut.insert((one.min(other), one.max(other)));
        }
    }

    /// Whether the member could lead the group now.
    fn could_lead(&self, group: &Group, member: &Member) -> bool {
        let reached =
            |other: &Member| self.works(group, other) && self.reaches(member.peer, other.peer);
        self.works(group, member)
            && member.role == MemberRole::Storage
            && group.at.configuration.has_quorum(reached)
    }

    fn kill(&mut self, node: usize) {
        self.down[node].get_or_insert(self.now);
    }

    fn kills_quorum(&self, node: usize) -> bool {
        self.groups.values().any(|group| {
            let stays = |member: &Member| self.works(group, member) && node_of(member.peer) != node;
            let leads = |member: &&Member| stays(member) && member.role == MemberRole::Storage;
            !group.at.configuration.has_quorum(stays)
                || !group.at.configuration.members().iter().any(|member| leads(&member))
        })
    }

    /// Leaders are elected, and report.
    fn lead(&mut self) {
        let mut reports = Vec::new();
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in ids {
            let group = &self.groups[&id];
            let configuration = group.at.configuration;
            let can = |member: &&Member| self.could_lead(group, member);
            let stays =
                configuration.members().iter().filter(can).find(|m| Some(m.id) == group.leader);
            let leader = stays.or_else(|| configuration.members().iter().find(can)).copied();
            let (leader, moved) = match leader {
                Some(leader) if self.yields(group, leader) => {
                    let members = configuration.members();
                    let reaches = |from: Peer, to: Peer| self.reaches(from, to);
                    let mut next = successor(members, leader.peer, reaches);
                    let next = next.find(|next| self.works(group, next));
                    (next.or(Some(leader)), usize::from(next.is_some()))
                }
                leader => (leader, 0),
            };
            let mut marks = Marks::default();
            for (place, member) in configuration.members().iter().enumerate() {
                if leader.is_none_or(|leader| !self.reaches(leader.peer, member.peer)) {
                    marks.set_unreached(place);
                } else if !self.works(group, member) {
                    marks.set_lost(place);
                }
            }
            self.moved += moved;
            let group = self.groups.get_mut(&id).unwrap();
            if leader.map(|leader| leader.id) != group.leader {
                group.leader = leader.map(|leader| leader.id);
                group.ballot += 1;
            }
            let (at, ballot) = (group.at, Ballot(group.ballot));
            if let Some(leader) = leader {
                reports.push((leader.peer, GroupReport { group: id, ballot, at, marks }));
            }
        }
        for (peer, report) in reports {
            let arrives = self.watcher.is_none_or(|at| self.apart(at, node_of(peer)).is_none());
            if arrives && (!self.loses || self.random.chance(3, 4)) {
                self.placement.reported(peer, report);
            }
        }
    }

    /// Whether this leader has not reached a member for long.
    fn yields(&self, group: &Group, leader: Member) -> bool {
        let members = group.at.configuration.members().iter();
        let mut apart =
            members.filter_map(|member| self.apart(node_of(leader.peer), node_of(member.peer)));
        apart.any(|since| self.now.since(since) >= APART_NANOS)
    }

    fn change(&mut self, to: Peer, group: GroupId, slot: Slot, change: Change) {
        let azs = self.topology.azs();
        let known = &self.groups[&group];
        let leads = known.leader.and_then(|id| known.at.configuration.find(id));
        let Some(leads) = leads.filter(|leads| leads.peer == to && self.could_lead(known, leads))
        else {
            return;
        };
        if known.at.slot != slot {
            return;
        }
        if let Change::Remove { id } = change {
            let member = known.at.configuration.find(id).expect("it was planned with this slot");
            let silent = self.apart(node_of(to), node_of(member.peer));
            let lost = silent.is_none() && !self.works(known, member);
            if silent.is_none() && !lost {
                // It is back: the leader hears it, and refuses.
                return;
            }
            let members = known.at.configuration.members().iter();
            let able = members.filter(|m| m.role == MemberRole::Storage && m.id != id);
            let told = |m: &&Member| self.works(known, m) && self.reaches(to, m.peer);
            if able.clone().filter(told).any(|m| self.reaches(m.peer, member.peer)) && !lost {
                // Another one hears it, and says so to the leader, which refuses.
                return;
            }
            let mut since = able.map(|m| self.apart(node_of(m.peer), node_of(member.peer)));
            let long = |at: Nanos| self.now.since(at) + STEP_NANOS >= self.replace_after;
            let dead = since.all(|since| since.is_some_and(long));
            assert!(lost || dead || self.deaf, "another one reached it not long ago");
            assert!(lost || leads.id != id);
            self.removed += 1;
        }
        let known = self.groups.get_mut(&group).unwrap();
        let changed = known.at.configuration.changed(change, azs);
        known.at.configuration = changed.expect("no order breaks a rule");
        known.listed.extend(known.at.configuration.members().iter().map(|member| member.id));
        known.at.slot = Slot(slot.0 + 1);
    }

    fn carry_out(&mut self, to: Peer, order: MemberStep) {
        match order {
            MemberStep::Create { group, member, .. } => {
                if !self.is_up(to) {
                    return;
                }
                let known = self.groups.get_mut(&group).unwrap();
                let listed = |id: MemberId| known.at.configuration.find(id).is_some();
                match known.held.get(&to) {
                    Some((id, _)) if *id == member => {}
                    // Created and never added.
                    Some((id, false)) if !listed(*id) => {
                        known.held.insert(to, (member, false));
                    }
                    Some(_) => return self.placement.occupied(group, to, self.now),
                    None => {
                        assert!(known.seen.insert(member), "an id never comes back");
                        known.held.insert(to, (member, false));
                    }
                }
                self.placement.created(group, member, to);
            }
            MemberStep::Add { group, slot, member, peer, az } => {
                let change = Change::AddLogReplica { id: member, peer, az };
                assert_eq!(self.groups[&group].held.get(&peer).map(|(id, _)| *id), Some(member));
                self.change(to, group, slot, change);
            }
            MemberStep::Remove { group, slot, member } => {
                self.change(to, group, slot, Change::Remove { id: member });
            }
            MemberStep::Promote { group, slot, member } => {
                let mut held = self.groups.get_mut(&group).unwrap().held.iter_mut();
                let Some((at, (_, caught_up))) = held.find(|(_, (id, _))| *id == member) else {
                    return;
                };
                // The first time it only begins to catch up.
                if std::mem::replace(caught_up, self.down[node_of(*at)].is_none()) {
                    self.change(to, group, slot, Change::Promote { id: member });
                }
            }
            other => panic!("no order: {other:?}"),
        }
    }

    /// Shards ask whether they may drop what nobody writes to.
    fn clean(&mut self) {
        for (id, group) in &mut self.groups {
            let at = group.at;
            if storage(at.configuration.members()) >= MEMBERS_WANTED {
                let held = group.held.values().map(|(member, _)| *member);
                group.free.extend(held.filter(|id| at.configuration.find(*id).is_none()));
            }
            let (free, ever) = (&group.free, &group.listed);
            group.held.retain(|peer, (member, _)| {
                let listed = at.configuration.find(*member).is_some();
                let asks = self.down[node_of(*peer)].is_none() && !listed;
                let goes = asks && self.placement.may_drop(*id, *member, at.slot);
                let free = free.contains(member) || !ever.contains(member);
                assert!(!goes || free, "it may still be needed");
                !goes
            });
        }
    }

    fn step(&mut self) {
        self.note_apart();
        self.now = self.now + STEP_NANOS;
        self.lead();
        let now = self.now;
        let missed: Vec<u64> = (0..self.down.len())
            .map(|node| {
                let apart = self.watcher.map_or(self.down[node], |at| self.apart(at, node));
                apart.map_or(0, |since| now.since(since) + 1)
            })
            .collect();
        let nodes = (0..self.down.len()).map(|node| super::peer_of(node, ShardId(0)));
        let nodes: Vec<Peer> = nodes.collect();
        // Of a node that is not heard nobody knows whom it reaches.
        let reached = |from: &Peer| match missed[node_of(*from)] {
            0 => nodes.iter().copied().filter(|to| self.reaches(*from, *to)).collect(),
            _ => Vec::new(),
        };
        let reached: Vec<Vec<Peer>> = nodes.iter().map(reached).collect();
        let see = |peer: Peer| Seen {
            missed_nanos: missed[node_of(peer)],
            reaches: &reached[node_of(peer)],
        };
        let mut orders = Vec::new();
        let random = &mut self.random;
        let drawn = || (random.below(1 << 30) as u64) << 30 | random.below(1 << 30) as u64;
        self.placement.step(now, see, drawn, &mut orders);
        for (to, order) in orders {
            let arrives = self.watcher.is_none_or(|at| self.apart(at, node_of(to)).is_none());
            if arrives && (!self.loses || self.random.chance(3, 4)) {
                self.carry_out(to, order);
            }
        }
        self.clean();
        self.check();
    }

    fn check(&self) {
        for (id, group) in &self.groups {
            let members = group.at.configuration.members();
            assert!(storage(members) > 0, "{id:?} has log replicas only");
            assert!(members.len() <= MEMBERS_WANTED, "{id:?} grows: {members:?}");
            let mut azs: Vec<Az> = members.iter().map(|member| member.az).collect();
            azs.sort_unstable();
            azs.dedup();
            assert!(self.topology.azs() < 3 || azs.len() == members.len(), "{id:?}: {members:?}");
        }
    }

    fn is_whole(&self) -> bool {
        self.groups.values().all(|group| {
            let members = group.at.configuration.members();
            storage(members) == MEMBERS_WANTED && members.iter().all(|m| self.works(group, m))
        })
    }

    fn steps_until_whole(&mut self, most: usize) -> usize {
        for steps in 0..most {
            if self.is_whole() {
                return steps;
            }
            self.step();
        }
        let ill: Vec<_> = self.groups.iter().map(|(id, group)| (id, group.at)).collect();
        panic!("not whole after {most} steps: {ill:?}\n{:?}", self.placement);
    }
}

#[test]
fn every_group_becomes_whole_whatever_dies_and_comes_back() {
    let clusters: [&[u16]; 6] = [
        &[0, 1, 2, 3],
        &[0, 1, 2, 0],
        &[0, 0, 1, 1, 2, 2],
        &[0, 0, 0, 0],
        &[0, 1, 0, 1, 0],
        &[0; 7],
    ];
    let mut removed = 0;
    for seed in 0..240 {
        let azs = clusters[seed as usize % clusters.len()];
        let mut world = World::new(seed, azs, 5);
        for _ in 0..300 {
            let node = world.random.below(azs.len());
            if world.random.chance(1, 12) {
                world.down[node] = None;
            } else if world.random.chance(1, 12) && !world.kills_quorum(node) {
                world.kill(node);
            }
            world.step();
        }
        // The last fault is over, and all are there.
        world.loses = false;
        world.down.fill(None);
        world.steps_until_whole(400);
        removed += world.removed;
    }
    assert!(removed > 100, "{removed} members were replaced in all runs");
}

#[test]
fn no_member_is_removed_that_another_one_reaches_whatever_links_break() {
    let clusters: [&[u16]; 4] = [&[0, 1, 2, 3], &[0, 0, 0, 0], &[0, 1, 0, 1, 0], &[0; 6]];
    let (mut removed, mut moved) = (0, 0);
    for seed in 0..200 {
        let azs = clusters[seed as usize % clusters.len()];
        let after = [1, 5, 30][seed as usize % 3] * Nanos::PER_SECOND;
        let mut world = World::replacing_after(after, 1000 + seed, azs, 5);
        let watcher = world.random.below(azs.len());
        (world.watcher, world.deaf) = (Some(watcher), seed % 2 == 0);
        for _ in 0..300 {
            let (one, other) = (world.random.below(azs.len()), world.random.below(azs.len()));
            match world.random.below(60) {
                0..3 if !world.deaf && [one, other].contains(&watcher) => {}
                0..3 => world.break_link(one, other),
                3..5 => _ = world.cut.remove(&(one.min(other), one.max(other))),
                5 if one != watcher && !world.kills_quorum(one) => world.kill(one),
                6 => world.down[one] = None,
                _ => {}
            }
            // The assertions are in the world's own `change`.
            world.step();
        }
        world.loses = false;
        world.cut.clear();
        world.down.fill(None);
        world.steps_until_whole(400);
        (removed, moved) = (removed + world.removed, moved + world.moved);
    }
    assert!(removed > 50 && moved > 50, "{removed} were replaced, {moved} leads moved");
}

/// Group 0 on nodes 0 to 2 of four, led on node 0, which leads the system group, too.
fn led_by_the_watcher(replace_after_seconds: u64) -> World {
    let after = replace_after_seconds * Nanos::PER_SECOND;
    let mut world = World::replacing_after(after, 7, &[0, 1, 2, 3], 1);
    (world.loses, world.watcher) = (false, Some(0));
    world.step();
    let group = &world.groups[&GroupId(0)];
    let leader = group.leader.and_then(|id| group.at.configuration.find(id)).unwrap();
    assert_eq!(node_of(leader.peer), 0);
    world
}

#[test]
fn one_broken_link_moves_the_lead_and_costs_no_replica_however_soon_members_are_replaced() {
    for replace_after_seconds in [1, 5, 30] {
        let mut world = led_by_the_watcher(replace_after_seconds);
        world.break_link(0, 1);
        let begun = world.now;
        while world.now.since(begun) < 60 * Nanos::PER_SECOND {
            world.step();
            let moved = world.now.since(begun) >= APART_NANOS;
            assert_eq!((world.moved, world.removed), (usize::from(moved), 0));
        }
        assert!(world.is_whole());
    }
}

#[test]
fn a_member_that_no_other_one_reaches_is_replaced_when_it_is_time_even_if_others_hear_it() {
    for replace_after_seconds in [1, 5, 30] {
        let mut world = led_by_the_watcher(replace_after_seconds);
        // Node 3, which has no member, still hears it.
        world.break_link(0, 1);
        world.break_link(2, 1);
        let begun = world.now;
        let after = replace_after_seconds * Nanos::PER_SECOND;
        while world.now.since(begun) < after {
            assert_eq!(world.removed, 0);
            world.step();
        }
        (0..20).for_each(|_| world.step());
        assert_eq!(world.removed, 1, "after {replace_after_seconds} s");
        let members = world.groups[&GroupId(0)].at.configuration;
        let nodes: BTreeSet<usize> = members.members().iter().map(|m| node_of(m.peer)).collect();
        assert_eq!(nodes, BTreeSet::from([0, 2, 3]));
    }
}

#[test]
fn a_dead_node_is_replaced_within_a_few_round_trips_of_its_detection() {
    let mut world = World::new(1, &[0, 0, 1, 1, 2, 2], 40);
    world.loses = false;
    world.step();
    world.kill(0);
    let detected = world.now + DEAD_AFTER_NANOS;
    while world.now < detected {
        assert_eq!(world.removed, 0, "before it is dead nothing is removed");
        world.step();
    }
    let placed = |world: &World| {
        world.groups.values().all(|group| {
            let members = group.at.configuration.members();
            members.len() == 3 && members.iter().all(|member| world.works(group, member))
        })
    };
    let mut steps = 0;
    while !placed(&world) {
        world.step();
        steps += 1;
        assert!(steps < 12, "a log replica is in place within 1.2 s");
    }
    world.steps_until_whole(600);
    let on_one = world.groups.values().filter(|group| group.held.contains_key(&Peer(256)));
    assert!(on_one.count() >= 13, "the spare of the same AZ has them all");
}

#[test]
fn a_node_that_returns_in_time_keeps_its_members() {
    let mut world = World::new(2, &[0, 1, 2, 3], 8);
    for _ in 0..20 {
        world.kill(1);
        for _ in 0..40 {
            world.step();
        }
        world.down[1] = None;
        for _ in 0..3 {
            world.step();
        }
    }
    assert_eq!(world.removed, 0);
}

#[test]
fn a_member_that_its_shard_lost_is_replaced_on_the_same_shard() {
    let mut world = World::new(3, &[0, 1, 2], 1);
    world.loses = false;
    world.step();
    let group = world.groups.get_mut(&GroupId(0)).unwrap();
    let (lost, _) = group.held.remove(&Peer(256)).unwrap();
    world.steps_until_whole(20);
    let group = &world.groups[&GroupId(0)];
    assert!(group.at.configuration.find(lost).is_none());
    assert!(group.held.contains_key(&Peer(256)));
}

#[test]
fn an_az_with_a_member_gets_no_second_one() {
    let mut world = World::new(4, &[0, 1, 2, 0], 1);
    world.loses = false;
    world.kill(2);
    for _ in 0..200 {
        world.step();
    }
    assert_eq!(world.removed, 0, "the only spare stands where a member does");
    let peers: Vec<Peer> =
        world.groups[&GroupId(0)].at.configuration.members().iter().map(|m| m.peer).collect();
    assert_eq!(peers, [0, 1, 2].map(|n| super::peer_of(n, ShardId(0))));
}

#[test]
fn old_reports_and_other_clusters_groups_are_ignored() {
    let mut world = World::new(5, &[0, 1, 2, 3], 1);
    world.loses = false;
    world.lead();
    let newest = *world.placement.report(GroupId(0)).unwrap();
    let older = GroupReport { ballot: Ballot(0), ..newest };
    world.placement.reported(Peer(512), older);
    assert_eq!(world.placement.report(GroupId(0)), Some(&newest));
    world.placement.reported(Peer(0), GroupReport { group: GroupId(99), ..newest });
    assert!(!world.placement.knows(GroupId(99)));
    assert!(world.placement.may_drop(GroupId(99), MemberId(1), Slot(0)), "its group is gone");
    assert!(!world.placement.may_drop(GroupId(0), MemberId(1), Slot(0)), "it is listed");
    assert!(world.placement.may_drop(GroupId(0), MemberId(77), Slot(0)));
}
