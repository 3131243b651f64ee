//! Pages of a tree. Input: the bytes of a page up to its last that is not zero.

use forebay_core::digest::Digest;
use forebay_core::ids::ShardId;
use forebay_storage::block::{BLOCK_BYTES, BlockBuf, DiskDone, DiskError, DiskOp, OpId};
use forebay_storage::cache::{BUDGET_BYTES_MIN, PageCache, ReadStart};
use forebay_storage::tree::page::{
    CHILD_BYTES, HEADER_BYTES, LEAF_FIXED_BYTES, PAGE_BLOCKS_MAX, PageView, SLOT_BYTES,
    encode_child, overflow_blocks, overflow_item, self_reference, validate,
};
use forebay_storage::tree::verify::verify;
use forebay_storage::tree::walk::{self, Cursor, Direction, Lookup, Step};
use forebay_storage::tree::{ChildRef, LEVEL_OVERFLOW, PageRef, Totals, TreeRef, Value};

use super::{blocks_of, put, trimmed, u16_at};

const SHARD: ShardId = ShardId(3);

/// In an accepted page every search finds what iteration shows, in both directions.
pub fn run(data: &[u8]) {
    let mut bytes = blocks_of(data);
    if let Some(blocks @ (2 | 4)) = data.get(10).copied().map(usize::from) {
        bytes.resize(bytes.len().max(blocks * BLOCK_BYTES), 0);
    }
    bytes.truncate(PAGE_BLOCKS_MAX * BLOCK_BYTES);
    check(&bytes);
    seal(&mut bytes);
    check(&bytes);
}

fn seal(page: &mut [u8]) {
    let crc = crc32fast::hash(&page[4..]);
    put(page, 0, &crc.to_le_bytes());
}

fn check(bytes: &[u8]) {
    let Some(page) = self_reference(bytes) else { return };
    if usize::from(page.blocks) * BLOCK_BYTES != bytes.len() {
        return;
    }
    if let Err(error) = validate(bytes, &page, SHARD) {
        assert!(!error.to_string().is_empty());
        return;
    }
    for wrong in [PageRef { id: page.id ^ 1, ..page }, PageRef { crc: !page.crc, ..page }] {
        assert!(validate(bytes, &wrong, SHARD).is_err(), "a page is only what its reference says");
    }
    assert!(validate(bytes, &page, ShardId(SHARD.0 + 1)).is_err());
    if page.level == LEVEL_OVERFLOW {
        assert_eq!(overflow_blocks(overflow_item(bytes).len()), usize::from(page.blocks));
        return;
    }
    let view = PageView::new(bytes);
    let keys = check_view(&view);
    check_walks(&page, bytes, &view, &keys);
}

fn check_view(view: &PageView<'_>) -> Vec<Vec<u8>> {
    let keys: Vec<Vec<u8>> = (0..view.count())
        .map(|i| {
            let mut key = Vec::new();
            view.key_into(i, &mut key);
            key
        })
        .collect();
    assert!(keys.is_sorted_by(|a, b| a < b), "keys ascend");
    for (i, key) in keys.iter().enumerate() {
        assert!(key.starts_with(view.prefix()));
        assert_eq!(view.search(key), Ok(i));
        assert!(view.compare(i, key).is_eq());
        let after = [key, &[0][..]].concat();
        let next = keys.get(i + 1) == Some(&after);
        assert_eq!(view.search(&after), if next { Ok(i + 1) } else { Err(i + 1) });
        assert!(view.compare(i, &after).is_lt());
        if let Some(before) = key.split_last().map(|(_, before)| before) {
            let place = keys.partition_point(|other| other.as_slice() < before);
            let found = keys.get(place).is_some_and(|other| other == before);
            assert_eq!(view.search(before), if found { Ok(place) } else { Err(place) });
        }
        if view.level() > 0 {
            assert_eq!(view.child_index(key), i);
            assert_eq!(view.child_index(&after), if next { i + 1 } else { i });
            assert_eq!(view.child(i).page, view.child_page(i));
        }
    }
    keys
}

