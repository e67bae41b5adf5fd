//! Writes `testdata/kong`, a small two-platform OCI layout shaped like a Kong image, and checks that the committed one
//! is byte for byte what this code writes. `UPDATE=1 cargo test --test testdata` writes it anew.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use capatch::oci::digest::Digest;
use capatch::oci::media_type;
use common::elf;
use tar::{EntryType, Header};

const MTIME: u64 = 1_704_067_200;
const CREATED: &str = "2024-01-01T00:00:00Z";
const NGINX: &str = "usr/local/openresty/nginx/sbin/nginx";
const ENTRYPOINT: &str =
    "#!/bin/sh\nset -e\nexec /usr/local/openresty/nginx/sbin/nginx -p /usr/local/kong -c nginx.conf\n";

#[test]
fn the_committed_image_is_what_this_code_writes() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/kong");
    let files = kong();
    if std::env::var_os("UPDATE").is_some() {
        let _ = fs::remove_dir_all(&committed);
        for (path, bytes) in &files {
            let path = committed.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
    for (path, bytes) in &files {
        assert!(fs::read(committed.join(path)).is_ok_and(|b| b == *bytes), "{} differs", path.display());
    }
    let blobs = fs::read_dir(committed.join("blobs/sha256")).unwrap().count();
    assert_eq!(blobs, files.len() - 2, "nothing else lies in the layout");
}

/// The files of the layout.
fn kong() -> BTreeMap<PathBuf, Vec<u8>> {
    let mut blobs = Blobs::default();
    let mut children = Vec::new();
    let mut attestations = Vec::new();
    for (architecture, variant, nginx) in [("amd64", "", elf::amd64()), ("arm64", r#","variant":"v8""#, elf::arm64())] {
        let layers = [base_layer(), kong_layer(&nginx), prefix_layer()];
        let diff_ids: Vec<_> = layers.iter().map(|tar| format!("\"{}\"", Digest::of(tar))).collect();
        let config = blobs.add(media_type::OCI_CONFIG, config(architecture, variant, &diff_ids.join(",")).into_bytes());
        let layers: Vec<_> = layers.iter().map(|tar| blobs.add(media_type::OCI_LAYER_GZIP, gzip(tar))).collect();
        let manifest = blobs.manifest(&config, &layers);
        let digest = manifest.split('"').find(|part| part.starts_with("sha256:")).unwrap().to_owned();
        children.push(with(
            &manifest,
            &format!(r#","platform":{{"architecture":"{architecture}","os":"linux"{variant}}}"#),
        ));

        let statement = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://slsa.dev/provenance/v0.2","subject":[{{"name":"kong","digest":{{"sha256":"{}"}}}}],"predicate":{{}}}}"#,
            &digest["sha256:".len()..]
        );
        let diff_id = format!("\"{}\"", Digest::of(statement.as_bytes()));
        let layer = blobs.add("application/vnd.in-toto+json", statement.into_bytes());
        let config = format!(
            r#"{{"architecture":"unknown","os":"unknown","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{diff_id}]}}}}"#
        );
        let config = blobs.add(media_type::OCI_CONFIG, config.into_bytes());
        let attestation = blobs.manifest(&config, &[layer]);
        attestations.push(with(
            &attestation,
            &format!(
                r#","annotations":{{"vnd.docker.reference.digest":"{digest}","vnd.docker.reference.type":"attestation-manifest"}},"platform":{{"architecture":"unknown","os":"unknown"}}"#
            ),
        ));
    }
    children.extend(attestations);
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}],"annotations":{{"org.opencontainers.image.version":"3.9"}}}}"#,
        media_type::OCI_INDEX,
        children.join(",")
    );
    let index = blobs.add(media_type::OCI_INDEX, index.into_bytes());
    let root = with(&index, r#","annotations":{"org.opencontainers.image.ref.name":"3.9"}"#);
    let mut files = blobs.0;
    files.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    files.insert("index.json".into(), format!(r#"{{"schemaVersion":2,"manifests":[{root}]}}"#).into_bytes());
    files
}

#[derive(Default)]
struct Blobs(BTreeMap<PathBuf, Vec<u8>>);

impl Blobs {
    /// Stores a blob and returns its descriptor.
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> String {
        let digest = Digest::of(&bytes);
        let descriptor = format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, bytes.len());
        self.0.insert(format!("blobs/sha256/{}", digest.hex()).into(), bytes);
        descriptor
    }

    fn manifest(&mut self, config: &str, layers: &[String]) -> String {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[{}]}}"#,
            media_type::OCI_MANIFEST,
            layers.join(",")
        );
        self.add(media_type::OCI_MANIFEST, text.into_bytes())
    }
}

