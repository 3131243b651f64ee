//! Conditions: DynamoDB's semantics case by case, and compiled programs against the plain tree.

use proptest::prelude::*;

use super::*;
use crate::expression::{Comparison, ConditionExpression, ExpressionError, Operand, Operator};
use crate::expression::{IN_CHOICES_MAX, PATH_STEPS_MAX, ValueType};
use crate::limits;

use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};

type Draft = ConditionExpression;

fn p(text: &str) -> Operand {
    Operand::Path(path(text))
}

fn sample() -> Item {
    item([
        ("n", n(1)),
        ("s", s("cat")),
        ("b", b(b"cat")),
        ("t", Value::Bool(true)),
        ("z", Value::Null),
        ("l", l([n(2), s("dog"), n(7), ns([1, 2]), l([n(3)])])),
        ("m", m([("x", n(2)), ("y", l([n(-1), n(2), n(0)]))])),
        ("ss", ss(["ant", "bee"])),
        ("ns", ns([2, 4, 7])),
        ("bs", bs([b"ant", b"bee"])),
        ("five", n(5)),
        ("euro", s("\u{20ac}")),
    ])
}

fn holds(draft: Draft) -> bool {
    let condition = draft.compile().unwrap();
    with_item(&sample(), |item| with_condition(&condition, |c| c.evaluate(Some(item)).unwrap()))
}

fn compare(left: impl Into<Operand>, comparison: Comparison, right: impl Into<Operand>) -> bool {
    holds(Draft::compare(left, comparison, right))
}

fn all_values() -> Vec<Value> {
    sample().0.into_values().collect()
}

#[test]
fn values_are_equal_only_to_the_same_value_of_the_same_type() {
    for (i, a) in all_values().iter().enumerate() {
        for (j, b) in all_values().iter().enumerate() {
            assert_eq!(compare(a.clone(), Equal, b.clone()), i == j, "{a:?} = {b:?}");
            assert_eq!(compare(a.clone(), NotEqual, b.clone()), i != j, "{a:?} <> {b:?}");
        }
    }
    assert!(compare(Value::N("1.50".parse().unwrap()), Equal, Value::N("1.5".parse().unwrap())));
}

#[test]
fn comparison_with_a_missing_operand_is_false_except_not_equal() {
    for (left, right) in [(p("q"), Operand::from(n(2))), (n(2).into(), p("q")), (p("q"), p("r"))] {
        for comparison in [Equal, Less, LessOrEqual, Greater, GreaterOrEqual] {
            assert!(!compare(left.clone(), comparison, right.clone()), "{comparison:?}");
        }
        assert!(compare(left, NotEqual, right));
    }
    assert!(!holds(Draft::between(p("q"), p("r"), p("five"))));
    assert!(!holds(Draft::is_in(p("q"), [n(1)])));
    assert!(!holds(Draft::is_in(p("q"), [p("r")])));
}

#[test]
fn order_is_by_type_and_different_types_have_none() {
    for (smaller, attribute, larger) in
        [(n(0), "n", n(2)), (s("aardvark"), "s", s("dog")), (b(b"ca"), "b", b(b"cb"))]
    {
        assert!(compare(p(attribute), Less, larger.clone()));
        assert!(compare(p(attribute), LessOrEqual, larger.clone()));
        assert!(!compare(p(attribute), Greater, larger.clone()));
        assert!(compare(p(attribute), Greater, smaller.clone()));
        assert!(compare(p(attribute), GreaterOrEqual, smaller.clone()));
        assert!(!compare(p(attribute), Less, smaller.clone()));
        assert!(holds(Draft::between(p(attribute), smaller, larger)));
    }
    for comparison in [Less, LessOrEqual, Greater, GreaterOrEqual] {
        assert!(!compare(p("n"), comparison, s("17")));
        assert!(!compare(p("l"), comparison, n(1)));
        assert!(!compare(n(1), comparison, p("l")));
        assert!(!compare(p("l"), comparison, p("m")));
        assert!(!compare(p("t"), comparison, p("z")));
    }
    assert!(compare(p("n"), LessOrEqual, n(1)) && compare(p("n"), GreaterOrEqual, n(1)));
}

#[test]
fn between_includes_its_ends_and_fails_on_bounds_from_the_item_that_do_not_fit() {
    assert!(holds(Draft::between(p("n"), n(1), n(1))));
    assert!(!holds(Draft::between(p("n"), n(2), n(7))));
    assert!(!holds(Draft::between(p("n"), s("0"), s("2"))));
    assert!(!holds(Draft::between(p("n"), p("l"), p("m"))));
    assert!(!holds(Draft::between(p("n"), p("five"), n(1))));
    assert!(!holds(Draft::between(p("n"), p("five"), s("dog"))));
}

