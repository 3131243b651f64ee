//! The content digest: one 128-bit number that two replicas compare instead of their data.
//!
//! It is the wrapping sum, over all items of a range, of a 128-bit hash of (key, item). A sum,
//! because it follows every write in constant time (subtract the old item's hash, add the new
//! one's), because it does not depend on the order in which items were written or on the shape of
//! the tree, and because a tree's digest is the sum of its subtrees' digests, so that half a range
//! can be compared on its own. Addition and not exclusive-or, so that an item applied twice does
//! not cancel itself out.
//!
//! The hash is XXH3-128. The digest finds bugs, lost writes and damage, for which 128 well mixed
//! bits are plenty; it is not meant to withstand somebody who constructs collisions and who could
//! as well write the items.
//!
//! The key is hashed first and seeds the hash of the item: the boundary between the two is part of
//! the result, and two items that swap their keys change it. The seed is part of the format.

use core::ops::{Add, AddAssign, Neg, Sub, SubAssign};

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// "forebay1": a new seed for a new meaning of the digest.
const SEED: u64 = u64::from_le_bytes(*b"forebay1");

/// Digest of one item or the sum of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of no items.
    pub const EMPTY: Digest = Digest(0);

    /// The digest of one item: its encoded key and its encoding.
    #[inline]
    #[must_use]
    pub fn of(key: &[u8], item: &[u8]) -> Digest {
        let key = xxh3_128_with_seed(key, SEED);
        Digest(xxh3_128_with_seed(item, key as u64).wrapping_add(key))
    }

    /// Little-endian bytes, as stored.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// From stored bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Digest {
        Digest(u128::from_le_bytes(bytes))
    }
}

impl core::fmt::Display for Digest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Add for Digest {
    type Output = Digest;
    fn add(self, other: Digest) -> Digest {
        Digest(self.0.wrapping_add(other.0))
    }
}

impl Sub for Digest {
    type Output = Digest;
    fn sub(self, other: Digest) -> Digest {
        Digest(self.0.wrapping_sub(other.0))
    }
}

impl Neg for Digest {
    type Output = Digest;
    fn neg(self) -> Digest {
        Digest(self.0.wrapping_neg())
    }
}

impl AddAssign for Digest {
    fn add_assign(&mut self, other: Digest) {
        *self = *self + other;
    }
}

impl SubAssign for Digest {
    fn sub_assign(&mut self, other: Digest) {
        *self = *self - other;
    }
}

impl core::iter::Sum for Digest {
    fn sum<I: Iterator<Item = Digest>>(digests: I) -> Digest {
        digests.fold(Digest::EMPTY, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_digest() {
        assert_eq!(Digest::of(b"key", b"item").to_string(), "bcf142b066630d039217638f085d519c");
        assert_eq!(Digest::from_bytes(Digest(7).to_bytes()), Digest(7));
    }

    #[test]
    fn sum_follows_writes_in_any_order() {
        let (a, b) = (Digest::of(b"a", b"1"), Digest::of(b"b", b"2"));
        let overwritten = Digest::of(b"a", b"3");
        let mut running = Digest::EMPTY;
        running += b;
        running += a;
        running -= a;
        running += overwritten;
        assert_eq!(running, [overwritten, b].into_iter().sum());
        assert_eq!(running + -running, Digest::EMPTY);
        assert_ne!(a + a, Digest::EMPTY);
    }

    #[test]
    fn boundary_and_owner_of_the_item_matter() {
        assert_ne!(Digest::of(b"ab", b"c"), Digest::of(b"a", b"bc"));
        assert_ne!(Digest::of(b"", b"abc"), Digest::of(b"abc", b""));
        let straight = Digest::of(b"a", b"1") + Digest::of(b"b", b"2");
        let swapped = Digest::of(b"a", b"2") + Digest::of(b"b", b"1");
        assert_ne!(straight, swapped);
    }

    #[test]
    fn every_bit_of_the_input_changes_about_half_of_the_digest() {
        let input = *b"an item of some forty bytes, more or less";
        let before = Digest::of(b"key", &input);
        for bit in 0..input.len() * 8 {
            let mut changed = input;
            changed[bit / 8] ^= 1 << (bit % 8);
            let differing = (Digest::of(b"key", &changed).0 ^ before.0).count_ones();
            assert!((32..=96).contains(&differing), "bit {bit} changes {differing} bits");
        }
    }
}
