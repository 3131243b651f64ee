//! Appends to the log: records into the open batch, batches to the device, acknowledgements in order.
//!
//! ```text
//!  append ─> open batch ─(full)─> ready ─┐
//!                └──────(end of turn)────┴─seal─> in flight (at most in_flight_max) ─done─> durable_lsn
//!                                                     │                               │
//!                                   DiskOp::Write{buf}┘         pool of buffers <─────┘
//! ```
//!
//! How a store drives it: [`LogWriter::append`] for each record of a turn, keeping what must wait
//! for it in a queue by the position returned; [`LogWriter::seal`] once at the end of the turn;
//! [`LogWriter::done`] for each completion, after which everything queued below
//! [`LogWriter::durable_lsn`] may go. When a turn found nothing to do and
//! [`LogWriter::needs_marker`], a timer of some milliseconds, and then [`LogWriter::marker`].
//!
//! Bounded memory: the pool's buffers, a few single blocks, and at most two large ones. When none
//! is free the append is refused with [`AppendError::Busy`], before anything changed.
//!
//! **Rule (failed write or flush).** The first failed write is final: the writer accepts nothing,
//! submits nothing, and its `durable_lsn` stands still, also for batches whose writes succeed
//! later. Recovery finds out what is there.

use std::collections::VecDeque;

use forebay_core::ids::Lsn;

use super::format::{
    BATCH_HEADER_BYTES, BatchHeader, BatchKind, RecordHeader, batch_bytes_for, encode_record,
    record_bytes, sum_record,
};
use super::{BLOCK, LogConfig, LogPoint, OpIds, RecoveredLog};
use crate::block::{BlockBuf, DiskDone, DiskOp, Durability, OpId, ShardFile};
use crate::touch::touch_for_write;

/// Batches of one large record each that may wait or be in flight.
const LARGE_BUFFERS_MAX: usize = 2;
/// Bytes of the open batch, after its last record, that are brought near for the next one.
const TOUCHED_BYTES: usize = 320;

/// Why a record was not appended. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The ring is full up to what is still needed: refuse the write, hasten the checkpoint.
    #[error("the log is full: {needed_bytes} bytes needed, {free_bytes} free")]
    Full {
        /// To the end of the record's batch.
        needed_bytes: u64,
        /// Within what this caller may use.
        free_bytes: u64,
    },
    /// Every buffer is full or in flight: seal, and append again after the next completion.
    #[error("all log buffers are in use, with {in_flight} batches in flight")]
    Busy {
        /// Batches that the device has not finished.
        in_flight: usize,
    },
    /// Longer than the log was configured for: refuse the write.
    #[error("a record of {bytes} bytes exceeds the log's limit of {max}")]
    TooLarge {
        /// Of payload.
        bytes: u64,
        /// Configured.
        max: u64,
    },
    /// See [`LogFailed`].
    #[error(transparent)]
    Failed(#[from] LogFailed),
}

/// A write failed, and the log is closed for good: every group on the shard steps down, and the
/// shard serves nothing until it has recovered from the disk. Do not retry; look at the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("writing the log at lsn {lsn} failed (errno {errno}); the shard must recover")]
pub struct LogFailed {
    /// Of the batch.
    pub lsn: Lsn,
    /// The operating system's number for it.
    pub errno: i32,
}

/// What the log did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Records appended.
    pub records: u64,
    /// Of their payloads.
    pub payload_bytes: u64,
    /// Batches submitted, markers and seals included.
    pub batches: u64,
    /// Of those batches on the device; over `payload_bytes`, the log's write amplification.
    pub written_bytes: u64,
    /// Appends refused because no buffer was free.
    pub busy: u64,
    /// Appends refused because the ring was full.
    pub full: u64,
}

/// A segment that will not change before it is trimmed, and how to verify it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    /// `lsn / segment_bytes`.
    pub number: u64,
    /// Where its chain starts.
    pub start: LogPoint,
    /// Where its chain must end.
    pub end: LogPoint,
}

/// Where a batch's buffer comes from and returns to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pool {
    Batch,
    Block,
    Large,
}

