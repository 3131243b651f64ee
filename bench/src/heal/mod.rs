//! `heal`: what it takes to replace a member whose node is gone for good, and what that costs others.
//!
//! ```text
//!   four node processes, one group of N GB on three of them
//!        ▲ open loop of Gets and Puts over all of it         ▲ a few Puts with a ledger
//!        │
//!   … warm-up … │ before │ SIGKILL ─ dead ─► log replica on the fourth ─ copying ─► full copy │ after │
//!                        └─ detected ─┘        aim: < 2 s after that       │
//!                          p99.9 while healing (dead and copying) ≤ 2 × p99.9 before
//! ```
//!
//! Latencies count from the intended start, as in every open loop of this tool. The node that dies holds
//! a follower unless told otherwise: with the leader it would be its failover that shows, which
//! `failover` measures by itself. With a follower gone no operation may fail.
//!
//! What happens is asked of the nodes as an operator would, `forebay admin groups`, every 50 ms until
//! the log replica is in place and every 250 ms from then on; so times are late by so much at most. A
//! node counts as detected when the group's leader or the system group's shows the first step of its
//! replacement. The ledger's few Puts go to the same group through the native client, whose errors are
//! what an application would have seen.

mod foreground;
mod report;
mod steps;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_net::client::{Client, ClientConfig, Table};

use crate::error::BenchError;
use crate::failover::load::Load;
use crate::failover::observe;
use crate::fleet::cluster::{Cluster, Shape};
use crate::fleet::process::end_all_on_interrupt;
use crate::fleet::{Place, share_cores};
use crate::loading::{self, LOAD_INTERVAL_MILLIS, Order};
use crate::report::json::{write_json, write_text};
use crate::sys::{self, Hardware};
use crate::target::forebay::Forebay;
use crate::target::{CONNECT_TIMEOUT, Setup, TargetUrl};
use crate::workload::{Distribution, Sizes};
use foreground::{Foreground, Window, plan};
use report::{LedgerResult, Results, Settings};
use steps::Steps;

/// The table's name, and the cluster's in messages.
const TABLE: &str = "heal";
const NAME: &str = "forebay-heal";
/// Bytes of a key; what a record takes beside key and value is small.
const KEY_BYTES: usize = 24;
/// Of the load.
const LOAD_CONNECTIONS: u32 = 16;
const LOAD_DEPTH: u32 = 16;
/// Of the foreground.
const CONNECTIONS: u32 = 16;
/// Of a load without a terminal, a line so often.
const PROGRESS: Duration = Duration::from_secs(10);
/// How long members may take to hold the same after the load.
const SETTLE_MAX: Duration = Duration::from_secs(300);
/// How long a leader may take to be found.
const LEADER_MAX: Duration = Duration::from_secs(30);
/// Keys of the ledger.
const LEDGER_KEYS: u32 = 512;
/// Of values in the ledger.
const LEDGER_VALUE_BYTES: u32 = 100;
/// Puts a second with a ledger.
const LEDGER_RATE: u64 = 100;
/// Foreground before the first window.
const WARM_UP: Duration = Duration::from_secs(5);

/// Whose node dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Victim {
    /// A member that follows
    Follower,
    /// The member that leads: its failover is part of the figures
    Leader,
}

/// `forebay-bench heal`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HealArgs {
    /// Keys and values in the group, in 10^9 bytes
    #[arg(long, value_name = "GB", default_value_t = 2.0, value_parser = gigabytes)]
    pub(crate) gigabytes: f64,
    /// Length of values
    #[arg(long, value_name = "BYTES", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) value_bytes: u64,
    /// Foreground: operations a second, begun at fixed times
    #[arg(long, value_name = "OPS_PER_SECOND", default_value_t = 2000,
          value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    pub(crate) rate: u64,
    /// Of them, so many of a hundred are Puts, the others strong Gets
    #[arg(long, value_name = "PERCENT", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) puts: u32,
    /// Which records they choose: uniform, zipfian, hotspot:KEYS,OPS, …
    #[arg(long, default_value = "zipfian")]
    pub(crate) distribution: Distribution,
    /// Seconds of foreground before the node dies
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) before: u64,
    /// Seconds of foreground after the group is whole again
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) after: u64,
    /// Whose node dies
    #[arg(long, value_enum, default_value = "follower")]
    pub(crate) victim: Victim,
    /// Nodes
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(4..=16))]
    pub(crate) nodes: u32,
    /// The nodes' snapshot_bytes_per_second
    #[arg(long, value_name = "MIB_PER_SECOND", default_value_t = 64,
          value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(crate) snapshot_mib: u64,
    /// Memory of each node
    #[arg(long, value_name = "MIB", default_value_t = 512,
          value_parser = clap::value_parser!(u64).range(32..=1 << 20))]
    pub(crate) memory_mib: u64,
    /// Core of the nodes [default: any]
    #[arg(long, value_name = "CORE")]
    pub(crate) server_core: Option<usize>,
    /// Core of the foreground's generator [default: any]
    #[arg(long, value_name = "CORE")]
    pub(crate) client_core: Option<usize>,
    /// Directory for the nodes' data, some five times --gigabytes in all; what is made there is removed
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) data_dir: PathBuf,
    /// Write heal.md and heal.json into DIR
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
}

