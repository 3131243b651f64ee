//! A table's creation or deletion on its way through the shards that hold its partitions.
//!
//! See [`super::system`] for the steps. Whoever leads the system group asks every shard, again and
//! again where mail may be lost, and writes down the end of the change when enough have answered.

use forebay_core::ids::{GroupId, ShardId, TableId};
use forebay_core::item::{Item, Value};
use forebay_core::liveness::Peer;
use forebay_core::message::{ErrorCode, TableReply};
use forebay_core::paxos::MemberId;
use forebay_core::table::{NODES_ATTRIBUTE, PartitionDescription, TableDescription, TableStatus};
use forebay_core::time::Nanos;
use forebay_storage::store::{GroupDescriptor, Refused};

use super::healing::payload_of;
use super::refusal::Refusal;
use super::replicated::Mark;
use super::system::{ShardMail, read_description, system_key};
use super::{Asker, Shard, WaitingReply};
use crate::replication::peer_of;

/// Mail to other nodes that was not answered is sent again after this.
const MAIL_AGAIN_NANOS: u64 = 200 * Nanos::PER_MILLI;

/// What to do when the entries of a step are chosen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// The CREATING item: ask the shards.
    Creating(TableId),
    /// The ACTIVE item: answer.
    Active(TableId),
    /// The DELETING item: ask the shards.
    Deleting(TableId),
    /// The item is gone: answer.
    Deleted(TableId),
    /// This shard's partitions were created; who asked is told.
    PartitionsCreated(TableId, Peer),
    /// This shard's partitions were dropped; who asked is told.
    PartitionsDropped(TableId, Peer),
    /// This shard's new member of a group was created; who asked is told.
    SpareCreated(GroupId, MemberId, Peer),
    /// The members of the table's groups as they were reported.
    MembersWritten(TableId),
    /// The list of nodes.
    NodesWritten,
}

/// A creation or deletion under way.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) asker: Option<Asker>,
    pub(super) dropping: bool,
    /// Shards that have not done their part.
    pub(super) waits_for: Vec<Peer>,
    /// Enough have.
    pub(super) finished: bool,
    pub(super) asked_at: Nanos,
}

impl Change {
    pub(super) fn new(asker: Option<Asker>) -> Change {
        let (waits_for, asked_at) = (Vec::new(), Nanos(0));
        Change { asker, dropping: false, waits_for, finished: false, asked_at }
    }
}

/// A step of a change that could not be begun.
#[derive(Debug)]
pub(super) enum Again {
    Mail(ShardMail),
    Finish { table: TableId, dropped: bool },
}

/// The shards that found the partition's group.
fn founding(partition: &PartitionDescription) -> impl Iterator<Item = Peer> + '_ {
    partition.founders().map(|founder| founder.peer)
}

impl Shard {
    /// Sends every shard its part of creating or dropping a table.
    pub(super) fn ask_shards(
        &mut self,
        table: TableId,
        asker: Option<Asker>,
        drop: bool,
        now: Nanos,
    ) {
        let description = self.system.by_id(table).expect("the table is known");
        let mut peers: Vec<Peer> = if self.replication.is_some() {
            let partitions = description.partitions.iter();
            if drop {
                partitions.flat_map(PartitionDescription::peers).collect()
            } else {
                partitions.flat_map(founding).collect()
            }
        } else {
            (0..self.context.ports.len()).map(|shard| peer_of(0, ShardId(shard as u16))).collect()
        };
        peers.sort_unstable();
        peers.dedup();
        let waits_for = peers.clone();
        let change = Change { asker, dropping: drop, waits_for, finished: false, asked_at: now };
        self.system.changes.insert(table, change);
        self.ask(table, drop, &peers, now);
    }

    pub(super) fn ask(&mut self, table: TableId, drop: bool, peers: &[Peer], now: Nanos) {
        let from = self.me();
        let description = self.system.by_id(table).expect("the table is known").clone();
        for peer in peers {
            let message = if drop {
                ShardMail::DropPartitions { table, from }
            } else {
                let description = Box::new(description.clone());
                ShardMail::CreatePartitions { description, from }
            };
            self.post(*peer, message, now);
        }
    }

