//! Levels of Pod Security that a namespace enforces (`k8s.io/pod-security-admission/policy`).

use std::collections::BTreeSet;

use super::pod::{Cluster, Workload};
use super::tree::Tree;
use super::typed::{maps, texts};
use crate::doctor::{Finding, Level};
use crate::kubernetes::LISTS;

/// What baseline lets a container add.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Sysctls that baseline lets a pod set, of version 1.32.
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Kinds of volumes that restricted takes.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// M1: what the level of Pod Security of the namespace forbids.
pub(super) fn check(workload: &Workload<'_, '_>, cluster: &Cluster<'_, '_>) -> Option<Finding> {
    let namespace = workload.namespace.unwrap_or("default");
    let enforced = cluster.namespaces.get(namespace).copied();
    let level = enforced.filter(|level| matches!(*level, "restricted" | "baseline"));
    let broken = violations(workload.spec, level == Some("restricted"));
    let privileged = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n  labels:\n    pod-security.kubernetes.io/enforce: privileged"
    );
    match level {
        Some(level) if !broken.is_empty() => Some(Finding {
            code: "pod-security",
            level: Level::Breaks,
            place: workload.object.place(),
            what: format!("no pod is created: it is forbidden: violates PodSecurity \"{level}:latest\": {broken}"),
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
                "if the namespace {namespace} enforces baseline or restricted, no pod is created: violates PodSecurity \"baseline:latest\": {broken}"
            ),
            why: "both levels of Pod Security forbid the network of the node".to_owned(),
            fix: Some(privileged),
        }),
        _ => None,
    }
}

