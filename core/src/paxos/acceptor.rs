//! The acceptor: one promise, the accepted entries, and durability before every answer.
//!
//! ```text
//!          chosen        stream_durable   stream_slot        last
//!   ─────────┤                 │               │               │
//!            │ the leader's, durable           │ an older      │
//!            │                 │ the leader's, │ ballot's tail │
//!            │                 │ on its way    │               │
//!            │                 │ to the log    │               │
//! ```
//!
//! A leader's entries come as a *stream* under its ballot, which begins after the slots that this
//! member knows to be chosen: those hold the same value under every later ballot ("Paxos Made
//! Simple", section 2.2, P2b). `stream_durable` is the acknowledgement.
//!
//! What is to be made durable gets a number in sequence. The log is written in that order, so when a
//! promise is durable, so is everything accepted before it.
//!
//! **A ballot may be reserved**: its promise is written down before it is made, so that a hand-over
//! waits for no log. Meanwhile the member goes on as before. If it restarts it has promised, to nobody
//! yet: whether it may is asked when the owner does.
//!
//! Invariants, asserted:
//! * `promised` never goes down, and no entry has a ballot above it;
//! * **an entry is accepted only if the slot before it is held** (the journal refuses a gap);
//! * a chosen slot is never overwritten, and the origin of the last one is remembered;
//! * `stream_durable <= stream_slot <= last` and `chosen <= last`.

use std::collections::VecDeque;

