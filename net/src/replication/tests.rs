//! Three shards' replication over three stores on simulated disks, joined by pipes that lose
//! nothing: what a member does that was away for too long, and how a log replica comes to keep state.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Bound;

use forebay_core::ids::{Ballot, ShardId};
use forebay_core::paxos::{Az, Change};
use forebay_storage::block::{BLOCK_BYTES, BlockBuf, DiskDone, DiskOp, ShardFile};
use forebay_storage::log::LogConfig;
use forebay_storage::sim_disk::{SimDisk, SimRandom};
use forebay_storage::store::{self, BlockingDisk, Opened, RangeEnd, Read, StoreConfig, Visit};

use super::*;

const NODES: usize = 3;
const GROUP: GroupId = GroupId(7);

struct Blocking<'a>(&'a mut SimDisk);

impl BlockingDisk for Blocking<'_> {
    fn carry_out(&mut self, op: DiskOp) -> DiskDone {
        self.0.submit(op);
        let op = self.0.in_flight().last().expect("just submitted");
        self.0.complete(op).expect("in flight")
    }
}

fn store_config() -> StoreConfig {
    let log = LogConfig {
        shard: ShardId(0),
        log_id: 7,
        segment_bytes: 256 << 10,
        segments: 8,
        record_bytes_max: 40 << 10,
        reserve_bytes: 256 << 10,
        batch_bytes_max: 32 << 10,
        in_flight_max: 4,
    };
    StoreConfig {
        log,
        overlay_generation_bytes: 1 << 20,
        cache_bytes: 1 << 20,
        checkpoint_interval_nanos: 300 * Nanos::PER_MILLI,
        overlay_fill_percent: 50,
        log_fill_percent: 50,
        checkpoints_off: false,
        merge_slice_micros: 200,
        marker_nanos: 5 * Nanos::PER_MILLI,
    }
}

fn member(node: usize) -> MemberId {
    MemberId(100 + node as u64)
}

fn configuration(roles: [MemberRole; NODES]) -> Configuration {
    let founder = |n: usize| (member(n), peer_of(n, ShardId(0)), Az(n as u16));
    let founders: Vec<_> = (0..NODES).map(founder).collect();
    let mut configuration = Configuration::bootstrap(&founders, 3).expect("three members");
    for index in (0..NODES).filter(|index| roles[*index] == MemberRole::Log) {
        let (id, peer, az) = founders[index];
        configuration = configuration.changed(Change::Remove { id }, 3).expect("two are left");
        let add = Change::AddLogReplica { id, peer, az };
        configuration = configuration.changed(add, 3).expect("there is room");
    }
    configuration
}

fn topology() -> Topology {
    let node = |n: usize| TopologyNode {
        node_id: [n as u8 + 1; 16],
        az: n as u16,
        certified: None,
        native: vec![SocketAddr::from(([127, 0, 0, 1], 1000 + n as u16))],
        peer: vec![SocketAddr::from(([127, 0, 0, 1], 2000 + n as u16))],
    };
    Topology { cluster_id: [9; 16], nodes: (0..NODES).map(node).collect() }
}

struct Node {
    replication: Replication,
    store: Store,
    disk: SimDisk,
    group: GroupOrdinal,
    fx: Effects,
    /// To whom a connection leads, and what it is called there.
    conns: BTreeMap<ConnId, (usize, ConnId)>,
    next_slot: u32,
    inbox: VecDeque<(ConnId, Vec<u8>)>,
    sent: Vec<(ConnId, SendBuf)>,
    /// Stands still: a process that is stopped, and whose machine drops what comes.
    away: bool,
}

struct World {
    nodes: Vec<Node>,
    now: Nanos,
    random: SimRandom,
    /// What was acknowledged.
    items: BTreeMap<Vec<u8>, Vec<u8>>,
    number: u64,
    /// One in so many turns of the leader has a write.
    write_one_in: usize,
    /// The key whose page was damaged.
    hit: Option<Vec<u8>>,
}

