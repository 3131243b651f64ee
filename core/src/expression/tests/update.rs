//! Updates: DynamoDB's semantics case by case, and against an oracle whose lists have gaps.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::expression::{
    ExpressionError, Operator, SetValue, UpdateExpression, UpdateOperand, ValueType,
};
use crate::item::Map;

type Draft = UpdateExpression;

fn new() -> Draft {
    Draft::new()
}

fn key() -> Item {
    item([("p", n(0))])
}

fn keyed<const N: usize>(attributes: [(&str, Value); N]) -> Item {
    item(attributes).with("p", n(0))
}

fn apply(draft: Draft, old: Option<&Item>) -> Result<Option<Item>, ExpressionError> {
    let update = draft.compile()?;
    with_update(&update, |update| {
        update.check(&["p"])?;
        with_item(&key(), |key| {
            let old = old.map(|old| old.to_bytes().unwrap());
            let old = old.as_deref().map(|old| ItemRef::validate(old).unwrap());
            let mut out = vec![9; 5];
            let updated = update.apply_into(old, key, &mut out)?;
            if let Some(updated) = updated {
                ItemRef::validate(updated).expect("an updated item is valid");
            }
            update.apply(old, key)
        })
    })
}

fn updated(draft: Draft, old: &Item) -> Item {
    apply(draft, Some(old)).unwrap().unwrap()
}

fn p(text: &str) -> UpdateOperand {
    UpdateOperand::Path(path(text))
}

#[test]
fn set_replaces_adds_and_copies() {
    let old = keyed([("a", n(3)), ("c", s("x"))]);
    assert_eq!(updated(new().set("a", n(4)), &old), keyed([("a", n(4)), ("c", s("x"))]));
    assert_eq!(
        updated(new().set("b", m([])).set("z", p("c")), &old),
        keyed([("a", n(3)), ("b", m([])), ("c", s("x")), ("z", s("x"))])
    );
    assert_eq!(apply(new().set("b", p("q")), Some(&old)), Err(ExpressionError::MissingAttribute));
    assert_eq!(updated(new(), &old), old);
}

#[test]
fn reads_see_the_item_before_the_update() {
    let old = keyed([("a", n(1)), ("b", n(2))]);
    let swapped = updated(new().set("a", p("b")).set("b", p("a")), &old);
    assert_eq!(swapped, keyed([("a", n(2)), ("b", n(1))]));
    let moved = updated(new().remove("a").set("c", p("a")), &old);
    assert_eq!(moved, keyed([("b", n(2)), ("c", n(1))]));
}

#[test]
fn arithmetic_takes_numbers_only() {
    let old = keyed([("a", n(2)), ("s", s("x"))]);
    let value = |set: SetValue| updated(new().set("r", set), &old).0["r"].clone();
    assert_eq!(value(SetValue::sum(p("a"), n(3))), n(5));
    assert_eq!(value(SetValue::difference(n(3), p("a"))), n(1));
    assert_eq!(value(SetValue::sum(UpdateOperand::if_not_exists("q", n(7)), n(1))), n(8));
    let failure = |set: SetValue| apply(new().set("r", set), Some(&old)).unwrap_err();
    assert_eq!(
        failure(SetValue::sum(s("dog"), n(3))),
        ExpressionError::IncorrectOperandType { operator: Operator::Plus, operand: ValueType::S }
    );
    assert_eq!(
        failure(SetValue::difference(n(1), l([]))),
        ExpressionError::IncorrectOperandType { operator: Operator::Minus, operand: ValueType::L }
    );
    assert_eq!(failure(SetValue::sum(p("s"), n(3))), ExpressionError::OperandDataType);
    assert_eq!(failure(SetValue::sum(p("q"), n(3))), ExpressionError::MissingAttribute);
    let largest = || Value::N("9.9E125".parse().unwrap());
    assert_eq!(
        failure(SetValue::sum(largest(), largest())),
        ExpressionError::NumberOverflow { operator: Operator::Plus }
    );
}

