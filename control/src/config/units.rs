//! Text formats with units: durations, sizes, rates and ranges of ports.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::section::{Invalid, Scalar};

const DURATION: &str = "a duration with units d, h, m, s or ms, as \"90s\", \"5m\" or \"2h4m\"";
const SIZE: &str = "a size in B, KiB, MiB or GiB, as \"256 MiB\"";
const RATE: &str = "\"max\", or packets a second as 10000, \"10 kpps\" or \"1.5 Mpps\"";
const PORTS: &str = "a port from 1 to 65535 or a range, as 80, \"80\" or \"8000-8100\"";

/// A duration such as `2h4m` or `500 ms`.
pub(crate) fn duration(scalar: Scalar<'_>) -> Result<Duration, Invalid> {
    let text = match scalar {
        Scalar::Text(text) => text,
        Scalar::Number(number) => {
            let invalid = Invalid::new("a duration needs a unit", DURATION);
            return Err(invalid.help(format!("for seconds write \"{number}s\"")));
        }
    };
    let invalid = || Invalid::new(format!("`{text}` is not a duration"), DURATION);
    let mut rest = text.trim();
    let mut milliseconds = 0u64;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let (number, after) = split_digits(rest);
        let letters = after.trim_start();
        let end = letters.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(letters.len());
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let unit = match &letters[..end] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" => return Err(Invalid::new("a duration needs a unit", DURATION).help("for seconds add `s`")),
            unit => {
                let invalid = Invalid::new(format!("`{unit}` is not a unit of time"), DURATION);
                let help = match unit {
                    "min" | "mins" | "minutes" | "minute" => "minutes are `m`",
                    "sec" | "secs" | "seconds" | "second" => "seconds are `s`",
                    "hours" | "hour" | "hr" | "hrs" => "hours are `h`",
                    _ => return Err(invalid),
                };
                return Err(invalid.help(help));
            }
        };
        let part = number.checked_mul(unit).ok_or_else(invalid)?;
        milliseconds = milliseconds.checked_add(part).ok_or_else(invalid)?;
        rest = letters[end..].trim_start();
    }
    Ok(Duration::from_millis(milliseconds))
}

/// A duration that stands outside a configuration.
pub(crate) fn duration_of(text: &str) -> Option<Duration> {
    duration(Scalar::Text(text)).ok()
}

