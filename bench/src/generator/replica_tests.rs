//! The generator against three simulated replicas whose leader dies, freezes and changes: nothing is
//! executed twice, what waited is counted with its wait, and only what is unknown is called so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};

use forebay_core::time::Nanos;
use forebay_net::machine::{CloseReason, ConnId, Effects, Machine, SendBuf};

use super::Settings;
use super::machine::Generator;
use super::record::{Cause, Interval, Recorder, Sample, Shared};
use super::schedule::{Pacing, Schedule};
use crate::target::{Codec, Outcome, ProtocolError, Request, Target};
use crate::workload::{LedgerKeys, Mixed, Part, Source, WorkloadName};

const ALONE: Part = Part { thread: 0, threads: 1 };
const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;
/// From a request's arrival to its answer.
const SERVICE_NANOS: u64 = MILLI / 10;
const PROBE: u64 = u64::MAX;

/// Three addresses of one partition.
struct Trio {
    addresses: [SocketAddr; 3],
    leading: AtomicU32,
}

impl Target for Trio {
    type Codec = TrioCodec;

    fn codec(&self) -> TrioCodec {
        TrioCodec { asked: false, greeted: false }
    }
    fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
    fn route(&self, _key: &[u8]) -> usize {
        self.leading.load(Ordering::Relaxed) as usize
    }
    fn replicas(&self) -> usize {
        3
    }
    fn lead(&self, _key: &[u8], from: usize, to: usize) {
        let (from, to) = (from as u32, to as u32);
        let _ = self.leading.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }
    fn facts(&self) -> &[(String, String)] {
        &[]
    }
}

/// A request is its correlation; a reply that and a byte: 0 done, 1 "not me", 2 + n "ask node n".
struct TrioCodec {
    asked: bool,
    greeted: bool,
}

impl Codec for TrioCodec {
    fn encode(&mut self, _request: Request<'_>, correlation: u64, out: &mut SendBuf) {
        assert!(self.greeted, "nothing is sent before the node has answered");
        out.extend_from_slice(&correlation.to_le_bytes());
    }
    fn decode(
        &mut self,
        bytes: &[u8],
        reply: &mut impl FnMut(u64, Outcome<'_>),
    ) -> Result<(), ProtocolError> {
        let correlation = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        match (correlation, bytes[8]) {
            (PROBE, _) => self.greeted = true,
            (correlation, 0) => reply(correlation, Outcome::Done),
            (correlation, 1) => reply(correlation, Outcome::Elsewhere(None)),
            (correlation, node) => reply(correlation, Outcome::Elsewhere(Some(address(node - 2)))),
        }
        Ok(())
    }
    fn speak(&mut self, out: &mut SendBuf) {
        if !std::mem::replace(&mut self.asked, true) {
            self.probe(out);
        }
    }
    fn is_ready(&self) -> bool {
        self.greeted
    }
    fn probe(&mut self, out: &mut SendBuf) {
        out.extend_from_slice(&PROBE.to_le_bytes());
    }
}

fn address(node: u8) -> SocketAddr {
    ([10, 0, 0, 1 + node], 4700).into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Up,
    Frozen,
    Dead,
}

/// What happens at a moment of the run.
#[derive(Clone, Copy, Debug)]
enum Event {
    Becomes(usize, Node),
    /// The node that leads, and the one that the others call the leader.
    Leads(Option<usize>, Option<usize>),
}

struct Sim {
    generator: Generator<Trio>,
    samples: Receiver<Sample>,
    now: Nanos,
    began: Option<Nanos>,
    nodes: [Node; 3],
    leads: Option<usize>,
    called: Option<usize>,
    events: Vec<(u64, Event)>,
    conns: BTreeMap<(u32, u32), usize>,
    replies: BTreeMap<(Nanos, u64), (ConnId, u64, u8)>,
    order: u64,
    executed: BTreeSet<u64>,
    redirected: u64,
}

impl Sim {
    fn new(settings: Settings, source: Source, leader: usize, events: &[(u64, Event)]) -> Sim {
        let (send, samples) = channel();
        let (_, recycled) = channel();
        let is_open = matches!(settings.pacing, Pacing::Open(_));
        let empty = Interval::new(|kind| source.has(kind), is_open);
        let trio = Trio { addresses: [address(0), address(1), address(2)], leading: 0.into() };
        let generator = Generator::new(
            Arc::new(trio),
            settings,
            Arc::new(Shared::new(1)),
            Recorder::new(0, empty, send, recycled),
            source,
            None,
        );
        Sim {
            generator,
            samples,
            now: Nanos(1_000_000),
            began: None,
            nodes: [Node::Up; 3],
            leads: Some(leader),
            called: Some(leader),
            events: events.to_vec(),
            conns: BTreeMap::new(),
            replies: BTreeMap::new(),
            order: 0,
            executed: BTreeSet::new(),
            redirected: 0,
        }
    }

