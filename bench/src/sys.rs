//! The few questions to Linux that std cannot ask, and the description of this machine.
#![allow(unsafe_code)]

use std::fs;

use serde::Serialize;

/// CPU time that the calling thread has used, in the kernel's work for it too.
pub(crate) fn thread_cpu_nanos() -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` is a valid timespec for the call to fill.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut at) };
    assert_eq!(result, 0, "CLOCK_THREAD_CPUTIME_ID exists on every Linux");
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}

/// Timers of the calling thread fire as soon as they can, instead of up to 50 microseconds later:
/// an open loop's starts depend on them.
pub(crate) fn tighten_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes a number and touches no memory.
    let result = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1u64) };
    debug_assert_eq!(result, 0);
}

/// The limit on open files, raised as far as this process may: each connection is one.
pub(crate) fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call to fill.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return 0;
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is valid for the call to read. A refusal leaves the old limit, which
    // connecting will report if it is too small.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    limit.rlim_max
}

/// What a reader must know about the machine. No name of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Hardware {
    cpu_model: String,
    cores: usize,
    cpu_governor: String,
    memory_bytes: u64,
    kernel: String,
    /// Load average of the last minute when the run began: what else was running.
    load_average_1m: f64,
}

impl Hardware {
    /// Of this machine, now.
    pub(crate) fn here() -> Hardware {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        let unknown = || "unknown".to_owned();
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory_kib: u64 =
            memory.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let load = read("/proc/loadavg");
        Hardware {
            cpu_model: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            cores: core_affinity::get_core_ids().map_or(0, |ids| ids.len()).max(online_cores()),
            cpu_governor: match governor.trim() {
                "" => "not reported".to_owned(),
                name => name.to_owned(),
            },
            memory_bytes: memory_kib * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average_1m: load
                .split_whitespace()
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0.0),
        }
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}, {} cores, governor {}, {:.1} GiB, Linux {}, load {:.2}",
            self.cpu_model,
            self.cores,
            self.cpu_governor,
            self.memory_bytes as f64 / f64::from(1 << 30),
            self.kernel,
            self.load_average_1m
        )
    }
}

/// Cores of the machine, also those that this process may not use.
fn online_cores() -> usize {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpuinfo.lines().filter(|line| line.starts_with("processor")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_pays_for_its_own_work() {
        let before = thread_cpu_nanos();
        let mut sum = 0u64;
        for i in 0..1_000_000u64 {
            sum = std::hint::black_box(sum ^ i);
        }
        assert!(thread_cpu_nanos() > before);
    }

    #[test]
    fn this_machine_is_described() {
        let here = Hardware::here();
        assert!(here.cores >= 1);
        assert!(here.memory_bytes > 0);
        assert!(here.line().contains("Linux"));
    }
}
