//! Chosen entries that are not in the tree yet: a bounded, ordered map in memory. Reads look here
//! first, so a Put is served from the moment it is chosen and never waits for a tree page.
//!
//! ```text
//!   stage ──► arena chunk ──chosen: apply──► active keys ──freeze──► frozen keys ──► merge
//!     │       (bytes written once)             ▲   get, range: active first, then frozen  │
//!     └── abandon (never chosen)               └──────────── drop_frozen: recycled ◄──────┘
//! ```
//!
//! An entry's bytes are written once, into the arena, when the write is proposed; that way a
//! condition on the same key can already read them ([`InFlight`] finds them by key). When the write
//! is chosen, [`Overlay::apply`] makes it the latest entry of its key in the active generation, in a
//! hash table for reads of one key and, when the key is new there, in an ordered index for ranges and
//! the merge; nothing is copied. Overwritten values stay in their chunk until their
//! generation has been merged, so memory is bounded by counting chunks, not live entries.
//!
//! **Two generations.** [`Overlay::freeze`] fixes the state that the next checkpoint makes
//! durable. The frozen generation changes no more (except that a deleted table's group leaves it),
//! so the merge can walk it in slices with a [`FrozenCursor`] while the active one takes writes.
//! A chunk in which an entry is still in flight at the moment of freezing follows that entry into
//! the new active generation: the frozen index may keep pointing into it, because a generation is
//! always dropped before its successor.
//!
//! **Invariants**
//! - A chunk belongs to the newest generation that points, or may come to point, into it.
//! - A chunk with staged entries belongs to the active generation.
//! - The bytes of each generation (chunks, and index nodes at their worst) never exceed
//!   [`OverlayConfig::generation_bytes_max`]: [`Overlay::stage`] refuses first, and everything
//!   staged can be applied.
//! - Entries of one key are applied in slot order.
//! - Abandoned entries alone never keep a generation full: a merge begins only where something was
//!   applied, so where nothing was their chunks come free without one ([`Overlay::reclaim`]).
//!
//! Left out: durability (the log's), pacing of the merge (the checkpoint's), and any eviction; an
//! entry leaves only by being merged or by its group's deletion.

mod arena;
mod cursor;
mod in_flight;
mod index;
mod points;
#[cfg(test)]
mod tests;

use std::ops::Bound;

use forebay_core::ids::Slot;
use forebay_core::planted::{self, Flaw};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use arena::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, EntryRef, Staged};
pub use cursor::{FrozenCursor, Range};
pub use in_flight::InFlight;

use arena::Arena;
use index::{Index, Span};
use points::Points;

/// Memory charged for each staged entry: in the order, where a leaf is at least half full when it
/// comes to be, so that an entry costs at most a thirty-second of a leaf and of the leaf's share of
/// inner nodes; and in the hash table.
const INDEX_BYTES_PER_ENTRY: usize = ORDER_BYTES_PER_ENTRY + points::BYTES_PER_ENTRY;
const ORDER_BYTES_PER_ENTRY: usize = 32;

const _: () = assert!(
    ORDER_BYTES_PER_ENTRY * index::NODE_ENTRIES_MIN
        >= index::LEAF_BYTES + index::INNER_BYTES.div_ceil(index::NODE_ENTRIES_MIN - 1)
);

/// The overlay's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayConfig {
    /// Memory of one generation; there are two. It must hold a few of the largest entries to come,
    /// or those are refused for ever.
    pub generation_bytes_max: usize,
    /// Size of the arena's chunks, at most [`CHUNK_BYTES_MAX`]. Entries over a quarter of it get
    /// chunks of their own.
    pub chunk_bytes: usize,
}

impl OverlayConfig {
    /// Two generations of `generation_bytes_max` each, with chunks of the largest size, or smaller
    /// ones where a generation would have but a few: a chunk is taken whole.
    #[must_use]
    pub fn new(generation_bytes_max: usize) -> OverlayConfig {
        let sixteenth = (generation_bytes_max / 16).max(CHUNK_BYTES_MIN);
        let chunk_bytes = (1 << sixteenth.ilog2()).min(CHUNK_BYTES_MAX);
        OverlayConfig { generation_bytes_max, chunk_bytes }
    }

    /// Largest entry that a generation can hold a few of.
    #[must_use]
    pub fn entry_bytes_max(&self) -> usize {
        self.generation_bytes_max / 3
    }
}

/// The active generation has no room for the entry. Admission should have slowed down before:
/// refuse the write with a retry-after, and freeze and merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "overlay full: the entry needs {needed_bytes} bytes more, {active_bytes} of {generation_bytes_max} are taken"
)]
pub struct OverlayFull {
    /// Memory that staging the entry would have taken.
    pub needed_bytes: usize,
    /// Memory of the active generation.
    pub active_bytes: usize,
    /// Its bound.
    pub generation_bytes_max: usize,
}

