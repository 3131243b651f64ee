//! A seeded simulation of one group: the production machines, with everything around them unkind.
//!
//! ```text
//!   events by time ──► node: clock that drifts · liveness · replica · memory · disk
//!        ▲                                   │ effects
//!        └── network: loses, delays, repeats, reorders, cuts one way ◄──┘
//!   after every event: checks (agreement, durability, leaseholders, reads)
//! ```
//!
//! One seed is one history. A run has a phase of faults, then everything is healed and the group has
//! to serve again within a bound, with all members at the same slot.

mod checks;
pub(super) mod disk;
mod faults;
mod node;
mod rng;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::super::{
    Az, Bug, Change, Configuration, MemberId, MemberRole, Message, NotBegun, Offered, Payload,
    Settings,
};
use crate::ids::Slot;
use crate::liveness::{Epoch, LivenessSettings, PairMessage, Peer};
use crate::time::Nanos;
use disk::Record;
use node::Node;
pub(super) use rng::Rng;

pub(super) const MILLI: u64 = Nanos::PER_MILLI;

const LIVENESS: LivenessSettings =
    LivenessSettings { lease_nanos: 100 * MILLI, heartbeat_nanos: 30 * MILLI };

const SETTINGS: Settings = Settings {
    window_slots: 12,
    window_bytes: 400,
    peer_window_slots: 12,
    peer_window_bytes: 300,
    batch_bytes: 100,
    batch_slots: 3,
    catch_up_slots: 4,
    resend_nanos: 20 * MILLI,
    election_retry_nanos: 20 * MILLI,
    election_spread_nanos: 10 * MILLI,
    give_up_nanos: 200 * MILLI,
    hand_over_nanos: 200 * MILLI,
    promote_lag_slots: 10,
};

/// How long the faults last.
const FAULTS_NANOS: u64 = 700 * MILLI;
/// After the last fault, the group serves and all members agree within this.
const HEALED_NANOS: u64 = 2000 * MILLI;

/// What a seed may do; scenarios turn some of it off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) nodes: u32,
    pub(super) members: u32,
    pub(super) bug: Option<Bug>,
    pub(super) faults: bool,
    pub(super) changes: bool,
    pub(super) damage: bool,
    /// Prints every message.
    pub(super) trace: bool,
}

impl Plan {
    pub(super) fn of_seed(seed: u64) -> Plan {
        let mut rng = Rng::new(seed ^ 0x5EED);
        let members = *rng.pick(&[3, 3, 3, 4, 5]);
        let nodes = members + rng.below(2) as u32 + u32::from(members == 3);
        let (changes, damage) = (rng.chance(60), rng.chance(50));
        Plan { nodes, members, bug: None, faults: true, changes, damage, trace: false }
    }
}

pub(super) enum What {
    Pair { from: usize, to: usize, message: PairMessage },
    Group { from: MemberId, from_node: usize, to: MemberId, message: Message, entries: Vec<Record> },
    Wake { node: usize },
    Log { node: usize, start: u32 },
    Apply { node: usize, start: u32 },
    ReadEnds { node: usize, start: u32, grant: super::super::ReadGrant, required: Slot },
    Resume { node: usize },
    Restart { node: usize },
    Snapshot { node: usize },
    Client,
    Fault,
}

struct Event {
    at: u64,
    order: u64,
    what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Event) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What a run did, to see that it did something.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stats {
    pub(super) events: u64,
    pub(super) acknowledged: u64,
    pub(super) reads: u64,
    pub(super) leaders: u64,
    pub(super) crashes: u64,
    pub(super) pauses: u64,
    pub(super) changes: u64,
    pub(super) snapshots: u64,
    pub(super) damages: u64,
    pub(super) hand_overs: u64,
    pub(super) trims: u64,
    pub(super) group_messages: u64,
    pub(super) pair_messages: u64,
    /// From the end of the faults until a write was acknowledged.
    pub(super) recovered_nanos: u64,
}

impl Stats {
    pub(super) fn add(&mut self, other: &Stats) {
        self.events += other.events;
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.leaders += other.leaders;
        self.crashes += other.crashes;
        self.pauses += other.pauses;
        self.changes += other.changes;
        self.snapshots += other.snapshots;
        self.damages += other.damages;
        self.hand_overs += other.hand_overs;
        self.trims += other.trims;
        self.group_messages += other.group_messages;
        self.pair_messages += other.pair_messages;
        self.recovered_nanos += other.recovered_nanos;
    }
}

