//! What an `index.json` names: pure functions over its bytes, the same for a directory and for an archive.
//!
//! Sources: image-spec `image-layout.md`; containerd `core/images/archive` for `io.containerd.image.name`. A multi-platform
//! image is one entry that is an index (nested), or one entry for each platform (flat, skopeo#2463).

use std::collections::{HashMap, HashSet};
use std::io::Read;

use bytes::Bytes;
use indexmap::IndexMap;
use serde_json::value::RawValue;

use crate::blob;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::json::{self, Object};
use crate::oci::manifest::{Document, REF_NAME};
use crate::oci::media_type::{self, Kind};
use crate::oci::reference::{Reference, Repository, Target};

/// The file that says that a directory or an archive is a layout.
pub(in crate::transport) const MARKER: &str = "oci-layout";
/// The file that names the images.
pub(in crate::transport) const INDEX: &str = "index.json";
/// The content of [`MARKER`].
pub(in crate::transport) const MARKER_CONTENT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// The annotation with an image's whole name, by which containerd and podman import it.
pub(in crate::transport) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The annotation with the tag of what refers to an image. As a name it would make an image of it, which importers then
/// try to unpack.
pub(in crate::transport) const REFERRER_TAG: &str = "dev.capatch.referrer-tag";

/// What was found under a name.
#[derive(Debug)]
pub(in crate::transport) enum Found {
    /// No such name.
    Nothing,
    /// A manifest or an index that is a blob.
    Blob(Descriptor),
    /// The entries of `index.json` are the platforms of the image: the index of them, which is no blob.
    Flat(Descriptor, Bytes),
    /// Several images.
    Many(Vec<Descriptor>),
}

/// Refuses an `oci-layout` file of a version that is not known.
pub(in crate::transport) fn check_marker(bytes: &[u8]) -> Result<()> {
    match Object::parse(bytes)?.get::<String>("imageLayoutVersion")?.as_deref() {
        Some(version) if version.starts_with("1.") => Ok(()),
        other => Err(Error::content(format!(
            "this is an OCI layout of version {}, only 1.x is known",
            other.unwrap_or("unknown")
        ))),
    }
}

/// The entries of an `index.json`, in order.
pub(in crate::transport) fn entries(bytes: &[u8]) -> Result<Vec<Descriptor>> {
    match Document::parse(bytes, None)? {
        Document::Index(index) => Ok(index.manifests),
        Document::Manifest(_) => Err(Error::content("it is a manifest and no index")),
    }
}

/// What `target` names in the `index.json` of these bytes, or the only image if it is `None`.
pub(in crate::transport) fn find(bytes: &[u8], target: Option<&Target>) -> Result<Found> {
    let all = entries(bytes)?;
    let found: Vec<Descriptor> = match target {
        None => all.iter().filter(|entry| !is_referrer(entry)).cloned().collect(),
        Some(Target::Digest(digest)) => {
            return Ok(match all.iter().find(|entry| entry.digest == *digest) {
                Some(entry) => Found::Blob(entry.clone()),
                None => made(&all, digest)?,
            });
        }
        Some(Target::Tag(name)) => named(&all, name),
    };
    Ok(match found.as_slice() {
        [] => Found::Nothing,
        [first, rest @ ..] if rest.iter().all(|entry| entry.digest == first.digest) => Found::Blob(first.clone()),
        _ => match flat(&found.iter().collect::<Vec<_>>())? {
            Some((descriptor, bytes)) => Found::Flat(descriptor, bytes),
            None => Found::Many(found),
        },
    })
}

/// The entries that `name` means: a tag as it stands there, or a whole name in any spelling.
fn named(all: &[Descriptor], name: &str) -> Vec<Descriptor> {
    let by = |matches: &dyn Fn(&Descriptor) -> bool| all.iter().filter(|e| matches(e)).cloned().collect::<Vec<_>>();
    let exact = by(&|entry| [REF_NAME, REFERRER_TAG].iter().any(|key| annotation(entry, key).as_deref() == Some(name)));
    if !exact.is_empty() {
        return exact;
    }
    let wanted = whole_name(name);
    by(&|entry| {
        let same =
            |text: String, is_name: bool| text == name || (is_name && wanted.is_some() && whole_name(&text) == wanted);
        annotation(entry, CONTAINERD_NAME).is_some_and(|text| same(text, true))
            // podman and buildah write whole names there.
            || annotation(entry, REF_NAME).is_some_and(|text| { let is_name = text.contains(['/', ':']); same(text, is_name) })
    })
}

