//! Every limit of the store, with its reason. Most are DynamoDB's own, so that an application
//! finds the same edges here.

/// Largest item, by DynamoDB's size rule ([`crate::item::ItemRef::size_bytes`]).
pub const ITEM_BYTES_MAX: usize = 400 * 1024;
/// Longest partition key value.
pub const PARTITION_KEY_BYTES_MAX: usize = 2048;
/// Longest sort key value.
pub const SORT_KEY_BYTES_MAX: usize = 1024;
/// Longest attribute name; key attribute names are held to 255 by the table schema.
pub const ATTRIBUTE_NAME_BYTES_MAX: usize = 65_535;
/// Longest name of a key attribute.
pub const KEY_ATTRIBUTE_NAME_BYTES_MAX: usize = 255;
/// Nesting of maps and lists in an item.
pub const NESTING_DEPTH_MAX: usize = 32;
/// Significant decimal digits of a number.
pub const NUMBER_DIGITS_MAX: usize = 38;
/// Bytes of items that one Query or Scan reads before it returns a resume key.
pub const PAGE_ITEM_BYTES_MAX: usize = 1024 * 1024;
/// Writes in one batch.
pub const BATCH_WRITE_ITEMS_MAX: usize = 25;
/// Reads in one batch.
pub const BATCH_GET_ITEMS_MAX: usize = 100;
/// Shortest table name.
pub const TABLE_NAME_BYTES_MIN: usize = 3;
/// Longest table name.
pub const TABLE_NAME_BYTES_MAX: usize = 255;
/// Nodes in one compiled expression; DynamoDB's 4 KB of text and 300 operators fit well within.
pub const EXPRESSION_NODES_MAX: usize = 512;
/// Bytes of operand values in one compiled expression; DynamoDB allows 2 MB of values.
pub const EXPRESSION_VALUE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Largest item encoding: names and values of the largest item plus at most 8 bytes of framing for
/// each; an item of the size limit made of one-byte values cannot exceed it.
pub const ENCODED_ITEM_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest frame on the wire: a batch of the largest items.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024 + 64 * 1024;

/// Longest encoded key: 8 bytes of hash, 2 of length, and both key values.
pub const ENCODED_KEY_BYTES_MAX: usize = 10 + PARTITION_KEY_BYTES_MAX + SORT_KEY_BYTES_MAX;

const _: () = assert!(ENCODED_ITEM_BYTES_MAX > ITEM_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX > BATCH_WRITE_ITEMS_MAX * ITEM_BYTES_MAX);
