//! Items: encoding, validation, sizes.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::limits::{ENCODED_ITEM_BYTES_MAX, ITEM_BYTES_MAX, NESTING_DEPTH_MAX};

fn number(text: &str) -> Number {
    text.parse().unwrap()
}

/// One attribute of each type.
fn one_of_each() -> Item {
    Item::new()
        .with("b", vec![1u8, 2])
        .with("bool", true)
        .with("bs", Value::Bs(BTreeSet::from([vec![9], vec![]])))
        .with("l", vec![Value::from(1), Value::Null])
        .with("m", Map::from([("x".to_owned(), Value::from(false))]))
        .with("n", number("-1.5"))
        .with("ns", Value::Ns(BTreeSet::from([number("10"), number("-2")])))
        .with("null", Value::Null)
        .with("s", "hé")
        .with("ss", Value::Ss(BTreeSet::from(["b".to_owned(), "a".to_owned()])))
}

#[test]
fn golden_bytes_of_each_type() {
    #[rustfmt::skip]
    let golden: &[u8] = &[
        1, 138, 0, 0, 52, 0, 0,
        1, 0, b'b', 3, 2, 0, 0, 1, 2,
        4, 0, b'b', b'o', b'o', b'l', 5, 0, 0, 0,
        2, 0, b'b', b's', 11, 7, 0, 0, 0, 0, 0, 1, 0, 0, 9,
        1, 0, b'l', 8, 10, 0, 0, 2, 2, 0, 0, 0xc1, 1, 6, 0, 0, 0,
        1, 0, b'm', 7, 7, 0, 0, 1, 0, b'x', 4, 0, 0, 0,
        1, 0, b'n', 2, 4, 0, 0, 0x3e, 253, 204, 0xff,
        2, 0, b'n', b's', 10, 11, 0, 0, 3, 0, 0, 0x3e, 252, 0xff, 2, 0, 0, 0xc1, 10,
        4, 0, b'n', b'u', b'l', b'l', 6, 0, 0, 0,
        1, 0, b's', 1, 3, 0, 0, b'h', 0xc3, 0xa9,
        2, 0, b's', b's', 9, 8, 0, 0, 1, 0, 0, b'a', 1, 0, 0, b'b',
    ];
    let item = one_of_each();
    assert_eq!(item.to_bytes().unwrap(), golden);
    assert_eq!(Item::from(ItemRef::validate(golden).unwrap()), item);
}

#[test]
fn views_agree_with_owned_values() {
    let item = one_of_each();
    let bytes = item.to_bytes().unwrap();
    let view = ItemRef::validate(&bytes).unwrap();
    assert_eq!(view.len(), 10);
    for (name, value) in &item.0 {
        let found = view.get(name).unwrap();
        assert_eq!(found.to_value(), *value);
        assert_eq!(found.type_name(), value.type_name());
        assert_eq!(found.size_bytes(), size::value_size_bytes(value));
        let mut encoded = Vec::new();
        found.encode(&mut encoded);
        assert_eq!(view.get_encoded(name), Some(&encoded[..]));
        assert_eq!(found.encoded_bytes(), encoded.len());
    }
    assert_eq!(view.get("a"), None);
    assert_eq!(view.get("bo"), None);
    assert_eq!(view.get("zz"), None);
    assert_eq!(view.get(""), None);
    let Some(ValueRef::L(list)) = view.get("l") else { panic!("a list") };
    assert_eq!(list.get(1), Some(ValueRef::Null));
    assert_eq!(list.get(2), None);
    let Some(ValueRef::Ns(set)) = view.get("ns") else { panic!("a set") };
    assert!(set.contains(number("10.0").as_bytes()) && !set.contains(number("2").as_bytes()));
    let Some(ValueRef::M(map)) = view.get("m") else { panic!("a map") };
    assert_eq!(map.get("x"), Some(ValueRef::Bool(false)));
    assert_eq!((map.len(), list.len(), set.len()), (1, 2, 2));
}

