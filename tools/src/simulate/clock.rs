//! A node's clock: its own zero and its own rate.
//!
//! Nothing in the nodes may depend on two clocks agreeing; leases depend on their rates differing
//! by no more than `forebay_core::liveness::DRIFT_PER_MILLE_MAX`, and the plans of faults stay
//! within it.

use forebay_core::time::Nanos;

const MILLION: u64 = 1_000_000;
/// Rates differ from one by less.
const PPM_MAX: i64 = 10_000;
/// Up to here no product of this module leaves 64 bits: more than two hours.
const PASSED_MAX: u64 = 1 << 43;

const _: () = assert!(PASSED_MAX.checked_mul(MILLION + PPM_MAX as u64).is_some());

/// `local = local_base + (real - real_base) * (1,000,000 + ppm) / 1,000,000`, rounded down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    real_base: u64,
    local_base: u64,
    ppm: i64,
}

impl Clock {
    /// A clock that shows `local` at `real`.
    pub(super) fn new(real: u64, local: u64, ppm: i64) -> Clock {
        Clock { real_base: real, local_base: local, ppm }
    }

    /// What it shows.
    pub(super) fn local(&self, real: u64) -> Nanos {
        debug_assert!(real >= self.real_base);
        let passed = real - self.real_base;
        debug_assert!(passed <= PASSED_MAX);
        Nanos(self.local_base + passed * self.rate() / MILLION)
    }

    /// The first moment at which it shows `local` or later.
    pub(super) fn real(&self, local: Nanos) -> u64 {
        let ahead = local.0.saturating_sub(self.local_base);
        if ahead > PASSED_MAX {
            return u64::MAX; // Never, in a run.
        }
        self.real_base + (ahead * MILLION).div_ceil(self.rate())
    }

    /// Nanoseconds that it shows in a million.
    fn rate(&self) -> u64 {
        MILLION.saturating_add_signed(self.ppm)
    }

    /// Runs at another rate from now on.
    pub(super) fn set_rate(&mut self, real: u64, ppm: i64) {
        debug_assert!(ppm.abs() < PPM_MAX);
        *self = Clock { real_base: real, local_base: self.local(real).0, ppm };
    }

    /// How fast it runs.
    pub(super) fn ppm(&self) -> i64 {
        self.ppm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_reaches_what_it_is_asked_for_and_never_runs_backwards() {
        let mut clock = Clock::new(1_000, 77, 0);
        let mut last = Nanos(0);
        for (step, ppm) in [(10, 4_000), (1_000_003, -4_000), (7_777_777, 123), (1, -1)] {
            let real = clock.real_base + step;
            clock.set_rate(real, ppm);
            for ahead in [0, 1, 999, 1_000_000, 12_345_678_901] {
                let local = clock.local(real + ahead);
                assert!(local >= last);
                let back = clock.real(local);
                assert!(clock.local(back) >= local && back <= real + ahead);
                assert!(back == 0 || back <= clock.real_base || clock.local(back - 1) < local);
            }
            last = clock.local(real);
        }
    }
}
