//! The space map: which blocks of the pages file are free.
//!
//! ```text
//!   region (32,000 blocks)
//!   ┌────────┬────────┬────────┬──────────────────────────────────────────────┐
//!   │ slot A │ slot B │ slot C │ pages …                                      │
//!   └────────┴────────┴────────┴──────────────────────────────────────────────┘
//!     n−1       n       n+1: being written
//! ```
//!
//! A bitmap slot holds, for one checkpoint, a bit for each block of its region: set if the
//! checkpoint holds the block. A checkpoint writes only the regions that changed since their last
//! slot, into the slot with the lowest number, so both valid superblocks always find theirs: the
//! slot with the highest number not above their own. Three slots, because a third is being written
//! while two superblocks are valid. The superblock carries a digest over (region, number, crc) of
//! its slots, so a lost bitmap write is found.
//!
//! A slot whose number is above the superblock that recovery chose is left over from a checkpoint
//! that never completed. Its number will come again, so recovery counts such regions as changed:
//! the coming checkpoint overwrites the leftover before its number means anything.
//!
//! **Rule (page lifetime).** The checkpoint *n* that no longer holds a page still leaves it to
//! superblock *n−1*, which stays valid until superblock *n+1* is durable. So a page freed while
//! building *n* can be allocated once *n+1* is durable, and if no hold (a snapshot, read or send)
//! of a checkpoint before *n* remains. After recovery the same follows from the two superblocks'
//! bitmaps: what only the older one holds counts as freed by the newer.
//!
//! Two bits per block in memory: `busy` (must not be allocated) and `live` (held by the checkpoint
//! being built, the bit that is written). Freeing clears `live`; `busy` follows later.
//!
//! Bitmap slot (one block, little-endian):
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | crc32 from offset 4 |
//! | 4 | 4 | magic "FBsm" |
//! | 8 | 2 | version, 1 |
//! | 10 | 2 | shard |
//! | 12 | 4 | region |
//! | 16 | 8 | checkpoint number |
//! | 24 | 72 | reserved, zero |
//! | 96 | 4000 | bits, lowest bit of the first byte first |
//!
//! Invariants: `live ⊆ busy`; `busy` without `live` is exactly the deferred list, what is set aside
//! (`aside`), what is borrowed for a tree that is being received, metadata and blocks beyond the
//! file's end; an extent never crosses a region's end.
//!
//! Next fit keeps what is written together close together. Where random updates have left single
//! free blocks everywhere, it would write each page alone: so it goes from one long free run to the
//! next, and what lies between is used when there is none. Measured on a simulated disk, after half a
//! minute in which each checkpoint changed a few leaves in a hundred: 3 pages a write, before 1.7.
//!
//! Left out: best fit; pages are small.

use std::collections::BTreeMap;

use forebay_core::ids::ShardId;
use forebay_core::planted::{self, Flaw};
use xxhash_rust::xxh3::Xxh3Default;

use crate::block::{BLOCK_BYTES, BlockBuf, DiskError, DiskOp, Durability, OpId, ShardFile};

/// Blocks of a region; its bits fill a bitmap slot.
pub const REGION_BLOCKS: u64 = 32_000;
/// Bitmap slots of a region.
pub const SLOTS: u64 = 3;
/// Blocks before region 0's bitmap slots: the superblocks.
pub const SUPERBLOCKS: u64 = 2;
/// The file grows by at least this much, or by a sixteenth if that is more, while the file system
/// has it; on a nearly full one by a quarter of that, and so on, down to [`GROW_BLOCKS_LEAST`].
pub const GROW_BLOCKS_MIN: u64 = 2_048;
/// A smaller step is not worth a metadata update of the file system.
pub const GROW_BLOCKS_LEAST: u64 = 64;

/// Free runs that pages are written into, the longest first; see [`SpaceMap::allocate`].
const RUNS_SOUGHT: [u64; 3] = [32, 16, 8];

mod aside;
mod region;

pub use aside::Runs;
use aside::SetAside;
use region::{Bits, Region, Slot, WORDS, bit, decode_slot, encode_slot, for_masks};

