//! What would change: reads the source, finds the files, makes the new layers, configs, manifests and indexes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::image::{self, Image, Node};
use crate::limits::Limits;
use crate::oci::config::{History, ImageConfig};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::manifest::{BASE_DIGEST, BASE_NAME, Child};
use crate::oci::media_type::{self, Family};
use crate::patch::Options;
use crate::patch::edit::edit_config;
use crate::patch::file::{self, FileChange, PatchedFiles};
use crate::patch::record::{ANNOTATIONS, LABELS, Record, Request};
use crate::progress::Progress;
use crate::transport::{Content, Place, Root, blocking};

/// Images that are read at the same time; each holds the buffers of one layer.
const IMAGES_AT_ONCE: usize = 2;

/// What would change, ready to be applied.
pub struct Planned {
    /// The report.
    pub plan: Plan,
    /// The new manifest or index.
    pub(super) root: (Descriptor, Bytes),
    /// New manifests and indexes below the root, children first.
    pub(super) manifests: Vec<(Descriptor, Bytes)>,
    /// New layers and configs.
    pub(super) blobs: Vec<(Descriptor, Content)>,
    /// Blobs of the source that the result names: the layers of patched images, and what an index may hold besides.
    pub(super) base: Vec<Descriptor>,
    /// Images and artifacts of the source that stay in the index as they are.
    pub(super) untouched: Vec<Node>,
}

/// What would change, for people and programs.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The digest of what the source named.
    pub source_digest: Digest,
    /// The digest of what the destination will name.
    pub digest: Digest,
    /// One entry for each image that is patched.
    pub images: Vec<ImageChange>,
    /// What the user should know besides.
    pub notes: Vec<String>,
    /// Layers that are left out because they may not be distributed.
    pub foreign_layers: Vec<Digest>,
}

/// What would change in one image.
#[derive(Clone, Debug, Serialize)]
pub struct ImageChange {
    /// `linux/amd64`
    pub platform: String,
    /// The manifest's digest before.
    pub source_digest: Digest,
    /// The manifest's digest after.
    pub digest: Digest,
    /// The files.
    pub files: Vec<FileChange>,
    /// The digest and size of the added layer; none if no file changes.
    pub layer: Option<AddedLayer>,
    /// `ExposedPorts` after.
    pub exposed_ports: Vec<String>,
    /// Environment variables that are set, `NAME=value`.
    pub env: Vec<String>,
    /// What the user should know about this image.
    pub warnings: Vec<String>,
}

/// The layer that is added.
#[derive(Clone, Debug, Serialize)]
pub struct AddedLayer {
    /// Of the compressed layer.
    pub digest: Digest,
    /// Of the uncompressed layer.
    pub diff_id: Digest,
    /// Compressed bytes.
    pub size: u64,
}

/// Finds out what `options` would change in `source`, which was read from `place`; if the result `stays_there`, what is not
/// there of the source need not be.
///
/// # Errors
/// Refused: files that must not have a capability, images that do not fit together, content that does not verify.
pub async fn plan(
    place: &Place,
    base_name: Option<&str>,
    source: &Root,
    options: &Options,
    progress: &Arc<dyn Progress>,
    stays_there: bool,
) -> Result<Planned> {
    let request = options.request()?;
    let tree = match stays_there {
        true => image::tree_of_what_is_there(place, source).await?,
        false => image::tree(place, source).await?,
    };
    let images = image::images(place, &tree, &options.platforms).await?;
    let mut notes = Vec::new();
    for absent in tree.absent().into_iter().filter(|absent| !absent.is_attestation()) {
        let platform = absent.platform()?.map_or(String::new(), |platform| format!(" for {platform}"));
        notes.push(format!("the image {}{platform} was not pulled and stays as it is", absent.digest));
    }
    let images: Vec<Image> = images
        .into_iter()
        .filter(|image| {
            let linux = image.platform.is_linux();
            if !linux {
                notes.push(format!("{} stays as it is: only Linux has file capabilities", image.platform));
            }
            linux
        })
        .collect();
    if images.is_empty() {
        return Err(Error::content("there is no Linux image in it"));
    }
    let base = Base { name: base_name.map(str::to_owned), digest: source.descriptor.digest.clone() };
    let patch = |image: Image| async {
        let platform = image.platform.to_string();
        patch_image(place, image, &base, options, &request, progress).await.map_err(|e| e.context(platform))
    };
    let patched: Vec<PatchedImage> =
        stream::iter(images.into_iter().map(patch)).buffered(IMAGES_AT_ONCE).try_collect().await?;

    let mut new = New { notes, limits: options.limits, ..New::default() };
    for image in &patched {
        new.children.insert(image.source.descriptor.digest.clone(), (image.descriptor.clone(), image.bytes.clone()));
    }
    let root = new.rebuild(&tree, &base, &request)?;
    // A tag that names a single manifest is that manifest; an index's children go first.
    let mut manifests = new.manifests;
    manifests.retain(|(descriptor, _)| descriptor.digest != root.0.digest);

    let mut result = Planned {
        plan: Plan {
            source_digest: source.descriptor.digest.clone(),
            digest: root.0.digest.clone(),
            images: vec![],
            notes: new.notes,
            foreign_layers: Vec::new(),
        },
        root,
        manifests,
        blobs: Vec::new(),
        base: new.unknown,
        untouched: new.untouched,
    };
    for image in patched {
        result.base.extend(image.source.manifest.layers.iter().cloned());
        result.blobs.extend(image.blobs);
        result.plan.images.push(image.change);
    }
    Ok(result)
}

