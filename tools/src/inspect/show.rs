//! Keys and bytes for people.

use forebay_core::key::KeyRef;

/// Bytes as text: printable ASCII as it is, the rest as `\xNN`, long ones cut.
pub(super) fn escape(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 80;
    let mut text = String::new();
    for &byte in bytes.iter().take(SHOWN_MAX) {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    if bytes.len() > SHOWN_MAX {
        text.push_str(&format!("… ({} bytes)", bytes.len()));
    }
    text
}

/// An item's key with its parts, or whatever the bytes are.
pub(super) fn key(bytes: &[u8]) -> String {
    match KeyRef::validate(bytes) {
        Ok(key) if key.sort_key().is_empty() => {
            format!("{:016x} \"{}\"", key.hash(), escape(key.partition_key()))
        }
        Ok(key) => {
            let (partition, sort) = (escape(key.partition_key()), escape(key.sort_key()));
            format!("{:016x} \"{partition}\" / \"{sort}\"", key.hash())
        }
        Err(_) => format!("\"{}\"", escape(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_can_be_shown_and_long_ones_are_cut() {
        assert_eq!(escape(b"a\\\x00\xff~"), "a\\\\\\x00\\xff~");
        assert!(escape(&[b'x'; 500]).ends_with("(500 bytes)"));
        assert_eq!(key(b""), "\"\"");
        let mut bytes = 0x0123_4567_89ab_cdef_u64.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0, 2]);
        bytes.extend_from_slice(b"pksort");
        assert_eq!(key(&bytes), "0123456789abcdef \"pk\" / \"sort\"");
    }
}
