//! Put, Delete, Update and BatchWrite.
//!
//! An unconditional Put reads nothing: it is validated, logged, and answered when it is chosen.
//! A write that needs the current item evaluates against the newest state including entries still
//! in flight on that key, so that two conditional writes in a row see each other; whatever it
//! answers from such a state waits until that state is chosen.

use std::borrow::Cow;

use forebay_core::expression::ArchivedCondition;
use forebay_core::item::ItemRef;
use forebay_core::limits::BATCH_WRITE_ITEMS_MAX;
use forebay_core::message::{
    ArchivedBatchOperation, ArchivedBatchWriteRequest, ArchivedDeleteRequest, ArchivedPutRequest,
    ArchivedReturnValues, ArchivedUpdateRequest, ErrorCode,
};
use forebay_core::planted::{self, Flaw};
use forebay_core::time::Nanos;
use forebay_storage::store::{Current, GroupOrdinal, Refused, Ticket};
use rkyv::option::ArchivedOption;

use super::read::damaged;
use super::refusal::Refusal;
use super::replicated::Mark;
use super::request::{Outcome, Progress};
use super::{Asker, Shard, WaitingReply};

fn check_condition(condition: &ArchivedOption<ArchivedCondition>) -> Result<(), Refusal> {
    match condition {
        ArchivedOption::Some(condition) => condition.check().map_err(Refusal::from),
        ArchivedOption::None => Ok(()),
    }
}

