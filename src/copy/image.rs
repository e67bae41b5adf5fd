//! The use case: an image from anywhere to anywhere, byte for byte.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::copy::manifests::{Tag, can_be_replaced, copy_manifests, trust_once};
use crate::copy::referrers::{self, Referrers};
use crate::copy::{Memory, Moved, Mover, blobs_of, left_out, select};
use crate::error::{Error, Kind, Result};
use crate::image::{self, Image, Node};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::json::Object;
use crate::oci::platform::Platform;
use crate::oci::reference::{Reference, Target};
use crate::progress::Progress;
use crate::transport::registry::Stored;
use crate::transport::{Place, Root};

/// The places and names that an image goes from and to.
pub struct Route<'a> {
    /// Where the source is.
    pub from: &'a Place,
    /// The source as it was typed.
    pub source: &'a Reference,
    /// Where the result goes.
    pub to: &'a Place,
    /// The destination as it was typed.
    pub destination: &'a Reference,
}

/// What to copy.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only these platforms, under a new index; none means all, with the digest as it is.
    pub platforms: Vec<Platform>,
    /// Signatures, SBOMs and whatever else refers to the image or to one of its platforms.
    pub referrers: bool,
    /// Layers that may not be distributed too.
    pub foreign_layers: bool,
    /// Move the destination tag, whatever image it names.
    pub replace: bool,
    /// The same, and believe nothing that the destination says to have.
    pub force: bool,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// How many blobs move at once.
    pub jobs: usize,
    /// What this run knows already.
    pub memory: Memory,
}

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Outcome {
    /// The destination names this already.
    Unchanged {
        /// The digest that both name.
        digest: Digest,
        /// What refers to the image, if that was asked for.
        referrers: Referrers,
    },
    /// What a dry run found out.
    Planned(Copied),
    /// The destination was written.
    Copied(Copied),
}

/// What was copied.
#[derive(Clone, Debug, Serialize)]
pub struct Copied {
    /// The digest of what the source names.
    pub source_digest: Digest,
    /// The digest of what the destination names; another one if only some platforms were taken.
    pub digest: Digest,
    /// The destination tag named this before.
    pub replaced: Option<Digest>,
    /// The destination tag named this already, and something that refers to it was missing.
    pub only_referrers: bool,
    /// Manifests and indexes.
    pub manifests: usize,
    /// What refers to the image, if that was asked for.
    pub referrers: Referrers,
    /// What was moved.
    pub moves: Moved,
    /// Layers that were left out because they may not be distributed.
    pub foreign_layers: Vec<Digest>,
}

/// Copies `route.source` to `route.destination`.
///
/// # Errors
/// [`Kind::DestinationRefused`] if the destination tag names something else, unless `options.replace`. In every case of an
/// error the tag is where it was, or the error says what it names now.
/// [`Place::finish`] of `route.to` is up to the caller.
pub async fn image(route: &Route<'_>, options: &Options, progress: &Arc<dyn Progress>) -> Result<Outcome> {
    let Route { from, source, to, destination } = route;
    let name = image::destination_tag(destination)?;
    let target = Target::Tag(name.to_owned());
    let old = async { to.resolve(Some(&target)).await.map_err(|e| e.context(destination)) };
    let (root, old) = futures_util::future::join(image::resolve(from, source), old).await;
    let root = root?;
    let may_replace = options.force || options.replace;
    let old = match old {
        Err(e) if can_be_replaced(to, &e).await => {
            if !may_replace {
                return Err(e.hint("choose another tag, or replace it with --force"));
            }
            None
        }
        old => old?,
    };
    let tag = Tag { place: to, reference: destination, name, old: old.as_ref(), force: may_replace };
    let copy = Copy { route, options, progress };
    copy.run(&root, &tag).await
}

struct Copy<'a> {
    route: &'a Route<'a>,
    options: &'a Options,
    progress: &'a Arc<dyn Progress>,
}

