//! A resolved image, and the tree of manifests below an index.

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::archive::compression::begins_like_layer;
use crate::blob::VerifiedReader;
use crate::error::{self, Error, Result};
use crate::layer::lookup::LayerSource;
use crate::layer::reader::ENCRYPTED;
use crate::limits::{self, Limits};
use crate::oci::config::ImageConfig;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::manifest::{BASE_NAME, Document, Index, Manifest};
use crate::oci::media_type::Kind;
use crate::oci::platform::Platform;
use crate::oci::reference::{Reference, Target};
use crate::progress::{Progress, WatchedReader};
use crate::transport::{Place, Root, blocking, retried};

/// Manifests of one index that are read at the same time.
const MANIFESTS_AT_ONCE: usize = 8;
/// Names that a hint lists.
const NAMES_SHOWN: usize = 20;

/// One image for one platform: its manifest and its config, both verified.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest's descriptor.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// The config.
    pub config: ImageConfig,
    /// What the image runs on: what the index says, which is what container engines choose by, or else the config.
    pub platform: Platform,
}

/// A layer that cannot be read as a tar, so that nobody can tell which files its image has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnreadableLayer {
    /// From 1, lowest first.
    pub number: usize,
    /// Of the blob.
    pub digest: Digest,
    /// As the manifest has it.
    pub media_type: String,
    /// Whether the type says so, whatever the content is; if not, the content is no tar.
    pub encrypted: bool,
}

impl fmt::Display for UnreadableLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnreadableLayer { number, digest, media_type, encrypted } = self;
        let what = if *encrypted { "marked as encrypted" } else { "no tar" };
        write!(f, "layer {number} is {what} ({media_type}, {digest})")
    }
}

impl UnreadableLayer {
    /// The layer as an error, with a hint what to do.
    pub fn error(&self) -> Error {
        let error = Error::content(self.to_string());
        if self.encrypted { error.hint(ENCRYPTED) } else { error }
    }
}

/// A manifest, or an index with what is below it; each with its exact bytes.
#[derive(Clone, Debug)]
pub enum Node {
    /// A manifest, of an image or of something else.
    Manifest(Descriptor, Manifest, Bytes),
    /// An index and its children in order; a child that is neither manifest nor index, or is absent, is `None`.
    Index(Descriptor, Index, Vec<Option<Node>>, Bytes),
}

/// Resolves `reference`, or says that there is nothing.
pub async fn resolve(place: &Place, reference: &Reference) -> Result<Root> {
    if let Some(found) = place.resolve(reference.target()).await.map_err(|e| e.context(reference))? {
        return Ok(found);
    }
    let error = match reference {
        Reference::Layout { path, target: None } | Reference::Archive { path, target: None, .. } if path.exists() => {
            Error::not_found(format!("there is no image in {reference}"))
        }
        _ => Error::not_found(format!("{reference} does not exist")),
    };
    if let Place::Registry(_) = place {
        return Err(error.hint("check the name and the tag; a private repository also looks like this without a login"));
    }
    if let Place::Containerd(containerd, repository) = place {
        return Err(containerd.no_image(&repository.image(reference.target())).await);
    }
    let names = place.names().await.unwrap_or_default();
    Err(match (names.as_slice(), place) {
        ([], Place::Layout(_)) => error.hint("name a directory that holds an OCI layout, and a tag in it"),
        ([], Place::Archive(_)) if !matches!(reference, Reference::Daemon { .. }) => {
            error.hint("name a file that holds an image archive, and an image in it")
        }
        ([], _) => error,
        (names, _) => error.hint(format!("there are {}", names[..names.len().min(NAMES_SHOWN)].join(", "))),
    })
}

/// Reads every manifest below `root`, several at a time; no config, no layer.
pub async fn tree(place: &Place, root: &Root) -> Result<Node> {
    whole_tree(place, root, true).await
}

/// The same, for several trees that share what they may use up; the roots have been taken from it.
pub(crate) async fn tree_within(place: &Place, root: &Root, budget: &Budget) -> Result<Node> {
    Box::pin(node(place, root.clone(), 0, budget)).await
}