#[test]
fn list_append_concatenates_in_either_order() {
    let old = keyed([("a", l([s("hi"), n(2)])), ("n", n(1))]);
    let value = |set: SetValue| updated(new().set("a", set), &old).0["a"].clone();
    assert_eq!(value(SetValue::list_append(p("a"), l([n(4)]))), l([s("hi"), n(2), n(4)]));
    assert_eq!(value(SetValue::list_append(l([n(4)]), p("a"))), l([n(4), s("hi"), n(2)]));
    let start = UpdateOperand::if_not_exists("q", l([]));
    assert_eq!(value(SetValue::list_append(start, l([n(1)]))), l([n(1)]));
    let failure = |set: SetValue| apply(new().set("a", set), Some(&old)).unwrap_err();
    assert_eq!(failure(SetValue::list_append(p("n"), l([]))), ExpressionError::OperandDataType);
    assert_eq!(failure(SetValue::list_append(p("q"), l([]))), ExpressionError::MissingAttribute);
    assert_eq!(
        failure(SetValue::list_append(p("a"), s("hi"))),
        ExpressionError::IncorrectOperandType {
            operator: Operator::ListAppend,
            operand: ValueType::S
        }
    );
}

#[test]
fn if_not_exists_takes_the_first_that_exists() {
    let old = keyed([("a", n(2))]);
    let value = |set: UpdateOperand| updated(new().set("r", set), &old).0["r"].clone();
    assert_eq!(value(UpdateOperand::if_not_exists("a", n(9))), n(2));
    assert_eq!(value(UpdateOperand::if_not_exists("b", n(9))), n(9));
    let nested = UpdateOperand::if_not_exists("c", n(9));
    assert_eq!(value(UpdateOperand::if_not_exists("b", nested)), n(9));
    let nested = UpdateOperand::if_not_exists("a", n(9));
    assert_eq!(value(UpdateOperand::if_not_exists("b", nested)), n(2));
}

#[test]
fn add_sums_numbers_and_unites_sets_and_creates_both() {
    let old = keyed([("n", n(3)), ("s", s("hi")), ("ss", ss(["cat", "dog"])), ("l", l([n(1)]))]);
    assert_eq!(updated(new().add("n", n(4)), &old).0["n"], n(7));
    assert_eq!(updated(new().add("q", n(4)), &old).0["q"], n(4));
    assert_eq!(
        updated(new().add("ss", ss(["cat", "ant"])), &old).0["ss"],
        ss(["ant", "cat", "dog"])
    );
    assert_eq!(updated(new().add("q", ns([1])), &old).0["q"], ns([1]));
    assert_eq!(updated(new().add(path("l[7]"), n(5)), &old).0["l"], l([n(1), n(5)]));
    for (target, value) in [("s", n(1)), ("ss", ns([1])), ("l", ns([3])), ("n", ss(["a"]))] {
        let error = apply(new().add(target, value), Some(&old)).unwrap_err();
        assert_eq!(error, ExpressionError::OperandDataType, "{target}");
    }
    for (value, operand) in [(s("x"), ValueType::S), (l([n(3)]), ValueType::L)] {
        assert_eq!(
            apply(new().add("n", value), Some(&old)),
            Err(ExpressionError::IncorrectOperandType { operator: Operator::Add, operand })
        );
    }
}

#[test]
fn delete_takes_members_and_the_last_one_takes_the_set() {
    let old = keyed([("a", ss(["cat", "dog", "mouse"])), ("n", ns([1, 2])), ("b", s("hi"))]);
    assert_eq!(updated(new().delete("a", ss(["cat", "pig"])), &old).0["a"], ss(["dog", "mouse"]));
    assert_eq!(updated(new().delete("n", ns([2])), &old).0["n"], ns([1]));
    assert!(!updated(new().delete("n", ns([1, 2, 3])), &old).0.contains_key("n"));
    assert_eq!(updated(new().delete("q", ss(["cat"])), &old), old);
    assert_eq!(
        apply(new().delete("a", ns([1])), Some(&old)),
        Err(ExpressionError::OperandDataType)
    );
    assert_eq!(
        apply(new().delete("a", s("cat")), Some(&old)),
        Err(ExpressionError::IncorrectOperandType {
            operator: Operator::Delete,
            operand: ValueType::S
        })
    );
}

