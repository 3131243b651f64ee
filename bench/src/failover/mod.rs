//! `failover`: how long nothing can be written when the leader dies, is stopped, or hands over, and
//! that nothing stops while one link is broken.
//!
//! ```text
//!   three node processes ◄── open loop of Puts, every acknowledgement in a ledger
//!        │                          │
//!   for each trial:                 │  … ok ok ok ─────── nothing ─────── ok ok ok …
//!     SIGKILL / SIGSTOP / hand-over ┘       └──── the gap, from the last success before ────┘
//!     back again, caught up, every key of the ledger read and compared
//! ```
//!
//! The load is the native client with its default settings, on one partition, so that one leader's
//! loss stops all of it: with several partitions the others' successes would hide the gap. Operations
//! begin at fixed times, whatever became of those before them, so there is never a moment at which
//! nothing was asked for. A gap is the longest time between two neighbouring successes, from the last one
//! before the fault until the load has gone well for a second after it (a quarter of one after a hand-over);
//! the longest of the second before the fault, and what the return of the node costs, are told apart.
//!
//! A write whose outcome the client could not learn ends its key's history: the key is never written
//! again, and may hold the last acknowledged number or the open one. So no later write can hide a
//! lost one, and nothing legal is called a loss.

mod gap;
mod gray;
pub(crate) mod load;
pub(crate) mod observe;
mod report;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use forebay_core::table::{KeySchema, KeyType};
use forebay_net::client::{Client, ClientConfig, Table};
use forebay_net::tls::ClientTls;

use crate::error::BenchError;
use crate::fleet::cluster::{Cluster, Shape};
use crate::fleet::metrics::Metrics;
use crate::fleet::process::end_all_on_interrupt;
use crate::fleet::{Place, share_cores};
use crate::report::json::{write_json, write_text};
use crate::sys::{self, Hardware};
use gap::Gaps;
use load::{Load, Verdict};
use report::{Results, Trial};

/// The table's name.
const TABLE: &str = "failover";
/// Load before the fault: long enough to see what gaps there are without one.
const BEFORE: Duration = Duration::from_millis(1000);
/// Load after the first success behind the fault, or behind the node's return.
const AFTER: Duration = Duration::from_millis(1000);
/// Of it, what a hand-over answers for: it takes milliseconds, and disks have slow moments of their own.
const HANDED_OVER: Duration = Duration::from_millis(250);
/// A cluster that accepts no write for so long has not recovered.
const RECOVERY_MAX: Duration = Duration::from_secs(30);
/// A node that is back has what it missed within this time.
const CATCH_UP_MAX: Duration = Duration::from_secs(120);

/// What is done to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum How {
    /// SIGKILL its process, start it again later
    Kill,
    /// SIGSTOP its process, SIGCONT it later
    Stop,
    /// Have the lead moved to another node
    HandOver,
    /// Break links around the leader that leave it a follower: nothing may stop, nobody be elected
    Gray,
}

impl How {
    /// What the gap is to stay below, in every trial.
    fn aim(self) -> Duration {
        match self {
            How::Kill | How::Stop => Duration::from_millis(800),
            How::HandOver => Duration::from_millis(20),
            How::Gray => Duration::from_millis(1000),
        }
    }

    fn name(self) -> &'static str {
        match self {
            How::Kill => "kill",
            How::Stop => "stop",
            How::HandOver => "hand-over",
            How::Gray => "gray",
        }
    }
}

