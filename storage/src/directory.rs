//! The data directory: who owns it, what it holds, and how it comes into being.
//!
//! ```text
//!   DIR/
//!     forebay.lock        held (flock) by the one process that uses the directory
//!     node.toml           identity, format version, shards, log geometry, state
//!     disk.toml           written by `forebay probe-disk`; not needed
//!     shard-0/log         preallocated and prewritten ring of segments; never changes its size
//!     shard-0/pages       superblocks, trees, space map; grows in steps
//!     shard-1/…
//! ```
//!
//! # node.toml
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `format` | integer | 1; a larger one is newer than this program |
//! | `node_id` | string | 32 hexadecimal digits, random; binds every log and page to this directory |
//! | `state` | string | `creating` until all shards exist, then `ready` for ever |
//! | `shards` | integer | fixed when created |
//! | `log_segment_bytes` | integer | fixed when created |
//! | `log_segments` | integer | fixed when created |
//! | `checksum` | integer | CRC-32 of the values above, each followed by a newline |
//!
//! # Creation survives a crash at any point
//! `node.toml` is written first with `state = "creating"`, replaced by `ready` last, each time as a
//! new file that is flushed and renamed. A directory found in `creating` has never served, so what
//! is there of its shards is made again; one found in `ready` that misses a file has lost it, and
//! that is damage: nothing is created in its place.
//!
//! The log is prewritten with zeros, not only preallocated: a first write to an allocated but
//! unwritten extent changes file-system metadata, and then a flush waits for the journal. After
//! this, the hot path only overwrites.
//!
//! # Locks end after the last write
//! A killed process may leave writes on their way: io_uring does not wait for them when the process
//! ends, and it can be reaped before they reach the disk. One that arrived after the next process
//! had recovered could overwrite what that one has acknowledged. So the shards' files are locked,
//! too: the kernel drops such a lock with the last reference to the open file, and the ring holds
//! one until its last operation has ended. A start waits a moment for both kinds of locks, because
//! after a kill they lag behind.
//!
//! *Invariants*: a [`DataDirectory`] holds the lock as long as it lives; a file that it opens was
//! opened with O_DIRECT and is locked; nothing here overwrites a file of a `ready` directory.
//!
//! Left out: moving a shard's files to another device (mount it at the shard's directory).

mod error;
mod sys;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forebay_core::ids::ShardId;
use serde::{Deserialize, Serialize};

use crate::block::{BLOCK_BYTES, BlockBuf};
use crate::log::LogConfig;
pub use error::DirectoryError;

/// The format that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// Bytes written at a time when a log is prewritten.
const PREWRITE_BYTES: usize = 1 << 20;
/// Length of a new pages file: room for the superblocks, so that they read as zeros.
pub const PAGES_BYTES_INITIAL: u64 = 1 << 20;

/// For a process that was just killed to let go of the directory.
const OWNER_GONE: Duration = Duration::from_secs(2);
/// For a killed process's last writes to end: no other process can hold these locks once the
/// directory's own is ours, and a device may stall for a while.
const WRITES_ENDED: Duration = Duration::from_secs(10);
/// Between two tries to lock.
const LOCK_RETRY: Duration = Duration::from_millis(5);

const LOCK: &str = "forebay.lock";
const NODE: &str = "node.toml";
const NODE_NEW: &str = "node.toml.new";
/// What may stand in a directory that is not yet a data directory.
const HARMLESS: [&str; 5] = [LOCK, NODE_NEW, "disk.toml", "disk.toml.new", "lost+found"];

const _: () = assert!(PREWRITE_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(PAGES_BYTES_INITIAL.is_multiple_of(BLOCK_BYTES as u64));

/// What a directory is created with, and keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Shards of the node.
    pub shards: u16,
    /// Bytes of one log segment; a multiple of [`BLOCK_BYTES`].
    pub log_segment_bytes: u64,
    /// Segments of one shard's log.
    pub log_segments: u32,
}

impl Geometry {
    /// Bytes of one shard's log file.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.log_segment_bytes * u64::from(self.log_segments)
    }
}

