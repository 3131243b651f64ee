//! Tables: schemas and their limits.

use super::*;
use crate::ids::Slot;
use crate::item::NumberError;
use crate::limits::PARTITION_KEY_BYTES_MAX;
use crate::paxos::{Change, Configuration};

const SEED: [u8; 16] = [7; 16];

fn table(parts: u64) -> TableDescription {
    let partitions = split_evenly(parts)
        .into_iter()
        .zip(1..)
        .map(|((hash_first, hash_last), group)| PartitionDescription {
            group: GroupId(group),
            founders: [None; 3],
            members: None,
            shard: ShardId(group as u16 % 3),
            hash_first,
            hash_last,
            epoch: 1,
        })
        .collect();
    TableDescription {
        id: TableId(u64::MAX),
        name: "orders".to_owned(),
        schema: KeySchema::partition_only("customer", KeyType::S).with_sort("at", KeyType::N),
        hash_seed: SEED,
        partitions,
        status: TableStatus::Active,
        created_unix_millis: 1_700_000_000_000,
    }
}

fn number(text: &str) -> Result<Value, NumberError> {
    text.parse::<Number>().map(Value::N)
}

fn extract(schema: &KeySchema, item: &Item) -> Result<KeyBuf, KeyError> {
    let bytes = item.to_bytes().unwrap();
    let mut key = KeyBuf::new();
    schema.extract_from_item(&SEED, ItemRef::trusted(&bytes), &mut key)?;
    Ok(key)
}

#[test]
fn descriptions_survive_storing() {
    for parts in [1, 2, 7, 1000] {
        let mut table = table(parts);
        let bytes = table.to_item().to_bytes().unwrap();
        assert_eq!(
            TableDescription::from_item(ItemRef::validate(&bytes).unwrap()),
            Ok(table.clone())
        );
        table.schema.sort = None;
        table.status = TableStatus::Deleting;
        let bytes = table.to_item().to_bytes().unwrap();
        assert_eq!(TableDescription::from_item(ItemRef::validate(&bytes).unwrap()), Ok(table));
    }
}

#[test]
fn four_thousand_partitions_fit_one_item() {
    assert!(table(4000).to_item().to_bytes().is_ok());
}

#[test]
fn descriptions_with_a_missing_or_wrong_attribute_are_refused() {
    let whole = table(2).to_item();
    for name in whole.0.keys() {
        if name == SORT_KEY {
            continue;
        }
        for wrong in [None, Some(Value::Null)] {
            let mut item = whole.clone();
            match wrong {
                None => item.0.remove(name),
                Some(value) => item.0.insert(name.clone(), value),
            };
            let bytes = item.to_bytes().unwrap();
            let refused = TableDescription::from_item(ItemRef::trusted(&bytes)).unwrap_err();
            assert!(matches!(refused, TableError::Malformed { attribute } if attribute == name));
        }
    }
}

#[test]
fn gaps_overlaps_and_short_ranges_are_refused() {
    let mut gap = table(3);
    gap.partitions[1].hash_first += 1;
    assert_eq!(gap.validate(), Err(TableError::Coverage { index: 1 }));
    let mut short = table(3);
    short.partitions[2].hash_last -= 1;
    assert_eq!(short.validate(), Err(TableError::Coverage { index: 3 }));
    let mut beyond = table(3);
    beyond.partitions.push(beyond.partitions[0]);
    assert_eq!(beyond.validate(), Err(TableError::Coverage { index: 3 }));
    let mut none = table(1);
    none.partitions.clear();
    assert_eq!(none.validate(), Err(TableError::Coverage { index: 0 }));
}

#[test]
fn every_hash_belongs_to_one_partition() {
    for parts in [1, 2, 3, 10, 1000] {
        let table = table(parts);
        table.validate().unwrap();
        for partition in &table.partitions {
            assert_eq!(table.partition_of(partition.hash_first), partition);
            assert_eq!(table.partition_of(partition.hash_last), partition);
        }
        let lengths = table.partitions.iter().map(|p| p.hash_last - p.hash_first);
        assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1);
    }
}

#[test]
fn names_follow_dynamodbs_rule() {
    assert_eq!(validate_table_name("a.B-3_c"), Ok(()));
    assert_eq!(validate_table_name("ab"), Err(TableError::NameLength { bytes: 2 }));
    assert_eq!(validate_table_name(&"a".repeat(255)), Ok(()));
    assert_eq!(validate_table_name(&"a".repeat(256)), Err(TableError::NameLength { bytes: 256 }));
    assert_eq!(validate_table_name("ab/c"), Err(TableError::NameCharacter { offset: 2 }));
    assert_eq!(validate_table_name("tablé"), Err(TableError::NameCharacter { offset: 4 }));
    let schema = KeySchema::partition_only("", KeyType::S);
    assert_eq!(schema.validate(), Err(TableError::KeyAttributeNameLength { bytes: 0 }));
    let schema = KeySchema::partition_only("a", KeyType::S).with_sort("a", KeyType::N);
    assert_eq!(schema.validate(), Err(TableError::SameKeyAttribute));
}

#[test]
fn keys_are_extracted_from_items() {
    let schema = table(1).schema;
    let item =
        Item::new().with("at", number("-12.50").unwrap()).with("customer", "ann").with("x", 1);
    let key = extract(&schema, &item).unwrap();
    let key = KeyRef::validate(key.as_bytes()).unwrap();
    assert_eq!(key.partition_key(), b"ann");
    assert_eq!(key.sort_key(), "-12.5".parse::<Number>().unwrap().as_bytes());
    assert!(key.hash_is_of(&SEED));
    let at = "-12.5".parse::<Number>().unwrap();
    assert_eq!(KeyType::N.value_of(key.sort_key()), Ok(ValueRef::N(at.as_ref())));
    assert_eq!(KeyType::S.value_of(key.partition_key()), Ok(ValueRef::S("ann")));
    assert!(KeyType::N.value_of(b"?").is_err());
    assert!(KeyType::S.value_of(&[0xff]).is_err());
}

