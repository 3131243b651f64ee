//! How long values are, as one writes it.
//!
//! | text | meaning |
//! |---|---|
//! | `100` | always 100 bytes |
//! | `uniform:50-500` | every length from 50 to 500 alike |
//! | `list:100x70,1000x25,10000x5` | 100 bytes with weight 70, 1000 with 25, 10000 with 5 |
//!
//! A list draws any shape, a lognormal one too, and says in a report exactly what was written; the
//! parameters of a formula would not.

use std::fmt;
use std::str::FromStr;

use rand::{Rng as _, RngCore};
use serde::{Deserialize, Serialize};

/// The longest value that any target here takes.
const VALUE_BYTES_MAX: usize = 390_000;

/// How long values are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Sizes {
    /// All alike.
    Fixed(usize),
    /// Every length in between, alike.
    Uniform {
        /// The shortest.
        min: usize,
        /// The longest.
        max: usize,
    },
    /// Lengths with their weights, each weight counting those before it too.
    List(Vec<(usize, u32)>),
}

const EXPECTED: &str = "expected BYTES, uniform:MIN-MAX or list:BYTESxWEIGHT,BYTESxWEIGHT…, with \
     lengths from 1 to 390000";

impl Sizes {
    /// Lengths with weights of their own.
    pub(crate) fn list(parts: &[(u64, u64)]) -> Result<Sizes, String> {
        let mut list = Vec::new();
        let mut sum = 0u32;
        for &(bytes, weight) in parts {
            let weight = u32::try_from(weight).ok().filter(|&weight| weight > 0);
            sum = weight
                .and_then(|weight| sum.checked_add(weight))
                .ok_or_else(|| format!("a weight is a whole number above 0: {EXPECTED}"))?;
            list.push((length(bytes)?, sum));
        }
        match list.is_empty() {
            true => Err(format!("an empty list: {EXPECTED}")),
            false => Ok(Sizes::List(list)),
        }
    }

    /// Every length from `min` to `max`.
    pub(crate) fn uniform(min: u64, max: u64) -> Result<Sizes, String> {
        match (length(min)?, length(max)?) {
            (min, max) if min <= max => Ok(Sizes::Uniform { min, max }),
            _ => Err(format!("{min} is more than {max}: {EXPECTED}")),
        }
    }

    /// Always `bytes`.
    pub(crate) fn fixed(bytes: u64) -> Result<Sizes, String> {
        length(bytes).map(Sizes::Fixed)
    }

    /// Whether they make sense; those of the command line do.
    pub(super) fn is_sound(&self) -> bool {
        let is_length = |bytes: usize| (1..=VALUE_BYTES_MAX).contains(&bytes);
        match self {
            Sizes::Fixed(bytes) => is_length(*bytes),
            Sizes::Uniform { min, max } => is_length(*min) && is_length(*max) && min <= max,
            Sizes::List(list) => {
                !list.is_empty()
                    && list.iter().all(|(bytes, sum)| is_length(*bytes) && *sum > 0)
                    && list.windows(2).all(|two| two[0].1 < two[1].1)
            }
        }
    }

    /// The longest.
    pub(crate) fn max(&self) -> usize {
        match self {
            Sizes::Fixed(bytes) => *bytes,
            Sizes::Uniform { max, .. } => *max,
            Sizes::List(list) => list.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0),
        }
    }

    /// The mean.
    pub(crate) fn mean(&self) -> f64 {
        match self {
            Sizes::Fixed(bytes) => *bytes as f64,
            Sizes::Uniform { min, max } => (*min as f64 + *max as f64) / 2.0,
            Sizes::List(list) => {
                let all = f64::from(list.last().map_or(1, |(_, sum)| *sum));
                weights(list).map(|(bytes, weight)| bytes as f64 * f64::from(weight) / all).sum()
            }
        }
    }

    /// One length.
    pub(crate) fn draw(&self, rng: &mut impl RngCore) -> usize {
        match self {
            // Nothing is drawn where nothing is chosen: equal seeds then mean what they meant.
            Sizes::Fixed(bytes) => *bytes,
            Sizes::Uniform { min, max } => rng.random_range(*min..=*max),
            Sizes::List(list) => {
                let all = list.last().expect("a list has an entry").1;
                let point = rng.random_range(0..all);
                list[list.partition_point(|(_, sum)| *sum <= point)].0
            }
        }
    }
}

