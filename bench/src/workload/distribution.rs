//! How records are chosen, as one writes it.
//!
//! | text | meaning |
//! |---|---|
//! | `uniform` | all alike |
//! | `zipfian[:THETA]` | YCSB's scrambled Zipfian, theta 0.99 |
//! | `latest[:THETA]` | Zipfian over age: the newest records are the popular ones |
//! | `sequential` | one after the other, and again |
//! | `hotspot:KEYS,OPS` | KEYS percent of the records get OPS percent of the operations |
//! | `moving-hotspot:KEYS,OPS,EVERY` | the same, and the hot records change after EVERY operations of a thread |

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::zipfian::THETA;

/// How records are chosen. Shares are fractions of one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Distribution {
    /// All alike.
    Uniform,
    /// Scrambled Zipfian.
    Zipfian {
        /// Skew, between 0 and 1.
        theta: f64,
    },
    /// Zipfian over age.
    Latest {
        /// Skew, between 0 and 1.
        theta: f64,
    },
    /// One after the other.
    Sequential,
    /// Some records get most of the operations.
    Hotspot {
        /// Share of the records.
        keys: f64,
        /// Share of the operations.
        ops: f64,
    },
    /// The same, and they change.
    MovingHotspot {
        /// Share of the records.
        keys: f64,
        /// Share of the operations.
        ops: f64,
        /// Operations of one thread until the next records are the hot ones.
        every: u64,
    },
}

const EXPECTED: &str = "expected uniform, zipfian[:THETA], latest[:THETA], sequential, \
     hotspot:KEYS,OPS or moving-hotspot:KEYS,OPS,EVERY (KEYS and OPS in percent, EVERY in operations)";

impl Distribution {
    /// YCSB's.
    pub(crate) const ZIPFIAN: Distribution = Distribution::Zipfian { theta: THETA };
    /// YCSB's.
    pub(crate) const LATEST: Distribution = Distribution::Latest { theta: THETA };

    /// Whether its numbers make sense; those of the command line do.
    pub(super) fn is_sound(&self) -> bool {
        let is_share = |share: f64| 0.0 < share && share <= 1.0;
        match *self {
            Distribution::Uniform | Distribution::Sequential => true,
            Distribution::Zipfian { theta } | Distribution::Latest { theta } => {
                0.0 < theta && theta < 1.0
            }
            Distribution::Hotspot { keys, ops } => is_share(keys) && is_share(ops),
            Distribution::MovingHotspot { keys, ops, every } => {
                is_share(keys) && is_share(ops) && every > 0
            }
        }
    }
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Distribution, String> {
        let (name, numbers) = text.split_once(':').unwrap_or((text, ""));
        let numbers: Vec<f64> = match numbers {
            "" => Vec::new(),
            numbers => numbers
                .split(',')
                .map(|number| number.trim().parse::<f64>())
                .collect::<Result<_, _>>()
                .map_err(|_| format!("`{numbers}` are no numbers: {EXPECTED}"))?,
        };
        let theta = |theta: f64| match 0.0 < theta && theta < 1.0 {
            true => Ok(theta),
            false => Err(format!("theta {theta} is not between 0 and 1: {EXPECTED}")),
        };
        let share = |percent: f64| match 0.0 < percent && percent <= 100.0 {
            true => Ok(percent / 100.0),
            false => Err(format!("{percent} is no percentage above 0: {EXPECTED}")),
        };
        Ok(match (name, numbers.as_slice()) {
            ("uniform", []) => Distribution::Uniform,
            ("zipfian", []) => Distribution::ZIPFIAN,
            ("zipfian", &[skew]) => Distribution::Zipfian { theta: theta(skew)? },
            ("latest", []) => Distribution::LATEST,
            ("latest", &[skew]) => Distribution::Latest { theta: theta(skew)? },
            ("sequential", []) => Distribution::Sequential,
            ("hotspot", &[keys, ops]) => {
                Distribution::Hotspot { keys: share(keys)?, ops: share(ops)? }
            }
            ("moving-hotspot", &[keys, ops, every]) if every >= 1.0 => {
                let every = every as u64;
                Distribution::MovingHotspot { keys: share(keys)?, ops: share(ops)?, every }
            }
            _ => return Err(format!("`{text}` is no way to choose records: {EXPECTED}")),
        })
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distribution::Uniform => f.write_str("uniform"),
            Distribution::Zipfian { theta } => write!(f, "zipfian theta {theta}, scrambled"),
            Distribution::Latest { theta } => write!(f, "latest, zipfian theta {theta}"),
            Distribution::Sequential => f.write_str("sequential"),
            Distribution::Hotspot { keys, ops } => {
                write!(f, "hot spot: {} % of records get {} % of operations", keys * 1e2, ops * 1e2)
            }
            Distribution::MovingHotspot { keys, ops, every } => write!(
                f,
                "moving hot spot: {} % of records get {} % of operations, others after every {every}",
                keys * 1e2,
                ops * 1e2
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_said_again_in_words() {
        for (text, words) in [
            ("uniform", "uniform"),
            ("zipfian", "zipfian theta 0.99, scrambled"),
            ("zipfian:0.8", "zipfian theta 0.8, scrambled"),
            ("latest:0.5", "latest, zipfian theta 0.5"),
            ("sequential", "sequential"),
            ("hotspot:20,80", "hot spot: 20 % of records get 80 % of operations"),
            (
                "moving-hotspot:1,90,5000",
                "moving hot spot: 1 % of records get 90 % of operations, others after every 5000",
            ),
        ] {
            assert_eq!(text.parse::<Distribution>().unwrap().to_string(), words);
        }
    }

    #[test]
    fn wrong_forms_say_what_is_expected() {
        for bad in [
            "zipf",
            "zipfian:1",
            "zipfian:0",
            "zipfian:x",
            "zipfian:0.5,0.5",
            "uniform:1",
            "hotspot",
            "hotspot:20",
            "hotspot:0,80",
            "hotspot:20,101",
            "moving-hotspot:20,80",
            "moving-hotspot:20,80,0",
        ] {
            assert!(bad.parse::<Distribution>().unwrap_err().contains("expected"), "{bad}");
        }
    }
}
