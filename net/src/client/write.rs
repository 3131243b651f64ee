//! Put, Delete and Update.

use std::borrow::Cow;
use std::time::Duration;

use forebay_core::expression::{self, Condition, ExpressionError};
use forebay_core::item::{Item, ItemError};
use forebay_core::key::KeyBuf;
use forebay_core::message::{
    ArchivedWriteReply, DeleteRequest, Kind, PutRequest, ReturnValues, UpdateRequest,
};

use super::IntoCondition;
use super::error::ClientError;
use super::table::Table;
use super::wire::{Received, item, not_understood};

/// The encoding of an item or key, borrowed or made from an owned one.
pub(super) type Encoded<'a> = Result<Cow<'a, [u8]>, ItemError>;

type MaybeCondition = Result<Option<Condition>, ExpressionError>;

/// What a write returned.
fn returned(received: &Received) -> Result<Option<Item>, ClientError> {
    received
        .message::<ArchivedWriteReply<'_>>(Kind::WriteReply)
        .and_then(|reply| item(reply.attributes.as_ref().map(|item| item.get()), Kind::WriteReply))
        .map_err(|error| not_understood(error, true))
}

/// What all writes can be told.
macro_rules! condition_methods {
    () => {
        /// Writes only if this holds for the current item; otherwise
        /// [`ClientError::condition_failed`].
        pub fn condition(mut self, condition: impl IntoCondition) -> Self {
            self.condition = condition.into_condition().map(Some);
            self
        }

        /// Returns the current item in the error when the condition does not hold.
        pub fn return_old_on_failure(mut self) -> Self {
            self.return_old_on_failure = true;
            self
        }

        /// How long the operation may take in all, instead of the client's `request_timeout`.
        pub fn timeout(mut self, timeout: Duration) -> Self {
            self.timeout = Some(timeout);
            self
        }
    };
}

/// An item to be stored.
#[derive(Debug)]
#[must_use = "nothing happens until it is sent"]
pub struct Put<'a> {
    table: &'a Table,
    item: Encoded<'a>,
    condition: MaybeCondition,
    return_values: ReturnValues,
    return_old_on_failure: bool,
    timeout: Option<Duration>,
}

impl<'a> Put<'a> {
    pub(super) fn new(table: &'a Table, item: Encoded<'a>) -> Put<'a> {
        Put {
            table,
            item,
            condition: Ok(None),
            return_values: ReturnValues::None,
            return_old_on_failure: false,
            timeout: None,
        }
    }

    condition_methods!();

    /// Returns the item that was replaced.
    pub fn return_old(mut self) -> Self {
        self.return_values = ReturnValues::AllOld;
        self
    }

    /// Stores the item. Returns the old one if that was asked for and there was one.
    pub async fn send(self) -> Result<Option<Item>, ClientError> {
        let (table, mut route) = (self.table, self.table.route());
        let deadline = table.deadline_of(self.timeout);
        let item = self.item?;
        let mut key = KeyBuf::new();
        let mut request = PutRequest {
            table: 0,
            epoch: 0,
            item: &item,
            condition: self.condition?,
            return_values: self.return_values,
            return_old_on_failure: self.return_old_on_failure,
        };
        loop {
            let target = route.of_item(&item, &mut key)?;
            (request.table, request.epoch) = (route.id(), target.epoch);
            match table.client().call(target.place, &request, deadline).await {
                Ok(received) => return returned(&received),
                Err(error) if table.refresh(&mut route, &error, deadline).await? => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// An item to be removed.
#[derive(Debug)]
#[must_use = "nothing happens until it is sent"]
pub struct Delete<'a> {
    table: &'a Table,
    key: Encoded<'a>,
    condition: MaybeCondition,
    return_values: ReturnValues,
    return_old_on_failure: bool,
    timeout: Option<Duration>,
}

impl<'a> Delete<'a> {
    pub(super) fn new(table: &'a Table, key: Encoded<'a>) -> Delete<'a> {
        Delete {
            table,
            key,
            condition: Ok(None),
            return_values: ReturnValues::None,
            return_old_on_failure: false,
            timeout: None,
        }
    }

    condition_methods!();

    /// Returns the item that was removed.
    pub fn return_old(mut self) -> Self {
        self.return_values = ReturnValues::AllOld;
        self
    }

    /// Removes the item. Returns it if that was asked for and there was one.
    pub async fn send(self) -> Result<Option<Item>, ClientError> {
        let (table, mut route) = (self.table, self.table.route());
        let deadline = table.deadline_of(self.timeout);
        let key_item = self.key?;
        let mut key = KeyBuf::new();
        let mut request = DeleteRequest {
            table: 0,
            epoch: 0,
            key: &key_item,
            condition: self.condition?,
            return_values: self.return_values,
            return_old_on_failure: self.return_old_on_failure,
        };
        loop {
            let target = route.of_key(&key_item, &mut key)?;
            (request.table, request.epoch) = (route.id(), target.epoch);
            match table.client().call(target.place, &request, deadline).await {
                Ok(received) => return returned(&received),
                Err(error) if table.refresh(&mut route, &error, deadline).await? => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What an update returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateReturn {
    /// The whole item before the update.
    AllOld,
    /// The attributes that the update touched, before it.
    UpdatedOld,
    /// The whole item after the update.
    AllNew,
    /// The attributes that the update touched, after it.
    UpdatedNew,
}

/// A change of an item.
#[derive(Debug)]
#[must_use = "nothing happens until it is sent"]
pub struct Update<'a> {
    table: &'a Table,
    key: Encoded<'a>,
    update: Result<expression::Update, ExpressionError>,
    condition: MaybeCondition,
    return_values: ReturnValues,
    return_old_on_failure: bool,
    timeout: Option<Duration>,
}

impl<'a> Update<'a> {
    pub(super) fn new(
        table: &'a Table,
        key: Encoded<'a>,
        update: Result<expression::Update, ExpressionError>,
    ) -> Update<'a> {
        Update {
            table,
            key,
            update,
            condition: Ok(None),
            return_values: ReturnValues::None,
            return_old_on_failure: false,
            timeout: None,
        }
    }

    condition_methods!();

    /// Returns the item, or what was changed of it.
    pub fn returning(mut self, values: UpdateReturn) -> Self {
        self.return_values = match values {
            UpdateReturn::AllOld => ReturnValues::AllOld,
            UpdateReturn::UpdatedOld => ReturnValues::UpdatedOld,
            UpdateReturn::AllNew => ReturnValues::AllNew,
            UpdateReturn::UpdatedNew => ReturnValues::UpdatedNew,
        };
        self
    }

    /// Changes the item. Returns what was asked for, if there is any of it.
    pub async fn send(self) -> Result<Option<Item>, ClientError> {
        let (table, mut route) = (self.table, self.table.route());
        let deadline = table.deadline_of(self.timeout);
        let key_item = self.key?;
        let mut key = KeyBuf::new();
        let mut request = UpdateRequest {
            table: 0,
            epoch: 0,
            key: &key_item,
            update: self.update?,
            condition: self.condition?,
            return_values: self.return_values,
            return_old_on_failure: self.return_old_on_failure,
        };
        loop {
            let target = route.of_key(&key_item, &mut key)?;
            (request.table, request.epoch) = (route.id(), target.epoch);
            match table.client().call(target.place, &request, deadline).await {
                Ok(received) => return returned(&received),
                Err(error) if table.refresh(&mut route, &error, deadline).await? => {}
                Err(error) => return Err(error),
            }
        }
    }
}
