//! The mutation score of the simulator: bugs planted in the protocol and around it, and the seed
//! that catches each of them.
//!
//! `cargo test -p forebay-tools --test planted -- --nocapture` prints the table for the bugs that few
//! seeds are enough for. `FOREBAY_SIMULATE_SEEDS=500` gives every bug so many seeds, the rare ones
//! too, and `FOREBAY_SIMULATE_BUG=SkipSecondLook` looks at one bug only. A build with
//! `--features planted-bugs` does the same with `forebay simulate --plant NAME`, with a trace.

use std::collections::BTreeSet;

use forebay_tools::simulate::{Options, Planted, run};

/// Seeds that each bug gets here.
const SEEDS: u64 = 16;

/// Bugs that must be caught by so few. The others need an unlikely moment.
const SOON: [&str; 10] = [
    "LyingDisk",
    "ReplyUnchosen",
    "SkipSecondLook",
    "IgnoreInFlight",
    "SkipPageFlush",
    "TrimByOwnCheckpoint",
    "TrustExpiredLease",
    "ForgetAccepted",
    "PromiseDespiteSupport",
    "NoWaitAfterRestart",
];

/// Bugs that the protocol's own search catches (`cargo test -p forebay-core every_planted_bug --
/// --nocapture`), and that whole nodes show seldom or never; why.
const BY_THE_CORE: [(&str, &str); 8] = [
    ("PrepareUndurableBallot", "needs a disk that fails in the moment of an election"),
    ("IgnoreUnknownRange", "no log is damaged in these runs"),
    ("LogReplicaLeads", "no group has a log replica in these runs"),
    ("WrongConfiguration", "needs changes of a group's members"),
    ("TwoChangesAtOnce", "needs changes of a group's members"),
    ("EndedEpochReturns", "needs a lapse that only one side notices"),
    ("RelinquishedCoversLower", "needs three elections that overlap"),
    ("CountStaleAcknowledgement", "needs an acknowledgement older than an election"),
];

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[test]
fn planted_bugs_are_caught() {
    let only = variable("FOREBAY_SIMULATE_BUG");
    let seeds = variable("FOREBAY_SIMULATE_SEEDS").and_then(|seeds| seeds.parse().ok());
    let (mut table, mut missed, mut sound) = (String::new(), Vec::new(), BTreeSet::new());
    for planted in Planted::all() {
        let name = planted.name();
        let wanted = match &only {
            Some(only) => *only == name,
            None => seeds.is_some() || SOON.contains(&name.as_str()),
        };
        if !wanted {
            continue;
        }
        let all = (0..seeds.unwrap_or(SEEDS)).map(|seed| Options::new(seed, 3));
        let caught = all.into_iter().find_map(|options| {
            let failure = run(&Options { planted: Some(planted), ..options.clone() }).failure?;
            if sound.insert(options.seed) {
                let failure = run(&options).failure;
                assert_eq!(failure, None, "seed {} fails without a bug", options.seed);
            }
            Some((options.seed, failure))
        });
        let line = match caught {
            Some((seed, failure)) => {
                let message: String = failure.message.replace('\n', " ").chars().take(80).collect();
                format!("{name:<30} seed {seed:>4}  {:?}: {message}\n", failure.kind)
            }
            None => match BY_THE_CORE.iter().find(|(bug, _)| *bug == name) {
                Some((_, why)) => format!("{name:<30} by the core's search: {why}\n"),
                None => {
                    missed.push(name.clone());
                    format!("{name:<30} MISSED\n")
                }
            },
        };
        print!("{line}");
        table += &line;
    }
    assert!(missed.is_empty(), "planted bugs that no seed caught: {missed:?}\n{table}");
}
