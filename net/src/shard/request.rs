//! From a frame to its handler, and back again for requests that had to wait for a page.
//!
//! A request that meets an absent page is parked with a copy of its payload; when the page
//! arrives it runs again from the start against the state of that moment (a Query, Scan or BatchGet
//! goes on behind the last key that it took). It stays correct without knowing what changed in
//! between, because nothing was decided before.
//!
//! A write for which the store has no room for the moment is not refused: it waits in a queue and
//! runs again when there is room, and while the queue is not empty every later write goes behind
//! it. So admission slows down smoothly, and refuses only when the queue itself is full.
//!
//! Requests of one connection are answered in any order; only writes that neither park nor meet
//! one that does are begun in the order in which they were sent. Who needs an order waits for the
//! reply.

use forebay_core::message::{
    ArchivedAdminRequest, ArchivedBatchGetRequest, ArchivedBatchWriteRequest,
    ArchivedCreateTableRequest, ArchivedDeleteRequest, ArchivedDeleteTableRequest,
    ArchivedDescribeNodeRequest, ArchivedDescribeTableRequest, ArchivedEventual,
    ArchivedGetRequest, ArchivedListTablesRequest, ArchivedPutRequest, ArchivedQueryRequest,
    ArchivedScanRequest, ArchivedUpdateRequest, BatchGetRequest, DescribeNodeReply,
    EVENTUAL_VERSION, ErrorCode, GetRequest, Kind, QueryRequest, ScanRequest, ShardAddress,
    newest_version_of, version_of,
};
use forebay_core::time::Nanos;
use forebay_storage::tree::PageRef;
use rkyv::Portable;
use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;

use super::page::PageBuilder;
use super::parking::{HELD_BYTES_MAX, Held};
use super::read::{Consistency, Gets};
use super::refusal::Refusal;
use super::replicated::Mark;
use super::write::BatchProgress;
use super::{Asker, Shard, WAITING_MAX, WaitingReply};
use crate::frame::{Frame, PROTOCOL_VERSION};
use crate::machine::{ConnId, SendBuf};

/// What a handler came to.
pub(super) enum Outcome {
    /// Answered, or queued behind entries in flight.
    Done,
    /// The page is being read; run again when it is here, with what was done so far.
    Wait(PageRef, Option<Box<Progress>>),
    /// The store has no room for the write; run again when it has.
    Stall(Option<Box<Progress>>),
    /// Run again when this is chosen: the answer depends on it.
    Behind(Mark),
}

/// What a request with several parts has done before it had to wait.
#[derive(Debug)]
pub(super) enum Progress {
    /// Query, Scan.
    Page(PageBuilder),
    /// BatchGet.
    Gets(Gets),
    /// BatchWrite.
    Writes(BatchProgress),
}

impl Progress {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Progress::Page(page) => page.held_bytes(),
            Progress::Gets(gets) => gets.items.len(),
            Progress::Writes(_) => 0,
        }
    }
}

/// The payload of a request on its way through a handler.
pub(super) enum Payload<'a> {
    /// In the connection's buffer.
    Arrived(&'a [u8]),
    /// A copy that was made before.
    Copied(SendBuf),
}

pub(super) fn message<T>(payload: &[u8]) -> Result<&T, Refusal>
where
    T: Portable + for<'c> CheckBytes<HighValidator<'c, Failure>>,
{
    rkyv::access::<T, Failure>(payload).map_err(|_| Refusal::malformed())
}

fn is_write(kind: Kind) -> bool {
    matches!(kind, Kind::Put | Kind::Delete | Kind::Update | Kind::BatchWrite)
}

