//! Raw histograms in the formats of the HdrHistogram tools, for readers who trust no summary.
//!
//! `OPERATION.hlog`: one V2 compressed histogram for each interval of the measurement, nanoseconds,
//! with StartTime and BaseTime; HistogramLogAnalyzer, HistogramLogProcessor and the ports of
//! HistogramLogReader open it. An interval in which nothing succeeded has its empty line, so a gap
//! is a gap. Warm-up is left out: what any tool sums up is what the report states.
//!
//! `OPERATION.hgrm`: the percentile distribution as `Histogram.outputPercentileDistribution` prints
//! it, five ticks per half distance, in microseconds; the HdrHistogram plotter opens it.
//!
//! Lines leave while the run goes on, so that a long run needs no memory for them. A disk that is
//! full costs the logs and an error at the end, never the run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use forebay_core::time::Nanos;
use hdrhistogram::Histogram;
use hdrhistogram::iterators::IterationValue;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

use super::IntervalRow;
use crate::error::BenchError;
use crate::generator::Interval;
use crate::workload::OpKind;

/// Values are nanoseconds; the readable column of a log is milliseconds, as Java's tools have it.
const MAX_VALUE_DIVISOR: f64 = 1e6;
/// The Java tools' default.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// The logs of a run, one for each kind of operation.
#[derive(Debug)]
pub(crate) struct RawLogs {
    dir: PathBuf,
    command: String,
    logs: BTreeMap<&'static str, Log>,
    /// When the measurement began.
    base: Option<Nanos>,
    phase: Option<String>,
    failure: Option<BenchError>,
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: BufWriter<File>,
}

impl RawLogs {
    /// Into `dir`, which is created if need be. `command` is written into each log.
    pub(crate) fn create(dir: &Path, command: &str) -> Result<RawLogs, BenchError> {
        std::fs::create_dir_all(dir).map_err(|source| BenchError::report_file(dir, source))?;
        Ok(RawLogs {
            dir: dir.to_owned(),
            command: command.to_owned(),
            logs: BTreeMap::new(),
            base: None,
            phase: None,
            failure: None,
        })
    }

    /// One interval of all threads, which began at `from`.
    pub(crate) fn interval(&mut self, from: Nanos, row: &IntervalRow, interval: &Interval) {
        if self.failure.is_none()
            && let Err(error) = self.write(from, row, interval)
        {
            self.failure = Some(error);
        }
    }

    fn write(
        &mut self,
        from: Nanos,
        row: &IntervalRow,
        interval: &Interval,
    ) -> Result<(), BenchError> {
        let base = *self.base.get_or_insert(from);
        let is_new_phase = self.phase.as_ref() != Some(&row.phase);
        for (kind, histogram) in OpKind::ALL.iter().zip(&interval.latencies) {
            let Some(histogram) = histogram else { continue };
            let name = kind.label();
            if !self.logs.contains_key(name) {
                let log = begin(&self.dir, name, &self.command, base)?;
                self.logs.insert(name, log);
            }
            let log = self.logs.get_mut(name).expect("it was just put there");
            let mut lines = String::new();
            if is_new_phase {
                writeln!(lines, "#[Phase: {}]", row.phase).expect("a string takes all");
            }
            lines.push_str(&line(histogram, from.since(base), row.seconds));
            log.file
                .write_all(lines.as_bytes())
                .map_err(|source| BenchError::report_file(&log.path, source))?;
        }
        self.phase = Some(row.phase.clone());
        Ok(())
    }

    /// Ends the logs and writes the percentile files of `total`. Returns what was written.
    pub(crate) fn finish(mut self, total: &Interval) -> Result<Vec<PathBuf>, BenchError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let mut written = Vec::new();
        for (_, mut log) in self.logs {
            // Not before the data is where a full disk would show.
            let ended = log.file.flush().and_then(|()| log.file.get_ref().sync_all());
            match ended {
                // What takes no fsync, a pipe for instance, has shown its errors in the writes.
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => {
                    return Err(BenchError::report_file(&log.path, error));
                }
                _ => written.push(log.path),
            }
        }
        for (kind, histogram) in OpKind::ALL.iter().zip(&total.latencies) {
            let Some(histogram) = histogram else { continue };
            let name = format!("{}.hgrm", kind.label());
            super::json::write_text(&self.dir, &name, &percentiles(histogram))?;
            written.push(self.dir.join(name));
        }
        Ok(written)
    }
}

