//! `load`, `run` and `verify-ledger`: from arguments to a report.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_core::time::Nanos;

use crate::cli::{DataArgs, LoadArgs, RunArgs, TrafficArgs, VerifyArgs};
use crate::error::BenchError;
use crate::find_rate;
use crate::fleet::process::end_all_on_interrupt;
use crate::generator::{self, Arrivals, Interval, Phase, Plan, Ramp, RunOutcome, Shared};
use crate::interrupt;
use crate::ledger::{self, LedgerHeader, LedgerWriter, Verdict};
use crate::loading::{self, LOAD_INTERVAL_MILLIS, Order};
use crate::report::build::{self, Before};
use crate::report::collect::{Progress, Watch};
use crate::report::json::Report;
use crate::report::raw::RawLogs;
use crate::report::{html, text};
use crate::spawn;
use crate::sys;
use crate::target::{CONNECT_TIMEOUT, Setup, Target, TargetUrl, with_target};
use crate::workers::{self, WORKERS_MAX};
use crate::workload::{
    LEDGER_VALUE_BYTES_MIN, LedgerKeys, Mixed, OpKind, PhaseSpec, Scenario, Shape, Sizes, Source,
    WorkloadArg,
};

/// Of a measurement, if the command line does not say.
const RUN_SECONDS: u64 = 10;

/// `args`, with what its scenario says in their place, and the scenario.
fn resolve(args: &RunArgs) -> Result<(RunArgs, Scenario), BenchError> {
    let scenario = scenario(args)?;
    let mut run = args.clone();
    let traffic = &mut run.traffic;
    traffic.records = scenario.records.unwrap_or(traffic.records);
    traffic.seed = scenario.seed.unwrap_or(traffic.seed);
    traffic.value_bytes = scenario.shape.sizes.mean().round() as u64;
    traffic.shape.sort_digits = scenario.sort_digits.unwrap_or(traffic.shape.sort_digits);
    run.connections = scenario.connections.unwrap_or(run.connections);
    run.depth = scenario.depth.unwrap_or(run.depth);
    run.shape.eventual = scenario.is_eventual.unwrap_or(run.shape.eventual);
    run.shape.think_time = scenario.think_time.or(run.shape.think_time);
    if let Some(is_poisson) = scenario.is_poisson {
        run.arrivals = if is_poisson { Arrivals::Poisson } else { Arrivals::Fixed };
    }
    let conflict = match (run.rate.is_some(), &scenario) {
        (true, scenario) if !scenario.phases.is_empty() => {
            Some("--rate: the scenario's phases have rates of their own")
        }
        (true, _) if run.shape.think_time.is_some() => {
            Some("--rate: an open loop's rate says when to start, a think time says it too")
        }
        _ if scenario.is_ledger && run.traffic.shape.sort_digits > 0 => {
            Some("--sort-digits: --workload ledger has plain keys")
        }
        _ if scenario.is_ledger && run.traffic.shape.value_sizes.is_some() => {
            Some("--value-sizes: values of --workload ledger have one length")
        }
        _ => None,
    };
    match conflict {
        Some(words) => Err(BenchError::Usage(words.to_owned())),
        None => Ok((run, scenario)),
    }
}

/// What `args.workload` says.
pub(crate) fn scenario(args: &RunArgs) -> Result<Scenario, BenchError> {
    let mut otherwise = Shape::of(sizes(&args.traffic));
    otherwise.distribution = args.distribution.unwrap_or(otherwise.distribution);
    let mut scenario = Scenario::of(&args.workload, otherwise)?;
    if let (WorkloadArg::Named(_), Some(distribution)) = (&args.workload, args.distribution) {
        scenario.shape.distribution = distribution;
    }
    Ok(scenario)
}

fn sizes(traffic: &TrafficArgs) -> Sizes {
    let fixed = Sizes::Fixed(traffic.value_bytes as usize);
    traffic.shape.value_sizes.clone().unwrap_or(fixed)
}

/// The plainest data: keys without sort keys, consistent reads.
fn plain(table: &str) -> Setup<'_> {
    Setup { table, sort_digits: 0, consistent: true, timeout: CONNECT_TIMEOUT, ca_pem: None }
}

/// What the running store at `url` says about itself.
pub(crate) fn facts(url: &TargetUrl) -> Result<Vec<(String, String)>, BenchError> {
    with_target!(url, &plain("usertable"), |target| Ok(target.facts().to_vec()))
}

