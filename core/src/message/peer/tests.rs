//! Peers' messages come back as they were sent, their bytes never change, and broken ones have a
//! name.

use proptest::prelude::*;
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;

use super::*;
use crate::digest::Digest;
use crate::ids::{Ballot, GroupId, Slot};
use crate::liveness::{Epoch, PairMessage, Peer};
use crate::paxos::{
    Az, Configuration, ConfigurationAt, EntryKind, MemberId, MemberNumber, Message, PromiseReport,
    Refusal, Run,
};
use crate::time::Nanos;

type Owned = (Route, Message, Vec<(EntryKind, Vec<u8>)>);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn identity() -> Identity {
    Identity {
        cluster_id: [1; 16],
        node_id: [2; 16],
        peer: 3,
        shard: 4,
        az: 5,
        incarnation: 6,
        authentication: Authentication::Certificate,
    }
}

fn other() -> Identity {
    Identity { node_id: [12; 16], peer: 13, shard: 14, az: 15, incarnation: 16, ..identity() }
}

fn expected(of: &Identity) -> Expected {
    Expected { node_id: of.node_id, peer: of.peer, shard: of.shard, az: of.az }
}

fn configuration() -> Configuration {
    let member = |n: u16| (MemberId(n.into()), Peer(n.into()), Az(n));
    Configuration::bootstrap(&[member(1), member(2), member(3)], 3).unwrap()
}

fn ballot(round: u64, number: u32) -> Ballot {
    Ballot::of(round, MemberNumber(number))
}

/// Of the entry in a slot.
fn origin(slot: Slot) -> Ballot {
    ballot(1 + slot.0 % 5, 3)
}

fn route(group: u64) -> Route {
    Route { group: GroupId(group), from: MemberId(0xf0), to: MemberId(0x70) }
}

macro_rules! bytes_of {
    ($message:expr) => {
        rkyv::api::high::to_bytes_in::<_, Failure>($message, AlignedVec::<16>::new()).unwrap()
    };
}

fn read(kind: PeerKind, payload: &[u8]) -> Result<PeerFrame<'_>, PeerError> {
    decode(kind as u16, kind.version(), payload)
}

fn batch(messages: &[Owned]) -> AlignedVec<16> {
    let mut builder = BatchBuilder::default();
    builder.begin(AlignedVec::new());
    for (route, message, entries) in messages {
        let Some(first) = first_of(message) else {
            assert!(builder.push(*route, message));
            continue;
        };
        let entry = |slot: Slot| {
            let entry = entries.get((slot.0 - first.0) as usize)?;
            Some((entry.0, origin(slot), &entry.1[..]))
        };
        let last = Slot(first.0 + entries.len() as u64 - 1);
        let pushed = builder.push_entries(*route, message, last, usize::MAX, entry);
        assert_eq!(pushed, Pushed { entries: entries.len() as u32, full: false });
    }
    builder.finish()
}

fn first_of(message: &Message) -> Option<Slot> {
    match message {
        Message::Accept { first, .. } | Message::Fetched { first, .. } => Some(*first),
        _ => None,
    }
}

fn unpack(reader: BatchReader<'_>) -> Vec<Owned> {
    let messages = reader.iter().map(|message| {
        let first = first_of(&message.message).unwrap_or_default();
        let entries = message.entries.enumerate().map(|(index, entry)| {
            assert_eq!(entry.slot.0, first.0 + index as u64);
            assert_eq!(entry.configuration().is_some(), entry.kind == EntryKind::Configuration);
            (entry.kind, entry.bytes.to_vec())
        });
        (message.route, message.message, entries.collect())
    });
    messages.collect()
}

fn accept(entries: &[&[u8]]) -> Owned {
    let message =
        Message::Accept { ballot: ballot(7, 2), first: Slot(11), chosen: Slot(10), trim: Slot(3) };
    let entries = entries.iter().map(|bytes| (EntryKind::Data, bytes.to_vec()));
    (route(5), message, entries.collect())
}

fn accepted() -> Message {
    Message::Accepted {
        ballot: ballot(7, 2),
        held: Slot(11),
        durable: Slot(10),
        chosen: Slot(9),
        applied: Slot(8),
        checkpoint: Slot(7),
        gap: true,
        epoch: Some(Epoch { incarnation: 6, count: 5 }),
    }
}

