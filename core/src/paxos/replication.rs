//! What the leader sends to each member, and what it knows of it.
//!
//! ```text
//!     durable            next                         last
//!   ─────┤    in flight   ├──── to be sent ─────────────┤     one window per member, in slots and
//!        │                │                                   bytes; go back to `durable` if silent
//! ```
//!
//! A member that lives and misses something says so for each message that comes after it:
//!
//! ```text
//!     sent         10 11 12 13 14 15          10..=15
//!     arrives         11 12 13 14 15          10..=15        (10 was lost)
//!     answered        9! 9! 9! 9! 9!   ...... 15             9!: a gap, 9 is held
//!     on 9!           └ sent again from 10; the other four were answered before that arrived
//! ```
//!
//! An answer does not say to what. But each message has one at most, so as many as were on their way
//! when it went out again, and miss no less, are taken for answers to those: the window goes out once for
//! a loss, not once for every message behind it. If it is lost again, the next answer says so; if some of
//! those answers were lost too, then one that comes [`super::Settings::resend_nanos`] later.
//!
//! A member that lives and says nothing gets lost messages again after that time, and after longer if it
//! goes on not answering ([`super::pace`]); one whose shard is not heard gets nothing beyond its window
//! until it is. When all members have told the leader's watermark, the group is idle and has no timer.
//!
//! The watermark moves once more after the last acknowledgement. Who is told so need not answer: the next
//! entry's acknowledgement says that it knows, and so a write costs six messages in a group of three, not
//! eight. If the next entry is later than the slowest repetition, the leader asks, and the write costs ten:
//! from two writes a second on a group has the better of it. Where something waits for the answer, it is
//! asked for at once: a lease's support, news of trimming, the removal of a member.
//!
//! **Trimming goes on while the group is idle**, because full logs may be what keeps it idle: a
//! member tells of its checkpoint when it has one, and the leader of a new trim slot when there is
//! one, whether or not another message would go out. The leader asks until that was answered.
//!
//! **A member that was removed** gets, at the same pace, what it misses up to the entry that removed it
//! and the watermark up to there, and nothing after that or of what may be trimmed: it keeps its log. That
//! ends when it has told that watermark, or refuses; and, because one that knows itself removed answers
//! nothing, when it is silent at the slowest pace, or its shard is. If it needs what has left the log, it
//! is told the configuration instead. All that begins when a quorum of the others knows of the change: who
//! knows itself removed answers no candidate any more, and if the leader died before, those that do not
//! know it yet could need its promise.

use super::effect::Effect;
use super::membership::{Member, MemberId};
use super::message::{Message, PromiseReport};
use super::pace;
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
    /// The slot of the entry that removed it, once that is chosen: nothing after it is for this member.
    removed_at: Option<Slot>,
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
    in_flight_messages: u64,
    missed: Option<Missed>,
    /// The member's support that this ballot's lease may rest on.
    pub(super) bound: Option<Epoch>,
    /// Under which this shard has supported the member's since it was last asked, if at all; none
    /// before the first look.
    supported: Option<Option<Epoch>>,
    /// The member has not answered this leader yet, or must confirm its support.
    ask: bool,
    /// Whether `next` rests on what the member said to this leader, or with its promise.
    probed: bool,
    /// The member's shard is silent: nothing is sent until it is heard.
    parked: bool,
    /// The member knows nothing of its group yet.
    introduce: bool,
    pub(super) resend_at: Option<Nanos>,
    /// Since it answered last.
    resends: u8,
}

/// What was sent again because the member missed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Missed {
    /// Everything after this slot.
    after: Slot,
    /// So many answers that miss no less are to messages which went before.
    older_answers: u64,
    /// From then on they are not.
    until: Nanos,
}

