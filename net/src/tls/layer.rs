//! All TLS connections of a shard: between the ring's bytes and the machine's.
//!
//! ```text
//!   ring ── received ─► Records ─► plain ─► Machine::received
//!        ── sent ─────► buffer into the pool; the machine's own buffer ─► Machine::sent
//!
//!   Machine::turn ─► fx.send (plain) ─► after_turn ─► fx.send (sealed)
//!                    fx.close        ─►             ─► close_notify, then fx.close
//! ```
//!
//! The machine believes that it talks to the ring: its buffer is on its way until the sealed one has
//! left, and comes back then. At most one sealed buffer of a connection is on its way, the ring's
//! rule; what TLS has to say by itself (alerts, changed keys, close_notify) waits for its turn or goes
//! in front of the next records.
//!
//! *Invariants*: a plain buffer never reaches the ring ([`Layer::after_turn`] takes all of them out
//! of the effects first); a buffer of the machine always comes back to it, and before `closed`.

use std::sync::Arc;

use forebay_core::time::Nanos;

use super::{NodeTls, Records};
use crate::machine::{ConnId, Effects, Machine, SendBuf};

/// Sealed buffers kept for the next ones, over all connections.
const SPARES_MAX: usize = 64;
/// A buffer that grew beyond this is given back.
const SPARE_BYTES_MAX: usize = 128 * 1024;

/// How far a connection's end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    No,
    /// When nothing is on its way any more.
    Due,
    /// The ring was told.
    Told,
}

#[derive(Debug)]
struct Secured {
    id: ConnId,
    records: Records,
    /// Plain bytes that the machine has not seen.
    early: Vec<u8>,
    /// A sealed buffer is on its way.
    is_sending: bool,
    /// The machine's buffer that it was sealed from.
    sending: Option<SendBuf>,
    /// The machine's next one, while that was nobody's.
    waiting: Option<SendBuf>,
    end: End,
    is_due: bool,
}

/// See the module's docs.
#[derive(Debug)]
pub(crate) struct Layer {
    tls: Arc<NodeTls>,
    /// By the connection's slot.
    slots: Vec<Option<Box<Secured>>>,
    /// Connections with something to do at the turn's end.
    due: Vec<ConnId>,
    scratch: Vec<u8>,
    spares: Vec<SendBuf>,
    /// The machine's, taken out of the effects.
    sends: Vec<(ConnId, SendBuf)>,
    closes: Vec<ConnId>,
}

impl Layer {
    pub(crate) fn new(tls: Arc<NodeTls>) -> Layer {
        Layer {
            tls,
            slots: Vec::new(),
            due: Vec::new(),
            scratch: Vec::new(),
            spares: Vec::new(),
            sends: Vec::new(),
            closes: Vec::new(),
        }
    }

    fn get(&mut self, conn: ConnId) -> Option<&mut Secured> {
        let found = self.slots.get_mut(conn.slot as usize)?.as_deref_mut()?;
        (found.id == conn).then_some(found)
    }

    fn mark(&mut self, conn: ConnId) {
        if let Some(found) = self.get(conn)
            && !std::mem::replace(&mut found.is_due, true)
        {
            self.due.push(conn);
        }
    }

    /// A connection whose handshake is over; the machine knows it already. `early` are plain bytes
    /// that arrived with the handshake's end.
    pub(crate) fn opened(&mut self, conn: ConnId, records: Records, early: Vec<u8>) {
        let slot = conn.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        assert!(self.slots[slot].is_none(), "the shell reuses a slot only after it was closed");
        self.slots[slot] = Some(Box::new(Secured {
            id: conn,
            records,
            early,
            is_sending: false,
            sending: None,
            waiting: None,
            end: End::No,
            is_due: false,
        }));
        self.mark(conn);
    }

    /// Sealed bytes arrived.
    pub(crate) fn received<M: Machine>(
        &mut self,
        machine: &mut M,
        conn: ConnId,
        bytes: &[u8],
        now: Nanos,
        fx: &mut Effects,
    ) {
        let Some(found) = self.slots.get_mut(conn.slot as usize).and_then(Option::as_deref_mut)
        else {
            return;
        };
        if found.id != conn || found.end != End::No {
            return;
        }
        if !found.early.is_empty() {
            machine.received(conn, &std::mem::take(&mut found.early), now, fx);
        }
        let deliver = |plain: &[u8]| machine.received(conn, plain, now, fx);
        let result = found.records.receive(bytes, &mut self.scratch, deliver);
        if let Err(error) = &result {
            let refusals = self.tls.refusals();
            refusals.count(error.refusal(), || format!("an open connection: {error}"));
        }
        if found.records.is_over() {
            found.end = End::Due;
        }
        if found.end != End::No || found.records.has_control() {
            self.mark(conn);
        }
    }