impl World {
    fn new(roles: [MemberRole; NODES], seed: u64) -> World {
        let now = Nanos(Nanos::PER_SECOND);
        let topology = Arc::new(topology());
        let node = |number: usize| {
            let config = store_config();
            let mut disk = SimDisk::new(config.log.capacity_bytes(), 2 * BLOCK_BYTES as u64);
            let blocks = config.log.batch_bytes_max as usize / BLOCK_BYTES;
            let buffers = (0..config.log.buffers_wanted()).map(|_| BlockBuf::zeroed(blocks));
            let opened = store::open(
                config,
                number as u128 + 1,
                buffers.collect(),
                &mut Blocking(&mut disk),
                now,
                &mut |_| {},
            );
            let Opened { mut store, .. } = opened.expect("a blank disk is formatted");
            let (group, _) = store
                .create_member(MemberDescriptor {
                    group: GROUP,
                    member: member(number),
                    role: roles[number],
                    configuration: Some(configuration(roles)),
                    payload: b"",
                })
                .expect("there is room");
            let me = ReplicationIdentity {
                cluster_id: topology.cluster_id,
                node_id: topology.nodes[number].node_id,
                peer: peer_of(number, ShardId(0)),
                shard: 0,
                az: number as u16,
            };
            let mut replication = Replication::new(me, &store, seed + number as u64, now);
            replication.set_topology(Arc::clone(&topology), now);
            Node {
                replication,
                store,
                disk,
                group,
                fx: Effects::default(),
                conns: BTreeMap::new(),
                next_slot: 0,
                inbox: VecDeque::new(),
                sent: Vec::new(),
                away: false,
            }
        };
        World {
            nodes: (0..NODES).map(node).collect(),
            now,
            random: SimRandom::new(seed),
            items: BTreeMap::new(),
            number: 0,
            write_one_in: 1,
            hit: None,
        }
    }

    fn new_conn(&mut self, node: usize) -> ConnId {
        let found = &mut self.nodes[node];
        found.next_slot += 1;
        ConnId { slot: found.next_slot, generation: 0 }
    }

    fn turn(&mut self, index: usize, put: Option<(&[u8], &[u8])>) -> bool {
        let now = self.now;
        let node = &mut self.nodes[index];
        for (conn, buffer) in std::mem::take(&mut node.sent) {
            node.replication.sent(conn, buffer);
        }
        while let Some((conn, bytes)) = node.inbox.pop_front() {
            node.replication.received(&mut node.store, conn, &bytes, now);
        }
        for _ in 0..8 {
            let Some(done) = node.disk.complete_one(&mut self.random) else { break };
            node.store.disk_done(done, now);
        }
        let mut pages = Vec::new();
        node.store.take_loaded(&mut pages);
        node.replication.begin_turn(&mut node.store, now, &mut node.fx);
        let proposed = put.is_some_and(|(key, item)| {
            let (group, store) = (node.group, &mut node.store);
            node.replication.propose(store, group, key, Some(item)).is_ok()
        });
        node.replication.propose_all(&mut node.store, now);
        node.store.turn(now, &mut node.fx.disk);
        node.replication.end_turn(now, &mut node.fx);
        assert_eq!(node.store.failure(), None);
        let mut events = Vec::new();
        node.replication.take_events(&mut events);
        let fx = std::mem::take(&mut node.fx);
        fx.disk.into_iter().for_each(|op| node.disk.submit(op));
        for (conn, buffer) in fx.send {
            let (to, there) = self.nodes[index].conns[&conn];
            if !self.nodes[to].away {
                self.nodes[to].inbox.push_back((there, buffer.to_vec()));
            }
            self.nodes[index].sent.push((conn, buffer));
        }
        for (token, address) in fx.connect {
            let to = usize::from(address.port() - 2000);
            if self.nodes[to].away {
                self.nodes[index].replication.connect_failed(token, now);
                continue;
            }
            let (here, there) = (self.new_conn(index), self.new_conn(to));
            self.nodes[index].conns.insert(here, (to, there));
            self.nodes[to].conns.insert(there, (index, here));
            self.nodes[index].replication.connected(here, Some(token), None, now);
            self.nodes[to].replication.connected(there, None, None, now);
        }
        for conn in fx.close {
            let Some((to, there)) = self.nodes[index].conns.remove(&conn) else { continue };
            self.nodes[to].conns.remove(&there);
            self.nodes[to].inbox.retain(|(other, _)| *other != there);
            self.nodes[to].sent.retain(|(other, _)| *other != there);
            self.nodes[index].sent.retain(|(other, _)| *other != conn);
            self.nodes[index].replication.closed(conn, CloseReason::Asked, now);
            self.nodes[to].replication.closed(there, CloseReason::Peer, now);
        }
        proposed
    }