/// What the new image is based on.
struct Base {
    name: Option<String>,
    digest: Digest,
}

impl Base {
    fn pairs(&self) -> Vec<(String, String)> {
        let name = self.name.iter().map(|name| (BASE_NAME.to_owned(), name.clone()));
        name.chain([(BASE_DIGEST.to_owned(), self.digest.to_string())]).collect()
    }
}

struct PatchedImage {
    source: Image,
    descriptor: Descriptor,
    bytes: Bytes,
    blobs: Vec<(Descriptor, Content)>,
    change: ImageChange,
}

async fn patch_image(
    place: &Place,
    source: Image,
    base: &Base,
    options: &Options,
    request: &Request,
    progress: &Arc<dyn Progress>,
) -> Result<PatchedImage> {
    source.config.check_history(source.manifest.layers.len()).map_err(|e| {
        e.context(&source.descriptor.digest)
            .hint("a patch adds an entry to the history; build the image again with one that fits")
    })?;
    if let Some(layer) = source.unreadable_layer(place).await? {
        return Err(layer.error());
    }
    let PatchedFiles { files, layer, mut warnings } = {
        let (place, source, options, asked, progress) =
            (place.clone(), source.clone(), options.clone(), request.files.clone(), progress.clone());
        blocking(move || file::patch_files(&place, &source, &options, &asked, &progress)).await?
    };
    let family = source.manifest.family;
    let mut config = source.config.clone();
    let (env, more) = edit_config(&mut config, request)?;
    warnings.extend(more);
    let configured = config.platform()?;
    if (&configured.os, &configured.architecture) != (&source.platform.os, &source.platform.architecture) {
        warnings.push(format!("its config says that it is for {configured}, the index says {}", source.platform));
    }
    let acting = config.labels()?.into_keys().filter(|name| acts_on_hosts(name));
    warnings.extend(acting.map(|name| format!("the label {name} makes some container runtimes act on the host")));
    let mut blobs = Vec::new();
    let mut added = None;
    let mut layer_descriptor = None;
    if let Some(layer) = layer {
        config.add_layer(&layer.diff_id)?;
        let descriptor = Descriptor::new(media_type::gzip_layer(family), layer.digest.clone(), layer.content.size())?;
        added = Some(AddedLayer { digest: layer.digest, diff_id: layer.diff_id, size: layer.content.size() });
        blobs.push((descriptor.clone(), Content::Spool(layer.content)));
        layer_descriptor = Some(descriptor);
    }
    config.add_history(&history(&config, request, layer_descriptor.is_none())?)?;
    let capabilities: BTreeMap<String, Option<String>> =
        files.iter().map(|file| (file.path.clone(), file.capabilities.clone())).collect();
    let (config_bytes, annotations) = match family {
        Family::Docker => {
            // Docker manifests have no annotations.
            for (name, value) in base.pairs() {
                config.set_label(&name, &value)?;
            }
            (Record::seal(request, capabilities.clone(), &config.to_bytes()?, LABELS)?, Vec::new())
        }
        Family::Oci => (config.to_bytes()?, base.pairs()),
    };
    let config_descriptor =
        source.manifest.config.with_content(Digest::of(&config_bytes), config_bytes.len() as u64)?;
    blobs.push((config_descriptor.clone(), Content::Bytes(config_bytes.into())));
    let mut bytes = source.manifest.with_layer(&config_descriptor, layer_descriptor.as_ref(), &annotations)?;
    if family == Family::Oci {
        bytes = Record::seal(request, capabilities, &bytes, ANNOTATIONS)?;
    }
    if source.manifest.has_subject() {
        warnings.push(
            "its 'subject' is not carried over: what referred to the old image does not refer to the new one"
                .to_owned(),
        );
    }
    options.limits.check_document(bytes.len() as u64, "the new manifest")?;
    let descriptor = source.descriptor.with_content(Digest::of(&bytes), bytes.len() as u64)?;
    let change = ImageChange {
        platform: source.platform.to_string(),
        source_digest: source.descriptor.digest.clone(),
        digest: descriptor.digest.clone(),
        files,
        layer: added,
        exposed_ports: config.exposed_ports()?,
        env,
        warnings,
    };
    Ok(PatchedImage { source, descriptor, bytes: bytes.into(), blobs, change })
}

