//! Views of an encoded item: `Copy`, borrowed, no allocation.
//!
//! A view is made by `validate`, which checks everything, or by `trusted`, for bytes that were
//! validated when they entered. Reading a trusted view of bad bytes may panic, nothing worse. Text
//! is checked for UTF-8 again when it is handed out, because this crate has no unsafe code; finding
//! and skipping attributes compares bytes only.

use core::cmp::Ordering;
use core::fmt;
use core::iter::FusedIterator;
use std::collections::BTreeSet;

use super::error::ItemError;
use super::format::{
    HEAD_BYTES, HEADER_BYTES, MEMBER_LENGTH_BYTES, NAME_LENGTH_BYTES, SIZE_AT, TAG_B, TAG_BS,
    TAG_FALSE, TAG_L, TAG_M, TAG_N, TAG_NS, TAG_NULL, TAG_S, TAG_SS, TAG_TRUE, encoded_bytes,
    push_head, read_u24,
};
use super::number::{Number, NumberRef};
use super::validate;
use super::value::{Map, Value};

/// An encoded item.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ItemRef<'a> {
    bytes: &'a [u8],
}

/// A value inside an encoding. Equality is DynamoDB's: numbers by value, sets and maps without
/// regard to order; the canonical form makes it a comparison of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueRef<'a> {
    /// Text.
    S(&'a str),
    /// A number.
    N(NumberRef<'a>),
    /// Bytes.
    B(&'a [u8]),
    /// A truth value.
    Bool(bool),
    /// Null.
    Null,
    /// Named values.
    M(MapRef<'a>),
    /// Values in order.
    L(ListRef<'a>),
    /// Distinct texts.
    Ss(SetRef<'a>),
    /// Distinct numbers.
    Ns(SetRef<'a>),
    /// Distinct byte strings.
    Bs(SetRef<'a>),
}

/// A map inside an encoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MapRef<'a> {
    entries: &'a [u8],
}

/// A list inside an encoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListRef<'a> {
    elements: &'a [u8],
}

/// A set inside an encoding. Members are the bytes of a text, a number's canonical form, or bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SetRef<'a> {
    members: &'a [u8],
}

/// A value's tag and payload, not yet interpreted.
#[derive(Clone, Copy)]
pub(crate) struct RawValue<'a> {
    pub(crate) tag: u8,
    pub(crate) payload: &'a [u8],
}

impl<'a> ItemRef<'a> {
    /// Checks everything: version, lengths, UTF-8, order of names and set members, numbers, depth,
    /// size. The bytes must be the item and nothing else.
    pub fn validate(bytes: &'a [u8]) -> Result<ItemRef<'a>, ItemError> {
        validate::item(bytes)?;
        Ok(ItemRef { bytes })
    }

    /// A view of bytes that were validated earlier.
    ///
    /// # Panics
    /// Here or in any method, if they were not.
    #[inline]
    #[must_use]
    pub fn trusted(bytes: &'a [u8]) -> ItemRef<'a> {
        assert!(bytes.len() >= HEADER_BYTES, "an item has at least a header");
        ItemRef { bytes }
    }

    /// The encoding.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// An attribute by name.
    #[inline]
    #[must_use]
    pub fn get(&self, name: &str) -> Option<ValueRef<'a>> {
        self.get_encoded(name).map(ValueRef::trusted)
    }

    /// An attribute's encoding, head included.
    #[inline]
    #[must_use]
    pub fn get_encoded(&self, name: &str) -> Option<&'a [u8]> {
        find(self.entries(), name.as_bytes())
    }

    /// An attribute's tag and payload.
    #[inline]
    pub(crate) fn get_raw(&self, name: &str) -> Option<RawValue<'a>> {
        self.get_encoded(name).map(RawValue::new)
    }

    /// Attributes in ascending order of name.
    #[must_use]
    pub fn iter(&self) -> Attributes<'a> {
        Attributes(self.iter_encoded())
    }

    /// Attributes in ascending order of name, values as encoded.
    #[must_use]
    pub fn iter_encoded(&self) -> EncodedAttributes<'a> {
        EncodedAttributes { rest: self.entries() }
    }

    /// Size by DynamoDB's rule, as the header states it.
    #[inline]
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        read_u24(self.bytes, SIZE_AT)
    }

    /// Number of attributes; walks them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter_encoded().count_entries()
    }

    /// True without attributes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// The attributes as a map view.
    #[must_use]
    pub fn as_map(&self) -> MapRef<'a> {
        MapRef { entries: self.entries() }
    }

    #[inline]
    fn entries(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }
}

