//! Which record an operation touches, and how a record's key is spelled.

use rand::Rng;

use super::zipfian::{ScrambledZipfian, Zipfian};
use super::{Distribution, Part};

/// A running chooser of records.
///
/// All but the latest one stay on the loaded records for the whole run, so that the hot set does not
/// move while records are inserted; the latest one follows the inserts.
#[derive(Clone, Debug)]
pub(crate) enum KeyChooser {
    /// All alike.
    Uniform {
        /// Loaded records.
        records: u64,
    },
    /// Scrambled Zipfian.
    Zipfian(ScrambledZipfian),
    /// The newest first.
    Latest(Zipfian),
    /// One after the other; each thread its own part of them.
    Sequential {
        /// Loaded records.
        records: u64,
        /// The next one.
        next: u64,
        /// From one to the next.
        step: u64,
    },
    /// Some records get most of the operations.
    Hotspot(Hotspot),
}

impl KeyChooser {
    /// A chooser over `records` loaded records.
    pub(crate) fn new(distribution: Distribution, records: u64, part: Part) -> KeyChooser {
        match distribution {
            Distribution::Uniform => KeyChooser::Uniform { records },
            Distribution::Zipfian { theta } => {
                KeyChooser::Zipfian(ScrambledZipfian::new(records, theta))
            }
            Distribution::Latest { theta } => KeyChooser::Latest(Zipfian::new(records, theta)),
            Distribution::Sequential => {
                KeyChooser::Sequential { records, next: part.thread % records, step: part.threads }
            }
            Distribution::Hotspot { keys, ops } => {
                KeyChooser::Hotspot(Hotspot::new(records, keys, ops, u64::MAX))
            }
            Distribution::MovingHotspot { keys, ops, every } => {
                KeyChooser::Hotspot(Hotspot::new(records, keys, ops, every))
            }
        }
    }

    /// An index below `known`, which counts the loaded records and the inserts acknowledged since.
    pub(crate) fn draw(&mut self, rng: &mut impl Rng, known: u64) -> u64 {
        match self {
            KeyChooser::Uniform { records } => rng.random_range(0..*records),
            KeyChooser::Zipfian(zipfian) => zipfian.draw(rng),
            KeyChooser::Latest(zipfian) => {
                zipfian.grow(known);
                known - 1 - zipfian.draw(rng)
            }
            KeyChooser::Sequential { records, next, step } => {
                let index = *next;
                *next = (*next + *step) % *records;
                index
            }
            KeyChooser::Hotspot(hotspot) => hotspot.draw(rng),
        }
    }
}

/// A window of consecutive records that gets more than its share, and perhaps moves on.
///
/// It moves by its own length after a number of draws, not of seconds: a run is then repeated by its
/// seed whatever its rate is, and a faster store meets a faster hot spot, as it would with more users.
#[derive(Clone, Debug)]
pub(crate) struct Hotspot {
    records: u64,
    hot: u64,
    /// Of the draws.
    share: f64,
    /// Where the window begins.
    begin: u64,
    every: u64,
    drawn: u64,
}

impl Hotspot {
    fn new(records: u64, keys: f64, ops: f64, every: u64) -> Hotspot {
        let hot = ((records as f64 * keys).round() as u64).clamp(1, records);
        Hotspot { records, hot, share: ops, begin: 0, every, drawn: 0 }
    }

    fn draw(&mut self, rng: &mut impl Rng) -> u64 {
        if self.drawn == self.every {
            self.drawn = 0;
            self.begin = (self.begin + self.hot) % self.records;
        }
        self.drawn += 1;
        let is_hot = self.hot == self.records || rng.random::<f64>() < self.share;
        let within = match is_hot {
            true => rng.random_range(0..self.hot),
            false => rng.random_range(self.hot..self.records),
        };
        (self.begin + within) % self.records
    }
}

/// Shortest key: the prefix and the digits of any record number.
pub(crate) const KEY_BYTES_MIN: usize = KEY_PREFIX.len() + RECORD_DIGITS;
/// Longest key that the tool spells.
pub(crate) const KEY_BYTES_MAX: usize = 1024;

const KEY_PREFIX: &[u8] = b"user";
/// Digits of the largest record number that a run may reach: 10^12 records.
const RECORD_DIGITS: usize = 12;

/// Spells keys `user000…0123` of one length, in one buffer.
#[derive(Clone, Debug)]
pub(crate) struct KeySpelling {
    buf: Vec<u8>,
    /// Millions of the last record: most runs stay within one.
    millions: u64,
}

impl KeySpelling {
    /// Keys of `key_bytes`, which the command line has checked against the limits above.
    pub(crate) fn new(key_bytes: usize) -> KeySpelling {
        assert!((KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key_bytes));
        let mut buf = vec![b'0'; key_bytes];
        buf[..KEY_PREFIX.len()].copy_from_slice(KEY_PREFIX);
        KeySpelling { buf, millions: 0 }
    }

