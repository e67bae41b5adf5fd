#!/usr/bin/env bash
# A thousand patches and copies, four at a time, through a proxy that breaks a part of the requests, some of them killed; into
# a real registry and into one layout. After each, its tag must have the old digest or the new one, and the new one if it
# said that it was done. At the end everything must verify, and no blob of the layout may be missing or belong to nothing.
# Needs root on Debian or Ubuntu, and Rust; installs the rest.
#
#     tests/bench/soak.sh               RUNS=1000, FAULTS=15 (percent of requests), SEED=1; CAPATCH=PATH tries another binary
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/install.sh
source tests/install.sh
# shellcheck source=tests/bench/common.sh
source tests/bench/common.sh

NEEDED=(docker-registry:docker-registry curl:curl jq:jq ip:iproute2 gcc:build-essential python3:python3)
RUNS=${RUNS:-1000}
FAULTS=${FAULTS:-15}
SEED=${SEED:-1}
WORKERS=4
VERSIONS=8
# Each worker has so many tags of its own in each repository.
SLOTS=5
DIRECT=127.0.0.1:5000
PROXY=127.0.0.1:5001
export LC_ALL=C

prepare() {
    local missing
    mapfile -t missing < <(missing_packages "${NEEDED[@]}")
    [ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
    if [ -z "${CAPATCH:-}" ]; then
        cargo build --release --locked
        CAPATCH=$PWD/target/release/capatch
    fi
    cargo build --locked --example fault_proxy
    mkdir -p target/bench
}

# start_proxy PERCENT
start_proxy() {
    mkfifo "$WORK/stop"
    target/debug/examples/fault_proxy "$PROXY" "$DIRECT" "$1" "$SEED" <"$WORK/stop" >"$WORK/faults" &
    PROXY_ID=$!
    exec 9>"$WORK/stop"
    rm "$WORK/stop"
    until curl --silent --noproxy '*' --output /dev/null "http://$PROXY/v2/"; do sleep 0.1; done
}

stop_proxy() {
    exec 9>&-
    wait "$PROXY_ID"
}

# The digest that a tag has now, asked where nothing breaks; empty if there is none.
digest_of() {
    case $1 in
    oci:*)
        local path=${1#oci:}
        [ ! -e "${path%:*}/index.json" ] || jq --raw-output --arg tag "${path##*:}" \
            '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $tag) | .digest' "${path%:*}/index.json"
        ;;
    *)
        local name=${1#*/} answer attempt
        # docker-registry truncates the file of a manifest before it writes it again, whichever tag that is for; a HEAD between
        # the two is answered with 500, which says nothing of this tag.
        for ((attempt = 0; attempt < 200; attempt++)); do
            answer=$(curl --silent --noproxy '*' --head --header 'Accept: application/vnd.oci.image.manifest.v1+json' \
                "http://$DIRECT/v2/${name%:*}/manifests/${name##*:}" |
                tr -d '\r' | sed -nE '1s/^[^ ]+ ([0-9]+).*/\1/p; s/^Docker-Content-Digest: *//Ip' | paste -sd ' ') || true
            case $answer in
            '200 sha256:'*) echo "${answer#200 }" && return ;;
            404) return ;;
            esac
            echo "$name: $answer" >>"$WORK/asked-again"
            sleep 0.02
        done
        fail "the registry does not say what $name is: $answer"
        ;;
    esac
}

# job KIND VERSION TAG: sets the command, its destination and the digest that it must give.
job() {
    local version=3.9.$2
    case $1 in
    patch-in-registry) COMMAND=(patch "$PROXY/kong:$version") TO=$PROXY/hard:$3 NEW=$WORK/want/registry-$2 ;;
    patch-from-layout) COMMAND=(patch "oci:$WORK/images:$version") TO=$PROXY/hard:$3 NEW=$WORK/want/layout-$2 ;;
    patch-to-layout) COMMAND=(patch "$PROXY/kong:$version") TO=oci:$WORK/layout:patched-$version NEW=$WORK/want/registry-$2 ;;
    copy-to-registry) COMMAND=(copy "oci:$WORK/images:$version") TO=$PROXY/mirror:$3 NEW=$WORK/want/copy-$2 ;;
    copy-in-registry) COMMAND=(copy "$PROXY/kong:$version") TO=$PROXY/mirror:$3 NEW=$WORK/want/copy-$2 ;;
    copy-to-layout) COMMAND=(copy "$PROXY/kong:$version") TO=oci:$WORK/layout:$version NEW=$WORK/want/copy-$2 ;;
    esac
    COMMAND+=("$TO" --force --quiet --max-wait 30)
    NEW=$(<"$NEW")
}

