//! A client: one connection at a time, requests in real frames, and the truth about what it knows.
//!
//! ```text
//!   idle ─ dial ─► open ─ request, request … ─ reply, reply … ─► open
//!    ▲               │ broken, closed, too slow: what was under way has an unknown outcome
//!    └── pause ──────┘ and the next node is tried
//! ```
//!
//! It wants operations at a pace of its own, whatever the answers: what cannot be sent is counted
//! and forgotten. A state machine as well: the world tells it what arrived and when it is due.

use std::collections::VecDeque;

use forebay_core::item::ItemRef;
use forebay_core::message::{
    ArchivedBatchGetReply, ArchivedBatchWriteReply, ArchivedErrorReply, ArchivedGetReply,
    ArchivedTableReply, ArchivedWriteReply, BatchGetRequest, BatchOperation, BatchWriteRequest,
    CreateTableRequest, DeleteRequest, DescribeTableRequest, ErrorCode, GetRequest, Kind, Message,
    PutRequest, ReturnValues, UpdateRequest,
};
use forebay_core::table::{TableDescription, TableStatus};
use forebay_net::frame::{self, Frame, FrameSerializer, Inbox};
use forebay_net::machine::SendBuf;
use forebay_storage::sim_disk::SimRandom;
use rkyv::Serialize;

use super::between;
use super::history::{Call, Outcome};
use super::items::{self, PK, entry_name, register_name, value_of};
use super::network::WireId;
use super::workload::{Part, REGISTERS, Stage, Target, Workload};

const MILLI: u64 = 1_000_000;

/// Table of every run.
const TABLE: &str = "ledger";
/// Groups of the table.
const PARTITIONS: u32 = 2;
/// A request without an answer is given up.
const DEADLINE_NANOS: u64 = 1_500 * MILLI;
/// Requests under way on one connection.
const UNDER_WAY_MAX: usize = 24;
/// And while all is read in the end.
const AUDITING_MAX: usize = 12;
/// Between two operations of one client, at random.
const PACE_NANOS: (u64, u64) = (30 * MILLI, 120 * MILLI);
/// Before the next dial.
const PAUSE_NANOS: (u64, u64) = (5 * MILLI, 60 * MILLI);
/// Smallest batches are two; these are the largest.
const BATCH_MAX: usize = 5;

/// What a client wants of the world.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Connect to this node.
    pub(super) dial: Option<usize>,
    /// Send what it has written.
    pub(super) send: SendBuf,
    /// Close the connection.
    pub(super) close: Option<WireId>,
}

#[derive(Debug)]
enum Request {
    Table,
    One(Part),
    Get(Part, Target),
    Write(Vec<Part>),
    GetMany(Vec<(Part, Target)>),
}

#[derive(Debug)]
struct Asked {
    correlation: u64,
    began: u64,
    request: Request,
    /// Part of the last reading.
    audits: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// No connection; the next dial at this time.
    Idle(u64),
    Dialing,
    Open(WireId),
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: usize,
    nodes: usize,
    node: usize,
    line: Line,
    inbox: Inbox,
    asked: VecDeque<Asked>,
    next_correlation: u64,
    next_at: u64,
    random: SimRandom,
    item: Vec<u8>,
    /// The turn that the world has been asked for.
    pub(super) due: Option<u64>,
}

impl Client {
    pub(super) fn new(number: usize, nodes: usize, seed: u64, now: u64) -> Client {
        let mut random = SimRandom::new(seed);
        Client {
            number,
            nodes,
            node: random.below(nodes),
            line: Line::Idle(now),
            inbox: Inbox::default(),
            asked: VecDeque::new(),
            next_correlation: 1,
            next_at: now + between(&mut random, 0, PACE_NANOS.1),
            random,
            item: Vec::new(),
            due: None,
        }
    }

    /// Whether this connection is the one in use.
    pub(super) fn uses(&self, wire: WireId) -> bool {
        self.line == Line::Open(wire)
    }

    /// The connection in use.
    pub(super) fn wire(&self) -> Option<WireId> {
        match self.line {
            Line::Open(wire) => Some(wire),
            Line::Idle(_) | Line::Dialing => None,
        }
    }

    fn is_dialing(&self) -> bool {
        self.line == Line::Dialing
    }

    /// When it has something to do; None: only when something arrives.
    pub(super) fn due_at(&self, stage: Stage) -> Option<u64> {
        let deadline = self.asked.front().map(|asked| asked.began + DEADLINE_NANOS);
        let next = match (stage, self.line) {
            (Stage::Over, _) => return None,
            (_, Line::Idle(at)) => Some(at),
            (Stage::Work | Stage::Setup | Stage::Audit, _) => Some(self.next_at),
            (Stage::Drain, _) => None,
        };
        let paced = (stage == Stage::Work).then_some(self.next_at);
        [deadline, next, paced].into_iter().flatten().min()
    }

