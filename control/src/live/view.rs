//! What the user of the view chose: which table, its order, and whether it stands still.

use std::time::Duration;

use super::source::Sample;
use super::tables::{Table, tables};

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ends the view.
    Quit,
    /// Stands still, or goes on.
    Pause,
    /// Chooses the next table.
    NextTable,
    /// Sorts the chosen table by its next column, after the last as the instance gives it.
    Sort,
    /// Turns the order round.
    Reverse,
    /// Goes down in the chosen table by so many rows, or up.
    Scroll(isize),
}

/// How a table is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The column that it is sorted by; none: as the instance gives it.
    pub column: Option<usize>,
    /// Numbers begin with the smallest and words with Z, and not with the largest and A.
    pub reversed: bool,
    /// Rows that are above what is shown.
    pub skipped: usize,
}

/// The view.
#[derive(Debug, Default)]
pub struct View {
    /// What is looked at, for people.
    pub title: String,
    /// The tables, sorted.
    pub tables: Vec<Table>,
    /// How each is shown.
    pub orders: Vec<Order>,
    /// The chosen table.
    pub chosen: usize,
    /// It stands still.
    pub paused: bool,
    /// Why there is nothing new.
    pub problem: Option<String>,
    /// The time between the samples of the tables.
    pub span: Duration,
    /// Lines of the log, the latest last.
    pub log: Vec<String>,
    before: Option<Sample>,
}

impl View {
    /// One without figures.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// Takes a sample, or why there is none.
    pub fn take(&mut self, sample: Result<Sample, String>) {
        let sample = match sample {
            Ok(sample) => sample,
            Err(why) => {
                self.problem = Some(why);
                // Rates over the time without answers would mislead.
                self.before = None;
                return;
            }
        };
        self.problem = None;
        if self.paused {
            return;
        }
        if let Some(before) = &self.before {
            self.tables = tables(before, &sample);
            self.span = sample.at.duration_since(before.at);
            self.orders.resize(self.tables.len(), Order::default());
            self.sort();
        }
        self.before = Some(sample);
    }

    /// Does what a key asks for, except ending the view.
    pub fn act(&mut self, action: Action) {
        match action {
            Action::Quit => {}
            Action::Pause => {
                self.paused = !self.paused;
            }
            Action::NextTable => self.chosen = (self.chosen + 1) % self.tables.len().max(1),
            Action::Sort => {
                if let (Some(order), Some(table)) =
                    (self.orders.get_mut(self.chosen), self.tables.get(self.chosen))
                {
                    let next = order.column.map_or(0, |column| column + 1);
                    *order =
                        Order { column: (next < table.columns.len()).then_some(next), ..Order::default() };
                }
                self.sort();
            }
            Action::Reverse => {
                if let Some(order) = self.orders.get_mut(self.chosen) {
                    order.reversed = !order.reversed;
                }
                self.sort();
            }
            Action::Scroll(by) => {
                if let (Some(order), Some(table)) =
                    (self.orders.get_mut(self.chosen), self.tables.get(self.chosen))
                {
                    order.skipped =
                        order.skipped.saturating_add_signed(by).min(table.rows.len().saturating_sub(1));
                }
            }
        }
    }

    /// Brings rows into the chosen orders. Rows that are equal stay as they are, so that nothing jumps.
    fn sort(&mut self) {
        for (table, order) in self.tables.iter_mut().zip(&mut self.orders) {
            order.skipped = order.skipped.min(table.rows.len().saturating_sub(1));
            let Some(column) = order.column else { continue };
            // Numbers from the largest, words from A.
            let up = table.columns.get(column).is_some_and(|column| column.numeric) == order.reversed;
            table.rows.sort_by(|one, two| {
                let (Some(one), Some(two)) = (one.get(column), two.get(column)) else {
                    return std::cmp::Ordering::Equal;
                };
                if up { one.order(two) } else { two.order(one) }
            });
        }
    }
}
