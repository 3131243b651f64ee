//! Is the machine able to run a shard? Asked before anything is created.

use std::io;

use forebay_net::node::config::NodeConfig;
use io_uring::IoUring;

use crate::exit::{Exit, Failure};

/// Capability that lifts the memlock limit.
const CAP_IPC_LOCK: u32 = 14;

/// Everything that a node needs.
pub(crate) fn check(config: &NodeConfig, shards: u16) -> Result<(), Failure> {
    check_ring()?;
    check_memlock(config, shards)
}

/// A ring as the shards use it can be made.
pub(crate) fn check_ring() -> Result<(), Failure> {
    let made: io::Result<IoUring> =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(8);
    made.map(drop).map_err(|error| explain(&error))
}

fn explain(error: &io::Error) -> Failure {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let why = "every socket and disk operation of a shard goes through io_uring";
    let message = match error.raw_os_error() {
        Some(libc::ENOSYS) => format!(
            "io_uring does not exist here (ENOSYS, kernel {release}); {why}; use Linux 6.1 or \
             newer with CONFIG_IO_URING, and in a container a seccomp profile that allows \
             io_uring_setup, io_uring_enter and io_uring_register"
        ),
        Some(libc::EPERM | libc::EACCES) => format!(
            "io_uring is forbidden here ({error}); {why}; set sysctl kernel.io_uring_disabled=0, \
             or allow io_uring_setup in the seccomp profile"
        ),
        Some(libc::EINVAL) => format!(
            "this kernel ({release}) has no SINGLE_ISSUER or DEFER_TASKRUN; {why}; use Linux 6.1 \
             or newer"
        ),
        Some(libc::ENOMEM) => {
            let message = "the memlock limit is too small for a ring; raise `ulimit -l` \
                           (LimitMEMLOCK= in systemd)";
            return Failure::new(Exit::Memlock, message);
        }
        _ => format!("io_uring cannot be set up: {error}; {why}"),
    };
    Failure::new(Exit::NoRing, message)
}

fn check_memlock(config: &NodeConfig, shards: u16) -> Result<(), Failure> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if is_exempt(&status) {
        return Ok(());
    }
    judge_memlock(config.registered_bytes, shards, soft_memlock_bytes(&limits))
}

fn judge_memlock(each_bytes: u64, shards: u16, limit_bytes: Option<u64>) -> Result<(), Failure> {
    let needed_bytes = each_bytes * u64::from(shards);
    match limit_bytes {
        Some(limit_bytes) if needed_bytes > limit_bytes => {
            let message = format!(
                "{shards} shards register {needed_bytes} bytes of disk buffers with io_uring, and \
                 the memlock limit is {limit_bytes} bytes; raise it with `ulimit -l {}` \
                 (LimitMEMLOCK= in systemd), or lower registered_bytes",
                needed_bytes.div_ceil(1024)
            );
            Err(Failure::new(Exit::Memlock, message))
        }
        _ => Ok(()),
    }
}

/// Soft limit from /proc/self/limits; None if unlimited.
fn soft_memlock_bytes(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn is_exempt(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> CAP_IPC_LOCK & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_io_uring_names_its_remedy() {
        for (errno, exit, remedy) in [
            (libc::ENOSYS, Exit::NoRing, "CONFIG_IO_URING"),
            (libc::EPERM, Exit::NoRing, "io_uring_disabled"),
            (libc::EINVAL, Exit::NoRing, "6.1"),
            (libc::ENOMEM, Exit::Memlock, "ulimit -l"),
        ] {
            let failure = explain(&io::Error::from_raw_os_error(errno));
            assert_eq!(failure.exit, exit);
            assert!(failure.message.contains(remedy), "{}", failure.message);
        }
    }

    #[test]
    fn the_memlock_limit_is_read_and_judged() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max locked memory         8388608              8388608              bytes\n";
        assert_eq!(soft_memlock_bytes(limits), Some(8 << 20));
        assert_eq!(soft_memlock_bytes("Max locked memory  unlimited unlimited bytes"), None);
        assert!(judge_memlock(2 << 20, 4, Some(8 << 20)).is_ok());
        let failure = judge_memlock(2 << 20, 5, Some(8 << 20)).unwrap_err();
        assert_eq!(failure.exit, Exit::Memlock);
        assert!(failure.message.contains("ulimit -l 10240"), "{}", failure.message);
    }

    #[test]
    fn the_lock_capability_exempts() {
        assert!(is_exempt("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(!is_exempt("Name:\tx\nCapEff:\t0000000000000000\n"));
    }
}
