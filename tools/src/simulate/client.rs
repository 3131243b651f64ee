//! A client: a connection to each node, requests in real frames, and the truth about what it knows.
//!
//! ```text
//!   idle ─ dial ─► open ─ request, request … ─ reply, reply … ─► open
//!    ▲               │ broken, closed, too slow: what was under way has an unknown outcome
//!    └── pause ──────┘
//! ```
//!
//! It sends a key's requests to the node that it believes to lead the key's partition; "the leader
//! is …" and silence teach it better. It wants operations at a pace of its own, whatever the answers:
//! what cannot be sent is counted and forgotten. A state machine as well: the world tells it what
//! arrived and when it is due.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use forebay_core::item::ItemRef;
use forebay_core::message::{
    ArchivedBatchGetReply, ArchivedBatchWriteReply, ArchivedErrorReply, ArchivedGetReply,
    ArchivedLagging, ArchivedNotLeaderReply, ArchivedTableReply, ArchivedWriteReply,
    BatchGetRequest, BatchOperation, BatchWriteRequest, CreateTableRequest, DeleteRequest,
    DescribeTableRequest, EVENTUAL_VERSION, ErrorCode, Eventual, GetReply, GetRequest, Kind, Lag,
    Message, PutRequest, ReturnValues, UpdateRequest,
};
use forebay_core::table::{TableDescription, TableStatus};
use forebay_net::frame::{self, Frame, FrameSerializer, Inbox};
use forebay_net::machine::SendBuf;
use forebay_storage::sim_disk::SimRandom;
use rkyv::Serialize;

use super::between;
use super::history::{Call, Outcome};
use super::items::{self, Name, PK, entry_name, register_name, value_of};
use super::network::WireId;
use super::node::listener_of;
use super::staleness::{Answer, Read};
use super::workload::{Part, REGISTERS, Stage, Target, Workload};

const MILLI: u64 = 1_000_000;

/// Table of every run.
const TABLE: &str = "ledger";
/// Groups of the table.
const PARTITIONS: u32 = 2;
/// A request without an answer is given up. Some clients soon look for another leader; others go on
/// asking one that was stopped and does not know that it leads no more.
const DEADLINES_NANOS: [u64; 3] = [1_500 * MILLI, 600 * MILLI, 1_500 * MILLI];
/// Requests under way on one connection.
const UNDER_WAY_MAX: usize = 24;
/// And while all is read in the end.
const AUDITING_MAX: usize = 12;
/// Between two operations of one client, at random.
const PACE_NANOS: (u64, u64) = (30 * MILLI, 120 * MILLI);
/// Between two questions about the table.
const SETUP_NANOS: u64 = 100 * MILLI;
/// From then on, if there is no table yet, whoever knows of none is asked to make it: that is who leads
/// the system group. Before, nobody is believed.
const GUIDED_NANOS: u64 = 1_000 * MILLI;
/// Between two looks at what is left to be read.
const AUDIT_NANOS: u64 = 30 * MILLI;
/// Before the next dial.
const PAUSE_NANOS: (u64, u64) = (5 * MILLI, 60 * MILLI);
/// How old the state may be that an eventual read is answered from; 0: any age.
const STALENESS_MILLIS: [u32; 4] = [0, 0, 150, 1_000];
/// Smallest batches are two; these are the largest.
const BATCH_MAX: usize = 5;

