//! A connection against a small server that is written from the RFC, in pieces of every size.

use super::*;

const PATH: &str = "/x.Y/Z";

/// What a server says.
struct Server {
    out: SendBuf,
}

impl Server {
    fn new() -> Server {
        Server { out: SendBuf::new() }
    }

    fn frame(mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Server {
        frame::push_header(&mut self.out, payload.len(), kind, flags, stream);
        self.out.extend_from_slice(payload);
        self
    }

    fn settings(self, settings: &[(u16, u32)]) -> Server {
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        self.frame(kind::SETTINGS, 0, 0, &payload)
    }

    /// `:status: 200` (static 8) in one frame, the message, and trailers.
    fn answer(self, stream: u32, message: &[u8], status: &str) -> Server {
        let data = [&prefix(message.len())[..], message].concat();
        self.frame(kind::HEADERS, flag::END_HEADERS, stream, &[0x88])
            .frame(kind::DATA, 0, stream, &data)
            .trailers(stream, status)
    }

    fn trailers(self, stream: u32, status: &str) -> Server {
        let mut block = vec![0, 11];
        block.extend_from_slice(b"grpc-status");
        block.push(status.len() as u8);
        block.extend_from_slice(status.as_bytes());
        self.frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &block)
    }
}

fn frames(bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut bytes = bytes.strip_prefix(PREFACE).unwrap_or(bytes);
    let mut frames = Vec::new();
    while let Some((frame, used)) = Frame::split(bytes).unwrap() {
        frames.push((frame.kind, frame.flags, frame.stream, frame.payload.to_vec()));
        bytes = &bytes[used..];
    }
    assert!(bytes.is_empty());
    frames
}

type Ends = Vec<(u64, Result<Vec<u8>, String>)>;

fn receive(connection: &mut GrpcConnection, bytes: &[u8], ends: &mut Ends) {
    connection
        .receive(bytes, &mut |correlation, path, end| {
            assert_eq!(path, PATH);
            ends.push((
                correlation,
                match end {
                    CallEnd::Message(message) => Ok(message.to_vec()),
                    CallEnd::Failed(words) => Err(words.to_owned()),
                },
            ));
        })
        .unwrap();
}

#[test]
fn a_connection_begins_with_its_preface_and_numbers_streams_oddly() {
    let mut connection = GrpcConnection::new("h:1");
    let mut out = SendBuf::new();
    connection.call(PATH, b"abc", 1, &mut out);
    connection.call(PATH, b"", 2, &mut out);
    assert!(out.starts_with(PREFACE));
    let frames = frames(&out);
    let kinds: Vec<(u8, u32)> = frames.iter().map(|frame| (frame.0, frame.2)).collect();
    assert_eq!(
        kinds,
        [
            (kind::SETTINGS, 0),
            (kind::WINDOW_UPDATE, 0),
            (kind::HEADERS, 1),
            (kind::DATA, 1),
            (kind::HEADERS, 3),
            (kind::DATA, 3)
        ]
    );
    assert_eq!(frames[3].3, [0, 0, 0, 0, 3, b'a', b'b', b'c']);
    assert_eq!(frames[3].1, flag::END_STREAM);
}

#[test]
fn answers_in_any_pieces_and_any_order_reach_their_calls() {
    let stream = Server::new()
        .settings(&[(setting::MAX_CONCURRENT_STREAMS, 100)])
        .answer(5, b"third", "0")
        .frame(kind::PING, 0, 0, b"12345678")
        .answer(1, b"first", "0")
        .answer(3, b"", "14")
        .frame(kind::RST_STREAM, 0, 7, &7u32.to_be_bytes())
        .frame(0x77, 0, 0, b"of an unknown type")
        .trailers(9, "8")
        .out;
    for piece in 1..=stream.len() {
        let mut connection = GrpcConnection::new("h:1");
        let mut out = SendBuf::new();
        for correlation in 1..=5 {
            connection.call(PATH, b"q", correlation, &mut out);
        }
        out.clear();
        let mut ends = Ends::new();
        for bytes in stream.chunks(piece) {
            receive(&mut connection, bytes, &mut ends);
        }
        assert_eq!(
            ends,
            [
                (3, Ok(b"third".to_vec())),
                (1, Ok(b"first".to_vec())),
                (2, Err("gRPC: UNAVAILABLE".to_owned())),
                (4, Err("the stream was refused (REFUSED_STREAM)".to_owned())),
                (5, Err("gRPC: RESOURCE_EXHAUSTED".to_owned())),
            ],
            "in pieces of {piece}"
        );
        connection.speak(&mut out);
        let said: Vec<u8> = frames(&out).iter().map(|frame| frame.0).collect();
        assert_eq!(said, [kind::SETTINGS, kind::PING]);
        assert_eq!(connection.open, 0);
        assert!(connection.streams.is_empty());
    }
}

