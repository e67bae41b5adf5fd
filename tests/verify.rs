//! `verify`, `getcap` and `inspect`: what they prove, what they find, and what they show.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use capatch::oci::digest::Digest;
use capatch::oci::media_type::{OCI_CONFIG, OCI_MANIFEST};
use common::cli::{Run, capatch, fails, json, ok, prove, run, start};
use common::elf;
use common::image::{BASE_DIGEST, Content, Image, Index, NGINX, NGINX_ENTRY, Opened, Packing, RECORD, Scene, hex};
use common::registry::{Registry, Request};
use common::tar::{self, caps, caps_of, dir, file, hard_link, symlink, whiteout};
use serde_json::{Value, json};

// Whether every byte is what it should be.

/// A small index of two images, each with a patch, and an attestation that nobody patched.
fn layout(scene: &Scene) -> String {
    let (amd64, arm64) = (Image::kong().build(), Image::kong_arm64().build());
    let index = Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64").attestation(&arm64.digest).build();
    let (source, result) = (scene.source(&index), scene.reference("dst:out"));
    ok(["patch", &source, &result, "--platform", "linux/amd64"]);
    prove(&result, &source);
    result
}

fn blobs(layout: &Path) -> Vec<PathBuf> {
    let mut blobs: Vec<_> = fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|e| e.unwrap().path()).collect();
    blobs.sort();
    blobs
}

#[test]
fn every_changed_byte_of_every_blob_is_found() {
    let scene = Scene::new();
    let result = layout(&scene);
    let all = blobs(&scene.path("dst"));
    assert_eq!(all.len(), 13, "index, 3 manifests, 3 configs, 5 layers, 1 statement");
    for path in all {
        let good = fs::read(&path).unwrap();
        let flipped = |at: usize, bit: u8| {
            let mut bad = good.clone();
            bad[at] ^= bit;
            bad
        };
        let mut cases = vec![
            ("empty", Vec::new()),
            ("one byte less", good[..good.len() - 1].to_vec()),
            ("one byte more", [&good[..], b"\0"].concat()),
            ("a space more", [&good[..], b" "].concat()),
            ("half", good[..good.len() / 2].to_vec()),
            ("twice", good.repeat(2)),
        ];
        for at in [0, 1, 2, 3, good.len() / 3, good.len() / 2, good.len() - 5, good.len() - 1] {
            cases.push(("a flipped byte", flipped(at, 1)));
            cases.push(("a flipped byte", flipped(at, 0x80)));
        }
        for (what, bad) in cases {
            fs::write(&path, bad).unwrap();
            let said = fails(5, &["sha256:"], ["verify", &result]);
            assert!(said.stderr.starts_with("capatch: oci:"), "{what}: {said:#?}");
        }
        fs::remove_file(&path).unwrap();
        fails(3, &[hex_of(&path), "is not in"], ["verify", &result]);
        fs::write(&path, good).unwrap();
    }
    ok(["verify", &result]);
}

fn hex_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn a_layer_that_was_compressed_anew_is_found() {
    let scene = Scene::new();
    let image = Image::kong();
    let source = scene.source(&image.build());
    let path = scene.path("src/blobs/sha256").join(hex(&image.build().layer(1)));
    let again = Packing::Fast.pack(&image.layers[1].0);
    assert_ne!(again, fs::read(&path).unwrap());
    fs::write(path, again).unwrap();
    fails(5, &["sha256:"], ["verify", &source]);
}