#[derive(Debug)]
enum Request {
    Table,
    One(Part),
    Get(Part, Target),
    /// Of any replica, and how old it may be in milliseconds (0: of any age).
    Eventual(Target, u32),
    Many(Vec<Part>),
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

/// A client's side of its connection to one node.
#[derive(Debug)]
pub(super) struct Link {
    line: Line,
    inbox: Inbox,
    asked: VecDeque<Asked>,
    /// What is to be sent.
    pub(super) out: SendBuf,
}

impl Link {
    /// The connection in use.
    pub(super) fn wire(&self) -> Option<WireId> {
        match self.line {
            Line::Open(wire) => Some(wire),
            Line::Idle(_) | Line::Dialing => None,
        }
    }
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: usize,
    deadline_nanos: u64,
    /// By node.
    pub(super) links: Vec<Link>,
    /// Who leads each partition, as far as it knows.
    leaders: Vec<usize>,
    /// Whom it asks about tables.
    guide: usize,
    /// Connections that it gave up.
    pub(super) closes: Vec<WireId>,
    /// Nodes to dial.
    pub(super) dials: Vec<usize>,
    next_correlation: u64,
    next_at: u64,
    /// The last reading waits after a refusal.
    audit_at: u64,
    random: SimRandom,
    item: Vec<u8>,
    /// The turn that the world has been asked for.
    pub(super) due: Option<u64>,
}

impl Client {
    pub(super) fn new(number: usize, nodes: usize, seed: u64, now: u64) -> Client {
        let mut random = SimRandom::new(seed);
        let link = |_| Link {
            line: Line::Idle(now),
            inbox: Inbox::default(),
            asked: VecDeque::new(),
            out: SendBuf::new(),
        };
        Client {
            number,
            deadline_nanos: DEADLINES_NANOS[number % DEADLINES_NANOS.len()],
            links: (0..nodes).map(link).collect(),
            leaders: (0..PARTITIONS).map(|_| random.below(nodes)).collect(),
            guide: 0,
            closes: Vec::new(),
            dials: Vec::new(),
            next_correlation: 1,
            next_at: now + between(&mut random, 0, PACE_NANOS.1),
            audit_at: 0,
            random,
            item: Vec::new(),
            due: None,
        }
    }

    /// The partition that a strong read is about that this node was asked for and has not answered.
    pub(super) fn strong_read(
        &self,
        node: usize,
        correlation: u64,
        work: &Workload,
    ) -> Option<usize> {
        let asked = self.links[node].asked.iter().find(|asked| asked.correlation == correlation)?;
        match asked.request {
            Request::Get(_, target) => Some(work.partition(target)),
            Request::Table | Request::One(_) | Request::Eventual(..) | Request::Many(_) => None,
        }
    }

    /// Whether a read that this node was asked for has no answer yet.
    pub(super) fn awaits_read(&self, node: usize) -> bool {
        self.links[node].asked.iter().any(|asked| matches!(asked.request, Request::Get(..)))
    }

    /// Whether this connection is the one in use to that node.
    pub(super) fn uses(&self, node: usize, wire: WireId) -> bool {
        self.links[node].wire() == Some(wire)
    }

    /// When it has something to do; None: only when something arrives.
    pub(super) fn due_at(&self, stage: Stage) -> Option<u64> {
        if stage == Stage::Over {
            return None;
        }
        let paced = (stage != Stage::Drain).then_some(self.next_at);
        let links = self.links.iter().filter_map(|link| match link.line {
            Line::Idle(at) => Some(at),
            Line::Dialing => None,
            Line::Open(_) => link.asked.front().map(|asked| asked.began + self.deadline_nanos),
        });
        paced.into_iter().chain(links).min()
    }

    /// The connection that was asked for is open.
    pub(super) fn opened(&mut self, node: usize, wire: WireId) {
        let link = &mut self.links[node];
        debug_assert_eq!(link.line, Line::Dialing);
        link.line = Line::Open(wire);
        link.inbox = Inbox::default();
    }

    /// It could not be made, or is gone: another node may lead, and it is tried again after a pause.
    pub(super) fn pause(&mut self, node: usize, now: u64) {
        let pause = between(&mut self.random, PAUSE_NANOS.0, PAUSE_NANOS.1);
        self.links[node].line = Line::Idle(now + pause);
        self.doubt(node);
    }

    /// This node does not answer, or does not lead.
    fn doubt(&mut self, node: usize) {
        let next = (node + 1) % self.links.len();
        self.leaders.iter_mut().filter(|leader| **leader == node).for_each(|leader| *leader = next);
        if self.guide == node {
            self.guide = next;
        }
    }

