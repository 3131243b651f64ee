//! When operations are meant to start.
//!
//! Closed loop: as soon as an earlier one has ended, so a slow store is asked less (its label says
//! so in every report). Open loop: at moments that were fixed before the run, whatever the store
//! does. Both kinds of arrivals come from one picture: the offered rate is a [`Profile`] over time,
//! its integral counts what should have started by then, and an arrival is the moment at which that
//! count passes the next mark.
//!
//! ```text
//!   offered so far                fixed:    marks at 0, 1, 2, …, dealt to the threads in turn
//!     │            ╱‾‾            Poisson:  marks at sums of independent Exp(1) draws, for each
//!   2 ┤       ╱‾‾‾                          thread its own; together they are one Poisson process
//!   1 ┤    ╱                                of the whole rate
//!   0 ┼──╱───┬─────┬──► time
//!        idle  ramp   steady
//! ```
//!
//! The inverse of the integral is arithmetic on each piece of the profile, not a sum of gaps, so it
//! does not drift; and arrivals that wait need no queue: the next one not yet started stands for
//! all of them. The marks depend on seed and thread alone, never on connections or on the store.
//!
//! Time change of an inhomogeneous Poisson process: Çinlar, "Introduction to Stochastic Processes",
//! 1975, chapter 4.

use forebay_core::time::Nanos;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::workload::Part;

/// Closed or open loop.
#[derive(Clone, Debug)]
pub(crate) enum Pacing {
    /// Each slot starts its next operation when the last has ended.
    Closed,
    /// Intended starts.
    Open(Schedule),
}

/// How the intended starts of an open loop lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub(crate) enum Arrivals {
    /// Evenly, at the rate asked for
    #[default]
    Fixed,
    /// With independent, exponentially distributed gaps: as many independent users arrive
    Poisson,
}

/// Offered operations a second at the beginning and at the end of a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ramp {
    pub(crate) from: f64,
    pub(crate) to: f64,
}

impl Ramp {
    /// The same all the time.
    pub(crate) fn steady(rate: f64) -> Ramp {
        Ramp { from: rate, to: rate }
    }
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    begin_nanos: f64,
    nanos: f64,
    ramp: Ramp,
    /// Offered before it, and until its end.
    begin_count: f64,
    end_count: f64,
}

impl Piece {
    /// Offered within it, `nanos` after its beginning.
    fn count_after(&self, nanos: f64) -> f64 {
        let seconds = nanos / 1e9;
        let slope = (self.ramp.to - self.ramp.from) / (self.nanos / 1e9);
        seconds * (self.ramp.from + slope * seconds / 2.0)
    }

    /// The inverse: nanoseconds after its beginning at which `count` are offered within it.
    fn nanos_at(&self, count: f64) -> f64 {
        let Ramp { from, to } = self.ramp;
        if count <= 0.0 {
            return 0.0;
        }
        if from == to {
            return count * 1e9 / from;
        }
        let slope = (to - from) / (self.nanos / 1e9);
        // The root of from·t + slope·t²/2 = count that does not subtract like from like.
        let root = (from * from + 2.0 * slope * count).max(0.0).sqrt();
        2.0 * count / (from + root) * 1e9
    }
}

/// The offered rate over time, from the run's start.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pieces: Vec<Piece>,
}

impl Profile {
    /// Stretches of so many nanoseconds, one after the other.
    pub(crate) fn new(stretches: impl IntoIterator<Item = (u64, Ramp)>) -> Profile {
        let mut pieces: Vec<Piece> = Vec::new();
        for (nanos, ramp) in stretches {
            assert!(ramp.from >= 0.0 && ramp.to >= 0.0, "{ramp:?}");
            let (begin_nanos, begin_count) = pieces
                .last()
                .map_or((0.0, 0.0), |last| (last.begin_nanos + last.nanos, last.end_count));
            let mut piece =
                Piece { begin_nanos, nanos: nanos as f64, ramp, begin_count, end_count: 0.0 };
            piece.end_count = begin_count + (ramp.from + ramp.to) / 2.0 * piece.nanos / 1e9;
            pieces.push(piece);
        }
        Profile { pieces }
    }

    /// Operations offered in the first `nanos` of the run.
    pub(crate) fn offered_until(&self, nanos: u64) -> f64 {
        let nanos = nanos as f64;
        let piece = self.pieces.iter().rev().find(|piece| piece.begin_nanos <= nanos);
        piece.map_or(0.0, |piece| {
            let within = (nanos - piece.begin_nanos).min(piece.nanos);
            if within == 0.0 {
                piece.begin_count
            } else {
                piece.begin_count + piece.count_after(within)
            }
        })
    }

