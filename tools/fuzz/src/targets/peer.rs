//! Every message between shards. Input: the kind's place in `PeerKind::ALL` (1 byte), then the
//! payload.

use core::net::SocketAddr;

use forebay_core::digest::Digest;
use forebay_core::ids::{Ballot, GroupId, Slot, TableId};
use forebay_core::liveness::{PairMessage, Peer};
use forebay_core::message::peer::*;
use forebay_core::paxos::{
    Az, Configuration, ConfigurationAt, EntryKind, MemberId, Message, PromiseReport, Refusal, Run,
};
use forebay_core::time::Nanos;
use forebay_net::frame;
use forebay_net::link::{LinkSettings, Links, PeerInfo, Sink};
use forebay_net::machine::{ConnId, SendBuf};

/// What decodes says the same when it is said again; and a link takes whatever a peer that greeted
/// says next, or ends its connection.
pub fn run(data: &[u8]) {
    let Some((kind, payload)) = data.split_first() else { return };
    let kind = PeerKind::ALL[usize::from(*kind) % PeerKind::ALL.len()];
    assert_eq!(PeerKind::from_wire(kind as u16), Some(kind));
    let mut aligned = SendBuf::new();
    aligned.extend_from_slice(payload);
    match decode(kind as u16, kind.version(), &aligned) {
        Ok(PeerFrame::Groups(batch)) => check_batch(batch, payload.len()),
        Ok(PeerFrame::Hello(hello)) => {
            assert!(hello.from != hello.to && hello.protocol_oldest <= hello.protocol_newest);
        }
        Ok(PeerFrame::Pair(
            PairMessage::Heartbeat { claims, .. } | PairMessage::Answer { claims, .. },
        )) => assert!(claims.len() <= CLAIMS_MAX && 4 * claims.len() <= payload.len()),
        Ok(PeerFrame::Snapshot(_, _, message)) => check_snapshot(&message),
        Ok(_) => {}
        Err(error) => {
            assert_eq!(PeerError::NAMES[error.index()], error.name());
            assert!(!error.to_string().is_empty());
        }
    }
    check_link(kind, payload);
}

/// Every byte of a part is of an entry within its limits.
fn check_snapshot(message: &SnapshotMessage<'_>) {
    let SnapshotMessage::Part { head, entries, .. } = message else { return };
    assert!(head.configuration.slot <= head.slot);
    let mut again = Vec::new();
    snapshot::entries(entries).for_each(|(key, item)| snapshot::push_entry(key, item, &mut again));
    assert_eq!(again, *entries);
}

/// The messages of a batch, made into a batch again, are the same messages.
fn check_batch(batch: BatchReader<'_>, payload_bytes: usize) {
    let mut builder = BatchBuilder::default();
    builder.begin(SendBuf::new());
    let mut entry_bytes = 0;
    for message in batch.iter() {
        let (route, entries) = (message.route, message.entries.clone());
        entry_bytes += entries.clone().map(|entry| entry.bytes.len()).sum::<usize>();
        let count = entries.len() as u64;
        let (Message::Accept { first, .. } | Message::Fetched { first, .. }) = &message.message
        else {
            assert_eq!(count, 0);
            assert!(builder.push(route, &message.message));
            continue;
        };
        let last = Slot(first.0 + count - 1);
        let mut entries = entries.peekable();
        let next = |slot: Slot| {
            let entry = entries.next_if(|entry| entry.slot == slot)?;
            assert_eq!(entry.configuration().is_some(), entry.kind == EntryKind::Configuration);
            Some((entry.kind, entry.origin, entry.bytes))
        };
        let pushed = builder.push_entries(route, &message.message, last, usize::MAX, next);
        assert_eq!(u64::from(pushed.entries), count);
    }
    assert!(entry_bytes <= payload_bytes);
    let again = builder.finish();
    let again = BatchReader::validate(&again).expect("what was read can be said");
    assert_eq!(format!("{batch:?}"), format!("{again:?}"));
}

struct Ears;

impl Sink for Ears {
    fn pair(&mut self, from: Peer, _: &PairMessage) {
        assert_eq!(from, Peer(2));
    }

    fn table(&mut self, _: Peer, _: StepKind, _: TableId, _: &[u8]) {}

    fn member(&mut self, _: Peer, _: forebay_core::message::peer::MemberStep) {}

    fn snapshot(&mut self, from: Peer, _: Route, _: u64, message: SnapshotMessage<'_>) {
        assert_eq!(from, Peer(2));
        check_snapshot(&message);
    }

    fn group(&mut self, from: Peer, message: &GroupMessage<'_>) {
        assert_eq!(from, Peer(2));
        assert!(message.entries.clone().map(|entry| entry.bytes.len()).sum::<usize>() < 1 << 24);
    }
}

fn identity(peer: u32) -> Identity {
    Identity {
        cluster_id: [7; 16],
        node_id: [peer as u8; 16],
        peer,
        shard: 0,
        az: peer as u16,
        incarnation: 1,
        authentication: Authentication::Dev,
    }
}

fn expected(peer: u32) -> Expected {
    let Identity { node_id, shard, az, .. } = identity(peer);
    Expected { node_id, peer, shard, az }
}

