//! What a shard's links count.

use forebay_core::message::peer::{HelloRefusal, PeerError};

use crate::frame::FrameError;

/// Names of [`FrameError`]s, as metrics show them.
pub const FRAME_ERROR_NAMES: [&str; 4] = ["length", "checksum", "version", "header"];

/// The name of a message that does not belong where it came.
pub(super) const OUT_OF_PLACE: &str = "out_of_place";

/// The name of a frame that did not become whole in time.
pub(super) const UNFINISHED: &str = "unfinished";

const HELLO_REFUSALS: usize = HelloRefusal::ALL.len();

/// Over all peers of a shard, since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Messages of liveness and of groups handed to the shell for sending.
    pub messages_sent: u64,
    /// Messages of liveness and of groups received.
    pub messages_received: u64,
    /// Bytes handed to the shell for sending.
    pub bytes_sent: u64,
    /// Bytes received, of strangers too.
    pub bytes_received: u64,
    /// Buffers handed to the shell for sending.
    pub buffers_sent: u64,
    /// Messages dropped because there was no connection.
    pub dropped_unconnected: u64,
    /// Messages dropped because the queue was full.
    pub dropped_full: u64,
    /// Messages queued on a connection that ended.
    pub dropped_lost: u64,
    /// Batches of groups' messages dropped here because too many waited already.
    pub dropped_waiting: u64,
    /// Ranges of entries cut short because the queue was full.
    pub ranges_cut: u64,
    /// Dials begun.
    pub dials: u64,
    /// Dials that did not open a connection.
    pub dials_failed: u64,
    /// Connections greeted on both sides, dialed or accepted.
    pub established: u64,
    /// Of those, all but the first with each peer.
    pub reconnects: u64,
    /// Connections that gave way to a newer one of the same peer.
    pub replaced: u64,
    /// Connections on which nothing was heard for too long.
    pub silent: u64,
    /// Connections that did not finish the greeting in time.
    pub greetings_timed_out: u64,
    /// Strangers' connections that gave way to newer ones.
    pub strangers_evicted: u64,
    /// Greetings refused here, by [`HelloRefusal::index`].
    pub refused: [u64; HELLO_REFUSALS],
    /// Own greetings refused by peers, by [`HelloRefusal::index`].
    pub refused_by_peers: [u64; HELLO_REFUSALS],
    /// Broken frames, in the order of [`FRAME_ERROR_NAMES`]. Each ended its connection.
    pub frame_errors: [u64; FRAME_ERROR_NAMES.len()],
    /// Broken messages, by [`PeerError::index`]. Each ended its connection.
    pub peer_errors: [u64; PeerError::NAMES.len()],
    /// Messages that do not belong where they came. Each ended its connection.
    pub out_of_place: u64,
    /// Frames whose rest did not come in time. Each ended its connection.
    pub frames_unfinished: u64,
}

impl LinkCounters {
    pub(super) fn frame_error(&mut self, error: &FrameError) {
        let index = FRAME_ERROR_NAMES.iter().position(|name| *name == error.name());
        self.frame_errors[index.expect("every frame error has its name here")] += 1;
    }

    pub(super) fn peer_error(&mut self, error: &PeerError) {
        self.peer_errors[error.index()] += 1;
    }

    /// Everything refused here, with its name, for metrics.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let hello = self.refused.into_iter().chain(self.frame_errors).chain(self.peer_errors);
        link_refusal_names().zip(hello.chain([self.out_of_place, self.frames_unfinished]))
    }
}

/// The names of [`LinkCounters::refusals`], in their order.
pub fn link_refusal_names() -> impl Iterator<Item = &'static str> {
    hello_refusal_names()
        .chain(FRAME_ERROR_NAMES)
        .chain(PeerError::NAMES)
        .chain([OUT_OF_PLACE, UNFINISHED])
}

/// The names of [`LinkCounters::refused_by_peers`], in their order.
pub fn hello_refusal_names() -> impl Iterator<Item = &'static str> {
    HelloRefusal::ALL.iter().map(|reason| reason.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        let names: Vec<&str> = link_refusal_names().collect();
        let mut distinct = names.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        let counted = LinkCounters { frames_unfinished: 7, ..LinkCounters::default() };
        assert_eq!(counted.refusals().last(), Some(("unfinished", 7)));
        assert_eq!(counted.refusals().count(), names.len());
    }
}
