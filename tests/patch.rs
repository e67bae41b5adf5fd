//! `capatch patch`, each ability by itself, from and to layouts and registries. [`prove`] is the oracle of every result.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;

use capatch::oci::media_type::{DOCKER_CONFIG, DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_LAYER_GZIP};
use capatch::profile::PROFILES;
use common::cli::{capatch, fails, json, ok, prove, run, start};
use common::image::{
    BASE_DIGEST, BASE_NAME, Content, DOCKER_LAYER, Image, Index, NGINX, NGINX_ENTRY, Opened, Packing, RECORD, Scene,
};
use common::registry::{Registry, Reply, Request};
use common::tar::{self, caps, caps_of, dir, file, hard_link, symlink, whiteout};
use common::{elf, files};
use serde_json::{Value, json};

/// `cap_net_bind_service=ep`: capability 10.
const BIND: u32 = 1 << 10;
/// `cap_net_raw`: capability 13.
const RAW: u32 = 1 << 13;

fn uploads(registry: &Registry) -> Vec<Request> {
    let writes = |r: &Request| !matches!(r.method.as_str(), "GET" | "HEAD") && r.path != "/token";
    registry.log().into_iter().filter(writes).collect()
}

/// The digests of the blobs that were asked for.
fn downloaded(registry: &Registry) -> BTreeSet<String> {
    let log = registry.log();
    let blobs = log.iter().filter(|r| r.is("GET", "/blobs/sha256:"));
    blobs.map(|r| r.path.rsplit('/').next().unwrap().to_owned()).collect()
}

// What comes out.

#[test]
fn one_layer_is_added_that_holds_the_file_and_its_parents_as_they_were() {
    let scene = Scene::new();
    let image = Image::kong().build();
    let result = scene.patched(&image, []);
    assert_eq!(result.layers().len(), 4);
    assert_eq!(
        result.layers()[..3],
        serde_json::from_slice::<Value>(image.bytes()).unwrap()["layers"].as_array().unwrap()[..]
    );
    assert_eq!(result.layers()[3]["mediaType"], OCI_LAYER_GZIP);
    let entries = result.top_layer();
    let metadata: Vec<_> = entries.iter().map(|e| (e.path.as_str(), e.mode, e.uid, e.gid, e.mtime)).collect();
    assert_eq!(
        metadata,
        [
            ("usr/", 0o755, 0, 0, tar::MTIME),
            ("usr/local/", 0o755, 0, 0, tar::MTIME),
            ("usr/local/openresty/", 0o775, 1000, 1000, tar::MTIME),
            ("usr/local/openresty/nginx/", 0o775, 1000, 1000, tar::MTIME),
            ("usr/local/openresty/nginx/sbin/", 0o775, 1000, 1000, tar::MTIME),
            (NGINX_ENTRY, 0o775, 1000, 1000, tar::MTIME),
        ]
    );
    assert_eq!(entries[5].capability(), Some(&caps(BIND, true)[..]));
    assert_eq!(entries[5].content, capatch::oci::digest::Digest::of(&elf::amd64()));
    assert!(entries[..5].iter().all(|parent| parent.capability().is_none() && parent.is_dir));
}

#[test]
fn the_config_gets_ports_a_diff_id_and_a_history_entry_and_keeps_its_other_bytes() {
    let scene = Scene::new();
    let image = Image::kong().build();
    let before = String::from_utf8(image.blobs[&image.config()].clone()).unwrap();
    let after = scene.patched(&image, []).config_text();
    for same in [
        r#""Env":["PATH=/usr/bin","KONG_VERSION=3.9.3", "A=\u003cb\u003e"]"#,
        r#""Healthcheck":{"Test":["CMD","kong","health"],"Interval":60000000000}"#,
        r#""OnBuild":["RUN true"]"#,
        r#""Labels":{"maintainer":"Kong \u0026 friends"}"#,
        r#""Unknown":{"float":1.10}"#,
        r#""container_config":{"Cmd":["x"]}"#,
        r#""x-vendor":{"big":12345678901234567890123,"float":1.10}"#,
    ] {
        assert!(before.contains(same) && after.contains(same), "{same} in {after}");
    }
    let (before, mut after): (Value, Value) =
        (serde_json::from_str(&before).unwrap(), serde_json::from_str(&after).unwrap());
    assert_eq!(after["config"]["ExposedPorts"], json!({"8000/tcp": {}, "8443/tcp": {}, "80/tcp": {}, "443/tcp": {}}));
    assert_eq!(after["created"], before["created"]);
    let history = after["history"].as_array_mut().unwrap();
    let entry = history.pop().unwrap();
    assert!(entry["created_by"].as_str().unwrap().starts_with("capatch patch --cap cap_net_bind_service=ep"));
    assert_eq!(history, before["history"].as_array().unwrap());
    for member in ["architecture", "os", "container_config", "x-vendor"] {
        assert_eq!(after[member], before[member]);
    }
}

#[test]
fn an_image_without_history_gets_none() {
    let scene = Scene::new();
    let image = Image { history: false, ..Image::kong() };
    assert_eq!(scene.patched(&image.build(), []).config().get("history"), None);
}

