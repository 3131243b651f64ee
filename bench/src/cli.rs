//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::compare::CompareArgs;
use crate::diff::DiffArgs;
use crate::engines::EnginesArgs;
use crate::error::BenchError;
use crate::failover::FailoverArgs;
use crate::figures::{FiguresArgs, PageArgs};
use crate::find_rate::FindRateArgs;
use crate::floor::FloorArgs;
use crate::generator::Arrivals;
use crate::heal::HealArgs;
use crate::idle::IdleArgs;
use crate::selftest::SelfTestArgs;
use crate::target::TargetUrl;
use crate::workers::{WorkerArgs, worker_place};
use crate::workload::{
    Distribution, KEY_BYTES_MAX, KEY_BYTES_MIN, RunShapeArgs, ShapeArgs, WorkloadArg,
};

const EXAMPLES: &str = "\
Examples:
  forebay dev --native 127.0.0.1:7000 &
  forebay-bench load --target forebay://127.0.0.1:7000 --records 100000
  forebay-bench run  --target forebay://127.0.0.1:7000 --workload a --records 100000 \\
      --connections 64 --depth 16 --duration 30 --report reports/a

  The same against redis, for comparison:
  redis-server --port 6379 --appendonly yes --appendfsync always &
  forebay-bench load --target redis://127.0.0.1:6379 --records 100000
  forebay-bench run  --target redis://127.0.0.1:6379 --workload a --records 100000

  A report of this store on this machine, with nothing to prepare
  forebay-bench run  --spawn

  An open loop, which is what to publish: latency from the intended start of each operation
  forebay-bench run  --target forebay://127.0.0.1:7000 --workload puts --rate 50000";

const COMPARE_EXAMPLES: &str = "\
Each of --targets is a store to start (redis, etcd3, memcached, forebay, forebay3, floor, floor-echo, floor-log;
floor is floor-log for workloads that write, floor-echo for others) or the URL of a running one.
etcd3 and forebay3 are clusters of three, all on the one core. A store that this command starts is pinned to
--server-core, keeps its data in a directory of its own below --data-dir, stands still while another
is measured, and is gone afterwards.

Examples:
  forebay-bench compare --targets redis,forebay,floor --workload puts --depth 16
  forebay-bench compare --spawn redis,etcd3,forebay --workload a
  forebay-bench compare --targets floor,forebay --workload gets --rounds 5 --report reports/gets
  forebay-bench compare --targets redis,forebay --workload a --discard-noisy --duration 10";

const FIGURES_EXAMPLES: &str = "\
Examples:
  forebay-bench figures                                everything, some ten minutes
  forebay-bench figures --only puts,gets --rounds 5 --duration 10 --discard-noisy
  forebay-bench figures --only scale --scale-max 100000 --report reports/scale";

const FAILOVER_EXAMPLES: &str = "\
Starts three `forebay node` processes, writes to them at fixed times with the native client, and does
something to the leader, trial after trial: the gap is the longest time without a successful write. After
each trial every acknowledged write is looked for. The aims: below 800 ms for kill and stop, below 20 ms
for hand-over.

Examples:
  forebay-bench failover                                        50 trials of each kind, some 15 minutes
  forebay-bench failover --trials 5 --how kill,stop --report reports/failover
  forebay-bench failover --tls                                  links and clients with certificates
  forebay-bench failover --how gray                             broken links: no gap, and no election";

const HEAL_EXAMPLES: &str = "\
Starts four `forebay node` processes, loads one group, reads and writes at fixed times, and kills one
node for good. The aims: a log replica on the fourth node less than 2 s after detection (a node counts as
dead after 5 s of silence), no operation fails, and p99.9 until the group is whole again is at most twice
what it was before.

Examples:
  forebay-bench heal                                            2 GB, some six minutes
  forebay-bench heal --gigabytes 0.1 --before 10 --after 10     one minute
  forebay-bench heal --victim leader --report reports/heal";

const ENGINES_EXAMPLES: &str = "\
Examples:
  forebay-bench engines                                       a million items, all engines of this build
  forebay-bench engines --items 5000000 --time-limit 25 --report reports/engines
  forebay-bench engines --engines forebay,lmdb --only reads,ranges --cache 4096

