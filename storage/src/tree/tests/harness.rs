//! A store of one tree: what the shard does with merges, checkpoints and reads, without the rest.

use forebay_core::digest::Digest;
use std::collections::{BTreeMap, HashSet};

use forebay_core::ids::{Lsn, ShardId};

use crate::block::{
    BLOCK_BYTES, BlockBuf, DiskDone, DiskError, DiskOp, Durability, OpId, ShardFile,
};
use crate::cache::{PageCache, ReadStart};
use crate::log::LogPoint;
use crate::sim_disk::{SimDisk, SimRandom};
use crate::space::{REGION_BLOCKS, SpaceMap, SpaceRoot, slot_block};
use crate::superblock::{Chosen, LogGeometry, Superblock, choose};
use crate::tree::merge::{Change, Merge, MergeInput, MergeStep};
use crate::tree::verify::{Report, verify};
use crate::tree::walk::{Cursor, Direction, Lookup, Step, lookup, lookup_together, overflow};
use crate::tree::{PageRef, Totals, TreeRef, Value};

pub(super) const SHARD: ShardId = ShardId(3);

pub(super) type Model = BTreeMap<Vec<u8>, Vec<u8>>;
pub(super) type Batch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A batch as a merge sees it.
pub(super) struct Input {
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    at: usize,
}

impl Input {
    pub(super) fn new(batch: &Batch) -> Input {
        let changes = batch.iter().map(|(key, change)| (key.clone(), change.clone())).collect();
        Input { changes, at: 0 }
    }
}

impl MergeInput for Input {
    fn peek(&self) -> Option<(&[u8], Change<'_>)> {
        let (key, change) = self.changes.get(self.at)?;
        Some((key, change.as_deref().map_or(Change::Delete, Change::Put)))
    }
    fn advance(&mut self) {
        self.at += 1;
    }
    fn first_key_from(&self, bound: &[u8]) -> Option<&[u8]> {
        let rest = &self.changes[self.at..];
        let i = rest.partition_point(|(key, _)| key.as_slice() < bound);
        rest.get(i).map(|(key, _)| key.as_slice())
    }
}

pub(super) fn totals_of(model: &Model) -> Totals {
    let mut totals = Totals::default();
    for (key, item) in model {
        totals.add(&Totals::of(key, item.len() as u64, Digest::of(key, item).0));
    }
    totals
}

pub(super) fn apply(model: &mut Model, batch: &Batch) {
    for (key, change) in batch {
        match change {
            Some(item) => drop(model.insert(key.clone(), item.clone())),
            None => drop(model.remove(key)),
        }
    }
}

pub(super) struct Store {
    pub(super) disk: SimDisk,
    pub(super) cache: PageCache,
    pub(super) space: SpaceMap,
    pub(super) tree: TreeRef,
    pub(super) random: SimRandom,
    pub(super) merge: Merge,
    next_op: u64,
    cache_bytes: usize,
}

impl Store {
    /// Formats an empty device.
    pub(super) fn create(cache_bytes: usize, seed: u64) -> Store {
        let mut store = Store {
            disk: SimDisk::new(BLOCK_BYTES as u64, 0),
            cache: PageCache::new(SHARD, cache_bytes).unwrap(),
            space: SpaceMap::new(SHARD),
            tree: TreeRef::EMPTY,
            random: SimRandom::new(seed),
            merge: Merge::new(TreeRef::EMPTY),
            next_op: 0,
            cache_bytes,
        };
        store.grow(1).unwrap();
        store.checkpoint();
        store
    }

    /// Recovers from what a device holds.
    pub(super) fn open(mut disk: SimDisk, cache_bytes: usize, seed: u64) -> (Store, Chosen) {
        let [a, b] = [0, 1].map(|block| read_block(&mut disk, block, 1).unwrap());
        let chosen = choose([&a, &b], SHARD).unwrap();
        let root = |superblock: Superblock| SpaceRoot {
            checkpoint: superblock.checkpoint,
            file_blocks: superblock.file_blocks,
            digest: superblock.space_digest,
        };
        let older = chosen.older.map(root);
        let space = SpaceMap::load(SHARD, &root(chosen.superblock), older.as_ref(), |block| {
            read_block(&mut disk, block, 1).ok()
        });
        let mut store = Store {
            disk,
            cache: PageCache::new(SHARD, cache_bytes).unwrap(),
            space: space.unwrap(),
            tree: chosen.superblock.catalog,
            random: SimRandom::new(seed),
            merge: Merge::new(TreeRef::EMPTY),
            next_op: 0,
            cache_bytes,
        };
        // What recovery read may be in a volatile cache still.
        store.flush();
        (store, chosen)
    }

    pub(super) fn reopen(self) -> Store {
        let (store, chosen) = Store::open(self.disk, self.cache_bytes, self.next_op);
        assert_eq!(chosen.damage, None);
        store
    }

