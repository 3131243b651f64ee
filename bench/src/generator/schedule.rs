//! When operations are meant to start.
//!
//! Closed loop: as soon as an earlier one has ended, so a slow store is asked less (its label says
//! so in every report). Open loop: on a fixed grid, whatever the store does. One grid of `rate`
//! points a second is dealt to the threads in turn, so that together they are even:
//!
//! ```text
//!   thread 0   |       |       |
//!   thread 1       |       |       |
//!   time      ─────────────────────────►
//! ```
//!
//! The grid is arithmetic, not a sum of intervals, so it does not drift, and arrivals that wait
//! need no queue: the next point not yet started stands for all of them.

use forebay_core::time::Nanos;

use crate::workload::Part;

/// Closed or open loop.
#[derive(Clone, Debug)]
pub(crate) enum Pacing {
    /// Each slot starts its next operation when the last has ended.
    Closed,
    /// Intended starts on a grid.
    Open(Schedule),
}

/// One thread's share of the grid.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    rate_per_second: u64,
    part: Part,
    start: Nanos,
    index: u64,
    next: Nanos,
}

impl Schedule {
    /// `rate_per_second` over all threads.
    pub(crate) fn new(rate_per_second: u64, part: Part) -> Schedule {
        assert!(rate_per_second > 0);
        Schedule { rate_per_second, part, start: Nanos(0), index: 0, next: Nanos(0) }
    }

    /// The grid's origin, the same for all threads.
    pub(crate) fn begin(&mut self, start: Nanos) {
        self.start = start;
        self.index = 0;
        self.place();
    }

    /// The intended start of the next operation.
    pub(crate) fn next(&self) -> Nanos {
        self.next
    }

    /// That operation was taken care of.
    pub(crate) fn advance(&mut self) {
        self.index += 1;
        self.place();
    }

    /// How many operations are intended before `end` and not yet taken care of.
    pub(crate) fn left_before(&self, end: Nanos) -> u64 {
        let mut rest = self.clone();
        let mut left = 0;
        while rest.next < end {
            left += 1;
            rest.advance();
        }
        left
    }

    fn place(&mut self) {
        let point =
            u128::from(self.index) * u128::from(self.part.threads) + u128::from(self.part.thread);
        let offset = point * u128::from(Nanos::PER_SECOND) / u128::from(self.rate_per_second);
        self.next = self.start + u64::try_from(offset).expect("a run ends within 584 years");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_one_even_grid_without_drift() {
        let mut points = Vec::new();
        for thread in 0..3 {
            let mut schedule = Schedule::new(7, Part { thread, threads: 3 });
            schedule.begin(Nanos(1000));
            while schedule.next() < Nanos(1000) + 3 * Nanos::PER_SECOND {
                points.push(schedule.next());
                schedule.advance();
            }
        }
        points.sort();
        assert_eq!(points.len(), 21, "7 a second for 3 seconds");
        for (index, point) in points.iter().enumerate() {
            assert_eq!(point.0, 1000 + index as u64 * Nanos::PER_SECOND / 7);
        }
    }

    #[test]
    fn what_is_left_is_counted() {
        let mut schedule = Schedule::new(1000, Part { thread: 0, threads: 1 });
        schedule.begin(Nanos(0));
        assert_eq!(schedule.left_before(Nanos(Nanos::PER_SECOND)), 1000);
        schedule.advance();
        assert_eq!(schedule.left_before(Nanos(Nanos::PER_SECOND)), 999);
    }
}
