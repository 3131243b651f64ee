//! What the README has a reader do with three nodes: `kill -9` the leader while `forebay-bench` writes,
//! and look at the report.

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use support::nodes::Layout;
use support::process::{code, stderr, stdout};
use support::scratch;

#[test]
fn a_report_shows_the_gap_of_a_killed_leader_and_that_nothing_acknowledged_is_lost() {
    let Some(dir) = scratch() else { return };
    let bench = std::path::Path::new(env!("CARGO_BIN_EXE_forebay")).with_file_name("forebay-bench");
    if !bench.is_file() {
        assert!(std::env::var_os("CI").is_none(), "{} is not built", bench.display());
        eprintln!("SKIPPED: no `forebay-bench`; cargo build --workspace makes it");
        return;
    }
    let mut three = Layout::of(3).secured().start(dir.path());
    three.init(3);
    let addresses: Vec<_> = three.natives.iter().map(ToString::to_string).collect();
    let certificates = three.certificates();
    let target =
        format!("forebay+tls://{}?certificates={}", addresses.join(","), certificates.display());
    let tool = |words: &str| {
        let mut tool = Command::new(&bench);
        tool.args(words.split_whitespace()).args(["--target", &target]);
        tool.current_dir(dir.path()).stdin(Stdio::null());
        tool.stdout(Stdio::piped()).stderr(Stdio::piped());
        tool
    };
    let loaded = tool("load --records 1000").output().unwrap();
    assert_eq!(code(&loaded), 0, "{}", stderr(&loaded));
    three.wait_until_whole(3);
    let run = "run --workload ledger --ledger acknowledged --verify --records 1000 --rate 500 \
               --connections 8 --duration 6 --report report";
    let run = tool(run).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    three.kill(three.leader("usertable"));
    let run = run.wait_with_output().unwrap();
    assert_eq!(code(&run), 0, "{}{}", stdout(&run), stderr(&run));
    let report = std::fs::read(dir.path().join("report/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let ledger = &report["ledger"];
    assert!(ledger["keys"].as_u64().unwrap() > 500, "{ledger}");
    for loss in ["missing", "stale", "damaged", "refused"] {
        assert_eq!(ledger[loss], 0, "{ledger}");
    }
    // The others waited for the lease to end, and then the writes went on.
    let gap = report["longest_gap_without_success_ms"].as_f64().unwrap();
    assert!((50.0..4000.0).contains(&gap), "{gap} ms");
    let page = std::fs::read_to_string(dir.path().join("report/report.html")).unwrap();
    assert!(page.contains("acknowledged keys lost"));
    assert!(stdout(&run).contains("0 missing, 0 stale, 0 damaged, 0 not served"));
    three.stop();
}
