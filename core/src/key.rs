//! Keys and their order: the hash of the partition key, then the partition key, then the sort key.
//!
//! Every ordered structure of the store (overlay, tree, log entries, partition map) compares one
//! byte string with `memcmp`:
//!
//! | offset | bytes | field |
//! |--------|-------|-------|
//! | 0 | 8 | keyed hash of the partition key, big-endian |
//! | 8 | 2 | n, bytes of the partition key, big-endian, 1..=2048 |
//! | 10 | n | partition key |
//! | 10+n | .. | sort key, to the end, 0..=1024 bytes |
//!
//! The hash spreads partition keys over the partitions; its seed is the table's secret, so that a
//! client cannot aim at one of them. The first 8 bytes also serve the tree as a hint that fits a
//! register. The length before the partition key makes `hash, n, partition key` free of ambiguity:
//! no such prefix is the start of another one, so all items of one partition key are one contiguous
//! range, ordered by sort key. Values are raw bytes for `S` and `B` and the order-preserving form
//! for `N` ([`crate::item::number`]).
//!
//! Two partition keys of one hash are told apart by what follows it; they always share a partition.

use siphasher::sip::SipHasher13;

use crate::limits::{ENCODED_KEY_BYTES_MAX, PARTITION_KEY_BYTES_MAX, SORT_KEY_BYTES_MAX};

/// Bytes of the hash.
pub const KEY_HASH_BYTES: usize = 8;
/// Bytes before the partition key.
pub const KEY_HEADER_BYTES: usize = KEY_HASH_BYTES + 2;

const _: () = assert!(
    ENCODED_KEY_BYTES_MAX == KEY_HEADER_BYTES + PARTITION_KEY_BYTES_MAX + SORT_KEY_BYTES_MAX
);
const _: () = assert!(PARTITION_KEY_BYTES_MAX <= u16::MAX as usize);

/// Which of the two key values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyPart {
    /// The one that is hashed.
    Partition,
    /// The one that orders.
    Sort,
}

impl core::fmt::Display for KeyPart {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            KeyPart::Partition => "partition key",
            KeyPart::Sort => "sort key",
        })
    }
}

/// Why a key cannot be made or read. The request is at fault: correct it; no retry helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The item or key lacks the attribute that the table's schema names.
    #[error("the {part} attribute is missing")]
    Missing {
        /// Which one.
        part: KeyPart,
    },
    /// The attribute has another type than the schema says.
    #[error("the {part} attribute has type {found}; the table expects {expected}")]
    WrongType {
        /// Which one.
        part: KeyPart,
        /// The schema's type.
        expected: &'static str,
        /// The value's type.
        found: &'static str,
    },
    /// An empty string or byte string.
    #[error("the {part} value is empty")]
    Empty {
        /// Which one.
        part: KeyPart,
    },
    /// More bytes than DynamoDB allows.
    #[error("the {part} value has {bytes} bytes; {limit} are allowed")]
    TooLong {
        /// Which one.
        part: KeyPart,
        /// Its length.
        bytes: usize,
        /// The most that is allowed.
        limit: usize,
    },
    /// A key with other attributes than the schema's.
    #[error("the key has {found} attributes; the table's key has {expected}")]
    ExtraAttributes {
        /// Attributes given.
        found: usize,
        /// Attributes of the schema.
        expected: usize,
    },
    /// Bytes that are not an encoded key; from a disk or a peer it means damage.
    #[error("an encoded key of {bytes} bytes is malformed")]
    Malformed {
        /// Length of the bytes.
        bytes: usize,
    },
}

/// Hash of a partition key: SipHash-1-3 under the table's seed.
#[inline]
#[must_use]
pub fn partition_hash(seed: &[u8; 16], partition_key: &[u8]) -> u64 {
    SipHasher13::new_with_key(seed).hash(partition_key)
}

/// A reusable buffer that holds one encoded key or a bound between keys. Warm, it does not allocate.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyBuf {
    bytes: Vec<u8>,
}

