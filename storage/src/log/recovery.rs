//! Finds the end of the log after a crash, and tells a crash tail from damage.
//!
//! ```text
//!   start                     P                             start + capacity
//!     │ batch │ batch │ batch │ ??? │ … │ batch │ … older lap … │
//!     └──── the chain ────────┘ └── every block searched for ───┘
//!           records delivered       headers of this log
//! ```
//!
//! The scan reads the whole ring once, in order, from the checkpoint's point. While each batch is
//! the next of the chain, its records are delivered. At the first position P where that is not so,
//! it goes on block by block and collects, from every header that verifies, the highest
//! `durable_lsn` and the highest incarnation.
//!
//! **Rule (tail or damage).** If the highest `durable_lsn` found anywhere (in the chain, beyond it,
//! in the superblock) is above P, the batch at P had been acknowledged, and is damage: the scan ends
//! with [`LogDamage`], and nothing is cut. Otherwise it was never acknowledged: the log is cut at P,
//! whatever lies beyond. An unreadable block decides nothing: the scan fails
//! ([`ScanError::Read`]) rather than guess.
//!
//! Why a cut batch never comes back. Say a recovery cuts at P and the writer goes on as incarnation
//! i. Beyond P, stale batches have incarnations below i, because i is one more than the highest
//! found in any header of the ring, cut ones included, and than the superblock's. A batch follows
//! in the chain only if its incarnation is not below its predecessor's, and the first batch at P is
//! of incarnation i. That holds even if that recovery is itself cut off before its first write
//! lands: the next one finds P again, and an incarnation that is higher still if anything landed.
//! At P itself no predecessor tells the old batch from the new one; there the **Rule (opening
//! block)** of [`opening`](super::opening) keeps it out.
//!
//! Why the highest `durable_lsn` may be taken from stale batches too: it was true when it was
//! written, and by this rule no later cut went below it.
//!
//! Before the scan finishes it flushes the file. What it read may be the bytes of an
//! unacknowledged write in a volatile cache of the device (the process was killed, the power stayed
//! on); once delivered they will be built upon, and must not vanish in a later power cut.
//!
//! The one exception, stated by the design: of the last batch before its marker nothing says that it
//! was durable, so damage to it looks like a tail.

use std::collections::VecDeque;

use forebay_core::ids::Lsn;

use super::format::{BadBatch, BatchHeader, BatchKind, LogRecord};
use super::opening::is_opening;
use super::reader::{ChainReader, ChainStep, is_of_log};
use super::{BLOCK, LogConfig, LogPoint, OpIds};
use crate::block::{BLOCK_BYTES, BlockBuf, DiskDone, DiskOp, OpId, ShardFile};

/// Bytes of one read.
pub const READ_BYTES: u64 = 256 << 10;
/// Reads in flight.
const READS_MAX: usize = 4;
/// What a damaged log may have held of incarnations that nothing else names: as many openings without
/// a checkpoint. Links and leases rely on that none is used twice.
const INCARNATIONS_LOST: u64 = 1 << 20;

/// Where a scan starts and what is known beforehand; from the superblock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanStart {
    /// The checkpoint's point: [`LogWriter::durable_point`](super::LogWriter::durable_point) when
    /// it was taken. The default is the start of a log never written.
    pub point: LogPoint,
    /// The highest durable position that the superblock vouches for.
    pub durable_lsn: Lsn,
}

/// A log whose end is known, ready for [`LogWriter::new`](super::LogWriter::new).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredLog {
    /// Where to write next, after what, and as which incarnation.
    pub point: LogPoint,
    /// Starts of the segments that the chain passed, oldest first.
    pub segments: Vec<LogPoint>,
    /// The chain ends with a marker, or is empty.
    pub ends_with_marker: bool,
    /// Records delivered.
    pub records: u64,
    /// Bytes of the chain from the start to the end.
    pub chain_bytes: u64,
    /// What was cut, if a crash left something beyond the end.
    pub cut: Option<TailCut>,
}

/// Unacknowledged batches that a crash left beyond the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailCut {
    /// Why the first of them is not part of the chain.
    pub bad: BadBatch,
    /// Headers found at or beyond the cut, whether or not the rest of the batch was there.
    pub batches: u64,
    /// How many of them an earlier recovery had cut already: they are older than the log's end.
    pub stale_batches: u64,
}

impl RecoveredLog {
    /// The log of a file that was just created and filled with zeros.
    #[must_use]
    pub fn brand_new() -> RecoveredLog {
        RecoveredLog {
            point: LogPoint { lsn: Lsn(0), previous_checksum: 0, incarnation: 1 },
            segments: Vec::new(),
            ends_with_marker: true,
            records: 0,
            chain_bytes: 0,
            cut: None,
        }
    }

