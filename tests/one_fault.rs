//! P10 of `faults.md` §7: whatever happens to any single request, the tag is at the end what it was or what it was to be, and
//! then all of that is there.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use capatch::error::Result;
use capatch::limits::Limits;
use capatch::oci::digest::Digest;
use capatch::oci::reference::Target;
use capatch::transport::LOCK_TIMEOUT;
use capatch::transport::layout::Layout;
use common::image::{Content, Image, Scene, leftovers};
use common::library::{copied, patched, transports};
use common::registry::{Ending, Registry, Reply, Request};

/// What can happen to one answer.
const FAULTS: [&str; 11] =
    ["500", "404", "403", "401", "lost before", "lost after", "cut", "other byte", "429", "web page", "empty"];

fn fault(kind: &str, real: &dyn Fn() -> Reply) -> Reply {
    match kind {
        "lost before" => Reply::new(200).ending(Ending::Dropped),
        "lost after" => {
            real();
            Reply::new(200).ending(Ending::Dropped)
        }
        "cut" => real().ending(Ending::Cut(1)),
        "other byte" => {
            let mut reply = real();
            if let Some(byte) = reply.body.first_mut() {
                *byte ^= 1;
            }
            reply
        }
        "web page" => Reply::new(200).header("content-type", "text/html").body("<html>"),
        "empty" => Reply::new(200),
        status => Reply::error(status.parse().unwrap(), "UNKNOWN"),
    }
}

/// Whether a request is number `position`, from 0.
fn nth(position: usize) -> impl Fn(&Request) -> bool + Send + Sync {
    let count = AtomicUsize::new(0);
    move |_| count.fetch_add(1, Ordering::SeqCst) == position
}

/// What is done, from where to where.
#[derive(Clone, Copy, Debug)]
enum Way {
    CopyInRegistry,
    CopyToLayout,
    CopyFromLayout,
    PatchInRegistry,
    PatchInRepository,
    PatchToLayout,
    PatchFromLayout,
}

struct World {
    scene: Scene,
    registry: Registry,
    old: Content,
    new: Content,
    way: Way,
}

impl World {
    fn is_patch(&self) -> bool {
        !matches!(self.way, Way::CopyInRegistry | Way::CopyToLayout | Way::CopyFromLayout)
    }

    fn is_to_layout(&self) -> bool {
        matches!(self.way, Way::CopyToLayout | Way::PatchToLayout)
    }