/// A run of free blocks was asked for that the file does not have now, or the map is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    /// The file system refused to grow the file. Nothing is lost: refuse writes, delete or add
    /// space, and try again.
    #[error("the pages file cannot grow to {file_blocks} blocks: {error}")]
    DiskFull {
        /// Length asked for.
        file_blocks: u64,
        /// The system's answer.
        error: DiskError,
    },
    /// No bitmap slot of this region can belong to the checkpoint, or together they are not the
    /// superblock's: a lost or damaged write. Rebuild the map by walking the trees, or from peers.
    #[error("space map: region {region} has no valid bitmap for checkpoint {checkpoint}")]
    BitmapLost {
        /// The region.
        region: u64,
        /// The superblock's number.
        checkpoint: u64,
    },
    /// Every slot is valid, but together they are not the ones that the superblock counted.
    #[error(
        "space map of checkpoint {checkpoint}: digest {expected:#034x} expected, {found:#034x} found"
    )]
    Digest {
        /// The superblock's number.
        checkpoint: u64,
        /// The superblock's digest.
        expected: u128,
        /// What the slots give.
        found: u128,
    },
}

/// What recovery needs of a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceRoot {
    /// Number of the checkpoint.
    pub checkpoint: u64,
    /// Length of the file.
    pub file_blocks: u64,
    /// The superblock's digest.
    pub digest: u128,
}

/// Free and allocated blocks of one pages file.
pub struct SpaceMap {
    shard: ShardId,
    file_blocks: u64,
    regions: Vec<Region>,
    /// Where the next search begins.
    next_fit: u64,
    /// Free blocks from there on that are taken one after the other.
    run_left: u64,
    free_blocks: u64,
    live_blocks: u64,
    /// Of all time: free blocks that became pages, and pages that were freed.
    allocated_blocks: u64,
    freed_blocks: u64,
    /// By the number of the checkpoint that no longer holds them.
    deferred: BTreeMap<u64, Vec<(u64, u16)>>,
    deferred_blocks: u64,
    /// Of pages that no checkpoint holds yet.
    borrowed_blocks: u64,
    /// Checkpoint number, number of holders.
    holds: BTreeMap<u64, u32>,
    /// The checkpoint being built.
    building: u64,
    /// Newest checkpoint whose superblock is durable.
    durable: u64,
    growing: Option<Growth>,
    /// What the file system refused last, and it may still have: a quarter of it.
    step_max: u64,
    aside: SetAside,
}

/// A growth under way.
#[derive(Clone, Copy, Debug)]
struct Growth {
    file_blocks: u64,
    step: u64,
    /// Less would not do.
    least: u64,
}

fn region_head(region: u64) -> u64 {
    if region == 0 { SUPERBLOCKS + SLOTS } else { SLOTS }
}

/// Block of a region's bitmap slot.
#[must_use]
pub fn slot_block(region: u64, slot: u64) -> u64 {
    debug_assert!(slot < SLOTS);
    region * REGION_BLOCKS + region_head(region) - SLOTS + slot
}

/// Regions of a file of this length; the last may be partial.
#[must_use]
pub fn regions_of(file_blocks: u64) -> u64 {
    file_blocks.div_ceil(REGION_BLOCKS)
}

fn digest_of(slots: impl Iterator<Item = (u64, Slot)>) -> u128 {
    let mut hasher = Xxh3Default::new();
    for (region, slot) in slots {
        hasher.update(&region.to_le_bytes());
        hasher.update(&slot.checkpoint.to_le_bytes());
        hasher.update(&slot.crc.to_le_bytes());
    }
    hasher.digest128()
}

impl SpaceMap {
    /// The map of a new, empty file, building checkpoint 1. The first allocation asks for growth.
    #[must_use]
    pub fn new(shard: ShardId) -> SpaceMap {
        SpaceMap {
            shard,
            file_blocks: 0,
            regions: Vec::new(),
            next_fit: 0,
            run_left: 0,
            free_blocks: 0,
            live_blocks: 0,
            allocated_blocks: 0,
            freed_blocks: 0,
            deferred: BTreeMap::new(),
            deferred_blocks: 0,
            borrowed_blocks: 0,
            holds: BTreeMap::new(),
            building: 1,
            durable: 0,
            growing: None,
            step_max: u64::MAX,
            aside: SetAside::default(),
        }
    }

    /// Length of the file in blocks.
    #[must_use]
    pub fn file_blocks(&self) -> u64 {
        self.file_blocks
    }

    /// Blocks that can be allocated now, in runs of any length.
    #[must_use]
    pub fn free_blocks(&self) -> u64 {
        self.free_blocks
    }

    /// Blocks that the checkpoint being built holds.
    #[must_use]
    pub fn live_blocks(&self) -> u64 {
        self.live_blocks
    }

    /// Blocks that will be free once older checkpoints and holds are gone.
    #[must_use]
    pub fn deferred_blocks(&self) -> u64 {
        self.deferred_blocks
    }

