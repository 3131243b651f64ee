//! `run --workers`: shares out a load, agrees on its start, and merges what comes back.
//!
//! The first worker prepares the target alone, so that no two create the same table at once. Clocks
//! are compared last before the start, when every connection is open, and once more after the end.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use forebay_core::time::Nanos;

use super::clock::{Offset, Round};
use super::error::WorkerError;
use super::message::{Finished, IntervalMessage, Job, PROTOCOL, Task, ToCoordinator, ToWorker};
use super::wire::{ALIVE_EVERY, Wire};
use crate::cli::RunArgs;
use crate::error::BenchError;
use crate::generator::{Counters, Plan, RunOutcome, Share, Shared, ThreadReport};
use crate::interrupt;
use crate::report::build::{self, Before};
use crate::report::collect::{Collector, Timing, Watch};
use crate::report::json::Report;
use crate::report::workers::{Lost, WorkerReport};
use crate::sys::Hardware;
use crate::target::CONNECT_TIMEOUT;
use crate::workload::Scenario;

/// Questions to each clock.
const ROUNDS: usize = 32;
/// From the last word before the start to the start: long enough for everyone to hear it.
const START_LEAD_NANOS: u64 = 500 * Nanos::PER_MILLI;
/// The same for an early end.
const END_LEAD_NANOS: u64 = 300 * Nanos::PER_MILLI;
/// Beyond a run's length and its time limit, a worker that has not finished never will.
const OVERTIME: Duration = Duration::from_secs(30);

/// One worker, and its part of the load.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: String,
    pub(super) wire: Arc<Wire>,
    hardware: Hardware,
    threads: u32,
    connections: u32,
    share: Share,
}

/// What a worker has brought.
#[derive(Debug)]
struct Brought {
    before: Before,
    offset: Offset,
    /// Of the clocks, from before the run to after it.
    moved_nanos: Option<i64>,
    /// The interval that comes next: those before it have been taken, each of them whole.
    next_index: u64,
    /// In the measurement.
    ops: u64,
    counters: Counters,
    finished: Option<Finished>,
    lost: Option<Lost>,
}

/// A coordinated run that is over.
#[derive(Debug)]
pub(crate) struct Coordinated {
    /// Of all workers together.
    pub(crate) outcome: RunOutcome,
    /// What the target said to the first worker.
    pub(crate) facts: Vec<(String, String)>,
    workers: Vec<(Link, Brought)>,
}

/// What every worker is told alike; each gets its own threads, connections and share of it.
fn job(args: &RunArgs, scenario: &Scenario, plan: &Plan, ca_pem: Option<String>) -> Job {
    let data = &args.traffic.data;
    Job {
        task: Task::Run,
        workload: scenario.name.clone(),
        target: data.target.to_string(),
        table: data.table.clone(),
        ca_pem,
        key_bytes: data.key_bytes,
        sort_digits: args.traffic.shape.sort_digits,
        consistent: !args.shape.eventual,
        timeout_millis: plan.timeout_millis,
        records: args.traffic.records,
        seed: plan.seed,
        shape: scenario.shape.clone(),
        phases: plan.phases.clone(),
        arrivals: plan.arrivals,
        interval_millis: plan.interval_millis,
        think_nanos: plan.think_nanos,
        realtime: plan.realtime,
        spin: plan.spin,
        threads: plan.threads,
        connections: plan.connections,
        depth: plan.depth,
        share: plan.share(),
    }
}

/// Has `plan`, the load of all, carried out by the workers of `args`.
pub(crate) fn coordinate(
    args: &RunArgs,
    scenario: &Scenario,
    plan: &Plan,
    ca_pem: Option<String>,
    watch: &mut Watch,
) -> Result<Coordinated, BenchError> {
    let job = job(args, scenario, plan, ca_pem);
    let (links, (outcome, facts, brought)) =
        with_workers(&args.workers, plan, |links| conduct(links, &job, plan, watch))?;
    Ok(Coordinated { outcome, facts, workers: links.into_iter().zip(brought).collect() })
}