impl KeyBuf {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> KeyBuf {
        KeyBuf::default()
    }

    /// An empty buffer that never allocates again.
    #[must_use]
    pub fn with_room_for_any_key() -> KeyBuf {
        // One more byte for `advance_past_key`.
        KeyBuf { bytes: Vec::with_capacity(ENCODED_KEY_BYTES_MAX + 1) }
    }

    /// What the buffer holds.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The key in the buffer.
    ///
    /// # Panics
    /// Here or later, if it holds a bound and no key.
    #[inline]
    #[must_use]
    pub fn as_key(&self) -> KeyRef<'_> {
        KeyRef::trusted(&self.bytes)
    }

    /// Forgets the key, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Holds the key of these values. An empty sort key stands for a table without one.
    pub fn set(
        &mut self,
        seed: &[u8; 16],
        partition_key: &[u8],
        sort_key: &[u8],
    ) -> Result<(), KeyError> {
        self.set_partition(seed, partition_key)?;
        self.push_sort(sort_key)
    }

    /// Holds the prefix of one partition key: the lowest bound of its items.
    pub fn set_partition(&mut self, seed: &[u8; 16], partition_key: &[u8]) -> Result<(), KeyError> {
        check_length(KeyPart::Partition, partition_key.len(), PARTITION_KEY_BYTES_MAX)?;
        if partition_key.is_empty() {
            return Err(KeyError::Empty { part: KeyPart::Partition });
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(&partition_hash(seed, partition_key).to_be_bytes());
        self.bytes.extend_from_slice(&(partition_key.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(partition_key);
        Ok(())
    }

    /// Appends a sort key, or its first bytes, to the prefix of a partition key.
    pub fn push_sort(&mut self, sort_key: &[u8]) -> Result<(), KeyError> {
        debug_assert_eq!(self.bytes.len(), self.as_key().sort_start());
        check_length(KeyPart::Sort, sort_key.len(), SORT_KEY_BYTES_MAX)?;
        self.bytes.extend_from_slice(sort_key);
        Ok(())
    }

    /// Holds the lowest bound of a hash: every key of this hash or a higher one is above it.
    pub fn set_hash_bound(&mut self, hash: u64) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&hash.to_be_bytes());
    }

    /// Holds a copy of encoded bytes: a key or a bound.
    pub fn set_encoded(&mut self, bytes: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
    }

    /// Turns a prefix into the smallest byte string above everything that starts with it. False,
    /// and the buffer is empty, if there is none because all bytes are 0xff: then nothing bounds
    /// the range.
    #[must_use]
    pub fn advance_past_prefix(&mut self) -> bool {
        while let Some(last) = self.bytes.last_mut() {
            if *last < 0xff {
                *last += 1;
                return true;
            }
            self.bytes.pop();
        }
        false
    }

    /// Turns a key into the smallest byte string above it: where a page resumes.
    pub fn advance_past_key(&mut self) {
        self.bytes.push(0);
    }
}

fn check_length(part: KeyPart, bytes: usize, limit: usize) -> Result<(), KeyError> {
    if bytes > limit { Err(KeyError::TooLong { part, bytes, limit }) } else { Ok(()) }
}

/// A view of an encoded key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRef<'a> {
    bytes: &'a [u8],
}

