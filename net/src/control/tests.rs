//! The control lane over real HTTP: what it answers, and what it survives.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

use forebay_core::ids::ShardId;

use super::status::{Health, NodeStatus};
use super::{ControlConfig, ControlError, ControlServer, ControlSource, NodeSource};
use crate::metrics::{MetricNames, ShardMetrics, ShardPhase};

const NAMES: MetricNames =
    MetricNames { requests: &["put", "get"], replies: &["ok"], refusals: &["checksum"] };

const NORMAL: u8 = 0;
const PANIC: u8 = 1;
const HANG: u8 = 2;

/// A node of one shard whose health answer can be made to misbehave.
struct Fake {
    node: NodeSource,
    mood: AtomicU8,
}

impl ControlSource for Fake {
    fn health(&self) -> Health {
        match self.mood.load(Relaxed) {
            PANIC => panic!("asked to panic"),
            HANG => std::thread::sleep(Duration::from_secs(2)),
            _ => {}
        }
        self.node.health()
    }
    fn status(&self) -> NodeStatus {
        self.node.status()
    }
    fn metrics(&self) -> Vec<Arc<ShardMetrics>> {
        self.node.metrics()
    }
}

fn start(change: impl FnOnce(&mut ControlConfig)) -> (ControlServer, Arc<Fake>) {
    let metrics = Arc::new(ShardMetrics::new(ShardId(0), NAMES));
    metrics.set_phase(ShardPhase::Serving);
    metrics.requests[0].add(7);
    let at: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let node = NodeSource {
        tls: None,
        node_id: "0123456789abcdef0123456789abcdef".into(),
        data_dir: "/data".into(),
        durable_mode: "dsync".into(),
        pinned: false,
        started: Instant::now(),
        shards: vec![(at, metrics)],
    };
    let fake = Arc::new(Fake { node, mood: AtomicU8::new(NORMAL) });
    let mut config = ControlConfig::at(at);
    change(&mut config);
    let source: Arc<dyn ControlSource> = Arc::clone(&fake) as _;
    (ControlServer::start(config, source).unwrap(), fake)
}