/// As [`tree`], of what is there: a containerd has only the platforms that somebody pulled. See [`Node::absent`].
pub async fn tree_of_what_is_there(place: &Place, root: &Root) -> Result<Node> {
    whole_tree(place, root, !matches!(place, Place::Containerd(..))).await
}

async fn whole_tree(place: &Place, root: &Root, whole: bool) -> Result<Node> {
    let budget = Budget::new(place, whole);
    budget.take(&root.descriptor, 0)?;
    tree_within(place, root, &budget).await
}

/// What trees have used up of what they may, and whether all of them must be there.
pub(crate) struct Budget {
    limits: Limits,
    used: AtomicU64,
    whole: bool,
}

impl Budget {
    pub(crate) fn new(place: &Place, whole: bool) -> Self {
        Budget { limits: place.limits(), used: AtomicU64::new(0), whole }
    }

    /// Before a manifest is read, `depth` levels below the top (faults.md C17).
    pub(crate) fn take(&self, descriptor: &Descriptor, depth: usize) -> Result<()> {
        self.limits.check_depth(depth, "indexes are nested")?;
        // What is larger is refused for that, when it is read.
        let cost = limits::of_manifest(descriptor.size.min(self.limits.document()));
        let used = self.used.fetch_add(cost, Ordering::Relaxed).saturating_add(cost);
        self.limits.check_memory(used, self.limits.manifests(), "the manifests take")
    }
}

async fn node(place: &Place, root: Root, depth: usize, budget: &Budget) -> Result<Node> {
    let index = match root.document {
        Document::Manifest(manifest) => return Ok(Node::Manifest(root.descriptor, manifest, root.bytes)),
        Document::Index(index) => index,
    };
    let child = |descriptor: Descriptor| async move {
        Ok::<_, Error>(match descriptor.kind() {
            Kind::Index(_) | Kind::Manifest(_) => {
                budget.take(&descriptor, depth + 1)?;
                let child = match place.manifest(&descriptor).await {
                    Err(error) if error.kind() == error::Kind::NotFound && !budget.whole => return Ok(None),
                    child => child?,
                };
                Some(Box::pin(node(place, child, depth + 1, budget)).await?)
            }
            _ => None,
        })
    };
    let children = stream::iter(index.manifests.clone().into_iter().map(child)).buffered(MANIFESTS_AT_ONCE);
    let children: Vec<Option<Node>> = match children.try_collect().await {
        Err(error) if error.kind() == error::Kind::NotFound => return Err(incomplete(place, &index, error).await),
        children => children?,
    };
    Ok(Node::Index(root.descriptor, index, children, root.bytes))
}

/// `error`, about a manifest of `index` that is missing, with a hint what of it is there: container engines fetch only
/// the platform that they run on.
async fn incomplete(place: &Place, index: &Index, error: Error) -> Error {
    let mut there = Vec::new();
    for descriptor in index.manifests.iter().take(NAMES_SHOWN) {
        let Ok(Some(platform)) = descriptor.platform() else { continue };
        if !platform.is_unknown() && place.document(descriptor).await.is_ok() {
            there.push(format!("@{} for {platform}", descriptor.digest));
        }
    }
    match there.as_slice() {
        [] => error,
        there => error.hint(format!("only some platforms are there; name one by its digest: {}", there.join(", "))),
    }
}

impl Image {
    /// Reads the config of `manifest`; refuses what is no container image, or does not fit together.
    pub async fn load(place: &Place, descriptor: &Descriptor, manifest: &Manifest) -> Result<Image> {
        if !manifest.is_image() {
            return Err(Error::content(format!(
                "{} is not a container image: its config is {}",
                descriptor.digest, manifest.config.media_type
            )));
        }
        let bytes = place.small_blob(&manifest.config).await.map_err(|e| e.context("config"))?;
        let config = ImageConfig::parse(&bytes).map_err(|e| e.context(format!("config {}", manifest.config.digest)))?;
        config.check_layers(manifest.layers.len()).map_err(|e| e.context(&descriptor.digest))?;
        let platform = match descriptor.platform()? {
            Some(platform) if !platform.is_unknown() => platform,
            _ => config.platform()?,
        };
        Ok(Image { descriptor: descriptor.clone(), manifest: manifest.clone(), config, platform })
    }

