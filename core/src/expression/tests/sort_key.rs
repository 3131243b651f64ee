//! Sort-key conditions.

use proptest::prelude::*;
use rkyv::rancor::Error as ArchiveError;

use crate::expression::{ArchivedSortKeyCondition, ExpressionError, SortKeyCondition, UpperEdge};
use crate::limits;

fn with<R>(condition: &SortKeyCondition, f: impl FnOnce(&ArchivedSortKeyCondition) -> R) -> R {
    let bytes = rkyv::to_bytes::<ArchiveError>(condition).unwrap();
    f(rkyv::access::<ArchivedSortKeyCondition, ArchiveError>(&bytes).unwrap())
}

fn plain(condition: &SortKeyCondition, key: &[u8]) -> bool {
    match condition {
        SortKeyCondition::Equal(k) => key == k,
        SortKeyCondition::Less(k) => key < k.as_slice(),
        SortKeyCondition::LessOrEqual(k) => key <= k.as_slice(),
        SortKeyCondition::Greater(k) => key > k.as_slice(),
        SortKeyCondition::GreaterOrEqual(k) => key >= k.as_slice(),
        SortKeyCondition::Between(a, b) => key >= a.as_slice() && key <= b.as_slice(),
        SortKeyCondition::BeginsWith(prefix) => key.starts_with(prefix),
    }
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, 1, 0x7f, 0xfe, 0xff]), 1..4)
}

fn any_condition() -> impl Strategy<Value = SortKeyCondition> {
    prop_oneof![
        any_key().prop_map(SortKeyCondition::Equal),
        any_key().prop_map(SortKeyCondition::Less),
        any_key().prop_map(SortKeyCondition::LessOrEqual),
        any_key().prop_map(SortKeyCondition::Greater),
        any_key().prop_map(SortKeyCondition::GreaterOrEqual),
        any_key().prop_map(SortKeyCondition::BeginsWith),
        (any_key(), any_key())
            .prop_map(|(a, b)| { SortKeyCondition::Between(a.clone().min(b.clone()), a.max(b)) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn bounds_hold_exactly_the_keys_that_match(condition in any_condition(), key in any_key()) {
        // A partition key whose hash and bytes are as large as they get.
        let partition = [&[0xff; 8][..], &[0, 2], &[0xff, 0xff]].concat();
        let (mut lower, mut upper) = (partition.clone(), partition.clone());
        with(&condition, |condition| {
            condition.check(false).unwrap();
            condition.append_lower(&mut lower);
            condition.append_upper(&mut upper);
            prop_assert_eq!(condition.matches(&key), plain_of(condition, &key));
            Ok(())
        })?;
        let encoded = [&partition[..], &key].concat();
        let inside = lower <= encoded && encoded < upper;
        prop_assert_eq!(inside, plain(&condition, &key), "{:?} {:?} {:?}", condition, lower, upper);
        // Nothing of the next partition key is inside.
        let next = [&[0xff; 8][..], &[0, 3, 0, 0, 0]].concat();
        prop_assert!(upper <= next);
    }
}

fn plain_of(condition: &ArchivedSortKeyCondition, key: &[u8]) -> bool {
    plain(&rkyv::deserialize::<SortKeyCondition, ArchiveError>(condition).unwrap(), key)
}

#[test]
fn an_unbounded_upper_edge_ends_with_the_partition_key() {
    let mut upper = vec![1, 2, 0, 1, 0xff];
    UpperEdge::Unbounded.append_to(&mut upper);
    assert_eq!(upper, [1, 2, 0, 2]);
}

#[test]
fn operands_outside_the_limits_are_refused() {
    use SortKeyCondition::{BeginsWith, Between, Equal, Less};
    let max = limits::SORT_KEY_BYTES_MAX;
    let check = |condition, numeric| with(&condition, |condition| condition.check(numeric));
    assert_eq!(check(Equal(vec![1; max]), true), Ok(()));
    for found in [0, max + 1] {
        let error = Err(ExpressionError::SortKeyBytes { found, max });
        assert_eq!(check(Less(vec![1; found]), false), error);
        assert_eq!(check(Between(vec![1], vec![1; found]), false), error);
    }
    assert_eq!(check(Between(vec![2], vec![1]), false), Err(ExpressionError::BetweenOrder));
    assert_eq!(check(BeginsWith(vec![2]), false), Ok(()));
    assert_eq!(check(BeginsWith(vec![2]), true), Err(ExpressionError::SortKeyBeginsWithNumber));
}
