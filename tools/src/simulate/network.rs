//! The network: connections that carry bytes in order, late, in pieces, or not at all.
//!
//! ```text
//!   dial ─► (cut? tried again, then ETIMEDOUT; nobody listens? ECONNREFUSED) ─► opened at both ends
//!   send ─► pipe: pieces, each with the time of its arrival ─► deliver, in order
//!                    │ cut: they stay, and come when the cut ends
//!                    │ garbled: they come with a wrong bit
//!                    └ reset: they are gone, and both ends are told
//! ```
//!
//! Loss, duplication and reordering of packets are the transport's to mend, so a connection shows
//! them as delay, and as its end. What may be anywhere in a stream is the border between two
//! pieces: it falls within frames, too.
//!
//! A pipe takes a bounded number of bytes before its sender has to wait, as a socket does.
//!
//! This module owns the connections and decides what passes; the world moves the bytes.

use std::collections::VecDeque;

use forebay_net::machine::{CloseReason, ConnId, SendBuf};
use forebay_storage::sim_disk::SimRandom;

use super::between;
use super::plan::Place;
use super::queue::{Queue, What};

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000_000;

/// What a pipe takes before it makes its sender wait.
const PIPE_BYTES: usize = 256 * 1024;
/// A dial through a cut is tried again after this.
const DIAL_AGAIN_NANOS: u64 = 250 * MILLI;
/// And given up after this.
const DIAL_NANOS_MAX: u64 = 3_000 * MILLI;
/// Buffers kept for reuse.
const SPARE_MAX: usize = 64;

/// Names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WireId {
    index: usize,
    generation: u32,
}

/// Whose end it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A node, which has not heard of it yet: on which listener, or for which dial.
    Opening { node: usize, listener: usize, token: Option<u64> },
    /// A node.
    Node { node: usize, conn: ConnId },
    /// A client; to which node.
    Client { client: usize, node: usize },
    /// It is closed on this side.
    Nobody,
}

impl Owner {
    /// The node that it belongs to.
    pub(super) fn node(self) -> Option<usize> {
        match self {
            Owner::Opening { node, .. } | Owner::Node { node, .. } => Some(node),
            Owner::Client { .. } | Owner::Nobody => None,
        }
    }
}

/// What comes out of a pipe.
#[derive(Debug)]
pub(super) enum Item {
    Bytes(SendBuf),
    End(CloseReason),
}

/// One direction of a connection, towards an end.
#[derive(Debug, Default)]
struct Pipe {
    items: VecDeque<(u64, Item)>,
    bytes: usize,
    last_at: u64,
    /// The delivery that is due.
    scheduled: Option<u64>,
    /// The receiver does not want bytes.
    paused: bool,
    /// The sender's buffer that waits for room.
    waiting: Option<SendBuf>,
    /// The sender closes when its buffer has gone.
    closing: bool,
}

#[derive(Debug)]
struct Wire {
    generation: u32,
    places: [Place; 2],
    owners: [Owner; 2],
    /// Towards each end.
    pipes: [Pipe; 2],
    used: bool,
}

/// Somebody wants a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    pub(super) from: Place,
    pub(super) to: usize,
    pub(super) listener: usize,
    pub(super) dialer: Dialer,
    since: u64,
}

/// Who that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialer {
    Node { node: usize, incarnation: u32, token: u64 },
    Client(usize),
}

/// What happens to a dial that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialed {
    /// It is tried again later.
    Later,
    /// It failed with this errno.
    Failed(i32),
    /// Both ends will be told.
    Opened(WireId),
}

/// What a listener's machine is like to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listening {
    Yes,
    /// The machine runs, the process does not.
    Refused,
    /// Nothing answers.
    Silent,
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Network {
    wires: Vec<Wire>,
    free: Vec<usize>,
    dials: Vec<Option<Dial>>,
    random: SimRandom,
    /// How many faults cut each direction.
    cuts: Vec<Vec<u32>>,
    /// Added to each delivery.
    slow: Vec<Vec<u64>>,
    /// One delivery in so many breaks its connection; 0: none does.
    flaky: Vec<Vec<usize>>,
    /// One bit of the next delivery is wrong.
    garbled: Vec<Vec<bool>>,
    spare: Vec<SendBuf>,
    delivered_bytes: u64,
}

impl Network {
    pub(super) fn new(places: usize, seed: u64) -> Network {
        Network {
            wires: Vec::new(),
            free: Vec::new(),
            dials: Vec::new(),
            random: SimRandom::new(seed),
            cuts: vec![vec![0; places]; places],
            slow: vec![vec![0; places]; places],
            flaky: vec![vec![0; places]; places],
            garbled: vec![vec![false; places]; places],
            spare: Vec::new(),
            delivered_bytes: 0,
        }
    }