#[test]
fn a_message_larger_than_the_windows_waits_for_them() {
    let mut connection = GrpcConnection::new("h:1");
    let mut out = SendBuf::new();
    let message = vec![7u8; 100_000];
    connection.call(PATH, &message, 1, &mut out);
    connection.call(PATH, b"small", 2, &mut out);
    let mut data: Vec<u8> = Vec::new();
    let mut collect = |out: &mut SendBuf| {
        let mut ended = false;
        for (kind_found, flags, stream, payload) in frames(out) {
            assert!(payload.len() <= PAYLOAD_BYTES_MAX);
            if kind_found == kind::DATA && stream == 1 {
                data.extend_from_slice(&payload);
                ended = flags & flag::END_STREAM != 0;
            }
        }
        out.clear();
        (data.len(), ended)
    };
    assert_eq!(collect(&mut out), (WINDOW_INITIAL as usize, false));
    let mut ends = Ends::new();
    let update = |stream: u32, by: u32| {
        Server::new().frame(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes()).out
    };
    // The connection's window alone does not help the stream.
    receive(&mut connection, &update(0, 1 << 20), &mut ends);
    connection.speak(&mut out);
    assert_eq!(collect(&mut out), (WINDOW_INITIAL as usize, false));
    receive(&mut connection, &update(1, 1000), &mut ends);
    connection.speak(&mut out);
    assert_eq!(collect(&mut out), (WINDOW_INITIAL as usize + 1000, false));
    // A larger initial window counts for streams that are open.
    let settings = Server::new().settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 20)]).out;
    receive(&mut connection, &settings, &mut ends);
    connection.speak(&mut out);
    assert_eq!(collect(&mut out), (PREFIX_BYTES + message.len(), true));
    assert!(connection.waiting.is_empty());
    assert!(data.ends_with(&message) && ends.is_empty());
}

#[test]
fn calls_beyond_the_servers_limit_wait_for_a_free_stream() {
    let mut connection = GrpcConnection::new("h:1");
    let mut ends = Ends::new();
    let settings = Server::new().settings(&[(setting::MAX_CONCURRENT_STREAMS, 2)]).out;
    receive(&mut connection, &settings, &mut ends);
    let mut out = SendBuf::new();
    for correlation in 1..=4 {
        connection.call(PATH, b"q", correlation, &mut out);
    }
    let opened = |out: &SendBuf| frames(out).iter().filter(|f| f.0 == kind::HEADERS).count();
    assert_eq!(opened(&out), 2);
    out.clear();
    receive(&mut connection, &Server::new().answer(1, b"a", "0").out, &mut ends);
    connection.speak(&mut out);
    assert_eq!(opened(&out), 1);
    out.clear();
    let more = Server::new().answer(5, b"c", "0").answer(3, b"b", "0").out;
    receive(&mut connection, &more, &mut ends);
    connection.speak(&mut out);
    assert_eq!(opened(&out), 1);
    let order: Vec<u64> = ends.iter().map(|end| end.0).collect();
    assert_eq!(order, [1, 3, 2]);
}

#[test]
fn long_answers_give_their_window_back() {
    let mut connection = GrpcConnection::new("h:1");
    let mut out = SendBuf::new();
    connection.call(PATH, b"q", 1, &mut out);
    out.clear();
    let message = vec![1u8; 3 << 20];
    let all = [&prefix(message.len())[..], &message].concat();
    let mut server = Server::new().frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x88]);
    for piece in all.chunks(PAYLOAD_BYTES_MAX) {
        server = server.frame(kind::DATA, 0, 1, piece);
    }
    let mut ends = Ends::new();
    receive(&mut connection, &server.trailers(1, "0").out, &mut ends);
    assert_eq!(ends, [(1, Ok(message))]);
    connection.speak(&mut out);
    let given: u32 = frames(&out)
        .iter()
        .filter(|frame| frame.0 == kind::WINDOW_UPDATE && frame.2 == 0)
        .map(|frame| u32::from_be_bytes(frame.3[..].try_into().unwrap()))
        .sum();
    assert!(given >= 2 << 20, "{given}");
}