#[test]
fn in_takes_values_of_any_type() {
    for value in all_values() {
        assert!(holds(Draft::is_in(value.clone(), [s("none of it"), value])));
    }
    assert!(!holds(Draft::is_in(p("n"), [s("1"), n(2)])));
    let choices = |last: i64| (2..101).map(n).chain([n(last)]);
    assert!(holds(Draft::is_in(p("n"), choices(1))));
    assert!(!holds(Draft::is_in(p("n"), choices(101))));
}

#[test]
fn exists_sees_nested_places() {
    for there in ["n", "z", "m.x", "m.y[2]", "l[4][0]"] {
        assert!(holds(Draft::exists(path(there))), "{there}");
        assert!(!holds(Draft::not_exists(path(there))), "{there}");
    }
    for absent in ["q", "m.q", "m.y[3]", "m[0]", "l.x", "n.x", "n[0]", "l[4][0][0]"] {
        assert!(!holds(Draft::exists(path(absent))), "{absent}");
        assert!(holds(Draft::not_exists(path(absent))), "{absent}");
    }
    assert!(compare(p("n"), Less, p("m.y[1]")));
    assert!(!compare(p("m.q"), Less, p("m.y[100]")));
}

#[test]
fn attribute_type_knows_all_ten_types() {
    let types = ["S", "N", "B", "BOOL", "NULL", "M", "L", "SS", "NS", "BS"];
    let named = ["s", "n", "b", "t", "z", "m", "l", "ss", "ns", "bs"];
    for (attribute, own) in named.iter().zip(types) {
        for name in types {
            let is = ValueType::named(name).unwrap();
            assert_eq!(is.to_string(), name);
            assert_eq!(holds(Draft::attribute_type(p(attribute), is)), name == own);
        }
    }
    assert!(holds(Draft::attribute_type(n(3), ValueType::N)));
    assert!(!holds(Draft::attribute_type(p("q"), ValueType::S)));
    assert_eq!(ValueType::named("DOG"), None);
}

#[test]
fn begins_with_works_on_strings_and_binaries() {
    assert!(holds(Draft::begins_with(p("s"), s("ca"))));
    assert!(holds(Draft::begins_with(p("s"), s(""))));
    assert!(holds(Draft::begins_with(p("b"), b(b"ca"))));
    assert!(holds(Draft::begins_with(s("catalogue"), p("s"))));
    assert!(!holds(Draft::begins_with(p("s"), s("dog"))));
    assert!(!holds(Draft::begins_with(p("s"), b(b"ca"))));
    assert!(!holds(Draft::begins_with(p("n"), s("1"))));
    assert!(!holds(Draft::begins_with(p("n"), p("s"))));
    assert!(!holds(Draft::begins_with(p("q"), s("c"))));
}

#[test]
fn contains_searches_text_lists_and_sets() {
    assert!(holds(Draft::contains(p("s"), s("at"))));
    assert!(holds(Draft::contains(p("b"), b(b"at"))));
    assert!(holds(Draft::contains(p("b"), b(b""))));
    assert!(holds(Draft::contains(p("l"), n(7))));
    assert!(holds(Draft::contains(p("l"), ns([1, 2]))));
    assert!(holds(Draft::contains(p("l"), l([n(3)]))));
    assert!(holds(Draft::contains(p("ss"), s("bee"))));
    assert!(holds(Draft::contains(p("ns"), n(4))));
    assert!(holds(Draft::contains(p("bs"), b(b"ant"))));
    assert!(!holds(Draft::contains(p("s"), s("dog"))));
    assert!(!holds(Draft::contains(p("b"), ns([1]))));
    assert!(!holds(Draft::contains(p("l"), n(3))));
    assert!(!holds(Draft::contains(p("ss"), s("be"))));
    assert!(!holds(Draft::contains(p("ss"), b(b"bee"))));
    assert!(!holds(Draft::contains(p("ns"), s("4"))));
    assert!(!holds(Draft::contains(p("m"), s("x"))));
    assert!(!holds(Draft::contains(p("q"), s("x"))));
}

