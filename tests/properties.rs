//! What holds for every image, fault and program, tried on a few that chance chooses. The properties P1 to P13 and their tests
//! (`tests/faults.rs` holds this list to its word):
//!
//! | property | tests |
//! |---|---|
//! | P1: a copy is byte for byte the same, whatever the media types, members and algorithms | `tests/properties.rs::copies_are_identical` |
//! | P2: the same input gives the same digest on any host, clock, locale and umask, in any order | `tests/properties.rs::the_digest_depends_on_the_request_alone` `tests/patch.rs::the_digest_depends_on_nothing_but_the_input` |
//! | P3: the merged views of source and result differ in what was declared, and in nothing when that is taken away again | `tests/properties.rs::only_the_declared_file_differs` |
//! | P4: every mask survives both revisions of the attribute | `src/capability/xattr.rs::every_mask_survives_both_revisions` `src/capability/xattr.rs::every_byte_survives_at_every_place_of_a_mask` |
//! | P5: the length of a PAX record counts itself | `src/archive/pax.rs::lengths_count_their_own_digits` `src/archive/pax.rs::what_was_written_is_read` |
//! | P6: every reader of tar sees the same in a layer of ours | `tests/properties.rs::other_readers_see_the_same_layer` |
//! | P7: killed at any step and run again, the end is the same | `tests/crash.rs::killed_at_any_step_a_layout_is_what_it_was_or_what_it_was_to_be` `tests/copy.rs::killed_at_a_hundred_moments_it_ends_well_in_the_end` |
//! | P8: so many writers, so many tags | `tests/properties.rs::every_writer_gets_its_tag` `tests/patch.rs::two_runs_into_one_layout_lose_no_tag` |
//! | P9: one changed byte of a layout is found | `tests/properties.rs::one_changed_byte_is_found` `tests/verify.rs::every_changed_byte_of_every_blob_is_found` |
//! | P10: one fault, and the digest is the same or the tag is where it was | `tests/one_fault.rs::of_a_copy_from_repository_to_repository` `tests/one_fault.rs::of_a_copy_into_a_layout` `tests/one_fault.rs::of_a_copy_out_of_a_layout` `tests/one_fault.rs::of_a_patch_from_repository_to_repository` `tests/one_fault.rs::of_a_patch_within_a_repository` `tests/one_fault.rs::of_a_patch_into_a_layout` `tests/one_fault.rs::of_a_patch_out_of_a_layout` |
//! | P11: nothing that is said holds a secret or a control character | `tests/properties.rs::what_is_said_is_printable_and_no_secret` |
//! | P12: memory does not grow with the image | `tests/bombs.rs::whatever_the_image_memory_stays_small` |
//! | P13: no hop brings credentials back | `tests/properties.rs::credentials_do_not_come_back` |

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use capatch::layer::tree::{Detail, Tree};
use capatch::limits::Limits;
use capatch::oci::descriptor::Descriptor;
use capatch::oci::digest::{Algorithm, Hasher};
use capatch::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use capatch::oci::reference::Target;
use capatch::transport::LOCK_TIMEOUT;
use capatch::transport::layout::Layout;
use common::cli::{capatch, ok, start};
use common::image::{Image, NGINX, Opened, Packing, Scene, leftovers};
use common::library::{PASSWORD, copied, transports};
use common::registry::{Auth, Bearer, Registry, Reply, basic};
use common::tar::{dir, file, hard_link, symlink, whiteout};
use common::{elf, tar};
use proptest::prelude::*;

fn few(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 50, ..ProptestConfig::default() }
}

// P1

/// Content of any kind: what its descriptor says, and its bytes.
#[derive(Clone, Debug)]
struct Thing {
    media_type: String,
    sha512: bool,
    members: String,
    bytes: Vec<u8>,
}

