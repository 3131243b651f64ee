//! Whatever the network does to two links: messages arrive whole, in order and once on each
//! connection, and both sides end up with the same one connection.

use forebay_core::ids::{Ballot, GroupId};
use forebay_core::paxos::MemberId;
use proptest::prelude::*;

use super::super::*;
use super::world::{MILLI, Rng, Shell, World};

/// Sends numbered messages and writes down what arrives.
#[derive(Default)]
struct Talker {
    sends: bool,
    sends_at: Nanos,
    number: u64,
    wire: usize,
    /// The wire, the sender's number, and how many entries came with it.
    heard: Vec<(usize, u64, u64)>,
    queued: u64,
}

fn entry_of(number: u64, slot: Slot) -> Vec<u8> {
    let mut rng = Rng(number ^ slot.0 << 32);
    let bytes = if rng.chance(5) { 30_000 } else { rng.below(200) };
    (0..bytes).map(|_| rng.next() as u8).collect()
}

fn route(number: u64) -> Route {
    Route { group: GroupId(number), from: MemberId(1), to: MemberId(2) }
}

impl Sink for Talker {
    fn pair(&mut self, _: Peer, message: &PairMessage) {
        assert!(matches!(message, PairMessage::Ask { about: Peer(77) }));
    }

    fn table(&mut self, _: Peer, _: StepKind, _: TableId, _: &[u8]) {}

    fn member(&mut self, _: Peer, _: forebay_core::message::peer::MemberStep) {}

    fn snapshot(&mut self, _: Peer, _: Route, _: u64, _: SnapshotMessage<'_>) {}

    fn group(&mut self, _: Peer, message: &GroupMessage<'_>) {
        let number = message.route.group.0;
        assert_eq!(message.route, route(number));
        let mut entries = 0;
        for entry in message.entries.clone() {
            assert_eq!(entry.bytes, entry_of(number, entry.slot), "whole and unchanged");
            entries += 1;
        }
        self.heard.push((self.wire, number, entries));
    }
}

impl Shell for Talker {
    fn receives_over(&mut self, wire: usize, _: Nanos) {
        self.wire = wire;
    }

