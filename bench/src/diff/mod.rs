//! `diff A B`: two reports beside each other, with what makes them incomparable first.
//!
//! Ratios are B to A. Settings that differ are named before any number, because a ratio between runs
//! under different loads says nothing about the stores; where workload or load shape differ, that is
//! told first, and the exit code is 1, so that a script cannot miss it.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::error::BenchError;
use crate::report::LatencySummary;
use crate::report::json::Report;

/// `forebay-bench diff`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// A directory that `run --report` wrote
    #[arg(value_name = "A")]
    pub(crate) a: PathBuf,
    /// Another; ratios are of this one to A
    #[arg(value_name = "B")]
    pub(crate) b: PathBuf,
}

/// `forebay-bench diff`.
pub(crate) fn diff(args: &DiffArgs) -> Result<(), BenchError> {
    let (a, b) = (Report::read(&args.a)?, Report::read(&args.b)?);
    print!("{}", render(&a, &b));
    match differing(&a, &b).iter().filter(|setting| setting.shapes_the_load).count() {
        0 => Ok(()),
        settings => Err(BenchError::LoadsDiffer { settings }),
    }
}

/// Something that the reports state differently.
struct Setting {
    name: &'static str,
    a: String,
    b: String,
    /// Ratios between runs that differ in it are not the stores'.
    shapes_the_load: bool,
}

