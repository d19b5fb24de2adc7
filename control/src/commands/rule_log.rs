//! The lines that logging rules of firewalls ask for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use millrace_dataplane::port::PortId;
use millrace_nf::firewall::log::{LogRecord, LoggedFlow};
use millrace_nf::firewall::query::{Addresses, Transport};
use millrace_nf::firewall::rules::Action;

use crate::config::network::show_protocol;
use crate::instance::Control;
use crate::supervised::{Pulse, Supervised};

/// How often the thread looks for records.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Who reads standard error may take so long for what one look finds.
const STALL_TIME: Duration = Duration::from_secs(30);

/// Prints them on a thread of its own. A reader that takes nothing holds up that thread; the rings fill, and what they
/// have no room for is counted.
///
/// # Errors
/// No thread can be made.
pub(super) fn start(control: Arc<Control>) -> io::Result<Supervised> {
    Supervised::start("rule-log", STALL_TIME, move |pulse: &Pulse| {
        while pulse.goes_on() {
            print(&control);
            std::thread::sleep(LOOK_EVERY);
        }
    })
}

/// Prints what waits, within a bound. False if that was nothing.
pub(super) fn print(control: &Control) -> bool {
    let records = control.rule_logs().take();
    records.iter().for_each(|(function, record)| print_record(control, function, record));
    !records.is_empty()
}

fn print_record(control: &Control, function: &str, record: &LogRecord) {
    let (rule, left_out) = (record.rule.name.as_str(), record.left_out);
    let Some(flow) = &record.flow else {
        tracing::info!(function, rule, left_out, "flows without a line of their own");
        return;
    };
    let verdict = match record.rule.action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Reject => "reject",
    };
    let Described { source, destination, icmp_type, icmp_code } = describe(flow);
    let protocol = show_protocol(flow.protocol);
    let in_port = control.port_name(flow.from);
    let out_port = flow.to.map(|port: PortId| control.port_name(port));
    let (out_port, left_out) = (out_port.as_deref(), (left_out > 0).then_some(left_out));
    tracing::info!(
        function,
        rule,
        verdict,
        protocol,
        source,
        destination,
        icmp_type,
        icmp_code,
        in_port,
        out_port,
        left_out,
        "new flow"
    );
}

struct Described {
    source: String,
    destination: String,
    icmp_type: Option<u8>,
    icmp_code: Option<u8>,
}

fn describe(flow: &LoggedFlow) -> Described {
    let (source, destination): (IpAddr, IpAddr) = match flow.addresses {
        Addresses::V4 { source, destination } => (source.into(), destination.into()),
        Addresses::V6 { source, destination } => (source.into(), destination.into()),
    };
    let (mut icmp_type, mut icmp_code) = (None, None);
    let [source, destination] = match flow.transport {
        Transport::Ports { source: from, destination: to } => {
            [SocketAddr::new(source, from).to_string(), SocketAddr::new(destination, to).to_string()]
        }
        Transport::Icmp { icmp_type: kind, code } => {
            (icmp_type, icmp_code) = (Some(kind), Some(code));
            [source.to_string(), destination.to_string()]
        }
        Transport::Other => [source.to_string(), destination.to_string()],
    };
    Described { source, destination, icmp_type, icmp_code }
}
