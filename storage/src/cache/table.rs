//! Page id to frame, one memory access for a hit.
//!
//! Open addressing with linear probing and removal by shifting back, at most half full: a lookup of
//! a page in a large cache costs one cache line here, where a general map costs two. Page 0 is a
//! superblock, so id 0 marks an empty place.
//!
//! Source: Knuth, TAOCP volume 3, section 6.4, algorithms L and R.

use crate::touch::touch;

#[derive(Clone, Copy, Default)]
struct Place {
    id: u64,
    frame: u32,
    crc: u32,
}

/// Frames by page id, with the checksum that tells versions of a page apart.
pub(super) struct PageTable {
    places: Box<[Place]>,
    shift: u32,
    len: usize,
}

/// Bytes that the table costs for each page it can hold, at most.
pub(super) const BYTES_PER_PAGE: usize = 4 * size_of::<Place>();

impl PageTable {
    /// A table for at most `pages`.
    pub(super) fn new(pages: usize) -> PageTable {
        let places = (pages * 2).next_power_of_two().max(2);
        let shift = 64 - places.trailing_zeros();
        PageTable { places: vec![Place::default(); places].into(), shift, len: 0 }
    }

    /// Where a page would be. Neighbouring ids spread by Fibonacci hashing; nobody can aim, since
    /// this program chooses the ids.
    #[inline]
    fn home(&self, id: u64) -> usize {
        (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    /// Brings near the place where a search begins.
    #[inline]
    pub(super) fn touch(&self, id: u64) {
        touch(&self.places[self.home(id)]);
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }

    #[inline]
    fn find(&self, id: u64) -> Option<usize> {
        let mut at = self.home(id);
        loop {
            match self.places[at].id {
                found if found == id => return Some(at),
                0 => return None,
                _ => at = self.next(at),
            }
        }
    }

    /// The frame and checksum of a page.
    #[inline]
    pub(super) fn get(&self, id: u64) -> Option<(u32, u32)> {
        let place = self.places[self.find(id)?];
        Some((place.frame, place.crc))
    }

    /// Adds a page that is not there.
    pub(super) fn insert(&mut self, id: u64, crc: u32, frame: u32) {
        assert!(id > 0 && self.len * 2 < self.places.len());
        let mut at = self.home(id);
        while self.places[at].id != 0 {
            assert_ne!(self.places[at].id, id, "one frame for each page id");
            at = self.next(at);
        }
        self.places[at] = Place { id, frame, crc };
        self.len += 1;
    }

    /// Removes a page that is there.
    pub(super) fn remove(&mut self, id: u64) {
        let mut hole = self.find(id).expect("a page of the cache");
        let mut at = hole;
        loop {
            at = self.next(at);
            let place = self.places[at];
            if place.id == 0 {
                break;
            }
            // It may move into the hole unless its home lies after the hole, up to where it is.
            let mask = self.places.len() - 1;
            let from_home = at.wrapping_sub(self.home(place.id)) & mask;
            if from_home >= at.wrapping_sub(hole) & mask {
                self.places[hole] = place;
                hole = at;
            }
        }
        self.places[hole] = Place::default();
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::sim_disk::SimRandom;

    #[test]
    fn behaves_like_a_map() {
        let mut random = SimRandom::new(2);
        for pages in [1, 3, 64, 200] {
            let mut table = PageTable::new(pages);
            let mut model = HashMap::new();
            for round in 0..20_000 {
                let id = 1 + random.below(pages * 2) as u64;
                match model.remove(&id) {
                    Some(_) => table.remove(id),
                    None if model.len() < pages => {
                        table.insert(id, round, round + 1);
                        model.insert(id, (round + 1, round));
                    }
                    None => {}
                }
                let id = 1 + random.below(pages * 2) as u64;
                assert_eq!(table.get(id), model.get(&id).copied());
            }
            assert_eq!(table.len, model.len());
        }
    }
}