/// Does with the workers at `places` what `conduct` says; then they are free for others.
pub(super) fn with_workers<R>(
    places: &[String],
    plan: &Plan,
    conduct: impl FnOnce(&[Link]) -> Result<R, BenchError>,
) -> Result<(Vec<Link>, R), BenchError> {
    let links: Vec<Link> = (0u32..)
        .zip(places)
        .map(|(number, place)| {
            let link = connect(place, number, places.len() as u32, plan);
            link.map_err(|source| BenchError::Worker { address: place.clone(), source })
        })
        .collect::<Result<_, _>>()?;
    let (over, is_over) = channel();
    let ended = thread::scope(|scope| {
        let links = &links;
        scope.spawn(move || show_life(links, &is_over));
        let ended = conduct(links);
        drop(over);
        if ended.is_err() {
            links.iter().for_each(|link| link.wire.close());
        }
        ended
    })?;
    // A worker that has been told the end is free for the next run when this returns.
    links.iter().for_each(|link| link.wire.finish());
    Ok((links, ended))
}

/// Worker `number` of `workers`, and what falls to it.
fn connect(place: &str, number: u32, workers: u32, plan: &Plan) -> Result<Link, WorkerError> {
    let address = place
        .to_socket_addrs()
        .and_then(|mut found| {
            found.next().ok_or_else(|| std::io::Error::other("the name has no address"))
        })
        .map_err(WorkerError::Unreachable)?;
    let stream =
        TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).map_err(WorkerError::Unreachable)?;
    let wire = Arc::new(Wire::new(stream)?);
    let ours = env!("CARGO_PKG_VERSION");
    wire.send(&ToWorker::Hello { protocol: PROTOCOL, version: ours.to_owned() })?;
    let hardware = match next_message(&wire)? {
        ToCoordinator::Hello { protocol, version, .. }
            if (protocol, version.as_str()) != (PROTOCOL, ours) =>
        {
            let ours_protocol = PROTOCOL;
            return Err(WorkerError::OtherVersion { version, protocol, ours, ours_protocol });
        }
        ToCoordinator::Hello { is_busy: true, .. } => return Err(WorkerError::Busy),
        ToCoordinator::Hello { hardware, .. } => hardware,
        other => return Err(out_of_turn(&other, "Hello")),
    };
    let threads = plan.threads / workers;
    // The first ones take one more where the connections do not divide.
    let (each, over) = (plan.connections / workers, plan.connections % workers);
    Ok(Link {
        address: place.to_owned(),
        wire,
        hardware,
        threads,
        connections: each + u32::from(number < over),
        share: Share {
            first_thread: number * threads,
            threads_all: plan.threads,
            first_lane: number * each + number.min(over),
            lanes_all: plan.connections,
        },
    })
}

pub(super) fn out_of_turn(found: &ToCoordinator, expected: &'static str) -> WorkerError {
    WorkerError::OutOfTurn { found: found.name(), expected }
}

/// What the worker says next, beyond that it lives.
pub(super) fn next_message(wire: &Wire) -> Result<ToCoordinator, WorkerError> {
    loop {
        match wire.receive()? {
            ToCoordinator::Alive => {}
            ToCoordinator::Failed { words } => return Err(WorkerError::Failed(words)),
            message => return Ok(message),
        }
    }
}

/// Tells the workers each second that the coordinator lives.
fn show_life(links: &[Link], is_over: &Receiver<()>) {
    while is_over.recv_timeout(ALIVE_EVERY) == Err(RecvTimeoutError::Timeout) {
        for link in links {
            // The thread that receives from it learns of its end.
            let _ = link.wire.send(&ToWorker::Alive);
        }
    }
}

type Conducted = (RunOutcome, Vec<(String, String)>, Vec<Brought>);

