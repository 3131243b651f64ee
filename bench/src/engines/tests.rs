//! Every engine gives the same answers, and the table has every row.

use std::collections::BTreeMap;
use std::time::Instant;

use clap::Parser as _;
use forebay_net::ring::testing::{require_direct, require_io_uring};
use proptest::prelude::*;

use super::engine::{Engine, EngineName, Setting};
use super::table::{EngineRounds, markdown, title};
use super::workload::{Counts, Cut, Key, Pair, Phase, Row, VALUE_BYTES, Watch, Workload};

const MIB: u64 = 1 << 20;

struct Silent;

impl Watch for Silent {
    fn begin(&mut self, _: &'static str, _: u64) {}
    fn step(&mut self, _: u64) {}
    fn end(&mut self, _: Row, value: f64) {
        assert!(value >= 0.0 && value.is_finite());
    }
}

fn workload(items: u64) -> Workload {
    Workload { counts: Counts::of(items), seed: 7, only: Vec::new() }
}

/// Runs `test` with every engine of this build, each in its own directory.
fn with_each(mut test: impl FnMut(EngineName, &mut dyn Engine, &std::path::Path)) {
    let parent = tempfile::tempdir_in(".").unwrap();
    let is_able = require_io_uring() && require_direct(parent.path());
    for name in EngineName::built() {
        if name == EngineName::Forebay && !is_able {
            continue;
        }
        let dir = parent.path().join(name.name());
        std::fs::create_dir(&dir).unwrap();
        let setting =
            Setting { dir: &dir, cache_bytes: 64 * MIB, items: 10_000, checkpoint_millis: 20 };
        let mut engine = name.open(&setting).unwrap();
        assert!(!engine.settings().is_empty());
        test(name, engine.as_mut(), &dir);
        engine.close().unwrap();
    }
}

#[test]
fn the_whole_workload_runs_on_every_engine_and_brings_every_row() {
    let workload = workload(2000);
    let mut rounds = Vec::new();
    with_each(|name, engine, dir| {
        let (measured, cuts) = workload.run(engine, dir, None, &mut Silent).unwrap();
        assert_eq!(cuts, []);
        for row in Row::ALL {
            // Not every engine has these.
            let is_special = matches!(row, Row::Compaction | Row::SizeCompacted)
                || name != EngineName::Forebay && PARTS.as_flattened().contains(&row);
            assert!(measured.contains_key(&row) || is_special, "{name:?}: {row:?}");
        }
        if name == EngineName::Forebay {
            for [all, live, log, reserve] in PARTS_OF {
                let of = |row| measured[&row];
                assert_eq!(of(live) + of(log) + of(reserve), of(all), "{measured:?}");
                // A node's with 64 MiB: sixteen segments.
                assert_eq!(of(log), (256 * MIB) as f64);
            }
        }
        rounds.push(EngineRounds { name, rounds: vec![measured], cuts });
    });
    let text = markdown(&rounds);
    for row in Row::ALL {
        assert!(text.contains(title(row)), "{text}");
    }
}

/// All bytes, and what they divide into.
const PARTS_OF: [[Row; 4]; 2] = [
    [Row::SizeFull, Row::UsedFull, Row::LogFull, Row::ReserveFull],
    [Row::SizeRemoved, Row::UsedRemoved, Row::LogRemoved, Row::ReserveRemoved],
];
const PARTS: [[Row; 3]; 2] = [
    [Row::UsedFull, Row::LogFull, Row::ReserveFull],
    [Row::UsedRemoved, Row::LogRemoved, Row::ReserveRemoved],
];

#[test]
fn when_time_is_over_phases_end_with_what_they_did_and_say_so() {
    let workload = workload(20_000);
    with_each(|name, engine, dir| {
        let (measured, cuts) =
            workload.run(engine, dir, Some(Instant::now()), &mut Silent).unwrap();
        let rows: Vec<Row> = measured.keys().copied().collect();
        assert_eq!(rows, [Row::BulkLoad], "{name:?}: a smaller load says nothing of the rest");
        let [Cut { row: Row::BulkLoad, done: 4096, planned: 20_000 }] = cuts[..] else {
            panic!("{name:?}: {cuts:?}")
        };
    });
    // Fewer items than between two looks at the clock: the load is whole, and what follows is not.
    let workload = Workload { counts: Counts { reads: 100_000, ..Counts::of(4000) }, ..workload };
    with_each(|name, engine, dir| {
        let (measured, cuts) =
            workload.run(engine, dir, Some(Instant::now()), &mut Silent).unwrap();
        let cut: Vec<(Row, u64)> = cuts.iter().map(|cut| (cut.row, cut.done)).collect();
        // Each does one step, and a phase whose steps are few does all.
        assert_eq!(
            cut,
            [(Row::SingleWrites, 1), (Row::Batches, 10), (Row::RandomReads, 4096)],
            "{name:?}"
        );
        assert!(measured.contains_key(&Row::Removals) && !measured.contains_key(&Row::Compaction));
        assert!(measured.values().all(|value| value.is_finite()));
    });
}

#[test]
fn only_what_is_asked_for_is_measured() {
    let workload = Workload { only: vec![Phase::Reads], ..workload(1000) };
    with_each(|name, engine, dir| {
        let (measured, _) = workload.run(engine, dir, None, &mut Silent).unwrap();
        let rows: Vec<Row> = measured.keys().copied().collect();
        assert_eq!(
            rows,
            [Row::BulkLoad, Row::LoadSettle, Row::RandomReads, Row::RandomReadCpu],
            "{name:?}"
        );
    });
}

/// A change to a store.
#[derive(Clone, Debug)]
enum Step {
    Put(Vec<(u8, u8)>),
    Remove(Vec<u8>),
    Settle,
}

/// Few keys, so that steps meet.
fn key(number: u8) -> Key {
    workload(1000).key(u64::from(number))
}

fn pair((number, value): &(u8, u8)) -> Pair {
    (key(*number), [*value; VALUE_BYTES])
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = 0u8..40;
    let step = prop_oneof![
        4 => proptest::collection::vec((number.clone(), any::<u8>()), 1..30).prop_map(Step::Put),
        2 => proptest::collection::vec(number, 1..20).prop_map(Step::Remove),
        1 => Just(Step::Settle),
    ];
    proptest::collection::vec(step, 1..8)
}

/// Applies `steps` to `engine` and to a map in the engine's order, and compares all answers.
fn compare(name: EngineName, engine: &mut dyn Engine, steps: &[Step]) {
    let mut model: BTreeMap<Vec<u8>, [u8; VALUE_BYTES]> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Put(numbers) => {
                let pairs: Vec<Pair> = numbers.iter().map(pair).collect();
                engine.put_batch(&pairs).unwrap();
                model.extend(pairs.iter().map(|(key, value)| (engine.place(key), *value)));
            }
            Step::Remove(numbers) => {
                engine.remove(&mut numbers.iter().copied().map(key)).unwrap();
                for number in numbers {
                    model.remove(&engine.place(&key(*number)));
                }
            }
            Step::Settle => engine.settle().unwrap(),
        }
        let places: Vec<(Key, Vec<u8>)> =
            (0..40).map(|number| (key(number), engine.place(&key(number)))).collect();
        let mut reader = engine.reader().unwrap();
        for (key, place) in &places {
            let mut found = None;
            let is_there = reader.get(key, &mut |value| found = Some(value.to_vec())).unwrap();
            let expected = model.get(place).map(|value| value.to_vec());
            assert_eq!((is_there, found), (expected.is_some(), expected), "{name:?}");
            let mut seen = Vec::new();
            reader.range(key, 10, &mut |value| seen.push(value.to_vec())).unwrap();
            let expected = model.range(place.clone()..).take(10);
            let expected: Vec<Vec<u8>> = expected.map(|(_, value)| value.to_vec()).collect();
            assert_eq!(seen, expected, "{name:?}");
        }
    }
    let all: Vec<Key> = (0..40).map(key).collect();
    engine.remove(&mut all.into_iter()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn every_engine_answers_as_a_sorted_map_does(histories in proptest::collection::vec(steps(), 4)) {
        // A history leaves an engine empty, so that one opening serves several of them.
        with_each(|name, engine, _| {
            for history in &histories {
                compare(name, engine, history);
            }
        });
    }
}

