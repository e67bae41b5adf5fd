//! Objects with pods in them: which kinds, and what is edited outside of containers.

use std::collections::HashMap;

use super::container::{self, Role};
use super::cursor::Cursor;
use super::edit::Edits;
use super::new::New;
use super::yaml::{Node, boolean};
use super::{Object, Options, Warning, Way, host_network, warn};
use crate::error::{Error, Result};

/// An object whose pods serve what Kong proxies.
pub(super) struct Workload<'a> {
    pub(super) cursor: Cursor<'a>,
    pub(super) namespace: Option<&'a str>,
    pub(super) labels: HashMap<&'a str, &'a str>,
    /// Names of its container ports for the proxy, with the ports that they have now.
    pub(super) ports: Vec<(String, u16)>,
    /// How many containers run Kong.
    pub(super) containers: usize,
    /// Whether its ports are low ones after the edits.
    pub(super) serves: bool,
}

/// Where each kind has its pod.
pub(crate) const POD_TEMPLATES: &[(&str, &[&str])] = &[
    ("Deployment", &["spec", "template"]),
    ("DaemonSet", &["spec", "template"]),
    ("StatefulSet", &["spec", "template"]),
    ("ReplicaSet", &["spec", "template"]),
    ("ReplicationController", &["spec", "template"]),
    // Of OpenShift and of Argo.
    ("DeploymentConfig", &["spec", "template"]),
    ("Rollout", &["spec", "template"]),
    ("Job", &["spec", "template"]),
    ("CronJob", &["spec", "jobTemplate", "spec", "template"]),
    ("PodTemplate", &["template"]),
    ("Pod", &[]),
];

/// Lists of containers in a pod.
pub(crate) const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// What a Deployment has and a DaemonSet has not (apps/v1).
const DEPLOYMENT_ONLY: [&str; 4] = ["replicas", "strategy", "progressDeadlineSeconds", "paused"];

/// Versions that were served once.
const OLD_VERSIONS: [&str; 5] =
    ["extensions/v1beta1", "apps/v1beta1", "apps/v1beta2", "batch/v2alpha1", "batch/v1beta1"];

/// Fields of their specs that the later versions have no more.
const GONE: [&str; 2] = ["rollbackTo", "templateGeneration"];

/// The lowest port that needs no capability, as a sysctl (ip(7)).
pub(crate) const UNPRIVILEGED_PORT_START: &str = "net.ipv4.ip_unprivileged_port_start";

