//! `simulate`: lives of a simulated cluster, one seed each.
//!
//! Results go to standard output, progress to standard error. The seed is printed before anything
//! runs, so that whatever happens can be repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use forebay_tools::simulate::{self, Failure as Found, NANOS_MIN, Options, Outcome, Stats};
use indicatif::{ProgressBar, ProgressStyle};

use crate::exit::{Exit, Failure};
use crate::run::listen_for_signals;
use crate::say;

const EXAMPLES: &str = "Examples:
  forebay simulate --seeds 100              a hundred lives of a minute, of three nodes
  forebay simulate --seeds 100 --seed 5000  the seeds 5000 to 5099
  forebay simulate --seed 5042 --trace      one seed, and what happened
  forebay simulate --seed 5042 --keep 3,7   with two of its faults only
  forebay simulate --nodes 1 --seeds 1000   a single node
  forebay simulate --nodes 4 --seeds 100    of four: dead members are replaced on the fourth
  forebay simulate --gray --seeds 100       one broken link at a time: no leader may change
  forebay simulate --seeds 10000 --jobs 2   on two threads, a seed each

A seed decides everything: when one fails, its faults are left out as long as it still fails, and
what is left is printed with the command that shows it again. Ctrl-C ends with the seed under way.";

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Simulate a cluster with faults, and check what its clients were told
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// How many seeds to run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed; drawn from the clock if absent
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Nodes of the cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = parse_nodes)]
    nodes: usize,
    /// Simulated seconds for which clients work
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = parse_seconds)]
    seconds: u64,
    /// Damage the disk of one node, too, in some runs of three nodes
    #[arg(long)]
    damage: bool,
    /// Break one link at a time and nothing else: no leader may change
    #[arg(long, conflicts_with = "damage")]
    gray: bool,
    /// Threads, each with a seed of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Keep only these faults of the plan, by number; an empty list keeps none
    #[arg(long, value_name = "LIST", value_parser = parse_keep)]
    keep: Option<Keep>,
    /// Go on after a failing seed, and list the failing ones in the end
    #[arg(long)]
    go_on: bool,
    /// Say what happens
    #[arg(long)]
    trace: bool,
    /// Plant this bug, which the simulation should find
    #[cfg(feature = "planted-bugs")]
    #[arg(long, value_name = "NAME", value_parser = simulate::Planted::by_name)]
    plant: Option<simulate::Planted>,
}

#[derive(Clone, Debug)]
struct Keep(Vec<usize>);

fn parse_keep(text: &str) -> Result<Keep, String> {
    let numbers = text.split(',').filter(|number| !number.is_empty());
    let numbers = numbers.map(|number| number.trim().parse().map_err(|_| number.to_owned()));
    numbers.collect::<Result<_, _>>().map(Keep).map_err(|bad| format!("{bad} is no number"))
}

fn parse_nodes(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "4" => Ok(4),
        _ => Err("a simulated cluster has 1, 3 or 4 nodes".into()),
    }
}

fn parse_seconds(text: &str) -> Result<u64, String> {
    let least = NANOS_MIN / NANOS_PER_SECOND;
    match text.parse() {
        Ok(seconds) if (least..=86_400).contains(&seconds) => Ok(seconds),
        _ => Err(format!("a run takes {least} to 86400 simulated seconds")),
    }
}

/// Sums over seeds.
#[derive(Debug, Default)]
struct Totals {
    seeds: u64,
    stats: Stats,
}

