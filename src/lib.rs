//! capatch puts a Linux file capability on a binary inside an OCI image that already exists.

pub mod blob;
pub mod capability;
pub mod cli;
pub mod copy;
pub mod error;
pub mod image;
pub mod kong;
pub mod layer;
pub mod oci;
pub mod patch;
pub mod progress;
pub mod transport;
