//! Aligned columns for people.

use std::fmt;

use serde_json::Value;

use crate::listing::Listing;

/// Rows of text that are shown with aligned columns. Numbers stand to the right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new<T: Into<String>>(header: impl IntoIterator<Item = T>) -> Self {
        Self { header: header.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row; what is missing at its end is empty.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// True if it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn cell(row: &[String], column: usize) -> &str {
        row.get(column).map_or("", String::as_str)
    }

    fn width(&self, column: usize) -> usize {
        let rows = std::iter::once(&self.header).chain(&self.rows);
        rows.map(|row| Self::cell(row, column).chars().count()).max().unwrap_or(0)
    }

    fn is_numeric(&self, column: usize) -> bool {
        let mut cells = self.rows.iter().map(|row| Self::cell(row, column)).filter(|cell| !cell.is_empty());
        let numeric =
            |cell: &str| cell.chars().all(|c| c.is_ascii_digit() || matches!(c, ',' | '.' | '%' | '-'));
        cells.clone().next().is_some() && cells.all(numeric)
    }
}

impl From<&Listing> for Table {
    fn from(listing: &Listing) -> Self {
        let mut table = Self::new(listing.columns.iter().cloned());
        for row in &listing.rows {
            table.row(listing.columns.iter().map(|column| match row.get(column) {
                None | Some(Value::Null) => "-".to_owned(),
                Some(Value::String(text)) => text.clone(),
                Some(Value::Bool(value)) => if *value { "yes" } else { "no" }.to_owned(),
                Some(other) => other.to_string(),
            }));
        }
        table
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<(usize, bool)> =
            (0..self.header.len()).map(|column| (self.width(column), self.is_numeric(column))).collect();
        for row in std::iter::once(&self.header).chain(&self.rows) {
            let mut line = String::new();
            for (column, &(width, right)) in columns.iter().enumerate() {
                let cell = Self::cell(row, column);
                let gap = if column == 0 { "" } else { "  " };
                line += &if right { format!("{gap}{cell:>width$}") } else { format!("{gap}{cell:<width$}") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_right() {
        let mut table = Table::new(["name", "packets"]);
        table.row(["lan", "7"]);
        table.row(["outside", "12345"]);
        assert_eq!(table.to_string(), "name     packets\nlan            7\noutside    12345\n");
    }
}
