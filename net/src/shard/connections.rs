//! The shard's side of its connections: what each has received, what waits to be sent, and when
//! to stop listening to one.
//!
//! Replies gather in a connection's outbox during a turn and leave as one buffer at its end. While
//! a buffer is on its way the next replies gather in another, so a connection owns two buffers and
//! allocates no more once they have grown.
//!
//! **Back-pressure.** A connection is paused when it does not take its replies, when too many of
//! its requests are unanswered, or when its writes wait for room. From that moment none of its
//! frames is handled any more, not even one that has arrived already, and its bytes are no longer
//! received: TCP carries the pressure back to the peer. So a connection's outbox never holds more
//! than [`OUTBOX_PAUSE_BYTES`] and one reply. When many connections are slow at once, each is
//! paused sooner: see [`OUTBOXES_BYTES_MAX`].

use std::collections::VecDeque;

use forebay_core::message::{ErrorReply, Message};
use forebay_core::time::Nanos;

use super::Asker;
use crate::frame::{self, FrameSerializer, Inbox, Template};
use crate::machine::{ConnId, Effects, SendBuf};

/// Reply bytes that may wait for one connection before it is paused.
const OUTBOX_PAUSE_BYTES: usize = 1024 * 1024;
/// Reply bytes of all connections beyond which each is paused at [`OUTBOX_PAUSE_BYTES_LOW`].
const OUTBOXES_BYTES_MAX: usize = 32 * 1024 * 1024;
/// See [`OUTBOXES_BYTES_MAX`].
const OUTBOX_PAUSE_BYTES_LOW: usize = 16 * 1024;
/// Requests of one connection that may be unanswered before it is paused.
const UNANSWERED_PAUSE: u32 = 4096;
/// Writes of one connection that may wait for room before it is paused.
const STALLED_PAUSE: u32 = 64;
/// Bytes of frames that are not whole yet, over all connections, beyond which a connection that
/// holds more than [`INBOX_FAIR_BYTES`] of them is closed: peers that begin large frames and never end
/// them must not fill the memory.
const INBOXES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// See [`INBOXES_BYTES_MAX`].
const INBOX_FAIR_BYTES: usize = 64 * 1024;
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
    /// The shell was told so.
    pause_told: bool,
    /// Its certificate is no operator's.
    denies_commands: bool,
    /// Close once the outbox has been sent.
    ending: bool,
    /// The shell was told to close it; nothing is said any more.
    closing: bool,
    unanswered: u32,
    stalled: u32,
    /// Requests that were taken off the inbox before it was known how large the replies before
    /// theirs would be. They go first when the connection goes on.
    deferred: VecDeque<(Asker, SendBuf)>,
}

impl Connection {
    fn is_full(&self, outbox_bytes_max: usize) -> bool {
        self.outbox.len() > outbox_bytes_max
            || self.unanswered > UNANSWERED_PAUSE
            || self.stalled > STALLED_PAUSE
    }

    fn has_drained(&self) -> bool {
        self.outbox.is_empty()
            && self.unanswered <= UNANSWERED_PAUSE / 2
            && self.stalled <= STALLED_PAUSE / 2
    }
}

