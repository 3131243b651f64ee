//! Bad input: each kind gets its named error or a closed connection, is counted, and harms nobody
//! else.

use forebay_core::item::{Item, Value};
use forebay_core::limits::{ITEM_BYTES_MAX, PARTITION_KEY_BYTES_MAX, SORT_KEY_BYTES_MAX};
use forebay_core::message::{
    BatchGetRequest, BatchOperation, DescribeTableRequest, ErrorCode, Kind, ListTablesRequest,
};
use forebay_net::frame;
use forebay_net::machine::SendBuf;
use forebay_storage::sim_disk::SimRandom;

use crate::requests::*;
use crate::shell::{Client, Reply, Sim, SimConfig, create_table};

fn encoded(pk: &str) -> SendBuf {
    let mut bytes = SendBuf::new();
    frame::append(&mut bytes, 7, &get(1, &key(pk)));
    bytes
}

/// Computes the header's checksum anew after a change.
fn seal(bytes: &mut [u8]) {
    let mut hasher =
        crc32fast::Hasher::new_with_initial(u32::from_le_bytes(bytes[..4].try_into().expect("4")));
    hasher.update(&bytes[8..]);
    let sum = hasher.finalize();
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// Sends bytes on a connection of their own; the replies, and whether it was closed.
fn answer_to(sim: &mut Sim, bytes: &[u8]) -> (Vec<Reply>, bool) {
    let client = sim.connect(0);
    sim.send_bytes(client, bytes);
    sim.steps(60);
    let peer = sim.peer(client);
    let order = std::mem::take(&mut peer.order);
    let replies = order.iter().map(|id| peer.replies.remove(id).expect("listed")).collect();
    let closed = peer.closed;
    if !closed {
        sim.hang_up(client);
    }
    (replies, closed)
}

#[test]
fn broken_frames_get_an_error_and_close_only_their_connection() {
    let mut sim = Sim::new(SimConfig::SMALL, 20);
    let table = sim.create_table("table", None, 1).id.0;
    let bystander = sim.connect(0);
    sim.call(bystander, &put(table, &bytes(&item("a", 1))));
    let whole = encoded("a");
    let change = |change: &dyn Fn(&mut SendBuf)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        bytes
    };
    let cases: [(ErrorCode, SendBuf); 7] = [
        (ErrorCode::MalformedMessage, change(&|b| b[4] ^= 1)),
        (ErrorCode::MalformedMessage, change(&|b| b[40] ^= 1)),
        (ErrorCode::MalformedMessage, change(&|b| b[..4].copy_from_slice(&33u32.to_le_bytes()))),
        (ErrorCode::MalformedMessage, change(&|b| b[..4].copy_from_slice(&[255; 4]))),
        (ErrorCode::UnsupportedVersion, change(&|b| b[8] = 2)),
        (
            ErrorCode::MalformedMessage,
            change(&|b| {
                b[14] = 1;
                seal(b);
            }),
        ),
        (
            ErrorCode::MalformedMessage,
            change(&|b| {
                b[24..28].copy_from_slice(&9u32.to_le_bytes());
                seal(b);
            }),
        ),
    ];
    for (code, bytes) in cases {
        // A right request before it is answered, one behind it is not.
        let stream = [&encoded("b")[..], &bytes, &encoded("c")].concat();
        let (replies, closed) = answer_to(&mut sim, &stream);
        let codes: Vec<_> = replies.iter().map(Reply::code).collect();
        assert_eq!(codes, [Some(ErrorCode::UnknownTable), Some(code)]);
        assert!(closed);
        let found = sim.call(bystander, &get(table, &key("a")));
        assert_eq!(found, Reply::Item(Some(item("a", 1))));
    }
    let refused = &sim.hosts[0].metrics.refusals;
    let counts: Vec<u64> = refused.iter().map(|counter| counter.get()).collect();
    assert_eq!(counts, [2, 2, 1, 2, 0], "length, checksum, version, header, memory");
}

