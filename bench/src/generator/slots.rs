//! Operations in flight, and what becomes of them.
//!
//! ```text
//!              start                    complete / fail
//!   ready ───────────────► busy ───────────────────────────► ready   (lane up)
//!     ▲                     │ read of a read-modify-write      │
//!     │                     └──► continuations ──► busy        ▼
//!     └──────────────── lane up again ◄──────────────────── parked   (lane down)
//!
//!   busy ── "ask another" ──► moved ── the leader is known, or the pause is over ──► busy
//! ```
//!
//! A slot is one of a lane's `depth` places. Its correlation on the wire is its index and its
//! generation; the generation changes when the operation ends, so the late answer to an operation
//! given up is told from the answer to its successor. `ready` is a queue, so the slots, and with
//! them the connections, take turns.
//!
//! The slots of a lane lie beside each other, because its requests leave together and its answers come
//! together; and a slot is one line of the processor's cache. The next requests of a lane with 16 in
//! flight then find theirs fetched ahead (measured: a seventh of the generator's own work).
//!
//! Of replicas, one leads. A request that another one refuses, or that finds no connection to the one
//! it should go to, waits as `moved` until it can be sent (again). It has not been executed, so that is
//! no second try: its latency counts on from the intended start, and if its time is up before anybody
//! has taken it, it has certainly had no effect.
//!
//! Invariants: a slot is in exactly one of ready, parked, thinking, busy, moved (or retired, when its
//! lane has nothing left to do); `outstanding` counts the busy and the moved ones.

use std::collections::VecDeque;
use std::net::SocketAddr;

use forebay_core::time::Nanos;

use super::record::{Cause, LATE_NANOS, Recorder};
use crate::target::Outcome;
use crate::workload::{End, OpKind, PHASES_MAX, Planned, Source};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// Waiting for the only or the last answer.
    Busy,
    /// A read-modify-write waiting for its read.
    Reading,
    /// Not executed, and on no connection.
    Moved {
        /// It is a read-modify-write's read.
        reading: bool,
    },
}

#[derive(Clone, Debug)]
#[repr(align(64))]
struct Slot {
    /// Where its latency counts from.
    intended: Nanos,
    /// Where its time limit counts from.
    started: Nanos,
    /// When it was sent last.
    sent: Nanos,
    /// With `argument` and `kind`, what it carries.
    record: u64,
    argument: u64,
    lane: u32,
    /// The socket that carries it while busy.
    socket: u32,
    generation: u32,
    /// How often it has moved.
    moves: u32,
    /// The phase of the run that it belongs to.
    phase: u16,
    kind: OpKind,
    state: State,
}

const _: () = assert!(size_of::<Slot>() == 64);
// And a warm-up.
const _: () = assert!(PHASES_MAX < u16::MAX as usize);

impl Slot {
    fn planned(&self) -> Planned {
        Planned { kind: self.kind, record: self.record, argument: self.argument }
    }
}

/// An operation that waits to be sent to another replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub(super) correlation: u64,
    due: Nanos,
    /// The answer that it got, not yet acted upon: the leader's address, if one was named.
    pub(super) told: Option<Option<SocketAddr>>,
    /// Its own.
    pub(super) planned: Planned,
    pub(super) lane: u32,
    pub(super) socket: u32,
    pub(super) moves: u32,
}

#[derive(Debug, Default)]
struct Lane {
    up: bool,
    parked: Vec<u32>,
}

/// The phases of a run, one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Phases {
    ends: Vec<Nanos>,
}

impl Phases {
    /// Phases of so many nanoseconds from `start` on; none is one without end.
    pub(super) fn new(start: Nanos, nanos: &[u64]) -> Phases {
        let mut end = start;
        let ends = nanos.iter().map(|nanos| {
            end = end + *nanos;
            end
        });
        Phases { ends: ends.collect() }
    }

    /// The one at `at`; the last one has no end.
    pub(super) fn at(&self, at: Nanos) -> u32 {
        let ended = self.ends.partition_point(|end| *end <= at);
        ended.min(self.ends.len().saturating_sub(1)) as u32
    }

    /// When the first `count` have ended; None without ends.
    pub(super) fn end_of(&self, count: usize) -> Option<Nanos> {
        self.ends.get(count.checked_sub(1)?).copied()
    }
}