pub(super) struct Sim {
    pub(super) now: u64,
    pub(super) rng: Rng,
    pub(super) plan: Plan,
    pub(super) nodes: Vec<Node>,
    heap: BinaryHeap<Reverse<Event>>,
    order: u64,
    pub(super) stats: Stats,
    /// Blocked directed links.
    pub(super) cut: Vec<(usize, usize)>,
    pub(super) loss_percent: u64,
    next_value: u64,
    next_member: u64,
    /// The truth: what every slot holds, by the first member that called it chosen.
    pub(super) chosen: Vec<Record>,
    pub(super) acknowledged_slot: Slot,
    /// Configurations in the order of their slots.
    pub(super) configurations: Vec<(Slot, Configuration)>,
    /// Disks of members that are gone from their node.
    pub(super) ghosts: BTreeMap<MemberId, disk::Disk>,
    pub(super) damaged: Option<MemberId>,
    pub(super) healing: bool,
}

impl Sim {
    pub(super) fn new(seed: u64, plan: Plan) -> Sim {
        let mut rng = Rng::new(seed);
        let founders: Vec<_> = (0..plan.members)
            .map(|n| (MemberId(u64::from(n) + 1), Peer(n), Az(n as u16)))
            .collect();
        let configuration = Configuration::bootstrap(&founders, 3).unwrap();
        let nodes = (0..plan.nodes)
            .map(|index| {
                let founder = founders.get(index as usize).map(|(id, _, _)| *id);
                Node::new(index, plan, founder.map(|id| (id, configuration)), &mut rng)
            })
            .collect();
        let mut sim = Sim {
            now: 0,
            rng,
            plan,
            nodes,
            heap: BinaryHeap::new(),
            order: 0,
            stats: Stats::default(),
            cut: Vec::new(),
            loss_percent: 0,
            next_value: 0,
            next_member: 100,
            chosen: Vec::new(),
            acknowledged_slot: Slot(0),
            configurations: vec![(Slot(0), configuration)],
            ghosts: BTreeMap::new(),
            damaged: None,
            healing: false,
        };
        for node in 0..sim.nodes.len() {
            sim.at(0, What::Wake { node });
        }
        sim.at(MILLI, What::Client);
        if plan.faults {
            sim.at(60 * MILLI, What::Fault);
        }
        sim
    }

    pub(super) fn at(&mut self, delay: u64, what: What) {
        self.order += 1;
        self.heap.push(Reverse(Event { at: self.now + delay, order: self.order, what }));
    }

    /// Runs to the end; the error names the property that failed.
    pub(super) fn run(mut self) -> Result<Stats, String> {
        self.run_until(FAULTS_NANOS)?;
        self.heal();
        let healed_at = self.now;
        let before = self.stats.acknowledged;
        loop {
            self.run_until(self.now + 10 * MILLI)?;
            let took = self.now - healed_at;
            if self.stats.acknowledged > before && self.stats.recovered_nanos == 0 {
                self.stats.recovered_nanos = took;
            }
            if self.stats.recovered_nanos > 0 && self.converged() {
                return Ok(self.stats);
            }
            if took > HEALED_NANOS {
                let state = self.describe();
                return Err(format!("not live {} ms after the last fault\n{state}", took / MILLI));
            }
        }
    }

    pub(super) fn run_until(&mut self, until: u64) -> Result<(), String> {
        while self.heap.peek().is_some_and(|Reverse(event)| event.at <= until) {
            let Reverse(event) = self.heap.pop().unwrap();
            self.now = event.at;
            self.stats.events += 1;
            self.happen(event.what)?;
            self.check()?;
        }
        self.now = until;
        Ok(())
    }

