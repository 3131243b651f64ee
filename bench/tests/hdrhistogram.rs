//! The raw histograms, opened by a tool that is not ours: the `hdrhistogram` package for Python, a
//! port of the Java original. Where it cannot be had (no Python, no network), the test says so on
//! the terminal and passes.

mod support;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use forebay_net::ring::testing::require_io_uring;
use support::{Server, bench, report, said, succeeds};

/// Reads a log and prints what it sums up to; then, for each line of the percentile file, what the
/// tool finds at that percentile and how many samples at most as large it counts.
const READER: &str = r#"
import sys
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
total = HdrHistogram(1, 3600 * 10**9, 3)
reader = HistogramLogReader(sys.argv[1], total)
intervals = 0
while True:
    interval = reader.get_next_interval_histogram()
    if interval is None:
        break
    total.add(interval)
    intervals += 1
below = []
for item in total.get_recorded_iterator():
    below.append((item.value_iterated_to, item.total_count_to_this_value))
def reached_by(rank):
    # The first value that so many samples reach, as Java has it; this port's own percentiles round
    # the rank to the nearest.
    return min(at for at, count in below if count >= rank - 1e-6)
print(intervals, reader.get_start_time_sec(), total.get_total_count(), total.get_max_value(),
      *[reached_by(p / 100 * total.get_total_count()) for p in (50, 90, 99, 99.9, 99.99)])
for line in open(sys.argv[2]):
    words = line.split()
    if len(words) < 3 or not words[0].replace(".", "").isdigit():
        continue
    value, rank = float(words[0]) * 1000, float(words[1]) * total.get_total_count()
    count = max(count for at, count in below if at <= value * 1.0005)
    print(words[0], words[2], reached_by(rank) / 1000, count)
"#;

/// A Python that has the package, made once for all runs of the tests.
fn python() -> Result<PathBuf, String> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hdrhistogram-venv");
    let python = venv.join("bin/python");
    let works = |python: &Path| {
        let imported = Command::new(python).args(["-c", "import hdrh.log"]).output();
        imported.is_ok_and(|output| output.status.success())
    };
    if works(&python) {
        return Ok(python);
    }
    let steps = [
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv).output(),
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(["--retries", "0", "--timeout", "10", "hdrhistogram"])
            .output(),
    ];
    for step in steps {
        let output = step.map_err(|error| error.to_string())?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(words.lines().last().unwrap_or("it said nothing").to_owned());
        }
    }
    if works(&python) { Ok(python) } else { Err("the package does not import".to_owned()) }
}

#[test]
fn a_standard_tool_opens_the_raw_histograms_and_finds_the_reports_numbers() {
    let python = match python() {
        Ok(python) if require_io_uring() => python,
        other => {
            let why = other.err().unwrap_or_else(|| "no io_uring".to_owned());
            // Not a macro that the test harness captures: a skip is to be seen.
            let _ = writeln!(
                std::io::stderr(),
                "\nSKIPPED: .hlog and .hgrm were NOT checked with a standard tool: {why}\n"
            );
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let floor = Server::floor();
    let args = format!(
        "run --target floor://{} --workload a --records 1000 --connections 4 --duration 3 --warmup 1 \
         --rate 3000 --report r",
        floor.address
    );
    succeeds(&bench(&args, dir.path()));
    let r = dir.path().join("r");
    let json = report(&r);
    for kind in ["get", "put"] {
        let log = r.join(format!("{kind}.hlog"));
        let ticks = r.join(format!("{kind}.hgrm"));
        let output =
            Command::new(&python).args(["-c", READER]).args([&log, &ticks]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        let (line, ticks) = text.split_once('\n').unwrap();
        let numbers: Vec<f64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
        let &[intervals, start, count, max, p50, p90, p99, p999, p9999] = numbers.as_slice() else {
            panic!("{line}")
        };
        assert!((3.0..=4.0).contains(&intervals), "{line}");
        let began = json["began_unix_s"].as_f64().unwrap();
        assert!((0.0..=4.0).contains(&(start - began)), "began {began}, started {start}");
        let ops = &json["ops"][kind];
        assert_eq!(ops["count"].as_f64(), Some(count), "{kind}");
        for (name, nanos) in [
            ("p50_us", p50),
            ("p90_us", p90),
            ("p99_us", p99),
            ("p999_us", p999),
            ("p9999_us", p9999),
            ("max_us", max),
        ] {
            let (ours, theirs) = (ops[name].as_f64().unwrap(), nanos / 1000.0);
            // One step of three significant digits: the ports differ in the step's end they state.
            assert!((ours - theirs).abs() <= theirs * 0.001, "{kind} {name}: {ours}, {theirs}");
        }
        let rows: Vec<Vec<f64>> = ticks
            .lines()
            .map(|line| line.split(' ').map(|word| word.parse().unwrap()).collect())
            .collect();
        assert!(rows.len() > 20, "{ticks}");
        for row in rows {
            let &[value, count, found, counted] = row.as_slice() else { panic!("{row:?}") };
            assert!((value - found).abs() <= found * 0.001, "{kind}: {row:?}");
            assert!(count <= counted, "{kind}: {row:?}");
        }
    }
}
