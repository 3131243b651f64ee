//! Paces and limits of links, with their reasons.

use forebay_core::message::peer::{BATCH_BYTES, ENTRY_BYTES_MAX};
use forebay_core::time::Nanos;

/// The same on all nodes, though nothing depends on that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// From the start of a dial until the connection is open, or given up.
    pub dial_nanos_max: u64,
    /// From an open connection until the greeting is done, or given up.
    pub hello_nanos_max: u64,
    /// The first wait between two dials; each further one is twice as long. Each wait is drawn
    /// between half of that and all of it.
    pub backoff_nanos_min: u64,
    /// The longest wait between two dials, and the wait after a refusal that time does not mend.
    pub backoff_nanos_max: u64,
    /// How much later the shard with the higher number dials first, so that crossings are rare.
    pub yield_nanos: u64,
    /// A connection that lived this long was a good one: the next dial's wait is the first again.
    pub stable_nanos: u64,
    /// Nothing was said for so long: say so.
    pub keep_alive_nanos: u64,
    /// Nothing was heard for so long: the connection is dead.
    pub silent_nanos_max: u64,
    /// The rest of a frame did not come for so long, whatever else came: the connection is useless. Long
    /// enough for a full batch over a line of a megabit a second; heartbeats wait behind it so long.
    pub frame_nanos_max: u64,
    /// Bytes queued and in flight to one peer beyond which entries are cut: what a peer that reads
    /// slowly may cost. The groups' own windows are of this order.
    pub data_bytes_max: usize,
    /// Bytes queued and in flight to one peer beyond which messages without entries are dropped too.
    pub queue_bytes_max: usize,
    /// Bytes of greetings and liveness beyond which what is queued of them gives way to the newest.
    pub urgent_bytes_max: usize,
    /// Messages of groups handed over in one turn; the others follow in the next ones, and liveness does
    /// not wait for them.
    pub turn_messages_max: usize,
    /// Bytes of those that wait, of one connection, beyond which they are dropped.
    pub waiting_bytes_max: usize,
    /// Connections that have not greeted yet, at most; a further one ends the oldest.
    pub strangers_max: usize,
    /// A turn this much later than the shell meant to sleep: the process was stopped.
    pub late_nanos_max: u64,
    /// After a stop, sockets are drained for so long at most before anybody is judged.
    pub drain_nanos_max: u64,
}

impl LinkSettings {
    /// For a data centre's network.
    pub const DEFAULT: LinkSettings = LinkSettings {
        dial_nanos_max: 1000 * Nanos::PER_MILLI,
        hello_nanos_max: 1000 * Nanos::PER_MILLI,
        backoff_nanos_min: 20 * Nanos::PER_MILLI,
        backoff_nanos_max: 1000 * Nanos::PER_MILLI,
        yield_nanos: 30 * Nanos::PER_MILLI,
        stable_nanos: 1000 * Nanos::PER_MILLI,
        keep_alive_nanos: 300 * Nanos::PER_MILLI,
        silent_nanos_max: 1000 * Nanos::PER_MILLI,
        frame_nanos_max: 3000 * Nanos::PER_MILLI,
        data_bytes_max: 8 << 20,
        queue_bytes_max: 12 << 20,
        urgent_bytes_max: 256 << 10,
        turn_messages_max: 1024,
        waiting_bytes_max: 16 << 20,
        strangers_max: 64,
        late_nanos_max: 50 * Nanos::PER_MILLI,
        drain_nanos_max: 50 * Nanos::PER_MILLI,
    };
}

const _: () = {
    let settings = LinkSettings::DEFAULT;
    // Two in a row may be late before a living peer is called silent.
    assert!(settings.silent_nanos_max > 3 * settings.keep_alive_nanos);
    // A line that lets no heartbeat through for so long is as good as silent; one that is slow is not cut.
    assert!(settings.frame_nanos_max > settings.silent_nanos_max);
    // The largest entry fits, and a batch of small messages beside a full queue of entries.
    assert!(settings.data_bytes_max >= ENTRY_BYTES_MAX);
    assert!(settings.queue_bytes_max >= settings.data_bytes_max + 2 * BATCH_BYTES);
    // A peer's whole queue may arrive in one turn.
    assert!(settings.waiting_bytes_max > settings.queue_bytes_max);
};
