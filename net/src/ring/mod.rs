//! The shard lane's event loop: one thread, one io_uring, one [`Machine`].
//!
//! ```text
//!   ┌───────────────────────────── one turn ─────────────────────────────┐
//!   │ completions ─► received, sent, disk_done, connected, closed, woken │
//!   │                         ▼                                          │
//!   │                   Machine::turn                                    │
//!   │                         ▼                                          │
//!   │ effects ─► submissions ─► io_uring_enter (submit, run deferred     │
//!   │                           work, sleep until something happens)     │
//!   └────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! One system call a turn carries everything out and brings everything in, so the busier the shard,
//! the fewer system calls a request costs. The ring is made with:
//!
//! * SINGLE_ISSUER and DEFER_TASKRUN: the kernel's share of a completion runs inside our
//!   io_uring_enter, never as an interruption of a turn. That is why every enter carries GETEVENTS.
//!   COOP_TASKRUN would add nothing: deferred work already needs no inter-processor interrupt.
//! * TASKRUN_FLAG: the kernel shows in shared memory that deferred work waits, so a polling loop
//!   need not enter to find out.
//! * SUBMIT_ALL: one bad operation does not hold back the rest of a batch.
//!
//! Accepts and receives are multishot: armed once, completing many times. Received bytes arrive in
//! provided buffers (`buffers`); sockets and files are fixed files; operations own their memory
//! until their last completion (`slab`).
//!
//! An idle ring sleeps in the kernel. `busy_poll` makes it spin a little first, for machines that
//! have a core to give away.
//!
//! A send normally completes while it is submitted, and its completion ends the wait of the same
//! enter, so a lone request costs two enters (with 64 connections, 0.03 of one). Waiting past the
//! sends with a minimum wait (Linux 6.12) was measured and left out: it halves the enters of a lone
//! request but arms a timer shorter than the scheduler's tick each time, which doubled the CPU of a
//! request on a virtual machine and changed nothing under load. For the same reason a machine does
//! well to ask for `wake_at` no finer than a few milliseconds when nothing presses; a timer longer
//! than the tick costs nothing measurable.
//!
//! Left out: SQPOLL (it burns a second core per shard) and pinning io-wq's workers (measured: it
//! halved throughput when they shared the client's core).

#[cfg(test)]
mod adoption_tests;
mod buffers;
mod clock;
mod config;
mod counters;
mod error;
mod file;
mod queues;
mod slab;
mod socket;
mod system;
pub mod testing;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Write as _;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_core::time::Nanos;
use forebay_storage::block::BlockBuf;
use io_uring::types::{CancelBuilder, Fixed};
use io_uring::{IoUring, cqueue, opcode};

use crate::machine::{ConnId, Effects, Machine, SendBuf};

pub use clock::now;
pub use config::{DurableMode, RingConfig};
pub use counters::RingCounters;
pub use error::RingError;
pub use file::open_direct;
pub(crate) use system::listen;
pub use system::{cores_allowed, pin_to_core};

use buffers::ReceiveBuffers;
use counters::{add, raise};
use queues::{Backlog, Queues};
use slab::{Op, OpKey, OpSlab};
use socket::{Conns, Listener};

/// Stops a ring from another thread.
#[derive(Clone, Debug)]
pub struct StopHandle {
    asked: Arc<AtomicBool>,
    event: Arc<File>,
}

impl StopHandle {
    /// Makes [`Ring::run`] return after its present turn.
    pub fn stop(&self) {
        self.asked.store(true, Ordering::Release);
        // The counter cannot overflow: the ring reads it, and each stop adds one.
        let _ = (&*self.event).write(&1u64.to_ne_bytes());
    }
}

// The ring's own fixed files; the kernel allocates the rest of the table for sockets. The shard's
// files come first (see `file::fixed_index`).
const FILE_STOP: u32 = 2;
const FILE_WAKEUP: u32 = 3;
const FILE_LISTENERS: u32 = 4;
/// Slots beyond connections_max: connections being refused, closed or opened outward.
const FILE_SLACK: u32 = 256;

