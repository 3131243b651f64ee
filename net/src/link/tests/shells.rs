//! Three shells with the production machines of core, exchanging real frames through real links
//! over the simulated network: agreement, progress after the last fault, and no election for a
//! broken link.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use forebay_core::ids::{Ballot, GroupId};
use forebay_core::liveness::{Liveness, LivenessSettings, PairEffect};
use forebay_core::paxos::{
    At, Az, Configuration, ConfigurationAt, Effect, Handle, Held, Input, MemberId, Offered,
    Payload, PersistId, Recovered, Replica, RoleName, Settings,
};

use super::super::*;
use super::world::{MILLI, Shell, World};

const GROUP: GroupId = GroupId(1);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    kind: EntryKind,
    origin: Ballot,
    bytes: Vec<u8>,
}

enum Write {
    Promise(Ballot),
    Entries { first: Slot, entries: Vec<(Ballot, Record)>, chosen: Slot },
}

#[derive(Default)]
struct Disk {
    promised: Ballot,
    log: Vec<(Ballot, Record)>,
    chosen: Slot,
}

/// What every slot holds, by the first member that called it chosen.
#[derive(Default)]
struct Truth {
    chosen: Vec<Record>,
    leaders: u64,
}

struct Member {
    node: usize,
    id: MemberId,
    configuration: Configuration,
    replica: Replica,
    liveness: Liveness,
    effects: Vec<Effect>,
    pair_effects: Vec<PairEffect>,
    staged: BTreeMap<u64, Vec<u8>>,
    next_handle: u64,
    log: Vec<(Ballot, Record)>,
    disk: Disk,
    writes: VecDeque<(Nanos, PersistId, Write)>,
    applied: Slot,
    truth: Rc<RefCell<Truth>>,
    proposes: bool,
    propose_at: Nanos,
    proposed: u64,
    now: Nanos,
    random: u64,
}

fn put(log: &mut Vec<(Ballot, Record)>, slot: Slot, entry: (Ballot, Record)) {
    let index = slot.0 as usize - 1;
    if index < log.len() { log[index] = entry } else { log.push(entry) }
}

fn new_liveness(node: usize, start: u64, now: Nanos) -> Liveness {
    let (me, settings) = (Peer(node as u32), LivenessSettings::DEFAULT);
    let mut liveness = Liveness::new(me, start, settings, start == 1, now);
    (0..3).for_each(|peer| liveness.add_peer(Peer(peer), now));
    liveness
}

impl Member {
    fn new(node: usize, truth: &Rc<RefCell<Truth>>) -> Member {
        let founders = [0, 1, 2_u16].map(|n| (MemberId(u64::from(n) + 1), Peer(n.into()), Az(n)));
        let configuration = Configuration::bootstrap(&founders, 3).unwrap();
        let (id, now) = (founders[node].0, Nanos(1000 * MILLI));
        Member {
            node,
            id,
            configuration,
            replica: Replica::bootstrap(id, Settings::DEFAULT, configuration),
            liveness: new_liveness(node, 1, now),
            effects: Vec::new(),
            pair_effects: Vec::new(),
            staged: BTreeMap::new(),
            next_handle: 1,
            log: Vec::new(),
            disk: Disk::default(),
            writes: VecDeque::new(),
            applied: Slot(0),
            truth: Rc::clone(truth),
            proposes: true,
            propose_at: now,
            proposed: 0,
            now,
            random: node as u64,
        }
    }

    fn stage(&mut self, bytes: &[u8]) -> Handle {
        self.next_handle += 1;
        self.staged.insert(self.next_handle, bytes.to_vec());
        Handle(self.next_handle)
    }

    fn step(&mut self, input: Input<'_>) {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        let at = At { now: self.now, liveness: &self.liveness, random: self.random >> 33 };
        self.replica.step(input, at, &mut self.effects);
    }

    fn serves(&self) -> bool {
        let at = At { now: self.now, liveness: &self.liveness, random: 0 };
        self.replica.begin_read(at).is_ok()
    }

    fn record(&self, slot: Slot) -> Option<Record> {
        if let Some(held) = self.replica.held(slot) {
            let staged = self.staged.get(&held.handle.0).cloned();
            let (kind, origin) = (held.kind, held.origin);
            return Some(Record { kind, origin, bytes: staged.unwrap_or_default() });
        }
        self.log.get(slot.0 as usize - 1).map(|(_, record)| record.clone())
    }