#[test]
fn nested_targets_change_in_place() {
    let inner = l([s("hi"), m([("x", m([("y", l([n(3), n(5), n(7)]))])), ("q", n(2))])]);
    let old = keyed([("a", m([("b", n(3)), ("c", inner)]))]);
    let after = updated(new().set(path("a.c[1].x.y[1]"), n(9)).set(path("a.z"), p("a.b")), &old);
    assert_eq!(lookup(&after, &path("a.c[1].x.y")), Some(&l([n(3), n(9), n(7)])));
    assert_eq!(lookup(&after, &path("a.z")), Some(&n(3)));
    let after = updated(new().remove(path("a.c[1].x.y[1]")).remove(path("a.c[1].q")), &old);
    assert_eq!(lookup(&after, &path("a.c[1]")), Some(&m([("x", m([("y", l([n(3), n(7)]))]))])));
    let single = keyed([("a", m([("b", n(1))])), ("l", l([n(1)]))]);
    let after = updated(new().remove(path("a.b")).remove(path("l[0]")), &single);
    assert_eq!(after, keyed([("a", m([])), ("l", l([]))]));
}

#[test]
fn list_indices_mean_positions_before_the_update() {
    let list = |values: &[i64]| keyed([("a", Value::L(values.iter().copied().map(n).collect()))]);
    let old = list(&[2, 3, 4, 5, 6, 7]);
    let draft = new().remove(path("a[1]")).set(path("a[3]"), n(17));
    assert_eq!(updated(draft, &old), list(&[2, 4, 17, 6, 7]));
    let draft = [(84, 1), (37, 2), (17, 3), (50, 4)]
        .into_iter()
        .fold(new(), |draft, (at, value)| draft.set(Path::attribute("a").element(at), n(value)));
    assert_eq!(updated(draft, &old), list(&[2, 3, 4, 5, 6, 7, 3, 2, 4, 1]));
    assert_eq!(updated(new().remove(path("a[17]")), &old), old);
    let draft = new().remove(path("a[0]")).remove(path("a[9]")).set(path("a[8]"), n(0));
    assert_eq!(updated(draft, &old), list(&[3, 4, 5, 6, 7, 0]));
}

#[test]
fn a_target_needs_a_parent_that_can_hold_it() {
    let old = keyed([("a", s("hello")), ("b", l([s("hi")])), ("m", m([]))]);
    for target in ["a.c", "b.c", "c.c", "a[0]", "c[0]", "m[0]", "m.x.y", "b[0].x", "b[1].x"] {
        for draft in [new().set(path(target), n(7)), new().remove(path(target))] {
            let error = apply(draft, Some(&old)).unwrap_err();
            assert_eq!(error, ExpressionError::InvalidPath, "{target}");
        }
    }
    let leaves = new().remove(path("m.y")).remove(path("b[7]")).remove("c");
    assert_eq!(updated(leaves, &old), old);
}

#[test]
fn an_absent_item_is_made_from_its_key_unless_nothing_is_set() {
    assert_eq!(apply(new().set("a", n(1)), None), Ok(Some(keyed([("a", n(1))]))));
    assert_eq!(apply(new().add("a", n(1)), None), Ok(Some(keyed([("a", n(1))]))));
    assert_eq!(apply(new(), None), Ok(Some(key())));
    assert_eq!(apply(new().remove("a").remove(path("x.y")), None), Ok(None));
    assert_eq!(apply(new().delete("a", ns([1])), None), Ok(None));
    let mixed = new().remove(path("x.y")).set("a", n(1));
    assert_eq!(apply(mixed, None), Ok(Some(keyed([("a", n(1))]))));
    assert_eq!(apply(new().set(path("c.c"), n(1)), None), Err(ExpressionError::InvalidPath));
    assert_eq!(apply(new().set("a", p("p")), None), Err(ExpressionError::MissingAttribute));
}

