//! Input that is broken, hostile or not there. Each time: the documented exit code, a sentence about what and where, no
//! panic, and nothing published or left half-written.

mod common;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use capatch::oci::digest::Digest;
use capatch::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use common::cli::{Run, capatch, fails, heeding, ok, prove, run, start};
use common::elf;
use common::files::kong;
use common::image::{Content, Image, Index, NGINX, NGINX_ENTRY, Packing, Scene, hex, leftovers};
use common::registry::{Auth, Bearer, Registry, Reply};
use common::tar::{self, caps, caps_of, device, dir, file, hard_link, symlink};
use serde_json::Value;

/// Patches `content` into a layout and into a registry, both of which have a tag already. It is refused both times, and
/// what was there is as it was.
#[track_caller]
fn refused<const N: usize>(code: i32, words: &[&str], content: &Content, options: [&str; N]) -> Run {
    let (scene, registry) = (Scene::new(), Registry::start());
    let source = scene.source(content);
    let precious = Image::kong_arm64().build();
    precious.write(&scene.path("dst"), "precious");
    precious.push(&registry, "kong", "precious");
    let index = fs::read(scene.path("dst/index.json")).unwrap();
    let patch = |to: &str| start(capatch(["patch", &source, to].into_iter().chain(options))).failed(code, words);
    let said = patch(&scene.reference("dst:out"));
    assert!(said.stderr.starts_with("capatch: ") && said.stderr.lines().count() <= 3, "{said:#?}");
    assert_eq!(fs::read(scene.path("dst/index.json")).unwrap(), index);
    whole(&scene.path("dst"));
    patch(&format!("{}/kong:out", registry.host()));
    assert_eq!((registry.tag("kong", "out"), registry.open_uploads()), (None, 0));
    assert_eq!(registry.count("PUT", "/manifests/"), 0);
    said
}

/// Every blob of a layout is what its name says, and nothing of a run is left.
#[track_caller]
fn whole(layout: &Path) {
    assert_eq!(leftovers(layout), Vec::<std::path::PathBuf>::new());
    let Ok(blobs) = fs::read_dir(layout.join("blobs/sha256")) else { return };
    for blob in blobs.map(|blob| blob.unwrap().path()) {
        assert_eq!(Digest::of(&fs::read(&blob).unwrap()).hex(), blob.file_name().unwrap().to_str().unwrap());
    }
}

// Names.

#[test]
fn unknown_references_are_usage_errors() {
    let scene = Scene::new();
    let good = scene.source(&Image::kong().build());
    for bad in [
        "",
        ":",
        "oci:",
        "oci::tag",
        "ftp://x/y",
        "http://x/y",
        "https://127.0.0.1:5000/kong:3.9",
        "Kong:3.9",
        "docker://",
        "kong:",
        "kong:.tag",
        "kong@sha256:123",
        "kong@md5:d41d8cd98f00b204e9800998ecf8427e",
        "a//b",
        "../x",
        "kong@sha256:../../../../etc/passwd",
        "x/y\n:1",
        "h.io\n/x:1",
        "127.0.0.1:99999999/kong:1",
        "oci-archive:",
        "-x y",
    ] {
        for said in [run(["patch", "--", bad, &good]), run(["patch", "--", &good, bad]), run(["verify", "--", bad])] {
            let said = said.failed(2, &["error: "]);
            assert!(
                said.stderr.contains("IMAGE") || said.stderr.contains("SOURCE") || said.stderr.contains("DESTINATION"),
                "{bad}: {said:#?}"
            );
        }
    }
    fails(2, &["has no tag"], ["patch", &good, &scene.reference("dst")]);
    let bytes = OsStr::from_bytes(b"oci:\xff\xfe");
    start(capatch([OsStr::new("verify"), bytes])).failed(2, &[]);
    assert_eq!(fs::read_dir(scene.directory.path()).unwrap().count(), 1, "nothing was made");
}

#[test]
fn a_missing_tag_is_named_with_those_that_exist() {
    let (scene, registry) = (Scene::new(), Registry::start());
    let image = Image::kong().build();
    scene.source(&image);
    Image::kong_arm64().build().write(&scene.path("src"), "3.8");
    let to = scene.reference("dst:out");
    let said = fails(3, &["src:nope does not exist"], ["patch", &scene.reference("src:nope"), &to]);
    assert_eq!(said.hint(), Some("there are 3.9, 3.8"));
    fails(3, &["more than one"], ["patch", &scene.reference("src"), &to]);
    let said = fails(3, &["nowhere:1 does not exist"], ["patch", &scene.reference("nowhere:1"), &to]);
    assert!(said.hint().unwrap().contains("OCI layout"));
    for name in [format!("{}/kong:nope", registry.host()), format!("{}/kong@{}", registry.host(), image.digest)] {
        let said = fails(3, &[&name, "does not exist"], ["patch", &name, &to]);
        assert!(said.hint().unwrap().contains("login"));
    }
    assert!(!scene.path("dst").exists() && !scene.path("nowhere").exists());
}

#[test]
fn a_missing_file_is_named_with_those_that_are_near() {
    let image = Image::kong().build();
    let said = refused(3, &["the image has no /usr/local/bin/ngnix"], &image, ["--file", "/usr/local/bin/ngnix"]);
    assert_eq!(said.hint(), Some("it has /usr/local/bin/nginx"));
    let said = refused(3, &["the image has no /opt/nginx"], &image, ["--file", "/opt/nginx"]);
    assert!(said.hint().unwrap().contains(NGINX), "{said:#?}");
    let said = refused(3, &["the image has no /usr/local/xyz"], &image, ["--file", "/usr/local/xyz"]);
    assert_eq!(said.hint(), Some("the deepest directory that exists is /usr/local"));
    let apache = Image::empty().layer([dir("usr"), file("usr/httpd", elf::amd64())]).build();
    refused(3, &["linux/amd64", "the image has no", NGINX], &apache, []);
    refused(3, &["/etc/passwd is a regular file"], &image, ["--file", "/etc/passwd/nginx"]);
}

#[test]
fn only_programs_for_the_platform_get_a_capability() {
    let image = Image::empty()
        .layer([
            dir("f/dir"),
            device("f/null"),
            file("f/fifo", "").kind(b'6'),
            file("f/script", "#!/bin/sh\n"),
            file("f/text", "hello"),
            file("f/empty", ""),
            file("f/short", &elf::amd64()[..19]),
            file("f/arm64", elf::arm64()),
            file("f/mach-o", b"\xcf\xfa\xed\xfe\x07\0\0\x01".to_vec()),
            symlink("f/loop", "loop"),
            symlink("f/dangling", "../nowhere"),
            symlink("f/up", "../../../../f/dir"),
        ])
        .build();
    for (code, file, words) in [
        (2, "/f/dir", &["/f/dir is a directory, not a regular file"][..]),
        (2, "/f/up", &["directory"]),
        (2, "/", &["directory"]),
        (2, "/f/null", &["device"]),
        (2, "/f/fifo", &["named pipe"]),
        (5, "/f/script", &["script", "#!/bin/sh"]),
        (5, "/f/text", &["ELF"]),
        (5, "/f/empty", &["ELF"]),
        (5, "/f/short", &["ELF"]),
        (5, "/f/mach-o", &["ELF"]),
        (5, "/f/arm64", &["amd64"]),
        (5, "/f/loop", &["symbolic links"]),
        (3, "/f/dangling", &["leads nowhere", "../nowhere"]),
    ] {
        let said = refused(code, &[file, "linux/amd64"], &image, ["--file", file]);
        assert!(words.iter().all(|word| said.stderr.contains(word)), "{said:#?}");
    }
}

// The registry.

