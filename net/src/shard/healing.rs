//! Groups that lost a member become whole again, and the cluster's list of nodes grows.
//!
//! ```text
//!   every shard                                    the leader of the system group
//!     │  reports of the groups that it leads ─────► Placement ─► orders ─► shards
//!     │                                              │
//!     │                                              └─► who the members are ─► tables' items
//!     │  "may this go?" ──────────────────────────► yes, once that is chosen and the group is whole
//! ```
//!
//! **Written down.** The members of a table's groups stand in the table's item as the groups' leaders
//! report them, for clients and for the next leader of the system group. The groups' logs are the
//! authority, and a report of a later slot replaces what is written. A member may be dropped only
//! when what is written is as new as the configuration that does not list it: so no founder that was
//! replaced is ever founded again.
//!
//! **Members lost with a shard's log** have an identity that nobody uses any more. Their shard says so to
//! the groups, which remove them; new members on the same shard begin with their state, and what nobody
//! needs any more is dropped as other relics are.
//!
//! **The list of nodes** is an item of the system group too, under a key that no table can have. It
//! travels from shard 0 to shard 0 of the nodes, whoever leads: links that come up begin with its
//! length, and who knows more tells. So a node that was away learns of nodes that joined meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use forebay_core::ids::{Ballot, GroupId, ShardId, Slot, TableId};
use forebay_core::item::{Item, ItemRef, ValueRef};
use forebay_core::liveness::Peer;
use forebay_core::message::ErrorCode;
use forebay_core::message::peer::{GroupReport, MemberStep};
use forebay_core::paxos::{Change, MemberId};
use forebay_core::table::{PartitionDescription, TableDescription, TableStatus};
use forebay_core::time::Nanos;
use forebay_storage::store::{GroupOrdinal, LostMember, Refused};

use super::Shard;
use super::changes::Step;
use super::replicated::Mark;
use super::system::system_key;
use crate::replication::{DEAD_AFTER_NANOS, Joined, Placement, Promotion, Topology, TopologyNode};

/// How often reports are looked for, and orders given.
const TICK_NANOS: u64 = 100 * Nanos::PER_MILLI;
/// How often the leader of the system group says that it is.
const WATCH_NANOS: u64 = Nanos::PER_SECOND;
/// How often a shard asks about members that nobody needs.
const HOLDS_NANOS: u64 = 2 * Nanos::PER_SECOND;
/// Members asked about at a time.
const HOLDS_MAX: usize = 64;
/// How often a shard tells of members that were lost with its log: more often than a group's leader
/// forgets it.
const LOST_NANOS: u64 = 400 * Nanos::PER_MILLI;
/// Lost members told of at a time: the others follow when these are replaced.
const LOST_MAX: usize = 1024;
/// Key of the list of nodes in the system group: no table has such a name.
pub(super) const NODES_KEY: &str = "/nodes";
const NODES_JSON: &str = "json";

/// See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Healing {
    /// On the shard that leads the system group, under this ballot. It outlives a lapse of the lease: what
    /// groups' leaders have told under a ballot they do not tell again under it.
    placement: Option<Box<Placement>>,
    ballot: Ballot,
    tick_at: Nanos,
    watch_at: Nanos,
    holds_at: Nanos,
    lost_at: Nanos,
    /// Which table a group is of.
    tables: HashMap<GroupId, TableId>,
    /// Tables whose members are to be written down.
    dirty: BTreeSet<TableId>,
    /// What is on its way there.
    writing: BTreeMap<TableId, Vec<(GroupId, Slot)>>,
    /// The slots up to which it is chosen who the members are.
    written: HashMap<GroupId, Slot>,
    /// The list of nodes that is on its way to the system group.
    growing: Option<Topology>,
    /// After how long a silent node's members are replaced, if an operator says so.
    replace_after_nanos: Option<u64>,
}

impl Healing {
    /// What the leader of the system group has decided, for operators.
    pub(super) fn placement(&self) -> Option<&Placement> {
        self.placement.as_deref()
    }

    /// A table exists from now on.
    pub(super) fn know(&mut self, description: &TableDescription) {
        for partition in &description.partitions {
            self.tables.insert(partition.group, description.id);
            if let Some(placement) = &mut self.placement {
                placement.know(partition.group, partition.shard, partition.peers());
            }
        }
    }

