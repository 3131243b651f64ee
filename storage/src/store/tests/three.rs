//! Three real replicas over three stores on three simulated disks, with messages that get lost and
//! nodes that crash: the store's side of replication, as a shell uses it.
//!
//! ```text
//!   client ─► leader's Replica ─► Store ─► SimDisk       every node, every millisecond:
//!                  │  ▲                                  messages · disk · turn · events · tick
//!                  ▼  │ lost, late, twice
//!             followers' Replicas ─► Stores ─► SimDisks
//! ```
//!
//! The truth is what the first replica that called a slot chosen held there. Checked: every other
//! one holds the same; what was reported durable is there after a crash; the contents of a store
//! that was opened again are exactly the truth up to its applied slot; and in the end all three
//! have the same content digest at the same slot.

use forebay_core::digest::Digest;
use forebay_core::ids::Ballot;
use forebay_core::liveness::{Liveness, LivenessSettings, PairEffect, PairMessage, Peer};
use forebay_core::paxos::{
    At, Az, Change, Configuration, Effect, EntryKind, Handle, Input, MemberId, MemberRole, Message,
    Offered, Payload, PersistId, Replica, RoleName, Settings,
};

use super::*;

pub(super) const NODES: usize = 3;
pub(super) const GROUP: GroupId = GroupId(77);
pub(super) const KEYS: usize = 40;
/// A group of one on the same shards, whose writes push their logs on.
const BUSY: GroupId = GroupId(78);

const SETTINGS: Settings = Settings {
    window_slots: 64,
    window_bytes: 24 << 10,
    peer_window_slots: 128,
    peer_window_bytes: 32 << 10,
    batch_bytes: 8 << 10,
    batch_slots: 16,
    catch_up_slots: 16,
    ..Settings::DEFAULT
};

/// An entry on the wire, and in the truth.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wire {
    NoOp,
    Data(Vec<u8>, Option<Vec<u8>>),
    Configuration(Configuration),
}

#[derive(Clone)]
enum Content {
    Pair(PairMessage),
    Group(Message, Vec<(Ballot, Wire)>),
}

struct Letter {
    at: Nanos,
    from: usize,
    to: usize,
    content: Content,
}

type Asked = (PersistId, Ballot, Vec<(Slot, Wire)>);

pub(super) struct Node {
    pub(super) index: usize,
    pub(super) disk: SimDisk,
    pub(super) store: Store,
    pub(super) group: GroupOrdinal,
    pub(super) replica: Replica,
    pub(super) liveness: Liveness,
    start: u64,
    pub(super) down_until: Option<Nanos>,
    pub(super) effects: Vec<Effect>,
    pair_effects: Vec<PairEffect>,
    pub(super) may_trim: Slot,
    checkpoint: Slot,
    /// Asked for, in order: what it means once it is durable.
    asked: VecDeque<Asked>,
    promised: Ballot,
    reported: BTreeMap<Slot, (Ballot, Wire)>,
    /// Compared with the truth.
    pub(super) noted: Slot,
    /// Of a snapshot: from whom, and at which slot at least.
    pub(super) wants: Option<(usize, Slot)>,
    /// Its state is, and the store has said so.
    pub(super) damaged: bool,
}

pub(super) struct Three {
    pub(super) config: StoreConfig,
    pub(super) roles: [MemberRole; NODES],
    pub(super) now: Nanos,
    pub(super) random: SimRandom,
    pub(super) nodes: Vec<Node>,
    letters: Vec<Letter>,
    pub(super) truth: Vec<(Ballot, Wire)>,
    loss_percent: usize,
    next_item: u64,
    /// One in so many turns has writes to the replicated group.
    pub(super) writes_one_in: usize,
    pub(super) crashes: u64,
    leaders: u64,
    pub(super) trims: u64,
    /// Logs are trimmed as far as they may, and who lacks something gets a snapshot.
    pub(super) snapshots: Option<super::snapshot::Transfers>,
    /// Nodes crash while a snapshot is installed.
    pub(super) strikes: bool,
    /// Pages are damaged now and then.
    pub(super) damages: bool,
}

pub(super) fn member(index: usize) -> MemberId {
    MemberId(1000 + index as u64)
}