/// How full the generations are, as parts of one, for pacing the merge and for admission.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fill {
    /// The generation that takes writes.
    pub active: f64,
    /// The generation being merged; 0 when there is none.
    pub frozen: f64,
}

/// The hash of a group's key, under which overlay and [`InFlight`] keep it. It is seeded with the
/// partition key's keyed hash, which clients do not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyHash(u64);

impl KeyHash {
    /// Hashes an encoded key.
    #[must_use]
    #[inline]
    pub fn of(group: u32, key: &[u8]) -> KeyHash {
        KeyHash(match key.split_first_chunk() {
            Some((head, rest)) => {
                let seed = u64::from_be_bytes(*head) ^ u64::from(group).rotate_right(17);
                xxh3_64_with_seed(rest, seed)
            }
            None => xxh3_64_with_seed(key, u64::from(group)),
        })
    }

    #[inline]
    fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What a [`Overlay::freeze`] set aside for the merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// Keys to merge.
    pub entries: usize,
    /// Memory that the merge will release.
    pub bytes: usize,
}

/// One generation: its keys, and the chunks that leave with it.
struct Generation {
    /// Every key's first entry, in order.
    index: Index,
    /// Every key's latest entry, by hash.
    points: Points,
    chunks: Vec<u32>,
    chunk_bytes: usize,
    /// Entries whose index memory is charged here.
    entries_charged: usize,
}

impl Generation {
    fn bytes(&self) -> usize {
        self.chunk_bytes + self.entries_charged * INDEX_BYTES_PER_ENTRY
    }
}

/// One shard's overlay; see the module's docs.
pub struct Overlay {
    config: OverlayConfig,
    arena: Arena,
    active: Generation,
    /// Empty while `frozen_present` is false.
    frozen: Generation,
    frozen_present: bool,
    /// Counts freezes, so that a cursor never walks another generation than its own.
    freezes: u64,
}

impl Overlay {
    /// An empty overlay. The memory is taken as entries come, and kept.
    #[must_use]
    pub fn new(config: OverlayConfig) -> Overlay {
        assert!(config.generation_bytes_max >= 2 * config.chunk_bytes);
        let entries_max =
            config.generation_bytes_max / (INDEX_BYTES_PER_ENTRY + arena::ENTRY_BYTES_MIN);
        let generation = || Generation {
            index: Index::with_capacity(entries_max),
            points: Points::with_capacity(entries_max),
            chunks: Vec::with_capacity(config.generation_bytes_max / config.chunk_bytes),
            chunk_bytes: 0,
            entries_charged: 0,
        };
        Overlay {
            config,
            arena: Arena::new(config.chunk_bytes, 2 * config.generation_bytes_max),
            active: generation(),
            frozen: generation(),
            frozen_present: false,
            freezes: 0,
        }
    }

    /// Writes the bytes of a proposed entry; `item` None is a delete. The entry is not visible to
    /// [`get`](Self::get) and [`range`](Self::range) until it is applied. Every staged entry must
    /// in the end be applied or abandoned.
    pub fn stage(
        &mut self,
        group: u32,
        slot: Slot,
        key: &[u8],
        item: Option<&[u8]>,
    ) -> Result<Staged, OverlayFull> {
        let bytes = arena::entry_bytes(key, item);
        let chunk_bytes = self.arena.growth_bytes(bytes);
        let needed_bytes = chunk_bytes + INDEX_BYTES_PER_ENTRY;
        let active_bytes = self.active.bytes();
        let generation_bytes_max = self.config.generation_bytes_max;
        if active_bytes + needed_bytes > generation_bytes_max {
            return Err(OverlayFull { needed_bytes, active_bytes, generation_bytes_max });
        }
        let (staged, grown) = self.arena.append(group, slot, key, item);
        if let Some(chunk) = grown {
            debug_assert_eq!(self.arena.chunk_bytes(chunk), chunk_bytes);
            self.active.chunks.push(chunk);
            self.active.chunk_bytes += chunk_bytes;
        }
        self.active.entries_charged += 1;
        debug_assert!(self.active.bytes() <= generation_bytes_max);
        Ok(staged)
    }

    /// Gives a staged entry its slot, where that was not known when it was staged.
    pub fn set_slot(&mut self, staged: Staged, slot: Slot) {
        self.arena.set_slot(staged, slot);
    }

    /// Whether an entry whose key and item have this many bytes together can be staged now.
    #[must_use]
    pub fn has_room(&self, key_and_item_bytes: usize) -> bool {
        let growth_bytes = self.arena.growth_bytes(arena::bytes_of_entry(key_and_item_bytes));
        let bytes = self.active.bytes() + growth_bytes + INDEX_BYTES_PER_ENTRY;
        bytes <= self.config.generation_bytes_max
    }

