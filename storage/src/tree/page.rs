//! Bytes of a page.
//!
//! ```text
//! 0                40            40+8n                                     used        blocks*4096
//! ┌────────────────┬─────────────┬────────────────┬─────────┬─────────┬────┬───────────┐
//! │ header         │ n slots     │ common prefix  │ entry 0 │ entry 1 │ …  │ zeros     │
//! └────────────────┴─────────────┴────────────────┴─────────┴─────────┴────┴───────────┘
//! ```
//!
//! A binary search touches the slot array only: each slot carries a *hint*, the first four bytes
//! of the key after the prefix that all keys of the page share; only equal hints look at the entry.
//! Entries are packed in order without gaps, so [`validate`] can check every byte of the layout
//! once, when the page enters the cache, and readers then use it in place.
//!
//! Header (all pages, little-endian):
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | crc | crc32 of the page from offset 4 to its end |
//! | 4 | 4 | magic | "FBpg" |
//! | 8 | 1 | version | 1 |
//! | 9 | 1 | kind | 1 leaf, 2 interior, 3 overflow |
//! | 10 | 2 | blocks | length of the page in blocks |
//! | 12 | 2 | shard | the shard whose file this is |
//! | 14 | 2 | count | entries (0 in overflow) |
//! | 16 | 8 | id | first block: with the shard, the page's place |
//! | 24 | 8 | birth | number of the checkpoint that wrote it |
//! | 32 | 4 | used | bytes in use, header included |
//! | 36 | 2 | prefix | bytes of the common prefix |
//! | 38 | 1 | level | 0 leaf, 1.. interior, 255 overflow |
//! | 39 | 1 | reserved | zero |
//!
//! Slot: hint u32, entry offset u16, key bytes after the prefix u16.
//!
//! Leaf entry: digest u128, item length u32 (bit 31: overflow), key suffix, then the item's bytes,
//! or for overflow: extent id u64, crc u32, blocks u16, zero u16. Interior entry: a child reference,
//! then the separator's suffix. An overflow extent has the item's bytes after the header.
//!
//! Child reference (48 bytes): id u64, items u64, bytes u64, digest u128, crc u32, blocks u16,
//! level u8, zero u8. A separator is at most every key of its child and greater than every key to
//! the left; the leftmost of a tree is empty.
//!
//! A page is one block unless keys are so long that fewer than three entries would fit; then 2 or 4.

use std::cmp::Ordering;
use std::hint::select_unpredictable;

use forebay_core::ids::ShardId;
use forebay_core::limits::{ENCODED_ITEM_BYTES_MAX, ENCODED_KEY_BYTES_MAX};

use super::{ChildRef, LEVEL_OVERFLOW, LEVELS_MAX, OverflowRef, PageRef, Totals, Value};
use crate::block::BLOCK_BYTES;

/// Bytes of the page header.
pub const HEADER_BYTES: usize = 40;
/// Bytes of a slot.
pub const SLOT_BYTES: usize = 8;
/// Bytes of an encoded [`ChildRef`].
pub const CHILD_BYTES: usize = 48;
/// Bytes of a leaf entry beside key suffix and item.
pub const LEAF_FIXED_BYTES: usize = 20;
/// Bytes that stand in a leaf entry for an overflow item.
pub const OVERFLOW_REF_BYTES: usize = 16;
/// First block that can be a page's: the superblocks are before it.
pub const PAGE_ID_FIRST: u64 = 2;
/// Behind every block that can be a page's, so that places and sums of them are in range: 2^47
/// blocks are more than any file holds, and as many as the space map can number.
pub const PAGE_ID_END: u64 = 1 << 47;
/// Largest tree page.
pub const PAGE_BLOCKS_MAX: usize = 4;
/// Largest overflow extent: the largest item encoding and the header.
pub const OVERFLOW_BLOCKS_MAX: usize =
    (ENCODED_ITEM_BYTES_MAX + HEADER_BYTES).div_ceil(BLOCK_BYTES);