#[test]
fn items_are_the_same_for_a_seed_and_others_for_another() {
    let (this, same) = (workload(1000), workload(1000));
    let other = Workload { seed: 8, ..workload(1000) };
    assert_eq!(this.pair(5), same.pair(5));
    assert_eq!(this.pair(5).0, this.key(5));
    let mut keys: Vec<Key> = (0..1000).map(|index| this.key(index)).collect();
    keys.extend((0..1000).map(|index| other.key(index)));
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 2000);
    assert!(this.own_nanos() > 0.0);
}

#[test]
fn directories_are_gone_after_a_run_and_unknown_engines_are_refused() {
    let parent = tempfile::tempdir_in(".").unwrap();
    let dir = parent.path().display();
    let line = format!(
        "forebay-bench engines --items 1000 --engines redb,lmdb --only reads --cache 32 --rounds 2 \
         --data-dir {dir} --report {dir}/report"
    );
    let parsed = crate::cli::Cli::try_parse_from(line.split_whitespace()).unwrap();
    let crate::cli::Command::Engines(args) = parsed.command else { panic!("{line}") };
    super::engines(&args).unwrap();
    let left: Vec<_> =
        std::fs::read_dir(parent.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [parent.path().join("report")]);
    let page = std::fs::read_to_string(parent.path().join("report/engines.md")).unwrap();
    assert!(page.contains("random reads") && page.contains("not measured here"), "{page}");
    let is_built = cfg!(feature = "rocksdb");
    assert_ne!(page.contains("Not in this build: rocksdb"), is_built, "{page}");
    let json = std::fs::read(parent.path().join("report/engines.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["engines"][0]["rounds"].as_array().unwrap().len(), 2);
    for bad in ["--engines leveldb", "--items 5", "--cache 1", "--only writes", "--time-limit 0"] {
        let words = std::iter::once("forebay-bench").chain(["engines"]).chain(bad.split(' '));
        assert!(crate::cli::Cli::try_parse_from(words).is_err(), "{bad}");
    }
}
