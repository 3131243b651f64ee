//! The floor of every claim about reads: the ring, frames cut and replies sent, and nothing else.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use forebay_core::time::Nanos;
use forebay_net::machine::{CloseReason, ConnId, Effects, Machine, SendBuf};

use super::replies::Connections;
use super::{FloorCounters, add};

/// Replies to each frame at once.
#[derive(Debug)]
pub(super) struct Echo {
    conns: Connections,
    arrived: Vec<(ConnId, super::frames::Header)>,
    counters: Arc<FloorCounters>,
}

impl Echo {
    pub(super) fn new(counters: Arc<FloorCounters>) -> Echo {
        Echo { conns: Connections::default(), arrived: Vec::new(), counters }
    }
}

impl Machine for Echo {
    fn connected(&mut self, conn: ConnId, _: usize, _: Option<u64>, _: Nanos) {
        self.conns.opened(conn);
    }
    fn received(&mut self, conn: ConnId, bytes: &[u8], _: Nanos, fx: &mut Effects) {
        let arrived = &mut self.arrived;
        self.conns.received(conn, bytes, fx, |header, _| arrived.push((conn, *header)));
    }
    fn sent(&mut self, conn: ConnId, buf: SendBuf, _: Nanos) {
        self.conns.sent(conn, buf);
    }
    fn closed(&mut self, conn: ConnId, _: CloseReason, _: Nanos) {
        self.conns.closed(conn);
    }
    fn turn(&mut self, _: Nanos, fx: &mut Effects) {
        let requests: &AtomicU64 = &self.counters.requests;
        add(requests, self.arrived.len() as u64);
        for (conn, header) in self.arrived.drain(..) {
            self.conns.reply(conn, &header);
        }
        self.conns.send(fx);
    }
}
