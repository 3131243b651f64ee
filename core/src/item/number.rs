//! Numbers as DynamoDB has them: decimal, 38 significant digits, exact.
//!
//! The range is zero and the magnitudes 1E-130 ..= 9.99...E+125. A number is kept in the form in
//! which it is stored, a few bytes whose `memcmp` order is the numeric order, so that comparing,
//! hashing, set membership and sort keys need no decoding; only arithmetic and printing unpack it.
//!
//! # Byte form
//!
//! A magnitude is written in base 100, `p0.p1p2... x 100^x` with `1 <= p0 <= 99`, so that x runs
//! from -65 to 62: 128 exponents. With the sign that makes 256 first bytes, all of them used.
//!
//! ```text
//! positive   [0x80 + x+65]  p0 p1 p2 ...                 last pair is not 0     2..=21 bytes
//! zero       [0x80]                                      a prefix, so it sorts before them
//! negative   [0x7f - x-65]  254-p0 254-p1 ...  0xff      greater magnitude sorts first
//!                                                                               3..=22 bytes
//!      0x00 ........ 0x7f | 0x80 ........ 0xff
//!      -9.9E125   -1E-130 | 0, 1E-130 ... 9.9E125
//! ```
//!
//! A positive number that is a prefix of another one is smaller, as in `memcmp`. For negative ones
//! the closing 0xff, above every complemented pair, turns that round. The form is unique: leading
//! and trailing zeros are never stored. (The idea is Oracle's NUMBER and, later, SQLite 4's key
//! encoding.)
//!
//! Arithmetic is exact or an error: DynamoDB does not round, neither does this.

use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::str::FromStr;

use crate::limits::NUMBER_DIGITS_MAX;

/// Longest byte form.
pub const NUMBER_BYTES_MAX: usize = 22;
/// Decimal exponent of the smallest magnitude, 1E-130.
pub const EXPONENT_MIN: i32 = -130;
/// Decimal exponent of the largest magnitude, 9.99E+125.
pub const EXPONENT_MAX: i32 = 125;

const ZERO: u8 = 0x80;
const PAIR_EXPONENT_BIAS: i32 = 0x80 + 65;
const PAIRS_MAX: usize = 20;
const COMPLEMENT: u8 = 254;
const NEGATIVE_END: u8 = 0xff;

// Both ends of the exponent range land on the ends of the first byte.
const _: () = assert!(EXPONENT_MIN.div_euclid(2) + PAIR_EXPONENT_BIAS == 0x80);
const _: () = assert!(EXPONENT_MAX.div_euclid(2) + PAIR_EXPONENT_BIAS == 0xff);
// 38 digits that start in the middle of a pair fill 20 pairs; then exponent and end.
const _: () = assert!(NUMBER_DIGITS_MAX / 2 + 1 == PAIRS_MAX && PAIRS_MAX + 2 == NUMBER_BYTES_MAX);

/// Why a text, a byte string or a sum is not a number. The caller's value must change; no retry
/// helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// The text is not a decimal number.
    #[error("not a number: unexpected text at offset {offset}")]
    NotANumber {
        /// Where it stops being one.
        offset: usize,
    },
    /// More than 38 significant digits.
    #[error("more than 38 significant digits")]
    TooManyDigits,
    /// Magnitude of 1E+126 or more.
    #[error("number overflow: magnitude larger than 9.9999999999999999999999999999999999999E+125")]
    Overflow,
    /// Magnitude under 1E-130, but not zero.
    #[error("number underflow: magnitude smaller than 1E-130")]
    Underflow,
    /// Bytes that are not the canonical form of any number.
    #[error("not the canonical byte form of a number")]
    NotCanonical,
}

/// A decimal number of up to 38 digits, inline.
#[derive(Clone, Copy)]
pub struct Number {
    length: u8,
    bytes: [u8; NUMBER_BYTES_MAX],
}

/// A number's canonical bytes inside an item.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumberRef<'a>(&'a [u8]);

/// A number taken apart: `d0.d1d2... x 10^exponent`, first and last digit not zero; no digits for
/// zero.
struct Digits {
    negative: bool,
    count: usize,
    digits: [u8; 2 * PAIRS_MAX],
    exponent: i32,
}

impl Number {
    /// Zero.
    pub const ZERO: Number = {
        let mut bytes = [0; NUMBER_BYTES_MAX];
        bytes[0] = ZERO;
        Number { length: 1, bytes }
    };

