//! The use case: put a file capability on a program inside an image, for one platform or for all of them.
//!
//! [`plan`] finds out what would change and makes the new content, without a write anywhere; [`apply`] stores it, and
//! moves the tag last.

mod apply;
mod edit;
mod elf;
mod file;
mod plan;
mod record;

pub use crate::copy::Route;
pub use apply::{Outcome, apply};
pub use edit::edit_config;
pub use file::FileChange;
pub use plan::{AddedLayer, ImageChange, Plan, Planned, history, plan};
pub use record::{ANNOTATIONS, Holder, LABELS, NAME as RECORD, Record, Request};

use crate::capability::FileCapabilities;
use crate::error::{Error, Result};
use crate::kong::Profile;
use crate::oci::config::Port;
use crate::oci::platform::Platform;
use crate::oci::time;

/// What to change.
#[derive(Clone, Debug)]
pub struct Options {
    /// What we know about the program.
    pub profile: &'static Profile,
    /// The capabilities that the files get.
    pub capabilities: FileCapabilities,
    /// Set exactly `capabilities` instead of adding them to those that a file has.
    pub replace: bool,
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
    /// Replace whatever the destination tag holds.
    pub force: bool,
    /// How many blobs move at once.
    pub jobs: usize,
}

impl Options {
    /// The request in its normal form; two that do the same are equal.
    pub fn request(&self) -> Result<Request> {
        let texts = |ports: &[Port]| {
            let mut ports: Vec<String> = ports.iter().map(Port::to_string).collect();
            ports.dedup();
            ports
        };
        let listen = match (&self.listen, self.profile.listen_env) {
            (None, _) => None,
            (Some(value), Some(name)) => Some((name.to_owned(), value.clone().unwrap_or_default())),
            (Some(_), None) => {
                return Err(Error::usage(format!("the profile {} has no listen variable", self.profile.name))
                    .hint("set the variable of your program with --env NAME=VALUE"));
            }
        };
        let files = if self.files.is_empty() {
            self.profile.files.iter().map(|file| (*file).to_owned()).collect()
        } else {
            self.files.clone()
        };
        Ok(Request {
            capabilities: self.capabilities.to_string(),
            replace: self.replace,
            files,
            expose: texts(&self.expose),
            unexpose: texts(&self.unexpose),
            listen,
            env: self.env.iter().cloned().collect(),
            labels: self.labels.iter().cloned().collect(),
            platforms: self.platforms.iter().map(Platform::to_string).collect(),
            created: self.created.map(time::rfc3339),
        })
    }
}
