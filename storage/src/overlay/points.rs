//! The latest entry of a key, for reads of one key: a hash table beside the order.
//!
//! ```text
//!   hash ──► segment (top bits) ──► home (next bits) ──► linear probing
//!            own size, own age      slot: tag u32 | latest entry u32        8 slots a cache line
//! ```
//!
//! A read of one key costs one cache line here and one in the arena, where a descent through the
//! order costs one in each node; and the line's address follows from the key alone, so the lines of
//! many reads can be fetched side by side.
//!
//! The table is cut into segments by the hash's top bits. Each grows, and is cleared, by itself and
//! when it is next written, so no single write pays for the whole table. Within a segment entries
//! stand nearly in hash order, which makes growing a sequential copy.
//!
//! *Invariants*: a segment is at most three quarters full; what a segment of an older age holds is
//! void; an entry stands between its home and the next empty slot.
//!
//! Source: Knuth, TAOCP volume 3, section 6.4, algorithms L and R.

use super::KeyHash;
use super::arena::Staged;
use crate::touch::touch;

/// Slots of a segment at least.
const SLOTS_MIN: usize = 8;
/// Entries for which there is one segment.
const ENTRIES_PER_SEGMENT: usize = 4096;
/// A segment's bits come off the tag.
const SEGMENT_BITS_MAX: u32 = 12;

/// What an entry costs at most: a segment that has just grown is three eighths full.
pub(super) const BYTES_PER_ENTRY: usize = (size_of::<Slot>() * 8).div_ceil(3);

#[derive(Clone, Copy)]
struct Slot {
    tag: u32,
    entry: Staged,
}

const EMPTY: Slot = Slot { tag: 0, entry: Staged::NONE };

#[derive(Clone, Default)]
struct Segment {
    /// A power of two of them, or none.
    slots: Box<[Slot]>,
    len: usize,
    age: u64,
}

/// One generation's keys; see the module's docs.
pub(super) struct Points {
    segments: Box<[Segment]>,
    segment_bits: u32,
    age: u64,
}

impl Points {
    /// A table that is meant for up to this many entries.
    pub(super) fn with_capacity(entries: usize) -> Points {
        let wanted = (entries / ENTRIES_PER_SEGMENT).max(1).ilog2();
        let segment_bits = wanted.min(SEGMENT_BITS_MAX);
        let segments = vec![Segment::default(); 1 << segment_bits].into();
        Points { segments, segment_bits, age: 0 }
    }

    /// Removes everything and keeps the room; constant work.
    pub(super) fn clear(&mut self) {
        self.age += 1;
    }

    #[inline]
    fn segment_of(&self, tag: u32) -> usize {
        // In 64 bits, a shift by 32 (for a single segment) is an ordinary one.
        (u64::from(tag) >> (32 - self.segment_bits)) as usize
    }

    /// The first slot to look at.
    #[inline]
    fn home(&self, tag: u32, slots: usize) -> usize {
        let rest = tag << self.segment_bits;
        (u64::from(rest) >> (32 - slots.trailing_zeros())) as usize
    }

    /// The segment that has the tag's entries, if it has any.
    #[inline]
    fn segment(&self, tag: u32) -> Option<&[Slot]> {
        let segment = &self.segments[self.segment_of(tag)];
        (segment.age == self.age && !segment.slots.is_empty()).then_some(&segment.slots)
    }

    /// Brings near the slot where a search begins.
    #[inline]
    pub(super) fn touch(&self, hash: KeyHash) {
        let tag = hash.tag();
        if let Some(slots) = self.segment(tag) {
            touch(&slots[self.home(tag, slots.len())]);
        }
    }

    /// The entry of that hash for which `is` holds.
    #[inline]
    pub(super) fn find(&self, hash: KeyHash, mut is: impl FnMut(Staged) -> bool) -> Option<Staged> {
        let tag = hash.tag();
        let slots = self.segment(tag)?;
        let mut at = self.home(tag, slots.len());
        loop {
            let Slot { tag: found, entry } = slots[at];
            if entry == Staged::NONE {
                return None;
            }
            if found == tag && is(entry) {
                return Some(entry);
            }
            at = (at + 1) & (slots.len() - 1);
        }
    }

    /// Enters the latest entry of a key; returns the one of the same key that it replaced.
    #[inline]
    pub(super) fn insert(
        &mut self,
        hash: KeyHash,
        entry: Staged,
        mut is: impl FnMut(Staged) -> bool,
    ) -> Option<Staged> {
        let tag = hash.tag();
        let number = self.segment_of(tag);
        self.make_room(number);
        let slots = self.segments[number].slots.len();
        let mut at = self.home(tag, slots);
        let segment = &mut self.segments[number];
        loop {
            let slot = &mut segment.slots[at];
            if slot.entry == Staged::NONE {
                *slot = Slot { tag, entry };
                segment.len += 1;
                return None;
            }
            if slot.tag == tag && is(slot.entry) {
                return Some(std::mem::replace(&mut slot.entry, entry));
            }
            at = (at + 1) & (slots - 1);
        }
    }

