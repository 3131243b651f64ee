//! Faults that follow what the cluster does.
//!
//! A Rule is about a moment: between a promise and its flush, inside a checkpoint, between the end of
//! a lead and the next one's first entry. A fault at a random time seldom meets it. A *plot* waits for
//! it: it looks up who leads, arms itself, and strikes when what it waits for happens. (FoundationDB's
//! simulator does the like from inside, with `BUGGIFY`: rare branches are taken on purpose.)
//!
//! ```text
//!   L leads, C and S are the others of a group
//!
//!   Succession   L ─╳► C for a while │ L learns that an entry is chosen ► goes before it has told S
//!                                    │ another leads ► its first entries are slow to be chosen
//!   Coup         L ╳ C, L ╳ S        │ S promises ► loses power at once │ L = S, C ╳ S
//!   Amnesia      L ╳ C until C misses L              │ S restarts, L ╳ S
//!   Usurper      L ╳ C until C misses L              │ C stands, though S supports L
//!   TornCheckpoint     a checkpoint ► so many writes, flushes or superblocks later power is lost, at
//!                      once or after the pages have stood still
//!   LogBehind          the log stands still, a checkpoint ► its superblock, or not ► power is lost
//! ```
//!
//! What a correct cluster does about each is nothing at all that clients could see but a pause. Like
//! every fault a plot is undone at its end, and then it is as if it had not been.

use forebay_core::ids::{Ballot, GroupId, Slot};
use forebay_core::paxos::{Figures, RoleName};
use forebay_storage::sim_disk::SimRandom;

use super::between;
use super::disk::Strike;
use super::node::{Down, Node};
use super::plan::Place;
use super::queue::What;
use super::world::World;

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000_000;

/// What a plot takes at least and at most.
pub(super) const PLOT_NANOS: (u64, u64) = (1_600 * MILLI, 3_500 * MILLI);
/// Until a member that hears its leader no more misses it: a lease, and a little.
const MISSED_NANOS: (u64, u64) = (410 * MILLI, 700 * MILLI);

/// See the module's docs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plot {
    /// One that lags behind may be elected.
    Succession,
    /// A promise is told of, and forgotten if it was not durable.
    Coup,
    /// A supporter restarts and knows nothing of its support.
    Amnesia,
    /// A member stands for election before its time.
    Usurper,
    /// Power is lost inside a checkpoint.
    TornCheckpoint,
    /// Power is lost while the log is behind what a checkpoint contains.
    LogBehind,
}

impl Plot {
    /// All of them.
    pub(super) const ALL: [Plot; 6] = [
        Plot::Succession,
        Plot::Coup,
        Plot::Amnesia,
        Plot::Usurper,
        Plot::TornCheckpoint,
        Plot::LogBehind,
    ];

    /// In words.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Plot::Succession => "a leader goes when one that lags behind may follow it",
            Plot::Coup => "a member loses power when it promises, and its old leader comes back",
            Plot::Amnesia => "a supporter restarts while another member misses the leader",
            Plot::Usurper => "a member stands for election while another supports the leader",
            Plot::TornCheckpoint => "power is lost inside a checkpoint",
            Plot::LogBehind => "a log stands still, and power is lost around a checkpoint",
        }
    }
}

/// What a plot waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// Its time.
    No,
    /// The leader learns that an entry after this slot is chosen.
    Chosen(Slot),
    /// A member has promised somebody else to follow.
    Promise,
    /// A member that has promised so leads.
    Lead,
}

/// One that is under way.
#[derive(Debug)]
pub(super) struct Running {
    fault: usize,
    plot: Plot,
    random: SimRandom,
    group: GroupId,
    leader: usize,
    /// The member that the plot would have lead next, and the remaining one.
    candidate: usize,
    third: usize,
    /// Steps taken.
    step: u32,
    waits: Waits,
    /// Promises of the group when it began to wait, by node.
    promised: Vec<Ballot>,
    cuts: Vec<(Place, Place)>,
    /// Nodes that it took down.
    down: Vec<usize>,
}

