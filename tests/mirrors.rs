//! Where images come from: mirrors by registries.conf and by hosts.toml, and what never goes to them.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use capatch::error::Result;
use capatch::oci::descriptor::Descriptor;
use capatch::oci::digest::Digest;
use capatch::oci::media_type::OCI_MANIFEST;
use capatch::oci::reference::{self, Target};
use capatch::transport::registry::{Client, Options, Repository};
use common::cli::{capatch, start};
use common::image::{Image, Scene};
use common::registry::{Auth, Bearer, Ending, Registry, Reply, basic};
use futures_util::TryStreamExt;
use rcgen::generate_simple_self_signed;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

const HERE: &[u8] = br#"{"schemaVersion":2,"here":1}"#;
const THERE: &[u8] = br#"{"schemaVersion":2,"there":1}"#;

/// A directory with files that a client is told to read.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Files(tempfile::tempdir().unwrap());
        files.write("auth.json", "{}");
        files.write("registries.conf", "");
        std::fs::create_dir(files.path("hosts")).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn conf(self, text: &str) -> Self {
        self.write("registries.conf", text);
        self
    }

    fn hosts(self, registry: &str, text: &str) -> Self {
        self.write(&format!("hosts/{registry}/hosts.toml"), text);
        self
    }

    fn logins(self, logins: &[(&Registry, &str, &str)]) -> Self {
        let entry = |(registry, user, password): &(&Registry, &str, &str)| {
            format!(r#""{}":{{"username":"{user}","password":"{password}"}}"#, registry.host())
        };
        let entries: Vec<String> = logins.iter().map(entry).collect();
        self.write("auth.json", &format!(r#"{{"auths":{{{}}}}}"#, entries.join(",")));
        self
    }

    fn options(&self) -> Options {
        Options {
            auth_file: Some(self.path("auth.json")),
            cert_dir: Some("/does/not/exist".into()),
            registries_conf: Some(self.path("registries.conf")),
            hosts_dir: Some(self.path("hosts")),
            retry_base: Duration::from_millis(1),
            ..Options::default()
        }
    }

    fn client(&self) -> Client {
        Client::new(self.options()).unwrap()
    }

    fn open(&self, registry: &Registry) -> Repository {
        repository(&self.client(), registry, "a/b")
    }
}

fn repository(client: &Client, registry: &Registry, path: &str) -> Repository {
    client.repository(&reference::Repository { registry: registry.host(), path: path.into() }).unwrap()
}

fn tag(text: &str) -> Target {
    Target::Tag(text.into())
}

fn describe(bytes: &[u8]) -> Descriptor {
    Descriptor::new("application/octet-stream", Digest::of(bytes), bytes.len() as u64).unwrap()
}

async fn read(repository: &Repository, bytes: &[u8]) -> Result<Vec<u8>> {
    let stream = repository.blob(&describe(bytes), 0).await?;
    stream.try_fold(Vec::new(), async |all, piece| Ok([all, piece.to_vec()].concat())).await
}

/// A registry with `a/b:1`, and a mirror of it that has another idea of the tag.
fn pair() -> (Registry, Registry) {
    let (registry, mirror) = (Registry::start(), Registry::start());
    registry.put_manifest("a/b", Some("1"), OCI_MANIFEST, HERE);
    registry.put_blob("a/b", b"content");
    mirror.put_manifest("m/b", Some("1"), OCI_MANIFEST, THERE);
    mirror.put_manifest("m/b", None, OCI_MANIFEST, HERE);
    mirror.put_blob("m/b", b"content");
    (registry, mirror)
}

fn conf(registry: &Registry, mirror: &Registry, of_table: &str, of_mirror: &str) -> String {
    format!(
        "[[registry]]\nprefix = '{0}/a'\nlocation = '{0}/a'\n{of_table}\n[[registry.mirror]]\nlocation = '{1}/m'\n{of_mirror}\n",
        registry.host(),
        mirror.host()
    )
}

fn host_url(registry: &Registry, settings: &str) -> String {
    format!("[host.'http://{}']\n{settings}\n", registry.host())
}

#[tokio::test]
async fn who_is_asked_for_tags_and_for_digests() {
    for (of_table, of_mirror, by_tag, by_digest) in [
        ("", "", THERE, "mirror"),
        ("", "pull-from-mirror = 'digest-only'", HERE, "mirror"),
        ("", "pull-from-mirror = 'tag-only'", THERE, "registry"),
        ("mirror-by-digest-only = true", "", HERE, "mirror"),
    ] {
        let (registry, mirror) = pair();
        let repository = Files::new().conf(&conf(&registry, &mirror, of_table, of_mirror)).open(&registry);
        assert_eq!(repository.manifest(&tag("1")).await.unwrap().unwrap().bytes, by_tag, "{of_table}{of_mirror}");
        let count = |method, path| (mirror.count(method, path), registry.count(method, path));
        let digest = Target::Digest(Digest::of(HERE));
        assert_eq!(repository.manifest(&digest).await.unwrap().unwrap().bytes, HERE);
        let expected = if by_digest == "mirror" { (1, 0) } else { (0, 1) };
        assert_eq!(count("GET", &format!("manifests/{digest}")), expected, "{of_table}{of_mirror}");
        assert!(mirror.log().iter().all(|request| request.query("ns").is_none()), "ns is containerd's");
    }
}

#[tokio::test]
async fn hosts_toml_says_what_a_host_may_do() {
    for (settings, by_tag) in
        [("", THERE), ("capabilities = ['pull']", HERE), ("capabilities = ['pull', 'resolve']", THERE)]
    {
        let (registry, mirror) = pair();
        mirror.put_manifest("a/b", Some("1"), OCI_MANIFEST, THERE);
        mirror.put_manifest("a/b", None, OCI_MANIFEST, HERE);
        mirror.put_blob("a/b", b"content");
        let settings = format!("{settings}\n[host.'http://{}'.header]\nx-key = 'k'", mirror.host());
        let repository = Files::new().hosts(&registry.host(), &host_url(&mirror, &settings)).open(&registry);
        assert_eq!(repository.manifest(&tag("1")).await.unwrap().unwrap().bytes, by_tag, "{settings}");
        assert_eq!(read(&repository, b"content").await.unwrap(), b"content");
        assert_eq!((mirror.count("GET", "/blobs/"), registry.count("GET", "/blobs/")), (1, 0));
        for request in mirror.log() {
            assert_eq!(request.query("ns"), Some(registry.host().as_str()), "{request:?}");
            assert_eq!(request.header("x-key"), Some("k"), "{request:?}");
        }
        assert!(registry.log().iter().all(|r| r.query("ns").is_none() && r.header("x-key").is_none()));
    }
}

#[tokio::test]
async fn registries_conf_comes_before_hosts_toml_and_default_is_for_all() {
    let (registry, mirror) = pair();
    let other = Registry::start();
    let files = Files::new().hosts("_default", &host_url(&other, ""));
    assert_eq!(files.open(&registry).manifest(&tag("1")).await.unwrap().unwrap().bytes, HERE);
    assert_eq!(other.log().len(), 1);
    let files = files.conf(&conf(&registry, &mirror, "", ""));
    assert_eq!(files.open(&registry).manifest(&tag("1")).await.unwrap().unwrap().bytes, THERE);
    assert_eq!(other.log().len(), 1, "the two are not mixed");
    // Another repository of the registry has no table.
    let elsewhere = repository(&files.client(), &registry, "z");
    assert!(elsewhere.manifest(&tag("1")).await.unwrap().is_none());
    assert_eq!(other.log().len(), 2);
}

#[tokio::test]
async fn a_location_is_where_the_registry_really_is() {
    let (registry, mirror) = pair();
    let text = format!("[[registry]]\nprefix = '{}/a'\nlocation = '{}/m'\n", registry.host(), mirror.host());
    let repository = Files::new().conf(&text).open(&registry);
    assert_eq!(repository.manifest(&tag("1")).await.unwrap().unwrap().bytes, THERE);
    assert!(registry.log().is_empty());
    // What is written goes where the user says.
    let _ = repository.push_manifest(&tag("2"), OCI_MANIFEST, Bytes::from_static(HERE)).await.unwrap();
    assert!(registry.tag("a/b", "2").is_some() && mirror.tag("m/b", "2").is_none());
}

#[tokio::test]
async fn nothing_is_ever_written_to_a_mirror_or_believed_of_it_when_writing() {
    let (registry, mirror) = pair();
    let files = Files::new().conf(&conf(&registry, &mirror, "", ""));
    let destination = files.open(&registry).for_push();
    assert_eq!(destination.manifest(&tag("1")).await.unwrap().unwrap().bytes, HERE, "not the mirror's idea of it");
    let blob = Bytes::from_static(b"new");
    destination.push_blob(&describe(&blob), &blob.clone().into(), None).await.unwrap();
    let _ = destination.push_manifest(&tag("2"), OCI_MANIFEST, Bytes::from_static(HERE)).await.unwrap();
    assert!(mirror.log().is_empty(), "{:?}", mirror.lines());
    let files = Files::new().hosts(&registry.host(), &format!("server = 'http://{}'\n", mirror.host()));
    let repository = files.open(&registry);
    let _ = repository.push_manifest(&tag("3"), OCI_MANIFEST, Bytes::from_static(HERE)).await.unwrap();
    assert!(mirror.log().is_empty() && registry.tag("a/b", "3").is_some());
}

#[tokio::test]
async fn a_mirror_that_fails_is_passed_over() {
    type Fault = fn(&dyn Fn() -> Reply) -> Reply;
    let faults: [(&str, Fault); 7] = [
        ("404", |_| Reply::error(404, "MANIFEST_UNKNOWN")),
        ("401", |_| Reply::new(401)),
        ("403", |_| Reply::error(403, "DENIED")),
        ("429", |_| Reply::error(429, "TOOMANYREQUESTS").header("retry-after", 50)),
        ("500", |_| Reply::new(500)),
        ("a web page", |_| Reply::new(200).body("<html>")),
        ("a broken connection", |real| real().ending(Ending::Dropped)),
    ];
    for (name, fault) in faults {
        let (registry, mirror) = pair();
        mirror.fault(move |_, real| Some(fault(real)));
        let repository = Files::new().conf(&conf(&registry, &mirror, "", "")).open(&registry);
        assert_eq!(repository.manifest(&tag("1")).await.unwrap().unwrap().bytes, HERE, "{name}");
        let digest = Target::Digest(Digest::of(HERE));
        assert_eq!(repository.manifest(&digest).await.unwrap().unwrap().bytes, HERE, "{name}");
        if name != "a web page" {
            assert_eq!(read(&repository, b"content").await.unwrap(), b"content", "{name}");
        }
        // One request each, and one that asks what to log in with.
        assert!(mirror.log().len() <= 6, "{name}: a mirror is not worth waiting for, {:?}", mirror.lines());
    }
}

#[tokio::test]
async fn a_mirror_that_cannot_be_reached_is_asked_once() {
    let registry = pair().0;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let files = Files::new().hosts(&registry.host(), &format!("[host.'http://{closed}']\n"));
    let client = files.client();
    let repository = repository(&client, &registry, "a/b");
    for _ in 0..3 {
        assert_eq!(repository.manifest(&tag("1")).await.unwrap().unwrap().bytes, HERE);
        assert_eq!(read(&repository, b"content").await.unwrap(), b"content");
    }
    assert_eq!((client.traffic().requests, registry.log().len()), (7, 6));
}

#[tokio::test]
async fn a_blob_that_a_mirror_breaks_off_goes_on_at_the_registry() {
    let (registry, mirror) = pair();
    let blob: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    registry.put_blob("a/b", &blob);
    mirror.put_blob("m/b", &blob);
    let gone = mirror.clone();
    mirror.fault(move |request, real| {
        let first = gone.count("GET", "/blobs/") == 1;
        Some(if first && request.is("GET", "/blobs/") { real().ending(Ending::Cut(250_000)) } else { Reply::new(500) })
    });
    let repository = Files::new().conf(&conf(&registry, &mirror, "", "")).open(&registry);
    assert!(read(&repository, &blob).await.unwrap() == blob);
    let ranges: Vec<_> = registry.log().iter().map(|r| r.header("range").unwrap().to_owned()).collect();
    assert_eq!(ranges, ["bytes=250000-399999"]);
}

#[tokio::test]
async fn each_host_gets_its_own_credentials() {
    let registry = Registry::with(Auth::Basic("user", "hunter2"));
    let mirror = Registry::with(Auth::Bearer(Bearer { user: "mirror", password: "tiger", ..Bearer::default() }));
    registry.put_manifest("a/b", Some("1"), OCI_MANIFEST, HERE);
    mirror.put_manifest("m/b", Some("1"), OCI_MANIFEST, THERE);
    let files = Files::new().conf(&conf(&registry, &mirror, "", ""));
    // The mirror would want a login and has none: passed over, without a word about the registry's.
    let files = files.logins(&[(&registry, "user", "hunter2")]);
    assert_eq!(files.open(&registry).manifest(&tag("1")).await.unwrap().unwrap().bytes, HERE);
    let secret = basic("user", "hunter2");
    assert!(!mirror.log().iter().any(|r| r.text().contains(&secret) || r.text().contains("hunter2")));
    let files = files.logins(&[(&registry, "user", "hunter2"), (&mirror, "mirror", "tiger")]);
    assert_eq!(files.open(&registry).manifest(&tag("1")).await.unwrap().unwrap().bytes, THERE);
    assert!(!mirror.log().iter().any(|r| r.text().contains(&secret)));
}

/// A registry with a certificate that nobody trusts.
fn distrusted() -> Registry {
    let certificate = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_no_client_auth().with_single_cert(vec![certificate.cert.der().clone()], key).unwrap();
    let registry = Registry::https(config);
    registry.put_manifest("m/b", Some("1"), OCI_MANIFEST, THERE);
    registry.put_manifest("a/b", Some("1"), OCI_MANIFEST, THERE);
    registry.put_blob("m/b", b"content");
    registry
}

#[tokio::test]
async fn an_insecure_host_is_reached_with_any_certificate_or_with_none_and_no_other_host_is() {
    let (registry, plain) = pair();
    for (mirror, insecure, expected) in
        [(&distrusted(), "insecure = true", THERE), (&plain, "insecure = true", THERE), (&distrusted(), "", HERE)]
    {
        let repository = Files::new().conf(&conf(&registry, mirror, "", insecure)).open(&registry);
        assert_eq!(repository.manifest(&tag("1")).await.unwrap().unwrap().bytes, expected, "{insecure}");
    }
    for (settings, expected) in [("skip_verify = true", THERE), ("", HERE)] {
        let mirror = distrusted();
        let text = format!("[host.'https://{}']\n{settings}\n", mirror.host());
        let repository = Files::new().hosts(&registry.host(), &text).open(&registry);
        assert_eq!(repository.manifest(&tag("1")).await.unwrap().unwrap().bytes, expected, "{settings}");
    }
    // The host is trusted without a certificate; where it sends us is not.
    let (mirror, storage) = (distrusted(), distrusted());
    let target = format!("https://{}/v2/m/b/blobs/{}", storage.host(), Digest::of(b"content"));
    mirror.fault(move |request, _| request.is("GET", "/blobs/").then(|| Reply::new(307).header("location", &target)));
    let repository = Files::new().conf(&conf(&registry, &mirror, "", "insecure = true")).open(&registry);
    assert_eq!(read(&repository, b"content").await.unwrap(), b"content");
    assert!(storage.log().is_empty());
    assert_eq!(registry.count("GET", "/blobs/"), 1);
}

// faults.md A19
#[tokio::test]
async fn the_token_service_of_an_insecure_registry_needs_a_certificate() {
    let (registry, service) = (distrusted(), distrusted());
    let challenge = format!("Bearer realm=\"https://{}/token\"", service.host());
    registry.fault(move |_, _| Some(Reply::new(401).header("www-authenticate", &challenge)));
    let text = format!("[[registry]]\nlocation = '{}'\ninsecure = true\n", registry.host());
    let error = Files::new().conf(&text).open(&registry).manifest(&tag("1")).await.unwrap_err();
    assert!(error.to_string().contains(&service.host()) && error.to_string().contains("certificate"), "{error}");
    assert!(service.log().is_empty());
    // Its own is trusted as the registry is.
    let registry = distrusted();
    let challenge = format!("Bearer realm=\"https://{}/token\"", registry.host());
    registry.fault(move |request, _| match request.header("authorization") {
        None if request.path == "/token" => Some(Reply::new(200).body(r#"{"token":"t"}"#)),
        None => Some(Reply::new(401).header("www-authenticate", &challenge)),
        Some(_) => None,
    });
    let text = format!("[[registry]]\nlocation = '{}'\ninsecure = true\n", registry.host());
    let found = Files::new().conf(&text).open(&registry).manifest(&tag("1")).await.unwrap();
    assert_eq!(found.unwrap().bytes, THERE);
}

// faults.md B30
#[tokio::test]
async fn what_an_insecure_host_speaks_is_asked_again_if_it_did_not_say() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        // It is busy at first, and then it turns out to speak plain http.
        let _busy = listener.accept().unwrap();
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let answer = if head.starts_with(b"GET /v2/a/manifests/1 ") { "200 OK" } else { "400 Bad Request" };
            let _ = write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
        }
    });
    let files = Files::new().conf(&format!("[[registry]]\nlocation = '{host}'\ninsecure = true\n"));
    let client = Client::new(Options { stall: Duration::from_secs(1), ..files.options() }).unwrap();
    let name = reference::Repository { registry: host, path: "a".into() };
    let repository = client.repository(&name).unwrap();
    assert!(repository.manifest(&tag("1")).await.is_err());
    assert_eq!(repository.manifest(&tag("1")).await.unwrap().unwrap().bytes, "{}");
}

