//! A network that can be broken on purpose, between real processes on one machine: for tests and
//! measurements of gray failures, where neither network namespaces nor packet filters are to be had.
//!
//! ```text
//!   node 0 ── dials ──► relay of node 1 ═══ 0 → 1: pass, hold, discard, late ═══► node 1
//!                                      ◄═══ 1 → 0: … ═══════════════════════════
//! ```
//!
//! The nodes tell each other the relay's addresses for their own (`advertise` in the section
//! `[cluster]` of their configuration), so that every link runs through it. Who dials is read from the
//! greeting, whose bytes come first on a link. Each direction between two nodes is broken by itself:
//!
//! * *held* bytes wait, as those do that TCP sends again and again, and arrive when it passes again;
//!   what has happened to the connection meanwhile is not told in that direction either;
//! * *discarded* bytes are gone, so that what follows them makes no sense to who receives it;
//! * *late* bytes arrive after a time.
//!
//! A dial is accepted in any case, and learns nothing while its greeting or the answer is held.
//!
//! Left out: TLS, in which no greeting can be read. Two threads carry a connection; this is no part of
//! a node.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use forebay_core::liveness::SHARDS_PER_NODE;
use forebay_core::message::peer::{PeerFrame, decode};

use crate::frame;
use crate::machine::SendBuf;

/// How often a thread that waits for bytes looks whether all is over.
const LOOK: Duration = Duration::from_millis(50);
/// How often one that holds bytes looks whether they may pass.
const HELD_LOOK: Duration = Duration::from_millis(2);
/// For a connection to the node behind.
const CONNECT_MAX: Duration = Duration::from_secs(1);
const CHUNK_BYTES: usize = 64 * 1024;

/// What becomes of bytes from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They arrive.
    Pass,
    /// They wait.
    Hold,
    /// They are lost.
    Discard,
    /// They arrive so much later.
    Late(Duration),
}

const HOLD: u64 = u64::MAX;
const DISCARD: u64 = u64::MAX - 1;

impl Way {
    fn number(self) -> u64 {
        match self {
            Way::Pass => 0,
            Way::Hold => HOLD,
            Way::Discard => DISCARD,
            Way::Late(by) => {
                u64::try_from(by.as_micros()).map_or(DISCARD - 1, |n| n.min(DISCARD - 1))
            }
        }
    }

    fn of_number(number: u64) -> Way {
        match number {
            0 => Way::Pass,
            HOLD => Way::Hold,
            DISCARD => Way::Discard,
            micros => Way::Late(Duration::from_micros(micros)),
        }
    }
}

#[derive(Debug)]
struct Ways {
    nodes: usize,
    /// By `from * nodes + to`.
    ways: Vec<AtomicU64>,
    over: AtomicBool,
}

impl Ways {
    fn at(&self, from: usize, to: usize) -> &AtomicU64 {
        assert!(from < self.nodes && to < self.nodes, "there are {} nodes", self.nodes);
        &self.ways[from * self.nodes + to]
    }

    fn get(&self, from: usize, to: usize) -> Way {
        Way::of_number(self.at(from, to).load(Relaxed))
    }

    /// Waits while what goes from one to the other is held.
    fn wait(&self, from: usize, to: usize) {
        while self.get(from, to) == Way::Hold && !self.is_over() {
            sleep(HELD_LOOK);
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }
}

/// See the module's docs. Ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    addresses: Vec<SocketAddr>,
    ways: Arc<Ways>,
    doors: Vec<JoinHandle<()>>,
}

impl Relay {
    /// A relay for nodes of one shard each, which listen for each other at `nodes`, in the order of
    /// their places in the cluster.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(nodes: &[SocketAddr]) -> io::Result<Relay> {
        let count = nodes.len();
        let ways = (0..count * count).map(|_| AtomicU64::new(0)).collect();
        let ways = Arc::new(Ways { nodes: count, ways, over: AtomicBool::new(false) });
        let (mut addresses, mut doors) = (Vec::new(), Vec::new());
        for (place, node) in nodes.iter().copied().enumerate() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            addresses.push(listener.local_addr()?);
            let ways = Arc::clone(&ways);
            doors.push(spawn(move || accept(&listener, node, place, &ways)));
        }
        Ok(Relay { addresses, ways, doors })
    }

    /// Where the nodes are to be dialed, in order.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What becomes of bytes from one node to another, from now on.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn set(&self, from: usize, to: usize, way: Way) {
        self.ways.at(from, to).store(way.number(), Relaxed);
    }

    /// The same in both directions.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn set_both(&self, one: usize, other: usize, way: Way) {
        self.set(one, other, way);
        self.set(other, one, way);
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.ways.ways.iter().for_each(|way| way.store(0, Relaxed));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ways.over.store(true, Relaxed);
        for address in &self.addresses {
            // So that the door looks up.
            let _ = TcpStream::connect(address);
        }
        for door in self.doors.drain(..) {
            let _ = door.join();
        }
    }
}

fn accept(listener: &TcpListener, node: SocketAddr, place: usize, ways: &Arc<Ways>) {
    for dialer in listener.incoming() {
        if ways.is_over() {
            return;
        }
        let Ok(dialer) = dialer else { continue };
        let ways = Arc::clone(ways);
        // A connection that breaks is its ends' business.
        spawn(move || drop(carry(dialer, node, place, &ways)));
    }
}

