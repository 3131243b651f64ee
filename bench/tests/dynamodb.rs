//! The whole tool against a small endpoint that speaks DynamoDB's API and believes no signature that
//! it has not recomputed, from AWS's description, by code of its own.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::{
    Hits, Owned, bench, conditions_and_queries, conditions_and_queries_succeeded, fails, report,
    succeeds, tool,
};

const ACCESS_KEY: &str = "AKIDTEST";
const SECRET: &str = "a/secret+that=nobody needs";
const REGION: &str = "eu-test-1";

#[derive(Default)]
struct Endpoint {
    /// By partition key and sort key.
    items: Mutex<BTreeMap<(String, String), Value>>,
    keys: Mutex<Option<Value>>,
    refused: AtomicU64,
    /// Refuses every so-many-th put as throttled; 0 for none.
    throttle_every: u64,
    puts: AtomicU64,
}

fn start(throttle_every: u64) -> (Arc<Endpoint>, SocketAddr) {
    let endpoint = Arc::new(Endpoint { throttle_every, ..Endpoint::default() });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shared = Arc::clone(&endpoint);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let endpoint = Arc::clone(&shared);
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || serve(&endpoint, stream));
        }
    });
    (endpoint, address)
}

/// The same over TLS, and the certificate that it shows.
fn start_tls() -> (Arc<Endpoint>, SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let endpoint = Arc::new(Endpoint::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shared = Arc::clone(&endpoint);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (endpoint, config) = (Arc::clone(&shared), Arc::clone(&config));
            stream.set_nodelay(true).unwrap();
            let connection = ServerConnection::new(config).unwrap();
            std::thread::spawn(move || serve(&endpoint, StreamOwned::new(connection, stream)));
        }
    });
    (endpoint, address, made.cert.pem())
}

fn serve(endpoint: &Endpoint, stream: impl Read + Write) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut headers = BTreeMap::new();
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        assert_eq!(line, "POST / HTTP/1.1\r\n");
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let mut body = vec![0; headers["content-length"].parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        let (status, answer) = match is_signed(&headers, &body) {
            true => answer(endpoint, &headers["x-amz-target"], &body),
            false => {
                endpoint.refused.fetch_add(1, Ordering::Relaxed);
                (400, json!({"__type": "x#InvalidSignatureException", "message": "no"}))
            }
        };
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\nServer: in-test\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        let writer = reader.get_mut();
        if writer.write_all((head + &answer).as_bytes()).and_then(|()| writer.flush()).is_err() {
            return;
        }
    }
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_signed(headers: &BTreeMap<String, String>, body: &[u8]) -> bool {
    let authorization = &headers["authorization"];
    let part = |name: &str| {
        let rest = authorization.split_once(name).unwrap().1;
        rest.split(',').next().unwrap().to_owned()
    };
    let names = part("SignedHeaders=");
    for needed in ["host", "x-amz-date", "x-amz-target", "content-type"] {
        assert!(names.split(';').any(|name| name == needed), "{needed} is not signed");
    }
    let canonical_headers: String =
        names.split(';').map(|name| format!("{name}:{}\n", headers[name])).collect();
    let canonical =
        format!("POST\n/\n\n{canonical_headers}\n{names}\n{}", hex(&Sha256::digest(body)));
    let date = &headers["x-amz-date"];
    let day = &date[..8];
    let scope = format!("{day}/{REGION}/dynamodb/aws4_request");
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
        hex(&Sha256::digest(canonical.as_bytes()))
    );
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for part in [day, REGION, "dynamodb", "aws4_request"] {
        key = hmac(&key, part);
    }
    part("Credential=") == format!("{ACCESS_KEY}/{scope}")
        && part("Signature=") == hex(&hmac(&key, &to_sign))
}

