//! The shard's log: every accepted entry of every group on the shard, in one ring of segments.
//!
//! ```text
//!  lsn 0                trim_lsn      durable_lsn   next_lsn
//!   ├──── gone ────────────┼──── needed ────┼─ in flight ─┼─ open batch ─┤
//!
//!  physical offset = lsn mod capacity:
//!   │ segment 0      │ segment 1      │ segment 2      │ … │ segment n-1    │
//!   │[batch][batch]S │[batch][marker] │ (older lap)    │   │                │
//!      └ header | record | record | … | zeros to the next 4 KiB block
//! ```
//!
//! A turn's records share one batch, a batch is one device write on fresh blocks, and up to
//! [`LogConfig::in_flight_max`] batches are in flight. They finish in any order and are
//! acknowledged in order. While all are in flight the open batch grows, so batches are large
//! exactly when load is high.
//!
//! Pieces: [`mod@format`] (bytes), [`member`] (records of replicated groups), [`writer`] (append, seal, acknowledge, trim), `reader` (walks
//! the chain of batches in a stream of bytes), [`recovery`] (finds the end after a crash, and
//! tells a crash tail from damage), [`opening`] (keeps out what was cut there). None of them does I/O: they emit
//! [`DiskOp`](crate::block::DiskOp)s and take [`DiskDone`](crate::block::DiskDone)s.
//!
//! Invariants, asserted where the state changes:
//! * `next_lsn == lsn + batch_bytes`; both are multiples of 4 KiB; a batch never crosses a segment's
//!   end (a seal batch claims what is left of the segment, and only its first block is written);
//! * `trim_lsn <= durable_lsn <= next_lsn <= trim_lsn + capacity`: needed space is never
//!   overwritten;
//! * a record at position p is durable if and only if `durable_lsn > p`;
//! * no acknowledged block is ever rewritten before it is trimmed.
//!
//! A record is never split. One that exceeds the pool's buffers (256 KiB by default; items reach 4
//! MiB in the worst encoding, 400 KB by DynamoDB's own measure) gets a buffer and a batch of its
//! own, so that recovery reads every record in place. The price is an allocation for each such
//! record, at most two of them at a time, and up to one such batch of unused space at a segment's
//! end, which is why a segment holds at least two of the largest batches.
//!
//! Left out: who may trim when (the checkpoint decides, for its groups), and what a record means.

use forebay_core::ids::{Lsn, ShardId};
use forebay_core::limits;

use crate::block::{BLOCK_BYTES, OpId};

pub mod format;
pub mod member;
pub mod opening;
pub(crate) mod reader;
pub mod recovery;
pub mod writer;

#[cfg(test)]
mod tests;

pub use format::{BadBatch, BatchKind, LogRecord, RecordHeader, RecordKind};
pub use member::MemberCreate;
pub use opening::opening_block;
pub use recovery::{
    LogDamage, LogScan, RecoveredLog, ScanError, ScanProgress, ScanStart, ScanStep, TailCut,
};
pub use writer::{AppendError, LogFailed, LogStats, LogWriter, SealedSegment};

/// [`BLOCK_BYTES`] in the log's own arithmetic.
pub(crate) const BLOCK: u64 = BLOCK_BYTES as u64;

/// The size and the limits of one shard's log. All but the last two fields are fixed for the life
/// of its file: the superblock keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Whose log this is.
    pub shard: ShardId,
    /// Drawn at random when the log is created, so that blocks of another cluster's or an earlier
    /// log in the same place are never taken for this one's.
    pub log_id: u64,
    /// Bytes of a segment, the unit of archiving and background verification.
    pub segment_bytes: u64,
    /// Segments in the ring.
    pub segments: u32,
    /// Longest record payload.
    pub record_bytes_max: u32,
    /// Bytes at the end of the ring's free space that only [`LogWriter::append_reserved`],
    /// [`LogWriter::append_keeping`] and markers may use: checkpoints re-append what a group still needs, and must be able to when
    /// clients have filled the log.
    pub reserve_bytes: u64,
    /// Bytes of each pooled batch buffer, and so of a batch, large records aside.
    pub batch_bytes_max: u32,
    /// Batches in flight, 1 to 8. The devices measured gain nothing beyond.
    pub in_flight_max: u32,
}

