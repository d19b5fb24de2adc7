//! A typed reader of TOML tables that collects what is wrong instead of stopping at the first error.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::context::{Context, Finding};
use super::places::{item, join};
use super::schema::Schema;
use super::suggest::nearest;

/// A single value: what text formats are parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar<'a> {
    /// A string's contents.
    Text(&'a str),
    /// An integer that is not negative.
    Number(u64),
}

/// Why a scalar is not what its key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    /// What is wrong with it.
    pub(crate) message: String,
    /// What would be right, with an example.
    pub(crate) valid: String,
    /// What was probably meant.
    pub(crate) help: Option<String>,
}

impl Invalid {
    pub(crate) fn new(message: impl Into<String>, valid: impl Into<String>) -> Self {
        Self { message: message.into(), valid: valid.into(), help: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A table of the document, read key by key.
pub(crate) struct Section<'a> {
    pub(crate) context: &'a Context<'a>,
    /// The table's full path.
    pub(crate) path: String,
    schema: &'static Schema,
    table: &'a DeTable<'a>,
    /// Tables under a mistyped name: the key that was meant, and the one that is there.
    mistyped: Vec<(&'static str, &'a str)>,
}

impl<'a> Section<'a> {
    /// The document itself.
    pub(crate) fn root(context: &'a Context<'a>, schema: &'static Schema, table: &'a DeTable<'a>) -> Self {
        let mut section = Self { context, path: String::new(), schema, table, mistyped: Vec::new() };
        section.refuse_unknown_keys();
        section
    }

    /// Whether a table stands under a mistyped name. It was read as what was meant, so that nothing that refers to it
    /// is called unknown; but it does not stand where later checks would look for it.
    pub(crate) fn has_mistyped_tables(&self) -> bool {
        !self.mistyped.is_empty()
    }

    /// The table `value` at `path`; an error is noted when it is no table, and for each unknown key.
    pub(crate) fn open(
        context: &'a Context<'a>,
        path: String,
        schema: &'static Schema,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Option<Self> {
        let table = as_table(context, &path, value, schema.keys)?;
        let mut section = Self { context, path, schema, table, mistyped: Vec::new() };
        section.refuse_unknown_keys();
        Some(section)
    }

    fn refuse_unknown_keys(&mut self) {
        for (key, value) in self.table.iter() {
            let key = key.get_ref().as_ref();
            if self.schema.keys.contains(&key) {
                continue;
            }
            let suggestion = nearest(key, self.schema.keys.iter().copied());
            if let (Some(meant), DeValue::Table(_)) = (suggestion, value.get_ref()) {
                self.mistyped.push((meant, key));
            }
            self.context.push(
                Finding::error(join(&self.path, key), format!("unknown key `{key}`"))
                    .at_key()
                    .found(format!("`{key}`"))
                    .valid(words(self.schema.keys))
                    .maybe_help(suggestion.map(|word| format!("did you mean `{word}`?"))),
            );
        }
    }

    /// The full path of a key of this table.
    pub(crate) fn key(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Whether the key is there, be its value right or wrong, or a table under a mistyped name.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some() || self.mistyped.iter().any(|(meant, _)| *meant == key)
    }

    /// The key's raw value.
    pub(crate) fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        debug_assert!(self.schema.keys.contains(&key), "{key} is not in the schema {}", self.schema.title);
        self.context.ask(self.schema.title, key);
        self.table.get(key)
    }

    /// Notes an error unless the key is there.
    pub(crate) fn require(&self, key: &'static str, valid: &str) {
        if !self.has(key) {
            self.context.push(
                Finding::error(self.key(key), format!("`{key}` is missing"))
                    .at_key()
                    .found(format!("no key `{key}` in this table"))
                    .valid(valid),
            );
        }
    }

    /// A value in a text format, parsed by `parse`.
    pub(crate) fn parsed<T>(
        &self,
        key: &'static str,
        parse: impl Fn(Scalar<'_>) -> Result<T, Invalid>,
    ) -> Option<T> {
        let value = self.value(key)?;
        parse_value(self.context, &self.key(key), value, &parse)
    }

    /// A list of values in a text format; a single value stands for a list of one.
    pub(crate) fn list<T>(
        &self,
        key: &'static str,
        parse: impl Fn(Scalar<'_>) -> Result<T, Invalid>,
    ) -> Option<Vec<T>> {
        let value = self.value(key)?;
        Some(Self::list_of(self.context, &self.key(key), value, parse))
    }

    /// The list `value` at `path`, as [`Section::list`].
    pub(crate) fn list_of<T>(
        context: &Context<'_>,
        path: &str,
        value: &Spanned<DeValue<'_>>,
        parse: impl Fn(Scalar<'_>) -> Result<T, Invalid>,
    ) -> Vec<T> {
        let DeValue::Array(array) = value.get_ref() else {
            return parse_value(context, path, value, &parse).into_iter().collect();
        };
        if array.is_empty() {
            let finding = Finding::error(path, "the list is empty").found("[]");
            context.push(finding.valid("at least one element, or no such key at all"));
        }
        let mut kept = Vec::new();
        let mut values = Vec::new();
        for (position, element) in array.iter().enumerate() {
            if let Some(value) = parse_value(context, &item(path, position), element, &parse) {
                kept.push(position);
                values.push(value);
            }
        }
        context.keep(path, kept);
        values
    }

    /// An integer within `range`.
    pub(crate) fn integer(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let valid = format!("an integer from {} to {}", range.start(), range.end());
        self.parsed(key, |scalar| match scalar {
            Scalar::Number(number) if range.contains(&number) => Ok(number),
            Scalar::Number(_) => Err(Invalid::new("the number is out of range", valid.as_str())),
            Scalar::Text(text) => {
                let invalid = Invalid::new("expected an integer, found a string", valid.as_str());
                Err(if text.parse::<u64>().is_ok() { invalid.help("remove the quotes") } else { invalid })
            }
        })
    }

    /// True or false.
    pub(crate) fn boolean(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        if let DeValue::Boolean(boolean) = value.get_ref() {
            return Some(*boolean);
        }
        self.context.push(
            Finding::error(self.key(key), format!("`{key}` is true or false"))
                .found(describe(self.context, value))
                .valid("true, false"),
        );
        None
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        self.parsed(key, |scalar| word(scalar, choices))
    }

    /// A table within this one.
    pub(crate) fn section(&self, key: &'static str, schema: &'static Schema) -> Option<Section<'a>> {
        Section::open(self.context, self.key(key), schema, self.value(key)?)
    }

    /// The entries of a table whose keys are names of the user's choice, in the order of the file; also those that stand
    /// under a mistyped name of the table.
    pub(crate) fn named(&self, key: &'static str) -> Vec<(&'a str, String, &'a Spanned<DeValue<'a>>)> {
        let mistyped = self.mistyped.iter().filter(|(meant, _)| *meant == key);
        let tables = mistyped.filter_map(|(_, found)| Some((self.key(found), self.table.get(*found)?)));
        let tables = self.value(key).map(|value| (self.key(key), value)).into_iter().chain(tables);
        let mut entries = Vec::new();
        for (path, value) in tables {
            let Some(table) = as_table(self.context, &path, value, &[]) else { continue };
            entries.extend(table.iter().map(|(key, value)| (key, join(&path, key.get_ref()), value)));
        }
        entries.sort_by_key(|(key, ..)| key.span().start);
        entries.into_iter().map(|(key, path, value)| (key.get_ref().as_ref(), path, value)).collect()
    }

    /// An array of tables, each opened and read by `read`; those that give nothing are left out.
    pub(crate) fn tables<T>(
        &self,
        key: &'static str,
        schema: &'static Schema,
        mut read: impl FnMut(&Section<'a>, usize) -> Option<T>,
    ) -> Vec<T> {
        let path = self.key(key);
        let Some(value) = self.value(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            self.context.push(
                Finding::error(&path, format!("`{key}` is a list of tables"))
                    .found(describe(self.context, value))
                    .valid(format!("[[{path}]] before each entry")),
            );
            return Vec::new();
        };
        let mut kept = Vec::new();
        let mut values = Vec::new();
        for (position, element) in array.iter().enumerate() {
            let section = Section::open(self.context, item(&path, position), schema, element);
            if let Some(value) = section.and_then(|section| read(&section, position)) {
                kept.push(position);
                values.push(value);
            }
        }
        self.context.keep(&path, kept);
        values
    }
}

/// Narrows a number whose range the reader has just checked.
pub(crate) fn narrow<T: TryFrom<u64>>(number: u64) -> T {
    T::try_from(number).unwrap_or_else(|_| unreachable!("the reader checks the range of {number}"))
}

/// One of a few words, with a suggestion when it is none of them.
pub(crate) fn word<T: Copy>(scalar: Scalar<'_>, choices: &[(&str, T)]) -> Result<T, Invalid> {
    let valid = || choices.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let Scalar::Text(text) = scalar else {
        return Err(Invalid::new("expected a string, found a number", valid()));
    };
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let invalid = Invalid::new(format!("`{text}` is not one of the valid values"), valid());
    Err(match nearest(text, choices.iter().map(|(word, _)| *word)) {
        Some(word) => invalid.help(format!("did you mean \"{word}\"?")),
        None => invalid,
    })
}

/// Most words that a `valid:` line lists.
const WORDS_MAX: usize = 24;

/// The words in backticks, each once, for a `valid:` line.
pub(crate) fn words<S: AsRef<str>>(words: &[S]) -> String {
    if words.is_empty() {
        return "none is defined".to_owned();
    }
    let mut seen = HashSet::new();
    let different: Vec<&str> = words.iter().map(AsRef::as_ref).filter(|word| seen.insert(*word)).collect();
    let shown: Vec<_> = different.iter().take(WORDS_MAX).map(|word| format!("`{word}`")).collect();
    let more = different.len().saturating_sub(WORDS_MAX);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &tail
}

fn as_table<'a>(
    context: &Context<'_>,
    path: &str,
    value: &'a Spanned<DeValue<'a>>,
    keys: &[&str],
) -> Option<&'a DeTable<'a>> {
    if let DeValue::Table(table) = value.get_ref() {
        return Some(table);
    }
    let valid = if keys.is_empty() { "a table".to_owned() } else { format!("a table with {}", words(keys)) };
    context.push(Finding::error(path, "expected a table").found(describe(context, value)).valid(valid));
    None
}

fn parse_value<T>(
    context: &Context<'_>,
    path: &str,
    value: &Spanned<DeValue<'_>>,
    parse: &impl Fn(Scalar<'_>) -> Result<T, Invalid>,
) -> Option<T> {
    let number;
    let scalar = match value.get_ref() {
        DeValue::String(text) => Scalar::Text(text),
        DeValue::Integer(integer) => {
            number = u64::from_str_radix(integer.as_str(), integer.radix());
            match number {
                Ok(number) => Scalar::Number(number),
                // What would be valid is known to `parse` alone; no key takes such a number.
                Err(_) => return refuse(context, path, value, "the number is out of range", parse),
            }
        }
        _ => return refuse(context, path, value, "the value has the wrong type", parse),
    };
    match parse(scalar) {
        Ok(parsed) => Some(parsed),
        Err(invalid) => {
            context.push(
                Finding::error(path, invalid.message)
                    .found(describe(context, value))
                    .valid(invalid.valid)
                    .maybe_help(invalid.help),
            );
            None
        }
    }
}

/// Notes a value that no parser takes; what would be valid comes from the parser's answer to nonsense.
fn refuse<T>(
    context: &Context<'_>,
    path: &str,
    value: &Spanned<DeValue<'_>>,
    message: &str,
    parse: &impl Fn(Scalar<'_>) -> Result<T, Invalid>,
) -> Option<T> {
    let mut finding = Finding::error(path, message).found(describe(context, value));
    if let Err(invalid) = parse(Scalar::Text("\u{0}")) {
        finding = finding.valid(invalid.valid);
    }
    context.push(finding);
    None
}

/// A value as it stands in the file, shortened, with its type where that is not obvious.
pub(crate) fn describe(context: &Context<'_>, value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::Table(_) => "a table".to_owned(),
        DeValue::Array(array) => format!("a list of {} elements", array.len()),
        _ => {
            let text = context.source(value.span());
            let short: String = text.chars().take(60).collect();
            if short.len() < text.len() { format!("{short}…") } else { short }
        }
    }
}
