//! The log's bytes: batch header, record header, and the payloads of Put and Delete.
//!
//! # Batch
//! A batch starts on a 4 KiB block. Integers are little-endian.
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 8 | magic | `FBLOGBAT` |
//! | 8 | 4 | checksum | CRC-32 of bytes 12 to 80; the batch's identity in the chain |
//! | 12 | 2 | version | 1 |
//! | 14 | 2 | shard | whose log |
//! | 16 | 8 | log_id | random, fixed when the log was created |
//! | 24 | 8 | incarnation | raised by every recovery |
//! | 32 | 8 | segment | `lsn / segment_bytes` |
//! | 40 | 8 | lsn | position of this header |
//! | 48 | 8 | durable_lsn | as known when the batch was submitted; at most lsn |
//! | 56 | 4 | batch_bytes | to the next batch; a multiple of 4096 |
//! | 60 | 4 | payload_bytes | of records, after the header |
//! | 64 | 4 | record_count | |
//! | 68 | 4 | records_checksum | running CRC after the last record |
//! | 72 | 4 | previous_checksum | checksum of the batch before; 0 for the first |
//! | 76 | 1 | kind | 1 data, 2 marker, 3 segment seal |
//! | 77 | 3 | zero | |
//! | 80 | payload_bytes | records | |
//! | | | zeros | to the next multiple of 4096 |
//!
//! Magic, checksum and version keep their places in every later version, and the checksum its
//! range, so that a program recognises a batch newer than itself and does not take it for a tail.
//!
//! # Record
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | checksum | running CRC, see below |
//! | 4 | 3 | payload_bytes | without padding |
//! | 7 | 1 | kind | see [`RecordKind`]; bit 7: the origin stands before the payload |
//! | 8 | 8 | group | whose entry |
//! | 16 | 8 | slot | index in the group's log |
//! | 24 | 8 | ballot | under which it was accepted |
//! | 32 | 8, if bit 7 of kind | origin | under which it was proposed first, where that is not `ballot`; counted in payload_bytes |
//! | | payload_bytes | payload | |
//! | | 0-7 | zeros | to the next multiple of 8 |
//!
//! # One pass of CRC, and nothing outside it
//! The CRC runs through a batch once: it starts with bytes 12 to 48 of the header (version, shard,
//! log, incarnation, segment, lsn) and goes through each record from offset 4 to its end. Each
//! record stores the running value, which therefore binds the record to shard, log, incarnation,
//! segment, group and position; the header stores the last value, and the header's own checksum
//! covers it. So a flipped bit is found wherever it falls: in a record's bytes or its padding, by
//! that record's checksum; in a record's checksum, by comparison; in the header, by the header's
//! checksum; in the tail's zeros, because they must be zero. And the header's checksum, which the
//! next batch repeats, names everything in the batch. Nothing is summed twice: sealing costs 68
//! bytes of CRC and the zeroing of less than one block.
//!
//! CRC-32 finds every error of one burst up to 32 bits and misses others once in 2^32; it is a
//! guard against devices, not against forgers. That a *stale* batch never counts rests on exact
//! comparisons (log_id, lsn, incarnation) besides the chain.

use forebay_core::ids::{Ballot, GroupId, Lsn, ShardId, Slot};

use crate::block::BLOCK_BYTES;

/// First bytes of every batch.
pub const MAGIC: [u8; 8] = *b"FBLOGBAT";
/// Version that this program writes, and the latest that it reads.
pub const VERSION: u16 = 1;
/// Bytes before the first record.
pub const BATCH_HEADER_BYTES: usize = 80;
/// Bytes before a record's payload.
pub const RECORD_HEADER_BYTES: usize = 32;
/// What the 3-byte length can say.
pub const PAYLOAD_BYTES_MAX: u32 = (1 << 24) - 1;
const RECORD_ALIGN: usize = 8;
/// Of an origin that stands before the payload.
pub const ORIGIN_BYTES: usize = 8;
/// Of the kind's byte: it does.
const ORIGIN_FLAG: u8 = 0x80;

