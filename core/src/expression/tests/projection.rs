//! Projections.

use proptest::prelude::*;
use rkyv::rancor::Error as ArchiveError;

use super::*;
use crate::expression::{ArchivedProjection, ExpressionError, Projection};

fn project(projection: &Projection, item: &Item) -> Item {
    let bytes = rkyv::to_bytes::<ArchiveError>(projection).unwrap();
    let archived = rkyv::access::<ArchivedProjection, ArchiveError>(&bytes).unwrap();
    archived.check().unwrap();
    with_item(item, |item| {
        let mut out = vec![7; 3];
        let encoded = archived.apply_into(item, &mut out).unwrap();
        ItemRef::validate(encoded).unwrap();
        archived.apply(item).unwrap()
    })
}

fn of(paths: &[&str]) -> Result<Projection, ExpressionError> {
    Projection::new(paths.iter().map(|text| path(text)))
}

fn sample() -> Item {
    let inner = m([("x", s("hi")), ("y", s("yo"))]);
    item([("a", m([("b", l([n(2), n(4), inner])), ("c", n(5))])), ("b", s("hello")), ("p", n(1))])
}

#[test]
fn a_projection_keeps_the_shape_of_the_item() {
    let b_list = |elements: Vec<Value>| item([("a", m([("b", Value::L(elements))]))]);
    let cases: [(&[&str], Item); 11] = [
        (&["b"], item([("b", s("hello"))])),
        (&["p", "b", "q"], item([("b", s("hello")), ("p", n(1))])),
        (&["a"], item([("a", sample().0["a"].clone())])),
        (&["a.b[0]"], b_list(vec![n(2)])),
        (&["a.b[1]", "a.b[0]"], b_list(vec![n(2), n(4)])),
        (&["a.b[2].y"], b_list(vec![m([("y", s("yo"))])])),
        (&["a.b[2].y", "a.b[0]"], b_list(vec![n(2), m([("y", s("yo"))])])),
        (&["a.c", "b"], item([("a", m([("c", n(5))])), ("b", s("hello"))])),
        (&["a.x", "a.b[0]", "x", "a.b[3].x"], b_list(vec![n(2)])),
        (&["a.b[0]", "a.c"], item([("a", m([("b", l([n(2)])), ("c", n(5))]))])),
        (&["a.b[10]", "a.b[2].x"], b_list(vec![m([("x", s("hi"))])])),
    ];
    for (paths, expected) in cases {
        assert_eq!(project(&of(paths).unwrap(), &sample()), expected, "{paths:?}");
    }
    for absent in ["x", "a.b[3]", "a.x", "a.x.y", "a.b[3].x", "a.b.x", "a[0]", "a.b[0].x", "b[0]"] {
        assert_eq!(project(&of(&[absent]).unwrap(), &sample()), Item::new(), "{absent}");
    }
}

#[test]
fn overlapping_and_conflicting_paths_are_refused() {
    for paths in [
        ["a", "a"],
        ["a.b", "a.b"],
        ["a[1]", "a[1]"],
        ["a", "a.b"],
        ["a.b", "a.b[2]"],
        ["a", "a.b[2].c"],
        ["a.b.d.e", "a.b"],
    ] {
        let error = of(&paths).unwrap_err();
        assert!(matches!(error, ExpressionError::PathsOverlap { .. }), "{paths:?}: {error}");
        let among = of(&[paths[1], "Z", "z", paths[0], "a!"]).unwrap_err();
        assert_eq!(among, error);
    }
    for paths in [["a.b", "a[1]"], ["a.b.c", "a.b[2]"], ["a.c", "a[0].x"]] {
        let error = of(&paths).unwrap_err();
        assert!(matches!(error, ExpressionError::PathsConflict { .. }), "{paths:?}: {error}");
    }
    assert!(of(&["a.b", "a.c", "a.d.b", "b[1]", "b[2]", "c"]).is_ok());
    assert_eq!(of(&[]), Err(ExpressionError::Empty));
    assert_eq!(
        of(&["a[0]", "a[0].b"]).unwrap_err().to_string(),
        "two document paths overlap with each other; must remove or rewrite one of these paths; \
         path one: [a, [0]], path two: [a, [0], b]"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_projection_of_one_path_holds_exactly_its_value(item in any_item(), path in any_path()) {
        let projected = project(&Projection::new([path.clone()]).unwrap(), &item);
        // Every list on the way has closed ranks.
        let compacted = path.steps()[1..].iter().fold(
            match &path.steps()[0] { Step::Name(name) => Path::attribute(name), Step::Index(_) => unreachable!() },
            |path, step| match step { Step::Name(name) => path.entry(name), Step::Index(_) => path.element(0) },
        );
        match lookup(&item, &path) {
            Some(value) => prop_assert_eq!(lookup(&projected, &compacted), Some(value)),
            None => prop_assert_eq!(projected, Item::new()),
        }
    }
}
