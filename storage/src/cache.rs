//! The page cache: the shard's pages in memory, within a fixed budget.
//!
//! ```text
//!             begin_read            finish_read (validated)         take_frame
//!   absent ───────────────► reading ─────────────► clean ◄──┐        │
//!     ▲                        │ damage              │      │        ▼ insert
//!     └────────────────────────┴─────── evict ◄──────┘      │      dirty
//!                                        (CLOCK)            │        │ next_write
//!                                            finish_write ──┴─ writing (copied, still readable)
//! ```
//!
//! Pages are read and used in place; a page is validated once, when it enters. Eviction is CLOCK:
//! a hand passes over the frames and takes the first clean, unpinned one that was not used since it
//! last passed. An interior page has more chances than a leaf: it leads to a hundred of them, so to miss
//! it costs another read of a leaf's price. The first use of a page, by whoever had it read, gives it
//! none. Dirty pages are written from copies, so that they stay readable meanwhile and
//! neighbours leave in one larger write; a frame stays until its write is done.
//!
//! Memory: single blocks come from one arena and are recycled without the allocator; larger extents
//! come from the allocator and are charged one block more than they hold. Buffers in use, free ones
//! that hold memory, and the cache's own tables stay within the budget; beside it stand only the
//! write buffers ([`WRITE_MEMORY_BYTES`]; an extent larger than a write buffer is copied for its
//! write alone, one at a time).
//!
//! Invariants: `resident_bytes <= budget_bytes`; a page id is in the map for exactly one frame,
//! which is not free; pinned, dirty, writing and reading frames are never evicted.
//!
//! Left out: scan resistance beyond that. A scan longer than the cache clears it of leaves that are
//! used less than once a pass.
//!
//! Source: Corbató, "A Paging Experiment with the Multics System" (1968), for CLOCK.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use forebay_core::ids::{IdMap, ShardId};

use crate::block::{
    BLOCK_BYTES, BlockArena, BlockBuf, DiskDone, DiskError, DiskOp, Durability, OpId, ShardFile,
};
use crate::touch::touch;
use crate::tree::page::{self, PageError};
use crate::tree::{LEVEL_OVERFLOW, PageRef, page::OVERFLOW_BLOCKS_MAX};

mod table;

use table::PageTable;

/// Blocks that one write carries at most, unless a single extent is larger.
pub const WRITE_BLOCKS: usize = 32;
/// Writes in flight at most.
pub const WRITES_MAX: usize = 16;
/// Memory beside the budget (and up to one huge page of 2 MiB, where the arena ends in one).
pub const WRITE_MEMORY_BYTES: usize =
    (WRITES_MAX * WRITE_BLOCKS + OVERFLOW_BLOCKS_MAX) * BLOCK_BYTES;
/// Smallest budget: room for a merge's path and one largest extent of each of two kinds in flight.
pub const BUDGET_BYTES_MIN: usize = 64 * BLOCK_BYTES;

/// What the tables cost for each block of budget: a frame and its share of the map.
const TABLE_BYTES_PER_BLOCK: usize = 208;
const _: () = assert!(
    size_of::<Frame>() + table::BYTES_PER_PAGE + 8 + 2 * size_of::<BlockBuf>()
        <= TABLE_BYTES_PER_BLOCK,
    "a frame, its share of the map, its places in the lists"
);

/// Passes that a leaf or an item survives after it was used again.
const LEAF_CHANCES: u8 = 1;
/// Passes that an interior page survives after it was used again.
const INTERIOR_CHANCES: u8 = 4;
/// Nobody has used the page since it entered.
const UNUSED: u8 = u8::MAX;

/// A frame by its index; valid while the frame is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameId(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// The buffer is with the device, under [`Frame::read`].
    Reading,
    Clean,
    /// In the write queue.
    Dirty,
    /// A copy is with the device.
    Writing,
}

