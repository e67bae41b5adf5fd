//! `patch --remove-caps`: the extended attribute goes, as with `setcap -r`, and nothing else does.

mod common;

use std::collections::BTreeSet;

use common::cli::{capatch, fails, json, ok, prove, run, start};
use common::image::{BASE_DIGEST, Content, Image, Index, NGINX, NGINX_ENTRY, Opened, RECORD, Scene};
use common::registry::Registry;
use common::tar::{caps, caps_of, dir, file, hard_link};
use common::{elf, files};
use serde_json::{Value, json};

const CAPABILITY: &str = "security.capability";
/// `cap_net_bind_service`: capability 10.
const BIND: u32 = 1 << 10;

/// Kong with a capability on nginx, and other attributes.
fn kong() -> Image {
    let nginx = file(NGINX_ENTRY, elf::amd64()).mode(0o775).owner(1000).xattr(CAPABILITY, &caps(BIND, true));
    Image::with_nginx(nginx.xattr("user.note", b"kept").xattr("trusted.note", b"kept too"))
}

/// What the record of an image says.
fn record(image: &Opened) -> Value {
    serde_json::from_str(image.json["annotations"][RECORD].as_str().unwrap()).unwrap()
}

#[test]
fn the_attribute_goes_and_everything_else_stays() {
    for docker in [false, true] {
        let (scene, image) = (Scene::new(), if docker { kong().docker() } else { kong() }.build());
        let (source, to) = (scene.source(&image), scene.reference("dst:out"));
        assert_eq!(ok(["getcap", &source]).stdout, format!("{NGINX} cap_net_bind_service=ep\n"));
        let said = ok(["patch", &source, &to, "--remove-caps"]);
        assert!(said.stdout.contains("  caps    cap_net_bind_service=ep → none\n"), "{said:#?}");
        prove(&to, &source);
        assert_eq!(ok(["getcap", &to]).stdout, "");

        let result = scene.open("dst", "out");
        let top = result.top_layer();
        let nginx = top.last().unwrap();
        assert_eq!((nginx.path.as_str(), nginx.mode, nginx.uid, nginx.gid), (NGINX_ENTRY, 0o775, 1000, 1000));
        let note = |name: &str, value: &[u8]| (format!("SCHILY.xattr.{name}"), value.to_vec());
        assert_eq!(nginx.pax, [note("trusted.note", b"kept too"), note("user.note", b"kept")]);
        assert_eq!(result.layers().len(), 2);
        let config = result.config();
        let history = config["history"].as_array().unwrap().last().unwrap();
        assert_eq!(history["created_by"], format!("capatch patch --remove-caps --file {NGINX}"));
    }
}

#[test]
fn what_is_there_is_listed_by_no_command_any_more() {
    let scene = Scene::new();
    let (source, to) = (scene.source(&kong().build()), scene.reference("dst:out"));
    ok(["patch", &source, &to, "--remove-caps"]);
    for command in ["inspect", "verify"] {
        assert!(!ok([command, &to]).stdout.contains("cap_net_bind_service"), "{command}");
        assert_eq!(json([command, &to])["images"][0]["capabilities"], json!([]), "{command}");
    }
    let said = run(["doctor", &to]);
    assert!(said.code == 8 && said.stdout.contains("(no capabilities)"), "{said:#?}");
    let verified = json(["verify", &to, "--base", &source]);
    let differences = verified["images"][0]["differences"].as_array().unwrap();
    let files: Vec<_> = differences.iter().filter(|one| one["place"].as_str().unwrap().starts_with('/')).collect();
    let change = "xattr security.capability 0x0100000200040000000000000000000000000000 → none";
    assert_eq!(files, [&json!({"place": NGINX, "change": change, "declared": true})]);
}