impl World {
    /// A plot begins. It draws from `roll`: what others draw does not change what it does.
    pub(super) fn begin_plot(&mut self, fault: usize, plot: Plot, roll: u64) {
        let mut random = SimRandom::new(roll);
        let nodes = self.nodes.len();
        let mut running = Running {
            fault,
            plot,
            group: GroupId(0),
            leader: random.below(nodes),
            candidate: 0,
            third: 0,
            step: 0,
            waits: Waits::No,
            promised: Vec::new(),
            cuts: Vec::new(),
            down: Vec::new(),
            random,
        };
        if matches!(plot, Plot::TornCheckpoint | Plot::LogBehind) && running.random.chance(1, 2) {
            self.cast(&mut running);
        }
        match plot {
            Plot::TornCheckpoint => self.arm_disk(&mut running),
            Plot::LogBehind => self.stop_log(&mut running),
            Plot::Succession | Plot::Coup | Plot::Amnesia | Plot::Usurper => {
                if !self.cast(&mut running) {
                    return self.trace.say(self.now, || "but nobody leads".to_owned());
                }
                self.open(&mut running);
            }
        }
        self.plots.push(running);
    }

    /// Finds a leader, and who else is in its group.
    fn cast(&mut self, running: &mut Running) -> bool {
        let mut leads = Vec::new();
        for node in self.nodes.iter().filter(|node| node.paused_until <= self.now) {
            let replication = node.shard.as_ref().and_then(|shard| shard.replication());
            for status in replication.into_iter().flat_map(|r| r.statuses()) {
                if status.serves {
                    leads.push((status.group, node.number));
                }
            }
        }
        if leads.is_empty() || self.nodes.len() < 3 {
            return false;
        }
        (running.group, running.leader) = leads[running.random.below(leads.len())];
        let nodes = self.nodes.len();
        let way = running.random.below(nodes - 1);
        running.candidate = (running.leader + 1 + way) % nodes;
        running.third = (running.leader + 1 + (way + 1) % (nodes - 1)) % nodes;
        let Running { group, leader, candidate, third, .. } = *running;
        self.trace.say(self.now, || {
            format!("group {}: {leader} leads, {candidate} is to follow, {third} is third", group.0)
        });
        true
    }

    fn open(&mut self, running: &mut Running) {
        let Running { leader, candidate, third, .. } = *running;
        let random = &mut running.random;
        match running.plot {
            Plot::Succession => {
                let lag = between(random, MILLI, 350 * MILLI);
                self.plot_cuts(running, leader, candidate, false);
                self.plot_goes_on(running.fault, lag);
            }
            Plot::Coup => {
                running.waits = Waits::Promise;
                running.promised = self.promises(running.group);
                self.plot_cuts(running, leader, candidate, true);
                self.plot_cuts(running, leader, third, true);
            }
            Plot::Amnesia | Plot::Usurper => {
                let missed = between(random, MISSED_NANOS.0, MISSED_NANOS.1);
                self.plot_cuts(running, leader, candidate, true);
                self.plot_goes_on(running.fault, missed);
            }
            Plot::TornCheckpoint | Plot::LogBehind => unreachable!("about no group"),
        }
    }

