//! Unary gRPC calls over one HTTP/2 connection, client side, without a socket.
//!
//! ```text
//!   call ─► HEADERS ─► DATA (length-prefixed message, END_STREAM) ─► out
//!             └── waits for a free stream ── or for window ──┘
//!   in ─► HEADERS ─► DATA … ─► HEADERS (grpc-status, END_STREAM) ─► the call's end
//!          SETTINGS, PING, WINDOW_UPDATE ─► answered by `speak`
//! ```
//!
//! HTTP/2 with prior knowledge (RFC 9113, section 3.3), one stream a call, as many at a time as the
//! server allows; gRPC over HTTP/2 as its protocol document says. A message is five bytes and the
//! bytes of the message:
//!
//! | offset | bytes | message |
//! |-------:|------:|---|
//! | 0      | 1     | 0: not compressed |
//! | 1      | 4     | length, big-endian |
//! | 5      | n     | message |
//!
//! Flow control is kept in both directions. What is received is allowed without limit, by the
//! largest window for streams and by giving back what the connection used; what is sent keeps to
//! the server's windows.
//!
//! Left out: TLS, compression, streaming calls, priorities, pushes (refused in the settings). A
//! GOAWAY or a broken rule ends the connection; the generator opens another. A connection carries
//! 2^30 calls, as HTTP/2 numbers streams; then it is broken off in the same way.

mod fields;
mod frame;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use forebay_net::machine::SendBuf;

use super::{Carry, ProtocolError};
use fields::FieldWriter;
use frame::{Frame, HEADER_BYTES, PAYLOAD_BYTES_MAX, PREFACE, flag, kind, setting};

