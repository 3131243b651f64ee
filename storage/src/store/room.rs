//! Room on the disk: what a checkpoint of everything in memory may need, and growing the pages file
//! before it is needed.
//!
//! A write is admitted only if what merging it may take at worst is there, so that what was
//! acknowledged can always be merged, deletes go on when Puts are refused, and a full disk loses
//! nothing. That is counted for single blocks, and set aside for runs of several: see
//! [`crate::space::Runs`]. It holds whether or not the file could grow, because the file system may
//! refuse at any time; growing ahead keeps writes from waiting for it.
//!
//! **What a merge may take.** [`blocks_max`]: three blocks an entry, but not more than a third above
//! what the trees have; and a third above what the new bytes fill.
//!
//! **What it may take it from.** Free blocks; and for the generation that is merged later also what
//! the trees no longer hold, because it is free by then. A page freed by one checkpoint is reusable
//! when the next one's superblock is durable. That next one can be made of nothing: a checkpoint
//! that merges nothing needs no block, and leaves everything that was freed before it to the
//! following one. So before a merge that free blocks alone cannot hold, such a checkpoint is made
//! ([`Store::needs_clearing`]), and the file need not be longer for what waits to be reused.
//!
//! ```text
//!   now          free                                    ≥ what the merge under way may still take
//!   afterwards   free + replaced + waiting for reuse     ≥ that, and what the active generation may take
//!   after a      free + waiting for reuse before this    ≥ what both generations may take in one merge:
//!   crash        checkpoint + allocated by this one        recovery has them as one
//! ```
//!
//! All three hold for each entry admitted; Puts leave [`DELETE_BLOCKS`] to deletes, and a value of
//! several blocks or a long key needs its run besides. Beyond that deletes wait for a checkpoint.
//!
//! **Giving back.** What the file has is not given back. Three quarters of it can be free after a
//! large load, and cutting that off is sound in itself: a length that only a later superblock has, a
//! map whose last region shrinks. But free blocks are spread over the file, because pages are
//! written where next fit finds room, so a file is cut only as far as its last page, and moving pages
//! to the front rewrites them and all paths to them: a compaction, which does not exist. Punching
//! holes instead would give the blocks to the file system at once, but a free block is a promise
//! here, and a punched one would have to leave the count until it is allocated again. Bound on the
//! file, with `n` pages in the trees and `b` in both generations: it grows while free blocks do not
//! suffice for the above, so to `n` + 4/3 (`n` + `b`) in a steady state where each merge replaces
//! everything, and up to 4/3 (`n` + `b`) − `n` more when the next generation is full before that;
//! plus an eighth of what is kept, so that writes do not wait for the growth, and the file's step.
//!
//! Left out: room for falling back to the older superblock, which is damage. What both generations
//! and the checkpoint before hold is merged from the log then; on a full disk that may have to wait
//! until there is more space. And holds: pages held count as gone, but what was admitted before
//! somebody held them waits for the release.

use forebay_core::time::Nanos;

use super::checkpoint::Phase;
use super::{Refused, Store, Work};
use crate::block::BLOCK_BYTES;
use crate::space::Runs;
use crate::tree::merge::blocks_max;

/// After the file system refused to grow the pages file, it is asked again.
const GROW_RETRY_NANOS: u64 = Nanos::PER_SECOND;
/// Blocks beside what the entries need: catalog, bitmaps, the path of a small merge. In runs that
/// hold the largest tree page, so that they serve on a disk in pieces, too.
pub(super) const RESERVE_BLOCKS: u64 = 256;
/// Blocks that only deletes may claim on a full disk, so that some always fit one checkpoint.
const DELETE_BLOCKS: u64 = 256;
/// Least blocks of a new file: what is kept for deletes and checkpoints, and for the first groups.
pub(super) const FIRST_BLOCKS: u64 = RESERVE_BLOCKS + DELETE_BLOCKS + 64;

/// Of free blocks, what growing ahead asks for beyond the need: this part of it.
const AHEAD_PART: u64 = 8;

