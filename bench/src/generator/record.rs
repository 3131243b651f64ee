//! What a generator thread writes down.
//!
//! A latency is recorded once, into the current interval's histogram of its kind; the interval goes
//! to the collector on another thread every second, which adds it to the totals and sends the empty
//! histograms back. So the hot path has one histogram (two in an open loop: the start's delay has
//! its own), no lock and no allocation.
//!
//! An operation belongs to the phase of the run that it was meant to start in (a closed loop's: that
//! it started in), whenever it ends. What an earlier phase left under way is kept apart:
//!
//! ```text
//!   phase      │ warm-up      │ steady                      │ burst
//!   intervals  │ 0  │ 1  │ 2  │ 3  │ 4  …                   │
//!                          ▲ current: warm-up
//!                                ▲ current: steady; earlier: [(warm-up, …)]
//! ```
//!
//! Unit: nanoseconds, three significant digits, up to an hour.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};

use forebay_core::time::Nanos;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::workload::OpKind;

/// Longest latency that is told from longer ones.
const LATENCY_NANOS_MAX: u64 = 3600 * Nanos::PER_SECOND;
/// 0.1 % relative error.
const SIGNIFICANT_DIGITS: u8 = 3;

/// An empty histogram of latencies in nanoseconds.
pub(crate) fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, SIGNIFICANT_DIGITS)
        .expect("the bounds are constants that the type accepts")
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The store answered with an error.
    Refused,
    /// No answer within the limit for one operation.
    Timeout,
    /// The connection ended before the answer.
    ConnectionLost,
    /// The store answered that it does not know what becomes of it.
    Unknown,
    /// No replica led within the limit for one operation; none has executed it.
    NoLeader,
    /// Open loop: intended within the run, but no connection was free until its end.
    NotStarted,
}

impl Cause {
    /// All of them.
    pub(crate) const ALL: [Cause; 6] = [
        Cause::Refused,
        Cause::Timeout,
        Cause::ConnectionLost,
        Cause::Unknown,
        Cause::NoLeader,
        Cause::NotStarted,
    ];
    /// How many there are.
    pub(crate) const COUNT: usize = Cause::ALL.len();

    /// Its name in reports.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Cause::Refused => "refused",
            Cause::Timeout => "timeout",
            Cause::ConnectionLost => "connection_lost",
            Cause::Unknown => "unknown",
            Cause::NoLeader => "no_leader",
            Cause::NotStarted => "not_started",
        }
    }
}

/// Counts of one interval, or of a whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// Failed operations, by [`Cause`].
    pub(crate) errors: [u64; Cause::COUNT],
    /// Those of them that may have written all the same: sent, and without an answer that says.
    pub(crate) unknown_writes: u64,
    /// Successful operations that ended within the measured time.
    pub(crate) in_time: u64,
    /// Reads that found no record. They are successes.
    pub(crate) missing: u64,
    /// Open loop: operations started more than [`LATE_NANOS`] after their intended start.
    pub(crate) late_starts: u64,
    /// Those of them that waited because every connection's depth was used up.
    pub(crate) late_for_depth: u64,
    /// Replies to operations given up before.
    pub(crate) stale_replies: u64,
    /// Connections opened again.
    pub(crate) reconnects: u64,
}

/// A start this much after the intended one is late: more than a timer's own error by far.
pub(crate) const LATE_NANOS: u64 = Nanos::PER_MILLI;

impl Counters {
    /// Failed operations.
    pub(crate) fn errors_all(&self) -> u64 {
        self.errors.iter().sum()
    }

    /// Those that failed while the run went on.
    pub(crate) fn errors_before_end(&self) -> u64 {
        self.errors_all() - self.errors[Cause::NotStarted as usize]
    }

    /// Adds `other`.
    pub(crate) fn add(&mut self, other: &Counters) {
        for (sum, more) in self.errors.iter_mut().zip(other.errors) {
            *sum += more;
        }
        self.unknown_writes += other.unknown_writes;
        self.in_time += other.in_time;
        self.missing += other.missing;
        self.late_starts += other.late_starts;
        self.late_for_depth += other.late_for_depth;
        self.stale_replies += other.stale_replies;
        self.reconnects += other.reconnects;
    }
}