/// A cache line of its own, since a lookup reads it.
#[repr(align(64))]
struct Frame {
    buf: Option<BlockBuf>,
    page: PageRef,
    read: OpId,
    pins: u32,
    state: State,
    /// Passes of the hand that the page survives.
    chances: Cell<u8>,
    /// Its page id now belongs to another frame: freed as soon as its operation ends.
    orphan: bool,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Pages found.
    pub hits: u64,
    /// Pages that were absent when asked for.
    pub misses: u64,
    /// Pages dropped to make room.
    pub evictions: u64,
    /// Frames whose write has not completed.
    pub dirty_frames: u64,
    /// Frames holding pages.
    pub frames: u64,
    /// Memory in use, tables included.
    pub resident_bytes: u64,
}

/// The start of a read.
#[derive(Debug)]
pub enum ReadStart {
    /// Carry this out, and bring the end of it to [`PageCache::finish_read`].
    Started(DiskOp),
    /// This operation is already bringing the page: wait for its end.
    InFlight(OpId),
    /// The page is in the cache.
    Cached,
    /// Every frame is dirty, pinned or in flight: try again when any operation has ended.
    Full,
}

/// Why a read brought no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The device failed: the bytes may be fine, the path to them is not. Step down and repair.
    #[error("page {}: {error}", page.id)]
    Disk {
        /// The page asked for.
        page: PageRef,
        /// The device's answer.
        error: DiskError,
    },
    /// The bytes are not the page: damage. Repair from a peer, count it, suspect the device.
    #[error(transparent)]
    Damage(#[from] PageError),
}

/// The shard's pages in memory.
pub struct PageCache {
    shard: ShardId,
    budget_bytes: usize,
    resident_bytes: usize,
    arena: Arc<BlockArena>,
    frames: Vec<Frame>,
    free_frames: Vec<u32>,
    /// Single blocks that hold memory.
    warm: Vec<BlockBuf>,
    /// Single blocks whose memory was given back.
    cold: Vec<BlockBuf>,
    map: PageTable,
    reads: IdMap<u64, u32>,
    hand: usize,
    write_queue: VecDeque<u32>,
    write_bufs: Vec<BlockBuf>,
    write_bufs_made: usize,
    large_write: bool,
    writes: IdMap<u64, Vec<u32>>,
    spare_lists: Vec<Vec<u32>>,
    dirty_frames: u64,
    /// Of frames that cannot be evicted until an operation ends.
    dirty_bytes: usize,
    reading_bytes: usize,
    evictions: u64,
    hits: Cell<u64>,
    misses: Cell<u64>,
}

impl PageCache {
    /// A cache of `budget_bytes` for the pages of `shard`.
    ///
    /// # Errors
    /// The system's own, when it refuses the address space.
    pub fn new(shard: ShardId, budget_bytes: usize) -> std::io::Result<PageCache> {
        assert!(budget_bytes >= BUDGET_BYTES_MIN, "the smallest cache is {BUDGET_BYTES_MIN} bytes");
        let blocks = budget_bytes / (BLOCK_BYTES + TABLE_BYTES_PER_BLOCK);
        Ok(PageCache {
            shard,
            budget_bytes: blocks * BLOCK_BYTES,
            resident_bytes: 0,
            arena: BlockArena::reserve(blocks)?,
            frames: Vec::with_capacity(blocks),
            free_frames: Vec::with_capacity(blocks),
            warm: Vec::new(),
            cold: Vec::new(),
            map: PageTable::new(blocks),
            reads: IdMap::default(),
            hand: 0,
            write_queue: VecDeque::new(),
            write_bufs: Vec::with_capacity(WRITES_MAX),
            write_bufs_made: 0,
            large_write: false,
            writes: IdMap::default(),
            spare_lists: Vec::new(),
            dirty_frames: 0,
            dirty_bytes: 0,
            reading_bytes: 0,
            evictions: 0,
            hits: Cell::new(0),
            misses: Cell::new(0),
        })
    }

    /// Takes all of the budget's memory from the system now, rather than under load. To be called on
    /// the thread that will use it, so that it is near that thread's core.
    pub fn populate(&mut self) {
        self.arena.populate();
        let first = self.warm.len();
        self.warm.extend(std::iter::from_fn(|| self.arena.next_block()));
        self.resident_bytes += (self.warm.len() - first) * BLOCK_BYTES;
        // Taken from the end: neighbours in order, so that little is spread over few huge pages.
        self.warm[first..].reverse();
    }

