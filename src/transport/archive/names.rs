//! The names of an image in an archive: a tag for `oci-archive:`, a whole name for `docker load` and containerd.

use crate::error::{Error, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::manifest::REF_NAME;
use crate::oci::reference::{Repository, is_tag};
use crate::transport::archive::Format;
use crate::transport::layout::index::{CONTAINERD_NAME, annotation, whole_name};

/// What an image is called in an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Name {
    /// `org.opencontainers.image.ref.name`.
    tag: Option<String>,
    /// `io.containerd.image.name`, with its registry.
    whole: Option<String>,
}

impl Name {
    /// `text` as the user typed it behind the file: a tag, which `repository` completes, or a whole name.
    pub(super) fn new(text: &str, format: Format, repository: Option<&Repository>) -> Result<Self> {
        if text.is_empty() {
            return Ok(Name::default());
        }
        if format == Format::Oci && is_tag(text) {
            let whole = repository.map(|repository| format!("{repository}:{text}"));
            return Ok(Name { tag: Some(text.to_owned()), whole });
        }
        match whole_name(text) {
            Some((repository, tag)) => {
                let whole = Some(format!("{repository}:{tag}"));
                Ok(Name { tag: Some(tag), whole })
            }
            None if format == Format::Oci => Ok(Name { tag: Some(text.to_owned()), whole: None }),
            None => Err(Error::usage(format!("'{text}' is not a name that docker load could give an image"))
                .hint("write docker-archive:FILE:NAME:TAG, such as docker-archive:kong.tar:kong:3.9")),
        }
    }

    /// Writes the names into an entry of `index.json`.
    pub(super) fn set(&self, entry: &mut Descriptor) -> Result<()> {
        if let Some(whole) = &self.whole {
            entry.set_annotation(CONTAINERD_NAME, whole)?;
        }
        if let Some(tag) = &self.tag {
            entry.set_annotation(REF_NAME, tag)?;
        }
        Ok(())
    }

    /// Whether an image of this name takes the place of `old`. Tags decide only where one of them has no whole name:
    /// `kong:3.9` and `nginx:3.9` are two images.
    pub(super) fn replaces(&self, old: &Descriptor) -> bool {
        let old_tag = annotation(old, REF_NAME);
        match (&self.whole, annotation(old, CONTAINERD_NAME).or(old_tag.clone().filter(|tag| is_whole(tag)))) {
            (Some(new), Some(old)) => *new == old || whole_name(new) == whole_name(&old),
            _ => self.tag == old_tag,
        }
    }
}

fn is_whole(name: &str) -> bool {
    name.contains(['/', ':'])
}

/// The name for `manifest.json` that an entry of `index.json` has: without what Docker takes for granted.
pub(super) fn repo_tag(entry: &Descriptor) -> Option<String> {
    let name = annotation(entry, CONTAINERD_NAME).or(annotation(entry, REF_NAME).filter(|name| is_whole(name)))?;
    let (repository, tag) = whole_name(&name)?;
    let path = match repository.registry.as_str() {
        "docker.io" => repository.path.strip_prefix("library/").unwrap_or(&repository.path).to_owned(),
        _ => repository.to_string(),
    };
    Some(format!("{path}:{tag}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest::Digest;

    fn entry(name: &Name) -> Descriptor {
        let mut entry = Descriptor::new("x", Digest::of(b""), 0).unwrap();
        name.set(&mut entry).unwrap();
        entry
    }

    #[test]
    fn typed_names_become_annotations_and_repo_tags() {
        let kong = Repository { registry: "docker.io".into(), path: "library/kong".into() };
        let own = Repository { registry: "r.example.com:5000".into(), path: "a/kong".into() };
        use Format::{Docker, Oci};
        for (text, format, repository, tag, whole, docker) in [
            ("3.9", Oci, Some(&kong), Some("3.9"), Some("docker.io/library/kong:3.9"), Some("kong:3.9")),
            (
                "3.9",
                Oci,
                Some(&own),
                Some("3.9"),
                Some("r.example.com:5000/a/kong:3.9"),
                Some("r.example.com:5000/a/kong:3.9"),
            ),
            ("3.9", Oci, None, Some("3.9"), None, None),
            ("kong:3.9", Oci, Some(&own), Some("3.9"), Some("docker.io/library/kong:3.9"), Some("kong:3.9")),
            ("a/kong", Oci, None, Some("latest"), Some("docker.io/a/kong:latest"), Some("a/kong:latest")),
            ("A+odd", Oci, Some(&kong), Some("A+odd"), None, None),
            ("kong", Docker, None, Some("latest"), Some("docker.io/library/kong:latest"), Some("kong:latest")),
            ("r.io/kong:1", Docker, None, Some("1"), Some("r.io/kong:1"), Some("r.io/kong:1")),
            ("", Oci, Some(&kong), None, None, None),
        ] {
            let name = Name::new(text, format, repository).unwrap();
            assert_eq!((name.tag.as_deref(), name.whole.as_deref()), (tag, whole), "{text}");
            assert_eq!(repo_tag(&entry(&name)).as_deref(), docker, "{text}");
        }
        assert!(Name::new("A+odd", Docker, None).is_err());
    }

    #[test]
    fn a_name_replaces_its_own_image_only() {
        let name = |text: &str| Name::new(text, Format::Oci, None).unwrap();
        for (new, old, replaced) in [
            ("kong:3.9", "kong:3.9", true),
            ("kong:3.9", "docker.io/library/kong:3.9", true),
            ("kong:3.9", "nginx:3.9", false),
            ("3.9", "kong:3.9", true),
            ("kong:3.9", "3.9", true),
            ("3.9", "3.8", false),
            ("", "3.9", false),
            ("", "", true),
        ] {
            assert_eq!(name(new).replaces(&entry(&name(old))), replaced, "{new} {old}");
        }
        let mut podman = Descriptor::new("x", Digest::of(b""), 0).unwrap();
        podman.set_annotation(REF_NAME, "docker.io/library/kong:3.9").unwrap();
        assert!(name("kong:3.9").replaces(&podman) && !name("nginx:3.9").replaces(&podman));
    }
}
