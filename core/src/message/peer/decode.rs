//! From a frame's kind, version and payload to what it says.

use rkyv::Portable;
use rkyv::api::high::{HighDeserializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;

use super::batch::BatchReader;
use super::batch::Route;
use super::error::PeerError;
use super::hello::{
    ArchivedHello, ArchivedHelloRefused, ArchivedWelcome, Hello, HelloRefusal, HelloRefused,
    Welcome,
};
use super::member::{ArchivedMemberFrame, MemberStep};
use super::pair::{ArchivedAck, ArchivedAnswer, ArchivedAsk, ArchivedHeartbeat, ArchivedKeepAlive};
use super::snapshot::{
    ArchivedSnapshotAsk, ArchivedSnapshotNote, ArchivedSnapshotPart, SnapshotMessage,
};
use super::table::{ArchivedTableStep, StepKind};
use super::{HANDSHAKE_FRAME_BYTES_MAX, PeerKind};
use crate::ids::TableId;
use crate::liveness::PairMessage;

/// What a frame from a peer says. All of it was validated.
#[derive(Debug)]
pub enum PeerFrame<'a> {
    /// A greeting.
    Hello(Hello),
    /// Its answer.
    Welcome(Welcome),
    /// Its refusal.
    Refused(HelloRefusal),
    /// Nothing.
    KeepAlive,
    /// For [`crate::liveness::Liveness::receive`].
    Pair(PairMessage),
    /// For the groups.
    Groups(BatchReader<'a>),
    /// For the tables; the description is only bounded.
    Table(StepKind, TableId, &'a [u8]),
    /// For the groups' members; payload and topology are only bounded.
    Member(MemberStep),
    /// About a snapshot: between whom, of which transfer, and what.
    Snapshot(Route, u64, SnapshotMessage<'a>),
}

struct Payload<'a> {
    kind: PeerKind,
    bytes: &'a [u8],
}

impl<'a> Payload<'a> {
    fn access<T>(&self) -> Result<&'a T, PeerError>
    where
        T: Portable + for<'c> CheckBytes<HighValidator<'c, Failure>>,
    {
        let error = PeerError::Archive { kind: self.kind as u16, bytes: self.bytes.len() };
        rkyv::access::<T, Failure>(self.bytes).map_err(|_| error)
    }

    fn owned<T, A>(&self) -> Result<T, PeerError>
    where
        A: Portable
            + for<'c> CheckBytes<HighValidator<'c, Failure>>
            + rkyv::Deserialize<T, HighDeserializer<Failure>>,
    {
        let archived = self.access::<A>()?;
        let error = PeerError::Archive { kind: self.kind as u16, bytes: self.bytes.len() };
        rkyv::deserialize::<T, Failure>(archived).map_err(|_| error)
    }
}

/// Reads a payload, which must be aligned to 16 bytes, as frames are.
///
/// # Errors
/// What is wrong with it. Nothing of the frame may be used.
pub fn decode(kind: u16, version: u16, payload: &[u8]) -> Result<PeerFrame<'_>, PeerError> {
    let known = PeerKind::from_wire(kind).ok_or(PeerError::Kind { kind })?;
    if version != known.version() {
        return Err(PeerError::Version { kind, version });
    }
    let handshake = matches!(known, PeerKind::Hello | PeerKind::Welcome | PeerKind::HelloRefused);
    let (count, max) = (payload.len(), HANDSHAKE_FRAME_BYTES_MAX);
    if handshake && count > max {
        return Err(PeerError::TooMany { what: "bytes of a greeting", count, max });
    }
    let payload = Payload { kind: known, bytes: payload };
    Ok(match known {
        PeerKind::Hello => PeerFrame::Hello(payload.owned::<Hello, ArchivedHello>()?.check()?),
        PeerKind::Welcome => {
            PeerFrame::Welcome(payload.owned::<Welcome, ArchivedWelcome>()?.check()?)
        }
        PeerKind::HelloRefused => {
            let refused = payload.owned::<HelloRefused, ArchivedHelloRefused>()?;
            PeerFrame::Refused(refused.check()?)
        }
        PeerKind::KeepAlive => {
            payload.access::<ArchivedKeepAlive>()?;
            PeerFrame::KeepAlive
        }
        PeerKind::Heartbeat => {
            PeerFrame::Pair(payload.access::<ArchivedHeartbeat<'_>>()?.to_message()?)
        }
        PeerKind::Ack => PeerFrame::Pair(payload.access::<ArchivedAck>()?.to_message()),
        PeerKind::Ask => PeerFrame::Pair(payload.access::<ArchivedAsk>()?.to_message()),
        PeerKind::Answer => PeerFrame::Pair(payload.access::<ArchivedAnswer<'_>>()?.to_message()?),
        PeerKind::TableStep => {
            let step = payload.access::<ArchivedTableStep<'_>>()?;
            let (kind, table) = step.check()?;
            PeerFrame::Table(kind, table, &step.description)
        }
        PeerKind::MemberStep => {
            PeerFrame::Member(payload.access::<ArchivedMemberFrame<'_>>()?.to_step()?)
        }
        PeerKind::SnapshotAsk => {
            let (route, of, ask) = payload.access::<ArchivedSnapshotAsk<'_>>()?.check()?;
            PeerFrame::Snapshot(route, of, ask)
        }
        PeerKind::SnapshotPart => {
            let (route, of, part) = payload.access::<ArchivedSnapshotPart<'_>>()?.check()?;
            PeerFrame::Snapshot(route, of, part)
        }
        PeerKind::SnapshotNote => {
            let (route, of, note) = payload.access::<ArchivedSnapshotNote>()?.check()?;
            PeerFrame::Snapshot(route, of, note)
        }
        PeerKind::GroupBatch => PeerFrame::Groups(BatchReader::validate(payload.bytes)?),
    })
}
