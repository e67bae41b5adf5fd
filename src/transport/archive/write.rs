//! Writes an archive that Docker, podman, containerd, skopeo and oras all take, with the same digests.
//!
//! The lists come first, then manifests, configs and layers: who reads a stream knows what a blob is when it comes. Same
//! images, same bytes: no time, no owner, nothing of this machine (faults.md F20).

use std::collections::{HashMap, HashSet};
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;

use bytes::Bytes;

use crate::archive::header::BLOCK;
use crate::blob;
use crate::error::{Error, Kind, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::reference::Repository;
use crate::progress::{Bar, Progress};
use crate::transport::archive::engine::{self, Attached};
use crate::transport::archive::file::{self, Sink};
use crate::transport::archive::names::Name;
use crate::transport::archive::oci::blob_path;
use crate::transport::archive::plan::{self, Plan};
use crate::transport::archive::{Archive, Opened, docker};
use crate::transport::durable::is_full;
use crate::transport::layout::index::{INDEX, MARKER, MARKER_CONTENT};
use crate::transport::pieces::PieceReader;
use crate::transport::{Content, blocking};

const PIECE: usize = 256 << 10;

/// What was recorded to be written.
#[derive(Clone, Default)]
pub(super) struct Pending {
    pub(super) blobs: HashMap<Digest, (Descriptor, Content)>,
    pub(super) manifests: HashMap<Digest, Bytes>,
    pub(super) tags: Vec<(Name, Descriptor)>,
    pub(super) is_destination: bool,
    /// Completes a tag to a whole name.
    pub(super) repository: Option<Repository>,
    /// Of a delta: what is left out, and which image has it.
    pub(super) since: Option<(HashSet<Digest>, String)>,
}

impl Pending {
    /// Whether nothing has to be done for this blob any more.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.blobs.contains_key(digest) || self.manifests.contains_key(digest) || self.leaves_out(digest)
    }

    pub(super) fn leaves_out(&self, digest: &Digest) -> bool {
        self.since.as_ref().is_some_and(|(left_out, _)| left_out.contains(digest))
    }
}

/// Times that an archive is joined again with what another run wrote meanwhile.
const ATTEMPTS: usize = 20;

