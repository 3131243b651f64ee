//! Targets that are not there, are something else, or go away: each has its exit code and its words,
//! and none keeps the tool waiting for long. (Scenario files that are wrong are in `scenarios`, a full
//! disk and a target that dies in a run in `report`, workers in `workers`.)

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use forebay_net::ring::testing::require_io_uring;
use support::{Server, said, tool};

/// Every protocol, and what is expected there.
const SCHEMES: [(&str, &str); 7] = [
    ("forebay", "forebay node"),
    ("redis", "redis"),
    ("floor", "floor server"),
    ("etcd", "etcd"),
    ("memcached", "memcached"),
    ("dynamodb+http", "DynamoDB's API"),
    ("dynamodb+https", "DynamoDB's API"),
];

/// Longer than any of these may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// `load` or `run` of a little against `scheme` at `address`.
fn command(command: &str, scheme: &str, address: SocketAddr) -> Command {
    let more = match command {
        "run" => "--workload gets --duration 1 --warmup 0",
        _ => "--connections 4",
    };
    let args =
        format!("{command} --target {scheme}://{address} --records 100 --timeout 1000 {more}");
    let mut tool = tool(&args, &std::env::temp_dir());
    let credentials = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"];
    tool.envs(credentials.map(|name| (name, "x"))).stdout(Stdio::piped()).stderr(Stdio::piped());
    tool
}

/// What all of them came to, at once.
fn all(commands: &[&str], address: SocketAddr) -> Vec<(&'static str, &'static str, Output)> {
    let began = Instant::now();
    let mut children = Vec::new();
    for &name in commands {
        for (scheme, store) in SCHEMES {
            children.push((scheme, store, command(name, scheme, address).spawn().unwrap()));
        }
    }
    let outputs = children.into_iter();
    let outputs =
        outputs.map(|(scheme, store, child)| (scheme, store, child.wait_with_output().unwrap()));
    let outputs = outputs.collect();
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    outputs
}

/// TLS may fail before anything is asked: for want of anybody to trust on this machine, too.
fn is_about_tls(scheme: &str, words: &str) -> bool {
    scheme == "dynamodb+https" && (words.contains("no TLS with") || words.contains("--ca-file"))
}

#[test]
fn a_target_that_is_not_there_is_named_with_what_to_start() {
    if !require_io_uring() {
        return;
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (scheme, store, output) in all(&["run", "load"], nobody) {
        let words = said(&output);
        if is_about_tls(scheme, &words) {
            continue;
        }
        assert_eq!(output.status.code(), Some(3), "{scheme}: {words}");
        assert!(words.contains(&format!("{store} at {nobody}")), "{scheme}: {words}");
        assert!(words.contains("start ") && words.contains("refused"), "{scheme}: {words}");
    }
    let absent = tool("run --target redis://no.such.host.invalid:1", &std::env::temp_dir());
    let output = { absent }.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("cannot resolve no.such.host.invalid:1"), "{}", said(&output));
}

/// Somebody at a port who is no store.
fn stranger(meet: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || meet(stream));
        }
    });
    address
}

/// Says `words` to whatever it hears.
fn answers(mut stream: TcpStream, words: &[u8]) {
    let mut heard = [0; 4096];
    while matches!(stream.read(&mut heard), Ok(1..)) && stream.write_all(words).is_ok() {}
}

#[test]
fn a_server_of_another_kind_is_told_from_a_store_whatever_it_does() {
    if !require_io_uring() {
        return;
    }
    type Meet = fn(TcpStream);
    let kinds: [(&str, Meet); 6] = [
        ("HTTP", |s| answers(s, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")),
        ("redis", |s| answers(s, b"-ERR unknown command\r\n")),
        ("mail", |mut s| {
            let _ = s.write_all(b"220 mail.example.org ESMTP\r\n");
            answers(s, b"500 unrecognized\r\n");
        }),
        ("zeros", |s| answers(s, &[0; 64])),
        ("one that leaves", |_| {}),
        ("one that is silent", |s| {
            std::thread::sleep(PATIENCE);
            drop(s);
        }),
    ];
    for (kind, meet) in kinds {
        for (scheme, _, output) in all(&["run"], stranger(meet)) {
            let words = said(&output);
            // Nothing is agreed with a floor server first: what it is shows in the run.
            let codes: &[i32] = if scheme == "floor" { &[1, 3] } else { &[3] };
            let is_tls = is_about_tls(scheme, &words);
            let code = output.status.code().unwrap_or(-1);
            assert!(codes.contains(&code) || is_tls, "{scheme} at {kind}: {code}: {words}");
            assert!(words.contains("forebay-bench: "), "{scheme} at {kind}: {words}");
            assert!(!words.contains("panicked"), "{scheme} at {kind}: {words}");
            assert!(!words.contains("os error 11"), "{scheme} at {kind}: {words}");
        }
    }
}

#[test]
fn a_load_whose_target_dies_ends_and_says_how_much_is_missing() {
    if !require_io_uring() {
        return;
    }
    let mut floor = Server::floor();
    let args = format!(
        "load --target floor://{} --records 1000000000 --connections 4 --timeout 500",
        floor.address
    );
    let mut tool = tool(&args, &std::env::temp_dir());
    let load = tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1_000));
    floor.kill();
    let died = Instant::now();
    let output = load.wait_with_output().unwrap();
    assert!(died.elapsed() < PATIENCE, "{:?}", died.elapsed());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let words = said(&output);
    assert!(words.contains("of 1000000000 records were not loaded"), "{words}");
    assert!(words.contains("the connection ended before the answer"), "{words}");
}
