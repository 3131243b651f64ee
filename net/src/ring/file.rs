//! Disk operations of the machine as operations of the ring.
//!
//! ```text
//!   Read / Write Volatile   READ(_FIXED) / WRITE(_FIXED)
//!   Write Durable           WRITE with RWF_DSYNC      or   WRITE ──link──► FSYNC(DATASYNC)
//!   Flush                   FSYNC(DATASYNC)
//!   Grow                    FALLOCATE
//! ```
//!
//! Short transfers are continued from the last whole block (O_DIRECT takes no less) and count as
//! failed when a round moves nothing. An interrupted transfer is tried again a few times. A flush is
//! never tried again, nor is a write whose durability was part of the call: after a failed flush the
//! kernel may call the next one a success although the data is gone (Rebello et al., "Can
//! Applications Recover from fsync Failures?", USENIX ATC'20), so the machine must hear of it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use forebay_storage::block::{BLOCK_BYTES, DiskDone, DiskError, DiskOp, Durability, ShardFile};
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{opcode, squeue};

use super::counters::add;
use super::error::RingError;
use super::queues::Queues;
use super::slab::{DiskFlight, DiskKind, Op, OpKey};
use super::{DurableMode, Shell, system};

/// Rounds that one operation may take before it counts as failed: enough for any run of signals,
/// too few to spin on.
const ATTEMPTS_MAX: u8 = 64;

/// Opens a file for direct I/O, creating it if asked. Fails by name on file systems that keep their
/// files in memory: they accept O_DIRECT or not, but nothing on them is durable.
pub fn open_direct(path: &Path, create: bool) -> Result<File, RingError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).custom_flags(libc::O_DIRECT);
    let file = options.open(path).map_err(|source| match source.raw_os_error() {
        Some(libc::EINVAL) => RingError::DirectUnsupported { path: path.to_owned() },
        _ => RingError::Open { path: path.to_owned(), source },
    })?;
    if system::is_memory_file_system(path) {
        return Err(RingError::DirectUnsupported { path: path.to_owned() });
    }
    Ok(file)
}

/// Index of a shard's file among the ring's fixed files.
pub(super) fn fixed_index(file: ShardFile) -> u32 {
    match file {
        ShardFile::Log => 0,
        ShardFile::Pages => 1,
    }
}

impl Shell {
    pub(super) fn start_disk(&mut self, queues: &mut Queues<'_>, op: DiskOp) {
        let flight = self.flight(op);
        let key = self.ops.insert(Op::Disk(flight));
        self.submit_disk(queues, key);
    }

