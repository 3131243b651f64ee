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

/// A plot waits for an operation of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strike {
    /// Whose plot it is.
    pub(super) fault: usize,
    /// So many from now.
    pub(super) left: u64,
    /// Only superblocks count.
    pub(super) superblocks: bool,
    /// Until it has ended; otherwise when it begins.
    pub(super) done: bool,
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
    /// Nothing of the log ends before.
    pub(super) log_stuck_until: u64,
    /// Nothing of the pages ends before.
    pub(super) pages_stuck_until: u64,
    pub(super) strike: Option<Strike>,
    struck: Option<(usize, u64)>,
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
            log_stuck_until: 0,
            pages_stuck_until: 0,
            strike: None,
            struck: None,
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
        let at = (now + nanos * self.times).max(self.stuck_until(op.file()) + nanos);
        if self.strike.is_some() {
            self.aim(&op, now, at);
        }
        self.hand_over(op);
        (id, at)
    }

    fn stuck_until(&self, file: ShardFile) -> u64 {
        match file {
            ShardFile::Log => self.stuck_until.max(self.log_stuck_until),
            ShardFile::Pages => self.stuck_until.max(self.pages_stuck_until),
        }
    }

    /// Whether it is what the plot waits for.
    fn aim(&mut self, op: &DiskOp, now: u64, ends_at: u64) {
        let Some(strike) = &mut self.strike else { return };
        let counts = match op {
            DiskOp::Write { file: ShardFile::Pages, durability, .. } => {
                // A superblock is the one page write that is durable by itself.
                !strike.superblocks || *durability == Durability::Durable
            }
            DiskOp::Flush { file: ShardFile::Pages, .. } => !strike.superblocks,
            _ => false,
        };
        strike.left -= u64::from(counts);
        if strike.left == 0 {
            let late = between(&mut self.random, 0, 50 * MICRO);
            self.struck = Some((strike.fault, late + if strike.done { ends_at } else { now }));
            self.strike = None;
        }
    }

    /// The plot whose moment has been set, and when that is.
    pub(super) fn take_struck(&mut self) -> Option<(usize, u64)> {
        self.struck.take()
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
        if now < self.log_stuck_until.max(self.pages_stuck_until) {
            let until = self.sim.file_of(op).map_or(0, |file| self.stuck_until(file));
            if now < until {
                return Err(Some(until));
            }
        }
        let mut done = self.sim.complete(op).ok_or(None)?;
        if let Some(at) = self.failing.iter().position(|failing| *failing == op) {
            self.failing.swap_remove(at);
            done.result = Err(DiskError { errno: EIO });
        }
        self.erred |= done.result.is_err();
        Ok(done)
    }

    /// Its files are deleted, and made again when the node starts.
    pub(super) fn make_anew(&mut self, log_bytes: u64, pages_bytes: u64) {
        self.sim = SimDisk::new(log_bytes, pages_bytes);
        self.failing.clear();
        self.bad.clear();
    }

    /// What power leaves.
    pub(super) fn cut_power(&mut self) {
        self.sim = self.sim.after_power_cut(&mut self.random);
        self.is_new();
    }

    /// What a killed process leaves.
    pub(super) fn kill(&mut self) {
        self.sim = self.sim.after_process_crash(&mut self.random);
        self.is_new();
    }

    fn is_new(&mut self) {
        self.failing.clear();
        self.struck = None;
        (self.log_stuck_until, self.pages_stuck_until) = (0, 0);
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
    pub(super) fn offset(&self, file: ShardFile, at: u64) -> u64 {
        let bytes = self.sim.file_bytes(file);
        (u128::from(bytes) * u128::from(at) / 1_000_000) as u64
    }

    /// Blocks become unreadable, from this offset on; returns which is the first.
    pub(super) fn spoil(&mut self, fault: usize, file: ShardFile, at: u64, blocks: u64) -> u64 {
        let first = at / BLOCK_BYTES as u64;
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

    /// Flips a bit.
    pub(super) fn flip(&mut self, file: ShardFile, offset_bytes: u64, bit: u8) {
        self.sim.flip_bit(file, offset_bytes, bit);
    }
}

impl BlockingDisk for Disk {
    fn carry_out(&mut self, op: DiskOp) -> DiskDone {
        // A recovery takes no time here, so nothing happens in the middle of it.
        let strike = self.strike.take();
        let (id, _) = self.submit(op, 0);
        self.strike = strike;
        let stuck = (self.stuck_until, self.log_stuck_until, self.pages_stuck_until);
        (self.stuck_until, self.log_stuck_until, self.pages_stuck_until) = (0, 0, 0);
        let done = self.complete(id, 0).expect("just submitted");
        (self.stuck_until, self.log_stuck_until, self.pages_stuck_until) = stuck;
        done
    }
}