fn configuration(roles: [MemberRole; NODES]) -> Configuration {
    let founders: Vec<_> = (0..NODES).map(|n| (member(n), Peer(n as u32), Az(n as u16))).collect();
    let mut configuration = Configuration::bootstrap(&founders, 3).unwrap();
    for index in (0..NODES).filter(|index| roles[*index] == MemberRole::Log) {
        let (id, peer, az) = founders[index];
        configuration = configuration.changed(Change::Remove { id }, 3).unwrap();
        let add = Change::AddLogReplica { id, peer, az };
        configuration = configuration.changed(add, 3).unwrap();
    }
    configuration
}

fn liveness(index: usize, start: u64, first: bool, now: Nanos) -> Liveness {
    let peer = Peer(index as u32);
    let mut liveness = Liveness::new(peer, start, LivenessSettings::DEFAULT, first, now);
    (0..NODES).for_each(|other| liveness.add_peer(Peer(other as u32), now));
    liveness
}

impl Node {
    fn new(config: &StoreConfig, index: usize, roles: [MemberRole; NODES], now: Nanos) -> Node {
        let role = roles[index];
        let mut disk = device(config);
        let mut store = open_on(config, &mut disk, now).expect("blank").store;
        let configuration = configuration(roles);
        let descriptor = MemberDescriptor {
            group: GROUP,
            member: member(index),
            role,
            configuration: Some(configuration),
            payload: b"three",
        };
        let (group, _) = store.create_member(descriptor).expect("room");
        let replica = Replica::bootstrap(member(index), SETTINGS, configuration);
        Node {
            index,
            disk,
            store,
            group,
            replica,
            liveness: liveness(index, 1, true, now),
            start: 1,
            down_until: None,
            effects: Vec::new(),
            pair_effects: Vec::new(),
            may_trim: Slot(0),
            checkpoint: Slot(0),
            asked: VecDeque::new(),
            promised: Ballot(0),
            reported: BTreeMap::new(),
            noted: Slot(0),
            wants: None,
            damaged: false,
        }
    }

    pub(super) fn step(&mut self, input: Input<'_>, now: Nanos, random: u64) {
        let at = At { now, liveness: &self.liveness, random };
        self.replica.step(input, at, &mut self.effects);
    }

    /// What the replica holds in a slot, as long as it is in memory.
    fn held(&self, slot: Slot) -> Option<Wire> {
        let held = self.replica.held(slot)?;
        Some(match held.kind {
            EntryKind::NoOp => Wire::NoOp,
            EntryKind::Data => {
                let EntryBytes { key, item } = self.store.staged_entry(held.handle)?;
                Wire::Data(key.to_vec(), item.map(<[u8]>::to_vec))
            }
            EntryKind::Configuration => {
                Wire::Configuration(*self.replica.configuration_entry(slot).expect("it has one"))
            }
            EntryKind::Unknown => return None,
        })
    }

    /// With its origin.
    fn entry(&self, slot: Slot) -> Option<(Ballot, Wire)> {
        Some((self.replica.held(slot)?.origin, self.held(slot)?))
    }

    fn receive(
        &mut self,
        from: usize,
        message: &Message,
        wires: &[(Ballot, Wire)],
        now: Nanos,
        random: u64,
    ) {
        let mut offered = Vec::new();
        for (origin, wire) in wires {
            let (handle, bytes, payload) = match wire {
                Wire::NoOp => (Handle::NONE, 0, Payload::NoOp),
                Wire::Configuration(at) => (Handle::NONE, 0, Payload::Configuration(at)),
                Wire::Data(key, item) => {
                    let bytes = key.len() + item.as_ref().map_or(0, Vec::len);
                    match self.store.stage(self.group, key, item.as_deref()) {
                        Ok(handle) => (handle, bytes as u32, Payload::Data),
                        Err(Refused::Overloaded) => break,
                        Err(other) => panic!("{other}"),
                    }
                }
            };
            offered.push(Offered { handle, bytes, payload, origin: *origin });
        }
        if offered.is_empty() && !wires.is_empty() {
            // No room. A gap would be answered at once, with all of it again; silence, after a while.
            return;
        }
        // As shells do: see `Store::is_committing_install`.
        let is_log = self.store.members().all(|(_, _, role)| role == MemberRole::Log);
        let moves_log = matches!(message, Message::Trimmed { .. }) && is_log;
        if moves_log && self.store.is_committing_install(self.group) {
            return;
        }
        let (from, peer) = (member(from), Peer(from as u32));
        self.step(Input::Message { from, peer, message, entries: &offered }, now, random);
    }

