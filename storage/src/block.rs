//! Block I/O as data: aligned buffers, and the reads, writes and flushes that move them.
//!
//! A buffer belongs to the operation from the moment the operation is handed out until its
//! completion brings the buffer back; the type system says so, because [`DiskOp`] and [`DiskDone`]
//! own it. The shell (ring or simulator) fills in results and decides nothing.
//!
//! ```text
//!   state machine --DiskOp{buf}--> shell --io_uring--> device
//!   state machine <--DiskDone{buf}-- shell <-----------'
//! ```
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Unit of alignment, of page ids, and of every device address here. 4 KiB is the physical block
/// of the NVMe devices this is built for, and a multiple of every older one.
pub const BLOCK_BYTES: usize = 4096;

/// What one entry of the processor's translation tables can cover, on x86_64 and on aarch64 with
/// 4 KiB pages.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Names an operation in flight; chosen by whoever asks, returned in [`DiskDone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// The files of one shard. Both are opened with O_DIRECT and are preallocated or grown by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ShardFile {
    /// The log: a fixed, prewritten ring of segments.
    Log,
    /// Pages of all the shard's trees, its superblocks and its space map.
    Pages,
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the device has the data, perhaps in a volatile cache; a later flush makes it durable.
    Volatile,
    /// When the data would survive a power cut (RWF_DSYNC or a linked fdatasync, as probed).
    Durable,
}

/// One operation for the shell. Offsets and lengths are multiples of [`BLOCK_BYTES`].
#[derive(Debug)]
pub enum DiskOp {
    /// Read `buf.len()` bytes at `offset_bytes`.
    Read {
        /// Returned with the completion.
        op: OpId,
        /// Where from.
        file: ShardFile,
        /// Position in the file.
        offset_bytes: u64,
        /// Filled by the read; owned by it until then.
        buf: BlockBuf,
    },
    /// Write the first `bytes` of `buf` at `offset_bytes`.
    Write {
        /// Returned with the completion.
        op: OpId,
        /// Where to.
        file: ShardFile,
        /// Position in the file.
        offset_bytes: u64,
        /// The data; owned by the write until its completion.
        buf: BlockBuf,
        /// How much of `buf` to write.
        bytes: usize,
        /// When it counts as done.
        durability: Durability,
    },
    /// Make every completed write of `file` durable.
    Flush {
        /// Returned with the completion.
        op: OpId,
        /// Which file.
        file: ShardFile,
    },
    /// Make the file at least this long. The new space reads as zeros.
    Grow {
        /// Returned with the completion.
        op: OpId,
        /// Which file.
        file: ShardFile,
        /// Its new length.
        file_bytes: u64,
    },
}

impl DiskOp {
    /// Which file it is about.
    #[must_use]
    pub const fn file(&self) -> ShardFile {
        match self {
            DiskOp::Read { file, .. }
            | DiskOp::Write { file, .. }
            | DiskOp::Flush { file, .. }
            | DiskOp::Grow { file, .. } => *file,
        }
    }
}

/// The end of an operation. A short transfer is an error here: the shell finishes partial
/// transfers itself or fails them.
#[derive(Debug)]
pub struct DiskDone {
    /// Which operation.
    pub op: OpId,
    /// The buffer that the operation owned, if it had one.
    pub buf: Option<BlockBuf>,
    /// Success, or the errno of the failure.
    pub result: Result<(), DiskError>,
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", std::io::Error::from_raw_os_error(*errno))]
pub struct DiskError {
    /// The operating system's number for it.
    pub errno: i32,
}

/// A buffer aligned to [`BLOCK_BYTES`] whose length is a multiple of it.
///
/// Invariants: `ptr` is valid for `len` bytes, aligned, and owned by this value alone. With a
/// `home`, the bytes are one block of that arena, handed out once; otherwise they are a mapping of
/// `map_huge` where `len` is a multiple of huge pages, and the allocator's where it is not.
pub struct BlockBuf {
    ptr: NonNull<u8>,
    len: usize,
    home: Option<Arc<BlockArena>>,
    /// Index among the ring's registered buffers, where the whole of this buffer is registered.
    registered: Option<u16>,
}

// SAFETY: a BlockBuf owns its memory alone; there is no shared state behind the pointer.
unsafe impl Send for BlockBuf {}

impl BlockBuf {
    /// A zeroed buffer of `blocks` blocks; of huge pages, if it is as long as some and the kernel
    /// grants them.
    #[must_use]
    pub fn zeroed(blocks: usize) -> BlockBuf {
        assert!(blocks > 0);
        let len = blocks * BLOCK_BYTES;
        let ptr = if len.is_multiple_of(HUGE_PAGE_BYTES) {
            map_huge(len)
        } else {
            let layout = Self::layout(len);
            // SAFETY: the layout's size is not zero, as asserted.
            let raw = unsafe { alloc_zeroed(layout) };
            NonNull::new(raw).unwrap_or_else(|| handle_alloc_error(layout))
        };
        BlockBuf { ptr, len, home: None, registered: None }
    }

