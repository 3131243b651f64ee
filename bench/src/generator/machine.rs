//! One thread's load generator, as a [`Machine`]: the ring drives it against real stores, and the
//! tests drive it with a simulated clock.
//!
//! ```text
//!   Connecting ──all connected, all threads ready──► Running ──time is up──► drained ──► Done
//!                                                    │   ▲
//!                        one turn:                   ▼   │
//!     intervals → reconnects → time limits → continuations → new operations → sends
//! ```
//!
//! **Time stamps.** One clock reading serves a whole batch of events. The shell takes it after the
//! events of the batch have happened, and a turn's requests leave after the reading that they are
//! stamped with. So every latency is at least the true one, and too long by at most the time that
//! this thread needs for one batch; it is never too short.
//!
//! **What is counted.** An operation belongs to the phase (warm-up, or one that is measured) that its
//! intended start (closed loop: its start) lies in. It is waited for after the end, up to the limit
//! for one operation, and counted whatever its end is.

mod follow;

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_core::time::Nanos;
use forebay_net::machine::{CloseReason, ConnId, Effects, Machine, SendBuf};

use super::record::{Cause, Shared};
use super::schedule::Pacing;
use super::slots::{Phases, Slots, Taken};
use super::{Fatal, Settings, ThreadReport};
use crate::ledger::LedgerWriter;
use crate::sys;
use crate::target::{Codec, Request, Target};
use crate::workload::{KeySpelling, Next, OpKind, Planned, Source};

/// How often the other threads' readiness is looked at before the start.
const READY_POLL_NANOS: u64 = Nanos::PER_MILLI;
/// Between two attempts to open a connection again.
const RECONNECT_NANOS: u64 = 100 * Nanos::PER_MILLI;
/// How often time limits are checked.
const EXPIRE_NANOS: u64 = 50 * Nanos::PER_MILLI;
/// A run against replicas does not wait longer for those that cannot be reached.
const CONNECT_GRACE_NANOS: u64 = Nanos::PER_SECOND;

#[derive(Debug)]
struct Socket<C> {
    lane: u32,
    conn: Option<ConnId>,
    /// It is open, and its protocol ready for operations.
    is_up: bool,
    /// When it was opened.
    opened: Nanos,
    /// When something arrived last.
    heard: Nanos,
    /// When it was asked for a sign of life last.
    probed: Nanos,
    codec: C,
    /// Requests of this turn, or of more turns while an earlier buffer is under way.
    out: SendBuf,
    spare: Option<SendBuf>,
    sending: bool,
    dirty: bool,
    connect_at: Option<Nanos>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting { announced: bool },
    Running,
    Done,
}

/// The moments of a run.
#[derive(Clone, Copy, Debug)]
struct Timeline {
    start: Nanos,
    measure_from: Nanos,
    /// The end, unless the source's exhaustion is.
    end: Nanos,
    interval_end: Nanos,
    expire_at: Nanos,
}

/// A look at this thread's use of its CPU.
#[derive(Clone, Copy, Debug)]
struct CpuLook {
    used_nanos: u64,
    waited_nanos: u64,
    at: Nanos,
}

impl CpuLook {
    fn at(at: Nanos) -> CpuLook {
        CpuLook { used_nanos: sys::thread_cpu_nanos(), waited_nanos: sys::thread_wait_nanos(), at }
    }
}

