//! Lanes: order, fullness, wake-ups.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn a_full_queue_gives_the_value_back() {
    let (mut sender, mut receiver) = channel(2);
    assert_eq!(sender.capacity(), 2);
    sender.try_send(1).unwrap();
    sender.try_send(2).unwrap();
    assert_eq!(sender.try_send(3), Err(Full(3)));
    assert_eq!(receiver.len(), 2);
    assert_eq!(receiver.try_recv(), Ok(1));
    sender.try_send(3).unwrap();
    assert_eq!(receiver.try_recv(), Ok(2));
    assert_eq!(receiver.try_recv(), Ok(3));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    assert!(sender.is_empty() && receiver.is_empty());
}

#[test]
fn what_was_sent_before_the_sender_went_is_received_first() {
    let (mut sender, mut receiver) = channel(4);
    sender.try_send("last words").unwrap();
    drop(sender);
    assert_eq!(receiver.try_recv(), Ok("last words"));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::SenderGone));
}

#[test]
fn a_sender_learns_that_the_receiver_is_gone_and_nothing_leaks() {
    let value = Arc::new(());
    let (mut sender, receiver) = channel(4);
    sender.try_send(Arc::clone(&value)).unwrap();
    assert!(!sender.is_receiver_gone());
    drop(receiver);
    assert!(sender.is_receiver_gone());
    sender.try_send(Arc::clone(&value)).unwrap();
    drop(sender);
    assert_eq!(Arc::strong_count(&value), 1);
}

/// Whether the eventfd has been rung, without waiting.
fn is_rung(wakeup: &Wakeup) -> bool {
    let mut poll = libc::pollfd { fd: wakeup.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    #[allow(unsafe_code)]
    // SAFETY: one pollfd, borrowed for the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1
}

#[test]
fn only_an_armed_consumer_is_rung_and_only_once() {
    let wakeup = Wakeup::new().unwrap();
    let waker = wakeup.waker();
    waker.wake();
    assert!(!is_rung(&wakeup));
    wakeup.arm();
    wakeup.disarm();
    waker.wake();
    assert!(!is_rung(&wakeup));
    wakeup.arm();
    for _ in 0..3 {
        waker.clone().wake();
    }
    assert!(is_rung(&wakeup));
    let mut count = [0; 8];
    eventfd(&wakeup).read_exact(&mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
    assert!(!is_rung(&wakeup));
}

/// The eventfd as a file to read, as the ring would.
fn eventfd(wakeup: &Wakeup) -> File {
    #[allow(unsafe_code)]
    // SAFETY: the descriptor is open as long as the wakeup lives, and it is duplicated at once.
    let fd = unsafe { BorrowedFd::borrow_raw(wakeup.as_raw_fd()) };
    File::from(fd.try_clone_to_owned().unwrap())
}

/// A lost wakeup would leave the consumer in its read for ever.
#[test]
fn a_sleeping_consumer_receives_everything_in_order() {
    let until = Instant::now() + Duration::from_millis(400);
    let (mut sender, mut receiver) = channel::<Box<u64>>(8);
    let wakeup = Wakeup::new().unwrap();
    let waker = wakeup.waker();
    let producer = thread::spawn(move || {
        let mut sent = 0u64;
        while Instant::now() < until {
            match sender.try_send(Box::new(sent)) {
                Ok(()) => sent += 1,
                Err(Full(_)) => thread::yield_now(),
            }
            waker.wake();
            if sent.is_multiple_of(64) {
                // Long enough for the consumer to fall asleep.
                thread::sleep(Duration::from_micros(50));
            }
        }
        drop(sender);
        waker.wake();
        sent
    });
    let mut file = eventfd(&wakeup);
    let mut received = 0u64;
    'running: loop {
        wakeup.arm();
        let before = received;
        loop {
            match receiver.try_recv() {
                Ok(value) => {
                    assert_eq!(*value, received);
                    received += 1;
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::SenderGone) => break 'running,
            }
        }
        if received == before {
            file.read_exact(&mut [0; 8]).unwrap();
        }
        wakeup.disarm();
    }
    assert_eq!(producer.join().unwrap(), received);
    assert!(received > 0);
}
