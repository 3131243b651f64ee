//! From what the generator brought to a report.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::json::{Curve, PhaseReport, Report};
use super::{LatencySummary, micros, raw};
use crate::cli::RunArgs;
use crate::generator::{Arrivals, Cause, Counters, Interval, Plan, RunOutcome, ThreadReport};
use crate::stamps::Stamps;
use crate::sys::{self, Hardware};
use crate::target::TargetUrl;
use crate::workload::{OpKind, Scenario, VALUES_MADE};

/// More of a core than this and the client is the limit.
const CLIENT_LIMIT_FRACTION: f64 = 0.9;

/// So many of its starts late without want of a free connection, and a spinning client is the limit.
const OWN_LATE_MAX: f64 = 0.01;

/// A turn comes within 50 ms, even when nothing happens.
const LOOKS_STRAY_S: f64 = 0.1;

/// The label of every closed loop.
pub(crate) const CLOSED_LOOP: &str =
    "closed loop: latencies leave out waiting for the client (coordinated omission)";
const OPEN_FIXED: &str = "open loop, fixed schedule: latencies count from the intended start";
const OPEN_POISSON: &str = "open loop, Poisson schedule: latencies count from the intended start";

/// What is looked at just before a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Before {
    hardware: Hardware,
    stamps: Stamps,
    began: SystemTime,
    clock_read_ns: f64,
    /// Stolen and all ticks.
    ticks: (u64, u64),
}

impl Before {
    /// Takes a fifth of a second.
    pub(crate) fn look(url: &TargetUrl) -> Before {
        Before {
            hardware: Hardware::here(),
            stamps: Stamps::here(url),
            clock_read_ns: clock_read_nanos(),
            began: SystemTime::now(),
            ticks: sys::stolen_ticks(),
        }
    }

    /// What ran here.
    pub(crate) fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    /// Where `report` knows nothing of the store's process, what was seen of it here.
    pub(crate) fn lend_store(&self, report: &mut Report) {
        let stamps = &mut report.stamps;
        if stamps.store.is_none() {
            stamps.store.clone_from(&self.stamps.store);
            stamps.device.clone_from(&self.stamps.device);
        }
        report.clock_read_ns = report.clock_read_ns.max(self.clock_read_ns);
    }
}

