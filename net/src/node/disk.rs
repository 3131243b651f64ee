//! Blocking disk I/O for recovery, which runs on a shard's thread before its ring does.

use std::fs::File;
use std::os::unix::fs::FileExt;

use forebay_storage::block::{DiskDone, DiskError, DiskOp, Durability, ShardFile};
use forebay_storage::directory::preallocate;
use forebay_storage::store::BlockingDisk;

/// A shard's two files, opened with O_DIRECT.
#[derive(Debug)]
pub(super) struct FileDisk {
    pub(super) log: File,
    pub(super) pages: File,
}

impl FileDisk {
    fn file(&self, file: ShardFile) -> &File {
        match file {
            ShardFile::Log => &self.log,
            ShardFile::Pages => &self.pages,
        }
    }
}

fn failed(error: &std::io::Error) -> DiskError {
    // A transfer that ends early carries no errno: the file is shorter than it must be.
    DiskError { errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

impl BlockingDisk for FileDisk {
    fn carry_out(&mut self, op: DiskOp) -> DiskDone {
        match op {
            DiskOp::Read { op, file, offset_bytes, mut buf } => {
                let result = self.file(file).read_exact_at(&mut buf, offset_bytes);
                DiskDone { op, buf: Some(buf), result: result.map_err(|e| failed(&e)) }
            }
            DiskOp::Write { op, file, offset_bytes, buf, bytes, durability } => {
                let file = self.file(file);
                let result =
                    file.write_all_at(&buf[..bytes], offset_bytes).and_then(
                        |()| match durability {
                            Durability::Durable => file.sync_data(),
                            Durability::Volatile => Ok(()),
                        },
                    );
                DiskDone { op, buf: Some(buf), result: result.map_err(|e| failed(&e)) }
            }
            DiskOp::Flush { op, file } => {
                let result = self.file(file).sync_data().map_err(|e| failed(&e));
                DiskDone { op, buf: None, result }
            }
            DiskOp::Grow { op, file, file_bytes } => {
                let result = preallocate(self.file(file), file_bytes).map_err(|e| failed(&e));
                DiskDone { op, buf: None, result }
            }
        }
    }
}
