//! A simulated network of shells: byte pipes, dials, clocks of one time. One seed, one history.
//!
//! A pipe keeps the order of its bytes and hands them out in pieces of any length. A blocked
//! direction delays them (as TCP does) and lets no dial through; a reset loses what is under way.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use forebay_core::message::peer::{Authentication, Expected, Identity};

use super::super::*;

pub(super) const MILLI: u64 = Nanos::PER_MILLI;
/// What a pipe takes before it makes its sender wait.
const SOCKET_BYTES: usize = 64 * 1024;

/// Splitmix64.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

pub(super) fn node_id(node: usize) -> [u8; 16] {
    [node as u8 + 1; 16]
}

pub(super) fn identity(node: usize, incarnation: u64) -> Identity {
    Identity {
        cluster_id: [9; 16],
        node_id: node_id(node),
        peer: node as u32,
        shard: 0,
        az: node as u16,
        incarnation,
        authentication: Authentication::Dev,
    }
}

pub(super) fn info(node: usize) -> PeerInfo {
    let me = identity(node, 1);
    let (node_id, peer, shard, az) = (me.node_id, me.peer, me.shard, me.az);
    let address = SocketAddr::from(([127, 0, 0, 1], 1000 + node as u16));
    PeerInfo { expected: Expected { node_id, peer, shard, az }, address }
}

/// What a node does besides keeping its links.
pub(super) trait Shell: Sink {
    /// The next bytes come over this wire.
    fn receives_over(&mut self, _wire: usize, _now: Nanos) {}
    /// Steps 2 and 3 of a turn, without the links' own tick; when it is due again.
    fn turn(&mut self, links: &mut Links, now: Nanos, judges: bool, random: u64) -> Nanos;
}

enum Item {
    Bytes(Vec<u8>),
    Fin,
}

#[derive(Default)]
pub(super) struct Wire {
    pub(super) ends: [Option<(usize, ConnId)>; 2],
    /// Towards each end.
    queues: [VecDeque<Item>; 2],
    bytes: [usize; 2],
    /// Nobody is at the first end: what goes there stays to be looked at.
    stranger: bool,
}

enum What {
    Dial { node: usize, start: u64, token: u64, to: usize, since: u64 },
    Deliver { wire: usize, side: usize },
    Sent { node: usize, conn: ConnId },
    Turn { node: usize },
    Reset { wire: usize },
}

struct Event {
    at: u64,
    order: u64,
    what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Event) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

pub(super) struct Node<S> {
    pub(super) links: Links,
    pub(super) shell: S,
    pub(super) up: bool,
    pub(super) paused_until: u64,
    start: u64,
    turn_at: Option<u64>,
    next_slot: u32,
    free: Vec<ConnId>,
    conns: BTreeMap<ConnId, (usize, usize)>,
    flying: BTreeMap<ConnId, SendBuf>,
}

pub(super) struct World<S> {
    pub(super) now: u64,
    pub(super) rng: Rng,
    pub(super) nodes: Vec<Node<S>>,
    pub(super) wires: Vec<Wire>,
    /// Directions that nothing passes.
    pub(super) blocked: Vec<(usize, usize)>,
    pub(super) delay_nanos: u64,
    /// Of a dial; of a wire in each hundred deliveries.
    pub(super) dials_fail_percent: u64,
    heap: BinaryHeap<Reverse<Event>>,
    order: u64,
}

impl<S: Shell> World<S> {
    pub(super) fn new(seed: u64, shells: Vec<S>) -> World<S> {
        let count = shells.len();
        let mut world = World {
            now: 1000 * MILLI,
            rng: Rng(seed),
            nodes: Vec::new(),
            wires: Vec::new(),
            blocked: Vec::new(),
            delay_nanos: 200_000,
            dials_fail_percent: 0,
            heap: BinaryHeap::new(),
            order: 0,
        };
        for (node, shell) in shells.into_iter().enumerate() {
            world.nodes.push(Node {
                links: links(node, count, 1, world.now),
                shell,
                up: true,
                paused_until: 0,
                start: 1,
                turn_at: None,
                next_slot: 0,
                free: Vec::new(),
                conns: BTreeMap::new(),
                flying: BTreeMap::new(),
            });
            world.turn_soon(node);
        }
        world
    }

