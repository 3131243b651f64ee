//! The loop with real sockets, files and threads.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use forebay_storage::block::{BLOCK_BYTES, DiskDone, DiskOp, Durability, OpId, ShardFile};

use super::testing::{require_direct, require_io_uring};
use super::*;
use crate::machine::CloseReason;

/// Echoes bytes, one send in flight per connection, and keeps a ledger for the tests.
#[derive(Default)]
struct Echo {
    conns: HashMap<ConnId, EchoConn>,
    opened: usize,
    closed: Vec<CloseReason>,
    slot_max: u32,
    /// Closes the connection once it has received this byte (and echoed everything before it).
    close_on: Option<u8>,
    /// Pauses reception after this many bytes are waiting, until `resume` is rung by a wake-up.
    pause_at: Option<usize>,
    received: Arc<AtomicUsize>,
    woken: usize,
    stop_when_woken: bool,
}

#[derive(Default)]
struct EchoConn {
    waiting: SendBuf,
    spare: Option<SendBuf>,
    sending: bool,
    closing: bool,
    paused: bool,
}

impl Machine for Echo {
    fn connected(&mut self, conn: ConnId, listener: usize, token: Option<u64>, _: Nanos) {
        assert_eq!((listener, token), (0, None));
        self.opened += 1;
        self.slot_max = self.slot_max.max(conn.slot);
        let fresh = EchoConn { spare: Some(SendBuf::new()), ..EchoConn::default() };
        assert!(self.conns.insert(conn, fresh).is_none());
    }
    fn connect_failed(&mut self, _: u64, _: i32, _: Nanos) {
        unreachable!("a server connects to nobody");
    }
    fn received(&mut self, conn: ConnId, bytes: &[u8], _: Nanos, fx: &mut Effects) {
        self.received.fetch_add(bytes.len(), Ordering::Relaxed);
        let state = self.conns.get_mut(&conn).expect("open");
        state.waiting.extend_from_slice(bytes);
        state.closing |= self.close_on.is_some_and(|byte| bytes.contains(&byte));
        if self.pause_at.is_some_and(|at| state.waiting.len() >= at) && !state.paused {
            state.paused = true;
            fx.pause_receive.push(conn);
        }
    }
    fn sent(&mut self, conn: ConnId, mut buf: SendBuf, _: Nanos) {
        let state = self.conns.get_mut(&conn).expect("told before closed");
        assert!(state.sending);
        state.sending = false;
        buf.clear();
        state.spare = Some(buf);
    }
    fn closed(&mut self, conn: ConnId, reason: CloseReason, _: Nanos) {
        let state = self.conns.remove(&conn).expect("closed once");
        assert!(!state.sending, "the buffer came back first");
        self.closed.push(reason);
    }
    fn disk_done(&mut self, _: DiskDone, _: Nanos) {
        unreachable!("an echo has no disk");
    }
    fn woken(&mut self, _: Nanos) {
        self.woken += 1;
    }
    fn turn(&mut self, _: Nanos, fx: &mut Effects) {
        let resume = self.pause_at.is_some() && self.woken > 0;
        for (conn, state) in &mut self.conns {
            if state.paused {
                if !resume {
                    continue;
                }
                state.paused = false;
                fx.resume_receive.push(*conn);
            }
            if !state.sending && !state.waiting.is_empty() {
                let spare = state.spare.take().expect("not sending");
                fx.send.push((*conn, std::mem::replace(&mut state.waiting, spare)));
                state.sending = true;
            }
            if state.closing {
                state.closing = false;
                fx.close.push(*conn);
            }
        }
        if resume {
            self.pause_at = None;
        }
        fx.stop = self.stop_when_woken && self.woken > 0;
    }
}

/// A ring with a machine on its own thread.
struct Server {
    addr: SocketAddr,
    stop: StopHandle,
    counters: Arc<RingCounters>,
    thread: thread::JoinHandle<(Echo, usize)>,
}

impl Server {
    fn start(config: RingConfig, machine: Echo) -> Server {
        let (ready, started) = mpsc::channel();
        let thread = thread::spawn(move || {
            let listen = vec!["127.0.0.1:0".parse().expect("an address")];
            let mut ring = Ring::new(RingConfig { listen, ..config }).expect("a ring");
            let addr = ring.local_addr(0).expect("bound");
            ready.send((addr, ring.stop_handle(), ring.counters())).expect("the test waits");
            let mut machine = machine;
            ring.run(&mut machine).expect("the ring runs");
            (machine, ring.shell.ops.live())
        });
        let (addr, stop, counters) = started.recv().expect("the ring starts");
        Server { addr, stop, counters, thread }
    }

