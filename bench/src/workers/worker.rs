//! `worker`: waits for coordinators, and does for each its share of a run.
//!
//! ```text
//!   session thread: messages in ──► Shared: start, early end, stop
//!                     └─► run thread: generator threads ──► gather ──► Interval messages out
//!   signs of life: a thread that sends Alive each second, whatever the others do
//! ```
//!
//! One run at a time: whoever comes meanwhile is told that this worker is busy.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use forebay_core::time::Nanos;

use super::error::WorkerError;
use super::message::{Finished, IntervalMessage, Job, PROTOCOL, Task, ToCoordinator, ToWorker};
use super::wire::{ALIVE_EVERY, Wire};
use crate::error::BenchError;
use crate::generator::{self, Interval, Sample, Shared};
use crate::loading::{self, Order};
use crate::report::build::Before;
use crate::report::gather::Gather;
use crate::sys::{self, Hardware};
use crate::target::{CONNECT_TIMEOUT, Setup, Target, TargetUrl, with_target};
use crate::workload::{Mixed, OpKind, Source};

/// Between two looks at whether every connection is open.
const READY_POLL: Duration = Duration::from_millis(1);
/// Between two words about a load's progress.
const LOADED_EVERY: Duration = Duration::from_millis(500);
/// After a failure to accept: of want of descriptors, for instance.
const ACCEPT_REST: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
There is no authentication and no encryption: whoever reaches this port can make this machine send
load anywhere. Listen on a trusted network only.

Example, on two machines and then on a third:
  forebay-bench worker --listen 10.0.0.1:4780
  forebay-bench worker --listen 10.0.0.2:4780
  forebay-bench load --workers 10.0.0.1:4780,10.0.0.2:4780 --target forebay://10.0.0.9:4700
  forebay-bench run --workers 10.0.0.1:4780,10.0.0.2:4780 --target forebay://10.0.0.9:4700 --rate 100000";

/// `forebay-bench worker`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WorkerArgs {
    /// Where to wait for coordinators; no authentication, so an address of a trusted network only
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4780")]
    pub(crate) listen: SocketAddr,
    /// Pin generator threads to these cores, in turn
    #[arg(long, value_name = "CORE", num_args = 1.., value_delimiter = ',')]
    pub(crate) core: Vec<usize>,
}

/// Serves until it is ended.
pub(crate) fn worker(args: &WorkerArgs) -> Result<(), BenchError> {
    let failed = |source| BenchError::Io { what: "listening for coordinators", source };
    let listener = TcpListener::bind(args.listen).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    if !address.ip().is_loopback() {
        eprintln!(
            "forebay-bench: this port has no authentication; whoever reaches it can make this \
             machine send load anywhere"
        );
    }
    println!("ready worker={address}");
    let _ = std::io::stdout().flush();
    let busy = Arc::new(AtomicBool::new(false));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                eprintln!("forebay-bench: accepting a coordinator: {error}");
                thread::sleep(ACCEPT_REST);
                continue;
            }
        };
        let (busy, cores) = (Arc::clone(&busy), args.core.clone());
        let session = move || {
            if let Err(error) = serve(stream, &busy, &cores) {
                eprintln!("forebay-bench: a coordinator: {error}");
            }
        };
        thread::Builder::new().name("session".to_owned()).spawn(session).map_err(failed)?;
    }
}

/// Free again for others when it is dropped.
struct Turn<'a>(&'a AtomicBool);

