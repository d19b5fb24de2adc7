//! A line of the log, made where the event happens in memory of fixed size: no allocation, whatever the event says.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use arrayvec::ArrayVec;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// Most bytes of a line; what is longer is cut, and says so.
pub(super) const LINE_BYTES_MAX: usize = 1024;
/// Kept for the end of a line that was cut.
const END_BYTES: usize = 32;

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people: time, level, module, message, then fields as `key=value`.
    #[default]
    Text,
    /// A JSON object a line: `timestamp`, `level`, `target`, `message`, `fields`.
    Json,
}

/// A line under way to its writer.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) level: Level,
    bytes: ArrayVec<u8, LINE_BYTES_MAX>,
    cut: bool,
}

impl Line {
    /// The line of an event at `time`; `suppressed` of its like have none.
    pub(super) fn of(event: &Event<'_>, time: SystemTime, suppressed: u64, format: Format) -> Self {
        let metadata = event.metadata();
        let level = *metadata.level();
        let mut line = Self { level, bytes: ArrayVec::new(), cut: false };
        let stamp = Stamp(time);
        match format {
            Format::Text => line.put_all(format_args!("{stamp} {level:>5} {}:", metadata.target())),
            Format::Json => line.put_all(format_args!(
                "{{\"timestamp\":\"{stamp}\",\"level\":\"{level}\",\"target\":\"{}\"",
                metadata.target()
            )),
        };
        let mut fields = Fields { line: &mut line, format, begun: false };
        event.record(&mut fields);
        if suppressed > 0 {
            fields.add("suppressed", false, format_args!("{suppressed}"));
        }
        let begun = fields.begun;
        line.end(format, begun);
        line
    }

    /// A line of the log about itself.
    pub(super) fn about_lost(lost: u64, time: SystemTime, format: Format) -> Self {
        let level = Level::WARN;
        let mut line = Self { level, bytes: ArrayVec::new(), cut: false };
        let (stamp, target, message) = (Stamp(time), module_path!(), "lines of the log were lost");
        match format {
            Format::Text => line.put_all(format_args!("{stamp} {level:>5} {target}: {message} lost={lost}")),
            Format::Json => line.put_all(format_args!(
                "{{\"timestamp\":\"{stamp}\",\"level\":\"{level}\",\"target\":\"{target}\",\
                 \"message\":\"{message}\",\"fields\":{{\"lost\":{lost}"
            )),
        };
        line.end(format, true);
        line
    }

    /// Its text, without the end of the line.
    pub(super) fn text(&self) -> &str {
        // Nothing but whole characters is put into it.
        std::str::from_utf8(&self.bytes).unwrap_or_default()
    }

    /// Ends the line.
    fn end(&mut self, format: Format, has_fields: bool) {
        let end = match (format, self.cut, has_fields) {
            (Format::Text, false, _) => "",
            (Format::Text, true, _) => " ...",
            (Format::Json, false, true) => "}}",
            (Format::Json, false, false) => "}",
            (Format::Json, true, true) => "},\"cut\":true}",
            (Format::Json, true, false) => ",\"cut\":true}",
        };
        // There is room for it: see `put`.
        let _ = self.bytes.try_extend_from_slice(end.as_bytes());
    }

    /// Puts `text` as it is, or nothing of it if it has no room. After that nothing more is put.
    fn put(&mut self, text: &str) -> bool {
        self.cut |= self.bytes.len() + text.len() > LINE_BYTES_MAX - END_BYTES;
        !self.cut && self.bytes.try_extend_from_slice(text.as_bytes()).is_ok()
    }

    /// Puts all of something, or nothing.
    fn put_all(&mut self, what: fmt::Arguments<'_>) -> bool {
        let before = self.bytes.len();
        let whole = Plain(self).write_fmt(what).is_ok();
        if !whole {
            self.bytes.truncate(before);
        }
        whole
    }
}

/// Writes to a line as it is.
struct Plain<'a>(&'a mut Line);

impl Write for Plain<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.put(text) { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Writes to a line so that nothing in the text can end the line, a string of JSON, or mean something to a terminal.
struct Escaped<'a>(&'a mut Line, Format);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| self.write_char(c))
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        let Self(line, format) = self;
        let mut bytes = [0; 4];
        let put = match (c, &format) {
            ('"' | '\\', Format::Json) => line.put_all(format_args!("\\{c}")),
            (c, _) if c.is_control() => line.put_all(format_args!("\\u{:04x}", u32::from(c))),
            (c, _) => line.put(c.encode_utf8(&mut bytes)),
        };
        if put { Ok(()) } else { Err(fmt::Error) }
    }
}

/// The fields of an event on their way into a line.
struct Fields<'a> {
    line: &'a mut Line,
    format: Format,
    /// A field other than the message was put.
    begun: bool,
}

