#!/bin/sh
set -e

# The shape of the start script of Kong 1.0.4 to 2.0.0, whose images have no user: it changes to kong by itself, and puts
# another capability on nginx on the way.
export KONG_NGINX_DAEMON=off

has_transparent() {
    echo "$1" | grep -E "[^\s,]+\s+transparent\b" >/dev/null
}

if [ "$1" = "kong" ]; then
    PREFIX=${KONG_PREFIX:=/usr/local/kong}
    if [ "$2" = "docker-start" ]; then
        shift 2
        kong prepare -p "$PREFIX" "$@"
        ln -sfn /dev/stdout "$PREFIX/logs/access.log"
        ln -sfn /dev/stderr "$PREFIX/logs/error.log"
        chmod o+w /proc/self/fd/1 || true
        chmod o+w /proc/self/fd/2 || true

        if [ "$(id -u)" != "0" ]; then
            exec /usr/local/openresty/nginx/sbin/nginx \
                -p "$PREFIX" \
                -c nginx.conf
        else
            if [ ! -z ${SET_CAP_NET_RAW} ] \
                || has_transparent "$KONG_STREAM_LISTEN" \
                || has_transparent "$KONG_PROXY_LISTEN" \
                || has_transparent "$KONG_ADMIN_LISTEN"; then
                setcap cap_net_raw=+ep /usr/local/openresty/nginx/sbin/nginx
            fi
            chown -R kong:0 /usr/local/kong
            exec su-exec kong /usr/local/openresty/nginx/sbin/nginx \
                -p "$PREFIX" \
                -c nginx.conf
        fi
    fi
fi

exec "$@"
