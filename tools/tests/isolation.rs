//! The control lane may be flooded, stalled and abandoned: no data request fails or waits for it.
//!
//! Answers only; what a flood does to latencies is measured with `forebay-bench`.

mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use forebay_core::item::Item;
use support::client::Client;
use support::process::{Node, code, command, stderr, stdout};
use support::{http, scratch};

/// More connections than the control lane serves at once.
const STALLED: usize = 100;
const FLOODERS: usize = 4;
const FLOOD: Duration = Duration::from_secs(3);
/// For the control port to serve again: slow clients are given up after some seconds.
const RECOVERY: Duration = Duration::from_secs(20);

/// Puts and reads back until `done`; every answer must be right.
fn steady(at: SocketAddr, table: u64, number: u64, done: &AtomicBool) -> u64 {
    let mut client = Client::connect(at).unwrap();
    let mut turns = 0;
    while !done.load(Relaxed) {
        let name = format!("steady-{number}-{}", turns % 100);
        let item = Item::new().with("k", name.as_str()).with("turn", turns);
        client.put_patiently(table, &item);
        assert_eq!(client.get(table, &name), Some(item));
        turns += 1;
    }
    turns
}

/// Runs `attack` beside two steady clients; returns how often each had its turn.
fn beside_steady_clients(node: &Node, attack: impl FnOnce()) -> Vec<u64> {
    let at = node.native();
    let table = Client::connect(at).unwrap().create_table("steady").id.0;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        let steady: Vec<_> =
            (0..2).map(|number| scope.spawn(move || steady(at, table, number, done))).collect();
        // Also when the attack panics, so that the scope ends.
        let end = StoreOnDrop(done);
        attack();
        drop(end);
        steady.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

struct StoreOnDrop<'a>(&'a AtomicBool);

impl Drop for StoreOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_flooded_and_stalled_control_port_fails_no_request() {
    let Some(dir) = scratch() else { return };
    let node = Node::dev(dir.path(), &["--http", "127.0.0.1:0"]);
    let at = node.http();
    let asked = AtomicU64::new(0);
    let turns = beside_steady_clients(&node, || {
        // Slow clients: a head that never ends, and answers that nobody takes.
        let stall = |index| {
            let mut stream = TcpStream::connect(at).ok()?;
            let whole = "GET /metrics HTTP/1.1\r\n\r\n".repeat(50);
            let head = if index % 2 == 0 { "GET /metr" } else { &whole };
            let _ = stream.write_all(head.as_bytes());
            Some(stream)
        };
        let stalled: Vec<TcpStream> = (0..STALLED).filter_map(stall).collect();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..FLOODERS {
                scope.spawn(|| {
                    while begun.elapsed() < FLOOD {
                        for path in ["/metrics", "/status", "/health", "/nothing"] {
                            // Over the limit of connections a refusal is the right answer.
                            http::try_get(at, path);
                            asked.fetch_add(1, Relaxed);
                        }
                        huge_head(at);
                    }
                });
            }
        });
        drop(stalled);
    });
    println!("{turns:?} turns of requests beside {} of the flood", asked.load(Relaxed));
    assert!(turns.iter().all(|turns| *turns > 10), "{turns:?}");
    let deadline = Instant::now() + RECOVERY;
    while http::try_get(at, "/health").is_none_or(|answer| answer.code != 200) {
        assert!(Instant::now() < deadline, "the control port does not come back");
        std::thread::sleep(Duration::from_millis(50));
    }
    for wrong in ["InvalidRequest", "MalformedMessage", "ShardFailed"] {
        let labels = format!("{{shard=\"0\",code=\"{wrong}\"}}");
        assert_eq!(node.metric(&format!("forebay_shard_replies_total{labels}")), 0, "{wrong}");
    }
    node.stop();
}

/// A request head beyond every limit.
fn huge_head(at: SocketAddr) {
    let Ok(mut stream) = TcpStream::connect(at) else { return };
    let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
    let _ = stream.write_all(b"GET /status HTTP/1.1\r\nx: ");
    let _ = stream.write_all(&[b'x'; 1 << 20]);
}

#[test]
fn status_as_json_parses_under_load() {
    let Some(dir) = scratch() else { return };
    let node = Node::dev(dir.path(), &["--http", "127.0.0.1:0"]);
    let turns = beside_steady_clients(&node, || {
        for round in 0..5 {
            let at = node.http().to_string();
            let output = command().args(["status", "--json", "--http", &at]).output().unwrap();
            assert_eq!(code(&output), 0, "{}", stderr(&output));
            let status: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
            assert_eq!(status["health"]["ready"], true);
            let partitions = status["shards"][0]["partitions"].as_array().unwrap();
            // The list is published a few times a second.
            assert!(partitions.len() == 1 || round == 0, "{partitions:?}");
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    let puts = node.metric("forebay_shard_requests_total{shard=\"0\",kind=\"put\"}");
    assert!(puts >= turns.iter().sum(), "{puts} puts counted, {turns:?} made");
    node.stop();
}

#[test]
fn without_a_control_port_everything_else_is_the_same() {
    let Some(dir) = scratch() else { return };
    let node = Node::dev(dir.path(), &["--http", "off"]);
    let mut client = Client::connect(node.native()).unwrap();
    let table = client.create_table("quiet").id.0;
    let item = Item::new().with("k", "a");
    client.put(table, &item).written();
    assert_eq!(client.get(table, "a"), Some(item));
    node.stop();
}
