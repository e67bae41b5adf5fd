//! Archives: images in one file, an OCI layout in a tar or what `docker save` writes, for the air gap and for pipes.
//!
//! Sources: image-spec `image-layout.md`; moby `image/tarexport`; containerd `core/images/archive`; containers-transports(5)
//! for the names. What is written is both at once, so that every tool takes it with the same digest.

mod docker;
mod engine;
mod file;
mod members;
mod names;
mod oci;
mod plan;
mod write;

use std::collections::HashSet;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use self::file::{Identity, Source};
use self::members::Members;
use self::names::Name;
use self::write::Pending;
use crate::blob::VerifiedReader;
use crate::error::{Error, Kind, Result};
use crate::limits::Limits;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::reference::{Repository, Target};
use crate::progress::Progress;
use crate::transport::docker::Engine;
use crate::transport::layout::index::{INDEX, MARKER};
use crate::transport::{Content, blocking};

pub use crate::oci::reference::ArchiveFormat as Format;

/// An archive that is, or is to be written.
#[derive(Clone)]
pub struct Archive(Arc<Shared>);

struct Shared {
    path: PathBuf,
    format: Format,
    limits: Limits,
    lock_timeout: Duration,
    /// Where the archive comes from and goes to instead of a file.
    engine: Option<engine::Attached>,
    /// The file as it was found, once it was looked at.
    opened: Mutex<Option<Result<Option<Arc<Opened>>>>>,
    pending: Mutex<Pending>,
}

/// An archive whose members are known.
struct Opened {
    members: Members,
    images: Images,
    compressed: bool,
    identity: Option<Identity>,
    /// Whether the two lists of images were compared.
    compared: Once,
}

enum Images {
    /// The bytes of `index.json`.
    Oci(Vec<u8>),
    /// What `manifest.json` names.
    Docker(docker::Images),
}

impl Archive {
    /// The archive in `path`; `-` is standard input when it is read and standard output when it is written. Nothing is
    /// opened yet. Another run's lock is waited for for `lock_timeout`.
    pub fn new(path: impl Into<PathBuf>, format: Format, limits: Limits, lock_timeout: Duration) -> Self {
        Archive(Arc::new(Shared {
            path: path.into(),
            format,
            limits,
            lock_timeout,
            engine: None,
            opened: Mutex::default(),
            pending: Mutex::default(),
        }))
    }

    /// What a Docker engine saves and loads of the images in `repository`. Nothing is asked yet.
    pub fn of_engine(engine: Engine, repository: Repository, limits: Limits) -> Self {
        Archive(Arc::new(Shared {
            path: PathBuf::new(),
            format: Format::Oci,
            limits,
            lock_timeout: Duration::ZERO,
            engine: Some(engine::Attached::new(engine, repository)),
            opened: Mutex::default(),
            pending: Mutex::default(),
        }))
    }

    /// What `target` names: as [`Archive::resolve`], of an engine too.
    pub async fn find(&self, target: Option<&Target>) -> Result<Option<(Descriptor, Bytes)>> {
        let target = match &self.0.engine {
            // An engine replaces the image that has the name, as docker load and docker pull do.
            Some(_) if self.pending().is_destination => return Ok(None),
            Some(attached) => {
                if !attached.save(target).await? {
                    return Ok(None);
                }
                self.forget();
                None
            }
            None => target.cloned(),
        };
        let archive = self.clone();
        blocking(move || archive.resolve(target.as_ref())).await
    }