    /// A table exists no more.
    pub(super) fn forget(&mut self, description: &TableDescription) {
        for partition in &description.partitions {
            self.tables.remove(&partition.group);
            self.written.remove(&partition.group);
            if let Some(placement) = &mut self.placement {
                placement.forget(partition.group);
            }
        }
        self.dirty.remove(&description.id);
        self.writing.remove(&description.id);
    }
}

/// What a member's shard keeps with the group: the table, and of its partitions this group's. What lies
/// before it, and after it, is one partition each, whose members nobody asks for here: with all of them,
/// what a table of many partitions costs would grow with their square.
pub(super) fn payload_of(description: &TableDescription, group: GroupId) -> Vec<u8> {
    let all = &description.partitions;
    let at = all.iter().position(|partition| partition.group == group);
    let at = at.expect("the table has the partition");
    let other = |partition: &PartitionDescription, hash_first: u64, hash_last: u64| {
        let (founders, members) = (Default::default(), None);
        PartitionDescription { hash_first, hash_last, founders, members, ..*partition }
    };
    let own = &all[at];
    let mut partitions = vec![*own];
    if at > 0 {
        partitions.insert(0, other(&all[at - 1], 0, own.hash_first - 1));
    }
    if let Some(next) = all.get(at + 1) {
        partitions.push(other(next, own.hash_last + 1, u64::MAX));
    }
    let TableDescription { id, name, schema, hash_seed, status, created_unix_millis, .. } =
        description;
    let kept = TableDescription {
        id: *id,
        name: name.clone(),
        schema: schema.clone(),
        hash_seed: *hash_seed,
        partitions,
        status: *status,
        created_unix_millis: *created_unix_millis,
    };
    kept.to_item().to_bytes().expect("a description is a valid item")
}

/// The list of nodes in an item of the system group.
pub(super) fn read_nodes(item: &[u8]) -> Option<Topology> {
    match ItemRef::validate(item).ok()?.as_map().get(NODES_JSON) {
        Some(ValueRef::B(json)) => serde_json::from_slice(json).ok(),
        _ => None,
    }
}

impl Shard {
    /// How long a node may be silent before its members are replaced, where this shard decides that. To be
    /// said before the shard's first turn.
    pub fn set_replace_after(&mut self, nanos: u64) {
        self.healing.replace_after_nanos = Some(nanos);
    }

    /// Does what is due for the groups' members. When to come back.
    pub(super) fn heal(&mut self, now: Nanos) -> Option<Nanos> {
        self.replication.as_deref()?;
        self.greet_links();
        if now < self.healing.tick_at || self.stopping {
            return (!self.stopping).then_some(self.healing.tick_at);
        }
        self.healing.tick_at = now + TICK_NANOS;
        if self.heals(now) {
            self.watch(now);
            self.place_members(now);
            self.write_members();
        }
        if let Some(replication) = self.replication.as_deref_mut() {
            replication.yield_leads(&mut self.store, now);
        }
        self.report_groups(now);
        self.ask_about_relics(now);
        self.tell_of_lost(now);
        Some(self.healing.tick_at)
    }

    /// Whether this shard leads the system group with a lease, and knows all tables.
    fn heals(&mut self, now: Nanos) -> bool {
        let (Some(group), Some(replication)) = (self.system.group, self.replication.as_deref())
        else {
            return false;
        };
        let ballot = replication.ballot(group);
        let leads = self.system.loaded && replication.leads(group);
        if !leads || (self.healing.placement.is_some() && self.healing.ballot != ballot) {
            let tables = std::mem::take(&mut self.healing.tables);
            let Healing { tick_at, holds_at, lost_at, replace_after_nanos, .. } = self.healing;
            let tables = if self.system.loaded { tables } else { HashMap::new() };
            let kept =
                Healing { tick_at, holds_at, lost_at, replace_after_nanos, ..Healing::default() };
            self.healing = Healing { tables, ..kept };
        }
        if !leads {
            return false;
        }
        if !replication.holds_lease(group, now) {
            if let Some(placement) = &mut self.healing.placement {
                placement.look_anew();
            }
            return false;
        }
        if self.healing.placement.is_none() {
            let replace_after = self.healing.replace_after_nanos.unwrap_or(DEAD_AFTER_NANOS);
            let mut placement = Box::new(Placement::new(replace_after));
            if let Some(topology) = replication.topology() {
                placement.set_nodes(topology);
            }
            let peers = replication.members_of(group).map(|member| member.peer);
            placement.know(GroupId::SYSTEM, ShardId(0), peers);
            (self.healing.placement, self.healing.ballot) = (Some(placement), ballot);
            for description in self.system.by_name.values() {
                self.healing.know(description);
                for partition in &description.partitions {
                    let slot = partition.members.map_or(Slot(0), |members| members.slot);
                    self.healing.written.insert(partition.group, slot);
                }
            }
        }
        true
    }

