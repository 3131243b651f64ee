//! Thousands of groups speak at once: a turn takes a part of it, and liveness does not wait for the rest.

use forebay_core::ids::{Ballot, GroupId};
use forebay_core::paxos::MemberId;

use super::super::*;
use super::world::{MILLI, Shell, World};

const CROWD: u64 = 5000;
const ASK: PairMessage = PairMessage::Ask { about: Peer(77) };

/// Counts what it hears.
#[derive(Default)]
struct Listener {
    groups: Vec<u64>,
    pairs: usize,
}

impl Sink for Listener {
    fn pair(&mut self, _: Peer, message: &PairMessage) {
        self.pairs += usize::from(*message == ASK);
    }

    fn group(&mut self, _: Peer, message: &GroupMessage<'_>) {
        self.groups.push(message.route.group.0);
    }

    fn table(&mut self, _: Peer, _: StepKind, _: TableId, _: &[u8]) {}

    fn member(&mut self, _: Peer, _: MemberStep) {}

    fn snapshot(&mut self, _: Peer, _: Route, _: u64, _: SnapshotMessage<'_>) {}
}

impl Shell for Listener {
    fn turn(&mut self, _: &mut Links, now: Nanos, _: bool, _: u64) -> Nanos {
        now + 100 * MILLI
    }
}

/// Everything that the links have to send, and on which connection.
fn drain(links: &mut Links, now: Nanos) -> (ConnId, Vec<u8>) {
    let (mut conn, mut bytes) = (None, Vec::new());
    loop {
        let mut fx = Effects::default();
        links.flush(now, &mut fx);
        let Some((on, buffer)) = fx.send.pop() else {
            return (conn.expect("there was something"), bytes);
        };
        bytes.extend_from_slice(&buffer);
        links.sent(on, buffer);
        conn = Some(on);
    }
}

/// What node 1 calls a connection of node 0.
fn far_end(world: &World<Listener>, conn: ConnId) -> ConnId {
    let wire = world.wires.iter().find(|wire| wire.ends[0..2].contains(&Some((0, conn))));
    let ends = wire.expect("it is in use").ends;
    ends.into_iter().flatten().find(|(node, _)| *node == 1).expect("two ends").1
}

#[test]
fn a_turn_takes_a_part_of_what_thousands_of_groups_say_and_all_of_what_liveness_says() {
    let mut world = World::new(1, vec![Listener::default(), Listener::default()]);
    world.run_for(1000 * MILLI);
    let now = Nanos(world.now);
    let talker = &mut world.nodes[0].links;
    drop(talker.take_events());
    for number in 0..CROWD {
        let route = Route { group: GroupId(number), from: MemberId(1), to: MemberId(2) };
        let message = Message::CanvassAnswer { ballot: Ballot(1 << 20 | 1) };
        assert!(talker.send(Peer(1), route, &message));
    }
    let (conn, mut bytes) = drain(talker, now);
    talker.send_pair(Peer(1), &ASK);
    bytes.extend(drain(talker, now).1);
    let there = far_end(&world, conn);

    let (links, mut heard) = (&mut world.nodes[1].links, Listener::default());
    let most = LinkSettings::DEFAULT.turn_messages_max;
    links.received(there, &bytes, now, &mut heard);
    assert_eq!(heard.pairs, 1, "liveness overtakes what waits");
    assert_eq!(heard.groups.len(), most);
    let mut turns = 1;
    while links.take_waiting(now, &mut heard) {
        links.flush(now, &mut Effects::default());
        turns += 1;
        assert!(heard.groups.len() <= turns * most, "turn {turns}: {}", heard.groups.len());
    }
    assert_eq!(turns, CROWD as usize / most + 1);
    assert!(heard.groups.into_iter().eq(0..CROWD), "all, once, and in order");
}

#[test]
fn what_waits_ends_with_its_connection() {
    let mut world = World::new(2, vec![Listener::default(), Listener::default()]);
    world.run_for(1000 * MILLI);
    let now = Nanos(world.now);
    let talker = &mut world.nodes[0].links;
    for number in 0..CROWD {
        let route = Route { group: GroupId(number), from: MemberId(1), to: MemberId(2) };
        talker.send(Peer(1), route, &Message::CanvassAnswer { ballot: Ballot(1 << 20 | 1) });
    }
    let (conn, bytes) = drain(talker, now);
    let there = far_end(&world, conn);
    let (links, mut heard) = (&mut world.nodes[1].links, Listener::default());
    links.received(there, &bytes, now, &mut heard);
    let before = heard.groups.len();
    links.closed(there, CloseReason::Peer, now);
    links.flush(now, &mut Effects::default());
    assert!(!links.take_waiting(now, &mut heard));
    assert_eq!(heard.groups.len(), before);
}
