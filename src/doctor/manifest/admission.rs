//! What the API server, the scheduler and the kubelet say to a pod of the image.

use super::pod::{Cluster, Member, Workload};
use super::security::Security;
use super::tree::Tree;
use super::{constraint, host_network, pod_security, validation};
use crate::doctor::{Finding, Level, fix};

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
        constraint::check,
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
    let name = workload.containers.first().and_then(|one| one.tree.text_at(&["name"])).unwrap_or("?");
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
            "",
            &[
                "securityContext:",
                &format!("  {field}: null  # take it out here"),
                "containers:",
                &format!("- name: {name}"),
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

/// What in the spec of a pod says that it is for Windows.
pub(super) fn windows_at<'t, 'a>(spec: &'t Tree<'a>) -> Option<&'t Tree<'a>> {
    let selectors: [&[&str]; 3] =
        [&["os", "name"], &["nodeSelector", "kubernetes.io/os"], &["nodeSelector", "beta.kubernetes.io/os"]];
    selectors.iter().find_map(|keys| spec.at(keys).filter(|at| at.text() == Some("windows")))
}

/// M14: nodes that do not run Linux.
fn windows(workload: &Workload<'_, '_>) -> Option<Finding> {
    let at = windows_at(workload.spec)?;
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
