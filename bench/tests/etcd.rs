//! The whole tool against a real etcd, where one is installed: gRPC over the tool's own HTTP/2.
//! Without `etcd` the tests say so and pass.

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use support::stores::{ETCD, Store};
use support::{
    Hits, bench, conditions_and_queries, conditions_and_queries_succeeded, durable_dir, fails,
    report, succeeds,
};

#[test]
fn load_then_run_gives_a_report_of_hits() {
    let Some(etcd) = Store::start(ETCD) else { return };
    let hits = Hits {
        records: 2000,
        value_bytes: 50,
        shape: "--connections 4 --depth 8 --threads 2",
        workloads: &["a", "d", "e", "f", "puts", "gets"],
        says: &["etcd_version", "linearizable"],
    };
    hits.are_reported(|args| etcd.bench(args), etcd.dir.path());
}

#[test]
fn conditional_puts_and_queries_succeed_on_loaded_records_and_fail_on_others() {
    let Some(etcd) = Store::start(ETCD) else { return };
    conditions_and_queries(etcd.dir.path());
    let run = "run --target TARGET --workload conditions.toml --duration 1 --warmup 0 --report r";
    succeeds(&etcd.bench(run));
    let json = report(&etcd.dir.path().join("r"));
    assert!(json["errors"].as_u64().unwrap() > 0, "no record is there: {json}");
    assert!(json["first_error"].as_str().unwrap().contains("the condition failed"), "{json}");
    succeeds(&etcd.bench("load --target TARGET --workload conditions.toml"));
    for more in ["", " --eventual"] {
        succeeds(&etcd.bench(&format!("{run}{more}")));
        conditions_and_queries_succeeded(&report(&etcd.dir.path().join("r")));
    }
}

/// Larger than HTTP/2's first windows in both directions, and than a frame.
#[test]
fn large_values_pass_the_flow_control_of_both_sides() {
    let Some(etcd) = Store::start(ETCD) else { return };
    let hits = Hits {
        records: 40,
        value_bytes: 300_000,
        shape: "--connections 2 --depth 4",
        workloads: &["gets", "a"],
        says: &[],
    };
    hits.are_reported(|args| etcd.bench(args), etcd.dir.path());
}

#[test]
fn a_ledger_on_etcd_is_kept() {
    let Some(etcd) = Store::start(ETCD) else { return };
    succeeds(&etcd.bench(
        "run --target TARGET --workload ledger --ledger ledger --records 100 --connections 4 \
         --depth 2 --duration 1",
    ));
    let text = succeeds(&etcd.bench("verify-ledger --target TARGET --ledger ledger"));
    assert!(text.contains("0 missing, 0 stale, 0 damaged"), "{text}");
}

#[test]
fn three_etcd_are_started_compared_and_gone() {
    if Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIPPED: etcd is not installed; this test needs it");
        return;
    }
    let dir = durable_dir();
    let text = succeeds(&bench(
        "compare --spawn etcd3 --targets floor --workload a --records 200 --value-bytes 50 \
         --connections 4 --duration 1 --warmup 0 --rounds 1",
        dir.path(),
    ));
    for words in ["--name=n3", "members 3", "the leader, of 3 endpoints given", "2 of 3 logs"] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_server_of_another_protocol_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::Write as _;
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"-ERR unknown command 'PRI'\r\n");
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let dir = tempfile::tempdir().unwrap();
    fails(&bench(&format!("run --target etcd://{address} --workload gets"), dir.path()), 3);
}