/// The page as the root of a tree in a cache that has nothing else.
fn check_walks(page: &PageRef, bytes: &[u8], view: &PageView<'_>, keys: &[Vec<u8>]) {
    let mut cache = PageCache::new(SHARD, BUDGET_BYTES_MIN).expect("a little address space");
    let ReadStart::Started(DiskOp::Read { op, mut buf, .. }) = cache.begin_read(page, OpId(1))
    else {
        panic!("an empty cache reads");
    };
    buf.copy_from_slice(bytes);
    let done = DiskDone { op, buf: Some(buf), result: Ok(()) };
    assert_eq!(cache.finish_read(done).ok(), Some(*page));

    let root = ChildRef { page: *page, totals: view.totals() };
    let tree = TreeRef { root: Some(root) };
    assert!(TreeRef::decode(&tree.encode()).is_none_or(|read| read == tree));
    for (i, key) in keys.iter().enumerate() {
        let found = walk::lookup(&cache, &tree, key);
        if page.level > 0 {
            // The child has the root's own id in a page that names itself.
            if view.child_page(i).id != page.id {
                assert_eq!(found, Lookup::Missing(view.child_page(i)));
            }
            continue;
        }
        match view.value(i) {
            Value::Inline(item) => assert_eq!(found, Lookup::Found(item)),
            Value::Overflow(extent) => assert_eq!(found, Lookup::FoundOverflow(extent)),
        }
    }
    if page.level == 0 {
        let all = entries(&cache, &tree, Cursor::new(&[], None, Direction::Forward));
        assert_eq!(all, keys);
        let mut back = entries(&cache, &tree, Cursor::new(&[], None, Direction::Backward));
        back.reverse();
        assert_eq!(back, keys);
        let (from, to) = (keys.len() / 3, keys.len() - keys.len() / 3 - 1);
        for direction in [Direction::Forward, Direction::Backward] {
            let some = Cursor::new(&keys[from], Some(&keys[to]), direction);
            let mut some = entries(&cache, &tree, some);
            if direction == Direction::Backward {
                some.reverse();
            }
            assert_eq!(some, keys[from..to.max(from)]);
        }
    }
    let blocks = usize::from(page.blocks);
    let mut read = |wanted: &PageRef| {
        if wanted != page {
            return Err(DiskError { errno: 5 });
        }
        let mut buf = BlockBuf::zeroed(blocks);
        buf.copy_from_slice(bytes);
        Ok(buf)
    };
    let mut met = 0;
    let report = verify(SHARD, &tree, &mut read, &mut |_| met += 1);
    assert!(met >= 1 && report.blocks >= u64::from(page.blocks));
    assert_eq!(report.leaves + report.interiors, 1);
}

fn entries(cache: &PageCache, tree: &TreeRef, mut cursor: Cursor) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    loop {
        match cursor.next(cache, tree) {
            Step::Entry { key, .. } => keys.push(key.to_vec()),
            Step::End => return keys,
            Step::Missing(page) => panic!("page {page:?} of a tree of one leaf"),
        }
    }
}

