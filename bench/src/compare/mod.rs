//! `compare`: the same workload on several stores, in one run on one machine.
//!
//! ```text
//!   fleet: start, pin, load ─► contest: rounds in turn, noise watched ─► medians, ratios
//!                                                                          └─► compare.json, .md
//! ```

pub(crate) mod beside;
pub(crate) mod calm;
pub(crate) mod contest;
pub(crate) mod statistics;
pub(crate) mod table;

use std::path::PathBuf;

use serde::Serialize;

use crate::error::BenchError;
use crate::fleet::process::end_all_on_interrupt;
use crate::fleet::{Member, Place, Store, share_cores};
use crate::report::json::{write_json, write_text};
use crate::sys::{self, Hardware};
use crate::workload::{OpKind, Scenario, Shape, Sizes, WorkloadArg, WorkloadName};
use calm::Probe;
use contest::{Contest, Entrant, Rules};

/// What compare and figures share.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Records in each store
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) records: u64,
    /// Length of values
    #[arg(long, value_name = "BYTES", default_value_t = 100,
          value_parser = clap::value_parser!(u64).range(1..=390_000))]
    pub(crate) value_bytes: u64,
    /// Connections
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) connections: u32,
    /// Seconds of each measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=864_000))]
    pub(crate) duration: u64,
    /// Seconds of load before each measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(crate) warmup: u64,
    /// Rounds; each measures everything once, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rounds: u32,
    /// Core of the stores [default: the first of two or more]
    #[arg(long, value_name = "CORE")]
    pub(crate) server_core: Option<usize>,
    /// Core of the load generator [default: the second of two or more]
    #[arg(long, value_name = "CORE")]
    pub(crate) client_core: Option<usize>,
    /// Directory for the stores' data; what is made there is removed
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) data_dir: PathBuf,
    /// Leave rounds out of the medians in which the machine itself stalled
    #[arg(long)]
    pub(crate) discard_noisy: bool,
    /// A longer stall of the disk, with no store running, makes a round noisy
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 30.0)]
    pub(crate) stall_ms: f64,
    /// Write the results into DIR
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
}

impl BenchArgs {
    /// Where stores run.
    pub(crate) fn place(&self) -> Place {
        let (core, _) = share_cores(self.server_core, self.client_core);
        Place { data_dir: self.data_dir.clone(), core, forebay: Vec::new() }
    }

    /// The core of the load generator.
    pub(crate) fn client(&self) -> Option<usize> {
        share_cores(self.server_core, self.client_core).1
    }

    /// Of a contest.
    pub(crate) fn rules(&self) -> Rules {
        let BenchArgs { rounds, stall_ms, discard_noisy, .. } = *self;
        Rules { rounds, stall_ms, discard_noisy }
    }

    /// `--core N`, or nothing.
    fn pin(&self) -> String {
        self.client().map(|core| format!(" --core {core}")).unwrap_or_default()
    }

    /// The words of a run that say what the load is.
    pub(crate) fn load_words(&self, workload: impl Into<WorkloadArg>, depth: u32) -> String {
        let BenchArgs { records, value_bytes, connections, duration, warmup, .. } = self;
        format!(
            "--workload {} --records {records} --value-bytes {value_bytes} \
             --connections {connections} --depth {depth} --duration {duration} --warmup {warmup}{}",
            workload.into(),
            self.pin()
        )
    }

    /// Loads the records into `member`; returns the command for the reader.
    pub(crate) fn fill(&self, member: &Member) -> Result<String, BenchError> {
        self.fill_for(member, None)
    }

    /// Loads the records that `workload` wants.
    fn fill_for(
        &self,
        member: &Member,
        workload: Option<&WorkloadArg>,
    ) -> Result<String, BenchError> {
        let BenchArgs { records, value_bytes, .. } = self;
        let file = match workload {
            Some(WorkloadArg::File(path)) => format!(" --workload {}", path.display()),
            _ => String::new(),
        };
        let words = format!(
            "load --target {} --records {records} --value-bytes {value_bytes}{file}{}",
            member.url,
            self.pin()
        );
        contest::load(&words)?;
        Ok(contest::shown(&words))
    }

    /// What a reader must know about the machine.
    pub(crate) fn machine_lines(&self) -> String {
        let core = |core: Option<usize>| match core {
            Some(core) => format!("core {core}"),
            None => "no core of its own".to_owned(),
        };
        format!(
            "Machine: {}\nDisk: {}\nCores: each store {}, load generator {}\n",
            Hardware::here().line(),
            sys::device_of(&self.data_dir),
            core(self.place().core),
            core(self.client())
        )
    }
}

/// `forebay-bench compare`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CompareArgs {
    /// What to compare; ratios are to the first [default: redis,forebay,floor]
    #[arg(long, value_name = "TARGET", value_delimiter = ',', num_args = 1..)]
    pub(crate) targets: Vec<Store>,
    /// Stores to start here, where they are installed; they come before --targets
    #[arg(long, value_name = "STORE", value_delimiter = ',', num_args = 1..,
          value_parser = to_spawn)]
    pub(crate) spawn: Vec<Store>,
    /// Which mix of operations: a to f, puts, gets, or a scenario file
    #[arg(long, value_name = "NAME|FILE.toml", value_parser = without_blanks)]
    pub(crate) workload: WorkloadArg,
    /// Operations outstanding on each connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) depth: u32,
    /// Open loop with so many operations a second; without it a closed loop
    #[arg(long, value_name = "OPS_PER_SECOND",
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rate: Option<u64>,
    /// Memory of a forebay that is started, as `forebay dev --memory` takes it
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    #[command(flatten)]
    pub(crate) bench: BenchArgs,
}