use super::effect::{Effect, Handle, PersistId};
use super::journal::{Held, Journal};
use super::message::{ConfigurationAt, EntryKind};
use super::planted::{Bug, Planted};
use crate::ids::{Ballot, Slot};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Persist {
    Promise(Ballot),
    Reservation,
    Entries { ballot: Ballot, last: Slot },
    Base,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Acceptor {
    promised: Ballot,
    promised_durable: Ballot,
    /// The log has a promise of it, or will have before anything that is handed to it later.
    reserved: Ballot,
    journal: Journal,
    chosen: Slot,
    /// Of the entry at `chosen`; 0 if that was never held here.
    chosen_origin: Ballot,
    stream: Ballot,
    stream_begin: Slot,
    /// What was on its way to the log when the stream began: `stream_begin` is durable after it.
    stream_begin_id: PersistId,
    stream_slot: Slot,
    stream_durable: Slot,
    /// Entries of the stream from here on are still to be handed to the log.
    stream_logged: Slot,
    persists: VecDeque<(PersistId, Persist)>,
    next_id: u64,
    planted: Planted,
}

impl Acceptor {
    /// An acceptor as its log describes it. Everything in it is durable.
    pub(crate) fn recovered(
        promised: Ballot,
        (chosen, chosen_origin): (Slot, Ballot),
        entries: impl Iterator<Item = Held>,
        planted: Planted,
    ) -> Acceptor {
        let mut journal = Journal::new(chosen);
        let mut highest = promised;
        for entry in entries {
            journal.put(journal.last().next(), entry);
            highest = highest.max(entry.ballot);
        }
        Acceptor {
            // Whoever accepted under a ballot has promised it.
            promised: highest,
            promised_durable: highest,
            reserved: Ballot(0),
            journal,
            chosen,
            chosen_origin,
            stream: Ballot(0),
            stream_begin: chosen,
            stream_begin_id: PersistId(0),
            stream_slot: chosen,
            stream_durable: chosen,
            stream_logged: chosen,
            persists: VecDeque::new(),
            next_id: 0,
            planted,
        }
    }

    #[cfg(any(test, feature = "planted-bugs"))]
    pub(crate) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    pub(crate) fn promised(&self) -> Ballot {
        self.promised
    }

    pub(crate) fn promised_durable(&self) -> Ballot {
        self.promised_durable
    }

    pub(crate) fn reserved(&self) -> Ballot {
        self.reserved
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(crate) fn chosen(&self) -> Slot {
        self.chosen
    }

    /// Of the entry in `slot`, if that is known: of one held, or of the last one chosen.
    pub(crate) fn origin(&self, slot: Slot) -> Option<Ballot> {
        let held = self.journal.get(slot).filter(|held| held.kind != EntryKind::Unknown);
        let chosen = (slot == self.chosen).then_some(self.chosen_origin);
        let known = held.map(|held| held.origin).or(chosen);
        known.filter(|origin| *origin > Ballot(0) || slot == Slot(0))
    }

    pub(crate) fn stream(&self) -> Ballot {
        self.stream
    }

    pub(crate) fn stream_slot(&self) -> Slot {
        self.stream_slot
    }

    pub(crate) fn stream_durable(&self) -> Slot {
        self.stream_durable
    }

    fn persist(&mut self, what: Persist) -> PersistId {
        self.next_id += 1;
        let id = PersistId(self.next_id);
        self.persists.push_back((id, what));
        id
    }

    /// Promises `ballot`. It counts once [`Acceptor::promised_durable`] has reached it.
    pub(crate) fn promise(&mut self, ballot: Ballot, effects: &mut Vec<Effect>) {
        assert!(ballot > self.promised, "a promise never goes down");
        self.log_accepted(effects);
        self.promised = ballot;
        if self.planted.has(Bug::AnswerUndurablePromise) {
            self.promised_durable = ballot;
        }
        if ballot == self.reserved {
            // It counts when all that was handed to the log before is durable.
            match self.persists.back() {
                None => self.promised_durable = ballot,
                Some(&(last, _)) => self.persists.push_back((last, Persist::Promise(ballot))),
            }
            return;
        }
        let id = self.persist(Persist::Promise(ballot));
        effects.push(Effect::PersistPromise { id, ballot });
    }

    /// Writes the promise of `ballot` down, for [`Acceptor::promise`] to make later.
    pub(crate) fn reserve(&mut self, ballot: Ballot, effects: &mut Vec<Effect>) {
        if ballot <= self.promised.max(self.reserved) {
            return;
        }
        self.log_accepted(effects);
        self.reserved = ballot;
        let id = self.persist(Persist::Reservation);
        effects.push(Effect::PersistPromise { id, ballot });
    }

    /// The owner of `ballot` leads, or (at the leader itself) is about to.
    pub(crate) fn begin_stream(&mut self, ballot: Ballot, effects: &mut Vec<Effect>) {
        if ballot == self.stream {
            return;
        }
        self.log_accepted(effects);
        assert!(ballot >= self.promised || self.planted.has(Bug::AcceptLowerBallot));
        self.promised = self.promised.max(ballot);
        self.stream = ballot;
        // After a restart the leader's entries are here already.
        let mut slot = self.chosen;
        while self
            .journal
            .get(slot.next())
            .is_some_and(|held| held.ballot == ballot && held.kind != EntryKind::Unknown)
        {
            slot = slot.next();
        }
        // What is still on its way to the log becomes durable in its turn.
        self.stream_begin_id = PersistId(self.next_id);
        self.stream_durable = self.stream_durable.min(self.chosen);
        self.stream_begin = slot;
        self.stream_slot = slot;
        self.stream_logged = slot;
        self.credit_begin();
    }

    fn credit_begin(&mut self) {
        if self.persists.front().is_none_or(|(front, _)| *front > self.stream_begin_id) {
            self.stream_durable = self.stream_durable.max(self.stream_begin);
        }
    }

    /// Accepts the next entry of the stream; returns the entry that it replaces.
    pub(crate) fn accept(&mut self, entry: Held) -> Option<Held> {
        assert_eq!(entry.ballot, self.stream, "an entry belongs to the stream");
        assert!(self.stream >= self.promised || self.planted.has(Bug::AcceptLowerBallot));
        let slot = self.stream_slot.next();
        assert!(slot > self.chosen, "slot {slot} is chosen: nobody overwrites it");
        self.stream_slot = slot;
        self.journal.put(slot, entry)
    }

    /// Makes an entry of an older ballot the stream's own: the same value, proposed again.
    pub(crate) fn accept_own(&mut self) {
        let slot = self.stream_slot.next();
        let held = *self.journal.get(slot).expect("the caller holds it");
        assert!(held.kind != EntryKind::Unknown, "nobody knows what slot {slot} held");
        self.accept(Held { ballot: self.stream, ..held });
    }

    /// Forgets what is accepted after `slot`: a quorum has promised a ballot under which it will
    /// not be proposed, so that it never becomes chosen.
    pub(crate) fn truncate(&mut self, slot: Slot, effects: &mut Vec<Effect>) {
        assert!(slot >= self.stream_slot, "the stream's own entries stay");
        while let Some(gone) = self.journal.pop_after(slot) {
            if gone.handle != Handle::NONE {
                effects.push(Effect::Discard { handle: gone.handle });
            }
        }
    }

    /// Only for the planted bug.
    pub(crate) fn jump_gap(&mut self, slot: Slot) {
        self.journal.pad_to(slot);
        self.stream_slot = slot;
    }

    /// Hands what was accepted since the last call to the log.
    pub(crate) fn log_accepted(&mut self, effects: &mut Vec<Effect>) {
        if self.stream_logged == self.stream_slot {
            return;
        }
        let (ballot, first, last) = (self.stream, self.stream_logged.next(), self.stream_slot);
        let id = self.persist(Persist::Entries { ballot, last });
        self.stream_logged = last;
        if self.planted.has(Bug::AcknowledgeUndurable) {
            self.stream_durable = last;
        }
        effects.push(Effect::PersistEntries { id, ballot, first, last });
    }

    /// Everything up to `id` is durable.
    pub(crate) fn persisted(&mut self, id: PersistId) {
        assert!(id.0 <= self.next_id, "nothing was asked under {id:?}");
        while self.persists.front().is_some_and(|(front, _)| *front <= id) {
            let (_, persist) = self.persists.pop_front().expect("just looked");
            match persist {
                Persist::Promise(ballot) => {
                    self.promised_durable = self.promised_durable.max(ballot);
                }
                Persist::Base | Persist::Reservation => {}
                Persist::Entries { ballot, last } => {
                    self.promised_durable = self.promised_durable.max(ballot);
                    if ballot == self.stream {
                        self.stream_durable = self.stream_durable.max(last);
                    }
                }
            }
        }
        self.credit_begin();
        assert!(self.stream_durable <= self.stream_slot && self.stream_slot <= self.journal.last());
    }

    /// Everything up to `slot` is chosen. Returns whether that is news.
    pub(crate) fn choose(&mut self, slot: Slot) -> bool {
        assert!(slot <= self.journal.last(), "slot {slot} is chosen but not held");
        let news = slot > self.chosen;
        if news {
            self.chosen_origin = self.origin(slot).unwrap_or_default();
            self.chosen = slot;
        }
        news
    }

    /// Applied (or not to be applied): out of memory.
    pub(crate) fn release(&mut self, slot: Slot) {
        assert!(slot <= self.chosen, "only chosen slots are applied");
        self.journal.release(slot);
    }

    /// Writes down where the log begins.
    pub(crate) fn log_base(
        &mut self,
        base: Slot,
        configuration: ConfigurationAt,
        effects: &mut Vec<Effect>,
    ) {
        let (id, configuration) = (self.persist(Persist::Base), Box::new(configuration));
        effects.push(Effect::PersistBase { id, base, configuration });
    }

    /// Everything up to `base` is chosen and held elsewhere: by two checkpoints, or by a snapshot
    /// that this member has made durable. What it holds beyond stays.
    pub(crate) fn begin_after(&mut self, base: Slot) {
        if base > self.chosen {
            // What is held there may be another's that was never chosen.
            self.chosen_origin = Ballot(0);
            self.chosen = base;
        }
        self.journal.release(base);
        self.stream_begin = self.stream_begin.max(base);
        self.stream_slot = self.stream_slot.max(base);
        self.stream_durable = self.stream_durable.max(base);
        self.stream_logged = self.stream_logged.max(base);
    }
}
