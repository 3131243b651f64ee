//! The few raw system calls around a ring: limits, eventfd, kernel release, core pinning, listeners.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::error::RingError;

/// The cores this process may run on.
#[must_use]
pub fn cores_allowed() -> Vec<usize> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    cores.into_iter().map(|core| core.id).collect()
}

/// Pins the calling thread to `core`, which must be in the process's affinity mask.
pub fn pin_to_core(core: usize) -> Result<(), RingError> {
    let allowed = cores_allowed();
    if !allowed.contains(&core)
        || !core_affinity::set_for_current(core_affinity::CoreId { id: core })
    {
        return Err(RingError::CoreNotAllowed { core, allowed });
    }
    Ok(())
}

/// A blocking eventfd as a file. Blocking, because the ring's reads must wait instead of failing
/// with EAGAIN.
pub(super) fn eventfd() -> Result<File, RingError> {
    // SAFETY: plain system call; the result is checked before it is owned.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(RingError::system("eventfd", io::Error::last_os_error()));
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Clears O_NONBLOCK: the ring reads the descriptor and must wait instead of failing with EAGAIN.
pub(super) fn make_blocking(fd: RawFd) -> Result<(), RingError> {
    // SAFETY: fcntl with integer arguments; a bad descriptor is an error, not a hazard.
    let result = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags < 0 { flags } else { libc::fcntl(fd, libc::F_SETFL, flags & !libc::O_NONBLOCK) }
    };
    if result < 0 {
        return Err(RingError::system("fcntl on the wake-up eventfd", io::Error::last_os_error()));
    }
    Ok(())
}

/// `uname -r`.
pub(super) fn kernel_release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}

/// The soft RLIMIT_MEMLOCK.
pub(super) fn memlock_limit_bytes() -> u64 {
    limits(libc::RLIMIT_MEMLOCK).rlim_cur
}

fn limits(resource: libc::__rlimit_resource_t) -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call to fill.
    unsafe { libc::getrlimit(resource, &mut limit) };
    limit
}

/// A ring's file table may be as large as RLIMIT_NOFILE; raises the soft limit towards the hard one.
pub(super) fn ensure_open_files(needed: u64) -> Result<(), RingError> {
    let mut limit = limits(libc::RLIMIT_NOFILE);
    if limit.rlim_cur >= needed {
        return Ok(());
    }
    let too_few = RingError::TooFewFiles { needed, limit: limit.rlim_max };
    if limit.rlim_max < needed {
        return Err(too_few);
    }
    limit.rlim_cur = needed;
    // SAFETY: `limit` is a valid rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(too_few);
    }
    Ok(())
}

/// A listening socket whose connections inherit TCP_NODELAY. A restart on the same port can meet
/// EADDRINUSE while the old process's ring is torn down, so that is retried for `retry`.
pub(crate) fn listen(
    addr: SocketAddr,
    backlog: i32,
    retry: Duration,
) -> Result<TcpListener, RingError> {
    let started = Instant::now();
    loop {
        match try_listen(addr, backlog) {
            Ok(listener) => return Ok(listener),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                if started.elapsed() >= retry {
                    let waited_ms = started.elapsed().as_millis() as u64;
                    return Err(RingError::PortTaken { addr, waited_ms });
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(source) => return Err(RingError::Listen { addr, source }),
        }
    }
}

fn try_listen(addr: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// A socket for a connection outward.
pub(super) fn outward_socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Whether a path lies in memory only (tmpfs, ramfs).
pub(super) fn is_memory_file_system(path: &std::path::Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: an all-zero statfs is a valid value for the call to fill, and the path is a C string.
    let kind = unsafe {
        let mut stat: libc::statfs = std::mem::zeroed();
        if libc::statfs(path.as_ptr(), &mut stat) != 0 {
            return false;
        }
        stat.f_type
    };
    kind == libc::TMPFS_MAGIC || kind == RAMFS_MAGIC
}