    pub(super) fn delivered_bytes(&self) -> u64 {
        self.delivered_bytes
    }

    fn is_cut(&self, from: Place, to: Place) -> bool {
        self.cuts[from][to] > 0
    }

    /// Whether bytes of one place reach another.
    pub(super) fn passes(&self, from: Place, to: Place) -> bool {
        !self.is_cut(from, to)
    }

    /// One more fault cuts this direction, or one less.
    pub(super) fn cut(&mut self, from: Place, to: Place, more: bool) {
        let cuts = &mut self.cuts[from][to];
        *cuts = if more { *cuts + 1 } else { *cuts - 1 };
    }

    /// What was held back by cuts may come, a retransmission later.
    pub(super) fn resume_all(&mut self, now: u64, queue: &mut Queue) {
        for index in 0..self.wires.len() {
            let Wire { used, generation, places, .. } = self.wires[index];
            if !used {
                continue;
            }
            for side in 0..2 {
                let cut = self.is_cut(places[1 - side], places[side]);
                let wire = &mut self.wires[index];
                let pipe = &mut wire.pipes[side];
                if cut || pipe.paused || pipe.scheduled.is_some() || pipe.items.is_empty() {
                    continue;
                }
                let at = now + between(&mut self.random, MILLI, 200 * MILLI);
                pipe.scheduled = Some(at);
                let wire = WireId { index, generation };
                queue.push(at, What::Deliver { wire, side });
            }
        }
    }

    /// Deliveries in this direction take so much longer.
    pub(super) fn set_slow(&mut self, from: Place, to: Place, nanos: u64) {
        self.slow[from][to] = nanos;
    }

    /// One delivery in so many between these two breaks its connection.
    pub(super) fn set_flaky(&mut self, a: Place, b: Place, one_in: usize) {
        (self.flaky[a][b], self.flaky[b][a]) = (one_in, one_in);
    }

    /// The next bytes to arrive in this direction have a wrong bit.
    pub(super) fn garble(&mut self, from: Place, to: Place) {
        self.garbled[from][to] = true;
    }

    /// Whether the connection breaks before its next delivery to this end.
    pub(super) fn breaks(&mut self, wire: WireId, side: usize) -> bool {
        let Some(found) = self.get(wire) else { return false };
        let one_in = self.flaky[found.places[1 - side]][found.places[side]];
        one_in > 0 && self.random.chance(1, one_in)
    }

    fn latency(&mut self, from: Place, to: Place) -> u64 {
        self.slow[from][to] + between(&mut self.random, 20 * MICRO, 120 * MICRO)
    }

