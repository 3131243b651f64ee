//! Peer-confirmed suspicion: what the others say of a shard that this one does not hear.
//!
//! ```text
//!    P ──✗──► S      S: "I do not hear P; do you?"     M: "I do, and it claims the support of {M}"
//!    P ─────► M      P and M are a quorum of {P S M}: S starts no election
//! ```
//!
//! A claim is judged per group, because the same set of supporters may be a quorum of one group and
//! none of another. An answer counts while it is at most [`FRESH_HEARTBEATS`] heartbeats old.

use super::{Liveness, Nanos, PairEffect, PairMessage, Peer};

/// An answer older than this many heartbeats says nothing.
pub(super) const FRESH_HEARTBEATS: u64 = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Answered {
    from: Peer,
    at: Nanos,
    hears: bool,
    claims: Vec<Peer>,
}

impl Liveness {
    /// Notes whom this shard has lost, and asks the others about them.
    pub(super) fn notice_lost(&mut self, now: Nanos, effects: &mut Vec<PairEffect>) {
        for index in 0..self.links.len() {
            let link = &mut self.links[index];
            if now < link.missed_from {
                continue;
            }
            let peer = link.peer;
            if link.lost_at.is_none() {
                link.lost_at = Some(now);
                link.ask_at = now;
                link.answers.clear();
                effects.push(PairEffect::Changed { peer });
            }
            if now >= self.links[index].ask_at {
                self.links[index].ask_at = now + self.settings.heartbeat_nanos;
                let others = self.links.iter().filter(|other| other.peer != peer);
                effects.extend(others.map(|other| PairEffect::Send {
                    to: other.peer,
                    message: PairMessage::Ask { about: peer },
                }));
                // Also without an answer: a group may have nobody to ask.
                effects.push(PairEffect::Doubted { peer });
            }
        }
    }

    pub(super) fn answer(
        &mut self,
        from: Peer,
        about: Peer,
        hears: bool,
        claims: &[Peer],
        now: Nanos,
        effects: &mut Vec<PairEffect>,
    ) {
        let Some(link) = self.link_mut(about) else { return };
        if link.lost_at.is_none() {
            return;
        }
        link.answers.retain(|answered| answered.from != from);
        link.answers.push(Answered { from, at: now, hears, claims: claims.to_vec() });
        effects.push(PairEffect::Doubted { peer: about });
    }

    /// Whether the members of a group (at `members`) agree that `peer` is gone: a quorum of them,
    /// this shard included, does not hear it, and none hears it with a live quorum of the group.
    #[must_use]
    pub fn suspects(&self, peer: Peer, members: &[Peer], now: Nanos) -> bool {
        let Some(link) = self.link(peer) else { return peer != self.me };
        if self.supports(peer, now).is_some() {
            return false;
        }
        let quorum = members.len() / 2 + 1;
        let fresh = FRESH_HEARTBEATS * self.settings.heartbeat_nanos;
        let mut silent = 1;
        for answered in &link.answers {
            if now.since(answered.at) > fresh || !members.contains(&answered.from) {
                continue;
            }
            let supporters = answered.claims.iter().filter(|claim| members.contains(claim));
            if answered.hears && supporters.count() + 1 >= quorum {
                return false;
            }
            silent += 1;
        }
        silent >= quorum
    }
}