/// Largest [`LogConfig::in_flight_max`].
pub const IN_FLIGHT_MAX: u32 = 8;

/// Payload of the largest Put: key length, key, and item.
pub const RECORD_BYTES_MAX: usize =
    2 + limits::ENCODED_KEY_BYTES_MAX + limits::ENCODED_ITEM_BYTES_MAX;

/// Smallest segment of a log that takes every record: two of the largest batches.
pub const SEGMENT_BYTES_MIN: u64 =
    2 * format::batch_bytes_for(format::record_bytes(RECORD_BYTES_MAX + format::ORIGIN_BYTES))
        as u64;
/// Largest segment: a batch's length, and a seal claims the rest of one, has 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Fewest segments of any log: one is written, one is needed, one comes free.
const SEGMENTS_MIN_ANY: u32 = 3;
/// Half of the reserve is for copies: of a piece that begins anywhere, of a batch that goes on after
/// it, and of the blocks that their own batches do not fill.
const RUN_PART: u64 = 8;
/// Fewest segments of a log that takes every record and keeps [`LogConfig::standard`]'s reserve.
pub const SEGMENTS_MIN: u32 = 4;
/// Of [`LogConfig::standard`].
const STANDARD_RESERVE_BYTES: u64 = 16 << 20;

const _: () = assert!(SEGMENT_BYTES_MIN.is_multiple_of(BLOCK));
const _: () = assert!(
    STANDARD_RESERVE_BYTES + 2 * SEGMENT_BYTES_MIN <= SEGMENTS_MIN as u64 * SEGMENT_BYTES_MIN,
    "the smallest log leaves clients two segments"
);

/// Why a configuration is refused. Correct it; nothing was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogConfigError {
    /// Segment, buffer and reserve sizes are multiples of the block: round them.
    #[error(
        "log sizes must be multiples of {BLOCK_BYTES} bytes: segment {segment_bytes}, batch {batch_bytes}, reserve {reserve_bytes}"
    )]
    Unaligned {
        /// As configured.
        segment_bytes: u64,
        /// As configured.
        batch_bytes: u32,
        /// As configured.
        reserve_bytes: u64,
    },
    /// A segment holds at least two of the largest batches, and is at most 1 GiB.
    #[error(
        "a log segment of {segment_bytes} bytes must hold two batches of {batch_bytes} bytes and be at most {SEGMENT_BYTES_MAX} bytes"
    )]
    SegmentBytes {
        /// As configured.
        segment_bytes: u64,
        /// The largest batch.
        batch_bytes: u64,
    },
    /// The ring has at least three segments, and the reserve leaves clients at least two of them.
    #[error(
        "a log of {segments} segments with {reserve_bytes} bytes in reserve leaves too little to clients"
    )]
    Segments {
        /// As configured.
        segments: u32,
        /// As configured.
        reserve_bytes: u64,
    },
    /// Out of 1..=8.
    #[error("{in_flight} log batches in flight; choose 1 to {IN_FLIGHT_MAX}")]
    InFlight {
        /// As configured.
        in_flight: u32,
    },
}

impl LogConfig {
    /// The sizes for a real device: 16 segments of 16 MiB, batches up to 256 KiB, 8 in flight.
    #[must_use]
    pub fn standard(shard: ShardId, log_id: u64) -> LogConfig {
        LogConfig {
            shard,
            log_id,
            segment_bytes: 16 << 20,
            segments: 16,
            record_bytes_max: RECORD_BYTES_MAX as u32,
            reserve_bytes: STANDARD_RESERVE_BYTES,
            batch_bytes_max: 256 << 10,
            in_flight_max: IN_FLIGHT_MAX,
        }
    }

