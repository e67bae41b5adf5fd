//! Manifests and indexes: a typed view of what we act on, over the raw document that is edited.
//!
//! Sources: image-spec `manifest.md` and `image-index.md`; distribution `manifest-v2-2.md` for Docker's two.

use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::json::{self, Object};
use crate::oci::media_type::{self, Family, Kind};

/// Where an image says which image it was made from.
pub const BASE_NAME: &str = oci_spec::image::ANNOTATION_BASE_IMAGE_NAME;
/// Where an image says the digest of the image it was made from.
pub const BASE_DIGEST: &str = oci_spec::image::ANNOTATION_BASE_IMAGE_DIGEST;
/// The annotation that names an image in an OCI layout's `index.json`.
pub const REF_NAME: &str = oci_spec::image::ANNOTATION_REF_NAME;

/// What a manifest reference leads to.
#[derive(Clone, Debug)]
pub enum Document {
    /// An image index or manifest list.
    Index(Index),
    /// An image manifest.
    Manifest(Manifest),
}

/// A manifest: one config and its layers.
#[derive(Clone, Debug)]
pub struct Manifest {
    object: Object,
    /// Docker's or OCI's.
    pub family: Family,
    /// The config's descriptor.
    pub config: Descriptor,
    /// The layers' descriptors, lowest first.
    pub layers: Vec<Descriptor>,
}

/// An index: manifests, or indexes again.
#[derive(Clone, Debug)]
pub struct Index {
    object: Object,
    /// Docker's or OCI's.
    pub family: Family,
    /// The children's descriptors.
    pub manifests: Vec<Descriptor>,
}

impl Document {
    /// Reads a manifest or an index. `claimed` is the media type that the descriptor or the HTTP header gave, if any.
    ///
    /// Refused: ambiguous documents (CVE-2021-41190), a `mediaType` that contradicts `claimed`, schema 1, unknown types.
    pub fn parse(bytes: &[u8], claimed: Option<&str>) -> Result<Self> {
        let object = Object::parse(bytes)?;
        object.refuse_lookalikes(&[
            "schemaVersion",
            "mediaType",
            "config",
            "layers",
            "manifests",
            "annotations",
            "subject",
            "artifactType",
            "fsLayers",
            "history",
        ])?;
        let index_like = object.contains("manifests");
        if index_like && ["config", "layers", "fsLayers", "history"].iter().any(|name| object.contains(name)) {
            return Err(Error::content("ambiguous: the document is both an index and a manifest"));
        }
        let body: Option<String> = object.get("mediaType")?;
        // A header that says nothing about manifests (`text/plain`, `application/json`) does not count (faults.md C13).
        let claimed = claimed.filter(|claimed| media_type::kind(claimed) != Kind::Other);
        let kind = match (&body, claimed) {
            (Some(body), Some(claimed)) if media_type::kind(body) != media_type::kind(claimed) => {
                return Err(Error::content(format!("the document calls itself {body}, but was served as {claimed}")));
            }
            (Some(body), _) => media_type::kind(body),
            (None, Some(claimed)) => media_type::kind(claimed),
            (None, None) if index_like => Kind::Index(Family::Oci),
            (None, None) if object.contains("config") => Kind::Manifest(Family::Oci),
            (None, None) if object.contains("fsLayers") => Kind::Schema1,
            (None, None) => Kind::Other,
        };
        let version: Option<u64> = object.get("schemaVersion")?;
        match kind {
            Kind::Schema1 => Err(Error::content("this is a Docker schema 1 manifest, which is no longer supported")
                .hint("push the image again with a current tool, then use the new tag")),
            Kind::Index(_) | Kind::Manifest(_) if version != Some(2) => {
                Err(Error::content("the document's schemaVersion is not 2"))
            }
            Kind::Index(family) => {
                let manifests =
                    descriptors(&object, "manifests")?.ok_or_else(|| Error::content("the index has no 'manifests'"))?;
                Ok(Document::Index(Index { object, family, manifests }))
            }
            Kind::Manifest(family) => {
                let config = object.get("config")?.ok_or_else(|| Error::content("the manifest has no 'config'"))?;
                let config = Descriptor::from_object(config).map_err(|e| e.context("config"))?;
                let layers =
                    descriptors(&object, "layers")?.ok_or_else(|| Error::content("the manifest has no 'layers'"))?;
                Ok(Document::Manifest(Manifest { object, family, config, layers }))
            }
            _ => Err(Error::content(match body.as_deref().or(claimed) {
                Some(media_type) => format!("{media_type} is neither an image manifest nor an index"),
                None => "the document is neither an image manifest nor an index".to_owned(),
            })),
        }
    }

    /// The annotation `name` of the document itself.
    pub fn annotation(&self, name: &str) -> Result<Option<String>> {
        annotation(self.object(), name)
    }

    fn object(&self) -> &Object {
        match self {
            Document::Index(index) => &index.object,
            Document::Manifest(manifest) => &manifest.object,
        }
    }

