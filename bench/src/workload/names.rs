//! The named workloads: mixes of operations, and how each chooses its records.

use rand::Rng;

use super::{Distribution, OpKind};

/// Percentages of each operation; they add up to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mix {
    /// In the order of [`OpKind::ALL`].
    pub(crate) percent: [u32; OpKind::COUNT],
}

impl Mix {
    /// So many of each hundred; what is not named does not occur.
    pub(crate) fn of(parts: &[(OpKind, u32)]) -> Mix {
        let mut percent = [0; OpKind::COUNT];
        for &(kind, part) in parts {
            percent[kind as usize] += part;
        }
        assert_eq!(percent.iter().sum::<u32>(), 100, "percentages of a whole");
        Mix { percent }
    }

    /// In words: `get 60 %, put 40 %`.
    pub(crate) fn words(&self) -> String {
        let parts = OpKind::ALL.iter().zip(self.percent).filter(|(_, percent)| *percent > 0);
        let words =
            parts.map(|(kind, percent)| format!("{} {percent} %", kind.label().replace('_', "-")));
        words.collect::<Vec<_>>().join(", ")
    }

    pub(super) fn draw(&self, rng: &mut impl Rng) -> OpKind {
        let mut point = rng.random_range(0..100u32);
        for kind in OpKind::ALL {
            let percent = self.percent[kind as usize];
            if point < percent {
                return kind;
            }
            point -= percent;
        }
        unreachable!("a mix's percentages add up to 100")
    }

    /// Whether the mix contains `kind`.
    pub(crate) fn has(&self, kind: OpKind) -> bool {
        self.percent[kind as usize] > 0
    }
}

/// The named workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WorkloadName {
    /// YCSB A: half gets, half puts, zipfian
    A,
    /// YCSB B: 95 % gets, 5 % puts, zipfian
    B,
    /// YCSB C: gets, zipfian
    C,
    /// YCSB D: 95 % gets of the latest, 5 % inserts
    D,
    /// YCSB E: 95 % scans of up to 100 items, 5 % inserts
    E,
    /// YCSB F: half gets, half read-modify-writes, zipfian
    F,
    /// Only puts, uniform over the records
    Puts,
    /// Only gets, uniform over the records
    Gets,
    /// Puts that prove themselves, acknowledged ones noted in the file of --ledger
    Ledger,
}

impl WorkloadName {
    /// Its name on the command line and in reports.
    pub(crate) fn label(self) -> &'static str {
        match self {
            WorkloadName::A => "a",
            WorkloadName::B => "b",
            WorkloadName::C => "c",
            WorkloadName::D => "d",
            WorkloadName::E => "e",
            WorkloadName::F => "f",
            WorkloadName::Puts => "puts",
            WorkloadName::Gets => "gets",
            WorkloadName::Ledger => "ledger",
        }
    }

    /// Its mix.
    pub(crate) fn mix(self) -> Mix {
        use OpKind::{Get, Insert, Put, ReadModifyWrite, Scan};
        match self {
            WorkloadName::A => Mix::of(&[(Get, 50), (Put, 50)]),
            WorkloadName::B => Mix::of(&[(Get, 95), (Put, 5)]),
            WorkloadName::C | WorkloadName::Gets => Mix::of(&[(Get, 100)]),
            WorkloadName::D => Mix::of(&[(Get, 95), (Insert, 5)]),
            WorkloadName::E => Mix::of(&[(Scan, 95), (Insert, 5)]),
            WorkloadName::F => Mix::of(&[(Get, 50), (ReadModifyWrite, 50)]),
            WorkloadName::Puts | WorkloadName::Ledger => Mix::of(&[(Put, 100)]),
        }
    }

    /// How it chooses records unless the command line says otherwise.
    pub(crate) fn distribution(self) -> Distribution {
        match self {
            WorkloadName::A
            | WorkloadName::B
            | WorkloadName::C
            | WorkloadName::E
            | WorkloadName::F => Distribution::ZIPFIAN,
            WorkloadName::D => Distribution::LATEST,
            WorkloadName::Puts | WorkloadName::Gets | WorkloadName::Ledger => Distribution::Uniform,
        }
    }
}