    /// Tells all shards whom to report to, and how many nodes there are.
    fn watch(&mut self, now: Nanos) {
        if now < self.healing.watch_at {
            return;
        }
        self.healing.watch_at = now + WATCH_NANOS;
        let Some(replication) = self.replication.as_deref_mut() else { return };
        let ballot = replication.ballot(self.system.group.expect("it is led here"));
        let me = replication.me().peer;
        replication.watched_by(me, ballot);
        let linked: Vec<Peer> = replication.linked().collect();
        let nodes = replication.topology().map_or(0, |topology| topology.nodes.len() as u64);
        for peer in linked {
            replication.send_member(peer, &MemberStep::Watch { ballot });
            if peer.is_first_shard() {
                replication.send_member(peer, &MemberStep::Topology { nodes, json: Vec::new() });
            }
        }
    }

    fn place_members(&mut self, now: Nanos) {
        let Some(placement) = self.healing.placement.as_deref_mut() else { return };
        let replication = self.replication.as_deref().expect("it leads");
        let (system, mut orders) = (&mut self.system, Vec::new());
        let reached = replication.reached(now);
        let see = |peer| replication.see(peer, &reached, now);
        placement.step(now, see, || system.random(), &mut orders);
        for (to, mut order) in orders {
            if let MemberStep::Create { group, payload, .. } = &mut order
                && let Some(table) = self.healing.tables.get(group)
            {
                let Some(description) = self.system.by_id(*table) else { continue };
                *payload = payload_of(description, *group);
            }
            self.tell(to, order, now);
        }
    }

    /// Sends a step, or takes it if it is for this shard.
    fn tell(&mut self, to: Peer, step: MemberStep, now: Nanos) {
        if to == self.me() {
            return self.member_step(to, step, now);
        }
        if let Some(replication) = self.replication.as_deref_mut() {
            replication.send_member(to, &step);
        }
    }

    /// Writes down who the members of groups are.
    fn write_members(&mut self) {
        for table in std::mem::take(&mut self.healing.dirty) {
            let Some(description) = self.system.by_id(table).cloned() else { continue };
            if self.healing.writing.contains_key(&table) {
                self.healing.dirty.insert(table);
                continue;
            }
            match self.write_table(&description) {
                Ok(Some(mark)) => {
                    let members = description.partitions.iter();
                    let slots = members.filter_map(|partition| {
                        Some((partition.group, partition.members.as_ref()?.slot))
                    });
                    self.healing.writing.insert(table, slots.collect());
                    self.step_later(mark, Step::MembersWritten(table));
                }
                // No room for the moment, or another leads soon and hears of them.
                Ok(None) | Err(_) => _ = self.healing.dirty.insert(table),
            }
        }
    }

    /// It is chosen.
    pub(super) fn members_written(&mut self, table: TableId) {
        self.healing.written.extend(self.healing.writing.remove(&table).unwrap_or_default());
    }

    fn report_groups(&mut self, now: Nanos) {
        let mut reports = Vec::new();
        let Some(replication) = self.replication.as_deref_mut() else { return };
        replication.reports(now, &mut reports);
        for (from, group, member) in replication.take_absent() {
            replication.send_member(from, &MemberStep::Absent { group, member });
        }
        for (to, report) in reports {
            self.tell(to, MemberStep::Report(report), now);
        }
    }

    fn ask_about_relics(&mut self, now: Nanos) {
        if now < self.healing.holds_at {
            return;
        }
        self.healing.holds_at = now + HOLDS_NANOS;
        let Some(replication) = self.replication.as_deref_mut() else { return };
        let mut relics = replication.relics(now);
        relics.extend(self.store.lost_members().map(|lost| {
            let slot = lost.configuration.map_or(Slot(0), |known| known.slot);
            (lost.group, lost.member, slot)
        }));
        let Some(watcher) = replication.watcher() else { return };
        for (group, member, slot) in relics.into_iter().take(HOLDS_MAX) {
            self.tell(watcher, MemberStep::Holds { group, member, slot }, now);
        }
    }

