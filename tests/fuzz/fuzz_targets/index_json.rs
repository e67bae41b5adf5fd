//! A tag, in the first line, and an `index.json` that gets it: all other entries and members keep their bytes, what cannot be
//! read stays as it is, and to tag again changes nothing.
#![no_main]

use std::cell::LazyCell;
use std::fs;

use capatch::limits::Limits;
use capatch::oci::descriptor::Descriptor;
use capatch::oci::digest::Digest;
use capatch::oci::json::Object;
use capatch::oci::manifest::REF_NAME;
use capatch::oci::media_type::OCI_MANIFEST;
use capatch::oci::reference::Target;
use capatch::transport::LOCK_TIMEOUT;
use capatch::transport::layout::Layout;
use capatch_fuzz::{directory, first_line, is_printable};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use tempfile::TempDir;

const MANIFEST: &[u8] = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;

thread_local! {
    static DIRECTORY: LazyCell<TempDir> = const { LazyCell::new(directory) };
}

fn tag_of(entry: &RawValue) -> Option<String> {
    let entry = Descriptor::from_object(Object::parse(entry.get().as_bytes()).ok()?).ok()?;
    entry.annotation(REF_NAME)
}

fuzz_target!(|data: &[u8]| {
    let Some((tag, bytes)) = first_line(data) else { return };
    if tag.is_empty() {
        return;
    }
    DIRECTORY.with(|directory| {
        let layout = Layout::new(directory.path(), Limits::default(), LOCK_TIMEOUT);
        let path = directory.path().join("index.json");
        let _ = fs::remove_file(&path);
        layout.prepare().unwrap();
        let descriptor = Descriptor::new(OCI_MANIFEST, Digest::of(MANIFEST), MANIFEST.len() as u64).unwrap();
        layout.write(&descriptor, &mut &MANIFEST[..]).unwrap();
        fs::write(&path, bytes).unwrap();
        let listed = layout.tags();
        for target in [None, Some(Target::Tag(tag.to_owned())), Some(Target::Digest(descriptor.digest.clone()))] {
            if let Ok(Some((found, bytes))) = layout.resolve(target.as_ref()) {
                assert_eq!(found.digest, Digest::of(&bytes));
            }
        }
        if let Err(error) = layout.tag(tag, &descriptor) {
            assert_eq!(fs::read(&path).unwrap(), bytes, "what cannot be read was changed");
            return is_printable(&error);
        }
        let after = fs::read(&path).unwrap();
        let (old, new) = (Object::parse(bytes).unwrap(), Object::parse(&after).unwrap());
        assert!(old.names().eq(new.names()));
        for name in old.names().filter(|name| *name != "manifests") {
            assert_eq!(old.raw(name), new.raw(name));
        }
        let entries = |index: &Object| index.get::<Vec<Box<RawValue>>>("manifests").unwrap().unwrap();
        let others = |all: &[Box<RawValue>]| {
            let others = all.iter().filter(|entry| tag_of(entry).as_deref() != Some(tag));
            others.map(|entry| entry.get().to_owned()).collect::<Vec<_>>()
        };
        let (was, is) = (entries(&old), entries(&new));
        assert_eq!(others(&was), others(&is));
        assert_eq!(is.len(), others(&is).len() + 1, "the tag is there once");
        assert!(layout.tags().unwrap().iter().any(|name| name == tag) && listed.is_ok());
        if let Ok(found) = layout.resolve(Some(&Target::Tag(tag.to_owned()))) {
            assert_eq!(found.unwrap().0.digest, descriptor.digest);
        }
        layout.tag(tag, &descriptor).unwrap();
        assert_eq!(fs::read(&path).unwrap(), after);
    });
});
