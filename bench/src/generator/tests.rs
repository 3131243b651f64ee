//! The generator against a simulated target and clock: what it claims to measure is known exactly.
//!
//! The simulated target speaks the floor's protocol and answers every request `service` after it
//! was sent; while it stalls, nothing is answered, and everything that waited is answered at the
//! stall's end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use forebay_core::time::Nanos;
use forebay_net::machine::{CloseReason, ConnId, Effects, Machine, SendBuf};

use super::Settings;
use super::machine::Generator;
use super::record::{Interval, Recorder, Sample, Shared};
use super::schedule::{Pacing, Schedule};
use crate::allocations::allocations_in;
use crate::target::floor::{Floor, reply_frame, request_correlations};
use crate::workload::{Load, Mixed, OpKind, Part, Records, Sizes, Source, WorkloadName};

const ALONE: Part = Part { thread: 0, threads: 1 };
const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

fn settings(lanes: u32, depth: u32, pacing: Pacing) -> Settings {
    Settings {
        lanes,
        depth,
        pacing,
        phase_nanos: vec![3 * SECOND],
        warmup_phases: 0,
        interval_nanos: SECOND,
        timeout_nanos: 5 * SECOND,
        think_nanos: 0,
        reconnect: true,
        key_bytes: 24,
    }
}

fn source(name: WorkloadName) -> Source {
    Source::Mixed(Mixed::new(name.mix(), name.distribution(), 1000, 100, 1, ALONE))
}

struct Sim {
    generator: Generator<Floor>,
    warmup_phases: u32,
    samples: Receiver<Sample>,
    now: Nanos,
    fx: Effects,
    service_nanos: u64,
    /// Relative to the run's start, which the first request marks.
    stall: Option<(u64, u64)>,
    /// The connections are cut at this moment, once.
    cut_at: Option<u64>,
    /// Answer nothing at all.
    silent: bool,
    began: Option<Nanos>,
    replies: BTreeMap<(Nanos, u64), (ConnId, u64)>,
    order: u64,
    conns: Vec<ConnId>,
    outstanding_max: usize,
    /// Of the generator, after the run's first second.
    warm_allocations: u64,
}

impl Sim {
    fn new(settings: Settings, source: Source) -> Sim {
        let (send, samples) = channel();
        let (_, recycled) = channel();
        let warmup_phases = settings.warmup_phases as u32;
        let is_open = matches!(settings.pacing, Pacing::Open(_));
        let empty = Interval::new(|kind| source.has(kind), is_open);
        let recorder = Recorder::new(0, empty, send, recycled);
        let address: SocketAddr = ([127, 0, 0, 1], 1).into();
        let generator = Generator::new(
            Arc::new(Floor::at(address)),
            settings,
            Arc::new(Shared::new(1)),
            recorder,
            source,
            None,
        );
        Sim {
            generator,
            warmup_phases,
            samples,
            now: Nanos(1_000_000),
            fx: Effects::default(),
            service_nanos: 100 * MICRO,
            stall: None,
            cut_at: None,
            silent: false,
            began: None,
            replies: BTreeMap::new(),
            order: 0,
            conns: Vec::new(),
            outstanding_max: 0,
            warm_allocations: 0,
        }
    }

    fn run(&mut self) -> (Interval, Vec<Sample>, usize) {
        let mut generation = 0;
        for turn in 0.. {
            assert!(turn < 2_000_000, "the generator spins at {:?}", self.now);
            let (generator, now) = (&mut self.generator, self.now);
            let mut allocated = 0;
            while let Some(entry) = self.replies.first_entry() {
                if entry.key().0 > now {
                    break;
                }
                let (conn, correlation) = entry.remove();
                let frame = reply_frame(correlation);
                allocated += allocations_in(|| {
                    generator.received(conn, &frame, now, &mut self.fx);
                });
            }
            if let (Some(at), Some(began)) = (self.cut_at, self.began)
                && now >= began + at
            {
                self.cut_at = None;
                self.replies.clear();
                for conn in self.conns.drain(..) {
                    generator.closed(conn, CloseReason::Peer, now);
                }
            }
            allocated += allocations_in(|| generator.turn(now, &mut self.fx));
            if self.began.is_some_and(|began| now > began + SECOND) && !self.fx.stop {
                self.warm_allocations += allocated;
            }
            for (token, _) in self.fx.connect.drain(..) {
                generation += 1;
                let conn = ConnId { slot: token as u32, generation };
                generator.connected(conn, 0, Some(token), now);
                self.conns.push(conn);
                self.fx.wake_at = Some(now);
            }
            // Given back empty, as the ring does: a warm machine does not allocate in its effects.
            let mut sends = std::mem::take(&mut self.fx.send);
            for (conn, buf) in sends.drain(..) {
                self.serve(conn, buf);
            }
            self.fx.send = sends;
            if self.fx.stop {
                break;
            }
            let wake = self.fx.wake_at.take().unwrap_or(Nanos(u64::MAX));
            let reply = self.replies.first_key_value().map_or(Nanos(u64::MAX), |(key, _)| key.0);
            let cut = match (self.cut_at, self.began) {
                (Some(at), Some(began)) => began + at,
                _ => Nanos(u64::MAX),
            };
            self.now = wake.min(reply).min(cut).max(self.now);
            assert!(self.now.0 < 100 * SECOND, "the run never ends");
        }
        let samples: Vec<Sample> = self.samples.try_iter().collect();
        let mut total = Interval::nothing();
        for sample in &samples {
            let own = std::iter::once((sample.phase, &sample.interval));
            let others = sample.others.iter().map(|(phase, interval)| (*phase, interval));
            for (phase, interval) in own.chain(others) {
                if phase >= self.warmup_phases {
                    total.add(interval);
                }
            }
        }
        (total, samples, self.outstanding_max)
    }

