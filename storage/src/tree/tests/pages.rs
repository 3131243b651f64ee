//! Bytes of pages: golden, damaged, arbitrary.

use forebay_core::digest::Digest;
use forebay_core::ids::ShardId;

use super::harness::{Batch, Model, SHARD, Store, apply, read_block};
use crate::block::{BLOCK_BYTES, OpId, ShardFile};
use crate::cache::{ReadError, ReadStart};
use crate::sim_disk::{Fault, SimRandom};
use crate::tree::build::{Builder, Fill};
use crate::tree::page::{self, PageError, PageView, Place};
use crate::tree::{ChildRef, LEVEL_OVERFLOW, OverflowRef, PageRef, Totals, TreeRef, Value};

const PLACE: Place = Place { shard: ShardId(3), id: 0x55, birth: 9 };

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn small_leaf() -> (Vec<u8>, ChildRef) {
    let mut builder = Builder::new(0);
    builder.push_item([b"apple", b""], &Value::Inline(b"red"), 0x11);
    let page = PageRef { id: 0x77, crc: 0xaabb_ccdd, blocks: 2, level: LEVEL_OVERFLOW };
    let extent = OverflowRef { page, item_bytes: 5_000 };
    builder.push_item([b"app", b"roach"], &Value::Overflow(extent), 0x22);
    let mut bytes = vec![0xee; BLOCK_BYTES];
    let plan = builder.plan(Fill::Even);
    assert_eq!((plan.entries, plan.blocks), (2, 1));
    let child = builder.cut(plan, PLACE, &mut bytes, &mut Vec::new());
    (bytes, child)
}

#[test]
fn golden_bytes_of_each_kind_of_page() {
    let (leaf, child) = small_leaf();
    let used = PageView::new(&leaf).used_bytes() as usize;
    assert_eq!(
        hex(&leaf[..used]),
        "d4f7ca74464270670101010003000200550000000000000009000000000000007d000000030000000000656c3b00020063616f725400050061707011000000000000000000000000000000030000006c657265642200000000000000000000000000000088130080726f6163687700000000000000ddccbbaa02000000"
    );
    assert_eq!(child.totals, Totals { items: 2, bytes: 5 + 3 + 8 + 5_000, digest: 0x33 });
    assert_eq!(page::validate(&leaf, &child.page, SHARD), Ok(()));

    let mut builder = Builder::new(1);
    builder.push_child([b"", b""], &child);
    let other = ChildRef { page: PageRef { id: 0x56, ..child.page }, ..child };
    builder.push_child([b"b", b""], &other);
    let mut interior = vec![0xee; BLOCK_BYTES];
    let plan = builder.plan(Fill::Even);
    let root = builder.cut(plan, PLACE, &mut interior, &mut Vec::new());
    let used = PageView::new(&interior).used_bytes() as usize;
    assert_eq!(
        hex(&interior[..used]),
        "471cd06c4642706701020100030002005500000000000000090000000000000099000000000001000000000038000000000000626800010055000000000000000200000000000000981300000000000033000000000000000000000000000000d4f7ca740100000056000000000000000200000000000000981300000000000033000000000000000000000000000000d4f7ca740100000062"
    );
    assert_eq!(page::validate(&interior, &root.page, SHARD), Ok(()));

    let mut overflow = vec![0xee; 2 * BLOCK_BYTES];
    let extent = page::write_overflow(&mut overflow, PLACE, &[7; 5_000]);
    assert_eq!(
        hex(&overflow[..48]),
        "c330034946427067010302000300000055000000000000000900000000000000b01300000000ff000707070707070707"
    );
    assert_eq!(page::validate(&overflow, &extent, SHARD), Ok(()));
    assert_eq!(page::overflow_item(&overflow), [7; 5_000]);

    assert_eq!(TreeRef::decode(&TreeRef { root: Some(root) }.encode()).unwrap().root, Some(root));
    assert_eq!(TreeRef::decode(&TreeRef::EMPTY.encode()), Some(TreeRef::EMPTY));
    assert_eq!(Digest::of(b"key", b"item").0, 0xbcf142b066630d039217638f085d519c);
}