#[test]
fn a_wrong_password_is_denied_and_not_shown() {
    let registry = Registry::with(Auth::Basic("user", "right-secret"));
    let scene = Scene::new();
    Image::kong().build().push(&registry, "kong", "3.9");
    let name = format!("{}/kong:3.9", registry.host());
    let login = |password: &str| {
        let path = scene.path("auth.json");
        let entry = format!(r#"{{"username":"user","password":"{password}"}}"#);
        fs::write(&path, format!(r#"{{"auths":{{"{}":{entry}}}}}"#, registry.host())).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let to = scene.reference("dst:out");
    let said = fails(4, &[&registry.host()], ["patch", &name, &to, "--authfile", &login("wrong-secret"), "-vv"]);
    assert!(!said.stderr.contains("wrong-secret") && said.hint().is_some(), "{said:#?}");
    let said = fails(4, &[&registry.host()], ["patch", &name, &to]);
    assert!(said.hint().is_some(), "{said:#?}");
    assert!(!scene.path("dst").exists());
    let (right, low) = (login("right-secret"), format!("{}/kong:low", registry.host()));
    let said = ok(["patch", &name, &low, "--authfile", &right, "-vv"]);
    assert!(!said.stderr.contains("right-secret") && !said.stderr.contains("Basic "), "{said:#?}");
    fails(2, &["no such file"], ["patch", &name, &low, "--auth-file", "/does/not/exist"]);
}

#[test]
fn a_registry_that_is_down_is_named() {
    let scene = Scene::new();
    let source = scene.source(&Image::kong().build());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let down = format!("127.0.0.1:{port}/kong:3.9");
    let said = fails(
        1,
        &[&format!("127.0.0.1:{port}"), "cannot connect", "refused"],
        ["patch", &down, &scene.reference("dst:out")],
    );
    assert_eq!(said.stderr.matches(&down).count(), 1, "{said:#?}");
    fails(1, &["cannot connect"], ["patch", &source, &down]);
    assert!(!scene.path("dst").exists());
}

// A33, A37
#[test]
fn a_helper_that_fails_is_not_no_credentials() {
    // Everybody would get in without.
    let registry = Registry::with(Auth::Bearer(Bearer { public: true, ..Bearer::default() }));
    let scene = Scene::new();
    Image::kong().build().push(&registry, "kong", "3.9");
    let (auth, name) = (scene.path("auth.json"), format!("{}/kong:3.9", registry.host()));
    fs::write(&auth, format!(r#"{{"credHelpers":{{"{}":"keychain"}}}}"#, registry.host())).unwrap();
    let helper = scene.path("bin/docker-credential-keychain");
    fs::create_dir(scene.path("bin")).unwrap();
    for script in [None, Some("#!/bin/sh\necho hunter2; echo hunter2 >&2; exit 1\n"), Some("#!/bin/sh\necho hunter2\n")]
    {
        if let Some(script) = script {
            fs::write(&helper, script).unwrap();
            fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = capatch(["inspect", &name, "-vv", "--json", "--auth-file"]);
        command.arg(&auth).env("PATH", format!("{}:/usr/bin:/bin", scene.path("bin").display()));
        let said = start(command);
        assert!(said.code == 1 && said.stderr.contains("docker-credential-keychain"), "{said:#?}");
        assert!(!said.stderr.contains("hunter2") && !said.stdout.contains("hunter2"), "{said:#?}");
        assert_eq!(registry.count("GET", "/token"), 0);
    }
}

#[test]
fn a_registry_that_serves_other_bytes_is_refused() {
    let index = |child: &Content| Index::new().platform(child, "amd64").build();
    let image = Image::kong().build();
    let content = index(&image);
    for (what, path) in [("layer", image.layer(1)), ("config", image.config()), ("manifest", image.digest.clone())] {
        let (registry, scene) = (Registry::start(), Scene::new());
        content.push(&registry, "kong", "3.9");
        let from = format!("{}/kong:3.9", registry.host());
        let digest = path.clone();
        registry.fault(move |r, real| {
            r.is("GET", &path).then(|| {
                let mut reply = real();
                let at = reply.body.len() / 2;
                reply.body[at] ^= 1;
                reply
            })
        });
        let said = fails(5, &[&digest], ["patch", &from, &scene.reference("dst:out")]);
        assert!(!scene.path("dst/index.json").exists(), "{what}: {said:#?}");
        whole(&scene.path("dst"));
        fails(5, &[&digest], ["patch", &from, &format!("{}/kong:low", registry.host())]);
        assert_eq!(registry.tag("kong", "low"), None);
        fails(5, &[&digest], ["verify", &from]);
    }
}

#[test]
fn a_base_layer_that_changes_on_its_way_is_not_published() {
    // Nobody reads it to find nginx; it is only copied.
    let (registry, scene) = (Registry::start(), Scene::new());
    let image = Image::kong().build();
    image.push(&registry, "kong", "3.9");
    let base = image.layer(0);
    let path = base.clone();
    registry.fault(move |r, real| {
        r.is("GET", &path).then(|| {
            let mut reply = real();
            reply.body[20] ^= 1;
            reply
        })
    });
    let from = format!("{}/kong:3.9", registry.host());
    fails(5, &[&base], ["patch", &from, &scene.reference("dst:out")]);
    assert!(registry.count("GET", &base) <= 2, "it is not asked for again and again");
    assert!(!scene.path("dst/index.json").exists());
    whole(&scene.path("dst"));
    let other = Registry::start();
    fails(5, &[&base], ["patch", &from, &format!("{}/kong:low", other.host())]);
    assert_eq!((other.tag("kong", "low"), other.blob("kong", &base.parse().unwrap())), (None, None));
}

#[test]
fn answers_that_are_no_manifests_are_refused() {
    let registry = Registry::start();
    let scene = Scene::new();
    for (body, media_type) in [
        ("<html>login</html>", "text/html"),
        ("", OCI_MANIFEST),
        ("null", OCI_MANIFEST),
        ("{}", OCI_MANIFEST),
        ("[]", OCI_INDEX),
        (r#"{"schemaVersion":2,"manifests":[]}"#, OCI_INDEX),
        (r#"{"schemaVersion":2,"mediaType":"text/plain","manifests":[]}"#, OCI_INDEX),
        (r#"{"schemaVersion":1,"fsLayers":[]}"#, "application/vnd.docker.distribution.manifest.v1+json"),
    ] {
        registry.fault(move |r, _| {
            r.is("GET", "/manifests/").then(|| Reply::new(200).header("content-type", media_type).body(body))
        });
        fails(5, &[&registry.host()], ["patch", &format!("{}/kong:3.9", registry.host()), &scene.reference("dst:out")]);
        assert!(!scene.path("dst/index.json").exists());
    }
}

// Blobs that are what their digest says, and wrong all the same.

/// An image of one layer whose blob is `blob`, though its config says that the layer is `tar`.
fn image_with(tar: Vec<u8>, blob: Vec<u8>) -> Content {
    let content = Image::empty().packed(tar, Packing::Plain).build();
    let old = content.layer(0);
    let size = content.blobs[&old].len();
    let text = String::from_utf8(content.bytes().to_vec()).unwrap();
    let of = |digest: &str, size: usize| format!(r#""digest":"{digest}","size":{size}"#);
    let text = text.replace(&of(&old, size), &of(Digest::of(&blob).as_str(), blob.len()));
    let mut content = content;
    content.blobs.remove(&old);
    content.blob("", blob);
    content.manifest(OCI_MANIFEST, text.into_bytes());
    content
}

fn nginx_tar() -> Vec<u8> {
    tar::tar(&[dir("usr"), dir("opt"), file("opt/nginx", elf::amd64()), file("opt/last", vec![7; 2000])])
}

const FILE: [&str; 2] = ["--file", "/opt/nginx"];

/// A layer of these bytes is refused, by `patch` and by `verify`.
#[track_caller]
fn refused_tar(words: &[&str], tar: &[u8]) {
    refused_blob(words, tar, Packing::Gzip.pack(tar));
}

#[track_caller]
fn refused_blob(words: &[&str], tar: &[u8], blob: Vec<u8>) {
    let content = image_with(tar.to_vec(), blob);
    refused(5, words, &content, FILE);
    let scene = Scene::new();
    fails(5, words, ["verify", &scene.source(&content)]);
    fails(5, words, ["getcap", &scene.reference("src:3.9")]);
}

#[test]
fn a_truncated_layer_is_refused() {
    let tar = nginx_tar();
    for packing in [Packing::Gzip, Packing::Zstd, Packing::Members(1024)] {
        let blob = packing.pack(&tar);
        for cut in [1, 8, blob.len() / 2, blob.len() - 3] {
            refused_blob(&["layer 1"], &tar, blob[..blob.len() - cut].to_vec());
        }
    }
    refused_blob(&["layer 1"], &tar, tar[..tar.len() / 2].to_vec());
    refused_blob(&["layer 1"], &tar, Vec::new());
    for cut in [1, 512, 1024, 2000, 3000] {
        let tar = &tar[..tar.len() - 1024 - cut];
        refused_tar(&["layer 1"], tar);
    }
}

#[test]
fn something_behind_the_end_of_a_layer_is_refused() {
    let tar = nginx_tar();
    let blob = Packing::Gzip.pack(&tar);
    refused_blob(&["layer 1"], &tar, [&blob[..], b"garbage"].concat());
    refused_blob(&["layer 1"], &tar, [&blob[..], &blob[..9]].concat());
    refused_tar(&["layer 1"], &[&tar[..], &tar::tar(&[file("evil", "x")])].concat());
}

/// gzip(1) ignores it, and container engines do not.
#[test]
fn padding_behind_a_layer_is_found() {
    let tar = nginx_tar();
    let mut blob = Packing::Gzip.pack(&tar);
    blob.extend([0; 512]);
    let scene = Scene::new();
    let (source, result) = (scene.source(&image_with(tar, blob)), scene.reference("dst:out"));
    let words = "NUL bytes follow the gzip data";
    let said = run(["verify", &source]);
    assert!(said.code == 8 && said.stdout.contains(&format!("FINDING: linux/amd64: layer 1: {words}")), "{said:#?}");
    assert!(ok(["patch", &source, &result, "--file", "/opt/nginx"]).stderr.contains(words));
    assert!(ok(["getcap", &source]).stderr.contains(words));
}

#[test]
fn unknown_compression_is_refused_by_name() {
    let tar = nginx_tar();
    for (name, magic) in [("xz", &b"\xfd7zXZ\0"[..]), ("bzip2", b"BZh9"), ("lz4", b"\x04\x22\x4d\x18")] {
        refused_blob(&[name], &tar, [magic, &[0; 600]].concat());
    }
    refused_blob(&["layer 1"], &tar, b"neither tar nor compressed ".repeat(40));
}

#[test]
fn how_to_unpack_an_archive_that_is_compressed_with_something_else_is_told() {
    let scene = Scene::new();
    let archive = scene.path("a.tar");
    for (magic, unpacker) in [(&b"BZh9"[..], "bunzip2"), (b"\x04\x22\x4d\x18", "lz4 -dc"), (b"LZIP", "lzip -dc")] {
        fs::write(&archive, [magic, &[0; 600]].concat()).unwrap();
        let said =
            run(["inspect", &format!("docker-archive:{}", archive.display())]).failed(5, &["not an image archive"]);
        let hint = format!("unpack it on the way: {unpacker} < FILE | capatch … oci-archive:-");
        assert_eq!(said.hint(), Some(hint.as_str()));
    }
}

#[test]
fn the_version_is_that_of_the_whole_program() {
    let version = concat!("capatch ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!([ok(["-V"]).stdout, ok(["--version"]).stdout], [version, version]);
    fails(2, &["unexpected argument '-V'"], ["patch", "-V"]);
}

#[test]
fn quiet_leaves_the_result_on_stdout_and_only_errors_on_stderr() {
    let scene = Scene::new();
    let image = Image::kong().build();
    let source = scene.source(&Index::new().platform(&image, "amd64").attestation(&image.digest).build());
    let to = scene.reference("dst:1");
    let said = ok(["patch", &source, &to, "--dry-run"]);
    assert!(said.stderr.contains("note: "), "{said:#?}");
    let quiet = ok(["patch", &source, &to, "--dry-run", "-q"]);
    assert_eq!((quiet.stdout, quiet.stderr.as_str()), (said.stdout, ""));
    fails(3, &["does not exist"], ["patch", "-q", &scene.reference("nothing:1"), &to]);
    assert!(ok(["patch", "--help"]).stdout.contains("Nothing on stderr but errors"));
}

#[test]
fn a_layer_that_is_another_is_refused() {
    let other = Packing::Gzip.pack(&tar::tar(&[file("opt/nginx", elf::amd64())]));
    refused_blob(&["the image's config says"], &nginx_tar(), other);
}

// Archives.

fn works(tar: Vec<u8>) {
    let scene = Scene::new();
    scene.patched(&Image::empty().packed(tar, Packing::Gzip).build(), FILE);
    assert_eq!(ok(["getcap", &scene.reference("dst:out")]).stdout, "/opt/nginx cap_net_bind_service=ep\n");
}

#[test]
fn a_newline_in_an_attribute_is_no_end_of_it() {
    works(tar::tar(&[
        dir("opt").xattr("user.x", b"1\n2\n\n"),
        file("opt/nginx", elf::amd64()),
        file("opt/x", "").xattr("user.y", b"\n"),
    ]));
}

#[test]
fn a_smuggled_path_or_link_is_part_of_the_value() {
    let smuggled =
        [b"x\n".to_vec(), tar::record(b"linkpath", b"/opt/evil"), tar::record(b"path", b"opt/evil")].concat();
    let tar = tar::tar(&[
        dir("opt"),
        file("opt/real", elf::amd64()),
        file("opt/evil", "#!/bin/sh\n"),
        symlink("opt/nginx", "real").xattr("user.x", &smuggled),
    ]);
    let scene = Scene::new();
    let opened = scene.patched(&Image::empty().packed(tar, Packing::Gzip).build(), FILE);
    assert_eq!(opened.top_layer().last().unwrap().path, "opt/real");
    // Of two real records the last counts, as POSIX says.
    let tar = tar::tar(&[
        dir("opt"),
        file("opt/real", elf::amd64()),
        symlink("opt/nginx", "evil").pax("linkpath", b"evil").pax("linkpath", b"real"),
    ]);
    let scene = Scene::new();
    let opened = scene.patched(&Image::empty().packed(tar, Packing::Gzip).build(), FILE);
    assert_eq!(opened.top_layer().last().unwrap().path, "opt/real");
}

#[test]
fn sizes_that_lie_are_refused() {
    let program = elf::amd64();
    let nginx = || file("opt/nginx", program.clone());
    let size = program.len();
    // The record counts, so the header may say anything.
    works(tar::tar(&[dir("opt"), nginx().size(0).pax("size", size.to_string().as_bytes())]));
    for lie in [size + 512, size + 100_000, 1 << 40] {
        let nginx = nginx().pax("size", lie.to_string().as_bytes());
        refused_tar(&["layer 1"], &tar::tar(&[dir("opt"), nginx, file("opt/x", vec![7; 600])]));
    }
    for lie in ["-1", "+3", "1e3", "1.0", "18446744073709551616", "9223372036854775808", "0x10"] {
        refused_tar(&["layer 1"], &tar::tar(&[dir("opt"), nginx().pax("size", lie.as_bytes())]));
    }
    refused_tar(&["layer 1"], &tar::tar(&[dir("opt"), nginx(), file("opt/x", "").size(1 << 33)]));
    // An empty record takes back what was said, as POSIX says.
    works(tar::tar(&[dir("opt"), nginx().pax("size", b"1").pax("size", b"")]));
    // What one reader takes for content, another would take for an entry.
    let inner = tar::unfinished(&[file("opt/nginx", b"#!/bin/evil".to_vec())]);
    works(tar::tar(&[
        dir("opt"),
        nginx(),
        file("opt/z", inner.clone()).size(0).pax("size", inner.len().to_string().as_bytes()),
    ]));
}

#[test]
fn broken_records_and_headers_are_refused() {
    let pax = |records: &[u8]| {
        let mut header = tar::unfinished(&[file("x", records.to_vec()).kind(b'x')]);
        header.extend(tar::tar(&[file("opt/nginx", elf::amd64())]));
        header
    };
    for bad in [
        &b"12 path=x\n"[..],
        b"9 path=xx\n",
        b"0 a=b\n",
        b"99 path=x\n",
        b"path=x\n",
        b" 10 path=x\n",
        b"8 pathx\n",
        b"+11 path=x\n",
        b"9 path=xy",
        b"11 path=a\0b\n",
        b"12 mtime=abc\n",
        b"9 uid=-1\n",
        b"5 =x\n",
    ] {
        refused_tar(&["layer 1"], &pax(bad));
    }
    let good = nginx_tar();
    for at in [0, 100, 148, 156, 512, 1024 + 124] {
        let mut bad = good.clone();
        bad[at] ^= 0x15;
        refused_tar(&["layer 1"], &bad);
    }
    let mut huge = tar::unfinished(&[file("x", "").kind(b'x').size(1 << 36)]);
    huge.extend(&good);
    refused_tar(&["layer 1"], &huge);
    let mut dangling = tar::unfinished(&[file("x", tar::record(b"path", b"y")).kind(b'x')]);
    dangling.extend([0; 1024]);
    refused_tar(&["layer 1"], &dangling);
}

#[test]
fn a_sparse_program_is_refused_and_other_sparse_files_do_not_matter() {
    let sparse = |path: &str| {
        let map = b"1\n0\n187\n".to_vec();
        let mut content = map;
        content.resize(512, 0);
        content.extend(elf::amd64());
        file(path, content)
            .pax("GNU.sparse.major", b"1")
            .pax("GNU.sparse.minor", b"0")
            .pax("GNU.sparse.realsize", b"187")
    };
    let content = Image::empty().layer([dir("opt"), sparse("opt/nginx")]).build();
    let said = refused(5, &["/opt/nginx", "sparse"], &content, FILE);
    assert!(said.hint().unwrap().contains("without"), "{said:#?}");
    let old = Image::empty().layer([dir("opt"), file("opt/nginx", elf::amd64()).kind(b'S')]).build();
    refused(5, &["/opt/nginx", "sparse"], &old, FILE);
    works(tar::tar(&[dir("opt"), file("opt/nginx", elf::amd64()), sparse("opt/data")]));
}

/// Container engines stop at a type that they do not know, and others read it as a regular file.
#[test]
fn entries_of_unknown_types_are_refused() {
    for kind in *b"78AVMDN" {
        let unknown = file("etc/x", "").kind(kind);
        let image = Image::empty().layer([dir("opt"), file("opt/nginx", elf::amd64())]).layer([unknown]).build();
        let words = format!("/etc/x has the tar type '{}'", char::from(kind));
        refused(5, &[&words], &image, FILE);
        let scene = Scene::new();
        let source = scene.source(&image);
        fails(5, &[&words], ["getcap", &source]);
        fails(5, &[&words], ["verify", &source]);
    }
}

#[test]
fn links_that_lead_astray_are_refused() {
    let layer = |entries: &[tar::Entry]| Image::empty().layer(entries).build();
    refused(5, &["hard link"], &layer(&[dir("opt"), hard_link("opt/nginx", "opt/nowhere")]), FILE);
    refused(5, &["hard link"], &layer(&[dir("opt"), hard_link("opt/nginx", "opt")]), FILE);
    refused(5, &["opt/nginx"], &layer(&[dir("opt"), hard_link("opt/nginx", "opt/nginx")]), FILE);
    // Unpackers remove what is there, and then have nothing to link to.
    let itself = [dir("opt"), file("opt/nginx", elf::amd64()), hard_link("opt/nginx", "./opt/nginx")];
    let above =
        [dir("opt"), dir("opt/nginx"), file("opt/nginx/x", elf::amd64()), hard_link("opt/nginx", "opt/nginx/x")];
    for image in [layer(&itself), layer(&above)] {
        refused(5, &["/opt/nginx is a hard link to", "which it replaces itself"], &image, FILE);
        let scene = Scene::new();
        fails(5, &["which it replaces itself"], ["verify", &scene.source(&image)]);
    }
    let links: Vec<_> = (0..60).map(|i| symlink(&format!("opt/{i}"), &format!("{}", i + 1))).collect();
    refused(5, &["symbolic links"], &layer(&links), ["--file", "/opt/0"]);
    // A root of its own: nothing leads out of it.
    let scene = Scene::new();
    let up = Image::empty().layer([
        dir("opt"),
        file("opt/real", elf::amd64()),
        symlink("opt/nginx", "../../../../../opt/real"),
    ]);
    assert_eq!(scene.patched(&up.build(), FILE).top_layer().last().unwrap().path, "opt/real");
}

#[test]
fn broken_capabilities_are_refused_with_the_file() {
    for value in [
        &b""[..],
        b"\x01",
        &[0; 20],
        &caps(1, true)[..19],
        &[caps(1, true), vec![0]].concat(),
        &[0xff; 20],
        b"\0\0\0\x04aaaaaaaaaaaaaaaa",
        // Revision 1, which Linux stored until 4.14; and revision 3 for the user that is none.
        b"\x01\0\0\x01\0\x04\0\0\0\0\0\0",
        &caps_of(1, u32::MAX),
    ] {
        let content = Image::empty()
            .layer([dir("opt"), file("opt/nginx", elf::amd64()).xattr("security.capability", value)])
            .build();
        refused(5, &["/opt/nginx"], &content, FILE);
        let scene = Scene::new();
        fails(5, &["/opt/nginx"], ["getcap", &scene.source(&content)]);
    }
}

// Documents.

/// A single image with its manifest and config changed as text.
fn altered(manifest: impl Fn(String) -> String, config: impl Fn(String) -> String) -> Content {
    let mut content = Image::kong().build();
    let old = content.config();
    let before = content.blobs.remove(&old).unwrap();
    let after = config(String::from_utf8(before.clone()).unwrap()).into_bytes();
    let of = |bytes: &[u8]| format!(r#""digest":"{}","size":{}"#, Digest::of(bytes), bytes.len());
    let text = String::from_utf8(content.bytes().to_vec()).unwrap().replace(&of(&before), &of(&after));
    content.blob("", after);
    content.manifest(OCI_MANIFEST, manifest(text).into_bytes());
    content
}

fn same(text: String) -> String {
    text
}

#[test]
fn configs_that_do_not_fit_are_refused() {
    let swap = |from: &'static str, to: &'static str| {
        altered(same, move |text| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1)
        })
    };
    for (from, to, words) in [
        (r#""type":"layers""#, r#""type":"other""#, &["rootfs"][..]),
        (r#""rootfs""#, r#""rootfs2""#, &["rootfs"]),
        (
            r#""diff_ids":["#,
            r#""diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000","#,
            &["3 layers", "4 diff IDs"],
        ),
        (r#""diff_ids":["#, r#""diff_ids":["sha256:../../etc/passwd","#, &["digest"]),
        (r#""empty_layer":true"#, r#""empty_layer":false"#, &["history"]),
        (r#""os":"linux""#, r#""os":"linux","os":"linux""#, &["os"]),
        (r#""os":"linux""#, r#""os":"linux","OS":"windows""#, &["OS"]),
        (r#""os":"linux","#, "", &["'os'"]),
        (r#""os":"linux""#, r#""os":"windows""#, &["Linux"]),
        (r#""ExposedPorts":{"#, r#""ExposedPorts":[{"#, &["config"]),
        ("{", "{,", &["config"]),
    ] {
        let content = swap(from, to);
        let said = refused(5, words, &content, []);
        assert!(!said.stderr.contains("src:3.9: src:3.9"), "{said:#?}");
    }
    refused(5, &["config"], &altered(same, |text| format!("{text}x")), []);
    refused(5, &["config"], &altered(same, |text| format!("\u{feff}{text}")), []);
    refused(5, &["config"], &altered(same, |_| "[".repeat(100_000)), []);
    refused(5, &["config"], &altered(same, |_| String::new()), []);
    refused(5, &["limit"], &altered(same, |text| format!("{text}{}", " ".repeat(5 << 20))), []);
}

// faults.md C22, H13
#[test]
fn a_history_that_does_not_fit_stops_a_patch_alone() {
    let scene = Scene::new();
    let content = altered(same, |text| text.replacen(r#""empty_layer":true"#, r#""empty_layer":false"#, 1));
    let source = scene.source(&content);
    for command in ["inspect", "getcap", "doctor"] {
        assert!([0, 8].contains(&run([command, &source]).code), "{command}");
    }
    ok(["copy", &source, &scene.reference("copied:1")]);
    let said = run(["verify", &source]);
    assert!(said.code == 8 && said.stdout.contains("3 layers, its config's history 4"), "{said:#?}");
    let said = refused(5, &["history 4"], &content, []);
    assert!(said.hint().is_some(), "{said:#?}");
}

// RFC 8259 §6, §8.2
#[test]
fn what_no_type_of_ours_could_hold_keeps_its_bytes() {
    let scene = Scene::new();
    let members = r#""x-number":1e400,"x-text":"\ud800","x-list":[null,"\udc00"],"#;
    let content = altered(same, |text| {
        let text = text.replacen('{', &format!("{{{members}"), 1);
        text.replacen(r#""Env":["#, r#""Env":[null,"#, 1)
    });
    let (source, to) = (scene.source(&content), scene.reference("dst:1"));
    ok(["patch", &source, &to]);
    prove(&to, &source);
    for command in ["inspect", "doctor"] {
        assert!([0, 8].contains(&run([command, &to]).code), "{command}");
    }
    let blobs =
        fs::read_dir(scene.path("dst/blobs/sha256")).unwrap().map(|blob| fs::read(blob.unwrap().path()).unwrap());
    let kept = blobs.filter(|blob| blob.windows(members.len()).any(|window| window == members.as_bytes())).count();
    assert_eq!(kept, 1, "the new config");
}

#[test]
fn manifests_that_are_ambiguous_or_lie_are_refused() {
    let swap = |from: &'static str, to: &'static str| {
        altered(
            move |text| {
                assert!(text.contains(from), "{from}");
                text.replacen(from, to, 1)
            },
            same,
        )
    };
    for (from, to, words) in [
        (r#""schemaVersion":2"#, r#""schemaVersion":2,"manifests":[]"#, &["ambiguous"][..]),
        (r#""schemaVersion":2"#, r#""schemaVersion":2,"Layers":[]"#, &["Layers"]),
        (r#""schemaVersion":2"#, r#""schemaVersion":2,"schemaVersion":2"#, &["schemaVersion"]),
        (r#""schemaVersion":2"#, r#""schemaVersion":1"#, &["schemaVersion"]),
        (r#""layers":["#, r#""layers":[{},"#, &["layers[0]"]),
        (r#""size":"#, r#""size":-"#, &["size"]),
        (r#""size":"#, r#""size":1.0,"x":"#, &["size"]),
        (r#""size":"#, r#""size":9223372036854775808,"x":"#, &["size"]),
        (r#""digest":"sha256:"#, r#""digest":"sha256:../../"#, &["digest"]),
        (r#""digest":"sha256:"#, r#""digest":"md5:"#, &["md5"]),
        (
            r#""mediaType":"application/vnd.oci.image.manifest.v1+json""#,
            r#""mediaType":"application/vnd.docker.distribution.manifest.v2+json""#,
            &["calls itself"],
        ),
        (
            r#"application/vnd.oci.image.config.v1+json"#,
            "application/vnd.cncf.helm.config.v1+json",
            &["no container image"],
        ),
    ] {
        refused(5, words, &swap(from, to), []);
    }
    refused(5, &[], &altered(|text| text.replacen('{', "[", 1), same), []);
}

#[test]
fn a_size_that_is_not_the_blob_s_is_refused() {
    let image = Image::kong().build();
    for (digest, words) in [(image.config(), "config"), (image.layer(1), "layer 2"), (image.layer(0), "")] {
        let size = image.blobs[&digest].len();
        for lie in [size - 1, size + 1, 1] {
            let from = format!(r#""digest":"{digest}","size":{size}"#);
            let to = format!(r#""digest":"{digest}","size":{lie}"#);
            let content = altered(move |text| text.replace(&from, &to), same);
            let scene = Scene::new();
            let source = scene.source(&content);
            fails(5, &[words, &digest], ["patch", &source, &scene.reference("dst:out")]);
            assert!(!scene.path("dst/index.json").exists());
            whole(&scene.path("dst"));
            fails(5, &[&digest], ["verify", &source]);
        }
    }
}

#[test]
fn an_index_nested_too_deep_is_refused() {
    let mut index = Index::new().platform(&Image::kong().build(), "amd64").build();
    for _ in 0..10 {
        index = Index::new().child(&index, "").build();
    }
    let said = refused(5, &["indexes are nested deeper than 8 levels"], &index, []);
    assert!(said.hint().unwrap().contains("--max-depth"));
}

#[test]
fn an_index_that_names_a_missing_manifest_is_refused() {
    let image = Image::kong().build();
    let mut index = Index::new().platform(&image, "amd64").build();
    index.manifests.remove(&image.digest);
    refused(3, &[&image.digest], &index, []);
    refused(5, &["no container image"], &Index::new().attestation(&image.digest).build(), []);
}

#[test]
fn a_broken_layout_is_no_empty_one() {
    for broken in [
        "",
        "null",
        "{",
        "<html>",
        "{}",
        r#"{"manifests":null}"#,
        r#"{"manifests":[{}]}"#,
        r#"{"manifests":[],"manifests":[]}"#,
    ] {
        let scene = Scene::new();
        let source = scene.source(&Image::kong().build());
        Image::kong_arm64().build().write(&scene.path("dst"), "precious");
        fs::write(scene.path("dst/index.json"), broken).unwrap();
        fails(5, &["index.json"], ["patch", &source, &scene.reference("dst:out")]);
        fails(5, &["index.json"], ["patch", &source, &scene.reference("dst:out"), "--force"]);
        fails(5, &["index.json"], ["patch", &scene.reference("dst:precious"), &scene.reference("new:out")]);
        fails(5, &["index.json"], ["verify", &scene.reference("dst:precious")]);
        assert_eq!(fs::read_to_string(scene.path("dst/index.json")).unwrap(), broken);
        assert!(!scene.path("new").exists());
        whole(&scene.path("dst"));
    }
    for marker in ["", "{}", r#"{"imageLayoutVersion":"2.0.0"}"#] {
        let scene = Scene::new();
        let source = scene.source(&Image::kong().build());
        fs::write(scene.path("src/oci-layout"), marker).unwrap();
        fails(5, &["src"], ["patch", &source, &scene.reference("dst:out")]);
    }
    let scene = Scene::new();
    let source = scene.source(&Image::kong().build());
    Image::kong_arm64().build().write(&scene.path("other"), "1");
    let index = fs::read(scene.path("src/index.json")).unwrap();
    fs::remove_file(scene.path("src/oci-layout")).unwrap();
    let words = ["src", "has an index.json but no oci-layout file"];
    fails(5, &words, ["patch", &source, &scene.reference("dst:out")]);
    fails(5, &words, ["copy", &scene.reference("other:1"), &scene.reference("src:out")]);
    assert_eq!(fs::read(scene.path("src/index.json")).unwrap(), index);
    assert!(!scene.path("src/oci-layout").exists());
}

#[test]
fn a_directory_with_other_things_is_not_written_to() {
    let scene = Scene::new();
    let source = scene.source(&Image::kong().build());
    fs::create_dir(scene.path("home")).unwrap();
    fs::write(scene.path("home/precious"), "x").unwrap();
    fails(7, &["not empty and not an OCI layout"], ["patch", &source, &scene.reference("home:out")]);
    fails(7, &["not empty and not an OCI layout"], ["patch", &source, &scene.reference("home:out"), "--force"]);
    assert_eq!(fs::read_dir(scene.path("home")).unwrap().count(), 1);
    fs::write(scene.path("file"), "x").unwrap();
    let said = run(["patch", &source, &scene.reference("file:out")]);
    assert!(said.code != 0 && said.stderr.contains("file"), "{said:#?}");
    assert_eq!(fs::read(scene.path("file")).unwrap(), b"x");
}

// faults.md C7, C17
#[test]
fn manifests_that_are_too_large_or_too_many_are_refused() {
    let image = Image::kong().build();
    let mut large = image.clone();
    let text = String::from_utf8(image.bytes().to_vec()).unwrap();
    large.manifest(OCI_MANIFEST, format!("{text}{}", " ".repeat(4 << 20)).into_bytes());
    let words = [&large.digest, "bytes, the limit is 4 MiB"];
    refused(5, &words, &large, []);
    refused(5, &words, &Index::new().platform(&large, "amd64").build(), []);
    let empty = Index::new().build();
    let many = (0..3300).fold(Index::new().platform(&image, "amd64"), |index, _| index.child(&empty, ""));
    refused(5, &["the manifests take more than 64 MiB of memory"], &many.build(), []);
}

// faults.md C8
#[test]
fn a_manifest_that_the_patch_makes_too_large_is_not_begun_with() {
    let image = Image::kong().build();
    let room = (4 << 20) - image.bytes().len() - 100;
    let padded = altered(
        move |text| text.replacen('{', &format!(r#"{{"annotations":{{"x":"{}"}},"#, "y".repeat(room)), 1),
        same,
    );
    let registry = Registry::start();
    padded.push(&registry, "kong", "3.9");
    registry.clear_log();
    let from = format!("{}/kong:3.9", registry.host());
    let words = ["the new manifest has", "bytes, the limit is 4 MiB"];
    fails(5, &words, ["patch", &from, &format!("{}/kong:low", registry.host())]);
    assert!(registry.log().iter().all(|r| matches!(r.method.as_str(), "GET" | "HEAD")), "{:?}", registry.lines());
}

// faults.md C6
#[test]
fn a_size_that_is_not_the_manifest_s_is_refused() {
    let (registry, image) = (Registry::start(), Image::kong().build());
    let index = Index::new().platform(&image, "amd64").build();
    let size = format!(r#""size":{}"#, image.bytes().len());
    for lie in [image.bytes().len() - 1, image.bytes().len() + 1] {
        let mut index = index.clone();
        let text = String::from_utf8(index.bytes().to_vec()).unwrap();
        index.manifest(OCI_INDEX, text.replace(&size, &format!(r#""size":{lie}"#)).into_bytes());
        index.push(&registry, "kong", "3.9");
        let from = format!("{}/kong:3.9", registry.host());
        fails(5, &[&image.digest], ["patch", &from, &format!("{}/kong:low", registry.host())]);
        assert_eq!(registry.tag("kong", "low"), None);
    }
}

// The disk.

/// The command as somebody who may not write everywhere.
fn unprivileged(scene: &Scene, arguments: &[&str]) -> Run {
    fs::set_permissions(scene.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // A program that everybody can reach, whoever built it and wherever.
    let program = scene.path("capatch");
    // Not by us: another test might be forking while we have it open for writing.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_capatch")).arg(&program).status().unwrap().success());
    let root = fs::metadata("/proc/self").unwrap();
    let mut command = match std::os::unix::fs::MetadataExt::uid(&root) {
        0 => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=1000", "--regid=1000", "--clear-groups", "--"]).arg(program);
            command
        }
        _ => Command::new(program),
    };
    command.args(arguments).env("HOME", "/does/not/exist");
    start(command)
}

#[test]
fn a_read_only_destination_is_refused_before_anything_is_read() {
    let (scene, registry) = (Scene::new(), Registry::start());
    let image = Image::kong().build();
    image.push(&registry, "kong", "3.9");
    image.write(&scene.path("dst"), "precious");
    for path in ["dst", "dst/blobs", "dst/blobs/sha256"] {
        fs::set_permissions(scene.path(path), fs::Permissions::from_mode(0o555)).unwrap();
    }
    let from = format!("{}/kong:3.9", registry.host());
    let said = unprivileged(&scene, &["patch", &from, &scene.reference("dst:out")]).failed(4, &["cannot write", "dst"]);
    assert!(said.stderr.contains("ermission denied"), "{said:#?}");
    assert!(said.hint().unwrap().contains("that you may write to"), "{said:#?}");
    let archive = format!("oci-archive:{}:1", scene.path("dst/a.tar").display());
    let said = unprivileged(&scene, &["copy", &from, &archive]).failed(4, &["cannot write", "a.tar"]);
    assert!(said.hint().unwrap().contains("that you may write to"), "{said:#?}");
    assert_eq!(registry.count("GET", "/blobs/"), 0);
    unprivileged(&scene, &["patch", &from, &scene.reference("new/dst:out")]).failed(4, &["cannot write", "new"]);
    whole(&scene.path("dst"));
    for read in ["verify", "getcap", "inspect"] {
        unprivileged(&scene, &[read, &scene.reference("dst:precious")]).succeeded();
    }
    unprivileged(&scene, &["patch", &scene.reference("dst:precious"), &scene.reference("dst:out"), "--dry-run"])
        .succeeded();
}

#[test]
fn a_layout_that_may_not_be_read_is_denied() {
    let scene = Scene::new();
    let image = Image::kong().build();
    let source = scene.source(&image);
    fs::set_permissions(scene.path("src/blobs/sha256").join(hex(&image.layer(1))), fs::Permissions::from_mode(0o0))
        .unwrap();
    unprivileged(&scene, &["verify", &source]).failed(4, &["ermission denied"]);
    fs::set_permissions(scene.path("src/index.json"), fs::Permissions::from_mode(0o0)).unwrap();
    unprivileged(&scene, &["verify", &source]).failed(4, &["index.json", "ermission denied"]);
}

/// Files may have so many blocks of 512 bytes.
fn with_file_limit(blocks: usize, arguments: &[&str]) -> Run {
    let mut command = Command::new("/bin/sh");
    let script = format!("ulimit -f {blocks}; exec \"$@\"");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_capatch")]).args(arguments).env_clear();
    start(command)
}

/// Bytes that no compression makes smaller.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    })
    .take(size)
    .collect()
}

#[test]
fn no_space_leaves_nothing_half_written() {
    let scene = Scene::new();
    let image = Image::empty()
        .layer([file("big", noise(100_000))])
        .layer([dir("opt"), file("opt/nginx", elf::amd64())])
        .build();
    let (source, to) = (scene.source(&image), scene.reference("dst:out"));
    Image::kong_arm64().build().write(&scene.path("dst"), "precious");
    let index = fs::read(scene.path("dst/index.json")).unwrap();
    let said = with_file_limit(16, &["patch", &source, &to, "--file", "/opt/nginx"])
        .failed(1, &["cannot write", "dst", "too large"]);
    assert!(said.stderr.contains(hex(&image.layer(0))) && !said.stderr.contains(".capatch-"), "{said:#?}");
    let size = image.blobs[&image.layer(0)].len();
    assert!(said.stderr.contains(&format!("{} of its {size} bytes are still to", size - 16 * 512)), "{said:#?}");
    assert!(said.hint().unwrap().contains("ulimit -f"), "{said:#?}");
    let archive = format!("oci-archive:{}:1", scene.path("a.tar").display());
    let said = with_file_limit(16, &["copy", &source, &archive]).failed(1, &["cannot write", "a.tar", "too large"]);
    assert!(!said.stderr.contains(".capatch-") && !scene.path("a.tar").exists(), "{said:#?}");
    let manifests = image.manifests.values().map(|(_, bytes)| bytes);
    let size: usize = image.blobs.values().chain(manifests).map(Vec::len).sum();
    assert!(said.stderr.contains(&format!("which has {size} bytes and some more")), "{said:#?}");
    assert_eq!(fs::read(scene.path("dst/index.json")).unwrap(), index);
    whole(&scene.path("dst"));
    ok(["patch", &source, &to, "--file", "/opt/nginx"]);
    prove(&to, &source);
}

#[test]
fn no_space_for_temporary_files_is_told_with_where_they_are() {
    let scene = Scene::new();
    let program = [elf::amd64(), noise(100_000)].concat();
    let image = Image::with_nginx(file(NGINX_ENTRY, program)).build();
    let source = scene.source(&image);
    let said = with_file_limit(16, &["patch", &source, &scene.reference("dst:out")]).failed(1, &["temporary file"]);
    assert!(said.hint().unwrap().contains("ulimit -f"), "{said:#?}");
    assert!(!scene.path("dst/index.json").exists());
    let mut command = capatch(["patch", &source, &scene.reference("dst:out")]);
    command.env("TMPDIR", scene.path("nowhere"));
    let said = start(command);
    assert!(said.code != 0 && said.stderr.contains("nowhere") && said.hint().unwrap().contains("TMPDIR"), "{said:#?}");
}

#[test]
fn a_digest_file_that_cannot_be_written_is_told() {
    let scene = Scene::new();
    let source = scene.source(&Image::kong().build());
    let out = scene.reference("dst:out");
    let full = run(["patch", &source, &out, "--digestfile", "/dev/full"]);
    assert_eq!(full.code, 1, "{full:#?}");
    assert!(full.stderr.contains("cannot write /dev/full") && !full.stderr.contains("TMPDIR"), "{full:#?}");
    assert!(full.stdout.contains("@sha256:"), "what was published is told: {full:#?}");
    fails(2, &["/nowhere/x"], ["patch", &source, &out, "--digestfile", "/nowhere/x"]);
}

// Who listens.

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let scene = Scene::new();
    let source = scene.source(&Image::kong().build());
    for (name, arguments) in [
        ("patch", ["patch", &source, &scene.reference("dst:out")]),
        ("verify", ["verify", &source, "-v"]),
        ("inspect", ["inspect", &source, "--json"]),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = capatch(arguments);
        command.stdout(writer).stderr(Stdio::piped());
        let said: Run = command.spawn().unwrap().wait_with_output().unwrap().into();
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{name}");
    }
    for (redirection, code) in [
        (">&-", 0),
        ("2>&-", 0),
        (">&- 2>&-", 0),
        ("<&- >&- 2>&-", 0),
        (">/dev/full", 1),
        (">/dev/full 2>&1", 1),
        ("2>/dev/full", 0),
    ] {
        for arguments in ["verify", "inspect --json", "getcap", "inspect"] {
            let mut command = Command::new("/bin/sh");
            command
                .args(["-c", &format!("exec \"$@\" {redirection}"), "sh", env!("CARGO_BIN_EXE_capatch")])
                .env_clear();
            let said = start({
                command.args(arguments.split(' ')).arg(&source);
                command
            });
            // There is nothing to print for an image without capabilities.
            let expected = if arguments == "getcap" { 0 } else { code };
            assert_eq!(said.code, expected, "{arguments} {redirection}: {said:#?}");
        }
        for arguments in ["--help", "patch --help", "--version"] {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &format!("exec \"$@\" {redirection}"), "sh", env!("CARGO_BIN_EXE_capatch")]);
            let said = start({
                command.args(arguments.split(' '));
                command
            });
            assert_eq!(said.code, code, "{arguments} {redirection}: {said:#?}");
        }
    }
}

#[test]
fn a_result_that_cannot_be_reported_is_an_error_though_it_is_there() {
    let scene = Scene::new();
    let source = scene.source(&Image::kong().build());
    let mut command = capatch(["patch", &source, &scene.reference("dst:out")]);
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    let said = start(command);
    assert!(said.code == 1 && said.stderr.contains("cannot write the result to stdout"), "{said:#?}");
    prove(&scene.reference("dst:out"), &source);
}

#[test]
fn a_version_that_cannot_be_printed_is_an_error_as_data() {
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", "/dev/null", "-e", "trace=write", "-e", "inject=write:error=ENOSPC:when=1"]);
    command.args([env!("CARGO_BIN_EXE_capatch"), "--json", "--version"]);
    let said = start(command);
    assert!(said.code == 1 && said.stderr.contains("cannot write the result to stdout"), "{said:#?}");
    let data: Value = serde_json::from_str(&said.stdout).unwrap();
    assert!(data["error"]["message"].as_str().unwrap().contains("cannot write the result"), "{said:#?}");
}

#[test]
fn help_and_version_are_no_errors_and_nothing_is_a_usage_error() {
    assert!(ok(["--help"]).stdout.contains("Exit codes"));
    assert!(ok(["--version"]).stdout.starts_with("capatch "));
    assert!(ok(["patch", "--help"]).stdout.contains("--dry-run"));
    fails(2, &["Usage"], []);
    fails(2, &["unexpected"], ["verify", "x", "y"]);
    let _: Value = serde_json::from_str(&run(["verify", "oci:/nowhere:1", "--json"]).stdout).unwrap();
}

// What is under way when it ends.

#[test]
fn one_failing_platform_ends_the_others_in_silence() {
    let mut slow = Image::kong();
    for i in 0..12 {
        slow = slow.layer([file(&format!("layer-{i}"), noise(50_000))]);
    }
    let broken = Image { architecture: "arm64".into(), ..Image::empty() }.layer([dir("usr")]).build();
    let index = Index::new().platform(&slow.build(), "amd64").platform(&broken, "arm64").build();
    let registry = Registry::start();
    index.push(&registry, "kong", "3.9");
    let config = broken.config();
    for delay in 0..25 {
        let config = config.clone();
        registry.fault(move |r, _| {
            if r.path.contains(&config) {
                std::thread::sleep(std::time::Duration::from_millis(delay));
            }
            None
        });
        let (from, to) = (format!("{}/kong:3.9", registry.host()), format!("{}/kong:low", registry.host()));
        let said = fails(3, &["linux/arm64: the image has no"], ["patch", &from, &to]);
        assert_eq!(said.stderr.lines().count(), 2, "{said:#?}");
    }
    assert_eq!(registry.tag("kong", "low"), None);
}

#[test]
fn a_stop_signal_keeps_what_has_arrived_of_large_blobs_and_nothing_else() {
    let (scene, registry) = (Scene::new(), Registry::start());
    let image = Image::kong().layer([file("big", noise(3_000_000))]).build();
    image.push(&registry, "kong", "3.9");
    // The first part of the small and of the large layer comes, and then nothing more.
    let (base, big) = (image.layer(0), image.layers().last().unwrap().clone());
    let parts = [(base.clone(), 50), (big.clone(), 2_000_000)];
    let parts =
        parts.map(|(path, arrived)| (path.clone(), image.blobs[&path][..arrived].to_vec(), image.blobs[&path].len()));
    let stalled = std::sync::Mutex::new(HashSet::new());
    registry.fault(move |r, _| {
        let (path, body, size) = parts.iter().find(|(path, ..)| r.is("GET", path))?;
        let reply = Reply::new(200).header("content-length", size).body(body.clone());
        stalled.lock().unwrap().insert(path.clone()).then(|| reply.ending(common::registry::Ending::Stalled))
    });
    let from = format!("{}/kong:3.9", registry.host());
    let mut command = heeding(&capatch(["copy", &from, &scene.reference("dst:out")]));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let unfinished = scene.path("dst").join(format!(".capatch-{}", big.replace(':', "-")));
    while !fs::metadata(&unfinished).is_ok_and(|m| m.len() >= 2_000_000) || registry.count("GET", &base) == 0 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(Command::new("/bin/kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let said: Run = child.wait_with_output().unwrap().into();
    assert!(said.code != 0 && said.stderr.contains("interrupted"), "{said:#?}");
    assert!(!scene.path("dst/index.json").exists());
    assert_eq!(leftovers(&scene.path("dst")), [unfinished]);
    ok(["copy", &from, &scene.reference("dst:out")]);
    let asked: Vec<_> = registry.log().into_iter().filter(|r| r.is("GET", &big)).collect();
    let size = image.blobs[&big].len();
    assert_eq!(asked.last().unwrap().header("range"), Some(format!("bytes=2000000-{}", size - 1).as_str()));
    whole(&scene.path("dst"));
}

/// A run that waits for an archive on standard input, and the end of that.
fn waiting(mut command: Command) -> (std::process::Child, std::process::ChildStdin) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let input = child.stdin.take().unwrap();
    // A thread other than the first blocks in read(2), which only input ends.
    let threads = format!("/proc/{0}/task", child.id());
    let reads = |task: fs::DirEntry| {
        let is_first = task.file_name().to_str() == Some(&child.id().to_string());
        !is_first && fs::read_to_string(task.path().join("wchan")).is_ok_and(|place| place.contains("pipe_read"))
    };
    let begin = std::time::Instant::now();
    while !fs::read_dir(&threads).unwrap().flatten().any(reads) {
        assert!(begin.elapsed().as_secs() < 60, "it does not read");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    (child, input)
}

#[track_caller]
fn send(signal: &str, child: &std::process::Child) {
    assert!(Command::new("/bin/kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

// G3
#[test]
fn a_second_signal_ends_it_at_once() {
    let scene = Scene::new();
    let to = scene.reference("dst:1");
    let run = |second: bool| {
        let (child, _input) = waiting(heeding(&capatch(["copy", "oci-archive:-", &to])));
        let begin = std::time::Instant::now();
        send("-INT", &child);
        if second {
            std::thread::sleep(std::time::Duration::from_millis(300));
            send("-TERM", &child);
        }
        let said: Run = child.wait_with_output().unwrap().into();
        let took = begin.elapsed().as_millis();
        assert!(said.code == 130 && said.stderr.contains("interrupted"), "{said:?}");
        assert_eq!(leftovers(&scene.path("dst")), Vec::<std::path::PathBuf>::new());
        took
    };
    assert!(run(false) >= 2000);
    // On a busy machine one try may take as long for other reasons.
    assert!((0..5).any(|_| run(true) < 2000));
}

// G3
#[test]
fn a_closed_terminal_ends_it_unless_it_was_started_by_nohup() {
    let (scene, image) = (Scene::new(), Image::kong().build());
    ok(["copy", &scene.source(&image), &format!("oci-archive:{}:3.9", scene.path("a.tar").display())]);
    let to = scene.reference("dst:1");
    let (child, _input) = waiting(heeding(&capatch(["copy", "oci-archive:-", &to])));
    send("-HUP", &child);
    let said: Run = child.wait_with_output().unwrap().into();
    assert!(said.code == 129 && said.stderr.contains("the terminal was closed"), "{said:?}");
    assert!(!scene.path("dst/index.json").exists());

    let mut nohup = Command::new("nohup");
    nohup.args([env!("CARGO_BIN_EXE_capatch"), "copy", "oci-archive:-", &to]).env_clear().env("PATH", "/usr/bin:/bin");
    let (child, mut input) = waiting(nohup);
    send("-HUP", &child);
    std::io::Write::write_all(&mut input, &fs::read(scene.path("a.tar")).unwrap()).unwrap();
    drop(input);
    let said: Run = child.wait_with_output().unwrap().into();
    said.succeeded();
    ok(["verify", &to]);
}

#[test]
fn what_stands_in_the_way_of_a_layout_is_named() {
    let scene = Scene::new();
    let source = scene.source(&Image::kong().build());
    fs::write(scene.path("file"), "precious").unwrap();
    for to in ["file:1", "file/below:1"] {
        fails(7, &["/file is not a directory"], ["copy", &source, &scene.reference(to)]);
    }
    assert_eq!(fs::read_to_string(scene.path("file")).unwrap(), "precious");
    std::os::unix::fs::symlink("nowhere", scene.path("link")).unwrap();
    for to in ["link:1", "link/below:1"] {
        let said =
            fails(7, &["/link is a link to something that does not exist"], ["copy", &source, &scene.reference(to)]);
        assert!(said.hint().is_some(), "{said:#?}");
    }
    assert!(!scene.path("nowhere").exists());
}

#[test]
fn an_empty_variable_is_none() {
    let image = kong();
    let mut command = capatch(["inspect", "--no-layers", &image]);
    command.envs([("CONTAINERD_ADDRESS", ""), ("CONTAINERD_NAMESPACE", ""), ("DOCKER_HOST", "")]);
    start(command).succeeded();
    let mut command = capatch(["inspect", "containerd:kong:3.9"]);
    command.envs([("CONTAINERD_ADDRESS", "/does/not/exist"), ("CONTAINERD_NAMESPACE", "")]);
    assert!(start(command).failed(3, &["/does/not/exist"]).hint().is_some());
}

#[test]
fn manifests_and_configs_that_fill_the_memory_are_refused() {
    let (scene, padding) = (Scene::new(), "y".repeat(3 << 20));
    let pad = |text: &[u8]| {
        String::from_utf8(text.to_vec())
            .unwrap()
            .replacen('{', &format!("{{\"padding\":\"{padding}\","), 1)
            .into_bytes()
    };
    let mut manifests = Index::new();
    let mut configs = Index::new();
    for number in 0..6 {
        let mut image = Image::kong().layer([file("number", number.to_string())]).build();
        let text = image.bytes().to_vec();
        let config = image.config();
        let padded = pad(&image.blobs[&config]);
        let old = serde_json::from_slice::<Value>(&text).unwrap()["config"]["size"].to_string();
        let name = capatch::oci::digest::Digest::of(&padded).to_string();
        let mut large = image.clone();
        let to_padded = String::from_utf8(text.clone()).unwrap().replace(&config, &name);
        let to_padded = to_padded.replacen(&format!("\"size\":{old}"), &format!("\"size\":{}", padded.len()), 1);
        large.blob("", padded);
        large.manifest(&image.media_type.clone(), to_padded.into_bytes());
        configs = configs.platform(&large, "amd64");
        image.manifest(&image.media_type.clone(), pad(&text));
        manifests = manifests.platform(&image, "amd64");
    }
    manifests.build().write(&scene.path("manifests"), "1");
    configs.build().write(&scene.path("configs"), "1");
    let manifests = scene.reference("manifests:1");
    fails(5, &["the manifests take more than 64 MiB of memory"], ["copy", &manifests, &scene.reference("dst:1")]);
    fails(5, &["the configs together have", "the limit is 16 MiB"], ["inspect", &scene.reference("configs:1")]);
    ok(["inspect", &scene.reference("configs:1"), "--max-memory", "160MiB"]);
    ok(["copy", &scene.reference("configs:1"), &scene.reference("dst:1")]);
}