/// The run from preparation to the last word.
fn conduct(
    links: &[Link],
    job: &Job,
    plan: &Plan,
    watch: &mut Watch,
) -> Result<Conducted, BenchError> {
    let named = |link: &Link| {
        let address = link.address.clone();
        move |source| BenchError::Worker { address, source }
    };
    let (facts, befores) = prepare(links, job)?;
    let mut brought = Vec::new();
    for (link, before) in links.iter().zip(befores) {
        let offset = clock_of(&link.wire).map_err(named(link))?;
        brought.push(Brought {
            before,
            offset,
            moved_nanos: None,
            next_index: 0,
            ops: 0,
            counters: Counters::default(),
            finished: None,
            lost: None,
        });
    }
    // Nobody generates load here; it keeps the moments that all go by.
    let shared = Arc::new(Shared::new(0));
    let start = forebay_net::ring::now() + START_LEAD_NANOS;
    shared.give_start(start);
    for (link, worker) in links.iter().zip(&brought) {
        let at = worker.offset.there(start).0;
        link.wire.send(&ToWorker::Start { at }).map_err(named(link))?;
    }
    let _signals = end_all_early(links, &brought, &shared, plan);
    let mut outcome = gather(links, &mut brought, start, plan, watch);
    outcome.ended_early_after = shared.ended_early_after().filter(|nanos| *nanos < plan.nanos());
    for (link, worker) in links.iter().zip(&mut brought) {
        // The run is over and its figures are whole: a worker that is gone now is not missed.
        if worker.lost.is_none()
            && let Ok(after) = clock_of(&link.wire)
        {
            worker.moved_nanos = Some(after.nanos - worker.offset.nanos);
        }
    }
    Ok((outcome, facts, brought))
}

/// What the target told the first worker, and what each found on its machine.
pub(super) type Prepared = (Vec<(String, String)>, Vec<Before>);

/// Everyone finds the target, and opens its connections for a run.
pub(super) fn prepare(links: &[Link], job: &Job) -> Result<Prepared, BenchError> {
    let named = |link: &Link, source| BenchError::Worker { address: link.address.clone(), source };
    let ask = |link: &Link| {
        let own = Job {
            threads: link.threads,
            connections: link.connections,
            share: link.share,
            ..job.clone()
        };
        link.wire.send(&ToWorker::Prepare(Box::new(own))).map_err(|source| named(link, source))
    };
    let mut facts = Vec::new();
    let mut befores = Vec::new();
    for (number, link) in links.iter().enumerate() {
        if number < 2 {
            // The first alone; then all others together.
            links[number..]
                .iter()
                .take(if number == 0 { 1 } else { links.len() })
                .try_for_each(ask)?;
        }
        match next_message(&link.wire).map_err(|source| named(link, source))? {
            ToCoordinator::Prepared { facts: told, before } => {
                if number == 0 {
                    facts = told;
                }
                befores.push(*before);
            }
            other => return Err(named(link, out_of_turn(&other, "Prepared"))),
        }
    }
    for link in links {
        match next_message(&link.wire).map_err(|source| named(link, source))? {
            ToCoordinator::Ready => {}
            other => return Err(named(link, out_of_turn(&other, "Ready"))),
        }
    }
    Ok((facts, befores))
}

/// Compares the clock at the other end with this one.
fn clock_of(wire: &Wire) -> Result<Offset, WorkerError> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let sent = forebay_net::ring::now();
        wire.send(&ToWorker::Ping)?;
        match next_message(wire)? {
            ToCoordinator::Pong { received, replied } => {
                let returned = forebay_net::ring::now();
                let (received, replied) = (Nanos(received), Nanos(replied));
                rounds.push(Round { sent, received, replied, returned });
            }
            other => return Err(out_of_turn(&other, "Pong")),
        }
    }
    Offset::of(&rounds).ok_or(WorkerError::Interval("a clock that runs backwards"))
}

