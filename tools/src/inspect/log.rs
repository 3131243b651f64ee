//! `inspect log`: every batch that can be found, wherever it stands.
//!
//! The whole file is read block by block and every header that verifies is taken, so nothing need
//! be known beforehand and no damage hides what follows it. Sorted by position, the batches are
//! then compared with their predecessors: a gap, a broken chain of checksums or an older
//! incarnation is shown, not judged: whether a bad batch is a crash tail or damage is for recovery
//! to decide, by the highest durable_lsn found anywhere. The same comparison is printed at the end.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use forebay_core::paxos::Configuration;
use forebay_storage::block::BLOCK_BYTES;
use forebay_storage::log::format::{BadBatch, Batch, BatchHeader, MAGIC, PutPayload};
use forebay_storage::log::{BatchKind, LogRecord, MemberCreate, RecordKind};

use super::Verdict;
use super::files::ShardDir;
use super::show::{escape, key};
use crate::size::ByteSize;

/// Bytes read at a time while looking for headers.
const READ_BYTES: usize = 1 << 20;

/// A header that verifies, and where.
struct Found {
    offset_bytes: u64,
    header: BatchHeader,
    checksum: u32,
    /// What is wrong with the rest of the batch.
    bad: Option<BadBatch>,
}

/// Shows the last `last` batches (0: all), with their records if asked.
pub(super) fn show(
    shard: &ShardDir,
    last: usize,
    records: bool,
    out: &mut dyn Write,
) -> io::Result<Verdict> {
    let file = shard.log()?;
    let capacity_bytes = file.metadata()?.len();
    let mut broken_headers = Vec::new();
    let mut found = find(shard, capacity_bytes, &mut broken_headers)?;
    found.sort_by_key(|batch| (batch.header.lsn, batch.header.incarnation));
    let chosen = shard.pages().and_then(|_| shard.chosen()).ok().and_then(Result::ok);
    let superblock = chosen.map(|chosen| chosen.superblock);

    let skipped = if last == 0 { 0 } else { found.len().saturating_sub(last) };
    if skipped > 0 {
        writeln!(out, "… {skipped} earlier batches; --last 0 shows all")?;
    }
    for (index, batch) in found.iter().enumerate().skip(skipped) {
        let before = index.checked_sub(1).map(|before| &found[before]);
        line(batch, before, out)?;
        if records {
            show_records(shard, batch, out)?;
        }
    }
    for (offset_bytes, bad) in &broken_headers {
        writeln!(out, "at offset {offset_bytes}: {bad}")?;
    }

    // Positions below the checkpoint are trimmed: what is left of them was overwritten on purpose.
    let trimmed_lsn = superblock.map_or(0, |superblock| superblock.history_start().0);
    let from_headers = found.iter().map(|batch| batch.header.durable_lsn.0);
    let durable_lsn = from_headers
        .chain(superblock.map(|superblock| superblock.durable_lsn.0))
        .max()
        .unwrap_or(0);
    let damaged = found.iter().filter(|batch| {
        let lsn = batch.header.lsn.0;
        batch.bad.is_some() && (trimmed_lsn..durable_lsn).contains(&lsn)
    });
    let damaged = damaged.count();
    let size = ByteSize(capacity_bytes);
    writeln!(out, "\n{} batches in {size}; highest durable_lsn {durable_lsn}", found.len())?;
    if let Some(superblock) = superblock {
        writeln!(out, "replay starts at lsn {}", superblock.log_start.lsn)?;
    }
    if damaged > 0 {
        writeln!(out, "{damaged} bad batches below it: damage")?;
        return Ok(Verdict::Damaged);
    }
    Ok(Verdict::Sound)
}

fn find(
    shard: &ShardDir,
    capacity_bytes: u64,
    broken_headers: &mut Vec<(u64, BadBatch)>,
) -> io::Result<Vec<Found>> {
    let file = shard.log()?;
    let mut found = Vec::new();
    let mut window = vec![0; READ_BYTES];
    let mut offset_bytes = 0;
    while offset_bytes < capacity_bytes {
        let bytes = (capacity_bytes - offset_bytes).min(READ_BYTES as u64) as usize;
        file.read_exact_at(&mut window[..bytes], offset_bytes)?;
        for (index, block) in window[..bytes].chunks(BLOCK_BYTES).enumerate() {
            let at = offset_bytes + (index * BLOCK_BYTES) as u64;
            match BatchHeader::decode(block) {
                Ok((header, checksum)) => {
                    let bad = read_batch(shard, at, &header)?
                        .and_then(|bytes| Batch::parse(&bytes).err());
                    found.push(Found { offset_bytes: at, header, checksum, bad });
                }
                // Inside of a batch, or never written.
                Err(BadBatch::Magic { .. } | BadBatch::Truncated { .. }) => {}
                Err(bad) if block.starts_with(&MAGIC) => broken_headers.push((at, bad)),
                Err(_) => {}
            }
        }
        offset_bytes += bytes as u64;
    }
    Ok(found)
}

