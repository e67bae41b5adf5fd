//! Where images live. One module a place, the same nouns in each; the only user of the network.

pub mod layout;
pub mod registry;

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;

use crate::error::Result;

/// Content on its way, in pieces. It was not verified: the consumer hashes it.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// Bytes that a manifest, an index, a config or an `index.json` may have (faults.md §5).
pub const MAX_MANIFEST: u64 = 4 << 20;