    /// The media type to store and serve the document under.
    pub fn media_type(&self) -> &'static str {
        match self {
            Document::Index(index) => index.media_type(),
            Document::Manifest(manifest) => manifest.media_type(),
        }
    }

    /// What the document points to: config and layers, or manifests.
    pub fn children(&self) -> Vec<&Descriptor> {
        match self {
            Document::Index(index) => index.manifests.iter().collect(),
            Document::Manifest(manifest) => std::iter::once(&manifest.config).chain(&manifest.layers).collect(),
        }
    }
}

impl Manifest {
    /// The media type to store and serve the manifest under.
    pub fn media_type(&self) -> &'static str {
        match self.family {
            Family::Docker => media_type::DOCKER_MANIFEST,
            Family::Oci => media_type::OCI_MANIFEST,
        }
    }

    /// Whether this is a container image at all, and not an artifact (Helm chart, signature, attestation).
    pub fn is_image(&self) -> bool {
        matches!(self.config.kind(), Kind::Config(_))
    }

    /// The blobs that it names: its layers, lowest first, and its config.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers.iter().chain([&self.config])
    }

    /// Whether the manifest refers to another one (`subject`).
    pub fn has_subject(&self) -> bool {
        self.object.contains("subject")
    }

    /// What it refers to, if that is a whole descriptor.
    pub fn subject(&self) -> Option<Descriptor> {
        subject(&self.object)
    }

    /// The bytes of the same manifest with another config, perhaps one more layer on top, and these annotations set.
    ///
    /// `subject` goes: it would tie the new image to what the old one was about (faults.md H16). Docker manifests have
    /// no annotations, so none may be given for them.
    pub fn with_layer(
        &self,
        config: &Descriptor,
        layer: Option<&Descriptor>,
        annotations: &[(String, String)],
    ) -> Result<Vec<u8>> {
        let mut object = self.object.clone();
        object.set("mediaType", self.media_type())?;
        object.set("config", config.object())?;
        let mut layers: Vec<Box<RawValue>> = object.get("layers")?.unwrap_or_default();
        if let Some(layer) = layer {
            layers.push(json::raw(layer.object())?);
        }
        object.set("layers", &layers)?;
        object.remove("subject");
        set_annotations(&mut object, annotations)?;
        Ok(object.to_bytes())
    }
}

impl Index {
    /// Whether the index refers to another manifest, as signatures do.
    pub fn has_subject(&self) -> bool {
        self.object.contains("subject")
    }

    /// What it refers to, if that is a whole descriptor.
    pub fn subject(&self) -> Option<Descriptor> {
        subject(&self.object)
    }

    /// The media type to store and serve the index under.
    pub fn media_type(&self) -> &'static str {
        match self.family {
            Family::Docker => media_type::DOCKER_INDEX,
            Family::Oci => media_type::OCI_INDEX,
        }
    }

    /// The document, without white space between its members.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.object.to_bytes()
    }

    /// The bytes of a new OCI index of these manifests.
    pub fn of(manifests: &[&Descriptor]) -> Result<Vec<u8>> {
        let mut object = Object::default();
        object.set("schemaVersion", &2)?;
        object.set("mediaType", media_type::OCI_INDEX)?;
        object.set("manifests", &manifests.iter().map(|manifest| manifest.object()).collect::<Vec<_>>())?;
        Ok(object.to_bytes())
    }

    /// The bytes of the same index with more children behind its own.
    pub fn with_more(&self, more: &[&Descriptor]) -> Result<Vec<u8>> {
        let mut object = self.object.clone();
        let mut manifests: Vec<Box<RawValue>> = object.get("manifests")?.unwrap_or_default();
        for descriptor in more {
            manifests.push(json::raw(descriptor.object())?);
        }
        object.set("manifests", &manifests)?;
        Ok(object.to_bytes())
    }

    /// The bytes of the same index with its children replaced: `children` has an entry for each child of ours, in order:
    /// `Keep` (its exact bytes), `Replace` or `Drop`.
    pub fn with_children(&self, children: &[Child], annotations: &[(String, String)]) -> Result<Vec<u8>> {
        let mut object = self.object.clone();
        object.set("mediaType", self.media_type())?;
        let old: Vec<Box<RawValue>> = object.get("manifests")?.unwrap_or_default();
        let mut manifests = Vec::with_capacity(old.len());
        for (old, child) in old.into_iter().zip(children) {
            match child {
                Child::Keep => manifests.push(old),
                Child::Replace(descriptor) => manifests.push(json::raw(descriptor.object())?),
                Child::Drop => {}
            }
        }
        object.set("manifests", &manifests)?;
        object.remove("subject");
        set_annotations(&mut object, annotations)?;
        Ok(object.to_bytes())
    }
}

/// What becomes of a child of an index.
#[derive(Clone, Debug)]
pub enum Child {
    /// It stays, byte for byte.
    Keep,
    /// Its place is taken by another.
    Replace(Descriptor),
    /// It goes.
    Drop,
}

