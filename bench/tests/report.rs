//! Reports of real runs against a bare echo server: what is in them, and what bad days leave.

mod support;

use std::fs;
use std::time::Duration;

use forebay_net::ring::testing::require_io_uring;
use support::{Server, bench, durable_dir, fails, forebay, report, said, succeeds, tool};

#[test]
fn a_report_has_its_page_its_picture_its_numbers_and_its_raw_histograms() {
    if !require_io_uring() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let floor = Server::floor();
    let args = format!(
        "run --target floor://{} --workload a --records 1000 --connections 4 --duration 2 --warmup 1 \
         --rate 2000 --arrivals poisson --seed 7 --report r",
        floor.address
    );
    succeeds(&bench(&args, dir.path()));
    let r = dir.path().join("r");
    let mut names: Vec<_> =
        fs::read_dir(&r).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected = [
        "get.hgrm",
        "get.hlog",
        "latency.svg",
        "put.hgrm",
        "put.hlog",
        "report.html",
        "report.json",
    ];
    assert_eq!(names, expected);

    let json = report(&r);
    assert!(json["rate_mode"].as_str().unwrap().contains("Poisson"));
    let counts = ["get", "put"].map(|kind| json["ops"][kind]["count"].as_u64().unwrap());
    let sum: u64 = counts.iter().sum();
    // Of 4000 meant to start; a Poisson count strays by some 63.
    assert!((3_700..=4_300).contains(&sum), "{counts:?}");
    assert_eq!(json["overall"]["count"].as_u64(), Some(sum));
    assert_eq!(json["start_delay"]["count"].as_u64(), Some(sum));
    let phases: Vec<_> = json["phases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|phase| (phase["name"].as_str().unwrap(), phase["is_measured"].as_bool().unwrap()))
        .collect();
    assert_eq!(phases, [("warm-up", false), ("measured", true)]);
    assert!(json["phases"][0]["overall"]["count"].as_u64().unwrap() > 1_500);
    assert_eq!(json["stamps"]["store"]["name"], "forebay-bench");
    assert_eq!(json["stamps"]["load_average"].as_array().unwrap().len(), 3);
    assert_eq!(json["seed"], 7);
    assert_eq!(json["command"][0], "forebay-bench");

    let page = fs::read_to_string(r.join("report.html")).unwrap();
    assert!(page.contains("--arrivals poisson --seed 7") && page.contains("<svg"));
    let log = fs::read_to_string(r.join("get.hlog")).unwrap();
    assert!(log.contains("#[StartTime: ") && log.contains("#[BaseTime: "));
    let lines = log.lines().filter(|line| !line.starts_with(['#', '"'])).count();
    assert!((2..=3).contains(&lines), "an interval a second, and perhaps the rest: {lines}");
}

#[test]
fn a_target_that_dies_leaves_a_report_with_the_gap_in_it() {
    if !require_io_uring() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut floor = Server::floor();
    let args = format!(
        "run --target floor://{} --workload gets --records 100 --connections 2 --duration 5 --warmup 0 \
         --rate 1000 --timeout 300 --report r",
        floor.address
    );
    let run = tool(&args, dir.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(2_500));
    floor.kill();
    succeeds(&run.wait_with_output().unwrap());
    let json = report(&dir.path().join("r"));
    let rows: Vec<_> = json["intervals"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["draining"] == false)
        .map(|row| ["offered", "ops", "errors"].map(|name| row[name].as_f64().unwrap() as u64))
        .collect();
    assert_eq!(rows.len(), 5, "{rows:?}");
    assert!(rows[0][1] > 500, "{rows:?}");
    assert_eq!(rows[4][..2], [1000, 0], "offered, and nothing succeeded: {rows:?}");
    assert!(rows[4][2] >= 990, "what was never started counts where it was meant to: {rows:?}");
    let errors = json["errors"].as_u64().unwrap();
    assert_eq!(json["ops"]["get"]["count"].as_u64().unwrap() + errors, 5000, "nothing is lost");
    assert!(json["longest_gap_without_success_ms"].as_f64().unwrap() > 1_500.0);
    let page = fs::read_to_string(dir.path().join("r/report.html")).unwrap();
    assert!(page.contains("nothing succeeded") && page.contains("failed: not started"));
}

#[test]
fn a_full_disk_for_the_report_has_its_own_exit_code_and_spares_no_words() {
    if !require_io_uring() {
        return;
    }
    let floor = Server::floor();
    let run = format!(
        "run --target floor://{} --workload gets --records 100 --duration 1 --warmup 0 --report r",
        floor.address
    );
    for full in [".report.json.partial", "get.hlog", ".report.html.partial"] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("r")).unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join("r").join(full)).unwrap();
        let output = bench(&run, dir.path());
        assert_eq!(output.status.code(), Some(5), "{full}: {}", said(&output));
        assert!(said(&output).contains("no space left for the report"), "{}", said(&output));
        assert!(said(&output).contains("p99.99"), "the numbers are on the terminal all the same");
    }
}

#[test]
fn diff_names_what_differs_before_any_ratio() {
    if !require_io_uring() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let floor = Server::floor();
    for (name, depth) in [("a", 1), ("b", 1), ("c", 4)] {
        let args = format!(
            "run --target floor://{} --workload gets --records 100 --connections 2 --depth {depth} \
             --duration 1 --warmup 0 --report {name}",
            floor.address
        );
        let text = succeeds(&bench(&args, dir.path()));
        assert!(text.contains("coordinated omission"), "a closed loop says what it is");
    }
    let same = succeeds(&bench("diff a b", dir.path()));
    assert!(!same.contains("THE LOADS DIFFER") && same.contains("p99.99"), "{same}");
    let other = bench("diff a c", dir.path());
    assert_eq!(other.status.code(), Some(1), "{}", said(&other));
    let text = String::from_utf8(other.stdout).unwrap();
    assert!(text.starts_with("THE LOADS DIFFER\n  depth "), "{text}");
    fails(&bench("diff a nowhere", dir.path()), 4);
}

#[test]
fn run_spawn_alone_starts_the_store_and_reports() {
    if !require_io_uring() || forebay().is_none() {
        return;
    }
    let dir = durable_dir();
    let mut spawn =
        tool("run --spawn --records 500 --duration 1 --warmup 0 --rate 200", dir.path());
    // As started by hand: under cargo it would build the store, whose lock this test's cargo holds.
    let text = succeeds(&spawn.env_remove("CARGO").output().unwrap());
    assert!(text.contains("forebay-bench-report/report.html"), "{text}");
    let json = report(&dir.path().join("forebay-bench-report"));
    assert_eq!(json["stamps"]["store"]["name"], "forebay");
    assert!(json["stamps"]["device"]["filesystem"].is_string());
    assert!(json["remarks"][0].as_str().unwrap().contains("forebay dev"));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["forebay-bench-report"], "the store's directory is gone");
}