#[test]
fn it_is_told_as_data() {
    let scene = Scene::new();
    let (source, to) = (scene.source(&kong().build()), scene.reference("dst:out"));
    let planned = json(["patch", &source, &to, "--remove-caps", "--dry-run"]);
    assert!(planned["result"] == "planned" && !scene.path("dst").exists());
    let data = json(["patch", &source, &to, "--remove-caps"]);
    for member in ["digest", "images", "notes", "source_digest"] {
        assert_eq!(planned[member], data[member], "{member}");
    }
    let file = &data["images"][0]["files"][0];
    let caps = [&file["capabilities_before"], &file["capabilities"], &file["changed"]];
    assert_eq!(caps, [&json!("cap_net_bind_service=ep"), &Value::Null, &json!(true)]);
    let record = record(&scene.open("dst", "out"));
    assert_eq!(
        (&record["request"], &record["files"]),
        (&json!({"remove": true, "files": [NGINX]}), &json!({NGINX: null}))
    );
}

#[test]
fn a_file_without_one_needs_no_layer_and_gets_its_tag() {
    let scene = Scene::new();
    let image = Image::kong().build();
    let result = scene.patched(&image, ["--remove-caps"]);
    assert_eq!(result.layers().len(), 3);
    assert_eq!(result.config()["history"].as_array().unwrap().last().unwrap()["empty_layer"], true);
    let said = ok(["patch", &scene.reference("src:3.9"), &scene.reference("dst:new"), "--remove-caps"]);
    assert!(said.stdout.contains("  caps    none (already)\n") && !said.stdout.contains("  layer "), "{said:#?}");
}

#[test]
fn the_second_time_it_is_unchanged_and_nothing_moves() {
    let registry = Registry::start();
    kong().build().push(&registry, "kong", "3.9");
    let (from, to) = (format!("{}/kong:3.9", registry.host()), format!("{}/kong:plain", registry.host()));
    ok(["patch", &from, &to, "--remove-caps"]);
    registry.clear_log();
    assert!(ok(["patch", &from, &to, "--remove-caps"]).stdout.starts_with("unchanged"));
    assert!(registry.log().iter().all(|r| r.is("GET", "/manifests/")), "{:?}", registry.lines());

    // Another request is another patch of the same repository; what is somebody else's stays.
    let digest = registry.tag("kong", "plain");
    ok(["patch", &from, &to, "--cap", "cap_chown+p"]);
    assert_ne!(registry.tag("kong", "plain"), digest);
    ok(["patch", &from, &to, "--remove-caps"]);
    assert_eq!(registry.tag("kong", "plain"), digest, "the same input gives the same digest");
    fails(7, &["exists and is no result of capatch"], ["patch", &from, &from, "--remove-caps"]);
}

#[test]
fn what_a_patch_put_on_a_patch_takes_away() {
    for docker in [false, true] {
        let scene = Scene::new();
        let source = scene.source(&if docker { Image::kong().docker() } else { Image::kong() }.build());
        let (low, plain) = (scene.reference("dst:low"), scene.reference("dst:plain"));
        ok(["patch", &source, &low]);
        let said = ok(["patch", &low, &plain, "--remove-caps", "--unexpose", "80,443"]);
        assert!(said.stdout.contains("cap_net_bind_service=ep → none"), "{said:#?}");
        prove(&plain, &low);
        assert_eq!(ok(["getcap", &plain]).stdout, "");
        let (before, result) = (scene.open("dst", "low"), scene.open("dst", "plain"));
        assert_eq!(result.layers().len(), 5);
        assert_eq!(result.config()["config"]["ExposedPorts"], json!({"8000/tcp": {}, "8443/tcp": {}}));
        let base = match docker {
            true => result.config()["config"]["Labels"][BASE_DIGEST].clone(),
            false => result.json["annotations"][BASE_DIGEST].clone(),
        };
        assert_eq!(base, before.digest(), "it was made from the patched one");
        // In its own place, and back again.
        ok(["patch", &low, &low, "--remove-caps"]);
        assert!(ok(["patch", &low, &low, "--remove-caps"]).stdout.starts_with("unchanged"));
        assert_eq!(ok(["getcap", &low]).stdout, "");
        ok(["patch", &plain, &scene.reference("dst:again")]);
        assert_eq!(scene.open("dst", "again").capability(NGINX), caps(BIND, true));
    }
}