    fn run(&mut self, millis: u64, writes: bool) {
        for _ in 0..4 * millis {
            self.now = self.now + Nanos::PER_MILLI / 4;
            let leader = self.leader();
            for index in 0..NODES {
                if self.nodes[index].away {
                    continue;
                }
                let due = writes && self.random.chance(1, self.write_one_in);
                if !due || leader != Some(index) {
                    self.turn(index, None);
                    continue;
                }
                self.number += 1;
                let key = format!("key-{:05}", self.number * 7919 % 300).into_bytes();
                let bytes = 2000 + self.random.below(4000);
                let item = format!("{:08}-{}", self.number, "x".repeat(bytes)).into_bytes();
                if self.turn(index, Some((&key, &item))) {
                    self.items.insert(key, item);
                }
            }
        }
    }

    /// The leader begins to remove another node's member, by the entry of this slot.
    fn remove(&mut self, leader: usize, removed: usize) -> Slot {
        let (now, node) = (self.now, &mut self.nodes[leader]);
        let Members { liveness, list, effects, .. } = &mut node.replication.members;
        let replica = &mut list[node.group.0 as usize].as_deref_mut().expect("it leads").replica;
        let at = At { now, liveness, random: 0 };
        let change = Change::Remove { id: member(removed) };
        let slot = replica.change(change, 3, at, effects).expect("two are left");
        node.replication.members.carry_out(&mut node.store, node.group);
        slot
    }

    /// The connections between two nodes break, and what is on its way is lost.
    fn disconnect(&mut self, one: usize, other: usize) {
        for (from, to) in [(one, other), (other, one)] {
            let node = &mut self.nodes[from];
            let broken = node.conns.extract_if(.., |_, (there, _)| *there == to);
            for (conn, _) in broken.collect::<Vec<_>>() {
                node.inbox.retain(|(of, _)| *of != conn);
                node.sent.retain(|(of, _)| *of != conn);
                node.replication.closed(conn, CloseReason::Peer, self.now);
            }
        }
    }

    fn leader(&self) -> Option<usize> {
        let leads = |node: &Node| !node.away && node.replication.leads(node.group);
        self.nodes.iter().position(leads)
    }

    /// Who leads first, a while after it began: a member that starts waits one lease length.
    fn await_leader(&mut self, writes: bool) -> usize {
        self.run(LivenessSettings::DEFAULT.restart_wait_nanos() / Nanos::PER_MILLI, writes);
        for _ in 0..100 {
            self.run(10, writes);
            if let Some(leader) = self.leader() {
                self.run(100, writes);
                return leader;
            }
        }
        panic!("nobody leads: {:?}", [0, 1, 2].map(|index| self.status(index)));
    }

    fn status(&self, index: usize) -> MemberStatus {
        self.nodes[index].replication.statuses().next().expect("one member")
    }