fn begin(dir: &Path, name: &str, command: &str, base: Nanos) -> Result<Log, BenchError> {
    let path = dir.join(format!("{name}.hlog"));
    let failed = |source| BenchError::report_file(&path, source);
    let mut file = BufWriter::new(File::create(&path).map_err(failed)?);
    // The clock of latencies is not the clock on the wall; one look at both joins them.
    let since = Duration::from_nanos(forebay_net::ring::now().since(base));
    let wall = SystemTime::now() - since;
    let mut header = Vec::new();
    IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment(&format!("[forebay-bench {}: {command}]", env!("CARGO_PKG_VERSION")))
        .add_comment(&format!("[Latencies of successful {name} operations, nanoseconds]"))
        .with_start_time(wall)
        .with_base_time(wall)
        .with_max_value_divisor(MAX_VALUE_DIVISOR)
        .begin_log_with(&mut header, &mut V2DeflateSerializer::new())
        .map_err(failed)?;
    header.extend_from_slice(
        b"\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
    );
    file.write_all(&header).map_err(failed)?;
    Ok(Log { path, file })
}

fn line(histogram: &Histogram<u64>, since_base_nanos: u64, seconds: f64) -> String {
    let mut text = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    IntervalLogWriterBuilder::new()
        .with_max_value_divisor(MAX_VALUE_DIVISOR)
        .begin_log_with(&mut text, &mut serializer)
        .expect("a vector takes all")
        .write_histogram(
            histogram,
            Duration::from_nanos(since_base_nanos),
            Duration::from_secs_f64(seconds),
            None,
        )
        .expect("the histogram's bounds are constants that the format holds");
    let text = String::from_utf8(text).expect("a log is text");
    // The builder states the divisor each time; the header has it already.
    text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// The percentiles of `histogram`, five to each halving of what is left, up to the largest value.
pub(crate) fn ticks(
    histogram: &Histogram<u64>,
) -> impl Iterator<Item = (f64, u64, IterationValue<u64>)> {
    let mut total = 0;
    histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE).map(move |tick| {
        total += tick.count_since_last_iteration();
        (tick.quantile_iterated_to(), total, tick)
    })
}

/// As `Histogram.outputPercentileDistribution(stream, 5, 1000.0)` of HdrHistogram prints it.
fn percentiles(histogram: &Histogram<u64>) -> String {
    const SCALE: f64 = 1000.0;
    let mut text = String::new();
    let mut put = |line: std::fmt::Arguments<'_>| {
        text.write_fmt(line).expect("a string takes all");
    };
    put(format_args!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    ));
    for (quantile, total, tick) in ticks(histogram) {
        let value = histogram.highest_equivalent(tick.value_iterated_to()) as f64 / SCALE;
        put(format_args!("{value:>12.3} {quantile:>14.12} {total:>10}"));
        match quantile < 1.0 {
            true => put(format_args!(" {:>14.2}\n", 1.0 / (1.0 - quantile))),
            false => put(format_args!("\n")),
        }
    }
    let (mean, deviation) = (histogram.mean() / SCALE, histogram.stdev() / SCALE);
    put(format_args!("#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]\n"));
    let (max, count) = (histogram.max() as f64 / SCALE, histogram.len());
    put(format_args!("#[Max     = {max:>12.3}, Total count    = {count:>12}]\n"));
    let (buckets, sub_buckets) = (histogram.buckets(), sub_bucket_count(histogram));
    put(format_args!("#[Buckets = {buckets:>12}, SubBuckets     = {sub_buckets:>12}]\n"));
    text
}

