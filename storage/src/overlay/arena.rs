//! Where entries' bytes live: chunks that are only appended to, and recycled whole.
//!
//! ```text
//!   chunk   | entry | entry | entry | ...            free tail |        2 MiB
//!   entry   | slot u64 | item_bytes u32 | group u32 | link u32 | key_bytes u16 | key | item | to 8 |
//! ```
//!
//! The link joins the entries of one key in a generation: in the first one it names the latest, in the
//! latest the first (an only entry names itself). So a key keeps its place in the order while its value
//! changes. Between them it means nothing.
//!
//! A chunk of the largest size is a huge page: entries lie everywhere, and translating their
//! addresses by 4 KiB pages was a sixteenth of a Put (measured at depth 16, 16 requests a turn).
//!
//! A handle is four bytes: the chunk's number in the upper 14 bits, the offset in 8-byte units in
//! the lower 18. An entry over a quarter of a chunk gets a chunk of its own, so that no chunk is
//! left more than a quarter empty; such chunks are kept for reuse too, as long as all memory
//! together stays within the bound. This layout never leaves the process.

use std::cmp::Ordering;

use forebay_core::ids::Slot;
use forebay_core::limits::{ENCODED_ITEM_BYTES_MAX, ENCODED_KEY_BYTES_MAX};

use super::index::Probe;
use crate::block::{BLOCK_BYTES, BlockBuf, HUGE_PAGE_BYTES};
use crate::touch::{touch, touch_for_write, touch_lines};

/// Largest chunk: what 18 bits of 8-byte units address.
pub const CHUNK_BYTES_MAX: usize = 1 << (OFFSET_BITS + UNIT_BITS);

/// Smallest chunk.
pub const CHUNK_BYTES_MIN: usize = BLOCK_BYTES;

const OFFSET_BITS: u32 = 18;
const UNIT_BITS: u32 = 3;
const _: () = assert!(CHUNK_BYTES_MAX == HUGE_PAGE_BYTES);
const CHUNKS_MAX: usize = 1 << (u32::BITS - OFFSET_BITS);

const SLOT: usize = 0;
const ITEM_BYTES: usize = 8;
const GROUP: usize = 12;
const LINK: usize = 16;
const KEY_BYTES: usize = 20;
const HEADER_BYTES: usize = 22;
/// `item_bytes` of a delete.
const DELETED: u32 = u32::MAX;

/// How much of an entry a read brings near before it is looked at.
const TOUCHED_BYTES: usize = 192;

/// Smallest entry: a header, a hash and a key length.
pub(super) const ENTRY_BYTES_MIN: usize = (HEADER_BYTES + 10).next_multiple_of(1 << UNIT_BITS);

const ENTRY_BYTES_MAX: usize = (HEADER_BYTES + ENCODED_KEY_BYTES_MAX + ENCODED_ITEM_BYTES_MAX)
    .next_multiple_of(1 << UNIT_BITS);

const _: () = assert!(ENCODED_ITEM_BYTES_MAX < DELETED as usize);
const _: () = assert!(ENCODED_KEY_BYTES_MAX <= u16::MAX as usize);

/// A handle to one entry's bytes. It is valid from staging until the entry is abandoned or its
/// generation is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Staged(u32);

impl Default for Staged {
    fn default() -> Staged {
        Staged::NONE
    }
}

impl Staged {
    /// For unused places in index nodes; never resolved.
    pub(super) const NONE: Staged = Staged(u32::MAX);

    pub(super) fn new(chunk: u32, offset: usize) -> Staged {
        debug_assert!(offset.is_multiple_of(1 << UNIT_BITS) && offset < CHUNK_BYTES_MAX);
        Staged(chunk << OFFSET_BITS | (offset >> UNIT_BITS) as u32)
    }

    fn chunk(self) -> u32 {
        self.0 >> OFFSET_BITS
    }

    fn offset(self) -> usize {
        ((self.0 & ((1 << OFFSET_BITS) - 1)) as usize) << UNIT_BITS
    }
}