    /// What a node's state has.
    fn contents(&mut self, index: usize) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut items = BTreeMap::new();
        for _ in 0..10_000 {
            let last = items.last_key_value().map(|(key, _): (&Vec<u8>, &Vec<u8>)| key.clone());
            let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let node = &mut self.nodes[index];
            let mut visit = |key: &[u8], item: &[u8]| {
                items.insert(key.to_vec(), item.to_vec());
                Visit::Continue
            };
            match node.store.range(node.group, from, Bound::Unbounded, false, &mut visit) {
                RangeEnd::Exhausted => return items,
                RangeEnd::Wait(page) => {
                    node.store.fetch(page);
                    self.run(1, false);
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("pages never arrive");
    }

    fn assert_equal(&mut self) {
        self.run(500, false);
        for index in 0..NODES {
            let expected = self.items.clone();
            assert!(self.contents(index) == expected, "node {index}: {:?}", self.status(index));
        }
    }

    fn leave_behind(&mut self) -> usize {
        let away = (self.await_leader(true) + 1) % NODES;
        self.nodes[away].away = true;
        self.nodes[away].inbox.clear();
        let applied = self.status(away).figures.applied_slot;
        for _ in 0..200 {
            self.run(100, true);
            let trimmed = self.leader().map(|leader| self.status(leader).figures.trimmed_slot);
            if trimmed.is_some_and(|trimmed| trimmed > applied) {
                self.nodes[away].away = false;
                return away;
            }
        }
        panic!("the others trim nothing: {:?}", self.nodes[(away + 1) % NODES].store.stats());
    }
}

#[test]
fn a_member_that_finds_nothing_in_the_logs_gets_a_snapshot_while_writes_go_on() {
    let mut world = World::new([MemberRole::Storage; NODES], 1);
    let away = world.leave_behind();
    // At a rate at which the logs reach back for longer than the snapshot takes.
    world.write_one_in = 16;
    let mut seen = false;
    for _ in 0..300 {
        world.run(10, true);
        seen |= world.status(away).needs_snapshot;
        if seen && !world.status(away).needs_snapshot {
            break;
        }
    }
    let status = world.status(away);
    assert!(seen && !status.needs_snapshot, "{status:?}");
    assert!(world.nodes[away].store.stats().snapshots_installed >= 1);
    world.assert_equal();
}

#[test]
fn another_source_is_asked_when_the_first_serves_nothing() {
    let mut world = World::new([MemberRole::Storage; NODES], 2);
    let away = world.leave_behind();
    // As many as it holds at a time, by somebody who does not read.
    let leader = world.leader().expect("somebody leads");
    let mut pinned = 0;
    for _ in 0..400 {
        let now = world.now;
        let node = &mut world.nodes[leader];
        // All before the member that was away has asked.
        while node.store.pin_snapshot(node.group, Slot(1), now).is_ok() {
            pinned += 1;
        }
        world.run(10, false);
    }
    assert!(pinned >= 4);
    let other = (0..NODES).find(|node| *node != leader && *node != away).expect("three");
    let served = |world: &World, node: usize| world.nodes[node].store.stats().snapshot_served_bytes;
    let status = world.status(away);
    let both = [leader, other].map(|node| served(&world, node));
    assert!(both[1] > 0 && !status.needs_snapshot, "{pinned} {both:?} {status:?}");
    world.assert_equal();
}

#[test]
fn a_log_replica_that_is_told_to_keeps_state_and_catches_up() {
    let roles = [MemberRole::Storage, MemberRole::Storage, MemberRole::Log];
    let mut world = World::new(roles, 3);
    world.run(1500, true);
    assert_eq!(world.status(2).role, MemberRole::Log);
    let mut ready = false;
    for _ in 0..500 {
        if let Some(leader) = world.leader() {
            let now = world.now;
            let node = &mut world.nodes[leader];
            node.replication.begin_promotion(node.group, member(2), now).expect("it leads");
            ready = node.replication.promotion(node.group, member(2)) == Promotion::Ready;
        }
        if ready {
            break;
        }
        world.run(10, true);
    }
    assert!(ready, "{:?}", world.status(2));
    assert_eq!(world.status(2).role, MemberRole::Storage);
    world.run(300, true);
    world.assert_equal();
}

#[test]
fn a_member_whose_removal_was_lost_with_a_connection_hears_of_it_over_the_next() {
    let mut world = World::new([MemberRole::Storage; NODES], 11);
    let leader = world.await_leader(true);
    world.run(200, true);
    let removed = (leader + 1) % NODES;
    let state = |world: &World| {
        let node = &world.nodes[removed];
        node.replication.member(node.group).1
    };
    world.remove(leader, removed);
    world.turn(leader, None);
    world.disconnect(leader, removed);
    assert_eq!(state(&world), MemberState::Listed);
    let missed = |world: &World| {
        world.nodes[leader].replication.missed_nanos(peer_of(removed, ShardId(0)), world.now)
    };
    for _ in 0..40 {
        world.run(10, true);
        assert_eq!(missed(&world), 0, "neither misses the other");
    }
    assert_eq!(state(&world), MemberState::Removed);
}

#[test]
fn a_member_that_holds_its_own_removal_asks_whether_it_is_one_still() {
    let mut world = World::new([MemberRole::Storage; NODES], 11);
    let leader = world.await_leader(true);
    world.run(200, true);
    let removed = (leader + 1) % NODES;
    let slot = world.remove(leader, removed);
    'chosen: loop {
        world.now = world.now + Nanos::PER_MILLI / 4;
        for index in 0..NODES {
            world.turn(index, None);
            if world.status(leader).figures.chosen_slot >= slot {
                break 'chosen;
            }
        }
    }
    // It has accepted that, and hears a shard which leads nothing any more and never says so.
    world.disconnect(leader, removed);
    let (now, node) = (world.now, &mut world.nodes[leader]);
    node.replication.members.fail(&mut node.store, now);
    let mut asked = false;
    for _ in 0..40 {
        world.run(100, false);
        let now = world.now;
        let node = &mut world.nodes[removed];
        assert_eq!(node.replication.member(node.group).1, MemberState::Listed);
        let relics = node.replication.relics(now);
        asked |= relics.iter().any(|(group, id, _)| (*group, *id) == (GROUP, member(removed)));
    }
    assert!(asked, "its state would be kept for nobody");
}

#[test]
fn a_leader_reports_until_it_was_noted_and_again_when_a_member_is_reached_no_more() {
    let mut world = World::new([MemberRole::Storage; NODES], 4);
    let leader = world.await_leader(true);
    let me = peer_of(leader, ShardId(0));
    let reports = |world: &mut World| {
        let (now, mut reports) = (world.now, Vec::new());
        world.nodes[leader].replication.reports(now, &mut reports);
        reports.into_iter().map(|(_, report)| report).collect::<Vec<_>>()
    };
    assert_eq!(reports(&mut world), [], "nobody to report to is known");
    world.nodes[leader].replication.watched_by(me, Ballot(1));
    let first = reports(&mut world);
    assert_eq!(first.len(), 1);
    assert_eq!(reports(&mut world), [], "it was told just now");
    world.run(400, false);
    assert_eq!(reports(&mut world), first, "nobody took note");
    let told = first[0];
    let replication = &mut world.nodes[leader].replication;
    replication.noted(me, told.group, told.ballot, told.at.slot, told.marks);
    world.run(400, true);
    assert_eq!(reports(&mut world), []);
    assert!(world.nodes[leader].replication.members.news.is_empty(), "it costs nothing now");
    let away = (leader + 1) % NODES;
    world.nodes[away].away = true;
    world.run(2000, false);
    let after = reports(&mut world);
    let place = told.at.configuration.members().iter().position(|at| at.id == member(away));
    assert!(after[0].marks.is_unreached(place.expect("it is a member")), "{after:?}");
}

impl World {
    /// Reads a key of every node that leads, strongly, as clients do; false if that met damage.
    fn read_a_key(&mut self) -> bool {
        let at = self.random.below(self.items.len());
        let any = self.items.iter().nth(at).expect("that many");
        let hit = self.hit.as_ref().filter(|_| self.random.chance(1, 2));
        let (key, item) = hit.and_then(|key| self.items.get_key_value(key)).unwrap_or(any);
        let Some(leader) = self.nodes.iter().position(|node| node.replication.leads(node.group))
        else {
            return true;
        };
        let node = &mut self.nodes[leader];
        match node.store.get(node.group, key) {
            Read::Item(found) => assert!(found == item, "never served: {key:?}"),
            Read::Absent => panic!("{key:?} was acknowledged"),
            Read::Damaged => return false,
            Read::Wait(page) => {
                node.store.fetch(page);
            }
        }
        true
    }

