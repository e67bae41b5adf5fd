//! Kubernetes objects with pods in them.

use std::collections::HashMap;

use super::admission;
use super::constraint;
use super::environment::{self, ConfigMaps};
use super::security::Security;
use super::tree::{Budget, Tree};
use super::typed::{self, Refusal, maps, text, texts};
use super::{Detail, Format, Found, Images, Port};
use crate::doctor::start::UNKNOWN;
use crate::doctor::{Command, Container, Finding, Level, Role};
use crate::error::Result;
use crate::kubernetes::{LISTS, POD_TEMPLATES, UNPRIVILEGED_PORT_START};

/// A container of the image in an object of another kind.
pub(super) const NOT_READ: &str = "kind-not-read";

/// The objects of all manifests that belong together.
pub(super) struct Cluster<'t, 'a> {
    pub(super) configs: ConfigMaps<'t, 'a>,
    /// Namespaces, with the level of Pod Security that they enforce.
    pub(super) namespaces: HashMap<&'t str, &'t str>,
}

/// An object with a pod in it.
pub(super) struct Workload<'t, 'a> {
    pub(super) object: &'t Tree<'a>,
    pub(super) kind: &'t str,
    /// `DaemonSet kong`.
    pub(super) title: String,
    pub(super) namespace: Option<&'t str>,
    /// Where the pod's spec is: `spec.template.spec`.
    pub(super) path: String,
    pub(super) template: &'t Tree<'a>,
    pub(super) spec: &'t Tree<'a>,
    pub(super) host_network: bool,
    /// The containers of the image.
    pub(super) containers: Vec<Member<'t, 'a>>,
}

/// A container of a workload.
pub(super) struct Member<'t, 'a> {
    pub(super) tree: &'t Tree<'a>,
    pub(super) security: Security,
    /// Where it is in the spec of its pod, as the API server says it: `initContainers[0]`.
    pub(super) path: String,
}

