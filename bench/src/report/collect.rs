//! Gathers the threads' intervals into rows, phases and totals, hands each interval to the raw logs,
//! and shows progress meanwhile.

use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{Receiver, Sender};

use super::gather::{Gather, Whole};
use super::raw::RawLogs;
use super::{IntervalRow, micros};
use crate::generator::{Interval, Phase, Profile, Sample};

/// How progress is shown.
#[derive(Clone, Debug)]
pub(crate) enum Progress {
    /// One line a second on a terminal; nothing elsewhere.
    Rows,
    /// A bar towards the number of records.
    Bar {
        /// It.
        bar: indicatif::ProgressBar,
        /// Records that were there already when this began.
        before: u64,
    },
}

/// Who hears of each interval while the run goes on.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The person at the terminal.
    pub(crate) progress: Progress,
    /// The raw logs of a report.
    pub(crate) raw: Option<RawLogs>,
}

impl Watch {
    /// Nobody but a person.
    pub(crate) fn progress(progress: Progress) -> Watch {
        Watch { progress, raw: None }
    }
}

/// How a run's time is divided.
#[derive(Clone, Debug)]
pub(crate) struct Timing {
    pub(crate) interval_nanos: u64,
    /// In turn; none for a run until its source is exhausted.
    pub(crate) phases: Vec<Phase>,
    /// What an open loop offers.
    pub(crate) profile: Option<Profile>,
}

impl Timing {
    pub(crate) fn warmup_nanos(&self) -> u64 {
        self.phases.iter().filter(|phase| !phase.is_measured).map(|phase| phase.nanos).sum()
    }

    pub(crate) fn is_measured(&self, phase: u32) -> bool {
        self.phases.get(phase as usize).is_none_or(|phase| phase.is_measured)
    }

    fn row(&self, whole: &Whole, interval: &Interval) -> IntervalRow {
        let &Whole { index, phase, is_after_end: draining, .. } = whole;
        let all = interval.overall();
        let end = (index + 1) * self.interval_nanos;
        let errors = interval.counters.errors_before_end();
        let offered = match &self.profile {
            _ if draining => 0.0,
            Some(profile) => {
                profile.offered_until(end) - profile.offered_until(end - self.interval_nanos)
            }
            None => (all.len() + errors) as f64,
        };
        IntervalRow {
            index,
            t_s: (end as f64 - self.warmup_nanos() as f64) / 1e9,
            seconds: self.interval_nanos as f64 / 1e9,
            phase: self.phases.get(phase as usize).map_or("run", |phase| &phase.name).to_owned(),
            is_measured: self.is_measured(phase),
            offered,
            ops: all.len(),
            p50_us: micros(all.value_at_quantile(0.5)),
            p99_us: micros(all.value_at_quantile(0.99)),
            p999_us: micros(all.value_at_quantile(0.999)),
            max_us: micros(all.max()),
            errors,
            late_starts: interval.counters.late_starts,
            draining,
        }
    }
}

/// Everything that the threads noted.
#[derive(Debug)]
pub(crate) struct Collected {
    /// By time, warm-up included.
    pub(crate) rows: Vec<IntervalRow>,
    /// By phase, warm-up included.
    pub(crate) phases: Vec<Interval>,
    /// All phases that are measured.
    pub(crate) total: Interval,
}

impl Collected {
    /// In the interval `index`, `count` operations were never started.
    pub(crate) fn add_not_started(&mut self, index: u64, count: u64) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.index == index) {
            row.errors += count;
        }
    }
}

/// Makes rows, phases and totals of the intervals that come in.
#[derive(Debug)]
pub(crate) struct Collector<'a> {
    gather: Gather,
    timing: &'a Timing,
    watch: &'a mut Watch,
    phases: Vec<Interval>,
    rows: Vec<IntervalRow>,
    successes: u64,
}

