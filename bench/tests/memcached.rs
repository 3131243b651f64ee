//! The whole tool against a real memcached, where one is installed. Without `memcached` the tests
//! say so and pass.

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Owned, bench, free_port, report, succeeds};

fn start() -> Option<(Owned, u16)> {
    for _ in 0..20 {
        let port = free_port();
        let spawned = Command::new("memcached")
            .args([
                "-l",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-U",
                "0",
                "-u",
                "nobody",
                "-m",
                "1024",
            ])
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = spawned else {
            eprintln!("SKIPPED: memcached is not installed; this test needs it");
            return None;
        };
        let mut owned = Owned(child);
        let began = Instant::now();
        while owned.0.try_wait().unwrap().is_none() {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some((owned, port));
            }
            assert!(began.elapsed() < Duration::from_secs(20), "memcached does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    panic!("memcached found no port to serve on");
}

#[test]
fn load_then_run_gives_a_report_of_hits() {
    let Some((_owned, port)) = start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &str| {
        bench(&args.replace("TARGET", &format!("memcached://127.0.0.1:{port}")), dir.path())
    };
    let loaded = run("load --target TARGET --records 2000 --value-bytes 5000 --threads 2");
    assert!(succeeds(&loaded).contains("loaded 2000 records"));
    for workload in ["a", "d", "f", "puts", "gets"] {
        let text = succeeds(&run(&format!(
            "run --target TARGET --workload {workload} --records 2000 --value-bytes 5000 \
             --connections 4 --depth 8 --duration 1 --warmup 0 --report {workload}"
        )));
        assert!(text.contains("memcached_version") && text.contains("in memory alone"), "{text}");
        let json = report(&dir.path().join(workload));
        assert_eq!(json["errors"], 0, "{workload}: {json}");
        assert_eq!(json["reads_that_found_nothing"], 0, "{workload}");
    }
    let scan = run("run --target TARGET --workload e");
    assert_eq!(scan.status.code(), Some(2));
    let long = run("run --target TARGET --workload gets --key-bytes 300");
    assert_eq!(long.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&long.stderr).contains("at most 250 bytes"));
}
