//! Families and samples as text: OpenMetrics 1.0, or the older format of Prometheus for those that ask for nothing else.

use std::fmt::Write;

use millrace_dataplane::timing::{HistogramReport, bound_nanos};

use super::families::{Family, Kind};

/// How the text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Prometheus,
}

impl Format {
    /// What a client takes that sends this `Accept` header, or none. OpenMetrics, unless it names the older text alone.
    pub fn accepted(accept: Option<&str>) -> Self {
        let accept = accept.unwrap_or_default();
        let takes = |kind: &str| accept.split(',').any(|part| part.trim().starts_with(kind));
        let older_alone = takes("text/plain") && !takes("application/openmetrics-text");
        if older_alone { Self::Prometheus } else { Self::OpenMetrics }
    }

    /// Its content type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// A text that grows family by family.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    text: String,
}

impl Exposition {
    /// An empty one.
    pub fn new(format: Format) -> Self {
        Self { format, text: String::with_capacity(16 << 10) }
    }

    /// Begins a family; its samples follow before the next one.
    pub fn family(&mut self, family: &'static Family) -> Samples<'_> {
        let Self { format, text } = self;
        let Family { name, kind, help, .. } = family;
        match format {
            Format::OpenMetrics => {
                *text += &format!("# TYPE {name} {}\n", kind.name());
                if let Some(unit) = family.unit() {
                    *text += &format!("# UNIT {name} {unit}\n");
                }
                *text += &format!("# HELP {name} {help}\n");
            }
            Format::Prometheus => {
                let name = family.sample_name();
                let kind = if *kind == Kind::Info { "gauge" } else { kind.name() };
                *text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
            }
        }
        Samples { text, family }
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// The samples of one family.
#[derive(Debug)]
pub struct Samples<'a> {
    text: &'a mut String,
    family: &'static Family,
}

impl Samples<'_> {
    /// Adds a sample. `labels` are the values of the family's labels.
    pub fn add(&mut self, labels: &[&str], value: u64) {
        self.line(self.family.kind.suffix(), labels, None, &value);
    }

    /// Adds a sample of seconds, given in nanoseconds.
    pub fn add_nanos(&mut self, labels: &[&str], nanos: u64) {
        self.line(self.family.kind.suffix(), labels, None, &seconds(nanos));
    }

    /// Adds a histogram of seconds.
    pub fn add_histogram(&mut self, labels: &[&str], report: &HistogramReport) {
        let mut below = 0;
        for (bucket, count) in report.buckets.iter().enumerate() {
            below += count;
            let bound =
                bound_nanos(bucket).map_or_else(|| "+Inf".to_owned(), |nanos| seconds(nanos).to_string());
            self.line("_bucket", labels, Some(&bound), &below);
        }
        self.line("_count", labels, None, &below);
        self.line("_sum", labels, None, &seconds(report.sum_nanos));
    }

    fn line(&mut self, suffix: &str, values: &[&str], bound: Option<&str>, value: &dyn std::fmt::Display) {
        let Self { text, family } = self;
        debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
        text.push_str(family.name);
        text.push_str(suffix);
        let labels = family.labels.iter().copied().zip(values.iter().copied());
        let mut before = '{';
        for (label, value) in labels.chain(bound.map(|bound| ("le", bound))) {
            // A String takes all that is written to it.
            let _ = write!(text, "{before}{label}=\"{}\"", escape(value));
            before = ',';
        }
        if before == ',' {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// The value of a label as both formats want it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::super::families;
    use super::*;

    #[test]
    fn samples_are_written_as_both_formats_want_them() {
        let text = |format| {
            let mut exposition = Exposition::new(format);
            exposition.family(&families::BUILD).add(&["1.2"], 1);
            exposition.family(&families::PORT_RX_BYTES).add(&["a\"b\\c\nd"], 7);
            exposition.family(&families::START_TIME).add_nanos(&[], 1_500_000_000);
            exposition.finish()
        };
        let open = "# TYPE millrace_build info\n# HELP millrace_build The running version.\n\
            millrace_build_info{version=\"1.2\"} 1\n\
            # TYPE millrace_port_received_bytes counter\n# UNIT millrace_port_received_bytes bytes\n\
            # HELP millrace_port_received_bytes Their bytes, without FCS.\n\
            millrace_port_received_bytes_total{port=\"a\\\"b\\\\c\\nd\"} 7\n\
            # TYPE millrace_start_time_seconds gauge\n# UNIT millrace_start_time_seconds seconds\n\
            # HELP millrace_start_time_seconds When the instance started, in seconds since 1970.\n\
            millrace_start_time_seconds 1.5\n# EOF\n";
        assert_eq!(text(Format::OpenMetrics), open);
        let older = text(Format::Prometheus);
        assert!(older.contains("# TYPE millrace_port_received_bytes_total counter\n"), "{older}");
        assert!(older.contains("# TYPE millrace_build_info gauge\n"), "{older}");
        assert!(!older.contains("EOF") && !older.contains("UNIT"), "{older}");
    }

    #[test]
    fn buckets_are_cumulated_up_to_the_count() {
        let mut report = HistogramReport { sum_nanos: 3_000, ..HistogramReport::default() };
        (report.buckets[0], report.buckets[2], report.buckets[23]) = (1, 2, 4);
        let mut exposition = Exposition::new(Format::OpenMetrics);
        exposition.family(&families::LATENCY).add_histogram(&["edge"], &report);
        let text = exposition.finish();
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(samples.len(), 24 + 2);
        assert_eq!(samples[0], "millrace_chain_latency_seconds_bucket{chain=\"edge\",le=\"0.000000256\"} 1");
        assert_eq!(samples[2], "millrace_chain_latency_seconds_bucket{chain=\"edge\",le=\"0.000001024\"} 3");
        assert_eq!(samples[23], "millrace_chain_latency_seconds_bucket{chain=\"edge\",le=\"+Inf\"} 7");
        assert_eq!(samples[24], "millrace_chain_latency_seconds_count{chain=\"edge\"} 7");
        assert_eq!(samples[25], "millrace_chain_latency_seconds_sum{chain=\"edge\"} 0.000003");
    }

    #[test]
    fn clients_get_what_they_take() {
        let scrape = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            (None, Format::OpenMetrics),
            (Some("*/*"), Format::OpenMetrics),
            (Some(scrape), Format::OpenMetrics),
            (Some("text/plain;version=0.0.4, */*"), Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept:?}");
        }
    }
}
