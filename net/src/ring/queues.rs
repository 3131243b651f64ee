//! The two queues shared with the kernel, and the one system call that moves both.
//!
//! Linked pairs never straddle two submissions: the kernel ends a chain at the end of a submission,
//! and a flush must not start before its write has ended.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{CompletionQueue, EnterFlags, SubmissionQueue, Submitter, cqueue, squeue};

use super::config::RingConfig;
use super::counters::{self, RingCounters};
use super::error::RingError;

/// Entries that found the submission queue full even after a submission. Almost always empty.
pub(super) type Backlog = VecDeque<(squeue::Entry, Option<squeue::Entry>)>;

/// The queues, borrowed from the ring for one run.
pub(super) struct Queues<'a> {
    submitter: Submitter<'a>,
    submissions: SubmissionQueue<'a>,
    completions: CompletionQueue<'a>,
    backlog: &'a mut Backlog,
    counters: &'a RingCounters,
}

impl<'a> Queues<'a> {
    pub(super) fn new(
        (submitter, submissions, completions): (
            Submitter<'a>,
            SubmissionQueue<'a>,
            CompletionQueue<'a>,
        ),
        backlog: &'a mut Backlog,
        counters: &'a RingCounters,
    ) -> Queues<'a> {
        let mut queues = Queues { submitter, submissions, completions, backlog, counters };
        // Saves a file-table look-up per system call; a kernel or limit that refuses costs nothing
        // but that.
        let _ = queues.submitter.register_ring_fd();
        queues
    }

    /// Queues one operation. Every pointer in `entry` must belong to memory that its operation in
    /// the slab owns (or that lives as long as the ring).
    pub(super) fn push(&mut self, entry: squeue::Entry) {
        self.push_chain(entry, None);
    }

    /// Queues an operation and the one linked behind it (`first` carries IO_LINK).
    pub(super) fn push_linked(&mut self, first: squeue::Entry, second: squeue::Entry) {
        self.push_chain(first, Some(second));
    }

    fn push_chain(&mut self, first: squeue::Entry, second: Option<squeue::Entry>) {
        counters::add(&self.counters.submissions, 1 + u64::from(second.is_some()));
        if !self.backlog.is_empty() || !self.has_room(second.is_some()) {
            self.backlog.push_back((first, second));
            return;
        }
        self.write(&first, second.as_ref());
    }

    fn has_room(&mut self, pair: bool) -> bool {
        let need = 1 + usize::from(pair);
        if self.submissions.capacity() - self.submissions.len() >= need {
            return true;
        }
        self.submissions.sync();
        counters::add(&self.counters.enters, 1);
        // A refusal (EBUSY, EAGAIN) leaves the entries where they are; the next enter retries.
        let _ = self.submitter.submit();
        self.submissions.sync();
        self.submissions.capacity() - self.submissions.len() >= need
    }

    fn write(&mut self, first: &squeue::Entry, second: Option<&squeue::Entry>) {
        // SAFETY: by the contract of `push`, the operation owns the memory its entry points to
        // until its completion; the room was checked.
        unsafe {
            self.submissions.push(first).expect("room was checked");
            if let Some(second) = second {
                self.submissions.push(second).expect("room was checked");
            }
        }
    }

    fn drain_backlog(&mut self) {
        while let Some((first, second)) = self.backlog.front().cloned() {
            if !self.has_room(second.is_some()) {
                return;
            }
            self.write(&first, second.as_ref());
            self.backlog.pop_front();
        }
    }

    /// Whether the kernel has completions or deferred work for us, seen without a system call.
    pub(super) fn has_events(&mut self) -> bool {
        self.completions.sync();
        !self.completions.is_empty() || self.submissions.taskrun() || self.submissions.cq_overflow()
    }

    /// Whether completions are waiting in memory.
    pub(super) fn has_completions(&mut self) -> bool {
        self.completions.sync();
        !self.completions.is_empty()
    }

    /// Whether anything is waiting to be submitted.
    pub(super) fn has_submissions(&self) -> bool {
        !self.submissions.is_empty() || !self.backlog.is_empty()
    }

    /// Submits everything queued, runs the kernel's deferred work, and waits until `want`
    /// completions are there or `wait_nanos` have passed.
    pub(super) fn enter(&mut self, want: u32, wait_nanos: Option<u64>) -> Result<(), RingError> {
        self.drain_backlog();
        self.submissions.sync();
        counters::add(&self.counters.enters, 1);
        // Entries are left over only when the kernel refused them; do not sleep on those.
        let want = if self.backlog.is_empty() { want } else { 0 };
        let timeout = wait_nanos
            .map(|n| Timespec::new().sec(n / 1_000_000_000).nsec((n % 1_000_000_000) as u32));
        let mut args = SubmitArgs::new();
        if let Some(timeout) = &timeout {
            args = args.timespec(timeout);
        }
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        let to_submit = self.submissions.len() as u32;
        // SAFETY: `args` is the argument that EXT_ARG calls for, and lives across the call.
        let result = unsafe { self.submitter.enter(to_submit, want, flags.bits(), Some(&args)) };
        self.submissions.sync();
        self.completions.sync();
        match result {
            Ok(_) => Ok(()),
            Err(e) => match e.raw_os_error() {
                // Time is up; a signal came; completions must be reaped first; memory is short for
                // a moment. In each case the loop goes on and enters again.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(RingError::system("io_uring_enter", e)),
            },
        }
    }

    /// The next completion already in memory.
    pub(super) fn next(&mut self) -> Option<cqueue::Entry> {
        self.completions.next()
    }

    /// Completions that have arrived by now.
    pub(super) fn sync_completions(&mut self) {
        self.completions.sync();
    }
}

impl Drop for Queues<'_> {
    fn drop(&mut self) {
        self.submissions.sync();
        self.completions.sync();
        let _ = self.submitter.unregister_ring_fd();
    }
}

/// Translates a failed setup into what is missing.
pub(super) fn setup_error(e: io::Error, config: &RingConfig) -> RingError {
    match e.raw_os_error() {
        Some(libc::ENOSYS) => RingError::NotAvailable,
        Some(libc::EPERM | libc::EACCES) => RingError::Forbidden,
        Some(libc::EINVAL) => RingError::KernelTooOld { release: super::system::kernel_release() },
        Some(libc::ENOMEM) => RingError::MemlockTooSmall {
            // An entry is 64 bytes, a completion 16.
            needed_bytes: u64::from(config.submission_entries) * 64
                + u64::from(config.completion_entries) * 16,
            limit_bytes: super::system::memlock_limit_bytes(),
        },
        _ => RingError::system("io_uring_setup", e),
    }
}