    /// Mail to other nodes may be lost: asks again who has not answered. When to come back.
    pub(super) fn ask_again(&mut self, now: Nanos) -> Option<Nanos> {
        if self.replication.is_none() || self.system.changes.is_empty() {
            return None;
        }
        let late = |change: &Change| now.since(change.asked_at) >= MAIL_AGAIN_NANOS;
        let late: Vec<TableId> = self
            .system
            .changes
            .iter()
            .filter(|(_, change)| !change.waits_for.is_empty() && late(change))
            .map(|(table, _)| *table)
            .collect();
        for table in late {
            let change = self.system.changes.get_mut(&table).expect("just listed");
            change.asked_at = now;
            let (drop, peers) = (change.dropping, change.waits_for.clone());
            self.ask(table, drop, &peers, now);
        }
        let changes = self.system.changes.values().filter(|change| !change.waits_for.is_empty());
        changes.map(|change| change.asked_at + MAIL_AGAIN_NANOS).min()
    }

    /// Mail from a shard of this node arrived.
    pub fn mail(&mut self, message: ShardMail, now: Nanos) {
        match message {
            ShardMail::CreatePartitions { description, from } => {
                self.create_partitions(description, from);
            }
            ShardMail::DropPartitions { table, from } => self.drop_partitions(table, from),
            ShardMail::PartitionsCreated { table, from } => self.shard_done(table, false, from),
            ShardMail::PartitionsDropped { table, from } => self.shard_done(table, true, from),
            ShardMail::Topology { topology, bootstrap } => {
                self.learn_topology(topology, bootstrap, now);
            }
        }
    }

    /// Tries again what the store had no room for.
    pub(super) fn resume_system(&mut self, now: Nanos) {
        for _ in 0..self.system.again.len() {
            match self.system.again.pop_front().expect("counted") {
                Again::Mail(mail) => self.mail(mail, now),
                Again::Finish { table, dropped } => self.finish_change(table, dropped),
            }
        }
    }

    /// A step was refused: it is tried again, unless the shard ends. Then the table stays as it is,
    /// and the next start goes on with it.
    pub(super) fn try_again(&mut self, refused: Refused, again: Again) {
        match refused {
            Refused::Overloaded | Refused::DiskFull { .. } => self.system.again.push_back(again),
            Refused::Closing | Refused::Failed => {}
            Refused::TooLarge { .. } => unreachable!("descriptions are far smaller than records"),
        }
    }

    pub(super) fn create_partitions(&mut self, description: Box<TableDescription>, from: Peer) {
        let mut ticket = self.store.last_ticket();
        for partition in &description.partitions {
            let id = partition.group;
            if partition.shard != self.context.shard || self.store.group(id).is_some() {
                continue;
            }
            let payload = payload_of(&description, id);
            let created = if self.replication.is_some() {
                let Some(created) = self.create_founder(partition, &payload) else { continue };
                created
            } else {
                self.store.create_group(GroupDescriptor { id, payload: &payload })
            };
            match created {
                Ok((group, created)) => {
                    self.adopt(group, id, &payload);
                    ticket = created;
                }
                Err(refused) => {
                    let mail = ShardMail::CreatePartitions { description, from };
                    return self.try_again(refused, Again::Mail(mail));
                }
            }
        }
        self.step_later(Mark::Ticket(ticket), Step::PartitionsCreated(description.id, from));
    }