/// What the caller asks for. A None takes what the directory has, or the default for a new one.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// For a new directory.
    pub defaults: Geometry,
    /// Refuse a directory with another number of shards.
    pub shards: Option<u16>,
    /// Refuse a directory with another segment size.
    pub log_segment_bytes: Option<u64>,
    /// Refuse a directory with another number of segments.
    pub log_segments: Option<u32>,
    /// The log that the caller will open: a geometry that breaks its limits is refused. What the
    /// geometry says, and whose log it is, does not count.
    pub log: LogConfig,
}

/// Something long is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes prewritten so far, over all shards.
    pub done_bytes: u64,
    /// Bytes to prewrite.
    pub total_bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    format: u32,
    node_id: String,
    state: State,
    shards: u16,
    log_segment_bytes: u64,
    log_segments: u32,
    checksum: u32,
}

impl NodeFile {
    /// What `checksum` must be. A flipped digit of the identity would make every log and page look
    /// foreign, and a flipped state would make the shards look never used.
    fn expected_checksum(&self) -> u32 {
        let NodeFile { format, node_id, shards, log_segment_bytes, log_segments, .. } = self;
        let state = match self.state {
            State::Creating => "creating",
            State::Ready => "ready",
        };
        let text = format!(
            "{format}\n{node_id}\n{state}\n{shards}\n{log_segment_bytes}\n{log_segments}\n"
        );
        crc32fast::hash(text.as_bytes())
    }
}

/// Read before the rest, because a newer format may have fields unknown here.
#[derive(Debug, Deserialize)]
struct FormatOnly {
    format: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Creating,
    Ready,
}

/// A locked data directory whose shards exist.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// Held, not read: the lock ends with the descriptor.
    _lock: File,
    node_id: u128,
    geometry: Geometry,
    created: bool,
}

