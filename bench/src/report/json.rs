//! `report.json`: every fact needed to judge and repeat a run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::workers::{self, WorkerReport};
use super::{IntervalRow, LatencySummary};
use crate::error::BenchError;
use crate::generator::Cause;
use crate::ledger::Verdict;
use crate::stamps::Stamps;
use crate::sys::Hardware;

/// What one phase of a run came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PhaseReport {
    pub(crate) name: String,
    /// False for warm-up, which no total contains.
    pub(crate) is_measured: bool,
    /// Its beginning, in seconds since the measurement began; warm-up's is negative.
    pub(crate) from_s: f64,
    pub(crate) duration_s: f64,
    pub(crate) offered_ops_s: f64,
    /// Open loop: the rate at its beginning and at its end.
    #[serde(default)]
    pub(crate) offered_ends_ops_s: Option<(f64, f64)>,
    /// Successes that ended within the phase, by its duration.
    pub(crate) achieved_ops_s: f64,
    pub(crate) errors_by_cause: BTreeMap<String, u64>,
    pub(crate) late_starts: u64,
    /// Of the operations that were meant to start within the phase.
    pub(crate) overall: LatencySummary,
    pub(crate) ops: BTreeMap<String, LatencySummary>,
}

/// A percentile curve: quantile (0 to 1) and microseconds.
pub(crate) type Curve = Vec<(f64, f64)>;

/// A run's report. Field names are the file's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) workload: String,
    /// Percentages of each kind of operation.
    #[serde(default)]
    pub(crate) operations: String,
    /// The scenario's file, word for word, where the load is one.
    #[serde(default)]
    pub(crate) scenario: Option<String>,
    pub(crate) target: String,
    /// Version and durability settings, as the store told them.
    pub(crate) target_facts: BTreeMap<String, String>,
    pub(crate) table: String,
    pub(crate) records: u64,
    pub(crate) key_bytes: u64,
    pub(crate) value_bytes: u64,
    /// What their bytes are.
    #[serde(default)]
    pub(crate) values_made: String,
    pub(crate) key_distribution: String,
    pub(crate) connections: u32,
    pub(crate) depth: u32,
    pub(crate) threads: u32,
    /// The cores that the threads are pinned to, in turn; none if they are not pinned.
    #[serde(default)]
    pub(crate) client_cores: Vec<usize>,
    /// An operation is given up after so long, and counts as an error.
    #[serde(default)]
    pub(crate) timeout_ms: u64,
    pub(crate) seed: u64,
    /// A signal ended the run before its time: what follows is of the part that ran.
    #[serde(default)]
    pub(crate) is_interrupted: bool,
    /// What `duration_s` was to be.
    #[serde(default)]
    pub(crate) planned_duration_s: f64,
    /// Open or closed loop, and what that means for the latencies.
    pub(crate) rate_mode: String,
    pub(crate) is_open_loop: bool,
    pub(crate) warmup_s: f64,
    pub(crate) duration_s: f64,
    /// Open loop: what was meant to start. Closed loop: all attempts, which equals what was achieved
    /// and what failed, because a closed loop offers only what the store takes.
    pub(crate) offered_ops_s: f64,
    /// Successes that ended within the duration, by the duration.
    pub(crate) achieved_ops_s: f64,
    pub(crate) errors: u64,
    pub(crate) errors_by_cause: BTreeMap<String, u64>,
    /// Errors that may have written all the same.
    #[serde(default)]
    pub(crate) unknown_writes: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) reads_that_found_nothing: u64,
    /// Open loop: started more than 1 ms after the intended start.
    pub(crate) late_starts: u64,
    /// Those of them for which every connection's depth was used up.
    pub(crate) late_starts_waiting_for_depth: u64,
    /// Open loop: from the intended start until the operation was started. It is part of its latency.
    pub(crate) start_delay: Option<LatencySummary>,
    pub(crate) stale_replies: u64,
    pub(crate) reconnects: u64,
    pub(crate) longest_gap_without_success_ms: f64,
    /// What the store still held of what it had acknowledged, if that was looked at.
    #[serde(default)]
    pub(crate) ledger: Option<Verdict>,
    /// Times of more than 10 ms in which nothing succeeded.
    pub(crate) pauses_over_10_ms: u64,
    /// CPU time over wall time, mean of the generator's threads.
    pub(crate) client_cpu_fraction: f64,
    pub(crate) client_cpu_fraction_by_thread: Vec<f64>,
    pub(crate) client_cpu_us_per_op: f64,
    /// Of the measured time, what the unluckiest generator thread waited for a CPU that others had:
    /// part of its latencies is this.
    pub(crate) client_waited_fraction: f64,
    /// Its threads never slept: using all of their cores says nothing.
    pub(crate) client_spins: bool,
    /// Some thread used more than 90 % of its core, or, if threads spin, 1 % of the starts were late
    /// by the client's own doing: the figures are the client's limit, perhaps not the store's.
    #[serde(rename = "client_limited")]
    pub(crate) client_was_the_limit: bool,
    /// Of all cores' time during the run, what the hypervisor gave to other machines.
    pub(crate) cpu_stolen_fraction: f64,
    pub(crate) clock: String,
    pub(crate) clock_read_ns: f64,
    /// All kinds of operations together.
    pub(crate) overall: LatencySummary,
    pub(crate) ops: BTreeMap<String, LatencySummary>,
    /// In turn, warm-up first.
    pub(crate) phases: Vec<PhaseReport>,
    pub(crate) intervals: Vec<IntervalRow>,
    /// For each kind of operation: five points to each halving of what is left.
    pub(crate) curves: BTreeMap<String, Curve>,
    /// Of a coordinated run: who generated the load. Empty where this process did.
    #[serde(default)]
    pub(crate) workers: Vec<WorkerReport>,
    pub(crate) hardware: Hardware,
    pub(crate) stamps: Stamps,
    pub(crate) version: String,
    /// The sources that this tool is made of; release builds know.
    #[serde(default)]
    pub(crate) revision: Option<String>,
    /// Whether this tool was compiled with optimisation.
    pub(crate) is_optimised_build: bool,
    pub(crate) command: Vec<String>,
    pub(crate) began_unix_s: u64,
    /// What else a reader must know, from how the run came about.
    pub(crate) remarks: Vec<String>,
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
    let beside = dir.join(format!(".{name}.partial"));
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&beside, text))
        .and_then(|()| std::fs::rename(&beside, &path))
        .map_err(|source| {
            let _ = std::fs::remove_file(&beside);
            BenchError::report_file(&path, source)
        })
}