#[test]
fn size_counts_bytes_and_entries_and_is_missing_for_other_types() {
    for (attribute, size) in
        [("s", 3), ("euro", 3), ("b", 3), ("l", 5), ("m", 2), ("ss", 2), ("ns", 3), ("bs", 2)]
    {
        assert!(compare(Operand::size(attribute), Equal, n(size)), "{attribute}");
    }
    for attribute in ["n", "t", "z", "q"] {
        assert!(!compare(Operand::size(attribute), GreaterOrEqual, n(0)), "{attribute}");
        assert!(!compare(Operand::size(attribute), Equal, n(1)), "{attribute}");
        assert!(compare(Operand::size(attribute), NotEqual, n(1)), "{attribute}");
    }
    assert!(!compare(Operand::size("s"), Equal, s("dog")));
    assert!(compare(Operand::size("l"), Equal, p("five")));
    assert!(compare(Operand::size("s"), Equal, Operand::size("b")));
    assert!(compare(Operand::size("m"), Less, Operand::size("b")));
    assert!(holds(Draft::between(Operand::size("l"), n(5), n(6))));
    assert!(holds(Draft::is_in(Operand::size("l"), [n(4), n(5)])));
}

#[test]
fn an_absent_item_is_an_empty_one() {
    let check = |draft: Draft| {
        with_condition(&draft.compile().unwrap(), |condition| condition.evaluate(None).unwrap())
    };
    assert!(check(Draft::not_exists("id")));
    assert!(!check(Draft::exists("id")));
    assert!(check(Draft::compare(p("id"), NotEqual, n(1))));
    assert!(!check(Draft::compare(p("id"), Equal, n(1))));
}

#[test]
fn literals_of_unfit_types_are_refused_when_compiled() {
    let list = || l([n(1)]);
    let incorrect = |operator, operand| ExpressionError::IncorrectOperandType { operator, operand };
    for (draft, operator) in [
        (Draft::compare(p("n"), Less, list()), Operator::Less),
        (Draft::compare(list(), GreaterOrEqual, p("n")), Operator::GreaterOrEqual),
        (Draft::between(p("n"), list(), list()), Operator::Between),
        (Draft::begins_with(p("n"), list()), Operator::BeginsWith),
    ] {
        assert_eq!(draft.compile(), Err(incorrect(operator, ValueType::L)));
    }
    assert_eq!(
        Draft::begins_with(p("s"), n(2)).compile().unwrap_err().to_string(),
        "incorrect operand type for operator or function; operator or function: begins_with, \
         operand type: N"
    );
    assert_eq!(Draft::between(p("n"), n(2), n(1)).compile(), Err(ExpressionError::BetweenOrder));
    assert_eq!(
        Draft::between(p("n"), n(2), s("dog")).compile(),
        Err(ExpressionError::BetweenTypes { low: ValueType::N, high: ValueType::S })
    );
    assert_eq!(
        Draft::contains(p("m.x"), p("m.x")).compile(),
        Err(ExpressionError::OperandsNotDistinct {
            operator: Operator::Contains,
            operand: "[m, x]".to_owned()
        })
    );
    for draft in [
        Draft::contains(Operand::size("l"), n(1)),
        Draft::begins_with(p("s"), Operand::size("s")),
        Draft::attribute_type(Operand::size("s"), ValueType::N),
    ] {
        assert_eq!(draft.compile(), Err(ExpressionError::SizeNotAllowed));
    }
    let empty = Value::Ss(BTreeSet::new());
    let error = Draft::compare(p("ss"), Equal, empty).compile().unwrap_err();
    assert!(matches!(error, ExpressionError::BadValue { index: 0, .. }));
}

#[test]
fn limits_are_held_and_reached() {
    let test = || Draft::exists("a");
    let chain = |tests: usize| (1..tests).fold(test(), |all, _| all.and(test()));
    let max = limits::EXPRESSION_NODES_MAX;
    assert!(chain(max).compile().is_ok());
    assert_eq!(
        chain(max + 1).compile(),
        Err(ExpressionError::TooManyNodes { found: max + 1, max })
    );
    assert!(Draft::is_in(p("n"), (0..IN_CHOICES_MAX as i64).map(n)).compile().is_ok());
    for found in [0, IN_CHOICES_MAX + 1] {
        assert_eq!(
            Draft::is_in(p("n"), (0..found as i64).map(n)).compile(),
            Err(ExpressionError::InChoices { found, max: IN_CHOICES_MAX })
        );
    }
    let deep = |steps: usize| (1..steps).fold(Path::attribute("a"), |path, _| path.element(0));
    assert!(Draft::exists(deep(PATH_STEPS_MAX)).compile().is_ok());
    assert_eq!(
        Draft::exists(deep(PATH_STEPS_MAX + 1)).compile(),
        Err(ExpressionError::PathTooDeep { found: PATH_STEPS_MAX + 1, max: PATH_STEPS_MAX })
    );
    let name = |bytes: usize| "x".repeat(bytes);
    let max = limits::ATTRIBUTE_NAME_BYTES_MAX;
    assert!(Draft::exists(name(max)).compile().is_ok());
    for found in [0, max + 1] {
        assert_eq!(
            Draft::exists(name(found)).compile(),
            Err(ExpressionError::NameBytes { found, max })
        );
    }
    let big = || b(&vec![0; limits::EXPRESSION_VALUE_BYTES_MAX / 2]);
    let draft = Draft::is_in(p("n"), [big(), big()]);
    assert!(matches!(draft.compile(), Err(ExpressionError::ValueBytes { .. })));
}