/// Around the measured part.
#[derive(Clone, Copy, Debug, Default)]
struct CpuWatch {
    began: Option<CpuLook>,
    ended: Option<CpuLook>,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Generator<T: Target> {
    target: Arc<T>,
    settings: Settings,
    shared: Arc<Shared>,
    ledger: Option<LedgerWriter>,
    keys: KeySpelling,
    pacing: Pacing,
    slots: Slots,
    sockets: Vec<Socket<T::Codec>>,
    /// The socket of each connection slot of the shell.
    by_conn: Vec<u32>,
    dirty: Vec<u32>,
    /// Connections whose bytes were not the protocol, to be closed at the turn's end.
    broken: Vec<ConnId>,
    down: usize,
    /// No lost connection is due to be opened again before.
    connect_due: Nanos,
    /// There are leaders to follow.
    is_replicated: bool,
    connecting_since: Option<Nanos>,
    phase: Phase,
    timeline: Timeline,
    exhausted: bool,
    /// Open loop: arrivals up to here have waited for a free slot.
    starved_until: Nanos,
    /// Of reads that may go to any replica.
    turn: u32,
    cpu: CpuWatch,
    /// Open loop: never started, by the interval of the intended start.
    not_started: BTreeMap<u64, u64>,
    fatal: Option<Fatal>,
}

impl<T: Target> Generator<T> {
    /// A generator for one thread.
    pub(crate) fn new(
        target: Arc<T>,
        settings: Settings,
        shared: Arc<Shared>,
        recorder: super::record::Recorder,
        source: Source,
        ledger: Option<LedgerWriter>,
    ) -> Generator<T> {
        let addresses = target.addresses().len() as u32;
        let sockets: Vec<_> = (0..settings.lanes * addresses)
            .map(|index| Socket {
                lane: index / addresses,
                conn: None,
                is_up: false,
                opened: Nanos(0),
                heard: Nanos(0),
                probed: Nanos(0),
                codec: target.codec(),
                out: SendBuf::new(),
                spare: Some(SendBuf::new()),
                sending: false,
                dirty: false,
                connect_at: Some(Nanos(0)),
            })
            .collect();
        let never = Nanos(u64::MAX);
        Generator {
            keys: KeySpelling::new(settings.key_bytes),
            pacing: settings.pacing.clone(),
            slots: {
                let mut slots = Slots::new(settings.lanes, settings.depth, recorder, source);
                slots.think(settings.think_nanos);
                slots
            },
            by_conn: Vec::with_capacity(sockets.len()),
            dirty: Vec::with_capacity(sockets.len()),
            broken: Vec::new(),
            down: sockets.len(),
            connect_due: Nanos(0),
            is_replicated: target.replicas() > 1,
            connecting_since: None,
            sockets,
            phase: Phase::Connecting { announced: false },
            timeline: Timeline {
                start: never,
                measure_from: never,
                end: never,
                interval_end: never,
                expire_at: never,
            },
            exhausted: false,
            starved_until: Nanos(0),
            turn: 0,
            cpu: CpuWatch::default(),
            not_started: BTreeMap::new(),
            fatal: None,
            target,
            settings,
            shared,
            ledger,
        }
    }

    /// What the thread has to say at the end, beyond its intervals.
    pub(crate) fn into_report(mut self) -> ThreadReport {
        let (cpu_nanos, waited_nanos, wall_nanos) = match (self.cpu.began, self.cpu.ended) {
            (Some(from), Some(to)) => (
                to.used_nanos - from.used_nanos,
                to.waited_nanos.saturating_sub(from.waited_nanos),
                to.at.since(from.at),
            ),
            _ => (0, 0, 0),
        };
        ThreadReport {
            cpu_nanos,
            waited_nanos,
            wall_nanos,
            first_error: self.slots.first_error().take(),
            not_started: self.not_started,
            fatal: self.fatal,
            ledger_written: self.ledger.map_or(0, |ledger| ledger.written()),
        }
    }

    fn address_count(&self) -> u32 {
        self.target.addresses().len() as u32
    }

    fn socket_of(&self, conn: ConnId) -> Option<u32> {
        let index = *self.by_conn.get(conn.slot as usize)?;
        (self.sockets.get(index as usize)?.conn == Some(conn)).then_some(index)
    }

    fn give_up(&mut self, why: Fatal) {
        self.fatal.get_or_insert(why);
        self.shared.stop();
    }

    fn turn_connecting(&mut self, announced: bool, now: Nanos, fx: &mut Effects) {
        self.reconnect_due(now, fx);
        self.give_up_handshakes(now);
        self.flush(fx);
        if !self.is_connected(now) {
            fx.wake_at = Some(now + EXPIRE_NANOS);
            return;
        }
        if !announced {
            self.shared.thread_ready();
            self.phase = Phase::Connecting { announced: true };
        }
        match self.shared.start(now) {
            Some(start) if now >= start => {
                self.begin(start);
                self.turn_running(now, fx);
            }
            Some(start) => fx.wake_at = Some(start),
            None => fx.wake_at = Some(now + READY_POLL_NANOS),
        }
    }

