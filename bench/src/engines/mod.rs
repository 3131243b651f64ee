//! `engines`: this project's storage engine in-process against redb, LMDB, fjall and RocksDB, on the
//! workload of redb's published table.
//!
//! ```text
//!   rounds ─► engine after engine, each in a fresh directory ─► workload ─► Measured
//!        └─► medians: one column an engine, one row a figure ─► Markdown, engines.json
//!                  └─► what is asked of this project's engine: ratio, reached or missed
//! ```
//!
//! `engine` is the seam, one file an engine; `workload` is what is done; `table` what is shown.
//! Durability is equal: every commit of every engine is on the device when the call returns.
//! redb, LMDB and fjall are always built: the three and what they need take a minute of one core, once
//! (measured, development profile). RocksDB takes more than all the rest of this workspace, and
//! clang's library, so it has a feature of that name.
//!
//! A build without it says so below the table, and can still learn the size from RocksDB's own tool
//! (`ldb`).
//!
//! Measured with a million items on a virtual disk: what forebay's file keeps beside live pages (the
//! worst case of merging everything in memory, see the store's `room`) is most of its size. Next step
//! there: give free blocks beyond that back to the file system while the shard has nothing to merge.

mod engine;
mod fjall;
mod forebay;
mod ldb;
mod lmdb;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod table;
#[cfg(test)]
mod tests;
mod workload;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::compare::statistics::quotient;
use crate::compare::table::bytes;
use crate::error::BenchError;
use crate::fleet::process::{OwnedDir, end_all_on_interrupt};
use crate::report::build;
use crate::report::json::{write_json, write_text};
use crate::stamps::device::Device;
use crate::stamps::processes::{self, Busy};
use crate::sys::Hardware;

use engine::{EngineName, Setting};
use table::{EngineRounds, Verdict};
use workload::{Counts, Cut, Measured, Phase, Row, Watch, Workload};

/// `forebay-bench engines`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct EnginesArgs {
    /// Items of the bulk load; the other phases are as published, or smaller with fewer than a million
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..=1_000_000_000))]
    items: u64,
    /// Only these engines [default: all that this build has]
    #[arg(long, value_name = "ENGINE", value_delimiter = ',', num_args = 1..)]
    engines: Vec<EngineName>,
    /// Only these phases, after the bulk load
    #[arg(long, value_name = "PHASE", value_delimiter = ',', num_args = 1..)]
    only: Vec<Phase>,
    /// Cache of each engine [default: a sixth of this machine's memory; published: 4096]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(32..=1 << 20))]
    cache: Option<u64>,
    /// Rounds; each measures every engine once, in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seed of keys, values and choices: equal seeds repeat a run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Directory for the engines' data; what is made there is removed
    #[arg(long, value_name = "DIR", default_value = ".")]
    data_dir: PathBuf,
    /// Longest time between two checkpoints of this project's engine; no wait between phases is shorter
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 5000,
          value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    checkpoint_millis: u64,
    /// Spend at most so many minutes on the engines together: each phase gets its part of what is left
    /// and ends with it, and what was cut short is marked; settling and compactions are not cut
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    time_limit: Option<u64>,
    /// RocksDB's own tool `ldb` (Debian, Ubuntu: rocksdb-tools), for the size on disk that RocksDB needs
    /// for the same items where this build has no RocksDB
    #[arg(long, value_name = "PATH")]
    rocksdb_ldb: Option<PathBuf>,
    /// Write engines.md and engines.json into DIR
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

/// Of the machine's memory, an engine's cache.
const CACHE_SHARE: u64 = 6;

/// What everybody must know who reads the table.
const NOTES: &str = "\
- Every commit is flushed to the device before the call returns, in all engines; see each one's settings.
- A batch of forebay's is so many puts begun together and waited for once: this store has no transaction of \
  many items, so a crash may keep some of them. A batch of the other engines is one atomic transaction.
