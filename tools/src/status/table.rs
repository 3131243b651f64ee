//! A node's status for people: one block a topic, one line a shard.

use std::fmt::Write;

use forebay_net::control::status::{DamageStatus, NodeStatus, ShardStatus};

use crate::size::ByteSize;

/// Everything, as text.
pub(super) fn render(status: &NodeStatus) -> String {
    let mut text = String::new();
    let uptime = duration(status.uptime_seconds);
    let _ = writeln!(text, "node      {}", status.node_id);
    let _ = writeln!(text, "version   {}, up {uptime}", status.version);
    let pinned = if status.pinned { "pinned" } else { "not pinned" };
    let _ = writeln!(text, "data      {} ({}, {pinned})", status.data_dir, status.durable_mode);
    let state = status.health.reason.as_deref().unwrap_or("every shard serves");
    let _ = writeln!(text, "health    {}: {state}", status.health.state);

    let size = |bytes: u64| ByteSize(bytes).to_string();
    let per_shard: [Block; 6] = [
        (
            "shards",
            &[
                "shard",
                "native",
                "phase",
                "partitions",
                "connections",
                "paused",
                "waiting",
                "turn max",
            ],
            &|s| {
                vec![
                    s.shard.to_string(),
                    s.native.clone(),
                    phase(s),
                    s.partitions.len().to_string(),
                    s.queues.connections_open.to_string(),
                    s.queues.connections_paused.to_string(),
                    (s.queues.pending_replies + s.queues.waiting_reads).to_string(),
                    format!("{} µs", s.ring.turn_max_microseconds),
                ]
            },
        ),
        (
            "log",
            &[
                "shard",
                "durable_lsn",
                "next_lsn",
                "oldest_lsn",
                "free",
                "of",
                "in flight",
                "batches",
                "entries",
            ],
            &|s| {
                vec![
                    s.shard.to_string(),
                    s.log.durable_lsn.to_string(),
                    s.log.next_lsn.to_string(),
                    s.log.oldest_lsn.to_string(),
                    size(s.log.free_bytes),
                    size(s.log.capacity_bytes),
                    s.log.batches_in_flight.to_string(),
                    s.log.batches.to_string(),
                    s.log.entries.to_string(),
                ]
            },
        ),
        ("cache", &["shard", "used", "of", "hits", "misses", "evictions", "page reads"], &|s| {
            vec![
                s.shard.to_string(),
                size(s.cache.used_bytes),
                size(s.cache.capacity_bytes),
                s.cache.hits.to_string(),
                s.cache.misses.to_string(),
                s.cache.evictions.to_string(),
                s.queues.waiting_page_reads.to_string(),
            ]
        }),
        (
            "overlay and checkpoint",
            &[
                "shard",
                "active",
                "frozen",
                "of",
                "checkpoint",
                "age",
                "took",
                "pages written",
                "pages file",
            ],
            &|s| {
                vec![
                    s.shard.to_string(),
                    size(s.overlay.active_bytes),
                    size(s.overlay.frozen_bytes),
                    size(s.overlay.capacity_bytes),
                    s.checkpoint.number.to_string(),
                    s.checkpoint.age_seconds.map_or("none yet".into(), duration),
                    format!("{:.1} ms", s.checkpoint.duration_milliseconds),
                    s.checkpoint.written_pages.to_string(),
                    size(s.checkpoint.pages_file_bytes),
                ]
            },
        ),
        ("recovery", &["shard", "read", "of", "entries applied", "took"], &|s| {
            vec![
                s.shard.to_string(),
                size(s.recovery.replayed_bytes),
                size(s.recovery.total_bytes),
                s.recovery.applied_entries.to_string(),
                format!("{:.1} ms", s.recovery.duration_milliseconds),
            ]
        }),
        (
            "ring",
            &["shard", "enters", "submissions", "completions", "turns", "buffer shortages"],
            &|s| {
                vec![
                    s.shard.to_string(),
                    s.ring.enters.to_string(),
                    s.ring.submissions.to_string(),
                    s.ring.completions.to_string(),
                    s.ring.turns.to_string(),
                    s.ring.buffer_shortages.to_string(),
                ]
            },
        ),
    ];
    for (title, header, cells) in per_shard {
        block(&mut text, title, header, status.shards.iter().map(cells).collect());
    }
    damage(&mut text, status);
    replication(&mut text, status);
    requests(&mut text, status);
    partitions(&mut text, status);
    text
}