/// An entry, slot included, that is larger than a third of a one-block page keeps its item in an
/// extent. Three 1 KiB values share a page, and every page has a fan-out of at least three.
pub const ENTRY_BYTES_MAX: usize = (BLOCK_BYTES - HEADER_BYTES) / 3;

const MAGIC: u32 = u32::from_le_bytes(*b"FBpg");
const VERSION: u8 = 1;
const OVERFLOW_BIT: u32 = 1 << 31;

const CRC: usize = 0;
const MAGIC_AT: usize = 4;
const VERSION_AT: usize = 8;
const KIND: usize = 9;
const BLOCKS: usize = 10;
const SHARD: usize = 12;
const COUNT: usize = 14;
const ID: usize = 16;
const BIRTH: usize = 24;
const USED: usize = 32;
const PREFIX: usize = 36;
const LEVEL: usize = 38;
const RESERVED: usize = 39;

const _: () = assert!(RESERVED + 1 == HEADER_BYTES);
const _: () = assert!(PAGE_BLOCKS_MAX * BLOCK_BYTES < 1 << 16, "slots hold 16-bit offsets");
const _: () = assert!(ENCODED_KEY_BYTES_MAX < 1 << 16);
const _: () = assert!(
    3 * (SLOT_BYTES + CHILD_BYTES + ENCODED_KEY_BYTES_MAX)
        <= PAGE_BLOCKS_MAX * BLOCK_BYTES - HEADER_BYTES,
    "three of the longest separators fit the largest page"
);
const _: () = assert!(
    3 * (SLOT_BYTES + LEAF_FIXED_BYTES + OVERFLOW_REF_BYTES + ENCODED_KEY_BYTES_MAX)
        <= PAGE_BLOCKS_MAX * BLOCK_BYTES - HEADER_BYTES,
    "three entries with the longest keys fit the largest page"
);
const _: () = assert!(ENCODED_ITEM_BYTES_MAX < OVERFLOW_BIT as usize);
const _: () = assert!(OVERFLOW_BLOCKS_MAX < 1 << 16);
const _: () = assert!(
    3 * (SLOT_BYTES + LEAF_FIXED_BYTES + 24 + 1024 + 128) <= BLOCK_BYTES - HEADER_BYTES,
    "three 1 KiB values with names and ordinary keys share a page"
);

mod validate;

pub use validate::{PageError, validate};

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Keys and items.
    Leaf,
    /// Separators and children.
    Interior,
    /// One big item.
    Overflow,
}

impl PageKind {
    fn code(self) -> u8 {
        match self {
            PageKind::Leaf => 1,
            PageKind::Interior => 2,
            PageKind::Overflow => 3,
        }
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
pub(crate) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}
pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Writes a child reference.
#[must_use]
pub fn encode_child(child: &ChildRef) -> [u8; CHILD_BYTES] {
    let mut bytes = [0; CHILD_BYTES];
    put(&mut bytes, 0, &child.page.id.to_le_bytes());
    put(&mut bytes, 8, &child.totals.items.to_le_bytes());
    put(&mut bytes, 16, &child.totals.bytes.to_le_bytes());
    put(&mut bytes, 24, &child.totals.digest.to_le_bytes());
    put(&mut bytes, 40, &child.page.crc.to_le_bytes());
    put(&mut bytes, 44, &child.page.blocks.to_le_bytes());
    bytes[46] = child.page.level;
    bytes
}

/// Reads a child reference; None if it cannot be one.
#[must_use]
pub fn decode_child(bytes: &[u8; CHILD_BYTES]) -> Option<ChildRef> {
    let child = child_unchecked(bytes);
    let sound = matches!(child.page.blocks, 1 | 2 | 4)
        && usize::from(child.page.level) < LEVELS_MAX
        && (PAGE_ID_FIRST..PAGE_ID_END).contains(&child.page.id)
        && bytes[47] == 0;
    sound.then_some(child)
}

fn child_unchecked(bytes: &[u8]) -> ChildRef {
    ChildRef {
        page: PageRef {
            id: u64_at(bytes, 0),
            crc: u32_at(bytes, 40),
            blocks: u16_at(bytes, 44),
            level: bytes[46],
        },
        totals: Totals {
            items: u64_at(bytes, 8),
            bytes: u64_at(bytes, 16),
            digest: u128_at(bytes, 24),
        },
    }
}

/// First four bytes of `suffix` as a number that orders as they do, short ones padded with zeros.
#[inline]
fn hint_of(suffix: &[u8]) -> u32 {
    if let Some(first) = suffix.first_chunk::<4>() {
        return u32::from_be_bytes(*first);
    }
    let mut four = [0; 4];
    four[..suffix.len()].copy_from_slice(suffix);
    u32::from_be_bytes(four)
}

/// The common start of two keys.
pub(crate) fn common_prefix_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// The shortest key that is greater than `left` and at most `right`: `right` cut after the first
/// byte that differs.
pub(crate) fn separator<'a>(left: &[u8], right: &'a [u8]) -> &'a [u8] {
    debug_assert!(left < right);
    &right[..common_prefix_bytes(left, right) + 1]
}

