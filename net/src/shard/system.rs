//! Tables: create, describe, list, delete.
//!
//! The system group lives on shard 0. It holds one item a table, and its log is what makes a
//! table's creation and deletion happen once. The other shards learn of their partitions by mail:
//!
//! ```text
//!   client ─ CreateTable ─► shard 0: item CREATING, chosen
//!                             ├─ CreatePartitions ─► shard n: group created, durable
//!                             ◄─ PartitionsCreated ─┘
//!                           item ACTIVE, chosen ─► reply
//! ```
//!
//! In a cluster the group is replicated, the one who leads it on the shard 0 of some node, and the
//! mail goes to every shard that founds a group of the table ([`TableStep`]). Mail to other nodes may
//! be lost: it is sent again until all have answered. A table is active when a majority of each
//! group's founders exist; its deletion is answered when a majority are gone, and its name is free
//! when all are.
//!
//! [`TableStep`]: forebay_core::message::peer::TableStep
//!
//! Every step can be repeated: after a restart shard 0 finds tables that are CREATING or DELETING
//! and sends their mail again; a shard that has done its part already just says so. Each group
//! carries its table's description in its own shard's catalog, so data requests depend on no other
//! shard.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use forebay_core::ids::{GroupId, ShardId, TableId};
use forebay_core::item::ItemRef;
use forebay_core::key::{KeyBuf, KeyRef};
use forebay_core::liveness::Peer;
use forebay_core::message::{
    ArchivedCreateTableRequest, ArchivedDeleteTableRequest, ArchivedDescribeTableRequest,
    ArchivedListTablesRequest, ErrorCode, ListTablesReply,
};
use forebay_core::paxos::MemberId;
use forebay_core::table::{
    FOUNDERS_MAX, Founder, KeyAttribute, KeySchema, KeyType, PartitionDescription,
    TableDescription, TableStatus, split_evenly, validate_table_name,
};
use forebay_core::time::Nanos;
use forebay_storage::notice;
use forebay_storage::store::{GroupDescriptor, GroupOrdinal, PageId, RangeEnd, Visit};

use super::changes::{Again, Change, Step};
use super::healing::{NODES_KEY, read_nodes};
use super::refusal::Refusal;
use super::replicated::Mark;
use super::request::Outcome;
use super::{Asker, Shard, Unreadable};
use crate::replication::{Replication, Topology};

/// Partitions of one table at most, when created.
const PARTITIONS_MAX: u32 = 1024;
/// Names in one ListTables page at most.
const LIST_TABLES_MAX: u32 = 100;

/// A message to another shard of the node.
#[derive(Debug)]
pub struct Mail {
    /// Who gets it.
    pub to: ShardId,
    /// What it says.
    pub message: ShardMail,
}

/// What shards tell each other, and the node its shards.
#[derive(Debug)]
pub enum ShardMail {
    /// Create the partitions of this table that are yours.
    CreatePartitions {
        /// The table.
        description: Box<TableDescription>,
        /// Who is to be told when they exist.
        from: Peer,
    },
    /// They exist durably.
    PartitionsCreated {
        /// The table.
        table: TableId,
        /// Whose.
        from: Peer,
    },
    /// Drop the partitions of this table that are yours.
    DropPartitions {
        /// The table.
        table: TableId,
        /// Who is to be told when they are gone.
        from: Peer,
    },
    /// They are gone durably.
    PartitionsDropped {
        /// The table.
        table: TableId,
        /// Whose.
        from: Peer,
    },
    /// Who is in the cluster.
    Topology {
        /// Everybody.
        topology: Arc<Topology>,
        /// The cluster is new: its founders create the system group.
        bootstrap: bool,
    },
}

/// Shard 0's view of all tables; empty on the other shards.
#[derive(Debug)]
pub(super) struct System {
    pub(super) group: Option<GroupOrdinal>,
    pub(super) loaded: bool,
    pub(super) load_waits: Option<PageId>,
    pub(super) by_name: BTreeMap<String, TableDescription>,
    pub(super) names: HashMap<TableId, String>,
    pub(super) changes: HashMap<TableId, Change>,
    /// The last table written: what tables are known depends on it.
    pub(super) last_write: Option<Mark>,
    /// What the store had no room for; tried again in every turn.
    pub(super) again: VecDeque<Again>,
    random_state: u64,
}

impl System {
    pub(super) fn new(random_seed: u64) -> System {
        System {
            group: None,
            loaded: false,
            load_waits: None,
            by_name: BTreeMap::new(),
            names: HashMap::new(),
            changes: HashMap::new(),
            last_write: None,
            again: VecDeque::new(),
            random_state: random_seed,
        }
    }

