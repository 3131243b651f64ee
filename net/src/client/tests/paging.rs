//! Pages and batches against scripted nodes.

use std::sync::{Arc, Mutex};

use forebay_core::expression::ConditionExpression;
use forebay_core::item::{Item, ItemRef, Value};
use forebay_core::key::KeyBuf;
use forebay_core::message::{
    ArchivedBatchGetRequest, ArchivedBatchWriteRequest, ArchivedQueryRequest, ArchivedScanRequest,
    BatchGetReply, BatchWriteReply, ErrorCode, PageReply,
};
use forebay_core::table::{KeySchema, KeyType, TableDescription};

use super::fake::{Act, Asked, FakeNode, description};
use super::key;
use crate::client::{BatchWrite, ClientConfig, ClientError, Resume, SortKey};

/// Appends an item as pages and batches carry it.
fn push(out: &mut Vec<u8>, item: &[u8]) {
    out.extend_from_slice(&(item.len() as u32).to_le_bytes());
    out.extend_from_slice(item);
}

fn page(asked: &Asked, ids: &[i64], resume: Option<&[u8]>, next_hash: Option<u64>) -> Act {
    let mut items = Vec::new();
    ids.iter().for_each(|id| push(&mut items, &key(*id).to_bytes().unwrap()));
    let count = ids.len() as u32;
    asked.reply(&PageReply { items: &items, count, scanned_count: count + 1, resume, next_hash })
}

/// The encoded key of item `id` under the fakes' schema.
fn encoded(description: &TableDescription, id: i64) -> KeyBuf {
    let mut buf = KeyBuf::new();
    let item = key(id).to_bytes().unwrap();
    let item = ItemRef::trusted(&item);
    description.schema.extract_from_item(&description.hash_seed, item, &mut buf).unwrap();
    buf
}

#[tokio::test]
async fn a_scan_walks_every_partition_and_resumes_inside_them() {
    let table_description = description(3, 1);
    let firsts: Vec<u64> =
        table_description.partitions.iter().map(|part| part.hash_first).collect();
    // The key at which partition 1 cuts its page.
    let cut = (0..100)
        .map(|id| encoded(&description(3, 1), id))
        .find(|key| table_description.partition_of(key.as_key().hash()).shard.0 == 1)
        .unwrap();
    let cut_bytes = cut.as_bytes().to_vec();
    let node = FakeNode::start(3, move |asked| {
        let request = asked.message::<ArchivedScanRequest<'_>>();
        let resume = request.resume.as_ref().map(|key| key.get());
        assert_eq!(request.hash_last.to_native(), u64::MAX);
        assert!(request.filter.is_some(), "every page has the filter");
        match (asked.shard, resume) {
            (0, None) => page(&asked, &[1, 2], None, Some(firsts[1])),
            (1, None) => page(&asked, &[3], Some(&cut_bytes), None),
            (1, Some(found)) if found == cut_bytes => page(&asked, &[], None, Some(firsts[2])),
            (2, None) => page(&asked, &[4, 5], None, None),
            (shard, resume) => panic!("shard {shard} was asked to go on after {resume:?}"),
        }
    })
    .await;
    let table = node.table(ClientConfig::default()).await;
    let scan = || table.scan().filter(ConditionExpression::exists("id"));
    let mut items = scan().items();
    for id in 1..=5 {
        assert_eq!(items.next().await.unwrap(), Some(key(id)));
    }
    assert_eq!(items.next().await.unwrap(), None);

    // The same by hand, with the place kept as bytes in between.
    let first = scan().send().await.unwrap();
    assert_eq!((first.items.len(), first.scanned_count), (2, 3));
    let kept = first.resume.unwrap().as_bytes().to_vec();
    let second = scan().resume(Resume::from_bytes(&kept).unwrap()).send().await.unwrap();
    assert_eq!(second.items, [key(3)]);
    assert_eq!(second.resume.unwrap().as_bytes(), cut.as_bytes());

    // A place outside the segment is refused here.
    let outside = Resume::from_bytes(&kept).unwrap();
    let error = table.scan().segment(2, 3).resume(outside).send().await.unwrap_err();
    assert!(matches!(error, ClientError::InvalidResume));
    let error = table.scan().segment(3, 3).send().await.unwrap_err();
    assert!(matches!(error, ClientError::InvalidSegment { segment: 3, segments: 3, .. }));
}

#[tokio::test]
async fn a_query_sends_key_forms_and_keeps_its_filter_when_the_table_has_moved() {
    let mut sorted = description(1, 1);
    sorted.schema = KeySchema::partition_only("id", KeyType::S).with_sort("day", KeyType::N);
    let mut moved = sorted.clone();
    moved.partitions[0].epoch = 2;
    let low = forebay_core::item::Number::from(3i64).as_bytes().to_vec();
    let node = FakeNode::start(1, move |asked| {
        let request = asked.message::<ArchivedQueryRequest<'_>>();
        if request.epoch.to_native() == 1 {
            return asked.refuse(ErrorCode::WrongPartition, 0);
        }
        assert_eq!(request.partition_key.get(), b"ada");
        assert!(request.filter.is_some() && request.projection.is_some() && request.descending);
        assert_eq!(request.limit.to_native(), 7);
        let condition = request.sort_key.as_ref().unwrap();
        assert!(condition.matches(&low));
        page(&asked, &[1], None, None)
    })
    .await;
    node.describe_as(sorted);
    let table = node.table(ClientConfig::default()).await;
    node.describe_as(moved);
    let query = || {
        table
            .query("ada")
            .sort_key(SortKey::between(3, 9))
            .descending()
            .limit(7)
            .filter(ConditionExpression::exists("id"))
            .projection(["id", "day"])
    };
    assert_eq!(query().send().await.unwrap().items, [key(1)]);
    assert_eq!(node.described(), 2);

    let numbers = table.query("ada").sort_key(SortKey::begins_with(3)).send().await;
    assert!(matches!(numbers, Err(ClientError::InvalidExpression(_))));
    let wrong_type = table.query(5).send().await;
    assert!(matches!(wrong_type, Err(ClientError::InvalidKey(_))));
    let elsewhere = Resume::from_bytes(encoded(&description(1, 1), 1).as_bytes()).unwrap();
    let error = query().resume(elsewhere).send().await.unwrap_err();
    assert!(matches!(error, ClientError::InvalidResume));
}

