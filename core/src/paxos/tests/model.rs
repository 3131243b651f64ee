//! Every interleaving of the small cases, over the production machines.
//!
//! ```text
//!   state: replicas · disks · what waits for a disk · all messages ever sent · liveness · time
//!   action: a member stands · a message arrives (again) · a disk finishes · a write · a change
//!           a crash and restart · time goes on · heartbeats
//! ```
//!
//! The network keeps every message for ever and may deliver any of them at any time, or never: that
//! is loss, delay, repetition and reordering at once. Crashes lose what waits for the disk.
//!
//! The ordinary run looks at a bounded number of states, breadth first. To go deeper:
//! `FOREBAY_MODEL_STATES=20000000 cargo test -p forebay-core paxos::tests::model -- --nocapture`.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use stateright::{Checker, Model, Property};

use super::super::{
    At, Az, Bug, Change, Configuration, ConfigurationAt, Effect, Input, MemberId, MemberRole,
    Message, PersistId, Replica, RoleName, Settings,
};
use super::sim::disk::{Disk, Log, Record, Write};
use super::sim::offer;
use crate::ids::Slot;
use crate::liveness::{Liveness, LivenessSettings, PairEffect, PairMessage, Peer};
use crate::time::Nanos;

/// States of the ordinary run, in each model.
const STATES: usize = 300_000;

const SAFE: &str = "agreement, durability, one leaseholder, no stale read";
const CHOSEN: &str = "a slot is chosen";

const NEVER: u64 = 1 << 40;
/// Time goes on by this much: two steps are a lease.
const STEP: u64 = 100_000;

const SETTINGS: Settings = Settings {
    resend_nanos: NEVER,
    election_retry_nanos: NEVER,
    election_spread_nanos: NEVER,
    give_up_nanos: NEVER,
    hand_over_nanos: NEVER,
    ..Settings::DEFAULT
};
const LIVENESS: LivenessSettings =
    LivenessSettings { lease_nanos: 2 * STEP, heartbeat_nanos: STEP };

/// What a model may do, each so many times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Budget {
    elections: u8,
    writes: u8,
    changes: u8,
    crashes: u8,
    time_steps: u8,
}

/// When writes are durable.
#[derive(Clone, Copy, Debug)]
enum Disks {
    /// At once.
    Fast,
    /// Promises that nothing follows wait.
    SlowForPromises,
    /// Everything waits.
    Slow,
}

