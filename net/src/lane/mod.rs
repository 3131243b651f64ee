//! Between lanes: how the maintenance and control lanes talk to a shard, and a shard to them.
//!
//! ```text
//!   control lane      ──Sender──► | bounded ring of slots | ──Receiver──►  shard
//!        │                                                                   │ arm, drain, sleep
//!        └──Waker::wake──► sleep flag ──only if armed──► eventfd ──ring read─┘
//! ```
//!
//! One queue has one producer and one consumer ([`channel`]); whoever has several producers makes
//! several queues and shares one [`Wakeup`] among them. Nothing here blocks: a full queue gives the
//! value back, and the producer sheds or tries later. The shard pays one fence per loop for being
//! wakeable, and a producer pays a system call only when the shard may be asleep.
//!
//! **Protocol.** The consumer calls [`Wakeup::arm`], then empties its queues, then sleeps in a read
//! of the eventfd. The producer sends, then calls [`Waker::wake`]. Whichever comes second in the
//! order of their fences sees the other: either the consumer finds the value, or the producer finds
//! the flag and rings. A model checker walks through all orders, weak memory included
//! (`model.rs`: the same source over loom's atomics).
//!
//! Left out: several producers or consumers per queue, blocking, priorities. glommio's channels are
//! not used: the ends of its single-producer queue are unsound when cloned.

mod queue;
mod sleep;
mod wakeup;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use queue::{Full, Receiver, Sender, TryRecvError, channel};
pub use wakeup::{Waker, Wakeup};

/// The primitives that `queue` and `sleep` are built from. `model.rs` puts loom's in this place.
mod sync {
    pub(super) use std::sync::Arc;
    pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

    /// The standard cell, with loom's way of lending its pointer.
    #[derive(Debug)]
    pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(super) fn new(value: T) -> UnsafeCell<T> {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        #[inline]
        pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}