    /// Another leads the system group: what is known of the tables may be old.
    pub(super) fn forget(&mut self) {
        self.loaded = false;
        self.load_waits = None;
        self.by_name.clear();
        self.names.clear();
        self.changes.clear();
        self.last_write = None;
        self.again.retain(|again| matches!(again, Again::Mail(_)));
    }

    /// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA
    /// 2014) over the seed that the node drew from the operating system.
    pub(super) fn random(&mut self) -> u64 {
        self.random_state = self.random_state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random_state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn insert(&mut self, description: TableDescription) {
        self.names.insert(description.id, description.name.clone());
        self.by_name.insert(description.name.clone(), description);
    }

    pub(super) fn by_id(&mut self, table: TableId) -> Option<&mut TableDescription> {
        self.by_name.get_mut(self.names.get(&table)?)
    }
}

/// Key schema of the system group's items.
pub(super) fn system_key(name: &str, key: &mut KeyBuf) {
    key.set(&[0; 16], name.as_bytes(), &[]).expect("table names are shorter than keys may be");
}

fn key_type(letter: u8) -> Result<KeyType, Refusal> {
    match letter {
        b'S' => Ok(KeyType::S),
        b'N' => Ok(KeyType::N),
        b'B' => Ok(KeyType::B),
        _ => Err(Refusal::constant(ErrorCode::InvalidRequest, "a key type is S, N or B")),
    }
}

impl Shard {
    /// Whether this shard can answer for tables: behind which ticket, if what it knows of them is
    /// not chosen yet.
    fn leads_system(&mut self) -> Result<Option<Mark>, Refusal> {
        if self.is_clustered() {
            let Some(group) = self.system.group else {
                return Err(self.no_system_member());
            };
            self.readable(group)?;
        } else if self.context.shard != ShardId(0) {
            return Err(Refusal::constant(
                ErrorCode::WrongPartition,
                "table operations go to shard 0 of the node",
            ));
        }
        if !self.system.loaded {
            return Err(Refusal::constant(ErrorCode::Overloaded, "tables are being loaded")
                .retry_after(50 * Nanos::PER_MILLI));
        }
        Ok(self.system.last_write.filter(|last| self.is_ahead(*last)))
    }

    /// Takes over the groups that recovery found, and creates the system group where it belongs
    /// but does not exist yet.
    pub(super) fn adopt_groups(&mut self, _now: Nanos) {
        let mut found = Vec::new();
        for (group, descriptor) in self.store.groups() {
            if descriptor.id == GroupId::SYSTEM {
                self.system.group = Some(group);
            } else {
                found.push((group, descriptor.id, descriptor.payload.to_vec()));
            }
        }
        for (group, id, payload) in found {
            if self.adopt(group, id, &payload).is_none() {
                return self.give_up(Unreadable::Group { group: id });
            }
        }
        if !self.is_clustered() && self.context.shard == ShardId(0) && self.system.group.is_none() {
            let descriptor = GroupDescriptor { id: GroupId::SYSTEM, payload: &[] };
            match self.store.create_group(descriptor) {
                Ok((group, _)) => self.system.group = Some(group),
                // A fresh store refuses only when it has failed; requests then say so.
                Err(_) => assert!(self.store.failure().is_some(), "a fresh store has room"),
            }
        }
    }

    /// "The leader is …", as far as it has said so.
    fn no_system_member(&self) -> Refusal {
        let replication = self.replication.as_deref();
        let leader = replication
            .and_then(|replication| replication.topology()?.native(replication.watcher()?));
        let words = "this shard has no member of the system group";
        let mut refusal = Refusal::constant(ErrorCode::NotLeader, words);
        refusal.leader = leader;
        if leader.is_none() { refusal.retry_after(50 * Nanos::PER_MILLI) } else { refusal }
    }

    /// Whether the shard can serve everything it has.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_clustered() || self.context.shard != ShardId(0) || self.system.loaded
    }

    /// None, if the group's own description says nothing of it.
    pub(super) fn adopt(&mut self, group: GroupOrdinal, id: GroupId, payload: &[u8]) -> Option<()> {
        let description = read_description(payload)?;
        let partition = description.partitions.iter().find(|partition| partition.group == id)?;
        let (first, last, epoch) = (partition.hash_first, partition.hash_last, partition.epoch);
        self.tables.add(&description, first, last, epoch, group);
        Some(())
    }

