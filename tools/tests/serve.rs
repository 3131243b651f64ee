//! The real process: it says when it serves, answers its operator, stops in order, starts again.

mod support;

use std::net::TcpListener;
use std::time::Duration;

use support::process::{Node, command, stderr};
use support::scratch;

fn status(http: &str, more: &[&str]) -> String {
    let mut command = command();
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
        let dev = Node::dev(dir.path(), &["--http", "127.0.0.1:0"]);
        let http = dev.value("http").to_owned();
        assert!(dev.value("native").starts_with("127.0.0.1:"));
        assert_eq!(dev.value("shards"), "1");
        let table = status(&http, &[]);
        for block in ["every shard serves", "\nlog\n", "\ncache\n", "\noverlay and checkpoint\n"] {
            assert!(table.contains(block), "no {block:?} in:\n{table}");
        }
        ids.push(node_id(&http));
        dev.signal(signal);
        let (status, rest, _) = dev.end();
        assert_eq!(status.code(), Some(0));
        assert_eq!(rest, "", "one line on standard output");
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn several_shards_listen_on_ports_of_their_own_and_the_directory_remembers_them() {
    let Some(dir) = scratch() else { return };
    let dev = Node::dev(dir.path(), &["--shards", "2", "--http", "off"]);
    assert_eq!(dev.value("shards"), "2");
    assert!(!dev.ready_line().contains("http="));
    dev.signal("TERM");
    assert_eq!(dev.end().0.code(), Some(0));
    let again = Node::dev(dir.path(), &["--http", "off"]);
    assert_eq!(again.value("shards"), "2");
    again.signal("TERM");
    assert_eq!(again.end().0.code(), Some(0));
}

#[test]
fn a_killed_node_starts_again() {
    let Some(dir) = scratch() else { return };
    let dev = Node::dev(dir.path(), &["--http", "off"]);
    dev.signal("KILL");
    assert_eq!(dev.end().0.code(), None);
    let again = Node::dev(dir.path(), &["--http", "off"]);
    again.signal("TERM");
    assert_eq!(again.end().0.code(), Some(0));
}

#[test]
fn a_second_process_is_refused_and_does_not_disturb_the_first() {
    let Some(dir) = scratch() else { return };
    let first = Node::dev(dir.path(), &["--http", "127.0.0.1:0"]);
    let second = Node::dev_command(dir.path(), &["--http", "off"]).output().unwrap();
    assert_eq!(second.status.code(), Some(14));
    let message = stderr(&second);
    assert!(message.contains(&first.pid().to_string()), "{message}");
    assert!(status(first.value("http"), &[]).contains("every shard serves"));
    first.signal("TERM");
    assert_eq!(first.end().0.code(), Some(0));
}

#[test]
fn a_start_waits_a_moment_for_a_killed_owner() {
    let Some(dir) = scratch() else { return };
    let mut first = Node::dev(dir.path(), &["--http", "off"]);
    let second = std::thread::scope(|scope| {
        let second = scope.spawn(|| Node::dev(dir.path(), &["--http", "off"]));
        // The second one finds the directory in use, and then its owner gone.
        std::thread::sleep(Duration::from_millis(500));
        first.kill();
        second.join().unwrap()
    });
    assert_eq!(first.end().0.code(), None);
    second.stop();
}

#[test]
fn a_taken_port_is_named() {
    let Some(dir) = scratch() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    for option in ["--http", "--native"] {
        let mut command = command();
        command.arg("dev").arg("--data").arg(dir.path()).args(["--log", "64MiB", option, &at]);
        let other = if option == "--http" { "--native" } else { "--http" };
        let output = command.args([other, "127.0.0.1:0"]).output().unwrap();
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(13), "{option}: {message}");
        assert!(message.contains(&at), "{message}");
    }
}