/// What happened in one interval on one thread, or in more of both.
#[derive(Clone, Debug)]
pub(crate) struct Interval {
    /// Latencies of successes, for the kinds that occur.
    pub(crate) latencies: [Option<Histogram<u64>>; OpKind::COUNT],
    /// Open loop: from each operation's intended start until it was started, whatever became of it.
    pub(crate) start_delays: Option<Histogram<u64>>,
    /// Everything else.
    pub(crate) counters: Counters,
}

impl Interval {
    /// An empty interval for the kinds that `occurs` names.
    pub(crate) fn new(occurs: impl Fn(OpKind) -> bool, is_open_loop: bool) -> Interval {
        Interval {
            latencies: OpKind::ALL.map(|kind| occurs(kind).then(latency_histogram)),
            start_delays: is_open_loop.then(latency_histogram),
            counters: Counters::default(),
        }
    }

    /// The beginning of a sum.
    pub(crate) fn nothing() -> Interval {
        Interval::new(|_| false, false)
    }

    /// Empty again, keeping its memory.
    pub(crate) fn clear(&mut self) {
        for histogram in self.latencies.iter_mut().chain([&mut self.start_delays]).flatten() {
            histogram.reset();
        }
        self.counters = Counters::default();
    }

    /// Adds `other`.
    pub(crate) fn add(&mut self, other: &Interval) {
        let sums = self.latencies.iter_mut().chain([&mut self.start_delays]);
        for (sum, more) in sums.zip(other.latencies.iter().chain([&other.start_delays])) {
            match (sum, more) {
                (Some(sum), Some(more)) => sum.add(more).expect("all histograms are alike"),
                (sum @ None, Some(more)) => *sum = Some(more.clone()),
                (_, None) => {}
            }
        }
        self.counters.add(&other.counters);
    }

    /// Successes.
    pub(crate) fn successes(&self) -> u64 {
        self.latencies.iter().flatten().map(Histogram::len).sum()
    }

    /// Latencies of all kinds together.
    pub(crate) fn overall(&self) -> Histogram<u64> {
        let mut overall = latency_histogram();
        for histogram in self.latencies.iter().flatten() {
            overall.add(histogram).expect("all histograms are alike");
        }
        overall
    }

    /// Whether nothing was noted.
    pub(crate) fn is_empty(&self) -> bool {
        self.successes() == 0 && self.counters == Counters::default()
    }
}

/// An interval on its way to the collector.
#[derive(Debug)]
pub(crate) struct Sample {
    /// From this thread.
    pub(crate) thread: u32,
    /// Which interval, from 0, warm-up included; the one after the last holds what ended after the
    /// run.
    pub(crate) index: u64,
    /// When it began.
    pub(crate) from: Nanos,
    /// The phase that it lies in.
    pub(crate) phase: u32,
    /// It began when the run was over: what it holds was under way then.
    pub(crate) is_after_end: bool,
    /// The thread sends nothing after it.
    pub(crate) is_last: bool,
    /// Its content, of operations of that phase.
    pub(crate) interval: Interval,
    /// What ended in it and belongs to other phases.
    pub(crate) others: Vec<(u32, Interval)>,
}

/// One thread's notebook.
#[derive(Debug)]
pub(crate) struct Recorder {
    thread: u32,
    index: u64,
    from: Nanos,
    phase: u32,
    is_after_end: bool,
    current: Interval,
    others: Vec<(u32, Interval)>,
    samples: Sender<Sample>,
    recycled: Receiver<Interval>,
}

impl Recorder {
    /// Sends to `samples`; takes used intervals back from `recycled`.
    pub(crate) fn new(
        thread: u32,
        empty: Interval,
        samples: Sender<Sample>,
        recycled: Receiver<Interval>,
    ) -> Recorder {
        Recorder {
            thread,
            index: 0,
            from: Nanos(0),
            phase: 0,
            is_after_end: false,
            current: empty,
            others: Vec::new(),
            samples,
            recycled,
        }
    }

    /// The first interval begins.
    pub(crate) fn begin(&mut self, from: Nanos) {
        self.from = from;
    }