    /// The log that goes on where a damaged one was given up, which began at `start`: beyond every
    /// position that anything in the ring may name, and beyond every incarnation. Nothing of the old
    /// one is part of it, and nothing can come back.
    #[must_use]
    pub fn after_loss(config: &LogConfig, start: Lsn, damage: &LogDamage) -> RecoveredLog {
        // The writer never went a lap beyond where its log began.
        let seen = damage.durable_lsn.max(start.after(config.capacity_bytes()));
        let lsn = Lsn(seen.0.next_multiple_of(config.segment_bytes));
        let incarnation = damage.incarnation + INCARNATIONS_LOST;
        let point = LogPoint { lsn, previous_checksum: 0, incarnation };
        RecoveredLog { point, segments: vec![point], ..RecoveredLog::brand_new() }
    }
}

/// Acknowledged batches are unreadable. The shard must not serve or vote on what was in them:
/// repair from peers, or, without any, restore from a backup. The log is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log is damaged at lsn {lsn}, below durable_lsn {durable_lsn}: {bad}")]
pub struct LogDamage {
    /// The first bad batch.
    pub lsn: Lsn,
    /// The highest position that some header or the superblock vouches for.
    pub durable_lsn: Lsn,
    /// What is wrong with the batch.
    #[source]
    pub bad: BadBatch,
    /// The next batch whose header verifies: the damage ends there at the latest.
    pub next_good_lsn: Option<Lsn>,
    /// The highest incarnation that some header or the superblock names.
    pub incarnation: u64,
}

/// Why a scan ended without a log to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// See [`LogDamage`].
    #[error(transparent)]
    Damage(#[from] LogDamage),
    /// The device could not read. Nothing was decided or changed: look at the device, try again.
    #[error("reading the log file at offset {offset_bytes} failed (errno {errno})")]
    Read {
        /// In the file.
        offset_bytes: u64,
        /// The operating system's number for it.
        errno: i32,
    },
    /// The device could not flush. What was read may not be durable: look at the device.
    #[error("flushing the log file failed (errno {errno})")]
    Flush {
        /// The operating system's number for it.
        errno: i32,
    },
    /// A later program wrote this log: run that one.
    #[error("the log at lsn {lsn} is of format version {found}, newer than this program's")]
    Newer {
        /// Where.
        lsn: Lsn,
        /// Stored.
        found: u16,
    },
}

/// How far a scan is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanProgress {
    /// Bytes read and understood.
    pub bytes_scanned: u64,
    /// Bytes that there are to read.
    pub bytes_total: u64,
    /// Records delivered.
    pub records: u64,
}

/// What the scan wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanStep {
    /// Operations are in flight: call again after the next completion.
    Waiting,
    /// All records were delivered, and they are durable.
    Finished(RecoveredLog),
}

#[derive(Debug)]
struct Reading {
    op: OpId,
    offset_bytes: u64,
    /// There once the read is done.
    buf: Option<BlockBuf>,
}

#[derive(Debug)]
enum Phase {
    /// Every batch so far was the next one.
    Chain,
    /// The batch at the reader's point is bad; looking at what lies beyond.
    Search,
    /// The end is decided.
    Flush {
        op: Option<OpId>,
        done: bool,
    },
    Failed(ScanError),
}

/// The scan. Call [`LogScan::advance`] once to begin and after each [`LogScan::done`].
#[derive(Debug)]
pub struct LogScan {
    config: LogConfig,
    ops: OpIds,
    start: LogPoint,
    read_bytes: u64,
    /// Position of the next read.
    read_lsn: Lsn,
    /// One lap after the start.
    end_lsn: Lsn,
    reading: VecDeque<Reading>,
    spare: Vec<BlockBuf>,
    reader: ChainReader,
    phase: Phase,
    /// Position of the next block to search.
    search_lsn: Lsn,
    durable_lsn: Lsn,
    incarnation: u64,
    /// Headers at or beyond the chain's end, and the first one beyond.
    beyond: u64,
    stale_beyond: u64,
    /// Headers of lower ones are stale: of the batch at the chain's end, or of the opening block.
    end_incarnation: u64,
    next_good_lsn: Option<Lsn>,
    bad: Option<BadBatch>,
    segments: Vec<LogPoint>,
    last_kind: BatchKind,
    records: u64,
    scanned: u64,
}

impl LogScan {
    /// A scan of a log that holds everything from `start` on. `op_base` as for the writer.
    #[must_use]
    pub fn new(config: LogConfig, start: ScanStart, op_base: u64) -> LogScan {
        LogScan::with_read_bytes(config, start, op_base, READ_BYTES)
    }