/// The next signal ends the run on every worker with the same interval.
fn end_all_early(
    links: &[Link],
    brought: &[Brought],
    shared: &Arc<Shared>,
    plan: &Plan,
) -> interrupt::EndsEarly {
    let workers: Vec<_> = links
        .iter()
        .zip(brought)
        .map(|(link, worker)| (Arc::clone(&link.wire), worker.offset))
        .collect();
    let shared = Arc::clone(shared);
    let interval_nanos = plan.interval_millis * Nanos::PER_MILLI;
    interrupt::ends_early(move || {
        shared.end_early(forebay_net::ring::now() + END_LEAD_NANOS, interval_nanos);
        let end = shared.early_end();
        for (wire, offset) in &workers {
            // Of a worker that is lost the thread that receives from it knows.
            let _ = wire.send(&ToWorker::EndAt { at: offset.there(end).0 });
        }
    })
}

/// Takes what the workers bring until all have finished or are lost.
fn gather(
    links: &[Link],
    brought: &mut [Brought],
    start: Nanos,
    plan: &Plan,
    watch: &mut Watch,
) -> RunOutcome {
    let timing = plan.timing();
    let mut collector = Collector::new(links.len(), &timing, watch);
    let deadline =
        start + plan.nanos() + plan.timeout_millis * Nanos::PER_MILLI + OVERTIME.as_nanos() as u64;
    let (events, incoming) = channel();
    thread::scope(|scope| {
        for (number, link) in links.iter().enumerate() {
            let events = events.clone();
            scope.spawn(move || {
                loop {
                    let message = next_message(&link.wire);
                    let is_last = matches!(message, Err(_) | Ok(ToCoordinator::Finished(_)));
                    if events.send((number, message)).is_err() || is_last {
                        return;
                    }
                }
            });
        }
        drop(events);
        loop {
            let left = Duration::from_nanos(deadline.since(forebay_net::ring::now()));
            let (number, message) = match incoming.recv_timeout(left) {
                Ok(event) => event,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    // Their receiving threads end with their connections, and so does this loop.
                    links.iter().for_each(|link| link.wire.close());
                    incoming.recv().unwrap_or((0, Err(WorkerError::Gone)))
                }
            };
            let (link, worker) = (&links[number], &mut brought[number]);
            if worker.lost.is_some() || worker.finished.is_some() {
                continue;
            }
            let taken = match message {
                Ok(ToCoordinator::Interval(message)) => {
                    worker.take(number, &message, start, &timing, &mut collector)
                }
                Ok(ToCoordinator::Finished(finished)) => {
                    worker.finished = Some(finished);
                    collector.leaves(worker.next_index);
                    Ok(())
                }
                Ok(other) => Err(out_of_turn(&other, "Interval")),
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                eprintln!("\nforebay-bench: worker {} is lost: {error}", link.address);
                let since = |nanos: f64| (nanos - timing.warmup_nanos() as f64) / 1e9;
                let noticed = forebay_net::ring::now().0 as f64 - start.0 as f64;
                worker.lost = Some(Lost {
                    intervals: worker.next_index,
                    whole_until_s: since((worker.next_index * timing.interval_nanos) as f64),
                    noticed_s: since(noticed),
                    why: error.to_string(),
                });
                collector.leaves(worker.next_index);
                link.wire.close();
            }
        }
    });
    let mut collected = collector.finish();
    let finished = || brought.iter().filter_map(|worker| worker.finished.as_ref());
    let threads: Vec<ThreadReport> =
        finished().flat_map(|finished| finished.threads.iter().cloned()).collect();
    for (&interval, &count) in threads.iter().flat_map(|thread| &thread.not_started) {
        collected.add_not_started(interval, count);
    }
    RunOutcome {
        collected,
        threads,
        gap_longest_nanos: finished().map(|one| one.gap_longest_nanos).max().unwrap_or(0),
        pauses: finished().map(|one| one.pauses).max().unwrap_or(0),
        start,
        ended_early_after: None,
    }
}

