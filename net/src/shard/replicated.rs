//! What a shard of a cluster does besides: its groups are replicated, and it may lead some of them.
//!
//! ```text
//!   write ─► propose ─► slot ──► queue of the group ── applied ──► reply
//!                                       └── stepped down ──► LeadershipLost: the outcome is unknown
//!   read ──► lease ─► state ─► outbox ── lease again, by a fresh clock ──► sent
//! ```
//!
//! On a shard that stands alone none of this exists: writes wait by tickets of the log.

use core::net::SocketAddr;
use std::collections::VecDeque;
use std::sync::Arc;

use forebay_core::ids::{GroupId, ShardId, Slot, TableId};
use forebay_core::liveness::Peer;
use forebay_core::message::peer::StepKind;
use forebay_core::message::{ErrorCode, Lag};
use forebay_core::paxos::{Az, Configuration, MemberId, NotServed};
use forebay_core::planted::{self, Flaw};
use forebay_core::table::PartitionDescription;
use forebay_core::time::Nanos;
use forebay_storage::store::{GroupOrdinal, Refused, Ticket};

use super::read::Consistency;
use super::refusal::Refusal;
use super::system::ShardMail;
use super::{Asker, Mail, Shard, WaitingReply};
use crate::machine::{ConnId, Effects};
use crate::replication::{Event, NotProposed, Replication, ReplicationIdentity, Topology, peer_of};

/// A shard that nobody leads is asked again after this.
const RETRY_NANOS: u64 = 20 * Nanos::PER_MILLI;
/// How long a stopping shard tries to hand over what it leads.
const HAND_OVER_NANOS_MAX: u64 = 500 * Nanos::PER_MILLI;

/// What a shard of a cluster is told at its start. Who is in the cluster, and who it is itself there, it
/// hears later ([`ShardMail::Topology`]); until then it refuses everything as if it led nothing.
#[derive(Clone, Debug)]
pub struct ClusterContext {
    /// Where the node stands.
    pub az: u16,
    /// Where each shard of the node listens for peers, by shard number.
    pub peer: Vec<SocketAddr>,
    /// The shard's clock, for a look between a read and its reply.
    pub clock: Clock,
    /// Whether nodes may join: all addresses stay what they are.
    pub grows: bool,
}

/// A clock that can be read in the middle of a turn.
#[derive(Clone)]
pub struct Clock(pub Arc<dyn Fn() -> Nanos + Send + Sync>);

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// What a reply waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Everything up to this ticket is chosen, in groups of one.
    Ticket(Ticket),
    /// Everything up to this slot of a replicated group is applied, and this member has led it ever
    /// since: the same slot under another leader is another entry.
    Slot(GroupOrdinal, Slot, Reign),
}

/// One unbroken lead of a group by this member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reign(u32);

/// A reply that waits for a slot.
#[derive(Debug)]
struct Waiting {
    slot: Slot,
    asker: Asker,
    reply: WaitingReply,
}

/// The replies that wait for slots, by group.
#[derive(Debug, Default)]
pub(super) struct SlotQueues {
    queues: Vec<(Reign, VecDeque<Waiting>)>,
    count: usize,
}

impl SlotQueues {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The lead that the group is under, or will be next.
    fn reign(&self, group: GroupOrdinal) -> Reign {
        self.queues.get(group.0 as usize).map_or(Reign::default(), |(reign, _)| *reign)
    }

    fn of(&mut self, group: GroupOrdinal) -> &mut (Reign, VecDeque<Waiting>) {
        let index = group.0 as usize;
        if self.queues.len() <= index {
            self.queues.resize_with(index + 1, Default::default);
        }
        &mut self.queues[index]
    }

    /// The lead is over; nothing waits for its slots any more.
    fn end_reign(&mut self, group: GroupOrdinal) {
        let (reign, queue) = self.of(group);
        assert!(queue.is_empty(), "who waited was told");
        reign.0 = reign.0.wrapping_add(1);
    }

