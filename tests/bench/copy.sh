#!/usr/bin/env bash
# Copies an image of 300 MB (two platforms, an attestation) from one registry to another on loopback, by capatch and by
# crane, regctl and skopeo: cold, and again with everything there already.
# Needs root on Debian or Ubuntu, Go and Rust; installs the rest.
#
#     tests/bench/copy.sh               ROUNDS=5 by default; CAPATCH=PATH measures another binary
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/install.sh
source tests/install.sh
# shellcheck source=tests/bench/common.sh
source tests/bench/common.sh

NEEDED=(docker-registry:docker-registry skopeo:skopeo curl:curl jq:jq ip:iproute2 gcc:build-essential
    /usr/bin/time:time python3:python3)
WAYS=(capatch crane regctl skopeo)
ROUNDS=${ROUNDS:-5}
export LC_ALL=C

prepare() {
    local missing
    mapfile -t missing < <(missing_packages "${NEEDED[@]}")
    [ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
    command -v go >/dev/null || fail "there is no Go to build crane and regctl with"
    install_go_tools crane regctl
    if [ -z "${CAPATCH:-}" ]; then
        cargo build --release --locked
        CAPATCH=$PWD/target/release/capatch
    fi
    mkdir -p target/bench
}

# An OCI layout: layers of incompressible bytes, for two platforms that share half of them, and an attestation.
make_image() {
    python3 - "$1" <<'PYTHON'
import gzip, hashlib, io, json, os, random, sys, tarfile
layout, random = sys.argv[1], random.Random(7)
os.makedirs(f"{layout}/blobs/sha256")
def blob(media_type, data, **more):
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{layout}/blobs/sha256/{digest}", "wb") as file:
        file.write(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **more}
OCI = "application/vnd.oci.image."
def layer(name, size):
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        entry = tarfile.TarInfo(name)
        entry.size = size
        file.addfile(entry, io.BytesIO(random.randbytes(size)))
    diff_id = "sha256:" + hashlib.sha256(tar.getvalue()).hexdigest()
    return blob(OCI + "layer.v1.tar+gzip", gzip.compress(tar.getvalue(), 1, mtime=0)), diff_id
def manifest(config, layers, **more):
    body = {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "config": config, "layers": layers}
    return blob(OCI + "manifest.v1+json", json.dumps(body).encode(), **more)
shared = [layer(f"shared-{i}", 30_000_000) for i in range(3)] + [layer("small", 3_000_000)]
children = []
for architecture in ["amd64", "arm64"]:
    layers = shared + [layer(f"{architecture}-{i}", size) for i, size in enumerate([60_000_000, 40_000_000, 2_000])]
    config = {"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [d for _, d in layers]}}
    config = blob(OCI + "config.v1+json", json.dumps(config).encode())
    platform = {"architecture": architecture, "os": "linux"}
    children.append(manifest(config, [descriptor for descriptor, _ in layers], platform=platform))
statement = blob("application/vnd.in-toto+json", b"{}")
children.append(manifest(blob(OCI + "config.v1+json", b'{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' % (b"0" * 64)), [statement],
    platform={"architecture": "unknown", "os": "unknown"},
    annotations={"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": children[0]["digest"]}))
index = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": children}
index = blob(OCI + "index.v1+json", json.dumps(index).encode(), annotations={"org.opencontainers.image.ref.name": "1"})
with open(f"{layout}/index.json", "w") as file:
    json.dump({"schemaVersion": 2, "manifests": [index]}, file)
with open(f"{layout}/oci-layout", "w") as file:
    file.write('{"imageLayoutVersion":"1.0.0"}')
PYTHON
}

with_capatch() { "$CAPATCH" copy --quiet "$1" "$2"; }
with_crane() { crane copy "$1" "$2"; }
with_regctl() { regctl image copy "$1" "$2"; }
with_skopeo() { skopeo copy --quiet --all --src-tls-verify=false --dest-tls-verify=false "docker://$1" "docker://$2"; }

# measure NAME WAY: one line `NAME microseconds KiB seconds-of-CPU` in the results.
measure() {
    local name=$1 way=$2 start end
    start=${EPOCHREALTIME/./}
    /usr/bin/time --quiet --format "%M %U %S" --output "$WORK/memory" bash -c "with_$way \"\$@\"" bash \
        127.0.0.1:5000/kong:1 127.0.0.1:5001/kong:1 >"$WORK/said" 2>&1 || {
        cat "$WORK/said"
        fail "$name failed"
    }
    end=${EPOCHREALTIME/./}
    printf '%s %d %d %s\n' "$name" $((end - start)) "$(tail -n 1 "$WORK/memory" | cut -d' ' -f1)" \
        "$(awk 'END { print $2 + $3 }' "$WORK/memory")" >>"$WORK/results"
}

run_once() {
    local way=$1 digest
    rm -rf "$WORK/to"
    mkdir "$WORK/to"
    sync
    start_registry to 5001
    measure "$way" "$way"
    digest=$(curl --silent --noproxy '*' --head --header "Accept: application/vnd.oci.image.index.v1+json" \
        http://127.0.0.1:5001/v2/kong/manifests/1 | tr -d '\r' | awk 'tolower($1) == "docker-content-digest:" { print $2 }')
    [ "$digest" = "$DIGEST" ] || fail "$way made $digest of $DIGEST"
    measure "$way-again" "$way"
    stop_registry to
}

report() {
    local way
    printf '%-8s %9s %17s %15s %7s %10s %10s\n' way 'cold s' 'min - max' 'capatch takes' 'CPU s' 'peak MiB' 'again ms'
    for way in "${WAYS[@]}"; do
        awk -v way="$way" -v ours="$(column capatch 2 | median)" -v theirs="$(column "$way" 2 | median)" \
            -v low="$(column "$way" 2 | sort -n | head -n 1)" -v high="$(column "$way" 2 | sort -n | tail -n 1)" \
            -v memory="$(column "$way" 3 | sort -n | tail -n 1)" -v again="$(column "$way-again" 2 | median)" \
            -v cpu="$(column "$way" 4 | median)" 'BEGIN {
                share = way == "capatch" ? "" : sprintf("%.2f of it", ours / theirs)
                printf "%-8s %9.2f %8.2f - %6.2f %15s %7.2f %10.1f %10.0f\n", way, theirs / 1e6, low / 1e6, high / 1e6,
                    share, cpu, memory / 1024, again / 1e3
            }'
    done
}

inside() {
    ip link set lo up
    PATH=$PWD/$TOOLS:$PATH
    WORK=$(mktemp -d "$PWD/target/bench/work.XXXXXX")
    export WORK CAPATCH PATH
    export -f with_capatch with_crane with_regctl with_skopeo
    export HOME=$WORK/home
    mkdir "$HOME"
    trap clean_up EXIT
    unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
    regctl registry set --skip-check --tls disabled 127.0.0.1:5000
    regctl registry set --skip-check --tls disabled 127.0.0.1:5001

    make_image "$WORK/image"
    DIGEST=$(jq -r '.manifests[0].digest' "$WORK/image/index.json")
    mkdir "$WORK/from"
    start_registry from 5000
    skopeo copy --quiet --all --dest-tls-verify=false "oci:$WORK/image:1" docker://127.0.0.1:5000/kong:1
    for ((round = 1; round <= ROUNDS; round++)); do
        for way in "${WAYS[@]}"; do
            run_once "$way"
        done
    done
    describe_machine
    printf 'against  %s, %s, %s, %s\n' "${GO_TOOLS[crane]##*/}" "${GO_TOOLS[regctl]##*/}" "$(skopeo --version)" \
        "$(docker-registry --version | cut -d' ' -f1,3)"
    printf 'rounds   %d, interleaved, each to an empty registry; medians\n\n' "$ROUNDS"
    report
}

if [ "${1:-}" = inside ]; then
    inside
else
    become_root tests/bench/copy.sh "${NEEDED[*]#*:}"
    prepare
    export CAPATCH ROUNDS
    # A network and processes of our own: no port to clash with, nothing left behind.
    unshare --net --mount --pid --fork --kill-child --mount-proc bash "$PWD/tests/bench/copy.sh" inside
fi