    fn persist(&mut self, effect: &Effect) {
        let group = self.group;
        match *effect {
            Effect::PersistPromise { id, ballot } => {
                self.store.persist_promise(group, id, ballot);
                self.asked.push_back((id, ballot, Vec::new()));
            }
            Effect::PersistBase { id, base, ref configuration } => {
                self.store.persist_base(group, id, base, **configuration);
                self.asked.push_back((id, Ballot(0), Vec::new()));
            }
            Effect::PersistEntries { id, ballot, first, last } => {
                let slots = (first.0..=last.0).map(Slot);
                let wires = slots.map(|slot| (slot, self.held(slot).expect("held"))).collect();
                let replica = &self.replica;
                self.store.persist_entries(group, id, ballot, (first, last), |slot| {
                    let held = replica.held(slot).expect("held");
                    let configuration = replica.configuration_entry(slot);
                    let (kind, handle, origin) = (held.kind, held.handle, held.origin);
                    AcceptedEntry { kind, handle, configuration, origin }
                });
                self.asked.push_back((id, ballot, wires));
            }
            _ => unreachable!("not to be persisted"),
        }
    }

    fn persisted(&mut self, upto: PersistId) {
        while self.asked.front().is_some_and(|(id, _, _)| *id <= upto) {
            let (_, ballot, wires) = self.asked.pop_front().expect("just looked");
            self.promised = self.promised.max(ballot);
            for (slot, wire) in wires {
                self.reported.insert(slot, (ballot, wire));
            }
        }
    }
}

fn contents_digest(items: &Items) -> Digest {
    items.iter().fold(Digest::EMPTY, |sum, (key, item)| sum + Digest::of(key, item))
}

impl Three {
    pub(super) fn new(seed: u64, roles: [MemberRole; NODES]) -> Three {
        let mut config = tiny();
        config.log.segments = 8;
        // An election logs a window again, and a promise takes a block; the other half is for what
        // is needed of one run of positions.
        config.log.reserve_bytes = 192 << 10;
        let now = Nanos(Nanos::PER_SECOND);
        let nodes = (0..NODES).map(|index| Node::new(&config, index, roles, now)).collect();
        Three {
            config,
            roles,
            now,
            random: SimRandom::new(seed),
            nodes,
            letters: Vec::new(),
            truth: Vec::new(),
            loss_percent: 5,
            next_item: 1,
            writes_one_in: 1,
            crashes: 0,
            leaders: 0,
            trims: 0,
            snapshots: None,
            strikes: false,
            damages: false,
        }
    }

    fn send(&mut self, from: usize, to: usize, content: &Content) {
        if self.random.below(100) < self.loss_percent {
            return;
        }
        for _ in 0..1 + usize::from(self.random.chance(1, 30)) {
            let delay = self.random.bits() % (2 * Nanos::PER_MILLI);
            let at = self.now + delay;
            self.letters.push(Letter { at, from, to, content: content.clone() });
        }
    }

    /// The items after `slot`.
    pub(super) fn items_at(&self, slot: Slot) -> Items {
        let mut items = Items::new();
        for (_, wire) in &self.truth[..slot.0 as usize] {
            match wire {
                Wire::Data(key, Some(item)) => drop(items.insert(key.clone(), item.clone())),
                Wire::Data(key, None) => drop(items.remove(key)),
                _ => {}
            }
        }
        items
    }