impl Shard {
    /// A whole frame arrived.
    pub(super) fn request(&mut self, conn: ConnId, frame: Frame<'_>, now: Nanos) {
        self.connections.asked(conn);
        let kind = Kind::from_wire(frame.kind).filter(|kind| kind.is_request());
        let asker = Asker {
            conn,
            correlation: frame.correlation,
            kind: kind.unwrap_or(Kind::ErrorReply),
            eventual: frame.message_version == EVENTUAL_VERSION,
            asked_at: now,
        };
        self.count_request(asker.kind);
        let Some(kind) = kind else {
            let words = format!("{} is not a kind of request", frame.kind);
            return self.refuse(asker, &Refusal::new(ErrorCode::UnknownKind, words));
        };
        let versions = version_of(kind)..=newest_version_of(kind);
        if !versions.contains(&frame.message_version) {
            let words = format!(
                "{kind:?} version {}, this program reads {} to {}",
                frame.message_version,
                versions.start(),
                versions.end()
            );
            return self.refuse(asker, &Refusal::new(ErrorCode::UnsupportedVersion, words));
        }
        if let Err(refusal) = self.admit() {
            return self.refuse(asker, &refusal);
        }
        if kind == Kind::Get && !asker.eventual {
            let outcome = self.get_soon(asker, frame.payload);
            return self.settle(asker, Payload::Arrived(frame.payload), outcome);
        }
        self.run(asker, Payload::Arrived(frame.payload), None);
    }

    /// What every request needs before anything else is looked at.
    fn admit(&self) -> Result<(), Refusal> {
        if self.stopping {
            return Err(Refusal::constant(ErrorCode::ShuttingDown, "the node is stopping"));
        }
        if self.store.failure().is_some() {
            return Err(Refusal::failed());
        }
        if self.waiting.len() + self.slots.len() >= WAITING_MAX {
            return Err(Refusal::constant(ErrorCode::Overloaded, "too many writes in flight")
                .retry_after(10 * Nanos::PER_MILLI));
        }
        if self.parking.held_bytes() >= HELD_BYTES_MAX {
            return Err(Refusal::constant(
                ErrorCode::Overloaded,
                "waiting requests and replies fill their memory",
            )
            .retry_after(10 * Nanos::PER_MILLI));
        }
        Ok(())
    }

    fn run(&mut self, asker: Asker, payload: Payload<'_>, progress: Option<Box<Progress>>) {
        if is_write(asker.kind) && self.parking.stalled() > 0 {
            return self.stall(asker, payload, progress);
        }
        let bytes = match &payload {
            Payload::Arrived(bytes) => bytes,
            Payload::Copied(copy) => &copy[..],
        };
        let outcome = self.dispatch(asker, bytes, progress);
        self.settle(asker, payload, outcome);
    }

    /// Does what a handler came to.
    fn settle(&mut self, asker: Asker, payload: Payload<'_>, outcome: Result<Outcome, Refusal>) {
        match outcome {
            Ok(Outcome::Done) => self.done_with(payload),
            Ok(Outcome::Wait(page, progress)) => self.park(asker, payload, page, progress),
            Ok(Outcome::Stall(progress)) => self.stall(asker, payload, progress),
            Ok(Outcome::Behind(mark)) => {
                let copy = self.keep(payload);
                self.answer_later(asker, mark, WaitingReply::Again(copy));
            }
            Err(refusal) => {
                self.refuse(asker, &refusal);
                self.done_with(payload);
            }
        }
    }

    /// Runs a request again that had to wait.
    pub(super) fn run_again(
        &mut self,
        asker: Asker,
        payload: SendBuf,
        progress: Option<Box<Progress>>,
    ) {
        self.run(asker, Payload::Copied(payload), progress);
    }