#[test]
fn golden_bytes_of_the_handshake() {
    let hello = identity().hello(&expected(&other()), 9);
    let golden = concat!(
        "01010101010101010101010101010101", // cluster_id
        "02020202020202020202020202020202", // node_id
        "0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c", // to_node_id
        "0600000000000000",                 // incarnation
        "0900000000000000",                 // dial
        "03000000",                         // from
        "0d000000",                         // to
        "0400",                             // shard
        "0500",                             // az
        "0100",                             // protocol_oldest
        "0100",                             // protocol_newest
        "01",                               // authentication
        "00000000000000",                   // padding
    );
    assert_eq!(hex(&bytes_of!(&hello)), golden);
    let welcome = Welcome { hello, protocol: 1 };
    assert_eq!(hex(&bytes_of!(&welcome)), format!("{golden}{}", "0100000000000000"));
    let refused = HelloRefused::of(HelloRefusal::Crossing);
    assert_eq!(hex(&bytes_of!(&refused)), "0b0001000100");
}

#[test]
fn golden_bytes_of_liveness() {
    assert_eq!(hex(&bytes_of!(&KeepAlive { count: 3 })), "0300000000000000");
    let heartbeat = Heartbeat { incarnation: 1, sent_at: 2, claims: &[3, 4] };
    assert_eq!(
        hex(&bytes_of!(&heartbeat)),
        concat!(
            "0300000004000000", // claims
            "0100000000000000", // incarnation
            "0200000000000000", // sent_at
            "e8ffffff",         // relative pointer: 24 back
            "02000000",         // length
        )
    );
    let ack = Ack { incarnation: 1, echo: 2, epoch_incarnation: 3, epoch_count: 4 };
    assert_eq!(
        hex(&bytes_of!(&ack)),
        concat!("0100000000000000", "0200000000000000", "0300000000000000", "0400000000000000")
    );
    assert_eq!(hex(&bytes_of!(&Ask { about: 7 })), "07000000");
    let answer = Answer { about: 7, hears: true, claims: &[9] };
    assert_eq!(
        hex(&bytes_of!(&answer)),
        concat!("09000000", "07000000", "01000000", "f4ffffff", "01000000")
    );
}

#[test]
fn golden_bytes_of_a_batch() {
    let bytes = batch(&[accept(&[b"entry one", b""]), (route(6), accepted(), Vec::new())]);
    assert_eq!(hex(&bytes), GOLDEN_BATCH);
}

const GOLDEN_BATCH: &str = concat!(
    "656e747279206f6e6500000000000000", // the first entry's bytes, padded to 8; the second has none
    "0300200000000000",                 // first entry: origin
    "0900000001000000",                 // length, kind
    "0300300000000000",                 // second entry: origin
    "0000000001000000",                 // length, kind
    "0500000000000000",                 // Accept: group
    "f000000000000000",                 // from
    "7000000000000000",                 // to
    "0200000000000000",                 // entries
    "0700000000000000",                 // variant 7
    "0200700000000000",                 // ballot
    "0b00000000000000",                 // first
    "0a00000000000000",                 // chosen
    "0300000000000000",                 // trim
    "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000", // room for longer variants
    "0600000000000000", // Accepted: group
    "f000000000000000", // from
    "7000000000000000", // to
    "0000000000000000", // entries
    "0900000000000000", // variant 9
    "0200700000000000", // ballot
    "0b00000000000000", // held
    "0a00000000000000", // durable
    "0900000000000000", // chosen
    "0800000000000000", // applied
    "0700000000000000", // checkpoint
    "0100000000000000", // gap
    "0100000000000000", // an epoch follows
    "0600000000000000", // its incarnation
    "0500000000000000", // its count
    "e0feffff10000000", // root: entries' bytes, 288 back, 16
    "e8feffff02000000", // entries, 280 back, 2
    "00ffffff02000000", // messages, 256 back, 2
);