    fn op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    fn run(&mut self, op: DiskOp) -> DiskDone {
        assert_eq!(self.disk.in_flight().len(), 0);
        self.disk.submit(op);
        self.disk.complete_next().unwrap()
    }

    fn flush(&mut self) {
        let op = self.op();
        assert_eq!(self.run(DiskOp::Flush { op, file: ShardFile::Pages }).result, Ok(()));
    }

    pub(super) fn grow(&mut self, blocks: u64) -> Result<(), crate::space::SpaceError> {
        loop {
            let op = self.op();
            let op = self.space.grow(blocks, blocks, op).expect("no growth under way");
            let done = self.run(op);
            if self.space.grown(done.result)? {
                return Ok(());
            }
        }
    }

    pub(super) fn read(&mut self, page: &PageRef) {
        let op = self.op();
        match self.cache.begin_read(page, op) {
            ReadStart::Started(op) => {
                let done = self.run(op);
                self.cache.finish_read(done).unwrap();
            }
            ReadStart::Cached => {}
            ReadStart::InFlight(_) => unreachable!("the harness waits for each read"),
            ReadStart::Full => {
                assert!(!self.cache.is_written(), "only unwritten pages can fill the cache");
                self.write_pages();
                self.read(page);
            }
        }
    }

    /// Writes dirty pages, a random few of them at a time and out of order.
    pub(super) fn write_pages(&mut self) {
        loop {
            let op = self.op();
            match self.cache.next_write(op) {
                Some(op) => self.disk.submit(op),
                None => {
                    let Some(done) = self.disk.complete_one(&mut self.random) else { break };
                    self.cache.finish_write(done).unwrap();
                }
            }
        }
        assert!(self.cache.is_written());
    }

    /// Merges a batch in small slices.
    pub(super) fn merge(&mut self, batch: &Batch) {
        let mut input = Input::new(batch);
        self.merge.reset(self.tree);
        loop {
            let budget = 1 + self.random.below(300);
            match self.merge.step(&mut input, &mut self.cache, &mut self.space, budget) {
                MergeStep::Progress => {}
                MergeStep::Missing => {
                    let missing = self.merge.missing().to_vec();
                    assert!(!missing.is_empty());
                    for page in missing.iter().rev() {
                        self.read(page);
                    }
                }
                MergeStep::CacheFull => self.write_pages(),
                MergeStep::NeedSpace(blocks) => self.grow(blocks).unwrap(),
                MergeStep::Done(tree) => {
                    assert!(input.peek().is_none());
                    self.tree = tree;
                    return;
                }
            }
        }
    }

    /// Everything up to the superblock's write, which is returned.
    pub(super) fn prepare_checkpoint(&mut self) -> DiskOp {
        self.write_pages();
        let mut writes = Vec::new();
        let mut next_op = self.next_op;
        let next = || {
            next_op += 1;
            OpId(next_op)
        };
        let root = self.space.seal(next, || BlockBuf::zeroed(1), &mut writes);
        self.next_op = next_op;
        for write in writes {
            assert_eq!(self.run(write).result, Ok(()));
        }
        self.flush();
        let superblock = Superblock {
            node: 1,
            shard: SHARD,
            checkpoint: root.checkpoint,
            log_start: LogPoint::default(),
            history_bytes: 0,
            durable_lsn: Lsn(0),
            log: LogGeometry::default(),
            catalog: self.tree,
            file_blocks: root.file_blocks,
            space_digest: root.digest,
            logs_lost: 0,
        };
        let mut buf = BlockBuf::zeroed(1);
        superblock.encode(&mut buf);
        DiskOp::Write {
            op: self.op(),
            file: ShardFile::Pages,
            offset_bytes: superblock.block() * BLOCK_BYTES as u64,
            buf,
            bytes: BLOCK_BYTES,
            durability: Durability::Volatile,
        }
    }

    pub(super) fn checkpoint(&mut self) {
        let write = self.prepare_checkpoint();
        assert_eq!(self.run(write).result, Ok(()));
        self.flush();
        self.space.superblock_durable(self.space.building() - 1);
    }