    fn dispatch(
        &mut self,
        asker: Asker,
        payload: &[u8],
        progress: Option<Box<Progress>>,
    ) -> Result<Outcome, Refusal> {
        if asker.eventual {
            return self.dispatch_eventual(asker, payload, progress);
        }
        match asker.kind {
            Kind::Put => self.put(asker, message::<ArchivedPutRequest<'_>>(payload)?),
            Kind::Get => {
                let request = message::<ArchivedGetRequest<'_>>(payload)?;
                self.get(asker, request, Consistency::asked(request.consistent))
            }
            Kind::Delete => self.delete(asker, message::<ArchivedDeleteRequest<'_>>(payload)?),
            Kind::Update => self.update(asker, message::<ArchivedUpdateRequest<'_>>(payload)?),
            Kind::Query => {
                let request = message::<ArchivedQueryRequest<'_>>(payload)?;
                self.query(asker, request, Consistency::asked(request.consistent), progress)
            }
            Kind::Scan => {
                let request = message::<ArchivedScanRequest<'_>>(payload)?;
                self.scan(asker, request, Consistency::Strong, progress)
            }
            Kind::BatchGet => {
                let request = message::<ArchivedBatchGetRequest<'_>>(payload)?;
                self.batch_get(asker, request, Consistency::Strong, progress)
            }
            Kind::BatchWrite => self.batch_write(
                asker,
                message::<ArchivedBatchWriteRequest<'_>>(payload)?,
                progress,
            ),
            Kind::CreateTable => {
                self.create_table(asker, message::<ArchivedCreateTableRequest<'_>>(payload)?)
            }
            Kind::DescribeTable => {
                self.describe_table(asker, message::<ArchivedDescribeTableRequest<'_>>(payload)?)
            }
            Kind::ListTables => {
                self.list_tables(asker, message::<ArchivedListTablesRequest<'_>>(payload)?)
            }
            Kind::DeleteTable => {
                self.delete_table(asker, message::<ArchivedDeleteTableRequest<'_>>(payload)?)
            }
            Kind::Admin => self.admin(asker, message::<ArchivedAdminRequest<'_>>(payload)?),
            Kind::DescribeNode => {
                message::<ArchivedDescribeNodeRequest>(payload)?;
                self.describe_node(asker);
                Ok(Outcome::Done)
            }
            _ => Err(Refusal::constant(ErrorCode::UnknownKind, "not a kind of request")),
        }
    }

    /// Reads that any storage replica may answer.
    fn dispatch_eventual(
        &mut self,
        asker: Asker,
        payload: &[u8],
        progress: Option<Box<Progress>>,
    ) -> Result<Outcome, Refusal> {
        match asker.kind {
            Kind::Get => {
                let asked = message::<ArchivedEventual<GetRequest<'_>>>(payload)?;
                self.get(asker, &asked.read, Consistency::within(asked.staleness_max_millis))
            }
            Kind::Query => {
                let asked = message::<ArchivedEventual<QueryRequest<'_>>>(payload)?;
                let consistency = Consistency::within(asked.staleness_max_millis);
                self.query(asker, &asked.read, consistency, progress)
            }
            Kind::Scan => {
                let asked = message::<ArchivedEventual<ScanRequest<'_>>>(payload)?;
                let consistency = Consistency::within(asked.staleness_max_millis);
                self.scan(asker, &asked.read, consistency, progress)
            }
            Kind::BatchGet => {
                let asked = message::<ArchivedEventual<BatchGetRequest<'_>>>(payload)?;
                let consistency = Consistency::within(asked.staleness_max_millis);
                self.batch_get(asker, &asked.read, consistency, progress)
            }
            _ => Err(Refusal::constant(ErrorCode::UnsupportedVersion, "this kind is no read")),
        }
    }

    fn describe_node(&mut self, asker: Asker) {
        let shards = self.context.ports.iter().enumerate();
        let reply = DescribeNodeReply {
            node_id: self.context.node_id,
            shards: shards
                .map(|(shard, port)| ShardAddress { shard: shard as u16, port: *port })
                .collect(),
            protocol_version: PROTOCOL_VERSION,
        };
        self.connections.reply(asker.conn, asker.correlation, &reply);
        self.answered(asker);
    }

    fn keep(&mut self, payload: Payload<'_>) -> SendBuf {
        match payload {
            Payload::Arrived(bytes) => self.parking.copy(bytes),
            Payload::Copied(copy) => copy,
        }
    }

    fn done_with(&mut self, payload: Payload<'_>) {
        if let Payload::Copied(copy) = payload {
            self.parking.reuse(copy);
        }
    }

    pub(super) fn park(
        &mut self,
        asker: Asker,
        payload: Payload<'_>,
        page: PageRef,
        progress: Option<Box<Progress>>,
    ) {
        if !self.parking.has_place() {
            self.done_with(payload);
            // A page may end early: what was gathered is an answer.
            if let Some(Progress::Page(gathered)) = progress.map(|progress| *progress)
                && gathered.is_started()
            {
                return self.reply_page(asker, gathered, true, None);
            }
            let refusal = Refusal::constant(ErrorCode::Overloaded, "too many reads wait for pages")
                .retry_after(10 * Nanos::PER_MILLI);
            return self.refuse(asker, &refusal);
        }
        let payload = self.keep(payload);
        let page = self.store.fetch(page);
        self.parking.park(page, Held { asker, payload, progress });
    }

    /// Runs the requests whose pages have arrived (or turned out damaged, or could not be read).
    pub(super) fn resume_parked(&mut self) {
        let mut arrived = std::mem::take(&mut self.arrived);
        for page in arrived.drain(..) {
            let mut line = self.parking.arrived(page);
            while let Some(Held { asker, payload, progress }) = self.parking.next(&mut line) {
                self.run_again(asker, payload, progress);
            }
        }
        self.arrived = arrived;
    }

    /// Queues a write behind the others that wait for room, or for their group.
    fn stall(&mut self, asker: Asker, payload: Payload<'_>, progress: Option<Box<Progress>>) {
        if !self.parking.has_place() {
            let refusal = Refusal::constant(
                ErrorCode::Overloaded,
                "for the moment the log or memory is full, or groups change, and the queue of waiting \
                 writes is full too",
            )
            .retry_after(20 * Nanos::PER_MILLI);
            match progress.map(|progress| *progress) {
                // Some of the batch was begun: the rest has this outcome.
                Some(Progress::Writes(begun)) => {
                    self.end_batch(asker, begun, ErrorCode::Overloaded);
                }
                _ => self.refuse(asker, &refusal),
            }
            return self.done_with(payload);
        }
        let payload = self.keep(payload);
        self.connections.stalled(asker.conn);
        self.context.metrics.writes_stalled.add(1);
        self.parking.stall(Held { asker, payload, progress });
    }

    /// Runs the writes that waited, as far as there is room. One whose group changes its members or its
    /// leader goes on waiting, and keeps its place; those behind it do not wait for it.
    pub(super) fn resume_stalled(&mut self) {
        let (mut left, mut kept) = (self.parking.stalled(), 0);
        while left > 0 && self.store.has_room() {
            left -= 1;
            let stalled = self.parking.next_stalled().expect("counted");
            let Held { asker, payload, progress } = stalled;
            // A write that arrives stalls in the same turn, or as soon as its page is here.
            let stalled_at = asker.asked_at;
            match self.dispatch(asker, &payload, progress) {
                Ok(Outcome::Stall(progress)) => {
                    self.parking.stall(Held { asker, payload, progress });
                    kept += 1;
                    continue;
                }
                Ok(Outcome::Wait(page, progress)) => {
                    self.park(asker, Payload::Copied(payload), page, progress);
                }
                Ok(Outcome::Done) => self.parking.reuse(payload),
                Ok(Outcome::Behind(_)) => unreachable!("only table requests wait for tables"),
                Err(refusal) => {
                    self.refuse(asker, &refusal);
                    self.parking.reuse(payload);
                }
            }
            self.connections.unstalled(asker.conn);
            let waited = self.now.since(stalled_at);
            self.context.metrics.writes_stalled_nanoseconds.add(waited);
        }
        self.parking.first_again(kept);
    }
}