    /// Whether the run may begin: with every connection, or with some of each lane's to replicas, when
    /// the others had their time.
    fn is_connected(&mut self, now: Nanos) -> bool {
        if self.down == 0 || !self.is_replicated {
            return self.down == 0;
        }
        let waited = now.since(*self.connecting_since.get_or_insert(now));
        if waited > self.settings.timeout_nanos && !self.slots.all_lanes_up() {
            self.give_up(Fatal::Target("no node can be reached".to_owned()));
        }
        waited > CONNECT_GRACE_NANOS && self.slots.all_lanes_up()
    }

    fn begin(&mut self, start: Nanos) {
        self.phase = Phase::Running;
        let phases = Phases::new(start, &self.settings.phase_nanos);
        let measure_from = phases.end_of(self.settings.warmup_phases).unwrap_or(start);
        let end = phases.end_of(self.settings.phase_nanos.len()).unwrap_or(Nanos(u64::MAX));
        self.timeline = Timeline {
            start,
            measure_from,
            end,
            interval_end: start + self.settings.interval_nanos,
            expire_at: start + EXPIRE_NANOS,
        };
        self.slots.recorder.begin(start);
        self.slots.begin(phases, end);
        if let Pacing::Open(schedule) = &mut self.pacing {
            schedule.begin(start);
        }
    }

    fn turn_running(&mut self, now: Nanos, fx: &mut Effects) {
        let early = self.shared.early_end();
        if early < self.timeline.end {
            self.timeline.end = early;
            self.slots.ends_at(early);
        }
        self.watch(now);
        self.slots.clock(now);
        if self.settings.reconnect {
            self.reconnect_due(now, fx);
        }
        if now >= self.timeline.expire_at {
            self.slots.expire(now - self.settings.timeout_nanos);
            self.give_up_handshakes(now);
            if self.is_replicated {
                self.listen_for_silence(now);
            }
            self.timeline.expire_at = now + EXPIRE_NANOS;
        }
        self.start_continuations();
        if self.is_replicated {
            self.start_moved(now);
        }
        match self.pacing {
            Pacing::Closed => self.start_closed(now),
            Pacing::Open(_) => self.start_open(now),
        }
        self.note_ledger();
        if self.is_over(now) {
            self.finish(now, fx);
            return;
        }
        self.flush(fx);
        fx.wake_at = Some(self.wake_at());
    }

    /// Measurement begins and ends, intervals roll, successes are noted.
    fn watch(&mut self, now: Nanos) {
        let line = self.timeline;
        if now >= line.measure_from && self.cpu.began.is_none() {
            self.cpu.began = Some(CpuLook::at(now));
            self.shared.measure_from(line.measure_from);
        }
        if self.slots.take_successes() > 0 && now >= line.measure_from && now <= line.end {
            self.shared.success_at(now, self.waiting_since());
        }
        while now >= self.timeline.interval_end && self.timeline.interval_end <= line.end {
            let from = self.timeline.interval_end;
            self.slots.recorder.roll(from, self.slots.phase_at(from), from >= line.end);
            self.timeline.interval_end = from + self.settings.interval_nanos;
        }
        if now >= line.end && self.cpu.ended.is_none() {
            self.cpu.ended = Some(CpuLook::at(now));
            // The time from the last success to the end is a gap too, if something waited in it.
            self.shared.success_at(line.end, self.waiting_at(line.end));
        }
    }

    /// Since when something waits for its end: a time in which an open loop asked for nothing is no
    /// silence. A closed loop asks all the time.
    fn waiting_since(&self) -> Nanos {
        match &self.pacing {
            Pacing::Open(_) => self.slots.waiting_since(),
            Pacing::Closed => Nanos(0),
        }
    }

    /// As [`Generator::waiting_since`], at the end of the run; `end` if nothing waits.
    fn waiting_at(&self, end: Nanos) -> Nanos {
        match &self.pacing {
            // In flight, or never started for want of a connection.
            Pacing::Open(schedule) if self.slots.outstanding() == 0 => schedule.next().min(end),
            _ => self.waiting_since(),
        }
    }

    fn start_closed(&mut self, now: Nanos) {
        if now >= self.timeline.end {
            return;
        }
        while !self.exhausted {
            let Some(taken) = self.slots.take() else { return };
            self.start_one(taken, now, now, false);
        }
    }

