//! `report.html`: one page that needs nothing else, and its main picture as a file.
//!
//! Order: what must not be missed, the numbers, the pictures, the tables, and then everything that a
//! sceptic needs to repeat the run. Without scripts, without the network; light or dark as the
//! reader's system is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::json::{Report, write_text};
use super::plots::{self, human_time};
use super::svg::{STYLE, escape};
use super::{LatencySummary, raw_files, workers};
use crate::calendar::civil_from_days;
use crate::error::BenchError;
use crate::ledger::Verdict;
use crate::stamps::store::StoreProcess;

/// The page.
pub(crate) const FILE_NAME: &str = "report.html";
/// The main picture alone.
const PICTURE_NAME: &str = "latency.svg";

const PAGE_STYLE: &str = "\
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 \
system-ui,sans-serif}main{max-width:1160px;margin:0 auto;padding:24px 20px 60px}h1{font-size:24px;\
line-height:1.25;margin:0 0 4px}h2{font-size:17px;margin:34px 0 10px}.soft{color:var(--soft)}\
.warn{background:var(--warn-page);color:var(--warn);border-left:4px solid var(--c1);padding:9px 14px;\
margin:12px 0 0;border-radius:4px}.cards{display:grid;grid-template-columns:repeat(auto-fit,\
minmax(128px,1fr));gap:10px;margin:20px 0}.card{background:var(--card);border-radius:8px;\
padding:10px 14px}.card b{display:block;font-size:21px;line-height:1.3;font-variant-numeric:\
tabular-nums}.card span{color:var(--soft);font-size:13px}.plots{display:grid;grid-template-columns:\
repeat(auto-fit,minmax(min(500px,100%),1fr));gap:14px}.plots>div{background:var(--card);\
border-radius:8px;padding:8px}.chart{width:100%;height:auto;display:block}.wide{overflow-x:auto}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%;font-size:14px}th,td{\
padding:5px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}th{\
color:var(--soft);font-weight:500}th:first-child,td:first-child{text-align:left}.facts td{\
white-space:normal;text-align:left;vertical-align:top}.facts td:first-child{color:var(--soft);\
width:190px;white-space:nowrap}.bad td{color:var(--warn)}td.soft{color:var(--soft);opacity:.7}td.words{text-align:left}pre{background:var(--card);padding:12px 14px;\
border-radius:8px;overflow-x:auto;white-space:pre-wrap;word-break:break-word;font-size:13px}a{\
color:var(--c0)}@media(max-width:640px){main{padding:16px 12px 40px}.facts td:first-child{\
width:auto;white-space:normal}th,td{padding:4px 3px;font-size:12px}th:first-child,td:first-child{\
white-space:normal}.facts td{font-size:13px}}";

/// Writes the page and the picture into `dir`.
pub(crate) fn write(report: &Report, dir: &Path) -> Result<(), BenchError> {
    write_text(dir, FILE_NAME, &page(report))?;
    let caption = [title(report), subtitle(report), report.hardware.lasting()];
    write_text(dir, PICTURE_NAME, &plots::percentiles(report).file(&caption))
}

/// The page.
pub(crate) fn page(report: &Report) -> String {
    let title = title(report);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{0}</title>\
         <style>{STYLE}{PAGE_STYLE}</style></head><body><main><h1>{0}</h1>\
         <div class=\"soft\">{1}<br>{2}</div>",
        escape(&title),
        escape(&report.rate_mode),
        escape(&subtitle(report))
    );
    for warning in report.warnings() {
        put(&mut out, format_args!("<div class=\"warn\">{}</div>", escape(&warning)));
    }
    cards(report, &mut out);
    pictures(report, &mut out);
    operations(report, &mut out);
    phases(report, &mut out);
    out.push_str(&workers::html(&report.workers));
    facts(report, &mut out);
    out.push_str("</main></body></html>\n");
    out
}

fn put(out: &mut String, words: std::fmt::Arguments<'_>) {
    out.write_fmt(words).expect("writing to a string does not fail");
}