#[test]
fn items_without_a_proper_key_are_refused() {
    let schema = table(1).schema;
    let partition = KeyPart::Partition;
    let sort = KeyPart::Sort;
    let item = |customer: Value, at: Value| Item::new().with("customer", customer).with("at", at);
    assert_eq!(
        extract(&schema, &Item::new().with("at", 1)),
        Err(KeyError::Missing { part: partition })
    );
    assert_eq!(
        extract(&schema, &Item::new().with("customer", "a")),
        Err(KeyError::Missing { part: sort })
    );
    assert_eq!(
        extract(&schema, &item("a".into(), "1".into())),
        Err(KeyError::WrongType { part: sort, expected: "N", found: "S" })
    );
    assert_eq!(
        extract(&schema, &item("".into(), 1.into())),
        Err(KeyError::Empty { part: partition })
    );
    assert_eq!(
        extract(&schema, &item("a".repeat(2049).into(), 1.into())),
        Err(KeyError::TooLong { part: partition, bytes: 2049, limit: PARTITION_KEY_BYTES_MAX })
    );
}

#[test]
fn keys_of_requests_have_no_other_attributes() {
    let schema = KeySchema::partition_only("id", KeyType::B);
    let mut key = KeyBuf::new();
    let bytes = Item::new().with("id", vec![1u8]).to_bytes().unwrap();
    assert_eq!(schema.extract_from_key(&SEED, ItemRef::trusted(&bytes), &mut key), Ok(()));
    let bytes = Item::new().with("id", vec![1u8]).with("more", 1).to_bytes().unwrap();
    assert_eq!(
        schema.extract_from_key(&SEED, ItemRef::trusted(&bytes), &mut key),
        Err(KeyError::ExtraAttributes { found: 2, expected: 1 })
    );
}

#[test]
fn written_keys_lead_back_to_the_same_key() {
    let with_sort = table(1).schema;
    let item = Item::new().with("at", 5).with("customer", "ann");
    let key = extract(&with_sort, &item).unwrap();
    let mut out = Vec::new();
    with_sort.write_key(key.as_key(), &mut out).unwrap();
    assert_eq!(out, item.to_bytes().unwrap());
    let mut again = KeyBuf::new();
    let named = ItemRef::validate(&out).unwrap();
    with_sort.extract_from_key(&SEED, named, &mut again).unwrap();
    assert_eq!(again, key);

    let without_sort = KeySchema::partition_only("customer", KeyType::S);
    assert!(without_sort.write_key(key.as_key(), &mut Vec::new()).is_err());
    let key = extract(&without_sort, &item).unwrap();
    assert!(with_sort.write_key(key.as_key(), &mut Vec::new()).is_err());
    let mut out = Vec::new();
    without_sort.write_key(key.as_key(), &mut out).unwrap();
    assert_eq!(out, Item::new().with("customer", "ann").to_bytes().unwrap());
}

#[test]
fn stored_attribute_names_are_fixed() {
    let item = table(1).to_item();
    let names: Vec<&str> = item.0.keys().map(String::as_str).collect();
    let expected = [
        "created_unix_millis",
        "hash_seed",
        "id",
        "name",
        "partition_key",
        "partitions",
        "sort_key",
        "status",
    ];
    assert_eq!(names, expected);
    let Value::L(partitions) = &item.0["partitions"] else { panic!("a list") };
    let Value::M(partition) = &partitions[0] else { panic!("a map") };
    let names: Vec<&str> = partition.keys().map(String::as_str).collect();
    assert_eq!(names, ["epoch", "group", "hash_first", "hash_last", "shard"]);
    let Value::M(sort) = &item.0["sort_key"] else { panic!("a map") };
    assert_eq!(sort["type"], Value::from("N"));
}

#[test]
fn members_replace_founders_and_only_by_newer_ones() {
    let founder = |n: u16| Founder { id: MemberId(n.into()), peer: Peer(n.into()), az: Az(n) };
    let mut table = table(2);
    table.partitions[0].founders = [1, 2, 3].map(|n| Some(founder(n)));
    assert_eq!(table.partitions[0].peers().collect::<Vec<_>>(), [1, 2, 3].map(Peer));
    let triples: Vec<_> = (1..=3u16).map(|n| (MemberId(n.into()), Peer(n.into()), Az(n))).collect();
    let configuration = Configuration::bootstrap(&triples, 3).unwrap();
    let configuration = configuration.changed(Change::Remove { id: MemberId(3) }, 3).unwrap();
    let at = ConfigurationAt { slot: Slot(40), configuration };
    assert!(table.partitions[0].learn_members(&at));
    assert!(!table.partitions[0].learn_members(&at));
    assert!(!table.partitions[0].learn_members(&ConfigurationAt { slot: Slot(39), ..at }));
    assert_eq!(table.partitions[0].founders().count(), 0, "nobody founds it a second time");
    assert_eq!(table.partitions[0].peers().collect::<Vec<_>>(), [1, 2].map(Peer));
    let bytes = table.to_item().to_bytes().unwrap();
    assert_eq!(TableDescription::from_item(ItemRef::trusted(&bytes)), Ok(table));
}