/// What was found damaged, where anything was.
fn damage(text: &mut String, status: &NodeStatus) {
    let hit = status.shards.iter().filter(|s| s.damage != DamageStatus::default());
    let rows: Vec<Vec<String>> = hit
        .map(|s| {
            let d = &s.damage;
            let cells = [
                u64::from(s.shard),
                d.found,
                d.pages_found,
                d.pages_repaired,
                d.members,
                d.log_ranges,
                d.members_lost,
            ];
            cells.iter().map(u64::to_string).collect()
        })
        .collect();
    if !rows.is_empty() {
        let header = [
            "shard",
            "mismatches",
            "pages",
            "repaired",
            "states to replace",
            "log ranges",
            "members to replace",
        ];
        block(text, "DAMAGE", &header, rows);
    }
}

/// What only nodes of a cluster have.
fn replication(text: &mut String, status: &NodeStatus) {
    let shards = || status.shards.iter().filter_map(|s| Some((s.shard, s.replication.as_ref()?)));
    if shards().next().is_none() {
        return;
    }
    let header = [
        "shard",
        "members",
        "leads",
        "with lease",
        "follows",
        "no leader",
        "log only",
        "need snapshot",
        "lag, slots",
        "leads won",
        "lost",
    ];
    let rows = shards().map(|(shard, r)| {
        let cells = [
            u64::from(shard),
            r.members,
            r.groups_led,
            r.groups_leased,
            r.members_following,
            r.members_without_leader,
            r.members_log_only,
            r.members_awaiting_snapshot,
            r.member_lag_slots_max,
            r.leads_won,
            r.leads_lost,
        ];
        cells.iter().map(u64::to_string).collect()
    });
    block(text, "groups", &header, rows.collect());
    let header = [
        "shard",
        "up",
        "of",
        "reconnects",
        "messages out",
        "in",
        "bytes out",
        "in",
        "batches out",
        "dropped",
        "misdirected",
    ];
    let rows = shards().map(|(shard, r)| {
        let size = |bytes: u64| ByteSize(bytes).to_string();
        vec![
            shard.to_string(),
            r.links_up.to_string(),
            r.link_peers.to_string(),
            r.link_reconnects.to_string(),
            r.link_sent_messages.to_string(),
            r.link_received_messages.to_string(),
            size(r.link_sent_bytes),
            size(r.link_received_bytes),
            r.link_sent_batches.to_string(),
            r.link_dropped_messages.to_string(),
            r.messages_misdirected.to_string(),
        ]
    });
    block(text, "links", &header, rows.collect());
    let refused = shards().flat_map(|(shard, r)| {
        let messages = [
            ("stale_ballot", r.messages_stale_ballot),
            ("stale_epoch", r.messages_stale_epoch),
            ("protocol_error", r.protocol_errors),
        ];
        let messages = messages.into_iter().filter(|(_, count)| *count > 0);
        let messages = messages.map(|(name, count)| (name.to_owned(), count));
        let refused = r.link_refusals.iter().map(|one| (one.name.clone(), one.count));
        let by_peers = r.refused_by_peers.iter();
        let by_peers = by_peers.map(|one| (format!("{} (by peers)", one.name), one.count));
        let all = refused.chain(messages).chain(by_peers);
        all.map(move |(name, count)| vec![shard.to_string(), name, count.to_string()])
    });
    let refused: Vec<Vec<String>> = refused.collect();
    if !refused.is_empty() {
        block(text, "refused on links", &["shard", "reason", "count"], refused);
    }
}