/// Edits an object that runs Kong; `None` if it does not, or is left alone.
pub(super) fn edit<'a>(
    object: &Object<'a>,
    edits: &mut Edits<'_>,
    options: &Options,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Workload<'a>>> {
    let kind = object.kind();
    let kong = |node: &&Node| node.text().is_some_and(|image| image.contains([':', '@']) && options.is_kong(image));
    let Some((_, path)) = POD_TEMPLATES.iter().find(|(name, _)| *name == kind) else {
        let mut texts = Vec::new();
        object.cursor.node.texts(&mut texts);
        if kind != "ConfigMap"
            && kind != "Secret"
            && let Some(node) = texts.into_iter().find(kong)
        {
            let place = Cursor { node, ..object.cursor.clone() };
            warn(warnings, &place, format!("{kind} {} names Kong's image and is left as it is", object.name()));
        }
        return Ok(None);
    };
    // Whether it is about Kong at all is asked before anything in it can be wrong.
    let Some(pod) = object.cursor.node.at(path) else { return Ok(None) };
    let is_kong = |node: &Node| node.text_at(&["image"]).is_some_and(|image| options.is_kong(image));
    let has = |list: &str| pod.at(&["spec", list]).is_some_and(|containers| containers.items().iter().any(is_kong));
    if !LISTS.iter().any(|list| has(list)) {
        return Ok(None);
    }
    if let Some(node) = object.cursor.node.template() {
        return Err(Error::content(format!("{}:{}: this is a template", edits.name, node.line))
            .hint("render the chart first (helm template), or use --helm"));
    }
    if matches!(kind, "StatefulSet" | "ReplicaSet" | "ReplicationController" | "DeploymentConfig" | "Rollout") {
        warn(
            warnings,
            &object.cursor,
            format!(
                "{kind} {} runs Kong and is left as it is: make it a Deployment or a DaemonSet first",
                object.name()
            ),
        );
        return Ok(None);
    }
    let Some(pod) = object.cursor.at(path)? else { return Ok(None) };
    let Some(spec) = pod.get("spec")? else { return Ok(None) };
    let serves = has("containers") && matches!(kind, "Deployment" | "DaemonSet" | "Pod");
    let labels = pod.node.at(&["metadata", "labels"]).map(Node::entries).unwrap_or_default();
    let mut workload = Workload {
        cursor: object.cursor.clone(),
        namespace: object.namespace(),
        labels: labels.iter().filter_map(|(key, value)| Some((key.text()?, value.text()?))).collect(),
        ports: Vec::new(),
        containers: 0,
        serves,
    };
    for list in LISTS {
        let Some(containers) = spec.get(list)? else { continue };
        for container in containers.items().iter().filter(|container| is_kong(container.node)) {
            let role = match list {
                "containers" if serves => Role::Serves,
                _ if serves => Role::Helps,
                _ => Role::Works,
            };
            workload.containers += 1;
            container::edit(container, role, &spec, edits, options, warnings, &mut workload.ports)?;
        }
    }
    let spec_path = path.iter().chain(&["spec"]).copied().collect::<Vec<_>>().join(".");
    if let Some(capabilities) = spec.node.at(&["securityContext", "capabilities"]) {
        let place = Cursor { node: capabilities, ..spec.clone() };
        let message = format!(
            "capabilities in the securityContext of a pod do nothing; they belong to containers. The API server refuses them: strict decoding error: unknown field \"{spec_path}.securityContext.capabilities\""
        );
        warn(warnings, &place, message);
    }
    match &options.way {
        Way::Capability { .. } if serves => {
            host_network::edit(&spec, &spec_path, edits, options, warnings)?;
            match kind {
                "Deployment" => daemon_set(object, edits, warnings)?,
                "DaemonSet" => surge(object, warnings),
                _ => {}
            }
        }
        Way::Sysctl if serves => sysctl(&spec, edits)?,
        _ => {}
    }
    // After what is deeper: it may be added where they end too.
    api_version(object, &pod, edits)?;
    Ok(Some(workload))
}

/// The version that is served, with what it asks for.
fn api_version(object: &Object<'_>, pod: &Cursor<'_>, edits: &mut Edits<'_>) -> Result<()> {
    let (new, of_apps) = match object.kind() {
        "CronJob" => ("batch/v1", false),
        "Deployment" | "DaemonSet" => ("apps/v1", true),
        _ => return Ok(()),
    };
    let version = object.cursor.get("apiVersion")?;
    let old = version.as_ref().and_then(|version| version.node.text()).unwrap_or_default();
    if let Some(version) = version.as_ref().filter(|_| OLD_VERSIONS.contains(&old)) {
        edits.replace(version, new, format!("apiVersion {old} → {new}"))?;
    }
    let Some(spec) = object.cursor.get("spec")?.filter(|_| of_apps) else { return Ok(()) };
    let left = GONE.iter().filter(|key| OLD_VERSIONS.contains(&old) && spec.node.get(key).is_some());
    for key in left {
        edits.remove(&spec, key, format!("{key} removed: {new} has no such field"))?;
    }
    // extensions/v1beta1 and apps/v1beta1 took it from the labels; apps/v1 wants it written.
    if spec.get("selector")?.is_none_or(|selector| selector.node.is_null()) {
        let labels = pod.node.at(&["metadata", "labels"]).map(Node::entries).unwrap_or_default();
        let labels: Vec<_> = labels.iter().filter_map(|(k, v)| Some((k.text()?, New::Text(v.text()?)))).collect();
        let selector = New::Map(vec![("matchLabels", New::Map(labels))]);
        edits.set(
            &spec,
            "template",
            "selector",
            &selector,
            "selector: the labels of the pod, which apps/v1 wants written",
        )?;
    }
    Ok(())
}

