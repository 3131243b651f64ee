//! Writes proposed but not yet chosen, by key: a condition is evaluated on the latest of them.
//!
//! ```text
//!   table: hash of (group, key) ──► newest ⇄ … ⇄ oldest      writes of that key, in slot order
//! ```
//!
//! Writes are chosen oldest first and, when a leader steps down, abandoned in any order, so each
//! key keeps all its writes in flight as a doubly linked list: removal at either end is constant
//! work, also for a key that everyone writes. The key bytes are those staged in the overlay: an
//! entry must leave here before the overlay applies or abandons it.

use hashbrown::HashTable;

use super::{KeyHash, Overlay, Staged};

const NONE: u32 = u32::MAX;

/// The writes of one key.
struct Chain {
    newest: u32,
    oldest: u32,
}

struct Link {
    staged: Staged,
    hash: KeyHash,
    older: u32,
    newer: u32,
}

/// Finds the latest write in flight of a key; see the module's docs.
pub struct InFlight {
    table: HashTable<Chain>,
    links: Vec<Link>,
    free: Vec<u32>,
}

impl InFlight {
    /// Empty, with room for this many writes before it allocates again.
    #[must_use]
    pub fn with_capacity(writes: usize) -> InFlight {
        InFlight {
            // Twice the room: removals leave marks, which the table clears in place, without
            // allocating, only while it is at most half full.
            table: HashTable::with_capacity(2 * writes),
            links: Vec::with_capacity(writes),
            free: Vec::with_capacity(writes),
        }
    }

    /// A write was proposed: it is the latest of its key. Writes of a key come in slot order.
    pub fn insert(&mut self, overlay: &Overlay, staged: Staged, hash: KeyHash) {
        let entry = overlay.staged(staged);
        let link = Link { staged, hash, older: NONE, newer: NONE };
        let number = match self.free.pop() {
            Some(number) => {
                self.links[number as usize] = link;
                number
            }
            None => {
                self.links.push(link);
                (self.links.len() - 1) as u32
            }
        };
        let links = &mut self.links;
        match self.table.find_mut(hash.0, |chain| same_key(overlay, links, chain, hash, staged)) {
            Some(chain) => {
                let before = &mut links[chain.newest as usize];
                debug_assert!(overlay.staged(before.staged).slot <= entry.slot);
                before.newer = number;
                links[number as usize].older = std::mem::replace(&mut chain.newest, number);
            }
            None => {
                let chain = Chain { newest: number, oldest: number };
                self.table
                    .insert_unique(hash.0, chain, |chain| links[chain.newest as usize].hash.0);
            }
        }
    }

    /// The latest write in flight of a key.
    #[must_use]
    #[inline]
    pub fn latest(
        &self,
        overlay: &Overlay,
        group: u32,
        key: &[u8],
        hash: KeyHash,
    ) -> Option<Staged> {
        let found = |chain: &Chain| {
            let newest = &self.links[chain.newest as usize];
            newest.hash == hash && {
                let entry = overlay.staged(newest.staged);
                entry.group == group && entry.key == key
            }
        };
        let chain = self.table.find(hash.0, found)?;
        Some(self.links[chain.newest as usize].staged)
    }

    /// The write is about to be applied or abandoned.
    pub fn remove(&mut self, overlay: &Overlay, staged: Staged, hash: KeyHash) {
        let links = &mut self.links;
        let mut occupied = self
            .table
            .find_entry(hash.0, |chain| same_key(overlay, links, chain, hash, staged))
            .unwrap_or_else(|_| panic!("a write is removed once, after it was inserted"));
        let chain = occupied.get_mut();
        let mut number = chain.oldest;
        if links[chain.newest as usize].staged == staged {
            number = chain.newest;
        }
        while links[number as usize].staged != staged {
            number = links[number as usize].newer;
            assert_ne!(number, NONE, "a write is removed once, after it was inserted");
        }
        let Link { older, newer, .. } = links[number as usize];
        match older {
            NONE => chain.oldest = newer,
            older => links[older as usize].newer = newer,
        }
        match newer {
            NONE => chain.newest = older,
            newer => links[newer as usize].older = older,
        }
        if chain.newest == NONE {
            occupied.remove();
        }
        self.free.push(number);
    }

    /// Writes in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.links.len() - self.free.len()
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for InFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InFlight").field("len", &self.len()).finish_non_exhaustive()
    }
}

fn same_key(
    overlay: &Overlay,
    links: &[Link],
    chain: &Chain,
    hash: KeyHash,
    staged: Staged,
) -> bool {
    let newest = &links[chain.newest as usize];
    // Most often the only write of its key, and the one that is looked for.
    newest.staged == staged
        || newest.hash == hash && {
            let (a, b) = (overlay.staged(newest.staged), overlay.staged(staged));
            a.group == b.group && a.key == b.key
        }
}
