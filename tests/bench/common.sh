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
