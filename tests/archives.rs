//! Images in archives, through the binary: from and to files and pipes, whole and as deltas, with equal digests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use capatch::oci::digest::{Algorithm, Digest, Hasher};
use capatch::oci::media_type::OCI_INDEX;
use common::cli::{Run, capatch, fails, json, ok, prove, run, start};
use common::files;
use common::image::{Content, Image, Index, NGINX, Packing, Scene, hex, leftovers};
use common::registry::{Ending, Registry, Reply};
use common::tar::{file, symlink, tar};
use serde_json::{Value, json as value};

/// Two platforms, an attestation, an index in it, and zstd.
fn zoo() -> Content {
    let one = Image::kong().packed(tar(&[file("zstd", "z")]), Packing::Zstd).build();
    let nested = Index::new().platform(&one, "riscv64").build();
    Index::new()
        .platform(&Image::kong_arm64().build(), "arm64")
        .platform(&one, "amd64")
        .attestation(&one.digest)
        .child(&nested, "")
        .build()
}

/// An archive in the directory of `scene`.
fn archive(scene: &Scene, format: &str, name: &str) -> String {
    format!("{format}-archive:{}", scene.path(name).display())
}

#[track_caller]
fn digest_of(image: &str) -> String {
    json(["verify", image])["digest"].as_str().unwrap().to_owned()
}

/// The members of a tar, in order.
fn members(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut archive = ::tar::Archive::new(fs::File::open(path).unwrap());
    let read = |entry: std::io::Result<::tar::Entry<'_, fs::File>>| {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        let fixed = (header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap());
        assert_eq!(fixed, (0o644, 0, 0, 0));
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().display().to_string(), bytes)
    };
    archive.entries().unwrap().map(read).collect()
}

fn member(path: &Path, name: &str) -> Option<Value> {
    let found = members(path).into_iter().find(|(member, _)| member == name)?;
    Some(serde_json::from_slice(&found.1).unwrap())
}

/// `source | destination`, each an argument list of ours; how both ended.
fn piped(source: &[&str], destination: &[&str]) -> (Run, Run) {
    let mut writer = capatch(source).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let reader = capatch(destination).stdin(writer.stdout.take().unwrap()).output().unwrap();
    (writer.wait_with_output().unwrap().into(), reader.into())
}

fn fed(bytes: &[u8], arguments: &[&str]) -> Run {
    let mut child =
        capatch(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A run that refuses its input may be over before it has it all.
    let _ = child.stdin.take().unwrap().write_all(bytes);
    child.wait_with_output().unwrap().into()
}

#[test]
fn digests_stay_the_same_through_every_pair_of_places() {
    let (scene, registry) = (Scene::new(), Registry::start());
    for (what, content) in [("oci", Image::kong().build()), ("docker", Image::kong().docker().build()), ("zoo", zoo())]
    {
        let source = scene.source(&content);
        let places = [
            archive(&scene, "oci", &format!("{what}.tar:3.9")),
            archive(&scene, "docker", &format!("{what}-docker.tar:example.com/kong:3.9")),
            format!("{}/{what}:3.9", registry.host()),
            archive(&scene, "oci", &format!("{what}-again.tar:kong:3.9")),
            scene.reference(&format!("{what}:3.9")),
        ];
        let mut from = source.clone();
        for to in places {
            ok(["copy", &from, &to]);
            assert_eq!(digest_of(&to), content.digest, "{what}: {from} to {to}");
            assert_eq!(json(["copy", &from, &to])["result"], "unchanged", "{to}");
            from = to;
        }
        assert_eq!(fs::read_dir(scene.directory.path()).unwrap().count(), 5);
        assert!(leftovers(scene.directory.path()).is_empty());
        for name in fs::read_dir(scene.directory.path()).unwrap().flatten().map(|entry| entry.path()) {
            if name.is_dir() { fs::remove_dir_all(name).unwrap() } else { fs::remove_file(name).unwrap() }
        }
    }
}

#[test]
fn an_archive_for_a_closed_output_is_refused() {
    let scene = Scene::new();
    let source = scene.source(&Image::kong().build());
    for (output, code) in [(">&-", 2), (">/dev/null", 0)] {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("exec \"$@\" {output}"), "sh", env!("CARGO_BIN_EXE_capatch")]);
        shell.args(["copy", &source, "oci-archive:-:1"]).env_clear();
        assert_eq!(start(shell).code, code, "{output}");
    }
}

