//! Placeholder.
#![allow(missing_docs, unused_variables)]
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::reference::Repository;
use crate::transport::{ByteStream, Content};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub address: PathBuf,
    pub namespace: String,
}

#[derive(Clone)]
pub struct Containerd(Arc<Options>);
fn no<T>() -> Result<T> {
    Err(Error::failed("not yet"))
}
impl Containerd {
    pub fn new(options: Options) -> Self {
        Containerd(Arc::new(options))
    }
    pub fn is_same(&self, other: &Containerd) -> bool {
        self.0 == other.0
    }
    pub async fn image(&self, name: &str) -> Result<Option<Descriptor>> {
        no()
    }
    pub async fn names(&self) -> Result<Vec<String>> {
        no()
    }
    pub async fn small(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>> {
        no()
    }
    pub async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<ByteStream> {
        no()
    }
    pub async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        no()
    }
    pub async fn push_blob(
        &self,
        descriptor: &Descriptor,
        content: &Content,
        source: Option<&Repository>,
    ) -> Result<()> {
        no()
    }
    pub async fn push_manifest(&self, descriptor: &Descriptor, bytes: &Bytes) -> Result<()> {
        no()
    }
    pub async fn publish(&self, name: &str, descriptor: &Descriptor, bytes: &Bytes) -> Result<()> {
        no()
    }
    pub async fn finish(&self) {}
}
