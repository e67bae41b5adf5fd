//! Proof: re-derives every digest and size of an image, and its diff IDs if its layers are tars, reads its capabilities
//! back, and compares it with its base so that anything that the patch did not declare is found.

mod base;
mod data;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Read;
use std::sync::Arc;

use serde::Serialize;

use crate::archive::entry::Kind as EntryKind;
use crate::archive::path;
use crate::blob::VerifiedReader;
use crate::capability::{FileCapabilities, XATTR};
use crate::copy::blobs_of;
use crate::error::{Error, Result, printable};
use crate::image::{self, Image, Node, UnreadableLayer};
use crate::layer::lookup::LayerSource;
use crate::layer::tree::{self, Detail, Tree};
use crate::limits::Limits;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::patch::Record;
use crate::progress::Progress;
use crate::transport::{Place, Root, blocking, retried};

pub use base::Change;

/// A file with capabilities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileWithCapabilities {
    /// Absolute, in the merged view.
    pub path: String,
    /// In the words of getcap(8).
    pub capabilities: String,
    /// The user ID of root in the user namespaces where they count; 0, the rule, means everywhere.
    pub root_id: u32,
}

impl fmt::Display for FileWithCapabilities {
    /// The capabilities as `getcap -n` prints them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.capabilities)?;
        if self.root_id == 0 { Ok(()) } else { write!(f, " [rootid={}]", self.root_id) }
    }
}

/// A manifest, an index or a blob.
#[derive(Clone, Debug, Serialize)]
pub struct Content {
    /// As what names it says.
    pub media_type: String,
    /// Computed.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

impl From<&Descriptor> for Content {
    fn from(descriptor: &Descriptor) -> Self {
        let Descriptor { media_type, digest, size, .. } = descriptor;
        Content { media_type: media_type.clone(), digest: digest.clone(), size: *size }
    }
}

/// What verification found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The digest of what was verified.
    pub digest: Digest,
    /// Manifests and indexes whose digest and size were computed.
    pub manifests: usize,
    /// Blobs whose digest and size were computed.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// All of these, each once: what there is to know about a copy that is to be proved later, without a network.
    pub contents: Vec<Content>,
    /// One entry for each container image.
    pub images: Vec<VerifiedImage>,
    /// Differences between the index and the base's.
    pub differences: Vec<Change>,
    /// What is wrong, or was not declared.
    pub findings: Vec<String>,
    /// What is not wrong, but others may take otherwise: a layer whose media type is not what its bytes are, capabilities
    /// that depend on the container engine.
    pub warnings: Vec<String>,
}

/// One container image.
#[derive(Clone, Debug, Serialize)]
pub struct VerifiedImage {
    /// `linux/amd64`
    pub platform: String,
    /// Of its manifest.
    pub digest: Digest,
    /// Files with capabilities.
    pub capabilities: Vec<FileWithCapabilities>,
    /// A layer that is no tar; if there is one, no file of the image was looked at.
    pub unreadable: Option<UnreadableLayer>,
    /// Whether the base has this image too, so that the two were compared.
    pub compared: bool,
    /// Every difference from the base.
    pub differences: Vec<Change>,
}

/// An image's place and its root.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Where it is.
    pub place: &'a Place,
    /// Its manifest or index.
    pub root: &'a Root,
}

/// The files with capabilities in one image, as far as its layers are there.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// The files.
    pub files: Vec<FileWithCapabilities>,
    /// Layers that may not be distributed and are not there: what is in them is not known.
    pub left_out: Vec<Digest>,
    /// A layer that is no tar; if there is one, no file was looked at.
    pub unreadable: Option<UnreadableLayer>,
}

