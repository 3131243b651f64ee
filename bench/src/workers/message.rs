//! What coordinator and worker say to each other, and what is believed of it.
//!
//! ```text
//!   coordinator                         worker
//!   Hello ────────────────────────────►
//!         ◄──────────────────────────── Hello (version, busy or not, its machine)
//!   Ping  ────────────────────────────►                          × 32: its clock
//!         ◄──────────────────────────── Pong
//!   Prepare (job) ────────────────────► target found, table there
//!         ◄──────────────────────────── Prepared (what the target says about itself)
//!         ◄──────────────────────────── Ready: every connection is open
//!   Start (at, in the worker's clock) ► load
//!         ◄──────────────────────────── Interval × n
//!   EndAt (after a signal) ───────────►
//!         ◄──────────────────────────── Finished, or Failed
//!   Ping … Pong: has a clock moved?
//! ```
//!
//! A load of records goes the same way up to Start, which means at once; then the worker says Loaded
//! now and then, and LoadEnded when its part is there.
//!
//! A job has passed the command line's checks on the coordinator; [`Job::check`] repeats those that a
//! worker's life depends on. Histograms travel as HdrHistogram's V2 compressed encoding in base64,
//! as they stand in `.hlog` files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use forebay_core::time::Nanos;

use super::error::WorkerError;
use crate::generator::{
    Arrivals, Counters, Interval, Phase, Plan, Sample, Share, ThreadReport, latency_histogram,
};
use crate::report::build::Before;
use crate::report::gather::Whole;
use crate::sys::Hardware;
use crate::target::TargetUrl;
use crate::workload::{KEY_BYTES_MAX, KEY_BYTES_MIN, OpKind, PHASES_MAX, Shape};

/// To be raised whenever a message changes.
pub(super) const PROTOCOL: u32 = 2;

/// From the coordinator.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWorker {
    Hello { protocol: u32, version: String },
    Ping,
    Prepare(Box<Job>),
    Start { at: u64 },
    EndAt { at: u64 },
    Alive,
}

/// From a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToCoordinator {
    Hello { protocol: u32, version: String, is_busy: bool, hardware: Hardware },
    Pong { received: u64, replied: u64 },
    Prepared { facts: Vec<(String, String)>, before: Box<Before> },
    Ready,
    Interval(IntervalMessage),
    Finished(Finished),
    Loaded { records: u64 },
    LoadEnded { records: u64 },
    Failed { words: String },
    Alive,
}

impl ToCoordinator {
    /// Its name, for messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            ToCoordinator::Hello { .. } => "Hello",
            ToCoordinator::Pong { .. } => "Pong",
            ToCoordinator::Prepared { .. } => "Prepared",
            ToCoordinator::Ready => "Ready",
            ToCoordinator::Interval(_) => "Interval",
            ToCoordinator::Finished(_) => "Finished",
            ToCoordinator::Loaded { .. } => "Loaded",
            ToCoordinator::LoadEnded { .. } => "LoadEnded",
            ToCoordinator::Failed { .. } => "Failed",
            ToCoordinator::Alive => "Alive",
        }
    }
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Task {
    /// A run of the phases.
    Run,
    /// Every record once; there are no phases.
    Load,
}

/// One worker's share of a run or of a load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) task: Task,
    /// The workload's name, for messages.
    pub(super) workload: String,
    /// As on the command line.
    pub(super) target: String,
    pub(super) table: String,
    /// Authorities beyond the system's own, in PEM.
    pub(super) ca_pem: Option<String>,
    pub(super) key_bytes: u64,
    pub(super) sort_digits: u8,
    pub(super) consistent: bool,
    pub(super) timeout_millis: u64,
    pub(super) records: u64,
    pub(super) seed: u64,
    pub(super) shape: Shape,
    /// Of all workers: each takes its part by its threads.
    pub(super) phases: Vec<Phase>,
    pub(super) arrivals: Arrivals,
    pub(super) interval_millis: u64,
    pub(super) think_nanos: u64,
    pub(super) realtime: bool,
    pub(super) spin: bool,
    /// This worker's own.
    pub(super) threads: u32,
    pub(super) connections: u32,
    pub(super) depth: u32,
    pub(super) share: Share,
}

