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
//! other nodes hold the same data ([`super::Options::damage`]).
//!
//! How often each fault is drawn ([`DRAWN`]), in fifty-two, and its longest time:
//!
//! | fault | drawn | lasts | what the world does |
//! |---|---|---|---|
//! | power cut | 6 | 8 s | any part of what was not flushed is gone, torn at sectors; the clock starts anew |
//! | blackout | 2 | 8 s | the same, of all nodes at once; half the time after their disks stood still for up to 200 ms |
//! | kill | 4 | 8 s | writes in flight happened or not |
//! | pause | 5 | 4 s | nothing is handled; half of them stop between a client's read and its reply, often for about a lease |
//! | long pause | 1 | 12 s | the same, beyond every lease and deadline |
//! | one-way cut | 4 | 8 s | nothing passes in one direction |
//! | cut | 3 | 8 s | nor in the other: a partial partition |
//! | isolation | 3 | 8 s | nothing passes to or from a node |
//! | severing | 3 | 8 s | nor between it and other nodes, though its clients reach it |
//! | slow link | 3 | 8 s | up to 300 ms more in one direction |
//! | reset | 2 | | every connection between two breaks: what is under way is lost |
//! | flaky link | 2 | 8 s | connections between two break again and again, and messages with them |
//! | garbled bytes | 1 | | one bit of what arrives next is wrong |
//! | clock drift | 2 | 8 s | a clock's rate is wrong by up to 0.45 % |
//! | slow disk | 1 | 8 s | 5, 50 or 300 times as slow |
//! | stuck disk | 1 | 4 s | no operation ends |
//! | full disk | 1 | 8 s | the pages file cannot grow |
//! | failed flush | 1 | | `EIO`, and what it should have covered is doomed |
//! | failed write | 1 | | `EIO`, and any part of it may be there |
//! | bad sectors | 1 | 8 s | up to 40 blocks of the pages cannot be read until written again |
//! | plot | 16 | 3.5 s | it waits for the moment that a Rule is about ([`super::plots`]) |
//! | absence | 3 | 25 s | a kill, power cut, isolation or severing that lasts until its node counts as dead, and beyond what small logs reach |
//! | data deleted | 2 | | as soon as the rules allow it ([`super::membership`]): the node starts with nothing, as another one |
//!
//! Besides, up to four times in a run of several nodes, an operator moves the leads of all groups.
//! In a cluster of four nodes one or two more of the last two are drawn: its dead members are replaced.
//!
//! Messages are duplicated and reordered by what links do about lost ones: they travel in streams,
//! and a stream only ends. With damage, one fault in four is instead a flipped
//! bit or a bad sector (three fifths), a write that is lost or one that lands elsewhere, on the frail
//! disk; in the log they hit what is durable and still needed.
//!
//! A plan of gray failures ([`super::Options::gray`]) breaks one link at a time, in one direction or
//! both, slowly or again and again, for less than the time after which a leader hands over because of it,
//! and nothing else: no leader may change because of it.

use forebay_net::replication::MEMBERS_WANTED;
use forebay_storage::block::ShardFile;
use forebay_storage::sim_disk::SimRandom;

use super::between;
use super::plots::{PLOT_NANOS, Plot};

const SECOND: u64 = 1_000_000_000;
const MILLI: u64 = 1_000_000;

