//! Links: one connection between this shard and each peer shard, for both directions.
//!
//! ```text
//!   core::liveness ─ send_pair ──────────┐                             ┌─► Sink::pair
//!   core::paxos ──── send, send_entries ─┤  Outbox ═══ TCP ═══ Inbox ──┤
//!                                        │  (one of each               └─► Sink::group
//!   tick ► dial, greet, keep alive ──────┘   per connection)      events ► Up, Down
//! ```
//!
//! A state machine like the shard itself: the shell's events in, [`Effects`] out, no system call;
//! it imports nothing from the ring, tokio or glommio. All of a shard's links are one [`Links`].
//!
//! # The life of a link
//! ```text
//!              dial_at                opened                Welcome
//!     Waiting ─────────► Connecting ─────────► Greeting ───────────────► Established
//!        ▲  ▲                │ failed, too slow    │ refused, too slow        │ closed, silent,
//!        │  └────────────────┴─────────────────────┘                          │ broken frame,
//!        └────────────────────────────────────────────────────────────────────┘ replaced
//!     any of them ── an acceptable Hello arrives on an accepted connection ──► Established
//! ```
//!
//! Both sides dial, because the network may let only one of them through. That they end up with one
//! connection, the same on both sides, rests on three rules:
//!
//! 1. A shard dials only while it has no connection. So a hello that it sent *later* than the one
//!    in use says that it has lost that one: it replaces it. Hellos are ordered by incarnation and
//!    dial number; a Welcome carries the acceptor's own dial number and makes its earlier hellos
//!    stale, so that one that was overtaken is refused (`superseded`).
//! 2. While its own hello is under way, the shard with the lower peer number refuses the other's
//!    (`crossing`); the one with the higher number gives its own up.
//! 3. A connection is in use from the moment that the Welcome is sent or received; what fails after
//!    that is noticed by its end, or by silence.
//!
//! # What is promised
//! Messages arrive whole, validated, and in the order in which they were sent on a connection, each
//! at most once; a lost connection loses what was queued on it. That is what [`forebay_core::paxos`]
//! asks for, and less than it endures. Memory is bounded: see [`LinkSettings`] and `outbox`.
//!
//! A frame's length is checked only with the rest of the frame. One wrong bit there, and everything said
//! later looks like the rest: the other side speaks, and nothing of it is heard, in one direction and
//! for megabytes. So a frame that does not become whole in time ends its connection, as silence does.
//!
//! Anything wrong ends the connection it came on, and nothing else: it is counted by name
//! ([`LinkCounters::refusals`]), and a peer whose greeting is wrong is told the name.
//!
//! # The order of a turn
//! The shell delivers all events first ([`Links::received`] hands messages to the [`Sink`], which
//! feeds liveness and replicas). Then, in this order:
//!
//! 1. [`Links::may_judge`]: is this process's view of the world fresh? See [`PauseGuard`].
//! 2. If so, `Liveness::tick` and [`Links::tick`]; if not, set [`Effects::run_again`], and only
//!    `Liveness::beat`: a shard that is late is alive.
//! 3. Carry out liveness's effects (`send_pair`), [`Links::take_waiting`], then tick the groups that
//!    they or the events touched, and carry out theirs (`send`, `send_entries`).
//! 4. [`Links::flush`], which hands out at most one buffer for each connection.
//! 5. [`Links::sleeps_until`] with the time that the shell will wake at; no later than
//!    [`Links::next_due`].
//!
//! The sink must also check what a link cannot know: that the member a message comes from lives on
//! the peer that it came from, by the group's configurations.
//!
//! Encryption wraps the bytes on both sides of a connection (`crate::tls`); what is seen of it here is
//! the node id of the peer's certificate, which [`Links::connected`] is told. Left out: connections of
//! their own for snapshots: one part at a time is on its way, and waits behind what is there before it.

mod counters;
pub(crate) mod greet;
mod outbox;
mod pause;
mod settings;
#[cfg(test)]
mod tests;
mod timers;
mod waiting;

use core::net::SocketAddr;
use std::collections::VecDeque;

