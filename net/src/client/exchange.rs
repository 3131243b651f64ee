//! The bookkeeping of one connection: which requests wait, which are under way, which reply
//! belongs to whom.
//!
//! ```text
//!   begin ──► Queued ──take_batch──► Sent ──answer──► Answered ──poll──► the caller
//!                └──────────────────────┴── release: the caller left ──► Free
//! ```
//!
//! A plain state machine without I/O. Requests live in slots; a correlation id is the slot's number
//! and its generation, so finding the request of a reply is an index, and a reply that comes after
//! its caller left is told from one that nobody asked for.
//!
//! **Silence.** While requests are under way, the time since anything arrived is a sign of the peer's
//! death. A slow request is none: so before a silence is believed, the peer is asked for a sign of
//! life, under a correlation of its own ([`PROBE`]), which a live shard gives at once.
//!
//! Invariants: there are never more slots than `in_flight_max`, because a caller holds a permit
//! while it holds a slot; the queue names each queued slot once; no generation is 0, so
//! correlation 0 belongs to no request (a node uses it for its last words).

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use forebay_core::message::DescribeNodeRequest;

use tokio::time::Instant;

use super::error::{Lost, ProtocolError};
use super::wire::{Call, Received};
use crate::frame::{self, Frame, PROTOCOL_VERSION};
use crate::machine::SendBuf;

/// Correlation of what the connection asks for itself: no slot has this number.
pub(super) const PROBE: u64 = u32::MAX as u64;

/// Appends the question that a live shard always answers at once: what its node is.
pub(super) fn append_probe(out: &mut SendBuf) {
    let request = DescribeNodeRequest { protocol_version: PROTOCOL_VERSION };
    frame::append(out, PROBE, &request);
}

/// Requests leave together until they make so many bytes.
const BATCH_BYTES: usize = 64 * 1024;
/// Request buffers that are kept for later requests, and how large they may be.
const SPARES_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 16 * 1024;

/// How a request ended without a reply.
#[derive(Debug)]
pub(super) struct NoReply {
    /// Whether any of it may have reached the node.
    pub(super) sent: bool,
    pub(super) lost: Lost,
}

/// How far a request had come when its time was up.
#[derive(Debug)]
pub(super) enum GivenUp {
    /// The reply came at the last moment.
    Answered(Received),
    /// It was sent.
    Sent,
    /// It was not sent.
    Unsent,
}

#[derive(Debug)]
enum State {
    Free,
    Queued(SendBuf),
    Sent,
    Answered(Received),
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    state: State,
    waker: Option<Waker>,
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Exchange {
    slots: Vec<Slot>,
    free: Vec<u32>,
    queue: VecDeque<u32>,
    spares: Vec<SendBuf>,
    lost: Option<Lost>,
    /// Slots in the state Sent.
    sent: usize,
    /// Since when something is under way and nothing has arrived.
    silent_since: Option<Instant>,
    probe: Probe,
    answers: bool,
}

/// The question for a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Idle,
    Wanted,
    Asked,
}

impl Exchange {
    pub(super) fn new() -> Exchange {
        Exchange {
            slots: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            spares: Vec::new(),
            lost: None,
            sent: 0,
            silent_since: None,
            probe: Probe::Idle,
            answers: false,
        }
    }

    /// Why the connection ended, if it has.
    pub(super) fn lost(&self) -> Option<&Lost> {
        self.lost.as_ref()
    }

    /// Whether the peer ever answered a request.
    pub(super) fn has_answered(&self) -> bool {
        self.answers
    }

    /// How long requests have been under way without anything arriving.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        self.silent_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// The peer shall give a sign of life. Returns whether the writer must be woken for it.
    pub(super) fn ask_for_life(&mut self) -> bool {
        let asks = self.probe == Probe::Idle;
        if asks {
            self.probe = Probe::Wanted;
        }
        asks
    }

