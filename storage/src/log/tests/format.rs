//! Bytes: golden, round trip, and never a panic.

use proptest::prelude::*;

use super::super::format::*;
use super::*;

fn header() -> BatchHeader {
    BatchHeader {
        shard: ShardId(0x0201),
        log_id: 0x0807_0605_0403_0201,
        incarnation: 7,
        segment: 2,
        lsn: Lsn(0x9000),
        durable_lsn: Lsn(0x8000),
        batch_bytes: 4096,
        payload_bytes: 0,
        record_count: 0,
        records_checksum: 0,
        previous_checksum: 0xDDCC_BBAA,
        kind: BatchKind::Data,
    }
}

/// A batch of these records, as the writer builds it.
fn batch(records: &[(RecordHeader, &[u8])]) -> Vec<u8> {
    let mut header = header();
    let mut bytes = vec![0; BATCH_HEADER_BYTES];
    let mut running = header.identity_checksum();
    for (record, payload) in records {
        let start = bytes.len();
        let payload_bytes = payload.len() + record.origin_bytes();
        bytes.resize(start + record_bytes(payload_bytes), 0xEE);
        encode_record(&mut bytes[start..], record, &[*payload], payload_bytes);
        running = sum_record(&mut bytes[start..], running);
    }
    header.payload_bytes = (bytes.len() - BATCH_HEADER_BYTES) as u32;
    header.record_count = records.len() as u32;
    header.records_checksum = running;
    bytes.resize(batch_bytes_for(header.payload_bytes as usize), 0);
    header.batch_bytes = bytes.len() as u32;
    header.encode(bytes.first_chunk_mut().expect("a header's room"));
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_bytes_of_a_batch() {
    let record = RecordHeader {
        kind: RecordKind::PUT,
        group: GroupId(0x11),
        slot: Slot(0x22),
        ballot: Ballot(0x33),
        origin: Ballot(0x33),
    };
    let prefix = PutPayload::prefix(b"key");
    let payload = [&prefix[..], b"key", b"item"].concat();
    let bytes = batch(&[(record, &payload)]);
    let golden = concat!(
        "46424c4f4742415490230bbe01000102010203040506070807000000000000000200000000000000",
        "0090000000000000008000000000000000100000300000000100000021369395aabbccdd01000000",
        "213693950900000111000000000000002200000000000000330000000000000003006b6579697465",
        "6d00000000000000",
    );
    assert_eq!(hex(&bytes[..BATCH_HEADER_BYTES + record_bytes(payload.len())]), golden);
    assert_eq!(bytes.len(), 4096);
    let parsed = Batch::parse(&bytes).expect("just written");
    let found: Vec<_> = parsed.records().collect();
    assert_eq!(found, [LogRecord { lsn: Lsn(0x9050), header: record, payload: &payload }]);
    let put = PutPayload::decode(found[0].payload);
    assert_eq!(put, Some(PutPayload { key: b"key", item: b"item" }));
}

#[test]
fn golden_bytes_of_an_entry_that_was_proposed_again() {
    let record = RecordHeader { ballot: Ballot(0x44), origin: Ballot(0x33), ..record(0x22) };
    let bytes = batch(&[(record, b"key")]);
    let golden = concat!(
        "0b000081",         // payload_bytes with the origin, kind with bit 7
        "0400000000000000", // group
        "2200000000000000", // slot
        "4400000000000000", // ballot
        "3300000000000000", // origin
        "6b65790000000000", // payload and padding
    );
    let end = BATCH_HEADER_BYTES + record_bytes(3 + ORIGIN_BYTES);
    assert_eq!(hex(&bytes[BATCH_HEADER_BYTES + 4..end]), golden);
    let parsed = Batch::parse(&bytes).expect("just written");
    let found: Vec<_> = parsed.records().map(|record| (record.header, record.payload)).collect();
    assert_eq!(found, [(record, &b"key"[..])]);
}

#[test]
fn any_flipped_bit_of_a_batch_is_found() {
    let long = vec![0xA5; 301];
    let bytes = batch(&[(record(1), b"one"), (record(2), b""), (record(3), &long)]);
    assert!(Batch::parse(&bytes).is_ok());
    let mut bytes = bytes;
    for offset in 0..bytes.len() {
        for bit in 0..8 {
            bytes[offset] ^= 1 << bit;
            assert!(Batch::parse(&bytes).is_err(), "bit {bit} of byte {offset}");
            bytes[offset] ^= 1 << bit;
        }
    }
}

#[test]
fn a_record_moved_within_or_between_batches_is_found() {
    let two = batch(&[(record(1), b"12345678"), (record(2), b"12345678")]);
    let mut swapped = two.clone();
    let (first, second) = (BATCH_HEADER_BYTES, BATCH_HEADER_BYTES + record_bytes(8));
    let bytes = record_bytes(8);
    swapped.copy_within(second..second + bytes, first);
    swapped[second..second + bytes].copy_from_slice(&two[first..first + bytes]);
    assert!(matches!(Batch::parse(&swapped), Err(BadBatch::RecordChecksum { .. })));
}

#[test]
fn a_batch_of_a_later_version_is_named_as_such() {
    let mut bytes = batch(&[(record(1), b"one")]);
    bytes[12] = 2;
    let checksum = crc32fast::hash(&bytes[12..BATCH_HEADER_BYTES]);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(Batch::parse(&bytes).err(), Some(BadBatch::Version { found: 2 }));
}

proptest! {
    #[test]
    fn records_come_back_as_they_were_appended(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20),
    ) {
        let records: Vec<_> = payloads
            .iter()
            .enumerate()
            .map(|(slot, payload)| (record(slot as u64), payload.as_slice()))
            .collect();
        let bytes = batch(&records);
        let parsed = Batch::parse(&bytes).expect("just written");
        let found: Vec<_> = parsed.records().map(|r| (r.header, r.payload)).collect();
        prop_assert_eq!(found, records);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..9000),
        fields in prop::collection::vec(any::<u8>(), BATCH_HEADER_BYTES),
        small in 0u32..4000,
    ) {
        let _ = Batch::parse(&bytes);
        let _ = PutPayload::decode(&bytes);
        if bytes.len() < BATCH_HEADER_BYTES {
            return Ok(());
        }
        // A header whose checksum is right but whose fields are anything, then plausible ones.
        bytes[..BATCH_HEADER_BYTES].copy_from_slice(&fields);
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[12..14].copy_from_slice(&VERSION.to_le_bytes());
        for plausible in [false, true] {
            if plausible {
                bytes[40..56].fill(0);
                bytes[56..60].copy_from_slice(&4096u32.to_le_bytes());
                bytes[60..64].copy_from_slice(&small.to_le_bytes());
                bytes[64..68].copy_from_slice(&(small / 64).to_le_bytes());
                bytes[76..80].copy_from_slice(&[1, 0, 0, 0]);
            }
            let checksum = crc32fast::hash(&bytes[12..BATCH_HEADER_BYTES]);
            bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
            if let Ok(batch) = Batch::parse(&bytes) {
                prop_assert!(batch.records().count() > 0);
            }
        }
    }
}