    fn restart(&mut self, start: u64, now: Nanos) {
        self.now = now;
        self.effects.clear();
        self.pair_effects.clear();
        self.writes.clear();
        self.staged.clear();
        self.liveness = new_liveness(self.node, start, now);
        self.log = self.disk.log.clone();
        let chosen = self.disk.chosen;
        let mut entries = Vec::new();
        for index in chosen.0 as usize..self.log.len() {
            let (ballot, record) = self.log[index].clone();
            let is_data = record.kind == EntryKind::Data;
            let handle = if is_data { self.stage(&record.bytes) } else { Handle::NONE };
            let bytes = record.bytes.len() as u32;
            let Record { origin, kind, .. } = record;
            entries.push(Held { ballot, origin, handle, bytes, kind });
        }
        let first = ConfigurationAt { slot: Slot(0), configuration: self.configuration };
        let recovered = Recovered {
            promised: self.disk.promised,
            chosen,
            chosen_origin: match chosen.0 {
                0 => Ballot(0),
                slot => self.log[slot as usize - 1].1.origin,
            },
            applied: chosen,
            checkpoint: Slot(0),
            trimmed: Slot(0),
            configurations: vec![first],
            entries,
        };
        self.applied = chosen;
        self.replica = Replica::recover(self.id, Settings::DEFAULT, recovered);
    }

    fn log_written(&mut self) {
        let mut upto = None;
        while let Some((due, ..)) = self.writes.front()
            && *due <= self.now
        {
            let (_, id, write) = self.writes.pop_front().unwrap();
            upto = Some(id);
            match write {
                Write::Promise(ballot) => self.disk.promised = self.disk.promised.max(ballot),
                Write::Entries { first, entries, chosen } => {
                    let mut slot = first;
                    for entry in entries {
                        self.disk.promised = self.disk.promised.max(entry.0);
                        put(&mut self.disk.log, slot, entry);
                        slot = slot.next();
                    }
                    self.disk.chosen = self.disk.chosen.max(chosen);
                }
            }
        }
        if let Some(upto) = upto {
            self.step(Input::Persisted { upto });
        }
    }

    fn write(&mut self, id: PersistId, write: Write) {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let before = self.writes.back().map_or(self.now, |(due, ..)| *due);
        let due = before.max(self.now + 50_000 + (self.random >> 33) % MILLI);
        self.writes.push_back((due, id, write));
    }

    fn chosen(&mut self, upto: Slot) {
        while self.applied < upto {
            let slot = self.applied.next();
            let record = self.record(slot).expect("what is chosen and not applied is held");
            let mut truth = self.truth.borrow_mut();
            match truth.chosen.get(slot.0 as usize - 1) {
                Some(known) => assert_eq!(*known, record, "agreement on slot {slot}"),
                None => truth.chosen.push(record),
            }
            drop(truth);
            self.applied = slot;
        }
        self.step(Input::Applied { slot: upto });
    }

    fn carry_out(&mut self, effect: Effect, links: &mut Links) {
        match effect {
            Effect::PersistPromise { id, ballot } => self.write(id, Write::Promise(ballot)),
            Effect::PersistEntries { id, ballot, first, last } => {
                let mut entries = Vec::new();
                for slot in (first.0..=last.0).map(Slot) {
                    let entry = (ballot, self.record(slot).expect("it is held"));
                    put(&mut self.log, slot, entry.clone());
                    entries.push(entry);
                }
                let chosen = self.replica.figures().chosen_slot;
                self.write(id, Write::Entries { first, entries, chosen });
            }
            Effect::Send { to, message, last } => {
                let route = Route { group: GROUP, from: self.id, to };
                let peer = self.configuration.find(to).expect("a member").peer;
                let (Message::Accept { first, .. } | Message::Fetched { first, .. }) = &message
                else {
                    links.send(peer, route, &message);
                    return;
                };
                let range = (first.0..=last.0).map_while(|slot| self.record(Slot(slot)));
                let (first, records): (_, Vec<Record>) = (*first, range.collect());
                links.send_entries(peer, route, &message, last, |slot| {
                    let record = records.get((slot.0 - first.0) as usize)?;
                    Some((record.kind, record.origin, &record.bytes[..]))
                });
            }
            Effect::Chosen { slot } => self.chosen(slot),
            Effect::Discard { handle } => {
                self.staged.remove(&handle.0);
            }
            Effect::Leads { .. } => self.truth.borrow_mut().leaders += 1,
            Effect::StepsDown { .. } | Effect::MayTrim { .. } => {}
            Effect::PersistBase { .. } | Effect::NeedsSnapshot { .. } | Effect::Removed { .. } => {
                unreachable!("nothing is trimmed here, and nobody leaves")
            }
        }
    }
}

