//! Reports for tests, and the summary's accuracy.

use std::collections::BTreeMap;

use super::json::{PhaseReport, Report};
use super::*;
use crate::generator::latency_histogram;
use crate::stamps::Stamps;
use crate::sys::Hardware;

/// One second of a run.
pub(crate) fn row() -> IntervalRow {
    IntervalRow {
        index: 0,
        t_s: 1.0,
        seconds: 1.0,
        phase: "measured".to_owned(),
        is_measured: true,
        offered: 100.0,
        ops: 100,
        p50_us: 120.0,
        p99_us: 150.0,
        p999_us: 180.0,
        max_us: 220.0,
        errors: 0,
        late_starts: 0,
        draining: false,
    }
}

/// A report with something in every place.
pub(crate) fn sample() -> Report {
    let mut histogram = latency_histogram();
    histogram.record_n(120_000, 1000).unwrap();
    let summary = LatencySummary::of(&histogram);
    let ops = BTreeMap::from([("get".to_owned(), summary.clone())]);
    let errors_by_cause = BTreeMap::from([("timeout".to_owned(), 3)]);
    let phase = |name: &str, from_s: f64, duration_s: f64| PhaseReport {
        name: name.to_owned(),
        is_measured: from_s >= 0.0,
        from_s,
        duration_s,
        offered_ops_s: 100.3,
        offered_ends_ops_s: None,
        achieved_ops_s: 100.0,
        errors_by_cause: errors_by_cause.clone(),
        late_starts: 0,
        overall: summary.clone(),
        ops: ops.clone(),
    };
    let warm = IntervalRow { t_s: 0.0, is_measured: false, phase: "warm-up".to_owned(), ..row() };
    Report {
        workload: "gets".to_owned(),
        operations: "get 100 %".to_owned(),
        scenario: None,
        target: "redis://127.0.0.1:6379".to_owned(),
        target_facts: BTreeMap::from([("appendfsync".to_owned(), "always".to_owned())]),
        table: "usertable".to_owned(),
        records: 1000,
        key_bytes: 24,
        value_bytes: 100,
        values_made: crate::workload::VALUES_MADE.to_owned(),
        key_distribution: "uniform".to_owned(),
        connections: 64,
        depth: 1,
        threads: 1,
        client_cores: vec![1],
        timeout_ms: 10_000,
        seed: 1,
        is_interrupted: false,
        planned_duration_s: 2.0,
        rate_mode: build::CLOSED_LOOP.to_owned(),
        is_open_loop: false,
        warmup_s: 1.0,
        duration_s: 2.0,
        offered_ops_s: 100.3,
        achieved_ops_s: 100.0,
        errors: 3,
        errors_by_cause: errors_by_cause.clone(),
        first_error: Some("no answer".to_owned()),
        unknown_writes: 2,
        reads_that_found_nothing: 500,
        late_starts: 2,
        late_starts_waiting_for_depth: 1,
        start_delay: Some(summary.clone()),
        stale_replies: 0,
        reconnects: 0,
        longest_gap_without_success_ms: 1.5,
        ledger: None,
        pauses_over_10_ms: 0,
        client_cpu_fraction: 0.95,
        client_cpu_fraction_by_thread: vec![0.95],
        client_cpu_us_per_op: 2.0,
        client_waited_fraction: 0.0,
        client_spins: false,
        client_was_the_limit: true,
        cpu_stolen_fraction: 0.001,
        clock: "CLOCK_BOOTTIME".to_owned(),
        clock_read_ns: 20.0,
        overall: summary.clone(),
        ops: ops.clone(),
        phases: vec![phase("warm-up", -1.0, 1.0), phase("measured", 0.0, 2.0)],
        intervals: vec![warm, row(), IntervalRow { t_s: 2.0, errors: 3, ..row() }],
        curves: BTreeMap::from([("get".to_owned(), build::curve(&histogram))]),
        workers: Vec::new(),
        hardware: Hardware::here(),
        stamps: Stamps {
            load_average: [0.1, 0.2, 0.3],
            busy_processes: Vec::new(),
            clock_source: "tsc".to_owned(),
            is_virtual_machine: true,
            store: None,
            device: None,
        },
        version: "0.1.0".to_owned(),
        revision: Some("0123456789ab".to_owned()),
        is_optimised_build: true,
        command: vec!["forebay-bench".to_owned(), "run".to_owned()],
        began_unix_s: 1_700_000_000,
        remarks: Vec::new(),
    }
}

#[test]
fn percentiles_are_within_a_thousandth_of_the_truth() {
    let mut histogram = latency_histogram();
    for micros in 1..=100_000u64 {
        histogram.record(micros * 1000).unwrap();
    }
    let summary = LatencySummary::of(&histogram);
    assert_eq!(summary.count, 100_000);
    for (got, truth) in [
        (summary.p50_us, 50_000.0),
        (summary.p90_us, 90_000.0),
        (summary.p99_us, 99_000.0),
        (summary.p999_us, 99_900.0),
        (summary.p9999_us, 99_990.0),
        (summary.p99999_us, 99_999.0),
        (summary.max_us, 100_000.0),
        (summary.mean_us, 50_000.5),
    ] {
        assert!((got - truth).abs() / truth <= 0.001, "{got} for {truth}");
    }
}
