//! A simulated block device: the shell's side of [`DiskOp`] and [`DiskDone`], in memory, with every
//! way in which a real device may let its owner down.
//!
//! The state machines of this crate cannot tell it from the ring. Tests and the simulator drive it
//! by hand: nothing finishes until told to, in any order, and at any moment the device can be cut
//! off, which leaves one of many legal states.
//!
//! ```text
//!   submit(Write) ──> in flight ──complete──> visible to reads ──flush──> on the medium
//!                        │                        │                          │
//!                        '──── each sector kept or lost by a crash ──'    survives
//! ```
//!
//! What is legal after a power cut:
//! * a sector that no unflushed write touched holds what is on the medium;
//! * any other sector holds that, or the bytes of any one of the unflushed writes to it: writes may
//!   have reached the medium in any order, in part (torn at 512 bytes or 4 KiB), or not at all;
//! * a write with [`Durability::Durable`] is on the medium when its completion was taken, and until
//!   then is like any other. It makes nothing else durable (a linked fdatasync would; RWF_DSYNC
//!   with FUA does not, and the code must live with either);
//! * a flush covers the writes whose completion was taken before the flush was submitted. A failed
//!   flush dooms them: no later flush brings them to the medium (the lesson of "fsyncgate", 2018);
//! * a failed write may have left any part of itself;
//! * growth of a file is unflushed metadata until a flush, or a durable write beyond the old end.
//!
//! Blocks are shared between images by reference, so that thousands of crash images are cheap.
//!
//! Left out: latencies (the simulator decides when to complete), and sectors that go bad by
//! themselves when power fails (see [`SimDisk::flip_bit`] and [`Fault::Read`]).

mod crash;

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};

use crate::block::{
    BLOCK_BYTES, BlockBuf, DiskDone, DiskError, DiskOp, Durability, OpId, ShardFile,
};

pub use crash::{CrashImages, CrashOptions};

/// Errno of a failed transfer.
pub const EIO: i32 = libc::EIO;
/// Errno of a full file system.
pub const ENOSPC: i32 = libc::ENOSPC;

/// A small seeded generator (splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", 2014), so that a seed alone repeats a history.
#[derive(Clone, Debug)]
pub struct SimRandom(u64);

impl SimRandom {
    /// The generator of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> SimRandom {
        SimRandom(seed)
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        assert!(end > 0);
        (self.bits() % end as u64) as usize
    }

    /// True `numerator` times out of `denominator`.
    pub fn chance(&mut self, numerator: usize, denominator: usize) -> bool {
        self.below(denominator) < numerator
    }
}

/// What goes wrong with the next matching operation on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next read fails with this errno.
    Read(i32),
    /// The next write fails with this errno; any part of it may be on the medium.
    Write(i32),
    /// The next flush fails with this errno, and what it should have covered is doomed.
    Flush(i32),
    /// The next growth fails with this errno.
    Grow(i32),
    /// The next write reports success but lands at this offset of the same file.
    MisdirectWrite {
        /// Where it lands; a multiple of the block size.
        offset_bytes: u64,
    },
    /// The next write reports success and lands nowhere.
    LoseWrite,
}

/// What the device did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimDiskStats {
    /// Reads completed.
    pub reads: u64,
    /// Writes completed.
    pub writes: u64,
    /// Bytes of those writes.
    pub write_bytes: u64,
    /// Flushes completed.
    pub flushes: u64,
}

/// A block's bytes up to the zeros at its end: most of a log's blocks hold one small record, and
/// memory and copying are what a simulation costs.
#[derive(Clone, Debug)]
struct Block(Bytes);

/// Zeros are looked for in steps of this many bytes, by comparing them with as many zeros: a library's
/// comparison takes a vector at a time.
const ZEROS_STEP: usize = 256;
static ZEROS: [u8; ZEROS_STEP] = [0; ZEROS_STEP];

impl Block {
    fn of(bytes: &[u8]) -> Block {
        Block(Bytes::copy_from_slice(without_zeros(bytes)))
    }

    fn copy_to(&self, to: &mut [u8]) {
        let (used, zeros) = to.split_at_mut(self.0.len());
        used.copy_from_slice(&self.0);
        zeros.fill(0);
    }

