//! Who is told what is chosen answers only if it is asked; and is asked.

use super::super::{Effect, MemberId, MemberNumber, Message, Replica, Settings};
use super::resends::supported;
use super::scenarios::{data, founders, last_persist, message, new_leader_with, sent, step};
use super::sim::MILLI;
use crate::ids::{Ballot, Slot};
use crate::liveness::{Epoch, Liveness, PairMessage, Peer};
use crate::paxos::{Handle, Input};
use crate::time::Nanos;

/// A leader of three, members 2 and 3 beside it, and what it sends to them.
struct Lead {
    leader: Replica,
    liveness: Liveness,
    now: u64,
    /// To whom, and what, since the last look.
    sent: Vec<(u64, Message)>,
}

impl Lead {
    /// It serves, and everybody knows everything.
    fn new(settings: Settings) -> Lead {
        let liveness = supported();
        let (leader, _) = new_leader_with(settings, &liveness, None);
        let mut lead = Lead { leader, liveness, now: 0, sent: Vec::new() };
        let slot = lead.last();
        [2, 3].into_iter().for_each(|from| lead.accepts(from, Slot(0)));
        lead.say(Input::Applied { slot });
        [2, 3].into_iter().for_each(|from| lead.accepts(from, slot));
        lead.sent.clear();
        lead
    }

    fn last(&self) -> Slot {
        self.leader.figures().last_slot
    }

    fn say(&mut self, input: Input<'_>) {
        let effects = step(&mut self.leader, &self.liveness, self.now, input);
        self.note(&effects);
    }

    fn note(&mut self, effects: &[Effect]) {
        let sent = effects.iter().filter_map(|effect| match effect {
            Effect::Send { to, message, .. } => Some((to.0, message.clone())),
            _ => None,
        });
        self.sent.extend(sent);
    }

    /// Later, and the others' shards have supported this one all the time, under the same epochs or the next.
    fn pass(&mut self, nanos: u64, count: u32) {
        self.now += nanos;
        let echo = Nanos(self.now);
        for peer in [1, 2].map(Peer) {
            let epoch = Epoch { incarnation: 1, count };
            let ack = PairMessage::Ack { incarnation: 1, echo, epoch };
            self.liveness.receive(peer, &ack, echo, &mut Vec::new());
        }
    }

    /// The same, and the leader looks at its clock.
    fn wait(&mut self, nanos: u64, count: u32) {
        self.pass(nanos, count);
        self.say(Input::Tick);
    }

    /// The leader writes an entry, and its own disk is fast.
    fn write(&mut self) {
        self.leader.propose(Handle(1), 10).expect("it serves");
        let effects = step(&mut self.leader, &self.liveness, self.now, Input::Tick);
        let upto = last_persist(&effects);
        self.note(&effects);
        self.say(Input::Persisted { upto });
    }

    /// A member has written everything down, and knows this much to be chosen.
    fn accepts(&mut self, from: u64, chosen: Slot) {
        let (ballot, last) = (self.leader.figures().promised, self.last());
        let accepted = Message::Accepted {
            ballot,
            held: last,
            durable: last,
            chosen,
            applied: chosen,
            checkpoint: Slot(0),
            gap: false,
            epoch: Some(Epoch { incarnation: 1, count: 1 }),
        };
        self.say(message(from, &accepted, &[]));
    }

    /// What was sent: to whom, whether entries, and whether an answer is asked for.
    fn take(&mut self) -> Vec<(u64, &'static str)> {
        let name = |message| match message {
            Message::Accept { .. } => "entries",
            Message::Chosen { ask: false, .. } => "told",
            Message::Chosen { ask: true, .. } => "asked",
            other => panic!("{other:?}"),
        };
        self.sent.drain(..).map(|(to, message)| (to, name(message))).collect()
    }
}