    fn stop(self) -> (Echo, usize) {
        self.stop.stop();
        self.thread.join().expect("the server does not panic")
    }

    fn counter(&self, name: &str) -> u64 {
        let mut value = None;
        self.counters.each(|each, n| {
            if each == name {
                value = Some(n);
            }
        });
        value.expect("a counter of that name")
    }

    fn wait_for(&self, what: &str, name: &str, accept: impl Fn(u64) -> bool) {
        let started = Instant::now();
        while !accept(self.counter(name)) {
            assert!(started.elapsed() < Duration::from_secs(10), "{what}: {}", self.counter(name));
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn small() -> RingConfig {
    RingConfig { connections_max: 128, receive_buffers: 64, ..RingConfig::default() }
}

/// A cheap repeatable sequence.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// Sends `rounds` messages of random sizes without waiting, and reads the echo of all of them.
fn pipelined_echo(addr: SocketAddr, seed: u64, rounds: usize, size_max: u64) {
    let stream = TcpStream::connect(addr).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut reader = stream.try_clone().expect("a second handle");
    let mut random = Lcg(seed);
    let messages: Vec<Vec<u8>> = (0..rounds)
        .map(|_| {
            let bytes = 1 + random.next() % size_max;
            (0..bytes).map(|_| (random.next() as u8) | 1).collect()
        })
        .collect();
    let expected: Vec<u8> = messages.concat();
    let writer = thread::spawn(move || {
        let mut stream = stream;
        for message in messages {
            stream.write_all(&message).expect("writes");
        }
        stream
    });
    let mut echoed = vec![0; expected.len()];
    reader.read_exact(&mut echoed).expect("reads its echo");
    assert!(echoed == expected, "seed {seed}: the echo differs");
    drop(writer.join().expect("the writer does not panic"));
}

/// Closes with a reset instead of a FIN.
fn reset(stream: TcpStream) {
    let socket = socket2::Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).expect("linger");
}

#[test]
fn echoes_pipelined_messages_while_other_connections_are_reset() {
    if !require_io_uring() {
        return;
    }
    let server = Server::start(small(), Echo::default());
    let addr = server.addr;
    let mut threads = Vec::new();
    for seed in 0..16 {
        threads.push(thread::spawn(move || pipelined_echo(addr, seed, 40, 40_000)));
        threads.push(thread::spawn(move || {
            for round in 0..20 {
                let mut stream = TcpStream::connect(addr).expect("connects");
                let _ = stream.write_all(&vec![7; 1 + 5_000 * round]);
                if round % 3 == 0 {
                    let mut some = [0; 100];
                    let _ = stream.read(&mut some);
                }
                reset(stream);
            }
        }));
    }
    for thread in threads {
        thread.join().expect("no client panics");
    }
    server.wait_for("all connections end", "connections", |n| n == 0);
    assert_eq!(server.counter("stale_completions"), 0);
    let (machine, _) = server.stop();
    assert_eq!(machine.opened, 16 + 16 * 20);
    assert_eq!(machine.closed.len(), machine.opened);
    assert!(machine.closed.iter().any(|reason| matches!(reason, CloseReason::Error(_))));
}

#[test]
fn a_thousand_connections_leave_no_slot_and_no_operation_behind() {
    if !require_io_uring() {
        return;
    }
    // A file table that 1000 leaked descriptors would overflow.
    let server = Server::start(small(), Echo::default());
    for round in 0..1000 {
        let mut stream = TcpStream::connect(server.addr).expect("connects");
        if round % 2 == 0 {
            stream.write_all(b"abc").expect("writes");
            let mut echo = [0; 3];
            stream.read_exact(&mut echo).expect("reads");
        }
        if round % 5 == 0 {
            reset(stream);
        }
    }
    server.wait_for("all connections end", "closed", |n| n == 1000);
    assert_eq!(server.counter("accept_failures"), 0);
    let (machine, live) = server.stop();
    assert_eq!((machine.opened, machine.conns.len()), (1000, 0));
    assert!(machine.slot_max < 128, "slots stay dense: {}", machine.slot_max);
    assert_eq!(live, 2, "accept and the stop event are all that is in flight");
}

#[test]
fn a_burst_larger_than_the_receive_buffers_arrives_whole() {
    if !require_io_uring() {
        return;
    }
    let tiny = RingConfig { receive_buffers: 2, receive_buffer_bytes: 512, ..small() };
    let server = Server::start(tiny, Echo::default());
    let addr = server.addr;
    let threads: Vec<_> =
        (0..4).map(|seed| thread::spawn(move || pipelined_echo(addr, seed, 20, 30_000))).collect();
    for thread in threads {
        thread.join().expect("no client panics");
    }
    assert!(server.counter("receive_no_buffers") > 0, "the buffers did run out");
    server.stop();
}

#[test]
fn a_full_submission_queue_loses_nothing() {
    if !require_io_uring() {
        return;
    }
    let narrow = RingConfig { submission_entries: 2, completion_entries: 4, ..small() };
    let server = Server::start(narrow, Echo::default());
    let addr = server.addr;
    let threads: Vec<_> =
        (0..24).map(|seed| thread::spawn(move || pipelined_echo(addr, seed, 30, 5_000))).collect();
    for thread in threads {
        thread.join().expect("no client panics");
    }
    server.stop();
}

#[test]
fn a_paused_connection_stops_reading_and_a_resumed_one_misses_nothing() {
    if !require_io_uring() {
        return;
    }
    let wakeup = system::eventfd().expect("an eventfd");
    let received = Arc::new(AtomicUsize::new(0));
    let machine =
        Echo { pause_at: Some(64 * 1024), received: Arc::clone(&received), ..Echo::default() };
    let config = RingConfig { wakeup: Some(wakeup.as_raw_fd()), ..small() };
    let server = Server::start(config, machine);
    let addr = server.addr;
    let client = thread::spawn(move || pipelined_echo(addr, 9, 400, 200_000));
    let started = Instant::now();
    let mut seen = 0;
    loop {
        thread::sleep(Duration::from_millis(100));
        let now = received.load(Ordering::Relaxed);
        if now > 0 && now == seen {
            break;
        }
        seen = now;
        assert!(started.elapsed() < Duration::from_secs(10), "the sender never stalls");
    }
    assert!(seen < 8 << 20, "paused after {seen} of some 40 million bytes");
    (&wakeup).write_all(&1u64.to_ne_bytes()).expect("wakes");
    client.join().expect("every byte was echoed after all");
    server.stop();
}

#[test]
fn a_connection_closed_by_the_machine_delivers_its_last_reply_first() {
    if !require_io_uring() {
        return;
    }
    let server = Server::start(small(), Echo { close_on: Some(b'!'), ..Echo::default() });
    for _ in 0..50 {
        let mut stream = TcpStream::connect(server.addr).expect("connects");
        stream.write_all(b"last words!").expect("writes");
        // More bytes that the server will never read must not turn its FIN into a reset.
        thread::sleep(Duration::from_millis(1));
        let _ = stream.write_all(&[b'x'; 5000]);
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).expect("a FIN, not a reset");
        assert!(reply.starts_with(b"last words!"));
    }
    server.wait_for("all connections end", "closed", |n| n == 50);
    let (machine, _) = server.stop();
    assert!(machine.closed.iter().all(|reason| *reason == CloseReason::Asked));
}

#[test]
fn a_peer_that_never_closes_is_waited_for_only_so_long() {
    if !require_io_uring() {
        return;
    }
    let config = RingConfig { close_linger: Duration::from_millis(50), ..small() };
    let server = Server::start(config, Echo { close_on: Some(b'!'), ..Echo::default() });
    let mut stream = TcpStream::connect(server.addr).expect("connects");
    stream.write_all(b"!").expect("writes");
    server.wait_for("the connection ends", "closed", |n| n == 1);
    // And one that reads nothing, so that the last send cannot complete.
    let mut deaf = TcpStream::connect(server.addr).expect("connects");
    deaf.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let _ = deaf.write_all(&vec![b'a'; 16 << 20]);
    let _ = deaf.write_all(b"!");
    drop(stream);
    drop(deaf);
    server.wait_for("the connection ends", "closed", |n| n == 2);
    server.stop();
}

#[test]
fn connections_beyond_the_maximum_are_refused_and_the_rest_serve_on() {
    if !require_io_uring() {
        return;
    }
    let server = Server::start(RingConfig { connections_max: 3, ..small() }, Echo::default());
    let mut streams: Vec<_> =
        (0..10).map(|_| TcpStream::connect(server.addr).expect("connects")).collect();
    server.wait_for("seven are refused", "refused", |n| n == 7);
    for stream in &mut streams[..3] {
        stream.write_all(b"ok").expect("writes");
        let mut echo = [0; 2];
        stream.read_exact(&mut echo).expect("reads");
    }
    drop(streams);
    server.wait_for("the rest end", "connections", |n| n == 0);
    pipelined_echo(server.addr, 1, 5, 1000);
    server.stop();
}

#[test]
fn a_wake_up_from_another_thread_reaches_the_machine() {
    if !require_io_uring() {
        return;
    }
    // Non-blocking on purpose: the ring must cope with how other lanes make their eventfd.
    let wakeup = system::eventfd().expect("an eventfd");
    let config = RingConfig { wakeup: Some(wakeup.as_raw_fd()), ..small() };
    let server = Server::start(config, Echo { stop_when_woken: true, ..Echo::default() });
    thread::sleep(Duration::from_millis(20));
    (&wakeup).write_all(&1u64.to_ne_bytes()).expect("wakes");
    let (machine, _) = server.thread.join().expect("it stops by itself");
    assert!(machine.woken >= 1);
}

#[test]
fn an_idle_ring_sleeps() {
    if !require_io_uring() {
        return;
    }
    let server = Server::start(small(), Echo::default());
    thread::sleep(Duration::from_millis(50));
    let before = server.counter("enters");
    thread::sleep(Duration::from_millis(200));
    assert_eq!(server.counter("enters"), before);
    server.stop();
}

#[test]
fn a_stopped_ring_frees_its_port_and_a_taken_port_is_named() {
    if !require_io_uring() {
        return;
    }
    let server = Server::start(small(), Echo::default());
    let addr = server.addr;
    let _open = TcpStream::connect(addr).expect("connects");
    let config =
        || RingConfig { listen: vec![addr], bind_retry: Duration::from_millis(100), ..small() };
    let taken = Ring::new(config()).map(drop).expect_err("the port is taken");
    assert!(matches!(taken, RingError::PortTaken { .. }), "{taken}");
    server.stop();
    let again = RingConfig { bind_retry: Duration::from_secs(5), ..config() };
    Ring::new(again).map(drop).expect("the port is free again");
}

/// Connects out, sends a message, checks the echo, then tries an address where nobody listens.
struct Caller {
    target: SocketAddr,
    nobody: SocketAddr,
    echoed: Vec<u8>,
    refused: Option<i32>,
    conn: Option<ConnId>,
    started: bool,
    closed: Option<CloseReason>,
}

const GREETING: &[u8] = b"hello from outside";

impl Machine for Caller {
    fn connected(&mut self, conn: ConnId, _: usize, token: Option<u64>, _: Nanos) {
        assert_eq!(token, Some(7));
        self.conn = Some(conn);
    }
    fn connect_failed(&mut self, token: u64, errno: i32, _: Nanos) {
        assert_eq!(token, 8);
        self.refused = Some(errno);
    }
    fn received(&mut self, conn: ConnId, bytes: &[u8], _: Nanos, fx: &mut Effects) {
        self.echoed.extend_from_slice(bytes);
        if self.echoed.len() == GREETING.len() {
            fx.close.push(conn);
        }
    }
    fn sent(&mut self, _: ConnId, _: SendBuf, _: Nanos) {}
    fn closed(&mut self, _: ConnId, reason: CloseReason, _: Nanos) {
        self.closed = Some(reason);
    }
    fn turn(&mut self, _: Nanos, fx: &mut Effects) {
        if !std::mem::replace(&mut self.started, true) {
            fx.connect.push((7, self.target));
            fx.connect.push((8, self.nobody));
        }
        if let Some(conn) = self.conn.take() {
            let mut buf = SendBuf::new();
            buf.extend_from_slice(GREETING);
            fx.send.push((conn, buf));
        }
        fx.stop = self.refused.is_some() && self.closed.is_some();
    }
}

#[test]
fn a_machine_can_connect_outward_and_hears_of_refusals() {
    if !require_io_uring() {
        return;
    }
    let server = Server::start(small(), Echo::default());
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        listener.local_addr().expect("bound")
    };
    let mut caller = Caller {
        target: server.addr,
        nobody,
        echoed: Vec::new(),
        refused: None,
        conn: None,
        started: false,
        closed: None,
    };
    let mut ring = Ring::new(small()).expect("a ring");
    ring.run(&mut caller).expect("runs");
    assert_eq!(caller.echoed, GREETING);
    assert_eq!(caller.refused, Some(libc::ECONNREFUSED));
    assert_eq!(caller.closed, Some(CloseReason::Asked));
    server.stop();
}

