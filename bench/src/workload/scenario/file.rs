//! Reading a scenario's TOML, with the line of whatever is wrong.

use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{PHASES_MAX, PhaseSpec, Scenario};
use crate::workload::{Distribution, Mix, OpKind, Shape, Sizes};

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// From 1.
    pub(super) line: usize,
    pub(super) reason: String,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Option<Spanned<String>>,
    records: Option<Spanned<u64>>,
    seed: Option<u64>,
    connections: Option<Spanned<u32>>,
    depth: Option<Spanned<u32>>,
    arrivals: Option<Spanned<String>>,
    sort_digits: Option<Spanned<u8>>,
    consistency: Option<Spanned<String>>,
    think_ms: Option<Spanned<f64>>,
    keys: Option<Spanned<String>>,
    values: Option<Spanned<Values>>,
    items: Option<Spanned<[u32; 2]>>,
    mix: Spanned<FileMix>,
    #[serde(default)]
    phase: Vec<Spanned<FilePhase>>,
}

/// A number of bytes, or a distribution of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    Bytes(u64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileMix {
    get: Option<u32>,
    put: Option<u32>,
    insert: Option<u32>,
    scan: Option<u32>,
    read_modify_write: Option<u32>,
    conditional_put: Option<u32>,
    query: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePhase {
    name: String,
    seconds: Spanned<u64>,
    rate: Option<Spanned<f64>>,
    rate_from: Option<Spanned<f64>>,
    rate_to: Option<Spanned<f64>>,
    #[serde(default)]
    warmup: bool,
}

/// Longest phase: ten days.
const SECONDS_MAX: u64 = 864_000;
const RATE_MAX: f64 = 1e8;

/// The lines of a text.
struct Lines<'a>(&'a str);

impl Lines<'_> {
    fn wrong(&self, span: Range<usize>, reason: impl Into<String>) -> Wrong {
        let before = self.0.get(..span.start.min(self.0.len())).unwrap_or(self.0);
        let line = 1 + before.bytes().filter(|&byte| byte == b'\n').count();
        Wrong { line, reason: reason.into() }
    }

    /// The value if it lies in `range`.
    fn within<T: PartialOrd + Copy + std::fmt::Display>(
        &self,
        what: &str,
        value: &Spanned<T>,
        (min, max): (T, T),
    ) -> Result<T, Wrong> {
        let got = *value.get_ref();
        match min <= got && got <= max {
            true => Ok(got),
            false => Err(self.wrong(value.span(), format!("{what} {got}: from {min} to {max}"))),
        }
    }
}

/// Reads `text`; `stem` names it if it does not name itself.
pub(super) fn parse(text: &str, stem: &str, otherwise: Shape) -> Result<Scenario, Wrong> {
    let lines = Lines(text);
    let file: File = toml::from_str(text).map_err(|error| {
        // Without a span the whole file is meant: a field that is missing at its top.
        lines.wrong(error.span().unwrap_or(0..0), error.message())
    })?;
    let mut shape = otherwise;
    shape.mix = mix(&lines, &file.mix)?;
    if let Some(keys) = &file.keys {
        shape.distribution = keys
            .get_ref()
            .parse::<Distribution>()
            .map_err(|reason| lines.wrong(keys.span(), reason))?;
    }
    if let Some(values) = &file.values {
        let sizes = match values.get_ref() {
            Values::Bytes(bytes) => Sizes::fixed(*bytes),
            Values::Text(text) => text.parse(),
        };
        shape.sizes = sizes.map_err(|reason| lines.wrong(values.span(), reason))?;
    }
    if let Some(items) = &file.items {
        let [least, most] = *items.get_ref();
        if least == 0 || least > most || most > 1_000_000 {
            let reason = "items: the fewest, at least 1, and the most, at most a million";
            return Err(lines.wrong(items.span(), reason));
        }
        shape.items = (least, most);
    }
    let choice = |value: &Option<Spanned<String>>, what: &str, yes: &str, no: &str| {
        let Some(value) = value else { return Ok(None) };
        match value.get_ref().as_str() {
            text if text == yes => Ok(Some(true)),
            text if text == no => Ok(Some(false)),
            text => Err(lines
                .wrong(value.span(), format!("{what} \"{text}\": expected \"{yes}\" or \"{no}\""))),
        }
    };
    let is_poisson = choice(&file.arrivals, "arrivals", "poisson", "fixed")?;
    let is_eventual = choice(&file.consistency, "consistency", "eventual", "strong")?;
    let phases = phases(&lines, &file.phase)?;
    let think = file.think_ms.as_ref();
    let think_ms =
        think.map(|think| lines.within("think_ms", think, (0.001, 3_600_000.0))).transpose()?;
    if let Some(think) = think
        && phases.iter().any(|phase| phase.rate.is_some())
    {
        let reason = "think_ms belongs to a closed loop: an open loop's rate says when to start";
        return Err(lines.wrong(think.span(), reason));
    }
    let name = match &file.name {
        Some(name) if name.get_ref().trim().is_empty() => {
            return Err(lines.wrong(name.span(), "an empty name"));
        }
        Some(name) => name.get_ref().clone(),
        None => stem.to_owned(),
    };
    let optional = |what, value: &Option<Spanned<u32>>, range| {
        value.as_ref().map(|value| lines.within(what, value, range)).transpose()
    };
    Ok(Scenario {
        name,
        shape,
        records: file
            .records
            .map(|records| lines.within("records", &records, (1, 100_000_000_000)))
            .transpose()?,
        seed: file.seed,
        connections: optional("connections", &file.connections, (1, 100_000))?,
        depth: optional("depth", &file.depth, (1, 65_536))?,
        is_poisson,
        sort_digits: file
            .sort_digits
            .map(|digits| lines.within("sort_digits", &digits, (0, 9)))
            .transpose()?,
        is_eventual,
        think_time: think_ms.map(|millis| Duration::from_secs_f64(millis / 1e3)),
        phases,
        is_ledger: false,
        text: Some(text.to_owned()),
    })
}