/// See [`Archive::finish`].
pub(super) async fn finish(archive: &Archive, progress: &Arc<dyn Progress>) -> Result<()> {
    let pending = archive.pending().clone();
    if pending.tags.is_empty() {
        return Ok(());
    }
    if let Some(attached) = &archive.0.engine {
        loop {
            match load(archive, attached, &pending, progress).await {
                Err(error) if error.is_retryable() => {}
                loaded => return loaded,
            }
        }
    }
    let place = file::show(&archive.0.path, "standard output");
    for _ in 0..ATTEMPTS {
        let written = replace(archive, &pending, &place, progress).await.map_err(|e| e.context(&place));
        archive.forget();
        match written {
            Ok(true) => return Ok(()),
            Ok(false) => tracing::debug!("{place} was changed by another run; joining again"),
            // What is in a pipe cannot be taken back.
            Err(error) if error.is_retryable() && !file::is_pipe(&archive.0.path) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::failed(format!("{place} is being changed by another program all the time")))
}

/// Gives the archive to a Docker engine, unless that has everything already.
async fn load(archive: &Archive, to: &Attached, pending: &Pending, progress: &Arc<dyn Progress>) -> Result<()> {
    let place = to.engine.to_string();
    let (_, plan) = planned(archive, pending).await.map_err(|e| e.context(&place))?;
    if to.has(pending, plan.docker.as_deref()).await? {
        return Ok(());
    }
    let (pipe, stream) = engine::pipe();
    let has_images = plan.docker.is_some();
    let write = write(plan, Sink::Engine(pipe), pending, None, progress, &place);
    let (written, loaded) = futures_util::future::join(write, to.engine.load(stream)).await;
    match (written, loaded) {
        // What the engine says tells more than that it stopped reading; but our own errors come before its.
        (Err(error), _) if error.kind() != Kind::Failed => Err(error.context(&place)),
        (_, Err(error)) if !has_images => {
            Err(error.hint("there is no container image in it, and few Docker engines take anything else"))
        }
        (_, Err(error)) => Err(error),
        (written, Ok(())) => written.map(|_| ()).map_err(|e| e.context(&place)),
    }
}

/// `false`: the file was changed meanwhile, and is as it was then.
async fn replace(archive: &Archive, pending: &Pending, place: &str, progress: &Arc<dyn Progress>) -> Result<bool> {
    let (old, plan) = planned(archive, pending).await?;
    let (path, identity) = (archive.0.path.clone(), old.as_ref().and_then(|old| old.identity.clone()));
    let lock_timeout = archive.0.lock_timeout;
    let sink = blocking(move || Sink::new(&path, identity, lock_timeout)).await?;
    write(plan, sink, pending, old.as_ref(), progress, place).await
}

async fn planned(archive: &Archive, pending: &Pending) -> Result<(Option<Arc<Opened>>, Plan)> {
    let (reading, recorded) = (archive.clone(), pending.clone());
    blocking(move || {
        let old = reading.existing()?;
        let plan = plan::plan(old.as_deref(), &recorded, &reading.limits())?;
        Ok((old, plan))
    })
    .await
}

/// Writes all members, and lets the archive have its name.
async fn write(
    plan: Plan,
    sink: Sink,
    pending: &Pending,
    old: Option<&Arc<Opened>>,
    progress: &Arc<dyn Progress>,
    place: &str,
) -> Result<bool> {
    let Plan { index, docker, documents, blobs } = plan;
    let size = documents.iter().map(|(descriptor, _)| descriptor.size).sum::<u64>()
        + blobs.iter().map(|descriptor| descriptor.size).sum::<u64>();
    let bar: Arc<dyn Bar> = progress.start(&format!("write {place}"), size).into();
    let watch = bar.clone();
    let mut tar = blocking(move || {
        let piped = !matches!(sink, Sink::File(..));
        let mut tar = Tar { sink: BufWriter::with_capacity(PIECE, sink), piped, size };
        tar.small(MARKER, MARKER_CONTENT.as_bytes())?;
        tar.small(INDEX, &index)?;
        if let Some(docker) = docker {
            tar.small(docker::MANIFEST, &docker)?;
        }
        for (descriptor, bytes) in documents {
            tar.blob(&descriptor, &mut &bytes[..], &*watch)?;
        }
        Ok(tar)
    })
    .await?;
    for descriptor in blobs {
        let mut reader = open(pending, old, &descriptor).await?;
        let watch = bar.clone();
        let content = pending.blobs.get(&descriptor.digest).map(|(_, content)| content);
        let written = blocking(move || {
            tar.blob(&descriptor, &mut reader, &*watch)?;
            Ok(tar)
        });
        tar = written.await.map_err(|e| match content {
            Some(content) if e.kind() == Kind::Content => content.fault(e),
            _ => e,
        })?;
    }
    blocking(move || tar.finish()).await
}

/// A blob that was recorded, or that is in the archive that is replaced.
async fn open(pending: &Pending, old: Option<&Arc<Opened>>, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
    if let Some((_, content)) = pending.blobs.get(&descriptor.digest) {
        return Ok(Box::new(PieceReader::new(content.open(0).await?)));
    }
    let reader = old.map(|old| old.open(&descriptor.digest, 0)).transpose()?.flatten();
    reader.ok_or_else(|| Error::not_found(format!("{} is not there any more", descriptor.digest)))
}

/// Writes members one after the other. Unlike a `tar::Builder` it writes no end when it is dropped, so that an archive
/// that failed half-way can be told from a whole one.
struct Tar {
    sink: BufWriter<Sink>,
    /// Whether somebody else has what was written.
    piped: bool,
    /// Bytes of all blobs and documents.
    size: u64,
}

impl Tar {
    fn small(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.header(name, content.len() as u64)?;
        self.write(content)?;
        self.pad(content.len() as u64)
    }

    fn blob(&mut self, descriptor: &Descriptor, reader: &mut dyn Read, bar: &dyn Bar) -> Result<()> {
        self.header(&blob_path(&descriptor.digest), descriptor.size)?;
        blob::for_each_piece(descriptor, reader, |piece| {
            self.write(piece)?;
            bar.advance(piece.len() as u64);
            Ok(())
        })?;
        self.pad(descriptor.size)
    }

    fn header(&mut self, name: &str, size: u64) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        // Only the name of a SHA-512 does not fit.
        let short = &name.as_bytes()[..name.len().min(100)];
        header.as_old_mut().name[..short.len()].copy_from_slice(short);
        if short.len() < name.len() {
            let mut long = header.clone();
            long.set_entry_type(tar::EntryType::GNULongName);
            long.as_old_mut().name = [0; 100];
            long.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
            let name = [name.as_bytes(), b"\0"].concat();
            long.set_size(name.len() as u64);
            long.set_cksum();
            self.write(long.as_bytes())?;
            self.write(&name)?;
            self.pad(name.len() as u64)?;
        }
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.write_all(bytes).map_err(|e| failed(&e, self.piped, self.size))
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let padding = (size.wrapping_neg() % BLOCK as u64) as usize;
        self.write(&[0; BLOCK][..padding])
    }

    /// Writes the end, and lets the archive have its name; see [`Sink::finish`].
    fn finish(mut self) -> Result<bool> {
        self.write(&[0; 2 * BLOCK])?;
        let Tar { mut sink, piped, size } = self;
        sink.flush().map_err(|e| failed(&e, piped, size))?;
        let sink = sink.into_inner().map_err(|e| failed(e.error(), piped, size))?;
        sink.finish()
    }
}

/// `size`: see [`Tar::size`].
fn failed(error: &io::Error, piped: bool, size: u64) -> Error {
    let place = match piped || !is_full(error) {
        true => "cannot write the archive".to_owned(),
        false => format!("cannot write the archive, which has {size} bytes and some more"),
    };
    match error.kind() {
        io::ErrorKind::BrokenPipe => Error::failed("whoever reads the archive stopped before its end")
            .hint("look at what the other program said"),
        io::ErrorKind::StorageFull if !piped => Error::io(place, error)
            .hint("make room on that file system, and run it again: nothing of this archive is left there"),
        _ => Error::io(place, error),
    }
}
