//! Manifests that run an image: Kubernetes objects, Compose files, values of Kong's Helm chart. What comes out is how the
//! image is run ([`Container`]), and what the API server, the kubelet or the engine will say to it.

mod admission;
mod chart;
mod compose;
mod constraint;
mod environment;
mod host_network;
mod interpolate;
mod overlay;
mod pod;
mod pod_security;
mod security;
mod service;
mod tree;
mod typed;
mod validation;
mod values;

use std::collections::{BTreeSet, HashMap};

use self::environment::ConfigMaps;
use self::pod::Cluster;
use self::tree::{Budget, Tree, Value};
use self::typed::Refusal;
use super::{Container, Finding};
use crate::error::{Error, Result};
use crate::kubernetes::Manifest;
use crate::kubernetes::yaml::{self, Stream};

/// Containers of the image that there may be, and Services that are looked at.
const MAX_CONTAINERS: usize = 1000;

/// Other images that an error names.
const MAX_NAMES: usize = 5;

/// What manifests say about an image.
#[derive(Debug, Default)]
pub struct Found {
    /// Every container of the image, with what the manifest says about it.
    pub containers: Vec<Container>,
    /// What can be said without the image.
    pub findings: Vec<Finding>,
    /// What else is known of each container.
    pub(super) details: Vec<Detail>,
    /// Services among the manifests.
    pub(super) services: Vec<Service>,
}

/// What is known of a container beside how it is run.
#[derive(Debug)]
pub(super) struct Detail {
    pub(super) format: Format,
    /// Characters before the keys of the container.
    pub(super) indent: usize,
    /// Where the container is in its document: `spec.template.spec.containers[kong]`.
    pub(super) path: String,
    /// `DaemonSet kong`.
    pub(super) title: String,
    /// Capabilities that are added, as written.
    pub(super) add: Vec<String>,
    /// Capabilities that are dropped, as written.
    pub(super) drop: Vec<String>,
    pub(super) ports: Vec<Port>,
    pub(super) namespace: Option<String>,
    /// Labels of the pod.
    pub(super) labels: HashMap<String, String>,
    pub(super) pull_policy: Option<String>,
}

/// What a container is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Kubernetes,
    Compose,
    Values,
}

/// A port of a container.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) place: String,
    pub(super) name: String,
    pub(super) container: u16,
    pub(super) host: Option<u16>,
    pub(super) tcp: bool,
}

/// A Service of Kubernetes.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) selector: Vec<(String, String)>,
    /// Where each port that goes to a number is, the port and the number.
    pub(super) ports: Vec<(String, u16, u16)>,
}

impl Found {
    fn push(&mut self, container: Container, detail: Detail) -> Result<()> {
        if self.containers.len() >= MAX_CONTAINERS {
            return Err(Error::content(format!(
                "{}: more than {MAX_CONTAINERS} containers use the image",
                container.place
            )));
        }
        self.containers.push(container);
        self.details.push(detail);
        Ok(())
    }
}

/// Which images are meant, and which others there are.
struct Images<'f> {
    meant: &'f dyn Fn(&str) -> bool,
    others: BTreeSet<String>,
    /// What could not be read of objects in which the image was not found.
    refusal: Option<Refusal>,
}

impl Images<'_> {
    /// Remembers why the image may not have been found in an object.
    fn refused(&mut self, refusal: Option<Refusal>) {
        self.refusal = self.refusal.take().or(refusal);
    }

    /// Whether an image is meant.
    fn is_meant(&mut self, image: &str, at: &Tree<'_>) -> Result<bool> {
        if image.contains("{{") {
            return Err(template(at.file, at.line));
        }
        let meant = (self.meant)(image);
        if !meant && (self.others.len() < MAX_NAMES || self.others.contains(image)) {
            self.others.insert(image.to_owned());
        }
        Ok(meant)
    }
}