/// The files with capabilities in one image; all, or those at and below `below`.
pub async fn capabilities(
    place: &Place,
    image: &Image,
    below: Option<&str>,
    limits: Limits,
    progress: &Arc<dyn Progress>,
) -> Result<Capabilities> {
    let (mut layers, mut left_out) = (Vec::new(), Vec::new());
    let unreadable = image.unreadable_layer(place).await?;
    if unreadable.is_some() {
        return Ok(Capabilities { files: Vec::new(), left_out, unreadable });
    }
    for layer in image.layers()? {
        match layer.descriptor.is_foreign_layer() && !place.has_blob(&layer.descriptor).await? {
            true => left_out.push(layer.descriptor.digest),
            false => layers.push(layer),
        }
    }
    let tree = apply(Arc::new(Tree::new(limits)), place, layers, Detail::Attributes, progress).await?;
    let say = |warning: &String| tracing::warn!("{}: {}", image.platform, printable(warning));
    tree.findings().iter().chain(tree.warnings()).for_each(say);
    let below = match below {
        None => Vec::new(),
        Some(below) => {
            let resolved = tree.resolve(below.as_bytes())?;
            if tree.get(&resolved).is_none() && !resolved.is_empty() && left_out.is_empty() {
                return Err(Error::not_found(format!("{below} does not exist in the image")));
            }
            resolved
        }
    };
    let mut warnings = Vec::new();
    let files =
        list(tree.iter().filter(|(path, _)| *path == &below[..] || path::is_below(path, &below)), &mut warnings)?;
    warnings.iter().for_each(say);
    Ok(Capabilities { files, left_out, unreadable })
}

/// The regular files with capabilities among `files`, which are all that getcap(8) lists: the kernel looks at no others.
fn list<'a>(
    files: impl Iterator<Item = (&'a [u8], &'a tree::Node)>,
    warnings: &mut Vec<String>,
) -> Result<Vec<FileWithCapabilities>> {
    let mut links = HashSet::new();
    files
        .filter(|(_, node)| node.entry.kind == EntryKind::File)
        .inspect(|(path, node)| {
            // One warning is enough for all names of a file.
            if let Some(link) = node.disputed.as_ref().filter(|link| links.insert(*link)) {
                warnings.push(disputed(path, link));
            }
        })
        .filter_map(|(path, node)| with_capabilities(path, node).transpose())
        .collect()
}

/// What to say of a file whose capabilities depend on who unpacks it.
fn disputed(path: &[u8], link: &[u8]) -> String {
    format!(
        "the capabilities of {} depend on the container engine: the entry of the hard link {} has others than that of its file",
        path::show(path),
        path::show(link)
    )
}

/// Puts `layers` on top of `base`; each layer's digest, size and diff ID are checked on the way.
async fn apply(
    base: Arc<Tree>,
    place: &Place,
    layers: Vec<LayerSource>,
    detail: Detail,
    progress: &Arc<dyn Progress>,
) -> Result<Tree> {
    let (place, progress) = (place.clone(), progress.clone());
    // From the bottom again, for what a layer did to the tree cannot be undone.
    let attempt = move || {
        let mut tree = (*base).clone();
        for LayerSource { descriptor, diff_id } in &layers {
            let apply = |blob: &mut dyn Read| tree.apply(blob, descriptor, diff_id, detail);
            image::read_layer(&place, descriptor, &progress, apply)?;
        }
        Ok(tree)
    };
    blocking(move || retried(attempt)).await
}