    fn start_open(&mut self, now: Nanos) {
        while !self.exhausted {
            let Pacing::Open(schedule) = &mut self.pacing else { unreachable!() };
            let intended = schedule.next();
            if intended > now || intended >= self.timeline.end {
                return;
            }
            let Some(taken) = self.slots.take() else {
                self.starved_until = now;
                return;
            };
            schedule.advance();
            self.start_one(taken, intended, now, intended <= self.starved_until);
        }
    }

    fn start_one(&mut self, taken: Taken, intended: Nanos, now: Nanos, waited_for_depth: bool) {
        let planned = match self.slots.source.next(taken.lane) {
            Next::Op(planned) => planned,
            // The slot is retired.
            Next::LaneIdle => return,
            Next::Exhausted => {
                self.slots.put_back(taken);
                self.exhausted = true;
                return;
            }
        };
        let addresses = self.address_count();
        let key = self.keys.spell(planned.record);
        let at = match planned.kind {
            OpKind::Get | OpKind::Query => {
                self.turn = self.turn.wrapping_add(1);
                self.target.route_read(key, self.turn)
            }
            _ => self.target.route(key),
        };
        let socket = taken.lane * addresses + at as u32;
        let correlation = self.slots.start(taken, planned, socket, intended, now, waited_for_depth);
        if self.is_replicated && !self.sockets[socket as usize].is_up {
            // Its turn comes at once, if another replica can be asked.
            return self.slots.hold(correlation, now);
        }
        let request = request(&mut self.slots.source, planned, true, key);
        encode(&mut self.sockets, &mut self.dirty, socket, request, correlation);
    }

    fn start_continuations(&mut self) {
        while let Some((correlation, planned, socket)) = self.slots.continuation() {
            let key = self.keys.spell(planned.record);
            let request = request(&mut self.slots.source, planned, false, key);
            encode(&mut self.sockets, &mut self.dirty, socket, request, correlation);
        }
    }

    fn note_ledger(&mut self) {
        let (Some(writer), Source::Ledger(keys)) = (&mut self.ledger, &mut self.slots.source)
        else {
            return;
        };
        if let Err(error) = writer.append(keys.take_acknowledged()) {
            self.give_up(Fatal::Here(error.to_string()));
        }
    }

    fn is_over(&mut self, now: Nanos) -> bool {
        if self.shared.stopped() {
            return true;
        }
        if !self.settings.reconnect && !self.slots.any_lane_up() {
            return true;
        }
        let nothing_to_start = match &self.pacing {
            Pacing::Closed => self.exhausted || now >= self.timeline.end,
            Pacing::Open(schedule) => self.exhausted || schedule.next() >= self.timeline.end,
        };
        if nothing_to_start && self.slots.outstanding() == 0 {
            return true;
        }
        now >= self.timeline.end && now.since(self.timeline.end) > self.settings.timeout_nanos
    }

    fn finish(&mut self, now: Nanos, fx: &mut Effects) {
        if self.cpu.began.is_some() && self.cpu.ended.is_none() {
            self.cpu.ended = Some(CpuLook::at(now));
            self.shared.success_at(now, self.waiting_at(now));
        }
        self.slots.expire(Nanos(u64::MAX));
        if let Pacing::Open(schedule) = &self.pacing
            && self.timeline.end != Nanos(u64::MAX)
            && !self.shared.stopped()
        {
            for at in schedule.left_before(self.timeline.end) {
                let phase = self.slots.phase_at(at);
                self.slots.recorder.counters_of(phase).errors[Cause::NotStarted as usize] += 1;
                let interval = at.since(self.timeline.start) / self.settings.interval_nanos;
                *self.not_started.entry(interval).or_insert(0) += 1;
            }
        }
        self.note_ledger();
        self.slots.recorder.end();
        self.phase = Phase::Done;
        fx.stop = true;
    }

    fn reconnect_due(&mut self, now: Nanos, fx: &mut Effects) {
        if self.down == 0 || now < self.connect_due {
            return;
        }
        self.connect_due = Nanos(u64::MAX);
        let addresses = self.target.addresses();
        for (index, socket) in self.sockets.iter_mut().enumerate() {
            match socket.connect_at {
                Some(at) if at <= now => {
                    socket.connect_at = None;
                    fx.connect.push((index as u64, addresses[index % addresses.len()]));
                }
                Some(at) => self.connect_due = self.connect_due.min(at),
                None => {}
            }
        }
    }

    fn connect_later(&mut self, index: usize, now: Nanos) {
        let at = now + RECONNECT_NANOS;
        self.sockets[index].connect_at = Some(at);
        self.connect_due = self.connect_due.min(at);
    }

