//! The shard lane's clock: CLOCK_BOOTTIME, because leases must keep counting while the machine is
//! suspended. Read through the vDSO, without a system call.
#![allow(unsafe_code)]

use forebay_core::time::Nanos;

/// Now, on CLOCK_BOOTTIME.
#[must_use]
pub fn now() -> Nanos {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` is a valid timespec for the call to fill.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut at) };
    assert_eq!(result, 0, "CLOCK_BOOTTIME exists since Linux 2.6.39");
    Nanos(at.tv_sec as u64 * Nanos::PER_SECOND + at.tv_nsec as u64)
}