    fn flight(&self, op: DiskOp) -> DiskFlight {
        let transfer = |op, kind, file, offset_bytes: u64, buf, bytes: usize| {
            assert!(offset_bytes.is_multiple_of(BLOCK_BYTES as u64), "unaligned offset");
            assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES), "unaligned length");
            let bytes = u32::try_from(bytes).expect("a transfer is far below 4 GiB");
            DiskFlight { bytes, buf, ..DiskFlight::bare(op, kind, file, offset_bytes) }
        };
        let flight = match op {
            DiskOp::Read { op, file, offset_bytes, buf } => {
                let bytes = buf.len();
                transfer(op, DiskKind::Read, file, offset_bytes, Some(buf), bytes)
            }
            DiskOp::Write { op, file, offset_bytes, buf, bytes, durability } => {
                assert!(bytes <= buf.len(), "a write of more than its buffer");
                let kind = match (durability, self.durable) {
                    (Durability::Volatile, _) => DiskKind::WriteVolatile,
                    (Durability::Durable, DurableMode::Dsync) => DiskKind::WriteDsync,
                    (Durability::Durable, DurableMode::LinkedFdatasync) => DiskKind::WriteThenSync,
                };
                transfer(op, kind, file, offset_bytes, Some(buf), bytes)
            }
            DiskOp::Flush { op, file } => DiskFlight::bare(op, DiskKind::Flush, file, 0),
            DiskOp::Grow { op, file, file_bytes } => {
                DiskFlight::bare(op, DiskKind::Grow, file, file_bytes)
            }
        };
        assert!(self.has_file[flight.file as usize], "the ring was made without this file");
        flight
    }

    /// Submits what is left of the operation.
    fn submit_disk(&mut self, queues: &mut Queues<'_>, key: OpKey) {
        let Some(Op::Disk(flight)) = self.ops.get_mut(key) else {
            unreachable!("the operation is in flight")
        };
        flight.pending = 1;
        let file = Fixed(flight.file);
        let entry = match flight.kind {
            DiskKind::Read => flight.read_entry(),
            DiskKind::WriteVolatile | DiskKind::WriteThenSync => flight.write_entry(0),
            DiskKind::WriteDsync => flight.write_entry(libc::RWF_DSYNC),
            DiskKind::Flush => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
            DiskKind::Grow => opcode::Fallocate::new(file, flight.offset_bytes).build(),
        };
        let entry = entry.user_data(key.user_data());
        if flight.kind == DiskKind::WriteThenSync {
            flight.pending = 2;
            let sync = opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build();
            let sync = sync.user_data(key.second_part());
            queues.push_linked(entry.flags(squeue::Flags::IO_LINK), sync);
        } else {
            queues.push(entry);
        }
    }

    /// One part of a disk operation completed; the whole of it, perhaps.
    pub(super) fn disk_completed(
        &mut self,
        queues: &mut Queues<'_>,
        key: OpKey,
        is_sync: bool,
        result: i32,
    ) -> Option<DiskDone> {
        let Some(Op::Disk(flight)) = self.ops.get_mut(key) else {
            unreachable!("the caller has looked")
        };
        if is_sync {
            flight.sync_result = result;
        } else {
            flight.move_result = result;
        }
        flight.pending -= 1;
        if flight.pending > 0 {
            return None;
        }
        let result = match flight.judge() {
            Verdict::Again { short } => {
                if short {
                    add(&self.counters.disk_short, 1);
                }
                self.submit_disk(queues, key);
                return None;
            }
            Verdict::Done => Ok(()),
            Verdict::Failed(errno) => {
                add(&self.counters.disk_errors, 1);
                Err(DiskError { errno })
            }
        };
        add(&self.counters.disk_operations, 1);
        let Some(Op::Disk(flight)) = self.ops.remove(key) else { unreachable!("found above") };
        Some(DiskDone { op: flight.op, buf: flight.buf, result })
    }
}

enum Verdict {
    Done,
    Again { short: bool },
    Failed(i32),
}

impl DiskFlight {
    fn bare(
        op: forebay_storage::block::OpId,
        kind: DiskKind,
        file: ShardFile,
        offset_bytes: u64,
    ) -> DiskFlight {
        DiskFlight {
            op,
            kind,
            file: fixed_index(file),
            offset_bytes,
            buf: None,
            bytes: 0,
            moved: 0,
            pending: 0,
            attempts: 0,
            move_result: 0,
            sync_result: 0,
        }
    }

    fn read_entry(&mut self) -> squeue::Entry {
        let (file, moved) = (Fixed(self.file), self.moved as usize);
        let (left, offset) = (self.bytes - self.moved, self.offset_bytes + u64::from(self.moved));
        let buf = self.buf.as_mut().expect("a read owns its buffer");
        let registered = buf.registered();
        let target = buf[moved..].as_mut_ptr();
        match registered {
            Some(index) => opcode::ReadFixed::new(file, target, left, index).offset(offset).build(),
            None => opcode::Read::new(file, target, left).offset(offset).build(),
        }
    }

    fn write_entry(&mut self, rw_flags: i32) -> squeue::Entry {
        let (file, moved) = (Fixed(self.file), self.moved as usize);
        let (left, offset) = (self.bytes - self.moved, self.offset_bytes + u64::from(self.moved));
        let buf = self.buf.as_ref().expect("a write owns its buffer");
        let source = buf[moved..].as_ptr();
        match buf.registered() {
            Some(index) => opcode::WriteFixed::new(file, source, left, index)
                .offset(offset)
                .rw_flags(rw_flags)
                .build(),
            None => {
                opcode::Write::new(file, source, left).offset(offset).rw_flags(rw_flags).build()
            }
        }
    }

