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

millrace() { "$MILLRACE" "$@"; }

# `show` of this run's instance. Arguments: what, options ...
millrace_show() { millrace show "$@" --socket "$WORK/millrace.sock"; }

router_start() {
    make_configurations
    in_ns_background "$NS_ROUTER" millrace "$MILLRACE" run "$WORK/edge.toml" --json
    MILLRACE_PID=$JOB
    if ! wait_for 150 router_is_ready; then
        tail -n 20 "$WORK/millrace.log" >&2
        return 1
    fi
}

router_is_ready() {
    kill -0 "$MILLRACE_PID" 2>/dev/null || return 0 # what failed is said by the commands that follow
    millrace_show ports
}

router_refused() {
    millrace_show drops --json |
        jq '[.. | objects | select(.reason? == "firewall_denied" or .reason? == "nat_filtered") | .packets] | add // 0'
}

router_apply() { millrace apply "$WORK/$1.toml" --socket "$WORK/millrace.sock" >>"$WORK/apply.log" 2>&1; }
router_apply_unrelated() { router_apply unrelated; }
router_apply_no_ping() { router_apply no-ping; }
router_apply_original() { router_apply edge; }

router_sessions() { millrace_show sessions --json --limit 1000 | jq '[.. | objects | select(.initiator?)] | length'; }

router_report() {
    local what
    for what in ports flows functions drops; do
        printf '\n%s\n' "$what:"
        millrace_show "$what" || true
    done
}

# Ends Millrace as an operator would, and reads its final accounting.
router_stop() {
    kill -TERM "$MILLRACE_PID"
    if ! wait_for 100 process_is_gone "$MILLRACE_PID"; then
        note "it did not end within 10 s"
        return 1
    fi
    local status=0
    wait "$MILLRACE_PID" || status=$?
    if [[ $status -ne 0 ]]; then
        note "it ended with status $status"
        return 1
    fi
}

process_is_gone() { ! kill -0 "$1" 2>/dev/null; }
