//! `report.json`: every fact needed to judge and repeat a run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::{IntervalRow, LatencySummary};
use crate::error::BenchError;
use crate::sys::Hardware;

/// A run's report. Field names are the file's.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) workload: String,
    pub(crate) target: String,
    /// Version and durability settings, as the store told them.
    pub(crate) target_facts: BTreeMap<String, String>,
    pub(crate) table: String,
    pub(crate) records: u64,
    pub(crate) key_bytes: u64,
    pub(crate) value_bytes: u64,
    pub(crate) key_distribution: String,
    pub(crate) connections: u32,
    pub(crate) depth: u32,
    pub(crate) threads: u32,
    pub(crate) seed: u64,
    /// `closed loop` or `open loop, fixed schedule`.
    pub(crate) rate_mode: String,
    pub(crate) warmup_s: f64,
    pub(crate) duration_s: f64,
    /// Open loop: the rate asked for. Closed loop: all attempts, which equals what was achieved
    /// and what failed, because a closed loop offers only what the store takes.
    pub(crate) offered_ops_s: f64,
    /// Successes that ended within the duration, by the duration.
    pub(crate) achieved_ops_s: f64,
    pub(crate) errors: u64,
    pub(crate) errors_by_cause: BTreeMap<String, u64>,
    pub(crate) first_error: Option<String>,
    pub(crate) reads_that_found_nothing: u64,
    /// Open loop: started more than 1 ms after the intended start.
    pub(crate) late_starts: u64,
    /// Those of them for which every connection's depth was used up.
    pub(crate) late_starts_waiting_for_depth: u64,
    pub(crate) stale_replies: u64,
    pub(crate) reconnects: u64,
    pub(crate) longest_gap_without_success_ms: f64,
    /// Times of more than 10 ms in which nothing succeeded.
    pub(crate) pauses_over_10_ms: u64,
    /// CPU time over wall time, mean of the generator's threads.
    pub(crate) client_cpu_fraction: f64,
    pub(crate) client_cpu_fraction_by_thread: Vec<f64>,
    pub(crate) client_cpu_us_per_op: f64,
    /// Some thread used more than 90 % of its core: the figures are the client's limit, perhaps
    /// not the store's.
    pub(crate) client_was_the_limit: bool,
    pub(crate) clock: String,
    pub(crate) clock_read_ns: f64,
    /// All kinds of operations together.
    pub(crate) overall: LatencySummary,
    pub(crate) ops: BTreeMap<String, LatencySummary>,
    pub(crate) intervals: Vec<IntervalRow>,
    pub(crate) hardware: Hardware,
    pub(crate) version: String,
    pub(crate) command: Vec<String>,
    pub(crate) began_unix_s: u64,
}

/// The file's name in the report directory.
pub(crate) const FILE_NAME: &str = "report.json";

/// Writes `content` into the file `name` of `dir`, which is created if need be. A reader never sees
/// half a file: it is written beside and renamed.
pub(crate) fn write_json(
    dir: &Path,
    name: &str,
    content: &impl Serialize,
) -> Result<(), BenchError> {
    let path = dir.join(name);
    let mut text = serde_json::to_string_pretty(content)
        .map_err(|error| BenchError::File { path, source: error.into() })?;
    text.push('\n');
    write_text(dir, name, &text)
}

/// As [`write_json`], for text.
pub(crate) fn write_text(dir: &Path, name: &str, text: &str) -> Result<(), BenchError> {
    let path = dir.join(name);
    let failed = |source| BenchError::File { path: path.clone(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let beside = dir.join(format!(".{name}.partial"));
    std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, &path)).map_err(failed)
}

