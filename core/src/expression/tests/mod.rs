//! What the tests of all expressions share: shorthands, generated items and paths.

mod condition;
mod damage;
mod golden;
mod projection;
mod sort_key;
mod update;

use std::collections::BTreeSet;

use proptest::prelude::*;
use rkyv::rancor::Error as ArchiveError;
use rkyv::util::AlignedVec;

use super::{ArchivedCondition, ArchivedUpdate, Condition, Path, Step, Update};
use crate::item::{Item, ItemRef, Number, Value};

/// Reads `a.b[3]`.
fn path(text: &str) -> Path {
    let mut path: Option<Path> = None;
    for part in text.split(['.', '[']) {
        path = Some(match (path, part.strip_suffix(']')) {
            (None, _) => Path::attribute(part),
            (Some(path), None) => path.entry(part),
            (Some(path), Some(index)) => path.element(index.parse().unwrap()),
        });
    }
    path.unwrap()
}

fn n(number: i64) -> Value {
    Value::from(number)
}

fn s(text: &str) -> Value {
    Value::from(text)
}

fn b(bytes: &[u8]) -> Value {
    Value::from(bytes)
}

fn l<const N: usize>(values: [Value; N]) -> Value {
    Value::L(values.into())
}

fn m<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::M(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn ss<const N: usize>(members: [&str; N]) -> Value {
    Value::Ss(members.into_iter().map(str::to_owned).collect())
}

fn ns<const N: usize>(members: [i64; N]) -> Value {
    Value::Ns(members.into_iter().map(Number::from).collect())
}

fn bs<const N: usize>(members: [&[u8]; N]) -> Value {
    Value::Bs(members.into_iter().map(<[u8]>::to_vec).collect())
}

fn item<const N: usize>(attributes: [(&str, Value); N]) -> Item {
    attributes.into_iter().fold(Item::new(), |item, (name, value)| item.with(name, value))
}

fn archive_condition(condition: &Condition) -> AlignedVec {
    rkyv::to_bytes::<ArchiveError>(condition).unwrap()
}

fn with_condition<R>(condition: &Condition, f: impl FnOnce(&ArchivedCondition) -> R) -> R {
    let bytes = archive_condition(condition);
    f(rkyv::access::<ArchivedCondition, ArchiveError>(&bytes).unwrap())
}

fn archive_update(update: &Update) -> AlignedVec {
    rkyv::to_bytes::<ArchiveError>(update).unwrap()
}

fn with_update<R>(update: &Update, f: impl FnOnce(&ArchivedUpdate) -> R) -> R {
    let bytes = archive_update(update);
    f(rkyv::access::<ArchivedUpdate, ArchiveError>(&bytes).unwrap())
}

fn with_item<R>(item: &Item, f: impl FnOnce(ItemRef<'_>) -> R) -> R {
    let bytes = item.to_bytes().unwrap();
    f(ItemRef::validate(&bytes).unwrap())
}

/// The value at a path, the plain way.
fn lookup<'a>(item: &'a Item, path: &Path) -> Option<&'a Value> {
    let (first, rest) = path.steps().split_first()?;
    let Step::Name(name) = first else { return None };
    rest.iter().try_fold(item.0.get(name)?, |value, step| match (value, step) {
        (Value::M(map), Step::Name(name)) => map.get(name),
        (Value::L(list), Step::Index(index)) => list.get(*index as usize),
        _ => None,
    })
}

fn any_scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-3i64..12).prop_map(n),
        "[ab]{0,3}".prop_map(|text| s(&text)),
        prop::collection::vec(0u8..3, 0..3).prop_map(|bytes| b(&bytes)),
        any::<bool>().prop_map(Value::Bool),
        Just(Value::Null),
    ]
}

fn any_set() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::collection::btree_set("[ab]{0,2}", 1..4).prop_map(Value::Ss),
        prop::collection::btree_set(0i64..4, 1..4).prop_map(|set| {
            Value::Ns(set.into_iter().map(Number::from).collect::<BTreeSet<Number>>())
        }),
        prop::collection::btree_set(prop::collection::vec(0u8..2, 0..2), 1..3).prop_map(Value::Bs),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![3 => any_scalar(), 1 => any_set()];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::L),
            prop::collection::btree_map("[abc]", inner, 0..4).prop_map(Value::M),
        ]
    })
}

fn any_item() -> impl Strategy<Value = Item> {
    let value = prop_oneof![1 => any_scalar(), 1 => any_set(), 3 => any_value()];
    prop::collection::btree_map("[abc]", value, 0..4).prop_map(Item)
}

fn any_path() -> impl Strategy<Value = Path> {
    let step = prop_oneof!["[abc]".prop_map(Step::Name), (0u32..5).prop_map(Step::Index),];
    ("[abc]", prop::collection::vec(step, 0..3)).prop_map(|(name, steps)| {
        steps.into_iter().fold(Path::attribute(name), |path, step| match step {
            Step::Name(name) => path.entry(name),
            Step::Index(index) => path.element(index),
        })
    })
}
