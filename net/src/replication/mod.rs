//! Replicated groups on a shard: core's replicas and liveness, the store's members, and the links
//! between shards, joined.
//!
//! ```text
//!   links ──► Sink ─┬─ pair ──► Liveness ──┐                      ┌─► Store: stage, persist, choose
//!                   └─ group ─► Replica ───┼─► effects, in order ─┤
//!   Store ─► persisted, applied, … ────────┘                      ├─► Outbox ─► links
//!   shard ─► propose ─► tick at the turn's end                    └─► Event ─► shard
//! ```
//!
//! A state machine like the shard that owns it: no system call, time and randomness are arguments.
//!
//! # The order of a turn
//! 1. Events: [`Replication::received`] and the like. Effects on the store happen at once, because
//!    the next message may change what they speak of; what is to be sent is encoded at once and
//!    queued, because the links are busy handing over the batch.
//! 2. [`Replication::begin_turn`]: heartbeats, and, if this process's view of the world is fresh
//!    ([`crate::link::PauseGuard`]), what time has brought; what the store has done; then a slice of what
//!    is to be done for groups (below).
//! 3. The shard serves requests; writes are proposed.
//! 4. [`Replication::propose_all`]: each group that was written to sends its entries, and hands them to
//!    the log, before [`Store::turn`] begins the batch: so the followers' logs and this one's are
//!    written at the same time.
//! 5. [`Replication::end_turn`]: links hand out their buffers.
//!
//! # Thousands of groups
//! When a shard dies, or comes back, all groups with a member there have something to do at once. No turn
//! does it all: it takes so many messages of groups ([`Links::take_waiting`]), so many reports of the log,
//! and so many ticks (`TURN_STEPS_MAX`), and the next one goes on, after heartbeats were sent and heard.
//! Liveness never waits behind groups, because then leases lapse, and there is more to do. A group that
//! was written to does not wait behind those that were only woken.
//!
//! # Reads
//! **Rule (leases).** A strong read is served between two looks at the lease: [`Replication::may_read`]
//! before it, by the time of the turn, and [`Replication::reads_stand`] after all reads of the turn
//! and before any reply leaves, by a clock that is read then. In between only this thread runs, so
//! the state that was read is the state of both moments.
//!
//! A read that need not be strong takes no lease: any storage replica answers it from what it has
//! applied, and says how old that may be ([`Replication::lag`], module `fresh`).
//!
//! # Trimming
//! A group's entries may leave the log when two storage replicas' checkpoints have them. They stay
//! until they take too much of it ([`Store::must_trim`]), or would soon have to be copied to its head
//! ([`Store::old_slots`]): a member that was away for a while is caught up from them.
//! What has left the logs a member gets by a snapshot ([`snapshot`]).

mod admin;
mod entry;
mod fresh;
mod member;
mod membership;
mod outbox;
mod placement;
mod repair;
pub mod snapshot;
#[cfg(test)]
mod tests;
mod topology;
mod unheard;
mod wanting;

use std::sync::Arc;

use forebay_core::ids::{GroupId, Slot, TableId};
use forebay_core::liveness::{Liveness, LivenessSettings, PairEffect, PairMessage, Peer};
use forebay_core::message::Lag;
use forebay_core::message::peer::{
    Authentication, GroupMessage, Identity, MemberStep, Route, SnapshotMessage, StepKind, TableStep,
};
use forebay_core::paxos::{
    At, Configuration, Member, MemberId, MemberRole, NotServed, Replica, Settings,
};
use forebay_core::planted::{self, Flaw};
use forebay_core::time::Nanos;
use forebay_storage::store::{
    GroupOrdinal, InstallProgress, MemberDescriptor, Refused, Store, Ticket,
};

use crate::link::{LinkCounters, LinkEvent, LinkSettings, Links, Sink};
use crate::machine::{CloseReason, ConnId, Effects, SendBuf};
use crate::refusals::Words;
use member::Members;
use snapshot::Snapshots;

pub use admin::{ADMIN_BYTES_MAX, AdminAnswer, AdminCommand, GroupDescription, NodeDescription};
pub use member::{MemberStatus, NotProposed};
pub use membership::MemberState;
pub use placement::{DEAD_AFTER_NANOS, MEMBERS_WANTED, Placement, Seen, Spare};
pub use snapshot::{Promotion, SnapshotSettings, SnapshotStatus};
pub use topology::{Joined, Topology, TopologyError, TopologyNode, peer_of};
pub use unheard::Unheard;