/// Slots of one worker: each is some hundred bytes.
const SLOTS_MAX: u64 = 1 << 24;
const RUN_NANOS_MAX: u64 = 100 * 86_400 * Nanos::PER_SECOND;
const RATE_MAX: f64 = 1e8;

impl Job {
    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<TargetUrl, String> {
        let url: TargetUrl = self.target.parse()?;
        let demand = |holds: bool, words: &str| if holds { Ok(()) } else { Err(words.to_owned()) };
        let Share { first_thread, threads_all, first_lane, lanes_all } = self.share;
        let is_within = |first: u32, own: u32, all: u32| {
            first.checked_add(own).is_some_and(|end| end <= all && own > 0)
        };
        demand((1..=1024).contains(&self.threads), "threads: 1 to 1024")?;
        demand(self.connections >= self.threads, "fewer connections than threads")?;
        demand(self.depth > 0, "depth 0")?;
        let slots = u64::from(self.connections) * u64::from(self.depth);
        demand(slots <= SLOTS_MAX, "more operations outstanding than a worker has room for")?;
        demand(is_within(first_thread, self.threads, threads_all), "threads beyond the run's")?;
        demand(is_within(first_lane, self.connections, lanes_all), "lanes beyond the run's")?;
        demand((1..=100_000_000_000).contains(&self.records), "records: 1 to 10^11")?;
        let key_bytes = KEY_BYTES_MIN as u64..=KEY_BYTES_MAX as u64;
        demand(key_bytes.contains(&self.key_bytes), "a key length that cannot be spelled")?;
        demand(self.sort_digits <= 9, "more than 9 sort digits")?;
        demand((1..=3_600_000).contains(&self.timeout_millis), "time limit: 1 ms to an hour")?;
        demand(self.think_nanos <= 3600 * Nanos::PER_SECOND, "think time: at most an hour")?;
        demand((10..=60_000).contains(&self.interval_millis), "interval: 10 ms to a minute")?;
        if self.task == Task::Load {
            demand(self.phases.is_empty(), "a load with phases")?;
            self.shape.check()?;
            return Ok(url);
        }
        demand((1..=PHASES_MAX).contains(&self.phases.len()), "phases: 1 to 1000")?;
        let interval = self.interval_millis * Nanos::PER_MILLI;
        let mut all_nanos = 0u64;
        for (index, phase) in self.phases.iter().enumerate() {
            let before = &self.phases[index.saturating_sub(1)];
            all_nanos = all_nanos.saturating_add(phase.nanos);
            let is_whole = phase.nanos > 0 && phase.nanos.is_multiple_of(interval);
            demand(is_whole, "a phase that is no multiple of the interval")?;
            demand(phase.is_measured >= before.is_measured, "a warm-up after a measurement")?;
            demand(phase.ramp.is_some() == before.ramp.is_some(), "open and closed loop in one")?;
            let is_rate = |rate: f64| (0.0..=RATE_MAX).contains(&rate);
            let is_good = phase.ramp.is_none_or(|ramp| is_rate(ramp.from) && is_rate(ramp.to));
            demand(is_good, "a rate: 0 to 10^8 a second")?;
        }
        demand(all_nanos <= RUN_NANOS_MAX, "longer than a hundred days")?;
        let is_measured = self.phases.last().is_some_and(|phase| phase.is_measured);
        demand(is_measured, "nothing is measured")?;
        self.shape.check()?;
        Ok(url)
    }

    /// The plan of the worker, whose threads run on `cores`.
    pub(super) fn plan(&self, cores: &[usize]) -> Plan {
        Plan {
            share: Some(self.share),
            threads: self.threads,
            cores: cores.to_vec(),
            connections: self.connections,
            depth: self.depth,
            phases: self.phases.clone(),
            arrivals: self.arrivals,
            seed: self.seed,
            interval_millis: self.interval_millis,
            realtime: self.realtime,
            spin: self.spin,
            timeout_millis: self.timeout_millis,
            think_nanos: self.think_nanos,
            reconnect: true,
            key_bytes: self.key_bytes as usize,
            ledger: None,
        }
    }
}

