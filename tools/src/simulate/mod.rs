//! Deterministic simulation: the production state machines on a simulated disk, network and clock,
//! on one thread, from one seed.
//!
//! ```text
//!   seed ─► plan of faults ─► World ─► nodes (forebay_net's shard over forebay_storage's store)
//!                               │       clients (real frames)
//!                               └─► checkers: an answer that no order explains, a lost write,
//!                                   replicas that differ, a cluster that does not recover
//! ```
//!
//! FoundationDB's simulator (Zhou et al., "FoundationDB: A Distributed Unbundled Transactional Key
//! Value Store", SIGMOD 2021, section 4) and TigerBeetle's VOPR are the models: everything that
//! may go wrong does, all at once and much faster than in life, and what goes wrong can be seen
//! again, because the seed alone decides it. One run is a life of a minute: clients work on a few
//! hot keys and a ledger while faults come and go; then everything heals, and within seconds
//! clients must succeed again; in the end every key is read once more.
//!
//! | file | idea |
//! |---|---|
//! | `plan`, `faults` | what goes wrong, drawn before the run; how it is done |
//! | `plots` | faults that wait for the moment that a Rule is about |
//! | `world`, `connections`, `queue` | events by time |
//! | `node`, `disk`, `clock` | a production shard and what it stands on |
//! | `network` | connections that carry bytes late, in pieces, or not at all |
//! | `client`, `workload`, `items` | what is asked, in real frames |
//! | `history`, `linearizability` | answers per key, and whether an order explains them |
//! | `ledger` | acknowledged writes stay |
//! | `staleness` | eventual reads are as fresh as they say |
//! | `membership` | data that are deleted, nodes taken in again, groups that become whole |
//! | `agreement` | the same entry in each slot, and at the same slot the same content |
//! | `repair` | damage is made good, and who ended with a log or data never speaks again |
//! | `leases` | one leaseholder at a time; no leader changes without need |
//! | `minimise`, `trace` | from a failing run to a small one |
//!
//! What must not be, and who looks:
//!
//! | property | looked at | by |
//! |---|---|---|
//! | strong reads and conditional writes are linearizable, key by key | in the end, all answers | `linearizability` |
//! | an acknowledged write stays; a refused one never shows | each answer, and every key read in the end | `ledger` |
//! | an item is whole, and its key's | each answer | `items` |
//! | an eventual read holds what was acknowledged before its reported age, within 100 ms; older than asked for, it is refused | in the end, all answers | `staleness` |
//! | two members never hold different chosen entries in one slot | each entry that is applied, after restarts too | `agreement` |
//! | replicas at the same slot have the same content digest | each checkpoint | `agreement` |
//! | a member takes back no checkpoint | each checkpoint | `agreement` |
//! | no two members hold a lease for a group at one moment | each beginning of a lead, and five times a second | `leases` |
//! | no strong read is answered without the lease | each turn that was stopped in its middle | `leases` |
//! | a disk without damage holds the pages that its checkpoints name, and its log what they contain | each page read; each start | `world` |
//! | one broken link changes no leader while others hear it | runs with `--gray` | `leases` |
//! | reads and writes succeed within 5 s of the last fault's end | once | `world` |
//! | every group then has three storage replicas with the same checkpoint, and nobody keeps members that no group lists, within 40 s of the last write | once | `membership` |
//! | 10 s after the last fault, and after every later find of damage, each group has three storage replicas, no state is damaged or lost, and all damaged pages are replaced | from then on; once more after a restart of the damaged node | `repair` |
//! | a member whose log or data were lost never speaks again | five times a second | `repair` |
//! | a node starts again whatever happened to it; time goes on | always | `world` |
//!
//! `forebay simulate --seeds 1000` runs seeds on one thread, `--jobs 2` on two; a seed of a minute
//! has at least five faults (twelve on average), a checkpoint of every node every ten seconds or sooner,
//! and more than a hundred client operations a simulated second.
//! `cargo test -p forebay-tools --test planted -- --nocapture` plants bugs and says which seed finds
//! each.
//!
//! What limits its speed, measured (`perf record`; `valgrind --tool=cachegrind` with 32 KiB and 1 MiB of
//! cache): code more than data. A turn of a shard runs through seven hundred cache lines of instructions
//! that the first level has lost since the last one, a thousand turns a simulated second. Of the time the
//! simulated disk takes 15 %, checkpoints 8, recoveries 6, checksums 6, the allocator 7 (others were no
//! faster). Optimising for size (`opt-level = "s"`) costs a quarter of the speed, level 2 nothing. The
//! worlds work in a few megabytes: where the neighbours of a shared machine keep those out of its
//! last-level cache (145 ns a read, not 16), the same seeds take half as long again.
//!
//! What is not simulated: the ring and the kernel (tests of the ring and kills of real processes
//! cover those), several shards of one node, and the maintenance lane.

