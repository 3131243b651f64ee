//! What the trials came to, as Markdown and JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::How;
use super::load::Verdict;
use crate::compare::statistics::Spread;
use crate::compare::table::{Table, whole};

/// One trial.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Trial {
    pub(super) how: How,
    /// Whose process, from 1.
    pub(super) node: usize,
    /// Which links were broken.
    pub(super) broken: Option<&'static str>,
    /// Leaders elected from before the links broke until they had been whole for a second.
    pub(super) elections: Option<u64>,
    /// Writes succeeded again within the time that was waited for them.
    pub(super) recovered: bool,
    /// The longest time without a success in the second before the fault.
    pub(super) calm_ms: f64,
    /// … around the fault.
    pub(super) gap_ms: f64,
    /// … when the node came back.
    pub(super) return_gap_ms: Option<f64>,
    /// Until the node had everything that was chosen when it came back.
    pub(super) caught_up_ms: f64,
    pub(super) asked: u64,
    pub(super) acknowledged: u64,
    pub(super) unknown: u64,
    pub(super) refused: u64,
    /// Due while every key had a write under way.
    pub(super) not_asked: u64,
    pub(super) first_refusal: Option<String>,
}

impl Trial {
    fn in_time(&self) -> bool {
        let gap_max_ms = self.how.aim().as_secs_f64() * 1e3;
        self.recovered && self.gap_ms < gap_max_ms && self.elections.unwrap_or(0) == 0
    }

    /// In one line.
    pub(super) fn line(&self) -> String {
        let Trial { how, node, gap_ms, calm_ms, acknowledged, unknown, .. } = self;
        let back = match self.return_gap_ms {
            Some(gap) => format!(", {gap:.0} ms at its return"),
            None => String::new(),
        };
        let gray = self.broken.map_or_else(String::new, |broken| {
            format!(", {broken}, {} elections", self.elections.unwrap_or(0))
        });
        let late = if self.in_time() { "" } else { " (over the aim)" };
        format!(
            "{} of node {node}{gray}: gap {gap_ms:.1} ms{late}{back}, {calm_ms:.1} ms before; \
             {acknowledged} acknowledged, {unknown} unknown",
            how.name()
        )
    }
}

/// All trials.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Results {
    pub(super) hardware: String,
    pub(super) disk: String,
    pub(super) commands: Vec<String>,
    pub(super) rate: u64,
    pub(super) keys: u32,
    pub(super) value_bytes: u32,
    pub(super) trials: Vec<Trial>,
    pub(super) verdict: Verdict,
}

impl Results {
    /// A page for people.
    pub(super) fn markdown(&self) -> String {
        let mut page = format!(
            "# Failover\n\nmachine: {}; {}  \nload: {} Puts a second at fixed times, {} B values, one \
             partition, the native client's default settings\n\n```\n{}\n```\n\n",
            self.hardware,
            self.disk,
            whole(self.rate as f64),
            self.value_bytes,
            self.commands.join("\n")
        );
        let mut table = Table::new([
            "leader",
            "trials",
            "median gap, ms",
            "max gap, ms",
            "aim, ms",
            "within the aim",
            "max without fault, ms",
            "max at return, ms",
            "acknowledged",
            "unknown",
            "elections",
        ]);
        for how in [How::Kill, How::Stop, How::HandOver, How::Gray] {
            let own: Vec<&Trial> = self.trials.iter().filter(|trial| trial.how == how).collect();
            if own.is_empty() {
                continue;
            }
            let all = |value: fn(&Trial) -> f64| {
                Spread::of(&own.iter().map(|trial| value(trial)).collect::<Vec<_>>())
            };
            let (gap, calm) = (all(|trial| trial.gap_ms), all(|trial| trial.calm_ms));
            let back = all(|trial| trial.return_gap_ms.unwrap_or(0.0));
            let sum = |value: fn(&Trial) -> u64| own.iter().map(|trial| value(trial)).sum::<u64>();
            table.row([
                how.name().to_owned(),
                own.len().to_string(),
                format!("{:.1}", gap.median),
                format!("{:.1}", gap.max),
                format!("< {}", how.aim().as_millis()),
                format!("{} of {}", own.iter().filter(|trial| trial.in_time()).count(), own.len()),
                format!("{:.1}", calm.max),
                if how == How::HandOver { "-".to_owned() } else { format!("{:.1}", back.max) },
                whole(sum(|trial| trial.acknowledged) as f64),
                whole(sum(|trial| trial.unknown) as f64),
                match how {
                    How::Gray => sum(|trial| trial.elections.unwrap_or(0)).to_string(),
                    _ => "-".to_owned(),
                },
            ]);
        }
        page.push_str(&table.render());
        let Verdict { keys, open_done, lost, wrong, not_served, .. } = &self.verdict;
        writeln!(
            page,
            "\n{} acknowledged writes on {keys} keys, every key read after every trial: {lost} lost, \
             {wrong} wrong, {not_served} not served; {open_done} writes of unknown outcome have taken \
             effect.",
            whole(self.trials.iter().map(|trial| trial.acknowledged).sum::<u64>() as f64)
        )
        .expect("writing to a string does not fail");
        page
    }
}
