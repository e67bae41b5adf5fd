//! An image named by its digest comes from a registry that answers by a script: what is there in the end is the image, or there
//! is no image.
#![no_main]

use std::fs;

use capatch::limits::Limits;
use capatch::oci::reference::Target;
use capatch::transport::LOCK_TIMEOUT;
use capatch::transport::layout::Layout;
use capatch_fuzz::common::image::hex;
use capatch_fuzz::is_printable;
use capatch_fuzz::net::{REPOSITORY, Script, TAG, WORLD};
use libfuzzer_sys::fuzz_target;

/// Requests that one step can cost.
const PER_STEP: usize = 12;

fuzz_target!(|script: Script| {
    if script.steps.len() > 30 {
        return;
    }
    let world = &*WORLD;
    let (_, image) = world.image(&script);
    let registry = world.registry();
    registry.reset();
    image.push(registry, REPOSITORY, TAG);
    world.play(&script, |_, _| {});

    let path = world.directory.path().join("out");
    let source = format!("{}/{REPOSITORY}@{}", registry.host(), image.digest);
    let outcome = world.copy(&source, &format!("oci:{}:{TAG}", path.display()));
    world.nothing_leaked(80 + PER_STEP * script.steps.len());

    world.settle(&path);
    let found = Layout::new(&path, Limits::default(), LOCK_TIMEOUT).resolve(Some(&Target::Tag(TAG.into()))).unwrap();
    match outcome {
        Err(error) => {
            is_printable(&error);
            assert!(found.is_none(), "it failed and is there");
        }
        Ok(_) => {
            let (descriptor, bytes) = found.expect("it is there");
            assert!(descriptor.digest.as_str() == image.digest && bytes == image.bytes());
            let manifests = image.manifests.iter().map(|(digest, (_, bytes))| (digest, bytes));
            for (digest, bytes) in image.blobs.iter().chain(manifests) {
                assert_eq!(&fs::read(path.join("blobs/sha256").join(hex(digest))).unwrap(), bytes);
            }
        }
    }
    let _ = fs::remove_dir_all(&path);
});