/// Notes when it is called.
struct Timer {
    due: Nanos,
    fired: Option<Nanos>,
    spins: u32,
}

impl Machine for Timer {
    fn turn(&mut self, now: Nanos, fx: &mut Effects) {
        if self.spins > 0 {
            self.spins -= 1;
            fx.run_again = true;
        } else if now >= self.due {
            self.fired = Some(now);
            fx.stop = true;
        } else {
            fx.wake_at = Some(self.due);
        }
    }
}

#[test]
fn a_timer_fires_when_due_and_not_before() {
    if !require_io_uring() {
        return;
    }
    for busy_poll in [Duration::ZERO, Duration::from_millis(1)] {
        let mut ring = Ring::new(RingConfig { busy_poll, ..small() }).expect("a ring");
        let due = now() + 30 * Nanos::PER_MILLI;
        let mut timer = Timer { due, fired: None, spins: 100 };
        ring.run(&mut timer).expect("runs");
        let late = timer.fired.expect("fired").since(due);
        assert!(late < 500 * Nanos::PER_MILLI, "{late} ns late");
        let turns = ring.counters().turns.load(Ordering::Relaxed);
        assert!((100..120).contains(&turns), "{turns} turns: it slept in between");
    }
}

/// Runs disk operations one batch after the other.
struct Disk {
    steps: Vec<Vec<DiskOp>>,
    pending: usize,
    done: Vec<DiskDone>,
}

