//! The world: nodes, clients, network and disks, one event after the other on one thread.
//!
//! ```text
//!            ┌──────────────────────────── Queue, by time ───────────────────────────┐
//!            ▼                 ▼                    ▼                 ▼               │
//!           Disk ─► Node   Deliver ─► Node,    Client ─► Client   Fault ─► faults     │
//!           Turn ─►  │     Opened     Client       │                 │                │
//!                    └─ effects ─► disk, network ◄─┴─ frames         └────────────────┘
//! ```
//!
//! Time passes only between events. A process that is paused finds its events later, in their order.
//! Turns are no events of the queue: a node has one ahead at most, after what else happens at its
//! moment.

use std::collections::HashMap;

use forebay_core::ids::GroupId;
use forebay_core::paxos::{MemberId, MemberRole};
use forebay_net::machine::{CloseReason, Machine};
use forebay_storage::notice;
use forebay_storage::sim_disk::SimRandom;

use super::agreement::{Agreement, Whose};
use super::client::Client;
use super::clock::Clock;
use super::leases::{self, Leases};
use super::linearizability::{self, Verdict};
use super::membership;
use super::network::{Dialer, Network};
use super::node::{Conn, Down, Node, Pending, Variant};
use super::plan::{Plan, Planned, Schedule};
use super::queue::{Event, Queue, What};
use super::repair::{self, Repair};
use super::trace::Trace;
use super::workload::{Stage, Workload};
use super::{Failure, FailureKind, Options, Planted, Stats, between, mixed};

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// Clients of a run: a hundred operations a second and some more.
const CLIENTS: usize = 9;
/// From an event to the turn that looks at it: what else arrives until then is seen with it.
const TURN_NANOS: (u64, u64) = (2 * MICRO, 60 * MICRO);
/// Between two turns of a node that has more to do.
const AGAIN_NANOS: u64 = 25 * MICRO;
/// From a send to the news that it has gone, if nothing else happens.
const SENT_NANOS: (u64, u64) = (20 * MICRO, 500 * MICRO);
/// How often the nodes are looked at.
const INSPECT_NANOS: u64 = 200 * MILLI;
/// How often nodes without a cluster are looked for.
const TAKE_IN_NANOS: u64 = SECOND;
/// How often a trace says how they stand.
const DESCRIBE_NANOS: u64 = 10 * SECOND;
/// The table must have been made by then.
const SETUP_NANOS_MAX: u64 = 2_900 * MILLI;
/// After the last fault, clients succeed within this time.
pub(super) const LIVENESS_NANOS: u64 = 5 * SECOND;
/// What is under way when the clients stop has an outcome by then.
const DRAIN_NANOS: u64 = 2 * SECOND;
/// And everything was read once more by then.
const AUDIT_NANOS_MAX: u64 = 20 * SECOND;
/// By then groups are whole, and what replicas end at is in everybody's checkpoint.
const SETTLE_NANOS_MAX: u64 = 40 * SECOND;
/// A supervisor starts a failed process again.
const SUPERVISOR_NANOS: (u64, u64) = (50 * MILLI, 500 * MILLI);
/// Events in one simulated millisecond that mean that nothing ends any more.
const EVENTS_PER_MILLI_MAX: u32 = 50_000;

/// See the module's docs.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) plan: Plan,
    pub(super) now: u64,
    pub(super) queue: Queue,
    pub(super) random: SimRandom,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Vec<Client>,
    pub(super) network: Network,
    pub(super) work: Workload,
    pub(super) schedule: Schedule,
    pub(super) agreement: Agreement,
    /// Plots that are under way.
    pub(super) plots: Vec<super::plots::Running>,
    leases: Leases,
    pub(super) repair: Repair,
    /// Of each group, as its leader said last.
    pub(super) members: HashMap<GroupId, Vec<(MemberId, MemberRole)>>,
    /// Members that had begun to lead when everything was made, in a run of gray failures.
    elections_before: Option<u64>,
    pub(super) trace: Trace,
    pub(super) stats: Stats,
    pub(super) failure: Option<Failure>,
    pub(super) healed_at: u64,
    is_live: bool,
    audit_until: u64,
    milli: u64,
    events_in_milli: u32,
}