#[test]
fn broken_rules_are_named_errors() {
    let receive = |server: Server| {
        let mut connection = GrpcConnection::new("h:1");
        connection.call(PATH, b"q", 1, &mut SendBuf::new());
        connection.receive(&server.out, &mut |_, _, _| {})
    };
    let goaway = Server::new().frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]);
    assert!(matches!(receive(goaway), Err(ProtocolError::Http2 { code: 11, .. })));
    let push = Server::new().frame(kind::PUSH_PROMISE, 0, 1, &[0; 4]);
    assert!(matches!(receive(push), Err(ProtocolError::Http2 { .. })));
    for damaged in [
        Server::new().frame(kind::SETTINGS, 0, 0, &[0; 5]),
        Server::new().frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]),
        Server::new().frame(kind::HEADERS, 0, 1, &[0x88]).frame(kind::DATA, 0, 1, &[]),
        Server::new().frame(kind::HEADERS, flag::END_HEADERS, 1, &[0xff, 0xff, 0xff]),
        Server::new().frame(kind::WINDOW_UPDATE, 0, 0, &[1]),
        Server::new().frame(kind::GOAWAY, 0, 0, &[1]),
    ] {
        assert!(matches!(receive(damaged), Err(ProtocolError::Damaged { .. })));
    }
}

/// Bytes that no server sends never panic, loop or index beyond: a cheap fuzz of the decoder.
#[test]
fn random_bytes_end_in_an_error_or_in_silence() {
    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng as _};
    let valid = Server::new()
        .settings(&[(setting::INITIAL_WINDOW_SIZE, 100)])
        .answer(1, b"first", "0")
        .answer(3, b"second", "0")
        .out;
    for seed in 0..4000 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut bytes = valid.to_vec();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        let mut connection = GrpcConnection::new("h:1");
        let mut out = SendBuf::new();
        for correlation in 1..=3 {
            connection.call(PATH, b"q", correlation, &mut out);
        }
        let piece = rng.random_range(1..=bytes.len());
        let mut calls = 0;
        for bytes in bytes.chunks(piece) {
            if connection.receive(bytes, &mut |_, _, _| calls += 1).is_err() {
                break;
            }
            connection.speak(&mut out);
        }
        assert!(calls <= 3, "seed {seed}: each call ends once");
    }
}

#[test]
fn a_warm_connection_allocates_nothing() {
    use crate::allocations::allocations_in;
    let mut connection = GrpcConnection::new("h:1");
    let mut out = SendBuf::new();
    let mut answers = SendBuf::new();
    let mut next = 1u32;
    let mut round = || {
        out.clear();
        answers.clear();
        for correlation in 0..8 {
            connection.call(PATH, &[b'q'; 150], correlation, &mut out);
            // The trailers as a server with a table sends them: indexed. 0xbe is its first entry.
            for (kind, flags, payload) in [
                (kind::HEADERS, flag::END_HEADERS, &[0x88][..]),
                (kind::DATA, 0, &[0, 0, 0, 0, 2, b'o', b'k'][..]),
                (
                    kind::HEADERS,
                    flag::END_HEADERS | flag::END_STREAM,
                    if next == 1 { b"\x40\x0bgrpc-status\x010" } else { &[0xbe][..] },
                ),
                (kind::WINDOW_UPDATE, 0, &[0, 0, 1, 0][..]),
            ] {
                let stream = if kind == kind::WINDOW_UPDATE { 0 } else { next };
                frame::push_header(&mut answers, payload.len(), kind, flags, stream);
                answers.extend_from_slice(payload);
            }
            next += 2;
        }
        let mut ends = 0;
        let (first, second) = answers.split_at(answers.len() - 4);
        for piece in [first, second] {
            connection
                .receive(piece, &mut |_, _, end| {
                    assert_eq!(end, CallEnd::Message(b"ok"));
                    ends += 1;
                })
                .unwrap();
            connection.speak(&mut out);
        }
        assert_eq!(ends, 8);
    };
    (0..10).for_each(|_| round());
    assert_eq!(allocations_in(|| (0..100).for_each(|_| round())), 0);
}