// I8
#[test]
fn what_is_in_an_archive_can_be_listed_and_proved_without_a_network() {
    let (scene, zoo) = (Scene::new(), zoo());
    ok(["copy", &scene.source(&zoo), &archive(&scene, "oci", "a.tar:kong:3.9")]);
    let run = |image: &str| {
        let mut command = Command::new("unshare");
        command.args(["-rn", env!("CARGO_BIN_EXE_capatch"), "verify", image, "--json"]).env_clear();
        start(command)
    };
    let report = run(&archive(&scene, "oci", "a.tar")).succeeded().json();
    let listed: Vec<(&str, u64)> = report["contents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|content| {
            assert!(content["media_type"].as_str().is_some_and(|text| text.contains('/')), "{content}");
            (content["digest"].as_str().unwrap(), content["size"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(listed[0].0, zoo.digest, "what the image is named by comes first");
    let blobs = zoo.blobs.iter().map(|(digest, bytes)| (digest.as_str(), bytes.len() as u64));
    let manifests = zoo.manifests.iter().map(|(digest, (_, bytes))| (digest.as_str(), bytes.len() as u64));
    let (mut listed, mut expected): (Vec<_>, Vec<_>) = (listed, blobs.chain(manifests).collect());
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    // One bit of any of it, and it is no proof any more.
    let path = scene.path("a.tar");
    let bytes = fs::read(&path).unwrap();
    let of = |digest: &str| zoo.blobs.get(digest).unwrap_or_else(|| &zoo.manifests[digest].1).clone();
    for (digest, _) in expected {
        let content = of(digest);
        let at = bytes.windows(content.len()).position(|window| window == content).unwrap() + content.len() - 1;
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(scene.path("b.tar"), damaged).unwrap();
        assert_eq!(run(&archive(&scene, "oci", "b.tar")).code, 5, "{digest}");
    }
}

// F17
#[test]
fn two_lists_that_disagree_are_warned_of_and_the_index_counts() {
    let scene = Scene::new();
    let image = Image::kong().build();
    ok(["copy", &scene.source(&image), &archive(&scene, "oci", "a.tar:kong:3.9")]);
    let config = image.config();
    let of = |config: &str| format!(r#"[{{"Config":"blobs/sha256/{config}","RepoTags":["kong:3.9"],"Layers":[]}}]"#);
    let other = "0".repeat(64);
    for (list, why) in [
        (of(hex(&config)), None),
        (of(&other), Some(format!("only the latter has the image blobs/sha256/{other}"))),
        (format!("{}x", of(hex(&config))), Some("trailing".to_owned())),
        ("[]".to_owned(), None),
    ] {
        let mut all = members(&scene.path("a.tar"));
        all.iter_mut().find(|(name, _)| name == "manifest.json").unwrap().1 = list.into_bytes();
        let entries: Vec<_> = all.iter().map(|(name, bytes)| file(name, bytes.clone())).collect();
        fs::write(scene.path("b.tar"), tar(&entries)).unwrap();
        let said = ok(["inspect", &archive(&scene, "oci", "b.tar"), "--json"]);
        assert_eq!(said.json()["digest"], image.digest);
        let words = "index.json and manifest.json disagree: ";
        match why {
            None => assert_eq!(said.stderr, ""),
            Some(why) => assert!(said.stderr.contains(words) && said.stderr.contains(&why), "{said:?}"),
        }
        assert_eq!(said.stderr.matches(words).count(), said.stderr.lines().count(), "it is said once: {said:?}");
    }
}

#[test]
fn the_archive_has_both_lists_and_nothing_of_this_machine() {
    let scene = Scene::new();
    let zoo = zoo();
    let source = scene.source(&zoo);
    let path = scene.path("kong.tar");
    ok(["copy", &source, &archive(&scene, "oci", "kong.tar:registry.example.com/kong:3.9")]);
    let all = members(&path);
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names[..4],
        ["oci-layout", "index.json", "manifest.json", &format!("blobs/sha256/{}", hex(&zoo.digest))]
    );
    for (name, bytes) in &all[3..] {
        assert_eq!(name.as_str(), format!("blobs/sha256/{}", Digest::of(bytes).hex()));
    }
    assert_eq!(all.len(), 3 + zoo.blobs.len() + zoo.manifests.len(), "each blob once, and all of them");
    let entry = &member(&path, "index.json").unwrap()["manifests"][0];
    assert_eq!(entry["digest"], zoo.digest.as_str());
    let names = value!({"io.containerd.image.name": "registry.example.com/kong:3.9", "org.opencontainers.image.ref.name": "3.9"});
    assert_eq!(entry["annotations"], names);
    let docker = member(&path, "manifest.json").unwrap();
    assert_eq!(docker.as_array().unwrap().len(), 1);
    assert_eq!(docker[0]["RepoTags"], value!(["registry.example.com/kong:3.9"]));
    let config = docker[0]["Config"].as_str().unwrap();
    let config: Value = member(&path, config).unwrap();
    assert_eq!(config["architecture"], "amd64", "though arm64 comes first");

    let first = fs::read(&path).unwrap();
    let mut again = Command::new("sh");
    again.args(["-c", "umask 077; cd /; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_capatch"), "copy", &source]);
    again.arg(archive(&scene, "oci", "again.tar:registry.example.com/kong:3.9"));
    start({
        again.env_clear().env("SOURCE_DATE_EPOCH", "1").env("PATH", "/usr/bin:/bin").env("TZ", "Asia/Tokyo");
        again
    })
    .succeeded();
    assert!(fs::read(scene.path("again.tar")).unwrap() == first, "same image, same bytes");
    let (written, _) = piped(
        &["copy", "-q", &source, "oci-archive:-:registry.example.com/kong:3.9"],
        &["copy", "oci-archive:-", &scene.reference("from-pipe:1")],
    );
    written.succeeded();
    assert_eq!(digest_of(&scene.reference("from-pipe:1")), zoo.digest);
}

#[test]
fn patching_goes_from_archive_to_archive_without_a_network() {
    let scene = Scene::new();
    let (source, base) = (scene.source(&zoo()), archive(&scene, "oci", "base.tar:kong:3.9"));
    ok(["copy", &source, &base]);
    let patched = archive(&scene, "docker", "patched.tar:kong:3.9-lowport");
    ok(["patch", &base, &patched]);
    prove(&patched, &base);
    assert!(ok(["getcap", &patched, NGINX]).stdout.contains("cap_net_bind_service=ep"));
    // Into the file that the base is in.
    let beside = archive(&scene, "oci", "base.tar:kong:3.9-lowport");
    ok(["patch", &base, &beside]);
    prove(&beside, &base);
    assert_eq!(digest_of(&beside), digest_of(&patched));
    // Through pipes on both sides.
    let layout = scene.reference("layout:3.9");
    ok(["patch", &source, &layout]);
    let (_, read) = piped(
        &["copy", "-q", &base, "oci-archive:-:kong:3.9"],
        &["patch", "-q", "oci-archive:-", &scene.reference("piped:3.9")],
    );
    read.succeeded();
    let (_, read) = piped(
        &["patch", &base, "oci-archive:-:kong:3.9-lowport"],
        &["copy", "-q", "oci-archive:-", &scene.reference("from-pipe:3.9")],
    );
    read.succeeded();
    assert_eq!(digest_of(&scene.reference("from-pipe:3.9")), digest_of(&patched));
    let images = json(["verify", &scene.reference("piped:3.9")])["images"].clone();
    assert_eq!(images[0]["platform"], "linux/arm64");
}

#[test]
fn archives_of_docker_are_read() {
    let scene = Scene::new();
    let content = Image::kong().build();
    let config = content.blobs[&content.config()].clone();
    let layers: Vec<Vec<u8>> = Image::kong().layers.into_iter().map(|(tar, _)| tar).collect();
    let name = format!("{}.json", hex(&content.config()));
    let list =
        value!([{"Config": name, "RepoTags": ["kong:3.9"], "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar"]}]);
    let saved = tar(&[
        file("a/layer.tar", layers[0].clone()),
        symlink("b/layer.tar", "../elsewhere/layer.tar"),
        file("elsewhere/layer.tar", layers[1].clone()),
        file("c/layer.tar", layers[2].clone()),
        file(&name, config),
        file("manifest.json", list.to_string()),
    ]);
    fs::write(scene.path("saved.tar"), &saved).unwrap();
    let base = archive(&scene, "docker", "saved.tar:kong:3.9");
    assert_eq!(digest_of(&base), digest_of(&archive(&scene, "docker", "saved.tar")));
    let patched = scene.reference("patched:1");
    ok(["patch", &base, &patched]);
    prove(&patched, &base);
    assert_eq!(json(["inspect", &patched])["digest"], json(["verify", &patched])["digest"]);
    fails(3, &["does not exist", "kong:3.9"], ["inspect", &archive(&scene, "docker", "saved.tar:kong:4")]);
    // The same through a pipe.
    fed(&saved, &["patch", "docker-archive:-", &scene.reference("piped:1")]).succeeded();
    let layers = |name| json(["inspect", &scene.reference(name)])["images"][0]["layers"].clone();
    assert_eq!(layers("piped:1"), layers("patched:1"));
    // A layer that is not what the config says.
    let wrong = [&saved[..600], &[saved[600] ^ 1], &saved[601..]].concat();
    fs::write(scene.path("wrong.tar"), wrong).unwrap();
    fails(5, &["wrong.tar"], ["inspect", &archive(&scene, "docker", "wrong.tar")]);
}

#[test]
fn a_delta_completes_what_is_there_and_nothing_else() {
    let (scene, registry) = (Scene::new(), Registry::start());
    let base = Image::kong().build();
    let source = scene.source(&base);
    let delta = archive(&scene, "oci", "delta.tar:kong:3.9-lowport");
    let patched = scene.reference("patched:3.9-lowport");
    ok(["patch", &source, &patched]);
    ok(["copy", &patched, &delta, "--since", &source]);
    assert!(member(&scene.path("delta.tar"), "manifest.json").is_none());
    let entry = member(&scene.path("delta.tar"), "index.json").unwrap()["manifests"][0].clone();
    assert!(entry["annotations"]["dev.capatch.since"].as_str().unwrap().contains(&base.digest), "{entry}");
    assert_eq!(members(&scene.path("delta.tar")).len(), 2 + 3, "a manifest, a config and a layer");

    let empty = format!("{}/kong:3.9", registry.host());
    fails(3, &["delta since", &base.digest], ["copy", &delta, &empty]);
    ok(["copy", &source, &empty]);
    let result = format!("{}/kong:3.9-lowport", registry.host());
    ok(["copy", &delta, &result]);
    prove(&result, &empty);
    assert_eq!(digest_of(&result), digest_of(&patched));
}

#[test]
fn archives_keep_other_images_and_refuse_to_lose_any() {
    let scene = Scene::new();
    let (one, two) = (Image::kong().build(), Image::kong_arm64().build());
    one.write(&scene.path("src"), "1");
    two.write(&scene.path("src"), "2");
    let at = |name: &str| archive(&scene, "oci", name);
    ok(["copy", &scene.reference("src:1"), &at("both.tar:kong:1")]);
    ok(["copy", &scene.reference("src:2"), &at("both.tar:kong:2")]);
    assert_eq!(
        (digest_of(&at("both.tar:1")), digest_of(&at("both.tar:kong:2"))),
        (one.digest.clone(), two.digest.clone())
    );
    let hint = fails(3, &["more than one image"], ["inspect", &at("both.tar")]).hint().unwrap().to_owned();
    assert!(hint.contains("both.tar:1") && hint.contains("both.tar:2"), "{hint}");
    fails(7, &["is another image"], ["copy", &scene.reference("src:2"), &at("both.tar:kong:1")]);
    ok(["copy", "--force", &scene.reference("src:2"), &at("both.tar:kong:1")]);
    assert_eq!(digest_of(&at("both.tar:1")), two.digest);
    assert!(
        !members(&scene.path("both.tar")).iter().any(|(name, _)| name.ends_with(hex(&one.digest))),
        "nobody reaches it"
    );

    let before = fs::read(scene.path("both.tar")).unwrap();
    let layer = scene.path("src/blobs/sha256").join(hex(&one.layer(1)));
    let mut bytes = fs::read(&layer).unwrap();
    bytes[30] ^= 1;
    fs::write(&layer, bytes).unwrap();
    fails(5, &["other content"], ["copy", &scene.reference("src:1"), &at("both.tar:kong:3")]);
    assert!(fs::read(scene.path("both.tar")).unwrap() == before, "as it was");
    assert!(leftovers(scene.directory.path()).is_empty());

    fs::write(scene.path("diary"), "my diary").unwrap();
    fs::write(scene.path("cut.tar"), &before[..before.len() - 2000]).unwrap();
    for (name, code) in [("diary", 7), ("cut.tar", 7), ("no/directory.tar", 3)] {
        run(["copy", &scene.reference("src:2"), &at(&format!("{name}:kong:1"))]).failed(code, &[name]);
    }
    assert_eq!(fs::read(scene.path("diary")).unwrap(), b"my diary");
    fails(5, &["cut"], ["inspect", &at("cut.tar:2")]);
}

#[test]
fn pipes_that_break_are_errors() {
    let scene = Scene::new();
    let big: Vec<u8> = (0..400_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let content = Image::kong().layer([file("big", big)]).build();
    let source = scene.source(&content);
    let mut writer = capatch(["copy", &source, "oci-archive:-:kong:3.9"]);
    let mut writer = writer.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = writer.stdout.take().unwrap();
    let mut some = vec![0; 70_000];
    stdout.read_exact(&mut some).unwrap();
    drop(stdout);
    let run: Run = writer.wait_with_output().unwrap().into();
    run.failed(1, &["stopped before its end"]);
    fed(&some, &["copy", "oci-archive:-", &scene.reference("dst:1")]).failed(5, &["cut off"]);
    assert!(!scene.path("dst").exists(), "nothing was imported");
    fed(b"", &["inspect", "oci-archive:-"]).failed(5, &["empty"]);
    fed(b"<html>", &["inspect", "docker-archive:-"]).failed(5, &["an HTML page"]);
}

#[test]
fn a_flat_index_is_one_image_in_a_directory_too() {
    let (scene, registry) = (Scene::new(), Registry::start());
    let (amd64, arm64) = (Image::kong().build(), Image::kong_arm64().build());
    amd64.write(&scene.path("flat"), "a");
    arm64.write(&scene.path("flat"), "b");
    let entry = |content: &Content, architecture: &str| {
        content.descriptor(&format!(r#","platform":{{"os":"linux","architecture":"{architecture}"}}"#))
    };
    let entries = [entry(&amd64, "amd64"), entry(&arm64, "arm64")].join(",");
    fs::write(scene.path("flat/index.json"), format!(r#"{{"schemaVersion": 2, "manifests":[{entries}]}}"#)).unwrap();
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{entries}]}}"#);
    let digest = Digest::of(index.as_bytes()).to_string();
    let result = format!("{}/kong:flat", registry.host());
    ok(["copy", &scene.reference("flat"), &result]);
    assert_eq!(digest_of(&result), digest);
    assert_eq!(digest_of(&scene.reference(&format!("flat@{digest}"))), digest);
    ok(["copy", &scene.reference("flat"), &archive(&scene, "oci", "flat.tar:kong:1")]);
    assert_eq!(digest_of(&archive(&scene, "oci", "flat.tar")), digest);
    let patched = scene.reference("patched:1");
    ok(["patch", &scene.reference("flat"), &patched]);
    prove(&patched, &scene.reference("flat"));
}

#[test]
fn a_flat_index_keeps_its_digest_beside_other_images() {
    let scene = Scene::new();
    let (amd64, arm64) = (Image::kong().build(), Image::kong_arm64().build());
    amd64.write(&scene.path("flat"), "a");
    arm64.write(&scene.path("flat"), "b");
    let entry = |content: &Content, architecture: &str| {
        let members =
            r#","annotations":{"org.opencontainers.image.ref.name":"3.9"},"platform":{"os":"linux","architecture":"#;
        content.descriptor(&format!(r#"{members}"{architecture}"}}"#))
    };
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#, entry(&amd64, "amd64"), entry(&arm64, "arm64"));
    fs::write(scene.path("flat/index.json"), index).unwrap();
    let (source, patched) = (scene.reference("flat:3.9"), scene.reference("flat:new"));
    let before = digest_of(&source);
    ok(["patch", &source, &patched]);
    assert_eq!(digest_of(&source), before);
    assert!(ok(["patch", &source, &patched]).stdout.contains("unchanged"));
    prove(&patched, &source);
    // A copy in the same layout is a blob, whatever becomes of the entries.
    ok(["copy", &source, &scene.reference("flat:copy")]);
    assert!(scene.path("flat/blobs/sha256").join(hex(&before)).is_file());
}

#[test]
fn a_run_that_is_told_to_stop_leaves_no_half_archive() {
    let (scene, registry) = (Scene::new(), Registry::start());
    let image = Image::kong().build();
    image.push(&registry, "kong", "3.9");
    let layer = image.layer(0);
    let size = image.blobs[&layer].len();
    registry.fault(move |request, _| {
        let stalled = Reply::new(200).header("content-length", size).ending(Ending::Stalled);
        request.is("GET", &layer).then_some(stalled)
    });
    let from = format!("{}/kong:3.9", registry.host());
    // These tests may run under nohup themselves.
    let heeding = &["/usr/bin/env", "--default-signal"][..];
    let nohup = &["/usr/bin/env", "--default-signal", "--ignore-signal=HUP"][..];
    // A shell starts the background jobs of a script so.
    let background = &["/usr/bin/env", "--default-signal", "--ignore-signal=INT,QUIT"][..];
    for (wrapper, signals, code) in [
        (heeding, &["HUP"][..], 129),
        (heeding, &["INT"], 130),
        (heeding, &["TERM"], 143),
        (nohup, &["HUP", "TERM"], 143),
        (background, &["INT", "TERM"], 143),
    ] {
        let directory = tempfile::tempdir_in(scene.path(".")).unwrap();
        let to = format!("oci-archive:{}:1", directory.path().join("kong.tar").display());
        let plain = capatch(["copy", &from, &to]);
        let words: Vec<_> = wrapper.iter().map(std::ffi::OsStr::new).chain([plain.get_program()]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(plain.get_args()).env_clear().env("CONTAINERS_REGISTRIES_CONF", "/dev/null");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while leftovers(directory.path()).is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        for signal in signals {
            let id = child.id().to_string();
            assert!(Command::new("/bin/kill").args(["-s", signal, &id]).status().unwrap().success());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let run = Run::from(child.wait_with_output().unwrap());
        assert_eq!(run.code, code, "{signals:?}: {run:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "{signals:?}");
    }
}

#[test]
fn both_lists_of_images_agree_about_sha512() {
    let scene = Scene::new();
    let named = |bytes: &[u8], media_type: &str| {
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(bytes);
        value!({"mediaType": media_type, "digest": hasher.finish().as_str(), "size": bytes.len()})
    };
    let layer = tar(&[file("a", "A")]);
    let config = value!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).as_str()]}})
    .to_string();
    let manifest = value!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": named(config.as_bytes(), "application/vnd.oci.image.config.v1+json"),
        "layers": [named(&layer, "application/vnd.oci.image.layer.v1.tar")]})
    .to_string();
    let root = named(manifest.as_bytes(), "application/vnd.oci.image.manifest.v1+json");
    let index = value!({"schemaVersion": 2, "manifests": [root]}).to_string();
    let blobs = scene.path("made/blobs/sha512");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(scene.path("made/oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    fs::write(scene.path("made/index.json"), index).unwrap();
    for bytes in [manifest.as_bytes(), config.as_bytes(), &layer] {
        let digest = named(bytes, "")["digest"].as_str().unwrap().to_owned();
        fs::write(blobs.join(hex(&digest)), bytes).unwrap();
    }
    let ours = archive(&scene, "oci", "ours.tar");
    ok(["copy", &scene.reference("made"), &format!("{ours}:kong:3.9")]);
    assert_eq!(ok(["verify", &ours]).stderr, "");
}

#[test]
fn an_archive_of_nothing_is_not_called_missing() {
    let scene = Scene::new();
    let marker = file("oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
    let index = file("index.json", "{\"schemaVersion\":2,\"manifests\":[]}");
    fs::write(scene.path("empty.tar"), tar(&[marker, index])).unwrap();
    fails(3, &["there is no image in", "empty.tar"], ["inspect", &archive(&scene, "oci", "empty.tar")]);
    fails(3, &["none.tar does not exist"], ["inspect", &archive(&scene, "oci", "none.tar")]);
}

#[test]
fn a_missing_directory_for_temporary_files_is_no_missing_image() {
    let bytes = tar(&[file("x", "X")]);
    let mut reader = capatch(["inspect", "oci-archive:-"]);
    reader.env("TMPDIR", "/does/not/exist").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = reader.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(&bytes);
    let run = Run::from(child.wait_with_output().unwrap()).failed(1, &["/does/not/exist"]);
    assert_eq!(run.hint(), Some("set TMPDIR to a directory with space"));
}

#[test]
fn the_readme_shows_what_copy_and_patch_print() {
    let readme = files::read("README.md");
    let scene = Scene::new();
    let archive = |tag: &str| format!("oci-archive:{}:kong:{tag}", scene.path("kong.tar").display());
    ok(["copy", &files::kong(), &archive("3.9")]);
    let said = ok(["patch", &archive("3.9"), &archive("3.9-lowport")]).stdout;
    let digest = said.trim_end().rsplit_once('@').unwrap().1;
    assert!(readme.contains(&format!("oci-archive:target/kong.tar:kong:3.9-lowport@{digest}\n")), "{digest}");
}