/// All slots of one thread.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    lanes: Vec<Lane>,
    ready: VecDeque<u32>,
    continuations: Vec<u64>,
    moved: Vec<(u64, Nanos, Option<Option<SocketAddr>>)>,
    outstanding: usize,
    /// When the first of those in flight was meant to start, with none in flight before it.
    waiting_since: Nanos,
    phases: Phases,
    /// Successes that end later are recorded but do not count as achieved in time.
    measure_until: Nanos,
    successes_in_turn: u64,
    /// From an operation's end to its slot's next operation.
    think_nanos: u64,
    /// Slots that think, and until when; the first to be done first.
    thinking: VecDeque<(Nanos, u32)>,
    /// As the machine said last.
    now: Nanos,
    first_error: Option<String>,
    pub(super) recorder: Recorder,
    pub(super) source: Source,
}

/// A slot taken for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// The slot's index.
    pub(super) index: u32,
    /// Its lane.
    pub(super) lane: u32,
}

impl Slots {
    /// `lanes` lanes of `depth` slots; all lanes are down.
    pub(super) fn new(lanes: u32, depth: u32, recorder: Recorder, source: Source) -> Slots {
        let slots: Vec<Slot> = (0..lanes * depth)
            .map(|index| Slot {
                intended: Nanos(0),
                started: Nanos(0),
                sent: Nanos(0),
                record: 0,
                argument: 0,
                lane: index / depth,
                socket: 0,
                generation: 0,
                moves: 0,
                phase: 0,
                kind: OpKind::Get,
                state: State::Free,
            })
            .collect();
        let lanes = (0..lanes)
            .map(|lane| Lane { up: false, parked: (lane * depth..(lane + 1) * depth).collect() })
            .collect();
        Slots {
            ready: VecDeque::with_capacity(slots.len()),
            continuations: Vec::with_capacity(slots.len()),
            moved: Vec::with_capacity(slots.len()),
            slots,
            lanes,
            outstanding: 0,
            waiting_since: Nanos(0),
            phases: Phases::default(),
            measure_until: Nanos(u64::MAX),
            successes_in_turn: 0,
            think_nanos: 0,
            thinking: VecDeque::new(),
            now: Nanos(0),
            first_error: None,
            recorder,
            source,
        }
    }

    /// The run's phases, and when what ends counts as late.
    pub(super) fn begin(&mut self, phases: Phases, until: Nanos) {
        self.phases = phases;
        self.measure_until = until;
    }

    /// The run ends before its time.
    pub(super) fn ends_at(&mut self, until: Nanos) {
        self.measure_until = until;
    }

    /// The phase of an operation intended at `at`.
    pub(super) fn phase_at(&self, at: Nanos) -> u32 {
        self.phases.at(at)
    }

    /// Slots rest for so long after each operation.
    pub(super) fn think(&mut self, nanos: u64) {
        self.think_nanos = nanos;
    }

    /// It is `now`: who has thought long enough is ready again.
    pub(super) fn clock(&mut self, now: Nanos) {
        self.now = now;
        while let Some(&(until, index)) = self.thinking.front()
            && until <= now
        {
            self.thinking.pop_front();
            self.rest(index);
        }
    }

    /// When the next slot has thought long enough.
    pub(super) fn thinks_until(&self) -> Option<Nanos> {
        self.thinking.front().map(|(until, _)| *until)
    }

    /// Operations in flight.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Since when something has been in flight all the time; where nothing is, when that was so last.
    pub(super) fn waiting_since(&self) -> Nanos {
        self.waiting_since
    }

    /// Successes since the last call, recorded or not.
    pub(super) fn take_successes(&mut self) -> u64 {
        std::mem::take(&mut self.successes_in_turn)
    }

    /// The words of the first failure.
    pub(super) fn first_error(&mut self) -> &mut Option<String> {
        &mut self.first_error
    }

    /// The next free slot of a lane that is up.
    pub(super) fn take(&mut self) -> Option<Taken> {
        while let Some(index) = self.ready.pop_front() {
            let lane = self.slots[index as usize].lane;
            if self.lanes[lane as usize].up {
                return Some(Taken { index, lane });
            }
            self.lanes[lane as usize].parked.push(index);
        }
        None
    }

    /// Gives back a slot that was taken for nothing.
    pub(super) fn put_back(&mut self, taken: Taken) {
        self.ready.push_front(taken.index);
    }

