//! The superblock: where a checkpoint begins.
//!
//! ```text
//!  pages file, block:   0          1          2       3       4       5 …          32000   32001  32002  32003 …
//!                   ┌──────────┬──────────┬───────┬───────┬───────┬─────────────┬───────┬──────┬──────┬────────
//!                   │super-    │super-    │ bitmap slots of       │ pages       │ bitmap slots of     │ pages
//!                   │block 0   │block 1   │ region 0              │             │ region 1            │
//!                   └──────────┴──────────┴───────┴───────┴───────┴─────────────┴───────┴──────┴──────┴────────
//! ```
//!
//! Checkpoint *n* writes its pages and bitmaps, flushes, writes block *n mod 2*, flushes again. So
//! the newer superblock is always of pages that were durable before it, and the older one stays
//! whole until the newer one is durable. Whatever the older one refers to (pages: [`crate::space`];
//! log: the trimming rule) is kept until then.
//!
//! A crash during the last write can leave the newest superblock torn, and then the older one
//! counts; because damage looks the same, this is always reported.
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | crc | crc32 of the block from offset 4 |
//! | 4 | 4 | magic | "FBsb" |
//! | 8 | 2 | version | 1 |
//! | 10 | 2 | shard | the shard whose file this is |
//! | 12 | 4 | block_bytes | 4096 |
//! | 16 | 16 | node | id of the node |
//! | 32 | 8 | checkpoint | number of the checkpoint, from 1; its parity is the block's number |
//! | 40 | 8 | log_start.lsn | the trees hold everything before it; replay starts here |
//! | 48 | 8 | log_start.incarnation | least incarnation of the batch there |
//! | 56 | 4 | log_start.previous_checksum | checksum of the batch that ends there |
//! | 60 | 4 | log.segments | segments of the log |
//! | 64 | 8 | durable_lsn | highest lsn known durable when it was written |
//! | 72 | 8 | log.segment_bytes | bytes of a segment |
//! | 80 | 4 | log.record_bytes_max | longest record payload |
//! | 84 | 4 | reserved | zero |
//! | 88 | 48 | catalog | the catalog tree's root (a child reference, zeros if empty) |
//! | 136 | 8 | file_blocks | length of the pages file, at most 2^47 |
//! | 144 | 16 | space_digest | over region, checkpoint and crc of every bitmap slot |
//! | 160 | 8 | log.log_id | drawn when the log was created |
//! | 168 | 8 | log.reserve_bytes | the log's reserve for checkpoints |
//! | 176 | 8 | history_bytes | bytes before log_start that hold entries of replicated groups |
//! | 184 | 8 | logs_lost | how often a damaged log was given up, and its members with it |
//! | 192 | 3904 | reserved | zero |
//!
//! `history_bytes` is zero where the shard has no member of a replicated group, as in every
//! superblock of a program that did not know it; so is `logs_lost` where nothing was ever given up.

use forebay_core::ids::{Lsn, ShardId};

use crate::block::BLOCK_BYTES;
use crate::log::{LogConfig, LogPoint};
use crate::tree::TreeRef;
use crate::tree::page::{CHILD_BYTES, PAGE_ID_END, put, u16_at, u32_at, u64_at, u128_at};

const MAGIC: u32 = u32::from_le_bytes(*b"FBsb");
/// Version of the superblock and, with it, of the whole data directory.
pub const VERSION: u16 = 1;

const CATALOG: usize = 88;
const FILE_BLOCKS: usize = 136;
const SPACE_DIGEST: usize = 144;
const LOG_ID: usize = 160;
const HISTORY_BYTES: usize = 176;
const LOGS_LOST: usize = 184;
const END: usize = 192;
const _: () = assert!(CATALOG + CHILD_BYTES == FILE_BLOCKS);
const _: () = assert!(
    SPACE_DIGEST + 16 == LOG_ID
        && LOG_ID + 16 == HISTORY_BYTES
        && HISTORY_BYTES + 8 == LOGS_LOST
        && LOGS_LOST + 8 == END
);
const _: () = assert!(END <= BLOCK_BYTES);

