//! Images made by code, put into an OCI layout or a registry, and read back with nothing of capatch but its digests.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use capatch::oci::digest::Digest;
use capatch::oci::media_type::{
    DOCKER_CONFIG, DOCKER_INDEX, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::registry::Registry;
use super::tar::{self, Entry, dir, file, symlink};
use super::{cli, elf};

pub const NGINX: &str = "/usr/local/openresty/nginx/sbin/nginx";
/// What the archive calls [`NGINX`].
pub const NGINX_ENTRY: &str = "usr/local/openresty/nginx/sbin/nginx";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub const BASE_NAME: &str = "org.opencontainers.image.base.name";
pub const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";
pub const RECORD: &str = "dev.capatch.patch";
const CREATED: &str = "2024-01-01T00:00:00Z";

/// How a layer is compressed.
#[derive(Clone, Copy, PartialEq)]
pub enum Packing {
    Gzip,
    /// A new gzip member after so many bytes.
    Members(usize),
    Zstd,
    Plain,
    /// Gzip with another level: another blob of the same diff ID.
    Fast,
}

impl Packing {
    pub fn pack(self, tar: &[u8]) -> Vec<u8> {
        let gzip = |part: &[u8], level| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap()
        };
        match self {
            Packing::Gzip => gzip(tar, 6),
            Packing::Fast => gzip(tar, 1),
            Packing::Members(size) => tar.chunks(size).flat_map(|part| gzip(part, 6)).collect(),
            Packing::Zstd => zstd::encode_all(tar, 3).unwrap(),
            Packing::Plain => tar.to_vec(),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
            _ => OCI_LAYER_GZIP,
        }
    }
}

/// One image for one platform, to be changed before it is built.
#[derive(Clone)]
pub struct Image {
    pub docker: bool,
    pub architecture: String,
    /// The archives and how they are compressed, lowest first.
    pub layers: Vec<(Vec<u8>, Packing)>,
    /// The members of the config's `config`.
    pub run: String,
    /// More members of the config.
    pub members: String,
    /// More members of the manifest.
    pub manifest_members: String,
    pub history: bool,
}

impl Image {
    /// Without layers.
    pub fn empty() -> Self {
        Image {
            docker: false,
            architecture: "amd64".into(),
            layers: Vec::new(),
            run: r#""User":"kong","ExposedPorts":{"8000/tcp":{}, "8443/tcp":{}},
  "Env":["PATH=/usr/bin","KONG_VERSION=3.9.3", "A=\u003cb\u003e"],"Entrypoint":["/docker-entrypoint.sh"],
  "Cmd":["kong","docker-start"],"StopSignal":"SIGQUIT",
  "Healthcheck":{"Test":["CMD","kong","health"],"Interval":60000000000},"OnBuild":["RUN true"],
  "Labels":{"maintainer":"Kong \u0026 friends"},"Unknown":{"float":1.10}"#
                .into(),
            members: r#","x-vendor":{"big":12345678901234567890123,"float":1.10}"#.into(),
            manifest_members: String::new(),
            history: true,
        }
    }

    /// Three layers shaped like Kong's: the base, nginx, and what comes above.
    pub fn kong() -> Self {
        Image::empty()
            .layer([dir("etc"), file("etc/passwd", "root:x:0:0::/:/bin/sh\n").mode(0o644), dir("usr"), dir("bin")])
            .layer(Image::nginx_layer(file(NGINX_ENTRY, elf::amd64())))
            .layer([dir("usr"), dir("usr/local"), dir("usr/local/kong").mode(0o775).owner(1000)])
    }

    /// The same for another architecture.
    pub fn kong_arm64() -> Self {
        let mut image = Image::empty()
            .layer([dir("etc"), file("etc/passwd", "root:x:0:0::/:/bin/sh\n").mode(0o644), dir("usr"), dir("bin")])
            .layer(Image::nginx_layer(file(NGINX_ENTRY, elf::arm64())));
        image.architecture = "arm64".into();
        image
    }

    /// One layer with `nginx` as Kong's nginx, to which the owner and mode are given here.
    pub fn with_nginx(nginx: Entry) -> Self {
        Image::empty().layer(Image::nginx_layer(nginx))
    }

    fn nginx_layer(nginx: Entry) -> Vec<Entry> {
        let parent = |path: &str| dir(path).mode(0o775).owner(1000);
        vec![
            dir("usr"),
            dir("usr/local"),
            dir("usr/local/bin"),
            symlink("usr/local/bin/nginx", NGINX),
            parent("usr/local/openresty"),
            parent("usr/local/openresty/nginx"),
            parent("usr/local/openresty/nginx/sbin"),
            nginx.mode(0o775).owner(1000),
        ]
    }

