//! redb: one table of byte strings; commits with `Durability::Immediate`, its default.

use ::redb::{Database, ReadOnlyTable, ReadableDatabase as _, TableDefinition, WriteTransaction};

use super::engine::{Engine, Fault, Reader, Setting};
use super::workload::{Key, Pair};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("items");

pub(crate) struct Redb {
    database: Database,
}

impl Redb {
    /// A new database file.
    pub(crate) fn open(setting: &Setting<'_>) -> Result<Redb, Fault> {
        let cache_bytes = usize::try_from(setting.cache_bytes)?;
        let database =
            Database::builder().set_cache_size(cache_bytes).create(setting.dir.join("redb"))?;
        Ok(Redb { database })
    }

    /// Everything that `change` does, in one durable transaction.
    fn commit(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let transaction = self.database.begin_write()?;
        change(&transaction)?;
        transaction.commit()?;
        Ok(())
    }
}

impl Engine for Redb {
    fn settings(&self) -> String {
        "each commit flushed with fdatasync (Durability::Immediate); bulk load and removals in one \
         transaction each"
            .to_owned()
    }

    fn load(&mut self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<(), Fault> {
        self.commit(|transaction| {
            let mut table = transaction.open_table(TABLE)?;
            for (key, value) in pairs {
                table.insert(&key[..], &value[..])?;
            }
            Ok(())
        })
    }

    fn put_batch(&mut self, pairs: &[Pair]) -> Result<(), Fault> {
        self.load(&mut pairs.iter().copied())
    }

    fn remove(&mut self, keys: &mut dyn Iterator<Item = Key>) -> Result<(), Fault> {
        self.commit(|transaction| {
            let mut table = transaction.open_table(TABLE)?;
            for key in keys {
                table.remove(&key[..])?;
            }
            Ok(())
        })
    }

    fn reader(&mut self) -> Result<Box<dyn Reader + '_>, Fault> {
        let transaction = self.database.begin_read()?;
        Ok(Box::new(View { table: transaction.open_table(TABLE)? }))
    }

    fn settle(&mut self) -> Result<(), Fault> {
        // It has no background work.
        Ok(())
    }

    fn compact(&mut self) -> Result<bool, Fault> {
        self.database.compact()?;
        Ok(true)
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        Ok(())
    }
}

/// A read transaction's table.
struct View {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

impl Reader for View {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Fault> {
        let found = self.table.get(&key[..])?;
        Ok(found.map(|value| see(value.value())).is_some())
    }

    fn range(&mut self, from: &Key, items: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        for entry in self.table.range(&from[..]..)?.take(items) {
            see(entry?.1.value());
        }
        Ok(())
    }
}
