//! A node's disk: [`SimDisk`], which knows what may be lost, with times, and with what is slow, stuck
//! or unreadable.
//!
//! [`SimDisk`] never finishes anything by itself; here each operation gets the moment at which it
//! ends. Operations of one moment end in any order, as on a device.
//!
//! For tests of the checkers the device can lie: it reports writes as durable and flushes as done
//! that are not. A store on it loses acknowledged writes when power is cut, and that must be found.

use forebay_storage::block::{
    BLOCK_BYTES, DiskDone, DiskError, DiskOp, Durability, OpId, ShardFile,
};
use forebay_storage::sim_disk::{EIO, Fault, SimDisk, SimRandom};
use forebay_storage::store::BlockingDisk;

use super::between;

const MICRO: u64 = 1_000;

/// Blocks that cannot be read.
#[derive(Clone, Copy, Debug)]
struct Bad {
    /// The fault that made them so.
    fault: usize,
    file: ShardFile,
    first: u64,
    last: u64,
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Disk {
    sim: SimDisk,
    random: SimRandom,
    /// How many times as long everything takes.
    pub(super) times: u64,
    /// Nothing ends before.
    pub(super) stuck_until: u64,
    lies: bool,
    bad: Vec<Bad>,
    /// Reads in flight that will fail.
    failing: Vec<OpId>,
    erred: bool,
}

impl Disk {
    pub(super) fn new(log_bytes: u64, pages_bytes: u64, seed: u64, lies: bool) -> Disk {
        Disk {
            sim: SimDisk::new(log_bytes, pages_bytes),
            random: SimRandom::new(seed),
            times: 1,
            stuck_until: 0,
            lies,
            bad: Vec::new(),
            failing: Vec::new(),
            erred: false,
        }
    }

    /// Takes an operation; when it will end.
    pub(super) fn submit(&mut self, op: DiskOp, now: u64) -> (OpId, u64) {
        let random = &mut self.random;
        let (id, nanos) = match &op {
            DiskOp::Read { op, file, offset_bytes, buf } => {
                if !self.bad.is_empty() {
                    let first = offset_bytes / BLOCK_BYTES as u64;
                    let last = first + buf.blocks() as u64 - 1;
                    let hit =
                        |bad: &Bad| bad.file == *file && bad.first <= last && first <= bad.last;
                    if self.bad.iter().any(hit) {
                        self.failing.push(*op);
                    }
                }
                (*op, between(random, 60 * MICRO, 180 * MICRO))
            }
            DiskOp::Write { op, file, offset_bytes, bytes, durability, .. } => {
                let first = offset_bytes / BLOCK_BYTES as u64;
                let last = first + (bytes / BLOCK_BYTES) as u64 - 1;
                // A device puts what is written to a bad sector elsewhere.
                self.bad.retain(|bad| bad.file != *file || bad.first < first || last < bad.last);
                let transfer = *bytes as u64 / 2;
                let least = match durability {
                    Durability::Durable => 100 * MICRO,
                    Durability::Volatile => 30 * MICRO,
                };
                (*op, transfer + between(random, least, 3 * least))
            }
            DiskOp::Flush { op, .. } => (*op, between(random, 200 * MICRO, 1_000 * MICRO)),
            DiskOp::Grow { op, .. } => (*op, between(random, 50 * MICRO, 100 * MICRO)),
        };
        let at = (now + nanos * self.times).max(self.stuck_until + nanos);
        self.hand_over(op);
        (id, at)
    }

    fn hand_over(&mut self, op: DiskOp) {
        match op {
            DiskOp::Write { op, file, offset_bytes, buf, bytes, durability: _ } if self.lies => {
                let durability = Durability::Volatile;
                self.sim.submit(DiskOp::Write { op, file, offset_bytes, buf, bytes, durability });
            }
            // Growth to nothing: done, and nothing is flushed by it.
            DiskOp::Flush { op, file } if self.lies => {
                self.sim.submit(DiskOp::Grow { op, file, file_bytes: 0 });
            }
            op => self.sim.submit(op),
        }
    }

    /// Ends an operation; None if it is not in flight, or not to end before the time returned.
    pub(super) fn complete(&mut self, op: OpId, now: u64) -> Result<DiskDone, Option<u64>> {
        if now < self.stuck_until {
            return Err(Some(self.stuck_until));
        }
        let mut done = self.sim.complete(op).ok_or(None)?;
        if let Some(at) = self.failing.iter().position(|failing| *failing == op) {
            self.failing.swap_remove(at);
            done.result = Err(DiskError { errno: EIO });
        }
        self.erred |= done.result.is_err();
        Ok(done)
    }

    /// What power leaves.
    pub(super) fn cut_power(&mut self) {
        self.sim = self.sim.after_power_cut(&mut self.random);
        self.failing.clear();
    }

    /// What a killed process leaves.
    pub(super) fn kill(&mut self) {
        self.sim = self.sim.after_process_crash(&mut self.random);
        self.failing.clear();
    }

    pub(super) fn inject(&mut self, file: ShardFile, fault: Fault) {
        self.sim.inject(file, fault);
    }

    /// The pages file cannot grow any more, or it can.
    pub(super) fn set_full(&mut self, full: bool) {
        let most = if full { self.sim.file_bytes(ShardFile::Pages) } else { u64::MAX };
        self.sim.set_bytes_max(ShardFile::Pages, most);
    }

    /// The offset of a place that is given in millionths of the file.
    fn offset(&self, file: ShardFile, at: u64) -> u64 {
        let bytes = self.sim.file_bytes(file);
        (u128::from(bytes) * u128::from(at) / 1_000_000) as u64
    }

    /// Blocks become unreadable; returns where.
    pub(super) fn spoil(&mut self, fault: usize, file: ShardFile, at: u64, blocks: u64) -> u64 {
        let first = self.offset(file, at) / BLOCK_BYTES as u64;
        self.bad.push(Bad { fault, file, first, last: first + blocks - 1 });
        first
    }

    /// They can be read again.
    pub(super) fn mend(&mut self, fault: usize) {
        self.bad.retain(|bad| bad.fault != fault);
    }

    /// Whether an operation failed since this was last asked.
    pub(super) fn take_erred(&mut self) -> bool {
        std::mem::take(&mut self.erred)
    }

    /// The next write to the pages lands elsewhere; returns where.
    pub(super) fn misdirect(&mut self, at: u64) -> u64 {
        let blocks = BLOCK_BYTES as u64;
        let offset_bytes = self.offset(ShardFile::Pages, at) / blocks * blocks;
        self.inject(ShardFile::Pages, Fault::MisdirectWrite { offset_bytes });
        offset_bytes
    }

    /// Flips a bit; returns where.
    pub(super) fn flip(&mut self, file: ShardFile, at: u64, bit: u8) -> u64 {
        let offset = self.offset(file, at);
        self.sim.flip_bit(file, offset, bit);
        offset
    }
}

impl BlockingDisk for Disk {
    fn carry_out(&mut self, op: DiskOp) -> DiskDone {
        let (id, _) = self.submit(op, 0);
        let stuck = std::mem::take(&mut self.stuck_until);
        let done = self.complete(id, 0).expect("just submitted");
        self.stuck_until = stuck;
        done
    }
}