impl Machine for Disk {
    fn disk_done(&mut self, done: DiskDone, _: Nanos) {
        self.pending -= 1;
        self.done.push(done);
    }
    fn turn(&mut self, _: Nanos, fx: &mut Effects) {
        if self.pending == 0 {
            if self.steps.is_empty() {
                fx.stop = true;
                return;
            }
            fx.disk.extend(self.steps.remove(0));
            self.pending = fx.disk.len();
        }
    }
}

const PAGES: ShardFile = ShardFile::Pages;

fn run_disk(ring: &mut Ring, steps: Vec<Vec<DiskOp>>) -> Vec<DiskDone> {
    let mut disk = Disk { steps, pending: 0, done: Vec::new() };
    ring.run(&mut disk).expect("runs");
    disk.done.sort_by_key(|done| done.op);
    disk.done
}

fn disk_ring(dir: &std::path::Path, durable: DurableMode) -> Ring {
    let file = open_direct(&dir.join("pages"), true).expect("opens");
    let files = vec![(PAGES, file)];
    Ring::new(RingConfig { files, durable, ..small() }).expect("a ring")
}

#[test]
fn blocks_written_are_read_back_in_both_durable_modes_with_and_without_registered_buffers() {
    let dir = tempfile::tempdir().expect("a directory");
    if !require_io_uring() || !require_direct(dir.path()) {
        return;
    }
    for durable in [DurableMode::Dsync, DurableMode::LinkedFdatasync] {
        for registered in [false, true] {
            let mut ring = disk_ring(dir.path(), durable);
            let mut pool: Vec<BlockBuf> = (0..16).map(|_| BlockBuf::zeroed(4)).collect();
            if registered {
                ring.register_buffers(&mut pool).expect("registers");
            }
            let mut reads = pool.split_off(8);
            let writes = pool.into_iter().enumerate().map(|(index, mut buf)| {
                buf.fill(index as u8 + 1);
                let durability =
                    if index % 2 == 0 { Durability::Durable } else { Durability::Volatile };
                let offset_bytes = index as u64 * 4 * BLOCK_BYTES as u64;
                let (op, bytes) = (OpId(10 + index as u64), 3 * BLOCK_BYTES);
                DiskOp::Write { op, file: PAGES, offset_bytes, buf, bytes, durability }
            });
            let reads = reads.drain(..).enumerate().map(|(index, buf)| {
                let offset_bytes = index as u64 * 4 * BLOCK_BYTES as u64;
                DiskOp::Read { op: OpId(30 + index as u64), file: PAGES, offset_bytes, buf }
            });
            let file_bytes = 64 * BLOCK_BYTES as u64;
            let done = run_disk(
                &mut ring,
                vec![
                    vec![DiskOp::Grow { op: OpId(1), file: PAGES, file_bytes }],
                    writes.collect(),
                    vec![DiskOp::Flush { op: OpId(20), file: PAGES }],
                    reads.collect(),
                ],
            );
            assert!(done.iter().all(|done| done.result.is_ok()), "{done:?}");
            assert_eq!(done.len(), 1 + 8 + 1 + 8);
            for (index, done) in done[10..].iter().enumerate() {
                let buf = done.buf.as_ref().expect("a read returns its buffer");
                assert_eq!(buf.registered().is_some(), registered);
                assert!(buf[..3 * BLOCK_BYTES].iter().all(|byte| *byte == index as u8 + 1));
                assert!(buf[3 * BLOCK_BYTES..].iter().all(|byte| *byte == 0));
            }
            let length = std::fs::metadata(dir.path().join("pages")).expect("exists").len();
            assert_eq!(length, file_bytes);
        }
    }
}

