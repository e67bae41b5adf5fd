//! A media type that somebody claims, in the first line, and a document: it is one of both and means what every other reader
//! of JSON would see; a copy of it has the same bytes.
#![no_main]

use std::cell::LazyCell;

use capatch::limits::Limits;
use capatch::oci::descriptor::Descriptor;
use capatch::oci::digest::Digest;
use capatch::oci::manifest::{Child, Document};
use capatch::oci::reference::Target;
use capatch::transport::LOCK_TIMEOUT;
use capatch::transport::layout::Layout;
use capatch_fuzz::{directory, first_line, is_printable};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;
use tempfile::TempDir;

thread_local! {
    static DIRECTORY: LazyCell<TempDir> = const { LazyCell::new(directory) };
}

fuzz_target!(|data: &[u8]| {
    let Some((claimed, bytes)) = first_line(data) else { return };
    let document = match Document::parse(bytes, Some(claimed).filter(|claimed| !claimed.is_empty())) {
        Ok(document) => document,
        Err(error) => return is_printable(&error),
    };
    serde_json::from_slice::<&RawValue>(bytes).expect("what we read is JSON");
    // Numbers and surrogates that no `Value` holds are JSON, and keep their bytes.
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return copy_is_identical(&document, bytes) };
    let has = |name: &str| value.get(name).is_some();
    let expected: Vec<&Value> = match &document {
        Document::Index(_) => {
            assert!(!has("config") && !has("layers") && !has("fsLayers") && !has("history"));
            value["manifests"].as_array().unwrap().iter().collect()
        }
        Document::Manifest(_) => {
            assert!(!has("manifests"));
            std::iter::once(&value["config"]).chain(value["layers"].as_array().unwrap()).collect()
        }
    };
    let children = document.children();
    assert_eq!(children.len(), expected.len());
    for (child, expected) in children.iter().zip(&expected) {
        assert_eq!(expected["digest"], child.digest.as_str());
        assert_eq!(expected["mediaType"], child.media_type.as_str());
        assert_eq!(expected["size"], child.size);
    }
    edits_keep_the_rest(&document, &value);
    copy_is_identical(&document, bytes);
});

fn edits_keep_the_rest(document: &Document, value: &Value) {
    let edited = match document {
        Document::Index(index) => {
            let keep = vec![Child::Keep; index.manifests.len()];
            // Annotations that are no object cannot be read, which is an error and no loss.
            index.with_children(&keep, &[])
        }
        Document::Manifest(manifest) => manifest.with_layer(&manifest.config, None, &[]),
    };
    let edited = edited.expect("nothing is changed");
    let mut expected = value.clone();
    let members = expected.as_object_mut().unwrap();
    members.remove("subject");
    members.insert("mediaType".into(), document.media_type().into());
    let again: Value = serde_json::from_slice(&edited).unwrap();
    assert_eq!(again, expected);
    let twice = match Document::parse(&edited, None).expect("what we write can be read") {
        Document::Index(index) => index.with_children(&vec![Child::Keep; index.manifests.len()], &[]),
        Document::Manifest(manifest) => manifest.with_layer(&manifest.config, None, &[]),
    };
    assert_eq!(twice.unwrap(), edited);
}

fn copy_is_identical(document: &Document, bytes: &[u8]) {
    let descriptor = Descriptor::new(document.media_type(), Digest::of(bytes), bytes.len() as u64).unwrap();
    DIRECTORY.with(|directory| {
        let path = directory.path();
        let layout = Layout::new(path, Limits::default(), LOCK_TIMEOUT);
        layout.prepare().unwrap();
        layout.write(&descriptor, &mut &bytes[..]).unwrap();
        layout.tag("x", &descriptor).unwrap();
        let (found, copy) = layout.resolve(Some(&Target::Tag("x".into()))).unwrap().unwrap();
        assert!(found.digest == descriptor.digest && copy == bytes);
        std::fs::remove_file(path.join("blobs/sha256").join(descriptor.digest.hex())).unwrap();
    });
}
