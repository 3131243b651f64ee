//! Which record an operation touches, and how a record's key is spelled.

use rand::Rng;

use super::zipfian::{ScrambledZipfian, Zipfian};

/// How records are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Distribution {
    /// All alike.
    Uniform,
    /// YCSB's scrambled Zipfian, theta 0.99.
    Zipfian,
    /// Zipfian over age: the newest records are the popular ones.
    Latest,
}

impl Distribution {
    /// Its name in reports.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Distribution::Uniform => "uniform",
            Distribution::Zipfian => "zipfian theta 0.99, scrambled",
            Distribution::Latest => "latest, zipfian theta 0.99",
        }
    }
}

/// A running chooser of records.
///
/// The uniform and Zipfian choosers stay on the loaded records for the whole run, so that the hot
/// set does not move while records are inserted; the latest one follows the inserts.
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
}

impl KeyChooser {
    /// A chooser over `records` loaded records.
    pub(crate) fn new(distribution: Distribution, records: u64) -> KeyChooser {
        match distribution {
            Distribution::Uniform => KeyChooser::Uniform { records },
            Distribution::Zipfian => KeyChooser::Zipfian(ScrambledZipfian::new(records)),
            Distribution::Latest => KeyChooser::Latest(Zipfian::new(records)),
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
        }
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
}

impl KeySpelling {
    /// Keys of `key_bytes`, which the command line has checked against the limits above.
    pub(crate) fn new(key_bytes: usize) -> KeySpelling {
        assert!((KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key_bytes));
        let mut buf = vec![b'0'; key_bytes];
        buf[..KEY_PREFIX.len()].copy_from_slice(KEY_PREFIX);
        KeySpelling { buf }
    }

    /// The key of `record`; valid until the next call.
    pub(crate) fn spell(&mut self, record: u64) -> &[u8] {
        let digits = &mut self.buf[KEY_PREFIX.len()..];
        let mut rest = record;
        // Zeroes all the way to the front of the fixed digits, so that a shorter number never
        // keeps a longer one's leading digits; padding beyond them never changes.
        let first = digits.len() - RECORD_DIGITS;
        for pair in digits[first..].rchunks_exact_mut(2) {
            let low = (rest % 100) as u8;
            rest /= 100;
            pair[0] = b'0' + low / 10;
            pair[1] = b'0' + low % 10;
        }
        debug_assert_eq!(rest, 0, "record {record} has more than {RECORD_DIGITS} digits");
        &self.buf
    }
}

const _: () = assert!(RECORD_DIGITS.is_multiple_of(2));

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn keys_are_padded_and_never_keep_old_digits() {
        let mut keys = KeySpelling::new(24);
        assert_eq!(keys.spell(987_654_321_012), b"user00000000987654321012");
        assert_eq!(keys.spell(7), b"user00000000000000000007");
        assert_eq!(KeySpelling::new(16).spell(42), b"user000000000042");
    }

    #[test]
    fn uniform_choice_passes_a_chi_square_test() {
        const RECORDS: u64 = 100;
        const DRAWS: u64 = 100_000;
        let mut chooser = KeyChooser::new(Distribution::Uniform, RECORDS);
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
        let mut chooser = KeyChooser::new(Distribution::Latest, 1000);
        let mut rng = SmallRng::seed_from_u64(5);
        let newest = (0..10_000).filter(|_| chooser.draw(&mut rng, 1100) >= 1000).count();
        assert!(newest > 5_000, "only {newest} of 10000 draws among the newest hundred");
        assert!((0..10_000).all(|_| chooser.draw(&mut rng, 1100) < 1100));
    }
}