impl<'a> RawValue<'a> {
    #[inline]
    pub(crate) fn new(encoded: &'a [u8]) -> RawValue<'a> {
        RawValue { tag: encoded[0], payload: &encoded[HEAD_BYTES..] }
    }

    /// The value; panics on an unknown tag or text that is not UTF-8.
    #[inline]
    pub(crate) fn view(self) -> ValueRef<'a> {
        let RawValue { tag, payload } = self;
        match tag {
            TAG_S => ValueRef::S(text(payload)),
            TAG_N => ValueRef::N(NumberRef::trusted(payload)),
            TAG_B => ValueRef::B(payload),
            TAG_FALSE => ValueRef::Bool(false),
            TAG_TRUE => ValueRef::Bool(true),
            TAG_NULL => ValueRef::Null,
            TAG_M => ValueRef::M(MapRef { entries: payload }),
            TAG_L => ValueRef::L(ListRef { elements: payload }),
            TAG_SS => ValueRef::Ss(SetRef { members: payload }),
            TAG_NS => ValueRef::Ns(SetRef { members: payload }),
            TAG_BS => ValueRef::Bs(SetRef { members: payload }),
            tag => panic!("a validated value has tag {tag}"),
        }
    }
}

impl<'a> ValueRef<'a> {
    /// Checks the encoding of one value, and nothing after it.
    pub fn validate(bytes: &'a [u8]) -> Result<ValueRef<'a>, ItemError> {
        validate::value(bytes)?;
        Ok(ValueRef::trusted(bytes))
    }

    /// A view of the encoding of one value that was validated earlier.
    ///
    /// # Panics
    /// Here or in any method, if it was not.
    #[inline]
    #[must_use]
    pub fn trusted(encoded: &'a [u8]) -> ValueRef<'a> {
        RawValue::new(encoded).view()
    }

    /// The owned form.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match self {
            ValueRef::S(text) => Value::S((*text).to_owned()),
            ValueRef::N(number) => Value::N(number.to_number()),
            ValueRef::B(bytes) => Value::B(bytes.to_vec()),
            ValueRef::Bool(value) => Value::Bool(*value),
            ValueRef::Null => Value::Null,
            ValueRef::M(map) => Value::M(map.to_map()),
            ValueRef::L(list) => Value::L(list.iter().map(|value| value.to_value()).collect()),
            ValueRef::Ss(set) => {
                Value::Ss(set.iter().map(|member| text(member).to_owned()).collect())
            }
            ValueRef::Ns(set) => {
                let numbers = set.iter().map(|member| NumberRef::trusted(member).to_number());
                Value::Ns(numbers.collect::<BTreeSet<Number>>())
            }
            ValueRef::Bs(set) => Value::Bs(set.iter().map(<[u8]>::to_vec).collect()),
        }
    }

    /// Appends the value's encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let RawValue { tag, payload } = self.raw();
        push_head(out, tag, payload.len());
        out.extend_from_slice(payload);
    }

    /// Bytes that [`ValueRef::encode`] appends.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        HEAD_BYTES + self.raw().payload.len()
    }

    /// DynamoDB's name of the type: `S`, `N`, `B`, `BOOL`, `NULL`, `M`, `L`, `SS`, `NS` or `BS`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            ValueRef::S(_) => "S",
            ValueRef::N(_) => "N",
            ValueRef::B(_) => "B",
            ValueRef::Bool(_) => "BOOL",
            ValueRef::Null => "NULL",
            ValueRef::M(_) => "M",
            ValueRef::L(_) => "L",
            ValueRef::Ss(_) => "SS",
            ValueRef::Ns(_) => "NS",
            ValueRef::Bs(_) => "BS",
        }
    }

    /// Order of two texts, two numbers or two byte strings; nothing for any other pair.
    #[must_use]
    pub fn compare(&self, other: &ValueRef<'_>) -> Option<Ordering> {
        match (self, other) {
            (ValueRef::S(a), ValueRef::S(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (ValueRef::N(a), ValueRef::N(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (ValueRef::B(a), ValueRef::B(b)) => Some((*a).cmp(*b)),
            _ => None,
        }
    }

    fn raw(&self) -> RawValue<'a> {
        let (tag, payload): (u8, &'a [u8]) = match *self {
            ValueRef::S(text) => (TAG_S, text.as_bytes()),
            ValueRef::N(number) => (TAG_N, number.as_bytes()),
            ValueRef::B(bytes) => (TAG_B, bytes),
            ValueRef::Bool(false) => (TAG_FALSE, &[]),
            ValueRef::Bool(true) => (TAG_TRUE, &[]),
            ValueRef::Null => (TAG_NULL, &[]),
            ValueRef::M(map) => (TAG_M, map.entries),
            ValueRef::L(list) => (TAG_L, list.elements),
            ValueRef::Ss(set) => (TAG_SS, set.members),
            ValueRef::Ns(set) => (TAG_NS, set.members),
            ValueRef::Bs(set) => (TAG_BS, set.members),
        };
        RawValue { tag, payload }
    }
}

impl<'a> MapRef<'a> {
    /// A value by name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<ValueRef<'a>> {
        find(self.entries, name.as_bytes()).map(ValueRef::trusted)
    }

    /// Entries in ascending order of name.
    #[must_use]
    pub fn iter(&self) -> Attributes<'a> {
        Attributes(self.iter_encoded())
    }

    /// Entries in ascending order of name, values as encoded.
    #[must_use]
    pub fn iter_encoded(&self) -> EncodedAttributes<'a> {
        EncodedAttributes { rest: self.entries }
    }

    /// Number of entries; walks them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter_encoded().count_entries()
    }

    /// True without entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The owned form.
    #[must_use]
    pub fn to_map(&self) -> Map {
        self.iter().map(|(name, value)| (name.to_owned(), value.to_value())).collect()
    }
}

