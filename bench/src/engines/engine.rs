//! What every engine is asked to do, and who they are.
//!
//! The seam is as thin as it can be: bytes in, borrowed bytes out, and a commit is durable when the
//! call returns. One virtual call for each operation costs all engines the same nanosecond.

use std::path::Path;

use super::workload::{Key, Pair};

/// Whatever an engine fails with; [`crate::error::BenchError::Engine`] says where.
pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Items of one commit of a bulk load, for engines that keep a commit in memory until it is done (the
/// published benchmark has the same limit for RocksDB).
pub(crate) const COMMIT_ITEMS_MAX: usize = 100_000;

/// Of an engine's directory and memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting<'a> {
    /// An empty directory of its own.
    pub(crate) dir: &'a Path,
    /// Memory for what the engine itself caches; the kernel's page cache is beyond anybody's control.
    pub(crate) cache_bytes: u64,
    /// How many items it will hold, for engines that must know beforehand.
    pub(crate) items: u64,
    /// Forebay only: a checkpoint follows a write after so long at the latest.
    pub(crate) checkpoint_millis: u64,
}

/// Of the bytes on disk, those whose purpose is known; the others are kept in reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Pages that hold live data.
    pub(crate) live_bytes: u64,
    /// The log, whatever is in it.
    pub(crate) log_bytes: u64,
}

/// A storage engine in this process. Writes are durable (flushed to the device) when they return.
pub(crate) trait Engine {
    /// How commits are made durable and what else differs from the engine's defaults, in words.
    fn settings(&self) -> String;

    /// Writes all of `pairs` in commits of the size that suits the engine.
    fn load(&mut self, pairs: &mut dyn Iterator<Item = Pair>) -> Result<(), Fault>;

    /// Writes `pairs` in one commit.
    fn put_batch(&mut self, pairs: &[Pair]) -> Result<(), Fault>;

    /// Removes all of `keys`, in commits of the size that suits the engine.
    fn remove(&mut self, keys: &mut dyn Iterator<Item = Key>) -> Result<(), Fault>;

    /// A view to read from.
    fn reader(&mut self) -> Result<Box<dyn Reader + '_>, Fault>;

    /// Waits until the engine has done the background work that earlier writes left: checkpoints,
    /// memory tables, compactions that it starts by itself.
    fn settle(&mut self) -> Result<(), Fault>;

    /// Makes the files as small as the engine can on demand; false if it has no such operation.
    fn compact(&mut self) -> Result<bool, Fault>;

    /// What the bytes on disk are for; none if the engine does not say.
    fn parts(&self) -> Option<Parts> {
        None
    }

    /// Ends it in order.
    fn close(self: Box<Self>) -> Result<(), Fault>;

    /// Where `key` stands in the engine's order of keys.
    #[cfg(test)]
    fn place(&self, key: &Key) -> Vec<u8> {
        key.to_vec()
    }
}

/// Reads from one view of an engine. What is seen is borrowed from the engine where it allows that.
pub(crate) trait Reader {
    /// Shows the value of `key`; false if there is none.
    fn get(&mut self, key: &Key, see: &mut dyn FnMut(&[u8])) -> Result<bool, Fault>;

    /// Shows the values of up to `items` keys from `from` on, in the engine's order.
    fn range(&mut self, from: &Key, items: usize, see: &mut dyn FnMut(&[u8])) -> Result<(), Fault>;
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum EngineName {
    /// This project's store on its ring
    Forebay,
    /// Copy-on-write B-trees in Rust
    Redb,
    /// Copy-on-write B-trees in a memory map
    Lmdb,
    /// Log-structured merge trees in Rust
    Fjall,
    /// Log-structured merge trees in C++ (needs a build with `--features rocksdb`)
    Rocksdb,
}

impl EngineName {
    /// All that this build has.
    pub(crate) fn built() -> Vec<EngineName> {
        let mut names =
            vec![EngineName::Forebay, EngineName::Redb, EngineName::Lmdb, EngineName::Fjall];
        if cfg!(feature = "rocksdb") {
            names.push(EngineName::Rocksdb);
        }
        names
    }

    /// As in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EngineName::Forebay => "forebay",
            EngineName::Redb => "redb",
            EngineName::Lmdb => "lmdb",
            EngineName::Fjall => "fjall",
            EngineName::Rocksdb => "rocksdb",
        }
    }

    /// The version that this build has, of the crate or of what the crate wraps.
    pub(crate) fn version(self) -> String {
        match self {
            EngineName::Forebay => env!("CARGO_PKG_VERSION").to_owned(),
            EngineName::Redb => locked("redb"),
            EngineName::Lmdb => super::lmdb::version(),
            EngineName::Fjall => locked("fjall"),
            EngineName::Rocksdb => locked("librocksdb-sys"),
        }
    }

    /// Opens a fresh one.
    pub(crate) fn open(self, setting: &Setting<'_>) -> Result<Box<dyn Engine>, Fault> {
        Ok(match self {
            EngineName::Forebay => Box::new(super::forebay::Forebay::open(setting)?),
            EngineName::Redb => Box::new(super::redb::Redb::open(setting)?),
            EngineName::Lmdb => Box::new(super::lmdb::Lmdb::open(setting)?),
            EngineName::Fjall => Box::new(super::fjall::Fjall::open(setting)?),
            #[cfg(feature = "rocksdb")]
            EngineName::Rocksdb => Box::new(super::rocksdb::Rocksdb::open(setting)?),
            #[cfg(not(feature = "rocksdb"))]
            EngineName::Rocksdb => return Err("this build has no RocksDB".into()),
        })
    }
}

/// The version of a dependency that the build was locked to.
fn locked(name: &str) -> String {
    const LOCK: &str = include_str!("../../../Cargo.lock");
    let version = LOCK
        .split("[[package]]")
        .filter(|entry| entry.contains(&format!("\nname = \"{name}\"\n")))
        .find_map(|entry| entry.lines().find_map(|line| line.strip_prefix("version = ")));
    version.unwrap_or("unknown").trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_of_the_build_knows_its_version() {
        for name in EngineName::built() {
            let version = name.version();
            assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{name:?}: {version}");
        }
        assert_eq!(locked("no such crate"), "unknown");
    }
}
