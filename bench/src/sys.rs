//! The few questions to Linux that std cannot ask, and the description of this machine.
#![allow(unsafe_code)]

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// CPU time that the calling thread has used, in the kernel's work for it too.
pub(crate) fn thread_cpu_nanos() -> u64 {
    clock_nanos(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time that all threads of this process have used, in the kernel's work for them too.
pub(crate) fn own_cpu_nanos() -> u64 {
    clock_nanos(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn clock_nanos(clock: libc::clockid_t) -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` is a valid timespec for the call to fill.
    let result = unsafe { libc::clock_gettime(clock, &mut at) };
    assert_eq!(result, 0, "clocks of CPU time exist on every Linux");
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}

/// Time that the calling thread has wanted to run and waited for a CPU, because others had it. 0
/// where the kernel does not say.
pub(crate) fn thread_wait_nanos() -> u64 {
    let mut text = [0; 128];
    let read =
        fs::File::open("/proc/thread-self/schedstat").and_then(|mut file| file.read(&mut text));
    // Time on a CPU, time waiting for one, times put on one.
    let text = str::from_utf8(&text[..read.unwrap_or(0)]).unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
}

/// Timers of the calling thread fire as soon as they can, instead of up to 50 microseconds later:
/// an open loop's starts depend on them.
pub(crate) fn tighten_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes a number and touches no memory.
    let result = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1u64) };
    debug_assert_eq!(result, 0);
}

/// The calling thread runs before all ordinary threads on its core.
pub(crate) fn run_first() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 is the calling thread, and the parameters are valid for the call to read.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether this process may use [`run_first`]. Asked on a thread of its own, which then ends.
pub(crate) fn may_run_first() -> bool {
    std::thread::spawn(|| run_first().is_ok()).join().unwrap_or(false)
}

/// The set that holds `core` alone.
fn core_set(core: usize) -> libc::cpu_set_t {
    assert!(core < libc::CPU_SETSIZE as usize, "core {core}");
    // SAFETY: a cpu_set_t is plain bits, of which none set is a valid value; the index was checked.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        set
    }
}

/// The child will run on `core` alone if one is given, die with this process, and hear signals.
pub(crate) fn prepare_child(command: &mut Command, core: Option<usize>) {
    let set = core.map(core_set);
    let body = move || {
        // SAFETY: all four are async-signal-safe system calls on values owned by this closure.
        unsafe {
            if let Some(set) = &set
                && libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set) != 0
            {
                return Err(io::Error::last_os_error());
            }
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        }
        Ok(())
    };
    // SAFETY: the closure only makes system calls; it neither allocates nor takes locks. A group
    // of its own keeps the terminal's Ctrl-C from it: this process ends its children in order.
    unsafe { command.process_group(0).pre_exec(body) };
}

/// From now on SIGINT and SIGTERM call `act` on a thread of its own. To be called before any other
/// thread starts, since threads inherit what is blocked.
pub(crate) fn on_interrupt(act: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // SAFETY: the set is filled by the calls before it is read.
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    };
    let wait = move || {
        let mut signal = 0;
        // SAFETY: both pointers are valid for the call.
        while unsafe { libc::sigwait(&set, &mut signal) } != 0 {}
        act();
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

/// Sends `signal` to the process `pid`, a child of this one that has not been waited for.
pub(crate) fn signal(pid: u32, signal: libc::c_int) {
    // SAFETY: no memory is involved. A child that has ended but was not waited for keeps its
    // number, so the signal reaches nobody else.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// How the child `pid` ended, if it has. It stays to be waited for, so its number is not reused.
pub(crate) fn ended(pid: u32) -> Option<String> {
    // SAFETY: a siginfo_t is plain integers, for which zeros are valid; waitid fills it.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is valid for the call to fill.
    let result = unsafe { libc::waitid(libc::P_PID, pid, &mut info, flags) };
    // SAFETY: waitid has filled the union's member for SIGCHLD, or left zeros.
    let (child, status) = unsafe { (info.si_pid(), info.si_status()) };
    match (result, child) {
        (0, 0) => None,
        (0, _) if info.si_code == libc::CLD_EXITED => Some(format!("exit code {status}")),
        (0, _) => Some(format!("killed by signal {status}")),
        _ => Some("no child of this process any more".to_owned()),
    }
}

/// Waits until the child `pid` has ended; its CPU time, user and system, of all threads. It stays to
/// be waited for, so its number is not reused.
pub(crate) fn wait_for_cpu_micros(pid: u32) -> io::Result<u64> {
    // SAFETY: an rusage is plain integers, for which zeros are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // Not through libc's function: that one has no place for the kernel's last argument.
        // SAFETY: `usage` is valid for the call to fill, and no siginfo_t is asked for.
        let result = unsafe {
            let flags = libc::WEXITED | libc::WNOWAIT;
            let info: *mut libc::siginfo_t = std::ptr::null_mut();
            libc::syscall(libc::SYS_waitid, libc::P_PID, pid, info, flags, &mut usage)
        };
        match result {
            0 => break,
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    Ok(micros(usage.ru_utime) + micros(usage.ru_stime))
}

/// CPU time of a whole process, user and system, in microseconds (in clock ticks, 10 ms each).
pub(crate) fn process_cpu_micros(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name ends with the last parenthesis; utime and stime are fields 14 and 15.
    let fields = stat.rsplit(')').next()?.split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Some(ticks * 10_000)
}

/// The largest resident memory that the process ever had.
pub(crate) fn resident_peak_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Time that the hypervisor gave to other machines, and all time, in ticks over all cores.
pub(crate) fn stolen_ticks() -> (u64, u64) {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> =
        line.split_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
    (fields.get(7).copied().unwrap_or(0), fields.iter().sum())
}

/// The disk below `path`, as `/sys/block` calls it.
pub(crate) fn disk_of(path: &Path) -> Option<String> {
    let (device, _) = mount_of(path)?;
    Some(device.rsplit('/').next().unwrap_or(&device).to_owned())
}

/// Device and kind of the file system that holds `path`.
fn mount_of(path: &Path) -> Option<(String, String)> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let found = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (device, at, kind) = (words.next()?, words.next()?, words.next()?);
            path.starts_with(at).then_some((at.len(), device, kind))
        })
        .max_by_key(|(length, ..)| *length);
    found.map(|(_, device, kind)| (device.to_owned(), kind.to_owned()))
}

/// File system and device below `path`, for reports.
pub(crate) fn device_of(path: &Path) -> String {
    let Some((device, kind)) = mount_of(path) else { return "unknown".to_owned() };
    let name = device.rsplit('/').next().unwrap_or(&device);
    let setting = |setting: &str| {
        let value = fs::read_to_string(format!("/sys/block/{name}/queue/{setting}")).ok()?;
        Some(value.trim().to_owned())
    };
    let queues = fs::read_dir(format!("/sys/block/{name}/mq")).map(Iterator::count);
    match (setting("write_cache"), setting("rq_affinity"), queues) {
        (Some(cache), Some(affinity), Ok(queues)) => {
            format!("{kind} on {name}, {cache} cache, {queues} queue(s), rq_affinity {affinity}")
        }
        _ => format!("{kind} on {name}"),
    }
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
#[derive(Clone, Debug, Serialize, Deserialize)]
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

    /// All of it.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// In one line.
    pub(crate) fn line(&self) -> String {
        format!("{}, load {:.2}", self.lasting(), self.load_average_1m)
    }

    /// What is the same from one run to the next.
    pub(crate) fn lasting(&self) -> String {
        format!(
            "{}, {} cores, governor {}, {:.1} GiB, Linux {}",
            self.cpu_model,
            self.cores,
            self.cpu_governor,
            self.memory_bytes as f64 / f64::from(1 << 30),
            self.kernel
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
