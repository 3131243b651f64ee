//! Frames survive any cutting of the stream, and no changed byte goes unnoticed.

use forebay_core::message::{ArchivedGetReply, GetReply, Kind};
use proptest::prelude::*;

use super::*;

fn sample() -> SendBuf {
    let mut out = SendBuf::new();
    append(&mut out, 7, &GetReply { item: Some(b"the item") });
    append(&mut out, 8, &GetReply { item: None });
    out
}

#[test]
fn golden_bytes_of_a_frame() {
    let mut out = SendBuf::new();
    append(&mut out, 0x0102_0304_0506_0708, &GetReply { item: Some(b"item") });
    let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            "30000000",         // frame_bytes
            "c7dae5d3",         // checksum
            "0100",             // protocol_version
            "0280",             // kind
            "0100",             // message_version
            "0000",             // reserved
            "0807060504030201", // correlation
            "10000000",         // payload_bytes
            "00000000",         // reserved
            "6974656d",         // the item, archived before the struct that points to it
            "01000000",         // Some
            "f8ffffff",         // relative pointer: 8 back
            "04000000",         // length
        )
    );
}

#[test]
fn a_flipped_bit_anywhere_is_refused_or_leaves_the_frame_incomplete() {
    let good = sample();
    let first = split(&good).unwrap().unwrap().frame_bytes;
    for bit in 0..first * 8 {
        let mut bad = SendBuf::new();
        bad.extend_from_slice(&good[..first]);
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(!matches!(split(&bad), Ok(Some(_))), "bit {bit}");
    }
}

#[test]
fn kinds_and_messages_come_back() {
    let bytes = sample();
    let frame = split(&bytes).unwrap().unwrap();
    assert_eq!(Kind::from_wire(frame.kind), Some(Kind::GetReply));
    assert_eq!(frame.correlation, 7);
    let reply: &ArchivedGetReply = frame.message().unwrap();
    assert_eq!(reply.item.as_ref().unwrap().get(), b"the item");
}

#[test]
fn lengths_outside_the_limits_are_refused_before_the_rest_arrives() {
    for length in [0u32, 16, 31, 33, 40, u32::MAX, FRAME_BYTES_MAX as u32 + 16] {
        assert!(matches!(split(&length.to_le_bytes()), Err(FrameError::Length { .. })), "{length}");
    }
}

proptest! {
    #[test]
    fn any_cutting_of_the_stream_yields_the_same_frames(cuts in prop::collection::vec(1usize..40, 1..40)) {
        let mut stream = SendBuf::new();
        for n in 0..10u64 {
            append(&mut stream, n, &GetReply { item: Some(&vec![n as u8; n as usize * 13]) });
        }
        let mut inbox = Inbox::default();
        let mut seen = Vec::new();
        let mut at = 0;
        for cut in cuts.iter().cycle() {
            let end = (at + cut).min(stream.len());
            inbox.receive(&stream[at..end], |frame| {
                let reply: &ArchivedGetReply = frame.message().expect("valid");
                seen.push((frame.correlation, reply.item.as_ref().unwrap().get().to_vec()));
            }).unwrap();
            at = end;
            if at == stream.len() { break; }
        }
        prop_assert_eq!(inbox.pending_bytes(), 0);
        prop_assert_eq!(seen.len(), 10);
        for (n, (correlation, item)) in seen.into_iter().enumerate() {
            prop_assert_eq!(correlation, n as u64);
            prop_assert_eq!(item, vec![n as u8; n * 13]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut inbox = Inbox::default();
        let _ = inbox.receive(&bytes, |frame| { let _ = frame.message::<ArchivedGetReply>(); });
    }
}