    /// Clears a segment of an older age, and grows one that is full.
    fn make_room(&mut self, number: usize) {
        let segment = &mut self.segments[number];
        if segment.age != self.age {
            segment.age = self.age;
            segment.len = 0;
            segment.slots.fill(EMPTY);
        }
        let slots = segment.slots.len();
        if (segment.len + 1) * 4 <= slots * 3 {
            return;
        }
        let grown = vec![EMPTY; (slots * 2).max(SLOTS_MIN)].into();
        let old = std::mem::replace(&mut segment.slots, grown);
        for slot in old.into_iter().filter(|slot| slot.entry != Staged::NONE) {
            let slots = self.segments[number].slots.len();
            let mut at = self.home(slot.tag, slots);
            let segment = &mut self.segments[number].slots;
            while segment[at].entry != Staged::NONE {
                at = (at + 1) & (slots - 1);
            }
            segment[at] = slot;
        }
    }

    /// Removes an entry that is there.
    pub(super) fn remove(&mut self, hash: KeyHash, entry: Staged) {
        let tag = hash.tag();
        let number = self.segment_of(tag);
        let slots = self.segments[number].slots.len();
        let next = |at: usize| (at + 1) & (slots - 1);
        let mut hole = self.home(tag, slots);
        while self.segments[number].slots[hole].entry != entry {
            assert_ne!(
                self.segments[number].slots[hole].entry,
                Staged::NONE,
                "an entry that is there"
            );
            hole = next(hole);
        }
        let mut at = hole;
        loop {
            at = next(at);
            let slot = self.segments[number].slots[at];
            if slot.entry == Staged::NONE {
                break;
            }
            // It may move into the hole unless its home lies after the hole, up to where it is.
            let from_home = at.wrapping_sub(self.home(slot.tag, slots)) & (slots - 1);
            if from_home >= at.wrapping_sub(hole) & (slots - 1) {
                self.segments[number].slots[hole] = slot;
                hole = at;
            }
        }
        self.segments[number].slots[hole] = EMPTY;
        self.segments[number].len -= 1;
    }

    /// Memory of the slots.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.segments.iter().map(|segment| size_of_val(&*segment.slots)).sum()
    }

    /// Entries.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let current = self.segments.iter().filter(|segment| segment.age == self.age);
        current.map(|segment| segment.len).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::sim_disk::SimRandom;

    fn entry(number: u32) -> Staged {
        Staged::new(number, 0)
    }

    /// Hashes that differ in few bits, so that they crowd.
    fn hash(random: &mut SimRandom) -> KeyHash {
        KeyHash((random.below(4) as u64) << 62 | (random.below(500) as u64) << 32)
    }

    #[test]
    fn behaves_like_a_map_of_hashes_over_several_ages() {
        let mut random = SimRandom::new(5);
        for entries in [1, 10_000, 100_000] {
            let mut points = Points::with_capacity(entries);
            for _ in 0..4 {
                points.clear();
                let mut model: HashMap<u64, Staged> = HashMap::new();
                for number in 0..20_000 {
                    let hash = hash(&mut random);
                    if random.below(4) == 0 {
                        if let Some(entry) = model.remove(&hash.0) {
                            points.remove(hash, entry);
                        }
                    } else {
                        let replaced = points.insert(hash, entry(number), |_| true);
                        assert_eq!(replaced, model.insert(hash.0, entry(number)));
                    }
                    assert_eq!(points.len(), model.len());
                }
                for (hash, entry) in model {
                    assert_eq!(points.find(KeyHash(hash), |_| true), Some(entry));
                }
            }
        }
    }

    #[test]
    fn keys_of_one_tag_are_told_apart_by_the_caller() {
        let mut points = Points::with_capacity(1);
        for number in 0..100 {
            assert_eq!(points.insert(KeyHash(7 << 32), entry(number), |_| false), None);
        }
        assert_eq!(points.find(KeyHash(7 << 32), |at| at == entry(99)), Some(entry(99)));
        assert_eq!(points.find(KeyHash(7 << 32), |_| false), None);
        assert_eq!(points.find(KeyHash(8 << 32), |_| true), None);
    }

    #[test]
    fn memory_stays_within_what_is_charged() {
        let mut random = SimRandom::new(6);
        let mut points = Points::with_capacity(200_000);
        for number in 0..100_000_u32 {
            let hash = KeyHash((random.below(1 << 32) as u64) << 32);
            points.insert(hash, entry(number), |_| false);
            let segments_min = (SLOTS_MIN * size_of::<Slot>()) << points.segment_bits;
            assert!(points.bytes() <= (number as usize + 1) * BYTES_PER_ENTRY + segments_min);
        }
    }
}