#[test]
fn bad_messages_get_an_error_and_the_connection_goes_on() {
    let mut sim = Sim::new(SimConfig::SMALL, 21);
    let mut kind = encoded("a");
    kind[10..12].copy_from_slice(&99u16.to_le_bytes());
    seal(&mut kind);
    let mut reply = encoded("a");
    reply[10..12].copy_from_slice(&(Kind::GetReply as u16).to_le_bytes());
    seal(&mut reply);
    let mut version = encoded("a");
    version[12] = 3;
    seal(&mut version);
    let mut archive = encoded("a");
    archive.as_mut_slice()[32..].fill(0xee);
    let payload_bytes = (archive.len() - 32) as u32;
    archive[24..28].copy_from_slice(&payload_bytes.to_le_bytes());
    seal(&mut archive);
    let mut empty = SendBuf::new();
    empty.extend_from_slice(&encoded("a")[..32]);
    empty[..4].copy_from_slice(&32u32.to_le_bytes());
    empty[24..28].copy_from_slice(&[0; 4]);
    seal(&mut empty);
    for (code, bytes) in [
        (ErrorCode::UnknownKind, kind),
        (ErrorCode::UnknownKind, reply),
        (ErrorCode::UnsupportedVersion, version),
        (ErrorCode::MalformedMessage, archive),
        (ErrorCode::MalformedMessage, empty),
    ] {
        let (replies, closed) = answer_to(&mut sim, &bytes);
        assert_eq!(replies.iter().map(Reply::code).collect::<Vec<_>>(), [Some(code)]);
        assert!(!closed);
    }
}

#[test]
fn random_damage_never_harms_the_shard() {
    let mut sim = Sim::new(SimConfig::SMALL, 22);
    let table = sim.create_table("table", None, 1).id.0;
    let bystander = sim.connect(0);
    let mut random = SimRandom::new(22);
    let row = bytes(&item("a", 1));
    for round in 0..300 {
        let mut frames = SendBuf::new();
        frame::append(&mut frames, 1, &put(table, &row));
        frame::append(&mut frames, 2, &update(table, &key("b"), add(1)));
        frame::append(&mut frames, 3, &query(table, b"a"));
        frame::append(&mut frames, 4, &create_table("other", b'S', None, 1));
        let mut at = 0;
        // Each frame's payload is damaged; half of the frames are sealed again, as by a client
        // that builds nonsense.
        while at < frames.len() {
            let end = at + u32::from_le_bytes(frames[at..at + 4].try_into().expect("4")) as usize;
            for _ in 0..random.below(4) {
                let offset = at + 32 + random.below(end - at - 32);
                frames[offset] = random.bits() as u8;
            }
            if random.chance(9, 10) {
                let frame = &mut frames[at..end];
                let padded = u32::from_le_bytes(frame[24..28].try_into().expect("4")) as usize;
                frame[32 + padded..].fill(0);
                seal(frame);
            }
            at = end;
        }
        answer_to(&mut sim, &frames);
        if round % 50 == 0 {
            let got = sim.call(bystander, &get(table, &key("zzz")));
            assert_eq!(got, Reply::Item(None), "round {round}");
        }
    }
}

fn code(sim: &mut Sim, client: Client, table: u64, item: &Item) -> Option<ErrorCode> {
    let encoded = match item.to_bytes() {
        Ok(encoded) => encoded,
        Err(_) => {
            let mut encoded = Vec::new();
            item.encode(&mut encoded);
            encoded
        }
    };
    sim.call(client, &put(table, &encoded)).code()
}

