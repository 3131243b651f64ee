//! The ballot of a hand-over's successor is in the logs before it is asked for.

use super::scenarios::{
    accept, data, last_persist, message, only_promised, prepare, sent, step, supporter,
};
use super::sim::MILLI;
use crate::ids::{Ballot, Slot};
use crate::liveness::{Liveness, LivenessSettings, Peer};
use crate::paxos::{Effect, Input, MemberId, MemberNumber, Message, Refusal, Replica, Settings};
use crate::time::Nanos;

#[test]
fn whose_ballot_is_reserved_promises_it_without_waiting_for_the_log() {
    let leads = Ballot::of(1, MemberNumber(1));
    for (successor, is_durable) in [(3, true), (3, false), (2, true), (2, false)] {
        let (mut member, liveness, now) = supporter(None, None);
        let next = Ballot::of(2, MemberNumber(successor));
        // Only the leader that it follows may say so.
        for (from, ballot) in [(2, leads), (1, Ballot::of(1, MemberNumber(2)))] {
            let reserve = Message::Reserve { ballot, next };
            let effects = step(&mut member, &liveness, now, message(from, &reserve, &[]));
            assert_eq!(effects, []);
        }
        let reserve = Message::Reserve { ballot: leads, next };
        step(&mut member, &liveness, now, message(1, &reserve, &[]));
        let effects = step(&mut member, &liveness, now, message(1, &reserve, &[]));
        assert_eq!(effects, [], "it is on its way to the log");
        // It goes on under its leader.
        let effects = step(&mut member, &liveness, now, message(1, &accept(1, 1, 2), &[data(8)]));
        let upto = last_persist(&effects);
        if is_durable {
            let effects = step(&mut member, &liveness, now, Input::Persisted { upto });
            assert!(matches!(sent(&effects)[..], [Message::Accepted { durable: Slot(2), .. }]));
        }
        let stands = MemberId(successor.into());
        let relinquish = Message::Relinquish { ballot: leads, successor: Some(stands) };
        let mut effects = step(&mut member, &liveness, now, message(1, &relinquish, &[]));
        if successor == 2 {
            assert!(sent(&effects).is_empty());
            effects = step(&mut member, &liveness, now, message(2, &prepare(2, 2), &[]));
        }
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::PersistPromise { .. })));
        if !is_durable {
            assert!(sent(&effects).is_empty());
            effects = step(&mut member, &liveness, now, Input::Persisted { upto });
        }
        match sent(&effects)[..] {
            [Message::Promise { ballot, .. }] => {
                assert_eq!((*ballot, successor), (next, 2))
            }
            [Message::Prepare { ballot, .. }, Message::Prepare { .. }] => {
                assert_eq!((*ballot, successor), (next, 3));
            }
            _ => panic!("{effects:?}"),
        }
    }
}

#[test]
fn a_reserved_ballot_that_a_restart_finds_in_the_log_was_promised_to_nobody() {
    let next = Ballot::of(2, MemberNumber(2));
    let mut member =
        Replica::recover_with_bug(MemberId(3), Settings::DEFAULT, only_promised(next), None);
    let mut liveness = Liveness::new(Peer(2), 2, LivenessSettings::DEFAULT, false, Nanos(0));
    (0..2).for_each(|peer| liveness.add_peer(Peer(peer), Nanos(0)));
    let over = liveness.promises_from().0;
    // It may have told another of its support since the reservation.
    let effects = step(&mut member, &liveness, over - 1, message(2, &prepare(2, 2), &[]));
    assert!(matches!(sent(&effects)[..], [Message::Refused { reason: Refusal::Supporting, .. }]));
    let effects = step(&mut member, &liveness, over, message(2, &prepare(2, 2), &[]));
    assert!(matches!(sent(&effects)[..], [Message::Promise { .. }]));
}

#[test]
fn who_stands_after_a_hand_over_that_failed_stands_above_what_was_reserved() {
    let (mut member, liveness, now) = supporter(None, None);
    let leads = Ballot::of(1, MemberNumber(1));
    let reserve = Message::Reserve { ballot: leads, next: Ballot::of(2, MemberNumber(2)) };
    step(&mut member, &liveness, now, message(1, &reserve, &[]));
    let relinquish = Message::Relinquish { ballot: leads, successor: None };
    step(&mut member, &liveness, now, message(1, &relinquish, &[]));
    let mut later = Vec::new();
    for millis in 0..100 {
        later.extend(step(&mut member, &liveness, now + millis * MILLI, Input::Tick));
    }
    let canvass = sent(&later).into_iter().find_map(|message| match message {
        Message::Canvass { ballot, .. } => Some(*ballot),
        _ => None,
    });
    assert_eq!(canvass, Some(Ballot::of(3, MemberNumber(3))));
}
