//! Connections: accept, connect, receive, send, close.
//!
//! ```text
//!             connected                       Asked: the last send, then FIN, then the
//!                │                            peer's FIN or close_linger
//!                ▼          close asked      ┌──────────┐
//!              Open ────────────────────────►│ Draining │
//!                │                           └────┬─────┘
//!                │ peer's FIN, error              │
//!                ▼                                ▼
//!             Closing ◄───────────────────────────┘   receive and send are cancelled
//!                │ no operation left
//!                ▼
//!             Released: file closed, `closed` told, slot free under a new generation
//! ```
//!
//! Draining waits for the peer's FIN because a close with unread bytes sends a reset, and a reset
//! can destroy the error reply that explains the close.
//!
//! A connection's file is a direct descriptor: it exists only in the ring's file table, so the
//! process's descriptor table, and its locks, are out of the way. Cancellation is by user_data; it
//! can miss an operation that is just being completed, so it is repeated while the operation lives,
//! and at last the socket is shut down, which ends every operation on it.
//!
//! Left out: SEND_ZC. It pays from about 2 KiB on a real NIC and costs on loopback; its place is
//! `send_entry`, and its second completion (F_NOTIF) is what the slab's rule about F_MORE covers.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

use forebay_core::time::Nanos;
use io_uring::types::{CancelBuilder, Fixed};
use io_uring::{cqueue, opcode, squeue};
use socket2::SockAddr;

use crate::machine::{CloseReason, ConnId, Effects, Machine, SendBuf};

use super::counters::add;
use super::error::RingError;
use super::queues::Queues;
use super::slab::{Op, OpKey};
use super::{Shell, buffers, system};

/// Cancellations of one operation before the socket is shut down instead.
const CANCELS_MAX: u8 = 8;
/// After an accept failed for want of memory or files, the next try.
const ACCEPT_PAUSE_NANOS: u64 = 10 * Nanos::PER_MILLI;

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    /// Index among the fixed files.
    pub(super) file: u32,
    /// When to try again after a failure.
    pub(super) arm_at: Option<Nanos>,
}

/// A connection being made. Boxed: the kernel reads `fd` and writes the fixed index into it.
#[derive(Debug)]
pub(super) struct Connecting {
    token: u64,
    /// Where to; None for one that is open and being adopted.
    addr: Option<SockAddr>,
    fd: i32,
    /// Held until the ring has its own reference.
    socket: Option<OwnedFd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Open,
    Draining { deadline: Nanos, fin_sent: bool },
    Closing,
    Releasing,
}

#[derive(Debug)]
struct Conn {
    generation: u32,
    /// Index among the fixed files.
    file: u32,
    state: State,
    reason: CloseReason,
    receive: Option<OpKey>,
    send: Option<OpKey>,
    want_receive: bool,
    /// Cancellations and the shutdown in flight.
    auxiliary: u8,
    cancels_left: u8,
}

/// All connections; slots are reused last-in first-out, so that they stay dense.
#[derive(Debug)]
pub(super) struct Conns {
    slots: Vec<Conn>,
    free: Vec<u32>,
    connections_max: u32,
    /// Connections that wait for the peer or for their deadline.
    draining: Vec<ConnId>,
}

impl Conns {
    pub(super) fn new(connections_max: u32) -> Conns {
        Conns { slots: Vec::new(), free: Vec::new(), connections_max, draining: Vec::new() }
    }

