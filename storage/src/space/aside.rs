//! Runs of blocks set aside before they are needed, so that a checkpoint of what was admitted never
//! waits for one.
//!
//! ```text
//!   write admitted ──► a run for its extent ──► active ──freeze──► frozen ──merge──► live
//!                                                  ▲                  └─ not needed: free again
//!   in flight at the freeze ───────────────────────┘
//! ```
//!
//! How many single blocks a merge may need can be counted, and any free ones will do. A value of
//! several blocks needs them side by side, and so does a tree page of two or four (long keys). On
//! a disk in pieces enough free blocks are no promise of a run, and a merge that waits for one
//! waits for good: no later checkpoint frees anything. So the run is found when the write is
//! admitted, or the write is refused.
//!
//! Runs are kept by their length, not by their write: any extent of that length will do. An entry
//! that is overwritten, or whose group is dropped, before the merge comes to it leaves its run, which
//! comes free when the merge is done.
//!
//! Beside those stands a reserve of runs as long as the largest tree page: for the catalog, the
//! path of a small merge, and deletes of long keys on a disk so full and in so many pieces that
//! nothing else is left. It is filled again as blocks come free.
//!
//! On the disk a run set aside is free: only a checkpoint makes it more. Recovery sets runs aside
//! again for the entries that it replays.
//!
//! Left out: remembering where runs were. Recovery fits them anew, the longest first, into what was
//! free for all of them before; only a mixture of lengths on a disk that is full to the last run
//! could fail to fit again. Then the merge waits for that run as for any other space.

use std::collections::BTreeMap;

use super::SpaceMap;
use crate::tree::page::{
    CHILD_BYTES, ENTRY_BYTES_MAX, PAGE_BLOCKS_MAX, SLOT_BYTES, goes_to_overflow, overflow_blocks,
};

/// Length of the runs kept for tree pages.
const PAGE_RUN: u16 = PAGE_BLOCKS_MAX as u16;
/// Page runs for an entry with a long key: its leaf and its share of the path.
const PAGE_RUNS_OF_LONG_KEY: u8 = 3;
/// Longer keys may make a tree page larger than a block: fewer than three separators fit one.
const SHORT_KEY_BYTES_MAX: usize = ENTRY_BYTES_MAX - SLOT_BYTES - CHILD_BYTES;

/// The runs that merging one entry may need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Runs {
    /// Blocks of the value's extent, if they are several.
    extent: u16,
    /// Runs for tree pages.
    pages: u8,
}

impl Runs {
    /// What an entry of this key and item needs.
    #[must_use]
    pub fn of(key: &[u8], item: Option<&[u8]>) -> Runs {
        let extent = match item {
            Some(item) if goes_to_overflow(key.len(), item.len()) => overflow_blocks(item.len()),
            _ => 0,
        };
        let long = key.len() > SHORT_KEY_BYTES_MAX;
        Runs {
            extent: if extent > 1 { extent as u16 } else { 0 },
            pages: if long { PAGE_RUNS_OF_LONG_KEY } else { 0 },
        }
    }

    /// Single blocks will do.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Runs::default()
    }

    /// Blocks of all of them.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        u64::from(self.extent) + u64::from(self.pages) * u64::from(PAGE_RUN)
    }

    /// Of an entry's bytes, those that go to single blocks.
    #[must_use]
    pub fn single_bytes(&self, bytes: usize) -> usize {
        bytes.saturating_sub(self.extent_bytes() as usize)
    }

    /// Blocks of the longest.
    #[must_use]
    pub fn longest(&self) -> u64 {
        u64::from(self.extent.max(if self.pages > 0 { PAGE_RUN } else { 0 }))
    }

    /// Bytes of the item that are in whole blocks of its extent.
    fn extent_bytes(&self) -> u64 {
        u64::from(self.extent.saturating_sub(1)) * crate::block::BLOCK_BYTES as u64
    }
}

/// Runs of one generation of entries.
#[derive(Default)]
pub(super) struct Aside {
    /// First blocks, by length.
    extents: BTreeMap<u16, Vec<u64>>,
    pages: Vec<u64>,
    blocks: u64,
    /// Of the items that the extents are for, those already merged included.
    extent_bytes: u64,
}

impl Aside {
    fn push_extent(&mut self, blocks: u16, id: u64) {
        self.extents.entry(blocks).or_default().push(id);
        self.blocks += u64::from(blocks);
    }

    fn pop_extent(&mut self, blocks: u16) -> Option<u64> {
        let id = self.extents.get_mut(&blocks)?.pop()?;
        self.blocks -= u64::from(blocks);
        Some(id)
    }

    fn push_page(&mut self, id: u64) {
        self.pages.push(id);
        self.blocks += u64::from(PAGE_RUN);
    }

    fn pop_page(&mut self) -> Option<u64> {
        let id = self.pages.pop()?;
        self.blocks -= u64::from(PAGE_RUN);
        Some(id)
    }
}

/// See the module's docs.
#[derive(Default)]
pub(super) struct SetAside {
    active: Aside,
    frozen: Aside,
    /// Page runs for whoever finds nothing else.
    reserve: Vec<u64>,
    reserve_runs: usize,
}

impl SetAside {
    pub(super) fn blocks(&self) -> u64 {
        self.active.blocks + self.frozen.blocks + self.reserve.len() as u64 * u64::from(PAGE_RUN)
    }
}

