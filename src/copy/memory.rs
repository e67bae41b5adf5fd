//! Which blobs are where, as far as one run knows, and which are on their way: shared by all images that the run moves, so
//! that what they have in common is asked for and moved once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::oci::digest::Digest;
use crate::transport::Place;

/// What a run knows. Clones share it; a new one knows nothing.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Known>>);

type Known = HashMap<Digest, Vec<(Place, Slot)>>;

/// Held by who brings a blob to a place; true once it is there.
pub(super) type Slot = Arc<tokio::sync::Mutex<bool>>;

impl Memory {
    /// The slot of a blob at a place.
    pub(super) fn slot(&self, place: &Place, digest: &Digest) -> Slot {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let places = known.entry(digest.clone()).or_default();
        match places.iter().find(|(known, _)| known.is_same(place)) {
            Some((_, slot)) => slot.clone(),
            None => {
                let slot = Slot::default();
                // An archive is like no other place, and what it is to hold is not there before its end.
                if !matches!(place, Place::Archive(_)) {
                    places.push((place.clone(), slot.clone()));
                }
                slot
            }
        }
    }

    /// Another repository of the same registry that has the blob.
    pub(super) fn origin(&self, to: &Place, digest: &Digest) -> Option<Place> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |slot: &Slot| slot.try_lock().is_ok_and(|there| *there);
        let mut places = known.get(digest)?.iter();
        places.find(|(place, slot)| place.can_mount_at(to) && !place.is_same(to) && has(slot)).map(|(p, _)| p.clone())
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}
