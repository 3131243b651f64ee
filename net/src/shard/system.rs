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
//! Every step can be repeated: after a restart shard 0 finds tables that are CREATING or DELETING
//! and sends their mail again; a shard that has done its part already just says so. Each group
//! carries its table's description in its own shard's catalog, so data requests depend on no other
//! shard.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;

use forebay_core::ids::{GroupId, ShardId, TableId};
use forebay_core::item::{Item, ItemRef};
use forebay_core::key::KeyBuf;
use forebay_core::message::{
    ArchivedCreateTableRequest, ArchivedDeleteTableRequest, ArchivedDescribeTableRequest,
    ArchivedListTablesRequest, ErrorCode, ListTablesReply, TableReply,
};
use forebay_core::table::{
    KeyAttribute, KeySchema, KeyType, PartitionDescription, TableDescription, TableStatus,
    split_evenly, validate_table_name,
};
use forebay_core::time::Nanos;
use forebay_storage::store::{
    GroupDescriptor, GroupOrdinal, PageId, RangeEnd, Refused, Ticket, Visit,
};

use super::refusal::Refusal;
use super::request::Outcome;
use super::{Asker, Shard, Unreadable, WaitingReply};

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

/// What shards of one node tell each other.
#[derive(Debug)]
pub enum ShardMail {
    /// Create the partitions of this table that are yours.
    CreatePartitions(Box<TableDescription>),
    /// They exist durably.
    PartitionsCreated(TableId),
    /// Drop the partitions of this table that are yours.
    DropPartitions(TableId),
    /// They are gone durably.
    PartitionsDropped(TableId),
}

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
    /// This shard's partitions were created.
    PartitionsCreated(TableId),
    /// This shard's partitions were dropped.
    PartitionsDropped(TableId),
}

/// A creation or deletion under way.
#[derive(Debug)]
struct Change {
    asker: Option<Asker>,
    shards_left: usize,
}

/// Shard 0's view of all tables; empty on the other shards.
#[derive(Debug)]
pub(super) struct System {
    group: Option<GroupOrdinal>,
    loaded: bool,
    load_waits: Option<PageId>,
    by_name: BTreeMap<String, TableDescription>,
    names: HashMap<TableId, String>,
    changes: HashMap<TableId, Change>,
    /// The last table written: what tables are known depends on it.
    last_write: Ticket,
    /// What the store had no room for; tried again in every turn.
    again: VecDeque<Again>,
    random_state: u64,
}

/// A step of a change that could not be begun.
#[derive(Debug)]
enum Again {
    Mail(ShardMail),
    Finish { table: TableId, dropped: bool },
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
            last_write: Ticket::default(),
            again: VecDeque::new(),
            random_state: random_seed,
        }
    }

    /// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA
    /// 2014) over the seed that the node drew from the operating system.
    fn random(&mut self) -> u64 {
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

    fn by_id(&mut self, table: TableId) -> Option<&mut TableDescription> {
        self.by_name.get_mut(self.names.get(&table)?)
    }
}

