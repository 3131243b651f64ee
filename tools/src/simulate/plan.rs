//! What goes wrong in a run, drawn from its seed before it begins.
//!
//! ```text
//!   seed ─► Plan: fault 0 at 7.1 s for 1.2 s, fault 1 at 7.9 s …      (drop any of them: the others
//!             │                                                        stay as they are)
//!             └► Schedule: begin 0, begin 1, end 0, …
//! ```
//!
//! Because the plan is drawn first, and from a generator of its own, a failing run can be tried
//! again without some of its faults: that is how a trace is made small. Faults may overlap. All of
//! them have ended [`HEALED_BEFORE_END_NANOS`] before the end of the run, and from then on clients
//! must succeed.
//!
//! What damages a disk's contents for good is drawn for one node of a run at most, and only where
//! other nodes hold the same data.

use forebay_storage::block::ShardFile;
use forebay_storage::sim_disk::SimRandom;

use super::between;

const SECOND: u64 = 1_000_000_000;
const MILLI: u64 = 1_000_000;

/// The first fault is no earlier: the cluster boots and the table is made before.
const FIRST_FAULT_NANOS: u64 = 3 * SECOND;
/// Everything is whole again so long before the clients stop.
pub(super) const HEALED_BEFORE_END_NANOS: u64 = 8 * SECOND;
/// The shortest run that has room for faults.
pub const NANOS_MIN: u64 = 20 * SECOND;
/// Faults of a run of sixty seconds at least.
pub const FAULTS_PER_MINUTE_MIN: u64 = 5;

/// A place on the network: a node by its number, or all clients together.
pub(super) type Place = usize;

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Power is lost, and with it any part of what was not flushed; it returns at the end.
    PowerCut {
        /// Whose.
        node: usize,
    },
    /// The process is killed and started again at the end.
    Kill {
        /// Whose.
        node: usize,
    },
    /// The process handles nothing (SIGSTOP); time goes on.
    Pause {
        /// Whose.
        node: usize,
        /// It is stopped in the middle of a turn, between a read and its reply.
        inside: bool,
    },
    /// Nothing passes in this direction.
    Cut {
        /// Place of the sender; the number after the last node stands for all clients.
        from: usize,
        /// Place of the receiver.
        to: usize,
    },
    /// Nothing passes between these two.
    CutBothWays {
        /// One place.
        a: usize,
        /// The other.
        b: usize,
    },
    /// Nothing passes to or from this node.
    Isolate {
        /// Which.
        node: usize,
    },
    /// Everything takes so much longer in this direction.
    SlowLink {
        /// Place of the sender.
        from: usize,
        /// Place of the receiver.
        to: usize,
        /// Added to each delivery.
        nanos: u64,
    },
    /// Every connection between these two breaks, with what is under way on it.
    Reset {
        /// One place.
        a: usize,
        /// The other.
        b: usize,
    },
    /// The clock runs at another rate.
    Drift {
        /// Whose.
        node: usize,
        /// Millionths faster.
        ppm: i64,
    },
    /// Every disk operation takes so many times as long.
    SlowDisk {
        /// Whose.
        node: usize,
        /// How many times.
        times: u64,
    },
    /// No disk operation ends.
    StuckDisk {
        /// Whose.
        node: usize,
    },
    /// The pages file cannot grow.
    FullDisk {
        /// Whose.
        node: usize,
    },
    /// The next flush fails, and what it should have covered is doomed.
    FailFlush {
        /// Whose.
        node: usize,
    },
    /// The next write to this file fails; any part of it may be there.
    FailWrite {
        /// Whose.
        node: usize,
        /// Which file.
        file: ShardFile,
    },
    /// Sectors cannot be read until the end, or until they are written again.
    BadSectors {
        /// Whose.
        node: usize,
        /// Which file.
        file: ShardFile,
        /// Where, in millionths of the file.
        at: u64,
        /// How many blocks.
        blocks: u64,
    },
    /// Damage: one bit at rest changes.
    FlipBit {
        /// Whose.
        node: usize,
        /// Which file.
        file: ShardFile,
        /// Where, in millionths of the file.
        at: u64,
        /// Which bit of the byte.
        bit: u8,
    },
    /// Damage: the next write to the pages reports success and lands nowhere.
    LoseWrite {
        /// Whose.
        node: usize,
    },
}