#[test]
fn of_an_index_only_the_platforms_that_have_it_get_a_layer() {
    let scene = Scene::new();
    let (amd64, arm64) = (kong().build(), Image::kong_arm64().build());
    let index = Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64").build();
    let result = scene.patched(&index, ["--remove-caps"]);
    assert_eq!([0, 1].map(|number| result.child(number).layers().len()), [2, 2]);
    assert_eq!(result.child(1).layers().as_slice(), layers(&arm64));
    assert_eq!(result.child(0).top_layer().last().unwrap().capability(), None);
    assert!(ok(["getcap", &scene.reference("dst:out")]).stdout.lines().all(|line| line.ends_with(':')));
    let again = ok(["patch", &scene.reference("src:3.9"), &scene.reference("dst:out"), "--remove-caps"]);
    assert!(again.stdout.starts_with("unchanged"), "{again:#?}");
}

fn layers(image: &Content) -> Vec<Value> {
    let manifest: Value = serde_json::from_slice(image.bytes()).unwrap();
    manifest["layers"].as_array().unwrap().clone()
}

#[test]
fn other_names_of_the_file_keep_it_unless_they_are_asked_for_too() {
    let program = file("opt/openresty", elf::amd64()).xattr(CAPABILITY, &caps(BIND, true));
    let scene = Scene::new();
    let image = Image::empty().layer([dir("opt"), program, hard_link("opt/nginx", "opt/openresty")]).build();
    let (source, one, both) = (scene.source(&image), scene.reference("dst:one"), scene.reference("dst:both"));
    let said = ok(["patch", &source, &one, "--remove-caps", "--file", "/opt/nginx"]);
    let warning = "/opt/openresty is a hard link to the same file; it keeps the old one, with its capabilities";
    assert!(said.stderr.contains(warning), "{said:#?}");
    assert_eq!(ok(["getcap", &one]).stdout, "/opt/openresty cap_net_bind_service=ep\n");
    prove(&one, &source);

    // A link of a higher layer is a name of the file as well.
    let program = file("opt/openresty", elf::amd64()).xattr(CAPABILITY, &caps(BIND, true));
    let link = hard_link("opt/nginx", "opt/openresty").xattr(CAPABILITY, &caps(BIND, true));
    let image = Image::empty().layer([dir("opt"), program]).layer([link]).build();
    let source = scene.source(&image);
    let said = ok(["patch", &source, &scene.reference("dst:two"), "--remove-caps", "--file", "/opt/openresty"]);
    assert!(said.stderr.contains("/opt/nginx is a hard link to the same file; it keeps the old one"), "{said:#?}");
    prove(&scene.reference("dst:two"), &source);

    let said = ok(["patch", &source, &both, "--remove-caps", "--file", "/opt/nginx", "--file", "/opt/openresty"]);
    assert!(!said.stderr.contains("hard link"), "{said:#?}");
    assert_eq!(ok(["getcap", &both]).stdout, "");
    prove(&both, &source);
}