/// A validated tree page, read in place.
///
/// Only [`validate`] (for bytes from a device) and the page builders make the bytes that this type
/// may look at, so its slicing cannot fail.
#[derive(Clone, Copy)]
pub struct PageView<'a> {
    bytes: &'a [u8],
    slots: &'a [[u8; SLOT_BYTES]],
    prefix: &'a [u8],
}

impl<'a> PageView<'a> {
    /// Looks at validated bytes.
    #[inline]
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> PageView<'a> {
        let count = usize::from(u16_at(bytes, COUNT));
        let prefix_bytes = usize::from(u16_at(bytes, PREFIX));
        let slots_end = HEADER_BYTES + count * SLOT_BYTES;
        let (slots, _) = bytes[HEADER_BYTES..slots_end].as_chunks::<SLOT_BYTES>();
        PageView { bytes, slots, prefix: &bytes[slots_end..slots_end + prefix_bytes] }
    }

    /// Entries.
    #[inline]
    #[must_use]
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// What all keys begin with.
    #[must_use]
    pub fn prefix(&self) -> &'a [u8] {
        self.prefix
    }

    /// 0 for a leaf.
    #[inline]
    #[must_use]
    pub fn level(&self) -> u8 {
        self.bytes[LEVEL]
    }

    /// Checkpoint that wrote the page.
    #[must_use]
    pub fn birth(&self) -> u64 {
        u64_at(self.bytes, BIRTH)
    }

    /// Bytes in use.
    #[must_use]
    pub fn used_bytes(&self) -> u32 {
        u32_at(self.bytes, USED)
    }

    #[inline]
    fn slot(&self, i: usize) -> (u32, usize, usize) {
        let slot = u64::from_le_bytes(self.slots[i]);
        (slot as u32, (slot >> 32) as u16 as usize, (slot >> 48) as usize)
    }

    #[inline]
    fn fixed_bytes(&self) -> usize {
        if self.level() == 0 { LEAF_FIXED_BYTES } else { CHILD_BYTES }
    }

    /// The key (or separator) of entry `i` after the prefix.
    #[inline]
    #[must_use]
    pub fn suffix(&self, i: usize) -> &'a [u8] {
        let (_, at, suffix_bytes) = self.slot(i);
        let start = at + self.fixed_bytes();
        &self.bytes[start..start + suffix_bytes]
    }

    /// Appends the whole key (or separator) of entry `i`.
    pub fn key_into(&self, i: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix);
        out.extend_from_slice(self.suffix(i));
    }

    /// Orders entry `i` against `key`.
    #[must_use]
    pub fn compare(&self, i: usize, key: &[u8]) -> Ordering {
        let common = self.prefix.len().min(key.len());
        self.prefix[..common].cmp(&key[..common]).then_with(|| {
            if key.len() < self.prefix.len() {
                Ordering::Greater
            } else {
                self.suffix(i).cmp(&key[common..])
            }
        })
    }

    /// The place of `key`: Ok(i) if entry `i` has it, Err(i) if it would stand before entry `i`.
    #[inline]
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        self.resolve(key, self.near(key))
    }

    /// The first half of a search, which reads the slots alone: no entry before this place has the
    /// key. [`PageView::resolve`] goes on from there, at the entry.
    #[inline]
    #[must_use]
    pub fn near(&self, key: &[u8]) -> usize {
        let Some(rest) = self.after_prefix(key) else {
            return if key < self.prefix { 0 } else { self.count() };
        };
        let hint = hint_of(rest);
        // The number of slots with a smaller hint, without branches that a random key would miss.
        let mut low = 0;
        let mut size = self.slots.len();
        while size > 1 {
            let half = size / 2;
            let smaller = self.slot(low + half - 1).0 < hint;
            low = select_unpredictable(smaller, low + half, low);
            size -= half;
        }
        low + usize::from(size == 1 && self.slot(low).0 < hint)
    }

    /// The key without the page's prefix, if it has that.
    #[inline]
    fn after_prefix<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        // A few bytes as a rule, for which a comparison of any length is a long way round.
        if let (1..=8, Some(key_head)) = (self.prefix.len(), key.first_chunk()) {
            let prefix_at = HEADER_BYTES + self.slots.len() * SLOT_BYTES;
            if let Some(prefix_head) = self.bytes[prefix_at..].first_chunk() {
                let differ = u64::from_le_bytes(*key_head) ^ u64::from_le_bytes(*prefix_head);
                let beyond = 64 - 8 * self.prefix.len() as u32;
                return (differ << beyond == 0).then(|| &key[self.prefix.len()..]);
            }
        }
        key.strip_prefix(self.prefix)
    }

    /// The bytes of the entry at a place from [`PageView::near`], and what follows it.
    #[inline]
    #[must_use]
    pub fn from_entry(&self, place: usize) -> &'a [u8] {
        if place == self.count() { &[] } else { &self.bytes[self.slot(place).1..] }
    }

    /// The second half of a search.
    #[inline]
    pub fn resolve(&self, key: &[u8], near: usize) -> Result<usize, usize> {
        let mut low = near;
        let Some(rest) = self.after_prefix(key) else { return Err(low) };
        let hint = hint_of(rest);
        if low == self.count() || self.slot(low).0 != hint {
            return Err(low);
        }
        // Usually one or two entries share a hint; long runs of equal hints are halved.
        let mut high = self.count();
        let mut step = 1;
        while low + step < high {
            if self.slot(low + step).0 != hint {
                high = low + step;
                break;
            }
            step *= 2;
        }
        while low < high {
            let middle = low + (high - low) / 2;
            let order = self.slot(middle).0.cmp(&hint).then_with(|| self.suffix(middle).cmp(rest));
            match order {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Index of the child whose range has `key`: the last whose separator is not greater, or the
    /// first child.
    #[inline]
    #[must_use]
    pub fn child_index(&self, key: &[u8]) -> usize {
        self.child_at(self.search(key))
    }

    /// As [`PageView::child_index`], of what a search found.
    #[inline]
    #[must_use]
    pub fn child_at(&self, found: Result<usize, usize>) -> usize {
        match found {
            Ok(i) => i,
            Err(i) => i.saturating_sub(1),
        }
    }

    /// Child `i` of an interior page.
    #[inline]
    #[must_use]
    pub fn child(&self, i: usize) -> ChildRef {
        debug_assert!(self.level() > 0);
        let (_, at, _) = self.slot(i);
        child_unchecked(&self.bytes[at..at + CHILD_BYTES])
    }

    /// Page of child `i`, without its totals.
    #[inline]
    #[must_use]
    pub fn child_page(&self, i: usize) -> PageRef {
        debug_assert!(self.level() > 0);
        let (_, at, _) = self.slot(i);
        let bytes: &[u8; CHILD_BYTES] =
            self.bytes[at..at + CHILD_BYTES].try_into().expect("a whole reference");
        PageRef {
            id: u64_at(bytes, 0),
            crc: u32_at(bytes, 40),
            blocks: u16_at(bytes, 44),
            level: bytes[46],
        }
    }

    /// Content digest of leaf entry `i`.
    #[must_use]
    pub fn digest(&self, i: usize) -> u128 {
        u128_at(self.bytes, self.slot(i).1)
    }

    /// Item of leaf entry `i`.
    #[inline]
    #[must_use]
    pub fn value(&self, i: usize) -> Value<'a> {
        debug_assert!(self.level() == 0);
        let (_, at, suffix_bytes) = self.slot(i);
        let length = u32_at(self.bytes, at + 16);
        let start = at + LEAF_FIXED_BYTES + suffix_bytes;
        if length & OVERFLOW_BIT == 0 {
            return Value::Inline(&self.bytes[start..start + length as usize]);
        }
        let bytes = &self.bytes[start..start + OVERFLOW_REF_BYTES];
        Value::Overflow(OverflowRef {
            page: PageRef {
                id: u64_at(bytes, 0),
                crc: u32_at(bytes, 8),
                blocks: u16_at(bytes, 12),
                level: LEVEL_OVERFLOW,
            },
            item_bytes: length & !OVERFLOW_BIT,
        })
    }

    /// What the page's entries sum up to.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for i in 0..self.count() {
            if self.level() > 0 {
                totals.add(&self.child(i).totals);
            } else {
                let key_bytes = (self.prefix.len() + self.suffix(i).len()) as u64;
                let bytes = key_bytes + self.value(i).item_bytes();
                totals.add(&Totals { items: 1, bytes, digest: self.digest(i) });
            }
        }
        totals
    }
}

