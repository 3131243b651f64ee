//! One HTTP GET, with limits: the operator's side of the control lane needs no more.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::exit::{Exit, Failure};

/// For connecting, and for each silence of the node.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A node with every shard and thousands of partitions stays far below.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// The body of a 200 answer.
pub(super) fn get(at: SocketAddr, path: &str) -> Result<String, Failure> {
    let unreachable = |problem: String| {
        let hint = "is it running, and is this its --http address?";
        Failure::new(Exit::Unreachable, format!("no node answers at {at}: {problem}; {hint}"))
    };
    let answer = exchange(at, path).map_err(|error| unreachable(error.to_string()))?;
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| unreachable("not an HTTP answer".into()))?;
    let status_line = head.lines().next().unwrap_or_default();
    if status_line.split(' ').nth(1) != Some("200") {
        return Err(unreachable(format!("it says '{status_line}'")));
    }
    let announced = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if announced.is_some_and(|bytes| bytes != body.len()) {
        return Err(unreachable("its answer was cut off".into()));
    }
    Ok(body.to_owned())
}

fn exchange(at: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}
