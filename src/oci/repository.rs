//! Names in registries: the grammar of distribution's `reference` package, with IPv6 hosts.
//!
//! That package's Rust namesake in `oci-spec` fills in `latest` (so «no tag given» is lost) and knows no IPv6, hence the
//! parser here.

use std::fmt;

use crate::error::{Error, Result};
use crate::oci::digest::Digest;

/// A tag or a digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A name that may move.
    Tag(String),
    /// Content that cannot change.
    Digest(Digest),
}

/// A repository on a registry; `docker.io` has one spelling only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    /// Host, and port if one was typed, in lower case: `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub registry: String,
    /// `library/kong`.
    pub path: String,
}

impl Repository {
    /// The whole name of an image, as container engines know it: `REPOSITORY:TAG` or `REPOSITORY@DIGEST`; without a
    /// target it is `latest`.
    pub fn image(&self, target: Option<&Target>) -> String {
        match target {
            Some(Target::Tag(tag)) => format!("{self}:{tag}"),
            Some(Target::Digest(digest)) => format!("{self}@{digest}"),
            None => format!("{self}:latest"),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tag(tag) => f.write_str(tag),
            Target::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

/// A name in a registry, with the tag or digest that was typed.
pub(super) fn registry_name(text: &str) -> Result<(Repository, Option<Target>)> {
    let bad = |why: &str| {
        Err(Error::usage(why).hint("write HOST[:PORT]/REPOSITORY:TAG or HOST[:PORT]/REPOSITORY@sha256:DIGEST"))
    };
    if text.is_empty() {
        return bad("an empty image reference");
    }
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest.parse::<Digest>().map_err(|e| Error::usage(e.to_string()))?)),
        None => (text, None),
    };
    // A first component is a host if it has a dot, a port or brackets, or is localhost. Capitals make none: in lower case,
    // as hosts are kept, it would be a repository of docker.io.
    let (host, rest) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':', '[']) || first.eq_ignore_ascii_case("localhost") => {
            (Some(first), rest)
        }
        _ => (None, name),
    };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let registry = match host {
        None => "docker.io".to_owned(),
        Some(host) if !is_host(host) => return bad(&format!("'{host}' is not a registry host")),
        Some(host) => match host.to_ascii_lowercase().as_str() {
            "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
            host => host.to_owned(),
        },
    };
    let is_official = registry == "docker.io" && !path.contains('/');
    let whole = if is_official { format!("library/{path}") } else { path.to_owned() };
    if path.is_empty() || whole.len() > 255 || !path.split('/').all(is_path_component) {
        let lower = path.to_ascii_lowercase();
        let error = Error::usage(format!("'{path}' is not a repository name"));
        return Err(if path != lower && lower.split('/').all(is_path_component) {
            error.hint(format!("repository names are in lower case: {lower}"))
        } else {
            error.hint("write HOST[:PORT]/REPOSITORY:TAG")
        });
    }
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return bad(&format!("'{tag}' is not a tag"));
    }
    // With both, the digest decides and the tag is only a name.
    let target = digest.map(Target::Digest).or(tag.map(|tag| Target::Tag(tag.to_owned())));
    Ok((Repository { registry, path: whole }, target))
}

/// `host`, `host:port`, `1.2.3.4:port`, `[v6]:port`.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                (None, port.strip_prefix(':').or((!port.is_empty()).then_some("x")))
            }
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.is_none_or(|host| host.len() <= 253 && host.split('.').all(label))
        && port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p != 0))
}

/// `[a-z0-9]+` joined by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.first().is_some_and(alnum) || !bytes.last().is_some_and(alnum) {
        return false;
    }
    text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`, distribution-spec "Pulling manifests".
pub fn is_tag(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 128
        && bytes.first().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(b))
}
