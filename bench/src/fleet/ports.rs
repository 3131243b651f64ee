//! Ports for stores that cannot choose one themselves.
//!
//! ```text
//!   1024 …… 10,000 ── ours ── low ─── outgoing connections ─── high ── ours ── 65,535
//! ```
//!
//! The kernel gives ports between `low` and `high` (`ip_local_port_range`) to outgoing connections,
//! which a load generator opens by the thousand: a port found free there may be taken before the
//! store binds it. So ports are looked for outside. Another program may still be quicker; whoever
//! starts a store tries again elsewhere when it ends ([`attempts`]).

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::error::BenchError;

/// Ports below are known services'.
const FIRST: u16 = 10_000;
/// How many ports are looked at before giving up.
const LOOKS_MAX: u32 = 2000;
/// How often a store is started anew on another port.
const ATTEMPTS_MAX: u32 = 10;

/// A port that is free now and that no outgoing connection will take. Never the same one twice in a
/// process, unless thousands are asked for.
pub(crate) fn free_port() -> Result<u16, BenchError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (low, high) = outgoing();
    let ours = usable(low, high);
    // Processes start at different places, so that two of these tools rarely meet.
    let start = std::process::id().wrapping_mul(101);
    for _ in 0..LOOKS_MAX {
        let step = NEXT.fetch_add(1, Relaxed).wrapping_mul(37);
        let port = ours[start.wrapping_add(step) as usize % ours.len()];
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(BenchError::Io {
        what: "looking for a free port",
        source: std::io::ErrorKind::AddrInUse.into(),
    })
}

/// Calls `start` until it brings a store, or an error other than that its process ended: another
/// program may have been quicker to take its port.
pub(crate) fn attempts<T>(
    mut start: impl FnMut() -> Result<T, BenchError>,
) -> Result<T, BenchError> {
    for _ in 1..ATTEMPTS_MAX {
        match start() {
            Err(BenchError::DoesNotStart { words, .. }) if is_about_a_port(&words) => {}
            other => return other,
        }
    }
    start()
}

/// Whether a store's last words say that its port was taken.
fn is_about_a_port(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    words.contains("address already in use")
        || words.contains("failed listening")
        || words.contains("failed to listen")
}

/// The kernel's range for outgoing connections; its own default where it cannot be read.
fn outgoing() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    parse_range(&text.unwrap_or_default()).unwrap_or((32_768, 60_999))
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_whitespace().map(str::parse);
    match (words.next()?, words.next()?) {
        (Ok(low), Ok(high)) if low <= high => Some((low, high)),
        _ => None,
    }
}

/// What lies outside `low..=high`; all there is, where that leaves next to nothing.
fn usable(low: u16, high: u16) -> Vec<u16> {
    let outside: Vec<u16> =
        (FIRST..=u16::MAX).filter(|port| !(low..=high).contains(port)).collect();
    if outside.len() < 100 { (FIRST..=u16::MAX).collect() } else { outside }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_lie_outside_the_outgoing_range_and_differ() {
        let (low, high) = outgoing();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..50 {
            let port = free_port().unwrap();
            assert!(port >= FIRST && !(low..=high).contains(&port), "{port} in {low}..={high}");
            assert!(seen.insert(port), "{port} twice");
        }
    }

    #[test]
    fn a_range_that_leaves_nothing_is_not_believed() {
        assert_eq!(parse_range("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!(parse_range("5 x"), None);
        assert_eq!(parse_range(""), None);
        assert!(usable(1024, 65_535).len() > 50_000);
        assert!(usable(32_768, 60_999).iter().all(|port| *port < 32_768 || *port > 60_999));
    }

    #[test]
    fn only_a_taken_port_is_worth_another_attempt() {
        let fail = |words: &str| BenchError::DoesNotStart {
            name: "x".to_owned(),
            words: words.to_owned(),
            command: String::new(),
        };
        let mut tries = 0;
        let ended: Result<(), _> = attempts(|| {
            tries += 1;
            Err(fail("bad configuration"))
        });
        assert!(ended.is_err() && tries == 1);
        let mut tries = 0;
        let ended = attempts(|| {
            tries += 1;
            if tries < 3 { Err(fail("listen: Address already in use")) } else { Ok(tries) }
        });
        assert_eq!(ended.unwrap(), 3);
    }
}
