//! What is measured, and what follows from it.

use std::fmt;
use std::time::Duration;

use forebay_net::node::config::{BATCHES_IN_FLIGHT_MAX, DurableMode};
use hdrhistogram::Histogram;

use crate::disk_profile::Point;
use crate::size::ByteSize;

/// The three patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Sequential write with RWF_DSYNC.
    Dsync,
    /// Sequential write, fdatasync linked behind it.
    LinkedFdatasync,
    /// Read at a random block.
    Read,
}

impl Kind {
    /// As in the file.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Dsync => DurableMode::Dsync.name(),
            Kind::LinkedFdatasync => DurableMode::LinkedFdatasync.name(),
            Kind::Read => "read",
        }
    }
}

/// One point to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    /// The pattern.
    pub(super) kind: Kind,
    /// Bytes of each operation.
    pub(super) block_bytes: usize,
    /// Operations in flight.
    pub(super) depth: u32,
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = ByteSize(self.block_bytes as u64);
        write!(f, "{} {size} depth {}", self.kind.name(), self.depth)
    }
}

/// All points, in order.
pub(super) struct Plan(pub(super) Vec<Spec>);

impl Plan {
    /// The two write modes alternate at every size and depth, so that a noisy minute of the device
    /// does not decide between them.
    pub(super) fn full() -> Plan {
        let mut plan = Vec::new();
        for block_bytes in [4 << 10, 16 << 10, 64 << 10] {
            for depth in [1, 2, 4, 8, 16] {
                for kind in [Kind::Dsync, Kind::LinkedFdatasync] {
                    plan.push(Spec { kind, block_bytes, depth });
                }
            }
        }
        for depth in [1, 4, 8, 16, 32, 64, 128] {
            plan.push(Spec { kind: Kind::Read, block_bytes: 4 << 10, depth });
        }
        Plan(plan)
    }
}

/// The raw result of one point.
pub(super) struct Measured {
    /// Latencies in nanoseconds.
    pub(super) nanos: Histogram<u64>,
    /// From the first submission to the last completion.
    pub(super) elapsed: Duration,
}

impl Measured {
    pub(super) fn into_point(self, spec: &Spec) -> Point {
        let micros = |quantile| self.nanos.value_at_quantile(quantile) as f64 / 1e3;
        Point {
            kind: spec.kind.name().to_owned(),
            block_bytes: spec.block_bytes as u64,
            depth: spec.depth,
            ops_per_second: self.nanos.len() as f64 / self.elapsed.as_secs_f64(),
            p50_microseconds: micros(0.5),
            p99_microseconds: micros(0.99),
            p999_microseconds: micros(0.999),
            max_microseconds: self.nanos.max() as f64 / 1e3,
        }
    }
}

/// Throughput of a log: the points of `mode` at the depths a log uses and the sizes its batches
/// have most.
fn log_points(points: &[Point], mode: DurableMode) -> impl Iterator<Item = &Point> {
    points.iter().filter(move |point| {
        point.kind == mode.name()
            && point.block_bytes <= 16 << 10
            && point.depth <= BATCHES_IN_FLIGHT_MAX
    })
}

/// The mode with the larger geometric mean of throughput at depths 4 and 8.
pub(super) fn better_mode(points: &[Point]) -> DurableMode {
    let score = |mode| -> f64 {
        let deep = log_points(points, mode).filter(|point| point.depth >= 4);
        deep.map(|point| point.ops_per_second.max(1e-9).ln()).sum()
    };
    if score(DurableMode::LinkedFdatasync) > score(DurableMode::Dsync) {
        DurableMode::LinkedFdatasync
    } else {
        DurableMode::Dsync
    }
}

/// The smallest depth that reaches nine tenths of the best throughput at 4 KiB: more would only
/// make acknowledgements wait for each other.
pub(super) fn batches_in_flight(points: &[Point]) -> u32 {
    let mode = better_mode(points);
    let candidates = || log_points(points, mode).filter(|point| point.block_bytes == 4 << 10);
    let best = candidates().map(|point| point.ops_per_second).fold(0.0, f64::max);
    let enough = candidates().filter(|point| point.ops_per_second >= 0.9 * best);
    enough.map(|point| point.depth).min().unwrap_or(BATCHES_IN_FLIGHT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(mode: DurableMode, depth: u32, ops_per_second: f64) -> Point {
        Point {
            kind: mode.name().into(),
            block_bytes: 4096,
            depth,
            ops_per_second,
            p50_microseconds: 0.0,
            p99_microseconds: 0.0,
            p999_microseconds: 0.0,
            max_microseconds: 0.0,
        }
    }

    #[test]
    fn the_plan_covers_every_size_mode_and_depth_once() {
        let plan = Plan::full().0;
        assert_eq!(plan.len(), 37);
        let mut names: Vec<_> = plan.iter().map(ToString::to_string).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 37);
    }

    #[test]
    fn the_faster_mode_wins_and_the_depth_stops_where_throughput_does() {
        let mut points = Vec::new();
        for (depth, ops) in [(1, 10.0), (2, 20.0), (4, 38.0), (8, 40.0), (16, 80.0)] {
            points.push(point(DurableMode::Dsync, depth, ops));
            points.push(point(DurableMode::LinkedFdatasync, depth, ops * 1.1));
        }
        assert_eq!(better_mode(&points), DurableMode::LinkedFdatasync);
        assert_eq!(batches_in_flight(&points), 4);
    }
}
