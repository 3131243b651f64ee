//! Frames of the control protocol: JSON with its length before it.
//!
//! | offset | bytes | field | meaning |
//! |---:|---:|---|---|
//! | 0 | 4 | length | of what follows, big-endian |
//! | 4 | length | message | JSON, UTF-8 |
//!
//! A length beyond the limit ends the connection before anything is read or kept for it: whatever
//! speaks another protocol, HTTP for instance, is found out by its first four bytes.
//!
//! Both sides say [`Alive`](super::message) every second, so silence for [`SILENCE`] means that the
//! other machine or the way to it is gone.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::WorkerError;

/// Longest message: an interval of every kind of operation in many phases is some hundred KiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
const LENGTH_BYTES: usize = 4;
/// Between two signs of life.
pub(super) const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// Without one for so long, the other side is lost.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// One end of a control connection. One thread receives; any may send.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    /// Held while a frame is written, so that frames stay whole.
    sending: Mutex<()>,
}

impl Wire {
    /// Over `stream`.
    pub(super) fn new(stream: TcpStream) -> Result<Wire, WorkerError> {
        stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(SILENCE)))
            .and_then(|()| stream.set_write_timeout(Some(SILENCE)))
            .map_err(WorkerError::Connection)?;
        Ok(Wire { stream, sending: Mutex::new(()) })
    }

    /// Sends one message.
    pub(super) fn send(&self, message: &impl Serialize) -> Result<(), WorkerError> {
        let mut frame = vec![0; LENGTH_BYTES];
        serde_json::to_writer(&mut frame, message).map_err(WorkerError::Message)?;
        let bytes = frame.len() - LENGTH_BYTES;
        if bytes > MESSAGE_BYTES_MAX {
            return Err(WorkerError::Length { bytes, max: MESSAGE_BYTES_MAX });
        }
        frame[..LENGTH_BYTES].copy_from_slice(&(bytes as u32).to_be_bytes());
        let _whole = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        (&self.stream).write_all(&frame).map_err(broken)
    }

    /// The next message.
    pub(super) fn receive<M: DeserializeOwned>(&self) -> Result<M, WorkerError> {
        let mut length = [0; LENGTH_BYTES];
        (&self.stream).read_exact(&mut length).map_err(broken)?;
        let bytes = u32::from_be_bytes(length) as usize;
        if bytes > MESSAGE_BYTES_MAX {
            return Err(WorkerError::Length { bytes, max: MESSAGE_BYTES_MAX });
        }
        let mut message = vec![0; bytes];
        (&self.stream).read_exact(&mut message).map_err(broken)?;
        serde_json::from_slice(&message).map_err(WorkerError::Message)
    }

    /// Nothing more is sent; returns when the other side has ended too, or is silent.
    pub(super) fn finish(&self) {
        // An error here is an end as well.
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        let mut rest = [0; 4096];
        while matches!((&self.stream).read(&mut rest), Ok(bytes) if bytes > 0) {}
    }

    /// Ends both directions at once.
    pub(super) fn close(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn broken(error: io::Error) -> WorkerError {
    match error.kind() {
        // What a socket's time limit is called.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            WorkerError::Silent { seconds: SILENCE.as_secs() }
        }
        io::ErrorKind::UnexpectedEof => WorkerError::Gone,
        _ => WorkerError::Connection(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Wire::new(listener.accept().unwrap().0).unwrap(), stream)
    }

    #[test]
    fn a_frame_is_its_length_and_its_json() {
        let (wire, mut stream) = pair();
        wire.send(&("ab", 7)).unwrap();
        let mut got = [0; 12];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"\0\0\0\x08[\"ab\",7]");
        stream.write_all(&got).unwrap();
        assert_eq!(wire.receive::<(String, u32)>().unwrap(), ("ab".to_owned(), 7));
    }

    #[test]
    fn foreign_bytes_and_ends_are_named() {
        let (wire, mut stream) = pair();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(matches!(wire.receive::<u32>(), Err(WorkerError::Length { .. })));
        let (wire, mut stream) = pair();
        stream.write_all(b"\0\0\0\x02{x").unwrap();
        assert!(matches!(wire.receive::<u32>(), Err(WorkerError::Message(_))));
        let (wire, stream) = pair();
        drop(stream);
        assert!(matches!(wire.receive::<u32>(), Err(WorkerError::Gone)));
    }
}
