//! The owned form of values and items, and their encoder.

use std::collections::{BTreeMap, BTreeSet};

use super::error::ItemError;
use super::format::{
    HEAD_BYTES, HEADER_BYTES, MEMBER_LENGTH_BYTES, NAME_LENGTH_BYTES, SIZE_AT, TAG_B, TAG_BS,
    TAG_FALSE, TAG_L, TAG_M, TAG_N, TAG_NS, TAG_NULL, TAG_S, TAG_SS, TAG_TRUE, TOTAL_AT, VERSION,
    push_head, push_u24, write_u24,
};
use super::number::Number;
use super::size::item_size_bytes;
use super::view::{ItemRef, ValueRef};
use crate::limits::{
    ATTRIBUTE_NAME_BYTES_MAX, ENCODED_ITEM_BYTES_MAX, ITEM_BYTES_MAX, NESTING_DEPTH_MAX,
};

/// Named values: a map attribute, or the attributes of an item.
pub type Map = BTreeMap<String, Value>;

/// An attribute's value, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    S(String),
    /// A number.
    N(Number),
    /// Bytes.
    B(Vec<u8>),
    /// A truth value.
    Bool(bool),
    /// Null.
    Null,
    /// Named values.
    M(Map),
    /// Values in order.
    L(Vec<Value>),
    /// Distinct texts, at least one.
    Ss(BTreeSet<String>),
    /// Distinct numbers, at least one.
    Ns(BTreeSet<Number>),
    /// Distinct byte strings, at least one.
    Bs(BTreeSet<Vec<u8>>),
}

/// An item, owned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item(pub Map);

impl Item {
    /// An item without attributes.
    #[must_use]
    pub fn new() -> Item {
        Item::default()
    }

    /// The item with one more attribute.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Item {
        self.0.insert(name.into(), value.into());
        self
    }

    /// Checks every limit and encodes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ItemError> {
        let size = item_size_bytes(&self.0);
        if size > ITEM_BYTES_MAX {
            return Err(ItemError::TooLarge { size, limit: ITEM_BYTES_MAX });
        }
        let mut out = Vec::with_capacity(HEADER_BYTES + check_map(&self.0, 0)?);
        self.encode(&mut out);
        Ok(out)
    }

    /// Appends the encoding, whether or not it keeps the limits; [`ItemRef::validate`] refuses it
    /// if it does not.
    ///
    /// # Panics
    /// If a name or the whole is too long for its length field (64 KiB, 16 MiB). [`Item::to_bytes`]
    /// returns an error instead.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.push(VERSION);
        push_u24(out, 0);
        push_u24(out, item_size_bytes(&self.0));
        debug_assert_eq!(out.len(), start + HEADER_BYTES);
        debug_assert_eq!(SIZE_AT + 3, HEADER_BYTES);
        encode_map(&self.0, out);
        let total = out.len() - start;
        write_u24(out, start + TOTAL_AT, total);
    }
}

impl From<ItemRef<'_>> for Item {
    fn from(item: ItemRef<'_>) -> Item {
        Item(item.iter().map(|(name, value)| (name.to_owned(), value.to_value())).collect())
    }
}

impl Value {
    /// Checks depth, names and sets, and encodes. The size limit of items does not apply; that of
    /// any encoding does.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ItemError> {
        let bytes = check_value(self, 0)?;
        if bytes > ENCODED_ITEM_BYTES_MAX {
            return Err(ItemError::TooLarge { size: bytes, limit: ENCODED_ITEM_BYTES_MAX });
        }
        let mut out = Vec::with_capacity(bytes);
        self.encode(&mut out);
        Ok(out)
    }

    /// Appends the encoding, whether or not it keeps the limits; [`ValueRef::validate`] refuses it
    /// if it does not.
    ///
    /// # Panics
    /// If a name or the whole is too long for its length field (64 KiB, 16 MiB).
    /// [`Value::to_bytes`] returns an error instead.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::S(text) => encode_scalar(TAG_S, text.as_bytes(), out),
            Value::N(number) => encode_scalar(TAG_N, number.as_bytes(), out),
            Value::B(bytes) => encode_scalar(TAG_B, bytes, out),
            Value::Bool(false) => push_head(out, TAG_FALSE, 0),
            Value::Bool(true) => push_head(out, TAG_TRUE, 0),
            Value::Null => push_head(out, TAG_NULL, 0),
            Value::M(map) => encode_container(TAG_M, out, |out| encode_map(map, out)),
            Value::L(list) => encode_container(TAG_L, out, |out| {
                list.iter().for_each(|value| value.encode(out));
            }),
            Value::Ss(set) => encode_set(TAG_SS, set.iter().map(String::as_bytes), out),
            Value::Ns(set) => encode_set(TAG_NS, set.iter().map(Number::as_bytes), out),
            Value::Bs(set) => encode_set(TAG_BS, set.iter().map(Vec::as_slice), out),
        }
    }

    /// DynamoDB's name of the type: `S`, `N`, `B`, `BOOL`, `NULL`, `M`, `L`, `SS`, `NS` or `BS`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::S(_) => "S",
            Value::N(_) => "N",
            Value::B(_) => "B",
            Value::Bool(_) => "BOOL",
            Value::Null => "NULL",
            Value::M(_) => "M",
            Value::L(_) => "L",
            Value::Ss(_) => "SS",
            Value::Ns(_) => "NS",
            Value::Bs(_) => "BS",
        }
    }
}

