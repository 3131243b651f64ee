//! fjall: one keyspace; commits with `PersistMode::SyncData`.

use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable as _, Snapshot};

use super::engine::{COMMIT_ITEMS_MAX, Engine, Fault, Reader, Setting};
use super::workload::{Key, Pair};

pub(crate) struct Fjall {
    database: Database,
    items: Keyspace,
}

impl Fjall {
    /// A new database.
    pub(crate) fn open(setting: &Setting<'_>) -> Result<Fjall, Fault> {
        let database = Database::builder(setting.dir).cache_size(setting.cache_bytes).open()?;
        let items = database.keyspace("items", KeyspaceCreateOptions::default)?;
        Ok(Fjall { database, items })
    }

    /// Everything that `change` does with each of `things`, in durable batches.
    fn commit<T>(
        &self,
        things: &mut dyn Iterator<Item = T>,
        change: impl Fn(&mut ::fjall::OwnedWriteBatch, T),
    ) -> Result<(), Fault> {
        let mut things = things.peekable();
        while things.peek().is_some() {
            let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
            things.by_ref().take(COMMIT_ITEMS_MAX).for_each(|thing| change(&mut batch, thing));
            batch.commit()?;
        }
        Ok(())
    }
}

impl Engine for Fjall {
    fn settings(&self) -> String {
        format!(
            "each commit's journal flushed with fdatasync (PersistMode::SyncData), no compression; bulk \
             load and removals in commits of {COMMIT_ITEMS_MAX} items; compactions on its own threads"
        )
    }

    fn load(&mut self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<(), Fault> {
        self.commit(pairs, |batch, (key, value)| batch.insert(&self.items, key, value))
    }

    fn put_batch(&mut self, pairs: &[Pair]) -> Result<(), Fault> {
        self.load(&mut pairs.iter().copied())
    }

    fn remove(&mut self, keys: &mut dyn Iterator<Item = Key>) -> Result<(), Fault> {
        self.commit(keys, |batch, key| batch.remove(&self.items, key))
    }

    fn reader(&mut self) -> Result<Box<dyn Reader + '_>, Fault> {
        Ok(Box::new(View { snapshot: self.database.snapshot(), items: &self.items }))
    }

    fn settle(&mut self) -> Result<(), Fault> {
        self.items.rotate_memtable_and_wait()?;
        // It says when compactions run, not whether one is due: two quiet looks in a row.
        let mut quiet = 0;
        while quiet < 2 {
            let busy = self.database.active_compactions() + self.database.outstanding_flushes();
            quiet = if busy == 0 { quiet + 1 } else { 0 };
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
    }

    fn compact(&mut self) -> Result<bool, Fault> {
        self.items.major_compact()?;
        Ok(true)
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        Ok(())
    }
}

/// A snapshot.
struct View<'e> {
    snapshot: Snapshot,
    items: &'e Keyspace,
}

impl Reader for View<'_> {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Fault> {
        let found = self.snapshot.get(self.items, key)?;
        Ok(found.map(|value| see(&value)).is_some())
    }

    fn range(&mut self, from: &Key, items: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        for entry in self.snapshot.range(self.items, &from[..]..).take(items) {
            see(&entry.value()?);
        }
        Ok(())
    }
}