    /// The slot now carries `planned`; returns the correlation of its request.
    pub(super) fn start(
        &mut self,
        taken: Taken,
        planned: Planned,
        socket: u32,
        intended: Nanos,
        now: Nanos,
        waited_for_depth: bool,
    ) -> u64 {
        let slot = &mut self.slots[taken.index as usize];
        debug_assert_eq!(slot.state, State::Free);
        slot.state = match planned.kind {
            OpKind::ReadModifyWrite => State::Reading,
            _ => State::Busy,
        };
        slot.socket = socket;
        (slot.kind, slot.record, slot.argument) = (planned.kind, planned.record, planned.argument);
        let phase = self.phases.at(intended);
        slot.phase = phase as u16;
        debug_assert_eq!(u32::from(slot.phase), phase);
        slot.intended = intended;
        (slot.started, slot.sent, slot.moves) = (now, now, 0);
        if self.outstanding == 0 {
            self.waiting_since = intended;
        }
        self.outstanding += 1;
        let delay = now.since(intended);
        self.recorder.started_after(phase, delay);
        if delay > LATE_NANOS {
            let counters = self.recorder.counters_of(phase);
            counters.late_starts += 1;
            counters.late_for_depth += u64::from(waited_for_depth);
        }
        correlation(taken.index, slot.generation)
    }

    /// A reply arrived.
    pub(super) fn complete(&mut self, correlation: u64, outcome: Outcome<'_>, now: Nanos) {
        let Some(index) = self.find(correlation) else {
            self.recorder.counters().stale_replies += 1;
            return;
        };
        let slot = &mut self.slots[index as usize];
        match outcome {
            Outcome::Refused(words) => {
                if self.first_error.is_none() {
                    self.first_error = Some(format!("the target refused: {words}"));
                }
                self.fail(index, Cause::Refused);
            }
            Outcome::Unknown(words) => {
                self.first_error
                    .get_or_insert_with(|| format!("the outcome is not known: {words}"));
                self.fail(index, Cause::Unknown);
            }
            Outcome::Elsewhere(leader) => {
                self.move_on(index);
                self.moved.push((correlation, now, Some(leader)));
            }
            _ if slot.state == State::Reading => {
                slot.state = State::Busy;
                self.continuations.push(correlation);
            }
            _ => {
                let nanos = now.since(slot.intended);
                let counters = self.recorder.success(slot.phase.into(), slot.kind, nanos);
                counters.in_time += u64::from(now < self.measure_until);
                counters.missing += u64::from(matches!(outcome, Outcome::Missing));
                self.successes_in_turn += 1;
                self.end(index, End::Done);
            }
        }
    }

    /// The next read-modify-write whose read is answered: its correlation, record and socket.
    pub(super) fn continuation(&mut self) -> Option<(u64, Planned, u32)> {
        while let Some(correlation) = self.continuations.pop() {
            if let Some(index) = self.find(correlation) {
                let slot = &self.slots[index as usize];
                return Some((correlation, slot.planned(), slot.socket));
            }
        }
        None
    }

    /// The slot's operation is on no connection from here on.
    fn move_on(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.state = State::Moved { reading: slot.state == State::Reading };
        slot.moves += 1;
    }

    /// An operation that was just started cannot be sent before `due`.
    pub(super) fn hold(&mut self, correlation: u64, due: Nanos) {
        let index = self.find(correlation).expect("it was just started");
        self.move_on(index);
        self.moved.push((correlation, due, None));
    }

    /// The next moved operation whose time has come.
    pub(super) fn take_moved(&mut self, now: Nanos) -> Option<Moved> {
        while let Some(at) = self.moved.iter().position(|(_, due, _)| *due <= now) {
            let (correlation, due, told) = self.moved.swap_remove(at);
            // Otherwise it was given up meanwhile.
            if let Some(index) = self.find(correlation) {
                let slot = &self.slots[index as usize];
                let (planned, &Slot { lane, socket, moves, .. }) = (slot.planned(), slot);
                return Some(Moved { correlation, due, told, planned, lane, socket, moves });
            }
        }
        None
    }

    /// It goes on waiting.
    pub(super) fn wait(&mut self, moved: Moved, due: Nanos) {
        debug_assert!(due > moved.due);
        self.moved.push((moved.correlation, due, None));
    }

