//! Who else uses the CPU.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sys;

/// A process that used CPU while nothing was measured yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Busy {
    /// The program's name, without arguments.
    pub(crate) name: String,
    /// CPU time over wall time: 1 is a whole core.
    pub(crate) cpu_fraction: f64,
}

/// The `count` busiest processes but this one and those of `except`, watched for `time`. The kernel counts in ticks of
/// 10 ms, so over 200 ms a fraction is within 0.05.
pub(crate) fn busiest(time: Duration, count: usize, except: &[u32]) -> Vec<Busy> {
    let (before, began) = (cpu_by_process(), Instant::now());
    std::thread::sleep(time);
    let (after, micros) = (cpu_by_process(), began.elapsed().as_micros() as f64);
    let mut busy: Vec<_> = after
        .into_iter()
        .filter(|(pid, _)| *pid != std::process::id() && !except.contains(pid))
        .filter_map(|(pid, cpu)| {
            let used = cpu.saturating_sub(*before.get(&pid)?);
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            (used > 0)
                .then(|| Busy { name: name.trim().to_owned(), cpu_fraction: used as f64 / micros })
        })
        .collect();
    busy.sort_by(|a, b| b.cpu_fraction.total_cmp(&a.cpu_fraction));
    busy.truncate(count);
    busy
}

fn cpu_by_process() -> BTreeMap<u32, u64> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, sys::process_cpu_micros(pid)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_busy_neighbour_is_named() {
        let mut spinner = Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let found = busiest(Duration::from_millis(500), 50, &[1]);
        let _ = spinner.kill();
        let _ = spinner.wait();
        assert!(found.iter().any(|busy| busy.cpu_fraction > 0.05), "{found:?}");
        assert!(found.is_sorted_by(|a, b| a.cpu_fraction >= b.cpu_fraction));
    }
}
