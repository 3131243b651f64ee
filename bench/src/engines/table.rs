//! The table, and the figures that this project asks of itself.

use serde::Serialize;

use super::engine::EngineName;
use super::workload::{Cut, Measured, Row};
use crate::compare::statistics::Spread;
use crate::compare::table::{Table, bytes, micros, whole};

/// All rounds of one engine.
#[derive(Clone, Debug)]
pub(crate) struct EngineRounds {
    pub(crate) name: EngineName,
    pub(crate) rounds: Vec<Measured>,
    /// Of any round.
    pub(crate) cuts: Vec<Cut>,
}

impl EngineRounds {
    /// The row's value of each round; none if the engine or the run has no such row.
    fn values(&self, row: Row) -> Option<Vec<f64>> {
        let values: Vec<f64> =
            self.rounds.iter().filter_map(|round| round.get(&row).copied()).collect();
        (values.len() == self.rounds.len() && !values.is_empty()).then_some(values)
    }

    /// The middle of the rounds.
    pub(crate) fn median(&self, row: Row) -> Option<f64> {
        self.values(row).map(|values| Spread::of(&values).median)
    }
}

/// One column for each engine, one row for each figure that was measured.
pub(crate) fn markdown(engines: &[EngineRounds]) -> String {
    let mut headers = vec!["median of rounds".to_owned()];
    headers.extend(engines.iter().map(|engine| engine.name.name().to_owned()));
    let mut table = Table::of(headers);
    for row in Row::ALL {
        let cells: Vec<Option<String>> = engines
            .iter()
            .map(|engine| {
                let value = shown(row, engine.median(row)?);
                let is_cut = engine.cuts.iter().any(|cut| cut.row == row);
                Some(if is_cut { format!("{value} \\*") } else { value })
            })
            .collect();
        if cells.iter().any(Option::is_some) {
            let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "–".to_owned()));
            table.cells(std::iter::once(title(row).to_owned()).chain(cells).collect());
        }
    }
    table.render()
}

/// With its unit.
pub(crate) fn title(row: Row) -> &'static str {
    match row {
        Row::BulkLoad => "bulk load, items/s",
        Row::LoadSettle => "settled after the load, s",
        Row::SingleWrites => "single durable writes, commits/s (us each)",
        Row::Batches => "batches, items/s",
        Row::SizeFull => "size on disk, all items",
        Row::RandomReads => "random reads, 1 thread, items/s (us each)",
        Row::UsedFull => "- live pages",
        Row::LogFull => "- log, of fixed length",
        Row::ReserveFull => "- reserve, for merges to come",
        Row::UsedRemoved => "- live pages, half removed",
        Row::LogRemoved => "- log, of fixed length, half removed",
        Row::ReserveRemoved => "- reserve, for merges to come, half removed",
        Row::RandomReadCpu => "random reads, CPU us each",
        Row::RangeReadCpu => "range reads, CPU us each",
        Row::RangeReads => "range reads of 10 items, ranges/s (us each)",
        Row::Removals => "removals, items/s",
        Row::SizeRemoved => "size on disk, half removed",
        Row::SizeCompacted => "size on disk, compacted",
        Row::Compaction => "compaction, s",
    }
}

/// A value of `row` as text.
pub(crate) fn shown(row: Row, value: f64) -> String {
    match row {
        Row::SizeFull
        | Row::UsedFull
        | Row::LogFull
        | Row::ReserveFull
        | Row::SizeRemoved
        | Row::UsedRemoved
        | Row::LogRemoved
        | Row::ReserveRemoved
        | Row::SizeCompacted => bytes(value),
        Row::RandomReadCpu | Row::RangeReadCpu => format!("{value:.2}"),
        Row::LoadSettle | Row::Compaction => format!("{value:.1}"),
        Row::SingleWrites => format!("{} ({})", whole(value), micros(1e6 / value)),
        Row::RandomReads | Row::RangeReads => format!("{} ({:.2})", whole(value), 1e6 / value),
        Row::BulkLoad | Row::Batches | Row::Removals => whole(value),
    }
}

/// What the cells with an asterisk are of; nothing if there is none.
pub(crate) fn cut_lines(engines: &[EngineRounds]) -> String {
    let line = |engine: &EngineRounds, cut: &Cut| {
        let Cut { row, done, planned } = *cut;
        let title = title(row).split(',').next().unwrap_or_default();
        format!("- \\* {}, {title}: {done} of {planned}\n", engine.name.name())
    };
    let lines = |engine: &EngineRounds| -> String {
        engine.cuts.iter().map(|cut| line(engine, cut)).collect()
    };
    let lines: String = engines.iter().map(lines).collect();
    match lines.is_empty() {
        true => lines,
        false => format!("Cut short by --time-limit, rates are of what was done:\n\n{lines}"),
    }
}

/// Something that is asked of this project's engine in comparison with a peer.
#[derive(Clone, Copy, Debug)]
struct Asked {
    words: &'static str,
    row: Row,
    peer: EngineName,
    wanted: Wanted,
}