mod agreement;
mod client;
mod clock;
mod connections;
mod disk;
mod faults;
mod history;
mod items;
mod leases;
mod ledger;
mod linearizability;
mod membership;
mod minimise;
mod network;
mod node;
mod plan;
mod plots;
mod queue;
mod repair;
mod staleness;
mod trace;
mod workload;
mod world;

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use forebay_storage::notice;
use forebay_storage::sim_disk::SimRandom;

pub use minimise::{Minimised, minimise};
pub use plan::{FAULTS_PER_MINUTE_MIN, Fault, NANOS_MIN, Plan, Planned};
pub use plots::Plot;
pub use workload::Operations;
use world::World;

/// A bug on purpose: the checkers must find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Disks report writes and flushes as durable that are not, so a node acknowledges before
    /// durability.
    LyingDisk,
    /// What is around the protocol has this one. Only in builds with the feature `planted-bugs`.
    #[cfg(feature = "planted-bugs")]
    Flaw(forebay_core::planted::Flaw),
    /// The protocol has this one. Only in builds with the feature `planted-bugs`.
    #[cfg(feature = "planted-bugs")]
    Protocol(forebay_core::paxos::Bug),
}

impl Planted {
    /// Every bug that there is. The protocol has a simulation and models of its own as well.
    #[cfg(feature = "planted-bugs")]
    pub fn all() -> impl Iterator<Item = Planted> {
        use forebay_core::paxos::Bug;
        use forebay_core::planted::Flaw;
        let around = Flaw::ALL.into_iter().map(Planted::Flaw);
        let all = around.chain(Bug::ALL.into_iter().map(Planted::Protocol));
        std::iter::once(Planted::LyingDisk).chain(all)
    }

    /// The bug of this name.
    ///
    /// # Errors
    /// There is none; the names that there are.
    #[cfg(feature = "planted-bugs")]
    pub fn by_name(name: &str) -> Result<Planted, String> {
        let names = || Planted::all().map(Planted::name).collect::<Vec<_>>().join(", ");
        let found = Planted::all().find(|planted| planted.name() == name);
        found.ok_or_else(|| format!("no such bug; there are {}", names()))
    }

    /// Its name.
    #[cfg(feature = "planted-bugs")]
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Planted::LyingDisk => "LyingDisk".to_owned(),
            Planted::Flaw(flaw) => format!("{flaw:?}"),
            Planted::Protocol(bug) => format!("{bug:?}"),
        }
    }
}

/// Everything that runs on this thread from now on has this bug, or none.
#[cfg(feature = "planted-bugs")]
fn plant(planted: Option<Planted>) {
    use forebay_core::planted;
    let (mut flaw, mut bug) = (None, None);
    match planted {
        Some(Planted::Flaw(planted)) => flaw = Some(planted),
        Some(Planted::Protocol(planted)) => bug = Some(planted),
        Some(Planted::LyingDisk) | None => {}
    }
    planted::plant(flaw);
    planted::plant_in_protocol(bug);
}

/// The disk's bug is the only one in this build, and it is planted there.
#[cfg(not(feature = "planted-bugs"))]
fn plant(_: Option<Planted>) {}

/// One run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// How long the clients work.
    pub nanos: u64,
    /// The faults of the plan to keep, by number; None: all of them.
    pub keep: Option<Vec<usize>>,
    /// Damage one node's disk, too, in some runs.
    pub damage: bool,
    /// Nothing goes wrong but one link at a time, and no leader may change.
    pub gray: bool,
    /// For tests of the checkers.
    pub planted: Option<Planted>,
    /// Say what happened.
    pub trace: bool,
}

impl Options {
    /// A run of sixty seconds.
    #[must_use]
    pub fn new(seed: u64, nodes: usize) -> Options {
        Options {
            seed,
            nodes,
            nanos: 60_000_000_000,
            keep: None,
            damage: false,
            gray: false,
            planted: None,
            trace: false,
        }
    }

    /// The plan that the run follows.
    #[must_use]
    pub fn plan(&self) -> Plan {
        if self.gray {
            Plan::draw_gray(self.seed, self.nodes, self.nanos)
        } else {
            Plan::draw(self.seed, self.nodes, self.nanos, self.damage)
        }
    }
}