impl<'a> Turn<'a> {
    fn take(busy: &'a AtomicBool) -> Option<Turn<'a>> {
        let taken = busy.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire);
        taken.is_ok().then_some(Turn(busy))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// One coordinator, from its first word to its last.
fn serve(stream: TcpStream, busy: &AtomicBool, cores: &[usize]) -> Result<(), WorkerError> {
    let wire = Wire::new(stream)?;
    let ToWorker::Hello { protocol, version } = wire.receive()? else {
        return Err(WorkerError::OutOfTurn { found: "something else", expected: "Hello" });
    };
    let turn = Turn::take(busy);
    wire.send(&ToCoordinator::Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        is_busy: turn.is_none(),
        hardware: Hardware::here(),
    })?;
    if turn.is_none() {
        return Ok(());
    }
    if (protocol, version.as_str()) != (PROTOCOL, env!("CARGO_PKG_VERSION")) {
        let (ours, ours_protocol) = (env!("CARGO_PKG_VERSION"), PROTOCOL);
        return Err(WorkerError::OtherVersion { version, protocol, ours, ours_protocol });
    }
    let (over, is_over) = channel();
    thread::scope(|scope| {
        scope.spawn(|| show_life(&wire, is_over));
        let ended = converse(scope, &wire, cores);
        drop(over);
        ended
    })?;
    // Before the connection ends: the coordinator waits for that.
    drop(turn);
    Ok(())
}

/// Sends a sign of life each second until the session is over.
fn show_life(wire: &Wire, is_over: Receiver<()>) {
    while is_over.recv_timeout(ALIVE_EVERY) == Err(RecvTimeoutError::Timeout) {
        if wire.send(&ToCoordinator::Alive).is_err() {
            return;
        }
    }
}

/// Answers the coordinator until it leaves. What it had asked for ends then.
fn converse<'scope, 'env>(
    scope: &'scope thread::Scope<'scope, 'env>,
    wire: &'env Wire,
    cores: &'env [usize],
) -> Result<(), WorkerError> {
    let mut shared = None;
    let ended = answer(scope, wire, cores, &mut shared);
    if let Some(shared) = shared {
        shared.stop();
    }
    match ended {
        Err(WorkerError::Gone) => Ok(()),
        ended => ended,
    }
}

fn answer<'scope, 'env>(
    scope: &'scope thread::Scope<'scope, 'env>,
    wire: &'env Wire,
    cores: &'env [usize],
    shared: &mut Option<Arc<Shared>>,
) -> Result<(), WorkerError> {
    loop {
        let message = wire.receive()?;
        let now = forebay_net::ring::now();
        match (message, &*shared) {
            (ToWorker::Ping, _) => {
                let replied = forebay_net::ring::now().0;
                wire.send(&ToCoordinator::Pong { received: now.0, replied })?;
            }
            (ToWorker::Prepare(job), None) => {
                let run = Arc::new(Shared::awaiting_start(job.threads));
                *shared = Some(Arc::clone(&run));
                scope.spawn(move || {
                    if let Err(words) = carry_out(&job, &run, wire, cores) {
                        run.stop();
                        // A coordinator that is gone hears nothing.
                        let _ = wire.send(&ToCoordinator::Failed { words });
                    }
                });
            }
            (ToWorker::Start { at }, Some(shared)) => shared.give_start(Nanos(at)),
            (ToWorker::EndAt { at }, Some(shared)) => {
                shared.end_at(Nanos(at));
                // A run that ends before it began.
                if at <= shared.started().0 {
                    shared.stop();
                }
            }
            (ToWorker::Alive, _) => {}
            _ => {
                return Err(WorkerError::OutOfTurn { found: "a command", expected: "another" });
            }
        }
    }
}

/// The job from the first connection to the last word.
fn carry_out(job: &Job, shared: &Arc<Shared>, wire: &Wire, cores: &[usize]) -> Result<(), String> {
    let url: &TargetUrl = &job.check()?;
    let setup = &Setup {
        table: &job.table,
        sort_digits: job.sort_digits.into(),
        consistent: job.consistent,
        timeout: CONNECT_TIMEOUT,
        ca_pem: job.ca_pem.as_deref().map(str::as_bytes),
    };
    let ended = || -> Result<(), BenchError> {
        with_target!(url, setup, |target| match job.task {
            Task::Run => share_of_run(job, url, shared, wire, cores, &target),
            Task::Load => share_of_load(job, url, shared, wire, cores, &target),
        })
    };
    ended().map_err(|error| error.to_string())
}

fn told(result: Result<(), WorkerError>) -> Result<(), BenchError> {
    result.map_err(|error| BenchError::Io {
        what: "telling the coordinator",
        source: std::io::Error::other(error.to_string()),
    })
}

fn check_keys<T: Target>(job: &Job, target: &T) -> Result<(), BenchError> {
    match target.refuses_keys(job.key_bytes as usize) {
        Some(reason) => Err(BenchError::Usage(format!("--key-bytes {}: {reason}", job.key_bytes))),
        None => Ok(()),
    }
}

/// Its part of the records, from the start on that everybody waits for: no record is written if one of
/// the workers cannot take part.
fn share_of_load<T: Target>(
    job: &Job,
    url: &TargetUrl,
    shared: &Arc<Shared>,
    wire: &Wire,
    cores: &[usize],
    target: &Arc<T>,
) -> Result<(), BenchError> {
    check_keys(job, target.as_ref())?;
    sys::raise_open_files();
    let (facts, before) = (target.facts().to_vec(), Box::new(Before::look(url)));
    told(wire.send(&ToCoordinator::Prepared { facts, before }))?;
    told(wire.send(&ToCoordinator::Ready))?;
    while shared.started().0 == 0 {
        if shared.stopped() {
            return Ok(());
        }
        thread::sleep(READY_POLL);
    }
    let order = Order {
        plan: job.plan(cores),
        records: job.records,
        sizes: job.shape.sizes.clone(),
        seed: job.seed,
    };
    let bar = indicatif::ProgressBar::hidden();
    let (over, is_over) = channel::<()>();
    let loaded = thread::scope(|scope| {
        let bar = &bar;
        scope.spawn(move || {
            while is_over.recv_timeout(LOADED_EVERY) == Err(RecvTimeoutError::Timeout) {
                // If nobody hears it, the session thread learns that too.
                let _ = wire.send(&ToCoordinator::Loaded { records: bar.position() });
            }
        });
        let loaded = loading::load_all(target, &order, bar, || shared.stopped());
        drop(over);
        loaded
    })?;
    told(wire.send(&ToCoordinator::LoadEnded { records: loaded }))
}

fn share_of_run<T: Target>(
    job: &Job,
    url: &TargetUrl,
    shared: &Arc<Shared>,
    wire: &Wire,
    cores: &[usize],
    target: &Arc<T>,
) -> Result<(), BenchError> {
    check_keys(job, target.as_ref())?;
    for kind in OpKind::ALL.into_iter().filter(|kind| job.shape.mix.has(*kind)) {
        if let Some(reason) = target.refuses(kind) {
            return Err(BenchError::Unsupported { workload: job.workload.clone(), reason });
        }
    }
    sys::raise_open_files();
    let before = Before::look(url);
    let stolen_before = sys::stolen_ticks();
    let facts = target.facts().to_vec();
    told(wire.send(&ToCoordinator::Prepared { facts, before: Box::new(before) }))?;
    let plan = job.plan(cores);
    let source = |part, _| Source::Mixed(Mixed::shaped(&job.shape, job.records, job.seed, part));
    let ((), threads) = thread::scope(|scope| {
        scope.spawn(|| {
            while !shared.all_ready() && !shared.stopped() {
                thread::sleep(READY_POLL);
            }
            if shared.all_ready() {
                // If nobody hears it, the session thread learns that too.
                let _ = wire.send(&ToCoordinator::Ready);
            }
        });
        let ended = generator::run_gathered(shared, target, &plan, source, |samples, recycle| {
            forward(samples, recycle, shared, wire);
        });
        if ended.is_err() {
            shared.stop();
        }
        ended
    })?;
    let (stolen, ticks) = sys::stolen_ticks();
    told(wire.send(&ToCoordinator::Finished(Finished {
        threads,
        gap_longest_nanos: shared.gap_longest(),
        pauses: shared.pauses(),
        cpu_stolen_fraction: (stolen - stolen_before.0) as f64
            / ticks.saturating_sub(stolen_before.1).max(1) as f64,
    })))
}

/// Sends each interval as soon as all threads have brought it.
fn forward(samples: &Receiver<Sample>, recycle: &[Sender<Interval>], shared: &Shared, wire: &Wire) {
    let mut gather = Gather::new(recycle.len());
    let send = |whole| {
        let message = ToCoordinator::Interval(IntervalMessage::of(&whole));
        if wire.send(&message).is_err() {
            // Nobody wants the load any more.
            shared.stop();
        }
    };
    for sample in samples {
        gather.add(&sample);
        let _ = recycle[sample.thread as usize].send(sample.interval);
        while let Some(whole) = gather.next() {
            send(whole);
        }
    }
    while let Some(whole) = gather.rest() {
        send(whole);
    }
}