/// The report of one run; `facts` are the target's own.
pub(crate) fn report(
    args: &RunArgs,
    scenario: &Scenario,
    facts: &[(String, String)],
    plan: &Plan,
    outcome: &RunOutcome,
    before: Before,
) -> Report {
    let planned_s = seconds(plan, true);
    // What an early end cut off is not part of the run.
    let plan = &match outcome.ended_early_after {
        Some(nanos) => plan.clone().until(nanos),
        None => plan.clone(),
    };
    let total = &outcome.collected.total;
    let counters = &total.counters;
    // A run may end before its time: a ledger's, with its store.
    let wall_nanos = outcome.threads.iter().map(|thread| thread.wall_nanos).max().unwrap_or(0);
    let planned: f64 = seconds(plan, true);
    let duration = match outcome.threads.is_empty() {
        // Every worker was lost.
        true => planned,
        // The looks at the clock that bound it come with a turn each, so they stray by a little.
        false if wall_nanos as f64 / 1e9 > planned - LOOKS_STRAY_S => planned,
        false => (wall_nanos as f64 / 1e9).max(1e-3),
    };
    let fractions: Vec<f64> = outcome.threads.iter().map(ThreadReport::cpu_fraction).collect();
    let cpu_nanos: u64 = outcome.threads.iter().map(|thread| thread.cpu_nanos).sum();
    let attempts = total.successes() + counters.errors_all();
    let distribution = match scenario.is_ledger {
        true => "each connection its own keys in turn".to_owned(),
        false => scenario.shape.distribution.to_string(),
    };
    let phases = phase_reports(plan, outcome);
    let offered = match plan.profile() {
        Some(profile) => {
            let warmup = (seconds(plan, false) * 1e9) as u64;
            let end = warmup + (planned * 1e9) as u64;
            (profile.offered_until(end) - profile.offered_until(warmup)) / planned
        }
        None => attempts as f64 / duration,
    };
    let (stolen, ticks) = sys::stolen_ticks();
    let (stolen_before, ticks_before) = before.ticks;
    Report {
        workload: scenario.name.clone(),
        operations: scenario.shape.mix.words(),
        scenario: scenario.text.clone(),
        target: args.traffic.data.target.to_string(),
        target_facts: facts.iter().cloned().collect(),
        table: args.traffic.data.table.clone(),
        records: args.traffic.records,
        key_bytes: args.traffic.data.key_bytes,
        value_bytes: args.traffic.value_bytes,
        values_made: match scenario.is_ledger {
            true => "each names its record and its sequence number, and carries a checksum",
            false => VALUES_MADE,
        }
        .to_owned(),
        key_distribution: distribution,
        connections: plan.connections,
        depth: plan.depth,
        threads: plan.threads,
        client_cores: plan.cores.clone(),
        timeout_ms: plan.timeout_millis,
        seed: args.traffic.seed,
        is_interrupted: outcome.ended_early_after.is_some(),
        planned_duration_s: planned_s,
        rate_mode: match (plan.profile(), plan.arrivals) {
            (None, _) => CLOSED_LOOP.to_owned(),
            (_, Arrivals::Fixed) => OPEN_FIXED.to_owned(),
            (_, Arrivals::Poisson) => OPEN_POISSON.to_owned(),
        },
        is_open_loop: plan.profile().is_some(),
        warmup_s: seconds(plan, false),
        duration_s: duration,
        offered_ops_s: offered,
        achieved_ops_s: counters.in_time as f64 / duration,
        errors: counters.errors_all(),
        errors_by_cause: by_cause(total),
        unknown_writes: counters.unknown_writes,
        first_error: outcome.threads.iter().find_map(|thread| thread.first_error.clone()),
        reads_that_found_nothing: counters.missing,
        late_starts: counters.late_starts,
        late_starts_waiting_for_depth: counters.late_for_depth,
        start_delay: total.start_delays.as_ref().map(LatencySummary::of),
        stale_replies: counters.stale_replies,
        reconnects: counters.reconnects,
        longest_gap_without_success_ms: outcome.gap_longest_nanos as f64 / 1e6,
        ledger: None,
        pauses_over_10_ms: outcome.pauses,
        client_cpu_fraction: fractions.iter().sum::<f64>() / fractions.len().max(1) as f64,
        client_waited_fraction: outcome
            .threads
            .iter()
            .map(ThreadReport::waited_fraction)
            .fold(0.0, f64::max),
        client_was_the_limit: client_was_the_limit(args.spin, &fractions, counters, attempts),
        client_spins: args.spin,
        client_cpu_fraction_by_thread: fractions,
        client_cpu_us_per_op: cpu_nanos as f64 / 1000.0 / attempts.max(1) as f64,
        cpu_stolen_fraction: (stolen - stolen_before) as f64
            / ticks.saturating_sub(ticks_before).max(1) as f64,
        clock: "CLOCK_BOOTTIME".to_owned(),
        clock_read_ns: before.clock_read_ns,
        overall: LatencySummary::of(&total.overall()),
        ops: by_kind(total, LatencySummary::of),
        phases,
        intervals: outcome.collected.rows.clone(),
        curves: by_kind(total, curve),
        workers: Vec::new(),
        hardware: before.hardware,
        stamps: before.stamps,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: option_env!("FOREBAY_REVISION").map(str::to_owned),
        is_optimised_build: !cfg!(debug_assertions),
        command: command(),
        began_unix_s: before
            .began
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        remarks: Vec::new(),
    }
}

