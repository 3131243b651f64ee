//! Scenarios: everything about a load in one file, so that it can be published with its report.
//!
//! ```toml
//! name = "shop"                 # in reports; the file's name if absent
//! records = 100_000
//! seed = 7
//! connections = 64              # what a file does not say, the command line does
//! depth = 1
//! arrivals = "poisson"          # or "fixed"
//! sort_digits = 2               # the last 2 digits of a key are its sort key
//! consistency = "strong"        # or "eventual"
//! think_ms = 5                  # closed loop only
//! keys = "hotspot:20,80"        # as --distribution takes it
//! values = "list:100x70,1000x30"    # as --value-sizes takes it, or a number of bytes
//! items = [1, 20]               # fewest and most items of a query or a scan
//!
//! [mix]                         # percent; together 100
//! get = 60
//! put = 20
//! conditional_put = 10
//! query = 10
//!
//! [[phase]]                     # none: --warmup, --duration and --rate count
//! name = "warm-up"
//! seconds = 5
//! rate = 1000
//! warmup = true                 # not part of the measurement; such phases come first
//!
//! [[phase]]
//! name = "ramp"
//! seconds = 10
//! rate_from = 1000
//! rate_to = 20_000
//! ```
//!
//! A burst after idle is a phase with `rate = 0` and then one with a rate; a cold start is a first
//! phase that is no warm-up. Phases without any rate are a closed loop, and then all must be.
//!
//! An error names its line: of the TOML, of a field that does not exist, or of a value that makes no
//! sense. What the file says counts before the command line.

mod file;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use super::{Shape, WorkloadArg, WorkloadName};
use crate::error::BenchError;

/// Most phases of one run.
pub(crate) const PHASES_MAX: usize = 1000;

/// A stretch of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PhaseSpec {
    /// Its name in reports.
    pub(crate) name: String,
    /// Its length.
    pub(crate) seconds: u64,
    /// Operations a second at its beginning and its end; None in a closed loop.
    pub(crate) rate: Option<(f64, f64)>,
    /// Not part of the measurement.
    pub(crate) is_warmup: bool,
}

/// A load in full.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scenario {
    /// In reports.
    pub(crate) name: String,
    /// Operations, records, lengths.
    pub(crate) shape: Shape,
    /// What the file says beyond, if there is a file.
    pub(crate) records: Option<u64>,
    pub(crate) seed: Option<u64>,
    pub(crate) connections: Option<u32>,
    pub(crate) depth: Option<u32>,
    pub(crate) is_poisson: Option<bool>,
    pub(crate) sort_digits: Option<u8>,
    pub(crate) is_eventual: Option<bool>,
    pub(crate) think_time: Option<Duration>,
    pub(crate) phases: Vec<PhaseSpec>,
    /// The workload whose puts prove themselves.
    pub(crate) is_ledger: bool,
    /// The file, word for word: who wants to repeat the load needs it.
    pub(crate) text: Option<String>,
}

impl Scenario {
    /// What `workload` says; `otherwise` is the shape for what it leaves open.
    pub(crate) fn of(workload: &WorkloadArg, otherwise: Shape) -> Result<Scenario, BenchError> {
        match workload {
            WorkloadArg::Named(name) => {
                let shape =
                    Shape { mix: name.mix(), distribution: name.distribution(), ..otherwise };
                let is_ledger = *name == WorkloadName::Ledger;
                Ok(Scenario { is_ledger, ..Scenario::new(name.label(), shape) })
            }
            WorkloadArg::File(path) => Scenario::read(path, otherwise),
        }
    }

    /// Reads the file at `path`.
    fn read(path: &Path, otherwise: Shape) -> Result<Scenario, BenchError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| BenchError::File { path: path.to_owned(), source })?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        file::parse(&text, &stem, otherwise).map_err(|file::Wrong { line, reason }| {
            BenchError::Scenario { path: path.to_owned(), line, reason }
        })
    }

    fn new(name: &str, shape: Shape) -> Scenario {
        Scenario {
            name: name.to_owned(),
            shape,
            records: None,
            seed: None,
            connections: None,
            depth: None,
            is_poisson: None,
            sort_digits: None,
            is_eventual: None,
            think_time: None,
            phases: Vec::new(),
            is_ledger: false,
            text: None,
        }
    }
}
