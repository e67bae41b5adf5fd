//! Any place an image can live: a closed set, so an enum and a `match`, with the same verbs for each.

use std::io::Read;

use bytes::Bytes;
use futures_util::StreamExt;

use crate::blob;
use crate::error::{Error, Kind, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::manifest::Document;
use crate::oci::reference::{Reference, Target};
use crate::transport::layout::Layout;
use crate::transport::registry::{Client, Pushed, Repository, Stored};
use crate::transport::{ByteStream, Content, MAX_MANIFEST, from_reader};

/// A repository on a registry, or an OCI layout.
#[derive(Clone)]
pub enum Place {
    /// Reached over HTTP.
    Registry(Repository),
    /// A directory.
    Layout(Layout),
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
    pub fn of(reference: &Reference, client: &Client) -> Result<Self> {
        Ok(match reference {
            Reference::Registry { repository, .. } => Place::Registry(client.repository(repository)?),
            Reference::Layout { path, .. } => Place::Layout(Layout::new(path)),
        })
    }

    /// The same place, to be written to.
    #[must_use]
    pub fn for_push(self) -> Self {
        match self {
            Place::Registry(repository) => Place::Registry(repository.for_push()),
            Place::Layout(layout) => Place::Layout(layout),
        }
    }

    /// What `target` names here, or the only image if it is `None`. `Ok(None)`: there is no such image (yet).
    ///
    /// A tag is resolved by one request, and its digest computed from the bytes of the answer (faults.md B16).
    pub async fn resolve(&self, target: Option<&Target>) -> Result<Option<Root>> {
        let (claimed, bytes, expected) = match self {
            Place::Registry(repository) => {
                let latest = Target::Tag("latest".to_owned());
                let Some(found) = repository.manifest(target.unwrap_or(&latest)).await? else { return Ok(None) };
                let expected = match target {
                    Some(Target::Digest(digest)) => Some(digest.clone()),
                    _ => None,
                };
                (Some(found.media_type), found.bytes, expected)
            }
            Place::Layout(layout) => {
                let Some(descriptor) = layout.resolve(target)? else { return Ok(None) };
                let bytes = blob::read_small(layout.open(&descriptor.digest)?, &descriptor, MAX_MANIFEST)?;
                (Some(descriptor.media_type), bytes, Some(descriptor.digest))
            }
        };
        let document = Document::parse(&bytes, claimed.as_deref())?;
        let digest = expected.unwrap_or_else(|| Digest::of(&bytes));
        let descriptor = Descriptor::new(document.media_type(), digest, bytes.len() as u64)?;
        blob::verify(&bytes, &descriptor)?;
        Ok(Some(Root { descriptor, bytes, document }))
    }

    /// The manifest or index that `descriptor` names.
    pub async fn manifest(&self, descriptor: &Descriptor) -> Result<Root> {
        if descriptor.size > MAX_MANIFEST {
            let message = format!("{} is larger than a manifest may be ({MAX_MANIFEST} bytes)", descriptor.digest);
            return Err(Error::content(message));
        }
        let bytes = match self {
            Place::Registry(repository) => {
                let found = repository.manifest(&Target::Digest(descriptor.digest.clone())).await?;
                found.ok_or_else(|| missing(&descriptor.digest))?.bytes
            }
            Place::Layout(layout) => blob::read_small(layout.open(&descriptor.digest)?, descriptor, MAX_MANIFEST)?,
        };
        blob::verify(&bytes, descriptor)?;
        let document =
            Document::parse(&bytes, Some(&descriptor.media_type)).map_err(|e| e.context(&descriptor.digest))?;
        Ok(Root { descriptor: descriptor.clone(), bytes, document })
    }

    /// A blob that fits into memory, such as a config; at most 4 MiB.
    pub async fn small_blob(&self, descriptor: &Descriptor) -> Result<Bytes> {
        if descriptor.size > MAX_MANIFEST {
            let message = format!("{} has {} bytes, the limit is {MAX_MANIFEST}", descriptor.digest, descriptor.size);
            return Err(Error::content(message));
        }
        let mut stream = self.blob(descriptor, 0).await?;
        let mut verifier = blob::Verifier::new(descriptor);
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            verifier.update(&chunk)?;
            bytes.extend_from_slice(&chunk);
        }
        verifier.finish()?;
        Ok(bytes.into())
    }

    /// A blob from byte `offset` on, not verified: the consumer hashes it.
    pub async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<ByteStream> {
        match self {
            Place::Registry(repository) => repository.blob(descriptor, offset).await,
            Place::Layout(layout) => {
                use std::io::{Seek, SeekFrom};
                let mut file = layout.open(&descriptor.digest)?;
                file.seek(SeekFrom::Start(offset)).map_err(|e| Error::io(&descriptor.digest, &e))?;
                Ok(from_reader(file))
            }
        }
    }

    /// A blob as a blocking reader, not verified: the consumer hashes it. For use outside of async code; the network
    /// runs ahead of the reader by a few pieces.
    pub async fn reader(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        match self {
            Place::Registry(_) => Ok(Box::new(PieceReader::new(self.blob(descriptor, 0).await?))),
            Place::Layout(layout) => Ok(Box::new(layout.open(&descriptor.digest)?)),
        }
    }

    /// Whether the blob is here. A layout hashes it; a registry is asked.
    pub async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        match self {
            Place::Registry(repository) => repository.has_blob(descriptor).await,
            Place::Layout(layout) => {
                let (layout, descriptor) = (layout.clone(), descriptor.clone());
                blocking(move || layout.has(&descriptor)).await
            }
        }
    }

    /// Refuses a place that cannot be written to, as far as that can be told before anything is transferred.
    pub fn check_writable(&self) -> Result<()> {
        match self {
            Place::Registry(_) => Ok(()),
            Place::Layout(layout) => layout.check_writable(),
        }
    }

    /// Makes the place ready to be written to.
    pub fn prepare(&self) -> Result<()> {
        match self {
            Place::Registry(_) => Ok(()),
            Place::Layout(layout) => layout.prepare(),
        }
    }

    /// A blob of this place, to be stored at another.
    pub fn content(&self, descriptor: &Descriptor) -> Content {
        let (place, descriptor) = (self.clone(), descriptor.clone());
        Content::elsewhere(move |offset| {
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
        match (self, origin) {
            (Place::Registry(repository), origin) => {
                let from = match origin {
                    Some(Place::Registry(from)) if origin.is_some_and(|origin| origin.can_mount_at(self)) => {
                        Some(from.name().path.as_str())
                    }
                    _ => None,
                };
                repository.push_blob(descriptor, content, from).await
            }
            (Place::Layout(layout), _) => {
                let mut reader = PieceReader::new(content.open(0).await?);
                let (layout, descriptor) = (layout.clone(), descriptor.clone());
                blocking(move || layout.write(&descriptor, &mut reader)).await?;
                Ok(Pushed::Uploaded)
            }
        }
    }

    /// Stores a manifest or index under its digest.
    pub async fn push_manifest(&self, descriptor: &Descriptor, bytes: &Bytes) -> Result<Stored> {
        match self {
            Place::Registry(repository) => {
                let target = Target::Digest(descriptor.digest.clone());
                repository.push_manifest(&target, &descriptor.media_type, bytes.clone()).await
            }
            Place::Layout(layout) => layout.write(descriptor, &mut &bytes[..]).map(|()| Stored::Stored),
        }
    }

    /// Lets `tag` name a manifest or index, which is stored by the same step. This publishes it: do it last.
    pub async fn publish(&self, tag: &str, descriptor: &Descriptor, bytes: &Bytes) -> Result<Stored> {
        match self {
            Place::Registry(repository) => {
                let target = Target::Tag(tag.to_owned());
                repository.push_manifest(&target, &descriptor.media_type, bytes.clone()).await
            }
            Place::Layout(layout) => {
                layout.write(descriptor, &mut &bytes[..])?;
                layout.tag(tag, descriptor).map(|()| Stored::Stored)
            }
        }
    }

    /// Whether the registry itself can make a blob of this place available at the other one.
    pub fn can_mount_at(&self, other: &Place) -> bool {
        matches!((self, other), (Place::Registry(a), Place::Registry(b)) if a.name().registry == b.name().registry)
    }

    /// Whether content of the other place is here anyway: the same repository, or the same directory.
    pub fn is_same(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Registry(a), Place::Registry(b)) => a.name() == b.name(),
            (Place::Layout(a), Place::Layout(b)) => a.is_same(b),
            _ => false,
        }
    }
}

fn missing(digest: &Digest) -> Error {
    Error::new(Kind::NotFound, format!("the manifest {digest} is missing"))
        .hint("the image is incomplete where it is stored; push or copy it again")
}

/// Runs blocking work beside the async code.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Error::failed(format!("internal error: {e}"))))
}

/// Pieces that the network may be ahead of a blocking reader.
const AHEAD: usize = 16;

/// A stream as a blocking reader, fed by a task of its own so that network and decompression overlap.
struct PieceReader {
    pieces: tokio::sync::mpsc::Receiver<Result<Bytes>>,
    current: Bytes,
}

impl PieceReader {
    fn new(mut stream: ByteStream) -> Self {
        let (sender, pieces) = tokio::sync::mpsc::channel(AHEAD);
        tokio::spawn(async move {
            while let Some(piece) = stream.next().await {
                if sender.send(piece).await.is_err() {
                    break;
                }
            }
        });
        PieceReader { pieces, current: Bytes::new() }
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let read = self.current.len().min(buffer.len());
        buffer[..read].copy_from_slice(&self.current.split_to(read));
        Ok(read)
    }
}
