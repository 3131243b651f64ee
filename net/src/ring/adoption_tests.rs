//! A connection that another lane has opened is the ring's like any other from its adoption on.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use super::testing::require_io_uring;
use super::*;
use crate::machine::CloseReason;

/// Adopts one connection, echoes, and stops when it ends.
struct Adopter {
    adopt: Option<std::os::fd::OwnedFd>,
    token: Option<u64>,
    heard: SendBuf,
    conn: Option<ConnId>,
    ended: Option<CloseReason>,
}

impl Machine for Adopter {
    fn connected(&mut self, conn: ConnId, _listener: usize, token: Option<u64>, _now: Nanos) {
        (self.conn, self.token) = (Some(conn), token);
    }

    fn received(&mut self, conn: ConnId, bytes: &[u8], _now: Nanos, _fx: &mut Effects) {
        assert_eq!(Some(conn), self.conn);
        self.heard.extend_from_slice(bytes);
    }

    fn sent(&mut self, _conn: ConnId, _buf: SendBuf, _now: Nanos) {}

    fn closed(&mut self, _conn: ConnId, reason: CloseReason, _now: Nanos) {
        self.ended = Some(reason);
    }

    fn turn(&mut self, _now: Nanos, fx: &mut Effects) {
        if let Some(descriptor) = self.adopt.take() {
            fx.adopt.push((41, descriptor));
        }
        if let (Some(conn), false) = (self.conn, self.heard.is_empty()) {
            fx.send.push((conn, std::mem::take(&mut self.heard)));
        }
        fx.stop = self.ended.is_some();
    }
}

#[test]
fn an_adopted_connection_echoes_what_had_arrived_before_and_ends_in_order() {
    if !require_io_uring() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    let (accepted, _) = listener.accept().expect("accepts");
    // In the socket's buffer before any ring knows of it.
    client.write_all(b"early").expect("writes");
    let ring = std::thread::spawn(move || {
        let mut ring = Ring::new(RingConfig::default()).expect("a ring");
        let adopt = Some(accepted.into());
        let heard = SendBuf::new();
        let mut machine = Adopter { adopt, token: None, heard, conn: None, ended: None };
        ring.run(&mut machine).expect("it runs");
        (machine.token, machine.ended)
    });
    let mut answer = [0; 5];
    client.read_exact(&mut answer).expect("reads");
    assert_eq!(&answer, b"early");
    client.write_all(b"later").expect("writes");
    client.read_exact(&mut answer).expect("reads");
    assert_eq!(&answer, b"later");
    client.shutdown(Shutdown::Write).expect("says that it is done");
    let (token, ended) = ring.join().expect("no panic");
    assert_eq!((token, ended), (Some(41), Some(CloseReason::Peer)));
    // The ring's was the only descriptor left.
    assert_eq!(client.read(&mut answer).expect("reads"), 0);
}
