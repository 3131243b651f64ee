//! A batch of the log with its records and their payloads. Input: a batch.

use forebay_core::ids::{Ballot, GroupId, Lsn, ShardId, Slot};
use forebay_storage::log::format::{
    BATCH_HEADER_BYTES, Batch, BatchHeader, BatchKind, PutPayload, RECORD_HEADER_BYTES,
    batch_bytes_for, record_bytes,
};
use forebay_storage::log::{RecordHeader, RecordKind};

use super::{blocks_of, put, u32_at};

/// An accepted batch is what its fields and records encode to, and no shorter one is accepted.
pub fn run(data: &[u8]) {
    check(data);
    let mut batch = blocks_of(data);
    check(&batch);
    seal(&mut batch);
    check(&batch);
    if let Some(payload) = PutPayload::decode(data) {
        let prefix = PutPayload::prefix(payload.key);
        assert_eq!([&prefix, payload.key, payload.item].concat(), data);
    }
}

fn extend(running: u32, bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(running);
    crc.update(bytes);
    crc.finalize()
}

/// Makes the checksums of records and header right, as far as lengths make sense.
fn seal(batch: &mut [u8]) {
    let end = BATCH_HEADER_BYTES + u32_at(batch, 60) as usize;
    let mut running = crc32fast::hash(&batch[12..48]);
    let mut at = BATCH_HEADER_BYTES;
    for _ in 0..u32_at(batch, 64) {
        if at + RECORD_HEADER_BYTES > batch.len() {
            break;
        }
        let bytes = record_bytes((u32_at(batch, at + 4) & 0xff_ffff) as usize);
        if at + bytes > end.min(batch.len()) {
            break;
        }
        running = extend(running, &batch[at + 4..at + bytes]);
        put(batch, at, &running.to_le_bytes());
        at += bytes;
    }
    put(batch, 68, &running.to_le_bytes());
    let checksum = crc32fast::hash(&batch[12..BATCH_HEADER_BYTES]);
    put(batch, 8, &checksum.to_le_bytes());
}

fn check(data: &[u8]) {
    let batch = match Batch::parse(data) {
        Ok(batch) => batch,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let header = batch.header;
    let mut again = [0; BATCH_HEADER_BYTES];
    assert_eq!(header.encode(&mut again), batch.checksum);
    assert_eq!(again, data[..BATCH_HEADER_BYTES], "a header is its fields");
    assert_eq!(header.next_lsn(), header.lsn.after(header.batch_bytes.into()));

    let mut at = BATCH_HEADER_BYTES;
    let mut count = 0;
    for record in batch.records() {
        assert_eq!(record.lsn, header.lsn.after(at as u64));
        let RecordHeader { kind, group, slot, ballot, origin } = record.header;
        let (flag, before): (u8, &[u8]) =
            if origin == ballot { (0, &[]) } else { (0x80, &origin.0.to_le_bytes()) };
        let payload_bytes = before.len() + record.payload.len();
        let length = payload_bytes as u32 | u32::from(kind.0 | flag) << 24;
        let mut bytes = data[at..at + 4].to_vec();
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&group.0.to_le_bytes());
        bytes.extend_from_slice(&slot.0.to_le_bytes());
        bytes.extend_from_slice(&ballot.0.to_le_bytes());
        bytes.extend_from_slice(before);
        bytes.extend_from_slice(record.payload);
        let end = at + record_bytes(payload_bytes);
        assert_eq!(bytes, data[at..at + bytes.len()], "a record is its fields");
        at = end;
        count += 1;
    }
    assert_eq!(
        (at, count),
        (BATCH_HEADER_BYTES + header.payload_bytes as usize, header.record_count)
    );
    let written = header.written_bytes();
    assert!(data[at..written].iter().all(|byte| *byte == 0));
    assert!(Batch::parse(&data[..written]).is_ok(), "nothing behind a batch counts");
    for cut in [BATCH_HEADER_BYTES - 1, BATCH_HEADER_BYTES, written - 1] {
        assert!(Batch::parse(&data[..cut]).is_err());
    }
}

fn batch(kind: BatchKind, payloads: &[&[u8]]) -> Vec<u8> {
    let payload_bytes: usize = payloads.iter().map(|payload| record_bytes(payload.len())).sum();
    let written = batch_bytes_for(payload_bytes);
    let claimed = if kind == BatchKind::Seal { 3 * written } else { written };
    let header = BatchHeader {
        shard: ShardId(3),
        log_id: 0x1122_3344,
        incarnation: 1,
        segment: 0,
        lsn: Lsn(0x4000),
        durable_lsn: Lsn(0x3000),
        batch_bytes: claimed as u32,
        payload_bytes: payload_bytes as u32,
        record_count: payloads.len() as u32,
        records_checksum: 0,
        previous_checksum: 0x55aa_55aa,
        kind,
    };
    let mut bytes = vec![0; written];
    header.encode(bytes.first_chunk_mut().expect("at least a block"));
    let mut at = BATCH_HEADER_BYTES;
    for (index, payload) in payloads.iter().enumerate() {
        let kind = if index == 0 { RecordKind::PUT } else { RecordKind::DELETE };
        // Those of eight bytes and more are proposed again: their first eight are the origin.
        let flag = if index > 0 && payload.len() >= 8 { 0x80 } else { 0 };
        let length = payload.len() as u32 | u32::from(kind.0 | flag) << 24;
        put(&mut bytes, at + 4, &length.to_le_bytes());
        put(&mut bytes, at + 8, &GroupId(7).0.to_le_bytes());
        put(&mut bytes, at + 16, &Slot(index as u64 + 1).0.to_le_bytes());
        put(&mut bytes, at + 24, &Ballot(1).0.to_le_bytes());
        put(&mut bytes, at + RECORD_HEADER_BYTES, payload);
        at += record_bytes(payload.len());
    }
    seal(&mut bytes);
    check(&bytes);
    super::trimmed(&bytes)
}

/// One batch of each kind, and a Put's payload.
pub fn seeds() -> Vec<Vec<u8>> {
    let put = [&PutPayload::prefix(b"key")[..], b"key", b"item"].concat();
    vec![
        batch(BatchKind::Data, &[&put, b"a key", b""]),
        batch(BatchKind::Data, &[&put, b"originalkey"]),
        batch(BatchKind::Data, &[&put]),
        batch(BatchKind::Marker, &[]),
        batch(BatchKind::Seal, &[]),
        put,
    ]
}
