//! The load generator: a thread for each core, each one machine on one ring.
//!
//! ```text
//!   thread 0: Ring ◄──► Generator { lanes, slots, schedule, source } ──samples──┐
//!   thread 1: Ring ◄──► Generator …                                  ──samples──┴► collector
//!                          └── Shared: common start, longest gap, stop ──┘         (main thread)
//! ```
//!
//! The threads share nothing per operation; the main thread does all that is not load: merging,
//! printing, writing.

mod machine;
mod record;
#[cfg(test)]
mod replica_tests;
mod schedule;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use forebay_core::time::Nanos;
use forebay_net::ring::{Ring, RingConfig};
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::ledger::LedgerWriter;
use crate::report::collect::{Collected, Timing, Watch, collect};
use crate::sys;
use crate::target::Target;
use crate::workload::{Part, Source};
use machine::Generator;
use record::Recorder;
use schedule::{Pacing, Schedule};

pub(crate) use record::{Cause, Counters, Interval, LATE_NANOS, Sample, Shared, latency_histogram};
pub(crate) use schedule::{Arrivals, Profile, Ramp};

/// A spinning thread looks at its events for so long before it would sleep after all.
const SPIN: Duration = Duration::from_secs(1);

/// What one thread is told.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Its lanes.
    lanes: u32,
    /// Operations outstanding on each.
    depth: u32,
    pacing: Pacing,
    /// Lengths of the phases; none: until the source is exhausted.
    phase_nanos: Vec<u64>,
    /// So many of them, from the first on, are not part of the measurement.
    warmup_phases: usize,
    interval_nanos: u64,
    timeout_nanos: u64,
    /// Closed loop: from an operation's end to its slot's next operation.
    think_nanos: u64,
    /// Open lost connections again; otherwise the run ends when all are lost.
    reconnect: bool,
    key_bytes: usize,
}

/// What one thread has to say at the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ThreadReport {
    /// CPU time within the measured time.
    pub(crate) cpu_nanos: u64,
    /// Time within it in which the thread could have run and had no CPU, because others had it.
    pub(crate) waited_nanos: u64,
    /// The measured time.
    pub(crate) wall_nanos: u64,
    /// The words of the first failure.
    pub(crate) first_error: Option<String>,
    /// Open loop: operations never started, by the interval of their intended start.
    pub(crate) not_started: BTreeMap<u64, u64>,
    /// Why the run could not go on.
    pub(crate) fatal: Option<Fatal>,
    /// Lines in the ledger.
    pub(crate) ledger_written: u64,
}

/// What ends a run as if it had never been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fatal {
    /// Not all connections could be opened.
    Target(String),
    /// A file of the tool's own cannot be written.
    Here(String),
}

impl ThreadReport {
    /// CPU time over wall time.
    pub(crate) fn cpu_fraction(&self) -> f64 {
        self.cpu_nanos as f64 / self.wall_nanos.max(1) as f64
    }

    /// Time without a CPU over wall time.
    pub(crate) fn waited_fraction(&self) -> f64 {
        self.waited_nanos as f64 / self.wall_nanos.max(1) as f64
    }
}

/// A stretch of a run with a load of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Phase {
    /// Its name in reports.
    pub(crate) name: String,
    /// Its length, a multiple of the plan's interval.
    pub(crate) nanos: u64,
    /// Part of the measurement. Those that are not come first.
    pub(crate) is_measured: bool,
    /// Open loop: the offered rate; None for a closed loop. The phases of one run are alike in this.
    pub(crate) ramp: Option<Ramp>,
}

/// Where the threads and lanes of one process stand among those of all processes of a run. Schedules,
/// seeds, inserts and keys of their own are dealt to threads and lanes by these numbers, so processes
/// on different machines share one load exactly as threads of one process do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Share {
    /// The number of its first thread.
    pub(crate) first_thread: u32,
    /// Threads of all processes.
    pub(crate) threads_all: u32,
    /// The number of its first lane.
    pub(crate) first_lane: u32,
    /// Lanes of all processes.
    pub(crate) lanes_all: u32,
}

/// A whole run, or one process's share of it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Its place among the processes of the run; None if it is the only one.
    pub(crate) share: Option<Share>,
    /// Generator threads.
    pub(crate) threads: u32,
    /// Cores to pin them to, in turn; empty for none.
    pub(crate) cores: Vec<usize>,
    /// Lanes of all threads together.
    pub(crate) connections: u32,
    /// Operations outstanding on each lane.
    pub(crate) depth: u32,
    /// What happens in turn; nothing runs a closed loop until the source is exhausted.
    pub(crate) phases: Vec<Phase>,
    /// How an open loop's intended starts lie.
    pub(crate) arrivals: Arrivals,
    /// Of random arrivals.
    pub(crate) seed: u64,
    /// Length of an interval.
    pub(crate) interval_millis: u64,
    /// The threads run before all others on their cores.
    pub(crate) realtime: bool,
    /// The threads never sleep.
    pub(crate) spin: bool,
    /// Limit for one operation.
    pub(crate) timeout_millis: u64,
    /// Closed loop: from an operation's end to its slot's next operation.
    pub(crate) think_nanos: u64,
    /// Open lost connections again.
    pub(crate) reconnect: bool,
    /// Length of keys.
    pub(crate) key_bytes: usize,
    /// Where acknowledged puts are noted.
    pub(crate) ledger: Option<LedgerWriter>,
}

