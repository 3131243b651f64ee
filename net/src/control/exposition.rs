//! Shard metrics in the OpenMetrics text format, by the `prometheus-client` encoder.
//!
//! Nothing is registered value by value: one collector walks the shards at scrape time and reads
//! their atomics. Every name starts with `forebay_` and ends in its unit (counters add `_total`);
//! per shard values carry the label `shard`.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::server::ControlCounters;
use crate::link::{hello_refusal_names, link_refusal_names};
use crate::metrics::{Counter, ShardMetrics, ShardPhase};
use crate::tls::{NodeTls, Refusal};

/// What the text is, for the content-type header.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The whole exposition.
pub(super) fn encode(
    shards: Vec<Arc<ShardMetrics>>,
    tls: Option<Arc<NodeTls>>,
    control: &Arc<ControlCounters>,
) -> Result<String, Error> {
    let mut registry = Registry::with_prefix("forebay");
    registry.register_collector(Box::new(Scrape { shards, tls, control: Arc::clone(control) }));
    let mut text = String::with_capacity(64 * 1024);
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape {
    shards: Vec<Arc<ShardMetrics>>,
    tls: Option<Arc<NodeTls>>,
    control: Arc<ControlCounters>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.encode_phases(&mut encoder)?;
        self.encode_samples(&mut encoder)?;
        self.encode_labelled(&mut encoder)?;
        self.encode_latencies(&mut encoder)?;
        self.encode_tls(&mut encoder)?;
        self.encode_control(&mut encoder)
    }
}

impl Scrape {
    fn encode_phases(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let help = "Whether the shard answers requests";
        let mut family =
            encoder.encode_descriptor("shard_serving", help, None, MetricType::Gauge)?;
        for metrics in &self.shards {
            let serving = u64::from(metrics.phase() == ShardPhase::Serving);
            family.encode_family(&[shard_label(metrics)])?.encode_gauge(&serving)?;
        }
        Ok(())
    }

    fn encode_samples(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let samples: Vec<_> = self.shards.iter().map(|metrics| metrics.samples()).collect();
        let Some(first) = samples.first() else { return Ok(()) };
        for (index, sample) in first.iter().enumerate() {
            let name = format!("shard_{}", sample.name);
            let kind = if sample.is_counter { MetricType::Counter } else { MetricType::Gauge };
            // The encoder ends the sentence itself.
            let help = sample.help.trim_end_matches('.');
            let mut family = encoder.encode_descriptor(&name, help, None, kind)?;
            for (metrics, samples) in self.shards.iter().zip(&samples) {
                let labels = [shard_label(metrics)];
                let mut metric = family.encode_family(&labels)?;
                if sample.is_counter {
                    metric.encode_counter::<NoLabelSet, u64, f64>(&samples[index].value, None)?;
                } else {
                    metric.encode_gauge(&samples[index].value)?;
                }
            }
        }
        Ok(())
    }