/// The event loop. Made and run on one thread.
pub struct Ring {
    uring: IoUring,
    shell: Shell,
    backlog: Backlog,
    started: bool,
    stop: StopHandle,
    counters: Arc<RingCounters>,
    busy_poll_nanos: u64,
    stop_linger_nanos: u64,
    /// DEFER_TASKRUN and SINGLE_ISSUER tie the ring to its thread.
    _not_send: PhantomData<*const ()>,
}

/// Everything of the ring except its queues, so that both can be borrowed at once.
struct Shell {
    ops: OpSlab,
    conns: Conns,
    listeners: Vec<Listener>,
    buffers: ReceiveBuffers,
    has_file: [bool; 2],
    durable: DurableMode,
    close_linger_nanos: u64,
    /// Values of the two eventfds (stop, wake-up); boxed, because the kernel writes them.
    events: Box<[u64; 2]>,
    has_wakeup: bool,
    /// Outcomes known without the kernel, told at the start of the next turn.
    returned_sends: Vec<(ConnId, SendBuf)>,
    failed_connects: Vec<(u64, i32)>,
    counters: Arc<RingCounters>,
}

impl Ring {
    /// Makes a ring on the calling thread, which must be the one that runs it.
    pub fn new(config: RingConfig) -> Result<Ring, RingError> {
        if let Some(core) = config.core {
            pin_to_core(core)?;
        }
        let fixed_files = FILE_LISTENERS + config.listen.len() as u32;
        let file_slots = fixed_files + config.connections_max + FILE_SLACK;
        system::ensure_open_files(u64::from(file_slots))?;
        let uring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(config.completion_entries)
            .dontfork()
            .build(config.submission_entries)
            .map_err(|e| queues::setup_error(e, &config))?;
        if !uring.params().is_feature_ext_arg() || !uring.params().is_feature_nodrop() {
            return Err(RingError::KernelTooOld { release: system::kernel_release() });
        }
        let buffers =
            ReceiveBuffers::register(&uring, config.receive_buffers, config.receive_buffer_bytes)?;
        let stop_event = system::eventfd()?;
        let mut listeners = Vec::new();
        for (index, addr) in config.listen.iter().enumerate() {
            let socket = system::listen(*addr, config.backlog, config.bind_retry)?;
            listeners.push(Listener { socket, file: FILE_LISTENERS + index as u32, arm_at: None });
        }

        let mut fds = vec![-1; fixed_files as usize];
        let mut has_file = [false; 2];
        for (file, open) in &config.files {
            let index = file::fixed_index(*file) as usize;
            has_file[index] = true;
            fds[index] = open.as_raw_fd();
        }
        fds[FILE_STOP as usize] = stop_event.as_raw_fd();
        if let Some(wakeup) = config.wakeup {
            system::make_blocking(wakeup)?;
            fds[FILE_WAKEUP as usize] = wakeup;
        }
        for listener in &listeners {
            fds[listener.file as usize] = listener.socket.as_raw_fd();
        }
        // The table holds its own references, so config.files may be closed after this.
        uring
            .submitter()
            .register_files_sparse(file_slots)
            .and_then(|()| uring.submitter().register_files_update(0, &fds).map(drop))
            .map_err(|e| RingError::system("register_files", e))?;

        let counters = Arc::new(RingCounters::default());
        let shell = Shell {
            ops: OpSlab::with_capacity(1024),
            conns: Conns::new(config.connections_max),
            listeners,
            buffers,
            has_file,
            durable: config.durable,
            close_linger_nanos: config.close_linger.as_nanos() as u64,
            events: Box::new([0; 2]),
            has_wakeup: config.wakeup.is_some(),
            returned_sends: Vec::new(),
            failed_connects: Vec::new(),
            counters: Arc::clone(&counters),
        };
        Ok(Ring {
            uring,
            shell,
            backlog: Backlog::new(),
            started: false,
            stop: StopHandle {
                asked: Arc::new(AtomicBool::new(false)),
                event: Arc::new(stop_event),
            },
            counters,
            busy_poll_nanos: config.busy_poll.as_nanos() as u64,
            stop_linger_nanos: config.stop_linger.as_nanos() as u64,
            _not_send: PhantomData,
        })
    }

