//! Who is alive, and who supports whom: per pair of shards, whatever the number of groups.
//!
//! ```text
//!     P (leads 10,000 groups)                         S (member of the same groups)
//!     │ Heartbeat{sent_at = 100, claims}                │
//!     ├────────────────────────────────────────────────►│ supports P until 103 + LEASE (S's clock)
//!     │                       Ack{echo = 100, epoch 7}  │
//!     │◄────────────────────────────────────────────────┤
//!     │ S supports P under epoch 7                      │  … silence …
//!     │ until 100 + LEASE − drift margin (P's clock)    │  now ≥ until: epoch 7 has ended for good
//! ```
//!
//! A *support* is a lease in the sense of Gray and Cheriton ("Leases: An Efficient Fault-Tolerant
//! Mechanism for Distributed File Cache Consistency", SOSP'89, section 2): S promises not to help
//! anybody take over P's groups before a time, and P counts that time from the moment it *sent* the
//! heartbeat, so that no agreement about the time of day is needed, only that two clocks run at
//! rates that differ by no more than [`DRIFT_PER_MILLE_MAX`]. Clocks are CLOCK_BOOTTIME, which goes
//! on while a machine is suspended. A hypervisor that stops all guests' clocks at once is outside
//! the guarantee.
//!
//! Supports have *epochs*, given by the supporter: `(incarnation of S, count)`. An epoch that has
//! ended never returns: a lapse raises the count, a restart the incarnation (that of S's log, raised
//! by every recovery). A group's lease ([`crate::paxos`]) rests on named epochs, so a leader that
//! was stopped for a while cannot take a renewed support for the one that it had.
//!
//! Gray failures (DynamoDB, USENIX ATC'22, section 6.2): one broken link makes S believe that P
//! is dead while everyone else hears it. So when S's support for P ends, S asks the other shards,
//! and [`Liveness::suspects`] says yes for a group only when a quorum of its members does not hear P
//! either and none hears a P that claims a live quorum of the group.
//!
//! Invariants, asserted where the state changes:
//! * an epoch that a peer is told of never goes back;
//! * `granted.until` ends before the supporter's `until`, if the drift is within the bound.
//!
//! Left out: probing how *slow* a link is.

mod suspicion;
#[cfg(test)]
mod tests;

use crate::paxos::planted::{Bug, Planted};
use crate::time::Nanos;

/// One shard of one node: the unit that lives and dies. Given by the system group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer(pub u32);

impl Peer {
    /// Whether it is the shard 0 of its node, which speaks for it.
    #[must_use]
    pub fn is_first_shard(self) -> bool {
        self.0.is_multiple_of(SHARDS_PER_NODE)
    }
}

/// Peer numbers of a node: its shards' are a multiple of it and those that follow.
pub const SHARDS_PER_NODE: u32 = 256;

/// Two clocks gain or lose at most this much against each other. Quartz drifts by 0.1 per mille and
/// NTP slews by at most 0.5 per mille on each side; the bound is eight times the sum.
pub const DRIFT_PER_MILLE_MAX: u64 = 10;

/// Lengths and paces. The same on all nodes of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LivenessSettings {
    /// How long a heartbeat is good for, on the supporter's clock.
    pub lease_nanos: u64,
    /// Time between two heartbeats.
    pub heartbeat_nanos: u64,
}

impl LivenessSettings {
    /// A dead leader is noticed within 400 ms, which leaves as much for the election, and three
    /// heartbeats in a row may be lost.
    pub const DEFAULT: LivenessSettings = LivenessSettings {
        lease_nanos: 400 * Nanos::PER_MILLI,
        heartbeat_nanos: 100 * Nanos::PER_MILLI,
    };

    /// What the supported side may count on, from the moment that it sent the heartbeat.
    #[must_use]
    pub const fn usable_nanos(&self) -> u64 {
        self.lease_nanos / 1000 * (1000 - 2 * DRIFT_PER_MILLE_MAX)
    }

    /// What a restarted supporter waits: whatever it had promised has ended by then.
    #[must_use]
    pub const fn restart_wait_nanos(&self) -> u64 {
        self.lease_nanos
    }
}

const _: () = {
    let settings = LivenessSettings::DEFAULT;
    assert!(settings.usable_nanos() > 3 * settings.heartbeat_nanos);
    assert!(settings.usable_nanos() < settings.lease_nanos);
};

