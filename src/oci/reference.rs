//! What users type to name an image: a transport and a name in it, as in containers-transports(5).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::oci::repository::registry_name;

pub use crate::oci::repository::{Repository, Target, is_tag};

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
    /// `oci-archive:FILE[:TAG]` or `docker-archive:FILE[:NAME]`: images in a tar.
    Archive {
        /// Which of the two.
        format: ArchiveFormat,
        /// The file; `-` is standard input or output.
        path: PathBuf,
        /// The tag or the whole name of the image in it, or its digest.
        target: Option<Target>,
    },
    /// `containerd:NAME`: an image in a containerd.
    Containerd {
        /// Registry and repository, as containerd names images.
        repository: Repository,
        /// The tag or digest, if the user typed one.
        target: Option<Target>,
    },
    /// `docker-daemon:NAME`: an image in a Docker engine.
    Daemon {
        /// Registry and repository.
        repository: Repository,
        /// The tag or digest, if the user typed one.
        target: Option<Target>,
    },
}

/// How an archive is laid out. What capatch writes is both at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout in a tar.
    Oci,
    /// What `docker save` writes.
    Docker,
}

impl ArchiveFormat {
    /// As in front of a file name.
    pub fn transport(self) -> &'static str {
        match self {
            ArchiveFormat::Oci => "oci-archive",
            ArchiveFormat::Docker => "docker-archive",
        }
    }
}

impl Reference {
    /// The tag or digest, if the user typed one.
    pub fn target(&self) -> Option<&Target> {
        match self {
            Reference::Registry { target, .. }
            | Reference::Layout { target, .. }
            | Reference::Archive { target, .. }
            | Reference::Containerd { target, .. }
            | Reference::Daemon { target, .. } => target.as_ref(),
        }
    }

    /// The same place with another tag or digest.
    #[must_use]
    pub fn with_target(&self, new: Option<Target>) -> Reference {
        let mut reference = self.clone();
        match &mut reference {
            Reference::Registry { target, .. }
            | Reference::Layout { target, .. }
            | Reference::Archive { target, .. }
            | Reference::Containerd { target, .. }
            | Reference::Daemon { target, .. } => *target = new,
        }
        reference
    }

    /// The name that the image has in a registry, if the reference says one.
    pub fn name(&self) -> Option<(Repository, Option<Target>)> {
        match self {
            Reference::Registry { repository, target }
            | Reference::Containerd { repository, target }
            | Reference::Daemon { repository, target } => Some((repository.clone(), target.clone())),
            Reference::Archive { target: Some(Target::Tag(name)), format, .. }
                if *format == ArchiveFormat::Docker || name.contains(['/', ':']) =>
            {
                registry_name(name).ok()
            }
            Reference::Archive { .. } | Reference::Layout { .. } => None,
        }
    }

