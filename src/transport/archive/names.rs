//! The names of an image in an archive: a tag for `oci-archive:`, a whole name for `docker load` and containerd.

use crate::error::{Error, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::is_referrer_tag;
use crate::oci::manifest::REF_NAME;
use crate::oci::reference::{Repository, is_tag};
use crate::transport::archive::Format;
use crate::transport::layout::index::{CONTAINERD_NAME, REFERRER_TAG, annotation, is_referrer, whole_name};

/// What an image is called in an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Name {
    /// `org.opencontainers.image.ref.name`.
    tag: Option<String>,
    /// `io.containerd.image.name`, with its registry.
    pub(super) whole: Option<String>,
    /// The tag of a signature or of a list of referrers, which is no image.
    referrer: Option<String>,
}

impl Name {
    /// `text` as the user typed it behind the file: a tag, which `repository` completes, or a whole name.
    pub(super) fn new(text: &str, format: Format, repository: Option<&Repository>) -> Result<Self> {
        if text.is_empty() {
            return Ok(Name::default());
        }
        if is_referrer_tag(text) {
            return Ok(Name { referrer: Some(text.to_owned()), ..Name::default() });
        }
        if format == Format::Oci && is_tag(text) {
            let whole = repository.map(|repository| format!("{repository}:{text}"));
            return Ok(Name { tag: Some(text.to_owned()), whole, referrer: None });
        }
        match whole_name(text) {
            Some((repository, tag)) => {
                let whole = Some(format!("{repository}:{tag}"));
                Ok(Name { tag: Some(tag), whole, referrer: None })
            }
            None if format == Format::Oci => Ok(Name { tag: Some(text.to_owned()), ..Name::default() }),
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
        if let Some(referrer) = &self.referrer {
            entry.set_annotation(REFERRER_TAG, referrer)?;
        }
        Ok(())
    }

    /// Whether an image of this name takes the place of `old`. Tags decide only where one of them has no whole name:
    /// `kong:3.9` and `nginx:3.9` are two images.
    pub(super) fn replaces(&self, old: &Descriptor) -> bool {
        if self.referrer.is_some() || is_referrer(old) {
            return self.referrer == annotation(old, REFERRER_TAG);
        }
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

/// The name for `manifest.json` that an entry of `index.json` has. The registry stays in it: Docker takes it off, and
/// podman would put `localhost/` in its place.
pub(super) fn repo_tag(entry: &Descriptor) -> Option<String> {
    let name = annotation(entry, CONTAINERD_NAME).or(annotation(entry, REF_NAME).filter(|name| is_whole(name)))?;
    whole_name(&name).map(|(repository, tag)| format!("{repository}:{tag}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest::Digest;

    const SIGNATURE: &str = "sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.sig";

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
        for (text, format, repository, tag, whole) in [
            ("3.9", Oci, Some(&kong), Some("3.9"), Some("docker.io/library/kong:3.9")),
            ("3.9", Oci, Some(&own), Some("3.9"), Some("r.example.com:5000/a/kong:3.9")),
            ("3.9", Oci, None, Some("3.9"), None),
            ("kong:3.9", Oci, Some(&own), Some("3.9"), Some("docker.io/library/kong:3.9")),
            ("a/kong", Oci, None, Some("latest"), Some("docker.io/a/kong:latest")),
            ("A+odd", Oci, Some(&kong), Some("A+odd"), None),
            ("kong", Docker, None, Some("latest"), Some("docker.io/library/kong:latest")),
            ("r.io/kong:1", Docker, None, Some("1"), Some("r.io/kong:1")),
            ("", Oci, Some(&kong), None, None),
        ] {
            let name = Name::new(text, format, repository).unwrap();
            assert_eq!((name.tag.as_deref(), name.whole.as_deref()), (tag, whole), "{text}");
            assert_eq!(repo_tag(&entry(&name)).as_deref(), whole, "{text}");
        }
        assert!(Name::new("A+odd", Docker, None).is_err());
        let long = format!("sha512:{}", "0f".repeat(64)).parse::<Digest>().unwrap().as_tag();
        for (format, tag) in [(Oci, SIGNATURE), (Docker, SIGNATURE), (Oci, &long), (Docker, &long)] {
            let referrer = Name::new(tag, format, Some(&kong)).unwrap();
            assert_eq!(referrer, Name { referrer: Some(tag.into()), ..Name::default() }, "is no image");
        }
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
            ("", SIGNATURE, false),
            (SIGNATURE, SIGNATURE, true),
            (SIGNATURE, &SIGNATURE[..71], false),
        ] {
            assert_eq!(name(new).replaces(&entry(&name(old))), replaced, "{new} {old}");
        }
        let mut podman = Descriptor::new("x", Digest::of(b""), 0).unwrap();
        podman.set_annotation(REF_NAME, "docker.io/library/kong:3.9").unwrap();
        assert!(name("kong:3.9").replaces(&podman) && !name("nginx:3.9").replaces(&podman));
    }
}
