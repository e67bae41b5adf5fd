#!/usr/bin/env bash
# Mirrors 200 tags from one registry to another on loopback, by `capatch sync` and by regsync, crane and skopeo: the first
# run, and a second one with everything there already. Then capatch patches all of them on the way, which the others cannot.
# Requests are counted in the logs of the registries.
# Needs root on Debian or Ubuntu, Go and Rust; installs the rest.
#
#     tests/bench/sync.sh               ROUNDS=3 by default; CAPATCH=PATH measures another binary
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/install.sh
source tests/install.sh
# shellcheck source=tests/bench/common.sh
source tests/bench/common.sh

NEEDED=(docker-registry:docker-registry skopeo:skopeo curl:curl jq:jq ip:iproute2 gcc:build-essential
    /usr/bin/time:time python3:python3)
# Each does three images at a time, but for skopeo, which does one.
WAYS=(capatch regsync crane skopeo)
TAGS=200
ROUNDS=${ROUNDS:-3}
export LC_ALL=C

prepare() {
    local missing
    mapfile -t missing < <(missing_packages "${NEEDED[@]}")
    [ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
    command -v go >/dev/null || fail "there is no Go to build crane and regsync with"
    install_go_tools crane regsync
    if [ -z "${CAPATCH:-}" ]; then
        cargo build --release --locked
        CAPATCH=$PWD/target/release/capatch
    fi
    mkdir -p target/bench
}

write_files() {
    local all="tags: {regex: {allow: ['.*']}}"
    printf '%s\n' 'version: 1' 'images:' \
        "  - {source: 127.0.0.1:5000/kong, destination: 127.0.0.1:5001/kong, $all}" >"$WORK/capatch.yaml"
    printf '%s\n' 'version: 1' 'images:' \
        "  - {source: 127.0.0.1:5000/kong, destination: 127.0.0.1:5001/lowport, $all, patch: true}" >"$WORK/patch.yaml"
    printf '%s\n' 'version: 1' 'creds:' '  - {registry: 127.0.0.1:5000, tls: disabled}' \
        '  - {registry: 127.0.0.1:5001, tls: disabled}' 'defaults: {parallel: 3}' 'sync:' \
        '  - {source: 127.0.0.1:5000/kong, target: 127.0.0.1:5001/kong, type: repository}' >"$WORK/regsync.yaml"
}

with_capatch() { "$CAPATCH" sync "$WORK/capatch.yaml"; }
with_patch() { "$CAPATCH" sync "$WORK/patch.yaml"; }
with_regsync() { regsync once --config "$WORK/regsync.yaml"; }
with_crane() { crane copy --all-tags --jobs 3 127.0.0.1:5000/kong 127.0.0.1:5001/kong; }
with_skopeo() {
    skopeo sync --all --src docker --dest docker --src-tls-verify=false --dest-tls-verify=false \
        127.0.0.1:5000/kong 127.0.0.1:5001
}

# requests PATTERN: how many lines of the access logs match it.
requests() {
    cat "$WORK/from.log" "$WORK/to.log" | grep -cE "\"$1" || true
}

# measure NAME WAY: one line `NAME microseconds KiB requests blobs-read uploads bytes` in the results.
measure() {
    local name=$1 way=$2 start end all reads uploads bytes
    all=$(requests '[A-Z]+ /v2/') reads=$(requests 'GET /v2/[^ ]*/blobs/sha256') uploads=$(requests 'PUT /v2/[^ ]*/blobs/')
    bytes=$(received)
    start=${EPOCHREALTIME/./}
    /usr/bin/time --quiet --format %M --output "$WORK/memory" bash -c "with_$way" >"$WORK/said" 2>&1 || {
        tail -n 20 "$WORK/said"
        fail "$name failed"
    }
    end=${EPOCHREALTIME/./}
    bytes=$(($(received) - bytes))
    # The last lines of a log take a moment.
    sleep 0.2
    printf '%s %d %d %d %d %d %d\n' "$name" $((end - start)) "$(tail -n 1 "$WORK/memory")" \
        $(($(requests '[A-Z]+ /v2/') - all)) $(($(requests 'GET /v2/[^ ]*/blobs/sha256') - reads)) \
        $(($(requests 'PUT /v2/[^ ]*/blobs/') - uploads)) "$bytes" >>"$WORK/results"
}

check() {
    local tags
    tags=$(curl --silent --noproxy '*' "http://127.0.0.1:5001/v2/$1/tags/list" | jq '.tags | length')
    [ "$tags" = "$TAGS" ] || fail "there are $tags tags, not $TAGS"
}

run_once() {
    local way=$1 repository=kong
    [ "$way" != patch ] || repository=lowport
    rm -rf "$WORK/to" "${WORK:?}/containers"/*
    mkdir "$WORK/to"
    sync
    start_registry to 5001
    measure "$way" "$way"
    check $repository
    measure "$way-again" "$way"
    if [ "$way" = capatch ]; then
        grep -q "^$TAGS unchanged" "$WORK/said" || fail "the second run changed something: $(tail -n 3 "$WORK/said")"
    fi
    stop_registry to
}

describe() {
    describe_machine
    printf 'against  %s, %s, %s, %s\n' "${GO_TOOLS[crane]##*/}" "${GO_TOOLS[regsync]##*/}" "$(skopeo --version)" \
        "$(docker-registry --version | cut -d' ' -f1,3)"
    printf 'work     %d tags; rounds %d, interleaved, each to an empty registry; medians\n\n' "$TAGS" "$ROUNDS"
}

report() {
    local run way suffix title
    for run in first second; do
        suffix='' title='first run'
        [ "$run" = first ] || suffix=-again title='second run'
        printf '%-11s %9s %17s %15s %9s %9s %10s %8s %9s\n' "$title" seconds 'min - max' 'capatch takes' requests \
            'blobs read' uploads 'moved MB' 'peak MiB'
        for way in "${WAYS[@]}" patch; do
            awk -v way="$way" -v ours="$(column "capatch$suffix" 2 | median)" \
                -v theirs="$(column "$way$suffix" 2 | median)" -v low="$(column "$way$suffix" 2 | sort -n | head -n 1)" \
                -v high="$(column "$way$suffix" 2 | sort -n | tail -n 1)" \
                -v memory="$(column "$way$suffix" 3 | sort -n | tail -n 1)" \
                -v requests="$(column "$way$suffix" 4 | median)" -v reads="$(column "$way$suffix" 5 | median)" \
                -v uploads="$(column "$way$suffix" 6 | median)" -v bytes="$(column "$way$suffix" 7 | median)" 'BEGIN {
                    share = way == "capatch" || way == "patch" ? "" : sprintf("%.3f of it", ours / theirs)
                    printf "%-11s %9.2f %8.2f - %6.2f %15s %9d %9d %10d %8.1f %9.1f\n", way, theirs / 1e6, low / 1e6,
                        high / 1e6, share, requests, reads, uploads, bytes / 1e6, memory / 1024
                }'
        done
        echo
    done
    echo 'patch: capatch sync with patch: true, which none of the others can do'
    echo 'blobs read, uploads: requests for content of blobs, and finished uploads; moved: over loopback, both directions'
}

