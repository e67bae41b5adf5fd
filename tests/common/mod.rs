//! What integration tests share.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

pub mod registry;
