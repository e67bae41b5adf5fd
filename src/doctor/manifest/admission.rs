//! What the API server, the scheduler and the kubelet say to a pod of the image.

use super::pod::{Cluster, Workload};
use super::security::Security;
use super::tree::Tree;
use crate::capability::{Capability, CapabilitySet};
use crate::doctor::{Finding, Level};

/// A security context constraint of OpenShift that the pod says it is for.
pub(super) struct Constraint<'t>(Option<&'t str>);

/// The constraint in the annotations of a pod (`openshift.io/scc` is written when a pod was admitted).
pub(super) fn constraint<'t>(workload: &Workload<'t, '_>) -> Constraint<'t> {
    let annotation = |key| workload.template.text_at(&["metadata", "annotations", key]);
    Constraint(annotation("openshift.io/required-scc").or(annotation("openshift.io/scc")))
}

impl Constraint<'_> {
    /// Whether it drops all capabilities, forbids privilege escalation and lets NET_BIND_SERVICE be added.
    fn is_restricted(&self) -> bool {
        matches!(self.0, Some("restricted-v2" | "restricted-v3" | "nonroot-v2" | "hostnetwork-v2"))
    }

    /// The bounding set and no_new_privs of a container after it was admitted.
    pub(super) fn apply(&self, security: &mut Security) -> (CapabilitySet, bool) {
        if !self.is_restricted() {
            return (security.kubernetes_bounding(), security.no_new_privileges());
        }
        if !security.drop.iter().any(|name| name == "ALL") {
            security.drop.push("ALL".to_owned());
        }
        let bind = CapabilitySet::from(Capability::NET_BIND_SERVICE);
        let bounding = security.kubernetes_bounding();
        (if bounding.contains(Capability::NET_BIND_SERVICE) { bind } else { CapabilitySet::EMPTY }, true)
    }
}

/// Checks a pod.
pub(super) fn check(workload: &Workload<'_, '_>, cluster: &Cluster<'_, '_>, found: &mut Vec<Finding>) {
    let checks: [fn(&Workload<'_, '_>) -> Option<Finding>; 11] = [
        pod_level,
        contradiction,
        sysctl,
        user_namespace,
        host_ports,
        rollout,
        dns,
        windows,
        runtime_class,
        required_constraint,
        capability_names,
    ];
    found.extend(checks.iter().filter_map(|check| check(workload)));
    found.extend(root(workload));
    found.extend(pod_security(workload, cluster));
}

/// A snippet with the place that it belongs to.
fn snippet(workload: &Workload<'_, '_>, below: &str, lines: &[&str]) -> Option<String> {
    let path = if below.is_empty() { workload.path.clone() } else { format!("{}.{below}", workload.path) };
    Some(super::super::fix::snippet(&workload.title, &path, workload.spec.column, lines))
}

/// M3: fields of a container's context in that of the pod.
fn pod_level(workload: &Workload<'_, '_>) -> Option<Finding> {
    const FIELDS: [&str; 4] = ["capabilities", "allowPrivilegeEscalation", "privileged", "readOnlyRootFilesystem"];
    let context = workload.spec.get("securityContext")?;
    let (field, at) = FIELDS.iter().find_map(|field| Some((field, context.get(field)?)))?;
    let path = &workload.path;
    Some(Finding {
        code: "pod-level-security-context",
        level: Level::Breaks,
        place: at.place(),
        what: format!(
            "kubectl apply fails: strict decoding error: unknown field \"{path}.securityContext.{field}\"; older versions, and --validate=false, ignore it without a word, and bind() to 0.0.0.0:80 failed (13: Permission denied) stays"
        ),
        why: format!("{field} belongs to the securityContext of a container; that of a pod has no such field"),
        fix: snippet(
            workload,
            "containers[…]",
            &[
                "  securityContext:",
                "    allowPrivilegeEscalation: true",
                "    capabilities:",
                "      drop: [ALL]",
                "      add: [NET_BIND_SERVICE]",
            ],
        ),
    })
}

