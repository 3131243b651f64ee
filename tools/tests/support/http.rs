//! The least of an HTTP client: one GET, one answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What came back.
pub struct Answer {
    pub code: u16,
    pub body: String,
}

/// Asks, and expects an answer.
pub fn get(at: SocketAddr, path: &str) -> Answer {
    try_get(at, path).unwrap_or_else(|| panic!("no answer from http://{at}{path}"))
}

/// Asks; None if the connection was closed or refused without an answer.
pub fn try_get(at: SocketAddr, path: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let code = head.split_whitespace().nth(1)?.parse().ok()?;
    Some(Answer { code, body: body.to_owned() })
}