/// `forebay-bench failover`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FailoverArgs {
    /// Trials of each kind
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) trials: u32,
    /// What is done to the leader, in turn; gray is about its links
    #[arg(long, value_enum, value_delimiter = ',', num_args = 1.., default_value = "kill,stop,hand-over")]
    pub(crate) how: Vec<How>,
    /// Links and clients speak TLS, with certificates made for the occasion (not with gray: the relay that
    /// breaks links must read who greets)
    #[arg(long)]
    pub(crate) tls: bool,
    /// Puts a second, begun at fixed times
    #[arg(long, value_name = "OPS_PER_SECOND", default_value_t = 2000,
          value_parser = clap::value_parser!(u64).range(10..=1_000_000))]
    pub(crate) rate: u64,
    /// Keys that are written in turn; as many writes may be open at a time
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) keys: u32,
    /// Length of values
    #[arg(long, value_name = "BYTES", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) value_bytes: u32,
    /// Core of the nodes [default: any]
    #[arg(long, value_name = "CORE")]
    pub(crate) server_core: Option<usize>,
    /// Directory for the nodes' data; what is made there is removed
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) data_dir: PathBuf,
    /// Write failover.md and failover.json into DIR
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
}

/// `forebay-bench failover`.
pub(crate) fn failover(args: &FailoverArgs) -> Result<(), BenchError> {
    let gray = args.how.contains(&How::Gray);
    if gray && args.tls {
        let words = "gray failures with --tls: the relay that breaks links must read who greets";
        return Err(BenchError::Usage(words.to_owned()));
    }
    end_all_on_interrupt()?;
    let core = args.server_core.and_then(|core| share_cores(Some(core), None).0);
    let place = Place { data_dir: args.data_dir.clone(), core, forebay: Vec::new() };
    // Links run through the relay only where that is what is measured.
    let shape = Shape { tls: args.tls, relayed: gray, ..Shape::default() };
    let cluster = Cluster::start_of("forebay3", &place, &shape)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| BenchError::Io { what: "starting the client's threads", source })?;
    let mut results = Results {
        hardware: Hardware::here().line(),
        disk: sys::device_of(&args.data_dir),
        commands: cluster.commands().to_vec(),
        rate: args.rate,
        keys: args.keys,
        value_bytes: args.value_bytes,
        trials: Vec::new(),
        verdict: Verdict::default(),
    };
    let ended = runtime.block_on(run(args, cluster, &mut results));
    // What was measured before an error is worth seeing.
    let page = results.markdown();
    println!("{page}");
    if let Some(dir) = &args.report {
        write_text(dir, "failover.md", &page)?;
        write_json(dir, "failover.json", &results)?;
        println!("report       {}", dir.join("failover.md").display());
    }
    ended?;
    match results.verdict.violations() {
        0 => Ok(()),
        violations => Err(BenchError::LedgerViolated { violations, keys: results.verdict.keys }),
    }
}

async fn run(
    args: &FailoverArgs,
    cluster: Cluster,
    results: &mut Results,
) -> Result<(), BenchError> {
    let addresses = cluster.natives();
    let refused = |what: &'static str| {
        move |error: forebay_net::client::ClientError| BenchError::Refused {
            what,
            words: error.to_string(),
        }
    };
    let tls = cluster.certificates().map(ClientTls::in_directory).transpose();
    let tls = tls.map_err(|error| BenchError::Usage(error.to_string()))?;
    let client = Client::connect(&addresses[..], ClientConfig { tls, ..ClientConfig::default() });
    let client = client.await.map_err(refused("connecting"))?;
    let schema = KeySchema::partition_only("id", KeyType::S);
    let table = client.create_table(TABLE, schema).partitions(1).send();
    let table = table.await.map_err(refused("creating a table"))?;
    let group = table.description().partitions[0].group.0;
    let mut bench =
        Bench { args, cluster, table, group, load: Load::new(args.keys, args.value_bytes) };
    let count = args.trials as usize * args.how.len();
    for number in 0..count {
        let how = args.how[number % args.how.len()];
        let trial = bench.trial(how, number / args.how.len()).await?;
        let verdict = bench.load.verify(&bench.table).await;
        results.verdict.take(&verdict);
        eprintln!("trial {:>3} of {count}: {}, {}", number + 1, trial.line(), verdict.line());
        results.trials.push(trial);
        if verdict.violations() > 0 {
            // The evidence is in the directory of these nodes, not in that of later ones.
            verdict.examples.iter().for_each(|example| eprintln!("VIOLATION: {example}"));
            return Ok(());
        }
    }
    Ok(())
}