impl<'a> KeyRef<'a> {
    /// Checks the lengths. Whether the hash belongs to the partition key only the holder of the
    /// table's seed can say: [`KeyRef::hash_is_of`].
    pub fn validate(bytes: &'a [u8]) -> Result<KeyRef<'a>, KeyError> {
        let malformed = KeyError::Malformed { bytes: bytes.len() };
        if bytes.len() <= KEY_HEADER_BYTES {
            return Err(malformed);
        }
        let key = KeyRef { bytes };
        let sort_start = key.sort_start();
        let partition_bytes = sort_start - KEY_HEADER_BYTES;
        let fits = (1..=PARTITION_KEY_BYTES_MAX).contains(&partition_bytes)
            && sort_start <= bytes.len()
            && bytes.len() - sort_start <= SORT_KEY_BYTES_MAX;
        if fits { Ok(key) } else { Err(malformed) }
    }

    /// A view of bytes that were validated earlier.
    ///
    /// # Panics
    /// Here or in any method, if they were not.
    #[inline]
    #[must_use]
    pub fn trusted(bytes: &'a [u8]) -> KeyRef<'a> {
        assert!(bytes.len() > KEY_HEADER_BYTES, "a key has a hash, a length and a partition key");
        KeyRef { bytes }
    }

    /// The encoding.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The hash of the partition key.
    #[inline]
    #[must_use]
    pub fn hash(&self) -> u64 {
        hash_hint(self.bytes)
    }

    /// The partition key.
    #[inline]
    #[must_use]
    pub fn partition_key(&self) -> &'a [u8] {
        &self.bytes[KEY_HEADER_BYTES..self.sort_start()]
    }

    /// The sort key; empty in a table without one.
    #[inline]
    #[must_use]
    pub fn sort_key(&self) -> &'a [u8] {
        &self.bytes[self.sort_start()..]
    }

    /// Hash, length and partition key: what all items of the partition key start with.
    #[inline]
    #[must_use]
    pub fn partition_prefix(&self) -> &'a [u8] {
        &self.bytes[..self.sort_start()]
    }

    /// True if the hash is the partition key's under this seed.
    #[must_use]
    pub fn hash_is_of(&self, seed: &[u8; 16]) -> bool {
        self.hash() == partition_hash(seed, self.partition_key())
    }

    #[inline]
    fn sort_start(&self) -> usize {
        KEY_HEADER_BYTES + usize::from(u16::from_be_bytes([self.bytes[8], self.bytes[9]]))
    }
}