/// A batch that could be opened.
struct BatchPlan {
    batch_bytes: usize,
    here: Lsn,
    segment_end: Lsn,
    skip: bool,
    lsn: Lsn,
    pool: Pool,
}

#[derive(Debug)]
struct Pending {
    header: BatchHeader,
    buf: BlockBuf,
    pool: Pool,
    /// Bytes of `buf` in use.
    used: usize,
    /// Where the record begins that has no checksum yet; `used` if all have one.
    unsummed: usize,
    /// Bytes of `buf` that may be used: the segment may end before the buffer.
    room: usize,
}

#[derive(Debug)]
struct InFlight {
    op: OpId,
    lsn: Lsn,
    /// The log's point once this batch is durable.
    after: LogPoint,
    pool: Pool,
    finished: bool,
}

impl Pending {
    /// Gives the last record its checksum. Reading bytes just written waits until the processor has
    /// brought their lines from memory, so this is done one record later: measured, 60 of the
    /// 950 ns that a Put of 100 bytes cost.
    #[inline]
    fn sum_last(&mut self) {
        if self.unsummed < self.used {
            let record = &mut self.buf[self.unsummed..self.used];
            self.header.records_checksum = sum_record(record, self.header.records_checksum);
            self.unsummed = self.used;
        }
    }
}

/// The log's writing end. See the module's page.
#[derive(Debug)]
pub struct LogWriter {
    config: LogConfig,
    ops: OpIds,
    incarnation: u64,
    /// Everything below is not needed any more.
    trim_lsn: Lsn,
    /// Where the next submitted batch starts, and what comes before it.
    submitted: LogPoint,
    durable: LogPoint,
    /// End of the last batch that was closed; submitted or ready.
    closed_lsn: Lsn,
    open: Option<Pending>,
    ready: VecDeque<Pending>,
    in_flight: VecDeque<InFlight>,
    batch_buffers: Vec<BlockBuf>,
    block_buffers: Vec<BlockBuf>,
    large_buffers: usize,
    /// Starts of segments, oldest first, the one being written included.
    segments: VecDeque<LogPoint>,
    /// The last batch submitted was a marker, or there never was one.
    marked: bool,
    failed: Option<LogFailed>,
    stats: LogStats,
}

impl LogWriter {
    /// Goes on where recovery ended. Everything below `trim_lsn` may be overwritten.
    ///
    /// `op_base` marks this log's operations (see [`LogWriter::owns`]). The buffers are of
    /// [`LogConfig::batch_bytes_max`] bytes each, [`LogConfig::buffers_wanted`] of them; the caller
    /// may have registered them with its ring.
    #[must_use]
    pub fn new(
        config: LogConfig,
        recovered: &RecoveredLog,
        trim_lsn: Lsn,
        op_base: u64,
        buffers: Vec<BlockBuf>,
    ) -> LogWriter {
        config.validate().expect("a log's configuration is validated when it is read");
        assert!(!buffers.is_empty(), "a log needs buffers");
        for buf in &buffers {
            assert_eq!(buf.len(), config.batch_bytes_max as usize);
        }
        let point = recovered.point;
        assert!(trim_lsn <= point.lsn && point.lsn.0 - trim_lsn.0 <= config.capacity_bytes());
        let mut segments: VecDeque<LogPoint> =
            VecDeque::with_capacity(config.segments as usize + 2);
        segments.extend(recovered.segments.iter());
        let starts_here = point.lsn.0.is_multiple_of(config.segment_bytes);
        if starts_here && segments.back().is_none_or(|start| start.lsn < point.lsn) {
            segments.push_back(point);
        }
        let blocks = config.in_flight_max as usize + 1;
        LogWriter {
            config,
            ops: OpIds::new(op_base),
            incarnation: point.incarnation,
            trim_lsn,
            submitted: point,
            durable: point,
            closed_lsn: point.lsn,
            open: None,
            ready: VecDeque::with_capacity(buffers.len() + blocks + LARGE_BUFFERS_MAX),
            in_flight: VecDeque::with_capacity(config.in_flight_max as usize),
            batch_buffers: buffers,
            block_buffers: (0..blocks).map(|_| BlockBuf::zeroed(1)).collect(),
            large_buffers: 0,
            segments,
            marked: recovered.ends_with_marker,
            failed: None,
            stats: LogStats::default(),
        }
    }

