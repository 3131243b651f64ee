//! What [`crate::liveness`] says, on the wire: one frame for each message, a few a second.

use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use super::error::PeerError;
use crate::liveness::{Epoch, PairMessage, Peer};
use crate::time::Nanos;

/// Shards whose support one heartbeat claims, at most: 1024 nodes of 16 shards.
pub const CLAIMS_MAX: usize = 16_384;

/// Bytes came, so the sender lives; says nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct KeepAlive {
    /// How many of them went before on this connection; for people who look at packets.
    pub count: u64,
}

/// [`PairMessage::Heartbeat`]
#[derive(Debug, Archive, Serialize)]
pub struct Heartbeat<'a> {
    /// Of the sender.
    pub incarnation: u64,
    /// On the sender's clock, in nanoseconds.
    pub sent_at: u64,
    /// [`Peer`]s.
    #[rkyv(with = InlineAsBox)]
    pub claims: &'a [u32],
}

/// [`PairMessage::Ack`]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Ack {
    /// The heartbeat's incarnation.
    pub incarnation: u64,
    /// The heartbeat's `sent_at`.
    pub echo: u64,
    /// Of the epoch.
    pub epoch_incarnation: u64,
    /// Of the epoch.
    pub epoch_count: u32,
}

/// [`PairMessage::Ask`]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize)]
pub struct Ask {
    /// The silent [`Peer`].
    pub about: u32,
}

/// [`PairMessage::Answer`]
#[derive(Debug, Archive, Serialize)]
pub struct Answer<'a> {
    /// The [`Peer`] asked about.
    pub about: u32,
    /// The answering shard supports it.
    pub hears: bool,
    /// [`Peer`]s that its last heartbeat claimed.
    #[rkyv(with = InlineAsBox)]
    pub claims: &'a [u32],
}

fn claims(archived: &[rkyv::rend::u32_le]) -> Result<Vec<Peer>, PeerError> {
    let count = archived.len();
    if count > CLAIMS_MAX {
        return Err(PeerError::TooMany { what: "claims", count, max: CLAIMS_MAX });
    }
    Ok(archived.iter().map(|peer| Peer(peer.to_native())).collect())
}

impl ArchivedHeartbeat<'_> {
    pub(super) fn to_message(&self) -> Result<PairMessage, PeerError> {
        Ok(PairMessage::Heartbeat {
            incarnation: self.incarnation.to_native(),
            sent_at: Nanos(self.sent_at.to_native()),
            claims: claims(&self.claims)?,
        })
    }
}

impl ArchivedAck {
    pub(super) fn to_message(&self) -> PairMessage {
        PairMessage::Ack {
            incarnation: self.incarnation.to_native(),
            echo: Nanos(self.echo.to_native()),
            epoch: Epoch {
                incarnation: self.epoch_incarnation.to_native(),
                count: self.epoch_count.to_native(),
            },
        }
    }
}

impl ArchivedAsk {
    pub(super) fn to_message(&self) -> PairMessage {
        PairMessage::Ask { about: Peer(self.about.to_native()) }
    }
}

impl ArchivedAnswer<'_> {
    pub(super) fn to_message(&self) -> Result<PairMessage, PeerError> {
        Ok(PairMessage::Answer {
            about: Peer(self.about.to_native()),
            hears: self.hears,
            claims: claims(&self.claims)?,
        })
    }
}
