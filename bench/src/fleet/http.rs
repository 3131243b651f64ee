//! HTTP/1.1, as much as asking for one page over and over takes.

use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a server may take to answer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Longest body of an answer.
const BODY_BYTES_MAX: usize = 64 << 20;

/// One connection that is kept for many requests.
#[derive(Debug)]
pub(crate) struct HttpConnection {
    stream: TcpStream,
    request: String,
    got: Vec<u8>,
}

impl HttpConnection {
    /// Connects to `address`, to ask for `path`.
    pub(crate) fn open(address: SocketAddr, path: &str) -> std::io::Result<HttpConnection> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_nodelay(true)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        Ok(HttpConnection { stream, request, got: Vec::new() })
    }

    /// Asks once, in one write; the body of the answer, which must be 200.
    pub(crate) fn ask(&mut self) -> std::io::Result<&[u8]> {
        self.stream.write_all(self.request.as_bytes())?;
        self.got.clear();
        let head = loop {
            if let Some(at) = self.got.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if self.got.len() > HEAD_BYTES_MAX {
                return Err(Error::other("an answer without an end of its head"));
            }
            self.read()?;
        };
        let length = content_length(&self.got[..head])?;
        while self.got.len() < head + length {
            self.read()?;
        }
        Ok(&self.got[head..head + length])
    }

    fn read(&mut self) -> std::io::Result<()> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            read => {
                self.got.extend_from_slice(&piece[..read]);
                Ok(())
            }
        }
    }
}

/// The length that the head of a good answer states.
fn content_length(head: &[u8]) -> std::io::Result<usize> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        return Err(Error::other(format!("answered {status:?}")));
    }
    lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .filter(|&length| length <= BODY_BYTES_MAX)
        .ok_or_else(|| Error::other("an answer without its length"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn serving(answers: &'static [&'static [u8]]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                let _ = stream.read(&mut [0; 1024]).unwrap();
                // In two pieces, so that the client must put them together.
                let (first, second) = answer.split_at(answer.len() / 2);
                stream.write_all(first).unwrap();
                std::thread::sleep(Duration::from_millis(5));
                stream.write_all(second).unwrap();
            }
        });
        address
    }

    #[test]
    fn one_connection_brings_many_answers() {
        let address = serving(&[
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ]);
        let mut connection = HttpConnection::open(address, "/").unwrap();
        assert_eq!(connection.ask().unwrap(), b"hello");
        assert_eq!(connection.ask().unwrap(), b"");
        assert!(connection.ask().is_err(), "the server has hung up");
    }

    #[test]
    fn a_refusal_and_a_missing_length_are_errors() {
        let address = serving(&[b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"]);
        let error = HttpConnection::open(address, "/").unwrap().ask().unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
        let address = serving(&[b"HTTP/1.1 200 OK\r\n\r\n"]);
        assert!(HttpConnection::open(address, "/").unwrap().ask().is_err());
    }
}
