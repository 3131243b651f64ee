//! What a candidate may conclude when the log of a member is damaged.

use super::super::ballot::MemberNumber;
use super::super::message::Run;
use super::super::{
    At, Change, Configuration, ConfigurationAt, EntryKind, Handle, Held, Input, MemberId, Message,
    PromiseReport, Recovered, Replica, RoleName, Settings,
};
use super::scenarios::{alone, founders, last_persist, message, step};
use crate::ids::{Ballot, Slot};
use crate::time::Nanos;

/// Member 1 after a restart, with `entries` behind slot 3, up to which everything is chosen and applied.
fn recovered(
    promised: Ballot,
    configurations: Vec<ConfigurationAt>,
    entries: Vec<Held>,
) -> Replica {
    let recovered = Recovered {
        promised,
        chosen: Slot(3),
        chosen_origin: promised,
        applied: Slot(3),
        checkpoint: Slot(0),
        trimmed: Slot(0),
        configurations,
        entries,
    };
    Replica::recover(MemberId(1), Settings::DEFAULT, recovered)
}

#[test]
fn a_damaged_range_is_reported_unknown_and_stops_a_candidate_without_a_knowing_quorum() {
    let ballot = Ballot::of(1, MemberNumber(2));
    let held = |kind| Held { ballot, origin: ballot, handle: Handle(1), bytes: 1, kind };
    let founded = vec![ConfigurationAt { slot: Slot(0), configuration: founders(3) }];
    let entries = vec![held(EntryKind::Data), held(EntryKind::Unknown)];
    let mut member = recovered(ballot, founded, entries);
    let liveness = alone();
    let mut effects = Vec::new();
    member.stand(At { now: Nanos(0), liveness: &liveness, random: 0 }, &mut effects);
    let upto = last_persist(&effects);
    step(&mut member, &liveness, 0, Input::Persisted { upto });
    let mine = member.figures().promised;
    let report = |runs| PromiseReport {
        epoch: None,
        chosen: Slot(3),
        chosen_origin: ballot,
        trimmed: Slot(0),
        runs,
        configurations: vec![ConfigurationAt { slot: Slot(0), configuration: founders(3) }],
    };
    // Itself and one other: only one of them knows slot 5.
    let promise = Message::Promise { ballot: mine, report: Box::new(report(Vec::new())) };
    step(&mut member, &liveness, 0, message(2, &promise, &[]));
    assert_eq!(member.figures().role, RoleName::Preparing);
    // The third knows it too: two of three that know slot 5 to be empty are a quorum.
    step(&mut member, &liveness, 0, message(3, &promise, &[]));
    assert_eq!(member.figures().role, RoleName::Leading);
}

/// Four members, or three of which one is being removed by the entry in slot 4, which the candidate,
/// member 1, holds like everyone who is not damaged. Of slots 1 to 3 everybody knows that they are chosen.
fn candidate(
    founded: Configuration,
    pending: Option<Configuration>,
) -> (Replica, Vec<ConfigurationAt>) {
    let ballot = Ballot::of(1, MemberNumber(1));
    let kind = if pending.is_some() { EntryKind::Configuration } else { EntryKind::Data };
    let first = ConfigurationAt { slot: Slot(0), configuration: founded };
    let second = pending.map(|configuration| ConfigurationAt { slot: Slot(4), configuration });
    let configurations: Vec<_> = [first].into_iter().chain(second).collect();
    let entries = vec![Held { ballot, origin: ballot, handle: Handle(1), bytes: 1, kind }];
    let mut member = recovered(ballot, configurations.clone(), entries);
    let mut effects = Vec::new();
    member.stand(At { now: Nanos(0), liveness: &alone(), random: 0 }, &mut effects);
    step(&mut member, &alone(), 0, Input::Persisted { upto: last_persist(&effects) });
    assert_eq!(member.figures().role, RoleName::Preparing);
    (member, configurations)
}

/// What the candidate is after these promised; `unknown` is the last slot of a member's damaged range.
fn after_promises(
    (member, configurations): &(Replica, Vec<ConfigurationAt>),
    promises: &[(u64, Option<u64>)],
) -> RoleName {
    let mut member = member.clone();
    let ballot = Ballot::of(1, MemberNumber(1));
    for &(from, unknown) in promises {
        let mut run = Run {
            first: Slot(4),
            last: Slot(4),
            ballot,
            origin: ballot,
            begins_lead: false,
            unknown: false,
        };
        if let Some(last) = unknown {
            (run.last, run.unknown) = (Slot(last), true);
        }
        let known = if unknown.is_some() { 1 } else { configurations.len() };
        let report = PromiseReport {
            epoch: None,
            chosen: Slot(3),
            chosen_origin: ballot,
            trimmed: Slot(0),
            runs: vec![run],
            configurations: configurations[..known].to_vec(),
        };
        let (ballot, report) = (member.figures().promised, Box::new(report));
        let promise = Message::Promise { ballot, report };
        step(&mut member, &alone(), 0, message(from, &promise, &[]));
    }
    member.figures().role
}

#[test]
fn a_removal_to_two_of_which_one_is_damaged_is_decided_by_those_that_know() {
    let removed = founders(3).changed(Change::Remove { id: MemberId(3) }, 3).unwrap();
    let candidate = candidate(founders(3), Some(removed));
    // Slot 4 may have been chosen by 2 and 3, as something else: 3 would know it.
    assert_eq!(after_promises(&candidate, &[(2, Some(9))]), RoleName::Preparing);
    // What {1, 2} chose after slot 4 is here; but 2 must promise to choose nothing more below.
    assert_eq!(after_promises(&candidate, &[(3, None)]), RoleName::Preparing);
    assert_eq!(after_promises(&candidate, &[(2, Some(9)), (3, None)]), RoleName::Leading);
    // Nobody but 2 and 3 knows what they accepted.
    let unknown = after_promises(&candidate, &[(2, Some(9)), (3, Some(4))]);
    assert_eq!(unknown, RoleName::Preparing);
}

#[test]
fn of_four_members_two_that_know_and_one_that_promises_are_enough() {
    let candidate = candidate(founders(4), None);
    // Members 2, 3 and 4 may have chosen something: any three have one of any two.
    assert_eq!(after_promises(&candidate, &[(2, None)]), RoleName::Preparing);
    assert_eq!(after_promises(&candidate, &[(2, None), (3, Some(9))]), RoleName::Leading);
    let unknown = after_promises(&candidate, &[(2, Some(9)), (3, Some(9)), (4, Some(9))]);
    assert_eq!(unknown, RoleName::Preparing);
}
