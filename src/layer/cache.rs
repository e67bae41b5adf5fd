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
/// Bytes that an empty slot takes, about.
const SLOT: u64 = 512;
/// What a file counts at least: it is open.
const MIN_FILE: u64 = 8 << 20;

/// What a run keeps of layers. Clones share it; a new one is empty.
#[derive(Clone, Default)]
pub struct Cache(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    scans: HashMap<(Digest, u64, Digest), Slot>,
    bytes: u64,
    files: u64,
    /// By diff ID.
    built: HashMap<Digest, BuiltLayer>,
}

/// Held by who reads a layer; afterwards it has what came of it.
pub(super) type Slot = Arc<Mutex<Option<Arc<Index>>>>;

impl Cache {
    /// The slot of a layer.
    pub(super) fn slot(&self, layer: &LayerSource) -> Slot {
        let key = (layer.descriptor.digest.clone(), layer.descriptor.size, layer.diff_id.clone());
        let mut contents = self.contents();
        if let Some(slot) = contents.scans.get(&key) {
            return slot.clone();
        }
        contents.bytes += SLOT;
        contents.scans.entry(key).or_default().clone()
    }

    /// Says that `index` is in a slot now. What is too much is forgotten as a whole: that costs time only.
    pub(super) fn count(&self, index: &Index) {
        let mut contents = self.contents();
        contents.bytes = contents.bytes.saturating_add(index.memory());
        contents.files = contents.files.saturating_add(index.files(MIN_FILE));
        if contents.bytes > MAX_SCANS || contents.files > MAX_FILES {
            *contents = Contents { built: std::mem::take(&mut contents.built), ..Contents::default() };
        }
    }

    /// Whether a layer was built.
    pub(super) fn has_built(&self) -> bool {
        !self.contents().built.is_empty()
    }

    /// The layer that was built with this diff ID.
    pub(super) fn built(&self, diff_id: &Digest) -> Option<BuiltLayer> {
        self.contents().built.get(diff_id).cloned()
    }

    /// Keeps a layer that was built.
    pub(super) fn keep(&self, layer: &BuiltLayer) {
        let mut contents = self.contents();
        let size = |layer: &BuiltLayer| layer.size.max(MIN_FILE);
        if contents.built.values().map(size).sum::<u64>().saturating_add(size(layer)) > MAX_FILES {
            contents.built.clear();
        }
        contents.built.insert(layer.diff_id.clone(), layer.clone());
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cache")
    }
}