    /// Copies a record, its payload given in parts, into the open batch. It is durable when
    /// [`LogWriter::durable_lsn`] is above the position returned; positions only grow.
    #[inline]
    pub fn append(&mut self, record: &RecordHeader, parts: &[&[u8]]) -> Result<Lsn, AppendError> {
        self.append_below(self.client_limit(), record, parts)
    }

    /// As [`LogWriter::append`], into the reserve if need be: for what a checkpoint re-appends, so
    /// that a log full of clients' records can still be emptied.
    pub fn append_reserved(
        &mut self,
        record: &RecordHeader,
        parts: &[&[u8]],
    ) -> Result<Lsn, AppendError> {
        self.append_below(self.limit(), record, parts)
    }

    /// As [`LogWriter::append_reserved`], but the last `kept_bytes` of the reserve stay free.
    pub fn append_keeping(
        &mut self,
        kept_bytes: u64,
        record: &RecordHeader,
        parts: &[&[u8]],
    ) -> Result<Lsn, AppendError> {
        assert!(kept_bytes <= self.config.reserve_bytes);
        self.append_below(Lsn(self.limit().0.saturating_sub(kept_bytes)), record, parts)
    }

    /// Whether [`LogWriter::append`] would take a record of this many bytes of payload now.
    #[inline]
    pub fn check_room(&self, payload_bytes: usize) -> Result<(), AppendError> {
        if let Some(failed) = self.failed {
            return Err(failed.into());
        }
        let limit = self.client_limit();
        let bytes = record_bytes(payload_bytes);
        if let Some(open) = &self.open
            && open.used + bytes <= open.room
        {
            let end = open.header.lsn.after(padded(open.used + bytes));
            return if end > limit { Err(self.full(end, limit)) } else { Ok(()) };
        }
        self.check_batch(bytes, limit).map(|_| ())
    }

    #[inline]
    fn append_below(
        &mut self,
        limit: Lsn,
        record: &RecordHeader,
        parts: &[&[u8]],
    ) -> Result<Lsn, AppendError> {
        assert!(record.kind.0 != 0, "kind 0 names no record");
        if let Some(failed) = self.failed {
            return Err(failed.into());
        }
        let payload_bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        if payload_bytes > self.config.record_bytes_max as usize {
            let (bytes, max) = (payload_bytes as u64, self.config.record_bytes_max.into());
            return Err(AppendError::TooLarge { bytes, max });
        }
        let payload_bytes = payload_bytes + record.origin_bytes();
        let bytes = record_bytes(payload_bytes);
        let fits = match &self.open {
            Some(open) if open.used + bytes <= open.room => {
                let end = open.header.lsn.after(padded(open.used + bytes));
                if end > limit {
                    self.stats.full += 1;
                    return Err(self.full(end, limit));
                }
                true
            }
            _ => false,
        };
        if !fits {
            self.open_batch(bytes, limit)?;
        }
        let open = self.open.as_mut().expect("a batch is open");
        let lsn = open.header.lsn.after(open.used as u64);
        let to = &mut open.buf[open.used..open.used + bytes];
        encode_record(to, record, parts, payload_bytes);
        open.sum_last();
        open.header.record_count += 1;
        open.used += bytes;
        let next = open.used..open.room.min(open.used + TOUCHED_BYTES);
        touch_for_write(&open.buf[next]);
        self.stats.records += 1;
        self.stats.payload_bytes += payload_bytes as u64;
        Ok(lsn)
    }

