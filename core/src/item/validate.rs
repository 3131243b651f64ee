//! The one check of bytes that come from outside. It allocates nothing and reads every byte once.

use super::error::ItemError;
use super::format::{
    HEAD_BYTES, HEADER_BYTES, MEMBER_LENGTH_BYTES, NAME_LENGTH_BYTES, SIZE_AT, TAG_B, TAG_BS,
    TAG_FALSE, TAG_L, TAG_M, TAG_N, TAG_NS, TAG_NULL, TAG_S, TAG_SS, TAG_TRUE, TOTAL_AT, VERSION,
    read_u24,
};
use super::number;
use super::size::{CONTAINER_BYTES, ELEMENT_BYTES, SCALAR_BYTES};
use crate::limits::{ENCODED_ITEM_BYTES_MAX, ITEM_BYTES_MAX, NESTING_DEPTH_MAX};

/// Checks a whole item.
pub(crate) fn item(bytes: &[u8]) -> Result<(), ItemError> {
    if bytes.len() < HEADER_BYTES {
        return Err(ItemError::Truncated { offset: bytes.len() });
    }
    if bytes[0] != VERSION {
        return Err(ItemError::Version { found: bytes[0] });
    }
    let total = read_u24(bytes, TOTAL_AT);
    if total != bytes.len() {
        return Err(ItemError::Length { stated: total, found: bytes.len() });
    }
    let (size, _) = Region { bytes, depth: 0 }.entries(HEADER_BYTES, total)?;
    if size > ITEM_BYTES_MAX {
        return Err(ItemError::TooLarge { size, limit: ITEM_BYTES_MAX });
    }
    let stated = read_u24(bytes, SIZE_AT);
    if size == stated { Ok(()) } else { Err(ItemError::SizeMismatch { stated, found: size }) }
}

/// Checks a value that stands alone.
pub(crate) fn value(bytes: &[u8]) -> Result<(), ItemError> {
    if bytes.len() > ENCODED_ITEM_BYTES_MAX {
        return Err(ItemError::TooLarge { size: bytes.len(), limit: ENCODED_ITEM_BYTES_MAX });
    }
    let (end, _) = Region { bytes, depth: 0 }.value(0, bytes.len())?;
    if end == bytes.len() {
        Ok(())
    } else {
        Err(ItemError::Length { stated: end, found: bytes.len() })
    }
}

/// The buffer, and how many maps and lists enclose what is being checked.
#[derive(Clone, Copy)]
struct Region<'a> {
    bytes: &'a [u8],
    depth: usize,
}

impl Region<'_> {
    /// Checks the value at `at`, which must end by `limit`. Returns its end and its size. Scalars
    /// are checked in line, because most attributes are scalars.
    #[inline(always)]
    fn value(self, at: usize, limit: usize) -> Result<(usize, usize), ItemError> {
        let Some(&[tag, length @ ..]) = self.bytes[at..limit].first_chunk::<HEAD_BYTES>() else {
            return Err(ItemError::Truncated { offset: at });
        };
        let length = read_u24(&length, 0);
        let start = at + HEAD_BYTES;
        let Some(payload) = self.bytes[start..limit].get(..length) else {
            return Err(ItemError::Truncated { offset: start });
        };
        let end = start + length;
        match tag {
            TAG_S => utf8(payload, start)?,
            TAG_N => decimal(payload, start)?,
            TAG_B => {}
            TAG_FALSE | TAG_TRUE | TAG_NULL if length == 0 => return Ok((end, SCALAR_BYTES)),
            _ => return Ok((end, self.collection(tag, start, end)?)),
        }
        Ok((end, length))
    }

    /// Checks the payload of a map, list or set. Returns its size.
    #[inline(never)]
    fn collection(self, tag: u8, start: usize, end: usize) -> Result<usize, ItemError> {
        match tag {
            TAG_M => {
                let (size, count) = self.deeper()?.entries(start, end)?;
                Ok(CONTAINER_BYTES + count * ELEMENT_BYTES + size)
            }
            TAG_L => Ok(CONTAINER_BYTES + self.deeper()?.elements(start, end)?),
            TAG_SS => self.members(start, end, utf8),
            TAG_NS => self.members(start, end, decimal),
            TAG_BS => self.members(start, end, |_, _| Ok(())),
            tag => Err(ItemError::Tag { offset: start - HEAD_BYTES, tag }),
        }
    }

    fn deeper(self) -> Result<Self, ItemError> {
        if self.depth == NESTING_DEPTH_MAX {
            return Err(ItemError::TooDeep);
        }
        Ok(Region { bytes: self.bytes, depth: self.depth + 1 })
    }

    /// Checks named values that fill `at..end`. Returns the size of names and values, and their
    /// count.
    fn entries(self, mut at: usize, end: usize) -> Result<(usize, usize), ItemError> {
        let (mut size, mut count) = (0, 0);
        let mut previous: &[u8] = &[];
        while at < end {
            if end - at < NAME_LENGTH_BYTES {
                return Err(ItemError::Truncated { offset: at });
            }
            let name_start = at + NAME_LENGTH_BYTES;
            let length = usize::from(u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]));
            if length == 0 {
                return Err(ItemError::EmptyName);
            }
            if end - name_start < length {
                return Err(ItemError::Truncated { offset: name_start });
            }
            let name = &self.bytes[name_start..name_start + length];
            if name <= previous {
                return Err(ItemError::NameOrder { offset: at });
            }
            utf8(name, name_start)?;
            previous = name;
            let (value_end, value_size) = self.value(name_start + length, end)?;
            size += length + value_size;
            count += 1;
            at = value_end;
        }
        Ok((size, count))
    }

    /// Checks values that fill `at..end`. Returns the size of them and their overhead.
    fn elements(self, mut at: usize, end: usize) -> Result<usize, ItemError> {
        let mut size = 0;
        while at < end {
            let (value_end, value_size) = self.value(at, end)?;
            size += ELEMENT_BYTES + value_size;
            at = value_end;
        }
        Ok(size)
    }

    /// Checks members of a set that fill `at..end`. Returns their size.
    fn members(
        self,
        mut at: usize,
        end: usize,
        check: impl Fn(&[u8], usize) -> Result<(), ItemError>,
    ) -> Result<usize, ItemError> {
        if at == end {
            return Err(ItemError::EmptySet);
        }
        let mut size = 0;
        let mut previous: Option<&[u8]> = None;
        while at < end {
            let start = at + MEMBER_LENGTH_BYTES;
            if end < start {
                return Err(ItemError::Truncated { offset: at });
            }
            let length = read_u24(self.bytes, at);
            if end - start < length {
                return Err(ItemError::Truncated { offset: start });
            }
            let member = &self.bytes[start..start + length];
            check(member, start)?;
            if previous.is_some_and(|previous| member <= previous) {
                return Err(ItemError::MemberOrder { offset: start });
            }
            previous = Some(member);
            size += length;
            at = start + length;
        }
        Ok(size)
    }
}

#[inline]
fn utf8(bytes: &[u8], offset: usize) -> Result<(), ItemError> {
    // Most text is ASCII, and the check for that inlines.
    if bytes.is_ascii() || core::str::from_utf8(bytes).is_ok() {
        Ok(())
    } else {
        Err(ItemError::NotUtf8 { offset })
    }
}

#[inline]
fn decimal(bytes: &[u8], offset: usize) -> Result<(), ItemError> {
    number::check(bytes).map_err(|source| ItemError::Number { offset, source })
}
