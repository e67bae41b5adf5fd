//! Blobs on their way from one place to another: what is there is skipped, what one registry has is mounted, the rest is
//! streamed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::copy::Memory;
use crate::error::{Error, Result};
use crate::image::Node;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::progress::{Bar, Progress};
use crate::transport::registry::Pushed;
use crate::transport::{ByteStream, Content, Opener, Place};

/// What happened to the blobs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Sent to the destination.
    pub uploaded: u64,
    /// Made available by the registry itself, from another repository of it.
    pub mounted: u64,
    /// There already.
    pub skipped: u64,
}

impl std::ops::AddAssign for Moved {
    fn add_assign(&mut self, other: Self) {
        self.uploaded += other.uploaded;
        self.mounted += other.mounted;
        self.skipped += other.skipped;
    }
}

/// The blobs that an image or a tree of images names.
pub fn blobs_of(tree: &Node) -> Vec<Descriptor> {
    tree.manifests().into_iter().flat_map(|(_, manifest)| manifest.blobs().cloned()).collect()
}

/// How blobs are moved.
#[derive(Clone)]
pub struct Mover {
    /// How many at once.
    pub jobs: usize,
    /// Who watches.
    pub progress: Arc<dyn Progress>,
    /// Copy layers that may not be distributed too.
    pub foreign_layers: bool,
    /// Send blobs even if the destination says that it has them: it was wrong once (faults.md E17).
    pub distrust: bool,
    /// What this run knows already.
    pub memory: Memory,
}

impl Mover {
    /// Stores each of `blobs` at `to`, each digest once; `from` is where they can be mounted from.
    pub async fn push(&self, to: &Place, from: Option<&Place>, mut blobs: Vec<(Descriptor, Content)>) -> Result<Moved> {
        let mut seen = HashSet::new();
        blobs.retain(|(descriptor, _)| seen.insert(descriptor.digest.clone()));
        // The largest first, so that none of them is alone at the end.
        blobs.sort_by_key(|(descriptor, _)| std::cmp::Reverse(descriptor.size));
        let push = |(descriptor, content): (Descriptor, Content)| async move {
            let size = descriptor.size;
            let moved = Moved::default();
            // Who comes second waits, and finds the blob there.
            let slot = self.memory.slot(to, &descriptor.digest);
            let mut there = slot.lock().await;
            if !self.distrust && (*there || to.has_blob(&descriptor).await?) {
                *there = true;
                return Ok::<_, Error>(Moved { skipped: size, ..moved });
            }
            let bar = self.progress.start(&format!("push {}", &descriptor.digest.hex()[..12]), size).into();
            let elsewhere = match from {
                Some(from) if from.can_mount_at(to) => None,
                _ => self.memory.origin(to, &descriptor.digest),
            };
            let from = elsewhere.as_ref().or(from).filter(|_| !self.distrust);
            let content = watched(content, bar);
            let pushed = loop {
                match to.push_blob(&descriptor, &content, from).await {
                    Err(error) if error.is_retryable() => {}
                    pushed => break pushed?,
                }
            };
            *there = true;
            Ok(match pushed {
                Pushed::Mounted => Moved { mounted: size, ..moved },
                Pushed::Uploaded => Moved { uploaded: size, ..moved },
            })
        };
        let mut total = Moved::default();
        let mut done = stream::iter(blobs.into_iter().map(push)).buffer_unordered(self.jobs.max(1));
        while let Some(moved) = done.try_next().await? {
            total += moved;
        }
        Ok(total)
    }

    /// Copies the blobs of `from` that `to` lacks; nothing is asked if both are one place.
    pub async fn copy(&self, from: &Place, to: &Place, blobs: &[Descriptor]) -> Result<Moved> {
        let blobs = self.distributable(blobs).map_err(|e| e.at(from.show()))?;
        if from.is_same(to) && !self.distrust {
            return Ok(Moved { skipped: blobs.iter().map(|blob| blob.size).sum(), ..Moved::default() });
        }
        let blobs = blobs.into_iter().map(|blob| (blob.clone(), from.content(&blob)));
        self.push(to, Some(from), blobs.collect()).await
    }

    /// Each digest once; layers that may not be distributed are named by their manifest and not copied (faults.md D27).
    /// Refused: one digest with two sizes, of which only one can be right (faults.md C6).
    fn distributable(&self, blobs: &[Descriptor]) -> Result<Vec<Descriptor>> {
        let mut sizes = HashMap::new();
        let mut ours = Vec::new();
        for blob in blobs.iter().filter(|blob| self.foreign_layers || !blob.is_foreign_layer()) {
            let (digest, size) = (&blob.digest, blob.size);
            match sizes.insert(digest, size) {
                None => ours.push(blob.clone()),
                Some(other) if other != size => {
                    return Err(Error::content(format!("{digest} is said to have {other} bytes and {size} bytes")));
                }
                Some(_) => {}
            }
        }
        Ok(ours)
    }

    /// What [`Mover::copy`], or [`Mover::push`] without a `from`, would move, as far as asking for each blob can tell.
    pub async fn foresee(&self, from: Option<&Place>, to: &Place, blobs: &[Descriptor]) -> Result<Moved> {
        let mut total = Moved::default();
        for blob in self.distributable(blobs)? {
            if from.is_some_and(|from| from.is_same(to)) || to.has_blob(&blob).await? {
                total.skipped += blob.size;
            } else if from.is_some_and(|from| from.can_mount_at(to)) {
                total.mounted += blob.size;
            } else {
                total.uploaded += blob.size;
            }
        }
        Ok(total)
    }
}

/// Which of `blobs` stay where they are when an image goes to `to`, each once: layers that may not be distributed, unless
/// `foreign_layers`.
///
/// # Errors
/// [`Content`](crate::error::Kind::Content) for an archive, which must have all of its layers: from it nothing is fetched
/// any more.
pub fn left_out(blobs: &[Descriptor], from: &Place, to: &Place, foreign_layers: bool) -> Result<Vec<Digest>> {
    let mut layers: Vec<Digest> = Vec::new();
    if foreign_layers || from.is_same(to) {
        return Ok(layers);
    }
    for blob in blobs.iter().filter(|blob| blob.is_foreign_layer()) {
        if !layers.contains(&blob.digest) {
            layers.push(blob.digest.clone());
        }
    }
    match (layers.first(), to) {
        (Some(layer), Place::Archive(_)) => Err(Error::content(format!(
            "the layer {layer} is marked as not to be distributed, and without it the archive is not whole"
        ))
        .hint("if you may copy it, say --foreign-layers")),
        _ => Ok(layers),
    }
}

/// The same content, while `bar` is told how far it is.
fn watched(content: Content, bar: Arc<dyn Bar>) -> Content {
    let place = content.place().cloned();
    let open: Opener = Arc::new(move |offset| {
        let (content, bar) = (content.clone(), bar.clone());
        Box::pin(async move {
            let stream = content.open(offset).await?;
            Ok(stream.inspect_ok(move |piece| bar.advance(piece.len() as u64)).boxed() as ByteStream)
        })
    });
    Content::Elsewhere { place, open }
}