    /// As [`LogScan::new`], with reads of this size, a multiple of the block.
    #[must_use]
    pub fn with_read_bytes(
        config: LogConfig,
        start: ScanStart,
        op_base: u64,
        read_bytes: u64,
    ) -> LogScan {
        config.validate().expect("a log's configuration is validated when it is read");
        let point = start.point;
        assert!(point.lsn.0.is_multiple_of(BLOCK), "a point lies between batches");
        assert!(read_bytes > 0 && read_bytes.is_multiple_of(BLOCK));
        let end_lsn = point.lsn.after(config.capacity_bytes());
        let at_segment = point.lsn.0.is_multiple_of(config.segment_bytes);
        LogScan {
            config,
            ops: OpIds::new(op_base),
            start: point,
            read_bytes,
            read_lsn: point.lsn,
            end_lsn,
            reading: VecDeque::new(),
            spare: Vec::new(),
            reader: ChainReader::new(config, point, end_lsn),
            phase: Phase::Chain,
            search_lsn: point.lsn,
            durable_lsn: start.durable_lsn.max(point.lsn),
            incarnation: point.incarnation,
            beyond: 0,
            stale_beyond: 0,
            end_incarnation: 0,
            next_good_lsn: None,
            bad: None,
            segments: at_segment.then_some(point).into_iter().collect(),
            last_kind: BatchKind::Marker,
            records: 0,
            scanned: 0,
        }
    }

    /// Whether an operation is this scan's, by the base it was created with.
    #[must_use]
    pub fn owns(&self, op: OpId) -> bool {
        self.ops.owns(op)
    }

    /// Takes the end of one of the scan's operations. Failures surface in [`LogScan::advance`].
    pub fn done(&mut self, done: DiskDone) {
        if let Phase::Flush { op, done: flushed } = &mut self.phase
            && *op == Some(done.op)
        {
            match done.result {
                Ok(()) => *flushed = true,
                Err(error) => self.phase = Phase::Failed(ScanError::Flush { errno: error.errno }),
            }
            return;
        }
        let reading = self.reading.iter_mut().find(|reading| reading.op == done.op);
        let reading = reading.expect("a completion belongs to a read in flight");
        reading.buf = done.buf;
        if let (Err(error), false) = (done.result, matches!(self.phase, Phase::Failed(_))) {
            let (offset_bytes, errno) = (reading.offset_bytes, error.errno);
            self.phase = Phase::Failed(ScanError::Read { offset_bytes, errno });
        }
    }

    /// How far the scan is.
    #[must_use]
    pub fn progress(&self) -> ScanProgress {
        ScanProgress {
            bytes_scanned: self.scanned,
            bytes_total: self.config.capacity_bytes(),
            records: self.records,
        }
    }