impl Fields<'_> {
    /// Puts a field; `quoted`: as a string of JSON, else it is a number or a truth value.
    fn add(&mut self, name: &str, quoted: bool, value: fmt::Arguments<'_>) {
        let Self { line, format, begun } = self;
        let (before, message) = (line.bytes.len(), name == "message");
        let put = match (*format, message, *begun) {
            (Format::Text, true, _) => line.put(" "),
            (Format::Text, false, _) => line.put_all(format_args!(" {name}=")),
            (Format::Json, true, _) => line.put(",\"message\":"),
            (Format::Json, false, false) => line.put_all(format_args!(",\"fields\":{{\"{name}\":")),
            (Format::Json, false, true) => line.put_all(format_args!(",\"{name}\":")),
        };
        let quotes = quoted && *format == Format::Json;
        if !put || (quotes && !line.put("\"")) {
            line.bytes.truncate(before);
            return;
        }
        // What has no room is cut, and noted as such.
        let whole = Escaped(line, *format).write_fmt(value).is_ok();
        if quotes {
            let _ = line.bytes.try_push(b'"');
        } else if !whole && *format == Format::Json {
            line.bytes.truncate(before);
            return;
        }
        *begun |= !message;
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), true, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match self.format {
            Format::Text if field.name() != "message" => {
                self.add(field.name(), true, format_args!("{value:?}"));
            }
            _ => self.add(field.name(), true, format_args!("{value}")),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), false, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), false, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), false, format_args!("{value}"));
    }
}

/// A time as RFC 3339 has it, in UTC with microseconds.
struct Stamp(SystemTime);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (seconds, micros) = (since.as_secs(), since.subsec_micros());
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Years of 400 begin on the first of March of year 0, so that leap days come last (Richards' algorithm).
        let days = days + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = era * 400 + year + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;
    use tracing::subscriber::Interest;
    use tracing::{Metadata, Subscriber, span};

    /// Keeps the line of the last event, in a thread of its own making.
    struct Keep(Format, std::sync::mpsc::Sender<String>);

    impl Subscriber for Keep {
        fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
            Interest::sometimes()
        }
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            let time = SystemTime::UNIX_EPOCH + Duration::from_micros(951_782_400_000_001);
            self.1.send(Line::of(event, time, 3, self.0).text().to_owned()).unwrap();
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    fn line(format: Format, log: impl FnOnce()) -> String {
        let (sender, receiver) = std::sync::mpsc::channel();
        tracing::subscriber::with_default(Keep(format, sender), log);
        receiver.try_recv().unwrap()
    }

    #[test]
    fn lines_say_all_that_events_do() {
        let log = || tracing::warn!(port = "lan", error = %"no \"way\"", n = 7, up = true, off = -1, "link\nchanged");
        let target = module_path!();
        assert_eq!(
            line(Format::Text, log),
            format!(
                "2000-02-29T00:00:00.000001Z  WARN {target}: link\\u000achanged port=\"lan\" error=no \"way\" n=7 up=true off=-1 suppressed=3"
            )
        );
        let json: Value = serde_json::from_str(&line(Format::Json, log)).unwrap();
        let fields = serde_json::json!({
            "port": "lan", "error": "no \"way\"", "n": 7, "up": true, "off": -1, "suppressed": 3
        });
        assert_eq!(
            (&json["level"], &json["target"], &json["fields"]),
            (&"WARN".into(), &target.into(), &fields)
        );
        assert_eq!(json["message"], "link\nchanged");
        assert_eq!(json["timestamp"], "2000-02-29T00:00:00.000001Z");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_868_799, "2000-02-29T23:59:59"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_709_251_199, "2024-02-29T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            let stamp = Stamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
            assert_eq!(stamp, format!("{text}.000000Z"));
        }
    }

    proptest! {
        #[test]
        fn whatever_is_logged_is_one_line_within_bounds_and_json_stays_json(
            message in ".{0,900}", text in "(?s).{0,1200}", number in any::<u64>(),
        ) {
            let log = || tracing::error!(text, number, shown = %text, "{message}");
            for format in [Format::Text, Format::Json] {
                let line = line(format, log);
                prop_assert!(line.len() <= LINE_BYTES_MAX && !line.chars().any(char::is_control), "{line}");
                if format == Format::Json {
                    let json: Value = serde_json::from_str(&line).map_err(|e| TestCaseError::fail(format!("{e}: {line}")))?;
                    prop_assert_eq!(&json["level"], "ERROR");
                    if json["cut"].is_null() {
                        prop_assert_eq!(json["message"].as_str(), Some(&*message));
                        prop_assert_eq!(json["fields"]["text"].as_str(), Some(&*text));
                        prop_assert_eq!(json["fields"]["number"].as_u64(), Some(number));
                    }
                }
            }
        }
    }
}