impl Report {
    /// Writes `report.json` into `dir`.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), BenchError> {
        write_json(dir, FILE_NAME, self)
    }

    /// Reads what [`Report::write`] wrote; `place` is the directory or the file.
    pub(crate) fn read(place: &Path) -> Result<Report, BenchError> {
        let path = if place.is_dir() { place.join(FILE_NAME) } else { place.to_owned() };
        let text = std::fs::read(&path)
            .map_err(|source| BenchError::File { path: path.clone(), source })?;
        serde_json::from_slice(&text).map_err(|source| BenchError::NoReport { path, source })
    }

    /// Version and revision of this tool.
    pub(crate) fn version_line(&self) -> String {
        match &self.revision {
            Some(revision) => format!("{} ({revision})", self.version),
            None => self.version.clone(),
        }
    }

    /// The command as one would type it.
    pub(crate) fn command_line(&self) -> String {
        let quoted = |word: &String| match word.contains(char::is_whitespace) || word.is_empty() {
            true => format!("'{word}'"),
            false => word.clone(),
        };
        self.command.iter().map(quoted).collect::<Vec<_>>().join(" ")
    }

    /// Where the seconds went that no success fell into.
    fn seconds_without_success(&self) -> usize {
        let measured = self.intervals.iter().filter(|row| row.is_measured && !row.draining);
        measured.filter(|row| row.ops == 0 && (row.offered > 0.0 || !self.is_open_loop)).count()
    }

    /// Answers a second, refusals among them: a store that says no keeps up.
    fn answered_ops_s(&self) -> f64 {
        let refused = self.errors_by_cause.get(Cause::Refused.label()).copied().unwrap_or(0);
        self.achieved_ops_s + refused as f64 / self.duration_s
    }

    /// The rates offered in the phases that are measured; None for a closed loop.
    pub(crate) fn offered_range(&self) -> Option<(f64, f64)> {
        let measured = self.phases.iter().filter(|phase| phase.is_measured);
        let mut range: Option<(f64, f64)> = None;
        for (from, to) in measured.filter_map(|phase| phase.offered_ends_ops_s) {
            let (low, high) = range.unwrap_or((f64::INFINITY, 0.0));
            range = Some((low.min(from).min(to), high.max(from).max(to)));
        }
        range
    }

    /// What a reader must not miss.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |words: String| warnings.push(words);
        if self.is_interrupted {
            warn(format!(
                "interrupted: a signal ended this run after {} of {} s; what would have come later is \
                 not in it",
                self.duration_s, self.planned_duration_s
            ));
        }
        workers::warnings(&self.workers, &mut warn);
        if self.client_was_the_limit {
            warn(
                "the client was the limit: a generator thread used more than 90 % of its core, or \
                 could not keep to its schedule. Give it more with --threads, or a core of its own \
                 with --core"
                    .to_owned(),
            );
        }
        let is_whole = self.workers.iter().all(|worker| worker.lost.is_none());
        let is_short = self.answered_ops_s() < self.offered_ops_s * KEPT_UP_MIN;
        if is_whole && self.is_open_loop && is_short {
            warn(format!(
                "the store did not keep up: {:.0} of {:.0} operations a second ended in time. What \
                 waits grows with the length of the run, so these latencies say how long the run \
                 was; offer less to learn about the store",
                self.achieved_ops_s, self.offered_ops_s
            ));
        }
        if !self.is_optimised_build {
            warn(
                "this forebay-bench was compiled without optimisation: build it with --release"
                    .to_owned(),
            );
        }
        if self.errors > 0 {
            let causes: Vec<_> = self
                .errors_by_cause
                .iter()
                .filter(|(_, count)| **count > 0)
                .map(|(cause, count)| format!("{count} {}", cause.replace('_', " ")))
                .collect();
            warn(format!(
                "{} operations failed ({}){}; latencies are of successes only. First: {}",
                self.errors,
                causes.join(", "),
                match self.unknown_writes {
                    0 => String::new(),
                    count => format!(", of them {count} writes whose outcome is unknown"),
                },
                self.first_error.as_deref().unwrap_or("unknown")
            ));
        }
        if let Some(verdict) = self.ledger.as_ref().filter(|verdict| verdict.violations() > 0) {
            warn(format!("acknowledged writes are LOST: of {}", verdict.words()));
        }
        let silent = self.seconds_without_success();
        if silent > 0 {
            warn(format!(
                "in {silent} interval{} nothing succeeded; the longest gap was {:.1} s",
                if silent == 1 { "" } else { "s" },
                self.longest_gap_without_success_ms / 1e3
            ));
        }
        if self.late_starts > 0 {
            let delay = match &self.start_delay {
                Some(delay) => format!(
                    " (start delay p99 {:.1} ms, max {:.1} ms)",
                    delay.p99_us / 1e3,
                    delay.max_us / 1e3
                ),
                None => String::new(),
            };
            warn(format!(
                "{} operations started more than 1 ms after their intended time{delay}, {} of them \
                 because every connection's depth was used up; their latencies include the wait",
                self.late_starts, self.late_starts_waiting_for_depth
            ));
        }
        let reads: u64 = ["get", "read_modify_write"]
            .iter()
            .filter_map(|name| self.ops.get(*name))
            .map(|summary| summary.count)
            .sum();
        if reads > 0 && self.reads_that_found_nothing * 100 > reads {
            warn(format!(
                "{} of {reads} reads found nothing: load the records first \
                 (`forebay-bench load` with the same --records and --key-bytes)",
                self.reads_that_found_nothing
            ));
        }
        if self.stamps.busy_cores() > BUSY_CORES_MAX {
            warn(format!(
                "the machine was not idle when the run began: {}",
                self.stamps.busy_line()
            ));
        }
        if self.client_waited_fraction > WAITED_MAX {
            warn(format!(
                "the client waited {:.1} % of the time for a CPU that others had: part of these \
                 latencies is this machine's. Give it a core of its own with --core",
                self.client_waited_fraction * 100.0
            ));
        }
        if self.cpu_stolen_fraction > STOLEN_MAX {
            warn(format!(
                "the hypervisor gave {:.1} % of the CPU time to other machines during the run",
                self.cpu_stolen_fraction * 100.0
            ));
        }
        warnings
    }
}

