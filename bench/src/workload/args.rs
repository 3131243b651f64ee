//! The parts of the command line that say what a load looks like.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum as _;

use super::{Sizes, WorkloadName};

/// `--workload`: a name, or a scenario file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WorkloadArg {
    /// One of the named ones.
    Named(WorkloadName),
    /// A scenario.
    File(PathBuf),
}

impl From<WorkloadName> for WorkloadArg {
    fn from(name: WorkloadName) -> WorkloadArg {
        WorkloadArg::Named(name)
    }
}

impl FromStr for WorkloadArg {
    type Err = String;

    fn from_str(text: &str) -> Result<WorkloadArg, String> {
        if text.ends_with(".toml") {
            return Ok(WorkloadArg::File(PathBuf::from(text)));
        }
        WorkloadName::from_str(text, false).map(WorkloadArg::Named).map_err(|_| {
            let names = WorkloadName::value_variants().iter().map(|name| name.label());
            let names: Vec<&str> = names.collect();
            format!("expected {} or a scenario FILE.toml", names.join(", "))
        })
    }
}

impl std::fmt::Display for WorkloadArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WorkloadArg::Named(name) => f.write_str(name.label()),
            WorkloadArg::File(path) => path.display().fmt(f),
        }
    }
}

/// What load and run must agree on.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ShapeArgs {
    /// Lengths of values, instead of --value-bytes: uniform:MIN-MAX or list:BYTESxWEIGHT,…
    #[arg(long, value_name = "SIZES")]
    pub(crate) value_sizes: Option<Sizes>,
    /// Digits at a key's end that are its sort key: with 2, a hundred records share a partition key
    #[arg(long, value_name = "DIGITS", default_value_t = 0,
          value_parser = clap::value_parser!(u8).range(0..=9))]
    pub(crate) sort_digits: u8,
}

/// What run alone is told.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct RunShapeArgs {
    /// Closed loop: wait so long between an answer and the next operation
    #[arg(long, value_name = "MILLISECONDS", conflicts_with = "rate", value_parser = millis)]
    pub(crate) think_time: Option<Duration>,
    /// Reads may be answered by any replica, and stale; gets and queries of a cluster go to its nodes
    /// in turn
    #[arg(long)]
    pub(crate) eventual: bool,
}

fn millis(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(millis) if (0.001..=3_600_000.0).contains(&millis) => {
            Ok(Duration::from_secs_f64(millis / 1e3))
        }
        _ => Err("expected milliseconds, more than 0 and at most an hour".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_a_name_or_a_file() {
        assert_eq!("puts".parse(), Ok(WorkloadArg::Named(WorkloadName::Puts)));
        assert_eq!("x/shop.toml".parse(), Ok(WorkloadArg::File("x/shop.toml".into())));
        assert!("shop".parse::<WorkloadArg>().unwrap_err().contains("FILE.toml"));
        assert_eq!(millis("0.5"), Ok(Duration::from_micros(500)));
        assert!(millis("0").is_err() && millis("x").is_err());
    }
}
