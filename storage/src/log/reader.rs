//! Walks the chain of batches through a stream of log bytes, whatever their pieces.
//!
//! ```text
//!   feed(256 KiB) ─┐
//!   feed(256 KiB) ─┼─> fed: [ batch ][ batch ][ half a ba…        next() ─> Batch | More | Bad
//!   feed(…)       ─┘          ^ point
//! ```
//!
//! Where the pieces meet within a batch, they are copied together, so that it is contiguous; a piece
//! that is given away, and begins with a batch, is read where it is. Recovery and the background
//! verifier share this code, and so accept the same bytes.

use forebay_core::ids::Lsn;

use super::format::{BadBatch, Batch, BatchHeader, BatchKind, at};
use super::recovery::READ_BYTES;
use super::{BLOCK, LogConfig, LogPoint};
use crate::block::{BLOCK_BYTES, BlockBuf, DiskOp, OpId, ShardFile};

/// What was fed.
#[derive(Debug)]
enum Fed {
    /// Of several pieces.
    Copied(Vec<u8>),
    /// One piece.
    Given(BlockBuf),
}

impl Fed {
    fn into_buf(self) -> Option<BlockBuf> {
        match self {
            Fed::Copied(_) => None,
            Fed::Given(buf) => Some(buf),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Fed::Copied(bytes) => bytes,
            Fed::Given(buf) => buf,
        }
    }
}

/// See the module's page. Invariant: `fed[start..]` begins at `point.lsn`, unless `skip_bytes`
/// of the stream are still to be dropped before it.
#[derive(Debug)]
pub(crate) struct ChainReader {
    config: LogConfig,
    point: LogPoint,
    /// Whether what comes before the point is known, so that the next batch must follow it.
    linked: bool,
    /// No batch of this chain goes beyond.
    end_lsn: Lsn,
    fed: Fed,
    start: usize,
    skip_bytes: u64,
}

/// What [`ChainReader::next`] found.
#[derive(Debug)]
pub(crate) enum ChainStep<'a> {
    /// The next batch of the chain, verified.
    Batch(Batch<'a>),
    /// It is not all here yet.
    More,
    /// What is there is not the next batch; the reader stays before it.
    Bad(BadBatch),
}

impl ChainReader {
    pub(crate) fn new(config: LogConfig, point: LogPoint, end_lsn: Lsn) -> ChainReader {
        let fed = Fed::Copied(Vec::new());
        ChainReader { config, point, linked: true, end_lsn, fed, start: 0, skip_bytes: 0 }
    }

    /// A reader of a chain that is entered at the batch at `lsn`, whatever came before it.
    pub(crate) fn entered(config: LogConfig, lsn: Lsn, end_lsn: Lsn) -> ChainReader {
        let point = LogPoint { lsn, ..LogPoint::default() };
        ChainReader { linked: false, ..ChainReader::new(config, point, end_lsn) }
    }

    /// Gives up what is at the point, which is no batch of the chain: the next one may begin a
    /// block later, and follows nothing.
    pub(crate) fn skip_block(&mut self) {
        self.start += BLOCK_BYTES;
        assert!(self.start <= self.fed.bytes().len(), "only what was looked at is skipped");
        self.point = LogPoint { lsn: self.point.lsn.after(BLOCK), ..LogPoint::default() };
        self.linked = false;
    }

    /// Where the next batch should be.
    pub(crate) fn point(&self) -> LogPoint {
        self.point
    }

    /// What was fed and not yet read, from the point on.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.fed.bytes()[self.start..]
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let start = std::mem::take(&mut self.start);
        match &mut self.fed {
            Fed::Copied(fed) => {
                fed.drain(..start);
                fed.extend_from_slice(bytes);
            }
            Fed::Given(buf) => self.fed = Fed::Copied([&buf[start..], bytes].concat()),
        }
        self.skip();
    }

    /// As [`ChainReader::feed`], and keeps the piece for as long as it is read. Returns one that is
    /// not needed any more, if there is one.
    pub(crate) fn give(&mut self, buf: BlockBuf) -> Option<BlockBuf> {
        if !self.rest().is_empty() {
            self.feed(&buf);
            return Some(buf);
        }
        self.start = 0;
        let before = std::mem::replace(&mut self.fed, Fed::Given(buf));
        self.skip();
        before.into_buf()
    }

    fn skip(&mut self) {
        let here = self.rest().len() as u64;
        let now = self.skip_bytes.min(here);
        self.start += now as usize;
        self.skip_bytes -= now;
    }

    pub(crate) fn next(&mut self) -> ChainStep<'_> {
        let rest = self.rest();
        if self.skip_bytes > 0 || rest.len() < BLOCK_BYTES {
            return ChainStep::More;
        }
        let (header, _) = match BatchHeader::decode(rest) {
            Ok(header) => header,
            Err(bad) => return ChainStep::Bad(bad),
        };
        if let Err(bad) = self.belongs(&header) {
            return ChainStep::Bad(bad);
        }
        let written = header.written_bytes();
        if rest.len() < written {
            return ChainStep::More;
        }
        let (at, start) = (self.point.lsn, self.start);
        let checksum = match Batch::parse(rest) {
            Ok(batch) => batch.checksum,
            Err(bad) => return ChainStep::Bad(bad),
        };
        self.linked = true;
        self.point = LogPoint {
            lsn: header.next_lsn(),
            previous_checksum: checksum,
            incarnation: header.incarnation,
        };
        assert!(self.point.lsn > at, "a batch moves the point");
        self.start += written;
        self.skip_bytes = u64::from(header.batch_bytes) - written as u64;
        self.skip();
        // The borrow checker wants the slice anew; the bytes were verified above.
        let batch = &self.fed.bytes()[start..start + written];
        ChainStep::Batch(Batch::parsed(header, checksum, batch))
    }

    /// Whether the batch is the next one of this chain.
    fn belongs(&self, header: &BatchHeader) -> Result<(), BadBatch> {
        let (config, point) = (&self.config, &self.point);
        is_of_log(config, header)?;
        if header.lsn != point.lsn {
            return Err(BadBatch::Position { expected: point.lsn.0, found: header.lsn.0 });
        }
        if header.next_lsn() > self.end_lsn {
            let (offset, found) = (at::BATCH_BYTES as u64, header.batch_bytes.into());
            return Err(BadBatch::Field { offset, found });
        }
        if header.incarnation < point.incarnation {
            let (least, found) = (point.incarnation, header.incarnation);
            return Err(BadBatch::Incarnation { least, found });
        }
        if self.linked && header.previous_checksum != point.previous_checksum {
            let (expected, found) = (point.previous_checksum, header.previous_checksum);
            return Err(BadBatch::Chain { expected, found });
        }
        Ok(())
    }
}

