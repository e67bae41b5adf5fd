//! Manifests and indexes on their way to a place, and the tag that comes last.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::error::{Error, Kind, Result};
use crate::image::Node;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::reference::{Reference, Target};
use crate::transport::registry::Stored;
use crate::transport::{Place, Root};

/// Siblings that are stored at the same time.
const AT_ONCE: usize = 4;

/// Stores what is below the root of a tree, and the root too if `with_root`, byte for byte and without a tag: each digest
/// once, children before parents. What is in `there` is passed over.
pub async fn copy_manifests(to: &Place, tree: &Node, with_root: bool, there: &HashSet<Digest>) -> Result<Stored> {
    let mut levels: BTreeMap<usize, HashMap<&Digest, (Descriptor, Bytes)>> = BTreeMap::new();
    for node in tree.nodes() {
        let digest = &node.descriptor().digest;
        if (with_root || *digest != tree.descriptor().digest) && !there.contains(digest) {
            let document = (node.descriptor().clone(), node.bytes().clone());
            levels.entry(height(node)).or_default().insert(digest, document);
        }
    }
    for level in levels.into_values() {
        let push =
            |(descriptor, bytes): (Descriptor, Bytes)| async move { to.push_manifest(&descriptor, &bytes).await };
        let mut stored = stream::iter(level.into_values().map(push)).buffer_unordered(AT_ONCE);
        while let Some(stored) = stored.next().await {
            if let Stored::BlobUnknown(error) = stored? {
                return Ok(Stored::BlobUnknown(error));
            }
        }
    }
    Ok(Stored::Stored)
}

/// Makes an attempt to store an image, and a second one that is told to distrust the destination if that said that it had a
/// blob, and has not (faults.md E17).
pub async fn trust_once(mut attempt: impl AsyncFnMut(bool) -> Result<Stored>) -> Result<()> {
    if matches!(attempt(false).await?, Stored::Stored) {
        return Ok(());
    }
    match attempt(true).await? {
        Stored::Stored => Ok(()),
        Stored::BlobUnknown(error) => Err(error),
    }
}

/// How many levels are below a node.
fn height(node: &Node) -> usize {
    match node {
        Node::Manifest(..) => 0,
        Node::Index(_, _, children, _) => 1 + children.iter().flatten().map(height).max().unwrap_or(0),
    }
}

/// Whether what a tag of `place` names can be replaced although reading it gave `error`: a tag of a registry may hold
/// something that we do not know, and a manifest may be damaged or gone. A list of images that cannot be read is not written
/// anew.
pub async fn can_be_replaced(place: &Place, error: &Error) -> bool {
    matches!(error.kind(), Kind::Content | Kind::NotFound) && place.names().await.is_ok()
}

/// A tag of a destination, and what it named when we looked.
pub struct Tag<'a> {
    /// Where.
    pub place: &'a Place,
    /// As it was typed.
    pub reference: &'a Reference,
    /// The tag in it.
    pub name: &'a str,
    /// What it named.
    pub old: Option<&'a Root>,
    /// Move it whatever it names by now.
    pub force: bool,
}

impl Tag<'_> {
    /// Lets the tag name `root`, which is stored by the same request. Registries have no compare-and-set; looking again
    /// closes all but the last moment (faults.md E21).
    pub async fn publish(&self, root: &Descriptor, bytes: &Bytes) -> Result<Stored> {
        if !self.force {
            let digest = |root: Option<&Root>| -> Option<Digest> { root.map(|root| root.descriptor.digest.clone()) };
            let now = self.place.resolve(Some(&Target::Tag(self.name.to_owned()))).await?;
            let now = digest(now.as_ref());
            if now != digest(self.old) && now.as_ref() != Some(&root.digest) {
                let message = format!("{} was changed by somebody else meanwhile", self.reference);
                return Err(Error::new(Kind::DestinationRefused, message).hint("run the command again"));
            }
        }
        self.place.publish(self.name, root, bytes).await
    }
}
