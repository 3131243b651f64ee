//! One group's message within a batch: [`crate::paxos::Message`] as a record of fixed size.
//!
//! What happens all the time (Accept, Accepted, Chosen) converts without allocating in either
//! direction; elections and new members may allocate. The order of variants is the wire's: new ones
//! go to the end, and with a new version of the batch (from the first release on: until then versions
//! stand still).

use rkyv::{Archive, Serialize};

use super::error::PeerError;
use crate::ids::{Ballot, Slot};
use crate::liveness::Epoch;
use crate::paxos::{
    CONFIGURATION_BYTES_MAX, Configuration, ConfigurationAt, MemberId, MemberNumber, Message,
    PromiseReport, Refusal, Run,
};

/// Slots beyond this are refused: a group that takes a million entries a second gets there in more
/// than a hundred thousand years, and the machines may count on without an overflow.
pub const SLOT_MAX: u64 = (1 << 62) - 1;
/// Rounds of ballots beyond this are refused; half of those that a ballot has room for.
pub const ROUND_MAX: u64 = (1 << 43) - 1;
/// Runs in one promise, at most: several times the slots that a group may have in flight.
pub const RUNS_MAX: usize = 16_384;
/// Configurations in one promise, at most.
pub const CONFIGURATIONS_MAX: usize = 64;

/// The largest promise fits a batch several times over.
const _: () = assert!(
    RUNS_MAX * 40 + CONFIGURATIONS_MAX * (CONFIGURATION_BYTES_MAX + 32)
        < super::batch::ENTRY_BYTES_MAX
);
const _: () = assert!(RUNS_MAX as u64 >= 2 * crate::paxos::Settings::DEFAULT.window_slots);

/// One message with its route; its entries are the batch's next `entries`.
#[derive(Debug, Archive, Serialize)]
pub(super) struct Record {
    pub(super) group: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) entries: u32,
    pub(super) body: Body,
}

#[derive(Debug, Archive, Serialize)]
pub(super) struct WireEpoch {
    incarnation: u64,
    count: u32,
}

#[derive(Debug, Archive, Serialize)]
pub(super) struct WireRun {
    first: u64,
    last: u64,
    ballot: u64,
    origin: u64,
    begins_lead: bool,
    unknown: bool,
}

#[derive(Debug, Archive, Serialize)]
pub(super) struct WireConfiguration {
    slot: u64,
    /// [`Configuration::encode`]
    bytes: Vec<u8>,
}

#[derive(Debug, Archive, Serialize)]
pub(super) enum WireRefusal {
    Promised,
    Supporting,
    NotAMember { slot: u64 },
    Unconfigured,
    TooFarBehind { trimmed: u64 },
}

#[derive(Debug, Archive, Serialize)]
pub(super) enum Body {
    Canvass {
        ballot: u64,
        last: u64,
        configuration_slot: u64,
    },
    CanvassAnswer {
        ballot: u64,
    },
    Prepare {
        ballot: u64,
        last: u64,
        configuration_slot: u64,
    },
    Promise {
        ballot: u64,
        epoch: Option<WireEpoch>,
        chosen: u64,
        chosen_origin: u64,
        trimmed: u64,
        runs: Vec<WireRun>,
        configurations: Vec<WireConfiguration>,
    },
    Refused {
        ballot: u64,
        promised: u64,
        reason: WireRefusal,
    },
    Fetch {
        ballot: u64,
        first: u64,
        last: u64,
    },
    Fetched {
        ballot: u64,
        first: u64,
    },
    Accept {
        ballot: u64,
        first: u64,
        chosen: u64,
        trim: u64,
    },
    Chosen {
        ballot: u64,
        chosen: u64,
        last: u64,
        trim: u64,
        ask: bool,
    },
    Accepted {
        ballot: u64,
        held: u64,
        durable: u64,
        chosen: u64,
        applied: u64,
        checkpoint: u64,
        gap: bool,
        epoch: Option<WireEpoch>,
    },
    Trimmed {
        ballot: u64,
        base: u64,
        configuration: WireConfiguration,
    },
    Relinquish {
        ballot: u64,
        successor: Option<u64>,
    },
    Reserve {
        ballot: u64,
        next: u64,
    },
}