fn gigabytes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(gigabytes) if (0.001..=1000.0).contains(&gigabytes) => Ok(gigabytes),
        _ => Err("expected gigabytes, 0.001 to 1000".to_owned()),
    }
}

impl HealArgs {
    fn records(&self) -> u64 {
        let each = self.value_bytes + 2 * KEY_BYTES as u64;
        ((self.gigabytes * 1e9) as u64 / each).max(1)
    }

    /// What a copy may take before this gives up: several times what its rate says.
    fn copy_max(&self) -> Duration {
        let bytes_per_second = (self.snapshot_mib << 20) as f64;
        Duration::from_secs_f64(4.0 * self.gigabytes * 1e9 / bytes_per_second + 240.0)
    }

    fn settings(&self) -> Settings {
        Settings {
            gigabytes: self.gigabytes,
            records: self.records(),
            value_bytes: self.value_bytes,
            rate: self.rate,
            puts_percent: self.puts,
            distribution: self.distribution.to_string(),
            victim: self.victim,
            nodes: self.nodes,
            memory_mib: self.memory_mib,
            snapshot_mib_per_second: self.snapshot_mib,
        }
    }
}

/// `forebay-bench heal`.
pub(crate) fn heal(args: &HealArgs) -> Result<(), BenchError> {
    end_all_on_interrupt()?;
    let core = args.server_core.and_then(|core| share_cores(Some(core), None).0);
    let place = Place { data_dir: args.data_dir.clone(), core, forebay: Vec::new() };
    let shape = Shape {
        nodes: args.nodes as usize,
        memory_mib: args.memory_mib,
        lines: format!("snapshot_bytes_per_second = \"{}MiB\"\n", args.snapshot_mib),
        ..Shape::default()
    };
    let cluster = Cluster::start_of(NAME, &place, &shape)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| BenchError::Io { what: "starting the client's threads", source })?;
    let target = Arc::new(set_up(&cluster)?);
    let loaded_seconds = fill(args, &target)?;
    let mut results = Results {
        hardware: Hardware::here().line(),
        disk: sys::device_of(&args.data_dir),
        commands: cluster.commands().to_vec(),
        settings: args.settings(),
        loaded_seconds,
        steps: Steps::default(),
        windows: Vec::new(),
        rows: Vec::new(),
        first_error: None,
        ledger: LedgerResult::default(),
    };
    let ended = runtime.block_on(run(args, cluster, &target, &mut results));
    // What was measured before an error is worth seeing.
    let page = results.markdown();
    println!("{page}");
    if let Some(dir) = &args.report {
        write_text(dir, "heal.md", &page)?;
        write_json(dir, "heal.json", &results)?;
        println!("report       {}", dir.join("heal.md").display());
    }
    ended?;
    match results.ledger.verdict.violations() {
        0 => Ok(()),
        violations => {
            Err(BenchError::LedgerViolated { violations, keys: results.ledger.verdict.keys })
        }
    }
}

/// The cluster with one table of one partition, as the generator sees it.
fn set_up(cluster: &Cluster) -> Result<Forebay, BenchError> {
    let natives: Vec<String> = cluster.natives().iter().map(ToString::to_string).collect();
    let url: TargetUrl =
        format!("forebay://{}", natives.join(",")).parse().expect("addresses make a URL");
    let setup = Setup {
        table: TABLE,
        sort_digits: 0,
        consistent: true,
        timeout: CONNECT_TIMEOUT,
        ca_pem: None,
    };
    Forebay::setup(&url, &setup).map_err(|error| error.of(&url))
}

