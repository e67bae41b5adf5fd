//! What refers to an image: signatures, SBOMs, provenance. By the referrers API or the tag that stands in for it
//! (distribution-spec, "Listing Referrers"), and by cosign's tags; for the image and for each of its platforms.

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::image::{self, Budget, Node};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::manifest::{Document, Index};
use crate::oci::media_type::OCI_INDEX;
use crate::oci::reference::Target;
use crate::transport::Place;
use crate::transport::registry::Stored;

/// What cosign puts behind the digest of what it signed, attested or described.
const COSIGN: [&str; 3] = ["sig", "att", "sbom"];
/// Questions that are asked at the same time.
const AT_ONCE: usize = 8;

/// What refers to an image, for people and programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Referrers {
    /// Manifests that name what they refer to.
    pub manifests: Vec<Referrer>,
    /// Tags that name what they refer to, as cosign writes them.
    pub tags: Vec<String>,
}

/// One manifest that refers to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Referrer {
    /// What it refers to.
    pub subject: Digest,
    /// Its own digest.
    pub digest: Digest,
    /// What it is, such as `application/vnd.dev.cosign.artifact.sig.v1+json`.
    pub artifact_type: Option<String>,
}

/// What refers to an image, read.
#[derive(Default)]
pub(super) struct Found {
    by_subject: Vec<(Digest, Vec<Descriptor>)>,
    manifests: Vec<Node>,
    tagged: Vec<(String, Node)>,
}

/// Finds what refers to any manifest of `tree`, and what refers to that.
pub(super) async fn find(place: &Place, tree: &Node) -> Result<Found> {
    let mut found = Found::default();
    let mut seen = HashSet::new();
    let budget = &Budget::new(place, true);
    let mut subjects: Vec<Digest> = tree.nodes().into_iter().map(|node| node.descriptor().digest.clone()).collect();
    // A signature of an SBOM is the second level (faults.md C29).
    for depth in 0.. {
        subjects.retain(|subject| seen.insert(subject.clone()));
        if subjects.is_empty() {
            break;
        }
        place.limits().check_depth(depth, "what refers to it is referred to in turn,")?;
        let ask = |subject: Digest| async move {
            let referrers = place.referrers(&subject).await?;
            referrers.iter().try_for_each(|referrer| budget.take(referrer, 0))?;
            let tags =
                stream::iter(COSIGN).then(|suffix| tagged(place, format!("{}.{suffix}", subject.as_tag()), budget));
            let tags: Vec<Option<(String, Node)>> = tags.try_collect().await?;
            Ok::<_, Error>((subject, referrers, tags))
        };
        let answers = stream::iter(std::mem::take(&mut subjects)).map(ask).buffered(AT_ONCE);
        let answers: Vec<_> = answers.try_collect().await?;
        for (subject, referrers, tags) in answers {
            for referrer in &referrers {
                if !seen.contains(&referrer.digest) && !subjects.contains(&referrer.digest) {
                    let root =
                        place.manifest(referrer).await.map_err(|e| e.context(format!("referrer of {subject}")))?;
                    found.manifests.push(image::tree_within(place, &root, budget).await?);
                    subjects.push(referrer.digest.clone());
                }
            }
            if !referrers.is_empty() {
                found.by_subject.push((subject, referrers));
            }
            for (tag, node) in tags.into_iter().flatten() {
                subjects.push(node.descriptor().digest.clone());
                found.tagged.push((tag, node));
            }
        }
    }
    Ok(found)
}

async fn tagged(place: &Place, tag: String, budget: &Budget) -> Result<Option<(String, Node)>> {
    let Some(root) = place.resolve(Some(&Target::Tag(tag.clone()))).await? else { return Ok(None) };
    budget.take(&root.descriptor, 0)?;
    Ok(Some((tag, image::tree_within(place, &root, budget).await?)))
}

impl Found {
    /// Everything that has to be copied.
    pub(super) fn trees(&self) -> impl Iterator<Item = &Node> {
        self.manifests.iter().chain(self.tagged.iter().map(|(_, node)| node))
    }

    pub(super) fn report(&self) -> Referrers {
        let one = |subject: &Digest, referrer: &Descriptor| Referrer {
            subject: subject.clone(),
            digest: referrer.digest.clone(),
            artifact_type: referrer.object().get("artifactType").ok().flatten(),
        };
        let all = |(subject, referrers): &(Digest, Vec<Descriptor>)| -> Vec<Referrer> {
            referrers.iter().map(|referrer| one(subject, referrer)).collect()
        };
        Referrers {
            manifests: self.by_subject.iter().flat_map(all).collect(),
            tags: self.tagged.iter().map(|(tag, _)| tag.clone()).collect(),
        }
    }

    /// Whether `to` has all of it where it would be looked for.
    pub(super) async fn is_at(&self, to: &Place) -> Result<bool> {
        for (tag, node) in &self.tagged {
            let root = to.resolve(Some(&Target::Tag(tag.clone()))).await?;
            if root.is_none_or(|root| root.descriptor.digest != node.descriptor().digest) {
                return Ok(false);
            }
        }
        for (subject, referrers) in &self.by_subject {
            let known: HashSet<Digest> = to.referrers(subject).await?.into_iter().map(|known| known.digest).collect();
            if !referrers.iter().all(|referrer| known.contains(&referrer.digest)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lets everything be found at `to`, where it is already: cosign's tags, and the tag that stands in for the referrers
    /// API where `to` does not have that (distribution-spec, "Referrers Tag Schema").
    pub(super) async fn link(&self, to: &Place) -> Result<()> {
        for (tag, node) in &self.tagged {
            publish(to, tag, node.descriptor(), node.bytes()).await?;
        }
        for (subject, referrers) in &self.by_subject {
            let known: HashSet<Digest> = to.referrers(subject).await?.into_iter().map(|known| known.digest).collect();
            let missing: Vec<&Descriptor> =
                referrers.iter().filter(|referrer| !known.contains(&referrer.digest)).collect();
            if missing.is_empty() {
                continue;
            }
            let tag = subject.as_tag();
            let index = match to.resolve(Some(&Target::Tag(tag.clone()))).await? {
                None => Index::of(&missing)?,
                Some(root) => match &root.document {
                    Document::Index(index) => index.with_more(&missing)?,
                    // Whatever it is, it is not ours to replace (faults.md E27).
                    Document::Manifest(_) => {
                        return Err(Error::content(format!(
                            "the tag {tag} should list what refers to {subject}, but is an image"
                        )));
                    }
                },
            };
            let descriptor = Descriptor::new(OCI_INDEX, Digest::of(&index), index.len() as u64)?;
            publish(to, &tag, &descriptor, &index.into()).await?;
        }
        Ok(())
    }
}

async fn publish(to: &Place, tag: &str, descriptor: &Descriptor, bytes: &bytes::Bytes) -> Result<()> {
    match to.publish(tag, descriptor, bytes).await? {
        Stored::Stored => Ok(()),
        Stored::BlobUnknown(error) => Err(error),
    }
}
