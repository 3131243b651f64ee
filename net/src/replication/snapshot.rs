//! Snapshots between shards: who asks whom for what, how fast, and what is done about silence.
//!
//! ```text
//!   Effect::NeedsSnapshot ─┐                                    ┌─ ask of a peer ─► pin, read, part
//!   Offer from a leader ───┼─► wanted ─► Fetch (one a shard) ◄──┤
//!   a lost or damaged state┘      │ ask, part, ask, part …      └─ (Serve, a few a shard)
//!                                 ▼
//!                     Store: install_part … take_installed ─► Input::SnapshotInstalled
//! ```
//!
//! # For whoever changes memberships
//! A log replica becomes a storage replica in three steps, of which this module does the second:
//!
//! 1. `Replication::begin_promotion` at the group's leader: it offers the log replica a snapshot,
//!    again and again while it leads and until the member has begun to keep state. Calling it twice is
//!    calling it once; a new leader must be told again.
//! 2. The log replica asks for a snapshot (the leader, or another storage replica), installs it,
//!    applies what its own log has after it, and goes on applying what is chosen.
//!    `Replication::promotion` says how far that is: [`Promotion::Waiting`], `CatchingUp`, `Ready`.
//! 3. At `Ready`, `Change::Promote` will be accepted. `Replication::end_promotion` forgets it.
//!
//! Nothing is lost if a node or the leader fails in between: begun again, a member that keeps state
//! already is `CatchingUp` or `Ready` at once.
//!
//! # Pace
//! The receiver asks for one part at a time, and for the next when the store has room for it and its
//! rate ([`SnapshotSettings::bytes_per_second`]) allows; the source keeps to the same rate over all
//! that it serves. Silence for [`SnapshotSettings::silent_nanos`] is answered by asking again; after
//! `SILENT_MAX` times, or at a refusal that time does not mend, the next storage replica is asked, by
//! a new transfer from the beginning.
//!
//! # Limits
//! One fetch at a time on a shard; the other members wait in order. Everything that a peer says is
//! checked against the member that it says to be and the shard that it came from; a part that was not
//! asked for is dropped.

use std::collections::VecDeque;

use forebay_core::ids::Slot;
use forebay_core::liveness::Peer;
use forebay_core::message::peer::{
    NoteKind, Route, SnapshotAsk, SnapshotHead, SnapshotMessage, SnapshotNote, SnapshotPart,
};
use forebay_core::paxos::{Input, MemberId};
use forebay_core::time::Nanos;
use forebay_storage::store::{
    GroupOrdinal, InstallError, InstallProgress, NotPinned, SnapshotPin, SnapshotRead, Store,
};

use super::Event;
use super::member::Members;
use super::wanting::Want;
use crate::link::Links;

/// Asked so often in vain, a source is given up.
const SILENT_MAX: u32 = 6;
/// After a refusal that time mends.
const NOT_YET_NANOS: u64 = 50 * Nanos::PER_MILLI;
/// So often, before another source is asked.
const NOT_YET_MAX: u32 = 60;
/// After a snapshot was given up: the disk is full, or the sources are broken.
const GIVEN_UP_NANOS: u64 = 2 * Nanos::PER_SECOND;
/// Between two offers to a log replica.
const OFFER_NANOS: u64 = 300 * Nanos::PER_MILLI;
/// What is being served, in transfers.
const SERVES_MAX: usize = 8;
/// A transfer that nobody asks by is forgotten.
const SERVE_NANOS_MAX: u64 = 15 * Nanos::PER_SECOND;

/// Paces of snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// What a shard serves, and what it fetches, in bytes a second.
    pub bytes_per_second: u64,
    /// An ask that was not answered for so long is repeated.
    pub silent_nanos: u64,
}

impl SnapshotSettings {
    /// For NVMe and a data centre's network: the largest partition, of 10 GB, takes three minutes, and
    /// device, link and processor are the foreground's but for a few percent.
    pub const DEFAULT: SnapshotSettings =
        SnapshotSettings { bytes_per_second: 64 << 20, silent_nanos: 500 * Nanos::PER_MILLI };
}