    /// Whether data comes from standard input or goes to standard output.
    pub fn is_pipe(&self) -> bool {
        matches!(self, Reference::Archive { path, .. } if path.as_os_str() == "-")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A host called `oci` is no transport.
            Reference::Registry { repository, .. } if is_transport(&repository.registry) => {
                write!(f, "docker://{repository}")?;
            }
            Reference::Registry { repository, .. } => write!(f, "{repository}")?,
            Reference::Layout { path, .. } => write!(f, "oci:{}", path.display())?,
            Reference::Archive { format, path, .. } => write!(f, "{}:{}", format.transport(), path.display())?,
            Reference::Containerd { repository, .. } => write!(f, "containerd:{repository}")?,
            Reference::Daemon { repository, .. } => write!(f, "docker-daemon:{repository}")?,
        }
        match self.target() {
            Some(Target::Tag(tag)) => write!(f, ":{tag}"),
            Some(Target::Digest(digest)) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// Whether a registry of this host, with its port, would be read as a place of another kind.
fn is_transport(host: &str) -> bool {
    let name = host.split_once(':').map_or("", |(name, _)| name);
    matches!(name, "oci" | "oci-archive" | "docker-archive" | "containerd" | "docker-daemon")
}

/// Places of other tools that a user may try.
const UNKNOWN_TRANSPORTS: [&str; 5] = ["dir", "containers-storage", "tarball", "sif", "ostree"];

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (transport, name) = match text.split_once(':') {
            Some(("docker", rest)) => ("docker", rest.strip_prefix("//").unwrap_or(text)),
            Some((transport, rest)) => (transport, rest),
            None => ("", text),
        };
        let is_file = matches!(transport, "oci" | "oci-archive" | "docker-archive");
        // What stands behind an `@` has no slash unless a login stands in front of it, which must not be printed.
        if !is_file && text.split_once('@').is_some_and(|(_, rest)| rest.contains('/')) {
            return Err(Error::usage("an image reference has no user name and no password in it")
                .hint("log in with docker login or podman login, then leave out what stands before the @"));
        }
        let reference = match transport {
            "docker" => registry(name),
            "oci" => layout(name),
            "oci-archive" => archive(ArchiveFormat::Oci, name),
            "docker-archive" => archive(ArchiveFormat::Docker, name),
            "containerd" => registry_name(name).map(|(repository, target)| Reference::Containerd { repository, target }),
            "docker-daemon" => registry_name(name).map(|(repository, target)| Reference::Daemon { repository, target }),
            _ if text.contains("://") => Err(Error::usage("this is not an image reference").hint(
                "write NAME:TAG or docker://NAME:TAG for a registry, oci:DIR:TAG for an OCI layout; no https://",
            )),
            _ if UNKNOWN_TRANSPORTS.contains(&transport) && name.starts_with(['/', '.', '[']) => {
                Err(Error::usage(format!("the transport {transport}: is not supported here")).hint(
                    "use NAME:TAG, oci:DIR:TAG, oci-archive:FILE, docker-archive:FILE, containerd:NAME:TAG or docker-daemon:NAME:TAG",
                ))
            }
            _ => registry(text),
        };
        reference.map_err(|e| e.context(format!("'{text}'")))
    }
}

fn registry(text: &str) -> Result<Reference> {
    registry_name(text).map(|(repository, target)| Reference::Registry { repository, target })
}

fn layout(text: &str) -> Result<Reference> {
    let (path, target) = file_and_target(text)?;
    if path.is_empty() {
        return Err(Error::usage("no directory after oci:").hint("write oci:DIR:TAG"));
    }
    if let Some(Target::Tag(tag)) = &target
        && !is_ref_name(tag)
    {
        return Err(Error::usage(format!("'{tag}' is not a tag")).hint("write oci:DIR:TAG, such as oci:kong:3.9"));
    }
    Ok(Reference::Layout { path: path.into(), target })
}

fn archive(format: ArchiveFormat, text: &str) -> Result<Reference> {
    let transport = format.transport();
    let (path, target) = file_and_target(text)?;
    if path.is_empty() {
        return Err(Error::usage(format!("no file after {transport}:"))
            .hint(format!("write {transport}:FILE:NAME:TAG, or - as FILE for a pipe")));
    }
    if let Some(Target::Tag(name)) = &target {
        // With a slash or a colon it is a whole name, and then it must be one.
        let whole = format == ArchiveFormat::Docker || name.contains(['/', ':']);
        match if whole { registry_name(name).map(|(_, target)| target) } else { Ok(None) } {
            Ok(Some(Target::Digest(_))) | Err(_) => {
                return Err(Error::usage(format!("'{name}' is not the name of an image"))
                    .hint(format!("write {transport}:FILE:NAME:TAG, such as {transport}:kong.tar:kong:3.9")));
            }
            Ok(_) if !is_ref_name(name) => {
                return Err(Error::usage(format!("'{name}' is not a tag"))
                    .hint(format!("write {transport}:FILE:TAG, such as {transport}:kong.tar:3.9")));
            }
            Ok(_) => {}
        }
    }
    Ok(Reference::Archive { format, path: path.into(), target })
}

/// `PATH[:TAG]` or `PATH@DIGEST`; a tag in front of a digest is only a name.
fn file_and_target(text: &str) -> Result<(&str, Option<Target>)> {
    Ok(match (text.split_once('@'), text.split_once(':')) {
        (Some((path, digest)), _) if digest.contains(':') => {
            let path = path.split_once(':').map_or(path, |(path, _)| path);
            let digest = digest.parse().map_err(|e: Error| Error::usage(e.to_string()))?;
            (path, Some(Target::Digest(digest)))
        }
        (_, Some((path, tag))) => (path, Some(Target::Tag(tag.to_owned()))),
        (_, None) => (text, None),
    })
}