    /// The layers, lowest first, with what each must hash to when it is decompressed.
    pub fn layers(&self) -> Result<Vec<LayerSource>> {
        let pairs = self.manifest.layers.iter().cloned().zip(self.config.diff_ids()?);
        Ok(pairs.map(|(descriptor, diff_id)| LayerSource { descriptor, diff_id }).collect())
    }

    /// Whether a container engine may run it on Linux: the index or the config says so, or names no system, which containerd
    /// takes for Linux (`platforms.Normalize`). An artifact with the config of an image, such as a signature by cosign, names
    /// no architecture either, and has no layer with the type of one.
    pub fn may_run_on_linux(&self) -> bool {
        let has_layer = || {
            let mut kinds = self.manifest.layers.iter().map(Descriptor::kind);
            kinds.any(|kind| matches!(kind, Kind::Layer { .. } | Kind::Encrypted))
        };
        let may_be_linux = |platform: &Platform| match platform.os.as_str() {
            "" => !platform.architecture.is_empty() || has_layer(),
            _ => platform.is_linux(),
        };
        may_be_linux(&self.platform) || self.config.platform().is_ok_and(|platform| may_be_linux(&platform))
    }

    /// The lowest layer that is no tar, going by the media type: what has the type of a layer is one, or is refused where
    /// it is read; of any other type, the first bytes decide, for not every builder gives a tar the right one. What is
    /// found to be no tar is the content that the manifest names; what is marked as encrypted is not read.
    pub async fn unreadable_layer(&self, place: &Place) -> Result<Option<UnreadableLayer>> {
        for (at, layer) in self.manifest.layers.iter().enumerate() {
            let encrypted = match layer.kind() {
                Kind::Layer { .. } => continue,
                Kind::Encrypted => true,
                _ => {
                    let (place, layer) = (place.clone(), layer.clone());
                    let is_layer = move || place.read(&layer, |blob| verified_as_layer(blob, &layer, &place.limits()));
                    if blocking(move || retried(is_layer)).await? {
                        continue;
                    }
                    false
                }
            };
            let (digest, media_type) = (layer.digest.clone(), layer.media_type.clone());
            return Ok(Some(UnreadableLayer { number: at + 1, digest, media_type, encrypted }));
        }
        Ok(None)
    }
}

/// Whether `blob`, which should be what `descriptor` names, begins as a layer does. One that does not is verified, for
/// nobody reads it again; one that does is not read to its end here.
fn verified_as_layer(blob: &mut dyn Read, descriptor: &Descriptor, limits: &Limits) -> Result<bool> {
    let mut blob = VerifiedReader::new(blob, descriptor);
    let begins = begins_like_layer(&mut blob, limits)?;
    if !begins {
        blob.finish()?;
    }
    Ok(begins)
}

