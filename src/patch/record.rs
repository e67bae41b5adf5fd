//! What a patched image says about itself: what was asked for, and a seal that breaks if another tool edits it later.
//!
//! The record is the annotation (Docker family: config label) `dev.capatch.patch`. It makes the second run of the same
//! patch `unchanged` without looking at a layer, and tells `verify` which differences from the base were declared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::oci::digest::Digest;
use crate::oci::json::Object;
use crate::oci::platform::Platform;
use crate::patch::sorted;

/// The annotation or label that holds the record.
pub const NAME: &str = "dev.capatch.patch";

/// The form of the output; another one makes another image out of the same input.
const FORMAT: u32 = 1;

/// What the user asked for, in its normal form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// In the words of getcap(8), which are never empty; empty if they are to be removed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub capabilities: String,
    /// Set exactly these capabilities instead of adding them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
    /// Take the extended attribute away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub remove: bool,
    /// The files asked for.
    pub files: Vec<Asked>,
    /// Ports to expose.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<String>,
    /// Ports not to expose any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unexpose: Vec<String>,
    /// The listen variable and its value; an empty value means «derive it from the image».
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<(String, String)>,
    /// Environment variables to set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Labels to set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The platforms asked for; none means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    /// From `SOURCE_DATE_EPOCH`, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
}

impl Request {
    /// Whether both ask for the same. Records of earlier versions have it in the order of the command line, and platforms
    /// by any of their names.
    pub fn is_same(&self, other: &Request) -> bool {
        self.normal() == other.normal()
    }

    fn normal(&self) -> Request {
        let platform = |text: &String| text.parse::<Platform>().map_or(text.clone(), |it| it.normal().to_string());
        Request {
            files: sorted(self.files.iter().cloned()),
            expose: sorted(self.expose.iter().cloned()),
            unexpose: sorted(self.unexpose.iter().cloned()),
            platforms: sorted(self.platforms.iter().map(platform)),
            ..self.clone()
        }
    }
}

/// A file that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Asked {
    /// By its path.
    Path(String),
    /// By the paths that it has in one image or another: the first that there is.
    First(Vec<String>),
}

impl Asked {
    pub(super) fn of(paths: &[&str]) -> Self {
        match paths {
            [path] => Asked::Path((*path).to_owned()),
            paths => Asked::First(paths.iter().map(|path| (*path).to_owned()).collect()),
        }
    }

    /// Where to look, in this order.
    pub fn paths(&self) -> &[String] {
        match self {
            Asked::Path(path) => std::slice::from_ref(path),
            Asked::First(paths) => paths,
        }
    }
}

/// The record of one patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    /// What was asked for.
    pub request: Request,
    /// The files that were found for it, with their capabilities now, if they have any; empty in the record of an index.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, Option<String>>,
    /// The digest of the document without this record.
    seal: Digest,
}

/// Where a document keeps its annotations or labels: the path of member names to that object.
pub type Holder = &'static [&'static str];
/// In a manifest or index.
pub const ANNOTATIONS: Holder = &["annotations"];
/// In an image config.
pub const LABELS: Holder = &["config", "Labels"];

impl Record {
    /// Puts the record of `request` into `document`, as its last edit.
    pub fn seal(
        request: &Request,
        files: BTreeMap<String, Option<String>>,
        document: &[u8],
        holder: Holder,
    ) -> Result<Vec<u8>> {
        let document = edit(&Object::parse(document)?, holder, &mut |holder| {
            holder.remove(NAME);
            Ok(())
        })?;
        let record = Record { format: FORMAT, request: request.clone(), files, seal: Digest::of(&document.to_bytes()) };
        let text =
            serde_json::to_string(&record).map_err(|e| Error::failed(format!("cannot write the record: {e}")))?;
        Ok(edit(&document, holder, &mut |holder| holder.set(NAME, &text))?.to_bytes())
    }

    /// The record of an image: from its manifest, or from its config if that is Docker's.
    pub fn of(manifest: &[u8], config: &[u8]) -> Result<Option<Record>> {
        match Record::read(manifest, ANNOTATIONS)? {
            Some(record) => Ok(Some(record)),
            None => Record::read(config, LABELS),
        }
    }