/// Names one unbroken stretch of support; given by the supporter. Ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Of the supporter.
    pub incarnation: u64,
    /// Lapses since then.
    pub count: u32,
}

/// What shards say to each other about their being alive. May be lost, delayed, repeated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PairMessage {
    /// "I live; support me." Sent every [`LivenessSettings::heartbeat_nanos`].
    Heartbeat {
        /// Of the sender: its log's, raised by every recovery.
        incarnation: u64,
        /// On the sender's clock.
        sent_at: Nanos,
        /// Those whose support the sender held when it sent this.
        claims: Vec<Peer>,
    },
    /// The answer to a heartbeat.
    Ack {
        /// The heartbeat's incarnation.
        incarnation: u64,
        /// The heartbeat's `sent_at`.
        echo: Nanos,
        /// Under which the heartbeat's sender is supported.
        epoch: Epoch,
    },
    /// "I do not hear `about`; do you?" Repeated at the pace of heartbeats while that lasts.
    Ask {
        /// The silent one.
        about: Peer,
    },
    /// The answer to [`PairMessage::Ask`].
    Answer {
        /// The one asked about.
        about: Peer,
        /// The answering shard supports it.
        hears: bool,
        /// What its last heartbeat claimed.
        claims: Vec<Peer>,
    },
}

/// What the machine asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PairEffect {
    /// Send a message.
    Send {
        /// To which shard.
        to: Peer,
        /// What.
        message: PairMessage,
    },
    /// Something about `peer` changed (heard, lost, restarted, another epoch): give a tick to the
    /// groups that have a member there.
    Changed {
        /// About whom.
        peer: Peer,
    },
    /// `peer` is still lost, and the others were asked about it or have answered: give a tick to the
    /// groups that it leads as far as this shard knows. For as long as it is lost this comes with
    /// every heartbeat, and is of no concern to the groups that others lead.
    Doubted {
        /// About whom.
        peer: Peer,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Link {
    peer: Peer,
    // What this shard gives.
    heard_incarnation: u64,
    count: u32,
    supported_until: Option<Nanos>,
    /// A peer never heard is missed one lease length after it was added.
    missed_from: Nanos,
    claims: Vec<Peer>,
    // What this shard holds.
    granted: Option<(Epoch, Nanos)>,
    // What the others say of the peer while this shard does not hear it.
    lost_at: Option<Nanos>,
    ask_at: Nanos,
    answers: Vec<suspicion::Answered>,
}

/// One shard's view of all others. See the module's docs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Liveness {
    me: Peer,
    incarnation: u64,
    settings: LivenessSettings,
    promises_from: Nanos,
    links: Vec<Link>,
    heartbeat_at: Nanos,
    planted: Planted,
}

impl Liveness {
    /// A shard that starts at `now`. `incarnation` is higher than at every start before; `first`
    /// says that there was none before, so that no promise of support can be outstanding.
    #[must_use]
    pub fn new(
        me: Peer,
        incarnation: u64,
        settings: LivenessSettings,
        first: bool,
        now: Nanos,
    ) -> Liveness {
        let promises_from = if first { now } else { now + settings.restart_wait_nanos() };
        Liveness {
            me,
            incarnation,
            settings,
            promises_from,
            links: Vec::new(),
            heartbeat_at: now,
            planted: Planted::of_thread(),
        }
    }

    /// Plants a bug, to see that the tests catch it.
    #[cfg(any(test, feature = "planted-bugs"))]
    #[must_use]
    pub fn with_bug(mut self, bug: Option<Bug>) -> Liveness {
        self.planted = Planted(bug);
        self
    }

    /// This shard.
    #[must_use]
    pub fn me(&self) -> Peer {
        self.me
    }

    /// This start of this shard.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The lengths in force.
    #[must_use]
    pub fn settings(&self) -> &LivenessSettings {
        &self.settings
    }

