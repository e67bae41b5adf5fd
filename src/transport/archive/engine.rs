//! An archive that a Docker engine saves, or loads.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::docker;
use super::file::Source;
use super::write::Pending;
use crate::blob::Spool;
use crate::error::{Error, Result};
use crate::oci::reference::{Repository, Target};
use crate::transport::ByteStream;
use crate::transport::docker::Engine;

/// Pieces that may wait to be sent.
const AHEAD: usize = 16;

/// An engine, and the images in it that are meant.
pub(super) struct Attached {
    pub(super) engine: Engine,
    pub(super) repository: Repository,
    saved: Mutex<Option<Spool>>,
}

impl Attached {
    pub(super) fn new(engine: Engine, repository: Repository) -> Self {
        Attached { engine, repository, saved: Mutex::default() }
    }

    /// Lets the engine save the image that `target` names. `false`: there is none, and what was saved before stays.
    pub(super) async fn save(&self, target: Option<&Target>) -> Result<bool> {
        let Some(saved) = self.engine.save(&self.name(target)).await? else { return Ok(false) };
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        Ok(true)
    }

    /// What was saved, if there was an image.
    pub(super) fn saved(&self) -> Option<Source> {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        saved.map(|tar| Source { tar, compressed: false, identity: None })
    }

    /// Whether every image that is to be loaded is there under its name: `manifests` is the `manifest.json` to be sent.
    pub(super) async fn has(&self, pending: &Pending, manifests: Option<&[u8]>) -> Result<bool> {
        let images = manifests.map(docker::parse).transpose()?.unwrap_or_default();
        for (name, descriptor) in &pending.tags {
            // What refers to an image has no name of its own, and an engine does not keep it.
            let Some(name) = &name.whole else { continue };
            let Some(id) = self.engine.id(name).await? else { return Ok(false) };
            // Where images are in a containerd, the ID is that of the manifest or index.
            let config = format!("blobs/{}", id.replace(':', "/"));
            if id != descriptor.digest.as_str() && !images.iter().any(|image| image.config == config) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The whole name, as the engine knows it.
    pub(super) fn name(&self, target: Option<&Target>) -> String {
        self.repository.image(target)
    }
}

/// A writer, and what was written as a stream.
pub(super) fn pipe() -> (PipeWriter, ByteStream) {
    let (sender, receiver) = channel(AHEAD);
    let stream = stream::try_unfold(receiver, |mut receiver: Receiver<Option<Bytes>>| async move {
        match receiver.recv().await {
            Some(Some(piece)) => Ok(Some((piece, receiver))),
            Some(None) => Ok(None),
            // Who reads must not take it for whole.
            None => Err(Error::failed("the archive was not written to its end")),
        }
    });
    (PipeWriter(sender), Box::pin(stream))
}

/// Writes into a stream that breaks off, unless [`PipeWriter::finish`] ends it.
pub(super) struct PipeWriter(Sender<Option<Bytes>>);

impl PipeWriter {
    pub(super) fn finish(self) -> Result<()> {
        self.0.blocking_send(None).map_err(|_| Error::io("the archive", &io::ErrorKind::BrokenPipe.into()))
    }
}

impl Write for PipeWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(Some(Bytes::copy_from_slice(buffer))).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