    /// A sealed buffer came back from the ring.
    pub(crate) fn sent<M: Machine>(
        &mut self,
        machine: &mut M,
        conn: ConnId,
        mut buf: SendBuf,
        now: Nanos,
    ) {
        if self.spares.len() < SPARES_MAX && buf.capacity() <= SPARE_BYTES_MAX {
            buf.clear();
            self.spares.push(buf);
        }
        let Some(found) = self.get(conn) else { return };
        found.is_sending = false;
        let sending = found.sending.take();
        if found.waiting.is_some() || found.records.has_control() || found.end == End::Due {
            self.mark(conn);
        }
        if let Some(plain) = sending {
            machine.sent(conn, plain, now);
        }
    }

    /// The connection is gone; the machine is told so after this.
    pub(crate) fn closed<M: Machine>(&mut self, machine: &mut M, conn: ConnId, now: Nanos) {
        if self.get(conn).is_none() {
            return;
        }
        let found = self.slots[conn.slot as usize].take().expect("it was just found");
        for plain in found.sending.into_iter().chain(found.waiting) {
            machine.sent(conn, plain, now);
        }
    }

    /// Hands out what came early. Before the machine's turn.
    pub(crate) fn before_turn<M: Machine>(
        &mut self,
        machine: &mut M,
        now: Nanos,
        fx: &mut Effects,
    ) {
        for index in 0..self.due.len() {
            let conn = self.due[index];
            let Some(found) = self.get(conn) else { continue };
            if !found.early.is_empty() {
                machine.received(conn, &std::mem::take(&mut found.early), now, fx);
            }
        }
    }

    /// Seals what the machine sends, and says what TLS has to say. After the machine's turn.
    pub(crate) fn after_turn<M: Machine>(&mut self, machine: &mut M, now: Nanos, fx: &mut Effects) {
        std::mem::swap(&mut fx.send, &mut self.sends);
        std::mem::swap(&mut fx.close, &mut self.closes);
        let mut sends = std::mem::take(&mut self.sends);
        for (conn, plain) in sends.drain(..) {
            self.send(machine, conn, plain, now, fx);
        }
        self.sends = sends;
        let mut closes = std::mem::take(&mut self.closes);
        for conn in closes.drain(..) {
            if let Some(found) = self.get(conn)
                && found.end == End::No
            {
                found.end = End::Due;
                self.mark(conn);
            }
        }
        self.closes = closes;
        let mut due = std::mem::take(&mut self.due);
        for conn in due.drain(..) {
            self.settle(machine, conn, now, fx);
        }
        // What failed to be sealed just now is ended in the next turn.
        fx.run_again |= !self.due.is_empty();
        due.append(&mut self.due);
        self.due = due;
    }

    fn send<M: Machine>(
        &mut self,
        machine: &mut M,
        conn: ConnId,
        plain: SendBuf,
        now: Nanos,
        fx: &mut Effects,
    ) {
        let mut out = self.spares.pop().unwrap_or_default();
        let Some(found) = self.get(conn).filter(|found| found.end != End::Told) else {
            // It ended meanwhile: nobody gets these bytes.
            self.spares.push(out);
            return machine.sent(conn, plain, now);
        };
        if found.is_sending {
            assert!(found.waiting.is_none(), "at most one send per connection is in flight");
            found.waiting = Some(plain);
            self.spares.push(out);
            return;
        }
        if found.records.is_over() {
            self.spares.push(out);
            return machine.sent(conn, plain, now);
        }
        match found.records.seal(&plain, &mut out) {
            Ok(()) => {
                found.is_sending = true;
                found.sending = Some(plain);
                fx.send.push((conn, out));
            }
            Err(error) => {
                found.end = End::Due;
                let refusals = self.tls.refusals();
                refusals.count(error.refusal(), || format!("an open connection: {error}"));
                self.spares.push(out);
                self.mark(conn);
                machine.sent(conn, plain, now);
            }
        }
    }

    /// Does what waited for the connection's turn.
    fn settle<M: Machine>(&mut self, machine: &mut M, conn: ConnId, now: Nanos, fx: &mut Effects) {
        let Some(found) = self.get(conn) else { return };
        found.is_due = false;
        if found.is_sending || found.end == End::Told {
            return;
        }
        if let Some(plain) = found.waiting.take() {
            self.send(machine, conn, plain, now, fx);
        }
        let found = self.get(conn).expect("it was just there");
        if found.is_sending {
            return;
        }
        let ends = found.end == End::Due;
        if !ends && !found.records.has_control() {
            return;
        }
        let mut out = self.spares.pop().unwrap_or_default();
        let found = self.get(conn).expect("it was just there");
        match ends {
            true => found.records.close(&mut out),
            false => found.records.take_control(&mut out),
        }
        if ends {
            found.end = End::Told;
            fx.close.push(conn);
        }
        if out.is_empty() {
            self.spares.push(out);
            return;
        }
        found.is_sending = true;
        fx.send.push((conn, out));
    }
}
