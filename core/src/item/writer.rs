//! Writes an item attribute by attribute into a reused buffer, without building the owned form.

use super::error::ItemError;
use super::format::{HEADER_BYTES, SIZE_AT, TOTAL_AT, VERSION, write_u24};
use super::view::ValueRef;
use crate::limits::{ATTRIBUTE_NAME_BYTES_MAX, ITEM_BYTES_MAX};

/// An item under construction at the end of a buffer. Names must come in ascending order. Values
/// are valid on their own, so they are valid as attributes, too: what [`ItemWriter::finish`]
/// returns passes [`ItemRef::validate`](super::ItemRef::validate).
///
/// ```
/// use forebay_core::item::{ItemRef, ItemWriter, Number, ValueRef};
/// let mut buffer = Vec::new();
/// let mut writer = ItemWriter::new(&mut buffer);
/// writer.push("count", ValueRef::N(Number::from(3).as_ref())).unwrap();
/// writer.push("id", ValueRef::S("a")).unwrap();
/// let bytes = writer.finish().unwrap();
/// assert_eq!(ItemRef::validate(bytes).unwrap().get("id"), Some(ValueRef::S("a")));
/// ```
#[derive(Debug)]
pub struct ItemWriter<'b> {
    out: &'b mut Vec<u8>,
    start: usize,
    size: usize,
    /// Where the previous name lies.
    name: core::ops::Range<usize>,
}

impl<'b> ItemWriter<'b> {
    /// Begins an item after what `out` holds.
    #[must_use]
    pub fn new(out: &'b mut Vec<u8>) -> ItemWriter<'b> {
        let start = out.len();
        out.push(VERSION);
        out.extend_from_slice(&[0; HEADER_BYTES - 1]);
        ItemWriter { out, start, size: 0, name: 0..0 }
    }

    /// Appends an attribute.
    pub fn push(&mut self, name: &str, value: ValueRef<'_>) -> Result<(), ItemError> {
        self.push_name(name, value.size_bytes())?;
        value.encode(self.out);
        Ok(())
    }

    /// Appends an attribute whose value is encoded and valid, as `get_encoded` gives it.
    pub fn push_encoded(&mut self, name: &str, encoded: &[u8]) -> Result<(), ItemError> {
        self.push_name(name, ValueRef::trusted(encoded).size_bytes())?;
        self.out.extend_from_slice(encoded);
        Ok(())
    }

    fn push_name(&mut self, name: &str, value_size: usize) -> Result<(), ItemError> {
        if name.is_empty() {
            return Err(ItemError::EmptyName);
        }
        if name.len() > ATTRIBUTE_NAME_BYTES_MAX {
            return Err(ItemError::NameTooLong { bytes: name.len() });
        }
        if name.as_bytes() <= &self.out[self.name.clone()] {
            return Err(ItemError::NameOrder { offset: self.out.len() - self.start });
        }
        let size = self.size + name.len() + value_size;
        if size > ITEM_BYTES_MAX {
            return Err(ItemError::TooLarge { size, limit: ITEM_BYTES_MAX });
        }
        self.size = size;
        self.out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        let start = self.out.len();
        self.out.extend_from_slice(name.as_bytes());
        self.name = start..self.out.len();
        Ok(())
    }

    /// Completes the header and returns the item's bytes, which stay at the end of the buffer.
    pub fn finish(self) -> Result<&'b [u8], ItemError> {
        let total = self.out.len() - self.start;
        write_u24(self.out, self.start + TOTAL_AT, total);
        write_u24(self.out, self.start + SIZE_AT, self.size);
        Ok(&self.out[self.start..])
    }
}