fn answer(endpoint: &Endpoint, target: &str, body: &[u8]) -> (u16, Value) {
    let body: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(body["TableName"], "usertable");
    let text = |value: &Value| value["S"].as_str().unwrap_or_default().to_owned();
    let key = |item: &Value| (text(&item["id"]), text(&item["n"]));
    let mut items = endpoint.items.lock().unwrap();
    match target.strip_prefix("DynamoDB_20120810.").unwrap() {
        "DescribeTable" => match &*endpoint.keys.lock().unwrap() {
            None => (400, json!({"__type": "x#ResourceNotFoundException", "message": "none"})),
            Some(keys) => (
                200,
                json!({"Table": {"TableStatus": "ACTIVE", "KeySchema": keys,
                                 "BillingModeSummary": {"BillingMode": "PAY_PER_REQUEST"}}}),
            ),
        },
        "CreateTable" => {
            *endpoint.keys.lock().unwrap() = Some(body["KeySchema"].clone());
            (200, json!({}))
        }
        "PutItem" => {
            let count = endpoint.puts.fetch_add(1, Ordering::Relaxed) + 1;
            if endpoint.throttle_every > 0 && count.is_multiple_of(endpoint.throttle_every) {
                return (400, json!({"__type": "x#ThrottlingException", "message": "slow down"}));
            }
            let item = body["Item"].clone();
            let is_there = items.contains_key(&key(&item));
            if body["ConditionExpression"] == "attribute_exists(id)" && !is_there {
                return (400, json!({"__type": "x#ConditionalCheckFailedException"}));
            }
            items.insert(key(&item), item);
            (200, json!({}))
        }
        "GetItem" => {
            assert_eq!(body["ConsistentRead"], true);
            match items.get(&key(&body["Key"])) {
                Some(item) => (200, json!({"Item": item})),
                None => (200, json!({})),
            }
        }
        "Scan" => {
            let from = key(&body["ExclusiveStartKey"]);
            let limit = body["Limit"].as_u64().unwrap() as usize;
            let found: Vec<&Value> = items.range(from..).skip(1).take(limit).map(|i| i.1).collect();
            (200, json!({"Items": found, "Count": found.len()}))
        }
        "Query" => {
            assert_eq!(body["KeyConditionExpression"], "id = :id AND n >= :n");
            let values = &body["ExpressionAttributeValues"];
            let from = (text(&values[":id"]), text(&values[":n"]));
            let limit = body["Limit"].as_u64().unwrap() as usize;
            let id = from.0.clone();
            let found: Vec<&Value> = items
                .range(from..)
                .take_while(|((partition, _), _)| *partition == id)
                .take(limit)
                .map(|i| i.1)
                .collect();
            assert!(!found.is_empty() && found.len() <= limit);
            (200, json!({"Items": found, "Count": found.len()}))
        }
        other => panic!("{other} was not expected"),
    }
}

fn signed(args: &str, address: SocketAddr, dir: &Path) -> Output {
    signed_with(SECRET, args, address, dir)
}

fn signed_with(secret: &str, args: &str, address: SocketAddr, dir: &Path) -> Output {
    let args = args.replace("TARGET", &format!("dynamodb+http://{address}"));
    signing(secret, &args, dir).output().unwrap()
}

/// The tool with credentials that the endpoint believes if the secret is right.
fn signing(secret: &str, args: &str, dir: &Path) -> Command {
    let mut command = tool(args, dir);
    command
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .env("AWS_REGION", REGION)
        .env_remove("AWS_SESSION_TOKEN");
    command
}

#[test]
fn a_table_is_created_loaded_and_read_with_signed_requests() {
    let (endpoint, address) = start(0);
    let dir = tempfile::tempdir().unwrap();
    let hits = Hits {
        records: 500,
        value_bytes: 50,
        shape: "--connections 4 --depth 2",
        workloads: &["a", "d", "e", "f", "puts", "gets"],
        says: &["PAY_PER_REQUEST", "in-test"],
    };
    let text = hits.are_reported(|args| signed(args, address, dir.path()), dir.path());
    assert!(!text.contains(SECRET), "no secret in a report");
    assert!(endpoint.items.lock().unwrap().len() >= 500);
    assert_eq!(endpoint.refused.load(Ordering::Relaxed), 0);
}

#[test]
fn conditional_puts_and_queries_use_the_sort_key() {
    let (endpoint, address) = start(0);
    let dir = tempfile::tempdir().unwrap();
    conditions_and_queries(dir.path());
    let target = "--target TARGET --workload conditions.toml";
    succeeds(&signed(&format!("load {target}"), address, dir.path()));
    assert_eq!(endpoint.keys.lock().unwrap().as_ref().unwrap().as_array().unwrap().len(), 2);
    let run = format!("run {target} --duration 1 --warmup 0 --report r");
    succeeds(&signed(&run, address, dir.path()));
    conditions_and_queries_succeeded(&report(&dir.path().join("r")));
    // A table with another key is not taken.
    fails(&signed("run --target TARGET --workload gets", address, dir.path()), 2);
}

#[test]
fn a_ledger_on_this_api_is_kept_and_throttled_puts_are_errors() {
    let (_endpoint, address) = start(10);
    let dir = tempfile::tempdir().unwrap();
    let run = "run --target TARGET --workload ledger --ledger ledger --records 100 --connections 4 \
               --duration 1 --report r";
    succeeds(&signed(run, address, dir.path()));
    let json = report(&dir.path().join("r"));
    assert!(json["errors"].as_u64().unwrap() > 0, "{json}");
    let first = json["first_error"].as_str().unwrap();
    assert!(first.contains("ThrottlingException: slow down"), "{first}");
    let verified = signed("verify-ledger --target TARGET --ledger ledger", address, dir.path());
    assert!(succeeds(&verified).contains("0 missing, 0 stale, 0 damaged"));
}