/// Verifies everything below `subject`, and compares it with `base` if there is one.
///
/// # Errors
/// Content that does not match its digest, size or diff ID is an error; a difference that was not declared is a finding.
pub async fn verify(
    subject: Subject<'_>,
    base: Option<Subject<'_>>,
    limits: Limits,
    progress: &Arc<dyn Progress>,
) -> Result<Report> {
    let Subject { place, root } = subject;
    let tree = image::tree(place, root).await?;
    let is_artifact = base.is_none() && !tree.manifests().iter().any(|(_, manifest)| manifest.is_image());
    let images = if is_artifact { Vec::new() } else { image::images(place, &tree, &[]).await? };
    let mut report = Report {
        digest: root.descriptor.digest.clone(),
        manifests: tree.nodes().len(),
        blobs: 0,
        bytes: 0,
        contents: Vec::new(),
        images: Vec::new(),
        differences: Vec::new(),
        findings: Vec::new(),
        warnings: Vec::new(),
    };
    let mut seen = HashSet::new();
    let nodes = tree.nodes().into_iter().rev().map(Node::descriptor);
    report.contents = nodes.filter(|node| seen.insert(&node.digest)).map(Content::from).collect();
    report.findings.extend(data::findings(&tree));
    let elsewhere = elsewhere(place, &tree).await?;
    report.findings.extend(elsewhere.iter().map(|layer| {
        format!(
            "the layer {layer} is marked as not to be distributed and was left out: neither it nor the files of its image were verified"
        )
    }));
    let mut unreadable = HashMap::new();
    for image in &images {
        if let Some(layer) = image.unreadable_layer(place).await.map_err(|e| e.context(&image.platform))? {
            unreadable.insert(&image.descriptor.digest, layer);
        }
    }
    let is_elsewhere = |image: &Image| image.manifest.layers.iter().any(|layer| elsewhere.contains(&layer.digest));
    let hashed = unreadable.values().filter(|layer| !layer.encrypted).map(|layer| &layer.digest);
    let is_read = |image: &&Image| !is_elsewhere(image) && !unreadable.contains_key(&image.descriptor.digest);
    let read = images.iter().filter(is_read).flat_map(|image| &image.manifest.layers).map(|layer| &layer.digest);
    verify_blobs(place, &tree, &elsewhere, &read.chain(hashed).collect(), &mut report).await?;
    let base = match base {
        Some(base) => Some(base::Base::load(base).await.map_err(|e| e.context("base"))?),
        None => None,
    };
    if let Some(base) = &base {
        report.differences = base.compare_indexes(root, &tree)?;
        report.findings.extend(base.missing(&images));
    }
    for image in &images {
        if let Err(error) = image.config.check_history(image.manifest.layers.len()) {
            report.findings.push(format!("{}: {error}", image.platform));
        }
        if is_elsewhere(image) {
            continue;
        }
        let base = base.as_ref().and_then(|base| base.of(image, &images));
        let verified = match unreadable.remove(&image.descriptor.digest) {
            None => verify_image(place, image, base, limits, &mut report, progress).await,
            Some(layer) => without_files(place, image, base.map(|(_, base)| base), layer, &mut report.findings).await,
        };
        report.images.push(verified.map_err(|e| e.context(&image.platform))?);
    }
    let differences = report.images.iter().flat_map(|image| image.differences.iter().map(move |d| (Some(image), d)));
    let undeclared = differences.chain(report.differences.iter().map(|d| (None, d))).filter(|(_, d)| !d.declared);
    let findings: Vec<String> = undeclared
        .map(|(image, change)| match image {
            Some(image) => format!("{}: {change}", image.platform),
            None => change.to_string(),
        })
        .collect();
    report.findings.extend(findings);
    Ok(report)
}

/// The layers that are only where their `urls` say, in order, each once: the files of their images cannot be looked at.
async fn elsewhere(place: &Place, tree: &Node) -> Result<Vec<Digest>> {
    let mut layers = Vec::new();
    for blob in blobs_of(tree).iter().filter(|blob| blob.is_foreign_layer()) {
        if !layers.contains(&blob.digest) && !place.has_blob(blob).await? {
            layers.push(blob.digest.clone());
        }
    }
    Ok(layers)
}

/// Hashes every blob that is not `elsewhere`, but for layers that are `read` before or after this, and are hashed then.
async fn verify_blobs(
    place: &Place,
    tree: &Node,
    elsewhere: &[Digest],
    read: &HashSet<&Digest>,
    report: &mut Report,
) -> Result<()> {
    let mut seen = HashSet::new();
    for blob in blobs_of(tree) {
        if elsewhere.contains(&blob.digest) || !seen.insert(blob.digest.clone()) {
            continue;
        }
        report.blobs += 1;
        report.bytes += blob.size;
        report.contents.push(Content::from(&blob));
        if !read.contains(&blob.digest) {
            let place = place.clone();
            let hash = move || place.read(&blob, |reader| VerifiedReader::new(reader, &blob).finish());
            blocking(move || retried(hash)).await?;
        }
    }
    Ok(())
}

/// An image with a layer that is no tar. What nobody can look at is only proved by a manifest that is the base's own: the
/// media type of a layer is the word of who made the image, and with it anybody could keep the files of one for Linux unread.
async fn without_files(
    place: &Place,
    image: &Image,
    base: Option<&Image>,
    layer: UnreadableLayer,
    findings: &mut Vec<String>,
) -> Result<VerifiedImage> {
    let (platform, digest) = (image.platform.to_string(), image.descriptor.digest.clone());
    let identical = base.is_some_and(|base| base.descriptor.digest == digest);
    if base.is_some() && !identical {
        findings.push(format!("{platform}: {layer}: the files were not compared with the base"));
    } else if !identical && image.may_run_on_linux() {
        findings.push(format!("{platform}: {layer}: its files were not verified"));
    }
    if record(place, image).await?.is_some_and(|record| !record.files.is_empty()) {
        findings.push(format!("{platform}: {layer}: the files that were patched could not be looked at"));
    }
    Ok(VerifiedImage {
        platform,
        digest,
        capabilities: Vec::new(),
        unreadable: Some(layer),
        compared: identical,
        differences: Vec::new(),
    })
}

