#!/usr/bin/env bash
# The whole job (take an image from a registry, give its nginx the capability, expose 80 and 443, publish the result
# under a new tag) by capatch and by three other ways, on one image of more than 300 MB and one registry on loopback.
# Needs root on Debian or Ubuntu, Go and Rust; installs the rest.
#
#     tests/bench/compare.sh            ROUNDS=5 by default; CAPATCH=PATH measures another binary
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/install.sh
source tests/install.sh
# shellcheck source=tests/bench/common.sh
source tests/bench/common.sh

NEEDED=(
    mmdebstrap:mmdebstrap gpgv:gpgv /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
    docker-registry:docker-registry skopeo:skopeo umoci:umoci buildah:buildah runc:runc setcap:libcap2-bin
    curl:curl jq:jq ip:iproute2 gcc:build-essential /usr/bin/time:time
)
# Their content is as compressible as that of other images: Go, Java, LLVM, Rust and Chromium.
LARGE=(golang-1.19-go openjdk-17-jre-headless libllvm14 libstd-rust-dev chromium)
NGINX=usr/local/openresty/nginx/sbin/nginx
WAYS=(capatch crane buildah umoci)
ROUNDS=${ROUNDS:-5}
export LC_ALL=C

prepare() {
    local missing sources
    mapfile -t missing < <(missing_packages "${NEEDED[@]}")
    [ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
    command -v go >/dev/null || fail "there is no Go to build crane with"
    install_go_tools crane
    if [ -z "${CAPATCH:-}" ]; then
        cargo build --release --locked
        CAPATCH=$PWD/target/release/capatch
    fi
    sources=$({ cat tests/real/{kong-image.sh,docker-entrypoint.sh,nginx.conf} && echo "${LARGE[*]}"; } | sha256sum)
    IMAGE=$PWD/target/bench/kong-${sources:0:16}
    if [ ! -e "$IMAGE" ]; then
        echo "making the image (about three minutes) ..."
        mkdir -p target/bench
        rm -rf target/bench/unfinished
        tests/real/kong-image.sh target/bench/unfinished "${LARGE[@]}"
        mv target/bench/unfinished "$IMAGE"
    fi
}

# --- the ways; each gets the source, the destination and an empty directory to work in ---

with_capatch() {
    "$CAPATCH" patch "$1" "$2"
}

with_crane() {
    crane export "$1" - |
        tar -x --no-recursion usr usr/local usr/local/openresty usr/local/openresty/nginx \
            usr/local/openresty/nginx/sbin "$NGINX"
    setcap cap_net_bind_service=+ep "$NGINX"
    tar -c --xattrs --xattrs-include=security.capability --numeric-owner -f layer.tar usr
    crane append --base "$1" --new_layer layer.tar --new_tag "$2"
    # These ports replace those of the image.
    crane mutate "$2" --exposed-ports 80/tcp,443/tcp,8000/tcp,8001/tcp,8443/tcp,8444/tcp --tag "$2"
}

with_buildah() {
    local container root
    container=$(buildah from --tls-verify=false "$1")
    root=$(buildah mount "$container")
    setcap cap_net_bind_service=+ep "$root/$NGINX"
    buildah config --port 80/tcp --port 443/tcp "$container"
    buildah commit --quiet --format docker "$container" patched
    buildah push --quiet --tls-verify=false --format docker patched "docker://$2"
}

with_umoci() {
    skopeo copy --quiet --src-tls-verify=false "docker://$1" oci:layout:base
    umoci unpack --image layout:base bundle
    setcap cap_net_bind_service=+ep "bundle/rootfs/$NGINX"
    umoci repack --image layout:patched bundle
    umoci config --image layout:patched --config.exposedports 80/tcp --config.exposedports 443/tcp
    skopeo copy --quiet --dest-tls-verify=false oci:layout:patched "docker://$2"
}

# --- one run ---

# measure NAME COMMAND…: one line `NAME microseconds KiB bytes` in the results.
measure() {
    local name=$1 start end bytes
    shift
    bytes=$(received)
    start=$(now_us)
    (cd "$WORK/run" && /usr/bin/time --quiet --format %M --output "$WORK/memory" "$@") >"$WORK/said" 2>&1 || {
        cat "$WORK/said"
        fail "$name failed"
    }
    end=$(now_us)
    printf '%s %d %d %d\n' "$name" $((end - start)) "$(tail -n 1 "$WORK/memory")" $(($(received) - bytes)) \
        >>"$WORK/results"
}

# Whoever made it: the last layer holds nginx with the capability, and the config has the ports.
check() {
    local manifest config
    manifest=$(crane manifest "$1")
    config=$(crane config "$1")
    jq -e '.config.ExposedPorts | has("80/tcp") and has("443/tcp") and has("8000/tcp")' <<<"$config" >/dev/null ||
        fail "$1: the ports are missing"
    crane blob "${1%:*}@$(jq -r '.layers[-1].digest' <<<"$manifest")" | gzip -dc >"$WORK/layer"
    tar -tf "$WORK/layer" | grep -qxE "(\./)?$NGINX" || fail "$1: nginx is not in the last layer"
    grep -qa 'SCHILY.xattr.security.capability' "$WORK/layer" || fail "$1: the capability is missing"
}

# From the same clean state every time: a registry that has the source and nothing else, no caches of the tools.
run_once() {
    local way=$1 round=$2 destination=127.0.0.1:5000/kong:3.9-$1-$2
    rm -rf "$WORK/storage" "$WORK/run" "${WORK:?}/containers"/*
    mkdir "$WORK/run"
    # A blob is written to a new file, never changed in place.
    cp -al "$WORK/seed" "$WORK/storage"
    sync
    start_registry storage 5000
    measure "$way" bash -c "set -euo pipefail; with_$way \"\$@\"" bash 127.0.0.1:5000/kong:3.9 "$destination"
    check "$destination"
    if [ "$way" = capatch ]; then
        measure repeat "$CAPATCH" patch 127.0.0.1:5000/kong:3.9 "$destination"
        grep -q unchanged "$WORK/said" || fail "the repeat did not say that it changed nothing: $(cat "$WORK/said")"
    fi
    if [ "$way" = buildah ]; then
        buildah rm --all >/dev/null
    fi
    stop_registry storage
    awk -v way="$way" -v round="$round" \
        '$1 == way { line = sprintf("round %d  %-8s %7.2f s", round, way, $2 / 1e6) } END { print line }' "$WORK/results"
}

# --- all of them ---

describe() {
    describe_machine
    printf 'against  %s, %s, %s, %s, %s\n' "${GO_TOOLS[crane]##*/}" "$(buildah --version | cut -d' ' -f1-3)" \
        "$(umoci --version)" "$(skopeo --version)" "$(docker-registry --version | cut -d' ' -f1,3)"
    jq -r '"image    \(.layers | map(.size) | add / 1e6 | floor) MB compressed, in layers of \(
        .layers | map("\(.size / 1e6 * 10 | round / 10)") | join(", ")) MB; nginx is in the second"' \
        "$IMAGE/manifest.json"
    printf 'rounds   %d, interleaved, each from a registry that has only the source; medians\n\n' "$ROUNDS"
}

