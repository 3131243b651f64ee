//! What was refused, in words: counters say how often, the log says now and then who and what.
//!
//! ```text
//!   links, members ── note ─► Words ── a few times a second ─► ShardMetrics ─┐  words of each name
//!                             (the newest of each name)                      ▼
//!   counters ─────────────────────────────────────────────────────────────► Log ─► a line for a name
//!                                                                                  and interval
//! ```
//!
//! A flood of bad input costs a few counted numbers: words are made for one of each name between two
//! looks, and a line is written for each name and interval at most.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_core::message::peer::HelloRefusal;

use crate::metrics::ShardMetrics;

/// Between two lines in the log about the same name.
pub(crate) const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Who and what was refused last, by the names that are counted.
#[derive(Debug, Default)]
pub struct Words {
    kept: Vec<(&'static str, String)>,
}

impl Words {
    /// Something was refused. The words are made if there are none of this name yet.
    pub(crate) fn note(&mut self, name: &'static str, words: impl FnOnce() -> String) {
        if !self.kept.iter().any(|(kept, _)| *kept == name) {
            self.kept.push((name, words()));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Takes over what `newer` has.
    pub(crate) fn append(&mut self, newer: &mut Words) {
        for (name, words) in newer.kept.drain(..) {
            match self.kept.iter_mut().find(|(kept, _)| *kept == name) {
                Some((_, kept)) => *kept = words,
                None => self.kept.push((name, words)),
            }
        }
    }

    /// The words of this name, which are gone then.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let place = self.kept.iter().position(|(kept, _)| *kept == name)?;
        Some(self.kept.swap_remove(place).1)
    }
}

/// What a log has said of each name so far.
#[derive(Debug)]
pub(crate) struct Log<K> {
    said: HashMap<K, (u64, Instant)>,
}

impl<K> Default for Log<K> {
    fn default() -> Log<K> {
        Log { said: HashMap::new() }
    }
}

impl<K: Eq + Hash> Log<K> {
    /// The line about `key`, which is called `name` and was counted so often, if one is due.
    pub(crate) fn due(
        &mut self,
        key: K,
        name: &str,
        count: u64,
        now: Instant,
        words: impl FnOnce() -> Option<String>,
    ) -> Option<String> {
        let said = self.said.get(&key);
        let (known, rests) =
            said.map_or((0, false), |(count, at)| (*count, now.duration_since(*at) < LOG_INTERVAL));
        if count <= known || rests {
            return None;
        }
        let words = words().unwrap_or_default();
        let times = count - known;
        self.said.insert(key, (count, now));
        Some(match times {
            1 => format!("{name}: {words}"),
            _ => format!("{name}, {times} times; the last: {words}"),
        })
    }
}

/// The log of what shards refuse of peers. See the module's docs.
#[derive(Debug, Default)]
pub struct ShardsLog {
    log: Log<(usize, &'static str)>,
}

impl ShardsLog {
    /// The lines that are due, of the shards of a process.
    pub fn due(&mut self, shards: &[Arc<ShardMetrics>], now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for (place, metrics) in shards.iter().enumerate() {
            for (name, count) in metrics.refused() {
                if count == 0 || is_unspoken(name) {
                    continue;
                }
                let words = || metrics.take_refusal_words(name);
                let line = self.log.due((place, name), name, count, now, words);
                lines.extend(line.map(|line| format!("shard {}: {line}", metrics.shard())));
            }
        }
        lines
    }
}

/// Refusals that belong to the ordinary life of connections are counted and not spoken of; nor is what
/// a stranger is told whose bytes have a name of their own in the counters.
fn is_unspoken(name: &str) -> bool {
    let unspoken =
        |reason: &HelloRefusal| reason.is_ordinary() || *reason == HelloRefusal::Malformed;
    HelloRefusal::ALL.iter().any(|reason| unspoken(reason) && reason.name() == name)
}

#[cfg(test)]
mod tests {
    use forebay_core::ids::ShardId;

    use super::*;
    use crate::metrics::MetricNames;

    #[test]
    fn a_name_is_spoken_of_once_an_interval_with_its_count_and_its_newest_words() {
        let names = MetricNames { requests: &[], replies: &[], refusals: &[] };
        let metrics = Arc::new(ShardMetrics::new(ShardId(3), names));
        let (mut log, start) = (ShardsLog::default(), Instant::now());
        let shards = [Arc::clone(&metrics)];
        assert!(log.due(&shards, start).is_empty());
        let refuse = |count: u64, who: &str| {
            metrics.messages_misdirected.set_total(count);
            let mut words = Words::default();
            words.note("misdirected", || format!("from {who}"));
            words.note("misdirected", || unreachable!("there are words"));
            metrics.publish_refusals(&mut words);
            assert!(words.is_empty());
        };
        refuse(1, "a");
        assert_eq!(log.due(&shards, start), ["shard 3: misdirected: from a"]);
        refuse(2, "b");
        refuse(4, "c");
        assert!(log.due(&shards, start + LOG_INTERVAL / 2).is_empty());
        let later = log.due(&shards, start + LOG_INTERVAL);
        assert_eq!(later, ["shard 3: misdirected, 3 times; the last: from c"]);
    }

    #[test]
    fn what_is_ordinary_is_counted_and_not_spoken_of() {
        for name in ["crossing", "superseded", "old_incarnation", "malformed"] {
            assert!(is_unspoken(name), "{name}");
        }
        assert!(!is_unspoken("wrong_cluster") && !is_unspoken("misdirected"));
    }
}