impl World {
    pub(super) fn new(options: &Options) -> World {
        let seed = options.seed;
        let plan = options.plan();
        let keeps = |index: usize| options.keep.as_ref().is_none_or(|keep| keep.contains(&index));
        let schedule = Schedule::new(&plan, keeps);
        let mut random = SimRandom::new(mixed(seed, 1));
        let lies = options.planted == Some(Planted::LyingDisk);
        let variant = Variant::draw(&mut random);
        let topology = super::node::topology(options.nodes, variant);
        let nodes = (0..options.nodes)
            .map(|number| {
                let ppm = between(&mut random, 0, 400) as i64 - 200;
                let local = SECOND + between(&mut random, 0, 1_000 * SECOND);
                let clock = Clock::new(0, local, ppm);
                let topology = topology.clone();
                Node::new(number, mixed(seed, 100 + number as u64), clock, topology, variant, lies)
            })
            .collect();
        let client = |number| {
            Client::new(number, options.nodes, mixed(seed, 200 + number as u64), 10 * MILLI)
        };
        World {
            plan,
            now: 0,
            queue: Queue::default(),
            random,
            nodes,
            clients: (0..CLIENTS).map(client).collect(),
            network: Network::new(options.nodes + 1, mixed(seed, 2)),
            work: Workload::new(),
            schedule,
            agreement: Agreement::default(),
            plots: Vec::new(),
            leases: Leases::default(),
            repair: Repair::default(),
            members: HashMap::new(),
            elections_before: None,
            trace: Trace::new(options.trace),
            stats: Stats::default(),
            failure: None,
            healed_at: options.nanos - super::plan::HEALED_BEFORE_END_NANOS,
            is_live: false,
            audit_until: u64::MAX,
            milli: 0,
            events_in_milli: 0,
            options: options.clone(),
        }
    }

    pub(super) fn fail(&mut self, kind: FailureKind, message: impl Into<String>) {
        let message = message.into();
        self.trace.say(self.now, || format!("FAILURE: {message}"));
        self.describe_nodes();
        self.failure.get_or_insert(Failure { kind, at_nanos: self.now, message });
    }

    /// Says how every node stands.
    fn describe_nodes(&mut self) {
        let refusals = &self.work.refusals;
        self.trace.say(self.now, || format!("refusals since the last look: {refusals:?}"));
        self.work.refusals.clear();
        for (number, node) in self.nodes.iter().enumerate() {
            let Some(shard) = &node.shard else {
                self.trace.say(self.now, || format!("node {number} is down: {:?}", node.down));
                continue;
            };
            let stats = shard.store().stats();
            self.trace.say(self.now, || {
                format!(
                    "node {number}: log {} to {} (durable {}), {} free; checkpoint {}; {:?}",
                    stats.trim_lsn,
                    stats.next_lsn,
                    stats.durable_lsn,
                    stats.log_free_bytes,
                    stats.checkpoint_number,
                    shard.store().failure()
                )
            });
            for status in shard.replication().into_iter().flat_map(|r| r.statuses()) {
                let figures = status.figures;
                self.trace.say(self.now, || {
                    format!(
                        "  group {}: {:?}{}{}, {} held, {} chosen, {} applied, {} trimmed, {:?}",
                        status.group,
                        figures.role,
                        if status.serves { ", serves" } else { "" },
                        if status.needs_snapshot { ", needs a snapshot" } else { "" },
                        figures.last_slot,
                        figures.chosen_slot,
                        figures.applied_slot,
                        figures.trimmed_slot,
                        figures.promised,
                    )
                });
            }
        }
    }

