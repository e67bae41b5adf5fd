//! Where images live. One module a place, the same nouns in each; the only user of the network.

pub mod archive;
pub mod containerd;
pub mod docker;
mod durable;
pub mod layout;
mod pieces;
pub mod place;
mod read;
pub mod registry;
mod threads;

use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};

use crate::archive::compression::from_io;
use crate::blob::Spool;
use crate::error::{Error, Result};

pub use durable::LOCK_TIMEOUT;
pub use place::{Place, Root, Transports};
pub use read::{FOREIGN, retried};
pub use threads::blocking;

/// Content on its way, in pieces. It was not verified: the consumer hashes it.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// Content that can be opened again, at any offset: what an upload needs to start over.
#[derive(Clone)]
pub enum Content {
    /// In memory.
    Bytes(Bytes),
    /// In a temporary file.
    Spool(Spool),
    /// Somewhere else, such as a blob of another transport.
    Elsewhere {
        /// Where that is, for messages; nothing if it is ours.
        place: Option<Arc<str>>,
        /// Opens it.
        open: Opener,
    },
}

/// Opens content at an offset.
pub type Opener = Arc<dyn Fn(u64) -> BoxFuture<'static, Result<ByteStream>> + Send + Sync>;

impl Content {
    /// Content that `open` gives from an offset on; `place` is where it is.
    pub fn elsewhere<F>(place: &str, open: impl Fn(u64) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<ByteStream>> + Send + 'static,
    {
        Content::Elsewhere { place: Some(place.into()), open: Arc::new(move |offset| Box::pin(open(offset))) }
    }

    /// The content from byte `offset` on.
    pub async fn open(&self, offset: u64) -> Result<ByteStream> {
        match self {
            Content::Bytes(bytes) => {
                let at = usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
                let rest = bytes.slice(at..);
                Ok(Box::pin(stream::iter((!rest.is_empty()).then_some(Ok(rest)))))
            }
            Content::Spool(spool) => Ok(from_reader(spool.reader(offset))),
            Content::Elsewhere { open, .. } => {
                let content = self.clone();
                let stream = open(offset).await.map_err(|e| self.fault(e))?;
                Ok(Box::pin(stream.map_err(move |e| content.fault(e))))
            }
        }
    }

    /// Where the content comes from; nothing if it is ours.
    pub(crate) fn place(&self) -> Option<&Arc<str>> {
        match self {
            Content::Bytes(_) | Content::Spool(_) => None,
            Content::Elsewhere { place, .. } => place.as_ref(),
        }
    }

    /// `error` about the content itself: the place where it comes from is at fault, and not the one that it goes to.
    pub(crate) fn fault(&self, error: Error) -> Error {
        match self.place() {
            Some(place) => error.at(place),
            None => error,
        }
    }

    /// The content from byte `offset` on, opened when it is first read.
    pub(crate) fn open_lazily(&self, offset: u64) -> ByteStream {
        let content = self.clone();
        let opened = stream::once(async move { content.open(offset).await });
        Box::pin(opened.flat_map(|opened| match opened {
            Ok(stream) => stream,
            Err(error) => Box::pin(stream::iter([Err(error)])) as ByteStream,
        }))
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Content::Bytes(bytes)
    }
}

impl From<Spool> for Content {
    fn from(spool: Spool) -> Self {
        Content::Spool(spool)
    }
}

/// Streams what a blocking reader gives, without blocking the caller.
pub fn from_reader(reader: impl Read + Send + 'static) -> ByteStream {
    const PIECE: usize = 256 << 10;
    Box::pin(stream::try_unfold(reader, |mut reader| async move {
        let read = blocking(move || {
            let mut buffer = vec![0; PIECE];
            let read = reader.read(&mut buffer).map_err(|e| from_io("reading content", &e))?;
            buffer.truncate(read);
            Ok((Bytes::from(buffer), reader))
        });
        let (bytes, reader) = read.await?;
        Ok((!bytes.is_empty()).then_some((bytes, reader)))
    }))
}