#[test]
fn every_message_has_the_variant_number_of_the_wire() {
    let configuration = ConfigurationAt { slot: Slot(1), configuration: configuration() };
    let (ballot, first, slot) = (ballot(1, 1), Slot(1), Slot(1));
    let report = PromiseReport {
        epoch: None,
        chosen: slot,
        chosen_origin: ballot,
        trimmed: slot,
        runs: Vec::new(),
        configurations: Vec::new(),
    };
    let in_order = [
        Message::Canvass { ballot, last: slot, configuration_slot: slot },
        Message::CanvassAnswer { ballot },
        Message::Prepare { ballot, last: slot, configuration_slot: slot },
        Message::Promise { ballot, report: Box::new(report) },
        Message::Refused { ballot, promised: ballot, reason: Refusal::Promised },
        Message::Fetch { ballot, first, last: slot },
        Message::Fetched { ballot, first },
        Message::Accept { ballot, first, chosen: slot, trim: slot },
        Message::Chosen { ballot, chosen: slot, last: slot, trim: slot, ask: true },
        accepted(),
        Message::Trimmed { ballot, base: slot, configuration: Box::new(configuration) },
        Message::Relinquish { ballot, successor: None },
        Message::Reserve { ballot, next: ballot },
    ];
    for (number, message) in in_order.into_iter().enumerate() {
        let entries = first_of(&message).map(|_| (EntryKind::NoOp, Vec::new()));
        let bytes = batch(&[(route(1), message, entries.into_iter().collect())]);
        // The only record ends where the root begins; its body begins 32 bytes into it.
        let record = bytes.len() - 24 - size_of::<super::group::ArchivedRecord>();
        assert_eq!(usize::from(bytes[record + 32]), number);
    }
}

fn snapshot_head() -> SnapshotHead {
    let configuration = ConfigurationAt { slot: Slot(0x11), configuration: configuration() };
    let digest = Digest(0x0809_0a0b_0c0d_0e0f_0001_0203_0405_0607);
    SnapshotHead { slot: Slot(0x22), configuration, items: 2, bytes: 13, digest }
}

fn snapshot_entries() -> Vec<u8> {
    let mut entries = Vec::new();
    snapshot::push_entry(b"ab", b"item", &mut entries);
    snapshot::push_entry(b"abc", b"last", &mut entries);
    entries
}

#[test]
fn golden_bytes_of_snapshots() {
    assert_eq!(hex(&snapshot_entries()), "02000400000061626974656d0300040000006162636c617374");
    let ask =
        SnapshotAsk { group: 1, from: 2, to: 3, transfer: 4, at_least: 5, part: 6, after: b"key" };
    let golden = concat!(
        "6b65790000000000", // after
        "0100000000000000", // group
        "0200000000000000", // from
        "0300000000000000", // to
        "0400000000000000", // transfer
        "0500000000000000", // at_least
        "06000000",         // part
        "ccffffff03000000", // after: place and length
        "00000000",
    );
    assert_eq!(hex(&bytes_of!(&ask)), golden);
    let note = SnapshotNote { group: 1, from: 2, to: 3, transfer: 4, slot: 5, note: 6 };
    let golden = concat!(
        "0100000000000000", // group
        "0200000000000000", // from
        "0300000000000000", // to
        "0400000000000000", // transfer
        "0500000000000000", // slot
        "0600000000000000", // note
    );
    assert_eq!(hex(&bytes_of!(&note)), golden);
    let (entries, mut configuration) = (snapshot_entries(), Vec::new());
    let part =
        SnapshotPart::new(route(5), 4, &snapshot_head(), (7, true), &entries, &mut configuration);
    let golden = concat!(
        "1100000000000000",                                 // configuration: its slot
        "0103000004000000",                                 // version, members, next number
        "010000000000000001000000010000000100000000000000", // member 1
        "020000000000000002000000020000000200000000000000", // member 2
        "030000000000000003000000030000000300000000000000", // member 3
        "02000400000061626974656d",                         // an entry
        "0300040000006162636c617374",                       // another
        "00000000000000",
        "0500000000000000", // group
        "f000000000000000", // from
        "7000000000000000", // to
        "0400000000000000", // transfer
        "2200000000000000", // slot
        "0200000000000000", // items
        "0d00000000000000", // bytes
        "0706050403020100", // digest_low
        "0f0e0d0c0b0a0908", // digest_high
        "07000000",         // part
        "01000000",         // last
        "38ffffff58000000", // configuration: place and length
        "88ffffff19000000", // entries: place and length
    );
    assert_eq!(hex(&bytes_of!(&part)), golden);
}

