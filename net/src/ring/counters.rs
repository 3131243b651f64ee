//! What the ring counts. One thread writes, any thread reads; relaxed loads and stores suffice,
//! because no decision hangs on them and each counter stands alone.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one ring since its start; shared as an `Arc` with the control lane.
        #[derive(Debug, Default)]
        pub struct RingCounters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl RingCounters {
            /// Every counter with its name, for metrics and reports.
            pub fn each(&self, mut visit: impl FnMut(&'static str, u64)) {
                $(visit(stringify!($name), self.$name.load(Relaxed));)*
            }
        }
    };
}

counters! {
    /// Calls of io_uring_enter.
    enters,
    /// Operations handed to the kernel.
    submissions,
    /// Completions taken from the kernel.
    completions,
    /// Passes of the loop: events, turn, effects.
    turns,
    /// Turns that asked to run again at once.
    turns_run_again,
    /// Longest time from the first event of a turn to its effects being queued, in nanoseconds.
    turn_nanos_max,
    /// Time spent outside the kernel's wait, in nanoseconds (turns only).
    turn_nanos_total,
    /// Receives that found no free buffer and were re-armed.
    receive_no_buffers,
    /// Multishot receives started (the first and every re-arm).
    receives_armed,
    /// Bytes received.
    received_bytes,
    /// Bytes sent.
    sent_bytes,
    /// Sends that went out in more than one piece.
    sends_short,
    /// Connections accepted.
    accepted,
    /// Connections closed at once because connections_max were open.
    refused,
    /// Accepts that failed for want of memory or files and were re-armed a little later.
    accept_failures,
    /// Connections opened outward.
    connected,
    /// Connections that ended.
    closed,
    /// Connections open now.
    connections,
    /// Disk operations finished.
    disk_operations,
    /// Disk transfers that came back short and were continued.
    disk_short,
    /// Disk operations that failed.
    disk_errors,
    /// Wake-ups from other lanes.
    wakeups,
    /// Completions for an operation that no longer exists. Always zero unless there is a bug.
    stale_completions,
}

/// Adds to a counter that only this thread writes: a plain load and store, no locked instruction.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

/// Raises a maximum that only this thread writes.
pub(super) fn raise(counter: &AtomicU64, value: u64) {
    if value > counter.load(Relaxed) {
        counter.store(value, Relaxed);
    }
}