    /// Tells the groups of members that were lost with this shard's log.
    fn tell_of_lost(&mut self, now: Nanos) {
        if now < self.healing.lost_at {
            return;
        }
        self.healing.lost_at = now + LOST_NANOS;
        let (me, Some(replication)) = (self.me(), self.replication.as_deref_mut()) else { return };
        for LostMember { group, member, configuration } in self.store.lost_members().take(LOST_MAX)
        {
            let known = configuration.iter().flat_map(|known| known.configuration.members());
            for peer in known.map(|other| other.peer).filter(|peer| *peer != me) {
                replication.send_member(peer, &MemberStep::Absent { group, member });
            }
        }
    }

    /// A step arrived; see [`MemberStep`].
    pub(super) fn member_step(&mut self, from: Peer, step: MemberStep, now: Nanos) {
        let Some(replication) = self.replication.as_deref_mut() else { return };
        let group_here = |group| self.store.group(group);
        match step {
            MemberStep::Watch { ballot } => replication.watched_by(from, ballot),
            MemberStep::Report(report) => self.reported(from, report, now),
            MemberStep::Noted { group, ballot, slot, marks } => {
                replication.noted(from, group, ballot, slot, marks);
            }
            MemberStep::Create { group, member, payload } => {
                self.create_spare(from, (group, member), &payload, now);
            }
            MemberStep::Created { group, member } => {
                if let Some(placement) = &mut self.healing.placement {
                    placement.created(group, member, from);
                    // The next order need not wait.
                    self.healing.tick_at = now;
                }
            }
            MemberStep::Occupied { group, .. } => {
                if let Some(placement) = &mut self.healing.placement {
                    placement.occupied(group, from, now);
                }
            }
            MemberStep::Add { group, slot, member: id, peer, az } => {
                if let Some(ordinal) = group_here(group) {
                    self.change(ordinal, slot, Change::AddLogReplica { id, peer, az }, now);
                }
            }
            MemberStep::Remove { group, slot, member: id } => {
                if let Some(ordinal) = group_here(group) {
                    self.change(ordinal, slot, Change::Remove { id }, now);
                }
            }
            MemberStep::Promote { group, slot, member: id } => {
                if let Some(ordinal) = group_here(group) {
                    self.change(ordinal, slot, Change::Promote { id }, now);
                }
            }
            MemberStep::Holds { group, member, slot } => {
                if self.may_drop(group, member, slot) {
                    self.tell(from, MemberStep::Drop { group, member }, now);
                }
            }
            MemberStep::Drop { group, member } => self.drop_relic(group, member),
            MemberStep::Absent { group, member } => replication.absent(from, group, member, now),
            MemberStep::Topology { nodes, json } => self.hear_of_nodes(from, nodes, &json),
        }
    }

    fn change(&mut self, group: GroupOrdinal, slot: Slot, change: Change, now: Nanos) {
        let Some(replication) = self.replication.as_deref_mut() else { return };
        if let Change::Promote { id } = change {
            if replication.promotion(group, id) != Promotion::Ready {
                // It is offered a snapshot from now on. Without a lead here, another leader is asked.
                let _ = replication.begin_promotion(group, id, now);
                return;
            }
            replication.end_promotion(group, id);
        }
        // What was not begun is ordered again, if it is still wanted then.
        let begun = replication.change(&mut self.store, group, slot, change, now);
        if begun.is_ok() {
            self.healing.tick_at = now;
        }
    }

    fn reported(&mut self, from: Peer, report: GroupReport, now: Nanos) {
        let Some(placement) = &mut self.healing.placement else { return };
        let GroupReport { group, ballot, at, marks } = report;
        if group == GroupId::SYSTEM {
            placement.reported(from, report);
            self.healing.written.insert(group, at.slot);
        } else if let Some(table) = self.healing.tables.get(&group).copied()
            && let Some(description) = self.system.by_id(table)
            && description.status == TableStatus::Active
        {
            placement.reported(from, report);
            let mut partitions = description.partitions.iter_mut();
            let partition = partitions.find(|partition| partition.group == group);
            if partition.is_some_and(|partition| partition.learn_members(&at)) {
                self.healing.dirty.insert(table);
                self.founders_replaced(table);
            }
        } else {
            // Of a table that is being made, or deleted. It is told again, and may count then.
            return;
        }
        self.tell(from, MemberStep::Noted { group, ballot, slot: at.slot, marks }, now);
    }

