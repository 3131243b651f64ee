//! `run --find-rate --p99-us N`: the highest rate of an open loop at which p99 stays below a limit.
//!
//! ```text
//!   rate   first ──×2──×2──×2──► fails          between the last that held and the first that did
//!          held   held  held                    not: halves, until they are 3 % apart
//!                        └──── bisection ────┘
//!                                 └─► confirmation, twice as long; 5, 10, 20 … % less until one holds
//! ```
//!
//! A rate is held if p99 counts at most the limit from the intended start, nothing failed, and 99 %
//! of what was offered was done in time. One measurement decides a step of the search, so luck may
//! decide it too; the confirmation is a run of its own, and what it shows is what is reported. A step
//! at which the client was the limit is not held, whatever its p99: the store was not asked.

use crate::cli::RunArgs;
use crate::commands;
use crate::error::BenchError;
use crate::report::json::Report;
use crate::report::{html, text};

/// Where the search begins, unless --rate says it.
const FIRST_RATE: u64 = 1000;
/// Apart by less than this, and two rates are one.
const PRECISION: f64 = 0.03;
/// Of a rate whose confirmation failed, this much less; each time twice as much, down to a half.
const STEP_BACK: f64 = 0.05;
/// So many confirmations at most.
const CONFIRMATIONS_MAX: u32 = 6;
/// Of what was offered, done in time.
const ACHIEVED_MIN: f64 = 0.99;
/// Seconds of a step, if --duration does not say.
const STEP_SECONDS: u64 = 5;
/// Beyond this the search has left every machine.
const RATE_MAX: u64 = 100_000_000;

/// What is searched for.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct FindRateArgs {
    /// Search for the highest rate whose p99 stays within --p99-us; begins at --rate, or 1000
    #[arg(long, requires = "p99_us", conflicts_with_all = ["ledger", "spawn", "think_time"])]
    pub(crate) find_rate: bool,
    /// The limit of --find-rate
    #[arg(long, value_name = "MICROSECONDS", requires = "find_rate",
          value_parser = clap::value_parser!(u64).range(1..=60_000_000))]
    pub(crate) p99_us: Option<u64>,
}

/// Why a step was not held; None if it was.
fn why_not(report: &Report, limit_us: u64) -> Option<String> {
    let achieved = report.achieved_ops_s / report.offered_ops_s.max(1e-9);
    if report.client_was_the_limit {
        return Some("the client was the limit".to_owned());
    }
    if report.errors > 0 {
        return Some(format!("{} errors", report.errors));
    }
    if achieved < ACHIEVED_MIN {
        return Some(format!("only {:.1} % was done in time", achieved * 100.0));
    }
    (report.overall.p99_us > limit_us as f64).then(|| "p99 over the limit".to_owned())
}

/// The search itself: rates to try, and what became of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Search {
    next: u64,
    held: Option<u64>,
    failed: Option<u64>,
}

impl Search {
    fn from(first: u64) -> Search {
        Search { next: first, held: None, failed: None }
    }

    /// The rate at `next` was held, or not. None: the search is over, and `held` its result.
    fn step(&mut self, is_held: bool) -> Option<u64> {
        match is_held {
            true => self.held = Some(self.next),
            false => self.failed = Some(self.next),
        }
        self.next = match (self.held, self.failed) {
            (Some(held), None) if held >= RATE_MAX => return None,
            (Some(held), None) => (held * 2).min(RATE_MAX),
            (Some(held), Some(failed)) => {
                if (failed - held) as f64 <= held as f64 * PRECISION || failed - held <= 1 {
                    return None;
                }
                held + (failed - held) / 2
            }
            (None, Some(1)) => return None,
            (None, Some(failed)) => (failed / 4).max(1),
            (None, None) => unreachable!("a step either holds or fails"),
        };
        Some(self.next)
    }
}

/// What to try after the confirmation `number` of `rate` failed.
fn after_failure(rate: u64, number: u32) -> u64 {
    let less = (STEP_BACK * f64::from(1u32 << (number - 1))).min(0.5);
    (rate as f64 * (1.0 - less)) as u64
}

