//! What happened, in words, for people who look at a failing run.

use std::fmt::Write;

use super::history::Op;

/// Lines kept.
const LINES_MAX: usize = 20_000;
/// Operations shown on each side of the one that cannot be explained.
const AROUND: usize = 16;

/// A list of lines, if anybody wants them.
#[derive(Debug)]
pub(super) struct Trace {
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(super) fn new(wanted: bool) -> Trace {
        Trace { lines: wanted.then(Vec::new) }
    }

    /// Adds a line; it is made only if somebody wants it.
    pub(super) fn say(&mut self, now: u64, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines
            && lines.len() < LINES_MAX
        {
            lines.push(format!("{:>12.6} s  {}", now as f64 / 1e9, line()));
        }
    }

    pub(super) fn take(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }
}

/// An operation in one line.
pub(super) fn describe(op: &Op) -> String {
    let end = match op.ended_at {
        u64::MAX => "?".to_owned(),
        at => format!("{:.6}", at as f64 / 1e9),
    };
    let began = op.began_at as f64 / 1e9;
    format!("client {} {:?} -> {:?} ({began:.6} s to {end} s)", op.client, op.call, op.outcome)
}

/// The operations around one of them, in the order of their beginnings.
pub(super) fn around(ops: &[Op], index: usize) -> String {
    let first = index.saturating_sub(AROUND);
    let last = ops.len().min(index + AROUND / 2);
    let mut text = String::new();
    for (offset, op) in ops[first..last].iter().enumerate() {
        let mark = if first + offset == index { '>' } else { ' ' };
        let _ = writeln!(text, "  {mark} {}", describe(op));
    }
    text
}
