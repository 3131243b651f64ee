//! A shard: one event loop's worth of connections, partitions and storage, as a state machine.
//!
//! ```text
//!   received ─► frame ─► request ─┬─ write ─► condition ─► store.put ─► log ─┐
//!                                 │                                         │ durable, chosen
//!                                 └─ read ──► overlay ─► tree ─► reply       ▼
//!                                               │ page absent              apply ─► reply
//!                                               ▼
//!                                        parked until the page arrives, then run again
//! ```
//!
//! It imports nothing from the ring, tokio or glommio: the shell that drives it through
//! [`Machine`] may be the ring or the simulator. Nothing blocks; a warm
//! shard allocates nothing for a Put or a Get.
//!
//! Replies that depend on entries in flight (successful writes, but also failed conditions and
//! returned old values) wait in `waiting` until the store says that those entries are chosen.
//! Everything else is answered in the turn in which it arrived.
//!
//! | file | idea |
//! |---|---|
//! | `connections` | inboxes, outboxes, back-pressure |
//! | `request` | from frame to handler, and parking for absent pages |
//! | `write` | Put, Delete, Update, BatchWrite |
//! | `read`, `together` | Get, BatchGet; Gets that arrive together |
//! | `page` | Query, Scan |
//! | `tables` | which partitions are here |
//! | `parking` | requests that wait for a page, and writes that wait for room |
//! | `healing` | members of groups that died are replaced; the list of nodes |
//! | `replicated` | groups of a cluster: proposals, leases, what peers say |
//! | `admin` | operators' commands in a cluster |
//! | `changes` | a table's creation or deletion on its way through the shards |
//! | `system` | tables: create, describe, list, delete (shard 0 leads the system group) |
//! | `refusal` | named errors |

mod admin;
mod changes;
mod connections;
mod healing;
mod observe;
mod page;
mod parking;
mod read;
mod refusal;
mod replicated;
mod request;
mod system;
mod tables;
mod together;
mod write;

use std::collections::VecDeque;
use std::sync::Arc;

use forebay_core::ids::{GroupId, ShardId};
use forebay_core::key::KeyBuf;
use forebay_core::message::{ErrorCode, ErrorReply, Kind, NotLeaderReply, WriteReply};
use forebay_core::time::Nanos;
use forebay_storage::block::DiskDone;
use forebay_storage::notice;
use forebay_storage::store::{ChosenEntry, PageId, Store, Ticket};

pub use observe::METRIC_NAMES;
pub use replicated::{Clock, ClusterContext};
pub use system::{Mail, ShardMail};

use crate::frame::{FrameError, Template};
use crate::machine::{CloseReason, ConnId, Effects, Machine, SendBuf};
use crate::metrics::ShardMetrics;
use crate::refusals::Words;
use crate::replication::{Event, Joined, Replication, SnapshotSettings};
use connections::Connections;
use page::PageBuilder;
use parking::{Held, Parking};
use refusal::Refusal;
use replicated::{Mark, SlotQueues};
use system::System;
use tables::Tables;
use together::Together;

/// Replies that may wait for entries to be chosen, over all connections.
const WAITING_MAX: usize = 65_536;

/// The shell's listener for peers; the other one is for clients.
pub const PEER_LISTENER: usize = 1;

/// How long a stopping shard waits for peers to take their last replies.
const STOP_SEND_NANOS_MAX: u64 = Nanos::PER_SECOND;

/// What a shard needs to know about its node.
#[derive(Clone, Debug)]
pub struct ShardContext {
    /// This shard.
    pub shard: ShardId,
    /// Random id of the node.
    pub node_id: [u8; 16],
    /// The port of each shard of the node, by shard number.
    pub ports: Vec<u16>,
    /// Seed of the shard's random numbers (table ids, hash seeds).
    pub random_seed: u64,
    /// Wall-clock milliseconds since 1970 at shard-clock zero, for creation times.
    pub unix_millis_at_zero: u64,
    /// Where the shard counts.
    pub metrics: Arc<ShardMetrics>,
    /// On a node of a cluster; none on one that stands alone.
    pub cluster: Option<ClusterContext>,
}

/// A reply that waits until everything up to `ticket` is chosen.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    asker: Asker,
    reply: WaitingReply,
}

#[derive(Debug)]
enum WaitingReply {
    Written,
    Attributes(Vec<u8>),
    /// The outcomes, and what else has to be chosen before.
    Batch(Vec<u16>, Vec<Mark>),
    Refused(Box<Refusal>),
    System(changes::Step),
    /// No reply yet: the request with this payload runs again.
    Again(SendBuf),
}