/// A pod as the checks see it.
struct Pod<'t, 'a> {
    spec: &'t Tree<'a>,
    /// With their names, in the order in which they are visited.
    containers: Vec<(&'t str, &'t Tree<'a>)>,
}

/// What violates a level, as the API server writes it: the checks of baseline by their names, then those of
/// restricted, some of which take the place of one of baseline.
fn violations(spec: &Tree<'_>, restricted: bool) -> String {
    let lists = LISTS.iter().flat_map(|list| maps(spec, list));
    let containers = lists.map(|container| (container.text_at(&["name"]).unwrap_or_default(), container)).collect();
    let pod = Pod { spec, containers };
    // A pod for Windows need not say what only Linux has.
    let linux = spec.text_at(&["os", "name"]) != Some("windows");
    let checks = if restricted {
        vec![
            pod.host_namespaces(),
            pod.host_ports(),
            pod.privileged(),
            pod.sysctls(),
            pod.privilege_escalation().filter(|_| linux),
            pod.all_capabilities().filter(|_| linux),
            pod.volumes(),
            pod.run_as_non_root(),
            pod.run_as_user(),
            pod.seccomp(true).filter(|_| linux),
        ]
    } else {
        vec![
            pod.capabilities(),
            pod.host_namespaces(),
            pod.host_paths(),
            pod.host_ports(),
            pod.privileged(),
            pod.seccomp(false),
            pod.sysctls(),
        ]
    };
    checks.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

impl<'t, 'a> Pod<'t, 'a> {
    /// The names of containers, whose security context may be absent.
    fn names(&self, is: impl Fn(Option<&'t Tree<'a>>) -> bool) -> Vec<&'t str> {
        let all = self.containers.iter().filter(|(_, container)| is(container.get("securityContext")));
        all.map(|(name, _)| *name).collect()
    }

    fn context(&self, key: &str) -> Option<&'t Tree<'a>> {
        self.spec.at(&["securityContext", key])
    }

    fn host_namespaces(&self) -> Option<String> {
        let keys = ["hostNetwork", "hostPID", "hostIPC"];
        let set = keys.iter().filter(|key| self.spec.get(key).and_then(Tree::boolean) == Some(true));
        let set: Vec<String> = set.map(|key| format!("{key}=true")).collect();
        (!set.is_empty()).then(|| format!("host namespaces ({})", set.join(", ")))
    }

    fn host_paths(&self) -> Option<String> {
        let volumes = maps(self.spec, "volumes").into_iter().filter(|volume| volume.get("hostPath").is_some());
        let names: Vec<&str> = volumes.filter_map(|volume| volume.text_at(&["name"])).collect();
        (!names.is_empty()).then(|| format!("hostPath volumes ({})", named("volume", &names)))
    }

    fn volumes(&self) -> Option<String> {
        let mut kinds = BTreeSet::new();
        let mut names = Vec::new();
        for volume in maps(self.spec, "volumes") {
            // Without a kind it is an emptyDir.
            let kind = volume.entries().iter().find(|(key, value)| key != "name" && !value.is_null());
            if let Some(kind) = kind.map(|(key, _)| key.as_ref()).filter(|kind| !VOLUMES.contains(kind)) {
                names.push(volume.text_at(&["name"]).unwrap_or_default());
                kinds.insert(kind);
            }
        }
        let (use_, plural) = (if names.len() == 1 { "uses" } else { "use" }, if kinds.len() == 1 { "" } else { "s" });
        let kinds = quoted(kinds.into_iter());
        (!names.is_empty()).then(|| {
            format!(
                "restricted volume types ({} {use_} restricted volume type{plural} {kinds})",
                named("volume", &names)
            )
        })
    }

    /// On the network of the node, every port is one (`SetDefaults_Pod`).
    fn host_ports(&self) -> Option<String> {
        let on_node = self.spec.get("hostNetwork").and_then(Tree::boolean) == Some(true);
        let mut ports = BTreeSet::new();
        let mut names = Vec::new();
        for (name, container) in &self.containers {
            let number = |port: &&Tree<'a>, key| port.get(key).and_then(Tree::integer).filter(|number| *number != 0);
            let has = |port: &Tree<'a>| {
                let inside = || number(&port, "containerPort").filter(|_| on_node);
                number(&port, "hostPort").or_else(inside)
            };
            let own: Vec<i64> = maps(container, "ports").into_iter().filter_map(has).collect();
            if !own.is_empty() {
                names.push(*name);
            }
            ports.extend(own.iter().map(i64::to_string));
        }
        let (use_, plural) = (if names.len() == 1 { "uses" } else { "use" }, if ports.len() == 1 { "" } else { "s" });
        let list = ports.into_iter().collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| format!("hostPort ({} {use_} hostPort{plural} {list})", named("container", &names)))
    }

    fn privileged(&self) -> Option<String> {
        let names = self.names(|context| boolean(context, "privileged") == Some(true));
        let who = named("container", &names);
        (!names.is_empty()).then(|| format!("privileged ({who} must not set securityContext.privileged=true)"))
    }

    /// Containers that add others than `allowed`, and what they must not add.
    fn adding(&self, allowed: &[&str]) -> Option<String> {
        let beyond = |context: Option<&Tree<'_>>| {
            let mut added = listed(context, "add");
            added.retain(|name| !allowed.contains(&name.as_str()));
            added
        };
        let names = self.names(|context| !beyond(context).is_empty());
        let added: BTreeSet<String> =
            self.containers.iter().flat_map(|(_, container)| beyond(container.get("securityContext"))).collect();
        let (who, what) = (named("container", &names), quoted(added.iter().map(String::as_str)));
        (!names.is_empty()).then(|| format!("{who} must not include {what} in securityContext.capabilities.add"))
    }

    fn capabilities(&self) -> Option<String> {
        self.adding(&CAPABILITIES).map(|detail| format!("non-default capabilities ({detail})"))
    }

    fn all_capabilities(&self) -> Option<String> {
        let keep = self.names(|context| !listed(context, "drop").iter().any(|name| name == "ALL"));
        let who = named("container", &keep);
        let keep = (!keep.is_empty()).then(|| format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
        let details: Vec<String> = [keep, self.adding(&["NET_BIND_SERVICE"])].into_iter().flatten().collect();
        (!details.is_empty()).then(|| format!("unrestricted capabilities ({})", details.join("; ")))
    }

    fn privilege_escalation(&self) -> Option<String> {
        let names = self.names(|context| boolean(context, "allowPrivilegeEscalation") != Some(false));
        let who = named("container", &names);
        (!names.is_empty()).then(|| {
            format!("allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)")
        })
    }

    fn run_as_non_root(&self) -> Option<String> {
        let pod = self.context("runAsNonRoot").and_then(Tree::boolean);
        let key = "runAsNonRoot";
        let bad = self.names(|context| boolean(context, key) == Some(false));
        let silent = self.names(|context| boolean(context, key).is_none() && pod != Some(true));
        let detail = match (setters(pod == Some(false), &bad), &silent[..]) {
            (Some(who), _) => format!("{who} must not set securityContext.runAsNonRoot=false"),
            (None, []) => return None,
            (None, _) => format!("pod or {} must set securityContext.runAsNonRoot=true", named("container", &silent)),
        };
        Some(format!("runAsNonRoot != true ({detail})"))
    }

    fn run_as_user(&self) -> Option<String> {
        let is_root = |user: Option<&Tree<'_>>| user.and_then(Tree::integer) == Some(0);
        let names = self.names(|context| is_root(context.and_then(|context| context.get("runAsUser"))));
        let who = setters(is_root(self.context("runAsUser")), &names)?;
        Some(format!("runAsUser=0 ({who} must not set runAsUser=0)"))
    }

    fn seccomp(&self, restricted: bool) -> Option<String> {
        let is_good = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
        let kind = |context: Option<&'t Tree<'a>>| {
            context?.get("seccompProfile").map(|profile| profile.text_at(&["type"]).unwrap_or_default())
        };
        let pod = kind(self.spec.get("securityContext"));
        let bad = self.names(|context| kind(context).is_some_and(|kind| !is_good(kind)));
        let silent = self.names(|context| kind(context).is_none() && !pod.is_some_and(is_good));
        let contexts = self.containers.iter().map(|(_, container)| kind(container.get("securityContext")));
        let values: BTreeSet<&str> = contexts.chain([pod]).flatten().filter(|kind| !is_good(kind)).collect();
        let detail = match (setters(pod.is_some_and(|kind| !is_good(kind)), &bad), &silent[..]) {
            (Some(who), _) => {
                format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(values.into_iter()))
            }
            (None, [_, ..]) if restricted => format!(
                "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
                named("container", &silent)
            ),
            _ => return None,
        };
        Some(format!("seccompProfile ({detail})"))
    }

    fn sysctls(&self) -> Option<String> {
        let sysctls = self.spec.get("securityContext").map(|context| maps(context, "sysctls")).unwrap_or_default();
        let names = sysctls.iter().filter_map(|sysctl| sysctl.text_at(&["name"]));
        let names: Vec<&str> = names.filter(|name| !SYSCTLS.contains(name)).collect();
        (!names.is_empty()).then(|| format!("forbidden sysctls ({})", names.join(", ")))
    }
}

fn boolean(context: Option<&Tree<'_>>, key: &str) -> Option<bool> {
    context?.get(key)?.boolean()
}

fn listed(context: Option<&Tree<'_>>, key: &str) -> Vec<String> {
    context.and_then(|context| texts(context.get("capabilities")?, key)).unwrap_or_default()
}

/// Who sets what must not be set.
fn setters(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names) {
        (false, []) => None,
        (true, []) => Some("pod".to_owned()),
        (false, _) => Some(named("container", names)),
        (true, _) => Some(format!("pod and {}", named("container", names))),
    }
}

/// `containers "a", "b"`.
fn named(what: &str, names: &[&str]) -> String {
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{what}{plural} {}", quoted(names.iter().copied()))
}

fn quoted<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}
