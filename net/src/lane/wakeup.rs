//! The eventfd that wakes a shard's ring, and the ends of it.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::sleep::SleepFlag;

#[derive(Debug)]
struct Shared {
    flag: SleepFlag,
    eventfd: File,
}

/// The consumer's side. The ring keeps a read of 8 bytes on [`as_raw_fd`](AsRawFd::as_raw_fd) in
/// flight; each completion means "woken" (perhaps for something already received).
///
/// ```text
///   loop { arm; drain every queue; act; sleep until anything completes; disarm }
/// ```
#[derive(Debug)]
pub struct Wakeup {
    shared: Arc<Shared>,
}

/// A producer's side; as many as there are producers.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

impl Wakeup {
    /// Opens an eventfd. The error is the operating system's: out of file descriptors (raise the
    /// limit) or of memory.
    pub fn new() -> io::Result<Wakeup> {
        // Not EFD_NONBLOCK: the ring would complete a read with EAGAIN instead of waiting. A write
        // blocks only at a count that no process lives long enough to reach.
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened, and nothing else owns it.
        let eventfd = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Wakeup { shared: Arc::new(Shared { flag: SleepFlag::new(), eventfd }) })
    }

    /// Another producer's side.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker { shared: Arc::clone(&self.shared) }
    }

    /// From here on a producer rings. To sleep without losing a wakeup, drain all queues after this
    /// and before sleeping. Arming twice is harmless.
    pub fn arm(&self) {
        self.shared.flag.arm();
    }

    /// The consumer is awake and will arm again before it sleeps: producers need not ring.
    pub fn disarm(&self) {
        self.shared.flag.disarm();
    }
}

impl AsRawFd for Wakeup {
    /// For the ring to read 8 bytes from, while this value lives.
    fn as_raw_fd(&self) -> RawFd {
        self.shared.eventfd.as_raw_fd()
    }
}

impl Waker {
    /// Makes sure that the consumer looks at its queues after everything sent so far; a system call
    /// only if it may be asleep and nobody else has rung yet.
    pub fn wake(&self) {
        if self.shared.flag.must_ring() {
            self.ring();
        }
    }

    fn ring(&self) {
        let rung = (&self.shared.eventfd).write(&1u64.to_ne_bytes());
        assert!(
            matches!(rung, Ok(8))
                || matches!(&rung, Err(e) if e.kind() == io::ErrorKind::Interrupted),
            "an eventfd takes every write of 1: {rung:?}"
        );
        if rung.is_err() {
            self.ring();
        }
    }
}
