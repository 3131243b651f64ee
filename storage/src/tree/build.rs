//! Entries of one level on their way into new pages.
//!
//! A merge appends entries on the right and cuts pages off on the left. How many entries a page
//! gets, and how many blocks it has, is decided here, from sizes after prefix truncation: the
//! common prefix of a sorted run is that of its first and last key.

use super::page::{
    self, CHILD_BYTES, HEADER_BYTES, LEAF_FIXED_BYTES, PAGE_BLOCKS_MAX, PageWriter, Place,
    SLOT_BYTES, common_prefix_bytes,
};
use super::{ChildRef, Totals, Value};
use crate::block::BLOCK_BYTES;

/// Bytes of entries in a page of `blocks`.
fn capacity(blocks: usize) -> usize {
    blocks * BLOCK_BYTES - HEADER_BYTES
}

/// Under this a page is combined with the next one.
const UNDERFULL_BYTES: usize = (BLOCK_BYTES - HEADER_BYTES) * 2 / 5;
/// From this on, pages are cut off while more entries are coming. It holds a largest page and
/// enough more that the last pages can still be balanced.
const STREAM_BYTES: usize = (PAGE_BLOCKS_MAX + 2) * BLOCK_BYTES;
/// A page that is cut nearly full is filled up to here.
const PACKED_BYTES: usize = (BLOCK_BYTES - HEADER_BYTES) / 16 * 15;
/// From this on, a nearly full page can be cut off and half a page stays.
const PACKED_AND_HALF_BYTES: usize = PACKED_BYTES + (BLOCK_BYTES - HEADER_BYTES) / 2;
/// A small entry is at most this part of a page.
const SMALL_PART: usize = 10;
/// Entries per page so that it is one block; a page that cannot have them grows.
const FANOUT_MIN: usize = 3;

/// How full to make pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// The entries at hand evenly over as few pages as hold them: room to grow in each.
    Even,
    /// As near to 15/16 of a page as entries allow, but small ones leave room for one more, so that
    /// a few inserts after a large load do not split every page. What is left goes to the next page,
    /// which is rewritten anyway. (7/8 was measured, too: more pages for updates and inserts alike.)
    Packed,
    /// At most 15/16 of a page: more entries follow in order, and none will come between.
    Stream,
}

#[derive(Clone, Copy)]
struct Entry {
    at: u32,
    key_bytes: u32,
    tail_bytes: u32,
    item_bytes: u32,
    overflow: bool,
    digest: u128,
}

/// Entries of one level, in order; the first `start` have gone into pages.
pub(crate) struct Builder {
    level: u8,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    start: usize,
    /// Sizes of the entries from `start`, keys not truncated.
    size: usize,
    /// Leaf level: the separator of the next page. Interior pages take their first entry's.
    fence: Vec<u8>,
}

/// How the next page is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) entries: usize,
    pub(crate) blocks: usize,
}

impl Builder {
    pub(crate) fn new(level: u8) -> Builder {
        let (bytes, entries, fence) = (Vec::new(), Vec::new(), Vec::new());
        Builder { level, bytes, entries, start: 0, size: 0, fence }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.start = 0;
        self.size = 0;
    }

    pub(crate) fn set_fence(&mut self, fence: &[u8]) {
        self.fence.clear();
        self.fence.extend_from_slice(fence);
    }

    /// The separator of the leftmost page of a tree is empty.
    pub(crate) fn make_leftmost(&mut self) {
        self.fence.clear();
        if self.level > 0
            && let Some(first) = self.entries.get_mut(self.start)
        {
            self.size -= first.key_bytes as usize;
            first.at += first.key_bytes;
            first.key_bytes = 0;
        }
    }

