//! The items that clients keep: small, of every size, and able to tell whether they are whole.
//!
//! An item holds its key (`pk`), its value (`v`), and padding (`pad`) whose length and bytes follow
//! from the value: what was torn, mixed or swapped for another item shows.

use forebay_core::expression::{
    Comparison, Condition, ConditionExpression, Operand, Path, Update, UpdateExpression,
};
use forebay_core::item::{ItemRef, ItemWriter, Number, Value, ValueRef};

/// The table's partition key.
pub(super) const PK: &str = "pk";

/// A key that is written again and again.
pub(super) fn register_name(key: usize) -> String {
    format!("register-{key}")
}

/// A key of the ledger.
pub(super) fn entry_name(entry: usize) -> String {
    format!("entry-{entry:06}")
}

/// Most items are small; some fill a page, some take an extent of their own.
fn pad_bytes(value: u64) -> usize {
    match value % 64 {
        0 => 3_000,
        1 => 9_000,
        2..10 => 300,
        _ => 40,
    }
}

fn pad(value: u64) -> ([u8; 9_000], usize) {
    ([(value ^ (value >> 8)) as u8; 9_000], pad_bytes(value))
}

/// The key item of `name`, in `out`.
pub(super) fn key_item<'a>(out: &'a mut Vec<u8>, name: &str) -> &'a [u8] {
    out.clear();
    let mut writer = ItemWriter::new(out);
    writer.push(PK, ValueRef::S(name)).expect("a short key");
    writer.finish().expect("a small item")
}

/// The item of `name` with this value, in `out`.
pub(super) fn item<'a>(out: &'a mut Vec<u8>, name: &str, value: u64) -> &'a [u8] {
    out.clear();
    let (bytes, length) = pad(value);
    let mut writer = ItemWriter::new(out);
    writer.push("pad", ValueRef::B(&bytes[..length])).expect("in order");
    writer.push(PK, ValueRef::S(name)).expect("in order");
    writer.push("v", ValueRef::N(Number::from(value).as_ref())).expect("in order");
    writer.finish().expect("a small item")
}

/// The value of an item that was found under `name`; what is wrong with it, otherwise.
pub(super) fn value_of(bytes: &[u8], name: &str) -> Result<u64, String> {
    let item = ItemRef::validate(bytes)
        .map_err(|error| format!("the item found under {name} is none: {error}"))?;
    let value = match item.get("v") {
        Some(ValueRef::N(number)) => number.to_number().to_u64(),
        _ => None,
    };
    let value = value.ok_or_else(|| format!("the item found under {name} has no value"))?;
    let (expected, length) = pad(value);
    let is_own = item.get(PK) == Some(ValueRef::S(name));
    if !is_own || item.get("pad") != Some(ValueRef::B(&expected[..length])) {
        return Err(format!("the item found under {name} with value {value} is not whole"));
    }
    Ok(value)
}

/// Holds for an item of this value, or for none.
pub(super) fn is(value: Option<u64>) -> Condition {
    let condition = match value {
        None => ConditionExpression::not_exists(Path::attribute(PK)),
        Some(value) => ConditionExpression::compare(
            Operand::path("v"),
            Comparison::Equal,
            Operand::value(Value::N(Number::from(value))),
        ),
    };
    condition.compile().expect("a small expression")
}

/// Leaves this value.
pub(super) fn exchange(value: u64) -> Update {
    let (bytes, length) = pad(value);
    UpdateExpression::new()
        .set("v", Value::N(Number::from(value)))
        .set("pad", Value::from(bytes[..length].to_vec()))
        .compile()
        .expect("a small expression")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_tells_its_value_and_whether_it_is_whole() {
        for value in [1, 2, 63, 64, 65, 1_000_000] {
            let mut bytes = Vec::new();
            item(&mut bytes, "register-3", value);
            assert_eq!(value_of(&bytes, "register-3"), Ok(value));
            assert!(value_of(&bytes, "register-4").is_err());
            let at = bytes.windows(20).position(|w| w.iter().all(|b| *b == w[0])).unwrap();
            bytes[at] ^= 1;
            assert!(value_of(&bytes, "register-3").is_err());
        }
    }
}