fn refuse_return_values(wanted: ArchivedReturnValues) -> Result<(), Refusal> {
    match wanted {
        ArchivedReturnValues::None | ArchivedReturnValues::AllOld => Ok(()),
        _ => Err(Refusal::constant(
            ErrorCode::InvalidRequest,
            "this operation returns no values or all old ones",
        )),
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Refusal {
        let code = match refused {
            Refused::Overloaded => ErrorCode::Overloaded,
            Refused::DiskFull { .. } => ErrorCode::DiskFull,
            Refused::TooLarge { .. } => ErrorCode::ItemTooLarge,
            Refused::Failed => ErrorCode::ShardFailed,
            Refused::Closing => ErrorCode::ShuttingDown,
        };
        let refusal = Refusal::new(code, refused.to_string());
        if matches!(refused, Refused::Overloaded) {
            refusal.retry_after(5 * Nanos::PER_MILLI)
        } else {
            refusal
        }
    }
}

/// Checks what an update made of the item, and picks what was asked to be returned.
fn returned(
    request: &ArchivedUpdateRequest<'_>,
    old: Option<ItemRef<'_>>,
    new: &[u8],
) -> Result<Option<Vec<u8>>, Refusal> {
    let new_item = ItemRef::validate(new)?;
    let touched = |item| -> Result<Vec<u8>, Refusal> {
        let mut bytes = Vec::new();
        request.update.updated_into(item, &mut bytes)?;
        Ok(bytes)
    };
    Ok(match request.return_values {
        ArchivedReturnValues::None => None,
        ArchivedReturnValues::AllOld => old.map(|old| old.bytes().to_vec()),
        ArchivedReturnValues::AllNew => Some(new.to_vec()),
        ArchivedReturnValues::UpdatedOld => old.map(touched).transpose()?,
        ArchivedReturnValues::UpdatedNew => Some(touched(new_item)?),
    })
}

/// How far a BatchWrite is.
#[derive(Debug)]
pub(super) struct BatchProgress {
    /// Of the operations begun (or refused for good), in order.
    outcomes: Vec<u16>,
    /// How many there are in all.
    operations: usize,
    /// The last write begun, in each group.
    marks: Vec<Mark>,
}

impl BatchProgress {
    /// Whether nothing was done yet.
    fn is_untouched(&self) -> bool {
        self.outcomes.is_empty()
    }

    fn waits_for(&mut self, mark: Mark) {
        let same = |other: &Mark| match (mark, *other) {
            (Mark::Ticket(_), Mark::Ticket(_)) => true,
            (Mark::Slot(group, _, reign), Mark::Slot(other, _, its)) => {
                group == other && reign == its
            }
            _ => false,
        };
        match self.marks.iter_mut().find(|other| same(other)) {
            Some(earlier) => *earlier = mark,
            None => self.marks.push(mark),
        }
    }
}

/// The current item of `self.key`, copied to `self.old` if there is one.
struct CurrentItem {
    exists: bool,
    /// Some of it is not chosen yet.
    in_flight: bool,
}

/// What [`Shard::evaluate`] found.
enum Evaluated {
    /// Go on; the current item was read.
    Holds(CurrentItem),
    /// Answered, or waiting for a page.
    Stop(Outcome),
}

impl Shard {
    pub(super) fn put(
        &mut self,
        asker: Asker,
        request: &ArchivedPutRequest<'_>,
    ) -> Result<Outcome, Refusal> {
        refuse_return_values(request.return_values)?;
        check_condition(&request.condition)?;
        let (table, epoch) = (request.table.to_native(), request.epoch.to_native());
        let group = self.locate_item(table, epoch, &request.item)?;
        let wants_old = request.return_values == ArchivedReturnValues::AllOld;
        let mut old_exists = false;
        if wants_old || request.condition.is_some() {
            let current = match self.evaluate(
                asker,
                group,
                &request.condition,
                request.return_old_on_failure,
            )? {
                Evaluated::Holds(current) => current,
                Evaluated::Stop(outcome) => return Ok(outcome),
            };
            old_exists = current.exists;
        }
        let Some(mark) = self.begin_write(group, Some(&request.item))? else {
            return Ok(Outcome::Stall(None));
        };
        self.answer_write(asker, mark, wants_old && old_exists);
        Ok(Outcome::Done)
    }

    pub(super) fn delete(
        &mut self,
        asker: Asker,
        request: &ArchivedDeleteRequest<'_>,
    ) -> Result<Outcome, Refusal> {
        refuse_return_values(request.return_values)?;
        check_condition(&request.condition)?;
        let (table, epoch) = (request.table.to_native(), request.epoch.to_native());
        let group = self.locate_key(table, epoch, &request.key)?;
        let wants_old = request.return_values == ArchivedReturnValues::AllOld;
        let mut old_exists = false;
        if wants_old || request.condition.is_some() {
            let current = match self.evaluate(
                asker,
                group,
                &request.condition,
                request.return_old_on_failure,
            )? {
                Evaluated::Holds(current) => current,
                Evaluated::Stop(outcome) => return Ok(outcome),
            };
            old_exists = current.exists;
        }
        let Some(mark) = self.begin_write(group, None)? else { return Ok(Outcome::Stall(None)) };
        self.answer_write(asker, mark, wants_old && old_exists);
        Ok(Outcome::Done)
    }

    pub(super) fn update(
        &mut self,
        asker: Asker,
        request: &ArchivedUpdateRequest<'_>,
    ) -> Result<Outcome, Refusal> {
        check_condition(&request.condition)?;
        let (table, epoch) = (request.table.to_native(), request.epoch.to_native());
        let group = self.locate_key(table, epoch, &request.key)?;
        let schema = &self.tables.get(table)?.description.schema;
        let names = [Some(&schema.partition), schema.sort.as_ref()];
        let names = names.map(|key| key.map_or("", |key| key.name.as_str()));
        request.update.check(&names[..schema.attributes()])?;
        let current =
            match self.evaluate(asker, group, &request.condition, request.return_old_on_failure)? {
                Evaluated::Holds(current) => current,
                Evaluated::Stop(outcome) => return Ok(outcome),
            };
        let old = current.exists.then(|| ItemRef::trusted(&self.old));
        let mut new = std::mem::take(&mut self.scratch);
        new.clear();
        let applied = request.update.apply_into(old, ItemRef::trusted(&request.key), &mut new);
        let done = match applied {
            Ok(Some(_)) => self.write_updated(asker, request, group, &current, &new),
            // Nothing to remove from an item that is not there.
            Ok(None) => {
                self.answer_derived(asker, group, current.in_flight);
                Ok(Outcome::Done)
            }
            Err(error) => Ok(self.refuse_derived(asker, group, current.in_flight, error.into())),
        };
        self.scratch = new;
        done
    }

    /// Logs what an update made of the item, and queues the reply that was asked for.
    fn write_updated(
        &mut self,
        asker: Asker,
        request: &ArchivedUpdateRequest<'_>,
        group: GroupOrdinal,
        current: &CurrentItem,
        new: &[u8],
    ) -> Result<Outcome, Refusal> {
        let old = current.exists.then(|| ItemRef::trusted(&self.old));
        let attributes = match returned(request, old, new) {
            Ok(attributes) => attributes,
            // What is too large now was made of the current item, which may be in flight.
            Err(refusal) => {
                return Ok(self.refuse_derived(asker, group, current.in_flight, refusal));
            }
        };
        let Some(mark) = self.begin_write(group, Some(new))? else {
            return Ok(Outcome::Stall(None));
        };
        let reply = attributes.map_or(WaitingReply::Written, WaitingReply::Attributes);
        self.answer_later(asker, mark, reply);
        Ok(Outcome::Done)
    }

    pub(super) fn batch_write(
        &mut self,
        asker: Asker,
        request: &ArchivedBatchWriteRequest<'_>,
        progress: Option<Box<Progress>>,
    ) -> Result<Outcome, Refusal> {
        let operations = &request.operations;
        let (table, epoch) = (request.table.to_native(), request.epoch.to_native());
        let mut batch = match progress.map(|progress| *progress) {
            Some(Progress::Writes(batch)) => batch,
            _ => self.check_batch(request)?,
        };
        for operation in operations.iter().skip(batch.outcomes.len()) {
            let group = self.locate_operation(table, epoch, operation)?;
            let item = (!operation.delete).then_some(&operation.bytes[..]);
            let outcome = match self.begin_write(group, item) {
                Ok(Some(mark)) => {
                    batch.waits_for(mark);
                    0
                }
                Ok(None) => {
                    let progress = Box::new(Progress::Writes(batch));
                    return Ok(Outcome::Stall(Some(progress)));
                }
                Err(refusal) if refusal.code == ErrorCode::NotLeader && batch.is_untouched() => {
                    return Err(refusal);
                }
                Err(refusal) => refusal.code as u16,
            };
            batch.outcomes.push(outcome);
        }
        self.answer_batch(asker, batch);
        Ok(Outcome::Done)
    }

    /// All are checked before any is begun: a bad batch writes nothing.
    fn check_batch(
        &mut self,
        request: &ArchivedBatchWriteRequest<'_>,
    ) -> Result<BatchProgress, Refusal> {
        let operations = &request.operations;
        if operations.is_empty() || operations.len() > BATCH_WRITE_ITEMS_MAX {
            return Err(Refusal::new(
                ErrorCode::InvalidRequest,
                format!("{} writes in a batch, 1 to {BATCH_WRITE_ITEMS_MAX}", operations.len()),
            ));
        }
        let (table, epoch) = (request.table.to_native(), request.epoch.to_native());
        let mut keys: Vec<Vec<u8>> = Vec::with_capacity(operations.len());
        for operation in operations.iter() {
            self.locate_operation(table, epoch, operation)?;
            if keys.iter().any(|key| key == self.key.as_bytes()) {
                return Err(Refusal::constant(
                    ErrorCode::InvalidRequest,
                    "two writes of one batch have the same key",
                ));
            }
            keys.push(self.key.as_bytes().to_vec());
        }
        let outcomes = Vec::with_capacity(operations.len());
        Ok(BatchProgress { outcomes, operations: operations.len(), marks: Vec::new() })
    }

    /// Answers a batch whose rest will not be begun, because of `code`.
    pub(super) fn end_batch(&mut self, asker: Asker, mut batch: BatchProgress, code: ErrorCode) {
        batch.outcomes.resize(batch.operations, code as u16);
        self.answer_batch(asker, batch);
    }

    fn answer_batch(&mut self, asker: Asker, batch: BatchProgress) {
        // Nothing was read: a batch of which nothing was begun depends on nothing.
        let BatchProgress { outcomes, mut marks, .. } = batch;
        let first = marks.pop().unwrap_or(Mark::Ticket(Ticket::default()));
        self.answer_later(asker, first, WaitingReply::Batch(outcomes, marks));
    }

    fn locate_operation(
        &mut self,
        table: u64,
        epoch: u64,
        operation: &ArchivedBatchOperation<'_>,
    ) -> Result<GroupOrdinal, Refusal> {
        if operation.delete {
            self.locate_key(table, epoch, &operation.bytes)
        } else {
            self.locate_item(table, epoch, &operation.bytes)
        }
    }

    /// Validates the item, leaves its encoded key in `self.key` and finds its group.
    fn locate_item(
        &mut self,
        table: u64,
        epoch: u64,
        item: &[u8],
    ) -> Result<GroupOrdinal, Refusal> {
        let item = ItemRef::validate(item)?;
        let table = self.tables.get(table)?;
        let description = &table.description;
        description.schema.extract_from_item(&description.hash_seed, item, &mut self.key)?;
        table.group_for(self.key.as_key().hash(), epoch)
    }

    /// Reads the current item of `self.key` into `self.old` and evaluates `condition` on it.
    fn evaluate(
        &mut self,
        asker: Asker,
        group: GroupOrdinal,
        condition: &ArchivedOption<ArchivedCondition>,
        return_old_on_failure: bool,
    ) -> Result<Evaluated, Refusal> {
        if let Err(refusal) = self.readable(group) {
            return match self.takes_over(group) {
                true => Ok(Evaluated::Stop(Outcome::Stall(None))),
                false => Err(refusal),
            };
        }
        self.old.clear();
        let current = match self.store.current(group, self.key.as_bytes(), &mut self.old) {
            Current::Item { in_flight } => CurrentItem { exists: true, in_flight },
            Current::Absent { in_flight } => CurrentItem { exists: false, in_flight },
            Current::Wait(page) => return Ok(Evaluated::Stop(Outcome::Wait(page, None))),
            Current::Damaged => return Err(damaged()),
        };
        let ArchivedOption::Some(condition) = condition else {
            return Ok(Evaluated::Holds(current));
        };
        let old = current.exists.then(|| ItemRef::trusted(&self.old));
        let refusal = match condition.evaluate(old) {
            Ok(true) => return Ok(Evaluated::Holds(current)),
            Ok(false) => Refusal {
                code: ErrorCode::ConditionFailed,
                message: Cow::Borrowed("the condition does not hold"),
                retry_after_micros: 0,
                item: (return_old_on_failure && current.exists).then(|| self.old.clone()),
                leader: None,
            },
            Err(error) => error.into(),
        };
        Ok(Evaluated::Stop(self.refuse_derived(asker, group, current.in_flight, refusal)))
    }

    /// Refuses for a reason that was read from the current item: at once if all of it is chosen,
    /// otherwise when it is.
    fn refuse_derived(
        &mut self,
        asker: Asker,
        group: GroupOrdinal,
        in_flight: bool,
        refusal: Refusal,
    ) -> Outcome {
        if in_flight && !planted::has(Flaw::AnswerFromInFlight) {
            let mark = self.last_mark(group);
            self.answer_later(asker, mark, WaitingReply::Refused(Box::new(refusal)));
        } else {
            self.refuse(asker, &refusal);
        }
        Outcome::Done
    }

    /// Says that nothing was to be done, as soon as what that was derived from is chosen.
    fn answer_derived(&mut self, asker: Asker, group: GroupOrdinal, in_flight: bool) {
        if in_flight {
            let mark = self.last_mark(group);
            self.answer_later(asker, mark, WaitingReply::Written);
        } else {
            self.connections.reply_alike(asker.conn, asker.correlation, &self.written);
            self.answered(asker);
        }
    }

    fn answer_write(&mut self, asker: Asker, mark: Mark, with_old: bool) {
        let reply = if with_old {
            WaitingReply::Attributes(self.old.clone())
        } else {
            WaitingReply::Written
        };
        self.answer_later(asker, mark, reply);
    }
}
