//! An entry of a group's data as it travels between nodes: a put or a delete of final bytes.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 2 | length of the key; the highest bit is set if the key is deleted |
//! | 2 | k | the encoded key |
//! | 2 + k | rest | the encoded item; nothing if the key is deleted |
//!
//! Little-endian. The frame's checksum covers it; what a peer sends is of its own leader's making.

use forebay_core::limits::ENCODED_KEY_BYTES_MAX;
use forebay_storage::store::EntryBytes;

const DELETES: u16 = 1 << 15;

const _: () = assert!(ENCODED_KEY_BYTES_MAX < DELETES as usize);

/// Appends an entry.
pub(super) fn encode(entry: EntryBytes<'_>, to: &mut Vec<u8>) {
    let key_bytes = u16::try_from(entry.key.len()).expect("keys are short");
    let deletes = if entry.item.is_none() { DELETES } else { 0 };
    to.extend_from_slice(&(key_bytes | deletes).to_le_bytes());
    to.extend_from_slice(entry.key);
    to.extend_from_slice(entry.item.unwrap_or_default());
}

/// Reads an entry; None if the bytes are none.
pub(super) fn decode(bytes: &[u8]) -> Option<EntryBytes<'_>> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    let head = u16::from_le_bytes(*head);
    let (key_bytes, deletes) = (usize::from(head & !DELETES), head & DELETES != 0);
    if key_bytes > ENCODED_KEY_BYTES_MAX || key_bytes > rest.len() {
        return None;
    }
    let (key, item) = rest.split_at(key_bytes);
    match (deletes, item.is_empty()) {
        (true, true) => Some(EntryBytes { key, item: None }),
        (false, false) => Some(EntryBytes { key, item: Some(item) }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        for item in [None, Some(&b"item"[..])] {
            let (mut bytes, entry) = (Vec::new(), EntryBytes { key: b"key", item });
            encode(entry, &mut bytes);
            assert_eq!(decode(&bytes), Some(entry));
        }
    }

    #[test]
    fn the_layout_is_fixed() {
        let mut bytes = Vec::new();
        encode(EntryBytes { key: b"ab", item: Some(b"c") }, &mut bytes);
        encode(EntryBytes { key: b"ab", item: None }, &mut bytes);
        assert_eq!(bytes, b"\x02\x00abc\x02\x80ab");
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for bytes in [&b""[..], b"\x01", b"\x03\x00ab", b"\x02\x00ab", b"\x02\x80abc", b"\xff\x7fa"]
        {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }
}
