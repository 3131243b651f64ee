//! Bad bytes on live sockets: each gets its named error or a closed connection, is counted, and a
//! well-behaved connection beside all of it sees only right answers.

mod support;

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use forebay_core::expression::UpdateExpression;
use forebay_core::item::{Item, Value};
use forebay_core::limits;
use forebay_core::message::{
    BatchGetRequest, BatchOperation, BatchWriteRequest, DescribeTableRequest, ErrorCode, Kind,
    QueryRequest, ReturnValues, UpdateRequest,
};
use forebay_net::frame::{self, HEADER_BYTES};
use forebay_net::machine::SendBuf;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use support::client::{self, Answer, Client};
use support::process::Node;
use support::scratch;

/// For the node to close a connection that it refuses.
const CLOSE: Duration = Duration::from_secs(10);
/// For the node to take every connection of a burst: a full queue costs a second's retransmission.
const SETTLE: Duration = Duration::from_secs(30);
/// Connections opened and dropped.
const CONNECTIONS: usize = 10_000;
/// Open at one time: a test has a limit of descriptors, too.
const CONNECTIONS_AT_ONCE: usize = 200;

/// A node, a table on it, and a well-behaved client that runs until the attack is over.
fn beside_a_steady_client(attack: impl FnOnce(&Node, u64)) {
    let Some(dir) = scratch() else { return };
    let node = Node::dev(dir.path(), &["--http", "127.0.0.1:0"]);
    let at = node.native();
    let table = Client::connect(at).unwrap().create_table("steady").id.0;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let steady = scope.spawn(|| steady(at, table, &done));
        // Also when the attack panics, so that the scope ends.
        let _end = StoreOnDrop(&done);
        attack(&node, table);
        done.store(true, Relaxed);
        let turns = steady.join().unwrap();
        assert!(turns > 0, "the steady client had its turns");
    });
    node.stop();
}

struct StoreOnDrop<'a>(&'a AtomicBool);

impl Drop for StoreOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn steady(at: SocketAddr, table: u64, done: &AtomicBool) -> u64 {
    let mut client = Client::connect(at).unwrap();
    let mut turns = 0;
    while turns == 0 || !done.load(Relaxed) {
        let name = format!("steady-{}", turns % 50);
        let item = Item::new().with("k", name.as_str()).with("turn", turns);
        client.put_patiently(table, &item);
        assert_eq!(client.get(table, &name), Some(item));
        turns += 1;
    }
    turns
}

/// A valid frame, for spoiling.
fn frame_bytes() -> SendBuf {
    let mut bytes = SendBuf::new();
    frame::append(&mut bytes, 7, &DescribeTableRequest { name: "steady" });
    bytes
}