/// Offsets in the batch header.
pub(super) mod at {
    pub(in crate::log) const MAGIC: usize = 0;
    pub(in crate::log) const CHECKSUM: usize = 8;
    pub(in crate::log) const VERSION: usize = 12;
    pub(in crate::log) const SHARD: usize = 14;
    pub(in crate::log) const LOG_ID: usize = 16;
    pub(in crate::log) const INCARNATION: usize = 24;
    pub(in crate::log) const SEGMENT: usize = 32;
    pub(in crate::log) const LSN: usize = 40;
    pub(in crate::log) const DURABLE_LSN: usize = 48;
    pub(in crate::log) const BATCH_BYTES: usize = 56;
    pub(in crate::log) const PAYLOAD_BYTES: usize = 60;
    pub(in crate::log) const RECORD_COUNT: usize = 64;
    pub(in crate::log) const RECORDS_CHECKSUM: usize = 68;
    pub(in crate::log) const PREVIOUS_CHECKSUM: usize = 72;
    pub(in crate::log) const KIND: usize = 76;
    pub(in crate::log) const ZERO: usize = 77;
}

const _: () = {
    assert!(at::CHECKSUM == at::MAGIC + 8 && at::VERSION == at::CHECKSUM + 4);
    assert!(at::SHARD == at::VERSION + 2 && at::LOG_ID == at::SHARD + 2);
    assert!(at::INCARNATION == at::LOG_ID + 8 && at::SEGMENT == at::INCARNATION + 8);
    assert!(at::LSN == at::SEGMENT + 8 && at::DURABLE_LSN == at::LSN + 8);
    assert!(at::BATCH_BYTES == at::DURABLE_LSN + 8 && at::PAYLOAD_BYTES == at::BATCH_BYTES + 4);
    assert!(at::RECORD_COUNT == at::PAYLOAD_BYTES + 4);
    assert!(at::RECORDS_CHECKSUM == at::RECORD_COUNT + 4);
    assert!(at::PREVIOUS_CHECKSUM == at::RECORDS_CHECKSUM + 4);
    assert!(at::KIND == at::PREVIOUS_CHECKSUM + 4 && at::ZERO == at::KIND + 1);
    assert!(BATCH_HEADER_BYTES == at::ZERO + 3);
    assert!(BATCH_HEADER_BYTES.is_multiple_of(RECORD_ALIGN));
    assert!(RECORD_HEADER_BYTES.is_multiple_of(RECORD_ALIGN));
    assert!(super::RECORD_BYTES_MAX <= PAYLOAD_BYTES_MAX as usize);
};

/// What a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchKind {
    /// Records.
    Data,
    /// Nothing but its `durable_lsn`: written when a shard falls idle or closes.
    Marker,
    /// Claims the rest of a segment, because the next batch does not fit there.
    Seal,
}

impl BatchKind {
    fn code(self) -> u8 {
        match self {
            BatchKind::Data => 1,
            BatchKind::Marker => 2,
            BatchKind::Seal => 3,
        }
    }
}

/// What a record says. The log carries kinds that it does not know: the store defines them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKind(pub u8);

impl RecordKind {
    /// The item under a key; payload: see [`PutPayload`].
    pub const PUT: RecordKind = RecordKind(1);
    /// A key without an item from now on; payload: the key.
    pub const DELETE: RecordKind = RecordKind(2);
    /// A group begins here.
    pub const GROUP_CREATE: RecordKind = RecordKind(3);
    /// A group is gone from this shard.
    pub const GROUP_DROP: RecordKind = RecordKind(4);
    /// Of a replicated group: every slot up to this one is chosen. No payload; see
    /// [`super::member`] for this and the kinds below.
    pub const CHOSEN: RecordKind = RecordKind(5);
    /// Replicas freeze here and compare content digests.
    pub const DIGEST_MARK: RecordKind = RecordKind(6);
    /// An entry that changes nothing: a leader's first. No payload.
    pub const NO_OP: RecordKind = RecordKind(7);
    /// An entry that changes the membership; payload: the configuration.
    pub const CONFIGURATION: RecordKind = RecordKind(8);
    /// The member accepts nothing below this ballot from now on. No payload.
    pub const PROMISE: RecordKind = RecordKind(9);
    /// The member's part of the log begins after this slot; payload: the configuration in force.
    pub const BASE: RecordKind = RecordKind(10);
    /// A member of a replicated group begins here; payload: see [`super::member::MemberCreate`].
    pub const MEMBER_CREATE: RecordKind = RecordKind(11);
}

/// A record's fields, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What it says.
    pub kind: RecordKind,
    /// Whose entry it is.
    pub group: GroupId,
    /// Index in the group's log.
    pub slot: Slot,
    /// Under which it was accepted.
    pub ballot: Ballot,
    /// Under which it was proposed for the first time; of what is no entry, as `ballot`.
    pub origin: Ballot,
}