async fn verify_image(
    place: &Place,
    image: &Image,
    base: Option<(&base::Base<'_>, &Image)>,
    limits: Limits,
    report: &mut Report,
    progress: &Arc<dyn Progress>,
) -> Result<VerifiedImage> {
    let mut layers = image.layers()?;
    let compared = base.is_some();
    let base = base.filter(|(_, base)| base.descriptor.digest != image.descriptor.digest);
    let mut differences = Vec::new();
    let tree = match base {
        None => apply(Arc::new(Tree::new(limits)), place, layers, Detail::Attributes, progress).await?,
        Some((base, base_image)) => {
            let common = base_image.layers()?;
            let shared = layers.len() >= common.len()
                && common
                    .iter()
                    .zip(&layers)
                    .all(|(a, b)| a.descriptor.digest == b.descriptor.digest && a.diff_id == b.diff_id);
            let (before, tree) = if shared {
                // What both are made of is read once, from the image that is to be proved.
                let rest = layers.split_off(common.len());
                let empty = Arc::new(Tree::new(limits));
                let before = Arc::new(apply(empty, place, layers, Detail::Everything, progress).await?);
                (before.clone(), apply(before, place, rest, Detail::Everything, progress).await?)
            } else {
                let half = Arc::new(Tree::one_of_two(limits));
                let before = apply(half.clone(), base.place(), common, Detail::Everything, progress).await;
                let before = before.map_err(|e| e.context("base"))?;
                (Arc::new(before), apply(half, place, layers, Detail::Everything, progress).await?)
            };
            differences = base.compare(place, image, base_image, &before, &tree).await?;
            tree
        }
    };
    let named = |said: &String| format!("{}: {said}", image.platform);
    report.findings.extend(tree.findings().iter().map(named));
    let mut warnings = tree.warnings().to_vec();
    let malformed = |value: &Vec<u8>| FileCapabilities::decode(value).is_err();
    let readable = |node: &tree::Node| !node.entry.xattrs.get(XATTR.as_bytes()).is_some_and(malformed);
    let capabilities = list(tree.iter().filter(|(_, node)| readable(node)), &mut warnings)?;
    if let Some(record) = record(place, image).await? {
        for (path, declared) in &record.files {
            let found = capabilities.iter().find(|file| file.path == *path).map(FileWithCapabilities::to_string);
            if found != *declared {
                let words = |capabilities: Option<String>| capabilities.unwrap_or("no capabilities".to_owned());
                let (declared, found) = (words(declared.clone()), words(found));
                report.findings.push(named(&format!("{path} should have {declared}, but has {found}")));
            }
            let path = path::normalise(path.as_bytes());
            if let Some(link) = tree.get(&path).and_then(|node| node.disputed.as_ref()) {
                report.findings.push(named(&disputed(&path, link)));
            }
        }
    }
    let found: HashSet<&String> = report.findings.iter().collect();
    report.warnings.extend(warnings.iter().map(named).filter(|warning| !found.contains(warning)));
    Ok(VerifiedImage {
        platform: image.platform.to_string(),
        digest: image.descriptor.digest.clone(),
        capabilities,
        unreadable: None,
        compared,
        differences,
    })
}

/// What the image says about how it was patched.
async fn record(place: &Place, image: &Image) -> Result<Option<Record>> {
    let manifest = place.manifest(&image.descriptor).await?;
    Record::of(&manifest.bytes, &image.config.to_bytes()?)
}

fn with_capabilities(path: &[u8], node: &tree::Node) -> Result<Option<FileWithCapabilities>> {
    let Some(value) = node.entry.xattrs.get(XATTR.as_bytes()) else { return Ok(None) };
    let path = path::show(path);
    let found = FileCapabilities::decode(value).map_err(|e| e.context(&path))?;
    Ok(Some(FileWithCapabilities { path, capabilities: found.to_string(), root_id: found.root_id }))
}