fn mix(lines: &Lines<'_>, mix: &Spanned<FileMix>) -> Result<Mix, Wrong> {
    let FileMix { get, put, insert, scan, read_modify_write, conditional_put, query } =
        mix.get_ref();
    let parts = [
        (OpKind::Get, get),
        (OpKind::Put, put),
        (OpKind::Insert, insert),
        (OpKind::Scan, scan),
        (OpKind::ReadModifyWrite, read_modify_write),
        (OpKind::ConditionalPut, conditional_put),
        (OpKind::Query, query),
    ]
    .map(|(kind, percent)| (kind, percent.unwrap_or(0)));
    let sum: u64 = parts.iter().map(|(_, percent)| u64::from(*percent)).sum();
    match sum {
        100 => Ok(Mix::of(&parts)),
        sum => {
            Err(lines.wrong(mix.span(), format!("the mix adds up to {sum} percent, not to 100")))
        }
    }
}

fn phases(lines: &Lines<'_>, phases: &[Spanned<FilePhase>]) -> Result<Vec<PhaseSpec>, Wrong> {
    let mut specs: Vec<PhaseSpec> = Vec::new();
    if let Some(beyond) = phases.get(PHASES_MAX) {
        let reason = format!("at most {PHASES_MAX} phases");
        return Err(lines.wrong(beyond.span(), reason));
    }
    for spanned in phases {
        let phase = spanned.get_ref();
        let rate = |what: &str, rate: &Spanned<f64>| lines.within(what, rate, (0.0, RATE_MAX));
        let rate = match (&phase.rate, &phase.rate_from, &phase.rate_to) {
            (None, None, None) => None,
            (Some(steady), None, None) => {
                let steady = rate("rate", steady)?;
                Some((steady, steady))
            }
            (None, Some(from), Some(to)) => Some((rate("rate_from", from)?, rate("rate_to", to)?)),
            _ => {
                let reason = "a phase has a rate, or rate_from and rate_to, or neither";
                return Err(lines.wrong(spanned.span(), reason));
            }
        };
        let name = phase.name.clone();
        if let Some(before) = specs.last() {
            if phase.warmup && !before.is_warmup {
                let reason = "a warm-up comes before everything that is measured";
                return Err(lines.wrong(spanned.span(), reason));
            }
            if before.rate.is_some() != rate.is_some() {
                let reason = "phases with a rate and phases without: a run is one loop, open or \
                              closed";
                return Err(lines.wrong(spanned.span(), reason));
            }
        }
        let seconds = lines.within("seconds", &phase.seconds, (1, SECONDS_MAX))?;
        specs.push(PhaseSpec { name, seconds, rate, is_warmup: phase.warmup });
    }
    if let (Some(last), Some(spec)) = (phases.last(), specs.last()) {
        if spec.is_warmup {
            return Err(lines.wrong(last.span(), "nothing is measured: every phase is a warm-up"));
        }
        let measured = specs.iter().filter(|spec| !spec.is_warmup);
        if measured.map(|spec| spec.rate).all(|rate| rate == Some((0.0, 0.0))) {
            return Err(lines.wrong(last.span(), "nothing is measured: every rate is 0"));
        }
    }
    Ok(specs)
}
