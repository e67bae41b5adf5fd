//! `capatch sync`: many images between registries, with the log of every request as the witness.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use common::cli::{Run, capatch, ok, prove, run, start};
use common::image::{Content, Image, Index, NGINX_ENTRY, Opened, Packing, Scene};
use common::registry::{Registry, Reply, Request};
use common::tar::{self, file};
use common::{elf, files};
use serde_json::{Value, json};

/// A source registry and a destination, and a directory for the file.
struct Mirror {
    source: Registry,
    destination: Registry,
    scene: Scene,
}

/// Kong with a file in it that makes it another version; the layers below it are always the same.
fn version(version: &str) -> Content {
    Image::kong().layer([file("etc/version", version)]).build()
}

impl Mirror {
    fn new() -> Self {
        Mirror { source: Registry::start(), destination: Registry::start(), scene: Scene::new() }
    }

    /// With these versions of Kong in the source.
    fn with(versions: &[&str]) -> Self {
        let mirror = Mirror::new();
        versions.iter().for_each(|tag| version(tag).push(&mirror.source, "kong", tag));
        mirror
    }

    /// Writes the file, where `SRC` and `DST` stand for the registries and `DIR` for the directory; its path.
    fn file(&self, images: &str) -> String {
        let text = format!("version: 1\nimages:\n{images}\n")
            .replace("SRC", &self.source.host())
            .replace("DST", &self.destination.host())
            .replace("DIR", self.scene.path("").to_str().unwrap());
        let path = self.scene.path("sync.yaml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn sync<const N: usize>(&self, images: &str, options: [&str; N]) -> Run {
        let file = self.file(images);
        let mut command = capatch(["sync", &file, "--max-wait", "0"]);
        command.args(options);
        start(command)
    }

    /// The data of a run, which may have failed.
    fn json<const N: usize>(&self, images: &str, options: [&str; N]) -> Value {
        let file = self.file(images);
        let mut command = capatch(["sync", &file, "--json", "--max-wait", "0"]);
        command.args(options);
        start(command).json()
    }

    fn clear(&self) {
        self.source.clear_log();
        self.destination.clear_log();
    }

    /// Requests to either registry that `matches`.
    fn count(&self, matches: impl Fn(&Request) -> bool) -> usize {
        self.source.log().iter().chain(&self.destination.log()).filter(|request| matches(request)).count()
    }
}

fn writes(request: &Request) -> bool {
    !matches!(request.method.as_str(), "GET" | "HEAD")
}

fn about_blobs(request: &Request) -> bool {
    request.path.contains("/blobs/")
}

/// `DESTINATION: RESULT (WHY)` of each image, without the host.
fn results(data: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |row: &Value| {
        let destination = text(&row["destination"]);
        let why = row["why"].as_str().or(row["error"]["kind"].as_str()).unwrap_or_default();
        format!("{}: {} {why}", destination.split_once('/').map_or("", |(_, name)| name), text(&row["result"]))
            .trim_end()
            .to_owned()
    };
    data["images"].as_array().unwrap().iter().map(row).collect()
}

const ALL: &str = "  - {source: SRC/kong, destination: DST/mirror/kong, tags: {regex: {allow: ['.*']}}}";
const PATCHED: &str =
    "  - {source: SRC/kong, destination: DST/kong, tags: {newest: 2}, tag-template: '{{ .Tag }}-lowport', patch: true}";

// What it does.

#[test]
fn tags_are_mirrored_and_the_second_run_moves_nothing() {
    let mirror = Mirror::with(&["3.8.0", "3.9.0", "latest"]);
    let images = format!("{ALL}\n{PATCHED}");
    assert_eq!(
        results(&mirror.json(&images, [])),
        [
            "mirror/kong:3.8.0: copied it was not there",
            "mirror/kong:3.9.0: copied it was not there",
            "mirror/kong:latest: copied it was not there",
            "kong:3.8.0-lowport: patched it was not there",
            "kong:3.9.0-lowport: patched it was not there",
        ]
    );
    for tag in ["3.8.0", "3.9.0", "latest"] {
        assert_eq!(mirror.destination.tag("mirror/kong", tag), mirror.source.tag("kong", tag));
    }
    let (source, destination) = (mirror.source.host(), mirror.destination.host());
    prove(&format!("{destination}/kong:3.9.0-lowport"), &format!("{source}/kong:3.9.0"));
    assert_eq!(mirror.source.count("GET", "/tags/list"), 1, "both entries look through one list");

    mirror.clear();
    let again = mirror.sync(&images, []).succeeded();
    assert!(again.stdout.contains("5 unchanged, 0 changed, 0 failed"), "{again:#?}");
    assert_eq!(mirror.count(about_blobs), 0, "{:?}", mirror.destination.lines());
    assert_eq!(mirror.count(writes), 0);
    assert_eq!(mirror.count(|_| true), 1 + 2 * 5, "the list, and a manifest from either side for each image");
}

#[test]
fn what_moved_is_done_again_and_why_is_said() {
    let mirror = Mirror::with(&["3.8.0", "3.9.0"]);
    let images = format!("{ALL}\n{PATCHED}");
    mirror.sync(&images, []).succeeded();
    version("3.9.0, rebuilt").push(&mirror.source, "kong", "3.9.0");
    mirror.clear();
    assert_eq!(
        results(&mirror.json(&images, [])),
        [
            "mirror/kong:3.8.0: unchanged",
            "mirror/kong:3.9.0: copied the source is another image now",
            "kong:3.8.0-lowport: unchanged",
            "kong:3.9.0-lowport: patched the source is another image now",
        ]
    );
    assert_eq!(mirror.destination.tag("mirror/kong", "3.9.0"), mirror.source.tag("kong", "3.9.0"));
    assert_eq!(
        mirror.source.count("GET", &version("3.9.0").layer(0)),
        0,
        "what is there is neither copied nor looked at"
    );

    let other = images.replace("patch: true", "patch: {env: {A: b}}");
    let data = mirror.json(&other, []);
    assert_eq!(results(&data)[3], "kong:3.9.0-lowport: patched the options are others now");
}

#[test]
fn blobs_that_images_share_move_once() {
    let mirror = Mirror::with(&["1.0.0", "1.0.1", "1.0.2", "1.0.3"]);
    let shared = version("1.0.0").layer(0);
    // Slow enough that all images want it while it is on its way.
    let slow = shared.clone();
    mirror.source.fault(move |request, _| {
        if request.is("GET", &slow) {
            std::thread::sleep(Duration::from_millis(300));
        }
        None
    });
    mirror.sync(ALL, ["--images", "4"]).succeeded();
    assert_eq!(mirror.source.count("GET", &shared), 1);
    let puts = mirror.destination.log().iter().filter(|r| r.query("digest") == Some(&shared)).count();
    assert_eq!(puts, 1);
    assert_eq!(mirror.destination.count("HEAD", &shared), 1, "nor is it asked for again");
}

#[test]
fn a_blob_in_another_repository_of_the_destination_is_mounted() {
    let mirror = Mirror::with(&["1.0.0"]);
    let data = mirror.json("  - {source: 'SRC/kong:1.0.0', destination: [DST/a, DST/b, DST/c]}", ["--images", "1"]);
    let moves = |number: usize, what: &str| data["images"][number]["moves"][what].as_u64().unwrap();
    assert!(moves(0, "uploaded") > 0 && moves(0, "mounted") == 0);
    assert_eq!((moves(1, "uploaded"), moves(1, "mounted")), (0, moves(0, "uploaded")));
    assert_eq!((moves(2, "uploaded"), moves(2, "mounted")), (0, moves(0, "uploaded")));
    assert_eq!(mirror.source.count("GET", "/blobs/"), 5, "each blob was read once");
}

#[test]
fn a_pinned_tag_is_what_it_was() {
    let mirror = Mirror::with(&["3.9.0"]);
    let old = mirror.source.tag("kong", "3.9.0").unwrap();
    version("moved").push(&mirror.source, "kong", "3.9.0");
    let images = format!(
        "  - {{source: SRC/kong, destination: DST/kong, tags: ['3.9.0@{old}']}}
  - {{source: SRC/kong@{old}, destination: 'DST/pinned:x'}}"
    );
    mirror.sync(&images, []).succeeded();
    assert_eq!(mirror.destination.tag("kong", "3.9.0"), Some(old.clone()));
    assert_eq!(mirror.destination.tag("pinned", "x"), Some(old));
}

#[test]
fn some_platforms_are_mirrored_and_patched() {
    let mirror = Mirror::new();
    let (amd64, arm64) = (Image::kong().build(), Image::kong_arm64().build());
    Index::new().platform(&amd64, "amd64").platform(&arm64, "arm64").build().push(&mirror.source, "kong", "3.9.0");
    let images = "  - {source: 'SRC/kong:3.9.0', destination: DST/amd64, platforms: [linux/amd64]}
  - {source: 'SRC/kong:3.9.0', destination: DST/patched, platforms: [linux/amd64], patch: true}";
    mirror.sync(images, []).succeeded();
    let index = |repository: &str| -> Value {
        serde_json::from_slice(&mirror.destination.manifest(repository, "3.9.0").unwrap().1).unwrap()
    };
    assert_eq!(index("amd64")["manifests"].as_array().unwrap().len(), 1);
    let patched = &index("patched")["manifests"];
    assert_ne!(patched[0]["digest"], amd64.digest);
    assert_eq!(patched[1]["digest"], arm64.digest);
    mirror.clear();
    assert_eq!(results(&mirror.json(images, [])), ["amd64:3.9.0: unchanged", "patched:3.9.0: unchanged"]);
    assert_eq!(mirror.count(writes) + mirror.count(about_blobs), 0);
}

#[test]
fn what_refers_to_an_image_comes_along_and_is_missed() {
    let mirror = Mirror::with(&["3.9.0"]);
    let digest = mirror.source.tag("kong", "3.9.0").unwrap();
    let signature = format!("{}.sig", digest.replace(':', "-"));
    version("signature").push(&mirror.source, "kong", &signature);
    let images = "  - {source: SRC/kong, destination: DST/kong, tags: {regex: {allow: ['.*']}}, referrers: true}";
    assert_eq!(results(&mirror.json(images, [])), ["kong:3.9.0: copied it was not there"], "a signature is no image");
    assert_eq!(mirror.destination.tag("kong", &signature), mirror.source.tag("kong", &signature));
    mirror.clear();
    assert_eq!(results(&mirror.json(images, [])), ["kong:3.9.0: unchanged"]);
    assert_eq!(mirror.count(writes), 0, "{:?}", mirror.destination.lines());
    version("another signature").push(&mirror.source, "kong", &signature);
    let drift = mirror.json(images, ["--check"]);
    assert_eq!(results(&drift), ["kong:3.9.0: would-copy something that refers to it was missing"]);
}

#[test]
fn layouts_are_sources_and_destinations() {
    let mirror = Mirror::with(&["3.8.0", "3.9.0"]);
    mirror.sync("  - {source: SRC/kong, destination: 'oci:DIR/mirror', tags: {newest: 2}}", []).succeeded();
    let back = "  - {source: 'oci:DIR/mirror', destination: DST/kong, tags: {semver: '3.9'}}";
    assert_eq!(results(&mirror.json(back, []))[0], "kong:3.9.0: copied it was not there");
    assert_eq!(mirror.destination.tag("kong", "3.9.0"), mirror.source.tag("kong", "3.9.0"));
}

#[test]
fn images_of_one_run_take_turns_at_a_layout_without_a_word() {
    let versions: Vec<String> = (0..20).map(|number| format!("3.9.{number}")).collect();
    let mirror = Mirror::with(&versions.iter().map(String::as_str).collect::<Vec<_>>());
    let images = "  - {source: SRC/kong, destination: 'oci:DIR/mirror', tags: {newest: 20}}";
    let said = mirror.sync(images, ["--images", "20"]).succeeded();
    assert_eq!(said.stderr, "");
}

#[test]
fn an_archive_is_written_once_with_all_of_its_images_or_not_at_all() {
    let mirror = Mirror::with(&["3.8.0", "3.9.0"]);
    version("other").push(&mirror.source, "other/kong", "3.9.0");
    let archive = mirror.scene.path("kong.tar");
    let images = "  - {source: SRC/kong, destination: 'oci-archive:DIR/kong.tar', tags: {newest: 2}}
  - {source: 'SRC/other/kong:3.9.0', destination: 'oci-archive:DIR/kong.tar'}
  - {source: 'SRC/kong:3.9.0', destination: 'oci-archive:DIR/kong.tar', tag-template: x, patch: true}";
    let bad = format!("{images}\n  - {{source: 'SRC/absent:1', destination: 'oci-archive:DIR/kong.tar'}}");
    let said = mirror.sync(&bad, []);
    assert_eq!((said.code, archive.exists()), (1, false), "{said:#?}");
    assert!(said.stdout.contains("4 skipped"), "{said:#?}");

    let unlisted =
        format!("{images}\n  - {{source: SRC/x, destination: 'oci-archive:DIR/kong.tar', tags: {{newest: 1}}}}");
    assert_eq!((mirror.sync(&unlisted, []).code, archive.exists()), (1, false));

    mirror.sync(images, []).succeeded();
    let first = fs::read(&archive).unwrap();
    let source = mirror.source.host();
    for (name, of) in [
        ("kong:3.8.0", "kong:3.8.0"),
        ("kong:3.9.0", "kong:3.9.0"),
        ("other/kong:3.9.0", "other/kong:3.9.0"),
        ("kong:x", "kong:3.9.0"),
    ] {
        prove(&format!("oci-archive:{}:{source}/{name}", archive.display()), &format!("{source}/{of}"));
    }
    mirror.clear();
    let again = mirror.sync(images, []).succeeded();
    assert!(again.stdout.contains("4 unchanged"), "{again:#?}");
    assert_eq!(mirror.count(about_blobs), 0);
    fs::remove_file(&archive).unwrap();
    mirror.sync(images, ["--images", "4"]).succeeded();
    assert!(fs::read(&archive).unwrap() == first, "the same input gives the same bytes");

    let shards = ["1/3", "2/3", "3/3"].map(|shard| mirror.json(images, ["--check", "--shard", shard]));
    let mut sizes = shards.map(|data| data["images"].as_array().unwrap().len());
    sizes.sort();
    assert_eq!(sizes, [0, 0, 4], "what goes into one file stays together");

    let back = "  - {source: 'oci-archive:DIR/kong.tar:SRC/kong:3.9.0', destination: DST/kong}";
    mirror.sync(back, []).succeeded();
    assert_eq!(mirror.destination.tag("kong", "3.9.0"), mirror.source.tag("kong", "3.9.0"));
}

// Check.

#[test]
fn a_check_changes_nothing_and_finds_drift() {
    let mirror = Mirror::with(&["3.8.0", "3.9.0"]);
    let images = format!("{ALL}\n{PATCHED}");
    let said = mirror.sync(&images, ["--check"]);
    assert_eq!(said.code, 8, "{said:#?}");
    assert!(said.stdout.contains("0 unchanged, 4 would change, 0 failed"), "{said:#?}");
    assert!(said.stderr.contains("4 of 4 images would change"), "{said:#?}");
    assert_eq!(mirror.count(writes), 0);
    assert_eq!(mirror.source.count("GET", "/blobs/"), 0, "no layer is needed to tell");
    mirror.sync(&images, []).succeeded();
    mirror.sync(&images, ["--check"]).succeeded();
    version("moved").push(&mirror.source, "kong", "3.9.0");
    let before = mirror.destination.holdings();
    let data = mirror.json(&images, ["--check"]);
    assert_eq!(
        results(&data),
        [
            "mirror/kong:3.8.0: unchanged",
            "mirror/kong:3.9.0: would-copy the source is another image now",
            "kong:3.8.0-lowport: unchanged",
            "kong:3.9.0-lowport: would-patch the source is another image now",
        ]
    );
    assert_eq!((&data["counts"]["changed"], mirror.destination.holdings() == before), (&json!(2), true));
}

// Failures.

#[test]
fn one_bad_image_does_not_stop_the_others() {
    let mirror = Mirror::with(&["1.0.0", "1.0.1", "1.0.2"]);
    mirror.source.forget_blob("kong", &version("1.0.1").layer(3));
    let images = format!(
        "{ALL}
  - {{source: 'SRC/absent:1', destination: DST/absent}}
  - {{source: SRC/unlisted, destination: DST/unlisted, tags: {{newest: 1}}}}
  - {{source: SRC/kong, destination: DST/none, tags: {{semver: '>7'}}}}"
    );
    let said = mirror.sync(&images, []);
    assert_eq!(said.code, 1, "{said:#?}");
    assert!(said.stderr.contains("4 of 6 images failed"), "{said:#?}");
    assert!(said.stdout.contains("0 unchanged, 2 changed, 4 failed"), "{said:#?}");
    let data = mirror.json(&images, []);
    let mut rows = results(&data);
    rows.sort();
    assert_eq!(
        rows,
        [
            "absent:1: failed not-found",
            "mirror/kong:1.0.0: unchanged",
            "mirror/kong:1.0.1: failed not-found",
            "mirror/kong:1.0.2: unchanged",
            "none: failed not-found",
            "unlisted: failed not-found",
        ]
    );
    for row in data["images"].as_array().unwrap().iter().filter(|row| row["result"] == "failed") {
        assert_eq!(row["error"]["exit_code"], 3);
        assert!(row["error"]["message"].as_str().is_some_and(|message| message.len() > 20), "{row}");
    }
    assert_eq!(mirror.destination.tag("mirror/kong", "1.0.1"), None, "a tag moves when everything is there");
}

#[test]
fn a_source_that_is_not_there_or_damaged_is_not_an_empty_one() {
    let mirror = Mirror::new();
    fs::create_dir(mirror.scene.path("damaged")).unwrap();
    fs::write(mirror.scene.path("damaged/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(mirror.scene.path("damaged/index.json"), "{").unwrap();
    for (source, why) in [
        ("oci:DIR/absent", "absent holds no OCI layout"),
        ("oci-archive:DIR/absent.tar", "absent.tar does not exist"),
        ("oci:DIR/damaged", "index.json: malformed JSON"),
    ] {
        let images = format!("  - {{source: '{source}', destination: DST/x, tags: {{newest: 1}}}}");
        let said = mirror.sync(&images, []);
        assert!(said.code == 1 && said.stdout.contains(why), "{said:#?}");
    }
}

#[test]
fn fail_fast_begins_nothing_more() {
    let mirror = Mirror::with(&["1.0.0", "1.0.1", "1.0.2"]);
    mirror.source.forget_blob("kong", &version("1.0.0").layer(3));
    let data = mirror.json(ALL, ["--fail-fast", "--images", "1"]);
    assert_eq!(
        results(&data),
        ["mirror/kong:1.0.0: failed not-found", "mirror/kong:1.0.1: skipped", "mirror/kong:1.0.2: skipped"]
    );
    assert_eq!(data["counts"], json!({"unchanged": 0, "changed": 0, "failed": 1, "skipped": 2}));
}

#[test]
fn rate_limits_alone_have_an_exit_code_of_their_own() {
    let mirror = Mirror::with(&["1.0.0", "1.0.1"]);
    let limit = |request: &Request, _: &dyn Fn() -> Reply| {
        request.is("GET", "/manifests/").then(|| Reply::error(429, "TOOMANYREQUESTS").header("retry-after", "30"))
    };
    mirror.source.fault(limit);
    let said = mirror.sync(ALL, []);
    assert_eq!(said.code, 6, "{said:#?}");
    let both = format!("{ALL}\n  - {{source: 'DST/absent:1', destination: DST/x}}");
    assert_eq!(mirror.sync(&both, []).code, 1);
}

#[test]
fn capabilities_are_taken_away_on_the_way() {
    let mirror = Mirror::new();
    let nginx = file(NGINX_ENTRY, elf::amd64()).xattr("security.capability", &tar::caps(1 << 10, true));
    Image::with_nginx(nginx).build().push(&mirror.source, "kong", "3.9.0");
    let images = "  - {source: 'SRC/kong:3.9.0', destination: DST/plain, patch: {remove-caps: true}}";
    assert_eq!(results(&mirror.json(images, ["--check"])), ["plain:3.9.0: would-patch it was not there"]);
    assert_eq!(results(&mirror.json(images, [])), ["plain:3.9.0: patched it was not there"]);
    let result = format!("{}/plain:3.9.0", mirror.destination.host());
    prove(&result, &format!("{}/kong:3.9.0", mirror.source.host()));
    assert_eq!(ok(["getcap", &result]).stdout, "");
    let ports = Opened::in_registry(&mirror.destination, "plain", "3.9.0").config()["config"]["ExposedPorts"].clone();
    assert_eq!(ports, json!({"8000/tcp": {}, "8443/tcp": {}}));
    assert_eq!(results(&mirror.json(images, [])), ["plain:3.9.0: unchanged"]);
    let data = mirror.json(&images.replace("{remove-caps: true}", "true"), []);
    assert_eq!(results(&data), ["plain:3.9.0: patched the options are others now"]);
}

#[test]
fn a_patch_does_not_replace_what_is_not_its_own() {
    let mirror = Mirror::with(&["3.9.0"]);
    version("precious").push(&mirror.destination, "kong", "3.9.0-lowport");
    let data = mirror.json(PATCHED, []);
    assert_eq!(results(&data), ["kong:3.9.0-lowport: failed destination-refused"]);
    let forced = PATCHED.replace("patch: true", "patch: true, force: true");
    assert_eq!(results(&mirror.json(&forced, []))[0], "kong:3.9.0-lowport: patched exists and is no result of capatch");
}

#[test]
fn what_gets_into_each_others_way_is_refused_before_anything_moves() {
    let mirror = Mirror::with(&["1.0.0"]);
    let both = format!("{ALL}\n  - {{source: 'SRC/kong:1.0.0', destination: DST/mirror/kong}}");
    mirror.sync(&both, []).failed(2, &["sync.yaml:4:5", "mirror/kong:1.0.0 is written by", "sync.yaml:3:5 too"]);
    let chain = format!("{ALL}\n  - {{source: 'DST/mirror/kong:1.0.0', destination: DST/x}}");
    mirror.sync(&chain, []).failed(2, &["is read here and written by"]);
    mirror.sync("  - {source: 'user:hunter2@r.io/kong:1', destination: x}", []).failed(2, &["no password"]);
    let leak = mirror.sync("  - {source: 'a:1', destination: x, password: hunter2}", []);
    assert!(leak.code == 2 && !leak.stderr.contains("hunter2"), "{leak:#?}");
    assert_eq!(mirror.count(|request| !request.path.ends_with("/tags/list")), 0);
}

#[test]
fn a_run_that_is_killed_is_completed_by_the_next() {
    let mirror = Mirror::new();
    for tag in ["1.0.0", "1.0.1", "1.0.2", "1.0.3"] {
        let noise = tar::tar(&[file("noise", format!("{tag}{}", "x".repeat(200_000)))]);
        Image::kong().packed(noise, Packing::Plain).build().push(&mirror.source, "kong", tag);
    }
    // Each answer takes a while, so that a kill meets every stage.
    mirror.destination.fault(|_, _| {
        std::thread::sleep(Duration::from_millis(3));
        None
    });
    let images = format!("{ALL}\n{PATCHED}");
    let file = mirror.file(&images);
    for after in (5..=155).step_by(10) {
        let mut child = spawn(&["sync", &file]);
        std::thread::sleep(Duration::from_millis(after));
        let _ = child.kill();
        child.wait().unwrap();
    }
    mirror.sync(&images, []).succeeded();
    for tag in ["1.0.0", "1.0.1", "1.0.2", "1.0.3"] {
        assert_eq!(mirror.destination.tag("mirror/kong", tag), mirror.source.tag("kong", tag));
        ok(["verify", &format!("{}/mirror/kong:{tag}", mirror.destination.host())]);
    }
    mirror.sync(&images, ["--check"]).succeeded();
}

fn spawn(arguments: &[&str]) -> Child {
    capatch(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

// Many machines.

#[test]
fn shards_at_once_do_what_one_does() {
    let tags: Vec<String> = (0..24).map(|patch| format!("1.0.{patch}")).collect();
    let mirror = Mirror::with(&tags.iter().map(String::as_str).collect::<Vec<_>>());
    let images = format!("{ALL}\n{}", PATCHED.replace("newest: 2", "newest: 12"));
    let alone = Mirror { source: mirror.source.clone(), destination: Registry::start(), scene: Scene::new() };
    alone.sync(&images, []).succeeded();

    let file = mirror.file(&images);
    let shards: Vec<Child> = (0..4)
        .map(|index| {
            let mut command = capatch(["sync", &file, "--json", "--shard", "auto", "--shards", "4"]);
            command.env("JOB_COMPLETION_INDEX", index.to_string());
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let shards: Vec<Value> =
        shards.into_iter().map(|shard| Run::from(shard.wait_with_output().unwrap()).succeeded().json()).collect();

    let local = |host: &str, holdings: BTreeSet<String>| -> BTreeSet<String> {
        holdings.into_iter().map(|holding| holding.replace(host, "HOST")).collect()
    };
    assert_eq!(
        local(&mirror.destination.host(), mirror.destination.holdings()),
        local(&alone.destination.host(), alone.destination.holdings())
    );
    let rows: Vec<String> = shards.iter().flat_map(results).collect();
    assert_eq!(rows.len(), 36, "each image is in one shard");
    assert!(rows.iter().all(|row| row.ends_with("it was not there")), "{rows:?}");
    assert!(shards.iter().all(|shard| !shard["images"].as_array().unwrap().is_empty()));
    mirror.clear();
    let whole = mirror.sync(&images, []).succeeded();
    assert!(whole.stdout.contains("36 unchanged"), "{whole:#?}");
    assert_eq!(mirror.count(about_blobs) + mirror.count(writes), 0);
    mirror.sync(&images, ["--shard", "2/4"]).succeeded();
    mirror.sync(&images, ["--shard", "5/4"]).failed(2, &["no shard 5 of 4"]);
    mirror.sync(&images, ["--shard", "auto"]).failed(2, &["JOB_COMPLETION_INDEX"]);
    mirror.sync(&images, ["--shard", "1/2", "--shards", "2"]).failed(2, &["--shards goes with"]);
}

#[test]
fn a_job_and_a_schema_are_printed_without_any_request() {
    let mirror = Mirror::new();
    let file = mirror.file(ALL);
    let job = ok(["sync", &file, "--kubernetes-job", "--image", "r.io/capatch:1", "--shards", "5"]);
    for words in [
        "completions: 5",
        "--shard=auto",
        "sync.yaml: |",
        "r.io/capatch:1",
        "- \"--max-wait=60\"",
        "- \"--lock-timeout=60\"",
    ] {
        assert!(job.stdout.contains(words), "{words} in {}", job.stdout);
    }
    run(["sync", &file, "--kubernetes-job", "--image", "r.io/capatch:1"]).failed(2, &["--shards"]);
    for option in ["--ca-file", "--cert-dir", "--auth-file", "--registries-conf", "--hosts-dir"] {
        run(["sync", &file, "--kubernetes-job", "--image", "r.io/c:1", "--shards", "5", option, &file])
            .failed(2, &["no files of this machine"]);
    }
    let schema: Value = serde_json::from_str(&ok(["sync", "--schema"]).stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    run(["sync"]).failed(2, &["FILE"]);
    run(["sync", "/does/not/exist"]).failed(3, &["/does/not/exist"]);
    assert_eq!(mirror.count(|_| true), 0);
}

#[test]
fn the_readme_says_what_the_example_does() {
    let scene = Scene::new();
    std::os::unix::fs::symlink(files::at("testdata"), scene.path("testdata")).unwrap();
    let readme = files::read("README.md");
    let file = files::read("testdata/sync.yaml");
    assert!(readme.contains(&format!("$ cat testdata/sync.yaml\n{file}$ capatch sync")));
    for command in [&["sync", "testdata/sync.yaml"][..], &["sync", "testdata/sync.yaml", "--check"]] {
        let mut run = capatch(command);
        let said = start({
            run.current_dir(scene.path(""));
            run
        })
        .succeeded();
        let shown = format!("$ capatch {}\n{}", command.join(" "), said.stdout);
        assert!(readme.contains(&shown), "{shown}");
    }
}
