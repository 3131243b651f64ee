//! What the members of one group say to each other.
//!
//! Messages carry ranges of slots, never bytes: the shell that puts an `Accept` or `Fetched` on the
//! wire adds the entries of its range, and the one that receives it stages them and hands them in
//! as [`Offered`]s. It may cut a range short (a frame has a limit); what it leaves out is asked for
//! or sent again like a lost message. Every message may be lost, delayed, repeated and reordered.
//!
//! | message | from | to | when |
//! |---|---|---|---|
//! | Canvass | would-be candidate | all members | no leader is known, or a quorum misses it |
//! | CanvassAnswer | member | would-be candidate | at once |
//! | Prepare | candidate | all members | a quorum answered the canvass with yes |
//! | Promise | member | candidate | the promise is durable |
//! | Refused | member | sender of a lower ballot, or of one that it may not promise yet | at once |
//! | Fetch | candidate | member | its promise revealed entries that the candidate lacks |
//! | Fetched | member | candidate | at once |
//! | Accept | leader | members | a turn ended with entries to send |
//! | Chosen | leader | members | the watermark moved and no Accept carries it; an answer is waited for |
//! | Accepted | member | leader | entries became durable; a gap; a repetition; asked to; a checkpoint |
//! | Trimmed | leader | member | what the member needs next has left the leader's log |
//! | Reserve | leader | members | a hand-over begins |
//! | Relinquish | owner of a ballot | members | hand-over; a leader without a live quorum or a candidate gives up; its process has restarted |

use super::effect::Handle;
use super::membership::Configuration;
use crate::ids::{Ballot, Slot};
use crate::liveness::Epoch;
use crate::paxos::MemberId;

/// Slots `first..=last`, accepted under one ballot, and proposed by one lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// The first slot.
    pub first: Slot,
    /// The last slot.
    pub last: Slot,
    /// Under which they were accepted; meaningless for unknown ones.
    pub ballot: Ballot,
    /// Under which they were proposed for the first time.
    pub origin: Ballot,
    /// The first of them is a no-op, with which that lead began.
    pub begins_lead: bool,
    /// The member's log is damaged here: it may have accepted anything below its promise.
    pub unknown: bool,
}

/// A configuration and the slot of its entry; it governs the slots after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConfigurationAt {
    /// Slot of the entry; 0 for the group's first configuration.
    pub slot: Slot,
    /// The members from there on.
    pub configuration: Configuration,
}

/// What a member promises with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PromiseReport {
    /// Under which its shard supports the candidate's, if it does.
    pub epoch: Option<Epoch>,
    /// Everything up to here is chosen, and held (or trimmed).
    pub chosen: Slot,
    /// The origin of the entry at `chosen`; 0 if this member does not know it.
    pub chosen_origin: Ballot,
    /// What has left its log because two checkpoints hold it.
    pub trimmed: Slot,
    /// What it has accepted above `chosen`, in order of slots.
    pub runs: Vec<Run>,
    /// The configuration that `chosen` makes valid, and those accepted above.
    pub configurations: Vec<ConfigurationAt>,
}

/// Why a member refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It has promised a higher ballot: the sender stops using its own.
    Promised,
    /// It supports the leader, or may have before it restarted: the sender asks again.
    Supporting,
    /// The sender is no member by a configuration that was chosen at `slot`.
    NotAMember {
        /// Slot of that configuration's entry.
        slot: Slot,
    },
    /// The refusing member is new and does not know its group yet: the leader begins with Trimmed.
    Unconfigured,
    /// The sender's log ends before what the refusing member's still has: it needs a snapshot.
    TooFarBehind {
        /// The refusing member's trimmed slot.
        trimmed: Slot,
    },
}