impl RecordHeader {
    /// Bytes that stand before the payload: where an entry was proposed again by a later lead.
    #[must_use]
    pub fn origin_bytes(&self) -> usize {
        if self.origin == self.ballot { 0 } else { ORIGIN_BYTES }
    }
}

/// A verified record, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// Its position; durable when `durable_lsn` is above.
    pub lsn: Lsn,
    /// Its fields.
    pub header: RecordHeader,
    /// Its payload.
    pub payload: &'a [u8],
}

/// Why bytes are not the batch they should be. Whether that is a crash tail or damage is for
/// [`recovery`](super::recovery) to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBatch {
    /// Not a batch at all, or its first bytes are lost.
    #[error("no batch starts here (first bytes {found:#018x})")]
    Magic {
        /// The first eight bytes.
        found: u64,
    },
    /// Shorter than a block, or than its header says.
    #[error("batch of {needed} bytes, of which {found} are here")]
    Truncated {
        /// Bytes that must be there.
        needed: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// The header's bytes are not those that were written.
    #[error("batch header checksum {found:#010x}, its bytes give {computed:#010x}")]
    HeaderChecksum {
        /// Stored.
        found: u32,
        /// Computed.
        computed: u32,
    },
    /// Written by a later program: run that one. Never treated as a crash tail.
    #[error("batch of format version {found}; this program reads up to {VERSION}")]
    Version {
        /// Stored.
        found: u16,
    },
    /// The header contradicts itself, although its checksum is right.
    #[error("batch header field at offset {offset} has the impossible value {found}")]
    Field {
        /// Which field.
        offset: u64,
        /// Its value.
        found: u64,
    },
    /// Another shard's or another log's batch.
    #[error("batch of shard {shard}, log {log_id:#x}")]
    Foreign {
        /// Stored.
        shard: u16,
        /// Stored.
        log_id: u64,
    },
    /// A batch of an earlier lap, or a misdirected one.
    #[error("batch of lsn {found} where {expected} should be")]
    Position {
        /// Where it was read.
        expected: u64,
        /// Stored.
        found: u64,
    },
    /// A stale batch: written before a recovery that cut the log before it.
    #[error("batch of incarnation {found}, at least {least} expected")]
    Incarnation {
        /// Least possible.
        least: u64,
        /// Stored.
        found: u64,
    },
    /// The batch follows another one than the one before it.
    #[error("batch follows checksum {found:#010x}, but {expected:#010x} is before it")]
    Chain {
        /// Checksum of the batch before.
        expected: u32,
        /// Stored.
        found: u32,
    },
    /// A record's bytes are not those that were written.
    #[error(
        "record at byte {offset} of the batch has checksum {found:#010x}, its bytes give {computed:#010x}"
    )]
    RecordChecksum {
        /// From the batch's start.
        offset: u64,
        /// Stored.
        found: u32,
        /// Computed.
        computed: u32,
    },
    /// Records do not fill the payload that the header states.
    #[error("records end at byte {offset} of the batch, {expected} expected")]
    Records {
        /// Where decoding stopped.
        offset: u64,
        /// Where it should have.
        expected: u64,
    },
    /// Something other than zeros after the last record.
    #[error("bytes after the last record, at byte {offset} of the batch, are not zero")]
    Padding {
        /// Where the padding starts.
        offset: u64,
    },
}

/// A batch header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Whose log.
    pub shard: ShardId,
    /// Which log.
    pub log_id: u64,
    /// Of the writer.
    pub incarnation: u64,
    /// `lsn / segment_bytes`.
    pub segment: u64,
    /// Position of the header.
    pub lsn: Lsn,
    /// Known when the batch was submitted.
    pub durable_lsn: Lsn,
    /// To the next batch.
    pub batch_bytes: u32,
    /// Of records.
    pub payload_bytes: u32,
    /// Of records.
    pub record_count: u32,
    /// Running CRC after the last record.
    pub records_checksum: u32,
    /// Of the batch before.
    pub previous_checksum: u32,
    /// What the batch is for.
    pub kind: BatchKind,
}

impl BatchHeader {
    /// Bytes that the device holds of this batch; a seal claims more than it writes.
    #[must_use]
    pub fn written_bytes(&self) -> usize {
        batch_bytes_for(self.payload_bytes as usize)
    }

