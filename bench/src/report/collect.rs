//! Gathers the threads' intervals into rows and totals, and shows progress meanwhile.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{Receiver, Sender};

use super::{IntervalRow, micros};
use crate::generator::{Interval, Sample, latency_histogram};

/// How progress is shown.
#[derive(Clone, Debug)]
pub(crate) enum Progress {
    /// One line a second on a terminal; nothing elsewhere.
    Rows,
    /// A bar towards the number of records.
    Bar(indicatif::ProgressBar),
}

/// Everything that the threads noted.
#[derive(Debug)]
pub(crate) struct Collected {
    /// By time.
    pub(crate) rows: Vec<IntervalRow>,
    /// All of it.
    pub(crate) total: Interval,
}

/// Takes samples until every thread has hung up.
pub(crate) fn collect(
    samples: &Receiver<Sample>,
    recycle: &[Sender<Interval>],
    interval_seconds: f64,
    intervals_in_run: Option<u64>,
    progress: &Progress,
) -> Collected {
    let mut total = Interval::new(|_| false);
    let mut pending: BTreeMap<u64, (usize, Interval)> = BTreeMap::new();
    let mut rows = Vec::new();
    let row_of = |index: u64, interval: &Interval| {
        row(
            (index + 1) as f64 * interval_seconds,
            intervals_in_run.is_some_and(|n| index >= n),
            interval,
        )
    };
    for sample in samples {
        total.add(&sample.interval);
        let (threads, sum) =
            pending.entry(sample.index).or_insert_with(|| (0, Interval::new(|_| false)));
        *threads += 1;
        sum.add(&sample.interval);
        // A thread that has ended no longer wants its memory back.
        let _ = recycle[sample.thread as usize].send(sample.interval);
        if *threads == recycle.len() {
            let (_, sum) = pending.remove(&sample.index).expect("it was just there");
            let row = row_of(sample.index, &sum);
            show(progress, &row, total.successes());
            if !row.draining || !sum.is_empty() {
                rows.push(row);
            }
        }
    }
    // Threads that ended early leave intervals that not everyone contributed to.
    rows.extend(
        pending
            .iter()
            .filter(|(_, (_, sum))| !sum.is_empty())
            .map(|(&index, (_, sum))| row_of(index, sum)),
    );
    finish(progress);
    Collected { rows, total }
}

fn row(t_s: f64, draining: bool, interval: &Interval) -> IntervalRow {
    let mut all = latency_histogram();
    for histogram in interval.latencies.iter().flatten() {
        all.add(histogram).expect("all histograms are alike");
    }
    IntervalRow {
        t_s,
        ops: all.len(),
        p50_us: micros(all.value_at_quantile(0.5)),
        p99_us: micros(all.value_at_quantile(0.99)),
        p999_us: micros(all.value_at_quantile(0.999)),
        max_us: micros(all.max()),
        errors: interval.counters.errors_all(),
        draining,
    }
}

fn show(progress: &Progress, row: &IntervalRow, successes: u64) {
    match progress {
        Progress::Bar(bar) => bar.set_position(successes),
        Progress::Rows if std::io::stderr().is_terminal() => {
            let mut line = format!(
                "\r\x1b[2K{:>6.0} s  {:>9} ops  p50 {:>8.0} us  p99 {:>8.0} us  max {:>8.0} us",
                row.t_s, row.ops, row.p50_us, row.p99_us, row.max_us
            );
            if row.errors > 0 {
                line.push_str(&format!("  {} errors", row.errors));
            }
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
        Progress::Rows => {}
    }
}

fn finish(progress: &Progress) {
    match progress {
        Progress::Bar(bar) => bar.finish_and_clear(),
        Progress::Rows if std::io::stderr().is_terminal() => {
            let _ = std::io::stderr().write_all(b"\r\x1b[2K");
        }
        Progress::Rows => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::workload::OpKind;

    fn sample(thread: u32, index: u64, latencies_us: &[u64]) -> Sample {
        let mut interval = Interval::new(|kind| kind == OpKind::Put);
        for micros in latencies_us {
            let histogram = interval.latencies[OpKind::Put as usize].as_mut().unwrap();
            histogram.record(micros * 1000).unwrap();
        }
        Sample { thread, index, interval }
    }

    #[test]
    fn rows_add_all_threads_and_a_gap_stays_visible() {
        let (send, samples) = channel();
        let (recycle, _kept): (Vec<_>, Vec<_>) = (0..2).map(|_| channel()).unzip();
        for part in [
            sample(0, 0, &[10, 20]),
            sample(0, 1, &[]),
            sample(1, 0, &[30]),
            sample(1, 1, &[]),
            sample(1, 2, &[40]),
            sample(0, 2, &[50]),
            sample(0, 3, &[60]),
            sample(1, 3, &[]),
        ] {
            send.send(part).unwrap();
        }
        drop(send);
        let collected = collect(&samples, &recycle, 1.0, Some(3), &Progress::Rows);
        let brief: Vec<_> =
            collected.rows.iter().map(|row| (row.t_s, row.ops, row.draining)).collect();
        assert_eq!(brief, [(1.0, 3, false), (2.0, 0, false), (3.0, 2, false), (4.0, 1, true)]);
        assert!((collected.rows[0].max_us - 30.0).abs() < 0.05);
        assert_eq!(collected.total.successes(), 6);
    }
}