use forebay_core::ids::{Ballot, Slot, TableId};
use forebay_core::liveness::{PairMessage, Peer};
use forebay_core::message::peer::{
    Ack, Answer, Ask, Authentication, Expected, GroupMessage, HANDSHAKE_FRAME_BYTES_MAX, Heartbeat,
    Identity, MemberStep, PeerError, PeerFrame, PeerMessage, Route, SnapshotMessage, StepKind,
    decode,
};
use forebay_core::paxos::{EntryKind, Message};
use forebay_core::time::Nanos;

use crate::frame::{Frame, FrameError, FrameSerializer, HEADER_BYTES, Inbox};
use crate::machine::{CloseReason, ConnId, Effects, SendBuf};
use crate::refusals::Words;
use outbox::Outbox;
use waiting::Waiting;

use counters::OUT_OF_PLACE;
pub use counters::{FRAME_ERROR_NAMES, LinkCounters, hello_refusal_names, link_refusal_names};
pub use pause::PauseGuard;
pub use settings::LinkSettings;

/// Tokens of this module's dials have this bit, so that a shell may have others.
pub const LINK_TOKEN_BIT: u64 = 1 << 63;

/// A peer shard, by the system group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Who it is.
    pub expected: Expected,
    /// Where it listens for peers.
    pub address: SocketAddr,
}

/// Takes what peers say.
pub trait Sink {
    /// For `Liveness::receive`.
    fn pair(&mut self, from: Peer, message: &PairMessage);
    /// For the replica that `message.route` names. Its entries lie in the received frame and are
    /// gone after the call.
    fn group(&mut self, from: Peer, message: &GroupMessage<'_>);
    /// A step of a table's creation or deletion; the description is not validated yet.
    fn table(&mut self, from: Peer, step: StepKind, table: TableId, description: &[u8]);
    /// A step of a group's membership, or of the cluster's growth; bodies are not validated yet.
    fn member(&mut self, from: Peer, step: MemberStep);
    /// About a snapshot: between which members, of which transfer, and what.
    fn snapshot(&mut self, from: Peer, route: Route, transfer: u64, message: SnapshotMessage<'_>);
}

/// A link's fate; the shell may tick the groups of that peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Messages go through from now on.
    Up(Peer),
    /// None go through; those queued are lost.
    Down(Peer),
}

/// A link as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// Whether there is a connection in use, and since when.
    pub up_since: Option<Nanos>,
    /// The newest start of the peer that greeted.
    pub incarnation: u64,
    /// Connections so far.
    pub established: u64,
    /// Queued and in flight.
    pub queued_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Accepted: waits for the Hello.
    Stranger,
    /// Dialed: waits for the Welcome.
    Greeting,
    Established,
    /// Over for us; `told` if the shell knows.
    Closing {
        told: bool,
    },
}

#[derive(Debug)]
struct Conn {
    id: ConnId,
    phase: Phase,
    /// Whom it was dialed to, or who greeted on it.
    peer: Option<Peer>,
    /// Node id in the peer's certificate.
    certified: Option<[u8; 16]>,
    inbox: Inbox,
    waiting: Waiting,
    outbox: Outbox,
    /// In `dirty`.
    queued: bool,
    /// The first bytes of a stranger's first frame: its length.
    head: [u8; 4],
    head_bytes: usize,
    opened_at: Nanos,
    heard_at: Nanos,
    /// Since when the rest of a frame is awaited, if it is.
    unfinished_since: Option<Nanos>,
    said_at: Nanos,
    keep_alives: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialing {
    /// No dial is under way; the next one at this time, if one has been set.
    Waiting {
        until: Option<Nanos>,
    },
    /// The wait is yet to be drawn; after a refusal that time does not mend, the longest.
    Failed {
        refused: bool,
    },
    Connecting {
        token: u64,
        since: Nanos,
    },
    Greeting {
        conn: ConnId,
    },
}

#[derive(Debug)]
struct Link {
    peer: Peer,
    info: PeerInfo,
    established: Option<ConnId>,
    up_since: Nanos,
    dialing: Dialing,
    /// The newest greeting of the peer that is in use, or over: `(incarnation, dial)`.
    seen: (u64, u64),
    dials: u64,
    failures: u32,
    times_established: u64,
}

/// All links of a shard. See the module's docs.
#[derive(Debug)]
pub struct Links {
    me: Identity,
    settings: LinkSettings,
    /// By peer.
    links: Vec<Link>,
    /// By the connection's slot; the shell's other connections leave holes.
    conns: Vec<Option<Box<Conn>>>,
    /// Connections with something to hand out at the turn's end.
    dirty: Vec<ConnId>,
    events: Vec<LinkEvent>,
    strangers: usize,
    guard: PauseGuard,
    /// [`Links::tick`] has nothing to do before.
    due: Nanos,
    claims: Vec<u32>,
    /// Messages of groups handed over in this turn.
    turn_messages: usize,
    /// Connections with batches that wait.
    behind: VecDeque<ConnId>,
    counters: LinkCounters,
    words: Words,
}

impl Links {
    /// The links of the shard `me`, without a peer yet.
    #[must_use]
    pub fn new(me: Identity, settings: LinkSettings) -> Links {
        Links {
            me,
            settings,
            links: Vec::new(),
            conns: Vec::new(),
            dirty: Vec::new(),
            events: Vec::new(),
            strangers: 0,
            guard: PauseGuard::new(&settings),
            due: Nanos(u64::MAX),
            claims: Vec::new(),
            turn_messages: 0,
            behind: VecDeque::new(),
            counters: LinkCounters::default(),
            words: Words::default(),
        }
    }