    /// Changes a bit of a page that a key of the state is in.
    fn damage(&mut self, index: usize) {
        for key in self.items.keys() {
            let node = &mut self.nodes[index];
            if let Read::Wait(page) = node.store.get(node.group, key) {
                let id = node.store.fetch(page).0;
                node.disk.flip_bit(ShardFile::Pages, id * BLOCK_BYTES as u64 + 100, 3);
                self.hit = Some(key.clone());
                return;
            }
        }
        panic!("everything is in the cache");
    }
}

#[test]
fn a_leader_whose_state_is_damaged_hands_over_and_becomes_whole_while_writes_go_on() {
    let mut world = World::new([MemberRole::Storage; NODES], 5);
    world.write_one_in = 8;
    world.run(3000, true);
    // Nothing that was written last is in flight when the ledger is read.
    world.run(100, false);
    let leader = world.leader().expect("somebody leads");
    world.damage(leader);
    let (mut stopped, mut moved, mut met) = (false, false, 0);
    for _ in 0..4_000 {
        world.run(1, false);
        met += u64::from(!world.read_a_key());
        let status = world.status(leader);
        moved |= world.leader().is_some_and(|now| now != leader);
        if status.damaged {
            stopped = true;
            assert!(!status.serves);
            let (node, now) = (&mut world.nodes[leader], world.now);
            assert_eq!(node.replication.lag(node.group, now), None, "nobody reads it");
        }
        if world.nodes[leader].store.stats().repaired_pages > 0 {
            break;
        }
    }
    let stats = world.nodes[leader].store.stats();
    assert!(stopped && moved && met > 0, "stopped {stopped}, moved {moved}, met {met} times");
    assert_eq!((stats.damaged_pages, stats.repaired_pages, stats.members_damaged), (1, 1, 0));
    world.run(300, true);
    world.assert_equal();
}

#[test]
fn a_leader_that_nobody_can_replace_serves_what_it_can_read() {
    let roles = [MemberRole::Storage, MemberRole::Storage, MemberRole::Log];
    let mut world = World::new(roles, 6);
    world.run(2000, true);
    world.run(100, false);
    let leader = world.leader().expect("somebody leads");
    let other = (0..2).find(|index| *index != leader).expect("two keep the state");
    world.nodes[other].away = true;
    // Until it is missed, it would be handed the lead.
    world.run(800, false);
    assert_eq!(world.leader(), Some(leader));
    world.damage(leader);
    let (mut served, mut met) = (0, 0);
    for _ in 0..1_500 {
        world.run(1, false);
        match world.read_a_key() {
            true => served += 1,
            false => met += 1,
        }
    }
    assert!(served > 100 && met > 0, "{served} reads, {met} met the damage");
    assert_eq!(world.leader(), Some(leader));
    assert!(!world.status(leader).damaged, "it is not stopped");
    // The other one comes back, and leads.
    world.nodes[other].away = false;
    for _ in 0..500 {
        world.run(10, false);
        if world.nodes[leader].store.stats().repaired_pages > 0 {
            break;
        }
    }
    assert_eq!(world.nodes[leader].store.stats().repaired_pages, 1, "{:?}", world.status(leader));
}