#[test]
fn the_manifest_says_what_it_was_made_from() {
    let scene = Scene::new();
    let mut image = Image::kong();
    image.manifest_members = format!(r#","annotations":{{"a":"\u003cb","{BASE_NAME}":"older"}},"x-unknown":1.10"#);
    let image = image.build();
    let result = scene.patched(&image, []);
    let text = String::from_utf8(result.bytes.clone()).unwrap();
    assert!(text.contains(r#""a":"\u003cb""#) && text.contains(r#""x-unknown":1.10"#), "{text}");
    assert_eq!(result.json["annotations"][BASE_DIGEST], image.digest);
    assert!(result.json["annotations"][RECORD].is_string());
    assert_eq!(result.config()["config"]["Labels"], json!({"maintainer": "Kong & friends"}), "labels are docker's way");
}

#[test]
fn a_name_from_a_registry_is_recorded_and_a_path_of_this_machine_is_not() {
    let (registry, scene) = (Registry::start(), Scene::new());
    let image = Image::kong().build();
    image.push(&registry, "kong", "latest");
    ok(["patch", &format!("{}/kong", registry.host()), &format!("{}/kong:low", registry.host())]);
    let result = Opened::in_registry(&registry, "kong", "low");
    assert_eq!(result.json["annotations"][BASE_NAME], format!("{}/kong:latest", registry.host()));
    let text = String::from_utf8(scene.patched(&image, []).bytes).unwrap();
    assert!(!text.contains(scene.directory.path().to_str().unwrap()), "{text}");
}

#[test]
fn a_subject_is_not_inherited() {
    let scene = Scene::new();
    let mut image = Image::kong();
    image.manifest_members = format!(r#","subject":{}"#, Image::kong_arm64().build().descriptor(""));
    let (source, result) = (scene.source(&image.build()), scene.reference("dst:out"));
    assert!(ok(["patch", &source, &result]).stderr.contains("'subject' is not carried over"));
    assert_eq!(scene.open("dst", "out").json.get("subject"), None);
    prove(&result, &source);
    // Nor by an index.
    let (amd64, arm64) = two_platforms();
    let subject = format!(r#","subject":{}"#, amd64.descriptor(""));
    let index = Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64").members(&subject).build();
    let (source, result) = (scene.source(&index), scene.reference("dst:index"));
    let said = ok(["patch", &source, &result]);
    assert!(said.stderr.contains("the 'subject' of the index is not carried over"), "{said:#?}");
    assert_eq!(scene.open("dst", "index").json.get("subject"), None);
    prove(&result, &source);
}

#[test]
fn docker_stays_docker_and_says_its_base_in_labels() {
    let scene = Scene::new();
    let image = Image::kong().docker().build();
    let result = scene.patched(&image, []);
    assert_eq!(result.json["mediaType"], DOCKER_MANIFEST);
    assert_eq!(result.json["config"]["mediaType"], DOCKER_CONFIG);
    assert!(result.layers().iter().all(|layer| layer["mediaType"] == DOCKER_LAYER), "{}", result.json);
    assert!(!String::from_utf8(result.bytes.clone()).unwrap().contains("annotations"));
    let labels = &result.config()["config"]["Labels"];
    assert_eq!(labels[BASE_DIGEST], image.digest);
    assert_eq!(labels["maintainer"], "Kong & friends");
    assert!(labels[RECORD].is_string());
}

#[test]
fn every_compression_is_read() {
    for packing in [Packing::Gzip, Packing::Members(700), Packing::Zstd, Packing::Plain] {
        let mut image = Image::kong();
        image.layers.iter_mut().for_each(|layer| layer.1 = packing);
        let result = Scene::new().patched(&image.build(), []);
        assert_eq!(result.capability(NGINX), caps(BIND, true));
        assert_eq!(result.layers()[3]["mediaType"], OCI_LAYER_GZIP, "gzip unless asked");
    }
}

// Indexes.

fn two_platforms() -> (Content, Content) {
    (Image::kong().build(), Image::kong_arm64().build())
}

#[test]
fn every_platform_of_an_index_gets_its_own_nginx() {
    let (amd64, arm64) = two_platforms();
    let index = Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64").build();
    let result = Scene::new().patched(&index, []);
    for (number, program) in [(0, elf::amd64()), (1, elf::arm64())] {
        let child = result.child(number);
        assert_eq!(child.capability(NGINX), caps(BIND, true));
        assert_eq!(child.top_layer().last().unwrap().content, capatch::oci::digest::Digest::of(&program));
        assert_eq!(child.json["annotations"][BASE_DIGEST], index.digest, "what the user named");
    }
    assert_eq!(result.json["annotations"][BASE_DIGEST], index.digest);
}

#[test]
fn an_index_keeps_everything_else_byte_for_byte() {
    let (amd64, arm64) = two_platforms();
    let mut other = Content::default();
    let unknown = other.blob("application/vnd.example.thing", b"anything".to_vec());
    let platform = r#","platform":{"architecture":"amd64","os":"linux","os.features":[ "x" ],"y":1.10},"urls":[ ],"annotations":{"c":"\u003c"}"#;
    let mut index = Index::new().child(&amd64, platform).platform(&arm64, "arm64");
    index = index.members(r#","annotations":{"a":"\u003c"},"x-unknown":[ 1.10 ]"#);
    let text = String::from_utf8(index.build().bytes().to_vec()).unwrap();
    let text =
        text.replace(r#"}],"annotations""#, &format!("}},{}],\"annotations\"", unknown.replace(":\"app", ": \"app")));
    let mut content = Content::default();
    for part in [&amd64, &arm64, &other] {
        content.blobs.extend(part.blobs.clone());
        content.manifests.extend(part.manifests.clone());
    }
    content.manifest(OCI_INDEX, text.into_bytes());
    let result = Scene::new().patched(&content, ["--platform", "linux/amd64"]);
    let text = String::from_utf8(result.bytes.clone()).unwrap();
    for same in [
        platform,
        &arm64.descriptor(r#","platform":{"architecture":"arm64","os":"linux"}"#),
        &unknown.replace(":\"app", ": \"app"),
        r#""a":"\u003c""#,
        r#""x-unknown":[ 1.10 ]"#,
    ] {
        assert!(text.contains(same), "{same} in {text}");
    }
    assert_eq!(result.blob(&result.json["manifests"][2]), b"anything");
    assert_eq!(result.child(1).bytes, arm64.bytes());
}

#[test]
fn attestations_of_patched_images_go_and_those_of_others_stay() {
    let (amd64, arm64) = two_platforms();
    let index = Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64");
    let index = index.attestation(&amd64.digest).attestation(&arm64.digest).build();
    let old: Value = serde_json::from_slice(index.bytes()).unwrap();
    let scene = Scene::new();
    let (source, some, all) = (scene.source(&index), scene.reference("dst:some"), scene.reference("dst:all"));

    let said = ok(["patch", &source, &some, "--platform", "linux/amd64"]);
    assert!(said.stderr.contains("1 attestation manifest of the patched images dropped"), "{said:#?}");
    let result = scene.open("dst", "some");
    let children = result.json["manifests"].as_array().unwrap();
    assert_eq!(children[1..], [old["manifests"][1].clone(), old["manifests"][3].clone()]);
    assert_ne!(children[0]["digest"], amd64.digest);
    prove(&some, &source);

    let said = ok(["patch", &source, &all]);
    assert!(said.stderr.contains("2 attestation manifests of the patched images dropped"), "{said:#?}");
    assert_eq!(scene.open("dst", "all").json["manifests"].as_array().unwrap().len(), 2);
    prove(&all, &source);
}

// faults.md C20
#[test]
fn what_attests_is_no_image_by_its_annotation_and_by_its_platform() {
    let (amd64, arm64) = two_platforms();
    let about = format!(
        r#","annotations":{{"vnd.docker.reference.digest":"{}","vnd.docker.reference.type":"attestation-manifest"}}"#,
        amd64.digest
    );
    let unknown = r#","platform":{"architecture":"unknown","os":"unknown"}"#;
    // Each would pass for an image of its own.
    for members in [format!(r#"{about},"platform":{{"architecture":"arm64","os":"linux"}}"#), unknown.to_owned()] {
        let index = Index::new().platform(&amd64, "amd64").child(&arm64, &members).build();
        let scene = Scene::new();
        let said = json(["patch", &scene.source(&index), &scene.reference("dst:out")]);
        let platforms: Vec<&Value> = said["images"].as_array().unwrap().iter().map(|i| &i["platform"]).collect();
        assert_eq!(platforms, ["linux/amd64"], "{members}");
    }
}

#[test]
fn attestations_before_their_images_are_found_too() {
    let (amd64, arm64) = two_platforms();
    let index = Index::new().attestation(&amd64.digest).attestation(&arm64.digest);
    let index = index.platform(&amd64, "amd64").platform(&arm64, "arm64").build();
    assert_eq!(Scene::new().patched(&index, []).json["manifests"].as_array().unwrap().len(), 2);
    let result = Scene::new().patched(&index, ["--platform", "linux/arm64"]);
    assert_eq!(result.json["manifests"].as_array().unwrap().len(), 3);
}

#[test]
fn a_nested_index_works() {
    let (amd64, arm64) = two_platforms();
    let inner = Index::new().platform(&arm64, "arm64").attestation(&arm64.digest).build();
    let index = Index::new().platform(&amd64, "amd64").child(&inner, r#","annotations":{"x":"y"}"#).build();
    let result = Scene::new().patched(&index, []);
    let nested = result.child(1);
    assert_eq!(nested.descriptor["annotations"], json!({"x": "y"}));
    assert_eq!(nested.json["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(nested.child(0).capability(NGINX), caps(BIND, true));
    let untouched = Scene::new().patched(&index, ["--platform", "linux/amd64"]);
    assert_eq!(untouched.child(1).bytes, inner.bytes());
}

#[test]
fn a_docker_list_works_and_gets_no_annotations() {
    let (amd64, arm64) = (Image::kong().docker().build(), Image::kong_arm64().docker().build());
    let list = Index::new().docker().platform(&amd64, "amd64").platform(&arm64, "arm64").build();
    let result = Scene::new().patched(&list, []);
    assert_eq!(result.json["mediaType"], DOCKER_INDEX);
    assert_eq!(result.json.get("annotations"), None);
    for number in [0, 1] {
        assert_eq!(result.child(number).config()["config"]["Labels"][BASE_DIGEST], list.digest);
        assert_eq!(result.child(number).json["mediaType"], DOCKER_MANIFEST);
    }
}

#[test]
fn one_image_named_twice_is_patched_once() {
    let amd64 = Image::kong().build();
    let index = Index::new().platform(&amd64, "amd64").child(&amd64, "").build();
    let result = Scene::new().patched(&index, []);
    assert_eq!(result.json["manifests"][0]["digest"], result.json["manifests"][1]["digest"]);
    assert_ne!(result.json["manifests"][0]["digest"], amd64.digest);
}

#[test]
fn a_layer_that_two_images_share_is_sent_once() {
    let image = |variant: &str| {
        let mut image = Image::kong();
        image.members.push_str(&format!(r#","variant":"{variant}""#));
        image.build()
    };
    let index = Index::new().platform(&image("v2"), "amd64").platform(&image("v3"), "amd64").build();
    let registry = Registry::start();
    index.push(&registry, "kong", "3.9");
    let (from, to) = (format!("{}/kong:3.9", registry.host()), format!("{}/kong:low", registry.host()));
    let (planned, done) = (json(["patch", &from, &to, "--dry-run"]), json(["patch", &from, &to]));
    assert_eq!(planned["moves"], done["moves"]);
    let layer = done["images"][0]["layer"]["digest"].as_str().unwrap();
    assert_eq!(done["images"][1]["layer"]["digest"], layer);
    let puts = registry.log().into_iter().filter(|r| r.method == "PUT" && r.query("digest") == Some(layer)).count();
    assert_eq!(puts, 1);
    prove(&to, &from);
}

#[test]
fn a_platform_that_is_not_there_is_named_with_those_that_are() {
    let (amd64, arm64) = two_platforms();
    let scene = Scene::new();
    let source = scene.source(&Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64").build());
    let said = fails(3, &["linux/s390x"], ["patch", &source, &scene.reference("dst:x"), "--platform", "linux/s390x"]);
    assert_eq!(said.hint(), Some("there are linux/amd64, linux/arm64"));
}

// From where to where.

#[test]
fn the_same_content_gives_the_same_image_whatever_it_comes_from_and_goes_to() {
    let (scene, registry) = (Scene::new(), Registry::start());
    let (amd64, arm64) = two_platforms();
    let index = Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64").attestation(&amd64.digest).build();
    let layout = scene.source(&index);
    index.push(&registry, "kong", "3.9");
    let remote = format!("{}/kong:3.9", registry.host());
    let digest = |from: &str, to: &str| {
        let data = json(["patch", from, to]);
        prove(to, from);
        data["digest"].as_str().unwrap().to_owned()
    };
    let to = |repository: &str| format!("{}/{repository}", registry.host());
    let from_layout = [
        digest(&layout, &scene.reference("a:1")),
        digest(&layout, &to("x:1")),
        digest(&layout, &scene.reference("src:1")),
    ];
    assert!(from_layout.iter().all(|digest| *digest == from_layout[0]), "{from_layout:?}");
    let from_registry = [
        digest(&remote, &scene.reference("b:1")),
        digest(&remote, &to("kong:1")),
        digest(&remote, &to("other:1")),
        digest(&remote, &format!("{}/kong:1", Registry::start().host())),
    ];
    assert!(from_registry.iter().all(|digest| *digest == from_registry[0]), "{from_registry:?}");
    assert_eq!(registry.open_uploads(), 0);
}

#[test]
fn within_a_repository_only_what_is_new_is_sent() {
    let registry = Registry::start();
    let image = Image::kong().build();
    image.push(&registry, "kong", "3.9");
    let (from, to) = (format!("{}/kong:3.9", registry.host()), format!("{}/kong:low", registry.host()));
    let data = json(["patch", &from, &to]);
    let result = Opened::in_registry(&registry, "kong", "low");
    let new: BTreeSet<_> = [&result.layers()[3], &result.json["config"]].map(|d| d["digest"].as_str().unwrap()).into();

    let puts: Vec<_> = registry.log().into_iter().filter(|r| r.method == "PUT").collect();
    let sent: BTreeSet<_> = puts.iter().filter_map(|r| r.query("digest")).collect();
    assert_eq!(sent, new);
    let manifests: Vec<_> = puts.iter().filter(|r| r.path.contains("/manifests/")).map(|r| r.path.as_str()).collect();
    assert_eq!(manifests, ["/v2/kong/manifests/low"]);
    assert_eq!(uploads(&registry).last().unwrap().path, "/v2/kong/manifests/low", "the tag moves last");
    for layer in 0..3 {
        let digest = image.layer(layer);
        assert_eq!(registry.count("HEAD", &digest), 0, "nobody asks for what the repository has");
        assert!(registry.log().iter().all(|r| r.method != "POST" || !format!("{:?}", r.query).contains(&digest)));
    }
    // Config, the topmost layer, and the one with nginx: it says all about the parents, so the base is not looked at.
    assert_eq!(downloaded(&registry), [image.config(), image.layer(2), image.layer(1)].into());

    assert_eq!(
        data["moves"]["uploaded"],
        result.layers()[3]["size"].as_u64().unwrap() + result.json["config"]["size"].as_u64().unwrap()
    );
    let skipped: usize = (0..3).map(|layer| image.blobs[&image.layer(layer)].len()).sum();
    assert_eq!((data["moves"]["skipped"].as_u64(), data["moves"]["mounted"].as_u64()), (Some(skipped as u64), Some(0)));
    assert!(data["downloaded"].as_u64().unwrap() < 8192, "{data}");
    prove(&to, &from);
}

#[test]
fn no_layer_below_the_deciding_one_is_read() {
    let registry = Registry::start();
    let image = Image::kong().layer([dir("usr"), file("usr/above", "x")]).build();
    image.push(&registry, "kong", "3.9");
    // Whoever reads the base gets an error.
    let base = image.layer(0);
    registry.fault(move |r, _| r.path.contains(&base).then(|| Reply::error(500, "NOT_TO_BE_READ")));
    ok(["patch", &format!("{}/kong:3.9", registry.host()), &format!("{}/kong:low", registry.host())]);
    let order: Vec<_> =
        registry.lines().into_iter().filter(|l| l.starts_with("GET") && l.contains("/blobs/")).collect();
    let blob = |digest: String| format!("GET /v2/kong/blobs/{digest}");
    assert_eq!(order, [blob(image.config()), blob(image.layer(3)), blob(image.layer(2)), blob(image.layer(1))]);
}

#[test]
fn a_lower_layer_is_read_only_if_a_parent_is_described_there() {
    let registry = Registry::start();
    let image = Image::empty()
        .layer([dir("etc")])
        .layer([dir("opt").mode(0o711).owner(5)])
        .layer([file("opt/nginx", elf::amd64())])
        .build();
    image.push(&registry, "kong", "3.9");
    let to = format!("{}/kong:low", registry.host());
    ok(["patch", &format!("{}/kong:3.9", registry.host()), &to, "--file", "/opt/nginx"]);
    assert_eq!(downloaded(&registry), [image.config(), image.layer(1), image.layer(2)].into());
    let entry = &Opened::in_registry(&registry, "kong", "low").top_layer()[0];
    assert_eq!((entry.path.as_str(), entry.mode, entry.uid), ("opt/", 0o711, 5));
}

#[test]
fn another_repository_of_the_registry_gets_the_layers_mounted() {
    let registry = Registry::start();
    let image = Image::kong().build();
    image.push(&registry, "kong", "3.9");
    let (from, to) = (format!("{}/kong:3.9", registry.host()), format!("{}/low/kong:3.9", registry.host()));
    let data = json(["patch", &from, &to]);
    let sent: Vec<_> =
        registry.log().into_iter().filter(|r| r.method == "PUT" && r.query("digest").is_some()).collect();
    assert_eq!(sent.len(), 2, "the new layer and the config");
    let mounts: BTreeSet<_> = registry.log().iter().filter_map(|r| r.query("mount").map(str::to_owned)).collect();
    assert_eq!(mounts, [0, 1, 2].map(|layer| image.layer(layer)).into());
    let base: usize = (0..3).map(|layer| image.blobs[&image.layer(layer)].len()).sum();
    assert_eq!(data["moves"]["mounted"], base);
    assert!(!downloaded(&registry).contains(&image.layer(0)));
    prove(&to, &from);
}

#[test]
fn where_mounting_is_refused_the_layers_are_sent() {
    let registry = Registry::start();
    registry.refuse_mounts();
    Image::kong().build().push(&registry, "kong", "3.9");
    let (from, to) = (format!("{}/kong:3.9", registry.host()), format!("{}/low/kong:3.9", registry.host()));
    assert_eq!(json(["patch", &from, &to])["moves"]["mounted"], 0);
    assert_eq!(registry.log().iter().filter(|r| r.method == "PUT" && r.query("digest").is_some()).count(), 5);
    assert_eq!(registry.open_uploads(), 0);
    prove(&to, &from);
}

#[test]
fn two_registries() {
    let (one, other) = (Registry::start(), Registry::start());
    Image::kong().docker().build().push(&one, "kong", "3.9");
    let (from, to) = (format!("{}/kong:3.9", one.host()), format!("{}/kong:3.9", other.host()));
    ok(["patch", &from, &to]);
    assert!(uploads(&one).is_empty(), "the source is only read");
    assert!(other.log().iter().all(|r| r.query("mount").is_none()));
    assert_eq!(Opened::in_registry(&other, "kong", "3.9").capability(NGINX), caps(BIND, true));
    prove(&to, &from);
}

#[test]
fn a_digest_is_a_source_too() {
    let registry = Registry::start();
    let image = Image::kong().build();
    image.push(&registry, "kong", "3.9");
    let (from, to) = (format!("{}/kong@{}", registry.host(), image.digest), format!("{}/kong:low", registry.host()));
    ok(["patch", &from, &to]);
    prove(&to, &from);
    fails(2, &["is a digest"], ["patch", &to, &from]);
}

// The same input, the same digest.

#[test]
fn the_digest_depends_on_nothing_but_the_input() {
    let (amd64, arm64) = two_platforms();
    let scene = Scene::new();
    let source = scene.source(&Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64").build());
    let digest = |name: &str, jobs: &str, change: &dyn Fn(&mut std::process::Command)| {
        let mut command = capatch(["patch", &source, &scene.reference(name), "--json", "--jobs", jobs]);
        change(&mut command);
        start(command).succeeded().json()["digest"].as_str().unwrap().to_owned()
    };
    let plain = digest("a:1", "1", &|_| {});
    assert_eq!(
        digest("b:other-name", "16", &|command| {
            command.current_dir("/");
        }),
        plain
    );
    for (name, variables) in
        [("c:1", [("TZ", "Pacific/Kiritimati"), ("LC_ALL", "tr_TR.UTF-8")]), ("d:1", [("LANG", "C"), ("USER", "x")])]
    {
        assert_eq!(
            digest(name, "4", &|command| {
                command.envs(variables);
            }),
            plain
        );
    }
    let script =
        format!("umask 077; exec {} patch {source} {} --json", env!("CARGO_BIN_EXE_capatch"), scene.reference("e:1"));
    let mut shell = std::process::Command::new("/bin/sh");
    shell.arg("-c").arg(script).env_clear();
    assert_eq!(start(shell).succeeded().json()["digest"], plain);
}

#[test]
fn the_order_of_options_and_the_names_of_platforms_are_no_input() {
    let with = |image: Image, program| image.layer([file("opt/b", program)]).build();
    let (amd64, arm64) = (with(Image::kong(), elf::amd64()), with(Image::kong_arm64(), elf::arm64()));
    let scene = Scene::new();
    let source = scene.source(&Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64").build());
    for (i, (one, other)) in [
        ("--platform linux/amd64,linux/arm64", "--platform linux/arm64/v8 --platform linux/amd64,linux/aarch64"),
        ("--expose 80 --expose 81,443", "--expose 443/tcp,81,80,81"),
        ("--unexpose 8000,8443", "--unexpose 8443,8000,8443"),
        ("--file /usr/local/bin/nginx --file /opt/b", "--file /opt/b --file /usr/local/bin/nginx --file /opt/b"),
        ("--env A=1 --env B=2 --label a=1 --label b=2", "--label b=2 --label a=1 --env B=2 --env A=1"),
    ]
    .into_iter()
    .enumerate()
    {
        let patch = |tag: &str, options: &str| {
            let to = scene.reference(&format!("{i}:{tag}"));
            start(capatch(["patch", &source, &to, "--json"].into_iter().chain(options.split(' ')))).succeeded().json()
        };
        let digest = patch("one", one)["digest"].clone();
        assert_eq!(patch("other", other)["digest"], digest, "{other}");
        assert_eq!(patch("one", other)["result"], "unchanged", "{other}");
    }
}

#[test]
fn source_date_epoch_dates_the_image() {
    let scene = Scene::new();
    let source = scene.source(&Image::kong().build());
    let patch = |name: &str, epoch: &[u8]| {
        let mut command = capatch(["patch", &source, &scene.reference(name)]);
        command.env("SOURCE_DATE_EPOCH", std::ffi::OsStr::from_bytes(epoch));
        start(command)
    };
    patch("dst:1", b"951868799").succeeded();
    let config = scene.open("dst", "1").config();
    assert_eq!(config["created"], "2000-02-29T23:59:59Z");
    assert_eq!(config["history"].as_array().unwrap().last().unwrap()["created"], "2000-02-29T23:59:59Z");
    prove(&scene.reference("dst:1"), &source);
    for bad in [&b""[..], b"yesterday", b"-1", b"253402300800", b"\xff", b"951868799\xff"] {
        patch("dst:2", bad).failed(2, &["SOURCE_DATE_EPOCH", "from 1970 to the end of 9999"]);
    }
}

// Running it twice.

#[test]
fn the_second_time_it_is_unchanged_and_nothing_moves() {
    for docker in [false, true] {
        let registry = Registry::start();
        let image = if docker { Image::kong().docker() } else { Image::kong() }.build();
        image.push(&registry, "kong", "3.9");
        let arguments = ["patch", &format!("{}/kong:3.9", registry.host()), &format!("{}/kong:low", registry.host())];
        let first = json(arguments);
        registry.clear_log();
        let second = ok(arguments);
        assert!(second.stdout.starts_with("unchanged"), "{second:#?}");
        let lines = registry.lines();
        assert!(lines.iter().all(|line| line.starts_with("GET /v2/kong/")), "{lines:?}");
        let blobs: Vec<_> = downloaded(&registry).into_iter().collect();
        let config =
            Opened::in_registry(&registry, "kong", "low").json["config"]["digest"].as_str().unwrap().to_owned();
        assert_eq!(blobs, if docker { vec![config] } else { vec![] }, "docker's record is in the config");
        let data = json(arguments);
        assert_eq!((&data["result"], &data["digest"]), (&json!("unchanged"), &first["digest"]));
    }
}

#[test]
fn an_index_is_unchanged_the_second_time() {
    for docker in [false, true] {
        let (amd64, arm64) = match docker {
            true => (Image::kong().docker().build(), Image::kong_arm64().docker().build()),
            false => two_platforms(),
        };
        let index = if docker { Index::new().docker() } else { Index::new() };
        let index = index.platform(&amd64, "amd64").platform(&arm64, "arm64").build();
        let (registry, scene) = (Registry::start(), Scene::new());
        index.push(&registry, "kong", "3.9");
        let from = format!("{}/kong:3.9", registry.host());
        for to in [format!("{}/kong:low", registry.host()), scene.reference("dst:low")] {
            for options in [&["--json"][..], &["--json", "--platform", "linux/arm64"]] {
                let patch = || start(capatch(["patch", &from, &to].iter().chain(options))).succeeded().json();
                let first = patch();
                registry.clear_log();
                let second = patch();
                assert_eq!(second["result"], "unchanged", "{first} {second}");
                assert_eq!(first["digest"], second["digest"]);
                assert!(uploads(&registry).is_empty());
                let configs = downloaded(&registry).len();
                assert!(if docker { configs <= 2 } else { configs == 0 }, "{configs} blobs were downloaded");
            }
        }
    }
}

#[test]
fn the_order_of_options_does_not_matter_where_the_result_is_the_same() {
    let scene = Scene::new();
    let (source, result) = (scene.source(&Image::kong().build()), scene.reference("dst:out"));
    ok(["patch", &source, &result, "--env", "A=1", "--env", "B=2", "--label", "x=1", "--label", "y=2"]);
    let again = json(["patch", &source, &result, "--label", "y=2", "--env", "B=2", "--env", "A=1", "--label", "x=1"]);
    assert_eq!(again["result"], "unchanged");
}

#[test]
fn the_layout_is_not_touched_the_second_time() {
    let scene = Scene::new();
    let (source, result) = (scene.source(&Image::kong().build()), scene.reference("dst:out"));
    ok(["patch", &source, &result]);
    let stamp = || fs::metadata(scene.path("dst/index.json")).unwrap().modified().unwrap();
    let before = stamp();
    ok(["patch", &source, &result]);
    assert_eq!(stamp(), before);
}

#[test]
fn a_foreign_tag_is_refused_and_force_replaces_it() {
    let registry = Registry::start();
    Image::kong().build().push(&registry, "kong", "3.9");
    let foreign = Image::kong_arm64().build();
    foreign.push(&registry, "kong", "low");
    let (from, to) = (format!("{}/kong:3.9", registry.host()), format!("{}/kong:low", registry.host()));
    let refused = fails(7, &["no result of capatch", &foreign.digest], ["patch", &from, &to]);
    assert!(refused.hint().unwrap().contains("--force"));
    fails(7, &["no result of capatch"], ["patch", &from, &to, "--dry-run"]);
    assert!(uploads(&registry).is_empty());
    assert_eq!(downloaded(&registry), BTreeSet::new(), "refused before anything is read");
    let data = json(["patch", &from, &to, "--force"]);
    assert_eq!(data["replaced"], foreign.digest);
    prove(&to, &from);
}

#[test]
fn the_source_is_not_overwritten_by_accident() {
    let scene = Scene::new();
    let source = scene.source(&Image::kong().build());
    fails(7, &["no result of capatch"], ["patch", &source, &source]);
    ok(["patch", &source, &source, "--force"]);
    assert_eq!(scene.open("src", "3.9").capability(NGINX), caps(BIND, true));
}

#[test]
fn an_earlier_result_for_the_same_repository_is_replaced() {
    for docker in [false, true] {
        let registry = Registry::start();
        let image = |label: &str| {
            let image = Image::kong().run("maintainer", label);
            if docker { image.docker() } else { image }.build()
        };
        image("old").push(&registry, "kong", "3.9");
        let (from, to) = (format!("{}/kong:3.9", registry.host()), format!("{}/low:3.9", registry.host()));
        let first = json(["patch", &from, &to]);
        image("new").push(&registry, "kong", "3.9");
        let second = json(["patch", &from, &to]);
        assert_eq!((&second["result"], &second["replaced"]), (&json!("patched"), &first["digest"]));
        let third = json(["patch", &from, &to, "--unexpose", "8000"]);
        assert_eq!((&third["result"], &third["replaced"]), (&json!("patched"), &second["digest"]), "other options");
        prove(&to, &from);

        image("new").push(&registry, "other", "3.9");
        let other = format!("{}/other:3.9", registry.host());
        fails(7, &["another repository"], ["patch", &other, &to]);
    }
}

#[test]
fn a_result_that_somebody_edited_is_refused() {
    let scene = Scene::new();
    let (source, result) = (scene.source(&Image::kong().build()), scene.reference("dst:out"));
    ok(["patch", &source, &result]);
    let opened = scene.open("dst", "out");
    let mut content = Content::default();
    let config = opened.config_text().replace("docker-start", "docker-stop!");
    content.blob("x", config.clone().into_bytes());
    let digest = capatch::oci::digest::Digest::of(config.as_bytes());
    let text = String::from_utf8(opened.bytes.clone()).unwrap();
    let text = text.replace(opened.json["config"]["digest"].as_str().unwrap(), digest.as_str());
    content.manifest(opened.json["mediaType"].as_str().unwrap(), text.into_bytes());
    content.write(&scene.path("dst"), "out");
    fails(7, &["somebody changed it"], ["patch", &source, &result]);
    ok(["patch", &source, &result, "--force"]);
    prove(&result, &source);
}

#[test]
fn an_edited_docker_result_is_refused() {
    let scene = Scene::new();
    let (source, result) = (scene.source(&Image::kong().docker().build()), scene.reference("dst:out"));
    ok(["patch", &source, &result]);
    let opened = scene.open("dst", "out");
    let mut content = Content::default();
    let descriptor =
        content.blob(DOCKER_CONFIG, opened.config_text().replace("docker-start", "docker-stop!").into_bytes());
    let mut manifest = opened.json.clone();
    manifest["config"] = serde_json::from_str(&descriptor).unwrap();
    content.manifest(DOCKER_MANIFEST, manifest.to_string().into_bytes());
    content.write(&scene.path("dst"), "out");
    fails(7, &["somebody changed it"], ["patch", &source, &result]);
}

#[test]
fn a_docker_list_with_one_foreign_image_is_refused() {
    let (amd64, arm64) = (Image::kong().docker().build(), Image::kong_arm64().docker().build());
    let list = Index::new().docker().platform(&amd64, "amd64").platform(&arm64, "arm64").build();
    let scene = Scene::new();
    let (source, result) = (scene.source(&list), scene.reference("dst:out"));
    ok(["patch", &source, &result]);
    let foreign = Image::kong_arm64().docker().run("kong", "evil").build();
    let text = String::from_utf8(scene.open("dst", "out").bytes).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["manifests"][1] =
        serde_json::from_str(&foreign.descriptor(r#","platform":{"architecture":"arm64","os":"linux"}"#)).unwrap();
    let mut content = foreign.clone();
    content.manifest(DOCKER_INDEX, value.to_string().into_bytes());
    content.write(&scene.path("dst"), "out");
    fails(7, &["somebody changed it"], ["patch", &source, &result]);
}

#[test]
fn a_tag_that_moves_meanwhile_is_not_overwritten() {
    let registry = Registry::start();
    Image::kong().build().push(&registry, "kong", "3.9");
    let foreign = Image::kong_arm64().build();
    let (store, digest) = (registry.clone(), foreign.digest.clone());
    registry.fault(move |r, _| {
        // Somebody publishes while we upload.
        if r.method == "PUT" && r.query("digest").is_some() {
            foreign.push(&store, "kong", "low");
        }
        None
    });
    let to = format!("{}/kong:low", registry.host());
    let from = format!("{}/kong:3.9", registry.host());
    fails(7, &["changed by somebody else meanwhile"], ["patch", &from, &to]);
    assert_eq!(registry.tag("kong", "low"), Some(digest));
}

// Capabilities.

fn nginx_with(value: &[u8]) -> Content {
    Image::with_nginx(file(NGINX_ENTRY, elf::amd64()).xattr("security.capability", value)).build()
}

#[test]
fn capabilities_that_are_there_stay() {
    let result = Scene::new().patched(&nginx_with(&caps(RAW, true)), []);
    assert_eq!(result.capability(NGINX), caps(RAW | BIND, true));
    assert_eq!(result.capability(NGINX)[4..8], [0x00, 0x24, 0, 0], "as setcap writes it");
}

#[test]
fn replace_caps_sets_exactly_what_is_asked_for() {
    let result = Scene::new().patched(&nginx_with(&caps(RAW, true)), ["--replace-caps"]);
    assert_eq!(result.capability(NGINX), caps(BIND, true));
    let result = Scene::new().patched(&nginx_with(&caps(RAW, true)), ["--replace-caps", "--cap", "cap_chown+p"]);
    assert_eq!(result.capability(NGINX), caps(1, false));
}

#[test]
fn a_file_that_has_it_already_needs_no_layer() {
    let scene = Scene::new();
    let image = nginx_with(&caps(RAW | BIND, true));
    let result = scene.patched(&image, []);
    assert_eq!(result.layers().len(), 1);
    let history = result.config()["history"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(history["empty_layer"], true);
    assert!(result.config()["config"]["ExposedPorts"]["80/tcp"].is_object());
    let again = ok(["patch", &scene.reference("src:3.9"), &scene.reference("dst:out")]);
    assert!(again.stdout.contains("unchanged"));
}

#[test]
fn a_capability_of_another_user_name_space_is_refused() {
    let scene = Scene::new();
    let source = scene.source(&nginx_with(&caps_of(RAW, 1000)));
    fails(5, &[NGINX, "1000"], ["patch", &source, &scene.reference("dst:x")]);
    ok(["patch", &source, &scene.reference("dst:y"), "--replace-caps", "--dry-run"]);
}

#[test]
fn revision_3_of_root_becomes_revision_2() {
    let result = Scene::new().patched(&nginx_with(&caps_of(RAW, 0)), []);
    assert_eq!(result.capability(NGINX), caps(RAW | BIND, true));
    let result = Scene::new().patched(&nginx_with(&caps_of(BIND, 0)), []);
    assert_eq!(result.capability(NGINX), caps(BIND, true), "even if nothing is added");
}

#[test]
fn a_value_with_a_newline_in_it_is_read_and_written() {
    // cap_dac_override and cap_fowner: 0x0a, the newline.
    let scene = Scene::new();
    let result = scene.patched(&nginx_with(&caps(0x0a, true)), []);
    assert_eq!(result.layers().len(), 2);
    let listed = ok(["getcap", &scene.reference("dst:out")]).stdout;
    assert_eq!(listed, format!("{NGINX} cap_dac_override,cap_fowner,cap_net_bind_service=ep\n"));
}

#[test]
fn a_file_that_is_not_executable_or_was_not_effective_is_warned_about() {
    let scene = Scene::new();
    let image = Image::empty().layer([
        dir("opt"),
        file("opt/plain", elf::amd64()).mode(0o644),
        file("opt/setuid", elf::amd64()).mode(0o4755),
        file("opt/weak", elf::amd64()).xattr("security.capability", &caps(RAW, false)),
        file("opt/data/nginx", elf::amd64()),
    ]);
    let image = image.run(r#""User""#, r#""Volumes":{"/opt/data":{}},"User""#);
    let image =
        image.run(r#""maintainer""#, r#""containerd.io/restart.status":"running","io.containerd.x":"y","maintainer""#);
    let source = scene.source(&image.build());
    let files = ["--file", "/opt/plain", "--file", "/opt/setuid", "--file", "/opt/weak", "--file", "/opt/data/nginx"];
    let said = start(capatch(["patch", &source, &scene.reference("dst:out")].into_iter().chain(files))).succeeded();
    for warning in [
        "/opt/plain is not executable (mode 0644)",
        "/opt/setuid is setuid root",
        "/opt/weak had were not effective, and now are",
        "/opt/data/nginx is under the volume /opt/data",
        "the label containerd.io/restart.status makes",
        "the label io.containerd.x makes",
    ] {
        assert!(said.stderr.contains("warning: linux/amd64: ") && said.stderr.contains(warning), "{said:#?}");
    }
    assert_eq!(scene.open("dst", "out").top_layer().len(), 6);
    prove(&scene.reference("dst:out"), &source);
}

// Which file.

#[test]
fn a_symlink_leads_to_the_real_file_and_this_is_said() {
    let scene = Scene::new();
    let (source, result) = (scene.source(&Image::kong().build()), scene.reference("dst:out"));
    let said = ok(["patch", &source, &result, "--file", "/usr/local/bin/nginx"]);
    assert!(
        said.stdout.contains(NGINX) && said.stdout.contains("found through the link /usr/local/bin/nginx"),
        "{said:#?}"
    );
    let entries = scene.open("dst", "out").top_layer();
    assert_eq!(entries.last().unwrap().path, NGINX_ENTRY);
    assert!(entries.iter().all(|entry| entry.path != "usr/local/bin/nginx"));
    prove(&result, &source);
}

#[test]
fn the_same_file_by_two_names_is_patched_once() {
    let result = Scene::new().patched(&Image::kong().build(), ["--file", NGINX, "--file", "/usr/local/bin/nginx"]);
    assert_eq!(result.top_layer().iter().filter(|entry| !entry.is_dir).count(), 1);
}

#[test]
fn merged_directories_are_followed() {
    let image = Image::empty()
        .layer([dir("usr"), dir("usr/sbin").mode(0o711), symlink("sbin", "usr/sbin"), symlink("bin", "/usr/sbin")])
        .layer([file("sbin/nginx", elf::amd64())])
        .build();
    for asked in ["/sbin/nginx", "/usr/sbin/nginx", "/bin/nginx", "/bin/../sbin/./nginx"] {
        let result = Scene::new().patched(&image, ["--file", asked]);
        let paths: Vec<_> = result.top_layer().into_iter().map(|e| (e.path, e.mode)).collect();
        let expected = [("usr/", 0o755), ("usr/sbin/", 0o711), ("usr/sbin/nginx", 0o755)];
        assert_eq!(paths, expected.map(|(path, mode)| (path.to_owned(), mode)), "{asked}");
    }
}

#[test]
fn a_hard_link_has_the_content_of_its_target_and_its_other_name_is_told() {
    let image = Image::empty()
        .layer([dir("opt"), file("opt/openresty", elf::amd64()), hard_link("opt/nginx", "opt/openresty")])
        .build();
    for (asked, other) in [("/opt/nginx", "/opt/openresty"), ("/opt/openresty", "/opt/nginx")] {
        let scene = Scene::new();
        let (source, result) = (scene.source(&image), scene.reference("dst:out"));
        let said = ok(["patch", &source, &result, "--file", asked]);
        assert!(said.stderr.contains(&format!("{other} is a hard link to the same file")), "{said:#?}");
        let opened = scene.open("dst", "out");
        assert_eq!(opened.capability(asked), caps(BIND, true));
        assert_eq!(opened.top_layer().last().unwrap().content, capatch::oci::digest::Digest::of(&elf::amd64()));
        prove(&result, &source);
        assert_eq!(ok(["getcap", &result]).stdout, format!("{asked} cap_net_bind_service=ep\n"));
    }
}

#[test]
fn a_hard_link_gives_its_file_its_owner_and_permissions() {
    let program = file("opt/openresty", elf::amd64()).mode(0o755);
    let link = hard_link("opt/nginx", "opt/openresty").mode(0o4711).owner(7).mtime(9);
    for layers in [vec![vec![dir("opt"), program.clone(), link.clone()]], vec![vec![dir("opt"), program], vec![link]]] {
        let image = layers.iter().fold(Image::empty(), |image, layer| image.layer(layer)).build();
        let scene = Scene::new();
        let (source, result) = (scene.source(&image), scene.reference("dst:out"));
        ok(["patch", &source, &result, "--file", "/opt/openresty"]);
        let entry = scene.open("dst", "out").top_layer().pop().unwrap();
        assert_eq!((entry.mode, entry.uid, entry.mtime), (0o4711, 7, 9));
        prove(&result, &source);
    }
}

// faults.md H8
#[test]
fn a_dynamic_linker_that_the_image_lacks_is_warned_of() {
    const GLIBC: &str = "/lib64/ld-linux-x86-64.so.2";
    let (program, musl) = (file("opt/nginx", elf::dynamic(GLIBC)), file("lib/ld-musl-x86_64.so.1", ""));
    let glibc = file(&format!("usr{GLIBC}"), "");
    let merged = [symlink("lib64", "usr/lib64"), glibc.clone()];
    for (layers, warned) in [
        (vec![vec![musl.clone(), dir("opt"), program.clone()]], true),
        (vec![vec![dir("opt"), file("opt/nginx", elf::amd64())]], false),
        (vec![[&merged[..], &[dir("opt"), program.clone()]].concat()], false),
        (vec![vec![dir("opt"), program.clone()], merged.to_vec()], false),
        (vec![vec![dir("opt"), program.clone()], vec![symlink("lib64", "usr/lib64")]], true),
        (vec![vec![dir("opt"), program.clone(), glibc], vec![symlink("lib64", "usr/lib64")]], false),
        (vec![[&merged[..], &[dir("opt"), program.clone()]].concat(), vec![whiteout("usr/lib64")]], true),
        // Who knows what the other layer has? It is not read for that.
        (vec![vec![musl], vec![dir("opt"), program]], false),
    ] {
        let image = layers.iter().fold(Image::empty(), |image, layer| image.layer(layer)).build();
        let scene = Scene::new();
        let (source, result) = (scene.source(&image), scene.reference("dst:out"));
        let said = ok(["patch", &source, &result, "--file", "/opt/nginx"]);
        let warning = format!(
            "warning: linux/amd64: /opt/nginx starts only if its dynamic linker {GLIBC}, which the image does not have, is mounted"
        );
        assert_eq!(said.stderr.contains(&warning), warned, "{layers:?} {said:#?}");
        assert_eq!(said.stderr.contains("dynamic linker"), warned, "{said:#?}");
        let without = ok(["patch", &source, &scene.reference("dst:gone"), "--file=/opt/nginx", "--remove-caps"]);
        assert!(!without.stderr.contains("dynamic linker"), "{without:#?}");
    }
}

#[test]
fn where_a_hard_link_makes_the_capability_uncertain_it_is_written() {
    let has = |entry: tar::Entry| entry.xattr("security.capability", &caps(BIND, true));
    let (program, link) = (file("opt/openresty", elf::amd64()), hard_link("opt/nginx", "opt/openresty"));
    for (file, link, certain) in [
        (has(program.clone()), link.clone(), false),
        (program.clone(), has(link.clone()), false),
        (has(program), has(link), true),
    ] {
        for layers in [vec![vec![dir("opt"), file.clone(), link.clone()]], vec![vec![dir("opt"), file], vec![link]]] {
            let image = layers.iter().fold(Image::empty(), |image, layer| image.layer(layer)).build();
            let scene = Scene::new();
            let (source, result) = (scene.source(&image), scene.reference("dst:out"));
            let said = ok(["patch", &source, &result, "--file", "/opt/openresty"]);
            let warned = |said: &str| said.contains("the hard link /opt/nginx has other");
            assert_eq!(warned(&said.stderr), !certain, "{said:#?}");
            assert_eq!(said.stdout.contains("(already)"), certain, "{said:#?}");
            let opened = scene.open("dst", "out");
            assert_eq!(opened.layers().len(), layers.len() + usize::from(!certain));
            if !certain {
                assert_eq!(opened.capability("/opt/openresty"), caps(BIND, true));
            }
            prove(&result, &source);
            let listed = ok(["getcap", &source]);
            let both = "/opt/nginx cap_net_bind_service=ep\n/opt/openresty cap_net_bind_service=ep\n";
            assert_eq!(listed.stdout, both);
            assert_eq!(listed.stderr.matches("depend on the container engine").count(), usize::from(!certain));
            assert_eq!(run(["verify", &source]).code, 0);
            assert_eq!(run(["verify", &source, "--strict"]).code, if certain { 0 } else { 8 });
            let both = ["patch", &source, &scene.reference("dst:both"), "--file=/opt/openresty", "--file=/opt/nginx"];
            assert_eq!(ok(both).stderr, "");
            ok(["patch", &source, &scene.reference("dst:gone"), "--file=/opt/openresty", "--remove-caps"]);
            assert_eq!(ok(["getcap", &scene.reference("dst:gone"), "/opt/openresty"]).stdout, "");
        }
    }
}

#[test]
fn of_many_hard_links_ten_are_named_and_all_are_declared() {
    let links = (0..1100).map(|number| hard_link(&format!("opt/{number}"), "opt/nginx"));
    let entries: Vec<_> = [dir("opt"), file("opt/nginx", elf::amd64())].into_iter().chain(links).collect();
    let scene = Scene::new();
    let (source, result) = (scene.source(&Image::empty().layer(entries).build()), scene.reference("dst:out"));
    let said = ok(["patch", &source, &result, "--file", "/opt/nginx"]);
    assert_eq!(said.stderr.matches("is a hard link to the same file").count(), 10, "{said:#?}");
    assert!(said.stderr.contains("1090 more hard links to /opt/nginx keep the old file"), "{said:#?}");
    prove(&result, &source);
}

/// A hard link that somebody puts on top of a patched program takes its capability with containerd.
#[test]
fn a_later_hard_link_without_the_capability_is_found() {
    let program = file("opt/openresty", elf::amd64()).xattr("security.capability", &caps(BIND, true));
    let scene = Scene::new();
    let image = Image::empty().layer([dir("opt"), file("opt/openresty", elf::amd64())]).build();
    let source = scene.source(&image);
    ok(["patch", &source, &scene.reference("dst:out"), "--file", "/opt/openresty"]);
    let record = scene.open("dst", "out").json["annotations"][RECORD].as_str().unwrap().to_owned();
    let mut edited =
        Image::empty().layer([dir("opt"), program]).layer([hard_link("opt/nginx", "opt/openresty")]).build();
    let mut manifest: Value = serde_json::from_slice(edited.bytes()).unwrap();
    manifest["annotations"][RECORD] = record.into();
    edited.manifest(manifest["mediaType"].clone().as_str().unwrap(), manifest.to_string().into_bytes());
    edited.write(&scene.path("edited"), "x");
    let said = run(["verify", &scene.reference("edited:x")]);
    assert_eq!(said.code, 8, "{said:#?}");
    assert!(said.stdout.contains("FINDING: linux/amd64: the capabilities of /opt/openresty depend on"), "{said:#?}");
}

#[test]
fn the_topmost_version_of_a_file_counts() {
    let newer = [elf::amd64(), b"newer".to_vec()].concat();
    let image = Image::kong().layer([dir("usr"), dir("usr/local"), file(NGINX_ENTRY, newer.clone()).mode(0o711)]);
    let result = Scene::new().patched(&image.build(), []);
    let entries = result.top_layer();
    assert_eq!(entries.last().unwrap().content, capatch::oci::digest::Digest::of(&newer));
    assert_eq!((entries[5].mode, entries[4].mode, entries[4].uid), (0o711, 0o775, 1000), "parents are from below");
}

#[test]
fn a_deleted_file_is_missing() {
    let scene = Scene::new();
    let source = scene.source(&Image::kong().layer([whiteout(NGINX_ENTRY)]).build());
    fails(3, &["the image has no", NGINX], ["patch", &source, &scene.reference("dst:x")]);
}

#[test]
fn metadata_survive_to_the_last_bit() {
    let image = Image::empty()
        .layer([
            dir("opt")
                .mode(0o1775)
                .owner(4_000_000)
                .pax("uid", b"4000000")
                .pax("mtime", b"1704067200.123456789")
                .xattr("user.note", b"a\nb\0c"),
            dir("opt/sbin").mode(0o2755).mtime(0).pax("atime", b"1704067200.5").pax("uname", "kong\u{e9}".as_bytes()),
            file("opt/sbin/nginx", elf::amd64())
                .mode(0o2711)
                .owner(77)
                .pax("mtime", b"-1.25")
                .xattr("user.x", b"\x01\x00"),
        ])
        .build();
    let scene = Scene::new();
    // prove compares everything with the base; the newline is beyond the tar crate.
    let result = scene.patched(&image, ["--file", "/opt/sbin/nginx"]);
    let mut tar = Vec::new();
    let blob = result.blob(&result.layers()[1]);
    std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&blob[..]), &mut tar).unwrap();
    for record in [
        tar::record(b"SCHILY.xattr.user.note", b"a\nb\0c"),
        tar::record(b"mtime", b"1704067200.123456789"),
        tar::record(b"uid", b"4000000"),
        tar::record(b"uname", "kong\u{e9}".as_bytes()),
        tar::record(b"mtime", b"-1.25"),
        tar::record(b"SCHILY.xattr.user.x", b"\x01\x00"),
        tar::record(b"SCHILY.xattr.security.capability", &caps(BIND, true)),
    ] {
        assert!(tar.windows(record.len()).any(|w| w == record), "{}", String::from_utf8_lossy(&record));
    }
}

// What the config is told.

#[test]
fn ports_variables_and_labels_are_set() {
    let scene = Scene::new();
    let image = Image::kong().build();
    let options = [
        "--expose",
        "8443,53/udp",
        "--unexpose",
        "8000/tcp",
        "--env",
        "A=c=d",
        "--env",
        "NEW=x y",
        "--label",
        "maintainer=me",
        "--label",
        "b=",
    ];
    let result = scene.patched(&image, options);
    let run = &result.config()["config"];
    assert_eq!(run["ExposedPorts"], json!({"8443/tcp": {}, "53/udp": {}}), "named ports replace the profile's");
    assert_eq!(run["Env"], json!(["PATH=/usr/bin", "KONG_VERSION=3.9.3", "A=c=d", "NEW=x y"]), "in their place");
    assert_eq!(run["Labels"], json!({"maintainer": "me", "b": ""}));
}

#[test]
fn contradictions_on_the_command_line_are_usage_errors() {
    let scene = Scene::new();
    let (source, result) = (scene.source(&Image::kong().build()), scene.reference("dst:out"));
    for (words, options) in [
        (&["exposed and not to be exposed"][..], &["--unexpose", "80"][..]),
        (&["'70000' is not a port"], &["--expose", "70000"]),
        (&["absolute path"], &["--file", "usr/sbin/nginx"]),
        (&["KONG_PROXY_LISTEN", "set twice"], &["--listen=0.0.0.0:80", "--env", "KONG_PROXY_LISTEN=x"]),
        (&["NAME=VALUE"], &["--env", "A"]),
        (&["written by capatch itself"], &["--label", "dev.capatch.patch=x"]),
        (&["apache", "possible values", "ingress-nginx"], &["--profile", "apache"]),
        (&["names no file"], &["--profile", "none"]),
        (&["no listen variable"], &["--profile", "none", "--file", NGINX, "--listen"]),
        (&["cap_net_bind"], &["--cap", "cap_net_bind=ep"]),
        (&["--jobs"], &["--jobs", "0"]),
    ] {
        start(capatch(["patch", &source, &result].iter().chain(options))).failed(2, words);
    }
    assert!(!scene.path("dst").exists());
}

#[test]
fn listen_is_baked_from_the_default_of_the_version() {
    let result = Scene::new().patched(&Image::kong().build(), ["--listen"]);
    let env = result.config()["config"]["Env"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        env,
        "KONG_PROXY_LISTEN=0.0.0.0:80 reuseport backlog=16384, 0.0.0.0:443 http2 ssl reuseport backlog=16384"
    );
}

#[test]
fn listen_keeps_the_flags_of_the_image_s_own_value() {
    let image = Image::kong()
        .run("\"PATH=", "\"KONG_PROXY_LISTEN=127.0.0.1:8000 proxy_protocol,[::]:8443  ssl deferred\",\"PATH=");
    let result = Scene::new().patched(&image.build(), ["--listen"]);
    assert_eq!(
        result.config()["config"]["Env"][0],
        "KONG_PROXY_LISTEN=127.0.0.1:80 proxy_protocol,[::]:443  ssl deferred"
    );
}

#[test]
fn a_listen_value_is_checked_against_the_version() {
    let scene = Scene::new();
    let (source, result) = (scene.source(&Image::kong().build()), scene.reference("dst:out"));
    fails(2, &["KONG_PROXY_LISTEN", "transparent"], ["patch", &source, &result, "--listen=0.0.0.0:80 transparent"]);
    ok(["patch", &source, &result, "--listen=0.0.0.0:80 backlog=1, 0.0.0.0:443 ssl"]);
    let env = scene.open("dst", "out").config()["config"]["Env"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(env, "KONG_PROXY_LISTEN=0.0.0.0:80 backlog=1, 0.0.0.0:443 ssl");
    prove(&result, &source);
    let old = scene.source(&Image::kong().run("KONG_VERSION=3.9.3", "KONG_VERSION=1.5.1").build());
    fails(2, &["backlog"], ["patch", &old, &scene.reference("dst:old"), "--listen=0.0.0.0:80 backlog=1"]);
}

/// Kong 1.2.2 on Alpine, as docker-kong built it: nginx belongs to root, the user is another one, and there is no setcap
/// that could be run for every platform.
#[test]
fn the_image_of_the_write_up_gets_its_capability() {
    let mut image = Image::empty()
        .layer([
            dir("etc"),
            file("etc/passwd", "root:x:0:0::/:/bin/sh\nkong:x:1337:65533::/home/kong:/sbin/nologin\n").mode(0o644),
            dir("usr"),
            dir("usr/local"),
            dir("usr/local/openresty"),
            dir("usr/local/openresty/nginx"),
            dir("usr/local/openresty/nginx/sbin"),
            file(NGINX_ENTRY, elf::amd64()).mode(0o755),
            dir("usr/local/kong").mode(0o775).owner(1337),
        ])
        .layer([file("docker-entrypoint.sh", "#!/bin/sh\nset -e\nexport KONG_NGINX_DAEMON=off\n").mode(0o755)]);
    image.run = r#""ExposedPorts":{"8000/tcp":{},"8001/tcp":{},"8443/tcp":{},"8444/tcp":{}},"Env":["PATH=/usr/bin","KONG_VERSION=1.2.2","KONG_SHA256=76183d7e"],"Entrypoint":["/docker-entrypoint.sh"],"Cmd":["kong","docker-start"],"StopSignal":"SIGQUIT","Labels":{"maintainer":"Kong Core Team"}"#.into();
    let scene = Scene::new();
    let (source, to) = (scene.source(&image.docker().build()), scene.reference("dst:1.2.2-lowport"));
    ok(["patch", &source, &to, "--cap", "cap_net_bind_service=+eip", "--file", NGINX, "--listen"]);
    prove(&to, &source);
    let result = scene.open("dst", "1.2.2-lowport");
    // setcap writes the same 20 bytes: VFS_CAP_REVISION_2, effective, and bit 10 permitted and inheritable.
    assert_eq!(
        result.capability(NGINX),
        [1, 0, 0, 2, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        "cap_net_bind_service=eip"
    );
    let nginx = result.top_layer().pop().unwrap();
    assert_eq!((nginx.path.as_str(), nginx.mode, nginx.uid, nginx.gid), (NGINX_ENTRY, 0o755, 0, 0));
    let run = &result.config()["config"];
    for (member, value) in [
        ("Entrypoint", json!(["/docker-entrypoint.sh"])),
        ("Cmd", json!(["kong", "docker-start"])),
        ("StopSignal", json!("SIGQUIT")),
        (
            "Env",
            json!([
                "PATH=/usr/bin",
                "KONG_VERSION=1.2.2",
                "KONG_SHA256=76183d7e",
                "KONG_PROXY_LISTEN=0.0.0.0:80, 0.0.0.0:443 ssl"
            ]),
        ),
    ] {
        assert_eq!(run[member], value, "{member}");
    }
    assert_eq!(run.get("User"), None);
    assert_eq!(run["Labels"]["maintainer"], "Kong Core Team");
    let ports: Vec<&str> = run["ExposedPorts"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        BTreeSet::from_iter(ports),
        BTreeSet::from(["80/tcp", "443/tcp", "8000/tcp", "8001/tcp", "8443/tcp", "8444/tcp"])
    );
}

#[test]
fn help_explains_the_text_of_capabilities() {
    let help = ok(["patch", "--help"]).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "cap_net_raw,cap_net_bind_service=+ep",
        "e (effective), i (inheritable) and p (permitted)",
        "= sets, + adds, - takes away",
    ] {
        assert!(help.contains(words), "{words} is not in {help}");
    }
}

// Other programs than Kong's.

#[test]
fn every_profile_knows_its_programs_and_ports() {
    let program = |path: &str| file(path, elf::amd64());
    let ingress: [&[_]; 3] = [
        &[
            program("nginx-ingress-controller"),
            program("usr/local/nginx/sbin/nginx"),
            symlink("usr/bin/nginx", "/usr/local/nginx/sbin/nginx"),
            program("usr/bin/dumb-init"),
        ],
        // In the image with chroot, /usr/bin/nginx is a script.
        &[
            program("nginx-ingress-controller"),
            program("chroot/usr/local/nginx/sbin/nginx"),
            file("usr/bin/nginx", "#!/bin/bash\n"),
            symlink("sbin/nginx", "/usr/local/nginx/sbin/nginx"),
            program("usr/bin/dumb-init"),
        ],
        &[program("nginx-ingress-controller"), program("usr/bin/nginx"), program("usr/bin/dumb-init")],
    ];
    let controller = |nginx| vec![nginx, "/nginx-ingress-controller", "/usr/bin/dumb-init"];
    let web = json!({"80/tcp": {}, "443/tcp": {}});
    let rows = [
        ("kong", &[program(NGINX_ENTRY)][..], vec![NGINX], &web),
        ("nginx", &[program("usr/sbin/nginx")], vec!["/usr/sbin/nginx"], &web),
        ("ingress-nginx", ingress[0], controller("/usr/local/nginx/sbin/nginx"), &web),
        ("ingress-nginx", ingress[1], controller("/chroot/usr/local/nginx/sbin/nginx"), &web),
        ("ingress-nginx", ingress[2], controller("/usr/bin/nginx"), &web),
        (
            "caddy",
            &[program("usr/bin/caddy").xattr("security.capability", &caps(BIND, true))],
            vec!["/usr/bin/caddy"],
            &json!({"80/tcp": {}, "443/tcp": {}, "443/udp": {}}),
        ),
        ("traefik", &[program("usr/local/bin/traefik")], vec!["/usr/local/bin/traefik"], &web),
        ("traefik", &[program("traefik")], vec!["/traefik"], &web),
        ("haproxy", &[program("usr/local/sbin/haproxy")], vec!["/usr/local/sbin/haproxy"], &web),
        ("coredns", &[program("coredns")], vec!["/coredns"], &json!({"53/tcp": {}, "53/udp": {}})),
        ("envoy", &[program("usr/local/bin/envoy")], vec!["/usr/local/bin/envoy"], &web),
    ];
    for profile in PROFILES.iter().filter(|profile| profile.name != "none") {
        assert!(rows.iter().any(|(name, ..)| *name == profile.name), "{} has no row", profile.name);
    }
    for (name, entries, programs, ports) in &rows {
        let scene = Scene::new();
        let image = Image::empty().layer(entries).run(r#""ExposedPorts":{"8000/tcp":{}, "8443/tcp":{}},"#, "");
        let (source, to) = (scene.source(&image.build()), scene.reference("dst:out"));
        let said = json(["patch", &source, &to, "--profile", name]);
        let files = said["images"][0]["files"].as_array().unwrap();
        assert_eq!(files.iter().map(|file| file["path"].as_str().unwrap()).collect::<Vec<_>>(), *programs, "{name}");
        let result = scene.open("dst", "out");
        assert!(programs.iter().all(|program| result.capability(program) == caps(BIND, true)), "{name}");
        assert_eq!(result.config()["config"]["ExposedPorts"], **ports, "{name}");
        prove(&to, &source);
        assert!(ok(["patch", &source, &to, "--profile", name]).stdout.starts_with("unchanged"), "{name}");

        // What is said by the user counts instead.
        let other = scene.reference("dst:other");
        ok([
            "patch",
            &source,
            &other,
            "--profile",
            name,
            "--cap",
            "cap_net_raw+ep",
            "--expose",
            "81",
            "--replace-caps",
        ]);
        let result = scene.open("dst", "other");
        assert!(programs.iter().all(|program| result.capability(program) == caps(RAW, true)), "{name}");
        assert_eq!(result.config()["config"]["ExposedPorts"], json!({"81/tcp": {}}), "{name}");
    }
}

#[test]
fn a_profile_wants_all_of_its_programs() {
    let scene = Scene::new();
    let entries = [file("nginx-ingress-controller", elf::amd64()), file("usr/bin/dumb-init", elf::amd64())];
    let source = scene.source(&Image::empty().layer(entries).build());
    let to = scene.reference("dst:out");
    fails(3, &["/usr/local/nginx/sbin/nginx"], ["patch", &source, &to, "--profile", "ingress-nginx"]);
    fails(3, &["/usr/local/bin/traefik"], ["patch", &source, &to, "--profile", "traefik"]);
    assert!(!scene.path("dst").exists());
}

#[test]
fn help_and_readme_list_the_profiles() {
    let help = ok(["patch", "--help"]).stdout;
    let readme = files::read("README.md");
    for profile in PROFILES {
        // The help is wrapped to the width of the terminal.
        let start: String = profile.about.split(' ').take(3).collect::<Vec<_>>().join(" ");
        assert!(help.contains(&format!("- {}:", profile.name)) && help.contains(&start), "{} in {help}", profile.name);
        if !profile.files.is_empty() {
            let files: Vec<String> = profile.files.iter().map(|paths| format!("`{}`", paths.join("` or `"))).collect();
            let row = format!("| `{}` | {} | {} |", profile.name, files.join(", "), profile.ports.join(", "));
            assert!(readme.contains(&row), "{row}");
        }
    }
}

// How it is told.

#[test]
fn a_dry_run_writes_nothing() {
    let registry = Registry::start();
    let scene = Scene::new();
    Image::kong().build().push(&registry, "kong", "3.9");
    let from = format!("{}/kong:3.9", registry.host());
    let digest_file = scene.path("digest");
    for to in [
        scene.reference("new/dst:out"),
        format!("{}/kong:low", registry.host()),
        format!("{}/other:low", registry.host()),
    ] {
        let said = ok(["patch", &from, &to, "--dry-run", "--digestfile", digest_file.to_str().unwrap()]);
        for word in [
            "linux/amd64",
            NGINX,
            "0775 1000:1000",
            "in layer 2",
            "none → cap_net_bind_service=ep",
            "would upload",
            "dry run",
        ] {
            assert!(said.stdout.contains(word), "{word} in {said:#?}");
        }
        let data = json(["patch", &from, &to, "--dry-run"]);
        assert_eq!(data["result"], "planned");
        assert!(uploads(&registry).is_empty());
        assert!(!scene.path("new").exists() && !digest_file.exists());
        assert_eq!(registry.tag("kong", "low"), None);
    }
}

#[test]
fn a_dry_run_foresees_what_the_run_does() {
    let (registry, scene) = (Registry::start(), Scene::new());
    let (amd64, arm64) = two_platforms();
    let index = Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64").attestation(&arm64.digest).build();
    index.push(&registry, "kong", "3.9");
    let from = format!("{}/kong:3.9", registry.host());
    for to in
        [scene.reference("dst:out"), format!("{}/kong:low", registry.host()), format!("{}/low:low", registry.host())]
    {
        for platform in ["linux/amd64", "linux/amd64,linux/arm64"] {
            let planned = json(["patch", &from, &to, "--dry-run", "--platform", platform]);
            let done = json(["patch", &from, &to, "--platform", platform]);
            for member in ["digest", "images", "notes", "source_digest", "moves"] {
                assert_eq!(planned[member], done[member], "{member} of {to} {platform}");
            }
        }
    }
}

#[test]
fn json_is_all_that_is_on_stdout() {
    let scene = Scene::new();
    let image = Image::kong().build();
    let (source, result) = (scene.source(&image), scene.reference("dst:out"));
    let data = json(["patch", &source, &result]);
    let opened = scene.open("dst", "out");
    assert_eq!(data["result"], "patched");
    assert_eq!((data["source"].as_str(), data["destination"].as_str()), (Some(&*source), Some(&*result)));
    assert_eq!(
        (data["source_digest"].as_str(), data["digest"].as_str()),
        (Some(&*image.digest), Some(opened.digest()))
    );
    let one = &data["images"][0];
    assert_eq!((one["platform"].as_str(), one["source_digest"].as_str()), (Some("linux/amd64"), Some(&*image.digest)));
    assert_eq!(one["layer"]["digest"], opened.layers()[3]["digest"]);
    let file = &one["files"][0];
    assert_eq!(
        [
            &file["path"],
            &file["layer"],
            &file["layer_digest"],
            &file["mode"],
            &file["uid"],
            &file["capabilities_before"],
            &file["capabilities"]
        ],
        [
            &json!(NGINX),
            &json!(2),
            &json!(image.layer(1)),
            &json!("0775"),
            &json!(1000),
            &Value::Null,
            &json!("cap_net_bind_service=ep")
        ]
    );
    for member in ["uploaded", "mounted", "skipped"] {
        assert!(data["moves"][member].is_u64(), "{data}");
    }
    assert!(data["downloaded"].is_u64() && data["requests"].is_u64());

    let error = run(["patch", &scene.reference("src:nope"), &result, "--json"]);
    assert_eq!(error.code, 3);
    assert_eq!(
        (error.json()["error"]["kind"].as_str(), error.json()["error"]["exit_code"].as_u64()),
        (Some("not-found"), Some(3))
    );
}

#[test]
fn quiet_says_nothing_but_the_result() {
    let (amd64, arm64) = two_platforms();
    let scene = Scene::new();
    let index = Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64").attestation(&arm64.digest).build();
    let said = ok(["patch", &scene.source(&index), &scene.reference("dst:out"), "-q"]);
    assert_eq!(said.stderr, "");
}

#[test]
fn the_digest_goes_into_a_file() {
    let scene = Scene::new();
    let (source, result, path) =
        (scene.source(&Image::kong().build()), scene.reference("dst:out"), scene.path("digest"));
    for _ in ["patched", "unchanged"] {
        ok(["patch", &source, &result, "--digestfile", path.to_str().unwrap()]);
        assert_eq!(fs::read_to_string(&path).unwrap(), scene.open("dst", "out").digest());
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn the_last_line_names_the_result_by_its_digest() {
    let (registry, scene) = (Registry::start(), Scene::new());
    let source = scene.source(&Image::kong().build());
    let said = ok(["patch", &source, &format!("{}/kong:low", registry.host())]);
    let pinned = said.stdout.lines().last().unwrap().to_owned();
    assert_eq!(pinned, format!("{}/kong:low@{}", registry.host(), registry.tag("kong", "low").unwrap()));
    ok(["verify", &pinned]);
    let said = ok(["patch", &source, &scene.reference("dst:out")]);
    ok(["verify", said.stdout.lines().last().unwrap()]);
}

#[test]
fn nothing_from_an_image_drives_the_terminal() {
    let scene = Scene::new();
    let mut image = Image::kong()
        .layer([
            symlink("evil", "/opt/a\u{1b}[2J\nb"),
            file("opt/a\u{1b}[2J\nb", elf::amd64()),
            file("opt/other\u{7}\nmore", "").xattr("security.capability", &caps(1, true)),
        ])
        .run("8000/tcp", r"8000/tcp\u001b]0;pwn\u0007")
        .run("KONG_VERSION=3.9.3", r"KONG_VERSION=3\u001b[2J");
    image.members.push_str(r#","variant":"v\u001b[2J""#);
    let other = Image::kong_arm64().layer([file("evil", elf::arm64())]).build();
    let index = Index::new().child(&image.build(), "").platform(&other, "arm64").build();
    let (source, result) = (scene.source(&index), scene.reference("dst:out"));
    for said in [
        ok(["patch", &source, &result, "--listen", "--file", "/evil"]),
        ok(["inspect", &result]),
        ok(["verify", &result, "--base", &source]),
        ok(["getcap", &result]),
        run(["patch", &source, &scene.reference("dst:x"), "--file", "/opt/other\u{7}\nmore"]),
        run(["patch", &source, &scene.reference("dst:x"), "--platform", "linux/mips"]),
    ] {
        let text = format!("{}{}", said.stdout, said.stderr);
        assert!(!text.replace('\n', "").contains(char::is_control), "{said:#?}");
        assert!(
            !text.lines().any(|line| line == "b" || line.starts_with("b ") || line.starts_with("more")),
            "{said:#?}"
        );
    }
}

// What may go wrong on the way.

/// Patches `kong:3.9` into `low`, of which the registry says that it has the blob `lost`, but it has not.
fn patch_with_a_lost_blob(registry: &Registry, lost: &str) {
    registry.forget_blob("low", lost);
    let head = lost.to_owned();
    registry.fault_times(1, move |r| r.is("HEAD", &head), |_| Reply::new(200));
    let (from, to) = (format!("{}/kong:3.9", registry.host()), format!("{}/low:3.9", registry.host()));
    ok(["patch", &from, &to]);
    assert!(registry.blob("low", &lost.parse().unwrap()).is_some());
    prove(&to, &from);
}

#[test]
fn a_registry_that_lost_a_blob_gets_it_again() {
    let registry = Registry::start();
    let image = Image::kong().build();
    image.push(&registry, "kong", "3.9");
    image.push(&registry, "low", "other");
    patch_with_a_lost_blob(&registry, &image.layer(0));
}

#[test]
fn a_registry_that_lost_a_blob_of_a_platform_gets_it_again() {
    let registry = Registry::start();
    let (amd64, arm64) = two_platforms();
    Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64").build().push(&registry, "kong", "3.9");
    amd64.push(&registry, "low", "other");
    patch_with_a_lost_blob(&registry, &amd64.layer(0));
}

#[test]
fn a_registry_that_always_loses_blobs_is_given_up_on() {
    let registry = Registry::start();
    Image::kong().build().push(&registry, "kong", "3.9");
    registry.fault(|r, _| r.is("PUT", "/manifests/").then(|| Reply::error(404, "MANIFEST_BLOB_UNKNOWN")));
    let (from, to) = (format!("{}/kong:3.9", registry.host()), format!("{}/low:3.9", registry.host()));
    let said = run(["patch", &from, &to]);
    assert!(said.code != 0 && said.stderr.contains("MANIFEST_BLOB_UNKNOWN"), "{said:#?}");
    assert_eq!(registry.tag("low", "3.9"), None);
}

#[test]
fn a_push_that_fails_leaves_the_tag_where_it_was() {
    let registry = Registry::start();
    let image = |label: &str| Image::kong().run("maintainer", label).build();
    image("old").push(&registry, "kong", "3.9");
    let (from, to) = (format!("{}/kong:3.9", registry.host()), format!("{}/kong:low", registry.host()));
    ok(["patch", &from, &to]);
    let before = registry.tag("kong", "low");
    image("new").push(&registry, "kong", "3.9");
    for path in ["/blobs/uploads/", "/manifests/"] {
        registry.fault(move |r, _| {
            (matches!(r.method.as_str(), "PUT" | "POST" | "PATCH") && r.path.contains(path))
                .then(|| Reply::error(403, "DENIED"))
        });
        fails(4, &["kong"], ["patch", &from, &to]);
        assert_eq!(registry.tag("kong", "low"), before);
    }
}

#[test]
fn killed_at_any_request_it_leaves_the_tag_where_it_was() {
    let registry = Registry::start();
    Image::kong().build().push(&registry, "kong", "3.9");
    let (from, to) = (format!("{}/kong:3.9", registry.host()), format!("{}/low:low", registry.host()));
    let mut at = 0;
    loop {
        registry.clear_log();
        // The process is killed while its request number `at` waits for an answer.
        let mut command = capatch(["patch", &from, &to]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let seen = std::sync::Arc::new(std::sync::Mutex::new((0, None::<u32>)));
        let counter = seen.clone();
        registry.fault(move |_, _| {
            let mut seen = counter.lock().unwrap();
            seen.0 += 1;
            if seen.0 == at + 1 {
                drop(seen);
                let pid = loop {
                    if let Some(pid) = counter.lock().unwrap().1 {
                        break pid;
                    }
                    std::thread::yield_now();
                };
                let status = std::process::Command::new("/bin/kill").args(["-9", &pid.to_string()]).status().unwrap();
                assert!(status.success());
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            None
        });
        let mut child = command.spawn().unwrap();
        seen.lock().unwrap().1 = Some(child.id());
        let status = child.wait().unwrap();
        registry.fault(|_, _| None);
        if status.success() {
            break;
        }
        if registry.count("PUT", "/manifests/low") > 0 {
            break;
        }
        assert_eq!(registry.tag("low", "low"), None, "killed at request {at}");
        at += 1;
    }
    assert!(at > 10, "{at}");
    ok(["patch", &from, &to]);
    prove(&to, &from);
}

#[test]
fn killed_while_it_writes_a_layout_it_leaves_the_tags_as_they_were() {
    let registry = Registry::start();
    let scene = Scene::new();
    let image = Image::kong().build();
    image.push(&registry, "kong", "3.9");
    image.write(&scene.path("dst"), "precious");
    let index = fs::read(scene.path("dst/index.json")).unwrap();
    let last = image.layer(0);
    registry
        .fault(move |r, _| r.path.contains(&last).then(|| Reply::new(200).ending(common::registry::Ending::Silent)));
    for layer in 0..3 {
        fs::remove_file(scene.path("dst/blobs/sha256").join(common::image::hex(&image.layer(layer)))).unwrap();
    }
    let mut command = capatch(["patch", &format!("{}/kong:3.9", registry.host()), &scene.reference("dst:out")]);
    command.process_group(0).stderr(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    while registry.count("GET", &image.layer(0)) == 0 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read(scene.path("dst/index.json")).unwrap(), index);
    registry.fault(|_, _| None);
    ok(["patch", &format!("{}/kong:3.9", registry.host()), &scene.reference("dst:out")]);
    prove(&scene.reference("dst:out"), &format!("{}/kong:3.9", registry.host()));
    ok(["verify", &scene.reference("dst:precious")]);
}

#[test]
fn a_stop_signal_ends_it_with_the_tag_unmoved() {
    let registry = Registry::start();
    Image::kong().build().push(&registry, "kong", "3.9");
    registry.fault(|r, _| r.is("PUT", "/blobs/").then(|| Reply::new(201).ending(common::registry::Ending::Silent)));
    let mut command =
        capatch(["patch", &format!("{}/kong:3.9", registry.host()), &format!("{}/kong:low", registry.host())]);
    command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    while registry.count("PUT", "/blobs/") == 0 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::process::Command::new("/bin/kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let ended: common::cli::Run = child.wait_with_output().unwrap().into();
    assert!(ended.code != 0 && ended.stderr.contains("terminated"), "{ended:#?}");
    assert_eq!(registry.tag("kong", "low"), None);
}

#[test]
fn two_runs_into_one_layout_lose_no_tag() {
    let scene = Scene::new();
    let source = scene.source(&Image::kong().build());
    let children: Vec<_> = (0..6)
        .map(|i| {
            capatch(["patch", &source, &scene.reference(&format!("dst:{i}")), "-q"])
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    children.into_iter().for_each(|mut child| assert!(child.wait().unwrap().success()));
    (0..6).for_each(|i| drop(scene.open("dst", &i.to_string())));
}

#[test]
fn a_corrupt_blob_at_the_destination_is_replaced() {
    let scene = Scene::new();
    let image = Image::kong().build();
    let source = scene.source(&image);
    let result = scene.reference("dst:out");
    image.write(&scene.path("dst"), "other");
    let corrupt = scene.path("dst/blobs/sha256").join(common::image::hex(&image.layer(1)));
    fs::write(&corrupt, "evil").unwrap();
    ok(["patch", &source, &result]);
    prove(&result, &source);
}

// faults.md H15
#[test]
fn what_was_patched_in_place_is_unchanged_the_second_time() {
    for image in [Image::kong(), Image::kong().docker()] {
        let scene = Scene::new();
        let source = scene.source(&image.build());
        ok(["patch", &source, &source, "--force"]);
        let index = fs::read(scene.path("src/index.json")).unwrap();
        assert_eq!(json(["patch", &source, &source])["result"], "unchanged");
        assert_eq!(fs::read(scene.path("src/index.json")).unwrap(), index);
    }
}

#[test]
fn a_patched_image_can_be_patched_again() {
    for docker in [false, true] {
        let scene = Scene::new();
        let image = if docker { Image::kong().docker() } else { Image::kong() };
        let source = scene.source(&image.build());
        let (once, twice) = (scene.reference("dst:1"), scene.reference("dst:2"));
        ok(["patch", &source, &once]);
        ok(["patch", &once, &twice, "--cap", "cap_net_raw+ep", "--file", "/usr/local/bin/nginx"]);
        assert_eq!(scene.open("dst", "2").capability(NGINX), caps(BIND | RAW, true));
        prove(&twice, &once);
    }
}

#[test]
fn the_committed_image_is_patched_as_the_readme_says() {
    let scene = Scene::new();
    let source = files::kong();
    let result = scene.reference("kong:3.9-lowport");
    let said = ok(["patch", &source, &result]);
    assert!(said.stderr.contains("2 attestation manifests"), "{said:#?}");
    prove(&result, &source);
    let listed = ok(["getcap", &result]).stdout;
    assert_eq!(
        listed,
        format!("linux/amd64:\n{NGINX} cap_net_bind_service=ep\nlinux/arm64/v8:\n{NGINX} cap_net_bind_service=ep\n")
    );
}
