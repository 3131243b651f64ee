//! The check of a page's bytes when they come from a device.

use forebay_core::ids::ShardId;
use forebay_core::limits::{ENCODED_ITEM_BYTES_MAX, ENCODED_KEY_BYTES_MAX};

use super::{
    BLOCKS, CHILD_BYTES, COUNT, CRC, HEADER_BYTES, ID, KIND, LEAF_FIXED_BYTES, LEVEL, MAGIC,
    MAGIC_AT, OVERFLOW_BIT, OVERFLOW_REF_BYTES, PAGE_ID_END, PAGE_ID_FIRST, PREFIX, PageKind,
    RESERVED, SHARD, SLOT_BYTES, USED, VERSION, VERSION_AT, decode_child, hint_of, overflow_blocks,
    u16_at, u32_at, u64_at,
};
use crate::block::BLOCK_BYTES;
use crate::tree::{LEVEL_OVERFLOW, LEVELS_MAX, PageRef};

/// Why bytes are not the page that a reference names. Each is damage: repair from a peer, and
/// suspect the device (or, for a wrong place, its firmware).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The checksum of the bytes, or the one that the reference names, differs.
    #[error(
        "page {id}: expected checksum {expected:#010x}, stored {stored:#010x}, found {found:#010x}"
    )]
    Checksum {
        /// First block of the page.
        id: u64,
        /// What the reference says.
        expected: u32,
        /// What the page says of itself.
        stored: u32,
        /// What its bytes give.
        found: u32,
    },
    /// A format of a later program. Not damage: run that program.
    #[error("page {id}: format version {found} is newer than this program's {VERSION}")]
    NewerVersion {
        /// First block of the page.
        id: u64,
        /// The page's version.
        found: u8,
    },
    /// A page written for another place, shard or size (a misdirected write or read).
    #[error(
        "page {id} of shard {shard}: the bytes are of page {found_id}, shard {found_shard}, {found_blocks} blocks"
    )]
    Misplaced {
        /// First block of the page expected.
        id: u64,
        /// Shard expected.
        shard: u16,
        /// First block that the bytes name.
        found_id: u64,
        /// Shard that the bytes name.
        found_shard: u16,
        /// Size that the bytes name.
        found_blocks: u16,
    },
    /// The checksum holds but the contents break the format at this byte: a bug of the writer.
    #[error("page {id}: malformed at byte {at}")]
    Malformed {
        /// First block of the page.
        id: u64,
        /// Offset of the first field found wrong.
        at: u32,
    },
}

/// Checks everything about bytes that a device gave for `expected`, so that they can be read in
/// place from then on. The reference's checksum covers all of it; the rest tells a misdirected
/// write from a flipped bit, and a writer's bug from both.
///
/// # Errors
/// The first thing found wrong.
pub fn validate(bytes: &[u8], expected: &PageRef, shard: ShardId) -> Result<(), PageError> {
    let id = expected.id;
    assert_eq!(bytes.len(), usize::from(expected.blocks) * BLOCK_BYTES);
    let (stored, found) = (u32_at(bytes, CRC), crc32fast::hash(&bytes[MAGIC_AT..]));
    if stored == found
        && (u64_at(bytes, ID) != id
            || u16_at(bytes, SHARD) != shard.0
            || u16_at(bytes, BLOCKS) != expected.blocks)
        && u32_at(bytes, MAGIC_AT) == MAGIC
    {
        return Err(PageError::Misplaced {
            id,
            shard: shard.0,
            found_id: u64_at(bytes, ID),
            found_shard: u16_at(bytes, SHARD),
            found_blocks: u16_at(bytes, BLOCKS),
        });
    }
    if stored != found || stored != expected.crc {
        return Err(PageError::Checksum { id, expected: expected.crc, stored, found });
    }
    let malformed = |at: usize| PageError::Malformed { id, at: at as u32 };
    let check = |sound: bool, at: usize| if sound { Ok(()) } else { Err(malformed(at)) };
    check(u32_at(bytes, MAGIC_AT) == MAGIC, MAGIC_AT)?;
    if bytes[VERSION_AT] > VERSION {
        return Err(PageError::NewerVersion { id, found: bytes[VERSION_AT] });
    }
    check(bytes[VERSION_AT] == VERSION, VERSION_AT)?;
    check(bytes[RESERVED] == 0, RESERVED)?;
    check(bytes[LEVEL] == expected.level, LEVEL)?;
    let used = u32_at(bytes, USED) as usize;
    check((HEADER_BYTES..=bytes.len()).contains(&used), USED)?;
    if expected.level == LEVEL_OVERFLOW {
        check(bytes[KIND] == PageKind::Overflow.code(), KIND)?;
        check(u16_at(bytes, COUNT) == 0, COUNT)?;
        check(u16_at(bytes, PREFIX) == 0, PREFIX)?;
        return check(overflow_blocks(used - HEADER_BYTES) == bytes.len() / BLOCK_BYTES, USED);
    }
    validate_entries(bytes, expected, used, malformed)
}