impl Copy<'_> {
    async fn run(&self, root: &Root, tag: &Tag<'_>) -> Result<Outcome> {
        let Route { from, source, to, destination } = self.route;
        // Of a tag that is where it should be, everything is there: it was moved last. A registry names by SHA-256 what a
        // tag leads to, whatever the image calls itself, so the bytes decide (faults.md C3).
        let is_there = |bytes: &Bytes| tag.old.is_some_and(|old| old.bytes == *bytes) && !self.options.force;
        if is_there(&root.bytes) && self.options.platforms.is_empty() && !self.options.referrers {
            let digest = root.descriptor.digest.clone();
            return Ok(Outcome::Unchanged { digest, referrers: Referrers::default() });
        }
        let tree = self.select(root).await.map_err(|e| e.context(source))?;
        let new = tree.descriptor();
        let is_there = is_there(tree.bytes());
        let old = tag.old.filter(|old| old.bytes != *tree.bytes()).map(|old| old.descriptor.digest.clone());
        let may_replace = self.options.force || self.options.replace;
        if let Some(old) = old.as_ref().filter(|_| !may_replace) {
            let message = format!("{destination} exists and is another image ({old})");
            return Err(
                Error::new(Kind::DestinationRefused, message).hint("choose another tag, or replace it with --force")
            );
        }
        let trees = match self.options.referrers {
            true => referrers::find(from, &tree).await.map_err(|e| e.context(source))?,
            false => referrers::Found::default(),
        };
        if is_there && trees.is_at(to).await.map_err(|e| e.context(destination))? {
            return Ok(Outcome::Unchanged { digest: new.digest.clone(), referrers: trees.report() });
        }
        let mut copied = Copied {
            source_digest: root.descriptor.digest.clone(),
            digest: new.digest.clone(),
            replaced: old,
            only_referrers: is_there,
            manifests: tree.nodes().len(),
            referrers: trees.report(),
            moves: Moved::default(),
            foreign_layers: left_out(&blobs_of(&tree), from, to, self.options.foreign_layers)?,
        };
        if self.options.dry_run {
            copied.moves = self.mover(false).foresee(Some(from), to, &blobs_of(&tree)).await?;
            return Ok(Outcome::Planned(copied));
        }
        to.check_writable()?;
        to.prepare()?;
        let context = |e: Error| e.context(destination);
        copied.moves = self.referrers(&trees).await.map_err(context)?;
        copied.moves += self.tree(&tree, Some(tag)).await.map_err(context)?;
        Ok(Outcome::Copied(copied))
    }

    /// The whole image, or the platforms that were asked for.
    async fn select(&self, root: &Root) -> Result<Node> {
        let from = self.route.from;
        if self.options.platforms.is_empty() {
            return image::tree(from, root).await;
        }
        let tree = image::tree_of_what_is_there(from, root).await?;
        if let Node::Manifest(descriptor, manifest, _) = &tree {
            let image = Image::load(from, descriptor, manifest).await?;
            if !self.options.platforms.iter().any(|wanted| image.platform.matches(wanted)) {
                return Err(Error::not_found(format!("the image is for {} only", image.platform)));
            }
        }
        select::platforms(tree, &self.options.platforms)
    }

    fn mover(&self, distrust: bool) -> Mover {
        Mover {
            jobs: self.options.jobs,
            progress: self.progress.clone(),
            foreign_layers: self.options.foreign_layers,
            distrust,
            memory: self.options.memory.clone(),
        }
    }

    /// Blobs, manifests, and then the root under its tag or, without one, under its digest.
    async fn tree(&self, tree: &Node, tag: Option<&Tag<'_>>) -> Result<Moved> {
        let Route { from, to, .. } = self.route;
        let mut moves = Moved::default();
        let store = async |distrust| {
            let there = if distrust || self.options.force { HashSet::new() } else { self.there(tree).await? };
            let missing = tree.manifests().into_iter().filter(|(image, _)| !there.contains(&image.digest));
            let missing: Vec<Descriptor> = missing.flat_map(|(_, manifest)| manifest.blobs().cloned()).collect();
            moves += self.mover(distrust).copy(from, to, &missing).await?;
            for entry in tree.nodes().into_iter().flat_map(unknown) {
                moves += self.unknown(entry).await?;
            }
            match copy_manifests(to, tree, tag.is_none(), &there).await? {
                Stored::Stored => match tag {
                    Some(tag) => tag.publish(tree.descriptor(), tree.bytes()).await,
                    None => Ok(Stored::Stored),
                },
                unknown => Ok(unknown),
            }
        };
        trust_once(store).await.map(|()| moves)
    }

    /// The images of the tree that the destination has as a whole.
    async fn there(&self, tree: &Node) -> Result<HashSet<Digest>> {
        let to = self.route.to;
        let images: HashMap<Digest, Descriptor> =
            tree.manifests().into_iter().map(|(image, _)| (image.digest.clone(), image.clone())).collect();
        let ask = |(digest, image): (Digest, Descriptor)| async move {
            Ok::<_, Error>(if to.has_image(&image).await? { Some(digest) } else { None })
        };
        let there = stream::iter(images.into_iter().map(ask)).buffer_unordered(self.options.jobs.max(1));
        Ok(there.try_collect::<Vec<_>>().await?.into_iter().flatten().collect())
    }

    /// An entry of an index that is of no known type: wherever it is kept, among manifests or blobs, it goes to the same.
    async fn unknown(&self, entry: &Descriptor) -> Result<Moved> {
        let Route { from, to, .. } = self.route;
        let fault = |e: Error| e.at(from.show());
        let small = entry.size <= from.limits().document();
        let document = if small { found(from.document(entry).await).map_err(fault)? } else { None };
        if let Some(bytes) = document {
            self.mover(false).copy(from, to, &artifact_blobs(entry, &bytes).map_err(fault)?).await?;
            match to.push_manifest(entry, &bytes).await {
                Ok(Stored::Stored) => return Ok(Moved { uploaded: entry.size, ..Moved::default() }),
                // Not every registry takes every type as a manifest.
                Ok(Stored::BlobUnknown(error)) | Err(error) => tracing::debug!("{}: {error}", entry.digest),
            }
            return self.mover(false).push(to, None, vec![(entry.clone(), bytes.into())]).await;
        }
        self.mover(false).copy(from, to, std::slice::from_ref(entry)).await
    }

    /// What refers to the image goes before the tag, so that who sees the tag finds its signature.
    async fn referrers(&self, found: &referrers::Found) -> Result<Moved> {
        let mut moves = Moved::default();
        for tree in found.trees() {
            moves += self.tree(tree, None).await?;
        }
        found.link(self.route.to).await?;
        Ok(moves)
    }
}

/// `None` for what is not there.
fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Entries of an index that are neither manifests nor indexes.
fn unknown(node: &Node) -> Vec<&Descriptor> {
    match node {
        Node::Manifest(..) => Vec::new(),
        Node::Index(_, index, children, _) => {
            index.manifests.iter().zip(children).filter(|(_, child)| child.is_none()).map(|(entry, _)| entry).collect()
        }
    }
}

/// The blobs of an artifact manifest, a type that image-spec had for a while before 1.1.
fn artifact_blobs(entry: &Descriptor, bytes: &[u8]) -> Result<Vec<Descriptor>> {
    if entry.media_type != "application/vnd.oci.artifact.manifest.v1+json" {
        return Ok(Vec::new());
    }
    let blobs: Vec<Object> = Object::parse(bytes)?.get("blobs")?.unwrap_or_default();
    blobs.into_iter().map(Descriptor::from_object).collect()
}
