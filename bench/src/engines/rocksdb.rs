//! RocksDB: one column family; write batches with `sync`. Cache and filters as in redb's published
//! benchmark.

use ::rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IteratorMode, Options, Snapshot,
    WaitForCompactOptions, WriteBatch, WriteBufferManager, WriteOptions,
};

use super::engine::{COMMIT_ITEMS_MAX, Engine, Fault, Reader, Setting};
use super::workload::{Key, Pair};

pub(crate) struct Rocksdb {
    database: DB,
    durable: WriteOptions,
}

/// Bits of the Bloom filters for each key, as in the published benchmark.
const FILTER_BITS: f64 = 10.0;

impl Rocksdb {
    /// A new database.
    pub(crate) fn open(setting: &Setting<'_>) -> Result<Rocksdb, Fault> {
        let cache_bytes = usize::try_from(setting.cache_bytes)?;
        let cache = Cache::new_lru_cache(cache_bytes);
        let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            cache_bytes / 2,
            false,
            cache.clone(),
        );
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&cache);
        blocks.set_bloom_filter(FILTER_BITS, false);
        blocks.set_cache_index_and_filter_blocks(true);
        let mut options = Options::default();
        options.set_block_based_table_factory(&blocks);
        options.set_write_buffer_manager(&buffers);
        options.set_compression_type(DBCompressionType::None);
        options.create_if_missing(true);
        let threads = std::thread::available_parallelism()?.get();
        options.increase_parallelism(i32::try_from(threads)?);
        let database = DB::open(&options, setting.dir)?;
        let mut durable = WriteOptions::default();
        durable.set_sync(true);
        Ok(Rocksdb { database, durable })
    }

    /// Everything that `change` does with each of `things`, in durable batches.
    fn commit<T>(
        &self,
        things: &mut dyn Iterator<Item = T>,
        change: impl Fn(&mut WriteBatch, T),
    ) -> Result<(), Fault> {
        let mut things = things.peekable();
        while things.peek().is_some() {
            let mut batch = WriteBatch::default();
            things.by_ref().take(COMMIT_ITEMS_MAX).for_each(|thing| change(&mut batch, thing));
            self.database.write_opt(&batch, &self.durable)?;
        }
        Ok(())
    }
}

impl Engine for Rocksdb {
    fn settings(&self) -> String {
        format!(
            "each commit's log flushed with fdatasync (WriteOptions::sync), Bloom filters of \
             {FILTER_BITS} bits, no compression; bulk load and removals in commits of \
             {COMMIT_ITEMS_MAX} items; compactions on its own threads"
        )
    }

    fn load(&mut self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<(), Fault> {
        self.commit(pairs, |batch, (key, value)| batch.put(key, value))
    }

    fn put_batch(&mut self, pairs: &[Pair]) -> Result<(), Fault> {
        self.load(&mut pairs.iter().copied())
    }

    fn remove(&mut self, keys: &mut dyn Iterator<Item = Key>) -> Result<(), Fault> {
        self.commit(keys, |batch, key| batch.delete(key))
    }

    fn reader(&mut self) -> Result<Box<dyn Reader + '_>, Fault> {
        Ok(Box::new(View { snapshot: self.database.snapshot() }))
    }

    fn settle(&mut self) -> Result<(), Fault> {
        let mut options = WaitForCompactOptions::default();
        options.set_flush(true);
        self.database.wait_for_compact(&options)?;
        Ok(())
    }

    fn compact(&mut self) -> Result<bool, Fault> {
        self.database.compact_range::<&[u8], &[u8]>(None, None);
        Ok(true)
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        Ok(())
    }
}

/// A snapshot.
struct View<'e> {
    snapshot: Snapshot<'e>,
}

impl Reader for View<'_> {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Fault> {
        let found = self.snapshot.get_pinned(key)?;
        Ok(found.map(|value| see(&value)).is_some())
    }

    fn range(&mut self, from: &Key, items: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        let mode = IteratorMode::From(from, Direction::Forward);
        for entry in self.snapshot.iterator(mode).take(items) {
            see(&entry?.1);
        }
        Ok(())
    }
}