    /// Whether both are one file. Standard input and output are not.
    pub fn is_same(&self, other: &Archive) -> bool {
        let (a, b) = (&self.0.path, &other.0.path);
        if let (Some(a), Some(b)) = (&self.0.engine, &other.0.engine) {
            return a.engine.is_same(&b.engine);
        }
        Arc::ptr_eq(&self.0, &other.0)
            || (!file::is_pipe(a)
                && (a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)))
    }

    /// The manifest or index that `target` names, or the only one there is, with its bytes. `Ok(None)`: there is no such
    /// file or no such name.
    pub fn resolve(&self, target: Option<&Target>) -> Result<Option<(Descriptor, Bytes)>> {
        let Some(opened) = self.opened()? else { return Ok(None) };
        let place = format!("{}:{}", self.0.format.transport(), self.0.path.display());
        match &opened.images {
            Images::Oci(index) => oci::resolve(&opened, index, target, &place),
            Images::Docker(images) => images.resolve(&opened.members, target, &place),
        }
    }

    /// The names of all images: as [`Archive::names`], of an engine too.
    pub async fn list(&self) -> Result<Vec<String>> {
        if let Some(attached) = &self.0.engine {
            return attached.engine.names().await;
        }
        let archive = self.clone();
        blocking(move || archive.names()).await
    }

    /// The names of the images in the archive, for hints and to copy them all. [`Kind::NotFound`] if there is no such file.
    pub fn names(&self) -> Result<Vec<String>> {
        let opened = self.opened()?.ok_or_else(|| Error::not_found(format!("{} does not exist", self.show())))?;
        match &opened.images {
            Images::Oci(index) => oci::names(index, self.0.format).map_err(|e| e.context(self.show())),
            Images::Docker(images) => Ok(images.names()),
        }
    }

    /// Opens a blob from byte `offset` on. It is not hashed: the reader's user does that. [`Kind::NotFound`]: the archive
    /// does not hold it.
    pub fn open(&self, digest: &Digest, offset: u64) -> Result<Box<dyn Read + Send>> {
        let opened = self.opened()?.ok_or_else(|| Error::not_found(format!("{} does not exist", self.show())))?;
        if let Some(reader) = opened.open(digest, offset).map_err(|e| e.context(self.show()))? {
            return Ok(reader);
        }
        let since = match &opened.images {
            Images::Oci(index) => oci::since(index),
            Images::Docker(_) => None,
        };
        Err(match since {
            Some(since) => {
                Error::not_found(format!("{digest} is not in {}, which is a delta since {since}", self.show()))
                    .hint("copy it to a place that has that image, or copy that image there first")
            }
            None => Error::not_found(format!("{digest} is not in {}", self.show()))
                .hint("the archive is incomplete; write it again"),
        })
    }

    /// Whether the blob is here with the right content, was recorded to be written, or is one that a delta leaves out.
    pub fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        if self.pending().has(&descriptor.digest) {
            return Ok(true);
        }
        let Some(opened) = self.existing()? else { return Ok(false) };
        let reader = opened.blob(&descriptor.digest, 0).map_err(|e| e.context(self.show()))?;
        Ok(reader.is_some_and(|reader| VerifiedReader::new(reader, descriptor).finish().is_ok()))
    }

    /// Refuses a file that is there and no archive, and a place that cannot be written to. Writes nothing.
    pub fn check_writable(&self) -> Result<()> {
        if self.0.engine.is_some() {
            return Ok(());
        }
        self.existing()?;
        file::check_writable(&self.0.path)
    }

    /// Records a blob to be written by [`Archive::finish`], which opens `content`.
    pub fn add_blob(&self, descriptor: &Descriptor, content: Content) {
        self.pending().blobs.insert(descriptor.digest.clone(), (descriptor.clone(), content));
    }

    /// Records a manifest or index to be written.
    pub fn add_manifest(&self, descriptor: &Descriptor, bytes: Bytes) {
        self.pending().manifests.insert(descriptor.digest.clone(), bytes);
    }

    /// The same archive, to be written to: `-` is standard output from now on. `repository` completes a tag to a whole
    /// name.
    #[must_use]
    pub fn for_push(self, repository: Option<Repository>) -> Self {
        {
            let mut pending = self.pending();
            let own = self.0.engine.as_ref().map(|attached| attached.repository.clone());
            (pending.is_destination, pending.repository) = (true, own.or(repository));
        }
        self
    }

    /// Lets `name` name a manifest or index. `name` is what the user typed behind the file, perhaps nothing: a tag or a
    /// whole name.
    pub fn tag(&self, name: &str, descriptor: &Descriptor) -> Result<()> {
        let mut pending = self.pending();
        let name = Name::new(name, self.0.format, pending.repository.as_ref())?;
        pending.tags.push((name, descriptor.clone()));
        Ok(())
    }

    /// Makes it a delta: the configs and layers of these digests are left out, which whoever reads it must have.
    /// `described` names the image that has them.
    pub fn since(&self, digests: HashSet<Digest>, described: String) {
        self.pending().since = Some((digests, described));
    }

    /// Writes the file, if anything was tagged: what is there stays, an image whose name was given to another one goes.
    /// Every blob is verified on the way, and nothing is replaced before all of them were.
    pub async fn finish(&self, progress: &Arc<dyn Progress>) -> Result<()> {
        write::finish(self, progress).await
    }

    /// Lets the archive be looked at again: another one was written, or saved by an engine.
    fn forget(&self) {
        *self.0.opened.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What may be read here of an image.
    pub(super) fn limits(&self) -> Limits {
        self.0.limits
    }

    /// For messages.
    pub(super) fn show(&self) -> String {
        if let Some(attached) = &self.0.engine {
            return attached.engine.to_string();
        }
        file::show(&self.0.path, "standard input")
    }

    /// The archive to read; `None`: there is no such file.
    fn opened(&self) -> Result<Option<Arc<Opened>>> {
        let is_destination = self.pending().is_destination;
        if is_destination { self.existing() } else { self.looked_at() }
    }

    /// The archive in the file, which is looked at once.
    fn looked_at(&self) -> Result<Option<Arc<Opened>>> {
        let mut opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.get_or_insert_with(|| self.look()).clone()
    }

    fn look(&self) -> Result<Option<Arc<Opened>>> {
        let source = match &self.0.engine {
            Some(attached) => attached.saved(),
            None => file::open(&self.0.path, &self.0.limits)?,
        };
        let Some(source) = source else { return Ok(None) };
        Opened::new(source, self.0.limits).map(|opened| Some(Arc::new(opened))).map_err(|e| e.context(self.show()))
    }

    /// The archive that is to be written to, as it is now; `None`: there is none, or standard output.
    fn existing(&self) -> Result<Option<Arc<Opened>>> {
        let path = &self.0.path;
        if self.0.engine.is_some()
            || file::is_pipe(path)
            || Identity::at(path).is_some_and(|identity| identity.is_empty_file())
        {
            return Ok(None);
        }
        let refuse = |why: String, hint: &str| Err(Error::new(Kind::DestinationRefused, why).hint(hint));
        match self.looked_at() {
            Ok(Some(opened)) if opened.compressed => refuse(
                format!("{} is compressed, and archives are written without compression", self.show()),
                "name a new file",
            ),
            Err(e) if e.kind() == Kind::Content => {
                refuse(format!("{e}; it is not replaced"), "name a new file, or remove this one")
            }
            opened => opened,
        }
    }
}

