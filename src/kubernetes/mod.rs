//! Kubernetes manifests that run Kong, edited so that it listens on ports 80 and 443 of the node: what is edited, and why.
//!
//! What is not edited keeps its bytes. The result is read again, must differ from the old tree at the declared paths only,
//! and must need no further edit; else nothing is handed out.

mod container;
mod cursor;
mod edit;
mod helm;
mod host_network;
mod lines;
mod new;
pub(crate) mod number;
mod proof;
mod service;
mod workload;
pub(crate) mod yaml;

use serde::Serialize;

pub use edit::Change;
pub use helm::values;
pub(crate) use workload::{LISTS, POD_TEMPLATES, UNPRIVILEGED_PORT_START};

use self::cursor::Cursor;
use self::edit::Edits;
use crate::error::{Error, Result};
use crate::oci::reference::Reference;

/// The ports of Kong's proxy and what they become.
const PORTS: [(u16, u16); 2] = [(8000, 80), (8443, 443)];

/// A file with Kubernetes objects in YAML or JSON.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// What to call it in messages.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// What lets Kong have ports below 1024.
#[derive(Clone, Debug)]
pub enum Way {
    /// This patched image, in the network of the node.
    Capability {
        /// The image.
        image: Reference,
        /// As the user wrote it, which goes into the manifests.
        written: String,
    },
    /// The sysctl `net.ipv4.ip_unprivileged_port_start` in the pod's own network, without another image.
    Sysctl,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The way to low ports.
    pub way: Way,
    /// Images that are Kong: any tag of the repository, or exactly one if a tag or digest is given.
    pub old: Vec<Reference>,
    /// Rewrite `KONG_STREAM_LISTEN` too.
    pub stream: bool,
    /// Keep and retarget the Service instead of removing it.
    pub keep_service: bool,
}

/// Something to know, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// `FILE:LINE`.
    pub place: String,
    /// One sentence.
    pub message: String,
}

/// One file after the edits.
#[derive(Clone, Debug)]
pub struct Edited {
    /// The manifest with its new text.
    pub manifest: Manifest,
    /// What changed; none if the text is what it was.
    pub changes: Vec<Change>,
}

/// All files after the edits.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// In the order given.
    pub files: Vec<Edited>,
    /// What the edits leave open.
    pub warnings: Vec<Warning>,
    /// How many containers run Kong.
    pub containers: usize,
}

impl Options {
    /// Whether an image of a manifest is Kong.
    fn is_kong(&self, image: &str) -> bool {
        let Ok(Reference::Registry { repository, target }) = image.parse() else { return false };
        let same = |old: &Reference, any: bool| match old {
            Reference::Registry { repository: r, target: t } => {
                *r == repository && (any || t.is_none() || *t == target)
            }
            _ => false,
        };
        let new = match &self.way {
            Way::Capability { image, .. } => same(image, true),
            Way::Sysctl => false,
        };
        new || self.old.iter().any(|old| same(old, false))
    }
}

/// Makes the edits in all of `manifests`, which belong together: a Service may be in another file than its pods.
///
/// # Errors
/// [`Kind::Content`](crate::error::Kind::Content), with file and line, if a manifest cannot be read or edited in its place;
/// [`Kind::Usage`](crate::error::Kind::Usage) if the way does not lead there.
pub fn rewrite(manifests: &[Manifest], options: &Options) -> Result<Outcome> {
    let outcome = once(manifests, options)?;
    let edited: Vec<Manifest> = outcome.files.iter().map(|file| file.manifest.clone()).collect();
    let again = once(&edited, options)?;
    if let Some((file, change)) = again.files.iter().find_map(|file| Some((file, file.changes.first()?))) {
        return Err(Error::failed(format!("{}: internal error: {} is not done", file.manifest.name, change.what)));
    }
    Ok(outcome)
}