    /// Notes a success of an operation of `phase`; returns the phase's counts, for what else there is
    /// to say of it.
    pub(crate) fn success(&mut self, phase: u32, kind: OpKind, nanos: u64) -> &mut Counters {
        let interval = self.of_phase(phase);
        if let Some(histogram) = &mut interval.latencies[kind as usize] {
            histogram.saturating_record(nanos.max(1));
        }
        &mut interval.counters
    }

    /// Notes how long after its intended start an operation of `phase` was started.
    pub(crate) fn started_after(&mut self, phase: u32, nanos: u64) {
        if let Some(histogram) = &mut self.of_phase(phase).start_delays {
            histogram.saturating_record(nanos.max(1));
        }
    }

    /// Counts of the current interval, for what belongs to no operation.
    pub(crate) fn counters(&mut self) -> &mut Counters {
        &mut self.current.counters
    }

    /// Counts of the current interval for operations of `phase`.
    pub(crate) fn counters_of(&mut self, phase: u32) -> &mut Counters {
        &mut self.of_phase(phase).counters
    }

    #[inline]
    fn of_phase(&mut self, phase: u32) -> &mut Interval {
        if phase == self.phase { &mut self.current } else { self.of_other_phase(phase) }
    }

    #[cold]
    fn of_other_phase(&mut self, phase: u32) -> &mut Interval {
        // At most the phases with operations under way: a handful, after a phase's end.
        let known = self.others.iter().position(|(other, _)| *other == phase);
        let index = known.unwrap_or_else(|| {
            self.others.push((phase, empty_like(&self.current)));
            self.others.len() - 1
        });
        &mut self.others[index].1
    }

    /// Ends the current interval; the next begins at `from` in `phase`, perhaps after the run's end.
    pub(crate) fn roll(&mut self, from: Nanos, phase: u32, is_after_end: bool) {
        self.hand_over(false);
        self.index += 1;
        self.from = from;
        self.phase = phase;
        self.is_after_end = is_after_end;
    }

    /// Ends the current interval, the thread's last.
    pub(crate) fn end(&mut self) {
        self.hand_over(true);
    }

    fn hand_over(&mut self, is_last: bool) {
        let empty = match self.recycled.try_recv() {
            Ok(mut used) => {
                used.clear();
                used
            }
            Err(_) => empty_like(&self.current),
        };
        let sample = Sample {
            thread: self.thread,
            index: self.index,
            from: self.from,
            phase: self.phase,
            is_after_end: self.is_after_end,
            is_last,
            interval: std::mem::replace(&mut self.current, empty),
            others: std::mem::take(&mut self.others),
        };
        // A collector that is gone has an error of its own to report.
        let _ = self.samples.send(sample);
    }
}

fn empty_like(interval: &Interval) -> Interval {
    let mut empty = interval.clone();
    empty.clear();
    empty
}

/// What the threads of a run agree on.
#[derive(Debug)]
pub(crate) struct Shared {
    threads: u32,
    ready: AtomicU32,
    /// 0 until every thread is ready.
    start: AtomicU64,
    last_success: AtomicU64,
    gap_longest: AtomicU64,
    /// Gaps longer than [`PAUSE_NANOS`].
    pauses: AtomicU64,
    stop: AtomicBool,
    /// Nobody proposes the start: it comes from outside.
    is_start_given: bool,
    /// An end before the planned one; the end of time for none.
    end: AtomicU64,
}

/// A time without any success this long is a pause: at the rates measured here, hundreds of
/// operations would have ended in it.
const PAUSE_NANOS: u64 = 10 * Nanos::PER_MILLI;

/// Between everyone being ready and the start: long enough for every thread to notice.
const START_GRACE_NANOS: u64 = 5 * Nanos::PER_MILLI;

/// Between the wish to end early and the end: every thread looks within less.
const END_GRACE_NANOS: u64 = 100 * Nanos::PER_MILLI;

impl Shared {
    /// For a run of `threads`.
    pub(crate) fn new(threads: u32) -> Shared {
        Shared {
            threads,
            ready: AtomicU32::new(0),
            start: AtomicU64::new(0),
            last_success: AtomicU64::new(0),
            gap_longest: AtomicU64::new(0),
            pauses: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            is_start_given: false,
            end: AtomicU64::new(u64::MAX),
        }
    }