impl Plan {
    /// The first lane and the number of lanes of `thread`.
    fn lanes(&self, thread: u32) -> (u32, u32) {
        let (each, over) = (self.connections / self.threads, self.connections % self.threads);
        (thread * each + thread.min(over), each + u32::from(thread < over))
    }

    /// The offered rate over time; None for a closed loop.
    pub(crate) fn profile(&self) -> Option<Profile> {
        let ramps: Option<Vec<_>> =
            self.phases.iter().map(|phase| Some((phase.nanos, phase.ramp?))).collect();
        ramps.filter(|ramps| !ramps.is_empty()).map(Profile::new)
    }

    /// How many phases come before the measurement.
    pub(crate) fn warmup_phases(&self) -> usize {
        self.phases.iter().take_while(|phase| !phase.is_measured).count()
    }

    /// Its place among the processes of the run.
    pub(crate) fn share(&self) -> Share {
        self.share.unwrap_or(Share {
            first_thread: 0,
            threads_all: self.threads,
            first_lane: 0,
            lanes_all: self.connections,
        })
    }

    /// The plan of a run that ended `nanos` after its start: what had not begun by then was not part
    /// of it.
    pub(crate) fn until(mut self, nanos: u64) -> Plan {
        let mut left = nanos;
        for phase in &mut self.phases {
            // A ramp that was cut short ended where it had got to.
            if let Some(ramp) = &mut phase.ramp
                && left < phase.nanos
            {
                ramp.to = ramp.from + (ramp.to - ramp.from) * left as f64 / phase.nanos as f64;
            }
            phase.nanos = phase.nanos.min(left);
            left -= phase.nanos;
        }
        self.phases.retain(|phase| phase.nanos > 0);
        self
    }

    /// Length of all phases.
    pub(crate) fn nanos(&self) -> u64 {
        self.phases.iter().map(|phase| phase.nanos).sum()
    }

    fn check(&self) {
        let interval = self.interval_millis * Nanos::PER_MILLI;
        assert!(self.phases.iter().all(|phase| phase.nanos.is_multiple_of(interval)));
        let measured = &self.phases[self.warmup_phases()..];
        assert!(measured.iter().all(|phase| phase.is_measured), "warm-up comes first");
        let open = self.phases.iter().filter(|phase| phase.ramp.is_some()).count();
        assert!(open == 0 || open == self.phases.len(), "one loop, open or closed");
    }

    fn settings(&self, part: Part, lanes: u32) -> Settings {
        Settings {
            lanes,
            depth: self.depth,
            pacing: match self.profile() {
                Some(profile) => {
                    Pacing::Open(Schedule::new(profile, self.arrivals, self.seed, part))
                }
                None => Pacing::Closed,
            },
            phase_nanos: self.phases.iter().map(|phase| phase.nanos).collect(),
            warmup_phases: self.warmup_phases(),
            interval_nanos: self.interval_millis * Nanos::PER_MILLI,
            timeout_nanos: self.timeout_millis * Nanos::PER_MILLI,
            think_nanos: self.think_nanos,
            reconnect: self.reconnect,
            key_bytes: self.key_bytes,
        }
    }

    /// What the collector must know.
    pub(crate) fn timing(&self) -> Timing {
        Timing {
            interval_nanos: self.interval_millis * Nanos::PER_MILLI,
            phases: self.phases.clone(),
            profile: self.profile(),
        }
    }
}

/// What a run brought.
#[derive(Debug)]
pub(crate) struct RunOutcome {
    /// Rows and totals.
    pub(crate) collected: Collected,
    /// By thread.
    pub(crate) threads: Vec<ThreadReport>,
    /// The longest time without any success.
    pub(crate) gap_longest_nanos: u64,
    /// Times without any success of more than 10 ms.
    pub(crate) pauses: u64,
    /// When the threads began, all at once.
    pub(crate) start: Nanos,
    /// So long after its start a signal ended the run, before its time.
    pub(crate) ended_early_after: Option<u64>,
}

/// Which lanes a source serves: the first of them, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneRange {
    /// The first, counted over all threads.
    pub(crate) first: u32,
    /// How many.
    pub(crate) count: u32,
}

