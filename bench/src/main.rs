//! forebay-bench: the same workloads and the same clock for every store.
//!
//! ```text
//!   cli ─► commands ─► generator (thread per core, on this project's ring) ─► target (a codec)
//!                          ▲ workload: which operation, which record, which bytes
//!                          └─► report: rows, phases, totals ─► text, page, json, .hlog
//!   compare, figures ─► fleet (starts stores, ends them) ─► the same runs, in turn ─► ratios
//!   failover ─► three node processes, their leader lost again and again ─► gaps, losses
//!   heal ─► four node processes, one lost for good ─► who takes its place, and what that costs
//!   idle ─► three node processes with many groups ─► messages that nobody asked for
//!   engines ─► storage engines in this process, one after the other ─► table
//!   spawn ─► fleet (one store) ─► load, peak, report      diff ─► two reports ─► ratios
//!   run --workers ─► worker, worker, … ─► the same generator on each ─► one report
//!   selftest ─► servers whose behaviour is known ─► the same generator ─► is it what was known?
//! ```
//!
//! What makes its numbers worth something: latency counts from the intended start when a rate is
//! given; a closed loop is labelled as one; failures are never latencies; the client's own CPU is
//! watched; and every report holds what is needed to repeat it.

#[cfg(test)]
mod allocations;
mod calendar;
mod cli;
mod commands;
mod compare;
mod device;
mod diff;
mod engines;
mod error;
mod failover;
mod figures;
mod find_rate;
mod fleet;
mod floor;
mod generator;
mod heal;
mod idle;
mod interrupt;
mod ledger;
mod loading;
mod report;
mod selftest;
mod spawn;
mod stamps;
mod sys;
mod target;
mod workers;
mod workload;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Load(args) => commands::load(&args),
        Command::Run(args) => commands::run(&args),
        Command::Worker(args) => workers::worker(&args),
        Command::Floor(args) => floor::run_floor(&args).map_err(Into::into),
        Command::Compare(args) => compare::compare(&args),
        Command::ServePage(args) => figures::serve_page(&args),
        Command::Figures(args) => figures::figures(&args),
        Command::Engines(args) => engines::engines(&args),
        Command::Failover(args) => failover::failover(&args),
        Command::Heal(args) => heal::heal(&args),
        Command::Idle(args) => idle::idle(&args),
        Command::Diff(args) => diff::diff(&args),
        Command::SelfTest(args) => selftest::self_test(&args),
        Command::VerifyLedger(args) => commands::verify_ledger(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay-bench: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
