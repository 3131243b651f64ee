//! A warm ring allocates nothing: a counting allocator watches the ring's thread.

mod counting;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;

use counting::{allocations, watched};
use forebay_core::time::Nanos;
use forebay_net::machine::{CloseReason, ConnId, Effects, Machine, SendBuf};
use forebay_net::ring::testing::{require_direct, require_io_uring};
use forebay_net::ring::{Ring, RingConfig, open_direct};
use forebay_storage::block::{BlockBuf, DiskDone, DiskOp, Durability, OpId, ShardFile};

/// Writes a block durably for each message on its one connection, then echoes the message.
struct Logged {
    conn: Option<ConnId>,
    message: Vec<u8>,
    send: Option<SendBuf>,
    block: Option<BlockBuf>,
    durable: bool,
    echoes: u64,
    at_warm: u64,
    at_end: u64,
}

const WARM_AFTER: u64 = 200;
const ECHOES: u64 = 1000;

impl Machine for Logged {
    fn connected(&mut self, conn: ConnId, _: usize, _: Option<u64>, _: Nanos) {
        self.conn = Some(conn);
    }
    fn received(&mut self, _: ConnId, bytes: &[u8], _: Nanos, fx: &mut Effects) {
        self.message.extend_from_slice(bytes);
        if let Some(buf) = self.block.take() {
            let (op, file, bytes) = (OpId(self.echoes), ShardFile::Log, buf.len());
            let (offset_bytes, durability) = (0, Durability::Durable);
            fx.disk.push(DiskOp::Write { op, file, offset_bytes, buf, bytes, durability });
        }
    }
    fn sent(&mut self, _: ConnId, mut buf: SendBuf, _: Nanos) {
        buf.clear();
        self.send = Some(buf);
        self.echoes += 1;
        if self.echoes == WARM_AFTER {
            self.at_warm = allocations();
        }
        self.at_end = allocations();
    }
    fn closed(&mut self, _: ConnId, _: CloseReason, _: Nanos) {
        self.conn = None;
    }
    fn disk_done(&mut self, done: DiskDone, _: Nanos) {
        done.result.expect("written");
        self.block = done.buf;
        self.durable = true;
    }
    fn turn(&mut self, now: Nanos, fx: &mut Effects) {
        fx.wake_at = Some(now + Nanos::PER_SECOND);
        if std::mem::take(&mut self.durable) {
            let mut buf = self.send.take().expect("one message at a time");
            buf.extend_from_slice(&self.message);
            self.message.clear();
            fx.send.push((self.conn.expect("open"), buf));
        }
        fx.stop = self.conn.is_none() && self.echoes == ECHOES;
    }
}

#[test]
fn a_warm_ring_serves_and_logs_without_allocating() {
    let dir = tempfile::tempdir().expect("a directory");
    if !require_io_uring() || !require_direct(dir.path()) {
        return;
    }
    let file = open_direct(&dir.path().join("log"), true).expect("opens");
    let (ready, started) = mpsc::channel();
    let server = std::thread::spawn(move || {
        let config = RingConfig {
            listen: vec!["127.0.0.1:0".parse().expect("an address")],
            files: vec![(ShardFile::Log, file)],
            connections_max: 16,
            ..RingConfig::default()
        };
        let mut ring = Ring::new(config).expect("a ring");
        let mut pool = [BlockBuf::zeroed(1)];
        ring.register_buffers(&mut pool).expect("registers");
        ready.send(ring.local_addr(0).expect("bound")).expect("waited for");
        let mut machine = Logged {
            conn: None,
            message: Vec::new(),
            send: Some(SendBuf::new()),
            block: pool.into_iter().next(),
            durable: false,
            echoes: 0,
            at_warm: 0,
            at_end: 0,
        };
        watched(|| ring.run(&mut machine)).expect("runs");
        machine
    });
    let mut stream = TcpStream::connect(started.recv().expect("starts")).expect("connects");
    for _ in 0..ECHOES {
        stream.write_all(&[7; 100]).expect("writes");
        let mut echo = [0; 100];
        stream.read_exact(&mut echo).expect("reads");
    }
    drop(stream);
    let machine = server.join().expect("no panic");
    assert!(machine.at_warm > 0, "the allocator counts");
    assert_eq!(machine.at_end - machine.at_warm, 0, "allocations over {} echoes", ECHOES);
}
