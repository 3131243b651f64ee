//! What can be wrong with a data directory. Each message says what to do.

use std::io;
use std::path::PathBuf;

use crate::log::LogConfigError;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Stop the other process, or choose another directory.
    #[error(
        "{} is in use by another process{}; two processes on one log would destroy it; stop the \
         other one or choose another directory",
        path.display(),
        holder.map(|pid| format!(" ({pid})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other process, if it wrote its number.
        holder: Option<u32>,
    },
    /// Use a directory of its own.
    #[error(
        "{} holds other files (such as {example}) and no node.toml; nothing was changed; name an \
         empty or a new directory",
        path.display()
    )]
    NotADataDirectory {
        /// The directory.
        path: PathBuf,
        /// One of the files.
        example: String,
    },
    /// Use the newer program again. Its older formats were read and replaced.
    #[error(
        "{} was written by a newer forebay: format {found}, and this program knows {known}; \
         nothing was changed; use the newer program",
        path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// Leave the option away, or create another directory and copy the data.
    #[error(
        "{} was created with {field} = {found}, and {asked} was asked for; it is fixed when a \
         directory is created; leave the option away or use a new directory",
        path.display()
    )]
    Geometry {
        /// The directory.
        path: PathBuf,
        /// Which setting.
        field: &'static str,
        /// As configured.
        asked: u64,
        /// As in node.toml.
        found: u64,
    },
    /// Choose other sizes. A directory that has them was made by another program or for a test:
    /// create another one and copy the data.
    #[error(
        "the log of {} cannot be used: {source}; set log_segment_bytes and log_segments; they are \
         fixed when a directory is created, so for one that exists create another",
        path.display()
    )]
    LogLimits {
        /// The directory.
        path: PathBuf,
        /// Which limit.
        source: LogConfigError,
    },
    /// Damage: restore the file from a copy, or the node from its peers.
    #[error("{} is damaged: {source}restore it from a copy", path.display())]
    NodeFile {
        /// node.toml.
        path: PathBuf,
        /// Where and what.
        source: toml::de::Error,
    },
    /// Damage: restore the file from a copy, or the node from its peers.
    #[error("{} is damaged: the value of {field} cannot be right; restore it from a copy", path.display())]
    NodeFileField {
        /// node.toml.
        path: PathBuf,
        /// Which value.
        field: &'static str,
    },
    /// Damage: the file was there when the directory served. Restore it; nothing is created anew.
    #[error(
        "{} is missing, though the directory has served; its data is lost unless the file is \
         restored; nothing was changed",
        path.display()
    )]
    FileMissing {
        /// The file.
        path: PathBuf,
    },
    /// Damage: a log never changes its length. Restore it.
    #[error(
        "{} has {found_bytes} bytes instead of {expected_bytes}; a log never changes its length; \
         restore the file",
        path.display()
    )]
    LogLength {
        /// The log.
        path: PathBuf,
        /// As node.toml implies.
        expected_bytes: u64,
        /// As found.
        found_bytes: u64,
    },
    /// Use a file system with O_DIRECT: ext4, xfs, btrfs.
    #[error(
        "{} is on a file system without O_DIRECT; without it a flush cannot be bounded and pages \
         would be cached twice; use ext4, xfs or btrfs on a local disk",
        path.display()
    )]
    NoDirectIo {
        /// The file.
        path: PathBuf,
    },
    /// Use a file system on a disk.
    #[error(
        "{} is on a file system in memory (tmpfs or ramfs); an acknowledged write would not \
         survive a restart of the machine; use ext4, xfs or btrfs on a local disk",
        path.display()
    )]
    MemoryOnly {
        /// The directory.
        path: PathBuf,
    },
    /// Free space, or create the directory with a smaller log.
    #[error(
        "no space left for {} ({needed_bytes} bytes); free some, or create the directory with a \
         smaller log",
        path.display()
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// How much was asked for; 0 if unknown.
        needed_bytes: u64,
    },
    /// The system refused: permissions, a missing path, a failing disk.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DirectoryError {
    /// Whether data that was there is not there as it was.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            DirectoryError::NodeFile { .. }
                | DirectoryError::NodeFileField { .. }
                | DirectoryError::FileMissing { .. }
                | DirectoryError::LogLength { .. }
        )
    }
}
