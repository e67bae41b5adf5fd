//! Any place an image can live: a closed set, so an enum and a `match`, with the same verbs for each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::blob;
use crate::error::{Error, Kind, Result};
use crate::limits::Limits;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::manifest::Document;
use crate::oci::reference::{self, Reference, Target};
use crate::progress::Progress;
use crate::transport::archive::Archive;
use crate::transport::containerd::{self, Containerd};
use crate::transport::docker::Engine;
use crate::transport::layout::Layout;
use crate::transport::registry::{Client, Pushed, Repository, Stored};
use crate::transport::{Content, blocking};

/// A repository on a registry, a directory, a file, or the store of a container engine.
#[derive(Clone)]
pub enum Place {
    /// Reached over HTTP.
    Registry(Repository),
    /// A directory.
    Layout(Layout),
    /// A tar, as a file or in a pipe, or what a Docker engine saves and loads.
    Archive(Archive),
    /// The images of one repository in a containerd.
    Containerd(Containerd, reference::Repository),
}

/// What is needed to reach places of every kind.
#[derive(Clone)]
pub struct Transports {
    /// All registries.
    pub registries: Client,
    /// The containerd, and the namespace in it.
    pub containerd: containerd::Options,
    /// The Docker engine, as `DOCKER_HOST` has it; empty for the usual socket.
    pub docker: String,
    /// What is read of an image may take up; those of the registries are their own.
    pub limits: Limits,
    /// How long another run's lock on a layout or an archive is waited for; zero is not at all.
    pub lock_timeout: Duration,
}

/// A manifest or index as it was found: its descriptor, its bytes, and what they mean.
#[derive(Clone, Debug)]
pub struct Root {
    /// Media type, digest and size; the digest was computed from `bytes`.
    pub descriptor: Descriptor,
    /// Exactly as stored.
    pub bytes: Bytes,
    /// The bytes, read.
    pub document: Document,
}

impl Place {
    /// The place that `reference` names; nothing is contacted yet.
    pub fn of(reference: &Reference, transports: &Transports) -> Result<Self> {
        let Transports { limits, lock_timeout, .. } = *transports;
        Ok(match reference {
            Reference::Registry { repository, .. } => Place::Registry(transports.registries.repository(repository)?),
            Reference::Layout { path, .. } => Place::Layout(Layout::new(path, limits, lock_timeout)),
            Reference::Archive { format, path, .. } => {
                Place::Archive(Archive::new(path, *format, limits, lock_timeout))
            }
            Reference::Containerd { repository, .. } => {
                Place::Containerd(Containerd::new(transports.containerd.clone(), limits), repository.clone())
            }
            Reference::Daemon { repository, .. } => {
                let engine = Engine::new(&transports.docker, limits)?;
                Place::Archive(Archive::of_engine(engine, repository.clone(), limits))
            }
        })
    }

    /// For messages: the repository, directory, file or engine, without a tag.
    pub(crate) fn show(&self) -> String {
        match self {
            Place::Registry(repository) => repository.name().to_string(),
            Place::Layout(layout) => layout.show(),
            Place::Archive(archive) => archive.show(),
            Place::Containerd(_, repository) => format!("containerd:{repository}"),
        }
    }

    /// What may be read here of an image.
    pub fn limits(&self) -> Limits {
        match self {
            Place::Registry(repository) => repository.limits(),
            Place::Layout(layout) => layout.limits(),
            Place::Archive(archive) => archive.limits(),
            Place::Containerd(containerd, _) => containerd.limits(),
        }
    }

    /// The same place, to be written to. An image that gets no name of its own there is called after `source`.
    #[must_use]
    pub fn for_push(self, source: &Reference) -> Self {
        match self {
            Place::Registry(repository) => Place::Registry(repository.for_push()),
            Place::Archive(archive) => {
                Place::Archive(archive.for_push(source.name().map(|(repository, _)| repository)))
            }
            place => place,
        }
    }