    /// The connection that was asked for is open.
    pub(super) fn opened(&mut self, wire: WireId) {
        debug_assert!(self.is_dialing());
        self.line = Line::Open(wire);
        self.inbox = Inbox::default();
    }

    /// It could not be made.
    pub(super) fn failed(&mut self, now: u64) {
        debug_assert!(self.is_dialing());
        self.go_on(now);
    }

    /// The next node, after a pause.
    fn go_on(&mut self, now: u64) {
        self.node = (self.node + 1) % self.nodes;
        let pause = between(&mut self.random, PAUSE_NANOS.0, PAUSE_NANOS.1);
        self.line = Line::Idle(now + pause);
    }

    /// The connection is gone, and what was under way on it has an unknown outcome.
    pub(super) fn lost(&mut self, now: u64, work: &mut Workload) {
        while let Some(asked) = self.asked.pop_front() {
            self.over(asked, Outcome::Unknown, work, now);
        }
        self.go_on(now);
    }

    /// All parts of a request end alike.
    fn over(&mut self, asked: Asked, outcome: Outcome, work: &mut Workload, now: u64) {
        let Asked { began, request, audits, .. } = asked;
        match request {
            Request::Table => {}
            Request::One(part) => work.ended(part, outcome, began, now),
            Request::Get(part, target) => {
                work.ended(part, outcome, began, now);
                self.read_again(audits, target, work);
            }
            Request::Write(parts) => {
                parts.into_iter().for_each(|part| work.ended(part, outcome, began, now));
            }
            Request::GetMany(parts) => {
                for (part, target) in parts {
                    work.ended(part, outcome, began, now);
                    self.read_again(audits, target, work);
                }
            }
        }
    }

    fn read_again(&mut self, audits: bool, target: Target, work: &mut Workload) {
        if audits {
            work.auditing -= 1;
            work.targets.push(target);
        }
    }

    /// Its time has come, or something has arrived.
    pub(super) fn act(&mut self, now: u64, work: &mut Workload, wishes: &mut Wishes) {
        if self.asked.front().is_some_and(|asked| asked.began + DEADLINE_NANOS <= now) {
            if let Line::Open(wire) = self.line {
                wishes.close = Some(wire);
            }
            self.lost(now, work);
        }
        if let Line::Idle(at) = self.line
            && at <= now
        {
            wishes.dial = Some(self.node);
            self.line = Line::Dialing;
        }
        match work.stage {
            Stage::Setup => self.set_up(now, work, wishes),
            Stage::Work => self.work(now, work, wishes),
            Stage::Audit => self.audit(now, work, wishes),
            Stage::Drain | Stage::Over => {}
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.line, Line::Open(_))
    }

    fn set_up(&mut self, now: u64, work: &mut Workload, wishes: &mut Wishes) {
        if self.next_at > now {
            return;
        }
        self.next_at = now + 100 * MILLI;
        if self.number > 0 || !self.is_open() || !self.asked.is_empty() {
            return;
        }
        if work.table.is_some() {
            work.stage = Stage::Work;
        } else if self.random.chance(1, 2) {
            let create = CreateTableRequest {
                name: TABLE,
                partition_key: PK,
                partition_key_type: b'S',
                sort_key: "",
                sort_key_type: 0,
                partitions: PARTITIONS,
            };
            self.ask(&create, Request::Table, now, wishes);
        } else {
            self.ask(&DescribeTableRequest { name: TABLE }, Request::Table, now, wishes);
        }
    }

    fn ask<M>(&mut self, message: &M, request: Request, now: u64, wishes: &mut Wishes)
    where
        M: Message + for<'a> Serialize<FrameSerializer<'a>>,
    {
        let correlation = self.next_correlation;
        self.next_correlation += 1;
        frame::append(&mut wishes.send, correlation, message);
        self.asked.push_back(Asked { correlation, began: now, request, audits: false });
    }

    fn work(&mut self, now: u64, work: &mut Workload, wishes: &mut Wishes) {
        while self.next_at <= now {
            self.next_at += between(&mut self.random, PACE_NANOS.0, PACE_NANOS.1);
            work.operations.wanted += 1;
            // Drawn first: what a client wants does not depend on its luck.
            let what = self.random.below(100);
            if self.is_open() && self.asked.len() < UNDER_WAY_MAX {
                self.operate(what, now, work, wishes);
            } else {
                work.operations.not_sent += 1;
            }
        }
    }