- forebay stores what a table stores: an encoded item with a key attribute and a value attribute, under a \
  key with a hash and a length before the 24 bytes. The other engines store the bare 24 and 150 bytes.
- forebay orders keys by their hash, so its range read is a piece of a Scan.
- Size is that of all files as the disk has them. Of forebay's, live pages grow with the data; the log's \
  length is fixed when it is made, by the memory; the reserve is what merging everything in memory may \
  need at worst, and pages freed by earlier merges.
- Reads make the key again from the item's number and compare the whole value";

/// `engines.json`.
#[derive(Debug, Serialize)]
struct EnginesReport<'a> {
    command: Vec<String>,
    hardware: Hardware,
    device: Device,
    busy_processes: Vec<Busy>,
    is_optimised_build: bool,
    seed: u64,
    cache_bytes: u64,
    counts: Counts,
    own_nanos_per_read: f64,
    engines: Vec<EngineReport>,
    verdicts: &'a [Verdict],
}

#[derive(Debug, Serialize)]
struct EngineReport {
    name: &'static str,
    version: String,
    settings: String,
    rounds: Vec<Measured>,
    cuts: Vec<Cut>,
}

/// What is known of an engine beside its figures.
#[derive(Debug)]
struct About {
    version: String,
    settings: String,
}

/// `forebay-bench engines`.
pub(crate) fn engines(args: &EnginesArgs) -> Result<(), BenchError> {
    end_all_on_interrupt()?;
    let mut names = match args.engines.is_empty() {
        true => EngineName::built(),
        false => args.engines.clone(),
    };
    names.sort();
    names.dedup();
    if let Some(absent) = names.iter().find(|name| !EngineName::built().contains(name)) {
        return Err(BenchError::Usage(format!(
            "this build has no {}: build with `--features {}` (it takes a C++ compiler and libclang)",
            absent.name(),
            absent.name()
        )));
    }
    let hardware = Hardware::here();
    let cache_bytes = args.cache.map_or(hardware.memory_bytes() / CACHE_SHARE, |mib| mib << 20);
    let busy_processes = processes::busiest(Duration::from_millis(200), 3, &[]);
    let workload =
        Workload { counts: Counts::of(args.items), seed: args.seed, only: args.only.clone() };
    let own_nanos = workload.own_nanos();
    let mut progress = Progress::new(args.rounds);
    let mut all: Vec<(EngineRounds, About)> = names
        .iter()
        .map(|&name| {
            let about = About { version: name.version(), settings: String::new() };
            (EngineRounds { name, rounds: Vec::new(), cuts: Vec::new() }, about)
        })
        .collect();
    let began = Instant::now();
    let until = args.time_limit.map(|minutes| began + Duration::from_secs(60 * minutes));
    let mut runs_left = args.rounds * names.len() as u32;
    for round in 1..=args.rounds {
        for (engine, about) in &mut all {
            progress.engine(round, engine.name);
            // What one does not use of its part is for those after it.
            let now = Instant::now();
            let until = until.map(|until| now + until.saturating_duration_since(now) / runs_left);
            runs_left -= 1;
            let ended = run_one(args, engine.name, cache_bytes, &workload, until, &mut progress)?;
            engine.rounds.push(ended.measured);
            engine.cuts.extend(ended.cuts);
            about.settings = ended.settings;
        }
    }
    if let Some(ldb) = &args.rocksdb_ldb
        && !names.contains(&EngineName::Rocksdb)
    {
        progress.engine(1, EngineName::Rocksdb);
        all.push(size_by_ldb(args, ldb, &workload, &mut progress)?);
    }
    progress.finish();
    let rounds: Vec<EngineRounds> = all.iter().map(|(engine, _)| engine.clone()).collect();
    let verdicts = table::verdicts(&rounds);
    let engines: Vec<EngineReport> =
        all.into_iter()
            .map(|(EngineRounds { name, rounds, cuts }, About { version, settings })| {
                EngineReport { name: name.name(), version, settings, rounds, cuts }
            })
            .collect();
    let report = EnginesReport {
        command: build::command(),
        device: Device::below(&args.data_dir),
        hardware,
        busy_processes,
        is_optimised_build: !cfg!(debug_assertions),
        seed: args.seed,
        cache_bytes,
        counts: workload.counts,
        own_nanos_per_read: own_nanos,
        engines,
        verdicts: &verdicts,
    };
    let page = page(&report, &rounds, began.elapsed());
    println!("{page}");
    if let Some(dir) = &args.report {
        write_text(dir, "engines.md", &page)?;
        write_json(dir, "engines.json", &report)?;
        println!("report       {}", dir.join("engines.md").display());
    }
    Ok(())
}

