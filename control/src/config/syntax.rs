//! What is no TOML: explained as far as the parser and the text around it tell.

use std::collections::HashMap;
use std::ops::Range;

use super::context::{Context, Finding};
use super::places::join;
use super::schema;

/// Most characters of what was found that are told.
const FOUND_CHARACTERS_MAX: usize = 60;

/// Notes all syntax errors; gives the lines they stand on, or nothing when one of them hides what follows, or when there are more
/// of them than are told.
pub(crate) fn note(context: &Context<'_>, errors: &[toml::de::Error]) -> Option<Vec<usize>> {
    let mut lines = Vec::new();
    let mut confined = true;
    let is_duplicate = |error: &toml::de::Error| error.message() == "duplicate key";
    let headers = if errors.iter().any(is_duplicate) { Headers::of(context) } else { Headers::default() };
    for error in errors {
        if context.is_full() {
            confined = false;
            context.push(Finding::error("", error.message()));
            continue;
        }
        let span = error.span().unwrap_or(0..0);
        let line = context.line_at(&span);
        let text = context.line(line);
        if is_duplicate(error) {
            confined &= !text.trim_start().starts_with('[');
            lines.push(line);
            if let Some(finding) = duplicate(context, &headers, span, line) {
                context.push(finding);
            }
            continue;
        }
        confined &= text.contains('=')
            && !text.trim_start().starts_with('[')
            && !error.message().contains("unclosed");
        lines.push(line);
        let found: String = text.trim().chars().take(FOUND_CHARACTERS_MAX).collect();
        let found = if found.is_empty() { "the end of the line or file".to_owned() } else { found };
        let unquoted = error.message().starts_with("invalid ") && text.contains('=');
        let (message, valid) = error.message().split_once(", expected ").unwrap_or((error.message(), ""));
        let finding = Finding::error("", format!("not TOML: {message}")).at_span(span).found(found);
        let valid = if valid.is_empty() { "what TOML allows (https://toml.io)" } else { valid };
        // The parser guesses at numbers when it meets a bare word; a person has forgotten the quotes.
        let word = context.source(error.span().unwrap_or(0..0));
        let bare_word = unquoted && word.starts_with(|c: char| c.is_ascii_alphabetic());
        context.push(if bare_word {
            let valid = "a string in quotes, a number, true, false, a [list] or a {table}";
            finding.valid(valid).help(format!("text stands in quotes: \"{word}\""))
        } else {
            finding.valid(valid)
        });
    }
    confined.then_some(lines)
}

/// The headers of a document's tables, found in one pass.
#[derive(Debug, Default)]
struct Headers<'a> {
    /// Their lines in ascending order, each with the name and whether it is that of a list's element.
    lines: Vec<(usize, &'a str, bool)>,
    /// By name, the line of the first one, and of the first one that is a list's.
    first: HashMap<&'a str, (usize, Option<usize>)>,
}

impl<'a> Headers<'a> {
    fn of(context: &Context<'a>) -> Self {
        let mut all = Self::default();
        for line in 1..=context.lines() {
            let Some((name, list)) = header(context.line(line)) else { continue };
            all.lines.push((line, name, list));
            let (_, first_list) = all.first.entry(name).or_insert((line, None));
            *first_list = first_list.or(list.then_some(line));
        }
        all
    }

    /// The first one of this name before `line`: of a list's element if there is one, else any.
    fn earlier(&self, name: &str, line: usize) -> (Option<usize>, Option<usize>) {
        let before = |first: usize| (first < line).then_some(first);
        let (any, list) = self.first.get(name).copied().unwrap_or((line, None));
        (before(any), list.and_then(before))
    }

    /// The one that `line` is below.
    fn above(&self, line: usize) -> Option<(usize, &'a str, bool)> {
        let at = self.lines.partition_point(|&(header, ..)| header < line);
        at.checked_sub(1).map(|at| self.lines[at])
    }
}

/// What is wrong with a key or a table that is there twice: where the first is. Nothing for the keys below the header of such a
/// table, whose own finding says it.
fn duplicate<'a>(
    context: &Context<'a>,
    headers: &Headers<'a>,
    span: Range<usize>,
    line: usize,
) -> Option<Finding> {
    let text = context.line(line).trim();
    let (path, first, valid) = if let Some((name, _)) = header(text) {
        let (any, list_of_tables) = headers.earlier(name, line);
        let lists = [&schema::RULE, &schema::FORWARD, &schema::ROUTE, &schema::NEIGHBOUR];
        let last = |name: &'a str| name.rsplit('.').next();
        let in_list = lists.iter().any(|schema| last(schema.title) == last(name));
        let valid = match in_list || list_of_tables.is_some() {
            true => format!("[[{name}]], in two brackets, before each of several"),
            false => format!("one table [{name}]"),
        };
        (name.to_owned(), list_of_tables.or(any), valid)
    } else {
        let key = context.source(span.clone()).trim_matches(['"', '\'']);
        let table = headers.above(line);
        let (start, name) = table.map_or((0, ""), |(start, name, _)| (start, name));
        if table.is_some_and(|(start, name, list)| !list && headers.earlier(name, start).0.is_some()) {
            return None;
        }
        let is_first = |line: &usize| {
            let found = context.line(*line).split_once('=');
            found.is_some_and(|(name, _)| name.trim().trim_matches(['"', '\'']) == key)
        };
        (join(name, key), (start + 1..line).find(is_first), "each key once in a table".to_owned())
    };
    let found: String = text.chars().take(FOUND_CHARACTERS_MAX).collect();
    let finding = Finding::error(&path, format!("`{path}` is there twice")).at_span(span).found(found);
    let help = first.map(|line| format!("the first is in line {line}"));
    Some(finding.valid(valid).maybe_help(help))
}

/// The name in the header of a table, and whether the header is that of a list's element.
fn header(line: &str) -> Option<(&str, bool)> {
    let name = line.trim().strip_prefix('[')?;
    let list = name.strip_prefix('[');
    let (name, _) = list.unwrap_or(name).split_once(']')?;
    Some((name.trim(), list.is_some()))
}
