//! `disk.toml`: what `probe-disk` found, and what a node takes from it.

use std::path::Path;

use forebay_net::node::config::{BATCHES_IN_FLIGHT_MAX, DurableMode};
use forebay_storage::directory;
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};

/// Its name in a data directory.
pub(crate) const FILE_NAME: &str = "disk.toml";

/// The whole file. A node reads the first two values; the rest is for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DiskProfile {
    /// `dsync` or `linked_fdatasync`.
    pub(crate) durable_mode: String,
    /// Log batches in flight.
    pub(crate) batches_in_flight: u32,
    /// Seconds since 1970.
    #[serde(default)]
    pub(crate) measured_unix_seconds: u64,
    /// How long each point was measured.
    #[serde(default)]
    pub(crate) seconds_per_point: f64,
    /// Size of the file on which it was measured.
    #[serde(default)]
    pub(crate) file_bytes: u64,
    /// What was measured.
    #[serde(default, rename = "point")]
    pub(crate) points: Vec<Point>,
}

/// One measured combination.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Point {
    /// `dsync`, `linked_fdatasync` or `read`.
    pub(crate) kind: String,
    /// Bytes of each operation.
    pub(crate) block_bytes: u64,
    /// Operations in flight.
    pub(crate) depth: u32,
    /// Operations a second.
    pub(crate) ops_per_second: f64,
    /// Median latency in microseconds.
    pub(crate) p50_microseconds: f64,
    /// 99th percentile.
    pub(crate) p99_microseconds: f64,
    /// 99.9th percentile.
    pub(crate) p999_microseconds: f64,
    /// The longest.
    pub(crate) max_microseconds: f64,
}

impl DiskProfile {
    /// Reads `data_dir/disk.toml`, if there is one.
    pub(crate) fn read(data_dir: &Path) -> Result<Option<DiskProfile>, Failure> {
        let path = data_dir.join(FILE_NAME);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Failure::new(Exit::Other, format!("{}: {error}", path.display())));
            }
        };
        let wrong = |what: String| {
            let path = path.display();
            Failure::new(Exit::Usage, format!("{path}: {what}; remove it or run probe-disk again"))
        };
        let profile: DiskProfile =
            toml::from_str(&text).map_err(|error| wrong(error.to_string().trim_end().into()))?;
        if profile.mode().is_none() {
            return Err(wrong(format!("durable_mode: '{}' is unknown", profile.durable_mode)));
        }
        if !(1..=BATCHES_IN_FLIGHT_MAX).contains(&profile.batches_in_flight) {
            let problem = format!("batches_in_flight: not within 1 to {BATCHES_IN_FLIGHT_MAX}");
            return Err(wrong(problem));
        }
        Ok(Some(profile))
    }

    /// The mode, if its name is known.
    pub(crate) fn mode(&self) -> Option<DurableMode> {
        DurableMode::from_name(&self.durable_mode)
    }

    /// Writes it to `path`, whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = toml::to_string(self).expect("plain fields serialize");
        let text =
            format!("# Written by forebay probe-disk. A node reads the first two values.\n{text}");
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name else {
            let message = format!("{} is not a file name", path.display());
            return Err(Failure::new(Exit::Usage, message));
        };
        directory::replace_file(directory, &format!("{name}.new"), name, text.as_bytes())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_survives_its_file_and_a_wrong_one_names_the_field() {
        let dir = tempfile::tempdir().unwrap();
        assert!(DiskProfile::read(dir.path()).unwrap().is_none());
        let profile = DiskProfile {
            durable_mode: "linked_fdatasync".into(),
            batches_in_flight: 4,
            measured_unix_seconds: 0,
            seconds_per_point: 1.0,
            file_bytes: 4096,
            points: Vec::new(),
        };
        profile.write(&dir.path().join(FILE_NAME)).unwrap();
        let back = DiskProfile::read(dir.path()).unwrap().unwrap();
        assert_eq!(back.mode(), Some(DurableMode::LinkedFdatasync));
        for (text, field) in [
            ("durable_mode = \"dsync\"\nbatches_in_flight = 99", "batches_in_flight"),
            ("durable_mode = \"wish\"\nbatches_in_flight = 4", "durable_mode"),
            ("batches_in_flight = 4", "durable_mode"),
        ] {
            std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
            let failure = DiskProfile::read(dir.path()).unwrap_err();
            assert!(failure.message.contains(field), "{}", failure.message);
        }
    }
}