/// How far a log replica is on its way to become a storage replica, as its leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    /// This member does not lead the group, or it has no such member.
    NotHere,
    /// It keeps no state yet, as far as is known.
    Waiting,
    /// It applies what is chosen, and is too far behind.
    CatchingUp {
        /// Its state contains this slot.
        applied: Slot,
        /// Chosen.
        chosen: Slot,
    },
    /// `Change::Promote` will be accepted.
    Ready,
}

/// How far a snapshot is, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// Items that have arrived.
    pub items: u64,
    /// Of so many.
    pub items_total: u64,
    /// Bytes of keys and items that have arrived.
    pub bytes: u64,
    /// Of so many.
    pub bytes_total: u64,
}

/// The snapshot that is being fetched.
#[derive(Debug)]
struct Fetch {
    group: GroupOrdinal,
    transfer: u64,
    at_least: Slot,
    source: MemberId,
    /// Once the first part has come.
    head: Option<SnapshotHead>,
    part: u32,
    /// The last part has come.
    complete: bool,
    asked_at: Option<Nanos>,
    /// Not asked again before.
    not_before: Nanos,
    silent: u32,
    not_yet: u32,
}

/// A snapshot that is being served.
#[derive(Debug)]
struct Serve {
    group: GroupOrdinal,
    transfer: u64,
    peer: Peer,
    /// From here to the receiver.
    route: Route,
    pin: SnapshotPin,
    head: SnapshotHead,
    asked: Option<(u32, Vec<u8>)>,
    asked_at: Nanos,
}

#[derive(Debug)]
struct Offered {
    group: GroupOrdinal,
    member: MemberId,
    due: Nanos,
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Snapshots {
    settings: SnapshotSettings,
    wanted: VecDeque<GroupOrdinal>,
    fetch: Option<Fetch>,
    /// No fetch begins before: the last one was given up.
    fetch_at: Nanos,
    serves: Vec<Serve>,
    offers: Vec<Offered>,
    notes: Vec<(Peer, Route, u64, NoteKind, Slot)>,
    /// The budget allows the next part to go.
    serve_at: Nanos,
    random: u64,
    due: Option<Nanos>,
    pub(super) progress: Option<InstallProgress>,
    lost: Vec<(GroupOrdinal, Slot)>,
    configuration: Vec<u8>,
}

impl Snapshots {
    pub(super) fn new(settings: SnapshotSettings, seed: u64) -> Snapshots {
        Snapshots {
            settings,
            wanted: VecDeque::new(),
            fetch: None,
            fetch_at: Nanos(0),
            serves: Vec::new(),
            offers: Vec::new(),
            notes: Vec::new(),
            serve_at: Nanos(0),
            random: seed | 1,
            due: None,
            progress: None,
            lost: Vec::new(),
            configuration: Vec::new(),
        }
    }

    pub(super) fn set_settings(&mut self, settings: SnapshotSettings) {
        self.settings = settings;
    }

    pub(super) fn next_due(&self) -> Option<Nanos> {
        self.due
    }

    fn wake_by(&mut self, at: Nanos) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        (self.random >> 8) | 1
    }

    fn pause_nanos(&self, bytes: usize) -> u64 {
        let nanos = bytes as u128 * u128::from(Nanos::PER_SECOND);
        (nanos / u128::from(self.settings.bytes_per_second.max(1))) as u64
    }

    /// The group leaves this shard.
    pub(super) fn forget(&mut self, group: GroupOrdinal) {
        self.wanted.retain(|other| *other != group);
        self.serves.retain(|serve| serve.group != group);
        self.offers.retain(|offer| offer.group != group);
        if self.fetch.as_ref().is_some_and(|fetch| fetch.group == group) {
            self.fetch = None;
        }
    }

    pub(super) fn offer(&mut self, group: GroupOrdinal, member: MemberId, now: Nanos) {
        let same = |offer: &&mut Offered| offer.group == group && offer.member == member;
        if self.offers.iter_mut().find(same).is_none() {
            self.offers.push(Offered { group, member, due: now });
            self.wake_by(now);
        }
    }

