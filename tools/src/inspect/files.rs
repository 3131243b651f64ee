//! A shard's files, opened for reading only.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use forebay_core::ids::ShardId;
use forebay_storage::block::{BLOCK_BYTES, BlockBuf, DiskError};
use forebay_storage::superblock::{self, Chosen, SuperblockError};
use forebay_storage::tree::PageRef;

use crate::exit::{Exit, Failure};

/// One shard of a data directory.
pub(super) struct ShardDir {
    pub(super) shard: ShardId,
    /// A living process whose number is in the lock file.
    pub(super) user: Option<u32>,
    log: Option<File>,
    pages: Option<File>,
}

impl ShardDir {
    /// Opens what is there of the shard.
    pub(super) fn open(dir: &Path, shard: u16) -> Result<ShardDir, Failure> {
        let path = dir.join(format!("shard-{shard}"));
        let open = |name: &str| match File::open(path.join(name)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                let file = path.join(name);
                Err(Failure::new(Exit::Other, format!("{}: {error}", file.display())))
            }
        };
        let (log, pages) = (open("log")?, open("pages")?);
        if log.is_none() && pages.is_none() {
            let message = format!(
                "{} has neither a log nor a pages file; is {} a data directory with a shard {shard}?",
                path.display(),
                dir.display()
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        let lock = std::fs::read_to_string(dir.join("forebay.lock")).unwrap_or_default();
        let user = lock.trim().parse().ok();
        let user = user.filter(|pid: &u32| Path::new(&format!("/proc/{pid}")).exists());
        Ok(ShardDir { shard: ShardId(shard), user, log, pages })
    }

    /// The log file.
    pub(super) fn log(&self) -> io::Result<&File> {
        self.log.as_ref().ok_or_else(|| io::Error::other("the shard's log file is missing"))
    }

    /// The pages file.
    pub(super) fn pages(&self) -> io::Result<&File> {
        self.pages.as_ref().ok_or_else(|| io::Error::other("the shard's pages file is missing"))
    }

    /// The two blocks where superblocks stand.
    pub(super) fn superblocks(&self) -> io::Result<[BlockBuf; 2]> {
        let read = |number: u64| {
            let mut block = BlockBuf::zeroed(1);
            self.pages()?.read_exact_at(&mut block, number * BLOCK_BYTES as u64)?;
            Ok::<_, io::Error>(block)
        };
        Ok([read(0)?, read(1)?])
    }

    /// The superblock that recovery would choose.
    pub(super) fn chosen(&self) -> io::Result<Result<Chosen, SuperblockError>> {
        let [first, second] = self.superblocks()?;
        Ok(superblock::choose([&first, &second], self.shard))
    }

    /// A page's bytes, as its reference says.
    pub(super) fn read_page(&self, page: &PageRef) -> Result<BlockBuf, DiskError> {
        let failed =
            |error: io::Error| DiskError { errno: error.raw_os_error().unwrap_or(libc::EIO) };
        let mut buf = BlockBuf::zeroed(usize::from(page.blocks).max(1));
        let offset_bytes = page.id.checked_mul(BLOCK_BYTES as u64);
        let offset_bytes = offset_bytes.ok_or(DiskError { errno: libc::EOVERFLOW })?;
        self.pages().and_then(|file| file.read_exact_at(&mut buf, offset_bytes)).map_err(failed)?;
        Ok(buf)
    }
}
