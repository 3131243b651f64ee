//! What a shard's thread does for TLS: it takes in what the lobby hands over, asks the lobby to dial,
//! and keeps the [`Layer`] between its ring and its shard.
//!
//! ```text
//!   lobby ─ Arrival ─► adopting ── fx.adopt, token ─► ring ── connected(token) ─► Layer, Shard
//!   lobby ◄─ Dial ──── fx.connect of the links
//! ```
//!
//! The ring makes the descriptor a fixed file of its own; the process's descriptor is closed then. A
//! shard that has as many connections as it may have refuses the newest, as without TLS.

use std::collections::HashMap;
use std::sync::Arc;

use forebay_core::message::peer::HelloRefusal;
use forebay_core::time::Nanos;
use tokio::sync::mpsc;

use super::layer::Layer;
use super::lobby::{Adopted, Arrival, Dial};
use super::refusal::Refusal;
use super::{NodeTls, Records, Role};
use crate::lane::Receiver;
use crate::machine::{CloseReason, ConnId, Effects, SendBuf};
use crate::shard::{Shard, Shown};

/// A connection that the ring is taking over.
#[derive(Debug)]
struct Adopting {
    listener: usize,
    dialed: Option<u64>,
    role: Role,
    name: String,
    records: Records,
    early: Vec<u8>,
}

/// See the module's docs.
#[derive(Debug)]
pub(crate) struct Host {
    tls: Arc<NodeTls>,
    layer: Layer,
    shard: usize,
    arrivals: Receiver<Arrival>,
    dials: mpsc::Sender<Dial>,
    adopting: HashMap<u64, Adopting>,
    next_token: u64,
    /// Greetings that did not fit their certificates, as far as they were counted here.
    wrong_nodes: u64,
}

impl Host {
    /// Of the shard numbered `shard` on its node.
    pub(crate) fn new(
        tls: Arc<NodeTls>,
        shard: usize,
        arrivals: Receiver<Arrival>,
        dials: mpsc::Sender<Dial>,
    ) -> Host {
        let layer = Layer::new(Arc::clone(&tls));
        Host {
            tls,
            layer,
            shard,
            arrivals,
            dials,
            adopting: HashMap::new(),
            next_token: 0,
            wrong_nodes: 0,
        }
    }

    /// The ring has taken a connection over.
    pub(crate) fn connected(&mut self, shard: &mut Shard, conn: ConnId, token: u64, now: Nanos) {
        let adopting = self.adopting.remove(&token).expect("the ring returns each token once");
        let Adopting { listener, dialed, role, name, records, early } = adopting;
        self.layer.opened(conn, records, early);
        let shown = Shown { name: &name, operates: role.operates() };
        shard.connected_as(conn, listener, dialed, Some(shown), now);
    }

    /// The ring could not take a connection over.
    pub(crate) fn refused(&mut self, shard: &mut Shard, token: u64, errno: i32, now: Nanos) {
        let adopting = self.adopting.remove(&token).expect("the ring returns each token once");
        self.tls.refusals().count(Refusal::ShardFull, || format!("errno {errno}"));
        if let Some(token) = adopting.dialed {
            crate::machine::Machine::connect_failed(shard, token, errno, now);
        }
    }

    /// Sealed bytes arrived.
    pub(crate) fn received(
        &mut self,
        shard: &mut Shard,
        conn: ConnId,
        bytes: &[u8],
        now: Nanos,
        fx: &mut Effects,
    ) {
        self.layer.received(shard, conn, bytes, now, fx);
    }

    /// A sealed buffer came back.
    pub(crate) fn sent(&mut self, shard: &mut Shard, conn: ConnId, buf: SendBuf, now: Nanos) {
        self.layer.sent(shard, conn, buf, now);
    }

    /// A connection is gone.
    pub(crate) fn closed(
        &mut self,
        shard: &mut Shard,
        conn: ConnId,
        reason: CloseReason,
        now: Nanos,
    ) {
        self.layer.closed(shard, conn, now);
        crate::machine::Machine::closed(shard, conn, reason, now);
    }

    /// Takes in what the lobby has handed over. Before the shard's turn.
    pub(crate) fn before_turn(&mut self, shard: &mut Shard, now: Nanos, fx: &mut Effects) {
        while let Ok(arrival) = self.arrivals.try_recv() {
            match arrival {
                Arrival::Connection(adopted) => {
                    let Adopted { descriptor, listener, dialed, role, name, records, early } =
                        *adopted;
                    let token = self.next_token;
                    self.next_token += 1;
                    let adopting = Adopting { listener, dialed, role, name, records, early };
                    self.adopting.insert(token, adopting);
                    fx.adopt.push((token, descriptor));
                }
                Arrival::DialFailed { token } => {
                    let errno = libc::ECONNREFUSED;
                    crate::machine::Machine::connect_failed(shard, token, errno, now);
                }
            }
        }
        self.layer.before_turn(shard, now, fx);
    }

    /// Counts what the links alone can see. Now and then.
    pub(crate) fn observe(&mut self, shard: &Shard) {
        let Some(replication) = shard.replication() else { return };
        let refused = &replication.link_counters().refused;
        let wrong = refused[HelloRefusal::WrongCertificate.index()];
        for _ in self.wrong_nodes..wrong {
            self.tls.refusals().count(Refusal::WrongNode, || {
                format!("a greeting at shard {} did not fit its certificate", self.shard)
            });
        }
        self.wrong_nodes = wrong;
    }

    /// Seals what the shard sends, and lets the lobby dial. After the shard's turn.
    pub(crate) fn after_turn(&mut self, shard: &mut Shard, now: Nanos, fx: &mut Effects) {
        for (token, address) in fx.connect.drain(..) {
            let dial = Dial { shard: self.shard, token, address };
            if self.dials.try_send(dial).is_err() {
                // The lobby is gone or drowned: the link tries again after its pause.
                crate::machine::Machine::connect_failed(shard, token, libc::EAGAIN, now);
                fx.run_again = true;
            }
        }
        self.layer.after_turn(shard, now, fx);
    }
}