    pub(super) fn withdraw(&mut self, group: GroupOrdinal, member: MemberId) {
        self.offers.retain(|offer| offer.group != group || offer.member != member);
    }

    /// A peer said something about a snapshot.
    pub(super) fn receive(
        &mut self,
        members: &mut Members,
        store: &mut Store,
        from: Peer,
        (route, transfer): (Route, u64),
        message: SnapshotMessage<'_>,
        now: Nanos,
    ) {
        let Some(group) = members.addressee(route, from) else { return };
        match message {
            SnapshotMessage::Ask { at_least, part, after } => {
                let asked = (at_least, part, after);
                self.asked(store, group, from, (route, transfer), asked, now);
            }
            SnapshotMessage::Part { head, part, last, entries } => {
                let ours = self.is_fetched(group, route.from, transfer);
                if ours {
                    self.arrived(members, store, head, (part, last), entries, now);
                }
            }
            SnapshotMessage::Note { note, slot } => match note {
                NoteKind::Offer => members.offered(store, group, route.from, slot),
                NoteKind::Done => {
                    if let Some(at) = self.served(transfer, from) {
                        let serve = self.serves.swap_remove(at);
                        store.release_snapshot(serve.pin);
                    }
                }
                refusal => {
                    if self.is_fetched(group, route.from, transfer) {
                        self.refused(members, store, refusal, now);
                    }
                }
            },
        }
    }

    fn is_fetched(&self, group: GroupOrdinal, source: MemberId, transfer: u64) -> bool {
        self.fetch.as_ref().is_some_and(|fetch| {
            (fetch.group, fetch.source, fetch.transfer) == (group, source, transfer)
        })
    }

    fn served(&self, transfer: u64, peer: Peer) -> Option<usize> {
        self.serves.iter().position(|serve| serve.transfer == transfer && serve.peer == peer)
    }

    /// A receiver asks for a part.
    fn asked(
        &mut self,
        store: &mut Store,
        group: GroupOrdinal,
        from: Peer,
        (route, transfer): (Route, u64),
        (at_least, part, after): (Slot, u32, &[u8]),
        now: Nanos,
    ) {
        let back = Route { group: route.group, from: route.to, to: route.from };
        if let Some(at) = self.served(transfer, from) {
            let serve = &mut self.serves[at];
            (serve.asked, serve.asked_at) = (Some((part, after.to_vec())), now);
            return;
        }
        let note = if part > 0 {
            NoteKind::Unknown
        } else if self.serves.len() >= SERVES_MAX {
            NoteKind::Busy
        } else {
            match store.pin_snapshot(group, at_least, now) {
                Ok((pin, head)) => {
                    let asked = Some((part, after.to_vec()));
                    let (peer, asked_at) = (from, now);
                    self.serves.push(Serve {
                        group,
                        transfer,
                        peer,
                        route: back,
                        pin,
                        head,
                        asked,
                        asked_at,
                    });
                    return;
                }
                Err(NotPinned::Behind { .. }) => NoteKind::NotYet,
                Err(NotPinned::NoState) => NoteKind::NotHere,
                Err(NotPinned::Busy) => NoteKind::Busy,
            }
        };
        self.notes.push((from, back, transfer, note, Slot(0)));
    }