impl WaitingReply {
    /// Bytes that it holds until then.
    fn bytes(&self) -> usize {
        match self {
            WaitingReply::Written | WaitingReply::System(_) => 0,
            WaitingReply::Attributes(bytes) => bytes.len(),
            WaitingReply::Batch(outcomes, _) => 2 * outcomes.len(),
            WaitingReply::Refused(refusal) => refusal.item.as_ref().map_or(0, Vec::len),
            WaitingReply::Again(payload) => payload.len(),
        }
    }
}

/// What recovery brought has right checksums, but this shard cannot read it: another program wrote
/// it, or a fault in this one. The shard serves nothing and stops; nothing is lost or changed. Run
/// the program that wrote it, or restore the data directory from a copy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A partition's group carries a description that is none, or not its own.
    #[error(
        "the table description that group {group} carries cannot be read, although its checksum is \
         right: another version of the program wrote it, or a faulty one; run the one that wrote \
         it, or restore the data directory from a copy"
    )]
    Group {
        /// Which group.
        group: GroupId,
    },
    /// The system group holds an item that is no table.
    #[error(
        "item {number} of the system group cannot be read as a table, although its checksum is \
         right: another version of the program wrote it, or a faulty one; run the one that wrote \
         it, or restore the data directory from a copy"
    )]
    Table {
        /// Of the item, in the order of keys, from 1.
        number: usize,
    },
}

/// See the module's docs.
#[derive(Debug)]
pub struct Shard {
    context: ShardContext,
    store: Store,
    connections: Connections,
    tables: Tables,
    system: System,
    waiting: VecDeque<Waiting>,
    /// On a shard of a cluster, once it knows who is in it.
    replication: Option<Box<Replication>>,
    /// Of what it refused, on their way to the log.
    refusal_words: Words,
    snapshots: SnapshotSettings,
    /// This node's name in its certificate, where peers and clients show theirs.
    certified: Option<String>,
    slots: SlotQueues,
    healing: healing::Healing,
    events: Vec<Event>,
    /// The cluster that an operator has put this node in, or how it has grown.
    joins: Option<Joined>,
    /// A stopping shard hands over what it leads until then.
    hand_over_until: Option<Nanos>,
    parking: Parking,
    together: Together,
    /// The reply to a write that returns nothing.
    written: Template,
    /// Pages that arrived since the last turn.
    arrived: Vec<PageId>,
    key: KeyBuf,
    old: Vec<u8>,
    scratch: Vec<u8>,
    pages: Vec<PageBuilder>,
    mail: Vec<Mail>,
    stopping: bool,
    /// When to stop even if peers have not taken their last replies.
    stop_deadline: Option<Nanos>,
    failed_reported: bool,
    /// Why the shard can never serve.
    unreadable: Option<Unreadable>,
    /// Time of the event being handled.
    now: Nanos,
    publish_at: Nanos,
}

impl Shard {
    /// A shard over a recovered store; see [`Shard::unreadable`].
    #[must_use]
    pub fn new(context: ShardContext, store: Store, now: Nanos) -> Shard {
        let mut shard = Shard {
            system: System::new(context.random_seed),
            context,
            store,
            connections: Connections::default(),
            tables: Tables::default(),
            waiting: VecDeque::with_capacity(1024),
            replication: None,
            refusal_words: Words::default(),
            snapshots: SnapshotSettings::DEFAULT,
            certified: None,
            slots: SlotQueues::default(),
            healing: healing::Healing::default(),
            events: Vec::new(),
            joins: None,
            hand_over_until: None,
            parking: Parking::default(),
            together: Together::default(),
            written: Template::of(&WriteReply { attributes: None }),
            arrived: Vec::new(),
            key: KeyBuf::with_room_for_any_key(),
            old: Vec::new(),
            scratch: Vec::new(),
            pages: Vec::new(),
            mail: Vec::new(),
            stopping: false,
            stop_deadline: None,
            failed_reported: false,
            unreadable: None,
            now,
            publish_at: now,
        };
        shard.adopt_groups(now);
        shard
    }

    /// Begins a clean stop: no new requests; when everything accepted is answered and a last
    /// checkpoint is durable, the shard asks the shell to stop.
    pub fn stop(&mut self) {
        if !self.stopping {
            self.stopping = true;
            self.store.close();
        }
    }

    /// Why the shard stops by itself, if it cannot read what it recovered. Known at once, or, on the
    /// shard that leads the system group, once its tables were read.
    #[must_use]
    pub fn unreadable(&self) -> Option<&Unreadable> {
        self.unreadable.as_ref()
    }

