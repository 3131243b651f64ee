//! DynamoDB's rule for the size of an item, by which limits and capacity are counted.
//!
//! An item counts the UTF-8 bytes of its names plus its values:
//!
//! | type | bytes |
//! |------|-------|
//! | `S`, `B` | their length |
//! | `N` | 1 + one for each two digits (+ 1 if negative) |
//! | `BOOL`, `NULL` | 1 |
//! | `M` | 3, and for each entry 1 + name + value |
//! | `L` | 3, and for each element 1 + value |
//! | `SS`, `NS`, `BS` | the sum of their members |
//!
//! "One for each two digits" is only approximate in DynamoDB's manual. Here it counts pairs as they
//! are stored, left and right of the decimal point (1.5 has two), which is exactly the length of
//! [`Number::as_bytes`](super::Number::as_bytes): the size of a number in an item costs no decoding.

use super::value::{Map, Value};
use super::view::ValueRef;

/// Overhead of a map or list.
pub(crate) const CONTAINER_BYTES: usize = 3;
/// Overhead of each entry of a map and each element of a list.
pub(crate) const ELEMENT_BYTES: usize = 1;
/// Size of a truth value and of null.
pub(crate) const SCALAR_BYTES: usize = 1;

/// Size of the attributes of an item.
#[must_use]
pub fn item_size_bytes(attributes: &Map) -> usize {
    attributes.iter().map(|(name, value)| name.len() + value_size_bytes(value)).sum()
}

/// Size of an owned value.
#[must_use]
pub fn value_size_bytes(value: &Value) -> usize {
    match value {
        Value::S(text) => text.len(),
        Value::N(number) => number.as_bytes().len(),
        Value::B(bytes) => bytes.len(),
        Value::Bool(_) | Value::Null => SCALAR_BYTES,
        Value::M(map) => CONTAINER_BYTES + map.len() * ELEMENT_BYTES + item_size_bytes(map),
        Value::L(list) => {
            CONTAINER_BYTES
                + list.iter().map(|value| ELEMENT_BYTES + value_size_bytes(value)).sum::<usize>()
        }
        Value::Ss(set) => set.iter().map(String::len).sum(),
        Value::Ns(set) => set.iter().map(|number| number.as_bytes().len()).sum(),
        Value::Bs(set) => set.iter().map(Vec::len).sum(),
    }
}

impl ValueRef<'_> {
    /// Size by DynamoDB's rule; walks nested values.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        match self {
            ValueRef::S(text) => text.len(),
            ValueRef::N(number) => number.as_bytes().len(),
            ValueRef::B(bytes) => bytes.len(),
            ValueRef::Bool(_) | ValueRef::Null => SCALAR_BYTES,
            ValueRef::M(map) => {
                let entry = |(name, value): (&str, ValueRef<'_>)| {
                    ELEMENT_BYTES + name.len() + value.size_bytes()
                };
                CONTAINER_BYTES + map.iter().map(entry).sum::<usize>()
            }
            ValueRef::L(list) => {
                let element = |value: ValueRef<'_>| ELEMENT_BYTES + value.size_bytes();
                CONTAINER_BYTES + list.iter().map(element).sum::<usize>()
            }
            ValueRef::Ss(set) | ValueRef::Ns(set) | ValueRef::Bs(set) => {
                set.iter().map(<[u8]>::len).sum()
            }
        }
    }
}
