#!/usr/bin/env bash
# Fuzzes: run.sh [SECONDS [TARGET...]], each target for SECONDS (60), all targets unless some are named. Says for each how much
# was tried, and fails if anything was found; what was found is in artifacts/TARGET/.
set -euo pipefail
cd "$(dirname "$0")"

fail() {
    echo "$*" >&2
    exit 1
}

seconds=${1:-60}
shift || true
[[ $seconds =~ ^[1-9][0-9]*$ ]] || fail "run.sh [SECONDS [TARGET...]]"
targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
    mapfile -t targets < <(basename --suffix=.rs --multiple fuzz_targets/*.rs)
fi

command -v cargo >/dev/null || fail "there is no cargo; please install Rust with rustup: https://rustup.rs"
cargo +nightly --version >/dev/null 2>&1 || fail "there is no nightly Rust; please run: rustup toolchain install nightly"
command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz

# The versions that capatch is built with.
[ Cargo.lock -nt ../../Cargo.lock ] || cp ../../Cargo.lock .
# No sanitizer: the crate has no unsafe code, and memory could not be measured under one.
mkdir -p target
for target in seeds "${targets[@]}"; do
    cargo +nightly fuzz build --fuzz-dir . --sanitizer none "$target" >target/build.log 2>&1 || { cat target/build.log; fail "it does not build"; }
done
programs=target/$(rustc +nightly -vV | sed -n 's/^host: //p')/release
"$programs/seeds" -runs=0 2>target/seeds.log || { cat target/seeds.log; fail "the seeds were not written"; }

# Bytes of input; megabytes of memory, of which 50 to 100 are coverage, corpus and threads.
limits() {
    case $1 in
        archive_import) echo -max_len=65536 -rss_limit_mb=256 ;;
        layer_stream | tar_scan) echo -max_len=16384 -rss_limit_mb=256 ;;
        push | pull) echo -max_len=256 -rss_limit_mb=256 ;;
        *) echo -max_len=8192 -rss_limit_mb=256 ;;
    esac
}

stat() {
    sed -n "s/^stat::$1: *//p" "$log"
}

printf '%-20s %12s %8s %10s %8s  %s\n' target executions 'per s' coverage 'RSS MiB' findings
found=0
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target" "artifacts/$target"
    log=target/$target.log
    # shellcheck disable=SC2046
    "$programs/$target" "$PWD/corpus/$target" $(limits "$target") -timeout=30 -max_total_time="$seconds" -print_final_stats=1 \
        -artifact_prefix="$PWD/artifacts/$target/" >"$log" 2>&1 && finding=none || finding="see tests/fuzz/target/$target.log"
    [ "$finding" = none ] || found=1
    coverage=$(sed -nE 's/.* cov: ([0-9]+) .*/\1/p' "$log")
    first=${coverage%%$'\n'*} last=${coverage##*$'\n'}
    printf '%-20s %12s %8s %10s %8s  %s\n' "$target" "$(stat number_of_executed_units)" "$(stat average_exec_per_sec)" \
        "${last:-0} +$((${last:-0} - ${first:-0}))" "$(stat peak_rss_mb)" "$finding"
done
exit "$found"
