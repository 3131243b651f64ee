//! Many seeds of the simulation, and the planted bugs that it must catch.

use super::sim::{Plan, simulate};

fn seeds(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_seed_breaks_a_property() {
    std::panic::set_hook(Box::new(|_| {}));
    let from = seeds("FOREBAY_PAXOS_SEED", 0);
    let count = seeds("FOREBAY_PAXOS_SEEDS", 1000);
    let begun = std::time::Instant::now();
    let mut failures = Vec::new();
    let mut totals = super::sim::Stats::default();
    let mut slowest = 0;
    for seed in from..from + count {
        match simulate(seed, Plan::of_seed(seed)) {
            Ok(stats) => {
                totals.add(&stats);
                slowest = slowest.max(stats.recovered_nanos);
            }
            Err(failure) => failures.push(format!("seed {seed}: {failure}")),
        }
    }
    let _ = std::panic::take_hook();
    println!("{count} seeds in {:?}, slowest recovery {} ms", begun.elapsed(), slowest / 1_000_000);
    println!("{totals:?}");
    assert!(failures.is_empty(), "{} of {count}: {:#?}", failures.len(), &failures[..failures.len().min(20)]);
}
