//! What `patch` assumes about an image when the user does not say it.

use crate::error::{Error, Result};
use crate::oci::config::Port;

/// One kind of image. A new kind is a new row of [`PROFILES`].
#[derive(Debug, PartialEq, Eq)]
pub struct Profile {
    /// What the user types after `--profile`.
    pub name: &'static str,
    /// One line for the help.
    pub about: &'static str,
    /// Absolute paths of the binary that binds the ports; the first that the image has is the one. Empty if the user has to
    /// say it with `--file`.
    pub files: &'static [&'static str],
    /// The ports to expose, as in the image config: `80/tcp`.
    pub ports: &'static [&'static str],
    /// The environment variable with the addresses to listen on, in the grammar of [`listen`](super::listen).
    pub listen_env: Option<&'static str>,
    /// The environment variable in which the image says its version.
    pub version_env: Option<&'static str>,
}

/// All profiles; the first is the default.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "kong",
        about: "Kong Gateway: nginx of OpenResty, ports 80 and 443",
        files: &["/usr/local/openresty/nginx/sbin/nginx"],
        ports: &["80/tcp", "443/tcp"],
        listen_env: Some("KONG_PROXY_LISTEN"),
        version_env: Some("KONG_VERSION"),
    },
    Profile {
        name: "none",
        about: "nothing is assumed: name the file with --file, and the ports with --expose if there are any",
        files: &[],
        ports: &[],
        listen_env: None,
        version_env: None,
    },
];

impl Profile {
    /// The ports to expose.
    pub fn exposed(&self) -> Result<Vec<Port>> {
        self.ports.iter().map(|port| port.parse()).collect()
    }

    /// The profile with this name.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) if there is none; the hint lists them.
    pub fn named(name: &str) -> Result<&'static Profile> {
        PROFILES.iter().find(|profile| profile.name == name).ok_or_else(|| {
            let names: Vec<&str> = PROFILES.iter().map(|profile| profile.name).collect();
            Error::usage(format!("there is no profile \"{name}\"")).hint(format!("profiles are: {}", names.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_found_by_name() {
        for profile in PROFILES {
            assert_eq!(Profile::named(profile.name).unwrap(), profile);
            assert!(profile.files.iter().all(|file| file.starts_with('/')));
            assert!(profile.ports.iter().all(|port| port.ends_with("/tcp")));
        }
        assert_eq!(PROFILES[0].name, "kong");
        assert_eq!(Profile::named("caddyx").unwrap_err().hint_text(), Some("profiles are: kong, none"));
    }
}