    /// Where the next batch starts.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.lsn.after(self.batch_bytes.into())
    }

    /// What the running CRC starts with: everything that says whose and where the batch is.
    #[must_use]
    pub fn identity_checksum(&self) -> u32 {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        self.put_identity(&mut bytes);
        crc32fast::hash(&bytes[at::VERSION..at::DURABLE_LSN])
    }

    fn put_identity(&self, to: &mut [u8; BATCH_HEADER_BYTES]) {
        put(to, at::VERSION, VERSION.to_le_bytes());
        put(to, at::SHARD, self.shard.0.to_le_bytes());
        put(to, at::LOG_ID, self.log_id.to_le_bytes());
        put(to, at::INCARNATION, self.incarnation.to_le_bytes());
        put(to, at::SEGMENT, self.segment.to_le_bytes());
        put(to, at::LSN, self.lsn.0.to_le_bytes());
    }

    /// Writes the header and returns its checksum.
    pub fn encode(&self, to: &mut [u8; BATCH_HEADER_BYTES]) -> u32 {
        put(to, at::MAGIC, MAGIC);
        self.put_identity(to);
        put(to, at::DURABLE_LSN, self.durable_lsn.0.to_le_bytes());
        put(to, at::BATCH_BYTES, self.batch_bytes.to_le_bytes());
        put(to, at::PAYLOAD_BYTES, self.payload_bytes.to_le_bytes());
        put(to, at::RECORD_COUNT, self.record_count.to_le_bytes());
        put(to, at::RECORDS_CHECKSUM, self.records_checksum.to_le_bytes());
        put(to, at::PREVIOUS_CHECKSUM, self.previous_checksum.to_le_bytes());
        put(to, at::KIND, [self.kind.code()]);
        put(to, at::ZERO, [0; 3]);
        let checksum = crc32fast::hash(&to[at::VERSION..]);
        put(to, at::CHECKSUM, checksum.to_le_bytes());
        checksum
    }

    /// Reads a header that stands alone, and its checksum. What it says about itself is checked;
    /// whether it belongs here is not.
    pub fn decode(bytes: &[u8]) -> Result<(BatchHeader, u32), BadBatch> {
        let Some(from) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            let (needed, found) = (BATCH_HEADER_BYTES as u64, bytes.len() as u64);
            return Err(BadBatch::Truncated { needed, found });
        };
        if get(from, at::MAGIC) != MAGIC {
            return Err(BadBatch::Magic { found: u64::from_be_bytes(get(from, at::MAGIC)) });
        }
        let found = u32::from_le_bytes(get(from, at::CHECKSUM));
        let computed = crc32fast::hash(&from[at::VERSION..]);
        if found != computed {
            return Err(BadBatch::HeaderChecksum { found, computed });
        }
        let version = u16::from_le_bytes(get(from, at::VERSION));
        if version > VERSION {
            return Err(BadBatch::Version { found: version });
        }
        let impossible =
            |offset: usize, found: u64| BadBatch::Field { offset: offset as u64, found };
        if version == 0 {
            return Err(impossible(at::VERSION, 0));
        }
        let [kind] = get(from, at::KIND);
        let header = BatchHeader {
            shard: ShardId(u16::from_le_bytes(get(from, at::SHARD))),
            log_id: u64::from_le_bytes(get(from, at::LOG_ID)),
            incarnation: u64::from_le_bytes(get(from, at::INCARNATION)),
            segment: u64::from_le_bytes(get(from, at::SEGMENT)),
            lsn: Lsn(u64::from_le_bytes(get(from, at::LSN))),
            durable_lsn: Lsn(u64::from_le_bytes(get(from, at::DURABLE_LSN))),
            batch_bytes: u32::from_le_bytes(get(from, at::BATCH_BYTES)),
            payload_bytes: u32::from_le_bytes(get(from, at::PAYLOAD_BYTES)),
            record_count: u32::from_le_bytes(get(from, at::RECORD_COUNT)),
            records_checksum: u32::from_le_bytes(get(from, at::RECORDS_CHECKSUM)),
            previous_checksum: u32::from_le_bytes(get(from, at::PREVIOUS_CHECKSUM)),
            kind: match kind {
                1 => BatchKind::Data,
                2 => BatchKind::Marker,
                3 => BatchKind::Seal,
                other => return Err(impossible(at::KIND, other.into())),
            },
        };
        let zero: [u8; 3] = get(from, at::ZERO);
        if zero != [0; 3] {
            return Err(impossible(at::ZERO, zero[0].into()));
        }
        if !header.lsn.0.is_multiple_of(BLOCK_BYTES as u64) || header.lsn.0 > u64::MAX / 2 {
            return Err(impossible(at::LSN, header.lsn.0));
        }
        if header.durable_lsn > header.lsn {
            return Err(impossible(at::DURABLE_LSN, header.durable_lsn.0));
        }
        let (payload, count) = (header.payload_bytes as usize, header.record_count as usize);
        let empty = header.kind != BatchKind::Data;
        if (payload == 0) != empty || payload < count * RECORD_HEADER_BYTES {
            return Err(impossible(at::PAYLOAD_BYTES, payload as u64));
        }
        if (count == 0) != empty {
            return Err(impossible(at::RECORD_COUNT, count as u64));
        }
        let (batch, written) = (header.batch_bytes as usize, header.written_bytes());
        let sized = batch == written || header.kind == BatchKind::Seal && batch > written;
        if !sized || !batch.is_multiple_of(BLOCK_BYTES) {
            return Err(impossible(at::BATCH_BYTES, batch as u64));
        }
        Ok((header, found))
    }
}

