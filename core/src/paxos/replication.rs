//! What the leader sends to each member, and what it knows of it.
//!
//! ```text
//!     durable            next                         last
//!   ─────┤    in flight   ├──── to be sent ─────────────┤     one window per member, in slots and
//!        │                │                                   bytes; go back to `durable` if silent
//! ```
//!
//! A member that lives gets lost messages again after [`super::Settings::resend_nanos`]; one that
//! does not gets nothing beyond its window until its shard is heard again. When all members have
//! told the leader's watermark, the group is idle and has no timer.
//!
//! **Trimming goes on while the group is idle**, because full logs may be what keeps it idle: a
//! member tells of its checkpoint when it has one, and the leader of a new trim slot when there is
//! one, whether or not another message would go out. The leader asks until that was answered.

use super::effect::Effect;
use super::membership::{Member, MemberId};
use super::message::{Message, PromiseReport};
use super::planted::Bug;
use super::replica::{At, Replica, Role};
use super::settings::Settings;
use crate::ids::Slot;
use crate::liveness::{Epoch, Peer};
use crate::time::Nanos;

/// What the leader knows of another member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Progress {
    pub(super) id: MemberId,
    pub(super) peer: Peer,
    /// To be sent next.
    next: Slot,
    /// Acknowledged under this ballot.
    pub(super) durable: Slot,
    /// What the member says is chosen.
    chosen: Slot,
    /// What the member was told is chosen.
    told: Slot,
    /// What the member was told may leave its log.
    told_trim: Slot,
    pub(super) applied: Slot,
    pub(super) checkpoint: Slot,
    in_flight_bytes: u64,
    /// The member's support that this ballot's lease may rest on.
    pub(super) bound: Option<Epoch>,
    /// The member has not answered this leader yet, or must confirm its support.
    ask: bool,
    /// Whether `next` rests on what the member said to this leader, or with its promise.
    probed: bool,
    /// The member's shard is silent: nothing is sent until it is heard.
    parked: bool,
    /// The member knows nothing of its group yet.
    introduce: bool,
    pub(super) resend_at: Option<Nanos>,
}

impl Progress {
    /// A member as its promise (if it was one of those that promised) describes it.
    pub(super) fn new(member: &Member, report: Option<&PromiseReport>, chosen: Slot) -> Progress {
        // What a member knows to be chosen it holds, durably.
        let durable = report.map_or(Slot(0), |report| report.chosen);
        Progress {
            id: member.id,
            peer: member.peer,
            next: report.map_or(chosen, |report| report.chosen).next(),
            durable,
            chosen: durable,
            told: durable,
            told_trim: Slot(0),
            applied: Slot(0),
            checkpoint: Slot(0),
            in_flight_bytes: 0,
            bound: report.and_then(|report| report.epoch),
            ask: true,
            probed: report.is_some(),
            parked: false,
            introduce: false,
            resend_at: None,
        }
    }

    fn in_flight(&self) -> u64 {
        if self.probed { (self.next.0 - 1).saturating_sub(self.durable.0) } else { 0 }
    }

    fn go_back(&mut self) {
        if self.probed {
            self.next = self.durable.next();
        }
        self.in_flight_bytes = 0;
        self.told = self.chosen;
        // Whether it heard what may be trimmed, nobody says: once more.
        self.told_trim = Slot(0);
        self.ask = true;
    }

    fn waits(&self, chosen: Slot) -> bool {
        self.in_flight() > 0 || self.chosen < chosen || self.ask || self.introduce
    }
}

impl Replica {
    /// A new member asked to be told of its group.
    pub(super) fn introduce(&mut self, id: MemberId) {
        if let Role::Leading(leadership) = &mut self.role
            && let Some(progress) = leadership.progress_mut(id)
        {
            progress.introduce = true;
            progress.resend_at = None;
        }
    }

    pub(super) fn on_accepted(&mut self, from: MemberId, message: &Message) {
        let &Message::Accepted {
            ballot,
            held,
            durable,
            chosen,
            applied,
            checkpoint,
            gap,
            epoch,
            ..
        } = message
        else {
            return;
        };
        let last = self.acceptor.stream_slot();
        let stale = !self.planted.has(Bug::CountStaleAcknowledgement);
        let Role::Leading(leadership) = &mut self.role else { return };
        if ballot > leadership.ballot || (ballot < leadership.ballot && stale) {
            return;
        }
        if ballot == leadership.ballot && (durable > last || held > last || durable > held) {
            // It claims what was never sent.
            self.protocol_errors += 1;
            return;
        }
        let current = ballot == leadership.ballot;
        let Some(progress) = leadership.progress_mut(from) else { return };
        if !progress.probed && current {
            progress.probed = true;
            progress.next = held.next();
        }
        if durable > progress.durable {
            let before = progress.in_flight();
            progress.durable = durable.min(last);
            progress.next = progress.next.max(progress.durable.next());
            let after = progress.in_flight();
            // The bytes of what stays in flight, by its share of the slots.
            let bytes = u128::from(progress.in_flight_bytes) * u128::from(after);
            progress.in_flight_bytes = (bytes / u128::from(before.max(1))) as u64;
            progress.resend_at = None;
        }
        if gap && current && held.next() < progress.next {
            // Lost on the way; or in the member's log, which was damaged since it acknowledged. What
            // it claims less now counts less (and if the message is only late, it comes again).
            progress.next = held.next();
            progress.durable = progress.durable.min(held);
            progress.in_flight_bytes = 0;
        }
        progress.chosen = progress.chosen.max(chosen);
        progress.applied = progress.applied.max(applied);
        progress.checkpoint = progress.checkpoint.max(checkpoint);
        progress.ask = false;
        progress.introduce = false;
        progress.parked = false;
        if current {
            progress.bound = progress.bound.max(epoch);
        }
    }

