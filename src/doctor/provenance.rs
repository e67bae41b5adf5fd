//! What is about the digest of an image, and so not about a patched one.

use super::{Finding, Level};
use crate::image::{Image, Node};
use crate::transport::Place;

/// What describes this image in its index, and nothing that is made from it.
pub(super) fn attestations(tree: &Node, image: &Image) -> Option<Finding> {
    let digest = image.descriptor.digest.to_string();
    let count =
        tree.manifests().iter().filter(|(descriptor, _)| descriptor.attests().as_deref() == Some(&digest)).count();
    (count > 0).then(|| Finding {
        code: "attestations",
        level: Level::Note,
        place: "index".to_owned(),
        what: format!(
            "{count} attestation{} of the image would not be of the patched one",
            if count == 1 { "" } else { "s" }
        ),
        why: "attestations and signatures are about a digest; a patched image has another one and inherits none"
            .to_owned(),
        fix: None,
    })
}

/// What refers to the image, or to its index: signatures, SBOMs.
pub(super) async fn referrers(place: &Place, tree: &Node, image: &Image) -> Option<Finding> {
    let note = |what: String| Finding {
        code: "referrers",
        level: Level::Note,
        place: "index".to_owned(),
        what,
        why: "they are about a digest; a patched image has another one, and capatch copies none of them to it"
            .to_owned(),
        fix: Some("sign the patched image itself, for example: cosign sign IMAGE@DIGEST".to_owned()),
    };
    let mut count = 0;
    let (root, image) = (&tree.descriptor().digest, &image.descriptor.digest);
    for subject in [root].into_iter().chain(Some(image).filter(|image| *image != root)) {
        match place.referrers(subject).await {
            Ok(found) => count += found.len(),
            Err(error) => return Some(note(format!("what refers to it cannot be listed: {error}"))),
        }
    }
    let s = if count == 1 { " refers" } else { "s refer" };
    (count > 0).then(|| note(format!("{count} artifact{s} to it, such as signatures and SBOMs")))
}