fn title(report: &Report) -> String {
    let store = report.target.split("://").next().unwrap_or_default();
    let rate = match report.offered_range() {
        Some((low, high)) if low < high => format!("{} to {}", grouped(low), grouped(high)),
        _ => grouped(report.offered_ops_s),
    };
    let load = match report.is_open_loop {
        true => format!("open loop, {rate} operations a second"),
        false => "closed loop".to_owned(),
    };
    format!("Latency of {store}, workload “{}”, {load}", report.workload)
}

fn subtitle(report: &Report) -> String {
    format!(
        "{} connections × depth {} · {} · {} · forebay-bench {}",
        grouped(f64::from(report.connections)),
        report.depth,
        length(report),
        utc(report.began_unix_s),
        report.version_line()
    )
}

/// How long it took.
fn length(report: &Report) -> String {
    let measured = short(report.duration_s);
    match report.warmup_s > 0.0 {
        true => format!("{measured} s after {} s of warm-up", short(report.warmup_s)),
        false => format!("{measured} s without warm-up"),
    }
}

fn short(seconds: f64) -> String {
    format!("{}", (seconds * 100.0).round() / 100.0)
}

/// With thin spaces between thousands.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && digit.is_ascii_digit() {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// Seconds since 1970 as a date and a time.
fn utc(unix_s: u64) -> String {
    let (year, month, day) = civil_from_days(unix_s / 86_400);
    let second = unix_s % 86_400;
    let (hour, minute) = (second / 3600, second % 3600 / 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

fn cards(report: &Report, out: &mut String) {
    let all = &report.overall;
    let achieved = match report.is_open_loop {
        true => format!("of {} offered a second", grouped(report.offered_ops_s)),
        false => "operations a second".to_owned(),
    };
    let busiest = report.client_cpu_fraction_by_thread.iter().copied().fold(0.0, f64::max);
    let latency = |count: u64, us: f64| if count == 0 { "–".to_owned() } else { human_time(us) };
    let mut cards = vec![
        (grouped(report.achieved_ops_s), achieved),
        (latency(all.count, all.p50_us), "p50, all operations".to_owned()),
        (latency(all.count, all.p99_us), "p99".to_owned()),
        (latency(all.count, all.p999_us), "p99.9".to_owned()),
        (latency(all.count, all.max_us), "max".to_owned()),
        (grouped(report.errors as f64), "errors".to_owned()),
        (grouped(report.late_starts as f64), "starts > 1 ms late".to_owned()),
        (format!("{:.0} %", busiest * 100.0), "of a core, busiest client thread".to_owned()),
    ];
    if let Some(verdict) = &report.ledger {
        let gap = format!("{:.0} ms", report.longest_gap_without_success_ms);
        cards.push((gap, "longest without a success".to_owned()));
        let words = format!("of {} acknowledged keys lost", grouped(verdict.keys as f64));
        cards.push((grouped(verdict.violations() as f64), words));
    }
    out.push_str("<div class=\"cards\">");
    for (value, words) in cards {
        put(out, format_args!("<div class=\"card\"><b>{value}</b><span>{words}</span></div>"));
    }
    out.push_str("</div>");
}

fn pictures(report: &Report, out: &mut String) {
    let mut charts = vec![
        plots::percentiles(report),
        plots::latency_over_time(report),
        plots::throughput(report),
    ];
    charts.extend(plots::errors(report));
    out.push_str("<div class=\"plots\">");
    for chart in &charts {
        put(out, format_args!("<div>{}</div>", chart.element()));
    }
    out.push_str("</div>");
    if plots::errors(report).is_none() {
        out.push_str("<p class=\"soft\">Errors over time: none. Late starts: none.</p>");
    }
}

fn latency_head(first: &str) -> String {
    format!(
        "<tr><th>{first}</th><th>count</th><th>mean</th><th>p50</th><th>p90</th><th>p99</th>\
         <th>p99.9</th><th>p99.99</th><th>p99.999</th><th>max</th></tr>"
    )
}

fn latency_row(name: &str, summary: &LatencySummary) -> String {
    let count = grouped(summary.count as f64);
    let mut row = format!("<tr><td>{}</td><td>{count}</td>", escape(name));
    put(&mut row, format_args!("{}", latency_cell(summary, None, summary.mean_us)));
    let beyond = [0.5, 0.1, 0.01, 0.001, 1e-4, 1e-5].map(Some).into_iter().chain([None]);
    for ((_, us), beyond) in summary.columns().into_iter().zip(beyond) {
        row.push_str(&latency_cell(summary, beyond, us));
    }
    row + "</tr>"
}

/// A latency in a table; soft where fewer than one operation in all lies beyond the percentile, which
/// then is the maximum.
fn latency_cell(summary: &LatencySummary, beyond: Option<f64>, us: f64) -> String {
    if summary.count == 0 {
        return "<td>–</td>".to_owned();
    }
    let is_thin = beyond.is_some_and(|share| summary.count as f64 * share < 1.0);
    let class = if is_thin { " class=\"soft\"" } else { "" };
    format!("<td{class}>{}</td>", human_time(us))
}

fn operations(report: &Report, out: &mut String) {
    put(
        out,
        format_args!("<h2>Operations</h2><div class=\"wide\"><table>{}", latency_head("successes")),
    );
    for (name, summary) in &report.ops {
        out.push_str(&latency_row(&name.replace('_', "-"), summary));
    }
    if report.ops.len() > 1 {
        out.push_str(&latency_row("all together", &report.overall));
    }
    if let Some(delay) = &report.start_delay {
        out.push_str(&latency_row("start delay", delay));
    }
    for (cause, count) in report.errors_by_cause.iter().filter(|(_, count)| **count > 0) {
        put(
            out,
            format_args!(
                "<tr class=\"bad\"><td>failed: {}</td><td>{}</td><td colspan=\"8\" class=\"words\">never in a \
             latency above</td></tr>",
                escape(&cause.replace('_', " ")),
                grouped(*count as f64)
            ),
        );
    }
    out.push_str("</table></div>");
    if report.start_delay.is_some() {
        out.push_str(
            "<p class=\"soft\">The start delay, from the intended start to the real one, is part of the \
             latencies above it.</p>",
        );
    }
    let is_thin = |summary: &LatencySummary| summary.count > 0 && summary.count < 100_000;
    if report.ops.values().any(is_thin) {
        out.push_str(
            "<p class=\"soft\">Percentiles in grey have no operation beyond them: they are the \
             maximum, and more operations would show more.</p>",
        );
    }
}

fn phases(report: &Report, out: &mut String) {
    put(
        out,
        format_args!(
            "<h2>Phases</h2><div class=\"wide\"><table><tr><th>phase</th><th>from</th><th>to</th>\
         <th>offered/s</th><th>achieved/s</th><th>errors</th><th>late starts</th><th>p50</th>\
         <th>p99</th><th>p99.9</th><th>max</th></tr>"
        ),
    );
    for (index, phase) in report.phases.iter().enumerate() {
        let offered = match phase.offered_ends_ops_s {
            Some((from, to)) if from != to => format!("{} → {}", grouped(from), grouped(to)),
            _ => grouped(phase.offered_ops_s),
        };
        let errors: u64 = phase.errors_by_cause.values().sum();
        let measured = if phase.is_measured { "" } else { " (not in any total)" };
        put(
            out,
            format_args!(
                "<tr><td>{} {}{measured}</td><td>{} s</td><td>{} s</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}</td>",
                index + 1,
                escape(&phase.name),
                short(phase.from_s),
                short(phase.from_s + phase.duration_s),
                offered,
                grouped(phase.achieved_ops_s),
                grouped(errors as f64),
                grouped(phase.late_starts as f64)
            ),
        );
        let all = &phase.overall;
        let cells = [
            (Some(0.5), all.p50_us),
            (Some(0.01), all.p99_us),
            (Some(0.001), all.p999_us),
            (None, all.max_us),
        ];
        for (beyond, us) in cells {
            out.push_str(&latency_cell(all, beyond, us));
        }
        out.push_str("</tr>");
    }
    out.push_str("</table></div>");
    if report.phases.len() > 1 {
        out.push_str(
            "<p class=\"soft\">Where a phase's name has no room in a picture, its number stands.</p>",
        );
    }
}

/// Everything needed to repeat the run, by name. Text and page show the same.
pub(crate) fn stamps(report: &Report) -> Vec<(&'static str, String)> {
    let facts = |facts: &BTreeMap<String, String>| {
        let facts: Vec<_> = facts.iter().map(|(name, value)| format!("{name} {value}")).collect();
        facts.join(", ")
    };
    let stamps = &report.stamps;
    let whose =
        if report.workers.is_empty() { "" } else { " (the coordinator, which sends no load)" };
    let longest =
        if report.workers.is_empty() { "longest gap" } else { "of any one worker: longest gap" };
    let store = stamps
        .store
        .as_ref()
        .map_or("not on this machine, or not to be seen".to_owned(), StoreProcess::line);
    let device = match (&stamps.device, &stamps.store) {
        (Some(device), _) => device.line(),
        (None, Some(_)) => "none: the store has no file open that it writes".to_owned(),
        (None, None) => "unknown".to_owned(),
    };
    let cores: Vec<_> = report.client_cores.iter().map(usize::to_string).collect();
    let pinned = match cores.is_empty() {
        true => "not pinned to any core".to_owned(),
        false => format!("pinned to core {}", cores.join(", ")),
    };
    let threads: Vec<_> = report
        .client_cpu_fraction_by_thread
        .iter()
        .map(|fraction| format!("{:.0} %", fraction * 100.0))
        .collect();
    let limited = if report.client_was_the_limit { "; the client was the limit" } else { "" };
    let mut stamps = vec![
        (
            "workload",
            format!(
                "{}: {}; {} records in table {}, {} B keys, {} B values, {}, seed {}",
                report.workload,
                report.operations,
                report.records,
                report.table,
                report.key_bytes,
                report.value_bytes,
                report.key_distribution,
                report.seed
            ),
        ),
        ("values", report.values_made.clone()),
        ("target", format!("{} ({})", report.target, facts(&report.target_facts))),
        ("store process", store),
        ("store disk", device),
        (
            "load",
            format!(
                "{}; {} connections x depth {}, {} thread{} {pinned}, {}; an operation is given up \
                 after {} s",
                report.rate_mode,
                report.connections,
                report.depth,
                report.threads,
                if report.threads == 1 { "" } else { "s" },
                length(report),
                short(report.timeout_ms as f64 / 1e3)
            ),
        ),
        (
            "machine",
            format!(
                "{}{}{whose}",
                report.hardware.line(),
                if stamps.is_virtual_machine { ", a virtual machine" } else { "" }
            ),
        ),
        ("also running", stamps.busy_line()),
        (
            "stolen CPU",
            format!(
                "{:.2} % of all cores' time during the run",
                report.cpu_stolen_fraction * 100.0
            ),
        ),
        (
            "clock",
            format!(
                "{} (from {}), {:.0} ns a reading; one reading for each batch of events, so latencies \
                 are never too short",
                report.clock, stamps.clock_source, report.clock_read_ns
            ),
        ),
        (
            "client CPU",
            format!(
                "{} of a core by thread{}, {:.2} us for each operation{limited}; waited {:.1} % of \
                 the time for a CPU that others had",
                threads.join(", "),
                if report.client_spins { " (spinning)" } else { "" },
                report.client_cpu_us_per_op,
                report.client_waited_fraction * 100.0
            ),
        ),
        (
            "silences",
            format!(
                "{longest} without a success, with something asked for, {:.1} ms; {} of more than \
                 10 ms; {} reconnects",
                report.longest_gap_without_success_ms, report.pauses_over_10_ms, report.reconnects
            ),
        ),
        ("ledger", report.ledger.as_ref().map(Verdict::words).unwrap_or_default()),
        ("began", utc(report.began_unix_s)),
        ("forebay-bench", report.version_line()),
    ];
    stamps.retain(|(_, words)| !words.is_empty());
    stamps.extend(report.remarks.iter().map(|remark| ("remark", remark.clone())));
    stamps
}

fn facts(report: &Report, out: &mut String) {
    out.push_str("<h2>To repeat it</h2><div class=\"wide\"><table class=\"facts\">");
    for (name, value) in stamps(report) {
        put(out, format_args!("<tr><td>{name}</td><td>{}</td></tr>", escape(&value)));
    }
    put(out, format_args!("</table></div><pre>{}</pre>", escape(&report.command_line())));
    if let Some(scenario) = &report.scenario {
        let text: Vec<_> = scenario.lines().map(escape).collect();
        let text = text.join("\n");
        put(out, format_args!("<p class=\"soft\">The scenario's file:</p><pre>{text}</pre>"));
    }
    out.push_str("<p class=\"soft\">Every number: <a href=\"report.json\">report.json</a>. ");
    out.push_str("Histograms for the HdrHistogram tools: ");
    let links: Vec<_> =
        raw_files(report).iter().map(|name| format!("<a href=\"{name}\">{name}</a>")).collect();
    put(
        out,
        format_args!(
            "{} (nanoseconds in .hlog, microseconds in .hgrm). The first picture: \
         <a href=\"{PICTURE_NAME}\">{PICTURE_NAME}</a>.</p>",
            links.join(", ")
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn the_page_needs_nothing_else_and_hides_nothing() {
        let mut report = sample();
        report.first_error = Some("<script>alert(1)</script>".to_owned());
        let page = page(&report);
        for words in [
            "coordinated omission",
            "the client was the limit",
            "failed: timeout",
            "Latency by percentile",
            "Latency over time",
            "Throughput",
            "Failures and late starts",
            "1 warm-up (not in any total)",
            "get 100 %",
            "pinned to core 1",
            "given up after 10 s",
            "0.1.0 (0123456789ab)",
            "forebay-bench run",
            "seed 1",
            "appendfsync always",
            "prefers-color-scheme:dark",
            "get.hlog",
            "2023-11-14 22:13 UTC",
        ] {
            assert!(page.contains(words), "{words}");
        }
        assert!(!page.contains("<script"), "a store's words are text");
        for outside in ["src=", "href=\"http", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_scenario_is_shown_word_for_word_and_a_run_of_several_rates_says_so() {
        let mut report = sample();
        report.is_open_loop = true;
        report.warmup_s = 0.0;
        report.scenario = Some("name = \"<x>\"\n[mix]\nget = 100\n".to_owned());
        for phase in &mut report.phases {
            phase.offered_ends_ops_s = Some((500.0, 15_000.0));
        }
        let page = page(&report);
        for words in [
            "name = &quot;&lt;x&gt;&quot;\n[mix]\nget = 100",
            "500 to 15\u{202f}000 operations a second",
            "500 → 15\u{202f}000",
            "without warm-up",
        ] {
            assert!(page.contains(words), "{words}");
        }
    }

    #[test]
    fn a_percentile_with_nothing_beyond_it_is_soft() {
        let summary = LatencySummary { count: 5_000, ..sample().overall };
        assert!(!latency_cell(&summary, Some(0.001), 5.0).contains("soft"));
        assert!(latency_cell(&summary, Some(1e-4), 5.0).contains("soft"));
        assert!(!latency_cell(&summary, None, 5.0).contains("soft"), "the maximum is one");
    }

    #[test]
    fn dates_and_numbers_are_as_people_write_them() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(grouped(1_234_567.0), "1\u{202f}234\u{202f}567");
        assert_eq!(grouped(999.0), "999");
    }

    #[test]
    fn a_run_without_a_success_still_has_its_page() {
        let mut report = sample();
        let histogram = crate::generator::latency_histogram();
        report.overall = LatencySummary::of(&histogram);
        report.ops = BTreeMap::from([("get".to_owned(), report.overall.clone())]);
        report.curves = BTreeMap::from([("get".to_owned(), Vec::new())]);
        report.intervals.iter_mut().for_each(|row| row.ops = 0);
        assert!(page(&report).contains("nothing succeeded"));
    }
}
