//! The seam between what decides and what acts.
//!
//! ```text
//!            received, sent, disk_done, woken, connected …
//!   ring  ───────────────────────────────────────────────►  Machine
//!   (or simulator)                                           (shard, load generator, echo floor)
//!         ◄───────────────────────────────────────────────
//!            Effects: send, disk, connect, close, wake_at
//! ```
//!
//! The shell delivers every event that is ready, then calls [`Machine::turn`] once, then carries
//! out all effects with one system call, and sleeps in the kernel until the next event or
//! `wake_at`. A machine therefore batches by itself: what it gathers during the events of a turn
//! leaves together at the end of it.
//!
//! **What is delivered with `now` happened before `now`.** The ring reads the clock after it has entered the
//! kernel, and completions are posted only while it is there (DEFER_TASKRUN), so what a turn takes from memory
//! was there when the clock was read; the simulator delivers each event at its own time. Whoever hears of
//! something may therefore count from `now` what must not begin earlier. What a machine fetches itself in
//! [`Machine::turn`], from another lane's queue, may be newer.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use forebay_core::time::Nanos;
use forebay_storage::block::{DiskDone, DiskOp};
use rkyv::util::AlignedVec;

/// Bytes on their way to a peer. 16-byte alignment lets archives be built in place.
pub type SendBuf = AlignedVec<16>;

/// One connection, for as long as it is open. The shell never uses a value again while the machine
/// could still hold it: the generation differs when a slot is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Small and dense: machines may index arrays with it.
    pub slot: u32,
    /// Distinguishes successive users of the slot.
    pub generation: u32,
}

/// Why a connection ended or could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer closed it in order.
    Peer,
    /// The machine asked for it.
    Asked,
    /// The operating system reported this errno.
    Error(i32),
}

/// What a machine wants done. The shell drains it after every turn; the vectors keep their
/// capacity, so a warm machine does not allocate here.
#[derive(Debug, Default)]
pub struct Effects {
    /// Disk operations, started in this order (completion order is free).
    pub disk: Vec<DiskOp>,
    /// Buffers to send. At most one per connection may be in flight: the machine waits for
    /// [`Machine::sent`] before it hands out the next one for that connection.
    pub send: Vec<(ConnId, SendBuf)>,
    /// Connections to open; the token comes back in [`Machine::connected`] or
    /// [`Machine::connect_failed`].
    pub connect: Vec<(u64, SocketAddr)>,
    /// Connections that another lane has opened, to be taken over; the token comes back as that of
    /// `connect` does. Only shells over real sockets know these.
    pub adopt: Vec<(u64, OwnedFd)>,
    /// Connections to close once what was handed out for sending has gone. Nothing received after
    /// that is delivered.
    pub close: Vec<ConnId>,
    /// Connections whose bytes the machine does not want yet (back-pressure: TCP fills up).
    /// What the kernel has already handed to the shell still arrives.
    pub pause_receive: Vec<ConnId>,
    /// Connections whose bytes it wants again.
    pub resume_receive: Vec<ConnId>,
    /// Call [`Machine::turn`] no later than this even if nothing happens. Good for one sleep: the
    /// shell takes it, and a machine that still waits sets it again in its next turn.
    pub wake_at: Option<Nanos>,
    /// Do not sleep before the next turn: work remains. The shell polls and comes back at once.
    pub run_again: bool,
    /// Stop the loop after carrying out the rest.
    pub stop: bool,
}

/// A state machine that a shell can drive.
///
/// Only [`Machine::turn`] must be written. The shell delivers nothing that was not asked for: a
/// machine without listeners and connections hears of no socket, one that asks for no disk operation
/// hears of none. The methods for what it never asks for are therefore left as they are here, where
/// they panic: a machine that asks and does not listen is broken.
pub trait Machine {
    /// A connection is open: accepted on listener `listener` (`token` is None), or opened or adopted
    /// for `token`.
    fn connected(&mut self, _conn: ConnId, _listener: usize, _token: Option<u64>, _now: Nanos) {
        unreachable!("{NO_SOCKETS}");
    }
    /// The connection asked for under `token` could not be opened.
    fn connect_failed(&mut self, _token: u64, _errno: i32, _now: Nanos) {
        unreachable!("{NO_SOCKETS}");
    }
    /// Bytes arrived. They are the machine's only during the call; what it does not handle yet it
    /// must copy.
    fn received(&mut self, _conn: ConnId, _bytes: &[u8], _now: Nanos, _fx: &mut Effects) {
        unreachable!("{NO_SOCKETS}");
    }
    /// The whole buffer left (or the connection failed, and `closed` follows). The machine gets it
    /// back for its next message.
    fn sent(&mut self, _conn: ConnId, _buf: SendBuf, _now: Nanos) {
        unreachable!("{NO_SOCKETS}");
    }
    /// The connection is gone and `conn` will not appear again. Buffers still in flight were
    /// returned through `sent` before.
    fn closed(&mut self, _conn: ConnId, _reason: CloseReason, _now: Nanos) {
        unreachable!("{NO_SOCKETS}");
    }
    /// A disk operation ended.
    fn disk_done(&mut self, _done: DiskDone, _now: Nanos) {
        unreachable!("this machine asks for no disk operation");
    }
    /// Another lane rang the eventfd. What it left is looked for in [`Machine::turn`] all the same.
    fn woken(&mut self, _now: Nanos) {}
    /// All events at hand were delivered; act. Called at least once per loop.
    fn turn(&mut self, now: Nanos, fx: &mut Effects);
}

/// What the methods that were left as they are say.
const NO_SOCKETS: &str = "this machine has no listener and opens no connection";
