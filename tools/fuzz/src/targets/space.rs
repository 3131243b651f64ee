//! Bitmap slots of the space map. Input: checkpoint numbers of both superblocks (1 byte each),
//! length of the file (2 bytes), then the three slots of region 0, each its first 24 header bytes and
//! 16 bytes of bits at the place that the next byte says.

use forebay_core::ids::ShardId;
use forebay_storage::block::{BLOCK_BYTES, BlockBuf, DiskOp, OpId};
use forebay_storage::space::{SLOTS, SpaceError, SpaceMap, SpaceRoot, slot_block};

use super::{Input, put, u32_at};

const SHARD: ShardId = ShardId(3);
const BITS_AT: usize = 96;
const HEAD: usize = 24;

/// A map that loads gives out free blocks only, and writes slots that load again.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (newest, older) = (input.number(1), input.number(1));
    let file_blocks = input.number(2);
    let slots: Vec<Vec<u8>> = (0..SLOTS)
        .map(|_| {
            let mut block = vec![0; BLOCK_BYTES];
            put(&mut block, 0, input.take(HEAD));
            let at = BITS_AT + usize::from(input.byte()) % 250 * 16;
            put(&mut block, at, input.take(16));
            block
        })
        .collect();
    check(newest, older, file_blocks, &slots);
    let sealed: Vec<Vec<u8>> = slots
        .into_iter()
        .map(|mut slot| {
            let crc = crc32fast::hash(&slot[4..]);
            put(&mut slot, 0, &crc.to_le_bytes());
            slot
        })
        .collect();
    check(newest, older, file_blocks, &sealed);
}

fn load(
    newest: &SpaceRoot,
    older: Option<&SpaceRoot>,
    slots: &[Vec<u8>],
) -> Result<SpaceMap, SpaceError> {
    SpaceMap::load(SHARD, newest, older, |block| {
        let slot = (0..SLOTS).find(|slot| slot_block(0, *slot) == block)?;
        let mut buf = BlockBuf::zeroed(1);
        buf.copy_from_slice(&slots[slot as usize]);
        Some(buf)
    })
}

/// The digest that the map finds, which is then the one that the superblock claims.
fn root(checkpoint: u64, file_blocks: u64, slots: &[Vec<u8>]) -> Option<SpaceRoot> {
    let root = SpaceRoot { checkpoint, file_blocks, digest: 0 };
    match load(&root, None, slots) {
        Err(SpaceError::Digest { found, .. }) => Some(SpaceRoot { digest: found, ..root }),
        _ => None,
    }
}

fn check(newest: u64, older: u64, file_blocks: u64, slots: &[Vec<u8>]) {
    let Some(newest) = root(newest, file_blocks, slots) else { return };
    let older =
        root(older, file_blocks, slots).filter(|older| older.checkpoint < newest.checkpoint);
    let Ok(mut map) = load(&newest, older.as_ref(), slots) else { return };
    assert_eq!(map.file_blocks(), file_blocks);
    assert_eq!(map.building(), newest.checkpoint + 1);
    assert!(map.live_blocks() + map.free_blocks() + map.deferred_blocks() <= file_blocks);
    let live = (0..file_blocks).filter(|block| map.is_live(*block, 1)).count() as u64;
    assert_eq!(live, map.live_blocks());

    let was_live: Vec<bool> = (0..file_blocks).map(|block| map.is_live(block, 1)).collect();
    let free = map.free_blocks();
    for blocks in [1, 4, 2, 1] {
        let Some(at) = map.allocate(blocks) else { continue };
        let taken = at..at + u64::from(blocks);
        assert!(taken.end <= file_blocks);
        assert!(taken.clone().all(|block| !was_live[block as usize]));
        assert!(taken.clone().all(|block| block >= 2 + SLOTS), "metadata is never given out");
        assert!(map.is_live(at, blocks));
    }
    assert_eq!(map.free_blocks() + map.live_blocks(), free + live);
    // No two slots ever get one number.
    let numbers = [0, 1, 2].map(|slot: usize| &slots[slot][16..24]);
    let distinct = numbers[0] != numbers[1] && numbers[0] != numbers[2] && numbers[1] != numbers[2];
    if distinct && map.free_blocks() < free {
        reload(map, slots.to_vec());
    }
}

/// What the map writes loads as the same map.
fn reload(mut map: SpaceMap, mut slots: Vec<Vec<u8>>) {
    let live = map.live_blocks();
    let mut writes = Vec::new();
    let mut op = 0;
    let next_op = || {
        op += 1;
        OpId(op)
    };
    let sealed = map.seal(next_op, || BlockBuf::zeroed(1), &mut writes);
    for write in writes {
        let DiskOp::Write { offset_bytes, buf, .. } = write else { panic!("only writes") };
        let block = offset_bytes / BLOCK_BYTES as u64;
        let slot = (0..SLOTS).find(|slot| slot_block(0, *slot) == block).expect("a slot");
        assert_eq!(u32_at(&buf, 0), crc32fast::hash(&buf[4..]));
        slots[slot as usize] = buf.to_vec();
    }
    let again = load(&sealed, None, &slots).expect("what was written loads");
    assert_eq!(again.live_blocks(), live);
}

fn slot(checkpoint: u64, at: u8, bits: &[u8; 16]) -> Vec<u8> {
    let mut bytes = vec![0; HEAD];
    put(&mut bytes, 4, b"FBsm");
    put(&mut bytes, 8, &1u16.to_le_bytes());
    put(&mut bytes, 10, &SHARD.0.to_le_bytes());
    put(&mut bytes, 16, &checkpoint.to_le_bytes());
    [&bytes[..], &[at], bits].concat()
}

/// Three slots in use, one of them stale, one blank, one of them wrong.
pub fn seeds() -> Vec<Vec<u8>> {
    let bits = |first: u8| {
        let mut bits = [0; 16];
        bits[0] = first;
        bits[9] = 0xff;
        bits
    };
    let head = |newest: u8, older: u8| vec![newest, older, 0, 8];
    let blank = vec![0; HEAD + 17];
    vec![
        [head(2, 1), slot(1, 0, &bits(0x20)), slot(2, 0, &bits(0xe0)), blank.clone()].concat(),
        [head(3, 2), slot(3, 3, &bits(0)), slot(2, 7, &bits(1)), slot(4, 0, &bits(0))].concat(),
        [head(1, 0), slot(1, 0, &bits(0x80)), blank.clone(), blank.clone()].concat(),
        // The older one claims a superblock's place.
        [head(2, 1), slot(1, 0, &bits(1)), slot(2, 0, &bits(0x20)), blank].concat(),
    ]
}
