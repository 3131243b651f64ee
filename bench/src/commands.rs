//! `load`, `run` and `verify-ledger`: from arguments to a report.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forebay_core::time::Nanos;

use crate::cli::{DataArgs, LoadArgs, RunArgs, TrafficArgs, VerifyArgs};
use crate::error::BenchError;
use crate::generator::{self, Arrivals, Phase, Plan, Ramp, RunOutcome};
use crate::ledger::{self, LedgerHeader, LedgerWriter, Verdict};
use crate::report::build::{self, Before};
use crate::report::collect::{Progress, Watch};
use crate::report::json::Report;
use crate::report::raw::RawLogs;
use crate::report::{html, text};
use crate::spawn;
use crate::sys;
use crate::target::floor::Floor;
use crate::target::forebay::Forebay;
use crate::target::redis::Redis;
use crate::target::{Scheme, Target};
use crate::workload::{
    LEDGER_VALUE_BYTES_MIN, LedgerKeys, Load, Mixed, OpKind, Records, Source, WorkloadName,
};

/// How long reaching a target may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of a measurement, if the command line does not say.
const RUN_SECONDS: u64 = 10;
/// Progress of a load is shown this often.
const LOAD_INTERVAL_MILLIS: u64 = 200;
/// Between two passes over what a store refused.
const LOAD_REST: Duration = Duration::from_millis(200);
/// So many passes in which nothing at all was taken end a load: two seconds and more.
const LOAD_IDLE_PASSES_MAX: u32 = 10;

/// Sets up the target behind `$url` and evaluates `$body` with it as `$target`.
macro_rules! with_target {
    ($url:expr, $table:expr, |$target:ident| $body:expr) => {
        match $url.scheme {
            Scheme::Redis => {
                let $target = Arc::new(Redis::setup($url, CONNECT_TIMEOUT)?);
                $body
            }
            Scheme::Floor => {
                let $target = Arc::new(Floor::setup($url, CONNECT_TIMEOUT)?);
                $body
            }
            Scheme::Forebay => {
                let $target = Arc::new(Forebay::setup($url, $table, CONNECT_TIMEOUT)?);
                $body
            }
        }
    };
}

/// `forebay-bench load`.
pub(crate) fn load(args: &LoadArgs) -> Result<(), BenchError> {
    let Loaded { records, seconds } = load_quietly(args)?;
    let TrafficArgs { value_bytes, ref data, .. } = args.traffic;
    println!(
        "loaded {records} records of {} B keys and {value_bytes} B values in {seconds:.2} s \
         ({:.0} records/s)",
        data.key_bytes,
        records as f64 / seconds
    );
    Ok(())
}

/// A load that succeeded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loaded {
    /// All of them.
    pub(crate) records: u64,
    /// How long it took.
    pub(crate) seconds: f64,
}

/// Loads, and says nothing on stdout.
pub(crate) fn load_quietly(args: &LoadArgs) -> Result<Loaded, BenchError> {
    let data = &args.traffic.data;
    with_target!(&data.target, &data.table, |target| load_into(args, &target))
}

fn load_into<T: Target>(args: &LoadArgs, target: &Arc<T>) -> Result<Loaded, BenchError> {
    let TrafficArgs { records, value_bytes, seed, .. } = args.traffic;
    let mut plan = Plan {
        interval_millis: LOAD_INTERVAL_MILLIS,
        ..plan(&args.traffic, args.connections, args.depth)?
    };
    let bar = match std::io::stderr().is_terminal() {
        true => indicatif::ProgressBar::new(records),
        false => indicatif::ProgressBar::hidden(),
    };
    bar.set_style(
        indicatif::ProgressStyle::with_template(
            "loading {bar:40} {human_pos}/{human_len} records, {per_sec}, {eta} left",
        )
        .expect("the template is a constant"),
    );
    let began = Instant::now();
    let mut watch = Watch::progress(Progress::Bar(bar));
    let (mut wanted, mut loaded, mut idle_passes) = (Records::All(records), 0, 0);
    loop {
        let left = Arc::new(Mutex::new(Vec::new()));
        let source = |part, _| {
            let (wanted, left) = (wanted.clone(), Arc::clone(&left));
            Source::Load(Load::new(wanted, value_bytes as usize, seed, part, left))
        };
        let outcome = generator::run(target, &plan, source, &mut watch)?;
        let done = outcome.collected.total.successes();
        loaded += done;
        let list = std::mem::take(&mut *left.lock().expect("the threads have ended"));
        if loaded == records {
            return Ok(Loaded { records, seconds: began.elapsed().as_secs_f64() });
        }
        // A store that sheds load while it catches up is asked again for what it refused.
        idle_passes = if done == 0 { idle_passes + 1 } else { 0 };
        if idle_passes == LOAD_IDLE_PASSES_MAX || list.is_empty() {
            let (failed, first) = (records - loaded, first_error(&outcome));
            return Err(BenchError::LoadIncomplete { failed, records, first });
        }
        wanted = Records::Left(list.into());
        // Gentler from pass to pass: what overwhelms a store once does so again.
        plan.depth = (plan.depth / 2).max(1);
        std::thread::sleep(LOAD_REST);
    }
}

