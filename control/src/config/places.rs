//! Where each key and value of a document stands, by its path (`functions.nat.pool[0]`).

use std::collections::HashMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Byte ranges of a key and of its value in the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) key: Range<usize>,
    pub(crate) value: Range<usize>,
}

/// The places of every key and array element of a document.
#[derive(Debug, Default)]
pub(crate) struct Places(HashMap<String, Place>);

impl Places {
    /// Walks a whole document. Its depth is bounded by the TOML parser.
    pub(crate) fn of(document: &DeTable<'_>) -> Self {
        let mut places = Self::default();
        places.table("", document);
        places
    }

    /// The place of `path`, or of the nearest table around it.
    pub(crate) fn nearest(&self, path: &str) -> Option<&Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.0.get(path) {
                return Some(place);
            }
            path = parent(path)?;
        }
    }

    /// The place of exactly this path.
    pub(crate) fn exact(&self, path: &str) -> Option<&Place> {
        self.0.get(path)
    }

    /// Whether the document has exactly this path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    fn table(&mut self, path: &str, table: &DeTable<'_>) {
        for (key, value) in table.iter() {
            let path = join(path, key.get_ref());
            self.value(&path, value.get_ref());
            self.0.insert(path, Place { key: key.span(), value: value.span() });
        }
    }

    fn value(&mut self, path: &str, value: &DeValue<'_>) {
        match value {
            DeValue::Table(table) => self.table(path, table),
            DeValue::Array(array) => {
                for (position, element) in array.iter().enumerate() {
                    let path = item(path, position);
                    self.value(&path, element.get_ref());
                    self.0.insert(path, Place { key: element.span(), value: element.span() });
                }
            }
            _ => {}
        }
    }
}

/// The path of `key` within the table at `path`, quoted where TOML needs quotes.
pub(crate) fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let key = if bare { key.to_owned() } else { format!("\"{}\"", key.escape_debug()) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// The path of an array's element; `position` counts from zero.
pub(crate) fn item(path: &str, position: usize) -> String {
    format!("{path}[{position}]")
}

/// The path without its last key or index. Quotes in the path are those of [`join`]: never unbalanced.
fn parent(path: &str) -> Option<&str> {
    let mut quoted = false;
    let mut escaped = false;
    let mut cut = None;
    for (position, c) in path.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '.' | '[' if !quoted => cut = Some(position),
            _ => {}
        }
    }
    cut.map(|cut| &path[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_element_has_its_place() {
        let text = "[a.\"b.c\"]\nx = [1, 22]\n[[a.rules]]\nname = \"n\"\n";
        let document = DeTable::parse(text).unwrap();
        let places = Places::of(document.get_ref());
        let value = |path: &str| &text[places.nearest(path).unwrap().value.clone()];
        assert_eq!(value("a.\"b.c\".x[1]"), "22");
        assert_eq!(value("a.rules[0].name"), "\"n\"");
        assert_eq!(value("a.rules[0].missing"), "[[a.rules]]");
        assert_eq!(value("a.\"b.c\".missing"), "[a.\"b.c\"]");
        assert!(places.has("a.rules[0]") && !places.has("a.rules[1]"));
        assert_eq!(places.nearest("z"), None);
    }
}