/// Privileged containers that must not escalate (`ValidateSecurityContext`).
fn contradiction(workload: &Workload<'_, '_>) -> Option<Finding> {
    let administrator = |security: &Security| security.add.iter().any(|name| name == "CAP_SYS_ADMIN");
    let (container, security) = workload.containers.iter().find(|(_, security)| {
        security.allow_privilege_escalation == Some(false) && (security.privileged || administrator(security))
    })?;
    let other = if security.privileged { "`privileged` to true" } else { "`capabilities.Add` CAP_SYS_ADMIN" };
    Some(Finding {
        code: "privileged-without-escalation",
        level: Level::Breaks,
        place: container.get("securityContext").unwrap_or(container).place(),
        what: format!("kubectl apply fails: cannot set `allowPrivilegeEscalation` to false and {other}"),
        why: "both together have no meaning, and the API server refuses them".to_owned(),
        fix: None,
    })
}

/// M7: sysctls of a network that is the node's.
fn sysctl(workload: &Workload<'_, '_>) -> Option<Finding> {
    let sysctls = workload.spec.at(&["securityContext", "sysctls"])?.items();
    let (at, entry, name) = sysctls.iter().enumerate().find_map(|(at, entry)| {
        let name = entry.text_at(&["name"])?;
        name.replace('/', ".").starts_with("net.").then_some((at, entry, name))
    })?;
    if !workload.host_network {
        return None;
    }
    Some(Finding {
        code: "sysctl-with-host-network",
        level: Level::Breaks,
        place: entry.place(),
        what: format!(
            "kubectl apply fails: {}.securityContext.sysctls[{at}].name: Invalid value: \"{name}\": may not be specified when 'hostNetwork' is true; older versions create pods that stay in SysctlForbidden",
            workload.path
        ),
        why: "the network of the node has one value for everybody, which no pod may set".to_owned(),
        fix: Some("take the sysctl out: the capability of the image is for exactly this case".to_owned()),
    })
}

/// M12: a user namespace owns no capability over the network of the node.
fn user_namespace(workload: &Workload<'_, '_>) -> Option<Finding> {
    let users = workload.spec.get("hostUsers").filter(|users| users.boolean() == Some(false))?;
    if !workload.host_network {
        return None;
    }
    Some(Finding {
        code: "user-namespace-with-host-network",
        level: Level::Breaks,
        place: users.place(),
        what: format!("kubectl apply fails: {}.hostNetwork: Forbidden: when `hostUsers` is false", workload.path),
        why: "CAP_NET_BIND_SERVICE of a user namespace counts only for networks that this namespace owns, and the node's is none of them (user_namespaces(7))".to_owned(),
        fix: snippet(workload, "", &["hostUsers: true"]),
    })
}

/// M5: ports that must be equal.
fn host_ports(workload: &Workload<'_, '_>) -> Option<Finding> {
    if !workload.host_network {
        return None;
    }
    let ports = workload.containers.iter().flat_map(|(container, _)| {
        let ports = container.get("ports").map(Tree::items).unwrap_or_default();
        ports.iter().enumerate().map(move |(at, port)| (*container, at, port))
    });
    ports.into_iter().find_map(|(container, at, port)| {
        let (own, host) = (port.get("containerPort")?.integer()?, port.get("hostPort")?.integer()?);
        let name = container.text_at(&["name"]).unwrap_or("?");
        (own != host && host != 0).then(|| Finding {
            code: "host-port-mismatch",
            level: Level::Breaks,
            place: port.get("hostPort").unwrap_or(port).place(),
            what: format!(
                "kubectl apply fails: {}.containers[{name}].ports[{at}].hostPort: Invalid value: {host}: must match `containerPort` when `hostNetwork` is true",
                workload.path
            ),
            why: "in the network of the node there is nothing that could map one port to another".to_owned(),
            fix: snippet(workload, &format!("containers[{name}].ports[{at}]"), &[&format!("containerPort: {own}"), &format!("hostPort: {own}")]),
        })
    })
}

