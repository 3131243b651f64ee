//! Coordinated runs: workers as processes on loopback, one report, and what bad days leave.

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use forebay_net::ring::testing::require_io_uring;
use support::{Server, report, said, signal, tool};

/// A worker on a port that the kernel chooses, gone with its owner.
struct Worker {
    child: Child,
    address: String,
}

impl Worker {
    fn start() -> Worker {
        Worker::start_as(&mut Command::new(env!("CARGO_BIN_EXE_forebay-bench")))
    }

    /// `program` ends with the tool's own name.
    fn start_as(program: &mut Command) -> Worker {
        let mut child = program
            .args(["worker", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("ready worker=").unwrap().to_owned();
        Worker { child, address }
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

fn two() -> ([Worker; 2], String) {
    let workers = [Worker::start(), Worker::start()];
    let places = format!("{},{}", workers[0].address, workers[1].address);
    (workers, places)
}

/// A run that goes on while the test does something to it.
fn begin(args: &str, dir: &Path) -> Child {
    tool(args, dir).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn numbers(json: &serde_json::Value, of: &str, name: &str) -> Vec<f64> {
    json[of].as_array().unwrap().iter().map(|row| row[name].as_f64().unwrap()).collect()
}

#[test]
fn two_workers_make_one_report_whose_counts_are_their_sum() {
    if !require_io_uring() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let floor = Server::floor();
    let (_workers, places) = two();
    let args = format!(
        "run --target floor://{} --workload a --records 1000 --connections 5 --duration 3 --warmup 1 \
         --rate 2000 --workers {places} --report r",
        floor.address
    );
    let output = tool(&args, dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let json = report(&dir.path().join("r"));
    assert_eq!(json["overall"]["count"], 6000, "one grid of intended starts: {}", said(&output));
    assert_eq!(json["errors"], 0);
    assert_eq!(numbers(&json, "workers", "ops"), [3000.0, 3000.0]);
    assert_eq!(numbers(&json, "workers", "connections"), [3.0, 2.0]);
    assert_eq!(numbers(&json, "workers", "share"), [0.5, 0.5]);
    assert_eq!((json["threads"].as_u64(), json["connections"].as_u64()), (Some(2), Some(5)));
    let kinds = ["get", "put"].map(|kind| json["ops"][kind]["count"].as_u64().unwrap());
    assert_eq!(kinds.iter().sum::<u64>(), 6000);
    let late: f64 = numbers(&json, "workers", "late_starts").iter().sum();
    assert_eq!(json["late_starts"].as_f64(), Some(late));
    // One machine, one clock: whatever the estimate is, the truth is 0.
    for worker in json["workers"].as_array().unwrap() {
        let offset = worker["clock_offset_us"].as_f64().unwrap();
        let uncertainty = worker["clock_uncertainty_us"].as_f64().unwrap();
        assert!(offset.abs() <= uncertainty, "{worker}");
        assert!(uncertainty < 100_000.0 && worker["clock_moved_us"].is_number(), "{worker}");
        assert!(worker["lost"].is_null() && worker["hardware"]["cores"].as_u64() > Some(0));
    }
    let rows: Vec<_> = json["intervals"].as_array().unwrap().iter().collect();
    let offered: f64 = rows.iter().map(|row| row["offered"].as_f64().unwrap()).sum();
    assert_eq!(offered.round(), 8000.0, "warm-up too");
    assert_eq!(rows.iter().filter(|row| row["draining"] == false).count(), 4);
    let page = std::fs::read_to_string(dir.path().join("r/report.html")).unwrap();
    assert!(page.contains("<h2>Workers</h2>") && page.contains("<th>clock offset</th>"));
    assert!(said(&output).contains("clock offset"), "{}", said(&output));
    for file in ["get.hlog", "put.hgrm", "latency.svg"] {
        assert!(dir.path().join("r").join(file).is_file(), "{file}");
    }

    // The same workers do the next run, closed loop.
    let args = format!(
        "run --target floor://{} --workload gets --records 1000 --connections 4 --threads 2 --duration 1 \
         --warmup 0 --workers {places} --report closed",
        floor.address
    );
    let output = tool(&args, dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let json = report(&dir.path().join("closed"));
    assert_eq!(json["threads"], 4);
    let sum: f64 = numbers(&json, "workers", "ops").iter().sum();
    assert_eq!(json["overall"]["count"].as_f64(), Some(sum));
    assert_eq!(json["client_cpu_fraction_by_thread"].as_array().unwrap().len(), 4);
}

/// In a time namespace of its own a process has another CLOCK_BOOTTIME, as on another machine.
#[test]
fn a_worker_whose_clock_is_a_day_ahead_starts_with_the_others() {
    let unshare = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--time", "--boottime", "86400", "--fork", "--kill-child"]);
        unshare
    };
    let may = unshare().arg("true").output().is_ok_and(|output| output.status.success());
    if !require_io_uring() || !may {
        let _ = writeln!(std::io::stderr(), "SKIPPED: time namespaces need root and unshare");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let floor = Server::floor();
    let here = Worker::start();
    let ahead = Worker::start_as(unshare().arg(env!("CARGO_BIN_EXE_forebay-bench")));
    let args = format!(
        "run --target floor://{} --workload gets --records 100 --connections 2 --duration 2 --warmup 0 \
         --rate 1000 --workers {},{} --report r",
        floor.address, here.address, ahead.address
    );
    let output = tool(&args, dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let json = report(&dir.path().join("r"));
    assert_eq!(json["overall"]["count"], 2000);
    let offsets = numbers(&json, "workers", "clock_offset_us");
    let uncertain = numbers(&json, "workers", "clock_uncertainty_us");
    for ((offset, uncertain), true_us) in offsets.iter().zip(uncertain).zip([0.0, 86_400e6]) {
        assert!((offset - true_us).abs() <= uncertain, "{offset} for {true_us}, +- {uncertain}");
    }
    // A start in the past would show: all until now would be late.
    let late = json["late_starts"].as_u64().unwrap();
    assert!(late < 500, "{late} late starts");
}

#[test]
fn a_worker_that_dies_leaves_a_report_that_names_the_gap() {
    if !require_io_uring() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let floor = Server::floor();
    let (mut workers, places) = two();
    let args = format!(
        "run --target floor://{} --workload gets --records 100 --connections 2 --duration 6 --warmup 0 \
         --rate 1000 --workers {places} --report r",
        floor.address
    );
    let run = begin(&args, dir.path());
    std::thread::sleep(Duration::from_millis(3_500));
    workers[1].kill();
    let output = run.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let words = format!("worker {} was lost", workers[1].address);
    assert!(said(&output).contains(&words), "{}", said(&output));
    let json = report(&dir.path().join("r"));
    assert!(json["workers"][0]["lost"].is_null(), "{json}");
    let lost = &json["workers"][1]["lost"];
    let at_s = lost["at_s"].as_f64().unwrap();
    assert!((0.0..=6.0).contains(&at_s), "{lost}");
    assert!(lost["why"].as_str().unwrap().contains("closed the connection"), "{lost}");
    let counts = numbers(&json, "workers", "ops");
    assert_eq!(counts[0], 3000.0);
    // What it had told before: whole seconds, less what was still under way at the last one's end.
    let told = at_s.floor() * 500.0;
    assert!((told - 250.0..=told).contains(&counts[1]), "{json}");
    assert_eq!(json["overall"]["count"].as_f64(), Some(counts[0] + counts[1]));
    let rows = numbers(&json, "intervals", "ops");
    // One worker's share, and what it was late with; two would be 1000.
    assert!(rows.len() >= 6 && rows[5] <= 750.0, "{rows:?}");
    let page = std::fs::read_to_string(dir.path().join("r/report.html")).unwrap();
    assert!(page.contains(&words), "the page says it too");
    assert!(!said(&output).contains("did not keep up"), "the store is not to blame");
}

#[test]
fn a_coordinator_that_dies_leaves_its_workers_free_for_the_next() {
    if !require_io_uring() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let floor = Server::floor();
    let (_workers, places) = two();
    let run = |seconds: u32| {
        format!(
            "run --target floor://{} --workload gets --records 100 --connections 2 --duration {seconds} \
             --warmup 0 --rate 100 --workers {places}",
            floor.address
        )
    };
    let mut first = begin(&run(60), dir.path());
    std::thread::sleep(Duration::from_millis(1_500));
    let second = tool(&run(1), dir.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(3), "{}", said(&second));
    assert!(said(&second).contains("busy"), "{}", said(&second));
    first.kill().unwrap();
    first.wait().unwrap();
    std::thread::sleep(Duration::from_millis(1_000));
    let third = tool(&run(1), dir.path()).output().unwrap();
    assert!(third.status.success(), "{}", said(&third));
}

fn fails(args: &str, words: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let output = tool(args, dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{args}: {}", said(&output));
    for words in words {
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    output
}

#[test]
fn a_worker_that_cannot_take_part_is_named_before_any_load() {
    if !require_io_uring() {
        return;
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = |target: &str, places: &str| {
        format!("run --target {target} --workload gets --duration 1 --workers {places}")
    };
    let worker = Worker::start();
    let floor = Server::floor();
    let url = format!("floor://{}", floor.address);
    let place = nobody.to_string();
    fails(&run(&url, &place), &[&place, "nothing answers", "forebay-bench worker"]);
    // The target is what the worker cannot reach; it says so in its own words.
    let gone = format!("floor://{nobody}");
    fails(&run(&gone, &worker.address), &[&worker.address, "cannot do its share", &place]);
    // And it is there for the next run all the same.
    let dir = tempfile::tempdir().unwrap();
    let output = tool(&run(&url, &worker.address), dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));

    let answers = |answer: &'static [u8]| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            let _ = stream.read(&mut [0; 1000]);
        });
        place
    };
    let http = answers(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    fails(&run(&url, &http), &[&http, "is it a worker?"]);
    let hello = b"\0\0\0\xe8{\"Hello\":{\"protocol\":999,\"version\":\"9.9.9\",\"is_busy\":false,\
        \"hardware\":{\"cpu_model\":\"a future one\",\"cores\":1,\"cpu_governor\":\"none\",\
        \"memory_bytes\":1,\"kernel\":\"99\",\"load_average_1m\":0.0}}}";
    let mut hello = hello.to_vec();
    let bytes = (hello.len() - 4) as u32;
    hello[..4].copy_from_slice(&bytes.to_be_bytes());
    let other = answers(hello.leak());
    fails(&run(&url, &other), &[&other, "9.9.9 with control protocol 999"]);
}

#[test]
fn a_signal_ends_all_workers_with_the_same_second_and_a_report() {
    if !require_io_uring() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let floor = Server::floor();
    let (_workers, places) = two();
    let args = format!(
        "run --target floor://{} --workload gets --records 100 --connections 2 --duration 60 --warmup 0 \
         --rate 1000 --workers {places} --report r",
        floor.address
    );
    let run = begin(&args, dir.path());
    std::thread::sleep(Duration::from_millis(3_500));
    signal(&run, "TERM");
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    let json = report(&dir.path().join("r"));
    assert_eq!(json["is_interrupted"], true);
    let seconds = json["duration_s"].as_f64().unwrap();
    assert!((1.0..=6.0).contains(&seconds) && seconds.fract() == 0.0, "{seconds}");
    assert_eq!(json["planned_duration_s"], 60.0);
    assert_eq!(json["overall"]["count"].as_f64(), Some(seconds * 1000.0));
    assert_eq!(numbers(&json, "workers", "ops"), [seconds * 500.0, seconds * 500.0]);
    assert!(said(&output).contains("interrupted: a signal ended this run"), "{}", said(&output));
}
