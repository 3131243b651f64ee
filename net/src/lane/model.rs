//! The queue and the sleep flag under loom: every order of their steps, and every value that the
//! memory model lets a load see. The modules below are the shipped source; only `sync` differs.
#![allow(dead_code, unreachable_pub)]
// Loading the shipped source again, over other primitives, is the point.
#![allow(clippy::duplicate_mod)]

#[path = "queue.rs"]
mod queue;
#[path = "sleep.rs"]
mod sleep;

mod sync {
    pub(super) use loom::cell::UnsafeCell;
    pub(super) use loom::sync::Arc;
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
}

use loom::sync::{Arc, Notify};
use loom::thread;

use queue::{TryRecvError, channel};
use sleep::SleepFlag;

fn explore(preemptions_max: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions_max);
    model.check(f);
}

/// Values own memory, so that a lost or doubled one is a leak or a double free to loom.
fn value(n: usize) -> loom::sync::Arc<usize> {
    Arc::new(n)
}

#[test]
fn values_arrive_once_and_in_order_through_a_queue_that_wraps() {
    explore(4, || {
        let (mut sender, mut receiver) = channel(2);
        let producer = thread::spawn(move || {
            let mut n = 0;
            while n < 3 {
                match sender.try_send(value(n)) {
                    Ok(()) => n += 1,
                    Err(_) => thread::yield_now(),
                }
            }
        });
        let mut expected = 0;
        loop {
            match receiver.try_recv() {
                Ok(n) => {
                    assert_eq!(*n, expected);
                    expected += 1;
                }
                Err(TryRecvError::Empty) => thread::yield_now(),
                Err(TryRecvError::SenderGone) => break,
            }
        }
        assert_eq!(expected, 3);
        producer.join().unwrap();
    });
}

#[test]
fn values_left_in_the_queue_are_dropped_with_it() {
    explore(4, || {
        let (mut sender, mut receiver) = channel(2);
        let producer = thread::spawn(move || {
            let _ = sender.try_send(value(0));
            let _ = sender.try_send(value(1));
        });
        let _ = receiver.try_recv();
        drop(receiver);
        producer.join().unwrap();
    });
}

/// A consumer as a shard is one: it sleeps only after arming and finding nothing. A lost wakeup
/// leaves it asleep for ever, which loom reports as a deadlock.
fn consume(
    flag: &SleepFlag,
    eventfd: &Notify,
    receivers: &mut [queue::Receiver<usize>],
    values: usize,
) {
    let mut received = 0;
    while received < values {
        flag.arm();
        let before = received;
        for receiver in &mut *receivers {
            while receiver.try_recv().is_ok() {
                received += 1;
            }
        }
        if received == before {
            eventfd.wait();
        }
        flag.disarm();
    }
}

fn produce(flag: &SleepFlag, eventfd: &Notify, mut sender: queue::Sender<usize>, values: usize) {
    for n in 0..values {
        sender.try_send(n).unwrap();
        if flag.must_ring() {
            eventfd.notify();
        }
    }
}

#[test]
fn a_consumer_about_to_sleep_is_always_woken() {
    explore(4, || {
        let (sender, receiver) = channel(2);
        let shared = Arc::new((SleepFlag::new(), Notify::new()));
        let producer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || produce(&shared.0, &shared.1, sender, 2))
        };
        consume(&shared.0, &shared.1, &mut [receiver], 2);
        producer.join().unwrap();
    });
}

#[test]
fn two_producers_that_share_a_flag_both_get_through() {
    explore(2, || {
        let shared = Arc::new((SleepFlag::new(), Notify::new()));
        let (senders, mut receivers): (Vec<_>, Vec<_>) = (0..2).map(|_| channel(1)).unzip();
        let producers: Vec<_> = senders
            .into_iter()
            .map(|sender| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || produce(&shared.0, &shared.1, sender, 1))
            })
            .collect();
        consume(&shared.0, &shared.1, &mut receivers, 2);
        for producer in producers {
            producer.join().unwrap();
        }
    });
}
