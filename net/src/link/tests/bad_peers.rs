//! A peer that breaks a rule is told or closed, counted by name, and harms nobody else.

use forebay_core::ids::{Ballot, GroupId};
use forebay_core::message::peer::{
    Authentication, Hello, HelloRefusal, HelloRefused, KeepAlive, PeerKind,
};
use forebay_core::paxos::MemberId;

use super::super::*;
use super::world::{MILLI, Rng, Shell, World, identity, info, node_id};
use crate::frame;

/// Says nothing, and hears nothing that was not meant for it.
#[derive(Default)]
struct Quiet {
    heard: u64,
}

impl Sink for Quiet {
    fn pair(&mut self, _: Peer, _: &PairMessage) {
        self.heard += 1;
    }

    fn table(&mut self, _: Peer, _: StepKind, _: TableId, _: &[u8]) {}

    fn member(&mut self, _: Peer, _: forebay_core::message::peer::MemberStep) {}

    fn snapshot(&mut self, _: Peer, _: Route, _: u64, _: SnapshotMessage<'_>) {}

    fn group(&mut self, _: Peer, _: &GroupMessage<'_>) {
        self.heard += 1;
    }
}

impl Shell for Quiet {
    fn turn(&mut self, _: &mut Links, now: Nanos, _: bool, _: u64) -> Nanos {
        now + 100 * MILLI
    }
}

/// Two that are linked, and a third that they know of and that never came.
fn world() -> World<Quiet> {
    let mut world = World::new(1, vec![Quiet::default(), Quiet::default(), Quiet::default()]);
    world.crash(2, true);
    world.run_for(100 * MILLI);
    assert!(world.nodes[0].links.is_up(Peer(1)));
    world
}

/// The good two are as they were.
fn check_unharmed(world: &World<Quiet>) {
    for node in 0..2 {
        let status = world.nodes[node].links.status(Peer(1 - node as u32)).unwrap();
        assert!(status.up_since.is_some() && status.established == 1);
        assert_eq!(world.nodes[node].shell.heard, 0);
    }
    assert_eq!(world.nodes[0].links.strangers, 0);
}

fn hello() -> Hello {
    identity(2, 7).hello(&info(0).expected, 1)
}

fn bytes_of(hello: &Hello) -> SendBuf {
    let mut bytes = SendBuf::new();
    frame::append_peer(&mut bytes, hello);
    bytes
}

fn refusal_in(bytes: &[u8]) -> Option<HelloRefusal> {
    let mut aligned = SendBuf::new();
    aligned.extend_from_slice(bytes);
    let frame = frame::split(&aligned).unwrap()?;
    match decode(frame.kind, frame.message_version, frame.payload).unwrap() {
        PeerFrame::Refused(reason) => Some(reason),
        _ => None,
    }
}

/// Sends `bytes` to node 0 as a stranger; what it answered, and whether it closed.
fn say(world: &mut World<Quiet>, bytes: &[u8]) -> (Vec<u8>, bool) {
    let wire = world.connect_stranger(0);
    world.stranger_sends(wire, bytes);
    world.run_for(20 * MILLI);
    world.stranger_heard(wire)
}

fn counted(world: &World<Quiet>, name: &str) -> u64 {
    let mut refusals = world.nodes[0].links.counters().refusals();
    refusals.find(|(found, _)| *found == name).expect("a known name").1
}

#[test]
fn a_wrong_greeting_is_refused_by_name_and_counted() {
    use HelloRefusal as R;
    let good = hello();
    let cases = [
        (Hello { cluster_id: [1; 16], ..good }, R::WrongCluster),
        (Hello { node_id: node_id(5), ..good }, R::UnknownNode),
        (Hello { from: 9, ..good }, R::UnknownNode),
        (Hello { to_node_id: node_id(1), ..good }, R::WrongShard),
        (Hello { protocol_oldest: 5, protocol_newest: 6, ..good }, R::VersionTooNew),
        (Hello { az: 7, ..good }, R::WrongAz),
        (
            Hello { authentication: Authentication::Certificate as u8, ..good },
            R::WrongAuthentication,
        ),
    ];
    let mut world = world();
    for (hello, reason) in cases {
        let before = counted(&world, reason.name());
        let (answer, closed) = say(&mut world, &bytes_of(&hello));
        assert_eq!(refusal_in(&answer), Some(reason));
        assert!(closed);
        assert_eq!(counted(&world, reason.name()), before + 1);
    }
    check_unharmed(&world);
    // And the good one is welcome.
    let (answer, closed) = say(&mut world, &bytes_of(&good));
    assert!(!closed && refusal_in(&answer).is_none() && !answer.is_empty());
    assert!(world.nodes[0].links.is_up(Peer(2)));
}

#[test]
fn relics_are_refused_and_newer_greetings_replace() {
    let mut world = world();
    let first = world.connect_stranger(0);
    world.stranger_sends(first, &bytes_of(&Hello { dial: 4, ..hello() }));
    world.run_for(20 * MILLI);
    for (relic, reason) in [
        (Hello { dial: 4, ..hello() }, HelloRefusal::Superseded),
        (Hello { dial: 3, ..hello() }, HelloRefusal::Superseded),
        (Hello { dial: 9, incarnation: 6, ..hello() }, HelloRefusal::OldIncarnation),
    ] {
        let (answer, closed) = say(&mut world, &bytes_of(&relic));
        assert_eq!((refusal_in(&answer), closed), (Some(reason), true));
    }
    assert!(!world.stranger_heard(first).1);
    let (_, closed) = say(&mut world, &bytes_of(&Hello { dial: 5, ..hello() }));
    assert!(!closed && world.stranger_heard(first).1, "the newer dial is in use");
    let (_, closed) = say(&mut world, &bytes_of(&Hello { dial: 1, incarnation: 8, ..hello() }));
    assert!(!closed, "so is a restarted peer's");
    assert_eq!(world.nodes[0].links.counters().replaced, 2);
    assert_eq!(world.nodes[0].links.status(Peer(2)).unwrap().incarnation, 8);
}

#[test]
fn broken_frames_of_strangers_are_counted_by_name() {
    let mut world = world();
    let good = bytes_of(&hello());
    let mut flipped = good.clone();
    flipped[40] ^= 1;
    let mut version = good.clone();
    version[8] = 9;
    let mut long = SendBuf::new();
    frame::append_peer(&mut long, &Heartbeat { incarnation: 1, sent_at: 1, claims: &[0; 300] });
    let mut client = SendBuf::new();
    let request = forebay_core::message::DescribeNodeRequest { protocol_version: 1 };
    frame::append(&mut client, 1, &request);
    let mut early = SendBuf::new();
    frame::append_peer(&mut early, &KeepAlive { count: 0 });
    let cases: [(&[u8], &str); 7] = [
        (&flipped, "checksum"),
        (&version, "version"),
        (b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n", "length"),
        (&u32::MAX.to_le_bytes(), "length"),
        (&long, "length"),
        (&client, "kind"),
        (&early, "out_of_place"),
    ];
    for (bytes, name) in cases {
        let before = counted(&world, name);
        let (_, closed) = say(&mut world, bytes);
        assert!(closed, "{name}");
        assert_eq!(counted(&world, name), before + 1, "{name}");
        let pending: usize =
            world.nodes[0].links.conns.iter().flatten().map(|c| c.inbox.pending_bytes()).sum();
        assert_eq!(pending, 0);
    }
    check_unharmed(&world);
}

#[test]
fn a_peer_that_greeted_and_then_breaks_a_rule_loses_only_its_own_connection() {
    let batch = |message: &Message| {
        let mut outbox = Outbox::default();
        let route = Route { group: GroupId(1), from: MemberId(1), to: MemberId(2) };
        assert!(outbox.push(route, message, &LinkSettings::DEFAULT));
        outbox.next().unwrap().buffer
    };
    let mut unknown = SendBuf::new();
    frame::begin(&mut unknown);
    frame::seal(&mut unknown, 0, 0x4fff, 1, 0);
    let mut newer = SendBuf::new();
    frame::begin(&mut newer);
    frame::seal(&mut newer, 0, PeerKind::KeepAlive as u16, 2, 0);
    let mut empty = SendBuf::new();
    frame::begin(&mut empty);
    frame::seal(&mut empty, 0, PeerKind::GroupBatch as u16, 1, 0);
    let mut refused = SendBuf::new();
    frame::append_peer(&mut refused, &HelloRefused::of(HelloRefusal::Crossing));
    let cases = [
        (batch(&Message::CanvassAnswer { ballot: Ballot(u64::MAX) }), "ballot"),
        (batch(&Message::Fetch { ballot: Ballot(1), first: Slot(9), last: Slot(3) }), "slot"),
        (unknown, "kind"),
        (newer, "message_version"),
        (empty, "archive"),
        (refused, "out_of_place"),
        (bytes_of(&hello()), "out_of_place"),
    ];
    let mut world = world();
    for (dial, (bytes, name)) in (10..).zip(cases) {
        let before = counted(&world, name);
        let wire = world.connect_stranger(0);
        world.stranger_sends(wire, &bytes_of(&Hello { dial, ..hello() }));
        world.stranger_sends(wire, &bytes);
        world.run_for(20 * MILLI);
        assert!(world.stranger_heard(wire).1, "{name}");
        assert_eq!(counted(&world, name), before + 1, "{name}");
        assert!(!world.nodes[0].links.is_up(Peer(2)));
    }
    check_unharmed(&world);
}

#[test]
fn strangers_that_say_nothing_are_few_and_leave() {
    let mut world = world();
    let max = LinkSettings::DEFAULT.strangers_max;
    let wires: Vec<usize> = (0..2 * max).map(|_| world.connect_stranger(0)).collect();
    world.run_for(10 * MILLI);
    assert_eq!(world.nodes[0].links.strangers, max);
    assert_eq!(world.nodes[0].links.counters().strangers_evicted, max as u64);
    assert!(world.stranger_heard(wires[0]).1 && !world.stranger_heard(wires[max]).1);
    // Half a greeting does not help.
    for wire in &wires[max..] {
        world.stranger_sends(*wire, &bytes_of(&hello())[..50]);
    }
    world.run_for(1100 * MILLI);
    assert_eq!(world.nodes[0].links.counters().greetings_timed_out, max as u64);
    assert!(wires.iter().all(|wire| world.stranger_heard(*wire).1));
    check_unharmed(&world);
}

#[test]
fn garbage_of_any_kind_never_panics_and_harms_nobody() {
    let mut world = world();
    let mut rng = Rng(9);
    let good = bytes_of(&hello());
    for round in 0..300 {
        let mut bytes = good.to_vec();
        for _ in 0..1 + rng.below(4) {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] = rng.next() as u8;
        }
        // Checksums made right, so that what is behind them is reached.
        if round % 2 == 0 {
            let mut sealed = SendBuf::new();
            sealed.extend_from_slice(&bytes[..HEADER_BYTES]);
            sealed.extend_from_slice(&bytes[HEADER_BYTES..]);
            let kind = PeerKind::ALL[rng.below(9) as usize];
            frame::seal(&mut sealed, 0, kind as u16, 1, 0);
            bytes = sealed.to_vec();
        }
        let (_, closed) = say(&mut world, &bytes);
        // It may have been a good greeting in spite of it all; then it is silent soon.
        assert!(closed || world.nodes[0].links.is_up(Peer(2)) || bytes.len() < 200);
    }
    world.run_for(2000 * MILLI);
    check_unharmed(&world);
}

#[test]
fn a_dialer_refused_for_good_tries_seldom() {
    // Node 1 believes in another cluster.
    let mut world = world();
    let mut me = identity(1, 2);
    me.cluster_id = [3; 16];
    world.crash(1, true);
    world.restart(1);
    let mut links = Links::new(me, LinkSettings::DEFAULT);
    links.set_peer(info(0), Nanos(world.now));
    world.nodes[1].links = links;
    world.run_for(10_000 * MILLI);
    let counters = world.nodes[1].links.counters();
    let reason = HelloRefusal::WrongCluster.index();
    assert!((10..30).contains(&counters.refused_by_peers[reason]), "{counters:?}");
    assert_eq!(counters.established, 0);
    assert!(counted(&world, "wrong_cluster") >= counters.refused_by_peers[reason]);
}

#[test]
fn a_wrong_length_makes_nobody_deaf_to_a_peer_that_goes_on_speaking() {
    let mut keep_alive = SendBuf::new();
    frame::append_peer(&mut keep_alive, &KeepAlive { count: 1 });
    let mut longer = keep_alive.clone();
    // The bit of a megabyte: a length that a frame may have, and that keep-alives fill in hours.
    longer[2] ^= 0x10;
    let frame_millis = LinkSettings::DEFAULT.frame_nanos_max / MILLI;
    let mut world = world();
    let wire = world.connect_stranger(0);
    world.stranger_sends(wire, &bytes_of(&hello()));
    // One that is only slow is no worse for it: a byte at a time, and each frame in time.
    let slow = frame_millis / keep_alive.len() as u64 * 8 / 10;
    for byte in keep_alive.iter().chain(keep_alive.iter()) {
        world.stranger_sends(wire, std::slice::from_ref(byte));
        world.run_for(slow * MILLI);
    }
    assert!(world.nodes[0].links.is_up(Peer(2)));
    world.stranger_sends(wire, &longer);
    for _ in 0..frame_millis / 100 + 1 {
        world.stranger_sends(wire, &keep_alive);
        world.run_for(100 * MILLI);
    }
    assert!(!world.nodes[0].links.is_up(Peer(2)), "what it says was not heard for long");
    assert!(world.stranger_heard(wire).1);
    assert_eq!(counted(&world, "unfinished"), 1);
    check_unharmed(&world);
}
