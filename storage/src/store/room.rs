//! Room on the disk: what a checkpoint of everything in memory may need, and growing the pages file
//! before it is needed.
//!
//! A write is admitted only if the blocks that merging it may take at worst are there, so that what
//! was acknowledged can always be merged, deletes go on when Puts are refused, and a full disk
//! loses nothing.

use forebay_core::time::Nanos;

use super::{Refused, Store, Work};
use crate::block::BLOCK_BYTES;

/// After the file system refused to grow the pages file, it is asked again.
const GROW_RETRY_NANOS: u64 = Nanos::PER_SECOND;
/// Blocks beside what the entries need: catalog, bitmaps, the path of a small merge.
pub(super) const RESERVE_BLOCKS: u64 = 256;
/// Blocks that only deletes may claim on a full disk, so that some always fit one checkpoint.
const DELETE_BLOCKS: u64 = 256;

impl Store {
    /// Blocks that merging everything in memory may take at worst: each entry rewrites its leaf and
    /// its share of the path, but no more pages than there are, and new bytes fill pages at least
    /// half; both generations, and what is in flight.
    pub(super) fn reserve_blocks(&self) -> u64 {
        let entries = (self.overlay.entries() + self.in_flight.len()) as u64;
        let rewritten = (entries * 3).min(2 * self.space.live_blocks());
        let new = 2 * (self.overlay.bytes() as u64).div_ceil(BLOCK_BYTES as u64);
        rewritten + new + RESERVE_BLOCKS
    }

    /// Lets the pages file grow before the next checkpoint needs it, and before [`Self::admit`] has
    /// to refuse the largest entry.
    pub(super) fn grow_ahead(&mut self, now: Nanos, work: &mut Work) {
        let largest = entry_blocks(self.entry_bytes_max);
        let wanted = self.reserve_blocks() + DELETE_BLOCKS + largest;
        if self.space.free_blocks() < wanted {
            self.grow(wanted - self.space.free_blocks(), now, work);
        }
    }

    pub(super) fn grow(&mut self, blocks: u64, now: Nanos, work: &mut Work) {
        if let Some(refused_at) = self.checkpoint.grow_refused_at {
            let again_at = refused_at + GROW_RETRY_NANOS;
            if now < again_at {
                return work.wake_by(again_at);
            }
        }
        if self.checkpoint.grow.is_none() {
            let op = self.next_op();
            if let Some(grow) = self.space.grow(blocks, op) {
                self.checkpoint.grow = Some(op);
                self.disk.push(grow);
            }
        }
    }

    /// Refuses what could not be merged on a full disk. Deletes are accepted further than Puts, and
    /// beyond that wait for a checkpoint, which gives back what earlier ones freed. While the file
    /// can still grow, growth may lag behind: half of the reserve is enough.
    pub(super) fn admit_to_disk(&self, bytes: usize, frees_space: bool) -> Result<(), Refused> {
        let (free, reserve) = (self.space.free_blocks(), self.reserve_blocks());
        let full = self.checkpoint.grow_refused_at.is_some();
        let needed = match (full, frees_space) {
            (false, _) => reserve / 2,
            (true, true) => reserve,
            (true, false) => reserve + DELETE_BLOCKS,
        };
        if free >= needed + entry_blocks(bytes) {
            Ok(())
        } else if full && !frees_space {
            Err(Refused::DiskFull { free_bytes: free * BLOCK_BYTES as u64 })
        } else {
            Err(Refused::Overloaded)
        }
    }
}

/// Blocks that merging one more entry of this size may take.
fn entry_blocks(bytes: usize) -> u64 {
    2 * (bytes as u64).div_ceil(BLOCK_BYTES as u64) + 3
}
