//! `figures`: every figure that the README states, each with the control that it is judged by.
//!
//! | item | figure | control |
//! |---|---|---|
//! | puts | durable puts a second, depth 1 and 16 | redis with appendfsync always; bare ring and log |
//! | gets | cached gets a second, depth 1 and 16 | redis; bare ring echo |
//! | log | bytes a second of the log's writer alone | the device at that batch size and depth |
//! | open-loop | p99.9 at half of the peak, pauses | the same without checkpoints; the bare log |
//! | control-flood | p99.9 while the operator HTTP is flooded | an unrelated server flooded alike; a CPU hog |
//! | memory | resident peak; reads a second of ten times the memory | the device's random reads |
//! | scale | puts and gets at 1k, 100k, 10M items; amplification | each other |
//! | syscalls | io_uring_enter for each request | none: a count |
//! | generator | the client's own CPU for each operation; its timing error | redis-benchmark; a known delay |
//!
//! Every item prints its commands, so that a reader can repeat each line by hand, and starts its
//! stores anew, so that none inherits another's state.

mod control_flood;
mod generator;
mod interrupts;
mod log;
mod memory;
mod open_loop;
mod page_server;
mod requests;
mod scale;
mod syscalls;

use std::time::{Duration, Instant};

pub(crate) use page_server::{PageArgs, serve_page};

use crate::compare::BenchArgs;
use crate::compare::calm::Probe;
use crate::compare::contest::{self, Contest, Entrant};
use crate::error::BenchError;
use crate::fleet::Member;
use crate::fleet::metrics::Metrics;
use crate::fleet::process::end_all_on_interrupt;
use crate::report::json::{write_json, write_text};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Item {
    /// Durable puts against redis and a bare ring and log
    Puts,
    /// Cached gets against redis and a bare ring
    Gets,
    /// The log against the device
    Log,
    /// Latency at half of the peak, with and without checkpoints
    OpenLoop,
    /// Latency while the operator HTTP is flooded
    ControlFlood,
    /// Ten times more data than memory
    Memory,
    /// Cost as the number of items grows
    Scale,
    /// System calls for each request
    Syscalls,
    /// The load generator's own cost and timing error
    Generator,
}

impl Item {
    const ALL: [Item; 9] = [
        Item::Generator,
        Item::Puts,
        Item::Gets,
        Item::Syscalls,
        Item::Log,
        Item::OpenLoop,
        Item::ControlFlood,
        Item::Memory,
        Item::Scale,
    ];
}

/// `forebay-bench figures`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FiguresArgs {
    /// Only these
    #[arg(long, value_name = "ITEM", value_delimiter = ',', num_args = 1..)]
    pub(crate) only: Vec<Item>,
    /// Depths at which puts and gets are compared
    #[arg(long, value_delimiter = ',', num_args = 1.., default_value = "1,16",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depths: Vec<u32>,
    /// Memory of the node that gets ten times as much data
    #[arg(long, value_name = "MIB", default_value_t = 128,
          value_parser = clap::value_parser!(u64).range(32..=1 << 20))]
    pub(crate) memory_mib: u64,
    /// Largest number of items that `scale` tries
    #[arg(long, value_name = "ITEMS", default_value_t = 10_000_000,
          value_parser = clap::value_parser!(u64).range(1000..))]
    pub(crate) scale_max: u64,
    /// Memory of the node that `scale` measures
    #[arg(long, value_name = "MIB", default_value_t = 2048,
          value_parser = clap::value_parser!(u64).range(32..=1 << 20))]
    pub(crate) scale_memory_mib: u64,
    /// Connections that flood the operator HTTP
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) flood_connections: u32,
    /// Rate of the flood, of what the operator HTTP can answer at most; 100 floods without pause
    #[arg(long, value_name = "PERCENT", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) flood_percent: u32,
    #[command(flatten)]
    pub(crate) bench: BenchArgs,
}

/// What is measured with, and what has been said.
struct Bench<'a> {
    args: &'a FiguresArgs,
    probe: Probe,
    page: String,
    contests: Vec<Contest>,
}

