//! Registries that send us to somebody else: what goes there, and what never does. The rows are those of `faults.md`.

#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use capatch::error::{Kind, Result};
use capatch::oci::descriptor::Descriptor;
use capatch::oci::digest::Digest;
use capatch::oci::media_type::OCI_MANIFEST;
use capatch::oci::reference::{self, Target};
use capatch::transport::registry::{Client, Options, Repository};
use common::attacker::Attacker;
use common::cli::{fails, ok};
use common::image::{Content, Image, Scene};
use common::library::{auth_file, options};
use common::registry::{Auth, Bearer, Registry, Reply, basic};
use futures_util::TryStreamExt;

const SECRET: &str = "hunter2";
const MANIFEST: &[u8] = br#"{"schemaVersion":2}"#;

/// The repository `a` of `registry`, whose login has the members `entry`.
fn logged_in(registry: &Registry, entry: &str, change: impl FnOnce(&mut Options)) -> Repository {
    let config = format!(r#"{{"auths":{{"{}":{{{entry}}}}}}}"#, registry.host());
    let mut options = Options { auth_file: Some(auth_file(&config)), ..options() };
    change(&mut options);
    let name = reference::Repository { registry: registry.host(), path: "a".into() };
    Client::new(options).unwrap().repository(&name).unwrap()
}

const PASSWORD: &str = r#""username":"user","password":"hunter2""#;
const IDENTITY: &str = r#""identitytoken":"refresh-me""#;

fn secrets() -> [String; 4] {
    [SECRET.into(), "refresh-me".into(), "token-".into(), basic("user", SECRET).replace("Basic ", "")]
}

fn bearer() -> Auth {
    Auth::Bearer(Bearer { user: "user", password: SECRET, identity: "refresh-me", ..Bearer::default() })
}

fn describe(bytes: &[u8]) -> Descriptor {
    Descriptor::new("application/octet-stream", Digest::of(bytes), bytes.len() as u64).unwrap()
}

async fn get(repository: &Repository, bytes: &[u8]) -> Result<Vec<u8>> {
    let stream = repository.blob(&describe(bytes), 0).await?;
    stream.try_fold(Vec::new(), async |all, piece| Ok([all, piece.to_vec()].concat())).await
}

async fn push(repository: &Repository, bytes: &'static [u8]) -> Result<()> {
    repository.push_blob(&describe(bytes), &Bytes::from_static(bytes).into(), None).await.map(|_| ())
}

async fn tag(repository: &Repository) -> Result<()> {
    let stored = repository.push_manifest(&Target::Tag("1".into()), OCI_MANIFEST, Bytes::from_static(MANIFEST)).await;
    stored.map(|_| ())
}

fn refused<T>(result: Result<T>, kind: Kind) -> String {
    match result {
        Ok(_) => panic!("this should have been refused"),
        Err(error) => {
            assert_eq!(error.kind(), kind, "{error}");
            error.to_string()
        }
    }
}

fn json(body: &str) -> String {
    format!("HTTP/1.1 200 X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

// A7
#[tokio::test]
async fn a_token_service_that_redirects_takes_no_credentials_along() {
    for (entry, status, asked) in [(PASSWORD, 302, 1), (PASSWORD, 307, 1), (IDENTITY, 302, 0), (IDENTITY, 307, 0)] {
        let attacker = Attacker::start(|_| json(r#"{"token":"from-elsewhere"}"#));
        let registry = Registry::with(bearer());
        registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
        let target = attacker.url("/token");
        registry.fault(move |r, _| (r.path == "/token").then(|| Reply::new(status).header("location", &target)));
        let answer = logged_in(&registry, entry, |_| {}).manifest(&Target::Tag("1".into())).await;
        // What a stranger gave for nothing is no login; a POST does not follow at all.
        refused(answer, if asked > 0 { Kind::Denied } else { Kind::Content });
        attacker.learned_nothing(asked, &secrets().each_ref().map(String::as_str));
    }
    let registry = Registry::with(bearer());
    registry.fault(|r, _| {
        (r.path == "/token").then(|| Reply::new(302).header("location", "http://169.254.169.254/latest/meta-data"))
    });
    let answer = logged_in(&registry, PASSWORD, |_| {}).manifest(&Target::Tag("1".into())).await;
    assert!(refused(answer, Kind::Content).contains("no registry is at such an address"));
}

/// `image` whose layers are said to be at `url` too.
fn with_urls(image: &Content, url: &str) -> Content {
    let text = String::from_utf8(image.bytes().to_vec()).unwrap();
    let urls = format!(r#","urls":["{url}","file:///etc/passwd","ftp://127.0.0.1/x","http://169.254.169.254/x"]}}"#);
    let (front, layers) = text.split_once(r#""layers":["#).unwrap();
    let (layers, back) = layers.split_once(']').unwrap();
    let mut image = image.clone();
    image.manifest(OCI_MANIFEST, format!(r#"{front}"layers":[{}]{back}"#, layers.replace('}', &urls)).into_bytes());
    image
}

// A8, A9
#[test]
fn addresses_inside_a_manifest_are_never_asked() {
    let attacker = Attacker::start(|_| "HTTP/1.1 401 X\r\nwww-authenticate: Basic realm=x\r\n\r\n".into());
    let (scene, registry) = (Scene::new(), Registry::with(Auth::Basic("user", SECRET)));
    let image = with_urls(&Image::kong().build(), &attacker.url("/layer"));
    image.push(&registry, "a", "1");
    for layer in image.layers() {
        registry.forget_blob("a", &layer);
    }
    let auth = scene.path("auth.json");
    std::fs::write(&auth, format!(r#"{{"auths":{{"{}":{{{PASSWORD}}}}}}}"#, registry.host())).unwrap();
    let (from, auth) = (format!("{}/a:1", registry.host()), auth.to_str().unwrap());
    for command in ["copy", "patch"] {
        fails(3, &["blob sha256:"], [command, &from, &scene.reference("dst:1"), "--auth-file", auth]);
    }
    fails(3, &["sha256:"], ["verify", &from, "--auth-file", auth]);
    attacker.was_left_alone();
}

// A11
#[tokio::test]
async fn a_storage_that_wants_a_token_gets_none() {
    let attacker = Attacker::start(|own| {
        format!("HTTP/1.1 401 X\r\nwww-authenticate: Bearer realm=\"{own}/token\"\r\ncontent-length: 0\r\n\r\n")
    });
    let registry = Registry::with(bearer());
    registry.put_blob("a", b"content");
    let repository = logged_in(&registry, PASSWORD, |_| {});
    assert_eq!(get(&repository, b"content").await.unwrap(), b"content");
    let target = attacker.url("/blob");
    registry.fault(move |r, real| {
        (r.path.contains("/blobs/") && real().status == 200).then(|| Reply::new(307).header("location", &target))
    });
    refused(get(&repository, b"content").await, Kind::Denied);
    attacker.learned_nothing(1, &secrets().each_ref().map(String::as_str));
    // And what the registry asked for is not forgotten over it.
    registry.fault(|_, _| None);
    assert_eq!(get(&repository, b"content").await.unwrap(), b"content");
}

// A12
#[tokio::test]
async fn an_upload_that_moves_elsewhere_on_its_way_is_not_followed() {
    let attacker = Attacker::start(|own| format!("HTTP/1.1 202 X\r\nlocation: {own}/up\r\ncontent-length: 0\r\n\r\n"));
    for (method, status) in [("POST", 202), ("PATCH", 202), ("PATCH", 416)] {
        let registry = Registry::with(bearer());
        let target = attacker.url("/up");
        registry.fault(move |r, _| match r.method.as_str() {
            // In pieces, for there are no others that ask for a Location in between.
            "PUT" if !r.body.is_empty() => Some(Reply::new(413)),
            other if other == method => Some(Reply::new(status).header("location", &target).header("range", "0-0")),
            _ => None,
        });
        let repository = logged_in(&registry, PASSWORD, |options| options.chunk = 4).for_push();
        refused(push(&repository, b"private layer").await, Kind::Content);
    }
    attacker.was_left_alone();
}

// A14
#[tokio::test]
async fn a_list_without_end_ends() {
    let registry = Registry::start();
    registry.fault(|r, _| {
        let page: u32 = r.query("last").unwrap_or("0").parse().unwrap();
        let link = format!("</v2/a/tags/list?last={}>; rel=\"next\"", page + 1);
        Some(Reply::new(200).header("link", link).body(r#"{"tags":[]}"#))
    });
    let answer = logged_in(&registry, "", |_| {}).tags().await;
    assert!(refused(answer, Kind::Content).contains("1024 pages have"));
    assert_eq!(registry.log().len(), 1024);
}

// A16
#[tokio::test]
async fn a_write_is_neither_redirected_elsewhere_nor_turned_into_a_read() {
    let attacker = Attacker::start(|own| {
        format!("HTTP/1.1 201 X\r\nlocation: {own}/up\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    });
    for status in [301, 302, 303, 307, 308] {
        for (target, here) in [(attacker.url("/x"), false), ("/v2/a/elsewhere".into(), true)] {
            for path in ["/blobs/uploads/", "/manifests/"] {
                let registry = Registry::with(bearer());
                let location = target.clone();
                registry.fault(move |r, real| match r.path.as_str() {
                    "/v2/a/elsewhere" => Some(Reply::new(201).header("location", "/v2/a/blobs/uploads/0")),
                    there if there.contains(path) && !matches!(r.method.as_str(), "GET" | "DELETE") => {
                        (real().status != 401).then(|| Reply::new(status).header("location", &location))
                    }
                    _ => None,
                });
                let repository = logged_in(&registry, PASSWORD, |_| {}).for_push();
                // 307 and 308 on the registry itself are the only ones that keep a write a write.
                if status < 307 || !here {
                    match path {
                        "/manifests/" => refused(tag(&repository).await, Kind::Content),
                        _ => refused(push(&repository, b"private layer").await, Kind::Content),
                    };
                    assert!(registry.log().iter().all(|r| r.path != "/v2/a/elsewhere"), "{status} {path}");
                } else if path == "/manifests/" {
                    let _ = tag(&repository).await;
                    assert_eq!(registry.count("PUT", "/elsewhere"), 1, "{status}");
                }
            }
        }
    }
    attacker.was_left_alone();
}

// A18
#[tokio::test]
async fn a_header_of_a_mirror_does_not_follow_a_redirect() {
    let attacker = Attacker::start(|_| "HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n".into());
    let (registry, mirror) = (Registry::start(), Registry::start());
    registry.put_blob("a", b"content");
    let target = attacker.url("/blob");
    mirror.fault(move |_, _| Some(Reply::new(307).header("location", &target)));
    let hosts = tempfile::tempdir().unwrap();
    let directory = hosts.path().join(registry.host());
    std::fs::create_dir(&directory).unwrap();
    let text = format!("[host.'{0}']\n[host.'{0}'.header]\nx-key = 'secret-key'\n", mirror.url(""));
    std::fs::write(directory.join("hosts.toml"), text).unwrap();
    let repository = logged_in(&registry, "", |options| options.hosts_dir = Some(hosts.path().into()));
    assert_eq!(get(&repository, b"content").await.unwrap(), b"content");
    assert!(mirror.log().iter().all(|r| r.header("x-key") == Some("secret-key")));
    attacker.learned_nothing(1, &["secret-key", "x-key"]);
}

// B16
#[test]
fn a_tag_that_moves_during_a_run_is_resolved_once() {
    let (scene, registry) = (Scene::new(), Registry::start());
    let (first, second) = (Image::kong().build(), Image::kong_arm64().build());
    first.push(&registry, "a", "1");
    let moving = registry.clone();
    registry.fault(move |r, real| {
        let reply = real();
        // Whoever asks again would get another image.
        if r.path.ends_with("/manifests/1") {
            second.push(&moving, "a", "1");
        }
        Some(reply)
    });
    let (from, to) = (format!("{}/a:1", registry.host()), scene.reference("dst:1"));
    let said = ok(["copy", &from, &to]);
    assert!(said.stdout.contains(&first.digest), "{said:#?}");
    let asked: Vec<_> = registry.lines().into_iter().filter(|line| line.ends_with("/manifests/1")).collect();
    assert_eq!(asked, ["GET /v2/a/manifests/1"]);
}