    /// When `mark` operations are offered; the search begins at `*piece`, and what it skips stays
    /// skipped. None: that many never are.
    fn moment(&self, mark: f64, piece: &mut usize) -> Option<f64> {
        while let Some(here) = self.pieces.get(*piece) {
            if mark < here.end_count {
                return Some(here.begin_nanos + here.nanos_at(mark - here.begin_count));
            }
            *piece += 1;
        }
        None
    }
}

/// One thread's marks.
#[derive(Clone, Debug)]
enum Marks {
    /// Its share of the whole numbers.
    Fixed { index: u64 },
    /// The sum of its draws so far.
    Poisson { rng: SmallRng, sum: f64 },
}

/// One thread's intended starts.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    profile: Profile,
    part: Part,
    marks: Marks,
    piece: usize,
    start: Nanos,
    next: Nanos,
}

impl Schedule {
    /// `profile` is over all threads.
    pub(crate) fn new(profile: Profile, arrivals: Arrivals, seed: u64, part: Part) -> Schedule {
        let marks = match arrivals {
            Arrivals::Fixed => Marks::Fixed { index: 0 },
            Arrivals::Poisson => {
                // Threads, and this and other uses of the seed, draw independently.
                let own = (part.thread + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let mut rng = SmallRng::seed_from_u64(seed ^ own);
                let sum = exponential(&mut rng);
                Marks::Poisson { rng, sum }
            }
        };
        Schedule { profile, part, marks, piece: 0, start: Nanos(0), next: Nanos(u64::MAX) }
    }

    /// A steady rate, evenly, without end.
    #[cfg(test)]
    pub(crate) fn steady(rate_per_second: u64, part: Part) -> Schedule {
        let forever = 1 << 62;
        let profile = Profile::new([(forever, Ramp::steady(rate_per_second as f64))]);
        Schedule::new(profile, Arrivals::Fixed, 0, part)
    }

    /// The origin, the same for all threads.
    pub(crate) fn begin(&mut self, start: Nanos) {
        self.start = start;
        self.place();
    }

    /// The intended start of the next operation; the end of time after the last one.
    pub(crate) fn next(&self) -> Nanos {
        self.next
    }

    /// That operation was taken care of.
    pub(crate) fn advance(&mut self) {
        match &mut self.marks {
            Marks::Fixed { index } => *index += 1,
            Marks::Poisson { rng, sum } => *sum += exponential(rng),
        }
        self.place();
    }

    /// The intended starts before `end` that were not yet taken care of.
    pub(crate) fn left_before(&self, end: Nanos) -> impl Iterator<Item = Nanos> {
        let mut rest = self.clone();
        std::iter::from_fn(move || {
            let next = rest.next;
            rest.advance();
            (next < end).then_some(next)
        })
    }

    fn place(&mut self) {
        let Part { thread, threads } = self.part;
        let mark = match &self.marks {
            Marks::Fixed { index } => (index * threads + thread) as f64,
            Marks::Poisson { sum, .. } => sum * threads as f64,
        };
        self.next = match self.profile.moment(mark, &mut self.piece) {
            Some(nanos) => self.start + nanos as u64,
            None => Nanos(u64::MAX),
        };
    }
}

/// A draw of the exponential distribution with mean 1.
fn exponential(rng: &mut SmallRng) -> f64 {
    // 1 − u lies in (0, 1], whose logarithm is finite.
    -(1.0 - rng.random::<f64>()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Part = Part { thread: 0, threads: 1 };
    const SECOND: u64 = Nanos::PER_SECOND;

    fn all(schedule: Schedule) -> Vec<u64> {
        let mut schedule = schedule;
        schedule.begin(Nanos(0));
        schedule.left_before(Nanos(u64::MAX)).map(|at| at.0).collect()
    }

    fn steady(seconds: u64, rate: f64) -> Profile {
        Profile::new([(seconds * SECOND, Ramp::steady(rate))])
    }

    #[test]
    fn threads_share_one_even_grid_without_drift() {
        let mut points = Vec::new();
        for thread in 0..3 {
            let mut schedule = Schedule::steady(7, Part { thread, threads: 3 });
            schedule.begin(Nanos(1000));
            points.extend(schedule.left_before(Nanos(1000) + 3 * SECOND));
        }
        points.sort();
        assert_eq!(points.len(), 21, "7 a second for 3 seconds");
        for (index, point) in points.iter().enumerate() {
            assert!(point.0.abs_diff(1000 + index as u64 * SECOND / 7) <= 1);
        }
        let mut day = Schedule::steady(999_983, ALONE);
        day.marks = Marks::Fixed { index: 999_983 * 86_400 };
        day.begin(Nanos(0));
        assert!(day.next().0.abs_diff(86_400 * SECOND) <= 20, "after a day: {:?}", day.next());
    }

    #[test]
    fn what_is_left_is_counted() {
        let mut schedule = Schedule::steady(1000, ALONE);
        schedule.begin(Nanos(0));
        assert_eq!(schedule.left_before(Nanos(SECOND)).count(), 1000);
        schedule.advance();
        assert_eq!(schedule.left_before(Nanos(SECOND)).count(), 999);
    }

    /// Exponential gaps of rate λ: mean 1/λ, variance 1/λ², and no correlation of neighbours.
    #[test]
    fn poisson_gaps_have_the_mean_and_the_variance_of_the_exponential_distribution() {
        for (seed, threads, rate) in [(1, 1, 1000.0f64), (2, 1, 250_000.0), (3, 4, 40_000.0)] {
            let mut points = Vec::new();
            for thread in 0..threads {
                let seconds = (200_000.0 / rate).ceil() as u64;
                let part = Part { thread, threads };
                points.extend(all(Schedule::new(
                    steady(seconds, rate),
                    Arrivals::Poisson,
                    seed,
                    part,
                )));
            }
            points.sort();
            let gaps: Vec<f64> =
                points.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e9 * rate).collect();
            let n = gaps.len() as f64;
            assert!((n - 200_000.0 * (rate / 200_000.0).max(1.0)).abs() < 0.02 * n, "{n} arrivals");
            let mean = gaps.iter().sum::<f64>() / n;
            let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / n;
            let neighbours =
                gaps.windows(2).map(|two| (two[0] - mean) * (two[1] - mean)).sum::<f64>() / n;
            assert!((mean - 1.0).abs() < 0.01, "seed {seed}: mean {mean}");
            assert!((variance - 1.0).abs() < 0.03, "seed {seed}: variance {variance}");
            assert!(neighbours.abs() < 0.01, "seed {seed}: covariance {neighbours}");
        }
    }

    #[test]
    fn seeds_repeat_poisson_arrivals_and_threads_differ() {
        let of = |seed, thread| {
            let part = Part { thread, threads: 2 };
            all(Schedule::new(steady(1, 1000.0), Arrivals::Poisson, seed, part))
        };
        assert_eq!(of(5, 0), of(5, 0));
        assert_ne!(of(5, 0), of(5, 1));
        assert_ne!(of(5, 0), of(6, 0));
    }

    #[test]
    fn idle_ramp_and_burst_offer_what_their_areas_say() {
        let stretches = [
            (SECOND, Ramp::steady(100.0)),
            (2 * SECOND, Ramp::steady(0.0)),
            (2 * SECOND, Ramp { from: 0.0, to: 1000.0 }),
            (SECOND, Ramp { from: 1000.0, to: 200.0 }),
        ];
        let profile = Profile::new(stretches);
        for (second, offered) in [(0, 0.), (1, 100.), (3, 100.), (4, 350.), (5, 1100.), (6, 1700.)]
        {
            let got = profile.offered_until(second * SECOND);
            assert!((got - offered).abs() < 1e-6, "{second} s: {got}");
        }
        assert!((profile.offered_until(100 * SECOND) - 1700.0).abs() < 1e-6);
        for arrivals in [Arrivals::Fixed, Arrivals::Poisson] {
            let points = all(Schedule::new(profile.clone(), arrivals, 9, ALONE));
            assert!(points.is_sorted());
            let within = |from: u64, to: u64| {
                points.iter().filter(|at| (from * SECOND..to * SECOND).contains(at)).count() as f64
            };
            assert_eq!(within(1, 3), 0.0, "nothing while idle");
            for (from, to, expected) in [(0, 1, 100.), (3, 4, 250.), (4, 5, 750.), (5, 6, 600.)] {
                // Poisson counts stray by their square root; four of those.
                let stray =
                    if arrivals == Arrivals::Fixed { 1.0 } else { 4.0 * f64::sqrt(expected) };
                let got = within(from, to);
                assert!((got - expected).abs() <= stray, "{arrivals:?} {from} to {to}: {got}");
            }
        }
    }
}
