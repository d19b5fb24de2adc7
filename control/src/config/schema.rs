//! The keys that each table may hold: what the reader accepts, what unknown keys are compared with, and
//! what `docs/configuration.md` has to describe (a test compares them).

/// The keys of one kind of table.
#[derive(Debug, PartialEq, Eq)]
pub struct Schema {
    /// The table as the documentation heads it; names of the user's choice are in capitals.
    pub title: &'static str,
    /// Its keys.
    pub keys: &'static [&'static str],
}

macro_rules! schemas {
    ($($name:ident: $title:literal => [$($key:literal),* $(,)?];)*) => {
        $(
            #[doc = concat!("The keys of `", $title, "`.")]
            pub static $name: Schema = Schema { title: $title, keys: &[$($key),*] };
        )*
        /// Every table of a configuration.
        pub static ALL: &[&Schema] = &[$(&$name),*];
    };
}

schemas! {
    ROOT: "top level" => [
        "memory", "workers", "sessions", "checksums", "management", "metrics", "log", "host", "ports", "chains",
        "functions",
    ];
    MEMORY: "memory" => ["size", "hugepages", "reserve_hugepages", "frames", "frame_bytes", "large_frames"];
    WORKERS: "workers" => ["cores", "shares", "io", "idle", "burst"];
    SESSIONS: "sessions" => ["capacity", "flow_cache_entries", "allow_short_timeouts", "timeouts"];
    TIMEOUTS: "sessions.timeouts" => ["tcp_established", "tcp_transitory", "udp", "icmp", "other"];
    CHECKSUMS: "checksums" => ["verify"];
    MANAGEMENT: "management" => ["socket", "group"];
    METRICS: "metrics" => ["listen"];
    LOG: "log" => ["levels", "format"];
    HOST: "host" => ["chains", "echo", "status", "probes"];
    STATUS: "host.status" => ["port", "addresses"];
    PROBE: "host.probes" => [
        "name", "target", "kind", "port", "path", "host", "status", "chain", "interval", "timeout", "rise", "fall",
    ];
    AF_XDP: "ports.NAME, af_xdp" => [
        "kind", "interface", "queues", "mode", "attach", "rx_ring", "tx_ring", "promiscuous", "fault",
    ];
    AF_PACKET: "ports.NAME, af_packet" => ["kind", "interface", "queues", "promiscuous", "segmentation", "fault"];
    TAP: "ports.NAME, tap" => ["kind", "name", "queues", "mac", "mtu", "segmentation", "fault"];
    PCAP: "ports.NAME, pcap" => ["kind", "input", "output", "mac", "mtu", "fault"];
    GENERATOR: "ports.NAME, generator" => [
        "kind", "flows", "frame_bytes", "rate", "packets", "ip", "protocol", "source", "destination",
        "source_ports", "destination_ports", "destination_mac", "reverse", "order", "seed", "mac", "mtu",
        "fault",
    ];
    SINK: "ports.NAME, sink" => ["kind", "verify_checksums", "mac", "mtu", "fault"];
    FAULT: "ports.NAME.fault" => [
        "loss", "duplicate", "reorder", "corrupt", "truncate", "delay", "delay_us", "seed", "direction",
    ];
    CHAIN: "chains.NAME" => ["functions", "zones"];
    FIREWALL: "functions.NAME, firewall" => ["kind", "default", "tcp_state_checks", "rules"];
    RULE: "functions.NAME.rules" => [
        "name", "action", "from", "to", "source", "destination", "protocol", "source_ports",
        "destination_ports", "icmp_type", "log",
    ];
    NAT: "functions.NAME, nat" => [
        "kind", "inside", "outside", "pool", "sources", "filtering", "port_range", "hairpinning", "mss_clamp",
        "forward",
    ];
    FORWARD: "functions.NAME.forward" => ["protocol", "external", "internal"];
    INSPECT: "functions.NAME, inspect" => ["kind", "patterns", "core"];
    PATTERN: "functions.NAME.patterns" => ["name", "text", "hex", "ignore_case", "protocol", "ports", "action"];
    ROUTER: "functions.NAME, router" => [
        "kind", "interfaces", "routes", "neighbour_capacity", "icmp_errors_per_second",
        "icmp_source_errors_per_second",
    ];
    INTERFACE: "functions.NAME.interfaces.PORT" => ["addresses", "mtu", "neighbours"];
    NEIGHBOUR: "functions.NAME.interfaces.PORT.neighbours" => ["address", "mac"];
    ROUTE: "functions.NAME.routes" => ["prefix", "via", "interface", "kind"];
}
