//! Layers: reading the ones an image has, and building the one that we add.
//!
//! Everything here is plain and synchronous over [`std::io::Read`] and knows no transport. Nothing is ever unpacked to
//! disk; the content of a file that was asked for goes to an unnamed temporary file.

pub mod build;
pub mod diff;
pub mod lookup;
pub mod reader;
pub mod tree;

mod cache;
mod hints;
mod index;
mod inode;
mod view;
mod whiteout;

pub use cache::Cache;

#[cfg(test)]
mod agreement;
#[cfg(test)]
pub(crate) mod testing;