    /// Sends every member what it may have.
    pub(super) fn replicate(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        let Role::Leading(leadership) = &mut self.role else { return };
        let mut progresses = core::mem::take(&mut leadership.progress);
        for progress in &mut progresses {
            self.replicate_to(progress, at, effects);
        }
        let Role::Leading(leadership) = &mut self.role else { return };
        leadership.progress = progresses;
    }

    fn replicate_to(&self, progress: &mut Progress, at: At<'_>, effects: &mut Vec<Effect>) {
        let chosen = self.acceptor.chosen();
        let granted = at.liveness.granted(progress.peer).filter(|(_, until)| at.now < *until);
        if progress.parked {
            if granted.is_none() {
                return;
            }
            progress.parked = false;
            progress.go_back();
        }
        if granted.is_some_and(|(epoch, _)| progress.bound < Some(epoch)) {
            // The support lapsed since: one round for this group before it counts again.
            progress.ask = true;
        }
        let due = progress.resend_at.is_some_and(|resend_at| at.now >= resend_at);
        if due && granted.is_none() {
            progress.parked = true;
            progress.resend_at = None;
            return;
        }
        if due {
            progress.go_back();
        }
        let fresh = due || progress.resend_at.is_none();
        let mut sent = false;
        if progress.introduce || (progress.probed && progress.next <= self.trimmed) {
            if fresh {
                self.send_trimmed(progress, effects);
                sent = true;
            }
        } else {
            while progress.probed && self.send_entries(progress, effects) {
                sent = true;
            }
            let news = progress.told_trim < self.may_trim;
            progress.ask |= news && !sent;
            if !sent && (news || progress.told < chosen || (progress.ask && fresh)) {
                self.send_chosen(progress, effects);
                sent = true;
            }
        }
        if !progress.waits(chosen) {
            progress.resend_at = None;
        } else if sent || progress.resend_at.is_none() {
            progress.resend_at = Some(at.now + self.settings.resend_nanos);
        }
    }

    /// Sends the next range, if the windows allow one.
    fn send_entries(&self, progress: &mut Progress, effects: &mut Vec<Effect>) -> bool {
        let Settings { peer_window_slots, peer_window_bytes, .. } = self.settings;
        let end = self.acceptor.stream_slot();
        if progress.next > end || progress.in_flight_bytes >= peer_window_bytes {
            return false;
        }
        let catches_up = self.held(progress.next).is_none();
        let (window, batch) = if catches_up {
            (self.settings.catch_up_slots, self.settings.catch_up_slots)
        } else {
            (peer_window_slots, self.settings.batch_slots)
        };
        let room = window.saturating_sub(progress.in_flight()).min(batch);
        if room == 0 {
            return false;
        }
        let first = progress.next;
        let mut last = first;
        let mut bytes = self.held(first).map_or(0, |held| u64::from(held.bytes));
        while last < end && last.0 - first.0 + 1 < room {
            let next = self.held(last.next());
            bytes += next.map_or(0, |held| u64::from(held.bytes));
            if bytes > self.settings.batch_bytes || next.is_none() != catches_up {
                break;
            }
            last = last.next();
        }
        let (ballot, chosen, trim) =
            (self.acceptor.stream(), self.acceptor.chosen(), self.may_trim);
        let message = Message::Accept { ballot, first, chosen, trim };
        effects.push(Effect::Send { to: progress.id, message, last });
        progress.next = last.next();
        (progress.told, progress.told_trim) = (chosen, trim);
        progress.in_flight_bytes += bytes;
        true
    }

    fn send_chosen(&self, progress: &mut Progress, effects: &mut Vec<Effect>) {
        let (ballot, chosen) = (self.acceptor.stream(), self.acceptor.chosen());
        // Of what was sent, so that a member ahead of its messages sees no gap.
        let last =
            if progress.probed { Slot(progress.next.0 - 1) } else { self.acceptor.stream_slot() };
        let message = Message::Chosen { ballot, chosen, last, trim: self.may_trim };
        (progress.told, progress.told_trim) = (chosen, self.may_trim);
        effects.push(Effect::Send { to: progress.id, message, last: Slot(0) });
    }

    fn send_trimmed(&self, progress: &mut Progress, effects: &mut Vec<Effect>) {
        let base = self.trimmed;
        let Some(&configuration) = self.configurations.after(base) else { return };
        let message = Message::Trimmed { ballot: self.acceptor.stream(), base, configuration };
        effects.push(Effect::Send { to: progress.id, message, last: Slot(0) });
    }
}
