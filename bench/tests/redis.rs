//! The whole tool against a real redis, where one is installed: load, closed and open loop, report,
//! ledger. Without `redis-server` the tests say so and pass.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::stores::{REDIS, Store, free_port};
use support::{Hits, bench, fails, report, succeeds, tool};

#[test]
fn load_then_run_gives_a_report_of_hits() {
    let Some(redis) = Store::start(REDIS) else { return };
    let hits = Hits {
        records: 2000,
        value_bytes: 50,
        shape: "--connections 8 --depth 4 --threads 2",
        workloads: &["a", "b", "c", "d", "f", "puts", "gets"],
        says: &["closed loop", "appendfsync always"],
    };
    hits.are_reported(|args| redis.bench(args), redis.dir.path());
}

#[test]
fn an_open_loop_offers_exactly_its_rate() {
    let Some(redis) = Store::start(REDIS) else { return };
    let text = succeeds(&redis.bench(
        "run --target TARGET --workload puts --records 100 --connections 16 --threads 2 \
         --rate 1000 --duration 2 --warmup 1 --report r",
    ));
    assert!(text.contains("open loop"), "{text}");
    let json = report(&redis.dir.path().join("r"));
    assert_eq!(json["ops"]["put"]["count"], 2000, "every intended start is accounted for");
}

#[test]
fn a_ledger_outlives_its_store_and_betrays_a_lost_write() {
    let Some(mut redis) = Store::start(REDIS) else { return };
    let args = format!(
        "run --target {} --workload ledger --ledger ledger --records 200 --connections 4 --depth 2 \
         --duration 60",
        redis.target()
    );
    let run = tool(&args, redis.dir.path()).stdout(Stdio::piped()).spawn().unwrap();
    sleep(Duration::from_millis(1500));
    redis.kill();
    let text = succeeds(&run.wait_with_output().unwrap());
    assert!(text.contains("acknowledged puts noted"), "{text}");

    redis.restart();
    let began = Instant::now();
    let verify = "verify-ledger --target TARGET --ledger ledger";
    loop {
        // LOADING is an error reply; it passes.
        let output = redis.bench(verify);
        if output.status.success() {
            assert!(succeeds(&output).contains("0 missing, 0 stale, 0 damaged"));
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{output:?}");
        sleep(Duration::from_millis(100));
    }
    let mut stream = TcpStream::connect(("127.0.0.1", redis.port)).unwrap();
    stream.write_all(b"FLUSHALL\r\n").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    let output = redis.bench(verify);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("VIOLATION: record"));
}

#[test]
fn what_cannot_work_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    for scheme in ["redis", "forebay", "floor"] {
        let args = format!("run --target {scheme}://127.0.0.1:{port} --workload gets");
        let words = fails(&bench(&args, dir.path()), 3);
        assert!(words.contains(&format!("127.0.0.1:{port}")) && words.contains("start"), "{words}");
    }
    let Some(redis) = Store::start(REDIS) else { return };
    let words = fails(&redis.bench("run --target TARGET --workload e"), 2);
    assert!(words.contains("no ordered key space"), "{words}");
    let wrong = format!("run --target forebay://127.0.0.1:{} --workload gets", redis.port);
    fails(&bench(&wrong, dir.path()), 3);
}