impl Sink for Member {
    fn pair(&mut self, from: Peer, message: &PairMessage) {
        self.liveness.receive(from, message, self.now, &mut self.pair_effects);
    }

    fn table(&mut self, _: Peer, _: StepKind, _: TableId, _: &[u8]) {}

    fn member(&mut self, _: Peer, _: forebay_core::message::peer::MemberStep) {}

    fn snapshot(&mut self, _: Peer, _: Route, _: u64, _: SnapshotMessage<'_>) {}

    fn group(&mut self, from: Peer, message: &GroupMessage<'_>) {
        let GroupMessage { route, message, entries } = message;
        assert_eq!((route.group, route.to), (GROUP, self.id));
        assert_eq!(self.configuration.find(route.from).map(|member| member.peer), Some(from));
        let mut offered = Vec::new();
        for entry in entries.clone() {
            let (bytes, origin) = (entry.bytes.len() as u32, entry.origin);
            offered.push(match entry.kind {
                EntryKind::Data => {
                    let handle = self.stage(entry.bytes);
                    Offered { handle, bytes, payload: Payload::Data, origin }
                }
                EntryKind::NoOp => {
                    Offered { handle: Handle::NONE, bytes, payload: Payload::NoOp, origin }
                }
                kind => unreachable!("{kind:?}: the membership stays"),
            });
        }
        let input = Input::Message { from: route.from, peer: from, message, entries: &offered };
        self.step(input);
    }
}

impl Shell for Member {
    fn receives_over(&mut self, _: usize, now: Nanos) {
        self.now = now;
    }

    fn turn(&mut self, links: &mut Links, now: Nanos, judges: bool, random: u64) -> Nanos {
        self.now = now;
        self.log_written();
        if judges {
            self.liveness.tick(now, &mut self.pair_effects);
        }
        for effect in std::mem::take(&mut self.pair_effects) {
            if let PairEffect::Send { to, message } = effect {
                links.send_pair(to, &message);
            }
        }
        if self.proposes && now >= self.propose_at && self.serves() {
            self.propose_at = now + 4 * MILLI;
            self.proposed += 1;
            let mut bytes = vec![self.node as u8; 20 + (random % 300) as usize];
            bytes[..8].copy_from_slice(&random.to_le_bytes());
            bytes[8..16].copy_from_slice(&self.proposed.to_le_bytes());
            let handle = self.stage(&bytes);
            if self.replica.propose(handle, bytes.len() as u32).is_err() {
                self.staged.remove(&handle.0);
            }
        }
        self.step(Input::Tick);
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                self.carry_out(effect, links);
            }
        }
        let written = self.writes.front().map(|(due, ..)| *due);
        let propose = self.proposes.then_some(self.propose_at.max(now + 4 * MILLI));
        let due = [self.replica.next_due(), written, propose].into_iter().flatten();
        due.fold(self.liveness.next_due(), Nanos::min)
    }
}

fn three(seed: u64) -> (World<Member>, Rc<RefCell<Truth>>) {
    let truth = Rc::new(RefCell::new(Truth::default()));
    let members = (0..3).map(|node| Member::new(node, &truth)).collect();
    (World::new(seed, members), truth)
}

fn leader(world: &World<Member>) -> Option<usize> {
    let leads = |node: &usize| {
        world.nodes[*node].up
            && world.nodes[*node].shell.replica.figures().role == RoleName::Leading
            && world.nodes[*node].shell.serves()
    };
    (0..3).find(leads)
}

fn disturb(world: &mut World<Member>) {
    let (a, b) = (world.rng.below(3) as usize, world.rng.below(3) as usize);
    match world.rng.below(9) {
        0 => world.delay_nanos = [200_000, 3 * MILLI, 40 * MILLI][b],
        1 | 2 => world.blocked.push((a, b)),
        3 => world.blocked.clear(),
        4 => world.dials_fail_percent = world.rng.below(70),
        5 => {
            if let Some(wire) = world.wires_between(a, b).first().copied() {
                world.reset(wire);
            }
        }
        6 => world.nodes[a].paused_until = world.now + world.rng.below(1500 * MILLI),
        _ => {
            let told = world.rng.chance(50);
            world.crash(a, told);
            let down = world.rng.below(700 * MILLI);
            world.run_for(down);
            restart(world, a);
        }
    }
}

