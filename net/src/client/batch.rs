//! Batches of any size: cut by group and limit, sent side by side, answered in the caller's order.
//!
//! ```text
//!   keys 0 1 2 3 4 5 ──► group 7: 0 2 5 ──► requests of at most 100 keys or 25 writes
//!                        group 8: 1 3 4 ──►
//! ```
//!
//! A request has the keys of one group, because each group has a leader of its own and may get another
//! one at any moment: so "the leader is …" is an answer for all of it.
//!
//! What a node leaves undone is sent again: keys that did not fit its reply, writes that it was too
//! busy for or does not lead, and, once, everything that went by an old description. Each key and write
//! ends with its own result.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use forebay_core::expression::{ExpressionError, Projection};
use forebay_core::item::{Item, ItemError};
use forebay_core::key::{KeyBuf, KeyError};
use forebay_core::limits::{BATCH_GET_ITEMS_MAX, BATCH_WRITE_ITEMS_MAX, FRAME_BYTES_MAX};
use forebay_core::message::{
    ArchivedBatchGetReply, ArchivedBatchWriteReply, ArchivedLagging, BatchGetReply,
    BatchGetRequest, BatchOperation, BatchWriteRequest, ErrorCode, Eventual, Kind,
};
use tokio::task::JoinSet;

use super::IntoProjection;
use super::deadline::back_off;
use super::error::{ClientError, ProtocolError, UnknownCause};
use super::read::staleness_millis;
use super::table::{Route, Table, Target};
use super::wire::{Lengths, Received, item, not_understood};

/// The result of one key or write of a batch. One cause may have met several of them, so the error
/// is shared.
pub type BatchResult<T> = Result<T, Arc<ClientError>>;

/// Requests of one batch that are under way at a time.
const CONCURRENCY: usize = 16;
/// Room in a frame for everything but the items of a batch.
const OVERHEAD_BYTES: usize = 64 * 1024;
/// A length that says: not read, ask again.
const NOT_READ: u32 = u32::MAX;

/// A part of a batch: indices into it, for one group.
struct Part {
    target: Target,
    table: u64,
    indices: Vec<usize>,
}

/// Cuts `pending` by group, and each group's share by count and bytes.
fn cut(
    route: &Route,
    pending: &[usize],
    place: impl Fn(usize) -> (Target, usize),
    items_max: usize,
) -> Vec<Part> {
    let mut open: BTreeMap<Target, (Vec<usize>, usize)> = BTreeMap::new();
    let mut parts = Vec::new();
    let table = route.id();
    for &index in pending {
        let (target, bytes) = place(index);
        let (indices, used) = open.entry(target).or_default();
        let full = *used + bytes > FRAME_BYTES_MAX - OVERHEAD_BYTES;
        if indices.len() == items_max || (full && !indices.is_empty()) {
            parts.push(Part { target, table, indices: std::mem::take(indices) });
            *used = 0;
        }
        indices.push(index);
        *used += bytes;
    }
    let rest = open.into_iter().map(|(target, (indices, _))| Part { target, table, indices });
    parts.extend(rest);
    parts
}