// faults.md C15
#[test]
fn data_that_is_not_the_content_is_found() {
    let scene = Scene::new();
    let image = Image::kong().build();
    let manifest = String::from_utf8(image.bytes().to_vec()).unwrap();
    let data = |bytes: &[u8]| format!(r#","data":"{}"}}"#, STANDARD.encode(bytes));
    // In the config's descriptor, in an index's, and in a subject.
    let with_config = |bytes: &[u8]| {
        let mut content = image.clone();
        let config = manifest.replacen('}', &data(bytes), 1);
        content.manifest(OCI_MANIFEST, config.into_bytes());
        Index::new().platform(&content, "amd64").build()
    };
    let with_entry = |bytes: &[u8]| Index::new().child(&image, data(bytes).trim_end_matches('}')).build();
    let with_subject = |bytes: &[u8]| {
        let subject = image.descriptor(data(bytes).trim_end_matches('}'));
        Index::new().child(&image, "").members(&format!(r#","subject":{subject}"#)).build()
    };
    let config = &image.blobs[&image.config()];
    for (i, (made, good)) in [
        (&with_config as &dyn Fn(&[u8]) -> Content, &config[..]),
        (&with_entry, image.bytes()),
        (&with_subject, image.bytes()),
    ]
    .into_iter()
    .enumerate()
    {
        for (bytes, right) in [(good, true), (&good[1..], false), (b"", false)] {
            let content = made(bytes);
            content.write(&scene.path("data"), &format!("{i}-{}", bytes.len()));
            let reference = scene.reference(&format!("data:{i}-{}", bytes.len()));
            let said = run(["verify", &reference]);
            let found = said.stdout.contains("the data inside of a descriptor is not its content");
            assert_eq!((said.code, found), if right { (0, false) } else { (8, true) }, "{said:#?}");
            // Kept as it is, whatever it is.
            let copy = scene.reference(&format!("copy:{i}-{}", bytes.len()));
            assert_eq!(json(["copy", &reference, &copy])["digest"], content.digest.as_str());
        }
    }
}

#[test]
fn a_diff_id_that_is_not_the_layer_s_is_found() {
    let scene = Scene::new();
    let image = Image::kong();
    let mut content = image.build();
    let (right, wrong) = (Digest::of(&image.layers[1].0).to_string(), Digest::of(b"x").to_string());
    let config = String::from_utf8(content.blobs[&content.config()].clone()).unwrap().replace(&right, &wrong);
    replace_config(&mut content, config);
    let source = scene.source(&content);
    fails(5, &[&right, &wrong, "the image's config says"], ["verify", &source]);
    fails(5, &[&right, &wrong, "the image's config says"], ["patch", &source, &scene.reference("dst:x")]);
    assert!(!scene.path("dst/index.json").exists());
}

/// Gives a single image another config.
fn replace_config(content: &mut Content, config: String) {
    let mut manifest: Value = serde_json::from_slice(content.bytes()).unwrap();
    let descriptor = content.blob(manifest["config"]["mediaType"].as_str().unwrap(), config.into_bytes());
    manifest["config"] = serde_json::from_str(&descriptor).unwrap();
    content.manifest(manifest["mediaType"].clone().as_str().unwrap(), manifest.to_string().into_bytes());
}

#[test]
fn a_blob_that_is_no_regular_file_is_refused() {
    let scene = Scene::new();
    let image = Image::kong().build();
    let source = scene.source(&image);
    let path = scene.path("src/blobs/sha256").join(hex(&image.layer(0)));
    let elsewhere = scene.path("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    let said = fails(5, &["symbolic link"], ["verify", &source]);
    assert!(said.hint().unwrap().contains("cp -rL"), "{said:#?}");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    fails(5, &["not a regular file"], ["verify", &source]);
    fs::remove_dir(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    fails(5, &["not a regular file"], ["verify", &source]);
}

#[test]
fn what_is_verified_is_counted() {
    let scene = Scene::new();
    let result = layout(&scene);
    let data = json(["verify", &result]);
    assert_eq!((&data["manifests"], &data["blobs"], &data["ok"]), (&json!(4), &json!(9), &json!(true)));
    let sizes = blobs(&scene.path("dst")).iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>();
    let opened = scene.open("dst", "out");
    let manifests =
        [&opened.descriptor, &opened.json["manifests"][0], &opened.json["manifests"][1], &opened.json["manifests"][2]];
    let manifests: u64 = manifests.iter().map(|d| d["size"].as_u64().unwrap()).sum();
    assert_eq!(data["bytes"], sizes - manifests);
    let said = ok(["verify", &result]).stdout;
    assert!(
        said.contains("4 manifests and 9 blobs") && said.contains(&format!("{NGINX} cap_net_bind_service=ep")),
        "{said}"
    );
}

#[test]
fn a_registry_is_verified_as_a_layout_is() {
    let registry = Registry::start();
    let image = Image::kong().build();
    image.push(&registry, "kong", "3.9");
    let name = format!("{}/kong:3.9", registry.host());
    ok(["verify", &name]);
    registry.forget_blob("kong", &image.layer(0));
    fails(3, &[&image.layer(0)], ["verify", &name]);
}

// What differs from the base.

/// A patched image of which somebody changes the added layer, the config or the manifest; digests and sizes fit again.
struct Forgery {
    scene: Scene,
    result: Opened,
    tar: Vec<u8>,
    config: String,
    manifest: String,
}

impl Forgery {
    fn of(content: &Content) -> Self {
        Forgery::with(content, [])
    }

    fn with<const N: usize>(content: &Content, options: [&str; N]) -> Self {
        let scene = Scene::new();
        let result = scene.patched(content, options);
        let mut tar = Vec::new();
        let blob = result.blob(result.layers().last().unwrap());
        std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&blob[..]), &mut tar).unwrap();
        let manifest = String::from_utf8(result.bytes.clone()).unwrap();
        Forgery { tar, config: result.config_text(), manifest, scene, result }
    }

    /// Entries before the end of the added layer.
    fn add(mut self, entries: &[tar::Entry]) -> Self {
        self.tar.truncate(self.tar.len() - 1024);
        self.tar.extend(tar::tar(entries));
        self
    }

    fn config(mut self, from: &str, to: &str) -> Self {
        assert!(self.config.contains(from), "{from} in {}", self.config);
        self.config = self.config.replacen(from, to, 1);
        self
    }

    fn manifest(mut self, from: &str, to: &str) -> Self {
        assert!(self.manifest.contains(from), "{from} in {}", self.manifest);
        self.manifest = self.manifest.replacen(from, to, 1);
        self
    }

    /// What `verify --base` says. Everything else about the image is right.
    fn verify(self) -> Run {
        let mut content = Content::default();
        let before = self.result.config()["rootfs"]["diff_ids"].as_array().unwrap().last().unwrap().clone();
        let config = self.config.replace(before.as_str().unwrap(), Digest::of(&self.tar).as_str());
        let mut manifest = self.manifest;
        let mut swap = |old: &Value, bytes: Vec<u8>| {
            let end = |digest: &str, size: usize| format!(r#""digest":"{digest}","size":{size}"#);
            let old_end = end(old["digest"].as_str().unwrap(), old["size"].as_u64().unwrap() as usize);
            assert!(manifest.contains(&old_end), "{old_end} in {manifest}");
            manifest = manifest.replace(&old_end, &end(Digest::of(&bytes).as_str(), bytes.len()));
            content.blob("", bytes);
        };
        if Digest::of(&self.tar).as_str() != before {
            swap(self.result.layers().last().unwrap(), Packing::Gzip.pack(&self.tar));
        }
        swap(&self.result.json["config"], config.into_bytes());
        content.manifest(self.result.json["mediaType"].as_str().unwrap(), manifest.into_bytes());
        content.write(&self.scene.path("dst"), "forged");
        let forged = self.scene.reference("dst:forged");
        let mut command = capatch(["verify", &forged, "--base", &self.scene.reference("src:3.9")]);
        command.arg("--json");
        start(command)
    }

    /// What it finds, besides that the seal is broken.
    #[track_caller]
    fn findings(self) -> Vec<String> {
        let said = self.verify();
        assert_eq!(said.code, 8, "{said:#?}");
        let data = said.json();
        assert_eq!(data["ok"], false);
        let mut findings = strings(&data["findings"]);
        findings.retain(|finding| !finding.contains(&format!("/{RECORD}: the seal is broken")));
        findings
    }

    /// The same: one finding, which says each of `words`.
    #[track_caller]
    fn finds(self, words: &[&str]) {
        let findings = self.findings();
        assert!(
            findings.len() == 1 && words.iter().all(|word| findings[0].contains(word)),
            "{words:?} in {findings:#?}"
        );
    }
}

fn strings(array: &Value) -> Vec<String> {
    array.as_array().unwrap().iter().map(|f| f.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_forger_by_himself_changes_nothing() {
    for content in [Image::kong().build(), Image::kong().docker().build()] {
        let said = Forgery::of(&content).verify();
        assert_eq!((said.code, &said.json()["findings"]), (0, &json!([])), "{said:#?}");
    }
}

fn kong() -> Forgery {
    Forgery::of(&Image::kong().build())
}

/// What nginx is in the patched image.
fn nginx() -> tar::Entry {
    file(NGINX_ENTRY, elf::amd64()).mode(0o775).owner(1000).xattr("security.capability", &caps(1 << 10, true))
}

#[test]
fn changed_files_are_found() {
    let other = [elf::amd64(), b"evil".to_vec()].concat();
    for (words, entry) in [
        (
            &["content", NGINX][..],
            file(NGINX_ENTRY, other).mode(0o775).owner(1000).xattr("security.capability", &caps(1 << 10, true)),
        ),
        (&["mode", NGINX], nginx().mode(0o4775)),
        (&["user ID", NGINX], nginx().pax("uid", b"0")),
        (&["group ID", NGINX], nginx().pax("gid", b"7")),
        (&["modification time", NGINX], nginx().mtime(1)),
        (&["modification time", NGINX], nginx().pax("mtime", b"1704067200.000000001")),
        (&["user.evil", NGINX], nginx().xattr("user.evil", b"x")),
        (&["mode", "/usr/local/openresty"], dir("usr/local/openresty").mode(0o777).owner(1000)),
        (&["mode", "/etc/passwd"], file("etc/passwd", "root:x:0:0::/:/bin/sh\n").mode(0o666)),
        (&["content", "/etc/passwd"], file("etc/passwd", "root::0:0::/:/bin/sh\n").mode(0o644)),
        (&["added", "a regular file", "/usr/evil"], file("usr/evil", "x")),
        (&["added", "a directory", "/evil"], dir("evil")),
        (&["added", "symbolic link", "/etc/shadow"], symlink("etc/shadow", "passwd")),
        (&["/etc/passwd"], symlink("etc/passwd", "/dev/null")),
        (&["/usr/local/bin/nginx"], symlink("usr/local/bin/nginx", "/evil")),
        (
            &["added", "/bin/nginx"],
            hard_link("bin/nginx", NGINX_ENTRY)
                .mode(0o775)
                .owner(1000)
                .xattr("security.capability", &caps(1 << 10, true)),
        ),
        (&["removed", "/etc/passwd"], whiteout("etc/passwd")),
        (&["removed", "/usr/local/kong"], whiteout("usr/local/kong")),
        (&["removed", "/etc/passwd"], file("etc/.wh..wh..opq", "")),
    ] {
        kong().add(&[entry]).finds(words);
    }
}

#[test]
fn capabilities_that_nobody_declared_are_found() {
    let passwd = || file("etc/passwd", "root:x:0:0::/:/bin/sh\n").mode(0o644);
    kong().add(&[passwd().xattr("security.capability", &caps(1, true))]).finds(&["security.capability", "/etc/passwd"]);
    let more = file(NGINX_ENTRY, elf::amd64()).mode(0o775).owner(1000);
    let findings = kong().add(&[more.clone().xattr("security.capability", &caps(1 << 10 | 1, true))]).findings();
    assert!(findings.iter().any(|f| f.contains("security.capability")), "{findings:#?}");
    assert!(
        findings.iter().any(|f| f.contains(NGINX) && f.contains("should have cap_net_bind_service=ep, but has")),
        "{findings:#?}"
    );
    kong().add(&[more]).finds(&[NGINX, "should have cap_net_bind_service=ep, but has no capabilities"]);
}

#[test]
fn a_removal_declares_that_and_nothing_else() {
    let passwd = |entry: tar::Entry| entry.mode(0o644).xattr("security.capability", &caps(1, true));
    let image = Image::kong().layer([passwd(file("etc/passwd", "x")), nginx().xattr("user.x", b"y")]).build();
    let removed = || Forgery::with(&image, ["--remove-caps"]);
    assert_eq!(removed().verify().code, 0);
    let plain = || file(NGINX_ENTRY, elf::amd64()).mode(0o775).owner(1000);
    removed().add(&[plain()]).finds(&[NGINX, "user.x"]);
    removed().add(&[plain().xattr("user.x", b"y").mode(0o755)]).finds(&[NGINX, "mode"]);
    let other = file(NGINX_ENTRY, [elf::amd64(), b"evil".to_vec()].concat()).mode(0o775).owner(1000);
    removed().add(&[other.xattr("user.x", b"y")]).finds(&[NGINX, "content"]);
    removed().add(&[file("etc/passwd", "x").mode(0o644)]).finds(&["/etc/passwd", "security.capability"]);
    // Nothing differs from the base then; the record says otherwise.
    removed()
        .add(&[nginx().xattr("user.x", b"y")])
        .finds(&[NGINX, "should have no capabilities, but has cap_net_bind_service=ep"]);
    let weaker = plain().xattr("security.capability", &caps(1 << 10, false)).xattr("user.x", b"y");
    let findings = removed().add(&[weaker]).findings();
    assert!(findings.iter().any(|f| f.contains("security.capability") && f.contains(NGINX)), "{findings:#?}");
}

#[test]
fn changed_configs_are_found() {
    for (place, from, to) in [
        ("config/config/User", r#""User":"kong""#, r#""User":"root""#),
        ("config/config/Env", r#""KONG_VERSION=3.9.3""#, r#""KONG_VERSION=3.9.3","LD_PRELOAD=/evil.so""#),
        ("config/config/Cmd", "docker-start", "docker-stop"),
        ("config/config/Unknown/float", "1.10", "1.1"),
        ("config/config/Healthcheck/Interval", "60000000000", "1"),
        ("config/config/ExposedPorts/22~1tcp", r#""80/tcp":{}"#, r#""80/tcp":{},"22/tcp":{}"#),
        ("config/config/ExposedPorts/80~1tcp", r#""80/tcp":{},"#, ""),
        ("config/config/Entrypoint", "/docker-entrypoint.sh", "/evil"),
        ("config/config/Evil", r#""StopSignal""#, r#""Evil":1,"StopSignal""#),
        ("config/config/StopSignal", r#""StopSignal":"SIGQUIT","#, ""),
        (
            "config/created",
            r#""created":"2024-01-01T00:00:00Z","config""#,
            r#""created":"2025-01-01T00:00:00Z","config""#,
        ),
        ("config/history", "ENV", "EVN"),
        ("config/history", "capatch patch", "something else"),
        ("config/x-vendor/big", "12345678901234567890123", "12345678901234567890124"),
        ("config/container_config/Cmd", r#"["x"]"#, r#"["y"]"#),
        ("config/author", r#""x-vendor""#, r#""author":"me","x-vendor""#),
    ] {
        kong().config(from, to).finds(&["linux/amd64: ", place]);
    }
}

#[test]
fn changed_manifests_are_found() {
    let end = r#""annotations":{"#;
    kong().manifest(end, &format!(r#"{end}"evil":"x","#)).finds(&["manifest/annotations", "evil"]);
    kong().manifest(end, &format!(r#""subject":{{}},{end}"#)).finds(&["manifest/subject"]);
    kong().manifest(end, &format!(r#""artifactType":"x",{end}"#)).finds(&["manifest/artifactType"]);
    kong().manifest(r#""layers":[{"#, r#""layers":[{"urls":["http://evil/"],"#).finds(&["manifest/layers"]);
    let base = kong().result.json["annotations"][BASE_DIGEST].as_str().unwrap().to_owned();
    kong().manifest(&base, Digest::of(b"x").as_str()).finds(&[BASE_DIGEST]);
}

#[test]
fn an_image_that_says_nothing_about_a_patch_declares_nothing() {
    let said = kong().manifest(RECORD, "x").verify();
    let findings = strings(&said.json()["findings"]);
    for place in [NGINX, "config/config/ExposedPorts/80~1tcp", "config/rootfs/diff_ids", "manifest/layers"] {
        assert!(findings.iter().any(|f| f.contains(place)), "{place} in {findings:#?}");
    }
}

#[test]
fn the_base_must_be_the_one_that_was_patched() {
    let scene = Scene::new();
    scene.patched(&Image::kong().build(), []);
    let result = scene.reference("dst:out");
    Image::kong().run("docker-start", "other").build().write(&scene.path("src"), "other");
    let said = run(["verify", &result, "--base", &scene.reference("src:other")]);
    assert_eq!(said.code, 8, "{said:#?}");
    assert!(said.stdout.contains("image.base.digest") && said.stdout.contains("config/config/Cmd"), "{said:#?}");
    fails(3, &["src:nope"], ["verify", &result, "--base", &scene.reference("src:nope")]);
}

#[test]
fn an_image_that_the_base_lacks_is_not_called_identical_with_it() {
    let scene = Scene::new();
    let base = scene.source(&Image::kong().build());
    Image::kong_arm64().build().write(&scene.path("other"), "1");
    let said = run(["verify", &scene.reference("other:1"), "--base", &base]);
    assert!(said.code == 8 && said.stdout.contains("linux/arm64 is not in the base"), "{said:#?}");
    assert!(!said.stdout.contains("identical"), "{said:#?}");
}

#[test]
fn an_identical_image_does_not_differ() {
    let (amd64, arm64) = (Image::kong().build(), Image::kong_arm64().build());
    let index = Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64").attestation(&amd64.digest).build();
    for content in [amd64, Image::kong().docker().build(), index] {
        let scene = Scene::new();
        let source = scene.source(&content);
        content.write(&scene.path("copy"), "1");
        let data = prove(&scene.reference("copy:1"), &source);
        assert_eq!((&data["findings"], &data["differences"]), (&json!([]), &json!([])));
        assert!(ok(["verify", &source, "--base", &source]).stdout.contains("identical with the base"));
    }
}

#[test]
fn differences_are_declared_with_their_place() {
    let scene = Scene::new();
    scene.patched(&Image::kong().build(), ["--env", "A=b"]);
    let said = ok(["verify", &scene.reference("dst:out"), "--base", &scene.reference("src:3.9")]).stdout;
    for line in [
        &format!("declared {NGINX}: xattr security.capability none → "),
        "declared config/config/ExposedPorts/80~1tcp: added {}",
        "declared config/config/Env: ",
        "declared config/rootfs/diff_ids: added ",
        "declared manifest/config/digest: ",
        "nothing differs from the base but what the patch declares",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
    assert!(!said.contains("CHANGED"), "{said}");
}

/// A patched index with one change in its text, beside `more` content.
fn forged_index(change: impl FnOnce(&mut Value), more: &[&Content]) -> Vec<String> {
    let (amd64, arm64) = (Image::kong().build(), Image::kong_arm64().build());
    let index = Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64").attestation(&amd64.digest);
    let index = index.attestation(&arm64.digest).build();
    let scene = Scene::new();
    let mut json = scene.patched(&index, ["--platform", "linux/amd64"]).json;
    change(&mut json);
    let mut content = Content::default();
    for more in more {
        content.blobs.extend(more.blobs.clone());
        content.manifests.extend(more.manifests.clone());
    }
    content.manifest(json["mediaType"].as_str().unwrap(), json.to_string().into_bytes());
    content.write(&scene.path("dst"), "forged");
    let mut command = capatch(["verify", &scene.reference("dst:forged"), "--base", &scene.reference("src:3.9")]);
    command.arg("--json");
    let said = start(command);
    assert_eq!(said.code, 8, "{said:#?}");
    said.json()["findings"].as_array().unwrap().iter().map(|f| f.as_str().unwrap().to_owned()).collect()
}

#[test]
fn changed_indexes_are_found() {
    let finds = |words: &str, findings: Vec<String>| {
        assert!(findings.iter().any(|finding| finding.contains(words)), "{words} in {findings:#?}");
    };
    finds("index/manifests", forged_index(|i| i["manifests"][0]["platform"]["variant"] = json!("v2"), &[]));
    finds("index/manifests", forged_index(|i| i["manifests"].as_array_mut().unwrap().swap(0, 1), &[]));
    finds("index/annotations", forged_index(|i| i["annotations"]["x"] = json!("y"), &[]));
    finds(
        "index/annotations",
        forged_index(|i| i["annotations"]["org.opencontainers.image.base.digest"] = json!("x"), &[]),
    );
    finds("index/x", forged_index(|i| i["x"] = json!(1), &[]));
    finds("index/manifests", forged_index(|i| drop(i["manifests"].as_array_mut().unwrap().pop()), &[]));
    finds(
        "linux/arm64 is in the base, but not in the image",
        forged_index(|i| drop(i["manifests"].as_array_mut().unwrap().remove(1)), &[]),
    );
    let other = Image::kong_arm64().run("docker-start", "evil").build();
    let descriptor: Value =
        serde_json::from_str(&other.descriptor(r#","platform":{"architecture":"arm64","os":"linux"}"#)).unwrap();
    finds("linux/arm64: config/config/Cmd", forged_index(|i| i["manifests"][1] = descriptor, &[&other]));
    let mut s390x = Image::kong();
    s390x.architecture = "s390x".into();
    let s390x = s390x.build();
    let descriptor: Value = serde_json::from_str(&s390x.descriptor("")).unwrap();
    finds(
        "linux/s390x is not in the base",
        forged_index(|i| i["manifests"].as_array_mut().unwrap().push(descriptor), &[&s390x]),
    );
    let evil = Index::new().attestation(&Digest::of(b"evil").to_string()).build();
    let descriptor = serde_json::from_slice::<Value>(evil.bytes()).unwrap()["manifests"][0].clone();
    finds(
        "index/manifests",
        forged_index(
            |i| {
                i["manifests"][2]["digest"] = descriptor["digest"].clone();
                i["manifests"][2]["size"] = descriptor["size"].clone();
            },
            &[&evil],
        ),
    );
}

#[test]
fn two_images_for_one_platform_are_told_apart() {
    let (one, other) = (Image::kong().build(), Image::kong().run("docker-start", "other").build());
    let index = Index::new()
        .platform(&one, "amd64")
        .child(&other, r#","platform":{"architecture":"amd64","os":"linux","os.features":["x"]}"#);
    Scene::new().patched(&index.build(), []);
}

#[test]
fn a_docker_image_s_changes_are_found() {
    let docker = || Forgery::of(&Image::kong().docker().build());
    docker().config("docker-start", "docker-stop").finds(&["config/config/Cmd"]);
    docker().add(&[file("usr/evil", "x")]).finds(&["added", "/usr/evil"]);
    docker().config(r#""maintainer""#, r#""evil":"x","maintainer""#).finds(&["config/config/Labels/evil"]);
}

/// Nobody can unpack an image with a capability that the kernel does not store, in whichever layer it is.
#[test]
fn a_capability_that_no_kernel_stores_is_found_in_every_layer() {
    let revision_1 = b"\x01\0\0\x01\0\x04\0\0\0\0\0\0";
    for bad in [&revision_1[..], &caps_of(1, u32::MAX), b"x"] {
        let malformed = file("opt/nginx", elf::amd64()).xattr("security.capability", bad);
        let hidden = file("opt/nginx", elf::amd64());
        for image in [Image::empty().layer([malformed.clone()]), Image::empty().layer([malformed]).layer([hidden])] {
            let scene = Scene::new();
            let said = run(["verify", &scene.source(&image.build())]);
            let finding = "FINDING: linux/amd64: layer 1: /opt/nginx: ";
            assert!(said.code == 8 && said.stdout.contains(finding), "{said:#?}");
        }
    }
}

#[test]
fn a_capability_of_another_root_is_not_the_declared_one() {
    let other = file(NGINX_ENTRY, elf::amd64()).mode(0o775).owner(1000);
    let findings = kong().add(&[other.xattr("security.capability", &caps_of(1 << 10, 1000))]).findings();
    let said = |words: &str| findings.iter().any(|finding| finding.contains(words));
    assert!(
        said("should have cap_net_bind_service=ep, but has cap_net_bind_service=ep [rootid=1000]"),
        "{findings:#?}"
    );
    assert!(said("xattr security.capability none → "), "{findings:#?}");
}

// getcap.

/// Files with capabilities in two layers, of which one was replaced without, and one deleted.
fn capable() -> Image {
    Image::empty()
        .layer([
            dir("usr"),
            dir("usr/bin"),
            file("usr/bin/ping", elf::amd64()).xattr("security.capability", &caps(1 << 13, true)),
            file("usr/bin/gone", "x").xattr("security.capability", &caps(1, true)),
            file("usr/bin/replaced", "x").xattr("security.capability", &caps(1, true)),
            file("usr/bin/dumpcap", "x").xattr("security.capability", &caps(1 << 12 | 1 << 13, true)),
            file("usr/weak", "x").xattr("security.capability", &caps(1 << 10, false)),
            symlink("bin", "usr/bin"),
        ])
        .layer([file("bin/replaced", "y"), whiteout("usr/bin/gone"), hard_link("usr/bin/ping6", "usr/bin/ping")])
}

#[test]
fn getcap_lists_the_merged_view_in_the_words_of_getcap() {
    let scene = Scene::new();
    let source = scene.source(&capable().build());
    let all = "/usr/bin/dumpcap cap_net_admin,cap_net_raw=ep\n/usr/bin/ping cap_net_raw=ep\n/usr/bin/ping6 cap_net_raw=ep\n/usr/weak cap_net_bind_service=p\n";
    assert_eq!(ok(["getcap", &source]).stdout, all);
    assert_eq!(ok(["getcap", &source, "/"]).stdout, all);
    assert_eq!(ok(["getcap", &source, "/usr/bin/ping"]).stdout, "/usr/bin/ping cap_net_raw=ep\n");
    assert_eq!(ok(["getcap", &source, "/bin/ping"]).stdout, "/usr/bin/ping cap_net_raw=ep\n", "links are followed");
    assert_eq!(ok(["getcap", &source, "/usr/bin/"]).stdout.lines().count(), 3);
    assert_eq!(ok(["getcap", &source, "/usr/b/../bin"]).code, 0);
    assert_eq!(ok(["getcap", &source, "/usr/bin/replaced"]).stdout, "");
    fails(3, &["/usr/bin/gone does not exist"], ["getcap", &source, "/usr/bin/gone"]);
    let data = json(["getcap", &source]);
    assert_eq!(
        data["images"][0]["files"][1],
        json!({"path": "/usr/bin/ping", "capabilities": "cap_net_raw=ep", "root_id": 0})
    );
}

#[test]
fn getcap_goes_by_platform() {
    let scene = Scene::new();
    let index =
        Index::new().platform(&capable().build(), "amd64").platform(&Image::kong_arm64().build(), "arm64").build();
    let source = scene.source(&index);
    let said = ok(["getcap", &source, "/usr/weak", "--platform", "linux/amd64"]).stdout;
    assert_eq!(said, "/usr/weak cap_net_bind_service=p\n");
    let said = ok(["getcap", &source]).stdout;
    assert!(said.starts_with("linux/amd64:\n/usr/bin/dumpcap ") && said.ends_with("linux/arm64:\n"), "{said}");
    fails(3, &["linux/s390x"], ["getcap", &source, "--platform", "linux/s390x"]);
}

#[test]
fn getcap_agrees_with_getcap() {
    // The words of getcap(8) 2.66 for these bytes; see the table of the capability module for more.
    let scene = Scene::new();
    let mut entries = vec![dir("f")];
    let expected: BTreeMap<&str, (Vec<u8>, &str)> = BTreeMap::from([
        ("f/a", (caps(0, false), "=")),
        ("f/b", (caps(1 << 10, true), "cap_net_bind_service=ep")),
        ("f/c", (caps(1 << 10, false), "cap_net_bind_service=p")),
        ("f/d", (caps(0x3001, true), "cap_chown,cap_net_admin,cap_net_raw=ep")),
        ("f/e", (caps_of(1 << 10, 1000), "cap_net_bind_service=ep [rootid=1000]")),
    ]);
    // It lists regular files only.
    let capability = |entry: tar::Entry| entry.xattr("security.capability", &caps(1, true));
    entries.extend([capability(dir("g")), capability(symlink("h", "f"))]);
    entries.extend(expected.iter().map(|(path, (value, _))| file(path, "x").xattr("security.capability", value)));
    let said = ok(["getcap", &scene.source(&Image::empty().layer(entries).build())]).stdout;
    let lines: Vec<_> = expected.iter().map(|(path, (_, text))| format!("/{path} {text}\n")).collect();
    assert_eq!(said, lines.concat());
}

// inspect.

#[test]
fn inspect_shows_what_matters() {
    let scene = Scene::new();
    let image = Image::kong().run(r#""User""#, r#""Volumes":{"/data":{}},"User""#).build();
    let (amd64, arm64) = (image, Image::kong_arm64().build());
    let index = Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64").attestation(&arm64.digest).build();
    scene.patched(&index, ["--platform", "linux/amd64"]);
    let result = scene.reference("dst:out");
    let said = ok(["inspect", &result]).stdout;
    let opened = scene.open("dst", "out");
    let child = opened.child(0);
    for shown in [
        opened.digest(),
        "linux/amd64",
        "linux/arm64",
        child.digest(),
        child.layers()[3]["digest"].as_str().unwrap(),
        child.json["config"]["digest"].as_str().unwrap(),
        "kong",
        "8000/tcp 8443/tcp 80/tcp 443/tcp",
        "/data",
        r#"["/docker-entrypoint.sh"]"#,
        r#"["kong","docker-start"]"#,
        "SIGQUIT",
        r#"{"Test":["CMD","kong","health"],"Interval":60000000000}"#,
        &format!("{NGINX} cap_net_bind_service=ep"),
        &format!("attests {}", arm64.digest),
    ] {
        assert!(said.contains(shown), "{shown} in {said}");
    }
    let data = json(["inspect", &result]);
    assert_eq!(data["images"][0]["user"], "kong");
    assert_eq!(
        data["images"][0]["capabilities"],
        json!([{"path": NGINX, "capabilities": "cap_net_bind_service=ep", "root_id": 0}])
    );
    assert_eq!(data["images"][1]["capabilities"], json!([]));
    assert_eq!(data["images"][0]["layers"].as_array().unwrap().len(), 4);
    assert_eq!(json(["inspect", &result, "--platform", "linux/arm64"])["images"].as_array().unwrap().len(), 1);
}

#[test]
fn inspect_without_layers_reads_none() {
    let registry = Registry::start();
    let image = Image::kong().build();
    image.push(&registry, "kong", "3.9");
    let name = format!("{}/kong:3.9", registry.host());
    let data = json(["inspect", &name, "--no-layers"]);
    assert_eq!(data["images"][0]["capabilities"], Value::Null);
    let blobs: Vec<_> = registry.lines().into_iter().filter(|line| line.contains("/blobs/")).collect();
    assert_eq!(blobs, [format!("GET /v2/kong/blobs/{}", image.config())]);
}

// D10
#[test]
fn a_media_type_that_is_not_what_the_bytes_are_is_warned_of() {
    for (packing, found) in [
        (Packing::Zstd, Some("has zstd, and its type application/vnd.docker.image.rootfs.diff.tar.gzip says gzip")),
        (Packing::Plain, Some("has no compression, and its type")),
        (Packing::Gzip, None),
    ] {
        let image =
            Image::kong().packed(tar::tar(&[dir("opt"), file("opt/nginx", elf::amd64())]), packing).docker().build();
        let scene = Scene::new();
        let (source, to) = (scene.source(&image), scene.reference("dst:1"));
        for arguments in
            [&["verify", &source][..], &["getcap", &source], &["patch", &source, &to, "--file", "/opt/nginx"]]
        {
            let said = start(capatch(arguments)).succeeded();
            match found {
                None => assert_eq!(said.stderr.matches("WARN").count(), 0, "{said:?}"),
                Some(found) => {
                    assert!(said.stderr.contains(found) && said.stderr.contains(&image.layer(3)), "{said:?}")
                }
            }
        }
        for (option, count) in [(&["--strict"][..], "findings"), (&[], "warnings")] {
            let said = start(capatch([&["verify", &source, "--json"], option].concat()));
            let is_finding = found.is_some() && count == "findings";
            let data = said.json();
            assert_eq!((said.code, &data["ok"]), (if is_finding { 8 } else { 0 }, &json!(!is_finding)), "{said:?}");
            for list in ["findings", "warnings"] {
                let told = data[list].as_array().unwrap();
                assert_eq!(told.len(), usize::from(found.is_some() && list == count), "{said:?}");
                assert!(told.iter().all(|told| found.is_some_and(|found| told.as_str().unwrap().contains(found))));
            }
        }
        // The type is never made another one on the way.
        assert_eq!(
            scene.open("dst", "1").layers()[3]["mediaType"],
            "application/vnd.docker.image.rootfs.diff.tar.gzip"
        );
    }
}

/// An image with one layer of any type.
fn of_one_layer(platform: &str, media_type: &str, bytes: &[u8]) -> Content {
    let (os, architecture) = platform.split_once('/').unwrap();
    let mut content = Content::default();
    let config = json!({"os": os, "architecture": architecture, "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(bytes).as_str()]}});
    let config = content.blob(OCI_CONFIG, config.to_string().into_bytes());
    let layer = content.blob(media_type, bytes.to_vec());
    let manifest =
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[{layer}]}}"#);
    content.manifest(OCI_MANIFEST, manifest.into_bytes());
    content
}

/// The single image with another text in its config.
fn with_config(mut content: Content, from: &str, to: &str) -> Content {
    let mut manifest: Value = serde_json::from_slice(content.bytes()).unwrap();
    let config = String::from_utf8(content.blobs[&content.config()].clone()).unwrap();
    assert!(config.contains(from), "{config}");
    let config = content.blob(OCI_CONFIG, config.replace(from, to).into_bytes());
    manifest["config"] = serde_json::from_str(&config).unwrap();
    content.manifest(OCI_MANIFEST, manifest.to_string().into_bytes());
    content
}

const ENCRYPTED: &str = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
const WASM: &str = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm";
const SIGNATURE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

#[test]
fn a_layer_that_is_no_tar_is_hashed_and_the_rest_is_proved() {
    let scene = Scene::new();
    let others = [
        ("wasip1/wasm", "wasip1/wasm", WASM, &b"\0asm\x01\0\0\0"[..], "is no tar"),
        ("linux/arm64", "linux/arm64", ENCRYPTED, &[0xe7; 900], "is marked as encrypted"),
        ("/", "unknown platform", SIGNATURE, b"{}", "is no tar"),
    ];
    let mut index = Index::new().platform(&Image::kong().build(), "amd64");
    for (platform, _, media_type, bytes, _) in others {
        index = index.child(&of_one_layer(platform, media_type, bytes), "");
    }
    let source = scene.source(&index.build());
    let to = scene.reference("dst:1");
    let said = fails(5, &["linux/arm64: layer 1 is marked as encrypted", ENCRYPTED], ["patch", &source, &to]);
    assert!(said.hint().unwrap().contains("skopeo copy --decryption-key"), "{said:#?}");
    let said = ok(["patch", &source, &to, "--platform", "linux/amd64"]);
    assert!(!said.stderr.contains(" / "), "{said:#?}");

    let said = ok(["verify", &to, "--base", &source]);
    let inspected = ok(["inspect", &to]);
    let data = json(["verify", &to, "--base", &source]);
    for (number, (_, platform, media_type, bytes, what)) in others.into_iter().enumerate() {
        let layer = format!("layer 1 {what} ({media_type}, {})", Digest::of(bytes));
        let shown = format!("{platform}\n  files    not looked at: {layer}\n  identical with the base\n");
        assert!(said.stdout.contains(&shown), "{said:#?}");
        assert!(inspected.stderr.contains(&format!("note: {platform}: {layer}")), "{inspected:#?}");
        let image = &data["images"][number + 1];
        assert_eq!(image["unreadable"]["media_type"], *media_type);
        assert_eq!((&image["platform"], &image["compared"]), (&json!(platform), &json!(true)));
    }
    assert_eq!(data["images"][0]["unreadable"], Value::Null);
    assert_eq!((data["blobs"].as_u64(), said.stdout.matches("declared").count() > 3), (Some(11), true));

    // Only on Linux can the list lack a capability.
    let said = run(["getcap", &to]);
    assert_eq!((said.code, said.stdout.contains("sbin/nginx cap_net_bind_service=ep")), (5, true), "{said:#?}");
    for told in ["linux/arm64: layer 1 is marked as encrypted", "note: wasip1/wasm: layer 1 is no tar"] {
        assert!(said.stderr.contains(told), "{said:#?}");
    }
    ok(["getcap", &to, "--platform", "wasip1/wasm,linux/amd64"]);
    let said = fails(5, &["the layer is encrypted", ENCRYPTED], ["doctor", &to, "--platform", "linux/arm64"]);
    assert!(said.hint().unwrap().contains("skopeo copy --decryption-key"), "{said:#?}");

    for (.., bytes, _) in others {
        let digest = Digest::of(bytes);
        let path = scene.path("dst/blobs/sha256").join(digest.hex());
        let mut bad = bytes.to_vec();
        bad[1] ^= 1;
        fs::write(&path, bad).unwrap();
        fails(5, &[digest.as_str()], ["verify", &to, "--base", &source]);
        fs::write(&path, bytes).unwrap();
    }
    let said = run(["verify", &to]);
    let finding = format!("FINDING: linux/arm64: layer 1 is marked as encrypted ({ENCRYPTED}, ");
    assert!(said.code == 8 && said.stdout.matches("FINDING").count() == 1, "{said:#?}");
    assert!(said.stdout.contains(&finding) && said.stdout.contains("): its files were not verified"), "{said:#?}");
}

#[test]
fn a_media_type_hides_no_change() {
    let base = Image::kong();
    let tar = tar::tar(&[dir("opt"), file("opt/evil", elf::amd64())]);
    for (media_type, bytes, is_patched, finding) in [
        (ENCRYPTED, &tar[..], false, "the files were not compared with the base"),
        (SIGNATURE, b"{}", false, "the files were not compared with the base"),
        (SIGNATURE, &tar, true, "/opt/evil: "),
        (WASM, &tar, true, "/opt/evil: "),
        ("application/octet-stream", &Packing::Gzip.pack(&tar), true, "/opt/evil: "),
        ("application/x", &Packing::Zstd.pack(&tar), true, "/opt/evil: "),
    ] {
        let scene = Scene::new();
        let mut content = base.clone().packed(tar.clone(), Packing::Plain).build();
        let mut manifest: Value = serde_json::from_slice(content.bytes()).unwrap();
        manifest["layers"][3] = serde_json::from_str(&content.blob(media_type, bytes.to_vec())).unwrap();
        content.manifest(OCI_MANIFEST, manifest.to_string().into_bytes());
        let changed = scene.source(&content);
        base.build().write(&scene.path("base"), "1");
        let said = run(["verify", &changed, "--base", &scene.reference("base:1")]);
        assert!(said.code == 8 && said.stdout.contains(finding), "{media_type}: {said:#?}");
        let said = run(["verify", &changed]);
        let unread = said.stdout.contains(": its files were not verified");
        assert_eq!((said.code, unread), if is_patched { (0, false) } else { (8, true) }, "{media_type}: {said:#?}");
        let said = run(["patch", &changed, &scene.reference("dst:1")]);
        assert_eq!(said.code, if is_patched { 0 } else { 5 }, "{media_type}: {said:#?}");
    }
}

#[test]
fn only_what_runs_on_no_linux_is_verified_unread() {
    let tar = tar::tar(&[file("opt/evil", elf::amd64())]);
    let noise = [0xe7; 900];
    for (platform, media_type, bytes, is_finding) in [
        ("linux/amd64", ENCRYPTED, &tar[..], true),
        ("linux/amd64", "application/x", &noise, true),
        ("Linux/amd64", ENCRYPTED, &noise, true),
        // Container engines take what names no system for Linux.
        ("/amd64", SIGNATURE, b"{}", true),
        ("/", ENCRYPTED, &noise, true),
        ("/", SIGNATURE, b"{}", false),
        ("wasip1/wasm", WASM, b"\0asm\x01\0\0\0", false),
        ("windows/amd64", ENCRYPTED, &noise, false),
    ] {
        let scene = Scene::new();
        let content = of_one_layer(platform, media_type, bytes);
        let source = scene.source(&content);
        let context = format!("{platform} {media_type}");
        let said = run(["verify", &source, "--strict"]);
        let finding = said.stdout.contains(": its files were not verified");
        assert_eq!((said.code, finding), if is_finding { (8, true) } else { (0, false) }, "{context}: {said:#?}");
        ok(["verify", &source, "--base", &source]);
        let said = run(["getcap", &source]);
        assert_eq!(said.code, if is_finding { 5 } else { 0 }, "{context}: {said:#?}");

        // An index that says otherwise does not change what its child is by itself.
        let members = r#","platform":{"os":"wasip1","architecture":"wasm"}"#;
        Index::new().child(&content, members).build().write(&scene.path("index"), "1");
        let said = run(["verify", &scene.reference("index:1")]);
        assert_eq!(said.code, if is_finding { 8 } else { 0 }, "{context}: {said:#?}");
    }
}

/// Whoever serves the first bytes of a layer does not decide that nobody reads it.
#[test]
fn a_layer_that_is_served_otherwise_at_first_is_refused() {
    let tar = tar::tar(&[file("opt/evil", elf::amd64())]);
    let content = of_one_layer("wasip1/wasm", WASM, &tar);
    let registry = Registry::start();
    content.push(&registry, "app", "1");
    let (source, layer) = (format!("{}/app:1", registry.host()), content.layer(0));
    for command in ["verify", "getcap", "inspect"] {
        let blob = layer.clone();
        let is_layer = move |request: &Request| request.method == "GET" && request.path.ends_with(&blob);
        registry.fault_times(1, is_layer, |real| {
            let length = real().body.len();
            real().body(vec![7; length])
        });
        fails(5, &[&layer], [command, &source]);
        ok([command, &source]);
    }
}

#[test]
fn linux_is_linux_in_any_case() {
    let scene = Scene::new();
    let content = with_config(Image::kong().build(), r#""os":"linux""#, r#""os":"Linux""#);
    let (source, to) = (scene.source(&content), scene.reference("dst:1"));
    ok(["patch", &source, &to, "--platform", "linux/amd64"]);
    prove(&to, &source);
    let said = ok(["getcap", &to]);
    assert!(said.stdout.contains(NGINX), "{said:#?}");
    let said = run(["doctor", &to]);
    assert!([0, 8].contains(&said.code), "{said:#?}");
}
