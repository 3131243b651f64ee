//! The floor of every claim about writes: the ring and a log, no tree, no checks.
//!
//! ```text
//!   frames ─► open batch ─► sealed ─► in flight (at most k) ─► durable, in order ─► replies
//! ```
//!
//! Each turn's frames are appended to the open batch; a batch leaves when fewer than k are in
//! flight. It starts on a fresh 4 KiB block of a preallocated, prewritten file, as the shard's log
//! does, and its replies leave when it and every batch before it are durable.

use std::collections::VecDeque;
use std::sync::Arc;

use forebay_core::time::Nanos;
use forebay_net::machine::{CloseReason, ConnId, Effects, Machine, SendBuf};
use forebay_storage::block::{
    BLOCK_BYTES, BlockBuf, DiskDone, DiskOp, Durability, OpId, ShardFile,
};

use super::frames::{FRAME_BYTES_MAX, Header};
use super::replies::Connections;
use super::{FloorCounters, add};

/// Blocks of a batch.
pub(super) const BATCH_BLOCKS: usize = 64;
const BATCH_BYTES: usize = BATCH_BLOCKS * BLOCK_BYTES;

const _: () = assert!(BATCH_BYTES >= FRAME_BYTES_MAX);

#[derive(Debug)]
struct Batch {
    /// Absent while the disk has it.
    buf: Option<BlockBuf>,
    bytes: usize,
    waiting: Vec<(ConnId, Header)>,
    durable: bool,
}

impl Batch {
    fn new(buf: BlockBuf) -> Batch {
        Batch { buf: Some(buf), bytes: 0, waiting: Vec::new(), durable: false }
    }

    fn append(&mut self, conn: ConnId, header: &Header, frame: &[u8]) {
        let buf = self.buf.as_mut().expect("an open batch holds its buffer");
        buf[self.bytes..self.bytes + frame.len()].copy_from_slice(frame);
        self.bytes += frame.len();
        self.waiting.push((conn, *header));
    }
}

/// Replies to each frame once it is durable.
#[derive(Debug)]
pub(super) struct EchoLog {
    conns: Connections,
    open: Batch,
    /// Full batches that wait for their turn.
    sealed: VecDeque<Batch>,
    /// In order of submission; the front's id is `first_op`.
    in_flight: VecDeque<Batch>,
    first_op: u64,
    /// In flight and not yet durable; the device sees no more than `batches_max` at once.
    undurable: usize,
    batches_max: usize,
    spare: Vec<Batch>,
    /// Where the next batch goes.
    position_bytes: u64,
    file_bytes: u64,
    counters: Arc<FloorCounters>,
}

impl EchoLog {
    /// `pool` holds buffers of [`BATCH_BLOCKS`]; more are made when they run out.
    pub(super) fn new(
        pool: Vec<BlockBuf>,
        batches_max: usize,
        file_bytes: u64,
        counters: Arc<FloorCounters>,
    ) -> EchoLog {
        let mut spare: Vec<Batch> = pool.into_iter().map(Batch::new).collect();
        let open = spare.pop().unwrap_or_else(|| Batch::new(BlockBuf::zeroed(BATCH_BLOCKS)));
        EchoLog {
            conns: Connections::default(),
            open,
            sealed: VecDeque::new(),
            in_flight: VecDeque::new(),
            first_op: 0,
            undurable: 0,
            batches_max,
            spare,
            position_bytes: 0,
            file_bytes,
            counters,
        }
    }

    fn seal(spare: &mut Vec<Batch>, open: &mut Batch) -> Batch {
        let fresh = spare.pop().unwrap_or_else(|| Batch::new(BlockBuf::zeroed(BATCH_BLOCKS)));
        std::mem::replace(open, fresh)
    }

    fn submit(&mut self, mut batch: Batch, fx: &mut Effects) {
        let bytes = batch.bytes.next_multiple_of(BLOCK_BYTES);
        let mut buf = batch.buf.take().expect("a sealed batch holds its buffer");
        buf[batch.bytes..bytes].fill(0);
        if self.position_bytes + bytes as u64 > self.file_bytes {
            self.position_bytes = 0;
        }
        fx.disk.push(DiskOp::Write {
            op: OpId(self.first_op + self.in_flight.len() as u64),
            file: ShardFile::Log,
            offset_bytes: self.position_bytes,
            buf,
            bytes,
            durability: Durability::Durable,
        });
        self.position_bytes += bytes as u64;
        self.undurable += 1;
        self.in_flight.push_back(batch);
    }

    /// Replies to the durable batches at the front.
    fn acknowledge(&mut self) {
        while self.in_flight.front().is_some_and(|batch| batch.durable) {
            let mut batch = self.in_flight.pop_front().expect("looked just now");
            self.first_op += 1;
            add(&self.counters.requests, batch.waiting.len() as u64);
            add(&self.counters.batches, 1);
            for (conn, header) in batch.waiting.drain(..) {
                self.conns.reply(conn, &header);
            }
            batch.bytes = 0;
            batch.durable = false;
            self.spare.push(batch);
        }
    }
}

impl Machine for EchoLog {
    fn connected(&mut self, conn: ConnId, _: usize, _: Option<u64>, _: Nanos) {
        self.conns.opened(conn);
    }
    fn received(&mut self, conn: ConnId, bytes: &[u8], _: Nanos, fx: &mut Effects) {
        let EchoLog { conns, open, sealed, spare, .. } = self;
        conns.received(conn, bytes, fx, |header, frame| {
            if open.bytes + frame.len() > BATCH_BYTES {
                sealed.push_back(EchoLog::seal(spare, open));
            }
            open.append(conn, header, frame);
        });
    }
    fn sent(&mut self, conn: ConnId, buf: SendBuf, _: Nanos) {
        self.conns.sent(conn, buf);
    }
    fn closed(&mut self, conn: ConnId, _: CloseReason, _: Nanos) {
        self.conns.closed(conn);
    }
    fn disk_done(&mut self, done: DiskDone, _: Nanos) {
        // A failed write or flush is final; a floor has nobody to fail over to.
        done.result.expect("the floor's log writes");
        let index = (done.op.0 - self.first_op) as usize;
        self.in_flight[index].buf = done.buf;
        self.in_flight[index].durable = true;
        self.undurable -= 1;
    }
    fn turn(&mut self, _: Nanos, fx: &mut Effects) {
        self.acknowledge();
        while self.undurable < self.batches_max {
            let batch = match self.sealed.pop_front() {
                Some(batch) => batch,
                None if self.open.bytes > 0 => EchoLog::seal(&mut self.spare, &mut self.open),
                None => break,
            };
            self.submit(batch, fx);
        }
        self.conns.send(fx);
    }
}