    /// A part that was asked for.
    fn arrived(
        &mut self,
        members: &mut Members,
        store: &mut Store,
        head: SnapshotHead,
        (part, last): (u32, bool),
        entries: &[u8],
        now: Nanos,
    ) {
        let pause = self.pause_nanos(entries.len());
        let fetch = self.fetch.as_mut().expect("it is fetched");
        // A repetition, or more than the store has room for.
        if fetch.complete || part != fetch.part || head.slot < fetch.at_least {
            return;
        }
        if fetch.head.is_none() {
            match store.begin_install(fetch.group, head) {
                Ok(()) => fetch.head = Some(head),
                Err(InstallError::Busy) => return,
                Err(error) => return self.failed(members, store, error, now),
            }
        }
        if fetch.head != Some(head) {
            return self.next_source(members, store, now);
        }
        if !store.install_wants_part() {
            return;
        }
        if let Err(error) = store.install_part(entries, last) {
            let _ = store.take_install_failure();
            return self.failed(members, store, error, now);
        }
        let fetch = self.fetch.as_mut().expect("it is fetched");
        fetch.part += 1;
        fetch.complete = last;
        (fetch.asked_at, fetch.silent, fetch.not_yet) = (None, 0, 0);
        fetch.not_before = fetch.not_before.max(Nanos(now.0.saturating_sub(pause))) + pause;
        if last {
            self.say_done(members);
        }
    }

    /// The source may let go.
    fn say_done(&mut self, members: &Members) {
        let Some(fetch) = &self.fetch else { return };
        if let Some((route, peer)) = members.route_to(fetch.group, fetch.source) {
            self.notes.push((peer, route, fetch.transfer, NoteKind::Done, Slot(0)));
        }
    }

    fn refused(&mut self, members: &mut Members, store: &mut Store, note: NoteKind, now: Nanos) {
        let fetch = self.fetch.as_mut().expect("it is fetched");
        if fetch.complete {
            return;
        }
        match note {
            NoteKind::NotYet | NoteKind::Busy if fetch.not_yet < NOT_YET_MAX => {
                fetch.not_yet += 1;
                fetch.asked_at = None;
                fetch.not_before = now + NOT_YET_NANOS;
            }
            NoteKind::Unknown => {
                // It was restarted, or let go: from the beginning, at the same one.
                let (group, source) = (fetch.group, fetch.source);
                store.cancel_install(group);
                let (transfer, at_least) = (self.draw(), self.at_least(members, group));
                self.fetch = Some(Fetch::new(group, transfer, at_least, source, now));
            }
            _ => self.next_source(members, store, now),
        }
    }

    fn at_least(&self, members: &Members, group: GroupOrdinal) -> Slot {
        members.want(group).map_or(Slot(1), |want| want.at_least)
    }

    /// Another storage replica, from the beginning.
    fn next_source(&mut self, members: &mut Members, store: &mut Store, now: Nanos) {
        let Some(fetch) = self.fetch.take() else { return };
        self.fetch = Some(fetch);
        self.say_done(members);
        let fetch = self.fetch.take().expect("just put back");
        store.cancel_install(fetch.group);
        self.again(members, fetch.group, Some(fetch.source), now, NOT_YET_NANOS);
    }

    /// After a pause: another group that waits, or the same again.
    fn again(
        &mut self,
        members: &mut Members,
        group: GroupOrdinal,
        failed: Option<MemberId>,
        now: Nanos,
        pause: u64,
    ) {
        self.fetch_at = now + pause;
        if self.wanted.is_empty() {
            self.begin(members, group, failed, self.fetch_at);
        } else {
            self.wanted.push_back(group);
        }
    }

    /// The install was given up.
    fn failed(
        &mut self,
        members: &mut Members,
        store: &mut Store,
        error: InstallError,
        now: Nanos,
    ) {
        self.say_done(members);
        let Some(fetch) = self.fetch.take() else { return };
        store.cancel_install(fetch.group);
        let pause = match error {
            InstallError::Overtaken { .. } => {
                members.satisfied(fetch.group);
                return;
            }
            InstallError::TooOld { trimmed } => {
                members.wants(fetch.group, Want { from: None, at_least: trimmed });
                NOT_YET_NANOS
            }
            InstallError::Busy => NOT_YET_NANOS,
            _ => {
                eprintln!("forebay: a snapshot was given up: {error}");
                GIVEN_UP_NANOS
            }
        };
        self.again(members, fetch.group, Some(fetch.source), now, pause);
    }

