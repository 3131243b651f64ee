//! A node whose data directory was deleted comes back by itself.
//!
//! ```text
//!   the node whose shard 0 leads the system group, every second:
//!     a node is not heard ─► Describe ─► its old address
//!       answers under another id, and is in no cluster  ─► it lost its data: join, in its old one's stead
//!       answers under this id, and is in no cluster     ─► it was taken in, and nobody told it: tell it
//!       does not answer, or is the old one               ─► it is down, or cut off: leave it
//! ```
//!
//! The node never takes part under its old identity: it has a new id, a new place and new peer
//! numbers, and holds no member of any group. The old one's members are dead for the leader of the
//! system group, which replaces them through the groups' logs, on the new node too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_core::liveness::{Peer, SHARDS_PER_NODE};

use super::{describe, join};
use crate::exit::Failure;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// A thread beside a node's shards. It ends a moment after this is dropped.
#[derive(Debug)]
pub(crate) struct Rejoin {
    ends: Arc<AtomicBool>,
}

impl Rejoin {
    /// Watches from the node that listens for clients at `own`.
    pub(crate) fn start(own: SocketAddr) -> std::io::Result<Rejoin> {
        let ends = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ends);
        let own = match own.ip().is_unspecified() {
            true if own.is_ipv4() => SocketAddr::from(([127, 0, 0, 1], own.port())),
            true => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, own.port())),
            false => own,
        };
        std::thread::Builder::new().name("rejoin".into()).spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                // Who does not answer now may answer the next time.
                let _ = look(own, &seen);
                std::thread::sleep(LOOK);
            }
        })?;
        Ok(Rejoin { ends })
    }
}

impl Drop for Rejoin {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

fn look(own: SocketAddr, ends: &AtomicBool) -> Result<(), Failure> {
    let known = describe(own)?;
    let Some(topology) = known.topology else { return Ok(()) };
    let here = topology.place_of(&known.node_id);
    let leads = |leader: u32| Some((leader / SHARDS_PER_NODE) as usize) == here;
    if !known.system_leader.is_some_and(leads) {
        return Ok(());
    }
    let missed = known.missed.into_iter().map(Peer).filter(|peer| peer.is_first_shard());
    for peer in missed {
        if ends.load(Ordering::Relaxed) {
            return Ok(());
        }
        let old = &topology.nodes[(peer.0 / SHARDS_PER_NODE) as usize];
        let Some(address) = topology.native(peer) else { continue };
        let Ok(found) = describe(address) else { continue };
        if !found.clustered || found.topology.is_some() {
            continue;
        }
        // Whoever took it in may have died before it was told.
        let lost_its_data = found.node_id != old.node_id;
        match join::join(own, address, lost_its_data.then_some(old.node_id)) {
            Ok((_, place)) if !lost_its_data => {
                eprintln!("forebay: the node at {address} is told that it is in place {place}");
            }
            Ok((_, place)) => eprintln!(
                "forebay: the node at {address} has lost its data; it is node {:032x} now, in place \
                 {place}",
                u128::from_be_bytes(found.node_id)
            ),
            Err(failure) => eprintln!("forebay: {}", failure.message),
        }
    }
    Ok(())
}
