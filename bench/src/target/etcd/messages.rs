//! The few messages of etcd's API that are used here, in protobuf's encoding.
//!
//! | message | fields, by number |
//! |---|---|
//! | RangeRequest | key 1, range_end 2, limit 3, serializable 7 |
//! | RangeResponse | kvs 2 (KeyValue: key 1, value 5), count 4 |
//! | PutRequest | key 1, value 2 |
//! | TxnRequest | compare 1 (result 1, target 2, key 3, version 4), success 2 (request_put 2) |
//! | TxnResponse | succeeded 2 |
//! | StatusResponse | header 1 (member_id 2), version 2, leader 4 |
//! | MemberListResponse | members 2 |
//!
//! Written by hand: six fields a request do not need a code generator, and a request is then encoded
//! without an allocation.

use super::super::ProtocolError;

/// Wire types.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/// `Compare.result`: GREATER; `Compare.target`: VERSION, the default, which is not sent.
const GREATER: u64 = 1;

/// Appends a RangeRequest: one key, or everything from `key` to before `end`.
pub(super) fn range(
    out: &mut Vec<u8>,
    key: &[u8],
    end: Option<&[u8]>,
    limit: u32,
    serializable: bool,
) {
    push_bytes(out, 1, key);
    if let Some(end) = end {
        push_bytes(out, 2, end);
    }
    if limit > 0 {
        push_number(out, 3, limit.into());
    }
    if serializable {
        push_number(out, 7, 1);
    }
}

/// Appends a PutRequest.
pub(super) fn put(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    push_bytes(out, 1, key);
    push_bytes(out, 2, value);
}

/// Appends a TxnRequest that puts if the key has a version, which is to say if it is there.
pub(super) fn put_existing(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let field = |bytes: usize| 1 + varint_bytes(bytes as u64) + bytes;
    // result, key, and version 0: a member of a oneof, so it is sent although it is 0.
    push_varint(out, tag(1, BYTES));
    push_varint(out, (2 + field(key.len()) + 2) as u64);
    push_number(out, 1, GREATER);
    push_bytes(out, 3, key);
    push_number(out, 4, 0);
    let put_bytes = field(key.len()) + field(value.len());
    push_varint(out, tag(2, BYTES));
    push_varint(out, field(put_bytes) as u64);
    push_varint(out, tag(2, BYTES));
    push_varint(out, put_bytes as u64);
    put(out, key, value);
}

/// The value of the first record of a RangeResponse; None if it has none.
pub(super) fn range_value(message: &[u8]) -> Result<Option<&[u8]>, ProtocolError> {
    for field in Fields(message) {
        if let (2, Value::Bytes(record)) = field? {
            for field in Fields(record) {
                if let (5, Value::Bytes(value)) = field? {
                    return Ok(Some(value));
                }
            }
            // An empty value is not sent.
            return Ok(Some(&[]));
        }
    }
    Ok(None)
}

/// `succeeded` of a TxnResponse.
pub(super) fn txn_succeeded(message: &[u8]) -> Result<bool, ProtocolError> {
    for field in Fields(message) {
        if let (2, Value::Number(succeeded)) = field? {
            return Ok(succeeded != 0);
        }
    }
    Ok(false)
}

/// What Maintenance.Status says of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) member: u64,
    pub(super) leader: u64,
}

/// Reads a StatusResponse.
pub(super) fn status(message: &[u8]) -> Result<Status, ProtocolError> {
    let mut status = Status::default();
    for field in Fields(message) {
        match field? {
            (1, Value::Bytes(header)) => {
                for field in Fields(header) {
                    if let (2, Value::Number(member)) = field? {
                        status.member = member;
                    }
                }
            }
            (2, Value::Bytes(version)) => {
                status.version = String::from_utf8_lossy(version).into_owned();
            }
            (4, Value::Number(leader)) => status.leader = leader,
            _ => {}
        }
    }
    Ok(status)
}

/// How many members a MemberListResponse has.
pub(super) fn members(message: &[u8]) -> Result<usize, ProtocolError> {
    let mut members = 0;
    for field in Fields(message) {
        members += usize::from(matches!(field?, (2, Value::Bytes(_))));
    }
    Ok(members)
}