impl Brought {
    /// What its threads said at their end.
    fn threads(&self) -> &[ThreadReport] {
        self.finished.as_ref().map_or(&[], |finished| &finished.threads)
    }

    /// Adds an interval of this worker, which has this `number`: all of it, or after an error nothing.
    fn take(
        &mut self,
        number: usize,
        message: &IntervalMessage,
        start: Nanos,
        timing: &Timing,
        collector: &mut Collector<'_>,
    ) -> Result<(), WorkerError> {
        if message.index != self.next_index {
            return Err(WorkerError::Interval("not the one that was due"));
        }
        let from = start + message.index * timing.interval_nanos;
        let sample = message.sample(number as u32, from, timing.phases.len() as u32)?;
        self.next_index += 1;
        let others = sample.others.iter().map(|(phase, part)| (*phase, part));
        for (phase, part) in others.chain([(sample.phase, &sample.interval)]) {
            if timing.is_measured(phase) {
                self.ops += part.successes();
                self.counters.add(&part.counters);
            }
        }
        collector.take(&sample);
        Ok(())
    }
}

impl Coordinated {
    /// Writes the workers into `report`.
    pub(crate) fn tell(self, report: &mut Report) {
        let mut limited = false;
        // CPU is told at the end: of who was lost before it neither that nor operations count here.
        let whole = || self.workers.iter().filter(|(_, worker)| worker.finished.is_some());
        let threads = whole().flat_map(|(_, worker)| worker.threads());
        let cpu_nanos: u64 = threads.map(|thread| thread.cpu_nanos).sum();
        let attempts: u64 =
            whole().map(|(_, worker)| worker.ops + worker.counters.errors_all()).sum();
        report.client_cpu_us_per_op = cpu_nanos as f64 / 1e3 / attempts.max(1) as f64;
        for (link, worker) in self.workers {
            let told = tell_one(&link, &worker, report);
            limited |= told.client_limited;
            report.cpu_stolen_fraction = report.cpu_stolen_fraction.max(told.cpu_stolen_fraction);
            worker.before.lend_store(report);
            report.workers.push(told);
        }
        report.client_was_the_limit = limited;
    }
}

fn tell_one(link: &Link, worker: &Brought, report: &Report) -> WorkerReport {
    let counters = &worker.counters;
    let share = f64::from(link.threads) / f64::from(link.share.threads_all);
    let attempts = worker.ops + counters.errors_all();
    let threads = worker.threads();
    let fractions: Vec<f64> = threads.iter().map(ThreadReport::cpu_fraction).collect();
    let waited = threads.iter().map(ThreadReport::waited_fraction);
    WorkerReport {
        address: link.address.clone(),
        hardware: link.hardware.clone(),
        threads: link.threads,
        connections: link.connections,
        share,
        offered_ops_s: match report.is_open_loop {
            true => report.offered_ops_s * share,
            false => attempts as f64 / report.duration_s,
        },
        achieved_ops_s: counters.in_time as f64 / report.duration_s,
        ops: worker.ops,
        errors: counters.errors_all(),
        late_starts: counters.late_starts,
        late_starts_waiting_for_depth: counters.late_for_depth,
        client_cpu_fraction: fractions.iter().sum::<f64>() / fractions.len().max(1) as f64,
        client_waited_fraction: waited.fold(0.0, f64::max),
        cpu_stolen_fraction: worker.finished.as_ref().map_or(0.0, |one| one.cpu_stolen_fraction),
        client_limited: build::client_was_the_limit(
            report.client_spins,
            &fractions,
            counters,
            attempts,
        ),
        clock_offset_us: worker.offset.nanos as f64 / 1e3,
        clock_uncertainty_us: worker.offset.uncertainty_nanos as f64 / 1e3,
        clock_moved_us: worker.moved_nanos.map(|nanos| nanos as f64 / 1e3),
        also_running: worker.before.stamps().busy_line(),
        busy_cores: worker.before.stamps().busy_cores(),
        lost: worker.lost.clone(),
    }
}
