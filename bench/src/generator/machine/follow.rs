//! Following leaders: where operations go while replicas change their minds, and noticing that one is
//! silent.
//!
//! ```text
//!   "ask another" ── the leader is named, and this lane is connected to it ──► sent there at once
//!        └────────── otherwise ──► pause ──► the next replica with a connection
//! ```
//!
//! Pauses grow from 2 ms to 32 ms, half of each at random. Operations that wait are under way for all
//! that the report says: their latency counts, and so does the gap without a success.
//!
//! A node whose process is stopped keeps its connections. So a connection on which operations wait in
//! silence is asked a question after half of [`SILENCE_NANOS`] that any live node answers at once, and
//! is given up after all of it; what it carried has an unknown outcome. Stores without replicas are
//! waited for up to `--timeout`: there is nobody else to ask.

use forebay_core::time::Nanos;
use forebay_net::machine::ConnId;

use super::{Generator, encode, request};
use crate::target::{Codec as _, Target, follow, open_route};

/// A node that says nothing at all for so long while it was asked something is stopped or cut off.
const SILENCE_NANOS: u64 = 300 * Nanos::PER_MILLI;
/// So many named leaders are followed at once before there is a pause.
const FOLLOWED_AT_ONCE: u32 = 3;
const PAUSE_MIN_NANOS: u64 = 2 * Nanos::PER_MILLI;
const PAUSE_DOUBLINGS_MAX: u32 = 4;

/// The pause before an operation's next try.
pub(super) fn pause_nanos(correlation: u64, moves: u32) -> u64 {
    let longest = PAUSE_MIN_NANOS << moves.min(PAUSE_DOUBLINGS_MAX);
    // Any function that tells slots apart will do; this is Fibonacci hashing.
    let mixed = (correlation ^ u64::from(moves) << 20).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    longest / 2 + ((longest / 2 * mixed) >> 32)
}

impl<T: Target> Generator<T> {
    /// Sends what was refused by a replica that does not lead, or could not be sent before.
    pub(super) fn start_moved(&mut self, now: Nanos) {
        let addresses = self.address_count();
        while let Some(moved) = self.slots.take_moved(now) {
            let key = self.keys.spell(moved.planned.record);
            let first = moved.lane * addresses;
            let (target, sockets) = (&*self.target, &self.sockets);
            let is_up = |at: usize| sockets[first as usize + at].is_up;
            let next = match moved.told {
                Some(leader) => {
                    let from = (moved.socket - first) as usize;
                    follow(target, key, from, leader, is_up)
                        .filter(|_| !moved.moves.is_multiple_of(FOLLOWED_AT_ONCE + 1))
                }
                None => open_route(target, key, is_up),
            };
            let Some(at) = next else {
                let pause = pause_nanos(moved.correlation, moved.moves);
                self.slots.wait(moved, now + pause);
                continue;
            };
            let socket = first + at as u32;
            let is_read = self.slots.resume(moved, socket, now);
            let request = request(&mut self.slots.source, moved.planned, is_read, key);
            encode(&mut self.sockets, &mut self.dirty, socket, request, moved.correlation);
        }
    }

    /// Looks for nodes that have stopped.
    pub(super) fn listen_for_silence(&mut self, now: Nanos) {
        let mut silent: Vec<(u32, ConnId)> = Vec::new();
        for (index, sent) in self.slots.under_way() {
            let socket = &mut self.sockets[index as usize];
            let Some(conn) = socket.conn else { continue };
            let silence = now.since(sent.max(socket.heard));
            if silence >= SILENCE_NANOS {
                if !silent.contains(&(index, conn)) {
                    silent.push((index, conn));
                }
            } else if silence >= SILENCE_NANOS / 2 && socket.probed < sent.max(socket.heard) {
                socket.probed = now;
                socket.codec.probe(&mut socket.out);
                if !socket.dirty {
                    socket.dirty = true;
                    self.dirty.push(index);
                }
            }
        }
        for (index, conn) in silent {
            self.refuse(index, conn, "a node fell silent and its connection was given up", now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_within_their_bounds_and_differ_between_slots() {
        for (moves, longest_millis) in [(0, 2), (1, 4), (4, 32), (99, 32)] {
            let longest = longest_millis * Nanos::PER_MILLI;
            let pauses: Vec<u64> = (0..64).map(|slot| pause_nanos(slot, moves)).collect();
            assert!(pauses.iter().all(|pause| (longest / 2..=longest).contains(pause)));
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
    }
}