impl Fault {
    /// A short name, for figures.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Fault::PowerCut { .. } => "power cut",
            Fault::Kill { .. } => "kill",
            Fault::Pause { .. } => "pause",
            Fault::Cut { .. } => "one-way cut",
            Fault::CutBothWays { .. } => "cut",
            Fault::Isolate { .. } => "isolation",
            Fault::SlowLink { .. } => "slow link",
            Fault::Reset { .. } => "reset",
            Fault::Drift { .. } => "clock drift",
            Fault::SlowDisk { .. } => "slow disk",
            Fault::StuckDisk { .. } => "stuck disk",
            Fault::FullDisk { .. } => "full disk",
            Fault::FailFlush { .. } => "failed flush",
            Fault::FailWrite { .. } => "failed write",
            Fault::BadSectors { .. } => "bad sectors",
            Fault::FlipBit { .. } => "bit flip",
            Fault::LoseWrite { .. } => "lost write",
        }
    }
}

/// A fault and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When it begins, in nanoseconds of the run.
    pub at: u64,
    /// How long it lasts; what is over at once still has a length here.
    pub nanos: u64,
    /// What it is.
    pub fault: Fault,
}

/// What goes wrong in one run. See the module's docs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In the order of their beginnings.
    pub faults: Vec<Planned>,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn draw(seed: u64, nodes: usize, nanos: u64, damage: bool) -> Plan {
        assert!(nanos >= NANOS_MIN, "a run of {nanos} ns has no room for faults");
        let mut random = SimRandom::new(seed ^ 0x6661_756c_7473);
        let least = (FAULTS_PER_MINUTE_MIN * nanos).div_ceil(60 * SECOND);
        let count = least + between(&mut random, 0, 2 * least);
        let end = nanos - HEALED_BEFORE_END_NANOS;
        // One node's disk at most may lose what it holds.
        let frail = random.below(nodes);
        let damage = damage && nodes > 1 && random.chance(1, 3);
        let mut faults: Vec<Planned> = (0..count)
            .map(|_| {
                let at = between(&mut random, FIRST_FAULT_NANOS, end - SECOND / 2);
                let fault = draw(&mut random, nodes, damage.then_some(frail));
                let longest = match fault {
                    // The longest that a stopped machine's peers must live with.
                    Fault::Pause { .. } | Fault::StuckDisk { .. } => 4 * SECOND,
                    _ => 8 * SECOND,
                };
                let longest = longest.min(end - at);
                // Short ones as often as long ones: what matters here has lengths from 1 ms on.
                let scale = *pick(&mut random, &[20 * MILLI, 500 * MILLI, longest]);
                let nanos = between(&mut random, MILLI, scale.min(longest).max(2 * MILLI));
                Planned { at, nanos, fault }
            })
            .collect();
        faults.sort_by_key(|planned| planned.at);
        Plan { faults }
    }

    /// When the last fault has ended.
    #[must_use]
    pub fn healed_at(&self) -> u64 {
        self.faults.iter().map(|planned| planned.at + planned.nanos).max().unwrap_or(0)
    }
}

fn pick<'a, T>(random: &mut SimRandom, from: &'a [T]) -> &'a T {
    &from[random.below(from.len())]
}

/// Two different places.
fn two(random: &mut SimRandom, nodes: usize) -> (Place, Place) {
    let a = random.below(nodes + 1);
    let b = random.below(nodes);
    (a, if b >= a { b + 1 } else { b })
}

