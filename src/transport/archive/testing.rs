//! Images and archives made by hand.

use std::collections::BTreeSet;

use crate::archive::testing::{compress, dir, file, symlink, tar};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::media_type::{self, Compression};
use crate::transport::archive::oci;
use crate::transport::layout::index::MARKER_CONTENT;

/// One image of one or more layers, and everything that it is made of.
#[derive(Clone)]
pub(super) struct Image {
    pub(super) manifest: Descriptor,
    pub(super) documents: Vec<(Descriptor, Vec<u8>)>,
    config: Vec<u8>,
    layers: Vec<Vec<u8>>,
    pub(super) blobs: Vec<(Descriptor, Vec<u8>)>,
}

pub(super) fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64).unwrap()
}

pub(super) fn json(object: &Descriptor) -> String {
    String::from_utf8(object.object().to_bytes()).unwrap()
}

/// An image for `architecture`; `name` is in its layer.
pub(super) fn image(name: &str, architecture: &str) -> Image {
    let layers: Vec<Vec<u8>> = vec![tar(&[file("etc/name", name.as_bytes())]), tar(&[dir("opt")])];
    let diff_ids: Vec<_> = layers.iter().map(|layer| format!("\"{}\"", Digest::of(layer))).collect();
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    )
    .into_bytes();
    let mut blobs = vec![(descriptor(media_type::OCI_CONFIG, &config), config.clone())];
    for layer in &layers {
        let gzip = compress(layer, Compression::Gzip);
        blobs.push((descriptor(media_type::OCI_LAYER_GZIP, &gzip), gzip));
    }
    let parts: Vec<_> = blobs.iter().map(|(descriptor, _)| json(descriptor)).collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        media_type::OCI_MANIFEST,
        parts[0],
        parts[1..].join(",")
    )
    .into_bytes();
    let descriptor = descriptor(media_type::OCI_MANIFEST, &manifest);
    Image { manifest: descriptor.clone(), documents: vec![(descriptor, manifest)], config, layers, blobs }
}

/// An index of images for these architectures.
pub(super) fn multi(name: &str) -> Image {
    let (amd64, arm64) = (image(name, "amd64"), image(name, "arm64"));
    let entries: Vec<_> =
        [("arm64", &arm64), ("amd64", &amd64)].map(|(architecture, image)| platform(image, architecture)).into();
    let index =
        format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#, media_type::OCI_INDEX, entries.join(","))
            .into_bytes();
    let root = descriptor(media_type::OCI_INDEX, &index);
    let documents = [vec![(root.clone(), index)], amd64.documents, arm64.documents].concat();
    Image { manifest: root, documents, blobs: [amd64.blobs, arm64.blobs].concat(), ..amd64 }
}

pub(super) fn platform(image: &Image, architecture: &str) -> String {
    let entry = json(&image.manifest);
    format!(r#"{},"platform":{{"architecture":"{architecture}","os":"linux"}}}}"#, &entry[..entry.len() - 1])
}

pub(super) fn named(image: &Image, name: &str) -> String {
    let mut entry = image.manifest.clone();
    entry.set_annotation(crate::oci::manifest::REF_NAME, name).unwrap();
    json(&entry)
}

pub(super) fn index_json(entries: &[String]) -> Vec<u8> {
    let media_type = media_type::OCI_INDEX;
    format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{}]}}"#, entries.join(",")).into_bytes()
}

/// The blobs of images, as members of a layout.
pub(super) fn layout(images: &[&Image], index: &[u8]) -> Vec<Vec<u8>> {
    let mut seen = BTreeSet::new();
    let mut frames = vec![file("oci-layout", MARKER_CONTENT.as_bytes())];
    for image in images {
        for (descriptor, bytes) in image.documents.iter().chain(&image.blobs) {
            if seen.insert(descriptor.digest.clone()) {
                frames.push(file(&oci::blob_path(&descriptor.digest), bytes));
            }
        }
    }
    frames.push(file("index.json", index));
    frames
}

/// As `docker save` wrote it before Docker 25; the second layer is a link if `linked`.
pub(super) fn docker_save(image: &Image, linked: bool) -> Vec<Vec<u8>> {
    let config = Digest::of(&image.config);
    let manifest = format!(
        r#"[{{"Config":"{}.json","RepoTags":["kong:3.9"],"Layers":["one/layer.tar","two/layer.tar"]}}]"#,
        config.hex()
    );
    let second = file(if linked { "three/layer.tar" } else { "two/layer.tar" }, &image.layers[1]);
    let link = linked.then(|| symlink("two/layer.tar", "../three/layer.tar"));
    [dir("one/"), file("one/layer.tar", &image.layers[0]), dir("two/"), second]
        .into_iter()
        .chain(link)
        .chain([
            file(&format!("{}.json", config.hex()), &image.config),
            file("manifest.json", manifest.as_bytes()),
            file("repositories", br#"{"kong":{"3.9":"two"}}"#),
        ])
        .collect()
}

/// As crane writes it.
pub(super) fn crane(image: &Image, compression: Compression) -> Vec<Vec<u8>> {
    let layers: Vec<_> = image.layers.iter().map(|layer| compress(layer, compression)).collect();
    let names: Vec<_> = layers.iter().map(|layer| format!("{}.tar.gz", Digest::of(layer).hex())).collect();
    let config = Digest::of(&image.config);
    let manifest = format!(r#"[{{"Config":"{config}","RepoTags":null,"Layers":["{}"]}}]"#, names.join("\",\""));
    let layers = names.iter().zip(&layers).map(|(name, layer)| file(name, layer));
    [file(config.as_str(), &image.config)]
        .into_iter()
        .chain(layers)
        .chain([file("manifest.json", manifest.as_bytes())])
        .collect()
}
