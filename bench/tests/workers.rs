//! Coordinated runs: workers as processes on loopback, one report, and what bad days leave.

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use forebay_net::ring::testing::require_io_uring;
use support::relay::Relay;
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

/// A bare echo, two workers, and a directory for reports.
struct Scene {
    dir: tempfile::TempDir,
    floor: Server,
    workers: [Worker; 2],
}

impl Scene {
    /// None where io_uring is not to be had; the reason has been said.
    fn set() -> Option<Scene> {
        require_io_uring().then(|| Scene {
            dir: tempfile::tempdir().unwrap(),
            floor: Server::floor(),
            workers: [Worker::start(), Worker::start()],
        })
    }

    fn places(&self) -> [String; 2] {
        self.workers.each_ref().map(|worker| worker.address.clone())
    }

    /// A run against the echo by the workers at `places`.
    fn words(&self, words: &str, places: &[String; 2]) -> String {
        format!(
            "run --target floor://{} --workers {} {words}",
            self.floor.address,
            places.join(",")
        )
    }

    /// Such a run by both workers, from its beginning to its end.
    fn run(&self, words: &str) -> Output {
        tool(&self.words(words, &self.places()), self.dir.path()).output().unwrap()
    }

    /// One that goes on while the test does something to it.
    fn begin(&self, words: &str, places: &[String; 2]) -> Child {
        let mut tool = tool(&self.words(words, places), self.dir.path());
        tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn report(&self, name: &str) -> serde_json::Value {
        report(&self.dir.path().join(name))
    }

    fn page(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name).join("report.html")).unwrap()
    }
}

fn numbers(json: &serde_json::Value, of: &str, name: &str) -> Vec<f64> {
    json[of].as_array().unwrap().iter().map(|row| row[name].as_f64().unwrap()).collect()
}

#[test]
fn two_workers_make_one_report_whose_counts_are_their_sum() {
    let Some(scene) = Scene::set() else { return };
    let output = scene.run(
        "--workload a --records 1000 --connections 5 --duration 3 --warmup 1 --rate 2000 --report r",
    );
    assert!(output.status.success(), "{}", said(&output));
    let json = scene.report("r");
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
    let page = scene.page("r");
    assert!(page.contains("<h2>Workers</h2>") && page.contains("<th>clock offset</th>"));
    assert!(said(&output).contains("clock offset"), "{}", said(&output));
    for file in ["get.hlog", "put.hgrm", "latency.svg"] {
        assert!(scene.dir.path().join("r").join(file).is_file(), "{file}");
    }

    // The same workers do the next run, closed loop.
    let output = scene.run(
        "--workload gets --records 1000 --connections 4 --threads 2 --duration 1 --warmup 0 \
         --report closed",
    );
    assert!(output.status.success(), "{}", said(&output));
    let json = scene.report("closed");
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
    if !may {
        let _ = writeln!(std::io::stderr(), "SKIPPED: time namespaces need root and unshare");
        return;
    }
    let Some(mut scene) = Scene::set() else { return };
    scene.workers[1] = Worker::start_as(unshare().arg(env!("CARGO_BIN_EXE_forebay-bench")));
    let output = scene.run(
        "--workload gets --records 100 --connections 2 --duration 2 --warmup 0 --rate 1000 --report r",
    );
    assert!(output.status.success(), "{}", said(&output));
    let json = scene.report("r");
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

/// How a worker is lost in the middle of a run.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// Its process is killed, wherever it is just then.
    Killed,
    /// The connection ends within a message.
    CutWithinAnInterval,
}

/// Relays stand between the coordinator and its workers, and note what they let pass: that, exactly,
/// is what the report must have.
#[test]
fn of_a_lost_worker_the_report_has_every_interval_that_it_had_told_whole_and_nothing_else() {
    const TOLD: usize = 2;
    for loss in [Loss::Killed, Loss::CutWithinAnInterval] {
        let Some(mut scene) = Scene::set() else { return };
        let [one, other] = scene.places();
        let cut_after = matches!(loss, Loss::CutWithinAnInterval).then_some(TOLD);
        let relays = [Relay::start(one, None), Relay::start(other, cut_after)];
        let places = relays.each_ref().map(|relay| relay.address.clone());
        let run = scene.begin(
            "--workload gets --records 100 --connections 2 --duration 5 --warmup 0 --rate 1000 \
             --report r",
            &places,
        );
        if matches!(loss, Loss::Killed) {
            let began = Instant::now();
            while relays[1].told().len() < TOLD {
                assert!(began.elapsed() < Duration::from_secs(30), "no interval came");
                std::thread::sleep(Duration::from_millis(20));
            }
            scene.workers[1].kill();
        }
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{loss:?}: {}", said(&output));
        let [kept, lost] = relays.each_ref().map(Relay::told);
        let json = scene.report("r");

        // Each worker's operations are those of the intervals that it told.
        let told = [&kept, &lost].map(|told| told.iter().sum::<u64>() as f64);
        assert_eq!(numbers(&json, "workers", "ops"), told, "{loss:?}: {json}");
        assert_eq!(told[0], 2500.0, "the other worker went on");
        assert_eq!(json["overall"]["count"].as_f64(), Some(told[0] + told[1]));
        // And so interval for interval: whole, or absent.
        let rows = numbers(&json, "intervals", "ops");
        assert!(rows.len() >= kept.len().min(5), "{rows:?} of {kept:?}");
        for (index, row) in rows.iter().enumerate() {
            let of = |told: &[u64]| told.get(index).copied().unwrap_or(0);
            assert_eq!(*row, (of(&kept) + of(&lost)) as f64, "{index}: {kept:?} {lost:?}");
        }

        // The gap is named.
        assert!(json["workers"][0]["lost"].is_null(), "{json}");
        let gap = &json["workers"][1]["lost"];
        assert!((TOLD..5).contains(&lost.len()), "{lost:?}");
        assert_eq!(gap["intervals"].as_u64(), Some(lost.len() as u64), "{gap}");
        assert_eq!(gap["whole_until_s"].as_f64(), Some(lost.len() as f64), "{gap}");
        assert!(gap["noticed_s"].as_f64() >= gap["whole_until_s"].as_f64(), "{gap}");
        assert!(gap["why"].as_str().unwrap().contains("closed the connection"), "{gap}");
        let words = format!("worker {} was lost", places[1]);
        let until = format!("until {}.0 s, each of them whole", lost.len());
        for text in [said(&output), scene.page("r")] {
            assert!(text.contains(&words) && text.contains(&until), "{loss:?}: {text}");
        }
        assert!(!said(&output).contains("did not keep up"), "the store is not to blame");
    }
}

