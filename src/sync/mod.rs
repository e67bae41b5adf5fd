//! Many images from one file: mirrored as they are, or patched on the way. What was done is read from the destinations;
//! nothing else is remembered from run to run.
//!
//! [`spec`] is the file and [`tasks`] what it comes to, by [`select`] and [`template`]; [`shard`] deals the tasks to several
//! machines, [`run`] does them, and [`job`] writes the Kubernetes Job that does so.

pub mod job;
pub mod report;
pub mod run;
pub mod select;
pub mod shard;
pub mod spec;
pub mod tasks;
pub mod template;
mod yaml;