    /// The order-preserving canonical form.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Reads the canonical form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Number, NumberError> {
        check(bytes)?;
        Ok(Number::copy(bytes))
    }

    /// The number as a view.
    #[inline]
    #[must_use]
    pub fn as_ref(&self) -> NumberRef<'_> {
        NumberRef(self.as_bytes())
    }

    /// `coefficient x 10^exponent`, negated on demand.
    pub fn from_parts(
        negative: bool,
        coefficient: u128,
        exponent: i32,
    ) -> Result<Number, NumberError> {
        // Nineteen digits at a time, because 128-bit division is slow.
        const PART: u128 = 10u128.pow(19);
        let mut digits = [0u8; 40];
        let mut start = digits.len();
        let mut rest = coefficient;
        while rest > 0 {
            let last = rest < PART;
            let (higher, mut part) =
                if last { (0, rest as u64) } else { (rest / PART, (rest % PART) as u64) };
            let part_start = start.saturating_sub(19);
            while part > 0 || (!last && start > part_start) {
                start -= 1;
                digits[start] = (part % 10) as u8;
                part /= 10;
            }
            rest = higher;
        }
        let all = &digits[start..];
        let zeros = all.iter().rev().take_while(|&&digit| digit == 0).count();
        let top = exponent.saturating_add(all.len() as i32 - 1);
        pack(negative, &all[..all.len() - zeros], top)
    }

    /// The exact sum.
    pub fn checked_add(&self, other: &Number) -> Result<Number, NumberError> {
        let (a_negative, a, a_exponent) = self.as_ref().parts();
        let (b_negative, b, b_exponent) = other.as_ref().parts();
        if a == 0 {
            return Ok(*other);
        }
        if b == 0 {
            return Ok(*self);
        }
        // Bring both to the lower exponent. The lower one's last digit is not zero, so the sum has
        // a digit in that place. If the scaled coefficient overflows 128 bits (3.4E38), the sum,
        // which differs by less than 1E38, has more than 38 digits down to that place.
        let exponent = a_exponent.min(b_exponent);
        let a = scale(a, a_exponent - exponent).ok_or(NumberError::TooManyDigits)?;
        let b = scale(b, b_exponent - exponent).ok_or(NumberError::TooManyDigits)?;
        let (negative, sum) = if a_negative == b_negative {
            (a_negative, a.checked_add(b).ok_or(NumberError::TooManyDigits)?)
        } else if a >= b {
            (a_negative, a - b)
        } else {
            (b_negative, b - a)
        };
        Number::from_parts(negative, sum, exponent)
    }

    /// The exact difference.
    pub fn checked_sub(&self, other: &Number) -> Result<Number, NumberError> {
        self.checked_add(&other.negated())
    }

    /// The number with the other sign.
    #[must_use]
    pub fn negated(&self) -> Number {
        let length = usize::from(self.length);
        let mut negated = *self;
        if length == 1 {
            return negated;
        }
        negated.bytes[0] = !self.bytes[0];
        if self.is_negative() {
            negated.bytes[length - 1] = 0;
            negated.length -= 1;
        } else {
            negated.bytes[length] = NEGATIVE_END;
            negated.length += 1;
        }
        let pairs_end = length.min(usize::from(negated.length));
        for pair in &mut negated.bytes[1..pairs_end] {
            *pair = COMPLEMENT - *pair;
        }
        negated
    }

    /// True below zero.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.bytes[0] < ZERO
    }

    /// True for zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.length == 1
    }

    /// The value, if it is whole and fits.
    #[must_use]
    pub fn to_i64(&self) -> Option<i64> {
        let (negative, magnitude) = self.as_ref().whole()?;
        let magnitude = i128::try_from(magnitude).ok()?;
        i64::try_from(if negative { -magnitude } else { magnitude }).ok()
    }

    /// The value, if it is whole, not negative, and fits.
    #[must_use]
    pub fn to_u64(&self) -> Option<u64> {
        let (negative, magnitude) = self.as_ref().whole()?;
        if negative { None } else { u64::try_from(magnitude).ok() }
    }

    fn copy(canonical: &[u8]) -> Number {
        let mut bytes = [0; NUMBER_BYTES_MAX];
        bytes[..canonical.len()].copy_from_slice(canonical);
        Number { length: canonical.len() as u8, bytes }
    }
}

