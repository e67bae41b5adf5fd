//! Images that would like to fill the memory. The rows are those of `faults.md`.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::process::Command;

use capatch::oci::digest::Digest;
use capatch::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use common::cli::{Run, run, start};
use common::image::{Content, Image, Index, Packing, Scene, hex};
use common::tar::{self, dir, file};
use common::{
    elf,
    registry::{Auth, Bearer, Registry, Reply},
};

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
    exchange(&mut content, &old, blob);
    content
}

/// Puts `blob` in the place of the layer `old`.
fn exchange(content: &mut Content, old: &str, blob: Vec<u8>) {
    let of = |digest: &str, size: usize| format!(r#""digest":"{digest}","size":{size}"#);
    let text = String::from_utf8(content.bytes().to_vec()).unwrap();
    let size = content.blobs[old].len();
    let text = text.replace(&of(old, size), &of(Digest::of(&blob).as_str(), blob.len()));
    content.blob("", blob);
    content.manifest(OCI_MANIFEST, text.into_bytes());
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
        assert!(said.hint().unwrap().contains("--max-ratio"));
    }
    assert!(!scene.path("dst/index.json").exists());
    // Who says so gets further, until the tar ends too soon.
    with_little_memory(&["getcap", &source, "--max-ratio", "40000"]).failed(5, &["layer 4", "hashes to"]);
    let said = with_little_memory(&["getcap", &source, "--max-ratio", "40000", "--max-unpacked", "512MiB"]);
    let said = said.failed(5, &["layer 4", "unpacks to more than 512 MiB"]);
    assert!(said.hint().unwrap().contains("--max-unpacked"));
    // What is only copied is not unpacked.
    with_little_memory(&["copy", &source, &to]).succeeded();
}

