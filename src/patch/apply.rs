//! Stores what was planned: blobs, then manifests, then the tag, which moves last and in one request.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::copy::{Moved, Mover, Route, Tag, blobs_of, can_be_replaced, copy_manifests, left_out, trust_once};
use crate::error::{self, Error, Result};
use crate::image::{self, Node};
use crate::oci::config::ImageConfig;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::manifest::{BASE_DIGEST, BASE_NAME, Document, Manifest};
use crate::oci::media_type::{Family, Kind};
use crate::oci::reference::{Reference, Repository, Target};
use crate::patch::Options;
use crate::patch::plan::{Plan, Planned, plan};
use crate::patch::record::{ANNOTATIONS, LABELS, Record, Request};
use crate::progress::Progress;
use crate::transport::registry::Stored;
use crate::transport::{Place, Root};

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Outcome {
    /// The destination already is this patch of this source.
    Unchanged {
        /// The digest of what the source names.
        source_digest: Digest,
        /// The digest of what the destination names.
        digest: Digest,
    },
    /// The plan of a dry run.
    Planned {
        /// What would change.
        #[serde(flatten)]
        plan: Plan,
        /// What would move.
        moves: Moved,
    },
    /// The destination was written.
    Patched {
        /// What changed.
        #[serde(flatten)]
        plan: Plan,
        /// What the destination tag named before.
        replaced: Option<Digest>,
        /// What was moved.
        moves: Moved,
    },
}

/// Patches `route.source` and publishes the result as `route.destination`; with `dry_run` only says what would happen.
///
/// # Errors
/// [`error::Kind::DestinationRefused`] if the destination tag holds something that is not an earlier patch of the same
/// repository, or changes while we work. In every case of an error the tag is where it was, or the error says what it
/// names now. [`Place::finish`] of `route.to` is up to the caller.
pub async fn apply(
    route: &Route<'_>,
    options: &Options,
    dry_run: bool,
    progress: &Arc<dyn Progress>,
) -> Result<Outcome> {
    let name = image::destination_tag(route.destination)?;
    let Start { source, old, state } = start(route, options).await?;
    if let State::Unchanged(digest) = state {
        return Ok(Outcome::Unchanged { source_digest: source.descriptor.digest.clone(), digest });
    }
    let base = base_name(route.source);
    if !dry_run {
        route.to.check_writable()?;
    }
    let Planned { mut plan, root, manifests, blobs, base: base_blobs, untouched } =
        plan(route.from, base.as_deref(), &source, options, progress, route.from.is_same(route.to))
            .await
            .map_err(|e| e.context(route.source))?;

    let mut all_base = base_blobs;
    all_base.extend(untouched.iter().flat_map(blobs_of));
    plan.foreign_layers = left_out(&all_base, route.from, route.to, options.foreign_layers)?;
    let mover = |distrust| Mover {
        jobs: options.jobs,
        progress: progress.clone(),
        foreign_layers: options.foreign_layers,
        distrust,
        memory: options.memory.clone(),
    };
    if dry_run {
        let mut moves = mover(false).foresee(Some(route.from), route.to, &all_base).await?;
        let new: Vec<Descriptor> = blobs.into_iter().map(|(descriptor, _)| descriptor).collect();
        moves += mover(false).foresee(None, route.to, &new).await?;
        return Ok(Outcome::Planned { plan, moves });
    }

    route.to.prepare()?;
    let tag = Tag { place: route.to, reference: route.destination, name, old: old.as_ref(), force: options.force };
    let mut moves = Moved::default();
    let store = async |distrust| {
        let mover = mover(distrust);
        moves += mover.copy(route.from, route.to, &all_base).await?;
        moves += mover.push(route.to, None, blobs.clone()).await?;
        match push_manifests(route, &untouched, &manifests).await? {
            Stored::Stored => tag.publish(&root.0, &root.1).await,
            unknown => Ok(unknown),
        }
    };
    trust_once(store).await.map_err(|e| e.context(route.destination))?;
    Ok(Outcome::Patched { plan, replaced: old.map(|old| old.descriptor.digest), moves })
}

/// How a destination stands to the patch that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is that patch of that source, of this digest.
    Unchanged(Digest),
    /// There is nothing yet.
    Absent,
    /// It holds something else that may be replaced, for this reason.
    Outdated(&'static str),
}

/// Whether [`apply`] would change anything. A few small requests tell it: no layer is looked at.
///
/// # Errors
/// As [`apply`], as far as they come from what source and destination name.
pub async fn state(route: &Route<'_>, options: &Options) -> Result<State> {
    start(route, options).await.map(|start| start.state)
}

/// What source and destination name at first.
struct Start {
    source: Root,
    old: Option<Root>,
    state: State,
}

async fn start(route: &Route<'_>, options: &Options) -> Result<Start> {
    let target = Target::Tag(image::destination_tag(route.destination)?.to_owned());
    let request = options.request()?;
    let source = image::resolve(route.from, route.source).await?;
    let old = match route.to.resolve(Some(&target)).await {
        Err(e) if can_be_replaced(route.to, &e).await => {
            if !options.force {
                return Err(e.context(route.destination).hint("choose another tag, or replace it with --force"));
            }
            return Ok(Start { source, old: None, state: State::Outdated("what is there cannot be read") });
        }
        old => old.map_err(|e| e.context(route.destination))?,
    };
    let Some(old) = old else { return Ok(Start { source, old: None, state: State::Absent }) };
    let state = match compare(route, &source, &old, base_name(route.source).as_deref(), &request).await? {
        Standing::Same => State::Unchanged(old.descriptor.digest.clone()),
        Standing::Earlier(why) => State::Outdated(why),
        Standing::Other(what) if options.force => State::Outdated(what),
        Standing::Other(what) => {
            return Err(Error::new(
                error::Kind::DestinationRefused,
                format!("{} {what} ({})", route.destination, old.descriptor.digest),
            )
            .hint("choose another tag, or replace it with --force"));
        }
    };
    Ok(Start { source, old: Some(old), state })
}

