#!/usr/bin/env bash
set -Eeo pipefail

# The shape of the start script of Kong 2.0.4 and later.
export KONG_NGINX_DAEMON=${KONG_NGINX_DAEMON:=off}
if [[ "$1" == "kong" ]]; then
    PREFIX=${KONG_PREFIX:=/usr/local/kong}
    if [[ "$2" == "docker-start" ]]; then
        kong prepare -p "$PREFIX" "$@"
        ln -sfn /dev/stdout "$PREFIX/logs/access.log"
        ln -sfn /dev/stderr "$PREFIX/logs/error.log"

        exec /usr/local/openresty/nginx/sbin/nginx \
            -p "$PREFIX" \
            -c nginx.conf
    fi
fi

exec "$@"