/// What the checkpoint under way merges, and where space stood when it began. Kept until its
/// superblock is durable: a crash before that brings all of it back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Merging {
    entries: u64,
    bytes: u64,
    /// Blocks of the trees.
    live_blocks: u64,
    /// Of all time, when it began.
    allocated_blocks: u64,
    freed_blocks: u64,
    /// What it may take.
    need: u64,
}

impl Store {
    /// To be called as a checkpoint begins, with what it merges: memory is counted before the
    /// freeze, which leaves to the active generation what shares a chunk with entries in flight.
    pub(super) fn begin_room(&mut self, entries: u64, bytes: u64) {
        let live_blocks = self.space.live_blocks();
        self.checkpoint.merging = Merging {
            entries,
            bytes,
            live_blocks,
            allocated_blocks: self.space.allocated_blocks(),
            freed_blocks: self.space.freed_blocks(),
            need: blocks_max(entries, bytes, live_blocks),
        };
    }

    /// Bytes of the active generation that go to single blocks.
    pub(super) fn active_single_bytes(&self) -> u64 {
        (self.overlay.active_bytes() as u64).saturating_sub(self.space.active_aside_bytes())
    }

    /// Whether what is to be merged next may need blocks that an empty checkpoint would set free.
    pub(super) fn needs_clearing(&self) -> bool {
        let entries = self.overlay.active_entries() as u64;
        let need = blocks_max(entries, self.active_single_bytes(), self.space.live_blocks());
        entries > 0
            && self.space.free_blocks() < need + self.space.reserve_missing_blocks()
            && self.space.reclaimable_blocks() > 0
    }

    /// What the merge under way may still take.
    pub(super) fn merge_left_blocks(&self) -> u64 {
        let merging = &self.checkpoint.merging;
        let allocated = self.space.allocated_blocks() - merging.allocated_blocks;
        let is_merging = matches!(self.checkpoint.phase, Phase::Merging | Phase::Catalog);
        if is_merging { merging.need.saturating_sub(allocated) } else { 0 }
    }

    /// Blocks missing for `extra` beside what merging everything in memory may take, of which `now`
    /// are taken at once.
    fn missing_blocks(&self, extra: u64, now: u64) -> u64 {
        let (space, merging) = (&self.space, &self.checkpoint.merging);
        let entries = self.overlay.active_entries() + self.in_flight.len() + self.staged.len();
        let (entries, bytes) = (entries as u64, self.active_single_bytes());
        let allocated = space.allocated_blocks() - merging.allocated_blocks;
        let freed = space.freed_blocks() - merging.freed_blocks;
        let left = self.merge_left_blocks();
        // Until a merge is done, the pages that it replaces count as live.
        let new = merging.bytes / BLOCK_BYTES as u64;
        let live_after = if left > 0 { merging.live_blocks + new } else { space.live_blocks() };
        let replaced = self.checkpoint.merge.replaced_blocks();
        let free = space.free_blocks();
        let active = blocks_max(entries, bytes, live_after);
        let mut missing = (left + now).saturating_sub(free);
        let later = free + replaced + space.reclaimable_blocks();
        missing = missing.max((left + active + extra).saturating_sub(later));
        if !self.checkpoint.is_idle() {
            let (entries, bytes) = (entries + merging.entries, bytes + merging.bytes);
            let both = blocks_max(entries, bytes, merging.live_blocks);
            // Those that wait for reuse hold what this checkpoint has freed.
            let later = free + space.deferred_blocks() + allocated - freed;
            missing = missing.max((both + extra).saturating_sub(later));
        }
        missing
    }

    /// Lets the pages file grow before the next checkpoint needs it, and before [`Self::admit`] has
    /// to refuse the largest entry or to wait: while a growth is under way, writes go on.
    pub(super) fn grow_ahead(&mut self, now: Nanos, work: &mut Work) {
        let largest = entry_blocks(self.entry_bytes_max);
        let entries = self.overlay.active_entries() as u64;
        let need = blocks_max(entries, self.active_single_bytes(), self.space.live_blocks());
        let install = self.install_blocks_wanted();
        let extra = self.space.reserve_missing_blocks() + DELETE_BLOCKS + largest + install;
        let missing = self.missing_blocks(extra + need / AHEAD_PART, largest);
        let run = self.checkpoint.run_wanted;
        if missing > 0 || run > 0 {
            self.grow(run.max(1), run.max(missing), now, work);
        }
    }