/// Whether these threads, which used such fractions of their cores, were slower than the store.
pub(crate) fn client_was_the_limit(
    spins: bool,
    fractions: &[f64],
    counters: &Counters,
    attempts: u64,
) -> bool {
    match spins {
        // They use all of their cores whatever they do; then their own lateness tells.
        true => {
            let own_late_starts = counters.late_starts - counters.late_for_depth;
            own_late_starts as f64 > attempts as f64 * OWN_LATE_MAX
        }
        false => fractions.iter().any(|&fraction| fraction > CLIENT_LIMIT_FRACTION),
    }
}

/// This process's command line. The program's directory is no reader's business.
pub(crate) fn command() -> Vec<String> {
    std::iter::once("forebay-bench".to_owned()).chain(std::env::args().skip(1)).collect()
}

fn seconds(plan: &Plan, measured: bool) -> f64 {
    let phases = plan.phases.iter().filter(|phase| phase.is_measured == measured);
    // Whole ones: an empty sum of floats is minus zero.
    phases.map(|phase| phase.nanos).sum::<u64>() as f64 / 1e9
}

fn by_kind<V>(interval: &Interval, of: impl Fn(&Histogram<u64>) -> V) -> BTreeMap<String, V> {
    OpKind::ALL
        .iter()
        .zip(&interval.latencies)
        .filter_map(|(kind, histogram)| Some((kind.label().to_owned(), of(histogram.as_ref()?))))
        .collect()
}

fn by_cause(interval: &Interval) -> BTreeMap<String, u64> {
    let errors = interval.counters.errors;
    Cause::ALL.iter().map(|&cause| (cause.label().to_owned(), errors[cause as usize])).collect()
}

/// The percentiles of `histogram`, as the percentile plot draws them.
pub(crate) fn curve(histogram: &Histogram<u64>) -> Curve {
    let point = |quantile, value| (quantile, micros(histogram.highest_equivalent(value)));
    raw::ticks(histogram)
        .map(|(quantile, _, tick)| point(quantile, tick.value_iterated_to()))
        .collect()
}

fn phase_reports(plan: &Plan, outcome: &RunOutcome) -> Vec<PhaseReport> {
    let mut from_s = 0.0 - seconds(plan, false);
    let mut reports = Vec::new();
    for (phase, interval) in plan.phases.iter().zip(&outcome.collected.phases) {
        let duration_s = phase.nanos as f64 / 1e9;
        let attempts = interval.successes() + interval.counters.errors_all();
        let rows = outcome.collected.rows.iter();
        let ended: u64 = rows
            .filter(|row| {
                // Rows carry their end; half a row on either side is far from rounding.
                let middle = row.t_s - row.seconds / 2.0;
                !row.draining && middle > from_s && middle < from_s + duration_s
            })
            .map(|row| row.ops)
            .sum();
        reports.push(PhaseReport {
            name: phase.name.clone(),
            is_measured: phase.is_measured,
            from_s,
            duration_s,
            offered_ops_s: match phase.ramp {
                Some(ramp) => (ramp.from + ramp.to) / 2.0,
                None => attempts as f64 / duration_s,
            },
            offered_ends_ops_s: phase.ramp.map(|ramp| (ramp.from, ramp.to)),
            achieved_ops_s: ended as f64 / duration_s,
            errors_by_cause: by_cause(interval),
            late_starts: interval.counters.late_starts,
            overall: LatencySummary::of(&interval.overall()),
            ops: by_kind(interval, LatencySummary::of),
        });
        from_s += duration_s;
    }
    reports
}

/// What one reading of the clock costs.
fn clock_read_nanos() -> f64 {
    const READINGS: u32 = 10_000;
    let began = Instant::now();
    for _ in 0..READINGS {
        std::hint::black_box(forebay_net::ring::now());
    }
    began.elapsed().as_nanos() as f64 / f64::from(READINGS)
}