    fn bytes(&self) -> [u8; BLOCK_BYTES] {
        let mut bytes = [0; BLOCK_BYTES];
        bytes[..self.0.len()].copy_from_slice(&self.0);
        bytes
    }
}

fn without_zeros(block: &[u8]) -> &[u8] {
    debug_assert_eq!(block.len(), BLOCK_BYTES);
    let last = block.chunks_exact(ZEROS_STEP).rposition(|step| step != ZEROS);
    &block[..last.map_or(0, |last| (last + 1) * ZEROS_STEP)]
}

/// Memory for the blocks that are written next. They lie in it one after the other, as they will be
/// read, and it is freed with the last of them.
#[derive(Debug, Default)]
struct Chunk(BytesMut);

const CHUNK_BYTES: usize = 16 * BLOCK_BYTES;

impl Chunk {
    fn block(&mut self, bytes: &[u8]) -> Block {
        let bytes = without_zeros(bytes);
        if bytes.is_empty() {
            return Block(Bytes::new());
        }
        if self.0.capacity() < bytes.len() {
            self.0 = BytesMut::with_capacity(CHUNK_BYTES);
        }
        self.0.extend_from_slice(bytes);
        Block(self.0.split().freeze())
    }
}

/// A sparse sequence of blocks; absent ones read as zeros.
#[derive(Clone, Debug, Default)]
struct Blocks(Vec<Option<Block>>);

impl Blocks {
    fn copy_to(&self, block: u64, to: &mut [u8]) {
        match self.0.get(block as usize) {
            Some(Some(data)) => data.copy_to(to),
            _ => to.fill(0),
        }
    }

    fn bytes(&self, block: u64) -> [u8; BLOCK_BYTES] {
        match self.0.get(block as usize) {
            Some(Some(data)) => data.bytes(),
            _ => [0; BLOCK_BYTES],
        }
    }

