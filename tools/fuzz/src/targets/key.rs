//! Encoded keys, as they stand in log, tree and resume keys. Input: an encoded key.

use forebay_core::item::ItemRef;
use forebay_core::key::{KeyBuf, KeyRef, hash_hint};
use forebay_core::limits::ENCODED_KEY_BYTES_MAX;
use forebay_core::table::{KeySchema, KeyType};

pub(super) const SEED: [u8; 16] = *b"0123456789abcdef";

/// The parts of an accepted key make the same key, and bounds stand where they should.
pub fn run(data: &[u8]) {
    let Ok(key) = KeyRef::validate(data) else { return };
    assert!(data.len() <= ENCODED_KEY_BYTES_MAX);
    let (partition_key, sort_key) = (key.partition_key(), key.sort_key());
    let length = (partition_key.len() as u16).to_be_bytes();
    let again = [&key.hash().to_be_bytes()[..], &length, partition_key, sort_key].concat();
    assert_eq!(again, data, "a key is its parts");
    assert_eq!(key.partition_prefix(), &data[..10 + partition_key.len()]);
    assert_eq!(hash_hint(data), key.hash());

    let mut made = KeyBuf::new();
    made.set(&SEED, partition_key, sort_key).expect("the parts of a key are within the limits");
    assert_eq!(made.as_bytes() == data, key.hash_is_of(&SEED));
    assert!(made.as_key().hash_is_of(&SEED));
    assert!(KeyRef::validate(made.as_bytes()).is_ok());

    let mut bound = KeyBuf::new();
    bound.set_encoded(key.partition_prefix());
    if bound.advance_past_prefix() {
        let longest = [data, &[0xff; 8]].concat();
        assert!(bound.as_bytes() > data && bound.as_bytes() > longest.as_slice());
    }
    bound.set_encoded(data);
    bound.advance_past_key();
    assert!(bound.as_bytes() > data);

    for (partition, sort) in [
        (KeyType::S, None),
        (KeyType::B, None),
        (KeyType::N, Some(KeyType::S)),
        (KeyType::S, Some(KeyType::N)),
        (KeyType::B, Some(KeyType::B)),
    ] {
        let mut schema = KeySchema::partition_only("p", partition);
        if let Some(sort) = sort {
            schema = schema.with_sort("a sort key", sort);
        }
        check_schema(&schema, made.as_key());
    }
}

fn check_schema(schema: &KeySchema, key: KeyRef<'_>) {
    let mut item = vec![0xee];
    if schema.write_key(key, &mut item).is_err() {
        return;
    }
    let item = ItemRef::validate(&item[1..]).expect("a key becomes a valid item");
    let mut read = KeyBuf::new();
    let extracted = schema.extract_from_key(&SEED, item, &mut read);
    if schema.sort.is_some() && key.sort_key().is_empty() {
        assert!(extracted.is_err(), "no item of this table can have the key");
    } else {
        assert_eq!(extracted, Ok(()));
        assert_eq!(read.as_bytes(), key.as_bytes());
    }
}

/// Keys with and without a sort key, of every type.
pub fn seeds() -> Vec<Vec<u8>> {
    let number: forebay_core::item::Number = "-12.5".parse().expect("a number");
    [
        (&b"user-1"[..], &b"2026-01-01"[..]),
        (b"x", b""),
        (number.as_bytes(), b"s"),
        (b"s", number.as_bytes()),
    ]
    .into_iter()
    .map(|(partition_key, sort_key)| {
        let mut key = KeyBuf::new();
        key.set(&SEED, partition_key, sort_key).expect("within the limits");
        key.as_bytes().to_vec()
    })
    .collect()
}