    /// Goes on with what has been read: delivers records in order, each with the position of its
    /// batch, and asks for more. After an
    /// error, only outstanding completions remain to be handed to [`LogScan::done`].
    pub fn advance(
        &mut self,
        out: &mut Vec<DiskOp>,
        mut each: impl FnMut(Lsn, LogRecord<'_>),
    ) -> Result<ScanStep, ScanError> {
        loop {
            match &self.phase {
                Phase::Failed(error) => return Err(*error),
                Phase::Flush { done: true, .. } => return Ok(ScanStep::Finished(self.recovered())),
                Phase::Flush { op: Some(_), .. } => return Ok(ScanStep::Waiting),
                Phase::Flush { op: None, .. } => {
                    let op = self.ops.issue();
                    self.phase = Phase::Flush { op: Some(op), done: false };
                    out.push(DiskOp::Flush { op, file: ShardFile::Log });
                    return Ok(ScanStep::Waiting);
                }
                Phase::Chain | Phase::Search => {}
            }
            if self.reading.front().is_some_and(|reading| reading.buf.is_some()) {
                let buf = self.reading.pop_front().and_then(|reading| reading.buf);
                let buf = buf.expect("the front has a buffer");
                self.understand(&buf, &mut each);
                self.scanned += buf.len() as u64;
                self.spare.push(buf);
            } else if self.read_more(out) || !self.reading.is_empty() {
                return Ok(ScanStep::Waiting);
            } else {
                self.decide();
            }
        }
    }

    /// Keeps several reads in flight; false if there is nothing left to read.
    fn read_more(&mut self, out: &mut Vec<DiskOp>) -> bool {
        let mut asked = false;
        while self.reading.len() < READS_MAX && self.read_lsn < self.end_lsn {
            let offset_bytes = self.config.offset_bytes(self.read_lsn);
            let bytes = self
                .read_bytes
                .min(self.config.capacity_bytes() - offset_bytes)
                .min(self.end_lsn.0 - self.read_lsn.0);
            let fits = self.spare.iter().position(|buf| buf.len() as u64 == bytes);
            let buf = match fits {
                Some(at) => self.spare.swap_remove(at),
                None => BlockBuf::zeroed((bytes / BLOCK) as usize),
            };
            let op = self.ops.issue();
            self.reading.push_back(Reading { op, offset_bytes, buf: None });
            out.push(DiskOp::Read { op, file: ShardFile::Log, offset_bytes, buf });
            self.read_lsn = self.read_lsn.after(bytes);
            asked = true;
        }
        asked
    }

    fn understand(&mut self, bytes: &[u8], each: &mut impl FnMut(Lsn, LogRecord<'_>)) {
        if matches!(self.phase, Phase::Search) {
            self.search(bytes);
            return;
        }
        self.reader.feed(bytes);
        loop {
            match self.reader.next() {
                ChainStep::Batch(batch) => {
                    self.durable_lsn = self.durable_lsn.max(batch.header.durable_lsn);
                    self.last_kind = batch.header.kind;
                    for record in batch.records() {
                        self.records += 1;
                        each(batch.header.lsn, record);
                    }
                    let point = self.reader.point();
                    self.incarnation = self.incarnation.max(point.incarnation);
                    if point.lsn.0.is_multiple_of(self.config.segment_bytes) {
                        self.segments.push(point);
                    }
                }
                ChainStep::More => return,
                ChainStep::Bad(bad) => {
                    self.chain_ends(bad);
                    return;
                }
            }
        }
    }

    fn chain_ends(&mut self, bad: BadBatch) {
        self.phase = Phase::Search;
        self.bad = Some(bad);
        let point = self.reader.point();
        (self.search_lsn, self.end_incarnation) = (point.lsn, point.incarnation);
        let rest = self.reader.rest().to_vec();
        self.search(&rest);
    }

    /// Looks at the start of each block for a header of this log, whatever its place in time.
    fn search(&mut self, bytes: &[u8]) {
        for block in bytes.chunks_exact(BLOCK_BYTES) {
            let at = self.search_lsn;
            self.search_lsn = at.after(BLOCK);
            let header = match BatchHeader::decode(block) {
                Ok((header, _)) => header,
                Err(BadBatch::Version { found }) => {
                    self.phase = Phase::Failed(ScanError::Newer { lsn: at, found });
                    return;
                }
                Err(_) => continue,
            };
            let here = self.config.offset_bytes(header.lsn) == self.config.offset_bytes(at);
            if !here || is_of_log(&self.config, &header).is_err() {
                continue;
            }
            self.durable_lsn = self.durable_lsn.max(header.durable_lsn);
            self.incarnation = self.incarnation.max(header.incarnation);
            let end = self.reader.point();
            if is_opening(&header, &end) {
                self.end_incarnation = header.incarnation;
            } else if header.lsn >= end.lsn {
                self.beyond += 1;
                self.stale_beyond += u64::from(header.incarnation < self.end_incarnation);
            }
            if header.lsn > end.lsn && self.next_good_lsn.is_none() {
                self.next_good_lsn = Some(header.lsn);
            }
        }
    }

    /// Everything was read: the Rule.
    fn decide(&mut self) {
        let end = self.reader.point().lsn;
        assert!(self.read_lsn == self.end_lsn && end <= self.end_lsn);
        assert!(self.bad.is_some() || end == self.end_lsn, "a chain ends somewhere");
        let bad =
            self.bad.unwrap_or(BadBatch::Position { expected: end.0, found: self.start.lsn.0 });
        self.phase = if end < self.durable_lsn {
            Phase::Failed(ScanError::Damage(LogDamage {
                lsn: end,
                durable_lsn: self.durable_lsn,
                bad,
                next_good_lsn: self.next_good_lsn,
                incarnation: self.incarnation,
            }))
        } else {
            Phase::Flush { op: None, done: false }
        };
    }

    fn recovered(&self) -> RecoveredLog {
        let end = self.reader.point();
        let incarnation = self.incarnation + 1;
        assert!(end.lsn >= self.durable_lsn && incarnation > end.incarnation);
        let cut = self.bad.filter(|_| self.beyond > 0);
        RecoveredLog {
            point: LogPoint { incarnation, ..end },
            segments: self.segments.clone(),
            ends_with_marker: self.last_kind == BatchKind::Marker,
            records: self.records,
            chain_bytes: end.lsn.0 - self.start.lsn.0,
            cut: cut.map(|bad| TailCut {
                bad,
                batches: self.beyond,
                stale_batches: self.stale_beyond,
            }),
        }
    }
}
