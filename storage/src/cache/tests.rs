//! The cache alone: budget, eviction, pins, reads in flight, writes.

use super::*;
use crate::tree::LEVEL_OVERFLOW;
use crate::tree::page::Place;

const SHARD: ShardId = ShardId(1);

fn page(cache: &mut PageCache, id: u64, blocks: usize) -> Option<PageRef> {
    let mut buf = cache.take_frame(blocks)?;
    let place = Place { shard: SHARD, id, birth: 1 };
    let item = vec![id as u8; blocks * BLOCK_BYTES - page::HEADER_BYTES];
    let page = page::write_overflow(&mut buf, place, &item);
    assert_eq!(page.level, LEVEL_OVERFLOW);
    cache.insert(page, buf);
    Some(page)
}

fn write_all(cache: &mut PageCache, op: &mut u64) -> usize {
    let mut writes = 0;
    loop {
        *op += 1;
        let Some(DiskOp::Write { op, buf, .. }) = cache.next_write(OpId(*op)) else {
            return writes;
        };
        writes += 1;
        cache.finish_write(DiskDone { op, buf: Some(buf), result: Ok(()) }).unwrap();
    }
}

fn read(cache: &mut PageCache, page: &PageRef, op: u64) -> DiskDone {
    let ReadStart::Started(DiskOp::Read { op, mut buf, .. }) = cache.begin_read(page, OpId(op))
    else {
        panic!("a read starts");
    };
    let place = Place { shard: SHARD, id: page.id, birth: 1 };
    let item = vec![page.id as u8; buf.len() - page::HEADER_BYTES];
    page::write_overflow(&mut buf, place, &item);
    DiskDone { op, buf: Some(buf), result: Ok(()) }
}

#[test]
fn memory_stays_within_the_budget_whatever_the_sizes() {
    stays_within_its_budget(false);
}

#[test]
fn memory_taken_at_the_start_counts_too() {
    stays_within_its_budget(true);
}

fn stays_within_its_budget(populated: bool) {
    let budget = 4 << 20;
    let mut cache = PageCache::new(SHARD, budget).unwrap();
    if populated {
        cache.populate();
        assert_eq!(cache.resident_bytes, cache.budget_bytes);
    }
    let mut random = crate::sim_disk::SimRandom::new(3);
    let (mut id, mut op) = (0, 0);
    for _ in 0..5_000 {
        let blocks = 1 + if random.chance(1, 10) { random.below(120) } else { 0 };
        id += 200;
        while page(&mut cache, id, blocks).is_none() {
            assert!(write_all(&mut cache, &mut op) > 0);
        }
        assert!(cache.stats().resident_bytes <= budget as u64);
    }
    write_all(&mut cache, &mut op);
    let stats = cache.stats();
    assert!(cache.is_written() && stats.evictions > 0 && stats.dirty_frames == 0);
    assert!(stats.resident_bytes > budget as u64 / 2);
    assert_eq!((cache.dirty_bytes, cache.reading_bytes), (0, 0));
}

#[test]
fn pinned_and_unwritten_pages_stay() {
    let mut cache = PageCache::new(SHARD, BUDGET_BYTES_MIN).unwrap();
    let mut op = 0;
    let kept = page(&mut cache, 10, 1).unwrap();
    let pin = cache.pin(&kept).unwrap();
    write_all(&mut cache, &mut op);
    for id in 100..1_000 {
        if page(&mut cache, id, 1).is_none() {
            write_all(&mut cache, &mut op);
        }
    }
    assert_eq!(page::overflow_item(cache.pinned(pin))[0], 10);
    assert!(cache.get(&kept).is_some());
    cache.unpin(pin);
    // Full of unwritten pages: nothing more goes in, and none of them was lost.
    write_all(&mut cache, &mut op);
    let pages: Vec<PageRef> = (2_000..).map_while(|id| page(&mut cache, id, 1)).collect();
    assert_eq!(pages.len(), cache.blocks());
    assert!(cache.get(&kept).is_none());
    assert!(matches!(cache.begin_read(&kept, OpId(9_999)), ReadStart::Full));
    assert!(pages.iter().all(|page| cache.get(page).is_some()));
}

#[test]
fn used_pages_outlive_unused_ones() {
    let mut cache = PageCache::new(SHARD, BUDGET_BYTES_MIN).unwrap();
    let mut op = 0;
    let hot = page(&mut cache, 10, 1).unwrap();
    for id in 100..2_000 {
        assert!(cache.get(&hot).is_some());
        page(&mut cache, id, 1).unwrap();
        write_all(&mut cache, &mut op);
    }
}