/// How a worker's run ended.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Finished {
    pub(super) threads: Vec<ThreadReport>,
    pub(super) gap_longest_nanos: u64,
    pub(super) pauses: u64,
    /// Of all its cores' time, what the hypervisor gave to others.
    pub(super) cpu_stolen_fraction: f64,
}

/// One interval of all threads of a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct IntervalMessage {
    pub(super) index: u64,
    pub(super) phase: u32,
    pub(super) is_after_end: bool,
    pub(super) parts: Vec<PartMessage>,
}

/// Its operations of one phase.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PartMessage {
    pub(super) phase: u32,
    /// By kind of operation.
    pub(super) latencies: [Option<String>; OpKind::COUNT],
    pub(super) start_delays: Option<String>,
    pub(super) counters: Counters,
}

impl IntervalMessage {
    /// Of what the worker's threads brought.
    pub(super) fn of(whole: &Whole) -> IntervalMessage {
        let part = |(&phase, interval): (&u32, &Interval)| PartMessage {
            phase,
            latencies: interval.latencies.each_ref().map(|one| one.as_ref().map(encode)),
            start_delays: interval.start_delays.as_ref().map(encode),
            counters: interval.counters.clone(),
        };
        IntervalMessage {
            index: whole.index,
            phase: whole.phase,
            is_after_end: whole.is_after_end,
            parts: whole.parts.iter().map(part).collect(),
        }
    }

    /// As if it came from thread `worker` of a run with so many phases; it began at `from`.
    pub(super) fn sample(
        &self,
        worker: u32,
        from: Nanos,
        phases: u32,
    ) -> Result<Sample, WorkerError> {
        let mut sample = Sample {
            thread: worker,
            index: self.index,
            from,
            phase: self.phase,
            is_after_end: self.is_after_end,
            is_last: false,
            interval: Interval::nothing(),
            others: Vec::new(),
        };
        for part in &self.parts {
            if part.phase >= phases || self.phase >= phases {
                return Err(WorkerError::Interval("a phase that the run does not have"));
            }
            let mut interval = Interval::nothing();
            for (latencies, encoded) in interval.latencies.iter_mut().zip(&part.latencies) {
                *latencies = encoded.as_deref().map(decode).transpose()?;
            }
            interval.start_delays = part.start_delays.as_deref().map(decode).transpose()?;
            interval.counters = part.counters.clone();
            match part.phase == self.phase {
                true => sample.interval.add(&interval),
                false => sample.others.push((part.phase, interval)),
            }
        }
        Ok(sample)
    }
}

fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(histogram, &mut bytes)
        .expect("the histogram's bounds are constants that the format holds");
    BASE64.encode(bytes)
}

