//! Will it start, will it bind? What a container of an image will do, before anybody runs it.
//!
//! A [`Container`] is how an image is run. The start chain is followed through the files of the image without executing
//! any of them, the rules of execve(2) ([`capability`](crate::capability)) say what is left of the capabilities at
//! its end, and whatever goes wrong becomes a [`Finding`].
//!
//! The way of the data: `facts` (with `files` and `users`) is what the image says; `start` follows scripts and
//! programs to the steps of each way through them; `walk` applies the kernel's rules to the steps, which gives an `outcome`;
//! `judge` does that for one container, with what it says itself or one of the usual `ways`; `findings`, `checks` and
//! `provenance` put into words what is wrong; `examine` is the whole of it.
//!
//! [`manifest`] reads how manifests run the image; [`reasons`] are what in them takes a capability away, and [`pod_checks`]
//! holds them against what Kong listens on. What went wrong already is told from the log by [`explain`].

mod checks;
mod container;
mod examine;
mod explain;
mod facts;
mod files;
mod findings;
mod fix;
mod judge;
pub mod manifest;
mod outcome;
pub mod pod_checks;
mod provenance;
pub mod reasons;
mod start;
mod users;
mod walk;
mod ways;

use serde::Serialize;

pub use container::{Command, Container, DEFAULT_CAPABILITIES, Role, Variable};
pub use examine::{Examination, Fate, Options, examine};
pub use explain::{Explanation, explain};
pub use facts::Listen;
pub use outcome::{Cause, Outcome};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Good to know.
    Note,
    /// It works, and somebody will be surprised.
    Warning,
    /// The container does not start, or does not bind.
    Breaks,
}

/// Something that a user should know, in sentences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable name for scripts, such as `no-new-privileges`.
    pub code: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What it is about: `FILE:LINE`, or a path in the image.
    pub place: String,
    /// What will happen, with the text of the error that will be seen.
    pub what: String,
    /// Why.
    pub why: String,
    /// What mends it, to be copied as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}