impl Totals {
    fn add(&mut self, stats: &Stats) {
        self.seeds += 1;
        let sum = &mut self.stats;
        sum.simulated_nanos += stats.simulated_nanos;
        sum.events += stats.events;
        sum.turns += stats.turns;
        sum.faults += stats.faults;
        sum.crashes += stats.crashes;
        sum.checkpoints += stats.checkpoints;
        sum.digests_compared += stats.digests_compared;
        sum.entries_compared += stats.entries_compared;
        sum.elections += stats.elections;
        sum.ages_checked += stats.ages_checked;
        sum.changes += stats.changes;
        sum.hand_overs += stats.hand_overs;
        sum.snapshots += stats.snapshots;
        sum.deletions += stats.deletions;
        sum.given_up += stats.given_up;
        sum.taken_in += stats.taken_in;
        sum.damages += stats.damages;
        sum.pages_damaged += stats.pages_damaged;
        sum.logs_lost += stats.logs_lost;
        sum.acknowledged_entries += stats.acknowledged_entries;
        sum.network_bytes += stats.network_bytes;
        sum.undecided_keys += stats.undecided_keys;
        let (all, one) = (&mut sum.operations, &stats.operations);
        all.wanted += one.wanted;
        all.not_sent += one.not_sent;
        all.answered += one.answered;
        all.refused += one.refused;
        all.unknown += one.unknown;
        all.eventual += one.eventual;
        all.too_stale += one.too_stale;
    }

    fn speed(&self, real_seconds: f64) -> String {
        let simulated = self.stats.simulated_nanos as f64 / 1e9;
        format!(
            "{:.2} seeds/s, {:.2} simulated hours, {:.0} x real time",
            self.seeds as f64 / real_seconds,
            simulated / 3600.0,
            simulated / real_seconds
        )
    }
}

/// Runs the seeds; a failing one ends the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if args.gray && args.nodes < 3 {
        return Err(Failure::new(Exit::Usage, "--gray takes a cluster of 3 nodes".to_owned()));
    }
    let first = args.seed.unwrap_or_else(seed_of_the_clock);
    let kind = if args.gray { ", gray failures only" } else { "" };
    say(&format!(
        "seed {first}, {} seed(s) of {} s with {} node(s){kind}\n",
        args.seeds, args.seconds, args.nodes
    ));
    let stop = stop_on_signal()?;
    let bar = progress_bar(args.seeds);
    let began = Instant::now();
    let (mut totals, mut failing) = (Totals::default(), Vec::new());
    let mut broken: Option<(Options, Found)> = None;
    each_seed(args, first, &stop, |options, outcome| {
        totals.add(&outcome.stats);
        bar.inc(1);
        bar.set_message(totals.speed(began.elapsed().as_secs_f64()));
        if args.trace {
            show_trace(&outcome);
        }
        let Some(failure) = outcome.failure else { return true };
        if args.go_on {
            bar.suspend(|| say(&failed(options.seed, &failure)));
            failing.push(options.seed);
        } else if broken.as_ref().is_none_or(|(other, _)| options.seed < other.seed) {
            broken = Some((options, failure));
        }
        args.go_on
    });
    bar.finish_and_clear();
    if let Some((options, failure)) = broken {
        return Err(explain(args, &options, &failure, &stop));
    }
    summarize(&totals, failing.len(), began.elapsed().as_secs_f64());
    failing.sort_unstable();
    match failing.first() {
        None => Ok(()),
        Some(first) => Err(Failure::new(
            Exit::Simulation,
            format!("{} seed(s) failed, the first is {first}", failing.len()),
        )),
    }
}

/// Runs seed after seed on each thread until `seen` has had enough of their outcomes, or somebody
/// asks for the end. Outcomes come in the order in which their runs end.
fn each_seed(
    args: &Args,
    first: u64,
    stop: &AtomicBool,
    mut seen: impl FnMut(Options, Outcome) -> bool,
) {
    let (next, enough) = (AtomicU64::new(0), AtomicBool::new(false));
    let (sender, outcomes) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            let (sender, next, enough) = (sender.clone(), &next, &enough);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) && !enough.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= args.seeds {
                        return;
                    }
                    let options = options_of(args, first.wrapping_add(index));
                    let outcome = simulate::run(&options);
                    if sender.send((options, outcome)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (options, outcome) in outcomes {
            if !seen(options, outcome) {
                enough.store(true, Ordering::Relaxed);
            }
        }
    });
}

fn options_of(args: &Args, seed: u64) -> Options {
    Options {
        nanos: args.seconds * NANOS_PER_SECOND,
        keep: args.keep.as_ref().map(|keep| keep.0.clone()),
        damage: args.damage,
        gray: args.gray,
        trace: args.trace,
        #[cfg(feature = "planted-bugs")]
        planted: args.plant,
        ..Options::new(seed, args.nodes)
    }
}