#[test]
fn keys_and_items_outside_their_limits_are_refused_by_name() {
    let mut sim = Sim::new(SimConfig::LARGE, 23);
    let table = sim.create_table("table", Some(b'N'), 1).id.0;
    let client = sim.connect(0);
    let right = Item::new().with("pk", "p").with("sk", 1);
    assert_eq!(code(&mut sim, client, table, &right), None);
    let long = "x".repeat(PARTITION_KEY_BYTES_MAX + 1);
    let cases = [
        (ErrorCode::InvalidKey, Item::new().with("pk", "p")),
        (ErrorCode::InvalidKey, Item::new().with("sk", 1)),
        (ErrorCode::InvalidKey, Item::new().with("pk", "p").with("sk", "1")),
        (ErrorCode::InvalidKey, Item::new().with("pk", 1).with("sk", 1)),
        (ErrorCode::InvalidKey, Item::new().with("pk", "").with("sk", 1)),
        (ErrorCode::InvalidKey, Item::new().with("pk", long).with("sk", 1)),
        (ErrorCode::ItemTooLarge, right.clone().with("data", vec![0u8; ITEM_BYTES_MAX])),
    ];
    for (expected, item) in cases {
        assert_eq!(code(&mut sim, client, table, &item), Some(expected), "{expected:?}");
    }
    // The largest there may be.
    let room = ITEM_BYTES_MAX - "datapksk".len() - "p".len() - 2;
    let largest = right.clone().with("data", vec![1u8; room]);
    assert_eq!(largest.to_bytes().map(|_| ()), Ok(()));
    assert_eq!(code(&mut sim, client, table, &largest), None);
    let mut deep = Value::from(1);
    for _ in 0..40 {
        deep = Value::L(vec![deep]);
    }
    let deep = right.clone().with("deep", deep);
    let mut encoded = bytes(&right);
    assert!(deep.to_bytes().is_err());
    // Every cut and a byte that is no tag.
    for end in 0..encoded.len() {
        let reply = sim.call(client, &put(table, &encoded[..end]));
        assert_eq!(reply.code(), Some(ErrorCode::InvalidItem));
    }
    encoded[0] = 9;
    let reply = sim.call(client, &put(table, &encoded));
    assert_eq!(reply.code(), Some(ErrorCode::InvalidItem));
    // Keys with other attributes than the key's.
    let extra = bytes(&right.clone().with("more", 1));
    assert_eq!(sim.call(client, &get(table, &extra)).code(), Some(ErrorCode::InvalidKey));
    assert_eq!(sim.call(client, &delete(table, &extra)).code(), Some(ErrorCode::InvalidKey));
    let reply = sim.call(client, &update(table, &extra, add(1)));
    assert_eq!(reply.code(), Some(ErrorCode::InvalidKey));
    let reply = sim.call(client, &query(table, b""));
    assert_eq!(reply.code(), Some(ErrorCode::InvalidKey));
    let keys = vec![&extra[..]];
    let reply = sim.call(client, &BatchGetRequest { table, epoch: 0, keys, projection: None });
    assert_eq!(reply.code(), Some(ErrorCode::InvalidKey));
    let operations = vec![BatchOperation { delete: true, bytes: &extra }];
    let reply = sim.call(client, &batch(table, operations));
    assert_eq!(reply.code(), Some(ErrorCode::InvalidKey));
    // A sort key in a table with text ones.
    let text = sim.create_table("text", Some(b'S'), 1).id.0;
    let long = "x".repeat(SORT_KEY_BYTES_MAX + 1);
    let item = Item::new().with("pk", "p").with("sk", long);
    assert_eq!(code(&mut sim, client, text, &item), Some(ErrorCode::InvalidKey));
    // A partition key of a number table that is no number.
    let admin = sim.connect(0);
    let numbers = sim.call(admin, &create_table("numbers", b'N', None, 1)).table().id.0;
    let reply = sim.call(client, &query(numbers, b"\xff\xff\xff"));
    assert_eq!(reply.code(), Some(ErrorCode::InvalidKey));
    // An update that makes an item too large.
    let almost = bytes(&largest);
    sim.call(client, &put(table, &almost));
    let key = bytes(&right);
    let grow = forebay_core::expression::UpdateExpression::new()
        .set("more", Value::from("more"))
        .compile()
        .expect("valid");
    let reply = sim.call(client, &update(table, &key, grow));
    assert_eq!(reply.code(), Some(ErrorCode::ItemTooLarge));
}