fn once(manifests: &[Manifest], options: &Options) -> Result<Outcome> {
    let read = |manifest: &Manifest| yaml::read(&manifest.text, &manifest.name);
    let streams = manifests.iter().map(read).collect::<Result<Vec<_>>>()?;
    let mut files: Vec<Edits<'_>> =
        manifests.iter().zip(&streams).map(|(m, stream)| Edits::new(&m.name, &m.text, stream)).collect();
    let mut warnings = Vec::new();
    let objects: Vec<Object<'_>> = files
        .iter()
        .zip(&streams)
        .enumerate()
        .flat_map(|(at, (file, stream))| objects(at, file.name, stream))
        .collect();
    let mut workloads = Vec::new();
    for object in &objects {
        if let Some(workload) = workload::edit(object, &mut files[object.file], options, &mut warnings)? {
            workloads.push(workload);
        }
    }
    let mut serving = workloads.iter().filter(|workload| workload.serves);
    if let (Way::Capability { .. }, Some(_), Some(second)) = (&options.way, serving.next(), serving.next()) {
        let message = "this is the second that binds ports 80 and 443 of its node: let the two run on different nodes";
        warn(&mut warnings, &second.cursor, message);
    }
    service::edit(&objects, &workloads, &mut files, options, &mut warnings)?;
    let containers = workloads.iter().map(|workload| workload.containers).sum();
    let files = files.into_iter().zip(manifests).map(|(edits, manifest)| {
        let (text, changes) = edits.apply()?;
        Ok(Edited { manifest: Manifest { name: manifest.name.clone(), text }, changes })
    });
    Ok(Outcome { files: files.collect::<Result<_>>()?, warnings, containers })
}

/// A Kubernetes object and where it is.
struct Object<'a> {
    /// The number of its file.
    file: usize,
    /// The number of its document.
    document: usize,
    cursor: Cursor<'a>,
    /// The list that it is an item of, and its number there.
    list: Option<(Cursor<'a>, usize)>,
}

impl<'a> Object<'a> {
    fn kind(&self) -> &'a str {
        self.cursor.node.text_at(&["kind"]).unwrap_or_default()
    }

    fn name(&self) -> &'a str {
        self.cursor.node.text_at(&["metadata", "name"]).unwrap_or_default()
    }

    /// Whether it is a Deployment that becomes a DaemonSet.
    fn converted(&self, options: &Options) -> bool {
        let spec = self.cursor.node.at(&["spec", "template", "spec"]);
        let kong = |node: &yaml::Node| node.text_at(&["image"]).is_some_and(|image| options.is_kong(image));
        let containers = spec.and_then(|spec| spec.get("containers")).map(yaml::Node::items).unwrap_or_default();
        let host_network = matches!(options.way, Way::Capability { .. });
        host_network && self.kind() == "Deployment" && containers.iter().any(kong)
    }

    fn namespace(&self) -> Option<&'a str> {
        self.cursor.node.text_at(&["metadata", "namespace"])
    }
}

/// The objects of a file, those in lists one by one.
fn objects<'a>(file: usize, name: &'a str, stream: &'a yaml::Stream) -> Vec<Object<'a>> {
    let mut objects = Vec::new();
    for (document, root) in stream.documents.iter().enumerate().filter_map(|(at, d)| Some((at, d.root.as_ref()?))) {
        let cursor = Cursor { file: name, node: root, path: document.to_string() };
        match cursor.get("items") {
            Ok(Some(items)) if root.text_at(&["kind"]).is_some_and(|kind| kind.ends_with("List")) => {
                for cursor in items.items() {
                    let at = cursor.path.rsplit('/').next().and_then(|at| at.parse().ok()).unwrap_or_default();
                    objects.push(Object { file, document, cursor, list: Some((items.clone(), at)) });
                }
            }
            _ => objects.push(Object { file, document, cursor, list: None }),
        }
    }
    objects
}

/// What to say about a place.
fn warn(warnings: &mut Vec<Warning>, cursor: &Cursor<'_>, message: impl Into<String>) {
    warnings.push(Warning { place: cursor.place(), message: message.into() });
}
