//! Memory brought near before it is needed.
//!
//! A random read of a large table waits some hundred nanoseconds for each line that is in no cache.
//! Requests arrive many at a time, so their lines can be waited for together: touch a line of each
//! of them, then do the work of each.
#![allow(unsafe_code)]

/// Bytes that come together.
const LINE_BYTES: usize = 64;

/// Asks for the line in which `place` begins; waits for nothing, so the processor has many of them
/// under way at once and goes on with other work.
#[inline]
pub(crate) fn touch<T: ?Sized>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint that reads nothing, and SSE is part of x86_64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) }
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint that reads nothing and changes no register.
    unsafe {
        let at = std::ptr::from_ref(place).cast::<u8>();
        std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = place;
}

/// Asks for each line of bytes that will be overwritten. Copying does not wait for them, but a
/// checksum of what was just copied does.
#[inline]
pub(crate) fn touch_for_write(bytes: &[u8]) {
    for line in bytes.chunks(LINE_BYTES) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            // SAFETY: a hint that reads nothing; a processor without it takes it as a no-op.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().cast()) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        touch(line);
    }
}

/// Asks for each line of the first `bytes_max` bytes.
#[inline]
pub(crate) fn touch_lines(bytes: &[u8], bytes_max: usize) {
    bytes[..bytes.len().min(bytes_max)].chunks(LINE_BYTES).for_each(touch);
}