    /// Peers must show certificates, on connections from here on.
    pub fn demand_certificates(&mut self) {
        self.me.authentication = Authentication::Certificate;
    }

    /// Keeps a link to this shard from now on, or learns what has changed about it.
    pub fn set_peer(&mut self, info: PeerInfo, now: Nanos) {
        let peer = Peer(info.expected.peer);
        if peer == Peer(self.me.peer) {
            return;
        }
        match self.place(peer) {
            Ok(place) => {
                let known = std::mem::replace(&mut self.links[place].info, info);
                if known.expected != info.expected {
                    self.cut(place, now);
                }
            }
            Err(place) => {
                let yields = self.me.peer > peer.0;
                let at = if yields { now + self.settings.yield_nanos } else { now };
                let link = Link {
                    peer,
                    info,
                    established: None,
                    up_since: now,
                    dialing: Dialing::Waiting { until: Some(at) },
                    seen: (0, 0),
                    dials: 0,
                    failures: 0,
                    times_established: 0,
                };
                self.links.insert(place, link);
                self.due = self.due.min(at);
            }
        }
    }

    /// Ends the link to `peer`, which holds no shard of this cluster any more.
    pub fn remove_peer(&mut self, peer: Peer, now: Nanos) {
        if let Ok(place) = self.place(peer) {
            self.cut(place, now);
            self.links.remove(place);
        }
    }

    /// Ends whatever connection the link has.
    fn cut(&mut self, place: usize, now: Nanos) {
        let link = &self.links[place];
        let greeting = match link.dialing {
            Dialing::Greeting { conn } => Some(conn),
            _ => None,
        };
        for conn in link.established.into_iter().chain(greeting) {
            self.end(conn, now);
        }
    }

    fn place(&self, peer: Peer) -> Result<usize, usize> {
        self.links.binary_search_by_key(&peer, |link| link.peer)
    }

    fn link(&mut self, peer: Peer) -> Option<&mut Link> {
        let place = self.place(peer).ok()?;
        Some(&mut self.links[place])
    }

    fn conn(&mut self, conn: ConnId) -> Option<&mut Conn> {
        let found = self.conns.get_mut(conn.slot as usize)?.as_deref_mut()?;
        (found.id == conn).then_some(found)
    }

    /// Whether this connection is a link's, and its events belong here.
    #[must_use]
    pub fn owns(&self, conn: ConnId) -> bool {
        let found = self.conns.get(conn.slot as usize).and_then(Option::as_deref);
        found.is_some_and(|found| found.id == conn)
    }

    /// Whether messages to `peer` go through at the moment.
    #[must_use]
    pub fn is_up(&self, peer: Peer) -> bool {
        self.place(peer).is_ok_and(|place| self.links[place].established.is_some())
    }

