//! Many seeds of the simulation, and the mutation score: the planted bugs that it must catch.
//!
//! The table, as Markdown:
//! `cargo test -p forebay-core every_planted_bug -- --nocapture`.
//!
//! More seeds by hand:
//! `FOREBAY_PAXOS_SEEDS=100000 cargo test -p forebay-core paxos::tests::mutation::no_seed -- --nocapture`;
//! one seed with all its messages: `FOREBAY_PAXOS_SEED=4711 FOREBAY_PAXOS_SEEDS=1 …`.
//!
//! One bug, with the seeds from `FOREBAY_PAXOS_SEED` on, `FOREBAY_PAXOS_SEEDS` of them:
//! `FOREBAY_PAXOS_BUG=<its name>`.

use super::super::Bug;
use super::sim::{Plan, Stats, events_of_last_run, simulate};

/// Seeds of the ordinary test run: about two seconds.
const SEEDS: u64 = 600;
/// Seeds that a planted bug gets before it counts as missed.
const SEEDS_PER_BUG: u64 = 4000;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_seed_breaks_a_property() {
    let from = variable("FOREBAY_PAXOS_SEED").unwrap_or(0);
    let count = variable("FOREBAY_PAXOS_SEEDS").unwrap_or(SEEDS);
    println!("seeds {from}..{}", from + count);
    let begun = std::time::Instant::now();
    let (mut totals, mut slowest, mut failures) = (Stats::default(), 0, Vec::new());
    for seed in from..from + count {
        match simulate(seed, Plan { trace: count == 1, ..Plan::of_seed(seed) }) {
            Ok(stats) => {
                totals.add(&stats);
                slowest = slowest.max(stats.recovered_nanos);
            }
            Err(failure) => failures.push(format!("seed {seed}: {failure}")),
        }
    }
    let per_second = count as f64 / begun.elapsed().as_secs_f64();
    println!("{per_second:.0} seeds a second; slowest recovery {} ms", slowest / 1_000_000);
    println!("{totals:#?}");
    let shown = failures.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} of {count} seeds:\n{shown}", failures.len());
    // The seeds did meet what they are for.
    if count >= SEEDS {
        assert!(totals.acknowledged > 50 * count && totals.reads > 50 * count);
        let happened = [totals.crashes, totals.pauses, totals.hand_overs, totals.changes];
        assert!(happened.iter().all(|times| *times > count / 10), "{happened:?}");
        let happened = [totals.snapshots, totals.damages, totals.trims];
        assert!(happened.iter().all(|times| *times > count / 20), "{happened:?}");
    }
}

/// A matter of one interleaving, not of many events: the models and scenarios look for these.
const FOR_THE_MODEL: [Bug; 7] = [
    Bug::TwoChangesAtOnce,
    Bug::RelinquishedCoversLower,
    Bug::ForgetPromise,
    Bug::AnswerUndurablePromise,
    Bug::PrepareUndurableBallot,
    Bug::ForgetSupportToldSinceRestart,
    Bug::CountStaleAcknowledgement,
];

#[test]
fn every_planted_bug_is_caught() {
    let only = std::env::var("FOREBAY_PAXOS_BUG").ok();
    let hook = std::panic::take_hook();
    // Planted bugs break assertions by the hundred; those are reported in the table.
    std::panic::set_hook(Box::new(|_| {}));
    let mut rows: Vec<[String; 4]> =
        vec![["planted bug", "what it breaks", "caught by", "how"].map(str::to_owned)];
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let name = format!("{bug:?}");
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let seeds = if FOR_THE_MODEL.contains(&bug) { 0 } else { SEEDS_PER_BUG };
        let (from, seeds) = match variable("FOREBAY_PAXOS_SEEDS").filter(|_| only.is_some()) {
            Some(count) => (variable("FOREBAY_PAXOS_SEED").unwrap_or(0), count),
            None => (0, seeds),
        };
        let caught = (from..from + seeds).find_map(|seed| {
            let failed = simulate(seed, Plan { bug: Some(bug), ..Plan::of_seed(seed) }).err()?;
            let events = events_of_last_run();
            // The seed is innocent.
            let sound = simulate(seed, Plan::of_seed(seed));
            assert!(sound.is_ok(), "seed {seed} without a bug: {sound:?}");
            Some((seed, events, failed))
        });
        let (by, how) = match caught {
            Some((seed, events, failure)) => {
                let failure: String =
                    failure.lines().next().unwrap_or_default().chars().take(90).collect();
                (format!("simulation, seed {seed}, event {events}"), failure)
            }
            None if let Some(found) = super::scenarios::catches(bug) => {
                ("scenario".to_owned(), found.to_owned())
            }
            None if let Some(found) = super::model::catches(bug) => {
                ("model".to_owned(), found.to_string())
            }
            None => {
                missed.push(bug);
                ("**nothing**".to_owned(), format!("{SEEDS_PER_BUG} seeds are clean"))
            }
        };
        rows.push([name, bug.breaks().to_owned(), by, how.replace('|', "/")]);
    }
    std::panic::set_hook(hook);
    let table = markdown(&rows);
    println!("{table}");
    println!("{} of {} planted bugs caught", rows.len() - 1 - missed.len(), rows.len() - 1);
    assert!(missed.is_empty(), "planted bugs that no seed caught: {missed:?}\n{table}");
}

/// Rows, the first of them headers.
fn markdown(rows: &[[String; 4]]) -> String {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().expect("there are headers")
    };
    let line = |row: &[String; 4]| {
        let cells = row.iter().enumerate();
        let cells: String = cells.map(|(at, cell)| format!("| {cell:<0$} ", width(at))).collect();
        format!("{cells}|\n")
    };
    let rule = [0, 1, 2, 3].map(|column| "-".repeat(width(column)));
    let (headers, rest) = rows.split_first().expect("there are headers");
    [headers, &rule].into_iter().chain(rest).map(line).collect()
}