type Block<'a> = (&'a str, &'a [&'a str], &'a dyn Fn(&ShardStatus) -> Vec<String>);

fn phase(shard: &ShardStatus) -> String {
    let recovery = &shard.recovery;
    if shard.phase == "recovering" && recovery.total_bytes > 0 {
        let percent = recovery.replayed_bytes * 100 / recovery.total_bytes;
        return format!("recovering {percent} %");
    }
    shard.phase.clone()
}

fn requests(text: &mut String, status: &NodeStatus) {
    let mut rows = Vec::new();
    for shard in &status.shards {
        for request in &shard.requests {
            rows.push(vec![
                shard.shard.to_string(),
                request.kind.clone(),
                request.count.to_string(),
                format!("{:.1}", request.p50_microseconds),
                format!("{:.1}", request.p99_microseconds),
                format!("{:.1}", request.p999_microseconds),
                format!("{:.1}", request.max_microseconds),
            ]);
        }
    }
    let header = ["shard", "request", "count", "p50 µs", "p99 µs", "p99.9 µs", "max µs"];
    block(text, "requests", &header, rows);
    let mut rows = Vec::new();
    for shard in &status.shards {
        let replies = shard.replies.iter().map(|count| ("reply", count));
        let refusals = shard.refusals.iter().map(|count| ("refused frame", count));
        for (what, count) in replies.chain(refusals) {
            let number = shard.shard.to_string();
            rows.push(vec![number, what.to_owned(), count.name.clone(), count.count.to_string()]);
        }
    }
    block(text, "replies", &["shard", "what", "code", "count"], rows);
}

fn partitions(text: &mut String, status: &NodeStatus) {
    let mut rows = Vec::new();
    for shard in &status.shards {
        for p in &shard.partitions {
            rows.push(vec![
                shard.shard.to_string(),
                p.group.to_string(),
                p.table_name.clone(),
                format!("{:016x}-{:016x}", p.first_hash, p.last_hash),
                p.items.to_string(),
                ByteSize(p.bytes).to_string(),
                p.ballot.to_string(),
                p.chosen_slot.to_string(),
                p.applied_slot.to_string(),
                p.checkpoint_slot.to_string(),
            ]);
        }
    }
    let header = [
        "shard",
        "group",
        "table",
        "hashes",
        "items",
        "bytes",
        "ballot",
        "chosen_slot",
        "applied_slot",
        "checkpoint_slot",
    ];
    block(text, "partitions", &header, rows);
}

/// A titled table; nothing at all without rows.
fn block(text: &mut String, title: &str, header: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let _ = writeln!(text, "\n{title}");
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, &width)| format!("{cell:>width$}"));
        let joined = padded.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "  {joined}");
    };
    line(&mut header.iter().copied());
    for row in &rows {
        line(&mut row.iter().map(String::as_str));
    }
}

fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..=59 => format!("{seconds:.1} s"),
        60..=3599 => format!("{} min {} s", whole / 60, whole % 60),
        3600..=86_399 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_use_two_units_at_most() {
        assert_eq!(duration(1.25), "1.2 s");
        assert_eq!(duration(75.0), "1 min 15 s");
        assert_eq!(duration(90_000.0), "1 d 1 h");
    }

    #[test]
    fn a_table_is_as_wide_as_its_widest_cell_and_absent_without_rows() {
        let mut text = String::new();
        block(&mut text, "nothing", &["a"], Vec::new());
        assert!(text.is_empty());
        let rows = vec![vec!["1".into(), "long value".into()], vec!["22".into(), "µ".into()]];
        block(&mut text, "some", &["a", "b"], rows);
        let widths: Vec<_> = text.lines().skip(2).map(|line| line.chars().count()).collect();
        assert_eq!(widths, [16, 16, 16], "{text}");
    }
}
