//! What we know of Kong: how its version is written, and what a listen value means to which version.
//!
//! [`listen`] reads `KONG_PROXY_LISTEN`, [`ports`] rewrites it, and [`Version`] is the `KONG_VERSION` of an image.

pub mod entrypoint;
pub mod listen;
pub mod ports;
mod version;

pub use version::Version;