#[test]
fn wrong_credentials_and_plain_text_where_tls_is_due_are_refused_with_words() {
    let (endpoint, address) = start(0);
    let dir = tempfile::tempdir().unwrap();
    let run = "run --workload gets --target TARGET";
    let words = fails(&signed_with("another", run, address, dir.path()), 3);
    assert!(words.contains("InvalidSignatureException"), "{words}");
    assert!(endpoint.refused.load(Ordering::Relaxed) > 0);
    let output =
        bench(&format!("run --workload gets --target dynamodb+https://{address}"), dir.path());
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    // Or, where the machine has nobody to trust, that.
    assert!(matches!(output.status.code(), Some(2 | 3)), "{words}");
    assert!(words.contains("no TLS with") || words.contains("--ca-file"), "{words}");
}

#[test]
fn over_tls_everything_is_the_same_and_a_stranger_is_not_believed() {
    let (endpoint, address, pem) = start_tls();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), pem).unwrap();
    let target = format!("--target dynamodb+https://localhost:{}", address.port());
    let run = |args: &str| {
        signing(SECRET, &args.replace("TARGET", &target), dir.path()).output().unwrap()
    };
    let loaded = run("load TARGET --ca-file ca.pem --records 300 --value-bytes 50 --connections 4");
    assert!(succeeds(&loaded).contains("loaded 300 records"));
    assert_eq!(endpoint.items.lock().unwrap().len(), 300);
    let text = succeeds(&run(
        "run TARGET --ca-file ca.pem --workload a --records 300 --value-bytes 5000 --connections 4 \
         --depth 2 --duration 2 --warmup 0 --rate 200 --report r",
    ));
    assert!(text.contains("tls TLSv1_3") && text.contains("1 of --ca-file"), "{text}");
    let json = report(&dir.path().join("r"));
    assert_eq!(json["errors"], 0, "{json}");
    assert_eq!(json["overall"]["count"], 400);
    assert_eq!(json["reads_that_found_nothing"], 0);
    assert_eq!(json["reconnects"], 0, "a handshake is no reconnection");
    assert_eq!(endpoint.refused.load(Ordering::Relaxed), 0);
    // This system does not know who made that certificate.
    let stranger = run("run TARGET --workload gets --duration 1");
    let words = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(matches!(stranger.status.code(), Some(2 | 3)), "{words}");
    assert!(words.contains("--ca-file"), "{words}");
    let ledger = "run TARGET --ca-file ca.pem --workload ledger --ledger ledger --records 50 \
                  --connections 2 --duration 1";
    succeeds(&run(ledger));
    let verified = succeeds(&run("verify-ledger TARGET --ca-file ca.pem --ledger ledger"));
    assert!(verified.contains("0 missing, 0 stale, 0 damaged"), "{verified}");
}

/// Every insert's record is its own, whichever machine it comes from: none overwrites another's.
#[test]
fn workers_load_their_parts_and_insert_records_of_their_own() {
    let (endpoint, address, pem) = start_tls();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), pem).unwrap();
    let worker = || {
        let mut child = signing(SECRET, "worker --listen 127.0.0.1:0", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let place = line.trim().strip_prefix("ready worker=").unwrap().to_owned();
        (Owned(child), place)
    };
    let (a, b) = (worker(), worker());
    let target = format!("--target dynamodb+https://localhost:{} --ca-file ca.pem", address.port());
    let places = format!("{},{}", a.1, b.1);
    let load = format!("load {target} --records 101 --connections 4 --workers {places}");
    let loaded = succeeds(&signing(SECRET, &load, dir.path()).output().unwrap());
    assert!(loaded.contains("loaded 101 records"), "{loaded}");
    assert_eq!(endpoint.items.lock().unwrap().len(), 101, "each record by one of them");
    assert_eq!(endpoint.puts.load(Ordering::Relaxed), 101, "and by one alone");
    let run = format!(
        "run {target} --workload d --records 101 --connections 4 --threads 2 --duration 2 \
         --warmup 0 --rate 400 --report r --workers {places}"
    );
    succeeds(&signing(SECRET, &run, dir.path()).output().unwrap());
    let json = report(&dir.path().join("r"));
    assert_eq!(json["errors"], 0, "{json}");
    let inserted = json["ops"]["insert"]["count"].as_u64().unwrap();
    assert!(inserted > 10, "{inserted}");
    assert_eq!(endpoint.items.lock().unwrap().len() as u64, 101 + inserted);
    assert_eq!(json["reads_that_found_nothing"], 0);
    assert_eq!(json["workers"].as_array().unwrap().len(), 2);
}