/// Window of every stream, and what the connection's window is kept near: the largest there is.
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// HTTP/2's initial window.
const WINDOW_INITIAL: u32 = 65_535;
/// Received bytes are given back to the connection's window in pieces of this size.
const GIVE_BACK_BYTES: u32 = 1 << 20;
/// Bytes before a message.
const PREFIX_BYTES: usize = 5;
/// The last number that a stream may have, and still leave one for nobody.
const STREAM_MAX: u32 = (1 << 31) - 3;
/// Longest header block over all its frames.
const BLOCK_BYTES_MAX: usize = 64 * 1024;
/// Longest message that is accepted; a Range of many large values is below it.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// How many buffers of ended calls are kept for later ones.
const SPARE_MAX: usize = 4096;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallEnd<'a> {
    /// With this message.
    Message(&'a [u8]),
    /// With an error, in the server's words or by its number.
    Failed(&'a str),
}

/// A stream: from its call to its end.
#[derive(Debug)]
struct Stream {
    correlation: u64,
    path: &'static str,
    is_over: bool,
    /// What the server lets us send on it.
    window: i64,
    /// The answer's bytes, prefix included.
    answer: Vec<u8>,
    status: Option<u32>,
    words: String,
}

/// A request of which something is still to be sent.
#[derive(Debug)]
struct Waiting {
    correlation: u64,
    path: &'static str,
    /// None until a stream is free for it.
    stream: Option<u32>,
    data: Vec<u8>,
    sent: usize,
}

/// One connection.
pub(super) struct GrpcConnection {
    fields: FieldWriter,
    decoder: loona_hpack::Decoder<'static>,
    carry: Carry,
    has_begun: bool,
    /// Consecutive streams, the oldest not yet ended first; the front's number is `first_stream`.
    streams: VecDeque<Stream>,
    first_stream: u32,
    open: usize,
    open_max: usize,
    window: i64,
    stream_window: i64,
    frame_bytes_max: usize,
    /// Received since the last give-back.
    received_bytes: u32,
    /// A header block whose end has not come: stream, and whether the stream ends with it.
    block: Vec<u8>,
    block_of: Option<(u32, bool)>,
    /// Frames to send that no call brought about.
    control: SendBuf,
    waiting: VecDeque<Waiting>,
    spare: Vec<Vec<u8>>,
}

impl std::fmt::Debug for GrpcConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcConnection")
            .field("open", &self.open)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl GrpcConnection {
    /// A connection to `authority`, to be opened by the first call.
    pub(super) fn new(authority: &str) -> GrpcConnection {
        GrpcConnection {
            fields: FieldWriter::new(authority),
            decoder: loona_hpack::Decoder::new(),
            carry: Carry::default(),
            has_begun: false,
            streams: VecDeque::new(),
            first_stream: 1,
            open: 0,
            // Until the server's settings say otherwise there is no limit.
            open_max: usize::MAX,
            window: i64::from(WINDOW_INITIAL),
            stream_window: i64::from(WINDOW_INITIAL),
            frame_bytes_max: PAYLOAD_BYTES_MAX,
            received_bytes: 0,
            block: Vec::new(),
            block_of: None,
            control: SendBuf::new(),
            waiting: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// Appends a call of `path` with `message` to `out`, as far as it may be sent now.
    pub(super) fn call(
        &mut self,
        path: &'static str,
        message: &[u8],
        correlation: u64,
        out: &mut SendBuf,
    ) {
        if !self.has_begun {
            self.begin(out);
        }
        let bytes = PREFIX_BYTES + message.len();
        let is_free = self.waiting.is_empty() && self.open < self.open_max;
        let fits =
            bytes <= self.frame_bytes_max && bytes as i64 <= self.window.min(self.stream_window);
        if is_free && fits {
            let stream = self.open_stream(path, correlation, out);
            self.take_window(stream, bytes);
            frame::push_header(out, bytes, kind::DATA, flag::END_STREAM, stream);
            out.extend_from_slice(&prefix(message.len()));
            out.extend_from_slice(message);
            return;
        }
        let mut data = self.spare.pop().unwrap_or_default();
        data.extend_from_slice(&prefix(message.len()));
        data.extend_from_slice(message);
        self.waiting.push_back(Waiting { correlation, path, stream: None, data, sent: 0 });
        self.pump(out);
    }

    fn begin(&mut self, out: &mut SendBuf) {
        self.has_begun = true;
        out.extend_from_slice(PREFACE);
        let settings = [(setting::ENABLE_PUSH, 0), (setting::INITIAL_WINDOW_SIZE, WINDOW_MAX)];
        frame::push_header(out, settings.len() * 6, kind::SETTINGS, 0, 0);
        for (id, value) in settings {
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
        frame::push_window_update(out, 0, WINDOW_MAX - WINDOW_INITIAL);
    }

    /// HEADERS of a new stream; its number.
    fn open_stream(&mut self, path: &'static str, correlation: u64, out: &mut SendBuf) -> u32 {
        let stream = self.first_stream + 2 * self.streams.len() as u32;
        self.streams.push_back(Stream {
            correlation,
            path,
            is_over: false,
            window: self.stream_window,
            answer: self.spare.pop().unwrap_or_default(),
            status: None,
            words: String::new(),
        });
        self.open += 1;
        let header_at = out.len();
        frame::push_header(out, 0, kind::HEADERS, flag::END_HEADERS, stream);
        self.fields.write(path, out);
        let length = out.len() - header_at - HEADER_BYTES;
        out[header_at + 1..header_at + 3].copy_from_slice(&(length as u16).to_be_bytes());
        stream
    }

    fn take_window(&mut self, stream: u32, bytes: usize) {
        self.window -= bytes as i64;
        if let Some(stream) = self.stream(stream) {
            stream.window -= bytes as i64;
        }
    }

    /// Sends of what waits as much as may be sent, in order.
    fn pump(&mut self, out: &mut SendBuf) {
        while let Some(mut first) = self.waiting.pop_front() {
            let stream = match first.stream {
                Some(stream) => stream,
                None if self.open < self.open_max => {
                    self.open_stream(first.path, first.correlation, out)
                }
                None => {
                    self.waiting.push_front(first);
                    return;
                }
            };
            first.stream = Some(stream);
            // A stream that the server has ended needs nothing more.
            while let Some(window) = self.stream(stream).map(|stream| stream.window) {
                let left = first.data.len() - first.sent;
                let may = window.min(self.window).clamp(0, self.frame_bytes_max as i64) as usize;
                let now = left.min(may);
                if now == 0 {
                    self.waiting.push_front(first);
                    return;
                }
                let flags = if now == left { flag::END_STREAM } else { 0 };
                frame::push_header(out, now, kind::DATA, flags, stream);
                out.extend_from_slice(&first.data[first.sent..first.sent + now]);
                first.sent += now;
                self.take_window(stream, now);
                if now == left {
                    break;
                }
            }
            self.give_spare(first.data);
        }
    }

    fn give_spare(&mut self, mut buf: Vec<u8>) {
        if self.spare.len() < SPARE_MAX {
            buf.clear();
            self.spare.push(buf);
        }
    }

    /// The stream, unless it is over.
    fn stream(&mut self, number: u32) -> Option<&mut Stream> {
        // Even numbers would be the server's own, which it may not open.
        let index = number.checked_sub(self.first_stream).filter(|by| by % 2 == 0)? / 2;
        self.streams.get_mut(index as usize).filter(|stream| !stream.is_over)
    }

    /// Appends what there is to send without a call: answers, and calls that had to wait.
    pub(super) fn speak(&mut self, out: &mut SendBuf) {
        if !self.control.is_empty() {
            out.extend_from_slice(&self.control);
            self.control.clear();
        }
        if !self.waiting.is_empty() {
            self.pump(out);
        }
    }

    /// Takes what arrived, in pieces of any size; `ended` hears of every call that ends: which, of
    /// what path, and how.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        ended: &mut impl FnMut(u64, &'static str, CallEnd<'_>),
    ) -> Result<(), ProtocolError> {
        let mut carry = std::mem::take(&mut self.carry);
        let fed = carry.feed(bytes, |bytes| {
            let Some((frame, used)) = Frame::split(bytes)? else { return Ok(None) };
            self.take(&frame, ended)?;
            Ok(Some(used))
        });
        self.carry = carry;
        if self.first_stream > STREAM_MAX - 2 * self.streams.len() as u32 {
            return Err(ProtocolError::Http2 { what: "all stream numbers are used", code: 0 });
        }
        fed
    }

    fn take(
        &mut self,
        frame: &Frame<'_>,
        ended: &mut impl FnMut(u64, &'static str, CallEnd<'_>),
    ) -> Result<(), ProtocolError> {
        if self.block_of.is_some() != (frame.kind == kind::CONTINUATION) {
            return Err(ProtocolError::Damaged { what: "a header block interrupted" });
        }
        match frame.kind {
            kind::DATA => self.take_data(frame, ended),
            kind::HEADERS => {
                self.block.clear();
                self.block.extend_from_slice(frame.content()?);
                self.block_of = Some((frame.stream, frame.has(flag::END_STREAM)));
                self.take_block(frame, ended)
            }
            kind::CONTINUATION => {
                if self.block_of.is_none_or(|(stream, _)| stream != frame.stream)
                    || self.block.len() + frame.payload.len() > BLOCK_BYTES_MAX
                {
                    return Err(ProtocolError::Damaged { what: "a continued header block" });
                }
                self.block.extend_from_slice(frame.payload);
                self.take_block(frame, ended)
            }
            kind::RST_STREAM => {
                let code = frame.number(0)?;
                self.end(frame.stream, Some(reset_words(code)), ended);
                Ok(())
            }
            kind::SETTINGS => self.take_settings(frame),
            kind::PING if frame.has(flag::ACK) => Ok(()),
            kind::PING => {
                let payload = frame.payload.get(..8).ok_or(ProtocolError::Length)?;
                frame::push_header(&mut self.control, 8, kind::PING, flag::ACK, 0);
                self.control.extend_from_slice(payload);
                Ok(())
            }
            kind::GOAWAY => Err(ProtocolError::Http2 {
                what: "the server ends the connection",
                code: frame.number(4)?,
            }),
            kind::WINDOW_UPDATE => {
                let increment = i64::from(frame.number(0)? & WINDOW_MAX);
                match frame.stream {
                    0 => self.window += increment,
                    number => {
                        if let Some(stream) = self.stream(number) {
                            stream.window += increment;
                        }
                    }
                }
                Ok(())
            }
            kind::PUSH_PROMISE => {
                Err(ProtocolError::Http2 { what: "a push that was forbidden", code: 0 })
            }
            // PRIORITY, and types that are not known: to be ignored (RFC 9113, section 4.1).
            _ => Ok(()),
        }
    }

    fn take_settings(&mut self, frame: &Frame<'_>) -> Result<(), ProtocolError> {
        if frame.has(flag::ACK) {
            return Ok(());
        }
        if !frame.payload.len().is_multiple_of(6) {
            return Err(ProtocolError::Damaged { what: "settings" });
        }
        for entry in frame.payload.chunks_exact(6) {
            let id = u16::from_be_bytes([entry[0], entry[1]]);
            let value = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]);
            match id {
                setting::HEADER_TABLE_SIZE => self.fields.limit_table(value as usize),
                setting::MAX_CONCURRENT_STREAMS => self.open_max = value as usize,
                setting::INITIAL_WINDOW_SIZE => {
                    let change = i64::from(value.min(WINDOW_MAX)) - self.stream_window;
                    self.stream_window += change;
                    for stream in &mut self.streams {
                        stream.window += change;
                    }
                }
                // Longer frames are allowed, not asked for; short ones are always right.
                setting::MAX_FRAME_SIZE => {
                    self.frame_bytes_max = (value as usize).min(PAYLOAD_BYTES_MAX);
                }
                _ => {}
            }
        }
        frame::push_header(&mut self.control, 0, kind::SETTINGS, flag::ACK, 0);
        Ok(())
    }

    fn take_data(
        &mut self,
        frame: &Frame<'_>,
        ended: &mut impl FnMut(u64, &'static str, CallEnd<'_>),
    ) -> Result<(), ProtocolError> {
        // Padding counts too.
        self.received_bytes += frame.payload.len() as u32;
        if self.received_bytes >= GIVE_BACK_BYTES {
            frame::push_window_update(&mut self.control, 0, self.received_bytes);
            self.received_bytes = 0;
        }
        let content = frame.content()?;
        if let Some(stream) = self.stream(frame.stream) {
            if stream.answer.len() + content.len() > MESSAGE_BYTES_MAX {
                return Err(ProtocolError::Length);
            }
            stream.answer.extend_from_slice(content);
        }
        if frame.has(flag::END_STREAM) {
            self.end(frame.stream, None, ended);
        }
        Ok(())
    }

    /// Decodes the header block if it is whole. Also those of streams that are over: the table that
    /// both sides keep depends on every block.
    fn take_block(
        &mut self,
        frame: &Frame<'_>,
        ended: &mut impl FnMut(u64, &'static str, CallEnd<'_>),
    ) -> Result<(), ProtocolError> {
        if !frame.has(flag::END_HEADERS) {
            return Ok(());
        }
        let (number, is_end) = self.block_of.take().expect("a block was begun");
        let index = (number.wrapping_sub(self.first_stream) / 2) as usize;
        let mut stream = self.streams.get_mut(index).filter(|stream| !stream.is_over);
        self.decoder
            .decode_with_cb(&self.block, |name, value| {
                let Some(stream) = stream.as_deref_mut() else { return };
                match &*name {
                    b":status" if &*value != b"200" => {
                        stream.status = Some(u32::MAX);
                        stream.words = format!("HTTP status {}", String::from_utf8_lossy(&value));
                    }
                    b"grpc-status" if stream.status.is_none() => {
                        let number = std::str::from_utf8(&value).ok().and_then(|n| n.parse().ok());
                        stream.status = Some(number.unwrap_or(u32::MAX));
                    }
                    b"grpc-message" if stream.words.is_empty() => {
                        stream.words.push_str(&String::from_utf8_lossy(&value));
                    }
                    _ => {}
                }
            })
            .map_err(|_| ProtocolError::Damaged { what: "a header block" })?;
        if is_end {
            self.end(number, None, ended);
        }
        Ok(())
    }

    /// The stream is over: by the server's last frame, or for the reason `reset`.
    fn end(
        &mut self,
        number: u32,
        reset: Option<&str>,
        ended: &mut impl FnMut(u64, &'static str, CallEnd<'_>),
    ) {
        let Some(stream) = self.stream(number) else { return };
        stream.is_over = true;
        let answer = std::mem::take(&mut stream.answer);
        let message = answer.get(PREFIX_BYTES..).filter(|message| {
            answer[0] == 0 && answer[1..PREFIX_BYTES] == (message.len() as u32).to_be_bytes()
        });
        let end = match (reset, stream.status, message) {
            (Some(words), ..) => CallEnd::Failed(words),
            (None, Some(0), Some(message)) => CallEnd::Message(message),
            (None, Some(0), None) => CallEnd::Failed("an answer without its message"),
            (None, None, _) => CallEnd::Failed("an answer without its status"),
            (None, Some(_), _) if !stream.words.is_empty() => CallEnd::Failed(&stream.words),
            (None, Some(status), _) => CallEnd::Failed(status_words(status)),
        };
        ended(stream.correlation, stream.path, end);
        self.give_spare(answer);
        self.open -= 1;
        while self.streams.front().is_some_and(|stream| stream.is_over) {
            self.streams.pop_front();
            self.first_stream += 2;
        }
    }
}

fn prefix(length: usize) -> [u8; PREFIX_BYTES] {
    let length = u32::try_from(length).expect("a message is far below 4 GiB");
    let [a, b, c, d] = length.to_be_bytes();
    [0, a, b, c, d]
}

/// HTTP/2's error codes that servers use to refuse.
fn reset_words(code: u32) -> &'static str {
    match code {
        7 => "the stream was refused (REFUSED_STREAM)",
        8 => "the stream was cancelled (CANCEL)",
        11 => "the server asks for calm (ENHANCE_YOUR_CALM)",
        _ => "the stream was reset",
    }
}

/// gRPC's status codes, for answers without words.
fn status_words(status: u32) -> &'static str {
    match status {
        3 => "gRPC: INVALID_ARGUMENT",
        4 => "gRPC: DEADLINE_EXCEEDED",
        5 => "gRPC: NOT_FOUND",
        7 => "gRPC: PERMISSION_DENIED",
        8 => "gRPC: RESOURCE_EXHAUSTED",
        12 => "gRPC: UNIMPLEMENTED",
        13 => "gRPC: INTERNAL",
        14 => "gRPC: UNAVAILABLE",
        16 => "gRPC: UNAUTHENTICATED",
        _ => "gRPC: an error",
    }
}