    /// As [`Shared::new`], but the start comes from [`Shared::give_start`].
    pub(crate) fn awaiting_start(threads: u32) -> Shared {
        Shared { is_start_given: true, ..Shared::new(threads) }
    }

    /// Whether every thread has all its connections.
    pub(crate) fn all_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) >= self.threads
    }

    /// All threads begin at `start`, or at once if that has passed.
    pub(crate) fn give_start(&self, start: Nanos) {
        self.start.store(start.0, Ordering::Release);
    }

    /// The run ends with the interval that `now` lies in, or with the next where that is nearly over;
    /// at once if it has not begun. Whoever asks again changes nothing.
    pub(crate) fn end_early(&self, now: Nanos, interval_nanos: u64) {
        let start = self.started();
        if start.0 == 0 || now < start {
            self.end_at(Nanos(0));
            self.stop();
            return;
        }
        let intervals = (now.since(start) + END_GRACE_NANOS).div_ceil(interval_nanos);
        self.end_at(start + intervals * interval_nanos);
    }

    /// The run ends at `end`, unless it was to end before.
    pub(crate) fn end_at(&self, end: Nanos) {
        self.end.fetch_min(end.0, Ordering::AcqRel);
    }

    /// The early end, or the end of time.
    pub(crate) fn early_end(&self) -> Nanos {
        Nanos(self.end.load(Ordering::Acquire))
    }

    /// How long after its start the run was to end early, if it was.
    pub(crate) fn ended_early_after(&self) -> Option<u64> {
        match self.early_end() {
            Nanos(u64::MAX) => None,
            end => Some(end.0.saturating_sub(self.started().0)),
        }
    }

    /// One more thread has all its connections.
    pub(super) fn thread_ready(&self) {
        self.ready.fetch_add(1, Ordering::AcqRel);
    }

    /// The common start, once every thread is ready.
    pub(super) fn start(&self, now: Nanos) -> Option<Nanos> {
        if !self.all_ready() {
            return None;
        }
        if self.is_start_given {
            return Some(self.started()).filter(|start| start.0 > 0);
        }
        let proposed = (now + START_GRACE_NANOS).0;
        match self.start.compare_exchange(0, proposed, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Some(Nanos(proposed)),
            Err(agreed) => Some(Nanos(agreed)),
        }
    }

    /// The common start; 0 if the threads never began.
    pub(crate) fn started(&self) -> Nanos {
        Nanos(self.start.load(Ordering::Acquire))
    }

    /// Time without a success counts from `at`.
    pub(super) fn measure_from(&self, at: Nanos) {
        self.last_success.fetch_max(at.0, Ordering::AcqRel);
    }

    /// Some thread saw successes at `now`; its operations have waited for one since `waiting_since`.
    /// A time in which nothing was asked for is no gap. Once a turn, not once an operation.
    pub(super) fn success_at(&self, now: Nanos, waiting_since: Nanos) {
        let before = self.last_success.fetch_max(now.0, Ordering::AcqRel);
        let from = before.max(waiting_since.0);
        if before != 0 && now.0 > from {
            let gap = now.0 - from;
            self.gap_longest.fetch_max(gap, Ordering::AcqRel);
            if gap > PAUSE_NANOS {
                self.pauses.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// How often nothing succeeded on any thread for more than [`PAUSE_NANOS`].
    pub(crate) fn pauses(&self) -> u64 {
        self.pauses.load(Ordering::Acquire)
    }

    /// The longest time without any success on any thread, in nanoseconds.
    pub(crate) fn gap_longest(&self) -> u64 {
        self.gap_longest.load(Ordering::Acquire)
    }

    /// Ends the run on every thread.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Whether the run shall end.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn intervals_reach_the_collector_and_come_back_empty() {
        let (samples, collected) = channel();
        let (give_back, recycled) = channel();
        let empty = Interval::new(|kind| kind == OpKind::Get, true);
        let mut recorder = Recorder::new(3, empty, samples, recycled);
        recorder.success(0, OpKind::Get, 5_000);
        recorder.started_after(0, 7);
        recorder.counters().missing += 1;
        recorder.roll(Nanos(9), 1, false);
        let sample = collected.recv().unwrap();
        assert_eq!((sample.thread, sample.index, sample.interval.successes()), (3, 0, 1));
        assert_eq!(sample.interval.start_delays.as_ref().unwrap().len(), 1);
        give_back.send(sample.interval).unwrap();
        recorder.roll(Nanos(10), 1, true);
        recorder.success(1, OpKind::Get, 1);
        recorder.success(0, OpKind::Get, 1);
        recorder.end();
        let second = collected.recv().unwrap();
        assert!(second.interval.is_empty() && second.others.is_empty());
        assert_eq!((second.from, second.phase), (Nanos(9), 1));
        assert!(!second.is_after_end && !second.is_last);
        let third = collected.recv().unwrap();
        assert_eq!((third.index, third.interval.successes()), (2, 1));
        assert_eq!(third.interval.counters.missing, 0);
        assert!(third.is_after_end && third.is_last);
        let [(phase, late)] = third.others.as_slice() else { panic!("one other phase") };
        assert_eq!(
            (*phase, late.successes()),
            (0, 1),
            "an earlier phase's operation stays its own"
        );
    }

    #[test]
    fn the_longest_gap_spans_threads_and_begins_with_the_measurement() {
        let shared = Shared::new(2);
        shared.measure_from(Nanos(100));
        shared.success_at(Nanos(150), Nanos(0));
        shared.success_at(Nanos(140), Nanos(0));
        shared.success_at(Nanos(220), Nanos(0));
        assert_eq!((shared.gap_longest(), shared.pauses()), (70, 0));
        shared.success_at(Nanos(221 + PAUSE_NANOS), Nanos(0));
        assert_eq!(shared.pauses(), 1);
    }

    #[test]
    fn a_time_in_which_nothing_was_asked_for_is_no_gap() {
        let shared = Shared::new(1);
        shared.measure_from(Nanos(100));
        shared.success_at(Nanos(110), Nanos(100));
        let later = 10 * PAUSE_NANOS;
        shared.success_at(Nanos(later + 30), Nanos(later));
        assert_eq!((shared.gap_longest(), shared.pauses()), (30, 0));
    }

    #[test]
    fn nobody_starts_before_everybody_is_ready() {
        let shared = Shared::new(2);
        shared.thread_ready();
        assert_eq!(shared.start(Nanos(5)), None);
        shared.thread_ready();
        let start = shared.start(Nanos(10)).unwrap();
        assert_eq!(shared.start(Nanos(12)), Some(start), "everyone gets the same");
    }

    #[test]
    fn a_start_from_outside_is_waited_for() {
        let shared = Shared::awaiting_start(1);
        assert!(!shared.all_ready());
        shared.thread_ready();
        assert!(shared.all_ready());
        assert_eq!(shared.start(Nanos(5)), None);
        shared.give_start(Nanos(7));
        assert_eq!(shared.start(Nanos(5)), Some(Nanos(7)));
    }

    #[test]
    fn an_early_end_is_an_intervals_end_that_nobody_has_passed() {
        const SECOND: u64 = Nanos::PER_SECOND;
        let begun = || {
            let shared = Shared::new(1);
            shared.give_start(Nanos(SECOND));
            shared
        };
        let shared = begun();
        assert_eq!(shared.ended_early_after(), None);
        shared.end_early(Nanos(SECOND * 3 / 2), SECOND);
        assert_eq!(shared.ended_early_after(), Some(SECOND));
        shared.end_early(Nanos(SECOND * 7 / 2), SECOND);
        assert_eq!(shared.early_end(), Nanos(2 * SECOND), "asking again changes nothing");
        let shared = begun();
        shared.end_early(Nanos(2 * SECOND - 1), SECOND);
        assert_eq!(shared.ended_early_after(), Some(2 * SECOND), "the first is nearly over");
        let shared = Shared::new(1);
        shared.end_early(Nanos(SECOND), SECOND);
        assert!(shared.stopped(), "it had not begun");
        assert_eq!(shared.ended_early_after(), Some(0));
    }
}