    fn operate(&mut self, what: usize, now: u64, work: &mut Workload, wishes: &mut Wishes) {
        let key = self.random.below(REGISTERS);
        match what {
            0..18 => self.put(key, now, work, wishes),
            18..40 => self.swap(key, now, work, wishes),
            40..50 => self.exchange(key, now, work, wishes),
            50..57 => self.delete(key, now, work, wishes),
            57..70 => self.get(Target::Register(key), false, now, work, wishes),
            70..85 => self.put_entry(now, work, wishes),
            85..92 if work.ledger.len() > 0 => {
                let entry = self.random.below(work.ledger.len());
                self.get(Target::Entry(entry), false, now, work, wishes);
            }
            96.. => self.write_batch(key, now, work, wishes),
            _ => self.get_batch(key, now, work, wishes),
        }
    }

    fn put(&mut self, key: usize, now: u64, work: &mut Workload, wishes: &mut Wishes) {
        let value = work.value();
        let name = work.history.begin(self.number, key, Call::Write(value), now);
        self.send_put(&register_name(key), value, None, Part::Register(name), now, work, wishes);
    }

    fn swap(&mut self, key: usize, now: u64, work: &mut Workload, wishes: &mut Wishes) {
        let (from, to) = (work.guess(key, &mut self.random), work.value());
        let name = work.history.begin(self.number, key, Call::Swap { from, to }, now);
        let part = Part::Register(name);
        self.send_put(&register_name(key), to, Some(from), part, now, work, wishes);
    }

    fn put_entry(&mut self, now: u64, work: &mut Workload, wishes: &mut Wishes) {
        let entry = work.ledger.ask();
        let part = Part::EntryWrite(entry);
        self.send_put(&entry_name(entry), entry as u64, None, part, now, work, wishes);
    }

    #[expect(clippy::too_many_arguments, reason = "one place for every kind of Put")]
    fn send_put(
        &mut self,
        name: &str,
        value: u64,
        only_if: Option<Option<u64>>,
        part: Part,
        now: u64,
        work: &Workload,
        wishes: &mut Wishes,
    ) {
        let mut bytes = std::mem::take(&mut self.item);
        let put = PutRequest {
            table: work.table.expect("made"),
            epoch: 0,
            item: items::item(&mut bytes, name, value),
            condition: only_if.map(items::is),
            return_values: ReturnValues::None,
            return_old_on_failure: only_if.is_some(),
        };
        self.ask(&put, Request::One(part), now, wishes);
        self.item = bytes;
    }

    fn exchange(&mut self, key: usize, now: u64, work: &mut Workload, wishes: &mut Wishes) {
        let value = work.value();
        let name = work.history.begin(self.number, key, Call::Exchange(value), now);
        let mut bytes = std::mem::take(&mut self.item);
        let update = UpdateRequest {
            table: work.table.expect("made"),
            epoch: 0,
            key: items::key_item(&mut bytes, &register_name(key)),
            update: items::exchange(value),
            condition: None,
            return_values: ReturnValues::AllOld,
            return_old_on_failure: false,
        };
        self.ask(&update, Request::One(Part::Register(name)), now, wishes);
        self.item = bytes;
    }

    fn delete(&mut self, key: usize, now: u64, work: &mut Workload, wishes: &mut Wishes) {
        let name = work.history.begin(self.number, key, Call::Delete, now);
        let mut bytes = std::mem::take(&mut self.item);
        let delete = DeleteRequest {
            table: work.table.expect("made"),
            epoch: 0,
            key: items::key_item(&mut bytes, &register_name(key)),
            condition: None,
            return_values: ReturnValues::None,
            return_old_on_failure: false,
        };
        self.ask(&delete, Request::One(Part::Register(name)), now, wishes);
        self.item = bytes;
    }

    fn part_of(&self, target: Target, now: u64, work: &mut Workload) -> (Part, String) {
        match target {
            Target::Register(key) => {
                let name = work.history.begin(self.number, key, Call::Read, now);
                (Part::Register(name), register_name(key))
            }
            Target::Entry(entry) => (Part::EntryRead(work.ledger.read(entry)), entry_name(entry)),
        }
    }

    fn get(
        &mut self,
        target: Target,
        audits: bool,
        now: u64,
        work: &mut Workload,
        wishes: &mut Wishes,
    ) {
        let (part, name) = self.part_of(target, now, work);
        let mut bytes = std::mem::take(&mut self.item);
        let get = GetRequest {
            table: work.table.expect("made"),
            epoch: 0,
            key: items::key_item(&mut bytes, &name),
            projection: None,
            consistent: true,
        };
        self.ask(&get, Request::Get(part, target), now, wishes);
        self.asked.back_mut().expect("just asked").audits = audits;
        self.item = bytes;
    }

