//! Images of unusual shape, and layouts that are not what they should be: patched, and proved against their base.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use capatch::oci::digest::Digest;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

const NGINX: &str = "usr/sbin/nginx";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A source layout, and a directory beside it for results.
struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("base/blobs/sha256")).unwrap();
        std::fs::write(directory.path().join("base/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Fixture { directory }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        std::fs::write(self.path("base/blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest.as_str(), "size": bytes.len()})
    }

    fn json(&self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string().as_bytes())
    }

    /// Stores an image for linux/amd64 and says how an index names it.
    fn image(&self, layers: &[Vec<u8>], history: &Value) -> Value {
        let mut descriptors = Vec::new();
        for layer in layers {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(layer).unwrap();
            descriptors.push(self.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip.finish().unwrap()));
        }
        let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {}, "history": history,
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = self.json("application/vnd.oci.image.config.v1+json", &config);
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": descriptors});
        let mut descriptor = self.json(MANIFEST, &manifest);
        descriptor["platform"] = json!({"os": "linux", "architecture": "amd64"});
        descriptor
    }

    fn index(&self, children: &[Value]) -> Value {
        self.json(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}))
    }

    fn tag(&self, mut descriptor: Value) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "base"});
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        std::fs::write(self.path("base/index.json"), index.to_string()).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_capatch"));
        command.args(arguments).current_dir(self.directory.path()).env_remove("SOURCE_DATE_EPOCH");
        command
    }

    fn patch(&self, more: &[&str]) -> Output {
        let fixed = ["patch", "--profile=none", "oci:base:base", "oci:new:new"];
        self.command(&[&fixed, more].concat()).output().unwrap()
    }

    /// Patches, and has the result proved against the base.
    fn prove(&self, more: &[&str]) {
        succeeded(&self.patch(more));
        succeeded(&self.command(&["verify", "oci:new:new", "--base", "oci:base:base"]).output().unwrap());
    }
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

