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

/// The longest name.
const NAME_BYTES_MAX: usize = 32;

/// A key's name. Millions are made in an hour of simulation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name {
    bytes: [u8; NAME_BYTES_MAX],
    first: usize,
}

impl Name {
    /// `prefix`, and the number in at least so many digits.
    fn new(prefix: &str, mut number: usize, digits: usize) -> Name {
        let mut name = Name { bytes: [0; NAME_BYTES_MAX], first: NAME_BYTES_MAX };
        while number > 0 || NAME_BYTES_MAX - name.first < digits {
            name.first -= 1;
            name.bytes[name.first] = b'0' + (number % 10) as u8;
            number /= 10;
        }
        let end = name.first;
        name.first -= prefix.len();
        name.bytes[name.first..end].copy_from_slice(prefix.as_bytes());
        name
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.first..]).expect("made of strings")
    }
}

/// A key that is written again and again.
pub(super) fn register_name(key: usize) -> Name {
    Name::new("register-", key, 1)
}

/// A key of the ledger.
pub(super) fn entry_name(entry: usize) -> Name {
    Name::new("entry-", entry, 6)
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

/// The padding of a value: so many bytes, all the same.
fn pad(value: u64) -> (u8, usize) {
    ((value ^ (value >> 8)) as u8, pad_bytes(value))
}

/// Calls `then` with the padding.
fn padded<T>(value: u64, then: impl FnOnce(&[u8]) -> T) -> T {
    let (byte, length) = pad(value);
    if length <= 300 { then(&[byte; 300][..length]) } else { then(&vec![byte; length]) }
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
    let mut writer = ItemWriter::new(out);
    padded(value, |pad| writer.push("pad", ValueRef::B(pad))).expect("in order");
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
    let is_own = item.get(PK) == Some(ValueRef::S(name));
    if !is_own || !padded(value, |pad| item.get("pad") == Some(ValueRef::B(pad))) {
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
    let (byte, length) = pad(value);
    UpdateExpression::new()
        .set("v", Value::N(Number::from(value)))
        .set("pad", Value::from(vec![byte; length]))
        .compile()
        .expect("a small expression")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_their_numbers_in_digits() {
        for (key, name) in [(0, "register-0"), (7, "register-7"), (120, "register-120")] {
            assert_eq!(&*register_name(key), name);
        }
        for (entry, name) in
            [(0, "entry-000000"), (42, "entry-000042"), (1_234_567, "entry-1234567")]
        {
            assert_eq!(&*entry_name(entry), name);
        }
    }

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
