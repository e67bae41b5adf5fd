//! What the API server, the scheduler and the kubelet say to a pod of the image.

use super::pod::{Cluster, Member, Workload};
use super::security::Security;
use super::{host_network, pod_security, validation};
use crate::capability::{Capability, CapabilitySet};
use crate::doctor::{Finding, Level, fix};

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
    let checks: [fn(&Workload<'_, '_>) -> Option<Finding>; 14] = [
        pod_level,
        contradiction,
        host_network::sysctl,
        host_network::user_namespace,
        host_network::host_ports,
        host_network::rollout,
        host_network::dns,
        windows,
        runtime_class,
        required_constraint,
        capability_names,
        validation::values,
        validation::host_ports_twice,
        validation::daemon_set_update,
    ];
    found.extend(checks.iter().filter_map(|check| check(workload)));
    found.extend(root(workload));
    found.extend(pod_security::check(workload, cluster));
}

/// A snippet with the place that it belongs to.
pub(super) fn snippet(workload: &Workload<'_, '_>, below: &str, lines: &[&str]) -> Option<String> {
    let path = if below.is_empty() { workload.path.clone() } else { format!("{}.{below}", workload.path) };
    Some(fix::snippet(&workload.title, &path, workload.spec.column, lines))
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
    let member = workload.containers.iter().find(|Member { security, .. }| {
        security.allow_privilege_escalation == Some(false) && (security.privileged || administrator(security))
    })?;
    let Member { tree: container, security, .. } = member;
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
        "gvisor" | "runsc" => {
            "gVisor has its own rules for ports and file capabilities, and keeps a file's capability when somebody writes to the file"
        }
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
    let escalates =
        workload.containers.iter().find(|Member { security, .. }| security.allow_privilege_escalation == Some(true));
    let (at, what) = match escalates {
        Some(Member { tree: container, .. }) => (
            *container,
            "allowPrivilegeEscalation: Invalid value: true: Allowing privilege escalation for containers is not allowed",
        ),
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
    workload.containers.iter().find_map(|Member { tree: container, security, .. }| {
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
    let Member { tree: container, .. } =
        workload.containers.iter().find(|Member { security, .. }| security.user.as_deref().is_some_and(is_root))?;
    let own = container.at(&["securityContext", "runAsUser"]);
    let at = own.or_else(|| workload.spec.at(&["securityContext", "runAsUser"])).unwrap_or(container);
    Some(Finding {
        code: "root-not-needed",
        level: Level::Note,
        place: at.place(),
        what: "the container runs as root".to_owned(),
        why: "the capability of the file is there so that another user can bind ports below 1024".to_owned(),
        fix: Some("runAsUser: 1000\nrunAsNonRoot: true".to_owned()),
    })
}
