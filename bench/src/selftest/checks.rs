//! The checks, each a number that is known and what the tool reports for it.

use std::sync::Arc;
use std::time::Duration;

use forebay_core::time::Nanos;
use hdrhistogram::Histogram;

use super::server::{Behaviour, Measured, Server};
use crate::error::BenchError;
use crate::generator::{self, Arrivals, Phase, Plan, Ramp, RunOutcome};
use crate::report::collect::{Progress, Watch};
use crate::target::floor::Floor;
use crate::target::{Scheme, TargetUrl};
use crate::workload::{Mixed, Source, WorkloadName};

/// Operations a second of the stall's check.
const STALL_RATE: u64 = 10_000;
/// Operations a second of the delays' checks.
const DELAY_RATE: u64 = 2_000;
/// Percentiles are to be within this or within [`OFF_SHARE`] of the truth.
const OFF_MICROS: f64 = 10.0;
const OFF_SHARE: f64 = 0.02;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// On which cores, and how exactly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) server_core: Option<usize>,
    pub(crate) client_core: Option<usize>,
    /// The servers never sleep.
    pub(crate) server_spins: bool,
    /// Nor does the generator.
    pub(crate) client_spins: bool,
}

/// A number that is known, and what was reported.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) expected: f64,
    pub(crate) reported: f64,
    pub(crate) at_most: f64,
    pub(crate) unit: &'static str,
    /// Shown, not demanded.
    pub(crate) is_shown_only: bool,
}

impl Check {
    fn off_by(&self) -> f64 {
        self.reported - self.expected
    }

    /// Whether it passes.
    pub(crate) fn holds(&self) -> bool {
        self.is_shown_only || self.off_by().abs() <= self.at_most
    }

    /// A line of the table.
    pub(crate) fn line(&self) -> String {
        let places = if self.unit == "us" { 1 } else { 0 };
        let number = |value: f64| format!("{value:.places$} {}", self.unit);
        let (limit, verdict) = match (self.is_shown_only, self.holds()) {
            (true, _) => ("-".to_owned(), ""),
            (_, true) => (number(self.at_most), "ok"),
            (_, false) => (number(self.at_most), "WRONG"),
        };
        format!(
            "{:<36} {:>12} {:>12} {:>10} {limit:>10}  {verdict}",
            self.name,
            number(self.expected),
            number(self.reported),
            format!("{:+.places$}", self.off_by()),
        )
        .trim_end()
        .to_owned()
    }
}

/// A stall of `length` at 10,000 operations a second: a sample late for each that was meant to
/// start in it, and their latencies even from nothing to its length.
pub(super) fn stall(setup: &Setup, length: Duration) -> Result<Vec<Check>, BenchError> {
    let behaviour = Behaviour {
        delay: Duration::ZERO,
        stall: Some((Duration::from_secs(1), length)),
        is_spinning: setup.server_spins,
        core: setup.server_core,
    };
    let seconds = 2 + length.as_secs();
    let mut checks = Vec::new();
    // Requests that wait in the server, and requests that wait in the client for a free connection.
    for (where_, depth) in [("at the server", 512), ("in the client", 1)] {
        let (outcome, _) = measure(setup, behaviour, STALL_RATE, 32, depth, seconds)?;
        let late = latencies(&outcome);
        let over = |share: f64| {
            let nanos = (length.as_nanos() as f64 * share) as u64;
            (late.len() - late.count_between(0, nanos)) as f64
        };
        let expected = STALL_RATE as f64 * length.as_secs_f64();
        let count = |name: String, expected: f64, reported: f64, at_most: f64| Check {
            name,
            expected,
            reported,
            at_most,
            unit: "",
            is_shown_only: false,
        };
        let all = (STALL_RATE * seconds) as f64;
        checks.push(count(format!("stall, {where_}: samples"), all, late.len() as f64, 0.0));
        let millis = 1e6 / length.as_nanos() as f64;
        let slack = expected / 10.0;
        checks.push(count(format!("stall, {where_}: over 1 ms"), expected, over(millis), slack));
        for share in [0.25, 0.5, 0.75, 0.9] {
            let name = format!("  over {:.2} s", length.as_secs_f64() * share);
            let left = expected * (1.0 - share);
            // What waited in the client is answered connection by connection, which takes time too.
            let off = if depth == 1 { 0.05 } else { 0.02 };
            checks.push(count(name, left, over(share), expected * off));
        }
        let delays = outcome.collected.total.start_delays.as_ref().expect("an open loop has them");
        let starts = (delays.len() - delays.count_between(0, generator::LATE_NANOS)) as f64;
        let waiting = if depth == 1 { expected } else { 0.0 };
        checks.push(count("  starts more than 1 ms late".to_owned(), waiting, starts, slack));
    }
    Ok(checks)
}