    /// What `target` names here, or the only image if it is `None`. `Ok(None)`: there is no such image (yet).
    ///
    /// A tag is resolved by one request, and its digest computed from the bytes of the answer (faults.md B16).
    pub async fn resolve(&self, target: Option<&Target>) -> Result<Option<Root>> {
        let latest = Target::Tag("latest".to_owned());
        let pinned = match target {
            Some(Target::Digest(digest)) => Some(digest.clone()),
            _ => None,
        };
        let (claimed, bytes, digest) = match self {
            Place::Registry(repository) => {
                let Some(found) = repository.manifest(target.unwrap_or(&latest)).await? else { return Ok(None) };
                (Some(found.media_type), found.bytes, pinned)
            }
            Place::Layout(layout) => {
                let (layout, target) = (layout.clone(), target.cloned());
                let found = blocking(move || layout.resolve(target.as_ref())).await?;
                let Some((descriptor, bytes)) = found else { return Ok(None) };
                (Some(descriptor.media_type), bytes, Some(descriptor.digest))
            }
            Place::Archive(archive) => {
                let Some((descriptor, bytes)) = archive.find(target).await? else { return Ok(None) };
                (Some(descriptor.media_type), bytes, Some(descriptor.digest))
            }
            Place::Containerd(containerd, repository) => {
                let (claimed, digest) = match (containerd.image(&repository.image(target)).await?, pinned) {
                    (Some(descriptor), _) => (Some(descriptor.media_type), descriptor.digest),
                    (None, Some(digest)) => (None, digest),
                    (None, None) => return Ok(None),
                };
                let Some(bytes) = containerd.small(&digest).await? else { return Ok(None) };
                (claimed, bytes, Some(digest))
            }
        };
        let document = Document::parse(&bytes, claimed.as_deref())?;
        let digest = digest.unwrap_or_else(|| Digest::of(&bytes));
        let descriptor = Descriptor::new(document.media_type(), digest, bytes.len() as u64)?;
        blob::verify(&bytes, &descriptor)?;
        Ok(Some(Root { descriptor, bytes, document }))
    }

    /// The names of the images here; none for a registry, which could have any number of them. An error if there is no such
    /// layout or archive.
    pub async fn names(&self) -> Result<Vec<String>> {
        match self {
            Place::Registry(_) => Ok(Vec::new()),
            Place::Layout(layout) => layout.tags(),
            Place::Archive(archive) => archive.list().await,
            Place::Containerd(containerd, _) => containerd.names().await,
        }
    }

