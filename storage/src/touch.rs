//! Memory brought near before it is needed.
//!
//! A random read of a large table waits some hundred nanoseconds for each line that is in no cache.
//! Requests arrive many at a time, so their lines can be waited for together: touch a line of each
//! of them, then do the work of each.

use std::hint::black_box;

/// Bytes that come together.
const LINE_BYTES: usize = 64;

/// Reads a byte of each line of the first `bytes_max` bytes. The reads depend on nothing, so the
/// processor has many of them under way at once, those of the next call too.
#[inline]
pub(crate) fn touch_lines(bytes: &[u8], bytes_max: usize) {
    for line in bytes[..bytes.len().min(bytes_max)].chunks(LINE_BYTES) {
        black_box(line[0]);
    }
}
