//! What goes again to a member that missed something: all of it, once, and soon.

use std::collections::VecDeque;

use super::super::{
    Effect, EntryKind, MemberId, Message, Offered, Payload, Replica, RoleName, Settings,
};
use super::scenarios::{data, founders, last_persist, message, new_leader, step};
use super::sim::MILLI;
use crate::ids::Slot;
use crate::liveness::{Epoch, Liveness, LivenessSettings, PairMessage, Peer};
use crate::paxos::{Handle, Input};
use crate::time::Nanos;

/// Of a shard that the others support.
pub(super) fn supported() -> Liveness {
    let mut liveness = Liveness::new(Peer(0), 1, LivenessSettings::DEFAULT, true, Nanos(0));
    for peer in [1, 2].map(Peer) {
        liveness.add_peer(peer, Nanos(0));
        let epoch = Epoch { incarnation: 1, count: 1 };
        let ack = PairMessage::Ack { incarnation: 1, echo: Nanos(0), epoch };
        liveness.receive(peer, &ack, Nanos(0), &mut Vec::new());
    }
    liveness
}

#[test]
fn what_was_lost_with_a_connection_goes_again_as_soon_as_there_is_another() {
    let liveness = supported();
    let entries_to = |id: u64, effects: &[Effect]| {
        let to_it = effects.iter().filter(|effect| {
            matches!(effect, Effect::Send { to: MemberId(to), message: Message::Accept { .. }, .. } if *to == id)
        });
        to_it.count()
    };
    let (mut leader, effects) = new_leader(&liveness, None);
    assert_eq!(entries_to(2, &effects), 1);
    let effects = step(&mut leader, &liveness, MILLI, Input::Tick);
    assert_eq!(entries_to(2, &effects), 0, "it waits for an answer");
    leader.reconnected(Peer(1));
    let effects = step(&mut leader, &liveness, MILLI, Input::Tick);
    assert_eq!((entries_to(2, &effects), entries_to(3, &effects)), (1, 0));
    let effects = step(&mut leader, &liveness, 2 * MILLI, Input::Tick);
    assert_eq!(entries_to(2, &effects), 0, "once");
}

/// A leader of three that serves, the member beside it, and what goes from one to the other.
struct Pair {
    leader: Replica,
    follower: Replica,
    liveness: Liveness,
    now: u64,
    /// Entries that the leader has sent to the follower, repetitions included.
    sent_entries: u64,
    written: u64,
}