fn validate_entries(
    bytes: &[u8],
    expected: &PageRef,
    used: usize,
    malformed: impl Fn(usize) -> PageError,
) -> Result<(), PageError> {
    let check = |sound: bool, at: usize| if sound { Ok(()) } else { Err(malformed(at)) };
    let leaf = expected.level == 0;
    let kind = if leaf { PageKind::Leaf } else { PageKind::Interior };
    check(bytes[KIND] == kind.code(), KIND)?;
    check(usize::from(expected.level) < LEVELS_MAX, LEVEL)?;
    check(matches!(expected.blocks, 1 | 2 | 4), BLOCKS)?;
    let count = usize::from(u16_at(bytes, COUNT));
    let prefix_bytes = usize::from(u16_at(bytes, PREFIX));
    check(count > 0, COUNT)?;
    let mut at = HEADER_BYTES + count * SLOT_BYTES + prefix_bytes;
    check(at <= used, PREFIX)?;
    let fixed = if leaf { LEAF_FIXED_BYTES } else { CHILD_BYTES };
    let mut last: Option<&[u8]> = None;
    for slot in (HEADER_BYTES..).step_by(SLOT_BYTES).take(count) {
        check(usize::from(u16_at(bytes, slot + 4)) == at, slot + 4)?;
        let suffix_bytes = usize::from(u16_at(bytes, slot + 6));
        check(prefix_bytes + suffix_bytes <= ENCODED_KEY_BYTES_MAX, slot + 6)?;
        let suffix_at = at + fixed;
        let tail_at = suffix_at + suffix_bytes;
        check(tail_at <= used, slot + 6)?;
        let suffix = &bytes[suffix_at..tail_at];
        check(u32_at(bytes, slot) == hint_of(suffix), slot)?;
        check(last.is_none_or(|last| last < suffix), suffix_at)?;
        last = Some(suffix);
        if leaf {
            let length = u32_at(bytes, at + 16);
            let item_bytes = (length & !OVERFLOW_BIT) as usize;
            if length & OVERFLOW_BIT == 0 {
                check(item_bytes <= used - tail_at, at + 16)?;
                at = tail_at + item_bytes;
            } else {
                check(used - tail_at >= OVERFLOW_REF_BYTES, tail_at)?;
                let blocks = usize::from(u16_at(bytes, tail_at + 12));
                check(item_bytes <= ENCODED_ITEM_BYTES_MAX, at + 16)?;
                check(blocks == overflow_blocks(item_bytes), tail_at + 12)?;
                let extents = PAGE_ID_FIRST..PAGE_ID_END;
                check(extents.contains(&u64_at(bytes, tail_at)), tail_at)?;
                check(u16_at(bytes, tail_at + 14) == 0, tail_at + 14)?;
                at = tail_at + OVERFLOW_REF_BYTES;
            }
        } else {
            let child: &[u8; CHILD_BYTES] =
                bytes[at..suffix_at].try_into().expect("a whole reference");
            let child = decode_child(child).ok_or_else(|| malformed(at))?;
            check(child.page.level + 1 == expected.level, at + 46)?;
            at = tail_at;
        }
    }
    check(at == used, USED)
}
