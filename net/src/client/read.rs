//! Get, and what all reads have in common: how fresh they must be.

use std::time::Duration;

use forebay_core::expression::{ExpressionError, Projection};
use forebay_core::item::Item;
use forebay_core::key::KeyBuf;
use forebay_core::message::{
    ArchivedGetReply, ArchivedLag, ArchivedLagging, Eventual, GetReply, GetRequest, Kind, Lag,
};

use super::IntoProjection;
use super::error::{ClientError, ProtocolError};
use super::table::Table;
use super::wire::{Received, item};
use super::write::Encoded;

/// How far behind the leader's the state may be that answered a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadLag {
    /// Entries that the replica knew of and had not applied.
    pub behind_slots: u64,
    /// Since it last knew that it had everything; None if it never knew, as after its start.
    pub age: Option<Duration>,
}

impl ReadLag {
    /// Of a strong read.
    pub const NONE: ReadLag = ReadLag { behind_slots: 0, age: Some(Duration::ZERO) };
}

impl From<&ArchivedLag> for ReadLag {
    fn from(lag: &ArchivedLag) -> ReadLag {
        let Lag { behind_slots, age_millis } = lag.into();
        let age = (age_millis != Lag::UNKNOWN_AGE).then(|| Duration::from_millis(age_millis));
        ReadLag { behind_slots, age }
    }
}

/// As the wire has it: whole milliseconds, and 0 for any age.
pub(super) fn staleness_millis(max: Option<Duration>) -> u32 {
    max.map_or(0, |max| u32::try_from(max.as_millis()).unwrap_or(u32::MAX).max(1))
}

/// An item to be read.
#[derive(Debug)]
#[must_use = "nothing happens until it is sent"]
pub struct Get<'a> {
    table: &'a Table,
    key: Encoded<'a>,
    projection: Result<Option<Projection>, ExpressionError>,
    consistent: bool,
    staleness_max: Option<Duration>,
    timeout: Option<Duration>,
}

impl<'a> Get<'a> {
    pub(super) fn new(table: &'a Table, key: Encoded<'a>) -> Get<'a> {
        Get {
            table,
            key,
            projection: Ok(None),
            consistent: true,
            staleness_max: None,
            timeout: None,
        }
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

    /// Lets any replica answer whose state is certainly no older than this (DynamoDB's eventual read,
    /// with a bound); others refuse, and the leader is asked in the end.
    pub fn staleness_max(mut self, max: Duration) -> Self {
        (self.consistent, self.staleness_max) = (false, Some(max));
        self
    }

    /// How long the operation may take in all, instead of the client's `request_timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Reads the item; None if there is none.
    pub async fn send(self) -> Result<Option<Item>, ClientError> {
        let bounded = self.staleness_max.is_some();
        self.ask(bounded).await.map(|(item, _)| item)
    }

    /// Reads the item, and says how far behind the leader's state the one may be that it is from.
    pub async fn send_with_lag(self) -> Result<(Option<Item>, ReadLag), ClientError> {
        let lagging = !self.consistent;
        self.ask(lagging).await
    }

    /// Asks until a member answers that may; one whose state may be `lagging` says how far.
    async fn ask(self, lagging: bool) -> Result<(Option<Item>, ReadLag), ClientError> {
        let (table, mut route) = (self.table, self.table.route());
        let deadline = table.deadline_of(self.timeout);
        let key_item = self.key?;
        let mut key = KeyBuf::new();
        let read = GetRequest {
            table: 0,
            epoch: 0,
            key: &key_item,
            projection: self.projection?,
            consistent: self.consistent,
        };
        let staleness_max_millis = staleness_millis(self.staleness_max);
        let mut request = Eventual { read, staleness_max_millis };
        loop {
            let target = route.of_key(&key_item, &mut key)?;
            (request.read.table, request.read.epoch) = (route.id(), target.epoch);
            let (client, place) = (table.client(), target.place);
            let received = match lagging {
                true => client.read(place, &request, false, deadline).await,
                false => client.read(place, &request.read, self.consistent, deadline).await,
            };
            match received {
                Ok(received) => return found(&received, lagging).map_err(ClientError::Protocol),
                Err(error) if table.refresh(&mut route, &error, deadline).await? => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What the answer to a Get says.
fn found(received: &Received, lagging: bool) -> Result<(Option<Item>, ReadLag), ProtocolError> {
    let (reply, lag): (&ArchivedGetReply<'_>, _) = if lagging {
        let answer = received.eventual::<ArchivedLagging<GetReply<'_>>>(Kind::GetReply)?;
        (&answer.reply, ReadLag::from(&answer.lag))
    } else {
        (received.message::<ArchivedGetReply<'_>>(Kind::GetReply)?, ReadLag::NONE)
    };
    Ok((item(reply.item.as_ref().map(|item| item.get()), Kind::GetReply)?, lag))
}