/// One entry, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// Ordinal of the group on this shard.
    pub group: u32,
    /// The encoded key.
    pub key: &'a [u8],
    /// The encoded item; None if the entry deletes the key.
    pub item: Option<&'a [u8]>,
    /// The entry's slot in its group's log.
    pub slot: Slot,
}

struct Chunk {
    /// None if the number is free and its memory was returned.
    memory: Option<BlockBuf>,
    used: usize,
    /// Entries staged here and neither applied nor abandoned.
    staged: usize,
}

const MEMORY: &str = "a chunk in use has its memory";

impl Chunk {
    #[inline]
    fn bytes(&self) -> &[u8] {
        self.memory.as_deref().expect(MEMORY)
    }

    fn len(&self) -> usize {
        self.bytes().len()
    }
}

pub(super) struct Arena {
    chunk_bytes: usize,
    /// Chunks of one entry are multiples of this: a quarter of the ordinary one, or a block if that is
    /// more.
    unit_bytes: usize,
    /// Bound of all chunks, in use or kept for reuse.
    bytes_max: usize,
    bytes_allocated: usize,
    chunks: Vec<Chunk>,
    /// The chunk that ordinary entries are appended to.
    open: Option<u32>,
    /// Chunks kept for reuse, by size in units.
    free: Vec<Vec<u32>>,
    /// Chunk numbers without memory.
    free_numbers: Vec<u32>,
}

/// Bytes that an entry takes in a chunk.
pub(super) fn entry_bytes(key: &[u8], item: Option<&[u8]>) -> usize {
    bytes_of_entry(key.len() + item.map_or(0, <[u8]>::len))
}

/// As [`entry_bytes`], by the length of key and item together.
pub(super) fn bytes_of_entry(key_and_item_bytes: usize) -> usize {
    (HEADER_BYTES + key_and_item_bytes).next_multiple_of(1 << UNIT_BITS)
}

impl Arena {
    pub(super) fn new(chunk_bytes: usize, bytes_max: usize) -> Arena {
        assert!(chunk_bytes.is_power_of_two());
        assert!((CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk_bytes));
        let unit_bytes = (chunk_bytes / 4).max(BLOCK_BYTES);
        // Every chunk is of one or more of these.
        assert!(bytes_max / unit_bytes < CHUNKS_MAX, "more chunks than a handle can name");
        Arena {
            chunk_bytes,
            unit_bytes,
            bytes_max,
            bytes_allocated: 0,
            chunks: Vec::new(),
            open: None,
            free: vec![Vec::new(); ENTRY_BYTES_MAX.div_ceil(unit_bytes).max(4) + 1],
            free_numbers: Vec::new(),
        }
    }

    /// Changes the bound. What is in use beyond a lower one is given back when it comes free.
    pub(super) fn set_bytes_max(&mut self, bytes: usize) {
        self.bytes_max = bytes;
    }

    fn is_big(&self, entry_bytes: usize) -> bool {
        entry_bytes > self.chunk_bytes / 4
    }

    /// Size of an own chunk: rounded up, so that sizes recur and chunks can be reused.
    fn big_chunk_bytes(&self, entry_bytes: usize) -> usize {
        entry_bytes.next_multiple_of(self.unit_bytes)
    }

    /// Bytes of the chunk that appending an entry of this size would add; 0 if it fits the open one.
    pub(super) fn growth_bytes(&self, entry_bytes: usize) -> usize {
        if self.is_big(entry_bytes) {
            return self.big_chunk_bytes(entry_bytes);
        }
        match self.open {
            Some(open) if self.room(open) >= entry_bytes => 0,
            _ => self.chunk_bytes,
        }
    }

    fn class(&self, chunk_bytes: usize) -> usize {
        chunk_bytes / self.unit_bytes
    }

    fn room(&self, chunk: u32) -> usize {
        let chunk = &self.chunks[chunk as usize];
        chunk.len() - chunk.used
    }

