//! The constants of the item encoding and the few reads that every user of it needs.

use crate::limits::{ENCODED_ITEM_BYTES_MAX, ITEM_BYTES_MAX};

/// Version of the whole encoding, the first byte of an item.
pub(crate) const VERSION: u8 = 1;
/// Version, total length and size.
pub(crate) const HEADER_BYTES: usize = 7;
/// Offset of the total length in the header.
pub(crate) const TOTAL_AT: usize = 1;
/// Offset of the size in the header.
pub(crate) const SIZE_AT: usize = 4;
/// Tag and payload length of a value.
pub(crate) const HEAD_BYTES: usize = 4;
/// Length before an attribute's name.
pub(crate) const NAME_LENGTH_BYTES: usize = 2;
/// Length before a set's member.
pub(crate) const MEMBER_LENGTH_BYTES: usize = 3;
/// Largest length that 24 bits hold.
pub(crate) const LENGTH_MAX: usize = (1 << 24) - 1;

pub(crate) const TAG_S: u8 = 1;
pub(crate) const TAG_N: u8 = 2;
pub(crate) const TAG_B: u8 = 3;
pub(crate) const TAG_FALSE: u8 = 4;
pub(crate) const TAG_TRUE: u8 = 5;
pub(crate) const TAG_NULL: u8 = 6;
pub(crate) const TAG_M: u8 = 7;
pub(crate) const TAG_L: u8 = 8;
pub(crate) const TAG_SS: u8 = 9;
pub(crate) const TAG_NS: u8 = 10;
pub(crate) const TAG_BS: u8 = 11;

const _: () = assert!(SIZE_AT == TOTAL_AT + 3 && HEADER_BYTES == SIZE_AT + 3);
// The worst framing: an element of a list that is a set of one empty string counts 1 byte.
const _: () = assert!(
    ITEM_BYTES_MAX * (HEAD_BYTES + MEMBER_LENGTH_BYTES) + 64 * 1024 < ENCODED_ITEM_BYTES_MAX
);
const _: () = assert!(ENCODED_ITEM_BYTES_MAX <= LENGTH_MAX);

/// Reads 24 bits at `at`; panics beyond the end.
#[inline]
pub(crate) fn read_u24(bytes: &[u8], at: usize) -> usize {
    let three = &bytes[at..at + 3];
    usize::from(three[0]) | usize::from(three[1]) << 8 | usize::from(three[2]) << 16
}

/// Overwrites 24 bits at `at`.
///
/// # Panics
/// If `length` does not fit.
#[inline]
pub(crate) fn write_u24(bytes: &mut [u8], at: usize, length: usize) {
    assert!(length <= LENGTH_MAX, "an encoding of {length} bytes exceeds 24 bits of length");
    bytes[at..at + 3].copy_from_slice(&(length as u32).to_le_bytes()[..3]);
}

/// Appends 24 bits.
#[inline]
pub(crate) fn push_u24(out: &mut Vec<u8>, length: usize) {
    assert!(length <= LENGTH_MAX, "an encoding of {length} bytes exceeds 24 bits of length");
    out.extend_from_slice(&(length as u32).to_le_bytes()[..3]);
}

/// Appends a value's head.
#[inline]
pub(crate) fn push_head(out: &mut Vec<u8>, tag: u8, payload_bytes: usize) {
    out.push(tag);
    push_u24(out, payload_bytes);
}

/// Bytes of the value that starts `bytes`, head included.
#[inline]
pub(crate) fn encoded_bytes(bytes: &[u8]) -> usize {
    HEAD_BYTES + (u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) >> 8) as usize
}