    /// Registers the shard's I/O pool with the kernel, once, before the machine gets it. Reads and
    /// writes of these buffers then skip the kernel's page walk. The memory is locked.
    pub fn register_buffers(&self, pool: &mut [BlockBuf]) -> Result<(), RingError> {
        const BUFFERS_MAX: usize = 1 << 14;
        if pool.is_empty() || pool.len() > BUFFERS_MAX {
            return Err(RingError::Config("the registered pool holds 1 to 16384 buffers"));
        }
        buffers::register_pool(&self.uring, pool).map_err(|e| match e.raw_os_error() {
            Some(libc::ENOMEM) => RingError::MemlockTooSmall {
                needed_bytes: pool.iter().map(|buf| buf.len() as u64).sum(),
                limit_bytes: system::memlock_limit_bytes(),
            },
            _ => RingError::system("register_buffers", e),
        })
    }

    /// The address of a listener, with the port that the kernel chose.
    pub fn local_addr(&self, listener: usize) -> Result<SocketAddr, RingError> {
        let socket = &self.shell.listeners[listener].socket;
        socket.local_addr().map_err(|e| RingError::system("getsockname", e))
    }

    /// Counters for the control lane.
    #[must_use]
    pub fn counters(&self) -> Arc<RingCounters> {
        Arc::clone(&self.counters)
    }

    /// A handle that stops the ring from any thread.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Drives `machine` until it or a [`StopHandle`] asks to stop. Sends and disk operations then
    /// in flight are waited for, at most `stop_linger`, and told to the machine.
    pub fn run<M: Machine + ?Sized>(&mut self, machine: &mut M) -> Result<(), RingError> {
        let counters = Arc::clone(&self.counters);
        let mut queues = Queues::new(self.uring.split(), &mut self.backlog, &counters);
        let shell = &mut self.shell;
        if !self.started {
            self.started = true;
            shell.start(&mut queues);
        }
        let mut fx = Effects::default();
        let mut begun = clock::now();
        loop {
            shell.deliver(&mut queues, machine, &mut fx, begun)?;
            machine.turn(begun, &mut fx);
            let run_again = std::mem::take(&mut fx.run_again);
            let machine_wake = fx.wake_at.take();
            let stop = std::mem::take(&mut fx.stop);
            shell.carry_out(&mut queues, &mut fx, begun);
            shell.buffers.publish();

            let ended = clock::now();
            let turn_nanos = ended.since(begun);
            add(&counters.turns, 1);
            add(&counters.turn_nanos_total, turn_nanos);
            raise(&counters.turn_nanos_max, turn_nanos);
            if stop || self.stop.asked.swap(false, Ordering::AcqRel) {
                break;
            }

            if run_again || shell.has_outcomes() {
                add(&counters.turns_run_again, 1);
                if queues.has_submissions() || queues.has_events() {
                    queues.enter(0, None)?;
                }
            } else {
                let wake_at = [machine_wake, shell.next_deadline()].into_iter().flatten().min();
                if self.busy_poll_nanos > 0 {
                    let until = ended + self.busy_poll_nanos;
                    let until = wake_at.map_or(until, |at| at.min(until));
                    spin(&mut queues, until)?;
                }
                sleep(&mut queues, wake_at)?;
            }
            begun = clock::now();
        }

        let deadline = clock::now() + self.stop_linger_nanos;
        loop {
            shell.deliver(&mut queues, machine, &mut fx, clock::now())?;
            fx = Effects::default();
            shell.buffers.publish();
            let left = deadline.since(clock::now());
            if left == 0 || shell.ops.transfers() == 0 && !shell.has_outcomes() {
                return Ok(());
            }
            queues.enter(1, Some(left))?;
        }
    }
}

