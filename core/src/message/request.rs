//! Requests that a client sends to a shard.
//!
//! Data requests name the table by id and carry the partition epoch that the sender believes in
//! (0: do not check). Items and keys are flat item encodings ([`crate::item`]); a key is an item
//! of just the key attributes.

use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};

use crate::expression::{Condition, Projection, SortKeyCondition, Update};

/// What a write returns besides success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize)]
#[rkyv(derive(Clone, Copy, Debug, PartialEq, Eq))]
#[repr(u8)]
pub enum ReturnValues {
    /// Nothing.
    #[default]
    None,
    /// The whole item before the write.
    AllOld,
    /// The attributes that an update touched, before it.
    UpdatedOld,
    /// The whole item after the write.
    AllNew,
    /// The attributes that an update touched, after it.
    UpdatedNew,
}

/// Store an item, replacing the one with the same key.
#[derive(Debug, Archive, Serialize)]
pub struct PutRequest<'a> {
    /// Table id.
    pub table: u64,
    /// Partition epoch, or 0.
    pub epoch: u64,
    /// The item.
    #[rkyv(with = InlineAsBox)]
    pub item: &'a [u8],
    /// Write only if this holds for the current item.
    pub condition: Option<Condition>,
    /// [`ReturnValues::None`] or [`ReturnValues::AllOld`].
    pub return_values: ReturnValues,
    /// Return the current item when the condition fails.
    pub return_old_on_failure: bool,
}

/// Read one item.
#[derive(Debug, Archive, Serialize)]
pub struct GetRequest<'a> {
    /// Table id.
    pub table: u64,
    /// Partition epoch, or 0.
    pub epoch: u64,
    /// The key.
    #[rkyv(with = InlineAsBox)]
    pub key: &'a [u8],
    /// Return only these attributes.
    pub projection: Option<Projection>,
    /// Read from the leader what was acknowledged before.
    pub consistent: bool,
}

/// Remove an item, if it is there.
#[derive(Debug, Archive, Serialize)]
pub struct DeleteRequest<'a> {
    /// Table id.
    pub table: u64,
    /// Partition epoch, or 0.
    pub epoch: u64,
    /// The key.
    #[rkyv(with = InlineAsBox)]
    pub key: &'a [u8],
    /// Remove only if this holds for the current item.
    pub condition: Option<Condition>,
    /// [`ReturnValues::None`] or [`ReturnValues::AllOld`].
    pub return_values: ReturnValues,
    /// Return the current item when the condition fails.
    pub return_old_on_failure: bool,
}

/// Change attributes of an item, or create it.
#[derive(Debug, Archive, Serialize)]
pub struct UpdateRequest<'a> {
    /// Table id.
    pub table: u64,
    /// Partition epoch, or 0.
    pub epoch: u64,
    /// The key.
    #[rkyv(with = InlineAsBox)]
    pub key: &'a [u8],
    /// The change.
    pub update: Update,
    /// Change only if this holds for the current item.
    pub condition: Option<Condition>,
    /// Any of them.
    pub return_values: ReturnValues,
    /// Return the current item when the condition fails.
    pub return_old_on_failure: bool,
}

/// Read the items of one partition key in sort-key order.
#[derive(Debug, Archive, Serialize)]
pub struct QueryRequest<'a> {
    /// Table id.
    pub table: u64,
    /// Partition epoch, or 0.
    pub epoch: u64,
    /// The partition key's value in key form (raw bytes of S and B, ordered form of N).
    #[rkyv(with = InlineAsBox)]
    pub partition_key: &'a [u8],
    /// Bounds on the sort key.
    pub sort_key: Option<SortKeyCondition>,
    /// Largest sort key first.
    pub descending: bool,
    /// Read at most so many items (before the filter); 0 is no limit of the caller's.
    pub limit: u32,
    /// Return only items for which this holds.
    pub filter: Option<Condition>,
    /// Return only these attributes.
    pub projection: Option<Projection>,
    /// Continue after this encoded key ([`crate::key`]), taken from the page before.
    #[rkyv(with = Map<InlineAsBox>)]
    pub resume: Option<&'a [u8]>,
    /// Read from the leader what was acknowledged before.
    pub consistent: bool,
}

