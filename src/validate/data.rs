//! Content that descriptors bring along: `data` is the base64 of what they name (image-spec `descriptor.md`), or it is a second
//! image for those who read it.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::blob;
use crate::error::{Error, Result};
use crate::image::Node;
use crate::oci::descriptor::Descriptor;

/// Descriptors in the manifests and indexes of `tree` whose `data` is not the content that they name.
pub(super) fn findings(tree: &Node) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut findings = Vec::new();
    for node in tree.nodes().into_iter().filter(|node| seen.insert(&node.descriptor().digest)) {
        let place = &node.descriptor().digest;
        let (children, subject) = match node {
            Node::Manifest(_, manifest, _) => (manifest.blobs().collect::<Vec<_>>(), manifest.subject()),
            Node::Index(_, index, ..) => (index.manifests.iter().collect(), index.subject()),
        };
        for descriptor in children.into_iter().chain(&subject) {
            if let Err(error) = check(descriptor) {
                findings.push(format!("{place}: the data inside of a descriptor is not its content: {error}"));
            }
        }
    }
    findings
}

/// It takes three quarters of the base64, and that is a part of a document, which has a limit.
fn check(descriptor: &Descriptor) -> Result<()> {
    let digest = &descriptor.digest;
    let Some(data) = descriptor.object().get::<String>("data").map_err(|e| e.context(digest))? else { return Ok(()) };
    let malformed = |e| Error::content(format!("{digest}: member 'data' is no base64: {e}"));
    blob::verify(&STANDARD.decode(data).map_err(malformed)?, descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest::Digest;
    use crate::oci::json::Object;

    #[test]
    fn data_is_the_content() {
        let digest = Digest::of(b"hello");
        for (data, wrong) in [
            ("null", ""),
            ("\"aGVsbG8=\"", ""),
            ("\"aGVsbG8\"", "no base64"),
            ("\"aGVsbG8-\"", "no base64"),
            ("\"aGVs\\nbG8=\"", "no base64"),
            ("7", "'data' is malformed"),
            ("\"\"", "ended after 0 of 5 bytes"),
            ("\"amVsbG8=\"", "has other content"),
            ("\"aGVsbG8h\"", "longer than its 5 bytes"),
        ] {
            let text = format!(r#"{{"mediaType":"x","digest":"{digest}","size":5,"data":{data}}}"#);
            let descriptor = Descriptor::from_object(Object::parse(text.as_bytes()).unwrap()).unwrap();
            match check(&descriptor) {
                Ok(()) => assert_eq!(wrong, "", "{data}"),
                Err(error) => assert!(!wrong.is_empty() && error.to_string().contains(wrong), "{data}: {error}"),
            }
        }
    }
}