/// `forebay-bench run`.
pub(crate) fn run(args: &RunArgs) -> Result<(), BenchError> {
    if args.spawn { spawn::run(args) } else { run_once(args) }
}

/// A run against a store that serves already.
pub(crate) fn run_once(args: &RunArgs) -> Result<(), BenchError> {
    let Measured { report, saved, ledger_written } = measure_any(args)?;
    // Shown before the disk has its say: the run is not to be lost with its files.
    print!("{}", text::render(&report));
    saved?;
    if let Some(dir) = &args.report {
        println!("\nreport       {}", dir.join(html::FILE_NAME).display());
    }
    if args.ledger.is_some() {
        // A store that dies is what this workload is for.
        println!(
            "\nledger: {ledger_written} acknowledged puts noted, {} refused or unanswered",
            report.errors
        );
        return Ok(());
    }
    something_succeeded(&report)
}

/// Runs a workload, and prints nothing. Its report may be without a single success.
pub(crate) fn measure(args: &RunArgs) -> Result<Report, BenchError> {
    let Measured { report, saved, .. } = measure_any(args)?;
    saved.map(|()| report)
}

/// Whether there is anything to see in `report`.
pub(crate) fn something_succeeded(report: &Report) -> Result<(), BenchError> {
    match report.overall.count {
        0 => Err(BenchError::NothingSucceeded {
            errors: report.errors,
            first: report.first_error.clone().unwrap_or_else(|| "none reported".to_owned()),
        }),
        _ => Ok(()),
    }
}

/// What a run brought.
struct Measured {
    report: Report,
    /// Whether its files could be written.
    saved: Result<(), BenchError>,
    ledger_written: u64,
}

fn measure_any(args: &RunArgs) -> Result<Measured, BenchError> {
    let data = &args.traffic.data;
    let is_ledger = args.workload == WorkloadName::Ledger;
    if is_ledger != args.ledger.is_some() {
        return Err(BenchError::Usage(
            "--workload ledger and --ledger FILE go together".to_owned(),
        ));
    }
    if is_ledger && (args.traffic.value_bytes as usize) < LEDGER_VALUE_BYTES_MIN {
        return Err(BenchError::Usage(format!(
            "a ledger value takes at least {LEDGER_VALUE_BYTES_MIN} bytes: raise --value-bytes"
        )));
    }
    with_target!(&data.target, &data.table, |target| run_on(args, &target))
}