#[test]
fn size_follows_the_rule() {
    let size_of = |value: Value| {
        let bytes = Item::new().with("name", value).to_bytes().unwrap();
        ItemRef::validate(&bytes).unwrap().size_bytes() - "name".len()
    };
    assert_eq!(size_of("héllo".into()), 6);
    assert_eq!(size_of(vec![0u8; 7].into()), 7);
    assert_eq!(size_of(Value::Null), 1);
    assert_eq!(size_of(true.into()), 1);
    assert_eq!(size_of(0.into()), 1);
    assert_eq!(size_of(27.into()), 2);
    assert_eq!(size_of((-27).into()), 3);
    assert_eq!(size_of(number("1.5").into()), 3);
    assert_eq!(size_of(Value::L(vec![])), 3);
    assert_eq!(size_of(vec![Value::Null, "ab".into()].into()), 3 + 2 + 1 + 2);
    assert_eq!(size_of(Map::from([("key".to_owned(), Value::Null)]).into()), 3 + 1 + 3 + 1);
    assert_eq!(size_of(Value::Ss(BTreeSet::from(["a".to_owned(), "bc".to_owned()]))), 3);
    assert_eq!(size_of(Value::Ns(BTreeSet::from([number("1"), number("-1")]))), 2 + 3);
}

#[test]
fn item_of_the_size_limit_is_accepted_and_one_byte_more_refused() {
    let largest = Item::new().with("s", "x".repeat(ITEM_BYTES_MAX - 1));
    let bytes = largest.to_bytes().unwrap();
    assert_eq!(ItemRef::validate(&bytes).unwrap().size_bytes(), ITEM_BYTES_MAX);
    let larger = Item::new().with("s", "x".repeat(ITEM_BYTES_MAX));
    let refused = ItemError::TooLarge { size: ITEM_BYTES_MAX + 1, limit: ITEM_BYTES_MAX };
    assert_eq!(larger.to_bytes(), Err(refused));
    let mut bytes = Vec::new();
    larger.encode(&mut bytes);
    assert_eq!(ItemRef::validate(&bytes), Err(refused));
}

#[test]
fn worst_framing_stays_under_the_encoding_limit() {
    let worst = Value::Ss(BTreeSet::from([String::new()]));
    let item = Item::new().with("l", vec![worst; ITEM_BYTES_MAX - 4]);
    let bytes = item.to_bytes().unwrap();
    assert_eq!(ItemRef::validate(&bytes).unwrap().size_bytes(), ITEM_BYTES_MAX);
    assert!(bytes.len() < ENCODED_ITEM_BYTES_MAX);
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(Value::Null, |inner, level| {
        if level % 2 == 0 {
            Value::L(vec![inner])
        } else {
            Value::M(Map::from([("m".to_owned(), inner)]))
        }
    })
}

#[test]
fn depth_32_is_accepted_and_33_refused() {
    let deepest = Item::new().with("a", nested(NESTING_DEPTH_MAX));
    let bytes = deepest.to_bytes().unwrap();
    assert_eq!(Item::from(ItemRef::validate(&bytes).unwrap()), deepest);

    let deeper = Item::new().with("a", nested(NESTING_DEPTH_MAX + 1));
    assert_eq!(deeper.to_bytes(), Err(ItemError::TooDeep));
    let mut bytes = Vec::new();
    deeper.encode(&mut bytes);
    assert_eq!(ItemRef::validate(&bytes), Err(ItemError::TooDeep));
    assert!(ValueRef::validate(&nested(NESTING_DEPTH_MAX).to_bytes().unwrap()).is_ok());
    assert_eq!(nested(NESTING_DEPTH_MAX + 1).to_bytes(), Err(ItemError::TooDeep));
}

#[test]
fn nesting_without_end_is_refused_without_recursing() {
    // Lists in lists, as deep as 4 MB of heads can be.
    let levels = 1_000_000;
    let mut bytes = Vec::with_capacity(levels * 4);
    for level in (0..levels).rev() {
        format::push_head(&mut bytes, format::TAG_L, level * 4);
    }
    assert_eq!(ValueRef::validate(&bytes), Err(ItemError::TooDeep));
}

