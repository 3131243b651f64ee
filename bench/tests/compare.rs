//! `compare` with real stores of this project: a floor, and the `forebay` beside the tool. Where
//! that was not built (`cargo test -p forebay-bench` alone), the test says so and passes.

mod support;

use std::process::{Command, Stdio};

use support::{bench, durable_dir, fails, forebay, succeeds, tool};

#[test]
fn a_short_comparison_gives_ratios_and_leaves_nothing_behind() {
    if forebay().is_none() {
        return;
    }
    let dir = durable_dir();
    let text = succeeds(&bench(
        "compare --targets floor,forebay --workload puts --records 200 --value-bytes 50 \
         --connections 4 --duration 1 --warmup 0 --rounds 2 --report r",
        dir.path(),
    ));
    for words in ["Round 2 of 2", "floor --mode log", "by floor-log", "forebay dev --data DIR"] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    let json = std::fs::read(dir.path().join("r/compare.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let summaries = json["contest"]["summaries"].as_array().unwrap();
    assert_eq!(summaries.len(), 2);
    for summary in summaries {
        assert!(summary["ops_s"]["median"].as_f64().unwrap() > 0.0, "{summary}");
        assert_eq!(summary["errors"], 0, "{summary}");
    }
    assert_eq!(json["contest"]["rounds"].as_array().unwrap().len(), 2);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [dir.path().join("r")], "directories of the stores are gone");
}

#[test]
fn an_interrupted_comparison_ends_its_stores_and_removes_their_data() {
    let dir = durable_dir();
    let args = "compare --targets floor-echo --workload gets --records 100 --duration 60";
    let child = tool(args, dir.path()).stdout(Stdio::piped()).spawn().unwrap();
    let entries = || std::fs::read_dir(dir.path()).unwrap().count();
    for _ in 0..1000 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        if entries() >= 2 {
            break;
        }
    }
    // One for the store, one for the probe.
    assert_eq!(entries(), 2);
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(entries(), 0);
}

#[test]
fn a_store_that_dies_in_the_middle_is_named_as_the_cause() {
    let dir = durable_dir();
    let args = "compare --targets floor-echo --workload gets --records 100 --duration 2 --rounds 1 \
                --connections 4";
    let mut compare = tool(args, dir.path());
    let child = compare.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let began = std::time::Instant::now();
    let victim = loop {
        let text = std::fs::read_to_string(&children).unwrap_or_default();
        if let Some(pid) = text.split_whitespace().next() {
            break pid.to_owned();
        }
        assert!(began.elapsed().as_secs() < 20, "no store was started");
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert!(Command::new("kill").args(["-KILL", &victim]).status().unwrap().success());
    let said = fails(&child.wait_with_output().unwrap(), 3);
    assert!(said.contains("floor-echo died (killed by signal 9)"), "{said}");
}

#[test]
fn what_cannot_be_compared_says_why() {
    let dir = tempfile::tempdir().unwrap();
    for (args, words) in [
        ("compare --targets mysql --workload gets", "floor-log"),
        ("compare --spawn redis://h:1 --workload gets", "cannot be started"),
        ("compare --targets floor,floor-log --workload puts --records 10", "twice"),
        ("compare --workload ledger", "compares nothing"),
        ("figures --only everything", "possible values"),
    ] {
        let said = fails(&bench(args, dir.path()), 2);
        assert!(said.contains(words), "{args}: {said}");
    }
}