#[test]
fn a_write_costs_six_messages_and_who_says_nothing_for_long_is_asked() {
    let mut lead = Lead::new(Settings::DEFAULT);
    let before = lead.last();
    lead.write();
    assert_eq!(lead.take(), [(2, "entries"), (3, "entries")]);
    lead.accepts(2, before);
    lead.accepts(3, before);
    assert_eq!(lead.take(), [(2, "told"), (3, "told")]);
    let slot = lead.last();
    lead.say(Input::Applied { slot });

    lead.wait(8 * Settings::DEFAULT.resend_nanos - MILLI, 1);
    assert_eq!(lead.take(), []);
    // One says so just then. The other does not, nor when it is asked: it is asked again, and nothing
    // is sent again that it holds.
    lead.pass(2 * MILLI, 1);
    lead.accepts(2, slot);
    assert_eq!(lead.take(), [(3, "asked")]);
    lead.wait(Settings::DEFAULT.resend_nanos, 1);
    assert_eq!(lead.take(), [(3, "asked")]);
    lead.accepts(3, slot);
    lead.wait(16 * Settings::DEFAULT.resend_nanos, 1);
    assert_eq!(lead.take(), [], "the group is idle");
}

#[test]
fn who_supports_anew_is_asked_at_once() {
    let mut lead = Lead::new(Settings::DEFAULT);
    let before = lead.last();
    lead.write();
    lead.accepts(2, before);
    lead.accepts(3, before);
    lead.take();
    lead.wait(MILLI, 2);
    assert_eq!(lead.take(), [(2, "asked"), (3, "asked")], "the lease may rest on the answers");
    lead.say(Input::Tick);
    assert_eq!(lead.take(), []);
}

#[test]
fn a_member_answers_what_it_is_told_if_it_is_asked_or_misses_something() {
    let liveness = supported();
    let mut member = Replica::bootstrap(MemberId(2), Settings::DEFAULT, founders(3));
    let (ballot, trim) = (Ballot::of(1, MemberNumber(1)), Slot(0));
    let accept = Message::Accept { ballot, first: Slot(1), chosen: Slot(0), trim };
    let effects = step(&mut member, &liveness, 0, message(1, &accept, &[data(1)]));
    step(&mut member, &liveness, 0, Input::Persisted { upto: last_persist(&effects) });
    let mut gap_of = |last: u64, ask: bool| {
        let told = Message::Chosen { ballot, chosen: Slot(1), last: Slot(last), trim, ask };
        let effects = step(&mut member, &liveness, 0, message(1, &told, &[]));
        match sent(&effects)[..] {
            [] => None,
            [&Message::Accepted { gap, chosen: Slot(1), .. }] => Some(gap),
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!(gap_of(1, false), None);
    assert_eq!(gap_of(1, true), Some(false));
    assert_eq!(gap_of(2, false), Some(true));
}

#[test]
fn what_the_next_acknowledgement_says_is_not_asked_for() {
    let mut lead = Lead::new(Settings::DEFAULT);
    for _ in 0..20 {
        let before = lead.last();
        lead.write();
        lead.accepts(2, before);
        lead.accepts(3, before);
        let slot = lead.last();
        lead.say(Input::Applied { slot });
        lead.wait(10 * MILLI, 1);
    }
    let sent = lead.take();
    assert!(sent.iter().all(|(_, what)| *what != "asked"), "{sent:?}");
    assert_eq!(sent.len(), 20 * 4);
}

#[test]
fn what_is_told_does_not_put_off_what_waits_for_an_acknowledgement() {
    // Nothing more fits the window of a member whose acknowledgement is lost; the other one's go on.
    let (peer_window_slots, catch_up_slots) = (1, 1);
    let settings = Settings { peer_window_slots, catch_up_slots, ..Settings::DEFAULT };
    let mut lead = Lead::new(settings);
    let mut repeated = false;
    for _ in 0..12 {
        let before = lead.last();
        lead.write();
        lead.accepts(2, before);
        let slot = lead.last();
        lead.say(Input::Applied { slot });
        lead.wait(10 * MILLI, 1);
        let to_third = lead.take().into_iter().filter(|(to, what)| *to == 3 && *what == "entries");
        repeated |= lead.now > 10 * MILLI && to_third.count() > 0;
    }
    assert!(repeated, "the entry goes again after the time that it takes to be missed");
}
