//! What all tests of the tool share: the tool as its users start it, servers that end with their
//! owner; in `stores` the stores of others, in `relay` an ear between coordinator and worker.

// Every file of tests is a program of its own, and none uses everything.
#![allow(dead_code)]

pub(crate) mod relay;
pub(crate) mod stores;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The tool.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_forebay-bench"))
}

/// The store of this project, if it was built: `cargo test -p forebay-bench` alone does not. A test
/// that goes without it says so here.
pub(crate) fn forebay() -> Option<PathBuf> {
    let forebay = program().with_file_name("forebay");
    if !forebay.is_file() {
        eprintln!("SKIPPED: no `forebay` beside the tool; cargo build --workspace makes it");
        return None;
    }
    Some(forebay)
}

/// A directory on the disk that the build is on: the temporary one may be in memory, where nothing is
/// durable.
pub(crate) fn durable_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The tool with the words of `args` in `dir`, to be started.
pub(crate) fn tool(args: &str, dir: &Path) -> Command {
    let mut command = Command::new(program());
    command.args(args.split_whitespace()).current_dir(dir);
    command
}

/// Runs the tool with the words of `args` in `dir`.
pub(crate) fn bench(args: &str, dir: &Path) -> Output {
    tool(args, dir).output().unwrap()
}

/// What it printed; it must have succeeded.
#[track_caller]
pub(crate) fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{:?}\n{}", output.status, said(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What it said in its errors; it must have failed with `code`.
#[track_caller]
pub(crate) fn fails(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", said(output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Both outputs, for messages.
pub(crate) fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}\n{err}")
}

/// The `report.json` in `dir`.
pub(crate) fn report(dir: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(dir.join("report.json")).unwrap()).unwrap()
}

/// A child that ends with its owner.
pub(crate) struct Owned(pub(crate) Child);

impl Owned {
    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends the signal of this name, as a person at another terminal would.
pub(crate) fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// A server of this project: one that says `ready native=ADDR` when it serves.
pub(crate) struct Server {
    process: Owned,
    /// Where it serves.
    pub(crate) address: String,
}

impl Server {
    /// Starts `program` in `dir`.
    pub(crate) fn start(program: &Path, args: &[&str], dir: &Path) -> Server {
        let child = Command::new(program)
            .args(args)
            .current_dir(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut process = Owned(child.unwrap());
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("native="));
        let address = address.unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Server { process, address }
    }

    /// A bare echo on a port that the kernel chooses.
    pub(crate) fn floor() -> Server {
        let args = ["floor", "--mode", "echo", "--listen", "127.0.0.1:0"];
        Server::start(program(), &args, Path::new("."))
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Lets it stand still, connections and all.
    pub(crate) fn pause(&self) {
        signal(&self.process.0, "STOP");
    }
}

/// A scenario with what only some stores can do, written into `dir`.
pub(crate) fn conditions_and_queries(dir: &Path) {
    let text = "records = 1000\nsort_digits = 1\nvalues = 40\nitems = [1, 5]\nconnections = 4\n\
                [mix]\nget = 40\nput = 20\nconditional_put = 20\nquery = 20\n";
    std::fs::write(dir.join("conditions.toml"), text).unwrap();
}

/// A report of [`conditions_and_queries`] in which everything succeeded.
#[track_caller]
pub(crate) fn conditions_and_queries_succeeded(json: &serde_json::Value) {
    assert_eq!(json["errors"], 0, "{json}");
    assert_eq!(json["reads_that_found_nothing"], 0);
    for kind in ["get", "put", "conditional_put", "query"] {
        assert!(json["ops"][kind]["count"].as_u64().unwrap() > 0, "{kind}: {json}");
    }
}

/// Records that are loaded, and runs of a second on them that must find every one.
pub(crate) struct Hits<'a> {
    pub(crate) records: u64,
    pub(crate) value_bytes: u64,
    /// Connections and the like.
    pub(crate) shape: &'a str,
    pub(crate) workloads: &'a [&'a str],
    /// What every run must say.
    pub(crate) says: &'a [&'a str],
}

impl Hits<'_> {
    /// Loads and runs with `bench`, which puts the store in TARGET's place, in `dir`; what the runs
    /// said.
    #[track_caller]
    pub(crate) fn are_reported(&self, bench: impl Fn(&str) -> Output, dir: &Path) -> String {
        let Hits { records, value_bytes, shape, .. } = self;
        let data = format!("--target TARGET --records {records} --value-bytes {value_bytes}");
        let loaded = succeeds(&bench(&format!("load {data}")));
        assert!(loaded.contains(&format!("loaded {records} records")), "{loaded}");
        let mut all = String::new();
        for workload in self.workloads {
            let text = succeeds(&bench(&format!(
                "run {data} --workload {workload} {shape} --duration 1 --warmup 0 \
                 --report {workload}"
            )));
            for words in self.says {
                assert!(text.contains(words), "{words} in\n{text}");
            }
            let json = report(&dir.join(workload));
            assert_eq!(json["errors"], 0, "{workload}: {json}");
            assert_eq!(json["reads_that_found_nothing"], 0, "{workload}");
            assert!(json["achieved_ops_s"].as_f64().unwrap() > 0.0, "{workload}");
            all.push_str(&text);
        }
        all
    }
}
