//! Connections of a floor server: frames in, replies out, one send in flight on each.

use forebay_net::machine::{ConnId, Effects, SendBuf};

use super::frames::{self, Frames, Header};

#[derive(Debug, Default)]
struct Conn {
    generation: u32,
    open: bool,
    frames: Frames,
    waiting: SendBuf,
    /// Absent while it is in flight.
    spare: Option<SendBuf>,
    listed: bool,
}

/// All connections, indexed by slot. Buffers stay with the slot, so a warm server allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Connections {
    slots: Vec<Conn>,
    /// Connections with replies to send.
    ready: Vec<ConnId>,
}

impl Connections {
    pub(super) fn opened(&mut self, conn: ConnId) {
        let index = conn.slot as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, Conn::default);
        }
        let slot = &mut self.slots[index];
        assert!(!slot.open);
        slot.open = true;
        slot.generation = conn.generation;
        slot.frames.clear();
        slot.waiting.clear();
        slot.spare.get_or_insert_default();
    }

    pub(super) fn closed(&mut self, conn: ConnId) {
        let slot = &mut self.slots[conn.slot as usize];
        assert!(slot.open && slot.spare.is_some(), "its buffer came back first");
        slot.open = false;
        slot.listed = false;
        self.ready.retain(|ready| *ready != conn);
    }

    /// Cuts received bytes into frames; closes the connection on bytes that are none.
    pub(super) fn received(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
        fx: &mut Effects,
        each: impl FnMut(&Header, &[u8]),
    ) {
        if self.slots[conn.slot as usize].frames.push(bytes, each).is_err() {
            fx.close.push(conn);
        }
    }

    /// Queues a reply, unless the connection has gone in the meantime.
    pub(super) fn reply(&mut self, conn: ConnId, header: &Header) {
        let slot = &mut self.slots[conn.slot as usize];
        if !slot.open || slot.generation != conn.generation {
            return;
        }
        frames::append_reply(&mut slot.waiting, header);
        if !std::mem::replace(&mut slot.listed, true) {
            self.ready.push(conn);
        }
    }

    pub(super) fn sent(&mut self, conn: ConnId, mut buf: SendBuf) {
        buf.clear();
        let slot = &mut self.slots[conn.slot as usize];
        slot.spare = Some(buf);
        if !slot.waiting.is_empty() && !std::mem::replace(&mut slot.listed, true) {
            self.ready.push(conn);
        }
    }

    /// Hands out one buffer for each connection that has replies and no send in flight.
    pub(super) fn send(&mut self, fx: &mut Effects) {
        for conn in self.ready.drain(..) {
            let slot = &mut self.slots[conn.slot as usize];
            slot.listed = false;
            if let Some(spare) = slot.spare.take() {
                fx.send.push((conn, std::mem::replace(&mut slot.waiting, spare)));
            }
        }
    }
}
