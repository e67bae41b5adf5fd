//! Tar archives, plain or compressed, as a format: what layers are made of, and what images are carried in.
//!
//! Everything here is synchronous over [`std::io::Read`]. Paths are bytes without a leading slash, normalised; the empty
//! path is the root directory.

pub mod compression;
pub mod entry;
pub mod path;

pub(crate) mod extensions;
pub(crate) mod header;
pub(crate) mod pax;

#[cfg(test)]
pub(crate) mod testing;
