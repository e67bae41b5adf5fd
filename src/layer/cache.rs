//! What one run keeps of layers, so that images which share them are not read and packed once for each tag.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::build::BuiltLayer;
use super::index::Index;
use super::lookup::LayerSource;
use crate::oci::digest::Digest;

/// Bytes that all scans which are kept may take together; the whole process is to stay below 128 MiB.
const MAX_SCANS: u64 = 16 << 20;
/// Bytes of files in temporary files that may be kept, and of layers likewise.
const MAX_FILES: u64 = 1 << 30;
/// What a file counts at least: it is open.
const MIN_FILE: u64 = 8 << 20;

/// What a run keeps of layers. Clones share it; a new one is empty.
#[derive(Clone, Default)]
pub struct Cache(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    scans: HashMap<(Digest, u64, Digest), Slot>,
    bytes: u64,
    files: u64,
    /// By diff ID.
    built: HashMap<Digest, BuiltLayer>,
    built_files: u64,
}

/// Held by who reads a layer; afterwards it has what came of it.
pub(super) type Slot = Arc<Mutex<Option<Arc<Index>>>>;

impl Cache {
    /// The slot of a layer.
    pub(super) fn slot(&self, layer: &LayerSource) -> Slot {
        let key = (layer.descriptor.digest.clone(), layer.descriptor.size, layer.diff_id.clone());
        let mut kept = self.kept();
        kept.bytes += 512;
        kept.scans.entry(key).or_default().clone()
    }

    /// Says that `index` is in a slot now. What is too much is forgotten as a whole: that costs time only.
    pub(super) fn count(&self, index: &Index) {
        let mut kept = self.kept();
        kept.bytes = kept.bytes.saturating_add(index.memory());
        kept.files = kept.files.saturating_add(index.files(MIN_FILE));
        if kept.bytes > MAX_SCANS || kept.files > MAX_FILES {
            *kept = Kept { built: std::mem::take(&mut kept.built), built_files: kept.built_files, ..Kept::default() };
        }
    }

    /// Whether a layer was built.
    pub(super) fn has_built(&self) -> bool {
        !self.kept().built.is_empty()
    }

    /// The layer that was built with this diff ID.
    pub(super) fn built(&self, diff_id: &Digest) -> Option<BuiltLayer> {
        self.kept().built.get(diff_id).cloned()
    }

    /// Keeps a layer that was built.
    pub(super) fn keep(&self, layer: &BuiltLayer) {
        let mut kept = self.kept();
        kept.built_files = kept.built_files.saturating_add(layer.size.max(MIN_FILE));
        if kept.built_files > MAX_FILES {
            kept.built.clear();
            kept.built_files = layer.size;
        }
        kept.built.insert(layer.diff_id.clone(), layer.clone());
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cache")
    }
}