    /// The entry behind a handle that is staged, or that was applied and not yet merged.
    #[must_use]
    pub fn staged(&self, staged: Staged) -> EntryRef<'_> {
        self.arena.entry(staged)
    }

    /// Changes the bound of a generation: recovery takes in what was in memory before the crash,
    /// however it was spread over generations.
    pub fn set_generation_bytes_max(&mut self, bytes: usize) {
        self.config.generation_bytes_max = bytes;
        self.arena.set_bytes_max(2 * bytes);
    }

    /// The entry was chosen: reads see it from now on, in place of any older one of its key, whose
    /// hash is handed in.
    pub fn apply(&mut self, staged: Staged, hash: KeyHash) {
        self.arena.unstage(staged);
        let EntryRef { group, key, slot, .. } = self.arena.entry(staged);
        let same_key = |other| self.arena.is_of(other, group, key);
        match self.active.points.insert(hash, staged, same_key) {
            None => self.active.index.insert(&self.arena, staged),
            Some(replaced) => {
                assert!(
                    self.arena.entry(replaced).slot <= slot,
                    "entries of one key are applied in slot order"
                );
                self.arena.supersede(replaced, staged);
            }
        }
    }

    /// The entry will never be chosen: its handle is void, and its bytes go with their generation.
    pub fn abandon(&mut self, staged: Staged) {
        self.arena.unstage(staged);
        self.active.entries_charged -= 1;
    }

    /// Gives back chunks that hold nothing but abandoned entries, where that is certain without a
    /// merge: nothing is applied in the active generation, and no earlier one waits for its merge.
    /// True if there were any.
    pub fn reclaim(&mut self) -> bool {
        if self.frozen_present || self.active.index.len() > 0 {
            return false;
        }
        self.arena.seal_open_chunk_unless_staged();
        let (active, arena) = (&mut self.active, &mut self.arena);
        let before = active.chunks.len();
        active.chunks.retain(|&chunk| {
            let staged = arena.staged_in(chunk);
            if staged == 0 {
                active.chunk_bytes -= arena.chunk_bytes(chunk);
                arena.recycle(chunk);
            }
            staged > 0
        });
        active.chunks.len() < before
    }

    /// The latest applied entry of a key. A delete is an entry too: the tree must not be asked.
    #[must_use]
    #[inline]
    pub fn get(&self, group: u32, key: &[u8], hash: KeyHash) -> Option<EntryRef<'_>> {
        let is = |at| self.arena.is_of(at, group, key);
        let mut found = self.active.points.find(hash, is);
        if found.is_none() && self.frozen_present && !planted::has(Flaw::MissFrozen) {
            found = self.frozen.points.find(hash, is);
        }
        found.map(|at| self.arena.entry(at))
    }

    /// Brings near what [`get`](Self::get) will look at for each of several keys: first all their
    /// places in the tables, then all their entries, so that the memory is waited for once.
    #[inline]
    pub fn touch(&self, hashes: &[KeyHash]) {
        let generations = [&self.active, &self.frozen];
        for Generation { points, .. } in &generations[..1 + usize::from(self.frozen_present)] {
            hashes.iter().for_each(|&hash| points.touch(hash));
            for &hash in hashes {
                points.find(hash, |at| {
                    self.arena.touch(at);
                    true
                });
            }
        }
    }

    /// The applied entries of a range of one group's keys in key order, or against it; for each
    /// key the latest, deletes included.
    #[must_use]
    pub fn range(
        &self,
        group: u32,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
    ) -> Range<'_> {
        let span = |generation: &Generation| generation.index.span(&self.arena, group, from, to);
        Range::new(self, span(&self.active), span(&self.frozen), reverse)
    }

    /// Brings near what [`apply`](Self::apply) will read and change for each of several entries.
    #[inline]
    pub fn touch_for_apply(&self, entries: &[(Staged, KeyHash)]) {
        let Generation { points, index, .. } = &self.active;
        entries.iter().for_each(|(_, hash)| points.touch(*hash));
        let latest = |hash| points.find(hash, |_| true);
        for &(_, hash) in entries {
            if let Some(latest) = latest(hash) {
                self.arena.touch_key(latest);
            }
        }
        for &(staged, hash) in entries {
            match latest(hash) {
                Some(latest) => self.arena.touch_key(self.arena.link(latest)),
                None => index.touch(&self.arena, staged),
            }
        }
    }

    /// Fixes the active generation for the merge and starts a new one. None, and nothing happens,
    /// while an earlier one is still being merged.
    pub fn freeze(&mut self) -> Option<Frozen> {
        if self.frozen_present {
            return None;
        }
        debug_assert!(self.frozen.chunks.is_empty() && self.frozen.index.len() == 0);
        std::mem::swap(&mut self.active, &mut self.frozen);
        self.frozen_present = true;
        self.freezes += 1;
        // Chunks with entries in flight go along with them; see the module's docs.
        let (frozen, active, arena) = (&mut self.frozen, &mut self.active, &self.arena);
        frozen.chunks.retain(|&chunk| {
            let staged = arena.staged_in(chunk);
            if staged > 0 {
                frozen.chunk_bytes -= arena.chunk_bytes(chunk);
                frozen.entries_charged -= staged;
                active.chunks.push(chunk);
                active.chunk_bytes += arena.chunk_bytes(chunk);
                active.entries_charged += staged;
            }
            staged == 0
        });
        self.arena.seal_open_chunk_unless_staged();
        Some(Frozen { entries: self.frozen.index.len(), bytes: self.frozen.bytes() })
    }

    /// Whether a frozen generation waits for its merge to end.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen_present
    }

    /// The lowest group at or above `group` with frozen entries: a merge visits group after group
    /// without holding a borrow.
    #[must_use]
    pub fn frozen_group_from(&self, group: u32) -> Option<u32> {
        self.frozen.index.group_from(&self.arena, group)
    }

    /// The groups with frozen entries, ascending.
    pub fn frozen_groups(&self) -> impl Iterator<Item = u32> + '_ {
        let mut next = self.frozen_group_from(0);
        std::iter::from_fn(move || {
            let group = next?;
            next = group.checked_add(1).and_then(|after| self.frozen_group_from(after));
            Some(group)
        })
    }

    /// A cursor over one group's frozen entries, in key order from `from` on.
    #[must_use]
    pub fn frozen_cursor(&self, group: u32, from: Bound<&[u8]>) -> FrozenCursor {
        assert!(self.frozen_present, "a merge needs a frozen generation");
        let Span { front, .. } = self.frozen.index.span(&self.arena, group, from, Bound::Unbounded);
        FrozenCursor::new(self, group, front)
    }

    /// One step on, if the cursor is at an entry.
    pub fn frozen_advance(&self, cursor: &mut FrozenCursor) {
        cursor.advance(self);
    }

    /// The entry at the cursor.
    pub fn frozen_peek(&self, cursor: &mut FrozenCursor) -> Option<EntryRef<'_>> {
        cursor.peek(self)
    }

    /// The merge has become the tree that reads use: the frozen entries are dropped and their
    /// chunks recycled.
    pub fn drop_frozen(&mut self) {
        assert!(self.frozen_present, "only a frozen generation can have been merged");
        for chunk in self.frozen.chunks.drain(..) {
            self.arena.recycle(chunk);
        }
        self.frozen.chunk_bytes = 0;
        self.frozen.entries_charged = 0;
        self.frozen.index.clear();
        self.frozen.points.clear();
        self.frozen_present = false;
    }

    /// Forgets the applied entries of a group whose table was deleted. Its entries in flight are
    /// the caller's to abandon.
    pub fn drop_group(&mut self, group: u32) {
        let arena = &self.arena;
        for Generation { index, points, .. } in [&mut self.active, &mut self.frozen] {
            index.remove_group(arena, group, |first| {
                let hash = KeyHash::of(group, arena.entry(first).key);
                points.remove(hash, arena.link(first));
            });
        }
    }

    /// Memory of the active generation.
    #[must_use]
    pub fn active_bytes(&self) -> usize {
        self.active.bytes()
    }

    /// Memory of the frozen generation.
    #[must_use]
    pub fn frozen_bytes(&self) -> usize {
        self.frozen.bytes()
    }

    /// Memory of both generations.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.active.bytes() + self.frozen.bytes()
    }

    /// Applied keys of the active generation.
    #[must_use]
    pub fn active_entries(&self) -> usize {
        self.active.index.len()
    }

    /// Keys of the frozen generation.
    #[must_use]
    pub fn frozen_entries(&self) -> usize {
        self.frozen.index.len()
    }

    /// Applied keys of both generations; a key in both counts twice.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.active_entries() + self.frozen_entries()
    }

    /// How full both generations are.
    #[must_use]
    pub fn fill(&self) -> Fill {
        let part = |bytes: usize| bytes as f64 / self.config.generation_bytes_max as f64;
        Fill { active: part(self.active.bytes()), frozen: part(self.frozen.bytes()) }
    }
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay")
            .field("active_entries", &self.active_entries())
            .field("active_bytes", &self.active_bytes())
            .field("frozen_entries", &self.frozen_entries())
            .field("frozen_bytes", &self.frozen_bytes())
            .finish_non_exhaustive()
    }
}