/// Gives the raw blob of a layer to `read`, which verifies it, as [`Place::read`] does; `progress` is told how much was read.
pub fn read_layer<T>(
    place: &Place,
    descriptor: &Descriptor,
    progress: &Arc<dyn Progress>,
    read: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<T> {
    let bar = progress.start(&format!("read {}", &descriptor.digest.hex()[..12]), descriptor.size);
    place.read(descriptor, |blob| read(&mut WatchedReader::new(blob, bar)))
}

impl Node {
    /// The descriptor of the manifest or index.
    pub fn descriptor(&self) -> &Descriptor {
        match self {
            Node::Manifest(descriptor, ..) | Node::Index(descriptor, ..) => descriptor,
        }
    }

    /// The document as stored.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Node::Manifest(_, _, bytes) | Node::Index(_, _, _, bytes) => bytes,
        }
    }

    /// This node and all below it, children before parents.
    pub fn nodes(&self) -> Vec<&Node> {
        let mut nodes: Vec<&Node> = match self {
            Node::Manifest(..) => Vec::new(),
            Node::Index(_, _, children, _) => children.iter().flatten().flat_map(Node::nodes).collect(),
        };
        nodes.push(self);
        nodes
    }

    /// Entries of the tree's indexes that should be manifests or indexes and are not there.
    pub fn absent(&self) -> Vec<&Descriptor> {
        let Node::Index(_, index, children, _) = self else { return Vec::new() };
        let mut absent = Vec::new();
        for (entry, child) in index.manifests.iter().zip(children) {
            match child {
                Some(child) => absent.extend(child.absent()),
                None if matches!(entry.kind(), Kind::Index(_) | Kind::Manifest(_)) => absent.push(entry),
                None => {}
            }
        }
        absent
    }

    /// All manifests of the tree in order, each with the descriptor that the index has for it.
    pub fn manifests(&self) -> Vec<(&Descriptor, &Manifest)> {
        match self {
            Node::Manifest(descriptor, manifest, _) => vec![(descriptor, manifest)],
            Node::Index(_, _, children, _) => children.iter().flatten().flat_map(Node::manifests).collect(),
        }
    }
}

/// Loads the container images of a tree, each digest once: all of them, or those for `platforms`. Attestations and other
/// artifacts are passed over.
pub async fn images(place: &Place, tree: &Node, platforms: &[Platform]) -> Result<Vec<Image>> {
    let mut images: Vec<Image> = Vec::new();
    let mut others = Vec::new();
    let mut bytes = 0u64;
    for (descriptor, manifest) in tree.manifests() {
        let claimed = descriptor.platform()?;
        let is_known = images.iter().any(|image| image.descriptor.digest == descriptor.digest);
        if is_known
            || !manifest.is_image()
            || descriptor.is_attestation()
            || claimed.as_ref().is_some_and(Platform::is_unknown)
        {
            continue;
        }
        let wanted =
            |platform: &Platform| platforms.is_empty() || platforms.iter().any(|wanted| platform.matches(wanted));
        match claimed {
            Some(platform) if !wanted(&platform) => others.push(platform.to_string()),
            _ => {
                bytes = bytes.saturating_add(manifest.config.size);
                let limits = place.limits();
                if bytes > limits.documents() {
                    return Err(
                        limits.too_large(format!("the configs together have {bytes} bytes"), limits.documents())
                    );
                }
                let image = Image::load(place, descriptor, manifest).await?;
                if wanted(&image.platform) || claimed.is_some() {
                    images.push(image);
                } else {
                    others.push(image.platform.to_string());
                }
            }
        }
    }
    if images.is_empty() {
        return Err(if others.is_empty() {
            Error::content("there is no container image in it")
        } else {
            let wanted: Vec<String> = platforms.iter().map(Platform::to_string).collect();
            Error::not_found(format!("there is no image for {}", wanted.join(", ")))
                .hint(format!("there are {}", others.join(", ")))
        });
    }
    Ok(images)
}

/// The name of the image that this one was made from, if it says it: in the annotations of `root`, or in the labels of the
/// first of its `images`.
pub fn base_name(root: &Root, images: &[Image]) -> Result<Option<String>> {
    if let Some(name) = root.document.annotation(BASE_NAME)? {
        return Ok(Some(name));
    }
    let labels = images.first().map(|image| image.config.labels()).transpose()?;
    Ok(labels.and_then(|labels| labels.get(BASE_NAME).cloned()))
}

/// The tag that `reference` asks to be written; refuses a digest and no tag at all.
pub fn destination_tag(reference: &Reference) -> Result<&str> {
    match reference.target() {
        Some(Target::Tag(tag)) => Ok(tag),
        Some(Target::Digest(_)) => Err(Error::usage(format!("the destination {reference} is a digest"))
            .hint("name a tag; the digest follows from the content")),
        None => Err(Error::usage(format!("the destination {reference} has no tag"))
            .hint(format!("write the tag that the new image is to have: {reference}:TAG"))),
    }
}