/// Groups ticked in a turn without having been written to, and reports of the store taken in it: with a
/// few microseconds each, a turn stays far shorter than a heartbeat's interval even on a machine with
/// fewer cores than busy threads.
const TURN_STEPS_MAX: usize = 1024;

/// The node id of no node: ids are random.
const NOBODY: [u8; 16] = [0; 16];

/// Which shard of which cluster this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicationIdentity {
    /// The cluster.
    pub cluster_id: [u8; 16],
    /// The node.
    pub node_id: [u8; 16],
    /// The shard's number in the cluster.
    pub peer: Peer,
    /// Its number on the node.
    pub shard: u16,
    /// Where the node stands.
    pub az: u16,
}

/// What the shard should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything up to this slot is chosen and in the state: replies that wait for it may go.
    Applied(GroupOrdinal, Slot),
    /// This member leads the group, and serves.
    Leads(GroupOrdinal),
    /// It does not lead any more: the outcome of what it has not answered is unknown.
    StepsDown(GroupOrdinal),
    /// A step of a table's creation or deletion arrived.
    Table {
        /// From which shard.
        from: Peer,
        /// What is to be done, or was.
        step: StepKind,
        /// Of which table.
        table: TableId,
        /// Its description, not validated.
        description: Vec<u8>,
    },
    /// A step of a group's membership, or of the cluster's growth, arrived.
    Member(Peer, MemberStep),
}

/// See the module's docs.
#[derive(Debug)]
pub struct Replication {
    me: ReplicationIdentity,
    topology: Option<Arc<Topology>>,
    links: Links,
    members: Members,
    watcher: Option<membership::Watcher>,
    /// What the last reports were made under.
    reporting: membership::Reporting,
    /// Shards that this one does not reach, and since when.
    unreached: Vec<(Peer, Nanos)>,
    /// Links that came up.
    greeted: Vec<Peer>,
    scratch: Vec<u8>,
    snapshots: Snapshots,
    /// The earliest end of a lease that a read of this turn rests on.
    reads_stand_until: Option<Nanos>,
}

impl Replication {
    /// Takes over the members that the store has, right after it was opened.
    #[must_use]
    pub fn new(me: ReplicationIdentity, store: &Store, seed: u64, now: Nanos) -> Replication {
        let identity = Identity {
            cluster_id: me.cluster_id,
            node_id: me.node_id,
            peer: me.peer.0,
            shard: me.shard,
            az: me.az,
            incarnation: store.incarnation(),
            authentication: Authentication::Dev,
        };
        let settings = LivenessSettings::DEFAULT;
        let liveness = Liveness::new(me.peer, store.incarnation(), settings, false, now);
        let mut replication = Replication {
            me,
            topology: None,
            links: Links::new(identity, LinkSettings::DEFAULT),
            members: Members::new(liveness, seed),
            watcher: None,
            reporting: membership::Reporting::default(),
            unreached: Vec::new(),
            greeted: Vec::new(),
            scratch: Vec::new(),
            snapshots: Snapshots::new(SnapshotSettings::DEFAULT, seed.rotate_left(31)),
            reads_stand_until: None,
        };
        for (group, id, role) in store.members() {
            let recovered = store.recovered(group);
            let may_trim = recovered.trimmed;
            let replica = Replica::recover(id, Settings::DEFAULT, recovered);
            replication.members.insert(store.group_id(group), group, role, replica, may_trim);
        }
        replication
    }

    /// Learns who is in the cluster.
    pub fn set_topology(&mut self, topology: Arc<Topology>, now: Nanos) {
        for (info, _) in self.topology.iter().flat_map(|known| known.peers()) {
            let peer = Peer(info.expected.peer);
            if topology.native(peer).is_none() {
                self.links.remove_peer(peer, now);
                self.members.liveness.remove_peer(peer);
            }
        }
        for (info, _) in topology.peers() {
            self.links.set_peer(info, now);
            self.members.liveness.add_peer(Peer(info.expected.peer), now);
        }
        self.topology = Some(topology);
    }

    /// Who is in the cluster, once that is known.
    #[must_use]
    pub fn topology(&self) -> Option<&Arc<Topology>> {
        self.topology.as_ref()
    }

    /// This shard.
    #[must_use]
    pub fn me(&self) -> &ReplicationIdentity {
        &self.me
    }