impl<'a> Collector<'a> {
    /// Of `everyone`, threads or machines.
    pub(crate) fn new(everyone: usize, timing: &'a Timing, watch: &'a mut Watch) -> Collector<'a> {
        Collector {
            gather: Gather::new(everyone),
            phases: vec![Interval::nothing(); timing.phases.len().max(1)],
            timing,
            watch,
            rows: Vec::new(),
            successes: 0,
        }
    }

    /// One of them brings an interval.
    pub(crate) fn take(&mut self, sample: &Sample) {
        self.gather.add(sample);
        self.finish_whole();
    }

    /// One of them brings nothing from the interval `from` on.
    pub(crate) fn leaves(&mut self, from: u64) {
        self.gather.leaves(from);
        self.finish_whole();
    }

    fn finish_whole(&mut self) {
        while let Some(whole) = self.gather.next() {
            self.finish_interval(&whole);
        }
    }

    fn finish_interval(&mut self, whole: &Whole) {
        let timing = self.timing;
        // A row shows its phase if that is warm-up, else all that is measured.
        let mut shown = Interval::nothing();
        for (&of, part) in &whole.parts {
            self.phases[of as usize].add(part);
            if timing.is_measured(of) == timing.is_measured(whole.phase) {
                shown.add(part);
            }
            self.successes += part.successes();
        }
        let row = timing.row(whole, &shown);
        show(&self.watch.progress, &row, self.successes);
        if row.draining && shown.is_empty() {
            return;
        }
        if let Some(raw) = &mut self.watch.raw
            && row.is_measured
        {
            raw.interval(whole.from, &row, &shown);
        }
        self.rows.push(row);
    }

    /// Nobody brings anything more.
    pub(crate) fn finish(mut self) -> Collected {
        while let Some(whole) = self.gather.rest() {
            self.finish_interval(&whole);
        }
        finish(&self.watch.progress);
        let mut total = Interval::nothing();
        for (phase, interval) in (0u32..).zip(&self.phases) {
            if self.timing.is_measured(phase) {
                total.add(interval);
            }
        }
        Collected { rows: self.rows, phases: self.phases, total }
    }
}

/// Takes samples until every thread has hung up.
pub(crate) fn collect(
    samples: &Receiver<Sample>,
    recycle: &[Sender<Interval>],
    timing: &Timing,
    watch: &mut Watch,
) -> Collected {
    let mut collector = Collector::new(recycle.len(), timing, watch);
    for sample in samples {
        collector.take(&sample);
        // A thread that has ended no longer wants its memory back.
        let _ = recycle[sample.thread as usize].send(sample.interval);
    }
    collector.finish()
}

