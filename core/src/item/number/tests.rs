//! Numbers: parsing, order, exact arithmetic.

use core::cmp::Ordering;

use proptest::prelude::*;

use super::*;

/// The naive oracle: a sign and one digit for every decimal place from 10^140 down to 10^-180.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grid {
    negative: bool,
    digits: Vec<u8>,
}

const TOP: i32 = 140;
const PLACES: usize = 321;

impl Grid {
    fn new(negative: bool, digits: &str, last_place: i32) -> Grid {
        let mut grid = Grid { negative, digits: vec![0; PLACES] };
        for (index, digit) in digits.bytes().rev().enumerate() {
            grid.digits[(TOP - last_place) as usize - index] = digit - b'0';
        }
        grid.negative &= !grid.is_zero();
        grid
    }

    fn is_zero(&self) -> bool {
        self.digits.iter().all(|&digit| digit == 0)
    }

    fn compare(&self, other: &Grid) -> Ordering {
        match (self.negative, other.negative) {
            (false, false) => self.digits.cmp(&other.digits),
            (true, true) => other.digits.cmp(&self.digits),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }

    fn add(&self, other: &Grid) -> Grid {
        let (large, small) =
            if self.digits >= other.digits { (self, other) } else { (other, self) };
        let sign = if large.negative == small.negative { 1 } else { -1 };
        let mut sum = large.clone();
        let mut carry = 0i32;
        for place in (0..PLACES).rev() {
            let total =
                i32::from(large.digits[place]) + sign * i32::from(small.digits[place]) + carry;
            sum.digits[place] = total.rem_euclid(10) as u8;
            carry = total.div_euclid(10);
        }
        assert_eq!(carry, 0);
        sum.negative &= !sum.is_zero();
        sum
    }

    /// Plain digits, as DynamoDB prints them.
    fn plain(&self) -> String {
        let text: String = self.digits.iter().map(|digit| char::from(b'0' + digit)).collect();
        let (whole, fraction) = text.split_at(TOP as usize + 1);
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let sign = if self.negative { "-" } else { "" };
        let whole = if whole.is_empty() { "0" } else { whole };
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{sign}{whole}{point}{fraction}")
    }

    /// What a number of this value must be.
    fn expected(&self) -> Result<String, NumberError> {
        let Some(first) = self.digits.iter().position(|&digit| digit != 0) else {
            return Ok("0".to_owned());
        };
        let last = self.digits.iter().rposition(|&digit| digit != 0).unwrap();
        match TOP - first as i32 {
            _ if last - first >= 38 => Err(NumberError::TooManyDigits),
            126.. => Err(NumberError::Overflow),
            ..-130 => Err(NumberError::Underflow),
            _ => Ok(self.plain()),
        }
    }
}

fn parse(text: &str) -> Result<Number, NumberError> {
    text.parse()
}

/// Digits, the place of the last one, a sign, and a text that says the same in some notation.
fn any_decimal() -> impl Strategy<Value = (Grid, String)> {
    let digits = prop_oneof![3 => "[0-9]{1,40}", 1 => "0{0,3}[1-9]0{0,36}", 1 => "9{1,38}"];
    let place = prop_oneof![-6i32..6, -170i32..100];
    (any::<bool>(), digits, place, 0usize..60, any::<bool>()).prop_map(
        |(negative, digits, place, point, upper)| {
            let grid = Grid::new(negative, &digits, place);
            // Move the point somewhere into the digits and say so in the exponent.
            let point = point.min(digits.len());
            let (whole, fraction) = digits.split_at(digits.len() - point);
            let exponent = place + point as i32;
            let sign = if negative { "-" } else { "" };
            let letter = if upper { "E" } else { "e" };
            let text = match (point, exponent) {
                (0, 0) => format!("{sign}{whole}"),
                (_, 0) => format!("{sign}{whole}.{fraction}"),
                (0, _) => format!("{sign}{whole}{letter}{exponent}"),
                _ => format!("{sign}{whole}.{fraction}{letter}{exponent:+}"),
            };
            (grid, text)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn texts_are_read_exactly_or_refused((grid, text) in any_decimal()) {
        let parsed = parse(&text);
        prop_assert_eq!(parsed.map(|number| number.to_string()), grid.expected(), "{}", text);
        if let Ok(number) = parsed {
            prop_assert_eq!(Number::from_bytes(number.as_bytes()), Ok(number));
            prop_assert_eq!(parse(&number.to_string()), Ok(number));
            prop_assert_eq!(number.is_negative(), grid.negative);
            prop_assert_eq!(number.is_zero(), grid.is_zero());
            let (negative, coefficient, exponent) = number.as_ref().parts();
            prop_assert_eq!(Number::from_parts(negative, coefficient, exponent), Ok(number));
        }
    }

    #[test]
    fn bytes_order_as_numbers_do((a, a_text) in any_decimal(), (b, b_text) in any_decimal()) {
        if let (Ok(x), Ok(y)) = (parse(&a_text), parse(&b_text)) {
            prop_assert_eq!(x.as_bytes().cmp(y.as_bytes()), a.compare(&b));
            prop_assert_eq!(x.cmp(&y), a.compare(&b));
            prop_assert_eq!(x.negated().cmp(&y.negated()), b.compare(&a));
            prop_assert_eq!(x.negated().negated(), x);
        }
    }

    #[test]
    fn sums_are_exact_or_refused((a, a_text) in any_decimal(), (b, b_text) in any_decimal()) {
        if let (Ok(x), Ok(y)) = (parse(&a_text), parse(&b_text)) {
            let sum = x.checked_add(&y).map(|number| number.to_string());
            prop_assert_eq!(sum, a.add(&b).expected(), "{} + {}", x, y);
            let negated = Grid { negative: !b.negative && !b.is_zero(), ..b };
            let difference = x.checked_sub(&y).map(|number| number.to_string());
            prop_assert_eq!(difference, a.add(&negated).expected(), "{} - {}", x, y);
        }
    }

    #[test]
    fn whole_sums_agree_with_integers(a in any::<i64>(), b in any::<i64>()) {
        let (x, y) = (Number::from(a), Number::from(b));
        let sum = x.checked_add(&y).unwrap();
        prop_assert_eq!(sum.to_string(), (i128::from(a) + i128::from(b)).to_string());
        let difference = x.checked_sub(&y).unwrap();
        prop_assert_eq!(difference.to_string(), (i128::from(a) - i128::from(b)).to_string());
        prop_assert_eq!(x.to_i64(), Some(a));
        prop_assert_eq!(Number::from(a as u64).to_u64(), Some(a as u64));
        prop_assert_eq!(x.cmp(&y), a.cmp(&b));
    }

    #[test]
    fn accepted_bytes_are_canonical(bytes in proptest::collection::vec(
        prop_oneof![Just(0u8), Just(0x7f), Just(0x80), Just(0xff), 0u8..100, 154u8..=255], 0..24,
    )) {
        if let Ok(number) = Number::from_bytes(&bytes) {
            prop_assert_eq!(parse(&number.to_string()), Ok(number));
            prop_assert_eq!(number.as_bytes(), bytes);
        }
    }

    #[test]
    fn texts_of_any_kind_never_panic(text in "[-+.eE0-9 x]{0,12}") {
        if let Ok(number) = parse(&text) {
            prop_assert!(text.parse::<f64>().is_ok_and(|float| (float != 0.0) != number.is_zero()));
        }
    }
}

#[test]
fn golden_bytes() {
    let bytes = |text: &str| parse(text).unwrap().as_bytes().to_vec();
    assert_eq!(bytes("0"), [0x80]);
    assert_eq!(bytes("-0.00"), [0x80]);
    assert_eq!(bytes("1"), [0xc1, 1]);
    assert_eq!(bytes("-1"), [0x3e, 253, 0xff]);
    assert_eq!(bytes("10"), [0xc1, 10]);
    assert_eq!(bytes("100"), [0xc2, 1]);
    assert_eq!(bytes("123.45"), [0xc2, 1, 23, 45]);
    assert_eq!(bytes("0.5"), [0xc0, 50]);
    assert_eq!(bytes("1E-130"), [0x80, 1]);
    assert_eq!(bytes("1E125"), [0xff, 10]);
    let longest = bytes(&format!("-1{}", "1".repeat(36) + "1e-10"));
    assert_eq!(longest.len(), NUMBER_BYTES_MAX - 1);
    let longest = bytes(&format!("-1.{}", "1".repeat(37)));
    assert_eq!(longest.len(), NUMBER_BYTES_MAX);
}

#[test]
fn limits_of_range_and_digits() {
    let largest = format!("{}E+125", "9.".to_owned() + &"9".repeat(37));
    assert_eq!(parse(&largest).unwrap().to_string(), "9".repeat(38) + &"0".repeat(88));
    assert_eq!(parse("1E126"), Err(NumberError::Overflow));
    assert_eq!(parse("-1E126"), Err(NumberError::Overflow));
    assert_eq!(parse("0.1E127"), Err(NumberError::Overflow));
    assert_eq!(parse("0.1E126").unwrap(), parse("1E125").unwrap());
    assert_eq!(parse("9.9E-131"), Err(NumberError::Underflow));
    assert_eq!(parse("1E-130").unwrap().to_string(), format!("0.{}1", "0".repeat(129)));
    assert_eq!(parse(&"1".repeat(39)), Err(NumberError::TooManyDigits));
    assert!(parse(&("0".repeat(500) + &"1".repeat(38) + "." + &"0".repeat(500))).is_ok());
    assert_eq!(parse("1E99999999999999999999999"), Err(NumberError::Overflow));
    assert_eq!(parse("1E-99999999999999999999999"), Err(NumberError::Underflow));
    assert_eq!(parse("0E99999999999999999999999"), Ok(Number::ZERO));
    let largest = parse(&largest).unwrap();
    assert_eq!(largest.checked_add(&largest), Err(NumberError::TooManyDigits));
    let round = parse("9E125").unwrap();
    assert_eq!(round.checked_add(&round), Err(NumberError::Overflow));
    let tiny = parse("1.1E-130").unwrap();
    assert_eq!(tiny.checked_sub(&parse("1E-130").unwrap()), Err(NumberError::Underflow));
}

#[test]
fn texts_that_are_no_numbers_are_refused_with_the_offset() {
    let offset_of = |text: &str| match parse(text) {
        Err(NumberError::NotANumber { offset }) => offset,
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(offset_of(""), 0);
    assert_eq!(offset_of("-"), 1);
    assert_eq!(offset_of("."), 1);
    assert_eq!(offset_of("1.2.3"), 3);
    assert_eq!(offset_of("1e"), 2);
    assert_eq!(offset_of("1e+"), 3);
    assert_eq!(offset_of("1e5x"), 3);
    assert_eq!(offset_of(" 1"), 0);
    assert_eq!(offset_of("1 "), 1);
    assert_eq!(offset_of("NaN"), 0);
    assert_eq!(offset_of("0x10"), 1);
    assert_eq!(offset_of("--1"), 1);
    assert_eq!(parse(".5").unwrap(), parse("0.5").unwrap());
    assert_eq!(parse("5.").unwrap(), parse("+5").unwrap());
}

#[test]
fn bytes_that_are_not_canonical_are_refused() {
    for bytes in [
        &[][..],
        &[0xc1],
        &[0xc1, 0],
        &[0xc1, 0, 1],
        &[0xc1, 1, 0],
        &[0xc1, 100],
        &[0x3e, 253],
        &[0x3e, 0xff],
        &[0x3e, 254, 0xff],
        &[0x3e, 253, 254, 0xff],
        &[0x3e, 253, 0xff, 0xff],
        &[0x7f],
        &[0x80, 0],
    ] {
        assert_eq!(Number::from_bytes(bytes), Err(NumberError::NotCanonical), "{bytes:?}");
    }
    let pairs = |first: u8, last: u8| {
        let mut bytes = vec![0xc1, first];
        bytes.extend([1; 18]);
        bytes.push(last);
        Number::from_bytes(&bytes)
    };
    assert!(pairs(9, 10).is_ok());
    assert_eq!(pairs(10, 10), Err(NumberError::NotCanonical));
    assert_eq!(pairs(9, 1), Err(NumberError::NotCanonical));
}

#[test]
fn whole_numbers_convert_and_others_do_not() {
    assert_eq!(parse("1e3").unwrap().to_u64(), Some(1000));
    assert_eq!(parse("-9223372036854775808").unwrap().to_i64(), Some(i64::MIN));
    assert_eq!(parse("9223372036854775808").unwrap().to_i64(), None);
    assert_eq!(parse("18446744073709551615").unwrap().to_u64(), Some(u64::MAX));
    assert_eq!(parse("18446744073709551616").unwrap().to_u64(), None);
    assert_eq!(parse("1.5").unwrap().to_i64(), None);
    assert_eq!(parse("-1").unwrap().to_u64(), None);
    assert_eq!(parse("1e125").unwrap().to_u64(), None);
}
