//! `idle`: what groups cost that nobody uses.
//!
//! ```text
//!   three node processes ── tables of many partitions ──► so many groups, three members each
//!        │ every group has a leader, and nothing is asked for
//!        └── counters of the links and of the processes, before and after some seconds
//! ```
//!
//! Leases and heartbeats are per pair of shards, so ten thousand idle groups should send what none do.
//! The same is measured first with the system group alone, and shown beside. With `--kill` and
//! `--pause`, [`disturb`] sees what it takes until all of them have leaders again.

mod disturb;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use forebay_core::table::{KeySchema, KeyType};
use forebay_net::client::{Client, ClientConfig, ClientError};
use serde::Serialize;

use crate::compare::table::{Table, whole};
use crate::error::BenchError;
use crate::fleet::Place;
use crate::fleet::cluster::Cluster;
use crate::fleet::metrics::Metrics;
use crate::fleet::process::end_all_on_interrupt;
use crate::report::json::{write_json, write_text};
use crate::sys::{self, Hardware};
use disturb::Disturbed;

/// Partitions of one table. Each table is made when the groups of those before it have leaders: what is
/// measured are idle groups, not the making of many.
const PARTITIONS_PER_TABLE: u32 = 100;
/// Between two looks at whether they have.
const LOOK: Duration = Duration::from_millis(100);
/// Groups between two lines of progress.
const SAID_EVERY: u32 = 1000;
/// How long groups may take to be made and to be led.
const SETTLE_MAX: Duration = Duration::from_secs(600);
/// After the last group has a leader: what is left of the making ends.
const CALM: Duration = Duration::from_secs(3);
/// It takes no longer than this, or belongs to what idle groups cost.
const CALM_MAX: Duration = Duration::from_secs(60);
/// Three nodes that say no more than this beside their heartbeats have nothing left to do.
const CALM_MESSAGES_S: f64 = 300.0;
/// Counters are published a few times a second.
const PUBLISHED_AFTER: Duration = Duration::from_millis(600);
/// How often a table that could not be made at once is tried again.
const ATTEMPTS_MAX: u32 = 20;

/// `forebay-bench idle`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct IdleArgs {
    /// Groups, each with a member on each of the three nodes
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) groups: u32,
    /// Seconds to count for
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) duration: u64,
    /// Memory of each node
    #[arg(long, value_name = "MIB", default_value_t = 1024,
          value_parser = clap::value_parser!(u64).range(32..=1 << 20))]
    pub(crate) memory_mib: u64,
    /// Then kill a node with SIGKILL, and start it again when the others lead all groups
    #[arg(long)]
    pub(crate) kill: bool,
    /// Then stop all three nodes with SIGSTOP for two seconds
    #[arg(long)]
    pub(crate) pause: bool,
    /// Directory for the nodes' data; what is made there is removed
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) data_dir: PathBuf,
    /// Write idle.md and idle.json into DIR
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
}

/// What some seconds brought, over all three nodes.
#[derive(Clone, Copy, Debug, Serialize)]
struct Counted {
    groups: u64,
    /// Of each pair of nodes, both directions together.
    messages_per_pair_s: f64,
    bytes_per_pair_s: f64,
    /// Of a core, each node's.
    cpu_percent: f64,
    /// The most that each node ever had in use.
    resident_mib: f64,
    /// Leads won and lost meanwhile: none is to be.
    leads_changed: f64,
}

#[derive(Debug, Serialize)]
struct Results {
    hardware: String,
    disk: String,
    commands: Vec<String>,
    seconds: u64,
    made_in_s: f64,
    counted: Vec<Counted>,
    disturbed: Vec<Disturbed>,
}

/// `forebay-bench idle`.
pub(crate) fn idle(args: &IdleArgs) -> Result<(), BenchError> {
    end_all_on_interrupt()?;
    let place = Place { data_dir: args.data_dir.clone(), core: None, forebay: Vec::new() };
    let mut cluster = Cluster::start_with("forebay3", &place, false, args.memory_mib)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|source| BenchError::Io { what: "starting the client's threads", source })?;
    std::thread::sleep(CALM);
    let none = count(&cluster, args.duration)?;
    let began = Instant::now();
    runtime.block_on(make(&cluster, args.groups))?;
    let made_in_s = began.elapsed().as_secs_f64();
    calm(&cluster)?;
    let many = count(&cluster, args.duration)?;
    let disturbed = disturb::all(args, &mut cluster)?;
    let results = Results {
        hardware: Hardware::here().line(),
        disk: sys::device_of(&args.data_dir),
        commands: cluster.commands().to_vec(),
        seconds: args.duration,
        made_in_s,
        counted: vec![none, many],
        disturbed,
    };
    let page = markdown(&results);
    println!("{page}");
    if let Some(dir) = &args.report {
        write_text(dir, "idle.md", &page)?;
        write_json(dir, "idle.json", &results)?;
        println!("report       {}", dir.join("idle.md").display());
    }
    Ok(())
}