/// M8: two pods that want the same ports of a node.
fn rollout(workload: &Workload<'_, '_>) -> Option<Finding> {
    if !workload.host_network {
        return None;
    }
    let spec = workload.object.get("spec")?;
    let number = |keys: &[&str]| spec.at(keys).and_then(Tree::integer);
    let is_none = |keys: &[&str]| matches!(spec.text_at(keys), Some("0" | "0%"));
    let pending = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports";
    let use_daemon_set = Some("kind: DaemonSet  # without replicas and strategy; capatch k8s does it".to_owned());
    let place = |keys: &[&str]| spec.at(keys).unwrap_or(workload.object).place();
    match workload.kind {
        "Deployment" | "ReplicaSet" | "ReplicationController" | "StatefulSet"
            if number(&["replicas"]).is_some_and(|replicas| replicas > 1) =>
        {
            Some(Finding {
                code: "replicas-share-host-ports",
                level: Level::Warning,
                place: place(&["replicas"]),
                what: format!(
                    "on fewer nodes than replicas, pods stay Pending: {pending}; without container ports in the manifest they start and fail: bind() to 0.0.0.0:80 failed (98: Address already in use)"
                ),
                why: "with hostNetwork, one node has ports 80 and 443 once".to_owned(),
                fix: use_daemon_set,
            })
        }
        "Deployment"
            if spec.text_at(&["strategy", "type"]) != Some("Recreate")
                && !is_none(&["strategy", "rollingUpdate", "maxSurge"]) =>
        {
            Some(Finding {
                code: "surge-with-host-ports",
                level: Level::Warning,
                place: place(&["strategy"]),
                what: format!("an update may never end: the new pod stays Pending ({pending})"),
                why: "a rolling update starts the new pod (maxSurge, 25% by default) before the old one gives back the ports of the node".to_owned(),
                fix: Some(super::super::fix::snippet(
                    &workload.title,
                    "spec",
                    spec.column,
                    &["strategy:", "  type: RollingUpdate", "  rollingUpdate:", "    maxSurge: 0", "    maxUnavailable: 1"],
                )),
            })
        }
        "DaemonSet"
            if spec.at(&["updateStrategy", "rollingUpdate", "maxSurge"]).is_some()
                && !is_none(&["updateStrategy", "rollingUpdate", "maxSurge"]) =>
        {
            Some(Finding {
                code: "surge-with-host-ports",
                level: Level::Warning,
                place: place(&["updateStrategy", "rollingUpdate", "maxSurge"]),
                what: "an update never ends: the new pod of a node waits for ports that the old one still has".to_owned(),
                why: "maxSurge starts the new pod before the old one is gone".to_owned(),
                fix: Some(super::super::fix::snippet(
                    &workload.title,
                    "spec",
                    spec.column,
                    &["updateStrategy:", "  rollingUpdate:", "    maxSurge: 0", "    maxUnavailable: 1"],
                )),
            })
        }
        _ => None,
    }
}

/// M4: names of Services on the host network.
fn dns(workload: &Workload<'_, '_>) -> Option<Finding> {
    let policy = workload.spec.get("dnsPolicy");
    let is_default = policy.is_none_or(|policy| matches!(policy.text(), Some("ClusterFirst" | "Default")));
    if !workload.host_network || !is_default {
        return None;
    }
    let variable = |container: &Tree<'_>, name: &str| -> Option<String> {
        let env = container.get("env")?.items();
        let entry = env.iter().rev().find(|entry| entry.text_at(&["name"]) == Some(name))?;
        entry.text_at(&["value"]).map(str::to_owned)
    };
    let host = workload.containers.iter().find_map(|(container, _)| variable(container, "KONG_PG_HOST"));
    let host = host.filter(|host| is_service(host));
    let off = workload.containers.iter().any(|(one, _)| variable(one, "KONG_DATABASE").as_deref() == Some("off"));
    let (level, what) = match host.filter(|_| !off) {
        Some(host) => (
            Level::Breaks,
            format!("Kong does not find its database: [cosocket] DNS resolution failed: dns server error: 3 name error ({host})"),
        ),
        None => (Level::Warning, "names of Services do not resolve in the pod".to_owned()),
    };
    Some(Finding {
        code: "dns-policy",
        level,
        place: policy.unwrap_or(workload.spec).place(),
        what,
        why: "with hostNetwork, the policy ClusterFirst (the default) asks the DNS servers of the node, which do not know the names of the cluster".to_owned(),
        fix: snippet(workload, "", &["hostNetwork: true", "dnsPolicy: ClusterFirstWithHostNet"]),
    })
}