    /// Lets the pages file grow by a run of `run` blocks, and by `blocks` if that is to be had.
    pub(super) fn grow(&mut self, run: u64, blocks: u64, now: Nanos, work: &mut Work) {
        if let Some(refused_at) = self.checkpoint.grow_refused_at {
            let again_at = refused_at + GROW_RETRY_NANOS;
            if now < again_at {
                return work.wake_by(again_at);
            }
        }
        if self.checkpoint.grow.is_none() {
            let op = self.next_op();
            if let Some(grow) = self.space.grow(run, blocks, op) {
                self.checkpoint.grow = Some(op);
                self.disk.push(grow);
            }
        }
    }

    /// A growth ended. Refused, it is tried in smaller steps in the coming turns.
    pub(super) fn grown(&mut self, result: Result<(), crate::block::DiskError>, now: Nanos) {
        self.checkpoint.grow = None;
        match self.space.grown(result) {
            Ok(false) => return,
            Ok(true) => self.checkpoint.grow_refused_at = None,
            Err(_) => self.checkpoint.grow_refused_at = Some(now),
        }
        self.checkpoint.run_wanted = 0;
    }

    /// Whether the file system refused to let the pages file grow.
    pub(super) fn is_disk_full(&self) -> bool {
        self.checkpoint.grow_refused_at.is_some()
    }

    /// Refuses what could not be merged on a full disk. Deletes are accepted further than Puts, and
    /// beyond that wait for a checkpoint, which gives back what earlier ones freed.
    pub(super) fn admit_to_disk(
        &self,
        bytes: usize,
        runs: Runs,
        frees_space: bool,
    ) -> Result<(), Refused> {
        let for_deletes = if frees_space { 0 } else { DELETE_BLOCKS };
        let (runs, kept) = (runs.blocks(), self.space.reserve_missing_blocks());
        let missing = self.missing_blocks(for_deletes + entry_blocks(bytes) + runs + kept, runs);
        if missing == 0 { Ok(()) } else { Err(self.no_space(frees_space)) }
    }

    /// Sets aside what merging an admitted entry needs in one piece. Where there is no such run, the
    /// file grows by one; on a full disk a checkpoint may free one, and Puts are refused.
    pub(super) fn set_aside(&mut self, runs: Runs, frees_space: bool) -> Result<(), Refused> {
        if runs.is_none() || self.space.set_aside(runs, frees_space) {
            return Ok(());
        }
        self.checkpoint.run_wanted = self.checkpoint.run_wanted.max(runs.longest());
        self.checkpoint.run_refused = true;
        Err(self.no_space(frees_space))
    }

    fn no_space(&self, frees_space: bool) -> Refused {
        if self.is_disk_full() && !frees_space {
            let free_bytes = self.space.free_blocks() * BLOCK_BYTES as u64;
            Refused::DiskFull { free_bytes }
        } else {
            Refused::Overloaded
        }
    }

    /// Whether the disk is full, and a checkpoint would give blocks back.
    pub(super) fn disk_needs_checkpoint(&self, changed: bool, now: Nanos, work: &mut Work) -> bool {
        if !self.is_disk_full() || !(changed || self.space.deferred_blocks() > 0) {
            return false;
        }
        let typical = super::TYPICAL_ENTRY_BYTES;
        if self.admit_to_disk(typical, Runs::default(), false).is_err() {
            return true;
        }
        // Of runs nobody can say beforehand whether a checkpoint frees one: not at any rate.
        let due_at = self.checkpoint.finished_at() + GROW_RETRY_NANOS;
        if self.checkpoint.run_refused && now < due_at {
            work.wake_by(due_at);
        }
        self.checkpoint.run_refused && now >= due_at
    }
}

/// Blocks that merging one more entry may take, of which this many bytes go to single blocks.
fn entry_blocks(bytes: usize) -> u64 {
    2 * (bytes as u64).div_ceil(BLOCK_BYTES as u64) + 3
}
