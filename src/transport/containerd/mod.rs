//! containerd: images and content in the namespace of a daemon on this machine, over the gRPC API on its socket.
//!
//! Blobs are read and written by digest, one at a time. What is written is held by a lease until the image that needs
//! it has its name; from then on garbage collection finds it by the labels that its manifests get. A run that is killed
//! leaves a lease that ends by itself, and the next run goes on with what has arrived.
//!
//! Content that another namespace has is taken from there without being sent, unless containerd is configured to keep
//! its namespaces isolated.

mod content;
mod images;
mod ingest;
mod labels;
mod leases;
mod proto;
mod rpc;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, OnceCell};

use self::leases::Leased;
use crate::blob;
use crate::error::{Error, Kind, Result};
use crate::limits::Limits;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::manifest::Document;
use crate::oci::reference::Repository;
use crate::transport::registry::Stored;
use crate::transport::{ByteStream, Content};

/// Which containerd, and what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The socket, perhaps with `unix://` in front.
    pub address: PathBuf,
    /// `default` for ctr, `k8s.io` for Kubernetes, `moby` for Docker.
    pub namespace: String,
}

/// A namespace of a containerd. Nothing is connected before it is needed; clones share the connection and the lease.
#[derive(Clone)]
pub struct Containerd(Arc<Shared>);

struct Shared {
    options: Options,
    limits: Limits,
    channel: OnceCell<tonic::transport::Channel>,
    leased: Mutex<Leased>,
    /// How long containerd may be silent.
    stall: Duration,
}

impl Containerd {
    /// The namespace `options.namespace` of the containerd at `options.address`.
    pub fn new(options: Options, limits: Limits) -> Self {
        let address = match options.address.strip_prefix("unix://") {
            Ok(rest) => PathBuf::from("/").join(rest),
            Err(_) => options.address,
        };
        Containerd(Arc::new(Shared {
            options: Options { address, namespace: options.namespace },
            limits,
            channel: OnceCell::new(),
            leased: Mutex::default(),
            stall: Duration::from_secs(60),
        }))
    }

    /// Whether both are one namespace of one containerd.
    pub fn is_same(&self, other: &Containerd) -> bool {
        self.0.options == other.0.options
    }

    /// What the image `name` is, by its full name as in `ctr images ls`. `None` if there is no such image.
    pub async fn image(&self, name: &str) -> Result<Option<Descriptor>> {
        images::get(&self.0, name).await
    }

    /// The names of all images.
    pub async fn names(&self) -> Result<Vec<String>> {
        images::names(&self.0).await
    }

    /// The error for an image that is not here, with a hint where it is or what it may be called.
    pub async fn no_image(&self, name: &str) -> Error {
        images::missing(&self.0, name).await
    }

    /// What may be read here of an image.
    pub(super) fn limits(&self) -> Limits {
        self.0.limits
    }

    /// A manifest or other small content, verified. `None` if it is not here.
    pub async fn small(&self, digest: &Digest) -> Result<Option<Bytes>> {
        content::small(&self.0, digest).await
    }

    /// The content of a blob from byte `offset` on, not verified: the consumer hashes it.
    pub async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<ByteStream> {
        content::read(&self.0, descriptor, offset).await
    }

    /// Whether the blob is here. One that is stays, even if nothing refers to it, until [`Containerd::finish`]: from
    /// now on if something was written before, from the first write on if not.
    pub async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        if !content::has(&self.0, descriptor).await? {
            return Ok(false);
        }
        // It may have been collected before it was held.
        Ok(!leases::hold(&self.0, &descriptor.digest).await? || content::has(&self.0, descriptor).await?)
    }

    /// Stores a blob. It is hashed in passing, and containerd hashes it too: other content than `descriptor` names is
    /// never committed. `source` is where containerd may look for it later.
    pub async fn push_blob(
        &self,
        descriptor: &Descriptor,
        content: &Content,
        source: Option<&Repository>,
    ) -> Result<()> {
        let labels = |present: &proto::Labels| {
            source.and_then(|source| labels::of_source(source, present)).into_iter().collect::<proto::Labels>()
        };
        ingest::store(&self.0, descriptor, content, &labels).await
    }

    /// Stores a manifest or index under its digest, and lets garbage collection follow its children.
    ///
    /// [`Stored::BlobUnknown`] if the config or a layer of a manifest is not here, whatever [`Containerd::has_blob`]
    /// said before.
    pub async fn push_manifest(&self, descriptor: &Descriptor, bytes: &Bytes) -> Result<Stored> {
        blob::verify(bytes, descriptor)?;
        let document =
            Document::parse(bytes, Some(&descriptor.media_type)).map_err(|e| e.context(&descriptor.digest))?;
        let children = labels::of_children(&document);
        ingest::store(&self.0, descriptor, &Content::Bytes(bytes.clone()), &|_| children.clone()).await?;
        let Document::Manifest(manifest) = &document else { return Ok(Stored::Stored) };
        // Asked for after the labels are set, so that none can go any more.
        for child in manifest.blobs() {
            if !child.is_foreign_layer() && !content::has(&self.0, child).await? {
                let message = format!("{} of {} is not in containerd", child.digest, descriptor.digest);
                return Ok(Stored::BlobUnknown(Error::new(Kind::NotFound, message).hint("run the command again")));
            }
        }
        Ok(Stored::Stored)
    }

    /// Stores a manifest or index and lets the image `name` be it, whatever it was before. This publishes: do it last.
    pub async fn publish(&self, name: &str, descriptor: &Descriptor, bytes: &Bytes) -> Result<Stored> {
        match self.push_manifest(descriptor, bytes).await? {
            Stored::Stored => images::put(&self.0, name, descriptor).await.map(|()| Stored::Stored),
            unknown => Ok(unknown),
        }
    }

    /// Gives up the lease: what was written and belongs to no image may be collected now. If this is never called, the
    /// lease ends a day after it was made.
    pub async fn finish(&self) {
        leases::end(&self.0).await;
    }
}

#[cfg(test)]
mod tests;
