#!/usr/bin/env bash
# Installs what the tests need on a Debian or Ubuntu machine, then runs all of them. No test may be skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/install.sh
source tests/install.sh

# A program or a file, and the package that has it.
NEEDED=(
    mmdebstrap:mmdebstrap gpgv:gpgv /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
    docker-registry:docker-registry skopeo:skopeo umoci:umoci containerd:containerd ctr:containerd runc:runc
    dockerd:docker.io docker:docker.io podman:podman
    getcap:libcap2-bin curl:curl jq:jq ip:iproute2 gcc:build-essential strace:strace
)
become_root tests/all.sh "${NEEDED[*]#*:}"

mkdir -p target
log=$PWD/target/tests-all.log
: >"$log"
remarks=()
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
        /^failures:$/ { in_failures = 1 }
        /^successes:$/ || /^     Running / { in_failures = 0 }
        in_failures { print; shown = 1 }
        END { if (!shown) for (i = NR - 59; i <= NR; i++) if (i > 0) print last[i % 60] }
    '
}

# --- what is needed ---

mapfile -t missing < <(missing_packages "${NEEDED[@]}")
[ "${#missing[@]}" -eq 0 ] || step "install ${missing[*]}" install_packages "${missing[@]}"

command -v cargo >/dev/null || fail "there is no cargo; please install Rust with rustup: https://rustup.rs"
cargo fmt --version >/dev/null 2>&1 || fail "there is no rustfmt; please run: rustup component add rustfmt"
cargo clippy --version >/dev/null 2>&1 || fail "there is no clippy; please run: rustup component add clippy"

if go_tools_are_there "${!GO_TOOLS[@]}"; then
    :
elif command -v go >/dev/null; then
    step "install tools of Go" install_go_tools "${!GO_TOOLS[@]}"
else
    remarks+=("without ${!GO_TOOLS[*]}: there is no Go here to build them with")
fi

if [ "$("$TOOLS/cargo-deny" --version 2>/dev/null)" != "cargo-deny $CARGO_DENY" ]; then
    step "install cargo-deny" cargo install cargo-deny --locked --version "$CARGO_DENY" --root target/tools
fi

# --- the checks ---

if grep -rnE '#!?\[(cfg_attr\(.*\b)?ignore\b' --include='*.rs' src tests; then
    fail "a test that is ignored is a test that is skipped"
fi

step "licences, bans and sources" "$TOOLS/cargo-deny" --locked check licenses bans sources
if timeout 60 "$TOOLS/cargo-deny" fetch db >>"$log" 2>&1; then
    step "advisories" "$TOOLS/cargo-deny" --locked --offline check advisories
else
    remarks+=("without advisories: their database cannot be reached from here")
fi
step "format" cargo fmt --all --check
step "format of the fuzz targets" cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
step "lints" cargo clippy --locked --all-targets -- -D warnings
step "documentation" env RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps
# They themselves need a nightly Rust: tests/fuzz/run.sh builds and runs them.
step "what the fuzz targets call" cargo rustc --locked --lib -- --cfg fuzzing -D warnings
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

printf '\nall tests passed in %d s\n%d passed, 0 failed, 0 skipped\n' $((SECONDS - started)) "$passed"
[ "${#remarks[@]}" -eq 0 ] || printf '%s\n' "${remarks[@]}"
