//! Tables whose other keys depend on their `kind`.

use toml::Spanned;
use toml::de::DeValue;

use super::context::{Context, Finding};
use super::schema::Schema;
use super::section::{Section, describe};
use super::suggest::nearest;

/// Opens the table at `path` with the schema of its `kind`. Without a valid kind nothing can be said of the
/// other keys: then that is the only error. `others` are the names of the tables beside it.
pub(crate) fn read<'a>(
    context: &'a Context<'a>,
    path: &str,
    value: &'a Spanned<DeValue<'a>>,
    kinds: &[(&str, &'static Schema)],
    others: &[String],
) -> Option<Section<'a>> {
    let valid = kinds.iter().map(|(kind, _)| format!("\"{kind}\"")).collect::<Vec<_>>().join(", ");
    let DeValue::Table(table) = value.get_ref() else {
        let finding = Finding::error(path, "expected a table").found(describe(context, value));
        context.push(finding.valid(format!("a table with `kind` ({valid})")));
        return None;
    };
    let Some(kind) = table.get("kind") else {
        if context.is_full() {
            context.push(Finding::error(path, ""));
            return None;
        }
        let finding = Finding::error(format!("{path}.kind"), "`kind` is missing").at_key();
        // A header with a slip makes two tables of one: `[ports.wan]` here, `[ports.wann]` there.
        let (table, name) = path.rsplit_once('.').unwrap_or_default();
        let near = nearest(name, others.iter().map(String::as_str).filter(|other| *other != name));
        let help = near.map(|other| format!("there is also [{table}.{other}]: are the two meant to be one?"));
        context.push(finding.found("no key `kind` in this table").valid(valid).maybe_help(help));
        return None;
    };
    let word = kind.get_ref().as_str().unwrap_or_default();
    if let Some((_, schema)) = kinds.iter().find(|(kind, _)| *kind == word) {
        return Section::open(context, path.to_owned(), schema, value);
    }
    let suggestion = nearest(word, kinds.iter().map(|(kind, _)| *kind));
    let finding =
        Finding::error(format!("{path}.kind"), "there is no such kind").found(describe(context, kind));
    context.push(finding.valid(valid).maybe_help(suggestion.map(|kind| format!("did you mean \"{kind}\"?"))));
    None
}