/// A page by the table in the format's docs. `entries`: key after the prefix, what stands before
/// it, what stands behind it.
fn page(level: u8, blocks: u16, prefix: &[u8], entries: &[(&[u8], Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0; usize::from(blocks) * BLOCK_BYTES];
    put(&mut bytes, 4, b"FBpg");
    bytes[8] = 1;
    bytes[9] = match level {
        0 => 1,
        LEVEL_OVERFLOW => 3,
        _ => 2,
    };
    put(&mut bytes, 10, &blocks.to_le_bytes());
    put(&mut bytes, 12, &SHARD.0.to_le_bytes());
    put(&mut bytes, 14, &(entries.len() as u16).to_le_bytes());
    put(&mut bytes, 16, &77u64.to_le_bytes());
    put(&mut bytes, 24, &5u64.to_le_bytes());
    put(&mut bytes, 36, &(prefix.len() as u16).to_le_bytes());
    bytes[38] = level;
    let mut at = HEADER_BYTES + entries.len() * SLOT_BYTES;
    put(&mut bytes, at, prefix);
    at += prefix.len();
    for (i, (suffix, before, after)) in entries.iter().enumerate() {
        let slot = HEADER_BYTES + i * SLOT_BYTES;
        let mut hint = [0; 4];
        let start = &suffix[..suffix.len().min(4)];
        hint[..start.len()].copy_from_slice(start);
        hint.reverse();
        put(&mut bytes, slot, &hint);
        put(&mut bytes, slot + 4, &(at as u16).to_le_bytes());
        put(&mut bytes, slot + 6, &(suffix.len() as u16).to_le_bytes());
        for part in [before, &suffix.to_vec(), after] {
            put(&mut bytes, at, part);
            at += part.len();
        }
    }
    put(&mut bytes, 32, &(at as u32).to_le_bytes());
    seal(&mut bytes);
    let reference = self_reference(&bytes).expect("a page");
    assert_eq!(validate(&bytes, &reference, SHARD), Ok(()));
    assert_eq!(u16_at(&bytes, 10), blocks);
    trimmed(&bytes)
}

fn leaf_entry<'a>(prefix: &[u8], suffix: &'a [u8], item: &[u8]) -> (&'a [u8], Vec<u8>, Vec<u8>) {
    let digest = Digest::of(&[prefix, suffix].concat(), item).0;
    let before = [&digest.to_le_bytes()[..], &(item.len() as u32).to_le_bytes()].concat();
    assert_eq!(before.len(), LEAF_FIXED_BYTES);
    (suffix, before, item.to_vec())
}

/// A leaf, one with a big item and equal hints, an interior page, an overflow extent.
pub fn seeds() -> Vec<Vec<u8>> {
    let leaf = |prefix: &[u8], suffixes: &[&'static [u8]]| {
        let entries: Vec<_> =
            suffixes.iter().map(|suffix| leaf_entry(prefix, suffix, b"an item")).collect();
        page(0, 1, prefix, &entries)
    };
    let mut big = leaf_entry(b"", b"aaaab", b"");
    big.1[LEAF_FIXED_BYTES - 4..].copy_from_slice(&(5000u32 | 1 << 31).to_le_bytes());
    big.2 = [&9u64.to_le_bytes()[..], &7u32.to_le_bytes(), &2u16.to_le_bytes(), &[0; 2]].concat();
    let with_big = [leaf_entry(b"", b"aaaa", b"1"), big, leaf_entry(b"", b"aaaac\xff", b"2")];
    let child = |id| {
        let child = PageRef { id, crc: 3, blocks: 1, level: 0 };
        encode_child(&ChildRef { page: child, totals: Totals { items: 2, bytes: 60, digest: 8 } })
            .to_vec()
    };
    assert_eq!(child(9).len(), CHILD_BYTES);
    let children: Vec<(&[u8], Vec<u8>, Vec<u8>)> =
        vec![(b"", child(9), vec![]), (b"m", child(10), vec![]), (b"mn", child(11), vec![])];
    // An extent has no entries; its item stands where the prefix would.
    // Children whose totals, and whose place, are more than can be; only the first is accepted.
    let mut huge = page(1, 1, b"", &children);
    for i in 0..children.len() {
        let at = HEADER_BYTES + children.len() * SLOT_BYTES + i * CHILD_BYTES + i.saturating_sub(1);
        put(&mut huge, at + 8, &[0xff; 16]);
    }
    let mut beyond = huge.clone();
    put(&mut beyond, HEADER_BYTES + children.len() * SLOT_BYTES, &[0xff; 8]);
    let mut overflow = page(LEVEL_OVERFLOW, 1, &[], &[]);
    overflow.resize(HEADER_BYTES, 0);
    put(&mut overflow, 32, &(HEADER_BYTES as u32 + 7).to_le_bytes());
    overflow.extend_from_slice(b"an item");
    vec![
        leaf(b"prefix ", &[b"", b"a", b"ab", b"b\x00", b"b\x00\x00"]),
        page(0, 1, b"", &with_big),
        page(1, 1, b"", &children),
        page(1, 2, b"zz", &children),
        overflow,
        huge,
        beyond,
    ]
}