    fn happen(&mut self, what: What) -> Result<(), String> {
        EVENTS.set(self.stats.events);
        match what {
            What::Pair { from, to, message } => {
                let what = |message| What::Pair { from, to, message };
                if let Some(message) = self.defer(to, message, what) {
                    let peer = Peer(from as u32);
                    self.nodes[to].pair_message(self.now, peer, &message);
                    return self.after(to);
                }
            }
            What::Group { from, from_node, to, message, entries } => {
                let Some(node) = self.node_of(to) else { return Ok(()) };
                let what =
                    |(message, entries)| What::Group { from, from_node, to, message, entries };
                if let Some((message, entries)) = self.defer(node, (message, entries), what) {
                    let offered: Vec<Offered<'_>> = entries.iter().map(offer).collect();
                    let peer = Peer(from_node as u32);
                    self.nodes[node].group_message(self.now, from, peer, &message, &offered);
                    return self.after(node);
                }
            }
            What::Wake { node } => {
                if self.nodes[node].wake_at.is_some_and(|at| at <= self.now) {
                    self.nodes[node].wake_at = None;
                }
                if self.nodes[node].runs(self.now) {
                    self.nodes[node].tick(self.now);
                    return self.after(node);
                }
            }
            What::Log { node, start } => {
                if self.nodes[node].start == start && self.nodes[node].up {
                    self.nodes[node].log_written();
                    self.note_repaired(node);
                    // The disk goes on while the process stands; the news wait.
                    if self.nodes[node].runs(self.now) {
                        self.nodes[node].tell_persisted(self.now);
                        return self.after(node);
                    }
                }
            }
            What::Apply { node, start } => {
                if self.nodes[node].start == start && self.nodes[node].runs(self.now) {
                    self.nodes[node].apply(self.now);
                    self.acknowledge(node)?;
                    return self.after(node);
                }
            }
            What::ReadEnds { node, start, grant, required } => {
                if self.nodes[node].start == start
                    && let Some(()) =
                        self.defer(node, (), |()| What::ReadEnds { node, start, grant, required })
                {
                    return self.read_ends(node, grant, required);
                }
            }
            What::Resume { node } => {
                if self.nodes[node].up && self.nodes[node].runs(self.now) {
                    self.nodes[node].tell_persisted(self.now);
                    self.after(node)?;
                    self.at(1000, What::Wake { node });
                    let start = self.nodes[node].start;
                    self.at(1000, What::Apply { node, start });
                }
            }
            What::Restart { node } => {
                if !self.nodes[node].up {
                    self.nodes[node].restart(self.now, self.plan.bug);
                    self.nodes[node].tick(self.now);
                    return self.after(node);
                }
            }
            What::Snapshot { node } => return self.copy_snapshot(node),
            What::Client => {
                self.client()?;
                let delay = 500_000 + self.rng.below(3 * MILLI);
                self.at(delay, What::Client);
            }
            What::Fault => {
                if !self.healing {
                    self.fault()?;
                    let delay = self.rng.below(50 * MILLI);
                    self.at(delay, What::Fault);
                }
            }
        }
        Ok(())
    }

    /// Gives `content` back if the node can take it now; a stopped one finds it when it goes on.
    fn defer<T>(&mut self, node: usize, content: T, what: impl FnOnce(T) -> What) -> Option<T> {
        let there = &self.nodes[node];
        if there.runs(self.now) {
            return Some(content);
        }
        if there.up {
            let delay = there.paused_until - self.now + self.rng.below(1000);
            self.at(delay, what(content));
        }
        None
    }

    pub(super) fn node_of(&self, id: MemberId) -> Option<usize> {
        self.nodes.iter().position(|node| node.member == Some(id))
    }

