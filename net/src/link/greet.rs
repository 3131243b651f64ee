//! Connections that open, greet, and end.

use forebay_core::liveness::Peer;
use forebay_core::message::peer::{Hello, HelloRefusal, HelloRefused, Welcome};
use forebay_core::time::Nanos;

use super::{Conn, Dialing, Link, LinkEvent, Links, Outbox, Phase};
use crate::frame::Inbox;
use crate::machine::ConnId;

/// What it is called in the log when a peer refuses this shard.
pub(crate) const REFUSED_BY_PEER: &str = "refused_by_peer";

/// Who greets, as far as it says.
fn words_of(hello: &Hello) -> String {
    let [cluster, node] = [hello.cluster_id, hello.node_id].map(u128::from_be_bytes);
    let Hello { from, to, az, protocol_oldest, protocol_newest, .. } = hello;
    format!(
        "shard {from} of node {node:032x} in cluster {cluster:032x}, AZ {az}, versions \
         {protocol_oldest} to {protocol_newest}, to shard {to}"
    )
}

impl Links {
    /// A connection is open: accepted on the peers' listener (`token` is None), or dialed for
    /// `token`, which has [`super::LINK_TOKEN_BIT`]. `certified` is the node id in the peer's
    /// certificate, where there is one.
    pub fn connected(
        &mut self,
        conn: ConnId,
        token: Option<u64>,
        certified: Option<[u8; 16]>,
        now: Nanos,
    ) {
        let slot = conn.slot as usize;
        if self.conns.len() <= slot {
            self.conns.resize_with(slot + 1, || None);
        }
        assert!(self.conns[slot].is_none(), "the shell reuses a slot only after it was closed");
        self.conns[slot] = Some(Box::new(Conn {
            id: conn,
            phase: Phase::Stranger,
            peer: None,
            certified,
            inbox: Inbox::default(),
            waiting: super::Waiting::default(),
            outbox: Outbox::default(),
            queued: false,
            head: [0; 4],
            head_bytes: 0,
            opened_at: now,
            heard_at: now,
            unfinished_since: None,
            said_at: now,
            keep_alives: 0,
        }));
        self.due = self.due.min(now + self.settings.hello_nanos_max);
        match token {
            Some(token) => self.dialed(conn, token, now),
            None => self.accepted(now),
        }
    }

    fn accepted(&mut self, now: Nanos) {
        self.strangers += 1;
        if self.strangers <= self.settings.strangers_max {
            return;
        }
        let strangers = self.conns.iter().flatten().filter(|conn| conn.phase == Phase::Stranger);
        if let Some(oldest) = strangers.min_by_key(|conn| conn.opened_at).map(|conn| conn.id) {
            self.counters.strangers_evicted += 1;
            self.end(oldest, now);
        }
    }

    /// An own dial has come through.
    fn dialed(&mut self, conn: ConnId, token: u64, now: Nanos) {
        let dialing = |link: &&mut Link| matches!(link.dialing, Dialing::Connecting { token: of, .. } if of == token);
        let found = self.conn(conn).expect("it was just made");
        found.phase = Phase::Greeting;
        let Some(link) = self.links.iter_mut().find(dialing) else {
            // It was given up meanwhile.
            return self.end(conn, now);
        };
        link.dialing = Dialing::Greeting { conn };
        let (peer, dial, expected) = (link.peer, link.dials, link.info.expected);
        let hello = self.me.hello(&expected, dial);
        let settings = self.settings;
        let found = self.conn(conn).expect("it was just made");
        found.peer = Some(peer);
        found.outbox.push_urgent(&hello, &settings);
        self.mark(conn);
    }

    /// A dial did not open a connection.
    pub fn connect_failed(&mut self, token: u64, now: Nanos) {
        let dialing = |link: &&mut Link| matches!(link.dialing, Dialing::Connecting { token: of, .. } if of == token);
        if let Some(link) = self.links.iter_mut().find(dialing) {
            link.dialing = Dialing::Failed { refused: false };
            self.counters.dials_failed += 1;
            self.due = self.due.min(now);
        }
    }

    /// A stranger greets.
    pub(super) fn greeted(&mut self, conn: ConnId, hello: &Hello, now: Nanos) {
        if let Err(reason) = self.judge_greeting(conn, hello) {
            self.words.note(reason.name(), || format!("the greeting of {}", words_of(hello)));
            return self.refuse(conn, reason, now);
        }
        let peer = Peer(hello.from);
        let place = self.place(peer).expect("the greeting was judged");
        let link = &mut self.links[place];
        link.seen = (hello.incarnation, hello.dial);
        let old = link.established;
        let own = match link.dialing {
            Dialing::Greeting { conn } => Some(conn),
            _ => None,
        };
        self.counters.replaced += u64::from(old.is_some());
        for conn in old.into_iter().chain(own) {
            self.end(conn, now);
        }
        let link = &mut self.links[place];
        link.dialing = Dialing::Waiting { until: None };
        let hello = self.me.hello(&link.info.expected, link.dials);
        let welcome = Welcome { hello, protocol: hello.protocol_newest };
        let settings = self.settings;
        self.strangers -= 1;
        let found = self.conn(conn).expect("it greeted");
        found.peer = Some(peer);
        found.outbox.push_urgent(&welcome, &settings);
        self.mark(conn);
        self.establish(conn, peer, now);
    }