fn differing(a: &Report, b: &Report) -> Vec<Setting> {
    type Of = fn(&Report) -> String;
    let load: [(&'static str, Of); 14] = [
        ("workload", |report| report.workload.clone()),
        ("operations", |report| report.operations.clone()),
        ("key distribution", |report| report.key_distribution.clone()),
        ("records", |report| report.records.to_string()),
        ("key bytes", |report| report.key_bytes.to_string()),
        ("value bytes", |report| report.value_bytes.to_string()),
        ("loop", |report| report.rate_mode.clone()),
        ("offered ops/s", |report| match report.is_open_loop {
            true => format!("{:.0}", report.offered_ops_s),
            false => "as many as are answered".to_owned(),
        }),
        ("connections", |report| report.connections.to_string()),
        ("depth", |report| report.depth.to_string()),
        ("client threads", |report| report.threads.to_string()),
        ("warm-up, s", |report| report.warmup_s.to_string()),
        ("duration, s", |report| format!("{:.0}", report.duration_s)),
        ("phases", |report| {
            let phases = report.phases.iter().map(|phase| {
                format!(
                    "{} {:.0}/s {:.0} s",
                    phase.name,
                    offered(report, phase.offered_ops_s),
                    phase.duration_s
                )
            });
            phases.collect::<Vec<_>>().join(", ")
        }),
    ];
    let other: [(&'static str, Of); 10] = [
        ("target", |report| report.target.clone()),
        ("target's settings", |report| {
            let facts = report.target_facts.iter().map(|(name, value)| format!("{name} {value}"));
            facts.collect::<Vec<_>>().join(", ")
        }),
        ("store disk", |report| {
            report.stamps.device.as_ref().map_or("unknown".to_owned(), |device| device.line())
        }),
        ("store cores", |report| {
            report.stamps.store.as_ref().map_or("unknown".to_owned(), |store| store.cores.clone())
        }),
        ("machine", |report| report.hardware.lasting()),
        ("client spins", |report| report.client_spins.to_string()),
        ("seed", |report| report.seed.to_string()),
        ("client cores", |report| format!("{:?}", report.client_cores)),
        ("forebay-bench", |report| report.version_line()),
        ("client was the limit", |report| report.client_was_the_limit.to_string()),
    ];
    let of = |settings: &[(&'static str, Of)], shapes_the_load| -> Vec<Setting> {
        settings
            .iter()
            .map(|(name, of)| Setting { name, a: of(a), b: of(b), shapes_the_load })
            .filter(|setting| setting.a != setting.b)
            .collect()
    };
    let mut differ = of(&load, true);
    differ.extend(of(&other, false));
    differ
}

/// A closed loop offers what it is answered: that is a result, not a setting.
fn offered(report: &Report, ops_s: f64) -> f64 {
    if report.is_open_loop { ops_s } else { 0.0 }
}

/// Both reports as text.
fn render(a: &Report, b: &Report) -> String {
    let mut out = String::new();
    let differ = differing(a, b);
    if differ.is_empty() {
        put(&mut out, format_args!("settings: the same in both\n"));
    }
    for (shapes_the_load, title) in [(true, "THE LOADS DIFFER"), (false, "also different")] {
        let differ = differ.iter().filter(|setting| setting.shapes_the_load == shapes_the_load);
        for (index, Setting { name, a, b, .. }) in differ.enumerate() {
            if index == 0 {
                put(&mut out, format_args!("{title}\n"));
            }
            put(&mut out, format_args!("  {name:<18} A: {a}\n  {:<18} B: {b}\n", ""));
        }
    }
    put(&mut out, format_args!("\n{:<22} {:>14} {:>14} {:>8}\n", "", "A", "B", "B / A"));
    let mut row = |name: &str, a: f64, b: f64, places: usize| {
        let ratio = if a == 0.0 { "-".to_owned() } else { format!("{:.2}", b / a) };
        put(&mut out, format_args!("{name:<22} {a:>14.places$} {b:>14.places$} {ratio:>8}\n"));
    };
    row("achieved, ops/s", a.achieved_ops_s, b.achieved_ops_s, 0);
    row("errors", a.errors as f64, b.errors as f64, 0);
    row("late starts", a.late_starts as f64, b.late_starts as f64, 0);
    row("longest gap, ms", a.longest_gap_without_success_ms, b.longest_gap_without_success_ms, 1);
    row("client CPU, us/op", a.client_cpu_us_per_op, b.client_cpu_us_per_op, 2);
    let mut names: Vec<&String> = a.ops.keys().chain(b.ops.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        match (a.ops.get(name), b.ops.get(name)) {
            (Some(of_a), Some(of_b)) => operation(name, of_a, of_b, &mut out),
            (Some(_), None) => put(&mut out, format_args!("\n{name}: in A alone\n")),
            _ => put(&mut out, format_args!("\n{name}: in B alone\n")),
        }
    }
    for (side, report) in [("A", a), ("B", b)] {
        for warning in report.warnings() {
            put(&mut out, format_args!("\nWARNING of {side}: {warning}\n"));
        }
    }
    out
}

fn operation(name: &str, a: &LatencySummary, b: &LatencySummary, out: &mut String) {
    put(out, format_args!("\n{name}, us\n"));
    let ratio = |a: f64, b: f64| if a == 0.0 { "-".to_owned() } else { format!("{:.2}", b / a) };
    let counts = (a.count as f64, b.count as f64);
    put(
        out,
        format_args!(
            "  {:<20} {:>14} {:>14} {:>8}\n",
            "count",
            a.count,
            b.count,
            ratio(counts.0, counts.1)
        ),
    );
    let mean = [(("mean", a.mean_us), ("mean", b.mean_us))];
    for ((name, a), (_, b)) in mean.into_iter().chain(a.columns().into_iter().zip(b.columns())) {
        put(out, format_args!("  {name:<20} {a:>14.1} {b:>14.1} {:>8}\n", ratio(a, b)));
    }
}

fn put(out: &mut String, words: std::fmt::Arguments<'_>) {
    out.write_fmt(words).expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    fn quiet() -> Report {
        Report { client_was_the_limit: false, errors: 0, late_starts: 0, ..sample() }
    }

    #[test]
    fn equal_runs_differ_in_nothing_and_have_ratios_of_one() {
        let text = render(&quiet(), &quiet());
        assert!(text.starts_with("settings: the same in both"), "{text}");
        assert!(text.contains("p99.9 ") && text.matches("1.00").count() >= 9, "{text}");
    }

    #[test]
    fn loads_that_differ_come_first_and_cannot_be_missed() {
        let mut other = Report { depth: 16, seed: 2, ..quiet() };
        other.workload = "a".to_owned();
        other.ops.get_mut("get").unwrap().p99_us *= 2.0;
        let put = other.ops["get"].clone();
        other.ops.insert("put".to_owned(), put);
        let text = render(&quiet(), &other);
        assert!(text.starts_with("THE LOADS DIFFER\n  workload "), "{text}");
        let (load, rest) = text.split_once("also different").unwrap();
        assert!(load.contains("B: 16") && rest.contains("seed"), "{text}");
        assert!(rest.contains("2.00") && rest.contains("put: in B alone"), "{text}");
    }

    #[test]
    fn a_closed_loops_own_rate_is_no_setting() {
        let faster = Report { offered_ops_s: 500.0, achieved_ops_s: 500.0, ..quiet() };
        assert!(differing(&quiet(), &faster).is_empty());
        let open = |rate| Report { is_open_loop: true, offered_ops_s: rate, ..quiet() };
        assert!(differing(&open(10.0), &open(20.0)).iter().any(|setting| setting.shapes_the_load));
    }
}