impl Progress {
    /// A member as its promise (if it was one of those that promised) describes it.
    pub(super) fn new(member: &Member, report: Option<&PromiseReport>, chosen: Slot) -> Progress {
        // What a member knows to be chosen it holds, durably.
        let durable = report.map_or(Slot(0), |report| report.chosen);
        Progress {
            id: member.id,
            peer: member.peer,
            removed_at: None,
            next: report.map_or(chosen, |report| report.chosen).next(),
            durable,
            chosen: durable,
            told: durable,
            told_trim: Slot(0),
            applied: Slot(0),
            checkpoint: Slot(0),
            in_flight_bytes: 0,
            in_flight_messages: 0,
            missed: None,
            bound: report.and_then(|report| report.epoch),
            supported: None,
            ask: true,
            probed: report.is_some(),
            parked: false,
            introduce: false,
            resend_at: None,
            resends: 0,
        }
    }

    /// The entry at this slot is chosen and has removed the member.
    pub(super) fn leaves(mut self, removed_at: Option<Slot>) -> Progress {
        self.removed_at = removed_at;
        self
    }

    /// Whether enough others know that it was removed, if they know what is chosen up to this slot.
    pub(super) fn may_be_told(&self, known_slot: Slot) -> bool {
        self.removed_at <= Some(known_slot)
    }

    fn in_flight(&self) -> u64 {
        if self.probed { (self.next.0 - 1).saturating_sub(self.durable.0) } else { 0 }
    }

    /// What stays in flight of what was, by its share of the slots.
    fn leave_in_flight(&mut self, before: u64) {
        let after = self.in_flight();
        self.in_flight_bytes = share(self.in_flight_bytes, after, before);
        self.in_flight_messages = share(self.in_flight_messages, after, before);
    }

    /// Everything after `held` is to be sent, or sent again.
    fn send_from(&mut self, held: Slot) {
        self.next = held.next();
        self.in_flight_bytes = 0;
        self.in_flight_messages = 0;
    }

    /// The member misses what comes after `held`, which was sent: again, unless this answer is older than
    /// the last time.
    fn send_missed(&mut self, held: Slot, now: Nanos, resend_nanos: u64) {
        if let Some(missed) = &mut self.missed
            && held <= missed.after
            && missed.older_answers > 0
            && now < missed.until
        {
            missed.older_answers -= 1;
            return;
        }
        // Besides the one that was lost, and the one that this answers.
        let behind = (self.next.0 - 1).saturating_sub(held.0);
        let older_answers =
            share(self.in_flight_messages, behind, self.in_flight()).saturating_sub(2);
        self.missed = Some(Missed { after: held, older_answers, until: now + resend_nanos });
        self.send_from(held);
    }

    fn go_back(&mut self) {
        if self.probed {
            self.next = self.durable.next();
        }
        self.in_flight_bytes = 0;
        self.in_flight_messages = 0;
        self.missed = None;
        self.told = self.chosen;
        // Whether it heard what may be trimmed, nobody says: once more.
        self.told_trim = Slot(0);
        self.ask = true;
    }

    /// Whether it is to answer what it is told.
    fn asks(&self) -> bool {
        self.ask || self.removed_at.is_some()
    }

    /// It has acknowledged all that it was sent, and nothing was asked since.
    fn was_only_told(&self, trimmed: Slot) -> bool {
        let reached = self.probed && self.in_flight() == 0 && self.next > trimmed;
        reached && !self.introduce && !self.asks()
    }

    fn waits(&self, chosen: Slot) -> bool {
        self.in_flight() > 0 || self.chosen < chosen || self.ask || self.introduce
    }
}

/// Of `whole` that belongs to `before` slots, what belongs to `after` of them.
fn share(whole: u64, after: u64, before: u64) -> u64 {
    (u128::from(whole) * u128::from(after.min(before)) / u128::from(before.max(1))) as u64
}

impl Replica {
    /// A new member asked to be told of its group.
    pub(super) fn introduce(&mut self, id: MemberId) {
        if let Role::Leading(leadership) = &mut self.role
            && let Some(progress) = leadership.sent_to_mut(id)
        {
            progress.introduce = true;
            progress.resend_at = None;
        }
    }