#[test]
fn tables_that_cannot_be_are_refused_by_name() {
    let mut sim = Sim::new(SimConfig::SMALL, 24);
    let client = sim.connect(0);
    let long = "x".repeat(256);
    for name in ["", "ab", "a b", "a/b", &long] {
        let reply = sim.call(client, &create_table(name, b'S', None, 1));
        assert_eq!(reply.code(), Some(ErrorCode::InvalidRequest), "{name:?}");
    }
    let reply = sim.call(client, &create_table("table", b'X', None, 1));
    assert_eq!(reply.code(), Some(ErrorCode::InvalidRequest));
    let reply = sim.call(client, &create_table("table", b'S', Some(0), 1));
    assert_eq!(reply.code(), Some(ErrorCode::InvalidRequest));
    let reply = sim.call(client, &create_table("table", b'S', None, 1025));
    assert_eq!(reply.code(), Some(ErrorCode::InvalidRequest));
    let mut same = create_table("table", b'S', Some(b'S'), 1);
    same.sort_key = "pk";
    assert_eq!(sim.call(client, &same).code(), Some(ErrorCode::InvalidRequest));
    same.sort_key = "sk";
    same.partition_key = "";
    assert_eq!(sim.call(client, &same).code(), Some(ErrorCode::InvalidRequest));
    // Words in an error do not grow with the request.
    let huge = "n".repeat(10 << 20);
    let reply = sim.call(client, &DescribeTableRequest { name: &huge });
    assert_eq!(reply.code(), Some(ErrorCode::InvalidRequest));
    let listed = sim.call(client, &ListTablesRequest { start_after: &huge, limit: 1 });
    assert_eq!(listed, Reply::Names(Vec::new(), false));
    for epoch in [1, 2] {
        let table = sim.create_table(&format!("epoch{epoch}"), None, 1).id.0;
        let a = key("a");
        let mut request = get(table, &a);
        request.epoch = epoch;
        let code = sim.call(client, &request).code();
        assert_eq!(code, (epoch == 2).then_some(ErrorCode::WrongPartition));
    }
    let a = key("a");
    for table in [0, 1, u64::MAX] {
        assert_eq!(sim.call(client, &get(table, &a)).code(), Some(ErrorCode::UnknownTable));
        assert_eq!(sim.call(client, &query(table, b"a")).code(), Some(ErrorCode::UnknownTable));
        assert_eq!(sim.call(client, &scan(table)).code(), Some(ErrorCode::UnknownTable));
        let row = bytes(&item("a", 1));
        assert_eq!(sim.call(client, &put(table, &row)).code(), Some(ErrorCode::UnknownTable));
    }
}

#[test]
fn frames_that_are_begun_and_never_ended_cost_bounded_memory() {
    let mut sim = Sim::new(SimConfig::SMALL, 21);
    let table = sim.create_table("table", None, 1).id.0;
    let bystander = sim.connect(0);
    let mut begun = encoded("a");
    begun[..4].copy_from_slice(&(8_u32 << 20).to_le_bytes());
    begun.resize(1 << 20, 0);
    let peers: Vec<Client> = (0..100).map(|_| sim.connect(0)).collect();
    for peer in &peers {
        sim.send_bytes(*peer, &begun);
        sim.steps(2);
    }
    sim.steps(50);
    let (closed, open): (Vec<Client>, Vec<Client>) =
        peers.into_iter().partition(|peer| sim.peer(*peer).closed);
    assert!((32..=64).contains(&open.len()), "{} keep what they have begun", open.len());
    for peer in closed {
        let peer = sim.peer(peer);
        let reply = peer.order.first().and_then(|id| peer.replies.get(id)).expect("told why");
        assert_eq!(reply.code(), Some(ErrorCode::Overloaded));
    }
    let row = item("b", 2);
    assert_eq!(sim.call(bystander, &put(table, &bytes(&row))), Reply::Written(None));
    // When the others have left there is room again.
    for peer in open {
        sim.hang_up(peer);
    }
    let late = sim.connect(0);
    sim.send_bytes(late, &begun);
    sim.steps(50);
    assert!(!sim.peer(late).closed);
}
