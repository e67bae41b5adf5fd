//! Errors about addresses and ports.

use super::Entry;

const NO_CAPABILITY: &str = "Ports below net.ipv4.ip_unprivileged_port_start (1024 on the network of a node) are for processes with \
CAP_NET_BIND_SERVICE in their effective set. Adding NET_BIND_SERVICE to a container only allows it there: a process that is not \
root has it only if the program file carries it, and if privileges may be gained (no allowPrivilegeEscalation: false, no \
no-new-privileges).";

/// What the container has to allow.
const ALLOW: &str = "and in the container that runs it:\nsecurityContext:\n  allowPrivilegeEscalation: true\n  capabilities: {add: [NET_BIND_SERVICE]}      # drop: [ALL] may stay";

const FORETOLD: Option<&str> = Some("capatch doctor IMAGE -f FILE: no-capability, not-effective, no-new-privileges");

const SEE: &str = "capabilities(7), CAP_NET_BIND_SERVICE; ip(7), ip_unprivileged_port_start";

pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: "low-port-denied-nginx",
        pattern: r"bind\(\) to \S*:([1-9]\d{0,2}|10[01]\d|102[0-3]) failed \(13: permission denied\)",
        seen: &[
            "2019/08/17 12:59:06 [emerg] 1#0: bind() to 0.0.0.0:80 failed (13: Permission denied)",
            "nginx: [emerg] bind() to [::]:443 failed (13: Permission denied)",
        ],
        what: "nginx runs as an ordinary user without the capability to have ports below 1024, so it does not start.",
        why: NO_CAPABILITY,
        fix: &[
            "capatch patch IMAGE NEW-IMAGE      (Kong; --profile nginx or ingress-nginx for those)",
            ALLOW,
            "Without hostNetwork the sysctl net.ipv4.ip_unprivileged_port_start=0 of the pod does it with any image.",
        ],
        foretold: FORETOLD,
        see: SEE,
    },
    Entry {
        code: "low-port-denied-coredns",
        pattern: r"listen (tcp|udp)[46]? \S*:53: bind: permission denied",
        seen: &["Listen: listen tcp :53: bind: permission denied"],
        what: "CoreDNS runs as an ordinary user without the capability to have port 53, so it does not start.",
        why: NO_CAPABILITY,
        fix: &["capatch patch IMAGE NEW-IMAGE --profile coredns      (newer images of CoreDNS have it already)", ALLOW],
        foretold: FORETOLD,
        see: SEE,
    },
    Entry {
        code: "low-port-denied-go",
        pattern: r"listen (tcp|udp)[46]? \S*:([1-9]\d{0,2}|10[01]\d|102[0-3]): bind: permission denied",
        seen: &[
            "Error: loading initial config: listening on :443: listen tcp :443: bind: permission denied",
            "command traefik error: error while building entryPoint web: error opening listener: listen tcp :80: bind: permission denied",
        ],
        what: "A program in Go (Caddy, Traefik) runs as an ordinary user without the capability to have ports below 1024.",
        why: NO_CAPABILITY,
        fix: &["capatch patch IMAGE NEW-IMAGE --profile caddy      (or traefik, or none --file PATH)", ALLOW],
        foretold: FORETOLD,
        see: SEE,
    },
    Entry {
        code: "low-port-denied-haproxy",
        pattern: r"cannot bind socket \(permission denied\).*:([1-9]\d{0,2}|10[01]\d|102[0-3])\]",
        seen: &[
            "[ALERT]    (1) : Binding [/usr/local/etc/haproxy/haproxy.cfg:29] for frontend proxy: cannot bind socket (Permission denied) for [0.0.0.0:80]",
            "[ALERT] 018/202025 (1) : Starting frontend http: cannot bind socket (Permission denied) [0.0.0.0:80]",
        ],
        what: "HAProxy runs as an ordinary user (its image does since 2.4) without the capability to have ports below 1024.",
        why: NO_CAPABILITY,
        fix: &["capatch patch IMAGE NEW-IMAGE --profile haproxy", ALLOW],
        foretold: FORETOLD,
        see: "https://github.com/docker-library/haproxy/issues/160",
    },
    Entry {
        code: "low-port-denied-envoy",
        pattern: r"cannot bind '\S*:([1-9]\d{0,2}|10[01]\d|102[0-3])': permission denied",
        seen: &[
            "listener '0.0.0.0_80' failed to bind or apply socket options: cannot bind '0.0.0.0:80': Permission denied",
        ],
        what: "Envoy runs as an ordinary user without the capability to have ports below 1024; it stays up, without this listener.",
        why: NO_CAPABILITY,
        fix: &["capatch patch IMAGE NEW-IMAGE --profile envoy", ALLOW],
        foretold: FORETOLD,
        see: SEE,
    },
    Entry {
        code: "low-port-denied",
        pattern: r"permission denied: .*could not bind to address \S*:([1-9]\d{0,2}|10[01]\d|102[0-3])(?-u:\b)|listen EACCES.*:([1-9]\d{0,2}|10[01]\d|102[0-3])(?-u:\b)",
        seen: &[
            "(13)Permission denied: AH00072: make_sock: could not bind to address 0.0.0.0:80",
            "Error: listen EACCES: permission denied 0.0.0.0:80",
        ],
        what: "The program runs as an ordinary user without the capability to have ports below 1024.",
        why: NO_CAPABILITY,
        fix: &[
            "capatch patch IMAGE NEW-IMAGE --profile none --file /PATH/OF/THE/PROGRAM",
            ALLOW,
            "A script cannot carry it: the interpreter would have to, and every script that it runs would have it.",
        ],
        foretold: FORETOLD,
        see: SEE,
    },
    Entry {
        code: "port-denied",
        pattern: r"bind\(\) to \S+ failed \(13: permission denied\)|bind: permission denied|cannot bind socket \(permission denied\)|cannot bind '\S*': permission denied",
        seen: &[
            "nginx: [emerg] bind() to 0.0.0.0:8000 failed (13: Permission denied)",
            "listen tcp 0.0.0.0:6443: bind: permission denied",
        ],
        what: "The program may not bind this address, and the reason is not that its port is a low one.",
        why: "Ports from 1024 on need no capability unless net.ipv4.ip_unprivileged_port_start was raised. SELinux or AppArmor forbids \
              it, or, for a path of a Unix socket, the directory cannot be written by this user.",
        fix: &[
            "On the node:",
            "sysctl net.ipv4.ip_unprivileged_port_start",
            "ausearch -m AVC -ts recent      (SELinux)",
            "journalctl -k | grep DENIED      (AppArmor)",
        ],
        foretold: None,
        see: "bind(2), EACCES",
    },
    Entry {
        code: "port-in-use",
        pattern: r"bind\(\) to \S+ failed \(98|address already in use|EADDRINUSE",
        seen: &[
            "nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)",
            "listen tcp :443: bind: address already in use",
        ],
        what: "Somebody else has this port in the same network: on the host network, any process of the node.",
        why: "With hostNetwork all pods of a node share its ports: a second replica on it, the new pod of a rolling update that starts \
              beside the old one (maxSurge), an init container that starts Kong on its default ports, or another proxy.",
        fix: &[
            "On the node:",
            "ss -ltnp 'sport = :80'",
            "One pod for each node, and the old one goes first:",
            "kind: DaemonSet",
            "spec:",
            "  updateStrategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}",
            "capatch k8s FILE --image IMAGE writes that.",
        ],
        foretold: Some("capatch doctor IMAGE -f FILE: replicas-share-host-ports, surge-with-host-ports"),
        see: "bind(2), EADDRINUSE",
    },
    Entry {
        code: "address-not-here",
        pattern: r"failed \(99: |cannot assign requested address|EADDRNOTAVAIL",
        seen: &["nginx: [emerg] bind() to 10.0.0.7:80 failed (99: Cannot assign requested address)"],
        what: "The address to listen on is none of this network's.",
        why: "The listen value names the address of another node or of a load balancer, or [::] where IPv6 is switched off.",
        fix: &[
            "KONG_PROXY_LISTEN=\"0.0.0.0:80, 0.0.0.0:443 ssl\"      (without the [::] listeners if the node has no IPv6)",
        ],
        foretold: None,
        see: "bind(2), EADDRNOTAVAIL",
    },
];
