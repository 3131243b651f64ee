//! A layer between a machine and a shell that know nothing of TLS.

use std::sync::Arc;

use forebay_core::time::Nanos;

use super::authority::Authority;
use crate::machine::{CloseReason, ConnId, Effects, Machine, SendBuf};
use crate::tls::layer::Layer;
use crate::tls::records::Records;
use crate::tls::{NodeTls, Refusal};

const CONN: ConnId = ConnId { slot: 3, generation: 7 };
const NOW: Nanos = Nanos(1);

/// Echoes, and keeps count of its buffers.
#[derive(Default)]
struct Echo {
    heard: Vec<u8>,
    replies: SendBuf,
    is_sending: bool,
    returned: usize,
    wants_close: bool,
}

impl Machine for Echo {
    fn received(&mut self, conn: ConnId, bytes: &[u8], _now: Nanos, _fx: &mut Effects) {
        assert_eq!(conn, CONN);
        self.heard.extend_from_slice(bytes);
        self.replies.extend_from_slice(bytes);
    }

    fn sent(&mut self, conn: ConnId, _buf: SendBuf, _now: Nanos) {
        assert_eq!(conn, CONN);
        self.is_sending = false;
        self.returned += 1;
    }

    fn closed(&mut self, _conn: ConnId, _reason: CloseReason, _now: Nanos) {}

    fn turn(&mut self, _now: Nanos, fx: &mut Effects) {
        if !self.is_sending && !self.replies.is_empty() {
            fx.send.push((CONN, std::mem::take(&mut self.replies)));
            self.is_sending = true;
        }
        if std::mem::take(&mut self.wants_close) {
            fx.close.push(CONN);
        }
    }
}

/// The shell: at most one send on its way, effects carried out by hand.
struct Shell {
    layer: Layer,
    machine: Echo,
    fx: Effects,
    client: Records,
    scratch: Vec<u8>,
    tls: Arc<NodeTls>,
    closed: bool,
}

impl Shell {
    /// With a connection whose handshake is over; `early` came with its end.
    fn new(early: &[u8]) -> Shell {
        let authority = Authority::new();
        let tls = Arc::new(authority.node("a"));
        let mut client = authority.client().records();
        let mut server = Records::serving(Arc::clone(&tls.loaded().clients));
        let (mut scratch, mut wire) = (Vec::new(), SendBuf::new());
        client.receive(&[], &mut scratch, |_| panic!()).unwrap();
        for turn in 0..4 {
            wire.clear();
            let (from, to) = match turn % 2 {
                0 => (&mut client, &mut server),
                _ => (&mut server, &mut client),
            };
            from.take_control(&mut wire);
            to.receive(&wire, &mut scratch, |_| panic!()).unwrap();
        }
        assert!(client.is_ready() && server.is_ready());
        let mut layer = Layer::new(Arc::clone(&tls));
        layer.opened(CONN, server, early.to_vec());
        let (machine, fx) = (Echo::default(), Effects::default());
        Shell { layer, machine, fx, client, scratch, tls, closed: false }
    }

    fn turn(&mut self) {
        self.layer.before_turn(&mut self.machine, NOW, &mut self.fx);
        self.machine.turn(NOW, &mut self.fx);
        self.layer.after_turn(&mut self.machine, NOW, &mut self.fx);
        assert!(self.fx.send.len() <= 1, "one send of a connection at a time");
        self.closed |= !self.fx.close.is_empty();
        self.fx.close.clear();
    }

    /// The client sends.
    fn hear(&mut self, plain: &[u8]) {
        let mut sealed = SendBuf::new();
        self.client.seal(plain, &mut sealed).unwrap();
        self.hear_sealed(&sealed);
    }

    fn hear_sealed(&mut self, sealed: &[u8]) {
        self.layer.received(&mut self.machine, CONN, sealed, NOW, &mut self.fx);
    }

    /// What is on its way arrives at the client: plain bytes, or the error that it is.
    fn deliver(&mut self) -> Result<Vec<u8>, String> {
        let (_, sealed) = self.fx.send.pop().expect("something is on its way");
        let mut plain = Vec::new();
        let received =
            self.client.receive(&sealed, &mut self.scratch, |bytes| plain.extend_from_slice(bytes));
        self.layer.sent(&mut self.machine, CONN, sealed, NOW);
        received.map(|()| plain).map_err(|error| error.to_string())
    }
}

#[test]
fn a_machine_hears_and_sends_plain_bytes_and_gets_its_buffers_back() {
    let mut shell = Shell::new(b"early ");
    shell.hear(b"bird");
    shell.turn();
    assert_eq!(shell.machine.heard, b"early bird");
    assert_eq!(shell.machine.returned, 0, "it is on its way");
    assert_eq!(shell.deliver().unwrap(), b"early bird");
    assert_eq!(shell.machine.returned, 1);
    shell.turn();
    assert!(shell.fx.send.is_empty() && !shell.closed);
}

#[test]
fn what_came_early_is_heard_without_anything_else() {
    let mut shell = Shell::new(b"hello");
    shell.turn();
    assert_eq!(shell.deliver().unwrap(), b"hello");
}

#[test]
fn a_close_waits_for_what_is_on_its_way_and_says_so() {
    let mut shell = Shell::new(b"");
    shell.hear(b"x");
    shell.machine.wants_close = true;
    shell.turn();
    assert!(!shell.closed, "the reply goes first");
    assert_eq!(shell.deliver().unwrap(), b"x");
    shell.turn();
    assert!(shell.closed);
    assert_eq!(shell.deliver().unwrap(), b"");
    assert!(shell.client.is_over(), "it was told in order");
    // The ring's own bytes are nobody's.
    assert_eq!(shell.machine.returned, 1);
}

#[test]
fn the_other_sides_close_ends_the_connection() {
    let mut shell = Shell::new(b"");
    let mut sealed = SendBuf::new();
    shell.client.close(&mut sealed);
    shell.hear_sealed(&sealed);
    shell.turn();
    assert!(shell.closed);
}

#[test]
fn a_bad_record_is_counted_told_and_ends_the_connection_without_a_plain_byte() {
    let mut shell = Shell::new(b"");
    shell.hear(b"good");
    let mut sealed = SendBuf::new();
    shell.client.seal(b"bad", &mut sealed).unwrap();
    *sealed.last_mut().unwrap() ^= 1;
    shell.hear_sealed(&sealed);
    shell.turn();
    assert_eq!(shell.machine.heard, b"good");
    assert_eq!(shell.tls.refusals().get(Refusal::BadRecord), 1);
    // The reply is nobody's any more, and its buffer is back.
    assert_eq!(shell.machine.returned, 1);
    assert!(shell.closed);
    shell.hear(b"more");
    assert_eq!(shell.machine.heard, b"good");
    assert!(shell.deliver().unwrap_err().contains("the other side refuses"));
}

#[test]
fn a_connection_that_breaks_gives_the_machine_its_buffer_back_first() {
    let mut shell = Shell::new(b"");
    shell.hear(b"x");
    shell.turn();
    let (_, sealed) = shell.fx.send.pop().unwrap();
    shell.layer.closed(&mut shell.machine, CONN, NOW);
    assert_eq!(shell.machine.returned, 1);
    // Late, as the ring may.
    shell.layer.sent(&mut shell.machine, CONN, sealed, NOW);
    assert_eq!(shell.machine.returned, 1);
    let again = ConnId { generation: 8, ..CONN };
    let tls = Arc::clone(&shell.tls);
    shell.layer.opened(again, Records::serving(Arc::clone(&tls.loaded().clients)), Vec::new());
}
