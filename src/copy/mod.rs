//! Copies images from place to place, byte for byte: blobs, then manifests, children before parents, then what refers to
//! them, then the tag.

mod blobs;
mod image;
mod manifests;
mod memory;
mod referrers;
mod select;

pub use blobs::{Moved, Mover, blobs_of, left_out};
pub use image::{Copied, Options, Outcome, Route, image};
pub use manifests::{Tag, can_be_replaced, copy_manifests, trust_once};
pub use memory::Memory;
pub use referrers::{Referrer, Referrers};
