//! What is logged.

use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// The words that stand for levels, from none to all.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Longest text of levels, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// A level for all modules, and levels for some, as `info,millrace_dataplane::port=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels(String);

impl Default for Levels {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl Levels {
    /// The text that they were read from.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// As a filter.
    pub(super) fn filter(&self) -> Targets {
        let mut targets = Targets::new();
        for (module, level) in self.0.split(',').filter_map(|term| term_of(term).ok()) {
            targets = match module {
                Some(module) => targets.with_target(module, level),
                None => targets.with_default(level),
            };
        }
        targets
    }
}

/// A term: a level, or `MODULE=LEVEL`.
fn term_of(term: &str) -> Result<(Option<&str>, LevelFilter), String> {
    let term = term.trim();
    let (module, level) = term.split_once('=').map_or((None, term), |(module, level)| (Some(module), level));
    let is_module = |module: &str| {
        module.starts_with("millrace")
            && module.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))
    };
    if let Some(module) = module
        && !is_module(module)
    {
        return Err(format!("`{module}` is no module of Millrace, as millrace_dataplane::port"));
    }
    match LEVELS.contains(&level).then(|| LevelFilter::from_str(level)) {
        Some(Ok(level)) => Ok((module, level)),
        _ => Err(format!("`{level}` is no level: {}", LEVELS.join(", "))),
    }
}

impl FromStr for Levels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("more than {TEXT_BYTES_MAX} bytes"));
        }
        text.split(',').try_for_each(|term| term_of(term).map(|_| ()))?;
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn modules_have_levels_of_their_own() {
        let levels: Levels = "warn, millrace_dataplane::port=debug,millrace_control=off".parse().unwrap();
        let filter = levels.filter();
        for (target, level, enabled) in [
            ("millrace_nf", Level::WARN, true),
            ("millrace_nf", Level::INFO, false),
            ("millrace_dataplane::port::tap", Level::DEBUG, true),
            ("millrace_dataplane::worker", Level::DEBUG, false),
            ("millrace_control::metrics", Level::ERROR, false),
        ] {
            assert_eq!(filter.would_enable(target, &level), enabled, "{target} {level}");
        }
    }

    #[test]
    fn what_is_no_level_is_told() {
        for text in ["", "inf", "info,", "millrace_nf", "millrace_nf=loud", "=info", "tokio=info", "INFO"] {
            assert!(text.parse::<Levels>().is_err(), "{text}");
        }
        assert!("info,".repeat(1000).parse::<Levels>().is_err());
        assert_eq!("trace".parse::<Levels>().unwrap().text(), "trace");
    }
}