    /// Begins a dial.
    pub(super) fn dial(&mut self, dial: Dial, now: u64, queue: &mut Queue) {
        let at = now + self.latency(dial.from, dial.to);
        let free = self.dials.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.dials.push(None);
            self.dials.len() - 1
        });
        self.dials[index] = Some(Dial { since: now, ..dial });
        queue.push(at, What::Dial { dial: index });
    }

    /// A dial as its maker describes it.
    pub(super) fn dial_of(from: Place, to: usize, listener: usize, dialer: Dialer) -> Dial {
        Dial { from, to, listener, dialer, since: 0 }
    }

    pub(super) fn dialing(&self, index: usize) -> Dial {
        self.dials[index].expect("a dial under way")
    }

    pub(super) fn forget_dial(&mut self, index: usize) {
        self.dials[index] = None;
    }

    /// A dial arrives, or is tried again.
    pub(super) fn dial_arrives(
        &mut self,
        index: usize,
        listening: Listening,
        now: u64,
        queue: &mut Queue,
    ) -> Dialed {
        let dial = self.dialing(index);
        let Dial { from, to, .. } = dial;
        let silent =
            listening == Listening::Silent || self.is_cut(from, to) || self.is_cut(to, from);
        if silent && now < dial.since + DIAL_NANOS_MAX {
            queue.push(now + DIAL_AGAIN_NANOS, What::Dial { dial: index });
            return Dialed::Later;
        }
        self.forget_dial(index);
        if silent {
            return Dialed::Failed(libc::ETIMEDOUT);
        }
        if listening == Listening::Refused {
            return Dialed::Failed(libc::ECONNREFUSED);
        }
        let dialer = match dial.dialer {
            Dialer::Node { node, token, .. } => {
                Owner::Opening { node, listener: 0, token: Some(token) }
            }
            Dialer::Client(client) => Owner::Client { client, node: to },
        };
        let acceptor = Owner::Opening { node: to, listener: dial.listener, token: None };
        let wire = self.insert([from, to], [dialer, acceptor]);
        let back = now + self.latency(to, from);
        // Nothing overtakes the news that the connection is open.
        self.wires[wire.index].pipes[0].last_at = back;
        self.wires[wire.index].pipes[1].last_at = now;
        queue.push(now, What::Opened { wire, side: 1 });
        queue.push(back, What::Opened { wire, side: 0 });
        Dialed::Opened(wire)
    }

    fn insert(&mut self, places: [Place; 2], owners: [Owner; 2]) -> WireId {
        let index = self.free.pop().unwrap_or_else(|| {
            let pipes = Default::default();
            let owners = [Owner::Nobody; 2];
            self.wires.push(Wire { generation: 0, places: [0; 2], owners, pipes, used: false });
            self.wires.len() - 1
        });
        let wire = &mut self.wires[index];
        (wire.places, wire.owners, wire.used) = (places, owners, true);
        WireId { index, generation: wire.generation }
    }

    fn get(&self, wire: WireId) -> Option<&Wire> {
        let found = &self.wires[wire.index];
        (found.used && found.generation == wire.generation).then_some(found)
    }

    /// Whose an end is; None if the connection is gone.
    pub(super) fn owner(&self, wire: WireId, side: usize) -> Option<Owner> {
        self.get(wire).map(|found| found.owners[side])
    }

    pub(super) fn set_owner(&mut self, wire: WireId, side: usize, owner: Owner) {
        debug_assert!(self.get(wire).is_some());
        self.wires[wire.index].owners[side] = owner;
    }

    /// Every connection with an end at this node, and which end.
    pub(super) fn of_node(&self, node: usize) -> Vec<(WireId, usize)> {
        self.matching(|_, owner| owner.node() == Some(node))
    }

    /// Every connection between two places.
    pub(super) fn between_places(&self, a: Place, b: Place) -> Vec<(WireId, usize)> {
        let mut found = self.matching(|_, _| true);
        found.retain(|(wire, side)| {
            let places = self.wires[wire.index].places;
            *side == 0 && (places == [a, b] || places == [b, a])
        });
        found
    }

    fn matching(&self, wanted: impl Fn(&Wire, Owner) -> bool) -> Vec<(WireId, usize)> {
        let mut found = Vec::new();
        for (index, wire) in self.wires.iter().enumerate().filter(|(_, wire)| wire.used) {
            for side in 0..2 {
                if wanted(wire, wire.owners[side]) {
                    found.push((WireId { index, generation: wire.generation }, side));
                }
            }
        }
        found
    }

    /// Takes bytes that the owner of `side` sends. True if its buffer has gone at once.
    pub(super) fn send(
        &mut self,
        wire: WireId,
        side: usize,
        bytes: &[u8],
        now: u64,
        queue: &mut Queue,
    ) -> bool {
        debug_assert!(self.get(wire).is_some());
        let (mut rest, far) = (bytes, 1 - side);
        if bytes.len() > 1 && self.random.chance(1, 24) {
            let (first, second) = bytes.split_at(1 + self.random.below(bytes.len() - 1));
            self.push(wire, far, first, now, queue);
            rest = second;
        }
        self.push(wire, far, rest, now, queue);
        self.wires[wire.index].pipes[far].bytes <= PIPE_BYTES
    }

    /// The sender's buffer comes back when there is room.
    pub(super) fn wait_for_room(&mut self, wire: WireId, side: usize, buf: SendBuf) {
        let pipe = &mut self.wires[wire.index].pipes[1 - side];
        debug_assert!(pipe.waiting.is_none());
        pipe.waiting = Some(buf);
    }

    /// Whether the sender has to wait; then the connection closes as soon as it need not.
    pub(super) fn close_after_waiting(&mut self, wire: WireId, side: usize) -> bool {
        let pipe = &mut self.wires[wire.index].pipes[1 - side];
        pipe.closing = pipe.waiting.is_some();
        pipe.closing
    }

    fn push(&mut self, wire: WireId, side: usize, bytes: &[u8], now: u64, queue: &mut Queue) {
        let mut buf = self.spare.pop().unwrap_or_default();
        buf.clear();
        buf.extend_from_slice(bytes);
        self.wires[wire.index].pipes[side].bytes += buf.len();
        self.push_item(wire, side, Item::Bytes(buf), now, queue);
    }

    fn push_item(&mut self, wire: WireId, side: usize, item: Item, now: u64, queue: &mut Queue) {
        let places = self.wires[wire.index].places;
        let (from, to) = (places[1 - side], places[side]);
        let at = now + self.latency(from, to);
        let cut = self.is_cut(from, to);
        let pipe = &mut self.wires[wire.index].pipes[side];
        let at = at.max(pipe.last_at);
        pipe.last_at = at;
        pipe.items.push_back((at, item));
        if pipe.scheduled.is_none() && !cut && !pipe.paused {
            pipe.scheduled = Some(at);
            queue.push(at, What::Deliver { wire, side });
        }
    }

    /// Whether the event of this moment is the one that is due at this end.
    pub(super) fn delivers(&mut self, wire: WireId, side: usize, at: u64) -> bool {
        if self.get(wire).is_none() {
            return false;
        }
        let places = self.wires[wire.index].places;
        let cut = self.is_cut(places[1 - side], places[side]);
        let pipe = &mut self.wires[wire.index].pipes[side];
        if pipe.scheduled != Some(at) {
            return false;
        }
        pipe.scheduled = None;
        !cut && !pipe.paused
    }

    /// The delivery that is due comes later.
    pub(super) fn put_off(&mut self, wire: WireId, side: usize, at: u64, until: u64) {
        if self.get(wire).is_some() {
            let pipe = &mut self.wires[wire.index].pipes[side];
            if pipe.scheduled == Some(at) {
                pipe.scheduled = Some(until);
            }
        }
    }

    /// What has arrived at this end by now; schedules the rest.
    pub(super) fn take(
        &mut self,
        wire: WireId,
        side: usize,
        now: u64,
        queue: &mut Queue,
    ) -> Option<Item> {
        self.get(wire)?;
        let pipe = &mut self.wires[wire.index].pipes[side];
        if pipe.paused {
            return None;
        }
        let (at, _) = pipe.items.front()?;
        if *at > now {
            if pipe.scheduled.is_none() {
                pipe.scheduled = Some(*at);
                queue.push(*at, What::Deliver { wire, side });
            }
            return None;
        }
        let (_, mut item) = pipe.items.pop_front().expect("just seen");
        if let Item::Bytes(bytes) = &mut item {
            pipe.bytes -= bytes.len();
            self.delivered_bytes += bytes.len() as u64;
            let places = self.wires[wire.index].places;
            let garbled = &mut self.garbled[places[1 - side]][places[side]];
            if std::mem::take(garbled) {
                let bit = self.random.below(8 * bytes.len());
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        Some(item)
    }

    /// The sender's buffer, if there is room again, and whether it wants to close now.
    pub(super) fn room(&mut self, wire: WireId, side: usize) -> Option<(Owner, SendBuf, bool)> {
        self.get(wire)?;
        let found = &mut self.wires[wire.index];
        let pipe = &mut found.pipes[side];
        if pipe.bytes > PIPE_BYTES {
            return None;
        }
        let buf = pipe.waiting.take()?;
        Some((found.owners[1 - side], buf, pipe.closing))
    }

    /// A buffer that was delivered.
    pub(super) fn recycle(&mut self, buf: SendBuf) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(buf);
        }
    }

    /// The owner of this end wants its bytes, or not yet.
    pub(super) fn set_paused(
        &mut self,
        wire: WireId,
        side: usize,
        paused: bool,
        now: u64,
        queue: &mut Queue,
    ) {
        let pipe = &mut self.wires[wire.index].pipes[side];
        pipe.paused = paused;
        if !paused && pipe.scheduled.is_none() && !pipe.items.is_empty() {
            pipe.scheduled = Some(now + MICRO);
            queue.push(now + MICRO, What::Deliver { wire, side });
        }
    }

    /// This end is gone. The other one gets what is under way, or loses it, and is told `reason`,
    /// after a while. Returns the buffer that waited for room on this side.
    pub(super) fn close(
        &mut self,
        wire: WireId,
        side: usize,
        reason: CloseReason,
        loses: bool,
        now: u64,
        queue: &mut Queue,
    ) -> Option<SendBuf> {
        self.get(wire)?;
        let found = &mut self.wires[wire.index];
        found.owners[side] = Owner::Nobody;
        found.pipes[side].items.clear();
        found.pipes[side].bytes = 0;
        let far = &mut found.pipes[1 - side];
        let waiting = far.waiting.take();
        if found.owners[1 - side] == Owner::Nobody {
            found.generation += 1;
            found.used = false;
            found.pipes = Default::default();
            self.free.push(wire.index);
            return waiting;
        }
        if loses {
            far.items.clear();
            far.bytes = 0;
        }
        self.push_item(wire, 1 - side, Item::End(reason), now, queue);
        waiting
    }
}