/// Whether a host is a name that only the DNS of the cluster knows.
fn is_service(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    !is_address && host != "localhost" && !host.is_empty() && (!host.contains('.') || host.contains(".svc"))
}

/// M14: nodes that do not run Linux.
fn windows(workload: &Workload<'_, '_>) -> Option<Finding> {
    let spec = workload.spec;
    let selectors: [&[&str]; 3] =
        [&["os", "name"], &["nodeSelector", "kubernetes.io/os"], &["nodeSelector", "beta.kubernetes.io/os"]];
    let at = selectors.iter().find_map(|keys| spec.at(keys).filter(|at| at.text() == Some("windows")))?;
    Some(Finding {
        code: "windows",
        level: Level::Breaks,
        place: at.place(),
        what: "the pod does not start: no matching manifest for windows/amd64 in the manifest list entries".to_owned(),
        why: "capabilities of files are of Linux".to_owned(),
        fix: snippet(workload, "", &["nodeSelector:", "  kubernetes.io/os: linux"]),
    })
}

/// M14: runtimes with a kernel of their own.
fn runtime_class(workload: &Workload<'_, '_>) -> Option<Finding> {
    let class = workload.spec.get("runtimeClassName")?;
    let name = class.text()?;
    let what = match name {
        "gvisor" | "runsc" => "gVisor has its own rules for ports and file capabilities, and keeps a file's capability when somebody writes to the file",
        _ => "the pod may run on another kernel than the node's, with its own ip_unprivileged_port_start",
    };
    Some(Finding {
        code: "runtime-class",
        level: Level::Note,
        place: class.place(),
        what: format!("runtimeClassName {name}: {what}"),
        why: "what is foretold here holds for runc and crun".to_owned(),
        fix: None,
    })
}

/// M14: what OpenShift does not admit.
fn required_constraint(workload: &Workload<'_, '_>) -> Option<Finding> {
    let constraint = constraint(workload);
    let name = constraint.0.filter(|_| constraint.is_restricted())?;
    let escalates = workload.containers.iter().find(|(_, security)| security.allow_privilege_escalation == Some(true));
    let (at, what) = match escalates {
        Some((container, _)) => (*container, "allowPrivilegeEscalation: Invalid value: true: Allowing privilege escalation for containers is not allowed"),
        None if workload.host_network && name != "hostnetwork-v2" => {
            (workload.spec, "securityContext.hostNetwork: Invalid value: true: Host network is not allowed to be used")
        }
        None => return None,
    };
    Some(Finding {
        code: "scc",
        level: Level::Breaks,
        place: at.place(),
        what: format!("the pod is forbidden: unable to validate against any security context constraint: provider {name}: {what}"),
        why: format!("{name} allows neither privilege escalation nor, except hostnetwork-v2, the network of the node; with escalation forbidden a file capability gives nothing"),
        fix: Some("a constraint of your own, with allowPrivilegeEscalation: true, allowHostNetwork: true and allowedCapabilities: [NET_BIND_SERVICE], and a service account that may use it".to_owned()),
    })
}

/// M2: names that are no capability to the runtime.
fn capability_names(workload: &Workload<'_, '_>) -> Option<Finding> {
    workload.containers.iter().find_map(|(container, security)| {
        let prefixed = |name: &&String| name.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("CAP_"));
        let bind = |name: &&String| name.to_ascii_uppercase().ends_with("NET_BIND_SERVICE");
        let name = security.add.iter().filter(prefixed).find(bind)?;
        Some(Finding {
            code: "capability-prefix",
            level: Level::Warning,
            place: container.at(&["securityContext", "capabilities", "add"]).unwrap_or(container).place(),
            what: format!("{name} is not added where containerd runs the pod (CRI-O takes it)"),
            why: format!("Kubernetes writes capabilities without CAP_, and containerd asks the kernel for CAP_{name}, which is none"),
            fix: Some("add: [NET_BIND_SERVICE]".to_owned()),
        })
    })
}