    /// Runs to the end, or to the first thing that must not be.
    pub(super) fn run(&mut self) {
        self.is_due_again();
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        (0..CLIENTS).for_each(|client| self.wake_client(client));
        if let Some(at) = self.schedule.next_at() {
            self.queue.push(at, What::Fault);
        }
        self.queue.push(INSPECT_NANOS, What::Inspect);
        self.queue.push(SETUP_NANOS_MAX, What::Stage);
        self.queue.push(self.healed_at + LIVENESS_NANOS, What::Stage);
        self.queue.push(self.options.nanos, What::Stage);
        while self.failure.is_none() && self.work.stage != Stage::Over {
            self.stats.events += 1;
            let due = self.queue.next_at().unwrap_or(u64::MAX);
            match self.next_turn().filter(|(at, _)| *at < due) {
                Some((at, node)) => {
                    debug_assert!(at >= self.now);
                    self.now = at;
                    self.turn_is_due(node);
                }
                None => {
                    let event = self.queue.pop().expect("a stage is always ahead");
                    debug_assert!(event.at >= self.now);
                    self.now = event.at;
                    self.handle(event);
                }
            }
            if let Some(message) = self.work.violation.take() {
                self.fail(FailureKind::Answer, message);
            }
            self.watch_for_a_standstill();
        }
        self.stats.simulated_nanos = self.now;
        self.stats.operations = self.work.operations;
        self.stats.acknowledged_entries = self.work.ledger.acknowledgements();
        self.stats.network_bytes = self.network.delivered_bytes();
        self.stats.digests_compared = self.agreement.compared();
        self.stats.entries_compared = self.agreement.entries_compared();
        self.stats.elections = self.leases.elections;
        self.stats.checkpoints = self.nodes.iter().map(Node::checkpoints).sum();
        self.stats.snapshots = self.nodes.iter().map(Node::snapshots).sum();
        // Wrong answers count for more than none.
        let liveness = |failure: &Failure| failure.kind == FailureKind::Liveness;
        if self.failure.as_ref().is_none_or(liveness) {
            self.check_ages();
            self.check_histories();
        }
    }

    fn watch_for_a_standstill(&mut self) {
        let milli = self.now / MILLI;
        if milli != self.milli {
            (self.milli, self.events_in_milli) = (milli, 0);
        }
        self.events_in_milli += 1;
        if self.events_in_milli > EVENTS_PER_MILLI_MAX {
            self.fail(FailureKind::Standstill, "events without end in one millisecond");
        }
    }

    /// The node that an event waits for, if it is paused.
    fn pauser(&self, what: &What) -> Option<usize> {
        match *what {
            What::Disk { node, .. } => Some(node),
            What::Opened { wire, side } | What::Deliver { wire, side } => {
                self.network.owner(wire, side)?.node()
            }
            _ => None,
        }
    }

