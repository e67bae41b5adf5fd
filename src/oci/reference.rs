//! What users type to name an image: a transport and a name in it, as in containers-transports(5).
//!
//! Registry names follow the grammar of distribution's `reference` package, with IPv6 hosts. That package's Rust
//! namesake in `oci-spec` fills in `latest` (so «no tag given» is lost) and knows no IPv6, hence the parser here.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::oci::digest::Digest;

/// Where an image is, or is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `docker://kong:3.9` or just `kong:3.9`.
    Registry {
        /// The registry and the repository in it.
        repository: Repository,
        /// The tag or digest, if the user typed one.
        target: Option<Target>,
    },
    /// `oci:DIR[:TAG]` or `oci:DIR@DIGEST`: an OCI image layout.
    Layout {
        /// The directory.
        path: PathBuf,
        /// The `org.opencontainers.image.ref.name` or digest, if the user typed one.
        target: Option<Target>,
    },
}

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

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = match self {
            Reference::Registry { repository, target } => {
                write!(f, "{repository}")?;
                target
            }
            Reference::Layout { path, target } => {
                write!(f, "oci:{}", path.display())?;
                target
            }
        };
        match target {
            Some(Target::Tag(tag)) => write!(f, ":{tag}"),
            Some(Target::Digest(digest)) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

const TRANSPORTS: [&str; 6] = ["docker", "oci", "oci-archive", "docker-archive", "containerd", "docker-daemon"];

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // What stands behind an `@` has no slash unless a login stands in front of it, which must not be printed.
        if !text.starts_with("oci:") && text.split_once('@').is_some_and(|(_, rest)| rest.contains('/')) {
            return Err(Error::usage("an image reference has no user name and no password in it")
                .hint("log in with docker login or podman login, then leave out what stands before the @"));
        }
        if let Some(rest) = text.strip_prefix("docker://") {
            return registry(rest).map_err(|e| e.context(format!("'{text}'")));
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            return layout(rest).map_err(|e| e.context(format!("'{text}'")));
        }
        if let Some((transport, _)) = text.split_once(':')
            && TRANSPORTS.contains(&transport)
            // `docker:5000/x` would be a registry called docker; `docker:dir` is not.
            && !text.split('/').next().is_some_and(|host| host.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok() && text.contains('/')))
        {
            return Err(Error::usage(format!("'{text}': the transport {transport}: is not supported here"))
                .hint("use docker://NAME:TAG for a registry or oci:DIR:TAG for an OCI layout"));
        }
        if text.contains("://") {
            return Err(Error::usage(format!("'{text}' is not an image reference")).hint(
                "write NAME:TAG or docker://NAME:TAG for a registry, oci:DIR:TAG for an OCI layout; no https://",
            ));
        }
        registry(text).map_err(|e| e.context(format!("'{text}'")))
    }
}

fn layout(text: &str) -> Result<Reference> {
    let (path, target) = match (text.split_once('@'), text.split_once(':')) {
        (Some((path, digest)), _) if digest.contains(':') => {
            // A tag in front of the digest is only a name.
            let path = path.split_once(':').map_or(path, |(path, _)| path);
            let digest = digest.parse().map_err(|e: Error| Error::usage(e.to_string()))?;
            (path, Some(Target::Digest(digest)))
        }
        (_, Some((path, tag))) => (path, Some(Target::Tag(tag.to_owned()))),
        (_, None) => (text, None),
    };
    if path.is_empty() {
        return Err(Error::usage("no directory after oci:").hint("write oci:DIR:TAG"));
    }
    if let Some(Target::Tag(tag)) = &target {
        // image-spec annotations.md: components of [A-Za-z0-9], joined by -._:@/+
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"-._:@/+".contains(&b);
        if tag.is_empty() || tag.len() > 512 || !tag.bytes().all(valid) || !tag.as_bytes()[0].is_ascii_alphanumeric() {
            return Err(Error::usage(format!("'{tag}' is not a tag")).hint("write oci:DIR:TAG, such as oci:kong:3.9"));
        }
    }
    Ok(Reference::Layout { path: path.into(), target })
}

