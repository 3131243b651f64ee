//! What happens next: events ordered by time, and by the order in which they were asked for.
//!
//! Two events of one nanosecond keep the order of their making, so that a seed alone decides the
//! history. An event that finds its owner stopped is put back with its number, and so keeps its
//! place among those that are put back with it.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use forebay_storage::block::OpId;

use super::network::WireId;

/// What an event is about. Whoever it is for may be gone by then: names carry generations.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// A disk operation ends.
    Disk { node: usize, incarnation: u32, op: OpId },
    /// A client has something to do.
    Client { client: usize },
    /// A connection is open at this end.
    Opened { wire: WireId, side: usize },
    /// Bytes, or the connection's end, arrive at this end.
    Deliver { wire: WireId, side: usize },
    /// A dial arrives, or is tried again.
    Dial { dial: usize },
    /// The plan's next step.
    Fault,
    /// A plot goes on.
    Plot { fault: usize },
    /// All nodes lose power.
    PowerGoes,
    /// A process is started again.
    Restart { node: usize, incarnation: u32 },
    /// A node is to lose its data.
    DeleteData { node: usize, until: u64 },
    /// Invariants of the nodes are looked at.
    Inspect,
    /// The next stage of the run.
    Stage,
}

/// An event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) at: u64,
    order: u64,
    pub(super) what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Event) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Event>>,
    next_order: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: u64, what: What) {
        self.next_order += 1;
        self.heap.push(Reverse(Event { at, order: self.next_order, what }));
    }

    /// Puts an event off, before what is asked for from now on.
    pub(super) fn put_off(&mut self, event: Event, at: u64) {
        debug_assert!(at > event.at);
        self.heap.push(Reverse(Event { at, ..event }));
    }

    /// When the next event is due.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(event)| event.at)
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.heap.pop().map(|Reverse(event)| event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_of_their_making() {
        let mut queue = Queue::default();
        for (at, client) in [(5, 0), (3, 1), (5, 2), (3, 3)] {
            queue.push(at, What::Client { client });
        }
        let first = queue.pop().unwrap();
        queue.put_off(first, 5);
        let mut order = Vec::new();
        while let Some(event) = queue.pop() {
            let What::Client { client } = event.what else { unreachable!() };
            order.push((event.at, client));
        }
        // The one put off was made after the first of its new moment, and before the third.
        assert_eq!(order, [(3, 3), (5, 0), (5, 1), (5, 2)]);
    }
}