    fn key(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.at as usize..][..entry.key_bytes as usize]
    }

    fn tail(&self, entry: &Entry) -> &[u8] {
        &self.bytes[(entry.at + entry.key_bytes) as usize..][..entry.tail_bytes as usize]
    }

    fn fixed_bytes(&self) -> usize {
        if self.level == 0 { SLOT_BYTES + LEAF_FIXED_BYTES } else { SLOT_BYTES }
    }

    fn entry_size(&self, entry: &Entry) -> usize {
        self.fixed_bytes() + (entry.key_bytes + entry.tail_bytes) as usize
    }

    fn push(&mut self, key: [&[u8]; 2], tail: &[u8], entry: impl FnOnce(Entry) -> Entry) {
        let at = self.bytes.len() as u32;
        self.bytes.extend_from_slice(key[0]);
        self.bytes.extend_from_slice(key[1]);
        let key_bytes = self.bytes.len() as u32 - at;
        self.bytes.extend_from_slice(tail);
        let tail_bytes = tail.len() as u32;
        let (item_bytes, overflow, digest) = (tail_bytes, false, 0);
        let entry = entry(Entry { at, key_bytes, tail_bytes, item_bytes, overflow, digest });
        self.size += self.entry_size(&entry);
        self.entries.push(entry);
    }

    /// Appends an item; the key comes in two parts, as pages store it.
    pub(crate) fn push_item(&mut self, key: [&[u8]; 2], value: &Value<'_>, digest: u128) {
        debug_assert!(self.level == 0);
        match value {
            Value::Inline(item) => self.push(key, item, |entry| Entry { digest, ..entry }),
            Value::Overflow(extent) => {
                let item_bytes = extent.item_bytes;
                let tail = page::overflow_tail(&extent.page);
                self.push(key, &tail, |entry| Entry {
                    digest,
                    item_bytes,
                    overflow: true,
                    ..entry
                });
            }
        }
    }

    /// Appends a child.
    pub(crate) fn push_child(&mut self, separator: [&[u8]; 2], child: &ChildRef) {
        debug_assert!(self.level == child.page.level + 1);
        self.push(separator, &page::encode_child(child), |entry| entry);
    }

    /// The only entry, of an interior level.
    pub(crate) fn only_child(&self) -> Option<ChildRef> {
        let [entry] = &self.entries[self.start..] else { return None };
        if self.level == 0 {
            return None;
        }
        let bytes: &[u8; CHILD_BYTES] = self.tail(entry).try_into().expect("a whole reference");
        page::decode_child(bytes)
    }

    /// Whether a page should be cut off although more entries are coming.
    pub(crate) fn is_streaming(&self) -> bool {
        self.size >= STREAM_BYTES && self.truncated_size() >= STREAM_BYTES
    }

    /// Size of all entries if they shared a page.
    fn truncated_size(&self) -> usize {
        let entries = &self.entries[self.start..];
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return 0 };
        self.size - common_prefix_bytes(self.key(first), self.key(last)) * (entries.len() - 1)
    }

    /// Whether the entries are too few for a page of their own.
    pub(crate) fn is_underfull(&self) -> bool {
        self.truncated_size() < UNDERFULL_BYTES
    }

    /// Whether a nearly full page can be cut off and what stays fills half of another.
    pub(crate) fn fills_a_page_and_more(&self) -> bool {
        self.size >= PACKED_AND_HALF_BYTES && self.truncated_size() >= PACKED_AND_HALF_BYTES
    }

    /// How the next page is to be made. There are entries.
    pub(crate) fn plan(&self, fill: Fill) -> Plan {
        let entries = &self.entries[self.start..];
        let first = self.key(&entries[0]);
        for blocks in [1, 2, PAGE_BLOCKS_MAX] {
            let room = capacity(blocks);
            let target = match fill {
                Fill::Packed | Fill::Stream => room - room / 16,
                Fill::Even => {
                    let size = self.truncated_size();
                    size / size.div_ceil(room)
                }
            };
            // Entries that come nearest to the target, and entries that fit at all.
            let (mut wanted, mut fit, mut size, mut common) = (0, 0, 0, first.len());
            let mut distance = usize::MAX;
            for entry in entries {
                common = common_prefix_bytes(&first[..common], self.key(entry));
                size += self.entry_size(entry);
                let truncated = size - fit * common;
                if truncated > room || (truncated > target && fit > wanted + FANOUT_MIN) {
                    break;
                }
                fit += 1;
                let entry_bytes = self.entry_size(entry) - common;
                let is_candidate = match fill {
                    Fill::Even => true,
                    Fill::Packed => {
                        truncated + entry_bytes <= room || entry_bytes > room / SMALL_PART
                    }
                    Fill::Stream => truncated <= target,
                };
                if truncated.abs_diff(target) < distance && is_candidate {
                    distance = truncated.abs_diff(target);
                    wanted = fit;
                }
            }
            if fit < FANOUT_MIN && fit < entries.len() && blocks < PAGE_BLOCKS_MAX {
                continue;
            }
            assert!(fit > 0, "the largest page holds any three entries");
            if fit == entries.len() {
                return Plan { entries: fit, blocks };
            }
            // An interior page with one child only makes the tree higher.
            let least = if self.level > 0 { fit.min(2) } else { 1 };
            return Plan { entries: wanted.clamp(least, fit), blocks };
        }
        unreachable!("the largest page is the last tried")
    }

    /// Fills a page with the first entries, as planned, and drops them. Returns the page; its
    /// separator is in `separator`.
    pub(crate) fn cut(
        &mut self,
        plan: Plan,
        place: Place,
        buf: &mut [u8],
        separator: &mut Vec<u8>,
    ) -> ChildRef {
        assert_eq!(buf.len(), plan.blocks * BLOCK_BYTES);
        let entries = &self.entries[self.start..self.start + plan.entries];
        let first = self.key(&entries[0]);
        let last = entries[entries.len() - 1];
        let prefix = &first[..common_prefix_bytes(first, self.key(&last))];
        let mut writer = PageWriter::new(buf, place, self.level, entries.len(), prefix);
        let mut cut_size = 0;
        for entry in entries {
            let (key, tail) = (self.key(entry), self.tail(entry));
            cut_size += self.entry_size(entry);
            if self.level == 0 {
                let body = page::leaf_body(entry.digest, entry.item_bytes, entry.overflow);
                let totals = Totals::of(key, u64::from(entry.item_bytes), entry.digest);
                writer.push(key, &body, tail, &totals);
            } else {
                let child: &[u8; CHILD_BYTES] = tail.try_into().expect("a whole reference");
                let child = page::decode_child(child).expect("encoded by this builder");
                writer.push(key, tail, &[], &child.totals);
            }
        }
        let page = writer.finish();
        separator.clear();
        if self.level == 0 {
            separator.extend_from_slice(&self.fence);
            let mut fence = std::mem::take(&mut self.fence);
            fence.clear();
            if let Some(next) = self.entries.get(self.start + plan.entries) {
                fence.extend_from_slice(page::separator(self.key(&last), self.key(next)));
            }
            self.fence = fence;
        } else {
            separator.extend_from_slice(first);
        }
        self.start += plan.entries;
        self.size -= cut_size;
        self.compact();
        page
    }

    /// Drops the bytes of entries that have gone, once they are the larger part.
    fn compact(&mut self) {
        if self.is_empty() {
            self.clear();
        } else if self.start * 2 > self.entries.len() {
            let gone = self.entries[self.start].at;
            self.bytes.drain(..gone as usize);
            self.entries.drain(..self.start);
            self.entries.iter_mut().for_each(|entry| entry.at -= gone);
            self.start = 0;
        }
    }
}