    /// The connection is gone, and what was under way on it has an unknown outcome.
    pub(super) fn lost(&mut self, node: usize, now: u64, work: &mut Workload) {
        self.links[node].out.clear();
        while let Some(asked) = self.links[node].asked.pop_front() {
            over(asked, Outcome::Unknown, work, now);
        }
        self.pause(node, now);
    }

    fn give_up(&mut self, node: usize, now: u64, work: &mut Workload) {
        self.closes.extend(self.links[node].wire());
        self.lost(node, now, work);
    }

    /// Its time has come, or something has arrived.
    pub(super) fn act(&mut self, now: u64, work: &mut Workload) {
        for node in 0..self.links.len() {
            let link = &mut self.links[node];
            match link.line {
                Line::Idle(at) if at <= now => {
                    link.line = Line::Dialing;
                    self.dials.push(node);
                }
                Line::Open(_)
                    if link
                        .asked
                        .front()
                        .is_some_and(|first| first.began + self.deadline_nanos <= now) =>
                {
                    self.give_up(node, now, work);
                }
                Line::Idle(_) | Line::Dialing | Line::Open(_) => {}
            }
        }
        match work.stage {
            Stage::Setup => self.set_up(now, work),
            Stage::Work => self.work(now, work),
            Stage::Audit => self.audit(now, work),
            Stage::Drain | Stage::Over => {}
        }
    }

    fn set_up(&mut self, now: u64, work: &mut Workload) {
        if self.next_at > now {
            return;
        }
        self.next_at = now + SETUP_NANOS;
        let link = &self.links[self.guide];
        if self.number > 0 || link.wire().is_none() || !link.asked.is_empty() {
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
            self.ask(self.guide, &create, Request::Table, now);
        } else {
            self.ask(self.guide, &DescribeTableRequest { name: TABLE }, Request::Table, now);
        }
    }

    fn ask<M>(&mut self, node: usize, message: &M, request: Request, now: u64)
    where
        M: Message + for<'a> Serialize<FrameSerializer<'a>>,
    {
        let correlation = self.next_correlation;
        self.next_correlation += 1;
        let link = &mut self.links[node];
        frame::append(&mut link.out, correlation, message);
        link.asked.push_back(Asked { correlation, began: now, request, audits: false });
    }

    fn work(&mut self, now: u64, work: &mut Workload) {
        while self.next_at <= now {
            self.next_at += between(&mut self.random, PACE_NANOS.0, PACE_NANOS.1);
            work.operations.wanted += 1;
            // Drawn first: what a client wants does not depend on its luck.
            let (what, key) = (self.random.below(100), self.random.below(REGISTERS));
            let target = match what {
                70..85 => Target::Entry(work.ledger.len()),
                85..92 if work.ledger.len() > 0 => {
                    Target::Entry(self.random.below(work.ledger.len()))
                }
                _ => Target::Register(key),
            };
            let eventual = matches!(what, 62..70 | 89..92);
            let node = match eventual {
                true => self.random.below(self.links.len()),
                false => self.leaders[work.partition(target)],
            };
            let link = &self.links[node];
            if link.wire().is_some() && link.asked.len() < UNDER_WAY_MAX {
                self.operate(node, what, key, target, now, work);
            } else {
                work.operations.not_sent += 1;
                if eventual {
                    continue;
                }
                self.doubt(node);
            }
        }
    }

    fn operate(
        &mut self,
        node: usize,
        what: usize,
        key: usize,
        target: Target,
        now: u64,
        work: &mut Workload,
    ) {
        match what {
            0..18 => self.put(node, key, now, work),
            18..40 => self.swap(node, key, now, work),
            40..50 => self.exchange(node, key, now, work),
            50..57 => self.delete(node, key, now, work),
            70..85 => self.put_entry(node, now, work),
            57..62 | 85..89 => self.get(node, target, false, now, work),
            62..70 | 89..92 => self.get_eventually(node, target, now, work),
            92..96 => self.write_batch(node, key, now, work),
            _ => self.get_batch(node, key, now, work),
        }
    }

