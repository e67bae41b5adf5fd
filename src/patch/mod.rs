//! The use case: put a file capability on a program inside an image, or take it away, for one platform or for all of them.
//!
//! [`plan`] finds out what would change and makes the new content, without a write anywhere; [`apply`] stores it, and
//! moves the tag last.

mod apply;
pub(crate) mod dynamic;
mod edit;
pub(crate) mod elf;
mod file;
mod plan;
mod record;

pub use crate::copy::Route;
pub use crate::layer::Cache;
pub use apply::{Outcome, State, apply, state};
pub use edit::edit_config;
pub use file::FileChange;
pub use plan::{AddedLayer, ImageChange, Plan, Planned, history, plan};
pub use record::{ANNOTATIONS, Asked, Holder, LABELS, NAME as RECORD, Record, Request};

use std::collections::BTreeSet;

use crate::capability::FileCapabilities;
use crate::copy::Memory;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::oci::config::Port;
use crate::oci::platform::Platform;
use crate::oci::time;
use crate::profile::Profile;

/// What becomes of the capabilities of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// These are added to those that it has.
    Add(FileCapabilities),
    /// These take the place of those that it has.
    Replace(FileCapabilities),
    /// It has none, and no extended attribute for them, as after `setcap -r`.
    Remove,
}

impl Edit {
    /// What the options `cap`, `replace-caps` and `remove-caps` come to.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) if they contradict each other.
    pub fn asked(profile: &Profile, cap: Option<FileCapabilities>, replace: bool, remove: bool) -> Result<Self> {
        match (remove, cap) {
            (false, cap) => {
                let wanted = cap.map_or_else(|| profile.capabilities(), Ok)?;
                Ok(if replace { Edit::Replace(wanted) } else { Edit::Add(wanted) })
            }
            (true, None) if !replace => Ok(Edit::Remove),
            (true, _) => Err(Error::usage("the capabilities are to be removed and to be set")
                .hint("remove-caps goes with neither cap nor replace-caps")),
        }
    }

    /// The ports to expose if none are named: a program that loses its capability is not about to have low ports.
    pub fn exposed(&self, profile: &Profile) -> Result<Vec<Port>> {
        match self {
            Edit::Add(_) | Edit::Replace(_) => profile.exposed(),
            Edit::Remove => Ok(Vec::new()),
        }
    }
}

/// What to change.
#[derive(Clone, Debug)]
pub struct Options {
    /// What we know about the program.
    pub profile: &'static Profile,
    /// What becomes of the capabilities of the files.
    pub capabilities: Edit,
    /// The files; none means those of the profile.
    pub files: Vec<String>,
    /// Ports to add to `ExposedPorts`.
    pub expose: Vec<Port>,
    /// Ports to take out of `ExposedPorts`.
    pub unexpose: Vec<Port>,
    /// Whether to set the profile's listen variable: to a value, or to one derived from the image.
    pub listen: Option<Option<String>>,
    /// Environment variables to set.
    pub env: Vec<(String, String)>,
    /// Labels to set.
    pub labels: Vec<(String, String)>,
    /// The platforms to patch; none means all.
    pub platforms: Vec<Platform>,
    /// Seconds since 1970, from `SOURCE_DATE_EPOCH`.
    pub created: Option<u64>,
    /// Copy layers that may not be distributed too.
    pub foreign_layers: bool,
    /// Replace whatever the destination tag holds.
    pub force: bool,
    /// How many blobs move at once.
    pub jobs: usize,
    /// Which blobs are where, as far as this run knows.
    pub memory: Memory,
    /// What this run keeps of layers.
    pub layers: Cache,
    /// What the image may take up.
    pub limits: Limits,
}

impl Options {
    /// Refuses options that contradict each other or that no image can carry.
    pub fn check(&self) -> Result<()> {
        if let Some(port) = self.expose.iter().find(|port| self.unexpose.contains(port)) {
            return Err(Error::usage(format!("{port} is to be exposed and not to be exposed"))
                .hint("name the ports to expose, without this one"));
        }
        if self.files.is_empty() && self.profile.files.is_empty() {
            return Err(Error::usage(format!("the profile {} names no file", self.profile.name))
                .hint("name the program by its absolute path in the image"));
        }
        if let Some(path) = self.files.iter().find(|path| !path.starts_with('/') || path.contains('\0')) {
            return Err(Error::usage(format!("'{path}' is no absolute path"))
                .hint("write the absolute path that the file has in the image"));
        }
        let writable =
            |name: &str, value: &str| !name.is_empty() && !name.contains(char::is_control) && !value.contains('\0');
        if let Some((name, _)) = self.env.iter().chain(&self.labels).find(|(name, value)| !writable(name, value)) {
            return Err(Error::usage(format!("'{name}' cannot be set: a name is not empty, and a value has no NUL")));
        }
        if let Some((name, _)) = self.env.iter().find(|(name, _)| name.contains('=')) {
            return Err(Error::usage(format!("'{name}' is no name of an environment variable")));
        }
        let ours = |name: &str| name == RECORD || name.starts_with("org.opencontainers.image.base.");
        if let Some((name, _)) = self.labels.iter().find(|(name, _)| ours(name)) {
            return Err(Error::usage(format!("the label {name} is written by capatch itself")));
        }
        match self.request()?.listen {
            Some((listen, _)) if self.env.iter().any(|(name, _)| *name == listen) => {
                Err(Error::usage(format!("{listen} is to be set twice: as the listen variable, and as any other one"))
                    .hint("leave one of the two out; the listen variable is checked against the image's version"))
            }
            _ => Ok(()),
        }
    }

    /// The request in its normal form; two that do the same are equal.
    pub fn request(&self) -> Result<Request> {
        let listen = match (&self.listen, self.profile.listen_env) {
            (None, _) => None,
            (Some(value), Some(name)) => Some((name.to_owned(), value.clone().unwrap_or_default())),
            (Some(_), None) => {
                return Err(Error::usage(format!("the profile {} has no listen variable", self.profile.name))
                    .hint("set the variable of your program with --env NAME=VALUE"));
            }
        };
        let files = if self.files.is_empty() {
            self.profile.files.iter().map(|paths| Asked::of(paths)).collect()
        } else {
            sorted(self.files.iter().cloned()).into_iter().map(Asked::Path).collect()
        };
        Ok(Request {
            capabilities: match &self.capabilities {
                Edit::Add(wanted) | Edit::Replace(wanted) => wanted.to_string(),
                Edit::Remove => String::new(),
            },
            replace: matches!(self.capabilities, Edit::Replace(_)),
            remove: matches!(self.capabilities, Edit::Remove),
            files,
            expose: sorted(self.expose.iter()).into_iter().map(Port::to_string).collect(),
            unexpose: sorted(self.unexpose.iter()).into_iter().map(Port::to_string).collect(),
            listen,
            env: self.env.iter().cloned().collect(),
            labels: self.labels.iter().cloned().collect(),
            platforms: sorted(self.platforms.iter().map(|platform| platform.normal().to_string())),
            created: self.created.map(time::rfc3339),
        })
    }
}

/// Each once, in an order that is not the command line's.
fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    items.collect::<BTreeSet<T>>().into_iter().collect()
}