fn run_on<T: Target>(args: &RunArgs, target: &Arc<T>) -> Result<Measured, BenchError> {
    let mix = args.workload.mix();
    for kind in OpKind::ALL.into_iter().filter(|kind| mix.has(*kind)) {
        if let Some(reason) = target.refuses(kind) {
            return Err(BenchError::Unsupported { workload: args.workload.label(), reason });
        }
    }
    let mut plan = Plan {
        phases: phases(args),
        arrivals: args.arrivals,
        realtime: args.realtime,
        spin: args.spin,
        ..plan(&args.traffic, args.connections, args.depth)?
    };
    let raw = args.report.as_ref().map(|dir| {
        let command = build::command().join(" ");
        RawLogs::create(dir, &command)
    });
    let mut watch = Watch { progress: Progress::Rows, raw: raw.transpose()? };
    let before = Before::look(args);
    let TrafficArgs { records, value_bytes, seed, .. } = args.traffic;
    let value_bytes = value_bytes as usize;
    let outcome = if let Some(path) = &args.ledger {
        let header = ledger_header(&args.traffic.data);
        let (writer, first_seq) = LedgerWriter::open(path, &header)?;
        plan.ledger = Some(writer);
        plan.reconnect = false;
        plan.phases.retain(|phase| phase.is_measured);
        // Threads count from the same number: each has its own keys.
        let source = |_, lanes: generator::LaneRange| {
            Source::Ledger(LedgerKeys::new(
                records,
                plan.connections,
                lanes.first,
                lanes.count,
                plan.depth,
                value_bytes,
                first_seq,
            ))
        };
        generator::run(target, &plan, source, &mut watch)?
    } else {
        let distribution = args.distribution.unwrap_or(args.workload.distribution());
        let source = |part, _| {
            Source::Mixed(Mixed::new(mix, distribution, records, value_bytes, seed, part))
        };
        generator::run(target, &plan, source, &mut watch)?
    };

    let mut report = build::report(args, target.as_ref(), &plan, &outcome, before);
    report.remarks.clone_from(&args.remarks);
    let saved = save(args, &report, watch.raw.take(), &outcome);
    let ledger_written = outcome.threads.iter().map(|thread| thread.ledger_written).sum();
    Ok(Measured { report, saved, ledger_written })
}

/// Writes what `--report` asks for; the report itself first, since it would be missed most.
fn save(
    args: &RunArgs,
    report: &Report,
    raw: Option<RawLogs>,
    outcome: &RunOutcome,
) -> Result<(), BenchError> {
    let Some(dir) = &args.report else { return Ok(()) };
    report.write(dir)?;
    html::write(report, dir)?;
    raw.map(|raw| raw.finish(&outcome.collected.total)).transpose().map(drop)
}

/// `forebay-bench verify-ledger`.
pub(crate) fn verify_ledger(args: &VerifyArgs) -> Result<(), BenchError> {
    let (header, puts) = ledger::read(&args.ledger)?;
    let timeout = Duration::from_millis(args.timeout_millis);
    let verdict = with_target!(&args.target, &header.table, |target| ledger::verify(
        target.as_ref(),
        &header,
        &puts,
        timeout
    ))?;
    for example in &verdict.examples {
        println!("VIOLATION: {example}");
    }
    let Verdict { keys, newer, missing, stale, damaged, refused, .. } = verdict;
    println!(
        "verified {keys} acknowledged keys: {newer} hold a later put, {missing} missing, {stale} \
         stale, {damaged} damaged, {refused} not served"
    );
    match verdict.violations() {
        0 => Ok(()),
        violations => Err(BenchError::LedgerViolated { violations, keys }),
    }
}

/// Warm-up, and one phase that is measured.
fn phases(args: &RunArgs) -> Vec<Phase> {
    let ramp = args.rate.map(|rate| Ramp::steady(rate as f64));
    let phase = |name: &str, seconds: u64, is_measured| Phase {
        name: name.to_owned(),
        nanos: seconds * Nanos::PER_SECOND,
        is_measured,
        ramp,
    };
    let warmup = (args.warmup > 0).then(|| phase("warm-up", args.warmup, false));
    warmup.into_iter().chain([phase("measured", args.duration_or(RUN_SECONDS), true)]).collect()
}

fn ledger_header(data: &DataArgs) -> LedgerHeader {
    LedgerHeader { key_bytes: data.key_bytes as usize, table: data.table.clone() }
}

/// What all plans share.
fn plan(traffic: &TrafficArgs, connections: u32, depth: u32) -> Result<Plan, BenchError> {
    if connections < traffic.threads {
        return Err(BenchError::Usage(format!(
            "{} threads need at least as many connections, not {connections}",
            traffic.threads
        )));
    }
    sys::raise_open_files();
    Ok(Plan {
        threads: traffic.threads,
        cores: traffic.core.clone(),
        connections,
        depth,
        phases: Vec::new(),
        arrivals: Arrivals::Fixed,
        seed: traffic.seed,
        realtime: false,
        spin: false,
        interval_millis: 1000,
        timeout_millis: traffic.data.timeout_millis,
        reconnect: true,
        key_bytes: traffic.data.key_bytes as usize,
        ledger: None,
    })
}

fn first_error(outcome: &RunOutcome) -> String {
    outcome
        .threads
        .iter()
        .find_map(|thread| thread.first_error.clone())
        .unwrap_or_else(|| "none reported".to_owned())
}
