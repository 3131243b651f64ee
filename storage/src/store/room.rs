//! Room on the disk: what a checkpoint of everything in memory may need, and growing the pages file
//! before it is needed.
//!
//! A write is admitted only if what merging it may take at worst is there, so that what was
//! acknowledged can always be merged, deletes go on when Puts are refused, and a full disk loses
//! nothing. That is counted for single blocks, and set aside for runs of several: see
//! [`crate::space::Runs`]. It holds whether or not the file could grow, because the file system may
//! refuse at any time; growing ahead keeps writes from waiting for it.
//!
//! ```text
//!   free blocks ≥ reserve_blocks() + DELETE_BLOCKS   Puts
//!   free blocks ≥ reserve_blocks()                   deletes; beyond, they wait for a checkpoint
//!   a run is there, or the file grows by one         a value of several blocks, a long key
//! ```

use forebay_core::time::Nanos;

use super::{Refused, Store, Work};
use crate::block::BLOCK_BYTES;
use crate::space::Runs;

/// After the file system refused to grow the pages file, it is asked again.
const GROW_RETRY_NANOS: u64 = Nanos::PER_SECOND;
/// Blocks beside what the entries need: catalog, bitmaps, the path of a small merge. In runs that
/// hold the largest tree page, so that they serve on a disk in pieces, too.
pub(super) const RESERVE_BLOCKS: u64 = 256;
/// Blocks that only deletes may claim on a full disk, so that some always fit one checkpoint.
const DELETE_BLOCKS: u64 = 256;
/// Least blocks of a new file: what is kept for deletes and checkpoints, and for the first groups.
pub(super) const FIRST_BLOCKS: u64 = RESERVE_BLOCKS + DELETE_BLOCKS + 64;

impl Store {
    /// Blocks that merging everything in memory may take at worst, beside what is set aside: each
    /// entry rewrites its leaf and its share of the path, but no more pages than there are, and new
    /// bytes fill pages at least half; both generations, and what is in flight.
    pub(super) fn reserve_blocks(&self) -> u64 {
        let entries = (self.overlay.entries() + self.in_flight.len() + self.staged.len()) as u64;
        let rewritten = (entries * 3).min(2 * self.space.live_blocks());
        let bytes = (self.overlay.bytes() as u64).saturating_sub(self.space.aside_bytes());
        let new = 2 * bytes.div_ceil(BLOCK_BYTES as u64);
        rewritten + new + self.space.reserve_missing_blocks()
    }

    /// Lets the pages file grow before the next checkpoint needs it, and before [`Self::admit`] has
    /// to refuse the largest entry or to wait: while a growth is under way, writes go on.
    pub(super) fn grow_ahead(&mut self, now: Nanos, work: &mut Work) {
        let largest = entry_blocks(self.entry_bytes_max);
        let reserve = self.reserve_blocks();
        let wanted = reserve + reserve / 4 + DELETE_BLOCKS + largest;
        let free = self.space.free_blocks();
        let run = self.checkpoint.run_wanted;
        if free < wanted || run > 0 {
            self.grow(run.max(1), run.max(wanted.saturating_sub(free)), now, work);
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
        let needed = self.reserve_blocks() + for_deletes + entry_blocks(bytes) + runs.blocks();
        if self.space.free_blocks() >= needed { Ok(()) } else { Err(self.no_space(frees_space)) }
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