    fn write_batch(&mut self, key: usize, now: u64, work: &mut Workload, wishes: &mut Wishes) {
        let count = 2 + self.random.below(BATCH_MAX - 1);
        let (mut parts, mut bytes) = (Vec::new(), Vec::new());
        for index in 0..count {
            let mut item = Vec::new();
            if index % 2 == 1 {
                let entry = work.ledger.ask();
                items::item(&mut item, &entry_name(entry), entry as u64);
                bytes.push((false, item));
                parts.push(Part::EntryWrite(entry));
                continue;
            }
            // No key twice.
            let key = (key + index) % REGISTERS;
            let delete = self.random.chance(1, 4);
            let call = if delete { Call::Delete } else { Call::Write(work.value()) };
            match call {
                Call::Write(value) => items::item(&mut item, &register_name(key), value),
                _ => items::key_item(&mut item, &register_name(key)),
            };
            bytes.push((delete, item));
            parts.push(Part::Register(work.history.begin(self.number, key, call, now)));
        }
        let operations =
            bytes.iter().map(|(delete, bytes)| BatchOperation { delete: *delete, bytes }).collect();
        let batch = BatchWriteRequest { table: work.table.expect("made"), epoch: 0, operations };
        self.ask(&batch, Request::Write(parts), now, wishes);
    }

    fn get_batch(&mut self, key: usize, now: u64, work: &mut Workload, wishes: &mut Wishes) {
        let mut targets = vec![Target::Register(key), Target::Register((key + 1) % REGISTERS)];
        if work.ledger.len() > 0 {
            targets.push(Target::Entry(self.random.below(work.ledger.len())));
        }
        let (mut parts, mut keys) = (Vec::new(), Vec::new());
        for target in targets {
            let (part, name) = self.part_of(target, now, work);
            let mut bytes = Vec::new();
            items::key_item(&mut bytes, &name);
            keys.push(bytes);
            parts.push((part, target));
        }
        let keys = keys.iter().map(Vec::as_slice).collect();
        let batch =
            BatchGetRequest { table: work.table.expect("made"), epoch: 0, keys, projection: None };
        self.ask(&batch, Request::GetMany(parts), now, wishes);
    }

    fn audit(&mut self, now: u64, work: &mut Workload, wishes: &mut Wishes) {
        self.next_at = self.next_at.max(now + 50 * MILLI);
        while self.is_open() && self.asked.len() < AUDITING_MAX {
            let Some(target) = work.targets.pop() else { return };
            work.auditing += 1;
            self.get(target, true, now, work, wishes);
        }
    }

    /// Bytes from the node.
    pub(super) fn received(
        &mut self,
        bytes: &[u8],
        now: u64,
        work: &mut Workload,
        wishes: &mut Wishes,
    ) {
        let mut inbox = std::mem::take(&mut self.inbox);
        let result = inbox.receive(bytes, |frame| self.reply(frame, now, work, wishes));
        self.inbox = inbox;
        if let Err(error) = result {
            work.broken(Err(format!("a node sent a broken frame: {error}")));
        }
    }

    fn reply(&mut self, frame: Frame<'_>, now: u64, work: &mut Workload, wishes: &mut Wishes) {
        if !self.is_open() {
            return; // Given up while these bytes were looked at.
        }
        let place = self.asked.iter().position(|asked| asked.correlation == frame.correlation);
        let Some(asked) = place.and_then(|place| self.asked.remove(place)) else {
            let error = format!("a reply to request {}, which is not open", frame.correlation);
            return work.broken(Err(error));
        };
        let Some(kind) = Kind::from_wire(frame.kind) else {
            return work.broken(Err(format!("a reply of the unknown kind {}", frame.kind)));
        };
        if let Err(error) = self.understand(kind, frame, asked, now, work, wishes) {
            work.broken(Err(error));
        }
    }