    /// Closes the open batch, skips to the next segment if this one is too short, and opens a
    /// batch with room for a record of `bytes`. Changes nothing unless all of it is possible.
    #[cold]
    fn open_batch(&mut self, bytes: usize, limit: Lsn) -> Result<(), AppendError> {
        let plan = self.check_batch(bytes, limit).inspect_err(|refused| match refused {
            AppendError::Full { .. } => self.stats.full += 1,
            _ => self.stats.busy += 1,
        });
        let BatchPlan { batch_bytes, here, segment_end, skip, lsn, pool } = plan?;

        self.close_batch();
        if skip {
            let seal = self.empty_batch(BatchKind::Seal, segment_end.0 - here.0);
            self.closed_lsn = seal.header.next_lsn();
            self.ready.push_back(seal);
        }
        let buf = match pool {
            Pool::Large => {
                self.large_buffers += 1;
                BlockBuf::zeroed(batch_bytes / BLOCK as usize)
            }
            _ => self.batch_buffers.pop().expect("a free buffer was seen"),
        };
        let header = self.header(BatchKind::Data, 0);
        let left = self.config.segment_end(lsn).0 - lsn.0;
        let room = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        assert!(header.lsn == lsn && room >= batch_bytes);
        self.open = Some(Pending {
            header,
            buf,
            pool,
            used: BATCH_HEADER_BYTES,
            unsummed: BATCH_HEADER_BYTES,
            room,
        });
        Ok(())
    }

    /// Where a new batch for a record of `bytes` would go, if there is room and a buffer for it.
    fn check_batch(&self, bytes: usize, limit: Lsn) -> Result<BatchPlan, AppendError> {
        let batch_bytes = batch_bytes_for(bytes);
        let here = self.end_lsn();
        let segment_end = self.config.segment_end(here);
        let skip = here.after(batch_bytes as u64) > segment_end;
        let lsn = if skip { segment_end } else { here };
        let end = lsn.after(batch_bytes as u64);
        if end > limit {
            return Err(self.full(end, limit));
        }
        let large = batch_bytes > self.config.batch_bytes_max as usize;
        let pool = if large { Pool::Large } else { Pool::Batch };
        let buffer_free = match pool {
            Pool::Large => self.large_buffers < LARGE_BUFFERS_MAX,
            _ => !self.batch_buffers.is_empty(),
        };
        if !buffer_free || skip && self.block_buffers.is_empty() {
            return Err(AppendError::Busy { in_flight: self.in_flight.len() });
        }
        Ok(BatchPlan { batch_bytes, here, segment_end, skip, lsn, pool })
    }

    /// The open batch, if any, is complete: zeros to its last block's end, and a place in the line.
    fn close_batch(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        assert!(open.header.record_count > 0, "a batch is opened for a record");
        open.sum_last();
        let written = padded(open.used) as usize;
        open.buf[open.used..written].fill(0);
        open.header.payload_bytes = (open.used - BATCH_HEADER_BYTES) as u32;
        open.header.batch_bytes = written as u32;
        self.closed_lsn = open.header.next_lsn();
        self.ready.push_back(open);
    }

    /// A batch of one block without records.
    fn empty_batch(&mut self, kind: BatchKind, batch_bytes: u64) -> Pending {
        let mut buf = self.block_buffers.pop().expect("a free block was seen");
        buf.fill(0);
        let batch_bytes = u32::try_from(batch_bytes).expect("a segment is at most 1 GiB");
        let header = self.header(kind, batch_bytes);
        Pending {
            header,
            buf,
            pool: Pool::Block,
            used: BATCH_HEADER_BYTES,
            unsummed: BATCH_HEADER_BYTES,
            room: BLOCK as usize,
        }
    }

    /// The header of a batch at the end of the closed ones. What is known only at submission is
    /// filled in then.
    fn header(&self, kind: BatchKind, batch_bytes: u32) -> BatchHeader {
        let mut header = BatchHeader {
            shard: self.config.shard,
            log_id: self.config.log_id,
            incarnation: self.incarnation,
            segment: self.config.segment_of(self.closed_lsn),
            lsn: self.closed_lsn,
            durable_lsn: Lsn(0),
            batch_bytes,
            payload_bytes: 0,
            record_count: 0,
            records_checksum: 0,
            previous_checksum: 0,
            kind,
        };
        header.records_checksum = header.identity_checksum();
        header
    }

