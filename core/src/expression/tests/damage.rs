//! Whatever bytes arrive, `check` answers; and what it lets pass runs without error or panic.

use proptest::prelude::*;
use proptest::sample::Index;
use rkyv::rancor::Error as ArchiveError;

use super::condition::any_condition;
use super::update::any_update;
use super::*;
use crate::expression::ExpressionError;
use crate::expression::update::Verb;

fn damage(bytes: &mut AlignedVec, flips: &[(Index, u8)]) {
    let length = bytes.len();
    for (at, with) in flips {
        bytes[at.index(length)] ^= with;
    }
}

fn any_flips() -> impl Strategy<Value = Vec<(Index, u8)>> {
    // Small changes keep the archive readable, so that more of it reaches `check`.
    let with = prop_oneof![1u8..8, Just(0xff), any::<u8>()];
    prop::collection::vec((any::<Index>(), with), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_conditions_are_refused_or_run(
        condition in any_condition(),
        flips in any_flips(),
        item in any_item(),
    ) {
        let mut bytes = archive_condition(&condition);
        damage(&mut bytes, &flips);
        if let Ok(condition) = rkyv::access::<ArchivedCondition, ArchiveError>(&bytes)
            && condition.check().is_ok()
        {
            with_item(&item, |item| condition.evaluate(Some(item)).unwrap());
            condition.evaluate(None).unwrap();
        }
    }

    #[test]
    fn damaged_updates_are_refused_or_run(
        update in any_update(),
        flips in any_flips(),
        item in any_item(),
    ) {
        let mut bytes = archive_update(&update);
        damage(&mut bytes, &flips);
        if let Ok(update) = rkyv::access::<ArchivedUpdate, ArchiveError>(&bytes)
            && update.check(&["p"]).is_ok()
        {
            with_item(&item, |item| {
                let mut out = Vec::new();
                match update.apply_into(Some(item), item, &mut out) {
                    Ok(updated) => drop(ItemRef::validate(updated.unwrap()).unwrap()),
                    Err(error) => assert!(!error.is_malformed(), "{error}"),
                }
                update.updated(item).unwrap();
            });
        }
    }

    #[test]
    fn random_bytes_are_never_fatal(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut aligned = AlignedVec::<16>::new();
        aligned.extend_from_slice(&bytes);
        if let Ok(condition) = rkyv::access::<ArchivedCondition, ArchiveError>(&aligned) {
            let _ = condition.check();
        }
        if let Ok(update) = rkyv::access::<ArchivedUpdate, ArchiveError>(&aligned) {
            let _ = update.check(&[]);
        }
    }
}

#[test]
fn malformed_programs_get_their_named_error() {
    use crate::expression::{ConditionExpression, UpdateExpression};
    let condition = || {
        let both = ConditionExpression::exists("a").and(ConditionExpression::exists("b"));
        both.compile().unwrap()
    };
    let refused = |change: fn(&mut Condition)| {
        let mut condition = condition();
        change(&mut condition);
        with_condition(&condition, |condition| condition.check().unwrap_err())
    };
    assert_eq!(refused(|c| c.tests.clear()), ExpressionError::Empty);
    let jump = |test, target| ExpressionError::BadJump { test, target, count: 2 };
    assert_eq!(refused(|c| c.tests[0].if_true = 0), jump(0, 0));
    assert_eq!(refused(|c| c.tests[1].if_false = 0), jump(1, 0));
    assert_eq!(refused(|c| c.tests[0].if_false = 2), jump(0, 2));
    assert_eq!(refused(|c| drop(c.paths.pop())), ExpressionError::BadIndex { index: 1, count: 1 });
    assert!(refused(|c| drop(c.paths.pop())).is_malformed());

    let copy = UpdateExpression::new().set("a", path("x")).set("b", path("y")).compile().unwrap();
    for (index, (first, second)) in [(0, 0), (1, 1), (1, 0)].into_iter().enumerate() {
        let mut shared = copy.clone();
        shared.actions[0].verb = Verb::Set { operand: first };
        shared.actions[1].verb = Verb::Set { operand: second };
        let error = with_update(&shared, |update| update.check(&[]).unwrap_err());
        assert!(matches!(error, ExpressionError::MisplacedOperand { .. }), "{index}: {error}");
    }
    let mut unused = copy;
    drop(unused.actions.pop());
    let error = with_update(&unused, |update| update.check(&[]).unwrap_err());
    assert_eq!(error, ExpressionError::MisplacedOperand { index: 1 });

    let update = UpdateExpression::new().remove("a").remove("b").compile().unwrap();
    let mut swapped = update;
    swapped.actions.swap(0, 1);
    let error = with_update(&swapped, |update| update.check(&[]).unwrap_err());
    assert_eq!(error, ExpressionError::OutOfOrder { index: 1 });
}