// D1, D2
#[test]
fn archives_that_grow_beyond_measure_are_refused() {
    let scene = Scene::new();
    let (source, image) = (scene.source(&Image::kong().build()), scene.path("a.tar"));
    run(["copy", &source, &format!("oci-archive:{}:1", image.display())]).succeeded();
    let packed = zstd::encode_all(&fs::read(&image).unwrap()[..], 3).unwrap();
    fs::write(&image, packed).unwrap();
    let archive = format!("oci-archive:{}", image.display());
    run(["inspect", &archive]).succeeded();
    let said = run(["inspect", &archive, "--max-unpacked", "4KiB"]);
    let said = said.failed(5, &["a.tar", "the zstd data unpacks to more than 4 KiB"]);
    assert!(said.hint().unwrap().contains("--max-unpacked"));
    // A layer of docker save is unpacked for its digest alone.
    let zeros = Image::kong().packed(tar::tar(&[file("zeros", vec![0; 128 * MIB])]), Packing::Zstd).docker().build();
    let (docker, blobs) = (scene.path("docker.tar"), [zeros.config()].into_iter().chain(zeros.layers()));
    let layers: Vec<String> = zeros.layers().iter().map(|layer| format!("\"{}\"", hex(layer))).collect();
    let list =
        format!(r#"[{{"Config":"{}","RepoTags":["a:1"],"Layers":[{}]}}]"#, hex(&zeros.config()), layers.join(","));
    let mut members: Vec<_> = blobs.map(|digest| file(hex(&digest), zeros.blobs[&digest].clone())).collect();
    members.push(file("manifest.json", list));
    fs::write(&docker, tar::tar(&members)).unwrap();
    let docker = format!("docker-archive:{}", docker.display());
    let bomb = format!("docker.tar: /{}: the layer unpacks to more than 2000 times its", hex(&zeros.layer(3)));
    let said = with_little_memory(&["inspect", &docker]).failed(5, &[&bomb]);
    assert!(said.hint().unwrap().contains("--max-ratio"));
    with_little_memory(&["inspect", &docker, "--max-ratio", "40000"]).succeeded();
}

// D3
#[test]
fn a_window_for_which_there_is_no_memory_is_refused() {
    let large: Vec<u8> =
        (0..40 * MIB as u64 / 8).flat_map(|n| (n * n).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect();
    let tar = tar::tar(&[file("opt/x", large)]);
    let with_window = |log| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.long_distance_matching(true).unwrap();
        std::io::copy(&mut &tar[..], &mut encoder).unwrap();
        let mut content = Image::kong().packed(tar.clone(), Packing::Zstd).build();
        let (old, blob) = (content.layers().pop().unwrap(), encoder.finish().unwrap());
        exchange(&mut content, &old, blob);
        content
    };
    let (scene, small, wide) = (Scene::new(), with_window(24), with_window(25));
    small.write(&scene.path("src"), "small");
    wide.write(&scene.path("src"), "wide");
    let image = |tag: &str| scene.reference(&format!("src:{tag}"));
    for command in ["verify", "getcap"] {
        with_little_memory(&[command, &image("small")]).succeeded();
        let said = with_little_memory(&[command, &image("wide")]);
        let said = said.failed(5, &["layer 4", "the zstd data takes more than 16 MiB of memory, of 128 MiB"]);
        assert!(said.hint().unwrap().contains("--max-memory"));
        run([command, &image("wide"), "--max-memory", "256MiB"]).succeeded();
    }
    // A whole index of them, unpacked side by side.
    let index = Index::new().platform(&small, "amd64").platform(&small, "arm64").build();
    index.write(&scene.path("src"), "both");
    with_little_memory(&["patch", &image("both"), &scene.reference("dst:1"), "--platform", "linux/amd64"]).succeeded();
}

/// A tar of so many entries with long names, each of its own.
fn many(count: usize, kind: u8) -> Vec<u8> {
    let mut header = ::tar::Header::new_ustar();
    header.set_path(format!("opt/{}/{}/0000000", "d".repeat(140), "e".repeat(92))).unwrap();
    header.set_entry_type(::tar::EntryType::new(kind));
    if kind == b'2' {
        header.set_link_name("t".repeat(100)).unwrap();
    }
    header.set_mode(0o644);
    header.set_size(0);
    let mut tar = Vec::with_capacity(count * 512 + 1024);
    for number in 0..count {
        // The last bytes of the name are its number.
        header.as_old_mut().name[93..].copy_from_slice(format!("{number:07}").as_bytes());
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
    }
    tar.extend([0; 1024]);
    tar
}

// G6, D17: ten million entries are cut short where they would fill the memory.
#[test]
fn more_entries_than_the_memory_holds_are_refused() {
    let scene = Scene::new();
    let tagged = |image: Image, tag: &str| {
        image.build().write(&scene.path("src"), tag);
        scene.reference(&format!("src:{tag}"))
    };
    let base = tagged(Image::kong(), "base");
    let files = tagged(Image::kong().packed(many(100_000, b'0'), Packing::Fast), "files");
    let links = tagged(Image::kong().packed(many(90_000, b'2'), Packing::Fast), "links");
    let to = scene.reference("dst:1");
    for (arguments, words) in [
        (&["verify", &links][..], "the files of the image take more than 80 MiB"),
        (&["getcap", &links], "the files of the image take more than 80 MiB"),
        (&["verify", &links, "--base", &base], "the files of the image take more than 80 MiB"),
        (&["patch", &links, &to], "the directories, links and whiteouts of the layers take more than 32 MiB"),
    ] {
        let said = with_little_memory(arguments).failed(5, &["layer 4", words, "of memory, of 128 MiB"]);
        assert!(said.hint().unwrap().contains("--max-memory"));
    }
    run(["getcap", &links, "--max-memory", "512MiB"]).succeeded();
    run(["patch", &links, &to, "--max-memory", "512MiB"]).succeeded();
    // Files that nobody asks for are not remembered.
    with_little_memory(&["patch", &files, &scene.reference("dst:2")]).succeeded();
}

// D17: a header is not believed before it was read.
#[test]
fn an_extended_header_of_a_gigabyte_is_refused() {
    let header = tar::unfinished(&[file("x", "").kind(b'x').size(1 << 30)]);
    let zeros = zstd::encode_all(&vec![0; 8 * MIB][..], 19).unwrap();
    let blob = [zstd::encode_all(&header[..], 3).unwrap(), zeros.repeat(129)].concat();
    let (scene, image) = (Scene::new(), with_layer(blob));
    let (source, to) = (scene.source(&image), scene.reference("dst:1"));
    for arguments in [&["verify", &source][..], &["getcap", &source], &["patch", &source, &to]] {
        let words = ["layer 4", "an extended header", "has 1073741824 bytes, the limit is 1 MiB"];
        with_little_memory(arguments).failed(5, &words);
    }
}

/// So many indexes inside each other.
fn deep(levels: usize) -> Content {
    let mut content = Image::kong().build();
    for _ in 0..levels {
        let entry = content.descriptor("");
        let index = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{entry}]}}"#);
        content.manifest(OCI_INDEX, index.into_bytes());
    }
    content
}