/// What is fixed for the life of a log's file (the other fields of [`crate::log::LogConfig`] may
/// change from start to start).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogGeometry {
    /// Drawn when the log was created.
    pub log_id: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Segments in the ring.
    pub segments: u32,
    /// Longest record payload.
    pub record_bytes_max: u32,
    /// The log's reserve for checkpoints.
    pub reserve_bytes: u64,
}

impl LogGeometry {
    /// The geometry that a configuration asks for.
    #[must_use]
    pub fn of(config: &LogConfig) -> LogGeometry {
        LogGeometry {
            log_id: config.log_id,
            segment_bytes: config.segment_bytes,
            segments: config.segments,
            record_bytes_max: config.record_bytes_max,
            reserve_bytes: config.reserve_bytes,
        }
    }
}

/// Everything that recovery needs to know before it reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Id of the node that owns the directory.
    pub node: u128,
    /// The shard whose file this is.
    pub shard: ShardId,
    /// Number of the checkpoint, from 1.
    pub checkpoint: u64,
    /// The trees hold everything before it; replay starts here.
    pub log_start: LogPoint,
    /// Bytes before `log_start` that hold accepted entries which members of replicated groups still
    /// need: for others that lag, or because nobody knows yet that they are chosen.
    pub history_bytes: u64,
    /// Highest lsn known durable when this was written: a bad batch below it is damage.
    pub durable_lsn: Lsn,
    /// The log's file.
    pub log: LogGeometry,
    /// Root of the catalog tree.
    pub catalog: TreeRef,
    /// Length of the pages file in blocks.
    pub file_blocks: u64,
    /// [`crate::space::SpaceMap`]'s digest of the bitmap slots that belong to this checkpoint.
    pub space_digest: u128,
    /// How often the shard's log was given up because it was damaged: see [`crate::store`]'s `repair`.
    pub logs_lost: u64,
}

/// Why a block is not a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// Nothing but zeros: never written. In both blocks: not a formatted file.
    #[error("superblock {block} was never written")]
    Blank {
        /// Which of the two.
        block: u64,
    },
    /// Torn or damaged: the other one counts.
    #[error("superblock {block}: stored checksum {stored:#010x}, found {found:#010x}")]
    Checksum {
        /// Which of the two.
        block: u64,
        /// What the block says of itself.
        stored: u32,
        /// What its bytes give.
        found: u32,
    },
    /// Written by a later program. Not damage: run that program (or a later one).
    #[error(
        "the data is of format version {found}, this program knows up to {VERSION}: run a newer program"
    )]
    NewerVersion {
        /// The data's version.
        found: u16,
    },
    /// Of another shard: files were exchanged. Put them back.
    #[error("superblock {block} is of shard {found}, not of {expected}")]
    WrongShard {
        /// Which of the two.
        block: u64,
        /// The shard asked for.
        expected: u16,
        /// The shard it names.
        found: u16,
    },
    /// The checksum holds but a field cannot be right: a bug of the writer, or the wrong file.
    #[error("superblock {block}: malformed at byte {at}")]
    Malformed {
        /// Which of the two.
        block: u64,
        /// Offset of the field.
        at: u32,
    },
}

impl Superblock {
    /// Where the log begins that this checkpoint needs.
    #[must_use]
    pub fn history_start(&self) -> Lsn {
        Lsn(self.log_start.lsn.0 - self.history_bytes)
    }

    /// The block where this checkpoint's superblock stands.
    #[must_use]
    pub fn block(&self) -> u64 {
        self.checkpoint % 2
    }