#[test]
fn not_canonical_encodings_are_refused() {
    let check = |bytes: &[u8]| {
        let mut item = vec![1, (bytes.len() + 7) as u8, 0, 0, 2, 0, 0];
        item.extend_from_slice(bytes);
        ItemRef::validate(&item).map(|_| ())
    };
    assert_eq!(check(&[1, 0, b'a', 6, 0, 0, 0]), Ok(()));
    assert_eq!(
        check(&[1, 0, b'b', 6, 0, 0, 0, 1, 0, b'a', 6, 0, 0, 0]),
        Err(ItemError::NameOrder { offset: 14 })
    );
    assert_eq!(
        check(&[1, 0, b'a', 6, 0, 0, 0, 1, 0, b'a', 6, 0, 0, 0]),
        Err(ItemError::NameOrder { offset: 14 })
    );
    assert_eq!(check(&[0, 0, 6, 0, 0, 0]), Err(ItemError::EmptyName));
    assert_eq!(check(&[1, 0, b'a', 12, 0, 0, 0]), Err(ItemError::Tag { offset: 10, tag: 12 }));
    assert_eq!(check(&[1, 0, b'a', 6, 1, 0, 0, 0]), Err(ItemError::Tag { offset: 10, tag: 6 }));
    assert_eq!(check(&[1, 0, b'a', 9, 0, 0, 0]), Err(ItemError::EmptySet));
    assert_eq!(
        check(&[1, 0, b'a', 11, 8, 0, 0, 1, 0, 0, 5, 1, 0, 0, 5]),
        Err(ItemError::MemberOrder { offset: 21 })
    );
    assert_eq!(check(&[1, 0, 0xff, 6, 0, 0, 0]), Err(ItemError::NotUtf8 { offset: 9 }));
    assert_eq!(
        check(&[1, 0, b'a', 2, 2, 0, 0, 0xc1, 0]),
        Err(ItemError::Number { offset: 14, source: NumberError::NotCanonical })
    );
    assert_eq!(
        check(&[1, 0, b'a', 1, 2, 0, 0, b'x', b'y']),
        Err(ItemError::SizeMismatch { stated: 2, found: 3 })
    );
    assert_eq!(check(&[1, 0, b'a', 1, 2, 0, 0, b'x']), Err(ItemError::Truncated { offset: 14 }));
    assert_eq!(
        ItemRef::validate(&[1, 7, 0, 0, 0, 0, 0, 0]),
        Err(ItemError::Length { stated: 7, found: 8 })
    );
    assert_eq!(ItemRef::validate(&[2, 7, 0, 0, 0, 0, 0]), Err(ItemError::Version { found: 2 }));
    assert_eq!(ItemRef::validate(&[]), Err(ItemError::Truncated { offset: 0 }));
    assert_eq!(Item::new().with("", 1).to_bytes(), Err(ItemError::EmptyName));
    assert_eq!(
        Item::new().with("s", Value::Ss(BTreeSet::new())).to_bytes(),
        Err(ItemError::EmptySet)
    );
}

#[test]
fn comparison_is_for_scalars_of_one_type() {
    let (two, ten) = (number("2"), number("10"));
    let n = |number: &'static str| Box::leak(Box::new(self::number(number))).as_ref();
    assert_eq!(
        ValueRef::N(two.as_ref()).compare(&ValueRef::N(ten.as_ref())),
        Some(core::cmp::Ordering::Less)
    );
    assert_eq!(ValueRef::N(n("1.0")), ValueRef::N(n("1")));
    assert_eq!(ValueRef::S("a").compare(&ValueRef::S("B")), Some(core::cmp::Ordering::Greater));
    assert_eq!(ValueRef::S("a").compare(&ValueRef::B(b"a")), None);
    assert_eq!(ValueRef::Null.compare(&ValueRef::Null), None);
}

#[test]
fn writer_makes_the_same_bytes_as_the_owned_form() {
    let item = one_of_each();
    let bytes = item.to_bytes().unwrap();
    let view = ItemRef::trusted(&bytes);
    let mut out = vec![0xee];
    let mut writer = ItemWriter::new(&mut out);
    for (index, (name, value)) in view.iter().enumerate() {
        if index % 2 == 0 {
            writer.push(name, value).unwrap();
        } else {
            writer.push_encoded(name, view.get_encoded(name).unwrap()).unwrap();
        }
    }
    assert!(matches!(writer.push("a", ValueRef::Null), Err(ItemError::NameOrder { .. })));
    assert!(matches!(writer.push("ss", ValueRef::Null), Err(ItemError::NameOrder { .. })));
    assert!(matches!(
        writer.push("t", ValueRef::B(&vec![0; ITEM_BYTES_MAX])),
        Err(ItemError::TooLarge { .. })
    ));
    assert_eq!(writer.finish().unwrap(), bytes);
    assert_eq!(out[0], 0xee);
}

