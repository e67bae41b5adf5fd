//! What integration tests share.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

pub mod attacker;
pub mod claims;
pub mod cli;
pub mod elf;
pub mod files;
pub mod image;
pub mod library;
pub mod manifests;
pub mod patched;
pub mod proxy;
pub mod registry;
pub mod script;
pub mod tar;
