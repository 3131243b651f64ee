//! What a run comes to: totals, rows over time, and warnings a reader must not miss.
//!
//! ```text
//!   threads ──Sample──► Collector ──rows, totals──► Report ──► text (stdout), json (--report DIR)
//! ```

pub(crate) mod collect;
pub(crate) mod json;
pub(crate) mod text;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies of one kind of operation, of successes only.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub(crate) struct LatencySummary {
    pub(crate) count: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) p9999_us: f64,
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
            max_us: micros(histogram.max()),
        }
    }
}

/// One interval of the run.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub(crate) struct IntervalRow {
    /// The interval's end, in seconds since the measurement began.
    pub(crate) t_s: f64,
    /// Successes that ended in it.
    pub(crate) ops: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// Failures in it.
    pub(crate) errors: u64,
    /// After the end of the run: operations that were still under way.
    pub(crate) draining: bool,
}

/// Nanoseconds as microseconds.
pub(crate) fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::latency_histogram;

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
            (summary.max_us, 100_000.0),
            (summary.mean_us, 50_000.5),
        ] {
            assert!((got - truth).abs() / truth <= 0.001, "{got} for {truth}");
        }
    }
}