    /// The moment has come that the plot asked for.
    pub(super) fn plot_step(&mut self, fault: usize) {
        let Some(at) = self.plots.iter().position(|running| running.fault == fault) else { return };
        let mut running = self.plots.swap_remove(at);
        running.step += 1;
        let Running { leader, candidate, third, .. } = running;
        match (running.plot, running.step) {
            (Plot::Succession, 1) => {
                let figures = |node: &Node| Some(figures_of(node, running.group)?.chosen_slot);
                let chosen = figures(&self.nodes[leader]).unwrap_or_default();
                running.waits = Waits::Chosen(chosen);
            }
            (Plot::Succession, _) => {
                running.waits = Waits::Lead;
                running.promised = self.promises(running.group);
                match running.random.below(3) {
                    0 => self.plot_fells(&mut running, leader, Down::Process),
                    1 => self.plot_fells(&mut running, leader, Down::Power),
                    _ => {
                        self.plot_cuts(&mut running, leader, candidate, true);
                        self.plot_cuts(&mut running, leader, third, true);
                    }
                }
            }
            (Plot::Coup, 1) => {
                self.plot_fells(&mut running, third, Down::Power);
                self.plot_heals(&mut running);
                self.plot_cuts(&mut running, leader, candidate, true);
                self.plot_cuts(&mut running, third, candidate, true);
                self.plot_goes_on(fault, between(&mut running.random, 100 * MICRO, 5 * MILLI));
            }
            (Plot::Amnesia, 1) => {
                let how = if running.random.chance(1, 2) { Down::Process } else { Down::Power };
                self.plot_cuts(&mut running, leader, third, true);
                self.plot_fells(&mut running, third, how);
                self.plot_goes_on(fault, between(&mut running.random, 100 * MICRO, 5 * MILLI));
            }
            (Plot::Usurper, _) => {
                let node = &mut self.nodes[candidate];
                let local = node.clock.local(self.now);
                if node.paused_until <= self.now
                    && let Some(shard) = node.shard.as_mut()
                {
                    shard.stand(running.group, local);
                    self.turn_soon(candidate);
                }
                self.plot_goes_on(fault, between(&mut running.random, 5 * MILLI, 80 * MILLI));
            }
            (Plot::LogBehind, 1) => {
                self.plot_wants_checkpoint(leader);
                // Power goes before the log goes on, whether or not a checkpoint has ended.
                self.plot_goes_on(fault, between(&mut running.random, 20 * MILLI, 250 * MILLI));
            }
            (Plot::TornCheckpoint, 1) if running.random.chance(1, 2) => {
                // It stays in the middle of its checkpoint for a while, and goes on serving.
                let stuck = between(&mut running.random, 100 * MILLI, 1_500 * MILLI);
                let until = &mut self.nodes[leader].disk.pages_stuck_until;
                *until = (*until).max(self.now + stuck);
                self.trace.say(self.now, || format!("node {leader}'s pages stand still"));
                self.plot_goes_on(fault, between(&mut running.random, stuck / 2, stuck));
            }
            (Plot::TornCheckpoint, _) | (Plot::LogBehind, 2) if running.down.is_empty() => {
                self.plot_fells(&mut running, leader, Down::Power);
                self.plot_goes_on(fault, between(&mut running.random, MILLI, 60 * MILLI));
            }
            _ => self.plot_raises(&mut running),
        }
        self.plots.push(running);
    }

    /// A node has had its turn: is it what a plot waits for?
    pub(super) fn plots_look(&mut self, number: usize) {
        let node = &self.nodes[number];
        let comes = |running: &Running| {
            let leads = number == running.leader;
            if running.waits == Waits::No || leads != matches!(running.waits, Waits::Chosen(_)) {
                return false;
            }
            let Some(figures) = figures_of(node, running.group) else { return false };
            let promises = || figures.promised > running.promised[number];
            match running.waits {
                Waits::No => false,
                Waits::Chosen(slot) => figures.chosen_slot > slot,
                Waits::Promise => figures.role == RoleName::Following && promises(),
                Waits::Lead => figures.role == RoleName::Leading && promises(),
            }
        };
        let Some(at) = self.plots.iter().position(comes) else { return };
        let running = &mut self.plots[at];
        let (fault, waits) = (running.fault, std::mem::replace(&mut running.waits, Waits::No));
        let others = [running.candidate, running.third];
        let other = others[usize::from(number == others[0])];
        match waits {
            Waits::No => {}
            Waits::Chosen(_) => self.plot_step(fault),
            Waits::Promise => {
                (running.third, running.candidate) = (number, other);
                let nanos = between(&mut running.random, 20 * MICRO, 400 * MICRO);
                self.plot_goes_on(fault, nanos);
            }
            // What the new leader has learned is not chosen under its ballot for a while.
            Waits::Lead if running.random.chance(2, 3) => {
                let stuck = between(&mut running.random, 20 * MILLI, 800 * MILLI);
                let until = &mut self.nodes[other].disk.log_stuck_until;
                *until = (*until).max(self.now + stuck);
                self.trace.say(self.now, || format!("node {other}'s log stands still"));
            }
            Waits::Lead => {}
        }
    }

