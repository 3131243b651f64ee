//! Header fields of gRPC calls, HPACK-encoded (RFC 7541).
//!
//! ```text
//!   first call with a field:   literal with incremental indexing    both sides remember it
//!   later calls:               one byte, its place in the dynamic table
//! ```
//!
//! As the clients of the store's own language do it: sending literals all the time would charge the
//! store for decoding what no real client sends. The table never holds more than a handful of
//! entries, so none is ever evicted, and an entry's place is how many came after it.

use forebay_net::machine::SendBuf;

/// Entries of the static table; the dynamic one continues its numbers.
const STATIC_ENTRIES: usize = 61;
/// What an entry costs beyond its bytes (RFC 7541, section 4.1).
const ENTRY_OVERHEAD: usize = 32;

/// `:method: POST` and `:scheme: http` in the static table.
const INDEXED_METHOD_AND_SCHEME: [u8; 2] = [0x80 | 3, 0x80 | 6];
/// Indices of names in the static table.
const NAME_AUTHORITY: u8 = 1;
const NAME_PATH: u8 = 4;
const NAME_CONTENT_TYPE: u8 = 31;

/// Writes the header blocks of one connection.
#[derive(Debug)]
pub(super) struct FieldWriter {
    authority: Vec<u8>,
    /// In the order in which they were added: paths, and the three fields that all calls share.
    added: Vec<Added>,
    added_bytes: usize,
    /// What the peer allows; less than what is in use turns indexing off.
    table_bytes_max: usize,
    /// The peer must be told that the table is empty now.
    must_announce: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Added {
    Authority,
    ContentType,
    Te,
    Path(&'static str),
}

impl FieldWriter {
    /// For calls to `authority`.
    pub(super) fn new(authority: &str) -> FieldWriter {
        FieldWriter {
            authority: authority.as_bytes().to_vec(),
            added: Vec::new(),
            added_bytes: 0,
            table_bytes_max: 4096,
            must_announce: false,
        }
    }

    /// The peer's HEADER_TABLE_SIZE.
    pub(super) fn limit_table(&mut self, bytes: usize) {
        if bytes < self.added_bytes {
            self.added.clear();
            self.added_bytes = 0;
            self.must_announce = true;
        }
        // More than the default is of no use here; growing needs no announcement.
        self.table_bytes_max = bytes.min(4096);
    }

    /// Appends the block of a call of `path`.
    pub(super) fn write(&mut self, path: &'static str, out: &mut SendBuf) {
        if self.must_announce {
            // A size update to 0 empties the peer's table; the size then stays 0.
            out.extend_from_slice(&[0x20]);
            self.must_announce = false;
            self.table_bytes_max = 0;
        }
        out.extend_from_slice(&INDEXED_METHOD_AND_SCHEME);
        for field in [Added::Path(path), Added::Authority, Added::ContentType, Added::Te] {
            self.field(field, out);
        }
    }

    fn field(&mut self, field: Added, out: &mut SendBuf) {
        if let Some(at) = self.added.iter().position(|&added| added == field) {
            let index = STATIC_ENTRIES + self.added.len() - at;
            debug_assert!(index < 127, "an index of one byte");
            out.extend_from_slice(&[0x80 | index as u8]);
            return;
        }
        let authority = std::mem::take(&mut self.authority);
        let (name_index, name, value): (u8, &[u8], &[u8]) = match field {
            Added::Authority => (NAME_AUTHORITY, b":authority", &authority),
            Added::ContentType => (NAME_CONTENT_TYPE, b"content-type", b"application/grpc"),
            Added::Te => (0, b"te", b"trailers"),
            Added::Path(path) => (NAME_PATH, b":path", path.as_bytes()),
        };
        let bytes = name.len() + value.len() + ENTRY_OVERHEAD;
        let is_added = self.added_bytes + bytes <= self.table_bytes_max;
        // With incremental indexing (6-bit index) or without (4-bit index).
        match is_added {
            true => push_integer(0x40, 6, usize::from(name_index), out),
            false => push_integer(0, 4, usize::from(name_index), out),
        }
        if name_index == 0 {
            push_string(name, out);
        }
        push_string(value, out);
        self.authority = authority;
        if is_added {
            self.added.push(field);
            self.added_bytes += bytes;
        }
    }
}

/// A string without Huffman coding.
fn push_string(bytes: &[u8], out: &mut SendBuf) {
    push_integer(0, 7, bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// RFC 7541, section 5.1: the first byte's `bits` low bits, then seven bits a byte.
fn push_integer(first: u8, bits: u32, value: usize, out: &mut SendBuf) {
    let max = (1usize << bits) - 1;
    if value < max {
        out.extend_from_slice(&[first | value as u8]);
        return;
    }
    out.extend_from_slice(&[first | max as u8]);
    let mut rest = value - max;
    while rest >= 128 {
        out.extend_from_slice(&[(rest % 128) as u8 | 0x80]);
        rest /= 128;
    }
    out.extend_from_slice(&[rest as u8]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUT: &str = "/etcdserverpb.KV/Put";
    const RANGE: &str = "/etcdserverpb.KV/Range";

    fn expected(path: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "127.0.0.1:2379"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .to_vec()
    }

    /// An independent decoder reads what is written, call after call, whatever table it allows.
    #[test]
    fn an_independent_decoder_reads_every_block() {
        for table in [None, Some(4096), Some(150), Some(0)] {
            let mut writer = FieldWriter::new("127.0.0.1:2379");
            let mut decoder = loona_hpack::Decoder::new();
            for (round, path) in [PUT, RANGE, PUT, PUT, RANGE, RANGE].into_iter().enumerate() {
                if let (Some(bytes), 3) = (table, round) {
                    writer.limit_table(bytes);
                    decoder.set_max_allowed_table_size(bytes);
                }
                let mut out = SendBuf::new();
                writer.write(path, &mut out);
                assert_eq!(decoder.decode(&out).unwrap(), expected(path), "{table:?} {round}");
                if table.is_none() && round >= 2 {
                    assert_eq!(out.len(), 6, "everything is indexed");
                }
            }
        }
    }

    #[test]
    fn integers_are_those_of_the_rfc() {
        let mut out = SendBuf::new();
        push_integer(0, 5, 10, &mut out);
        push_integer(0, 5, 1337, &mut out);
        push_integer(0, 8, 42, &mut out);
        assert_eq!(out.as_slice(), [10, 31, 154, 10, 42], "RFC 7541, appendix C.1");
    }
}