    fn put(&mut self, node: usize, key: usize, now: u64, work: &mut Workload) {
        let value = work.value();
        let name = work.history.begin(self.number, key, Call::Write(value), now);
        self.send_put(node, (&register_name(key), value), None, Part::Register(name), now, work);
    }

    fn swap(&mut self, node: usize, key: usize, now: u64, work: &mut Workload) {
        let (from, to) = (work.guess(key, &mut self.random), work.value());
        let name = work.history.begin(self.number, key, Call::Swap { from, to }, now);
        let part = Part::Register(name);
        self.send_put(node, (&register_name(key), to), Some(from), part, now, work);
    }

    fn put_entry(&mut self, node: usize, now: u64, work: &mut Workload) {
        let entry = work.ledger.ask(self.number, now);
        let part = Part::EntryWrite(entry);
        self.send_put(node, (&entry_name(entry), entry as u64), None, part, now, work);
    }

    fn send_put(
        &mut self,
        node: usize,
        (name, value): (&str, u64),
        only_if: Option<Option<u64>>,
        part: Part,
        now: u64,
        work: &Workload,
    ) {
        let mut bytes = std::mem::take(&mut self.item);
        let put = PutRequest {
            table: work.table_id(),
            epoch: 0,
            item: items::item(&mut bytes, name, value),
            condition: only_if.map(items::is),
            return_values: ReturnValues::None,
            return_old_on_failure: only_if.is_some(),
        };
        self.ask(node, &put, Request::One(part), now);
        self.item = bytes;
    }

    fn exchange(&mut self, node: usize, key: usize, now: u64, work: &mut Workload) {
        let value = work.value();
        let name = work.history.begin(self.number, key, Call::Exchange(value), now);
        let mut bytes = std::mem::take(&mut self.item);
        let update = UpdateRequest {
            table: work.table_id(),
            epoch: 0,
            key: items::key_item(&mut bytes, &register_name(key)),
            update: items::exchange(value),
            condition: None,
            return_values: ReturnValues::AllOld,
            return_old_on_failure: false,
        };
        self.ask(node, &update, Request::One(Part::Register(name)), now);
        self.item = bytes;
    }

    fn delete(&mut self, node: usize, key: usize, now: u64, work: &mut Workload) {
        let name = work.history.begin(self.number, key, Call::Delete, now);
        let mut bytes = std::mem::take(&mut self.item);
        let delete = DeleteRequest {
            table: work.table_id(),
            epoch: 0,
            key: items::key_item(&mut bytes, &register_name(key)),
            condition: None,
            return_values: ReturnValues::None,
            return_old_on_failure: false,
        };
        self.ask(node, &delete, Request::One(Part::Register(name)), now);
        self.item = bytes;
    }

    fn part_of(&self, target: Target, now: u64, work: &mut Workload) -> (Part, Name) {
        match target {
            Target::Register(key) => {
                let name = work.history.begin(self.number, key, Call::Read, now);
                (Part::Register(name), register_name(key))
            }
            Target::Entry(entry) => (Part::EntryRead(work.ledger.read(entry)), entry_name(entry)),
        }
    }

    fn get(&mut self, node: usize, target: Target, audits: bool, now: u64, work: &mut Workload) {
        let (part, name) = self.part_of(target, now, work);
        let mut bytes = std::mem::take(&mut self.item);
        let get = GetRequest {
            table: work.table_id(),
            epoch: 0,
            key: items::key_item(&mut bytes, &name),
            projection: None,
            consistent: true,
        };
        self.ask(node, &get, Request::Get(part, target), now);
        self.links[node].asked.back_mut().expect("just asked").audits = audits;
        self.item = bytes;
    }

