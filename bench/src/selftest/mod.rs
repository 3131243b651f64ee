//! `self-test`: whether this tool's figures can be trusted on this machine, now.
//!
//! Two servers whose behaviour is known are measured as any store would be:
//!
//! ```text
//!   stall   answers at once, but for one second not at all; 10,000 operations a second
//!           ► about 10,000 of them are late, evenly from 1 s down to nothing
//!   delay   answers after 0.2, 1 and 5 ms, and measures that itself
//!           ► the report's percentiles are the server's, within 10 us or 2 %
//! ```
//!
//! The generator never sleeps meanwhile (`run --spin`), because waking a thread takes the kernel tens
//! of microseconds; what that adds is measured last, for readers of runs without it.
//!
//! The first is what a tool that waits for answers before it asks again gets wrong (coordinated
//! omission); the second is what a tool with a busy loop, or with a sloppy clock, gets wrong.

mod checks;
mod server;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::error::BenchError;
use crate::fleet::share_cores;
use crate::stamps::processes::{self, Busy};
pub(crate) use checks::{Check, Setup};

/// `forebay-bench self-test`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SelfTestArgs {
    /// Core of the servers measured [default: the first of two or more]
    #[arg(long, value_name = "CORE")]
    pub(crate) server_core: Option<usize>,
    /// Core of the load generator [default: the second of two or more]
    #[arg(long, value_name = "CORE")]
    pub(crate) client_core: Option<usize>,
    /// Measure a delay so many times at most, until it holds: what disturbs the machine for a moment
    /// only ever makes it worse
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) attempts: u32,
    /// Seconds of each delay's measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) duration: u64,
}

/// The delays that are measured.
const DELAYS_MICROS: [u64; 3] = [200, 1_000, 5_000];

/// `forebay-bench self-test`.
pub(crate) fn self_test(args: &SelfTestArgs) -> Result<(), BenchError> {
    let (server_core, client_core) = share_cores(args.server_core, args.client_core);
    let setup = Setup { server_core, client_core, server_spins: true, client_spins: true };
    let busy = processes::busiest(Duration::from_millis(500), 3, &[]);
    for Busy { name, cpu_fraction } in &busy {
        println!("also running: {name}, {:.0} % of a core", cpu_fraction * 100.0);
    }
    println!(
        "{:<36} {:>12} {:>12} {:>10} {:>10}",
        "check", "expected", "reported", "off by", "at most"
    );
    let mut done: Vec<Check> = Vec::new();
    done.extend(show(checks::stall(&setup, Duration::from_secs(1))?));
    let mut say = |line: &str| println!("{line}");
    done.extend(show(delays(&setup, args.attempts, args.duration, &mut say)?));
    // What a client that sleeps between events adds; reports of runs without --spin contain it.
    let asleep = Setup { client_spins: false, ..setup };
    show(checks::delay(&asleep, Duration::from_millis(1), args.duration)?);
    let failed = done.iter().filter(|check| !check.holds()).count();
    match failed {
        0 => {
            println!("\nall {} checks hold", done.len());
            Ok(())
        }
        _ => Err(BenchError::SelfTestFailed { failed, checks: done.len() }),
    }
}

/// The known delays, each measured for `seconds` until its checks hold, `attempts` times at most;
/// `say` hears of an attempt that failed.
pub(crate) fn delays(
    setup: &Setup,
    attempts: u32,
    seconds: u64,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Check>, BenchError> {
    let mut done = Vec::new();
    for delay in DELAYS_MICROS.map(Duration::from_micros) {
        for attempt in 1.. {
            let checks = checks::delay(setup, delay, seconds)?;
            if attempt == attempts || checks.iter().all(Check::holds) {
                done.extend(checks);
                break;
            }
            let failed = checks.iter().filter(|check| !check.holds());
            say(&format!(
                "{} ms, attempt {attempt}: {} checks failed; {}; once more",
                delay.as_secs_f64() * 1e3,
                failed.count(),
                checks[0].line().split_whitespace().collect::<Vec<_>>().join(" ")
            ));
        }
    }
    Ok(done)
}

fn show(checks: Vec<Check>) -> Vec<Check> {
    for check in &checks {
        println!("{}", check.line());
    }
    checks
}