    /// Begins a transfer, from whom the member was told of or, after `failed`, the one after that.
    fn begin(
        &mut self,
        members: &mut Members,
        group: GroupOrdinal,
        failed: Option<MemberId>,
        not_before: Nanos,
    ) {
        let Some(want) = members.want(group) else { return };
        let candidates = members.sources(group);
        let preferred = want.from.filter(|_| failed.is_none()).filter(|id| candidates.contains(id));
        let at = failed.and_then(|failed| candidates.iter().position(|id| *id == failed));
        let next = at.map_or(0, |at| (at + 1) % candidates.len().max(1));
        let Some(source) = preferred.or_else(|| candidates.get(next).copied()) else {
            // Nobody is known now.
            self.fetch_at = not_before.max(self.fetch_at) + GIVEN_UP_NANOS;
            self.wanted.push_back(group);
            return;
        };
        let transfer = self.draw();
        self.fetch = Some(Fetch::new(group, transfer, want.at_least, source, not_before));
    }

    /// What the store has done, what time has brought, and what there is to be said.
    pub(super) fn turn(
        &mut self,
        members: &mut Members,
        store: &mut Store,
        links: &mut Links,
        now: Nanos,
    ) -> bool {
        self.due = None;
        self.take_done(members, store, now);
        if let Some(again) = members.repair(store, now) {
            self.wake_by(again);
        }
        members.take_wanting(&mut self.wanted);
        if self.fetch.is_none() && !self.wanted.is_empty() && now < self.fetch_at {
            self.wake_by(self.fetch_at);
        }
        while self.fetch.is_none()
            && now >= self.fetch_at
            && let Some(group) = self.wanted.pop_front()
        {
            self.begin(members, group, None, now);
        }
        self.ask(members, store, links, now);
        let run_again = self.serve(store, links, now);
        self.make_offers(members, links, now);
        for (peer, route, transfer, note, slot) in self.notes.drain(..) {
            let Route { group, from, to } = route;
            let (group, from, to) = (group.0, from.0, to.0);
            let note = SnapshotNote { group, from, to, transfer, slot: slot.0, note: note as u8 };
            links.send_large(peer, &note);
        }
        self.progress = store.install_progress();
        run_again
    }

    fn take_done(&mut self, members: &mut Members, store: &mut Store, now: Nanos) {
        store.take_lost_states(&mut self.lost);
        for (group, at_least) in self.lost.drain(..) {
            members.wants(group, Want { from: None, at_least });
        }
        if let Some((group, error)) = store.take_install_failure()
            && self.fetch.as_ref().is_some_and(|fetch| fetch.group == group)
        {
            self.failed(members, store, error, now);
        }
        // Nothing may come between the store's step and the replica's.
        if let Some(installed) = store.take_installed() {
            let (group, slot) = (installed.group, installed.slot);
            if self.fetch.as_ref().is_some_and(|fetch| fetch.group == group) {
                self.fetch = None;
            }
            members.installed(group);
            let configuration = &installed.configuration;
            members.step(store, group, Input::SnapshotInstalled { slot, configuration }, now);
            members.events.push(Event::Applied(group, slot));
        }
    }

    fn ask(&mut self, members: &mut Members, store: &mut Store, links: &mut Links, now: Nanos) {
        let Some(fetch) = &mut self.fetch else { return };
        if members.want(fetch.group).is_none() && !store.is_committing_install(fetch.group) {
            // It got on without.
            store.cancel_install(fetch.group);
            self.say_done(members);
            self.fetch = None;
            return;
        }
        let newer = members.want(fetch.group).map_or(Slot(0), |want| want.at_least);
        if fetch.head.is_some_and(|head| head.slot < newer)
            && !store.is_committing_install(fetch.group)
        {
            // The logs have gone on past it: what comes after it is to be had no more.
            let (group, source) = (fetch.group, fetch.source);
            self.say_done(members);
            store.cancel_install(group);
            let transfer = self.draw();
            self.fetch = Some(Fetch::new(group, transfer, newer, source, now));
            return self.wake_by(now);
        }
        if fetch.complete || (fetch.head.is_some() && !store.install_wants_part()) {
            return;
        }
        if let Some(asked_at) = fetch.asked_at {
            let due = asked_at + self.settings.silent_nanos;
            if now < due {
                return self.wake_by(due);
            }
            fetch.silent += 1;
            if fetch.silent > SILENT_MAX {
                return self.next_source(members, store, now);
            }
        } else if now < fetch.not_before {
            let due = fetch.not_before;
            return self.wake_by(due);
        }
        fetch.asked_at = Some(now);
        let due = now + self.settings.silent_nanos;
        let Some((route, peer)) = members.route_to(fetch.group, fetch.source) else {
            return self.wake_by(due);
        };
        let after = if fetch.head.is_some() { store.install_last_key() } else { &[] };
        let ask = SnapshotAsk {
            group: route.group.0,
            from: route.from.0,
            to: route.to.0,
            transfer: fetch.transfer,
            at_least: fetch.at_least.0,
            part: fetch.part,
            after,
        };
        links.send_large(peer, &ask);
        self.wake_by(due);
    }