#[test]
fn key_attributes_and_overlapping_targets_are_refused() {
    let key = Err(ExpressionError::KeyAttribute { name: "p".to_owned() });
    assert_eq!(apply(new().set("p", n(1)), None), key);
    assert_eq!(apply(new().remove("p").set("a", n(1)), None), key);
    assert_eq!(apply(new().add(path("p.x"), n(1)), None), key);
    for targets in
        [["a", "a"], ["a", "a.b"], ["a.b", "a.b.c.d"], ["a[1]", "a"], ["a[1]", "a[1][1]"]]
    {
        let error = new().set(path(targets[0]), n(1)).remove(path(targets[1])).compile();
        assert!(matches!(error, Err(ExpressionError::PathsOverlap { .. })), "{targets:?}");
    }
    let error = new().set(path("a.b"), n(1)).set(path("a[1]"), n(2)).compile().unwrap_err();
    assert_eq!(
        error.to_string(),
        "two document paths conflict with each other; must remove or rewrite one of these paths; \
         path one: [a, b], path two: [a, [1]]"
    );
}

#[test]
fn an_update_beyond_the_limits_of_items_fails_and_leaves_the_buffer_alone() {
    let old = keyed([("a", b(&vec![0; 300_000]))]);
    let update = new().set("b", p("a")).compile().unwrap();
    with_update(&update, |update| {
        with_item(&old, |old| {
            let mut out = vec![1, 2, 3];
            let result = update.apply_into(Some(old), old, &mut out);
            assert!(matches!(result, Err(ExpressionError::Item(_))));
            assert_eq!(out, [1, 2, 3]);
        });
    });
    let nest = |levels: usize| (0..levels).fold(l([]), |value, _| l([value]));
    let old = keyed([("a", nest(30)), ("b", l([n(1)]))]);
    let deeper = |draft| apply(draft, Some(&old));
    assert!(deeper(new().set(path("b[0]"), p("a"))).is_ok());
    let error = deeper(new().set(path("b[0]"), nest(31))).unwrap_err();
    assert!(matches!(error, ExpressionError::Item(_)), "{error}");
}

#[test]
fn updated_attributes_are_the_targets_as_they_stand_in_an_item() {
    let old = keyed([("a", m([("b", s("dog")), ("c", l([n(1), n(2), n(3)]))])), ("d", s("cat"))]);
    let draft = new()
        .set(path("a.c[1]"), n(7))
        .set(path("a.b"), s("yo"))
        .set("e", n(1))
        .set(path("a.c[100]"), n(8))
        .remove("d");
    let after = updated(draft.clone(), &old);
    with_update(&draft.compile().unwrap(), |update| {
        let before = with_item(&old, |old| update.updated(old)).unwrap();
        let before_expected =
            item([("a", m([("b", s("dog")), ("c", l([n(2)]))])), ("d", s("cat"))]);
        assert_eq!(before, before_expected);
        let after = with_item(&after, |after| update.updated(after)).unwrap();
        let after_expected = item([("a", m([("b", s("yo")), ("c", l([n(7)]))])), ("e", n(1))]);
        assert_eq!(after, after_expected);
    });
}

/// An item whose lists may have gaps, so that an index keeps its meaning.
#[derive(Clone, Debug)]
enum Sparse {
    Leaf(Value),
    Map(BTreeMap<String, Sparse>),
    List(BTreeMap<u32, Sparse>),
}

impl Sparse {
    fn from(value: &Value) -> Sparse {
        match value {
            Value::M(map) => Sparse::map(map),
            Value::L(list) => Sparse::List((0..).zip(list.iter().map(Sparse::from)).collect()),
            leaf => Sparse::Leaf(leaf.clone()),
        }
    }

    fn map(map: &Map) -> Sparse {
        Sparse::Map(map.iter().map(|(name, value)| (name.clone(), Sparse::from(value))).collect())
    }

    fn close_ranks(self) -> Value {
        match self {
            Sparse::Leaf(value) => value,
            Sparse::Map(map) => {
                Value::M(map.into_iter().map(|(name, value)| (name, value.close_ranks())).collect())
            }
            Sparse::List(list) => Value::L(list.into_values().map(Sparse::close_ranks).collect()),
        }
    }