/// image-spec annotations.md: components of [A-Za-z0-9], joined by -._:@/+
fn is_ref_name(tag: &str) -> bool {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"-._:@/+".contains(&b);
    tag.len() <= 512 && tag.bytes().all(valid) && tag.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
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
            ("Localhost/kong", "localhost/kong"),
            ("Kong:443/kong", "kong:443/kong"),
            ("[::1]:5000/a/b:c", "[::1]:5000/a/b:c"),
            ("[::1]/a:c", "[::1]/a:c"),
            ("10.0.0.1:5000/a__b/c-d.e_f---g:_x", "10.0.0.1:5000/a__b/c-d.e_f---g:_x"),
            ("oci:5000/x", "oci:5000/x"),
            ("oci:testdata/kong:3.9", "oci:testdata/kong:3.9"),
            ("oci:/a/b", "oci:/a/b"),
            ("oci:d:docker.io/library/kong:3.9", "oci:d:docker.io/library/kong:3.9"),
            ("docker:27", "docker.io/library/docker:27"),
            ("docker:5000/x", "docker:5000/x"),
            ("docker://oci:5000/x:1", "docker://oci:5000/x:1"),
            ("OCI-archive:5000/x", "docker://oci-archive:5000/x"),
            ("docker://oci.example:5000/x", "oci.example:5000/x"),
            ("oci-archive:-", "oci-archive:-"),
            ("oci-archive:f.tar:3.9", "oci-archive:f.tar:3.9"),
            ("oci-archive:a/f.tar:kong:3.9", "oci-archive:a/f.tar:kong:3.9"),
            ("docker-archive:f.tar:kong", "docker-archive:f.tar:kong"),
            ("containerd:kong:3.9", "containerd:docker.io/library/kong:3.9"),
            ("docker-daemon:localhost:5000/kong", "docker-daemon:localhost:5000/kong"),
        ] {
            let reference = typed.parse::<Reference>().unwrap();
            assert_eq!(reference.to_string(), normal, "{typed}");
            assert_eq!(normal.parse(), Ok(reference), "{typed}");
        }
        let both = format!("kong:3.9@sha256:{HEX}");
        assert_eq!(both.parse::<Reference>().unwrap().to_string(), format!("docker.io/library/kong@sha256:{HEX}"));
        let layout = format!("oci:d@sha256:{HEX}");
        assert_eq!(layout.parse::<Reference>().unwrap().to_string(), layout);
    }

    #[test]
    fn a_host_is_one_in_lower_case_too() {
        // It was kept as the host `kong`, which was printed as a repository of docker.io.
        let error = "Kong/kong-gateway:3".parse::<Reference>().unwrap_err();
        assert_eq!(error.hint_text(), Some("repository names are in lower case: kong/kong-gateway"));
    }

    #[test]
    fn no_name_grows_too_long_when_it_is_printed() {
        for (length, good) in [(247, true), (248, false)] {
            let parsed = "a".repeat(length).parse::<Reference>();
            assert_eq!(parsed.is_ok(), good);
            assert!(parsed.is_ok_and(|reference| reference.to_string().parse() == Ok(reference)) == good);
        }
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
        let deep = format!("h.io/{}a", "a/".repeat(200));
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
            "evil.com\\good.com/kong",
            "h.io\n/kong",
            "h\n.io/kong",
            "h.io\r\nx.io/kong",
            "h.io\0/kong",
            "h.io./kong",
            "hé.io/kong",
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
            "containerd:",
            "docker-daemon:kong:a b",
            "oci-archive:",
            "oci-archive::3",
            "oci-archive:f.tar:",
            "oci-archive:f.tar:KONG:3",
            "docker-archive:f.tar:a b",
            "docker-archive:f.tar:Kong",
            "dir:/x",
            "containers-storage:[vfs@/x]kong",
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