    /// Writes an entry; also returns the chunk that it had to add, if any.
    pub(super) fn append(
        &mut self,
        group: u32,
        slot: Slot,
        key: &[u8],
        item: Option<&[u8]>,
    ) -> (Staged, Option<u32>) {
        assert!(key.len() <= ENCODED_KEY_BYTES_MAX);
        let item_bytes = item.map_or(0, <[u8]>::len);
        assert!(item_bytes <= ENCODED_ITEM_BYTES_MAX);
        let bytes = entry_bytes(key, item);
        let growth = self.growth_bytes(bytes);
        let grown = (growth > 0).then(|| self.take_chunk(growth));
        let number = if self.is_big(bytes) {
            grown.expect("a big entry gets a chunk of its own")
        } else {
            if grown.is_some() {
                self.open = grown;
            }
            self.open.expect("an entry that needs no new chunk fits the open one")
        };
        let chunk = &mut self.chunks[number as usize];
        let offset = chunk.used;
        let memory = chunk.memory.as_deref_mut().expect(MEMORY);
        let entry = &mut memory[offset..offset + bytes];
        entry[SLOT..ITEM_BYTES].copy_from_slice(&slot.0.to_le_bytes());
        let item_word = if item.is_some() { item_bytes as u32 } else { DELETED };
        entry[ITEM_BYTES..GROUP].copy_from_slice(&item_word.to_le_bytes());
        entry[GROUP..LINK].copy_from_slice(&group.to_le_bytes());
        let staged = Staged::new(number, offset);
        entry[LINK..KEY_BYTES].copy_from_slice(&staged.0.to_le_bytes());
        entry[KEY_BYTES..HEADER_BYTES].copy_from_slice(&(key.len() as u16).to_le_bytes());
        entry[HEADER_BYTES..HEADER_BYTES + key.len()].copy_from_slice(key);
        if let Some(item) = item {
            entry[HEADER_BYTES + key.len()..][..item_bytes].copy_from_slice(item);
        }
        chunk.used += bytes;
        let next = chunk.used..memory.len().min(chunk.used + 2 * TOUCHED_BYTES);
        touch_for_write(&memory[next]);
        chunk.staged += 1;
        (staged, grown)
    }

    fn take_chunk(&mut self, bytes: usize) -> u32 {
        let class = self.class(bytes);
        if let Some(number) = self.free[class].pop() {
            return number;
        }
        while self.bytes_allocated + bytes > self.bytes_max {
            let Some(number) = self.free.iter_mut().rev().find_map(Vec::pop) else { break };
            let released = self.chunks[number as usize].memory.take();
            self.bytes_allocated -= released.expect(MEMORY).len();
            self.free_numbers.push(number);
        }
        self.bytes_allocated += bytes;
        let memory = Some(BlockBuf::zeroed(bytes / BLOCK_BYTES));
        let chunk = Chunk { memory, used: 0, staged: 0 };
        if let Some(number) = self.free_numbers.pop() {
            self.chunks[number as usize] = chunk;
            return number;
        }
        assert!(self.chunks.len() < CHUNKS_MAX);
        self.chunks.push(chunk);
        (self.chunks.len() - 1) as u32
    }

    /// Keeps a chunk's memory for reuse; nothing may point into it any more.
    pub(super) fn recycle(&mut self, number: u32) {
        debug_assert_ne!(self.open, Some(number));
        let chunk = &mut self.chunks[number as usize];
        assert_eq!(chunk.staged, 0, "an entry in flight keeps its chunk");
        chunk.used = 0;
        let bytes = chunk.len();
        let class = self.class(bytes);
        self.free[class].push(number);
    }

    /// Appends go to a new chunk from now on, unless the open one holds entries in flight.
    pub(super) fn seal_open_chunk_unless_staged(&mut self) {
        self.open = self.open.filter(|&open| self.staged_in(open) > 0);
    }

    /// The entry is applied or abandoned: it keeps its chunk in flight no more.
    pub(super) fn unstage(&mut self, staged: Staged) {
        let count = &mut self.chunks[staged.chunk() as usize].staged;
        *count = count.checked_sub(1).expect("an entry is applied or abandoned once");
    }

    pub(super) fn staged_in(&self, chunk: u32) -> usize {
        self.chunks[chunk as usize].staged
    }

    pub(super) fn chunk_bytes(&self, chunk: u32) -> usize {
        self.chunks[chunk as usize].len()
    }