    fn put(&mut self, steps: &[Step], value: Option<&Value>) -> Option<()> {
        let (step, rest) = steps.split_first()?;
        match (self, step, value, rest.is_empty()) {
            (Sparse::Map(map), Step::Name(name), _, false) => map.get_mut(name)?.put(rest, value),
            (Sparse::List(list), Step::Index(at), _, false) => list.get_mut(at)?.put(rest, value),
            (Sparse::Map(map), Step::Name(name), Some(value), true) => {
                map.insert(name.clone(), Sparse::from(value));
                Some(())
            }
            (Sparse::Map(map), Step::Name(name), None, true) => {
                map.remove(name);
                Some(())
            }
            (Sparse::List(list), Step::Index(at), Some(value), true) => {
                list.insert(*at, Sparse::from(value));
                Some(())
            }
            (Sparse::List(list), Step::Index(at), None, true) => {
                list.remove(at);
                Some(())
            }
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Set(Value),
    Copy(Path),
    Remove,
    Add(Value),
    Delete(Value),
}

/// None where the update fails.
fn oracle(changes: &[(Path, Change)], old: &Item) -> Option<Item> {
    let mut sparse = Sparse::map(&old.0);
    for (target, change) in changes {
        let current = lookup(old, target);
        let value = match (change, current) {
            (Change::Set(value), _) | (Change::Add(value), None) => Some(value.clone()),
            (Change::Copy(from), _) => Some(lookup(old, from)?.clone()),
            (Change::Remove, _) | (Change::Delete(_), None) => None,
            (Change::Add(Value::N(value)), Some(Value::N(current))) => {
                Some(Value::N(current.checked_add(value).ok()?))
            }
            (Change::Add(Value::Ss(value)), Some(Value::Ss(current))) => {
                Some(Value::Ss(current | value))
            }
            (Change::Add(Value::Ns(value)), Some(Value::Ns(current))) => {
                Some(Value::Ns(current | value))
            }
            (Change::Add(Value::Bs(value)), Some(Value::Bs(current))) => {
                Some(Value::Bs(current | value))
            }
            (Change::Delete(Value::Ss(value)), Some(Value::Ss(current))) => {
                Some(current - value).filter(|left| !left.is_empty()).map(Value::Ss)
            }
            (Change::Delete(Value::Ns(value)), Some(Value::Ns(current))) => {
                Some(current - value).filter(|left| !left.is_empty()).map(Value::Ns)
            }
            (Change::Delete(Value::Bs(value)), Some(Value::Bs(current))) => {
                Some(current - value).filter(|left| !left.is_empty()).map(Value::Bs)
            }
            (Change::Add(_) | Change::Delete(_), Some(_)) => return None,
        };
        sparse.put(target.steps(), value.as_ref())?;
    }
    match sparse.close_ranks() {
        Value::M(map) => Some(Item(map)),
        _ => unreachable!("an item is a map"),
    }
}

fn any_change() -> impl Strategy<Value = Change> {
    let addend = prop_oneof![(-3i64..4).prop_map(n), any_set()];
    prop_oneof![
        3 => any_value().prop_map(Change::Set),
        1 => any_path().prop_map(Change::Copy),
        3 => Just(Change::Remove),
        1 => addend.prop_map(Change::Add),
        1 => any_set().prop_map(Change::Delete),
    ]
}

fn draft(changes: &[(Path, Change)]) -> Draft {
    changes.iter().cloned().fold(new(), |draft, (target, change)| match change {
        Change::Set(value) => draft.set(target, value),
        Change::Copy(from) => draft.set(target, from),
        Change::Remove => draft.remove(target),
        Change::Add(value) => draft.add(target, value),
        Change::Delete(value) => draft.delete(target, value),
    })
}

/// Changes whose targets do not overlap.
fn any_changes() -> impl Strategy<Value = Vec<(Path, Change)>> {
    prop::collection::vec((any_path(), any_change()), 1..6).prop_map(|changes| {
        let mut kept: Vec<(Path, Change)> = Vec::new();
        for change in changes {
            kept.push(change);
            if draft(&kept).compile().is_err() {
                kept.pop();
            }
        }
        kept
    })
}

pub(super) fn any_update() -> impl Strategy<Value = Update> {
    any_changes().prop_map(|changes| draft(&changes).compile().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn updates_agree_with_an_oracle_whose_lists_have_gaps(
        changes in any_changes(),
        old in any_item(),
    ) {
        let old = old.with("p", n(0));
        let found = apply(draft(&changes), Some(&old));
        match oracle(&changes, &old) {
            Some(expected) => prop_assert_eq!(found.unwrap().unwrap(), expected),
            None => prop_assert!(found.is_err(), "{:?}", found),
        }
    }
}
