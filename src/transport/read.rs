//! The blobs of any place, whole, as streams and as blocking readers.

use std::io::{self, Read, Seek, SeekFrom};

use bytes::Bytes;
use futures_util::StreamExt;

use crate::archive::compression::from_io;
use crate::blob;
use crate::error::{Error, Kind, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::transport::pieces::PieceReader;
use crate::transport::{ByteStream, Place, blocking, from_reader};

/// What to do if a layer that may not be distributed is not there.
pub const FOREIGN: &str =
    "name the image where that layer is; if you may copy it, copy the image from there with --foreign-layers --force";

/// Says in errors what could not be read (faults.md F12).
struct Named<R> {
    name: String,
    reader: R,
}

impl<R: Read> Read for Named<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).map_err(|e| match e.kind() {
            io::ErrorKind::Interrupted => e,
            _ => from_io(&self.name, &e).into(),
        })
    }
}

impl Place {
    /// A blob that fits into memory, such as a config; at most [`Limits::document`].
    ///
    /// [`Limits::document`]: crate::limits::Limits::document
    pub async fn small_blob(&self, descriptor: &Descriptor) -> Result<Bytes> {
        self.limits().check_document(descriptor.size, &descriptor.digest)?;
        if let Place::Layout(_) | Place::Archive(_) = self {
            // In one step, for there may be thousands of them.
            let (place, descriptor) = (self.clone(), descriptor.clone());
            let read =
                move || blob::read_small(place.open_blocking(&descriptor.digest, 0)?, &descriptor, &place.limits());
            return blocking(read).await;
        }
        loop {
            match collect(self.blob(descriptor, 0).await?, descriptor).await {
                Err(error) if error.is_retryable() => {}
                collected => return collected,
            }
        }
    }

    /// A blob from byte `offset` on, not verified: the consumer hashes it.
    pub async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<ByteStream> {
        let stream = match self {
            Place::Registry(repository) => repository.blob(descriptor, offset).await,
            Place::Containerd(containerd, _) => containerd.blob(descriptor, offset).await,
            Place::Layout(_) | Place::Archive(_) => self.open(descriptor, offset).await.map(from_reader),
        };
        stream.map_err(|error| if_foreign(descriptor, error))
    }

    /// A blob as a blocking reader, not verified: the consumer hashes it. For use outside of async code; the network
    /// runs ahead of the reader by a few pieces.
    pub async fn reader(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        match self {
            Place::Registry(_) | Place::Containerd(..) => {
                Ok(Box::new(PieceReader::new(self.blob(descriptor, 0).await?)))
            }
            Place::Layout(_) | Place::Archive(_) => self.open(descriptor, 0).await,
        }
    }

    /// A blob of a place that is read by blocking calls.
    async fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>> {
        let (place, digest) = (self.clone(), descriptor.digest.clone());
        let reader = blocking(move || place.open_blocking(&digest, offset)).await;
        reader.map_err(|error| if_foreign(descriptor, error))
    }

    fn open_blocking(&self, digest: &Digest, offset: u64) -> Result<Box<dyn Read + Send>> {
        match self {
            Place::Layout(layout) => {
                let mut file = layout.open(digest)?;
                file.seek(SeekFrom::Start(offset)).map_err(|e| Error::io(digest, &e))?;
                Ok(Box::new(Named { name: format!("{digest} in {}", layout.show()), reader: file }))
            }
            Place::Archive(archive) => {
                let reader = archive.open(digest, offset)?;
                Ok(Box::new(Named { name: format!("{digest} in {}", archive.show()), reader }))
            }
            Place::Registry(_) | Place::Containerd(..) => Err(Error::failed("not read by blocking calls")),
        }
    }

    /// Gives a blob to `read`, which verifies it. For use outside of async code. If a mirror gave other content, the error
    /// is that, and retryable: see [`retried`].
    pub fn read<T>(&self, descriptor: &Descriptor, read: impl FnOnce(&mut dyn Read) -> Result<T>) -> Result<T> {
        let mirrored = matches!(self, Place::Registry(repository) if repository.is_mirrored());
        let mut reader = tokio::runtime::Handle::current().block_on(self.reader(descriptor))?;
        read(&mut reader).map_err(|error| {
            // What makes no sense may be another's content, which only its end can tell.
            let rest = match mirrored && error.kind() == Kind::Content {
                true => io::copy(&mut reader, &mut io::sink()),
                false => return error,
            };
            let rest = rest.map_err(|e| from_io("", &e)).err();
            rest.filter(Error::is_retryable).unwrap_or(error)
        })
    }
}

/// The content that `descriptor` names, which is to fit into memory, verified.
pub(super) async fn collect(mut content: ByteStream, descriptor: &Descriptor) -> Result<Bytes> {
    let mut verifier = blob::Verifier::new(descriptor);
    let mut bytes = Vec::new();
    while let Some(piece) = content.next().await.transpose()? {
        verifier.update(&piece)?;
        bytes.extend_from_slice(&piece);
    }
    verifier.finish()?;
    Ok(bytes.into())
}

/// Does `work` again as long as a mirror spoils it: that is not asked again.
pub fn retried<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match work() {
            Err(error) if error.is_retryable() => {}
            done => return done,
        }
    }
}

/// `error` about a blob; that of a layer which may not be distributed is not there on purpose.
fn if_foreign(blob: &Descriptor, error: Error) -> Error {
    if error.kind() == Kind::NotFound && blob.is_foreign_layer() {
        return error.context("a layer that is marked as not to be distributed").hint(FOREIGN);
    }
    error
}
