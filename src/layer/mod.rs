//! Layers: reading the ones an image has, and building the one that we add.
//!
//! Everything here is plain and synchronous over [`std::io::Read`] and knows no transport. Nothing is ever unpacked to
//! disk; the content of a file that was asked for goes to an unnamed temporary file. Paths are bytes without a leading
//! slash, normalised; the empty path is the root directory.

pub mod compression;
pub mod entry;

pub mod path;
pub mod reader;

mod header;
mod pax;

#[cfg(test)]
mod testing;