/// Bytes that a batch with this payload takes on the device.
#[must_use]
pub const fn batch_bytes_for(payload_bytes: usize) -> usize {
    (BATCH_HEADER_BYTES + payload_bytes).next_multiple_of(BLOCK_BYTES)
}

/// Bytes that a record with this payload takes in a batch.
#[must_use]
pub const fn record_bytes(payload_bytes: usize) -> usize {
    RECORD_HEADER_BYTES + payload_bytes.next_multiple_of(RECORD_ALIGN)
}

/// Writes a record into `to`, which is exactly [`record_bytes`] long; its checksum is still to come,
/// by [`sum_record`]. `payload_bytes` counts the origin, if one goes before the payload.
#[inline]
pub(crate) fn encode_record(
    to: &mut [u8],
    record: &RecordHeader,
    parts: &[&[u8]],
    payload_bytes: usize,
) {
    debug_assert_eq!(to.len(), record_bytes(payload_bytes));
    // The padding is within the last eight bytes; what else is there is overwritten below.
    let last = to.len() - RECORD_ALIGN;
    to[last..].copy_from_slice(&[0; RECORD_ALIGN]);
    let (header, mut payload) =
        to.split_first_chunk_mut::<RECORD_HEADER_BYTES>().expect("room for a record header");
    let flag = if record.origin == record.ballot { 0 } else { ORIGIN_FLAG };
    let length_and_kind = payload_bytes as u32 | u32::from(record.kind.0 | flag) << 24;
    put(header, 4, length_and_kind.to_le_bytes());
    put(header, 8, record.group.0.to_le_bytes());
    put(header, 16, record.slot.0.to_le_bytes());
    put(header, 24, record.ballot.0.to_le_bytes());
    if flag != 0 {
        let (here, rest) = payload.split_at_mut(ORIGIN_BYTES);
        here.copy_from_slice(&record.origin.0.to_le_bytes());
        payload = rest;
    }
    for part in parts {
        let (here, rest) = payload.split_at_mut(part.len());
        here.copy_from_slice(part);
        payload = rest;
    }
}

/// Completes a record that [`encode_record`] wrote. `running` is the CRC so far; the new value is
/// returned.
#[inline]
pub(crate) fn sum_record(record: &mut [u8], running: u32) -> u32 {
    let running = extend(running, &record[4..]);
    record[..4].copy_from_slice(&running.to_le_bytes());
    running
}

fn extend(running: u32, bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(running);
    crc.update(bytes);
    crc.finalize()
}

