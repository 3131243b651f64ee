//! The real process: it says when it serves, answers its operator, stops in order, starts again.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use forebay_storage::directory::check_direct_io;
use tempfile::TempDir;

/// A running `forebay dev`, killed if a test fails.
struct Dev {
    child: Child,
    ready: String,
}

impl Dev {
    fn command(data: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.arg("dev").arg("--data").arg(data).args(["--native", "127.0.0.1:0"]);
        command.args(["--memory", "64MiB", "--log", "64MiB"]).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(data: &Path, more: &[&str]) -> Dev {
        let mut child = Dev::command(data, more).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        if !ready.starts_with("ready native=") {
            let mut errors = String::new();
            let _ = child.stderr.take().unwrap().read_to_string(&mut errors);
            panic!("not ready: '{ready}' {errors}");
        }
        Dev { child, ready }
    }

    /// The value of `name=` on the ready line.
    fn value(&self, name: &str) -> &str {
        let words = self.ready.split_whitespace();
        let mut values = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        values.next().unwrap_or_else(|| panic!("no {name} in: {}", self.ready))
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end; returns what else it printed on standard output.
    fn end(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut rest = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        (status, rest)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn scratch() -> Option<TempDir> {
    let dir = tempfile::tempdir().unwrap();
    match check_direct_io(dir.path()) {
        Ok(()) => Some(dir),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

fn status(http: &str, more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    let output = command.args(["status", "--http", http]).args(more).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn node_id(http: &str) -> String {
    let status: serde_json::Value = serde_json::from_str(&status(http, &["--json"])).unwrap();
    status["node_id"].as_str().unwrap().to_owned()
}

#[test]
fn one_ready_line_then_a_clean_end_by_either_signal_and_the_same_node_again() {
    let Some(dir) = scratch() else { return };
    let mut ids = Vec::new();
    for signal in ["TERM", "INT", "TERM"] {
        let dev = Dev::start(dir.path(), &["--http", "127.0.0.1:0"]);
        let http = dev.value("http").to_owned();
        assert!(dev.value("native").starts_with("127.0.0.1:"));
        assert_eq!(dev.value("shards"), "1");
        let table = status(&http, &[]);
        for block in ["every shard serves", "\nlog\n", "\ncache\n", "\noverlay and checkpoint\n"] {
            assert!(table.contains(block), "no {block:?} in:\n{table}");
        }
        ids.push(node_id(&http));
        dev.signal(signal);
        let (status, rest) = dev.end();
        assert_eq!(status.code(), Some(0));
        assert_eq!(rest, "", "one line on standard output");
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn several_shards_listen_on_ports_of_their_own_and_the_directory_remembers_them() {
    let Some(dir) = scratch() else { return };
    let dev = Dev::start(dir.path(), &["--shards", "2", "--http", "off"]);
    assert_eq!(dev.value("shards"), "2");
    assert!(!dev.ready.contains("http="));
    dev.signal("TERM");
    assert_eq!(dev.end().0.code(), Some(0));
    let again = Dev::start(dir.path(), &["--http", "off"]);
    assert_eq!(again.value("shards"), "2");
    again.signal("TERM");
    assert_eq!(again.end().0.code(), Some(0));
}

#[test]
fn a_killed_node_starts_again() {
    let Some(dir) = scratch() else { return };
    let dev = Dev::start(dir.path(), &["--http", "off"]);
    dev.signal("KILL");
    assert_eq!(dev.end().0.code(), None);
    let again = Dev::start(dir.path(), &["--http", "off"]);
    again.signal("TERM");
    assert_eq!(again.end().0.code(), Some(0));
}

#[test]
fn a_second_process_is_refused_and_does_not_disturb_the_first() {
    let Some(dir) = scratch() else { return };
    let first = Dev::start(dir.path(), &["--http", "127.0.0.1:0"]);
    let second = Dev::command(dir.path(), &["--http", "off"]).output().unwrap();
    assert_eq!(second.status.code(), Some(14));
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(message.contains(&first.child.id().to_string()), "{message}");
    assert!(status(first.value("http"), &[]).contains("every shard serves"));
    first.signal("TERM");
    assert_eq!(first.end().0.code(), Some(0));
}

#[test]
fn a_taken_port_is_named() {
    let Some(dir) = scratch() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    for option in ["--http", "--native"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.arg("dev").arg("--data").arg(dir.path()).args(["--log", "64MiB", option, &at]);
        let other = if option == "--http" { "--native" } else { "--http" };
        let output = command.args([other, "127.0.0.1:0"]).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(13), "{option}: {message}");
        assert!(message.contains(&at), "{message}");
    }
}