impl Opened {
    fn new(source: Source, limits: Limits) -> Result<Self> {
        let members = Members::index(source.tar, limits)?;
        let images = match oci::index(&members)? {
            Some(index) => Images::Oci(index),
            None => match members.read_small(docker::MANIFEST.as_bytes())? {
                Some(bytes) => Images::Docker(docker::Images::new(
                    docker::parse(&bytes).map_err(|e| e.context(format!("/{}", docker::MANIFEST)))?,
                    limits,
                )),
                None => return Err(no_images(&members)?),
            },
        };
        let (compressed, identity) = (source.compressed, source.identity);
        Ok(Opened { members, images, compressed, identity, compared: Once::new() })
    }

    fn limits(&self) -> &Limits {
        self.members.limits()
    }

    /// Opens a blob, or the index of the entries that are one image's platforms; `None`: it is not here.
    fn open(&self, digest: &Digest, offset: u64) -> Result<Option<Box<dyn Read + Send>>> {
        match (self.blob(digest, offset)?, &self.images) {
            (None, Images::Oci(index)) => oci::flat(index, digest, offset),
            (blob, _) => Ok(blob),
        }
    }

    /// Opens a blob; `None`: there is none.
    fn blob(&self, digest: &Digest, offset: u64) -> Result<Option<Box<dyn Read + Send>>> {
        match &self.images {
            Images::Oci(_) => {
                let member = self.members.find(oci::blob_path(digest).as_bytes())?;
                Ok(member.map(|member| -> Box<dyn Read + Send> { Box::new(self.members.reader(member, offset)) }))
            }
            Images::Docker(images) => Ok(images.open(&self.members, digest, offset)),
        }
    }
}

fn no_images(members: &Members) -> Result<Error> {
    let error = Error::content(format!("there is no image in it: neither {INDEX} nor {}", docker::MANIFEST));
    Ok(if let Some(directory) = members.directory_with(MARKER) {
        error.hint(format!(
            "there is a layout below {directory}/: pack what is in that directory (tar -C {directory} .)"
        ))
    } else if members.find(b"repositories")?.is_some() {
        error.hint("it was written by a Docker before 1.10; load it into a newer one and save it again")
    } else {
        error.hint("an archive is what docker save, podman save or skopeo copy … oci-archive:FILE writes")
    })
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