/// What trials work on.
struct Bench<'a> {
    args: &'a FailoverArgs,
    cluster: Cluster,
    table: Table,
    group: u64,
    load: Load,
}

impl Bench<'_> {
    /// How often a member of any group has become leader, on all nodes.
    fn elections(&self) -> Result<f64, BenchError> {
        let nodes = self.cluster.https().into_iter().map(Metrics::read);
        nodes.map(|node| Ok(node?.shard("leads_won_total"))).sum()
    }

    async fn trial(&mut self, how: How, number: usize) -> Result<Trial, BenchError> {
        // All three hold everything: who is in a majority is not for chance to decide.
        observe::until_equal(&self.cluster, self.group, CATCH_UP_MAX).await?;
        let leader = observe::leader(&self.cluster, self.group, RECOVERY_MAX).await?;
        let cut = gray::Cut::of_trial(number);
        let elected = match how {
            How::Gray => Some(self.elections()?),
            _ => None,
        };
        let load = self.load.begin(&self.table, self.args.rate);
        tokio::time::sleep(BEFORE).await;
        let fault_at = Instant::now();
        match how {
            How::Kill => self.cluster.kill(leader),
            How::Stop => self.cluster.pause(leader),
            How::HandOver => {
                observe::hand_over(&self.cluster, self.group, (leader + 1) % addresses(self))
                    .await?;
            }
            How::Gray => {
                cut.begin(self.cluster.relay().expect("gray trials have one"), leader);
                tokio::time::sleep(gray::BROKEN).await;
            }
        }
        let recovered = load.until_success_after(Instant::now(), RECOVERY_MAX).await;
        let recovered_at = Instant::now();
        tokio::time::sleep(AFTER).await;
        let back_at = Instant::now();
        match how {
            How::Kill => {
                self.cluster.run(leader)?;
            }
            How::Stop => self.cluster.resume(leader),
            How::HandOver => {}
            How::Gray => self.cluster.relay().expect("gray trials have one").heal(),
        }
        let caught_up = match how {
            How::HandOver => Ok(Duration::ZERO),
            How::Gray => {
                // Who was cut off has been a follower all along.
                let cut_off = (leader + 1) % addresses(self);
                observe::until_caught_up(&self.cluster, self.group, cut_off, CATCH_UP_MAX).await
            }
            _ => observe::until_caught_up(&self.cluster, self.group, leader, CATCH_UP_MAX).await,
        };
        if how != How::HandOver {
            tokio::time::sleep(AFTER).await;
        }
        let log = load.end().await;
        let caught_up = caught_up?;
        let elections = match elected {
            Some(before) => Some((self.elections()? - before) as u64),
            None => None,
        };
        let gaps = Gaps::of(&log.successes);
        let over_at = match how {
            How::HandOver => recovered_at + HANDED_OVER,
            _ => back_at,
        };
        let [before, fault, over, back, end] =
            [fault_at - BEFORE, fault_at, over_at, back_at, log.ended_at]
                .map(|at| log.nanos_at(at));
        // A slow moment of the disk before the fault is not the fault's.
        let last = gaps.last_before(fault).max(before);
        Ok(Trial {
            how,
            node: leader + 1,
            broken: (how == How::Gray).then_some(cut.name()),
            elections,
            recovered,
            calm_ms: gap::millis(gaps.longest(before, last)),
            gap_ms: gap::millis(gaps.longest(last, over)),
            return_gap_ms: match how {
                How::HandOver => None,
                _ => Some(gap::millis(gaps.longest(back, end))),
            },
            caught_up_ms: caught_up.as_secs_f64() * 1e3,
            asked: log.asked,
            acknowledged: log.successes.len() as u64,
            unknown: log.unknown,
            refused: log.refused,
            not_asked: log.not_asked,
            first_refusal: log.first_refusal,
        })
    }
}

fn addresses(bench: &Bench<'_>) -> usize {
    bench.cluster.natives().len()
}
