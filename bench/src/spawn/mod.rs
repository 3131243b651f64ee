//! `run --spawn`: a report of this store on this machine, with nothing to prepare.
//!
//! ```text
//!   build if need be ─► start (fresh directory, core of its own) ─► load ─► peak, closed loop
//!                                          report ◄─ open loop at half of the peak ◄─┘
//! ```
//!
//! Half of the peak, because latency near the peak says how long the queue is, not what the store
//! does. With `--rate` there is no search for the peak. The store ends with this command, and its
//! directory goes.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::{LoadArgs, RunArgs};
use crate::commands;
use crate::error::BenchError;
use crate::fleet::{Member, Place, Store, beside, share_cores};

/// Share of the peak that is offered.
const OF_PEAK: f64 = 0.5;
/// Seconds of the peak's measurement, and of load before it.
const PEAK_SECONDS: u64 = 5;
const PEAK_WARMUP_SECONDS: u64 = 1;
/// Seconds of the report's measurement, where the command line does not say.
const REPORT_SECONDS: u64 = 30;
/// Where the report goes, if the command line does not say.
const REPORT_DIR: &str = "forebay-bench-report";
/// Operations outstanding on each connection while records are loaded.
const LOAD_DEPTH: u32 = 16;

/// Carries out `run --spawn`.
pub(crate) fn run(args: &RunArgs) -> Result<(), BenchError> {
    build_store()?;
    let (server_core, client_core) = share_cores(None, args.traffic.core.first().copied());
    let data_dir = args.data_dir.clone().unwrap_or_else(|| PathBuf::from("."));
    let place = Place { data_dir, core: server_core, forebay: Vec::new() };
    say("starting forebay, its log is being laid out");
    let member = Member::start(&Store::Forebay, "forebay", &place)?;
    println!("store        {}", member.command);

    let mut run = args.clone();
    run.traffic.data.target = member.url.clone();
    if run.traffic.core.is_empty() {
        run.traffic.core.extend(client_core);
    }
    run.report.get_or_insert_with(|| PathBuf::from(REPORT_DIR));
    let seconds = args.duration_or(REPORT_SECONDS);
    run.duration = Some(seconds);
    run.remarks.push(format!("the store was started by this command: {}", member.command));
    say(&format!("loading {} records", run.traffic.records));
    let load = LoadArgs {
        traffic: run.traffic.clone(),
        workload: Some(run.workload.clone()),
        connections: 16,
        depth: LOAD_DEPTH,
        workers: Vec::new(),
    };
    let loaded = commands::load_quietly(&load)?;
    println!("loaded       {} records in {:.1} s", loaded.records, loaded.seconds);
    // A scenario with phases has rates of its own.
    if run.rate.is_none() && commands::scenario(&run)?.phases.is_empty() {
        let peak = peak(&run)?;
        let rate = (peak * OF_PEAK).max(1.0) as u64;
        println!("peak         {peak:.0} ops/s in a closed loop; offered from here on: {rate}");
        run.rate = Some(rate);
        run.remarks.push(format!(
            "the rate, {rate} operations a second, is {:.0} % of the {peak:.0} that a closed loop of \
             the same connections reached on this store just before",
            OF_PEAK * 100.0
        ));
    }
    say(&format!("measuring for {seconds} s"));
    println!();
    commands::run_once(&run)
}

/// What a closed loop of the same shape reaches.
fn peak(args: &RunArgs) -> Result<f64, BenchError> {
    let closed = RunArgs {
        rate: None,
        spin: false,
        report: None,
        duration: Some(PEAK_SECONDS),
        warmup: PEAK_WARMUP_SECONDS,
        ..args.clone()
    };
    say("measuring the peak");
    let report = commands::measure(&closed)?;
    commands::something_succeeded(&report)?;
    Ok(report.achieved_ops_s)
}

/// Progress, for a person at a terminal alone.
fn say(words: &str) {
    use std::io::IsTerminal as _;
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[2m{words} …\x1b[0m");
    }
}

/// `cargo run -p forebay-bench` builds this program alone. Where cargo started it, cargo makes the
/// store beside it too, of the same sources; otherwise what stands beside it is used.
fn build_store() -> Result<(), BenchError> {
    let program = beside("forebay");
    let (Some(cargo), Some(manifest)) =
        (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR"))
    else {
        return Ok(());
    };
    let Some(profile) = profile_of(&program) else { return Ok(()) };
    say("building forebay");
    let mut build = Command::new(cargo);
    build.current_dir(manifest).args(["build", "--quiet", "--package", "forebay-tools"]);
    build.args(["--bin", "forebay", "--profile", profile]);
    let shown = format!("cargo build --package forebay-tools --bin forebay --profile {profile}");
    let failed = |words: String| BenchError::DoesNotStart {
        name: "forebay".to_owned(),
        words,
        command: shown.clone(),
    };
    match build.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(format!("cargo ended with {status}"))),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Cargo's profile that puts programs where `program` is.
fn profile_of(program: &Path) -> Option<&'static str> {
    match program.parent()?.file_name()?.to_str()? {
        "release" => Some("release"),
        "debug" => Some("dev"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_built_as_this_program_was() {
        assert_eq!(profile_of(Path::new("/x/target/release/forebay")), Some("release"));
        assert_eq!(profile_of(Path::new("/x/target/debug/forebay")), Some("dev"));
        assert_eq!(profile_of(Path::new("/usr/bin/forebay")), None);
    }
}