/// Carries a connection that somebody opened to the node at `place`.
fn carry(
    mut dialer: TcpStream,
    node: SocketAddr,
    place: usize,
    ways: &Arc<Ways>,
) -> io::Result<()> {
    dialer.set_nodelay(true)?;
    dialer.set_read_timeout(Some(LOOK))?;
    let (from, greeting) = greeting(&mut dialer, ways)?;
    if from >= ways.nodes {
        return Ok(());
    }
    let mut target = TcpStream::connect_timeout(&node, CONNECT_MAX)?;
    target.set_nodelay(true)?;
    target.set_read_timeout(Some(LOOK))?;
    let (mut back_from, mut back_to) = (target.try_clone()?, dialer.try_clone()?);
    let back_ways = Arc::clone(ways);
    let back = spawn(move || pump(&mut back_from, &mut back_to, place, from, &back_ways));
    ways.wait(from, place);
    if ways.get(from, place) != Way::Discard {
        // If it cannot be written, the pump finds out.
        let _ = target.write_all(&greeting);
    }
    pump(&mut dialer, &mut target, from, place, ways);
    let _ = back.join();
    Ok(())
}

/// The first bytes, and the place of who sent them.
fn greeting(dialer: &mut TcpStream, ways: &Ways) -> io::Result<(usize, SendBuf)> {
    let mut bytes = SendBuf::new();
    let mut chunk = [0; 4096];
    loop {
        match dialer.read(&mut chunk) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if is_timeout(&error) && !ways.is_over() => continue,
            Err(error) => return Err(error),
        }
        let first = frame::split(&bytes).map_err(|_| ErrorKind::InvalidData)?;
        let Some(first) = first else { continue };
        let Ok(PeerFrame::Hello(hello)) = decode(first.kind, first.message_version, first.payload)
        else {
            return Err(ErrorKind::InvalidData.into());
        };
        return Ok(((hello.from / SHARDS_PER_NODE) as usize, bytes));
    }
}

/// Carries bytes one way, until either end is gone, as far as that can be known.
fn pump(source: &mut TcpStream, sink: &mut TcpStream, from: usize, to: usize, ways: &Ways) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        ways.wait(from, to);
        if ways.is_over() {
            break;
        }
        let count = match source.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if is_timeout(&error) => continue,
            Err(_) => break,
        };
        match ways.get(from, to) {
            Way::Discard => continue,
            Way::Hold => ways.wait(from, to),
            Way::Late(by) => sleep(by),
            Way::Pass => {}
        }
        if sink.write_all(&chunk[..count]).is_err() {
            // Who sent them learns of it when word of it may come back.
            ways.wait(to, from);
            let _ = source.shutdown(Shutdown::Both);
            return;
        }
    }
    // The end of what is sent travels as the bytes do.
    ways.wait(from, to);
    let _ = sink.shutdown(Shutdown::Write);
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use forebay_core::message::peer::{Authentication, Expected, Identity};

    use super::*;

    fn greeting_of(place: u32) -> SendBuf {
        let me = Identity {
            cluster_id: [1; 16],
            node_id: [2; 16],
            peer: place * SHARDS_PER_NODE,
            shard: 0,
            az: 0,
            incarnation: 1,
            authentication: Authentication::Dev,
        };
        let to = Expected { node_id: [3; 16], peer: 99 * SHARDS_PER_NODE, shard: 0, az: 0 };
        let mut bytes = SendBuf::new();
        frame::append_peer(&mut bytes, &me.hello(&to, 1));
        bytes
    }

    /// Node 0 has dialed node 1 through the relay: both ends.
    fn dialed() -> (Relay, TcpStream, TcpStream) {
        let nodes = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let relay = Relay::start(&nodes.each_ref().map(|at| at.local_addr().unwrap())).unwrap();
        let mut dialer = TcpStream::connect(relay.addresses()[1]).unwrap();
        let greeting = greeting_of(0);
        dialer.write_all(&greeting).unwrap();
        let (mut node, _) = nodes[1].accept().unwrap();
        let mut heard = vec![0; greeting.len()];
        node.read_exact(&mut heard).unwrap();
        assert_eq!(heard, *greeting);
        for end in [&dialer, &node] {
            end.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        }
        (relay, dialer, node)
    }

    fn hears(end: &mut TcpStream) -> Option<[u8; 4]> {
        let mut bytes = [0; 4];
        end.read_exact(&mut bytes).ok().map(|()| bytes)
    }

    #[test]
    fn each_direction_is_broken_by_itself_and_held_bytes_arrive_in_the_end() {
        let (relay, mut dialer, mut node) = dialed();
        relay.set(0, 1, Way::Hold);
        dialer.write_all(b"held").unwrap();
        node.write_all(b"back").unwrap();
        assert_eq!(hears(&mut dialer), Some(*b"back"));
        assert_eq!(hears(&mut node), None);
        relay.heal();
        assert_eq!(hears(&mut node), Some(*b"held"));
        relay.set(1, 0, Way::Discard);
        node.write_all(b"lost").unwrap();
        assert_eq!(hears(&mut dialer), None);
        relay.set_both(0, 1, Way::Late(Duration::from_millis(60)));
        let begun = Instant::now();
        node.write_all(b"late").unwrap();
        assert_eq!(hears(&mut dialer), Some(*b"late"));
        assert!(begun.elapsed() >= Duration::from_millis(60));
    }

    #[test]
    fn the_end_of_a_connection_is_told_only_where_bytes_pass() {
        let (relay, dialer, mut node) = dialed();
        relay.set(0, 1, Way::Hold);
        drop(dialer);
        let error = node.read(&mut [0; 4]).unwrap_err();
        assert!(is_timeout(&error), "{error}");
        relay.heal();
        assert_eq!(node.read(&mut [0; 4]).unwrap(), 0);
    }
}
