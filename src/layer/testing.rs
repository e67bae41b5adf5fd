//! Layers made by hand.

use crate::archive::testing::{compress, tar};
use crate::error::Result;
use crate::layer::reader::LayerReader;
use crate::limits::Limits;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::media_type::Compression;

/// A blob and what an image says about it.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
}

impl Layer {
    pub(crate) fn new(blob: Vec<u8>, diff_id: Digest) -> Self {
        let media_type = crate::oci::media_type::OCI_LAYER_GZIP;
        let descriptor = Descriptor::new(media_type, Digest::of(&blob), blob.len() as u64).unwrap();
        Layer { blob, descriptor, diff_id }
    }

    /// A gzip layer of these frames.
    pub(crate) fn of(frames: &[Vec<u8>]) -> Self {
        let plain = tar(frames);
        Layer::new(compress(&plain, Compression::Gzip), Digest::of(&plain))
    }

    pub(crate) fn reader(&self) -> Result<LayerReader<&[u8]>> {
        LayerReader::new(&self.blob[..], &self.descriptor, &self.diff_id, &Limits::default())
    }
}
