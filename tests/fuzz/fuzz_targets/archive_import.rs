//! A whole archive, after a byte: whether it is read as an OCI archive or as what `docker save` writes, and whether its checksums
//! and digests are repaired. What is imported verifies as well as it does in the archive, and nothing else is written.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use capatch::copy::{self, Memory, Route};
use capatch::error::Result;
use capatch::image;
use capatch::limits::Limits;
use capatch::oci::reference::Reference;
use capatch::progress::{Progress, Silent};
use capatch::transport::registry::{Client, Options};
use capatch::transport::{LOCK_TIMEOUT, Place, Transports, containerd};
use capatch::validate::{Subject, verify};
use capatch_fuzz::{directory, is_printable, settle, tars};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use tokio::runtime::Runtime;

struct World {
    directory: TempDir,
    runtime: Runtime,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let directory = directory();
    for name in ["cwd", "in", "empty"] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    fs::write(directory.path().join("beside"), "as it was").unwrap();
    std::env::set_current_dir(directory.path().join("cwd")).unwrap();
    World { directory, runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap() }
});

/// Every file around the layout that is written.
fn surroundings(root: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path == root.join("out") {
                continue;
            }
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                directories.push(path.clone());
            }
            found.insert(path.display().to_string(), metadata.len() * u64::from(metadata.is_file()));
        }
    }
    found
}

fn transports(root: &Path) -> Transports {
    let registries = Client::new(Options {
        registries_conf: Some("/dev/null".into()),
        hosts_dir: Some(root.join("empty")),
        stall: Duration::from_secs(1),
        ..Options::default()
    });
    let containerd = containerd::Options { address: root.join("none"), namespace: "none".into() };
    Transports {
        registries: registries.unwrap(),
        containerd,
        docker: String::new(),
        limits: Limits::default(),
        lock_timeout: LOCK_TIMEOUT,
    }
}

async fn import(source: &Reference, destination: &Reference, transports: &Transports) -> Result<()> {
    let progress: Arc<dyn Progress> = Arc::new(Silent);
    let (from, to) = (Place::of(source, transports)?, Place::of(destination, transports)?);
    to.prepare()?;
    let options = copy::Options {
        platforms: Vec::new(),
        referrers: true,
        foreign_layers: true,
        replace: false,
        force: false,
        dry_run: false,
        jobs: 2,
        memory: Memory::default(),
    };
    copy::image(&Route { from: &from, source, to: &to, destination }, &options, &progress).await.map(drop)
}

/// What verification makes of it: whether it passes, and what it finds.
async fn verified(reference: &Reference, transports: &Transports) -> Result<Vec<String>> {
    let place = Place::of(reference, transports)?;
    let root = image::resolve(&place, reference).await?;
    // Content is what it should be, whatever it means.
    let tree = image::tree(&place, &root).await?;
    for blob in copy::blobs_of(&tree) {
        assert!(
            !place.has_blob(&blob).await.is_ok_and(|there| !there) || matches!(place, Place::Archive(_)),
            "{}",
            blob.digest
        );
    }
    let progress: Arc<dyn Progress> = Arc::new(Silent);
    verify(Subject { place: &place, root: &root }, None, Limits::default(), &progress)
        .await
        .map(|report| report.findings)
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let World { directory, runtime } = &*WORLD;
    let root = directory.path();
    let mut archive = data.to_vec();
    if choice & 1 == 0 {
        tars::reseal(&mut archive);
    }
    let file = root.join("in/archive.tar");
    fs::write(&file, &archive).unwrap();
    let before = surroundings(root);
    let kind = if choice & 2 == 0 { "oci-archive" } else { "docker-archive" };
    let source: Reference = format!("{kind}:{}", file.display()).parse().unwrap();
    let destination: Reference = format!("oci:{}:x", root.join("out").display()).parse().unwrap();
    let transports = transports(root);
    runtime.block_on(async {
        match import(&source, &destination, &transports).await {
            Err(error) => {
                is_printable(&error);
                let place = Place::of(&destination, &transports).unwrap();
                assert!(
                    !matches!(place.resolve(destination.target()).await, Ok(Some(_))),
                    "it failed and is there: {error}"
                );
            }
            Ok(()) => {
                let (there, here) = (verified(&source, &transports).await, verified(&destination, &transports).await);
                match (&there, &here) {
                    (Ok(there), Ok(here)) => assert_eq!(there, here),
                    (Err(there), Err(here)) => assert_eq!(there.kind(), here.kind()),
                    _ => panic!("{there:?} is not {here:?}"),
                }
            }
        }
    });
    settle(runtime, &root.join("out"));
    assert_eq!(surroundings(root), before);
    let _ = fs::remove_dir_all(root.join("out"));
});
