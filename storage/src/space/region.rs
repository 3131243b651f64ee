//! One region: its bits in memory, and their bytes in a bitmap slot.

use forebay_core::ids::ShardId;

use super::{REGION_BLOCKS, SLOTS, region_head};
use crate::block::BLOCK_BYTES;
use crate::tree::page::{put, u16_at, u32_at, u64_at};

const MAGIC: u32 = u32::from_le_bytes(*b"FBsm");
const VERSION: u16 = 1;
pub(super) const BITS_AT: usize = 96;
const _: () = assert!(BITS_AT + WORDS * 8 == BLOCK_BYTES);
const _: () = assert!(REGION_BLOCKS.is_multiple_of(64));

pub(super) const WORDS: usize = (REGION_BLOCKS / 64) as usize;

pub(super) type Bits = Box<[u64; WORDS]>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    /// 0: blank, damaged or stale.
    pub(super) checkpoint: u64,
    pub(super) crc: u32,
    /// On disk stands this number, which has not come yet (0: no such); overwritten first.
    pub(super) stale: u64,
}

pub(super) struct Region {
    pub(super) busy: Bits,
    pub(super) live: Bits,
    pub(super) slots: [Slot; SLOTS as usize],
    /// `live` differs from what the newest slot says.
    pub(super) dirty: bool,
    /// Blocks not busy.
    pub(super) free: u32,
    /// No run longer than this is free; raised when blocks come free.
    pub(super) longest_run_bound: u32,
}

pub(super) fn bit(i: u64) -> (usize, u64) {
    ((i / 64) as usize, 1 << (i % 64))
}

/// Applies `change(word, mask)` to the words of bits `from..from + n`.
pub(super) fn for_masks(from: u64, n: u64, mut change: impl FnMut(usize, u64)) {
    let mut at = from;
    let end = from + n;
    while at < end {
        let low = at % 64;
        let take = (64 - low).min(end - at);
        let mask = if take == 64 { u64::MAX } else { ((1 << take) - 1) << low };
        change((at / 64) as usize, mask);
        at += take;
    }
}

impl Region {
    pub(super) fn new(region: u64) -> Region {
        let mut busy: Bits = Box::new([0; WORDS]);
        for_masks(0, region_head(region), |word, mask| busy[word] |= mask);
        let live: Bits = Box::new([0; WORDS]);
        let slots = [Slot::default(); SLOTS as usize];
        Region { busy, live, slots, dirty: true, free: 0, longest_run_bound: 0 }
    }

    /// First run of `n` free blocks at or after `from`.
    pub(super) fn find_run(&self, from: u64, n: u64) -> Option<u64> {
        let mut at = from;
        'search: while at + n <= REGION_BLOCKS {
            let (word, _) = bit(at);
            let free = !self.busy[word] >> (at % 64);
            if free == 0 {
                at = (word as u64 + 1) * 64;
                continue;
            }
            at += u64::from(free.trailing_zeros());
            if at + n > REGION_BLOCKS {
                return None;
            }
            let mut run = 0;
            while run < n {
                let (word, _) = bit(at + run);
                let busy = self.busy[word] >> ((at + run) % 64);
                if busy == 0 {
                    run += 64 - (at + run) % 64;
                } else {
                    run += u64::from(busy.trailing_zeros());
                    if run < n {
                        at += run + 1;
                        continue 'search;
                    }
                }
            }
            return Some(at);
        }
        None
    }

    pub(super) fn newest_slot(&self) -> Slot {
        *self.slots.iter().max_by_key(|slot| slot.checkpoint).expect("three slots")
    }
}

pub(super) fn encode_slot(
    block: &mut [u8],
    shard: ShardId,
    region: u64,
    checkpoint: u64,
    live: &Bits,
) -> u32 {
    assert_eq!(block.len(), BLOCK_BYTES);
    block[..BITS_AT].fill(0);
    put(block, 4, &MAGIC.to_le_bytes());
    put(block, 8, &VERSION.to_le_bytes());
    put(block, 10, &shard.0.to_le_bytes());
    put(block, 12, &u32::try_from(region).expect("a file of 2^47 blocks at most").to_le_bytes());
    put(block, 16, &checkpoint.to_le_bytes());
    let (words, _) = block[BITS_AT..].as_chunks_mut::<8>();
    for (bytes, word) in words.iter_mut().zip(live.iter()) {
        *bytes = word.to_le_bytes();
    }
    let crc = crc32fast::hash(&block[4..]);
    put(block, 0, &crc.to_le_bytes());
    crc
}

pub(super) fn decode_slot(block: &[u8], shard: ShardId, region: u64) -> Option<(Slot, Bits)> {
    let (crc, checkpoint) = (u32_at(block, 0), u64_at(block, 16));
    let sound = block.len() == BLOCK_BYTES
        && u32_at(block, 4) == MAGIC
        && crc == crc32fast::hash(&block[4..])
        && u16_at(block, 8) == VERSION
        && u16_at(block, 10) == shard.0
        && u64::from(u32_at(block, 12)) == region
        && checkpoint > 0;
    if !sound {
        return None;
    }
    let mut bits: Bits = Box::new([0; WORDS]);
    let (words, _) = block[BITS_AT..].as_chunks::<8>();
    for (word, bytes) in bits.iter_mut().zip(words) {
        *word = u64::from_le_bytes(*bytes);
    }
    Some((Slot { checkpoint, crc, stale: 0 }, bits))
}