    /// The shard whose pages these are.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Figures for metrics.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let tables = self.frames.capacity() * TABLE_BYTES_PER_BLOCK;
        CacheStats {
            hits: self.hits.get(),
            misses: self.misses.get(),
            evictions: self.evictions,
            dirty_frames: self.dirty_frames,
            frames: (self.frames.len() - self.free_frames.len()) as u64,
            resident_bytes: (self.resident_bytes + tables) as u64,
        }
    }

    /// Blocks that the budget holds.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.budget_bytes / BLOCK_BYTES
    }

    /// Blocks that are neither dirty nor being read: what reading ahead may spread over.
    #[must_use]
    pub fn room_blocks(&self) -> usize {
        self.budget_bytes.saturating_sub(self.dirty_bytes + self.reading_bytes) / BLOCK_BYTES
    }

    /// Bytes of pages that the device does not have yet.
    #[must_use]
    pub fn unwritten_bytes(&self) -> usize {
        self.dirty_bytes
    }

    /// Whether unwritten pages hold half of the budget: whoever makes more should wait for writes,
    /// so that reads keep the other half.
    #[must_use]
    pub fn is_half_dirty(&self) -> bool {
        self.dirty_bytes > self.budget_bytes / 2
    }

    /// The page's bytes, if they are here.
    #[inline]
    #[must_use]
    pub fn get(&self, page: &PageRef) -> Option<&[u8]> {
        match self.find(page) {
            Some(index) => {
                let frame = &self.frames[index as usize];
                self.hits.set(self.hits.get() + 1);
                let interior = (1..LEVEL_OVERFLOW).contains(&page.level);
                let chances = if interior { INTERIOR_CHANCES } else { LEAF_CHANCES };
                if frame.chances.get() != chances {
                    // Who had the page read is not yet a second user.
                    let first_use = frame.chances.get() == UNUSED;
                    frame.chances.set(if first_use { 0 } else { chances });
                }
                frame.buf.as_deref()
            }
            None => {
                self.misses.set(self.misses.get() + 1);
                None
            }
        }
    }

    /// Brings near what [`PageCache::get`] looks at for each of several pages.
    #[inline]
    pub fn touch<'p>(&self, pages: impl Iterator<Item = &'p PageRef> + Clone) {
        pages.clone().for_each(|page| self.map.touch(page.id));
        for page in pages {
            if let Some((index, _)) = self.map.get(page.id) {
                touch(&self.frames[index as usize]);
            }
        }
    }

    /// The frame that holds exactly this version of the page.
    #[inline]
    fn find(&self, page: &PageRef) -> Option<u32> {
        let (index, crc) = self.map.get(page.id)?;
        if crc != page.crc {
            return None;
        }
        let frame = &self.frames[index as usize];
        (frame.page == *page && frame.state != State::Reading).then_some(index)
    }

    /// Whether the page is here or on its way.
    #[must_use]
    pub fn expects(&self, page: &PageRef) -> bool {
        self.map.get(page.id).is_some_and(|(index, _)| self.frames[index as usize].page == *page)
    }

    /// Whether the page can be used at once; does not count as a use.
    #[must_use]
    pub fn contains(&self, page: &PageRef) -> bool {
        self.find(page).is_some()
    }

    /// Keeps the page's frame until [`PageCache::unpin`]; None if the page is absent.
    pub fn pin(&mut self, page: &PageRef) -> Option<FrameId> {
        let index = self.find(page)?;
        self.frames[index as usize].pins += 1;
        Some(FrameId(index))
    }

    /// The bytes of a pinned page.
    #[inline]
    #[must_use]
    pub fn pinned(&self, frame: FrameId) -> &[u8] {
        let frame = &self.frames[frame.0 as usize];
        assert!(frame.pins > 0, "a frame index is valid only while pinned");
        frame.buf.as_deref().expect("a pinned frame has its buffer")
    }

    /// Ends a [`PageCache::pin`].
    pub fn unpin(&mut self, id: FrameId) {
        let frame = &mut self.frames[id.0 as usize];
        assert!(frame.pins > 0);
        frame.pins -= 1;
        if frame.pins == 0 && frame.orphan && frame.state == State::Clean {
            self.release(id.0);
        }
    }

    /// Starts reading a page, unless it is here or on its way.
    pub fn begin_read(&mut self, page: &PageRef, op: OpId) -> ReadStart {
        if let Some((index, _)) = self.map.get(page.id) {
            let frame = &self.frames[index as usize];
            if frame.page == *page {
                return match frame.state {
                    State::Reading => ReadStart::InFlight(frame.read),
                    _ => ReadStart::Cached,
                };
            }
            // Another version has the frame: an old one that nobody refers to any more, or the
            // reference is damaged, which validation will say.
            if matches!(frame.state, State::Dirty | State::Writing) {
                return ReadStart::Full;
            }
            self.detach(index);
        }
        let Some(buf) = self.take_frame(usize::from(page.blocks)) else { return ReadStart::Full };
        self.reading_bytes += buf.len();
        let index = self.place(*page, None, State::Reading);
        self.frames[index as usize].read = op;
        let before = self.reads.insert(op.0, index);
        assert!(before.is_none(), "operation ids are not reused while in flight");
        let offset_bytes = page.id * BLOCK_BYTES as u64;
        ReadStart::Started(DiskOp::Read { op, file: ShardFile::Pages, offset_bytes, buf })
    }

    /// Whether this operation is one of the cache's reads.
    #[must_use]
    pub fn owns_read(&self, op: OpId) -> bool {
        self.reads.contains_key(&op.0)
    }

    /// The page that this read is bringing.
    #[must_use]
    pub fn page_of_read(&self, op: OpId) -> PageRef {
        self.frames[self.reads[&op.0] as usize].page
    }

    /// Takes the end of a read. Ok: the page is here (or was replaced meanwhile); whoever waited
    /// runs again.
    ///
    /// # Errors
    /// The page could not be read or is damaged; it is not in the cache.
    pub fn finish_read(&mut self, done: DiskDone) -> Result<PageRef, ReadError> {
        let index = self.reads.remove(&done.op.0).expect("a read that this cache began");
        let buf = done.buf.expect("a read brings its buffer back");
        self.reading_bytes -= buf.len();
        let frame = &mut self.frames[index as usize];
        assert!(frame.state == State::Reading && frame.read == done.op);
        let (page, orphan) = (frame.page, frame.orphan);
        assert_eq!(buf.blocks(), usize::from(page.blocks));
        let outcome = match done.result {
            Ok(()) => page::validate(&buf, &page, self.shard).map_err(ReadError::from),
            Err(error) => Err(ReadError::Disk { page, error }),
        };
        frame.buf = Some(buf);
        frame.state = State::Clean;
        if orphan || outcome.is_err() {
            self.release(index);
        }
        if orphan { Ok(page) } else { outcome.map(|()| page) }
    }

    /// An empty buffer of `blocks` blocks within the budget, evicting as needed; None if everything
    /// is dirty, pinned or in flight. It comes back by [`PageCache::insert`] or
    /// [`PageCache::give_back`].
    pub fn take_frame(&mut self, blocks: usize) -> Option<BlockBuf> {
        if blocks == 1 {
            if let Some(buf) = self.warm.pop() {
                return Some(buf);
            }
            while self.resident_bytes + BLOCK_BYTES > self.budget_bytes {
                self.evict()?;
                if let Some(buf) = self.warm.pop() {
                    return Some(buf);
                }
            }
            let buf = self.cold.pop().or_else(|| self.arena.next_block());
            self.resident_bytes += BLOCK_BYTES;
            return Some(buf.expect("the arena has as many blocks as the budget"));
        }
        let cost = charged_bytes(blocks);
        while self.resident_bytes + cost > self.budget_bytes {
            match self.warm.pop() {
                Some(mut buf) => {
                    let gone = buf.discard();
                    assert!(
                        gone,
                        "warm blocks are the arena's, and their memory can be given back"
                    );
                    self.resident_bytes -= BLOCK_BYTES;
                    self.cold.push(buf);
                }
                None => self.evict()?,
            }
        }
        self.resident_bytes += cost;
        Some(BlockBuf::zeroed(blocks))
    }

    /// Returns a buffer of [`PageCache::take_frame`] unused.
    pub fn give_back(&mut self, buf: BlockBuf) {
        if buf.blocks() == 1 {
            self.warm.push(buf);
        } else {
            self.resident_bytes -= charged_bytes(buf.blocks());
        }
    }

    /// Adds a new page, to be written. Its id was free; an older page in its place is dropped.
    pub fn insert(&mut self, page: PageRef, buf: BlockBuf) {
        assert_eq!(buf.blocks(), usize::from(page.blocks));
        debug_assert_eq!(page::validate(&buf, &page, self.shard), Ok(()));
        if let Some((old, _)) = self.map.get(page.id) {
            let state = self.frames[old as usize].state;
            assert!(
                !matches!(state, State::Dirty | State::Writing),
                "reused before it was written"
            );
            self.detach(old);
        }
        self.dirty_frames += 1;
        self.dirty_bytes += buf.len();
        let index = self.place(page, Some(buf), State::Dirty);
        self.write_queue.push_back(index);
    }

    /// Drops a page that no tree holds any more, if it is here; a new page that was not yet written
    /// need not be.
    pub fn forget(&mut self, id: u64) {
        if let Some((index, _)) = self.map.get(id) {
            self.detach(index);
        }
    }

    /// The next write of dirty pages, oldest first, neighbours together; None when there is none or
    /// all write buffers are in flight. A later flush must make it durable.
    pub fn next_write(&mut self, op: OpId) -> Option<DiskOp> {
        while self.write_queue.front().is_some_and(|&i| !self.wants_write(i)) {
            let index = self.write_queue.pop_front().expect("looked at above");
            self.end_write(index); // An orphan: nobody will read it.
        }
        let first = *self.write_queue.front()?;
        let first_page = self.frames[first as usize].page;
        let large = usize::from(first_page.blocks) > WRITE_BLOCKS;
        let mut buf = if large {
            if self.large_write {
                return None;
            }
            self.large_write = true;
            BlockBuf::zeroed(usize::from(first_page.blocks))
        } else {
            self.take_write_buf()?
        };
        let mut list = self.spare_lists.pop().unwrap_or_default();
        let mut bytes = 0;
        while let Some(&index) = self.write_queue.front() {
            let frame = &mut self.frames[index as usize];
            let source = frame.buf.as_deref().expect("a dirty frame has its buffer");
            let adjacent = frame.page.id == first_page.id + (bytes / BLOCK_BYTES) as u64;
            if !adjacent || bytes + source.len() > buf.len() || frame.orphan {
                break;
            }
            buf[bytes..bytes + source.len()].copy_from_slice(source);
            bytes += source.len();
            frame.state = State::Writing;
            list.push(index);
            self.write_queue.pop_front();
        }
        let before = self.writes.insert(op.0, list);
        assert!(before.is_none(), "operation ids are not reused while in flight");
        Some(DiskOp::Write {
            op,
            file: ShardFile::Pages,
            offset_bytes: first_page.id * BLOCK_BYTES as u64,
            buf,
            bytes,
            durability: Durability::Volatile,
        })
    }

    /// Whether the next write would not become longer by waiting for more pages: it is as long as a
    /// write gets, or what follows lies elsewhere.
    #[must_use]
    pub fn has_whole_write(&self) -> bool {
        let mut frames = self.write_queue.iter().map(|&index| &self.frames[index as usize]);
        let Some(first) = frames.next() else { return false };
        let mut blocks = usize::from(first.page.blocks);
        for frame in frames {
            if blocks >= WRITE_BLOCKS || frame.page.id != first.page.id + blocks as u64 {
                return true;
            }
            blocks += usize::from(frame.page.blocks);
        }
        blocks >= WRITE_BLOCKS
    }

    fn wants_write(&self, index: u32) -> bool {
        !self.frames[index as usize].orphan
    }

    fn take_write_buf(&mut self) -> Option<BlockBuf> {
        if let Some(buf) = self.write_bufs.pop() {
            return Some(buf);
        }
        if self.write_bufs_made == WRITES_MAX {
            return None;
        }
        self.write_bufs_made += 1;
        Some(BlockBuf::zeroed(WRITE_BLOCKS))
    }

    /// Whether this operation is one of the cache's writes.
    #[must_use]
    pub fn owns_write(&self, op: OpId) -> bool {
        self.writes.contains_key(&op.0)
    }

    /// Takes the end of a write. When [`PageCache::is_written`] then holds, a flush makes all of it
    /// durable.
    ///
    /// # Errors
    /// The device failed. Final: the checkpoint cannot complete, and the shard must recover.
    pub fn finish_write(&mut self, done: DiskDone) -> Result<(), DiskError> {
        let mut list = self.writes.remove(&done.op.0).expect("a write that this cache began");
        let buf = done.buf.expect("a write brings its buffer back");
        if buf.blocks() == WRITE_BLOCKS {
            self.write_bufs.push(buf);
        } else {
            self.large_write = false;
        }
        for index in list.drain(..) {
            if done.result.is_ok() {
                self.end_write(index);
            } else {
                self.frames[index as usize].state = State::Dirty;
                self.write_queue.push_back(index);
            }
        }
        self.spare_lists.push(list);
        done.result
    }

    fn end_write(&mut self, index: u32) {
        let frame = &mut self.frames[index as usize];
        assert!(matches!(frame.state, State::Dirty | State::Writing));
        frame.state = State::Clean;
        self.dirty_frames -= 1;
        self.dirty_bytes -= usize::from(frame.page.blocks) * BLOCK_BYTES;
        if frame.orphan && frame.pins == 0 {
            self.release(index);
        }
    }

    /// Whether every new page has been written (not yet flushed).
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.dirty_frames == 0
    }

    fn place(&mut self, page: PageRef, buf: Option<BlockBuf>, state: State) -> u32 {
        let frame = Frame {
            buf,
            page,
            read: OpId(0),
            pins: 0,
            state,
            chances: Cell::new(UNUSED),
            orphan: false,
        };
        let index = match self.free_frames.pop() {
            Some(index) => {
                self.frames[index as usize] = frame;
                index
            }
            None => {
                self.frames.push(frame);
                (self.frames.len() - 1) as u32
            }
        };
        self.map.insert(page.id, page.crc, index);
        index
    }

    /// Takes a frame out of the map, now if nothing uses it, else as soon as nothing does.
    fn detach(&mut self, index: u32) {
        let frame = &mut self.frames[index as usize];
        self.map.remove(frame.page.id);
        frame.orphan = true;
        if frame.state == State::Clean && frame.pins == 0 {
            self.release(index);
        }
    }

    fn release(&mut self, index: u32) {
        let frame = &mut self.frames[index as usize];
        assert!(frame.state == State::Clean && frame.pins == 0);
        let buf = frame.buf.take().expect("a clean frame has its buffer");
        if !frame.orphan {
            self.map.remove(frame.page.id);
        }
        frame.state = State::Free;
        self.free_frames.push(index);
        self.give_back(buf);
    }

    /// Frees one frame; None if two turns of the hand find none.
    fn evict(&mut self) -> Option<()> {
        for _ in 0..(1 + usize::from(INTERIOR_CHANCES)) * self.frames.len() {
            let index = self.hand;
            self.hand = if index + 1 == self.frames.len() { 0 } else { index + 1 };
            let frame = &self.frames[index];
            if frame.state != State::Clean || frame.pins > 0 {
                continue;
            }
            let chances = frame.chances.get();
            if !matches!(chances, 0 | UNUSED) {
                frame.chances.set(chances - 1);
                continue;
            }
            self.release(index as u32);
            self.evictions += 1;
            return Some(());
        }
        None
    }
}

/// What an extent of several blocks costs: the allocator's alignment may waste a block.
fn charged_bytes(blocks: usize) -> usize {
    (blocks + 1) * BLOCK_BYTES
}

#[cfg(test)]
mod tests;