    /// Fills a block.
    pub fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES);
        assert!(self.checkpoint > 0 && self.log_start.lsn <= self.durable_lsn);
        block.fill(0);
        put(block, 4, &MAGIC.to_le_bytes());
        put(block, 8, &VERSION.to_le_bytes());
        put(block, 10, &self.shard.0.to_le_bytes());
        put(block, 12, &(BLOCK_BYTES as u32).to_le_bytes());
        put(block, 16, &self.node.to_le_bytes());
        put(block, 32, &self.checkpoint.to_le_bytes());
        put(block, 40, &self.log_start.lsn.0.to_le_bytes());
        put(block, 48, &self.log_start.incarnation.to_le_bytes());
        put(block, 56, &self.log_start.previous_checksum.to_le_bytes());
        put(block, 60, &self.log.segments.to_le_bytes());
        put(block, 64, &self.durable_lsn.0.to_le_bytes());
        put(block, 72, &self.log.segment_bytes.to_le_bytes());
        put(block, 80, &self.log.record_bytes_max.to_le_bytes());
        put(block, CATALOG, &self.catalog.encode());
        put(block, FILE_BLOCKS, &self.file_blocks.to_le_bytes());
        put(block, SPACE_DIGEST, &self.space_digest.to_le_bytes());
        put(block, LOG_ID, &self.log.log_id.to_le_bytes());
        put(block, LOG_ID + 8, &self.log.reserve_bytes.to_le_bytes());
        put(block, HISTORY_BYTES, &self.history_bytes.to_le_bytes());
        put(block, LOGS_LOST, &self.logs_lost.to_le_bytes());
        let crc = crc32fast::hash(&block[4..]);
        put(block, 0, &crc.to_le_bytes());
    }

    /// Reads block `number` (0 or 1) of the file.
    ///
    /// # Errors
    /// Why it is none.
    pub fn decode(
        block: &[u8],
        number: u64,
        shard: ShardId,
    ) -> Result<Superblock, SuperblockError> {
        assert_eq!(block.len(), BLOCK_BYTES);
        if block.iter().all(|&byte| byte == 0) {
            return Err(SuperblockError::Blank { block: number });
        }
        let (stored, found) = (u32_at(block, 0), crc32fast::hash(&block[4..]));
        if stored != found {
            return Err(SuperblockError::Checksum { block: number, stored, found });
        }
        let check = |sound: bool, at: u32| {
            if sound { Ok(()) } else { Err(SuperblockError::Malformed { block: number, at }) }
        };
        check(u32_at(block, 4) == MAGIC, 4)?;
        let version = u16_at(block, 8);
        if version > VERSION {
            return Err(SuperblockError::NewerVersion { found: version });
        }
        check(version == VERSION, 8)?;
        let found_shard = u16_at(block, 10);
        if found_shard != shard.0 {
            return Err(SuperblockError::WrongShard {
                block: number,
                expected: shard.0,
                found: found_shard,
            });
        }
        check(u32_at(block, 12) == BLOCK_BYTES as u32, 12)?;
        let catalog: &[u8; CHILD_BYTES] =
            block[CATALOG..FILE_BLOCKS].try_into().expect("a whole reference");
        let catalog = TreeRef::decode(catalog)
            .ok_or(SuperblockError::Malformed { block: number, at: CATALOG as u32 })?;
        let superblock = Superblock {
            node: u128_at(block, 16),
            shard,
            checkpoint: u64_at(block, 32),
            log_start: LogPoint {
                lsn: Lsn(u64_at(block, 40)),
                incarnation: u64_at(block, 48),
                previous_checksum: u32_at(block, 56),
            },
            history_bytes: u64_at(block, HISTORY_BYTES),
            durable_lsn: Lsn(u64_at(block, 64)),
            log: LogGeometry {
                log_id: u64_at(block, LOG_ID),
                segment_bytes: u64_at(block, 72),
                segments: u32_at(block, 60),
                record_bytes_max: u32_at(block, 80),
                reserve_bytes: u64_at(block, LOG_ID + 8),
            },
            catalog,
            file_blocks: u64_at(block, FILE_BLOCKS),
            space_digest: u128_at(block, SPACE_DIGEST),
            logs_lost: u64_at(block, LOGS_LOST),
        };
        check(superblock.checkpoint > 0 && superblock.block() == number, 32)?;
        check(superblock.log_start.lsn <= superblock.durable_lsn, 40)?;
        let history = superblock.history_bytes;
        let aligned = history.is_multiple_of(BLOCK_BYTES as u64);
        check(aligned && history <= superblock.log_start.lsn.0, HISTORY_BYTES as u32)?;
        check(u32_at(block, 84) == 0, 84)?;
        let end =
            catalog.root.map_or(0, |root| root.page.id.saturating_add(root.page.blocks.into()));
        check(end <= superblock.file_blocks, FILE_BLOCKS as u32)?;
        check(superblock.file_blocks <= PAGE_ID_END, FILE_BLOCKS as u32)?;
        check(block[END..].iter().all(|&byte| byte == 0), END as u32)?;
        Ok(superblock)
    }
}

