//! The part of a report that tells of a coordinated run's workers.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::svg::escape;
use crate::sys::Hardware;

/// What one worker did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WorkerReport {
    /// As on the command line.
    pub(crate) address: String,
    pub(crate) hardware: Hardware,
    pub(crate) threads: u32,
    pub(crate) connections: u32,
    /// Of the whole load.
    pub(crate) share: f64,
    pub(crate) offered_ops_s: f64,
    pub(crate) achieved_ops_s: f64,
    /// Successes within the measurement.
    pub(crate) ops: u64,
    pub(crate) errors: u64,
    pub(crate) late_starts: u64,
    pub(crate) late_starts_waiting_for_depth: u64,
    /// CPU time over wall time, mean of its threads.
    pub(crate) client_cpu_fraction: f64,
    pub(crate) client_waited_fraction: f64,
    pub(crate) cpu_stolen_fraction: f64,
    /// As `client_limited` of the whole.
    pub(crate) client_limited: bool,
    /// What its clock shows more than the coordinator's: since when each counts is arbitrary.
    pub(crate) clock_offset_us: f64,
    /// The truth is no further away: so far apart may the workers' starts lie.
    pub(crate) clock_uncertainty_us: f64,
    /// How far the clocks moved against each other during the run, as far as that can be told.
    pub(crate) clock_moved_us: Option<f64>,
    /// What else ran there just before.
    pub(crate) also_running: String,
    pub(crate) busy_cores: f64,
    /// Why its part is not whole.
    pub(crate) lost: Option<Lost>,
}

/// A worker that did not live to the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Lost {
    /// So many of its intervals, from the first on, are in the report, each of them whole; nothing of
    /// later ones is.
    pub(crate) intervals: u64,
    /// Where they end: seconds since the measurement began; negative in the warm-up.
    pub(crate) whole_until_s: f64,
    /// When it was missed, in the same seconds.
    pub(crate) noticed_s: f64,
    pub(crate) why: String,
}

/// What a reader must not miss of them.
pub(crate) fn warnings(workers: &[WorkerReport], warn: &mut impl FnMut(String)) {
    for worker in workers {
        let address = &worker.address;
        if let Some(Lost { intervals, whole_until_s, noticed_s, why }) = &worker.lost {
            warn(format!(
                "worker {address} was lost ({why}): of its {:.0} % of the load the first {intervals} \
                 intervals are in these figures, until {whole_until_s:.1} s, each of them whole, and \
                 nothing after that; it was missed at {noticed_s:.1} s",
                worker.share * 100.0
            ));
        }
        if worker.client_limited && workers.len() > 1 {
            warn(format!("worker {address} was the limit, not the store"));
        }
        if worker.busy_cores > super::json::BUSY_CORES_MAX {
            warn(format!(
                "the machine of worker {address} was not idle when the run began: {}",
                worker.also_running
            ));
        }
    }
}

/// A table's cells, the head first.
fn table(workers: &[WorkerReport]) -> Vec<[String; 10]> {
    let head = [
        "worker",
        "cores, kernel",
        "share",
        "connections",
        "offered/s",
        "achieved/s",
        "errors",
        "late starts",
        "client CPU",
        "clock offset",
    ];
    let row = |worker: &WorkerReport| {
        let WorkerReport { clock_uncertainty_us, .. } = worker;
        // Days apart as two machines are, or nothing as two processes of one.
        let offset = match worker.clock_offset_us {
            us if us.abs() < 1e6 => format!("{us:+.0} us"),
            us => format!("{:+.6} s", us / 1e6),
        };
        let state = match (&worker.lost, worker.client_limited) {
            (Some(lost), _) => format!(" (lost; whole until {:.1} s)", lost.whole_until_s),
            (None, true) => " (the limit)".to_owned(),
            (None, false) => String::new(),
        };
        let moved = match worker.clock_moved_us {
            Some(moved) => format!(", moved {moved:+.0} us"),
            None => String::new(),
        };
        [
            format!("{}{state}", worker.address),
            worker.hardware.cores_and_kernel(),
            format!("{:.1} %", worker.share * 100.0),
            format!("{}", worker.connections),
            format!("{:.0}", worker.offered_ops_s),
            format!("{:.0}", worker.achieved_ops_s),
            format!("{}", worker.errors),
            format!("{}", worker.late_starts),
            format!("{:.0} %", worker.client_cpu_fraction * 100.0),
            format!("{offset} +- {clock_uncertainty_us:.0} us{moved}"),
        ]
    };
    let rows = workers.iter().map(row);
    std::iter::once(head.map(str::to_owned)).chain(rows).collect()
}

