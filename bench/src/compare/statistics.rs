//! Medians, their spread, and ratios of them.
//!
//! A ratio is that of two medians, not the median of ratios; its spread is that of the rounds'
//! own ratios, because the two of one round saw the same minute of the machine.

use serde::Serialize;

/// The middle of several rounds, and its neighbours at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: &[f64]) -> Spread {
        assert!(!values.is_empty(), "a median needs a value");
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        Spread { median, min: sorted[0], max: sorted[sorted.len() - 1] }
    }

    /// `these` by `those`, round by round.
    pub(crate) fn ratio(these: &[f64], those: &[f64]) -> Spread {
        assert_eq!(these.len(), those.len(), "every round has both");
        let each: Vec<f64> =
            these.iter().zip(those).map(|(this, that)| quotient(*this, *that)).collect();
        let Spread { min, max, .. } = Spread::of(&each);
        let median = quotient(Spread::of(these).median, Spread::of(those).median);
        // The ratio of medians may lie outside the rounds' own ratios; the spread includes it.
        Spread { median, min: min.min(median), max: max.max(median) }
    }
}

/// 0 where there is nothing to divide by: JSON has no infinity.
pub(crate) fn quotient(this: f64, that: f64) -> f64 {
    if that == 0.0 { 0.0 } else { this / that }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_one_bad_round_and_halves_an_even_middle() {
        assert_eq!(Spread::of(&[5.0, 1.0, 900.0]), Spread { median: 5.0, min: 1.0, max: 900.0 });
        assert_eq!(Spread::of(&[4.0, 2.0]).median, 3.0);
        assert_eq!(Spread::of(&[7.0]).median, 7.0);
    }

    #[test]
    fn a_ratio_is_of_medians_with_the_spread_of_rounds() {
        let ratio = Spread::ratio(&[10.0, 20.0, 30.0], &[5.0, 20.0, 10.0]);
        assert_eq!(ratio, Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::ratio(&[1.0], &[0.0]).median, 0.0);
    }

    #[test]
    fn the_spread_of_a_ratio_contains_it() {
        let ratio = Spread::ratio(&[1.0, 10.0, 11.0], &[1.0, 10.0, 2.0]);
        assert_eq!(ratio.median, 5.0);
        assert!(ratio.min <= ratio.median && ratio.median <= ratio.max);
        let outside = Spread::ratio(&[1.0, 2.0, 30.0], &[10.0, 1.0, 30.0]);
        assert!(outside.min <= outside.median && outside.median <= outside.max);
    }
}