    /// Undoes everything.
    pub(super) fn end_plot(&mut self, fault: usize) {
        for node in &mut self.nodes {
            if node.disk.strike.is_some_and(|strike| strike.fault == fault) {
                node.disk.strike = None;
            }
        }
        let Some(at) = self.plots.iter().position(|running| running.fault == fault) else { return };
        let mut running = self.plots.swap_remove(at);
        self.plot_heals(&mut running);
        self.plot_raises(&mut running);
    }

    fn plot_goes_on(&mut self, fault: usize, nanos: u64) {
        self.queue.push(self.now + nanos, What::Plot { fault });
    }

    fn plot_cuts(&mut self, running: &mut Running, from: Place, to: Place, both: bool) {
        let ways = [(from, to), (to, from)];
        for (from, to) in ways.into_iter().take(1 + usize::from(both)) {
            if !running.cuts.contains(&(from, to)) {
                running.cuts.push((from, to));
                self.network.cut(from, to, true);
            }
        }
    }

    fn plot_heals(&mut self, running: &mut Running) {
        for (from, to) in running.cuts.drain(..) {
            self.network.cut(from, to, false);
        }
        self.network.resume_all(self.now, &mut self.queue);
    }

    fn plot_fells(&mut self, running: &mut Running, node: usize, how: Down) {
        self.trace.say(self.now, || format!("node {node} goes: {how:?}"));
        running.down.push(node);
        match how {
            Down::Power => self.cut_power(node),
            Down::Process if self.nodes[node].shard.is_some() => self.crash(node, how),
            Down::Process => {}
        }
    }

    fn plot_raises(&mut self, running: &mut Running) {
        for node in running.down.drain(..) {
            self.starts_again(node, true);
        }
    }

    /// By node: the highest ballot promised in the group.
    fn promises(&self, group: GroupId) -> Vec<Ballot> {
        let promised = |node: &Node| Some(figures_of(node, group)?.promised);
        self.nodes.iter().map(|node| promised(node).unwrap_or_default()).collect()
    }

    fn plot_wants_checkpoint(&mut self, number: usize) {
        if let Some(shard) = self.nodes[number].shard.as_mut() {
            shard.want_checkpoint();
            self.turn_soon(number);
        }
    }

    /// Power is lost so many operations of a checkpoint later.
    fn arm_disk(&mut self, running: &mut Running) {
        let random = &mut running.random;
        let superblocks = random.chance(1, 4);
        let most = if superblocks { 2 } else { [3, 8, 24][random.below(3)] };
        let left = between(random, 1, most);
        let done = random.chance(1, 2);
        let strike = Strike { fault: running.fault, left, superblocks, done };
        self.nodes[running.leader].disk.strike = Some(strike);
        self.plot_wants_checkpoint(running.leader);
    }

    /// A log stands still; what is chosen meanwhile, by other logs, goes into a checkpoint.
    fn stop_log(&mut self, running: &mut Running) {
        let (number, fault) = (running.leader, running.fault);
        let disk = &mut self.nodes[number].disk;
        disk.log_stuck_until = disk.log_stuck_until.max(self.now + 500 * MILLI);
        disk.strike = Some(Strike { fault, left: 1, superblocks: true, done: true });
        self.trace.say(self.now, || format!("node {number}'s log stands still"));
        self.plot_goes_on(fault, between(&mut running.random, 10 * MILLI, 200 * MILLI));
    }
}

/// What a node's member of the group is doing.
fn figures_of(node: &Node, group: GroupId) -> Option<Figures> {
    let replication = node.shard.as_ref()?.replication()?;
    replication.statuses().find(|status| status.group == group).map(|status| status.figures)
}