/// A descriptor with more members.
fn with(descriptor: &str, members: &str) -> String {
    format!("{}{members}}}", descriptor.strip_suffix('}').unwrap())
}

/// Laid out as people write it, so that a lossy editor is caught.
fn config(architecture: &str, variant: &str, diff_ids: &str) -> String {
    format!(
        r##"{{"architecture":"{architecture}","os":"linux"{variant},"created":"{CREATED}","author":"capatch test data",
 "config":{{"Hostname":"","User":"kong","ExposedPorts":{{"8000/tcp":{{}},"8001/tcp":{{}},"8443/tcp":{{}},"8444/tcp":{{}}}},
  "Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","KONG_VERSION=3.9.3","ASSET=ce"],
  "Entrypoint":["/docker-entrypoint.sh"],"Cmd":["kong","docker-start"],"StopSignal":"SIGQUIT","StopTimeout":30,
  "Healthcheck":{{"Test":["CMD-SHELL","kong-health"],"Interval":60000000000,"StartInterval":5000000000,"Retries":10}},
  "Shell":["/bin/bash","-o","pipefail","-c"],"OnBuild":["RUN echo \u003cchild\u003e"],"ArgsEscaped":true,
  "Labels":{{"maintainer":"Kong \u0026 friends"}}}},
 "container_config":{{"Cmd":["/bin/sh","-c","#(nop) ","CMD [\"kong\"]"]}},
 "x-vendor":{{"big":12345678901234567890123,"float":1.10}},
 "rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}},
 "history":[{{"created":"{CREATED}","created_by":"base"}},{{"created":"{CREATED}","created_by":"ENV KONG_VERSION=3.9.3","empty_layer":true}},{{"created":"{CREATED}","created_by":"kong"}},{{"created":"{CREATED}","created_by":"prefix"}}],
 "moby.buildkit.buildinfo.v1":"e30="}}"##
    )
}

fn base_layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for path in ["bin/", "etc/", "usr/", "usr/local/", "usr/local/bin/"] {
        add(&mut tar, path, 0o755, 0, b"");
    }
    add(&mut tar, "bin/sh", 0o755, 0, b"#!/bin/false\n");
    add(&mut tar, "etc/passwd", 0o644, 0, b"root:x:0:0:root:/root:/bin/sh\nkong:x:1000:1000::/home/kong:/bin/sh\n");
    add(&mut tar, "etc/group", 0o644, 0, b"root:x:0:\nkong:x:1000:\n");
    tar.into_inner().unwrap()
}

fn kong_layer(nginx: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, "docker-entrypoint.sh", 0o755, 0, ENTRYPOINT.as_bytes());
    for path in ["usr/", "usr/local/", "usr/local/bin/"] {
        add(&mut tar, path, 0o755, 0, b"");
    }
    link(&mut tar, "usr/local/bin/nginx", "/usr/local/openresty/nginx/sbin/nginx");
    for path in ["usr/local/openresty/", "usr/local/openresty/nginx/", "usr/local/openresty/nginx/sbin/"] {
        add(&mut tar, path, 0o775, 1000, b"");
    }
    add(&mut tar, NGINX, 0o775, 1000, nginx);
    tar.into_inner().unwrap()
}

fn prefix_layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for path in ["usr/", "usr/local/"] {
        add(&mut tar, path, 0o755, 0, b"");
    }
    add(&mut tar, "usr/local/kong/", 0o775, 1000, b"");
    tar.into_inner().unwrap()
}

fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, owner: u64, content: &[u8]) {
    let mut header = Header::new_ustar();
    header.set_entry_type(if path.ends_with('/') { EntryType::Directory } else { EntryType::Regular });
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(MTIME);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content).unwrap();
}

fn link(tar: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Symlink);
    header.set_mode(0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(MTIME);
    header.set_size(0);
    tar.append_link(&mut header, path, target).unwrap();
}

fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}