    fn serve(&mut self, conn: ConnId, buf: SendBuf) {
        let began = *self.began.get_or_insert(self.now);
        for correlation in request_correlations(&buf) {
            let mut due = self.now + self.service_nanos;
            if let Some((from, to)) = self.stall
                && due >= began + from
                && self.now < began + to
            {
                due = due.max(began + to);
            }
            if !self.silent {
                self.replies.insert((due, self.order), (conn, correlation));
                self.order += 1;
            }
        }
        self.outstanding_max = self.outstanding_max.max(self.replies.len());
        self.generator.sent(conn, buf, self.now);
    }
}

fn open(rate: u64) -> Pacing {
    Pacing::Open(Schedule::steady(rate, ALONE))
}

/// The self-test: whatever the generator could send, everything that was meant to start
/// during the stall is late.
#[test]
fn a_stall_of_a_second_shows_ten_thousand_late_samples() {
    let mut sim = Sim::new(settings(64, 1, open(10_000)), source(WorkloadName::Gets));
    sim.stall = Some((SECOND, 2 * SECOND));
    let (total, _, outstanding) = sim.run();
    let gets = total.latencies[OpKind::Get as usize].as_ref().unwrap();
    assert_eq!(gets.len(), 30_000, "every intended operation is there");
    assert_eq!(outstanding, 64, "no connection carried more than its depth");
    let late = gets.len() - gets.count_between(0, 10 * MILLI);
    assert!((9_700..=10_100).contains(&late), "{late} samples over 10 ms");
    // Intended starts are even over the stall, so latencies are even between 0 and a second.
    let half = gets.len() - gets.count_between(0, 500 * MILLI);
    assert!((4_900..=5_100).contains(&half), "{half} samples over half a second");
    assert!((995 * MILLI..=1_002 * MILLI).contains(&gets.max()), "max {}", gets.max());
    assert!((9_700..=10_100).contains(&total.counters.late_starts));
    let delays = total.start_delays.unwrap();
    assert_eq!(delays.len(), 30_000, "every start's delay is noted");
    assert!((985 * MILLI..=1_002 * MILLI).contains(&delays.max()), "max {}", delays.max());
    assert!(delays.value_at_quantile(0.6) < MICRO, "starts outside the stall are in time");
    assert_eq!(total.counters.late_starts, total.counters.late_for_depth);
    assert_eq!(total.counters.errors_all(), 0);
    assert_eq!(sim.generator.into_report().fatal, None);
}

/// A closed loop hides most of the same stall: that is why reports label it.
#[test]
fn a_closed_loop_asks_less_during_a_stall() {
    let mut sim = Sim::new(settings(4, 2, Pacing::Closed), source(WorkloadName::Gets));
    sim.stall = Some((SECOND, 2 * SECOND));
    let (total, samples, outstanding) = sim.run();
    let gets = total.latencies[OpKind::Get as usize].as_ref().unwrap();
    let late = gets.len() - gets.count_between(0, 10 * MILLI);
    assert_eq!((late, outstanding), (8, 8), "one for each slot");
    let by_second: Vec<_> = samples.iter().map(|s| s.interval.successes()).collect();
    assert_eq!(by_second.len(), 4, "three seconds and what was under way at the end");
    assert!(by_second[1] < 20 && by_second[0] > 70_000, "{by_second:?}");
}

/// A hundred microseconds of service and nine hundred of thought: a thousand a second for each slot.
#[test]
fn users_who_think_ask_again_after_their_think_time() {
    let mut thinking = settings(2, 3, Pacing::Closed);
    thinking.think_nanos = 900 * MICRO;
    let mut sim = Sim::new(thinking, source(WorkloadName::Gets));
    let (total, _, outstanding) = sim.run();
    let gets = total.latencies[OpKind::Get as usize].as_ref().unwrap();
    assert!(gets.len().abs_diff(6 * 3000) <= 12, "{}", gets.len());
    assert!(gets.max().abs_diff(100 * MICRO) < 200, "thinking is no latency: {}", gets.max());
    assert!(outstanding <= 6);
}