    /// A protocol that is not ready within the time limit for one operation never will be.
    fn give_up_handshakes(&mut self, now: Nanos) {
        if self.down == 0 {
            return;
        }
        for index in 0..self.sockets.len() as u32 {
            let socket = &self.sockets[index as usize];
            if let Some(conn) = socket.conn
                && !socket.is_up
                && now.since(socket.opened) > self.settings.timeout_nanos
            {
                self.refuse(index, conn, "no handshake within the time limit (--timeout)", now);
            }
        }
    }

    /// The connection `conn` of this socket is of no use, for the reason `words`.
    fn refuse(&mut self, index: u32, conn: ConnId, words: &str, now: Nanos) {
        // Set before the operations fail, so that the report names the cause, not the effect.
        self.slots.first_error().get_or_insert_with(|| words.to_owned());
        self.broken.push(conn);
        self.socket_gone(index, now);
        self.give_up_while_connecting(|| words.to_owned());
    }

    /// Before the run has begun, a connection that fails ends it, unless there are replicas.
    fn give_up_while_connecting(&mut self, words: impl FnOnce() -> String) {
        if let Phase::Connecting { .. } = self.phase
            && !self.is_replicated
        {
            self.give_up(Fatal::Target(words()));
        }
    }

    /// Looks whether the protocol of an open socket is ready.
    fn look_whether_up(&mut self, index: u32) {
        let socket = &mut self.sockets[index as usize];
        if socket.is_up || !socket.codec.is_ready() {
            return;
        }
        socket.is_up = true;
        let lane = socket.lane;
        self.down -= 1;
        if self.phase == Phase::Running {
            self.slots.recorder.counters().reconnects += 1;
        }
        if self.is_lane_up(lane) {
            self.slots.lane_up(lane);
        }
    }

    /// A lane needs all its sockets, or any where they are to replicas.
    fn is_lane_up(&self, lane: u32) -> bool {
        let addresses = self.address_count();
        let first = (lane * addresses) as usize;
        let mut sockets = self.sockets[first..first + addresses as usize].iter();
        match self.is_replicated {
            true => sockets.any(|socket| socket.is_up),
            false => sockets.all(|socket| socket.is_up),
        }
    }

    /// What the protocol itself has to say is sent with this turn.
    fn speak(&mut self, index: u32) {
        let socket = &mut self.sockets[index as usize];
        socket.codec.speak(&mut socket.out);
        if !socket.out.is_empty() && !socket.dirty {
            socket.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Hands every socket's requests to the shell, one buffer at a time for each.
    fn flush(&mut self, fx: &mut Effects) {
        for index in self.dirty.drain(..) {
            let socket = &mut self.sockets[index as usize];
            socket.dirty = false;
            let Some(conn) = socket.conn else { continue };
            if socket.sending || socket.out.is_empty() {
                continue;
            }
            let next = socket.spare.take().unwrap_or_default();
            fx.send.push((conn, std::mem::replace(&mut socket.out, next)));
            socket.sending = true;
        }
        fx.close.append(&mut self.broken);
    }

    /// When the next turn must be at the latest. Every moment named here is still to come: one that
    /// has passed without being acted upon would keep the loop awake for nothing.
    fn wake_at(&self) -> Nanos {
        let line = self.timeline;
        let mut at = line.expire_at;
        if line.interval_end <= line.end {
            at = at.min(line.interval_end);
        }
        if let Pacing::Open(schedule) = &self.pacing
            && schedule.next() > self.starved_until
            && schedule.next() < line.end
        {
            at = at.min(schedule.next());
        }
        if let Some(until) = self.slots.thinks_until() {
            at = at.min(until);
        }
        if let Some(due) = self.slots.moved_until() {
            at = at.min(due);
        }
        if self.down > 0 && self.settings.reconnect {
            at = at.min(self.connect_due);
        }
        if self.cpu.began.is_none() {
            at = at.min(line.measure_from);
        }
        at
    }

    fn socket_gone(&mut self, index: u32, now: Nanos) {
        let socket = &mut self.sockets[index as usize];
        socket.conn = None;
        self.down += usize::from(std::mem::take(&mut socket.is_up));
        socket.codec = self.target.codec();
        socket.out.clear();
        socket.sending = false;
        let lane = socket.lane;
        self.connect_later(index as usize, now);
        let stays_up = self.is_lane_up(lane);
        self.slots.socket_down(lane, index, stays_up);
    }
}

/// The request of an operation; of a read-modify-write, its first or its second.
fn request<'a>(
    source: &'a mut Source,
    planned: Planned,
    is_first: bool,
    key: &'a [u8],
) -> Request<'a> {
    match planned.kind {
        OpKind::Get => Request::Get { key },
        OpKind::ReadModifyWrite if is_first => Request::Get { key },
        OpKind::Put | OpKind::Insert | OpKind::ReadModifyWrite => {
            Request::Put { key, value: source.value(planned) }
        }
        OpKind::ConditionalPut => Request::PutExisting { key, value: source.value(planned) },
        OpKind::Query => Request::Query { key, items: planned.argument as u32 },
        OpKind::Scan => Request::Scan { key, items: planned.argument as u32 },
    }
}

fn encode<C: Codec>(
    sockets: &mut [Socket<C>],
    dirty: &mut Vec<u32>,
    index: u32,
    request: Request<'_>,
    correlation: u64,
) {
    let socket = &mut sockets[index as usize];
    socket.codec.encode(request, correlation, &mut socket.out);
    if !socket.dirty {
        socket.dirty = true;
        dirty.push(index);
    }
}

impl<T: Target> Machine for Generator<T> {
    fn connected(&mut self, conn: ConnId, _listener: usize, token: Option<u64>, now: Nanos) {
        let index = token.expect("a generator has no listener") as u32;
        let slot = conn.slot as usize;
        if self.by_conn.len() <= slot {
            self.by_conn.resize(slot + 1, u32::MAX);
        }
        self.by_conn[slot] = index;
        let socket = &mut self.sockets[index as usize];
        socket.conn = Some(conn);
        socket.opened = now;
        socket.connect_at = None;
        self.speak(index);
        self.look_whether_up(index);
    }

