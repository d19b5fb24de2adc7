# shellcheck shell=bash disable=SC2034
# The kernel in the place of Millrace (`--reference kernel`): shows that the quickstart's own checks and this machine
# are right. Forwarding, source NAT, port forward and firewall as in configs/edge.toml. Sourced, never run.

ROUTER_IPV6_OFF=0
ROUTER_NAME="the kernel's stack"

router_prepare() { :; }

router_start() {
    in_ns "$NS_ROUTER" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    local address
    for address in 10.0.0.1/24 fd00:1::1/64; do
        ip -n "$NS_ROUTER" address add $address dev mr-lan
    done
    for address in 198.51.100.1/24 198.51.100.10/24 198.51.100.11/24 2001:db8:ffff::1/64; do
        ip -n "$NS_ROUTER" address add $address dev mr-wan
    done
    in_ns "$NS_ROUTER" nft -f - <<'RULES'
table inet edge {
    counter refused { }
    chain first {
        type filter hook forward priority -10; policy accept;
    }
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname "mr-lan" oifname "mr-wan" accept
        iifname "mr-wan" ip daddr 10.0.0.3 tcp dport 80 accept
        iifname "mr-wan" icmpv6 type echo-request accept
        counter name refused
    }
    chain input {
        type filter hook input priority 0; policy accept;
        iifname "mr-wan" meta l4proto { tcp, udp } counter name refused drop
    }
    chain prerouting {
        type nat hook prerouting priority -100;
        iifname "mr-wan" ip daddr 198.51.100.10 tcp dport 8080 dnat ip to 10.0.0.3:80
    }
    chain postrouting {
        type nat hook postrouting priority 100;
        oifname "mr-wan" ip saddr 10.0.0.0/24 snat ip to 198.51.100.10-198.51.100.11
    }
}
RULES
}

# Packets that the router refused so far.
router_refused() { in_ns "$NS_ROUTER" nft -j list counter inet edge refused | jq '[.nftables[].counter.packets? // 0] | add'; }

router_apply_unrelated() { in_ns "$NS_ROUTER" nft add rule inet edge forward ip saddr 192.0.2.99 drop; }

# Established flows go on in Netfilter when their rule goes, so the reference needs a rule before its connections.
router_apply_no_ping() { in_ns "$NS_ROUTER" nft add rule inet edge first iifname mr-wan icmpv6 type echo-request drop; }

router_apply_original() { in_ns "$NS_ROUTER" nft flush chain inet edge first; }

router_sessions() { in_ns "$NS_ROUTER" wc -l < <(in_ns "$NS_ROUTER" cat /proc/net/nf_conntrack 2>/dev/null); }

router_stop() { note "the kernel keeps no account"; }

router_report() { in_ns "$NS_ROUTER" nft list table inet edge; }