    #[cfg(test)]
    pub(super) fn bytes_allocated(&self) -> usize {
        let chunks = self
            .chunks
            .iter()
            .map(|chunk| chunk.memory.as_ref().map_or(0, |memory| memory.len()))
            .sum();
        assert_eq!(self.bytes_allocated, chunks);
        chunks
    }

    /// The entry from its header on, with the header split off.
    #[inline]
    fn parts(&self, at: Staged) -> (&[u8; HEADER_BYTES], &[u8]) {
        self.chunks[at.chunk() as usize].bytes()[at.offset()..]
            .split_first_chunk()
            .expect("a handle points at a whole entry")
    }

    #[inline]
    pub(super) fn entry(&self, at: Staged) -> EntryRef<'_> {
        let (header, body) = self.parts(at);
        let (key, rest) = body.split_at(key_bytes(header));
        let item_bytes = word(header, ITEM_BYTES);
        EntryRef {
            group: word(header, GROUP),
            key,
            item: (item_bytes != DELETED).then(|| &rest[..item_bytes as usize]),
            slot: Slot(u64::from_le_bytes(header[SLOT..ITEM_BYTES].try_into().expect("8 bytes"))),
        }
    }

    /// Of a key's first entry the latest, of its latest entry the first; see the module's docs.
    #[inline]
    pub(super) fn link(&self, at: Staged) -> Staged {
        Staged(word(self.parts(at).0, LINK))
    }

    pub(super) fn set_slot(&mut self, at: Staged, slot: Slot) {
        let offset = at.offset() + SLOT;
        let memory = self.chunks[at.chunk() as usize].memory.as_deref_mut().expect(MEMORY);
        memory[offset..offset + 8].copy_from_slice(&slot.0.to_le_bytes());
    }

    fn set_link(&mut self, at: Staged, to: Staged) {
        let offset = at.offset() + LINK;
        let memory = self.chunks[at.chunk() as usize].memory.as_deref_mut().expect(MEMORY);
        memory[offset..offset + 4].copy_from_slice(&to.0.to_le_bytes());
    }

    /// `next` takes the place of `latest` as the latest entry of their key.
    pub(super) fn supersede(&mut self, latest: Staged, next: Staged) {
        let first = self.link(latest);
        self.set_link(next, first);
        self.set_link(first, next);
    }

    /// Brings an entry's header and key near.
    #[inline]
    pub(super) fn touch_key(&self, at: Staged) {
        touch(&self.chunks[at.chunk() as usize].bytes()[at.offset()]);
    }

    /// Brings the first lines of an entry near: a value of a few hundred bytes with its key.
    #[inline]
    pub(super) fn touch(&self, at: Staged) {
        let bytes = self.chunks[at.chunk() as usize].bytes();
        touch_lines(&bytes[at.offset()..], TOUCHED_BYTES);
    }

    /// Brings near the latest entries of the keys that have these first ones.
    pub(super) fn touch_latest(&self, firsts: &[Staged]) {
        firsts.iter().for_each(|&first| self.touch_key(first));
        firsts.iter().for_each(|&first| self.touch(self.link(first)));
    }

    /// The place of an entry in the index's order.
    #[inline]
    pub(super) fn probe(&self, at: Staged) -> Probe<'_> {
        let (header, body) = self.parts(at);
        Probe::new(word(header, GROUP), &body[..key_bytes(header)])
    }

    /// Whether this is an entry of the key.
    #[inline]
    pub(super) fn is_of(&self, at: Staged, group: u32, key: &[u8]) -> bool {
        let (header, body) = self.parts(at);
        word(header, GROUP) == group && &body[..key_bytes(header)] == key
    }

    /// Compares an entry with a place in the order, by all their bytes.
    #[inline]
    pub(super) fn compare(&self, at: Staged, probe: &Probe<'_>) -> Ordering {
        let (header, body) = self.parts(at);
        (word(header, GROUP), &body[..key_bytes(header)]).cmp(&(probe.group, probe.key))
    }
}

#[inline]
fn key_bytes(header: &[u8; HEADER_BYTES]) -> usize {
    usize::from(u16::from_le_bytes([header[KEY_BYTES], header[KEY_BYTES + 1]]))
}

#[inline]
fn word(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"))
}