    fn get_eventually(&mut self, node: usize, target: Target, now: u64, work: &Workload) {
        let name = match target {
            Target::Register(key) => register_name(key),
            Target::Entry(entry) => entry_name(entry),
        };
        let mut bytes = std::mem::take(&mut self.item);
        let read = GetRequest {
            table: work.table_id(),
            epoch: 0,
            key: items::key_item(&mut bytes, &name),
            projection: None,
            consistent: false,
        };
        let age_max = STALENESS_MILLIS[self.random.below(STALENESS_MILLIS.len())];
        let eventual = Eventual { read, staleness_max_millis: age_max };
        self.ask(node, &eventual, Request::Eventual(target, age_max), now);
        self.item = bytes;
    }

    fn write_batch(&mut self, node: usize, key: usize, now: u64, work: &mut Workload) {
        let count = 2 + self.random.below(BATCH_MAX - 1);
        let (mut parts, mut bytes) = (Vec::new(), Vec::new());
        for index in 0..count {
            let mut item = Vec::new();
            if index % 2 == 1 {
                let entry = work.ledger.ask(self.number, now);
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
        let batch = BatchWriteRequest { table: work.table_id(), epoch: 0, operations };
        self.ask(node, &batch, Request::Many(parts), now);
    }

    fn get_batch(&mut self, node: usize, key: usize, now: u64, work: &mut Workload) {
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
            parts.push(part);
        }
        let keys = keys.iter().map(Vec::as_slice).collect();
        let batch = BatchGetRequest { table: work.table_id(), epoch: 0, keys, projection: None };
        self.ask(node, &batch, Request::Many(parts), now);
    }

    fn audit(&mut self, now: u64, work: &mut Workload) {
        if now < self.audit_at {
            self.next_at = self.audit_at;
            return;
        }
        self.next_at = self.next_at.max(now + AUDIT_NANOS);
        for _ in 0..work.targets.len() {
            let under_way: usize = self.links.iter().map(|link| link.asked.len()).sum();
            if under_way >= AUDITING_MAX {
                return;
            }
            let target = work.targets.pop().expect("counted");
            let node = work.reread.unwrap_or(self.leaders[work.partition(target)]);
            if self.links[node].wire().is_none() {
                work.targets.push(target);
                return self.doubt(node);
            }
            work.auditing += 1;
            if work.reread.is_some() {
                self.get_eventually(node, target, now, work);
                self.links[node].asked.back_mut().expect("just asked").audits = true;
            } else {
                self.get(node, target, true, now, work);
            }
        }
    }

    /// Bytes from a node.
    pub(super) fn received(&mut self, node: usize, bytes: &[u8], now: u64, work: &mut Workload) {
        let mut inbox = std::mem::take(&mut self.links[node].inbox);
        let result = inbox.receive(bytes, |frame| self.reply(node, frame, now, work));
        self.links[node].inbox = inbox;
        if let Err(error) = result {
            work.broken(Err(format!("node {node} sent a broken frame: {error}")));
        }
    }

    fn reply(&mut self, node: usize, frame: Frame<'_>, now: u64, work: &mut Workload) {
        let link = &mut self.links[node];
        if link.wire().is_none() {
            return; // Given up while these bytes were looked at.
        }
        let place = link.asked.iter().position(|asked| asked.correlation == frame.correlation);
        let Some(asked) = place.and_then(|place| link.asked.remove(place)) else {
            let error = format!("a reply to request {}, which is not open", frame.correlation);
            return work.broken(Err(error));
        };
        let Some(kind) = Kind::from_wire(frame.kind) else {
            return work.broken(Err(format!("a reply of the unknown kind {}", frame.kind)));
        };
        if let Err(error) = self.understand(node, kind, frame, asked, now, work) {
            work.broken(Err(error));
        }
    }

    fn understand(
        &mut self,
        node: usize,
        kind: Kind,
        frame: Frame<'_>,
        asked: Asked,
        now: u64,
        work: &mut Workload,
    ) -> Result<(), String> {
        let broken = || format!("a {kind:?} that is none");
        let began = asked.began;
        match (kind, asked.request) {
            (Kind::ErrorReply | Kind::NotLeaderReply, Request::Eventual(..)) => {
                // Nothing is learned from a replica that has no state, or an old one.
                let error = frame.message::<ArchivedErrorReply<'_>>();
                let code = error.map(|error| ErrorCode::from_wire(error.code.to_native()));
                let stale = kind == Kind::ErrorReply && code == Some(Some(ErrorCode::TooStale));
                work.operations.too_stale += u64::from(stale);
                work.operations.refused += 1;
                work.auditing -= usize::from(asked.audits);
            }
            (Kind::GetReply, Request::Eventual(target, age_max)) => {
                let reply = frame.message::<ArchivedLagging<GetReply<'_>>>();
                let reply = reply.filter(|_| frame.message_version == EVENTUAL_VERSION);
                let reply = reply.ok_or_else(broken)?;
                let item = reply.reply.item.as_ref().map(|item| item.get());
                let read = match target {
                    Target::Register(key) => {
                        let name = register_name(key);
                        let found = item.map(|item| value_of(item, &name)).transpose()?;
                        Read::Register { key, found }
                    }
                    Target::Entry(entry) => {
                        let name = entry_name(entry);
                        let found = item.map(|item| value_of(item, &name)).transpose()?;
                        Read::Entry { entry, found: found.is_some() }
                    }
                };
                let age_millis = Lag::from(&reply.lag).age_millis;
                let answer = Answer { node, asked_at: began, answered_at: now, age_millis, read };
                work.operations.eventual += 1;
                work.auditing -= usize::from(asked.audits);
                work.staleness.answered(answer, age_max)?;
            }
            (Kind::ErrorReply, request) => {
                let error = frame.message::<ArchivedErrorReply<'_>>().ok_or_else(broken)?;
                let code = ErrorCode::from_wire(error.code.to_native());
                if let (Some(ErrorCode::ConditionFailed), Request::One(part)) = (code, &request) {
                    let name = part.name();
                    let item = error.item.as_ref();
                    let found = item.map(|item| value_of(item.get(), &name)).transpose()?;
                    work.ended(*part, Outcome::Found(found), began, now);
                    return Ok(());
                }
                *work.refusals.entry(code.map_or("another", ErrorCode::name)).or_default() += 1;
                let outcome = match code {
                    Some(code) if code.had_no_effect() => Outcome::NoEffect,
                    _ => Outcome::Unknown,
                };
                let guided = matches!(request, Request::Table) && now >= GUIDED_NANOS;
                let asked = Asked { request, ..asked };
                over(asked, outcome, work, now);
                self.audit_at = now + AUDIT_NANOS;
                if !guided || code != Some(ErrorCode::UnknownTable) {
                    self.refused(node, code, now, work);
                }
            }
            (Kind::NotLeaderReply, request) => {
                let reply = frame.message::<ArchivedNotLeaderReply>().ok_or_else(broken)?;
                *work.refusals.entry("NotLeader").or_default() += 1;
                let leader = reply.leader(IpAddr::V4(Ipv4Addr::LOCALHOST));
                let concerned = self.concerned(&request, work);
                over(Asked { request, ..asked }, Outcome::NoEffect, work, now);
                self.audit_at = now + AUDIT_NANOS;
                self.not_leader(node, leader, concerned);
            }
            (Kind::TableReply, Request::Table) => {
                let reply = frame.message::<ArchivedTableReply<'_>>().ok_or_else(broken)?;
                let item = ItemRef::validate(reply.description.get()).map_err(|e| e.to_string())?;
                let table = TableDescription::from_item(item).map_err(|e| e.to_string())?;
                if table.status == TableStatus::Active {
                    work.table = Some(table);
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
                let name = part.name();
                let old = reply.attributes.as_ref();
                let old = old.map(|item| value_of(item.get(), &name)).transpose()?;
                let outcome = if exchanged { Outcome::Found(old) } else { Outcome::Done };
                work.ended(part, outcome, began, now);
            }
            (Kind::GetReply, Request::Get(part, _)) => {
                let reply = frame.message::<ArchivedGetReply<'_>>().ok_or_else(broken)?;
                let name = part.name();
                let item = reply.item.as_ref();
                let found = item.map(|item| value_of(item.get(), &name)).transpose()?;
                work.ended(part, Outcome::Found(found), began, now);
                work.auditing -= usize::from(asked.audits);
            }
            (Kind::BatchWriteReply, Request::Many(parts)) => {
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
            (Kind::BatchGetReply, Request::Many(parts)) => {
                let reply = frame.message::<ArchivedBatchGetReply<'_>>().ok_or_else(broken)?;
                let mut rest: &[u8] = reply.items.get();
                for part in parts {
                    let (length, after) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
                    let length = u32::from_le_bytes(*length);
                    let bytes = if length == u32::MAX { 0 } else { length as usize };
                    let (item, after) = after.split_at_checked(bytes).ok_or_else(broken)?;
                    rest = after;
                    let outcome = match length {
                        u32::MAX => Outcome::NoEffect,
                        0 => Outcome::Found(None),
                        _ => Outcome::Found(Some(value_of(item, &part.name())?)),
                    };
                    work.ended(part, outcome, began, now);
                }
            }
            (kind, request) => return Err(format!("a {kind:?} in answer to {request:?}")),
        }
        Ok(())
    }

    /// The partition that a request was about; None: of tables, or of several.
    fn concerned(&self, request: &Request, work: &Workload) -> Option<usize> {
        let part = match request {
            Request::One(part) | Request::Get(part, _) => part,
            Request::Table | Request::Eventual(..) | Request::Many(_) => return None,
        };
        Some(work.partition(match part {
            Part::Register(name) => Target::Register(name.key),
            Part::EntryWrite(entry) => Target::Entry(*entry),
            Part::EntryRead(reading) => Target::Entry(reading.entry),
        }))
    }

    /// "The leader is …"
    fn not_leader(&mut self, node: usize, leader: Option<SocketAddr>, concerned: Option<usize>) {
        let next = (node + 1) % self.links.len();
        let leader = leader.map_or(next, |leader| listener_of(leader).0);
        match concerned {
            Some(partition) => self.leaders[partition] = leader,
            None if self.guide == node => self.guide = leader,
            None => {}
        }
    }

    /// After some refusals another node is the better one to ask.
    fn refused(&mut self, node: usize, code: Option<ErrorCode>, now: u64, work: &mut Workload) {
        let elsewhere = match code {
            Some(
                ErrorCode::TableExists
                | ErrorCode::TableNotActive
                | ErrorCode::NotLeader
                // Members move.
                | ErrorCode::UnknownTable
                | ErrorCode::WrongPartition
                | ErrorCode::LeadershipLost,
            ) => {
                self.doubt(node);
                false
            }
            Some(ErrorCode::Overloaded | ErrorCode::DiskFull) => self.random.chance(1, 8),
            _ => true,
        };
        if elsewhere {
            self.give_up(node, now, work);
        }
    }
}

/// All parts of a request end alike.
fn over(asked: Asked, outcome: Outcome, work: &mut Workload, now: u64) {
    let Asked { began, request, audits, .. } = asked;
    match request {
        Request::Table => {}
        Request::Eventual(target, _) => {
            work.operations.unknown += 1;
            if audits {
                work.auditing -= 1;
                work.targets.push(target);
            }
        }
        Request::One(part) => work.ended(part, outcome, began, now),
        Request::Get(part, target) => {
            work.ended(part, outcome, began, now);
            if audits {
                work.auditing -= 1;
                work.targets.push(target);
            }
        }
        Request::Many(parts) => {
            parts.into_iter().for_each(|part| work.ended(part, outcome, began, now));
        }
    }
}