/// Labels that containerd's tools obey (CVE-2026-53488).
fn acts_on_hosts(label: &str) -> bool {
    label.starts_with("containerd.io/restart") || label.starts_with("io.containerd.")
}

/// The history entry of a patch: when is what `created` says, so that it does not depend on the clock.
pub fn history(config: &ImageConfig, request: &Request, empty_layer: bool) -> Result<History> {
    let mut text = "capatch patch".to_owned();
    if request.remove {
        text.push_str(" --remove-caps");
    } else {
        text.push_str(&format!(" --cap {}", request.capabilities));
    }
    if request.replace {
        text.push_str(" --replace-caps");
    }
    request.files.iter().for_each(|asked| text.push_str(&format!(" --file {}", asked.paths().join("|"))));
    Ok(History { created: config.created()?, created_by: Some(text), empty_layer })
}

/// New manifests, collected while the tree is rebuilt from its leaves.
#[derive(Default)]
struct New {
    limits: Limits,
    /// By the digest of what they replace.
    children: HashMap<Digest, (Descriptor, Bytes)>,
    manifests: Vec<(Descriptor, Bytes)>,
    untouched: Vec<Node>,
    /// Children that are neither manifests nor indexes.
    unknown: Vec<Descriptor>,
    notes: Vec<String>,
}

impl New {
    fn rebuild(&mut self, node: &Node, base: &Base, request: &Request) -> Result<(Descriptor, Bytes)> {
        match self.replacement(node, base, request)? {
            Some(new) => Ok(new),
            None => Err(Error::failed("internal error: nothing was patched")),
        }
    }

    /// What takes the place of `node`; `None` if nothing below it changed.
    fn replacement(&mut self, node: &Node, base: &Base, request: &Request) -> Result<Option<(Descriptor, Bytes)>> {
        let (descriptor, index, nodes) = match node {
            Node::Manifest(descriptor, ..) => {
                let Some((new, bytes)) = self.children.get(&descriptor.digest).cloned() else { return Ok(None) };
                let new = descriptor.with_content(new.digest, new.size)?;
                self.manifests.push((new.clone(), bytes.clone()));
                return Ok(Some((new, bytes)));
            }
            Node::Index(descriptor, index, nodes, _) => (descriptor, index, nodes),
        };
        let mut children = Vec::with_capacity(nodes.len());
        let mut dropped = Vec::new();
        for (old, node) in index.manifests.iter().zip(nodes) {
            let attested = old.attests().and_then(|digest| digest.parse::<Digest>().ok());
            if attested.is_some_and(|digest| self.children.contains_key(&digest)) {
                // It attests the old digest and says nothing about the new one (faults.md C20).
                dropped.push(old.digest.to_string());
                children.push(Child::Drop);
                continue;
            }
            children.push(
                match node.as_ref().map(|node| self.replacement(node, base, request)).transpose()?.flatten() {
                    Some((new, _)) => Child::Replace(old.with_content(new.digest, new.size)?),
                    None => {
                        match node {
                            Some(node) => self.untouched.push(node.clone()),
                            None => self.unknown.push(old.clone()),
                        }
                        Child::Keep
                    }
                },
            );
        }
        if !children.iter().any(|child| matches!(child, Child::Replace(_))) {
            return Ok(None);
        }
        if !dropped.is_empty() {
            self.notes.push(format!(
                "{} attestation manifest{} of the patched images dropped: they describe the images before the patch ({})",
                dropped.len(),
                if dropped.len() == 1 { "" } else { "s" },
                dropped.join(", ")
            ));
        }
        if index.has_subject() {
            self.notes.push(
                "the 'subject' of the index is not carried over: what referred to the old image does not refer to the new one"
                    .to_owned(),
            );
        }
        let bytes = match index.family {
            Family::Oci => {
                let bytes = index.with_children(&children, &base.pairs())?;
                Record::seal(request, BTreeMap::new(), &bytes, ANNOTATIONS)?
            }
            Family::Docker => index.with_children(&children, &[])?,
        };
        self.limits.check_document(bytes.len() as u64, "the new index")?;
        let new = descriptor.with_content(Digest::of(&bytes), bytes.len() as u64)?;
        let bytes = Bytes::from(bytes);
        self.manifests.push((new.clone(), bytes.clone()));
        Ok(Some((new, bytes)))
    }
}