    /// Creates a founding member of a group here.
    ///
    /// # Errors
    /// Nothing was begun; see [`Refused`].
    pub fn create(
        &mut self,
        store: &mut Store,
        group: GroupId,
        member: MemberId,
        configuration: Configuration,
        payload: &[u8],
    ) -> Result<(GroupOrdinal, Ticket), Refused> {
        let role = MemberRole::Storage;
        let configuration_of = Some(configuration);
        let descriptor =
            MemberDescriptor { group, member, role, configuration: configuration_of, payload };
        let (ordinal, ticket) = store.create_member(descriptor)?;
        let replica = Replica::bootstrap(member, Settings::DEFAULT, configuration);
        self.members.insert(group, ordinal, role, replica, Slot(0));
        Ok((ordinal, ticket))
    }

    /// The group is dropped from this shard.
    pub fn remove(&mut self, group: GroupOrdinal) {
        self.members.remove(group);
        self.snapshots.forget(group);
    }

    /// Stages a put (or a delete) and proposes it: the slot that it takes if it is chosen.
    ///
    /// # Errors
    /// Nothing was taken; see [`NotProposed`].
    pub fn propose(
        &mut self,
        store: &mut Store,
        group: GroupOrdinal,
        key: &[u8],
        item: Option<&[u8]>,
    ) -> Result<Slot, NotProposed> {
        self.members.propose(store, group, key, item)
    }

    /// The last slot that this member holds: what was derived from the group's entries in flight
    /// depends on no later one.
    #[must_use]
    pub fn last_slot(&self, group: GroupOrdinal) -> Slot {
        self.members.get(group).replica.figures().last_slot
    }

    /// Leave to read the group's applied state in this turn.
    ///
    /// # Errors
    /// If this member may not serve strong reads now.
    pub fn may_read(&mut self, group: GroupOrdinal, now: Nanos) -> Result<(), NotServed> {
        let until = self.members.may_read(group, now)?;
        let before = self.reads_stand_until.unwrap_or(until);
        self.reads_stand_until = Some(until.min(before));
        Ok(())
    }

    /// Whether every read since the last call may be answered: `clock` is read only if there were
    /// any. See the module's docs.
    pub fn reads_stand(&mut self, clock: impl FnOnce() -> Nanos) -> bool {
        let until = self.reads_stand_until.take();
        planted::has(Flaw::SkipSecondLook) || until.is_none_or(|until| clock() < until)
    }

    /// How far behind the leader's the state here may be, for a read that need not be strong. None:
    /// this member has no state to read.
    pub fn lag(&mut self, group: GroupOrdinal, now: Nanos) -> Option<Lag> {
        self.members.lag(group, now)
    }

    /// Whether this member leads the group and serves.
    #[must_use]
    pub fn leads(&self, group: GroupOrdinal) -> bool {
        self.members.get(group).serves
    }

    /// How often members here have begun to serve as leaders, ever.
    #[must_use]
    pub fn reigns(&self) -> u64 {
        self.members.reigns
    }

    /// The shard that leads the group, or to which its lead was handed, as far as this member knows.
    #[must_use]
    pub fn leader(&self, group: GroupOrdinal, now: Nanos) -> Option<Peer> {
        self.members.leader(group, now)
    }

    /// Whether the member here was handed its group's lead, and is about to serve.
    #[must_use]
    pub fn takes_over(&self, group: GroupOrdinal, now: Nanos) -> bool {
        self.members.takes_over(group, now)
    }