/// A document, and what it is.
enum Document<'a> {
    Object(Tree<'a>),
    Compose(Tree<'a>),
    Values(Tree<'a>),
}

/// Reads `manifests`, which belong together, and takes out every container whose image `is_image` says yes to; `image` is
/// what to call that image. Several Compose files, or several files with values, are laid over each other as their tools do.
///
/// # Errors
/// [`Kind::Content`](crate::error::Kind::Content), with file and line, if a manifest is no YAML, is a template, is nothing
/// that is known here, or grows without bounds; [`Kind::NotFound`](crate::error::Kind::NotFound) if no container uses
/// the image.
pub fn read(manifests: &[Manifest], image: &str, is_image: impl Fn(&str) -> bool) -> Result<Found> {
    let streams = manifests.iter().map(parse).collect::<Result<Vec<_>>>()?;
    let mut budget = Budget::default();
    let (mut objects, mut composes, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (manifest, stream) in manifests.iter().zip(&streams) {
        for root in stream.documents.iter().filter_map(|document| document.root.as_ref()) {
            if let Some(node) = root.template() {
                return Err(template(&manifest.name, node.line));
            }
            match classify(tree::resolve(root, &manifest.name, &mut budget)?)? {
                None => {}
                Some(Document::Object(tree)) => flatten(tree, &mut objects),
                Some(Document::Compose(tree)) => composes.push(tree),
                Some(Document::Values(tree)) => values.push(tree),
            }
        }
    }
    let mut found = Found::default();
    let mut images = Images { meant: &is_image, others: BTreeSet::new(), refusal: None };
    let cluster = Cluster { configs: configs(&objects), namespaces: namespaces(&objects) };
    for object in &objects {
        match object.text_at(&["kind"]) {
            Some("Service") if !is_custom(object) && found.services.len() < MAX_CONTAINERS => {
                found.services.extend(service::read(object))
            }
            _ => pod::read(object, &cluster, &mut images, &mut found, &mut budget)?,
        }
    }
    let has_values = !values.is_empty();
    compose::read(composes, &mut images, &mut found, &mut budget)?;
    values::read(values, &mut images, &mut found, &mut budget)?;
    if found.containers.is_empty() {
        if let Some(unread) = found.findings.iter().find(|finding| finding.code == pod::NOT_READ) {
            return Err(Error::content(format!("{}: {}", unread.place, unread.what)));
        }
        return Err(nothing(image, &images, has_values));
    }
    Ok(found)
}

fn parse(manifest: &Manifest) -> Result<Stream> {
    yaml::read(&manifest.text, &manifest.name).map_err(|error| {
        // The hint of `k8s` is about edits.
        if manifest.text.contains("{{") { error.hint(RENDER) } else { error }
    })
}

/// Whether an object is of an API group that has a domain of its own: Knative has a `Service` too.
fn is_custom(object: &Tree<'_>) -> bool {
    object.text_at(&["apiVersion"]).is_some_and(|version| version.contains('/'))
}

const RENDER: &str = "render the chart first: helm template … | capatch doctor IMAGE -f -";

fn template(file: &str, line: usize) -> Error {
    Error::content(format!("{file}:{line}: this is a template")).hint(RENDER)
}

/// Says what a document is, if there is anything in it.
fn classify(tree: Tree<'_>) -> Result<Option<Document<'_>>> {
    let error = |what: &str| {
        Error::content(format!("{}: {what}", tree.place())).hint(
            "manifests are Kubernetes objects, Compose files with services, or values of the charts kong and ingress",
        )
    };
    match &tree.value {
        Value::Null => return Ok(None),
        Value::Map(entries) if entries.is_empty() => return Ok(None),
        Value::Map(_) => {}
        _ => return Err(error("this is no mapping, so it is no manifest")),
    }
    if tree.get("kind").is_some() || tree.get("apiVersion").is_some() {
        return match tree.text_at(&["kind"]) {
            Some(_) => Ok(Some(Document::Object(tree))),
            None => Err(error("this object has no kind")),
        };
    }
    if tree.get("services").is_some() {
        return Ok(Some(Document::Compose(tree)));
    }
    if values::are_these(&tree) {
        return Ok(Some(Document::Values(tree)));
    }
    Err(error("this is no manifest that is known here"))
}

/// The object, or the items of a list.
fn flatten<'a>(tree: Tree<'a>, objects: &mut Vec<Tree<'a>>) {
    let is_list = tree.text_at(&["kind"]).is_some_and(|kind| kind.ends_with("List"));
    let kind = tree.text_at(&["kind"]).and_then(|kind| kind.strip_suffix("List")).unwrap_or_default().to_owned();
    let version = tree.text_at(&["apiVersion"]).unwrap_or_default().to_owned();
    let Value::Map(entries) = tree.value else { return };
    let tree = |entries| Tree { value: Value::Map(entries), ..tree };
    if !is_list {
        return objects.push(tree(entries));
    }
    let items = entries.into_iter().find(|(key, _)| key == "items").map(|(_, items)| items.value);
    let Some(Value::List(items)) = items else { return };
    for mut item in items {
        // The items of a typed list need not say what they are.
        let missing = item.get("kind").is_none() && !kind.is_empty();
        if let (true, Value::Map(entries)) = (missing, &mut item.value) {
            for (key, value) in [("kind", &kind), ("apiVersion", &version)] {
                entries.push((key.into(), Tree::made(item.file, Value::Text(value.clone().into(), false))));
            }
        }
        objects.push(item);
    }
}

fn configs<'t, 'a>(objects: &'t [Tree<'a>]) -> ConfigMaps<'t, 'a> {
    let mut configs = ConfigMaps::default();
    for object in objects.iter().filter(|object| object.text_at(&["kind"]) == Some("ConfigMap")) {
        if let (Some(name), Some(data)) = (object.text_at(&["metadata", "name"]), object.get("data")) {
            configs.add(name, object.text_at(&["metadata", "namespace"]), data);
        }
    }
    configs
}

fn namespaces<'t>(objects: &'t [Tree<'_>]) -> HashMap<&'t str, &'t str> {
    let namespaces = objects.iter().filter(|object| object.text_at(&["kind"]) == Some("Namespace"));
    let level = |object: &'t Tree<'_>| {
        let level = object.text_at(&["metadata", "labels", "pod-security.kubernetes.io/enforce"])?;
        Some((object.text_at(&["metadata", "name"])?, level))
    };
    namespaces.filter_map(level).collect()
}

fn nothing(image: &str, images: &Images<'_>, values: bool) -> Error {
    let others = &images.others;
    let error = Error::not_found(format!("no container in these manifests uses {image}"));
    if let Some(Refusal { place, says }) = &images.refusal {
        return error.hint(format!("{place}: the API server cannot read this: {says}"));
    }
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().split([':', '@']).next().map(str::to_owned);
    let alike: Vec<&String> = others.iter().filter(|other| last(other) == last(image)).collect();
    match (&alike[..], others.len()) {
        _ if values => error.hint("the chart runs kong:3.9 unless image.repository and image.tag say otherwise"),
        ([one], _) => error.hint(format!("there is {one}: put the image into the manifest first, or look at {one}")),
        (_, 0) => error.hint("there is no container in them at all"),
        _ => error.hint(format!("there are {}", others.iter().map(String::as_str).collect::<Vec<_>>().join(", "))),
    }
}

#[cfg(test)]
mod tests;