impl DataDirectory {
    /// Opens the directory, or creates it and its shards. `progress` is called during creation.
    pub fn open_or_create(
        path: &Path,
        request: &Request,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<DataDirectory, DirectoryError> {
        fs::create_dir_all(path).map_err(at(path))?;
        let path = path.canonicalize().map_err(at(path))?;
        let lock = lock(&path)?;
        if let Some(node) = read_node(&path)?
            && node.state == State::Ready
        {
            return Self::open_ready(path, lock, &node, request);
        }
        Self::create(path, lock, request, progress)
    }

    fn open_ready(
        path: PathBuf,
        lock: File,
        node: &NodeFile,
        request: &Request,
    ) -> Result<DataDirectory, DirectoryError> {
        let file = path.join(NODE);
        let node_id = u128::from_str_radix(&node.node_id, 16)
            .ok()
            .filter(|_| node.node_id.len() == 32)
            .ok_or(DirectoryError::NodeFileField { path: file.clone(), field: "node_id" })?;
        let geometry = Geometry {
            shards: node.shards,
            log_segment_bytes: node.log_segment_bytes,
            log_segments: node.log_segments,
        };
        if !plausible(&geometry) {
            return Err(DirectoryError::NodeFileField { path: file, field: "log_segment_bytes" });
        }
        let asked = [
            ("shards", u64::from(geometry.shards), request.shards.map(u64::from)),
            ("log_segment_bytes", geometry.log_segment_bytes, request.log_segment_bytes),
            ("log_segments", u64::from(geometry.log_segments), request.log_segments.map(u64::from)),
        ];
        for (field, found, asked) in asked {
            if let Some(asked) = asked.filter(|&asked| asked != found) {
                return Err(DirectoryError::Geometry { path, field, asked, found });
            }
        }
        let directory = DataDirectory { path, _lock: lock, node_id, geometry, created: false };
        check_direct_io(&directory.path)?;
        for shard in directory.shards() {
            directory.check_shard(shard)?;
        }
        check_limits(&directory.path, &geometry, request)?;
        Ok(directory)
    }

    fn create(
        path: PathBuf,
        lock: File,
        request: &Request,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<DataDirectory, DirectoryError> {
        let geometry = Geometry {
            shards: request.shards.unwrap_or(request.defaults.shards),
            log_segment_bytes: request
                .log_segment_bytes
                .unwrap_or(request.defaults.log_segment_bytes),
            log_segments: request.log_segments.unwrap_or(request.defaults.log_segments),
        };
        check_limits(&path, &geometry, request)?;
        assert!(plausible(&geometry), "the configuration was validated: {geometry:?}");
        if !path.join(NODE).exists() {
            refuse_foreign_files(&path)?;
        }
        check_direct_io(&path)?;
        let node_id = random_id().map_err(at(Path::new("/dev/urandom")))?;
        let mut node = NodeFile {
            format: FORMAT,
            node_id: format!("{node_id:032x}"),
            state: State::Creating,
            shards: geometry.shards,
            log_segment_bytes: geometry.log_segment_bytes,
            log_segments: geometry.log_segments,
            checksum: 0,
        };
        write_node(&path, &mut node)?;
        let directory = DataDirectory { path, _lock: lock, node_id, geometry, created: true };
        directory.create_shards(progress).inspect_err(|_| {
            // Give the space back: a full disk is the likely reason, and nothing here ever served.
            for shard in directory.shards() {
                let _ = fs::remove_dir_all(directory.shard_path(shard));
            }
        })?;
        sync_directory(&directory.path)?;
        node.state = State::Ready;
        write_node(&directory.path, &mut node)?;
        Ok(directory)
    }

    fn create_shards(&self, progress: &mut dyn FnMut(Progress)) -> Result<(), DirectoryError> {
        let log_bytes = self.geometry.log_bytes();
        let total_bytes = log_bytes * u64::from(self.geometry.shards);
        for (index, shard) in (0u64..).zip(self.shards()) {
            let before_bytes = log_bytes * index;
            create_shard(&self.shard_path(shard), log_bytes, &mut |written_bytes| {
                progress(Progress { done_bytes: before_bytes + written_bytes, total_bytes });
            })?;
        }
        Ok(())
    }

    fn check_shard(&self, shard: ShardId) -> Result<(), DirectoryError> {
        for name in ["log", "pages"] {
            let path = self.shard_path(shard).join(name);
            let found_bytes = match fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(DirectoryError::FileMissing { path });
                }
                Err(source) => return Err(DirectoryError::Io { path, source }),
            };
            let expected_bytes = self.geometry.log_bytes();
            if name == "log" && found_bytes != expected_bytes {
                return Err(DirectoryError::LogLength { path, expected_bytes, found_bytes });
            }
        }
        Ok(())
    }

    /// Its canonical path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Random, fixed when the directory was created.
    #[must_use]
    pub fn node_id(&self) -> u128 {
        self.node_id
    }

    /// What the shards' logs are bound to. The shard's number is bound beside it.
    #[must_use]
    pub fn log_id(&self) -> u64 {
        self.node_id as u64
    }

    /// What the directory was created with.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Whether this opening created it, so that there is nothing to recover.
    #[must_use]
    pub fn was_created(&self) -> bool {
        self.created
    }

    /// All shards, in order.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.geometry.shards).map(ShardId)
    }

    /// Where a shard's files are.
    #[must_use]
    pub fn shard_path(&self, shard: ShardId) -> PathBuf {
        self.path.join(format!("shard-{shard}"))
    }

    /// Opens and locks a shard's files for its ring.
    pub fn open_shard(&self, shard: ShardId) -> Result<ShardFiles, DirectoryError> {
        assert!(shard.0 < self.geometry.shards, "shard {shard} of {}", self.geometry.shards);
        let open = |name| {
            let path = self.shard_path(shard).join(name);
            let file = direct(OpenOptions::new().read(true).write(true), &path)?;
            if lock_within(&file, WRITES_ENDED).map_err(at(&path))? {
                Ok(file)
            } else {
                Err(DirectoryError::InUse { path: self.path.clone(), holder: None })
            }
        };
        Ok(ShardFiles { log: open("log")?, pages: open("pages")? })
    }
}

/// One shard's files, opened with O_DIRECT and locked. Clones share the lock, which ends with the
/// last of them and the last operation on them.
#[derive(Debug)]
pub struct ShardFiles {
    /// The log.
    pub log: File,
    /// Trees and superblocks.
    pub pages: File,
}