#[tokio::test]
async fn a_batch_get_of_any_size_is_answered_in_the_order_of_its_keys() {
    let requests = Arc::new(Mutex::new(0));
    let counter = requests.clone();
    let node = FakeNode::start(2, move |asked| {
        *counter.lock().unwrap() += 1;
        let request = asked.message::<ArchivedBatchGetRequest<'_>>();
        assert!((1..=100).contains(&request.keys.len()));
        let mut items = Vec::new();
        for (position, key) in request.keys.iter().enumerate() {
            let id = ItemRef::trusted(key.get()).get("id").unwrap().to_value();
            if position >= 60 {
                items.extend_from_slice(&u32::MAX.to_le_bytes());
            } else if id == Value::from(13) {
                items.extend_from_slice(&0u32.to_le_bytes());
            } else {
                push(&mut items, key.get());
            }
        }
        asked.reply(&BatchGetReply { items: &items })
    })
    .await;
    let table = node.table(ClientConfig::default()).await;
    let keys: Vec<Item> = (0..500).map(key).collect();
    let results = table.batch_get(&keys).send().await.unwrap();
    for (id, result) in results.iter().enumerate() {
        let expected = (id != 13).then(|| keys[id].clone());
        assert_eq!(*result.as_ref().unwrap(), expected, "key {id}");
    }
    assert_eq!(results.len(), 500);
    assert!(*requests.lock().unwrap() >= 9);
}

#[tokio::test]
async fn each_write_of_a_batch_has_its_own_outcome() {
    let mut busy_once = true;
    let node = FakeNode::start(2, move |asked| {
        let request = asked.message::<ArchivedBatchWriteRequest<'_>>();
        assert!((1..=25).contains(&request.operations.len()));
        let outcome = |(delete, id): (bool, Value)| match id {
            id if id == Value::from(3) => ErrorCode::DiskFull as u16,
            id if id == Value::from(4) => ErrorCode::ShardFailed as u16,
            id if id == Value::from(5) && std::mem::take(&mut busy_once) => {
                ErrorCode::Overloaded as u16
            }
            id => {
                assert_eq!(delete, id == Value::from(7));
                0
            }
        };
        let operations = request.operations.iter().map(|operation| {
            let id = ItemRef::trusted(operation.bytes.get()).get("id").unwrap().to_value();
            (operation.delete, id)
        });
        asked.reply(&BatchWriteReply { outcomes: operations.map(outcome).collect() })
    })
    .await;
    let table = node.table(ClientConfig::default()).await;
    let writes: Vec<BatchWrite> = (0..120)
        .map(|id| if id == 7 { BatchWrite::Delete(key(id)) } else { BatchWrite::Put(key(id)) })
        .collect();
    let results = table.batch_write(&writes).await.unwrap();
    assert_eq!(results.len(), 120);
    for (id, result) in results.iter().enumerate() {
        match (id, result) {
            (3, Err(error)) => assert_eq!(error.code(), Some(ErrorCode::DiskFull)),
            (4, Err(error)) => assert!(error.outcome_unknown()),
            (id, result) => assert!(result.is_ok(), "write {id}: {result:?}"),
        }
    }
    let twice = [BatchWrite::Put(key(1)), BatchWrite::Put(key(2)), BatchWrite::Delete(key(1))];
    let error = table.batch_write(&twice).await.unwrap_err();
    assert!(matches!(error, ClientError::DuplicateKey { first: 0, second: 2 }));
}

#[tokio::test]
async fn a_part_of_a_batch_that_went_astray_is_sent_again() {
    let node = FakeNode::start(2, |asked| {
        let request = asked.message::<ArchivedBatchWriteRequest<'_>>();
        if asked.shard == 1 && request.epoch.to_native() == 1 {
            return asked.refuse(ErrorCode::WrongPartition, 0);
        }
        asked.reply(&BatchWriteReply { outcomes: vec![0; request.operations.len()] })
    })
    .await;
    let table = node.table(ClientConfig::default()).await;
    node.describe_as(description(2, 2));
    let writes: Vec<BatchWrite> = (0..60).map(|id| BatchWrite::Put(key(id))).collect();
    let results = table.batch_write(&writes).await.unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(node.described(), 2);
}

#[tokio::test]
async fn an_empty_batch_sends_nothing() {
    let node = FakeNode::start(1, |_| panic!("nothing is sent")).await;
    let table = node.table(ClientConfig::default()).await;
    assert!(table.batch_get(&[]).send().await.unwrap().is_empty());
    assert!(table.batch_write(&[]).await.unwrap().is_empty());
}