fn any_number() -> impl Strategy<Value = Number> {
    (any::<bool>(), 0u128..10u128.pow(38), -130i32..=88, 0u32..38).prop_map(
        |(negative, coefficient, exponent, shorten)| {
            Number::from_parts(negative, coefficient / 10u128.pow(shorten), exponent)
                .unwrap_or(Number::ZERO)
        },
    )
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        ".{0,12}".prop_map(Value::S),
        any_number().prop_map(Value::N),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(Value::B),
        any::<bool>().prop_map(Value::Bool),
        Just(Value::Null),
        proptest::collection::btree_set(".{0,4}", 1..4).prop_map(Value::Ss),
        proptest::collection::btree_set(any_number(), 1..4).prop_map(Value::Ns),
        proptest::collection::btree_set(proptest::collection::vec(any::<u8>(), 0..4), 1..4)
            .prop_map(Value::Bs),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::L),
            proptest::collection::btree_map(".{1,4}", inner, 0..4).prop_map(Value::M),
        ]
    })
}

fn any_item() -> impl Strategy<Value = Item> {
    proptest::collection::btree_map(".{1,6}", any_value(), 0..6).prop_map(Item)
}

/// Whatever is accepted must be canonical: decoding and encoding give the same bytes again.
fn refused_or_canonical(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(view) = ItemRef::validate(bytes) {
        let item = Item::from(view);
        prop_assert_eq!(item.to_bytes().unwrap(), bytes);
        prop_assert_eq!(view.size_bytes(), size::item_size_bytes(&item.0));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn items_survive_encoding(item in any_item()) {
        let bytes = item.to_bytes().unwrap();
        let view = ItemRef::validate(&bytes).unwrap();
        prop_assert_eq!(Item::from(view), item.clone());
        prop_assert_eq!(view.size_bytes(), size::item_size_bytes(&item.0));
        prop_assert_eq!(view.len(), item.0.len());
    }

    #[test]
    fn values_survive_encoding_and_equal_values_have_equal_bytes(a in any_value(), b in any_value()) {
        let (a_bytes, b_bytes) = (a.to_bytes().unwrap(), b.to_bytes().unwrap());
        let (a_view, b_view) =
            (ValueRef::validate(&a_bytes).unwrap(), ValueRef::validate(&b_bytes).unwrap());
        prop_assert_eq!(a_view.to_value(), a.clone());
        prop_assert_eq!(a_view == b_view, a == b);
        prop_assert_eq!(a_bytes == b_bytes, a == b);
    }

    #[test]
    fn mutated_encodings_are_refused_or_canonical(
        item in any_item(),
        mutations in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = item.to_bytes().unwrap();
        for (at, byte) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            refused_or_canonical(&bytes)?;
        }
        refused_or_canonical(&bytes[..cut.index(bytes.len())])?;
        // With the header made to fit, so that the damage inside is what is judged.
        let keep = 7 + cut.index(bytes.len() - 6);
        bytes.truncate(keep);
        format::write_u24(&mut bytes, format::TOTAL_AT, keep);
        refused_or_canonical(&bytes)?;
        if let Err(ItemError::SizeMismatch { found, .. }) = ItemRef::validate(&bytes) {
            format::write_u24(&mut bytes, format::SIZE_AT, found);
            prop_assert!(ItemRef::validate(&bytes).is_ok());
            refused_or_canonical(&bytes)?;
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(0u8..16, 0..64)) {
        refused_or_canonical(&bytes)?;
        if let Ok(value) = ValueRef::validate(&bytes) {
            prop_assert_eq!(value.to_value().to_bytes().unwrap(), bytes);
        }
    }
}

#[test]
fn every_single_byte_change_is_refused_or_canonical() {
    let bytes = one_of_each().to_bytes().unwrap();
    for at in 0..bytes.len() {
        for byte in 0..=255 {
            let mut changed = bytes.clone();
            changed[at] = byte;
            refused_or_canonical(&changed).unwrap();
        }
    }
}