    /// The record in `document`, if it has one that we can read.
    pub fn read(document: &[u8], holder: Holder) -> Result<Option<Record>> {
        let mut object = Object::parse(document)?;
        for name in holder {
            match object.get(name)? {
                Some(inner) => object = inner,
                None => return Ok(None),
            }
        }
        let text: Option<String> = object.get(NAME)?;
        // A record of a later version is no record of ours, but no reason to fail either.
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()).filter(|record: &Record| record.format == FORMAT))
    }

    /// Whether `document`, which holds this record, is still as capatch wrote it.
    pub fn is_intact(&self, document: &[u8], holder: Holder) -> Result<bool> {
        let without = edit(&Object::parse(document)?, holder, &mut |holder| {
            holder.remove(NAME);
            Ok(())
        })?;
        Ok(Digest::of(&without.to_bytes()) == self.seal)
    }
}

/// The document with the object at `path` edited; missing objects on the way are made.
fn edit(document: &Object, path: &[&str], change: &mut dyn FnMut(&mut Object) -> Result<()>) -> Result<Object> {
    let mut document = document.clone();
    match path {
        [] => change(&mut document)?,
        [name, rest @ ..] => {
            let inner: Object = document.get(name)?.unwrap_or_default();
            document.set(name, &edit(&inner, rest, change)?)?;
        }
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_and_written_as_it_always_was() {
        let seal = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (request, files) in [
            (
                r#""capabilities":"cap_net_bind_service=ep","files":["/f"],"expose":["80/tcp"]"#,
                r#","files":{"/f":"=ep"}"#,
            ),
            (r#""capabilities":"=","replace":true,"files":[["/f","/g"]]"#, ""),
            // From the version on that can remove.
            (r#""remove":true,"files":["/f"]"#, r#","files":{"/f":null}"#),
        ] {
            let text = format!(r#"{{"format":1,"request":{{{request}}}{files},"seal":"{seal}"}}"#);
            let record: Record = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&record).unwrap(), text);
            assert_eq!(record.request.remove, request.contains("remove"));
            assert_eq!(record.files.values().any(Option::is_none), request.contains("remove"));
        }
    }

    #[test]
    fn a_request_is_the_same_in_any_order() {
        let request = |text: &str| serde_json::from_str::<Request>(&format!("{{{text}}}")).unwrap();
        for (one, other, same) in [
            (r#""expose":["80/tcp","443/tcp"]"#, r#""expose":["443/tcp","80/tcp","443/tcp"]"#, true),
            (r#""expose":["80/tcp"]"#, r#""unexpose":["80/tcp"]"#, false),
            (r#""expose":["80/tcp"]"#, r#""expose":["80/udp"]"#, false),
            (r#""files":["/a","/b"]"#, r#""files":["/b","/a"]"#, true),
            (r#""files":["/a","/b"]"#, r#""files":[["/a","/b"]]"#, false),
            (r#""files":[["/a","/b"]]"#, r#""files":[["/b","/a"]]"#, false),
            (
                r#""platforms":["linux/amd64","linux/arm64/v8","linux/arm"]"#,
                r#""platforms":["linux/arm/v7","linux/arm64","linux/amd64/v1","linux/amd64"]"#,
                true,
            ),
            (r#""platforms":["linux/arm/v6"]"#, r#""platforms":["linux/arm"]"#, false),
            (r#""platforms":["?"]"#, r#""platforms":["?","?"]"#, true),
            (r#""platforms":["?"]"#, r#""platforms":[]"#, false),
        ] {
            assert_eq!(request(one).is_same(&request(other)), same, "{one} {other}");
        }
    }

    #[test]
    fn the_seal_breaks_with_the_document() {
        for holder in [ANNOTATIONS, LABELS] {
            let request = Request { capabilities: "cap_net_bind_service=ep".into(), ..Request::default() };
            let sealed = Record::seal(&request, BTreeMap::new(), br#"{"a": 1.10,"config":{"x":[ ]}}"#, holder).unwrap();
            let record = Record::read(&sealed, holder).unwrap().unwrap();
            assert_eq!(record.request, request);
            assert!(record.is_intact(&sealed, holder).unwrap());
            let text = String::from_utf8(sealed.clone()).unwrap();
            for (from, to) in [("1.10", "1.1"), ("\"x\"", "\"y\"")] {
                assert!(!record.is_intact(text.replacen(from, to, 1).as_bytes(), holder).unwrap(), "{from}");
            }
            assert_eq!(Record::seal(&request, BTreeMap::new(), &sealed, holder).unwrap(), sealed, "sealed again");
        }
        assert_eq!(Record::read(b"{}", LABELS).unwrap(), None);
        assert_eq!(Record::read(br#"{"annotations":{"dev.capatch.patch":"junk"}}"#, ANNOTATIONS).unwrap(), None);
    }
}
