//! The steps of a heal, as the nodes themselves tell them.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::Bench;
use super::foreground::{Foreground, Window};
use crate::error::BenchError;
use crate::failover::observe::{self, Seen};
use crate::fleet::metrics::Metrics;

/// Between two looks, until the log replica is in place.
const LOOK: Duration = Duration::from_millis(50);
/// Between two looks, from then on: they cost something themselves.
const LOOK_LATER: Duration = Duration::from_millis(250);
/// How long a log replica may take before this gives up.
const REPLACED_MAX: Duration = Duration::from_secs(120);
/// A group that is whole has so many members that keep its state.
const WHOLE: usize = 3;

/// When what was seen, in seconds after the death.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Steps {
    /// Whose process, from 1.
    pub(super) victim: usize,
    /// Who took its place, from 1.
    pub(super) spare: Option<usize>,
    /// The first sign of its replacement.
    pub(super) detected_s: Option<f64>,
    /// The log replica is a member.
    pub(super) log_replica_s: Option<f64>,
    /// It holds everything that was chosen when it became one.
    pub(super) log_filled_s: Option<f64>,
    /// The first bytes of the state are there.
    pub(super) copy_began_s: Option<f64>,
    /// All of them.
    pub(super) copied_s: Option<f64>,
    /// It is a storage replica, and the group is whole.
    pub(super) whole_s: Option<f64>,
    /// Of the state: keys and items.
    pub(super) copied_bytes: u64,
    /// What the other members read for it, repetitions included.
    pub(super) served_bytes: u64,
    /// Snapshots that were begun and given up.
    pub(super) given_up: u64,
    /// What was chosen when the log replica became a member.
    #[serde(skip)]
    pub(super) fill_to: u64,
}

impl Steps {
    /// From detection to the log replica in place.
    pub(super) fn replaced_s(&self) -> Option<f64> {
        Some(self.log_replica_s? - self.detected_s?)
    }

    /// Bytes of the state a second, while they were copied.
    pub(super) fn copy_rate(&self) -> Option<f64> {
        let seconds = self.copied_s? - self.copy_began_s?;
        (seconds > 0.0).then(|| self.copied_bytes as f64 / seconds)
    }

    /// Takes a look; true when the group is whole.
    pub(super) fn look(&mut self, seen: &[(usize, Seen)], at: f64) -> bool {
        let dead = self.victim - 1;
        let spare = seen.iter().find_map(|(_, seen)| seen.spare);
        if spare.is_some() {
            self.detected_s.get_or_insert(at);
        }
        let Some((_, leader)) = seen.iter().find(|(_, seen)| seen.lease) else { return false };
        let members = || leader.members.iter().map(|(peer, _, _)| observe::node_of(*peer));
        if members().all(|node| node != dead) {
            self.detected_s.get_or_insert(at);
        }
        let all_live = members().count() == WHOLE && members().all(|node| node != dead);
        if all_live && self.log_replica_s.is_none() {
            self.log_replica_s = Some(at);
            self.fill_to = leader.chosen_slot;
            let log = leader.members.iter().find(|(_, _, keeps)| keeps == "log");
            // Promoted already, if there was next to nothing to copy.
            let log = log.or(leader.members.last());
            self.spare = log.map(|(peer, _, _)| observe::node_of(*peer) + 1);
        }
        let spare = self.spare.and_then(|spare| seen.iter().find(|(node, _)| *node + 1 == spare));
        if let Some((_, spare)) = spare {
            if spare.last_slot >= self.fill_to {
                self.log_filled_s.get_or_insert(at);
            }
            if let Some((bytes, total)) = spare.snapshot_bytes {
                self.copied_bytes = self.copied_bytes.max(total);
                if bytes > 0 {
                    self.copy_began_s.get_or_insert(at);
                }
                if bytes >= total {
                    self.copied_s.get_or_insert(at);
                }
            }
        }
        let keep = leader.members.iter().filter(|(_, _, keeps)| keeps == "storage").count();
        let whole = all_live && keep == WHOLE;
        if whole {
            // Between two looks, if it was short.
            self.copied_s.get_or_insert(at);
            self.whole_s = Some(at);
        }
        whole
    }
}

fn counted(bench: &Bench<'_>, name: &str) -> f64 {
    let nodes = bench.cluster.https().into_iter();
    nodes.filter_map(|at| Metrics::read(at).ok()).map(|metrics| metrics.shard(name)).sum()
}

/// Watches until the group is whole again.
pub(super) async fn follow(
    bench: &Bench<'_>,
    victim: usize,
    killed: Instant,
    foreground: &Foreground,
) -> Result<Steps, BenchError> {
    let mut steps = Steps { victim: victim + 1, ..Steps::default() };
    let before = ["snapshot_served_bytes_total", "snapshots_given_up_total"]
        .map(|name| counted(bench, name));
    let mut said = 0;
    loop {
        let seen = observe::members(&bench.cluster, bench.group)?;
        let at = killed.elapsed();
        let replaced = steps.log_replica_s.is_some();
        let whole = steps.look(&seen, at.as_secs_f64());
        if !replaced && steps.log_replica_s.is_some() {
            foreground.mark(Window::Copying);
            bench.say(&format!(
                "detected {:.2} s after the death; a log replica on node {} {:.2} s later",
                steps.detected_s.unwrap_or_default(),
                steps.spare.unwrap_or_default(),
                steps.replaced_s().unwrap_or_default()
            ));
        }
        let arrived = seen.iter().find_map(|(_, seen)| seen.snapshot_bytes);
        if let Some((bytes, total)) = arrived
            && let percent = bytes * 100 / total.max(1)
            && percent / 20 > said
        {
            said = percent / 20;
            bench.say(&format!("{percent} % of {total} bytes copied"));
        }
        if whole {
            let after = ["snapshot_served_bytes_total", "snapshots_given_up_total"]
                .map(|name| counted(bench, name));
            steps.served_bytes = (after[0] - before[0]).max(0.0) as u64;
            steps.given_up = (after[1] - before[1]).max(0.0) as u64;
            bench.say(&format!("whole again {:.1} s after the death", at.as_secs_f64()));
            return Ok(steps);
        }
        let (patience, pause) = match steps.log_replica_s {
            None => (REPLACED_MAX, LOOK),
            Some(_) => (bench.args.copy_max(), LOOK_LATER),
        };
        if at > patience {
            let words = format!("after {:.0} s the members say: {seen:?}", at.as_secs_f64());
            return Err(BenchError::Refused { what: "waiting for the group to heal", words });
        }
        tokio::time::sleep(pause).await;
    }
}
