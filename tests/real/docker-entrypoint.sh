#!/usr/bin/env bash
set -Eeo pipefail

# The shape of Kong's own start script: prepare the prefix, then become nginx.
if [[ "$1" == "kong" && "$2" == "docker-start" ]]; then
    PREFIX=${KONG_PREFIX:=/usr/local/kong}
    mkdir -p "$PREFIX/logs"
    ln -sfn /dev/stdout "$PREFIX/logs/access.log"
    ln -sfn /dev/stderr "$PREFIX/logs/error.log"

    exec /usr/local/openresty/nginx/sbin/nginx -p "$PREFIX" -c nginx.conf
fi

exec "$@"
