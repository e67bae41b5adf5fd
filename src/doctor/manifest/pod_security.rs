//! Levels of Pod Security that a namespace enforces.

use super::pod::{Cluster, Workload};
use super::security::Security;
use crate::doctor::{DEFAULT_CAPABILITIES, Finding, Level};

/// M1: what the level of Pod Security of the namespace forbids (`k8s.io/pod-security-admission/policy`).
pub(super) fn check(workload: &Workload<'_, '_>, cluster: &Cluster<'_, '_>) -> Option<Finding> {
    let namespace = workload.namespace.unwrap_or("default");
    let enforced = cluster.namespaces.get(namespace).copied();
    let all = |what: &str, fails: &dyn Fn(&Security) -> bool, must: &str| {
        let names = workload.containers.iter().filter(|member| fails(&member.security));
        let names: Vec<String> =
            names.map(|member| format!("\"{}\"", member.tree.text_at(&["name"]).unwrap_or("?"))).collect();
        let plural = if names.len() == 1 { "" } else { "s" };
        (!names.is_empty()).then(|| format!("{what} (container{plural} {} must {must})", names.join(", ")))
    };
    let beyond = |security: &Security| {
        !security.kubernetes_bounding().minus(DEFAULT_CAPABILITIES).is_empty() && !security.privileged
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
        all(
            "seccompProfile",
            &|security| !security.seccomp,
            "set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        ),
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
            what: format!(
                "no pod is created: it is forbidden: violates PodSecurity \"{level}:latest\": {}",
                broken.join(", ")
            ),
            why: format!(
                "the namespace {namespace} enforces the level {level}; restricted demands allowPrivilegeEscalation: false, under which a file capability gives nothing, and neither level has hostNetwork"
            ),
            fix: Some(privileged),
        }),
        None if workload.host_network && enforced.is_none() => Some(Finding {
            code: "pod-security",
            level: Level::Note,
            place: workload.object.place(),
            what: format!(
                "if the namespace {namespace} enforces baseline or restricted, no pod is created: violates PodSecurity \"baseline:latest\": {}",
                broken.join(", ")
            ),
            why: "both levels of Pod Security forbid the network of the node".to_owned(),
            fix: Some(privileged),
        }),
        _ => None,
    }
}