fn restart(world: &mut World<Member>, node: usize) {
    let start = world.restart(node);
    let now = Nanos(world.now);
    world.nodes[node].shell.restart(start, now);
}

#[test]
fn members_agree_whatever_the_network_does_and_serve_when_it_is_whole() {
    let (mut slots, mut leaders, mut reconnects) = (0, 0, 0);
    for seed in 0..25 {
        let (mut world, truth) = three(seed);
        for _ in 0..12 {
            disturb(&mut world);
            let nanos = world.rng.below(500 * MILLI);
            world.run_for(nanos);
        }
        world.heal();
        let before = truth.borrow().chosen.len();
        world.run_for(6000 * MILLI);
        assert!(leader(&world).is_some(), "seed {seed}: somebody leads");
        assert!(truth.borrow().chosen.len() > before + 100, "seed {seed}: writes are chosen");
        world.nodes.iter_mut().for_each(|node| node.shell.proposes = false);
        world.run_for(1000 * MILLI);
        let all = truth.borrow().chosen.len() as u64;
        for node in &world.nodes {
            assert_eq!(node.shell.applied.0, all, "seed {seed}: all members have it");
            assert_eq!(node.shell.replica.figures().protocol_errors, 0);
            let counters = node.links.counters();
            assert!(counters.refusals().all(|(name, count)| {
                count == 0 || matches!(name, "superseded" | "crossing" | "old_incarnation")
            }));
            reconnects += counters.reconnects;
        }
        slots += all;
        leaders += truth.borrow().leaders;
    }
    println!("{slots} slots, {leaders} leaders, {reconnects} reconnects");
    assert!(leaders > 40 && reconnects > 100, "the faults did something");
}

#[test]
fn a_dead_leader_is_replaced_within_a_second() {
    for seed in 0..10 {
        let (mut world, truth) = three(seed);
        world.run_for(2000 * MILLI);
        let old = leader(&world).expect("a leader");
        world.crash(old, seed % 2 == 0);
        let before = truth.borrow().chosen.len();
        let mut waited = 0;
        while truth.borrow().chosen.len() <= before + 1 {
            world.run_for(10 * MILLI);
            waited += 10;
            assert!(waited < 1000, "seed {seed}: no write for {waited} ms");
        }
        restart(&mut world, old);
        world.run_for(2000 * MILLI);
        assert_eq!(truth.borrow().leaders, 2, "the old leader disturbs nobody");
        assert_eq!(
            world.nodes[old].links.status(Peer((old as u32 + 1) % 3)).unwrap().incarnation,
            1
        );
    }
}

#[test]
fn one_broken_link_causes_no_election() {
    for (seed, one_way) in [(1, true), (2, true), (3, false), (4, false)] {
        let (mut world, truth) = three(seed);
        world.run_for(2000 * MILLI);
        let leads = leader(&world).expect("a leader");
        let other = (leads + 1 + seed as usize % 2) % 3;
        world.blocked.push((leads, other));
        if !one_way {
            world.blocked.push((other, leads));
        }
        let before = truth.borrow().chosen.len();
        world.run_for(5000 * MILLI);
        assert_eq!((truth.borrow().leaders, leader(&world)), (1, Some(leads)));
        assert!(truth.borrow().chosen.len() > before + 500);
        // Healed, the one behind the broken link catches up.
        world.heal();
        world.run_for(3000 * MILLI);
        assert_eq!((truth.borrow().leaders, leader(&world)), (1, Some(leads)));
        let all = truth.borrow().chosen.len() as u64;
        assert!(world.nodes[other].shell.applied.0 + 50 > all);
    }
}

#[test]
fn a_pause_of_a_follower_causes_no_election() {
    let (mut world, truth) = three(11);
    world.run_for(2000 * MILLI);
    let leads = leader(&world).expect("a leader");
    let other = (leads + 1) % 3;
    for pause in [300, 700, 5000] {
        world.nodes[other].paused_until = world.now + pause * MILLI;
        world.run_for((pause + 2000) * MILLI);
        assert_eq!((truth.borrow().leaders, leader(&world)), (1, Some(leads)));
    }
    assert_eq!(world.nodes[other].links.pauses(), 3);
}
