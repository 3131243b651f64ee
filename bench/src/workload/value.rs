//! Bytes to store.
//!
//! Ordinary values follow each other in one pool of random bytes, round and round, each lap beginning
//! elsewhere: over any window shorter than the pool they are fresh random bytes, no byte used twice, at
//! the cost of a copy from memory that the processor has fetched ahead. Ledger values prove themselves:
//! they name the record and the sequence number and carry a checksum.
//!
//! | offset | bytes | ledger value |
//! |-------:|------:|---|
//! | 0      | 8     | record, u64 LE |
//! | 8      | 8     | sequence number, u64 LE |
//! | 16     | n-20  | filler from both |
//! | n-4    | 4     | CRC-32 of all before it, u32 LE |

use rand::{Rng, RngCore};

use super::Sizes;

/// Bytes of the pool beyond one value.
const POOL_BYTES: usize = 64 * 1024;
/// A lap begins within so many of them.
const LAP_SHIFT: usize = 16 * 1024;

/// How they are made, for reports.
pub(crate) const VALUES_MADE: &str = "consecutive pieces of 64 KiB of pseudo-random bytes of this seed, each lap from another byte on";
const _: () = assert!(POOL_BYTES == 64 << 10 && LAP_SHIFT < POOL_BYTES);

/// The smallest value that can prove itself.
pub(crate) const LEDGER_VALUE_BYTES_MIN: usize = 20;

/// A source of values.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    pool: Vec<u8>,
    sizes: Sizes,
    /// Where the next one begins.
    next: usize,
}

impl Values {
    /// Values of these `sizes`, from bytes that `rng` determines.
    pub(crate) fn new(sizes: Sizes, rng: &mut impl Rng) -> Values {
        let mut pool = vec![0; POOL_BYTES + sizes.max()];
        rng.fill_bytes(&mut pool);
        Values { pool, sizes, next: 0 }
    }

    /// A value.
    pub(crate) fn draw(&mut self, rng: &mut impl RngCore) -> &[u8] {
        let bytes = self.sizes.draw(rng);
        if self.next >= POOL_BYTES {
            self.next = rng.next_u32() as usize % LAP_SHIFT;
        }
        let begin = self.next;
        self.next += bytes;
        &self.pool[begin..begin + bytes]
    }
}

/// Fills `out` with the ledger value of `record` at `seq`.
pub(crate) fn write_ledger_value(record: u64, seq: u64, out: &mut [u8]) {
    assert!(out.len() >= LEDGER_VALUE_BYTES_MIN);
    out[..8].copy_from_slice(&record.to_le_bytes());
    out[8..16].copy_from_slice(&seq.to_le_bytes());
    let end = out.len() - 4;
    let mut state = record.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seq;
    for chunk in out[16..end].chunks_mut(8) {
        // SplitMix64's step: cheap, and two values differ nearly everywhere.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        chunk.copy_from_slice(&(word ^ (word >> 31)).to_le_bytes()[..chunk.len()]);
    }
    let sum = crc32fast::hash(&out[..end]);
    out[end..].copy_from_slice(&sum.to_le_bytes());
}

/// Why stored bytes are not a ledger value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LedgerValueError {
    /// Shorter than any ledger value.
    #[error("value of {bytes} bytes is too short")]
    Short {
        /// Its length.
        bytes: usize,
    },
    /// Not the bytes that were written.
    #[error("value checksum {found:08x}, expected {expected:08x}")]
    Checksum {
        /// In the value.
        found: u32,
        /// Over its bytes.
        expected: u32,
    },
    /// Whole, but of another record.
    #[error("value belongs to record {found}")]
    Record {
        /// The record that it names.
        found: u64,
    },
}

/// The sequence number in a stored ledger value of `record`.
pub(crate) fn read_ledger_value(record: u64, bytes: &[u8]) -> Result<u64, LedgerValueError> {
    if bytes.len() < LEDGER_VALUE_BYTES_MIN {
        return Err(LedgerValueError::Short { bytes: bytes.len() });
    }
    let (body, sum) = bytes.split_at(bytes.len() - 4);
    let found = u32::from_le_bytes(sum.try_into().expect("four bytes"));
    let expected = crc32fast::hash(body);
    if found != expected {
        return Err(LedgerValueError::Checksum { found, expected });
    }
    let word = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
    if word(0) != record {
        return Err(LedgerValueError::Record { found: word(0) });
    }
    Ok(word(8))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn equal_seeds_give_equal_values() {
        let draw = || {
            let mut rng = SmallRng::seed_from_u64(9);
            let mut values = Values::new(Sizes::Fixed(100), &mut rng);
            (0..10).map(|_| values.draw(&mut rng).to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
        assert!(draw().iter().all(|value| value.len() == 100));
    }

    #[test]
    fn within_a_lap_no_byte_is_used_twice_and_laps_differ() {
        let mut rng = SmallRng::seed_from_u64(9);
        let mut values = Values::new(Sizes::Fixed(100), &mut rng);
        let mut seen = std::collections::HashSet::new();
        // Eight random bytes at any place are their own name.
        for _ in 0..5 * POOL_BYTES / 100 {
            seen.insert(values.draw(&mut rng)[..8].to_vec());
        }
        let drawn = 5 * POOL_BYTES / 100;
        // Two laps may begin so far apart that their values are the same, one pair in a hundred.
        assert!(seen.len() > drawn * 3 / 5, "{} of {drawn}", seen.len());
        let mut values = Values::new(Sizes::Uniform { min: 1, max: 390_000 }, &mut rng);
        let longest = (0..200).map(|_| values.draw(&mut rng).len()).max().unwrap();
        assert!(longest > POOL_BYTES, "longer than the pool's laps: {longest}");
    }

    #[test]
    fn a_ledger_value_betrays_any_changed_byte() {
        let mut value = [0; 61];
        write_ledger_value(5, 77, &mut value);
        assert_eq!(read_ledger_value(5, &value), Ok(77));
        assert_eq!(read_ledger_value(6, &value), Err(LedgerValueError::Record { found: 5 }));
        for at in 0..value.len() {
            let mut bad = value;
            bad[at] ^= 0x10;
            assert!(
                matches!(read_ledger_value(5, &bad), Err(LedgerValueError::Checksum { .. })),
                "byte {at}"
            );
        }
        assert_eq!(read_ledger_value(5, &value[..19]), Err(LedgerValueError::Short { bytes: 19 }));
        assert!(read_ledger_value(5, &value[..60]).is_err());
    }
}