    /// The key of `record`; valid until the next call.
    pub(crate) fn spell(&mut self, record: u64) -> &[u8] {
        let (millions, below) = (record / MILLION, record % MILLION);
        let first = self.buf.len() - RECORD_DIGITS;
        let (high, low) = self.buf[first..].split_at_mut(RECORD_DIGITS - 6);
        spell_six(below as u32, low);
        if millions != self.millions {
            debug_assert!(millions < MILLION, "record {record} has more digits than a key");
            spell_six(millions as u32, high);
            self.millions = millions;
        }
        &self.buf
    }
}

const MILLION: u64 = 1_000_000;
const _: () = assert!(RECORD_DIGITS == 12);

/// All six of them, so that a shorter number never keeps a longer one's leading digits.
fn spell_six(number: u32, out: &mut [u8]) {
    let mut rest = number;
    for pair in out.rchunks_exact_mut(2) {
        let low = (rest % 100) as u8;
        rest /= 100;
        pair[0] = b'0' + low / 10;
        pair[1] = b'0' + low % 10;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    const ALONE: Part = Part { thread: 0, threads: 1 };

    #[test]
    fn keys_are_padded_and_never_keep_old_digits() {
        let mut keys = KeySpelling::new(24);
        assert_eq!(keys.spell(987_654_321_012), b"user00000000987654321012");
        assert_eq!(keys.spell(7), b"user00000000000000000007");
        assert_eq!(keys.spell(1_000_000), b"user00000000000001000000");
        assert_eq!(keys.spell(999_999), b"user00000000000000999999");
        assert_eq!(KeySpelling::new(16).spell(42), b"user000000000042");
    }

    #[test]
    fn uniform_choice_passes_a_chi_square_test() {
        const RECORDS: u64 = 100;
        const DRAWS: u64 = 100_000;
        let mut chooser = KeyChooser::new(Distribution::Uniform, RECORDS, ALONE);
        let mut rng = SmallRng::seed_from_u64(3);
        let mut counts = [0u64; RECORDS as usize];
        for _ in 0..DRAWS {
            counts[chooser.draw(&mut rng, RECORDS) as usize] += 1;
        }
        let expected = (DRAWS / RECORDS) as f64;
        let chi: f64 = counts.iter().map(|&n| (n as f64 - expected).powi(2) / expected).sum();
        // 99 degrees of freedom: 99.9 % of true uniforms stay below 148.2.
        assert!(chi < 148.2, "chi-square {chi:.1}");
    }

    #[test]
    fn latest_follows_the_inserts() {
        let mut chooser = KeyChooser::new(Distribution::LATEST, 1000, ALONE);
        let mut rng = SmallRng::seed_from_u64(5);
        let newest = (0..10_000).filter(|_| chooser.draw(&mut rng, 1100) >= 1000).count();
        assert!(newest > 5_000, "only {newest} of 10000 draws among the newest hundred");
        assert!((0..10_000).all(|_| chooser.draw(&mut rng, 1100) < 1100));
    }

    #[test]
    fn threads_walk_over_every_record_once_a_lap() {
        let mut seen = [0; 90];
        for thread in 0..3 {
            let part = Part { thread, threads: 3 };
            let mut chooser = KeyChooser::new(Distribution::Sequential, 90, part);
            let mut rng = SmallRng::seed_from_u64(1);
            for _ in 0..60 {
                seen[chooser.draw(&mut rng, 90) as usize] += 1;
            }
        }
        assert_eq!(seen, [2; 90]);
    }

    #[test]
    fn a_hot_spot_gets_its_share_and_moves_on_when_it_should() {
        let moving = Distribution::MovingHotspot { keys: 0.1, ops: 0.9, every: 10_000 };
        let mut chooser = KeyChooser::new(moving, 1000, ALONE);
        let mut rng = SmallRng::seed_from_u64(6);
        for lap in 0..12u64 {
            let window = (lap * 100) % 1000..(lap * 100) % 1000 + 100;
            let hot =
                (0..10_000).filter(|_| window.contains(&chooser.draw(&mut rng, 1000))).count();
            assert!((8_800..=9_200).contains(&hot), "lap {lap}: {hot}");
        }
        let still = Distribution::Hotspot { keys: 0.2, ops: 0.5 };
        let mut chooser = KeyChooser::new(still, 10, ALONE);
        let hot = (0..10_000).filter(|_| chooser.draw(&mut rng, 10) < 2).count();
        assert!((4_800..=5_200).contains(&hot), "{hot}");
        let all = Distribution::Hotspot { keys: 1.0, ops: 0.5 };
        let mut chooser = KeyChooser::new(all, 3, ALONE);
        assert!((0..100).all(|_| chooser.draw(&mut rng, 3) < 3));
    }
}