/// The first fault is no earlier: the cluster boots and the table is made before.
const FIRST_FAULT_NANOS: u64 = 3 * SECOND;
/// Everything is whole again so long before the clients stop.
pub(super) const HEALED_BEFORE_END_NANOS: u64 = 8 * SECOND;
/// The shortest run that has room for faults.
pub const NANOS_MIN: u64 = 20 * SECOND;
/// A link is broken for so long at most in a run of gray failures: a leader that alone misses a member for
/// five seconds hands over, and a slow link may take two of them to be heard again.
const GRAY_NANOS_MAX: u64 = 2_500 * MILLI;
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
    /// The same of all nodes at once, after their disks have stood still for so long.
    Blackout {
        /// Nanoseconds from the beginning to the loss of power.
        stuck: u64,
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
        /// Drawn to last beyond leases and deadlines.
        long: bool,
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
    /// Connections between these two break again and again.
    Flaky {
        /// One place.
        a: usize,
        /// The other.
        b: usize,
        /// One delivery in so many.
        one_in: usize,
    },
    /// One bit of what arrives next in this direction is wrong.
    Garble {
        /// Place of the sender.
        from: usize,
        /// The receiver, a node.
        to: usize,
    },
    /// Nothing passes between this node and the other ones; clients reach it.
    Sever {
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
    /// It follows what the cluster does: see [`Plot`].
    Plot {
        /// Which.
        plot: Plot,
        /// Decides what is left open.
        roll: u64,
    },
    /// The node's data are deleted, as soon as the rules allow that, and it starts again with nothing.
    DeleteData {
        /// Whose.
        node: usize,
    },
    /// An operator has every group's leader hand over.
    HandOver {
        /// Decides to whom.
        roll: u64,
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
    /// Damage: the next write to the pages reports success and lands elsewhere.
    MisdirectWrite {
        /// Whose.
        node: usize,
        /// Where it lands, in millionths of the file.
        at: u64,
    },
    /// Damage: the next write to the pages reports success and lands nowhere.
    LoseWrite {
        /// Whose.
        node: usize,
    },
}

impl Fault {
    /// What it does, in words; a cluster of so many nodes.
    #[must_use]
    pub fn describe(&self, nodes: usize) -> String {
        let place = |place: Place| match place {
            place if place == nodes => "the clients".to_owned(),
            node => format!("node {node}"),
        };
        let of = |file: ShardFile| match file {
            ShardFile::Log => "log",
            ShardFile::Pages => "pages",
        };
        match *self {
            Fault::PowerCut { node } => format!("node {node} loses power"),
            Fault::Blackout { stuck } => format!(
                "all disks stand still, and {:.1} ms later all nodes lose power",
                stuck as f64 / 1e6
            ),
            Fault::Sever { node } => format!("nothing passes between node {node} and other nodes"),
            Fault::Kill { node } => format!("node {node}'s process is killed"),
            Fault::Pause { node, inside: false, .. } => format!("node {node} is stopped (SIGSTOP)"),
            Fault::Pause { node, inside: true, .. } => {
                format!("node {node} is stopped in the middle of its next turn (SIGSTOP)")
            }
            Fault::Cut { from, to } => {
                format!("nothing passes from {} to {}", place(from), place(to))
            }
            Fault::CutBothWays { a, b } => {
                format!("nothing passes between {} and {}", place(a), place(b))
            }
            Fault::Isolate { node } => format!("nothing passes to or from node {node}"),
            Fault::Flaky { a, b, one_in } => format!(
                "one delivery in {one_in} between {} and {} breaks its connection",
                place(a),
                place(b)
            ),
            Fault::Garble { from, to } => format!(
                "the next bytes from {} to {} arrive with a wrong bit",
                place(from),
                place(to)
            ),
            Fault::SlowLink { from, to, nanos } => format!(
                "everything from {} to {} takes {:.1} ms longer",
                place(from),
                place(to),
                nanos as f64 / 1e6
            ),
            Fault::Reset { a, b } => {
                format!("every connection between {} and {} breaks", place(a), place(b))
            }
            Fault::Drift { node, ppm } => {
                format!("node {node}'s clock gains {ppm} microseconds a second")
            }
            Fault::SlowDisk { node, times } => {
                format!("node {node}'s disk is {times} times slower")
            }
            Fault::StuckDisk { node } => format!("no operation ends on node {node}'s disk"),
            Fault::FullDisk { node } => format!("node {node}'s pages file cannot grow"),
            Fault::FailFlush { node } => {
                format!("the next flush of node {node}'s pages fails with EIO")
            }
            Fault::FailWrite { node, file } => {
                format!("the next write to node {node}'s {} fails with EIO", of(file))
            }
            Fault::BadSectors { node, file, blocks, .. } => {
                format!("{blocks} blocks of node {node}'s {} cannot be read", of(file))
            }
            Fault::Plot { plot, .. } => format!("{plot:?}: {}", plot.describe()),
            Fault::DeleteData { node } => format!("node {node} is to lose its data"),
            Fault::HandOver { .. } => "every leader is to hand over".to_owned(),
            Fault::FlipBit { node, file, bit, .. } => {
                format!("bit {bit} of a byte of node {node}'s {} changes at rest", of(file))
            }
            Fault::MisdirectWrite { node, .. } => {
                format!("the next write to node {node}'s pages lands elsewhere, and says nothing")
            }
            Fault::LoseWrite { node } => {
                format!("the next write to node {node}'s pages is lost, and says nothing")
            }
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
        let count = least + between(&mut random, 0, 3 * least);
        let end = nanos - HEALED_BEFORE_END_NANOS;
        // One node's disk at most may lose what it holds.
        let frail = random.below(nodes);
        let damage = damage && nodes > 1;
        let mut faults: Vec<Planned> = (0..count)
            .map(|_| {
                let at = between(&mut random, FIRST_FAULT_NANOS, end - SECOND / 2);
                let (fault, away) = draw(&mut random, nodes, damage.then_some(frail));
                let (least, longest) = match fault {
                    _ if away => (6 * SECOND, 25 * SECOND),
                    Fault::Pause { long: true, .. } => (4 * SECOND, 12 * SECOND),
                    Fault::Pause { .. } | Fault::StuckDisk { .. } => (MILLI, 4 * SECOND),
                    Fault::Blackout { .. } => (300 * MILLI, 8 * SECOND),
                    Fault::Plot { .. } => PLOT_NANOS,
                    Fault::DeleteData { .. } => (4 * SECOND, 10 * SECOND),
                    _ => (MILLI, 8 * SECOND),
                };
                let longest = longest.min(end - at);
                if away || matches!(fault, Fault::Plot { .. }) {
                    let nanos = between(&mut random, least.min(longest), longest);
                    return Planned { at, nanos, fault };
                }
                // Short ones as often as long ones: what matters here has lengths from 1 ms on.
                let scale = *pick(&mut random, &[20 * MILLI, 500 * MILLI, longest]);
                // A stop in the middle of a turn matters if it outlasts a lease, but no client.
                if matches!(fault, Fault::Pause { inside: true, long: false, .. })
                    && random.chance(1, 2)
                {
                    let nanos = between(&mut random, 600 * MILLI, 1_400 * MILLI);
                    return Planned { at, nanos: nanos.min(longest), fault };
                }
                let most = scale.min(longest).max(least.min(longest)).max(2 * MILLI);
                let nanos = between(&mut random, least.min(most), most);
                Planned { at, nanos, fault }
            })
            .collect();
        if nodes > MEMBERS_WANTED {
            for _ in 0..between(&mut random, 1, 2) {
                let at = between(&mut random, FIRST_FAULT_NANOS, end - SECOND / 2);
                let node = if damage { frail } else { random.below(nodes) };
                let fault = match random.below(3) {
                    0 => Fault::DeleteData { node },
                    1 => Fault::Sever { node },
                    _ => Fault::Kill { node },
                };
                let nanos = between(&mut random, 6 * SECOND, 25 * SECOND).min(end - at);
                faults.push(Planned { at, nanos, fault });
            }
        }
        if nodes > 1 {
            for _ in 0..between(&mut random, 0, 4) {
                let at = between(&mut random, FIRST_FAULT_NANOS, end - SECOND / 2);
                let fault = Fault::HandOver { roll: random.bits() };
                faults.push(Planned { at, nanos: MILLI, fault });
            }
        }
        faults.sort_by_key(|planned| planned.at);
        Plan { faults }
    }

    /// One broken link at a time, and time to recover from it.
    #[must_use]
    pub fn draw_gray(seed: u64, nodes: usize, nanos: u64) -> Plan {
        assert!(nodes >= 3 && nanos >= NANOS_MIN);
        let mut random = SimRandom::new(seed ^ 0x67_7261_7973);
        let (mut at, end) = (FIRST_FAULT_NANOS, nanos - HEALED_BEFORE_END_NANOS);
        let mut faults = Vec::new();
        loop {
            at += between(&mut random, SECOND, 3 * SECOND);
            let nanos = between(&mut random, 5 * MILLI, GRAY_NANOS_MAX);
            if at + nanos >= end {
                return Plan { faults };
            }
            let (a, b) = two(&mut random, nodes - 1);
            let fault = match random.below(8) {
                0..3 => Fault::Cut { from: a, to: b },
                3..5 => Fault::CutBothWays { a, b },
                5 => Fault::SlowLink {
                    from: a,
                    to: b,
                    nanos: between(&mut random, MILLI, 2 * SECOND),
                },
                6 => Fault::Flaky { a, b, one_in: 1 + random.below(20) },
                _ => Fault::Reset { a, b },
            };
            faults.push(Planned { at, nanos, fault });
            at += nanos;
        }
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

/// Two different places: numbers up to `last`.
fn two(random: &mut SimRandom, last: Place) -> (Place, Place) {
    let a = random.below(last + 1);
    let b = random.below(last);
    (a, if b >= a { b + 1 } else { b })
}

/// Kinds of faults, and how often each is drawn.
const DRAWN: [(u32, Kind); 23] = [
    (6, Kind::PowerCut),
    (2, Kind::Blackout),
    (4, Kind::Kill),
    (5, Kind::Pause),
    (1, Kind::LongPause),
    (4, Kind::Cut),
    (3, Kind::CutBothWays),
    (3, Kind::Isolate),
    (3, Kind::Sever),
    (3, Kind::SlowLink),
    (2, Kind::Reset),
    (2, Kind::Flaky),
    (1, Kind::Garble),
    (2, Kind::Drift),
    (1, Kind::SlowDisk),
    (1, Kind::StuckDisk),
    (1, Kind::FullDisk),
    (1, Kind::FailFlush),
    (1, Kind::FailWrite),
    (1, Kind::BadSectors),
    (16, Kind::Plot),
    (3, Kind::Away),
    (2, Kind::DeleteData),
];

#[derive(Clone, Copy, Debug)]
enum Kind {
    PowerCut,
    Blackout,
    Kill,
    Pause,
    LongPause,
    Cut,
    CutBothWays,
    Isolate,
    Sever,
    SlowLink,
    Reset,
    Flaky,
    Garble,
    Drift,
    SlowDisk,
    StuckDisk,
    FullDisk,
    FailFlush,
    FailWrite,
    BadSectors,
    Plot,
    Away,
    DeleteData,
}

fn draw_kind(random: &mut SimRandom) -> Kind {
    let all: u32 = DRAWN.iter().map(|(times, _)| times).sum();
    let mut left = random.below(all as usize) as u32;
    for (times, kind) in DRAWN {
        match left.checked_sub(times) {
            Some(rest) => left = rest,
            None => return kind,
        }
    }
    unreachable!("less than all")
}

/// A fault, and whether it is to last until its node counts as dead, and longer.
fn draw(random: &mut SimRandom, nodes: usize, frail: Option<usize>) -> (Fault, bool) {
    let node = random.below(nodes);
    let (a, b) = two(random, nodes);
    let file = *pick(random, &[ShardFile::Log, ShardFile::Pages]);
    let at = between(random, 0, 999_999);
    if let Some(node) = frail.filter(|_| random.chance(1, 4)) {
        let fault = match random.below(5) {
            0 => Fault::LoseWrite { node },
            1 => Fault::MisdirectWrite { node, at },
            2 if file == ShardFile::Log => {
                Fault::BadSectors { node, file, at, blocks: between(random, 1, 8) }
            }
            _ => Fault::FlipBit { node, file, at, bit: random.below(8) as u8 },
        };
        return (fault, false);
    }
    let inside = random.chance(1, 2);
    let kind = draw_kind(random);
    let fault = match kind {
        Kind::PowerCut => Fault::PowerCut { node },
        Kind::Blackout => {
            Fault::Blackout { stuck: between(random, 0, 1) * between(random, 0, 200 * MILLI) }
        }
        Kind::Plot => Fault::Plot { plot: *pick(random, &Plot::ALL), roll: random.bits() },
        Kind::Sever => Fault::Sever { node },
        Kind::Kill => Fault::Kill { node },
        Kind::Pause => Fault::Pause { node, inside, long: false },
        Kind::LongPause => Fault::Pause { node, inside, long: true },
        Kind::Cut => Fault::Cut { from: a, to: b },
        Kind::CutBothWays => Fault::CutBothWays { a, b },
        Kind::Isolate => Fault::Isolate { node },
        Kind::SlowLink => {
            Fault::SlowLink { from: a, to: b, nanos: between(random, MILLI, 300 * MILLI) }
        }
        Kind::Reset => Fault::Reset { a, b },
        Kind::Flaky => Fault::Flaky { a, b, one_in: 1 + random.below(200) },
        Kind::Garble if nodes > 1 => {
            let (from, to) = two(random, nodes - 1);
            Fault::Garble { from, to }
        }
        Kind::Garble => Fault::Reset { a, b },
        // Against a peer at the other end of the range, still less than the bound of leases.
        Kind::Drift => Fault::Drift { node, ppm: between(random, 0, 9_000) as i64 - 4_500 },
        Kind::SlowDisk => Fault::SlowDisk { node, times: *pick(random, &[5, 50, 300]) },
        Kind::StuckDisk => Fault::StuckDisk { node },
        Kind::FullDisk => Fault::FullDisk { node },
        Kind::FailFlush => Fault::FailFlush { node },
        Kind::FailWrite => Fault::FailWrite { node, file },
        Kind::BadSectors => {
            Fault::BadSectors { node, file: ShardFile::Pages, at, blocks: between(random, 1, 40) }
        }
        Kind::Away | Kind::DeleteData if nodes == 1 => Fault::Kill { node },
        Kind::Away => match random.below(4) {
            0 => Fault::Kill { node },
            1 => Fault::PowerCut { node },
            2 => Fault::Isolate { node },
            _ => Fault::Sever { node },
        },
        // Where a disk loses something by damage, no other one may.
        Kind::DeleteData => Fault::DeleteData { node: frail.unwrap_or(node) },
    };
    (fault, matches!(kind, Kind::Away) && nodes > 1)
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
            for (nodes, nanos) in
                [(1, 60 * SECOND), (3, 60 * SECOND), (3, NANOS_MIN), (4, NANOS_MIN)]
            {
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