/// Searches, confirms, and reports the confirmation.
pub(crate) fn find_rate(args: &RunArgs, limit_us: u64) -> Result<(), BenchError> {
    if !commands::scenario(args)?.phases.is_empty() {
        return Err(BenchError::Usage(
            "--find-rate: the scenario's phases have rates of their own".to_owned(),
        ));
    }
    let seconds = args.duration_or(STEP_SECONDS);
    let mut lines = Vec::new();
    let mut say = |line: String| {
        println!("{line}");
        lines.push(line);
    };
    let at = |rate: u64, seconds: u64, report: bool, remarks: &[String]| RunArgs {
        rate: Some(rate),
        duration: Some(seconds),
        report: args.report.clone().filter(|_| report),
        remarks: [&args.remarks, remarks].concat(),
        ..args.clone()
    };
    let mut attempt = |what: &str, run: &RunArgs| -> Result<(Report, bool), BenchError> {
        let report = commands::measure(run)?;
        let reason = why_not(&report, limit_us);
        say(format!(
            "{what:<14} {:>9} /s offered, {:>11.1} /s done, p99 {:>10.1} us: {}",
            run.rate.unwrap_or_default(),
            report.achieved_ops_s,
            report.overall.p99_us,
            reason.as_deref().unwrap_or("held")
        ));
        Ok((report, reason.is_none()))
    };
    let mut search = Search::from(args.rate.unwrap_or(FIRST_RATE));
    let mut number = 1;
    let mut rate = loop {
        let run = at(search.next, seconds, false, &[]);
        let (_, is_held) = attempt(&format!("step {number}"), &run)?;
        number += 1;
        if search.step(is_held).is_none() {
            break search.held;
        }
    };
    for number in 1..=CONFIRMATIONS_MAX {
        let Some(candidate) = rate.filter(|&rate| rate > 0) else { break };
        let remark = format!(
            "this run confirms a search for the highest rate whose p99 is at most {limit_us} us"
        );
        let run = at(candidate, seconds * 2, true, &[remark]);
        let (report, is_held) = attempt(&format!("confirmation {number}"), &run)?;
        if is_held {
            println!();
            print!("{}", text::render(&report));
            if let Some(dir) = &args.report {
                println!("\nreport       {}", dir.join(html::FILE_NAME).display());
            }
            println!(
                "\nhighest rate with p99 of at most {limit_us} us: {candidate} operations a second \
                 (p99 {:.1} us over {} s)",
                report.overall.p99_us,
                seconds * 2
            );
            return Ok(());
        }
        rate = Some(after_failure(candidate, number));
    }
    Err(BenchError::NoRateHolds { limit_us, lowest: rate.unwrap_or(search.next) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::json::tests::sample;

    /// Against a store that holds every rate up to `best`.
    fn found(first: u64, best: u64) -> (Option<u64>, u32) {
        let mut search = Search::from(first);
        for steps in 1..100 {
            if search.step(search.next <= best).is_none() {
                return (search.held, steps);
            }
        }
        panic!("no end");
    }

    #[test]
    fn the_search_ends_within_three_percent_of_the_best_rate() {
        for best in [1, 7, 900, 12_345, 1_000_000, 77_777_777] {
            for first in [1, 1000, 50_000, 2_000_000] {
                let (held, steps) = found(first, best);
                let held = held.unwrap();
                assert!(held <= best && best as f64 <= held as f64 * 1.03 + 1.0, "{best}: {held}");
                assert!(steps < 45, "{steps} steps from {first} to {best}");
            }
        }
        assert_eq!(found(1000, 0).0, None, "nothing holds");
        assert_eq!(found(1000, u64::MAX).0, Some(RATE_MAX), "everything holds");
    }

    #[test]
    fn confirmations_that_fail_go_back_further_each_time() {
        let mut rate = 10_000;
        let mut tried = Vec::new();
        for number in 1..CONFIRMATIONS_MAX {
            rate = after_failure(rate, number);
            tried.push(rate);
        }
        assert_eq!(tried, [9_500, 8_550, 6_840, 4_104, 2_052]);
    }

    #[test]
    fn a_rate_is_held_only_if_nothing_speaks_against_it() {
        let mut good = sample();
        good.client_was_the_limit = false;
        good.errors = 0;
        good.achieved_ops_s = good.offered_ops_s;
        good.overall.p99_us = 500.0;
        assert_eq!(why_not(&good, 500), None);
        assert!(why_not(&good, 499).unwrap().contains("p99"));
        let late = Report { achieved_ops_s: good.offered_ops_s * 0.98, ..good.clone() };
        assert!(why_not(&late, 500).unwrap().contains("98.0 %"));
        let failing = Report { errors: 3, ..good.clone() };
        assert!(why_not(&failing, 500).unwrap().contains("3 errors"));
        let limited = Report { client_was_the_limit: true, ..good };
        assert!(why_not(&limited, 500).unwrap().contains("client"));
    }
}
