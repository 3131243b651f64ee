//! Get.

use std::time::Duration;

use forebay_core::expression::{ExpressionError, Projection};
use forebay_core::item::Item;
use forebay_core::key::KeyBuf;
use forebay_core::message::{ArchivedGetReply, GetRequest, Kind};

use super::IntoProjection;
use super::error::ClientError;
use super::table::Table;
use super::wire::item;
use super::write::Encoded;

/// An item to be read.
#[derive(Debug)]
#[must_use = "nothing happens until it is sent"]
pub struct Get<'a> {
    table: &'a Table,
    key: Encoded<'a>,
    projection: Result<Option<Projection>, ExpressionError>,
    consistent: bool,
    timeout: Option<Duration>,
}

impl<'a> Get<'a> {
    pub(super) fn new(table: &'a Table, key: Encoded<'a>) -> Get<'a> {
        Get { table, key, projection: Ok(None), consistent: true, timeout: None }
    }

    /// Returns only these attributes.
    pub fn projection(mut self, projection: impl IntoProjection) -> Self {
        self.projection = projection.into_projection().map(Some);
        self
    }

    /// Whether to see every write that was acknowledged before (the default). Otherwise a replica
    /// may answer that lags a little, at half the cost.
    pub fn consistent(mut self, consistent: bool) -> Self {
        self.consistent = consistent;
        self
    }

    /// How long the operation may take in all, instead of the client's `request_timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Reads the item; None if there is none.
    pub async fn send(self) -> Result<Option<Item>, ClientError> {
        let (table, mut route) = (self.table, self.table.route());
        let deadline = table.deadline_of(self.timeout);
        let key_item = self.key?;
        let mut key = KeyBuf::new();
        let mut request = GetRequest {
            table: 0,
            epoch: 0,
            key: &key_item,
            projection: self.projection?,
            consistent: self.consistent,
        };
        loop {
            let target = route.of_key(&key_item, &mut key)?;
            (request.table, request.epoch) = (route.id(), target.epoch);
            let received = match table
                .client()
                .read(target.place, &request, self.consistent, deadline)
                .await
            {
                Ok(received) => received,
                Err(error) if table.refresh(&mut route, &error, deadline).await? => continue,
                Err(error) => return Err(error),
            };
            return received
                .message::<ArchivedGetReply<'_>>(Kind::GetReply)
                .and_then(|reply| item(reply.item.as_ref().map(|item| item.get()), Kind::GetReply))
                .map_err(ClientError::Protocol);
        }
    }
}
