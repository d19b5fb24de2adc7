//! Filters: terms `key=value`, all of which must match.

use std::net::IpAddr;

use ipnet::IpNet;
use millrace_dataplane::flow::session::{SessionId, SessionTable, Tuple};
use millrace_dataplane::flow::tcp::TcpState;

use crate::config::network::show_protocol;
use crate::listing::Row;

/// Most terms of a filter.
const TERMS_MAX: usize = 32;

/// Splits terms at their first `=`.
///
/// # Errors
/// A term without key or value, or too many.
pub(crate) fn split(terms: &[String]) -> Result<Vec<(&str, &str)>, String> {
    if terms.len() > TERMS_MAX {
        return Err(format!("a filter has at most {TERMS_MAX} terms"));
    }
    terms
        .iter()
        .map(|term| match term.split_once('=') {
            Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key, value)),
            _ => Err(format!("`{term}` is no term of a filter: expected KEY=VALUE, as port=80")),
        })
        .collect()
}

/// A filter of rows: the value of a column contains the text, or is it for numbers and for `yes` and `no`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowFilter(Vec<(String, String)>);

impl RowFilter {
    /// Reads terms; keys must be columns.
    ///
    /// # Errors
    /// What is wrong with a term.
    pub fn parse(terms: &[String], columns: &[String]) -> Result<Self, String> {
        let mut filter = Vec::new();
        for (key, value) in split(terms)? {
            if !columns.iter().any(|column| column == key) {
                return Err(format!("`{key}` is no column: expected one of {}", columns.join(", ")));
            }
            filter.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self(filter))
    }

    /// True if all terms match.
    pub fn matches(&self, row: &Row) -> bool {
        self.0.iter().all(|(key, wanted)| match row.get(key) {
            Some(serde_json::Value::String(text)) => text.contains(wanted.as_str()),
            Some(serde_json::Value::Bool(value)) => *wanted == if *value { "yes" } else { "no" },
            Some(other) => *wanted == format!("{other}"),
            None => false,
        })
    }
}

/// A filter of sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    source: Option<IpNet>,
    destination: Option<IpNet>,
    protocol: Option<u8>,
    port: Option<u16>,
    state: Option<&'static str>,
}

/// The states that sessions can have: TCP's, and `new` for others that nobody answered.
fn state(text: &str) -> Result<&'static str, String> {
    let tcp = TcpState::ALL.iter().map(|state| state.name());
    let mut states = tcp.chain(["new"]);
    let found = states.clone().find(|state| *state == text);
    found.ok_or_else(|| {
        let last = states.next_back().unwrap_or_default();
        format!("`{text}` is no state: expected one of {} or {last}", states.collect::<Vec<_>>().join(", "))
    })
}

/// An address or a prefix.
///
/// # Errors
/// It is neither.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| {
        format!("`{text}` is no network: expected an address or a prefix, as 10.0.0.0/8 or fd00::1")
    })
}

/// A protocol by name or number.
///
/// # Errors
/// It is neither.
pub(crate) fn protocol(text: &str) -> Result<u8, String> {
    let named = (0..=u8::MAX).find(|&number| show_protocol(number) == text);
    named
        .or_else(|| text.parse().ok())
        .ok_or_else(|| format!("`{text}` is no protocol: expected tcp, udp, icmp, icmpv6 or a number to 255"))
}

/// A port of TCP or UDP.
///
/// # Errors
/// It is no such number.
pub(crate) fn transport_port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("`{text}` is no port: expected 0 to 65535"))
}

impl SessionFilter {
    /// Reads terms of the keys `source`, `destination`, `protocol`, `port` and `state`.
    ///
    /// # Errors
    /// What is wrong with a term.
    pub fn parse(terms: &[String]) -> Result<Self, String> {
        let mut filter = Self::default();
        for (key, value) in split(terms)? {
            match key {
                "source" => filter.source = Some(network(value)?),
                "destination" => filter.destination = Some(network(value)?),
                "protocol" => filter.protocol = Some(protocol(value)?),
                "port" => filter.port = Some(transport_port(value)?),
                "state" => filter.state = Some(state(value)?),
                _ => {
                    let keys = "source, destination, protocol, port or state";
                    return Err(format!("`{key}` is no key of sessions: expected {keys}"));
                }
            }
        }
        Ok(filter)
    }

    /// True if all terms match a session: addresses as the initiator sees them, or as the responder does.
    pub fn matches(&self, sessions: &SessionTable, id: SessionId) -> bool {
        let [initiator, responder] = sessions.tuples(id);
        let sides = |test: &dyn Fn(&Tuple) -> bool| test(&initiator) || test(&responder.inverse());
        self.source.is_none_or(|net| sides(&|tuple| net.contains(&tuple.source_address())))
            && self.destination.is_none_or(|net| sides(&|tuple| net.contains(&tuple.destination_address())))
            && self.protocol.is_none_or(|protocol| protocol == initiator.protocol)
            && self.port.is_none_or(|port| {
                sides(&|tuple| tuple.source_port == port || tuple.destination_port == port)
            })
            && self.state.is_none_or(|state| state == state_of(sessions, id))
    }
}

/// The state of a session in a word.
pub fn state_of(sessions: &SessionTable, id: SessionId) -> &'static str {
    if sessions.tuples(id)[0].protocol == 6 {
        sessions.tcp(id).state().name()
    } else if sessions.is_replied(id) {
        "established"
    } else {
        "new"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(terms: &[&str]) -> Vec<String> {
        terms.iter().map(|&term| term.to_owned()).collect()
    }

    #[test]
    fn terms_are_read_and_bad_ones_named() {
        let good =
            ["source=10.0.0.0/8", "destination=fd00::1", "protocol=tcp", "port=80", "state=established"];
        assert!(SessionFilter::parse(&terms(&good)).is_ok());
        for bad in
            ["source", "=1", "port=", "port=70000", "source=lan", "protocol=tpc", "state=open", "colour=red"]
        {
            assert!(SessionFilter::parse(&terms(&[bad])).is_err(), "{bad}");
        }
        assert!(SessionFilter::parse(&vec!["port=80".to_owned(); 33]).is_err());
    }

    #[test]
    fn rows_match_by_part_or_number() {
        let columns = vec!["name".to_owned(), "packets".to_owned()];
        let row: Row =
            [("name".to_owned(), "lan-1".into()), ("packets".to_owned(), 17.into())].into_iter().collect();
        let matches = |text: &[&str]| RowFilter::parse(&terms(text), &columns).unwrap().matches(&row);
        assert!(matches(&["name=lan", "packets=17"]));
        assert!(!matches(&["packets=1"]));
        assert!(!matches(&["name=wan"]));
        assert!(RowFilter::parse(&terms(&["colour=red"]), &columns).is_err());
        let columns = vec!["static".to_owned()];
        let row: Row = [("static".to_owned(), false.into())].into_iter().collect();
        assert!(RowFilter::parse(&terms(&["static=no"]), &columns).unwrap().matches(&row));
        assert!(!RowFilter::parse(&terms(&["static=yes"]), &columns).unwrap().matches(&row));
    }
}