#[test]
fn search_finds_what_a_sorted_list_finds() {
    let mut random = SimRandom::new(4);
    for _ in 0..300 {
        let prefix = vec![b'p'; random.below(6)];
        let alphabet = 1 + random.below(3);
        let key = |random: &mut SimRandom| -> Vec<u8> {
            let bytes = random.below(9);
            let tail = (0..bytes).map(|_| random.below(alphabet + 1) as u8 * 60);
            prefix.iter().copied().chain(tail).collect()
        };
        let keys: std::collections::BTreeSet<Vec<u8>> =
            (0..1 + random.below(60)).map(|_| key(&mut random)).collect();
        let keys: Vec<Vec<u8>> = keys.into_iter().collect();
        let mut builder = Builder::new(0);
        keys.iter().for_each(|key| builder.push_item([key, &[]], &Value::Inline(b"item"), 1));
        let mut bytes = vec![0; BLOCK_BYTES];
        let plan = builder.plan(Fill::Even);
        assert_eq!(plan.entries, keys.len());
        let child = builder.cut(plan, PLACE, &mut bytes, &mut Vec::new());
        assert_eq!(page::validate(&bytes, &child.page, SHARD), Ok(()));
        let view = PageView::new(&bytes);
        for _ in 0..100 {
            let mut wanted = key(&mut random);
            if random.chance(1, 8) {
                wanted = vec![random.bits() as u8; random.below(4)];
            }
            assert_eq!(view.search(&wanted), keys.binary_search(&wanted));
            for (i, key) in keys.iter().enumerate() {
                assert_eq!(view.compare(i, &wanted), key.cmp(&wanted));
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_a_tree_is_found_and_never_served() {
    let mut store = Store::create(2 << 20, 1);
    let mut model = Model::new();
    let changes: Batch = (0..100_u64)
        .map(|n| (n.to_be_bytes().to_vec(), Some(vec![n as u8; if n == 50 { 5_000 } else { 60 }])))
        .collect();
    store.merge(&changes);
    apply(&mut model, &changes);
    store.checkpoint();
    let mut pages = Vec::new();
    let tree = store.tree;
    let disk = &mut store.disk;
    let mut read = |page: &PageRef| read_block(disk, page.id, usize::from(page.blocks));
    crate::tree::verify::verify(SHARD, &tree, &mut read, &mut |page| pages.push(*page));
    assert!(pages.len() >= 4 && pages.iter().any(|page| page.level == 1));
    for page in &pages {
        store.cache.forget(page.id);
        for at in 0..u64::from(page.blocks) * BLOCK_BYTES as u64 {
            let (offset, bit) = (page.id * BLOCK_BYTES as u64 + at, (at % 8) as u8);
            store.disk.flip_bit(ShardFile::Pages, offset, bit);
            let op = OpId(1 << 50 | at);
            let ReadStart::Started(op) = store.cache.begin_read(page, op) else { panic!() };
            store.disk.submit(op);
            let error = store.cache.finish_read(store.disk.complete_next().unwrap()).unwrap_err();
            match error {
                ReadError::Damage(PageError::Checksum { id, expected, stored, found }) => {
                    assert_eq!((id, expected), (page.id, page.crc));
                    assert!(stored != expected || found != expected);
                }
                other => panic!("byte {at}: {other:?}"),
            }
            assert!(store.cache.get(page).is_none());
            store.disk.flip_bit(ShardFile::Pages, offset, bit);
        }
    }
    store.check_reads(&model);
}

#[test]
fn lost_and_misdirected_writes_are_found() {
    let mut store = Store::create(2 << 20, 1);
    let put = |byte| -> Batch {
        (0..100_u64).map(|n| (n.to_be_bytes().to_vec(), Some(vec![byte; 60]))).collect()
    };
    store.merge(&put(1));
    store.checkpoint();
    store.disk.inject(ShardFile::Pages, Fault::LoseWrite);
    store.merge(&put(2));
    let tree = store.tree;
    let (report, _) = store.verify(&tree);
    assert!(!report.damages.is_empty());

    // A whole page of the same shard in the wrong place.
    let (leaf, child) = small_leaf();
    let expected = PageRef { id: 0x56, ..child.page };
    let error = page::validate(&leaf, &expected, SHARD);
    assert!(matches!(error, Err(PageError::Misplaced { id: 0x56, found_id: 0x55, .. })));
    let error = page::validate(&leaf, &child.page, ShardId(4));
    assert!(matches!(error, Err(PageError::Misplaced { found_shard: 3, .. })));
}

#[test]
fn mutated_pages_with_valid_checksums_never_panic() {
    let (leaf, child) = small_leaf();
    let mut builder = Builder::new(1);
    builder.push_child([b"", b""], &child);
    builder.push_child([b"b", b""], &child);
    let mut interior = vec![0; BLOCK_BYTES];
    let plan = builder.plan(Fill::Even);
    let root = builder.cut(plan, PLACE, &mut interior, &mut Vec::new());
    let mut random = SimRandom::new(8);
    let mut accepted = 0;
    for round in 0..60_000 {
        let (bytes, level) = if round % 2 == 0 { (&leaf, 0) } else { (&interior, 1) };
        let mut bytes = bytes.clone();
        for _ in 0..1 + random.below(3) {
            let at =
                if random.chance(1, 20) { random.below(BLOCK_BYTES) } else { random.below(200) };
            bytes[at] = if random.chance(1, 2) { random.bits() as u8 } else { bytes[at] ^ 1 };
        }
        let crc = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        let expected = PageRef { crc, level, ..root.page };
        if page::validate(&bytes, &expected, SHARD).is_ok() {
            accepted += 1;
            let view = PageView::new(&bytes);
            let _ = view.totals();
            for i in 0..view.count() {
                let mut key = Vec::new();
                view.key_into(i, &mut key);
                assert_eq!(view.search(&key), Ok(i));
            }
        }
    }
    println!("{accepted} mutations left a well-formed page");
    for _ in 0..2_000 {
        let bytes: Vec<u8> = (0..BLOCK_BYTES).map(|_| random.bits() as u8).collect();
        assert!(page::validate(&bytes, &root.page, SHARD).is_err());
    }
}
