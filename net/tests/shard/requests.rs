//! Requests in their shortest form, with every option at its default.

use forebay_core::expression::{Condition, ConditionExpression, Path};
use forebay_core::expression::{Update, UpdateExpression};
use forebay_core::item::{Item, Value};
use forebay_core::message::{
    BatchOperation, BatchWriteRequest, DeleteRequest, GetRequest, PutRequest, QueryRequest,
    ReturnValues, ScanRequest, UpdateRequest,
};

pub(crate) fn key(pk: &str) -> Vec<u8> {
    Item::new().with("pk", pk).to_bytes().expect("valid")
}

pub(crate) fn key_with(pk: &str, sk: impl Into<Value>) -> Vec<u8> {
    Item::new().with("pk", pk).with("sk", sk).to_bytes().expect("valid")
}

/// An item without sort key.
pub(crate) fn item(pk: &str, value: impl Into<Value>) -> Item {
    Item::new().with("pk", pk).with("value", value)
}

pub(crate) fn bytes(item: &Item) -> Vec<u8> {
    item.to_bytes().expect("valid")
}

pub(crate) fn put(table: u64, item: &[u8]) -> PutRequest<'_> {
    PutRequest {
        table,
        epoch: 0,
        item,
        condition: None,
        return_values: ReturnValues::None,
        return_old_on_failure: false,
    }
}

pub(crate) fn get(table: u64, key: &[u8]) -> GetRequest<'_> {
    GetRequest { table, epoch: 0, key, projection: None, consistent: true }
}

pub(crate) fn delete(table: u64, key: &[u8]) -> DeleteRequest<'_> {
    DeleteRequest {
        table,
        epoch: 0,
        key,
        condition: None,
        return_values: ReturnValues::None,
        return_old_on_failure: false,
    }
}

pub(crate) fn update(table: u64, key: &[u8], update: Update) -> UpdateRequest<'_> {
    UpdateRequest {
        table,
        epoch: 0,
        key,
        update,
        condition: None,
        return_values: ReturnValues::None,
        return_old_on_failure: false,
    }
}

/// `value += by`.
pub(crate) fn add(by: i64) -> Update {
    UpdateExpression::new().add("value", by).compile().expect("valid")
}

pub(crate) fn query(table: u64, partition_key: &[u8]) -> QueryRequest<'_> {
    QueryRequest {
        table,
        epoch: 0,
        partition_key,
        sort_key: None,
        descending: false,
        limit: 0,
        filter: None,
        projection: None,
        resume: None,
        consistent: true,
    }
}

pub(crate) fn scan(table: u64) -> ScanRequest<'static> {
    ScanRequest {
        table,
        epoch: 0,
        hash_first: 0,
        hash_last: u64::MAX,
        limit: 0,
        filter: None,
        projection: None,
        resume: None,
    }
}

pub(crate) fn batch(table: u64, operations: Vec<BatchOperation<'_>>) -> BatchWriteRequest<'_> {
    BatchWriteRequest { table, epoch: 0, operations }
}

pub(crate) fn absent() -> Condition {
    ConditionExpression::not_exists(Path::attribute("pk")).compile().expect("valid")
}

pub(crate) fn present() -> Condition {
    ConditionExpression::exists(Path::attribute("pk")).compile().expect("valid")
}