    /// Reads all tables from the system group; runs until it has them.
    pub(super) fn load_system(&mut self, now: Nanos) {
        let Some(group) = self.system.group else { return };
        let elsewhere = match self.replication.as_deref() {
            Some(replication) => !replication.leads(group),
            None => self.is_clustered() || self.context.shard != ShardId(0),
        };
        if self.system.loaded || elsewhere || self.stopping || self.store.failure().is_some() {
            return;
        }
        // A page on its way is named when it arrives; in between there is nothing to do.
        if self.system.load_waits.is_some_and(|page| !self.arrived.contains(&page)) {
            return;
        }
        let (mut tables, mut nodes) = (Vec::new(), None);
        let ended =
            self.store.range(group, Bound::Unbounded, Bound::Unbounded, false, &mut |key, item| {
                if KeyRef::validate(key)
                    .is_ok_and(|key| key.partition_key() == NODES_KEY.as_bytes())
                {
                    nodes = read_nodes(item);
                    return Visit::Continue;
                }
                let table = ItemRef::validate(item).ok().map(TableDescription::from_item);
                let Some(Ok(table)) = table else { return Visit::Stop };
                tables.push(table);
                Visit::Continue
            });
        match ended {
            RangeEnd::Wait(page) => {
                self.system.load_waits = Some(self.store.fetch(page));
                return;
            }
            RangeEnd::Damaged => {
                notice::say(format_args!(
                    "the system group's tree is damaged; tables cannot be listed"
                ));
                return;
            }
            RangeEnd::Stopped => {
                return self.give_up(Unreadable::Table { number: tables.len() + 1 });
            }
            RangeEnd::Exhausted => {}
        }
        self.system.loaded = true;
        if let Some(nodes) = nodes {
            self.adopt_nodes(nodes);
        }
        for table in tables {
            let (id, status) = (table.id, table.status);
            self.healing.know(&table);
            self.system.insert(table);
            match status {
                // A founder may have been away when it was made.
                TableStatus::Active if self.replication.is_some() => {
                    self.ask_shards(id, None, false, now);
                    self.system.changes.get_mut(&id).expect("just asked").finished = true;
                }
                TableStatus::Active => {}
                TableStatus::Creating => self.ask_shards(id, None, false, now),
                TableStatus::Deleting => self.ask_shards(id, None, true, now),
            }
        }
    }

    pub(super) fn create_table(
        &mut self,
        asker: Asker,
        request: &ArchivedCreateTableRequest<'_>,
    ) -> Result<Outcome, Refusal> {
        if let Some(behind) = self.leads_system()? {
            return Ok(Outcome::Behind(behind));
        }
        let name = request.name.get();
        validate_table_name(name)?;
        if self.system.by_name.contains_key(name) {
            return Err(Refusal::new(
                ErrorCode::TableExists,
                format!("table {name} exists already"),
            ));
        }
        let schema = schema_of(request)?;
        let shards = self.partitions_wanted();
        let partitions = match request.partitions.to_native() {
            0 => shards,
            n if n <= PARTITIONS_MAX => n,
            n => {
                return Err(Refusal::new(
                    ErrorCode::InvalidRequest,
                    format!("{n} partitions, at most {PARTITIONS_MAX}"),
                ));
            }
        };
        let id = TableId(self.system.random() | 1);
        let mut hash_seed = [0; 16];
        hash_seed[..8].copy_from_slice(&self.system.random().to_le_bytes());
        hash_seed[8..].copy_from_slice(&self.system.random().to_le_bytes());
        let partitions = split_evenly(u64::from(partitions))
            .into_iter()
            .enumerate()
            .map(|(index, (hash_first, hash_last))| {
                let group = GroupId(self.system.random() | 1);
                let (shard, founders) = self.place(index);
                PartitionDescription {
                    group,
                    shard,
                    founders,
                    members: None,
                    hash_first,
                    hash_last,
                    epoch: 1,
                }
            })
            .collect();
        let description = TableDescription {
            id,
            name: name.to_owned(),
            schema,
            hash_seed,
            partitions,
            status: TableStatus::Creating,
            created_unix_millis: self.context.unix_millis_at_zero
                + asker.asked_at.0 / Nanos::PER_MILLI,
        };
        let Some(mark) = self.write_table(&description)? else { return Err(no_room()) };
        self.healing.know(&description);
        self.system.insert(description);
        self.system.changes.insert(id, Change::new(Some(asker)));
        self.step_later(mark, Step::Creating(id));
        Ok(Outcome::Done)
    }

