//! What links do because time went by: dial, keep alive, give up.

use forebay_core::message::peer::KeepAlive;
use forebay_core::time::Nanos;

use super::counters::UNFINISHED;
use super::{Dialing, LINK_TOKEN_BIT, Link, LinkSettings, Links, Phase};
use crate::machine::Effects;

/// Doublings after which the wait is the longest whatever the settings.
const FAILURES_MAX: u32 = 20;

impl Links {
    /// Whether timers may say in this turn who is silent; see [`super::PauseGuard`]. Ask once a
    /// turn, after all events were delivered.
    pub fn may_judge(&mut self, now: Nanos) -> bool {
        self.guard.may_judge(now)
    }

    /// The turn ends, and the shell will be back by `wake_at` even if nothing happens.
    pub fn sleeps_until(&mut self, wake_at: Nanos) {
        self.guard.sleeps_until(wake_at);
    }

    /// Pauses of this process that [`Links::may_judge`] noticed.
    #[must_use]
    pub fn pauses(&self) -> u64 {
        self.guard.pauses()
    }

    /// When [`Links::tick`] has something to do.
    #[must_use]
    pub fn next_due(&self) -> Nanos {
        self.due
    }

    /// Does what is due. `random` spreads the dials; only after [`Links::may_judge`] said yes.
    pub fn tick(&mut self, now: Nanos, random: u64, fx: &mut Effects) {
        if now < self.due {
            return;
        }
        for slot in 0..self.conns.len() {
            self.tick_conn(slot, now);
        }
        for place in 0..self.links.len() {
            self.tick_link(place, now, random, fx);
        }
        let conns = self.conns.iter().flatten();
        let conns = conns.filter_map(|conn| conn_due(conn, &self.settings));
        let links = self.links.iter().filter_map(|link| link_due(link, &self.settings));
        self.due = conns.chain(links).min().unwrap_or(Nanos(u64::MAX));
    }

    fn tick_conn(&mut self, slot: usize, now: Nanos) {
        let settings = self.settings;
        let Some(found) = self.conns[slot].as_deref_mut() else { return };
        let conn = found.id;
        match found.phase {
            Phase::Stranger | Phase::Greeting => {
                if now.since(found.opened_at) >= settings.hello_nanos_max {
                    self.counters.greetings_timed_out += 1;
                    self.end(conn, now);
                }
            }
            Phase::Established => {
                let lasted = found.unfinished_since.map_or(0, |since| now.since(since));
                if now.since(found.heard_at) >= settings.silent_nanos_max {
                    self.counters.silent += 1;
                    self.end(conn, now);
                } else if lasted >= settings.frame_nanos_max {
                    self.counters.frames_unfinished += 1;
                    self.note(conn, UNFINISHED, &"a frame that does not end");
                    self.misbehaved(conn, now);
                } else if now.since(found.said_at) >= settings.keep_alive_nanos {
                    // Also while a buffer is on its way, so that this is not due at once again.
                    found.said_at = now;
                    if found.outbox.is_empty() && !found.outbox.is_sending() {
                        let count = found.keep_alives;
                        found.keep_alives += 1;
                        found.outbox.push_urgent(&KeepAlive { count }, &settings);
                        self.mark(conn);
                    }
                }
            }
            Phase::Closing { .. } => {}
        }
    }

    fn tick_link(&mut self, place: usize, now: Nanos, random: u64, fx: &mut Effects) {
        let settings = self.settings;
        let link = &mut self.links[place];
        if link.established.is_some() {
            return;
        }
        if let Dialing::Connecting { since, .. } = link.dialing
            && now.since(since) >= settings.dial_nanos_max
        {
            self.counters.dials_failed += 1;
            link.dialing = Dialing::Failed { refused: false };
        }
        if let Dialing::Failed { refused } = link.dialing {
            let wait = link.wait(refused, random, &settings);
            link.dialing = Dialing::Waiting { until: Some(now + wait) };
        }
        if let Dialing::Waiting { until } = link.dialing
            && until.is_none_or(|until| now >= until)
        {
            link.dials += 1;
            self.counters.dials += 1;
            let token = LINK_TOKEN_BIT | u64::from(link.peer.0) << 24 | link.dials & 0xff_ffff;
            link.dialing = Dialing::Connecting { token, since: now };
            fx.connect.push((token, link.info.address));
        }
    }
}

impl Link {
    /// Exponential, capped, and drawn between half and all of it.
    fn wait(&mut self, refused: bool, random: u64, settings: &LinkSettings) -> u64 {
        let doubled = settings.backoff_nanos_min.saturating_mul(1 << self.failures);
        let all = doubled.min(settings.backoff_nanos_max);
        let all = if refused { settings.backoff_nanos_max } else { all };
        self.failures = (self.failures + 1).min(FAILURES_MAX);
        let drawn = mix(random ^ u64::from(self.peer.0) << 32 ^ self.dials);
        all / 2 + drawn % (all / 2).max(1)
    }
}

/// Splitmix64's output function: one random number serves all links of a tick.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn conn_due(conn: &super::Conn, settings: &LinkSettings) -> Option<Nanos> {
    match conn.phase {
        Phase::Stranger | Phase::Greeting => Some(conn.opened_at + settings.hello_nanos_max),
        Phase::Established => {
            let silent = conn.heard_at + settings.silent_nanos_max;
            let frame = conn.unfinished_since.map(|since| since + settings.frame_nanos_max);
            let due = silent.min(conn.said_at + settings.keep_alive_nanos);
            Some(frame.map_or(due, |frame| due.min(frame)))
        }
        Phase::Closing { .. } => None,
    }
}

fn link_due(link: &Link, settings: &LinkSettings) -> Option<Nanos> {
    if link.established.is_some() {
        return None;
    }
    match link.dialing {
        Dialing::Waiting { until } => Some(until.unwrap_or(Nanos(0))),
        Dialing::Failed { .. } => Some(Nanos(0)),
        Dialing::Connecting { since, .. } => Some(since + settings.dial_nanos_max),
        // The connection's own time.
        Dialing::Greeting { .. } => None,
    }
}
