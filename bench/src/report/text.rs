//! A run's report for a person.

use std::fmt::Write as _;

use super::json::Report;

/// The report as lines of text.
pub(crate) fn render(report: &Report) -> String {
    let mut out = String::new();
    let facts: Vec<_> =
        report.target_facts.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let mut line = |name: &str, value: String| {
        writeln!(out, "{name:<12} {value}").expect("writing to a string does not fail");
    };
    line(
        "workload",
        format!(
            "{}: {} records, {} B keys, {} B values, {}, seed {}",
            report.workload,
            report.records,
            report.key_bytes,
            report.value_bytes,
            report.key_distribution,
            report.seed
        ),
    );
    line(
        "target",
        match facts.is_empty() {
            true => report.target.clone(),
            false => format!("{} ({})", report.target, facts.join(", ")),
        },
    );
    line(
        "load",
        format!(
            "{}, {} connections x depth {}, {} thread{}, {} s after {} s of warm-up",
            report.rate_mode,
            report.connections,
            report.depth,
            report.threads,
            if report.threads == 1 { "" } else { "s" },
            report.duration_s,
            report.warmup_s
        ),
    );
    line("machine", report.hardware.line());
    line(
        "clock",
        format!(
            "{}, {:.0} ns a reading; one reading for each batch of events, so latencies are never too \
         short",
            report.clock, report.clock_read_ns
        ),
    );
    line(
        "achieved",
        format!(
            "{:.0} ops/s of {:.0} offered, {} errors, longest gap without a success {:.1} ms",
            report.achieved_ops_s,
            report.offered_ops_s,
            report.errors,
            report.longest_gap_without_success_ms
        ),
    );
    line(
        "client CPU",
        format!(
            "{:.0} % of a core for each thread, {:.2} us for each operation",
            report.client_cpu_fraction * 100.0,
            report.client_cpu_us_per_op
        ),
    );
    writeln!(
        out,
        "\n{:<18} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "latency, us", "count", "p50", "p90", "p99", "p99.9", "p99.99", "max"
    )
    .expect("writing to a string does not fail");
    for (name, ops) in &report.ops {
        writeln!(
            out,
            "{name:<18} {:>11} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1}",
            ops.count, ops.p50_us, ops.p90_us, ops.p99_us, ops.p999_us, ops.p9999_us, ops.max_us
        )
        .expect("writing to a string does not fail");
    }
    for warning in report.warnings() {
        writeln!(out, "\nWARNING: {warning}").expect("writing to a string does not fail");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::json::tests::sample;
    use super::*;

    #[test]
    fn the_table_shows_what_the_reader_compares() {
        let text = render(&sample());
        for words in [
            "closed loop",
            "64 connections x depth 1",
            "appendfsync always",
            "100 ops/s",
            "p99.99",
            "WARNING: the client was the limit",
        ] {
            assert!(text.contains(words), "{words} in\n{text}");
        }
    }
}