/// Submits, then watches shared memory for events until `until`.
fn spin(queues: &mut Queues<'_>, until: Nanos) -> Result<(), RingError> {
    if queues.has_submissions() {
        queues.enter(0, None)?;
    }
    while !queues.has_events() && clock::now() < until {
        std::hint::spin_loop();
    }
    Ok(())
}

/// Submits, and sleeps in the kernel until a completion or `wake_at`.
fn sleep(queues: &mut Queues<'_>, wake_at: Option<Nanos>) -> Result<(), RingError> {
    if queues.has_completions() && !queues.has_submissions() {
        return Ok(());
    }
    match wake_at.map(|at| at.since(clock::now())) {
        Some(0) => queues.enter(0, None),
        wait_nanos => queues.enter(1, wait_nanos),
    }
}

impl Shell {
    fn start(&mut self, queues: &mut Queues<'_>) {
        for listener in 0..self.listeners.len() {
            self.arm_accept(queues, listener as u32);
        }
        self.read_event(queues, Op::ReadStop);
        if self.has_wakeup {
            self.read_event(queues, Op::ReadWakeup);
        }
    }

    fn read_event(&mut self, queues: &mut Queues<'_>, op: Op) {
        let (file, index) = match op {
            Op::ReadStop => (FILE_STOP, 0),
            _ => (FILE_WAKEUP, 1),
        };
        let key = self.ops.insert(op);
        let target: *mut u64 = &raw mut self.events[index];
        let entry = opcode::Read::new(Fixed(file), target.cast(), 8).build();
        queues.push(entry.user_data(key.user_data()));
    }

    fn has_outcomes(&self) -> bool {
        !self.returned_sends.is_empty() || !self.failed_connects.is_empty()
    }

    /// Tells the machine everything that has happened.
    fn deliver<M: Machine + ?Sized>(
        &mut self,
        queues: &mut Queues<'_>,
        machine: &mut M,
        fx: &mut Effects,
        now: Nanos,
    ) -> Result<(), RingError> {
        for (conn, buf) in self.returned_sends.drain(..) {
            machine.sent(conn, buf, now);
        }
        for (token, errno) in self.failed_connects.drain(..) {
            machine.connect_failed(token, errno, now);
        }
        let mut completions = 0;
        queues.sync_completions();
        while let Some(completion) = queues.next() {
            completions += 1;
            self.dispatch(queues, &completion, machine, fx, now)?;
        }
        add(&self.counters.completions, completions);
        self.run_deadlines(queues, now);
        Ok(())
    }

    fn dispatch<M: Machine + ?Sized>(
        &mut self,
        queues: &mut Queues<'_>,
        completion: &cqueue::Entry,
        machine: &mut M,
        fx: &mut Effects,
        now: Nanos,
    ) -> Result<(), RingError> {
        let (key, second_part) = OpKey::parse(completion.user_data());
        let result = completion.result();
        match self.ops.get_mut(key) {
            Some(&mut Op::Receive { conn }) => {
                self.receive_completed(queues, key, conn, completion, machine, fx, now);
            }
            Some(&mut Op::Send { conn, .. }) => {
                self.send_completed(queues, key, conn, completion, machine, now);
            }
            Some(Op::Disk(_)) => {
                if let Some(done) = self.disk_completed(queues, key, second_part, result) {
                    machine.disk_done(done, now);
                }
            }
            Some(&mut Op::Accept { listener }) => {
                self.accept_completed(queues, key, listener, completion, machine, now)?;
            }
            Some(_) => {
                let op = self.ops.remove(key).expect("found just now");
                self.finish(queues, op, result, machine, now);
            }
            None => {
                add(&self.counters.stale_completions, 1);
                debug_assert!(false, "a completion without an operation: {completion:?}");
            }
        }
        Ok(())
    }

