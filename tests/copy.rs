//! `copy`, through the binary: byte for byte, with what refers to the image, and not one request more than needed.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use capatch::oci::digest::{Algorithm, Digest, Hasher};
use capatch::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use common::cli::{capatch, fails, json, ok, prove, run, start};
use common::image::{Content, Image, Index, Packing, Scene, hex, leftovers};
use common::registry::{Ending, Registry, Reply};
use common::tar::{file, tar};
use serde_json::Value;

/// Everything that an index can hold: two platforms, an attestation, an index in it, an artifact, zstd, foreign layers,
/// an empty layer, members that nobody knows, and an entry of a type that nobody knows.
fn zoo() -> Content {
    let one = Image::kong().packed(tar(&[file("zstd", "z")]), Packing::Zstd).build();
    let other = Image::kong_arm64().docker().build();
    let mut artifact = Content::default();
    let layer = artifact.blob("application/vnd.example.thing", b"thing".to_vec());
    let config = artifact.blob("application/vnd.oci.empty.v1+json", b"{}".to_vec());
    let text = format!(
        r#"{{ "schemaVersion":2,"mediaType":"{OCI_MANIFEST}","artifactType":"application/x","config":{config},"layers":[{layer}],"x":1.10 }}"#
    );
    artifact.manifest(OCI_MANIFEST, text.into_bytes());
    let nested = Index::new().platform(&one, "riscv64").members(r#","x-nested": 1e3"#).build();
    let mut unknown = Content::default();
    unknown.manifest("application/vnd.example.unknown+json", br#"{"what":"is this"}"#.to_vec());
    Index::new()
        .platform(&one, "amd64")
        .platform(&other, "arm64")
        .attestation(&one.digest)
        .child(&nested, "")
        .child(&artifact, r#","artifactType":"application/x""#)
        .child(&unknown, r#","x-y": "\u003c""#)
        .members(r#","annotations":{"b":"1","a":"2"}"#)
        .build()
}

fn host(registry: &Registry, name: &str) -> String {
    format!("{}/{name}", registry.host())
}

/// Everything of `content` is there, with the same bytes.
#[track_caller]
fn has_all(registry: &Registry, repository: &str, content: &Content) {
    for (digest, bytes) in &content.blobs {
        let there = registry.blob(repository, &digest.parse().unwrap());
        assert_eq!(there.as_ref(), Some(bytes), "{digest}");
    }
    for (digest, stored) in &content.manifests {
        assert_eq!(registry.manifest(repository, digest).as_ref(), Some(stored), "{digest}");
    }
}

fn sha512(bytes: &[u8]) -> String {
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(bytes);
    hasher.finish().to_string()
}

/// `document` with other digests, and the sizes of what they name.
fn renamed(document: &mut Value, new: &BTreeMap<String, (String, usize)>) {
    match document {
        Value::String(text) => *text = new.get(text).map_or(text.clone(), |(digest, _)| digest.clone()),
        Value::Array(list) => list.iter_mut().for_each(|value| renamed(value, new)),
        Value::Object(members) => {
            if let Some((_, size)) = members.get("digest").and_then(|digest| new.get(digest.as_str()?)) {
                members.insert("size".to_owned(), (*size).into());
            }
            members.values_mut().for_each(|value| renamed(value, new));
        }
        _ => (),
    }
}

/// Two platforms of which everything is named by SHA-512: layers, diff IDs, configs, manifests and the index.
fn all_sha512() -> Content {
    let images = [Image::kong(), Image::kong_arm64()];
    let (mut content, mut new) = (Content::default(), BTreeMap::new());
    for (tar, _) in images.iter().flat_map(|image| &image.layers) {
        new.insert(Digest::of(tar).to_string(), (sha512(tar), tar.len()));
    }
    let [one, other] = images.map(|image| image.build());
    let index = Index::new().platform(&one, "amd64").platform(&other, "arm64").build();
    let layers = [one.layers(), other.layers()].concat();
    let documents = [one.config(), other.config(), one.digest, other.digest, index.digest.clone()];
    for digest in layers.iter().chain(&documents) {
        let manifest = index.manifests.get(digest);
        let mut bytes = manifest.map_or_else(|| index.blobs[digest].clone(), |(_, bytes)| bytes.clone());
        if documents.contains(digest) {
            let mut document = serde_json::from_slice(&bytes).unwrap();
            renamed(&mut document, &new);
            bytes = serde_json::to_vec(&document).unwrap();
        }
        let name = sha512(&bytes);
        new.insert(digest.clone(), (name.clone(), bytes.len()));
        match manifest {
            Some((media_type, _)) => {
                content.manifests.insert(name.clone(), (media_type.clone(), bytes));
                (content.media_type, content.digest) = (media_type.clone(), name);
            }
            None => drop(content.blobs.insert(name, bytes)),
        }
    }
    content
}

// C3
#[test]
fn an_image_that_is_wholly_named_by_sha512_goes_everywhere() {
    let (scene, registry, content) = (Scene::new(), Registry::start(), all_sha512());
    let source = scene.source(&content);
    assert!(!String::from_utf8(fs::read(scene.path("src/index.json")).unwrap()).unwrap().contains("sha256"));
    let archive = format!("oci-archive:{}:kong:1", scene.path("a.tar").display());
    for (from, to) in [
        (&source, &scene.reference("dst:1")),
        (&scene.reference("dst:1"), &archive),
        (&archive, &scene.reference("last:1")),
    ] {
        assert_eq!(json(["copy", from, to])["digest"], content.digest, "{to}");
        assert_eq!(json(["copy", from, to])["result"], "unchanged", "{to}");
        let report = json(["verify", to]);
        assert_eq!(
            (&report["digest"], &report["manifests"], &report["blobs"]),
            (&content.digest.as_str().into(), &3.into(), &6.into()),
            "{to}"
        );
    }
    // A registry names what a tag leads to by SHA-256; below that, everything keeps its names.
    let there = host(&registry, "a:1");
    assert_eq!(json(["copy", &archive, &there])["digest"], content.digest);
    for (digest, bytes) in &content.blobs {
        assert_eq!(registry.blob("a", &digest.parse().unwrap()).as_ref(), Some(bytes));
    }
    assert_eq!(registry.manifest("a", "1").unwrap().1, content.bytes());
    assert_eq!(json(["copy", &archive, &there])["result"], "unchanged");
    ok(["verify", &there]);
    ok(["copy", &there, &scene.reference("back:1")]);
    assert_eq!(
        fs::read(scene.path("back/blobs/sha256").join(Digest::of(content.bytes()).hex())).unwrap(),
        content.bytes()
    );
    // A patch of it is named by SHA-256 where it is new.
    ok(["patch", &source, &scene.reference("dst:low")]);
    prove(&scene.reference("dst:low"), &source);
    // And no other content passes for it.
    let layer = content.blobs.keys().next().unwrap();
    let path = scene.path("src/blobs/sha512").join(layer.split_once(':').unwrap().1);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    fails(5, &[layer], ["copy", &source, &scene.reference("new:1")]);
    fails(5, &[layer], ["verify", &source]);
}

#[test]
fn everything_arrives_byte_for_byte_by_every_way() {
    let (scene, from, to) = (Scene::new(), Registry::start(), Registry::start());
    let zoo = zoo();
    zoo.push(&from, "zoo", "1");
    let layout = scene.reference("dst:1");
    for (a, b) in [
        (host(&from, "zoo:1"), layout.clone()),
        (layout.clone(), scene.reference("again:2")),
        (layout, host(&to, "zoo:1")),
        (host(&from, "zoo:1"), host(&to, "direct:1")),
        (host(&from, &format!("zoo@{}", zoo.digest)), host(&from, "mounted:1")),
    ] {
        let said = json(["copy", &a, &b]);
        assert_eq!((&said["result"], &said["digest"]), (&"copied".into(), &zoo.digest.as_str().into()), "{a} {b}");
        assert_eq!(json(["copy", &a, &b])["result"], "unchanged");
    }
    for (registry, repository) in [(&to, "zoo"), (&to, "direct"), (&from, "mounted")] {
        has_all(registry, repository, &zoo);
        assert_eq!(registry.tag(repository, "1").as_ref(), Some(&zoo.digest));
    }
    for directory in ["dst", "again"] {
        for (digest, bytes) in zoo.blobs.iter().chain(zoo.manifests.iter().map(|(digest, (_, bytes))| (digest, bytes)))
        {
            let path = scene.path(directory).join("blobs").join(digest.replace(':', "/"));
            assert_eq!(&fs::read(path).unwrap(), bytes);
        }
        assert!(leftovers(&scene.path(directory)).is_empty());
    }
}

#[test]
fn what_is_there_is_not_sent_and_what_is_near_is_mounted() {
    let (from, to) = (Registry::start(), Registry::start());
    let image = Image::kong().build();
    image.push(&from, "kong", "1");
    ok(["copy", &host(&from, "kong:1"), &host(&to, "kong:1")]);
    // Another tag of the same image: the destination's manifest says that everything is there.
    from.clear_log();
    to.clear_log();
    let said = json(["copy", &host(&from, "kong:1"), &host(&to, "kong:2")]);
    assert_eq!(said["moves"]["uploaded"], 0);
    assert!(from.log().iter().chain(&to.log()).all(|r| !r.path.contains("/blobs/")), "{:?}", to.lines());
    // The same tag: two requests.
    from.clear_log();
    to.clear_log();
    let said = json(["copy", &host(&from, "kong:1"), &host(&to, "kong:1")]);
    assert_eq!((&said["result"], &said["requests"]), (&"unchanged".into(), &2.into()));
    // Another repository of one registry: nothing is downloaded.
    from.clear_log();
    let said = json(["copy", &host(&from, "kong:1"), &host(&from, "other:1")]);
    assert_eq!(said["moves"]["uploaded"], 0);
    assert_ne!(said["moves"]["mounted"], 0);
    assert!(from.log().iter().all(|r| r.method != "GET" || !r.path.contains("/blobs/")));
    // A registry that refuses to mount gets the content.
    from.refuse_mounts();
    assert_ne!(json(["copy", &host(&from, "kong:1"), &host(&from, "third:1")])["moves"]["uploaded"], 0);
    has_all(&from, "third", &image);
}

// faults.md F15
#[test]
fn files_have_the_modes_that_the_umask_leaves() {
    use std::os::unix::fs::PermissionsExt;
    for umask in [0o000, 0o022, 0o077] {
        let scene = Scene::new();
        let image = Image::kong().build();
        let source = scene.source(&image);
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", &format!("umask {umask:o}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_capatch"), "copy"]);
        start({
            command.args([&source, &scene.reference("dst:1")]).env_clear();
            command
        })
        .succeeded();
        let mode = |name: &str| fs::metadata(scene.path("dst").join(name)).unwrap().permissions().mode() & 0o777;
        let blob = format!("blobs/{}", image.layer(0).replace(':', "/"));
        for (name, before) in [("blobs/sha256", 0o777), (&blob, 0o666), ("index.json", 0o666), ("oci-layout", 0o666)] {
            assert_eq!(mode(name), before & !umask, "{name} {umask:o}");
        }
    }
}

#[test]
fn nothing_is_mounted_from_another_registry() {
    let (from, to) = (Registry::start(), Registry::start());
    Image::kong().build().push(&from, "kong", "1");
    ok(["copy", &host(&from, "kong:1"), &host(&to, "mirror/kong:1")]);
    assert!(to.log().iter().all(|r| r.query("mount").is_none() && r.query("from").is_none()));
}

#[test]
fn the_tag_moves_last_and_once() {
    let (from, to) = (Registry::start(), Registry::start());
    let zoo = zoo();
    zoo.push(&from, "zoo", "1");
    ok(["copy", &host(&from, "zoo:1"), &host(&to, "zoo:1")]);
    let writes: Vec<_> = to.log().into_iter().filter(|r| r.method == "PUT").map(|r| r.path).collect();
    assert!(writes.last().unwrap().ends_with("/manifests/1"));
    assert_eq!(writes.iter().filter(|path| path.contains("/manifests/") && !path.contains("sha256:")).count(), 1);
    let mut seen = std::collections::HashSet::new();
    assert!(writes.iter().filter(|p| p.contains("/manifests/")).all(|path| seen.insert(path)), "{writes:?}");
}

#[test]
fn a_tag_that_is_another_image_stays_without_force() {
    let (scene, registry) = (Scene::new(), Registry::start());
    let (one, other) = (Image::kong().build(), Image::kong_arm64().build());
    one.push(&registry, "kong", "1");
    other.push(&registry, "kong", "2");
    ok(["copy", &host(&registry, "kong:2"), &scene.reference("dst:1")]);
    for to in [host(&registry, "kong:2"), scene.reference("dst:1")] {
        let said = fails(7, &["exists and is another image", &other.digest], ["copy", &host(&registry, "kong:1"), &to]);
        assert!(said.hint().unwrap().contains("--force"));
        let said = json(["copy", "--force", &host(&registry, "kong:1"), &to]);
        assert_eq!(said["replaced"], other.digest.as_str());
    }
    assert_eq!(registry.tag("kong", "2"), Some(one.digest));
}

#[test]
fn some_platforms_make_a_new_index_of_the_same_entries() {
    let (scene, registry) = (Scene::new(), Registry::start());
    let zoo = zoo();
    zoo.push(&registry, "zoo", "1");
    let said = ok(["copy", "--platform", "linux/amd64", &host(&registry, "zoo:1"), &scene.reference("dst:1")]);
    assert!(said.stderr.contains("the digest is another one"), "{said:#?}");
    let opened = scene.open("dst", "1");
    let old: Value = serde_json::from_slice(zoo.bytes()).unwrap();
    let text = String::from_utf8(opened.bytes.to_vec()).unwrap();
    let new: Value = serde_json::from_str(&text).unwrap();
    // amd64, its attestation, the artifact and the unknown entry; arm64 and the index of riscv64 are gone.
    let kept: Vec<&Value> = [0, 2, 4, 5].map(|i| &old["manifests"][i]).to_vec();
    assert_eq!(new["manifests"].as_array().unwrap().iter().collect::<Vec<_>>(), kept);
    assert!(text.contains(r#""x-y": "\u003c""#), "entries keep their bytes");
    assert_eq!(json(["verify", &scene.reference("dst:1")])["ok"], true);
    fails(
        3,
        &["no image for linux/s390x"],
        ["copy", "--platform", "linux/s390x", &host(&registry, "zoo:1"), &scene.reference("x:1")],
    );
    assert!(!scene.path("x").exists());
}

/// A manifest that refers to `subject`.
fn referrer(subject: &Content, what: &str) -> Content {
    let mut content = Content::default();
    let layer = content.blob("application/vnd.example.signature", what.as_bytes().to_vec());
    let config = content.blob("application/vnd.oci.empty.v1+json", b"{}".to_vec());
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","artifactType":"application/{what}","config":{config},"layers":[{layer}],"subject":{}}}"#,
        subject.descriptor("")
    );
    content.manifest(OCI_MANIFEST, text.into_bytes());
    content
}

#[test]
fn referrers_come_too_by_the_api_by_its_tag_and_by_cosigns_tags() {
    let child = Image::kong().build();
    let index = Index::new().platform(&child, "amd64").build();
    let sbom = referrer(&index, "sbom");
    let signatures = [referrer(&index, "sig"), referrer(&child, "child-sig"), referrer(&sbom, "sbom-sig"), sbom];
    let cosign = Image::empty().layer([file("cosign", "cosign")]).build();
    let cosign_tag = format!("{}.sig", child.digest.replace(':', "-"));
    for (api_from, api_to) in [(true, true), (true, false), (false, true), (false, false)] {
        let (scene, from, to) = (Scene::new(), Registry::start(), Registry::start());
        index.push(&from, "kong", "1");
        cosign.push(&from, "kong", &cosign_tag);
        signatures.iter().for_each(|s| s.push(&from, "kong", &s.digest.replace("sha256:", "tmp-")[..40]));
        if api_from {
            from.has_referrers_api();
        } else {
            // Subject, and the manifests that refer to it.
            for (subject, referring) in [
                (&index, &[&signatures[0], &signatures[3]][..]),
                (&child, &[&signatures[1]]),
                (&signatures[3], &[&signatures[2]]),
            ] {
                let entries: Vec<_> =
                    referring.iter().map(|r| r.descriptor(r#","artifactType":"application/x""#)).collect();
                let text =
                    format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#, entries.join(","));
                let tag = subject.digest.replace(':', "-");
                from.put_manifest("kong", Some(&tag), OCI_INDEX, text.as_bytes());
            }
        }
        if api_to {
            to.has_referrers_api();
        }
        let layout = scene.reference("dst:1");
        for (a, b) in [
            (host(&from, "kong:1"), host(&to, "kong:1")),
            (host(&from, "kong:1"), layout.clone()),
            (layout, host(&to, "again:1")),
        ] {
            let said = json(["copy", "--referrers", &a, &b]);
            assert_eq!(said["referrers"]["manifests"].as_array().unwrap().len(), 4, "{said:#}");
            assert_eq!(said["referrers"]["tags"], serde_json::json!([cosign_tag]));
            // They are in place before the tag is.
            let writes: Vec<_> = to.log().into_iter().filter(|r| r.method == "PUT").map(|r| r.path).collect();
            assert!(b.starts_with("oci:") || writes.last().unwrap().ends_with("/manifests/1"), "{writes:?}");
            let again = json(["copy", "--referrers", &a, &b]);
            assert_eq!(again["result"], "unchanged");
            assert_eq!(again["referrers"], said["referrers"], "they are found");
        }
        for repository in ["kong", "again"] {
            for content in signatures.iter().chain([&index, &cosign]) {
                has_all(&to, repository, content);
            }
            assert_eq!(to.tag(repository, &cosign_tag), Some(cosign.digest.clone()));
            let stand_in = to.tag(repository, &index.digest.replace(':', "-"));
            assert_eq!(stand_in.is_some(), !api_to, "the tag stands in for the API only where there is none");
        }
        ok(["copy", &host(&from, "kong:1"), &scene.reference("without:1")]);
        assert!(!scene.path("without/blobs").join(signatures[0].digest.replace(':', "/")).exists());
    }
}

#[test]
fn a_listed_referrer_that_is_missing_is_an_error() {
    let (scene, registry) = (Scene::new(), Registry::start());
    let image = Image::kong().build();
    image.push(&registry, "kong", "1");
    let gone = referrer(&image, "gone");
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#, gone.descriptor(""));
    registry.put_manifest("kong", None, OCI_MANIFEST, gone.bytes());
    registry.put_manifest("kong", Some(&image.digest.replace(':', "-")), OCI_INDEX, text.as_bytes());
    let digest = gone.digest.clone();
    registry.fault(move |r, _| r.is("GET", &digest).then(|| Reply::error(404, "MANIFEST_UNKNOWN")));
    fails(
        3,
        &["referrer of", &gone.digest],
        ["copy", "--referrers", &host(&registry, "kong:1"), &scene.reference("dst:1")],
    );
    assert!(!scene.path("dst/index.json").exists());
}

// faults.md E27
#[test]
fn what_stands_where_referrers_are_listed_is_kept() {
    let image = Image::kong().build();
    let (one, other) = (referrer(&image, "one"), referrer(&image, "other"));
    let tag = image.digest.replace(':', "-");
    let list = |referrer: &Content| {
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#, referrer.descriptor(""))
    };
    let (from, longer, wrong) = (Registry::start(), Registry::start(), Registry::start());
    image.push(&from, "kong", "1");
    one.push(&from, "kong", "one");
    from.put_manifest("kong", Some(&tag), OCI_INDEX, list(&one).as_bytes());
    // A list becomes longer.
    other.push(&longer, "kong", "other");
    longer.put_manifest("kong", Some(&tag), OCI_INDEX, list(&other).as_bytes());
    ok(["copy", "--referrers", &host(&from, "kong:1"), &host(&longer, "kong:1")]);
    let listed = String::from_utf8(longer.manifest("kong", &tag).unwrap().1).unwrap();
    assert!(listed.contains(&one.digest) && listed.contains(&other.digest), "{listed}");
    // What is no list is not ours.
    other.push(&wrong, "kong", &tag);
    let words = [&tag[..], "but is an image"];
    fails(5, &words, ["copy", "--referrers", &host(&from, "kong:1"), &host(&wrong, "kong:1")]);
    assert_eq!((wrong.tag("kong", &tag), wrong.tag("kong", "1")), (Some(other.digest), None));
}

// faults.md C29
#[test]
fn more_referrers_than_anybody_has_are_refused() {
    let (scene, registry) = (Scene::new(), Registry::start());
    let image = Image::kong().build();
    image.push(&registry, "kong", "1");
    let entries: Vec<String> = (0..3300)
        .map(|number| {
            let text = format!(r#"{{"schemaVersion":2,"manifests":[],"x":{number}}}"#);
            let digest = registry.put_manifest("kong", None, OCI_INDEX, text.as_bytes());
            format!(r#"{{"mediaType":"{OCI_INDEX}","digest":"{digest}","size":{}}}"#, text.len())
        })
        .collect();
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#, entries.join(","));
    registry.put_manifest("kong", Some(&image.digest.replace(':', "-")), OCI_INDEX, text.as_bytes());
    let to = scene.reference("dst:1");
    let words = ["the manifests take more than 64 MiB of memory"];
    let said = fails(5, &words, ["copy", "--referrers", &host(&registry, "kong:1"), &to]);
    assert!(said.hint().unwrap().contains("--max-memory"));
    assert!(!scene.path("dst/index.json").exists());
}

// faults.md C29
#[test]
fn referrers_of_referrers_are_followed_to_their_limit() {
    let (scene, registry) = (Scene::new(), Registry::start());
    registry.has_referrers_api();
    let image = Image::kong().build();
    image.push(&registry, "kong", "1");
    let mut subject = image.descriptor("");
    let mut grow = || {
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[],"subject":{subject}}}"#);
        let digest = registry.put_manifest("kong", None, OCI_INDEX, text.as_bytes());
        subject = format!(r#"{{"mediaType":"{OCI_INDEX}","digest":"{digest}","size":{}}}"#, text.len());
    };
    let (source, to) = (host(&registry, "kong:1"), scene.reference("dst:1"));
    (0..8).for_each(|_| grow());
    let copied = json(["copy", "--referrers", &source, &to]);
    assert_eq!(copied["referrers"]["manifests"].as_array().unwrap().len(), 8, "{copied}");
    grow();
    let said = fails(5, &["deeper than 8 levels"], ["copy", "--referrers", &source, &to]);
    assert!(said.hint().unwrap().contains("--max-depth"));
    let copied = json(["copy", "--referrers", "--max-depth", "9", &source, &to]);
    assert_eq!(copied["referrers"]["manifests"].as_array().unwrap().len(), 9, "{copied}");
}

#[test]
fn foreign_layers_stay_unless_asked_for() {
    let (scene, from, to) = (Scene::new(), Registry::start(), Registry::start());
    let plain = Image::kong().build();
    let layer = plain.layer(0);
    let mut image = plain.clone();
    let text = String::from_utf8(plain.bytes().to_vec()).unwrap();
    let foreign = text.replacen("image.layer.v1", "image.layer.nondistributable.v1", 1);
    assert_ne!(text, foreign);
    image.manifest(OCI_MANIFEST, foreign.into_bytes());
    image.push(&from, "kong", "1");
    // Registries take such a manifest without the layer; ours is stricter, so it is a layout that shows it.
    let said = ok(["copy", &host(&from, "kong:1"), &scene.reference("dst:1")]);
    assert!(said.stderr.contains(&layer) && said.stderr.contains("--foreign-layers"), "{said:#?}");
    assert!(!scene.path("dst/blobs").join(layer.replace(':', "/")).exists());
    ok(["copy", "--foreign-layers", &host(&from, "kong:1"), &host(&to, "kong:1")]);
    assert!(to.blob("kong", &layer.parse().unwrap()).is_some());
}

// faults.md D27
#[test]
fn a_patch_leaves_foreign_layers_where_they_are_and_says_so() {
    let scene = Scene::new();
    let mut image = Image::kong().build();
    let layer = image.layer(0);
    let text = String::from_utf8(image.bytes().to_vec()).unwrap();
    image.manifest(OCI_MANIFEST, text.replacen("image.layer.v1", "image.layer.nondistributable.v1", 1).into_bytes());
    let (source, to) = (scene.source(&image), scene.reference("dst:1"));
    let blob = scene.path("dst/blobs").join(layer.replace(':', "/"));
    let said = ok(["patch", &source, &to]);
    let left_out =
        format!("note: the layer {layer} is marked as not to be distributed and was left out (--foreign-layers)");
    assert!(said.stderr.contains(&left_out) && !blob.exists(), "{said:#?}");
    // Nobody says that they saw what is not there, or that it should be there.
    let said = run(["verify", &to, "--base", &source]);
    assert!(
        said.code == 8 && said.stdout.contains(&format!("{layer} is marked as not to be distributed")),
        "{said:#?}"
    );
    let said = run(["getcap", &to]);
    assert!(said.code == 3 && said.stdout.contains("sbin/nginx cap_net_bind_service=ep"), "{said:#?}");
    assert!(said.stderr.contains(&layer) && said.hint().unwrap().contains("--foreign-layers"), "{said:#?}");
    let mut command = capatch(["getcap", &to, "--json"]);
    assert_eq!(
        serde_json::from_slice::<Value>(&command.output().unwrap().stdout).unwrap()["images"][0]["left_out"][0],
        layer
    );
    let said = ok(["inspect", &to]);
    assert!(said.stdout.contains("capabilities  not read") && said.stderr.contains(&layer), "{said:#?}");
    let said =
        fails(3, &[&layer, "not to be distributed"], ["copy", "--foreign-layers", &to, &scene.reference("more:1")]);
    assert!(said.hint().unwrap().contains("--foreign-layers"), "{said:#?}");
    let planned = json(["patch", "--dry-run", "--force", &source, &scene.reference("other:1")]);
    assert_eq!(planned["foreign_layers"][0], layer);
    // The layers that are there are read, though nobody can look at the files.
    let other = scene.path("dst/blobs").join(image.layer(1).replace(':', "/"));
    let good = fs::read(&other).unwrap();
    fs::write(&other, vec![7; good.len()]).unwrap();
    fails(5, &[&image.layer(1)], ["verify", &to]);
    fs::write(&other, good).unwrap();

    let (whole, archive) = (scene.reference("whole:1"), format!("oci-archive:{}:1", scene.path("a.tar").display()));
    fails(5, &[&layer, "not to be distributed"], ["patch", &source, &archive]);
    for to in [&whole, &archive] {
        let said = ok(["patch", "--foreign-layers", &source, to]);
        assert!(!said.stderr.contains("not to be distributed"), "{said:#?}");
        prove(to, &source);
    }
}

// faults.md D27
#[test]
fn an_archive_is_whole_or_not_written() {
    let scene = Scene::new();
    let mut image = Image::kong().build();
    let layer = image.layer(0);
    let text = String::from_utf8(image.bytes().to_vec()).unwrap();
    image.manifest(OCI_MANIFEST, text.replacen("image.layer.v1", "image.layer.nondistributable.v1", 1).into_bytes());
    let (source, to) = (scene.source(&image), format!("oci-archive:{}:1", scene.path("a.tar").display()));
    let said = fails(5, &[&layer, "not to be distributed"], ["copy", &source, &to]);
    assert!(said.hint().unwrap().contains("--foreign-layers"));
    assert!(!scene.path("a.tar").exists());
    ok(["copy", "--foreign-layers", &source, &to]);
    ok(["verify", &to]);
}

#[test]
fn a_damaged_manifest_under_the_tag_is_replaced_by_force() {
    let scene = Scene::new();
    let image = Image::kong().build();
    let (source, to) = (scene.source(&image), scene.reference("dst:1"));
    ok(["copy", &source, &to]);
    let manifest = scene.path("dst/blobs").join(image.digest.replace(':', "/"));
    let damages: [&dyn Fn(); 2] = [&|| fs::write(&manifest, "{}").unwrap(), &|| fs::remove_file(&manifest).unwrap()];
    for (code, damage) in [5, 3].into_iter().zip(damages) {
        for command in ["copy", "patch"] {
            damage();
            let said = fails(code, &[&image.digest], [command, &source, &to]);
            assert!(said.hint().unwrap().contains("--force"), "{said:#?}");
            ok([command, "--force", &source, &to]);
            ok(["verify", &to]);
            ok(["copy", "--force", &source, &to]);
        }
    }
    // A list that cannot be read is not written anew.
    fs::write(scene.path("dst/index.json"), "{").unwrap();
    for command in ["copy", "patch"] {
        let said = fails(5, &["index.json"], [command, "--force", &source, &to]);
        assert!(said.hint().is_none_or(|hint| !hint.contains("--force")), "{said:#?}");
    }
}

// faults.md C21
#[test]
fn of_what_is_no_container_image_no_platform_is_chosen() {
    let scene = Scene::new();
    let mut chart = Image::kong().build();
    let text = String::from_utf8(chart.bytes().to_vec()).unwrap();
    chart.manifest(OCI_MANIFEST, text.replace("oci.image.config.v1", "cncf.helm.config.v1").into_bytes());
    let source = scene.source(&chart);
    let words = ["is not a container image: its config is application/vnd.cncf.helm.config.v1+json"];
    fails(5, &words, ["copy", "--platform", "linux/amd64", &source, &scene.reference("dst:1")]);
    // Whole, its bytes pass through.
    assert_eq!(json(["copy", &source, &scene.reference("dst:1")])["digest"], chart.digest);
}

#[test]
fn a_dry_run_moves_nothing() {
    let (from, to) = (Registry::start(), Registry::start());
    Image::kong().build().push(&from, "kong", "1");
    let said = json(["copy", "--dry-run", &host(&from, "kong:1"), &host(&to, "kong:1")]);
    assert_eq!(said["result"], "planned");
    assert_ne!(said["moves"]["uploaded"], 0);
    assert!(to.log().iter().all(|r| matches!(r.method.as_str(), "GET" | "HEAD")));
}

#[test]
fn a_registry_that_lied_about_a_blob_gets_it() {
    let (from, to) = (Registry::start(), Registry::start());
    let image = Image::kong().build();
    image.push(&from, "kong", "1");
    let layer = image.layer(0);
    let path = layer.clone();
    to.fault_times(2, move |r| r.is("HEAD", &path), |_| Reply::new(200));
    ok(["copy", &host(&from, "kong:1"), &host(&to, "kong:1")]);
    has_all(&to, "kong", &image);
}

/// Cheap numbers that differ from call to call and are the same in every run.
fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..size).map(|_| next()).collect()
}

#[test]
fn cut_at_a_hundred_places_it_still_arrives() {
    let image = Image::kong().layer([file("a", noise(3_000_000, 1))]).layer([file("b", noise(2_000_000, 2))]).build();
    let places = noise(100, 3);
    for (round, place) in places.iter().enumerate() {
        let (from, to) = (Registry::start(), Registry::start());
        image.push(&from, "kong", "1");
        // Downloads end early; in every second round uploads do too.
        let at = usize::from(*place) * 11_000;
        from.fault_times(
            3,
            |r| r.method == "GET" && r.path.contains("/blobs/"),
            move |real| {
                let reply = real();
                let cut = at.min(reply.body.len());
                reply.ending(Ending::Cut(cut))
            },
        );
        if round % 2 == 1 {
            let is_upload = |r: &common::registry::Request| r.method == "PUT" && r.path.contains("/blobs/");
            to.fault_times(2, is_upload, |_| Reply::new(500).ending(Ending::Dropped));
        }
        ok(["copy", &host(&from, "kong:1"), &host(&to, "kong:1")]);
        has_all(&to, "kong", &image);
        assert_eq!(to.tag("kong", "1").as_ref(), Some(&image.digest));
    }
}

// faults.md F22
#[test]
fn what_an_earlier_run_left_is_not_believed() {
    let registry = Registry::start();
    let image = Image::kong().layer([file("a", noise(3_000_000, 6))]).build();
    image.push(&registry, "kong", "1");
    let big = image.layers().pop().unwrap();
    let size = image.blobs[&big].len();
    for length in [2_000_000, size, size + 1] {
        let scene = Scene::new();
        fs::create_dir(scene.path("dst")).unwrap();
        fs::write(scene.path("dst").join(format!(".capatch-{}", big.replace(':', "-"))), vec![7; length]).unwrap();
        ok(["copy", &host(&registry, "kong:1"), &scene.reference("dst:1")]);
        ok(["verify", &scene.reference("dst:1")]);
        assert!(leftovers(&scene.path("dst")).is_empty(), "{length}");
    }
}

#[test]
fn killed_at_a_hundred_moments_it_ends_well_in_the_end() {
    let image = Image::kong().layer([file("a", noise(3_000_000, 4))]).layer([file("b", noise(2_000_000, 5))]).build();
    let (scene, from, to) = (Scene::new(), Registry::start(), Registry::start());
    image.push(&from, "kong", "1");
    from.fault(|r, real| {
        // Slow enough to be killed on the way.
        (r.method == "GET" && r.path.contains("/blobs/")).then(|| {
            std::thread::sleep(Duration::from_millis(4));
            real()
        })
    });
    for destination in [scene.reference("dst:1"), host(&to, "kong:1")] {
        for moment in 0..50 {
            let mut command = capatch(["copy", &host(&from, "kong:1"), &destination]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(200 + 400 * moment));
            child.kill().unwrap();
            child.wait().unwrap();
            // The tag names the whole image, or nothing yet.
            if let Some(digest) = to.tag("kong", "1") {
                assert_eq!(digest, image.digest);
                has_all(&to, "kong", &image);
            }
            assert!(
                !scene.path("dst/index.json").exists() || json(["verify", &scene.reference("dst:1")])["ok"] == true
            );
        }
        ok(["copy", &host(&from, "kong:1"), &destination]);
    }
    has_all(&to, "kong", &image);
    start(capatch(["verify", &scene.reference("dst:1")])).succeeded();
    // Small temporary files go when they are a minute old; of large blobs nothing is left to be continued.
    assert!(leftovers(&scene.path("dst")).iter().all(|path| !path.to_string_lossy().contains("sha256-")));
}

#[test]
fn one_blob_of_two_sizes_is_refused() {
    let scene = Scene::new();
    let mut image = Image::kong().build();
    let manifest = String::from_utf8(image.bytes().to_vec()).unwrap();
    let parsed: Value = serde_json::from_str(&manifest).unwrap();
    let layer = &parsed["layers"][0];
    let lie = format!(r#""layers":[{{"mediaType":{},"digest":{},"size":1}},"#, layer["mediaType"], layer["digest"]);
    let manifest = manifest.replace(r#""layers":["#, &lie);
    image.manifest(OCI_MANIFEST, manifest.into_bytes());
    let source = scene.source(&image);
    for to in [scene.reference("dst:out"), format!("oci-archive:{}:1", scene.path("dst.tar").display())] {
        fails(5, &[layer["digest"].as_str().unwrap(), "is said to have 1 bytes"], ["copy", &source, &to]);
    }
    assert!(!scene.path("dst.tar").exists() && !scene.path("dst/index.json").exists());
}

// Whoever looks for the fault looks where the sentence points.
#[test]
fn an_error_about_the_source_names_the_source() {
    let (scene, registry, other) = (Scene::new(), Registry::start(), Registry::start());
    let image = Image::kong().build();
    image.write(&scene.path("src"), "3.9");
    image.push(&registry, "src", "3.9");
    let digest = image.layer(0);
    let layer = scene.path("src/blobs/sha256").join(hex(&digest));
    let mut bytes = fs::read(&layer).unwrap();
    bytes[20] ^= 1;
    fs::write(&layer, &bytes).unwrap();
    let path = format!("/v2/src/blobs/{digest}");
    registry.fault(move |request, _| request.is("GET", &path).then(|| Reply::new(200).body(bytes.clone())));
    for source in [scene.reference("src:3.9"), format!("{}/src:3.9", registry.host())] {
        let from = source.trim_start_matches("oci:").trim_end_matches(":3.9");
        let archive = format!("oci-archive:{}:1", scene.path("dst.tar").display());
        for destination in [format!("{}/dst:1", other.host()), scene.reference("dst:1"), archive] {
            for command in ["copy", "patch"] {
                let said = fails(5, &["other content"], [command, &source, &destination, "-q"]);
                let sentence = said.stderr.trim_start_matches("capatch: ");
                assert!(sentence.trim_start_matches("oci:").starts_with(from), "{said:#?}");
                assert!(!said.stderr.contains("dst"), "{said:#?}");
            }
        }
    }
}