/// The item in a validated overflow extent.
#[inline]
#[must_use]
pub fn overflow_item(bytes: &[u8]) -> &[u8] {
    &bytes[HEADER_BYTES..u32_at(bytes, USED) as usize]
}

/// Blocks of the extent for an item of `item_bytes`.
#[must_use]
pub fn overflow_blocks(item_bytes: usize) -> usize {
    (HEADER_BYTES + item_bytes).div_ceil(BLOCK_BYTES)
}

/// Whether an item with this key goes to an extent of its own. An item no longer than the
/// reference to one never does.
#[must_use]
pub fn goes_to_overflow(key_bytes: usize, item_bytes: usize) -> bool {
    SLOT_BYTES + LEAF_FIXED_BYTES + key_bytes + item_bytes > ENTRY_BYTES_MAX
        && item_bytes > OVERFLOW_REF_BYTES
}

/// Where a page is to be written, for the builders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) shard: ShardId,
    pub(crate) id: u64,
    pub(crate) birth: u64,
}

fn start_page(bytes: &mut [u8], place: Place, kind: PageKind, level: u8) {
    bytes[..HEADER_BYTES].fill(0);
    put(bytes, MAGIC_AT, &MAGIC.to_le_bytes());
    bytes[VERSION_AT] = VERSION;
    bytes[KIND] = kind.code();
    let blocks = u16::try_from(bytes.len() / BLOCK_BYTES).expect("a page is a small extent");
    put(bytes, BLOCKS, &blocks.to_le_bytes());
    put(bytes, SHARD, &place.shard.0.to_le_bytes());
    put(bytes, ID, &place.id.to_le_bytes());
    put(bytes, BIRTH, &place.birth.to_le_bytes());
    bytes[LEVEL] = level;
}

