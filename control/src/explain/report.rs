//! What the chains said of a packet, by names: serialised it is the answer of the socket and the JSON of the command.

use millrace_dataplane::flow::field::Field;
use millrace_dataplane::packet::Flags;
use millrace_nf::headers::{Edit, Network, Parsed};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::packet::words;
use crate::listing::show_mac;

/// All that is known of what becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The port that it comes in by.
    pub input: String,
    /// Bytes of its frame, without FCS.
    pub frame_bytes: usize,
    /// The headers as they came; none where they can't be read.
    pub received: Option<Headers>,
    /// The chain that it walks.
    pub chain: Option<String>,
    /// The zone that it comes from.
    pub zone: Option<String>,
    /// What the flow cache answers: `hit`, `miss`, `alone` or `no_key`; none where nothing is looked up.
    pub look_up: Option<String>,
    /// The session that it belongs to.
    pub session: Option<Session>,
    /// Of an ICMP error: the session of the packet that it quotes.
    pub related: Option<Session>,
    /// What the functions do, in the order in which they do it.
    pub steps: Vec<Step>,
    /// The session that it opens.
    pub opens: Option<Opens>,
    /// How packets of its flow are replayed.
    pub program: Option<Program>,
    /// Where functions work on payloads: each of them in turn, with what comes behind it. The above is what comes before.
    pub segments: Vec<Segment>,
    /// `sent`, `dropped`, `consumed`, `held` or `punted`.
    pub verdict: String,
    /// Why it is dropped: the name of the counter.
    pub reason: Option<String>,
    /// What that means.
    pub meaning: Option<String>,
    /// The ports that it leaves by.
    pub outputs: Vec<String>,
    /// The headers as they leave.
    pub sent: Option<Headers>,
}

/// Headers of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headers {
    /// In the words that describe packets.
    pub packet: String,
    /// Ethernet source.
    pub ethernet_source: String,
    /// Ethernet destination.
    pub ethernet_destination: String,
    /// Identifiers of its VLANs, outermost first.
    pub vlans: Vec<u16>,
    /// TTL or hop limit.
    pub ttl: Option<u8>,
    /// Differentiated services code point.
    pub dscp: Option<u8>,
    /// Bytes from the network header on.
    pub length: u16,
}

impl From<&Parsed> for Headers {
    fn from(parsed: &Parsed) -> Self {
        let (ttl, dscp) = match &parsed.network {
            Network::V4(ip) => (Some(ip.ttl), Some(ip.dscp)),
            Network::V6(ip) => (Some(ip.hop_limit), Some(ip.dscp)),
            Network::None | Network::Arp(_) => (None, None),
        };
        Self {
            packet: words(parsed),
            ethernet_source: show_mac(parsed.ethernet.source),
            ethernet_destination: show_mac(parsed.ethernet.destination),
            vlans: parsed.tags.iter().map(|tag| tag.tci & 0x0fff).collect(),
            ttl,
            dscp,
            length: parsed.offsets.end - parsed.offsets.network,
        }
    }
}

/// A function that works on payloads, and what comes behind it up to the next one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The function.
    pub payload: Step,
    /// The session of this segment that the packet belongs to.
    pub session: Option<Session>,
    /// Of an ICMP error: the session of the packet that it quotes.
    pub related: Option<Session>,
    /// What the functions behind do, in the order in which they do it.
    pub steps: Vec<Step>,
    /// The session that the packet opens here.
    pub opens: Option<Opens>,
    /// How packets of its flow are replayed from here.
    pub program: Option<Program>,
}

/// A session that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its number.
    pub session: u32,
    /// `original` as the initiator sends, or `reply`.
    pub direction: String,
    /// The TCP state before the packet; none for other protocols, and where nobody tracks it.
    pub tcp_state: Option<String>,
    /// What the initiator sends, as received.
    pub initiator: String,
    /// What the responder sends, as received.
    pub responder: String,
}

/// A session that is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opens {
    /// What the initiator sends, as received.
    pub initiator: String,
    /// What the responder will send, as received.
    pub responder: String,
}

