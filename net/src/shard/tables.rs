//! The tables that this shard knows, and which of their partitions it holds.

use forebay_core::ids::{IdMap, TableId};
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

/// See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Tables {
    by_id: IdMap<TableId, Table>,
    /// Whose partition each group of this shard is.
    by_group: IdMap<GroupOrdinal, TableId>,
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
        for partition in self.by_id.remove(&id).into_iter().flat_map(|table| table.partitions) {
            self.by_group.remove(&partition.group);
        }
    }

    /// The group has no member here any more.
    pub(super) fn remove_group(&mut self, group: GroupOrdinal) {
        let Some(id) = self.by_group.remove(&group) else { return };
        let Some(table) = self.by_id.get_mut(&id) else { return };
        table.partitions.retain(|partition| partition.group != group);
        if table.partitions.is_empty() {
            self.by_id.remove(&id);
        }
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
        self.by_group.insert(group, description.id);
    }

    /// The table whose partition a group of this shard is.
    pub(super) fn name_of(&self, group: GroupOrdinal) -> Option<&str> {
        let table = self.by_id.get(self.by_group.get(&group)?)?;
        Some(table.description.name.as_str())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Table> {
        self.by_id.values()
    }

    pub(super) fn partition_count(&self) -> usize {
        self.by_id.values().map(|table| table.partitions.len()).sum()
    }
}