    /// A node called every slot up to this one chosen.
    fn note_chosen(&mut self, index: usize, slot: Slot) {
        let from = std::mem::replace(&mut self.nodes[index].noted, slot).0;
        for slot in (from + 1..=slot.0).map(Slot) {
            let Some(wire) = self.nodes[index].entry(slot) else {
                let was_log = self.roles[index] == MemberRole::Log;
                assert!(was_log || self.snapshots.is_some(), "what is chosen is held");
                continue;
            };
            match self.truth.get(slot.0 as usize - 1) {
                Some(known) => assert_eq!(*known, wire, "agreement on slot {slot}"),
                None => {
                    assert_eq!(self.truth.len() as u64 + 1, slot.0, "chosen slots are a prefix");
                    self.truth.push(wire);
                }
            }
        }
        assert!(slot.0 <= self.truth.len() as u64);
    }

    pub(super) fn carry_out(&mut self, index: usize) {
        for effect in std::mem::take(&mut self.nodes[index].pair_effects) {
            if let PairEffect::Send { to, message } = effect {
                self.send(index, to.0 as usize, &Content::Pair(message));
            }
        }
        while !self.nodes[index].effects.is_empty() {
            for effect in std::mem::take(&mut self.nodes[index].effects) {
                self.carry_out_one(index, effect);
            }
        }
    }

    fn carry_out_one(&mut self, index: usize, effect: Effect) {
        let node = &mut self.nodes[index];
        match effect {
            Effect::PersistPromise { .. }
            | Effect::PersistBase { .. }
            | Effect::PersistEntries { .. } => node.persist(&effect),
            Effect::Send { to, message, last } => {
                let mut wires = Vec::new();
                if let Message::Accept { first, .. } | Message::Fetched { first, .. } = &message {
                    for slot in (first.0..=last.0).map(Slot) {
                        let wire = self.nodes[index].entry(slot);
                        let wire = wire.or_else(|| self.truth.get(slot.0 as usize - 1).cloned());
                        let Some(wire) = wire else { break };
                        wires.push(wire);
                    }
                    if wires.is_empty() && last >= *first {
                        return;
                    }
                }
                let to = (to.0 - 1000) as usize;
                self.send(index, to, &Content::Group(message, wires));
            }
            Effect::Chosen { slot } => {
                self.note_chosen(index, slot);
                let node = &mut self.nodes[index];
                node.store.choose(node.group, slot);
            }
            Effect::Discard { handle } => node.store.discard(handle),
            Effect::MayTrim { slot } => node.may_trim = slot,
            Effect::Leads { .. } => self.leaders += 1,
            Effect::StepsDown { .. } => {}
            Effect::NeedsSnapshot { from, at_least } => {
                assert!(self.snapshots.is_some(), "nothing is trimmed that a member lacks");
                node.wants = Some(((from.0 - 1000) as usize, at_least));
            }
            Effect::Removed { .. } => panic!("nobody is removed"),
        }
    }

    fn turn(&mut self, index: usize) {
        let (now, random) = (self.now, self.random.bits());
        let completions = self.random.below(6);
        for _ in 0..completions {
            let Some(done) = self.nodes[index].disk.complete_one(&mut self.random) else { break };
            self.nodes[index].store.disk_done(done, now);
        }
        let node = &mut self.nodes[index];
        let mut ops = Vec::new();
        node.store.turn(now, &mut ops);
        ops.drain(..).for_each(|op| node.disk.submit(op));
        assert_eq!(node.store.failure(), None);
        let (mut persisted, mut applied, mut checkpointed) = (Vec::new(), Vec::new(), Vec::new());
        node.store.take_persisted(&mut persisted);
        node.store.take_applied(&mut applied);
        node.store.take_checkpointed(&mut checkpointed);
        for (_, upto) in persisted {
            node.persisted(upto);
            node.step(Input::Persisted { upto }, now, random);
        }
        for (_, slot) in applied {
            node.step(Input::Applied { slot }, now, random);
        }
        for (_, slot) in checkpointed {
            node.checkpoint = slot;
            node.step(Input::Checkpointed { slot }, now, random);
        }
        node.liveness.tick(now, &mut node.pair_effects);
        node.step(Input::Tick, now, random);
        self.repair(index);
        self.trim(index);
        self.carry_out(index);
    }

