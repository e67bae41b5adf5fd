//! What we know of Kong: where its nginx is, how its version is written, and what a listen value means to which version.
//!
//! [`listen`] reads `KONG_PROXY_LISTEN`, [`ports`] rewrites it, [`Version`] is the `KONG_VERSION` of an image, and
//! [`Profile`] is what `patch` assumes when the user does not say which file and which ports are meant.

pub mod listen;
pub mod ports;
mod profile;
mod version;

pub use profile::{PROFILES, Profile};
pub use version::Version;
