//! How much merge work a turn does, and when writes wait for it.
//!
//! ```text
//!   room at the checkpoint's begin   ├───────── of the log, and of the active generation ─────────┤
//!   may be used                      ├── head start ──┤··· the rest, as the checkpoint proceeds ···┤
//! ```
//!
//! **Writes pay.** What is left to merge, divided by the writes that still fit the log and the active
//! generation, is the work that each write of a turn must pay for. So the merge is done before
//! either is full, at any rate of writes that processor and device can follow; an idle shard works
//! in slices of the configured length.
//!
//! **Writes wait.** Beyond that rate, writes may use up the room only as the checkpoint proceeds. So
//! they slow down to its speed from the start, each a little, where they would otherwise run at full
//! speed into a full log and then stand still.
//!
//! Both need room: checkpoints begin while half of the log is free. Then no write waits longer than
//! the device needs for what it can have in flight, whatever its speed and theirs: 20 ms on a
//! simulated device of 20 MB/s whose checkpoints take 450 ms. With checkpoints that begin in a log
//! that is nine tenths full it was up to twice what is in flight.

use forebay_core::ids::Lsn;

use super::checkpoint::Phase;
use super::{Refused, Store};

/// A unit of merge work is about 100 ns.
const UNITS_PER_MICRO: usize = 10;
/// Most work in a turn, in slices.
const SLICES_PER_TURN_MAX: usize = 4;
/// Least work in a turn while a merge is under way.
const SLICE_UNITS_MIN: usize = 200;
/// Work that one write pays for at most: a leaf read and written for each.
const UNITS_PER_WRITE_MAX: usize = 60;
/// First guess of the work for each entry, until the merge has shown it.
const UNITS_PER_ENTRY_GUESS: usize = 12;
/// The merge should be done when this part of the room is used.
const DONE_AT: f64 = 0.8;
/// What writes may use before the checkpoint has done anything.
const HEAD_START: f64 = 0.25;
/// What an entry takes in log and overlay beside its bytes, about.
const ENTRY_OVERHEAD_BYTES: u64 = 64;
/// Writes after which their use of the log is known well enough.
const WRITES_KNOWN: u64 = 1_000;

/// Where writes and device stood when the checkpoint began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Begun {
    end_lsn: Lsn,
    log_free_bytes: u64,
    writes: u64,
    written_bytes: u64,
}

impl Store {
    /// To be called as a checkpoint begins.
    pub(super) fn begin_pace(&mut self) {
        self.checkpoint.begun = Begun {
            end_lsn: self.log.end_lsn(),
            log_free_bytes: self.log.free_bytes(),
            writes: self.writes_begun(),
            written_bytes: self.checkpoint.written_bytes,
        };
    }

    /// How much merge work this turn's writes must pay for.
    pub(super) fn slice_units(&self) -> usize {
        let checkpoint = &self.checkpoint;
        let slice = self.config.merge_slice_micros as usize * UNITS_PER_MICRO;
        let writes = (self.writes_begun() - checkpoint.paid_writes) as usize;
        if writes == 0 && self.pending.is_empty() {
            return slice;
        }
        let per_entry = match checkpoint.merged_entries {
            0 => UNITS_PER_ENTRY_GUESS,
            merged => (checkpoint.units_used / merged).max(1),
        };
        let left = checkpoint.frozen_entries.saturating_sub(checkpoint.merged_entries) * per_entry;
        let per_write = (left / self.writes_left()).min(UNITS_PER_WRITE_MAX);
        // A turn of many writes may take a few slices' time, but not more: a merge that falls behind
        // makes writes wait, which is smoother than one long turn.
        (writes * per_write).clamp(SLICE_UNITS_MIN, SLICES_PER_TURN_MAX * slice)
    }

    /// Writes that still fit before the merge should be done.
    fn writes_left(&self) -> usize {
        let begun = &self.checkpoint.begun;
        let active_bytes = self.overlay.active_bytes() as u64;
        let entry_bytes =
            active_bytes / self.overlay.active_entries().max(1) as u64 + ENTRY_OVERHEAD_BYTES;
        let generation = self.config.overlay_generation_bytes as f64;
        let in_overlay = (generation * DONE_AT - active_bytes as f64) / entry_bytes as f64;

        let writes = self.writes_begun() - begun.writes;
        let used_bytes = self.log.end_lsn().0 - begun.end_lsn.0;
        let record_bytes =
            if writes < WRITES_KNOWN { entry_bytes } else { (used_bytes / writes).max(1) };
        let log = begun.log_free_bytes as f64 * DONE_AT - used_bytes as f64;
        in_overlay.min(log / record_bytes as f64).max(1.0) as usize
    }

    /// The part of the checkpoint that is done: of its entries merged, the part whose pages are
    /// written.
    fn checkpoint_progress(&self) -> f64 {
        let checkpoint = &self.checkpoint;
        let merged = match (&checkpoint.phase, checkpoint.frozen_entries) {
            (Phase::Merging, 1..) => {
                checkpoint.merged_entries as f64 / checkpoint.frozen_entries as f64
            }
            _ => 1.0,
        };
        let written = (checkpoint.written_bytes - checkpoint.begun.written_bytes) as f64;
        let unwritten = self.cache.unwritten_bytes() as f64;
        merged * (written + 1.0) / (written + unwritten + 1.0)
    }

    /// The part of the room at the checkpoint's begin that writes have used since.
    fn room_used(&self) -> f64 {
        let begun = &self.checkpoint.begun;
        let of_log = (self.log.end_lsn().0 - begun.end_lsn.0) as f64
            / (begun.log_free_bytes as f64).max(1.0);
        of_log.max(self.overlay.fill().active)
    }

    /// Whether writes come faster than the checkpoint proceeds: its page writes hurry then.
    pub(super) fn is_falling_behind(&self) -> bool {
        !self.checkpoint.is_idle() && self.room_used() * DONE_AT > self.checkpoint_progress()
    }

    /// Lets a write wait that is too far ahead of the checkpoint.
    pub(super) fn admit_at_pace(&self) -> Result<(), Refused> {
        // Nobody knows when a blocked one goes on: then the room counts, to its end.
        let checkpoint = &self.checkpoint;
        if checkpoint.is_idle() || checkpoint.is_blocked() {
            return Ok(());
        }
        let used = self.room_used();
        if used <= HEAD_START {
            return Ok(());
        }
        let allowed = HEAD_START + (1.0 - HEAD_START) * self.checkpoint_progress();
        if used <= allowed { Ok(()) } else { Err(Refused::Overloaded) }
    }
}