    pub(super) fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        loop {
            self.check_together(key);
            match lookup(&self.cache, &self.tree, key) {
                Lookup::Found(item) => return Some(item.to_vec()),
                Lookup::Absent => return None,
                Lookup::Missing(page) => self.read(&page),
                Lookup::FoundOverflow(extent) => match overflow(&self.cache, &extent) {
                    Some(item) => return Some(item.to_vec()),
                    None => self.read(&extent.page),
                },
            }
        }
    }

    /// Keys in company are found as they are found alone.
    fn check_together(&self, key: &[u8]) {
        let shorter = &key[..key.len() / 2];
        let longer = [key, &[0]].concat();
        let other = [&[key.first().map_or(9, |byte| byte ^ 1)], shorter].concat();
        let empty = TreeRef::EMPTY;
        let keys = [key, shorter, &longer, b"", &other, key];
        let mut wanted = keys.map(|key| (&self.tree, key));
        wanted[5].0 = &empty;
        let mut found = [Lookup::Absent; 6];
        lookup_together(&self.cache, &wanted, &mut found);
        assert_eq!(found, wanted.map(|(tree, key)| lookup(&self.cache, tree, key)));
    }

    pub(super) fn scan(
        &mut self,
        lower: &[u8],
        upper: Option<&[u8]>,
        direction: Direction,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut cursor = Cursor::new(lower, upper, direction);
        let mut found = Vec::new();
        let mut ahead = Vec::new();
        loop {
            match cursor.next(&self.cache, &self.tree) {
                Step::End => return found,
                Step::Missing(page) => {
                    ahead.clear();
                    cursor.read_ahead(&self.cache, 4, &mut ahead);
                    for page in std::mem::take(&mut ahead).iter().rev() {
                        self.read(page);
                    }
                    self.read(&page);
                }
                Step::Entry { key, value } => {
                    let key = key.to_vec();
                    let item = match value {
                        Value::Inline(item) => item.to_vec(),
                        Value::Overflow(extent) => loop {
                            if let Some(item) = overflow(&self.cache, &extent) {
                                break item.to_vec();
                            }
                            self.read(&extent.page);
                        },
                    };
                    found.push((key, item));
                }
            }
        }
    }

    /// Reads every page from the device (dirty ones have been written).
    pub(super) fn verify(&mut self, tree: &TreeRef) -> (Report, HashSet<u64>) {
        self.write_pages();
        let mut blocks = HashSet::new();
        let mut twice = Vec::new();
        let disk = &mut self.disk;
        let report = verify(
            SHARD,
            tree,
            &mut |page| read_block(disk, page.id, usize::from(page.blocks)),
            &mut |page| {
                for block in page.id..page.id + u64::from(page.blocks) {
                    if !blocks.insert(block) {
                        twice.push(block);
                    }
                }
            },
        );
        assert!(twice.is_empty(), "blocks used twice: {twice:?}");
        (report, blocks)
    }

    /// The tree is the model, and the space map holds exactly the tree.
    pub(super) fn check(&mut self, model: &Model) {
        let tree = self.tree;
        let (report, blocks) = self.verify(&tree);
        assert_eq!(report.damages, []);
        assert_eq!(report.totals, totals_of(model));
        assert_eq!(tree.totals(), report.totals);
        assert_eq!(self.space.live_blocks(), blocks.len() as u64, "no block leaked");
        assert!(blocks.iter().all(|&block| self.space.is_live(block, 1)));
        let file = self.space.file_blocks();
        let heads = 2 + 3 * file.div_ceil(REGION_BLOCKS);
        let counted = self.space.live_blocks()
            + self.space.free_blocks()
            + self.space.deferred_blocks()
            + heads;
        assert_eq!(counted, file, "every block of the file has one use");
        assert!(!blocks.contains(&slot_block(0, 0)));
    }

    /// Every read path gives what the model gives.
    pub(super) fn check_reads(&mut self, model: &Model) {
        for (key, item) in model {
            assert_eq!(self.get(key).as_ref(), Some(item));
            let mut other = key.clone();
            other.push(0);
            assert_eq!(self.get(&other).as_ref(), model.get(&other));
            other.pop();
            other.pop();
            assert_eq!(self.get(&other).as_ref(), model.get(&other));
        }
        let keys: Vec<&Vec<u8>> = model.keys().collect();
        for _ in 0..4 {
            let (mut lower, mut upper) = (Vec::new(), None);
            if !keys.is_empty() && self.random.chance(3, 4) {
                lower = keys[self.random.below(keys.len())].clone();
                let other = keys[self.random.below(keys.len())].clone();
                if other > lower {
                    upper = Some(other);
                }
            }
            let expected: Vec<_> = model
                .range(lower.clone()..)
                .take_while(|(key, _)| upper.as_ref().is_none_or(|upper| *key < upper))
                .map(|(key, item)| (key.clone(), item.clone()))
                .collect();
            let found = self.scan(&lower, upper.as_deref(), Direction::Forward);
            assert_eq!(found, expected);
            let mut found = self.scan(&lower, upper.as_deref(), Direction::Backward);
            found.reverse();
            assert_eq!(found, expected);
        }
    }
}

pub(super) fn read_block(
    disk: &mut SimDisk,
    block: u64,
    blocks: usize,
) -> Result<BlockBuf, DiskError> {
    let buf = BlockBuf::zeroed(blocks);
    if (block + blocks as u64) * BLOCK_BYTES as u64 > disk.file_bytes(ShardFile::Pages) {
        return Ok(buf);
    }
    let offset_bytes = block * BLOCK_BYTES as u64;
    disk.submit(DiskOp::Read { op: OpId(u64::MAX), file: ShardFile::Pages, offset_bytes, buf });
    let done = disk.complete(OpId(u64::MAX)).unwrap();
    done.result.map(|()| done.buf.unwrap())
}