    pub fn layer(self, entries: impl AsRef<[Entry]>) -> Self {
        self.packed(tar::tar(entries.as_ref()), Packing::Gzip)
    }

    pub fn packed(mut self, tar: Vec<u8>, packing: Packing) -> Self {
        self.layers.push((tar, packing));
        self
    }

    pub fn docker(self) -> Self {
        Image { docker: true, ..self }
    }

    /// Changes the members of the config's `config`.
    pub fn run(mut self, from: &str, to: &str) -> Self {
        assert!(self.run.contains(from), "{from}");
        self.run = self.run.replace(from, to);
        self
    }

    pub fn build(&self) -> Content {
        let mut content = Content::default();
        let (config_type, manifest_type) =
            if self.docker { (DOCKER_CONFIG, DOCKER_MANIFEST) } else { (OCI_CONFIG, OCI_MANIFEST) };
        let mut layers = Vec::new();
        for (tar, packing) in &self.layers {
            let media_type = if self.docker { DOCKER_LAYER } else { packing.media_type() };
            layers.push(content.blob(media_type, packing.pack(tar)));
        }
        let diff_ids: Vec<_> = self.layers.iter().map(|(tar, _)| format!("\"{}\"", Digest::of(tar))).collect();
        let history = match self.history {
            true => {
                let entry = format!(r#"{{"created":"{CREATED}","created_by":"x"}}"#);
                let nothing = format!(r#"{{"created":"{CREATED}","created_by":"ENV","empty_layer":true}}"#);
                let entries: Vec<_> = std::iter::once(nothing).chain(vec![entry; layers.len()]).collect();
                format!(r#","history":[{}]"#, entries.join(","))
            }
            false => String::new(),
        };
        let config = format!(
            r#"{{"architecture":"{}","os":"linux","created":"{CREATED}","config":{{{}}},
 "container_config":{{"Cmd":["x"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}{history}{}}}"#,
            self.architecture,
            self.run,
            diff_ids.join(", "),
            self.members
        );
        let config = content.blob(config_type, config.into_bytes());
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{manifest_type}","config":{config},"layers":[{}]{}}}"#,
            layers.join(","),
            self.manifest_members
        );
        content.manifest(manifest_type, manifest.into_bytes());
        content
    }
}

/// An index, or a docker manifest list.
#[derive(Default)]
pub struct Index {
    docker: bool,
    content: Content,
    children: Vec<String>,
    members: String,
}

impl Index {
    pub fn new() -> Self {
        Index::default()
    }

    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// A child with these members in its descriptor.
    pub fn child(mut self, child: &Content, members: &str) -> Self {
        self.content.blobs.extend(child.blobs.clone());
        self.content.manifests.extend(child.manifests.clone());
        self.children.push(child.descriptor(members));
        self
    }

    /// A child for a platform.
    pub fn platform(self, child: &Content, architecture: &str) -> Self {
        self.child(child, &format!(r#","platform":{{"architecture":"{architecture}","os":"linux"}}"#))
    }

    /// What BuildKit adds for the child with this digest.
    pub fn attestation(self, of: &str) -> Self {
        let mut content = Content::default();
        let statement = format!(r#"{{"_type":"https://in-toto.io/Statement/v0.1","about":"{of}"}}"#).into_bytes();
        let diff_id = Digest::of(&statement);
        let layer = content.blob("application/vnd.in-toto+json", statement);
        let config = format!(
            r#"{{"architecture":"unknown","os":"unknown","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
        );
        let config = content.blob(OCI_CONFIG, config.into_bytes());
        let manifest =
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[{layer}]}}"#);
        content.manifest(OCI_MANIFEST, manifest.into_bytes());
        self.child(
            &content,
            &format!(
                r#","annotations":{{"vnd.docker.reference.digest":"{of}","vnd.docker.reference.type":"attestation-manifest"}},"platform":{{"architecture":"unknown","os":"unknown"}}"#
            ),
        )
    }

    /// More members of the index.
    pub fn members(mut self, members: &str) -> Self {
        self.members.push_str(members);
        self
    }

    pub fn build(mut self) -> Content {
        let media_type = if self.docker { DOCKER_INDEX } else { OCI_INDEX };
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{}]{}}}"#,
            self.children.join(","),
            self.members
        );
        self.content.manifest(media_type, text.into_bytes());
        self.content
    }
}

/// Blobs and manifests by digest, and which of them is the image.
#[derive(Clone, Default, Debug)]
pub struct Content {
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub manifests: BTreeMap<String, (String, Vec<u8>)>,
    pub media_type: String,
    pub digest: String,
}