/// Buffers of [`READ_BYTES`] that nobody reads into.
#[derive(Debug, Default)]
pub(crate) struct SpareBufs(Vec<BlockBuf>);

/// A read brings so much, if there is so much: most batches end within it.
const LEAST_BYTES: u64 = 64 << 10;
/// More are given back to the allocator.
const SPARE_BUFS_MAX: usize = 2;

impl SpareBufs {
    pub(crate) fn put(&mut self, buf: BlockBuf) {
        if buf.len() as u64 == READ_BYTES && self.0.len() < SPARE_BUFS_MAX {
            self.0.push(buf);
        }
    }

    fn take(&mut self, bytes: u64) -> BlockBuf {
        let spare = if bytes == READ_BYTES { self.0.pop() } else { None };
        spare.unwrap_or_else(|| BlockBuf::zeroed(bytes as usize / BLOCK_BYTES))
    }
}

/// The log from one of its batches on, whatever came before, read in pieces of at most
/// [`READ_BYTES`] while it is written.
#[derive(Debug)]
pub(crate) struct LogFrom {
    chain: ChainReader,
    /// The position that is asked for next.
    next: Lsn,
}

impl LogFrom {
    /// From the batch at `lsn` on.
    pub(crate) fn batch(config: LogConfig, lsn: Lsn) -> LogFrom {
        LogFrom { chain: ChainReader::entered(config, lsn, Lsn(u64::MAX)), next: lsn }
    }

    /// The read of the next piece of what lies before `durable`; None if all of that was asked for.
    /// It goes as far as `wanted`, if it can; whoever lacks the end of a batch there asks on. What it
    /// brings goes to [`LogFrom::give`], before another is asked for.
    pub(crate) fn read(
        &mut self,
        (wanted, durable): (Lsn, Lsn),
        op: OpId,
        spares: &mut SpareBufs,
    ) -> Option<DiskOp> {
        let config = &self.chain.config;
        let offset_bytes = config.offset_bytes(self.next);
        let before_durable = durable.0.saturating_sub(self.next.0);
        let before_wanted = wanted.0.saturating_sub(self.next.0).max(LEAST_BYTES);
        let in_file = config.capacity_bytes() - offset_bytes;
        let bytes = READ_BYTES.min(before_wanted).min(in_file).min(before_durable);
        if bytes == 0 {
            return None;
        }
        self.next = self.next.after(bytes);
        let buf = spares.take(bytes);
        Some(DiskOp::Read { op, file: ShardFile::Log, offset_bytes, buf })
    }

    pub(crate) fn give(&mut self, buf: BlockBuf, spares: &mut SpareBufs) {
        if let Some(spare) = self.chain.give(buf) {
            spares.put(spare);
        }
    }

    /// Ends the reading.
    pub(crate) fn end(self, spares: &mut SpareBufs) {
        if let Some(spare) = self.chain.fed.into_buf() {
            spares.put(spare);
        }
    }

    /// The next batch of what was fed.
    pub(crate) fn next(&mut self) -> ChainStep<'_> {
        self.chain.next()
    }

    /// Where the next batch begins.
    pub(crate) fn lsn(&self) -> Lsn {
        self.chain.point.lsn
    }

    /// Whether a batch that begins at `lsn` is among what will come anyway, in what was asked for.
    pub(crate) fn brings(&self, lsn: Lsn) -> bool {
        (self.lsn()..self.next).contains(&lsn)
    }
}

/// Whether a header that verifies was written to this log, at the position that it states.
pub(crate) fn is_of_log(config: &LogConfig, header: &BatchHeader) -> Result<(), BadBatch> {
    if header.shard != config.shard || header.log_id != config.log_id {
        return Err(BadBatch::Foreign { shard: header.shard.0, log_id: header.log_id });
    }
    if header.segment != config.segment_of(header.lsn) {
        return Err(BadBatch::Field { offset: at::SEGMENT as u64, found: header.segment });
    }
    let batch_bytes = u64::from(header.batch_bytes);
    let largest = config.largest_batch_bytes().max(BLOCK);
    let too_large = header.written_bytes() as u64 > largest;
    let (end, segment_end) = (header.next_lsn(), config.segment_end(header.lsn));
    let seals = header.kind != BatchKind::Seal || end == segment_end;
    if too_large || end > segment_end || !seals {
        return Err(BadBatch::Field { offset: at::BATCH_BYTES as u64, found: batch_bytes });
    }
    Ok(())
}