    fn push(&mut self, group: GroupOrdinal, mut waiting: Waiting) {
        let (_, queue) = self.of(group);
        // What depends on an older slot only goes behind the queue all the same.
        waiting.slot = queue.back().map_or(waiting.slot, |last| last.slot.max(waiting.slot));
        queue.push_back(waiting);
        self.count += 1;
    }

    fn pop(&mut self, group: GroupOrdinal, upto: Slot) -> Option<(Asker, WaitingReply)> {
        let (_, queue) = self.queues.get_mut(group.0 as usize)?;
        let waiting = queue.pop_front_if(|waiting| waiting.slot <= upto)?;
        self.count -= 1;
        Some((waiting.asker, waiting.reply))
    }

    /// Takes any reply: the shard has failed.
    pub(super) fn pop_any(&mut self) -> Option<(Asker, WaitingReply)> {
        let waiting = self.queues.iter_mut().find_map(|(_, queue)| queue.pop_front())?;
        self.count -= 1;
        Some((waiting.asker, waiting.reply))
    }
}

fn lost() -> Refusal {
    Refusal::constant(
        ErrorCode::LeadershipLost,
        "this member stopped leading before the write was chosen; its outcome is not known",
    )
}

impl Shard {
    /// Whether this node is one of a cluster.
    #[inline]
    pub(super) fn is_clustered(&self) -> bool {
        self.context.cluster.is_some()
    }

    /// This shard's number among those that it exchanges messages with.
    pub(super) fn me(&self) -> Peer {
        match &self.replication {
            Some(replication) => replication.me().peer,
            None => peer_of(0, self.context.shard),
        }
    }

    /// Begins a put of `self.key`, or a delete; None if there is no room for the moment, or the group's
    /// members or its leader are changing: the write waits, so that clients see of a heal nothing, and of
    /// a hand-over no more than its milliseconds.
    #[inline]
    pub(super) fn begin_write(
        &mut self,
        group: GroupOrdinal,
        item: Option<&[u8]>,
    ) -> Result<Option<Mark>, Refusal> {
        let key = self.key.as_bytes();
        let Some(replication) = self.replication.as_deref_mut() else {
            if self.is_clustered() {
                return Err(self.not_leader(group));
            }
            let begun = match item {
                Some(item) => self.store.put(group, key, item),
                None => self.store.delete(group, key),
            };
            return match begun {
                Ok(ticket) => Ok(Some(Mark::Ticket(ticket))),
                Err(Refused::Overloaded) => Ok(None),
                Err(refused) => Err(refused.into()),
            };
        };
        match replication.propose(&mut self.store, group, key, item) {
            Ok(slot) => Ok(Some(Mark::Slot(group, slot, self.slots.reign(group)))),
            Err(NotProposed::Refused(Refused::Overloaded) | NotProposed::Changing) => Ok(None),
            Err(NotProposed::Refused(refused)) => Err(refused.into()),
            Err(NotProposed::NotLeading) if replication.takes_over(group, self.now) => Ok(None),
            Err(NotProposed::NotLeading) => Err(self.not_leader(group)),
            Err(NotProposed::NotNow) => Err(Refusal::constant(
                ErrorCode::Overloaded,
                "as many writes as may wait for the group's other members do",
            )
            .retry_after(RETRY_NANOS)),
        }
    }

    /// Whether the member here is about to lead: what it is asked may wait for that.
    pub(super) fn takes_over(&self, group: GroupOrdinal) -> bool {
        let replication = self.replication.as_deref();
        replication.is_some_and(|replication| replication.takes_over(group, self.now))
    }

    /// Everything that has been begun in the group: what was read of it depends on no more.
    pub(super) fn last_mark(&self, group: GroupOrdinal) -> Mark {
        match &self.replication {
            Some(replication) => {
                Mark::Slot(group, replication.last_slot(group), self.slots.reign(group))
            }
            None => Mark::Ticket(self.store.last_ticket()),
        }
    }

    /// Whether the mark is still to come.
    pub(super) fn is_ahead(&self, mark: Mark) -> bool {
        match mark {
            Mark::Ticket(ticket) => ticket > self.store.chosen_ticket(),
            Mark::Slot(group, slot, _) => slot > self.store.applied_slot(group),
        }
    }

