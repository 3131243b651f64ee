//! The control lane: operator HTTP on threads of its own.
//!
//! ```text
//!   operator ── HTTP ──► control threads ── load, relaxed ──► ShardMetrics ◄── shards
//!                        (tokio, hyper)                        (no way back: nothing here
//!                                                               can make a shard wait)
//! ```
//!
//! | path | answer |
//! |---|---|
//! | `/` | the list of paths |
//! | `/health` | 200 when every shard serves, 503 otherwise; JSON |
//! | `/metrics` | OpenMetrics text |
//! | `/status` | the node as JSON ([`status::NodeStatus`]) |
//!
//! *Invariant*: losing this lane disturbs no request. It shares with the shards only atomics and
//! one list that the shard publishes by `try_lock`; everything it does is bounded (connections,
//! header bytes, seconds per connection, requests at work); a panic in a handler ends in a 500 and
//! a counter. What is left out: authentication and TLS. The listener binds to loopback unless the
//! operator says otherwise.

mod exposition;
mod server;
mod source;
pub mod status;

#[cfg(test)]
mod tests;

pub use server::{ControlConfig, ControlCounters, ControlError, ControlServer};
pub use source::{NodeSource, boottime_nanos};

use std::sync::Arc;

use crate::metrics::ShardMetrics;
use crate::tls::NodeTls;
use status::{Health, NodeStatus};

/// Where the control lane gets its answers. All methods run on control threads and may block; none
/// may make a shard wait.
pub trait ControlSource: Send + Sync + 'static {
    /// For `/health`.
    fn health(&self) -> Health;
    /// For `/status`.
    fn status(&self) -> NodeStatus;
    /// For `/metrics`.
    fn metrics(&self) -> Vec<Arc<ShardMetrics>>;
    /// For `/metrics`, of a node that speaks TLS.
    fn tls(&self) -> Option<Arc<NodeTls>> {
        None
    }
}
