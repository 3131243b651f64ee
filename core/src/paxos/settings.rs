//! Windows and paces of a group, with their reasons.

use crate::time::Nanos;

/// The same on all members, though nothing depends on that but fairness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Proposed and not chosen, in slots: what a slow disk may put between a request and its answer.
    pub window_slots: u64,
    /// Proposed and not chosen, in bytes: the memory that a group without a quorum may hold.
    pub window_bytes: u64,
    /// Sent to one member and not acknowledged, in slots.
    pub peer_window_slots: u64,
    /// Sent to one member and not acknowledged, in bytes.
    pub peer_window_bytes: u64,
    /// In one message, in bytes; one entry may be larger.
    pub batch_bytes: u64,
    /// In one message, in slots.
    pub batch_slots: u64,
    /// In one message and in flight, in slots, when a member catches up from the log: the shell has
    /// to read those from the disk.
    pub catch_up_slots: u64,
    /// Silence of a member that lives before its messages are sent again.
    pub resend_nanos: u64,
    /// Before a canvass or a Prepare is repeated; elections are spread over as much again. Attempts
    /// after the first few wait twice as long each time: see the `pace` module.
    pub election_retry_nanos: u64,
    /// Elections begin within this time after a leader is missed, each member at its own moment.
    pub election_spread_nanos: u64,
    /// A candidate and a leader without a quorum give up after this.
    pub give_up_nanos: u64,
    /// A hand-over that has not come to its end by then is over, on either side of it: clients' writes
    /// wait for it meanwhile.
    pub hand_over_nanos: u64,
    /// A log replica is promoted when its state is at most this far behind.
    pub promote_lag_slots: u64,
}

impl Settings {
    /// For NVMe and a data centre's network.
    pub const DEFAULT: Settings = Settings {
        window_slots: 4096,
        window_bytes: 8 << 20,
        peer_window_slots: 8192,
        peer_window_bytes: 16 << 20,
        batch_bytes: 1 << 20,
        batch_slots: 1024,
        catch_up_slots: 256,
        resend_nanos: 50 * Nanos::PER_MILLI,
        election_retry_nanos: 40 * Nanos::PER_MILLI,
        election_spread_nanos: 20 * Nanos::PER_MILLI,
        give_up_nanos: 1000 * Nanos::PER_MILLI,
        hand_over_nanos: 200 * Nanos::PER_MILLI,
        promote_lag_slots: 1000,
    };
}

const _: () = {
    let settings = Settings::DEFAULT;
    assert!(settings.peer_window_slots >= settings.window_slots);
    assert!(settings.batch_slots <= settings.peer_window_slots);
    assert!(settings.batch_bytes <= settings.peer_window_bytes);
};