How long: on two busy cores with a virtual disk, a million items took forebay, LMDB and fjall together
less than three minutes; five million took forebay alone three and a half, and redb and LMDB load them in
two to three. --time-limit 25 bounds the whole. How much room: the files of one engine are gone before
the next begins; forebay's took 16 GB for five million items, with a cache of 4 GiB.

RocksDB is there in a build with `--features rocksdb` (C++ compiler, libclang).";

/// Load generators and latency reports for Forebay and for what it is compared with
#[derive(Debug, Parser)]
#[command(name = "forebay-bench", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write records 0..N once each; loading again overwrites them
    Load(LoadArgs),
    /// Run a workload and report latencies
    #[command(after_help = EXAMPLES)]
    Run(Box<RunArgs>),
    /// Wait for coordinators (`run --workers`, `load --workers`) and do for each its share
    Worker(WorkerArgs),
    /// Serve bare echoes, with or without a log: what the ring can do before a store does anything
    Floor(FloorArgs),
    /// Run one workload on several stores in turn, round after round, and show the ratios
    #[command(after_help = COMPARE_EXAMPLES)]
    Compare(CompareArgs),
    /// Serve one page to everybody: the control of `figures --only control-flood`
    #[command(hide = true)]
    ServePage(PageArgs),
    /// Measure every figure that the README states, as Markdown
    #[command(after_help = FIGURES_EXAMPLES)]
    Figures(FiguresArgs),
    /// Kill, stop or move the leader of a cluster under load; exit code 1 if an acknowledged write is lost
    #[command(after_help = FAILOVER_EXAMPLES)]
    Failover(FailoverArgs),
    /// Kill a node for good under load, and measure how its members are replaced; exit code 1 if an
    /// acknowledged write is lost
    #[command(after_help = HEAL_EXAMPLES)]
    Heal(HealArgs),
    /// Count what a cluster's idle groups send each other
    Idle(IdleArgs),
    /// Measure storage engines in-process, on the workload of redb's published table
    #[command(after_help = ENGINES_EXAMPLES)]
    Engines(EnginesArgs),
    /// Show two reports beside each other; exit code 1 if their loads differ
    Diff(DiffArgs),
    /// Measure servers whose behaviour is known; exit code 1 if this tool reports anything else
    SelfTest(SelfTestArgs),
    /// Read back what a `run --workload ledger` noted as acknowledged; exit code 1 on any loss
    VerifyLedger(VerifyArgs),
}

/// What every command says about the data.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataArgs {
    /// The store: forebay://HOST:PORT[,HOST:PORT…], redis://HOST:PORT, etcd://HOST:PORT[,HOST:PORT…],
    /// dynamodb+http://HOST:PORT, dynamodb+https://HOST:PORT, memcached://HOST:PORT or floor://HOST:PORT
    #[arg(long, value_name = "URL", default_value = "forebay://127.0.0.1:4700")]
    pub(crate) target: TargetUrl,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    /// Table for the records (created if absent; redis has none)
    #[arg(long, default_value = "usertable")]
    pub(crate) table: String,
    /// Length of keys, `user` and zero-padded digits
    #[arg(long, value_name = "BYTES", default_value_t = 24,
          value_parser = clap::value_parser!(u64).range(KEY_BYTES_MIN as u64..=KEY_BYTES_MAX as u64))]
    pub(crate) key_bytes: u64,
    /// Give an operation up after so many milliseconds; it counts as an error
    #[arg(long = "timeout", value_name = "MILLISECONDS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub(crate) timeout_millis: u64,
}

/// Whom to believe about a server's name.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TrustArgs {
    /// With dynamodb+https: believe the certificate authorities in this PEM file, and no others
    /// [default: this system's]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
}

/// Longest file of certificates.
const CA_BYTES_MAX: u64 = 4 << 20;

