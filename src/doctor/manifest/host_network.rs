//! What the network of the node brings to a pod of the image.

use super::admission::snippet;
use super::pod::Workload;
use super::tree::Tree;
use super::typed::maps;
use crate::doctor::fix;
use crate::doctor::{Finding, Level};

/// M7: sysctls of a network that is the node's.
pub(super) fn sysctl(workload: &Workload<'_, '_>) -> Option<Finding> {
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
pub(super) fn user_namespace(workload: &Workload<'_, '_>) -> Option<Finding> {
    let users = workload.spec.get("hostUsers").filter(|users| users.boolean() == Some(false))?;
    if !workload.host_network {
        return None;
    }
    Some(Finding {
        code: "user-namespace-with-host-network",
        level: Level::Breaks,
        place: users.place(),
        what: format!("kubectl apply fails: {}.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false", workload.path),
        why: "CAP_NET_BIND_SERVICE of a user namespace counts only for networks that this namespace owns, and the node's is none of them (user_namespaces(7))".to_owned(),
        fix: snippet(workload, "", &["hostUsers: true"]),
    })
}

/// M5: ports that must be equal.
pub(super) fn host_ports(workload: &Workload<'_, '_>) -> Option<Finding> {
    if !workload.host_network {
        return None;
    }
    // Those of init containers are not looked at.
    let containers = maps(workload.spec, "containers").into_iter().enumerate();
    let mut ports = containers.flat_map(|(at, container)| {
        let ports = maps(container, "ports").into_iter().enumerate();
        ports.map(move |(number, port)| (format!("containers[{at}].ports[{number}]"), port))
    });
    ports.find_map(|(path, port)| {
        let (own, host) = (port.get("containerPort")?.integer()?, port.get("hostPort")?.integer()?);
        (own != host && host != 0).then(|| Finding {
            code: "host-port-mismatch",
            level: Level::Breaks,
            place: port.get("hostPort").unwrap_or(port).place(),
            what: format!(
                "kubectl apply fails: {}.{path}.hostPort: Invalid value: {host}: must match `containerPort` when `hostNetwork` is true",
                workload.path
            ),
            why: "in the network of the node there is nothing that could map one port to another".to_owned(),
            fix: snippet(workload, &path, &[&format!("containerPort: {own}"), &format!("hostPort: {own}")]),
        })
    })
}

/// M8: two pods that want the same ports of a node.
pub(super) fn rollout(workload: &Workload<'_, '_>) -> Option<Finding> {
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
        "Deployment" | "ReplicaSet" | "ReplicationController" | "StatefulSet" | "DeploymentConfig" | "Rollout"
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
                fix: Some(fix::snippet(
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
                fix: Some(fix::snippet(
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
pub(super) fn dns(workload: &Workload<'_, '_>) -> Option<Finding> {
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
    let host = workload.containers.iter().find_map(|member| variable(member.tree, "KONG_PG_HOST"));
    let host = host.filter(|host| is_service(host));
    let off = workload.containers.iter().any(|member| variable(member.tree, "KONG_DATABASE").as_deref() == Some("off"));
    let (level, what) = match host.filter(|_| !off) {
        Some(host) => (
            Level::Breaks,
            format!(
                "Kong does not find its database: [cosocket] DNS resolution failed: dns server error: 3 name error ({host})"
            ),
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