    pub(super) fn on_accepted(&mut self, from: MemberId, message: &Message, now: Nanos) {
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
        let resend_nanos = self.settings.resend_nanos;
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
        let Some(progress) = leadership.sent_to_mut(from) else { return };
        if !progress.probed && current {
            progress.probed = true;
            // It may have been asked more than once, and then answers so.
            let older_answers = progress.in_flight_messages.saturating_sub(1);
            let until = now + resend_nanos;
            progress.missed = Some(Missed { after: held, older_answers, until });
            progress.send_from(held);
        }
        if durable > progress.durable {
            let before = progress.in_flight();
            progress.durable = durable.min(last);
            progress.next = progress.next.max(progress.durable.next());
            progress.leave_in_flight(before);
            progress.resend_at = None;
        }
        if gap && current && held.next() < progress.next {
            // Lost on the way; or in the member's log, which was damaged since it acknowledged. What
            // it claims less now counts less (and if the message is only late, it comes again).
            progress.send_missed(held, now, resend_nanos);
            progress.durable = progress.durable.min(held);
        }
        progress.chosen = progress.chosen.max(chosen);
        // 0: it keeps no state, or not any more.
        let keeps = applied > Slot(0);
        progress.applied = if keeps { progress.applied.max(applied) } else { Slot(0) };
        // The same, of a state that turned out damaged: no log is trimmed by it.
        progress.checkpoint =
            if checkpoint > Slot(0) { progress.checkpoint.max(checkpoint) } else { Slot(0) };
        progress.ask = false;
        progress.introduce = false;
        progress.parked = false;
        progress.resends = 0;
        if current {
            progress.bound = progress.bound.max(epoch);
        }
    }

    /// A connection to this shard is new: what was lost with the one before goes again with the next
    /// [`super::Input::Tick`]. A follower's shard hears this one at once, and takes its state for complete.
    pub fn reconnected(&mut self, peer: Peer) {
        let Role::Leading(leadership) = &mut self.role else { return };
        let sent_to = leadership.progress.iter_mut().chain(&mut leadership.leaving);
        for progress in sent_to.filter(|progress| progress.peer == peer) {
            if progress.resend_at.is_some() {
                (progress.resend_at, progress.resends) = (Some(Nanos(0)), 0);
            }
        }
    }

    /// Sends every member what it may have.
    pub(super) fn replicate(&mut self, at: At<'_>, effects: &mut Vec<Effect>) {
        let chosen = self.acceptor.chosen();
        let Role::Leading(leadership) = &mut self.role else { return };
        if let (false, Some(in_force)) =
            (leadership.leaving.is_empty(), self.configurations.relevant().first())
        {
            let known = |member: &Member| match leadership.progress(member.id) {
                Some(progress) => progress.chosen,
                None => chosen,
            };
            leadership.known_slot = in_force.configuration.quorum_value(known);
        }
        let known_slot = leadership.known_slot;
        let mut progresses = core::mem::take(&mut leadership.progress);
        let mut leaving = core::mem::take(&mut leadership.leaving);
        let is_waited_for = leaving.iter().any(|progress| !progress.may_be_told(known_slot));
        for progress in &mut progresses {
            progress.ask |= is_waited_for && progress.chosen < chosen;
            self.replicate_to(progress, at, effects);
        }
        leaving.retain_mut(|progress| {
            if !progress.may_be_told(known_slot) {
                return true;
            }
            let told = Some(progress.chosen) >= progress.removed_at;
            if !told {
                self.replicate_to(progress, at, effects);
            }
            !told && !progress.parked
        });
        let Role::Leading(leadership) = &mut self.role else { return };
        (leadership.progress, leadership.leaving) = (progresses, leaving);
    }

    /// The last slot that is for this member, how far it is told what is chosen, and what may leave its log.
    fn bounds(&self, progress: &Progress) -> (Slot, Slot, Slot) {
        match progress.removed_at {
            Some(slot) => (slot, slot, Slot(0)),
            None => (self.acceptor.stream_slot(), self.acceptor.chosen(), self.may_trim),
        }
    }

