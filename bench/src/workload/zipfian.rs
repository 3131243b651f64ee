//! Zipfian ranks, as in YCSB.
//!
//! The generator is the one of Gray et al., "Quickly Generating Billion-Record Synthetic
//! Databases" (SIGMOD 1994, section 3.2): one uniform draw and one power a sample, no table. With
//! theta 0.99 and `n` items, rank 0 comes with probability `1 / zeta(n)`, rank `k` about
//! `1 / (k + 1)^theta` of that.
//!
//! ```text
//!   rank       0    1    2    3 …          popular ranks are neighbours: fine for "latest"
//!   scrambled  fnv(0) % n, fnv(1) % n …    popular keys spread over the whole range
//! ```
//!
//! [`ScrambledZipfian`] follows YCSB's class of the same name to the constant: ranks are drawn over
//! ten billion items whose zeta is known beforehand, hashed with 64-bit FNV-1, and reduced modulo
//! the record count. So equal seeds and counts mean the same skew here as there.

use rand::Rng;

/// YCSB's theta.
pub(crate) const THETA: f64 = 0.99;

/// The size of the range that YCSB draws scrambled ranks from.
const SCRAMBLED_ITEMS: u64 = 10_000_000_000;
/// zeta(10^10) for [`THETA`], as YCSB states it.
const SCRAMBLED_ZETA: f64 = 26.469_028_201_783_02;

/// Ranks `0..items`, the small ones popular.
#[derive(Clone, Debug)]
pub(crate) struct Zipfian {
    items: u64,
    theta: f64,
    zeta_items: f64,
    zeta_two: f64,
    alpha: f64,
    eta: f64,
}

impl Zipfian {
    /// Ranks over `items`; costs one power for each item, once. `theta` lies between 0 and 1.
    pub(crate) fn new(items: u64, theta: f64) -> Zipfian {
        assert!(items > 0, "a distribution needs something to choose from");
        Zipfian::with_zeta(items, theta, zeta(0, items, theta, 0.0))
    }

    fn with_zeta(items: u64, theta: f64, zeta_items: f64) -> Zipfian {
        assert!(0.0 < theta && theta < 1.0, "the formula holds below 1");
        let mut zipfian = Zipfian {
            items,
            theta,
            zeta_items,
            zeta_two: zeta(0, 2, theta, 0.0),
            alpha: 1.0 / (1.0 - theta),
            eta: 0.0,
        };
        zipfian.set_eta();
        zipfian
    }

    fn set_eta(&mut self) {
        let items = self.items as f64;
        self.eta =
            (1.0 - (2.0 / items).powf(1.0 - self.theta)) / (1.0 - self.zeta_two / self.zeta_items);
    }

    /// Ranks now run over more items. Costs one power for each added item.
    pub(crate) fn grow(&mut self, items: u64) {
        if items > self.items {
            self.zeta_items = zeta(self.items, items, self.theta, self.zeta_items);
            self.items = items;
            self.set_eta();
        }
    }

    /// One rank.
    pub(crate) fn draw(&self, rng: &mut impl Rng) -> u64 {
        let u: f64 = rng.random();
        let uz = u * self.zeta_items;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 0.5f64.powf(self.theta) {
            return 1.min(self.items - 1);
        }
        let rank = (self.items as f64 * (self.eta * u - self.eta + 1.0).powf(self.alpha)) as u64;
        rank.min(self.items - 1)
    }
}

/// Continues the sum of `1 / i^theta` from item `from` (exclusive) to `to` (inclusive).
fn zeta(from: u64, to: u64, theta: f64, sum: f64) -> f64 {
    (from..to).fold(sum, |sum, i| sum + ((i + 1) as f64).powf(-theta))
}

/// zeta over many items: the first of them summed, the rest by Euler and Maclaurin's formula, whose
/// next term is below 10^-6 here.
fn zeta_of_many(items: u64, theta: f64) -> f64 {
    const SUMMED: u64 = 100_000;
    if items <= SUMMED {
        return zeta(0, items, theta, 0.0);
    }
    let (from, to) = (SUMMED as f64, items as f64);
    let integral = (to.powf(1.0 - theta) - from.powf(1.0 - theta)) / (1.0 - theta);
    zeta(0, SUMMED, theta, 0.0) + integral + (to.powf(-theta) - from.powf(-theta)) / 2.0
}

/// Zipfian popularity with the popular keys spread over the whole range.
#[derive(Clone, Debug)]
pub(crate) struct ScrambledZipfian {
    ranks: Zipfian,
    items: u64,
}

impl ScrambledZipfian {
    /// Keys `0..items`.
    pub(crate) fn new(items: u64, theta: f64) -> ScrambledZipfian {
        assert!(items > 0, "a distribution needs something to choose from");
        let zeta = match theta {
            THETA => SCRAMBLED_ZETA,
            theta => zeta_of_many(SCRAMBLED_ITEMS, theta),
        };
        ScrambledZipfian { ranks: Zipfian::with_zeta(SCRAMBLED_ITEMS, theta, zeta), items }
    }

