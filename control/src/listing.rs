//! Rows about something, as `show` and the accounting have them, made slice by slice.

use millrace_dataplane::port::MacAddress;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A row: values by column.
pub type Row = Map<String, Value>;

/// Rows with the order of their columns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// Names of the columns in the order in which people read them.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
    /// More rows match: ask again with this offset.
    pub next_offset: Option<usize>,
}

impl Listing {
    /// Without rows.
    pub fn new(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|&column| column.to_owned()).collect(), ..Self::default() }
    }

    /// Adds a row; `values` are in the order of the columns.
    pub fn push(&mut self, values: impl IntoIterator<Item = Value>) {
        self.rows.push(self.columns.iter().cloned().zip(values).collect());
    }
}

/// Objects that one command looks at.
pub const SLICE: usize = 1_024;

/// A slice of rows, and where the next one begins.
pub type Slice = (Listing, Option<usize>);

/// A MAC address as people write it.
pub fn show_mac(mac: MacAddress) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