    fn run(&mut self) -> Interval {
        let (mut fx, mut generation) = (Effects::default(), 0);
        for turn in 0.. {
            assert!(turn < 2_000_000, "the generator spins at {:?}", self.now);
            self.happen();
            self.deliver(&mut fx);
            self.generator.turn(self.now, &mut fx);
            for (token, at) in fx.connect.drain(..) {
                let node = (0..3).find(|node| address(*node) == at).unwrap() as usize;
                if self.nodes[node] == Node::Dead {
                    self.generator.connect_failed(token, 111, self.now);
                    continue;
                }
                generation += 1;
                let conn = ConnId { slot: token as u32, generation };
                self.conns.insert((conn.slot, conn.generation), node);
                self.generator.connected(conn, 0, Some(token), self.now);
                fx.wake_at = Some(self.now);
            }
            let mut sends = std::mem::take(&mut fx.send);
            for (conn, buf) in sends.drain(..) {
                self.arrive(conn, &buf);
                self.generator.sent(conn, buf, self.now);
            }
            fx.send = sends;
            for conn in fx.close.drain(..) {
                self.conns.remove(&(conn.slot, conn.generation));
                self.generator.closed(conn, CloseReason::Peer, self.now);
            }
            if fx.stop {
                break;
            }
            let wake = fx.wake_at.take().unwrap_or(Nanos(u64::MAX));
            let reply = self.replies.first_key_value().map_or(Nanos(u64::MAX), |(key, _)| key.0);
            let event = match (self.began, self.events.first()) {
                (Some(began), Some((at, _))) => began + *at,
                _ => Nanos(u64::MAX),
            };
            self.now = wake.min(reply).min(event).max(self.now);
            assert!(self.now.0 < 100 * SECOND, "the run never ends");
        }
        let mut total = Interval::nothing();
        self.samples.try_iter().for_each(|sample| total.add(&sample.interval));
        total
    }

    fn happen(&mut self) {
        while let (Some(began), Some((at, event))) = (self.began, self.events.first().copied())
            && self.now >= began + at
        {
            self.events.remove(0);
            match event {
                Event::Leads(leads, called) => (self.leads, self.called) = (leads, called),
                Event::Becomes(node, state) => {
                    self.nodes[node] = state;
                    if state != Node::Dead {
                        continue;
                    }
                    let lost: Vec<_> = self.conns.iter().filter(|(_, to)| **to == node).collect();
                    let lost: Vec<_> = lost.into_iter().map(|(conn, _)| *conn).collect();
                    for (slot, generation) in lost {
                        self.conns.remove(&(slot, generation));
                        let conn = ConnId { slot, generation };
                        self.generator.closed(conn, CloseReason::Peer, self.now);
                    }
                }
            }
        }
    }

    fn deliver(&mut self, fx: &mut Effects) {
        while let Some(entry) = self.replies.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            let (conn, correlation, answer) = entry.remove();
            let Some(node) = self.conns.get(&(conn.slot, conn.generation)) else { continue };
            if self.nodes[*node] == Node::Up {
                let mut bytes = correlation.to_le_bytes().to_vec();
                bytes.push(answer);
                self.generator.received(conn, &bytes, self.now, fx);
            }
        }
    }

    fn arrive(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(node) = self.conns.get(&(conn.slot, conn.generation)).copied() else { return };
        for correlation in bytes.chunks(8) {
            let correlation = u64::from_le_bytes(correlation.try_into().unwrap());
            let answer = match (self.nodes[node], correlation) {
                (Node::Up, PROBE) => 0,
                (Node::Up, _) if self.leads == Some(node) => {
                    self.began.get_or_insert(self.now);
                    assert!(self.executed.insert(correlation), "executed twice");
                    0
                }
                (Node::Up, _) => {
                    self.began.get_or_insert(self.now);
                    self.redirected += 1;
                    self.called.map_or(1, |called| 2 + called as u8)
                }
                _ => continue,
            };
            self.order += 1;
            self.replies
                .insert((self.now + SERVICE_NANOS, self.order), (conn, correlation, answer));
        }
    }
}

fn settings(lanes: u32, pacing: Pacing) -> Settings {
    Settings {
        lanes,
        depth: 1,
        pacing,
        phase_nanos: vec![3 * SECOND],
        warmup_phases: 0,
        interval_nanos: SECOND,
        timeout_nanos: 5 * SECOND,
        think_nanos: 0,
        reconnect: true,
        key_bytes: 24,
    }
}

fn open(rate: u64) -> Pacing {
    Pacing::Open(Schedule::steady(rate, ALONE))
}

fn puts() -> Source {
    let name = WorkloadName::Puts;
    Source::Mixed(Mixed::new(name.mix(), name.distribution(), 1000, 100, 1, ALONE))
}