    fn connect_failed(&mut self, token: u64, errno: i32, now: Nanos) {
        let address = self.target.addresses()[token as usize % self.target.addresses().len()];
        self.give_up_while_connecting(|| {
            let error = std::io::Error::from_raw_os_error(errno);
            format!("cannot open a connection to {address}: {error}")
        });
        self.connect_later(token as usize, now);
    }

    fn received(&mut self, conn: ConnId, bytes: &[u8], now: Nanos, _fx: &mut Effects) {
        let Some(index) = self.socket_of(conn) else { return };
        let slots = &mut self.slots;
        slots.clock(now);
        let socket = &mut self.sockets[index as usize];
        socket.heard = now;
        let decoded = socket.codec.decode(bytes, &mut |correlation, outcome| {
            slots.complete(correlation, outcome, now);
        });
        if let Err(error) = decoded {
            let words = format!("the target does not speak its protocol: {error}");
            self.refuse(index, conn, &words, now);
            return;
        }
        self.speak(index);
        self.look_whether_up(index);
    }

    fn sent(&mut self, conn: ConnId, mut buf: SendBuf, _now: Nanos) {
        let Some(index) = self.socket_of(conn) else { return };
        let socket = &mut self.sockets[index as usize];
        buf.clear();
        if socket.out.is_empty() {
            // The bytes just sent are in the processor's cache; those of the other buffer may not be.
            std::mem::swap(&mut socket.out, &mut buf);
        }
        socket.spare = Some(buf);
        socket.sending = false;
        if !socket.out.is_empty() && !socket.dirty {
            socket.dirty = true;
            self.dirty.push(index);
        }
    }

    fn closed(&mut self, conn: ConnId, _reason: CloseReason, now: Nanos) {
        if let Some(index) = self.socket_of(conn) {
            self.socket_gone(index, now);
            self.give_up_while_connecting(|| {
                "the target closed a connection before the run began".to_owned()
            });
        }
    }

    fn turn(&mut self, now: Nanos, fx: &mut Effects) {
        match self.phase {
            Phase::Connecting { .. } if self.shared.stopped() => {
                self.phase = Phase::Done;
                fx.stop = true;
            }
            Phase::Connecting { announced } => self.turn_connecting(announced, now, fx),
            Phase::Running => self.turn_running(now, fx),
            Phase::Done => fx.stop = true,
        }
    }
}