#[test]
fn a_coordinator_that_dies_leaves_its_workers_free_for_the_next() {
    let Some(scene) = Scene::set() else { return };
    let run = |seconds: u32| {
        format!(
            "--workload gets --records 100 --connections 2 --duration {seconds} --warmup 0 --rate 100"
        )
    };
    let mut first = scene.begin(&run(60), &scene.places());
    std::thread::sleep(Duration::from_millis(1_500));
    let second = scene.run(&run(1));
    assert_eq!(second.status.code(), Some(3), "{}", said(&second));
    assert!(said(&second).contains("busy"), "{}", said(&second));
    first.kill().unwrap();
    first.wait().unwrap();
    std::thread::sleep(Duration::from_millis(1_000));
    let third = scene.run(&run(1));
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
    let load = |target: &str, places: &str| {
        format!("load --target {target} --records 100 --connections 4 --workers {places}")
    };
    let worker = Worker::start();
    let floor = Server::floor();
    let url = format!("floor://{}", floor.address);
    let place = nobody.to_string();
    // The target is what the worker cannot reach; it says so in its own words.
    let gone = format!("floor://{nobody}");
    for command in [run, load] {
        fails(&command(&url, &place), &[&place, "nothing answers", "forebay-bench worker"]);
        let words = [&worker.address, "cannot do its share", &place];
        fails(&command(&gone, &worker.address), &words);
        // And it is there for the next one all the same.
        let dir = tempfile::tempdir().unwrap();
        let output = tool(&command(&url, &worker.address), dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }

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
    let Some(scene) = Scene::set() else { return };
    let run = scene.begin(
        "--workload gets --records 100 --connections 2 --duration 60 --warmup 0 --rate 1000 --report r",
        &scene.places(),
    );
    std::thread::sleep(Duration::from_millis(3_500));
    signal(&run, "TERM");
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    let json = scene.report("r");
    assert_eq!(json["is_interrupted"], true);
    let seconds = json["duration_s"].as_f64().unwrap();
    assert!((1.0..=6.0).contains(&seconds) && seconds.fract() == 0.0, "{seconds}");
    assert_eq!(json["planned_duration_s"], 60.0);
    assert_eq!(json["overall"]["count"].as_f64(), Some(seconds * 1000.0));
    assert_eq!(numbers(&json, "workers", "ops"), [seconds * 500.0, seconds * 500.0]);
    assert!(said(&output).contains("interrupted: a signal ended this run"), "{}", said(&output));
}

/// Between two loads of the same records a worker is lost: the first names it, the second is whole.
#[test]
fn a_load_that_loses_a_worker_fails_and_says_who() {
    let Some(mut scene) = Scene::set() else { return };
    let load = |scene: &Scene, records: u64| {
        let places = scene.places().join(",");
        let target = &scene.floor.address;
        format!(
            "load --target floor://{target} --records {records} --connections 4 --depth 1 \
             --workers {places}"
        )
    };
    let mut long = tool(&load(&scene, 1_000_000_000), scene.dir.path());
    let long = long.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    scene.workers[0].kill();
    let output = long.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let lost = &scene.workers[0].address;
    assert!(said(&output).contains(&format!("worker {lost}: ")), "{}", said(&output));
    scene.workers[0] = Worker::start();
    let began = Instant::now();
    // The other worker has noticed as well, and is free.
    let again = loop {
        let again = tool(&load(&scene, 5_001), scene.dir.path()).output().unwrap();
        if again.status.success() || began.elapsed() > Duration::from_secs(20) {
            break again;
        }
    };
    assert!(said(&again).contains("loaded 5001 records"), "{}", said(&again));
}