fn seed_of_the_clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64 % 1_000_000_000_000)
}

/// True once somebody has asked for the end. A second signal ends at once.
fn stop_on_signal() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let signals = listen_for_signals()?;
    let seen = Arc::clone(&stop);
    std::thread::spawn(move || {
        if let Ok(signal) = signals.recv() {
            seen.store(true, Ordering::Relaxed);
            eprintln!("forebay: {signal}, ending with this seed; once more to end at once");
        }
    });
    Ok(stop)
}

fn progress_bar(seeds: u64) -> ProgressBar {
    let bar = ProgressBar::new(seeds);
    let style = ProgressStyle::with_template("{pos}/{len} seeds  {msg}  {elapsed}");
    bar.set_style(style.expect("a valid template"));
    bar
}

fn show_trace(outcome: &Outcome) {
    for line in &outcome.trace {
        say(&format!("{line}\n"));
    }
}

fn failed(seed: u64, failure: &Found) -> String {
    let at = failure.at_nanos as f64 / 1e9;
    format!("seed {seed} FAILED ({:?}) at {at:.6} s: {}\n", failure.kind, failure.message)
}

fn summarize(totals: &Totals, failed: usize, real_seconds: f64) {
    let stats = &totals.stats;
    let operations = &stats.operations;
    let simulated = stats.simulated_nanos as f64 / 1e9;
    say(&format!(
        "{} of {} seed(s) clean: {}\n\
         faults {}, crashes {}, elections {}, checkpoints {}; compared {} digests, {} log entries\n\
         members changed {} times; {} hand-overs, {} snapshots, {} data deleted, {} nodes taken in\n\
         damage {} times: {} pages found and replaced, {} logs lost, {} nodes given up\n\
         operations {} ({:.0} a simulated second): {} keys answered, {} refused, {} unknown, {} not \
         sent\n\
         {} eventual reads checked, {} refused as too old\n\
         ledger entries acknowledged {}; histories too wide to check {}\n",
        totals.seeds - failed as u64,
        totals.seeds,
        totals.speed(real_seconds),
        stats.faults,
        stats.crashes,
        stats.elections,
        stats.checkpoints,
        stats.digests_compared,
        stats.entries_compared,
        stats.changes,
        stats.hand_overs,
        stats.snapshots,
        stats.deletions,
        stats.taken_in,
        stats.damages,
        stats.pages_damaged,
        stats.logs_lost,
        stats.given_up,
        operations.wanted,
        operations.wanted as f64 / simulated,
        operations.answered,
        operations.refused,
        operations.unknown,
        operations.not_sent,
        stats.ages_checked,
        operations.too_stale,
        stats.acknowledged_entries,
        stats.undecided_keys,
    ));
}

/// Makes the failing run small, and says how to see it again.
fn explain(args: &Args, options: &Options, failure: &Found, stop: &AtomicBool) -> Failure {
    let seed = options.seed;
    say(&failed(seed, failure));
    eprintln!("forebay: leaving out faults that it does not need");
    let go_on = &mut || !stop.load(Ordering::Relaxed);
    let small = simulate::minimise(options, failure.kind, go_on);
    let faults = options.plan().faults;
    say(&format!("with {} of its {} faults it still fails:\n", small.kept.len(), faults.len()));
    for index in &small.kept {
        let planned = faults[*index];
        say(&format!(
            "  fault {index}, {:.6} s to {:.6} s: {}\n",
            planned.at as f64 / 1e9,
            (planned.at + planned.nanos) as f64 / 1e9,
            planned.fault.describe(options.nodes)
        ));
    }
    say("what happened:\n");
    show_trace(&small.outcome);
    let kept: Vec<String> = small.kept.iter().map(usize::to_string).collect();
    let damage = match (args.damage, args.gray) {
        (true, _) => " --damage",
        (_, true) => " --gray",
        _ => "",
    };
    Failure::new(
        Exit::Simulation,
        format!(
            "seed {seed} failed; to see it again: forebay simulate --seed {seed} --nodes {} \
             --seconds {}{damage} --keep '{}' --trace",
            args.nodes,
            args.seconds,
            kept.join(",")
        ),
    )
}