/// Key schema of the system group's items.
fn system_key(name: &str, key: &mut KeyBuf) {
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
    fn leads_system(&self) -> Result<Option<Ticket>, Refusal> {
        if self.context.shard != ShardId(0) {
            return Err(Refusal::constant(
                ErrorCode::WrongPartition,
                "table operations go to shard 0 of the node",
            ));
        }
        if !self.system.loaded {
            return Err(Refusal::constant(ErrorCode::Overloaded, "tables are being loaded")
                .retry_after(50 * Nanos::PER_MILLI));
        }
        let last = self.system.last_write;
        Ok((last > self.store.chosen_ticket()).then_some(last))
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
        if self.context.shard == ShardId(0) && self.system.group.is_none() {
            let descriptor = GroupDescriptor { id: GroupId::SYSTEM, payload: &[] };
            match self.store.create_group(descriptor) {
                Ok((group, _)) => self.system.group = Some(group),
                // A fresh store refuses only when it has failed; requests then say so.
                Err(_) => assert!(self.store.failure().is_some(), "a fresh store has room"),
            }
        }
    }

    /// Whether the shard can serve everything it has.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.context.shard != ShardId(0) || self.system.loaded
    }

    /// None, if the group's own description says nothing of it.
    fn adopt(&mut self, group: GroupOrdinal, id: GroupId, payload: &[u8]) -> Option<()> {
        let description = TableDescription::from_item(ItemRef::validate(payload).ok()?).ok()?;
        let partition = description.partitions.iter().find(|partition| partition.group == id)?;
        let (first, last, epoch) = (partition.hash_first, partition.hash_last, partition.epoch);
        self.tables.add(&description, first, last, epoch, group);
        Some(())
    }

    /// Reads all tables from the system group; runs until it has them.
    pub(super) fn load_system(&mut self, now: Nanos) {
        let Some(group) = self.system.group else { return };
        let elsewhere = self.context.shard != ShardId(0);
        if self.system.loaded || elsewhere || self.stopping || self.store.failure().is_some() {
            return;
        }
        // A page on its way is named when it arrives; in between there is nothing to do.
        if self.system.load_waits.is_some_and(|page| !self.arrived.contains(&page)) {
            return;
        }
        let mut tables = Vec::new();
        let ended = self.store.range(
            group,
            Bound::Unbounded,
            Bound::Unbounded,
            false,
            &mut |_key, item| {
                let table = ItemRef::validate(item).ok().map(TableDescription::from_item);
                let Some(Ok(table)) = table else { return Visit::Stop };
                tables.push(table);
                Visit::Continue
            },
        );
        match ended {
            RangeEnd::Wait(page) => {
                self.system.load_waits = Some(self.store.fetch(page));
                return;
            }
            RangeEnd::Damaged => {
                eprintln!("forebay: the system group's tree is damaged; tables cannot be listed");
                return;
            }
            RangeEnd::Stopped => {
                return self.give_up(Unreadable::Table { number: tables.len() + 1 });
            }
            RangeEnd::Exhausted => {}
        }
        self.system.loaded = true;
        for table in tables {
            let (id, status) = (table.id, table.status);
            self.system.insert(table);
            match status {
                TableStatus::Active => {}
                TableStatus::Creating => self.ask_shards(id, None, false, now),
                TableStatus::Deleting => self.ask_shards(id, None, true, now),
            }
        }
    }

    /// Sends every shard its part of creating or dropping a table.
    fn ask_shards(&mut self, table: TableId, asker: Option<Asker>, drop: bool, now: Nanos) {
        let shards = self.context.ports.len();
        self.system.changes.insert(table, Change { asker, shards_left: shards });
        let description = self.system.by_id(table).expect("the table is known").clone();
        for shard in 0..shards {
            let message = if drop {
                ShardMail::DropPartitions(table)
            } else {
                ShardMail::CreatePartitions(Box::new(description.clone()))
            };
            self.post(ShardId(shard as u16), message, now);
        }
    }

    fn post(&mut self, to: ShardId, message: ShardMail, now: Nanos) {
        if to == self.context.shard {
            self.mail(message, now);
        } else {
            self.mail.push(Mail { to, message });
        }
    }

    /// Mail from a shard of this node arrived.
    pub fn mail(&mut self, message: ShardMail, now: Nanos) {
        match message {
            ShardMail::CreatePartitions(description) => self.create_partitions(description),
            ShardMail::DropPartitions(table) => self.drop_partitions(table),
            ShardMail::PartitionsCreated(table) => self.shard_done(table, false, now),
            ShardMail::PartitionsDropped(table) => self.shard_done(table, true, now),
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
    fn try_again(&mut self, refused: Refused, again: Again) {
        match refused {
            Refused::Overloaded | Refused::DiskFull { .. } => self.system.again.push_back(again),
            Refused::Closing | Refused::Failed => {}
            Refused::TooLarge { .. } => unreachable!("descriptions are far smaller than records"),
        }
    }

    fn create_partitions(&mut self, description: Box<TableDescription>) {
        let payload = description.to_item().to_bytes().expect("a description is a valid item");
        let mut ticket = self.store.last_ticket();
        for partition in &description.partitions {
            let id = partition.group;
            if partition.shard != self.context.shard || self.store.group(id).is_some() {
                continue;
            }
            match self.store.create_group(GroupDescriptor { id, payload: &payload }) {
                Ok((group, created)) => {
                    self.adopt(group, id, &payload);
                    ticket = created;
                }
                Err(refused) => {
                    let mail = ShardMail::CreatePartitions(description);
                    return self.try_again(refused, Again::Mail(mail));
                }
            }
        }
        self.step_later(ticket, Step::PartitionsCreated(description.id));
    }

    fn drop_partitions(&mut self, table: TableId) {
        self.tables.remove(table);
        let mine: Vec<GroupId> = self
            .store
            .groups()
            .filter(|(_, descriptor)| {
                ItemRef::validate(descriptor.payload)
                    .ok()
                    .and_then(|item| TableDescription::from_item(item).ok())
                    .is_some_and(|description| description.id == table)
            })
            .map(|(_, descriptor)| descriptor.id)
            .collect();
        let mut ticket = self.store.last_ticket();
        for id in mine {
            let group = self.store.group(id).expect("just listed");
            match self.store.drop_group(group) {
                Ok(dropped) => ticket = dropped,
                Err(refused) => {
                    let mail = ShardMail::DropPartitions(table);
                    return self.try_again(refused, Again::Mail(mail));
                }
            }
        }
        self.step_later(ticket, Step::PartitionsDropped(table));
    }

    fn shard_done(&mut self, table: TableId, dropped: bool, _now: Nanos) {
        let Some(change) = self.system.changes.get_mut(&table) else { return };
        change.shards_left -= 1;
        if change.shards_left > 0 {
            return;
        }
        self.finish_change(table, dropped);
    }

    /// Every shard has done its part: logs the end of the change.
    fn finish_change(&mut self, table: TableId, dropped: bool) {
        let Some(description) = self.system.by_id(table) else { return };
        let name = description.name.clone();
        let begun = if dropped {
            let group = self.system.group.expect("shard 0 leads it");
            system_key(&name, &mut self.key);
            self.store.delete(group, self.key.as_bytes())
        } else {
            // In memory it is active when that is chosen.
            let active = TableDescription { status: TableStatus::Active, ..description.clone() };
            self.write_table(&active)
        };
        match begun {
            Ok(ticket) => {
                self.system.last_write = ticket;
                let step = if dropped { Step::Deleted(table) } else { Step::Active(table) };
                self.step_later(ticket, step);
            }
            Err(refused) => self.try_again(refused, Again::Finish { table, dropped }),
        }
    }

    /// Logs a table's item.
    fn write_table(&mut self, description: &TableDescription) -> Result<Ticket, Refused> {
        let group = self.system.group.expect("shard 0 leads it");
        let item: Item = description.to_item();
        let bytes = item.to_bytes().expect("a description is a valid item");
        system_key(&description.name, &mut self.key);
        let ticket = self.store.put(group, self.key.as_bytes(), &bytes)?;
        self.system.last_write = ticket;
        Ok(ticket)
    }

    /// Refuses everybody who waits for a table to be created or deleted.
    pub(super) fn refuse_changes(&mut self, refusal: &Refusal) {
        for (_, change) in std::mem::take(&mut self.system.changes) {
            if let Some(asker) = change.asker {
                self.refuse(asker, refusal);
            }
        }
    }

    fn step_later(&mut self, ticket: Ticket, step: Step) {
        let nobody = Asker::nobody();
        // A step may depend on nothing new (all was done before): it still goes behind the queue.
        let ticket = ticket.max(self.waiting.back().map_or(ticket, |last| last.ticket));
        self.answer_later(nobody, ticket, WaitingReply::System(step));
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
            Step::PartitionsCreated(table) => {
                self.post(ShardId(0), ShardMail::PartitionsCreated(table), now);
            }
            Step::PartitionsDropped(table) => {
                self.post(ShardId(0), ShardMail::PartitionsDropped(table), now);
            }
            Step::Active(table) => {
                if let Some(description) = self.system.by_id(table) {
                    description.status = TableStatus::Active;
                }
                self.changed(table);
            }
            Step::Deleted(table) => {
                self.changed(table);
                if let Some(name) = self.system.names.remove(&table) {
                    self.system.by_name.remove(&name);
                }
            }
        }
    }

    /// A creation or deletion is complete: answer whoever asked.
    fn changed(&mut self, table: TableId) {
        let asker = self.system.changes.remove(&table).and_then(|change| change.asker);
        let Some(description) = self.system.by_id(table).cloned() else { return };
        if let Some(asker) = asker {
            self.reply_description(asker, &description);
        }
    }

    fn reply_description(&mut self, asker: Asker, description: &TableDescription) {
        let bytes = description.to_item().to_bytes().expect("a description is a valid item");
        let reply = TableReply { description: &bytes };
        self.connections.reply(asker.conn, asker.correlation, &reply);
        self.answered(asker);
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
        let shards = self.context.ports.len() as u32;
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
            .map(|(index, (hash_first, hash_last))| PartitionDescription {
                group: GroupId(self.system.random() | 1),
                shard: ShardId((index as u32 % shards) as u16),
                hash_first,
                hash_last,
                epoch: 1,
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
        let ticket = self.write_table(&description)?;
        self.system.insert(description);
        self.system.changes.insert(id, Change { asker: Some(asker), shards_left: 0 });
        self.step_later(ticket, Step::Creating(id));
        Ok(Outcome::Done)
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
        let ticket = self.write_table(&deleting)?;
        self.system.by_id(id).expect("just found").status = TableStatus::Deleting;
        self.system.changes.insert(id, Change { asker: Some(asker), shards_left: 0 });
        self.step_later(ticket, Step::Deleting(id));
        Ok(Outcome::Done)
    }
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