#[tokio::test]
async fn an_insecure_registry_may_be_written_to() {
    let registry = distrusted();
    let text = format!("[[registry]]\nlocation = '{}'\ninsecure = true\n", registry.host());
    let repository = Files::new().conf(&text).open(&registry);
    let _ = repository.push_manifest(&tag("2"), OCI_MANIFEST, Bytes::from_static(HERE)).await.unwrap();
    assert!(registry.tag("a/b", "2").is_some());
}

#[tokio::test]
async fn what_a_mirror_gives_for_a_digest_is_verified() {
    let (registry, mirror) = pair();
    mirror.fault(|request, _| request.is("GET", "/manifests/").then(|| Reply::new(200).body(THERE)));
    let repository = Files::new().conf(&conf(&registry, &mirror, "", "")).open(&registry);
    let found = repository.manifest(&Target::Digest(Digest::of(HERE))).await.unwrap().unwrap();
    assert_eq!(found.bytes, HERE);
}

#[test]
fn files_that_forbid_or_are_malformed_end_the_run() {
    let (scene, registry) = (Scene::new(), Registry::start());
    Image::kong().build().push(&registry, "kong", "3.9");
    let image = format!("{}/kong:3.9", registry.host());
    let run = |conf: &Path, hosts: &Path| {
        let mut command = capatch(["getcap", &image, "--registries-conf"]);
        command.arg(conf).arg("--hosts-dir").arg(hosts);
        start(command)
    };
    let none = Path::new("/dev/null");
    run(none, none).succeeded();
    let conf = scene.path("r.conf");
    let shown = conf.display().to_string();
    for (text, code, words) in [
        (
            format!("[[registry]]\nlocation = '{}'\nblocked = true\n", registry.host()),
            4,
            format!("is blocked in {shown}"),
        ),
        ("\n[[registry]]\nlocation = 1\n".into(), 1, format!("{shown}:3: ")),
        ("[registries.search]\nregistries = []\n".into(), 1, format!("{shown}:1: this is version 1")),
    ] {
        std::fs::write(&conf, text).unwrap();
        registry.clear_log();
        run(&conf, none).failed(code, &[&words]);
        assert!(registry.log().is_empty());
        // The same file by the variable that Podman's tools know.
        let mut command = capatch(["getcap", &image]);
        command.env("CONTAINERS_REGISTRIES_CONF", &conf);
        start(command).failed(code, &[&words]);
    }
    let hosts = scene.path("hosts").join(registry.host());
    std::fs::create_dir_all(&hosts).unwrap();
    std::fs::write(hosts.join("hosts.toml"), "server = 1\n").unwrap();
    run(none, &scene.path("hosts")).failed(1, &["hosts.toml:1: "]);
    std::fs::write(hosts.join("hosts.toml"), "ca = 'missing.crt'\n").unwrap();
    run(none, &scene.path("hosts")).failed(1, &["missing.crt"]);
    run(Path::new("/does/not/exist"), none).failed(2, &["--registries-conf"]);
    run(none, Path::new("/does/not/exist")).failed(2, &["--hosts-dir"]);
}