    /// The end of a turn: hands out the batches that the device may have now. Call it once per
    /// turn, and in turns that only brought completions too.
    pub fn seal(&mut self, out: &mut Vec<DiskOp>) {
        if self.failed.is_some() {
            return;
        }
        while self.in_flight.len() < self.config.in_flight_max as usize {
            if self.ready.is_empty() {
                self.close_batch();
            }
            let Some(batch) = self.ready.pop_front() else { return };
            out.push(self.submit(batch));
        }
    }

    fn submit(&mut self, mut batch: Pending) -> DiskOp {
        let header = &mut batch.header;
        assert_eq!(header.lsn, self.submitted.lsn, "batches are submitted in order");
        header.durable_lsn = self.durable.lsn;
        header.previous_checksum = self.submitted.previous_checksum;
        let to = batch.buf.first_chunk_mut().expect("a buffer holds a batch header");
        let checksum = header.encode(to);
        let next = header.next_lsn();
        assert!(next <= self.limit(), "needed space is never overwritten");
        assert!(next <= self.config.segment_end(header.lsn), "a batch stays in its segment");
        self.submitted =
            LogPoint { lsn: next, previous_checksum: checksum, incarnation: self.incarnation };
        if next.0.is_multiple_of(self.config.segment_bytes) {
            self.segments.push_back(self.submitted);
        }
        while self.segments.front().is_some_and(|start| !self.still_holds(start.lsn)) {
            self.segments.pop_front();
        }
        self.marked = header.kind == BatchKind::Marker;
        let bytes = header.written_bytes();
        self.stats.batches += 1;
        self.stats.written_bytes += bytes as u64;
        let op = self.ops.issue();
        let (lsn, pool) = (header.lsn, batch.pool);
        self.in_flight.push_back(InFlight {
            op,
            lsn,
            after: self.submitted,
            pool,
            finished: false,
        });
        DiskOp::Write {
            op,
            file: ShardFile::Log,
            offset_bytes: self.config.offset_bytes(lsn),
            buf: batch.buf,
            bytes,
            durability: Durability::Durable,
        }
    }

    /// Takes the end of one of this log's writes and returns the durable position.
    pub fn done(&mut self, done: DiskDone) -> Result<Lsn, LogFailed> {
        let at = self.in_flight.iter().position(|batch| batch.op == done.op);
        let at = at.expect("a completion belongs to a batch in flight");
        let batch = &mut self.in_flight[at];
        assert!(!batch.finished, "a batch completes once");
        batch.finished = true;
        let buf = done.buf.expect("a write returns its buffer");
        match batch.pool {
            Pool::Batch => self.batch_buffers.push(buf),
            Pool::Block => self.block_buffers.push(buf),
            Pool::Large => self.large_buffers -= 1,
        }
        if let (Err(error), None) = (done.result, self.failed) {
            self.failed = Some(LogFailed { lsn: batch.lsn, errno: error.errno });
        }
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        while self.in_flight.front().is_some_and(|batch| batch.finished) {
            let batch = self.in_flight.pop_front().expect("there is a front");
            assert!(batch.after.lsn > self.durable.lsn, "durable_lsn only grows");
            self.durable = batch.after;
        }
        Ok(self.durable.lsn)
    }

    /// Whether the last batch could be mistaken for a crash tail: everything is durable, and no
    /// marker says so yet. Write one when the shard stays idle, or before it closes.
    #[must_use]
    pub fn needs_marker(&self) -> bool {
        self.failed.is_none() && self.is_idle() && !self.marked
    }

    /// Hands out a marker batch if one is needed and there is room for it.
    pub fn marker(&mut self, out: &mut Vec<DiskOp>) -> bool {
        let room = self.end_lsn().after(BLOCK) <= self.limit();
        if !self.needs_marker() || !room || self.block_buffers.is_empty() {
            return false;
        }
        let marker = self.empty_batch(BatchKind::Marker, BLOCK);
        self.closed_lsn = marker.header.next_lsn();
        out.push(self.submit(marker));
        true
    }