impl SpaceMap {
    /// Keeps a reserve of `blocks` in runs for tree pages, as far as there are such runs.
    pub fn keep_reserve(&mut self, blocks: u64) {
        self.aside.reserve_runs = blocks.div_ceil(u64::from(PAGE_RUN)) as usize;
        self.fill_reserve();
    }

    /// Blocks that the reserve lacks.
    #[must_use]
    pub fn reserve_missing_blocks(&self) -> u64 {
        let missing = self.aside.reserve_runs - self.aside.reserve.len();
        missing as u64 * u64::from(PAGE_RUN)
    }

    pub(super) fn fill_reserve(&mut self) {
        while self.aside.reserve.len() < self.aside.reserve_runs {
            let Some(id) = self.take(PAGE_RUN) else { return };
            self.aside.reserve.push(id);
        }
    }

    /// Sets runs aside for an entry of the active generation; false, and nothing happened, if they
    /// are not there. An `urgent` one may use the reserve.
    #[must_use]
    pub fn set_aside(&mut self, runs: Runs, urgent: bool) -> bool {
        let mut taken = Runs::default();
        if runs.extent > 0 {
            let Some(id) = self.take(runs.extent) else { return false };
            self.aside.active.push_extent(runs.extent, id);
            self.aside.active.extent_bytes += runs.extent_bytes();
            taken.extent = runs.extent;
        }
        while taken.pages < runs.pages {
            let mut found = self.take(PAGE_RUN);
            if found.is_none() && urgent {
                found = self.aside.reserve.pop();
            }
            let Some(id) = found else {
                self.give_back(taken);
                return false;
            };
            self.aside.active.push_page(id);
            taken.pages += 1;
        }
        true
    }

    /// The inverse of [`SpaceMap::set_aside`]: the entry was not written after all.
    pub fn give_back(&mut self, runs: Runs) {
        if runs.extent > 0 {
            let id = self.aside.active.pop_extent(runs.extent).expect("set aside before");
            self.aside.active.extent_bytes -= runs.extent_bytes();
            self.clear_busy(id, runs.extent);
        }
        for _ in 0..runs.pages {
            let id = self.aside.active.pop_page().expect("set aside before");
            self.clear_busy(id, PAGE_RUN);
        }
        self.fill_reserve();
    }

    /// The active generation is frozen: its runs are the merge's from now on, but for those of
    /// entries that are `in_flight`, which belong to the next one.
    pub fn freeze_aside(&mut self, in_flight: impl Iterator<Item = Runs>) {
        let SetAside { active, frozen, .. } = &mut self.aside;
        assert_eq!(frozen.blocks, 0, "the last merge gave back what it did not use");
        std::mem::swap(active, frozen);
        for runs in in_flight {
            if runs.extent > 0 {
                let id = frozen.pop_extent(runs.extent).expect("set aside before");
                active.push_extent(runs.extent, id);
                active.extent_bytes += runs.extent_bytes();
                frozen.extent_bytes -= runs.extent_bytes();
            }
            for _ in 0..runs.pages {
                active.push_page(frozen.pop_page().expect("set aside before"));
            }
        }
    }

    /// The frozen generation is merged: what it did not use is free.
    pub fn drop_frozen_aside(&mut self) {
        let mut frozen = std::mem::take(&mut self.aside.frozen);
        for (blocks, ids) in &mut frozen.extents {
            ids.drain(..).for_each(|id| self.clear_busy(id, *blocks));
        }
        frozen.pages.drain(..).for_each(|id| self.clear_busy(id, PAGE_RUN));
        (frozen.blocks, frozen.extent_bytes) = (0, 0);
        // Its lists keep their memory.
        self.aside.frozen = frozen;
        self.fill_reserve();
    }

    /// Takes a run for a value of the frozen generation: what was set aside for it, or any.
    pub fn allocate_extent(&mut self, blocks: u16) -> Option<u64> {
        match self.aside.frozen.pop_extent(blocks) {
            Some(id) => {
                self.make_live(id, blocks);
                Some(id)
            }
            None => self.allocate(blocks),
        }
    }

    /// Room for a tree page where there is no other.
    pub(super) fn take_page_run(&mut self, blocks: u16) -> Option<u64> {
        if blocks > PAGE_RUN {
            return None;
        }
        // A single block is never short while entries are admitted by count; it is the reserve's.
        let set_aside = if blocks > 1 { self.aside.frozen.pop_page() } else { None };
        let id = set_aside.or_else(|| self.aside.reserve.pop())?;
        if blocks < PAGE_RUN {
            self.clear_busy(id + u64::from(blocks), PAGE_RUN - blocks);
        }
        Some(id)
    }

    /// Blocks that are neither free nor held by any checkpoint, but set aside.
    #[must_use]
    pub fn aside_blocks(&self) -> u64 {
        self.aside.blocks()
    }

    /// Bytes of items of the active generation for which extents were set aside.
    #[must_use]
    pub fn active_aside_bytes(&self) -> u64 {
        self.aside.active.extent_bytes
    }

    /// Bytes of items in both generations for which extents were set aside.
    #[cfg(test)]
    pub(super) fn aside_bytes(&self) -> u64 {
        self.aside.active.extent_bytes + self.aside.frozen.extent_bytes
    }
}