/// Linear steps of each power of two: the smallest power of two that resolves twice the significant
/// digits.
fn sub_bucket_count(histogram: &Histogram<u64>) -> u64 {
    (2 * 10u64.pow(u32::from(histogram.sigfig()))).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::generator::latency_histogram;

    fn interval(latencies_us: impl IntoIterator<Item = u64>) -> Interval {
        let mut interval = Interval::new(|kind| kind == OpKind::Get, true);
        for micros in latencies_us {
            interval.latencies[OpKind::Get as usize]
                .as_mut()
                .unwrap()
                .record(micros * 1000)
                .unwrap();
        }
        interval
    }

    #[test]
    fn a_log_holds_every_interval_and_says_when_it_began() {
        let dir = tempfile::tempdir().unwrap();
        let mut raw = RawLogs::create(&dir.path().join("a"), "forebay-bench run").unwrap();
        let mut row = crate::report::tests::row();
        let second = |n: u64| Nanos(50 + n * 1_000_000_000);
        raw.interval(second(0), &row, &interval(1..=1000));
        raw.interval(second(1), &row, &interval([]));
        row.phase = "burst".to_owned();
        let last = interval([70_000]);
        raw.interval(second(2), &row, &last);
        let mut total = interval(1..=1000);
        total.add(&last);
        let written = raw.finish(&total).unwrap();
        assert_eq!(written.len(), 2);
        let bytes = std::fs::read(&written[0]).unwrap();
        let (mut starts, mut lines) = (Vec::new(), Vec::new());
        for entry in IntervalLogIterator::new(&bytes) {
            match entry.unwrap() {
                LogEntry::StartTime(at) => starts.push(at),
                LogEntry::BaseTime(at) => assert_eq!([at], starts.as_slice()),
                LogEntry::Interval(line) => lines.push((
                    line.start_timestamp().as_secs(),
                    line.duration().as_secs(),
                    line.max(),
                    line.encoded_histogram().len(),
                )),
            }
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(starts.len(), 1);
        assert!(starts[0] <= now + Duration::from_secs(1), "the wall's clock");
        let brief: Vec<_> = lines.iter().map(|line| (line.0, line.1)).collect();
        assert_eq!(brief, [(0, 1), (1, 1), (2, 1)]);
        assert!((lines[2].2 - 70.0).abs() < 0.1, "the readable column is milliseconds");
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("#[Phase: burst]") && text.contains("forebay-bench run"));
        assert_eq!(text.matches("MaxValueDivisor").count(), 1);
    }

    #[test]
    fn a_line_decodes_to_its_histogram() {
        let mut histogram = latency_histogram();
        histogram.record_n(123_456, 78).unwrap();
        let text = line(&histogram, 0, 1.0);
        let encoded = text.trim_end().rsplit(',').next().unwrap();
        // Not a dependency only for this: the alphabet is in RFC 4648, section 4.
        let bytes = decode_base64(encoded);
        let back: Histogram<u64> = hdrhistogram::serialization::Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .unwrap();
        assert_eq!(back, histogram);
        let _: Option<Deserializer> = None;
    }

    fn decode_base64(text: &str) -> Vec<u8> {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digits: Vec<u32> = text
            .bytes()
            .filter(|byte| *byte != b'=')
            .map(|byte| ALPHABET.iter().position(|letter| *letter == byte).unwrap() as u32)
            .collect();
        let mut bytes = Vec::new();
        for group in digits.chunks(4) {
            let word =
                group.iter().fold(0, |word, digit| word << 6 | digit) << (6 * (4 - group.len()));
            bytes.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
        }
        bytes
    }

    #[test]
    fn percentiles_are_printed_as_java_prints_them() {
        let mut histogram = latency_histogram();
        for micros in 1..=1000u64 {
            histogram.record(micros * 1000).unwrap();
        }
        let text = percentiles(&histogram);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[1], "");
        assert_eq!(lines[2], "       1.000 0.000000000000          1           1.00");
        assert!(
            lines.iter().any(|line| line.contains(" 0.500000000000        500           2.00"))
        );
        assert!(text.contains("1.000000000000       1000\n#[Mean    = "), "{text}");
        assert!(text.contains("Total count    =         1000]\n#[Buckets = "), "{text}");
    }

    #[test]
    fn a_full_disk_costs_the_logs_and_names_itself() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join("get.hlog")).unwrap();
        let mut raw = RawLogs::create(dir.path(), "run").unwrap();
        raw.interval(Nanos(0), &crate::report::tests::row(), &interval(1..=10));
        let error = raw.finish(&interval(1..=10)).unwrap_err();
        assert!(matches!(error, BenchError::ReportDiskFull { .. }), "{error}");
        assert_eq!(error.exit_code(), 5);
    }
}