    /// Leave to read the group's state in this turn.
    #[inline]
    pub(super) fn readable(&mut self, group: GroupOrdinal) -> Result<(), Refusal> {
        if !self.is_clustered() {
            return Ok(());
        }
        let Some(replication) = self.replication.as_deref_mut() else {
            return Err(self.not_leader(group));
        };
        match replication.may_read(group, self.now) {
            Ok(()) => Ok(()),
            Err(NotServed::NotLeading { .. } | NotServed::NotYet | NotServed::NoLease) => {
                Err(self.not_leader(group))
            }
        }
    }

    /// Leave to read the group's state in this turn as the reader wants it; how far behind it may be.
    #[inline]
    pub(super) fn readable_as(
        &mut self,
        group: GroupOrdinal,
        consistency: Consistency,
    ) -> Result<Lag, Refusal> {
        let Consistency::Within { millis } = consistency else {
            return self.readable(group).map(|()| Lag::NONE);
        };
        if !self.is_clustered() {
            return Ok(Lag::NONE);
        }
        let now = self.now;
        let lag = self.replication.as_deref_mut().and_then(|members| members.lag(group, now));
        let lag = lag.ok_or_else(|| self.not_leader(group))?;
        if millis > 0 && lag.age_millis > u64::from(millis) {
            let words = match lag.age_millis {
                Lag::UNKNOWN_AGE => format!(
                    "this replica has not heard from a leader yet; at most {millis} ms are asked for"
                ),
                age => format!(
                    "this replica was up to date {age} ms ago; at most {millis} ms are asked for"
                ),
            };
            return Err(Refusal::new(ErrorCode::TooStale, words));
        }
        Ok(lag)
    }

    /// "The leader is …"
    pub(super) fn not_leader(&self, group: GroupOrdinal) -> Refusal {
        let replication = self.replication.as_deref();
        let leader = replication.and_then(|replication| {
            let leader = replication.leader(group, self.now);
            let peer = leader.filter(|peer| *peer != replication.me().peer)?;
            replication.topology()?.native(peer)
        });
        let mut refusal =
            Refusal::constant(ErrorCode::NotLeader, "this member does not lead the group");
        refusal.leader = leader;
        if leader.is_none() { refusal.retry_after(RETRY_NANOS) } else { refusal }
    }

    /// Answers when the slot is applied; at once if the lead that it was proposed under is over.
    pub(super) fn answer_at(
        &mut self,
        (group, slot, reign): (GroupOrdinal, Slot, Reign),
        asker: Asker,
        reply: WaitingReply,
    ) {
        if planted::has(Flaw::ReplyUnchosen) {
            self.parking.hold(reply.bytes());
            return self.release_one(asker, reply, self.now);
        }
        if self.slots.reign(group) != reign {
            if !matches!(reply, WaitingReply::System(_)) {
                self.refuse(asker, &lost());
            }
            return;
        }
        self.parking.hold(reply.bytes());
        self.slots.push(group, Waiting { slot, asker, reply });
    }

    /// Whether a connection belongs to the links.
    pub(super) fn is_link(&self, conn: ConnId) -> bool {
        self.replication.as_deref().is_some_and(|replication| replication.owns(conn))
    }

    /// What the peers, the log and time have brought.
    pub(super) fn begin_replicating(&mut self, now: Nanos, fx: &mut Effects) {
        let Some(replication) = self.replication.as_deref_mut() else { return };
        replication.begin_turn(&mut self.store, now, fx);
        if self.stopping {
            let until = *self.hand_over_until.get_or_insert(now + HAND_OVER_NANOS_MAX);
            if now < until && replication.hand_over_all(&mut self.store, now) == 0 {
                self.hand_over_until = Some(now);
            }
        }
        self.take_events(now);
    }

    /// The shard's log failed: no member here takes part any more.
    pub(super) fn fail_replicas(&mut self, now: Nanos) {
        if let Some(replication) = self.replication.as_deref_mut() {
            replication.fail(&mut self.store, now);
        }
    }