fn draw(random: &mut SimRandom, nodes: usize, frail: Option<usize>) -> Fault {
    let node = random.below(nodes);
    let (a, b) = two(random, nodes);
    let file = *pick(random, &[ShardFile::Log, ShardFile::Pages]);
    let at = between(random, 0, 999_999);
    if let Some(node) = frail.filter(|_| random.chance(1, 6)) {
        return match random.below(4) {
            0 => Fault::LoseWrite { node },
            _ => Fault::FlipBit { node, file, at, bit: random.below(8) as u8 },
        };
    }
    match random.below(26) {
        0..4 => Fault::PowerCut { node },
        4..7 => Fault::Kill { node },
        7..10 => Fault::Pause { node, inside: random.chance(1, 2) },
        10..12 => Fault::Cut { from: a, to: b },
        12 => Fault::CutBothWays { a, b },
        13..15 => Fault::Isolate { node },
        15..17 => Fault::SlowLink { from: a, to: b, nanos: between(random, MILLI, 300 * MILLI) },
        17..19 => Fault::Reset { a, b },
        // Against a peer at the other end of the range, still less than the bound of leases.
        19 => Fault::Drift { node, ppm: between(random, 0, 9_000) as i64 - 4_500 },
        20 => Fault::SlowDisk { node, times: *pick(random, &[5, 50, 300]) },
        21 => Fault::StuckDisk { node },
        22 => Fault::FullDisk { node },
        23 => Fault::FailFlush { node },
        24 => Fault::FailWrite { node, file },
        _ => Fault::BadSectors { node, file: ShardFile::Pages, at, blocks: between(random, 1, 40) },
    }
}

/// A fault begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    Begins,
    Ends,
}

/// Hands out a plan's beginnings and ends in order.
#[derive(Debug)]
pub(super) struct Schedule {
    steps: Vec<(u64, usize, Edge)>,
    next: usize,
}

impl Schedule {
    /// Of the faults of `plan` that `kept` names.
    pub(super) fn new(plan: &Plan, kept: impl Fn(usize) -> bool) -> Schedule {
        let mut steps = Vec::new();
        for (index, planned) in plan.faults.iter().enumerate().filter(|(index, _)| kept(*index)) {
            steps.push((planned.at, index, Edge::Begins));
            steps.push((planned.at + planned.nanos, index, Edge::Ends));
        }
        steps.sort_by_key(|(at, index, edge)| (*at, *index, *edge == Edge::Ends));
        Schedule { steps, next: 0 }
    }

    /// When the next step is due.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.steps.get(self.next).map(|(at, _, _)| *at)
    }

    /// The next step that is due.
    pub(super) fn take(&mut self, now: u64) -> Option<(usize, Edge)> {
        let (at, index, edge) = *self.steps.get(self.next)?;
        (at <= now).then(|| {
            self.next += 1;
            (index, edge)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_has_enough_faults_and_ends_in_time() {
        for seed in 0..2_000 {
            for (nodes, nanos) in [(1, 60 * SECOND), (3, 60 * SECOND), (3, NANOS_MIN)] {
                let plan = Plan::draw(seed, nodes, nanos, true);
                let minutes = nanos.div_ceil(60 * SECOND);
                let least = if nanos < 60 * SECOND { 1 } else { FAULTS_PER_MINUTE_MIN * minutes };
                assert!(plan.faults.len() as u64 >= least);
                assert!(plan.healed_at() <= nanos - HEALED_BEFORE_END_NANOS);
                assert_eq!(plan, Plan::draw(seed, nodes, nanos, true));
            }
        }
    }

    #[test]
    fn a_schedule_ends_what_it_begins_and_knows_only_what_is_kept() {
        let plan = Plan::draw(7, 3, 60 * SECOND, false);
        let mut schedule = Schedule::new(&plan, |index| index != 1);
        let (mut open, mut seen) = (Vec::new(), 0);
        while let Some(at) = schedule.next_at() {
            assert_eq!(schedule.take(at - 1), None);
            let (index, edge) = schedule.take(at).unwrap();
            assert_ne!(index, 1);
            match edge {
                Edge::Begins => open.push(index),
                Edge::Ends => open.retain(|other| *other != index),
            }
            seen += 1;
        }
        assert!(open.is_empty());
        assert_eq!(seen, 2 * (plan.faults.len() - 1));
    }
}
