//! What an application may set, with defaults that fit most.

use std::time::Duration;

use crate::tls::ClientTls;

/// Settings of a [`Client`](super::Client).
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// This client's certificates, for nodes that ask for them. None: plain text.
    pub tls: Option<ClientTls>,
    /// Connections to each shard. Two, so that one large reply does not hold up the others and a
    /// read whose connection broke has another one at once.
    pub connections_per_shard: usize,
    /// How long an operation may take in all, over waiting, looking for the leader and every attempt:
    /// each has what those before it left. A page of a Query or Scan is one operation, and so is each
    /// part of a batch. Any one operation may be given another time (`timeout` of its builder,
    /// [`Client::with_request_timeout`](super::Client::with_request_timeout)).
    pub request_timeout: Duration,
    /// How long one connection may take to be made, its first answer included.
    pub connect_timeout: Duration,
    /// A connection on which requests wait, and nothing at all arrives for so long, is given up: its
    /// node is stopped or cut off. At half of this time the node is asked for a sign of life, which
    /// one that is merely slow gives.
    pub silence_max: Duration,
    /// Requests of one connection that may be unanswered. Further ones wait for room, so a client's
    /// memory is bounded by this number, the connections, and the sizes of requests and replies.
    pub in_flight_max: usize,
    /// How often a request is sent again that a node refused because it was busy.
    pub retries_max: u32,
    /// How often a request goes on to another node because the one asked does not lead, or stops.
    /// While nobody leads there is a pause of at most 100 ms before each, so that the default outlasts
    /// the default `request_timeout`.
    pub redirects_max: u32,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            tls: None,
            connections_per_shard: 2,
            request_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
            silence_max: Duration::from_millis(500),
            in_flight_max: 256,
            retries_max: 8,
            redirects_max: 256,
        }
    }
}

/// Most unanswered requests that a configuration can allow; a slot number has 32 bits, and a node
/// stops reading long before.
const IN_FLIGHT_LIMIT: usize = 65_536;
/// Shorter silences are the network's, or this machine's.
const SILENCE_MIN: Duration = Duration::from_millis(20);

impl ClientConfig {
    /// The nearest settings that work: at least one connection and one request in flight.
    pub(super) fn bounded(mut self) -> ClientConfig {
        self.connections_per_shard = self.connections_per_shard.clamp(1, 1024);
        self.in_flight_max = self.in_flight_max.clamp(1, IN_FLIGHT_LIMIT);
        self.silence_max = self.silence_max.max(SILENCE_MIN);
        self
    }
}