    /// The link to `peer`, if there is one.
    #[must_use]
    pub fn status(&self, peer: Peer) -> Option<LinkStatus> {
        let link = &self.links[self.place(peer).ok()?];
        let conn = link.established.and_then(|conn| self.conns[conn.slot as usize].as_deref());
        Some(LinkStatus {
            up_since: link.established.map(|_| link.up_since),
            incarnation: link.seen.0,
            established: link.times_established,
            queued_bytes: conn.map_or(0, |conn| conn.outbox.bytes()),
        })
    }

    /// How many peers messages go through to at the moment, and how many there are.
    #[must_use]
    pub fn peers_up(&self) -> (u64, u64) {
        let up = self.links.iter().filter(|link| link.established.is_some());
        (up.count() as u64, self.links.len() as u64)
    }

    /// What the links have counted.
    #[must_use]
    pub fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    /// Who and what was refused, in words.
    pub(crate) fn words(&mut self) -> &mut Words {
        &mut self.words
    }

    /// Links that came up or went down, in order.
    pub fn take_events(&mut self) -> std::vec::Drain<'_, LinkEvent> {
        self.events.drain(..)
    }

    /// Bytes arrived on a link's connection. What peers say goes to `sink`.
    pub fn received(&mut self, conn: ConnId, bytes: &[u8], now: Nanos, sink: &mut impl Sink) {
        self.guard.heard();
        self.counters.bytes_received += bytes.len() as u64;
        let Some(found) = self.conn(conn) else { return };
        if matches!(found.phase, Phase::Closing { .. }) {
            return;
        }
        found.heard_at = now;
        if let Err(error) = found.check_first_length(bytes) {
            return self.broken_frame(conn, &error, now);
        }
        let mut inbox = std::mem::take(&mut found.inbox);
        let mut whole = false;
        let result = inbox.receive_while(bytes, true, |frame| {
            whole = true;
            self.frame(conn, frame, now, sink);
            self.is_open(conn)
        });
        if !self.is_open(conn) {
            return;
        }
        if let Err(error) = result {
            return self.broken_frame(conn, &error, now);
        }
        let found = self.conn(conn).expect("it is open");
        let since = found.unfinished_since.filter(|_| !whole).unwrap_or(now);
        found.unfinished_since = (inbox.pending_bytes() > 0).then_some(since);
        found.inbox = inbox;
    }

    fn is_open(&mut self, conn: ConnId) -> bool {
        self.conn(conn).is_some_and(|found| !matches!(found.phase, Phase::Closing { .. }))
    }

    /// Remembers, for the log, what came on a connection and was refused.
    fn note(&mut self, conn: ConnId, name: &'static str, what: &dyn core::fmt::Display) {
        let peer = self.conn(conn).and_then(|found| found.peer);
        self.words.note(name, || match peer {
            Some(peer) => format!("from shard {}: {what}", peer.0),
            None => format!("from a stranger: {what}"),
        });
    }

    fn broken_frame(&mut self, conn: ConnId, error: &FrameError, now: Nanos) {
        self.counters.frame_error(error);
        self.note(conn, error.name(), error);
        self.misbehaved(conn, now);
    }

    fn frame(&mut self, conn: ConnId, frame: Frame<'_>, now: Nanos, sink: &mut impl Sink) {
        if !self.puts_off(conn, &frame) {
            self.take_frame(conn, &frame, now, sink);
        }
    }

