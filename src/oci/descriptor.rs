//! Descriptors: the typed view of one, over the raw object that is written back.
//!
//! Source: image-spec `descriptor.md`.

use crate::error::{Error, Result};
use crate::oci::digest::Digest;
use crate::oci::json::Object;
use crate::oci::media_type::{self, Kind};
use crate::oci::platform::Platform;

/// Media type, digest and size of some content, and whatever else the document said about it.
#[derive(Clone, Debug)]
pub struct Descriptor {
    object: Object,
    /// As written, perhaps with parameters; see [`Descriptor::kind`].
    pub media_type: String,
    /// What the content must hash to.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

impl Descriptor {
    /// A descriptor of three members, for content of ours.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Result<Self> {
        let mut object = Object::default();
        object.set("mediaType", media_type)?;
        object.set("digest", &digest)?;
        object.set("size", &size)?;
        Ok(Descriptor { object, media_type: media_type.to_owned(), digest, size })
    }

    /// The view of a raw object; refuses a digest that we could not verify, and a size that is not a whole number of
    /// bytes below 2^63.
    pub fn from_object(object: Object) -> Result<Self> {
        object.refuse_lookalikes(&["mediaType", "digest", "size", "urls", "annotations", "data", "platform"])?;
        let member = |name: &str| Error::content(format!("a descriptor has no '{name}'"));
        let media_type: String = object.get("mediaType")?.ok_or_else(|| member("mediaType"))?;
        let digest: Digest = object.get("digest")?.ok_or_else(|| member("digest"))?;
        let size: u64 = object.get("size")?.ok_or_else(|| member("size"))?;
        if size > i64::MAX as u64 {
            return Err(Error::content(format!("a descriptor's size {size} is beyond 2^63")));
        }
        Ok(Descriptor { object, media_type, digest, size })
    }

    /// The same descriptor (platform, annotations and unknown members too) for other content. Inline `data` goes: it
    /// was the old content.
    pub fn with_content(&self, digest: Digest, size: u64) -> Result<Self> {
        let mut object = self.object.clone();
        object.set("digest", &digest)?;
        object.set("size", &size)?;
        object.remove("data");
        Ok(Descriptor { object, media_type: self.media_type.clone(), digest, size })
    }

    /// The object as it stands in the document.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// What the media type says that the content is.
    pub fn kind(&self) -> Kind {
        media_type::kind(&self.media_type)
    }

    /// Whether this is a layer that may not be distributed: by its type it is only where its `urls` say.
    pub fn is_foreign_layer(&self) -> bool {
        matches!(self.kind(), Kind::Layer { foreign: true, .. })
    }

    /// The platform, if the descriptor has one.
    pub fn platform(&self) -> Result<Option<Platform>> {
        if let Some(platform) = self.object.get::<Object>("platform")? {
            platform.refuse_lookalikes(&["architecture", "os", "os.version", "variant"])?;
        }
        self.object.get("platform")
    }

    /// One annotation, whatever the others are; none if it is no text.
    pub fn annotation(&self, name: &str) -> Option<String> {
        self.object.get::<Object>("annotations").ok()??.get(name).ok()?
    }

    /// Sets one annotation, the others stay as they are.
    pub fn set_annotation(&mut self, name: &str, value: &str) -> Result<()> {
        let mut annotations: Object = self.object.get("annotations")?.unwrap_or_default();
        annotations.set(name, value)?;
        self.object.set("annotations", &annotations)
    }

    /// Whether BuildKit put this entry into an index to attest another one.
    pub fn is_attestation(&self) -> bool {
        self.attests().is_some()
    }

    /// The digest of the manifest that this entry attests (`vnd.docker.reference.digest`).
    pub fn attests(&self) -> Option<String> {
        (self.annotation("vnd.docker.reference.type")? == "attestation-manifest")
            .then(|| self.annotation("vnd.docker.reference.digest").unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn sizes_and_digests_are_checked() {
        for (size, ok) in [
            ("0", true),
            ("9223372036854775807", true),
            ("9223372036854775808", false),
            ("-1", false),
            ("1.0", false),
            ("1e3", false),
            ("\"12\"", false),
            ("null", false),
        ] {
            let text = format!(r#"{{"mediaType":"x","digest":"sha256:{HEX}","size":{size}}}"#);
            let parsed = Object::parse(text.as_bytes()).and_then(Descriptor::from_object);
            assert_eq!(parsed.is_ok(), ok, "{size}");
        }
        // Members that others would read instead (faults.md C10).
        for lookalike in ["Digest", "SIZE", "mediatype", "Platform", "Annotations"] {
            let text = format!(r#"{{"mediaType":"x","digest":"sha256:{HEX}","size":1,"{lookalike}":null}}"#);
            let error = Object::parse(text.as_bytes()).and_then(Descriptor::from_object).unwrap_err();
            assert!(error.to_string().contains(lookalike), "{error}");
        }
        for platform in
            [r#"{"os":"linux","architecture":"amd64","Architecture":"arm64"}"#, r#"{"os":"linux","OS":"x"}"#]
        {
            let text = format!(r#"{{"mediaType":"x","digest":"sha256:{HEX}","size":1,"platform":{platform}}}"#);
            let descriptor = Descriptor::from_object(Object::parse(text.as_bytes()).unwrap()).unwrap();
            assert!(descriptor.platform().unwrap_err().to_string().contains("could be read as"), "{platform}");
        }
    }

    #[test]
    fn an_annotation_does_not_depend_on_the_others() {
        let text = format!(
            r#"{{"mediaType":"x","digest":"sha256:{HEX}","size":1,"annotations":{{"a":"b","c":"\ud800","d":1,"e":null}}}}"#
        );
        let descriptor = Descriptor::from_object(Object::parse(text.as_bytes()).unwrap()).unwrap();
        assert_eq!(
            ["a", "c", "d", "e", "f"].map(|n| descriptor.annotation(n)),
            [Some("b".into()), None, None, None, None]
        );
    }

    #[test]
    fn other_members_survive_new_content() {
        let text = format!(
            r#"{{"mediaType":"x","x-y":1e3,"digest":"sha256:{HEX}","size":1,"data":"AA==","platform":{{"os":"windows","architecture":"amd64","os.version":"10.0.1","os.features":["win32k"]}}}}"#
        );
        let descriptor = Descriptor::from_object(Object::parse(text.as_bytes()).unwrap()).unwrap();
        let changed = descriptor.with_content(Digest::of(b"x"), 7).unwrap();
        let expected = text
            .replace(&format!("sha256:{HEX}"), Digest::of(b"x").as_str())
            .replace("\"size\":1,\"data\":\"AA==\"", "\"size\":7");
        assert_eq!(String::from_utf8(changed.object().to_bytes()).unwrap(), expected);
        assert_eq!(changed.platform().unwrap().unwrap().os_version.as_deref(), Some("10.0.1"));
    }
}