    fn understand(
        &mut self,
        kind: Kind,
        frame: Frame<'_>,
        asked: Asked,
        now: u64,
        work: &mut Workload,
        wishes: &mut Wishes,
    ) -> Result<(), String> {
        let broken = || format!("a {kind:?} that is none");
        let began = asked.began;
        match (kind, asked.request) {
            (Kind::ErrorReply, request) => {
                let error = frame.message::<ArchivedErrorReply<'_>>().ok_or_else(broken)?;
                let code = ErrorCode::from_wire(error.code.to_native());
                if let (Some(ErrorCode::ConditionFailed), Request::One(part)) = (code, &request) {
                    let name = name_of(*part);
                    let item = error.item.as_ref();
                    let found = item.map(|item| value_of(item.get(), &name)).transpose()?;
                    work.ended(*part, Outcome::Found(found), began, now);
                    return Ok(());
                }
                let outcome = match code {
                    Some(code) if code.had_no_effect() => Outcome::NoEffect,
                    _ => Outcome::Unknown,
                };
                let asked = Asked { request, ..asked };
                self.over(asked, outcome, work, now);
                self.refused(code, now, work, wishes);
            }
            (Kind::TableReply, Request::Table) => {
                let reply = frame.message::<ArchivedTableReply<'_>>().ok_or_else(broken)?;
                let item = ItemRef::validate(reply.description.get()).map_err(|e| e.to_string())?;
                let table = TableDescription::from_item(item).map_err(|e| e.to_string())?;
                if table.status == TableStatus::Active {
                    work.table = Some(table.id.0);
                }
            }
            (Kind::WriteReply, Request::One(part)) => {
                let reply = frame.message::<ArchivedWriteReply<'_>>().ok_or_else(broken)?;
                let exchanged = match part {
                    Part::Register(name) => {
                        matches!(work.history.call(name), Call::Exchange(_))
                    }
                    _ => false,
                };
                let name = name_of(part);
                let old = reply.attributes.as_ref();
                let old = old.map(|item| value_of(item.get(), &name)).transpose()?;
                let outcome = if exchanged { Outcome::Found(old) } else { Outcome::Done };
                work.ended(part, outcome, began, now);
            }
            (Kind::GetReply, Request::Get(part, _)) => {
                let reply = frame.message::<ArchivedGetReply<'_>>().ok_or_else(broken)?;
                let name = name_of(part);
                let item = reply.item.as_ref();
                let found = item.map(|item| value_of(item.get(), &name)).transpose()?;
                work.ended(part, Outcome::Found(found), began, now);
                work.auditing -= usize::from(asked.audits);
            }
            (Kind::BatchWriteReply, Request::Write(parts)) => {
                let reply = frame.message::<ArchivedBatchWriteReply>().ok_or_else(broken)?;
                if reply.outcomes.len() != parts.len() {
                    return Err("a BatchWriteReply for another number of writes".into());
                }
                for (part, code) in parts.into_iter().zip(reply.outcomes.iter()) {
                    let outcome = match code.to_native() {
                        0 => Outcome::Done,
                        code => match ErrorCode::from_wire(code) {
                            Some(code) if code.had_no_effect() => Outcome::NoEffect,
                            _ => Outcome::Unknown,
                        },
                    };
                    work.ended(part, outcome, began, now);
                }
            }
            (Kind::BatchGetReply, Request::GetMany(parts)) => {
                let reply = frame.message::<ArchivedBatchGetReply<'_>>().ok_or_else(broken)?;
                let mut rest: &[u8] = reply.items.get();
                for (part, _) in parts {
                    let (length, after) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
                    let length = u32::from_le_bytes(*length);
                    let bytes = if length == u32::MAX { 0 } else { length as usize };
                    let (item, after) = after.split_at_checked(bytes).ok_or_else(broken)?;
                    rest = after;
                    let outcome = match length {
                        u32::MAX => Outcome::NoEffect,
                        0 => Outcome::Found(None),
                        _ => Outcome::Found(Some(value_of(item, &name_of(part))?)),
                    };
                    work.ended(part, outcome, began, now);
                }
            }
            (kind, request) => return Err(format!("a {kind:?} in answer to {request:?}")),
        }
        Ok(())
    }

    /// After some refusals another node is the better one to ask.
    fn refused(
        &mut self,
        code: Option<ErrorCode>,
        now: u64,
        work: &mut Workload,
        wishes: &mut Wishes,
    ) {
        let elsewhere = match code {
            Some(ErrorCode::TableExists | ErrorCode::TableNotActive) => false,
            Some(ErrorCode::Overloaded | ErrorCode::DiskFull) => self.random.chance(1, 8),
            _ => true,
        };
        if elsewhere && let Line::Open(wire) = self.line {
            wishes.close = Some(wire);
            self.lost(now, work);
        }
    }
}

/// The key that a part is about.
fn name_of(part: Part) -> String {
    match part {
        Part::Register(name) => register_name(name.key),
        Part::EntryWrite(entry) => entry_name(entry),
        Part::EntryRead(reading) => entry_name(reading.entry),
    }
}