/// Creates `DIR/shard-N` with a log of `log_bytes`, prewritten with zeros, and a pages file that
/// reads as zeros; flushes all of it. What an interrupted creation left there is overwritten.
/// `progress` gets the bytes written so far.
pub fn create_shard(
    shard_path: &Path,
    log_bytes: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<(), DirectoryError> {
    assert!(log_bytes > 0 && log_bytes.is_multiple_of(BLOCK_BYTES as u64));
    fs::create_dir_all(shard_path).map_err(at(shard_path))?;
    create_prewritten(&shard_path.join("log"), log_bytes, progress)?;

    let pages_path = shard_path.join("pages");
    let mut options = OpenOptions::new();
    let pages = direct(options.write(true).create(true).truncate(true), &pages_path)?;
    preallocate(&pages, PAGES_BYTES_INITIAL)
        .map_err(|source| full_or_io(&pages_path, PAGES_BYTES_INITIAL, source))?;
    pages.sync_all().map_err(|source| full_or_io(&pages_path, PAGES_BYTES_INITIAL, source))?;
    sync_directory(shard_path)
}

/// Creates a file of `bytes` bytes, reserves its space, writes zeros over all of it and flushes it.
/// Returns it open for reading and writing with O_DIRECT.
pub fn create_prewritten(
    path: &Path,
    bytes: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<File, DirectoryError> {
    assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES as u64));
    let mut options = OpenOptions::new();
    let file = direct(options.read(true).write(true).create(true).truncate(true), path)?;
    preallocate(&file, bytes).map_err(|source| full_or_io(path, bytes, source))?;
    let zeros = BlockBuf::zeroed(PREWRITE_BYTES / BLOCK_BYTES);
    let mut written_bytes = 0;
    while written_bytes < bytes {
        let chunk_bytes = (bytes - written_bytes).min(PREWRITE_BYTES as u64);
        file.write_all_at(&zeros[..chunk_bytes as usize], written_bytes)
            .map_err(|source| full_or_io(path, bytes, source))?;
        written_bytes += chunk_bytes;
        progress(written_bytes);
    }
    file.sync_all().map_err(|source| full_or_io(path, bytes, source))?;
    Ok(file)
}

/// Fails if `path`'s file system cannot do what an acknowledged write relies on.
pub fn check_direct_io(path: &Path) -> Result<(), DirectoryError> {
    if sys::is_memory_only(path).map_err(at(path))? {
        // Recent kernels accept O_DIRECT on tmpfs, so opening a file would not tell.
        return Err(DirectoryError::MemoryOnly { path: path.to_owned() });
    }
    let probe = path.join(format!(".forebay-direct-{}", std::process::id()));
    let opened = direct(OpenOptions::new().write(true).create(true).truncate(true), &probe);
    let _ = fs::remove_file(&probe);
    opened.map(drop)
}

/// Refuses a log that the caller could not open.
fn check_limits(path: &Path, geometry: &Geometry, request: &Request) -> Result<(), DirectoryError> {
    let (segment_bytes, segments) = (geometry.log_segment_bytes, geometry.log_segments);
    let log = LogConfig { segment_bytes, segments, ..request.log };
    log.validate().map_err(|source| DirectoryError::LogLimits { path: path.to_owned(), source })
}

/// Whether the values can be those of any directory.
fn plausible(geometry: &Geometry) -> bool {
    geometry.shards > 0
        && geometry.log_segments > 0
        && geometry.log_segment_bytes > 0
        && geometry.log_segment_bytes.is_multiple_of(BLOCK_BYTES as u64)
        && geometry
            .log_segment_bytes
            .checked_mul(u64::from(geometry.log_segments))
            .and_then(|bytes| bytes.checked_mul(u64::from(geometry.shards)))
            .is_some_and(|bytes| bytes < i64::MAX as u64)
}