#[derive(Clone, Debug)]
struct Small {
    configuration: Configuration,
    /// Nodes, some of them spare.
    nodes: u32,
    budget: Budget,
    change: Option<Change>,
    /// Heartbeats and leases take part.
    timed: bool,
    /// Begins with the first member as leader, whose no-op is chosen everywhere.
    led: bool,
    /// Disks take their time; only crashes can tell.
    disks: Disks,
    bug: Option<Bug>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct MemberState {
    id: MemberId,
    replica: Replica,
    liveness: Liveness,
    start: u64,
    disk: Disk,
    log: Log,
    writes: Vec<(PersistId, Write)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Wire {
    Group(MemberId, Message, Vec<Record>),
    Pair(PairMessage),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Envelope {
    from: u32,
    to: u32,
    wire: Wire,
}

#[derive(Clone, Debug)]
struct State {
    members: Vec<MemberState>,
    /// By hash, so that the order of sending makes no difference.
    network: BTreeMap<u64, Envelope>,
    budget: Budget,
    now: u64,
    next_value: u64,
    /// What the first member that called a slot chosen said of it.
    chosen: Vec<Record>,
    configurations: Vec<ConfigurationAt>,
    acknowledged: Slot,
    broken: Option<&'static str>,
}

impl PartialEq for State {
    fn eq(&self, other: &State) -> bool {
        self.members == other.members
            && self.network.keys().eq(other.network.keys())
            && self.budget == other.budget
            && self.now == other.now
            && self.chosen == other.chosen
            && self.acknowledged == other.acknowledged
            && self.broken == other.broken
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.members.hash(state);
        for key in self.network.keys() {
            key.hash(state);
        }
        (self.budget, self.now, &self.chosen, self.acknowledged, self.broken).hash(state);
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Stand(usize),
    Deliver(u64),
    DiskDone(usize),
    Write(usize),
    Change(usize),
    Crash(usize),
    Time,
    Heartbeats(usize),
}

impl Small {
    fn liveness(&self, index: u32, start: u64, now: u64) -> Liveness {
        let first = start == 1;
        let liveness = Liveness::new(Peer(index), start, LIVENESS, first, Nanos(now));
        let mut liveness = liveness.with_bug(self.bug);
        if self.timed {
            for peer in 0..self.nodes {
                liveness.add_peer(Peer(peer), Nanos(now));
            }
        }
        liveness
    }

    /// Steps one member and carries out what it asks for.
    fn step(
        &self,
        state: &mut State,
        index: usize,
        act: impl FnOnce(&mut MemberState, Nanos, &mut Vec<Effect>),
    ) {
        let mut effects = Vec::new();
        let now = Nanos(state.now);
        act(&mut state.members[index], now, &mut effects);
        loop {
            while !effects.is_empty() {
                for effect in std::mem::take(&mut effects) {
                    self.carry_out(state, index, effect, &mut effects);
                }
            }
            let member = &mut state.members[index];
            let entries =
                member.writes.iter().any(|(_, write)| !matches!(write, Write::Promise(_)));
            let now_durable = match self.disks {
                Disks::Fast => !member.writes.is_empty(),
                Disks::SlowForPromises => entries,
                Disks::Slow => false,
            };
            if !now_durable {
                break;
            }
            let upto = member.write();
            member.step(Input::Persisted { upto }, now, &mut effects);
        }
        self.check(state);
    }

    fn send(&self, state: &mut State, from: usize, to: u32, wire: Wire) {
        let envelope = Envelope { from: from as u32, to, wire };
        let mut hasher = DefaultHasher::new();
        (envelope.from, envelope.to, &envelope.wire).hash(&mut hasher);
        state.network.insert(hasher.finish(), envelope);
    }

    fn carry_out(&self, state: &mut State, index: usize, effect: Effect, more: &mut Vec<Effect>) {
        let now = Nanos(state.now);
        let member = &mut state.members[index];
        match effect {
            Effect::PersistPromise { id, ballot } => {
                member.writes.push((id, Write::Promise(ballot)));
            }
            Effect::PersistBase { id, base, configuration } => {
                member.log.begin_after(base);
                member.writes.push((id, Write::Base { base, configuration: *configuration }));
            }
            Effect::PersistEntries { id, ballot, first, last } => {
                let mut entries = Vec::new();
                for slot in first.0..=last.0 {
                    let record = member.record(Slot(slot)).expect("it is held");
                    member.log.put(Slot(slot), (ballot, record.clone()));
                    entries.push((ballot, record));
                }
                let chosen = member.replica.figures().chosen_slot;
                member.writes.push((id, Write::Entries { first, entries, chosen }));
            }
            Effect::Send { to, message, last } => {
                let mut entries = Vec::new();
                if let Message::Accept { first, .. } | Message::Fetched { first, .. } = &message {
                    let range = first.0..=last.0;
                    entries = range.filter_map(|slot| member.record(Slot(slot))).collect();
                    if entries.is_empty() {
                        return;
                    }
                }
                let from = member.id;
                if let Some(node) = state.members.iter().position(|member| member.id == to) {
                    self.send(state, index, node as u32, Wire::Group(from, message, entries));
                }
            }
            Effect::Chosen { slot } => {
                self.note_chosen(state, index, slot);
                let member = &mut state.members[index];
                if member.disk.keeps_state {
                    member.step(Input::Applied { slot }, now, more);
                }
                if member.replica.figures().role == RoleName::Leading {
                    state.acknowledged = state.acknowledged.max(slot);
                }
            }
            _ => {}
        }
    }

    fn note_chosen(&self, state: &mut State, index: usize, upto: Slot) {
        let member = &state.members[index];
        let base = member.log.base.0;
        for slot in base + 1..=upto.0 {
            let Some(record) = member.record(Slot(slot)) else { continue };
            match state.chosen.get(slot as usize - 1) {
                Some(known) if *known == record => {}
                Some(_) => state.broken = Some("agreement"),
                None if state.chosen.len() as u64 + 1 == slot => {
                    if let Some(configuration) = record.configuration {
                        state
                            .configurations
                            .push(ConfigurationAt { slot: Slot(slot), configuration });
                    }
                    state.chosen.push(record);
                }
                None => state.broken = Some("a slot is chosen before the one below it"),
            }
        }
    }

    fn check(&self, state: &mut State) {
        let newest = state.configurations.last().expect("there is a first").configuration;
        for (index, record) in state.chosen.iter().enumerate() {
            let slot = Slot(index as u64 + 1);
            let governs = state.configurations.iter().rev().find(|known| known.slot < slot);
            let governs = governs.expect("there is a first").configuration;
            let on_disk = |id: MemberId| {
                let member = state.members.iter().find(|member| member.id == id);
                member.is_some_and(|member| {
                    let held = member.disk.log.get(slot);
                    member.disk.log.base >= slot || held.is_some_and(|(_, held)| held == record)
                })
            };
            if !governs.has_quorum(|member| on_disk(member.id)) {
                state.broken = Some("a chosen value is not on the disks of a quorum");
            }
        }
        let mut holder = false;
        for member in &state.members {
            let figures = member.replica.figures();
            if figures.role != RoleName::Leading {
                continue;
            }
            if newest.find(member.id).is_some_and(|member| member.role == MemberRole::Log) {
                state.broken = Some("a log replica leads");
            }
            let at = At { now: Nanos(state.now), liveness: &member.liveness, random: 0 };
            if self.timed && member.replica.holds_lease(at) {
                if holder {
                    state.broken = Some("two leaseholders");
                }
                holder = true;
                let serves = member.replica.begin_read(at).is_ok();
                if serves && figures.applied_slot < state.acknowledged {
                    state.broken = Some("a strong read misses a chosen write");
                }
            }
        }
    }
}

impl MemberState {
    fn write(&mut self) -> PersistId {
        let mut upto = PersistId(0);
        for (id, write) in self.writes.drain(..) {
            self.disk.write(write);
            upto = id;
        }
        upto
    }

    fn step(&mut self, input: Input<'_>, now: Nanos, effects: &mut Vec<Effect>) {
        let at = At { now, liveness: &self.liveness, random: NEVER - 1 };
        self.replica.step(input, at, effects);
    }

    fn record(&self, slot: Slot) -> Option<Record> {
        if let Some(held) = self.replica.held(slot) {
            let configuration = self.replica.configuration_entry(slot).copied();
            let (kind, value, bytes) = (held.kind, held.handle.0, held.bytes);
            let origin = held.origin;
            return Some(Record { kind, origin, value, bytes, configuration });
        }
        self.log.get(slot).map(|(_, record)| record.clone())
    }
}

impl Model for Small {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let first = ConfigurationAt { slot: Slot(0), configuration: self.configuration };
        let mut members = Vec::new();
        for node in 0..self.nodes {
            let founder = self.configuration.members().iter().find(|m| m.peer == Peer(node));
            let joins = match self.change {
                Some(Change::AddLogReplica { id, peer, .. }) if peer == Peer(node) => Some(id),
                _ => None,
            };
            let Some(id) = founder.map(|member| member.id).or(joins) else { continue };
            let mut disk = Disk::default();
            let mut replica = Replica::joining(id, SETTINGS);
            if let Some(founder) = founder {
                disk.configuration = Some(first);
                disk.keeps_state = founder.role == MemberRole::Storage;
                replica = Replica::bootstrap(id, SETTINGS, self.configuration);
            }
            members.push(MemberState {
                id,
                replica: replica.with_bug(self.bug),
                liveness: self.liveness(node, 1, 0),
                start: 1,
                disk,
                log: Log::default(),
                writes: Vec::new(),
            });
        }
        let mut state = State {
            members,
            network: BTreeMap::new(),
            budget: self.budget,
            now: 0,
            next_value: 1,
            chosen: Vec::new(),
            configurations: vec![first],
            acknowledged: Slot(0),
            broken: None,
        };
        if self.led {
            self.elect(&mut state);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        for (index, member) in state.members.iter().enumerate() {
            let leads = member.replica.figures().role == RoleName::Leading;
            if !member.writes.is_empty() {
                actions.push(Action::DiskDone(index));
            }
            if state.budget.elections > 0 && !leads {
                actions.push(Action::Stand(index));
            }
            if state.budget.writes > 0 && leads {
                actions.push(Action::Write(index));
            }
            if state.budget.changes > 0 && leads {
                actions.push(Action::Change(index));
            }
            if state.budget.crashes > 0 {
                actions.push(Action::Crash(index));
            }
            if self.timed {
                actions.push(Action::Heartbeats(index));
            }
        }
        if state.budget.time_steps > 0 {
            actions.push(Action::Time);
        }
        actions.extend(state.network.keys().map(|key| Action::Deliver(*key)));
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Stand(index) => {
                state.budget.elections -= 1;
                self.step(&mut state, index, |member, now, effects| {
                    let at = At { now, liveness: &member.liveness, random: NEVER - 1 };
                    member.replica.stand(at, effects);
                });
                if state.members[index].replica == before.members[index].replica {
                    return None;
                }
            }
            Action::Deliver(key) => {
                let envelope = state.network[&key].clone();
                let (peer, to) = (Peer(envelope.from), envelope.to as usize);
                match &envelope.wire {
                    Wire::Group(from, message, entries) => {
                        let entries: Vec<_> = entries.iter().map(offer).collect();
                        let input =
                            Input::Message { from: *from, peer, message, entries: &entries };
                        self.step(&mut state, to, |member, now, effects| {
                            member.step(input, now, effects);
                        });
                    }
                    Wire::Pair(message) => self.pair(&mut state, to, &|liveness, now, effects| {
                        liveness.receive(peer, message, now, effects);
                    }),
                }
            }
            Action::DiskDone(index) => {
                let upto = state.members[index].write();
                self.step(&mut state, index, |member, now, effects| {
                    member.step(Input::Persisted { upto }, now, effects);
                });
            }
            Action::Write(index) => {
                let handle = super::super::Handle(state.next_value);
                state.members[index].replica.propose(handle, 1).ok()?;
                state.next_value += 1;
                state.budget.writes -= 1;
                self.step(&mut state, index, |member, now, effects| {
                    member.step(Input::Tick, now, effects);
                });
            }
            Action::Change(index) => {
                let change = self.change?;
                let mut begun = false;
                self.step(&mut state, index, |member, now, effects| {
                    let at = At { now, liveness: &member.liveness, random: NEVER - 1 };
                    begun = member.replica.change(change, 3, at, effects).is_ok();
                });
                state.budget.changes -= 1;
                begun.then_some(())?;
            }
            Action::Crash(index) => {
                state.budget.crashes -= 1;
                let now = state.now;
                let member = &mut state.members[index];
                member.start += 1;
                member.writes.clear();
                member.log = member.disk.log.clone();
                let (id, recovered) = (member.id, member.disk.recovered());
                member.replica = Replica::recover_with_bug(id, SETTINGS, recovered, self.bug);
                member.liveness = self.liveness(index as u32, member.start, now);
            }
            Action::Time => {
                state.budget.time_steps -= 1;
                state.now += STEP;
                self.check(&mut state);
            }
            Action::Heartbeats(index) => {
                self.pair(&mut state, index, &|liveness, now, effects| liveness.tick(now, effects));
            }
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Small>> {
        vec![
            Property::always(SAFE, |_, state: &State| state.broken.is_none()),
            Property::sometimes(CHOSEN, |_, state: &State| !state.chosen.is_empty()),
        ]
    }
}

impl Small {
    /// The undisturbed beginning.
    fn elect(&self, state: &mut State) {
        if self.timed {
            for index in 0..state.members.len() {
                *state = self.next_state(state, Action::Heartbeats(index)).expect("it is due");
            }
        }
        state.budget.elections += 1;
        *state = self.next_state(state, Action::Stand(0)).expect("it may stand");
        loop {
            let waiting = |member: &MemberState| !member.writes.is_empty();
            if let Some(index) = state.members.iter().position(waiting) {
                *state = self.next_state(state, Action::DiskDone(index)).expect("it waits");
            } else if let Some(&key) = state.network.keys().next() {
                let after = self.next_state(state, Action::Deliver(key));
                *state = after.unwrap_or_else(|| state.clone());
                state.network.remove(&key);
            } else {
                break;
            }
        }
        assert_eq!(state.chosen.len(), 1, "the leader's no-op is chosen");
    }

    fn pair(
        &self,
        state: &mut State,
        index: usize,
        act: &dyn Fn(&mut Liveness, Nanos, &mut Vec<PairEffect>),
    ) {
        let mut effects = Vec::new();
        let now = Nanos(state.now);
        act(&mut state.members[index].liveness, now, &mut effects);
        let mut changed = false;
        for effect in effects {
            match effect {
                // A late heartbeat only lengthens what the supporter holds itself to; a late Ack is
                // where time matters. So heartbeats arrive at once, and Acks whenever they like.
                PairEffect::Send { to, message: message @ PairMessage::Heartbeat { .. } } => {
                    let peer = Peer(index as u32);
                    self.pair(state, to.0 as usize, &|liveness, now, effects| {
                        liveness.receive(peer, &message, now, effects);
                    });
                }
                PairEffect::Send { to, message } => {
                    self.send(state, index, to.0, Wire::Pair(message));
                }
                PairEffect::Changed { .. } | PairEffect::Doubted { .. } => changed = true,
            }
        }
        if changed {
            self.step(state, index, |member, now, effects| member.step(Input::Tick, now, effects));
        }
    }
}

fn three_with_a_log_replica() -> Configuration {
    let founder = |n: u16| (MemberId(n.into()), Peer(u32::from(n) - 1), Az(n));
    let two = Configuration::bootstrap(&[founder(1), founder(2)], 3).unwrap();
    let add = Change::AddLogReplica { id: MemberId(3), peer: Peer(2), az: Az(3) };
    two.changed(add, 3).unwrap()
}

fn leader_change() -> Small {
    let budget = Budget { elections: 2, writes: 1, ..Budget::default() };
    Small {
        configuration: three_with_a_log_replica(),
        nodes: 3,
        budget,
        change: None,
        timed: false,
        led: true,
        disks: Disks::Fast,
        bug: None,
    }
}

fn election() -> Small {
    Small { led: false, budget: Budget { elections: 2, ..Budget::default() }, ..leader_change() }
}

fn crash() -> Small {
    let budget = Budget { elections: 1, writes: 1, crashes: 1, ..Budget::default() };
    Small { budget, ..leader_change() }
}

fn crash_with_slow_promises() -> Small {
    Small { disks: Disks::SlowForPromises, ..crash() }
}

fn crash_with_slow_disks() -> Small {
    Small { disks: Disks::Slow, ..crash() }
}

fn lease() -> Small {
    let budget = Budget { elections: 1, writes: 1, time_steps: 3, ..Budget::default() };
    Small { budget, timed: true, ..leader_change() }
}

fn lease_and_crash() -> Small {
    let budget = Budget { elections: 1, crashes: 1, time_steps: 2, ..Budget::default() };
    Small { budget, timed: true, ..leader_change() }
}

fn membership_change() -> Small {
    let budget = Budget { elections: 1, writes: 1, changes: 1, ..Budget::default() };
    let change = Some(Change::Remove { id: MemberId(2) });
    Small { budget, change, ..leader_change() }
}

/// Looks at states until one is broken, all are seen, or the bound is reached.
fn explore(name: &str, model: Small) -> Option<&'static str> {
    let states = std::env::var("FOREBAY_MODEL_STATES").ok().and_then(|text| text.parse().ok());
    let states = states.unwrap_or(STATES);
    let begun = std::time::Instant::now();
    let checker = model.checker().target_state_count(states).spawn_bfs().join();
    let paths = checker.discoveries();
    let chosen = paths.contains_key(CHOSEN);
    let broken = paths.get(SAFE).map(|path| path.last_state().broken.expect("it is broken"));
    let (seen, unique) = (checker.state_count(), checker.unique_state_count());
    let bound = match broken {
        Some(_) => "broken",
        None if seen < states => "all",
        None => "bounded",
    };
    println!(
        "{name:<24} {unique:>9} states ({bound}), {seen:>9} visits, depth {:>3}, {:.1} s",
        checker.max_depth(),
        begun.elapsed().as_secs_f64()
    );
    if let Some(path) = paths.get(SAFE).filter(|_| std::env::var("FOREBAY_MODEL_PATH").is_ok()) {
        println!("{:#?}", path.clone().into_actions());
    }
    assert!(chosen || broken.is_some(), "{name}: nothing was ever chosen");
    broken
}

#[test]
fn two_elections_from_nothing_agree() {
    assert_eq!(explore("election", election()), None);
}

#[test]
fn a_leader_change_with_lost_and_repeated_messages_loses_nothing() {
    assert_eq!(explore("leader change", leader_change()), None);
}

#[test]
fn a_crash_that_loses_what_waits_for_the_disk_loses_nothing_chosen() {
    assert_eq!(explore("crash", crash()), None);
    assert_eq!(explore("crash, slow promises", crash_with_slow_promises()), None);
    assert_eq!(explore("crash, slow disks", crash_with_slow_disks()), None);
}

#[test]
fn two_would_be_leaders_never_hold_leases_at_once() {
    assert_eq!(explore("lease", lease()), None);
    assert_eq!(explore("lease and restart", lease_and_crash()), None);
}

#[test]
fn one_membership_change_keeps_agreement() {
    assert_eq!(explore("membership change", membership_change()), None);
}

type CaughtBy = (Bug, &'static str, fn() -> Small);

/// Bugs that are about interleavings rather than about many events, and the model of each.
const CAUGHT_BY: [CaughtBy; 6] = [
    (Bug::AnswerUndurablePromise, "crash, slow promises", crash_with_slow_promises),
    (Bug::ForgetPromise, "crash", crash),
    (Bug::ForgetPromisedValues, "leader change", leader_change),
    (Bug::PromiseDespiteSupport, "lease", lease),
    (Bug::TrustExpiredLease, "lease", lease),
    (Bug::PromiseQuorumTooSmall, "leader change", leader_change),
];

/// What the bug's model finds, if it has one.
pub(super) fn catches(bug: Bug) -> Option<String> {
    let (_, name, model) = CAUGHT_BY.into_iter().find(|(known, _, _)| *known == bug)?;
    let broken = explore(name, Small { bug: Some(bug), ..model() })?;
    Some(format!("{name}: {broken}"))
}

#[test]
fn the_models_catch_planted_bugs() {
    for (bug, _, _) in CAUGHT_BY {
        let found = catches(bug);
        println!("{bug:?}: {found:?}");
        assert!(found.is_some(), "{bug:?} was missed by its model");
    }
}
