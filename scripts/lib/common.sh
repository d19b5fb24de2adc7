# shellcheck shell=bash
# Shared by the scripts: messages, installing what is missing, finding Rust. Sourced, never run.

RUST_MINOR_MIN=91 # as rust-version in Cargo.toml

# Messages: progress to standard output, trouble to standard error.
say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "warning: $*" >&2; }
die() {
    printf '%s\n' "error: $*" >&2
    exit 1
}

is_root() { [[ $EUID -eq 0 ]]; }

has() { command -v "$1" >/dev/null 2>&1; }

# Packages of Debian and Ubuntu for the commands that are missing.
# Arguments: "command:package" ...; prints the packages.
missing_packages() {
    local pair
    for pair in "$@"; do
        has "${pair%%:*}" || printf '%s\n' "${pair#*:}"
    done | sort -u
}

# Installs by apt what is missing, and nothing when nothing is. Fails where it may not or can not.
# Arguments: yes|no (whether it may install), then "command:package" ...
ensure_commands() {
    local may_install=$1 log
    shift
    local -a packages
    mapfile -t packages < <(missing_packages "$@")
    [[ ${#packages[@]} -eq 0 ]] && return 0
    if [[ $may_install != yes ]] || ! is_root || ! has apt-get; then
        warn "missing packages: ${packages[*]} (apt-get install ${packages[*]})"
        return 1
    fi
    say "Installing ${packages[*]} ..."
    log=$(mktemp)
    # A machine that was never updated has no lists; one that was needs no network for them.
    if ! apt_install "${packages[@]}" >"$log" 2>&1 &&
        ! { apt-get update && apt_install "${packages[@]}"; } >>"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        warn "apt-get could not install ${packages[*]}"
        return 1
    fi
    rm -f "$log"
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "$@"
}

# Makes a Rust of an earlier rustup visible that the login shell has not announced yet.
find_cargo() {
    if ! has cargo && [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    fi
}

# Whether there is a Rust that is new enough.
rust_suffices() {
    local version
    find_cargo
    has cargo && has rustc || return 1
    version=$(rustc --version 2>/dev/null | awk '{ print $2 }')
    [[ $version =~ ^([0-9]+)\.([0-9]+)\. ]] || return 1
    ((BASH_REMATCH[1] > 1 || BASH_REMATCH[2] >= RUST_MINOR_MIN))
}

# What to do about a missing or old Rust.
rust_advice() {
    printf '%s\n' "Rust 1.$RUST_MINOR_MIN or newer is needed; this machine has $(rustc --version 2>/dev/null || echo none)." \
        "Install it from https://rustup.rs:" \
        "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
}

# Finds Rust, or installs it from rustup.rs. Argument: yes|no (whether it may install).
ensure_rust() {
    rust_suffices && return 0
    if [[ $1 != yes ]]; then
        rust_advice >&2
        return 1
    fi
    say "Installing Rust from rustup.rs ..."
    curl --proto '=https' --tlsv1.2 -sSf --max-time 300 https://sh.rustup.rs |
        sh -s -- -y --quiet --profile minimal --default-toolchain stable >&2 || true
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    rust_suffices || {
        rust_advice >&2
        return 1
    }
}

# The directory that cargo builds into. Argument: root of the repository.
target_directory() { printf '%s\n' "${CARGO_TARGET_DIR:-$1/target}"; }