    /// Marks the buffer as the ring's registered buffer `index`. The caller has registered exactly
    /// this memory with the ring that will carry its operations.
    pub fn set_registered(&mut self, index: u16) {
        self.registered = Some(index);
    }

    /// The ring's index for this buffer, if it is a registered one.
    #[must_use]
    pub fn registered(&self) -> Option<u16> {
        self.registered
    }

    /// Length in blocks.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.len / BLOCK_BYTES
    }

    /// Gives the memory of an arena's block back to the system until it is next touched, when it
    /// reads as zeros; returns whether it did. An allocator's buffer is given back by dropping it.
    pub fn discard(&mut self) -> bool {
        let Some(home) = &self.home else { return false };
        if home.huge.swap(false, Ordering::Relaxed) {
            // From here on, no huge page may fill the gaps again.
            home.advise(libc::MADV_NOHUGEPAGE);
        }
        // SAFETY: the range is this value's own, page-aligned part of a private anonymous mapping;
        // after the call it reads as zeros, which are initialised bytes.
        let result =
            unsafe { libc::madvise(self.ptr.as_ptr().cast(), self.len, libc::MADV_DONTNEED) };
        result == 0
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, BLOCK_BYTES).expect("a block buffer's size fits a layout")
    }
}

impl Deref for BlockBuf {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: by the invariant, ptr is valid for len initialised bytes.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl DerefMut for BlockBuf {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for Deref, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for BlockBuf {
    fn drop(&mut self) {
        if self.home.is_some() {
            return; // The arena goes when its last block does.
        }
        if self.len.is_multiple_of(HUGE_PAGE_BYTES) {
            // SAFETY: ptr and len are a mapping of `map_huge`, which is this value's alone.
            unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len) };
            return;
        }
        // SAFETY: ptr came from alloc_zeroed with this layout.
        unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.len)) }
    }
}

impl std::fmt::Debug for BlockBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockBuf")
            .field("bytes", &self.len)
            .field("registered", &self.registered)
            .finish()
    }
}

/// Tells the kernel how to back the caller's own memory; never advice that changes contents. A
/// refusal only costs speed.
fn advise(ptr: NonNull<u8>, len: usize, advice: libc::c_int) {
    debug_assert_ne!(advice, libc::MADV_DONTNEED);
    // SAFETY: whole pages of the caller's own, and neither huge-page advice nor a touch of all the
    // pages changes contents.
    unsafe { libc::madvise(ptr.as_ptr().cast(), len, advice) };
}

/// A mapping of its own for whole huge pages, zeros. An allocator's would be cleared twice, by the
/// kernel at the first touch and then again, and leave a gap as long as a huge page before the next one.
fn map_huge(len: usize) -> NonNull<u8> {
    let padded = len + HUGE_PAGE_BYTES - BLOCK_BYTES;
    let Ok(begin) = map(padded, 0) else {
        handle_alloc_error(Layout::from_size_align(len, HUGE_PAGE_BYTES).expect("a buffer's size"))
    };
    let before = begin.as_ptr().align_offset(HUGE_PAGE_BYTES);
    // SAFETY: within the mapping, which is long enough for the buffer wherever it began.
    let (ptr, end) = unsafe { (begin.add(before), begin.add(before + len)) };
    for (gap, bytes) in [(begin, before), (end, padded - before - len)] {
        if bytes > 0 {
            // SAFETY: whole pages of the mapping made above, beside those that are used.
            unsafe { libc::munmap(gap.as_ptr().cast(), bytes) };
        }
    }
    // Before the first touch, which decides the size of the pages.
    advise(ptr, len, libc::MADV_HUGEPAGE);
    ptr
}

/// A new private mapping, zeros.
fn map(len: usize, flags: libc::c_int) -> std::io::Result<NonNull<u8>> {
    let (access, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags);
    // SAFETY: a new anonymous mapping, aliasing nothing.
    let raw = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0) };
    if raw == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    Ok(NonNull::new(raw.cast()).expect("the system maps nothing at address zero"))
}