/// Zeroes the rest of the page and closes it with its checksum.
fn finish_page(bytes: &mut [u8], used: usize) -> PageRef {
    bytes[used..].fill(0);
    put(bytes, USED, &u32::try_from(used).expect("a page is a small extent").to_le_bytes());
    let crc = crc32fast::hash(&bytes[MAGIC_AT..]);
    put(bytes, CRC, &crc.to_le_bytes());
    PageRef { id: u64_at(bytes, ID), crc, blocks: u16_at(bytes, BLOCKS), level: bytes[LEVEL] }
}

/// Fills an overflow extent.
pub(crate) fn write_overflow(bytes: &mut [u8], place: Place, item: &[u8]) -> PageRef {
    assert_eq!(bytes.len() / BLOCK_BYTES, overflow_blocks(item.len()));
    start_page(bytes, place, PageKind::Overflow, LEVEL_OVERFLOW);
    put(bytes, HEADER_BYTES, item);
    finish_page(bytes, HEADER_BYTES + item.len())
}

/// Fills a tree page entry by entry; the caller has checked that they fit.
pub(crate) struct PageWriter<'b> {
    bytes: &'b mut [u8],
    prefix_bytes: usize,
    count: usize,
    written: usize,
    at: usize,
    totals: Totals,
}

impl<'b> PageWriter<'b> {
    pub(crate) fn new(
        bytes: &'b mut [u8],
        place: Place,
        level: u8,
        count: usize,
        prefix: &[u8],
    ) -> PageWriter<'b> {
        assert!(usize::from(level) < LEVELS_MAX && count > 0);
        let kind = if level == 0 { PageKind::Leaf } else { PageKind::Interior };
        start_page(bytes, place, kind, level);
        put(bytes, COUNT, &u16::try_from(count).expect("entries of a page").to_le_bytes());
        put(bytes, PREFIX, &u16::try_from(prefix.len()).expect("a key").to_le_bytes());
        let prefix_at = HEADER_BYTES + count * SLOT_BYTES;
        put(bytes, prefix_at, prefix);
        let at = prefix_at + prefix.len();
        let (prefix_bytes, totals) = (prefix.len(), Totals::default());
        PageWriter { bytes, prefix_bytes, count, written: 0, at, totals }
    }

    /// Adds an entry: `body` is what [`leaf_body`] or [`encode_child`] gives before the key, `tail`
    /// what stands after it.
    pub(crate) fn push(&mut self, key: &[u8], body: &[u8], tail: &[u8], totals: &Totals) {
        let suffix = &key[self.prefix_bytes..];
        let slot = HEADER_BYTES + self.written * SLOT_BYTES;
        put(self.bytes, slot, &hint_of(suffix).to_le_bytes());
        put(self.bytes, slot + 4, &(self.at as u16).to_le_bytes());
        put(self.bytes, slot + 6, &(suffix.len() as u16).to_le_bytes());
        put(self.bytes, self.at, body);
        put(self.bytes, self.at + body.len(), suffix);
        put(self.bytes, self.at + body.len() + suffix.len(), tail);
        self.at += body.len() + suffix.len() + tail.len();
        self.totals.add(totals);
        self.written += 1;
    }

    pub(crate) fn finish(self) -> ChildRef {
        assert_eq!(self.written, self.count);
        ChildRef { page: finish_page(self.bytes, self.at), totals: self.totals }
    }
}