/// What one function does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name.
    pub function: String,
    /// Its kind.
    pub kind: String,
    /// `forward`, `backward` or `hairpin`: the second, backward walk of a hairpin.
    pub direction: String,
    /// `continue`, `forward`, `flood`, `drop`, `consume`, `hold` or `punt`.
    pub verdict: String,
    /// Of a drop: the name of the counter.
    pub reason: Option<String>,
    /// Of `forward` and `flood`: the ports.
    pub outputs: Vec<String>,
    /// What it went by.
    pub by: Vec<By>,
    /// Its edits, in order.
    pub edits: Vec<String>,
    /// Frames that it answers or reports with.
    pub frames: Vec<Originated>,
}

/// One thing that a function went by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// What it is: `rule`, `mapping`, `route`.
    pub what: String,
    /// Which one, or what of it.
    pub value: String,
}

/// A frame that a function makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Originated {
    /// Where it leaves.
    pub output: String,
    /// In the words that describe packets.
    pub packet: String,
    /// Bytes of the frame.
    pub frame_bytes: usize,
}

/// How packets of a flow are replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// It serves all packets of the flow; otherwise this one alone.
    pub cacheable: bool,
    /// Packets of the flow with one of these properties walk alone.
    pub guards: Vec<String>,
    /// So do those with a smaller TTL or hop limit.
    pub ttl_min: u8,
    /// So do those that are longer, in bytes from the network header on.
    pub length_max: u16,
    /// The TCP state and windows of the session are tracked.
    pub tracks_tcp: bool,
}

const GUARDS: [(Flags, &str); 6] = [
    (Flags::FRAGMENT, "fragment"),
    (Flags::OPTIONS, "ip_options"),
    (Flags::EXTENSIONS, "extension_headers"),
    (Flags::TCP_CONTROL, "tcp_syn_fin_rst"),
    (Flags::ICMP_OTHER, "icmp_other"),
    (Flags::MULTICAST, "multicast"),
];

/// The properties that packets are guarded against.
pub(super) fn show_guards(flags: Flags) -> Vec<String> {
    GUARDS.iter().filter(|(flag, _)| flags.intersects(*flag)).map(|(_, name)| (*name).to_owned()).collect()
}

/// An edit as people read it.
pub(super) fn show_edit(edit: &Edit) -> String {
    match *edit {
        Edit::Set(field, value) => format!("set {} {}", field.name(), show_value(field, value)),
        Edit::DecrementTtl => "decrement ttl".to_owned(),
        Edit::Bytes { offset, bytes, count, .. } => {
            let bytes: String = bytes.iter().take(count.into()).map(|byte| format!("{byte:02x}")).collect();
            format!("write {bytes} at {offset}")
        }
    }
}

fn show_value(field: Field, value: u128) -> String {
    match field {
        Field::EthernetDestination | Field::EthernetSource => {
            let [.., a, b, c, d, e, f] = value.to_be_bytes();
            show_mac([a, b, c, d, e, f])
        }
        Field::Ipv4Source | Field::Ipv4Destination | Field::ArpSender | Field::ArpTarget => {
            Ipv4Addr::from(value as u32).to_string()
        }
        Field::Ipv6Source | Field::Ipv6Destination => Ipv6Addr::from(value).to_string(),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_shown_as_the_field_is_read() {
        for (edit, text) in [
            (Edit::Set(Field::Ipv4Source, 0xc633_6401), "set ipv4_source 198.51.100.1"),
            (Edit::Set(Field::Ipv6Destination, 1), "set ipv6_destination ::1"),
            (Edit::Set(Field::EthernetSource, 0x0200_0000_00fe), "set ethernet_source 02:00:00:00:00:fe"),
            (Edit::Set(Field::SourcePort, 443), "set source_port 443"),
            (Edit::DecrementTtl, "decrement ttl"),
            (
                Edit::Bytes { offset: 54, bytes: [2, 4, 5, 0xb4, 0, 0, 0, 0], count: 4, l4: true },
                "write 020405b4 at 54",
            ),
        ] {
            assert_eq!(show_edit(&edit), text);
        }
        assert_eq!(show_guards(Flags::FRAGMENT.union(Flags::TCP_CONTROL)), ["fragment", "tcp_syn_fin_rst"]);
    }
}
