//! The longest time between two neighbouring successes.

use forebay_core::time::Nanos;

/// Times of successes, in order.
pub(super) struct Gaps {
    sorted: Vec<u64>,
}

impl Gaps {
    /// `successes` in any order.
    pub(super) fn of(successes: &[u64]) -> Gaps {
        let mut sorted = successes.to_vec();
        sorted.sort_unstable();
        Gaps { sorted }
    }

    /// The last success up to `at`; 0 if there is none.
    pub(super) fn last_before(&self, at: u64) -> u64 {
        self.sorted.iter().copied().take_while(|success| *success <= at).last().unwrap_or(0)
    }

    /// Between `from` and `to`, both of which count as ends: time before the first success and after
    /// the last one is time without one.
    pub(super) fn longest(&self, from: u64, to: u64) -> u64 {
        let inside = self.sorted.iter().copied().filter(|at| (from..=to).contains(at));
        let (mut longest, mut last) = (0, from);
        for at in inside.chain([to.max(from)]) {
            longest = longest.max(at - last);
            last = at;
        }
        longest
    }
}

/// Nanoseconds as milliseconds.
pub(super) fn millis(nanos: u64) -> f64 {
    nanos as f64 / Nanos::PER_MILLI as f64
}