    fn repository(&self) -> &'static str {
        if matches!(self.way, Way::PatchInRepository) { "from" } else { "to" }
    }

    fn source(&self) -> String {
        match self.way {
            Way::CopyFromLayout | Way::PatchFromLayout => self.scene.reference("src:3.9"),
            _ => format!("{}/from@{}", self.registry.host(), self.new.digest),
        }
    }

    fn run(&self) -> Result<()> {
        let to = match self.is_to_layout() {
            true => self.scene.reference("dst:1"),
            false => format!("{}/{}:1", self.registry.host(), self.repository()),
        };
        let transports = transports(&self.scene, &[]);
        match self.is_patch() {
            true => patched(&self.source(), &to, "new", &transports).map(drop),
            false => copied(&self.source(), &to, &transports).map(drop),
        }
    }

    /// The source, and an image that the tag of the destination names: for a patch, an earlier patch.
    fn new(way: Way) -> Self {
        let (old, new) = (Image::kong_arm64().build(), Image::kong().docker().build());
        let mut world = World { scene: Scene::new(), registry: Registry::start(), old, new, way };
        world.scene.source(&world.new);
        world.new.push(&world.registry, "from", "2");
        if world.is_patch() {
            patched(&world.source(), &world.scene.reference("old:1"), "old", &transports(&world.scene, &[])).unwrap();
            world.old = Content::read(&world.scene.path("old"));
        }
        world
    }

    /// As it was at first.
    fn begin(&self) {
        self.registry.reset();
        let _ = fs::remove_dir_all(self.scene.path("dst"));
        self.new.push(&self.registry, "from", "2");
        match self.is_to_layout() {
            true => self.old.write(&self.scene.path("dst"), "1"),
            false => self.old.push(&self.registry, self.repository(), "1"),
        }
    }

    /// What the tag names.
    fn tagged(&self) -> String {
        if self.is_to_layout() {
            let layout = Layout::new(self.scene.path("dst"), Limits::default(), LOCK_TIMEOUT);
            let (descriptor, _) = layout.resolve(Some(&Target::Tag("1".into()))).unwrap().unwrap();
            return descriptor.digest.to_string();
        }
        self.registry.tag(self.repository(), "1").unwrap()
    }

    /// What the manifest behind the tag names, and each of it hashes to its name.
    fn contents(&self) -> BTreeSet<String> {
        let blob = |digest: &str| -> Vec<u8> {
            let digest: Digest = digest.parse().unwrap();
            match self.is_to_layout() {
                true => fs::read(self.scene.path("dst").join("blobs/sha256").join(digest.hex())).unwrap(),
                false => {
                    let manifest = || self.registry.manifest(self.repository(), digest.as_str()).map(|found| found.1);
                    self.registry.blob(self.repository(), &digest).or_else(manifest).unwrap()
                }
            }
        };
        let root = self.tagged();
        let manifest: serde_json::Value = serde_json::from_slice(&blob(&root)).unwrap();
        let children = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
        let children = children.map(|child| child["digest"].as_str().unwrap().to_owned());
        let all: BTreeSet<String> = children.chain([root]).collect();
        for digest in &all {
            assert_eq!(Digest::of(&blob(digest)).as_str(), digest);
        }
        all
    }
}

/// Each fault at each request.
#[track_caller]
fn one_fault_does_no_harm(way: Way) {
    let world = World::new(way);
    world.begin();
    let before = world.contents();
    world.run().unwrap();
    let after = world.contents();
    assert_ne!(before, after);
    let (mut tried, mut survived) = (0, 0);
    for kind in FAULTS {
        for position in 0.. {
            world.begin();
            world.registry.fault_times(1, nth(position), move |real| fault(kind, real));
            let result = world.run();
            let requests = world.registry.log().len();
            let context = format!("{way:?}, {kind} at {position}: {result:?}");
            match &result {
                Ok(()) => survived += 1,
                Err(_) => {
                    assert_eq!(world.contents(), before, "{context}");
                    // A second run completes it.
                    world.registry.fault(|_, _| None);
                    world.run().unwrap();
                }
            }
            assert_eq!(world.contents(), after, "{context}");
            assert_eq!(leftovers(&world.scene.path("dst")), Vec::<PathBuf>::new(), "{context}");
            tried += 1;
            if requests <= position {
                break;
            }
        }
    }
    assert!(tried > 40 && survived > tried / 3, "{way:?}: {survived} of {tried}");
}

#[test]
fn of_a_copy_from_repository_to_repository() {
    one_fault_does_no_harm(Way::CopyInRegistry);
}

#[test]
fn of_a_copy_into_a_layout() {
    one_fault_does_no_harm(Way::CopyToLayout);
}

#[test]
fn of_a_copy_out_of_a_layout() {
    one_fault_does_no_harm(Way::CopyFromLayout);
}

#[test]
fn of_a_patch_from_repository_to_repository() {
    one_fault_does_no_harm(Way::PatchInRegistry);
}

#[test]
fn of_a_patch_within_a_repository() {
    one_fault_does_no_harm(Way::PatchInRepository);
}

#[test]
fn of_a_patch_into_a_layout() {
    one_fault_does_no_harm(Way::PatchToLayout);
}

#[test]
fn of_a_patch_out_of_a_layout() {
    one_fault_does_no_harm(Way::PatchFromLayout);
}
