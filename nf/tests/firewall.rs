//! The firewall through the real engine.

mod common;

use common::*;
use millrace_nf::chain::ChainBuilder;

#[test]
fn the_wire_alone_carries_both_versions() {
    let mut harness =
        Harness::new(ChainBuilder::new("test", &["inside", "outside"]).forwarder("wire", Wire::default()));
    assert!(harness.passes(INSIDE, &udp("10.0.0.1", "203.0.113.8", (1, 2), b"x")));
    assert!(harness.passes(OUTSIDE, &udp("2001:db8:9::1", "2001:db8:1::1", (1, 2), b"x")));
    harness.finish();
}