/// Carries out `plan` against `target`; each thread's operations come from `source`.
pub(crate) fn run<T: Target>(
    target: &Arc<T>,
    plan: &Plan,
    source: impl Fn(Part, LaneRange) -> Source + Sync,
    watch: &mut Watch,
) -> Result<RunOutcome, BenchError> {
    run_with(&Arc::new(Shared::new(plan.threads)), target, plan, source, watch)
}

/// As [`run`]; whoever else holds `shared` may end the run early.
pub(crate) fn run_with<T: Target>(
    shared: &Arc<Shared>,
    target: &Arc<T>,
    plan: &Plan,
    source: impl Fn(Part, LaneRange) -> Source + Sync,
    watch: &mut Watch,
) -> Result<RunOutcome, BenchError> {
    let timing = plan.timing();
    let (mut collected, threads) =
        run_gathered(shared, target, plan, source, |samples, recycle| {
            collect(samples, recycle, &timing, watch)
        })?;
    for (&interval, &count) in threads.iter().flat_map(|thread| &thread.not_started) {
        collected.add_not_started(interval, count);
    }
    Ok(RunOutcome {
        start: shared.started(),
        collected,
        threads,
        gap_longest_nanos: shared.gap_longest(),
        pauses: shared.pauses(),
        ended_early_after: shared.ended_early_after().filter(|nanos| *nanos < plan.nanos()),
    })
}

/// Carries out `plan`; `gather` gets the threads' intervals and gives their memory back.
pub(crate) fn run_gathered<T: Target, G>(
    shared: &Arc<Shared>,
    target: &Arc<T>,
    plan: &Plan,
    source: impl Fn(Part, LaneRange) -> Source + Sync,
    gather: impl FnOnce(&Receiver<Sample>, &[Sender<Interval>]) -> G,
) -> Result<(G, Vec<ThreadReport>), BenchError> {
    plan.check();
    let share = plan.share();
    let (samples, collected) = channel();
    let (recycle, recycled): (Vec<_>, Vec<_>) = (0..plan.threads).map(|_| channel()).unzip();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (thread, recycled) in (0u32..).zip(recycled) {
            let (samples, shared, source) = (samples.clone(), Arc::clone(shared), &source);
            let body = move || {
                let part = Part {
                    thread: u64::from(share.first_thread + thread),
                    threads: u64::from(share.threads_all),
                };
                let (first, count) = plan.lanes(thread);
                let source = source(part, LaneRange { first: share.first_lane + first, count });
                let empty = Interval::new(|kind| source.has(kind), plan.profile().is_some());
                let recorder = Recorder::new(thread, empty, samples, recycled);
                let core = match plan.cores.len() {
                    0 => None,
                    cores => Some(plan.cores[thread as usize % cores]),
                };
                let settings = plan.settings(part, count);
                let ended = drive(target, plan, core, settings, &shared, recorder, source);
                if ended.is_err() {
                    shared.stop();
                }
                ended
            };
            let spawned = thread::Builder::new()
                .name(format!("generator-{thread}"))
                .spawn_scoped(scope, body);
            threads.push(
                spawned.map_err(|source| BenchError::Io { what: "starting a thread", source })?,
            );
        }
        drop(samples);
        let gathered = gather(&collected, &recycle);
        let mut reports = Vec::new();
        for handle in threads {
            let ended = handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            reports.push(ended?);
        }
        match reports.iter_mut().find_map(|report| report.fatal.take()) {
            Some(Fatal::Target(words)) => return Err(BenchError::CannotBegin { words }),
            Some(Fatal::Here(words)) => {
                let source = std::io::Error::other(words);
                return Err(BenchError::Io { what: "the run stopped", source });
            }
            None => {}
        }
        Ok((gathered, reports))
    })
}

/// One thread, from its ring's creation to its last word.
fn drive<T: Target>(
    target: &Arc<T>,
    plan: &Plan,
    core: Option<usize>,
    settings: Settings,
    shared: &Arc<Shared>,
    recorder: Recorder,
    source: Source,
) -> Result<ThreadReport, BenchError> {
    sys::tighten_timers();
    if plan.realtime {
        sys::run_first()
            .map_err(|source| BenchError::Io { what: "asking for SCHED_FIFO", source })?;
    }
    let sockets = settings.lanes * target.addresses().len() as u32;
    let mut ring = Ring::new(RingConfig {
        core,
        // Twice: a lost connection's place is free only after its teardown.
        connections_max: sockets * 2 + 16,
        busy_poll: if plan.spin { SPIN } else { Duration::ZERO },
        ..RingConfig::default()
    })?;
    let mut generator = Generator::new(
        Arc::clone(target),
        settings,
        Arc::clone(shared),
        recorder,
        source,
        plan.ledger.clone(),
    );
    ring.run(&mut generator)?;
    Ok(generator.into_report())
}