fn errors(total: &Interval) -> Vec<(Cause, u64)> {
    let errors = total.counters.errors;
    Cause::ALL
        .into_iter()
        .map(|cause| (cause, errors[cause as usize]))
        .filter(|it| it.1 > 0)
        .collect()
}

fn longest_millis(total: &Interval) -> u64 {
    total.overall().max() / MILLI
}

#[test]
fn the_leader_is_found_by_one_answer_and_nothing_is_lost() {
    let mut sim = Sim::new(settings(8, open(1000)), puts(), 2, &[]);
    let total = sim.run();
    assert_eq!((total.successes(), errors(&total)), (3000, vec![]));
    assert!(sim.redirected <= 8, "{} redirected", sim.redirected);
    assert_eq!(longest_millis(&total), 0);
}

#[test]
fn a_leader_that_hands_over_leaves_no_error() {
    let events = [
        (SECOND, Event::Leads(None, None)),
        (SECOND + 20 * MILLI, Event::Leads(Some(1), Some(1))),
        (2 * SECOND, Event::Leads(Some(0), Some(0))),
    ];
    let total = Sim::new(settings(8, open(1000)), puts(), 2, &events).run();
    assert_eq!((total.successes(), errors(&total)), (3000, vec![]));
    assert!((20..60).contains(&longest_millis(&total)), "{} ms", longest_millis(&total));
}

/// The others call the dead node the leader for 100 ms, nobody for 200, and then elect one.
fn loses_its_leader(node: Node) -> [(u64, Event); 4] {
    [
        (SECOND, Event::Becomes(1, node)),
        (SECOND, Event::Leads(None, Some(1))),
        (SECOND + 100 * MILLI, Event::Leads(None, None)),
        (SECOND + 300 * MILLI, Event::Leads(Some(2), Some(2))),
    ]
}

#[test]
fn a_killed_leader_leaves_what_it_had_unknown_and_everything_else_waits_for_the_next() {
    let mut sim = Sim::new(settings(8, open(20_000)), puts(), 1, &loses_its_leader(Node::Dead));
    let total = sim.run();
    let lost = total.counters.errors[Cause::ConnectionLost as usize];
    assert!((1..=8).contains(&lost), "{lost}");
    assert_eq!(errors(&total), [(Cause::ConnectionLost, lost)]);
    assert_eq!(total.counters.unknown_writes, lost);
    assert_eq!(total.successes() + lost, 60_000);
    assert!((300..360).contains(&longest_millis(&total)), "{} ms", longest_millis(&total));
    assert!(sim.redirected < 1000, "{} redirected", sim.redirected);
}

#[test]
fn a_frozen_leader_is_given_up_when_it_gives_no_sign_of_life() {
    let mut sim = Sim::new(settings(8, open(20_000)), puts(), 1, &loses_its_leader(Node::Frozen));
    let total = sim.run();
    assert_eq!(errors(&total), [(Cause::ConnectionLost, 8)], "each lane's one operation");
    assert_eq!(total.counters.unknown_writes, 8);
    assert_eq!(total.successes() + 8, 60_000);
    assert!((290..450).contains(&longest_millis(&total)), "{} ms", longest_millis(&total));
}

#[test]
fn without_any_leader_operations_time_out_as_not_executed() {
    let short = Settings { timeout_nanos: 500 * MILLI, ..settings(4, open(1000)) };
    let events = [(SECOND, Event::Leads(None, None))];
    let source = Source::Ledger(LedgerKeys::new(64, 4, 0, 4, 1, 32, 1));
    let total = Sim::new(short, source, 0, &events).run();
    let [no_leader, timeouts, not_started] = [Cause::NoLeader, Cause::Timeout, Cause::NotStarted]
        .map(|cause| total.counters.errors[cause as usize]);
    assert!(no_leader >= 8 && not_started >= 1000, "{:?}", total.counters);
    // Those that were being asked of a node when their time was up: nobody can know.
    assert!(timeouts <= 4, "{timeouts}");
    assert_eq!(total.counters.unknown_writes, timeouts);
    assert_eq!(total.successes() + no_leader + timeouts + not_started, 3000);
}

#[test]
fn a_run_begins_without_a_node_that_is_down_and_uses_it_when_it_is_back() {
    let events =
        [(SECOND, Event::Becomes(0, Node::Up)), (2 * SECOND, Event::Leads(Some(0), Some(0)))];
    for down in [Node::Dead, Node::Frozen] {
        let mut sim = Sim::new(settings(8, Pacing::Closed), puts(), 1, &events);
        sim.nodes[0] = down;
        let total = sim.run();
        // A frozen node's connections are ready when it answers them at last, which the fake never
        // does for what arrived before; then the handshake's limit makes new ones, after this run.
        let expected: u64 = if down == Node::Dead { 200_000 } else { 140_000 };
        assert!(total.successes() > expected, "{} from {down:?}", total.successes());
        assert_eq!(errors(&total), [], "{down:?}");
    }
}