/// Runs `run` on every part, some at a time, and gathers what each came to, by index.
async fn run_parts<T, F>(parts: Vec<Part>, run: impl Fn(Part) -> F) -> Vec<(usize, BatchResult<T>)>
where
    T: Send + 'static,
    F: Future<Output = Vec<(usize, BatchResult<T>)>> + Send + 'static,
{
    let mut parts = parts.into_iter();
    // Dropped with this future, it ends its tasks.
    let mut running = JoinSet::new();
    let mut done = Vec::new();
    loop {
        while running.len() < CONCURRENCY
            && let Some(part) = parts.next()
        {
            running.spawn(run(part));
        }
        match running.join_next().await {
            None => return done,
            Some(Ok(results)) => done.extend(results),
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// Runs everything, and once again what went by an old description.
async fn run_all<T, F>(
    table: &Table,
    mut route: Route,
    count: usize,
    cut: impl Fn(&Route, &[usize]) -> Result<Vec<Part>, KeyError>,
    run: impl Fn(Part) -> F,
) -> Result<Vec<BatchResult<T>>, ClientError>
where
    T: Send + 'static,
    F: Future<Output = Vec<(usize, BatchResult<T>)>> + Send + 'static,
{
    let mut results: Vec<Option<BatchResult<T>>> = (0..count).map(|_| None).collect();
    let mut pending: Vec<usize> = (0..count).collect();
    // Nothing was sent yet, so an invalid key is the whole batch's error here.
    let mut parts = cut(&route, &pending)?;
    loop {
        pending.clear();
        let mut stale = None;
        for (index, result) in run_parts(parts, &run).await {
            if let Err(error) = &result
                && error.is_stale()
            {
                pending.push(index);
                stale = Some(error.clone());
            }
            results[index] = Some(result);
        }
        let Some(error) = stale else { break };
        // Those that cannot be sent again keep their refusals.
        if !table.refresh(&mut route, &error, table.deadline()).await.unwrap_or(false) {
            break;
        }
        pending.sort_unstable();
        match cut(&route, &pending) {
            Ok(again) => parts = again,
            Err(_) => break,
        }
    }
    Ok(results.into_iter().map(|result| result.expect("every index is in a part")).collect())
}

/// All of a part ends the same way.
fn all<T>(indices: &[usize], error: ClientError) -> Vec<(usize, BatchResult<T>)> {
    let error = Arc::new(error);
    indices.iter().map(|index| (*index, Err(error.clone()))).collect()
}

/// A read of any number of items.
#[derive(Debug)]
#[must_use = "nothing happens until it is sent"]
pub struct BatchGet<'a> {
    table: &'a Table,
    keys: &'a [Item],
    projection: Result<Option<Projection>, ExpressionError>,
    consistent: bool,
    staleness_max: Option<Duration>,
}

/// What the parts of a BatchGet share.
struct Wanted {
    keys: Vec<Vec<u8>>,
    projection: Option<Projection>,
    consistent: bool,
    staleness_max_millis: u32,
}

impl<'a> BatchGet<'a> {
    pub(super) fn new(table: &'a Table, keys: &'a [Item]) -> BatchGet<'a> {
        BatchGet { table, keys, projection: Ok(None), consistent: true, staleness_max: None }
    }

    /// Returns only these attributes.
    pub fn projection(mut self, projection: impl IntoProjection) -> Self {
        self.projection = projection.into_projection().map(Some);
        self
    }

    /// Whether to see every write that was acknowledged before (the default). Otherwise replicas may
    /// answer that lag a little.
    pub fn consistent(mut self, consistent: bool) -> Self {
        self.consistent = consistent;
        self
    }

    /// Lets any replicas answer whose states are certainly no older than this.
    pub fn staleness_max(mut self, max: Duration) -> Self {
        (self.consistent, self.staleness_max) = (false, Some(max));
        self
    }

    /// Reads the items; the results are in the order of the keys. Each stands alone: one that could
    /// not be read carries its error.
    ///
    /// # Errors
    /// If a key is invalid; nothing was sent then.
    pub async fn send(self) -> Result<Vec<BatchResult<Option<Item>>>, ClientError> {
        let (table, route) = (self.table, self.table.route());
        let keys = self.keys.iter().map(Item::to_bytes).collect::<Result<_, ItemError>>()?;
        let wanted = Arc::new(Wanted {
            keys,
            projection: self.projection?,
            consistent: self.consistent,
            staleness_max_millis: staleness_millis(self.staleness_max),
        });
        let cut_keys = |route: &Route, pending: &[usize]| {
            let mut key = KeyBuf::new();
            let mut targets = HashMap::with_capacity(pending.len());
            for index in pending {
                targets.insert(*index, route.of_key(&wanted.keys[*index], &mut key)?);
            }
            let place = |index: usize| (targets[&index], wanted.keys[index].len());
            Ok(cut(route, pending, place, BATCH_GET_ITEMS_MAX))
        };
        let run = |part| get_part(table.clone(), wanted.clone(), part);
        run_all(table, route, wanted.keys.len(), cut_keys, run).await
    }
}

async fn get_part(
    table: Table,
    wanted: Arc<Wanted>,
    part: Part,
) -> Vec<(usize, BatchResult<Option<Item>>)> {
    let mut results = Vec::with_capacity(part.indices.len());
    let mut pending = part.indices;
    while !pending.is_empty() {
        let read = BatchGetRequest {
            table: part.table,
            epoch: part.target.epoch,
            keys: pending.iter().map(|index| &wanted.keys[*index][..]).collect(),
            projection: wanted.projection.clone(),
        };
        // Every reply carries at least one item, so each round gets its own time.
        let deadline = table.deadline();
        let (client, place) = (table.client(), part.target.place);
        let received = if wanted.consistent {
            client.call(place, &read, deadline).await
        } else {
            let staleness_max_millis = wanted.staleness_max_millis;
            client.read(place, &Eventual { read, staleness_max_millis }, false, deadline).await
        };
        let items = received.and_then(|received| {
            read_items(&received, wanted.consistent, pending.len()).map_err(ClientError::Protocol)
        });
        let items = match items {
            Ok(items) => items,
            Err(error) => {
                results.extend(all(&pending, error));
                return results;
            }
        };
        let before = pending.len();
        let mut items = items.into_iter();
        pending.retain(|index| match items.next().expect("as many as were asked for") {
            Fetched::Item(item) => {
                results.push((*index, Ok(item)));
                false
            }
            Fetched::NotRead => true,
        });
        if pending.len() == before {
            let kind = Kind::BatchGetReply as u16;
            results.extend(all(&pending, ClientError::Protocol(ProtocolError::Malformed { kind })));
            return results;
        }
    }
    results
}

enum Fetched {
    Item(Option<Item>),
    NotRead,
}

fn read_items(
    received: &Received,
    consistent: bool,
    count: usize,
) -> Result<Vec<Fetched>, ProtocolError> {
    let kind = Kind::BatchGetReply;
    let malformed = ProtocolError::Malformed { kind: kind as u16 };
    let reply: &ArchivedBatchGetReply<'_> = if consistent {
        received.message(kind)?
    } else {
        &received.eventual::<ArchivedLagging<BatchGetReply<'_>>>(kind)?.reply
    };
    let mut encoded = Lengths::new(reply.items.get());
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        items.push(match encoded.length().ok_or(malformed)? {
            0 => Fetched::Item(None),
            NOT_READ => Fetched::NotRead,
            length => {
                let bytes = encoded.bytes(length).ok_or(malformed)?;
                Fetched::Item(item(Some(bytes), kind)?)
            }
        });
    }
    if encoded.is_empty() { Ok(items) } else { Err(malformed) }
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum BatchWrite {
    /// Store this item, replacing the one with the same key.
    Put(Item),
    /// Remove the item with this key, if it is there.
    Delete(Item),
}