impl<'a> ListRef<'a> {
    /// An element by position; steps over those before it.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<ValueRef<'a>> {
        self.iter_encoded().nth(index).map(ValueRef::trusted)
    }

    /// Elements in order.
    #[must_use]
    pub fn iter(&self) -> Elements<'a> {
        Elements(self.iter_encoded())
    }

    /// Elements in order, as encoded.
    #[must_use]
    pub fn iter_encoded(&self) -> EncodedElements<'a> {
        EncodedElements { rest: self.elements }
    }

    /// Number of elements; walks them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter_encoded().count()
    }

    /// True without elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }
}

impl<'a> SetRef<'a> {
    /// Members in ascending order.
    #[must_use]
    pub fn iter(&self) -> Members<'a> {
        Members { rest: self.members }
    }

    /// True if `member` is one of them.
    #[must_use]
    pub fn contains(&self, member: &[u8]) -> bool {
        self.iter().any(|own| own == member)
    }

    /// Number of members; walks them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Never true for a valid set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// Names and values.
#[derive(Clone)]
pub struct Attributes<'a>(EncodedAttributes<'a>);

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a str, ValueRef<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(name, value)| (name, ValueRef::trusted(value)))
    }
}

impl FusedIterator for Attributes<'_> {}

/// Names and encoded values.
#[derive(Clone)]
pub struct EncodedAttributes<'a> {
    rest: &'a [u8],
}

impl<'a> EncodedAttributes<'a> {
    fn step(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        if self.rest.is_empty() {
            return None;
        }
        let (name, value, rest) = split_entry(self.rest);
        self.rest = rest;
        Some((name, value))
    }

    fn count_entries(mut self) -> usize {
        let mut count = 0;
        while self.step().is_some() {
            count += 1;
        }
        count
    }
}

impl<'a> Iterator for EncodedAttributes<'a> {
    type Item = (&'a str, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.step().map(|(name, value)| (text(name), value))
    }
}

impl FusedIterator for EncodedAttributes<'_> {}

/// Values of a list.
#[derive(Clone)]
pub struct Elements<'a>(EncodedElements<'a>);

impl<'a> Iterator for Elements<'a> {
    type Item = ValueRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(ValueRef::trusted)
    }
}

impl FusedIterator for Elements<'_> {}

/// Encoded values of a list.
#[derive(Clone)]
pub struct EncodedElements<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for EncodedElements<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (value, rest) = self.rest.split_at(encoded_bytes(self.rest));
        self.rest = rest;
        Some(value)
    }
}

impl FusedIterator for EncodedElements<'_> {}

/// Members of a set.
#[derive(Clone)]
pub struct Members<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Members<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let end = MEMBER_LENGTH_BYTES + read_u24(self.rest, 0);
        let (member, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(&member[MEMBER_LENGTH_BYTES..])
    }
}

impl FusedIterator for Members<'_> {}

/// Name, encoded value and what follows.
#[inline]
fn split_entry(entries: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let name_bytes = usize::from(u16::from_le_bytes([entries[0], entries[1]]));
    let (name, value) = entries[NAME_LENGTH_BYTES..].split_at(name_bytes);
    let (value, rest) = value.split_at(encoded_bytes(value));
    (name, value, rest)
}

/// Steps over heads; stops early once the names' first byte has passed the wanted one.
#[inline]
fn find<'a>(mut entries: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let first = *wanted.first()?;
    while !entries.is_empty() {
        let (name, value, rest) = split_entry(entries);
        if name == wanted {
            return Some(value);
        }
        if name[0] > first {
            return None;
        }
        entries = rest;
    }
    None
}

#[inline]
fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).expect("validated text is UTF-8")
}

impl fmt::Debug for ItemRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl fmt::Debug for MapRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl fmt::Debug for ListRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Debug for SetRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl fmt::Debug for ValueRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_value(), f)
    }
}
