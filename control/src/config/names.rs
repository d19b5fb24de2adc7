//! Names of the user's choice, and what names may refer to.

use super::context::{Context, Finding};
use super::section::{Invalid, Scalar, words};
use super::suggest::nearest;

/// Longest name in characters.
const NAME_CHARACTERS_MAX: usize = 32;
const NAME: &str = "1 to 32 letters, digits, `-`, `_` or `.`, the first a letter or digit";

/// Whether commands can name it without quotes.
pub(crate) fn is_name(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    name.len() <= NAME_CHARACTERS_MAX
        && name.bytes().all(ok)
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

/// A name as a value.
pub(crate) fn name(scalar: Scalar<'_>) -> Result<String, Invalid> {
    match scalar {
        Scalar::Text(text) if is_name(text) => Ok(text.to_owned()),
        Scalar::Text(text) => Err(Invalid::new(format!("`{text}` is not a name"), NAME)),
        Scalar::Number(_) => Err(Invalid::new("expected a name, found a number", NAME)),
    }
}

/// Any string, for references: whether it names something is checked against what there is.
pub(crate) fn reference(scalar: Scalar<'_>) -> Result<String, Invalid> {
    match scalar {
        Scalar::Text(text) => Ok(text.to_owned()),
        Scalar::Number(_) => Err(Invalid::new("expected a name, found a number", "a name in quotes")),
    }
}

/// Notes an error unless the key that ends `path` is a name.
pub(crate) fn check_name(context: &Context<'_>, path: &str, found: &str) {
    if !is_name(found) {
        let finding = Finding::error(path, format!("`{}` is not a name", found.escape_debug()));
        context.push(finding.at_key().found(format!("`{}`", found.escape_debug())).valid(NAME));
    }
}

/// Notes an error unless `name` is one of `known`; true if it is. `what` names the kind: `port`.
pub(crate) fn check_reference<S: AsRef<str>>(
    context: &Context<'_>,
    path: &str,
    what: &str,
    name: &str,
    known: &[S],
) -> bool {
    if known.iter().any(|known| known.as_ref() == name) {
        return true;
    }
    if context.is_full() {
        context.push(Finding::error(path, ""));
        return false;
    }
    let suggestion = nearest(name, known.iter().map(AsRef::as_ref));
    context.push(
        Finding::error(path, format!("there is no {what} `{name}`"))
            .found(format!("\"{name}\""))
            .valid(words(known))
            .maybe_help(suggestion.map(|name| format!("did you mean \"{name}\"?"))),
    );
    false
}