    /// Whether nobody needs the member any more.
    fn may_drop(&self, group: GroupId, member: MemberId, slot: Slot) -> bool {
        let (Some(placement), Some(replication)) = (&self.healing.placement, &self.replication)
        else {
            return false;
        };
        // Without the lease, another one may lead by now and have given it to the group.
        let leads = |system| replication.holds_lease(system, self.now);
        if !self.system.group.is_some_and(leads) {
            return false;
        }
        let written = self.healing.written.get(&group).copied().unwrap_or_default();
        let newer = placement.report(group).is_none_or(|report| report.at.slot >= slot);
        newer && placement.may_drop(group, member, written)
    }

    /// Creates an empty log replica, or says why not.
    fn create_spare(&mut self, from: Peer, id: (GroupId, MemberId), payload: &[u8], now: Nanos) {
        let (group, member) = id;
        let replication = self.replication.as_deref_mut().expect("the step came to it");
        if let Some(ordinal) = self.store.group(group) {
            let (earlier, _) = replication.member(ordinal);
            if earlier == member {
                let mark = Mark::Ticket(self.store.last_ticket());
                return self.step_later(mark, Step::SpareCreated(group, member, from));
            }
            if replication.is_blank(ordinal) {
                // Created for a plan that was given up. It has nothing, and nothing is lost with it.
                return self.drop_relic(group, earlier);
            }
            if self.store.logs_lost() > 0 && self.store.may_be_reborn(ordinal) {
                // The same, with a state that was here before: the new one has it.
                replication.remove(ordinal);
                self.store.forsake(ordinal);
                self.group_gone(ordinal);
                return self.create_spare(from, id, payload, now);
            }
            return self.tell(from, MemberStep::Occupied { group, member: earlier }, now);
        }
        let created = replication.create_joining(&mut self.store, group, member, payload);
        match created {
            Ok((ordinal, ticket)) => {
                if group == GroupId::SYSTEM {
                    self.system.group = Some(ordinal);
                } else if self.adopt(ordinal, group, payload).is_none() {
                    // Of a peer of another version: it may ask for something else.
                    return self.drop_relic(group, member);
                }
                let mark = Mark::Ticket(ticket);
                self.step_later(mark, Step::SpareCreated(group, member, from));
            }
            // It is asked for again.
            Err(Refused::Overloaded | Refused::DiskFull { .. } | Refused::TooLarge { .. }) => {}
            Err(Refused::Closing | Refused::Failed) => {}
        }
    }

    /// The spare is durable.
    pub(super) fn spare_created(&mut self, group: GroupId, member: MemberId, asked: Peer) {
        let now = self.now;
        self.tell(asked, MemberStep::Created { group, member }, now);
    }

    /// Nobody needs this member any more, or it never had anything.
    fn drop_relic(&mut self, group: GroupId, member: MemberId) {
        let Some(ordinal) = self.store.group(group) else {
            // Refused for the moment, it is asked for again.
            let _ = self.store.drop_lost(group, member);
            return;
        };
        let Some(replication) = self.replication.as_deref_mut() else { return };
        if replication.member(ordinal).0 != member || replication.leads(ordinal) {
            return;
        }
        if self.store.drop_group(ordinal).is_ok() {
            replication.remove(ordinal);
            self.group_gone(ordinal);
        } else {
            // It is asked for again. The log may be full behind a checkpoint that waits for a page of
            // this state, which will not come: it waits for it no more.
            replication.stop_unneeded(&mut self.store, ordinal);
        }
    }

    /// This shard serves the group no more.
    fn group_gone(&mut self, ordinal: GroupOrdinal) {
        self.tables.remove_group(ordinal);
        if self.system.group == Some(ordinal) {
            self.system.group = None;
            self.system.forget();
        }
    }

    // The list of nodes.

    /// Links that came up begin with the number of nodes.
    fn greet_links(&mut self) {
        let Some(replication) = self.replication.as_deref_mut() else { return };
        let greeted = replication.take_greeted();
        if greeted.is_empty() || !replication.me().peer.is_first_shard() {
            return;
        }
        let nodes = replication.topology().map_or(0, |topology| topology.nodes.len() as u64);
        for peer in greeted.into_iter().filter(|peer| peer.is_first_shard()) {
            replication.send_member(peer, &MemberStep::Topology { nodes, json: Vec::new() });
        }
    }