    /// Partitions of a table whose creator does not say.
    fn partitions_wanted(&self) -> u32 {
        let topology = self.replication.as_deref().and_then(Replication::topology);
        let alone = self.context.ports.len();
        topology.map_or(alone, |topology| topology.shards().max(1)) as u32
    }

    /// Where a partition's group is to be.
    fn place(&mut self, index: usize) -> (ShardId, [Option<Founder>; FOUNDERS_MAX]) {
        let topology = self.replication.as_deref().and_then(Replication::topology).cloned();
        let Some(topology) = topology else {
            return (ShardId((index % self.context.ports.len()) as u16), [None; FOUNDERS_MAX]);
        };
        let (shard, members) = topology.place(index);
        let mut founders = [None; FOUNDERS_MAX];
        for (founder, (peer, az)) in founders.iter_mut().zip(members) {
            *founder = Some(Founder { id: MemberId(self.system.random() | 1), peer, az });
        }
        (shard, founders)
    }

    pub(super) fn describe_table(
        &mut self,
        asker: Asker,
        request: &ArchivedDescribeTableRequest<'_>,
    ) -> Result<Outcome, Refusal> {
        if let Some(behind) = self.leads_system()? {
            return Ok(Outcome::Behind(behind));
        }
        let description = self.named(request.name.get())?.clone();
        self.reply_description(asker, &description);
        Ok(Outcome::Done)
    }

    fn named(&self, name: &str) -> Result<&TableDescription, Refusal> {
        validate_table_name(name)?;
        self.system.by_name.get(name).ok_or_else(|| {
            Refusal::new(ErrorCode::UnknownTable, format!("there is no table {name}"))
        })
    }

    pub(super) fn list_tables(
        &mut self,
        asker: Asker,
        request: &ArchivedListTablesRequest<'_>,
    ) -> Result<Outcome, Refusal> {
        if let Some(behind) = self.leads_system()? {
            return Ok(Outcome::Behind(behind));
        }
        let limit = match request.limit.to_native() {
            0 => LIST_TABLES_MAX,
            limit => limit.min(LIST_TABLES_MAX),
        } as usize;
        let after = (Bound::Excluded(request.start_after.get()), Bound::Unbounded);
        let mut names = self.system.by_name.range::<str, _>(after).map(|(name, _)| name.clone());
        let page: Vec<String> = names.by_ref().take(limit).collect();
        let more = names.next().is_some();
        let reply = ListTablesReply { names: page, more };
        self.connections.reply(asker.conn, asker.correlation, &reply);
        self.answered(asker);
        Ok(Outcome::Done)
    }

    pub(super) fn delete_table(
        &mut self,
        asker: Asker,
        request: &ArchivedDeleteTableRequest<'_>,
    ) -> Result<Outcome, Refusal> {
        if let Some(behind) = self.leads_system()? {
            return Ok(Outcome::Behind(behind));
        }
        let name = request.name.get();
        let description = self.named(name)?;
        let id = description.id;
        if description.status != TableStatus::Active {
            return Err(Refusal::constant(
                ErrorCode::TableNotActive,
                "the table is being created or deleted",
            )
            .retry_after(100 * Nanos::PER_MILLI));
        }
        let deleting = TableDescription { status: TableStatus::Deleting, ..description.clone() };
        let Some(mark) = self.write_table(&deleting)? else { return Err(no_room()) };
        self.system.by_id(id).expect("just found").status = TableStatus::Deleting;
        self.system.changes.insert(id, Change::new(Some(asker)));
        self.step_later(mark, Step::Deleting(id));
        Ok(Outcome::Done)
    }
}

fn no_room() -> Refusal {
    Refusal::constant(ErrorCode::Overloaded, "there is no room for the table's item for the moment")
        .retry_after(50 * Nanos::PER_MILLI)
}

/// The description in a message or a group's payload; None if it is none.
pub(super) fn read_description(bytes: &[u8]) -> Option<TableDescription> {
    TableDescription::from_item(ItemRef::validate(bytes).ok()?).ok()
}

fn schema_of(request: &ArchivedCreateTableRequest<'_>) -> Result<KeySchema, Refusal> {
    let partition = KeyAttribute {
        name: request.partition_key.get().to_owned(),
        key_type: key_type(request.partition_key_type)?,
    };
    let sort = match request.sort_key.get() {
        "" => None,
        name => {
            Some(KeyAttribute { name: name.to_owned(), key_type: key_type(request.sort_key_type)? })
        }
    };
    let schema = KeySchema { partition, sort };
    schema.validate()?;
    Ok(schema)
}
