//! A bounded queue from one producer to one consumer, without locks.
//!
//! ```text
//!   slots     | . | . | D | E | F | . | . | . |        index = position modulo slots
//!                       ▲           ▲
//!                      head        tail                positions only grow (and wrap)
//! ```
//!
//! The producer alone moves `tail`, the consumer alone moves `head`; each keeps a copy of the
//! other's position and reads the real one only when the copy says full, or empty. So in a steady
//! flow the two cores exchange a cache line per batch and not per value.
//!
//! Invariants: `tail - head` (wrapping) is between 0 and the number of slots; the slots from head
//! to before tail hold values and belong to the consumer, the others are empty and belong to the
//! producer.
//!
//! Source: Lamport, "Proving the Correctness of Multiprocess Programs" (1977), section 3; the
//! copied positions from Lee, Bu and Chandranmenon, "A Lock-Free, Cache-Efficient Multi-Core
//! Synchronization Mechanism" (2010), section 3.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use super::sync::{Arc, AtomicBool, AtomicUsize, Ordering, UnsafeCell};

/// On a cache line of its own, and on that line's prefetched neighbour.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

struct Shared<T> {
    head: Apart<AtomicUsize>,
    tail: Apart<AtomicUsize>,
    sender_gone: AtomicBool,
    receiver_gone: AtomicBool,
    /// A power of two of them, so that positions may wrap.
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a slot is touched by one side at a time: the producer before it moves `tail` past it, the
// consumer after it saw that (release, acquire) and until it moves `head`, and so on in turn. There
// is one Sender and one Receiver, and both need `&mut self`. Values move between threads: T: Send.
unsafe impl<T: Send> Sync for Shared<T> {}

// SAFETY: as above; the slots hold values of T and nothing tied to a thread.
unsafe impl<T: Send> Send for Shared<T> {}

/// The producer's end. Dropping it tells the consumer, once the queue is empty.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    /// Never ahead of the real head.
    head_seen: usize,
}

/// The consumer's end.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    /// Never ahead of the real tail.
    tail_seen: usize,
}

/// The queue has no free slot; the value comes back. Shed it or try again after the consumer ran.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue to the other lane is full")]
pub struct Full<T>(pub T);

impl<T> std::fmt::Debug for Full<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Full(..)")
    }
}

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TryRecvError {
    /// Nothing now; come back when woken.
    #[error("the queue from the other lane is empty")]
    Empty,
    /// Nothing ever again: everything was received and the sender is gone.
    #[error("the other lane has dropped its end of the queue")]
    SenderGone,
}

/// A queue with room for at least `capacity` values (the next power of two).
#[must_use]
pub fn channel<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0 && capacity <= 1 << 30);
    let slots =
        (0..capacity.next_power_of_two()).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let shared = Arc::new(Shared {
        head: Apart(AtomicUsize::new(0)),
        tail: Apart(AtomicUsize::new(0)),
        sender_gone: AtomicBool::new(false),
        receiver_gone: AtomicBool::new(false),
        slots,
    });
    let sender = Sender { shared: Arc::clone(&shared), tail: 0, head_seen: 0 };
    (sender, Receiver { shared, head: 0, tail_seen: 0 })
}

impl<T> Shared<T> {
    fn slot(&self, position: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[position & (self.slots.len() - 1)]
    }
}

impl<T> Sender<T> {
    /// Appends a value. The consumer need not notice before it is woken.
    pub fn try_send(&mut self, value: T) -> Result<(), Full<T>> {
        let slots = self.shared.slots.len();
        if self.tail.wrapping_sub(self.head_seen) == slots {
            self.head_seen = self.shared.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) == slots {
                return Err(Full(value));
            }
        }
        self.shared.slot(self.tail).with_mut(|slot| {
            // SAFETY: the slot is empty and ours: the consumer's head, loaded with acquire, has
            // passed its last value, and the consumer comes back only after the store below.
            unsafe { (*slot).write(value) };
        });
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Whether nobody will receive what is sent.
    #[must_use]
    pub fn is_receiver_gone(&self) -> bool {
        self.shared.receiver_gone.load(Ordering::Acquire)
    }

    /// Most values that the queue holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }

    /// Values in the queue; fewer by the time the caller looks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tail.wrapping_sub(self.shared.head.0.load(Ordering::Relaxed))
    }

    /// Whether the consumer has taken everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Receiver<T> {
    /// Takes the oldest value.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        if self.head == self.tail_seen {
            // In this order: a sender that is gone sends no more, so a queue that is empty after
            // that was seen stays empty.
            let sender_gone = self.shared.sender_gone.load(Ordering::Acquire);
            self.tail_seen = self.shared.tail.0.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                let error =
                    if sender_gone { TryRecvError::SenderGone } else { TryRecvError::Empty };
                return Err(error);
            }
        }
        let value = self.shared.slot(self.head).with_mut(|slot| {
            // SAFETY: the slot holds a value, written before the producer's tail, loaded with
            // acquire, passed it; it is read once, as the head moves past it right below.
            unsafe { (*slot).assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        self.shared.head.0.store(self.head, Ordering::Release);
        Ok(value)
    }

    /// Values in the queue; more by the time the caller looks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.tail.0.load(Ordering::Relaxed).wrapping_sub(self.head)
    }

    /// Whether there was nothing to receive.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.sender_gone.store(true, Ordering::Release);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receiver_gone.store(true, Ordering::Release);
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let tail = self.tail.0.load(Ordering::Acquire);
        let mut head = self.head.0.load(Ordering::Acquire);
        while head != tail {
            self.slot(head).with_mut(|slot| {
                // SAFETY: slots from head to before tail hold values, and both ends are gone.
                unsafe { (*slot).assume_init_drop() };
            });
            head = head.wrapping_add(1);
        }
    }
}

impl<T> std::fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<T> std::fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("len", &self.len()).finish_non_exhaustive()
    }
}