fn encode_scalar(tag: u8, payload: &[u8], out: &mut Vec<u8>) {
    push_head(out, tag, payload.len());
    out.extend_from_slice(payload);
}

fn encode_container(tag: u8, out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    push_head(out, tag, 0);
    payload(out);
    let bytes = out.len() - start - HEAD_BYTES;
    write_u24(out, start + 1, bytes);
}

fn encode_map(map: &Map, out: &mut Vec<u8>) {
    for (name, value) in map {
        let length = u16::try_from(name.len()).expect("an attribute name has at most 65535 bytes");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(name.as_bytes());
        value.encode(out);
    }
}

fn encode_set<'a>(tag: u8, members: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    encode_container(tag, out, |out| {
        for member in members {
            push_u24(out, member.len());
            out.extend_from_slice(member);
        }
    });
}

/// Checks what the types do not, and returns the encoded length. `depth` counts the maps and lists
/// around the value.
fn check_value(value: &Value, depth: usize) -> Result<usize, ItemError> {
    let deeper = || if depth < NESTING_DEPTH_MAX { Ok(depth + 1) } else { Err(ItemError::TooDeep) };
    let payload = match value {
        Value::S(text) => text.len(),
        Value::N(number) => number.as_bytes().len(),
        Value::B(bytes) => bytes.len(),
        Value::Bool(_) | Value::Null => 0,
        Value::M(map) => check_map(map, deeper()?)?,
        Value::L(list) => {
            let depth = deeper()?;
            list.iter().try_fold(0, |sum, value| Ok(sum + check_value(value, depth)?))?
        }
        Value::Ss(set) => check_set(set.iter().map(String::len))?,
        Value::Ns(set) => check_set(set.iter().map(|number| number.as_bytes().len()))?,
        Value::Bs(set) => check_set(set.iter().map(Vec::len))?,
    };
    Ok(HEAD_BYTES + payload)
}

fn check_map(map: &Map, depth: usize) -> Result<usize, ItemError> {
    map.iter().try_fold(0, |sum, (name, value)| {
        if name.is_empty() {
            return Err(ItemError::EmptyName);
        }
        if name.len() > ATTRIBUTE_NAME_BYTES_MAX {
            return Err(ItemError::NameTooLong { bytes: name.len() });
        }
        Ok(sum + NAME_LENGTH_BYTES + name.len() + check_value(value, depth)?)
    })
}

fn check_set(lengths: impl ExactSizeIterator<Item = usize>) -> Result<usize, ItemError> {
    if lengths.len() == 0 {
        return Err(ItemError::EmptySet);
    }
    Ok(lengths.map(|length| MEMBER_LENGTH_BYTES + length).sum())
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::S(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::S(text)
    }
}

impl From<Number> for Value {
    fn from(number: Number) -> Value {
        Value::N(number)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::N(Number::from(number))
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::N(Number::from(number))
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Value {
        Value::N(Number::from(number))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Value {
        Value::B(bytes)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Value {
        Value::B(bytes.to_vec())
    }
}

impl From<Vec<Value>> for Value {
    fn from(list: Vec<Value>) -> Value {
        Value::L(list)
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Value {
        Value::M(map)
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Value {
        value.to_value()
    }
}