/// M11: root that nobody needs.
fn root(workload: &Workload<'_, '_>) -> Option<Finding> {
    let is_root = |user: &str| user == "0" || user.starts_with("0:");
    let (container, _) = workload.containers.iter().find(|(_, security)| security.user.as_deref().is_some_and(is_root))?;
    let own = container.at(&["securityContext", "runAsUser"]);
    let at = own.or_else(|| workload.spec.at(&["securityContext", "runAsUser"])).unwrap_or(container);
    Some(Finding {
        code: "root-not-needed",
        level: Level::Note,
        place: at.place(),
        what: "Kong runs as root".to_owned(),
        why: "the capability of the file is there so that another user can bind ports below 1024".to_owned(),
        fix: Some("runAsUser: 1000\nrunAsNonRoot: true".to_owned()),
    })
}

/// M1: what the level of Pod Security of the namespace forbids (`k8s.io/pod-security-admission/policy`).
fn pod_security(workload: &Workload<'_, '_>, cluster: &Cluster<'_, '_>) -> Option<Finding> {
    let namespace = workload.namespace.unwrap_or("default");
    let enforced = cluster.namespaces.get(namespace).copied();
    let all = |what: &str, fails: &dyn Fn(&Security) -> bool, must: &str| {
        let names = workload.containers.iter().filter(|(_, security)| fails(security));
        let names: Vec<String> =
            names.map(|(one, _)| format!("\"{}\"", one.text_at(&["name"]).unwrap_or("?"))).collect();
        let plural = if names.len() == 1 { "" } else { "s" };
        (!names.is_empty()).then(|| format!("{what} (container{plural} {} must {must})", names.join(", ")))
    };
    let beyond = |security: &Security| {
        let default = crate::doctor::DEFAULT_CAPABILITIES;
        !security.kubernetes_bounding().minus(default).is_empty() && !security.privileged
    };
    let baseline = [
        workload.host_network.then(|| "host namespaces (hostNetwork=true)".to_owned()),
        all("privileged", &|security| security.privileged, "not set securityContext.privileged=true"),
        all("non-default capabilities", &beyond, "not add others in securityContext.capabilities.add"),
    ];
    let drops_all = |security: &Security| security.drop.iter().any(|name| name == "ALL");
    let restricted = [
        all(
            "allowPrivilegeEscalation != false",
            &|security| security.allow_privilege_escalation != Some(false),
            "set securityContext.allowPrivilegeEscalation=false",
        ),
        all(
            "unrestricted capabilities",
            &|security| !drops_all(security),
            "set securityContext.capabilities.drop=[\"ALL\"]",
        ),
        all("runAsNonRoot != true", &|security| !security.run_as_non_root, "set securityContext.runAsNonRoot=true"),
        all("seccompProfile", &|security| !security.seccomp, "set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""),
    ];
    let mut broken: Vec<String> = baseline.into_iter().flatten().collect();
    if enforced == Some("restricted") {
        broken.extend(restricted.into_iter().flatten());
    }
    let level = enforced.filter(|level| matches!(*level, "restricted" | "baseline"));
    let privileged = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n  labels:\n    pod-security.kubernetes.io/enforce: privileged"
    );
    match level {
        Some(level) if !broken.is_empty() => Some(Finding {
            code: "pod-security",
            level: Level::Breaks,
            place: workload.object.place(),
            what: format!("no pod is created: it is forbidden: violates PodSecurity \"{level}:latest\": {}", broken.join(", ")),
            why: format!("the namespace {namespace} enforces the level {level}; restricted demands allowPrivilegeEscalation: false, under which a file capability gives nothing, and neither level has hostNetwork"),
            fix: Some(privileged),
        }),
        None if workload.host_network && enforced.is_none() => Some(Finding {
            code: "pod-security",
            level: Level::Note,
            place: workload.object.place(),
            what: format!("if the namespace {namespace} enforces baseline or restricted, no pod is created: violates PodSecurity \"baseline:latest\": {}", broken.join(", ")),
            why: "both levels of Pod Security forbid the network of the node".to_owned(),
            fix: Some(privileged),
        }),
        _ => None,
    }
}