#[derive(Clone, Copy, Debug)]
enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

const ASKED: [Asked; 4] = [
    Asked {
        words: "random reads at least LMDB's",
        row: Row::RandomReads,
        peer: EngineName::Lmdb,
        wanted: Wanted::AtLeast(1.0),
    },
    Asked {
        words: "single durable writes at least redb's",
        row: Row::SingleWrites,
        peer: EngineName::Redb,
        wanted: Wanted::AtLeast(1.0),
    },
    Asked {
        words: "batches at least half of fjall's",
        row: Row::Batches,
        peer: EngineName::Fjall,
        wanted: Wanted::AtLeast(0.5),
    },
    Asked {
        words: "size on disk at most twice RocksDB's",
        row: Row::SizeFull,
        peer: EngineName::Rocksdb,
        wanted: Wanted::AtMost(2.0),
    },
];

/// What became of one of them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) asked: &'static str,
    /// This engine's by the peer's; none where either was not measured.
    pub(crate) ratio: Option<Spread>,
    pub(crate) is_reached: Option<bool>,
}

/// The verdict on everything asked.
pub(crate) fn verdicts(engines: &[EngineRounds]) -> Vec<Verdict> {
    let values = |name: EngineName, row: Row| {
        engines.iter().find(|engine| engine.name == name).and_then(|engine| engine.values(row))
    };
    let judge = |asked: &Asked| {
        let ours = values(EngineName::Forebay, asked.row);
        let ratio = ours.zip(values(asked.peer, asked.row));
        let ratio = ratio.map(|(ours, theirs)| Spread::ratio(&ours, &theirs));
        let is_reached = ratio.map(|ratio| match asked.wanted {
            Wanted::AtLeast(limit) => ratio.median >= limit,
            Wanted::AtMost(limit) => ratio.median <= limit,
        });
        Verdict { asked: asked.words, ratio, is_reached }
    };
    ASKED.iter().map(judge).collect()
}

/// The verdicts as a list.
pub(crate) fn verdict_lines(verdicts: &[Verdict]) -> String {
    let line = |verdict: &Verdict| match (verdict.ratio, verdict.is_reached) {
        (Some(Spread { median, min, max }), Some(is_reached)) => format!(
            "- {}: ratio {median:.2} ({min:.2}–{max:.2}): **{}**\n",
            verdict.asked,
            if is_reached { "reached" } else { "missed" }
        ),
        _ => format!("- {}: not measured here\n", verdict.asked),
    };
    verdicts.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(name: EngineName, values: &[(Row, f64)]) -> EngineRounds {
        let rounds = vec![values.iter().copied().collect(); 3];
        EngineRounds { name, rounds, cuts: Vec::new() }
    }

    #[test]
    fn a_table_has_every_row_that_anybody_has() {
        let ours: Vec<_> = Row::ALL.iter().map(|row| (*row, 2.0)).collect();
        let text = markdown(&[
            rounds(EngineName::Forebay, &ours),
            rounds(EngineName::Redb, &[(Row::BulkLoad, 1.0)]),
        ]);
        for row in Row::ALL {
            assert!(text.contains(title(row)), "{text}");
        }
        assert_eq!(text.lines().count(), 2 + Row::ALL.len());
        assert!(!text.contains('*'), "{text}");
        let cut = Cut { row: Row::BulkLoad, done: 10, planned: 20 };
        let mut cut_short = rounds(EngineName::Redb, &[(Row::BulkLoad, 1.0)]);
        cut_short.cuts.push(cut);
        assert!(markdown(std::slice::from_ref(&cut_short)).contains("1 \\*"));
        assert!(cut_lines(&[cut_short]).contains("redb, bulk load: 10 of 20"));
        let few = markdown(&[rounds(EngineName::Redb, &[(Row::BulkLoad, 1.0)])]);
        assert_eq!(few.lines().count(), 3);
    }

    #[test]
    fn what_is_asked_is_reached_missed_or_not_measured() {
        let verdicts = verdicts(&[
            rounds(
                EngineName::Forebay,
                &[(Row::RandomReads, 2.0), (Row::SingleWrites, 1.0), (Row::SizeFull, 5.0)],
            ),
            rounds(EngineName::Lmdb, &[(Row::RandomReads, 2.0)]),
            rounds(EngineName::Redb, &[(Row::SingleWrites, 2.0)]),
            rounds(EngineName::Rocksdb, &[(Row::SizeFull, 2.0)]),
        ]);
        let reached: Vec<_> = verdicts.iter().map(|verdict| verdict.is_reached).collect();
        assert_eq!(reached, [Some(true), Some(false), None, Some(false)]);
        let lines = verdict_lines(&verdicts);
        assert!(lines.contains("ratio 1.00 (1.00–1.00): **reached**"), "{lines}");
        assert!(lines.contains("ratio 0.50 (0.50–0.50): **missed**"), "{lines}");
        assert!(lines.contains("not measured here"), "{lines}");
    }
}