    /// Serves nothing, and stops.
    fn give_up(&mut self, unreadable: Unreadable) {
        self.unreadable.get_or_insert(unreadable);
        self.stop();
    }

    /// Whether a clean stop was asked for.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// The shard's storage, for status and metrics.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// A sealed part of the log turned out damaged, and the log still holds it.
    pub fn note_log_damage(&mut self) {
        self.store.note_log_damage();
    }

    /// The shard's part in its cluster, for status and for simulations.
    #[must_use]
    pub fn replication(&self) -> Option<&Replication> {
        self.replication.as_deref()
    }

    /// For simulations: see [`Store::want_checkpoint`].
    pub fn want_checkpoint(&mut self) {
        self.store.want_checkpoint();
    }

    /// For simulations: see [`Store::keep_old`].
    pub fn keep_old(&mut self) {
        self.store.keep_old();
    }

    /// For simulations: its member of the group stands for election, whatever it hears of the leader.
    pub fn stand(&mut self, group: GroupId, now: Nanos) {
        if let Some(replication) =
            self.replication.as_deref_mut().filter(|_| self.store.failure().is_none())
        {
            replication.stand(&mut self.store, group, now);
        }
    }

    /// For simulations: has its store keep what its members learn to be chosen.
    pub fn watch_chosen(&mut self) {
        self.store.watch_chosen();
    }

    /// What [`Shard::watch_chosen`] has kept since the last call.
    pub fn take_watched(&mut self) -> impl Iterator<Item = ChosenEntry> {
        self.store.take_watched()
    }

    /// Messages for other shards of the node, in order.
    pub fn take_mail(&mut self) -> std::vec::Drain<'_, Mail> {
        self.mail.drain(..)
    }

    /// Whether a turn is of use now although nothing but [`Machine::sent`] was called since the last one,
    /// which asked for a later one: what came back left something to send, or somebody to hear more of.
    /// Otherwise such a turn only looks at the clock.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        let links = self.replication.as_deref().is_some_and(Replication::has_unsent);
        links || self.connections.has_unsent() || self.stopping
    }

    /// Answers, or queues the answer behind the entries in flight that it depends on.
    fn answer_later(&mut self, asker: Asker, mark: Mark, reply: WaitingReply) {
        match mark {
            Mark::Slot(group, slot, reign) => self.answer_at((group, slot, reign), asker, reply),
            Mark::Ticket(ticket) => {
                self.parking.hold(reply.bytes());
                // What depends on an older entry only goes behind the queue all the same.
                let last = self.waiting.back().map_or(ticket, |last| last.ticket);
                self.waiting.push_back(Waiting { ticket: ticket.max(last), asker, reply });
            }
        }
    }

    fn refuse(&mut self, asker: Asker, refusal: &Refusal) {
        self.count_refusal(asker, refusal.code);
        if refusal.code == ErrorCode::NotLeader {
            let reply = refusal.leader.map_or_else(
                || NotLeaderReply::unknown(refusal.retry_after_micros),
                NotLeaderReply::leader_is,
            );
            return self.connections.reply(asker.conn, asker.correlation, &reply);
        }
        self.connections.reply(asker.conn, asker.correlation, &refusal.reply());
    }

    /// Sends every reply whose entries are chosen.
    fn release(&mut self, now: Nanos) {
        let chosen = self.store.chosen_ticket();
        while self.waiting.front().is_some_and(|waiting| waiting.ticket <= chosen) {
            let Waiting { asker, reply, .. } = self.waiting.pop_front().expect("just seen");
            self.release_one(asker, reply, now);
        }
    }

    /// What the reply waited for is chosen.
    #[inline]
    fn release_one(&mut self, asker: Asker, reply: WaitingReply, now: Nanos) {
        self.parking.let_go(reply.bytes());
        let Asker { conn, correlation, .. } = asker;
        match reply {
            WaitingReply::Written => {
                self.connections.reply_alike(conn, correlation, &self.written);
            }
            WaitingReply::Attributes(bytes) => {
                let reply = WriteReply { attributes: Some(&bytes) };
                self.connections.reply(conn, correlation, &reply);
            }
            WaitingReply::Batch(outcomes, mut marks) => {
                if let Some(next) = marks.pop() {
                    let reply = WaitingReply::Batch(outcomes, marks);
                    return self.answer_later(asker, next, reply);
                }
                let reply = forebay_core::message::BatchWriteReply { outcomes };
                self.connections.reply(conn, correlation, &reply);
            }
            WaitingReply::Refused(refusal) => return self.refuse(asker, &refusal),
            WaitingReply::System(step) => return self.system_chosen(step, now),
            WaitingReply::Again(payload) => return self.run_again(asker, payload, None),
        }
        self.answered(asker);
    }

    /// The store failed: every reply that waits is of unknown outcome, and nothing is served.
    fn fail_waiting(&mut self) {
        let unknown = Refusal::constant(
            ErrorCode::ShardFailed,
            "the shard's disk failed while this write was in flight; its outcome is not known",
        );
        loop {
            let waiting = self.waiting.pop_front().map(|waiting| (waiting.asker, waiting.reply));
            let Some((asker, reply)) = waiting.or_else(|| self.slots.pop_any()) else { break };
            self.parking.let_go(reply.bytes());
            if !matches!(reply, WaitingReply::System(_)) {
                self.refuse(asker, &unknown);
            }
        }
        self.refuse_changes(&unknown);
        let failed = Refusal::failed();
        while let Some(Held { asker, .. }) = self.parking.take_any() {
            self.refuse(asker, &failed);
        }
        self.connections.unstall_all();
        if !self.failed_reported {
            self.failed_reported = true;
            let reason = self.store.failure().map_or_else(String::new, |error| error.to_string());
            notice::say(format_args!(
                "shard {} stopped serving: {reason}. Restart the node to recover from what is \
                 durable.",
                self.context.shard
            ));
        }
    }

    fn quiet(&self) -> bool {
        self.waiting.is_empty() && self.slots.len() == 0 && self.parking.is_empty()
    }
}