    fn turn(&mut self, links: &mut Links, now: Nanos, _: bool, random: u64) -> Nanos {
        if !self.sends {
            return now + 100 * MILLI;
        }
        if now < self.sends_at {
            return self.sends_at;
        }
        self.sends_at = now + 3 * MILLI;
        let to = if links.status(Peer(0)).is_some() { Peer(0) } else { Peer(1) };
        for turn in 0..random % 4 {
            self.number += 1;
            let number = self.number;
            let ballot = Ballot(1 << 20 | 1);
            if random >> turn & 8 == 0 {
                let message = Message::CanvassAnswer { ballot };
                self.queued += u64::from(links.send(to, route(number), &message));
            } else {
                let message =
                    Message::Accept { ballot, first: Slot(5), chosen: Slot(4), trim: Slot(0) };
                let last = Slot(5 + random % 7);
                let entries: Vec<_> =
                    (5..=last.0).map(|slot| entry_of(number, Slot(slot))).collect();
                let queued = links.send_entries(to, route(number), &message, last, |slot| {
                    Some((EntryKind::Data, ballot, &entries[slot.0 as usize - 5][..]))
                });
                self.queued += u64::from(queued > 0);
            }
            if number.is_multiple_of(13) {
                links.send_pair(to, &PairMessage::Ask { about: Peer(77) });
            }
        }
        self.sends_at
    }
}

fn two(seed: u64) -> World<Talker> {
    let talker = || Talker { sends: true, ..Talker::default() };
    World::new(seed, vec![talker(), talker()])
}

/// Some trouble, as the seed will have it.
fn disturb(world: &mut World<Talker>) {
    match world.rng.below(9) {
        0 => world.delay_nanos = [100_000, 5 * MILLI, 80 * MILLI][world.rng.below(3) as usize],
        1 => world.blocked = vec![(0, 1)],
        2 => world.blocked = vec![(1, 0), (0, 1)],
        3 => world.blocked.clear(),
        4 => world.dials_fail_percent = world.rng.below(90),
        5 | 6 => {
            let open = world.wires_between(0, 1);
            if !open.is_empty() {
                let wire = open[world.rng.below(open.len() as u64) as usize];
                world.reset(wire);
            }
        }
        7 => {
            let node = world.rng.below(2) as usize;
            let pause = world.rng.below(3000 * MILLI);
            world.nodes[node].paused_until = world.now + pause;
        }
        _ => {
            let (node, told) = (world.rng.below(2) as usize, world.rng.chance(50));
            world.crash(node, told);
            world.run_for(100 * MILLI);
            world.restart(node);
        }
    }
}

/// On each connection the numbers rise; a number that comes twice was one range cut in two, on the
/// same connection.
fn check_order(world: &World<Talker>) {
    for node in &world.nodes {
        let mut last = std::collections::BTreeMap::new();
        for (wire, number, entries) in &node.shell.heard {
            let before = last.insert(*wire, (*number, *entries));
            if let Some((number_before, entries_before)) = before {
                let split = number_before == *number && entries_before > 0;
                assert!(number_before < *number || split, "in order on wire {wire}");
            }
        }
        let mut firsts = std::collections::BTreeMap::new();
        for (wire, number, _) in &node.shell.heard {
            assert_eq!(firsts.entry(number).or_insert(wire), &wire, "on one connection only");
        }
    }
}

fn check_one_connection(world: &World<Talker>) {
    assert!(world.nodes[0].links.is_up(Peer(1)) && world.nodes[1].links.is_up(Peer(0)));
    let open = world.wires_between(0, 1);
    assert_eq!(open.len(), 1, "one connection");
    for (node, end) in world.wires[open[0]].ends.iter().flatten().copied() {
        let links = &world.nodes[node].links;
        let link = &links.links[0];
        assert_eq!(link.established, Some(end), "the same one on both sides");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn messages_come_whole_in_order_and_once_and_one_connection_remains(seed: u64) {
        let mut world = two(seed);
        for _ in 0..12 {
            disturb(&mut world);
            let nanos = world.rng.below(600 * MILLI);
            world.run_for(nanos);
            check_order(&world);
        }
        world.heal();
        world.run_for(6000 * MILLI);
        check_order(&world);
        check_one_connection(&world);
        // From here on, nothing is lost.
        let heard: Vec<usize> = world.nodes.iter().map(|node| node.shell.heard.len()).collect();
        world.run_for(500 * MILLI);
        for node in &mut world.nodes {
            node.shell.sends = false;
        }
        world.run_for(3000 * MILLI);
        check_one_connection(&world);
        for (node, heard) in heard.into_iter().enumerate() {
            let (shell, other) = (&world.nodes[node].shell, &world.nodes[1 - node].shell);
            prop_assert!(shell.heard.len() > heard + 10);
            prop_assert_eq!(shell.heard.last().map(|heard| heard.1), Some(other.number));
        }
    }
}

#[test]
fn undisturbed_links_open_one_connection_and_lose_nothing() {
    for seed in 0..20 {
        let mut world = two(seed);
        world.run_for(100 * MILLI);
        check_one_connection(&world);
        world.run_for(900 * MILLI);
        for node in &mut world.nodes {
            node.shell.sends = false;
        }
        world.run_for(100 * MILLI);
        for node in 0..2 {
            let (shell, other) = (&world.nodes[node].shell, &world.nodes[1 - node].shell);
            let mut numbers: Vec<u64> = shell.heard.iter().map(|heard| heard.1).collect();
            numbers.dedup();
            assert_eq!(numbers.len() as u64, other.queued);
            let counters = world.nodes[node].links.counters();
            assert_eq!((counters.reconnects, counters.dropped_lost, counters.silent), (0, 0, 0));
        }
    }
}

#[test]
fn simultaneous_dials_leave_the_lower_peers_connection() {
    // Both dial at once because both have just lost the connection; many seeds cross.
    let mut crossings = 0;
    for seed in 0..30 {
        let mut world = two(seed);
        world.run_for(200 * MILLI);
        for _ in 0..5 {
            let open = world.wires_between(0, 1);
            world.reset(open[0]);
            world.run_for(800 * MILLI);
            check_one_connection(&world);
        }
        let refused = |node: usize| {
            world.nodes[node].links.counters().refused
                [forebay_core::message::peer::HelloRefusal::Crossing.index()]
        };
        crossings += refused(0);
        assert_eq!(refused(1), 0, "only the lower one refuses a crossing");
    }
    assert!(crossings > 0, "the seeds cross at least once");
}

#[test]
fn a_silent_peer_is_noticed_and_a_living_one_is_not() {
    let mut world = two(3);
    world.nodes.iter_mut().for_each(|node| node.shell.sends = false);
    world.run_for(20_000 * MILLI);
    // Nothing was said for long but keep-alives.
    check_one_connection(&world);
    assert_eq!(world.nodes[0].links.counters().silent, 0);
    world.crash(1, false);
    world.run_for(1500 * MILLI);
    assert!(!world.nodes[0].links.is_up(Peer(1)));
    assert_eq!(world.nodes[0].links.counters().silent, 1);
    world.restart(1);
    world.run_for(1500 * MILLI);
    check_one_connection(&world);
}

#[test]
fn a_pause_shorter_than_the_peers_patience_ends_no_connection() {
    let mut world = two(5);
    world.run_for(300 * MILLI);
    world.nodes[0].paused_until = world.now + 900 * MILLI;
    world.run_for(2000 * MILLI);
    check_one_connection(&world);
    let counters = world.nodes.each_counters();
    assert!(counters.iter().all(|counters| counters.silent == 0 && counters.reconnects == 0));
    assert_eq!(world.nodes[0].links.pauses(), 1);
}

trait EachCounters {
    fn each_counters(&self) -> Vec<LinkCounters>;
}

impl EachCounters for Vec<super::world::Node<Talker>> {
    fn each_counters(&self) -> Vec<LinkCounters> {
        self.iter().map(|node| node.links.counters().clone()).collect()
    }
}

#[test]
fn a_peer_that_reads_nothing_costs_a_bounded_queue_and_hears_of_life_first() {
    let mut world = two(7);
    world.run_for(200 * MILLI);
    world.nodes.iter_mut().for_each(|node| node.shell.sends = false);
    world.run_for(200 * MILLI);
    world.blocked = vec![(0, 1)];
    let settings = LinkSettings::DEFAULT;
    let entry = vec![5; 100_000];
    let message = Message::Accept {
        ballot: Ballot(1 << 20 | 1),
        first: Slot(5),
        chosen: Slot(4),
        trim: Slot(0),
    };
    let links = &mut world.nodes[0].links;
    for number in 0..200 {
        let entries = |_| Some((EntryKind::Data, Ballot(1 << 20 | 1), &entry[..]));
        links.send_entries(Peer(1), route(number + 1_000_000), &message, Slot(9), entries);
        let status = links.status(Peer(1)).unwrap();
        assert!(status.queued_bytes <= settings.data_bytes_max + 300_000);
    }
    assert!(links.counters().dropped_full > 0 && links.counters().ranges_cut > 0);
    assert_eq!(links.room_bytes(Peer(1)), 0);
    // Messages without entries still find room, up to their own limit.
    let small = Message::CanvassAnswer { ballot: Ballot(1 << 20 | 1) };
    let mut taken = 0;
    while links.send(Peer(1), route(2_000_000 + taken), &small) {
        taken += 1;
    }
    assert!(taken > 10_000);
    let queued = links.status(Peer(1)).unwrap().queued_bytes;
    assert!(queued <= settings.queue_bytes_max + 300_000);
    // Liveness is in the next buffer, before all that.
    links.send_pair(Peer(1), &PairMessage::Ask { about: Peer(77) });
    let mut fx = Effects::default();
    links.flush(Nanos(world.now), &mut fx);
    assert!(fx.send[0].1.len() < 200);
}