/// A server that answers after `delay`: the report's percentiles are the server's, both what it
/// measured from request to reply, and from the intended start, which the schedule knows, to when
/// the reply left it. The first is what a store's own figures are; the second holds also when the
/// machine delays everybody. Of a client that sleeps they are shown, not demanded.
pub(super) fn delay(
    setup: &Setup,
    delay: Duration,
    seconds: u64,
) -> Result<Vec<Check>, BenchError> {
    let behaviour =
        Behaviour { delay, stall: None, is_spinning: setup.server_spins, core: setup.server_core };
    let (outcome, measured) = measure(setup, behaviour, DELAY_RATE, 1, 256, seconds)?;
    let reported = latencies(&outcome);
    let expected = since_intended(&outcome, &measured);
    let micros =
        |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    let millis = delay.as_secs_f64() * 1e3;
    let asleep = if setup.client_spins { "" } else { ", asleep" };
    let waited = outcome.threads[0].waited_nanos as f64 / 1e3;
    let mut checks = vec![Check {
        name: format!("{millis} ms{asleep}: client had no CPU for"),
        expected: 0.0,
        reported: waited,
        at_most: 0.0,
        unit: "us",
        // Why the others are wrong, if they are.
        is_shown_only: true,
    }];
    let quantiles = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
    let kinds = [("server's own", &measured.delays, 0.9), ("from start", &expected, 0.99)];
    for (kind, truth, demanded_to) in kinds {
        for (name, quantile) in quantiles {
            let expected = micros(truth, quantile);
            checks.push(Check {
                name: format!("{millis} ms{asleep}: {name}, {kind}"),
                expected,
                reported: micros(&reported, quantile),
                at_most: OFF_MICROS.max(expected * OFF_SHARE),
                unit: "us",
                // One sample in a thousand is the machine's, not the tool's; and of what the server
                // cannot see, the request's way to it, one in a hundred is.
                is_shown_only: !setup.client_spins || quantile > demanded_to,
            });
        }
    }
    Ok(checks)
}

/// From each operation's intended start, which the schedule says, to its reply's leaving the server.
fn since_intended(outcome: &RunOutcome, measured: &Measured) -> Histogram<u64> {
    let mut truth = generator::latency_histogram();
    for (index, sent_at) in (0u64..).zip(&measured.sent_at) {
        let intended = outcome.start + index * Nanos::PER_SECOND / DELAY_RATE;
        truth.saturating_record(sent_at.since(intended).max(1));
    }
    truth
}

fn latencies(outcome: &RunOutcome) -> Histogram<u64> {
    outcome.collected.total.overall()
}

/// Gets at `rate` for so many seconds from a server that behaves so.
fn measure(
    setup: &Setup,
    behaviour: Behaviour,
    rate: u64,
    connections: u32,
    depth: u32,
    seconds: u64,
) -> Result<(RunOutcome, Measured), BenchError> {
    let server = Server::start(behaviour)?;
    let url = TargetUrl {
        scheme: Scheme::Floor,
        authority: server.address.to_string(),
        certificates: None,
    };
    let target = Arc::new(Floor::setup(&url, CONNECT_TIMEOUT)?);
    let plan = Plan {
        share: None,
        threads: 1,
        cores: setup.client_core.into_iter().collect(),
        connections,
        depth,
        phases: vec![Phase {
            name: "measured".to_owned(),
            nanos: seconds * Nanos::PER_SECOND,
            is_measured: true,
            ramp: Some(Ramp::steady(rate as f64)),
        }],
        arrivals: Arrivals::Fixed,
        seed: 1,
        interval_millis: 1000,
        realtime: false,
        spin: setup.client_spins,
        timeout_millis: 10_000,
        think_nanos: 0,
        reconnect: true,
        key_bytes: 24,
        ledger: None,
    };
    let gets = WorkloadName::Gets;
    let source =
        |part, _| Source::Mixed(Mixed::new(gets.mix(), gets.distribution(), 1000, 100, 1, part));
    let outcome = generator::run(&target, &plan, source, &mut Watch::progress(Progress::Rows))?;
    Ok((outcome, server.finish()))
}
