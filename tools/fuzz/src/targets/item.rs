//! Items and values. Input: an encoding, tried as an item and as a value.

use forebay_core::item::{Item, ItemError, ItemRef, ItemWriter, Map, Number, Value, ValueRef};

/// What is accepted is canonical: it comes back byte for byte from the owned form.
pub fn run(data: &[u8]) {
    check_item(data);
    let mut mended = data.to_vec();
    mend(&mut mended);
    check_item(&mended);

    if let Ok(value) = ValueRef::validate(data) {
        check_value(&value, data);
        assert_eq!(value.to_value().to_bytes().as_deref(), Ok(data));
    }
}

/// Makes the header's two lengths right.
pub(super) fn mend(item: &mut [u8]) {
    if item.len() < 8 || item.len() >= 1 << 24 {
        return;
    }
    let total = (item.len() as u32).to_le_bytes();
    item[1..4].copy_from_slice(&total[..3]);
    if let Err(ItemError::SizeMismatch { found, .. }) = ItemRef::validate(item) {
        item[4 + 1..8].copy_from_slice(&(found as u32).to_le_bytes()[..3]);
    }
}

fn check_item(data: &[u8]) {
    let item = match ItemRef::validate(data) {
        Ok(item) => item,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(item.bytes(), data);
    assert_eq!(Item::from(item).to_bytes().as_deref(), Ok(data), "accepted bytes are canonical");

    let mut copy = Vec::new();
    let mut writer = ItemWriter::new(&mut copy);
    let mut count = 0;
    for ((name, value), (encoded_name, encoded)) in item.iter().zip(item.iter_encoded()) {
        assert_eq!(name, encoded_name);
        assert_eq!(item.get(name), Some(value), "lookups agree with iteration");
        assert_eq!(item.get_encoded(name), Some(encoded));
        check_value(&value, encoded);
        if count % 2 == 0 {
            writer.push(name, value).expect("attributes of an item, in its order");
        } else {
            writer.push_encoded(name, encoded).expect("attributes of an item, in its order");
        }
        count += 1;
    }
    assert_eq!(count, item.len());
    assert_eq!(item.is_empty(), count == 0);
    assert_eq!(writer.finish(), Ok(data));
    assert_eq!(item.get("no such attribute\u{10ffff}"), None);
}

fn check_value(value: &ValueRef<'_>, encoded: &[u8]) {
    let mut again = Vec::new();
    value.encode(&mut again);
    assert_eq!(again, encoded);
    assert_eq!(value.encoded_bytes(), encoded.len());
    assert_eq!(ValueRef::validate(encoded), Ok(*value));
    assert_eq!(value.to_value().type_name(), value.type_name());
    match value {
        ValueRef::M(map) => {
            for (name, value) in map.iter() {
                assert_eq!(map.get(name), Some(value));
            }
        }
        ValueRef::L(list) => {
            for (index, value) in list.iter().enumerate() {
                assert_eq!(list.get(index), Some(value));
            }
        }
        ValueRef::Ss(set) | ValueRef::Ns(set) | ValueRef::Bs(set) => {
            assert!(set.iter().all(|member| set.contains(member)));
        }
        _ => {}
    }
}

/// An item with a value of every type.
pub(super) fn every_type() -> Item {
    let map = Map::from([
        ("deep".to_owned(), Value::L(vec![Value::M(Map::new()), Value::Null])),
        ("flag".to_owned(), Value::Bool(true)),
    ]);
    Item::new()
        .with("at", 7)
        .with("blob", vec![0, 255, 7])
        .with("bs", Value::Bs([vec![], vec![1]].into()))
        .with("count", 12)
        .with("id", "one")
        .with("list", vec![Value::from(1), Value::from("x"), Value::from(false)])
        .with("map", map)
        .with("ns", Value::Ns([Number::from(-3), Number::from(70_000_000)].into()))
        .with("null", Value::Null)
        .with("ss", Value::Ss(["a".to_owned(), "bb".to_owned()].into()))
}

/// An empty item, one of each type, and values nested as deep as they may be.
pub fn seeds() -> Vec<Vec<u8>> {
    let deepest = (0..32).fold(Value::from(1), |value, _| Value::L(vec![value]));
    let items = [Item::new(), every_type(), Item::new().with("d", deepest.clone())];
    let mut seeds: Vec<Vec<u8>> =
        items.iter().map(|item| item.to_bytes().expect("within the limits")).collect();
    let values = [deepest, Value::Ss(["s".to_owned()].into()), Value::M(every_type().0)];
    seeds.extend(values.iter().map(|value| value.to_bytes().expect("within the limits")));
    seeds
}