impl<'a> NumberRef<'a> {
    /// A view of bytes, if they are the canonical form of a number.
    pub fn validate(bytes: &'a [u8]) -> Result<NumberRef<'a>, NumberError> {
        check(bytes)?;
        Ok(NumberRef(bytes))
    }

    /// A view of bytes that were validated earlier.
    #[inline]
    #[must_use]
    pub fn trusted(bytes: &'a [u8]) -> NumberRef<'a> {
        NumberRef(bytes)
    }

    /// The order-preserving canonical form.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The number itself.
    #[must_use]
    pub fn to_number(&self) -> Number {
        Number::copy(self.0)
    }

    fn digits(&self) -> Digits {
        let bytes = self.0;
        let mut unpacked =
            Digits { negative: bytes[0] < ZERO, count: 0, digits: [0; 2 * PAIRS_MAX], exponent: 0 };
        if bytes.len() == 1 {
            return unpacked;
        }
        let negative = unpacked.negative;
        let first = if negative { !bytes[0] } else { bytes[0] };
        let pairs = if negative { &bytes[1..bytes.len() - 1] } else { &bytes[1..] };
        let pair_of = |byte: u8| if negative { COMPLEMENT - byte } else { byte };
        unpacked.exponent = 2 * (i32::from(first) - PAIR_EXPONENT_BIAS);
        let mut push = |digit: u8| {
            unpacked.digits[unpacked.count] = digit;
            unpacked.count += 1;
        };
        for (index, &byte) in pairs.iter().enumerate() {
            let pair = pair_of(byte);
            if index > 0 || pair >= 10 {
                push(pair / 10);
            }
            if index + 1 < pairs.len() || !pair.is_multiple_of(10) {
                push(pair % 10);
            }
        }
        if pair_of(pairs[0]) >= 10 {
            unpacked.exponent += 1;
        }
        unpacked
    }

    /// Sign, coefficient and the exponent of its last digit.
    fn parts(&self) -> (bool, u128, i32) {
        let unpacked = self.digits();
        let coefficient = unpacked.digits[..unpacked.count]
            .chunks(19)
            .map(|half| {
                let value = half.iter().fold(0u64, |value, &digit| value * 10 + u64::from(digit));
                (value, 10u64.pow(half.len() as u32))
            })
            .fold(0u128, |whole, (half, shift)| whole * u128::from(shift) + u128::from(half));
        let last = unpacked.exponent - (unpacked.count as i32 - 1).max(0);
        (unpacked.negative, coefficient, last)
    }

    fn whole(&self) -> Option<(bool, u128)> {
        let (negative, coefficient, exponent) = self.parts();
        if exponent < 0 { None } else { Some((negative, scale(coefficient, exponent)?)) }
    }
}

fn scale(coefficient: u128, by: i32) -> Option<u128> {
    coefficient.checked_mul(10u128.checked_pow(by as u32)?)
}

/// Builds the byte form from digits without leading or trailing zeros.
fn pack(negative: bool, digits: &[u8], exponent: i32) -> Result<Number, NumberError> {
    if digits.is_empty() {
        return Ok(Number::ZERO);
    }
    debug_assert!(digits[0] != 0 && digits[digits.len() - 1] != 0);
    if digits.len() > NUMBER_DIGITS_MAX {
        return Err(NumberError::TooManyDigits);
    }
    if exponent > EXPONENT_MAX {
        return Err(NumberError::Overflow);
    }
    if exponent < EXPONENT_MIN {
        return Err(NumberError::Underflow);
    }
    let mut bytes = [0u8; NUMBER_BYTES_MAX];
    let first = (exponent.div_euclid(2) + PAIR_EXPONENT_BIAS) as u8;
    bytes[0] = if negative { !first } else { first };
    let mut length = 1;
    let mut push = |pair: u8| {
        bytes[length] = if negative { COMPLEMENT - pair } else { pair };
        length += 1;
    };
    let alone = usize::from(exponent.rem_euclid(2) == 0);
    if alone == 1 {
        push(digits[0]);
    }
    for pair in digits[alone..].chunks(2) {
        push(pair[0] * 10 + pair.get(1).copied().unwrap_or(0));
    }
    if negative {
        bytes[length] = NEGATIVE_END;
        length += 1;
    }
    Ok(Number { length: length as u8, bytes })
}

/// Whether bytes are the canonical form of a number.
pub(crate) fn check(bytes: &[u8]) -> Result<(), NumberError> {
    let (pairs, complement) = match bytes {
        [ZERO] => return Ok(()),
        [first, pairs @ ..] if *first >= ZERO => (pairs, 0),
        [_, pairs @ .., NEGATIVE_END] => (pairs, COMPLEMENT),
        _ => return Err(NumberError::NotCanonical),
    };
    if pairs.is_empty() || pairs.len() > PAIRS_MAX {
        return Err(NumberError::NotCanonical);
    }
    let pair_of = |byte: u8| if complement == 0 { byte } else { complement.wrapping_sub(byte) };
    let (first, last) = (pair_of(pairs[0]), pair_of(pairs[pairs.len() - 1]));
    if first == 0 || last == 0 || pairs.iter().any(|&byte| pair_of(byte) > 99) {
        return Err(NumberError::NotCanonical);
    }
    let digits = 2 * pairs.len() - usize::from(first < 10) - usize::from(last.is_multiple_of(10));
    if digits > NUMBER_DIGITS_MAX { Err(NumberError::NotCanonical) } else { Ok(()) }
}

impl FromStr for Number {
    type Err = NumberError;

    /// `[+-] digits [. digits] [(e|E) [+-] digits]`, with at least one digit before or after the
    /// point. Zeros at either end do not count as digits.
    fn from_str(text: &str) -> Result<Number, NumberError> {
        let text = text.as_bytes();
        let not_a_number = |offset: usize| NumberError::NotANumber { offset };
        let mut at = 0;
        let negative = match text.first() {
            Some(sign @ (b'+' | b'-')) => {
                at = 1;
                *sign == b'-'
            }
            _ => false,
        };

        let mut digits = [0u8; NUMBER_DIGITS_MAX];
        let mut count = 0usize; // digits from the first to the last that is not zero
        let mut zeros = 0usize; // seen after them, trailing unless another digit follows
        let mut exponent = 0i64; // of the first digit
        let mut seen = false;
        let mut point = false;
        while let Some(&byte) = text.get(at) {
            match byte {
                b'0'..=b'9' => {
                    seen = true;
                    if byte == b'0' {
                        if count > 0 {
                            zeros += 1;
                        }
                    } else {
                        for digit in core::iter::repeat_n(0, zeros).chain([byte - b'0']) {
                            if count < NUMBER_DIGITS_MAX {
                                digits[count] = digit;
                            }
                            count += 1;
                        }
                        zeros = 0;
                    }
                    // The exponent counts places: down before the first digit of a fraction, up
                    // after the first digit of a whole part.
                    let first = count == 1 && byte != b'0';
                    if point && (count == 0 || first) {
                        exponent -= 1;
                    } else if !point && count > 0 && !first {
                        exponent += 1;
                    }
                }
                b'.' if !point => point = true,
                b'e' | b'E' => break,
                _ => return Err(not_a_number(at)),
            }
            at += 1;
        }
        if !seen {
            return Err(not_a_number(at));
        }
        if at < text.len() {
            exponent = exponent.saturating_add(parse_exponent(text, at + 1)?);
        }
        if count > NUMBER_DIGITS_MAX {
            return Err(NumberError::TooManyDigits);
        }
        let exponent = exponent.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
        pack(negative, &digits[..count], exponent)
    }
}

fn parse_exponent(text: &[u8], mut at: usize) -> Result<i64, NumberError> {
    let negative = match text.get(at) {
        Some(sign @ (b'+' | b'-')) => {
            at += 1;
            *sign == b'-'
        }
        _ => false,
    };
    if at == text.len() {
        return Err(NumberError::NotANumber { offset: at });
    }
    let mut value = 0i64;
    for (offset, &byte) in text.iter().enumerate().skip(at) {
        if !byte.is_ascii_digit() {
            return Err(NumberError::NotANumber { offset });
        }
        value = value.saturating_mul(10).saturating_add(i64::from(byte - b'0'));
    }
    Ok(if negative { -value } else { value })
}

impl fmt::Display for NumberRef<'_> {
    /// DynamoDB's form: plain digits, no exponent, no needless zeros.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const TEXT_BYTES_MAX: usize = 3 + 130 + NUMBER_DIGITS_MAX;
        let unpacked = self.digits();
        let mut text = [b'0'; TEXT_BYTES_MAX];
        let mut length = 0;
        let mut push = |byte: u8| {
            text[length] = byte;
            length += 1;
        };
        if unpacked.count == 0 {
            return f.write_str("0");
        }
        if unpacked.negative {
            push(b'-');
        }
        let whole = unpacked.exponent.max(0);
        let lowest = unpacked.exponent - (unpacked.count as i32 - 1);
        for place in (lowest.min(0)..=whole).rev() {
            if place == -1 {
                push(b'.');
            }
            let index = unpacked.exponent - place;
            let digit = usize::try_from(index).ok().filter(|&index| index < unpacked.count);
            push(b'0' + digit.map_or(0, |index| unpacked.digits[index]));
        }
        f.write_str(core::str::from_utf8(&text[..length]).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for NumberRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Number {
    /// DynamoDB's form: plain digits, no exponent, no needless zeros.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.as_ref(), f)
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Default for Number {
    fn default() -> Number {
        Number::ZERO
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Number {}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Number) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Number) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for Number {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

macro_rules! from_integer {
    ($($integer:ty),*) => {$(
        impl From<$integer> for Number {
            fn from(value: $integer) -> Number {
                let magnitude = i128::from(value).unsigned_abs();
                Number::from_parts(i128::from(value) < 0, magnitude, 0)
                    .expect("20 digits without exponent are in range")
            }
        }
    )*};
}
from_integer!(i32, u32, i64, u64);

#[cfg(test)]
mod tests;