    fn judge_greeting(&mut self, conn: ConnId, hello: &Hello) -> Result<(), HelloRefusal> {
        let certified = self.conn(conn).and_then(|conn| conn.certified);
        let link = self.place(Peer(hello.from)).ok().map(|place| &self.links[place]);
        let expected = link.map(|link| &link.info.expected);
        self.me.judge(hello, expected, certified.as_ref())?;
        let link = link.expect("a stranger's greeting was refused");
        if hello.incarnation < link.seen.0 {
            return Err(HelloRefusal::OldIncarnation);
        }
        if (hello.incarnation, hello.dial) <= link.seen {
            return Err(HelloRefusal::Superseded);
        }
        let greets = matches!(link.dialing, Dialing::Greeting { .. });
        if greets && self.me.peer < hello.from {
            return Err(HelloRefusal::Crossing);
        }
        Ok(())
    }

    /// A peer answers an own greeting.
    pub(super) fn welcomed(&mut self, conn: ConnId, peer: Peer, welcome: &Welcome, now: Nanos) {
        let hello = &welcome.hello;
        let certified = self.conn(conn).and_then(|conn| conn.certified);
        let Some(link) = self.link(peer) else { return self.end(conn, now) };
        let expected = link.info.expected;
        let seen = link.seen;
        let judged = if hello.from != peer.0 {
            Err(HelloRefusal::WrongShard)
        } else {
            self.me.judge(hello, Some(&expected), certified.as_ref())
        };
        let relic = hello.incarnation < seen.0;
        let reason = judged.err().or(relic.then_some(HelloRefusal::OldIncarnation));
        if let Some(reason) = reason {
            self.counters.refused[reason.index()] += 1;
            self.words.note(reason.name(), || format!("the answer of {}", words_of(hello)));
            self.dial_failed(peer, !reason.is_ordinary(), now);
            return self.end(conn, now);
        }
        let link = self.link(peer).expect("it was just there");
        link.seen = link.seen.max((hello.incarnation, hello.dial));
        link.dialing = Dialing::Waiting { until: None };
        self.establish(conn, peer, now);
    }

    /// A peer refuses an own greeting.
    pub(super) fn refused(&mut self, conn: ConnId, peer: Peer, reason: HelloRefusal, now: Nanos) {
        self.counters.refused_by_peers[reason.index()] += 1;
        if !reason.is_ordinary() {
            self.words.note(REFUSED_BY_PEER, || {
                format!("shard {} does not take this shard's greeting: {}", peer.0, reason.name())
            });
        }
        self.dial_failed(peer, !reason.is_ordinary(), now);
        self.end(conn, now);
    }

    fn dial_failed(&mut self, peer: Peer, refused: bool, now: Nanos) {
        if let Some(link) = self.link(peer) {
            link.dialing = Dialing::Failed { refused };
            self.counters.dials_failed += 1;
            self.due = self.due.min(now);
        }
    }

    fn establish(&mut self, conn: ConnId, peer: Peer, now: Nanos) {
        let found = self.conn(conn).expect("it was greeted");
        found.phase = Phase::Established;
        let link = self.link(peer).expect("it was greeted");
        assert!(link.established.is_none(), "one connection per peer");
        link.established = Some(conn);
        link.up_since = now;
        link.times_established += 1;
        let again = link.times_established > 1;
        self.counters.established += 1;
        self.counters.reconnects += u64::from(again);
        self.events.push(LinkEvent::Up(peer));
        let settings = &self.settings;
        self.due = self.due.min(now + settings.keep_alive_nanos.min(settings.silent_nanos_max));
    }

    /// Tells a stranger why, and closes.
    fn refuse(&mut self, conn: ConnId, reason: HelloRefusal, now: Nanos) {
        self.counters.refused[reason.index()] += 1;
        let settings = self.settings;
        if let Some(found) = self.conn(conn) {
            found.outbox.push_urgent(&HelloRefused::of(reason), &settings);
        }
        self.end(conn, now);
    }

    /// The peer broke a rule, and it was counted.
    pub(super) fn misbehaved(&mut self, conn: ConnId, now: Nanos) {
        let Some(found) = self.conn(conn) else { return };
        match (found.phase, found.peer) {
            (Phase::Stranger, _) => self.refuse(conn, HelloRefusal::Malformed, now),
            (Phase::Greeting, Some(peer)) => {
                self.dial_failed(peer, true, now);
                self.end(conn, now);
            }
            _ => self.end(conn, now),
        }
    }

    /// The connection is of no more use; it is closed after what was said urgently has gone.
    pub(super) fn end(&mut self, conn: ConnId, now: Nanos) {
        let stable_nanos = self.settings.stable_nanos;
        let Some(found) = self.conn(conn) else { return };
        let (phase, peer) = (found.phase, found.peer);
        if matches!(phase, Phase::Closing { .. }) {
            return;
        }
        found.phase = Phase::Closing { told: false };
        found.inbox = Inbox::default();
        found.waiting.clear();
        // Only what a stranger is told is worth being sent.
        let lost = found.outbox.drop_all(phase == Phase::Stranger);
        self.counters.dropped_lost += lost;
        self.mark(conn);
        if phase == Phase::Stranger {
            self.strangers -= 1;
        }
        let Some(link) = peer.and_then(|peer| self.link(peer)) else { return };
        let peer = link.peer;
        if link.established == Some(conn) {
            link.established = None;
            if now.since(link.up_since) >= stable_nanos {
                link.failures = 0;
            }
            if matches!(link.dialing, Dialing::Waiting { .. }) {
                link.dialing = Dialing::Failed { refused: false };
            }
            self.events.push(LinkEvent::Down(peer));
        } else if link.dialing == (Dialing::Greeting { conn }) {
            link.dialing = Dialing::Failed { refused: false };
            self.counters.dials_failed += 1;
        }
        self.due = self.due.min(now);
    }
}
