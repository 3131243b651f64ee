//! The opening block: what the log was cut at does not come back.
//!
//! ```text
//!                         P
//!   … │ batch │ batch │ O O . O │ stale │ …     a crash tore O; recovery cuts at P
//!   … │ batch │ batch │ T       │ stale │ …     the opening block, durable before anything is served
//!   … │ batch │ batch │ N N N N │ stale │ …     the next batch takes its place
//! ```
//!
//! **Rule (opening block).** Before a recovered log serves anybody, a block is written at its end P,
//! durably: a header of the new incarnation, without records, that vouches for P and that no chain
//! can go on with, because the checksum that it says came before is the complement of the true one.
//! The next batch overwrites it.
//!
//! Why. Beyond P a stale batch is kept out by its incarnation, which is below that of the batch that
//! will be before it. At P itself there is no such batch: the old one, O, is kept out only by what
//! it lost. So without this block the next batch N would be written over O, be torn by a second crash
//! before its own header landed, and its sectors could be just those that O lacks: zeros of its
//! padding, or the middle of the same large item. O would be whole again after others had been told
//! that it does not exist. With it, the sector at P that a header fits in is T's or N's, whatever
//! crashes; O's is gone.
//!
//! The opening block may itself be torn: its zeros may complete O, or it may not be there at all. Then
//! nobody has been served since the crash that tore O, and the next recovery may find O or not: a
//! recovery cut off at any moment has decided nothing.
//!
//! It is written also where nothing was cut. A failed write may be on the medium (or on one leg of a
//! mirror) where the scan does not see it. It keeps what O's header may have been the only one to
//! say: how far the log was durable, and how high incarnations went. And so every opening leaves its
//! incarnation behind, if nothing else: no two openings have the same, which links and leases rely on.
//!
//! It takes no room in the log, as a marker batch would: a shard that crashes again and again does
//! not use up the reserve that its checkpoint needs. The writer leaves the last block before what is
//! needed free for it, so there is room however full the log. (Writers of before did not. In a ring
//! that they filled to its last block there is no opening block: the block at P is still needed, so no
//! batch was ever begun there, and the incarnation is not left behind.)
//!
//! Left out: whoever writes to a log that was never used needs none of this; nothing is there.

use super::format::{BATCH_HEADER_BYTES, BatchHeader, BatchKind};
use super::{BLOCK, LogConfig, LogPoint};
use crate::block::{BlockBuf, DiskOp, Durability, OpId, ShardFile};
use forebay_core::ids::Lsn;

/// The write of the opening block for a writer that goes on at `point`; None if an earlier version
/// filled the ring to its last block.
#[must_use]
pub fn opening_block(
    config: &LogConfig,
    point: LogPoint,
    trim_lsn: Lsn,
    op: OpId,
) -> Option<DiskOp> {
    if point.lsn.after(BLOCK) > trim_lsn.after(config.capacity_bytes()) {
        return None;
    }
    let mut header = BatchHeader {
        shard: config.shard,
        log_id: config.log_id,
        incarnation: point.incarnation,
        segment: config.segment_of(point.lsn),
        lsn: point.lsn,
        durable_lsn: point.lsn,
        batch_bytes: BLOCK as u32,
        payload_bytes: 0,
        record_count: 0,
        records_checksum: 0,
        previous_checksum: !point.previous_checksum,
        kind: BatchKind::Marker,
    };
    header.records_checksum = header.identity_checksum();
    let mut buf = BlockBuf::zeroed(1);
    let to: &mut [u8; BATCH_HEADER_BYTES] = buf.first_chunk_mut().expect("a block holds a header");
    header.encode(to);
    Some(DiskOp::Write {
        op,
        file: ShardFile::Log,
        offset_bytes: config.offset_bytes(point.lsn),
        bytes: buf.len(),
        buf,
        durability: Durability::Durable,
    })
}

/// Whether a header at the end of the chain is an opening block's: nothing was cut there.
pub(super) fn is_opening(header: &BatchHeader, end: &LogPoint) -> bool {
    header.lsn == end.lsn
        && header.kind == BatchKind::Marker
        && header.previous_checksum == !end.previous_checksum
}