    /// Of the deferred blocks, those that two checkpoints more set free, be there changes or not:
    /// all, unless somebody holds pages of an older checkpoint.
    #[must_use]
    pub fn reclaimable_blocks(&self) -> u64 {
        if self.holds.is_empty() { self.deferred_blocks } else { 0 }
    }

    /// Free blocks that became pages since the map was made, whatever became of them.
    #[must_use]
    pub fn allocated_blocks(&self) -> u64 {
        self.allocated_blocks
    }

    /// Blocks of pages freed since the map was made.
    #[must_use]
    pub fn freed_blocks(&self) -> u64 {
        self.freed_blocks
    }

    /// Number of the checkpoint being built: the birth of every page allocated now.
    #[must_use]
    pub fn building(&self) -> u64 {
        self.building
    }

    /// Whether the checkpoint being built holds all of the extent.
    #[must_use]
    pub fn is_live(&self, id: u64, blocks: u16) -> bool {
        (id..id + u64::from(blocks)).all(|block| {
            let (word, mask) = bit(block % REGION_BLOCKS);
            self.regions
                .get((block / REGION_BLOCKS) as usize)
                .is_some_and(|region| region.live[word] & mask != 0)
        })
    }

    /// Takes a run of `blocks` free blocks for a page; None if there is none, and the file must
    /// grow ([`SpaceMap::grow`]) or pages come free first.
    pub fn allocate(&mut self, blocks: u16) -> Option<u64> {
        let id = match self.take(blocks) {
            Some(id) => {
                self.allocated_blocks += u64::from(blocks);
                id
            }
            None => self.take_page_run(blocks)?,
        };
        self.make_live(id, blocks);
        Some(id)
    }

    /// Makes a run of free blocks busy.
    fn take(&mut self, blocks: u16) -> Option<u64> {
        let n = u64::from(blocks);
        assert!(n > 0 && n <= REGION_BLOCKS - region_head(0));
        if self.free_blocks < n {
            return None;
        }
        self.seek_run(n);
        let id = self.find_fit(n)?;
        self.run_left = if id == self.next_fit { self.run_left.saturating_sub(n) } else { 0 };
        let region = &mut self.regions[(id / REGION_BLOCKS) as usize];
        for_masks(id % REGION_BLOCKS, n, |word, mask| {
            assert_eq!(region.busy[word] & mask, 0);
            region.busy[word] |= mask;
        });
        region.free -= n as u32;
        self.free_blocks -= n;
        self.next_fit = (id + n) % self.file_blocks;
        Some(id)
    }

    /// Lets the next search begin at a run of free blocks as long as a write, so that pages that are
    /// written together become neighbours, also where single free blocks lie scattered; if there is
    /// none, at a shorter one. Those it leaves behind are for when there is nothing longer.
    fn seek_run(&mut self, n: u64) {
        if self.run_left >= n {
            return;
        }
        self.run_left = 0;
        for run in RUNS_SOUGHT {
            if let Some(id) = self.find_fit(run) {
                (self.next_fit, self.run_left) = (id, run);
                return;
            }
        }
    }

    /// The next run of `n` free blocks, from where the last allocation ended.
    fn find_fit(&mut self, n: u64) -> Option<u64> {
        let count = self.regions.len() as u64;
        let first = self.next_fit / REGION_BLOCKS;
        // The region of the last allocation is looked at twice: after it, and in the end before it.
        for turn in 0..=count {
            let index = (first + turn) % count;
            let region = &mut self.regions[index as usize];
            if u64::from(region.free) < n || u64::from(region.longest_run_bound) < n {
                continue;
            }
            let from = if turn == 0 { self.next_fit % REGION_BLOCKS } else { 0 };
            let Some(at) = region.find_run(from, n) else {
                if from == 0 {
                    region.longest_run_bound = (n - 1) as u32;
                }
                continue;
            };
            return Some(index * REGION_BLOCKS + at);
        }
        None
    }

    /// The checkpoint being built holds these busy blocks.
    fn make_live(&mut self, id: u64, blocks: u16) {
        let region = &mut self.regions[(id / REGION_BLOCKS) as usize];
        for_masks(id % REGION_BLOCKS, u64::from(blocks), |word, mask| {
            assert_eq!((region.busy[word] & mask, region.live[word] & mask), (mask, 0));
            region.live[word] |= mask;
        });
        region.dirty = true;
        self.live_blocks += u64::from(blocks);
    }

