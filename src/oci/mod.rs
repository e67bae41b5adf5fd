//! The OCI data model as pure values: nothing here reads a file or opens a connection.

pub mod config;
pub mod descriptor;
pub mod digest;
pub mod json;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;
pub mod repository;
pub mod time;
