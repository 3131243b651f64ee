//! The mutation score of the simulator: bugs planted in the protocol and around it, and the seed
//! that catches each of them.
//!
//! `cargo test -p forebay-tools --test planted -- --nocapture` prints the table. After a change, the
//! seeds of [`HINTS`] may be others: `FOREBAY_SIMULATE_SEEDS=200` looks at so many for each bug, and
//! `FOREBAY_SIMULATE_BUG=SkipPageFlush` at one bug only.

use forebay_tools::simulate::{Options, Planted, run};

/// Seeds that catch a bug: looked at first.
const HINTS: [(Planted, u64); 0] = [];

/// Seeds that each other bug gets.
const SEEDS: u64 = 12;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[test]
fn every_planted_bug_is_caught() {
    let only = variable("FOREBAY_SIMULATE_BUG");
    let seeds = variable("FOREBAY_SIMULATE_SEEDS").and_then(|seeds| seeds.parse().ok());
    let (mut table, mut missed) = (String::new(), Vec::new());
    for planted in Planted::all() {
        let name = planted.name();
        if only.as_ref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        let hint = HINTS.iter().find(|(of, _)| *of == planted).map(|(_, seed)| *seed);
        let looked_at = hint.into_iter().chain(0..seeds.unwrap_or(SEEDS));
        let caught = looked_at.map(|seed| Options::new(seed, 3)).find_map(|options| {
            let failure = run(&Options { planted: Some(planted), ..options.clone() }).failure?;
            let sound = run(&options).failure;
            assert_eq!(sound, None, "seed {} fails without a bug", options.seed);
            Some((options.seed, failure))
        });
        let line = match caught {
            Some((seed, failure)) => {
                let message: String = failure.message.replace('\n', " ").chars().take(80).collect();
                format!("{name:<24} seed {seed:>4}  {:?}: {message}\n", failure.kind)
            }
            None => {
                missed.push(planted);
                format!("{name:<24} MISSED\n")
            }
        };
        print!("{line}");
        table += &line;
    }
    assert!(missed.is_empty(), "planted bugs that no seed caught: {missed:?}\n{table}");
}