KINDS=(patch-in-registry patch-from-layout patch-to-layout copy-to-registry copy-in-registry copy-to-layout)

# What each version becomes, found out before anything breaks.
expect() {
    local version
    mkdir "$WORK/want"
    for ((version = 0; version < VERSIONS; version++)); do
        digest_of "$DIRECT/kong:3.9.$version" >"$WORK/want/copy-$version"
        dry_run "$PROXY/kong:3.9.$version" >"$WORK/want/registry-$version"
        dry_run "oci:$WORK/images:3.9.$version" >"$WORK/want/layout-$version"
    done
}

dry_run() {
    "$CAPATCH" patch --dry-run --quiet --json "$1" "$PROXY/hard:none" | jq --exit-status --raw-output .digest
}

# worker NUMBER RUNS: one line `KIND HOW CODE TAG` for each run.
worker() {
    local number=$1 runs=$2 run kind how code old now limit
    RANDOM=$((SEED * 100 + number))
    for ((run = 0; run < runs; run++)); do
        kind=${KINDS[RANDOM % ${#KINDS[@]}]}
        job "$kind" $((RANDOM % VERSIONS)) "$number-$((RANDOM % SLOTS))"
        old=$(digest_of "$TO")
        limit=$(printf '0.%03d' $((5 + RANDOM % 250)))
        how=alone
        case $((RANDOM % 20)) in
        0 | 1 | 2) how=KILL ;;
        3) how=TERM ;;
        esac
        code=0
        if [ $how = alone ]; then
            "$CAPATCH" "${COMMAND[@]}" >/dev/null 2>"$WORK/said-$number" || code=$?
        else
            # The shell's own words about a killed timeout are of no use.
            { timeout --signal=$how "$limit" "$CAPATCH" "${COMMAND[@]}" >/dev/null 2>"$WORK/said-$number" || code=$?; } 2>/dev/null
        fi
        # What a killed one has sent is in the proxy for a while, and could arrive after the next run.
        [ $how = alone ] || sleep 0.5
        now=$(digest_of "$TO")
        # Of a tag in the layout, another worker may have done the same meanwhile.
        if [ "$now" = "$NEW" ]; then
            tag=new
        elif [ "$now" = "$old" ] && [ $code -ne 0 ]; then
            tag=old
        else
            tag=WRONG
            sleep 2
            echo "two seconds later it is $(digest_of "$TO")" >&2
            printf '%s: %s (%s) was %s, is %s, may be %s; exit %d\n' "$kind" "$TO" "$how" "$old" "$now" "$NEW" $code >&2
        fi
        # 137 and 124 are of timeout.
        [ "$how" = alone ] && [ $code -ne 0 ] && sed "s/^/$kind: /" "$WORK/said-$number" >>"$WORK/errors"
        printf '%s %s %d %s\n' "$kind" "$how" $code "$tag" >>"$WORK/runs-$number"
    done
}

# The blobs of the layout that something leads to, from its index down.
reachable() {
    local todo=("$WORK/layout/index.json") file next
    while [ ${#todo[@]} -gt 0 ]; do
        next=()
        for file in "${todo[@]}"; do
            while read -r kind digest; do
                echo "${digest#sha256:}"
                [ "$kind" = document ] && next+=("$WORK/layout/blobs/sha256/${digest#sha256:}")
            done < <(jq --raw-output '(.manifests[]? | "document \(.digest)"), (.config, .layers[]? | select(.) | "blob \(.digest)")' "$file")
        done
        todo=("${next[@]}")
    done | sort -u
}

# verify_all: everything that there is; prints how much that was.
verify_all() {
    local repository tag count=0
    for repository in kong hard mirror; do
        for tag in $(curl --silent --noproxy '*' "http://$DIRECT/v2/$repository/tags/list" | jq --raw-output '.tags[]?'); do
            "$CAPATCH" verify --quiet "$DIRECT/$repository:$tag" >/dev/null || fail "$repository:$tag does not verify"
            count=$((count + 1))
        done
    done
    for tag in $(jq --raw-output '.manifests[].annotations["org.opencontainers.image.ref.name"]' "$WORK/layout/index.json"); do
        "$CAPATCH" verify --quiet "oci:$WORK/layout:$tag" >/dev/null || fail "$tag in the layout does not verify"
        count=$((count + 1))
    done
    echo "verified               $count tags"
}

report() {
    cat "$WORK"/runs-* >"$WORK/runs"
    printf 'runs                   %d\n' "$(wc -l <"$WORK/runs")"
    printf '%-22s %6s %6s %8s %6s %6s %6s\n' '' alone killed stopped done failed wrong
    for kind in "${KINDS[@]}"; do
        awk -v kind="$kind" '$1 == kind { how[$2]++; code[$3 == 0]++; tag[$4]++ } END {
            printf "  %-20s %6d %6d %8d %6d %6d %6d\n", kind, how["alone"], how["KILL"], how["TERM"], code[1], code[0], tag["WRONG"]
        }' "$WORK/runs"
    done
    printf 'failed, not killed     %s\n' "$(awk '$2 == "alone" && $3 != 0 { codes[$3]++ }
        END { for (code in codes) printf "%s%d with exit code %d", (n++ ? ", " : ""), codes[code], code; if (!n) printf "none" }' "$WORK/runs")"
    printf 'killed or stopped      the tag was then new %d times, old %d times\n' \
        "$(awk '$2 != "alone" && $4 == "new"' "$WORK/runs" | wc -l)" "$(awk '$2 != "alone" && $4 == "old"' "$WORK/runs" | wc -l)"
    printf 'requests               %s\n' "$(awk '{ n = $NF; $NF = ""; printf "%s%s%d", (NR > 1 ? ", " : ""), $0, n }' "$WORK/faults")"
}

inside() {
    local worker workers=() kind version missing stray wrong
    ip link set lo up
    WORK=$(mktemp -d "$PWD/target/bench/work.XXXXXX")
    trap clean_up EXIT
    mkdir -p "$WORK/home" "$WORK/registry"
    export HOME=$WORK/home
    unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY SOURCE_DATE_EPOCH

    describe_machine
    make_images "$WORK/images" "$VERSIONS" 1000000 300000 100000
    start_registry registry 5000
    for ((version = 0; version < VERSIONS; version++)); do
        "$CAPATCH" copy --quiet "oci:$WORK/images:3.9.$version" "$DIRECT/kong:3.9.$version" >/dev/null
    done
    start_proxy 0
    expect
    stop_proxy
    start_proxy "$FAULTS"
    : >"$WORK/errors"
    : >"$WORK/asked-again"
    for ((worker = 0; worker < WORKERS; worker++)); do
        worker $worker $((RUNS / WORKERS)) &
        workers+=($!)
    done
    for worker in "${workers[@]}"; do
        wait "$worker" || fail 'a worker ended before its runs were done'
    done
    stop_proxy
    report
    printf 'asked again for a tag  %d times\n' "$(wc -l <"$WORK/asked-again")"
    [ ! -s "$WORK/errors" ] || { echo 'some errors:'; sort "$WORK/errors" | uniq -c | sort -rn | head -n 12; }

    # What was cut short is done again, as a user would, and nothing may be left over.
    start_proxy 0
    for kind in patch-to-layout copy-to-layout; do
        for ((version = 0; version < VERSIONS; version++)); do
            job $kind "$version" -
            "$CAPATCH" "${COMMAND[@]}" >/dev/null || fail "$TO cannot be finished"
        done
    done
    stop_proxy
    verify_all
    reachable >"$WORK/reachable"
    find "$WORK/layout/blobs" -type f -printf '%f\n' | sort >"$WORK/there"
    missing=$(comm -23 "$WORK/reachable" "$WORK/there" | wc -l)
    stray=$(comm -13 "$WORK/reachable" "$WORK/there" | wc -l)
    wrong=$(grep -c WRONG "$WORK/runs" || true)
    echo "blobs in the layout    $(wc -l <"$WORK/there"), of which $stray belong to nothing; $missing missing"
    find "$WORK/layout" -type f ! -path '*/blobs/*' -printf '  %P %s bytes\n'
    [ "$missing" -eq 0 ] && [ "$stray" -eq 0 ] && [ "$wrong" -eq 0 ] || fail 'a promise is broken'
    echo 'every tag had its old or its new digest'
}

if [ "${1:-}" = inside ]; then
    inside
else
    become_root tests/bench/soak.sh "${NEEDED[*]#*:}"
    prepare
    export CAPATCH RUNS FAULTS SEED
    # A network and processes of our own: no port to clash with, nothing left behind.
    unshare --net --mount --pid --fork --kill-child --mount-proc bash "$PWD/tests/bench/soak.sh" inside
fi
