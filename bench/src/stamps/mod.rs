//! What a sceptic asks about the machine: what else was running, which clock, which disk.
//!
//! Everything comes from /proc and /sys, is looked at once before a run, and costs the run nothing.
//! No names of machines, users or directories: a reader needs the kind of disk, not its place.

pub(crate) mod device;
pub(crate) mod processes;
pub(crate) mod store;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::target::TargetUrl;
use device::Device;
use processes::Busy;
use store::StoreProcess;

/// How long the CPU time of other processes is watched.
const SAMPLE: Duration = Duration::from_millis(200);
/// So many of them are named.
const BUSY_MAX: usize = 3;

/// What was seen just before the run, beyond [`crate::sys::Hardware`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stamps {
    /// Of the last 1, 5 and 15 minutes.
    pub(crate) load_average: [f64; 3],
    /// The busiest other processes, over 200 ms.
    pub(crate) busy_processes: Vec<Busy>,
    /// What the kernel reads its time from.
    pub(crate) clock_source: String,
    /// Whether the CPU says that a hypervisor is below it.
    pub(crate) is_virtual_machine: bool,
    /// The process that serves the target, where it runs on this machine and can be seen.
    pub(crate) store: Option<StoreProcess>,
    /// The disk below the store's open files.
    pub(crate) device: Option<Device>,
}

impl Stamps {
    /// Looks around. Takes a fifth of a second.
    pub(crate) fn here(url: &TargetUrl) -> Stamps {
        let store = url.resolve().ok().and_then(store::find);
        let averages = read("/proc/loadavg");
        let mut averages = averages.split_whitespace().map(|word| word.parse().unwrap_or(0.0));
        let mut next = || averages.next().unwrap_or(0.0);
        let load_average = [next(), next(), next()];
        // The store itself is not "something else".
        let own: Vec<u32> = store.iter().map(|found| found.pid).collect();
        let busy_processes = processes::busiest(SAMPLE, BUSY_MAX, &own);
        let device = store.as_ref().and_then(|found| found.data.as_deref()).map(Device::below);
        Stamps {
            load_average,
            busy_processes,
            clock_source: match read(CLOCK_SOURCE).trim() {
                "" => "not reported".to_owned(),
                name => name.to_owned(),
            },
            is_virtual_machine: read("/proc/cpuinfo")
                .lines()
                .find(|line| line.starts_with("flags"))
                .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor")),
            store: store.map(|found| found.process),
            device,
        }
    }

    /// Who else was busy, in words.
    pub(crate) fn busy_line(&self) -> String {
        let [one, five, fifteen] = self.load_average;
        let busy: Vec<_> = self
            .busy_processes
            .iter()
            .map(|busy| format!("{} {:.0} %", busy.name, busy.cpu_fraction * 100.0))
            .collect();
        let busy = match busy.is_empty() {
            true => "nobody else busy".to_owned(),
            false => format!("busiest others: {}", busy.join(", ")),
        };
        format!("load average {one:.2} {five:.2} {fifteen:.2}; {busy}")
    }

    /// CPU that others used, in cores.
    pub(crate) fn busy_cores(&self) -> f64 {
        self.busy_processes.iter().map(|busy| busy.cpu_fraction).sum()
    }
}

const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// A file of /proc or /sys; nothing if it cannot be read.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_store_is_found_with_its_disk_and_a_remote_one_is_not_guessed() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let data = dir.path().join("data");
        // This process serves, and holds its data open.
        let file = std::fs::File::create(&data).unwrap();
        file.set_len(1 << 40).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url: TargetUrl = format!("redis://{}", listener.local_addr().unwrap()).parse().unwrap();
        let stamps = Stamps::here(&url);
        let store = stamps.store.expect("this process");
        assert!(!store.cores.is_empty());
        let device = stamps.device.expect("of the open file");
        assert!(!device.filesystem.is_empty());
        assert!(stamps.load_average.iter().all(|load| *load >= 0.0));
        drop(listener);
        assert!(store::find("192.0.2.1:1".parse().unwrap()).is_none());
    }
}