inside() {
    ip link set lo up
    PATH=$PWD/$TOOLS:$PATH
    WORK=$(mktemp -d "$PWD/target/bench/work.XXXXXX")
    trap clean_up EXIT
    # The blob cache of skopeo has no other place.
    mkdir -p "$WORK/containers" "$WORK/home" /var/lib/containers
    mount --bind "$WORK/containers" /var/lib/containers
    export WORK CAPATCH PATH HOME=$WORK/home
    export -f with_capatch with_patch with_regsync with_crane with_skopeo
    unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY SOURCE_DATE_EPOCH

    describe
    make_images "$WORK/images" "$TAGS" 30000000 12000000 200000
    write_files
    mkdir "$WORK/from"
    start_registry from 5000
    printf '%s\n' 'version: 1' 'images:' \
        "  - {source: 'oci:$WORK/images', destination: 127.0.0.1:5000/kong, tags: {regex: {allow: ['.*']}}}" >"$WORK/seed.yaml"
    "$CAPATCH" sync --quiet "$WORK/seed.yaml" >"$WORK/said" || fail "the source could not be made: $(tail -n 3 "$WORK/said")"
    for ((round = 1; round <= ROUNDS; round++)); do
        for way in "${WAYS[@]}" patch; do
            run_once "$way"
        done
    done
    report
}

if [ "${1:-}" = inside ]; then
    inside
else
    become_root tests/bench/sync.sh "${NEEDED[*]#*:}"
    prepare
    export CAPATCH ROUNDS
    # A network and processes of our own: no port to clash with, exact counters, nothing left behind.
    unshare --net --mount --pid --fork --kill-child --mount-proc bash "$PWD/tests/bench/sync.sh" inside
fi
