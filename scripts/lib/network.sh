# shellcheck shell=bash disable=SC2034
# The quickstart's network, in namespaces of this run only; nothing of the host is touched. Sourced, never run.
#
#   client 10.0.0.2  fd00:1::2 --.
#                                 +-- bridge (segment) -- [mr-lan] router [mr-wan] -- outside 198.51.100.2
#   server 10.0.0.3  fd00:1::3 --'                                                           2001:db8:ffff::2

# The outside is narrower than the inside, so that path MTU discovery has something to discover.
WAN_MTU=1400

NS_CLIENT=mr-client-$$
NS_SERVER=mr-server-$$
NS_SEGMENT=mr-segment-$$
NS_ROUTER=mr-router-$$
NS_OUTSIDE=mr-outside-$$
NAMESPACES=("$NS_CLIENT" "$NS_SERVER" "$NS_SEGMENT" "$NS_ROUTER" "$NS_OUTSIDE")

in_ns() {
    local namespace=$1
    shift
    ip netns exec "$namespace" "$@"
}

# Runs a command in the background of a namespace; its output goes to a file in $WORK. Prints nothing; sets JOB.
# Arguments: namespace, name of the log, command ...
in_ns_background() {
    local namespace=$1 name=$2
    shift 2
    ip netns exec "$namespace" "$@" >"$WORK/$name.log" 2>&1 </dev/null &
    JOB=$!
}

network_up() {
    local namespace
    for namespace in "${NAMESPACES[@]}"; do
        ip netns add "$namespace"
        in_ns "$namespace" sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
        ip -n "$namespace" link set lo up
    done
    ip -n "$NS_SEGMENT" link add segment type bridge forward_delay 0 mcast_snooping 0
    ip -n "$NS_SEGMENT" link set segment up
    plug "$NS_CLIENT" client
    plug "$NS_SERVER" server
    ip -n "$NS_ROUTER" link add mr-lan type veth peer name router netns "$NS_SEGMENT"
    ip -n "$NS_SEGMENT" link set router master segment up
    ip -n "$NS_ROUTER" link add mr-wan type veth peer name eth0 netns "$NS_OUTSIDE"
    ip -n "$NS_ROUTER" link set mr-wan mtu $WAN_MTU
    ip -n "$NS_OUTSIDE" link set eth0 mtu $WAN_MTU
    local interface
    for interface in mr-lan mr-wan; do
        # The router's interfaces are those of its own stack, not of the kernel's.
        in_ns "$NS_ROUTER" sysctl -qw "net.ipv6.conf.$interface.disable_ipv6=$ROUTER_IPV6_OFF"
        ip -n "$NS_ROUTER" link set "$interface" up
    done
    host_addresses "$NS_CLIENT" 10.0.0.2/24 fd00:1::2/64 10.0.0.1 fd00:1::1
    host_addresses "$NS_SERVER" 10.0.0.3/24 fd00:1::3/64 10.0.0.1 fd00:1::1
    host_addresses "$NS_OUTSIDE" 198.51.100.2/24 2001:db8:ffff::2/64 198.51.100.1 2001:db8:ffff::1
    # The outside host announces the segment size of an Ethernet that is not narrow: TCP from inside has to learn
    # the path MTU from the router's ICMP errors.
    ip -n "$NS_OUTSIDE" route change 198.51.100.0/24 dev eth0 src 198.51.100.2 advmss 1460
    ip -n "$NS_OUTSIDE" -6 route change default via 2001:db8:ffff::1 advmss 1440
}

# Plugs a host into the inside segment. Arguments: namespace, name of the bridge's port.
plug() {
    ip -n "$1" link add eth0 type veth peer name "$2" netns "$NS_SEGMENT"
    ip -n "$NS_SEGMENT" link set "$2" master segment up
}

# Arguments: namespace, IPv4 and IPv6 address with length, gateways of both.
host_addresses() {
    # Checksums left to a device that does not exist would be wrong behind a router in user space.
    in_ns "$1" ethtool -K eth0 tx off >/dev/null
    ip -n "$1" link set eth0 up
    ip -n "$1" address add "$2" dev eth0
    ip -n "$1" address add "$3" dev eth0 nodad
    ip -n "$1" route add default via "$4"
    ip -n "$1" -6 route add default via "$5"
}

# Ends what runs in the namespaces, then removes them; to be called at any moment, and more than once.
network_down() {
    local namespace signal pid
    for namespace in "${NAMESPACES[@]}"; do
        [[ -e /run/netns/$namespace ]] || continue
        for signal in TERM KILL; do
            local -a pids
            mapfile -t pids < <(ip netns pids "$namespace" 2>/dev/null)
            [[ ${#pids[@]} -eq 0 ]] && break
            for pid in "${pids[@]}"; do
                kill "-$signal" "$pid" 2>/dev/null || true
            done
            wait_for 20 namespace_is_empty "$namespace" || true
        done
        ip netns delete "$namespace" 2>/dev/null || true
    done
}

namespace_is_empty() { [[ -z $(ip netns pids "$1" 2>/dev/null) ]]; }

# Waits until a command succeeds. Arguments: tenths of a second at most, command ...
wait_for() {
    local tenths=$1
    shift
    until "$@" >/dev/null 2>&1; do
        ((tenths-- > 0)) || return 1
        sleep 0.1
    done
}

# Whether something listens on a TCP port. Arguments: namespace, port.
listens() { [[ -n $(in_ns "$1" ss -Hltn "sport = :$2") ]]; }