report() {
    local way ours theirs
    ours=$(column capatch 2 | median)
    printf '%-10s %9s %17s %15s %10s %10s\n' way seconds 'min - max' 'capatch takes' 'peak MiB' 'moved MB'
    for way in "${WAYS[@]}" repeat; do
        theirs=$(column "$way" 2 | median)
        awk -v way="$way" -v ours="$ours" -v theirs="$theirs" -v low="$(column "$way" 2 | sort -n | head -n 1)" \
            -v high="$(column "$way" 2 | sort -n | tail -n 1)" -v memory="$(column "$way" 3 | sort -n | tail -n 1)" \
            -v bytes="$(column "$way" 4 | median)" 'BEGIN {
                share = way == "capatch" || way == "repeat" ? "" : sprintf("%.3f of it", ours / theirs)
                printf "%-10s %9.3f %8.3f - %6.3f %15s %10.1f %10.2f\n", way, theirs / 1e6, low / 1e6, high / 1e6,
                    share, memory / 1024, bytes / 1e6
            }'
    done
    awk -v ours="$ours" -v repeat="$(column repeat 2 | median)" \
        'BEGIN { printf "\nthe repeat, which changes nothing, takes %.1f %% of the first run\n", 100 * repeat / ours }'
    echo 'peak: the largest single process of the way, over all rounds; moved: bytes over loopback, both directions'
}

clean_up_engines() {
    buildah rm --all >/dev/null 2>&1 || true
    clean_up
}

inside() {
    ip link set lo up
    PATH=$PWD/$TOOLS:$PATH
    WORK=$(mktemp -d "$PWD/target/bench/work.XXXXXX")
    trap clean_up_engines EXIT
    # The store and the blob cache of buildah and skopeo have no other place that both of them respect.
    mkdir -p "$WORK/containers" /var/lib/containers
    mount --bind "$WORK/containers" /var/lib/containers
    export WORK CAPATCH NGINX PATH
    export BUILDAH_ISOLATION=chroot STORAGE_DRIVER="${STORAGE_DRIVER:-overlay}"
    export -f with_capatch with_crane with_buildah with_umoci
    unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY SOURCE_DATE_EPOCH

    describe
    mkdir "$WORK/seed"
    start_registry seed 5000
    skopeo copy --quiet --dest-tls-verify=false "dir:$IMAGE" docker://127.0.0.1:5000/kong:3.9
    stop_registry seed

    for ((round = 1; round <= ROUNDS; round++)); do
        for way in "${WAYS[@]}"; do
            run_once "$way" "$round"
        done
    done
    echo
    report
}

if [ "${1:-}" = inside ]; then
    inside
else
    become_root tests/bench/compare.sh "${NEEDED[*]#*:}"
    prepare
    export CAPATCH IMAGE ROUNDS
    # Networks, mounts and processes of our own: no port to clash with, exact counters, nothing left behind.
    unshare --net --mount --pid --fork --kill-child --mount-proc bash "$PWD/tests/bench/compare.sh" inside
fi
