//! Signals during a run: the first ends it early, with its report; the second ends at once.

mod support;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use forebay_net::ring::testing::require_io_uring;
use support::{Server, report, said, signal, tool};

fn begin(args: &str, dir: &std::path::Path) -> Child {
    tool(args, dir).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn an_interrupted_run_reports_the_part_that_ran_and_says_so() {
    if !require_io_uring() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let floor = Server::floor();
    for (name, mode) in [("open", "--rate 1000"), ("closed", "--think-time 1")] {
        let args = format!(
            "run --target floor://{} --workload gets --records 100 --connections 2 --duration 40 --warmup 1 \
             {mode} --report {name}",
            floor.address
        );
        let run = begin(&args, dir.path());
        std::thread::sleep(Duration::from_millis(3_700));
        signal(&run, if mode.starts_with("--rate") { "INT" } else { "TERM" });
        let output = run.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(6), "{}", said(&output));
        assert!(said(&output).contains("WARNING: interrupted"), "{}", said(&output));
        let json = report(&dir.path().join(name));
        assert_eq!(json["is_interrupted"], true);
        let seconds = json["duration_s"].as_f64().unwrap();
        assert!((1.0..=5.0).contains(&seconds) && seconds.fract() == 0.0, "{seconds}");
        assert_eq!(json["planned_duration_s"], 40.0);
        let rows: Vec<_> = json["intervals"].as_array().unwrap().iter().collect();
        let whole: Vec<_> = rows.iter().filter(|row| row["draining"] == false).collect();
        assert_eq!(whole.len() as f64, seconds + 1.0, "whole seconds: {rows:?}");
        assert_eq!(json["phases"][1]["duration_s"].as_f64(), Some(seconds));
        if name == "open" {
            assert_eq!(json["overall"]["count"].as_f64(), Some(seconds * 1000.0));
            assert_eq!(json["offered_ops_s"].as_f64(), Some(1000.0));
        }
        let page = std::fs::read_to_string(dir.path().join(name).join("report.html")).unwrap();
        assert!(page.contains("interrupted: a signal ended this run after"), "{page}");
        assert!(dir.path().join(name).join("get.hgrm").is_file());
    }
}

#[test]
fn a_run_that_is_interrupted_in_its_warm_up_has_nothing_to_report() {
    if !require_io_uring() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let floor = Server::floor();
    let args = format!(
        "run --target floor://{} --workload gets --records 100 --connections 2 --duration 40 --warmup 30 \
         --report r",
        floor.address
    );
    let run = begin(&args, dir.path());
    std::thread::sleep(Duration::from_millis(1_500));
    signal(&run, "INT");
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    assert!(said(&output).contains("before the measurement began"), "{}", said(&output));
    assert!(!dir.path().join("r/report.json").exists());
}

#[test]
fn the_second_signal_ends_at_once() {
    if !require_io_uring() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let floor = Server::floor();
    let args = format!(
        "run --target floor://{} --workload gets --records 100 --connections 2 --duration 40 --warmup 0 \
         --timeout 60000",
        floor.address
    );
    let run = begin(&args, dir.path());
    std::thread::sleep(Duration::from_millis(1_500));
    // What is under way stays so: the run waits for it after the first signal.
    floor.pause();
    std::thread::sleep(Duration::from_millis(300));
    signal(&run, "INT");
    std::thread::sleep(Duration::from_millis(2_000));
    let second = Instant::now();
    signal(&run, "INT");
    let output = run.wait_with_output().unwrap();
    assert!(second.elapsed() < Duration::from_secs(5));
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert!(said(&output).contains("once more to end at once"), "{}", said(&output));
}