impl Content {
    /// Adds a blob; its descriptor.
    pub fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> String {
        let digest = Digest::of(&bytes).to_string();
        let descriptor = format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, bytes.len());
        self.blobs.insert(digest, bytes);
        descriptor
    }

    /// Adds a manifest, which is the image from now on.
    pub fn manifest(&mut self, media_type: &str, bytes: Vec<u8>) {
        self.digest = Digest::of(&bytes).to_string();
        self.media_type = media_type.into();
        self.manifests.insert(self.digest.clone(), (media_type.into(), bytes));
    }

    /// The bytes of the manifest or index.
    pub fn bytes(&self) -> &[u8] {
        &self.manifests[&self.digest].1
    }

    pub fn descriptor(&self, members: &str) -> String {
        let size = self.bytes().len();
        format!(r#"{{"mediaType":"{}","digest":"{}","size":{size}{members}}}"#, self.media_type, self.digest)
    }

    /// The digests of the layers of a single image.
    pub fn layers(&self) -> Vec<String> {
        let manifest: Value = serde_json::from_slice(self.bytes()).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
    }

    /// The digest of a layer of a single image.
    pub fn layer(&self, number: usize) -> String {
        self.layers()[number].clone()
    }

    /// The digest of the config of a single image.
    pub fn config(&self) -> String {
        let manifest: Value = serde_json::from_slice(self.bytes()).unwrap();
        manifest["config"]["digest"].as_str().unwrap().to_owned()
    }

    /// Puts it into `repository` and gives it the tag.
    pub fn push(&self, registry: &Registry, repository: &str, tag: &str) {
        self.blobs.values().for_each(|bytes| {
            registry.put_blob(repository, bytes);
        });
        for (digest, (media_type, bytes)) in &self.manifests {
            registry.put_manifest(repository, (*digest == self.digest).then_some(tag), media_type, bytes);
        }
    }

    /// The single image that is alone in an OCI layout.
    pub fn read(layout: &Path) -> Self {
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        let root = |name: &str| index["manifests"][0][name].as_str().unwrap().to_owned();
        let (digest, media_type) = (root("digest"), root("mediaType"));
        let files = fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap());
        let mut blobs: BTreeMap<String, Vec<u8>> = files
            .map(|file| (format!("sha256:{}", file.file_name().to_str().unwrap()), fs::read(file.path()).unwrap()))
            .collect();
        let manifest = (media_type.clone(), blobs.remove(&digest).unwrap());
        Content { blobs, manifests: BTreeMap::from([(digest.clone(), manifest)]), media_type, digest }
    }

    /// Writes it into an OCI layout, beside what is there.
    pub fn write(&self, layout: &Path, tag: &str) {
        let manifests = self.manifests.iter().map(|(digest, (_, bytes))| (digest, bytes));
        for (digest, bytes) in self.blobs.iter().chain(manifests) {
            let blobs = layout.join("blobs").join(digest.split(':').next().unwrap());
            fs::create_dir_all(&blobs).unwrap();
            fs::write(blobs.join(hex(digest)), bytes).unwrap();
        }
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = layout.join("index.json");
        let mut index_json: Value = match fs::read(&index) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
            Err(_) => json!({"schemaVersion": 2, "manifests": []}),
        };
        let name = format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{tag}"}}"#);
        let entries = index_json["manifests"].as_array_mut().unwrap();
        entries.retain(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] != tag);
        entries.push(serde_json::from_str(&self.descriptor(&name)).unwrap());
        fs::write(index, index_json.to_string()).unwrap();
    }
}

/// The part of a digest behind the colon.
pub fn hex(digest: &str) -> &str {
    digest.split_once(':').unwrap().1
}

/// A directory for one test.
pub struct Scene {
    pub directory: Arc<TempDir>,
}