impl Asker {
    /// For steps that no client waits for.
    fn nobody() -> Asker {
        let conn = ConnId { slot: u32::MAX, generation: u32::MAX };
        Asker { conn, correlation: 0, kind: Kind::ErrorReply, eventual: false, asked_at: Nanos(0) }
    }
}

/// What the other side of a connection has shown of itself.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The name in its certificate.
    pub name: &'a str,
    /// It may give operators' commands.
    pub operates: bool,
}

/// Whom a reply goes to.
#[derive(Clone, Copy, Debug)]
struct Asker {
    conn: ConnId,
    correlation: u64,
    kind: Kind,
    /// An [`Eventual`](forebay_core::message::Eventual) read, whose answer says how old it may be.
    eventual: bool,
    asked_at: Nanos,
}

impl Machine for Shard {
    fn connected(&mut self, conn: ConnId, listener: usize, token: Option<u64>, now: Nanos) {
        self.connected_as(conn, listener, token, None, now);
    }

    fn connect_failed(&mut self, token: u64, _errno: i32, now: Nanos) {
        let replication = self.replication.as_deref_mut();
        replication.expect("only links open connections").connect_failed(token, now);
    }

    fn received(&mut self, conn: ConnId, bytes: &[u8], now: Nanos, _fx: &mut Effects) {
        self.now = now;
        if self.is_link(conn) {
            let replication = self.replication.as_deref_mut().expect("it has links");
            return replication.received(&mut self.store, conn, bytes, now);
        }
        self.context.metrics.received_bytes.add(bytes.len() as u64);
        self.take_requests(conn, bytes, now);
    }

    fn sent(&mut self, conn: ConnId, buf: SendBuf, now: Nanos) {
        if self.is_link(conn) {
            return self.replication.as_deref_mut().expect("it has links").sent(conn, buf);
        }
        self.context.metrics.sent_bytes.add(buf.len() as u64);
        self.connections.sent(conn, buf, now);
    }

    fn closed(&mut self, conn: ConnId, reason: CloseReason, now: Nanos) {
        if self.is_link(conn) {
            let replication = self.replication.as_deref_mut().expect("it has links");
            return replication.closed(conn, reason, now);
        }
        self.connections.closed(conn);
    }

    fn disk_done(&mut self, done: DiskDone, now: Nanos) {
        self.store.disk_done(done, now);
    }

    fn woken(&mut self, _now: Nanos) {}

