# shellcheck shell=bash
# The quickstart's steps: each moves real traffic, measures, and fails (status other than 0) when what was measured is
# not what should be. Each runs in a subshell under `set -e`; its figure is what it gives to `note`. Sourced, never run.
# shellcheck disable=SC2034 # constants are for the quickstart

LOSS_PERCENT_MAX=1     # of UDP at a rate far below what the machine can do; a busy machine may lose a few
DOWNLOAD_BYTES=104857600
SECONDS_PER_RUN=2      # of each iperf3 run
UDP_RATE=20M

note() { printf '%s\n' "$*" >"$WORK/figure"; }

# Fails with a figure that says why.
refuse() {
    note "$*"
    exit 1
}

# Packets sent, received and the mean round-trip time in ms, of a ping's output on standard input.
ping_summary() {
    awk '/packets transmitted/ { sent = $1; received = $4 }
         /^rtt/ { split($4, rtt, "/"); mean = rtt[2] }
         END { print sent + 0, received + 0, (mean == "" ? "-" : mean) }'
}

# All of ten pings must be answered. Arguments: namespace, address, options ...
all_answered() {
    local namespace=$1 address=$2 sent received mean
    shift 2
    read -r sent received mean < <(in_ns "$namespace" ping -n -q -c 10 -i 0.05 -W 2 "$@" "$address" | ping_summary)
    note "$received of $sent answered, $mean ms"
    [[ $sent -eq 10 && $received -eq 10 ]]
}

step_ping() { all_answered "$NS_CLIENT" 198.51.100.2; }
step_ping6() { all_answered "$NS_CLIENT" 2001:db8:ffff::2; }
step_ping_router() { all_answered "$NS_CLIENT" 10.0.0.1 && all_answered "$NS_CLIENT" fd00:1::1; }
step_ping6_inside() { all_answered "$NS_OUTSIDE" fd00:1::2; }

# Compares a file's digest behind the router with the original's. Arguments: namespace, URL, curl's options ...
download() {
    local namespace=$1 url=$2 digest
    shift 2
    digest=$(in_ns "$namespace" curl -sS --fail --globoff --max-time 30 -w '%{stderr}%{speed_download} %{time_total}' "$@" "$url" \
        2>"$WORK/curl" | sha256sum | cut -d ' ' -f 1) || true
    [[ $digest == "$(cat "$WORK/digest")" ]] || refuse "the file arrived changed or not at all: $(cat "$WORK/curl")"
    awk '{ printf "%.0f MB in %.2f s, %.0f MB/s, SHA-256 equal\n", $1 * $2 / 1e6, $2, $1 / 1e6 }' "$WORK/curl" >"$WORK/figure"
}

