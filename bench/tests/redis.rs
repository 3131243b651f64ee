//! The whole tool against a real redis, where one is installed: load, closed and open loop, report,
//! ledger. Without `redis-server` the tests say so and pass.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::{bench, free_port, report, succeeds};

struct Redis {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Redis {
    fn start() -> Option<Redis> {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let port = free_port();
            let Ok(child) = serve(dir.path(), port) else {
                eprintln!("SKIPPED: redis-server is not installed; this test needs it");
                return None;
            };
            let mut redis = Redis { child, port, dir };
            if redis.comes_up() {
                return Some(redis);
            }
        }
        panic!("redis found no port to serve on");
    }

    /// Waits until this very process answers; false if it ended, as it does where another program
    /// was quicker to take the port.
    fn comes_up(&mut self) -> bool {
        let began = Instant::now();
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if pong(self.port).is_ok_and(|pong| pong) {
                return self.child.try_wait().unwrap().is_none();
            }
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(20), "redis does not answer:\n{log}");
            sleep(Duration::from_millis(20));
        }
    }

    fn bench(&self, args: &str) -> Output {
        bench(&args.replace("TARGET", &format!("redis://127.0.0.1:{}", self.port)), self.dir.path())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(dir: &Path, port: u16) -> std::io::Result<Child> {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", "yes", "--appendfsync", "always", "--logfile", "log", "--dir"])
        .arg(dir)
        .stdout(Stdio::null())
        .spawn()
}

fn pong(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"PING\r\n")?;
    let mut reply = [0; 5];
    stream.read_exact(&mut reply)?;
    Ok(reply == *b"+PONG")
}

#[test]
fn load_then_run_gives_a_report_of_hits() {
    let Some(redis) = Redis::start() else { return };
    let loaded = redis.bench("load --target TARGET --records 2000 --value-bytes 50 --threads 2");
    assert!(succeeds(&loaded).contains("loaded 2000 records"));
    for workload in ["a", "b", "c", "d", "f", "puts", "gets"] {
        let args = format!(
            "run --target TARGET --workload {workload} --records 2000 --value-bytes 50 \
             --connections 8 --depth 4 --threads 2 --duration 1 --warmup 0 --report {workload}"
        );
        let text = succeeds(&redis.bench(&args));
        assert!(text.contains("closed loop") && text.contains("appendfsync always"), "{text}");
        let json = report(&redis.dir.path().join(workload));
        assert_eq!(json["errors"], 0, "{workload}: {json}");
        assert_eq!(json["reads_that_found_nothing"], 0, "{workload}");
        assert!(json["achieved_ops_s"].as_f64().unwrap() > 0.0, "{workload}");
    }
}

#[test]
fn an_open_loop_offers_exactly_its_rate() {
    let Some(redis) = Redis::start() else { return };
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
    let Some(mut redis) = Redis::start() else { return };
    let target = format!("redis://127.0.0.1:{}", redis.port);
    let run = Command::new(env!("CARGO_BIN_EXE_forebay-bench"))
        .args(["run", "--target", &target, "--workload", "ledger", "--ledger", "ledger"])
        .args(["--records", "200", "--connections", "4", "--depth", "2", "--duration", "60"])
        .current_dir(redis.dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    sleep(Duration::from_millis(1500));
    redis.child.kill().unwrap();
    redis.child.wait().unwrap();
    let text = succeeds(&run.wait_with_output().unwrap());
    assert!(text.contains("acknowledged puts noted"), "{text}");

    redis.child = serve(redis.dir.path(), redis.port).unwrap();
    let began = Instant::now();
    let verify = "verify-ledger --target TARGET --ledger ledger";
    loop {
        // LOADING is an error reply, a refused connection is exit code 3; both pass.
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
        let output = bench(&args, dir.path());
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{words}");
        assert!(words.contains(&format!("127.0.0.1:{port}")) && words.contains("start"), "{words}");
    }
    let Some(redis) = Redis::start() else { return };
    let output = redis.bench("run --target TARGET --workload e");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no ordered key space"));
    let wrong = bench(
        &format!("run --target forebay://127.0.0.1:{} --workload gets", redis.port),
        dir.path(),
    );
    assert_eq!(wrong.status.code(), Some(3), "{wrong:?}");
}
