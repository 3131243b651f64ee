//! A run's report for a person at a terminal.

use std::fmt::Write as _;

use super::json::Report;
use super::{LatencySummary, html, workers};

/// The report as lines of text.
pub(crate) fn render(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        writeln!(out, "{words}").expect("writing to a string does not fail");
    };
    for (name, value) in html::stamps(report) {
        line(format_args!("{name:<14} {value}"));
    }
    line(format_args!(
        "{:<14} {:.0} ops/s of {:.0} offered, {} errors",
        "achieved", report.achieved_ops_s, report.offered_ops_s, report.errors
    ));
    line(format_args!(
        "\n{:<18} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "latency, us", "count", "p50", "p90", "p99", "p99.9", "p99.99", "max"
    ));
    let mut row = |name: &str, ops: &LatencySummary| {
        line(format_args!(
            "{name:<18} {:>11} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1}",
            ops.count, ops.p50_us, ops.p90_us, ops.p99_us, ops.p999_us, ops.p9999_us, ops.max_us
        ));
    };
    for (name, ops) in &report.ops {
        row(name, ops);
    }
    if let Some(delay) = &report.start_delay {
        row("start delay", delay);
    }
    for (cause, count) in report.errors_by_cause.iter().filter(|(_, count)| **count > 0) {
        let cause = cause.replace('_', " ");
        line(format_args!("{cause:<18} {count:>11} failed, in no latency above"));
    }
    if report.unknown_writes > 0 {
        let count = report.unknown_writes;
        line(format_args!("{:<18} {count:>11} of these, which may be there", "unknown writes"));
    }
    for phase in report.phases.iter().filter(|_| report.phases.len() > 1) {
        line(format_args!(
            "{}{} from {} s: {:.0} ops/s of {:.0}, p50 {:.1}, p99 {:.1}, max {:.1}",
            if phase.from_s == report.phases[0].from_s { "\n" } else { "" },
            phase.name,
            phase.from_s,
            phase.achieved_ops_s,
            phase.offered_ops_s,
            phase.overall.p50_us,
            phase.overall.p99_us,
            phase.overall.max_us
        ));
    }
    if !report.workers.is_empty() {
        line(format_args!("{}", workers::text(&report.workers).trim_end()));
    }
    for warning in report.warnings() {
        line(format_args!("\nWARNING: {warning}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn the_table_shows_what_the_reader_compares() {
        let text = render(&sample());
        for words in [
            "closed loop: latencies leave out waiting for the client (coordinated omission)",
            "64 connections x depth 1",
            "appendfsync always",
            "100 ops/s",
            "p99.99",
            "timeout                      3 failed",
            "start delay",
            "warm-up from -1 s",
            "WARNING: the client was the limit",
        ] {
            assert!(text.contains(words), "{words} in\n{text}");
        }
    }
}