/// An Accept: its message and its entries.
type Accepts = Vec<(Message, Vec<Offered<'static>>)>;

impl Pair {
    fn new() -> Pair {
        let liveness = supported();
        let (leader, effects) = new_leader(&liveness, None);
        let follower = Replica::bootstrap(MemberId(2), Settings::DEFAULT, founders(3));
        let mut pair = Pair { leader, follower, liveness, now: 0, sent_entries: 0, written: 0 };
        let first = pair.accepts(&effects);
        let answers = pair.deliver(first);
        assert!(pair.answer(answers).is_empty());
        let slot = pair.leader.figures().chosen_slot;
        let applied = step(&mut pair.leader, &pair.liveness, 0, Input::Applied { slot });
        assert!(applied.iter().any(|effect| matches!(effect, Effect::Leads { .. })));
        pair
    }

    /// What goes to the follower, of what the leader asks for. Its disk is fast.
    fn accepts(&mut self, effects: &[Effect]) -> Accepts {
        let mut accepts = Vec::new();
        for effect in effects {
            let Effect::Send { to: MemberId(2), message, last } = effect else { continue };
            let Message::Accept { first, .. } = message else { continue };
            let entries = (first.0..=last.0).map(|slot| {
                let held = self.leader.held(Slot(slot));
                match held.map_or(EntryKind::Data, |held| held.kind) {
                    EntryKind::Data => data(slot),
                    _ => Offered { handle: Handle::NONE, payload: Payload::NoOp, ..data(slot) },
                }
            });
            let entries: Vec<_> = entries.collect();
            self.sent_entries += entries.len() as u64;
            accepts.push((message.clone(), entries));
        }
        accepts
    }

    /// One entry in one message.
    fn write(&mut self) -> Accepts {
        self.written += 1;
        self.leader.propose(Handle(1), 10).expect("it serves");
        let mut effects = step(&mut self.leader, &self.liveness, self.now, Input::Tick);
        let upto = last_persist(&effects);
        effects.extend(step(&mut self.leader, &self.liveness, self.now, Input::Persisted { upto }));
        self.accepts(&effects)
    }

    /// What the follower answers.
    fn deliver(&mut self, accepts: Accepts) -> Vec<Message> {
        let mut answers = Vec::new();
        for (accept, entries) in accepts {
            let liveness = Liveness::new(Peer(1), 1, LivenessSettings::DEFAULT, true, Nanos(0));
            let follower = &mut self.follower;
            let mut effects = step(follower, &liveness, self.now, message(1, &accept, &entries));
            let is_persist = |effect: &Effect| matches!(effect, Effect::PersistEntries { .. });
            if effects.iter().any(is_persist) {
                let upto = last_persist(&effects);
                effects.extend(step(follower, &liveness, self.now, Input::Persisted { upto }));
            }
            answers.extend(effects.into_iter().filter_map(|effect| match effect {
                Effect::Send { message, .. } => Some(message),
                _ => None,
            }));
        }
        answers
    }

    /// What the leader sends upon the answers.
    fn answer(&mut self, answers: Vec<Message>) -> Accepts {
        let mut accepts = Vec::new();
        for answer in answers {
            let input = message(2, &answer, &[]);
            let effects = step(&mut self.leader, &self.liveness, self.now, input);
            accepts.extend(self.accepts(&effects));
        }
        accepts
    }

    fn held(&self) -> Slot {
        self.follower.figures().last_slot
    }

    fn last(&self) -> Slot {
        assert_eq!(self.leader.figures().role, RoleName::Leading);
        self.leader.figures().last_slot
    }
}

#[test]
fn one_lost_message_costs_one_repetition_however_many_messages_follow_it() {
    let mut pair = Pair::new();
    // Twice: what was learned from one loss must not hide the next.
    for round in 1..=2 {
        pair.sent_entries = 0;
        let lost = pair.write();
        assert_eq!(lost.len(), 1);
        let pipeline: Accepts = (0..19).flat_map(|_| pair.write()).collect();
        assert_eq!(pair.sent_entries, 20);
        let answers = pair.deliver(pipeline);
        assert_eq!(answers.len(), 19, "each message behind the loss is answered with a gap");
        pair.now += MILLI;
        let again = pair.answer(answers);
        assert_eq!(pair.sent_entries, 40, "round {round}: the window went once more");
        let answers = pair.deliver(again);
        assert_eq!(pair.held(), pair.last());
        pair.now += MILLI;
        assert!(pair.answer(answers).is_empty());
        assert_eq!(pair.leader.figures().chosen_slot, pair.last());
    }
}

/// One entry a millisecond, ten milliseconds to the answer, and the first is lost; so is what goes again
/// before `until`. When something went again, in milliseconds.
fn repetitions(until: u64, answers_lost: impl Fn(u64) -> bool) -> Vec<u64> {
    let mut pair = Pair::new();
    let (mut repetitions, mut on_their_way) = (Vec::new(), VecDeque::new());
    drop(pair.write());
    for millis in 1..=until + 100 {
        pair.now = millis * MILLI;
        let accepts = pair.write();
        assert_eq!(accepts.len(), 1);
        let answers = pair.deliver(accepts);
        on_their_way.push_back(if answers_lost(millis) { Vec::new() } else { answers });
        if on_their_way.len() <= 10 {
            continue;
        }
        let answers = on_their_way.pop_front().expect("ten are");
        let again = pair.answer(answers);
        if !again.is_empty() {
            repetitions.push(millis);
            if millis >= until {
                let answers = pair.deliver(again);
                on_their_way.back_mut().expect("just added").extend(answers);
            }
        }
    }
    assert!(pair.last().0 - pair.leader.progress_of(MemberId(2)).unwrap().durable.0 <= 10);
    assert_eq!(pair.held(), pair.last());
    repetitions
}

#[test]
fn a_repetition_that_is_lost_too_goes_again_after_a_round_trip_while_writing_goes_on() {
    let times = repetitions(100, |_| false);
    let round_trips: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(times[0] == 11 && round_trips.iter().all(|millis| (10..=12).contains(millis)));
    assert!((100..112).contains(times.last().unwrap()), "{times:?}");
    // Where answers are lost too, nobody waits for as many as there would have been.
    let times = repetitions(200, |millis| millis > 11 && millis <= 20);
    let resend_millis = Settings::DEFAULT.resend_nanos / MILLI;
    assert!(times[1] - times[0] <= resend_millis + 1, "{times:?}");
    assert!((200..200 + resend_millis + 1).contains(times.last().unwrap()), "{times:?}");
}

#[test]
fn a_repetition_that_is_lost_goes_again_by_the_timer_when_nothing_follows() {
    let mut pair = Pair::new();
    let mut accepts = pair.write();
    accepts.extend(pair.write());
    let answers = pair.deliver(accepts.split_off(1));
    assert_eq!(pair.answer(answers).len(), 1, "lost");
    let due = pair.leader.next_due().expect("it waits for an answer");
    pair.now = due.0;
    assert!(pair.now <= 2 * Settings::DEFAULT.resend_nanos);
    let effects = step(&mut pair.leader, &pair.liveness, pair.now, Input::Tick);
    let again = pair.accepts(&effects);
    let answers = pair.deliver(again);
    pair.answer(answers);
    assert_eq!(pair.held(), pair.last());
}

#[test]
fn late_answers_neither_repeat_the_window_nor_hold_anything_back() {
    let mut pair = Pair::new();
    drop(pair.write());
    let pipeline: Accepts = (0..5).flat_map(|_| pair.write()).collect();
    let late = pair.deliver(pipeline);
    let again = pair.answer(late[..1].to_vec());
    let answers = pair.deliver(again);
    pair.answer(answers);
    let before = pair.sent_entries;
    // They come after what they miss was acknowledged, the oldest last.
    let others: Vec<_> = late[1..].iter().rev().cloned().collect();
    assert!(pair.answer(others).is_empty());
    assert_eq!(pair.sent_entries, before);
    // One that the network repeats costs one repetition, which costs no other.
    let again = pair.answer(late[..1].to_vec());
    let answers = pair.deliver(again);
    assert!(pair.answer(answers).is_empty());
    // What they claimed less is asked for, not taken for granted.
    for _ in 0..3 {
        let Some(due) = pair.leader.next_due() else { break };
        pair.now = due.0;
        let effects = step(&mut pair.leader, &pair.liveness, pair.now, Input::Tick);
        let again = pair.accepts(&effects);
        let answers = pair.deliver(again);
        pair.answer(answers);
    }
    let progress = pair.leader.progress_of(MemberId(2)).expect("it leads");
    assert_eq!(progress.durable, pair.last());
}