fn tag(field: u32, wire: u32) -> u64 {
    u64::from(field << 3 | wire)
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_bytes(value: u64) -> usize {
    (64 - value.leading_zeros() as usize).div_ceil(7).max(1)
}

fn push_number(out: &mut Vec<u8>, field: u32, value: u64) {
    push_varint(out, tag(field, VARINT));
    push_varint(out, value);
}

fn push_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    push_varint(out, tag(field, BYTES));
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a kind that nothing here uses.
    Fixed,
}

/// The fields of a message in turn: number and value.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 128 {
                return Some(value);
            }
        }
        None
    }

    fn skip(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (skipped, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(skipped)
    }

    fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let tag = u32::try_from(self.varint()?).ok()?;
        let value = match tag & 7 {
            VARINT => Value::Number(self.varint()?),
            BYTES => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.skip(length)?)
            }
            FIXED64 => self.skip(8).map(|_| Value::Fixed)?,
            FIXED32 => self.skip(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), ProtocolError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        match self.field() {
            Some(field) => Some(Ok(field)),
            None => {
                self.0 = &[];
                Some(Err(ProtocolError::Damaged { what: "a protobuf message" }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_golden_bytes() {
        let mut out = Vec::new();
        put(&mut out, b"k", b"vv");
        assert_eq!(out, b"\x0a\x01k\x12\x02vv");
        out.clear();
        range(&mut out, b"k", Some(b"l"), 300, true);
        assert_eq!(out, b"\x0a\x01k\x12\x01l\x18\xac\x02\x38\x01");
        out.clear();
        put_existing(&mut out, b"k", b"vv");
        let compare = b"\x08\x01\x1a\x01k\x20\x00";
        let put = b"\x0a\x01k\x12\x02vv";
        let expected = [
            &[0x0a, compare.len() as u8][..],
            compare,
            &[0x12, put.len() as u8 + 2, 0x12, put.len() as u8],
            put,
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn long_fields_have_long_lengths() {
        let (key, value) = ([b'k'; 200], vec![7; 70_000]);
        let mut out = Vec::new();
        put_existing(&mut out, &key, &value);
        // Two fields that fill the message exactly.
        let fields: Vec<_> = Fields(&out).map(Result::unwrap).collect();
        assert_eq!(fields.len(), 2);
        let (2, Value::Bytes(operation)) = fields[1] else { panic!("{:?}", fields[1].0) };
        let Some(Ok((2, Value::Bytes(put)))) = Fields(operation).next() else { panic!() };
        let put: Vec<_> = Fields(put).map(Result::unwrap).collect();
        assert_eq!(put, [(1, Value::Bytes(&key)), (2, Value::Bytes(&value))]);
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::MAX] {
            let mut out = Vec::new();
            push_varint(&mut out, value);
            assert_eq!(out.len(), varint_bytes(value), "{value}");
        }
    }

    #[test]
    fn answers_are_read_and_unknown_fields_skipped() {
        // header 1, kvs 2 { key 1, create_revision 2, value 5, lease 6 }, count 4.
        let record = b"\x0a\x01k\x10\x05\x2a\x03abc\x30\x00";
        let mut message = b"\x0a\x02\x08\x01".to_vec();
        push_bytes(&mut message, 2, record);
        push_number(&mut message, 4, 1);
        assert_eq!(range_value(&message), Ok(Some(&b"abc"[..])));
        assert_eq!(range_value(b"\x0a\x02\x08\x01"), Ok(None));
        assert_eq!(range_value(b"\x12\x03\x0a\x01k"), Ok(Some(&b""[..])));
        assert_eq!(txn_succeeded(b"\x0a\x00\x10\x01"), Ok(true));
        assert_eq!(txn_succeeded(b"\x0a\x00"), Ok(false));
        let told = status(b"\x0a\x04\x08\x01\x10\x09\x12\x063.4.23\x18\x01\x20\x07").unwrap();
        assert_eq!(told, Status { version: "3.4.23".to_owned(), member: 9, leader: 7 });
        assert_eq!(members(b"\x0a\x00\x12\x00\x12\x00\x12\x00"), Ok(3));
    }

    #[test]
    fn damaged_messages_are_errors() {
        for bad in [
            &b"\x12\x05abc"[..],
            b"\x12",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0b",
            b"\x09abc",
            b"\x12\x02\x2a\x09",
        ] {
            assert!(range_value(bad).is_err(), "{bad:?}");
        }
    }
}