    /// The single completion of a simple operation.
    fn finish<M: Machine + ?Sized>(
        &mut self,
        queues: &mut Queues<'_>,
        op: Op,
        result: i32,
        machine: &mut M,
        now: Nanos,
    ) {
        match op {
            Op::CloseConn { conn } => self.close_completed(conn, machine, now),
            Op::Cancel { conn, target } => self.cancel_completed(queues, conn, target, result),
            Op::Shutdown { conn } => self.shutdown_completed(queues, conn),
            Op::Install(connecting) => {
                self.install_completed(queues, connecting, result, machine, now);
            }
            Op::Connect(connecting) => {
                self.connect_completed(queues, &connecting, result, machine, now);
            }
            Op::ReadWakeup => {
                add(&self.counters.wakeups, 1);
                machine.woken(now);
                self.read_event(queues, Op::ReadWakeup);
            }
            Op::ReadStop => self.read_event(queues, Op::ReadStop),
            Op::CloseFile | Op::CancelAll => {}
            Op::Accept { .. } | Op::Receive { .. } | Op::Send { .. } | Op::Disk(_) => {
                unreachable!("these have more than one completion")
            }
        }
    }

    /// Turns effects into submissions.
    fn carry_out(&mut self, queues: &mut Queues<'_>, fx: &mut Effects, now: Nanos) {
        for op in fx.disk.drain(..) {
            self.start_disk(queues, op);
        }
        for (conn, buf) in fx.send.drain(..) {
            self.start_send(queues, conn, buf);
        }
        for (token, addr) in fx.connect.drain(..) {
            self.start_connect(queues, token, addr);
        }
        for (token, descriptor) in fx.adopt.drain(..) {
            self.adopt(queues, token, descriptor);
        }
        for conn in fx.pause_receive.drain(..) {
            self.pause_receive(queues, conn);
        }
        for conn in fx.resume_receive.drain(..) {
            self.resume_receive(queues, conn);
        }
        for conn in fx.close.drain(..) {
            self.close_asked(queues, conn, now);
        }
    }
}

impl Ring {
    /// Cancels and reaps everything in flight; returns how many operations did not end in time.
    fn cancel_all(&mut self) -> usize {
        let counters = Arc::clone(&self.counters);
        let mut queues = Queues::new(self.uring.split(), &mut self.backlog, &counters);
        let deadline = clock::now() + 5 * Nanos::PER_SECOND;
        while self.shell.ops.live() > 0 && clock::now() < deadline {
            let key = self.shell.ops.insert(Op::CancelAll);
            let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
            queues.push(entry.user_data(key.user_data()));
            if queues.enter(1, Some(50 * Nanos::PER_MILLI)).is_err() {
                break;
            }
            while let Some(completion) = queues.next() {
                self.shell.reap(&completion);
            }
        }
        self.shell.ops.live()
    }
}

impl Drop for Ring {
    /// Closing a ring does not wait for its operations, and the kernel may write to their memory
    /// until they end. So they are cancelled and reaped first; should one not end (a device that
    /// hangs), its memory is leaked instead of freed.
    fn drop(&mut self) {
        let left = self.cancel_all();
        // The kernel tears a closed ring down later; letting go of the files now frees the port
        // and tells the peers.
        let _ = self.uring.submitter().unregister_files();
        if left > 0 {
            std::mem::forget(std::mem::take(&mut self.shell.ops));
            std::mem::forget(std::mem::replace(&mut self.shell.events, Box::new([0; 2])));
            self.shell.buffers.leak();
        }
    }
}

impl Shell {
    /// Forgets an operation that ended while the ring is being dropped.
    fn reap(&mut self, completion: &cqueue::Entry) {
        let (key, _) = OpKey::parse(completion.user_data());
        let over = match self.ops.get_mut(key) {
            Some(Op::Disk(flight)) => {
                flight.pending -= 1;
                flight.pending == 0
            }
            _ => !cqueue::more(completion.flags()),
        };
        if over {
            self.ops.remove(key);
        }
    }
}