    fn encode_tls(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(tls) = &self.tls else { return Ok(()) };
        let help = "TLS handshakes that ended well";
        let handshakes = tls.refusals().handshakes();
        encoder
            .encode_descriptor("tls_handshakes", help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, u64, f64>(&handshakes, None)?;
        let help = "TLS connections that were refused or broken";
        let mut family =
            encoder.encode_descriptor("tls_refusals", help, None, MetricType::Counter)?;
        for reason in Refusal::ALL {
            let count = tls.refusals().get(*reason);
            family
                .encode_family(&[("reason", reason.name())])?
                .encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        Ok(())
    }

    fn encode_labelled(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        type Row<'a> = (&'a [&'static str], &'a [Counter]);
        type Select = for<'a> fn(&'a ShardMetrics) -> Row<'a>;
        let families: [(&str, &str, &str, Select); 3] = [
            ("shard_requests", "Requests that arrived", "kind", |m| {
                (m.names().requests, &m.requests)
            }),
            ("shard_replies", "Replies that left", "code", |m| (m.names().replies, &m.replies)),
            ("shard_frames_refused", "Frames refused before they were requests", "reason", |m| {
                (m.names().refusals, &m.refusals)
            }),
        ];
        for (name, help, label, select) in families {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for metrics in &self.shards {
                let (names, counters) = select(metrics);
                for (value, counter) in names.iter().zip(counters) {
                    let labels = [shard_label(metrics), (label, (*value).to_owned())];
                    let mut metric = family.encode_family(&labels)?;
                    metric.encode_counter::<NoLabelSet, u64, f64>(&counter.get(), None)?;
                }
            }
        }
        let help = "Greetings, frames and messages of peers and strangers that were refused";
        let name = "shard_link_refusals";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for metrics in &self.shards {
            for (reason, counter) in link_refusal_names().zip(&metrics.link_refusals) {
                let labels = [shard_label(metrics), ("reason", reason.to_owned())];
                let mut metric = family.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, u64, f64>(&counter.get(), None)?;
            }
        }
        let help = "Greetings of this shard that its peers refused";
        let name = "shard_link_refused_by_peers";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for metrics in &self.shards {
            for (reason, counter) in hello_refusal_names().zip(&metrics.refused_by_peers) {
                let labels = [shard_label(metrics), ("reason", reason.to_owned())];
                let mut metric = family.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, u64, f64>(&counter.get(), None)?;
            }
        }
        Ok(())
    }

    fn encode_latencies(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let name = "shard_request_duration_seconds";
        let help = "Time from a request's arrival to the hand-over of its reply";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for metrics in &self.shards {
            for (kind, latency) in metrics.names().requests.iter().zip(&metrics.latency) {
                let buckets = latency.export();
                let count = buckets.iter().map(|(_, count)| count).sum();
                if count == 0 {
                    continue;
                }
                let labels = [shard_label(metrics), ("kind", (*kind).to_owned())];
                let sum = latency.sum_nanos() as f64 / 1e9;
                let mut metric = family.encode_family(&labels)?;
                metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }

    fn encode_control(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let plain: [(&str, &str, u64); 4] = [
            ("control_requests", "Operator requests", self.control.requests()),
            ("control_panics", "Panics caught in operator requests", self.control.panics()),
            ("control_timeouts", "Operator requests given up", self.control.timeouts()),
            ("control_refused", "Connections over the limit", self.control.refused()),
        ];
        for (name, help, value) in plain {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, u64, f64>(&value, None)?;
        }
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        encoder
            .encode_descriptor("build", "The program", None, MetricType::Info)?
            .encode_info(&assert_labels(version))
    }
}

/// Names the bound that `encode_info` needs.
fn assert_labels<S: EncodeLabelSet>(labels: S) -> S {
    labels
}

fn shard_label(metrics: &ShardMetrics) -> (&'static str, String) {
    ("shard", metrics.shard().to_string())
}

#[cfg(test)]
mod tests {
    use forebay_core::ids::ShardId;

    use super::*;
    use crate::metrics::MetricNames;

    #[test]
    fn the_text_has_labels_units_cumulative_buckets_and_an_end() {
        let names = MetricNames { requests: &["put"], replies: &["ok"], refusals: &["checksum"] };
        let metrics = Arc::new(ShardMetrics::new(ShardId(1), names));
        metrics.requests[0].add(2);
        metrics.replied(0, 0, 1_500);
        metrics.replied(0, 0, u64::MAX / 4);
        metrics.log_durable_lsn.set(4096);
        let text = encode(vec![metrics], None, &Arc::default()).unwrap();
        for line in [
            "# TYPE forebay_shard_log_durable_lsn gauge",
            "forebay_shard_log_durable_lsn{shard=\"1\"} 4096",
            "forebay_shard_requests_total{shard=\"1\",kind=\"put\"} 2",
            "forebay_shard_received_bytes_total{shard=\"1\"} 0",
            "forebay_shard_request_duration_seconds_count{shard=\"1\",kind=\"put\"} 2",
            "forebay_shard_request_duration_seconds_bucket{le=\"+Inf\",shard=\"1\",kind=\"put\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert!(!text.contains(".."), "a help sentence ends once");
    }
}
