#!/usr/bin/env bash
# Makes an image laid out as the Kong images of Docker Hub are, with Debian's real nginx in the place of Kong's, in
# skopeo's `dir:` form: docker media types, three gzip layers, a health check, an unprivileged user.
#
#     tests/real/kong-image.sh DIR [PACKAGE…]
#
# The files of the Debian packages named are unpacked into the layer that holds nginx, to give it a real size.
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: $0 DIR [PACKAGE…]" >&2
    exit 2
fi
out=$1
shift
here=$(cd "$(dirname "$0")" && pwd)

export LC_ALL=C SOURCE_DATE_EPOCH=1735689600
created=2025-01-01T00:00:00Z
version=3.9.0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
mkdir "$work/debs"

# --- the base layer: a small Debian with nginx's libraries, the user, and no nginx ---

# shellcheck disable=SC2016  # mmdebstrap expands $1
hooks=(
    --customize-hook='chroot "$1" useradd --uid 1000 --user-group --no-create-home --shell /bin/sh kong'
    --customize-hook="copy-out /usr/sbin/nginx '$work'"
    --customize-hook='rm "$1/usr/sbin/nginx"'
)
if [ $# -gt 0 ]; then
    # shellcheck disable=SC2016
    hooks+=(
        --customize-hook="chroot \"\$1\" sh -c 'mkdir /tmp/debs && chown _apt /tmp/debs && cd /tmp/debs && apt-get -qq download $*'"
        --customize-hook="sync-out /tmp/debs '$work/debs'"
        --customize-hook='rm -r "$1/tmp/debs"'
    )
fi
mmdebstrap --quiet --mode=root --variant=minbase --skip=output/dev --include=nginx-light,libcap2-bin \
    --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    "${hooks[@]}" bookworm "$work/base.tar" >&2

# --- the layer of Kong: parents belong to uid 1000 and its group may write, as Kong's packages leave them ---

tree=$work/kong
mkdir -p "$tree"/usr/local/{bin,kong,openresty/nginx/{sbin,conf}} "$tree/etc/kong"
mv "$work/nginx" "$tree/usr/local/openresty/nginx/sbin/nginx"
ln -s /usr/local/openresty/nginx/sbin/nginx "$tree/usr/local/bin/nginx"
install -m 0755 "$here/docker-entrypoint.sh" "$tree/docker-entrypoint.sh"
install -m 0644 "$here/nginx.conf" "$tree/usr/local/kong/nginx.conf"
echo 'nginx_user = kong kong' >"$tree/etc/kong/kong.conf.default"
for deb in "$work"/debs/*.deb; do
    [ -e "$deb" ] || continue
    name=$(basename "$deb")
    mkdir -p "$tree/usr/local/openresty/site/${name%%_*}"
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$tree/usr/local/openresty/site/${name%%_*}"
    rm "$deb"
done
chown -R 1000:1000 "$tree/usr/local/openresty"
chown -R 1000:0 "$tree/usr/local/kong"
find "$tree/usr/local/openresty" "$tree/usr/local/kong" ! -type l -exec chmod g=u {} +

# --- a small layer on top, which deletes a file of the base ---

mkdir -p "$work/top/etc/kong"
echo 'proxy_listen = 0.0.0.0:80' >"$work/top/etc/kong/kong.conf"
touch "$work/top/etc/.wh.motd"

# --- blobs, config, manifest ---

pack() {
    (cd "$1" && tar --create --sort=name --mtime="@$SOURCE_DATE_EPOCH" --numeric-owner --format=posix \
        --pax-option='exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime' -- *)
}

mkdir -p "$out"
printf 'Directory Transport Version: 1.1\n' >"$out/version"
layers=()
diff_ids=()
add_layer() {
    local diff_id digest
    gzip --no-name --stdout "$1" >"$work/blob"
    diff_id=$(sha256sum <"$1" | cut -d' ' -f1)
    digest=$(sha256sum <"$work/blob" | cut -d' ' -f1)
    layers+=("$(jq -nc --arg d "sha256:$digest" --argjson s "$(stat -c %s "$work/blob")" \
        '{mediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip", size: $s, digest: $d}')")
    diff_ids+=("sha256:$diff_id")
    mv "$work/blob" "$out/$digest"
    rm "$1"
}
pack "$work/kong" >"$work/kong.tar"
pack "$work/top" >"$work/top.tar"
add_layer "$work/base.tar"
add_layer "$work/kong.tar"
add_layer "$work/top.tar"

# shellcheck disable=SC2016  # the commands in the history are text
jq -nc --arg created "$created" --arg version "$version" --arg arch "$(dpkg --print-architecture)" '{
    architecture: $arch,
    config: {
        Hostname: "", Domainname: "", User: "kong",
        AttachStdin: false, AttachStdout: false, AttachStderr: false,
        ExposedPorts: {"8000/tcp": {}, "8001/tcp": {}, "8443/tcp": {}, "8444/tcp": {}},
        Tty: false, OpenStdin: false, StdinOnce: false,
        Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", ("KONG_VERSION=" + $version), "ASSET=ce"],
        Cmd: ["kong", "docker-start"],
        Healthcheck: {Test: ["CMD", "nginx", "-v"], Interval: 10000000000, Timeout: 10000000000, Retries: 10},
        ArgsEscaped: true, Image: "", Volumes: null, WorkingDir: "",
        Entrypoint: ["/docker-entrypoint.sh"], OnBuild: null, Labels: {maintainer: "nobody"},
        StopSignal: "SIGQUIT", Shell: ["/bin/bash", "-c"]
    },
    container_config: {Hostname: "7b3d2c9f1a40", Cmd: ["/bin/sh", "-c", "#(nop) ", "CMD [\"kong\" \"docker-start\"]"]},
    created: $created,
    docker_version: "20.10.23",
    history: [
        {created: $created, created_by: "/bin/sh -c #(nop) ADD file:base in / "},
        {created: $created, created_by: "/bin/sh -c #(nop)  ENV KONG_VERSION=3.9.0", empty_layer: true},
        {created: $created, created_by: "/bin/sh -c install kong"},
        {created: $created, created_by: "/bin/sh -c #(nop) COPY file:kong.conf in /etc/kong/"},
        {created: $created, created_by: "/bin/sh -c #(nop)  CMD [\"kong\" \"docker-start\"]", empty_layer: true}
    ],
    os: "linux",
    rootfs: {type: "layers", diff_ids: $ARGS.positional}
}' --args "${diff_ids[@]}" | tr -d '\n' >"$work/config"
config=$(sha256sum <"$work/config" | cut -d' ' -f1)
mv "$work/config" "$out/$config"
printf '%s\n' "${layers[@]}" | jq -s --arg d "sha256:$config" --argjson s "$(stat -c %s "$out/$config")" '{
    schemaVersion: 2,
    mediaType: "application/vnd.docker.distribution.manifest.v2+json",
    config: {mediaType: "application/vnd.docker.container.image.v1+json", size: $s, digest: $d},
    layers: .
}' >"$out/manifest.json"