/// Where an object names the image.
fn image_in(tree: &Tree<'_>, images: &mut Images<'_>) -> Result<Option<String>> {
    for (key, value) in tree.entries() {
        if key == "image"
            && let Some(image) = value.text()
            && images.is_meant(image, value)?
        {
            return Ok(Some(value.place()));
        }
        if let Some(place) = image_in(value, images)? {
            return Ok(Some(place));
        }
    }
    for item in tree.items() {
        if let Some(place) = image_in(item, images)? {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// Takes what uses the image out of an object.
pub(super) fn read(
    object: &Tree<'_>,
    cluster: &Cluster<'_, '_>,
    images: &mut Images<'_>,
    found: &mut Found,
    budget: &mut Budget,
) -> Result<()> {
    let kind = object.text_at(&["kind"]).unwrap_or_default();
    let Some((_, keys)) = POD_TEMPLATES.iter().find(|(name, _)| *name == kind) else {
        if !matches!(kind, "ConfigMap" | "Secret")
            && let Some(place) = image_in(object, images)?
        {
            found.findings.push(Finding {
                code: NOT_READ,
                level: Level::Warning,
                place,
                what: format!(
                    "what becomes of the container there is not told: {kind} is no kind of object that is known here"
                ),
                why: "where other kinds have their pods, only their own controllers know".to_owned(),
                fix: None,
            });
        }
        return Ok(());
    };
    let refusal = typed::refusal(object, kind, keys);
    let template = object.at(keys);
    let Some((template, spec)) = template.and_then(|template| Some((template, template.get("spec")?))) else {
        images.refused(refusal);
        return Ok(());
    };
    let name = object.text_at(&["metadata", "name"]).or(object.text_at(&["metadata", "generateName"]));
    let mut workload = Workload {
        object,
        kind,
        title: format!("{kind} {}", name.unwrap_or("?")),
        namespace: object.text_at(&["metadata", "namespace"]),
        path: keys.iter().chain(&["spec"]).copied().collect::<Vec<_>>().join("."),
        template,
        spec,
        host_network: spec.get("hostNetwork").and_then(Tree::boolean).unwrap_or_default(),
        containers: Vec::new(),
    };
    for list in LISTS {
        for (at, tree) in maps(spec, list).into_iter().enumerate() {
            let Some(image) = text(tree, "image") else { continue };
            if images.is_meant(image, tree)? {
                let (container, detail, security) = read_container(&workload, list, tree, cluster, budget)?;
                workload.containers.push(Member { tree, security, path: format!("{list}[{at}]") });
                found.push(container, detail)?;
            }
        }
    }
    if workload.containers.is_empty() {
        images.refused(refusal);
    } else {
        refuse(object, kind, refusal, found);
        admission::check(&workload, cluster, &mut found.findings);
    }
    Ok(())
}

/// What the API server says to an object in which something has the wrong type.
fn refuse(object: &Tree<'_>, kind: &str, refusal: Option<Refusal>, found: &mut Found) {
    let version = object.text_at(&["apiVersion"]).unwrap_or_default();
    let version = version.rsplit('/').next().unwrap_or_default();
    if let Some(Refusal { place, says }) = refusal {
        found.findings.push(Finding {
            code: "refused-by-api-server",
            level: Level::Breaks,
            place,
            what: format!("kubectl apply fails: {kind} in version \"{version}\" cannot be handled as a {kind}: {says}"),
            why: "a field has a value of another type than the API has; it is left out of account here".to_owned(),
            fix: None,
        });
    }
}

fn read_container(
    workload: &Workload<'_, '_>,
    list: &str,
    container: &Tree<'_>,
    cluster: &Cluster<'_, '_>,
    budget: &mut Budget,
) -> Result<(Container, Detail, Security)> {
    let name = text(container, "name").unwrap_or("?");
    let pod_context = workload.spec.get("securityContext");
    let mut security = Security::kubernetes(container.get("securityContext"), pod_context);
    let admitted = constraint::constraint(workload);
    let (bounding, no_new_privileges) = admitted.apply(&mut security);
    let (env, env_from) = environment::read(container, workload.namespace, &cluster.configs, budget)?;
    let values: HashMap<String, Option<String>> =
        env.iter().map(|variable| (variable.name.clone(), variable.value.clone())).collect();
    let mut argv = |key| -> Result<Option<Vec<String>>> {
        // An empty list is as none: the image's counts.
        let Some(words) = texts(container, key).filter(|words| !words.is_empty()) else { return Ok(None) };
        let expand = |word: String| {
            let expanded = environment::expand(&word, &values, container.file, budget)?;
            Ok(expanded.unwrap_or_else(|| UNKNOWN.to_string()))
        };
        words.into_iter().map(expand).collect::<Result<_>>().map(Some)
    };
    let (command, args) = (argv("command")?, argv("args")?);
    let sidecar = list == "initContainers" && container.text_at(&["restartPolicy"]) == Some("Always");
    let role = match (list, workload.kind) {
        (_, "Job" | "CronJob") | ("ephemeralContainers", _) => Role::Job,
        ("initContainers", _) if !sidecar => Role::Init,
        _ => Role::Main,
    };
    let what = match list {
        "initContainers" => "init container",
        "ephemeralContainers" => "ephemeral container",
        _ => "container",
    };
    let groups = pod_context.map(groups).unwrap_or_default();
    let sysctls = pod_context.map(|context| maps(context, "sysctls")).unwrap_or_default();
    let start = sysctls.iter().rev().find(|sysctl| sysctl.text_at(&["name"]) == Some(UNPRIVILEGED_PORT_START));
    let mounts = maps(container, "volumeMounts");
    let detail = Detail {
        format: Format::Kubernetes,
        indent: container.column,
        path: format!("{}.{list}[{name}]", workload.path),
        title: workload.title.clone(),
        add: security.add.clone(),
        drop: security.drop.clone(),
        ports: ports(container),
        namespace: workload.namespace.map(str::to_owned),
        labels: labels(workload.template),
        pull_policy: text(container, "imagePullPolicy").map(str::to_owned),
    };
    let read = Container {
        place: container.place(),
        name: format!("{}, {what} {name}", workload.title),
        image: text(container, "image").unwrap_or_default().to_owned(),
        role,
        command,
        args,
        env,
        env_from,
        user: security.user.clone(),
        groups,
        run_as_non_root: security.run_as_non_root,
        bounding,
        no_new_privileges,
        read_only: security.read_only,
        host_network: workload.host_network,
        user_namespace: workload.spec.get("hostUsers").and_then(Tree::boolean) == Some(false),
        unprivileged_port_start: start.and_then(|sysctl| text(sysctl, "value")?.parse().ok()),
        windows: admission::windows_at(workload.spec).is_some(),
        mounts: mounts.iter().filter_map(|mount| Some(text(mount, "mountPath")?.to_owned())).collect(),
        commands: commands(container),
        docker: false,
    };
    Ok((read, detail, security))
}

/// `supplementalGroups`, and `fsGroup`, which is one of the groups of every process too (core/v1, `PodSecurityContext`).
fn groups(context: &Tree<'_>) -> Vec<String> {
    let listed = context.get("supplementalGroups").map(Tree::items).unwrap_or_default();
    listed.iter().chain(context.get("fsGroup")).filter_map(|group| Some(group.integer()?.to_string())).collect()
}

/// Hooks and probes that execute something.
fn commands(container: &Tree<'_>) -> Vec<Command> {
    let mut found = Vec::new();
    let mut add = |parent: Option<&Tree<'_>>, what: &str| {
        let Some(exec) = parent.and_then(|tree| tree.at(&[what, "exec"])) else { return };
        if let Some(argv) = texts(exec, "command").filter(|argv| !argv.is_empty()) {
            found.push(Command { place: exec.get("command").unwrap_or(exec).place(), what: what.to_owned(), argv });
        }
    };
    ["startupProbe", "livenessProbe", "readinessProbe"].iter().for_each(|what| add(Some(container), what));
    ["postStart", "preStop"].iter().for_each(|what| add(container.get("lifecycle"), what));
    found
}

fn ports(container: &Tree<'_>) -> Vec<Port> {
    let ports = maps(container, "ports");
    let number = |port: &Tree<'_>, key| {
        let number = port.get(key).and_then(Tree::integer)?;
        u16::try_from(number).ok().filter(|number| *number != 0)
    };
    let read = |port: &&Tree<'_>| {
        let name = port.text_at(&["name"]).unwrap_or_default().to_owned();
        let tcp = port.text_at(&["protocol"]).is_none_or(|protocol| protocol == "TCP");
        let (container, host) = (number(port, "containerPort")?, number(port, "hostPort"));
        let place = port.get("containerPort").unwrap_or(port).place();
        Some(Port { place, name, container, host, tcp })
    };
    ports.iter().filter_map(read).collect()
}

/// The labels of a pod.
fn labels(template: &Tree<'_>) -> HashMap<String, String> {
    let labels = template.at(&["metadata", "labels"]).map(Tree::entries).unwrap_or_default();
    labels.iter().filter_map(|(key, value)| Some((key.clone().into_owned(), value.text()?.to_owned()))).collect()
}