fn check_link(kind: PeerKind, payload: &[u8]) {
    let mut links = Links::new(identity(1), LinkSettings::DEFAULT);
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    links.set_peer(PeerInfo { expected: expected(2), address }, Nanos(1));
    let conn = ConnId { slot: 0, generation: 0 };
    links.connected(conn, None, None, Nanos(1));
    let mut stream = SendBuf::new();
    frame::append_peer(&mut stream, &identity(2).hello(&expected(1), 1));
    links.received(conn, &stream, Nanos(2), &mut Ears);
    assert!(links.is_up(Peer(2)));
    stream.clear();
    frame::begin(&mut stream);
    stream.extend_from_slice(payload);
    frame::seal(&mut stream, 0, kind as u16, kind.version(), 0);
    links.received(conn, &stream, Nanos(3), &mut Ears);
    let refused = links.counters().refusals().map(|(_, count)| count).sum::<u64>();
    assert_eq!(links.is_up(Peer(2)), refused == 0, "what is wrong is counted and ends the link");
}

fn configuration() -> Configuration {
    let member = |n: u16| (MemberId(n.into()), Peer(n.into()), Az(n));
    Configuration::bootstrap(&[member(1), member(2), member(3)], 3).expect("a good one")
}

fn batch() -> SendBuf {
    let mut builder = BatchBuilder::default();
    builder.begin(SendBuf::new());
    let route = Route { group: GroupId(5), from: MemberId(1), to: MemberId(2) };
    let (ballot, slot) = (Ballot(3 << 20 | 1), Slot(9));
    let at = ConfigurationAt { slot: Slot(4), configuration: configuration() };
    let run = Run {
        first: Slot(10),
        last: Slot(12),
        ballot,
        origin: ballot,
        begins_lead: true,
        unknown: false,
    };
    let report = PromiseReport {
        epoch: None,
        chosen: slot,
        chosen_origin: ballot,
        trimmed: Slot(2),
        runs: vec![run],
        configurations: vec![at],
    };
    let accepted = Message::Accepted {
        ballot,
        held: slot,
        durable: slot,
        chosen: slot,
        applied: slot,
        checkpoint: slot,
        gap: false,
        epoch: None,
    };
    for message in [
        accepted,
        Message::Canvass { ballot, last: slot, configuration_slot: Slot(0) },
        Message::Promise { ballot, report: Box::new(report) },
        Message::Refused { ballot, promised: ballot, reason: Refusal::NotAMember { slot } },
        Message::Chosen { ballot, chosen: slot, last: slot, trim: slot, ask: true },
        Message::Trimmed { ballot, base: slot, configuration: Box::new(at) },
        Message::Relinquish { ballot, successor: Some(MemberId(3)) },
        Message::Reserve { ballot, next: ballot },
    ] {
        assert!(builder.push(route, &message));
    }
    let mut encoded = Vec::new();
    at.configuration.encode(&mut encoded);
    let entries: [(EntryKind, &[u8]); 3] = [
        (EntryKind::NoOp, &[]),
        (EntryKind::Data, b"an entry"),
        (EntryKind::Configuration, &encoded),
    ];
    let accept = Message::Accept { ballot, first: Slot(10), chosen: slot, trim: Slot(2) };
    let entry = |slot: Slot| {
        let (kind, bytes) = *entries.get(slot.0 as usize - 10)?;
        Some((kind, ballot, bytes))
    };
    builder.push_entries(route, &accept, Slot(12), usize::MAX, entry);
    builder.finish()
}

/// One message of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let snapshot_route = Route { group: GroupId(1), from: MemberId(2), to: MemberId(3) };
    let mut part = Vec::new();
    snapshot::push_entry(b"key", b"item", &mut part);
    snapshot::push_entry(b"key2", b"another", &mut part);
    let founder = [(MemberId(1), Peer(2), Az(3))];
    let configuration = Configuration::bootstrap(&founder, 3).expect("one member");
    let configuration = ConfigurationAt { slot: Slot(1), configuration };
    let digest = Digest(6);
    let head = SnapshotHead { slot: Slot(9), configuration, items: 2, bytes: 18, digest };
    macro_rules! add {
        ($($message:expr),* $(,)?) => {$({
            let mut out = SendBuf::new();
            frame::append_peer(&mut out, &$message);
            frames.push(out);
        })*};
    }
    let hello = identity(2).hello(&expected(1), 3);
    add!(
        hello,
        Welcome { hello, protocol: 1 },
        HelloRefused::of(HelloRefusal::WrongAz),
        KeepAlive { count: 1 },
        Heartbeat { incarnation: 1, sent_at: 2, claims: &[1, 2, 3] },
        Ack { incarnation: 1, echo: 2, epoch_incarnation: 3, epoch_count: 4 },
        Ask { about: 3 },
        Answer { about: 3, hears: true, claims: &[1] },
        SnapshotAsk { group: 1, from: 2, to: 3, transfer: 4, at_least: 5, part: 6, after: b"key" },
        SnapshotPart::new(snapshot_route, 4, &head, (0, true), &part, &mut Vec::new()),
        SnapshotNote { group: 1, from: 2, to: 3, transfer: 4, slot: 5, note: 1 },
    );
    let mut seeds: Vec<Vec<u8>> = frames
        .iter()
        .map(|bytes| {
            let frame = frame::split(bytes).ok().flatten().expect("a good frame");
            let place = PeerKind::ALL.iter().position(|kind| *kind as u16 == frame.kind);
            [&[place.expect("a known kind") as u8], frame.payload].concat()
        })
        .collect();
    let place = PeerKind::ALL.iter().position(|kind| *kind == PeerKind::GroupBatch);
    let place = place.expect("it is one") as u8;
    seeds.push([&[place], &batch()[..]].concat());
    seeds
}