/// The registry, repository and tag that `text` means: `kong:3.9` is `docker.io/library/kong:3.9`, no tag is `latest`.
pub(in crate::transport) fn whole_name(text: &str) -> Option<(Repository, String)> {
    match format!("docker://{text}").parse() {
        Ok(Reference::Registry { repository, target: None }) => Some((repository, "latest".to_owned())),
        Ok(Reference::Registry { repository, target: Some(Target::Tag(tag)) }) => Some((repository, tag)),
        _ => None,
    }
}

/// The names in an `index.json`, each once: the whole one where there is one, else the tag.
pub(in crate::transport) fn names(all: &[Descriptor]) -> Vec<String> {
    let mut seen = HashSet::new();
    let name_of = |entry: &Descriptor| {
        let (tag, whole) = both_names(entry);
        tag.or(whole)
    };
    all.iter().filter_map(name_of).filter(|name| seen.insert(name.clone())).collect()
}

pub(in crate::transport) fn annotation(entry: &Descriptor, name: &str) -> Option<String> {
    entry.annotation(name).filter(|value| !value.is_empty())
}

/// The tag and the whole name that `index.json` gives an entry.
fn both_names(entry: &Descriptor) -> (Option<String>, Option<String>) {
    (annotation(entry, REF_NAME), annotation(entry, CONTAINERD_NAME))
}

pub(in crate::transport) fn is_referrer(entry: &Descriptor) -> bool {
    annotation(entry, REFERRER_TAG).is_some()
}

/// How the user can choose one of `many`: `place:NAME`, or `place@DIGEST` where a name says too little.
pub(in crate::transport) fn choices(place: &str, many: &[Descriptor]) -> String {
    let mut entries_of: HashMap<String, usize> = HashMap::new();
    for (tag, whole) in many.iter().map(both_names) {
        let again = tag == whole;
        tag.into_iter().chain(whole.filter(|_| !again)).for_each(|name| *entries_of.entry(name).or_default() += 1);
    }
    let choice = |entry: &Descriptor| {
        let (tag, whole) = both_names(entry);
        match tag.into_iter().chain(whole).find(|name| entries_of.get(name) == Some(&1)) {
            Some(name) => format!("{place}:{name}"),
            None => format!("{place}@{}", entry.digest),
        }
    };
    many.iter().take(20).map(choice).collect::<Vec<_>>().join(", ")
}

/// The index that `found` is if its entries are the platforms of one image. It depends on nothing but them, so that an
/// image keeps its digest when another one is tagged, or when a tool writes `index.json` with other spaces.
fn flat(found: &[&Descriptor]) -> Result<Option<(Descriptor, Bytes)>> {
    let mut names = found.iter().map(|entry| both_names(entry));
    let first = names.next();
    if found.len() < 2 || names.any(|name| Some(&name) != first.as_ref()) {
        return Ok(None);
    }
    let mut platforms = HashSet::new();
    for entry in found {
        let platform = entry.platform()?;
        let is_attestation = entry.is_attestation() || platform.as_ref().is_some_and(|p| p.is_unknown());
        match platform {
            _ if !matches!(entry.kind(), Kind::Manifest(_)) => return Ok(None),
            _ if is_attestation => {}
            Some(platform) if platforms.insert(platform.clone()) => {}
            _ => return Ok(None),
        }
    }
    let mut index = Object::default();
    index.set("schemaVersion", &2)?;
    index.set("mediaType", media_type::OCI_INDEX)?;
    index.set("manifests", &found.iter().map(|entry| entry.object()).collect::<Vec<_>>())?;
    let index = json::compact(&index.to_bytes());
    let descriptor = Descriptor::new(media_type::OCI_INDEX, Digest::of(&index), index.len() as u64)?;
    Ok(Some((descriptor, index.into())))
}

/// The flat index of this digest.
fn made(all: &[Descriptor], digest: &Digest) -> Result<Found> {
    let mut groups: IndexMap<_, Vec<&Descriptor>> = IndexMap::new();
    for entry in all {
        groups.entry(both_names(entry)).or_default().push(entry);
    }
    for group in groups.values() {
        if let Some((descriptor, bytes)) = flat(group)?
            && descriptor.digest == *digest
        {
            return Ok(Found::Flat(descriptor, bytes));
        }
    }
    Ok(Found::Nothing)
}