/// A workload whose name can stand in a command line that is shown.
fn without_blanks(text: &str) -> Result<WorkloadArg, String> {
    match text.contains(char::is_whitespace) {
        true => Err("a file without blanks in its name".to_owned()),
        false => text.parse(),
    }
}

/// A store that can be started.
fn to_spawn(text: &str) -> Result<Store, String> {
    match text.parse()? {
        Store::Running(_) => Err("a URL cannot be started; it belongs to --targets".to_owned()),
        store => Ok(store),
    }
}

impl CompareArgs {
    /// All that are compared, in order.
    fn stores(&self) -> Vec<Store> {
        match self.spawn.is_empty() && self.targets.is_empty() {
            true => vec![Store::Redis, Store::Forebay, Store::Floor],
            false => self.spawn.iter().chain(&self.targets).cloned().collect(),
        }
    }
}

/// `compare.json`.
#[derive(Debug, Serialize)]
struct CompareReport<'a> {
    hardware: Hardware,
    disk: String,
    command: Vec<String>,
    stores: &'a [String],
    contest: &'a Contest,
}

/// `forebay-bench compare`.
pub(crate) fn compare(args: &CompareArgs) -> Result<(), BenchError> {
    if args.workload == WorkloadName::Ledger.into() {
        return Err(BenchError::Usage("--workload ledger compares nothing; use `run`".to_owned()));
    }
    end_all_on_interrupt()?;
    let mut place = args.bench.place();
    if let Some(memory) = &args.memory {
        place = place.with(["--memory", memory]);
    }
    println!("{}", args.bench.machine_lines());
    let started = start_all(&args.stores(), &args.workload, &args.bench, &place)?;
    for line in &started.lines {
        println!("    {line}");
    }
    let mut load = args.bench.load_words(args.workload.clone(), args.depth);
    if let Some(rate) = args.rate {
        load.push_str(&format!(" --rate {rate}"));
    }
    println!();
    let title = format!("{}, depth {}", args.workload, args.depth);
    let probe = Probe::prepare(&args.bench.data_dir)?;
    let contest = contest::hold(
        &title,
        &entrants(&started.members, &load),
        &args.bench.rules(),
        &probe,
        &mut |text| println!("{text}"),
    )?;
    let mut text = String::new();
    for command in &contest.commands {
        text.push_str(&format!("    {command}\n"));
    }
    text.push_str(&format!("\n{}", contest.markdown()));
    println!("{text}");
    if let Some(dir) = &args.bench.report {
        let report = CompareReport {
            hardware: Hardware::here(),
            disk: sys::device_of(&args.bench.data_dir),
            command: std::env::args().collect(),
            stores: &started.lines,
            contest: &contest,
        };
        write_json(dir, "compare.json", &report)?;
        let stores: String = started.lines.iter().map(|line| format!("    {line}\n")).collect();
        let page = format!("# {title}\n\n{}\n{stores}{text}", args.bench.machine_lines());
        write_text(dir, "compare.md", &page)?;
        println!("report       {}", dir.join("compare.json").display());
    }
    Ok(())
}

/// Members that serve, and what a reader must know about how they came to.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) members: Vec<Member>,
    /// Commands, and who was left out.
    pub(crate) lines: Vec<String>,
}

/// Starts and fills `stores`. One that is not installed is left out, and named.
pub(crate) fn start_all(
    stores: &[Store],
    workload: &WorkloadArg,
    args: &BenchArgs,
    place: &Place,
) -> Result<Started, BenchError> {
    let mix = Scenario::of(workload, Shape::of(Sizes::Fixed(1)))?.shape.mix;
    let writes = [OpKind::Put, OpKind::Insert, OpKind::ReadModifyWrite, OpKind::ConditionalPut];
    let is_written = writes.into_iter().any(|kind| mix.has(kind));
    let mut started = Started { members: Vec::new(), lines: Vec::new() };
    for store in stores {
        let store = match store {
            Store::Floor if is_written => &Store::FloorLog,
            Store::Floor => &Store::FloorEcho,
            store => store,
        };
        let taken = started.members.iter().filter(|member| member.name == store.to_string());
        let name = match taken.count() {
            0 => store.to_string(),
            _ => return Err(BenchError::Usage(format!("--targets names {store} twice"))),
        };
        let member = match Member::start(store, &name, place) {
            Err(error @ BenchError::NotInstalled { .. }) if *store != Store::Forebay => {
                started.lines.push(format!("left out: {error}"));
                eprintln!("forebay-bench: left out: {error}");
                continue;
            }
            member => member?,
        };
        started.lines.push(member.command.clone());
        started.lines.push(args.fill_for(&member, Some(workload))?);
        started.lines.push(format!("# {name}: {}", facts_line(&member)?));
        // Nothing of it runs while the next is loaded.
        member.pause();
        started.members.push(member);
    }
    match started.members.is_empty() {
        true => Err(BenchError::Usage("none of the targets can be measured".to_owned())),
        false => Ok(started),
    }
}

/// What the store says about itself, durability above all.
fn facts_line(member: &Member) -> Result<String, BenchError> {
    let facts = crate::commands::facts(&member.url)?;
    let facts: Vec<String> =
        facts.into_iter().map(|(name, value)| format!("{name} {value}")).collect();
    Ok(facts.join("; "))
}

/// Each of `members` under the same load.
pub(crate) fn entrants<'a>(members: &'a [Member], load: &str) -> Vec<Entrant<'a>> {
    members
        .iter()
        .map(|member| Entrant {
            name: member.name.clone(),
            member,
            load: load.to_owned(),
            beside: None,
            is_witness: member.name == Store::FloorLog.to_string(),
        })
        .collect()
}