/// The document's annotation `name`.
fn annotation(object: &Object, name: &str) -> Result<Option<String>> {
    match object.get::<Object>("annotations")? {
        Some(annotations) => annotations.get(name),
        None => Ok(None),
    }
}

fn set_annotations(object: &mut Object, annotations: &[(String, String)]) -> Result<()> {
    if annotations.is_empty() {
        return Ok(());
    }
    let mut all: Object = object.get("annotations")?.unwrap_or_default();
    for (name, value) in annotations {
        all.set(name, value)?;
    }
    object.set("annotations", &all)
}

fn subject(object: &Object) -> Option<Descriptor> {
    Descriptor::from_object(object.get("subject").ok()??).ok()
}

fn descriptors(object: &Object, name: &str) -> Result<Option<Vec<Descriptor>>> {
    let Some(objects) = object.get::<Vec<Object>>(name)? else { return Ok(None) };
    let parse = |(i, object)| Descriptor::from_object(object).map_err(|e| e.context(format!("{name}[{i}]")));
    objects.into_iter().enumerate().map(parse).collect::<Result<_>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest::Digest;

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":0}}"#, Digest::of(b""))
    }

    #[test]
    fn ambiguous_and_mislabelled_documents_are_refused() {
        let config = descriptor(media_type::OCI_CONFIG);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#);
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let typed = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, media_type::OCI_INDEX);
        for (text, claimed, ok) in [
            (manifest.as_str(), None, true),
            (&manifest, Some(media_type::OCI_MANIFEST), true),
            (&manifest, Some("text/plain"), true),
            (&manifest, Some(media_type::OCI_INDEX), false),
            (index, None, true),
            (index, Some(media_type::DOCKER_INDEX), true),
            (index, Some(media_type::OCI_MANIFEST), false),
            (&typed, Some(media_type::OCI_INDEX), true),
            (&typed, Some(media_type::DOCKER_INDEX), false),
            (&typed, Some("text/html; charset=utf-8"), true),
            (&typed, Some("application/vnd.oci.image.index.v1+json; charset=utf-8"), true),
            (&typed, Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"), false),
            (r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, None, false),
            (r#"{"schemaVersion":2,"manifests":[],"config":{}}"#, None, false),
            (r#"{"schemaVersion":2,"manifests":[],"fsLayers":[]}"#, None, false),
            (r#"{"schemaVersion":2,"manifests":[],"history":[]}"#, None, false),
            (r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#, None, false),
            (r#"{"schemaVersion":1,"manifests":[]}"#, None, false),
            (r#"{"schemaVersion":2}"#, None, false),
            (r#"{"schemaVersion":2,"manifests":null}"#, None, false),
            (&manifest.replace("\"layers\"", "\"Layers\":[],\"layers\""), None, false),
            (&manifest.replace("\"size\":0", "\"size\":-1"), None, false),
            ("<html>log in</html>", Some("text/html"), false),
        ] {
            assert_eq!(Document::parse(text.as_bytes(), claimed).is_ok(), ok, "{text} as {claimed:?}");
        }
        // Docker's schema 1 by its type, and by what is in it (faults.md C24).
        let schema1 = Some("application/vnd.docker.distribution.manifest.v1+prettyjws");
        for (text, claimed) in [(r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#, None), ("{}", schema1)] {
            let error = Document::parse(text.as_bytes(), claimed).unwrap_err();
            assert!(error.hint_text().is_some_and(|hint| hint.contains("push the image again")), "{error}");
        }
    }

    #[test]
    fn edits_keep_every_other_byte() {
        let layer = descriptor(media_type::OCI_LAYER_GZIP);
        let config = descriptor(media_type::OCI_CONFIG);
        let text = format!(
            r#"{{"schemaVersion":2,"x-ext":{{"b" : 1e3}},"config":{config},"layers":[{{ "x" : 1,{}],"annotations":{{"z":"\u003c","a":"b"}},"subject":{config}}}"#,
            &layer[1..]
        );
        let Document::Manifest(manifest) = Document::parse(text.as_bytes(), None).unwrap() else { panic!() };
        let new = Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(b"x"), 1).unwrap();
        let bytes = manifest.with_layer(&manifest.config, Some(&new), &[("a".into(), "c".into())]).unwrap();
        let expected = format!(
            r#"{{"schemaVersion":2,"x-ext":{{"b" : 1e3}},"config":{config},"layers":[{{ "x" : 1,{},{}],"annotations":{{"z":"\u003c","a":"c"}},"mediaType":"{}"}}"#,
            &layer[1..],
            String::from_utf8(new.object().to_bytes()).unwrap(),
            media_type::OCI_MANIFEST
        );
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        let text = r#"{"schemaVersion":2,"x":1e3,"manifests":[]}"#;
        let Document::Index(index) = Document::parse(text.as_bytes(), None).unwrap() else { panic!() };
        let expected = text.replace('}', &format!(r#","mediaType":"{}"}}"#, media_type::OCI_INDEX));
        assert_eq!(String::from_utf8(index.with_children(&[], &[]).unwrap()).unwrap(), expected);
    }
}