/// An index of so many manifests that are no images.
fn wide(count: usize) -> Content {
    let mut content = Content::default();
    let config = content.blob("application/vnd.oci.empty.v1+json", b"{}".to_vec());
    let mut index = Index::new();
    for number in 0..count {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[],"annotations":{{"n":"{number}"}}}}"#
        );
        content.manifest(OCI_MANIFEST, text.into_bytes());
        index = index.platform(&content, "amd64");
        content.manifests.clear();
    }
    index.build()
}

// C17
#[test]
fn an_index_without_bottom_is_refused() {
    let scene = Scene::new();
    let (source, to) = (scene.source(&deep(10_000)), scene.reference("dst:1"));
    for arguments in
        [&["verify", &source][..], &["inspect", &source], &["patch", &source, &to], &["copy", &source, &to]]
    {
        with_little_memory(arguments).failed(5, &["indexes are nested deeper than 8 levels"]);
    }
    assert!(!scene.path("dst/index.json").exists());
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

/// `json`, an object, with so many bytes of white space in it.
fn padded(json: &[u8], bytes: usize) -> Vec<u8> {
    [&b"{"[..], &vec![b' '; bytes], &json[1..]].concat()
}

/// The archive of these members.
fn archive(scene: &Scene, name: &str, tar: &[u8]) -> String {
    fs::write(scene.path(name), tar).unwrap();
    format!("oci-archive:{}", scene.path(name).display())
}

// C7, C17, C30, D1, D2, D17, F16: what is refused, its limit, and the option that lets it pass.
#[test]
fn every_limit_names_the_option_that_raises_it() {
    let scene = Scene::new();
    let write = |content: &Content, tag: &str| {
        content.write(&scene.path("src"), tag);
        scene.reference(&format!("src:{tag}"))
    };
    let zeros = Image::kong().packed(tar::tar(&[file("zeros", vec![0; 128 * MIB])]), Packing::Zstd).build();
    let pax = tar::tar(&[file("opt/x", "x").pax("comment", &vec![b'c'; 2 * MIB])]);
    let pax = Image::kong().packed(pax, Packing::Fast).build();
    let mut manifest = Image::kong().build();
    manifest.manifest(OCI_MANIFEST, padded(manifest.bytes(), 5 * MIB));
    let mut config = Image::kong().build();
    let (old, large) = (config.config(), padded(&config.blobs[&config.config()], 5 * MIB));
    exchange(&mut config, &old, large);
    let tags = Scene::new();
    let many_tags = tags.source(&Image::kong().build());
    let index = tags.path("src/index.json");
    fs::write(&index, padded(&fs::read(&index).unwrap(), 5 * MIB)).unwrap();
    let members = archive(&scene, "members.tar", &many(140_000, b'0'));
    let list = archive(
        &scene,
        "list.tar",
        &tar::tar(&[file("manifest.json", [&b"["[..], &vec![b' '; 5 * MIB], b"]"].concat())]),
    );
    // There is no image in the last three, but that is found out only then.
    for (image, words, option, value, code) in [
        (write(&zeros, "zeros"), "more than 2000 times its", "--max-ratio", "40000", 0),
        (write(&pax, "pax"), "bytes, the limit is 1 MiB", "--max-memory", "512MiB", 0),
        (write(&manifest, "manifest"), "bytes, the limit is 4 MiB", "--max-memory", "256MiB", 0),
        (write(&config, "config"), "bytes, the limit is 4 MiB", "--max-memory", "256MiB", 0),
        (many_tags, "bytes, the limit is 4 MiB", "--max-memory", "256MiB", 0),
        (write(&deep(9), "deep"), "deeper than 8 levels", "--max-depth", "9", 0),
        (write(&deep(64), "deeper"), "deeper than 8 levels", "--max-depth", "64", 0),
        (write(&wide(3300), "wide"), "more than 64 MiB of memory", "--max-memory", "256MiB", 5),
        (members, "more than 48 MiB of memory", "--max-memory", "256MiB", 5),
        (list, "/manifest.json has 5242882 bytes, the limit is 4 MiB", "--max-memory", "256MiB", 3),
    ] {
        let said = with_little_memory(&["getcap", &image]).failed(5, &[words]);
        assert!(said.hint().unwrap().contains(option), "{said:#?}");
        let raised = run(["getcap", &image, option, value]);
        assert!(raised.code == code && !raised.stderr.contains("limit"), "{raised:#?}");
    }
}

// C17, G6: what is just below the limits.
#[test]
fn what_the_limits_allow_fits_into_the_memory() {
    let scene = Scene::new();
    let write = |content: &Content, tag: &str| {
        content.write(&scene.path("src"), tag);
        scene.reference(&format!("src:{tag}"))
    };
    let large = |number: usize| {
        let mut content = Image::kong().layer([file("n", number.to_string())]).build();
        content.manifest(OCI_MANIFEST, padded(content.bytes(), 4 * MIB - 4096));
        content
    };
    let large = Index::new().platform(&large(1), "amd64").platform(&large(2), "arm64").build();
    let archive = format!("oci-archive:{}:1", scene.path("a.tar").display());
    for (image, depth) in
        [(write(&wide(2600), "wide"), "1"), (write(&large, "large"), "1"), (write(&deep(64), "deep"), "64")]
    {
        for arguments in [
            &["copy", &image, &scene.reference("dst:1"), "--force"][..],
            &["copy", &image, &archive, "--force"],
            &["verify", &image],
        ] {
            with_little_memory(&[arguments, &["--max-depth", depth]].concat()).succeeded();
        }
        with_little_memory(&["inspect", &image, "--max-depth", depth]);
        with_little_memory(&["patch", &image, &scene.reference("dst:2"), "--force", "--max-depth", depth]);
    }
}

// A31, C7
#[test]
fn every_limit_of_an_answer_names_the_option_that_raises_it() {
    let registry = Registry::with(Auth::Bearer(Bearer { public: true, ..Bearer::default() }));
    Image::kong().build().push(&registry, "kong", "1");
    let image = format!("{}/kong:1", registry.host());
    for (path, limit) in [("/token", "1 MiB"), ("/manifests/", "4 MiB")] {
        registry.fault(move |request, real| {
            let mut reply = (request.path.contains(path) && request.method == "GET").then(real)?;
            if reply.status == 200 {
                // White space behind the end, which a digest counts too.
                reply.body.extend(vec![b' '; 5 * MIB]);
            }
            Some(reply)
        });
        let said =
            with_little_memory(&["inspect", &image]).failed(5, &["bytes or more", &format!("the limit is {limit}")]);
        assert!(said.hint().unwrap().contains("--max-memory"), "{said:#?}");
        run(["inspect", &image, "--max-memory", "1GiB"]).succeeded();
    }
}

// C29, G6
#[test]
fn lists_of_referrers_that_fill_the_memory_are_refused() {
    let registry = Registry::start();
    let mut index = Index::new();
    for number in 0..8 {
        index = index.platform(&Image::kong().layer([file("n", number.to_string())]).build(), "amd64");
    }
    index.build().push(&registry, "kong", "1");
    let (image, to) = (format!("{}/kong:1", registry.host()), Scene::new().reference("dst:1"));
    let entry = format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":2}}"#, Digest::of(b"{}"));
    let list = |bytes: usize| {
        let entries = vec![entry.as_str(); bytes / (entry.len() + 1)].join(",");
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{entries}]}}"#)
    };
    let arguments = ["copy", "--referrers", &image, &to];
    for (bytes, words) in [(5 * MIB, "the limit is 4 MiB"), (4 * MIB - 4096, "more than 64 MiB of memory")] {
        let body = list(bytes);
        registry.fault(move |request, _| {
            let reply = || Reply::new(200).header("content-type", OCI_INDEX).body(body.clone());
            request.path.contains("/referrers/").then(reply)
        });
        let said = with_little_memory(&arguments).failed(5, &[words]);
        assert!(said.hint().unwrap().contains("--max-memory"), "{said:#?}");
    }
}
