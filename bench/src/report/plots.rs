//! The four pictures of a report: percentiles, latency over time, throughput, errors.

use super::IntervalRow;
use super::json::{Curve, Report};
use super::svg::{Axis, Chart, Mark, Scale};

/// More rows than this are drawn together, several to a step.
const COLUMNS_MAX: usize = 400;
/// The percentile axis reaches p99.999 at least.
const DECADES_MIN: f64 = 5.0;
/// Between the last percentile and the maximum.
const MAX_MARGIN: f64 = 0.7;

/// Microseconds for a reader: three digits and the unit that fits.
pub(crate) fn human_time(us: f64) -> String {
    let (value, unit) = match us {
        us if us >= 1e6 => (us / 1e6, "s"),
        us if us >= 1e3 => (us / 1e3, "ms"),
        us => (us, "µs"),
    };
    format!("{} {unit}", three_digits(value))
}

fn three_digits(value: f64) -> String {
    let places = match value {
        value if value >= 100.0 || value == 0.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn human_count(count: f64) -> String {
    match count {
        count if count >= 1e6 => format!("{} M", three_digits(count / 1e6)),
        count if count >= 1e3 => format!("{} k", three_digits(count / 1e3)),
        count => three_digits(count),
    }
}

fn latency_axis(values: impl Iterator<Item = f64>) -> Axis {
    let scale = Scale::log_over(values);
    let ticks = scale.ticks(9).into_iter().map(|us| (us, human_time(us))).collect();
    Axis { label: "latency, log scale".to_owned(), scale, ticks }
}

/// Latency by percentile, to p99.999 and the maximum.
pub(crate) fn percentiles(report: &Report) -> Chart {
    let place = |quantile: f64| -(1.0 - quantile).log10();
    let known = |curve: &Curve| {
        curve
            .iter()
            .filter(|(quantile, _)| *quantile < 1.0)
            .map(|(q, _)| place(*q))
            .fold(0., f64::max)
    };
    let decades = report.curves.values().map(known).fold(DECADES_MIN, f64::max).ceil();
    let end = decades + MAX_MARGIN;
    let names = ["90", "99", "99.9", "99.99", "99.999", "99.9999", "99.99999"];
    let mut ticks: Vec<(f64, String)> = (1u32..=decades as u32)
        .zip(names)
        .map(|(at, name)| (f64::from(at), format!("{name} %")))
        .collect();
    ticks.insert(0, (place(0.5), "50 %".to_owned()));
    ticks.push((end, "max".to_owned()));
    let mut marks = Vec::new();
    for (colour, (name, curve)) in report.curves.iter().enumerate() {
        if report.ops.get(name).is_none_or(|ops| ops.count == 0) {
            continue;
        }
        let points: Vec<(f64, f64)> = curve
            .iter()
            .map(|(quantile, us)| (if *quantile < 1.0 { place(*quantile) } else { end }, *us))
            .collect();
        let name = name.replace('_', "-");
        if let Some(&last) = points.last() {
            marks.push(Mark::Dot { at: last, colour, word: human_time(last.1) });
        }
        marks.push(Mark::Line { points, colour, name, is_dashed: false });
    }
    Chart {
        title: "Latency by percentile".to_owned(),
        x: Axis {
            label: "percentile of operations, log scale towards 100 %".to_owned(),
            scale: Scale::Linear(0.0, end),
            ticks,
        },
        y: latency_axis(report.curves.values().flatten().map(|(_, us)| *us)),
        marks,
    }
}

/// Rows of one step of a plot over time.
struct Column {
    from: f64,
    to: f64,
    rows: usize,
    worst: IntervalRow,
}

/// The run's rows, several together where they are too many.
fn columns(report: &Report) -> (Vec<Column>, usize) {
    let rows: Vec<_> = report.intervals.iter().filter(|row| !row.draining).collect();
    let together = rows.len().div_ceil(COLUMNS_MAX).max(1);
    let columns = rows
        .chunks(together)
        .map(|rows| {
            let mut worst = rows[0].clone();
            for row in &rows[1..] {
                worst.p50_us = worst.p50_us.max(row.p50_us);
                worst.p99_us = worst.p99_us.max(row.p99_us);
                worst.p999_us = worst.p999_us.max(row.p999_us);
                worst.max_us = worst.max_us.max(row.max_us);
                worst.ops += row.ops;
                worst.offered += row.offered;
                worst.errors += row.errors;
                worst.late_starts += row.late_starts;
            }
            Column {
                from: rows[0].t_s - rows[0].seconds,
                to: rows[rows.len() - 1].t_s,
                rows: rows.len(),
                worst,
            }
        })
        .collect();
    (columns, together)
}

fn time_axis(columns: &[Column]) -> Axis {
    let from = columns.first().map_or(0.0, |column| column.from);
    let to = columns.last().map_or(1.0, |column| column.to).max(from + 1.0);
    let scale = Scale::Linear(from, to);
    let ticks =
        scale.ticks(8).into_iter().map(|at| (at, format!("{}", (at * 100.0).round() / 100.0)));
    Axis { label: "seconds since the measurement began".to_owned(), scale, ticks: ticks.collect() }
}

/// Warm-up, phases and silence, behind the curves.
fn background(report: &Report, columns: &[Column]) -> Vec<Mark> {
    let mut marks = Vec::new();
    let is_plain = report.phases.iter().filter(|phase| phase.is_measured).count() <= 1;
    for (index, phase) in report.phases.iter().enumerate() {
        // What is measured in one piece needs no name; its warm-up does.
        if !is_plain || !phase.is_measured {
            marks.push(Mark::Phase {
                from: phase.from_s,
                to: phase.from_s + phase.duration_s,
                name: phase.name.clone(),
                number: index + 1,
                // Every other one, so that each is seen from its neighbours.
                is_shaded: index % 2 == 0,
            });
        }
    }
    let is_silent = |column: &&Column| {
        column.worst.ops == 0 && (column.worst.offered > 0.0 || !report.is_open_loop)
    };
    let mut gap: Option<(f64, f64)> = None;
    for column in columns.iter().filter(is_silent) {
        match &mut gap {
            Some((_, to)) if (*to - column.from).abs() < 1e-6 => *to = column.to,
            _ => {
                marks.extend(gap.take().map(silence));
                gap = Some((column.from, column.to));
            }
        }
    }
    marks.extend(gap.map(silence));
    marks
}

fn silence((from, to): (f64, f64)) -> Mark {
    Mark::Gap { from, to, word: "nothing succeeded".to_owned() }
}

/// Runs of neighbouring columns in which something succeeded.
fn heard(columns: &[Column]) -> impl Iterator<Item = &[Column]> {
    columns.split(|column| column.worst.ops == 0).filter(|run| !run.is_empty())
}

/// p50, p99, p99.9 and the maximum over time.
pub(crate) fn latency_over_time(report: &Report) -> Chart {
    let (columns, together) = columns(report);
    let mut marks = background(report, &columns);
    type Pick = fn(&IntervalRow) -> f64;
    let lines: [(Pick, &str, usize); 4] = [
        (|row| row.p50_us, "p50", 0),
        (|row| row.p99_us, "p99", 2),
        (|row| row.p999_us, "p99.9", 4),
        (|row| row.max_us, "max", 1),
    ];
    for (lower, upper) in lines.iter().zip(&lines[1..]) {
        for run in heard(&columns) {
            let points = run.iter().flat_map(|column| {
                let (low, high) = (lower.0(&column.worst), upper.0(&column.worst));
                [(column.from, low, high), (column.to, low, high)]
            });
            let name = String::new();
            marks.push(Mark::Band { points: points.collect(), colour: upper.2, name });
        }
    }
    for (pick, name, colour) in lines {
        for run in heard(&columns) {
            let points = run.iter().flat_map(|column| {
                let value = pick(&column.worst);
                [(column.from, value), (column.to, value)]
            });
            marks.push(Mark::Line {
                points: points.collect(),
                colour,
                name: name.to_owned(),
                is_dashed: false,
            });
        }
    }
    let each = match together {
        1 => String::new(),
        many => format!(" (worst of each {many} intervals)"),
    };
    Chart {
        title: format!("Latency over time{each}"),
        x: time_axis(&columns),
        y: latency_axis(
            columns.iter().flat_map(|column| [column.worst.p50_us, column.worst.max_us]),
        ),
        marks,
    }
}

fn count_axis(label: &str, highest: f64) -> Axis {
    let scale = Scale::Linear(0.0, (highest * 1.08).max(1.0));
    let ticks = scale.ticks(5).into_iter().map(|count| (count, human_count(count)));
    Axis { label: label.to_owned(), scale, ticks: ticks.collect() }
}

/// Operations offered and achieved a second.
pub(crate) fn throughput(report: &Report) -> Chart {
    let (columns, _) = columns(report);
    let mut marks = background(report, &columns);
    let rate = |column: &Column, count: f64| count / (column.rows as f64 * column.worst.seconds);
    let step = |of: &dyn Fn(&Column) -> f64| -> Vec<(f64, f64)> {
        columns
            .iter()
            .flat_map(|column| [(column.from, of(column)), (column.to, of(column))])
            .collect()
    };
    let achieved = step(&|column| rate(column, column.worst.ops as f64));
    let offered = step(&|column| rate(column, column.worst.offered));
    let highest = achieved.iter().chain(&offered).map(|(_, rate)| *rate).fold(0.0, f64::max);
    let band = achieved.iter().map(|(at, rate)| (*at, 0.0, *rate)).collect();
    marks.push(Mark::Band { points: band, colour: 0, name: String::new() });
    let achieved_name = "achieved".to_owned();
    marks.push(Mark::Line { points: achieved, colour: 0, name: achieved_name, is_dashed: false });
    if report.is_open_loop {
        let name = "offered".to_owned();
        marks.push(Mark::Line { points: offered, colour: 1, name, is_dashed: true });
    }
    Chart {
        title: "Throughput".to_owned(),
        x: time_axis(&columns),
        y: count_axis("operations a second", highest),
        marks,
    }
}

/// Failures and late starts over time; None if there were neither.
pub(crate) fn errors(report: &Report) -> Option<Chart> {
    let (columns, _) = columns(report);
    let mut marks = background(report, &columns);
    let any = |of: fn(&IntervalRow) -> u64| columns.iter().any(|column| of(&column.worst) > 0);
    type Of = fn(&IntervalRow) -> u64;
    let series: [(Of, usize, &str); 2] = [
        (|row| row.late_starts, 4, "started more than 1 ms late"),
        (|row| row.errors, 1, "failed"),
    ];
    let series: Vec<_> = series.into_iter().filter(|(of, ..)| any(*of)).collect();
    if series.is_empty() {
        return None;
    }
    let mut highest = 0.0f64;
    for (index, (of, colour, name)) in series.iter().enumerate() {
        // Beside each other, so that none hides behind the other.
        let bar = |column: &Column| {
            let wide = (column.to - column.from) / series.len() as f64;
            let from = column.from + wide * index as f64;
            (from, from + wide, of(&column.worst) as f64)
        };
        let bars: Vec<_> = columns.iter().map(bar).filter(|(_, _, count)| *count > 0.0).collect();
        highest = bars.iter().map(|(_, _, count)| *count).fold(highest, f64::max);
        marks.push(Mark::Bars { bars, colour: *colour, name: (*name).to_owned() });
    }
    let seconds = columns[0].rows as f64 * columns[0].worst.seconds;
    let each = match seconds {
        1.0 => "second".to_owned(),
        seconds => format!("{} s", three_digits(seconds)),
    };
    Some(Chart {
        title: "Failures and late starts".to_owned(),
        x: time_axis(&columns),
        y: count_axis(&format!("operations in each {each}"), highest),
        marks,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{row, sample};
    use super::*;

    #[test]
    fn times_are_readable() {
        for (us, words) in [
            (0.0, "0 µs"),
            (2.5, "2.5 µs"),
            (120.0, "120 µs"),
            (1_000.0, "1 ms"),
            (12_340.0, "12.3 ms"),
            (2_000_000.0, "2 s"),
        ] {
            assert_eq!(human_time(us), words);
        }
        assert_eq!(human_count(1_250_000.0), "1.25 M");
    }

    #[test]
    fn a_gap_breaks_the_curves_and_is_named() {
        let mut report = sample();
        report.intervals = (0..10)
            .map(|second| {
                let is_dead = (4..7).contains(&second);
                let ops = if is_dead { 0 } else { 100 };
                super::IntervalRow { t_s: f64::from(second) + 1.0, ops, ..row() }
            })
            .collect();
        let chart = latency_over_time(&report);
        let p50 = chart
            .marks
            .iter()
            .filter(|mark| matches!(mark, Mark::Line { name, .. } if name == "p50"));
        assert_eq!(p50.count(), 2, "before and after the gap");
        let gaps: Vec<_> = chart
            .marks
            .iter()
            .filter_map(|mark| match mark {
                Mark::Gap { from, to, .. } => Some((*from, *to)),
                _ => None,
            })
            .collect();
        assert_eq!(gaps, [(4.0, 7.0)]);
    }

    #[test]
    fn long_runs_are_drawn_in_few_steps_and_keep_their_worst() {
        let mut report = sample();
        report.intervals = (0..86_400)
            .map(|second| IntervalRow { t_s: f64::from(second) + 1.0, ..row() })
            .collect();
        report.intervals[50_000].max_us = 9e6;
        let chart = latency_over_time(&report);
        assert!(chart.element().len() < 200_000);
        let Scale::Log(_, top) = chart.y.scale else { panic!("logarithmic") };
        assert!(top >= 9e6);
        assert!(chart.title.contains("worst of each 216"));
    }

    #[test]
    fn every_phase_is_named_where_there_are_several() {
        let mut report = sample();
        report.phases.push(super::super::json::PhaseReport {
            name: "burst".to_owned(),
            from_s: 2.0,
            ..report.phases[1].clone()
        });
        let chart = throughput(&report);
        let names: Vec<_> = chart
            .marks
            .iter()
            .filter_map(|mark| match mark {
                Mark::Phase { name, number, .. } => Some((name.as_str(), *number)),
                _ => None,
            })
            .collect();
        assert_eq!(names, [("warm-up", 1), ("measured", 2), ("burst", 3)]);
    }

    #[test]
    fn failures_and_late_starts_stand_beside_each_other() {
        let mut report = sample();
        report.intervals[2] =
            IntervalRow { late_starts: 7, errors: 3, ..report.intervals[2].clone() };
        let chart = errors(&report).unwrap();
        assert!(chart.y.label.contains("each second"));
        let bars: Vec<_> = chart
            .marks
            .iter()
            .filter_map(|mark| match mark {
                Mark::Bars { bars, .. } => Some(bars[0]),
                _ => None,
            })
            .collect();
        assert_eq!(bars, [(1.0, 1.5, 7.0), (1.5, 2.0, 3.0)]);
    }

    #[test]
    fn no_errors_no_picture() {
        let mut report = sample();
        assert!(errors(&report).is_some());
        report.intervals.iter_mut().for_each(|row| row.errors = 0);
        assert!(errors(&report).is_none());
    }
}
