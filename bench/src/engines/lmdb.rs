//! LMDB by way of heed: one unnamed database; commits with LMDB's default flags, which flush.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{CompactionOption, Database, Env, EnvOpenOptions, RoTxn, RwTxn, WithTls};

use super::engine::{Engine, Fault, Reader, Setting};
use super::workload::{Key, Pair};

/// Of LMDB itself.
pub(crate) fn version() -> String {
    let version = heed::lmdb_version();
    format!("{}.{}.{}", version.major, version.minor, version.patch)
}

/// Address space for each item: far more than a sparse map will ever need.
const MAP_BYTES_PER_ITEM: u64 = 2048;
const MAP_BYTES_MIN: u64 = 1 << 30;

pub(crate) struct Lmdb {
    /// None only while the file is replaced.
    env: Option<Env>,
    database: Database<Bytes, Bytes>,
    dir: PathBuf,
    map_bytes: usize,
}

impl Lmdb {
    /// A new environment.
    pub(crate) fn open(setting: &Setting<'_>) -> Result<Lmdb, Fault> {
        let map_bytes = (setting.items * MAP_BYTES_PER_ITEM).next_multiple_of(MAP_BYTES_MIN);
        let map_bytes = usize::try_from(map_bytes)?;
        let env = open_env(setting.dir, map_bytes)?;
        let mut transaction = env.write_txn()?;
        let database = env.create_database(&mut transaction, None)?;
        transaction.commit()?;
        Ok(Lmdb { env: Some(env), database, dir: setting.dir.to_owned(), map_bytes })
    }

    fn env(&self) -> &Env {
        self.env.as_ref().expect("it is away only within compact")
    }

    /// Everything that `change` does, in one durable transaction.
    fn commit(
        &self,
        change: impl FnOnce(&mut RwTxn<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut transaction = self.env().write_txn()?;
        change(&mut transaction)?;
        transaction.commit()?;
        Ok(())
    }
}

fn open_env(dir: &Path, map_bytes: usize) -> Result<Env, Fault> {
    // SAFETY: the directory was made by this process for this environment alone, so nobody changes
    // the mapped file behind LMDB's back, and it is opened once at a time.
    let env = unsafe { EnvOpenOptions::new().map_size(map_bytes).open(dir)? };
    Ok(env)
}

impl Engine for Lmdb {
    fn settings(&self) -> String {
        "each commit flushed with fdatasync and its meta page written through O_DSYNC (no MDB_NOSYNC, \
         no MDB_WRITEMAP); the cache is the kernel's page cache, without limit; bulk load and removals \
         in one transaction each"
            .to_owned()
    }

    fn load(&mut self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<(), Fault> {
        self.commit(|transaction| {
            for (key, value) in pairs {
                self.database.put(transaction, &key, &value)?;
            }
            Ok(())
        })
    }

    fn put_batch(&mut self, pairs: &[Pair]) -> Result<(), Fault> {
        self.load(&mut pairs.iter().copied())
    }

    fn remove(&mut self, keys: &mut dyn Iterator<Item = Key>) -> Result<(), Fault> {
        self.commit(|transaction| {
            for key in keys {
                self.database.delete(transaction, &key)?;
            }
            Ok(())
        })
    }

    fn reader(&mut self) -> Result<Box<dyn Reader + '_>, Fault> {
        Ok(Box::new(View { transaction: self.env().read_txn()?, database: self.database }))
    }

    fn settle(&mut self) -> Result<(), Fault> {
        // It has no background work.
        Ok(())
    }

    /// Copies what is live to a new file and puts that in the old one's place, as `mdb_copy -c` and
    /// a restart would.
    fn compact(&mut self) -> Result<bool, Fault> {
        let copy = self.dir.join("compacted.mdb");
        let mut file = File::create_new(&copy)?;
        self.env().copy_to_file(&mut file, CompactionOption::Enabled)?;
        file.sync_all()?;
        let env = self.env.take().expect("compact is not called within itself");
        env.prepare_for_closing().wait();
        fs::rename(&copy, self.dir.join("data.mdb"))?;
        let env = open_env(&self.dir, self.map_bytes)?;
        let transaction = env.read_txn()?;
        let database = env.open_database(&transaction, None)?;
        drop(transaction);
        self.database = database.ok_or("the compacted file has no database")?;
        self.env = Some(env);
        Ok(true)
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        if let Some(env) = self.env {
            env.prepare_for_closing().wait();
        }
        Ok(())
    }
}

/// A read transaction.
struct View<'e> {
    transaction: RoTxn<'e, WithTls>,
    database: Database<Bytes, Bytes>,
}

impl Reader for View<'_> {
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Fault> {
        let found = self.database.get(&self.transaction, key)?;
        Ok(found.map(see).is_some())
    }

    fn range(&mut self, from: &Key, items: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        let range = (std::ops::Bound::Included(&from[..]), std::ops::Bound::Unbounded);
        for entry in self.database.range(&self.transaction, &range)?.take(items) {
            see(entry?.1);
        }
        Ok(())
    }
}
