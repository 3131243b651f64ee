//! Whether the consumer must be woken: one flag, and the fences that make it reliable.
//!
//! ```text
//!   consumer                          producer
//!   armed = true                      queue.tail += 1
//!   fence ── whichever fence ──────── fence
//!   look at the queues  is second     armed?  then armed = false, and ring
//!   sleep                sees the other's store
//! ```
//!
//! Without the fences each side's store could still wait in its core's store buffer while its load
//! runs, and both could see the old state: the value waits in the queue and the consumer sleeps.
//! Only the producer that turns the flag off rings, so many sends to a sleeper cost one system call.

use super::sync::{AtomicBool, Ordering, fence};

#[derive(Debug)]
pub(super) struct SleepFlag {
    armed: AtomicBool,
}

impl SleepFlag {
    /// The consumer starts out awake.
    pub(super) fn new() -> SleepFlag {
        SleepFlag { armed: AtomicBool::new(false) }
    }

    /// Consumer: from here on a producer rings. Look at the queues after this, then sleep.
    pub(super) fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Consumer: awake, whatever the reason; ringing would be wasted.
    pub(super) fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    /// Producer, after sending: whether it is this one's turn to ring.
    pub(super) fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        // Exchanged, not swapped: a producer that comes too late writes nothing, so there is no order
        // between its store and the next arming to think about.
        self.armed.load(Ordering::Relaxed)
            && self
                .armed
                .compare_exchange(true, false, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}
