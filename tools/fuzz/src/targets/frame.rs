//! The cutting of a byte stream into frames. Input: how it arrives (1 byte), then the stream.

use forebay_core::message::{DescribeNodeRequest, ErrorReply, GetReply};
use forebay_net::frame::{self, FRAME_ALIGN, FrameError, HEADER_BYTES, Inbox, PROTOCOL_VERSION};
use forebay_net::machine::SendBuf;
use forebay_storage::sim_disk::SimRandom;

use super::{Input, put, u32_at};

/// Frames are found and refused alike however the stream is cut, and mean what their bytes say.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let cuts = input.byte();
    check(input.0, cuts);
    let mut sealed = input.0.to_vec();
    seal(&mut sealed);
    check(&sealed, cuts);
}

/// Makes the checksum of every frame right, as far as lengths make sense.
pub(super) fn seal(stream: &mut [u8]) {
    let mut rest = stream;
    while rest.len() >= HEADER_BYTES {
        let length = u32_at(rest, 0) as usize;
        if length < HEADER_BYTES || length > rest.len() {
            return;
        }
        let (frame, after) = rest.split_at_mut(length);
        let mut hasher = crc32fast::Hasher::new_with_initial(length as u32);
        hasher.update(&frame[8..]);
        put(frame, 4, &hasher.finalize().to_le_bytes());
        rest = after;
    }
}

/// A frame's bytes, by the table in the format's docs.
fn encode(frame: &frame::Frame<'_>) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.extend_from_slice(frame.payload);
    bytes.resize(bytes.len().next_multiple_of(FRAME_ALIGN), 0);
    let length = bytes.len() as u32;
    put(&mut bytes, 0, &length.to_le_bytes());
    put(&mut bytes, 8, &PROTOCOL_VERSION.to_le_bytes());
    put(&mut bytes, 10, &frame.kind.to_le_bytes());
    put(&mut bytes, 12, &frame.message_version.to_le_bytes());
    put(&mut bytes, 16, &frame.correlation.to_le_bytes());
    put(&mut bytes, 24, &(frame.payload.len() as u32).to_le_bytes());
    seal(&mut bytes);
    bytes
}

fn check(stream: &[u8], cuts: u8) {
    let mut aligned = SendBuf::new();
    aligned.extend_from_slice(stream);

    let mut whole = Vec::new();
    let mut rest = &aligned[..];
    let end: Result<usize, FrameError> = loop {
        match frame::split(rest) {
            Ok(Some(frame)) => {
                let (bytes, after) = rest.split_at(frame.frame_bytes);
                assert_eq!(encode(&frame), bytes, "a frame is its fields and nothing else");
                whole.push(bytes.to_vec());
                rest = after;
            }
            Ok(None) => break Ok(rest.len()),
            Err(error) => {
                assert!(!error.name().is_empty() && !error.to_string().is_empty());
                break Err(error);
            }
        }
    };

    let mut random = SimRandom::new(cuts.into());
    let mut inbox = Inbox::default();
    let mut found = Vec::new();
    let mut rest = &aligned[..];
    let mut cut_end = Ok(());
    while !rest.is_empty() && cut_end.is_ok() {
        let piece = match random.below(4) {
            0 => 1,
            1 => FRAME_ALIGN,
            2 => 1 + random.below(100),
            _ => 1 + random.below(rest.len()),
        };
        let (piece, after) = rest.split_at(piece.min(rest.len()));
        rest = after;
        cut_end = inbox.receive(piece, |frame| {
            let address = frame.payload.as_ptr().addr();
            assert!(address.is_multiple_of(FRAME_ALIGN), "archives are used in place");
            found.push(encode(&frame));
        });
    }
    assert_eq!(found, whole, "the same frames however they arrive");
    assert_eq!(cut_end.map(|()| inbox.pending_bytes()), end);
}

/// A few good streams.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut stream = SendBuf::new();
    frame::append(&mut stream, 1, &DescribeNodeRequest { protocol_version: 1 });
    let one = stream.len();
    frame::append(&mut stream, u64::MAX, &GetReply { item: Some(b"an item of some bytes") });
    let message = "no";
    let error = ErrorReply { code: 4, retry_after_micros: 5, message, item: None };
    frame::append(&mut stream, 7, &error);
    let cut = [&[3], &stream[..stream.len() - 9]].concat();
    vec![[&[0], &stream[..one]].concat(), [&[1], &stream[..]].concat(), cut]
}
