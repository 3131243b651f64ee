//! Who leads, and who has what: asked of the nodes, as an operator would.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::error::BenchError;
use crate::fleet::cluster::Cluster;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// Shards of a node that have numbers in the cluster.
const SHARDS_PER_NODE: usize = 256;

/// Members of a whole group.
const MEMBERS: usize = 3;

/// What is looked at of a member, in `forebay admin groups --json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Seen {
    group: u64,
    pub(crate) role: String,
    pub(crate) lease: bool,
    pub(crate) chosen_slot: u64,
    applied_slot: u64,
    /// The last slot that it holds.
    #[serde(default)]
    pub(crate) last_slot: u64,
    /// Of the configuration that it knows: shard, zone, and what the member keeps.
    #[serde(default)]
    pub(crate) members: Vec<(usize, u16, String)>,
    /// Which shard is to get a member, if that is known here.
    #[serde(default)]
    pub(crate) spare: Option<usize>,
    /// Of a snapshot that arrives: bytes, and of how many.
    #[serde(default)]
    pub(crate) snapshot_bytes: Option<(u64, u64)>,
}

/// The node of a shard, by its number in the cluster.
pub(crate) fn node_of(shard: usize) -> usize {
    shard / SHARDS_PER_NODE
}

/// The members of `group` that answer, by their nodes.
pub(crate) fn members(cluster: &Cluster, group: u64) -> Result<Vec<(usize, Seen)>, BenchError> {
    let natives = cluster.natives();
    let mut failed = None;
    for native in &natives {
        match cluster.admin(["groups", &native.to_string(), "--json"]) {
            Ok(text) => return Ok(parse(&text, &natives, group)),
            // It may be the one that is away.
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.expect("a cluster has nodes"))
}

fn parse(text: &str, natives: &[SocketAddr], group: u64) -> Vec<(usize, Seen)> {
    let found: Vec<(SocketAddr, Seen)> = serde_json::from_str(text).unwrap_or_default();
    let of_group = found.into_iter().filter(|(_, seen)| seen.group == group);
    let by_node = of_group.filter_map(|(at, seen)| {
        let node = natives.iter().position(|native| *native == at)?;
        Some((node, seen))
    });
    by_node.collect()
}

/// Looks until `check` finds what it looks for in what it is shown.
async fn until<T>(
    cluster: &Cluster,
    group: u64,
    patience: Duration,
    what: &'static str,
    mut check: impl FnMut(&[(usize, Seen)]) -> Option<T>,
) -> Result<T, BenchError> {
    let deadline = Instant::now() + patience;
    loop {
        let seen = members(cluster, group)?;
        if let Some(found) = check(&seen) {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(BenchError::Refused { what, words: format!("the members say: {seen:?}") });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The node whose member leads and serves.
pub(crate) async fn leader(
    cluster: &Cluster,
    group: u64,
    patience: Duration,
) -> Result<usize, BenchError> {
    until(cluster, group, patience, "finding a leader", |seen| {
        let leads = seen.iter().find(|(_, seen)| seen.role == "leading" && seen.lease);
        leads.map(|(node, _)| *node)
    })
    .await
}

/// Waits until all three members have applied the same slot.
pub(crate) async fn until_equal(
    cluster: &Cluster,
    group: u64,
    patience: Duration,
) -> Result<(), BenchError> {
    until(cluster, group, patience, "waiting for equal members", |seen| {
        let slot = seen.first()?.1.applied_slot;
        let all = seen.iter().all(|(_, seen)| seen.applied_slot == slot);
        (seen.len() == MEMBERS && all).then_some(())
    })
    .await
}

/// Waits until the member on `node` has applied everything that was chosen when this began; how long
/// that took.
pub(crate) async fn until_caught_up(
    cluster: &Cluster,
    group: u64,
    node: usize,
    patience: Duration,
) -> Result<Duration, BenchError> {
    let (began, mut target) = (Instant::now(), None);
    until(cluster, group, patience, "waiting for the node to catch up", |seen| {
        let chosen = seen.iter().map(|(_, seen)| seen.chosen_slot).max()?;
        let target = *target.get_or_insert(chosen);
        let own = seen.iter().find(|(other, _)| *other == node)?.1.applied_slot;
        (own >= target).then(|| began.elapsed())
    })
    .await
}

/// Has the lead moved to the member on `node`.
pub(crate) async fn hand_over(
    cluster: &Cluster,
    group: u64,
    node: usize,
) -> Result<(), BenchError> {
    let asked = cluster.natives()[0].to_string();
    let to = (node * SHARDS_PER_NODE).to_string();
    let group = group.to_string();
    cluster.admin(["move-leader", &asked, "--group", &group, "--to", &to]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_one_group_are_found_by_their_nodes() {
        let text = r#"[["127.0.0.1:2", {"group": 7, "role": "leading", "lease": true, "extra": 1,
            "chosen_slot": 9, "applied_slot": 8}],
            ["127.0.0.1:9", {"group": 7, "role": "following", "lease": false, "chosen_slot": 9,
            "applied_slot": 8}],
            ["127.0.0.1:1", {"group": 0, "role": "following", "lease": false, "chosen_slot": 9,
            "applied_slot": 8}]]"#;
        let natives = ["127.0.0.1:1", "127.0.0.1:2"].map(|at| at.parse().unwrap());
        let found = parse(text, &natives, 7);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0, found[0].1.applied_slot), (1, 8));
        assert!(parse("nonsense", &natives, 7).is_empty());
    }
}