/// Lengths, each with its own weight.
fn weights(list: &[(usize, u32)]) -> impl Iterator<Item = (usize, u32)> {
    let before = std::iter::once(0).chain(list.iter().map(|(_, sum)| *sum));
    list.iter().zip(before).map(|((bytes, sum), before)| (*bytes, sum - before))
}

fn length(bytes: u64) -> Result<usize, String> {
    match usize::try_from(bytes) {
        Ok(bytes) if (1..=VALUE_BYTES_MAX).contains(&bytes) => Ok(bytes),
        _ => Err(format!("{bytes} bytes: {EXPECTED}")),
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Sizes, String> {
        let number = |text: &str| {
            text.trim().parse::<u64>().map_err(|_| format!("`{text}` is no number: {EXPECTED}"))
        };
        let both = |text: &str, between: char| match text.split_once(between) {
            Some((first, second)) => Ok((number(first)?, number(second)?)),
            None => Err(format!("`{text}`: {EXPECTED}")),
        };
        match text.split_once(':') {
            None => Sizes::fixed(number(text)?),
            Some(("uniform", range)) => {
                let (min, max) = both(range, '-')?;
                Sizes::uniform(min, max)
            }
            Some(("list", parts)) => {
                let parts: Result<Vec<_>, _> =
                    parts.split(',').map(|part| both(part, 'x')).collect();
                Sizes::list(&parts?)
            }
            Some(_) => Err(format!("`{text}` is no size of values: {EXPECTED}")),
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sizes::Fixed(bytes) => write!(f, "{bytes} B"),
            Sizes::Uniform { min, max } => write!(f, "uniform, {min} to {max} B"),
            Sizes::List(list) => {
                let all = f64::from(list.last().map_or(1, |(_, sum)| *sum));
                let parts: Vec<String> = weights(list)
                    .map(|(bytes, weight)| {
                        format!("{bytes} B {:.4} %", f64::from(weight) / all * 100.0)
                    })
                    .map(|part| part.replace(".0000 %", " %"))
                    .collect();
                f.write_str(&parts.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn every_form_is_read_drawn_and_said_again() {
        let mut rng = SmallRng::seed_from_u64(4);
        for (text, words, mean, max) in [
            ("100", "100 B", 100.0, 100),
            ("uniform:50-150", "uniform, 50 to 150 B", 100.0, 150),
            ("list:100x70,1000x25,4000x5", "100 B 70 %, 1000 B 25 %, 4000 B 5 %", 520.0, 4000),
        ] {
            let sizes: Sizes = text.parse().unwrap();
            assert_eq!(sizes.to_string(), words);
            assert_eq!((sizes.mean(), sizes.max()), (mean, max), "{text}");
            let drawn: Vec<usize> = (0..20_000).map(|_| sizes.draw(&mut rng)).collect();
            let average = drawn.iter().sum::<usize>() as f64 / drawn.len() as f64;
            assert!((average - mean).abs() < mean * 0.05, "{text}: {average}");
            assert!(drawn.iter().all(|&bytes| bytes <= max));
        }
    }

    #[test]
    fn wrong_forms_say_what_is_expected() {
        for bad in [
            "",
            "0",
            "390001",
            "x",
            "uniform:5",
            "uniform:9-5",
            "uniform:0-5",
            "list:",
            "list:5",
            "list:5x0",
            "list:5x",
            "normal:5",
        ] {
            assert!(bad.parse::<Sizes>().unwrap_err().contains("expected"), "{bad}");
        }
    }
}