    fn handle(&mut self, event: Event) {
        if let Some(node) = self.pauser(&event.what)
            && self.nodes[node].paused_until > self.now
        {
            let until = self.nodes[node].paused_until;
            if let What::Deliver { wire, side } = event.what {
                self.network.put_off(wire, side, event.at, until);
            }
            return self.queue.put_off(event, until);
        }
        match event.what {
            What::Disk { node, incarnation, op } => {
                let found = &mut self.nodes[node];
                if found.incarnation == incarnation {
                    match found.disk.complete(op, self.now) {
                        Ok(done) => {
                            let local = found.clock.local(self.now);
                            let shard = found.shard.as_mut().expect("it runs");
                            shard.disk_done(done, local);
                            self.turn_soon(node);
                        }
                        Err(Some(at)) => self.queue.put_off(event, at),
                        Err(None) => unreachable!("operations end once"),
                    }
                }
            }
            What::Client { client } => {
                if self.clients[client].due == Some(event.at) {
                    self.clients[client].due = None;
                    self.act(client);
                }
            }
            What::Opened { wire, side } => self.opened(wire, side),
            What::Deliver { wire, side } => {
                if self.network.delivers(wire, side, event.at) {
                    match self.network.breaks(wire, side) {
                        true => self.reset(wire),
                        false => self.deliver(wire, side),
                    }
                }
            }
            What::Dial { dial } => self.dial_arrives(dial),
            What::Fault => {
                while let Some((index, edge)) = self.schedule.take(self.now) {
                    self.fault(index, edge);
                }
                if let Some(at) = self.schedule.next_at() {
                    self.queue.push(at, What::Fault);
                }
            }
            What::Restart { node, incarnation } => {
                if self.nodes[node].incarnation == incarnation && self.nodes[node].shard.is_none() {
                    self.start(node);
                }
            }
            What::Plot { fault } => self.plot_step(fault),
            What::PowerGoes => self.power_goes(),
            What::DeleteData { node, until } => self.lose_data(node, until),
            What::Inspect => self.inspect(),
            What::Stage => self.stage(),
        }
    }

    // Nodes.

    /// Starts a node's process.
    pub(super) fn start(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.paused_until = 0;
        node.disk.take_erred();
        match node.start(self.now) {
            Ok(warning) => {
                self.trace.say(self.now, || match warning {
                    Some(warning) => format!("node {number} starts: {warning}"),
                    None => format!("node {number} starts"),
                });
                let unreadable = node.shard.as_ref().and_then(|shard| shard.unreadable().cloned());
                if let Some(unreadable) = unreadable {
                    return self.fail(FailureKind::Start, unreadable.to_string());
                }
                let store = node.shard.as_ref().map(|shard| shard.store());
                if store.is_some_and(|store| store.members_without_entries() > 0)
                    && !self.options.damage
                {
                    let message = format!("node {number}'s checkpoint has what its log never had");
                    return self.fail(FailureKind::Disk, message);
                }
                self.turn_soon(number);
                if let Some(ended) = self.nodes[number].take_lost() {
                    self.stats.logs_lost += 1;
                    self.is_due_again();
                    self.members_end(ended);
                }
            }
            // A disk that fails while a node recovers is a fault like any other: once more.
            Err(error) if node.disk.take_erred() => {
                self.trace.say(self.now, || format!("node {number} cannot start yet: {error}"));
                let at = self.now + between(&mut self.random, 50 * MILLI, 200 * MILLI);
                let incarnation = self.nodes[number].incarnation;
                self.queue.push(at, What::Restart { node: number, incarnation });
            }
            // What repair leaves out: its data go, and it comes back as another.
            Err(error) if node.is_damaged && repair::may_give_up(node, &error) => {
                self.trace.say(self.now, || format!("node {number} gives up its data: {error}"));
                self.stats.given_up += 1;
                self.delete_data(number);
            }
            Err(error) => {
                self.fail(FailureKind::Start, format!("node {number} does not start: {error}"));
            }
        }
    }

    /// A node's process ends, and its connections with it.
    pub(super) fn crash(&mut self, number: usize, how: Down) {
        self.stats.crashes += 1;
        let node = &mut self.nodes[number];
        node.end(how);
        node.paused_until = 0;
        for (wire, side) in self.network.of_node(number) {
            // A machine without power tells nobody; the others notice as their transport does.
            let loses = how == Down::Power || self.random.chance(1, 2);
            let reason = CloseReason::Error(libc::ECONNRESET);
            let silence = match how {
                Down::Power => between(&mut self.random, 100 * MILLI, 2 * SECOND),
                Down::Process => 0,
            };
            let at = self.now + silence;
            self.network.close(wire, side, reason, loses, at, &mut self.queue);
        }
    }

    /// Has the node's loop come round by then.
    pub(super) fn turn_by(&mut self, number: usize, at: u64) {
        let node = &mut self.nodes[number];
        if node.shard.is_some() && node.turn_at.is_none_or(|due| at < due) {
            node.turn_at = Some(at);
        }
    }