/// Other processes using more than this are worth a warning: beyond what the sample's ticks can
/// make of a quiet machine.
pub(super) const BUSY_CORES_MAX: f64 = 0.15;
/// Below this share of the offered rate a queue grows without end.
const KEPT_UP_MIN: f64 = 0.98;
/// Waiting for a CPU that shows in a p99.
const WAITED_MAX: f64 = 0.01;
/// Stolen CPU time that shows in a p99.
const STOLEN_MAX: f64 = 0.01;

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::super::tests::sample;
    use super::*;
    use crate::stamps::processes::Busy;

    #[test]
    fn the_file_has_every_promised_field_and_reads_back() {
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
            "client_limited",
            "seed",
            "command",
            "hardware",
            "stamps",
            "rate_mode",
            "late_starts",
            "longest_gap_without_success_ms",
            "version",
            "phases",
        ] {
            assert!(!json[field].is_null(), "{field}");
        }
        for field in ["count", "p50_us", "p90_us", "p99_us", "p999_us", "p9999_us", "max_us"] {
            assert!(json["ops"]["get"][field].is_number(), "{field}");
        }
        for field in ["t_s", "ops", "p50_us", "p99_us", "p999_us", "max_us", "errors", "offered"] {
            assert!(json["intervals"][0][field].is_number(), "{field}");
        }
        assert_eq!(std::fs::read_dir(&nested).unwrap().count(), 1, "no partial file stays");
        let back = Report::read(&nested).unwrap();
        assert_eq!(serde_json::to_value(&back).unwrap(), json);
        std::fs::write(nested.join(FILE_NAME), "{}").unwrap();
        let error = Report::read(&nested).unwrap_err();
        assert!(matches!(error, BenchError::NoReport { .. }), "{error}");
    }

    #[test]
    fn nothing_suspicious_goes_without_a_warning() {
        let mut suspicious = sample();
        suspicious.stamps.busy_processes = vec![Busy { name: "cc1".to_owned(), cpu_fraction: 0.9 }];
        suspicious.cpu_stolen_fraction = 0.02;
        suspicious.is_optimised_build = false;
        suspicious.client_waited_fraction = 0.05;
        suspicious.intervals[1].ops = 0;
        suspicious.is_open_loop = true;
        suspicious.is_interrupted = true;
        suspicious.planned_duration_s = 30.0;
        suspicious.achieved_ops_s = suspicious.offered_ops_s * 0.9;
        let warnings = suspicious.warnings().join("\n");
        for word in [
            "client was the limit",
            "3 timeout",
            "started more than 1 ms",
            "found nothing",
            "without optimisation",
            "cc1 90 %",
            "hypervisor gave 2.0 %",
            "nothing succeeded",
            "did not keep up",
            "waited 5.0 %",
            "interrupted: a signal ended this run after 2 of 30 s",
        ] {
            assert!(warnings.contains(word), "{word} in {warnings}");
        }
        let clean = Report {
            errors: 0,
            late_starts: 0,
            reads_that_found_nothing: 0,
            client_was_the_limit: false,
            ..sample()
        };
        assert_eq!(clean.warnings(), Vec::<String>::new());
    }

    #[test]
    fn a_full_disk_for_the_report_has_its_own_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let partial = dir.path().join(format!(".{FILE_NAME}.partial"));
        std::os::unix::fs::symlink("/dev/full", partial).unwrap();
        let error = sample().write(dir.path()).unwrap_err();
        assert!(error.to_string().contains("no space left"), "{error}");
        assert_eq!(error.exit_code(), 5);
    }
}