    pub(super) fn drop_partitions(&mut self, table: TableId, from: Peer) {
        self.tables.remove(table);
        let mine: Vec<GroupId> = self
            .store
            .groups()
            .filter(|(_, descriptor)| {
                read_description(descriptor.payload)
                    .is_some_and(|description| description.id == table)
            })
            .map(|(_, descriptor)| descriptor.id)
            .collect();
        let mut ticket = self.store.last_ticket();
        for id in mine {
            let group = self.store.group(id).expect("just listed");
            match self.store.drop_group(group) {
                Ok(dropped) => {
                    ticket = dropped;
                    if let Some(replication) = self.replication.as_deref_mut() {
                        replication.remove(group);
                    }
                }
                Err(refused) => {
                    let mail = ShardMail::DropPartitions { table, from };
                    return self.try_again(refused, Again::Mail(mail));
                }
            }
        }
        self.step_later(Mark::Ticket(ticket), Step::PartitionsDropped(table, from));
    }

    pub(super) fn shard_done(&mut self, table: TableId, dropped: bool, from: Peer) {
        let Some(change) = self.system.changes.get_mut(&table) else { return };
        if change.dropping != dropped || !change.waits_for.contains(&from) {
            return;
        }
        change.waits_for.retain(|peer| *peer != from);
        let (waits_for, finished) = (change.waits_for.clone(), change.finished);
        let Some(description) = self.system.by_id(table).cloned() else { return };
        let majority = |partition: &PartitionDescription| {
            let waits = |peer: Peer| waits_for.contains(&peer);
            if dropped {
                partition.peers().filter(|peer| !waits(*peer)).count() * 2
                    > partition.peers().count()
            } else {
                let founders = founding(partition).count();
                founding(partition).filter(|peer| !waits(*peer)).count() * 2 > founders
                    || founders == 0
            }
        };
        let all = waits_for.is_empty();
        let enough = self.replication.is_some() && description.partitions.iter().all(majority);
        let change = self.system.changes.get_mut(&table).expect("just found");
        if dropped {
            // The name is free when nobody is left; who asked need not wait for a node that is away.
            if enough
                && !all
                && let Some(asker) = change.asker.take()
            {
                self.reply_description(asker, &description);
            }
            if all && !finished {
                self.system.changes.get_mut(&table).expect("just found").finished = true;
                self.finish_change(table, true);
            }
        } else if (enough || all) && !finished {
            change.finished = true;
            self.finish_change(table, false);
        } else if all && change.asker.is_none() && description.status == TableStatus::Active {
            self.system.changes.remove(&table);
        }
    }

    /// The members of one of the table's groups have changed: whoever was to found it, and has not,
    /// never will.
    pub(super) fn founders_replaced(&mut self, table: TableId) {
        if !self.system.changes.contains_key(&table) {
            return;
        }
        let Some(description) = self.system.by_id(table).cloned() else { return };
        let Some(change) = self.system.changes.get_mut(&table).filter(|change| !change.dropping)
        else {
            return;
        };
        let founds =
            |peer: &Peer| description.partitions.iter().flat_map(founding).any(|f| f == *peer);
        change.waits_for.retain(founds);
        if change.waits_for.is_empty() && change.finished && change.asker.is_none() {
            self.system.changes.remove(&table);
        }
    }

    /// Every shard has done its part: logs the end of the change.
    pub(super) fn finish_change(&mut self, table: TableId, dropped: bool) {
        let Some(description) = self.system.by_id(table) else { return };
        let name = description.name.clone();
        let begun = if dropped {
            let group = self.system.group.expect("the system group is led here");
            system_key(&name, &mut self.key);
            self.begin_write(group, None)
        } else {
            // In memory it is active when that is chosen.
            let active = TableDescription { status: TableStatus::Active, ..description.clone() };
            self.write_table(&active)
        };
        match begun {
            Ok(Some(mark)) => {
                self.system.last_write = Some(mark);
                let step = if dropped { Step::Deleted(table) } else { Step::Active(table) };
                self.step_later(mark, step);
            }
            Ok(None) => self.system.again.push_back(Again::Finish { table, dropped }),
            Err(refusal) => match refusal.code {
                ErrorCode::DiskFull | ErrorCode::Overloaded => {
                    self.system.again.push_back(Again::Finish { table, dropped });
                }
                // The shard ends, or another leads: whoever does next goes on with it.
                _ => {}
            },
        }
    }