    /// Has it come round for something that has just happened.
    pub(super) fn turn_soon(&mut self, number: usize) {
        self.nodes[number].has_news = true;
        let latest = self.now + TURN_NANOS.1;
        if self.nodes[number].turn_at.is_none_or(|due| latest < due) {
            let at = self.now + between(&mut self.random, TURN_NANOS.0, TURN_NANOS.1);
            self.turn_by(number, at);
        }
    }

    /// The next turn of any node.
    fn next_turn(&self) -> Option<(u64, usize)> {
        let turns = self.nodes.iter().filter_map(|node| Some((node.turn_at?, node.number)));
        turns.min()
    }

    fn turn_is_due(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if node.paused_until > self.now {
            node.turn_at = Some(node.paused_until);
        } else if node.has_reason_to_turn(self.now) {
            (node.turn_at, node.wants_turn_at) = (None, None);
            self.turn(number);
        } else {
            node.turn_at = node.wants_turn_at;
        }
    }

    fn turn(&mut self, number: usize) {
        self.stats.turns += 1;
        let now = self.now;
        let node = &mut self.nodes[number];
        let local = node.clock.local(now);
        let end = node.begin_turn(now);
        let Some(shard) = node.shard.as_mut() else { return };
        shard.turn(local, &mut node.fx);
        let mail = shard.take_mail().next().is_some();
        assert!(!mail, "a node of one shard writes to no other");
        let mut differs = None;
        for entry in shard.take_watched() {
            differs = differs.or(self.agreement.applied(number, &entry).err());
        }
        let failure = shard.store().failure();
        let has_wrong_pages = shard.store().wrong_pages() > 0 && !self.options.damage;
        let stop = std::mem::take(&mut node.fx.stop);
        if end > now {
            node.paused_until = node.paused_until.max(end);
            if let Some(message) = self.read_without_lease(number, end) {
                return self.fail(FailureKind::Lease, message);
            }
        }
        self.carry_out(number, end);
        if !self.plots.is_empty() {
            self.plots_look(number);
        }
        self.note_growth(number);
        if let Some(message) = differs {
            return self.fail(FailureKind::Agreement, message);
        }
        if has_wrong_pages {
            self.hear();
            let message = format!("node {number} reads a page that is not what was written");
            return self.fail(FailureKind::Disk, message);
        }
        if self.leases.observe(&self.nodes[number]) {
            self.has_begun_to_lead(number);
        }
        if let Some(reason) = failure {
            self.hear();
            self.trace.say(now, || format!("node {number} fails: {reason}"));
            self.restart_soon(number);
        } else if stop {
            self.fail(FailureKind::Start, format!("node {number} stopped by itself"));
        }
    }

    /// A member here leads that did not before.
    fn has_begun_to_lead(&mut self, number: usize) {
        self.trace.say(self.now, || format!("node {number} begins to lead a group"));
        if let Some(message) = leases::two_leaseholders(&self.nodes, self.now) {
            return self.fail(FailureKind::Lease, message);
        }
        if self.elections_before.is_some_and(|before| self.leases.elections > before) {
            let message = format!(
                "node {number} begins to lead a group, although one link was broken at a time and \
                 everybody heard the leader, or somebody who did"
            );
            self.fail(FailureKind::Election, message);
        }
    }

    /// What the nodes would tell their operators goes into the trace.
    fn hear(&mut self) {
        for line in notice::overheard() {
            self.trace.say(self.now, || line);
        }
    }

    /// A failed process ends, and its supervisor starts another.
    fn restart_soon(&mut self, number: usize) {
        self.crash(number, Down::Process);
        let at = self.now + between(&mut self.random, SUPERVISOR_NANOS.0, SUPERVISOR_NANOS.1);
        let incarnation = self.nodes[number].incarnation;
        self.queue.push(at, What::Restart { node: number, incarnation });
    }