    /// Nothing is open, waiting or in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.is_none() && self.ready.is_empty() && self.in_flight.is_empty()
    }

    /// Gives the space below `lsn` free: no checkpoint that could still be used needs it.
    pub fn trim_to(&mut self, lsn: Lsn) {
        assert!(lsn >= self.trim_lsn, "trimming goes forward");
        assert!(lsn <= self.durable.lsn, "what is not durable is needed");
        self.trim_lsn = lsn;
    }

    /// Segments wholly on the device, oldest first: work for the background verifier and the
    /// archive. They stay in place, trimmed or not, until the ring comes round to them; see
    /// [`LogWriter::still_holds`]. Segments from before the last recovery's start are not listed.
    pub fn sealed_segments(&self) -> impl Iterator<Item = SealedSegment> + '_ {
        let starts = self.segments.iter().zip(self.segments.iter().skip(1));
        starts.filter(|(_, end)| end.lsn <= self.durable.lsn).map(|(start, end)| SealedSegment {
            number: self.config.segment_of(start.lsn),
            start: *start,
            end: *end,
        })
    }

    /// Whether the bytes from `lsn` on are still what was written there: nothing newer was
    /// submitted over them. A background reader's mismatch counts only if this held afterwards.
    #[must_use]
    pub fn still_holds(&self, lsn: Lsn) -> bool {
        self.submitted.lsn.0 <= lsn.0 + self.config.capacity_bytes()
    }

    /// Whether an operation is this log's, by the base it was created with.
    #[must_use]
    pub fn owns(&self, op: OpId) -> bool {
        self.ops.owns(op)
    }

    /// Everything below is durable.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.durable.lsn
    }

    /// From where a log read could go on if everything durable were known: what a checkpoint of
    /// all durable records stores in its superblock.
    #[must_use]
    pub fn durable_point(&self) -> LogPoint {
        LogPoint { incarnation: self.incarnation, ..self.durable }
    }

    /// End of everything appended, padding included.
    #[must_use]
    pub fn end_lsn(&self) -> Lsn {
        match &self.open {
            Some(open) => open.header.lsn.after(padded(open.used)),
            None => self.closed_lsn,
        }
    }

    /// Where the batch begins that the newest record is in.
    #[must_use]
    pub fn batch_lsn(&self) -> Lsn {
        self.open.as_ref().map_or(self.closed_lsn, |open| open.header.lsn)
    }

    /// Bytes that may still be appended with [`LogWriter::append_reserved`].
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        self.limit().0.saturating_sub(self.end_lsn().0)
    }

    /// Everything below may be overwritten.
    #[must_use]
    pub fn trim_lsn(&self) -> Lsn {
        self.trim_lsn
    }

    /// Bytes that clients' batches may still take, for admission. Skipping to the next segment
    /// costs up to one batch more than the records themselves.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.client_limit().0.saturating_sub(self.end_lsn().0)
    }

    /// Batches that the device has.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.iter().filter(|batch| !batch.finished).count()
    }

    /// Bytes appended that the device has not been given yet.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        self.end_lsn().0 - self.submitted.lsn.0
    }

    /// Of this writer.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// The failure that closed the log, if one did.
    #[must_use]
    pub fn failed(&self) -> Option<LogFailed> {
        self.failed
    }

    /// What the log did since it was opened.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        self.stats
    }

    /// First position that may not be written. The last block before what is needed stays free: it
    /// is the next opening's ([`opening`](super::opening)).
    fn limit(&self) -> Lsn {
        self.trim_lsn.after(self.config.capacity_bytes() - BLOCK)
    }

    fn client_limit(&self) -> Lsn {
        self.trim_lsn.after(self.config.client_bytes()).min(self.limit())
    }

    #[cold]
    fn full(&self, end: Lsn, limit: Lsn) -> AppendError {
        let here = self.end_lsn();
        AppendError::Full {
            needed_bytes: end.0 - here.0,
            free_bytes: limit.0.saturating_sub(here.0),
        }
    }
}

fn padded(bytes: usize) -> u64 {
    bytes.next_multiple_of(BLOCK as usize) as u64
}
