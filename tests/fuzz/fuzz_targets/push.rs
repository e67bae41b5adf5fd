//! An image goes to a registry that answers by a script. It ends, after not too many requests; nobody else learns a secret or
//! sees content; the tag is asked for only after everything below it was acknowledged; and who was not lied to is right.
#![no_main]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use capatch::copy::Outcome;
use capatch_fuzz::is_printable;
use capatch_fuzz::net::{REPOSITORY, Script, Step, TAG, WORLD, acknowledged, needed};
use libfuzzer_sys::fuzz_target;

/// Requests that one step can cost: an upload is begun again, asked after and cancelled, with a new token.
const PER_STEP: usize = 12;

fuzz_target!(|script: Script| {
    if script.steps.len() > 30 {
        return;
    }
    let world = &*WORLD;
    let (number, image) = world.image(&script);
    let registry = world.registry();
    registry.reset();
    let needed = needed(image);
    let had: Arc<Mutex<HashSet<String>>> = Arc::default();
    let tag = format!("/manifests/{TAG}");
    world.play(&script, move |request, reply| {
        let mut had = had.lock().unwrap();
        if request.method == "PUT" && request.path.ends_with(&tag) {
            let missing: Vec<_> = needed.difference(&had).collect();
            assert!(missing.is_empty(), "the tag comes before {missing:?}");
        }
        had.extend(acknowledged(request, reply));
    });

    let source = format!("oci:{}:{TAG}", world.directory.path().join(number.to_string()).display());
    let outcome = world.copy(&source, &format!("docker://{}/{REPOSITORY}:{TAG}", registry.host()));
    world.nothing_leaked(80 + PER_STEP * script.steps.len());

    let tagged = registry.tag(REPOSITORY, TAG);
    assert!(tagged.is_none() || tagged.as_ref() == Some(&image.digest));
    match outcome {
        Err(error) => is_printable(&error),
        Ok(Outcome::Planned(_)) => panic!("this was no dry run"),
        Ok(_) if script.steps.iter().any(Step::lies) => {}
        Ok(_) => {
            assert_eq!(tagged.as_ref(), Some(&image.digest));
            for (digest, bytes) in &image.blobs {
                assert_eq!(registry.blob(REPOSITORY, &digest.parse().unwrap()).as_ref(), Some(bytes));
            }
            for (digest, manifest) in &image.manifests {
                assert_eq!(registry.manifest(REPOSITORY, digest).as_ref(), Some(manifest));
            }
        }
    }
});