step_download() { download "$NS_CLIENT" http://198.51.100.2/large; }
step_download6() { download "$NS_CLIENT" 'http://[2001:db8:ffff::2]/large'; }
step_forward() { download "$NS_OUTSIDE" http://198.51.100.10:8080/large; }

# A run of iperf3, its result as JSON in $WORK/iperf.json. Arguments: namespace, address, options ...
run_iperf() {
    local namespace=$1 address=$2
    shift 2
    in_ns "$namespace" timeout 20 iperf3 -J -c "$address" --connect-timeout 3000 "$@" >"$WORK/iperf.json" ||
        refuse "iperf3: $(jq -r '.error // "failed"' "$WORK/iperf.json" 2>/dev/null)"
}

tcp() {
    run_iperf "$@" -t $SECONDS_PER_RUN
    local rate
    rate=$(jq '.end.sum_received.bits_per_second / 1e6 | floor' "$WORK/iperf.json")
    note "$rate Mbit/s, $(jq '.end.sum_sent.retransmits // 0' "$WORK/iperf.json") segments sent again"
    [[ $rate -ge 10 ]]
}

udp() {
    run_iperf "$@" -t $SECONDS_PER_RUN -u -b $UDP_RATE -l 1200
    jq -r '.end.sum | "\(.packets) datagrams, \(.lost_packets) lost, \(.bits_per_second / 1e6 | round) Mbit/s"' \
        "$WORK/iperf.json" >"$WORK/figure"
    jq -e --argjson most $LOSS_PERCENT_MAX '.end.sum | .packets > 1000 and .lost_percent <= $most' "$WORK/iperf.json" >/dev/null
}

step_tcp_out() { tcp "$NS_CLIENT" 198.51.100.2; }
step_tcp_in() { tcp "$NS_CLIENT" 198.51.100.2 -R; }
step_tcp6_out() { tcp "$NS_CLIENT" 2001:db8:ffff::2; }
step_tcp6_in() { tcp "$NS_CLIENT" 2001:db8:ffff::2 -R; }
step_udp_out() { udp "$NS_CLIENT" 198.51.100.2; }
step_udp_in() { udp "$NS_CLIENT" 198.51.100.2 -R; }
step_udp6_out() { udp "$NS_CLIENT" 2001:db8:ffff::2; }

# The packet that is too big is answered with the MTU; then TCP of another host finds it by itself.
step_path_mtu() {
    local answer
    answer=$(in_ns "$NS_CLIENT" ping -n -c 1 -W 2 -M "do" -s 1472 198.51.100.2 2>&1 || true)
    grep -Eq "From 10\.0\.0\.1 .*mtu ?= ?$WAN_MTU" <<<"$answer" || refuse "IPv4: no word of the MTU from the router: $answer"
    answer=$(in_ns "$NS_CLIENT" ping -n -c 1 -W 2 -M "do" -s 1452 2001:db8:ffff::2 2>&1 || true)
    grep -Eq "From fd00:1::1 .*mtu ?= ?$WAN_MTU" <<<"$answer" || refuse "IPv6: no word of the MTU from the router: $answer"
    run_iperf "$NS_SERVER" 198.51.100.2 -n 5M
    in_ns "$NS_SERVER" ip route get 198.51.100.2 | grep -q "mtu $WAN_MTU" || refuse "TCP did not learn the path MTU"
    note "the router reports $WAN_MTU for IPv4 and IPv6, TCP learns it"
}

# The router's own address, then the destination: time exceeded and port unreachable find their way back.
step_traceroute() {
    local way way6
    way=$(in_ns "$NS_CLIENT" traceroute -n -q 1 -w 2 -m 4 198.51.100.2 | awk 'NR > 1 { printf "%s%s", sep, $2; sep = " > " }') || true
    way6=$(in_ns "$NS_CLIENT" traceroute -6 -n -q 1 -w 2 -m 4 2001:db8:ffff::2 | awk 'NR > 1 { printf "%s%s", sep, $2; sep = " > " }') || true
    note "$way; $way6"
    [[ $way == "10.0.0.1 > 198.51.100.2" && $way6 == "fd00:1::1 > 2001:db8:ffff::2" ]]
}

# Connections from outside to what no rule allows and no forward names, though something listens there.
step_refused() {
    local before after url
    before=$(router_refused)
    for url in http://198.51.100.10:8081/ 'http://[fd00:1::3]/'; do
        if in_ns "$NS_OUTSIDE" curl -sS --globoff --max-time 1.5 -o /dev/null "$url" 2>/dev/null; then
            refuse "$url was reached from outside"
        fi
    done
    after=$(router_refused)
    note "both refused, $((after - before)) packets counted"
    [[ $((after - before)) -ge 2 ]]
}

# A rule that concerns no flow comes and goes: nothing may be lost.
step_apply_unrelated() {
    local sent received mean changes=0
    in_ns_background "$NS_CLIENT" ping-during-apply ping -n -q -c 120 -i 0.02 -W 2 198.51.100.2
    local pinging=$JOB
    download "$NS_CLIENT" http://198.51.100.2/large --limit-rate 50M &
    local loading=$!
    sleep 0.4
    while [[ $changes -lt 6 ]]; do
        router_apply_unrelated || refuse "the change was refused: $(tail -n 1 "$WORK/apply.log")"
        sleep 0.1
        router_apply_original || refuse "the change back was refused: $(tail -n 1 "$WORK/apply.log")"
        sleep 0.1
        changes=$((changes + 2))
    done
    wait $loading || refuse "the download failed: $(cat "$WORK/figure")"
    wait "$pinging" || true
    read -r sent received mean < <(ping_summary <"$WORK/ping-during-apply.log")
    note "$changes changes: $received of $sent pings answered, 105 MB whole"
    [[ $sent -eq 120 && $received -eq 120 ]]
}

# The rule for pings from outside goes: that flow stops at once, the pings from inside do not.
step_apply_stops() {
    in_ns_background "$NS_OUTSIDE" ping-stopped ping -6 -n -D -c 60 -i 0.05 -W 1 fd00:1::2
    local stopped=$JOB
    in_ns_background "$NS_CLIENT" ping-spared ping -6 -n -q -c 60 -i 0.05 -W 1 2001:db8:ffff::2
    local spared=$JOB applied last sent received mean before
    sleep 1
    router_apply_no_ping || refuse "the change was refused: $(tail -n 1 "$WORK/apply.log")"
    applied=$(date +%s.%N)
    wait "$stopped" || true
    wait "$spared" || true
    router_apply_original || refuse "the change back was refused: $(tail -n 1 "$WORK/apply.log")"
    before=$(grep -c 'bytes from' "$WORK/ping-stopped.log" || true)
    last=$(sed -n 's/^\[\([0-9.]*\)\].*bytes from.*/\1/p' "$WORK/ping-stopped.log" | tail -n 1)
    read -r sent received mean < <(ping_summary <"$WORK/ping-spared.log")
    note "answered $before times, then no more; other flow $received of $sent"
    # One answer may have been on its way while the command returned.
    awk -v last="${last:-0}" -v applied="$applied" 'BEGIN { exit !(last > 0 && last < applied + 0.1) }' ||
        refuse "answers went on after the rule was gone ($before in all)"
    [[ $before -ge 10 && $before -lt 50 && $received -eq 60 ]] || exit 1
    all_answered "$NS_OUTSIDE" fd00:1::2 || refuse "after the change back nothing is answered"
    note "answered $before of 60, then stopped; other flow $received of $sent"
}

step_sessions() {
    local count
    count=$(router_sessions)
    note "$count sessions"
    [[ $count -ge 5 ]]
}
