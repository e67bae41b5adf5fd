//! Ways to run an image, written as people write them: Kubernetes objects, and services of a Compose file.

/// The name of the object, what happens, its kind, and what is in its pod and in its container beside what all have.
///
/// What happens, for each image: `S` serves, `B` may not bind, `E` ends well, `x` fails otherwise. There is more than one letter
/// where it is run more than once: with low ports that are not free and that are, and for each probe.
type Pod = (&'static str, &'static str, &'static str, &'static str, &'static str);

/// Stands for the variable with which Kong has ports 80 and 443.
const LISTEN: &str = "$LISTEN";
const HOST: &str = "hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet,";
const OWN: &str = "";
/// Where the chart lets Kong write.
const EMPTY_DIRS: &str = "volumeMounts: [{name: prefix, mountPath: /kong_prefix}, {name: tmp, mountPath: /tmp}]";
const DIRECT: &str = "command: [/usr/local/openresty/nginx/sbin/nginx, -p, /tmp, -c, /etc/kong/nginx.conf]";

pub(super) const PODS: &[Pod] = &[
    ("default", "BS SS BS BS SS", "Pod", OWN, ""),
    ("host-network", "B S B B S", "DaemonSet", HOST, ""),
    ("drop-all", "B x B x x", "DaemonSet", HOST, "securityContext: {capabilities: {drop: [ALL]}}"),
    ("drop-all-own-network", "BS x BS x x", "Deployment", OWN, "securityContext: {capabilities: {drop: [ALL]}}"),
    ("drop-one", "B x B B x", "DaemonSet", HOST, "securityContext: {capabilities: {drop: [NET_BIND_SERVICE]}}"),
    (
        "drop-all-add",
        "B S B x x",
        "DaemonSet",
        HOST,
        "securityContext: {capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}",
    ),
    ("no-escalation", "B B B B B", "DaemonSet", HOST, "securityContext: {allowPrivilegeEscalation: false}"),
    (
        "no-escalation-own-network",
        "BS BS BS BS BS",
        "Deployment",
        OWN,
        "securityContext: {allowPrivilegeEscalation: false}",
    ),
    (
        "no-escalation-drop-all-add",
        "B B B x x",
        "DaemonSet",
        HOST,
        "securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}",
    ),
    (
        "add-in-pod",
        "B S B B S",
        "DaemonSet",
        "hostNetwork: true, securityContext: {capabilities: {add: [NET_BIND_SERVICE]}},",
        "",
    ),
    ("privileged", "B S B B S", "DaemonSet", HOST, "securityContext: {privileged: true}"),
    ("user-0", "S S S B S", "DaemonSet", HOST, "securityContext: {runAsUser: 0}"),
    ("user-0-drop-all", "x x x x x", "DaemonSet", HOST, "securityContext: {runAsUser: 0, capabilities: {drop: [ALL]}}"),
    (
        "user-0-drop-all-add",
        "x x x x x",
        "DaemonSet",
        HOST,
        "securityContext: {runAsUser: 0, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}",
    ),
    (
        "user-0-no-escalation",
        "S S S B B",
        "StatefulSet",
        HOST,
        "securityContext: {runAsUser: 0, allowPrivilegeEscalation: false}",
    ),
    (
        "user-0-drop-setgid",
        "x x x x x",
        "DaemonSet",
        HOST,
        "securityContext: {runAsUser: 0, capabilities: {drop: [SETGID]}}",
    ),
    (
        "user-0-drop-setuid",
        "x x x x x",
        "DaemonSet",
        HOST,
        "securityContext: {runAsUser: 0, capabilities: {drop: [SETUID]}}",
    ),
    (
        "user-0-drop-chown",
        "x x x x x",
        "DaemonSet",
        HOST,
        "securityContext: {runAsUser: 0, capabilities: {drop: [CHOWN]}}",
    ),
    (
        "user-1000",
        "B S B B S",
        "DaemonSet",
        "hostNetwork: true, securityContext: {runAsUser: 1000, runAsGroup: 1000},",
        "",
    ),
    ("user-of-openshift", "B S B B S", "DaemonSet", HOST, "securityContext: {runAsUser: 1000650000, runAsGroup: 0}"),
    ("direct", "B S B S S", "DaemonSet", HOST, "$DIRECT"),
    (
        "direct-no-escalation",
        "B S B S S",
        "DaemonSet",
        HOST,
        "$DIRECT, securityContext: {allowPrivilegeEscalation: false}",
    ),
    ("direct-drop-all", "B x B x x", "DaemonSet", HOST, "$DIRECT, securityContext: {capabilities: {drop: [ALL]}}"),
    ("shell", "B S B B S", "DaemonSet", HOST, "command: [sh, -c, 'exec /docker-entrypoint.sh kong docker-start']"),
    (
        "ports-from-0",
        "S S S S S",
        "Deployment",
        "securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '0'}]},",
        "",
    ),
    (
        "ports-from-0-drop-all",
        "S x S x x",
        "Deployment",
        "securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '0'}]},",
        "securityContext: {capabilities: {drop: [ALL]}}",
    ),
    (
        "ports-from-443",
        "B S B B S",
        "Pod",
        "securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '443'}]},",
        "",
    ),
    (
        "ports-from-1024",
        "B S B B S",
        "Pod",
        "securityContext: {sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '1024'}]},",
        "",
    ),
    ("high-ports", "S S S S S", "DaemonSet", HOST, "env: []"),
    (
        "high-ports-drop-all",
        "SS x SS x x",
        "Deployment",
        OWN,
        "env: [], securityContext: {capabilities: {drop: [ALL]}}",
    ),
    (
        "other-ports",
        "B S B B S",
        "DaemonSet",
        HOST,
        "env: [{name: KONG_PROXY_LISTEN, value: '0.0.0.0:8080, 0.0.0.0:81 reuseport, 0.0.0.0:8443 ssl'}]",
    ),
    ("own-users", "BS SS BS BS SS", "Pod", "hostUsers: false,", ""),
    ("own-users-drop-all", "BS x BS x x", "Pod", "hostUsers: false,", "securityContext: {capabilities: {drop: [ALL]}}"),
    ("own-users-host-network", "B B B B B", "Pod", "hostUsers: false, hostNetwork: true,", ""),
    (
        "read-only",
        "B S B x x",
        "DaemonSet",
        HOST,
        "$EMPTY_DIRS, env: [$LISTEN, {name: KONG_PREFIX, value: /kong_prefix/}], securityContext: {readOnlyRootFilesystem: true}",
    ),
    ("read-only-prefix", "x x x x x", "DaemonSet", HOST, "securityContext: {readOnlyRootFilesystem: true}"),
    (
        "chart",
        "BS x BS BS x",
        "Deployment",
        OWN,
        "$EMPTY_DIRS, env: [$LISTEN, {name: KONG_PREFIX, value: /kong_prefix/}], securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, readOnlyRootFilesystem: true, runAsGroup: 1000, runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}",
    ),
    ("net-raw", "B S B B B", "DaemonSet", HOST, "env: [$LISTEN, {name: SET_CAP_NET_RAW, value: '1'}]"),
    (
        "net-raw-as-user",
        "B S B B S",
        "DaemonSet",
        HOST,
        "env: [$LISTEN, {name: SET_CAP_NET_RAW, value: '1'}], securityContext: {runAsUser: 1000}",
    ),
    (
        "transparent",
        "B S B B B",
        "DaemonSet",
        HOST,
        "env: [$LISTEN, {name: KONG_STREAM_LISTEN, value: '0.0.0.0:9000 transparent'}]",
    ),
    (
        "net-raw-read-only",
        "B S B x x",
        "DaemonSet",
        HOST,
        "$EMPTY_DIRS, env: [$LISTEN, {name: KONG_PREFIX, value: /kong_prefix/}, {name: SET_CAP_NET_RAW, value: '1'}], securityContext: {readOnlyRootFilesystem: true}",
    ),
    (
        "net-raw-drop-setfcap",
        "B S B x x",
        "DaemonSet",
        HOST,
        "env: [$LISTEN, {name: SET_CAP_NET_RAW, value: '1'}], securityContext: {capabilities: {drop: [SETFCAP]}}",
    ),
    ("job", "E E E E E", "Job", OWN, "args: [kong, migrations, bootstrap]"),
    (
        "job-drop-all",
        "E x E E x",
        "Job",
        OWN,
        "args: [kong, migrations, bootstrap], securityContext: {capabilities: {drop: [ALL]}}",
    ),
    (
        "stale-pid",
        "E E E E E",
        "CronJob",
        OWN,
        "command: [rm, -vrf, /kong_prefix/pids], securityContext: {capabilities: {drop: [ALL]}}",
    ),
    ("unreadable", "x x x S S", "DaemonSet", HOST, "command: [/scripts/unreadable.sh]"),
    ("unreadable-by-name", "x x x S S", "DaemonSet", HOST, "command: [sh, /scripts/unreadable.sh]"),
    ("unreadable-bash", "x x x S S", "DaemonSet", HOST, "command: [/scripts/unreadable.bash]"),
    ("owner", "B S B S S", "DaemonSet", HOST, "command: [/scripts/owner.sh]"),
    (
        "owner-drop-dac-override",
        "B S B x x",
        "DaemonSet",
        HOST,
        "command: [/scripts/owner.sh], securityContext: {capabilities: {drop: [DAC_OVERRIDE]}}",
    ),
    (
        "owner-another",
        "x x x x x",
        "DaemonSet",
        HOST,
        "command: [/scripts/owner.sh], securityContext: {runAsUser: 1001}",
    ),
    ("group", "x x x S S", "DaemonSet", HOST, "command: [/scripts/group.sh]"),
    (
        "group-supplemental",
        "B S B S S",
        "DaemonSet",
        "hostNetwork: true, securityContext: {supplementalGroups: [4711]},",
        "command: [/scripts/group.sh]",
    ),
    (
        "group-of-files",
        "B S B S S",
        "DaemonSet",
        "hostNetwork: true, securityContext: {fsGroup: 4711},",
        "command: [/scripts/group.sh]",
    ),
    ("own", "B B B S S", "DaemonSet", HOST, "command: [/scripts/own.sh]"),
    ("directory", "x x x B B", "DaemonSet", HOST, "command: [/scripts/directory.sh]"),
    (
        "directory-drop-chown",
        "x x x B S",
        "DaemonSet",
        HOST,
        "command: [/scripts/directory.sh], securityContext: {capabilities: {drop: [CHOWN]}}",
    ),
    ("typo", "x x x x x", "Pod", HOST, "args: [kongg, docker-start]"),
    (
        "probes",
        "EEE EEE EEE EEE EEE",
        "DaemonSet",
        HOST,
        "command: ['true'], livenessProbe: {exec: {command: [kong, health]}}, lifecycle: {preStop: {exec: {command: [nginx, -v]}}}",
    ),
    (
        "probes-drop-all",
        "EEE Exx EEE EEE Exx",
        "DaemonSet",
        HOST,
        "command: ['true'], livenessProbe: {exec: {command: [kong, health]}}, lifecycle: {preStop: {exec: {command: [nginx, -v]}}}, securityContext: {capabilities: {drop: [ALL]}}",
    ),
];

/// The name of the service, what happens, and what is in it beside what all have.
pub(super) const SERVICES: &[(&str, &str, &str)] = &[
    ("bridge", "S S S S S", ""),
    ("bridge-drop-all", "S x S x x", "cap_drop: [ALL]"),
    ("bridge-from-1024", "B S B B S", "sysctls: {net.ipv4.ip_unprivileged_port_start: 1024}"),
    ("host", "B S B B S", "network_mode: host"),
    ("host-no-new-privileges", "B B B B B", "network_mode: host, security_opt: ['no-new-privileges:true']"),
    ("host-drop-all", "B x B x x", "network_mode: host, cap_drop: [ALL]"),
    ("host-drop-all-add", "B S B x x", "network_mode: host, cap_drop: [ALL], cap_add: [NET_BIND_SERVICE]"),
    ("host-root", "S S S B S", "network_mode: host, user: root"),
    (
        "host-root-drop-all-add",
        "x x x x x",
        "network_mode: host, user: '0', cap_drop: [ALL], cap_add: [CAP_NET_BIND_SERVICE]",
    ),
    ("host-privileged", "B S B B S", "network_mode: host, privileged: true"),
    ("host-direct", "B S B S S", "network_mode: host, entrypoint: $DIRECT"),
    (
        "host-direct-no-new-privileges",
        "B B B S S",
        "network_mode: host, entrypoint: $DIRECT, security_opt: [no-new-privileges]",
    ),
    ("host-owner-another", "x x x x x", "network_mode: host, entrypoint: [/scripts/owner.sh], user: '1001'"),
    ("host-group", "x x x S S", "network_mode: host, entrypoint: [/scripts/group.sh]"),
    ("host-group-add", "B S B S S", "network_mode: host, entrypoint: [/scripts/group.sh], group_add: ['4711']"),
    ("host-sysctl", "x x x x x", "network_mode: host, sysctls: ['net.ipv4.ip_unprivileged_port_start=0']"),
    ("host-high-ports", "S x S x x", "network_mode: host, cap_drop: [ALL], environment: [KONG_NGINX_DAEMON=off]"),
    (
        "official",
        "S S S x x",
        "security_opt: [no-new-privileges], read_only: true, tmpfs: [/tmp, /kong_prefix], environment: [$ENV, KONG_PREFIX=/kong_prefix]",
    ),
    (
        "health",
        "EE Ex EE EE Ex",
        "network_mode: host, entrypoint: ['true'], cap_drop: [ALL], healthcheck: {test: [CMD, kong, health]}",
    ),
];

const VALUE: &str = "0.0.0.0:80, 0.0.0.0:443 ssl";

fn filled(text: &str) -> String {
    let direct = DIRECT.strip_prefix("command: ").unwrap();
    text.replace("entrypoint: $DIRECT", &format!("entrypoint: {direct}"))
        .replace("$DIRECT", DIRECT)
        .replace("$EMPTY_DIRS", EMPTY_DIRS)
        .replace("$ENV", &format!("'KONG_PROXY_LISTEN={VALUE}'"))
        .replace(LISTEN, &format!("{{name: KONG_PROXY_LISTEN, value: '{VALUE}'}}"))
}

/// What happens, by name.
pub(super) fn expected() -> Vec<(&'static str, &'static str)> {
    let services = SERVICES.iter().map(|(name, happens, _)| (*name, *happens));
    PODS.iter().map(|(name, happens, ..)| (*name, *happens)).chain(services).collect()
}

/// All objects, each in a line.
pub(super) fn kubernetes() -> String {
    let mut text = String::new();
    for (name, _, kind, pod, container) in PODS {
        let env = if container.contains("env: ") { "" } else { "env: [$LISTEN]," };
        let container = filled(&format!("{env} {container}"));
        let spec = format!("{{{pod} containers: [{{name: kong, image: 'kong:3.9', {container}}}]}}");
        let (version, spec) = match *kind {
            "Pod" => ("v1", spec),
            "Job" => ("batch/v1", format!("{{template: {{spec: {spec}}}}}")),
            "CronJob" => {
                ("batch/v1", format!("{{schedule: '@daily', jobTemplate: {{spec: {{template: {{spec: {spec}}}}}}}}}"))
            }
            _ => (
                "apps/v1",
                format!(
                    "{{selector: {{matchLabels: {{app: {name}}}}}, template: {{metadata: {{labels: {{app: {name}}}}}, spec: {spec}}}}}"
                ),
            ),
        };
        text += &format!("---\n{{apiVersion: {version}, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}\n");
    }
    text
}

/// One file, each service in a line.
pub(super) fn compose() -> String {
    let mut text = "services:\n".to_owned();
    for (name, _, service) in SERVICES {
        let env = if service.contains("environment: ") { "" } else { "environment: [$ENV]," };
        text += &filled(&format!("  {name}: {{image: 'kong:3.9', {env} {service}}}\n"));
    }
    text
}