#[test]
fn one_read_serves_all_who_ask_and_a_replaced_page_is_not_overwritten_by_it() {
    let mut cache = PageCache::new(SHARD, BUDGET_BYTES_MIN).unwrap();
    let mut op = 0;
    let old = page(&mut cache, 10, 1).unwrap();
    write_all(&mut cache, &mut op);
    cache.forget(10);
    assert!(cache.get(&old).is_none());
    let done = read(&mut cache, &old, 500);
    assert!(matches!(cache.begin_read(&old, OpId(501)), ReadStart::InFlight(OpId(500))));
    assert!(cache.expects(&old) && cache.get(&old).is_none());
    // The id gets a new page while the read of the old one is under way.
    let mut buf = cache.take_frame(1).unwrap();
    let new = page::write_overflow(&mut buf, Place { shard: SHARD, id: 10, birth: 2 }, b"newer");
    cache.insert(new, buf);
    assert_eq!(cache.finish_read(done), Ok(old));
    assert_eq!(cache.get(&new).map(page::overflow_item), Some(b"newer".as_slice()));
    assert!(cache.get(&old).is_none());
    // An ordinary read.
    write_all(&mut cache, &mut op);
    cache.forget(10);
    let done = read(&mut cache, &old, 502);
    assert_eq!(cache.finish_read(done), Ok(old));
    assert!(matches!(cache.begin_read(&old, OpId(503)), ReadStart::Cached));
}

#[test]
fn failed_reads_leave_nothing_behind() {
    let mut cache = PageCache::new(SHARD, BUDGET_BYTES_MIN).unwrap();
    let mut op = 0;
    let wanted = page(&mut cache, 10, 1).unwrap();
    write_all(&mut cache, &mut op);
    cache.forget(10);
    let mut done = read(&mut cache, &wanted, 600);
    done.buf.as_mut().unwrap()[100] ^= 1;
    assert!(matches!(cache.finish_read(done), Err(ReadError::Damage(_))));
    let mut done = read(&mut cache, &wanted, 601);
    done.result = Err(DiskError { errno: libc::EIO });
    assert!(matches!(cache.finish_read(done), Err(ReadError::Disk { .. })));
    assert_eq!((cache.stats().frames, cache.reading_bytes), (0, 0));
}

#[test]
fn neighbours_leave_in_one_write_and_stay_readable_meanwhile() {
    let mut cache = PageCache::new(SHARD, 4 << 20).unwrap();
    let pages: Vec<PageRef> =
        (100..140).chain(200..201).map(|id| page(&mut cache, id, 1).unwrap()).collect();
    let mut shapes = Vec::new();
    let mut in_flight = Vec::new();
    while let Some(write) = cache.next_write(OpId(shapes.len() as u64)) {
        let DiskOp::Write { op, offset_bytes, buf, bytes, .. } = write else { panic!() };
        shapes.push((offset_bytes / BLOCK_BYTES as u64, bytes / BLOCK_BYTES));
        in_flight.push(DiskDone { op, buf: Some(buf), result: Ok(()) });
    }
    assert_eq!(shapes, [(100, 32), (132, 8), (200, 1)]);
    assert!(pages.iter().all(|page| cache.get(page).is_some()) && !cache.is_written());
    in_flight.into_iter().for_each(|done| cache.finish_write(done).unwrap());
    assert!(cache.is_written());
}

#[test]
fn pages_forgotten_before_their_write_are_not_written() {
    let mut cache = PageCache::new(SHARD, BUDGET_BYTES_MIN).unwrap();
    assert!((10..13).all(|id| page(&mut cache, id, 1).is_some()));
    cache.forget(10);
    cache.forget(11);
    let Some(DiskOp::Write { op, offset_bytes, buf, bytes, .. }) = cache.next_write(OpId(1)) else {
        panic!()
    };
    assert_eq!((offset_bytes, bytes), (12 * BLOCK_BYTES as u64, BLOCK_BYTES));
    cache.forget(12);
    cache.finish_write(DiskDone { op, buf: Some(buf), result: Ok(()) }).unwrap();
    assert!(cache.is_written());
    assert_eq!(cache.stats().frames, 0);
}

#[test]
fn a_write_is_whole_when_waiting_would_not_make_it_longer() {
    let mut cache = PageCache::new(SHARD, 4 << 20).unwrap();
    assert!(!cache.has_whole_write());
    for id in 100..100 + WRITE_BLOCKS as u64 {
        assert!(!cache.has_whole_write());
        page(&mut cache, id, 1).unwrap();
    }
    assert!(cache.has_whole_write());
    assert_eq!(write_all(&mut cache, &mut 0), 1);
    page(&mut cache, 300, 1).unwrap();
    page(&mut cache, 301, 2).unwrap();
    assert!(!cache.has_whole_write());
    page(&mut cache, 400, 1).unwrap();
    assert!(cache.has_whole_write());
}