/// `forebay-bench load`.
pub(crate) fn load(args: &LoadArgs) -> Result<(), BenchError> {
    let Loaded { records, seconds, ref sizes } = load_quietly(args)?;
    println!(
        "loaded {records} records of {} B keys and {sizes} values in {seconds:.2} s \
         ({:.0} records/s)",
        args.traffic.data.key_bytes,
        records as f64 / seconds
    );
    Ok(())
}

/// A load that succeeded.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// All of them.
    pub(crate) records: u64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Lengths of values.
    pub(crate) sizes: Sizes,
}

/// Loads, and says nothing on stdout.
pub(crate) fn load_quietly(args: &LoadArgs) -> Result<Loaded, BenchError> {
    let mut load = args.clone();
    let mut sizes = sizes(&args.traffic);
    if let Some(workload) = &args.workload {
        let scenario = Scenario::of(workload, Shape::of(sizes))?;
        let traffic = &mut load.traffic;
        traffic.records = scenario.records.unwrap_or(traffic.records);
        traffic.seed = scenario.seed.unwrap_or(traffic.seed);
        traffic.shape.sort_digits = scenario.sort_digits.unwrap_or(traffic.shape.sort_digits);
        sizes = scenario.shape.sizes;
    }
    let TrafficArgs { ref data, records, seed, .. } = load.traffic;
    let ca_pem = data.trust.read()?;
    let bar = loading::bar(records);
    let began = Instant::now();
    let order = |workers| {
        let plan = load_plan(&load, workers)?;
        Ok::<Order, BenchError>(Order { plan, records, sizes: sizes.clone(), seed })
    };
    let loaded = match load.workers.len() {
        0 => {
            let sort_digits = load.traffic.shape.sort_digits.into();
            let ca_pem = ca_pem.as_deref().map(str::as_bytes);
            let setup = Setup { sort_digits, ca_pem, ..plain(&data.table) };
            with_target!(&data.target, &setup, |target| {
                check_keys(target.as_ref(), data)?;
                loading::load_all(&target, &order(1)?, &bar, || false)
            })
        }
        workers => {
            check_workers(workers)?;
            workers::coordinate_load(&load, &order(workers as u32)?, ca_pem, &bar)
        }
    };
    bar.finish_and_clear();
    let records = loaded?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Loaded { records, seconds, sizes: sizes.clone() })
}

/// The plan of a load of `workers` processes.
fn load_plan(args: &LoadArgs, workers: u32) -> Result<Plan, BenchError> {
    let mut traffic = args.traffic.clone();
    traffic.threads *= workers;
    Ok(Plan {
        interval_millis: LOAD_INTERVAL_MILLIS,
        ..plan(&traffic, args.connections, args.depth)?
    })
}

/// `forebay-bench run`.
pub(crate) fn run(args: &RunArgs) -> Result<(), BenchError> {
    end_all_on_interrupt()?;
    match (args.spawn, args.find.p99_us) {
        (true, _) => spawn::run(args),
        (false, Some(limit_us)) => find_rate::find_rate(args, limit_us),
        (false, None) => run_once(args),
    }
}

/// A run against a store that serves already.
pub(crate) fn run_once(args: &RunArgs) -> Result<(), BenchError> {
    let Measured { report, saved, ledger_written } = measure_any(args, true)?;
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
    }
    if report.is_interrupted {
        let (seconds, planned) = (report.duration_s, report.planned_duration_s);
        return Err(BenchError::Interrupted { seconds, planned });
    }
    match (&report.ledger, &args.ledger) {
        (Some(verdict), _) => {
            nothing_lost(verdict)?;
            something_succeeded(&report)
        }
        (None, Some(_)) => Ok(()),
        (None, None) => something_succeeded(&report),
    }
}

/// Names every loss.
fn nothing_lost(verdict: &Verdict) -> Result<(), BenchError> {
    for example in &verdict.examples {
        println!("VIOLATION: {example}");
    }
    match verdict.violations() {
        0 => Ok(()),
        violations => Err(BenchError::LedgerViolated { violations, keys: verdict.keys }),
    }
}

