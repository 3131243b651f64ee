//! A node's counters, read from its operator HTTP.

use std::collections::BTreeMap;
use std::io::{Error, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::http::ANSWER_TIMEOUT;
use crate::error::BenchError;

/// What an empty answer and a wrong one have in common.
const OK: &[u8] = b"HTTP/1.1 200";

/// All samples at one moment, summed over shards.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// Asks the node whose operator HTTP is at `address`.
    pub(crate) fn read(address: SocketAddr) -> Result<Metrics, BenchError> {
        let body =
            fetch(address, "/metrics").map_err(|source| BenchError::Metrics { address, source })?;
        Ok(Metrics::parse(&String::from_utf8_lossy(&body)))
    }

    fn parse(text: &str) -> Metrics {
        let mut samples = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            // Of several shards, and of several kinds: the sum.
            let name = series.split('{').next().unwrap_or(series);
            *samples.entry(name.to_owned()).or_insert(0.0) += value;
        }
        Metrics { samples }
    }

    /// The sum of `forebay_shard_NAME` over its labels; 0 if the node does not have it.
    pub(crate) fn shard(&self, name: &str) -> f64 {
        self.samples.get(&format!("forebay_shard_{name}")).copied().unwrap_or(0.0)
    }

    /// How much `forebay_shard_NAME` grew from `before` to here.
    pub(crate) fn grown(&self, before: &Metrics, name: &str) -> f64 {
        self.shard(name) - before.shard(name)
    }
}

/// One GET on a connection of its own; the answer's body.
pub(crate) fn fetch(address: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    // One write, one packet: `write!` on a socket sends every piece of the format by itself.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
    match head {
        Some(head) if answer.starts_with(OK) => Ok(answer.split_off(head + 4)),
        _ => {
            let line = answer.split(|&byte| byte == b'\r').next().unwrap_or_default();
            Err(Error::other(format!("answered {:?}", String::from_utf8_lossy(line))))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_request_leaves_in_one_piece() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut piece = [0; 1024];
            let read = stream.read(&mut piece).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nbody").unwrap();
            String::from_utf8_lossy(&piece[..read]).into_owned()
        });
        assert_eq!(fetch(address, "/metrics").unwrap(), b"body");
        let first = server.join().unwrap();
        assert!(first.starts_with("GET /metrics HTTP/1.1\r\n") && first.ends_with("\r\n\r\n"));
    }

    #[test]
    fn samples_are_summed_over_shards_and_growth_is_a_difference() {
        let before = Metrics::parse("# TYPE x counter\nforebay_shard_x_total{shard=\"0\"} 5\n");
        let after = Metrics::parse(
            "forebay_shard_x_total{shard=\"0\"} 7\nforebay_shard_x_total{shard=\"1\"} 1e1\nbroken",
        );
        assert_eq!(after.shard("x_total"), 17.0);
        assert_eq!(after.grown(&before, "x_total"), 12.0);
        assert_eq!(after.shard("unheard_of"), 0.0);
    }
}