#[test]
fn it_goes_from_whatever_has_it() {
    let image = Image::empty().layer([
        dir("opt"),
        file("opt/script", "#!/bin/sh\n").xattr(CAPABILITY, &caps(BIND, true)),
        file("opt/foreign", elf::arm64()).xattr(CAPABILITY, &caps(BIND, true)),
        file("opt/data", "").mode(0o644).xattr(CAPABILITY, &caps(0, false)),
        file("opt/of-a-namespace", elf::amd64()).xattr(CAPABILITY, &caps_of(BIND, 1000)),
        file("opt/malformed", elf::amd64()).xattr(CAPABILITY, b"xx"),
    ]);
    let (scene, image) = (Scene::new(), image.build());
    let (source, to) = (scene.source(&image), scene.reference("dst:out"));
    let files = ["script", "foreign", "data", "of-a-namespace", "malformed"].map(|name| format!("--file=/opt/{name}"));
    let arguments = ["patch", &source, &to, "--profile=none", "--remove-caps"].map(str::to_owned);
    let said = start(capatch(arguments.iter().chain(&files))).succeeded();
    for before in ["cap_net_bind_service=ep", "=", "malformed"] {
        assert!(said.stdout.contains(&format!("  caps    {before} → none\n")), "{said:#?}");
    }
    assert!(said.stdout.contains("  caps    cap_net_bind_service=ep [rootid=1000] → none\n"), "{said:#?}");
    let warning = "warning: linux/amd64: the layer below keeps a value for /opt/malformed that no kernel stores: container \
                   engines do not unpack the image\n";
    assert_eq!(said.stderr, warning, "that one is not executable does not matter");
    let proof = run(["verify", &to, "--base", &source]);
    let findings: Vec<_> = proof.stdout.lines().filter(|line| line.starts_with("FINDING")).collect();
    assert!(proof.code == 8 && findings.len() == 1 && !proof.stdout.contains("CHANGED"), "{proof:#?}");
    assert!(findings[0].starts_with("FINDING: linux/amd64: layer 1: /opt/malformed: "), "{proof:#?}");
    assert_eq!(ok(["getcap", &to]).stdout, "");
    let directory = ["patch", &source, &to, "--profile=none", "--remove-caps", "--file=/opt"];
    fails(2, &["is a directory, not a regular file"], directory);
}

#[test]
fn ports_and_variables_change_only_if_they_are_named() {
    for (options, ports, listens) in [
        (&[][..], &["8000/tcp", "8443/tcp"][..], false),
        (&["--expose", "9000"], &["8000/tcp", "8443/tcp", "9000/tcp"], false),
        (&["--unexpose", "8443", "--listen=0.0.0.0:8000"], &["8000/tcp"], true),
    ] {
        let scene = Scene::new();
        let (source, to) = (scene.source(&kong().build()), scene.reference("dst:out"));
        start(capatch(["patch", &source, &to, "--remove-caps"].iter().chain(options))).succeeded();
        prove(&to, &source);
        let config = scene.open("dst", "out").config()["config"].clone();
        let found: BTreeSet<&str> = config["ExposedPorts"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ports, "{options:?}");
        assert_eq!(config["Env"].to_string().contains("KONG_PROXY_LISTEN"), listens, "{options:?}");
    }
}

#[test]
fn the_readme_says_what_the_example_does() {
    let scene = Scene::new();
    std::os::unix::fs::symlink(files::at("testdata"), scene.path("testdata")).unwrap();
    let readme = files::read("README.md");
    for (from, to, options) in [
        ("oci:testdata/kong:3.9", "oci:target/kong:3.9-lowport", &[][..]),
        ("oci:target/kong:3.9-lowport", "oci:target/kong:3.9-plain", &["--remove-caps", "--unexpose", "80,443"]),
    ] {
        let words = [&["patch", from, to], options].concat();
        let mut command = capatch(&words);
        command.current_dir(scene.path(""));
        let shown = format!("$ capatch {}\n{}", words.join(" "), start(command).succeeded().stdout);
        assert!(readme.contains(&shown), "{shown}");
    }
}

#[test]
fn it_does_not_go_with_what_sets_capabilities() {
    let scene = Scene::new();
    let (source, to) = (scene.source(&kong().build()), scene.reference("dst:out"));
    for option in ["--cap=cap_net_raw+p", "--replace-caps"] {
        let name = option.split('=').next().unwrap();
        fails(2, &["--remove-caps", "cannot be used with", name], ["patch", &source, &to, "--remove-caps", option]);
    }
    assert!(!scene.path("dst").exists());
}