    /// Does what the turn that ended then asked for.
    fn carry_out(&mut self, number: usize, now: u64) {
        let World { nodes, network, queue, random, .. } = self;
        let node = &mut nodes[number];
        let (incarnation, fx) = (node.incarnation, &mut node.fx);
        for op in fx.disk.drain(..) {
            let (op, at) = node.disk.submit(op, now);
            queue.push(at, What::Disk { node: number, incarnation, op });
        }
        if let Some((fault, at)) = node.disk.take_struck() {
            queue.push(at, What::Plot { fault });
        }
        let mut next = fx.wake_at.take().map(|at| node.clock.real(at));
        let by = |next: &mut Option<u64>, at: u64| *next = Some(next.map_or(at, |due| due.min(at)));
        let mut sent_at = None;
        if std::mem::take(&mut fx.run_again) {
            by(&mut next, now + AGAIN_NANOS);
        }
        for (id, buf) in fx.send.drain(..) {
            let Some(conn) = node.conns.get(id).copied() else {
                node.pending.push(Pending::Sent(id, buf));
                continue;
            };
            assert!(!conn.closing, "nothing is sent after a close");
            if network.send(conn.wire, conn.side, &buf, now, queue) {
                node.pending.push(Pending::Sent(id, buf));
                by(&mut sent_at, now + between(random, SENT_NANOS.0, SENT_NANOS.1));
            } else {
                network.wait_for_room(conn.wire, conn.side, buf);
            }
        }
        for id in fx.close.drain(..) {
            let Some(conn) = node.conns.get(id) else { continue };
            conn.closing = true;
            let Conn { wire, side, .. } = *conn;
            if !network.close_after_waiting(wire, side) {
                node.conns.remove(id);
                node.pending.push(Pending::Closed(id, CloseReason::Asked));
                network.close(wire, side, CloseReason::Peer, false, now, queue);
                by(&mut next, now + TURN_NANOS.0);
            }
        }
        for (ids, paused) in [(&mut fx.pause_receive, true), (&mut fx.resume_receive, false)] {
            for id in ids.drain(..) {
                if let Some(Conn { wire, side, .. }) = node.conns.get(id).copied() {
                    network.set_paused(wire, side, paused, now, queue);
                }
            }
        }
        for (token, address) in fx.connect.drain(..) {
            let dialer = Dialer::Node { node: number, incarnation, token };
            let (to, listener) = super::node::listener_of(address);
            let dial = Network::dial_of(number, to, listener, dialer);
            network.dial(dial, now, queue);
        }
        node.wants_turn_at = next.map(|at| at.max(now + TURN_NANOS.0));
        if let Some(at) = node.wants_turn_at.into_iter().chain(sent_at).min() {
            self.turn_by(number, at);
        }
    }

    // Checks.

    fn inspect(&mut self) {
        self.queue.push(self.now + INSPECT_NANOS, What::Inspect);
        if self.now.is_multiple_of(DESCRIBE_NANOS) {
            self.describe_nodes();
        }
        let mut differs = None;
        for (number, node) in self.nodes.iter().enumerate() {
            let Some(store) = node.shard.as_ref().map(|shard| shard.store()) else { continue };
            for (ordinal, descriptor) in store.groups() {
                let mut members = store.members();
                let member = members.find(|(other, _, _)| *other == ordinal);
                let (group, member) = (descriptor.id.0, member.map_or(0, |(_, id, _)| id.0));
                let whose = Whose { node: number, group, member };
                let observed = self.agreement.observe(whose, &store.group_figures(ordinal));
                differs = differs.or(observed.err());
            }
        }
        if let Some(message) = differs {
            return self.fail(FailureKind::Agreement, message);
        }
        if let Some(message) = leases::two_leaseholders(&self.nodes, self.now) {
            return self.fail(FailureKind::Lease, message);
        }
        self.hear();
        self.note_members();
        self.look_at_repair();
        if self.now.is_multiple_of(TAKE_IN_NANOS) {
            self.take_in();
        }
        if self.work.audit_is_over()
            && membership::what_is_left(&self.nodes, self.now).is_none()
            && !self.looks_closer()
        {
            self.work.stage = Stage::Over;
        }
    }