#[test]
fn snapshots_come_back_as_they_were_sent_and_bad_ones_have_a_name() {
    let ask = |from, after| SnapshotAsk {
        group: 5,
        from,
        to: 0x70,
        transfer: 4,
        at_least: 5,
        part: 6,
        after,
    };
    let bytes = bytes_of!(&ask(0xf0, b"key"));
    let Ok(PeerFrame::Snapshot(of, 4, message)) = read(PeerKind::SnapshotAsk, &bytes) else {
        panic!()
    };
    assert_eq!(of, route(5));
    assert_eq!(message, SnapshotMessage::Ask { at_least: Slot(5), part: 6, after: b"key" });
    let name = |kind, bytes: &[u8]| read(kind, bytes).unwrap_err().name();
    let long = [0; crate::limits::ENCODED_KEY_BYTES_MAX + 1];
    assert_eq!(name(PeerKind::SnapshotAsk, &bytes_of!(&ask(0xf0, &long))), "too_many");
    assert_eq!(name(PeerKind::SnapshotAsk, &bytes_of!(&ask(0x70, b""))), "member");

    let (entries, mut buffer) = (snapshot_entries(), Vec::new());
    let head = snapshot_head();
    let part = SnapshotPart::new(route(5), 4, &head, (7, true), &entries, &mut buffer);
    let bytes = bytes_of!(&part);
    let Ok(PeerFrame::Snapshot(of, 4, message)) = read(PeerKind::SnapshotPart, &bytes) else {
        panic!()
    };
    assert_eq!(of, route(5));
    assert_eq!(message, SnapshotMessage::Part { head, part: 7, last: true, entries: &entries });
    let both: Vec<_> = snapshot::entries(&entries).collect();
    assert_eq!(both, [(&b"ab"[..], &b"item"[..]), (b"abc", b"last")]);
    for cut in [1, 5, 7, entries.len() - 1] {
        let part = SnapshotPart::new(route(5), 4, &head, (7, true), &entries[..cut], &mut buffer);
        assert_eq!(name(PeerKind::SnapshotPart, &bytes_of!(&part)), "entry_bytes");
    }
    // In force after the snapshot's slot, it is of an earlier one.
    let early = SnapshotHead { slot: Slot(0x10), ..head };
    let part = SnapshotPart::new(route(5), 4, &early, (7, true), &entries, &mut buffer);
    assert_eq!(name(PeerKind::SnapshotPart, &bytes_of!(&part)), "configuration");

    let note =
        |note, slot| SnapshotNote { group: 5, from: 0xf0, to: 0x70, transfer: 4, slot, note };
    for kind in NoteKind::ALL {
        let bytes = bytes_of!(&note(kind as u8, 9));
        let Ok(PeerFrame::Snapshot(_, 4, message)) = read(PeerKind::SnapshotNote, &bytes) else {
            panic!()
        };
        assert_eq!(message, SnapshotMessage::Note { note: kind, slot: Slot(9) });
    }
    assert_eq!(name(PeerKind::SnapshotNote, &bytes_of!(&note(7, 9))), "number");
    assert_eq!(name(PeerKind::SnapshotNote, &bytes_of!(&note(1, u64::MAX))), "slot");
}

fn any_slot() -> impl Strategy<Value = Slot> {
    prop_oneof![0..50_u64, 0..=SLOT_MAX].prop_map(Slot)
}

fn any_first() -> impl Strategy<Value = Slot> {
    (1..SLOT_MAX / 2).prop_map(Slot)
}

fn any_ballot() -> impl Strategy<Value = Ballot> {
    (0..=ROUND_MAX, 1..=MemberNumber::MAX.0).prop_map(|(round, number)| ballot(round, number))
}

fn any_epoch() -> impl Strategy<Value = Option<Epoch>> {
    let epoch = (any::<u64>(), any::<u32>());
    prop::option::of(epoch.prop_map(|(incarnation, count)| Epoch { incarnation, count }))
}

fn any_configuration() -> impl Strategy<Value = Configuration> {
    (prop::collection::btree_set(1..u64::MAX, 1..=7), any::<u32>()).prop_map(|(ids, peer)| {
        let member =
            |(n, id): (usize, u64)| (MemberId(id), Peer(peer.wrapping_add(n as u32)), Az(n as u16));
        let members: Vec<_> = ids.into_iter().enumerate().map(member).collect();
        Configuration::bootstrap(&members, 3).unwrap()
    })
}