fn wire_epoch(epoch: Option<Epoch>) -> Option<WireEpoch> {
    epoch.map(|epoch| WireEpoch { incarnation: epoch.incarnation, count: epoch.count })
}

fn wire_configuration(at: &ConfigurationAt) -> WireConfiguration {
    let mut bytes = Vec::with_capacity(CONFIGURATION_BYTES_MAX);
    at.configuration.encode(&mut bytes);
    WireConfiguration { slot: at.slot.0, bytes }
}

impl Body {
    pub(super) fn of(message: &Message) -> Body {
        match message {
            Message::Canvass { ballot, last, configuration_slot } => Body::Canvass {
                ballot: ballot.0,
                last: last.0,
                configuration_slot: configuration_slot.0,
            },
            Message::CanvassAnswer { ballot } => Body::CanvassAnswer { ballot: ballot.0 },
            Message::Prepare { ballot, last, configuration_slot } => Body::Prepare {
                ballot: ballot.0,
                last: last.0,
                configuration_slot: configuration_slot.0,
            },
            Message::Promise { ballot, report } => Body::Promise {
                ballot: ballot.0,
                epoch: wire_epoch(report.epoch),
                chosen: report.chosen.0,
                chosen_origin: report.chosen_origin.0,
                trimmed: report.trimmed.0,
                runs: report.runs.iter().map(WireRun::of).collect(),
                configurations: report.configurations.iter().map(wire_configuration).collect(),
            },
            Message::Refused { ballot, promised, reason } => Body::Refused {
                ballot: ballot.0,
                promised: promised.0,
                reason: match *reason {
                    Refusal::Promised => WireRefusal::Promised,
                    Refusal::Supporting => WireRefusal::Supporting,
                    Refusal::NotAMember { slot } => WireRefusal::NotAMember { slot: slot.0 },
                    Refusal::Unconfigured => WireRefusal::Unconfigured,
                    Refusal::TooFarBehind { trimmed } => {
                        WireRefusal::TooFarBehind { trimmed: trimmed.0 }
                    }
                },
            },
            Message::Fetch { ballot, first, last } => {
                Body::Fetch { ballot: ballot.0, first: first.0, last: last.0 }
            }
            Message::Fetched { ballot, first } => {
                Body::Fetched { ballot: ballot.0, first: first.0 }
            }
            Message::Accept { ballot, first, chosen, trim } => {
                Body::Accept { ballot: ballot.0, first: first.0, chosen: chosen.0, trim: trim.0 }
            }
            Message::Chosen { ballot, chosen, last, trim, ask } => Body::Chosen {
                ballot: ballot.0,
                chosen: chosen.0,
                last: last.0,
                trim: trim.0,
                ask: *ask,
            },
            Message::Accepted {
                ballot,
                held,
                durable,
                chosen,
                applied,
                checkpoint,
                gap,
                epoch,
            } => Body::Accepted {
                ballot: ballot.0,
                held: held.0,
                durable: durable.0,
                chosen: chosen.0,
                applied: applied.0,
                checkpoint: checkpoint.0,
                gap: *gap,
                epoch: wire_epoch(*epoch),
            },
            Message::Trimmed { ballot, base, configuration } => Body::Trimmed {
                ballot: ballot.0,
                base: base.0,
                configuration: wire_configuration(configuration),
            },
            Message::Relinquish { ballot, successor } => {
                Body::Relinquish { ballot: ballot.0, successor: successor.map(|id| id.0) }
            }
            Message::Reserve { ballot, next } => Body::Reserve { ballot: ballot.0, next: next.0 },
        }
    }

    /// Bytes that it takes in a batch besides its record.
    pub(super) fn extra_bytes(&self) -> usize {
        match self {
            Body::Promise { runs, configurations, .. } => {
                runs.len() * 40 + configurations.len() * (CONFIGURATION_BYTES_MAX + 32)
            }
            Body::Trimmed { .. } => CONFIGURATION_BYTES_MAX,
            _ => 0,
        }
    }

    /// Whether the receiver would take it: a machine far beyond its window must not send what
    /// nobody reads.
    pub(super) fn is_within_limits(&self) -> bool {
        match self {
            Body::Promise { runs, configurations, .. } => {
                runs.len() <= RUNS_MAX && configurations.len() <= CONFIGURATIONS_MAX
            }
            _ => true,
        }
    }
}

