//! `idle`: what groups cost that nobody uses.
//!
//! ```text
//!   three node processes ── tables of many partitions ──► so many groups, three members each
//!        │ every group has a leader, and nothing is asked for
//!        └── counters of the links and of the processes, before and after some seconds
//! ```
//!
//! Leases and heartbeats are per pair of shards, so ten thousand idle groups should send what none do.
//! The same is measured first with the system group alone, and shown beside.

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

/// Partitions of one table.
const PARTITIONS_PER_TABLE: u32 = 500;
/// How long groups may take to be made and to be led.
const SETTLE_MAX: Duration = Duration::from_secs(600);
/// After the last group has a leader: what is left of the making ends.
const CALM: Duration = Duration::from_secs(3);
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
    /// Leads won and lost meanwhile: none is to be.
    leads_changed: f64,
}

#[derive(Debug, Serialize)]
struct Results {
    hardware: String,
    disk: String,
    commands: Vec<String>,
    seconds: u64,
    counted: Vec<Counted>,
}

/// `forebay-bench idle`.
pub(crate) fn idle(args: &IdleArgs) -> Result<(), BenchError> {
    end_all_on_interrupt()?;
    let place = Place { data_dir: args.data_dir.clone(), core: None, forebay: Vec::new() };
    let cluster = Cluster::start_with("forebay3", &place, false, args.memory_mib)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|source| BenchError::Io { what: "starting the client's threads", source })?;
    std::thread::sleep(CALM);
    let none = count(&cluster, args.duration)?;
    runtime.block_on(make(&cluster, args.groups))?;
    std::thread::sleep(CALM);
    let many = count(&cluster, args.duration)?;
    let results = Results {
        hardware: Hardware::here().line(),
        disk: sys::device_of(&args.data_dir),
        commands: cluster.commands().to_vec(),
        seconds: args.duration,
        counted: vec![none, many],
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
        eprintln!("{made} of {groups} groups made in {:.0} s", began.elapsed().as_secs_f64());
    }
    // The system group is one more.
    let wanted = f64::from(groups) + 1.0;
    loop {
        let led: f64 = read(cluster)?.iter().map(|one| one.shard("groups_leased")).sum();
        if led >= wanted {
            return Ok(());
        }
        if began.elapsed() > SETTLE_MAX {
            let words = format!("{led} of {wanted} groups are led");
            return Err(BenchError::Refused { what: "waiting for leaders", words });
        }
        tokio::time::sleep(PUBLISHED_AFTER).await;
    }
}

fn read(cluster: &Cluster) -> Result<Vec<Metrics>, BenchError> {
    cluster.https().into_iter().map(|at: SocketAddr| Metrics::read(at)).collect()
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
        groups: after.iter().map(|one| one.shard("groups_leased")).sum::<f64>() as u64,
        messages_per_pair_s: grown("link_sent_messages_total") / pairs / elapsed,
        bytes_per_pair_s: grown("link_sent_bytes_total") / pairs / elapsed,
        cpu_percent: (cpu_after - cpu_before) as f64 / 1e4 / nodes / elapsed,
        leads_changed: grown("leads_won_total") + grown("leads_lost_total"),
    })
}

fn markdown(results: &Results) -> String {
    let mut table = Table::new([
        "groups with a leader and a lease",
        "messages/s of a pair of nodes",
        "bytes/s of a pair",
        "CPU of a node, %",
        "leads won or lost",
    ]);
    for one in &results.counted {
        table.row([
            whole(one.groups as f64),
            format!("{:.1}", one.messages_per_pair_s),
            whole(one.bytes_per_pair_s),
            format!("{:.1}", one.cpu_percent),
            whole(one.leads_changed),
        ]);
    }
    format!(
        "# Idle groups\n\nmachine: {}; {}  \nthree nodes, {} s each; messages of both directions \
         together: heartbeats and their answers, ten a second each way\n\n```\n{}\n```\n\n{}",
        results.hardware,
        results.disk,
        results.seconds,
        results.commands.join("\n"),
        table.render()
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
            leads_changed: 0.0,
        };
        let results = Results {
            hardware: "a machine".to_owned(),
            disk: "a disk".to_owned(),
            commands: vec!["forebay node".to_owned()],
            seconds: 10,
            counted: vec![counted(1), counted(10_001)],
        };
        let page = markdown(&results);
        for words in ["| 1 ", "| 10,001 ", "40.0", "4,321", "1.5"] {
            assert!(page.contains(words), "{words} in\n{page}");
        }
    }
}