#[test]
fn evaluation_stops_at_the_test_that_decides() {
    let condition = Draft::exists("n").or(Draft::exists("q")).not().compile().unwrap();
    let jumps: Vec<_> = condition.tests.iter().map(|test| (test.if_true, test.if_false)).collect();
    let (accept, reject) = (u16::MAX, u16::MAX - 1);
    assert_eq!(jumps, [(reject, 1), (reject, accept)]);
}

/// A condition as its text would be parsed.
#[derive(Clone, Debug)]
enum Tree {
    Compare(Operand, Comparison, Operand),
    Between(Operand, Operand, Operand),
    In(Operand, Vec<Operand>),
    Exists(Path),
    Type(Operand, ValueType),
    BeginsWith(Operand, Operand),
    Contains(Operand, Operand),
    And(Box<Tree>, Box<Tree>),
    Or(Box<Tree>, Box<Tree>),
    Not(Box<Tree>),
}

impl Tree {
    fn draft(&self) -> Draft {
        match self.clone() {
            Tree::Compare(left, comparison, right) => Draft::compare(left, comparison, right),
            Tree::Between(operand, low, high) => Draft::between(operand, low, high),
            Tree::In(operand, choices) => Draft::is_in(operand, choices),
            Tree::Exists(path) => Draft::exists(path),
            Tree::Type(operand, is) => Draft::attribute_type(operand, is),
            Tree::BeginsWith(operand, prefix) => Draft::begins_with(operand, prefix),
            Tree::Contains(operand, part) => Draft::contains(operand, part),
            Tree::And(left, right) => left.draft().and(right.draft()),
            Tree::Or(left, right) => left.draft().or(right.draft()),
            Tree::Not(tree) => tree.draft().not(),
        }
    }

    fn holds(&self, item: &Item) -> bool {
        let of = |operand: &Operand| match operand {
            Operand::Path(path) => lookup(item, path).cloned(),
            Operand::Value(value) => Some(value.clone()),
            Operand::Size(path) => lookup(item, path).and_then(size),
        };
        let at_most = |a: &Operand, b: &Operand| {
            of(a).zip(of(b)).is_some_and(|(a, b)| less(&a, &b) || (ordered(&a) && a == b))
        };
        let below = |a: &Operand, b: &Operand| of(a).zip(of(b)).is_some_and(|(a, b)| less(&a, &b));
        let same = |a: &Operand, b: &Operand| of(a).zip(of(b)).is_some_and(|(a, b)| a == b);
        match self {
            Tree::Compare(a, Equal, b) => same(a, b),
            Tree::Compare(a, NotEqual, b) => !same(a, b),
            Tree::Compare(a, Less, b) => below(a, b),
            Tree::Compare(a, LessOrEqual, b) => at_most(a, b),
            Tree::Compare(a, Greater, b) => below(b, a),
            Tree::Compare(a, GreaterOrEqual, b) => at_most(b, a),
            Tree::Between(operand, low, high) => at_most(low, operand) && at_most(operand, high),
            Tree::In(operand, choices) => choices.iter().any(|choice| same(operand, choice)),
            Tree::Exists(path) => lookup(item, path).is_some(),
            Tree::Type(operand, is) => {
                of(operand).is_some_and(|value| value.type_name() == is.to_string())
            }
            Tree::BeginsWith(operand, prefix) => match (of(operand), of(prefix)) {
                (Some(Value::S(text)), Some(Value::S(prefix))) => text.starts_with(&prefix),
                (Some(Value::B(bytes)), Some(Value::B(prefix))) => bytes.starts_with(&prefix),
                _ => false,
            },
            Tree::Contains(operand, part) => match (of(operand), of(part)) {
                (Some(Value::S(text)), Some(Value::S(part))) => text.contains(&part),
                (Some(Value::B(bytes)), Some(Value::B(part))) => {
                    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
                }
                (Some(Value::L(list)), Some(part)) => list.contains(&part),
                (Some(Value::Ss(set)), Some(Value::S(part))) => set.contains(&part),
                (Some(Value::Ns(set)), Some(Value::N(part))) => set.contains(&part),
                (Some(Value::Bs(set)), Some(Value::B(part))) => set.contains(&part),
                _ => false,
            },
            Tree::And(left, right) => left.holds(item) && right.holds(item),
            Tree::Or(left, right) => left.holds(item) || right.holds(item),
            Tree::Not(tree) => !tree.holds(item),
        }
    }
}

