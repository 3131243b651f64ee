//! A log-linear latency histogram that one thread writes and others read.
//!
//! Values are nanoseconds. Below 32 each value has its own bucket; above, every power of two is
//! divided into 32 equal buckets, so a bucket is at most 1/32 of its lower bound wide (3.1 %), and
//! its middle is at most 1.6 % away from any value in it. This is the layout of HdrHistogram (Gil
//! Tene) with five bits of precision; recording is a shift, an index and three plain stores, with
//! no allocation and no lock prefix. Percentiles are computed by the `hdrhistogram` crate from a
//! [`LatencyHistogram::snapshot`], in the control lane.
//!
//! ```text
//!   value   0 … 31 │ 32 … 63 │ 64 … 127 │ 128 … 255 │ …  │ 2^39 … 2^40-1 (18 minutes) │ more
//!   width      1   │    1    │     2    │      4    │    │        2^34                │ last
//! ```

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hdrhistogram::Histogram;

/// Bits of a value below its leading one that choose the bucket.
const PRECISION_BITS: u32 = 5;
/// Buckets per power of two.
const BUCKETS_PER_OCTAVE: usize = 1 << PRECISION_BITS;
/// Values from 2^40 ns (18 minutes) on share the last bucket; every timeout is far below.
const VALUE_BITS: u32 = 40;
/// Values below 32 exactly, then 35 octaves.
const BUCKETS: usize = BUCKETS_PER_OCTAVE * (VALUE_BITS - PRECISION_BITS + 1) as usize;

/// The exposition's bounds are powers of two of nanoseconds: from 1 µs …
const EXPORT_BITS_MIN: u32 = 10;
/// … to 17 s.
const EXPORT_BITS_MAX: u32 = 34;

const _: () = assert!(BUCKETS == 1152, "nine kilobytes a histogram");
const _: () = assert!(bucket_of(u64::MAX) == BUCKETS - 1);
const _: () = assert!(bucket_of((1 << VALUE_BITS) - 1) == BUCKETS - 1);
const _: () = assert!(bucket_of(31) == 31 && bucket_of(32) == 32 && bucket_of(64) == 64);

const fn bucket_of(value: u64) -> usize {
    let value = if value >> VALUE_BITS == 0 { value } else { (1 << VALUE_BITS) - 1 };
    if value < BUCKETS_PER_OCTAVE as u64 {
        return value as usize;
    }
    let shift = 63 - value.leading_zeros() - PRECISION_BITS;
    // value >> shift lies in 32..64: its octave's 32 buckets follow those of all smaller octaves.
    shift as usize * BUCKETS_PER_OCTAVE + (value >> shift) as usize
}

/// Smallest value of a bucket.
const fn lower_bound(bucket: usize) -> u64 {
    if bucket < 2 * BUCKETS_PER_OCTAVE {
        return bucket as u64;
    }
    let shift = bucket / BUCKETS_PER_OCTAVE - 1;
    ((bucket - shift * BUCKETS_PER_OCTAVE) as u64) << shift
}

/// The value that stands for a bucket.
const fn middle(bucket: usize) -> u64 {
    let low = lower_bound(bucket);
    low + (lower_bound(bucket + 1) - low - 1) / 2
}

/// Counts of nanosecond values. One writer, many readers.
///
/// Invariant: the number of recorded values is the sum of the buckets; there is no second count
/// that could disagree with it.
pub struct LatencyHistogram {
    buckets: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
    max_nanos: AtomicU64,
}

impl LatencyHistogram {
    pub(super) fn new() -> LatencyHistogram {
        LatencyHistogram {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            sum_nanos: AtomicU64::new(0),
            max_nanos: AtomicU64::new(0),
        }
    }

    /// Counts one value. Only the owning shard calls this.
    #[inline]
    pub fn record(&self, nanos: u64) {
        let bucket = &self.buckets[bucket_of(nanos)];
        bucket.store(bucket.load(Relaxed) + 1, Relaxed);
        self.sum_nanos.store(self.sum_nanos.load(Relaxed).wrapping_add(nanos), Relaxed);
        if nanos > self.max_nanos.load(Relaxed) {
            self.max_nanos.store(nanos, Relaxed);
        }
    }