    fn take_events(&mut self, now: Nanos) {
        let Some(replication) = self.replication.as_deref_mut() else { return };
        let mut events = std::mem::take(&mut self.events);
        replication.take_events(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Applied(group, slot) => {
                    while let Some((asker, reply)) = self.slots.pop(group, slot) {
                        self.release_one(asker, reply, now);
                    }
                }
                Event::Leads(group) => {
                    self.context.metrics.leads_won.add(1);
                    if self.system.group == Some(group) {
                        self.system.forget();
                    }
                }
                Event::StepsDown(group) => {
                    self.context.metrics.leads_lost.add(1);
                    self.lose(group);
                }
                Event::Table { from, step, table, description } => {
                    self.table_step(from, step, table, &description, now);
                }
                Event::Member(from, step) => self.member_step(from, step, now),
            }
        }
        self.events = events;
    }

    /// This member does not lead the group any more.
    fn lose(&mut self, group: GroupOrdinal) {
        if planted::has(Flaw::KeepWaitingAfterLead) {
            return;
        }
        let lost = match planted::has(Flaw::LostIsRefused) {
            true => self.not_leader(group),
            false => lost(),
        };
        while let Some((asker, reply)) = self.slots.pop(group, Slot(u64::MAX)) {
            self.parking.let_go(reply.bytes());
            if !matches!(reply, WaitingReply::System(_)) {
                self.refuse(asker, &lost);
            }
        }
        self.slots.end_reign(group);
        if self.system.group == Some(group) {
            self.refuse_changes(&lost);
            self.system.forget();
        }
    }

    /// Sends what was proposed; before the log's batch begins.
    pub(super) fn propose_all(&mut self, now: Nanos) {
        if let Some(replication) = self.replication.as_deref_mut() {
            replication.propose_all(&mut self.store, now);
        }
    }

    /// Hands out what peers are to get, and takes back replies to reads that may be too late.
    pub(super) fn end_replicating(&mut self, now: Nanos, fx: &mut Effects) {
        let Some(replication) = self.replication.as_deref_mut() else { return };
        if let Some(cluster) = &self.context.cluster {
            let Clock(clock) = &cluster.clock;
            if !replication.reads_stand(|| clock()) {
                // This process was stopped in the middle of the turn. What is in the outboxes may
                // be old by now: the peers connect and ask again.
                self.connections.cut_unsent();
            }
        }
        fx.run_again |= self.store.has_reports();
        replication.end_turn(now, fx);
    }

    /// In what time every page is read from the disk once; None: pages that nobody asks for are not read.
    pub fn set_scrub_period(&mut self, nanos: Option<u64>) {
        self.store.set_scrub_period(nanos);
    }

    /// How fast snapshots for members of replicated groups are served and fetched.
    pub fn set_snapshot_bytes_per_second(&mut self, bytes_per_second: u64) {
        self.snapshots.bytes_per_second = bytes_per_second;
        if let Some(replication) = self.replication.as_deref_mut() {
            replication.set_snapshot_settings(self.snapshots);
        }
    }

    /// Learns who is in the cluster; with `bootstrap` the cluster is new, and its founders create
    /// the system group.
    pub(super) fn learn_topology(&mut self, topology: Arc<Topology>, bootstrap: bool, now: Nanos) {
        let founders = topology.system_founders();
        if self.replication.is_none() {
            let place = topology.nodes.iter().position(|node| node.node_id == self.context.node_id);
            let Some(place) = place.filter(|_| self.is_clustered()) else { return };
            let identity = ReplicationIdentity {
                cluster_id: topology.cluster_id,
                node_id: self.context.node_id,
                peer: peer_of(place, self.context.shard),
                shard: self.context.shard.0,
                az: topology.nodes[place].az,
            };
            let seed = self.context.random_seed;
            let mut replication = Replication::new(identity, &self.store, seed, now);
            replication.set_snapshot_settings(self.snapshots);
            if self.certified.is_some() {
                replication.demand_certificates();
            }
            self.replication = Some(Box::new(replication));
        }
        let Some(replication) = self.replication.as_deref_mut() else { return };
        let is_news = replication.topology().is_none_or(|known| known.nodes != topology.nodes);
        replication.set_topology(topology, now);
        if is_news {
            self.nodes_changed();
        }
        let Some(replication) = self.replication.as_deref_mut() else { return };
        let me = replication.me().peer;
        let Some((id, _, _)) = founders.iter().find(|(_, peer, _)| *peer == me).copied() else {
            return;
        };
        if !bootstrap || self.system.group.is_some() || self.store.logs_lost() > 0 {
            return;
        }
        match create(replication, &mut self.store, GroupId::SYSTEM, id, &founders, &[]) {
            Ok((group, _)) => self.system.group = Some(group),
            Err(_) => assert!(self.store.failure().is_some(), "a fresh store has room"),
        }
    }

    /// Creates this shard's member of a partition's group, if it founds one.
    pub(super) fn create_founder(
        &mut self,
        partition: &PartitionDescription,
        payload: &[u8],
    ) -> Option<Result<(GroupOrdinal, Ticket), Refused>> {
        if self.store.logs_lost() > 0 {
            // It may have been founded here before, in the part of the log that is lost, and no identity
            // comes back (**Rule (identity)**). The other founders replace this one.
            return None;
        }
        let replication = self.replication.as_deref_mut()?;
        let me = replication.me().peer;
        let id = partition.founders().find(|founder| founder.peer == me)?.id;
        let founders = partition.founders().map(|founder| (founder.id, founder.peer, founder.az));
        let founders: Vec<_> = founders.collect();
        Some(create(replication, &mut self.store, partition.group, id, &founders, payload))
    }

    /// Sends a shard its part of a table's creation or deletion, or says that it is done.
    pub(super) fn post(&mut self, to: Peer, message: ShardMail, now: Nanos) {
        let me = self.me();
        if to == me {
            return self.mail(message, now);
        }
        let Some(replication) = self.replication.as_deref_mut() else {
            let to = ShardId(to.0 as u16);
            return self.mail.push(Mail { to, message });
        };
        match message {
            ShardMail::CreatePartitions { description, .. } => {
                let bytes = description.to_item().to_bytes().expect("a description is an item");
                replication.send_table(to, StepKind::Create, description.id, &bytes);
            }
            ShardMail::PartitionsCreated { table, .. } => {
                replication.send_table(to, StepKind::Created, table, &[]);
            }
            ShardMail::DropPartitions { table, .. } => {
                replication.send_table(to, StepKind::Drop, table, &[]);
            }
            ShardMail::PartitionsDropped { table, .. } => {
                replication.send_table(to, StepKind::Dropped, table, &[]);
            }
            ShardMail::Topology { .. } => unreachable!("the node tells its shards itself"),
        }
    }

    fn table_step(
        &mut self,
        from: Peer,
        step: StepKind,
        table: TableId,
        description: &[u8],
        now: Nanos,
    ) {
        let message = match step {
            StepKind::Create => {
                // What a peer of another version describes is left alone: it will ask again.
                let Some(description) = super::system::read_description(description) else {
                    return;
                };
                ShardMail::CreatePartitions { description: Box::new(description), from }
            }
            StepKind::Created => ShardMail::PartitionsCreated { table, from },
            StepKind::Drop => ShardMail::DropPartitions { table, from },
            StepKind::Dropped => ShardMail::PartitionsDropped { table, from },
        };
        self.mail(message, now);
    }
}

fn create(
    replication: &mut Replication,
    store: &mut forebay_storage::store::Store,
    group: GroupId,
    id: MemberId,
    founders: &[(MemberId, Peer, Az)],
    payload: &[u8],
) -> Result<(GroupOrdinal, Ticket), Refused> {
    let mut azs: Vec<Az> = founders.iter().map(|(_, _, az)| *az).collect();
    azs.sort_unstable();
    azs.dedup();
    let configuration = Configuration::bootstrap(founders, azs.len() as u16);
    let configuration = configuration.expect("the leader placed the members by the same rules");
    replication.create(store, group, id, configuration, payload)
}