impl TrustArgs {
    /// The file's content.
    pub(crate) fn read(&self) -> Result<Option<String>, BenchError> {
        let Some(path) = &self.ca_file else { return Ok(None) };
        let failed = |source| BenchError::File { path: path.clone(), source };
        let bytes = std::fs::metadata(path).map_err(failed)?.len();
        if bytes > CA_BYTES_MAX {
            let words = format!("--ca-file: {bytes} bytes, of at most {CA_BYTES_MAX}");
            return Err(BenchError::Usage(words));
        }
        std::fs::read_to_string(path).map(Some).map_err(failed)
    }
}

/// What load and run share.
#[derive(Clone, Debug, Args)]
pub(crate) struct TrafficArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Records in the table
    #[arg(long, default_value_t = 100_000,
          value_parser = clap::value_parser!(u64).range(1..=100_000_000_000))]
    pub(crate) records: u64,
    /// Length of values
    #[arg(long, value_name = "BYTES", default_value_t = 100,
          value_parser = clap::value_parser!(u64).range(1..=390_000))]
    pub(crate) value_bytes: u64,
    /// Generator threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: u32,
    /// Pin generator threads to these cores, in turn
    #[arg(long, value_name = "CORE", num_args = 1.., value_delimiter = ',')]
    pub(crate) core: Vec<usize>,
    /// Seed of keys, values and mix: equal seeds repeat a run
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
}

/// `load`.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub(crate) traffic: TrafficArgs,
    /// A scenario file whose records, sizes and sort keys count
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) workload: Option<WorkloadArg>,
    /// Connections over all threads
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) connections: u32,
    /// Operations outstanding on each connection
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depth: u32,
    /// Have these `forebay-bench worker`s write the records, each its part of them. --connections are of
    /// all together, --threads of each; cores are the workers' own affair, credentials their own
    /// environment's
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', num_args = 1..,
          value_parser = worker_place, conflicts_with = "core")]
    pub(crate) workers: Vec<String>,
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// Which mix of operations: a to f, puts, gets, ledger, or a scenario file
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "a")]
    pub(crate) workload: WorkloadArg,
    #[command(flatten)]
    pub(crate) traffic: TrafficArgs,
    /// Connections over all threads
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) connections: u32,
    /// Operations outstanding on each connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depth: u32,
    /// Seconds to measure [default: 10; with --spawn 30]
    #[arg(long, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=864_000))]
    pub(crate) duration: Option<u64>,
    /// Seconds of load before the measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(crate) warmup: u64,
    /// Open loop with so many operations a second, latency from the intended start; without it a
    /// closed loop
    #[arg(long, value_name = "OPS_PER_SECOND",
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rate: Option<u64>,
    /// How an open loop's intended starts lie
    #[arg(long, value_enum, default_value = "fixed")]
    pub(crate) arrivals: Arrivals,
    /// Choose records otherwise than the workload does: uniform, zipfian, zipfian:THETA, latest,
    /// latest:THETA, sequential, hotspot:KEYS,OPS or moving-hotspot:KEYS,OPS,EVERY (percent, percent,
    /// operations)
    #[arg(long)]
    pub(crate) distribution: Option<Distribution>,
    /// Write report.html, report.json, latency.svg and the raw histograms (.hlog, .hgrm) into DIR
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
    /// Run the generator's threads before all others on their cores (SCHED_FIFO; needs root)
    #[arg(long)]
    pub(crate) realtime: bool,
    /// The generator's threads never sleep: latencies are tens of microseconds nearer to the truth,
    /// for a core each (`self-test` shows how much)
    #[arg(long, requires = "rate")]
    pub(crate) spin: bool,
    #[command(flatten)]
    pub(crate) shape: RunShapeArgs,
    #[command(flatten)]
    pub(crate) find: FindRateArgs,
    /// Note acknowledged puts in FILE (with --workload ledger)
    #[arg(long, value_name = "FILE")]
    pub(crate) ledger: Option<PathBuf>,
    /// Read back everything that the ledger notes when the run is over, and say in the report what of it
    /// is missing. Connections that are lost meanwhile are opened again: kill a node of a cluster, and
    /// see the gap, and that nothing acknowledged is lost
    #[arg(long, requires = "ledger")]
    pub(crate) verify: bool,
    /// Start this store here first, in a fresh directory, load it, find its peak, and report at half
    /// of that (or at --rate)
    #[arg(long, conflicts_with_all = ["target", "ledger", "realtime"])]
    pub(crate) spawn: bool,
    /// Where the store that --spawn starts keeps its data [default: here]; it is removed again
    #[arg(long, value_name = "DIR", requires = "spawn")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Have these `forebay-bench worker`s generate the load together, from one moment on, and merge
    /// what they measured into one report. --connections and --rate are of all together, --threads of
    /// each; cores are the workers' own affair, credentials their own environment's
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', num_args = 1..,
          value_parser = worker_place, conflicts_with_all = ["ledger", "spawn", "core"])]
    pub(crate) workers: Vec<String>,
    /// What the report must say beyond what this run knows.
    #[arg(skip)]
    pub(crate) remarks: Vec<String>,
}