#[test]
fn a_read_past_the_end_fails_by_name_and_returns_its_buffer() {
    let dir = tempfile::tempdir().expect("a directory");
    if !require_io_uring() || !require_direct(dir.path()) {
        return;
    }
    let mut ring = disk_ring(dir.path(), DurableMode::Dsync);
    let file_bytes = 2 * BLOCK_BYTES as u64;
    let done = run_disk(
        &mut ring,
        vec![
            vec![DiskOp::Grow { op: OpId(1), file: PAGES, file_bytes }],
            vec![DiskOp::Read {
                op: OpId(2),
                file: PAGES,
                offset_bytes: BLOCK_BYTES as u64,
                buf: BlockBuf::zeroed(2),
            }],
        ],
    );
    assert_eq!(done[1].result.expect_err("one block is missing").errno, libc::ENODATA);
    assert!(done[1].buf.is_some());
    assert!(ring.counters().disk_short.load(Ordering::Relaxed) > 0, "the first block was read");
}

/// Stops in the very turn in which it submits.
struct Hasty {
    ops: Vec<DiskOp>,
    done: usize,
}

impl Machine for Hasty {
    fn disk_done(&mut self, done: DiskDone, _: Nanos) {
        done.result.expect("written");
        self.done += 1;
    }
    fn turn(&mut self, _: Nanos, fx: &mut Effects) {
        fx.disk.append(&mut self.ops);
        fx.stop = true;
    }
}

