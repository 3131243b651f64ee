//! The numbers that name things, one type each, so that a shard is never taken for a partition.
//!
//! Maps by them use [`IdHasher`]: this program chooses ids itself, so nobody can aim at a map's slots.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by ids.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Hashes numbers that no client chooses.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    #[inline]
    fn write_u32(&mut self, id: u32) {
        self.write_u64(id.into());
    }

    #[inline]
    fn write_u64(&mut self, id: u64) {
        // Fibonacci hashing; a map takes its tag from the top bits and its place from the low ones.
        let mixed = (self.0.rotate_left(5) ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }

    #[inline]
    fn write_u128(&mut self, id: u128) {
        self.write_u64(id as u64);
        self.write_u64((id >> 64) as u64);
    }

    #[inline]
    fn write_usize(&mut self, id: usize) {
        self.write_u64(id as u64);
    }

    #[inline]
    fn write_isize(&mut self, id: isize) {
        self.write_u64(id as u64);
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id!(
    /// One event loop with its ring, log and page cache; on a real machine, one pinned core.
    ShardId(u16)
);
id!(
    /// The replicas of one partition. Group 0 is the system group.
    GroupId(u64)
);
id!(
    /// A table, for its whole life; a table created again under the same name gets another one.
    TableId(u64)
);
id!(
    /// Index in a group's log; the first entry is slot 1, so 0 means "none yet".
    Slot(u64)
);
id!(
    /// Paxos ballot; 0 is below every real one.
    Ballot(u64)
);
id!(
    /// Byte position in a shard's log; `next_lsn == lsn + bytes`.
    Lsn(u64)
);

impl GroupId {
    /// The system group: cluster id, tables and group placement.
    pub const SYSTEM: GroupId = GroupId(0);
}

impl Slot {
    /// The slot after this one.
    #[must_use]
    pub fn next(self) -> Slot {
        Slot(self.0 + 1)
    }
}

impl Lsn {
    /// The position `bytes` later.
    #[must_use]
    pub fn after(self, bytes: u64) -> Lsn {
        Lsn(self.0 + bytes)
    }
}