    /// Bytes of the log's file.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.segment_bytes * u64::from(self.segments)
    }

    /// Bytes that clients' entries may take; what a log is full of is measured against these.
    #[must_use]
    pub fn client_bytes(&self) -> u64 {
        self.capacity_bytes() - self.reserve_bytes
    }

    /// How much of the log may be read for one entry that left memory: entries of a group are found
    /// from a known place on that lies no farther ahead. A part of the reserve, which must hold all
    /// that is copied from such a piece before any of it is left behind.
    pub(crate) fn run_bytes(&self) -> u64 {
        let part = self.reserve_bytes / RUN_PART / BLOCK * BLOCK;
        part.clamp(BLOCK, recovery::READ_BYTES)
    }

    /// Bytes of a batch that holds the largest record.
    #[must_use]
    pub fn largest_batch_bytes(&self) -> u64 {
        let payload_bytes = self.record_bytes_max as usize + format::ORIGIN_BYTES;
        let large = format::batch_bytes_for(format::record_bytes(payload_bytes));
        (large as u64).max(u64::from(self.batch_bytes_max))
    }

    /// Pool buffers that keep the device busy while the open batch and the next one fill.
    #[must_use]
    pub fn buffers_wanted(&self) -> usize {
        self.in_flight_max as usize + 4
    }

    /// Checks the relations that the log relies on.
    pub fn validate(&self) -> Result<(), LogConfigError> {
        let (segment_bytes, batch_bytes) = (self.segment_bytes, self.batch_bytes_max);
        let reserve_bytes = self.reserve_bytes;
        let aligned = |bytes: u64| bytes.is_multiple_of(BLOCK);
        if !aligned(segment_bytes) || !aligned(batch_bytes.into()) || !aligned(reserve_bytes) {
            return Err(LogConfigError::Unaligned { segment_bytes, batch_bytes, reserve_bytes });
        }
        let largest = self.largest_batch_bytes();
        let record_fits = self.record_bytes_max <= format::PAYLOAD_BYTES_MAX;
        if batch_bytes == 0
            || segment_bytes < 2 * largest
            || segment_bytes > SEGMENT_BYTES_MAX
            || !record_fits
        {
            return Err(LogConfigError::SegmentBytes { segment_bytes, batch_bytes: largest });
        }
        let least = reserve_bytes + 2 * segment_bytes;
        if self.segments < SEGMENTS_MIN_ANY || least > self.capacity_bytes() {
            return Err(LogConfigError::Segments { segments: self.segments, reserve_bytes });
        }
        if !(1..=IN_FLIGHT_MAX).contains(&self.in_flight_max) {
            return Err(LogConfigError::InFlight { in_flight: self.in_flight_max });
        }
        Ok(())
    }

    pub(crate) fn segment_of(&self, lsn: Lsn) -> u64 {
        lsn.0 / self.segment_bytes
    }

    pub(crate) fn segment_end(&self, lsn: Lsn) -> Lsn {
        Lsn((self.segment_of(lsn) + 1) * self.segment_bytes)
    }

    /// Where in the file a position lies.
    #[must_use]
    pub fn offset_bytes(&self, lsn: Lsn) -> u64 {
        lsn.0 % self.capacity_bytes()
    }
}

/// A place between two batches from which the chain can be read: what comes next must say that
/// `previous_checksum` came before it, and be of this incarnation or a later one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPoint {
    /// Where the next batch starts.
    pub lsn: Lsn,
    /// Checksum of the batch that ends here; 0 at the start of a log.
    pub previous_checksum: u32,
    /// Least incarnation of the next batch.
    pub incarnation: u64,
}

/// Numbers of operations, from a base that the shard's store uses to route completions: the upper
/// 16 bits say whose operation it is, the lower 48 which.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpIds {
    base: u64,
    issued: u64,
}

impl OpIds {
    pub(crate) fn new(base: u64) -> OpIds {
        assert_eq!(base << 16, 0, "an operation base uses its upper 16 bits only");
        OpIds { base, issued: 0 }
    }

    pub(crate) fn owns(&self, op: OpId) -> bool {
        op.0 >> 48 == self.base >> 48
    }

    pub(crate) fn issue(&mut self) -> OpId {
        self.issued += 1;
        assert!(self.issued < 1 << 48);
        OpId(self.base | self.issued)
    }
}