/// An ELF header for amd64, and `more`.
fn program(more: &[u8]) -> Vec<u8> {
    let mut head = vec![0; 64];
    head[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    head[16..20].copy_from_slice(&[2, 0, 62, 0]);
    [&head, more].concat()
}

type Records<'a> = &'a [(&'a str, &'a [u8])];

/// A layer of files, each with its bytes and PAX records.
fn layer(files: &[(&[u8], Vec<u8>, Records)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content, records) in files {
        if !records.is_empty() {
            builder.append_pax_extensions(records.iter().copied()).unwrap();
        }
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, &content[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn nginx(records: Records) -> Vec<u8> {
    layer(&[(NGINX.as_bytes(), program(b""), records)])
}

const FILE: &[&str] = &["--file=/usr/sbin/nginx"];
const CAPABILITY: &str = "SCHILY.xattr.security.capability";

#[test]
fn an_attestation_may_come_before_its_image() {
    let fixture = Fixture::new();
    let image = fixture.image(&[nginx(&[])], &json!([]));
    let config = fixture.blob("application/vnd.oci.empty.v1+json", b"{}");
    let statement = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []});
    let mut statement = fixture.json(MANIFEST, &statement);
    statement["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    statement["annotations"] = json!({"vnd.docker.reference.digest": image["digest"],
        "vnd.docker.reference.type": "attestation-manifest"});
    fixture.tag(fixture.index(&[statement, image]));
    fixture.prove(FILE);
}

#[test]
fn an_index_may_hold_two_images_for_one_platform() {
    let fixture = Fixture::new();
    let one = fixture.image(&[nginx(&[])], &json!([]));
    let other = fixture.image(&[nginx(&[]), layer(&[(b"other", vec![1], &[])])], &json!([]));
    let nested = fixture.index(std::slice::from_ref(&other));
    fixture.tag(fixture.index(&[one.clone(), other]));
    fixture.prove(FILE);
    fixture.tag(fixture.index(&[one, nested]));
    fixture.prove(&[FILE, &["--force"]].concat());
}

#[test]
fn libarchives_copy_of_a_replaced_capability_goes_with_it() {
    let fixture = Fixture::new();
    let value = b"AQAAAgAgAAAAAAAAAAAAAAAAAAA";
    fixture.tag(fixture.image(&[nginx(&[("LIBARCHIVE.xattr.security.capability", value)])], &json!([])));
    fixture.prove(FILE);
}

#[test]
fn a_capability_that_makes_no_sense_can_be_replaced() {
    let fixture = Fixture::new();
    fixture.tag(fixture.image(&[nginx(&[(CAPABILITY, b"xx")])], &json!([])));
    let refused = fixture.patch(FILE);
    assert_eq!(refused.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--replace-caps"), "{refused:?}");
    succeeded(&fixture.patch(&[FILE, &["--replace-caps"]].concat()));
    // The layer below still has what nobody can unpack, and nothing else is wrong.
    let verified = fixture.command(&["verify", "oci:new:new", "--base", "oci:base:base", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&verified.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    assert_eq!((verified.status.code(), findings.len()), (Some(8), 1), "{report:#}");
    assert!(
        findings[0].as_str().unwrap().contains("layer 1: /usr/sbin/nginx: the value of security.capability is"),
        "{report:#}"
    );
}

#[test]
fn files_whose_names_only_look_alike_are_all_patched() {
    let fixture = Fixture::new();
    let links = [("one", &b"\xff"[..]), ("other", b"\xfe")].map(|(name, target)| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        header.set_size(0);
        header.set_cksum();
        header
    });
    let files = layer(&[(b"\xff", program(b"1"), &[]), (b"\xfe", program(b"2"), &[])]);
    let mut builder = tar::Builder::new(Vec::new());
    links.iter().for_each(|link| builder.append(link, &[][..]).unwrap());
    fixture.tag(fixture.image(&[files, builder.into_inner().unwrap()], &json!([])));
    fixture.prove(&["--file=/one", "--file=/other"]);
    let listed = fixture.command(&["getcap", "oci:new:new"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout).matches("cap_net_bind_service").count(), 2, "{listed:?}");
}

#[test]
fn null_in_a_history_means_nothing_said() {
    let fixture = Fixture::new();
    fixture.tag(fixture.image(&[nginx(&[])], &json!([{"empty_layer": null}, {"empty_layer": true}])));
    fixture.prove(FILE);
}

#[test]
fn many_layers_are_warned_of() {
    for (layers, warned) in [(124, false), (125, true)] {
        let fixture = Fixture::new();
        let layers: Vec<Vec<u8>> = (0..layers).map(|_| nginx(&[])).collect();
        fixture.tag(fixture.image(&layers, &json!([])));
        let output = fixture.patch(FILE);
        succeeded(&output);
        assert_eq!(String::from_utf8_lossy(&output.stderr).contains("126 layers"), warned, "{output:?}");
    }
}

#[test]
fn a_layer_that_may_not_be_distributed_is_a_finding_and_no_failure() {
    let fixture = Fixture::new();
    let image = fixture.image(&[nginx(&[])], &json!([]));
    let away = Digest::of(b"away");
    let config = json!({"architecture": "amd64", "os": "windows",
        "rootfs": {"type": "layers", "diff_ids": [away.as_str()]}});
    let config = fixture.json("application/vnd.oci.image.config.v1+json", &config);
    let foreign = json!({"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "digest": away.as_str(), "size": 4, "urls": ["https://example.com/"]});
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [foreign]});
    let mut windows = fixture.json(MANIFEST, &manifest);
    windows["platform"] = json!({"os": "windows", "architecture": "amd64"});
    fixture.tag(fixture.index(&[image, windows]));
    succeeded(&fixture.patch(FILE));
    let verified = fixture.command(&["verify", "oci:new:new", "--base", "oci:base:base"]).output().unwrap();
    assert_eq!(verified.status.code(), Some(8), "{verified:?}");
    assert!(String::from_utf8_lossy(&verified.stdout).contains("cap_net_bind_service"), "{verified:?}");
}

#[test]
fn many_runs_make_one_new_layout() {
    let fixture = Fixture::new();
    fixture.tag(fixture.image(&[nginx(&[])], &json!([])));
    for round in 0..4 {
        // Half of them want the same tag, with the same content.
        let runs: Vec<_> = (0..8)
            .map(|run| {
                let destination = format!("oci:new{round}:{}", run / 2 * (run % 2));
                let arguments = ["patch", "--profile=none", FILE[0], "oci:base:base", &destination];
                let mut command = fixture.command(&arguments);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        for run in runs {
            succeeded(&run.wait_with_output().unwrap());
        }
    }
}

#[test]
fn nothing_is_made_for_a_patch_that_is_refused() {
    let fixture = Fixture::new();
    fixture.tag(fixture.image(&[nginx(&[])], &json!([])));
    assert_eq!(fixture.patch(&["--file=/missing"]).status.code(), Some(3));
    let mut command = fixture.command(&["patch", "--profile=none", FILE[0], "oci:base:base", "oci:new/deeper:new"]);
    let output = command.env("TMPDIR", fixture.path("none")).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!fixture.path("new").exists());
}

#[test]
fn a_layout_of_pipes_and_links_is_refused_at_once() {
    let make_pipe = |path: &Path| succeeded(&Command::new("mkfifo").arg(path).output().unwrap());
    for name in ["index.json", "oci-layout", ".capatch.lock"] {
        let fixture = Fixture::new();
        fixture.tag(fixture.image(&[nginx(&[])], &json!([])));
        std::fs::create_dir(fixture.path("new")).unwrap();
        std::fs::write(fixture.path("new/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let _ = std::fs::remove_file(fixture.path("new").join(name));
        make_pipe(&fixture.path("new").join(name));
        let output = fixture.patch(FILE);
        assert!(matches!(output.status.code(), Some(1 | 5)), "{name}: {output:?}");
    }
    let fixture = Fixture::new();
    fixture.tag(fixture.image(&[nginx(&[])], &json!([])));
    std::fs::create_dir(fixture.path("new")).unwrap();
    std::fs::write(fixture.path("new/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    std::os::unix::fs::symlink("../elsewhere", fixture.path("new/.capatch.lock")).unwrap();
    assert_eq!(fixture.patch(FILE).status.code(), Some(1));
    assert!(!fixture.path("elsewhere").exists(), "a lock is made only in the layout");
}