    fn set(&mut self, block: u64, data: Block) {
        let index = block as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, None);
        }
        self.0[index] = Some(data);
    }

    fn edit(&mut self, block: u64, edit: impl FnOnce(&mut [u8; BLOCK_BYTES])) {
        let mut bytes = self.bytes(block);
        edit(&mut bytes);
        self.set(block, Block::of(&bytes));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Landing {
    /// Submitted; its completion has not been taken.
    InFlight,
    /// Completed, unflushed; the number orders completions and flushes.
    Completed(u64),
    /// Failed, or part of a failed flush: may be there, and no flush will change that.
    Doomed,
}

/// One block of a write that may or may not survive.
#[derive(Clone, Debug)]
struct Unflushed {
    /// Which write; later submissions have larger numbers.
    write: u64,
    block: u64,
    /// Position of this block within its write.
    index: usize,
    data: Block,
    landing: Landing,
}

#[derive(Clone, Debug, Default)]
struct SimFile {
    medium: Blocks,
    visible: Blocks,
    unflushed: Vec<Unflushed>,
    bytes: u64,
    bytes_on_medium: u64,
    bytes_max: u64,
    faults: VecDeque<Fault>,
}

impl SimFile {
    fn sized(bytes: u64) -> SimFile {
        assert_eq!(bytes % BLOCK_BYTES as u64, 0);
        SimFile { bytes, bytes_on_medium: bytes, bytes_max: u64::MAX, ..SimFile::default() }
    }

    fn take_fault(&mut self, matches: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let at = self.faults.iter().position(matches)?;
        self.faults.remove(at)
    }

    /// A finished durable write: its blocks are on the medium and replace what was pending there.
    fn settle(&mut self, write: u64) {
        let SimFile { medium, unflushed, .. } = self;
        if unflushed.iter().all(|u| u.write == write) {
            for landed in unflushed.drain(..) {
                medium.set(landed.block, landed.data);
            }
            return;
        }
        for landed in unflushed.iter().filter(|u| u.write == write) {
            medium.set(landed.block, landed.data.clone());
        }
        let blocks: Vec<u64> =
            unflushed.iter().filter(|u| u.write == write).map(|u| u.block).collect();
        unflushed.retain(|u| {
            u.write > write
                || u.landing == Landing::InFlight && u.write != write
                || !blocks.contains(&u.block)
        });
    }

    fn flushed(&mut self, before: u64) {
        let SimFile { medium, unflushed, .. } = self;
        // The newest write to each block that is on the medium now.
        let mut newest: HashMap<u64, u64> = HashMap::new();
        unflushed.retain(|u| match u.landing {
            Landing::Completed(at) if at < before => {
                medium.set(u.block, u.data.clone());
                let write = newest.entry(u.block).or_default();
                *write = u.write.max(*write);
                false
            }
            _ => true,
        });
        // What failed before that was overwritten: it does not come back.
        unflushed.retain(|u| {
            u.landing != Landing::Doomed || newest.get(&u.block).is_none_or(|w| u.write > *w)
        });
    }
}

#[derive(Debug)]
enum Work {
    Read { offset_bytes: u64, buf: BlockBuf },
    Write { write: u64, offset_bytes: u64, bytes: usize, buf: BlockBuf, durability: Durability },
    Flush { before: u64, file_bytes: u64 },
    Grow { file_bytes: u64 },
}

#[derive(Debug)]
struct InFlight {
    op: OpId,
    file: ShardFile,
    fault: Option<Fault>,
    work: Work,
}

/// The device. See the module's page for what it promises and what it does not.
#[derive(Debug)]
pub struct SimDisk {
    log: SimFile,
    pages: SimFile,
    in_flight: Vec<InFlight>,
    chunk: Chunk,
    /// Orders submissions, completions and flushes.
    clock: u64,
    stats: SimDiskStats,
}

impl SimDisk {
    /// A device with a prewritten (zero) log and a page file of these lengths.
    #[must_use]
    pub fn new(log_bytes: u64, pages_bytes: u64) -> SimDisk {
        SimDisk {
            log: SimFile::sized(log_bytes),
            pages: SimFile::sized(pages_bytes),
            in_flight: Vec::new(),
            chunk: Chunk::default(),
            clock: 0,
            stats: SimDiskStats::default(),
        }
    }

    /// A device with these contents, all on the medium.
    #[must_use]
    pub fn from_image(log: &[u8], pages: &[u8]) -> SimDisk {
        let mut disk = SimDisk::new(log.len() as u64, pages.len() as u64);
        for (file, bytes) in [(ShardFile::Log, log), (ShardFile::Pages, pages)] {
            let file = disk.file_mut(file);
            for (block, data) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
                file.medium.set(block as u64, Block::of(data));
            }
            file.visible = file.medium.clone();
        }
        disk
    }

    /// What a read of the whole file would return now.
    #[must_use]
    pub fn image(&self, file: ShardFile) -> Vec<u8> {
        let file = self.file(file);
        let blocks = file.bytes / BLOCK_BYTES as u64;
        (0..blocks).flat_map(|block| file.visible.bytes(block)).collect()
    }

    /// The file's length.
    #[must_use]
    pub fn file_bytes(&self, file: ShardFile) -> u64 {
        self.file(file).bytes
    }

    /// What the device did so far.
    #[must_use]
    pub fn stats(&self) -> SimDiskStats {
        self.stats
    }

    /// Operations in flight, oldest first.
    pub fn in_flight(&self) -> impl ExactSizeIterator<Item = OpId> + '_ {
        self.in_flight.iter().map(|work| work.op)
    }

    /// The file that an operation in flight is about.
    #[must_use]
    pub fn file_of(&self, op: OpId) -> Option<ShardFile> {
        self.in_flight.iter().find(|work| work.op == op).map(|work| work.file)
    }

    /// Limits how far the file may grow: the file system is full.
    pub fn set_bytes_max(&mut self, file: ShardFile, bytes_max: u64) {
        self.file_mut(file).bytes_max = bytes_max;
    }

    /// Lets the next matching operation on `file` go wrong. Faults queue up.
    pub fn inject(&mut self, file: ShardFile, fault: Fault) {
        self.file_mut(file).faults.push_back(fault);
    }

    /// Flips one bit at rest.
    pub fn flip_bit(&mut self, file: ShardFile, offset_bytes: u64, bit: u8) {
        let file = self.file_mut(file);
        assert!(offset_bytes < file.bytes && bit < 8);
        let (block, at) = (offset_bytes / BLOCK_BYTES as u64, offset_bytes as usize % BLOCK_BYTES);
        file.medium.edit(block, |bytes| bytes[at] ^= 1 << bit);
        file.visible.edit(block, |bytes| bytes[at] ^= 1 << bit);
    }

    /// Takes an operation. Panics on what would be a bug of the caller on any device: misaligned
    /// or out of the file, or a write that overlaps one still in flight.
    pub fn submit(&mut self, op: DiskOp) {
        self.clock += 1;
        let clock = self.clock;
        let (op, file, fault, work) = match op {
            DiskOp::Read { op, file, offset_bytes, buf } => {
                assert_eq!(offset_bytes % BLOCK_BYTES as u64, 0, "misaligned read");
                let fault = self.file_mut(file).take_fault(|f| matches!(f, Fault::Read(_)));
                (op, file, fault, Work::Read { offset_bytes, buf })
            }
            DiskOp::Write { op, file, offset_bytes, buf, bytes, durability } => {
                let fault = self.begin_write(clock, file, offset_bytes, &buf[..bytes]);
                let work = Work::Write { write: clock, offset_bytes, bytes, buf, durability };
                (op, file, fault, work)
            }
            DiskOp::Flush { op, file } => {
                let state = self.file_mut(file);
                let fault = state.take_fault(|f| matches!(f, Fault::Flush(_)));
                (op, file, fault, Work::Flush { before: clock, file_bytes: state.bytes })
            }
            DiskOp::Grow { op, file, file_bytes } => {
                assert_eq!(file_bytes % BLOCK_BYTES as u64, 0, "misaligned growth");
                let fault = self.file_mut(file).take_fault(|f| matches!(f, Fault::Grow(_)));
                (op, file, fault, Work::Grow { file_bytes })
            }
        };
        assert!(self.in_flight.iter().all(|other| other.op != op), "operation id in use");
        self.in_flight.push(InFlight { op, file, fault, work });
    }

    fn begin_write(
        &mut self,
        write: u64,
        name: ShardFile,
        offset_bytes: u64,
        data: &[u8],
    ) -> Option<Fault> {
        assert_eq!(offset_bytes % BLOCK_BYTES as u64, 0, "misaligned write");
        assert!(!data.is_empty() && data.len().is_multiple_of(BLOCK_BYTES), "misaligned write");
        let end = offset_bytes + data.len() as u64;
        assert!(end <= self.file(name).bytes, "a write past the end: grow the file first");
        for other in self.in_flight.iter().filter(|other| other.file == name) {
            if let Work::Write { offset_bytes: at, bytes, .. } = &other.work {
                let apart = end <= *at || at + *bytes as u64 <= offset_bytes;
                assert!(apart, "a write overlaps one in flight");
            }
        }
        let SimDisk { log, pages, chunk, .. } = self;
        let file = if name == ShardFile::Log { log } else { pages };
        let fault = file.take_fault(|f| {
            matches!(f, Fault::Write(_) | Fault::MisdirectWrite { .. } | Fault::LoseWrite)
        });
        let first = match fault {
            Some(Fault::LoseWrite) => return fault,
            Some(Fault::MisdirectWrite { offset_bytes }) => offset_bytes / BLOCK_BYTES as u64,
            _ => offset_bytes / BLOCK_BYTES as u64,
        };
        for (index, data) in data.chunks_exact(BLOCK_BYTES).enumerate() {
            file.unflushed.push(Unflushed {
                write,
                block: first + index as u64,
                index,
                data: chunk.block(data),
                landing: Landing::InFlight,
            });
        }
        fault
    }

    /// Finishes the oldest operation in flight.
    pub fn complete_next(&mut self) -> Option<DiskDone> {
        (!self.in_flight.is_empty()).then(|| self.finish(0))
    }

    /// Finishes any one operation in flight.
    pub fn complete_one(&mut self, random: &mut SimRandom) -> Option<DiskDone> {
        let count = self.in_flight.len();
        (count > 0).then(|| self.finish(random.below(count)))
    }

    /// Finishes this operation, if it is in flight.
    pub fn complete(&mut self, op: OpId) -> Option<DiskDone> {
        let at = self.in_flight.iter().position(|work| work.op == op)?;
        Some(self.finish(at))
    }

    fn finish(&mut self, at: usize) -> DiskDone {
        let InFlight { op, file: name, fault, work } = self.in_flight.remove(at);
        self.clock += 1;
        let clock = self.clock;
        let errno = match fault {
            Some(Fault::Read(e) | Fault::Write(e) | Fault::Flush(e) | Fault::Grow(e)) => Some(e),
            _ => None,
        };
        let stats = &mut self.stats;
        let file = match name {
            ShardFile::Log => &mut self.log,
            ShardFile::Pages => &mut self.pages,
        };
        let (buf, result) = match work {
            Work::Read { offset_bytes, mut buf } => {
                stats.reads += 1;
                let result = match errno {
                    Some(errno) => Err(errno),
                    None if offset_bytes + buf.len() as u64 > file.bytes => Err(EIO),
                    None => {
                        let first = offset_bytes / BLOCK_BYTES as u64;
                        for (index, to) in buf.chunks_exact_mut(BLOCK_BYTES).enumerate() {
                            file.visible.copy_to(first + index as u64, to);
                        }
                        Ok(())
                    }
                };
                (Some(buf), result)
            }
            Work::Write { write, offset_bytes, bytes, buf, durability } => {
                stats.writes += 1;
                stats.write_bytes += bytes as u64;
                let landing =
                    if errno.is_some() { Landing::Doomed } else { Landing::Completed(clock) };
                let SimFile { visible, unflushed, .. } = file;
                for landed in unflushed.iter_mut().filter(|u| u.write == write) {
                    landed.landing = landing;
                    if errno.is_none() {
                        visible.set(landed.block, landed.data.clone());
                    }
                }
                if errno.is_none() && durability == Durability::Durable {
                    file.settle(write);
                    if offset_bytes + bytes as u64 > file.bytes_on_medium {
                        file.bytes_on_medium = file.bytes;
                    }
                }
                (Some(buf), errno.map_or(Ok(()), Err))
            }
            Work::Flush { before, file_bytes } => {
                stats.flushes += 1;
                if errno.is_some() {
                    for u in &mut file.unflushed {
                        if matches!(u.landing, Landing::Completed(at) if at < before) {
                            u.landing = Landing::Doomed;
                        }
                    }
                } else {
                    file.flushed(before);
                    file.bytes_on_medium = file.bytes_on_medium.max(file_bytes);
                }
                (None, errno.map_or(Ok(()), Err))
            }
            Work::Grow { file_bytes } => {
                let full = (file_bytes > file.bytes_max).then_some(ENOSPC);
                let errno = errno.or(full);
                if errno.is_none() {
                    file.bytes = file.bytes.max(file_bytes);
                }
                (None, errno.map_or(Ok(()), Err))
            }
        };
        DiskDone { op, buf, result: result.map_err(|errno| DiskError { errno }) }
    }

    /// The device after the process was killed, with power on: what was completed is visible but
    /// still not flushed, and each write in flight happened or did not.
    #[must_use]
    pub fn after_process_crash(&self, random: &mut SimRandom) -> SimDisk {
        let mut disk = self.idle_copy();
        disk.clock += 1;
        let clock = disk.clock;
        for work in &self.in_flight {
            let Work::Write { write, .. } = &work.work else { continue };
            let happened = random.chance(1, 2);
            let file = disk.file_mut(work.file);
            if !happened {
                file.unflushed.retain(|u| u.write != *write);
                continue;
            }
            let SimFile { visible, unflushed, .. } = file;
            for landed in unflushed.iter_mut().filter(|u| u.write == *write) {
                landed.landing = Landing::Completed(clock);
                visible.set(landed.block, landed.data.clone());
            }
        }
        disk
    }

    fn idle_copy(&self) -> SimDisk {
        let mut disk = SimDisk {
            log: self.log.clone(),
            pages: self.pages.clone(),
            in_flight: Vec::new(),
            chunk: Chunk::default(),
            clock: self.clock,
            stats: SimDiskStats::default(),
        };
        disk.log.faults.clear();
        disk.pages.faults.clear();
        disk
    }

    fn file(&self, file: ShardFile) -> &SimFile {
        match file {
            ShardFile::Log => &self.log,
            ShardFile::Pages => &self.pages,
        }
    }

    fn file_mut(&mut self, file: ShardFile) -> &mut SimFile {
        match file {
            ShardFile::Log => &mut self.log,
            ShardFile::Pages => &mut self.pages,
        }
    }
}

#[cfg(test)]
mod tests;