    fn judge(&mut self) -> Verdict {
        let interrupted = matches!(-self.move_result, libc::EINTR | libc::EAGAIN);
        self.attempts += 1;
        let may_retry = self.attempts < ATTEMPTS_MAX;
        match self.kind {
            DiskKind::Flush | DiskKind::Grow => {
                if self.kind == DiskKind::Grow && interrupted && may_retry {
                    return Verdict::Again { short: false };
                }
                return if self.move_result < 0 {
                    Verdict::Failed(-self.move_result)
                } else {
                    Verdict::Done
                };
            }
            // A linked flush that did not run is ECANCELED; then only the write is retried with it.
            DiskKind::Read | DiskKind::WriteVolatile | DiskKind::WriteThenSync
                if interrupted && may_retry =>
            {
                return Verdict::Again { short: false };
            }
            DiskKind::Read
            | DiskKind::WriteVolatile
            | DiskKind::WriteDsync
            | DiskKind::WriteThenSync => {}
        }
        if self.move_result < 0 {
            return Verdict::Failed(-self.move_result);
        }
        let reached = self.moved + self.move_result as u32;
        assert!(reached <= self.bytes, "the kernel moved more than was asked");
        if reached < self.bytes {
            let whole = reached - reached % BLOCK_BYTES as u32;
            if whole == self.moved || !may_retry {
                // Past the end of the file, or no room for even one block.
                let errno = if self.kind == DiskKind::Read { libc::ENODATA } else { libc::ENOSPC };
                return Verdict::Failed(errno);
            }
            self.moved = whole;
            return Verdict::Again { short: true };
        }
        if self.kind == DiskKind::WriteThenSync && self.sync_result < 0 {
            return Verdict::Failed(-self.sync_result);
        }
        self.moved = reached;
        Verdict::Done
    }
}

#[cfg(test)]
mod tests {
    use forebay_storage::block::OpId;

    use super::*;

    fn flight(kind: DiskKind) -> DiskFlight {
        DiskFlight { bytes: 8192, ..DiskFlight::bare(OpId(1), kind, ShardFile::Log, 0) }
    }

    #[test]
    fn a_short_transfer_goes_on_from_its_last_whole_block() {
        let mut f = DiskFlight { move_result: 5000, ..flight(DiskKind::WriteDsync) };
        assert!(matches!(f.judge(), Verdict::Again { short: true }));
        assert_eq!(f.moved, 4096);
        f.move_result = 4096;
        assert!(matches!(f.judge(), Verdict::Done));
    }

    #[test]
    fn a_round_that_moves_no_whole_block_fails_by_name() {
        let mut read = DiskFlight { move_result: 0, ..flight(DiskKind::Read) };
        assert!(matches!(read.judge(), Verdict::Failed(libc::ENODATA)));
        let mut write = DiskFlight { move_result: 512, ..flight(DiskKind::WriteVolatile) };
        assert!(matches!(write.judge(), Verdict::Failed(libc::ENOSPC)));
    }

    #[test]
    fn a_flush_is_never_tried_again() {
        let eintr = -libc::EINTR;
        let mut flush = DiskFlight { move_result: eintr, ..flight(DiskKind::Flush) };
        assert!(matches!(flush.judge(), Verdict::Failed(libc::EINTR)));
        let mut dsync = DiskFlight { move_result: eintr, ..flight(DiskKind::WriteDsync) };
        assert!(matches!(dsync.judge(), Verdict::Failed(libc::EINTR)));
        let mut linked = DiskFlight {
            move_result: 8192,
            sync_result: -libc::EIO,
            ..flight(DiskKind::WriteThenSync)
        };
        assert!(matches!(linked.judge(), Verdict::Failed(libc::EIO)));
    }

    #[test]
    fn an_interrupted_write_whose_linked_flush_did_not_run_is_tried_again() {
        let mut linked = DiskFlight {
            move_result: -libc::EINTR,
            sync_result: -libc::ECANCELED,
            ..flight(DiskKind::WriteThenSync)
        };
        assert!(matches!(linked.judge(), Verdict::Again { short: false }));
    }
}
