//! Fixed seeds of the simulator, and proof that its checkers bite.

use forebay_tools::simulate::{FailureKind, NANOS_MIN, Options, Planted, minimise, run};

fn short(seed: u64, nodes: usize) -> Options {
    Options { nanos: NANOS_MIN, ..Options::new(seed, nodes) }
}

/// Runs of three nodes whose logs hold all that is written in them.
const ROOMY: [u64; 6] = [1, 6, 9, 10, 12, 13];

#[test]
fn fixed_seeds_are_clean() {
    for (seed, nodes) in (0..12).map(|seed| (seed, 1)).chain(ROOMY.map(|seed| (seed, 3))) {
        let outcome = run(&short(seed, nodes));
        println!("seed {seed}: {:?}", outcome.stats);
        assert_eq!(outcome.failure, None, "seed {seed}, {nodes} node(s)");
        assert!(outcome.stats.faults >= 1 && outcome.stats.checkpoints >= 1);
        assert_eq!(outcome.stats.digests_compared > 0, nodes > 1, "seed {seed}");
        let operations = outcome.stats.operations;
        assert!(operations.wanted >= 100 * (NANOS_MIN / 1_000_000_000 - 3), "{operations:?}");
        assert!(operations.answered > operations.wanted / 4, "{operations:?}");
    }
}

#[test]
fn a_seed_repeats_its_history() {
    for nodes in [1, 3] {
        let options = Options { trace: true, ..short(77, nodes) };
        let (first, second) = (run(&options), run(&options));
        assert_eq!(first.stats, second.stats);
        assert_eq!(first.trace, second.trace);
    }
}

#[test]
fn a_disk_that_lies_about_durability_is_caught_and_the_trace_is_small() {
    let mut caught = 0;
    for seed in 0..10 {
        let options = Options { planted: Some(Planted::LyingDisk), ..short(seed, 1) };
        let Some(failure) = run(&options).failure else { continue };
        caught += 1;
        if caught == 1 {
            let small = minimise(&options, failure.kind, &mut || true);
            println!("seed {seed}: {failure:?}, kept {:?}", small.kept);
            assert!(small.kept.len() <= 4, "few faults are enough: {:?}", small.kept);
            let again = small.outcome.failure.expect("it fails");
            assert_eq!(again.kind, failure.kind);
            assert!(!small.outcome.trace.is_empty());
        }
        assert_ne!(failure.kind, FailureKind::Panic, "{}", failure.message);
    }
    assert!(caught >= 3, "{caught} of 10 seeds caught the lie");
}
