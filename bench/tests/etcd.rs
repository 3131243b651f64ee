//! The whole tool against a real etcd, where one is installed: gRPC over the tool's own HTTP/2.
//! Without `etcd` the tests say so and pass.

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Owned, bench, conditions_and_queries, free_port, report, succeeds};

struct Etcd {
    // In this order: the process ends before its directory goes.
    _process: Owned,
    port: u16,
    dir: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Option<Etcd> {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let (port, peers) = (free_port(), free_port());
            let at = format!("http://127.0.0.1:{port}");
            let spawned = Command::new("etcd")
                .args(["--listen-client-urls", &at, "--advertise-client-urls", &at])
                .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peers}")])
                .arg("--data-dir")
                .arg(dir.path().join("data"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let Ok(child) = spawned else {
                eprintln!("SKIPPED: etcd is not installed; this test needs it");
                return None;
            };
            let mut etcd = Etcd { _process: Owned(child), port, dir };
            if etcd.comes_up() {
                return Some(etcd);
            }
        }
        panic!("etcd found no port to serve on");
    }

    fn comes_up(&mut self) -> bool {
        let began = Instant::now();
        while self._process.0.try_wait().unwrap().is_none() {
            let args = "run --target TARGET --workload gets --records 1 --duration 1 --warmup 0";
            if self.bench(args).status.success() {
                return self._process.0.try_wait().unwrap().is_none();
            }
            assert!(began.elapsed() < Duration::from_secs(30), "etcd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    fn bench(&self, args: &str) -> std::process::Output {
        bench(&args.replace("TARGET", &format!("etcd://127.0.0.1:{}", self.port)), self.dir.path())
    }
}

#[test]
fn load_then_run_gives_a_report_of_hits() {
    let Some(etcd) = Etcd::start() else { return };
    let loaded = etcd.bench("load --target TARGET --records 2000 --value-bytes 50 --threads 2");
    assert!(succeeds(&loaded).contains("loaded 2000 records"));
    for workload in ["a", "d", "e", "f", "puts", "gets"] {
        let args = format!(
            "run --target TARGET --workload {workload} --records 2000 --value-bytes 50 \
             --connections 4 --depth 8 --threads 2 --duration 1 --warmup 0 --report {workload}"
        );
        let text = succeeds(&etcd.bench(&args));
        assert!(text.contains("etcd_version") && text.contains("linearizable"), "{text}");
        let json = report(&etcd.dir.path().join(workload));
        assert_eq!(json["errors"], 0, "{workload}: {json}");
        assert_eq!(json["reads_that_found_nothing"], 0, "{workload}");
        assert!(json["achieved_ops_s"].as_f64().unwrap() > 0.0, "{workload}");
    }
}

#[test]
fn conditional_puts_and_queries_succeed_on_loaded_records_and_fail_on_others() {
    let Some(etcd) = Etcd::start() else { return };
    conditions_and_queries(etcd.dir.path());
    let run = "run --target TARGET --workload conditions.toml --duration 1 --warmup 0 --report r";
    succeeds(&etcd.bench(run));
    let json = report(&etcd.dir.path().join("r"));
    assert!(json["errors"].as_u64().unwrap() > 0, "no record is there: {json}");
    assert!(json["first_error"].as_str().unwrap().contains("the condition failed"), "{json}");
    succeeds(&etcd.bench("load --target TARGET --workload conditions.toml"));
    for more in ["", " --eventual"] {
        succeeds(&etcd.bench(&format!("{run}{more}")));
        let json = report(&etcd.dir.path().join("r"));
        assert_eq!(json["errors"], 0, "{json}");
        assert_eq!(json["reads_that_found_nothing"], 0);
        for kind in ["get", "put", "conditional_put", "query"] {
            assert!(json["ops"][kind]["count"].as_u64().unwrap() > 0, "{kind}: {json}");
        }
    }
}

/// Larger than HTTP/2's first windows in both directions, and than a frame.
#[test]
fn large_values_pass_the_flow_control_of_both_sides() {
    let Some(etcd) = Etcd::start() else { return };
    let loaded = etcd
        .bench("load --target TARGET --records 40 --value-bytes 300000 --connections 2 --depth 4");
    assert!(succeeds(&loaded).contains("loaded 40 records"));
    for workload in ["gets", "a"] {
        succeeds(&etcd.bench(&format!(
            "run --target TARGET --workload {workload} --records 40 --value-bytes 300000 \
             --connections 2 --depth 4 --duration 1 --warmup 0 --report {workload}"
        )));
        let json = report(&etcd.dir.path().join(workload));
        assert_eq!(json["errors"], 0, "{workload}: {json}");
        assert_eq!(json["reads_that_found_nothing"], 0, "{workload}");
    }
}

#[test]
fn a_ledger_on_etcd_is_kept() {
    let Some(etcd) = Etcd::start() else { return };
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
    // Not the temporary directory: that may be in memory, where nothing is durable.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
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
    let output = bench(&format!("run --target etcd://{address} --workload gets"), dir.path());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}