    /// The next allocation takes the first free blocks of the file: pages are reused as eagerly as
    /// the lifetime rule allows.
    #[cfg(test)]
    pub(crate) fn rewind(&mut self) {
        (self.next_fit, self.run_left) = (0, u64::MAX);
    }

    /// Undoes an allocation of this checkpoint.
    #[cfg(test)]
    pub(crate) fn unallocate(&mut self, id: u64, blocks: u16) {
        self.clear_live(id, blocks);
        self.clear_busy(id, blocks);
    }

    /// Takes a run of free blocks for a page of a tree that no checkpoint holds yet: on the disk it
    /// stays free until [`SpaceMap::adopt`]. What is set aside is not touched.
    pub fn borrow(&mut self, blocks: u16) -> Option<u64> {
        let id = self.take(blocks)?;
        self.borrowed_blocks += u64::from(blocks);
        Some(id)
    }

    /// The checkpoint being built holds this borrowed extent.
    pub fn adopt(&mut self, id: u64, blocks: u16) {
        self.borrowed_blocks -= u64::from(blocks);
        self.make_live(id, blocks);
    }

    /// Gives a borrowed extent back. Its page may be on its way to the disk: it can be reused when
    /// that is over for sure.
    pub fn return_borrowed(&mut self, id: u64, blocks: u16) {
        self.borrowed_blocks -= u64::from(blocks);
        self.deferred.entry(self.building).or_default().push((id, blocks));
        self.deferred_blocks += u64::from(blocks);
    }

    /// Blocks borrowed now.
    #[must_use]
    pub fn borrowed_blocks(&self) -> u64 {
        self.borrowed_blocks
    }

    /// Frees an extent that the checkpoint being built no longer holds, though older ones may.
    pub fn free(&mut self, id: u64, blocks: u16) {
        self.clear_live(id, blocks);
        if planted::has(Flaw::ReusePagesAtOnce) {
            self.freed_blocks += u64::from(blocks);
            return self.clear_busy(id, blocks);
        }
        self.deferred.entry(self.building).or_default().push((id, blocks));
        self.deferred_blocks += u64::from(blocks);
        self.freed_blocks += u64::from(blocks);
    }

    fn clear_live(&mut self, id: u64, blocks: u16) {
        let region = &mut self.regions[(id / REGION_BLOCKS) as usize];
        for_masks(id % REGION_BLOCKS, u64::from(blocks), |word, mask| {
            assert_eq!(region.live[word] & mask, mask, "freed twice, or never allocated");
            region.live[word] &= !mask;
        });
        region.dirty = true;
        self.live_blocks -= u64::from(blocks);
    }

    fn clear_busy(&mut self, id: u64, blocks: u16) {
        let region = &mut self.regions[(id / REGION_BLOCKS) as usize];
        for_masks(id % REGION_BLOCKS, u64::from(blocks), |word, mask| {
            assert_eq!(region.busy[word] & mask, mask);
            assert_eq!(region.live[word] & mask, 0);
            region.busy[word] &= !mask;
        });
        region.free += u32::from(blocks);
        region.longest_run_bound = REGION_BLOCKS as u32;
        self.free_blocks += u64::from(blocks);
    }

    /// Keeps every page of checkpoint `number` (a durable one) until [`SpaceMap::release`].
    pub fn hold(&mut self, number: u64) {
        assert!(number >= self.durable.saturating_sub(1), "its pages may be gone already");
        *self.holds.entry(number).or_insert(0) += 1;
    }

    /// Ends a hold.
    pub fn release(&mut self, number: u64) {
        let holders = self.holds.get_mut(&number).expect("a hold that was taken");
        *holders -= 1;
        if *holders == 0 {
            self.holds.remove(&number);
            self.reuse();
        }
    }

    /// Makes deferred extents free where the lifetime rule allows.
    fn reuse(&mut self) {
        let oldest_hold = self.holds.keys().next().copied();
        while let Some(entry) = self.deferred.first_entry() {
            let freed_by = *entry.key();
            if freed_by >= self.durable || oldest_hold.is_some_and(|held| held < freed_by) {
                break;
            }
            for (id, blocks) in entry.remove() {
                self.deferred_blocks -= u64::from(blocks);
                self.clear_busy(id, blocks);
            }
        }
    }

