//! What `patch` assumes about an image when the user does not say it.

use crate::capability::FileCapabilities;
use crate::error::{Error, Result};
use crate::oci::config::Port;

/// One kind of image. A new kind is a new row of [`PROFILES`].
#[derive(Debug, PartialEq, Eq)]
pub struct Profile {
    /// What the user types after `--profile`.
    pub name: &'static str,
    /// One line for the help.
    pub about: &'static str,
    /// The programs that need the capability, all of them: first the one that binds the ports, then those that execute it.
    /// Each by the absolute paths that it has in one image or another, of which the first that there is counts. Empty if the
    /// user has to say it with `--file`.
    pub files: &'static [&'static [&'static str]],
    /// What they get, in the words of setcap(8).
    pub capabilities: &'static str,
    /// The ports to expose, as in the image config: `80/tcp`.
    pub ports: &'static [&'static str],
    /// The environment variable with the addresses to listen on, in the grammar of [`listen`](crate::kong::listen).
    pub listen_env: Option<&'static str>,
    /// The environment variable in which the image says its version.
    pub version_env: Option<&'static str>,
}

/// Ports below 1024, at once.
const LOW_PORTS: &str = "cap_net_bind_service=+ep";
const WEB: &[&str] = &["80/tcp", "443/tcp"];
/// With HTTP/3, which is QUIC over UDP.
const WEB_AND_QUIC: &[&str] = &["80/tcp", "443/tcp", "443/udp"];

/// All profiles; the first is the default. Paths are those of the images' own Dockerfiles.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "kong",
        about: "Kong Gateway: nginx of OpenResty, ports 80 and 443",
        files: &[&["/usr/local/openresty/nginx/sbin/nginx"]],
        capabilities: LOW_PORTS,
        ports: WEB,
        listen_env: Some("KONG_PROXY_LISTEN"),
        version_env: Some("KONG_VERSION"),
    },
    Profile {
        name: "nginx",
        about: "the official nginx, ports 80 and 443",
        files: &[&["/usr/sbin/nginx"]],
        capabilities: LOW_PORTS,
        ports: WEB,
        listen_env: None,
        version_env: None,
    },
    // Under no_new_privs a program keeps only what the one that executed it has: every hop needs it (ingress-nginx #7449).
    Profile {
        name: "ingress-nginx",
        about: "the Ingress controller of Kubernetes: nginx, the controller and dumb-init, ports 80 and 443",
        files: &[
            &["/usr/local/nginx/sbin/nginx", "/chroot/usr/local/nginx/sbin/nginx", "/usr/bin/nginx", "/usr/sbin/nginx"],
            &["/nginx-ingress-controller"],
            &["/usr/bin/dumb-init"],
        ],
        capabilities: LOW_PORTS,
        ports: WEB,
        listen_env: None,
        version_env: None,
    },
    Profile {
        name: "caddy",
        about: "Caddy, ports 80 and 443, and 443 of UDP",
        files: &[&["/usr/bin/caddy"]],
        capabilities: LOW_PORTS,
        ports: WEB_AND_QUIC,
        listen_env: None,
        version_env: None,
    },
    Profile {
        name: "traefik",
        about: "Traefik, on Alpine or on nothing, ports 80 and 443",
        files: &[&["/usr/local/bin/traefik", "/traefik"]],
        capabilities: LOW_PORTS,
        ports: WEB,
        listen_env: None,
        version_env: None,
    },
    Profile {
        name: "haproxy",
        about: "HAProxy, ports 80 and 443",
        files: &[&["/usr/local/sbin/haproxy"]],
        capabilities: LOW_PORTS,
        ports: WEB,
        listen_env: None,
        version_env: None,
    },
    Profile {
        name: "coredns",
        about: "CoreDNS, port 53 of UDP and TCP",
        files: &[&["/coredns"]],
        capabilities: LOW_PORTS,
        ports: &["53/tcp", "53/udp"],
        listen_env: None,
        version_env: None,
    },
    Profile {
        name: "envoy",
        about: "Envoy, ports 80 and 443",
        files: &[&["/usr/local/bin/envoy"]],
        capabilities: LOW_PORTS,
        ports: WEB,
        listen_env: None,
        version_env: None,
    },
    Profile {
        name: "none",
        about: "nothing is assumed: name the file with --file, and the ports with --expose if there are any",
        files: &[],
        capabilities: LOW_PORTS,
        ports: &[],
        listen_env: None,
        version_env: None,
    },
];

impl Profile {
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

    /// What the files get.
    pub fn capabilities(&self) -> Result<FileCapabilities> {
        self.capabilities.parse()
    }

    /// The ports to expose.
    pub fn exposed(&self) -> Result<Vec<Port>> {
        self.ports.iter().map(|port| port.parse()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_found_by_name_and_make_sense() {
        for profile in PROFILES {
            assert_eq!(Profile::named(profile.name).unwrap(), profile);
            assert!(profile.files.iter().all(|paths| !paths.is_empty()), "{}", profile.name);
            assert!(profile.files.iter().flat_map(|paths| *paths).all(|path| path.starts_with('/')));
            assert_eq!(profile.exposed().unwrap().len(), profile.ports.len());
            let capabilities = profile.capabilities().unwrap();
            assert!(capabilities.effective, "no program of these raises a capability by itself");
        }
        let mut names: Vec<&str> = PROFILES.iter().map(|profile| profile.name).collect();
        assert_eq!((names.first(), names.last()), (Some(&"kong"), Some(&"none")));
        let error = Profile::named("caddyx").unwrap_err();
        assert!(names.iter().all(|name| error.hint_text().unwrap().contains(name)), "{error:?}");
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PROFILES.len());
    }
}