fn show(progress: &Progress, row: &IntervalRow, successes: u64) {
    match progress {
        Progress::Bar { bar, before } => bar.set_position(before + successes),
        Progress::Rows if std::io::stderr().is_terminal() => {
            let mut line = format!(
                "\r\x1b[2K{:>6.0} s  {:>9} ops  p50 {:>8.0} us  p99 {:>8.0} us  max {:>8.0} us",
                row.t_s, row.ops, row.p50_us, row.p99_us, row.max_us
            );
            if row.errors > 0 {
                line.push_str(&format!("  {} errors", row.errors));
            }
            if !row.is_measured {
                line.push_str(&format!("  ({})", row.phase));
            }
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
        Progress::Rows => {}
    }
}

fn finish(progress: &Progress) {
    match progress {
        // Another pass may follow.
        Progress::Bar { .. } => {}
        Progress::Rows if std::io::stderr().is_terminal() => {
            let _ = std::io::stderr().write_all(b"\r\x1b[2K");
        }
        Progress::Rows => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use forebay_core::time::Nanos;

    use super::*;
    use crate::generator::Ramp;
    use crate::workload::OpKind;

    const SECOND: u64 = 1_000_000_000;

    fn interval(latencies_us: &[u64]) -> Interval {
        let mut interval = Interval::new(|kind| kind == OpKind::Put, true);
        for micros in latencies_us {
            let histogram = interval.latencies[OpKind::Put as usize].as_mut().unwrap();
            histogram.record(micros * 1000).unwrap();
        }
        interval
    }

    fn sample(thread: u32, index: u64, phase: u32, latencies_us: &[u64]) -> Sample {
        Sample {
            thread,
            index,
            from: Nanos(index * SECOND),
            phase,
            is_after_end: index >= 3,
            is_last: index >= 3,
            interval: interval(latencies_us),
            others: Vec::new(),
        }
    }

    fn timing(phases: &[(&str, u64)]) -> Timing {
        let phases: Vec<_> = phases
            .iter()
            .map(|(name, seconds)| Phase {
                name: (*name).to_owned(),
                nanos: seconds * SECOND,
                is_measured: *name != "warm-up",
                ramp: Some(Ramp::steady(10.0)),
            })
            .collect();
        let ramps = phases.iter().map(|phase| (phase.nanos, phase.ramp.unwrap()));
        let profile = Some(Profile::new(ramps));
        Timing { interval_nanos: SECOND, phases, profile }
    }

    fn gather(threads: usize, timing: &Timing, parts: Vec<Sample>) -> Collected {
        let (send, samples) = channel();
        let (recycle, _kept): (Vec<_>, Vec<_>) = (0..threads).map(|_| channel()).unzip();
        for part in parts {
            send.send(part).unwrap();
        }
        drop(send);
        collect(&samples, &recycle, timing, &mut Watch::progress(Progress::Rows))
    }

    #[test]
    fn rows_add_all_threads_and_a_gap_stays_visible() {
        let parts = vec![
            sample(0, 0, 0, &[10, 20]),
            sample(0, 1, 0, &[]),
            sample(1, 0, 0, &[30]),
            sample(1, 1, 0, &[]),
            sample(1, 2, 0, &[40]),
            sample(0, 2, 0, &[50]),
            sample(0, 3, 0, &[60]),
            sample(1, 3, 0, &[]),
        ];
        let mut collected = gather(2, &timing(&[("steady", 3)]), parts);
        let brief: Vec<_> =
            collected.rows.iter().map(|row| (row.t_s, row.ops, row.draining)).collect();
        assert_eq!(brief, [(1.0, 3, false), (2.0, 0, false), (3.0, 2, false), (4.0, 1, true)]);
        assert!((collected.rows[0].max_us - 30.0).abs() < 0.05);
        let offered: Vec<_> = collected.rows.iter().map(|row| row.offered.round()).collect();
        assert_eq!(offered, [10.0, 10.0, 10.0, 0.0], "the gap was offered as much");
        assert_eq!(collected.total.successes(), 6);
        collected.add_not_started(1, 7);
        assert_eq!(collected.rows[1].errors, 7, "in the interval that they were meant for");
    }

    #[test]
    fn phases_keep_apart_what_they_started_and_warm_up_is_not_in_the_total() {
        let mut second = sample(0, 1, 1, &[10]);
        // Began in the warm-up, ended after it.
        second.others.push((0, interval(&[900])));
        let mut third = sample(0, 2, 2, &[30, 30]);
        third.others.push((1, interval(&[500])));
        let timing = timing(&[("warm-up", 1), ("steady", 1), ("burst", 1)]);
        let collected = gather(1, &timing, vec![sample(0, 0, 0, &[1, 1]), second, third]);
        let counts: Vec<_> = collected.phases.iter().map(Interval::successes).collect();
        assert_eq!(counts, [3, 2, 2]);
        assert_eq!(collected.total.successes(), 4);
        let brief: Vec<_> = collected
            .rows
            .iter()
            .map(|row| (row.t_s, row.phase.as_str(), row.is_measured, row.ops))
            .collect();
        let expected =
            [(0.0, "warm-up", false, 2), (1.0, "steady", true, 1), (2.0, "burst", true, 3)];
        assert_eq!(brief, expected, "a row shows what ended in it, warm-up's rest left out");
    }
}