/// The batch's bytes; None if its header says more than the file has.
fn read_batch(shard: &ShardDir, at: u64, header: &BatchHeader) -> io::Result<Option<Vec<u8>>> {
    let file = shard.log()?;
    let bytes = header.written_bytes();
    if at + bytes as u64 > file.metadata()?.len() {
        return Ok(None);
    }
    let mut batch = vec![0; bytes];
    file.read_exact_at(&mut batch, at)?;
    Ok(Some(batch))
}

fn line(batch: &Found, before: Option<&Found>, out: &mut dyn Write) -> io::Result<()> {
    let header = &batch.header;
    let kind = match header.kind {
        BatchKind::Data => "data",
        BatchKind::Marker => "marker",
        BatchKind::Seal => "seal",
    };
    write!(
        out,
        "lsn {:>14}  offset {:>12}  {kind:<6}  incarnation {:>3}  durable_lsn {:>14}  {:>8}  \
         {:>5} records",
        header.lsn.0,
        batch.offset_bytes,
        header.incarnation,
        header.durable_lsn.0,
        ByteSize(header.batch_bytes.into()),
        header.record_count,
    )?;
    if let Some(before) = before {
        if header.lsn != before.header.next_lsn() {
            write!(out, "  after a gap")?;
        } else if header.previous_checksum != before.checksum {
            write!(out, "  does not follow the batch before")?;
        } else if header.incarnation < before.header.incarnation {
            write!(out, "  stale")?;
        }
    }
    if let Some(bad) = &batch.bad {
        write!(out, "  BAD: {bad}")?;
    }
    writeln!(out)
}

fn show_records(shard: &ShardDir, batch: &Found, out: &mut dyn Write) -> io::Result<()> {
    let Some(bytes) = read_batch(shard, batch.offset_bytes, &batch.header)? else { return Ok(()) };
    let Ok(batch) = Batch::parse(&bytes) else { return Ok(()) };
    for record in batch.records() {
        show_record(&record, out)?;
    }
    Ok(())
}

fn show_record(record: &LogRecord<'_>, out: &mut dyn Write) -> io::Result<()> {
    let header = &record.header;
    let what = match header.kind {
        RecordKind::PUT => match PutPayload::decode(record.payload) {
            Some(put) => format!("put {} ({} bytes)", key(put.key), put.item.len()),
            None => "put with an unreadable payload".to_owned(),
        },
        RecordKind::DELETE => format!("delete {}", key(record.payload)),
        RecordKind::GROUP_CREATE => format!("group create \"{}\"", escape(record.payload)),
        RecordKind::GROUP_DROP => "group drop".to_owned(),
        RecordKind::CHOSEN => "chosen up to this slot".to_owned(),
        RecordKind::NO_OP => "no-op".to_owned(),
        RecordKind::CONFIGURATION => match Configuration::decode(record.payload) {
            Some(configuration) => format!("configuration {:?}", configuration.members()),
            None => "configuration with an unreadable payload".to_owned(),
        },
        RecordKind::PROMISE => "promise".to_owned(),
        RecordKind::BASE => "the member's log begins after this slot".to_owned(),
        RecordKind::MEMBER_CREATE => match MemberCreate::decode(record.payload) {
            Some(create) => {
                let (id, role) = (create.member.0, create.role);
                format!("member {id:016x} create, {role:?}, \"{}\"", escape(create.payload))
            }
            None => "member create with an unreadable payload".to_owned(),
        },
        RecordKind::DIGEST_MARK => "digest mark".to_owned(),
        RecordKind(other) => format!("kind {other}, {} bytes", record.payload.len()),
    };
    let (group, slot, ballot) = (header.group, header.slot, header.ballot);
    writeln!(
        out,
        "    lsn {:>14}  group {group}  slot {slot}  ballot {ballot}  {what}",
        record.lsn.0
    )
}