impl Report {
    /// Writes `report.json` into `dir`.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), BenchError> {
        write_json(dir, FILE_NAME, self)
    }

    /// What a reader must not miss.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.client_was_the_limit {
            warnings.push(
                "the client was the limit: a generator thread used more than 90 % of its core. \
                 Give it more with --threads, or a core of its own with --core"
                    .to_owned(),
            );
        }
        if self.errors > 0 {
            let causes: Vec<_> = self
                .errors_by_cause
                .iter()
                .filter(|(_, count)| **count > 0)
                .map(|(cause, count)| format!("{count} {cause}"))
                .collect();
            warnings.push(format!(
                "{} operations failed ({}); latencies are of successes only. First: {}",
                self.errors,
                causes.join(", "),
                self.first_error.as_deref().unwrap_or("unknown")
            ));
        }
        if self.late_starts > 0 {
            warnings.push(format!(
                "{} operations started more than 1 ms after their intended time, {} of them because \
                 every connection's depth was used up; their latencies include the wait",
                self.late_starts, self.late_starts_waiting_for_depth
            ));
        }
        let reads: u64 = ["get", "read_modify_write"]
            .iter()
            .filter_map(|name| self.ops.get(*name))
            .map(|summary| summary.count)
            .sum();
        if reads > 0 && self.reads_that_found_nothing * 100 > reads {
            warnings.push(format!(
                "{} of {reads} reads found nothing: load the records first \
                 (`forebay-bench load` with the same --records and --key-bytes)",
                self.reads_that_found_nothing
            ));
        }
        warnings
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::generator::latency_histogram;

    /// A report with something in every place.
    pub(crate) fn sample() -> Report {
        let mut histogram = latency_histogram();
        histogram.record_n(120_000, 1000).unwrap();
        Report {
            workload: "gets".to_owned(),
            target: "redis://127.0.0.1:6379".to_owned(),
            target_facts: BTreeMap::from([("appendfsync".to_owned(), "always".to_owned())]),
            table: "usertable".to_owned(),
            records: 1000,
            key_bytes: 24,
            value_bytes: 100,
            key_distribution: "uniform".to_owned(),
            connections: 64,
            depth: 1,
            threads: 1,
            seed: 1,
            rate_mode: "closed loop".to_owned(),
            warmup_s: 1.0,
            duration_s: 10.0,
            offered_ops_s: 100.3,
            achieved_ops_s: 100.0,
            errors: 3,
            errors_by_cause: BTreeMap::from([("timeout".to_owned(), 3)]),
            first_error: Some("no answer".to_owned()),
            reads_that_found_nothing: 500,
            late_starts: 2,
            late_starts_waiting_for_depth: 1,
            stale_replies: 0,
            reconnects: 0,
            longest_gap_without_success_ms: 1.5,
            pauses_over_10_ms: 0,
            client_cpu_fraction: 0.95,
            client_cpu_fraction_by_thread: vec![0.95],
            client_cpu_us_per_op: 2.0,
            client_was_the_limit: true,
            clock: "CLOCK_BOOTTIME".to_owned(),
            clock_read_ns: 20.0,
            overall: LatencySummary::of(&histogram),
            ops: BTreeMap::from([("get".to_owned(), LatencySummary::of(&histogram))]),
            intervals: vec![IntervalRow {
                t_s: 1.0,
                ops: 100,
                p50_us: 120.0,
                p99_us: 120.0,
                p999_us: 120.0,
                max_us: 120.0,
                errors: 0,
                draining: false,
            }],
            hardware: Hardware::here(),
            version: "0.1.0".to_owned(),
            command: vec!["forebay-bench".to_owned(), "run".to_owned()],
            began_unix_s: 0,
        }
    }

    #[test]
    fn the_file_has_every_promised_field() {
        let dir = tempfile::tempdir().unwrap();
        let nested = dir.path().join("a/b");
        sample().write(&nested).unwrap();
        let text = std::fs::read_to_string(nested.join(FILE_NAME)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        for field in [
            "workload",
            "target",
            "connections",
            "depth",
            "duration_s",
            "offered_ops_s",
            "achieved_ops_s",
            "errors",
            "client_cpu_fraction",
            "seed",
            "command",
            "hardware",
            "rate_mode",
            "late_starts",
            "longest_gap_without_success_ms",
        ] {
            assert!(!json[field].is_null(), "{field}");
        }
        for field in ["count", "p50_us", "p90_us", "p99_us", "p999_us", "p9999_us", "max_us"] {
            assert!(json["ops"]["get"][field].is_number(), "{field}");
        }
        for field in ["t_s", "ops", "p50_us", "p99_us", "p999_us", "max_us", "errors"] {
            assert!(json["intervals"][0][field].is_number(), "{field}");
        }
        assert_eq!(std::fs::read_dir(&nested).unwrap().count(), 1, "no partial file stays");
    }

    #[test]
    fn nothing_suspicious_goes_without_a_warning() {
        let warnings = sample().warnings().join("\n");
        for word in ["client was the limit", "3 timeout", "started more than 1 ms", "found nothing"]
        {
            assert!(warnings.contains(word), "{word} in {warnings}");
        }
        let clean = Report {
            errors: 0,
            late_starts: 0,
            reads_that_found_nothing: 0,
            client_was_the_limit: false,
            ..sample()
        };
        assert!(clean.warnings().is_empty());
    }
}