/// Every connection of a shard.
#[derive(Debug, Default)]
pub(super) struct Connections {
    slots: Vec<Connection>,
    /// Slots with something to send or to decide at the end of the turn.
    ready: Vec<ConnId>,
    /// Connections that were paused and may have frames to handle.
    resumed: Vec<ConnId>,
    open: usize,
    paused: usize,
    /// In all outboxes.
    outbox_bytes: usize,
    /// In all inboxes.
    inbox_bytes: usize,
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
        let (outbox, spare) = (std::mem::take(&mut connection.outbox), connection.spare.take());
        *connection = Connection {
            generation: conn.generation,
            open: true,
            outbox,
            spare: Some(spare.unwrap_or_default()),
            ..Connection::default()
        };
        self.open += 1;
    }

    /// Operators' commands that come on it are refused.
    pub(super) fn deny_commands(&mut self, conn: ConnId) {
        self.get(conn).expect("it was just opened").denies_commands = true;
    }

    pub(super) fn takes_commands(&mut self, conn: ConnId) -> bool {
        self.get(conn).is_some_and(|connection| !connection.denies_commands)
    }

    pub(super) fn closed(&mut self, conn: ConnId) {
        let Some(connection) = self.get(conn) else { return };
        connection.open = false;
        let unread = std::mem::take(&mut connection.inbox).pending_bytes();
        connection.deferred.clear();
        let (was_paused, unsent) = (connection.paused, connection.outbox.len());
        connection.outbox.clear();
        if connection.outbox.capacity() > OUTBOX_KEEP_BYTES {
            connection.outbox = SendBuf::new();
        }
        self.open -= 1;
        self.paused -= usize::from(was_paused);
        self.outbox_bytes -= unsent;
        self.inbox_bytes -= unread;
    }

    #[inline]
    fn get(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.slots
            .get_mut(conn.slot as usize)
            .filter(|connection| connection.open && connection.generation == conn.generation)
    }

    /// Takes the inbox out while its frames are handled; give it back with [`Self::restore_inbox`].
    pub(super) fn take_inbox(&mut self, conn: ConnId) -> Option<Inbox> {
        let connection = self.get(conn)?;
        if connection.ending {
            return None;
        }
        let inbox = std::mem::take(&mut connection.inbox);
        self.inbox_bytes -= inbox.pending_bytes();
        Some(inbox)
    }

    /// Says whether there is memory for what the connection has begun to send.
    #[must_use]
    pub(super) fn restore_inbox(&mut self, conn: ConnId, inbox: Inbox) -> bool {
        let Some(connection) = self.get(conn) else { return true };
        let pending_bytes = inbox.pending_bytes();
        connection.inbox = inbox;
        self.inbox_bytes += pending_bytes;
        self.inbox_bytes <= INBOXES_BYTES_MAX || pending_bytes <= INBOX_FAIR_BYTES
    }

    /// A request came in that a reply will answer.
    #[inline]
    pub(super) fn asked(&mut self, conn: ConnId) {
        if let Some(connection) = self.get(conn) {
            connection.unanswered += 1;
        }
    }

    /// Whether the connection's next request may be handled. If not, it is paused.
    #[inline]
    pub(super) fn wants_requests(&mut self, conn: ConnId) -> bool {
        let outbox_bytes_max = self.outbox_bytes_max();
        let Some(connection) = self.get(conn) else { return false };
        if connection.paused {
            return false;
        }
        if !connection.is_full(outbox_bytes_max) {
            return true;
        }
        connection.paused = true;
        self.paused += 1;
        self.queue(conn);
        false
    }

    #[inline]
    fn outbox_bytes_max(&self) -> usize {
        if self.outbox_bytes > OUTBOXES_BYTES_MAX {
            OUTBOX_PAUSE_BYTES_LOW
        } else {
            OUTBOX_PAUSE_BYTES
        }
    }

    /// A request will be handled when its connection goes on; it is paused.
    pub(super) fn defer(&mut self, asker: Asker, payload: SendBuf) {
        if let Some(connection) = self.get(asker.conn) {
            debug_assert!(connection.paused);
            connection.deferred.push_back((asker, payload));
        }
    }

    /// The next deferred request of a connection that wants requests.
    pub(super) fn next_deferred(&mut self, conn: ConnId) -> Option<(Asker, SendBuf)> {
        self.get(conn)?.deferred.pop_front()
    }

    /// One of the connection's writes waits for room.
    pub(super) fn stalled(&mut self, conn: ConnId) {
        if let Some(connection) = self.get(conn) {
            connection.stalled += 1;
        }
    }

    /// One of them waits no longer.
    pub(super) fn unstalled(&mut self, conn: ConnId) {
        if let Some(connection) = self.get(conn) {
            connection.stalled -= 1;
            if connection.paused {
                self.queue(conn);
            }
        }
    }

    /// None of anybody's waits any longer.
    pub(super) fn unstall_all(&mut self) {
        for slot in 0..self.slots.len() {
            let conn = self.at(slot);
            if let Some(connection) = self.get(conn)
                && std::mem::take(&mut connection.stalled) > 0
            {
                self.queue(conn);
            }
        }
    }

    /// Adds a reply to the connection's outbox; nothing happens if the peer has left.
    pub(super) fn reply<M>(&mut self, conn: ConnId, correlation: u64, message: &M)
    where
        M: Message + for<'a> rkyv::Serialize<FrameSerializer<'a>>,
    {
        self.reply_by(conn, |outbox| frame::append(outbox, correlation, message));
    }

    /// The same, of a reply that is always alike.
    pub(super) fn reply_alike(&mut self, conn: ConnId, correlation: u64, template: &Template) {
        self.reply_by(conn, |outbox| template.append(outbox, correlation));
    }

    #[inline]
    fn reply_by(&mut self, conn: ConnId, append: impl FnOnce(&mut SendBuf)) {
        let Some(connection) = self.get(conn).filter(|connection| !connection.closing) else {
            return;
        };
        connection.unanswered = connection.unanswered.saturating_sub(1);
        let before = connection.outbox.len();
        append(&mut connection.outbox);
        let added = connection.outbox.len() - before;
        self.outbox_bytes += added;
        self.queue(conn);
    }

    /// Sends `error` and closes: the stream can no longer be trusted.
    pub(super) fn refuse(&mut self, conn: ConnId, error: &ErrorReply<'_>) {
        self.reply(conn, 0, error);
        self.end(conn);
    }

    /// Closes the connection once its replies are sent.
    pub(super) fn end(&mut self, conn: ConnId) {
        if let Some(connection) = self.get(conn) {
            connection.ending = true;
            self.queue(conn);
        }
    }

    #[inline]
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
            if !connection.outbox.is_empty() || connection.paused || connection.ending {
                self.queue(conn);
            }
        }
    }

    /// Whether a connection has something to hand out at a turn's end, or to be told.
    pub(super) fn has_unsent(&self) -> bool {
        !self.ready.is_empty()
    }

    /// End of the turn: hand out what is ready.
    pub(super) fn flush(&mut self, fx: &mut Effects) {
        for index in 0..self.ready.len() {
            let conn = self.ready[index];
            let Some(connection) = self.get(conn) else { continue };
            connection.queued = false;
            if connection.closing {
                continue;
            }
            let mut handed_out = 0;
            if !connection.sending && !connection.outbox.is_empty() {
                let next = connection.spare.take().unwrap_or_default();
                let full = std::mem::replace(&mut connection.outbox, next);
                handed_out = full.len();
                fx.send.push((conn, full));
                connection.sending = true;
            }
            if connection.ending {
                connection.closing = connection.outbox.is_empty();
                if connection.closing {
                    fx.close.push(conn);
                }
            } else if connection.paused && connection.has_drained() {
                connection.paused = false;
                if std::mem::take(&mut connection.pause_told) {
                    fx.resume_receive.push(conn);
                }
                self.paused -= 1;
                self.resumed.push(conn);
                // What has arrived already is handled in the next turn.
                fx.run_again = true;
            } else if connection.paused && !connection.pause_told {
                connection.pause_told = true;
                fx.pause_receive.push(conn);
            }
            self.outbox_bytes -= handed_out;
        }
        self.ready.clear();
    }

    /// A connection that is no longer paused.
    pub(super) fn next_resumed(&mut self) -> Option<ConnId> {
        self.resumed.pop()
    }

    /// Ends every connection that has replies to send, without sending them.
    pub(super) fn cut_unsent(&mut self) {
        for slot in 0..self.slots.len() {
            let conn = self.at(slot);
            let Some(connection) = self.get(conn).filter(|found| !found.outbox.is_empty()) else {
                continue;
            };
            let unsent = connection.outbox.len();
            connection.outbox.clear();
            self.outbox_bytes -= unsent;
            self.end(conn);
        }
    }

    /// Ends every connection after its replies are sent.
    pub(super) fn end_all(&mut self) {
        for slot in 0..self.slots.len() {
            self.end(self.at(slot));
        }
    }

    fn at(&self, slot: usize) -> ConnId {
        ConnId { slot: slot as u32, generation: self.slots[slot].generation }
    }
}