/// The first 8 bytes as a number that orders as they do; shorter bytes count as followed by zeros.
#[inline]
#[must_use]
pub fn hash_hint(bytes: &[u8]) -> u64 {
    if let Some(first) = bytes.first_chunk::<KEY_HASH_BYTES>() {
        return u64::from_be_bytes(*first);
    }
    let mut padded = [0; KEY_HASH_BYTES];
    padded[..bytes.len()].copy_from_slice(bytes);
    u64::from_be_bytes(padded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEED: [u8; 16] = *b"0123456789abcdef";

    fn key(partition_key: &[u8], sort_key: &[u8]) -> KeyBuf {
        let mut key = KeyBuf::new();
        key.set(&SEED, partition_key, sort_key).unwrap();
        key
    }

    #[test]
    fn hash_is_siphash_1_3() {
        // The first reference vector of SipHash-1-3: key 00..0f, empty message.
        let seed: [u8; 16] = core::array::from_fn(|index| index as u8);
        assert_eq!(partition_hash(&seed, &[]), 0xabac_0158_050f_c4dc);
        assert_ne!(partition_hash(&seed, b"a"), partition_hash(&SEED, b"a"));
    }

    #[test]
    fn golden_bytes() {
        let key = key(b"user", b"2024");
        let hash = partition_hash(&SEED, b"user");
        assert_eq!(key.as_bytes()[..8], hash.to_be_bytes());
        assert_eq!(hash, 0x1c27_017a_a805_9205);
        assert_eq!(&key.as_bytes()[8..], b"\x00\x04user2024");
        assert_eq!(hash_hint(key.as_bytes()), hash);
        assert_eq!(hash_hint(&[0x12]), 0x12 << 56);
    }

    #[test]
    fn longest_key_fits_and_longer_values_are_refused() {
        let mut key = KeyBuf::with_room_for_any_key();
        let room = key.bytes.capacity();
        key.set(&SEED, &[1; PARTITION_KEY_BYTES_MAX], &[2; SORT_KEY_BYTES_MAX]).unwrap();
        assert_eq!(key.as_bytes().len(), ENCODED_KEY_BYTES_MAX);
        assert!(KeyRef::validate(key.as_bytes()).is_ok());
        key.advance_past_key();
        assert!(KeyRef::validate(key.as_bytes()).is_err());
        assert_eq!(key.bytes.capacity(), room);
        let long = KeyError::TooLong { part: KeyPart::Partition, bytes: 2049, limit: 2048 };
        assert_eq!(key.set(&SEED, &[1; 2049], b""), Err(long));
        let long = KeyError::TooLong { part: KeyPart::Sort, bytes: 1025, limit: 1024 };
        assert_eq!(key.set(&SEED, &[1], &[2; 1025]), Err(long));
        let empty = KeyError::Empty { part: KeyPart::Partition };
        assert_eq!(key.set(&SEED, b"", b"x"), Err(empty));
    }

    #[test]
    fn malformed_keys_are_refused() {
        for bytes in [&[][..], &[0; 10], &[0; 11], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1]] {
            assert!(KeyRef::validate(bytes).is_err(), "{bytes:?}");
        }
        let mut long = vec![0u8; KEY_HEADER_BYTES + 2049];
        long[8..10].copy_from_slice(&2049u16.to_be_bytes());
        assert!(KeyRef::validate(&long).is_err());
    }

    #[test]
    fn bytes_of_ff_have_no_successor() {
        let mut key = KeyBuf::new();
        key.set_encoded(&[0xff; 8]);
        assert!(!key.advance_past_prefix());
        key.set_encoded(&[1, 0xff, 0xff]);
        assert!(key.advance_past_prefix());
        assert_eq!(key.as_bytes(), [2]);
        key.set_hash_bound(7);
        assert_eq!(key.as_bytes(), [0, 0, 0, 0, 0, 0, 0, 7]);
    }

    fn short() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(0u8), Just(0xff), 1u8..4], 0..4)
    }

    proptest! {
        #[test]
        fn parts_survive_encoding(pk in proptest::collection::vec(any::<u8>(), 1..40), sk in short()) {
            let key = key(&pk, &sk);
            let view = KeyRef::validate(key.as_bytes()).unwrap();
            prop_assert_eq!(view.partition_key(), pk);
            prop_assert_eq!(view.sort_key(), sk);
            prop_assert!(view.hash_is_of(&SEED));
        }

        #[test]
        fn order_is_hash_then_partition_key_then_sort_key(
            a in (short(), short()), b in (short(), short()),
        ) {
            prop_assume!(!a.0.is_empty() && !b.0.is_empty());
            let (x, y) = (key(&a.0, &a.1), key(&b.0, &b.1));
            let rank = |(pk, sk): &(Vec<u8>, Vec<u8>)| {
                (partition_hash(&SEED, pk), pk.len(), pk.clone(), sk.clone())
            };
            prop_assert_eq!(x.as_bytes().cmp(y.as_bytes()), rank(&a).cmp(&rank(&b)));
        }

        #[test]
        fn bounds_enclose_exactly_the_prefix(
            a in (short(), short()), b in (short(), short()), cut in 0usize..4,
        ) {
            prop_assume!(!a.0.is_empty() && !b.0.is_empty());
            let mut low = KeyBuf::new();
            low.set_partition(&SEED, &a.0).unwrap();
            low.push_sort(&a.1[..cut.min(a.1.len())]).unwrap();
            let mut high = low.clone();
            prop_assert!(high.advance_past_prefix());
            let other = key(&b.0, &b.1);
            let inside = low.as_bytes() <= other.as_bytes() && other.as_bytes() < high.as_bytes();
            prop_assert_eq!(inside, other.as_bytes().starts_with(low.as_bytes()));
            let mut next = other.clone();
            next.advance_past_key();
            let a = key(&a.0, &a.1);
            prop_assert_eq!(a.as_bytes() > other.as_bytes(), a.as_bytes() >= next.as_bytes());
        }

        #[test]
        fn validate_never_panics(bytes in proptest::collection::vec(0u8..4, 0..32)) {
            if let Ok(key) = KeyRef::validate(&bytes) {
                prop_assert_eq!(key.partition_prefix().len() + key.sort_key().len(), bytes.len());
            }
        }
    }
}