fn ordered(value: &Value) -> bool {
    matches!(value, Value::S(_) | Value::N(_) | Value::B(_))
}

fn less(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::S(a), Value::S(b)) => a < b,
        (Value::N(a), Value::N(b)) => a < b,
        (Value::B(a), Value::B(b)) => a < b,
        _ => false,
    }
}

fn size(value: &Value) -> Option<Value> {
    let size = match value {
        Value::S(text) => text.len(),
        Value::B(bytes) => bytes.len(),
        Value::M(map) => map.len(),
        Value::L(list) => list.len(),
        Value::Ss(set) => set.len(),
        Value::Ns(set) => set.len(),
        Value::Bs(set) => set.len(),
        _ => return None,
    };
    Some(n(size as i64))
}

fn any_operand() -> impl Strategy<Value = Operand> {
    prop_oneof![4 => any_path().prop_map(Operand::Path), 1 => any_scalar().prop_map(Operand::Value)]
}

/// An operand that any comparison takes.
fn any_term() -> impl Strategy<Value = Operand> {
    let literal = any_scalar().prop_filter("ordered", ordered);
    prop_oneof![
        3 => any_path().prop_map(Operand::Path),
        2 => literal.prop_map(Operand::Value),
        1 => any_path().prop_map(Operand::Size),
    ]
}

fn any_comparison() -> impl Strategy<Value = Comparison> {
    prop::sample::select(vec![Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual])
}

fn any_type() -> impl Strategy<Value = ValueType> {
    let names = vec!["S", "N", "B", "BOOL", "NULL", "M", "L", "SS", "NS", "BS"];
    prop::sample::select(names).prop_map(|name| ValueType::named(name).unwrap())
}

fn any_tree() -> impl Strategy<Value = Tree> {
    let text = prop_oneof!["[ab]{0,2}".prop_map(|text| Operand::Value(s(&text))), {
        any_path().prop_map(Operand::Path)
    }];
    let leaf = prop_oneof![
        4 => (any_term(), any_comparison(), any_term())
            .prop_map(|(a, comparison, b)| Tree::Compare(a, comparison, b)),
        1 => (any_term(), any_term(), any_path()).prop_map(|(operand, low, high)| {
            Tree::Between(operand, low, Operand::Path(high))
        }),
        1 => (any_path(), prop::collection::vec(any_operand(), 1..4))
            .prop_map(|(path, choices)| Tree::In(Operand::Path(path), choices)),
        1 => any_path().prop_map(Tree::Exists),
        1 => (any_operand(), any_type()).prop_map(|(operand, is)| Tree::Type(operand, is)),
        1 => (any_path(), text).prop_map(|(path, text)| {
            Tree::BeginsWith(Operand::Path(path), text)
        }),
        2 => (any_operand(), any_operand()).prop_map(|(a, b)| Tree::Contains(a, b)),
    ];
    leaf.prop_recursive(4, 16, 2, |inner| {
        let pair = (inner.clone().prop_map(Box::new), inner.clone().prop_map(Box::new));
        prop_oneof![
            2 => pair.clone().prop_map(|(left, right)| Tree::And(left, right)),
            2 => pair.prop_map(|(left, right)| Tree::Or(left, right)),
            1 => inner.prop_map(|tree| Tree::Not(Box::new(tree))),
        ]
    })
}

pub(super) fn any_condition() -> impl Strategy<Value = Condition> {
    any_tree().prop_filter_map("distinct operands", |tree| tree.draft().compile().ok())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn compiled_conditions_agree_with_the_plain_tree(tree in any_tree(), item in any_item()) {
        match tree.draft().compile() {
            Ok(condition) => {
                let found = with_item(&item, |item| {
                    with_condition(&condition, |condition| {
                        condition.check().unwrap();
                        condition.evaluate(Some(item)).unwrap()
                    })
                });
                prop_assert_eq!(found, tree.holds(&item));
                let absent = with_condition(&condition, |condition| condition.evaluate(None));
                prop_assert_eq!(absent.unwrap(), tree.holds(&Item::new()));
            }
            // The generator makes no other mistakes.
            Err(error) => {
                let distinct = matches!(error, ExpressionError::OperandsNotDistinct { .. });
                prop_assert!(distinct, "{error}");
            }
        }
    }
}