impl WireRun {
    fn of(run: &Run) -> WireRun {
        let Run { first, last, ballot, origin, begins_lead, unknown } = *run;
        let (ballot, origin) = (ballot.0, origin.0);
        WireRun { first: first.0, last: last.0, ballot, origin, begins_lead, unknown }
    }
}

fn slot(what: &'static str, slot: impl Into<u64>) -> Result<Slot, PeerError> {
    let slot = slot.into();
    if slot > SLOT_MAX { Err(PeerError::Slot { what, slot }) } else { Ok(Slot(slot)) }
}

/// The first slot of a range.
fn first_slot(number: impl Into<u64>) -> Result<Slot, PeerError> {
    let first = slot("the first", number)?;
    if first == Slot(0) { Err(PeerError::Slot { what: "the first", slot: 0 }) } else { Ok(first) }
}

/// A ballot that a member may use.
pub(super) fn ballot(number: impl Into<u64>) -> Result<Ballot, PeerError> {
    let ballot = Ballot(number.into());
    if ballot.number() == MemberNumber(0) || ballot.round() > ROUND_MAX {
        return Err(PeerError::Ballot { ballot: ballot.0 });
    }
    Ok(ballot)
}

/// One that may be the ballot below all others.
fn any_ballot(number: impl Into<u64>) -> Result<Ballot, PeerError> {
    let number = number.into();
    if number == 0 { Ok(Ballot(0)) } else { ballot(number) }
}

fn epoch(archived: Option<&ArchivedWireEpoch>) -> Option<Epoch> {
    archived.map(|epoch| Epoch {
        incarnation: epoch.incarnation.to_native(),
        count: epoch.count.to_native(),
    })
}

impl ArchivedWireConfiguration {
    fn to_configuration(&self) -> Result<ConfigurationAt, PeerError> {
        let bytes = self.bytes.len();
        let configuration = Configuration::decode(&self.bytes);
        let configuration = configuration.ok_or(PeerError::Configuration { bytes })?;
        Ok(ConfigurationAt { slot: slot("a configuration's", self.slot)?, configuration })
    }
}

impl ArchivedWireRefusal {
    fn to_refusal(&self) -> Result<Refusal, PeerError> {
        Ok(match self {
            ArchivedWireRefusal::Promised => Refusal::Promised,
            ArchivedWireRefusal::Supporting => Refusal::Supporting,
            ArchivedWireRefusal::NotAMember { slot: at } => {
                Refusal::NotAMember { slot: slot("a configuration's", *at)? }
            }
            ArchivedWireRefusal::Unconfigured => Refusal::Unconfigured,
            ArchivedWireRefusal::TooFarBehind { trimmed } => {
                Refusal::TooFarBehind { trimmed: slot("trimmed", *trimmed)? }
            }
        })
    }
}