fn decode(text: &str) -> Result<Histogram<u64>, WorkerError> {
    let damaged = WorkerError::Interval("a histogram that cannot be read");
    let Ok(bytes) = BASE64.decode(text) else { return Err(damaged) };
    let read: Result<Histogram<u64>, _> = Deserializer::new().deserialize(&mut bytes.as_slice());
    let (Ok(read), mut own) = (read, latency_histogram()) else { return Err(damaged) };
    // What a histogram of other bounds holds may not fit.
    match own.add(&read) {
        Ok(()) => Ok(own),
        Err(_) => Err(WorkerError::Interval("a histogram of other bounds")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::generator::Ramp;
    use crate::workload::{Distribution, Sizes};

    pub(in super::super) fn job() -> Job {
        let phase = |name: &str, is_measured| Phase {
            name: name.to_owned(),
            nanos: Nanos::PER_SECOND,
            is_measured,
            ramp: Some(Ramp::steady(0.1 + 0.2)),
        };
        Job {
            task: Task::Run,
            workload: "gets".to_owned(),
            target: "floor://127.0.0.1:1".to_owned(),
            table: "usertable".to_owned(),
            ca_pem: None,
            key_bytes: 24,
            sort_digits: 0,
            consistent: true,
            timeout_millis: 1000,
            records: 1000,
            seed: u64::MAX,
            shape: Shape {
                distribution: Distribution::ZIPFIAN,
                ..Shape::of(Sizes::list(&[(100, 70), (1000, 30)]).unwrap())
            },
            phases: vec![phase("warm-up", false), phase("measured", true)],
            arrivals: Arrivals::Poisson,
            interval_millis: 1000,
            think_nanos: 0,
            realtime: false,
            spin: false,
            threads: 2,
            connections: 4,
            depth: 1,
            share: Share { first_thread: 2, threads_all: 4, first_lane: 4, lanes_all: 8 },
        }
    }

    #[test]
    fn a_job_arrives_as_it_was_sent() {
        let text = serde_json::to_string(&job()).unwrap();
        assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), job());
        assert_eq!(job().check().unwrap().to_string(), "floor://127.0.0.1:1");
        let load = Job { task: Task::Load, phases: Vec::new(), ..job() };
        assert!(load.check().is_ok());
    }

    #[test]
    fn a_job_that_would_harm_the_worker_is_refused() {
        type Harm = (&'static str, fn(&mut Job));
        let harm: [Harm; 14] = [
            ("HOST:PORT", |job| job.target = "mysql://x:1".to_owned()),
            ("threads", |job| job.threads = 0),
            ("connections", |job| job.connections = 1),
            ("depth", |job| job.depth = 0),
            ("room", |job| job.depth = u32::MAX),
            ("threads beyond", |job| job.share.first_thread = 3),
            ("lanes beyond", |job| job.share.first_lane = u32::MAX),
            ("records", |job| job.records = 0),
            ("spelled", |job| job.key_bytes = 3),
            ("multiple", |job| job.phases[0].nanos = 7),
            ("warm-up", |job| job.phases.reverse()),
            ("open and closed", |job| job.phases[1].ramp = None),
            ("100", |job| job.shape.mix.percent[0] = 99),
            ("a load with phases", |job| job.task = Task::Load),
        ];
        for (words, harm) in harm {
            let mut job = job();
            harm(&mut job);
            let error = job.check().unwrap_err();
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn an_interval_arrives_bucket_for_bucket() {
        let mut interval = Interval::new(|kind| kind != OpKind::Scan, true);
        for nanos in [1, 999, 123_456, 3_000_000_000, 3_599_000_000_000] {
            interval.latencies[OpKind::Put as usize].as_mut().unwrap().record(nanos).unwrap();
        }
        interval.start_delays.as_mut().unwrap().record_n(77, 5).unwrap();
        interval.counters.errors[1] = 3;
        interval.counters.in_time = 5;
        let whole = Whole::of(7, 1, BTreeMap::from([(1, interval.clone()), (0, interval.clone())]));
        let message = IntervalMessage::of(&whole);
        let text = serde_json::to_string(&message).unwrap();
        let back: IntervalMessage = serde_json::from_str(&text).unwrap();
        let sample = back.sample(3, Nanos(9), 2).unwrap();
        assert_eq!((sample.thread, sample.index, sample.from, sample.phase), (3, 7, Nanos(9), 1));
        let [(0, other)] = sample.others.as_slice() else { panic!("one other phase") };
        for got in [&sample.interval, other] {
            assert_eq!(got.latencies, interval.latencies);
            assert_eq!(got.start_delays, interval.start_delays);
            assert_eq!(got.counters, interval.counters);
        }
        assert!(matches!(back.sample(3, Nanos(9), 1), Err(WorkerError::Interval(_))));
        assert!(matches!(decode("AAAA"), Err(WorkerError::Interval(_))));
        assert!(matches!(decode("?"), Err(WorkerError::Interval(_))));
    }
}