/// Members that nobody knows, with leading commas, in the spellings that JSON allows.
fn members() -> impl Strategy<Value = String> {
    let value =
        prop_oneof!["-?[1-9][0-9]{0,20}\\.[0-9]{1,3}", "\"[ -!#-\\[\\]-~]{0,9}\"", Just("[ 1e3 ,{}]".to_owned())];
    proptest::collection::btree_map("x-[a-z]{1,6}", value, 0..3)
        .prop_map(|all| all.iter().map(|(name, value)| format!(", \"{name}\" :{value}")).collect())
}

fn thing() -> impl Strategy<Value = Thing> {
    let media_type = prop_oneof![
        Just("application/vnd.oci.image.layer.v1.tar+gzip".to_owned()),
        "application/vnd\\.[a-z]{1,8}\\.v1\\+json",
        Just("application/octet-stream; x=y".to_owned()),
    ];
    (media_type, any::<bool>(), members(), proptest::collection::vec(any::<u8>(), 0..200))
        .prop_map(|(media_type, sha512, members, bytes)| Thing { media_type, sha512, members, bytes })
}

/// Stores `bytes` in a layout; the descriptor.
fn store(layout: &Path, thing: &Thing) -> String {
    let algorithm = if thing.sha512 { Algorithm::Sha512 } else { Algorithm::Sha256 };
    let mut hasher = Hasher::new(algorithm);
    hasher.update(&thing.bytes);
    let digest = hasher.finish();
    let directory = layout.join("blobs").join(algorithm.name());
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(digest.hex()), &thing.bytes).unwrap();
    let Thing { media_type, members, bytes, .. } = thing;
    format!(r#"{{"mediaType": "{media_type}","digest":"{digest}","size":{}{members}}}"#, bytes.len())
}

/// All blobs of a layout by algorithm and digest.
fn blobs(layout: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for directory in fs::read_dir(layout.join("blobs")).unwrap().flatten() {
        for blob in fs::read_dir(directory.path()).unwrap().flatten() {
            let name = blob.path().strip_prefix(layout).unwrap().to_owned();
            found.insert(name, fs::read(blob.path()).unwrap());
        }
    }
    found
}

