//! What is no TOML: explained as far as the parser and the text around it tell.

use std::ops::Range;

use super::context::{Context, Finding};
use super::places::join;
use super::schema;

/// Notes all syntax errors; gives the lines they stand on, or nothing when one of them hides what follows.
pub(crate) fn note(context: &Context<'_>, errors: &[toml::de::Error]) -> Option<Vec<usize>> {
    let mut lines = Vec::new();
    let mut confined = true;
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let (line, _) = context.position(&span);
        let text = context.line(line);
        if error.message() == "duplicate key" {
            confined &= !text.trim_start().starts_with('[');
            lines.push(line);
            if let Some(finding) = duplicate(context, span, line) {
                context.push(finding);
            }
            continue;
        }
        confined &= text.contains('=')
            && !text.trim_start().starts_with('[')
            && !error.message().contains("unclosed");
        lines.push(line);
        let found: String = text.trim().chars().take(60).collect();
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

/// What is wrong with a key or a table that is there twice: where the first is. Nothing for the keys below the header of such a
/// table, whose own finding says it.
fn duplicate<'a>(context: &Context<'a>, span: Range<usize>, line: usize) -> Option<Finding> {
    let text = context.line(line).trim();
    let earlier = |from: usize, is: &dyn Fn(&str) -> bool| (from..line).find(|&line| is(context.line(line)));
    let (path, first, valid) = if let Some((name, _)) = header(text) {
        let list_of_tables = earlier(1, &|line| header(line) == Some((name, true)));
        let first = list_of_tables
            .or_else(|| earlier(1, &|line| header(line).is_some_and(|(other, _)| other == name)));
        let lists = [&schema::RULE, &schema::FORWARD, &schema::ROUTE, &schema::NEIGHBOUR];
        let last = |name: &'a str| name.rsplit('.').next();
        let in_list = lists.iter().any(|schema| last(schema.title) == last(name));
        let valid = match in_list || list_of_tables.is_some() {
            true => format!("[[{name}]], in two brackets, before each of several"),
            false => format!("one table [{name}]"),
        };
        (name.to_owned(), first, valid)
    } else {
        let key = context.source(span.clone()).trim_matches(['"', '\'']);
        let table = (1..line).rev().find(|&line| header(context.line(line)).is_some());
        let (name, _) = table.and_then(|line| header(context.line(line))).unwrap_or_default();
        let is_duplicate = |table: usize| {
            let (name, list) = header(context.line(table)).unwrap_or_default();
            !list && (1..table).any(|line| header(context.line(line)).is_some_and(|(other, _)| other == name))
        };
        if table.is_some_and(is_duplicate) {
            return None;
        }
        let first = earlier(table.map_or(1, |table| table + 1), &|line| {
            line.split_once('=').is_some_and(|(name, _)| name.trim().trim_matches(['"', '\'']) == key)
        });
        (join(name, key), first, "each key once in a table".to_owned())
    };
    let finding = Finding::error(&path, format!("`{path}` is there twice")).at_span(span).found(text);
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
