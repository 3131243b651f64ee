//! What a run comes to: totals, phases, rows over time, and warnings a reader must not miss.
//!
//! ```text
//!   threads ──Sample──► Collector ──rows, phases, totals──► Report ──► text (stdout)
//!                          │                                   ├─► report.json ──► diff A B
//!                          └──► raw: OPERATION.hlog, .hgrm     └─► report.html, latency.svg
//! ```
//!
//! `Report` is everything; text and pages are made from it alone, so what a page shows is in the
//! file.

pub(crate) mod build;
pub(crate) mod collect;
pub(crate) mod gather;
pub(crate) mod html;
pub(crate) mod json;
pub(crate) mod plots;
pub(crate) mod raw;
pub(crate) mod svg;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod text;
pub(crate) mod workers;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Latencies of one kind of operation, of successes only.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(crate) struct LatencySummary {
    pub(crate) count: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) p9999_us: f64,
    pub(crate) p99999_us: f64,
    pub(crate) max_us: f64,
}

impl LatencySummary {
    /// Of a histogram in nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> LatencySummary {
        let at = |quantile| micros(histogram.value_at_quantile(quantile));
        LatencySummary {
            count: histogram.len(),
            mean_us: (histogram.mean()).round() / 1000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            p99999_us: at(0.99999),
            max_us: micros(histogram.max()),
        }
    }

    /// What tables show, by name.
    pub(crate) fn columns(&self) -> [(&'static str, f64); 7] {
        [
            ("p50", self.p50_us),
            ("p90", self.p90_us),
            ("p99", self.p99_us),
            ("p99.9", self.p999_us),
            ("p99.99", self.p9999_us),
            ("p99.999", self.p99999_us),
            ("max", self.max_us),
        ]
    }
}

/// One interval of the run.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(crate) struct IntervalRow {
    /// From the run's first, warm-up included.
    #[serde(skip)]
    pub(crate) index: u64,
    /// The interval's end, in seconds since the measurement began; warm-up ends at 0.
    pub(crate) t_s: f64,
    /// Its length.
    pub(crate) seconds: f64,
    pub(crate) phase: String,
    /// False for warm-up.
    pub(crate) is_measured: bool,
    /// Operations that were meant to start in it; of a closed loop, successes and failures.
    pub(crate) offered: f64,
    /// Successes that ended in it.
    pub(crate) ops: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// Failures in it; what was never started, in the interval that it was meant for.
    pub(crate) errors: u64,
    /// Open loop: started more than 1 ms after the intended start.
    pub(crate) late_starts: u64,
    /// After the end of the run: operations that were still under way.
    pub(crate) draining: bool,
}

/// Nanoseconds as microseconds.
pub(crate) fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

/// The raw histograms beside a report, by name.
pub(crate) fn raw_files(report: &json::Report) -> Vec<String> {
    let names = report.ops.keys();
    names.flat_map(|name| [format!("{name}.hlog"), format!("{name}.hgrm")]).collect()
}