    /// What refers to the manifest `subject`: asked of a registry, and elsewhere listed by the tag that stands in for that.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        if let Place::Registry(repository) = self {
            return repository.referrers(subject).await;
        }
        match self.resolve(Some(&Target::Tag(subject.as_tag()))).await? {
            Some(Root { document: Document::Index(index), .. }) => Ok(index.manifests),
            _ => Ok(Vec::new()),
        }
    }

    /// The manifest or index that `descriptor` names.
    pub async fn manifest(&self, descriptor: &Descriptor) -> Result<Root> {
        let bytes = self.document(descriptor).await?;
        let document =
            Document::parse(&bytes, Some(&descriptor.media_type)).map_err(|e| e.context(&descriptor.digest))?;
        Ok(Root { descriptor: descriptor.clone(), bytes, document })
    }

    /// The verified bytes of a document that stands where manifests do, whatever its type.
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Bytes> {
        self.limits().check_document(descriptor.size, &descriptor.digest)?;
        let found = match self {
            Place::Registry(repository) => {
                let found = repository.manifest(&Target::Digest(descriptor.digest.clone())).await?;
                found.map(|found| found.bytes)
            }
            Place::Containerd(containerd, _) => containerd.small(&descriptor.digest).await?,
            Place::Layout(_) | Place::Archive(_) => Some(self.small_blob(descriptor).await?),
        };
        let bytes = found.ok_or_else(|| {
            Error::not_found(format!("the manifest {} is missing", descriptor.digest))
                .hint("the image is incomplete where it is stored; push or copy it again")
        })?;
        blob::verify(&bytes, descriptor)?;
        Ok(bytes)
    }

    /// Whether the blob is here. A layout hashes it; a registry is asked.
    pub async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        match self {
            Place::Registry(repository) => repository.has_blob(descriptor).await,
            Place::Layout(layout) => {
                let (layout, descriptor) = (layout.clone(), descriptor.clone());
                blocking(move || layout.has(&descriptor)).await
            }
            Place::Archive(archive) => {
                let (archive, descriptor) = (archive.clone(), descriptor.clone());
                blocking(move || archive.has(&descriptor)).await
            }
            Place::Containerd(containerd, _) => containerd.has_blob(descriptor).await,
        }
    }

    /// Whether this image manifest is here together with everything that it names: registries refuse it otherwise.
    /// Elsewhere only looking at each blob can tell, and the answer is no.
    pub async fn has_image(&self, descriptor: &Descriptor) -> Result<bool> {
        match self {
            Place::Registry(_) => match self.document(descriptor).await {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == Kind::NotFound => Ok(false),
                Err(error) => Err(error),
            },
            _ => Ok(false),
        }
    }

    /// Refuses a place that cannot be written to, as far as that can be told before anything is transferred.
    pub fn check_writable(&self) -> Result<()> {
        match self {
            Place::Registry(_) | Place::Containerd(..) => Ok(()),
            Place::Layout(layout) => layout.check_writable(),
            Place::Archive(archive) => archive.check_writable(),
        }
    }

    /// Makes the place ready to be written to.
    pub fn prepare(&self) -> Result<()> {
        match self {
            Place::Layout(layout) => layout.prepare(),
            _ => Ok(()),
        }
    }

    /// A blob of this place, to be stored at another.
    pub fn content(&self, descriptor: &Descriptor) -> Content {
        let (place, descriptor) = (self.clone(), descriptor.clone());
        Content::elsewhere(&self.show(), move |offset| {
            let (place, descriptor) = (place.clone(), descriptor.clone());
            async move { place.blob(&descriptor, offset).await }
        })
    }

    /// Stores a blob; it is mounted from `origin`, where it is already, if both are repositories of one registry.
    pub async fn push_blob(
        &self,
        descriptor: &Descriptor,
        content: &Content,
        origin: Option<&Place>,
    ) -> Result<Pushed> {
        match self {
            Place::Registry(repository) => {
                let from = match origin {
                    Some(Place::Registry(from)) if origin.is_some_and(|origin| origin.can_mount_at(self)) => {
                        Some(from.name().path.as_str())
                    }
                    _ => None,
                };
                return repository.push_blob(descriptor, content, from).await;
            }
            Place::Layout(layout) => layout.receive(descriptor, content).await?,
            Place::Archive(archive) => archive.add_blob(descriptor, content.clone()),
            Place::Containerd(containerd, _) => {
                let from = match origin {
                    Some(Place::Registry(from)) => Some(from.name()),
                    _ => None,
                };
                containerd.push_blob(descriptor, content, from).await?;
            }
        }
        Ok(Pushed::Uploaded)
    }

    /// Stores a manifest or index under its digest.
    pub async fn push_manifest(&self, descriptor: &Descriptor, bytes: &Bytes) -> Result<Stored> {
        match self {
            Place::Registry(repository) => {
                let target = Target::Digest(descriptor.digest.clone());
                return repository.push_manifest(&target, &descriptor.media_type, bytes.clone()).await;
            }
            Place::Layout(layout) => write(layout, descriptor, bytes).await?,
            Place::Archive(archive) => archive.add_manifest(descriptor, bytes.clone()),
            Place::Containerd(containerd, _) => return containerd.push_manifest(descriptor, bytes).await,
        }
        Ok(Stored::Stored)
    }

    /// Lets `tag` name a manifest or index, which is stored by the same step. This publishes it: do it last. What is
    /// published in an archive is there after [`Place::finish`].
    pub async fn publish(&self, tag: &str, descriptor: &Descriptor, bytes: &Bytes) -> Result<Stored> {
        match self {
            Place::Registry(repository) => {
                let target = Target::Tag(tag.to_owned());
                return repository.push_manifest(&target, &descriptor.media_type, bytes.clone()).await;
            }
            Place::Layout(layout) => {
                write(layout, descriptor, bytes).await?;
                let (layout, tag, descriptor) = (layout.clone(), tag.to_owned(), descriptor.clone());
                blocking(move || layout.tag(&tag, &descriptor)).await?;
            }
            Place::Archive(archive) => {
                archive.add_manifest(descriptor, bytes.clone());
                archive.tag(tag, descriptor)?;
            }
            Place::Containerd(containerd, repository) => {
                return containerd.publish(&format!("{repository}:{tag}"), descriptor, bytes).await;
            }
        }
        Ok(Stored::Stored)
    }

    /// Ends writing: an archive is written now, a containerd is told that we hold nothing any more.
    pub async fn finish(&self, progress: &Arc<dyn Progress>) -> Result<()> {
        match self {
            Place::Registry(_) | Place::Layout(_) => Ok(()),
            Place::Archive(archive) => archive.finish(progress).await,
            Place::Containerd(containerd, _) => {
                containerd.finish().await;
                Ok(())
            }
        }
    }

    /// Whether the registry itself can make a blob of this place available at the other one.
    pub fn can_mount_at(&self, other: &Place) -> bool {
        matches!((self, other), (Place::Registry(a), Place::Registry(b)) if a.name().registry == b.name().registry)
    }

    /// Whether content of the other place is here anyway: the same repository, or the same store.
    pub fn is_same(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Registry(a), Place::Registry(b)) => a.name() == b.name(),
            (Place::Layout(a), Place::Layout(b)) => a.is_same(b),
            (Place::Containerd(a, _), Place::Containerd(b, _)) => a.is_same(b),
            // An archive is written anew, with everything that it is to hold.
            _ => false,
        }
    }
}

async fn write(layout: &Layout, descriptor: &Descriptor, bytes: &Bytes) -> Result<()> {
    let (layout, descriptor, bytes) = (layout.clone(), descriptor.clone(), bytes.clone());
    blocking(move || layout.write(&descriptor, &mut &bytes[..])).await
}