    /// Largest value so far, exactly.
    #[must_use]
    pub fn max_nanos(&self) -> u64 {
        self.max_nanos.load(Relaxed)
    }

    /// Sum of all values.
    #[must_use]
    pub fn sum_nanos(&self) -> u64 {
        self.sum_nanos.load(Relaxed)
    }

    /// A copy on which percentiles can be asked, in nanoseconds.
    #[must_use]
    pub fn snapshot(&self) -> Histogram<u64> {
        let mut copy = Histogram::new_with_bounds(1, 1 << VALUE_BITS, 3)
            .expect("constant bounds that hdrhistogram accepts");
        for (index, bucket) in self.buckets.iter().enumerate() {
            let count = bucket.load(Relaxed);
            if count > 0 {
                copy.saturating_record_n(middle(index).max(1), count);
            }
        }
        copy
    }

    /// (upper bound in seconds, number of values in the bucket), for the exposition; the last
    /// bound is infinite (the encoder prints it as `+Inf`). A value equal
    /// to a bound counts above it, one nanosecond off the letter of the format.
    #[must_use]
    pub fn export(&self) -> Vec<(f64, u64)> {
        let mut bounds = Vec::with_capacity((EXPORT_BITS_MAX - EXPORT_BITS_MIN) as usize + 2);
        let mut first = 0;
        for bits in EXPORT_BITS_MIN..=EXPORT_BITS_MAX {
            let end = bucket_of(1 << bits);
            bounds.push(((1u64 << bits) as f64 / 1e9, self.count_in(first, end)));
            first = end;
        }
        bounds.push((f64::INFINITY, self.count_in(first, BUCKETS)));
        bounds
    }

    fn count_in(&self, first: usize, end: usize) -> u64 {
        self.buckets[first..end].iter().map(|bucket| bucket.load(Relaxed)).sum()
    }
}

impl std::fmt::Debug for LatencyHistogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LatencyHistogram")
            .field("count", &self.count_in(0, BUCKETS))
            .field("max_nanos", &self.max_nanos())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_tile_the_values_without_gap_or_overlap() {
        for bucket in 0..BUCKETS - 1 {
            let (low, next) = (lower_bound(bucket), lower_bound(bucket + 1));
            assert!(low < next);
            assert_eq!(bucket_of(low), bucket);
            assert_eq!(bucket_of(next - 1), bucket);
        }
    }

    #[test]
    fn a_bucket_is_never_wider_than_a_thirty_second_of_its_values() {
        for bucket in BUCKETS_PER_OCTAVE..BUCKETS - 1 {
            let (low, next) = (lower_bound(bucket), lower_bound(bucket + 1));
            assert!((next - low) * 32 <= low, "bucket {bucket}");
        }
    }

    #[test]
    fn percentiles_are_within_two_percent_of_exact_ones() {
        let histogram = LatencyHistogram::new();
        for value in 1..=100_000u64 {
            histogram.record(value * 10);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.len(), 100_000);
        for quantile in [0.5, 0.9, 0.99, 0.999] {
            let exact = quantile * 1e6;
            let found = snapshot.value_at_quantile(quantile) as f64;
            assert!((found - exact).abs() / exact < 0.02, "{quantile}: {found} for {exact}");
        }
        assert_eq!(histogram.max_nanos(), 1_000_000);
    }

    #[test]
    fn export_counts_every_value_once() {
        let histogram = LatencyHistogram::new();
        for value in [0, 1, 1023, 1024, 5_000_000, u64::MAX] {
            histogram.record(value);
        }
        let export = histogram.export();
        assert_eq!(export[0], (1.024e-6, 3));
        assert_eq!(export.iter().map(|(_, count)| count).sum::<u64>(), 6);
        assert_eq!(*export.last().unwrap(), (f64::INFINITY, 1));
    }
}