/// Fixed part of a leaf entry.
pub(crate) fn leaf_body(digest: u128, item_bytes: u32, overflow: bool) -> [u8; LEAF_FIXED_BYTES] {
    let mut body = [0; LEAF_FIXED_BYTES];
    put(&mut body, 0, &digest.to_le_bytes());
    let flag = if overflow { OVERFLOW_BIT } else { 0 };
    put(&mut body, 16, &(item_bytes | flag).to_le_bytes());
    body
}

/// What stands in the entry for an overflow item.
pub(crate) fn overflow_tail(page: &PageRef) -> [u8; OVERFLOW_REF_BYTES] {
    let mut tail = [0; OVERFLOW_REF_BYTES];
    put(&mut tail, 0, &page.id.to_le_bytes());
    put(&mut tail, 8, &page.crc.to_le_bytes());
    put(&mut tail, 12, &page.blocks.to_le_bytes());
    tail
}

/// Makes a reference out of what a page says of itself, for `inspect`: it proves only that the
/// page is whole, not that any tree holds it. None if no tree could.
#[must_use]
pub fn self_reference(bytes: &[u8]) -> Option<PageRef> {
    if bytes.len() < BLOCK_BYTES || u32_at(bytes, MAGIC_AT) != MAGIC {
        return None;
    }
    let id = u64_at(bytes, ID);
    (PAGE_ID_FIRST..PAGE_ID_END).contains(&id).then(|| PageRef {
        id,
        crc: u32_at(bytes, CRC),
        blocks: u16_at(bytes, BLOCKS),
        level: bytes[LEVEL],
    })
}