impl ArchivedRecord {
    /// The message, if all that it says can be.
    pub(super) fn to_message(&self) -> Result<Message, PeerError> {
        use ArchivedBody as B;
        Ok(match &self.body {
            B::Canvass { ballot: b, last, configuration_slot } => Message::Canvass {
                ballot: ballot(*b)?,
                last: slot("the last", *last)?,
                configuration_slot: slot("a configuration's", *configuration_slot)?,
            },
            B::CanvassAnswer { ballot: b } => Message::CanvassAnswer { ballot: ballot(*b)? },
            B::Prepare { ballot: b, last, configuration_slot } => Message::Prepare {
                ballot: ballot(*b)?,
                last: slot("the last", *last)?,
                configuration_slot: slot("a configuration's", *configuration_slot)?,
            },
            B::Promise {
                ballot: b,
                epoch: e,
                chosen,
                chosen_origin,
                trimmed,
                runs,
                configurations,
            } => {
                let report = PromiseReport {
                    epoch: epoch(e.as_ref()),
                    chosen: slot("chosen", *chosen)?,
                    chosen_origin: any_ballot(*chosen_origin)?,
                    trimmed: slot("trimmed", *trimmed)?,
                    runs: promised_runs(runs, chosen.to_native())?,
                    configurations: promised_configurations(configurations)?,
                };
                Message::Promise { ballot: ballot(*b)?, report: Box::new(report) }
            }
            B::Refused { ballot: b, promised, reason } => Message::Refused {
                ballot: ballot(*b)?,
                promised: any_ballot(*promised)?,
                reason: reason.to_refusal()?,
            },
            B::Fetch { ballot: b, first, last } => {
                let (first, last) = (first_slot(*first)?, slot("the last", *last)?);
                if last < first {
                    return Err(PeerError::Slot { what: "the last", slot: last.0 });
                }
                Message::Fetch { ballot: ballot(*b)?, first, last }
            }
            B::Fetched { ballot: b, first } => {
                Message::Fetched { ballot: ballot(*b)?, first: first_slot(*first)? }
            }
            B::Accept { ballot: b, first, chosen, trim } => Message::Accept {
                ballot: ballot(*b)?,
                first: first_slot(*first)?,
                chosen: slot("chosen", *chosen)?,
                trim: slot("trimmed", *trim)?,
            },
            B::Chosen { ballot: b, chosen, last, trim, ask } => Message::Chosen {
                ballot: ballot(*b)?,
                chosen: slot("chosen", *chosen)?,
                last: slot("the last", *last)?,
                trim: slot("trimmed", *trim)?,
                ask: *ask,
            },
            B::Accepted {
                ballot: b,
                held,
                durable,
                chosen,
                applied,
                checkpoint,
                gap,
                epoch: e,
            } => Message::Accepted {
                ballot: ballot(*b)?,
                held: slot("held", *held)?,
                durable: slot("durable", *durable)?,
                chosen: slot("chosen", *chosen)?,
                applied: slot("applied", *applied)?,
                checkpoint: slot("a checkpoint's", *checkpoint)?,
                gap: *gap,
                epoch: epoch(e.as_ref()),
            },
            B::Trimmed { ballot: b, base, configuration } => Message::Trimmed {
                ballot: ballot(*b)?,
                base: slot("trimmed", *base)?,
                configuration: Box::new(configuration.to_configuration()?),
            },
            B::Relinquish { ballot: b, successor } => Message::Relinquish {
                ballot: ballot(*b)?,
                successor: successor.as_ref().map(|id| MemberId(id.to_native())),
            },
            B::Reserve { ballot: b, next } => {
                Message::Reserve { ballot: ballot(*b)?, next: ballot(*next)? }
            }
        })
    }
}

/// Runs are in order and above what is chosen.
fn promised_runs(archived: &[ArchivedWireRun], chosen: u64) -> Result<Vec<Run>, PeerError> {
    let count = archived.len();
    if count > RUNS_MAX {
        return Err(PeerError::TooMany { what: "runs", count, max: RUNS_MAX });
    }
    let mut runs = Vec::with_capacity(count);
    let mut before = chosen;
    for run in archived {
        let (first, last) = (slot("a run's", run.first)?, slot("a run's", run.last)?);
        if first.0 <= before || last < first {
            return Err(PeerError::Slot { what: "a run's", slot: first.0 });
        }
        before = last.0;
        let (ballot, origin) = (any_ballot(run.ballot)?, any_ballot(run.origin)?);
        if origin > ballot {
            return Err(PeerError::Ballot { ballot: origin.0 });
        }
        let (begins_lead, unknown) = (run.begins_lead, run.unknown);
        runs.push(Run { first, last, ballot, origin, begins_lead, unknown });
    }
    Ok(runs)
}

fn promised_configurations(
    archived: &[ArchivedWireConfiguration],
) -> Result<Vec<ConfigurationAt>, PeerError> {
    let count = archived.len();
    if count > CONFIGURATIONS_MAX {
        let what = "configurations";
        return Err(PeerError::TooMany { what, count, max: CONFIGURATIONS_MAX });
    }
    let mut configurations: Vec<ConfigurationAt> = Vec::with_capacity(count);
    for at in archived {
        let at = at.to_configuration()?;
        if configurations.last().is_some_and(|before| at.slot <= before.slot) {
            return Err(PeerError::Slot { what: "a configuration's", slot: at.slot.0 });
        }
        configurations.push(at);
    }
    Ok(configurations)
}
