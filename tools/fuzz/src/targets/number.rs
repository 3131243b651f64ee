//! Numbers. Input: a length (1 byte), then two numbers, tried as text and as the byte form.

use std::cmp::Ordering;

use forebay_core::item::{Number, NumberRef};

use super::Input;

/// One byte form for each number, in the order of the numbers, and exact arithmetic.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let length = usize::from(input.byte());
    let halves = [input.take(length), input.0];
    let numbers = halves.map(|half| [text_form(half), byte_form(half)]);
    for a in numbers[0].iter().flatten() {
        for b in numbers[1].iter().flatten() {
            check_pair(a, b);
        }
    }
}

fn text_form(bytes: &[u8]) -> Option<Number> {
    let number: Number = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    check(&number);
    Some(number)
}

fn byte_form(bytes: &[u8]) -> Option<Number> {
    let number = NumberRef::validate(bytes).ok()?.to_number();
    assert_eq!(number.as_bytes(), bytes);
    assert_eq!(Number::from_bytes(bytes), Ok(number));
    check(&number);
    Some(number)
}

fn check(number: &Number) {
    let text = number.to_string();
    assert_eq!(text.parse(), Ok(*number), "{text} is the same number when read again");
    assert!(NumberRef::validate(number.as_bytes()).is_ok());
    assert_eq!(number.is_negative(), text.starts_with('-'));
    assert_eq!(number.is_zero(), text == "0");
    assert_eq!(number.negated().negated(), *number);
    assert_eq!(number.to_i64(), text.parse().ok());
    assert_eq!(number.to_u64(), text.parse().ok());
}

fn check_pair(a: &Number, b: &Number) {
    let (text_a, text_b) = (a.to_string(), b.to_string());
    assert_eq!(a.cmp(b), compare(&text_a, &text_b), "{text_a} and {text_b}");
    let sum = a.checked_add(b);
    assert_eq!(sum, b.checked_add(a));
    if let Ok(sum) = sum {
        check(&sum);
        assert_eq!(sum.checked_sub(b), Ok(*a), "sums are exact");
    }
}

/// Compares plain decimal texts without the help of the code under test.
fn compare(a: &str, b: &str) -> Ordering {
    let magnitude = |text: &str| {
        let text = text.trim_start_matches('-');
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        (whole.len(), whole.to_owned(), fraction.to_owned())
    };
    match (a.starts_with('-'), b.starts_with('-')) {
        (false, true) => Ordering::Greater,
        (true, false) => Ordering::Less,
        (false, false) => magnitude(a).cmp(&magnitude(b)),
        (true, true) => magnitude(b).cmp(&magnitude(a)),
    }
}

/// Texts and byte forms at the edges.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "0",
        "-1",
        "+0010.50e-2",
        "9.9999999999999999999999999999999999999E+125",
        "-1E-130",
        "12345678901234567890123456789012345678",
        ".5",
        "18446744073709551615",
    ];
    let pair = |a: &[u8], b: &[u8]| [&[a.len() as u8], a, b].concat();
    let mut seeds = Vec::new();
    for (a, b) in texts.iter().zip(texts.iter().cycle().skip(1)) {
        seeds.push(pair(a.as_bytes(), b.as_bytes()));
        let bytes = [a, b].map(|text| text.parse::<Number>().expect("a number"));
        seeds.push(pair(bytes[0].as_bytes(), bytes[1].as_bytes()));
    }
    seeds
}
