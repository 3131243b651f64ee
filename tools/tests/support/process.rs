//! The binary as a process: run to its end, or serving until the test is over.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::http;

/// How long a node may take to end after a signal.
const END: Duration = Duration::from_secs(30);

/// Addresses that nobody uses, for nodes that must know each other's before they start. All are held
/// until all are known, so that they differ.
pub fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let listeners: Vec<_> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("it is bound")).collect()
}

/// The command to be tested.
pub fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_forebay"))
}

/// Runs it to its end.
pub fn forebay(args: &[&str]) -> Output {
    command().args(args).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{}: {}", output.status, stderr(output)))
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// It ends with this number, says these things on standard error, and nothing on standard output.
#[track_caller]
pub fn refused(args: &[&str], expected: i32, needles: &[&str]) {
    refused_with(forebay(args), expected, needles);
}

#[track_caller]
pub fn refused_with(output: Output, expected: i32, needles: &[&str]) {
    let message = stderr(&output);
    assert_eq!(code(&output), expected, "{message}");
    for needle in needles {
        assert!(message.contains(needle), "no '{needle}' in: {message}");
    }
    assert_eq!(stdout(&output), "", "results only on standard output");
}

/// A configuration file as small as a node accepts, so that checkpoints, merges and the log's ring
/// come round as often as possible.
pub fn smallest_config(file: &Path, data: &Path, shards: u16) {
    let text = format!(
        "data = {data:?}\nshards = {shards}\nnative = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n\
         memory = \"{}MiB\"\noverlay_bytes = \"8MiB\"\nlog_segment_bytes = \"16MiB\"\n\
         log_segments = 4\npin_cores = false\ncheckpoint_seconds = 1\n\
         checkpoint_log_fill_percent = 20\ncheckpoint_overlay_fill_percent = 30\n",
        32 * shards
    );
    fs::write(file, text).unwrap();
}

/// A serving node. Killed with its test.
pub struct Node {
    child: Child,
    ready: String,
    errors: Option<JoinHandle<String>>,
    /// From the start of the process until it served.
    pub started_in: Duration,
}

impl Node {
    /// `dev` with one node on `data` at any port.
    pub fn dev_command(data: &Path, more: &[&str]) -> Command {
        let mut command = command();
        command.arg("dev").arg("--data").arg(data).args(["--native", "127.0.0.1:0"]);
        command.args(["--nodes", "1", "--memory", "64MiB", "--log", "64MiB"]).args(more);
        piped(&mut command);
        command
    }

    pub fn dev(data: &Path, more: &[&str]) -> Node {
        Node::spawn(Node::dev_command(data, more))
    }

    /// `node` with a configuration file.
    pub fn configured(file: &Path) -> Node {
        let mut command = command();
        command.arg("node").arg("--config").arg(file);
        piped(&mut command);
        Node::spawn(command)
    }

    /// Waits until it serves.
    pub fn spawn(command: Command) -> Node {
        Node::try_spawn(command).unwrap_or_else(|(status, errors)| panic!("{status}: {errors}"))
    }

    /// The same, or how it ended and what it said.
    pub fn try_spawn(mut command: Command) -> Result<Node, (ExitStatus, String)> {
        let begun = Instant::now();
        let mut child = command.spawn().unwrap();
        // Read all along, so that a talkative process never waits for a full pipe.
        let mut pipe = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = pipe.read_to_string(&mut text);
            text
        });
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        if !ready.starts_with("ready native=") {
            let status = child.wait().unwrap();
            return Err((status, format!("'{ready}' {}", errors.join().unwrap())));
        }
        Ok(Node { child, ready, errors: Some(errors), started_in: begun.elapsed() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn ready_line(&self) -> &str {
        &self.ready
    }

    /// The value of `name=` on the ready line.
    pub fn value(&self, name: &str) -> &str {
        let words = self.ready.split_whitespace();
        let mut values = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        values.next().unwrap_or_else(|| panic!("no {name} in: {}", self.ready))
    }

    /// Where shard 0 listens.
    pub fn native(&self) -> SocketAddr {
        self.value("native").parse().unwrap()
    }

    /// Where the operator's HTTP listens.
    pub fn http(&self) -> SocketAddr {
        self.value("http").parse().unwrap()
    }

    /// What `/status` says.
    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&http::get(self.http(), "/status").body).unwrap()
    }

    /// The value of a metric with these labels (as written, such as `{shard="0"}`).
    pub fn metric(&self, name: &str) -> u64 {
        let text = http::get(self.http(), "/metrics").body;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = lines.next().unwrap_or_else(|| panic!("no {name} in:\n{text}"));
        value.parse::<f64>().unwrap() as u64
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// SIGKILL, without waiting.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Waits for the end; how it ended, what else it printed on standard output, and its errors.
    pub fn end(mut self) -> (ExitStatus, String, String) {
        let deadline = Instant::now() + END;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        };
        let mut rest = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        let errors = self.errors.take().unwrap().join().unwrap();
        (status, rest, errors)
    }

    /// SIGTERM, and a clean end.
    pub fn stop(self) -> String {
        self.signal("TERM");
        let (status, rest, errors) = self.end();
        assert_eq!(status.code(), Some(0), "{errors}");
        assert_eq!(rest, "", "one line on standard output");
        errors
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking()
            && let Some(errors) = self.errors.take()
        {
            eprintln!("the node said: {}", errors.join().unwrap_or_default());
        }
    }
}

pub fn piped(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
}

/// Files of the data directory that hold data, for a look at what a test used.
pub fn log_path(data: &Path, shard: u16) -> PathBuf {
    data.join(format!("shard-{shard}/log"))
}
