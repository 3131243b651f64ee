//! The result for people.

use std::fmt::Write;

use forebay_net::node::config::DurableMode;

use crate::disk_profile::{DiskProfile, Point};
use crate::size::ByteSize;

/// The tables and the conclusion.
pub(super) fn render(profile: &DiskProfile) -> String {
    let mut text = String::new();
    let writes = |point: &&Point| point.kind != "read";
    heading(&mut text, "Durable sequential writes, O_DIRECT");
    let mut previous = None;
    for point in profile.points.iter().filter(writes) {
        if previous.replace(point.block_bytes).is_some_and(|bytes| bytes != point.block_bytes) {
            text.push('\n');
        }
        row(&mut text, point);
    }
    text.push('\n');
    heading(&mut text, "Random reads, O_DIRECT");
    for point in profile.points.iter().filter(|point| !writes(point)) {
        row(&mut text, point);
    }
    let mode = profile.mode().unwrap_or(DurableMode::Dsync).name();
    let batches = profile.batches_in_flight;
    let _ = write!(text, "\ndurable_mode = {mode}, batches_in_flight = {batches}\n");
    text
}

fn heading(text: &mut String, title: &str) {
    let _ = writeln!(text, "{title}");
    let _ = writeln!(
        text,
        "  {:<17} {:>7} {:>6} {:>10} {:>8} {:>9} {:>9} {:>9} {:>10}",
        "mode", "size", "depth", "ops/s", "MB/s", "p50 µs", "p99 µs", "p99.9 µs", "max µs"
    );
}

fn row(text: &mut String, point: &Point) {
    let size = ByteSize(point.block_bytes);
    let megabytes = point.ops_per_second * point.block_bytes as f64 / 1e6;
    let _ = writeln!(
        text,
        "  {:<17} {size:>7} {:>6} {:>10.0} {megabytes:>8.1} {:>9.0} {:>9.0} {:>9.0} {:>10.0}",
        point.kind,
        point.depth,
        point.ops_per_second,
        point.p50_microseconds,
        point.p99_microseconds,
        point.p999_microseconds,
        point.max_microseconds,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stay_aligned() {
        let point = |kind: &str, ops_per_second| Point {
            kind: kind.into(),
            block_bytes: 65_536,
            depth: 128,
            ops_per_second,
            p50_microseconds: 12.3,
            p99_microseconds: 456.7,
            p999_microseconds: 8_901.0,
            max_microseconds: 234_567.8,
        };
        let profile = DiskProfile {
            durable_mode: "dsync".into(),
            batches_in_flight: 8,
            measured_unix_seconds: 0,
            seconds_per_point: 1.0,
            file_bytes: 0,
            points: vec![point("linked_fdatasync", 9.0), point("read", 987_654.0)],
        };
        let text = render(&profile);
        let rows = text.lines().filter(|line| line.contains("64 KiB"));
        let mut widths: Vec<_> = rows.map(|line| line.chars().count()).collect();
        widths.dedup();
        assert_eq!(widths.len(), 1, "{text}");
        assert!(text.contains("durable_mode = dsync, batches_in_flight = 8"));
    }
}
