# shellcheck shell=bash
# What tests/all.sh and tests/bench/compare.sh need on a Debian or Ubuntu machine. Sourced from the top of the
# repository, it leaves PATH so that everything is found.

declare -A GO_TOOLS=(
    [crane]=github.com/google/go-containerregistry/cmd/crane@v0.20.6
    [regctl]=github.com/regclient/regclient/cmd/regctl@v0.11.5
    [regsync]=github.com/regclient/regclient/cmd/regsync@v0.11.5
    [oras]=oras.land/oras/cmd/oras@v1.3.6
    [containerd]=github.com/containerd/containerd/v2/cmd/containerd@v2.4.2
    [ctr]=github.com/containerd/containerd/v2/cmd/ctr@v2.4.2
    # Programs of ours, of the packages in their go.mod: go-containerregistry, Kubernetes.
    [referrers]=./tests/real/referrers
    [apiserver]=./tests/apiserver
    [containerd-shim-runc-v2]=github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@v2.4.2
)
TOOLS=target/tools/bin
CARGO_DENY=0.20.2

fail() {
    printf '%s: %s\n' "$0" "$*" >&2
    exit 1
}

# become_root SCRIPT PACKAGES: as somebody else, the script starts again through sudo.
become_root() {
    local script=$1 packages=$2
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null ||
            fail "running containers needs root, and there is no sudo. As root: apt-get install $packages"
        # The toolchains are the user's own.
        exec sudo env "PATH=$PATH" "HOME=$HOME" ${CARGO_HOME:+"CARGO_HOME=$CARGO_HOME"} \
            ${RUSTUP_HOME:+"RUSTUP_HOME=$RUSTUP_HOME"} ${ROUNDS:+"ROUNDS=$ROUNDS"} \
            ${CAPATCH:+"CAPATCH=$CAPATCH"} bash "$script"
    fi
    # What cargo writes has to belong to whoever runs cargo next.
    [ -z "${SUDO_UID:-}" ] || trap 'chown -R "$SUDO_UID:" target' EXIT
    PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin:${CARGO_HOME:-$HOME/.cargo}/bin
}

# missing_packages WHAT:PACKAGE…: the packages whose program, or file, is not there.
missing_packages() {
    local need
    for need in "$@"; do
        case $need in
        /*) [ -e "${need%%:*}" ] || printf '%s\n' "${need#*:}" ;;
        *) command -v "${need%%:*}" >/dev/null || printf '%s\n' "${need#*:}" ;;
        esac
    done | sort -u
}

install_packages() (
    command -v apt-get >/dev/null || fail "there is no apt-get here; please install $*"
    # Some of the packages want to start a registry or a containerd; the tests start their own.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
    fi
    apt-get -q update &&
        DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@"
)

# install_go_tools NAME…: from the Go module proxy, each in the version that is written here.
install_go_tools() {
    local name
    for name in "$@"; do
        go_tools_are_there "$name" && continue
        case ${GO_TOOLS[$name]} in
        ./*) (GOBIN="$PWD/$TOOLS" && export GOBIN && cd "${GO_TOOLS[$name]}" && GOFLAGS='' go install .) ;;
        *) GOBIN="$PWD/$TOOLS" GOFLAGS='' go install "${GO_TOOLS[$name]}" ;;
        esac
        touch "$(go_tool_mark "$name")"
    done
}

# Which version of a tool is there; of our own, which source.
go_tool_mark() {
    local from=${GO_TOOLS[$1]} version
    case $from in
    ./*) version=$(cat "$from"/* | cksum) ;;
    *) version=$(cksum <<<"$from") ;;
    esac
    echo "$TOOLS/.$1-${version%% *}"
}

go_tools_are_there() {
    local name
    for name in "$@"; do
        [ -e "$(go_tool_mark "$name")" ] || return 1
    done
}
