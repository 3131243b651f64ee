//! What it takes until all groups have leaders again.
//!
//! ```text
//!   SIGKILL ──────► all led by the others ──────► started again ──────► every member follows ──► calm
//!           elections of its groups               elections: none
//!
//!   SIGSTOP of all three ── 2 s ── SIGCONT ─────► all led again
//! ```
//!
//! Gauges are published four times a second: times are good to a quarter of a second. After each step
//! some seconds are watched in which no lead is to change hands: a storm would go on.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{IdleArgs, leased, read};
use crate::compare::table::{Table, whole};
use crate::error::BenchError;
use crate::fleet::cluster::Cluster;
use crate::fleet::metrics::Metrics;

/// How long all three are stopped.
const PAUSED: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// How long leaders may take.
const RECOVERY_MAX: Duration = Duration::from_secs(120);
/// Between two lines of progress.
const SAID: Duration = Duration::from_secs(5);
/// For which no lead may change hands after each step.
const WATCHED: Duration = Duration::from_secs(10);
/// A gauge is as old as this at most.
const PUBLISHED: Duration = Duration::from_millis(250);

/// What one step brought.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Disturbed {
    what: String,
    groups: u64,
    /// Groups that lost their leader's lease.
    lost: u64,
    /// Until half, 99 of a hundred, and all of them had leaders with leases.
    half_s: f64,
    most_s: f64,
    all_s: f64,
    /// Until every member on every node that runs follows or leads.
    followed_s: f64,
    /// Leads won and lost until then, on the nodes that ran throughout.
    won: u64,
    deposed: u64,
    /// Leads that changed hands in the seconds after that.
    later: u64,
    /// Of all nodes that ran throughout, until all were led.
    messages: u64,
}

/// The steps that were asked for.
pub(super) fn all(args: &IdleArgs, cluster: &mut Cluster) -> Result<Vec<Disturbed>, BenchError> {
    let mut steps = Vec::new();
    if args.kill {
        let nodes = read(cluster)?;
        let led = |node: &Metrics| node.shard("groups_leased") as u64;
        let most = (0..nodes.len()).max_by_key(|at| led(&nodes[*at])).expect("there are three");
        let others: Vec<usize> = (0..nodes.len()).filter(|at| *at != most).collect();
        let name = most + 1;
        let step = format!("SIGKILL of node {name}");
        steps.push(step_of(step, args, cluster, &others, |cluster| {
            cluster.kill(most);
            Ok(())
        })?);
        let step = format!("node {name} starts again");
        steps.push(step_of(step, args, cluster, &others, |cluster| cluster.run(most).map(drop))?);
    }
    if args.pause {
        let step = format!("all stopped for {} s", PAUSED.as_secs());
        let all: Vec<usize> = (0..cluster.https().len()).collect();
        steps.push(step_of(step, args, cluster, &all, |cluster| {
            all.iter().for_each(|node| cluster.pause(*node));
            std::thread::sleep(PAUSED);
            all.iter().for_each(|node| cluster.resume(*node));
            Ok(())
        })?);
    }
    Ok(steps)
}

/// Does `disturb`, and watches what follows on the nodes that run `throughout`, and on whichever else
/// answers.
fn step_of(
    what: String,
    args: &IdleArgs,
    cluster: &mut Cluster,
    throughout: &[usize],
    disturb: impl FnOnce(&mut Cluster) -> Result<(), BenchError>,
) -> Result<Disturbed, BenchError> {
    // The system group is one more.
    let groups = f64::from(args.groups) + 1.0;
    let before = of(cluster, throughout)?;
    let started = Instant::now();
    disturb(cluster)?;
    // A node that starts was gone until it serves; one that is stopped, until it goes on.
    let began = Instant::now();
    let starting = began.duration_since(started);
    std::thread::sleep(PUBLISHED);
    let (mut half, mut most, mut all, mut followed) = (None, None, None, None);
    let (mut least, mut said) = (groups, began);
    let after = loop {
        let nodes = answering(cluster);
        let (led, at) = (leased(&nodes), began.elapsed().as_secs_f64());
        least = least.min(led);
        for (part, seen) in [(0.5, &mut half), (0.99, &mut most), (1.0, &mut all)] {
            if led >= (part * groups).floor() && seen.is_none() {
                *seen = Some(at);
            }
        }
        let without: f64 = nodes.iter().map(|one| one.shard("members_without_leader")).sum();
        if all.is_some() && without == 0.0 {
            followed.get_or_insert(at);
            break of(cluster, throughout)?;
        }
        if began.elapsed() > RECOVERY_MAX {
            let words = format!("{what}: {led} of {groups} groups are led, {without} members wait");
            return Err(BenchError::Refused { what: "waiting for leaders", words });
        }
        if said.elapsed() > SAID {
            eprintln!("{what}: {led} of {groups} groups led after {at:.1} s");
            said = Instant::now();
        }
        std::thread::sleep(LOOK);
    };
    let grown = |later: &[Metrics], before: &[Metrics], name: &str| -> f64 {
        later.iter().zip(before).map(|(later, before)| later.grown(before, name)).sum()
    };
    std::thread::sleep(WATCHED);
    let later = of(cluster, throughout)?;
    let known = |seen: Option<f64>| seen.expect("all are led");
    eprintln!(
        "{what} ({:.1} s): all led after {:.1} s, followed after {:.1} s",
        starting.as_secs_f64(),
        known(all),
        known(followed)
    );
    Ok(Disturbed {
        what,
        groups: groups as u64,
        lost: (groups - least) as u64,
        half_s: known(half),
        most_s: known(most),
        all_s: known(all),
        followed_s: known(followed),
        won: grown(&after, &before, "leads_won_total") as u64,
        deposed: grown(&after, &before, "leads_lost_total") as u64,
        later: (grown(&later, &after, "leads_won_total")
            + grown(&later, &after, "leads_lost_total")) as u64,
        messages: grown(&after, &before, "link_sent_messages_total") as u64,
    })
}

fn of(cluster: &Cluster, nodes: &[usize]) -> Result<Vec<Metrics>, BenchError> {
    let https = cluster.https();
    nodes.iter().map(|node| Metrics::read(https[*node])).collect()
}

fn answering(cluster: &Cluster) -> Vec<Metrics> {
    cluster.https().into_iter().filter_map(|at| Metrics::read(at).ok()).collect()
}

pub(super) fn markdown(steps: &[Disturbed]) -> String {
    if steps.is_empty() {
        return String::new();
    }
    let mut table = Table::new([
        "what happened",
        "groups without a lease, at most",
        "half led, s",
        "99 % led, s",
        "all led, s",
        "all followed, s",
        "leads won",
        "leads lost",
        "leads changed in the 10 s after",
        "messages",
    ]);
    for one in steps {
        table.row([
            one.what.clone(),
            whole(one.lost as f64),
            format!("{:.1}", one.half_s),
            format!("{:.1}", one.most_s),
            format!("{:.1}", one.all_s),
            format!("{:.1}", one.followed_s),
            whole(one.won as f64),
            whole(one.deposed as f64),
            whole(one.later as f64),
            whole(one.messages as f64),
        ]);
    }
    format!(
        "\nTimes count from the kill, from when the node serves again, and from SIGCONT; leads and \
         messages are of the nodes that ran throughout.\n\n{}",
        table.render()
    )
}