    fn replicate_to(&self, progress: &mut Progress, at: At<'_>, effects: &mut Vec<Effect>) {
        let (_, chosen, trim) = self.bounds(progress);
        let leaves = progress.removed_at.is_some();
        let granted = at.liveness.granted(progress.peer).filter(|(_, until)| at.now < *until);
        if progress.parked {
            if granted.is_none() {
                return;
            }
            progress.parked = false;
            progress.go_back();
        }
        let was_only_told = progress.was_only_told(self.trimmed);
        if granted.is_some_and(|(epoch, _)| progress.bound < Some(epoch)) {
            // The support lapsed since: one round for this group before it counts again.
            progress.ask = true;
        }
        let supports = at.liveness.supports(progress.peer, at.now);
        if supports > *progress.supported.get_or_insert(supports) {
            // The member was not heard for a while: it cannot know that it is still one.
            progress.supported = Some(supports);
            progress.ask = true;
        }
        let is_late = progress.resend_at.is_some_and(|resend_at| at.now >= resend_at);
        let due = is_late && progress.waits(chosen);
        let given_up = leaves && pace::is_slowest(progress.resends);
        if due && (granted.is_none() || given_up) {
            progress.parked = true;
            progress.resend_at = None;
            return;
        }
        if due {
            progress.resends = pace::count(progress.resends);
            progress.go_back();
        }
        let fresh = due || was_only_told || progress.resend_at.is_none();
        // Something was sent that will be answered: only that restarts the timer.
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
            let news = progress.told_trim < trim;
            progress.ask |= news && !sent;
            if !sent && (news || progress.told < chosen || (progress.ask && fresh)) {
                self.send_chosen(progress, effects);
                sent = progress.asks();
            }
        }
        if !progress.waits(chosen) {
            progress.resend_at = None;
        } else if sent || progress.resend_at.is_none() {
            let only_told = progress.was_only_told(self.trimmed);
            let attempts = if only_told { pace::SLOWEST } else { progress.resends };
            let wait_nanos = pace::wait_nanos(self.settings.resend_nanos, attempts);
            progress.resend_at = Some(at.now + wait_nanos);
        }
    }

    /// Sends the next range, if the windows allow one.
    fn send_entries(&self, progress: &mut Progress, effects: &mut Vec<Effect>) -> bool {
        let Settings { peer_window_slots, peer_window_bytes, .. } = self.settings;
        let (end, chosen, trim) = self.bounds(progress);
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
        let message = Message::Accept { ballot: self.acceptor.stream(), first, chosen, trim };
        effects.push(Effect::Send { to: progress.id, message, last });
        progress.next = last.next();
        (progress.told, progress.told_trim) = (chosen, trim);
        progress.in_flight_bytes += bytes;
        progress.in_flight_messages += 1;
        true
    }

    fn send_chosen(&self, progress: &mut Progress, effects: &mut Vec<Effect>) {
        let (ballot, (end, chosen, trim)) = (self.acceptor.stream(), self.bounds(progress));
        // Of what was sent, so that a member ahead of its messages sees no gap.
        let last = if progress.probed { Slot(progress.next.0 - 1).min(end) } else { end };
        let message = Message::Chosen { ballot, chosen, last, trim, ask: progress.asks() };
        (progress.told, progress.told_trim) = (chosen, trim);
        if !progress.probed || progress.in_flight() > 0 {
            // The answer may say that it misses something.
            progress.in_flight_messages += 1;
        }
        effects.push(Effect::Send { to: progress.id, message, last: Slot(0) });
    }

    fn send_trimmed(&self, progress: &mut Progress, effects: &mut Vec<Effect>) {
        // To one that leaves the members without it: no log, and no snapshot.
        let base = self.trimmed.max(progress.removed_at.unwrap_or_default());
        let Some(&configuration) = self.configurations.after(base) else { return };
        let (ballot, configuration) = (self.acceptor.stream(), Box::new(configuration));
        let message = Message::Trimmed { ballot, base, configuration };
        effects.push(Effect::Send { to: progress.id, message, last: Slot(0) });
    }
}
