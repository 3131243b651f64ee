//! Was the machine itself quiet? Asked before every run, with nothing else running.
//!
//! Small durable writes for a fifth of a second show a disk that stalls; the time that the
//! hypervisor took away during the run shows a neighbour. A floor that writes a log is a third
//! witness: it does nothing that could stall but wait for the device. A round in which any of them
//! speaks is noisy. The store's own latencies are no witness: a store that stalls must not have its
//! round thrown away.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::BenchError;
use crate::fleet::process::OwnedDir;

/// How long the probe writes.
const PROBE: Duration = Duration::from_millis(200);
const PROBE_BYTES: usize = 4096;
const PROBE_WRITES: u64 = 256;
/// A hypervisor that takes more than this leaves no figure to trust.
const STOLEN_MAX: f64 = 0.05;

/// What the probe saw of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Calm {
    /// Of a 4 KiB write with fdatasync.
    pub(crate) p50_ms: f64,
    /// The longest of them.
    pub(crate) max_ms: f64,
}

/// The probe's file.
#[derive(Debug)]
pub(crate) struct Probe {
    file: File,
    // Last: the file is closed before its directory goes.
    _dir: OwnedDir,
}

impl Probe {
    /// Prepares a file below `data_dir`, so that probing only overwrites.
    pub(crate) fn prepare(data_dir: &std::path::Path) -> Result<Probe, BenchError> {
        let dir = OwnedDir::create(data_dir, "probe")?;
        let path = dir.path().join("probe");
        let make = || {
            let mut file = File::create(&path)?;
            file.write_all(&vec![1; PROBE_BYTES * PROBE_WRITES as usize])?;
            file.sync_all()?;
            Ok(file)
        };
        let file = make().map_err(|source| BenchError::File { path: path.clone(), source })?;
        Ok(Probe { file, _dir: dir })
    }

    /// Looks at the disk.
    pub(crate) fn look(&self) -> Result<Calm, BenchError> {
        let mut millis = Vec::new();
        let began = Instant::now();
        while began.elapsed() < PROBE {
            let place = millis.len() as u64 % PROBE_WRITES;
            let started = Instant::now();
            self.file
                .write_all_at(&[place as u8; PROBE_BYTES], place * PROBE_BYTES as u64)
                .and_then(|()| self.file.sync_data())
                .map_err(|source| BenchError::Io { what: "probing the disk", source })?;
            millis.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let spread = super::statistics::Spread::of(&millis);
        Ok(Calm { p50_ms: spread.median, max_ms: spread.max })
    }
}

/// What a round tells about the machine.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Witnesses {
    /// The probe before each run.
    pub(crate) probes: Vec<Calm>,
    /// The longest latency of a floor that writes a log, if one took part.
    pub(crate) floor_log_max_ms: Option<f64>,
    /// Time taken by the hypervisor, of all time of all cores; the worst run's.
    pub(crate) stolen: f64,
}

impl Witnesses {
    /// Why the round is noisy; empty if it is not.
    pub(crate) fn noise(&self, stall_ms: f64) -> Vec<String> {
        let mut reasons = Vec::new();
        let worst = self.probes.iter().map(|calm| calm.max_ms).fold(0.0, f64::max);
        if worst > stall_ms {
            reasons.push(format!("the disk stalled for {worst:.0} ms with no store running"));
        }
        if let Some(max_ms) = self.floor_log_max_ms.filter(|&max_ms| max_ms > stall_ms) {
            reasons.push(format!("the bare log stalled for {max_ms:.0} ms"));
        }
        if self.stolen > STOLEN_MAX {
            let percent = self.stolen * 100.0;
            reasons.push(format!("the hypervisor took {percent:.0} % of the machine"));
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_noisy_by_its_witnesses_and_each_says_why() {
        let calm = Calm { p50_ms: 0.2, max_ms: 3.0 };
        let quiet =
            Witnesses { probes: vec![calm, calm], floor_log_max_ms: Some(9.0), stolen: 0.01 };
        assert!(quiet.noise(30.0).is_empty());
        let stall = Calm { max_ms: 250.0, ..calm };
        let noisy = Witnesses { probes: vec![calm, stall], ..quiet.clone() };
        assert!(noisy.noise(30.0)[0].contains("250 ms with no store"));
        let noisy = Witnesses { floor_log_max_ms: Some(31.0), ..quiet.clone() };
        assert!(noisy.noise(30.0)[0].contains("bare log"));
        let noisy = Witnesses { stolen: 0.2, ..quiet.clone() };
        assert!(noisy.noise(30.0)[0].contains("20 %"));
        assert_eq!(quiet.noise(2.0).len(), 2, "the limit is the caller's");
    }

    #[test]
    fn the_probe_sees_the_disk_and_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let probe = Probe::prepare(parent.path()).unwrap();
        let calm = probe.look().unwrap();
        assert!(calm.p50_ms > 0.0 && calm.max_ms >= calm.p50_ms);
        drop(probe);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
