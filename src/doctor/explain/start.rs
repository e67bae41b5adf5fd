//! Errors about images, and about programs that do not start or do not work.

use super::Entry;

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: "setcap-without-privilege",
        pattern: r"unable to set CAP_SETFCAP effective capability",
        seen: &["unable to set CAP_SETFCAP effective capability: Operation not permitted"],
        what: "A start script calls setcap, and the container may not: it is not root there, or lacks SETFCAP.",
        why: "Setting a file capability takes CAP_SETFCAP, which setcap can raise only if it runs as root with SETFCAP left in the container.",
        fix: &[
            "Take setcap out of the start script, and put the capability into the image once:",
            "capatch patch IMAGE NEW-IMAGE",
        ],
        foretold: Some("capatch doctor IMAGE"),
        see: "setcap(8); capabilities(7), CAP_SETFCAP",
    },
    Entry {
        code: "setcap-read-only",
        pattern: r"failed to set capabilities on file.*read-only file system",
        seen: &["Failed to set capabilities on file '/usr/local/openresty/nginx/sbin/nginx' (Read-only file system)"],
        what: "A start script calls setcap, and the root file system cannot be written; with set -e the container ends here.",
        why: "readOnlyRootFilesystem: true leaves no place to write the attribute to. Kong's images before 2.0 call setcap when they are \
              started as root with SET_CAP_NET_RAW or a transparent listener.",
        fix: &[
            "Start it as its own user, so that the script calls no setcap, with the capability in the image:",
            "capatch patch IMAGE NEW-IMAGE",
            "securityContext: {runAsUser: 1337}      (the uid of kong in Kong's images of that time)",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE"),
        see: "setcap(8)",
    },
    Entry {
        code: "root-without-chown",
        pattern: r"(chown|setgid|initgroups|setuid)\([^)]*\) failed \(1: operation not permitted\)",
        seen: &[
            "nginx: [emerg] chown(\"/usr/local/kong/client_body_temp\", 1000) failed (1: Operation not permitted)",
            "[emerg] 8#0: setgid(101) failed (1: Operation not permitted)",
        ],
        what: "nginx was started as root, and lacks a capability that root needs for it: it ends before it serves.",
        why: "As root nginx gives its directories to the user of its workers (CHOWN) and starts the workers as that user (SETGID, SETUID). \
              With drop: [ALL] root has none of these, whatever NET_BIND_SERVICE is added.",
        fix: &[
            "Start it as its own user, with the capability in the image:",
            "capatch patch IMAGE NEW-IMAGE",
            "securityContext: {runAsUser: 1000, runAsNonRoot: true}",
            "or leave root what it needs: capabilities: {drop: [ALL], add: [NET_BIND_SERVICE, CHOWN, SETGID, SETUID]}",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE"),
        see: "capabilities(7), CAP_CHOWN, CAP_SETGID and CAP_SETUID",
    },
    Entry {
        code: "chown-refused",
        pattern: r"chown: .*(read-only file system|operation not permitted)",
        seen: &[
            "chown: changing ownership of '/usr/local/kong/logs': Read-only file system",
            "chown: /usr/local/kong: Operation not permitted",
        ],
        what: "A start script calls chown, and the container may not: its root file system cannot be written, or it has no CHOWN.",
        why: "Kong's images before 2.0 that are started as root give /usr/local/kong to kong first; with set -e the container ends there.",
        fix: &[
            "Start it as its own user, so that the script calls no chown, with the capability in the image:",
            "capatch patch IMAGE NEW-IMAGE",
            "securityContext: {runAsUser: 1337}      (the uid of kong in Kong's images of that time)",
            "and mount an emptyDir on what it writes to, such as /usr/local/kong.",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE"),
        see: "chown(1); capabilities(7), CAP_CHOWN",
    },
    Entry {
        code: "setcap-unsupported",
        pattern: r"failed to set capabilities on file",
        seen: &[
            "Failed to set capabilities on file '/bin/vault' (Not supported)",
            "Failed to set capabilities on file `/usr/sbin/ntpd' (Invalid argument)",
        ],
        what: "setcap could not write the capability: the storage keeps none, or the file is none that may have one.",
        why: "aufs, vfs of old Docker versions, NFS and kernels without security labels keep no security.capability; links and scripts \
              should not have one.",
        fix: &[
            "capatch patch IMAGE NEW-IMAGE      (needs no setcap; the node has to be able to keep it all the same: overlayfs on ext4 or xfs can)",
        ],
        foretold: None,
        see: "https://github.com/hashicorp/docker-vault/issues/19",
    },
    Entry {
        code: "setcap-link",
        pattern: r"invalid file '.*' for capability operation",
        seen: &["Invalid file '/usr/local/bin/nginx' for capability operation"],
        what: "setcap was given a symbolic link, a directory or nothing at all, and refuses it.",
        why: "File capabilities are on regular files alone; in Kong's images /usr/local/bin/nginx is a link.",
        fix: &[
            "setcap cap_net_bind_service=+ep \"$(readlink -f /usr/local/bin/nginx)\"",
            "or put it into the image once: capatch patch IMAGE NEW-IMAGE",
        ],
        foretold: Some("capatch doctor IMAGE"),
        see: "cap_set_file(3)",
    },
    Entry {
        code: "layer-xattr-unsupported",
        pattern: r"l?setxattr.*(operation not supported|not supported)|failed to register layer: .*xattr",
        seen: &[
            "failed to register layer: lsetxattr security.capability /usr/bin/caddy: operation not supported",
            "failed to register layer: lsetxattr /usr/bin/newgidmap: xattr \"security.capability\": operation not supported",
        ],
        what: "The image cannot be pulled here: the storage of this host cannot keep file capabilities.",
        why: "Docker from 25 on ends the pull where the file system has no extended attributes (NFS, tmpfs of old kernels, OpenWrt, vfs); \
              containerd, CRI-O and podman warn, and the capability is lost.",
        fix: &[
            "Put the data of the engine on ext4 or xfs with overlay2:",
            "docker info --format '{{.Driver}}'",
            "or use the unpatched image there, with ports from 1024 on.",
        ],
        foretold: None,
        see: "https://github.com/moby/moby/issues/45464",
    },
    Entry {
        code: "layer-xattr-invalid",
        pattern: r"l?setxattr.*invalid argument",
        seen: &[
            "failed to extract layer sha256:0d03: failed to setxattr /usr/bin/x security.capability: invalid argument",
        ],
        what: "The image cannot be unpacked: the kernel takes a capability in it for malformed.",
        why: "The value has a wrong length or version, or is of revision 3 for a root that this user namespace does not have.",
        fix: &[
            "capatch getcap IMAGE      (names the file)",
            "Have the layer that brings it built anew: one more layer on top does not help, since each of them is unpacked.",
        ],
        foretold: Some("capatch getcap IMAGE, capatch verify IMAGE"),
        see: "capabilities(7), File capability extended attribute versioning",
    },
    Entry {
        code: "log-denied",
        pattern: r#"open\(\) \\?"(/dev/(stdout|stderr)|/proc/self/fd/[12])\\?" failed \(13|/proc/self/fd/[12]'?: permission denied"#,
        seen: &[
            "nginx: [emerg] open() \"/dev/stderr\" failed (13: Permission denied)",
            "2019/07/17 [emerg] 1#0: open() \"/proc/self/fd/1\" failed (13: Permission denied)",
            "chmod: /proc/self/fd/1: Permission denied",
        ],
        what: "nginx may not open its own standard output again: it belongs to another user.",
        why: "The container starts as root and becomes another user on the way (su-exec), and its output is a pipe or terminal of root's. \
              Old Docker versions keep even the right user from it. The file capability is not the reason.",
        fix: &[
            "Start it as that user from the beginning:",
            "securityContext: {runAsUser: 1000}      (docker run --user kong)",
            "or renew Docker, which gives the pipes to the user of the container.",
        ],
        foretold: None,
        see: "https://github.com/moby/moby/issues/31243",
    },
    Entry {
        code: "exec-refused",
        pattern: r#"(?-u:\b)exec(ve)?(?-u:\b):? [^:]*[/`"'][^:]*: (permission denied: )?operation not permitted|exec failed.*operation not permitted|/s?bin/[\w.+-]+[`"']?: (\d+: )?operation not permitted|(dumb-init\]|tini[^:]*:|su-exec:|line \d+:) .*/[\w./+-]+: operation not permitted|OCI runtime \w+ failed.*unable to start container process: exec.*operation not permitted|spawn \S+ EPERM"#,
        seen: &[
            "exec /docker-entrypoint.sh: operation not permitted",
            "/docker-entrypoint.sh: line 49: /usr/local/openresty/nginx/sbin/nginx: Operation not permitted",
            "OCI runtime create failed: runc create failed: unable to start container process: exec: \"/coredns\": operation not permitted: unknown",
            "{\"msg\":\"exec container process `/usr/bin/caddy`: Operation not permitted\",\"level\":\"error\"}",
            "[dumb-init] /nginx-ingress-controller: Operation not permitted",
        ],
        what: "The kernel does not start the program, for root neither: it carries a capability that this container dropped.",
        why: "A file with an effective capability (+ep) that is not in the bounding set is refused by execve(2), whatever port is asked \
              for; kong version, health checks, init containers and hooks execute the same program.",
        fix: &[
            "In every container of the pod that uses the image, init containers too:",
            "securityContext:",
            "  allowPrivilegeEscalation: true",
            "  capabilities: {add: [NET_BIND_SERVICE]}      # drop: [ALL] may stay",
            "Docker: --cap-add NET_BIND_SERVICE. Containers that need no low port can have the image without it:",
            "capatch patch IMAGE NEW-IMAGE --remove-caps",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE: bounding-set, for every container, init container and hook"),
        see: "capabilities(7), Safety checking for capability-dumb binaries",
    },
    Entry {
        code: "mode-not-executable",
        pattern: r#"exec: \\?"[^"]*": permission denied|exec /\S+: permission denied"#,
        seen: &["exec: \"/docker-entrypoint.sh\": permission denied", "exec /docker-entrypoint.sh: permission denied"],
        what: "The runtime does not start it: the file is there and is not executable for the user of the container.",
        why: "Its mode has no execute bit for that user, as after a checkout on Windows or a COPY of a file with mode 0644.",
        fix: &["COPY --chmod=755 docker-entrypoint.sh /      (in the Dockerfile of the image)"],
        foretold: Some("capatch doctor IMAGE"),
        see: "execve(2), EACCES",
    },
    Entry {
        code: "script-not-readable",
        pattern: r"cannot open /\S+: permission denied|can't open '/[^']+': permission denied|(?-u:\b)sh: /\S+: permission denied|(?-u:\b)bash: /\S+: permission denied",
        seen: &[
            "sh: 0: cannot open /docker-entrypoint.sh: Permission denied",
            "/bin/sh: can't open '/docker-entrypoint.sh': Permission denied",
            "/bin/bash: /docker-entrypoint.sh: Permission denied",
        ],
        what: "The shell is executed, and may not read the script: the user of the container may execute the file at most.",
        why: "The kernel executes the interpreter of a script, and that opens the file as any user does; a mode like 0711 or 0700 is \
              not enough for others than the owner.",
        fix: &["COPY --chmod=755 docker-entrypoint.sh /      (in the Dockerfile of the image)"],
        foretold: Some("capatch doctor IMAGE: not-executable"),
        see: "execve(2), Interpreter scripts; path_resolution(7), Permissions",
    },
    Entry {
        code: "program-missing",
        pattern: r#"executable file not found in \\?\$PATH|exec: \\?"[^"]+": stat [^:]+: no such file or directory"#,
        seen: &[
            "exec: \"kong\": executable file not found in $PATH",
            "exec: \"/docker-entrypoint.sh\": stat /docker-entrypoint.sh: no such file or directory",
        ],
        what: "The runtime does not start it: the image has no such program.",
        why: "command and args of a manifest, ENTRYPOINT and CMD of an image name a program by its path, or by its name on PATH.",
        fix: &["capatch inspect IMAGE      (shows the start command and the PATH)"],
        foretold: Some("capatch doctor IMAGE -f FILE: not-executable"),
        see: "execve(2), ENOENT",
    },
    Entry {
        code: "other-platform",
        pattern: r"exec format error",
        seen: &["exec /docker-entrypoint.sh: exec format error"],
        what: "The program is for another architecture than this node, or a script without its first line.",
        why: "An image for one platform was pulled on another.",
        fix: &[
            "capatch inspect IMAGE      (lists the platforms)",
            "capatch patch SOURCE DESTINATION      (without --platform: patches all of them)",
        ],
        foretold: Some("capatch inspect IMAGE"),
        see: "execve(2), ENOEXEC",
    },
    Entry {
        code: "listen-grammar",
        pattern: r"\w+_listen must be of form: ",
        seen: &[
            "Error: proxy_listen must be of form: [off] | <ip>:<port> [ssl] [http2] [proxy_protocol] [deferred] [bind] [reuseport] [backlog=%d+], [... next entry ...]",
        ],
        what: "Kong does not start: this version does not understand the listen value.",
        why: "A listener is HOST:PORT with flags after it; which flags there are depends on the version: backlog since 2.0, transparent \
              until 1.5, ipv6only and so_keepalive since 3.0. There is no port without a host.",
        fix: &[
            "KONG_PROXY_LISTEN=\"0.0.0.0:80, 0.0.0.0:443 ssl\"      (any version)",
            "capatch patch IMAGE NEW-IMAGE --listen      (a value that the version of the image understands)",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE: listen-value"),
        see: "https://docs.konghq.com/gateway/latest/reference/configuration/#proxy_listen",
    },
    Entry {
        code: "variable-and-file",
        pattern: r"both \S+ and \S+_FILE are set \(but are exclusive\)",
        seen: &["error: both KONG_PROXY_LISTEN and KONG_PROXY_LISTEN_FILE are set (but are exclusive)"],
        what: "The start script of the image refuses to choose between a variable and the file that would hold its value.",
        why: "The image has KONG_PROXY_LISTEN baked in (capatch patch --listen, or ENV), and the container sets KONG_PROXY_LISTEN_FILE.",
        fix: &["Patch without --listen, and leave the value to the container:", "capatch patch SOURCE NEW-IMAGE"],
        foretold: Some("capatch doctor IMAGE -f FILE: file-conflict"),
        see: "https://github.com/Kong/docker-kong",
    },
    Entry {
        code: "libraries-not-found",
        pattern: r"error while loading shared libraries|error loading shared library|error relocating \S+: ",
        seen: &[
            "/usr/local/openresty/nginx/sbin/nginx: error while loading shared libraries: libluajit-5.1.so.2: cannot open shared object file: No such file or directory",
        ],
        what: "A program with a capability does not find a library that it found without.",
        why: "The kernel marks it AT_SECURE, and the dynamic linker then ignores LD_LIBRARY_PATH, LD_PRELOAD and $ORIGIN in its RUNPATH. \
              Kong's own nginx has absolute paths.",
        fix: &[
            "Name the directory in the image instead:",
            "glibc: echo DIRECTORY > /etc/ld.so.conf.d/local.conf && ldconfig",
            "musl: add the directory to /etc/ld-musl-ARCHITECTURE.path",
        ],
        foretold: Some("capatch doctor IMAGE: secure-variable, run-path"),
        see: "ld.so(8), Secure-execution mode",
    },
    Entry {
        code: "authorities-not-found",
        pattern: r"unable to get (local )?issuer certificate|certificate verify failed|certificate signed by unknown authority|self[- ]signed certificate in certificate chain|certificate verify error",
        seen: &[
            "SSL certificate problem: unable to get local issuer certificate",
            "lua ssl certificate verify error: (20: unable to get local issuer certificate)",
        ],
        what: "A certificate is not trusted; if it was before the patch, the program does not read its authorities any more.",
        why: "In a program with a capability (AT_SECURE) OpenSSL ignores SSL_CERT_FILE, SSL_CERT_DIR, OPENSSL_CONF and OPENSSL_MODULES.",
        fix: &[
            "Name the file in the configuration instead of the environment:",
            "KONG_LUA_SSL_TRUSTED_CERTIFICATE=system,/PATH/TO/ca.pem",
        ],
        foretold: Some("capatch doctor IMAGE: secure-variable"),
        see: "secure_getenv(3); https://github.com/openssl/openssl/issues/21770",
    },
    Entry {
        code: "user-directive",
        pattern: r#"the \\?"user\\?" directive makes sense only if the master process runs with super-user privileges"#,
        seen: &[
            "nginx: [warn] the \"user\" directive makes sense only if the master process runs with super-user privileges, ignored in /usr/local/kong/nginx.conf:1",
        ],
        what: "This is harmless: nginx was started as an ordinary user, so it cannot become another one.",
        why: "That it does not need root is what the file capability is for.",
        fix: &["Nothing; without the message: KONG_NGINX_USER= (empty), or no user directive."],
        foretold: None,
        see: "https://nginx.org/en/docs/ngx_core_module.html#user",
    },
    Entry {
        code: "rate-limit",
        pattern: r"toomanyrequests|429 too many requests|pull rate limit",
        seen: &["Error response from daemon: toomanyrequests: You have reached your pull rate limit."],
        what: "The registry gives no more images to this account or address for now.",
        why: "Docker Hub counts manifests that are read, by account, or by address without one.",
        fix: &[
            "docker login      (capatch reads the same credentials)",
            "or mirror the image once and pull it from there:",
            "capatch copy kong:3.9 registry.example.com/kong:3.9",
        ],
        foretold: None,
        see: "https://docs.docker.com/docker-hub/usage/",
    },
    Entry {
        code: "no-manifest",
        pattern: r"manifest unknown|MANIFEST_UNKNOWN|manifest for \S+ not found",
        seen: &["Failed to pull image \"registry.example.com/kong:3.9-lowport\": manifest unknown"],
        what: "The registry has the repository, and no image with this tag or digest.",
        why: "The tag was never pushed, is misspelled, or the digest was deleted; after capatch patch --dry-run nothing is there.",
        fix: &[
            "capatch patch SOURCE IMAGE      (publishes it and prints the digest)",
            "capatch inspect IMAGE      (says what is there)",
        ],
        foretold: None,
        see: "https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes",
    },
];