/// A duration as configurations write it: `2h4m`.
pub fn show_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, milliseconds) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)]
    {
        if rest >= milliseconds {
            text += &format!("{}{unit}", rest / milliseconds);
            rest %= milliseconds;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// A size that stands outside a configuration; a number without unit is bytes.
pub(crate) fn size_of(text: &str) -> Option<u64> {
    text.parse().ok().or_else(|| size(Scalar::Text(text)).ok())
}

/// A size such as `256 MiB`, in bytes.
pub(crate) fn size(scalar: Scalar<'_>) -> Result<u64, Invalid> {
    let text = match scalar {
        Scalar::Text(text) => text.trim(),
        Scalar::Number(number) => {
            let invalid = Invalid::new("a size needs a unit", SIZE);
            return Err(invalid.help(format!("for bytes write \"{number} B\"")));
        }
    };
    let invalid = || Invalid::new(format!("`{text}` is not a size"), SIZE);
    let (number, unit) = split_digits(text);
    let number: u64 = number.parse().map_err(|_| invalid())?;
    let shift = match unit.trim() {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "" => return Err(Invalid::new("a size needs a unit", SIZE)),
        unit => {
            let invalid = Invalid::new(format!("`{unit}` is not a unit of memory"), SIZE);
            let meant = match unit.to_ascii_lowercase().as_str() {
                "k" | "kb" | "kib" => "KiB",
                "m" | "mb" | "mib" => "MiB",
                "g" | "gb" | "gib" => "GiB",
                _ => return Err(invalid),
            };
            return Err(invalid.help(format!("did you mean \"{number} {meant}\"?")));
        }
    };
    number.checked_mul(1u64 << shift).ok_or_else(invalid)
}

/// A size for people: the largest unit that keeps it exact to a tenth.
pub fn show_size(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in units {
        if bytes >= size {
            let tenths = u128::from(bytes) * 10 / u128::from(size);
            let tail = if tenths % 10 == 0 { String::new() } else { format!(".{}", tenths % 10) };
            return format!("{}{tail} {unit}", tenths / 10);
        }
    }
    format!("{bytes} B")
}

/// A rate in packets a second; `None` is as fast as possible.
pub(crate) fn rate(scalar: Scalar<'_>) -> Result<Option<u64>, Invalid> {
    let out_of_range = || Invalid::new("the rate is out of range", format!("{RATE}, from 1 to 1 Gpps"));
    let bounded =
        |rate: u64| if (1..=1_000_000_000).contains(&rate) { Ok(Some(rate)) } else { Err(out_of_range()) };
    let text = match scalar {
        Scalar::Number(number) => return bounded(number),
        Scalar::Text("max") => return Ok(None),
        Scalar::Text(text) => text.trim(),
    };
    let invalid = || Invalid::new(format!("`{text}` is not a rate"), RATE);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let scale: u64 = match text[end..].trim() {
        "pps" => 1,
        "kpps" => 1_000,
        "Mpps" => 1_000_000,
        _ => return Err(invalid()),
    };
    let (whole, fraction) = text[..end].split_once('.').unwrap_or((&text[..end], ""));
    if fraction.len() > 6 || fraction.contains('.') {
        return Err(invalid());
    }
    let whole: u64 = whole.parse().map_err(|_| invalid())?;
    let millionths: u64 = format!("{fraction:0<6}").parse().map_err(|_| invalid())?;
    let rate = whole.checked_mul(scale).ok_or_else(out_of_range)?;
    bounded(rate.saturating_add(millionths * scale / 1_000_000))
}

/// A port or a range of ports.
pub(crate) fn ports(scalar: Scalar<'_>) -> Result<RangeInclusive<u16>, Invalid> {
    let text = match scalar {
        Scalar::Number(number) => return port(&number.to_string()).map(|port| port..=port),
        Scalar::Text(text) => text.trim(),
    };
    let Some((first, last)) = text.split_once('-') else {
        return port(text).map(|port| port..=port);
    };
    let (first, last) = (port(first.trim())?, port(last.trim())?);
    if first > last {
        let invalid = Invalid::new("the range of ports is reversed", PORTS);
        return Err(invalid.help(format!("did you mean \"{last}-{first}\"?")));
    }
    Ok(first..=last)
}

fn port(text: &str) -> Result<u16, Invalid> {
    match text.parse() {
        Ok(0) => Err(Invalid::new("port 0 carries no traffic", PORTS)),
        Ok(port) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(Invalid::new(format!("`{text}` is not a port"), PORTS)),
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let seconds = |text| duration(Scalar::Text(text)).map(|d| d.as_secs());
        assert_eq!(seconds("2h4m"), Ok(7_440));
        assert_eq!(seconds(" 90 s "), Ok(90));
        assert_eq!(duration(Scalar::Text("1s500ms")), Ok(Duration::from_millis(1_500)));
        for text in ["", "s", "5", "5 min", "5x", "-5s", "1.5s", "99999999999999999999s", "9999999999999999d"]
        {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert!(duration(Scalar::Number(60)).unwrap_err().help.unwrap().contains("\"60s\""));
        for text in ["2h4m", "1d", "90ms", "0s"] {
            assert_eq!(show_duration(duration(Scalar::Text(text)).unwrap()), text);
        }
    }

    #[test]
    fn sizes() {
        let bytes = |text| size(Scalar::Text(text));
        assert_eq!(bytes("256 MiB"), Ok(256 << 20));
        assert_eq!(bytes("1GiB"), Ok(1 << 30));
        assert_eq!(bytes("12 B"), Ok(12));
        assert!(bytes("256 MB").unwrap_err().help.unwrap().contains("256 MiB"));
        for text in ["", "MiB", "5", "-1 MiB", "1.5 GiB", "99999999999999 GiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert_eq!(show_size(256 << 20), "256 MiB");
        assert_eq!(show_size((3 << 30) / 2), "1.5 GiB");
        assert_eq!(show_size(7), "7 B");
    }

    #[test]
    fn rates() {
        assert_eq!(rate(Scalar::Text("max")), Ok(None));
        assert_eq!(rate(Scalar::Number(5)), Ok(Some(5)));
        assert_eq!(rate(Scalar::Text("1.5 Mpps")), Ok(Some(1_500_000)));
        assert_eq!(rate(Scalar::Text("0.25kpps")), Ok(Some(250)));
        for text in
            ["", "5", "0 pps", "1..5 Mpps", ".5 Mpps", "5 bps", "9999 Mpps", "18446744073709551615 Mpps"]
        {
            assert!(rate(Scalar::Text(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn port_ranges() {
        assert_eq!(ports(Scalar::Number(80)), Ok(80..=80));
        assert_eq!(ports(Scalar::Text("8000 - 8100")), Ok(8000..=8100));
        assert!(ports(Scalar::Text("8100-8000")).unwrap_err().help.unwrap().contains("8000-8100"));
        for text in ["", "0", "65536", "80-", "-80", "+80", "http", "1-2-3"] {
            assert!(ports(Scalar::Text(text)).is_err(), "{text}");
        }
    }
}