fn any_report() -> impl Strategy<Value = PromiseReport> {
    let run = (1..9_u64, 0..9_u64, any_ballot(), any::<bool>());
    let at = (1..9_u64, any_configuration());
    let runs = prop::collection::vec(run, 0..5);
    let configurations = prop::collection::vec(at, 0..4);
    (any_epoch(), any_first(), any_slot(), runs, configurations).prop_map(
        |(epoch, chosen, trimmed, runs, configurations)| {
            let mut end = chosen.0;
            let runs = runs.into_iter().map(|(gap, more, ballot, unknown)| {
                let first = Slot(end + gap);
                end = first.0 + more;
                let (last, begins_lead) = (Slot(end), gap % 2 == 0);
                Run { first, last, ballot, origin: ballot, begins_lead, unknown }
            });
            let runs: Vec<Run> = runs.collect();
            let mut slot = 0;
            let configurations = configurations.into_iter().map(|(gap, configuration)| {
                slot += gap;
                ConfigurationAt { slot: Slot(slot), configuration }
            });
            let configurations = configurations.collect();
            let chosen_origin = runs.first().map_or(Ballot(0), |run| run.ballot);
            PromiseReport { epoch, chosen, chosen_origin, trimmed, runs, configurations }
        },
    )
}

fn any_refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        Just(Refusal::Promised),
        Just(Refusal::Supporting),
        any_slot().prop_map(|slot| Refusal::NotAMember { slot }),
        Just(Refusal::Unconfigured),
        any_slot().prop_map(|trimmed| Refusal::TooFarBehind { trimmed }),
    ]
}

fn any_message() -> impl Strategy<Value = Message> {
    let slots = || (any_slot(), any_slot(), any_slot(), any_slot(), any_slot());
    prop_oneof![
        (any_ballot(), any_slot(), any_slot()).prop_map(|(ballot, last, configuration_slot)| {
            Message::Canvass { ballot, last, configuration_slot }
        }),
        any_ballot().prop_map(|ballot| Message::CanvassAnswer { ballot }),
        (any_ballot(), any_slot(), any_slot()).prop_map(|(ballot, last, configuration_slot)| {
            Message::Prepare { ballot, last, configuration_slot }
        }),
        (any_ballot(), any_report())
            .prop_map(|(ballot, report)| Message::Promise { ballot, report: Box::new(report) }),
        (any_ballot(), prop::option::of(any_ballot()), any_refusal()).prop_map(
            |(ballot, promised, reason)| {
                Message::Refused { ballot, promised: promised.unwrap_or_default(), reason }
            }
        ),
        (any_ballot(), any_first(), 0..99_u64).prop_map(|(ballot, first, more)| {
            Message::Fetch { ballot, first, last: Slot(first.0 + more) }
        }),
        (any_ballot(), any_first()).prop_map(|(ballot, first)| Message::Fetched { ballot, first }),
        (any_ballot(), any_first(), any_slot(), any_slot()).prop_map(
            |(ballot, first, chosen, trim)| Message::Accept { ballot, first, chosen, trim }
        ),
        (any_ballot(), any_slot(), any_slot(), any_slot(), any::<bool>()).prop_map(
            |(ballot, chosen, last, trim, ask)| Message::Chosen { ballot, chosen, last, trim, ask }
        ),
        (any_ballot(), slots(), any::<bool>(), any_epoch()).prop_map(
            |(ballot, (held, durable, chosen, applied, checkpoint), gap, epoch)| {
                Message::Accepted { ballot, held, durable, chosen, applied, checkpoint, gap, epoch }
            }
        ),
        (any_ballot(), any_slot(), any_slot(), any_configuration()).prop_map(
            |(ballot, base, slot, configuration)| {
                let configuration = Box::new(ConfigurationAt { slot, configuration });
                Message::Trimmed { ballot, base, configuration }
            }
        ),
        (any_ballot(), prop::option::of(any::<u64>())).prop_map(|(ballot, successor)| {
            Message::Relinquish { ballot, successor: successor.map(MemberId) }
        }),
        (any_ballot(), any_ballot()).prop_map(|(ballot, next)| Message::Reserve { ballot, next }),
    ]
}