/// A write, encoded: whether it removes, and the key or item.
type Write = (bool, Vec<u8>);

impl BatchWrite {
    fn encode(&self) -> Result<Write, ItemError> {
        match self {
            BatchWrite::Put(item) => Ok((false, item.to_bytes()?)),
            BatchWrite::Delete(key) => Ok((true, key.to_bytes()?)),
        }
    }
}

pub(super) async fn write(
    table: &Table,
    writes: &[BatchWrite],
) -> Result<Vec<BatchResult<()>>, ClientError> {
    let route = table.route();
    let writes: Vec<Write> = writes.iter().map(BatchWrite::encode).collect::<Result<_, _>>()?;
    refuse_duplicates(&route, &writes)?;
    let writes = Arc::new(writes);
    let cut_writes = |route: &Route, pending: &[usize]| {
        let mut key = KeyBuf::new();
        let mut targets = HashMap::with_capacity(pending.len());
        for index in pending {
            targets.insert(*index, locate(route, &writes[*index], &mut key)?);
        }
        let place = |index: usize| (targets[&index], writes[index].1.len());
        Ok(cut(route, pending, place, BATCH_WRITE_ITEMS_MAX))
    };
    let run = |part| write_part(table.clone(), writes.clone(), part);
    run_all(table, route, writes.len(), cut_writes, run).await
}