impl Scene {
    pub fn new() -> Self {
        Scene { directory: Arc::new(tempfile::tempdir().unwrap()) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `oci:DIR/NAME`, where `name` may have a tag.
    pub fn reference(&self, name: &str) -> String {
        format!("oci:{}", self.path(name).display())
    }

    /// Writes `content` into the layout `src` as `src:3.9`.
    pub fn source(&self, content: &Content) -> String {
        content.write(&self.path("src"), "3.9");
        self.reference("src:3.9")
    }

    /// Patches `content` from layout to layout, and proves the result; where it is.
    pub fn patched<const N: usize>(&self, content: &Content, options: [&str; N]) -> Opened {
        let (source, result) = (self.source(content), self.reference("dst:out"));
        let arguments = ["patch", &source, &result].into_iter().chain(options);
        cli::start(cli::capatch(arguments)).succeeded();
        cli::prove(&result, &source);
        self.open("dst", "out")
    }

    /// The image in the layout `name`.
    pub fn open(&self, name: &str, tag: &str) -> Opened {
        let layout = self.path(name);
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        let entries = index["manifests"].as_array().unwrap();
        let named = |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == tag;
        let entry = entries.iter().find(named).unwrap_or_else(|| panic!("no {tag} in {index}"));
        Opened::new(Where::Layout(layout, self.directory.clone()), entry)
    }
}

/// Where an image was stored.
#[derive(Clone)]
pub enum Where {
    /// The directory lives as long as somebody may look into it.
    Layout(PathBuf, Arc<TempDir>),
    Registry(Registry, String),
}

/// A manifest or index that was stored somewhere.
#[derive(Clone)]
pub struct Opened {
    at: Where,
    pub descriptor: Value,
    pub bytes: Vec<u8>,
    pub json: Value,
}

impl Opened {
    fn new(at: Where, descriptor: &Value) -> Self {
        let digest = descriptor["digest"].as_str().unwrap();
        let bytes = match &at {
            Where::Layout(path, _) => fs::read(path.join("blobs/sha256").join(hex(digest))).unwrap(),
            Where::Registry(registry, repository) => {
                let (media_type, bytes) = registry.manifest(repository, digest).expect("the manifest is there");
                assert_eq!(descriptor["mediaType"], media_type, "served as what the descriptor says");
                bytes
            }
        };
        assert_eq!(Digest::of(&bytes).as_str(), digest);
        assert_eq!(descriptor["size"], bytes.len());
        let json: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["mediaType"], descriptor["mediaType"], "every document says what it is");
        Opened { at, descriptor: descriptor.clone(), bytes, json }
    }

    /// What a tag of a registry names.
    pub fn in_registry(registry: &Registry, repository: &str, tag: &str) -> Self {
        let (media_type, bytes) = registry.manifest(repository, tag).expect("the tag exists");
        let descriptor = json!({"mediaType": media_type, "digest": Digest::of(&bytes).as_str(), "size": bytes.len()});
        Opened::new(Where::Registry(registry.clone(), repository.into()), &descriptor)
    }

    pub fn digest(&self) -> &str {
        self.descriptor["digest"].as_str().unwrap()
    }

    pub fn blob(&self, descriptor: &Value) -> Vec<u8> {
        let digest = descriptor["digest"].as_str().unwrap();
        let bytes = match &self.at {
            Where::Layout(path, _) => fs::read(path.join("blobs/sha256").join(hex(digest))).unwrap(),
            Where::Registry(registry, repository) => {
                registry.blob(repository, &digest.parse().unwrap()).expect("the blob is there")
            }
        };
        assert_eq!(Digest::of(&bytes).as_str(), digest);
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    }

    /// A child of an index.
    pub fn child(&self, number: usize) -> Opened {
        Opened::new(self.at.clone(), &self.json["manifests"][number])
    }

    pub fn config_text(&self) -> String {
        String::from_utf8(self.blob(&self.json["config"])).unwrap()
    }

    pub fn config(&self) -> Value {
        serde_json::from_str(&self.config_text()).unwrap()
    }

    pub fn layers(&self) -> &Vec<Value> {
        self.json["layers"].as_array().unwrap()
    }

    /// The entries of the topmost layer, whose diff ID is checked.
    pub fn top_layer(&self) -> Vec<tar::Read> {
        let mut tar = Vec::new();
        let blob = self.blob(self.layers().last().unwrap());
        flate2::read::MultiGzDecoder::new(&blob[..]).read_to_end(&mut tar).unwrap();
        let diff_ids = self.config()["rootfs"]["diff_ids"].clone();
        assert_eq!(diff_ids.as_array().unwrap().last().unwrap(), Digest::of(&tar).as_str());
        assert_eq!(diff_ids.as_array().unwrap().len(), self.layers().len());
        tar::read(&tar)
    }

    /// The capability that the topmost layer gives the file at `path`.
    pub fn capability(&self, path: &str) -> Vec<u8> {
        let top = self.top_layer();
        let entry = top.iter().find(|entry| entry.path == path.trim_start_matches('/'));
        entry.unwrap_or_else(|| panic!("no {path} in {top:#?}")).capability().unwrap().to_vec()
    }
}

/// Files in `directory`, at any depth, that only a run that is under way may have.
pub fn leftovers(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(leftovers(&path));
        } else if path.file_name().unwrap().to_string_lossy().starts_with(".capatch-") {
            found.push(path);
        }
    }
    found
}