/// Sends bytes and returns everything that comes back until the server closes.
fn raw(at: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The server may close while we are still sending too much.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(at: SocketAddr, path: &str) -> String {
    raw(at, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
}

fn code(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[test]
fn every_page_answers() {
    let (server, _fake) = start(|_| {});
    let at = server.local_addr();
    assert!(get(at, "/").contains("/metrics"));
    assert_eq!(code(&get(at, "/health")), "200");
    let metrics = get(at, "/metrics?x=1");
    assert!(metrics.contains("forebay_shard_requests_total{shard=\"0\",kind=\"put\"} 7"));
    let status = get(at, "/status");
    let body = status.split("\r\n\r\n").nth(1).unwrap();
    let status: NodeStatus = serde_json::from_str(body).unwrap();
    assert_eq!(status.shards[0].requests[0].count, 7);
    assert!(status.health.ready);
}

#[test]
fn health_is_503_with_a_reason_until_every_shard_serves() {
    let (server, fake) = start(|_| {});
    fake.node.shards[0].1.set_phase(ShardPhase::Recovering);
    let answer = get(server.local_addr(), "/health");
    assert_eq!(code(&answer), "503");
    assert!(answer.contains("shard 0 is recovering"), "{answer}");
}

#[test]
fn bad_requests_get_4xx_or_a_closed_connection_and_harm_nobody() {
    let (server, _fake) = start(|_| {});
    let at = server.local_addr();
    assert_eq!(code(&get(at, "/nothing")), "404");
    assert_eq!(code(&get(at, "/../etc/passwd")), "404");
    let post =
        b"POST /status HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(code(&raw(at, post)), "405");
    for garbage in [
        &b"\0\x01\x02\xff\xfe garbage \r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n\r\nX",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: minus one\r\n\r\n",
    ] {
        let answer = raw(at, garbage);
        assert!(answer.is_empty() || code(&answer).starts_with('4'), "{garbage:?}: {answer}");
    }
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let answer = raw(at, long.as_bytes());
    assert!(answer.is_empty() || code(&answer) == "431", "{answer}");
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000));
    let answer = raw(at, many.as_bytes());
    assert!(answer.is_empty() || code(&answer) == "431", "{answer}");
    assert_eq!(code(&get(at, "/health")), "200");
}

#[test]
fn a_panicking_handler_is_counted_and_the_next_request_is_served() {
    let (server, fake) = start(|_| {});
    let at = server.local_addr();
    fake.mood.store(PANIC, Relaxed);
    for _ in 0..20 {
        assert_eq!(code(&get(at, "/health")), "500");
    }
    fake.mood.store(NORMAL, Relaxed);
    assert_eq!(code(&get(at, "/health")), "200");
    assert_eq!(server.counters().panics(), 20);
    assert!(get(at, "/metrics").contains("forebay_control_panics_total 20"));
}

#[test]
fn a_hanging_source_gets_503_and_does_not_block_the_index() {
    let (server, fake) = start(|c| c.answer_timeout = Duration::from_millis(100));
    let at = server.local_addr();
    fake.mood.store(HANG, Relaxed);
    for _ in 0..8 {
        assert_eq!(code(&get(at, "/health")), "503");
    }
    assert_eq!(code(&get(at, "/")), "200");
    assert_eq!(server.counters().timeouts(), 8);
}

#[test]
fn a_client_that_sends_its_head_slowly_is_cut_off() {
    let (server, _fake) = start(|c| c.header_timeout = Duration::from_millis(200));
    let mut stream = TcpStream::connect(server.local_addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let began = Instant::now();
    let mut ended = false;
    for byte in b"GET / HTTP/1.1\r\nhost: a-long-name".iter().cycle().take(200) {
        if stream.write_all(&[*byte]).is_err() {
            ended = true;
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut rest = Vec::new();
    ended |= stream.read_to_end(&mut rest).is_ok() || !rest.is_empty();
    assert!(ended && began.elapsed() < Duration::from_secs(8));
}

#[test]
fn connections_over_the_limit_are_refused_and_room_returns() {
    let (server, _fake) = start(|c| {
        c.connections_max = 4;
        c.header_timeout = Duration::from_millis(400);
    });
    let at = server.local_addr();
    let idle: Vec<_> = (0..4).map(|_| TcpStream::connect(at).unwrap()).collect();
    // The listener accepts in order, so these are over the limit.
    let answers: Vec<_> = (0..16).map(|_| raw(at, b"")).collect();
    assert!(answers.iter().all(|answer| code(answer) == "503"), "{answers:?}");
    assert_eq!(server.counters().refused(), 16);
    drop(idle);
    let deadline = Instant::now() + Duration::from_secs(5);
    while code(&get(at, "/health")) != "200" {
        assert!(Instant::now() < deadline, "room did not return");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_flood_of_connections_leaves_the_server_answering() {
    let (server, _fake) = start(|c| {
        c.connections_max = 8;
        c.header_timeout = Duration::from_millis(50);
    });
    let at = server.local_addr();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..100 {
                    match round % 4 {
                        0 => drop(TcpStream::connect(at)),
                        1 => drop(TcpStream::connect(at).map(|mut s| s.write_all(b"GET / HT"))),
                        2 => drop(raw(at, b"GET /stat")),
                        _ => drop(get(at, "/status")),
                    }
                }
            });
        }
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    while code(&get(at, "/health")) != "200" {
        assert!(Instant::now() < deadline, "the server did not come back");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_taken_port_is_a_named_error() {
    let (server, fake) = start(|_| {});
    let at = server.local_addr();
    let source: Arc<dyn ControlSource> = fake;
    match ControlServer::start(ControlConfig::at(at), source) {
        Err(ControlError::PortTaken { at: named }) => assert_eq!(named, at),
        other => panic!("expected PortTaken, got {other:?}"),
    }
}
