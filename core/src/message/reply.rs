//! Replies that a shard sends.

use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};

/// A Put, Delete or Update was chosen.
#[derive(Debug, Archive, Serialize)]
pub struct WriteReply<'a> {
    /// What the request's return values asked for: an item encoding.
    #[rkyv(with = Map<InlineAsBox>)]
    pub attributes: Option<&'a [u8]>,
}

/// The item, or that there is none.
#[derive(Debug, Archive, Serialize)]
pub struct GetReply<'a> {
    /// The item encoding, projected if asked.
    #[rkyv(with = Map<InlineAsBox>)]
    pub item: Option<&'a [u8]>,
}

/// A page of a Query or Scan.
#[derive(Debug, Archive, Serialize)]
pub struct PageReply<'a> {
    /// Items, one after another, each preceded by its length as a little-endian u32.
    #[rkyv(with = InlineAsBox)]
    pub items: &'a [u8],
    /// How many there are.
    pub count: u32,
    /// How many were read, before the filter.
    pub scanned_count: u32,
    /// Encoded key to continue after, if the page ended early.
    #[rkyv(with = Map<InlineAsBox>)]
    pub resume: Option<&'a [u8]>,
    /// For a Scan that reached its partition's end before its range's: the hash to go on from.
    pub next_hash: Option<u64>,
}

/// The items of a BatchGet.
#[derive(Debug, Archive, Serialize)]
pub struct BatchGetReply<'a> {
    /// For each key asked for, in order: the item's length as a little-endian u32 and its bytes;
    /// length 0 says that there is none; length u32::MAX that it was not read (the reply was full)
    /// and is to be asked for again.
    #[rkyv(with = InlineAsBox)]
    pub items: &'a [u8],
}

/// The outcome of each write of a BatchWrite, in order.
#[derive(Debug, Archive, Serialize)]
pub struct BatchWriteReply {
    /// 0, or an [`super::ErrorCode`].
    pub outcomes: Vec<u16>,
}

/// A table's description.
#[derive(Debug, Archive, Serialize)]
pub struct TableReply<'a> {
    /// The description as an item encoding ([`crate::table::TableDescription`]).
    #[rkyv(with = InlineAsBox)]
    pub description: &'a [u8],
}

/// Table names.
#[derive(Debug, Archive, Serialize)]
pub struct ListTablesReply {
    /// In order.
    pub names: Vec<String>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// Where a shard listens.
#[derive(Debug, Archive, Serialize)]
pub struct ShardAddress {
    /// Shard number on this node.
    pub shard: u16,
    /// TCP port, on the address that the client already reached the node at.
    pub port: u16,
}

/// A node's shards.
#[derive(Debug, Archive, Serialize)]
pub struct DescribeNodeReply {
    /// Random id of the node, kept with its data.
    pub node_id: [u8; 16],
    /// Every shard.
    pub shards: Vec<ShardAddress>,
    /// Newest protocol version that the node speaks.
    pub protocol_version: u16,
}

/// The answer to an operator's command.
#[derive(Debug, Archive, Serialize)]
pub struct AdminReply<'a> {
    /// JSON.
    #[rkyv(with = InlineAsBox)]
    pub answer: &'a [u8],
}