/// The checkpoint to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The newest valid superblock.
    pub superblock: Superblock,
    /// The other one if it is valid: its pages stay untouched until the next checkpoint is durable.
    pub older: Option<Superblock>,
    /// Why the other block is no superblock; to be reported as damage, though a crash during the
    /// last checkpoint's final write looks the same.
    pub damage: Option<SuperblockError>,
}

/// Chooses between the two blocks of a file.
///
/// # Errors
/// With `NewerVersion` in either block, that: an older program must not go back to what it can
/// read. Otherwise, when neither is valid, the error of block 0, or of block 1 if block 0 is blank.
pub fn choose(blocks: [&[u8]; 2], shard: ShardId) -> Result<Chosen, SuperblockError> {
    let [a, b] = [0, 1].map(|i| Superblock::decode(blocks[i], i as u64, shard));
    for decoded in [&a, &b] {
        if let Err(error @ SuperblockError::NewerVersion { .. }) = decoded {
            return Err(*error);
        }
    }
    match (a, b) {
        (Ok(a), Ok(b)) => {
            let (superblock, older) = if a.checkpoint > b.checkpoint { (a, b) } else { (b, a) };
            Ok(Chosen { superblock, older: Some(older), damage: None })
        }
        (Ok(superblock), Err(error)) | (Err(error), Ok(superblock)) => {
            // The first checkpoint has no predecessor.
            let blank = matches!(error, SuperblockError::Blank { .. });
            let damage = (superblock.checkpoint > 1 || !blank).then_some(error);
            Ok(Chosen { superblock, older: None, damage })
        }
        (Err(SuperblockError::Blank { .. }), Err(error)) | (Err(error), Err(_)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{ChildRef, PageRef, Totals};

    fn superblock(checkpoint: u64) -> Superblock {
        Superblock {
            node: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
            shard: ShardId(7),
            checkpoint,
            log_start: LogPoint {
                lsn: Lsn(0x11_2000),
                incarnation: 3,
                previous_checksum: 0xdead_beef,
            },
            history_bytes: 0,
            durable_lsn: Lsn(0x12_3000),
            log: LogGeometry {
                log_id: 0x1111_2222_3333_4444,
                segment_bytes: 64 << 20,
                segments: 16,
                record_bytes_max: 0x40_0c00,
                reserve_bytes: 0x60_0000,
            },
            catalog: TreeRef {
                root: Some(ChildRef {
                    page: PageRef { id: 77, crc: 0x1234_5678, blocks: 1, level: 2 },
                    totals: Totals { items: 5, bytes: 600, digest: 0xabcd },
                }),
            },
            file_blocks: 8192,
            space_digest: 0x55aa,
            logs_lost: 0,
        }
    }

    fn block_of(superblock: &Superblock) -> Vec<u8> {
        let mut block = vec![0xee; BLOCK_BYTES];
        superblock.encode(&mut block);
        block
    }

    const BLANK: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

    #[test]
    fn golden_bytes() {
        let block = block_of(&superblock(6));
        // The history is that of a shard without members of replicated groups: none.
        let hex: String = block[..HISTORY_BYTES].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "647e4164464273620100070000100000100f0e0d0c0b0a090807060504030201060000000000000000201100000000000300000000000000efbeadde1000000000301200000000000000000400000000000c4000000000004d0000000000000005000000000000005802000000000000cdab000000000000000000000000000078563412010002000020000000000000aa55000000000000000000000000000044443333222211110000600000000000"
        );
        assert!(block[HISTORY_BYTES..].iter().all(|&b| b == 0));
        let longer = Superblock { history_bytes: 0x3000, logs_lost: 2, ..superblock(6) };
        let bytes = [0, 0x30, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(block_of(&longer)[HISTORY_BYTES..END], bytes);
        assert_eq!(Superblock::decode(&block_of(&longer), 0, ShardId(7)), Ok(longer));
        assert_eq!(Superblock::decode(&block, 0, ShardId(7)), Ok(superblock(6)));
    }

    #[test]
    fn newest_valid_is_chosen_and_falling_back_is_reported() {
        let (five, six) = (superblock(5), superblock(6));
        let (block5, block6) = (block_of(&five), block_of(&six));
        let chosen = choose([&block6, &block5], ShardId(7)).unwrap();
        assert_eq!(chosen, Chosen { superblock: six, older: Some(five), damage: None });
        let seven = block_of(&superblock(7));
        assert_eq!(choose([&block6, &seven], ShardId(7)).unwrap().superblock.checkpoint, 7);
        let mut torn = block6.clone();
        torn[2048..].fill(0xaa);
        let chosen = choose([&torn, &block5], ShardId(7)).unwrap();
        assert_eq!((chosen.superblock, chosen.older), (five, None));
        assert!(matches!(chosen.damage, Some(SuperblockError::Checksum { block: 0, .. })));
        // A lost second block is damage too, except after the very first checkpoint.
        assert!(choose([&BLANK, &block5], ShardId(7)).unwrap().damage.is_some());
        let first = block_of(&superblock(1));
        assert_eq!(choose([&BLANK, &first], ShardId(7)).unwrap().damage, None);
        assert_eq!(choose([&BLANK, &BLANK], ShardId(7)), Err(SuperblockError::Blank { block: 1 }));
        assert!(matches!(
            choose([&block6, &block5], ShardId(8)),
            Err(SuperblockError::WrongShard { found: 7, .. })
        ));
    }

    #[test]
    fn data_of_a_newer_program_is_refused_not_taken_for_damage() {
        let mut newer = block_of(&superblock(6));
        put(&mut newer, 8, &2_u16.to_le_bytes());
        let crc = crc32fast::hash(&newer[4..]);
        put(&mut newer, 0, &crc.to_le_bytes());
        let five = block_of(&superblock(5));
        let refused = Err(SuperblockError::NewerVersion { found: 2 });
        assert_eq!(choose([&newer, &five], ShardId(7)), refused);
    }

    #[test]
    fn lengths_that_no_file_has_are_malformed() {
        for (file_blocks, sound) in [
            (78, true),
            (77, false),
            (PAGE_ID_END, true),
            (PAGE_ID_END + 1, false),
            (u64::MAX, false),
        ] {
            let block = block_of(&Superblock { file_blocks, ..superblock(6) });
            let decoded = Superblock::decode(&block, 0, ShardId(7));
            let malformed = SuperblockError::Malformed { block: 0, at: FILE_BLOCKS as u32 };
            assert_eq!(decoded.err(), (!sound).then_some(malformed), "{file_blocks}");
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let block = block_of(&superblock(6));
        for at in 0..BLOCK_BYTES {
            let mut flipped = block.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(Superblock::decode(&flipped, 0, ShardId(7)).is_err(), "byte {at}");
        }
    }

    #[test]
    fn mutated_bytes_with_a_valid_checksum_never_panic() {
        use rand::{Rng, SeedableRng};
        let mut random = rand::rngs::SmallRng::seed_from_u64(11);
        let block = block_of(&superblock(6));
        for _ in 0..5_000 {
            let mut mutated = block.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..END + 8);
                mutated[at] = random.random();
            }
            let crc = crc32fast::hash(&mutated[4..]);
            put(&mut mutated, 0, &crc.to_le_bytes());
            let _ = Superblock::decode(&mutated, 0, ShardId(7));
        }
    }
}
