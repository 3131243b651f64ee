//! `load`, `run` and `verify-ledger`: from arguments to a report.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::cli::{DataArgs, LoadArgs, RunArgs, TrafficArgs, VerifyArgs};
use crate::error::BenchError;
use crate::generator::{self, Cause, Interval, Plan, RunOutcome};
use crate::ledger::{self, LedgerHeader, LedgerWriter, Verdict};
use crate::report::LatencySummary;
use crate::report::collect::Progress;
use crate::report::json::Report;
use crate::report::text;
use crate::sys::{self, Hardware};
use crate::target::floor::Floor;
use crate::target::forebay::Forebay;
use crate::target::redis::Redis;
use crate::target::{Scheme, Target};
use crate::workload::{
    LEDGER_VALUE_BYTES_MIN, LedgerKeys, Load, Mixed, OpKind, Records, Source, WorkloadName,
};

/// How long reaching a target may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// More of a core than this and the client is the limit.
const CLIENT_LIMIT_FRACTION: f64 = 0.9;
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
        duration_seconds: None,
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
    let progress = Progress::Bar(bar);
    let (mut wanted, mut loaded, mut idle_passes) = (Records::All(records), 0, 0);
    loop {
        let left = Arc::new(Mutex::new(Vec::new()));
        let source = |part, _| {
            let (wanted, left) = (wanted.clone(), Arc::clone(&left));
            Source::Load(Load::new(wanted, value_bytes as usize, seed, part, left))
        };
        let outcome = generator::run(target, &plan, source, &progress)?;
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
    let Measured { report, ledger_written } = measure_any(args)?;
    print!("{}", text::render(&report));
    if let Some(dir) = &args.report {
        report.write(dir)?;
        println!("\nreport       {}", dir.join(crate::report::json::FILE_NAME).display());
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
    measure_any(args).map(|measured| measured.report)
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
        rate_per_second: args.rate,
        realtime: args.realtime,
        warmup_seconds: args.warmup,
        duration_seconds: Some(args.duration),
        ..plan(&args.traffic, args.connections, args.depth)?
    };
    let hardware = Hardware::here();
    let began = SystemTime::now();
    let TrafficArgs { records, value_bytes, seed, .. } = args.traffic;
    let value_bytes = value_bytes as usize;
    let outcome = if let Some(path) = &args.ledger {
        let header = ledger_header(&args.traffic.data);
        let (writer, first_seq) = LedgerWriter::open(path, &header)?;
        plan.ledger = Some(writer);
        plan.reconnect = false;
        plan.warmup_seconds = 0;
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
        generator::run(target, &plan, source, &Progress::Rows)?
    } else {
        let distribution = args.distribution.unwrap_or(args.workload.distribution());
        let source = |part, _| {
            Source::Mixed(Mixed::new(mix, distribution, records, value_bytes, seed, part))
        };
        generator::run(target, &plan, source, &Progress::Rows)?
    };

    let report = report(args, target.as_ref(), &plan, &outcome, hardware, began);
    let ledger_written = outcome.threads.iter().map(|thread| thread.ledger_written).sum();
    Ok(Measured { report, ledger_written })
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
        rate_per_second: None,
        realtime: false,
        warmup_seconds: 0,
        duration_seconds: None,
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

fn report<T: Target>(
    args: &RunArgs,
    target: &T,
    plan: &Plan,
    outcome: &RunOutcome,
    hardware: Hardware,
    began: SystemTime,
) -> Report {
    let Interval { latencies, counters } = &outcome.collected.total;
    // A run may end before its time: a ledger's, with its store.
    let wall_nanos = outcome.threads.iter().map(|thread| thread.wall_nanos).max().unwrap_or(0);
    let duration = (args.duration as f64).min((wall_nanos as f64 / 1e9).max(1e-3));
    let mut overall = generator::latency_histogram();
    for histogram in latencies.iter().flatten() {
        overall.add(histogram).expect("all histograms are alike");
    }
    let ops = OpKind::ALL
        .iter()
        .zip(latencies)
        .filter_map(|(kind, histogram)| {
            Some((kind.label().to_owned(), LatencySummary::of(histogram.as_ref()?)))
        })
        .collect();
    let fractions: Vec<f64> = outcome
        .threads
        .iter()
        .map(|thread| thread.cpu_nanos as f64 / thread.wall_nanos.max(1) as f64)
        .collect();
    let cpu_nanos: u64 = outcome.threads.iter().map(|thread| thread.cpu_nanos).sum();
    let attempts = outcome.collected.total.successes() + counters.errors_all();
    let distribution = match args.workload {
        WorkloadName::Ledger => "each connection its own keys in turn",
        name => args.distribution.unwrap_or(name.distribution()).label(),
    };
    Report {
        workload: args.workload.label().to_owned(),
        target: args.traffic.data.target.to_string(),
        target_facts: target.facts().iter().cloned().collect(),
        table: args.traffic.data.table.clone(),
        records: args.traffic.records,
        key_bytes: args.traffic.data.key_bytes,
        value_bytes: args.traffic.value_bytes,
        key_distribution: distribution.to_owned(),
        connections: plan.connections,
        depth: plan.depth,
        threads: plan.threads,
        seed: args.traffic.seed,
        rate_mode: match args.rate {
            Some(_) => "open loop, fixed schedule".to_owned(),
            None => "closed loop".to_owned(),
        },
        warmup_s: plan.warmup_seconds as f64,
        duration_s: duration,
        offered_ops_s: args.rate.map_or(attempts as f64 / duration, |rate| rate as f64),
        achieved_ops_s: counters.in_time as f64 / duration,
        errors: counters.errors_all(),
        errors_by_cause: Cause::ALL
            .iter()
            .map(|&cause| (cause.label().to_owned(), counters.errors[cause as usize]))
            .collect::<BTreeMap<_, _>>(),
        first_error: outcome.threads.iter().find_map(|thread| thread.first_error.clone()),
        reads_that_found_nothing: counters.missing,
        late_starts: counters.late_starts,
        late_starts_waiting_for_depth: counters.late_for_depth,
        stale_replies: counters.stale_replies,
        reconnects: counters.reconnects,
        longest_gap_without_success_ms: outcome.gap_longest_nanos as f64 / 1e6,
        pauses_over_10_ms: outcome.pauses,
        client_cpu_fraction: fractions.iter().sum::<f64>() / fractions.len() as f64,
        client_was_the_limit: fractions.iter().any(|&fraction| fraction > CLIENT_LIMIT_FRACTION),
        client_cpu_fraction_by_thread: fractions,
        client_cpu_us_per_op: cpu_nanos as f64 / 1000.0 / attempts.max(1) as f64,
        clock: "CLOCK_BOOTTIME".to_owned(),
        clock_read_ns: clock_read_nanos(),
        overall: LatencySummary::of(&overall),
        ops,
        intervals: outcome.collected.rows.clone(),
        hardware,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: std::env::args().collect(),
        began_unix_s: began
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    }
}

/// What one reading of the clock costs.
fn clock_read_nanos() -> f64 {
    const READINGS: u32 = 10_000;
    let began = Instant::now();
    for _ in 0..READINGS {
        std::hint::black_box(forebay_net::ring::now());
    }
    began.elapsed().as_nanos() as f64 / f64::from(READINGS)
}