    /// The operation that makes room for `run` blocks more in one run, and `blocks` altogether if
    /// the file system has so many; None if one is under way. Its end goes to [`SpaceMap::grown`].
    pub fn grow(&mut self, run: u64, blocks: u64, op: OpId) -> Option<DiskOp> {
        if self.growing.is_some() {
            return None;
        }
        let head = SUPERBLOCKS + SLOTS;
        let least = (run + head).max(GROW_BLOCKS_LEAST);
        let wanted = GROW_BLOCKS_MIN.max(self.file_blocks / 16).max(blocks + head);
        let step = wanted.min(self.step_max).max(least);
        let mut target = self.file_blocks + step;
        // Room in one run: if a region ends within the step, the rest must suffice alone.
        let boundary = regions_of(self.file_blocks) * REGION_BLOCKS;
        if self.file_blocks < boundary && boundary < target {
            target = target.max(boundary + SLOTS + run);
        }
        if (1..=SLOTS).contains(&(target % REGION_BLOCKS)) {
            target += SLOTS;
        }
        self.growing = Some(Growth { file_blocks: target, step, least });
        let file_bytes = target * BLOCK_BYTES as u64;
        Some(DiskOp::Grow { op, file: ShardFile::Pages, file_bytes })
    }

    /// Takes the end of a growth. False: it was refused, and a smaller step is to be tried at once.
    ///
    /// # Errors
    /// The file system has not even what is needed least; the map is as before.
    pub fn grown(&mut self, result: Result<(), DiskError>) -> Result<bool, SpaceError> {
        let Growth { file_blocks, step, least } = self.growing.take().expect("a growth under way");
        if let Err(error) = result {
            self.step_max = (step / 4).max(least);
            return if step > least {
                Ok(false)
            } else {
                Err(SpaceError::DiskFull { file_blocks, error })
            };
        }
        self.step_max = self.step_max.saturating_mul(4);
        self.extend(file_blocks);
        self.fill_reserve();
        Ok(true)
    }

    /// Makes the blocks up to `file_blocks` free.
    fn extend(&mut self, file_blocks: u64) {
        let from = self.file_blocks;
        while (self.regions.len() as u64) < regions_of(file_blocks) {
            let region = Region::new(self.regions.len() as u64);
            self.regions.push(region);
        }
        for index in from / REGION_BLOCKS..regions_of(file_blocks) {
            let base = index * REGION_BLOCKS;
            let region = &mut self.regions[index as usize];
            let start = from.max(base + region_head(index)) - base;
            let end = file_blocks.min(base + REGION_BLOCKS) - base;
            let n = end.saturating_sub(start);
            for_masks(start, n, |word, mask| region.busy[word] &= !mask);
            region.free += n as u32;
            region.longest_run_bound = REGION_BLOCKS as u32;
            region.dirty = true;
            self.free_blocks += n;
        }
        self.file_blocks = file_blocks;
        self.mask_beyond_end();
    }

    /// Blocks beyond the file's end are busy; those before it were made so by an earlier end.
    fn mask_beyond_end(&mut self) {
        let Some(region) = self.regions.last_mut() else { return };
        let used = (self.file_blocks - 1) % REGION_BLOCKS + 1;
        for_masks(used, REGION_BLOCKS - used, |word, mask| region.busy[word] |= mask);
    }

    /// Closes the checkpoint being built: pushes the writes of its bitmaps, in buffers of `buffer`,
    /// and returns what its superblock says of space. From here on frees and allocations belong to
    /// the next checkpoint.
    pub fn seal(
        &mut self,
        mut next_op: impl FnMut() -> OpId,
        mut buffer: impl FnMut() -> BlockBuf,
        writes: &mut Vec<DiskOp>,
    ) -> SpaceRoot {
        let checkpoint = self.building;
        for (index, region) in self.regions.iter_mut().enumerate() {
            if !region.dirty {
                continue;
            }
            let (number, slot) = region
                .slots
                .iter_mut()
                .enumerate()
                // Of leftovers, that with the number that comes now: no two slots may have it.
                .min_by_key(|(_, s)| (s.checkpoint, s.stale != checkpoint, s.stale == 0))
                .expect("three slots");
            assert!(slot.checkpoint + 1 < checkpoint || slot.checkpoint == 0);
            let mut buf = buffer();
            let crc = encode_slot(&mut buf, self.shard, index as u64, checkpoint, &region.live);
            *slot = Slot { checkpoint, crc, stale: 0 };
            region.dirty = region.slots.iter().any(|slot| slot.stale > 0);
            writes.push(DiskOp::Write {
                op: next_op(),
                file: ShardFile::Pages,
                offset_bytes: slot_block(index as u64, number as u64) * BLOCK_BYTES as u64,
                buf,
                bytes: BLOCK_BYTES,
                durability: Durability::Volatile,
            });
        }
        let slots = self.regions.iter().enumerate();
        let digest = digest_of(slots.map(|(i, region)| (i as u64, region.newest_slot())));
        self.building += 1;
        SpaceRoot { checkpoint, file_blocks: self.file_blocks, digest }
    }