    /// No member is left behind: nobody copies snapshots here.
    fn trim(&mut self, index: usize) {
        if self.snapshots.is_some() {
            return self.trim_freely(index);
        }
        let storage =
            self.nodes.iter().filter(|node| self.roles[node.index] == MemberRole::Storage);
        let least = storage.map(|node| node.checkpoint).min().expect("there is one");
        let node = &mut self.nodes[index];
        // A log replica asks for snapshots of nobody, but the others' logs serve it.
        let slot = node.may_trim.min(least);
        if slot > node.replica.figures().trimmed_slot {
            node.store.trim(node.group, slot);
            node.step(Input::Trimmed { slot }, self.now, 0);
            self.trims += 1;
        }
    }

    fn client(&mut self) {
        for index in 0..NODES {
            let serves = self.nodes[index].replica.figures().role == RoleName::Leading;
            self.read_a_key(index);
            if self.nodes[index].down_until.is_some() || !serves {
                continue;
            }
            if !self.random.chance(1, self.writes_one_in) {
                continue;
            }
            for _ in 0..self.random.below(4) {
                let key = key(self.random.below(KEYS));
                self.next_item += 1;
                let bytes = [20, 100, 300, 1500][self.random.below(4)];
                let item = self.random.chance(4, 5).then(|| item(self.next_item, bytes));
                let node = &mut self.nodes[index];
                let Ok(handle) = node.store.stage(node.group, &key, item.as_deref()) else {
                    continue;
                };
                let bytes = key.len() + item.as_ref().map_or(0, Vec::len);
                match node.replica.propose(handle, bytes as u32) {
                    Ok(slot) => {
                        node.store.propose(handle, slot);
                        let mut copy = Vec::new();
                        let current = node.store.current(node.group, &key, &mut copy);
                        let expected = match &item {
                            Some(item) => {
                                assert_eq!(copy, *item);
                                Current::Item { in_flight: true }
                            }
                            None => Current::Absent { in_flight: true },
                        };
                        assert_eq!(current, expected);
                    }
                    Err(_) => node.store.discard(handle),
                }
            }
        }
    }