    fn hear_of_nodes(&mut self, from: Peer, nodes: u64, json: &[u8]) {
        let Some(replication) = self.replication.as_deref_mut() else { return };
        let Some(known) = replication.topology().cloned() else { return };
        let mine = known.nodes.len() as u64;
        if nodes < mine {
            let json = serde_json::to_vec(&*known).expect("plain data serializes");
            return replication.send_member(from, &MemberStep::Topology { nodes: mine, json });
        }
        if nodes == mine {
            return;
        }
        if json.is_empty() {
            let ask = MemberStep::Topology { nodes: mine, json: Vec::new() };
            return replication.send_member(from, &ask);
        }
        let heard: Option<Topology> = serde_json::from_slice(json).ok();
        // What a peer of another version says is left alone.
        if let Some(heard) = heard {
            self.adopt_nodes(heard);
        }
    }

    /// A longer list: the node writes it down, and tells its shards.
    pub(super) fn adopt_nodes(&mut self, heard: Topology) {
        let Some(known) = self.replication.as_deref().and_then(|r| r.topology()) else { return };
        match heard.follows(known) {
            Ok(true) => self.joins = Some(Joined { topology: heard, founded: false }),
            Ok(false) => {}
            Err(error) => eprintln!("forebay: another list of nodes is not taken: {error}"),
        }
    }

    /// The shard's list of nodes is another one now.
    pub(super) fn nodes_changed(&mut self) {
        let Some(replication) = self.replication.as_deref_mut() else { return };
        let Some(topology) = replication.topology().cloned() else { return };
        if let Some(placement) = &mut self.healing.placement {
            placement.set_nodes(&topology);
        }
        if replication.me().peer.is_first_shard() {
            let nodes = topology.nodes.len() as u64;
            let linked: Vec<Peer> = replication.linked().collect();
            for peer in linked.into_iter().filter(|peer| peer.is_first_shard()) {
                replication.send_member(peer, &MemberStep::Topology { nodes, json: Vec::new() });
            }
        }
    }

    /// Adds a node to the cluster: it is one when the system group has written it down.
    ///
    /// # Errors
    /// Nothing was begun, for this reason, for people.
    pub fn grow(&mut self, node: TopologyNode, replaces: Option<[u8; 16]>) -> Result<(), String> {
        let known = self.replication.as_deref().and_then(|replication| replication.topology());
        let known = known.cloned().ok_or("this node is in no cluster")?;
        if known.place_of(&node.node_id).is_some_and(|place| known.nodes[place] == node) {
            return Ok(());
        }
        if self.healing.placement.is_none() {
            return Err("this shard does not lead the system group".to_owned());
        }
        if !self.context.cluster.as_ref().is_some_and(|cluster| cluster.grows) {
            return Err("a cluster of `forebay dev` does not grow: its addresses are others at \
                        every start; begin with `forebay dev --nodes N`"
                .to_owned());
        }
        if self.healing.growing.is_some() {
            return Err("another node is joining at this moment; try again".to_owned());
        }
        let replaces = replaces.and_then(|node_id| known.place_of(&node_id));
        let topology = known.joined(node, replaces).map_err(|error| error.to_string())?;
        let json = serde_json::to_vec(&topology).expect("plain data serializes");
        let item = Item::new().with("name", NODES_KEY).with(NODES_JSON, json);
        let bytes = item.to_bytes().map_err(|error| error.to_string())?;
        system_key(NODES_KEY, &mut self.key);
        let group = self.system.group.expect("it is led here");
        match self.begin_write(group, Some(&bytes)) {
            Ok(Some(mark)) => {
                self.healing.growing = Some(topology);
                self.step_later(mark, Step::NodesWritten);
                Ok(())
            }
            Ok(None) => Err("there is no room for the moment; try again".to_owned()),
            Err(refusal) if refusal.code == ErrorCode::NotLeader => {
                Err("this shard does not lead the system group".to_owned())
            }
            Err(refusal) => Err(refusal.message.into_owned()),
        }
    }

    /// The longer list of nodes is chosen.
    pub(super) fn nodes_written(&mut self) {
        if let Some(topology) = self.healing.growing.take() {
            self.adopt_nodes(topology);
        }
    }
}