/// One engine in one round.
struct Ended {
    measured: Measured,
    cuts: Vec<Cut>,
    settings: String,
}

fn run_one(
    args: &EnginesArgs,
    name: EngineName,
    cache_bytes: u64,
    workload: &Workload,
    until: Option<Instant>,
    watch: &mut dyn Watch,
) -> Result<Ended, BenchError> {
    let failed = |source| BenchError::Engine { engine: name.name(), source };
    let dir = OwnedDir::create(&args.data_dir, name.name())?;
    let setting = Setting {
        dir: dir.path(),
        cache_bytes,
        items: workload.counts.written(),
        checkpoint_millis: args.checkpoint_millis,
    };
    let mut engine = name.open(&setting).map_err(failed)?;
    let settings = engine.settings();
    let (measured, cuts) =
        workload.run(engine.as_mut(), dir.path(), until, watch).map_err(failed)?;
    engine.close().map_err(failed)?;
    Ok(Ended { measured, cuts, settings })
}

/// RocksDB's size on disk, without RocksDB.
fn size_by_ldb(
    args: &EnginesArgs,
    ldb: &Path,
    workload: &Workload,
    watch: &mut dyn Watch,
) -> Result<(EngineRounds, About), BenchError> {
    let name = EngineName::Rocksdb;
    let failed = |source| BenchError::Engine { engine: name.name(), source };
    let dir = OwnedDir::create(&args.data_dir, name.name())?;
    let bytes = ldb::size(ldb, dir.path(), workload, watch).map_err(failed)?;
    let version = ldb::version(ldb).map_err(failed)?;
    let settings = ldb::SETTINGS.to_owned();
    let round = Measured::from([(Row::SizeFull, bytes)]);
    let rounds = vec![round; args.rounds as usize];
    Ok((EngineRounds { name, rounds, cuts: Vec::new() }, About { version, settings }))
}

/// The whole report as Markdown.
fn page(report: &EnginesReport<'_>, rounds: &[EngineRounds], took: Duration) -> String {
    let counts = &report.counts;
    let mut page = String::from("# Storage engines\n\n");
    let mut line = |text: String| {
        page.push_str(&text);
        page.push('\n');
    };
    line(format!("Machine: {}  ", report.hardware.line()));
    line(format!("Disk: {}  ", report.device.line()));
    let busy: Vec<String> = report
        .busy_processes
        .iter()
        .map(|busy| format!("{} {:.0} %", busy.name, busy.cpu_fraction * 100.0))
        .collect();
    line(format!(
        "Others running when it began: {}  ",
        if busy.is_empty() { "nobody busy".to_owned() } else { busy.join(", ") }
    ));
    line(format!(
        "{} items of 24 + 150 random bytes, cache {} MiB each, seed {}, {} round(s), {:.0} s in all  ",
        counts.items,
        report.cache_bytes >> 20,
        report.seed,
        rounds.first().map_or(0, |engine| engine.rounds.len()),
        took.as_secs_f64()
    ));
    line(format!(
        "{} single writes; {} batches of {} items; {} reads; {} ranges of {} items; {} removals\n",
        counts.singles,
        counts.batches,
        counts.batch_items,
        counts.reads,
        counts.ranges,
        counts.range_items,
        counts.removals()
    ));
    if !report.is_optimised_build {
        line(
            "**Compiled without optimisation: these figures say nothing; build with --release.**\n"
                .to_owned(),
        );
    }
    line(format!("```\n{}\n```\n", report.command.join(" ")));
    line(table::markdown(rounds));
    line(table::cut_lines(rounds));
    if !cfg!(feature = "rocksdb") {
        line(
            "Not in this build: rocksdb (`--features rocksdb`; it takes a C++ compiler and libclang). \
             With `--rocksdb-ldb` its size alone is measured.\n"
                .to_owned(),
        );
    }
    line("Asked of forebay:\n".to_owned());
    line(table::verdict_lines(report.verdicts));
    line(live_line(rounds));
    line("Settings:\n".to_owned());
    for engine in &report.engines {
        line(format!("- {} {}: {}", engine.name, engine.version, engine.settings));
    }
    line(format!(
        "\nNotes:\n\n{NOTES} ({:.0} ns of each read, for all).",
        report.own_nanos_per_read
    ));
    page
}