/// Runs a workload, and prints nothing. Its report may be without a single success.
pub(crate) fn measure(args: &RunArgs) -> Result<Report, BenchError> {
    let Measured { report, saved, .. } = measure_any(args, false)?;
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

/// A run; if `ends_early`, a signal ends it early instead of ending this process.
fn measure_any(args: &RunArgs, ends_early: bool) -> Result<Measured, BenchError> {
    let (args, scenario) = &resolve(args)?;
    let data = &args.traffic.data;
    let is_ledger = scenario.is_ledger;
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
    let ca_pem = data.trust.read()?;
    if !args.workers.is_empty() {
        return run_on_workers(args, scenario, ca_pem);
    }
    let setup = Setup {
        sort_digits: args.traffic.shape.sort_digits.into(),
        consistent: !args.shape.eventual,
        ca_pem: ca_pem.as_deref().map(str::as_bytes),
        ..plain(&data.table)
    };
    with_target!(&data.target, &setup, |target| run_on(args, scenario, &target, ends_early))
}

/// The plan of a run of `workers` processes.
fn run_plan(args: &RunArgs, scenario: &Scenario, workers: u32) -> Result<Plan, BenchError> {
    let mut traffic = args.traffic.clone();
    traffic.threads *= workers;
    Ok(Plan {
        phases: phases(args, scenario),
        arrivals: args.arrivals,
        realtime: args.realtime,
        spin: args.spin,
        think_nanos: args.shape.think_time.map_or(0, |time| time.as_nanos() as u64),
        ..plan(&traffic, args.connections, args.depth)?
    })
}

/// Who hears of a run's intervals.
fn watch(args: &RunArgs) -> Result<Watch, BenchError> {
    let raw = args.report.as_ref().map(|dir| {
        let command = build::command().join(" ");
        RawLogs::create(dir, &command)
    });
    Ok(Watch { progress: Progress::Rows, raw: raw.transpose()? })
}

fn check_workers(workers: usize) -> Result<(), BenchError> {
    match workers > WORKERS_MAX {
        true => Err(BenchError::Usage(format!("--workers: at most {WORKERS_MAX}"))),
        false => Ok(()),
    }
}

/// A run that others generate the load of.
fn run_on_workers(
    args: &RunArgs,
    scenario: &Scenario,
    ca_pem: Option<String>,
) -> Result<Measured, BenchError> {
    check_workers(args.workers.len())?;
    let plan = run_plan(args, scenario, args.workers.len() as u32)?;
    let mut watch = watch(args)?;
    let before = Before::look(&args.traffic.data.target);
    let run = workers::coordinate(args, scenario, &plan, ca_pem, &mut watch)?;
    measured_something(&plan, &run.outcome)?;
    let mut report = build::report(args, scenario, &run.facts, &plan, &run.outcome, before);
    report.remarks = remarks(args, scenario);
    let saved = {
        let total = run.outcome.collected.total.clone();
        run.tell(&mut report);
        save(args, &report, watch.raw.take(), &total)
    };
    Ok(Measured { report, saved, ledger_written: 0 })
}

/// A run that a signal ended in its warm-up has nothing to report.
fn measured_something(plan: &Plan, outcome: &RunOutcome) -> Result<(), BenchError> {
    match outcome.ended_early_after {
        Some(nanos) if !plan.clone().until(nanos).phases.iter().any(|one| one.is_measured) => {
            Err(BenchError::InterruptedEarly)
        }
        _ => Ok(()),
    }
}

fn run_on<T: Target>(
    args: &RunArgs,
    scenario: &Scenario,
    target: &Arc<T>,
    ends_early: bool,
) -> Result<Measured, BenchError> {
    check_keys(target.as_ref(), &args.traffic.data)?;
    let mix = scenario.shape.mix;
    for kind in OpKind::ALL.into_iter().filter(|kind| mix.has(*kind)) {
        if let Some(reason) = target.refuses(kind) {
            return Err(BenchError::Unsupported { workload: scenario.name.clone(), reason });
        }
    }
    let mut plan = run_plan(args, scenario, 1)?;
    let mut watch = watch(args)?;
    let shared = Arc::new(Shared::new(plan.threads));
    let _signals = ends_early.then(|| {
        let shared = Arc::clone(&shared);
        let interval_nanos = plan.interval_millis * Nanos::PER_MILLI;
        interrupt::ends_early(move || {
            shared.end_early(forebay_net::ring::now(), interval_nanos);
        })
    });
    let before = Before::look(&args.traffic.data.target);
    let TrafficArgs { records, value_bytes, seed, .. } = args.traffic;
    let value_bytes = value_bytes as usize;
    let outcome = if let Some(path) = &args.ledger {
        let header = ledger_header(&args.traffic.data);
        let (writer, first_seq) = LedgerWriter::open(path, &header)?;
        plan.ledger = Some(writer);
        // Without its only store there is nothing to wait for; a cluster's other nodes go on.
        plan.reconnect = args.verify;
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
        generator::run_with(&shared, target, &plan, source, &mut watch)?
    } else {
        let shape = &scenario.shape;
        let source = |part, _| Source::Mixed(Mixed::shaped(shape, records, seed, part));
        generator::run_with(&shared, target, &plan, source, &mut watch)?
    };
    measured_something(&plan, &outcome)?;

    let mut report = build::report(args, scenario, target.facts(), &plan, &outcome, before);
    report.remarks = remarks(args, scenario);
    if let Some(path) = args.ledger.as_ref().filter(|_| args.verify) {
        let (header, puts) = ledger::read(path)?;
        let timeout = Duration::from_millis(plan.timeout_millis);
        // What was measured is worth keeping whatever comes of this.
        save(args, &report, None, &outcome.collected.total)?;
        report.ledger = Some(ledger::verify(target.as_ref(), &header, &puts, timeout)?);
    }
    let saved = save(args, &report, watch.raw.take(), &outcome.collected.total);
    let ledger_written = outcome.threads.iter().map(|thread| thread.ledger_written).sum();
    Ok(Measured { report, saved, ledger_written })
}

/// Writes what `--report` asks for; the report itself first, since it would be missed most.
fn save(
    args: &RunArgs,
    report: &Report,
    raw: Option<RawLogs>,
    total: &Interval,
) -> Result<(), BenchError> {
    let Some(dir) = &args.report else { return Ok(()) };
    report.write(dir)?;
    html::write(report, dir)?;
    raw.map(|raw| raw.finish(total)).transpose().map(drop)
}

/// `forebay-bench verify-ledger`.
pub(crate) fn verify_ledger(args: &VerifyArgs) -> Result<(), BenchError> {
    let (header, puts) = ledger::read(&args.ledger)?;
    let timeout = Duration::from_millis(args.timeout_millis);
    let ca_pem = args.trust.read()?;
    let ca_pem = ca_pem.as_deref().map(str::as_bytes);
    let setup = Setup { ca_pem, ..plain(&header.table) };
    let verdict = with_target!(&args.target, &setup, |target| ledger::verify(
        target.as_ref(),
        &header,
        &puts,
        timeout
    ))?;
    println!("verified {}", verdict.words());
    nothing_lost(&verdict)
}

/// What a reader must know of the load beyond the report's own fields.
fn remarks(args: &RunArgs, scenario: &Scenario) -> Vec<String> {
    let mut remarks = args.remarks.clone();
    if let WorkloadArg::File(path) = &args.workload {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        remarks.push(format!("the load is the scenario {file}"));
    }
    let Shape { mix, sizes, items, .. } = &scenario.shape;
    if !matches!(sizes, Sizes::Fixed(_)) {
        remarks.push(format!("lengths of values: {sizes}; the mean is given as their length"));
    }
    if mix.has(OpKind::Query) || mix.has(OpKind::Scan) {
        remarks.push(format!("items of a scan or query: {} to {}", items.0, items.1));
    }
    if let Some(time) = args.shape.think_time {
        remarks.push(format!("think time: {} ms after each answer", time.as_secs_f64() * 1e3));
    }
    if args.traffic.shape.sort_digits > 0 {
        let together = 10u64.pow(args.traffic.shape.sort_digits.into());
        remarks.push(format!("{together} records share a partition key"));
    }
    if args.shape.eventual {
        remarks.push("reads may be answered by any replica, and stale".to_owned());
    }
    remarks
}

/// The scenario's phases; or a warm-up, and one phase that is measured.
fn phases(args: &RunArgs, scenario: &Scenario) -> Vec<Phase> {
    if !scenario.phases.is_empty() {
        let phase = |spec: &PhaseSpec| Phase {
            name: spec.name.clone(),
            nanos: spec.seconds * Nanos::PER_SECOND,
            is_measured: !spec.is_warmup,
            ramp: spec.rate.map(|(from, to)| Ramp { from, to }),
        };
        return scenario.phases.iter().map(phase).collect();
    }
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

/// Whether the target takes keys of this length.
fn check_keys<T: Target>(target: &T, data: &DataArgs) -> Result<(), BenchError> {
    match target.refuses_keys(data.key_bytes as usize) {
        Some(reason) => Err(BenchError::Usage(format!("--key-bytes {}: {reason}", data.key_bytes))),
        None => Ok(()),
    }
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
        share: None,
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
        think_nanos: 0,
        reconnect: true,
        key_bytes: traffic.data.key_bytes as usize,
        ledger: None,
    })
}