/// A message between two members of a group. See the module's docs. What is rare and large is boxed:
/// every message is moved several times between the wire and the machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// Would you promise this ballot?
    Canvass {
        /// The ballot that the sender would use.
        ballot: Ballot,
        /// The last slot that it holds.
        last: Slot,
        /// Of the newest configuration that it knows to be chosen.
        configuration_slot: Slot,
    },
    /// Yes, the receiver may try.
    CanvassAnswer {
        /// The one asked about.
        ballot: Ballot,
    },
    /// Promise to accept nothing below this ballot, and say what you have accepted.
    Prepare {
        /// The candidate's.
        ballot: Ballot,
        /// The last slot that it holds.
        last: Slot,
        /// Of the newest configuration that it knows to be chosen.
        configuration_slot: Slot,
    },
    /// Promised, durably.
    Promise {
        /// The one promised.
        ballot: Ballot,
        /// What the member holds.
        report: Box<PromiseReport>,
    },
    /// No.
    Refused {
        /// The ballot that was asked with.
        ballot: Ballot,
        /// The highest that the member has promised.
        promised: Ballot,
        /// Why.
        reason: Refusal,
    },
    /// Send me what you hold there.
    Fetch {
        /// The candidate's; answered only while it is the one promised.
        ballot: Ballot,
        /// From.
        first: Slot,
        /// To.
        last: Slot,
    },
    /// The entries of the range, which come with it.
    Fetched {
        /// The Fetch's.
        ballot: Ballot,
        /// The range's begin; its length is that of the entries.
        first: Slot,
    },
    /// Accept these entries, which come with it.
    Accept {
        /// The leader's.
        ballot: Ballot,
        /// The range's begin; its length is that of the entries.
        first: Slot,
        /// Chosen so far.
        chosen: Slot,
        /// Two storage replicas' checkpoints hold everything up to here.
        trim: Slot,
    },
    /// Chosen so far. Answered with an Accepted if it asks for that, or if entries are missed.
    Chosen {
        /// The leader's.
        ballot: Ballot,
        /// Chosen so far.
        chosen: Slot,
        /// The leader's last slot, so that a lost Accept is noticed.
        last: Slot,
        /// Two storage replicas' checkpoints hold everything up to here.
        trim: Slot,
        /// The leader waits for an answer.
        ask: bool,
    },
    /// What the member holds.
    Accepted {
        /// The leader's.
        ballot: Ballot,
        /// Every slot up to here is held as the leader proposed it, in memory at least.
        held: Slot,
        /// Every slot up to here is held so, durably. The acknowledgement.
        durable: Slot,
        /// Known to be chosen.
        chosen: Slot,
        /// In the member's overlay or tree; 0 for one that has neither.
        applied: Slot,
        /// In the member's durable checkpoint.
        checkpoint: Slot,
        /// The member misses entries after `held`.
        gap: bool,
        /// Under which its shard supports the leader's, if it does.
        epoch: Option<Epoch>,
    },
    /// Everything up to `base` has left the leader's log: begin after it, or get a snapshot.
    Trimmed {
        /// The leader's.
        ballot: Ballot,
        /// Chosen, and in the checkpoints of two storage replicas (of the only one, if so); to a member that
        /// was removed, at least the slot of that entry.
        base: Slot,
        /// In force after `base`.
        configuration: Box<ConfigurationAt>,
    },
    /// The sender is about to relinquish. Who has written the successor's ballot down by then promises
    /// it without waiting for the log.
    Reserve {
        /// The leader's.
        ballot: Ballot,
        /// The successor's.
        next: Ballot,
    },
    /// The sender neither leads nor serves under this ballot any more.
    Relinquish {
        /// The sender's own.
        ballot: Ballot,
        /// Who stands for election at once, if the leader named one.
        successor: Option<MemberId>,
    },
}

// Two lines of a processor's cache at most.
const _: () = assert!(size_of::<Message>() <= 128);

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// Nothing: the first slot of every leader.
    NoOp,
    /// What the group exists for.
    Data,
    /// A membership change.
    Configuration,
    /// The log is damaged at this slot.
    Unknown,
}

/// What an entry received says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// Nothing.
    NoOp,
    /// The shell's business.
    Data,
    /// The members after this slot.
    Configuration(&'a Configuration),
}

/// An entry that came with a message and is staged under `handle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered<'a> {
    /// The shell's name for the staged bytes.
    pub handle: Handle,
    /// How many.
    pub bytes: u32,
    /// What it says.
    pub payload: Payload<'a>,
    /// Under which it was proposed for the first time.
    pub origin: Ballot,
}