    /// Requests that wait or are under way.
    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Queues a request. Returns its slot, and whether the writer must be woken.
    pub(super) fn begin(&mut self, call: &Call<'_>) -> Result<(u32, bool), NoReply> {
        if let Some(lost) = &self.lost {
            return Err(NoReply { sent: false, lost: lost.clone() });
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 1, state: State::Free, waker: None });
            (self.slots.len() - 1) as u32
        });
        let mut frame = self.spares.pop().unwrap_or_default();
        let generation = self.slots[slot as usize].generation;
        call.encode(&mut frame, u64::from(generation) << 32 | u64::from(slot));
        self.slots[slot as usize].state = State::Queued(frame);
        self.queue.push_back(slot);
        Ok((slot, self.queue.len() == 1))
    }

    /// Moves queued requests into `out`, which then leaves in one write. From here on they count as
    /// sent.
    pub(super) fn take_batch(&mut self, out: &mut SendBuf, now: Instant) {
        if self.probe == Probe::Wanted {
            self.probe = Probe::Asked;
            append_probe(out);
        }
        if !self.queue.is_empty() && self.sent == 0 {
            self.silent_since = Some(now);
        }
        while out.len() < BATCH_BYTES {
            let Some(slot) = self.queue.pop_front() else { return };
            let state = &mut self.slots[slot as usize].state;
            let State::Queued(frame) = std::mem::replace(state, State::Sent) else {
                unreachable!("the queue names queued slots only");
            };
            self.sent += 1;
            out.extend_from_slice(&frame);
            self.keep(frame);
        }
    }

    fn keep(&mut self, mut frame: SendBuf) {
        if self.spares.len() < SPARES_MAX && frame.capacity() <= SPARE_BYTES_MAX {
            frame.clear();
            self.spares.push(frame);
        }
    }

    /// Bytes arrived.
    pub(super) fn received(&mut self, now: Instant) {
        self.silent_since = (self.sent > 0).then_some(now);
        if self.probe == Probe::Asked {
            self.probe = Probe::Idle;
        }
    }

    /// One request less is under way.
    fn ended(&mut self) {
        self.sent -= 1;
        if self.sent == 0 {
            self.silent_since = None;
        }
    }

    /// A whole frame arrived. An error ends the connection.
    pub(super) fn answer(&mut self, frame: &Frame<'_>) -> Result<(), Lost> {
        let correlation = frame.correlation;
        if correlation == 0
            && let Some((code, message)) = Received::new(frame).last_words()
        {
            return Err(Lost::Refused { code, message });
        }
        if correlation == PROBE {
            return Ok(());
        }
        let unknown = Lost::Protocol(ProtocolError::Correlation { correlation });
        let generation = (correlation >> 32) as u32;
        let Some(slot) = self.slots.get_mut(correlation as u32 as usize) else {
            return Err(unknown);
        };
        match slot.state {
            State::Sent if slot.generation == generation => {
                slot.state = State::Answered(Received::new(frame));
                if let Some(waker) = slot.waker.take() {
                    waker.wake();
                }
                self.answers = true;
                self.ended();
                Ok(())
            }
            // Its caller left, or is about to.
            _ if generation != 0 && generation < slot.generation => Ok(()),
            _ => Err(unknown),
        }
    }

    /// The reply to the request in `slot`, or how it ended.
    pub(super) fn poll(
        &mut self,
        slot: u32,
        context: &mut Context<'_>,
    ) -> Poll<Result<Received, NoReply>> {
        let Slot { state, waker, .. } = &mut self.slots[slot as usize];
        if matches!(state, State::Answered(_)) {
            // The slot stays taken, and silent, until its caller releases it.
            let answered = std::mem::replace(state, State::Free);
            let State::Answered(received) = answered else { unreachable!("just matched") };
            return Poll::Ready(Ok(received));
        }
        if let Some(lost) = &self.lost {
            let sent = !matches!(state, State::Queued(_));
            return Poll::Ready(Err(NoReply { sent, lost: lost.clone() }));
        }
        match waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// The time of the request in `slot` is up. If it was not sent, it never will be.
    pub(super) fn give_up(&mut self, slot: u32) -> GivenUp {
        let state = &mut self.slots[slot as usize].state;
        match std::mem::replace(state, State::Free) {
            State::Answered(received) => GivenUp::Answered(received),
            State::Sent => {
                self.ended();
                GivenUp::Sent
            }
            State::Queued(frame) => {
                self.queue.retain(|queued| *queued != slot);
                self.keep(frame);
                GivenUp::Unsent
            }
            State::Free => unreachable!("a caller gives up once"),
        }
    }

    /// The caller of `slot` has its answer, or left. A request that was not sent never will be.
    pub(super) fn release(&mut self, slot: u32) {
        let released = &mut self.slots[slot as usize];
        released.waker = None;
        // Generations wrap to 1. A reply that is four billion requests late is not expected.
        released.generation = released.generation.checked_add(1).unwrap_or(1);
        match std::mem::replace(&mut released.state, State::Free) {
            State::Queued(frame) => {
                self.queue.retain(|queued| *queued != slot);
                self.keep(frame);
            }
            State::Sent => self.ended(),
            State::Answered(_) | State::Free => {}
        }
        self.free.push(slot);
    }

    /// Ends the connection for every caller.
    pub(super) fn close(&mut self, lost: Lost) {
        if self.lost.is_some() {
            return;
        }
        self.lost = Some(lost);
        for slot in &mut self.slots {
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_core::message::{GetReply, GetRequest, Kind};

    use super::*;
    use crate::client::wire::append;
    use crate::frame;

    fn begin(exchange: &mut Exchange) -> u32 {
        let request =
            GetRequest { table: 1, epoch: 1, key: b"key", projection: None, consistent: true };
        let encode = |out: &mut SendBuf, correlation: u64| append(out, correlation, &request);
        exchange.begin(&Call::new(&encode, Kind::Get)).unwrap().0
    }

    /// The correlations of the requests that leave now.
    fn leaving(exchange: &mut Exchange) -> Vec<u64> {
        let mut out = SendBuf::new();
        exchange.take_batch(&mut out, Instant::now());
        let (mut rest, mut found) = (&out[..], Vec::new());
        while let Some(frame) = frame::split(rest).unwrap() {
            found.push(frame.correlation);
            rest = &rest[frame.frame_bytes..];
        }
        found
    }

    fn answer(exchange: &mut Exchange, correlation: u64) -> Result<(), Lost> {
        let mut out = SendBuf::new();
        frame::append(&mut out, correlation, &GetReply { item: None });
        exchange.answer(&frame::split(&out).unwrap().unwrap())
    }

    fn poll(exchange: &mut Exchange, slot: u32) -> Poll<Result<Received, NoReply>> {
        exchange.poll(slot, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn requests_that_are_queued_together_leave_together_in_order() {
        let mut exchange = Exchange::new();
        (0..3).for_each(|slot| assert_eq!(begin(&mut exchange), slot));
        assert_eq!(leaving(&mut exchange), [1 << 32, 1 << 32 | 1, 1 << 32 | 2]);
        assert!(leaving(&mut exchange).is_empty());
    }

    #[test]
    fn a_request_that_was_not_sent_is_withdrawn_by_its_caller() {
        let mut exchange = Exchange::new();
        let (first, second, third) =
            (begin(&mut exchange), begin(&mut exchange), begin(&mut exchange));
        assert!(matches!(exchange.give_up(first), GivenUp::Unsent));
        exchange.release(first);
        exchange.release(second);
        assert_eq!(leaving(&mut exchange), [1 << 32 | u64::from(third)]);
        assert_eq!(exchange.in_flight(), 1);
    }

    #[test]
    fn slots_are_used_again_under_another_correlation() {
        let mut exchange = Exchange::new();
        for generation in 1..100 {
            let slot = begin(&mut exchange);
            let correlation = generation << 32;
            assert_eq!((slot, leaving(&mut exchange)), (0, vec![correlation]));
            answer(&mut exchange, correlation).unwrap();
            assert!(matches!(poll(&mut exchange, slot), Poll::Ready(Ok(_))));
            exchange.release(slot);
        }
    }

    #[test]
    fn a_late_reply_falls_and_a_false_one_is_an_error() {
        let mut exchange = Exchange::new();
        let slot = begin(&mut exchange);
        let correlation = leaving(&mut exchange)[0];
        assert!(matches!(exchange.give_up(slot), GivenUp::Sent));
        exchange.release(slot);
        answer(&mut exchange, correlation).unwrap();
        // Its slot has another request now, which is not sent yet.
        let slot = begin(&mut exchange);
        answer(&mut exchange, correlation).unwrap();
        assert!(poll(&mut exchange, slot).is_pending());
        for correlation in [2 << 32, 3 << 32, 1 << 32 | 1, 5] {
            assert!(answer(&mut exchange, correlation).is_err(), "{correlation:#x}");
        }
    }

    #[test]
    fn a_reply_at_the_last_moment_counts() {
        let mut exchange = Exchange::new();
        let slot = begin(&mut exchange);
        let correlation = leaving(&mut exchange)[0];
        answer(&mut exchange, correlation).unwrap();
        exchange.close(Lost::Closed);
        assert!(matches!(exchange.give_up(slot), GivenUp::Answered(_)));
    }

    #[test]
    fn only_requests_under_way_make_a_silence_and_anything_that_arrives_ends_it() {
        let (mut exchange, began) = (Exchange::new(), Instant::now());
        let after = |millis| began + Duration::from_millis(millis);
        let mut out = SendBuf::new();
        let silence = |exchange: &Exchange, at| exchange.silence(after(at)).as_millis();
        let (first, second) = (begin(&mut exchange), begin(&mut exchange));
        assert_eq!(silence(&exchange, 100), 0, "nothing was sent");
        exchange.take_batch(&mut out, after(100));
        assert_eq!(silence(&exchange, 150), 50);
        let third = begin(&mut exchange);
        exchange.take_batch(&mut out, after(160));
        assert_eq!(silence(&exchange, 170), 70, "the first counts");
        assert!(exchange.ask_for_life() && !exchange.ask_for_life());
        out.clear();
        exchange.take_batch(&mut out, after(171));
        let probe = frame::split(&out).unwrap().unwrap();
        assert_eq!((probe.kind, probe.correlation), (Kind::DescribeNode as u16, PROBE));
        exchange.received(after(180));
        answer(&mut exchange, PROBE).unwrap();
        assert_eq!(silence(&exchange, 190), 10);
        assert!(exchange.ask_for_life(), "a new silence, a new question");
        exchange.release(first);
        assert!(matches!(exchange.give_up(second), GivenUp::Sent));
        exchange.release(second);
        assert!(!exchange.has_answered());
        exchange.received(after(200));
        answer(&mut exchange, 1 << 32 | u64::from(third)).unwrap();
        assert!(exchange.has_answered());
        assert_eq!(silence(&exchange, 500), 0, "nothing is under way");
    }

    #[test]
    fn the_end_of_a_connection_tells_sent_from_unsent() {
        let mut exchange = Exchange::new();
        let sent = begin(&mut exchange);
        leaving(&mut exchange);
        let unsent = begin(&mut exchange);
        exchange.close(Lost::Closed);
        exchange.close(Lost::Dropped);
        for (slot, expected) in [(sent, true), (unsent, false)] {
            let Poll::Ready(Err(no_reply)) = poll(&mut exchange, slot) else { panic!("it ended") };
            assert_eq!(no_reply.sent, expected);
            assert!(matches!(no_reply.lost, Lost::Closed), "the first reason stays");
        }
    }
}