fn registry(text: &str) -> Result<Reference> {
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
    // A first component is a host if it could not be a repository: it has a dot, a port or brackets, or is localhost.
    let (host, rest) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':', '['])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
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
    if path.is_empty() || path.len() > 255 || !path.split('/').all(is_path_component) {
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
    let path = if registry == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
    // With both, the digest decides and the tag is only a name.
    let target = digest.map(Target::Digest).or(tag.map(|tag| Target::Tag(tag.to_owned())));
    Ok(Reference::Registry { repository: Repository { registry, path }, target })
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

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_have_one_normal_form() {
        for (typed, normal) in [
            ("kong", "docker.io/library/kong"),
            ("kong:3.9", "docker.io/library/kong:3.9"),
            ("docker://kong:3.9", "docker.io/library/kong:3.9"),
            ("kong/kong-gateway:3.9", "docker.io/kong/kong-gateway:3.9"),
            ("index.docker.io/library/kong:3", "docker.io/library/kong:3"),
            ("registry-1.docker.io/kong/kong:3", "docker.io/kong/kong:3"),
            ("localhost/kong:3", "localhost/kong:3"),
            ("localhost:5000/kong", "localhost:5000/kong"),
            ("LOCALHOST:5000/kong:A", "localhost:5000/kong:A"),
            ("[::1]:5000/a/b:c", "[::1]:5000/a/b:c"),
            ("[::1]/a:c", "[::1]/a:c"),
            ("10.0.0.1:5000/a__b/c-d.e_f---g:_x", "10.0.0.1:5000/a__b/c-d.e_f---g:_x"),
            ("oci:5000/x", "oci:5000/x"),
            ("oci:testdata/kong:3.9", "oci:testdata/kong:3.9"),
            ("oci:/a/b", "oci:/a/b"),
            ("oci:d:docker.io/library/kong:3.9", "oci:d:docker.io/library/kong:3.9"),
        ] {
            assert_eq!(typed.parse::<Reference>().unwrap().to_string(), normal, "{typed}");
        }
        let both = format!("kong:3.9@sha256:{HEX}");
        assert_eq!(both.parse::<Reference>().unwrap().to_string(), format!("docker.io/library/kong@sha256:{HEX}"));
        let layout = format!("oci:d@sha256:{HEX}");
        assert_eq!(layout.parse::<Reference>().unwrap().to_string(), layout);
    }

    #[test]
    fn a_password_in_a_reference_is_not_repeated() {
        for text in
            ["user:hunter2@host.io/a:1", "docker://user:hunter2@host.io/a:1", "https://user:hunter2@host.io/a:1"]
        {
            let error = text.parse::<Reference>().unwrap_err();
            assert!(!format!("{error} {:?}", error.hint_text()).contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn bad_references_are_usage_errors_with_a_hint() {
        let long = format!("kong:{}", "a".repeat(129));
        let deep = format!("h.io/{}", "a/".repeat(200));
        for bad in [
            "",
            ":",
            "@",
            "/",
            "kong:",
            "kong@",
            "kong@sha256:00",
            "Kong:3",
            "kong//x",
            "../kong",
            "kong:a b",
            "kong:3.9\n",
            "https://docker.io/kong",
            "h.io:0/kong",
            "h.io:65536/kong",
            "h.io:x/kong",
            "[::g]/kong",
            "[::1]x/kong",
            "-h.io/kong",
            "h..io/kong",
            "evil.com\\@good.com/kong",
            "user@host/kong",
            "kóng:3",
            "a..b/kong",
            "h.io/_kong",
            "h.io/kong_",
            "h.io/a___b",
            "oci:",
            "oci::tag",
            "oci:dir:",
            "oci:dir:a b",
            "containerd:kong:3",
            "ftp://x/y",
            "docker://",
            &long,
            &deep,
        ] {
            let error = bad.parse::<Reference>().expect_err(bad);
            assert_eq!(error.kind(), crate::error::Kind::Usage, "{bad}: {error}");
        }
    }
}
