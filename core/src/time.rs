//! Time as an argument.

use core::ops::{Add, Sub};

/// A moment on the machine's monotonic clock (CLOCK_BOOTTIME in production, the simulated clock in
/// the simulator), in nanoseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Nanoseconds in one microsecond.
    pub const PER_MICRO: u64 = 1_000;
    /// Nanoseconds in one millisecond.
    pub const PER_MILLI: u64 = 1_000_000;
    /// Nanoseconds in one second.
    pub const PER_SECOND: u64 = 1_000_000_000;

    /// Nanoseconds from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Nanos {
    type Output = Nanos;
    fn add(self, nanos: u64) -> Nanos {
        Nanos(self.0 + nanos)
    }
}

impl Sub<u64> for Nanos {
    type Output = Nanos;
    fn sub(self, nanos: u64) -> Nanos {
        Nanos(self.0.saturating_sub(nanos))
    }
}