    /// Logs a table's item.
    pub(super) fn write_table(
        &mut self,
        description: &TableDescription,
    ) -> Result<Option<Mark>, Refusal> {
        let group = self.system.group.expect("the system group is led here");
        let item: Item = description.to_item();
        let bytes = item.to_bytes().expect("a description is a valid item");
        system_key(&description.name, &mut self.key);
        let mark = self.begin_write(group, Some(&bytes))?;
        self.system.last_write = mark.or(self.system.last_write);
        Ok(mark)
    }

    /// Refuses everybody who waits for a table to be created or deleted.
    pub(super) fn refuse_changes(&mut self, refusal: &Refusal) {
        for (_, change) in std::mem::take(&mut self.system.changes) {
            if let Some(asker) = change.asker {
                self.refuse(asker, refusal);
            }
        }
    }

    pub(super) fn step_later(&mut self, mark: Mark, step: Step) {
        self.answer_later(Asker::nobody(), mark, WaitingReply::System(step));
    }

    /// The entries of a step are chosen.
    pub(super) fn system_chosen(&mut self, step: Step, now: Nanos) {
        match step {
            Step::Creating(table) => {
                let asker = self.system.changes.remove(&table).and_then(|change| change.asker);
                self.ask_shards(table, asker, false, now);
            }
            Step::Deleting(table) => {
                let asker = self.system.changes.remove(&table).and_then(|change| change.asker);
                self.ask_shards(table, asker, true, now);
            }
            Step::PartitionsCreated(table, asked) => {
                let from = self.me();
                self.post(asked, ShardMail::PartitionsCreated { table, from }, now);
            }
            Step::PartitionsDropped(table, asked) => {
                let from = self.me();
                self.post(asked, ShardMail::PartitionsDropped { table, from }, now);
            }
            Step::Active(table) => {
                if let Some(description) = self.system.by_id(table) {
                    description.status = TableStatus::Active;
                }
                self.changed(table);
            }
            Step::SpareCreated(group, member, asked) => self.spare_created(group, member, asked),
            Step::MembersWritten(table) => self.members_written(table),
            Step::NodesWritten => self.nodes_written(),
            Step::Deleted(table) => {
                self.changed(table);
                if let Some(description) = self.system.by_id(table).cloned() {
                    self.healing.forget(&description);
                }
                if let Some(name) = self.system.names.remove(&table) {
                    self.system.by_name.remove(&name);
                }
            }
        }
    }

    /// A creation or deletion is complete: answer whoever asked.
    pub(super) fn changed(&mut self, table: TableId) {
        let asker = self.system.changes.get_mut(&table).and_then(|change| change.asker.take());
        if self.system.changes.get(&table).is_some_and(|change| change.waits_for.is_empty()) {
            self.system.changes.remove(&table);
        }
        let Some(description) = self.system.by_id(table).cloned() else { return };
        if let Some(asker) = asker {
            self.reply_description(asker, &description);
        }
    }

    pub(super) fn reply_description(&mut self, asker: Asker, description: &TableDescription) {
        let mut item = description.to_item();
        let topology = self.replication.as_deref().and_then(|replication| replication.topology());
        if let Some(topology) = topology {
            let nodes = topology.nodes.iter().filter_map(|node| node.native.first());
            let nodes = nodes.map(|address| Value::S(address.to_string()));
            item = item.with(NODES_ATTRIBUTE, nodes.collect::<Vec<Value>>());
        }
        // A table of so many partitions that the addresses do not fit is described without them.
        let bytes = item.to_bytes().or_else(|_| description.to_item().to_bytes());
        let bytes = bytes.expect("a description is a valid item");
        let reply = TableReply { description: &bytes };
        self.connections.reply(asker.conn, asker.correlation, &reply);
        self.answered(asker);
    }
}
