//! Multi-Paxos: one state machine per group and member, which decides and does nothing else.
//!
//! ```text
//!    frames, log completions, commands              effects, in order
//!   ┌───────────────────────────────┐             ┌────────────────────────────────────┐
//!   │ Message{from, entries}        │             │ PersistPromise, PersistEntries     │
//!   │ Persisted{upto}   LogFailed   │   Replica   │ Send{to, message}                  │
//!   │ Applied  Checkpointed Trimmed ├──► step ───►│ Chosen{slot}   Discard   MayTrim   │
//!   │ SnapshotInstalled             │  (At: now,  │ Leads  StepsDown                   │
//!   │ Tick                          │  liveness,  │ NeedsSnapshot  Removed             │
//!   └───────────────────────────────┘   random)   └────────────────────────────────────┘
//!     propose · change · hand_over · begin_read / check_read
//! ```
//!
//! The shell stages bytes, appends them to the shard's log and moves them over the wire; the machine
//! knows slots, ballots and handles. It draws no randomness and reads no clock: both are in [`At`],
//! with the shard's [`crate::liveness::Liveness`], which all groups of the shard share. So an idle
//! group costs nothing: it sends no message and has no timer.
//!
//! # The shell's contract
//!
//! * Effects are carried out in order, and everything that is persisted in the order of its
//!   [`PersistId`]s. Input handed in while effects wait comes after them.
//! * Entries that come with a message are staged first. Where there is no room for all of them, the
//!   message is handed in with those that fit. **If there is none even for the first, the message is
//!   dropped**: handed in without its entries it would be answered as a repetition or a gap, and a
//!   leader sends what a gap misses again at once, all of it, round after round, while the member is
//!   short of room. Silence is answered after [`Settings::resend_nanos`].
//! * A range to be sent may be cut short, and is not sent at all where it begins with an entry that
//!   the shell does not have: also that is taken for a lost message.
//! * A handle is the machine's from [`Replica::propose`], or from the message that brought the entry,
//!   until [`Effect::Discard`] or until its slot is applied.
//! * [`Input::Trimmed`] never goes beyond [`Effect::MayTrim`]; it may stay behind, to keep what a
//!   follower lacks.
//!
//! # The protocol
//! Lamport, "Paxos Made Simple", sections 2 and 3; with the care of Chandra, Griesemer and Redstone,
//! "Paxos Made Live" (PODC'07, section 5): snapshots, leases, and disks that lose data.
//!
//! 1. *Canvass* (`election`): a storage replica that knows no living leader asks whether it
//!    would be promised. Nobody's state changes, so that a member behind a broken link disturbs
//!    nobody.
//! 2. *Prepare*: a quorum promises durably, and says what it has accepted above its watermark.
//! 3. *Learn*: the candidate takes, slot by slot, the value of the highest ballot, fetches what it
//!    lacks, and accepts it under its own ballot. Promised prefixes leave no gaps; a slot that too few
//!    can tell anything about (a damaged log) stops the candidate.
//! 4. *Lead*: it proposes a no-op under its own ballot. When that is chosen and applied, it serves.
//! 5. *Accept*: ranges of slots, many in flight; followers acknowledge cumulatively what is durable.
//!    What a quorum holds is chosen.
//!
//! # Rules (the design's words) and where they are kept
//!
//! | rule | where |
//! |---|---|
//! | An acceptor accepts slot n only if it holds n−1 | `journal::put` |
//! | A new leader serves nothing until all it learned is chosen under its own ballot and applied | `leader` |
//! | A member with a damaged range answers "unknown", never "empty" | `acceptor`, `election` |
//! | A lease holds only under the epochs in force when the ballot won | `lease` |
//! | A member promises a higher ballot only after its support ended or was relinquished | `lease::may_promise` |
//! | A restarted member first waits one lease length | `lease::may_promise`, `liveness` |
//! | One member added or removed per entry, after an entry of the leader's own ballot | `leader::change` |
//! | Nothing follows the change until majorities of both configurations accept it | `leader` |
//! | A candidate needs a majority of every configuration that its promises reveal | `election` |
//! | A slot leaves a log only when two storage replicas' checkpoints contain it | `leader` |
//! | A failed log write is final: the member steps down | [`Input::LogFailed`] |
//!
//! Left out: Fast quorums, and Flexible ones but for what a promise tells (`election`); reads by a round of messages (a leader without a lease
//! answers "not now").

mod acceptor;
pub mod ballot;
mod configurations;
mod effect;
mod election;
mod encoding;
mod follower;
mod journal;
mod leader;
mod lease;
mod membership;
mod message;
mod pace;
#[cfg_attr(not(any(test, feature = "planted-bugs")), allow(dead_code, unreachable_pub))]
pub(crate) mod planted;
mod replica;
mod replication;
mod settings;

#[cfg(test)]
mod tests;

pub use ballot::MemberNumber;
pub use effect::{Effect, Handle, PersistId};
pub use encoding::{CONFIGURATION_AT_BYTES_MAX, CONFIGURATION_BYTES_MAX};
pub use journal::Held;
pub use leader::{NotBegun, NotProposed, PeerProgress};
pub use lease::{NotServed, ReadGrant};
pub use membership::{
    Az, Change, ChangeRefused, Configuration, MEMBERS_MAX, Member, MemberId, MemberRole,
};
pub use message::{
    ConfigurationAt, EntryKind, Message, Offered, Payload, PromiseReport, Refusal, Run,
};
#[cfg(any(test, feature = "planted-bugs"))]
pub use planted::Bug;
pub use replica::{At, Figures, Input, Recovered, Replica, RoleName};
pub use settings::Settings;