    fn at(&mut self, at: u64, what: What) {
        self.order += 1;
        self.heap.push(Reverse(Event { at, order: self.order, what }));
    }

    fn delay(&mut self) -> u64 {
        let most = self.delay_nanos;
        self.now + 10_000 + self.rng.below(most)
    }

    fn turn_at(&mut self, node: usize, at: u64) {
        if self.nodes[node].turn_at.is_none_or(|known| at < known) {
            self.nodes[node].turn_at = Some(at);
            self.at(at, What::Turn { node });
        }
    }

    fn turn_soon(&mut self, node: usize) {
        let at = self.now + self.rng.below(20_000);
        self.turn_at(node, at);
    }

    pub(super) fn run_for(&mut self, nanos: u64) {
        let until = self.now + nanos;
        while self.heap.peek().is_some_and(|Reverse(event)| event.at <= until) {
            let Reverse(event) = self.heap.pop().expect("it was peeked at");
            self.now = event.at;
            self.happen(event);
        }
        self.now = until;
    }

    fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked.contains(&(from, to))
    }

    /// The node that an event would reach, if it is one that can wait.
    fn reached(&self, what: &What) -> Option<usize> {
        match what {
            What::Deliver { wire, side } => self.wires[*wire].ends[*side].map(|(node, _)| node),
            What::Sent { node, .. } | What::Turn { node } => Some(*node),
            _ => None,
        }
    }

    fn happen(&mut self, event: Event) {
        // A process that is stopped finds everything later, in the same order.
        if let Some(node) = self.reached(&event.what)
            && self.nodes[node].paused_until > self.now
        {
            let at = self.nodes[node].paused_until;
            return self.heap.push(Reverse(Event { at, ..event }));
        }
        match event.what {
            What::Dial { node, start, token, to, since } => {
                self.dial(node, start, token, to, since);
            }
            What::Deliver { wire, side } => self.deliver(wire, side),
            What::Sent { node, conn } => self.sent(node, conn),
            What::Turn { node } => {
                if self.nodes[node].turn_at.is_some_and(|at| at <= self.now) {
                    self.nodes[node].turn_at = None;
                    self.turn(node);
                }
            }
            What::Reset { wire } => self.reset(wire),
        }
    }

    fn dial(&mut self, node: usize, start: u64, token: u64, to: usize, since: u64) {
        if self.nodes[node].start != start || !self.nodes[node].up {
            return;
        }
        let pass = !self.is_blocked(node, to) && !self.is_blocked(to, node) && self.nodes[to].up;
        if !pass && self.nodes[to].up && self.now < since + 3000 * MILLI {
            // Packets vanish; the dialer's system tries again.
            let at = self.now + 50 * MILLI;
            return self.at(at, What::Dial { node, start, token, to, since });
        }
        if !pass || self.rng.chance(self.dials_fail_percent) {
            let now = Nanos(self.now);
            self.nodes[node].links.connect_failed(token, now);
            return self.turn_soon(node);
        }
        let wire = self.wires.len();
        self.wires.push(Wire::default());
        self.open(wire, 0, node, Some(token));
        self.open(wire, 1, to, None);
    }

    /// A wire's end at a node.
    fn open(&mut self, wire: usize, side: usize, node: usize, token: Option<u64>) {
        let now = Nanos(self.now);
        let found = &mut self.nodes[node];
        let conn = found.free.pop().unwrap_or_else(|| {
            found.next_slot += 1;
            ConnId { slot: found.next_slot - 1, generation: 0 }
        });
        found.conns.insert(conn, (wire, side));
        found.links.connected(conn, token, None, now);
        self.wires[wire].ends[side] = Some((node, conn));
        self.turn_soon(node);
    }

    /// A stranger's connection: the world's side of it has no node.
    pub(super) fn connect_stranger(&mut self, node: usize) -> usize {
        let wire = self.wires.len();
        self.wires.push(Wire { stranger: true, ..Wire::default() });
        self.open(wire, 1, node, None);
        wire
    }

    /// What a stranger sends.
    pub(super) fn stranger_sends(&mut self, wire: usize, bytes: &[u8]) {
        self.wires[wire].queues[1].push_back(Item::Bytes(bytes.to_vec()));
        self.wires[wire].bytes[1] += bytes.len();
        let at = self.delay();
        self.at(at, What::Deliver { wire, side: 1 });
    }

    /// What a stranger was sent, and whether the connection was closed on it.
    pub(super) fn stranger_heard(&self, wire: usize) -> (Vec<u8>, bool) {
        let mut heard = Vec::new();
        let mut closed = false;
        for item in &self.wires[wire].queues[0] {
            match item {
                Item::Bytes(bytes) => heard.extend_from_slice(bytes),
                Item::Fin => closed = true,
            }
        }
        (heard, closed)
    }

    fn deliver(&mut self, wire: usize, side: usize) {
        let from = self.wires[wire].ends[1 - side].map(|(node, _)| node);
        let Some((node, conn)) = self.wires[wire].ends[side] else {
            if !self.wires[wire].stranger
                && let Some(Item::Bytes(bytes)) = self.wires[wire].queues[side].pop_front()
            {
                self.wires[wire].bytes[side] -= bytes.len();
            }
            return;
        };
        if from.is_some_and(|from| self.is_blocked(from, node)) {
            let at = self.now + 5 * MILLI;
            return self.at(at, What::Deliver { wire, side });
        }
        let now = Nanos(self.now);
        match self.wires[wire].queues[side].pop_front() {
            Some(Item::Bytes(bytes)) => {
                self.wires[wire].bytes[side] -= bytes.len();
                let found = &mut self.nodes[node];
                found.shell.receives_over(wire, now);
                found.links.received(conn, &bytes, now, &mut found.shell);
            }
            Some(Item::Fin) => self.close_end(wire, side, CloseReason::Peer),
            None => {}
        }
        self.turn_soon(node);
    }

    /// The node's system says that the connection is gone.
    fn close_end(&mut self, wire: usize, side: usize, reason: CloseReason) {
        let Some((node, conn)) = self.wires[wire].ends[side].take() else { return };
        let now = Nanos(self.now);
        let found = &mut self.nodes[node];
        found.conns.remove(&conn);
        if let Some(buffer) = found.flying.remove(&conn) {
            found.links.sent(conn, buffer);
        }
        found.links.closed(conn, reason, now);
        found.free.push(ConnId { generation: conn.generation + 1, ..conn });
        // What comes after its own end is not seen by the other side, but for the end itself.
        if reason != CloseReason::Peer || self.wires[wire].ends[1 - side].is_some() {
            self.wires[wire].queues[1 - side].push_back(Item::Fin);
            let at = self.delay();
            self.at(at, What::Deliver { wire, side: 1 - side });
        }
        self.turn_soon(node);
    }

    /// What is under way is lost, and both ends learn of it.
    pub(super) fn reset(&mut self, wire: usize) {
        self.wires[wire].queues = Default::default();
        self.wires[wire].bytes = [0; 2];
        for side in 0..2 {
            self.close_end(wire, side, CloseReason::Error(104));
        }
    }

    fn sent(&mut self, node: usize, conn: ConnId) {
        let Some(&(wire, side)) = self.nodes[node].conns.get(&conn) else { return };
        if self.wires[wire].bytes[1 - side] > SOCKET_BYTES {
            let at = self.now + MILLI;
            return self.at(at, What::Sent { node, conn });
        }
        if let Some(buffer) = self.nodes[node].flying.remove(&conn) {
            self.nodes[node].links.sent(conn, buffer);
            self.turn_soon(node);
        }
    }

    fn turn(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        let (now, random) = (Nanos(self.now), self.rng.next());
        let found = &mut self.nodes[node];
        let mut fx = Effects::default();
        let judges = found.links.may_judge(now);
        if judges {
            found.links.tick(now, random, &mut fx);
        }
        let due = found.shell.turn(&mut found.links, now, judges, random);
        found.links.flush(now, &mut fx);
        let due = due.min(found.links.next_due()).0.max(self.now + 20_000);
        let due = if judges { due } else { self.now + 1000 };
        found.links.sleeps_until(Nanos(due));
        let start = found.start;
        self.turn_at(node, due);
        for (token, address) in fx.connect {
            let (to, since) = (usize::from(address.port()) - 1000, self.now);
            let at = self.delay();
            self.at(at, What::Dial { node, start, token, to, since });
        }
        for (conn, buffer) in fx.send {
            self.transmit(node, conn, buffer);
        }
        for conn in fx.close {
            if let Some(&(wire, side)) = self.nodes[node].conns.get(&conn) {
                self.close_end(wire, side, CloseReason::Asked);
            }
        }
    }

    fn transmit(&mut self, node: usize, conn: ConnId, buffer: SendBuf) {
        let Some(&(wire, side)) = self.nodes[node].conns.get(&conn) else { return };
        let mut rest = &buffer[..];
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let most = if self.rng.chance(50) { rest.len() as u64 } else { 40 };
            let piece = 1 + self.rng.below(most.min(rest.len() as u64)) as usize;
            let piece = if rest.len() > 20_000 { rest.len() / 2 } else { piece };
            let (now, later) = rest.split_at(piece);
            pieces.push(now.to_vec());
            rest = later;
        }
        for piece in pieces {
            self.wires[wire].bytes[1 - side] += piece.len();
            self.wires[wire].queues[1 - side].push_back(Item::Bytes(piece));
            let at = self.delay();
            self.at(at, What::Deliver { wire, side: 1 - side });
        }
        let old = self.nodes[node].flying.insert(conn, buffer);
        assert!(old.is_none(), "one buffer in flight for each connection");
        let at = self.delay();
        self.at(at, What::Sent { node, conn });
    }

    /// Power off. Peers learn of it, or must find out by silence.
    pub(super) fn crash(&mut self, node: usize, told: bool) {
        self.nodes[node].up = false;
        let conns = std::mem::take(&mut self.nodes[node].conns);
        self.nodes[node].flying.clear();
        for (conn, (wire, side)) in conns {
            self.wires[wire].ends[side] = None;
            self.nodes[node].free.push(ConnId { generation: conn.generation + 1, ..conn });
            if told {
                let at = self.delay();
                self.at(at, What::Reset { wire });
            }
        }
    }

    pub(super) fn restart(&mut self, node: usize) -> u64 {
        let count = self.nodes.len();
        let found = &mut self.nodes[node];
        found.start += 1;
        found.up = true;
        found.paused_until = 0;
        found.links = links(node, count, found.start, self.now);
        // The old process's sockets answer with a reset.
        let start = found.start;
        for wire in 0..self.wires.len() {
            let ends = self.wires[wire].ends;
            if ends.iter().flatten().count() == 1 {
                self.reset(wire);
            }
        }
        self.nodes[node].turn_at = None;
        self.turn_soon(node);
        start
    }

    pub(super) fn heal(&mut self) {
        self.blocked.clear();
        self.dials_fail_percent = 0;
        self.delay_nanos = 200_000;
    }

    /// Open wires between two nodes.
    pub(super) fn wires_between(&self, a: usize, b: usize) -> Vec<usize> {
        let joins = |wire: &Wire| {
            let nodes = wire.ends.map(|end| end.map(|(node, _)| node));
            nodes == [Some(a), Some(b)] || nodes == [Some(b), Some(a)]
        };
        (0..self.wires.len()).filter(|wire| joins(&self.wires[*wire])).collect()
    }
}

fn links(node: usize, count: usize, incarnation: u64, now: u64) -> Links {
    let mut links = Links::new(identity(node, incarnation), LinkSettings::DEFAULT);
    for other in 0..count {
        links.set_peer(info(other), Nanos(now));
    }
    links
}