fn any_entry() -> impl Strategy<Value = (EntryKind, Vec<u8>)> {
    prop_oneof![
        Just((EntryKind::NoOp, Vec::new())),
        prop::collection::vec(any::<u8>(), 0..60).prop_map(|bytes| (EntryKind::Data, bytes)),
        any_configuration().prop_map(|configuration| {
            let mut bytes = Vec::new();
            configuration.encode(&mut bytes);
            (EntryKind::Configuration, bytes)
        }),
    ]
}

fn any_owned() -> impl Strategy<Value = Owned> {
    let entries = prop::collection::vec(any_entry(), 1..5);
    (any::<u64>(), 1..u64::MAX, any_message(), entries).prop_map(
        |(group, from, message, entries)| {
            let route =
                Route { group: GroupId(group), from: MemberId(from), to: MemberId(from + 1) };
            let entries = if first_of(&message).is_some() { entries } else { Vec::new() };
            (route, message, entries)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_batch_comes_back_as_it_was_sent(messages in prop::collection::vec(any_owned(), 1..8)) {
        let bytes = batch(&messages);
        let PeerFrame::Groups(reader) = read(PeerKind::GroupBatch, &bytes).unwrap() else {
            panic!("a batch")
        };
        prop_assert_eq!(reader.messages(), messages.len());
        for entry in reader.iter().flat_map(|message| message.entries) {
            prop_assert_eq!(entry.origin, origin(entry.slot));
        }
        prop_assert_eq!(unpack(reader), messages);
    }

    #[test]
    fn liveness_comes_back_as_it_was_sent(
        a: u64, b: u64, c: u64, d: u32, hears: bool,
        claims in prop::collection::vec(any::<u32>(), 0..20),
    ) {
        let peers: Vec<Peer> = claims.iter().map(|claim| Peer(*claim)).collect();
        let bytes = bytes_of!(&Heartbeat { incarnation: a, sent_at: b, claims: &claims });
        let Ok(PeerFrame::Pair(message)) = read(PeerKind::Heartbeat, &bytes) else { panic!() };
        let sent_at = Nanos(b);
        prop_assert_eq!(
            message,
            PairMessage::Heartbeat { incarnation: a, sent_at, claims: peers.clone() }
        );
        let ack = Ack { incarnation: a, echo: b, epoch_incarnation: c, epoch_count: d };
        let bytes = bytes_of!(&ack);
        let Ok(PeerFrame::Pair(message)) = read(PeerKind::Ack, &bytes) else { panic!() };
        let epoch = Epoch { incarnation: c, count: d };
        prop_assert_eq!(message, PairMessage::Ack { incarnation: a, echo: Nanos(b), epoch });
        let bytes = bytes_of!(&Ask { about: d });
        let Ok(PeerFrame::Pair(message)) = read(PeerKind::Ask, &bytes) else { panic!() };
        prop_assert_eq!(message, PairMessage::Ask { about: Peer(d) });
        let bytes = bytes_of!(&Answer { about: d, hears, claims: &claims });
        let Ok(PeerFrame::Pair(message)) = read(PeerKind::Answer, &bytes) else { panic!() };
        prop_assert_eq!(message, PairMessage::Answer { about: Peer(d), hears, claims: peers });
    }

    #[test]
    fn changed_bytes_are_refused_or_read_but_never_panic(
        messages in prop::collection::vec(any_owned(), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = batch(&messages);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        for payload in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            for kind in PeerKind::ALL {
                match read(kind, payload) {
                    Ok(PeerFrame::Groups(reader)) => {
                        let messages = unpack(reader);
                        prop_assert!(messages.iter().map(|m| m.2.len()).sum::<usize>() <= payload.len());
                    }
                    Ok(_) => {}
                    Err(error) => prop_assert!(!error.name().is_empty()),
                }
            }
        }
    }
}

fn name_of(messages: &[Owned]) -> &'static str {
    read(PeerKind::GroupBatch, &batch(messages)).unwrap_err().name()
}

#[test]
fn what_no_correct_member_says_is_refused_by_name() {
    let alone = |message| vec![(route(1), message, Vec::new())];
    let to_itself = Route { to: route(1).from, ..route(1) };
    assert_eq!(name_of(&[(to_itself, accepted(), Vec::new())]), "member");
    let nobody = Route { from: MemberId(0), ..route(1) };
    assert_eq!(name_of(&[(nobody, accepted(), Vec::new())]), "member");

    let good = ballot(1, 1);
    for bad in [Ballot(0), Ballot::of(1, MemberNumber(0)), Ballot(u64::MAX)] {
        assert_eq!(name_of(&alone(Message::CanvassAnswer { ballot: bad })), "ballot");
    }
    // A round at the end of its field would leave no ballot above it.
    let promised = Ballot(u64::MAX - 1);
    let refused = Message::Refused { ballot: good, promised, reason: Refusal::Promised };
    assert_eq!(name_of(&alone(refused)), "ballot");

    let far = Slot(SLOT_MAX + 1);
    let (last, trim) = (Slot(1), Slot(0));
    let chosen = Message::Chosen { ballot: good, chosen: far, last, trim, ask: false };
    assert_eq!(name_of(&alone(chosen)), "slot");
    let fetch = Message::Fetch { ballot: good, first: Slot(3), last: Slot(2) };
    assert_eq!(name_of(&alone(fetch)), "slot");
    let accept =
        Message::Accept { ballot: good, first: Slot(SLOT_MAX), chosen: Slot(0), trim: Slot(0) };
    let no_op = (EntryKind::NoOp, Vec::new());
    assert_eq!(name_of(&[(route(1), accept, vec![no_op.clone(), no_op])]), "slot");

    let run = |first, last| Run {
        first: Slot(first),
        last: Slot(last),
        ballot: good,
        origin: good,
        begins_lead: false,
        unknown: false,
    };
    let promise = |runs, configurations| {
        let (chosen, chosen_origin, trimmed) = (Slot(4), good, Slot(0));
        let report =
            PromiseReport { epoch: None, chosen, chosen_origin, trimmed, runs, configurations };
        alone(Message::Promise { ballot: good, report: Box::new(report) })
    };
    assert_eq!(name_of(&promise(vec![run(4, 9)], Vec::new())), "slot");
    assert_eq!(name_of(&promise(vec![run(5, 9), run(9, 9)], Vec::new())), "slot");
    let at = ConfigurationAt { slot: Slot(2), configuration: configuration() };
    assert_eq!(name_of(&promise(Vec::new(), vec![at, at])), "slot");

    let garbage = (EntryKind::Configuration, vec![1, 2, 3]);
    let fetched = Message::Fetched { ballot: good, first: Slot(1) };
    assert_eq!(name_of(&[(route(1), fetched.clone(), vec![garbage])]), "configuration");
    let loud = (EntryKind::NoOp, vec![1]);
    assert_eq!(name_of(&[(route(1), fetched, vec![loud])]), "too_many");
}

#[test]
fn unknown_kinds_versions_and_greetings_are_refused_by_name() {
    let hello = identity().hello(&expected(&other()), 1);
    let bytes = bytes_of!(&hello);
    let name = |kind, version| decode(kind, version, &bytes).unwrap_err().name();
    assert_eq!(name(1, 1), "kind");
    assert_eq!(name(PeerKind::Hello as u16, 2), "message_version");
    assert_eq!(name(PeerKind::Welcome as u16, 1), "archive");
    let bad = [
        (Hello { protocol_oldest: 2, ..hello }, "hello"),
        (Hello { to: hello.from, ..hello }, "hello"),
        (Hello { authentication: 9, ..hello }, "number"),
    ];
    for (hello, expected) in bad {
        assert_eq!(read(PeerKind::Hello, &bytes_of!(&hello)).unwrap_err().name(), expected);
    }
    let refused = HelloRefused { reason: 99, ..HelloRefused::of(HelloRefusal::WrongAz) };
    assert_eq!(read(PeerKind::HelloRefused, &bytes_of!(&refused)).unwrap_err().name(), "number");
    let mut long = AlignedVec::<16>::new();
    long.extend_from_slice(&[0; HANDSHAKE_FRAME_BYTES_MAX + 1]);
    assert_eq!(read(PeerKind::Hello, &long).unwrap_err().name(), "too_many");
}

#[test]
fn a_greeting_must_agree_with_the_system_group_in_every_word() {
    use HelloRefusal as R;
    let (me, greeter) = (identity(), other());
    let hello = greeter.hello(&expected(&me), 1);
    let known = expected(&greeter);
    let judge = |hello: Hello| me.judge(&hello, Some(&known), Some(&greeter.node_id));
    assert_eq!(judge(hello), Ok(PEER_PROTOCOL_NEWEST));
    assert_eq!(judge(Hello { protocol_newest: 9, ..hello }), Ok(PEER_PROTOCOL_NEWEST));
    let cases = [
        (Hello { cluster_id: [9; 16], ..hello }, R::WrongCluster),
        (Hello { node_id: [9; 16], ..hello }, R::WrongCertificate),
        (Hello { from: 99, ..hello }, R::UnknownNode),
        (Hello { shard: 99, ..hello }, R::UnknownNode),
        (Hello { to: 99, ..hello }, R::WrongShard),
        (Hello { to_node_id: [9; 16], ..hello }, R::WrongShard),
        (Hello { az: 99, ..hello }, R::WrongAz),
        (Hello { protocol_oldest: 8, protocol_newest: 9, ..hello }, R::VersionTooNew),
        (Hello { protocol_oldest: 0, protocol_newest: 0, ..hello }, R::VersionTooOld),
        (Hello { authentication: 0, ..hello }, R::WrongAuthentication),
    ];
    for (hello, refusal) in cases {
        assert_eq!(judge(hello), Err(refusal));
    }
    assert_eq!(me.judge(&hello, None, Some(&greeter.node_id)), Err(R::UnknownNode));
    assert_eq!(me.judge(&hello, Some(&known), None), Err(R::WrongAuthentication));
    let dev = Identity { authentication: Authentication::Dev, ..me };
    let hello = Hello { authentication: 0, ..hello };
    assert!(dev.judge(&hello, Some(&known), None).is_ok());
    for (index, refusal) in HelloRefusal::ALL.iter().enumerate() {
        assert_eq!(refusal.index(), index);
        assert_eq!(HelloRefusal::from_wire(*refusal as u16), Some(*refusal));
    }
}

#[test]
fn a_range_too_long_for_a_batch_goes_on_in_the_next() {
    let payload = vec![7; 10_000];
    let mut builder = BatchBuilder::default();
    let mut message = accept(&[b"x"]).1;
    let (mut slot, last) = (Slot(11), Slot(111));
    let mut found = Vec::new();
    while slot <= last {
        if let Message::Accept { first, .. } = &mut message {
            *first = slot;
        }
        builder.begin(AlignedVec::new());
        let entry = |_| Some((EntryKind::Data, ballot(1, 1), &payload[..]));
        let pushed = builder.push_entries(route(1), &message, last, usize::MAX, entry);
        assert!(
            pushed.entries > 0 && pushed.full == (slot.0 + u64::from(pushed.entries) <= last.0)
        );
        slot = Slot(slot.0 + u64::from(pushed.entries));
        let bytes = builder.finish();
        assert!(bytes.len() < BATCH_BYTES + payload.len() + 4096);
        let reader = BatchReader::validate(&bytes).unwrap();
        found.extend(reader.iter().flat_map(|message| message.entries.map(|entry| entry.slot)));
    }
    assert!(found.iter().map(|slot| slot.0).eq(11..=111));
}

#[test]
fn a_budget_cuts_a_range_but_lets_one_entry_pass() {
    let payload = vec![7; 1000];
    let entry = |_| Some((EntryKind::Data, ballot(1, 1), &payload[..]));
    let mut builder = BatchBuilder::default();
    builder.begin(AlignedVec::new());
    let message = accept(&[b"x"]).1;
    let pushed = builder.push_entries(route(1), &message, Slot(30), 2500, entry);
    assert_eq!(pushed, Pushed { entries: 3, full: false });
    let pushed = builder.push_entries(route(1), &message, Slot(30), 0, entry);
    assert_eq!(pushed, Pushed { entries: 1, full: false });
    // What is damaged here, or not at hand, ends the range; without an entry there is no message.
    let unknown = |_| Some((EntryKind::Unknown, ballot(1, 1), &payload[..]));
    let pushed = builder.push_entries(route(1), &message, Slot(30), 9999, unknown);
    assert_eq!((pushed.entries, builder.messages()), (0, 2));
}