fn locate(route: &Route, (delete, bytes): &Write, key: &mut KeyBuf) -> Result<Target, KeyError> {
    if *delete { route.of_key(bytes, key) } else { route.of_item(bytes, key) }
}

fn refuse_duplicates(route: &Route, writes: &[Write]) -> Result<(), ClientError> {
    let mut seen = HashMap::with_capacity(writes.len());
    let mut key = KeyBuf::new();
    for (second, write) in writes.iter().enumerate() {
        locate(route, write, &mut key)?;
        if let Some(first) = seen.insert(key.as_bytes().to_vec(), second) {
            return Err(ClientError::DuplicateKey { first, second });
        }
    }
    Ok(())
}

async fn write_part(
    table: Table,
    writes: Arc<Vec<Write>>,
    part: Part,
) -> Vec<(usize, BatchResult<()>)> {
    let deadline = table.deadline();
    let mut results = Vec::with_capacity(part.indices.len());
    let mut pending = part.indices;
    let mut refusals = 0;
    loop {
        let operations = pending.iter().map(|index| {
            let (delete, bytes) = &writes[*index];
            BatchOperation { delete: *delete, bytes }
        });
        let request = BatchWriteRequest {
            table: part.table,
            epoch: part.target.epoch,
            operations: operations.collect(),
        };
        let received = table.client().call(part.target.place, &request, deadline).await;
        let outcomes = received.and_then(|received| {
            read_outcomes(&received, pending.len()).map_err(|error| not_understood(error, true))
        });
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                results.extend(all(&pending, error));
                return results;
            }
        };
        let (mut busy, mut left_by) = (Vec::new(), ErrorCode::Overloaded);
        for (index, outcome) in pending.iter().zip(outcomes) {
            match outcome {
                Outcome::Written => results.push((*index, Ok(()))),
                Outcome::Refused(code @ (ErrorCode::Overloaded | ErrorCode::NotLeader)) => {
                    if code == ErrorCode::NotLeader {
                        table.client().inner.cluster.forget_leader(part.target.place.group);
                    }
                    left_by = code;
                    busy.push(*index);
                }
                Outcome::Refused(code) => results.push((*index, Err(Arc::new(refused(code))))),
                Outcome::Unknown(code) => {
                    let error = not_understood(ProtocolError::ErrorCode { code }, true);
                    results.push((*index, Err(Arc::new(error))));
                }
            }
        }
        pending = busy;
        refusals += 1;
        let may_retry = refusals <= table.client().inner.config.retries_max;
        if pending.is_empty() {
            return results;
        }
        if !may_retry || !deadline.pause(back_off(refusals)).await {
            results.extend(all(&pending, refused(left_by)));
            return results;
        }
    }
}

fn refused(code: ErrorCode) -> ClientError {
    if code.had_no_effect() {
        return ClientError::refused(code, "the node refused this write of the batch");
    }
    let message = String::from("it happened during the batch");
    ClientError::Unknown { cause: UnknownCause::of(code, message) }
}

enum Outcome {
    Written,
    Refused(ErrorCode),
    Unknown(u16),
}

fn read_outcomes(received: &Received, count: usize) -> Result<Vec<Outcome>, ProtocolError> {
    let kind = Kind::BatchWriteReply;
    let reply = received.message::<ArchivedBatchWriteReply>(kind)?;
    if reply.outcomes.len() != count {
        return Err(ProtocolError::Malformed { kind: kind as u16 });
    }
    let outcomes = reply.outcomes.iter().map(|outcome| match outcome.to_native() {
        0 => Outcome::Written,
        code => ErrorCode::from_wire(code).map_or(Outcome::Unknown(code), Outcome::Refused),
    });
    Ok(outcomes.collect())
}