/// Makes tables until there are so many groups, and waits until each has a leader.
async fn make(cluster: &Cluster, groups: u32) -> Result<(), BenchError> {
    let addresses = cluster.natives();
    let refused = |what, error: ClientError| BenchError::Refused { what, words: error.to_string() };
    let config = ClientConfig { request_timeout: SETTLE_MAX, ..ClientConfig::default() };
    let client = Client::connect(&addresses[..], config);
    let client = client.await.map_err(|error| refused("connecting", error))?;
    let (mut made, began) = (0, Instant::now());
    while made < groups {
        let partitions = (groups - made).min(PARTITIONS_PER_TABLE);
        let name = format!("idle{made}");
        let mut attempts = 0;
        loop {
            let schema = KeySchema::partition_only("id", KeyType::S);
            match client.create_table(&name, schema).partitions(partitions).send().await {
                Ok(_) => break,
                Err(error) if attempts == ATTEMPTS_MAX => {
                    return Err(refused("creating a table", error));
                }
                // The node may not have room for so many at once; and what exists is as good.
                Err(_) if client.table(&name).await.is_ok() => break,
                Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
            attempts += 1;
        }
        made += partitions;
        if made.is_multiple_of(SAID_EVERY) || made == groups {
            eprintln!("{made} of {groups} groups made in {:.0} s", began.elapsed().as_secs_f64());
        }
        // The system group is one more.
        until_led(cluster, made + 1, began).await?;
    }
    Ok(())
}

/// Waits until so many groups have leaders with leases.
async fn until_led(cluster: &Cluster, wanted: u32, began: Instant) -> Result<(), BenchError> {
    loop {
        let led = leased(&read(cluster)?);
        if led >= f64::from(wanted) {
            return Ok(());
        }
        if began.elapsed() > SETTLE_MAX {
            let words = format!("{led} of {wanted} groups are led");
            return Err(BenchError::Refused { what: "waiting for leaders", words });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until what is left of the making has ended: reports to the system group's leader, and what
/// each member tells its leader of its first checkpoint.
fn calm(cluster: &Cluster) -> Result<(), BenchError> {
    let began = Instant::now();
    std::thread::sleep(CALM);
    let mut before = sent(cluster)?;
    while began.elapsed() < CALM_MAX {
        std::thread::sleep(CALM);
        let after = sent(cluster)?;
        if after - before <= CALM_MESSAGES_S * CALM.as_secs_f64() {
            break;
        }
        before = after;
    }
    Ok(())
}

/// Messages between nodes so far.
fn sent(cluster: &Cluster) -> Result<f64, BenchError> {
    Ok(read(cluster)?.iter().map(|one| one.shard("link_sent_messages_total")).sum())
}

fn read(cluster: &Cluster) -> Result<Vec<Metrics>, BenchError> {
    cluster.https().into_iter().map(|at: SocketAddr| Metrics::read(at)).collect()
}

/// Groups whose leader holds its lease.
fn leased(nodes: &[Metrics]) -> f64 {
    nodes.iter().map(|one| one.shard("groups_leased")).sum()
}

fn count(cluster: &Cluster, seconds: u64) -> Result<Counted, BenchError> {
    std::thread::sleep(PUBLISHED_AFTER);
    let (before, cpu_before, began) = (read(cluster)?, cluster.cpu_micros(), Instant::now());
    std::thread::sleep(Duration::from_secs(seconds));
    let (after, cpu_after) = (read(cluster)?, cluster.cpu_micros());
    let elapsed = began.elapsed().as_secs_f64();
    let grown = |name: &str| -> f64 {
        after.iter().zip(&before).map(|(after, before)| after.grown(before, name)).sum()
    };
    let nodes = after.len() as f64;
    let pairs = nodes * (nodes - 1.0) / 2.0;
    Ok(Counted {
        groups: leased(&after) as u64,
        messages_per_pair_s: grown("link_sent_messages_total") / pairs / elapsed,
        bytes_per_pair_s: grown("link_sent_bytes_total") / pairs / elapsed,
        cpu_percent: (cpu_after - cpu_before) as f64 / 1e4 / nodes / elapsed,
        resident_mib: cluster.resident_peak_bytes() as f64 / nodes / f64::from(1 << 20),
        leads_changed: grown("leads_won_total") + grown("leads_lost_total"),
    })
}

fn markdown(results: &Results) -> String {
    let mut table = Table::new([
        "groups with a leader and a lease",
        "messages/s of a pair of nodes",
        "bytes/s of a pair",
        "CPU of a node, %",
        "memory of a node, MiB at most",
        "leads won or lost",
    ]);
    for one in &results.counted {
        table.row([
            whole(one.groups as f64),
            format!("{:.1}", one.messages_per_pair_s),
            whole(one.bytes_per_pair_s),
            format!("{:.1}", one.cpu_percent),
            whole(one.resident_mib),
            whole(one.leads_changed),
        ]);
    }
    format!(
        "# Idle groups\n\nmachine: {}; {}  \nthree nodes, {} s each; messages of both directions \
         together: heartbeats and their answers, ten a second each way; the groups were made in \
         {:.0} s\n\n```\n{}\n```\n\n{}{}",
        results.hardware,
        results.disk,
        results.seconds,
        results.made_in_s,
        results.commands.join("\n"),
        table.render(),
        disturb::markdown(&results.disturbed)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_both_numbers_of_groups() {
        let counted = |groups| Counted {
            groups,
            messages_per_pair_s: 40.0,
            bytes_per_pair_s: 4321.0,
            cpu_percent: 1.5,
            resident_mib: 77.0,
            leads_changed: 0.0,
        };
        let results = Results {
            hardware: "a machine".to_owned(),
            disk: "a disk".to_owned(),
            commands: vec!["forebay node".to_owned()],
            seconds: 10,
            made_in_s: 25.0,
            counted: vec![counted(1), counted(10_001)],
            disturbed: Vec::new(),
        };
        let page = markdown(&results);
        for words in ["| 1 ", "| 10,001 ", "40.0", "4,321", "1.5", "77"] {
            assert!(page.contains(words), "{words} in\n{page}");
        }
    }
}