    fn stage(&mut self) {
        let end = self.options.nanos;
        match self.now {
            SETUP_NANOS_MAX if self.work.table.is_none() => {
                self.fail(FailureKind::Liveness, "no table could be made before the first fault");
            }
            SETUP_NANOS_MAX => {
                self.elections_before = self.options.gray.then_some(self.leases.elections);
            }
            now if now == self.healed_at + LIVENESS_NANOS => {
                let Workload { last_write, last_read, .. } = self.work;
                let healed = self.healed_at;
                self.is_live = last_write > healed && last_read > healed;
                if !self.is_live {
                    let message = format!(
                        "all faults had ended at {healed} ns, and {LIVENESS_NANOS} ns later no \
                         write or no read that began after that has succeeded (the last that did \
                         began at {last_write} and {last_read} ns)"
                    );
                    self.fail(FailureKind::Liveness, message);
                }
            }
            now if now == end => {
                self.work.stage = Stage::Drain;
                self.queue.push(now + DRAIN_NANOS, What::Stage);
            }
            now if now == end + DRAIN_NANOS => {
                self.work.begin_audit();
                self.audit_until = now + AUDIT_NANOS_MAX;
                self.queue.push(self.audit_until, What::Stage);
                self.queue.push(self.audit_until + SETTLE_NANOS_MAX, What::Stage);
                (0..CLIENTS).for_each(|client| self.wake_client(client));
            }
            now if now == self.audit_until => {
                if !self.work.audit_is_over() {
                    let left = self.work.targets.len() + self.work.auditing;
                    let message = format!("{left} keys could not be read in the end");
                    self.fail(FailureKind::Liveness, message);
                }
            }
            _ => {
                let left = membership::what_is_left(&self.nodes, self.now).unwrap_or_default();
                let message = format!("the replicas do not come to the same end: {left}");
                self.fail(FailureKind::Liveness, message);
            }
        }
    }

    fn check_ages(&mut self) {
        self.stats.ages_checked = self.work.staleness.len();
        let keys: Vec<_> = self.work.history.keys().collect();
        let Some((at, message)) = self.work.staleness.check(&self.work.ledger, &keys) else {
            return;
        };
        self.now = at;
        self.failure = None;
        self.fail(FailureKind::Staleness, message);
    }

    fn check_histories(&mut self) {
        let mut found = None;
        for (key, ops) in self.work.history.keys().enumerate() {
            match linearizability::check(ops) {
                Verdict::Linearizable => {}
                Verdict::Undecided(index) => {
                    self.stats.undecided_keys += 1;
                    let shown = || super::trace::around(ops, index);
                    self.trace
                        .say(self.now, || format!("register-{key} is undecided:\n{}", shown()));
                }
                Verdict::Violation(index) => {
                    let at = ops[index].ended_at;
                    if found.as_ref().is_none_or(|(first, _, _)| at < *first) {
                        found = Some((at, key, index));
                    }
                }
            }
        }
        let Some((_, key, index)) = found else { return };
        let ops = self.work.history.keys().nth(key).expect("found there");
        let shown = super::trace::around(ops, index);
        let message = format!(
            "register-{key}: no order of the operations explains the answer to {}\n{shown}",
            super::trace::describe(&ops[index])
        );
        self.now = ops[index].ended_at;
        self.failure = None;
        self.fail(FailureKind::Linearizability, message);
    }

    /// A fault of the plan.
    pub(super) fn planned(&self, index: usize) -> Planned {
        self.plan.faults[index]
    }
}