/// Stores what is below the root, children before parents.
async fn push_manifests(route: &Route<'_>, untouched: &[Node], new: &[(Descriptor, Bytes)]) -> Result<Stored> {
    for node in untouched {
        if route.from.is_same(route.to) {
            break;
        }
        if let Stored::BlobUnknown(error) = copy_manifests(route.to, node, true, &HashSet::new()).await? {
            return Ok(Stored::BlobUnknown(error));
        }
    }
    for (descriptor, bytes) in new {
        if let Stored::BlobUnknown(error) = route.to.push_manifest(descriptor, bytes).await? {
            return Ok(Stored::BlobUnknown(error));
        }
    }
    Ok(Stored::Stored)
}

/// What the source is called wherever it is read: a registry name, and never a path of this machine.
fn base_name(source: &Reference) -> Option<String> {
    let (repository, target) = source.name()?;
    Some(repository.image(target.as_ref()))
}

/// How what the destination tag holds stands to what we would put there.
enum Standing {
    /// It is that.
    Same,
    /// It is an earlier patch of the same repository; what changed since.
    Earlier(&'static str),
    /// It is something else, for this reason.
    Other(&'static str),
}

async fn compare(
    route: &Route<'_>,
    source: &Root,
    old: &Root,
    name: Option<&str>,
    request: &Request,
) -> Result<Standing> {
    let Some(said) = said(route.to, old, source).await? else {
        return Ok(Standing::Other("exists and is no result of capatch"));
    };
    if !said.intact {
        return Ok(Standing::Other("was made by capatch, but somebody changed it since"));
    }
    if old.descriptor.digest == source.descriptor.digest && said.request.is_same(request) {
        // The source was patched in place before (faults.md H15).
        return Ok(Standing::Same);
    }
    let repository = |name: &str| -> Option<Repository> { Some(name.parse::<Reference>().ok()?.name()?.0) };
    if said.base_name.as_deref().and_then(repository) != name.and_then(repository) {
        return Ok(Standing::Other("is a patch of another repository"));
    }
    Ok(if said.base_digest.as_deref() != Some(source.descriptor.digest.as_str()) {
        Standing::Earlier("the source is another image now")
    } else if said.base_name.as_deref() != name {
        Standing::Earlier("the source has another name now")
    } else if !said.request.is_same(request) {
        Standing::Earlier("the options are others now")
    } else {
        Standing::Same
    })
}

/// What a patched image says about itself.
struct Said {
    request: Request,
    base_name: Option<String>,
    base_digest: Option<String>,
    intact: bool,
}

/// Reads the record of `root`, which is to be a patch of `source`. Docker's manifests have no annotations, so there the
/// configs are asked: of every image of a list, for nothing seals the list itself.
async fn said(place: &Place, root: &Root, source: &Root) -> Result<Option<Said>> {
    if let Some(record) = Record::read(&root.bytes, ANNOTATIONS)? {
        return Ok(Some(Said {
            base_name: root.document.annotation(BASE_NAME)?,
            base_digest: root.document.annotation(BASE_DIGEST)?,
            intact: record.is_intact(&root.bytes, ANNOTATIONS)?,
            request: record.request,
        }));
    }
    match &root.document {
        Document::Manifest(manifest) if manifest.family == Family::Docker => said_by_config(place, manifest).await,
        Document::Index(index) if index.family == Family::Docker => {
            let sources: Vec<&Digest> = source.document.children().iter().map(|child| &child.digest).collect();
            let mut all: Option<Said> = None;
            let mut foreign = false;
            for child in index.manifests.iter().filter(|child| !sources.contains(&&child.digest)) {
                let one = match child.kind() {
                    Kind::Manifest(_) => Box::pin(said(place, &place.manifest(child).await?, source)).await?,
                    _ => None,
                };
                match (&mut all, one) {
                    (_, None) => foreign = true,
                    (None, one) => all = one,
                    (Some(all), Some(one)) => all.intact &= one.intact && one.request == all.request,
                }
            }
            Ok(all.map(|all| Said { intact: all.intact && !foreign, ..all }))
        }
        _ => Ok(None),
    }
}

async fn said_by_config(place: &Place, manifest: &Manifest) -> Result<Option<Said>> {
    if !manifest.is_image() {
        return Ok(None);
    }
    let bytes = place.small_blob(&manifest.config).await?;
    let Some(record) = Record::read(&bytes, LABELS)? else { return Ok(None) };
    let config = ImageConfig::parse(&bytes)?;
    let labels = config.labels()?;
    Ok(Some(Said {
        base_name: labels.get(BASE_NAME).cloned(),
        base_digest: labels.get(BASE_DIGEST).cloned(),
        intact: record.is_intact(&bytes, LABELS)? && config.check_layers(manifest.layers.len()).is_ok(),
        request: record.request,
    }))
}
