//! From a frame to its handler, and back again for requests that had to wait for a page.
//!
//! A request that meets an absent page is parked with a copy of its payload; when the page
//! arrives it runs again from the start against the state of that moment (a Query or Scan goes on
//! from the last key that it took). It stays correct without knowing what changed in between,
//! because nothing was decided before.

use forebay_core::message::{
    ArchivedBatchGetRequest, ArchivedBatchWriteRequest, ArchivedCreateTableRequest,
    ArchivedDeleteRequest, ArchivedDeleteTableRequest, ArchivedDescribeNodeRequest,
    ArchivedDescribeTableRequest, ArchivedGetRequest, ArchivedListTablesRequest,
    ArchivedPutRequest, ArchivedQueryRequest, ArchivedScanRequest, ArchivedUpdateRequest,
    DescribeNodeReply, ErrorCode, Kind, ShardAddress, version_of,
};
use forebay_core::time::Nanos;
use forebay_storage::tree::PageRef;
use rkyv::Portable;
use rkyv::api::high::HighValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;

use super::page::PageBuilder;
use super::refusal::Refusal;
use super::{Asker, PARKED_MAX, Shard, WAITING_MAX};
use crate::frame::{Frame, PROTOCOL_VERSION};
use crate::machine::{ConnId, SendBuf};

/// What a handler came to.
pub(super) enum Outcome {
    /// Answered, or queued behind entries in flight.
    Done,
    /// The page is being read; run again when it is here.
    Wait(PageRef),
    /// The same, with what a Query or Scan has gathered so far.
    WaitWith(PageRef, PageBuilder),
}

/// A request that waits for a page.
#[derive(Debug)]
pub(super) struct Parked {
    asker: Asker,
    payload: SendBuf,
    gathered: Option<PageBuilder>,
}

fn message<T>(payload: &[u8]) -> Result<&T, Refusal>
where
    T: Portable + for<'c> CheckBytes<HighValidator<'c, Failure>>,
{
    rkyv::access::<T, Failure>(payload).map_err(|_| Refusal::malformed())
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
            asked_at: now,
        };
        let Some(kind) = kind else {
            let words = format!("{} is not a kind of request", frame.kind);
            return self.refuse(asker, &Refusal::new(ErrorCode::UnknownKind, words));
        };
        if frame.message_version != version_of(kind) {
            let words = format!(
                "{kind:?} version {}, this program reads {}",
                frame.message_version,
                version_of(kind)
            );
            return self.refuse(asker, &Refusal::new(ErrorCode::UnsupportedVersion, words));
        }
        self.count_request(kind);
        if let Err(refusal) = self.admit() {
            return self.refuse(asker, &refusal);
        }
        self.run(asker, frame.payload, None);
    }

    /// What every request needs before anything else is looked at.
    fn admit(&self) -> Result<(), Refusal> {
        if self.stopping {
            return Err(Refusal::constant(ErrorCode::ShuttingDown, "the node is stopping"));
        }
        if self.store.failure().is_some() {
            return Err(Refusal::constant(
                ErrorCode::ShardFailed,
                "this shard met a failed write and serves nothing until it has recovered",
            ));
        }
        if self.waiting.len() >= WAITING_MAX {
            return Err(Refusal::constant(ErrorCode::Overloaded, "too many writes in flight")
                .retry_after(10 * Nanos::PER_MILLI));
        }
        Ok(())
    }

    fn run(&mut self, asker: Asker, payload: &[u8], gathered: Option<PageBuilder>) {
        match self.dispatch(asker, payload, gathered) {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Wait(page)) => self.park(asker, payload, page, None),
            Ok(Outcome::WaitWith(page, gathered)) => {
                self.park(asker, payload, page, Some(gathered));
            }
            Err(refusal) => self.refuse(asker, &refusal),
        }
    }

    fn dispatch(
        &mut self,
        asker: Asker,
        payload: &[u8],
        gathered: Option<PageBuilder>,
    ) -> Result<Outcome, Refusal> {
        match asker.kind {
            Kind::Put => self.put(asker, message::<ArchivedPutRequest<'_>>(payload)?),
            Kind::Get => self.get(asker, message::<ArchivedGetRequest<'_>>(payload)?),
            Kind::Delete => self.delete(asker, message::<ArchivedDeleteRequest<'_>>(payload)?),
            Kind::Update => self.update(asker, message::<ArchivedUpdateRequest<'_>>(payload)?),
            Kind::Query => {
                self.query(asker, message::<ArchivedQueryRequest<'_>>(payload)?, gathered)
            }
            Kind::Scan => self.scan(asker, message::<ArchivedScanRequest<'_>>(payload)?, gathered),
            Kind::BatchGet => {
                self.batch_get(asker, message::<ArchivedBatchGetRequest<'_>>(payload)?)
            }
            Kind::BatchWrite => {
                self.batch_write(asker, message::<ArchivedBatchWriteRequest<'_>>(payload)?)
            }
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
            Kind::DescribeNode => {
                message::<ArchivedDescribeNodeRequest>(payload)?;
                self.describe_node(asker);
                Ok(Outcome::Done)
            }
            _ => Err(Refusal::constant(ErrorCode::UnknownKind, "not a kind of request")),
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
    }

    fn park(&mut self, asker: Asker, payload: &[u8], page: PageRef, gathered: Option<PageBuilder>) {
        if self.parked.len() >= PARKED_MAX {
            let refusal = Refusal::constant(ErrorCode::Overloaded, "too many reads wait for pages")
                .retry_after(10 * Nanos::PER_MILLI);
            return self.refuse(asker, &refusal);
        }
        let mut copy = SendBuf::with_capacity(payload.len());
        copy.extend_from_slice(payload);
        let id = self.next_parked;
        self.next_parked += 1;
        self.parked.insert(id, Parked { asker, payload: copy, gathered });
        let page = self.store.fetch(page);
        self.page_waiters.entry(page).or_default().push(id);
    }

    /// Runs the requests whose pages have arrived (or turned out damaged, or could not be read).
    pub(super) fn resume_parked(&mut self) {
        let mut arrived = std::mem::take(&mut self.arrived);
        for page in arrived.drain(..) {
            for id in self.page_waiters.remove(&page).unwrap_or_default() {
                if let Some(parked) = self.parked.remove(&id) {
                    self.run(parked.asker, &parked.payload, parked.gathered);
                }
            }
        }
        self.arrived = arrived;
    }
}