/// How the bytes that this project's files take divide.
fn live_line(rounds: &[EngineRounds]) -> String {
    let median = |name: EngineName, row: Row| {
        rounds.iter().find(|engine| engine.name == name).and_then(|engine| engine.median(row))
    };
    let Some(live) = median(EngineName::Forebay, Row::UsedFull) else { return String::new() };
    let beside = median(EngineName::Rocksdb, Row::SizeFull).map_or(String::new(), |theirs| {
        format!(", {:.2} times all of RocksDB's files", quotient(live, theirs))
    });
    format!(
        "Of forebay's size {} are live pages{beside}; {} are its log, {} its reserve for merges.\n",
        bytes(live),
        bytes(median(EngineName::Forebay, Row::LogFull).unwrap_or(0.0)),
        bytes(median(EngineName::Forebay, Row::ReserveFull).unwrap_or(0.0))
    )
}

/// A bar for a person at a terminal, and a line for each figure on standard error; without a terminal
/// a line now and then, too, of a phase that takes long.
struct Progress {
    bar: indicatif::ProgressBar,
    rounds: u32,
    title: String,
    what: &'static str,
    steps: (u64, u64),
    began: Instant,
    said: Instant,
}

/// Between two lines of a phase that takes long.
const SAY_EVERY: Duration = Duration::from_secs(30);

impl Progress {
    fn new(rounds: u32) -> Progress {
        let bar = match std::io::stderr().is_terminal() {
            true => indicatif::ProgressBar::new(1),
            false => indicatif::ProgressBar::hidden(),
        };
        bar.set_style(
            indicatif::ProgressStyle::with_template("{msg} {bar:30} {human_pos}/{human_len} {eta}")
                .expect("the template is a constant"),
        );
        let began = Instant::now();
        Progress { bar, rounds, title: String::new(), what: "", steps: (0, 0), began, said: began }
    }

    fn engine(&mut self, round: u32, name: EngineName) {
        self.title = match self.rounds {
            1 => name.name().to_owned(),
            rounds => format!("round {round} of {rounds}: {}", name.name()),
        };
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Progress {
    fn begin(&mut self, what: &'static str, steps: u64) {
        self.bar.reset();
        self.bar.set_length(steps);
        self.bar.set_message(format!("{}: {what}", self.title));
        (self.what, self.steps, self.said) = (what, (0, steps), Instant::now());
    }

    fn step(&mut self, steps: u64) {
        self.bar.inc(steps);
        self.steps.0 += steps;
        if self.bar.is_hidden() && self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            let (title, what, (done, of)) = (&self.title, self.what, self.steps);
            let minutes = self.began.elapsed().as_secs_f64() / 60.0;
            eprintln!("{title}: {what}: {done} of {of}, {minutes:.1} min since the start");
        }
    }

    fn end(&mut self, row: Row, value: f64) {
        let (title, row, value) = (&self.title, table::title(row), table::shown(row, value));
        self.bar.suspend(|| eprintln!("{title}: {row}: {value}"));
    }
}
