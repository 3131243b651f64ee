//! The shard's side of its connections: what each has received, what waits to be sent, and when
//! to stop listening to one.
//!
//! Replies gather in a connection's outbox during a turn and leave as one buffer at its end. While
//! a buffer is on its way the next replies gather in another, so a connection owns two buffers and
//! allocates no more once they have grown. A peer that sends requests faster than it takes replies
//! is no longer read from until its outbox has drained: TCP carries the pressure back.

use forebay_core::message::{ErrorReply, Message};
use forebay_core::time::Nanos;

use crate::frame::{self, FrameSerializer, Inbox};
use crate::machine::{ConnId, Effects, SendBuf};

/// Reply bytes that may wait for one connection before it is no longer read from.
const OUTBOX_PAUSE_BYTES: usize = 1024 * 1024;
/// Requests of one connection that may be unanswered before it is no longer read from.
const UNANSWERED_PAUSE: u32 = 4096;
/// A buffer that grew beyond this for a large reply is given back.
const OUTBOX_KEEP_BYTES: usize = 128 * 1024;

#[derive(Debug, Default)]
struct Connection {
    generation: u32,
    open: bool,
    inbox: Inbox,
    outbox: SendBuf,
    /// The other buffer, while none is on its way.
    spare: Option<SendBuf>,
    sending: bool,
    /// In `ready` already.
    queued: bool,
    paused: bool,
    /// Close once the outbox has been sent.
    ending: bool,
    unanswered: u32,
}

/// Every connection of a shard.
#[derive(Debug, Default)]
pub(super) struct Connections {
    slots: Vec<Connection>,
    /// Slots with something to send or to decide at the end of the turn.
    ready: Vec<ConnId>,
    open: usize,
    paused: usize,
}

impl Connections {
    pub(super) fn open_count(&self) -> usize {
        self.open
    }

    pub(super) fn paused_count(&self) -> usize {
        self.paused
    }

    pub(super) fn opened(&mut self, conn: ConnId) {
        let slot = conn.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, Connection::default);
        }
        let connection = &mut self.slots[slot];
        assert!(!connection.open, "the shell reuses a slot only after it was closed");
        let (mut outbox, spare) = (std::mem::take(&mut connection.outbox), connection.spare.take());
        outbox.clear();
        *connection = Connection {
            generation: conn.generation,
            open: true,
            outbox,
            spare: Some(spare.unwrap_or_default()),
            ..Connection::default()
        };
        self.open += 1;
    }

    pub(super) fn closed(&mut self, conn: ConnId) {
        if let Some(connection) = self.get(conn) {
            connection.open = false;
            connection.inbox = Inbox::default();
            let was_paused = connection.paused;
            self.open -= 1;
            self.paused -= usize::from(was_paused);
        }
    }

    fn get(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.slots
            .get_mut(conn.slot as usize)
            .filter(|connection| connection.open && connection.generation == conn.generation)
    }

    /// Takes the inbox out while its frames are handled; give it back with [`Self::restore_inbox`].
    pub(super) fn take_inbox(&mut self, conn: ConnId) -> Option<Inbox> {
        let connection = self.get(conn)?;
        (!connection.ending).then(|| std::mem::take(&mut connection.inbox))
    }

    pub(super) fn restore_inbox(&mut self, conn: ConnId, inbox: Inbox) {
        if let Some(connection) = self.get(conn) {
            connection.inbox = inbox;
        }
    }

    /// A request came in that a reply will answer.
    pub(super) fn asked(&mut self, conn: ConnId) {
        if let Some(connection) = self.get(conn) {
            connection.unanswered += 1;
            if connection.unanswered > UNANSWERED_PAUSE && !connection.paused {
                self.queue(conn);
            }
        }
    }

    /// Adds a reply to the connection's outbox; nothing happens if the peer has left.
    pub(super) fn reply<M>(&mut self, conn: ConnId, correlation: u64, message: &M)
    where
        M: Message + for<'a> rkyv::Serialize<FrameSerializer<'a>>,
    {
        let Some(connection) = self.get(conn) else { return };
        connection.unanswered = connection.unanswered.saturating_sub(1);
        frame::append(&mut connection.outbox, correlation, message);
        self.queue(conn);
    }

    /// Sends `error` and closes: the stream can no longer be trusted.
    pub(super) fn refuse(&mut self, conn: ConnId, error: &ErrorReply<'_>) {
        self.reply(conn, 0, error);
        if let Some(connection) = self.get(conn) {
            connection.ending = true;
        }
    }

    fn queue(&mut self, conn: ConnId) {
        let Some(connection) = self.get(conn) else { return };
        if !connection.queued {
            connection.queued = true;
            self.ready.push(conn);
        }
    }

    /// A buffer came back.
    pub(super) fn sent(&mut self, conn: ConnId, mut buf: SendBuf, _now: Nanos) {
        // The slot may have a new user by now; the buffer is still this slot's.
        let Some(connection) = self.slots.get_mut(conn.slot as usize) else { return };
        buf.clear();
        if buf.capacity() > OUTBOX_KEEP_BYTES {
            buf = SendBuf::new();
        }
        if connection.spare.is_none() {
            connection.spare = Some(buf);
        }
        if connection.open && connection.generation == conn.generation {
            connection.sending = false;
            self.queue(conn);
        }
    }

    /// End of the turn: hand out what is ready.
    pub(super) fn flush(&mut self, fx: &mut Effects) {
        for index in 0..self.ready.len() {
            let conn = self.ready[index];
            let Some(connection) = self.get(conn) else { continue };
            connection.queued = false;
            if !connection.sending && !connection.outbox.is_empty() {
                let next = connection.spare.take().unwrap_or_default();
                fx.send.push((conn, std::mem::replace(&mut connection.outbox, next)));
                connection.sending = true;
            }
            if connection.ending && connection.outbox.is_empty() {
                fx.close.push(conn);
                continue;
            }
            let full = connection.outbox.len() > OUTBOX_PAUSE_BYTES
                || connection.unanswered > UNANSWERED_PAUSE;
            let drained =
                connection.outbox.is_empty() && connection.unanswered <= UNANSWERED_PAUSE / 2;
            if full && !connection.paused {
                connection.paused = true;
                self.paused += 1;
                fx.pause_receive.push(conn);
            } else if drained && connection.paused {
                connection.paused = false;
                self.paused -= 1;
                fx.resume_receive.push(conn);
            }
        }
        self.ready.clear();
    }

    /// Ends every connection after its replies are sent.
    pub(super) fn end_all(&mut self) {
        for slot in 0..self.slots.len() {
            let conn = ConnId { slot: slot as u32, generation: self.slots[slot].generation };
            if let Some(connection) = self.get(conn) {
                connection.ending = true;
                self.queue(conn);
            }
        }
    }
}
