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
//! **The list of nodes** is an item of the system group too, under a key that no table can have. It
//! travels from shard 0 to shard 0 of the nodes, whoever leads: links that come up begin with its
//! length, and who knows more tells. So a node that was away learns of nodes that joined meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use forebay_core::ids::{GroupId, ShardId, Slot, TableId};
use forebay_core::item::{Item, ItemRef, ValueRef};
use forebay_core::liveness::Peer;
use forebay_core::message::ErrorCode;
use forebay_core::message::peer::{GroupReport, MemberStep};
use forebay_core::paxos::{Change, MemberId};
use forebay_core::table::{TableDescription, TableStatus};
use forebay_core::time::Nanos;
use forebay_storage::store::{GroupOrdinal, Refused};

use super::Shard;
use super::changes::Step;
use super::replicated::Mark;
use super::system::system_key;
use crate::replication::{Joined, Placement, Promotion, Topology, TopologyNode};

/// How often reports are looked for, and orders given.
const TICK_NANOS: u64 = 100 * Nanos::PER_MILLI;
/// How often the leader of the system group says that it is.
const WATCH_NANOS: u64 = Nanos::PER_SECOND;
/// How often a shard asks about members that nobody needs.
const HOLDS_NANOS: u64 = 2 * Nanos::PER_SECOND;
/// Members asked about at a time.
const HOLDS_MAX: usize = 64;
/// Key of the list of nodes in the system group: no table has such a name.
pub(super) const NODES_KEY: &str = "/nodes";
const NODES_JSON: &str = "json";

/// See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Healing {
    /// On the shard that leads the system group.
    placement: Option<Box<Placement>>,
    tick_at: Nanos,
    watch_at: Nanos,
    holds_at: Nanos,
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

/// What a new member's shard keeps with the group: the table, and of its groups this one's members.
fn payload_of(description: &TableDescription, group: GroupId) -> Vec<u8> {
    let mut own = description.clone();
    for partition in own.partitions.iter_mut().filter(|partition| partition.group != group) {
        (partition.founders, partition.members) = (Default::default(), None);
    }
    own.to_item().to_bytes().expect("a description is a valid item")
}

/// The list of nodes in an item of the system group.
pub(super) fn read_nodes(item: &[u8]) -> Option<Topology> {
    match ItemRef::validate(item).ok()?.as_map().get(NODES_JSON) {
        Some(ValueRef::B(json)) => serde_json::from_slice(json).ok(),
        _ => None,
    }
}

impl Shard {
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
        self.report_groups(now);
        self.ask_about_relics(now);
        Some(self.healing.tick_at)
    }

    /// Whether this shard leads the system group with a lease, and knows all tables.
    fn heals(&mut self, now: Nanos) -> bool {
        let (Some(group), Some(replication)) = (self.system.group, self.replication.as_deref())
        else {
            return false;
        };
        let leads = self.system.loaded && replication.holds_lease(group, now);
        if !leads {
            let tables = std::mem::take(&mut self.healing.tables);
            let Healing { tick_at, holds_at, .. } = self.healing;
            let tables = if self.system.loaded { tables } else { HashMap::new() };
            self.healing = Healing { tick_at, holds_at, tables, ..Healing::default() };
            return false;
        }
        if self.healing.placement.is_none() {
            let mut placement = Box::<Placement>::default();
            if let Some(topology) = replication.topology() {
                placement.set_nodes(topology);
            }
            let peers = replication.members_of(group).map(|member| member.peer);
            placement.know(GroupId::SYSTEM, ShardId(0), peers);
            self.healing.placement = Some(placement);
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
        let missed = |peer| replication.missed_nanos(peer, now);
        placement.step(now, missed, || system.random(), &mut orders);
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
        let relics = replication.relics(now);
        let Some(watcher) = replication.watcher() else { return };
        for (group, member, slot) in relics.into_iter().take(HOLDS_MAX) {
            self.tell(watcher, MemberStep::Holds { group, member, slot }, now);
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
        }
        self.tell(from, MemberStep::Noted { group, ballot, slot: at.slot, marks }, now);
    }

    /// Whether nobody needs the member any more.
    fn may_drop(&self, group: GroupId, member: MemberId, slot: Slot) -> bool {
        let Some(placement) = &self.healing.placement else { return false };
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
        let Some(ordinal) = self.store.group(group) else { return };
        let Some(replication) = self.replication.as_deref_mut() else { return };
        if replication.member(ordinal).0 != member || replication.leads(ordinal) {
            return;
        }
        // What is refused for the moment is asked for again.
        if self.store.drop_group(ordinal).is_ok() {
            replication.remove(ordinal);
            self.tables.remove_group(ordinal);
            if self.system.group == Some(ordinal) {
                self.system.group = None;
                self.system.forget();
            }
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
    pub(super) fn grow(
        &mut self,
        node: TopologyNode,
        replaces: Option<[u8; 16]>,
    ) -> Result<(), String> {
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
