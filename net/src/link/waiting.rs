//! Messages of groups that arrived faster than a turn takes them.
//!
//! ```text
//!   frames of a turn ─┬─ liveness, greetings, steps ───────────────────────────────► at once
//!                     └─ groups' batches ─┬─ the first thousand messages ──────────► at once
//!                                         └─ the others ─► wait with their connection ─► next turns
//! ```
//!
//! **Heartbeats first**: when thousands of groups elect at once, their messages take a turn longer than a
//! lease, and the heartbeats between them would be heard too late: every lease lapses, and all elect
//! again. So a turn takes a bounded number of groups' messages, and what liveness says overtakes those that
//! wait; at the sender it does already (`outbox`).
//!
//! *Invariants*: batches of one connection are handed over in their order, and as soon as one waits all
//! later ones do; what waits ends with its connection, like what its sender had queued.

use std::collections::VecDeque;

use forebay_core::message::peer::PeerKind;
use forebay_core::time::Nanos;

use super::{Links, Phase, Sink};
use crate::frame::Frame;
use crate::machine::{ConnId, SendBuf};

/// The batches of a connection that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Version of the layout, and the archive.
    frames: VecDeque<(u16, SendBuf)>,
    bytes: usize,
}

impl Waiting {
    pub(super) fn clear(&mut self) -> u64 {
        let count = self.frames.len() as u64;
        *self = Waiting::default();
        count
    }
}

impl Links {
    /// Whether the frame has to wait, and if so, takes it.
    pub(super) fn puts_off(&mut self, conn: ConnId, frame: &Frame<'_>) -> bool {
        if frame.kind != PeerKind::GroupBatch as u16 {
            return false;
        }
        let (settings, full) =
            (self.settings, self.turn_messages >= self.settings.turn_messages_max);
        let Some(found) = self.conn(conn).filter(|found| found.phase == Phase::Established) else {
            return false;
        };
        let waiting = &mut found.waiting;
        let is_first = waiting.frames.is_empty();
        if is_first && !full {
            return false;
        }
        if waiting.bytes + frame.payload.len() > settings.waiting_bytes_max {
            self.counters.dropped_waiting += 1;
            return true;
        }
        let mut payload = SendBuf::with_capacity(frame.payload.len());
        payload.extend_from_slice(frame.payload);
        waiting.bytes += payload.len();
        waiting.frames.push_back((frame.message_version, payload));
        if is_first {
            self.behind.push_back(conn);
        }
        true
    }

    /// Hands over what has waited, as far as this turn goes; connections take turns. Whether something
    /// waits still: then run again soon.
    pub fn take_waiting(&mut self, now: Nanos, sink: &mut impl Sink) -> bool {
        while self.turn_messages < self.settings.turn_messages_max
            && let Some(conn) = self.behind.pop_front()
        {
            let Some(found) = self.conn(conn) else { continue };
            let Some((message_version, payload)) = found.waiting.frames.pop_front() else {
                continue;
            };
            found.waiting.bytes -= payload.len();
            let more = !found.waiting.frames.is_empty();
            let frame = Frame {
                kind: PeerKind::GroupBatch as u16,
                message_version,
                correlation: 0,
                payload: &payload,
                frame_bytes: payload.len(),
            };
            self.take_frame(conn, &frame, now, sink);
            if more {
                self.behind.push_back(conn);
            }
        }
        !self.behind.is_empty()
    }
}