/// The table for a terminal; nothing without workers.
pub(crate) fn text(workers: &[WorkerReport]) -> String {
    if workers.is_empty() {
        return String::new();
    }
    let rows = table(workers);
    let mut out = String::from("\n");
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let widest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            let gap = if column == 0 { "" } else { "  " };
            write!(out, "{gap}{cell:<widest$}").expect("writing to a string does not fail");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

/// The table for a page; nothing without workers.
pub(crate) fn html(workers: &[WorkerReport]) -> String {
    if workers.is_empty() {
        return String::new();
    }
    let mut out = String::from("<h2>Workers</h2><div class=\"wide\"><table>");
    for (index, row) in table(workers).iter().enumerate() {
        let cell = if index == 0 { "th" } else { "td" };
        out.push_str("<tr>");
        for text in row {
            write!(out, "<{cell}>{}</{cell}>", escape(text))
                .expect("writing to a string does not fail");
        }
        out.push_str("</tr>");
    }
    out.push_str("</table></div>");
    out.push_str(
        "<p class=\"soft\">All began at one moment, told to each in its own clock; their starts may \
         lie as far apart as the offsets are uncertain. No latency depends on it.</p>",
    );
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> WorkerReport {
        WorkerReport {
            address: "10.0.0.1:4780".to_owned(),
            hardware: Hardware::here(),
            threads: 1,
            connections: 32,
            share: 0.5,
            offered_ops_s: 500.0,
            achieved_ops_s: 499.0,
            ops: 998,
            errors: 1,
            late_starts: 2,
            late_starts_waiting_for_depth: 0,
            client_cpu_fraction: 0.25,
            client_waited_fraction: 0.0,
            cpu_stolen_fraction: 0.0,
            client_limited: false,
            clock_offset_us: -1_500_000.0,
            clock_uncertainty_us: 23.0,
            clock_moved_us: Some(2.0),
            also_running: "nobody else busy".to_owned(),
            busy_cores: 0.0,
            lost: None,
        }
    }

    #[test]
    fn the_table_names_the_lost_and_the_limit() {
        let why = "it closed <the> connection".to_owned();
        let lost = Some(Lost { intervals: 3, whole_until_s: 2.0, noticed_s: 2.34, why });
        let workers = [
            WorkerReport { lost, ..sample() },
            WorkerReport { client_limited: true, busy_cores: 1.0, ..sample() },
        ];
        let table = text(&workers);
        for words in [
            "(lost; whole until 2.0 s)",
            "(the limit)",
            "50.0 %",
            "-1.500000 s +- 23 us, moved +2 us",
        ] {
            assert!(table.contains(words), "{words} in\n{table}");
        }
        let page = html(&workers);
        assert!(page.contains("<th>worker</th>") && page.contains("whole until 2.0 s"), "{page}");
        let mut warned = String::new();
        warnings(&workers, &mut |words| warned += &words);
        for words in [
            "first 3 intervals",
            "50 % of the load",
            "missed at 2.3 s",
            "was the limit",
            "not idle",
        ] {
            assert!(warned.contains(words), "{words} in {warned}");
        }
        assert_eq!(text(&[]), "");
        assert_eq!(html(&[]), "");
    }
}