proptest! {
    #![proptest_config(few(24))]

    #[test]
    fn copies_are_identical(
        manifests in proptest::collection::vec(
            (thing(), proptest::collection::vec(thing(), 0..3), any::<bool>(), members()), 1..3),
        index in members(),
        root_sha512: bool,
        by_registry: bool,
    ) {
        let scene = Scene::new();
        let layout = scene.path("src");
        let mut children = Vec::new();
        for (config, layers, sha512, members) in &manifests {
            let config = store(&layout, config);
            let layers: Vec<String> = layers.iter().map(|layer| store(&layout, layer)).collect();
            let text = format!(r#"{{ "schemaVersion":2, "config":{config},"layers":[{}]{members} }}"#, layers.join(" , "));
            let manifest = Thing { media_type: OCI_MANIFEST.into(), sha512: *sha512, members: members.clone(), bytes: text.into() };
            children.push(store(&layout, &manifest));
        }
        let text = format!("{{\"manifests\":[{}],\n \"schemaVersion\":2{index}}}", children.join(","));
        // A registry names what has a tag by its SHA-256.
        let root = Thing { media_type: OCI_INDEX.into(), sha512: root_sha512 && !by_registry,
            members: r#","annotations":{"org.opencontainers.image.ref.name":"1"}"#.into(), bytes: text.clone().into() };
        let entry = store(&layout, &root);
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        fs::write(layout.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#)).unwrap();

        let registry = Registry::start();
        let transports = transports(&scene, &[]);
        let (source, middle, end) = (scene.reference("src:1"), format!("{}/a:1", registry.host()), scene.reference("dst:1"));
        if by_registry {
            copied(&source, &middle, &transports).unwrap();
            copied(&middle, &end, &transports).unwrap();
        } else {
            copied(&source, &end, &transports).unwrap();
        }
        let (was, is) = (blobs(&layout), blobs(&scene.path("dst")));
        prop_assert_eq!(is, was);
        let (_, bytes) = Layout::new(scene.path("dst"), Limits::default(), LOCK_TIMEOUT).resolve(Some(&Target::Tag("1".into()))).unwrap().unwrap();
        prop_assert_eq!(bytes, text);
    }
}

// P2

proptest! {
    #![proptest_config(few(12))]

    #[test]
    fn the_digest_depends_on_the_request_alone(
        order in Just((0..5).collect::<Vec<usize>>()).prop_shuffle(),
        zone in prop_oneof![Just("UTC"), Just("Asia/Kathmandu"), Just("America/St_Johns")],
        locale in prop_oneof![Just("C"), Just("tr_TR.UTF-8"), Just("ar_EG.UTF-8")],
        umask in prop_oneof![Just("000"), Just("027"), Just("777")],
        jobs in "[1-9]",
        name in "[a-z]{1,9}",
    ) {
        let (scene, image) = (Scene::new(), Image::kong().build());
        let source = scene.source(&image);
        let options = [
            ["--expose", "80/tcp"], ["--env", "A=1"], ["--env", "B=2"], ["--label", "y=z"], ["--label", "x=y"],
        ];
        let patch = |to: &str, order: &[usize], umask: &str, jobs: &str| {
            let mut command = Command::new("/bin/sh");
            // The directory exists: with the umask 777 nothing could be written below a new one.
            fs::create_dir_all(scene.path(to).join("blobs/sha256")).unwrap();
            command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_capatch"), "patch"]);
            command.args([&source, &scene.reference(&format!("{to}:{name}"))]).args(["--json", "--jobs", jobs]);
            command.args(order.iter().flat_map(|number| options[*number])).env_clear();
            command.envs([("CONTAINERS_REGISTRIES_CONF", "/dev/null"), ("TZ", zone), ("LC_ALL", locale)]);
            start(command).succeeded().json()["digest"].as_str().unwrap().to_owned()
        };
        let plain = patch("a", &[0, 1, 2, 3, 4], "022", "4");
        prop_assert_eq!(patch("b", &order, umask, &jobs), plain);
    }
}

// P3

/// An entry of a layer, from a few names that get in each other's way.
fn entry() -> impl Strategy<Value = tar::Entry> {
    let path = "(opt|usr/local|usr/lib|var/[ab])/[a-d]";
    prop_oneof![
        4 => (path, "[a-z]{0,40}", 0u32..0o7777).prop_map(|(path, content, mode)| file(&path, content).mode(mode)),
        2 => (path, 0u64..70000).prop_map(|(path, owner)| dir(&path).owner(owner)),
        2 => (path, path).prop_map(|(path, target)| symlink(&path, &format!("/{target}"))),
        1 => path.prop_map(|path| whiteout(&path)),
        1 => path.prop_map(|path| hard_link(&path, "usr/local/openresty/nginx/sbin/nginx")),
        1 => (path, proptest::collection::vec(any::<u8>(), 0..30))
            .prop_map(|(path, value)| file(&path, "x").xattr("user.x", &value)),
    ]
}

proptest! {
    #![proptest_config(few(16))]

    #[test]
    fn only_the_declared_file_differs(
        below in proptest::collection::vec(entry(), 0..6),
        above in proptest::collection::vec(proptest::collection::vec(entry(), 0..5), 0..3),
        capability: u8,
    ) {
        let mut image = Image::empty().layer(&below);
        image.layers.extend(Image::kong().layers);
        for entries in &above {
            image = image.layer(entries);
        }
        let (scene, content) = (Scene::new(), image.build());
        let source = scene.source(&content);
        // Some make no image: a link to nothing, a directory in place of one that is needed.
        let is_image = common::cli::run(["verify", &source]).code == 0;
        let cap = ["cap_net_bind_service=+ep", "cap_net_raw,cap_dac_override=ep", "cap_chown+p"][usize::from(capability) % 3];
        let result = scene.reference("dst:1");
        let patched = common::cli::run(["patch", &source, &result, "--cap", cap]);
        prop_assert!(!patched.stderr.contains("panicked"));
        if !is_image {
            return Ok(());
        }
        patched.succeeded();
        let (before, after) = (tree(&scene.open("src", "3.9")), tree(&scene.open("dst", "1")));
        let names = |tree: &Tree| tree.iter().map(|(path, _)| path.to_vec()).collect::<Vec<_>>();
        prop_assert_eq!(names(&before), names(&after));
        for ((path, was), (_, is)) in before.iter().zip(after.iter()) {
            prop_assert_eq!(&was.content, &is.content);
            let mut is = is.entry.clone();
            if path == &NGINX.as_bytes()[1..] {
                is.xattrs.remove(&b"security.capability"[..]).expect("it has its capability");
            }
            prop_assert_eq!(&was.entry, &is, "{}", String::from_utf8_lossy(path));
        }
        ok(["verify", &result, "--base", &source]);

        let removed = scene.reference("dst:2");
        ok(["patch", &result, &removed, "--remove-caps"]);
        for ((path, was), (_, is)) in before.iter().zip(tree(&scene.open("dst", "2")).iter()) {
            prop_assert_eq!((&was.content, &was.entry), (&is.content, &is.entry), "{}", String::from_utf8_lossy(path));
        }
        ok(["verify", &removed, "--base", &result]);
    }
}

/// The merged view of a single image.
fn tree(image: &Opened) -> Tree {
    let mut tree = Tree::default();
    for (layer, diff_id) in image.layers().iter().zip(image.config()["rootfs"]["diff_ids"].as_array().unwrap()) {
        let blob = image.blob(layer);
        let digest = layer["digest"].as_str().unwrap().parse().unwrap();
        let descriptor = Descriptor::new("", digest, blob.len() as u64).unwrap();
        tree.apply(&blob[..], &descriptor, &diff_id.as_str().unwrap().parse().unwrap(), Detail::Everything).unwrap();
    }
    tree
}

// P6

proptest! {
    #![proptest_config(few(6))]

    #[test]
    fn other_readers_see_the_same_layer(
        name in "[a-z\u{e9}]{1,90}", directory in "[A-Z]{1,90}", mode in 0u32..0o10000, owner in 0u64..3_000_000,
        mtime in 0u64..20_000_000_000, noise in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let path = format!("opt/{directory}/{name}");
        // What is longer than a header has room for comes from a PAX record, and has to go into one again.
        let program = file("program", elf::amd64()).pax("path", path.as_bytes()).mode(mode | 0o100).owner(owner).mtime(mtime);
        // The reader of the tests cannot have a newline in a value, other readers can.
        let noise: Vec<u8> = noise.into_iter().filter(|byte| *byte != b'\n').collect();
        let image = Image::empty().layer([dir("opt"), dir("x").pax("path", format!("opt/{directory}").as_bytes()), program.xattr("user.x", &noise)]);
        let (scene, absolute) = (Scene::new(), format!("/{path}"));
        let patched = scene.patched(&image.build(), ["--file", &absolute, "--profile", "none"]);
        let layer = patched.layers().last().unwrap().clone();
        let mut archive = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&patched.blob(&layer)[..]), &mut archive).unwrap();

        let ours = patched.top_layer();
        let listed: Vec<String> = ours.iter().map(|entry| entry.path.clone()).collect();
        prop_assert!(listed.contains(&path));
        let said = tool(&["tar", "--list", "--numeric-owner", "--quoting-style=literal", "-f", "-"], &archive).unwrap();
        prop_assert_eq!(said.lines().map(|line| line.trim_end_matches('/')).collect::<Vec<_>>(), names(&listed));
        if let Some(said) = tool(&["bsdtar", "-tf", "-"], &archive) {
            prop_assert_eq!(said.lines().map(|line| line.trim_end_matches('/')).collect::<Vec<_>>(), names(&listed));
        }
        if let Some(said) = tool(&["python3", "-c", PYTHON], &archive) {
            let theirs: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            prop_assert_eq!(theirs.iter().map(|entry| entry[0].as_str().unwrap()).collect::<Vec<_>>(), names(&listed));
            let capability: u32 = ours.last().unwrap().capability().unwrap().iter().map(|byte| u32::from(*byte)).sum();
            let expected = serde_json::json!([path, mode | 0o100, owner, owner, mtime, false, capability]);
            prop_assert_eq!(theirs.last().unwrap(), &expected);
        }
    }
}

/// One entry a line; values of PAX records are bytes in disguise.
const PYTHON: &str = "
import json, sys, tarfile
for m in tarfile.open(fileobj=sys.stdin.buffer, mode='r|'):
    cap = m.pax_headers.get('SCHILY.xattr.security.capability')
    cap = cap and sum(cap.encode('utf-8', 'surrogateescape'))
    print(json.dumps([m.name, m.mode, m.uid, m.gid, int(m.mtime), m.isdir(), cap]))
";

fn names(listed: &[String]) -> Vec<&str> {
    listed.iter().map(|path| path.trim_end_matches('/')).collect()
}

/// What a program says about an archive on its input; `None`: there is no such program.
fn tool(arguments: &[&str], input: &[u8]) -> Option<String> {
    let mut command = Command::new(arguments[0]);
    command.args(&arguments[1..]).env("LC_ALL", "C.UTF-8").env("PYTHONUTF8", "1");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.ok()?;
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

// P8

#[test]
fn every_writer_gets_its_tag() {
    const WRITERS: usize = 12;
    let (scene, content) = (Scene::new(), Image::kong().build());
    let source = scene.source(&content);
    let copies: Vec<_> = (0..WRITERS)
        .map(|number| {
            let mut command = capatch(["copy", &source, &scene.reference(&format!("dst:tag-{number}"))]);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for copy in copies {
        let output = copy.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for number in 0..WRITERS {
        assert_eq!(scene.open("dst", &format!("tag-{number}")).digest(), content.digest);
    }
    assert!(leftovers(&scene.path("dst")).is_empty());
}

// P9

/// Where `verify` reads; the rest of a layout is other images.
fn damageable(layout: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = blobs(layout).into_keys().map(|name| layout.join(name)).collect();
    files.push(layout.join("index.json"));
    files
}

proptest! {
    #![proptest_config(few(48))]

    #[test]
    fn one_changed_byte_is_found(which: prop::sample::Index, at: prop::sample::Index, to: u8) {
        let (scene, content) = (Scene::new(), Image::kong().build());
        let source = scene.source(&content);
        let files = damageable(&scene.path("src"));
        let path = &files[which.index(files.len())];
        let mut bytes = fs::read(path).unwrap();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != to);
        let old = std::mem::replace(&mut bytes[at], to);
        fs::write(path, &bytes).unwrap();
        let ended = common::cli::run(["verify", &source]);
        // White space may change in what is no blob, and so may a name that only another reader looks at.
        let harmless = path.ends_with("index.json")
            && serde_json::from_slice::<serde_json::Value>(&bytes).is_ok()
            && scene_digest(&bytes) == Some(content.digest.clone());
        prop_assert!(ended.code != 0 || harmless, "{} at {at}: {old} became {to}", path.display());
    }
}

/// The digest that the only entry of an `index.json` names.
fn scene_digest(index: &[u8]) -> Option<String> {
    let index: serde_json::Value = serde_json::from_slice(index).ok()?;
    index["manifests"][0]["digest"].as_str().map(str::to_owned)
}

// P11

proptest! {
    #![proptest_config(few(24))]

    #[test]
    fn what_is_said_is_printable_and_no_secret(
        status in prop_oneof![Just(400u16), Just(401), Just(403), Just(404), Just(429), Just(500), Just(200)],
        code in "\\PC{0,12}",
        message in "([\\x00-\\x1f\\x7f-\\u{9f}]|[ -~]|\\PC){0,30}",
        header in "[ -~]{0,40}",
        from in 0usize..8,
        command in prop_oneof![Just("inspect"), Just("copy"), Just("patch"), Just("verify")],
        data: bool,
    ) {
        let bearer = Bearer { user: "user", password: PASSWORD, ..Bearer::default() };
        let registry = Registry::with(Auth::Bearer(bearer));
        Image::kong().build().push(&registry, "a", "1");
        let body = serde_json::json!({"errors": [{"code": code, "message": message}], "tags": [message]}).to_string();
        let count = std::sync::atomic::AtomicUsize::new(0);
        registry.fault(move |_, real| {
            let late = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) >= from;
            let warning = |reply: Reply| reply.header("warning", format!("299 - \"{header}\""));
            late.then(|| warning(Reply { status, ..real() }.header("content-type", &header).body(body.clone())))
        });
        let scene = Scene::new();
        let _ = transports(&scene, &[&registry]);
        let (source, to) = (format!("{}/a:1", registry.host()), scene.reference("dst:1"));
        let mut run = capatch([command, &source]);
        if matches!(command, "copy" | "patch") {
            run.arg(&to);
        }
        run.args(["-v", "-v", "--max-wait", "0", "--auth-file"]).arg(scene.path("auth.json"));
        run.args(data.then_some("--json"));
        let ended = start(run);
        let encoded = basic("user", PASSWORD).replace("Basic ", "");
        for said in [&ended.stdout, &ended.stderr] {
            for secret in [PASSWORD, &encoded, "token-"] {
                prop_assert!(!said.contains(secret), "{said}");
            }
            prop_assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
        }
        if data && ended.code != 0 {
            let lines: Vec<&str> = ended.stdout.lines().collect();
            prop_assert!(serde_json::from_str::<serde_json::Value>(&lines.join("\n")).is_ok(), "{}", ended.stdout);
        }
    }
}

// P13

proptest! {
    #![proptest_config(few(24))]

    #[test]
    fn credentials_do_not_come_back(hops in proptest::collection::vec((any::<bool>(), 0usize..5), 1..6)) {
        let (home, other) = (Registry::with(Auth::Basic("user", PASSWORD)), Registry::start());
        let layer = vec![7; 100];
        let (scene, image) = (Scene::new(), Image::empty().packed(tar::tar(&[file("a", layer)]), Packing::Plain).build());
        image.push(&home, "a", "1");
        let blob = image.layer(0);
        // The blob of the first address is behind all hops; each leads to the next.
        let hosts = [home.clone(), other.clone()];
        let content = image.blobs[&blob].clone();
        for registry in &hosts {
            let (hops, hosts, blob, content) = (hops.clone(), hosts.clone(), blob.clone(), content.clone());
            registry.fault(move |request, real| {
                let at = match request.path.strip_prefix("/hop/") {
                    Some(number) => number.parse::<usize>().unwrap(),
                    None if request.path.ends_with(&blob) && real().status == 200 => 0,
                    None => return None,
                };
                let Some((away, status)) = hops.get(at) else { return Some(Reply::new(200).body(content.clone())) };
                let to = hosts[usize::from(*away)].url(&format!("/hop/{}", at + 1));
                Some(Reply::new([301, 302, 303, 307, 308][*status]).header("location", to))
            });
        }
        let transports = transports(&scene, &[&home, &other]);
        let result = copied(&format!("{}/a:1", home.host()), &scene.reference("dst:1"), &transports);
        prop_assert_eq!(result.is_ok(), hops.len() <= 5, "{:?}", result.err());
        let left = hops.iter().position(|(away, _)| *away).unwrap_or(hops.len());
        for request in other.log() {
            prop_assert!(request.header("authorization").is_none(), "{request:?}");
        }
        for request in home.log() {
            let number = request.path.strip_prefix("/hop/").map(|number| number.parse::<usize>().unwrap());
            let may = number.is_none_or(|number| number <= left);
            prop_assert!(may || request.header("authorization").is_none(), "{request:?} after hop {left}");
        }
    }
}
