# shellcheck shell=bash
# What the benchmarks share. Sourced from the top of the repository, after tests/install.sh; $WORK is a directory of the run.

# start_registry NAME PORT: one whose files are in $WORK/NAME.
start_registry() {
    local i
    printf '%s\n' 'version: 0.1' 'log: {level: warn}' "storage: {filesystem: {rootdirectory: $WORK/$1}}" \
        "http: {addr: '127.0.0.1:$2'}" >"$WORK/$1.yml"
    # The ports are free: the network is our own.
    docker-registry serve "$WORK/$1.yml" >"$WORK/$1.log" 2>&1 &
    echo $! >"$WORK/$1.pid"
    for ((i = 0; i < 200; i++)); do
        ! curl --silent --fail --noproxy '*' --output /dev/null "http://127.0.0.1:$2/v2/" || return 0
        sleep 0.05
    done
    fail "docker-registry does not answer: $(cat "$WORK/$1.log")"
}

stop_registry() {
    kill "$(cat "$WORK/$1.pid")"
    wait "$(cat "$WORK/$1.pid")" 2>/dev/null || true
}

# make_images LAYOUT TAGS BYTES BYTES BYTES: an OCI layout with versions of one image, tagged 3.9.0 and so on. They share
# two layers of so many bytes, and one with a program where Kong's nginx is; each has a config and a layer to itself.
make_images() {
    python3 - "$@" <<'PYTHON'
import gzip, hashlib, io, json, os, random, sys, tarfile
layout, (tags, base, more, own), random = sys.argv[1], map(int, sys.argv[2:]), random.Random(7)
os.makedirs(f"{layout}/blobs/sha256")
OCI = "application/vnd.oci.image."
def blob(media_type, data, **more):
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{layout}/blobs/sha256/{digest}", "wb") as file:
        file.write(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **more}
def layer(name, data):
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(data), 0o755
        file.addfile(entry, io.BytesIO(data))
    diff_id = "sha256:" + hashlib.sha256(tar.getvalue()).hexdigest()
    return blob(OCI + "layer.v1.tar+gzip", gzip.compress(tar.getvalue(), 1, mtime=0)), diff_id
with open(sys.executable, "rb") as program:
    nginx = layer("usr/local/openresty/nginx/sbin/nginx", program.read())
shared = [layer("base", random.randbytes(base)), nginx, layer("more", random.randbytes(more))]
entries = []
for number in range(tags):
    layers = shared + [layer("version", random.randbytes(own))]
    config = {"architecture": "amd64", "os": "linux", "config": {"Env": [f"KONG_VERSION=3.9.{number}"]},
              "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]}}
    manifest = {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
                "config": blob(OCI + "config.v1+json", json.dumps(config).encode()),
                "layers": [descriptor for descriptor, _ in layers]}
    name = {"org.opencontainers.image.ref.name": f"3.9.{number}"}
    entries.append(blob(OCI + "manifest.v1+json", json.dumps(manifest).encode(), annotations=name))
with open(f"{layout}/index.json", "w") as file:
    json.dump({"schemaVersion": 2, "manifests": entries}, file)
with open(f"{layout}/oci-layout", "w") as file:
    file.write('{"imageLayoutVersion":"1.0.0"}')
PYTHON
}

# Bytes over loopback so far.
received() {
    awk '$1 == "lo:" { print $2 }' /proc/net/dev
}

now_us() {
    echo "${EPOCHREALTIME/./}"
}

median() {
    sort -n | awk '{ a[NR] = $1 } END { print NR % 2 ? a[(NR + 1) / 2] : (a[NR / 2] + a[NR / 2 + 1]) / 2 }'
}

# column NAME NUMBER: of the lines that are about NAME in the results.
column() {
    awk -v name="$1" -v column="$2" '$1 == name { print $column }' "$WORK/results"
}

describe_machine() {
    local model
    model=$(awk -F': *' '/^model name/ { print $2; exit }' /proc/cpuinfo)
    printf 'machine  %s, %d cores, %.0f GiB, Linux %s, %s\n' "${model:-$(uname -m)}" "$(nproc)" \
        "$(awk '/^MemTotal/ { print $2 / 1048576 }' /proc/meminfo)" "$(uname -r)" \
        "$(. /etc/os-release && echo "$PRETTY_NAME")"
}

clean_up() {
    cat "$WORK"/*.pid 2>/dev/null | xargs -r kill 2>/dev/null || true
    rm -rf "$WORK"
}