    /// The sealed checkpoint's superblock is durable: what it no longer shares with the one before
    /// the last comes free.
    pub fn superblock_durable(&mut self, checkpoint: u64) {
        assert!(checkpoint > self.durable && checkpoint < self.building);
        self.durable = checkpoint;
        self.reuse();
        self.fill_reserve();
    }

    /// Rebuilds the map from the file: `read` gives a block. `older` is the other superblock, if it
    /// is valid.
    ///
    /// # Errors
    /// A bitmap is lost or damaged; `inspect` can say more.
    pub fn load(
        shard: ShardId,
        newest: &SpaceRoot,
        older: Option<&SpaceRoot>,
        mut read: impl FnMut(u64) -> Option<BlockBuf>,
    ) -> Result<SpaceMap, SpaceError> {
        let mut map = SpaceMap::new(shard);
        map.building = newest.checkpoint + 1;
        map.durable = newest.checkpoint;
        map.extend(newest.file_blocks);
        let mut newest_slots = Vec::new();
        let mut older_slots = Vec::new();
        let mut only_older = Vec::new();
        for index in 0..regions_of(newest.file_blocks) {
            let found: [Option<(Slot, Bits)>; SLOTS as usize] = std::array::from_fn(|slot| {
                let block = read(slot_block(index, slot as u64))?;
                decode_slot(&block, shard, index)
            });
            let of = |root: &SpaceRoot| {
                found
                    .iter()
                    .flatten()
                    .filter(|(slot, _)| slot.checkpoint <= root.checkpoint)
                    .max_by_key(|(slot, _)| slot.checkpoint)
                    .ok_or(SpaceError::BitmapLost { region: index, checkpoint: root.checkpoint })
            };
            let (slot, live) = of(newest)?;
            newest_slots.push((index, *slot));
            let in_older = older.filter(|root| index < regions_of(root.file_blocks));
            let held = in_older.map(of).transpose()?;
            if let Some((slot, _)) = held {
                older_slots.push((index, *slot));
            }
            let region = &mut map.regions[index as usize];
            region.dirty = false;
            for (place, found) in region.slots.iter_mut().zip(&found) {
                match found {
                    Some((slot, _)) if slot.checkpoint <= newest.checkpoint => *place = *slot,
                    Some((slot, _)) => {
                        place.stale = slot.checkpoint;
                        region.dirty = true;
                    }
                    None => {}
                }
            }
            region.live.copy_from_slice(&live[..]);
            for word in 0..WORDS {
                // Metadata and blocks beyond the file's end are nobody's.
                let in_either = held.map_or(0, |(_, held)| held[word]) | live[word];
                if in_either & region.busy[word] != 0 {
                    let checkpoint = newest.checkpoint;
                    return Err(SpaceError::BitmapLost { region: index, checkpoint });
                }
                let only = held.map_or(0, |(_, held)| held[word] & !live[word]);
                region.busy[word] |= live[word] | only;
                region.free -= (live[word] | only).count_ones();
                map.live_blocks += u64::from(live[word].count_ones());
                map.free_blocks -= u64::from((live[word] | only).count_ones());
                let mut rest = only;
                while rest != 0 {
                    let at = word as u64 * 64 + u64::from(rest.trailing_zeros());
                    only_older.push((index * REGION_BLOCKS + at, 1));
                    rest &= rest - 1;
                }
            }
        }
        check_digest(newest, newest_slots)?;
        if let Some(older) = older {
            check_digest(older, older_slots)?;
        }
        map.deferred_blocks = only_older.len() as u64;
        if !only_older.is_empty() {
            map.deferred.insert(newest.checkpoint, only_older);
        }
        Ok(map)
    }
}

fn check_digest(root: &SpaceRoot, slots: Vec<(u64, Slot)>) -> Result<(), SpaceError> {
    let (checkpoint, expected, found) =
        (root.checkpoint, root.digest, digest_of(slots.into_iter()));
    if found == expected { Ok(()) } else { Err(SpaceError::Digest { checkpoint, expected, found }) }
}

#[cfg(test)]
mod tests;