/// A verified batch, in place.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Its header.
    pub header: BatchHeader,
    /// The header's checksum, which the next batch repeats.
    pub checksum: u32,
    records: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Verifies every byte of the batch at the start of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Batch<'a>, BadBatch> {
        let (header, checksum) = BatchHeader::decode(bytes)?;
        let written = header.written_bytes();
        if bytes.len() < written {
            let (needed, found) = (written as u64, bytes.len() as u64);
            return Err(BadBatch::Truncated { needed, found });
        }
        let end = BATCH_HEADER_BYTES + header.payload_bytes as usize;
        let mut offset = BATCH_HEADER_BYTES;
        let mut running = header.identity_checksum();
        for _ in 0..header.record_count {
            let Some(bytes) = next_record(&bytes[offset..end]) else {
                return Err(BadBatch::Records { offset: offset as u64, expected: end as u64 });
            };
            running = extend(running, &bytes[4..]);
            let found = u32::from_le_bytes(get(bytes, 0));
            if found != running {
                let offset = offset as u64;
                return Err(BadBatch::RecordChecksum { offset, found, computed: running });
            }
            offset += bytes.len();
        }
        if offset != end || running != header.records_checksum {
            return Err(BadBatch::Records { offset: offset as u64, expected: end as u64 });
        }
        if bytes[end..written].iter().fold(0, |any, byte| any | byte) != 0 {
            return Err(BadBatch::Padding { offset: end as u64 });
        }
        Ok(Batch { header, checksum, records: &bytes[BATCH_HEADER_BYTES..end] })
    }

    /// A batch that [`Batch::parse`] found good in these same bytes.
    pub(crate) fn parsed(header: BatchHeader, checksum: u32, bytes: &'a [u8]) -> Batch<'a> {
        let end = BATCH_HEADER_BYTES + header.payload_bytes as usize;
        Batch { header, checksum, records: &bytes[BATCH_HEADER_BYTES..end] }
    }

    /// The records, in the order in which they were appended.
    pub fn records(&self) -> impl Iterator<Item = LogRecord<'a>> + use<'a> {
        let (mut rest, mut lsn) = (self.records, self.header.lsn.after(BATCH_HEADER_BYTES as u64));
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let bytes = next_record(rest).expect("parse walked these records");
            let length_and_kind = u32::from_le_bytes(get(bytes, 4));
            let payload_bytes = (length_and_kind & PAYLOAD_BYTES_MAX) as usize;
            let kind = (length_and_kind >> 24) as u8;
            let ballot = Ballot(u64::from_le_bytes(get(bytes, 24)));
            let payload = &bytes[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + payload_bytes];
            let (origin, payload) = match payload.split_first_chunk() {
                Some((origin, payload)) if kind & ORIGIN_FLAG != 0 => {
                    (Ballot(u64::from_le_bytes(*origin)), payload)
                }
                _ => (ballot, payload),
            };
            let record = LogRecord {
                lsn,
                header: RecordHeader {
                    kind: RecordKind(kind & !ORIGIN_FLAG),
                    group: GroupId(u64::from_le_bytes(get(bytes, 8))),
                    slot: Slot(u64::from_le_bytes(get(bytes, 16))),
                    ballot,
                    origin,
                },
                payload,
            };
            rest = &rest[bytes.len()..];
            lsn = lsn.after(bytes.len() as u64);
            Some(record)
        })
    }
}

/// The record at the start of `bytes`, with its padding, if it fits. An origin is there only where it
/// says something.
fn next_record(bytes: &[u8]) -> Option<&[u8]> {
    let header = bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
    let length_and_kind = u32::from_le_bytes(get(header, 4));
    let payload_bytes = (length_and_kind & PAYLOAD_BYTES_MAX) as usize;
    let record = bytes.get(..record_bytes(payload_bytes))?;
    if (length_and_kind >> 24) as u8 & ORIGIN_FLAG != 0 {
        let origin = record[RECORD_HEADER_BYTES..].first_chunk::<ORIGIN_BYTES>()?;
        if payload_bytes < ORIGIN_BYTES || *origin == get(header, 24) {
            return None;
        }
    }
    Some(record)
}

/// The payload of [`RecordKind::PUT`].
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 2 | key_bytes |
/// | 2 | key_bytes | key, encoded |
/// | 2 + key_bytes | the rest | item, encoded |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutPayload<'a> {
    /// Encoded key.
    pub key: &'a [u8],
    /// Encoded item.
    pub item: &'a [u8],
}

impl<'a> PutPayload<'a> {
    /// The first part of a Put's payload: append `[&prefix, key, item]`.
    #[must_use]
    pub fn prefix(key: &[u8]) -> [u8; 2] {
        u16::try_from(key.len()).expect("an encoded key is within the limits").to_le_bytes()
    }

    /// Finds key and item. None says that the writer was another program: refuse the log.
    #[must_use]
    pub fn decode(payload: &'a [u8]) -> Option<PutPayload<'a>> {
        let (prefix, rest) = payload.split_first_chunk::<2>()?;
        let (key, item) = rest.split_at_checked(u16::from_le_bytes(*prefix).into())?;
        Some(PutPayload { key, item })
    }
}

fn put<const N: usize>(to: &mut [u8], offset: usize, bytes: [u8; N]) {
    to[offset..offset + N].copy_from_slice(&bytes);
}

fn get<const N: usize>(from: &[u8], offset: usize) -> [u8; N] {
    *from[offset..].first_chunk().expect("the offset is within the header")
}
