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
            created: self.created.map(rfc3339),
        })
    }
}

/// Seconds since 1970 as `YYYY-MM-DDTHH:MM:SSZ`.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a date by eras of 400 years that begin in March (Howard Hinnant, chrono-compatible date algorithms).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_704_067_200, "2024-01-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