/// An update that starts the new pod of a node before the old one is gone (`ValidateRollingUpdateDaemonSet`).
fn surge(object: &Object<'_>, warnings: &mut Vec<Warning>) {
    let zero = |node: &Node| matches!(node.text(), Some("0" | "0%"));
    let Some(update) = object.cursor.node.at(&["spec", "updateStrategy", "rollingUpdate"]) else { return };
    let Some(node) = update.get("maxSurge").filter(|surge| !surge.is_null() && !zero(surge)) else { return };
    // Without a value, one pod may be unavailable.
    let refused = if update.get("maxUnavailable").is_some_and(zero) {
        ""
    } else {
        "; the API server refuses both: spec.updateStrategy.rollingUpdate.maxSurge: may not be set when maxUnavailable is non-zero"
    };
    let message = format!(
        "maxSurge starts the new pod beside the old one, which still has ports 80 and 443 of the node: use maxUnavailable{refused}"
    );
    warn(warnings, &Cursor { node, ..object.cursor.clone() }, message);
}

/// Deployment → DaemonSet. Selector and labels stay.
fn daemon_set(object: &Object<'_>, edits: &mut Edits<'_>, warnings: &mut Vec<Warning>) -> Result<()> {
    let name = object.name();
    if let Some(kind) = object.cursor.get("kind")? {
        edits.replace(&kind, "DaemonSet", "kind Deployment → DaemonSet")?;
        warn(
            warnings,
            &kind,
            format!(
                "kubectl apply makes the DaemonSet and leaves the old Deployment: kubectl delete deployment {name}"
            ),
        );
    }
    if object.cursor.get("status")?.is_some() {
        edits.remove(&object.cursor, "status", "status removed")?;
    }
    let Some(spec) = object.cursor.get("spec")? else { return Ok(()) };
    for key in DEPLOYMENT_ONLY {
        if spec.node.get(key).is_some() {
            edits.remove(&spec, key, format!("{key} removed"))?;
        }
    }
    Ok(())
}

/// `net.ipv4.ip_unprivileged_port_start`, which kubelet refuses in the network of the node.
fn sysctl(spec: &Cursor<'_>, edits: &mut Edits<'_>) -> Result<()> {
    if let Some(network) =
        spec.get("hostNetwork")?.filter(|network| network.node.text().and_then(boolean) == Some(true))
    {
        return Err(Error::usage(format!(
            "{}: the pod has hostNetwork, and kubelet refuses {UNPRIVILEGED_PORT_START} there (SysctlForbidden)",
            network.place()
        ))
        .hint("take hostNetwork out, or patch the image and use --image"));
    }
    let what = format!("sysctl {UNPRIVILEGED_PORT_START}: 80");
    let new = || New::Map(vec![("name", New::Text(UNPRIVILEGED_PORT_START)), ("value", New::Text("80"))]);
    let Some(context) = spec.get("securityContext")?.filter(|context| !context.node.is_null()) else {
        let context = New::Map(vec![("sysctls", New::List(vec![new()]))]);
        return edits.set(spec, "containers", "securityContext", &context, what);
    };
    let Some(sysctls) = context.get("sysctls")?.filter(|sysctls| !sysctls.node.is_null()) else {
        return edits.set(&context, "", "sysctls", &New::List(vec![new()]), what);
    };
    let is_it = |item: &Cursor<'_>| {
        item.node.text_at(&["name"]).is_some_and(|name| name.replace('/', ".") == UNPRIVILEGED_PORT_START)
    };
    let there = sysctls.items().into_iter().find(is_it);
    match there.map(|item| item.get("value")).transpose()?.flatten() {
        None => edits.append(&sysctls, &new(), what),
        Some(value) if value.node.text().and_then(|text| text.parse::<u16>().ok()).is_some_and(|start| start <= 80) => {
            Ok(())
        }
        Some(value) => edits.replace(&value, "80", what),
    }
}