/// Writes every record once; how many seconds that took.
fn fill(args: &HealArgs, target: &Arc<Forebay>) -> Result<f64, BenchError> {
    use std::io::IsTerminal as _;
    let order = Order {
        plan: crate::generator::Plan {
            interval_millis: LOAD_INTERVAL_MILLIS,
            ..plan(args, LOAD_CONNECTIONS, LOAD_DEPTH)
        },
        records: args.records(),
        sizes: Sizes::Fixed(args.value_bytes as usize),
        seed: 1,
    };
    eprintln!("loading {} records, {} GB", order.records, args.gigabytes);
    let (bar, began) = (loading::bar(order.records), Instant::now());
    let loaded = std::thread::scope(|scope| {
        let loading = scope.spawn(|| loading::load_all(target, &order, &bar, || false));
        let mut said = Instant::now();
        while !loading.is_finished() {
            std::thread::sleep(Duration::from_millis(100));
            if said.elapsed() > PROGRESS && !std::io::stderr().is_terminal() {
                said = Instant::now();
                let percent = bar.position() * 100 / order.records;
                eprintln!("{percent} % loaded after {:.0} s", began.elapsed().as_secs_f64());
            }
        }
        loading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    bar.finish_and_clear();
    loaded.map(|_| began.elapsed().as_secs_f64())
}

/// What is measured on.
struct Bench<'a> {
    args: &'a HealArgs,
    cluster: Cluster,
    group: u64,
    table: Table,
    began: Instant,
}

async fn run(
    args: &HealArgs,
    cluster: Cluster,
    target: &Arc<Forebay>,
    results: &mut Results,
) -> Result<(), BenchError> {
    let refused = |what: &'static str| {
        move |error: forebay_net::client::ClientError| BenchError::Refused {
            what,
            words: error.to_string(),
        }
    };
    let addresses = cluster.natives();
    let client = Client::connect(&addresses[..], ClientConfig::default());
    let client = client.await.map_err(refused("connecting"))?;
    let table = client.table(TABLE).await.map_err(refused("finding the table"))?;
    let group = table.description().partitions[0].group.0;
    observe::until_equal(&cluster, group, SETTLE_MAX).await?;
    let mut bench = Bench { args, cluster, group, table, began: Instant::now() };
    bench.say("loaded; the foreground begins");
    let load = Load::new(LEDGER_KEYS, LEDGER_VALUE_BYTES);
    let writing = load.begin(&bench.table, LEDGER_RATE);
    let foreground = Foreground::begin(args, target, args.records());
    let steps = bench.windows(&foreground).await;
    let ended = foreground.end()?;
    let log = writing.end().await;
    results.windows = ended.windows;
    results.rows = ended.rows;
    results.first_error = ended.first_error;
    results.steps = steps?;
    results.ledger = LedgerResult {
        acknowledged: log.successes.len() as u64,
        unknown: log.unknown,
        refused: log.refused,
        not_asked: log.not_asked,
        first_refusal: log.first_refusal,
        verdict: load.verify(&bench.table).await,
    };
    let examples = &results.ledger.verdict.examples;
    examples.iter().for_each(|example| eprintln!("VIOLATION: {example}"));
    Ok(())
}

impl Bench<'_> {
    fn say(&self, words: &str) {
        eprintln!("{:>6.1} s  {words}", self.began.elapsed().as_secs_f64());
    }

    /// One window after the other.
    async fn windows(&mut self, foreground: &Foreground) -> Result<Steps, BenchError> {
        tokio::time::sleep(WARM_UP).await;
        foreground.mark(Window::Before);
        tokio::time::sleep(Duration::from_secs(self.args.before)).await;
        let leader = observe::leader(&self.cluster, self.group, LEADER_MAX).await?;
        let members = observe::members(&self.cluster, self.group)?;
        let follower = members.iter().map(|(node, _)| *node).find(|node| *node != leader);
        let victim = match self.args.victim {
            Victim::Leader => leader,
            Victim::Follower => follower.expect("a group of three has followers"),
        };
        foreground.mark(Window::Dead);
        let killed = Instant::now();
        self.cluster.kill(victim);
        let what = if victim == leader { "the leader" } else { "a follower" };
        self.say(&format!("node {}, {what}, is killed", victim + 1));
        let steps = steps::follow(self, victim, killed, foreground).await?;
        foreground.mark(Window::After);
        tokio::time::sleep(Duration::from_secs(self.args.after)).await;
        Ok(steps)
    }
}
