//! Markdown tables that also read well as plain text.

use std::fmt::Write as _;

/// A table under construction. The first column is text, the others are numbers.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    headers: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these columns.
    pub(crate) fn new<const N: usize>(headers: [&str; N]) -> Table {
        Table { headers: headers.map(str::to_owned).to_vec(), rows: Vec::new() }
    }

    /// With these columns, however many.
    pub(crate) fn of(headers: Vec<String>) -> Table {
        Table { headers, rows: Vec::new() }
    }

    /// One more row of a table with that many columns.
    pub(crate) fn cells(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.headers.len(), "a row has as many cells as the table columns");
        self.rows.push(cells);
    }

    /// One more row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.headers.len(), "a row has as many cells as the table has columns");
        self.rows.push(cells.to_vec());
    }

    /// Padded Markdown.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&self.headers]);
            cells.map(|row| row[column].chars().count()).max().unwrap_or(0).max(3)
        };
        let widths: Vec<usize> = (0..self.headers.len()).map(width).collect();
        let mut out = String::new();
        let mut line = |cells: &[String]| {
            for (column, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
                let written = match column {
                    0 => write!(out, "| {cell:<width$} "),
                    _ => write!(out, "| {cell:>width$} "),
                };
                written.expect("writing to a string does not fail");
            }
            out.push_str("|\n");
        };
        line(&self.headers);
        let rules: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(column, &width)| match column {
                0 => "-".repeat(width),
                _ => "-".repeat(width - 1) + ":",
            })
            .collect();
        line(&rules);
        self.rows.iter().for_each(|row| line(row));
        out
    }
}

/// A whole number with its thousands apart.
pub(crate) fn whole(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Microseconds: three digits, or whole ones.
pub(crate) fn micros(value: f64) -> String {
    match value {
        small if small < 100.0 => format!("{small:.1}"),
        large => whole(large),
    }
}

/// Bytes as MB or GB (powers of 1000, as devices count).
pub(crate) fn bytes(value: f64) -> String {
    match value {
        large if large >= 1e9 => format!("{:.2} GB", large / 1e9),
        middle if middle >= 1e6 => format!("{:.1} MB", middle / 1e6),
        small => format!("{:.1} kB", small / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown_with_numbers_at_the_right() {
        let mut table = Table::new(["target", "ops/s"]);
        table.row(["redis".to_owned(), whole(1234.6)]);
        table.row(["a longer name".to_owned(), whole(12.0)]);
        assert_eq!(
            table.render(),
            "| target        | ops/s |\n| ------------- | ----: |\n\
             | redis         | 1,235 |\n| a longer name |    12 |\n"
        );
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(whole(1_234_567.0), "1,234,567");
        assert_eq!(whole(0.4), "0");
        assert_eq!((micros(12.34), micros(1234.5)), ("12.3".to_owned(), "1,234".to_owned()));
        assert_eq!(bytes(1.5e9), "1.50 GB");
        assert_eq!(bytes(2.5e6), "2.5 MB");
        assert_eq!(bytes(500.0), "0.5 kB");
    }
}