/// Makes the checksum right again, so that the node looks further.
fn sign(bytes: &mut [u8]) {
    let mut hasher =
        crc32fast::Hasher::new_with_initial(u32::from_le_bytes(bytes[..4].try_into().unwrap()));
    hasher.update(&bytes[8..]);
    bytes[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// Sends bytes that end the connection, and returns the error that came before its end.
fn refused_stream(at: SocketAddr, bytes: &[u8]) -> Option<ErrorCode> {
    let mut client = Client::connect(at).unwrap();
    // The node may have closed before it has read everything.
    let _ = client.stream().write_all(bytes);
    let mut error = None;
    let closed = client.is_closed_within(CLOSE, |answer| error = Some(answer.refused()));
    assert!(closed, "the connection is left open");
    error
}

fn refusals(node: &Node, reason: &str) -> u64 {
    node.metric(&format!("forebay_shard_frames_refused_total{{shard=\"0\",reason=\"{reason}\"}}"))
}

fn replies(node: &Node, code: ErrorCode) -> u64 {
    node.metric(&format!("forebay_shard_replies_total{{shard=\"0\",code=\"{}\"}}", code.name()))
}

#[test]
fn a_broken_stream_is_named_counted_and_closed() {
    beside_a_steady_client(|node, _table| {
        let spoiled = |at: usize, new: &[u8], signed: bool| {
            let mut bytes = frame_bytes();
            bytes[at..at + new.len()].copy_from_slice(new);
            if signed {
                sign(&mut bytes);
            }
            bytes
        };
        let too_long = (limits::FRAME_BYTES_MAX as u32 + 16).to_le_bytes();
        let cases: [(&str, SendBuf, ErrorCode); 9] = [
            ("length", spoiled(0, &too_long, false), ErrorCode::MalformedMessage),
            ("length", spoiled(0, &u32::MAX.to_le_bytes(), false), ErrorCode::MalformedMessage),
            ("length", spoiled(0, &0u32.to_le_bytes(), false), ErrorCode::MalformedMessage),
            ("length", spoiled(0, &33u32.to_le_bytes(), false), ErrorCode::MalformedMessage),
            ("version", spoiled(8, &[2, 0], true), ErrorCode::UnsupportedVersion),
            ("checksum", spoiled(4, &[0xff; 4], false), ErrorCode::MalformedMessage),
            ("checksum", spoiled(40, &[0xff], false), ErrorCode::MalformedMessage),
            ("header", spoiled(14, &[1], true), ErrorCode::MalformedMessage),
            ("header", spoiled(24, &1000u32.to_le_bytes(), true), ErrorCode::MalformedMessage),
        ];
        for (reason, bytes, code) in cases {
            let before = refusals(node, reason);
            assert_eq!(refused_stream(node.native(), &bytes), Some(code), "{reason}");
            assert_eq!(refusals(node, reason), before + 1, "{reason} is counted");
        }
        // Requests before the broken frame are answered, what comes after it is not looked at.
        let mut bytes = frame_bytes();
        bytes.extend_from_slice(&[0; 64]);
        bytes.extend_from_slice(&frame_bytes());
        let mut client = Client::connect(node.native()).unwrap();
        client.stream().write_all(&bytes).unwrap();
        let mut answers = Vec::new();
        assert!(client.is_closed_within(CLOSE, |answer| answers.push(answer)));
        assert!(matches!(answers[0], Answer::Table(_)), "{answers:?}");
        assert_eq!(answers.pop().unwrap().refused(), ErrorCode::MalformedMessage);
        assert_eq!(answers.len(), 1);
    });
}

#[test]
fn garbage_cut_frames_and_slow_halves_harm_nobody() {
    beside_a_steady_client(|node, _table| {
        let at = node.native();
        let mut random = SmallRng::seed_from_u64(11);
        for round in 0..200 {
            let mut bytes = vec![0; 1 + round * 37];
            random.fill_bytes(&mut bytes);
            let mut stream = TcpStream::connect(at).unwrap();
            let _ = stream.write_all(&bytes);
        }
        // Every prefix of a frame, then the end of the stream.
        let whole = frame_bytes();
        for cut in 0..whole.len() {
            let mut client = Client::connect(at).unwrap();
            client.stream().write_all(&whole[..cut]).unwrap();
            client.stream().shutdown(Shutdown::Write).unwrap();
            assert!(client.is_closed_within(CLOSE, |answer| panic!("{cut}: {answer:?}")));
        }
        // Halves that wait for their rest do not wait for each other; the rest is answered.
        let mut slow: Vec<Client> = (0..100).map(|_| Client::connect(at).unwrap()).collect();
        for part in whole.chunks(whole.len().div_ceil(4)) {
            for client in &mut slow {
                client.stream().write_all(part).unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for client in &mut slow {
            assert!(matches!(client.receive().unwrap(), (7, Answer::Table(_))));
        }
        // A head that promises the longest frame, and nothing after it, costs no memory for it.
        let mut head = whole[..HEADER_BYTES].to_vec();
        head[..4].copy_from_slice(&(limits::FRAME_BYTES_MAX as u32).to_le_bytes());
        let before = resident_bytes(node.pid());
        let mut promising: Vec<Client> = (0..100).map(|_| Client::connect(at).unwrap()).collect();
        for client in &mut promising {
            client.stream().write_all(&head).unwrap();
        }
        std::thread::sleep(Duration::from_millis(300));
        let grown = resident_bytes(node.pid()).saturating_sub(before);
        assert!(grown < 64 << 20, "{grown} bytes for promises");
    });
}

fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn messages_that_are_none_are_named_and_leave_the_connection_open() {
    beside_a_steady_client(|node, table| {
        let mut client = Client::connect(node.native()).unwrap();
        let mut send = |change: &dyn Fn(&mut [u8])| {
            let mut bytes = frame_bytes();
            change(&mut bytes);
            sign(&mut bytes);
            client.stream().write_all(&bytes).unwrap();
            client.receive().unwrap().1.refused()
        };
        let set_kind =
            |bytes: &mut [u8], kind: u16| bytes[10..12].copy_from_slice(&kind.to_le_bytes());
        let before = replies(node, ErrorCode::UnknownKind);
        for kind in [0, 15, 0x7fff, Kind::WriteReply as u16, Kind::ErrorReply as u16] {
            assert_eq!(send(&|bytes| set_kind(bytes, kind)), ErrorCode::UnknownKind, "{kind}");
        }
        assert_eq!(replies(node, ErrorCode::UnknownKind), before + 5);
        assert_eq!(send(&|bytes| bytes[12] = 2), ErrorCode::UnsupportedVersion);
        // Garbage in every kind of message.
        let before = replies(node, ErrorCode::MalformedMessage);
        for kind in 1..=8 {
            let code = send(&|bytes| {
                set_kind(bytes, kind);
                let end = bytes.len();
                let payload = HEADER_BYTES..HEADER_BYTES + (end - HEADER_BYTES) / 16 * 16;
                bytes[24..28].copy_from_slice(&(payload.len() as u32).to_le_bytes());
                bytes[payload].fill(0xa5);
            });
            assert_eq!(code, ErrorCode::MalformedMessage, "kind {kind}");
        }
        assert_eq!(replies(node, ErrorCode::MalformedMessage), before + 8);
        // The same connection goes on.
        assert_eq!(client.get(table, "nothing"), None);
    });
}

/// Maps inside maps, `depth` levels of them.
fn nested(depth: usize) -> Vec<u8> {
    // Levels beyond the limit do not come out of the encoder, so they are written by hand: version,
    // u24 total, u24 size; then entries of u16 name length, name, tag, u24 length.
    let mut value: Vec<u8> = vec![6, 0, 0, 0];
    for _ in 0..depth {
        let mut outer = vec![8];
        outer.extend_from_slice(&(value.len() as u32).to_le_bytes()[..3]);
        outer.extend_from_slice(&value);
        value = outer;
    }
    raw_item(&[("d", value), ("k", raw_text("deep"))])
}

fn raw_text(text: &str) -> Vec<u8> {
    let mut value = vec![1];
    value.extend_from_slice(&(text.len() as u32).to_le_bytes()[..3]);
    value.extend_from_slice(text.as_bytes());
    value
}

/// An item encoding from encoded values, with whatever they hold.
fn raw_item(attributes: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, 0, 0, 0, 0];
    for (name, value) in attributes {
        bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(value);
    }
    let total = bytes.len() as u32;
    bytes[1..4].copy_from_slice(&total.to_le_bytes()[..3]);
    bytes
}

#[test]
fn requests_beyond_the_limits_are_named_counted_and_write_nothing() {
    beside_a_steady_client(|node, table| {
        let mut client = Client::connect(node.native()).unwrap();
        let long = |bytes: usize| "x".repeat(bytes);
        let mut expected = std::collections::BTreeMap::new();
        let mut put = |client: &mut Client, bytes: &[u8], code: ErrorCode| {
            assert_eq!(client.call(&client::put(table, bytes)).refused(), code);
            *expected.entry(code as u16).or_insert(0) += 1;
        };
        let encoded = |item: Item| item.to_bytes().unwrap();

        // Keys.
        put(&mut client, &encoded(Item::new().with("other", 1)), ErrorCode::InvalidKey);
        put(&mut client, &encoded(Item::new().with("k", 1)), ErrorCode::InvalidKey);
        put(&mut client, &encoded(Item::new().with("k", "")), ErrorCode::InvalidKey);
        let over = long(limits::PARTITION_KEY_BYTES_MAX + 1);
        put(&mut client, &encoded(Item::new().with("k", over)), ErrorCode::InvalidKey);
        // Size: one byte over the limit, as the encoder would never make it.
        let body = limits::ITEM_BYTES_MAX - "k".len() - "big".len() - "body".len();
        let largest = Item::new().with("k", "big").with("body", long(body));
        client.put(table, &largest).written();
        let over = raw_item(&[("body", raw_text(&long(body + 1))), ("k", raw_text("big"))]);
        put(&mut client, &over, ErrorCode::ItemTooLarge);
        assert_eq!(client.get(table, "big"), Some(largest));
        // Nesting: 32 levels are allowed.
        let mut deep = Value::Null;
        for _ in 0..limits::NESTING_DEPTH_MAX {
            deep = Value::L(vec![deep]);
        }
        client.put(table, &Item::new().with("k", "deep").with("d", deep)).written();
        put(&mut client, &nested(limits::NESTING_DEPTH_MAX + 1), ErrorCode::InvalidItem);
        put(&mut client, &nested(100_000), ErrorCode::InvalidItem);
        // Numbers, texts, order of names, types, versions.
        for value in [
            vec![2, 0, 0, 0],
            vec![2, 1, 0, 0, 0xff],
            vec![2, 23, 0, 0].into_iter().chain([0x41; 23]).collect(),
            vec![1, 1, 0, 0, 0xff],
            vec![99, 0, 0, 0],
            vec![6, 1, 0, 0, 0],
            vec![9, 0, 0, 0],
            vec![3, 0xff, 0xff, 0xff],
        ] {
            let item = raw_item(&[("a", value), ("k", raw_text("bad"))]);
            put(&mut client, &item, ErrorCode::InvalidItem);
        }
        let swapped = raw_item(&[("k", raw_text("bad")), ("a", raw_text("x"))]);
        put(&mut client, &swapped, ErrorCode::InvalidItem);
        put(&mut client, &[], ErrorCode::InvalidItem);
        let mut newer = encoded(Item::new().with("k", "bad"));
        newer[0] = 2;
        put(&mut client, &newer, ErrorCode::InvalidItem);
        assert_eq!(client.get(table, "bad"), None, "nothing was written");
        for (code, times) in expected {
            let code = ErrorCode::from_wire(code).unwrap();
            assert_eq!(replies(node, code), times, "{code:?}");
        }

        // Other requests.
        let unknown = client.call(&client::get(table + 1, &client::key("a")));
        assert_eq!(unknown.refused(), ErrorCode::UnknownTable);
        let unknown = client.call(&DescribeTableRequest { name: "nowhere" });
        assert_eq!(unknown.refused(), ErrorCode::UnknownTable);
        let exists = client.call(&client::create_table("steady", ""));
        assert_eq!(exists.refused(), ErrorCode::TableExists);
        for name in ["", "ab", "with space", &long(256)] {
            let refused = client.call(&client::create_table(name, "")).refused();
            assert_eq!(refused, ErrorCode::InvalidRequest, "{name}");
        }
        let same = client.call(&client::create_table("same-key", "k"));
        assert_eq!(same.refused(), ErrorCode::InvalidRequest);
        let extra = Item::new().with("k", "a").with("more", 1).to_bytes().unwrap();
        assert_eq!(client.call(&client::get(table, &extra)).refused(), ErrorCode::InvalidKey);
        batches(&mut client, table);
        expressions(&mut client, table);
        let query = QueryRequest {
            table,
            epoch: 0,
            partition_key: &[b'x'; limits::PARTITION_KEY_BYTES_MAX + 1],
            sort_key: None,
            descending: false,
            limit: 0,
            filter: None,
            projection: None,
            resume: None,
            consistent: true,
        };
        assert_eq!(client.call(&query).refused(), ErrorCode::InvalidKey);
        let query = QueryRequest { partition_key: b"a", resume: Some(&[1, 2, 3]), ..query };
        let refused = client.call(&query).refused();
        assert!(
            [ErrorCode::InvalidKey, ErrorCode::InvalidRequest].contains(&refused),
            "{refused:?}"
        );
    });
}

fn batches(client: &mut Client, table: u64) {
    let item = Item::new().with("k", "twice").to_bytes().unwrap();
    let write = || BatchOperation { delete: false, bytes: &item };
    for count in [0, 2, limits::BATCH_WRITE_ITEMS_MAX + 1] {
        let operations = (0..count).map(|_| write()).collect();
        let refused = client.call(&BatchWriteRequest { table, epoch: 0, operations }).refused();
        assert_eq!(refused, ErrorCode::InvalidRequest, "{count}");
    }
    let key = client::key("a");
    for count in [0, limits::BATCH_GET_ITEMS_MAX + 1] {
        let keys = vec![&key[..]; count];
        let request = BatchGetRequest { table, epoch: 0, keys, projection: None };
        assert_eq!(client.call(&request).refused(), ErrorCode::InvalidRequest, "{count}");
    }
}

fn expressions(client: &mut Client, table: u64) {
    let key = client::key("expressed");
    let mut update = |expression: UpdateExpression| {
        let request = UpdateRequest {
            table,
            epoch: 0,
            key: &key,
            update: expression.compile().unwrap(),
            condition: None,
            return_values: ReturnValues::None,
            return_old_on_failure: false,
        };
        client.call(&request)
    };
    update(UpdateExpression::new().set("text", Value::from("t"))).written();
    let sum = update(UpdateExpression::new().add("text", 1)).refused();
    assert_eq!(sum, ErrorCode::InvalidExpression, "a number is not added to a text");
    let moved = update(UpdateExpression::new().set("k", Value::from("elsewhere"))).refused();
    assert_eq!(moved, ErrorCode::InvalidExpression, "keys do not change");
}

/// Connections that their listeners' queues had no room for, ever, in this network namespace.
fn listen_drops() -> u64 {
    let counters = std::fs::read_to_string("/proc/net/netstat").unwrap();
    let mut lines = counters.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|name| name == "ListenDrops").unwrap();
    values.split(' ').nth(place).unwrap().parse().unwrap()
}

fn wait_for(what: &str, true_now: impl Fn() -> bool) {
    let deadline = Instant::now() + SETTLE;
    while !true_now() {
        assert!(Instant::now() < deadline, "{what}: not within {SETTLE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn ten_thousand_connections_come_and_go() {
    beside_a_steady_client(|node, table| {
        let at = node.native();
        let (begun, dropped_before) = (Instant::now(), listen_drops());
        let whole = frame_bytes();
        for round in 0..CONNECTIONS / CONNECTIONS_AT_ONCE {
            let streams: Vec<TcpStream> = (0..CONNECTIONS_AT_ONCE)
                .map(|index| {
                    let mut stream = TcpStream::connect(at).unwrap();
                    // Some say nothing, some half a request, some a whole one and do not wait.
                    let part = [0, whole.len() / 2, whole.len()][(index + round) % 3];
                    let _ = stream.write_all(&whole[..part]);
                    stream
                })
                .collect();
            drop(streams);
        }
        println!("{CONNECTIONS} connections in {} ms", begun.elapsed().as_millis());
        // The kernel completes a connection before the node takes it: all are taken first, but those that
        // it had no room to queue.
        let accepted = "forebay_shard_connections_accepted_total{shard=\"0\"}";
        let dropped = || listen_drops() - dropped_before;
        wait_for("each is taken", || node.metric(accepted) + dropped() >= CONNECTIONS as u64);
        // The steady client's, this scrape's successor's, and none of those.
        let open = "forebay_shard_connections_open{shard=\"0\"}";
        wait_for("each is closed", || node.metric(open) <= 2);
        let mut client = Client::connect(at).unwrap();
        assert_eq!(client.get(table, "nothing"), None);
    });
}