    /// Every member here, for operators.
    pub fn statuses(&self) -> impl Iterator<Item = MemberStatus> + '_ {
        self.members.statuses().map(|status| {
            let of = |progress: &InstallProgress| progress.group == status.ordinal;
            let progress = self.snapshots.progress.filter(of);
            let snapshot = progress.map(|progress| SnapshotStatus {
                items: progress.items,
                items_total: progress.items_total,
                bytes: progress.bytes,
                bytes_total: progress.bytes_total,
            });
            MemberStatus { snapshot, ..status }
        })
    }

    /// How fast snapshots are served and fetched.
    pub fn set_snapshot_settings(&mut self, settings: SnapshotSettings) {
        self.snapshots.set_settings(settings);
    }

    /// Lets a log replica of a group that this member leads become one that keeps state. See
    /// [`snapshot`].
    ///
    /// # Errors
    /// Why not, for people.
    pub fn begin_promotion(
        &mut self,
        group: GroupOrdinal,
        member: MemberId,
        now: Nanos,
    ) -> Result<(), String> {
        match self.members.promotion(group, member) {
            Promotion::NotHere => {
                Err(format!("this shard does not lead, or member {} is not known", member.0))
            }
            Promotion::Waiting => {
                self.snapshots.offer(group, member, now);
                Ok(())
            }
            Promotion::CatchingUp { .. } | Promotion::Ready => Ok(()),
        }
    }

    /// How far a log replica is on its way.
    #[must_use]
    pub fn promotion(&self, group: GroupOrdinal, member: MemberId) -> Promotion {
        self.members.promotion(group, member)
    }

    /// Tells it no more; what it has begun it goes on with.
    pub fn end_promotion(&mut self, group: GroupOrdinal, member: MemberId) {
        self.snapshots.withdraw(group, member);
    }

    /// Whether this member leads the group and holds the lease at this moment.
    #[must_use]
    pub fn holds_lease(&self, group: GroupOrdinal, now: Nanos) -> bool {
        let at = At { now, liveness: &self.members.liveness, random: 0 };
        self.members.get(group).replica.holds_lease(at)
    }

    /// The group's members, by the newest configuration that is known to be chosen.
    pub fn members_of(&self, group: GroupOrdinal) -> impl Iterator<Item = &Member> {
        let known = self.members.get(group).replica.configuration();
        known.into_iter().flat_map(|known| known.configuration.members())
    }

    /// Lets the member on shard `to` lead the group.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn hand_over(
        &mut self,
        store: &mut Store,
        group: GroupOrdinal,
        to: Peer,
        now: Nanos,
    ) -> Result<(), String> {
        self.members.hand_over(store, group, to, now)
    }

    /// For simulations: the member here stands for election, whatever it hears of the leader. What
    /// is safe is so whenever elections begin.
    pub fn stand(&mut self, store: &mut Store, group: GroupId, now: Nanos) {
        if let Some(ordinal) = self.members.ordinal(group) {
            self.members.stand(store, ordinal, now);
        }
    }

    /// Gives up the lead of every group here to a member that lives, so that nobody has to wait for
    /// a lease to end. Says how many groups are still led.
    pub fn hand_over_all(&mut self, store: &mut Store, now: Nanos) -> usize {
        self.members.hand_over_all(store, now)
    }

    /// The shard's log failed (**Rule (failed write or flush)**): no member here takes part any more.
    pub fn fail(&mut self, store: &mut Store, now: Nanos) {
        self.members.fail(store, now);
    }

    /// What the links have counted.
    #[must_use]
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Messages of peers that came to nothing.
    #[must_use]
    pub fn unheard(&self) -> &Unheard {
        &self.members.unheard
    }

    /// Takes what links and members have to say of what they refused.
    pub(crate) fn take_refusals(&mut self, words: &mut Words) {
        words.append(self.links.words());
        words.append(self.members.unheard.words());
    }

    /// What the shard should know, in order.
    pub fn take_events(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.members.events);
    }

    /// Sends a step of a table's creation or deletion; it may be lost.
    pub fn send_table(&mut self, to: Peer, step: StepKind, table: TableId, description: &[u8]) {
        let step = TableStep { step: step as u8, table: table.0, description };
        self.links.send_large(to, &step);
    }

    /// A connection is open: accepted on the peers' listener, or dialed by a link.
    ///
    /// `name` is the peer's in its certificate, if it has shown one. A name that no node of the cluster
    /// has belongs to no greeting, and is refused with it.
    pub fn connected(&mut self, conn: ConnId, token: Option<u64>, name: Option<&str>, now: Nanos) {
        let topology = self.topology.as_deref();
        let certified = name.map(|name| {
            let node = topology.and_then(|topology| topology.certified(name));
            node.map_or(NOBODY, |node| node.node_id)
        });
        self.links.connected(conn, token, certified, now);
    }

    /// Peers must show certificates from here on.
    pub fn demand_certificates(&mut self) {
        self.links.demand_certificates();
    }

    /// What the links have counted.
    #[must_use]
    pub fn link_counters(&self) -> &LinkCounters {
        self.links.counters()
    }

    /// A link's dial failed.
    pub fn connect_failed(&mut self, token: u64, now: Nanos) {
        self.links.connect_failed(token, now);
    }

    /// Whether the connection is a link's.
    #[must_use]
    pub fn owns(&self, conn: ConnId) -> bool {
        self.links.owns(conn)
    }

    /// Bytes arrived on a link's connection.
    pub fn received(&mut self, store: &mut Store, conn: ConnId, bytes: &[u8], now: Nanos) {
        let (members, snapshots) = (&mut self.members, &mut self.snapshots);
        let mut arrival = Arrival { members, snapshots, store, now };
        self.links.received(conn, bytes, now, &mut arrival);
    }

    /// A buffer of a link came back.
    pub fn sent(&mut self, conn: ConnId, buffer: SendBuf) {
        self.links.sent(conn, buffer);
    }

    /// A link's connection is gone.
    pub fn closed(&mut self, conn: ConnId, reason: CloseReason, now: Nanos) {
        self.links.closed(conn, reason, now);
    }

    /// See the module's docs.
    pub fn begin_turn(&mut self, store: &mut Store, now: Nanos, fx: &mut Effects) {
        self.members.begin_turn();
        if self.links.may_judge(now) {
            self.members.liveness.tick(now, &mut self.members.pair_effects);
            let random = self.members.draw();
            self.links.tick(now, random, fx);
        } else {
            self.members.liveness.beat(now, &mut self.members.pair_effects);
            fx.run_again = true;
        }
        for event in self.links.take_events() {
            let (LinkEvent::Up(peer) | LinkEvent::Down(peer)) = event;
            if matches!(event, LinkEvent::Up(_)) {
                self.greeted.push(peer);
                self.members.reconnected(peer);
            }
            self.members.pair_effects.push(PairEffect::Changed { peer });
        }
        for effect in std::mem::take(&mut self.members.pair_effects) {
            match effect {
                PairEffect::Send { to, message } => self.links.send_pair(to, &message),
                PairEffect::Changed { peer } => self.members.wake_all_on(peer),
                PairEffect::Doubted { peer } => self.members.wake_led_by(peer),
            }
        }
        self.members.take_done(store, now);
        let (members, snapshots) = (&mut self.members, &mut self.snapshots);
        let mut arrival = Arrival { members, snapshots, store: &mut *store, now };
        fx.run_again |= self.links.take_waiting(now, &mut arrival);
        self.members.wake_due(now);
        self.members.tick_woken(store, now);
        self.members.tick_touched(store, now);
        let (members, links) = (&mut self.members, &mut self.links);
        fx.run_again |= self.snapshots.turn(members, store, links, now);
        // A group of one's entry, or the last acknowledgement: applied within the turn.
        self.members.take_done(store, now);
    }

    /// Sends what was proposed in this turn, and hands it to the log.
    pub fn propose_all(&mut self, store: &mut Store, now: Nanos) {
        self.members.tick_touched(store, now);
    }

    /// Whether a link has something to hand out at a turn's end.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.links.has_unsent()
    }

    /// Hands out what is to be sent, and says when this must run again at the latest.
    pub fn end_turn(&mut self, now: Nanos, fx: &mut Effects) {
        self.members.outbox.send(&mut self.links);
        self.links.flush(now, fx);
        let due = [self.links.next_due(), self.members.liveness.next_due()];
        let others = self.members.next_due().into_iter().chain(self.snapshots.next_due());
        let due = due.into_iter().chain(others).min().expect("there are two");
        let wake_at = fx.wake_at.map_or(due, |at| at.min(due));
        fx.wake_at = Some(wake_at);
        fx.run_again |= self.members.has_events() || self.members.is_behind();
        self.links.sleeps_until(if fx.run_again { now } else { wake_at.max(now) });
    }
}

/// Takes what peers say while the links read it.
struct Arrival<'a> {
    members: &'a mut Members,
    snapshots: &'a mut Snapshots,
    store: &'a mut Store,
    now: Nanos,
}

impl Sink for Arrival<'_> {
    fn pair(&mut self, from: Peer, message: &PairMessage) {
        let Members { liveness, pair_effects, unheard, .. } = &mut *self.members;
        unheard.look_at(liveness, from, message);
        liveness.receive(from, message, self.now, pair_effects);
    }

    fn group(&mut self, from: Peer, message: &GroupMessage<'_>) {
        self.members.receive(self.store, from, message, self.now);
    }

    fn snapshot(&mut self, from: Peer, route: Route, transfer: u64, message: SnapshotMessage<'_>) {
        let (members, store) = (&mut *self.members, &mut *self.store);
        self.snapshots.receive(members, store, from, (route, transfer), message, self.now);
    }

    fn table(&mut self, from: Peer, step: StepKind, table: TableId, description: &[u8]) {
        let description = description.to_vec();
        self.members.events.push(Event::Table { from, step, table, description });
    }

    fn member(&mut self, from: Peer, step: MemberStep) {
        self.members.events.push(Event::Member(from, step));
    }
}
