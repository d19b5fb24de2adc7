//! The status page: the rows of `show`, for people and as JSON.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_dataplane::handoff::Waker;
use serde_json::{Map, Value};

use crate::instance::Control;
use crate::listing::Listing;
use crate::management::Topic;
use crate::management::show::show;
use crate::metrics::http::Response;

/// A page serves all who ask within this time: a flood of requests is no flood of looks at the workers.
const FRESH: Duration = Duration::from_millis(500);
/// Longest wait for a page; workers answer within milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);
/// Most rows of a topic.
const ROWS_MAX: usize = 256;

/// What is on the page, with its heading.
const TOPICS: [(Topic, &str, &str); 5] = [
    (Topic::Ports, "ports", "Ports"),
    (Topic::Workers, "workers", "Workers"),
    (Topic::Chains, "chains", "Chains"),
    (Topic::Drops, "drops", "Drops"),
    (Topic::Probes, "probes", "Probes"),
];

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// For people.
    Html,
    /// For programs.
    Json,
}

impl Asked {
    /// By the path of a request; none if there is nothing at it.
    pub fn by_path(path: &str) -> Option<Self> {
        match path {
            "/" => Some(Self::Html),
            "/status.json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// The page, in all its forms.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Page {
    html: Response,
    json: Response,
}

#[derive(Debug, Default)]
struct Latest {
    page: Option<(Instant, Arc<Page>)>,
    /// Since when one is being made.
    making: Option<Instant>,
}

/// Makes pages, one at a time, on a thread of its own: the host stack waits for no worker.
#[derive(Debug)]
pub struct Pages {
    control: Arc<Control>,
    latest: Arc<Mutex<Latest>>,
    /// Who is woken when one is there.
    asker: Waker,
}

impl Pages {
    /// Pages about the instance of `control`.
    pub fn new(control: Arc<Control>, asker: Waker) -> Self {
        Self { control, latest: Arc::default(), asker }
    }

    /// The answer, if there is a fresh page; else one is being made.
    pub fn answer(&self, asked: Asked, now: Instant) -> Option<Response> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, page)) = &latest.page
            && now.saturating_duration_since(*made) < FRESH
        {
            let page = Arc::clone(page);
            return Some(match asked {
                Asked::Html => page.html.clone(),
                Asked::Json => page.json.clone(),
            });
        }
        let failed = || Some(Response::plain("503 Service Unavailable", "the workers do not answer"));
        match latest.making {
            Some(since) if now.saturating_duration_since(since) > PATIENCE => return failed(),
            Some(_) => return None,
            None => latest.making = Some(now),
        }
        drop(latest);
        if let Err(error) = self.make() {
            tracing::error!(%error, "no thread for the status page");
            self.latest.lock().unwrap_or_else(PoisonError::into_inner).making = None;
            return failed();
        }
        None
    }

    fn make(&self) -> std::io::Result<()> {
        let (control, latest, asker) =
            (Arc::clone(&self.control), Arc::clone(&self.latest), self.asker.clone());
        let make = move || {
            let page = Arc::new(page(&control));
            let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
            *latest = Latest { page: Some((Instant::now(), page)), making: None };
            drop(latest);
            asker.pushed();
        };
        std::thread::Builder::new().name("status-page".to_owned()).spawn(make).map(|_| ())
    }
}

fn page(control: &Control) -> Page {
    let rows = |topic| show(control, topic, &[], Some(ROWS_MAX), 0);
    let topics = TOPICS.map(|(topic, key, title)| (key, title, rows(topic)));
    let mut json = Map::new();
    json.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    let mut body = String::new();
    for (key, title, rows) in topics {
        match rows {
            Ok(listing) => {
                table(&mut body, title, &listing);
                json.insert(key.to_owned(), Value::from_iter(listing.rows));
            }
            Err(error) => {
                let status = "503 Service Unavailable";
                return Page { html: Response::plain(status, &error), json: Response::plain(status, &error) };
            }
        }
    }
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Millrace</title>\n<style>\
         body {{ font: 14px sans-serif; margin: 2em }} table {{ border-collapse: collapse }}\n\
         th, td {{ padding: .2em .8em; text-align: left; border-bottom: 1px solid #ccc }}\n\
         td.n {{ text-align: right; font-variant-numeric: tabular-nums }}</style></head>\n\
         <body><h1>Millrace {}</h1>\n{body}<p><a href=\"/status.json\">JSON</a></p></body></html>\n",
        env!("CARGO_PKG_VERSION"),
    );
    let found = |content_type, body| Response { status: "200 OK", content_type, body };
    Page {
        html: found("text/html; charset=utf-8", html),
        json: found("application/json", Value::from(json).to_string() + "\n"),
    }
}

fn table(body: &mut String, title: &str, listing: &Listing) {
    let _ = write!(body, "<h2>{title}</h2>\n<table><tr>");
    listing.columns.iter().for_each(|column| cell(body, "th", &column.as_str().into()));
    body.push_str("</tr>\n");
    for row in &listing.rows {
        body.push_str("<tr>");
        let values = listing.columns.iter().map(|column| row.get(column).unwrap_or(&Value::Null));
        values.for_each(|value| cell(body, "td", value));
        body.push_str("</tr>\n");
    }
    body.push_str("</table>\n");
}

fn cell(body: &mut String, tag: &str, value: &Value) {
    let (class, text) = match value {
        Value::Null => ("", String::new()),
        Value::String(text) => ("", escape(text)),
        Value::Number(number) => (" class=\"n\"", number.to_string()),
        other => ("", escape(&other.to_string())),
    };
    let _ = write!(body, "<{tag}{class}>{text}</{tag}>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rows_say_is_no_markup() {
        let mut listing = Listing::new(&["a<b", "count"]);
        listing.push(["<script>\"&".into(), 7.into()]);
        listing.push([Value::Null]);
        let mut body = String::new();
        table(&mut body, "Drops", &listing);
        assert_eq!(
            body,
            "<h2>Drops</h2>\n<table><tr><th>a&lt;b</th><th>count</th></tr>\n\
             <tr><td>&lt;script&gt;&quot;&amp;</td><td class=\"n\">7</td></tr>\n\
             <tr><td></td><td></td></tr>\n</table>\n"
        );
    }
}