/// What kind of thing must not be. A smaller run must fail in the same way to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// An assertion of the code itself.
    Panic,
    /// An answer that is wrong on its face, or a write of the ledger that is gone.
    Answer,
    /// Answers that no order of the operations explains.
    Linearizability,
    /// An eventual read that was older than it said, or than it was asked to be.
    Staleness,
    /// Replicas that differ, or a node that takes back what it had.
    Agreement,
    /// Two members of a group hold its lease at one moment.
    Lease,
    /// A leader changed although every member heard it, by itself or through another.
    Election,
    /// Clients do not succeed although nothing is wrong any more.
    Liveness,
    /// A node that does not start, or stops.
    Start,
    /// A disk without damage does not hold what its node believes to be there.
    Disk,
    /// Time does not go on.
    Standstill,
}

/// The first thing that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its kind.
    pub kind: FailureKind,
    /// When, in nanoseconds of the run.
    pub at_nanos: u64,
    /// In words.
    pub message: String,
}

/// A run in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Time that passed in it.
    pub simulated_nanos: u64,
    /// Events handled.
    pub events: u64,
    /// Turns of all nodes.
    pub turns: u64,
    /// Faults that began.
    pub faults: u64,
    /// Processes that ended.
    pub crashes: u64,
    /// Checkpoints of all nodes.
    pub checkpoints: u64,
    /// Digests of the same slot that two nodes had.
    pub digests_compared: u64,
    /// Slots that a second node, or a second start of one, had the same entry in.
    pub entries_compared: u64,
    /// Changes of groups' members that a leader told of.
    pub changes: u64,
    /// Snapshots that were installed.
    pub snapshots: u64,
    /// Nodes whose data were deleted.
    pub deletions: u64,
    /// Nodes that began again with nothing, because their disk was damaged.
    pub given_up: u64,
    /// Nodes that were taken into the cluster after that.
    pub taken_in: u64,
    /// Faults that changed what a disk holds.
    pub damages: u64,
    /// Damaged pages that were found while the nodes of the end ran.
    pub pages_damaged: u64,
    /// Logs that a node gave up, and with it its members.
    pub logs_lost: u64,
    /// Hand-overs that an operator began.
    pub hand_overs: u64,
    /// Times that a member began to lead and serve.
    pub elections: u64,
    /// What clients did.
    pub operations: Operations,
    /// Writes of the ledger that were acknowledged.
    pub acknowledged_entries: u64,
    /// Answers to eventual reads that were compared with what had been acknowledged.
    pub ages_checked: u64,
    /// Bytes that arrived.
    pub network_bytes: u64,
    /// Registers whose history has too many explanations to look at.
    pub undecided_keys: u64,
}

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// In numbers.
    pub stats: Stats,
    /// What must not be, if anything.
    pub failure: Option<Failure>,
    /// What happened, if that was asked for.
    pub trace: Vec<String>,
}

thread_local! {
    /// Where the thread's last panic came from, while a run is under way on it.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static RUNNING: RefCell<bool> = const { RefCell::new(false) };
}

/// Panics of a run are results: they are kept, not printed.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if RUNNING.with(|running| *running.borrow()) {
                PANIC.with(|last| *last.borrow_mut() = Some(info.to_string()));
            } else {
                before(info);
            }
        }));
    });
}

/// Runs one seed. The same options give the same outcome.
///
/// # Panics
/// If the run is shorter than [`NANOS_MIN`], or of no nodes.
#[must_use]
pub fn run(options: &Options) -> Outcome {
    assert!(options.nodes > 0 && options.nanos >= NANOS_MIN);
    catch_panics();
    RUNNING.with(|running| *running.borrow_mut() = true);
    notice::overheard();
    plant(options.planted);
    let mut world = World::new(options);
    let caught = panic::catch_unwind(AssertUnwindSafe(|| world.run()));
    plant(None);
    notice::printed_again();
    RUNNING.with(|running| *running.borrow_mut() = false);
    if caught.is_err() {
        let message = PANIC.with(|last| last.borrow_mut().take()).unwrap_or_default();
        world.fail(FailureKind::Panic, message);
    }
    Outcome { stats: world.stats, failure: world.failure.take(), trace: world.trace.take() }
}

/// A number from `least` to `most`.
fn between(random: &mut SimRandom, least: u64, most: u64) -> u64 {
    debug_assert!(least <= most);
    least + random.bits() % (most - least + 1)
}

/// The seed of one part of a run, so that parts draw independently.
fn mixed(seed: u64, part: u64) -> u64 {
    SimRandom::new(seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15)).bits()
}