    /// Carries out what a node's machines asked for.
    pub(super) fn after(&mut self, index: usize) -> Result<(), String> {
        let outcome = self.nodes[index].carry_out(self.now, &mut self.rng);
        for (to, message) in outcome.pairs {
            self.stats.pair_messages += 1;
            let to = to.0 as usize;
            self.send(index, to, |message| What::Pair { from: index, to, message }, message);
        }
        let from = self.nodes[index].member;
        for (to, message, entries) in outcome.groups {
            self.stats.group_messages += 1;
            if self.plan.trace {
                let (ms, count) = (self.now / MILLI, entries.len());
                println!(
                    "{ms:>5} ms  {from:?} -> {to:?}: {message:?} + {count} entries",
                    from = self.nodes[index].member
                );
            }
            let Some(target) = self.node_of(to) else { continue };
            let from = from.expect("members send");
            let content = (message, entries);
            let what =
                |(message, entries)| What::Group { from, from_node: index, to, message, entries };
            self.send(index, target, what, content);
        }
        let start = self.nodes[index].start;
        if outcome.persists {
            let slow = if self.rng.chance(5) { 20 * MILLI } else { MILLI };
            let delay = 10_000 + self.rng.below(slow);
            self.at(delay, What::Log { node: index, start });
        }
        if outcome.chosen {
            self.note_chosen(index)?;
            let delay = self.rng.below(2 * MILLI);
            self.at(delay, What::Apply { node: index, start });
        }
        if outcome.leads {
            self.stats.leaders += 1;
        }
        if outcome.needs_snapshot {
            let delay = 1 + self.rng.below(10 * MILLI);
            self.at(delay, What::Snapshot { node: index });
        }
        self.stats.trims += u64::from(outcome.trimmed);
        if let Some(wake_at) = outcome.wake_at
            && self.nodes[index].wake_at.is_none_or(|planned| wake_at < planned)
        {
            self.nodes[index].wake_at = Some(wake_at);
            self.at(wake_at.saturating_sub(self.now), What::Wake { node: index });
        }
        Ok(())
    }

    fn send<T: Clone>(&mut self, from: usize, to: usize, what: impl Fn(T) -> What, content: T) {
        if self.cut.contains(&(from, to)) || self.rng.chance(self.loss_percent) {
            return;
        }
        let copies = if self.loss_percent > 0 && self.rng.chance(5) { 2 } else { 1 };
        for _ in 0..copies {
            let slow = self.loss_percent > 0 && self.rng.chance(5);
            let delay = 50_000 + self.rng.below(if slow { 60 * MILLI } else { MILLI });
            self.at(delay, what(content.clone()));
        }
    }

    /// Writes to whoever thinks that it leads, and reads everywhere.
    fn client(&mut self) -> Result<(), String> {
        for index in 0..self.nodes.len() {
            if !self.nodes[index].runs(self.now) {
                continue;
            }
            for _ in 0..self.rng.below(4) {
                let value = self.next_value + 1;
                let bytes = 1 + self.rng.below(60) as u32;
                if self.nodes[index].propose(value, bytes) {
                    self.next_value = value;
                }
            }
            self.nodes[index].tick(self.now);
            self.after(index)?;
            if let Some(grant) = self.nodes[index].begin_read() {
                let (start, required) = (self.nodes[index].start, self.acknowledged_slot);
                let delay = self.rng.below(3 * MILLI);
                self.at(delay, What::ReadEnds { node: index, start, grant, required });
            }
        }
        Ok(())
    }

    /// Nobody writes or reads any more.
    pub(in crate::paxos::tests) fn silence(&mut self) {
        self.heap.retain(|Reverse(event)| !matches!(event.what, What::Client));
    }

    /// A node takes a checkpoint.
    pub(in crate::paxos::tests) fn checkpoint(&mut self, index: usize) -> Result<(), String> {
        self.nodes[index].take_checkpoint(self.now);
        self.after(index)
    }

    /// What has left a node's log.
    pub(in crate::paxos::tests) fn trimmed(&self, index: usize) -> Option<Slot> {
        Some(self.nodes[index].replica.as_ref()?.figures().trimmed_slot)
    }

    /// The node whose replica leads and serves.
    pub(super) fn serving(&self) -> Option<usize> {
        let serves = |node: &&Node| node.runs(self.now) && node.serves(self.now);
        let node = self.nodes.iter().find(serves)?;
        Some(node.index as usize)
    }

    /// The leader removes the member of a node. The slot of that entry.
    pub(in crate::paxos::tests) fn remove(&mut self, index: usize) -> Result<Slot, String> {
        let leader = self.serving().expect("somebody leads");
        let id = self.nodes[index].member.expect("it is a member");
        let begun = self.nodes[leader].change(self.now, Change::Remove { id });
        self.after(leader)?;
        begun.map_err(|error| error.to_string())
    }

    /// The connection from a node to another is a new one.
    pub(in crate::paxos::tests) fn reconnect(&mut self, from: usize, to: usize) {
        self.cut.retain(|link| *link != (from, to));
        self.nodes[from].reconnected(self.now, Peer(to as u32));
    }

