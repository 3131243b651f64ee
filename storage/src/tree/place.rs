//! Buffers and places for the pages and extents that a merge makes.

use super::merge::MergeStats;
use super::page::{self, Place};
use super::{LEVEL_OVERFLOW, OverflowRef, Value};
use crate::block::BlockBuf;
use crate::cache::PageCache;
use crate::space::SpaceMap;

/// Why an action could not be done now; nothing was changed.
pub(super) enum Blocked {
    CacheFull,
    NeedSpace(u64),
}

/// Where the blocks of a new page come from.
#[derive(Clone, Copy)]
pub(super) enum Room {
    Page,
    Extent,
    Borrowed,
}

/// A buffer and a place for a new page, or for an extent.
pub(super) fn new_page(
    blocks: usize,
    room: Room,
    cache: &mut PageCache,
    space: &mut SpaceMap,
) -> Result<(BlockBuf, Place), Blocked> {
    if cache.is_half_dirty() {
        return Err(Blocked::CacheFull);
    }
    let buf = cache.take_frame(blocks).ok_or(Blocked::CacheFull)?;
    let n = blocks as u16;
    let found = match room {
        Room::Page => space.allocate(n),
        Room::Extent => space.allocate_extent(n),
        Room::Borrowed => space.borrow(n),
    };
    match found {
        Some(id) => Ok((buf, Place { shard: cache.shard(), id, birth: space.building() })),
        None => {
            cache.give_back(buf);
            Err(Blocked::NeedSpace(blocks as u64))
        }
    }
}

/// The form in which a leaf entry holds an item; a big one is written to an extent.
pub(super) fn store_item<'a>(
    stats: &mut MergeStats,
    key: &[u8],
    item: &'a [u8],
    room: Room,
    cache: &mut PageCache,
    space: &mut SpaceMap,
    allocated: &mut Vec<(u64, u16)>,
) -> Result<Value<'a>, Blocked> {
    if !page::goes_to_overflow(key.len(), item.len()) {
        return Ok(Value::Inline(item));
    }
    let blocks = page::overflow_blocks(item.len());
    let (mut buf, place) = new_page(blocks, room, cache, space)?;
    let page = page::write_overflow(&mut buf, place, item);
    debug_assert_eq!(page.level, LEVEL_OVERFLOW);
    cache.insert(page, buf);
    allocated.push((page.id, page.blocks));
    stats.pages_written += 1;
    stats.blocks_written += blocks as u64;
    Ok(Value::Overflow(OverflowRef { page, item_bytes: item.len() as u32 }))
}
