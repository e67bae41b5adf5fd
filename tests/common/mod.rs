//! What integration tests share.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod registry;