fn lock(path: &Path) -> Result<File, DirectoryError> {
    let file = path.join(LOCK);
    let lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&file)
        .map_err(at(&file))?;
    if !lock_within(&lock, OWNER_GONE).map_err(at(&file))? {
        let mut text = String::new();
        let _ = (&lock).take(32).read_to_string(&mut text);
        let holder = text.trim().parse().ok();
        return Err(DirectoryError::InUse { path: path.to_owned(), holder });
    }
    // Only for the other process's error message; a stale number harms nobody.
    lock.set_len(0).map_err(at(&file))?;
    write!(&lock, "{}", std::process::id()).map_err(at(&file))?;
    Ok(lock)
}

/// Whether the file could be locked in this time.
fn lock_within(file: &File, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Ok(false),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_RETRY),
            Err(TryLockError::Error(source)) => return Err(source),
        }
    }
}

fn read_node(path: &Path) -> Result<Option<NodeFile>, DirectoryError> {
    let file = path.join(NODE);
    let text = match fs::read(&file) {
        // Bytes that are no text become a mark that the parser refuses, with line and column.
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DirectoryError::Io { path: file, source }),
    };
    let unreadable = |source| DirectoryError::NodeFile { path: file.clone(), source };
    let FormatOnly { format } = toml::from_str(&text).map_err(unreadable)?;
    if format > FORMAT {
        return Err(DirectoryError::Newer { path: path.to_owned(), found: format, known: FORMAT });
    }
    let node: NodeFile = toml::from_str(&text).map_err(unreadable)?;
    if node.checksum != node.expected_checksum() {
        return Err(DirectoryError::NodeFileField { path: file, field: "checksum" });
    }
    Ok(Some(node))
}

fn write_node(path: &Path, node: &mut NodeFile) -> Result<(), DirectoryError> {
    node.checksum = node.expected_checksum();
    let text = toml::to_string(node).expect("plain fields serialize");
    let text = format!("# Written by forebay when it created this directory. Do not edit.\n{text}");
    replace_file(path, NODE_NEW, NODE, text.as_bytes())
}

/// Replaces `path/name` with `bytes` so that a crash leaves the old content or the new, whole.
pub fn replace_file(
    path: &Path,
    temporary: &str,
    name: &str,
    bytes: &[u8],
) -> Result<(), DirectoryError> {
    let new = path.join(temporary);
    let mut file = File::create(&new).map_err(at(&new))?;
    let needed_bytes = bytes.len() as u64;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|source| full_or_io(&new, needed_bytes, source))?;
    fs::rename(&new, path.join(name)).map_err(at(&new))?;
    sync_directory(path)
}

fn refuse_foreign_files(path: &Path) -> Result<(), DirectoryError> {
    for entry in fs::read_dir(path).map_err(at(path))? {
        let name = entry.map_err(at(path))?.file_name();
        if !HARMLESS.iter().any(|harmless| name == *harmless) {
            let example = name.to_string_lossy().into_owned();
            return Err(DirectoryError::NotADataDirectory { path: path.to_owned(), example });
        }
    }
    Ok(())
}

/// Reserves the file's first `bytes` bytes on the device, and makes it that long.
pub fn preallocate(file: &File, bytes: u64) -> io::Result<()> {
    sys::fallocate(file, bytes)
}

fn direct(options: &mut OpenOptions, path: &Path) -> Result<File, DirectoryError> {
    options.custom_flags(libc::O_DIRECT | libc::O_CLOEXEC).open(path).map_err(|source| match source
        .raw_os_error()
    {
        Some(libc::EINVAL) => DirectoryError::NoDirectIo { path: path.to_owned() },
        Some(libc::ENOSPC) => full_or_io(path, 0, source),
        _ => DirectoryError::Io { path: path.to_owned(), source },
    })
}

fn sync_directory(path: &Path) -> Result<(), DirectoryError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(at(path))
}

fn random_id() -> io::Result<u128> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}

fn at(path: &Path) -> impl Fn(io::Error) -> DirectoryError + use<> {
    let path = path.to_owned();
    move |source| full_or_io(&path, 0, source)
}

fn full_or_io(path: &Path, needed_bytes: u64, source: io::Error) -> DirectoryError {
    let path = path.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => DirectoryError::DiskFull { path, needed_bytes },
        _ => DirectoryError::Io { path, source },
    }
}
