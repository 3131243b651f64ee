//! Messages of peers that came to nothing because of what they say of themselves: counted by name, and
//! remembered in words for the log.
//!
//! | name | a message … | what to do |
//! |---|---|---|
//! | `misdirected` | for a group or member that is not here, or not from where its sender lives | nothing, around changes of members; otherwise look at the sender's data directory |
//! | `stale_ballot` | of a ballot below the one promised here: of a leader or candidate that others have passed | nothing, around elections; the sender is told, and follows |
//! | `stale_epoch` | of liveness, of an earlier start of its sender or of this shard, or of support that has lapsed | nothing: it was late |
//!
//! None of them has an effect, whatever else it says.

use forebay_core::ids::{Ballot, GroupId};
use forebay_core::liveness::{Liveness, PairMessage, Peer};
use forebay_core::paxos::MemberId;

use crate::refusals::Words;

/// See the module's docs.
#[derive(Debug, Default)]
pub struct Unheard {
    misdirected: u64,
    stale_ballots: u64,
    stale_epochs: u64,
    words: Words,
}

impl Unheard {
    /// Messages for groups or members that are not here, or not from where they say.
    #[must_use]
    pub fn misdirected(&self) -> u64 {
        self.misdirected
    }

    /// Messages of ballots below the one promised.
    #[must_use]
    pub fn stale_ballots(&self) -> u64 {
        self.stale_ballots
    }

    /// Messages of liveness of what is over.
    #[must_use]
    pub fn stale_epochs(&self) -> u64 {
        self.stale_epochs
    }

    pub(super) fn words(&mut self) -> &mut Words {
        &mut self.words
    }

    pub(super) fn note_misdirected(&mut self, from: Peer, group: GroupId, to: MemberId) {
        self.misdirected += 1;
        self.words.note("misdirected", || {
            format!("a message of shard {} to member {} of group {}", from.0, to.0, group.0)
        });
    }

    pub(super) fn note_stale_ballot(&mut self, group: GroupId, from: MemberId, ballot: Ballot) {
        self.stale_ballots += 1;
        self.words.note("stale_ballot", || {
            let member = from.0;
            format!("a message of member {member} of group {} under ballot {}", group.0, ballot.0)
        });
    }

    /// Looks at a message of liveness before it is heard.
    pub(super) fn look_at(&mut self, liveness: &Liveness, from: Peer, message: &PairMessage) {
        let (what, found, current) = match message {
            PairMessage::Heartbeat { incarnation, .. } => {
                ("a heartbeat of its start", *incarnation, liveness.heard_incarnation(from))
            }
            PairMessage::Ack { incarnation, .. } if *incarnation != liveness.incarnation() => {
                ("an answer to this shard's start", *incarnation, liveness.incarnation())
            }
            PairMessage::Ack { epoch, .. } => match liveness.granted(from) {
                Some((held, _)) if *epoch < held && epoch.incarnation == held.incarnation => {
                    ("support of epoch", epoch.count.into(), held.count.into())
                }
                Some((held, _)) => ("support of its start", epoch.incarnation, held.incarnation),
                None => return,
            },
            PairMessage::Ask { .. } | PairMessage::Answer { .. } => return,
        };
        if found < current {
            self.stale_epochs += 1;
            self.words.note("stale_epoch", || {
                format!("from shard {}: {what} {found}, {current} is the newest", from.0)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_core::liveness::{Epoch, LivenessSettings};
    use forebay_core::time::Nanos;

    use super::*;

    #[test]
    fn what_is_of_the_past_is_counted_and_what_is_not_is_not() {
        let (settings, now) = (LivenessSettings::DEFAULT, Nanos(1_000_000_000));
        let mut liveness = Liveness::new(Peer(0), 5, settings, true, now);
        liveness.add_peer(Peer(1), now);
        let mut unheard = Unheard::default();
        let mut hear = |message: PairMessage| {
            unheard.look_at(&liveness, Peer(1), &message);
            liveness.receive(Peer(1), &message, now, &mut Vec::new());
            unheard.stale_epochs()
        };
        let heartbeat =
            |incarnation| PairMessage::Heartbeat { incarnation, sent_at: now, claims: vec![] };
        let ack = |incarnation, epoch_of, count| PairMessage::Ack {
            incarnation,
            echo: now,
            epoch: Epoch { incarnation: epoch_of, count },
        };
        assert_eq!(hear(heartbeat(3)), 0);
        assert_eq!(hear(heartbeat(2)), 1);
        assert_eq!(hear(heartbeat(4)), 1);
        assert_eq!(hear(ack(4, 4, 1)), 2, "an answer to an earlier start of this shard");
        assert_eq!(hear(ack(5, 4, 2)), 2);
        assert_eq!(hear(ack(5, 4, 1)), 3, "a lapsed epoch");
        assert_eq!(hear(ack(5, 3, 9)), 4, "of an earlier start of the supporter");
        assert_eq!(hear(ack(5, 4, 3)), 4);
        assert_eq!(hear(PairMessage::Ask { about: Peer(2) }), 4);
    }
}
