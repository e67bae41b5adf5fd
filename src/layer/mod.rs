//! Layers: reading the ones an image has, and building the one that we add.
//!
//! Everything here is plain and synchronous over [`std::io::Read`] and knows no transport. Nothing is ever unpacked to
//! disk; the content of a file that was asked for goes to an unnamed temporary file. Paths are bytes without a leading
//! slash, normalised; the empty path is the root directory.

pub mod build;
pub mod compression;
pub mod entry;
pub mod lookup;
pub mod path;
pub mod reader;
pub mod tree;

mod extensions;
mod header;
mod hints;
mod index;
mod pax;
mod view;
mod whiteout;

#[cfg(test)]
mod agreement;
#[cfg(test)]
mod testing;