/// Read the items of a hash range in key order. A scan of segment i of n is the range that
/// [`crate::table::split_evenly`] gives; a page ends at the partition's end at the latest.
#[derive(Debug, Archive, Serialize)]
pub struct ScanRequest<'a> {
    /// Table id.
    pub table: u64,
    /// Partition epoch, or 0.
    pub epoch: u64,
    /// First hash of the range.
    pub hash_first: u64,
    /// Last hash of the range, inclusive.
    pub hash_last: u64,
    /// Read at most so many items (before the filter); 0 is no limit of the caller's.
    pub limit: u32,
    /// Return only items for which this holds.
    pub filter: Option<Condition>,
    /// Return only these attributes.
    pub projection: Option<Projection>,
    /// Continue after this encoded key, taken from the page before.
    #[rkyv(with = Map<InlineAsBox>)]
    pub resume: Option<&'a [u8]>,
}

/// Read several items of one shard.
#[derive(Debug, Archive, Serialize)]
pub struct BatchGetRequest<'a> {
    /// Table id.
    pub table: u64,
    /// Partition epoch, or 0.
    pub epoch: u64,
    /// The keys.
    #[rkyv(with = Map<InlineAsBox>)]
    pub keys: Vec<&'a [u8]>,
    /// Return only these attributes.
    pub projection: Option<Projection>,
}

/// One write of a batch.
#[derive(Debug, Archive, Serialize)]
pub struct BatchOperation<'a> {
    /// Whether `bytes` is the key of an item to remove; otherwise it is an item to store.
    pub delete: bool,
    /// Item or key.
    #[rkyv(with = InlineAsBox)]
    pub bytes: &'a [u8],
}

/// Store and remove several items of one shard; each write stands alone.
#[derive(Debug, Archive, Serialize)]
pub struct BatchWriteRequest<'a> {
    /// Table id.
    pub table: u64,
    /// Partition epoch, or 0.
    pub epoch: u64,
    /// The writes.
    pub operations: Vec<BatchOperation<'a>>,
}

/// Create a table. Goes to shard 0, which leads the system group.
#[derive(Debug, Archive, Serialize)]
pub struct CreateTableRequest<'a> {
    /// Name.
    #[rkyv(with = InlineAsBox)]
    pub name: &'a str,
    /// Partition key attribute: name and type (`S`, `N`, `B`).
    #[rkyv(with = InlineAsBox)]
    pub partition_key: &'a str,
    /// Its type's letter.
    pub partition_key_type: u8,
    /// Sort key attribute; empty for none.
    #[rkyv(with = InlineAsBox)]
    pub sort_key: &'a str,
    /// Its type's letter; 0 for none.
    pub sort_key_type: u8,
    /// Partitions to begin with; 0 lets the server choose (one a shard).
    pub partitions: u32,
}

/// Describe a table: schema, hash seed, partitions.
#[derive(Debug, Archive, Serialize)]
pub struct DescribeTableRequest<'a> {
    /// Name.
    #[rkyv(with = InlineAsBox)]
    pub name: &'a str,
}

/// List table names in order.
#[derive(Debug, Archive, Serialize)]
pub struct ListTablesRequest<'a> {
    /// Start after this name; empty starts at the first.
    #[rkyv(with = InlineAsBox)]
    pub start_after: &'a str,
    /// At most so many names; 0 is 100.
    pub limit: u32,
}

/// Delete a table and its items.
#[derive(Debug, Archive, Serialize)]
pub struct DeleteTableRequest<'a> {
    /// Name.
    #[rkyv(with = InlineAsBox)]
    pub name: &'a str,
}

/// Ask which shards this node has and where they listen.
#[derive(Debug, Archive, Serialize)]
pub struct DescribeNodeRequest {
    /// Newest protocol version that the sender speaks.
    pub protocol_version: u16,
}

/// An operator's command to a node of a cluster.
#[derive(Debug, Archive, Serialize)]
pub struct AdminRequest<'a> {
    /// JSON; what it says is between the node and its operators.
    #[rkyv(with = InlineAsBox)]
    pub command: &'a [u8],
}
