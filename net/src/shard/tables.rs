//! The tables that this shard knows, and which of their partitions it holds.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use forebay_core::ids::TableId;
use forebay_core::message::ErrorCode;
use forebay_core::table::TableDescription;
use forebay_storage::store::GroupOrdinal;

use super::refusal::Refusal;

/// A partition of this shard.
#[derive(Clone, Copy, Debug)]
struct LocalPartition {
    hash_first: u64,
    hash_last: u64,
    epoch: u64,
    group: GroupOrdinal,
}

/// A table with partitions on this shard.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) description: TableDescription,
    /// In hash order; this shard's only.
    partitions: Vec<LocalPartition>,
}

impl Table {
    /// This shard's partitions: group, first and last hash.
    pub(super) fn partitions(&self) -> impl Iterator<Item = (GroupOrdinal, u64, u64)> {
        self.partitions.iter().map(|part| (part.group, part.hash_first, part.hash_last))
    }

    /// The group that holds `hash`, if it is on this shard and the sender's epoch is right.
    pub(super) fn group_for(&self, hash: u64, epoch: u64) -> Result<GroupOrdinal, Refusal> {
        self.partition_for(hash, epoch).map(|(group, _)| group)
    }

    /// The same, with the last hash that the partition holds.
    pub(super) fn partition_for(
        &self,
        hash: u64,
        epoch: u64,
    ) -> Result<(GroupOrdinal, u64), Refusal> {
        let after = self.partitions.partition_point(|partition| partition.hash_first <= hash);
        let found = self.partitions[..after].last().filter(|partition| hash <= partition.hash_last);
        match found {
            Some(partition) if epoch == 0 || epoch == partition.epoch => {
                Ok((partition.group, partition.hash_last))
            }
            Some(partition) => Err(Refusal::new(
                ErrorCode::WrongPartition,
                format!("partition epoch {} here, {epoch} in the request", partition.epoch),
            )),
            None => Err(Refusal::constant(
                ErrorCode::WrongPartition,
                "this shard does not hold the key's partition; describe the table again",
            )),
        }
    }
}

/// Table ids are random already; no client can choose one.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        unreachable!("an id is hashed as one number, not as {} bytes", bytes.len());
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

/// See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Tables {
    by_id: HashMap<TableId, Table, BuildHasherDefault<IdHasher>>,
}

impl Tables {
    pub(super) fn get(&self, id: u64) -> Result<&Table, Refusal> {
        self.by_id.get(&TableId(id)).ok_or_else(|| {
            Refusal::constant(
                ErrorCode::UnknownTable,
                "no table with this id has a partition on this shard",
            )
        })
    }

    pub(super) fn remove(&mut self, id: TableId) {
        self.by_id.remove(&id);
    }

    /// The group has no member here any more.
    pub(super) fn remove_group(&mut self, group: GroupOrdinal) {
        self.by_id.retain(|_, table| {
            table.partitions.retain(|partition| partition.group != group);
            !table.partitions.is_empty()
        });
    }

    /// Adds a partition of the table that `description` describes.
    pub(super) fn add(
        &mut self,
        description: &TableDescription,
        hash_first: u64,
        hash_last: u64,
        epoch: u64,
        group: GroupOrdinal,
    ) {
        let table = self
            .by_id
            .entry(description.id)
            .or_insert_with(|| Table { description: description.clone(), partitions: Vec::new() });
        let at = table.partitions.partition_point(|partition| partition.hash_first < hash_first);
        table.partitions.insert(at, LocalPartition { hash_first, hash_last, epoch, group });
    }

    /// The table whose partition a group of this shard is.
    pub(super) fn name_of(&self, group: GroupOrdinal) -> Option<&str> {
        let holds = |table: &&Table| table.partitions.iter().any(|part| part.group == group);
        self.by_id.values().find(holds).map(|table| table.description.name.as_str())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Table> {
        self.by_id.values()
    }

    pub(super) fn partition_count(&self) -> usize {
        self.by_id.values().map(|table| table.partitions.len()).sum()
    }
}