/// `forebay-bench figures`.
pub(crate) fn figures(args: &FiguresArgs) -> Result<(), BenchError> {
    end_all_on_interrupt()?;
    let probe = Probe::prepare(&args.bench.data_dir)?;
    let mut bench = Bench { args, probe, page: String::new(), contests: Vec::new() };
    bench.say(&format!("# Figures\n\n{}", args.bench.machine_lines().replace('\n', "  \n")));
    let began = Instant::now();
    let mut failed = None;
    for item in Item::ALL {
        if !args.only.is_empty() && !args.only.contains(&item) {
            continue;
        }
        let measured = match item {
            Item::Puts => requests::puts(&mut bench),
            Item::Gets => requests::gets(&mut bench),
            Item::Log => log::log(&mut bench),
            Item::OpenLoop => open_loop::open_loop(&mut bench),
            Item::ControlFlood => control_flood::control_flood(&mut bench),
            Item::Memory => memory::memory(&mut bench),
            Item::Scale => scale::scale(&mut bench),
            Item::Syscalls => syscalls::syscalls(&mut bench),
            Item::Generator => generator::generator(&mut bench),
        };
        // What one item met is told in its place; the others are still worth having.
        if let Err(error) = measured {
            bench.say(&format!("**Not measured:** {error}\n"));
            failed.get_or_insert(error);
        }
    }
    bench.say(&format!("Measured in {:.0} s.\n", began.elapsed().as_secs_f64()));
    if let Some(dir) = &args.bench.report {
        write_text(dir, "figures.md", &bench.page)?;
        write_json(dir, "figures.json", &bench.contests)?;
        println!("report       {}", dir.join("figures.md").display());
    }
    failed.map_or(Ok(()), Err)
}

impl Bench<'_> {
    /// Prints a paragraph, and keeps it for the report.
    fn say(&mut self, text: &str) {
        println!("{text}");
        self.page.push_str(text);
        self.page.push('\n');
    }

    /// A title, and what is measured in a sentence or two.
    fn begin(&mut self, title: &str, explanation: &str) {
        self.say(&format!("## {title}\n\n{explanation}\n"));
    }

    /// Commands, as a block of code.
    fn say_commands<'c>(&mut self, commands: impl IntoIterator<Item = &'c String>) {
        let mut lines: Vec<&str> = Vec::new();
        for command in commands {
            if !lines.contains(&command.as_str()) {
                lines.push(command);
            }
        }
        self.say(&format!("```\n{}\n```\n", lines.join("\n")));
    }

    /// Holds a contest; its rounds go to stderr, its summary onto the page.
    fn hold(&mut self, title: &str, entrants: &[Entrant<'_>]) -> Result<Contest, BenchError> {
        let rules = self.args.bench.rules();
        let mut show = |text: &str| eprintln!("{title}: {text}");
        let contest = contest::hold(title, entrants, &rules, &self.probe, &mut show)?;
        self.say_commands(&contest.commands);
        self.say(&contest.markdown());
        self.contests.push(contest.clone());
        Ok(contest)
    }

    /// One measurement.
    fn duration(&self) -> Duration {
        Duration::from_secs(self.args.bench.duration)
    }

    /// `--core N` of the load generator, or nothing.
    fn pin(&self) -> String {
        self.args.bench.client().map(|core| format!(" --core {core}")).unwrap_or_default()
    }
}

/// How long a checkpoint may keep a figure waiting.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(180);

/// The node publishes its counters every quarter of a second.
const PUBLISHED_AFTER: Duration = Duration::from_millis(600);

/// The counters of `member`, no older than this call.
fn published(member: &Member) -> Result<Metrics, BenchError> {
    std::thread::sleep(PUBLISHED_AFTER);
    member.metrics()
}

/// Waits until everything that `member` acknowledged is in its tree, then reads its counters.
fn settled(member: &Member) -> Result<Metrics, BenchError> {
    let began = Instant::now();
    loop {
        let metrics = published(member)?;
        let overlay = metrics.shard("overlay_active_bytes") + metrics.shard("overlay_frozen_bytes");
        if overlay == 0.0 {
            return Ok(metrics);
        }
        if began.elapsed() > SETTLE_TIMEOUT {
            return Err(BenchError::Io {
                what: "waiting for a checkpoint",
                source: std::io::ErrorKind::TimedOut.into(),
            });
        }
    }
}
