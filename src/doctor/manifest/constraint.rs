//! Security context constraints of OpenShift: what they make of a pod and refuse (`sccmatching` and `capabilities` in
//! openshift/apiserver-library-go).

use std::ops::RangeInclusive;

use super::pod::{Member, Workload};
use super::security::Security;
use super::tree::Tree;
use super::typed::maps;
use crate::capability::CapabilitySet;
use crate::doctor::{Finding, Level};

/// Who a container may be.
#[derive(Clone, Copy)]
enum Users {
    Any,
    NotRoot,
    /// Those of the namespace (`openshift.io/sa.scc.uid-range`).
    OfNamespace,
    Range(i64, i64),
}

/// A constraint that every cluster has.
struct Standard {
    name: &'static str,
    /// What a container may add.
    allowed: &'static [&'static str],
    /// What is dropped from each.
    dropped: &'static [&'static str],
    escalation: bool,
    /// The network and the ports of the node.
    host_network: bool,
    user_namespace: bool,
    users: Users,
}

const BIND: &[&str] = &["NET_BIND_SERVICE"];
const DROPPED_BY_OLD: &[&str] = &["KILL", "MKNOD", "SETUID", "SETGID"];

/// The first that authenticated users get; the others differ from it.
const RESTRICTED: Standard = Standard {
    name: "restricted-v2",
    allowed: BIND,
    dropped: &["ALL"],
    escalation: false,
    host_network: false,
    user_namespace: false,
    users: Users::OfNamespace,
};
const OLD: Standard =
    Standard { name: "restricted", allowed: &[], dropped: DROPPED_BY_OLD, escalation: true, ..RESTRICTED };

/// `bindata/bootkube/scc-manifests` in openshift/cluster-kube-apiserver-operator; `privileged` refuses nothing.
const STANDARD: [Standard; 12] = [
    RESTRICTED,
    Standard { name: "restricted-v3", user_namespace: true, users: Users::Range(1000, 65_534), ..RESTRICTED },
    Standard { name: "nonroot-v2", users: Users::NotRoot, ..RESTRICTED },
    Standard { name: "hostnetwork-v2", host_network: true, ..RESTRICTED },
    OLD,
    Standard { name: "nonroot", users: Users::NotRoot, ..OLD },
    Standard { name: "hostnetwork", host_network: true, ..OLD },
    Standard { name: "hostaccess", host_network: true, ..OLD },
    Standard { name: "anyuid", dropped: &["MKNOD"], users: Users::Any, ..OLD },
    Standard { name: "hostmount-anyuid", dropped: &["MKNOD"], users: Users::Any, ..OLD },
    Standard { name: "hostmount-anyuid-v2", dropped: &["MKNOD"], users: Users::Any, ..OLD },
    Standard {
        name: "nested-container",
        allowed: &["SETUID", "SETGID"],
        dropped: &[],
        user_namespace: true,
        users: Users::Range(0, 65_534),
        ..OLD
    },
];

/// The constraint in the annotations of a pod.
pub(super) struct Constraint {
    standard: Option<&'static Standard>,
    /// Whether no other may take the pod; `openshift.io/scc` only says which did once.
    required: bool,
}

/// The constraint that a pod says it is for.
pub(super) fn constraint(workload: &Workload<'_, '_>) -> Constraint {
    let annotation = |key| workload.template.text_at(&["metadata", "annotations", key]);
    let required = annotation("openshift.io/required-scc");
    let name = required.or(annotation("openshift.io/scc"));
    let standard = STANDARD.iter().find(|standard| Some(standard.name) == name);
    Constraint { standard, required: required.is_some() }
}

impl Constraint {
    /// The bounding set and no_new_privs of a container after it was admitted.
    pub(super) fn apply(&self, security: &mut Security) -> (CapabilitySet, bool) {
        if let Some(standard) = self.standard {
            let missing = standard.dropped.iter().filter(|name| !security.drop.iter().any(|there| there == *name));
            let missing: Vec<String> = missing.map(|name| (*name).to_owned()).collect();
            security.drop.extend(missing);
            if !standard.escalation {
                security.allow_privilege_escalation.get_or_insert(false);
            }
        }
        (security.kubernetes_bounding(), security.no_new_privileges())
    }
}

