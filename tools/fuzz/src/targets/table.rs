//! Table descriptions, as the system group and every group's catalog entry hold them. Input: an item.

use forebay_core::ids::{GroupId, ShardId, TableId};
use forebay_core::item::ItemRef;
use forebay_core::table::{
    KeySchema, KeyType, PartitionDescription, TableDescription, TableStatus, split_evenly,
};

use super::item::mend;

/// An accepted description survives its item, and its partitions cover every hash once.
pub fn run(data: &[u8]) {
    check(data);
    let mut mended = data.to_vec();
    mend(&mut mended);
    check(&mended);
}

fn check(data: &[u8]) {
    let Ok(item) = ItemRef::validate(data) else { return };
    let Ok(table) = TableDescription::from_item(item) else { return };
    assert_eq!(table.validate(), Ok(()));
    let bytes = table.to_item().to_bytes().expect("a description is a valid item");
    assert_eq!(TableDescription::from_item(ItemRef::trusted(&bytes)).as_ref(), Ok(&table));
    for partition in &table.partitions {
        for hash in [partition.hash_first, partition.hash_last] {
            assert_eq!(table.partition_of(hash), partition);
        }
    }
    assert_eq!(table.partitions.first().map(|partition| partition.hash_first), Some(0));
    assert_eq!(table.partitions.last().map(|partition| partition.hash_last), Some(u64::MAX));
}

/// A table of each shape.
pub(super) fn description(partitions: u64, sort: bool) -> TableDescription {
    let mut schema = KeySchema::partition_only("id", KeyType::S);
    if sort {
        schema = schema.with_sort("at", KeyType::N);
    }
    TableDescription {
        id: TableId(99),
        name: "orders".into(),
        schema,
        hash_seed: super::key::SEED,
        partitions: split_evenly(partitions)
            .into_iter()
            .enumerate()
            .map(|(index, (hash_first, hash_last))| PartitionDescription {
                group: GroupId(100 + index as u64),
                founders: [None; 3],
                members: None,
                shard: ShardId(index as u16 % 2),
                hash_first,
                hash_last,
                epoch: 1,
            })
            .collect(),
        status: TableStatus::Active,
        created_unix_millis: 1_700_000_000_000,
    }
}

/// One partition and three, with and without a sort key.
pub fn seeds() -> Vec<Vec<u8>> {
    let tables = [description(1, false), description(3, true)];
    tables.iter().map(|table| table.to_item().to_bytes().expect("a valid item")).collect()
}