    /// Fills the logs of the nodes that run with another group's writes.
    fn write_elsewhere(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.down_until.is_none()) {
            let Some(busy) = node.store.group(BUSY) else { continue };
            self.next_item += 1;
            let item = item(self.next_item, 3000);
            match node.store.put(busy, &key(self.random.below(KEYS)), &item) {
                Ok(_) | Err(Refused::Overloaded) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }

    pub(super) fn crash(&mut self, index: usize) {
        self.crashes += 1;
        self.end_transfers_of(index);
        let longest = [5, 60, 700][self.random.below(3)];
        let down = 1 + self.random.bits() % (longest * Nanos::PER_MILLI);
        let node = &mut self.nodes[index];
        node.down_until = Some(self.now + down);
        node.disk = if self.random.chance(1, 3) {
            node.disk.after_process_crash(&mut self.random)
        } else {
            node.disk.after_power_cut(&mut self.random)
        };
        node.wants = None;
        node.damaged = false;
        node.effects.clear();
        node.pair_effects.clear();
        node.asked.clear();
    }

    fn restart(&mut self, index: usize) {
        let (config, now) = (self.config, self.now);
        let node = &mut self.nodes[index];
        let mut store = open_on(&config, &mut node.disk, now).expect("a crash is no damage").store;
        node.start += 1;
        node.liveness = liveness(index, node.start, false, now);
        node.down_until = None;
        let Some(group) = store.group(GROUP) else {
            // Not even the member's creation had reached the disk.
            assert!(node.promised == Ballot(0) && node.reported.is_empty());
            let fresh = Node::new(&config, index, self.roles, now);
            let start = node.start;
            *node = Node { start, liveness: liveness(index, start, false, now), ..fresh };
            return;
        };
        let recovered = store.recovered(group);
        assert!(recovered.promised >= node.promised, "a promise was lost");
        assert!(recovered.chosen.0 <= self.truth.len() as u64, "only chosen slots are");
        for (slot, (ballot, wire)) in &node.reported {
            if *slot <= recovered.chosen {
                continue;
            }
            let entry = recovered.entries.get((slot.0 - recovered.chosen.0 - 1) as usize);
            let entry = entry.unwrap_or_else(|| panic!("slot {slot} was lost"));
            assert!(entry.ballot >= *ballot, "slot {slot} is of an older ballot");
            if let (Wire::Data(key, item), true) = (wire, entry.ballot == *ballot) {
                let bytes = store.staged_entry(entry.handle).expect("recovered");
                assert_eq!((bytes.key, bytes.item), (&key[..], item.as_deref()), "slot {slot}");
            }
        }
        let keeps_state = store.members().all(|(_, _, role)| role == MemberRole::Storage);
        let applied = recovered.applied;
        node.may_trim = recovered.trimmed;
        node.noted = recovered.chosen;
        node.replica = Replica::recover(member(index), SETTINGS, recovered);
        node.group = group;
        let mut ops = Vec::new();
        if keeps_state && !self.damages {
            // A state that is behind its member's log catches up while it is read.
            let mut applied = applied;
            let found = loop {
                let found = contents(&mut store, &mut node.disk, now).expect("no damage");
                let at = store.group_figures(group).applied_slot;
                if std::mem::replace(&mut applied, at) == at {
                    break found;
                }
            };
            let expected = self.items_at(applied);
            let node = &self.nodes[index];
            assert!(
                found[&GROUP.0] == expected,
                "node {}: {} items found, {} expected at slot {applied}",
                node.index,
                found[&GROUP.0].len(),
                expected.len()
            );
        }
        let node = &mut self.nodes[index];
        if !self.damages {
            super::space::assert_no_leak(&store, &mut node.disk);
        }
        node.store = store;
        node.store.turn(now, &mut ops);
        ops.drain(..).for_each(|op| node.disk.submit(op));
    }

    pub(super) fn run(&mut self, millis: u64, faults: bool) {
        for _ in 0..millis {
            self.now = self.now + Nanos::PER_MILLI;
            let now = self.now;
            let (due, later) =
                std::mem::take(&mut self.letters).into_iter().partition(|l: &Letter| l.at <= now);
            self.letters = later;
            let due: Vec<Letter> = due;
            for Letter { from, to, content, .. } in due {
                let random = self.random.bits();
                let node = &mut self.nodes[to];
                if node.down_until.is_some() {
                    continue;
                }
                match content {
                    Content::Pair(message) => {
                        let from = Peer(from as u32);
                        node.liveness.receive(from, &message, now, &mut node.pair_effects);
                    }
                    Content::Group(message, wires) => {
                        node.receive(from, &message, &wires, now, random);
                    }
                }
                self.carry_out(to);
            }
            self.client();
            self.transfer();
            for index in 0..NODES {
                match self.nodes[index].down_until {
                    Some(until) if now >= until => self.restart(index),
                    Some(_) => {}
                    None => self.turn(index),
                }
            }
            if faults && self.random.chance(1, 150) {
                let victim = self.random.below(NODES);
                if self.nodes[victim].down_until.is_none() {
                    self.crash(victim);
                }
            }
        }
    }

    pub(super) fn describe(&self) -> String {
        let mut words = String::new();
        for node in &self.nodes {
            let (figures, stats) = (node.replica.figures(), node.store.stats());
            words += &format!(
                "\nnode {}: {figures:?}, may_trim {}, checkpoint {}, {} queued, {} in flight, \
                 log {} to {}, {} free, {}",
                node.index,
                node.may_trim,
                node.checkpoint,
                node.store.appends.len(),
                node.disk.in_flight().len(),
                stats.trim_lsn,
                stats.next_lsn,
                stats.log_free_bytes,
                node.store.checkpoint_phase(),
            );
        }
        words
    }

    /// No faults any more: everybody ends at the same slot with the same items.
    pub(super) fn converge(&mut self) {
        self.loss_percent = 0;
        for _ in 0..200 {
            self.run(50, false);
            let figures: Vec<_> = self.nodes.iter().map(|node| node.replica.figures()).collect();
            let leads = figures.iter().any(|figures| figures.role == RoleName::Leading);
            if leads && self.nodes.iter().all(|node| node.down_until.is_none()) {
                break;
            }
        }
        let before = self.truth.len();
        // Of a checkpoint by time, too: a full log waits for the slowest member's.
        self.run(2500, false);
        assert!(self.truth.len() > before, "no writes after the last fault: {}", self.describe());
        // The client stops; all catch up.
        for _ in 0..2000 {
            self.now = self.now + Nanos::PER_MILLI;
            let due = std::mem::take(&mut self.letters);
            for Letter { from, to, content, .. } in due {
                let now = self.now;
                let node = &mut self.nodes[to];
                match content {
                    Content::Pair(message) => {
                        let from = Peer(from as u32);
                        node.liveness.receive(from, &message, now, &mut node.pair_effects);
                    }
                    Content::Group(message, wires) => node.receive(from, &message, &wires, now, 1),
                }
                self.carry_out(to);
            }
            self.transfer();
            (0..NODES).for_each(|index| self.turn(index));
        }
        let last = Slot(self.truth.len() as u64);
        let expected = contents_digest(&self.items_at(last));
        for index in 0..NODES {
            let node = &mut self.nodes[index];
            let figures = node.replica.figures();
            assert_eq!(figures.chosen_slot, last, "node {index}");
            if node.store.members().any(|(_, _, role)| role == MemberRole::Log) {
                continue;
            }
            assert_eq!(figures.applied_slot, last, "node {index}");
            let found = contents(&mut node.store, &mut node.disk, self.now).expect("no damage");
            assert_eq!(contents_digest(&found[&GROUP.0]), expected, "node {index}");
        }
    }
}

#[test]
fn two_storage_replicas_and_a_log_replica_agree_whatever_crashes() {
    let (mut slots, mut crashes) = (0, 0);
    for seed in 100..104 {
        let roles = [MemberRole::Storage, MemberRole::Storage, MemberRole::Log];
        let mut three = Three::new(seed, roles);
        three.run(3000, true);
        three.converge();
        slots += three.truth.len();
        crashes += three.crashes;
    }
    eprintln!("{slots} slots chosen, {crashes} crashes");
    assert!(slots > 1_000 && crashes > 20);
}

#[test]
fn three_replicas_over_three_stores_agree_whatever_crashes() {
    let (mut slots, mut crashes, mut leaders, mut trims) = (0, 0, 0, 0);
    for seed in 0..12 {
        let mut three = Three::new(seed, [MemberRole::Storage; NODES]);
        three.run(3000, true);
        three.converge();
        slots += three.truth.len();
        crashes += three.crashes;
        leaders += three.leaders;
        trims += three.trims;
    }
    eprintln!("{slots} slots chosen, {crashes} crashes, {leaders} leaders, {trims} trims");
    assert!(slots > 1_000 && crashes > 20 && trims > 10);
}

#[test]
fn a_node_that_is_down_for_long_does_not_pin_the_logs_of_the_others() {
    let mut three = Three::new(7, [MemberRole::Storage; NODES]);
    for node in &mut three.nodes {
        let descriptor = GroupDescriptor { id: BUSY, payload: b"busy" };
        node.store.create_group(descriptor).expect("room");
    }
    three.run(1000, false);
    three.writes_one_in = 80;
    three.crash(2);
    let back_at = three.now + 8 * Nanos::PER_SECOND;
    three.nodes[2].down_until = Some(back_at);
    let (behind, before) = (three.nodes[2].noted, three.truth.len());
    let ends = [0, 1].map(|index: usize| three.nodes[index].store.log.end_lsn().0);
    for _ in 0..7000 {
        three.write_elsewhere();
        three.run(1, false);
    }
    let lap = three.config.log.capacity_bytes();
    for (index, end) in ends.into_iter().enumerate() {
        let node = &three.nodes[index];
        let stats = node.store.stats();
        let laps = (stats.next_lsn.0 - end) / lap;
        eprintln!(
            "node {index}: {laps} laps, {} records appended again, {} bytes of history",
            stats.log_copied_records, stats.log_history_bytes
        );
        assert!(laps >= 5 && stats.log_copied_records > 50 && stats.log_read_errors == 0);
        // What the absent one lacks is all there.
        assert!(!node.store.must_trim(node.group));
        assert!(node.replica.figures().trimmed_slot <= behind);
    }
    assert!(three.truth.len() > before + 20, "{}", three.describe());
    // The live ones crash, too: what they keep is found again.
    three.crash(0);
    three.run(1500, false);
    assert!(three.nodes.iter().all(|node| node.down_until.is_none()));
    three.writes_one_in = 1;
    three.converge();
}
