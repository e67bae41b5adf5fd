use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::testing::{Image, crane, docker_save, image, index_json, layout, multi, named, platform};
use super::*;
use crate::archive::testing::{compress, dir, file, tar};
use crate::oci::digest::{Algorithm, Hasher};
use crate::oci::manifest::Document;
use crate::oci::media_type::{self, Compression};
use crate::progress::Silent;
use crate::transport::LOCK_TIMEOUT;
use crate::transport::layout::index::{CONTAINERD_NAME, MARKER_CONTENT};

struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Self {
        Scene(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn archive(&self, bytes: &[u8]) -> Archive {
        fs::write(self.path("a.tar"), bytes).unwrap();
        Archive::new(self.path("a.tar"), Format::Oci, Limits::default(), LOCK_TIMEOUT)
    }
    fn left(&self) -> usize {
        fs::read_dir(self.0.path()).unwrap().count()
    }
}

/// Everything below what `target` names, each verified; the root comes first.
fn read(archive: &Archive, target: Option<&Target>) -> Result<Vec<Digest>> {
    let (root, bytes) = archive.resolve(target)?.ok_or_else(|| Error::not_found("nothing of that name"))?;
    crate::blob::verify(&bytes, &root)?;
    let mut all = vec![root.digest.clone()];
    let mut ahead: Vec<Descriptor> = vec![root];
    while let Some(descriptor) = ahead.pop() {
        let bytes = crate::blob::read_small(archive.open(&descriptor.digest, 0)?, &descriptor, &Limits::default())?;
        all.push(descriptor.digest.clone());
        if matches!(descriptor.kind(), media_type::Kind::Index(_) | media_type::Kind::Manifest(_)) {
            let document = Document::parse(&bytes, Some(&descriptor.media_type))?;
            ahead.extend(document.children().into_iter().cloned());
        }
    }
    Ok(all)
}

fn tag(name: &str) -> Target {
    Target::Tag(name.to_owned())
}

#[test]
fn every_kind_of_archive_is_read() {
    let (one, two, index) = (image("one", "amd64"), image("two", "amd64"), multi("many"));
    let flat = index_json(&[platform(&one, "amd64"), platform(&two, "arm64")]);
    let old = docker_save(&one, false);
    let scene = Scene::new();
    let old_digest = read(&scene.archive(&tar(&old)), None).unwrap()[0].clone();
    let mut both = layout(&[&one], &index_json(&[named(&one, "3.9")]));
    both.push(file("manifest.json", br#"[{"Config":"other.json","RepoTags":["x:1"],"Layers":[]}]"#));
    let dotted: Vec<_> = layout(&[&one], &index_json(&[named(&one, "3.9")]))
        .into_iter()
        .map(|mut frame| {
            frame.copy_within(0..98, 2);
            frame[..2].copy_from_slice(b"./");
            let mut header = tar::Header::from_byte_slice(&frame[..512]).clone();
            header.set_cksum();
            frame[..512].copy_from_slice(header.as_bytes());
            frame
        })
        .collect();
    for (what, frames, target, digest, members) in [
        ("one", layout(&[&one], &index_json(&[named(&one, "3.9")])), None, &one.manifest.digest, 4),
        ("./", dotted, Some("3.9"), &one.manifest.digest, 4),
        ("nested", layout(&[&index], &index_json(&[named(&index, "3.9")])), Some("3.9"), &index.manifest.digest, 7),
        ("flat", layout(&[&one, &two], &flat), None, &Digest::of(&flat), 8),
        (
            "two names",
            layout(&[&one, &two], &index_json(&[named(&one, "1"), named(&two, "2")])),
            Some("2"),
            &two.manifest.digest,
            4,
        ),
        ("docker save", old.clone(), None, &old_digest, 4),
        ("docker save by name", old.clone(), Some("docker.io/library/kong:3.9"), &old_digest, 4),
        ("docker save by tag", old.clone(), Some("3.9"), &old_digest, 4),
        ("docker save with links", docker_save(&one, true), Some("kong:3.9"), &old_digest, 4),
        ("docker 25", both, None, &one.manifest.digest, 4),
        ("crane", crane(&one, Compression::Gzip), None, &old_digest, 4),
    ] {
        let mut backwards = frames.clone();
        backwards.reverse();
        for frames in [frames, backwards] {
            let bytes = tar(&frames);
            let archive = scene.archive(&bytes);
            let all = read(&archive, target.map(tag).as_ref()).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!((&all[0], all.iter().collect::<BTreeSet<_>>().len()), (digest, members), "{what}");
            let again = read(&archive, Some(&Target::Digest(digest.clone()))).unwrap();
            assert_eq!(all, again, "{what} by its digest");
            assert!(archive.resolve(Some(&tag("other"))).unwrap().is_none(), "{what}");
            for compression in [Compression::Gzip, Compression::Zstd] {
                let compressed = scene.archive(&compress(&bytes, compression));
                assert_eq!(read(&compressed, target.map(tag).as_ref()).unwrap(), all, "{what} {compression}");
            }
            let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
            xz.write_all(&bytes).unwrap();
            let xz = xz.finish().unwrap();
            assert_eq!(read(&scene.archive(&xz), target.map(tag).as_ref()).unwrap(), all, "{what} xz");
            assert_eq!(read(&scene.archive(&xz[..xz.len() - 20]), None).unwrap_err().kind(), Kind::Content);
        }
    }
    let zstd = read(&scene.archive(&tar(&crane(&one, Compression::Zstd))), None).unwrap();
    assert_ne!(zstd[0], old_digest, "layers keep their bytes");
}

#[test]
fn what_is_no_archive_is_told_so() {
    let scene = Scene::new();
    let one = image("one", "amd64");
    let index = index_json(&[named(&one, "3.9")]);
    let frames = layout(&[&one], &index);
    let in_directory: Vec<_> = [dir("kong/"), file("kong/oci-layout", b"{}"), file("kong/index.json", &index)].into();
    for (what, bytes, words) in [
        ("empty", Vec::new(), "is empty"),
        ("text", b"hello".to_vec(), "not an image archive"),
        ("a page", b"<!DOCTYPE html><html>".to_vec(), "an HTML page"),
        ("a zip", b"PK\x03\x04".to_vec(), "a zip archive"),
        ("no image", tar(&[file("a", b"")]), "no image in it"),
        ("below a directory", tar(&in_directory), "no image in it"),
        ("no marker", tar(&frames[1..]), "no oci-layout file"),
        ("no index", tar(&frames[..frames.len() - 1]), "no index.json"),
        (
            "version 2",
            tar(&[file("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#), file("index.json", &index)]),
            "version 2.0.0",
        ),
        (
            "index null",
            tar(&[file("oci-layout", MARKER_CONTENT.as_bytes()), file("index.json", b"null")]),
            "index.json",
        ),
        (
            "index of 5 MiB",
            tar(&[file("oci-layout", MARKER_CONTENT.as_bytes()), file("index.json", &vec![b' '; 5 << 20])]),
            "limit",
        ),
        ("manifest null", tar(&[file("manifest.json", b"null")]), "manifest.json"),
        ("manifest object", tar(&[file("manifest.json", b"{}")]), "manifest.json"),
    ] {
        let archive = scene.archive(&bytes);
        let error = archive.resolve(None).err().unwrap_or_else(|| panic!("{what} was read"));
        assert_eq!(error.kind(), Kind::Content, "{what}: {error}");
        assert!(error.to_string().contains(words) && error.to_string().contains("a.tar"), "{what}: {error}");
        if !bytes.is_empty() {
            let refused = Archive::new(scene.path("a.tar"), Format::Oci, Limits::default(), LOCK_TIMEOUT)
                .check_writable()
                .unwrap_err();
            assert_eq!(refused.kind(), Kind::DestinationRefused, "{what}: {refused}");
        }
    }
    let two = image("two", "amd64");
    let archive = scene.archive(&tar(&layout(&[&one, &two], &index_json(&[named(&one, "1"), named(&two, "2")]))));
    let error = archive.resolve(None).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let hint = error.hint_text().unwrap();
    assert!(hint.contains("a.tar:1") && hint.contains("a.tar:2"), "{hint}");
    assert_eq!(archive.names().unwrap(), ["1", "2"]);

    assert!(
        Archive::new(scene.path("none"), Format::Oci, Limits::default(), LOCK_TIMEOUT).resolve(None).unwrap().is_none()
    );
    assert_eq!(
        Archive::new(scene.0.path(), Format::Oci, Limits::default(), LOCK_TIMEOUT).resolve(None).unwrap_err().kind(),
        Kind::Content
    );
    let fifo = scene.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    for odd in [fifo.as_path(), Path::new("/dev/null")] {
        assert_eq!(
            Archive::new(odd, Format::Oci, Limits::default(), LOCK_TIMEOUT).resolve(None).unwrap_err().kind(),
            Kind::Content,
            "{odd:?}"
        );
    }
}

#[test]
fn damage_is_noticed_or_harmless() {
    let scene = Scene::new();
    let one = image("one", "amd64");
    let file = fs::File::options().read(true).write(true).create_new(true).open(scene.path("damaged.tar")).unwrap();
    let digests = |length: usize| {
        let tar = crate::blob::Spool::of_file(file.try_clone().unwrap(), length as u64);
        let opened = Opened::new(Source { tar, compressed: false, identity: None }, Limits::default())
            .map(|opened| Some(Arc::new(opened)));
        let archive = Archive::new("damaged.tar", Format::Oci, Limits::default(), LOCK_TIMEOUT);
        *archive.0.opened.lock().unwrap() = Some(opened);
        read(&archive, None)
    };
    // Conversion takes longer, so fewer bytes are tried there.
    for (what, frames, step) in [
        ("layout", layout(&[&one], &index_json(&[named(&one, "3.9")])), 1),
        ("docker save", docker_save(&one, true), 7),
        ("crane", crane(&one, Compression::Gzip), 3),
    ] {
        let good = tar(&frames);
        file.write_all_at(&good, 0).unwrap();
        let digest = digests(good.len()).unwrap()[0].clone();
        let check = |length: usize, damage: String| {
            if let Ok(all) = digests(length) {
                assert_eq!(all[0], digest, "{what}, {damage}");
            }
        };
        for at in (0..good.len()).step_by(step) {
            file.write_all_at(&[good[at] ^ (1 << (at % 8))], at as u64).unwrap();
            check(good.len(), format!("byte {at}"));
            file.write_all_at(&good[at..=at], at as u64).unwrap();
        }
        for length in (0..good.len()).step_by(97).chain((0..good.len()).step_by(512)) {
            check(length, format!("{length} bytes"));
        }
        assert_eq!(digests(good.len() - 1024).unwrap_err().kind(), Kind::Content);
    }
}

fn record(archive: &Archive, image: &Image, name: &str) {
    for (descriptor, bytes) in &image.blobs {
        archive.add_blob(descriptor, Bytes::copy_from_slice(bytes).into());
    }
    for (descriptor, bytes) in &image.documents {
        archive.add_manifest(descriptor, Bytes::copy_from_slice(bytes));
    }
    let kong = Repository { registry: "docker.io".into(), path: "library/kong".into() };
    archive.clone().for_push(Some(kong)).tag(name, &image.manifest).unwrap();
}

async fn write(path: &Path, images: &[(&Image, &str)]) -> Result<()> {
    let archive = Archive::new(path, Format::Oci, Limits::default(), LOCK_TIMEOUT);
    images.iter().for_each(|(image, name)| record(&archive, image, name));
    archive.finish(&(Arc::new(Silent) as Arc<dyn Progress>)).await
}

fn member(path: &Path, name: &str) -> Option<serde_json::Value> {
    let tar = crate::blob::Spool::of_file(fs::File::open(path).unwrap(), fs::metadata(path).unwrap().len());
    let bytes = Members::index(tar, Limits::default()).unwrap().read_small(name.as_bytes()).unwrap()?;
    Some(serde_json::from_slice(&bytes).unwrap())
}

#[tokio::test]
async fn what_is_written_is_read_again_and_keeps_what_was_there() {
    let scene = Scene::new();
    let (one, many) = (image("one", "amd64"), multi("many"));
    let path = scene.path("new.tar");
    write(&path, &[(&one, "3.9"), (&many, "3.10")]).await.unwrap();
    let first = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    write(&path, &[(&one, "3.9")]).await.unwrap();
    write(&path, &[(&many, "3.10")]).await.unwrap();
    assert!(fs::read(&path).unwrap() == first, "same images, same bytes");
    write(&path, &[(&many, "docker.io/kong:3.10")]).await.unwrap();
    assert!(fs::read(&path).unwrap() == first, "written again, same bytes");
    assert_eq!(scene.left(), 1, "nothing is left behind");

    let archive = Archive::new(&path, Format::Docker, Limits::default(), LOCK_TIMEOUT);
    assert_eq!(read(&archive, Some(&tag("kong:3.9"))).unwrap()[0], one.manifest.digest);
    assert_eq!(read(&archive, Some(&tag("3.10"))).unwrap()[0], many.manifest.digest);
    assert_eq!(archive.names().unwrap(), ["docker.io/library/kong:3.9", "docker.io/library/kong:3.10"]);
    let amd64 = &many.blobs[0].0.digest;
    let docker = member(&path, "manifest.json").unwrap();
    assert_eq!(docker[1]["Config"], oci::blob_path(amd64), "amd64 comes second in the index");
    let tags = |image: &serde_json::Value| image["RepoTags"].to_string();
    assert_eq!(
        tags(&docker[0]) + &tags(&docker[1]),
        r#"["docker.io/library/kong:3.9"]["docker.io/library/kong:3.10"]"#
    );
    let entry = &member(&path, "index.json").unwrap()["manifests"][0];
    assert_eq!(entry["annotations"][CONTAINERD_NAME], "docker.io/library/kong:3.9");
    assert_eq!(entry["annotations"][crate::oci::manifest::REF_NAME], "3.9");

    // A name moves: what only the old image had goes.
    let two = image("two", "amd64");
    write(&path, &[(&two, "3.9")]).await.unwrap();
    let archive = Archive::new(&path, Format::Oci, Limits::default(), LOCK_TIMEOUT);
    assert_eq!(read(&archive, Some(&tag("3.9"))).unwrap()[0], two.manifest.digest);
    assert_eq!(read(&archive, Some(&tag("3.10"))).unwrap()[0], many.manifest.digest);
    assert_eq!(archive.open(&one.manifest.digest, 0).err().unwrap().kind(), Kind::NotFound);
    assert!(archive.has(&many.blobs[1].0).unwrap());
    let mut rest = Vec::new();
    archive.open(&many.blobs[1].0.digest, 3).unwrap().read_to_end(&mut rest).unwrap();
    assert_eq!(rest, many.blobs[1].1[3..]);
}

#[tokio::test]
async fn images_of_docker_and_flat_ones_are_kept() {
    let scene = Scene::new();
    let (one, two, three) = (image("one", "amd64"), image("two", "arm64"), image("three", "amd64"));
    let old = read(&scene.archive(&tar(&docker_save(&one, true))), None).unwrap();
    write(&scene.path("a.tar"), &[(&two, "two")]).await.unwrap();
    let archive = Archive::new(scene.path("a.tar"), Format::Oci, Limits::default(), LOCK_TIMEOUT);
    assert_eq!(read(&archive, Some(&tag("kong:3.9"))).unwrap(), old);
    assert_eq!(read(&archive, Some(&tag("two"))).unwrap()[0], two.manifest.digest);

    let flat = index_json(&[platform(&one, "amd64"), platform(&two, "arm64")]);
    scene.archive(&tar(&layout(&[&one, &two], &flat)));
    write(&scene.path("a.tar"), &[(&three, "three")]).await.unwrap();
    let index = member(&scene.path("a.tar"), "index.json").unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 3);
    assert_eq!(member(&scene.path("a.tar"), "manifest.json").unwrap().as_array().unwrap().len(), 3);
}

#[test]
fn xz_that_takes_much_memory_is_refused() {
    // 1 KiB of zeros; xz --lzma2=preset=0,dict=96MiB.
    let xz =
        b"\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x1d\x00\x00\x00\x75\xa8\xe4\x74\xe0\x03\
        \xff\x00\x0b\x5d\x00\x00\x6f\xfd\xff\xff\xa3\xb7\x7f\x46\x32\x00\x00\x00\x0c\x27\x69\x20\x97\x63\x78\xc3\
        \x00\x01\x27\x80\x08\x00\x00\x00\x2e\x79\xae\xad\xb1\xc4\x67\xfb\x02\x00\x00\x00\x00\x04\x59\x5a";
    let error = Scene::new().archive(xz).resolve(None).unwrap_err();
    assert_eq!(error.kind(), Kind::Content);
    assert!(error.to_string().contains("more than 80 MiB of memory"), "{error}");
}

#[tokio::test]
async fn names_too_long_for_a_header_are_read_by_others_too() {
    let scene = Scene::new();
    let mut one = image("one", "amd64");
    let (layer, bytes) = one.blobs[1].clone();
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(&bytes);
    let long = layer.with_content(hasher.finish(), layer.size).unwrap();
    let manifest = String::from_utf8(one.documents[0].1.clone()).unwrap();
    let manifest = manifest.replace(layer.digest.as_str(), long.digest.as_str()).into_bytes();
    one.manifest = one.manifest.with_content(Digest::of(&manifest), manifest.len() as u64).unwrap();
    one.documents[0] = (one.manifest.clone(), manifest);
    one.blobs[1].0 = long.clone();
    write(&scene.path("long.tar"), &[(&one, "3.9")]).await.unwrap();
    assert_eq!(
        read(&Archive::new(scene.path("long.tar"), Format::Oci, Limits::default(), LOCK_TIMEOUT), None).unwrap()[0],
        one.manifest.digest
    );
    let mut other = ::tar::Archive::new(fs::File::open(scene.path("long.tar")).unwrap());
    let paths: Vec<_> = other.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
    assert_eq!(paths.len(), 7);
    assert!(paths.contains(&oci::blob_path(&long.digest).into()), "{paths:?}");
}

#[tokio::test]
async fn a_delta_leaves_out_what_is_known_and_says_since_what() {
    let scene = Scene::new();
    let (one, two) = (image("one", "amd64"), image("two", "amd64"));
    let path = scene.path("delta.tar");
    let archive = Archive::new(&path, Format::Oci, Limits::default(), LOCK_TIMEOUT);
    let known: HashSet<Digest> = one.blobs.iter().map(|(descriptor, _)| descriptor.digest.clone()).collect();
    let shared = &two.blobs[2].0;
    assert!(known.contains(&shared.digest));
    archive.since(known, "docker.io/library/kong:3.8".into());
    assert!(archive.has(shared).unwrap(), "nobody has to send it");
    record(&archive, &two, "3.9");
    archive.finish(&(Arc::new(Silent) as Arc<dyn Progress>)).await.unwrap();
    let error = archive.open(&shared.digest, 0).err().unwrap();
    assert!(error.to_string().contains("a delta since docker.io/library/kong:3.8"), "{error}");
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(archive.open(&two.blobs[1].0.digest, 0).is_ok());
    assert_eq!(archive.resolve(None).unwrap().unwrap().0.digest, two.manifest.digest);
    assert!(member(&path, "manifest.json").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_lose_no_image() {
    let scene = Scene::new();
    let path = scene.path("shared.tar");
    let writers = (0..6).map(|i| {
        let (path, image) = (path.clone(), image(&i.to_string(), "amd64"));
        tokio::spawn(async move {
            let archive = Archive::new(&path, Format::Oci, Limits::default(), LOCK_TIMEOUT);
            assert!(archive.resolve(Some(&tag("x"))).unwrap().is_none(), "looked at before the others wrote");
            record(&archive, &image, &i.to_string());
            archive.finish(&(Arc::new(Silent) as Arc<dyn Progress>)).await.unwrap();
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(Archive::new(&path, Format::Oci, Limits::default(), LOCK_TIMEOUT).names().unwrap().len(), 6);
    assert_eq!(scene.left(), 1);
}

#[tokio::test]
async fn manifests_that_take_much_memory_are_not_written() {
    let scene = Scene::new();
    let images = ["one", "two", "three"].map(|name| image(name, "amd64"));
    // Each counts for 20 KiB and more, and all may have the half.
    let limits = Limits { memory: 128 << 10, ..Limits::default() };
    for (count, refused) in [(2, false), (3, true)] {
        let archive = Archive::new(scene.path(&format!("{count}.tar")), Format::Oci, limits, LOCK_TIMEOUT);
        images[..count].iter().for_each(|image| record(&archive, image, &image.manifest.digest.hex()[..8]));
        let written = archive.finish(&(Arc::new(Silent) as Arc<dyn Progress>)).await;
        let said = written.err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(said.contains("the manifests of the archive take more than 64 KiB of memory"), refused, "{said}");
        assert_eq!(scene.path(&format!("{count}.tar")).exists(), !refused, "{said}");
    }
}

#[tokio::test]
async fn a_failure_leaves_the_old_file_as_it_was() {
    let scene = Scene::new();
    let (one, two) = (image("one", "amd64"), image("two", "amd64"));
    let path = scene.path("a.tar");
    write(&path, &[(&one, "3.9")]).await.unwrap();
    let before = fs::read(&path).unwrap();
    let mut lying = two.clone();
    lying.blobs[1].1[20] ^= 1;
    let mut short = two.clone();
    short.blobs[1].1.pop();
    let mut lacking = two.clone();
    lacking.blobs.pop();
    lacking.blobs.remove(1);
    let mut no_child = multi("many");
    no_child.documents.pop();
    for (what, image) in [("lying", lying), ("short", short), ("lacking", lacking), ("no child", no_child)] {
        for path in [&path, &scene.path("new.tar")] {
            let error = write(path, &[(&image, "3.9")]).await.err().unwrap_or_else(|| panic!("{what} was written"));
            assert_eq!(error.kind(), Kind::Content, "{what}: {error}");
        }
        assert!(fs::read(&path).unwrap() == before, "{what}");
        assert_eq!(scene.left(), 1, "{what}");
    }
    fs::write(&path, "my diary").unwrap();
    assert_eq!(write(&path, &[(&two, "1")]).await.unwrap_err().kind(), Kind::DestinationRefused);
    assert_eq!(fs::read(&path).unwrap(), b"my diary");
    fs::write(&path, "").unwrap();
    write(&path, &[(&two, "1")]).await.unwrap();
    assert!(write(&scene.path("no/such/directory.tar"), &[(&two, "1")]).await.is_err());
}
