#!/usr/bin/env bash
# Installs what the tests need on a Debian or Ubuntu machine, then runs all of them. No test may be skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

CRANE_VERSION=v0.20.6
# program:package, or /file:package
NEEDED=(
    mmdebstrap:mmdebstrap gpgv:gpgv /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
    docker-registry:docker-registry skopeo:skopeo umoci:umoci containerd:containerd ctr:containerd runc:runc
    getcap:libcap2-bin curl:curl jq:jq ip:iproute2 gcc:build-essential
)

fail() {
    printf 'tests/all.sh: %s\n' "$*" >&2
    exit 1
}

if [ "$(id -u)" -ne 0 ]; then
    packages=$(printf '%s\n' "${NEEDED[@]#*:}" | sort -u | tr '\n' ' ')
    command -v sudo >/dev/null ||
        fail "the tests that run containers need root, and there is no sudo. As root: apt-get install $packages"
    # The toolchains are the user's own.
    exec sudo env "PATH=$PATH" "HOME=$HOME" ${CARGO_HOME:+"CARGO_HOME=$CARGO_HOME"} \
        ${RUSTUP_HOME:+"RUSTUP_HOME=$RUSTUP_HOME"} bash "$PWD/tests/all.sh" "$@"
fi
# What cargo writes has to belong to whoever runs cargo next.
[ -z "${SUDO_UID:-}" ] || trap 'chown -R "$SUDO_UID:" target' EXIT
PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin:${CARGO_HOME:-$HOME/.cargo}/bin

mkdir -p target
log=$PWD/target/tests-all.log
: >"$log"
summary=()
started=$SECONDS

# Says what it does, keeps quiet when it went well, and shows the end of the log when not.
step() {
    local name=$1 start=$SECONDS from
    shift
    printf '%-44s' "$name"
    printf '\n=== %s: %s\n' "$name" "$*" >>"$log"
    from=$(wc -l <"$log")
    if "$@" >>"$log" 2>&1; then
        printf 'ok  %4d s\n' $((SECONDS - start))
    else
        printf 'FAILED\n\n'
        tail -n "+$((from + 1))" "$log" | explain
        fail "failed: $name (everything it said is in target/tests-all.log)"
    fi
}

# Of a failed test run, the failures and not what the other tests printed; of anything else, the last lines.
explain() {
    awk '
        { last[NR % 60] = $0 }
        /^failures:$/ { in_failures = 1; count++ }
        /^successes:$/ { in_failures = 0 }
        in_failures { print; shown = 1 }
        END { if (!shown) for (i = NR - 59; i <= NR; i++) if (i > 0) print last[i % 60] }
    '
}

# --- what is needed ---

missing=()
for need in "${NEEDED[@]}"; do
    thing=${need%%:*}
    case $thing in
    /*) [ -e "$thing" ] || missing+=("${need#*:}") ;;
    *) command -v "$thing" >/dev/null || missing+=("${need#*:}") ;;
    esac
done

# The packages may want to start a registry and a containerd; the tests start their own.
install_packages() (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
    fi
    apt-get -q update &&
        DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${missing[@]}"
)
if [ "${#missing[@]}" -gt 0 ]; then
    command -v apt-get >/dev/null || fail "there is no apt-get here; please install ${missing[*]}"
    step "install ${#missing[@]} Debian packages" install_packages
fi

command -v cargo >/dev/null || fail "there is no cargo; please install Rust with rustup: https://rustup.rs"
cargo fmt --version >/dev/null 2>&1 || fail "there is no rustfmt; please run: rustup component add rustfmt"
cargo clippy --version >/dev/null 2>&1 || fail "there is no clippy; please run: rustup component add clippy"

crane=target/tools/bin/crane
if command -v go >/dev/null; then
    if [ "$($crane version 2>/dev/null || true)" != "$CRANE_VERSION" ]; then
        step "install crane $CRANE_VERSION" env GOBIN="$PWD/target/tools/bin" GOFLAGS= \
            go install "github.com/google/go-containerregistry/cmd/crane@$CRANE_VERSION"
    fi
else
    summary+=("without crane: there is no Go here to build it with")
fi

# --- the checks ---

if grep -rnE '#!?\[(cfg_attr\(.*\b)?ignore\b' --include='*.rs' src tests; then
    fail "a test that is ignored is a test that is skipped"
fi

step "format" cargo fmt --all --check
step "lints" cargo clippy --locked --all-targets -- -D warnings
step "documentation" env RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps
step "build the tests" cargo test --locked --no-run
tests_from=$(wc -l <"$log")
step "tests" env RUST_BACKTRACE=0 cargo test --locked --no-fail-fast -- --show-output

said=$(tail -n "+$((tests_from + 1))" "$log")
passed=$(awk '/^test result:/ { sum += $4 } END { print sum + 0 }' <<<"$said")
ignored=$(awk '/^test result:/ { sum += $8 } END { print sum + 0 }' <<<"$said")
skipped=$(grep -c '^skipped: ' <<<"$said" || true)
[ "$ignored" -eq 0 ] || fail "$ignored tests were ignored; see target/tests-all.log"
[ "$skipped" -eq 0 ] || fail "$skipped tests skipped themselves; see target/tests-all.log"
[ "$passed" -gt 0 ] || fail "no test ran; see target/tests-all.log"

printf '\nall %d tests passed, none skipped, in %d s\n' "$passed" $((SECONDS - started))
[ "${#summary[@]}" -eq 0 ] || printf '%s\n' "${summary[@]}"