/// One mapping cut into single blocks. Aligned 4 KiB allocations cost the ordinary allocator a
/// second page each; blocks of an arena cost nothing beside themselves, and memory that was never
/// touched (or was given back with [`BlockBuf::discard`]) costs nothing at all. Huge pages, where
/// the kernel grants them, save most of the address translation of random lookups.
pub struct BlockArena {
    ptr: NonNull<u8>,
    blocks: usize,
    /// Blocks handed out so far; each index is handed out once.
    next: AtomicUsize,
    /// The kernel may use huge pages: true until memory is given back block by block.
    huge: AtomicBool,
}

// SAFETY: the arena itself never reads or writes its memory; each block is owned by one BlockBuf.
unsafe impl Send for BlockArena {}
// SAFETY: as above; the only shared state is atomic.
unsafe impl Sync for BlockArena {}

impl BlockArena {
    /// Reserves address space for `blocks` blocks.
    ///
    /// # Errors
    /// The system's own, when it refuses the mapping: ask for less memory.
    pub fn reserve(blocks: usize) -> std::io::Result<Arc<BlockArena>> {
        assert!(blocks > 0);
        let ptr = map(blocks * BLOCK_BYTES, libc::MAP_NORESERVE)?;
        let (next, huge) = (AtomicUsize::new(0), AtomicBool::new(true));
        let arena = BlockArena { ptr, blocks, next, huge };
        arena.advise(libc::MADV_HUGEPAGE);
        Ok(Arc::new(arena))
    }

    /// Has the kernel back all of the arena now. A first touch under load costs the time to clear
    /// a huge page: measured, a sixth of a shard's time while a new node filled its cache.
    pub fn populate(&self) {
        self.advise(libc::MADV_POPULATE_WRITE);
    }

    fn advise(&self, advice: libc::c_int) {
        advise(self.ptr, self.blocks * BLOCK_BYTES, advice);
    }

    /// The next block that was never handed out; None when there is none left.
    #[must_use]
    pub fn next_block(self: &Arc<Self>) -> Option<BlockBuf> {
        let index = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                (next < self.blocks).then_some(next + 1)
            })
            .ok()?;
        // SAFETY: index < blocks, so the block lies within the mapping; it is handed out only here
        // and only once, so the BlockBuf owns it alone. Pages of a mapping are block-aligned.
        let ptr = unsafe { self.ptr.add(index * BLOCK_BYTES) };
        Some(BlockBuf { ptr, len: BLOCK_BYTES, home: Some(Arc::clone(self)), registered: None })
    }
}

impl Drop for BlockArena {
    fn drop(&mut self) {
        // SAFETY: the mapping is the one made in `reserve`; no BlockBuf of it remains, since each
        // holds an Arc of the arena.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.blocks * BLOCK_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arena_blocks_are_distinct_aligned_zeroed_and_outlive_the_handle() {
        let arena = BlockArena::reserve(3).unwrap();
        let mut blocks: Vec<BlockBuf> = std::iter::from_fn(|| arena.next_block()).collect();
        drop(arena);
        assert_eq!(blocks.len(), 3);
        for (i, block) in blocks.iter_mut().enumerate() {
            assert_eq!(block.as_ptr() as usize % BLOCK_BYTES, 0);
            assert!(block.iter().all(|&b| b == 0));
            block.fill(i as u8 + 1);
        }
        assert!(blocks.iter().enumerate().all(|(i, b)| b.iter().all(|&x| x == i as u8 + 1)));
        assert!(blocks[1].discard());
        assert!(blocks[1].iter().all(|&b| b == 0));
        assert!(!BlockBuf::zeroed(1).discard());
    }

    #[test]
    fn buffers_of_huge_pages_are_aligned_zeroed_and_apart() {
        let blocks = HUGE_PAGE_BYTES / BLOCK_BYTES;
        let mut bufs: Vec<BlockBuf> =
            (1..8).map(|n| BlockBuf::zeroed(n % 3 * blocks + blocks)).collect();
        for (n, buf) in bufs.iter_mut().enumerate() {
            assert_eq!(buf.as_ptr() as usize % HUGE_PAGE_BYTES, 0);
            assert!(buf.iter().all(|&b| b == 0));
            buf.fill(n as u8 + 1);
        }
        bufs.remove(2);
        assert!(bufs[1..].iter().all(|buf| buf.iter().all(|&b| b == buf[0] && b != 0)));
    }
}