    /// One key.
    pub(crate) fn draw(&self, rng: &mut impl Rng) -> u64 {
        fnv64(self.ranks.draw(rng)) % self.items
    }
}

/// YCSB's hash of a rank: FNV over its eight bytes, made non-negative as Java's `Math.abs` does.
fn fnv64(mut value: u64) -> u64 {
    let mut hash: u64 = 0xCBF2_9CE4_8422_2325;
    for _ in 0..8 {
        hash ^= value & 0xff;
        hash = hash.wrapping_mul(1_099_511_628_211);
        value >>= 8;
    }
    (hash as i64).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    /// Chi-square of observed counts against the exact Zipf law for the first ranks and the rest.
    /// The Gray et al. formula is an approximation, so the tolerance is relative, not statistical.
    #[test]
    fn popular_ranks_have_the_frequencies_of_the_law() {
        const ITEMS: u64 = 1000;
        const DRAWS: usize = 400_000;
        let zipfian = Zipfian::new(ITEMS, THETA);
        let mut rng = SmallRng::seed_from_u64(7);
        let mut counts = vec![0u64; ITEMS as usize];
        for _ in 0..DRAWS {
            counts[zipfian.draw(&mut rng) as usize] += 1;
        }
        let zeta_items = zeta(0, ITEMS, THETA, 0.0);
        for rank in [0usize, 1] {
            let expected = DRAWS as f64 / ((rank + 1) as f64).powf(THETA) / zeta_items;
            let deviation = (counts[rank] as f64 - expected).abs() / expected;
            assert!(deviation < 0.02, "rank {rank}: {} of {expected:.0}", counts[rank]);
        }
        // Tails by decade: the law's mass there, within 5 %.
        for (low, high) in [(10usize, 100), (100, 1000)] {
            let expected: f64 = (low..high)
                .map(|rank| DRAWS as f64 / ((rank + 1) as f64).powf(THETA) / zeta_items)
                .sum();
            let got: u64 = counts[low..high].iter().sum();
            let deviation = (got as f64 - expected).abs() / expected;
            assert!(deviation < 0.05, "ranks {low}..{high}: {got} of {expected:.0}");
        }
    }

    #[test]
    fn growing_equals_starting_larger() {
        let mut grown = Zipfian::new(100, THETA);
        grown.grow(1000);
        let whole = Zipfian::new(1000, THETA);
        assert!((grown.zeta_items - whole.zeta_items).abs() < 1e-9);
        assert!((grown.eta - whole.eta).abs() < 1e-9);
    }

    #[test]
    fn scrambling_spreads_the_popular_keys_and_keeps_the_skew() {
        const ITEMS: u64 = 10_000;
        const DRAWS: u64 = 200_000;
        let keys = ScrambledZipfian::new(ITEMS, THETA);
        let mut rng = SmallRng::seed_from_u64(11);
        let mut counts = vec![0u64; ITEMS as usize];
        for _ in 0..DRAWS {
            counts[keys.draw(&mut rng) as usize] += 1;
        }
        let hottest = counts.iter().copied().max().unwrap();
        let expected = DRAWS as f64 / SCRAMBLED_ZETA;
        assert!((hottest as f64 - expected).abs() / expected < 0.05, "{hottest} of {expected:.0}");
        assert_eq!(counts[(fnv64(0) % ITEMS) as usize], hottest, "the first rank is the hottest");
        // No decade of the key range holds much more than its share plus the hottest keys'.
        for (decade, part) in counts.chunks(ITEMS as usize / 10).enumerate() {
            let share = part.iter().sum::<u64>() as f64 / DRAWS as f64;
            assert!((0.05..0.2).contains(&share), "decade {decade} holds {share:.3}");
        }
    }

    #[test]
    fn the_sum_of_many_is_ycsbs_own_and_a_smaller_theta_is_flatter() {
        assert!((zeta_of_many(SCRAMBLED_ITEMS, THETA) - SCRAMBLED_ZETA).abs() < 1e-6);
        let exact = zeta(0, 1_000_000, 0.5, 0.0);
        assert!((zeta_of_many(1_000_000, 0.5) - exact).abs() < 1e-6);
        let hottest = |theta| {
            let zipfian = Zipfian::new(1000, theta);
            let mut rng = SmallRng::seed_from_u64(2);
            (0..100_000).filter(|_| zipfian.draw(&mut rng) == 0).count() as f64 / 100_000.0
        };
        for theta in [0.3, 0.6, 0.9] {
            let expected = 1.0 / zeta(0, 1000, theta, 0.0);
            let got = hottest(theta);
            assert!((got - expected).abs() < expected * 0.1, "{theta}: {got} of {expected}");
        }
    }

    #[test]
    fn one_item_is_always_chosen() {
        let mut rng = SmallRng::seed_from_u64(1);
        let one = Zipfian::new(1, THETA);
        for _ in 0..1000 {
            assert_eq!(one.draw(&mut rng), 0);
        }
    }
}