#[test]
fn a_stopping_ring_waits_for_disk_writes_and_a_dropped_one_reaps_them() {
    let dir = tempfile::tempdir().expect("a directory");
    if !require_io_uring() || !require_direct(dir.path()) {
        return;
    }
    let write = |index: u64| DiskOp::Write {
        op: OpId(index),
        file: PAGES,
        offset_bytes: index * BLOCK_BYTES as u64,
        buf: BlockBuf::zeroed(1),
        bytes: BLOCK_BYTES,
        durability: Durability::Durable,
    };
    let mut ring = disk_ring(dir.path(), DurableMode::LinkedFdatasync);
    let mut hasty = Hasty { ops: (0..8).map(write).collect(), done: 0 };
    ring.run(&mut hasty).expect("runs");
    assert_eq!(hasty.done, 8);
    let length = std::fs::metadata(dir.path().join("pages")).expect("exists").len();
    assert_eq!(length, 8 * BLOCK_BYTES as u64);

    ring.stop_linger_nanos = 0;
    ring.run(&mut Hasty { ops: (0..8).map(write).collect(), done: 0 }).expect("runs");
    assert_eq!(ring.cancel_all(), 0, "no memory is left to an operation");
}

#[test]
fn a_file_in_memory_is_refused_for_direct_io() {
    let shm = std::path::Path::new("/dev/shm");
    if !shm.is_dir() || !system::is_memory_file_system(shm) {
        eprintln!("SKIPPED: this test needs a tmpfs at /dev/shm");
        return;
    }
    let dir = tempfile::tempdir_in(shm).expect("a directory");
    let error = open_direct(&dir.path().join("log"), true).expect_err("tmpfs");
    assert!(matches!(error, RingError::DirectUnsupported { .. }), "{error}");
}

#[test]
fn a_core_outside_the_mask_is_named() {
    let error = pin_to_core(100_000).expect_err("no such core");
    assert!(matches!(error, RingError::CoreNotAllowed { core: 100_000, .. }), "{error}");
}

#[test]
fn a_half_closed_peer_ends_the_connection() {
    if !require_io_uring() {
        return;
    }
    let server = Server::start(small(), Echo::default());
    let stream = TcpStream::connect(server.addr).expect("connects");
    stream.shutdown(Shutdown::Write).expect("shuts down");
    server.wait_for("the connection ends", "closed", |n| n == 1);
    let (machine, _) = server.stop();
    assert_eq!(machine.closed, [CloseReason::Peer]);
}