impl RunArgs {
    /// Seconds to measure; `default` if the command line does not say.
    pub(crate) fn duration_or(&self, default: u64) -> u64 {
        self.duration.unwrap_or(default)
    }
}

/// `verify-ledger`.
#[derive(Clone, Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The store: forebay://HOST:PORT or redis://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub(crate) target: TargetUrl,
    #[command(flatten)]
    pub(crate) trust: TrustArgs,
    /// The file that `run --workload ledger --ledger FILE` wrote
    #[arg(long, value_name = "FILE")]
    pub(crate) ledger: PathBuf,
    /// Give up after so many milliseconds without an answer
    #[arg(long = "timeout", value_name = "MILLISECONDS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub(crate) timeout_millis: u64,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_issues_examples_parse() {
        for line in [
            "load --target forebay://h:1 --records 5 --value-bytes 10",
            "run --target redis://h:1 --workload a --records 5 --value-bytes 10 --connections 4 \
             --depth 2 --duration 3 --rate 100 --seed 7 --report d --core 0,1 --threads 2",
            "run --target forebay://h:1 --workload ledger --ledger f",
            "run --spawn",
            "run --spawn --data-dir d --workload b --rate 1000 --arrivals poisson --spin",
            "load --target redis://h:1 --workers a:1,b:2 --records 5 --connections 4",
            "load --target etcd://h:1,h:2 --workload x/shop.toml --value-sizes list:10x1,20x2",
            "run --workload x/shop.toml --distribution hotspot:20,80 --sort-digits 2 --eventual",
            "run --workload c --think-time 5 --value-sizes uniform:5-50",
            "run --workload c --find-rate --p99-us 900",
            "self-test --duration 1",
            "diff a b",
            "verify-ledger --target forebay://h:1 --ledger f",
            "compare --targets redis,forebay,floor --workload puts --records 5 --value-bytes 10 \
             --connections 64 --depth 16 --duration 3 --rounds 2 --server-core 0 --client-core 1 \
             --report d --discard-noisy",
            "compare --spawn redis,etcd3,memcached --targets forebay://h:1 --workload a",
            "engines --items 2000 --engines forebay,redb,lmdb,fjall,rocksdb --only singles,size --cache 64 \
             --rounds 2 --seed 3 --data-dir d --report r --time-limit 25 --rocksdb-ldb /usr/bin/ldb",
            "heal --gigabytes 0.1 --rate 100 --puts 10 --distribution uniform --before 1 --after 1 --report d",
            "figures --only puts,gets,open-loop,control-flood,memory,scale,syscalls,log,generator",
        ] {
            let words = std::iter::once("forebay-bench").chain(line.split_whitespace());
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
        for bad in [
            "run --target x --workload a",
            "run --spawn --target forebay://h:1",
            "run --spin",
            "run --rate 5 --think-time 5",
            "run --find-rate",
            "run --workload mysql",
            "run --distribution zipf",
            "run --data-dir d",
            "load --workers a:1 --core 0",
            "load --workers a",
            "diff a",
        ] {
            let words = std::iter::once("forebay-bench").chain(bad.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{bad}");
        }
    }
}
