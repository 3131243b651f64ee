//! The two superblocks. Input: the first 184 bytes of each, then other bytes of the first; the rest
//! is zero.

use forebay_core::ids::{Lsn, ShardId};
use forebay_storage::block::BLOCK_BYTES;
use forebay_storage::log::LogPoint;
use forebay_storage::superblock::{LogGeometry, Superblock, SuperblockError, choose};
use forebay_storage::tree::{ChildRef, PageRef, Totals, TreeRef};

use super::{Input, blocks_of, put};

const SHARD: ShardId = ShardId(3);
/// Eight bytes more than a superblock has fields.
const HEAD: usize = 184;

/// Accepted blocks are what their fields encode to, and the newest valid one is chosen.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (first, second) = (input.take(HEAD), input.take(HEAD));
    let mut blocks = [blocks_of(first), blocks_of(second)];
    let rest = &input.0[..input.0.len().min(BLOCK_BYTES - HEAD)];
    put(&mut blocks[0], HEAD, rest);
    check(&blocks);
    for block in &mut blocks {
        let crc = crc32fast::hash(&block[4..]);
        put(block, 0, &crc.to_le_bytes());
    }
    check(&blocks);
}

fn check(blocks: &[Vec<u8>; 2]) {
    let decoded = [0, 1].map(|number| {
        let block = &blocks[number];
        let decoded = Superblock::decode(block, number as u64, SHARD);
        if let Ok(superblock) = &decoded {
            let mut again = vec![0xee; BLOCK_BYTES];
            superblock.encode(&mut again);
            assert_eq!(&again, block);
            assert_eq!(superblock.block(), number as u64);
        }
        decoded
    });
    let newer =
        |decoded: &Result<_, _>| matches!(decoded, Err(SuperblockError::NewerVersion { .. }));
    match choose([&blocks[0], &blocks[1]], SHARD) {
        Ok(chosen) => {
            let valid: Vec<&Superblock> = decoded.iter().flatten().collect();
            let newest = valid.iter().max_by_key(|superblock| superblock.checkpoint);
            assert_eq!(Some(&&chosen.superblock), newest);
            assert_eq!(chosen.older.is_some(), valid.len() == 2);
            assert!(!decoded.iter().any(newer), "a newer program's data is never gone back on");
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(decoded.iter().any(newer) || decoded.iter().all(Result::is_err));
        }
    }
}

fn superblock(checkpoint: u64, catalog: TreeRef) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    let superblock = Superblock {
        node: 0x0102_0304_0506_0708,
        shard: SHARD,
        checkpoint,
        log_start: LogPoint {
            lsn: Lsn(0x2000 * checkpoint),
            incarnation: 1,
            previous_checksum: 0x1234_5678,
        },
        history_bytes: 0x1000 * (checkpoint % 2),
        durable_lsn: Lsn(0x3000 * checkpoint),
        log: LogGeometry {
            log_id: 0x1122_3344,
            segment_bytes: 1 << 20,
            segments: 4,
            record_bytes_max: 1 << 14,
            reserve_bytes: 1 << 14,
        },
        catalog,
        file_blocks: 2048,
        space_digest: 0x55aa,
        logs_lost: 0,
    };
    superblock.encode(&mut block);
    block.truncate(HEAD);
    block
}

/// Both valid, one of them blank, one of them torn, one of them impossible.
pub fn seeds() -> Vec<Vec<u8>> {
    let page = PageRef { id: 77, crc: 9, blocks: 1, level: 2 };
    let root = ChildRef { page, totals: Totals { items: 5, bytes: 600, digest: 7 } };
    let (even, odd) = (superblock(6, TreeRef { root: Some(root) }), superblock(5, TreeRef::EMPTY));
    let blank = vec![0; HEAD];
    let torn = [&even[..80], &blank[80..]].concat();
    // A catalog root beyond every file.
    let mut beyond = even.clone();
    put(&mut beyond, 88, &u64::MAX.to_le_bytes());
    let pairs = [[&even, &odd], [&blank, &odd], [&torn, &odd], [&beyond, &odd]];
    pairs.iter().map(|[a, b]| [a.as_slice(), b.as_slice()].concat()).collect()
}
