//! Memory that the kernel fills by itself: the provided buffer ring of multishot receives.
//!
//! ```text
//!             tail (published once a turn)
//!               v
//!   entries: [ id 3 ][ id 7 ][ id 0 ] ...      a ring of descriptors, shared with the kernel
//!   data:    | buffer 0 | buffer 1 | ...       one allocation, equal buffers
//! ```
//!
//! The kernel takes a buffer only when bytes have arrived, so idle connections hold no memory. A
//! buffer is ours from the completion that names it until it is given back; the machine sees it
//! only during `received`, so all buffers are back before the next system call. Running out within
//! one system call is normal (the receive ends with ENOBUFS and is armed again).
//!
//! The shard's I/O pool is the other such memory: registered once, so that reads and writes skip the
//! page walk ([`register_pool`]).
//!
//! Invariants: `entries` and `data` outlive the registration (the ring unregisters or is torn down
//! first); each id is either in the shared ring or held by a completion being handled.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use forebay_storage::block::BlockBuf;

use super::error::RingError;

/// The buffer group's number; a ring has one.
pub(super) const GROUP: u16 = 0;

const PAGE_BYTES: usize = 4096;

/// Page-aligned zeroed memory.
#[derive(Debug)]
struct Pages {
    ptr: NonNull<u8>,
    layout: Layout,
    leaked: bool,
}

impl Pages {
    fn zeroed(bytes: usize) -> Pages {
        let layout = Layout::from_size_align(bytes.max(1), PAGE_BYTES)
            .expect("receive buffers fit the address space");
        // SAFETY: the size is not zero.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(raw) else { handle_alloc_error(layout) };
        Pages { ptr, layout, leaked: false }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: allocated with this layout in `zeroed`.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

/// The provided buffer ring.
#[derive(Debug)]
pub(super) struct ReceiveBuffers {
    entries: Pages,
    data: Pages,
    count: u16,
    buffer_bytes: u32,
    tail: u16,
    published: u16,
}

impl ReceiveBuffers {
    /// Registers `count` (a power of two) buffers of `buffer_bytes` each with the ring.
    pub(super) fn register(
        uring: &IoUring,
        count: u16,
        buffer_bytes: u32,
    ) -> Result<ReceiveBuffers, RingError> {
        if !count.is_power_of_two() || count > 1 << 15 {
            return Err(RingError::Config("receive_buffers must be a power of two up to 32768"));
        }
        if buffer_bytes == 0 {
            return Err(RingError::Config("receive_buffer_bytes must not be zero"));
        }
        let entries = Pages::zeroed(usize::from(count) * size_of::<BufRingEntry>());
        let data = Pages::zeroed(usize::from(count) * buffer_bytes as usize);
        // SAFETY: the entries are page-aligned, large enough for `count`, and live as long as the
        // registration: the ring drops this value only after the kernel let go of the ring.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(
                entries.ptr.as_ptr() as u64,
                count,
                GROUP,
                0,
            )
        }
        .map_err(|e| RingError::system("register_buf_ring", e))?;
        let mut buffers =
            ReceiveBuffers { entries, data, count, buffer_bytes, tail: 0, published: 0 };
        for id in 0..count {
            buffers.give_back(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// The first `len` bytes of buffer `id`, which a completion has just named.
    pub(super) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < self.count && len <= self.buffer_bytes as usize);
        let start = usize::from(id) * self.buffer_bytes as usize;
        // SAFETY: in bounds by the assertion, initialised (zeroed at the start), and the kernel
        // does not touch the buffer between its completion and `give_back`.
        unsafe { std::slice::from_raw_parts(self.data.ptr.as_ptr().add(start), len) }
    }

    /// Returns buffer `id` to the kernel, visible at the next `publish`.
    pub(super) fn give_back(&mut self, id: u16) {
        debug_assert!(id < self.count);
        let index = usize::from(self.tail & (self.count - 1));
        let start = usize::from(id) * self.buffer_bytes as usize;
        // SAFETY: `index` is below `count`, so the entry is inside the allocation; the kernel reads
        // entries only up to the published tail, which this one is beyond. The entry is written
        // field by field because the first entry's last field is the shared tail.
        unsafe {
            let entry = self.entries.ptr.as_ptr().cast::<BufRingEntry>().add(index);
            (*entry).set_addr(self.data.ptr.as_ptr().add(start) as u64);
            (*entry).set_len(self.buffer_bytes);
            (*entry).set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see what was given back.
    pub(super) fn publish(&mut self) {
        if self.published == self.tail {
            return;
        }
        self.published = self.tail;
        // SAFETY: the pointer is the first entry's address; its reserved field is the tail, aligned
        // to two bytes, and shared with the kernel as an atomic.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.ptr.as_ptr().cast::<BufRingEntry>());
            AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
        }
    }

    /// Keeps the memory for ever: an operation that may still write to it has not ended.
    pub(super) fn leak(&mut self) {
        self.entries.leaked = true;
        self.data.leaked = true;
    }
}

/// Registers each buffer of the pool under its index, and tells it so.
pub(super) fn register_pool(uring: &IoUring, pool: &mut [BlockBuf]) -> io::Result<()> {
    let iovecs: Vec<libc::iovec> = pool
        .iter_mut()
        .map(|buf| libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() })
        .collect();
    // SAFETY: each iovec describes memory that its BlockBuf owns. The kernel holds references to
    // the pages, so a buffer dropped early leaves no dangling write: only operations touch the
    // memory, and each of them owns its BlockBuf.
    unsafe { uring.submitter().register_buffers(&iovecs) }?;
    for (index, buf) in pool.iter_mut().enumerate() {
        buf.set_registered(u16::try_from(index).expect("at most 16384 buffers"));
    }
    Ok(())
}