    /// Serves what was asked for, as far as the rate allows.
    fn serve(&mut self, store: &mut Store, links: &mut Links, now: Nanos) -> bool {
        let mut again = false;
        let mut at = 0;
        while at < self.serves.len() {
            let pause_from = self.serve_at;
            let serve = &mut self.serves[at];
            if now >= serve.asked_at + SERVE_NANOS_MAX {
                store.release_snapshot(serve.pin);
                self.serves.swap_remove(at);
                continue;
            }
            at += 1;
            let Some((part, after)) = &serve.asked else { continue };
            if now < pause_from {
                self.wake_by(pause_from);
                break;
            }
            let refusal = match store.read_snapshot(serve.pin, after, now) {
                SnapshotRead::Part { entries, last } => {
                    let (part, bytes) = (*part, entries.len());
                    let (route, transfer) = (serve.route, serve.transfer);
                    let message = SnapshotPart::new(
                        route,
                        transfer,
                        &serve.head,
                        (part, last),
                        entries,
                        &mut self.configuration,
                    );
                    links.send_large(serve.peer, &message);
                    serve.asked = None;
                    let pause = self.pause_nanos(bytes);
                    self.serve_at = pause_from.max(Nanos(now.0.saturating_sub(pause))) + pause;
                    continue;
                }
                SnapshotRead::NotYet { run_again } => {
                    again |= run_again;
                    continue;
                }
                SnapshotRead::Damaged => NoteKind::NotHere,
                SnapshotRead::Gone => NoteKind::Unknown,
            };
            at -= 1;
            let serve = self.serves.swap_remove(at);
            store.release_snapshot(serve.pin);
            self.notes.push((serve.peer, serve.route, serve.transfer, refusal, Slot(0)));
        }
        again
    }

    /// Tells log replicas that they are to keep state.
    fn make_offers(&mut self, members: &mut Members, links: &mut Links, now: Nanos) {
        let mut offers = std::mem::take(&mut self.offers);
        offers.retain(|offer| members.promotes(offer.group, offer.member));
        for offer in &mut offers {
            if now >= offer.due {
                offer.due = now + OFFER_NANOS;
                if let Some((route, peer)) = members.route_to(offer.group, offer.member) {
                    let note = SnapshotNote {
                        group: route.group.0,
                        from: route.from.0,
                        to: route.to.0,
                        transfer: 0,
                        slot: 1,
                        note: NoteKind::Offer as u8,
                    };
                    links.send_large(peer, &note);
                }
            }
            self.due = Some(self.due.map_or(offer.due, |due| due.min(offer.due)));
        }
        self.offers = offers;
    }
}

impl Fetch {
    fn new(
        group: GroupOrdinal,
        transfer: u64,
        at_least: Slot,
        source: MemberId,
        not_before: Nanos,
    ) -> Fetch {
        Fetch {
            group,
            transfer,
            at_least,
            source,
            head: None,
            part: 0,
            complete: false,
            asked_at: None,
            not_before,
            silent: 0,
            not_yet: 0,
        }
    }
}