    fn allocate(&mut self, file: u32) -> Option<ConnId> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if (self.slots.len() as u64) < u64::from(self.connections_max) => {
                self.slots.push(Conn {
                    generation: 0,
                    file: 0,
                    state: State::Free,
                    reason: CloseReason::Peer,
                    receive: None,
                    send: None,
                    want_receive: true,
                    auxiliary: 0,
                    cancels_left: 0,
                });
                self.slots.len() as u32 - 1
            }
            None => return None,
        };
        let conn = &mut self.slots[slot as usize];
        assert_eq!(conn.state, State::Free);
        assert!(conn.receive.is_none() && conn.send.is_none() && conn.auxiliary == 0);
        conn.file = file;
        conn.state = State::Open;
        conn.want_receive = true;
        conn.cancels_left = CANCELS_MAX;
        Some(ConnId { slot, generation: conn.generation })
    }

    fn id(&self, slot: u32) -> ConnId {
        ConnId { slot, generation: self.slots[slot as usize].generation }
    }

    /// The connection, if `id` still means it.
    fn current(&mut self, id: ConnId) -> Option<&mut Conn> {
        let conn = self.slots.get_mut(id.slot as usize)?;
        (conn.generation == id.generation && conn.state != State::Free).then_some(conn)
    }

    /// Connections not yet released.
    pub(super) fn live(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

// Listening and connecting.
impl Shell {
    pub(super) fn arm_accept(&mut self, queues: &mut Queues<'_>, listener: u32) {
        let file = Fixed(self.listeners[listener as usize].file);
        self.listeners[listener as usize].arm_at = None;
        let key = self.ops.insert(Op::Accept { listener });
        let entry = opcode::AcceptMulti::new(file).allocate_file_index(true).build();
        queues.push(entry.user_data(key.user_data()));
    }

    pub(super) fn accept_completed<M: Machine + ?Sized>(
        &mut self,
        queues: &mut Queues<'_>,
        key: OpKey,
        listener: u32,
        completion: &cqueue::Entry,
        machine: &mut M,
        now: Nanos,
    ) -> Result<(), RingError> {
        let result = completion.result();
        if result >= 0 {
            add(&self.counters.accepted, 1);
            self.open(queues, result as u32, listener as usize, None, machine, now);
        }
        if cqueue::more(completion.flags()) {
            return Ok(());
        }
        self.ops.remove(key);
        match -result {
            errno if errno <= 0 => self.arm_accept(queues, listener),
            // The ring's file table, the system's files, or its memory are used up; closing
            // connections will free some.
            libc::ENFILE | libc::EMFILE | libc::ENOBUFS | libc::ENOMEM => {
                add(&self.counters.accept_failures, 1);
                self.listeners[listener as usize].arm_at = Some(now + ACCEPT_PAUSE_NANOS);
            }
            errno @ (libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT) => {
                return Err(RingError::system("accept", std::io::Error::from_raw_os_error(errno)));
            }
            // What went wrong was one connection's; accept(2) says to treat these as such.
            _ => self.arm_accept(queues, listener),
        }
        Ok(())
    }

    pub(super) fn start_connect(&mut self, queues: &mut Queues<'_>, token: u64, addr: SocketAddr) {
        let socket = match system::outward_socket(addr) {
            Ok(socket) => socket,
            Err(e) => {
                let errno = e.raw_os_error().unwrap_or(libc::EINVAL);
                self.failed_connects.push((token, errno));
                return;
            }
        };
        self.install(queues, token, Some(addr.into()), socket.into());
    }

    /// Takes over a connection that is open.
    pub(super) fn adopt(&mut self, queues: &mut Queues<'_>, token: u64, descriptor: OwnedFd) {
        self.install(queues, token, None, descriptor);
    }

    fn install(
        &mut self,
        queues: &mut Queues<'_>,
        token: u64,
        addr: Option<SockAddr>,
        socket: OwnedFd,
    ) {
        let fd = socket.as_raw_fd();
        let connecting = Box::new(Connecting { token, addr, fd, socket: Some(socket) });
        let fd_pointer: *const i32 = &raw const connecting.fd;
        let key = self.ops.insert(Op::Install(connecting));
        // Offset -1 is IORING_FILE_INDEX_ALLOC: the kernel chooses the slot and writes it to `fd`.
        let entry = opcode::FilesUpdate::new(fd_pointer, 1).offset(-1).build();
        queues.push(entry.user_data(key.user_data()));
    }

    pub(super) fn install_completed<M: Machine + ?Sized>(
        &mut self,
        queues: &mut Queues<'_>,
        mut connecting: Box<Connecting>,
        result: i32,
        machine: &mut M,
        now: Nanos,
    ) {
        connecting.socket = None;
        if result < 0 {
            machine.connect_failed(connecting.token, -result, now);
            return;
        }
        let Some(addr) = &connecting.addr else {
            return self.open(
                queues,
                connecting.fd as u32,
                0,
                Some(connecting.token),
                machine,
                now,
            );
        };
        let (addr, addr_len) = (addr.as_ptr(), addr.len());
        let entry =
            opcode::Connect::new(Fixed(connecting.fd as u32), addr.cast(), addr_len).build();
        let key = self.ops.insert(Op::Connect(connecting));
        queues.push(entry.user_data(key.user_data()));
    }

    pub(super) fn connect_completed<M: Machine + ?Sized>(
        &mut self,
        queues: &mut Queues<'_>,
        connecting: &Connecting,
        result: i32,
        machine: &mut M,
        now: Nanos,
    ) {
        let file = connecting.fd as u32;
        if result < 0 {
            self.close_file(queues, file);
            machine.connect_failed(connecting.token, -result, now);
            return;
        }
        add(&self.counters.connected, 1);
        self.open(queues, file, 0, Some(connecting.token), machine, now);
    }

    fn open<M: Machine + ?Sized>(
        &mut self,
        queues: &mut Queues<'_>,
        file: u32,
        listener: usize,
        token: Option<u64>,
        machine: &mut M,
        now: Nanos,
    ) {
        let Some(conn) = self.conns.allocate(file) else {
            add(&self.counters.refused, 1);
            self.close_file(queues, file);
            if let Some(token) = token {
                machine.connect_failed(token, libc::EMFILE, now);
            }
            return;
        };
        self.counters
            .connections
            .store(self.conns.live() as u64, std::sync::atomic::Ordering::Relaxed);
        self.arm_receive(queues, conn.slot);
        machine.connected(conn, listener, token, now);
    }

    fn close_file(&mut self, queues: &mut Queues<'_>, file: u32) {
        let key = self.ops.insert(Op::CloseFile);
        let entry = opcode::Close::new(Fixed(file)).build();
        queues.push(entry.user_data(key.user_data()));
    }
}

// Receiving.
impl Shell {
    fn arm_receive(&mut self, queues: &mut Queues<'_>, slot: u32) {
        let key = self.ops.insert(Op::Receive { conn: slot });
        let conn = &mut self.conns.slots[slot as usize];
        debug_assert!(conn.receive.is_none());
        conn.receive = Some(key);
        add(&self.counters.receives_armed, 1);
        let entry = opcode::RecvMulti::new(Fixed(conn.file), buffers::GROUP).build();
        queues.push(entry.user_data(key.user_data()));
    }

    #[expect(clippy::too_many_arguments, reason = "one event with its whole context")]
    pub(super) fn receive_completed<M: Machine + ?Sized>(
        &mut self,
        queues: &mut Queues<'_>,
        key: OpKey,
        slot: u32,
        completion: &cqueue::Entry,
        machine: &mut M,
        fx: &mut Effects,
        now: Nanos,
    ) {
        let (result, flags) = (completion.result(), completion.flags());
        if let Some(buffer) = cqueue::buffer_select(flags) {
            if result > 0 && self.conns.slots[slot as usize].state == State::Open {
                add(&self.counters.received_bytes, result as u64);
                let bytes = self.buffers.bytes(buffer, result as usize);
                machine.received(self.conns.id(slot), bytes, now, fx);
            }
            self.buffers.give_back(buffer);
        }
        if cqueue::more(flags) {
            return;
        }
        self.ops.remove(key);
        let conn = &mut self.conns.slots[slot as usize];
        conn.receive = None;
        match -result {
            0 => self.begin_close(queues, slot, CloseReason::Peer),
            libc::ENOBUFS => add(&self.counters.receive_no_buffers, 1),
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
            errno if errno > 0 => self.begin_close(queues, slot, CloseReason::Error(errno)),
            _ => {}
        }
        let conn = &mut self.conns.slots[slot as usize];
        match conn.state {
            State::Open if conn.want_receive => self.arm_receive(queues, slot),
            State::Draining { .. } => self.arm_receive(queues, slot),
            _ => self.advance_close(queues, slot),
        }
    }

    pub(super) fn pause_receive(&mut self, queues: &mut Queues<'_>, id: ConnId) {
        let Some(conn) = self.conns.current(id) else { return };
        if conn.state != State::Open || !conn.want_receive {
            return;
        }
        conn.want_receive = false;
        if let Some(key) = conn.receive {
            self.cancel(queues, id.slot, key);
        }
    }

    pub(super) fn resume_receive(&mut self, queues: &mut Queues<'_>, id: ConnId) {
        let Some(conn) = self.conns.current(id) else { return };
        if conn.state != State::Open || conn.want_receive {
            return;
        }
        conn.want_receive = true;
        // A receive still being cancelled is re-armed by its last completion.
        if conn.receive.is_none() {
            self.arm_receive(queues, id.slot);
        }
    }
}

// Sending.
impl Shell {
    pub(super) fn start_send(&mut self, queues: &mut Queues<'_>, id: ConnId, buf: SendBuf) {
        let conn = self.conns.current(id);
        let Some(conn) = conn.filter(|conn| conn.state == State::Open && !buf.is_empty()) else {
            // Closed or closing (the machine will hear of it), or nothing to send.
            self.returned_sends.push((id, buf));
            return;
        };
        assert!(conn.send.is_none(), "at most one send per connection is in flight");
        let file = conn.file;
        let entry = send_entry(file, &buf, 0);
        let key = self.ops.insert(Op::Send { conn: id.slot, buf, sent: 0 });
        self.conns.slots[id.slot as usize].send = Some(key);
        queues.push(entry.user_data(key.user_data()));
    }

    pub(super) fn send_completed<M: Machine + ?Sized>(
        &mut self,
        queues: &mut Queues<'_>,
        key: OpKey,
        slot: u32,
        completion: &cqueue::Entry,
        machine: &mut M,
        now: Nanos,
    ) {
        let result = completion.result();
        let Some(Op::Send { buf, sent, .. }) = self.ops.get_mut(key) else {
            unreachable!("the caller has looked")
        };
        if result > 0 {
            add(&self.counters.sent_bytes, result as u64);
            *sent += result as u32;
        }
        let complete = *sent as usize == buf.len();
        let conn = &mut self.conns.slots[slot as usize];
        let alive = matches!(conn.state, State::Open | State::Draining { .. });
        let interrupted = matches!(-result, libc::EINTR | libc::EAGAIN);
        if !complete && alive && (result > 0 || interrupted) {
            add(&self.counters.sends_short, 1);
            let entry = send_entry(conn.file, buf, *sent);
            queues.push(entry.user_data(key.user_data()));
            return;
        }
        conn.send = None;
        let Some(Op::Send { buf, .. }) = self.ops.remove(key) else { unreachable!("found above") };
        if !complete && alive {
            let errno = if result < 0 { -result } else { libc::EPIPE };
            self.begin_close(queues, slot, CloseReason::Error(errno));
        }
        machine.sent(self.conns.id(slot), buf, now);
        self.advance_close(queues, slot);
    }
}

/// The one place that decides how bytes leave. MSG_WAITALL lets the kernel itself continue after a
/// partial send.
fn send_entry(file: u32, buf: &SendBuf, sent: u32) -> squeue::Entry {
    let left = &buf[sent as usize..];
    let len = u32::try_from(left.len()).expect("a send is far below 4 GiB");
    opcode::Send::new(Fixed(file), left.as_ptr(), len)
        .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
        .build()
}

// Closing.
impl Shell {
    pub(super) fn close_asked(&mut self, queues: &mut Queues<'_>, id: ConnId, now: Nanos) {
        let deadline = now + self.close_linger_nanos;
        let Some(conn) = self.conns.current(id) else { return };
        if conn.state != State::Open {
            return;
        }
        conn.state = State::Draining { deadline, fin_sent: false };
        conn.reason = CloseReason::Asked;
        conn.want_receive = true;
        let armed = conn.receive.is_some();
        self.conns.draining.push(id);
        if !armed {
            // Paused: the peer's bytes are now read and thrown away, to reach its FIN.
            self.arm_receive(queues, id.slot);
        }
        self.advance_close(queues, id.slot);
    }

    /// The connection is over; what is in flight on it is cancelled.
    fn begin_close(&mut self, queues: &mut Queues<'_>, slot: u32, reason: CloseReason) {
        let conn = &mut self.conns.slots[slot as usize];
        match conn.state {
            State::Open => conn.reason = reason,
            State::Draining { .. } => {}
            State::Closing | State::Releasing | State::Free => return,
        }
        conn.state = State::Closing;
        for key in [conn.receive, conn.send].into_iter().flatten() {
            self.cancel(queues, slot, key);
        }
        self.advance_close(queues, slot);
    }

    /// Moves a draining or closing connection on, if it is time.
    fn advance_close(&mut self, queues: &mut Queues<'_>, slot: u32) {
        let conn = &mut self.conns.slots[slot as usize];
        match conn.state {
            State::Draining { deadline, fin_sent: false } if conn.send.is_none() => {
                conn.state = State::Draining { deadline, fin_sent: true };
                self.shutdown(queues, slot, libc::SHUT_WR);
            }
            State::Closing
                if conn.receive.is_none() && conn.send.is_none() && conn.auxiliary == 0 =>
            {
                conn.state = State::Releasing;
                let entry = opcode::Close::new(Fixed(conn.file)).build();
                let key = self.ops.insert(Op::CloseConn { conn: slot });
                queues.push(entry.user_data(key.user_data()));
            }
            _ => {}
        }
    }

    pub(super) fn close_completed<M: Machine + ?Sized>(
        &mut self,
        slot: u32,
        machine: &mut M,
        now: Nanos,
    ) {
        let id = self.conns.id(slot);
        let conn = &mut self.conns.slots[slot as usize];
        assert_eq!(conn.state, State::Releasing);
        conn.state = State::Free;
        conn.generation = conn.generation.wrapping_add(1);
        let reason = conn.reason;
        if reason == CloseReason::Asked {
            self.conns.draining.retain(|waiting| *waiting != id);
        }
        self.conns.free.push(slot);
        add(&self.counters.closed, 1);
        self.counters
            .connections
            .store(self.conns.live() as u64, std::sync::atomic::Ordering::Relaxed);
        machine.closed(id, reason, now);
    }

    fn cancel(&mut self, queues: &mut Queues<'_>, slot: u32, target: OpKey) {
        self.conns.slots[slot as usize].auxiliary += 1;
        let key = self.ops.insert(Op::Cancel { conn: slot, target });
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(target.user_data())).build();
        queues.push(entry.user_data(key.user_data()));
    }

    pub(super) fn cancel_completed(
        &mut self,
        queues: &mut Queues<'_>,
        slot: u32,
        target: OpKey,
        result: i32,
    ) {
        let missed = result < 0 && self.ops.contains(target);
        let conn = &mut self.conns.slots[slot as usize];
        conn.auxiliary -= 1;
        let paused = conn.state == State::Open && !conn.want_receive;
        if missed && (paused || conn.state == State::Closing) {
            if paused || conn.cancels_left > 0 {
                conn.cancels_left = conn.cancels_left.saturating_sub(1);
                self.cancel(queues, slot, target);
            } else if conn.auxiliary == 0 {
                self.shutdown(queues, slot, libc::SHUT_RDWR);
            }
        }
        self.advance_close(queues, slot);
    }

    fn shutdown(&mut self, queues: &mut Queues<'_>, slot: u32, how: i32) {
        let conn = &mut self.conns.slots[slot as usize];
        conn.auxiliary += 1;
        let entry = opcode::Shutdown::new(Fixed(conn.file), how).build();
        let key = self.ops.insert(Op::Shutdown { conn: slot });
        queues.push(entry.user_data(key.user_data()));
    }

    /// A failed shutdown (ENOTCONN) means that the peer is gone; the receive says the same.
    pub(super) fn shutdown_completed(&mut self, queues: &mut Queues<'_>, slot: u32) {
        self.conns.slots[slot as usize].auxiliary -= 1;
        self.advance_close(queues, slot);
    }

    /// Ends the patience with peers that do not close, and re-arms paused accepts.
    pub(super) fn run_deadlines(&mut self, queues: &mut Queues<'_>, now: Nanos) {
        for listener in 0..self.listeners.len() {
            if self.listeners[listener].arm_at.is_some_and(|at| at <= now) {
                self.arm_accept(queues, listener as u32);
            }
        }
        let mut next = 0;
        while let Some(&id) = self.conns.draining.get(next) {
            next += 1;
            let overdue = self.conns.current(id).is_some_and(
                |conn| matches!(conn.state, State::Draining { deadline, .. } if deadline <= now),
            );
            if overdue {
                self.begin_close(queues, id.slot, CloseReason::Asked);
            }
        }
    }

    /// The next moment at which `run_deadlines` has something to do.
    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        let listeners = self.listeners.iter().filter_map(|listener| listener.arm_at);
        let draining = self.conns.draining.iter().filter_map(|id| {
            match self.conns.slots[id.slot as usize].state {
                State::Draining { deadline, .. } => Some(deadline),
                _ => None,
            }
        });
        listeners.chain(draining).min()
    }
}