    /// Under which support each of two nodes has the other.
    pub(in crate::paxos::tests) fn support(&self, one: usize, other: usize) -> [Option<Epoch>; 2] {
        [(one, other), (other, one)].map(|(from, to)| {
            let node = &self.nodes[from];
            node.liveness.supports(Peer(to as u32), node.clock(self.now))
        })
    }

    /// Whether a node's member waits for nothing.
    pub(in crate::paxos::tests) fn is_idle(&self, index: usize) -> bool {
        let replica = self.nodes[index].replica.as_ref();
        replica.is_none_or(|replica| replica.next_due().is_none())
    }

    /// An operator's change of the membership, through whoever leads.
    pub(super) fn change_membership(&mut self) -> Result<(), String> {
        let Some(leader) = self.serving() else { return Ok(()) };
        let configuration = self.configurations.last().unwrap().1;
        let members = configuration.members();
        let spare = (0..self.nodes.len())
            .find(|index| members.iter().all(|member| member.peer != Peer(*index as u32)));
        let logs: Vec<_> = members.iter().filter(|m| m.role == MemberRole::Log).collect();
        let roll = self.rng.below(3);
        let change = match (spare, roll) {
            (Some(node), 0) => {
                self.next_member += 1;
                let id = MemberId(self.next_member);
                Change::AddLogReplica { id, peer: Peer(node as u32), az: Az(node as u16) }
            }
            (_, 1) if !logs.is_empty() => Change::Promote { id: self.rng.pick(&logs).id },
            (_, 2) if members.len() > 2 && self.damaged.is_none() => {
                Change::Remove { id: self.rng.pick(members).id }
            }
            _ => return Ok(()),
        };
        let begun = self.nodes[leader].change(self.now, change);
        if let (Ok(_), Change::AddLogReplica { id, peer, .. }) = (&begun, change) {
            // Whoever was there is removed, or was never really added.
            let node = &mut self.nodes[peer.0 as usize];
            if let Some((old, disk)) = node.replace(id, self.plan.bug) {
                self.ghosts.insert(old, disk);
            }
        }
        if let Err(NotBegun::NotCaughtUp { id, .. }) = begun
            && let Some(node) = self.node_of(MemberId(id))
        {
            self.at(MILLI, What::Snapshot { node });
        }
        self.stats.changes += u64::from(begun.is_ok());
        self.after(leader)
    }

    /// Copies a durable checkpoint of a storage replica to `node`.
    fn copy_snapshot(&mut self, node: usize) -> Result<(), String> {
        if !self.nodes[node].runs(self.now) || self.nodes[node].member.is_none() {
            return Ok(());
        }
        let others = (0..self.nodes.len()).filter(|other| *other != node && self.nodes[*other].up);
        let snapshots = others.filter_map(|other| self.nodes[other].disk.snapshot);
        if let Some((slot, configuration)) = snapshots.max_by_key(|(slot, _)| *slot) {
            self.stats.snapshots += 1;
            self.nodes[node].install(self.now, slot, configuration);
            return self.after(node);
        }
        Ok(())
    }
}

pub(super) fn offer(record: &Record) -> Offered<'_> {
    use super::super::{EntryKind, Handle};
    let payload = match (record.kind, &record.configuration) {
        (EntryKind::Configuration, Some(configuration)) => Payload::Configuration(configuration),
        (EntryKind::Data, _) => Payload::Data,
        _ => Payload::NoOp,
    };
    let (handle, bytes, origin) = (Handle(record.value), record.bytes, record.origin);
    Offered { handle, bytes, payload, origin }
}

thread_local! {
    /// Of the run that is under way on this thread, or was last; a broken one leaves nothing else.
    static EVENTS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// How many events the last run on this thread had come to.
pub(super) fn events_of_last_run() -> u64 {
    EVENTS.get()
}

/// One seed, with the machine's own assertions reported like the checks.
pub(super) fn simulate(seed: u64, plan: Plan) -> Result<Stats, String> {
    let run = std::panic::AssertUnwindSafe(|| Sim::new(seed, plan).run());
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!("assertion: {}", text.unwrap_or_default()))
    })
}
