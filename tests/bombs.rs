//! Images that would like to fill the memory. The rows are those of `faults.md`.

#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

use capatch::oci::digest::Digest;
use capatch::oci::media_type::OCI_MANIFEST;
use common::cli::{Run, start};
use common::image::{Content, Image, Packing, Scene};
use common::tar::{self, dir, file};
use common::{elf, registry::Registry};

/// What one run may have of memory that it writes to, stacks and heap together, in KiB: 128 MiB.
const MEMORY: usize = 128 << 10;
const MIB: usize = 1 << 20;

fn with_little_memory(arguments: &[&str]) -> Run {
    let mut command = Command::new("/bin/sh");
    let script = format!("ulimit -d {MEMORY}; exec \"$@\"");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_capatch")]).args(arguments);
    command.env_clear().env("CONTAINERS_REGISTRIES_CONF", "/dev/null");
    start(command)
}

/// An image whose topmost layer is `blob`.
fn with_layer(blob: Vec<u8>) -> Content {
    let mut content = Image::kong().layer([file("opt/x", "x")]).build();
    let old = content.layers().pop().unwrap();
    let of = |digest: &str, size: usize| format!(r#""digest":"{digest}","size":{size}"#);
    let text = String::from_utf8(content.bytes().to_vec()).unwrap();
    let size = content.blobs[&old].len();
    let text = text.replace(&of(&old, size), &of(Digest::of(&blob).as_str(), blob.len()));
    content.blob("", blob);
    content.manifest(OCI_MANIFEST, text.into_bytes());
    content
}

// D1, D2
#[test]
fn a_layer_that_grows_beyond_measure_is_refused() {
    // One entry of a gigabyte; a frame of zeros again and again.
    let head = tar::unfinished(&[file("opt/zeros", "").size(1 << 30)]);
    let frame = zstd::encode_all(&vec![0; 8 * MIB][..], 19).unwrap();
    let blob = [zstd::encode_all(&head[..], 3).unwrap(), frame.repeat(128)].concat();
    assert!(blob.len() < 64 << 10, "{}", blob.len());
    let (scene, image) = (Scene::new(), with_layer(blob));
    let (source, to) = (scene.source(&image), scene.reference("dst:1"));
    for arguments in [&["verify", &source][..], &["getcap", &source], &["patch", &source, &to]] {
        let said = with_little_memory(arguments).failed(5, &["layer 4", "unpacks to more than 2000 times its"]);
        assert!(said.hint().is_some());
    }
    assert!(!scene.path("dst/index.json").exists());
    // What is only copied is not unpacked.
    with_little_memory(&["copy", &source, &to]).succeeded();
}

// G6
#[test]
fn whatever_the_image_memory_stays_small() {
    // Larger than all the memory, though not beyond measure.
    let program = [elf::amd64(), vec![0; 150 * MIB]].concat();
    let image = Image::kong().packed(tar::tar(&[dir("opt"), file("opt/nginx", program)]), Packing::Fast).build();
    let (scene, registry) = (Scene::new(), Registry::start());
    let source = scene.source(&image);
    let there = format!("{}/a:1", registry.host());
    for arguments in [
        &["patch", &source, &there, "--file", "/opt/nginx"][..],
        &["verify", &there, "--base", &source],
        &["getcap", &there],
        &["copy", &there, &scene.reference("dst:1")],
    ] {
        with_little_memory(arguments).succeeded();
    }
}