    fn take_frame(&mut self, conn: ConnId, frame: &Frame<'_>, now: Nanos, sink: &mut impl Sink) {
        let decoded = match decode(frame.kind, frame.message_version, frame.payload) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.counters.peer_error(&error);
                self.note(conn, PeerError::NAMES[error.index()], &error);
                return self.misbehaved(conn, now);
            }
        };
        let Some(found) = self.conn(conn) else { return };
        match (found.phase, found.peer, &decoded) {
            (Phase::Established, Some(_), PeerFrame::KeepAlive) => {}
            (Phase::Established, Some(peer), PeerFrame::Pair(message)) => {
                self.counters.messages_received += 1;
                sink.pair(peer, message);
            }
            (Phase::Established, Some(peer), PeerFrame::Groups(batch)) => {
                self.counters.messages_received += batch.messages() as u64;
                self.turn_messages += batch.messages();
                batch.iter().for_each(|message| sink.group(peer, &message));
            }
            (Phase::Established, Some(peer), PeerFrame::Table(step, table, description)) => {
                self.counters.messages_received += 1;
                sink.table(peer, *step, *table, description);
            }
            (Phase::Established, Some(peer), PeerFrame::Member(step)) => {
                self.counters.messages_received += 1;
                sink.member(peer, step.clone());
            }
            (Phase::Established, Some(peer), PeerFrame::Snapshot(route, transfer, message)) => {
                self.counters.messages_received += 1;
                sink.snapshot(peer, *route, *transfer, *message);
            }
            (Phase::Stranger, _, PeerFrame::Hello(hello)) => self.greeted(conn, hello, now),
            (Phase::Greeting, Some(peer), PeerFrame::Welcome(welcome)) => {
                self.welcomed(conn, peer, welcome, now);
            }
            (Phase::Greeting, Some(peer), PeerFrame::Refused(reason)) => {
                self.refused(conn, peer, *reason, now);
            }
            _ => {
                self.counters.out_of_place += 1;
                self.note(conn, OUT_OF_PLACE, &"a message that does not belong there");
                self.misbehaved(conn, now);
            }
        }
    }

    /// Sends a message of liveness. It goes before everything that waits; without a connection it
    /// is dropped.
    pub fn send_pair(&mut self, to: Peer, message: &PairMessage) {
        let mut claims = std::mem::take(&mut self.claims);
        claims.clear();
        if let PairMessage::Heartbeat { claims: of, .. } | PairMessage::Answer { claims: of, .. } =
            message
        {
            claims.extend(of.iter().map(|peer| peer.0));
        }
        let settings = self.settings;
        let gave_way = self.outbox_of(to).map(|outbox| match message {
            PairMessage::Heartbeat { incarnation, sent_at, .. } => outbox.push_urgent(
                &Heartbeat { incarnation: *incarnation, sent_at: sent_at.0, claims: &claims },
                &settings,
            ),
            PairMessage::Ack { incarnation, echo, epoch } => {
                let ack = Ack {
                    incarnation: *incarnation,
                    echo: echo.0,
                    epoch_incarnation: epoch.incarnation,
                    epoch_count: epoch.count,
                };
                outbox.push_urgent(&ack, &settings)
            }
            PairMessage::Ask { about } => outbox.push_urgent(&Ask { about: about.0 }, &settings),
            PairMessage::Answer { about, hears, .. } => outbox
                .push_urgent(&Answer { about: about.0, hears: *hears, claims: &claims }, &settings),
        });
        self.claims = claims;
        match gave_way {
            Some(gave_way) => self.counters.dropped_full += gave_way,
            None => self.counters.dropped_unconnected += 1,
        }
    }

    /// Sends a group's message that has no entries. Says whether it was queued; if not, it is lost
    /// like any message.
    pub fn send(&mut self, to: Peer, route: Route, message: &Message) -> bool {
        let settings = self.settings;
        let Some(outbox) = self.outbox_of(to) else {
            self.counters.dropped_unconnected += 1;
            return false;
        };
        let queued = outbox.push(route, message, &settings);
        self.counters.dropped_full += u64::from(!queued);
        queued
    }

    /// Sends an Accept or Fetched with its entries up to `last`, which `entry` has, in order. The
    /// range is cut where `entry` has none, or the queue is full; what is missing is lost like any
    /// message. Says how many entries were queued.
    pub fn send_entries<'e>(
        &mut self,
        to: Peer,
        route: Route,
        message: &Message,
        last: Slot,
        entry: impl FnMut(Slot) -> Option<(EntryKind, Ballot, &'e [u8])>,
    ) -> u64 {
        let settings = self.settings;
        let Some(outbox) = self.outbox_of(to) else {
            self.counters.dropped_unconnected += 1;
            return 0;
        };
        let queued = outbox.push_entries(route, message, last, &settings, entry);
        if queued.full && queued.entries > 0 {
            self.counters.ranges_cut += 1;
        }
        self.counters.dropped_full += u64::from(queued.full && queued.entries == 0);
        queued.entries
    }

    /// Sends a message that may be large, in a frame of its own: a step of a table's creation or
    /// deletion, or a part of a snapshot. Says whether it was queued; if not, it is lost like any
    /// message.
    pub fn send_large<M>(&mut self, to: Peer, message: &M) -> bool
    where
        M: PeerMessage + for<'a> rkyv::Serialize<FrameSerializer<'a>>,
    {
        let settings = self.settings;
        let Some(outbox) = self.outbox_of(to) else {
            self.counters.dropped_unconnected += 1;
            return false;
        };
        let queued = outbox.push_large(message, &settings);
        self.counters.dropped_full += u64::from(!queued);
        queued
    }

    /// How many more bytes of entries the queue to `peer` takes; a shell that reads entries from
    /// the disk asks before it does.
    #[must_use]
    pub fn room_bytes(&mut self, to: Peer) -> usize {
        let max = self.settings.data_bytes_max;
        let conn = self.link(to).and_then(|link| link.established);
        let queued = conn.and_then(|conn| self.conn(conn)).map(|conn| conn.outbox.bytes());
        queued.map_or(0, |bytes| max.saturating_sub(bytes))
    }

    /// Of the connection in use, which will be flushed.
    fn outbox_of(&mut self, to: Peer) -> Option<&mut Outbox> {
        let conn = self.link(to)?.established?;
        self.mark(conn);
        self.conn(conn).map(|found| &mut found.outbox)
    }

    /// The connection has something to hand out at the turn's end.
    fn mark(&mut self, conn: ConnId) {
        if let Some(found) = self.conn(conn)
            && !std::mem::replace(&mut found.queued, true)
        {
            self.dirty.push(conn);
        }
    }

    /// A buffer came back.
    pub fn sent(&mut self, conn: ConnId, buffer: SendBuf) {
        let Some(found) = self.conn(conn) else { return };
        found.outbox.sent(buffer);
        if !found.outbox.is_empty() {
            self.mark(conn);
        }
    }

    /// The connection is gone.
    pub fn closed(&mut self, conn: ConnId, _reason: CloseReason, now: Nanos) {
        if self.owns(conn) {
            self.end(conn, now);
            self.conns[conn.slot as usize] = None;
        }
    }

    /// Whether a connection has something to hand out at a turn's end.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Hands out what is ready, at the end of a turn.
    pub fn flush(&mut self, now: Nanos, fx: &mut Effects) {
        self.turn_messages = 0;
        let mut dirty = std::mem::take(&mut self.dirty);
        for conn in dirty.drain(..) {
            let Some(found) = self.conn(conn) else { continue };
            found.queued = false;
            if let Some(outgoing) = found.outbox.next() {
                found.said_at = now;
                let bytes = outgoing.buffer.len() as u64;
                fx.send.push((conn, outgoing.buffer));
                self.counters.messages_sent += outgoing.messages;
                self.counters.bytes_sent += bytes;
                self.counters.buffers_sent += 1;
            }
            let Some(found) = self.conn(conn) else { continue };
            if found.phase == (Phase::Closing { told: false }) && found.outbox.is_empty() {
                found.phase = Phase::Closing { told: true };
                fx.close.push(conn);
            }
        }
        self.dirty = dirty;
    }
}

impl Conn {
    /// A stranger may not make this process hold more than a greeting.
    fn check_first_length(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        let greets = matches!(self.phase, Phase::Stranger | Phase::Greeting);
        if !greets || self.head_bytes == self.head.len() {
            return Ok(());
        }
        let taken = bytes.len().min(self.head.len() - self.head_bytes);
        self.head[self.head_bytes..][..taken].copy_from_slice(&bytes[..taken]);
        self.head_bytes += taken;
        let frame_bytes = u32::from_le_bytes(self.head);
        let bytes_max = HEADER_BYTES + HANDSHAKE_FRAME_BYTES_MAX;
        if self.head_bytes == self.head.len() && frame_bytes as usize > bytes_max {
            return Err(FrameError::Length { frame_bytes, bytes_max });
        }
        Ok(())
    }
}
