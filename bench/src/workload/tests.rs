//! Mixes, loads, and what both promise.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::Rng as _;

use super::*;
const ALONE: Part = Part { thread: 0, threads: 1 };

fn mixed(name: WorkloadName, seed: u64) -> Mixed {
    Mixed::new(name.mix(), name.distribution(), 1000, 10, seed, ALONE)
}

#[test]
fn every_mix_is_whole_and_drawn_in_its_proportions() {
    use WorkloadName::*;
    for name in [A, B, C, D, E, F, Puts, Gets, Ledger] {
        assert_eq!(name.mix().percent.iter().sum::<u32>(), 100, "{name:?}");
        let mut source = mixed(name, 42);
        let mut counts = [0u32; OpKind::COUNT];
        for _ in 0..20_000 {
            let planned = source.next();
            counts[planned.kind as usize] += 1;
            source.finished(planned);
        }
        for kind in OpKind::ALL {
            let want = name.mix().percent[kind as usize] * 200;
            let got = counts[kind as usize];
            assert!(got.abs_diff(want) <= 300, "{name:?} {kind:?}: {got} of {want}");
            assert_eq!(name.mix().has(kind), got > 0);
        }
    }
}

#[test]
fn equal_seeds_repeat_and_others_differ() {
    let plan = |seed| {
        let mut source = mixed(WorkloadName::A, seed);
        (0..100).map(|_| source.next()).collect::<Vec<_>>()
    };
    assert_eq!(plan(1), plan(1));
    assert_ne!(plan(1), plan(2));
    let threads = |thread| rng(1, Part { thread, threads: 2 }).random::<u64>();
    assert_ne!(threads(0), threads(1));
}

#[test]
fn latest_reads_only_what_was_inserted_and_acknowledged() {
    let mut source = mixed(WorkloadName::D, 4);
    let mut flying = VecDeque::new();
    let mut acknowledged = std::collections::HashSet::new();
    for _ in 0..20_000 {
        let planned = source.next();
        if planned.kind == OpKind::Get {
            assert!(planned.record < 1000 || acknowledged.contains(&planned.record));
        }
        flying.push_back(planned);
        if flying.len() == 50 {
            // Newest first, so that acknowledgements come out of order.
            while let Some(done) = flying.pop_back() {
                source.finished(done);
                if done.kind == OpKind::Insert {
                    acknowledged.insert(done.record);
                }
            }
        }
    }
    assert!(acknowledged.len() > 500);
}

#[test]
fn threads_load_every_record_once() {
    let mut seen = vec![0; 103];
    for thread in 0..4 {
        let mut load = Load::new(
            Records::All(103),
            Sizes::Fixed(10),
            1,
            Part { thread, threads: 4 },
            Arc::default(),
        );
        while let Next::Op(planned) = load.next() {
            seen[planned.record as usize] += 1;
        }
    }
    assert!(seen.iter().all(|&times| times == 1));
}