/// The manifest or index that `reader` holds, which no name leads to.
pub(in crate::transport) fn untagged(
    reader: impl Read,
    digest: &Digest,
    limits: &Limits,
) -> Result<(Descriptor, Bytes)> {
    let mut bytes = Vec::new();
    let limit = limits.document();
    reader.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::io(digest, &e))?;
    let size = bytes.len() as u64;
    if size > limit {
        return Err(limits.too_large(format!("{digest} has {size} bytes or more"), limit));
    }
    let document = Document::parse(&bytes, None).map_err(|e| e.context(digest))?;
    let descriptor = Descriptor::new(document.media_type(), digest.clone(), size)?;
    blob::verify(&bytes, &descriptor)?;
    Ok((descriptor, bytes.into()))
}

/// An `index.json` in which `replaced` entries made room for `entry`: every other entry and member as it was.
pub(in crate::transport) fn with_entry(
    index: Option<&[u8]>,
    entry: &Descriptor,
    replaced: impl Fn(&Descriptor) -> bool,
) -> Result<Vec<u8>> {
    let Some(bytes) = index else {
        let mut index = Object::default();
        index.set("schemaVersion", &2)?;
        index.set("mediaType", media_type::OCI_INDEX)?;
        index.set("manifests", &[entry.object()])?;
        return Ok(index.to_bytes());
    };
    entries(bytes)?;
    let mut index = Object::parse(bytes)?;
    let old: Vec<Box<RawValue>> =
        index.get("manifests")?.ok_or_else(|| Error::content("the index has no 'manifests'"))?;
    let new = json::raw(entry.object())?;
    let mut placed = false;
    let mut manifests = Vec::with_capacity(old.len() + 1);
    for raw in old {
        let descriptor = Descriptor::from_object(Object::parse(raw.get().as_bytes())?)?;
        if !replaced(&descriptor) {
            manifests.push(raw);
        } else if !placed {
            manifests.push(new.clone());
            placed = true;
        }
    }
    if !placed {
        manifests.push(new);
    }
    index.set("manifests", &manifests)?;
    Ok(index.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(content: &str, members: &str) -> String {
        let digest = Digest::of(content.as_bytes());
        format!(
            r#"{{"mediaType":"{}","digest":"{digest}","size":{}{members}}}"#,
            media_type::OCI_MANIFEST,
            content.len()
        )
    }

    fn index(entries: &[String]) -> Vec<u8> {
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")).into_bytes()
    }

    fn annotated(pairs: &[(&str, &str)], platform: &str) -> String {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!(r#""{name}":"{value}""#)).collect();
        let platform = match platform {
            "" => String::new(),
            _ => format!(r#","platform":{{"os":"linux","architecture":"{platform}"}}"#),
        };
        format!(r#","annotations":{{{}}}{platform}"#, pairs.join(","))
    }

    #[test]
    fn names_are_matched_as_they_stand_and_by_their_normal_form() {
        let bytes = index(&[
            entry("a", &annotated(&[(REF_NAME, "3.9"), (CONTAINERD_NAME, "docker.io/library/kong:3.9")], "")),
            entry("b", &annotated(&[(REF_NAME, "latest"), (CONTAINERD_NAME, "example.com/kong:latest")], "")),
            entry("c", &annotated(&[(REF_NAME, "localhost/podman:1")], "")),
            entry("d", &annotated(&[(REF_NAME, "odd+name")], "")),
            entry("e", ""),
        ]);
        for (name, content) in [
            ("3.9", Some("a")),
            ("kong:3.9", Some("a")),
            ("library/kong:3.9", Some("a")),
            ("docker.io/kong:3.9", Some("a")),
            ("index.docker.io/library/kong:3.9", Some("a")),
            ("docker.io/library/kong:3.9", Some("a")),
            ("example.com/kong", Some("b")),
            ("latest", Some("b")),
            ("localhost/podman:1", Some("c")),
            ("odd+name", Some("d")),
            ("kong", None),
            ("3", None),
            ("library/kong", None),
            ("", None),
        ] {
            let found = find(&bytes, Some(&Target::Tag(name.to_owned()))).unwrap();
            let digest = match &found {
                Found::Blob(descriptor) => Some(descriptor.digest.clone()),
                _ => None,
            };
            assert_eq!(digest, content.map(|c| Digest::of(c.as_bytes())), "{name}: {found:?}");
        }
        assert!(matches!(find(&bytes, None).unwrap(), Found::Many(all) if all.len() == 5));
        let Found::Many(many) = find(&bytes, None).unwrap() else { panic!() };
        assert_eq!(
            choices("oci-archive:f", &many),
            format!(
                "oci-archive:f:3.9, oci-archive:f:latest, oci-archive:f:localhost/podman:1, oci-archive:f:odd+name, oci-archive:f@{}",
                Digest::of(b"e")
            )
        );
    }

    #[test]
    fn a_flat_index_is_one_image_and_two_images_are_two() {
        let name: &[(&str, &str)] = &[(REF_NAME, "3.9")];
        let other: &[(&str, &str)] = &[(REF_NAME, "3.8")];
        let attestation = entry(
            "s",
            r#","annotations":{"org.opencontainers.image.ref.name":"3.9","vnd.docker.reference.type":"attestation-manifest"},"platform":{"os":"unknown","architecture":"unknown"}"#,
        );
        let amd64 = entry("a", &annotated(name, "amd64"));
        let arm64 = entry("b", &annotated(name, "arm64"));
        let lone = entry("c", &annotated(other, ""));
        let tag = Target::Tag("3.9".to_owned());
        for (entries, target, expected) in [
            (vec![amd64.clone(), arm64.clone()], None, "flat"),
            (vec![amd64.clone(), arm64.clone()], Some(&tag), "flat"),
            (vec![amd64.clone(), arm64.clone(), attestation], Some(&tag), "flat"),
            (vec![entry("a", &annotated(&[], "amd64")), entry("b", &annotated(&[], "arm64"))], None, "flat"),
            (vec![amd64.clone(), arm64.clone(), lone.clone()], Some(&tag), "flat"),
            (vec![amd64.clone(), arm64.clone(), lone.clone()], None, "many"),
            (vec![amd64.clone(), entry("b", &annotated(name, "amd64"))], Some(&tag), "many"),
            (vec![amd64.clone(), entry("b", &annotated(name, ""))], Some(&tag), "many"),
            (vec![amd64.clone(), amd64.clone()], Some(&tag), "blob"),
            (vec![amd64.clone(), lone.clone()], Some(&tag), "blob"),
            (vec![lone], Some(&tag), "nothing"),
            (vec![], None, "nothing"),
        ] {
            let bytes = index(&entries);
            let found = find(&bytes, target).unwrap();
            let kind = match &found {
                Found::Nothing => "nothing",
                Found::Blob(_) => "blob",
                Found::Flat(..) => "flat",
                Found::Many(_) => "many",
            };
            assert_eq!(kind, expected, "{entries:?} {target:?}");
            if let Found::Flat(descriptor, made) = found {
                assert_eq!(descriptor.digest, Digest::of(&made));
                let again = find(&bytes, Some(&Target::Digest(descriptor.digest.clone()))).unwrap();
                assert!(matches!(again, Found::Flat(_, bytes) if bytes == made), "by its digest too");
            }
        }
    }

    #[test]
    fn a_flat_index_depends_on_its_entries_alone() {
        let name: &[(&str, &str)] = &[(REF_NAME, "3.9")];
        let ours = [entry("a", &annotated(name, "amd64")), entry("b", &annotated(name, "arm64"))];
        let other = entry("c", &annotated(&[(REF_NAME, "a \\\" b")], ""));
        let expected = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#,
            media_type::OCI_INDEX,
            ours.join(",")
        );
        let spaced = |text: &str| text.replace(':', " :\n ").replace("sha256 :\n ", "sha256:").replace("},", "}\t, ");
        for (bytes, what) in [
            (index(&ours), "alone"),
            (spaced(&String::from_utf8(index(&ours)).unwrap()).into_bytes(), "indented"),
            (index(&[ours[0].clone(), other.clone(), ours[1].clone()]), "with another image"),
            (
                format!(r#"{{"manifests":[{}],"annotations":{{"x":"y"}},"schemaVersion":2}}"#, ours.join(",")).into(),
                "more",
            ),
        ] {
            let Found::Flat(_, made) = find(&bytes, Some(&Target::Tag("3.9".into()))).unwrap() else {
                panic!("{what}")
            };
            assert_eq!(String::from_utf8(made.to_vec()).unwrap(), expected, "{what}");
        }
    }

    #[test]
    fn many_images_take_time_by_their_number_only() {
        let named = |i: usize| entry(&i.to_string(), &annotated(&[(REF_NAME, &format!("{i}"))], ""));
        let bytes = index(&(0..20_000).map(named).collect::<Vec<_>>());
        let start = std::time::Instant::now();
        assert!(matches!(find(&bytes, Some(&Target::Digest(Digest::of(b"none")))).unwrap(), Found::Nothing));
        let Found::Many(many) = find(&bytes, None).unwrap() else { panic!() };
        assert!(choices("oci:x", &many).starts_with("oci:x:0, oci:x:1, "));
        assert_eq!(names(&many).len(), 20_000);
        // Each with each would take minutes.
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
