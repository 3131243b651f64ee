//! `failover` with three real nodes. Where `forebay` was not built (`cargo test -p forebay-bench`
//! alone), the test says so and passes.

mod support;

use support::{bench, durable_dir, fails, forebay, succeeds};

#[test]
fn a_leader_killed_stopped_and_moved_loses_nothing_and_leaves_nothing_behind() {
    if forebay().is_none() {
        return;
    }
    let dir = durable_dir();
    let text = succeeds(&bench("failover --trials 1 --rate 500 --keys 600 --report r", dir.path()));
    for words in ["| kill ", "| stop ", "| hand-over ", "< 800", "0 lost", "forebay admin init"] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    let json = std::fs::read(dir.path().join("r/failover.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let trials = json["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 3);
    for trial in trials {
        assert_eq!(trial["recovered"], true, "{trial}");
        assert!(trial["acknowledged"].as_u64().unwrap() > 0, "{trial}");
        assert!(trial["gap_ms"].as_f64().unwrap() > 0.0, "{trial}");
    }
    assert_eq!(json["verdict"]["lost"], 0, "{json}");
    assert!(json["verdict"]["keys"].as_u64().unwrap() > 0, "{json}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [dir.path().join("r")], "directories of the nodes are gone");
}

#[test]
fn what_cannot_be_tried_says_why() {
    let dir = tempfile::tempdir().unwrap();
    assert!(fails(&bench("failover --how pull-the-plug", dir.path()), 2).contains("hand-over"));
    assert!(fails(&bench("failover --trials 0", dir.path()), 2).contains("--trials"));
}
