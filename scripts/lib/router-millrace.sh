# shellcheck shell=bash disable=SC2034
# Millrace as the quickstart's router: starting it, changing it, asking it, ending it. Sourced, never run.

ROUTER_IPV6_OFF=1
ROUTER_NAME="Millrace"
MILLRACE=$(target_directory "$ROOT")/release/millrace
MILLRACE_PID=

# Builds the command, unless it may not; then it must be there.
router_prepare() {
    if [[ $BUILD == yes ]]; then
        ensure_rust "$INSTALL" || exit 1
        say "Building Millrace (some minutes the first time) ..."
        (cd "$ROOT" && cargo build --release --locked -p millrace-control)
    fi
    [[ -x $MILLRACE ]] || die "$MILLRACE is not built; run without --no-build"
}

# The configurations of this run: configs/edge.toml as it stands but for the socket's place, which lets several runs
# share a machine; with a rule that concerns no flow here; and without the rule for pings from outside.
make_configurations() {
    {
        cat "$ROOT/configs/edge.toml"
        printf '\n[management]\nsocket = "%s"\n' "$WORK/millrace.sock"
    } >"$WORK/edge.toml"
    {
        cat "$WORK/edge.toml"
        printf '\n[[functions.firewall.rules]]\nname = "quickstart-unrelated"\naction = "deny"\n'
        printf 'from = "outside"\nto = "inside"\nsource = "192.0.2.99"\nprotocol = "udp"\n'
    } >"$WORK/unrelated.toml"
    awk '/^\[/ { if (block !~ /"ping-inside-ipv6"/) printf "%s", block; block = "" }
         { block = block $0 "\n" }
         END { if (block !~ /"ping-inside-ipv6"/) printf "%s", block }' "$WORK/edge.toml" >"$WORK/no-ping.toml"
    ! grep -q ping-inside-ipv6 "$WORK/no-ping.toml" || die "the rule ping-inside-ipv6 of configs/edge.toml is not where it was"
}

# `show` of this run's instance. Arguments: what, options ...
millrace_show() { "$MILLRACE" show "$@" --socket "$WORK/millrace.sock"; }

router_start() {
    make_configurations
    # Steps are subshells, which cannot wait for it: its process id and its status go to files.
    (
        status=0
        ip netns exec "$NS_ROUTER" "$MILLRACE" run "$WORK/edge.toml" --interval 0 >"$WORK/millrace.log" 2>&1 </dev/null &
        echo $! >"$WORK/millrace.pid"
        wait $! || status=$?
        echo $status >"$WORK/ended"
    ) &
    wait_for 50 test -s "$WORK/millrace.pid"
    MILLRACE_PID=$(cat "$WORK/millrace.pid")
    if ! wait_for 150 router_is_ready || [[ -e $WORK/ended ]]; then
        tail -n 20 "$WORK/millrace.log" >&2
        return 1
    fi
}

router_is_ready() {
    [[ -e $WORK/ended ]] || millrace_show ports
}

router_refused() {
    millrace_show drops --json |
        jq '[.. | objects | select(.reason? == "firewall_denied" or .reason? == "nat_filtered") | .packets] | add // 0'
}

# In the router's namespace, where the configuration's interfaces are.
router_apply() { in_ns "$NS_ROUTER" "$MILLRACE" apply "$WORK/$1.toml" >>"$WORK/apply.log" 2>&1; }
router_apply_unrelated() { router_apply unrelated; }
router_apply_no_ping() { router_apply no-ping; }
router_apply_original() { router_apply edge; }

# Everything that can be asked, as tables and as JSON; prints the number of sessions.
router_sessions() {
    local what
    for what in ports functions flows chains workers shares memory drops neighbours routes nat sessions; do
        printf '\n%s\n' "$what"
        millrace_show "$what" || return 1
        millrace_show "$what" --json >"$WORK/show-$what.json" || return 1
        jq -e '.rows' "$WORK/show-$what.json" >/dev/null || return 1
    done >"$WORK/show.txt"
    jq '.rows | length' "$WORK/show-sessions.json"
}

# Ends Millrace as an operator would, and reads its account of every packet and every buffer.
router_stop() {
    kill -TERM "$MILLRACE_PID"
    wait_for 100 test -e "$WORK/ended" || refuse "it did not end within 10 s"
    [[ $(cat "$WORK/ended") == 0 ]] || refuse "it ended with status $(cat "$WORK/ended"): $(tail -n 1 "$WORK/millrace.log")"
    grep -q '^sums hold: yes' "$WORK/millrace.log" || refuse "the sums do not hold"
    note "$(sed -n 's/^flow cache: //p' "$WORK/millrace.log"); sums hold; $(sed -n 's/^frames: /frames: /p' "$WORK/millrace.log")"
}

# Flow, function and drop counters of the whole run, as Millrace prints them at its end.
router_report() { sed -n '/^ports$/,$p' "$WORK/millrace.log"; }
