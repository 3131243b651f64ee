//! Items: DynamoDB's ten attribute types and their one flat encoding.
//!
//! An item lives as a single buffer from the moment a client encodes it until a reply carries it
//! out: the same bytes travel in the frame, are validated once, go into the log, lie in the tree's
//! leaf and are read in place. [`Item`] and [`Value`] are the owned, convenient form for clients,
//! tests and the rare update that rebuilds nested values; [`ItemRef`] and [`ValueRef`] are views
//! into the buffer and are what the hot path uses.
//!
//! # Layout
//!
//! Integers are little-endian. There is no padding.
//!
//! ```text
//! item       offset  bytes  field
//!            0       1      version, 1
//!            1       3      total bytes of the encoding, this header included
//!            5       3      size of the item by DynamoDB's rule (module `size`)
//!            8       ..     entries, to the end
//!
//! entry      0       2      n, bytes of the name, 1..=65535
//!            2       n      name, UTF-8
//!            2+n     ..     value
//!
//! value      0       1      tag
//!            1       3      p, bytes of the payload
//!            4       p      payload
//! ```
//!
//! | tag | type | payload |
//! |-----|------|---------|
//! | 1 | `S` | UTF-8 |
//! | 2 | `N` | the order-preserving form of module [`number`], 1..=22 bytes |
//! | 3 | `B` | the bytes |
//! | 4, 5 | `BOOL` false, true | nothing |
//! | 6 | `NULL` | nothing |
//! | 7 | `M` | entries |
//! | 8 | `L` | values |
//! | 9, 10, 11 | `SS`, `NS`, `BS` | members, each `u24` length, then its bytes |
//!
//! Every value says how long it is before its payload, so a reader steps over a map of any size in
//! one addition. A path such as `a.b[3]` touches only the heads on the way.
//!
//! # Canonical form
//!
//! Names in a map (and in the item) are strictly ascending by their bytes, so are the members of a
//! set, and a number has one byte form. Hence *equal items have equal bytes*: equality is a
//! `memcmp`, the content digest needs no normalisation, and the log is deterministic.
//! [`ItemRef::validate`] accepts exactly what [`Item::to_bytes`] makes.
//!
//! # Limits
//!
//! 400 KB by the size rule, 32 levels of maps and lists (a list attribute is level 1), 24 bits of
//! length. The most framing per counted byte is a list of sets of one empty string: 1 byte counts
//! and 8 with its heads are stored, so the largest encoding stays under
//! [`ENCODED_ITEM_BYTES_MAX`](crate::limits::ENCODED_ITEM_BYTES_MAX).
//!
//! # Left out
//!
//! No index of attributes in the header: items have a handful of attributes and a scan over their
//! heads costs a few nanoseconds each. No element counts: `size()` of a list walks its heads.

pub mod number;
pub mod size;

mod error;
mod format;
mod validate;
mod value;
mod view;
mod writer;

#[cfg(test)]
mod tests;

pub use error::ItemError;
pub use number::{Number, NumberError, NumberRef};
pub use value::{Item, Map, Value};
pub use view::{
    Attributes, Elements, EncodedAttributes, EncodedElements, ItemRef, ListRef, MapRef, Members,
    SetRef, ValueRef,
};
pub use writer::ItemWriter;

pub(crate) use format::{TAG_B, TAG_N, TAG_S};
pub(crate) use view::RawValue;
