//! Golden bytes of second versions.

use rkyv::api::high::to_bytes;
use rkyv::rancor::Error;

use super::*;
use crate::message::{
    BatchGetReply, BatchGetRequest, GetReply, GetRequest, PageReply, QueryRequest, ScanRequest,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_bytes_of_an_eventual_get_and_its_answer() {
    let key = [0xaa; 8];
    let read = GetRequest { table: 1, epoch: 2, key: &key, projection: None, consistent: false };
    let bytes = to_bytes::<Error>(&Eventual { read, staleness_max_millis: 250 }).unwrap();
    let found = hex(&bytes);
    assert!(found.starts_with("aaaaaaaaaaaaaaaa01000000000000000200000000000000"), "{found}");
    assert!(found.contains("fa000000"), "{found}");
    let archived = rkyv::access::<ArchivedEventual<GetRequest<'_>>, Error>(&bytes).unwrap();
    assert_eq!(archived.staleness_max_millis, 250);
    assert_eq!((&archived.read.key[..], archived.read.table.to_native()), (&key[..], 1));

    let lag = Lag { behind_slots: 3, age_millis: 40 };
    let reply = Lagging { reply: GetReply { item: None }, lag };
    let bytes = to_bytes::<Error>(&reply).unwrap();
    let found = hex(&bytes);
    assert!(found.ends_with("03000000000000002800000000000000"), "{found}");
    let archived = rkyv::access::<ArchivedLagging<GetReply<'_>>, Error>(&bytes).unwrap();
    assert!(archived.reply.item.is_none());
    assert_eq!(Lag::from(&archived.lag), lag);
}

fn check<T>(what: &str, message: &T, golden: &[&str])
where
    T: for<'a> rkyv::Serialize<
            rkyv::api::high::HighSerializer<
                rkyv::util::AlignedVec,
                rkyv::ser::allocator::ArenaHandle<'a>,
                Error,
            >,
        >,
{
    let bytes = to_bytes::<Error>(message).unwrap();
    assert_eq!(hex(&bytes), golden.concat(), "{what}");
}

#[test]
fn golden_bytes_of_eventual_queries_scans_and_batches() {
    let query = QueryRequest {
        table: 1,
        epoch: 2,
        partition_key: &[0xaa; 5],
        sort_key: None,
        descending: true,
        limit: 7,
        filter: None,
        projection: None,
        resume: Some(&[0xbb; 6]),
        consistent: false,
    };
    check(
        "query",
        &Eventual { read: query, staleness_max_millis: 250 },
        &[
            "aaaaaaaaaa",       // partition key
            "bbbbbbbbbbbb",     // resume
            "0000000000",       // padding
            "0100000000000000", // table
            "0200000000000000", // epoch
            "e0ffffff",         // partition key: 32 back
            "05000000",         // its length
            &"00".repeat(24),   // no sort key
            "01000000",         // descending
            "07000000",         // limit
            &"00".repeat(56),   // no filter, no projection
            "01000000",         // resume: some
            "81ffffff",         // 127 back
            "06000000",         // its length
            "00000000",         // consistent: no
            "fa000000",         // staleness_max_millis
            "00000000",         // padding
        ],
    );
    let scan = ScanRequest {
        table: 1,
        epoch: 2,
        hash_first: 3,
        hash_last: u64::MAX,
        limit: 7,
        filter: None,
        projection: None,
        resume: None,
    };
    check(
        "scan",
        &Eventual { read: scan, staleness_max_millis: 250 },
        &[
            "0100000000000000", // table
            "0200000000000000", // epoch
            "0300000000000000", // hash_first
            "ffffffffffffffff", // hash_last
            "07000000",         // limit
            &"00".repeat(68),   // no filter, no projection, no resume
            "fa000000",         // staleness_max_millis
            "00000000",         // padding
        ],
    );
    let keys = vec![&[0xaa; 3][..], &[0xbb; 2][..]];
    let batch = BatchGetRequest { table: 1, epoch: 2, keys, projection: None };
    check(
        "batch",
        &Eventual { read: batch, staleness_max_millis: 250 },
        &[
            "aaaaaa",           // a key
            "bbbb",             // a key
            "000000",           // padding
            "f8ffffff",         // 8 back
            "03000000",         // its length
            "f3ffffff",         // 13 back
            "02000000",         // its length
            "0100000000000000", // table
            "0200000000000000", // epoch
            "e0ffffff",         // keys: 32 back
            "02000000",         // how many
            &"00".repeat(16),   // no projection
            "fa000000",         // staleness_max_millis
            "00000000",         // padding
        ],
    );
}

#[test]
fn golden_bytes_of_the_answers_to_eventual_queries_scans_and_batches() {
    let lag = Lag { behind_slots: 3, age_millis: 40 };
    let page = PageReply {
        items: &[0xcc; 4],
        count: 1,
        scanned_count: 2,
        resume: Some(&[0xbb; 2]),
        next_hash: Some(9),
    };
    check(
        "page",
        &Lagging { reply: page, lag },
        &[
            "cccccccc",         // items
            "bbbb",             // resume
            "0000",             // padding
            "f8ffffff",         // 8 back
            "04000000",         // bytes of items
            "01000000",         // count
            "02000000",         // scanned_count
            "01000000",         // resume: some
            "e8ffffff",         // 24 back
            "02000000",         // its length
            "00000000",         // padding
            "0100000000000000", // next_hash: some
            "0900000000000000", // next_hash
            "0300000000000000", // behind_slots
            "2800000000000000", // age_millis
        ],
    );
    let batch = BatchGetReply { items: &[0xdd; 4] };
    check(
        "batch",
        &Lagging { reply: batch, lag },
        &[
            "dddddddd",         // items
            "00000000",         // padding
            "f8ffffff",         // 8 back
            "04000000",         // bytes of items
            "0300000000000000", // behind_slots
            "2800000000000000", // age_millis
        ],
    );
}

#[test]
fn an_answer_of_several_looks_is_as_late_as_the_latest() {
    let lag = |behind_slots, age_millis| Lag { behind_slots, age_millis };
    assert_eq!(lag(1, 50).max(lag(7, 20)), lag(7, 50));
    assert_eq!(Lag::NONE.max(lag(0, Lag::UNKNOWN_AGE)).age_millis, Lag::UNKNOWN_AGE);
}