    fn turn(&mut self, now: Nanos, fx: &mut Effects) {
        self.now = now;
        self.read_together();
        self.store.take_loaded(&mut self.arrived);
        if self.store.failure().is_some() {
            self.arrived.clear();
            self.fail_replicas(now);
            self.fail_waiting();
        } else {
            self.begin_replicating(now, fx);
            self.load_system(now);
            self.resume_parked();
            self.release(now);
            self.resume_system(now);
            self.resume_stalled();
        }
        let failed = self.store.failure().is_some();
        let heal_at = if failed { None } else { self.heal(now) };
        let ask_again_at = self.ask_again(now);
        while let Some(conn) = self.connections.next_resumed() {
            self.take_requests(conn, &[], now);
        }
        self.read_together();
        self.propose_all(now);
        let work = self.store.turn(now, &mut fx.disk);
        fx.run_again |= work.run_again;
        fx.wake_at = [work.wake_at, ask_again_at, heal_at].into_iter().flatten().min();
        // A page that somebody else had read meanwhile.
        self.store.take_loaded(&mut self.arrived);
        fx.run_again |= !self.arrived.is_empty();
        if self.stopping && self.quiet() && self.store.is_closed() {
            self.finish_stop(now, fx);
        }
        self.end_replicating(now, fx);
        self.connections.flush(fx);
        self.observe();
        // Turns that changed something are seen by the control lane a moment later.
        if !self.published_at(now) {
            fx.wake_at = Some(fx.wake_at.map_or(self.publish_at, |at| at.min(self.publish_at)));
        }
    }
}

impl Shard {
    /// As [`Machine::connected`]; `name` is the other side's in its certificate, if it has shown one.
    pub fn connected_as(
        &mut self,
        conn: ConnId,
        listener: usize,
        token: Option<u64>,
        shown: Option<Shown<'_>>,
        now: Nanos,
    ) {
        let is_peer = token.is_some() || listener == PEER_LISTENER;
        if let Some(replication) = self.replication.as_deref_mut().filter(|_| is_peer) {
            let name = shown.map(|shown| shown.name);
            return replication.connected(conn, token, name, now);
        }
        self.connections.opened(conn);
        if shown.is_some_and(|shown| !shown.operates) {
            self.connections.deny_commands(conn);
        }
        if is_peer {
            // Too early: this shard does not know yet who is in the cluster.
            return self.connections.end(conn);
        }
        self.context.metrics.connections_accepted.add(1);
        if self.stop_deadline.is_some() {
            self.connections.end(conn);
        }
    }

    /// Peers must show certificates from here on; this node's bears `name`. Before the shard learns
    /// who is in the cluster.
    pub fn certify(&mut self, name: String) {
        assert!(self.replication.is_none(), "links are made with what they demand of peers");
        self.certified = Some(name);
    }

    /// Handles the whole requests in what the connection has sent, until it has to be patient.
    fn take_requests(&mut self, conn: ConnId, bytes: &[u8], now: Nanos) {
        let Some(mut inbox) = self.connections.take_inbox(conn) else { return };
        let mut wanted = self.connections.wants_requests(conn);
        while wanted && let Some((asker, payload)) = self.connections.next_deferred(conn) {
            self.run_again(asker, payload, None);
            wanted = self.connections.wants_requests(conn);
        }
        let result = inbox.receive_while(bytes, wanted, |frame| {
            self.request(conn, frame, now);
            self.connections.wants_requests(conn)
        });
        let has_room = self.connections.restore_inbox(conn, inbox);
        if let Err(error) = result {
            self.refuse_stream(conn, error);
        } else if !has_room {
            self.count_bad_frame("memory");
            let message = "frames that are not whole yet fill their memory; send this again later";
            let code = ErrorCode::Overloaded as u16;
            let reply = ErrorReply { code, retry_after_micros: 100_000, message, item: None };
            self.connections.refuse(conn, &reply);
        }
    }

    fn refuse_stream(&mut self, conn: ConnId, error: FrameError) {
        self.count_bad_frame(error.name());
        let code = match error {
            FrameError::Version { .. } => ErrorCode::UnsupportedVersion,
            _ => ErrorCode::MalformedMessage,
        };
        let message = error.to_string();
        let reply =
            ErrorReply { code: code as u16, retry_after_micros: 0, message: &message, item: None };
        self.connections.refuse(conn, &reply);
    }

    /// Nothing is left to answer: send what waits in the outboxes, but do not wait for peers that
    /// do not take it.
    fn finish_stop(&mut self, now: Nanos, fx: &mut Effects) {
        let deadline = match self.stop_deadline {
            Some(deadline) => deadline,
            None => {
                self.refuse_changes(&Refusal::constant(
                    ErrorCode::TableNotActive,
                    "the node is stopping; it finishes the table's change when it runs again",
                ));
                self.connections.end_all();
                *self.stop_deadline.insert(now + STOP_SEND_NANOS_MAX)
            }
        };
        fx.stop = self.connections.open_count() == 0 || now >= deadline;
        fx.wake_at = Some(deadline);
    }
}