/// M14: what OpenShift does not admit.
pub(super) fn check(workload: &Workload<'_, '_>) -> Option<Finding> {
    let Constraint { standard, required } = constraint(workload);
    let standard = standard?;
    let refused = refusals(workload, standard);
    let (place, _) = refused.first()?;
    let name = standard.name;
    let says: Vec<String> = refused.iter().map(|(_, says)| format!("provider {name}: .{says}")).collect();
    let says = match &says[..] {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    };
    let gain = if standard.escalation {
        ""
    } else {
        "; where it forbids privilege escalation, a file capability gives nothing"
    };
    let other = if required { "" } else { "; openshift.io/scc is no demand, and another may take the pod" };
    Some(Finding {
        code: "scc",
        level: if required { Level::Breaks } else { Level::Warning },
        place: place.clone(),
        what: format!("the pod is forbidden: unable to validate against any security context constraint: {says}"),
        why: format!("this is what the constraint {name} is there for{gain}{other}"),
        fix: Some("a constraint of your own, with allowPrivilegeEscalation: true, allowHostNetwork: true, allowHostPorts: true and allowedCapabilities: [NET_BIND_SERVICE], and a service account that may use it".to_owned()),
    })
}

/// What a constraint refuses, each with its place.
fn refusals(workload: &Workload<'_, '_>, standard: &Standard) -> Vec<(String, String)> {
    let spec = workload.spec;
    let mut found = Vec::new();
    let on_node = workload.host_network && !standard.host_network;
    let network = "hostNetwork: Invalid value: true: Host network is not allowed to be used";
    if on_node {
        found.push((spec.get("hostNetwork").unwrap_or(spec).place(), format!("spec.securityContext.{network}")));
    }
    let users = spec.get("hostUsers");
    if standard.user_namespace && users.and_then(Tree::boolean) != Some(false) {
        let value = if users.is_some() { "true" } else { "\"null\"" };
        let says = format!("spec.securityContext.hostUsers: Invalid value: {value}: Host Users must be set to false");
        found.push((users.unwrap_or(spec).place(), says));
    }
    for Member { tree, security, path } in &workload.containers {
        let mut refuse = |at: Option<&Tree<'_>>, says: String| {
            found.push((at.unwrap_or(tree).place(), format!("{path}.{says}")));
        };
        let own = |key| tree.at(&["securityContext", key]);
        if let Some(says) = user(workload, security, standard.users) {
            refuse(own("runAsUser").or(own("runAsNonRoot")), says);
        }
        if security.privileged {
            refuse(
                own("privileged"),
                "privileged: Invalid value: true: Privileged containers are not allowed".to_owned(),
            );
        }
        for name in security.add.iter().filter(|name| !standard.allowed.contains(&name.as_str())) {
            let says = format!("capabilities.add: Invalid value: \"{name}\": capability may not be added");
            refuse(own("capabilities"), says);
        }
        if on_node {
            refuse(spec.get("hostNetwork"), network.to_owned());
        }
        if !standard.host_network {
            for port in maps(tree, "ports") {
                let inside = || port.get("containerPort").filter(|_| workload.host_network);
                let host = port.get("hostPort").filter(|host| host.integer() != Some(0)).or_else(inside);
                if let Some((at, number)) = host.and_then(|at| Some((at, at.integer()?))) {
                    let says =
                        format!("{path}.hostPort: Invalid value: {number}: Host ports are not allowed to be used");
                    refuse(Some(at), says);
                }
            }
        }
        if !standard.escalation && security.allow_privilege_escalation == Some(true) {
            let says = "allowPrivilegeEscalation: Invalid value: true: Allowing privilege escalation for containers is not allowed";
            refuse(own("allowPrivilegeEscalation"), says.to_owned());
        }
    }
    found
}

/// Why a container may not be who it is.
fn user(workload: &Workload<'_, '_>, security: &Security, users: Users) -> Option<String> {
    let id = security.user.as_deref().and_then(|user| user.split(':').next()?.parse::<i64>().ok());
    let outside = |range: RangeInclusive<i64>| id.filter(|id| !range.contains(id));
    match users {
        Users::Any => None,
        Users::NotRoot => match (security.said_non_root, id) {
            (Some(false), _) => Some("runAsNonRoot: Invalid value: false: must be true".to_owned()),
            (_, Some(0)) => Some("runAsUser: Invalid value: 0: running with the root UID is forbidden".to_owned()),
            _ => None,
        },
        Users::Range(first, last) => {
            let id = outside(first..=last)?;
            Some(format!("runAsUser: Invalid value: {id}: must be in the ranges: [{first}, {last}]"))
        }
        Users::OfNamespace => {
            // Without a range of its own, a namespace gets ten thousand from 1000000000 on.
            let id = outside(1_000_000_000..=i64::MAX)?;
            let namespace = workload.namespace.unwrap_or("default");
            Some(format!(
                "runAsUser: Invalid value: {id}: must be in the ranges: [the annotation openshift.io/sa.scc.uid-range of the namespace {namespace}]"
            ))
        }
    }
}