    /// It is sent on `socket`. Returns whether it is a read-modify-write's read.
    pub(super) fn resume(&mut self, moved: Moved, socket: u32, now: Nanos) -> bool {
        let slot = &mut self.slots[moved.correlation as u32 as usize];
        let State::Moved { reading } = slot.state else { unreachable!("it was taken as moved") };
        slot.state = if reading { State::Reading } else { State::Busy };
        (slot.socket, slot.sent) = (socket, now);
        reading
    }

    /// When the next moved operation is due.
    pub(super) fn moved_until(&self) -> Option<Nanos> {
        self.moved.iter().map(|(_, due, _)| *due).min()
    }

    /// The sockets that operations are under way on, and when those were sent.
    pub(super) fn under_way(&self) -> impl Iterator<Item = (u32, Nanos)> {
        let sent = self.slots.iter().filter(|slot| slot.is_under_way());
        sent.map(|slot| (slot.socket, slot.sent))
    }

    /// Every slot of `lane` may be used.
    pub(super) fn lane_up(&mut self, lane: u32) {
        let lane = &mut self.lanes[lane as usize];
        lane.up = true;
        self.ready.extend(lane.parked.drain(..));
    }

    /// A socket of `lane` is gone: what it carried has failed, and the lane rests, unless it
    /// `stays_up` by others.
    pub(super) fn socket_down(&mut self, lane: u32, socket: u32, stays_up: bool) {
        self.lanes[lane as usize].up &= stays_up;
        for index in 0..self.slots.len() as u32 {
            let slot = &self.slots[index as usize];
            if slot.lane == lane && slot.socket == socket && slot.is_under_way() {
                self.fail(index, Cause::ConnectionLost);
            }
        }
    }

    /// Whether any lane is up.
    pub(super) fn any_lane_up(&self) -> bool {
        self.lanes.iter().any(|lane| lane.up)
    }

    /// Whether every lane is up.
    pub(super) fn all_lanes_up(&self) -> bool {
        self.lanes.iter().all(|lane| lane.up)
    }

    /// Gives up everything started before `started_before`.
    pub(super) fn expire(&mut self, started_before: Nanos) {
        for index in 0..self.slots.len() as u32 {
            let slot = &self.slots[index as usize];
            if slot.state != State::Free && slot.started < started_before {
                let cause = if slot.is_under_way() { Cause::Timeout } else { Cause::NoLeader };
                self.fail(index, cause);
            }
        }
    }

    fn fail(&mut self, index: u32, cause: Cause) {
        let slot = &self.slots[index as usize];
        let end = match cause {
            Cause::Refused | Cause::NoLeader => End::Refused,
            _ => End::Unanswered,
        };
        let counters = self.recorder.counters_of(slot.phase.into());
        counters.errors[cause as usize] += 1;
        // A read-modify-write that waits for its read has not begun to write.
        let may_have_written = slot.kind.writes() && slot.state == State::Busy;
        counters.unknown_writes += u64::from(may_have_written && end == End::Unanswered);
        if self.first_error.is_none() {
            self.first_error = Some(match cause {
                Cause::Timeout => "no answer within the time limit (--timeout)".to_owned(),
                Cause::NoLeader => "no replica led within the time limit (--timeout)".to_owned(),
                _ => "the connection ended before the answer".to_owned(),
            });
        }
        self.end(index, end);
    }

    fn end(&mut self, index: u32, end: End) {
        let slot = &mut self.slots[index as usize];
        slot.state = State::Free;
        slot.generation = slot.generation.wrapping_add(1);
        self.outstanding -= 1;
        let (lane, planned) = (slot.lane, slot.planned());
        self.source.finished(lane, planned, end);
        match self.think_nanos {
            0 => self.rest(index),
            nanos => self.thinking.push_back((self.now + nanos, index)),
        }
    }

    /// The slot may be used again, as soon as its lane may.
    fn rest(&mut self, index: u32) {
        let lane = &mut self.lanes[self.slots[index as usize].lane as usize];
        if lane.up {
            self.ready.push_back(index);
        } else {
            lane.parked.push(index);
        }
    }

    fn find(&self, correlation: u64) -> Option<u32> {
        let index = correlation as u32;
        let slot = self.slots.get(index as usize)?;
        (slot.state != State::Free && slot.generation == (correlation >> 32) as u32)
            .then_some(index)
    }
}

impl Slot {
    /// Some connection carries it.
    fn is_under_way(&self) -> bool {
        matches!(self.state, State::Busy | State::Reading)
    }
}

fn correlation(index: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}