#[test]
fn a_known_delay_is_reported_exactly() {
    let mut sim = Sim::new(settings(64, 1, open(20_000)), source(WorkloadName::A));
    sim.service_nanos = 350 * MICRO;
    let (total, ..) = sim.run();
    for kind in [OpKind::Get, OpKind::Put] {
        let histogram = total.latencies[kind as usize].as_ref().unwrap();
        for quantile in [0.01, 0.5, 0.999, 1.0] {
            let got = histogram.value_at_quantile(quantile);
            assert!(got.abs_diff(350 * MICRO) <= 350, "{kind:?} {quantile}: {got}");
        }
    }
    assert_eq!(total.counters.late_starts, 0);
}

#[test]
fn a_read_modify_write_counts_once_and_lasts_both_halves() {
    let mut sim = Sim::new(settings(2, 3, Pacing::Closed), source(WorkloadName::F));
    let (total, ..) = sim.run();
    let both = total.latencies[OpKind::ReadModifyWrite as usize].as_ref().unwrap();
    let gets = total.latencies[OpKind::Get as usize].as_ref().unwrap();
    assert!(both.value_at_quantile(0.5).abs_diff(200 * MICRO) < 200);
    assert!(gets.value_at_quantile(0.5).abs_diff(100 * MICRO) < 100);
    assert!(total.latencies[OpKind::Put as usize].is_none());
}

#[test]
fn warm_up_is_not_measured() {
    let phase_nanos = vec![SECOND, 3 * SECOND];
    let warm = Settings { phase_nanos, warmup_phases: 1, ..settings(8, 1, open(1000)) };
    let mut sim = Sim::new(warm, source(WorkloadName::Gets));
    // The stall and its backlog end with the warm-up.
    sim.stall = Some((0, SECOND - 50 * MILLI));
    let (total, ..) = sim.run();
    let gets = total.latencies[OpKind::Get as usize].as_ref().unwrap();
    assert_eq!(gets.len(), 3000);
    assert!(gets.max() < MILLI, "max {}", gets.max());
    assert_eq!(total.counters.late_starts, 0);
}

#[test]
fn silence_is_counted_as_timeouts_never_as_successes() {
    let short = Settings { timeout_nanos: 500 * MILLI, ..settings(4, 1, open(1000)) };
    let mut sim = Sim::new(short, source(WorkloadName::Gets));
    sim.silent = true;
    let (total, ..) = sim.run();
    assert_eq!(total.successes(), 0);
    assert_eq!(total.counters.errors_all(), 3000, "every intended operation has an end");
    let [_, timeouts, .., not_started] = total.counters.errors;
    assert!(timeouts >= 20 && not_started >= 2000, "{:?}", total.counters);
    assert!(sim.generator.into_report().first_error.unwrap().contains("time limit"));
}

#[test]
fn a_target_that_dies_leaves_a_gap_and_the_run_goes_on() {
    let mut sim = Sim::new(settings(8, 1, open(1000)), source(WorkloadName::Gets));
    sim.cut_at = Some(SECOND + 500 * MICRO);
    sim.service_nanos = MILLI;
    let (total, ..) = sim.run();
    let [refused, timeouts, lost, _, _, not_started] = total.counters.errors;
    assert_eq!((refused, timeouts, not_started), (0, 0, 0));
    assert!((1..=8).contains(&lost));
    assert_eq!(total.successes() + lost, 3000);
    assert_eq!(total.counters.reconnects, 8);
    // Nobody was connected for 100 ms, with the clock running.
    let gets = total.latencies[OpKind::Get as usize].as_ref().unwrap();
    assert!((95..=105).contains(&(gets.max() / MILLI)), "max {}", gets.max());
}

#[test]
fn without_reconnecting_the_run_ends_with_its_target() {
    let ledger = Settings { reconnect: false, ..settings(8, 1, Pacing::Closed) };
    let mut sim = Sim::new(ledger, source(WorkloadName::Puts));
    sim.cut_at = Some(SECOND / 2);
    let (total, samples, _) = sim.run();
    assert_eq!(samples.len(), 1, "it did not wait for the end");
    assert!(total.successes() > 0);
    assert_eq!(sim.generator.into_report().fatal, None);
}

#[test]
fn a_load_ends_when_every_record_is_there() {
    let load = Settings { phase_nanos: Vec::new(), ..settings(4, 8, Pacing::Closed) };
    let mut sim = Sim::new(
        load,
        Source::Load(Load::new(Records::All(10_001), Sizes::Fixed(100), 1, ALONE, Arc::default())),
    );
    let (total, ..) = sim.run();
    assert_eq!(total.successes(), 10_001);
    assert_eq!(total.counters.in_time, 10_001);
}

/// Within one interval: the interval's end hands histograms over, once a second.
#[test]
fn a_warm_generator_allocates_nothing() {
    for pacing in [Pacing::Closed, open(50_000)] {
        let long = Settings { interval_nanos: 10 * SECOND, ..settings(16, 4, pacing) };
        let mut sim = Sim::new(long, source(WorkloadName::A));
        let (total, ..) = sim.run();
        assert!(total.successes() >= 150_000);
        assert_eq!(sim.warm_allocations, 0);
    }
}