    /// From now on exchanges heartbeats with `peer`. Call it for every shard that shares a group
    /// with this one.
    pub fn add_peer(&mut self, peer: Peer, now: Nanos) {
        if peer == self.me {
            return;
        }
        if let Err(place) = self.links.binary_search_by_key(&peer, |link| link.peer) {
            let link = Link {
                peer,
                heard_incarnation: 0,
                count: 0,
                supported_until: None,
                missed_from: now + self.settings.lease_nanos,
                claims: Vec::new(),
                granted: None,
                lost_at: None,
                ask_at: Nanos(0),
                answers: Vec::new(),
            };
            self.links.insert(place, link);
        }
    }

    /// Exchanges no more heartbeats with `peer`: it holds no shard of the cluster any more.
    pub fn remove_peer(&mut self, peer: Peer) {
        self.links.retain(|link| link.peer != peer);
    }

    /// How long `peer` has been missed: since its last heartbeat ran out, or, if it was never heard,
    /// since one would have. 0 while it is heard.
    #[must_use]
    pub fn missed_nanos(&self, peer: Peer, now: Nanos) -> u64 {
        self.link(peer).map_or(0, |link| now.since(link.missed_from))
    }

    /// With whom heartbeats are exchanged.
    pub fn peers(&self) -> impl Iterator<Item = Peer> + '_ {
        self.links.iter().map(|link| link.peer)
    }

    /// Whether heartbeats are exchanged with `peer`.
    #[must_use]
    pub fn knows(&self, peer: Peer) -> bool {
        self.link(peer).is_some()
    }

    fn link(&self, peer: Peer) -> Option<&Link> {
        let place = self.links.binary_search_by_key(&peer, |link| link.peer).ok()?;
        Some(&self.links[place])
    }

    fn link_mut(&mut self, peer: Peer) -> Option<&mut Link> {
        let place = self.links.binary_search_by_key(&peer, |link| link.peer).ok()?;
        Some(&mut self.links[place])
    }

    /// The epoch under which this shard supports `peer`, if it does.
    #[must_use]
    pub fn supports(&self, peer: Peer, now: Nanos) -> Option<Epoch> {
        let link = self.link(peer)?;
        (now < link.supported_until?)
            .then_some(Epoch { incarnation: self.incarnation, count: link.count })
    }

    /// The newest start of `peer` that this shard has heard of.
    #[must_use]
    pub fn heard_incarnation(&self, peer: Peer) -> u64 {
        self.link(peer).map_or(0, |link| link.heard_incarnation)
    }

    /// The support that this shard holds from `peer`: its epoch, and until when on this clock.
    #[must_use]
    pub fn granted(&self, peer: Peer) -> Option<(Epoch, Nanos)> {
        self.link(peer)?.granted
    }

    /// Which start of `peer` has answered the newest heartbeat that it has answered, and when this
    /// shard sent that, on its own clock.
    #[must_use]
    pub fn answered(&self, peer: Peer) -> Option<(u64, Nanos)> {
        let (epoch, until) = self.granted(peer)?;
        Some((epoch.incarnation, Nanos(until.0 - self.settings.usable_nanos())))
    }

    /// Whether `peer` has answered lately, so that sending to it is worth while.
    #[must_use]
    pub fn reaches(&self, peer: Peer, now: Nanos) -> bool {
        self.granted(peer).is_some_and(|(_, until)| now < until)
    }

    /// The shards that `peer` reached when it last said so; none while it is not heard.
    #[must_use]
    pub fn reached_by(&self, peer: Peer, now: Nanos) -> &[Peer] {
        let heard = self.supports(peer, now).and_then(|_| self.link(peer));
        heard.map_or(&[], |link| &link.claims)
    }

    /// When a restarted shard may help another leader: what it promised before it restarted has
    /// ended by then.
    #[must_use]
    pub fn promises_from(&self) -> Nanos {
        self.promises_from
    }

    /// A message arrived from another shard. One from a shard that shares no group is ignored.
    pub fn receive(
        &mut self,
        from: Peer,
        message: &PairMessage,
        now: Nanos,
        effects: &mut Vec<PairEffect>,
    ) {
        if self.link(from).is_none() {
            return;
        }
        match message {
            PairMessage::Heartbeat { incarnation, sent_at, claims } => {
                self.heartbeat(from, *incarnation, *sent_at, claims, now, effects);
            }
            PairMessage::Ack { incarnation, echo, epoch } => {
                self.ack(from, *incarnation, *echo, *epoch, now, effects);
            }
            PairMessage::Ask { about } => {
                let hears = self.supports(*about, now).is_some();
                let claims = self.link(*about).map_or(Vec::new(), |link| link.claims.clone());
                let message = PairMessage::Answer { about: *about, hears, claims };
                effects.push(PairEffect::Send { to: from, message });
            }
            PairMessage::Answer { about, hears, claims } => {
                self.answer(from, *about, *hears, claims, now, effects);
            }
        }
    }

    fn heartbeat(
        &mut self,
        from: Peer,
        incarnation: u64,
        sent_at: Nanos,
        claims: &[Peer],
        now: Nanos,
        effects: &mut Vec<PairEffect>,
    ) {
        let until = now + self.settings.lease_nanos;
        let my_incarnation = self.incarnation;
        let returns = self.planted.has(Bug::EndedEpochReturns);
        let link = self.link_mut(from).expect("the caller looked");
        if incarnation < link.heard_incarnation {
            // Of a process that is gone.
            return;
        }
        let restarted = incarnation > link.heard_incarnation;
        let lapsed = link.supported_until.is_none_or(|until| now >= until);
        if (restarted || lapsed) && !returns {
            link.count += 1;
        }
        link.heard_incarnation = incarnation;
        assert!(link.supported_until.is_none_or(|old| until >= old), "this clock went back");
        link.supported_until = Some(until);
        link.missed_from = until;
        link.claims.clear();
        link.claims.extend_from_slice(claims);
        link.lost_at = None;
        link.answers.clear();
        let epoch = Epoch { incarnation: my_incarnation, count: link.count };
        let message = PairMessage::Ack { incarnation, echo: sent_at, epoch };
        effects.push(PairEffect::Send { to: from, message });
        if restarted || lapsed {
            effects.push(PairEffect::Changed { peer: from });
        }
    }

    fn ack(
        &mut self,
        from: Peer,
        incarnation: u64,
        echo: Nanos,
        epoch: Epoch,
        now: Nanos,
        effects: &mut Vec<PairEffect>,
    ) {
        // Of an earlier start, or (from a confused peer) of the future.
        if incarnation != self.incarnation || echo > now {
            return;
        }
        let until = echo + self.settings.usable_nanos();
        let link = self.link_mut(from).expect("the caller looked");
        let changed = match &mut link.granted {
            Some((held, held_until)) if *held == epoch => {
                let was_over = now >= *held_until;
                *held_until = until.max(*held_until);
                was_over
            }
            Some((held, _)) if *held > epoch => false,
            granted => {
                *granted = Some((epoch, until));
                true
            }
        };
        if changed {
            effects.push(PairEffect::Changed { peer: from });
        }
    }

    /// Does what is due: heartbeats, questions about the silent. Drain what the sockets have
    /// received before calling this after a pause, or the whole world seems silent.
    pub fn tick(&mut self, now: Nanos, effects: &mut Vec<PairEffect>) {
        self.notice_lost(now, effects);
        self.beat(now, effects);
    }

    /// Sends the heartbeats that are due, and judges nobody. It needs no fresh view of the world: a
    /// shard that is too busy to have one is alive, and must say so, or its leads lapse and it is busier
    /// still.
    pub fn beat(&mut self, now: Nanos, effects: &mut Vec<PairEffect>) {
        if now < self.heartbeat_at {
            return;
        }
        self.heartbeat_at = now + self.settings.heartbeat_nanos;
        let live = self.links.iter().filter(|link| link.granted.is_some_and(|(_, t)| now < t));
        let claims: Vec<Peer> = live.map(|link| link.peer).collect();
        for link in &self.links {
            let message = PairMessage::Heartbeat {
                incarnation: self.incarnation,
                sent_at: now,
                claims: claims.clone(),
            };
            effects.push(PairEffect::Send { to: link.peer, message });
        }
    }

    /// When [`Liveness::tick`] has something to do.
    #[must_use]
    pub fn next_due(&self) -> Nanos {
        let lapses = self.links.iter().filter(|link| link.lost_at.is_none());
        let lapses = lapses.map(|link| link.missed_from);
        let asks = self.links.iter().filter(|link| link.lost_at.is_some());
        let asks = asks.map(|link| link.ask_at);
        lapses.chain(asks).fold(self.heartbeat_at, Nanos::min)
    }
}
