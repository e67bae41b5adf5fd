//! The registry client against a registry that behaves, and one that does not.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use capatch::blob::Spool;
use capatch::error::{Error, Kind, Result};
use capatch::oci::descriptor::Descriptor;
use capatch::oci::digest::{Algorithm, Digest, Hasher};
use capatch::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use capatch::oci::reference::{self, Target};
use capatch::transport::registry::{Client, Options, Pushed, Repository, Stored};
use capatch::transport::{Content, from_reader};
use common::library::{auth_file, options};
use common::registry::{Auth, Bearer, Ending, Registry, Reply, Request, basic};
use futures_util::{StreamExt, TryStreamExt, stream};

const SECRET: &str = "hunter2";

/// A client with the content of a credentials file.
fn client_with(config: &str, change: impl FnOnce(&mut Options)) -> Client {
    let mut options = Options { auth_file: Some(auth_file(config)), ..options() };
    change(&mut options);
    Client::new(options).unwrap()
}

fn repository(client: &Client, registry: &Registry, path: &str) -> Repository {
    client.repository(&reference::Repository { registry: registry.host(), path: path.into() }).unwrap()
}

/// A repository of `registry`, asked without credentials.
fn open(registry: &Registry, path: &str) -> Repository {
    repository(&client_with("{}", |_| {}), registry, path)
}

fn login(registry: &Registry, entry: &str) -> String {
    format!(r#"{{"auths":{{"{}":{{{entry}}}}}}}"#, registry.host())
}

fn password(registry: &Registry, password: &str) -> String {
    login(registry, &format!(r#""username":"user","password":"{password}""#))
}

fn bearer() -> Bearer {
    Bearer { user: "user", password: SECRET, ..Bearer::default() }
}

fn tag(text: &str) -> Target {
    Target::Tag(text.into())
}

fn describe(bytes: &[u8]) -> Descriptor {
    Descriptor::new("application/octet-stream", Digest::of(bytes), bytes.len() as u64).unwrap()
}

/// Bytes that no piece of is like another.
fn content(length: usize) -> Vec<u8> {
    (0..length as u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(length).collect()
}

async fn read(repository: &Repository, bytes: &[u8], offset: u64) -> Result<Vec<u8>> {
    let stream = repository.blob(&describe(bytes), offset).await?;
    stream
        .try_fold(Vec::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
}

async fn push(repository: &Repository, bytes: &[u8], from: Option<&str>) -> Result<Pushed> {
    repository.push_blob(&describe(bytes), &Bytes::copy_from_slice(bytes).into(), from).await
}

fn kind<T>(result: Result<T>) -> (Kind, String) {
    match result {
        Ok(_) => panic!("this should have failed"),
        Err(error) => (error.kind(), format!("{error} {}", error.hint_text().unwrap_or_default())),
    }
}

const MANIFEST: &[u8] = br#"{"schemaVersion":2}"#;

#[tokio::test]
async fn credentials_in_all_their_forms() {
    let identity = Bearer { identity: "refresh-me", ..bearer() };
    let public = Bearer { public: true, ..bearer() };
    for (auth, entry, expected) in [
        (Auth::Basic("user", SECRET), r#""username":"user","password":"hunter2""#, Ok(())),
        (Auth::Basic("user", SECRET), r#""username":"user","password":"wrong""#, Err("were refused (401)")),
        (Auth::Basic("user", SECRET), "", Err("not logged in")),
        (Auth::Bearer(bearer()), r#""username":"user","password":"hunter2""#, Ok(())),
        (Auth::Bearer(bearer()), r#""username":"user","password":"wrong""#, Err("refused the credentials")),
        (Auth::Bearer(bearer()), "", Err("not logged in")),
        (Auth::Bearer(public), "", Ok(())),
        (Auth::Bearer(identity.clone()), r#""identitytoken":"refresh-me""#, Ok(())),
        (Auth::Bearer(identity), r#""identitytoken":"wrong""#, Err("")),
        (Auth::Bearer(bearer()), r#""auth":"!""#, Err("'auth' is not the base64")),
    ] {
        let registry = Registry::with(auth);
        registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
        let client = client_with(&login(&registry, entry), |_| {});
        let answer = repository(&client, &registry, "a").manifest(&tag("1")).await;
        match expected {
            Ok(()) => assert_eq!(answer.unwrap().unwrap().bytes, MANIFEST),
            Err(text) => {
                let (kind, message) = kind(answer);
                assert!(kind == Kind::Denied || text.contains("base64"), "{message}");
                assert!(message.contains(text), "{message}");
                assert!(!message.contains(SECRET), "{message}");
                assert!(text != "not logged in" || message.contains("may be private or may not exist"), "{message}");
            }
        }
        assert!(registry.count("GET", "/manifests/") <= 2, "one refresh for a request");
    }
}

#[tokio::test]
async fn tokens_are_fetched_once_for_a_scope_and_again_when_they_end() {
    let registry = Registry::with(Auth::Bearer(Bearer { uses: 3, ..bearer() }));
    registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
    registry.put_manifest("b", Some("1"), OCI_MANIFEST, MANIFEST);
    let client = client_with(&password(&registry, SECRET), |_| {});
    for _ in 0..4 {
        repository(&client, &registry, "a").manifest(&tag("1")).await.unwrap().unwrap();
    }
    assert_eq!(registry.count("GET", "/token"), 2);
    // One 401 at first, one when the token ended.
    assert_eq!(registry.count("GET", "/v2/a/manifests/1"), 6);
    repository(&client, &registry, "b").manifest(&tag("1")).await.unwrap().unwrap();
    assert_eq!(registry.count("GET", "/v2/b/manifests/1"), 1, "the challenge is known by now");
    let log = registry.log();
    let scopes: Vec<_> = log.iter().filter_map(|r| r.query("scope")).collect();
    assert_eq!(scopes, ["repository:a:pull", "repository:a:pull", "repository:b:pull"]);
}

// faults.md A23
#[tokio::test]
async fn a_token_is_for_one_registry_one_service_and_one_realm() {
    // Two registries with one token service.
    let public = Bearer { public: true, ..bearer() };
    let one = Registry::with(Auth::Bearer(public.clone()));
    let other = Registry::with(Auth::Bearer(Bearer { realm: Some(one.url("/token")), ..public }));
    for registry in [&one, &other] {
        registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
    }
    let client = client_with("{}", |_| {});
    repository(&client, &one, "a").manifest(&tag("1")).await.unwrap().unwrap();
    // That token service knows nothing of this registry's tokens.
    assert!(repository(&client, &other, "a").manifest(&tag("1")).await.is_err());
    assert_eq!(one.count("GET", "/token"), 2);
    assert!(other.log().iter().all(|r| r.header("authorization") != Some("Bearer token-1")));

    // One registry that wants two tokens at the same time.
    for challenges in [
        ["realm=\"/token?1\",service=\"s\"", "realm=\"/token?2\",service=\"s\""],
        ["realm=\"/token\",service=\"1\"", "realm=\"/token\",service=\"2\""],
    ] {
        let registry = Registry::start();
        let both = std::sync::Barrier::new(2);
        registry.fault(move |r, _| {
            if r.path == "/token" {
                return Some(Reply::new(200).body(r#"{"token":"t"}"#));
            }
            if r.header("authorization").is_some() {
                return Some(Reply::new(404));
            }
            // Neither has a token before both were asked for one.
            both.wait();
            let challenge = challenges[usize::from(r.path.ends_with("/2"))];
            Some(Reply::new(401).header("www-authenticate", format!("Bearer {challenge}")))
        });
        let repository = open(&registry, "a");
        let (one, other) = (tag("1"), tag("2"));
        let (first, second) = tokio::join!(repository.manifest(&one), repository.manifest(&other));
        assert!(first.unwrap().is_none() && second.unwrap().is_none());
        assert_eq!(registry.count("GET", "/token"), 2, "{challenges:?}");
    }
}

// faults.md A23
#[tokio::test]
async fn a_token_is_for_one_credential() {
    let registry = Registry::with(Auth::Bearer(bearer()));
    registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
    // One address in two spellings, and a credential for each.
    let (host, other) = (registry.host(), registry.host().replace("127.0.0.1", "127.1"));
    let entry = |host: &str, password: &str| format!(r#""{host}":{{"username":"user","password":"{password}"}}"#);
    let config = format!(r#"{{"auths":{{{},{}}}}}"#, entry(&host, SECRET), entry(&other, "wrong"));
    let client = client_with(&config, |_| {});
    repository(&client, &registry, "a").manifest(&tag("1")).await.unwrap().unwrap();
    let other = client.repository(&reference::Repository { registry: other, path: "a".into() }).unwrap();
    let (kind, message) = kind(other.manifest(&tag("1")).await);
    assert_eq!(kind, Kind::Denied);
    assert!(message.contains("refused the credentials for 127.1:"), "{message}");
}

#[tokio::test]
async fn a_refusal_without_end_ends() {
    let registry = Registry::with(Auth::Bearer(bearer()));
    registry.fault(|r, _| {
        r.path.starts_with("/v2/").then(|| {
            Reply::error(401, "UNAUTHORIZED").header("www-authenticate", "Bearer realm=\"/token\",service=\"s\"")
        })
    });
    let client = client_with(&password(&registry, SECRET), |_| {});
    let (kind, message) = kind(repository(&client, &registry, "a").manifest(&tag("1")).await);
    assert_eq!(kind, Kind::Denied);
    assert!(message.contains("authenticated with"), "{message}");
    assert_eq!(registry.lines().len(), 2);
    // What was refused is not sent again.
    let registry = Registry::with(Auth::Basic("user", SECRET));
    let client = client_with(&password(&registry, "wrong"), |_| {});
    for requests in [2, 3] {
        assert!(repository(&client, &registry, "a").manifest(&tag("1")).await.is_err());
        assert_eq!(registry.lines().len(), requests);
    }
}

#[tokio::test]
async fn a_401_without_a_challenge_is_answered_with_that_of_the_ping() {
    let registry = Registry::with(Auth::Basic("user", SECRET));
    registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
    registry.fault(|r, real| {
        let mut reply = real();
        if r.path != "/v2/" {
            reply.headers.retain(|(name, _)| name != "www-authenticate");
        }
        Some(reply)
    });
    let client = client_with(&password(&registry, SECRET), |_| {});
    repository(&client, &registry, "a").manifest(&tag("1")).await.unwrap().unwrap();
    // Where `/v2/` is open to all, with the last one.
    let registry = Registry::with(Auth::Bearer(Bearer { uses: 1, ..bearer() }));
    registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
    let challenged = AtomicUsize::new(0);
    registry.fault(move |_, real| {
        let mut reply = real();
        if reply.status == 401 && challenged.fetch_add(1, Ordering::SeqCst) > 0 {
            reply.headers.retain(|(name, _)| name != "www-authenticate");
        }
        Some(reply)
    });
    let client = client_with(&password(&registry, SECRET), |_| {});
    for _ in 0..3 {
        repository(&client, &registry, "a").manifest(&tag("1")).await.unwrap().unwrap();
    }
}

// faults.md A11
#[tokio::test]
async fn what_the_ping_is_redirected_to_challenges_nobody() {
    let (registry, elsewhere) = (Registry::start(), Registry::with(Auth::Basic("user", SECRET)));
    let target = elsewhere.url("/v2/");
    registry.fault(move |r, _| {
        Some(if r.path == "/v2/" { Reply::new(307).header("location", &target) } else { Reply::new(401) })
    });
    let client = client_with(&password(&registry, SECRET), |_| {});
    assert_eq!(kind(repository(&client, &registry, "a").manifest(&tag("1")).await).0, Kind::Denied);
    assert_eq!(elsewhere.log().len(), 1);
    for request in [registry.log(), elsewhere.log()].concat() {
        assert!(request.header("authorization").is_none(), "{request:?}");
    }
}

#[tokio::test]
async fn a_token_service_elsewhere_gets_no_credentials_unless_named() {
    for (config, named, reached, ok) in
        [("secret", false, false, false), ("secret", true, true, true), ("none", false, true, true)]
    {
        let elsewhere = Registry::with(Auth::Bearer(Bearer { public: true, ..bearer() }));
        let registry = Registry::with(Auth::Basic("user", SECRET));
        registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
        let realm = elsewhere.url("/token");
        registry.fault(move |r, _| {
            Some(match r.header("authorization") {
                Some(header) if header.starts_with("Bearer token") => Reply::new(200).body(MANIFEST),
                _ => Reply::new(401).header("www-authenticate", format!("Bearer realm=\"{realm}\"")),
            })
        });
        let config = if config == "secret" { password(&registry, SECRET) } else { "{}".into() };
        let client = client_with(&config, |options| {
            if named {
                options.realm_hosts = vec![elsewhere.host()];
            }
        });
        let answer = repository(&client, &registry, "a").manifest(&tag("1")).await;
        assert_eq!(!elsewhere.log().is_empty(), reached);
        if ok {
            assert_eq!(answer.unwrap().unwrap().bytes, MANIFEST);
        } else {
            let (kind, message) = kind(answer);
            assert_eq!(kind, Kind::Denied);
            assert!(message.contains("--realm-host"), "{message}");
        }
    }
}

#[tokio::test]
async fn realms_that_nobody_should_ask() {
    for realm in [
        "http://169.254.169.254/token",
        "http://[fe80::1]/t",
        "http://0.0.0.0/t",
        "file:///etc/passwd",
        "http://u:p@127.0.0.1/",
    ] {
        let registry = Registry::start();
        registry
            .fault(move |_, _| Some(Reply::new(401).header("www-authenticate", format!("Bearer realm=\"{realm}\""))));
        let (kind, message) = kind(open(&registry, "a").manifest(&tag("1")).await);
        assert_eq!(kind, Kind::Content, "{message}");
    }
}

#[tokio::test]
async fn a_challenge_that_cannot_be_understood_is_quoted() {
    for challenge in ["Bearer service=\"s\"", "Bearer realm=\"\"", "Bearer realm=\"http://[\"", "Negotiate", "=,\t=x"] {
        for login in [true, false] {
            let registry = Registry::start();
            registry.fault(move |_, _| Some(Reply::new(401).header("www-authenticate", challenge)));
            let client =
                if login { client_with(&password(&registry, SECRET), |_| {}) } else { client_with("{}", |_| {}) };
            let error = repository(&client, &registry, "a").manifest(&tag("1")).await.unwrap_err();
            let (said, quoted) = (error.to_string(), format!("«{}»", challenge.replace('\t', "\\t")));
            assert!(error.kind() == Kind::Denied && said.contains(&quoted), "{said}");
            assert!(!said.contains("credentials") && error.hint_text().unwrap().contains("realm"), "{error:?}");
        }
    }
}

/// Where `elsewhere` is the storage that a registry redirects to.
fn redirecting(registry: &Registry, elsewhere: &Registry, status: u16) {
    let target = elsewhere.url("");
    registry.fault(move |r, real| {
        let allowed = real().status != 401;
        (allowed && r.path.contains("/blobs/sha256"))
            .then(|| Reply::new(status).header("location", format!("{target}{}?sig=s3cret", r.path)))
    });
}

#[tokio::test]
async fn redirects_carry_no_secret_elsewhere() {
    let bytes = content(1000);
    for auth in [Auth::Basic("user", SECRET), Auth::Bearer(bearer())] {
        for status in [301, 302, 303, 307, 308] {
            let (registry, elsewhere) = (Registry::with(auth.clone()), Registry::start());
            registry.put_blob("a", &bytes);
            elsewhere.put_blob("a", &bytes);
            redirecting(&registry, &elsewhere, status);
            let client = client_with(&password(&registry, SECRET), |_| {});
            assert_eq!(read(&repository(&client, &registry, "a"), &bytes, 0).await.unwrap(), bytes);
            for request in elsewhere.log() {
                assert!(request.header("authorization").is_none() && request.header("referer").is_none());
                assert!(!request.text().contains(SECRET) && !request.text().contains("token-"));
            }
        }
    }
}

// faults.md A10
#[tokio::test]
async fn another_name_and_a_way_back_get_no_secret_either() {
    let bytes = content(10);
    let registry = Registry::with(Auth::Basic("user", SECRET));
    registry.put_blob("a", &bytes);
    // The same port under another name, and back from there.
    let (name, port) = (registry.host(), registry.host().split_once(':').unwrap().1.to_owned());
    let answer = bytes.clone();
    registry.fault(move |r, real| match r.path.as_str() {
        "/there" => Some(Reply::new(307).header("location", format!("http://{name}/back"))),
        "/back" => Some(Reply::new(200).body(answer.clone())),
        _ => {
            (real().status != 401).then(|| Reply::new(307).header("location", format!("http://localhost:{port}/there")))
        }
    });
    let client = client_with(&password(&registry, SECRET), |_| {});
    assert_eq!(read(&repository(&client, &registry, "a"), &bytes, 0).await.unwrap(), bytes);
    for path in ["/there", "/back"] {
        assert_eq!(registry.count("GET", path), 1);
    }
    for request in registry.log().iter().filter(|r| !r.path.starts_with("/v2/")) {
        assert!(request.header("authorization").is_none(), "{request:?}");
    }
}

#[tokio::test]
async fn a_challenge_from_elsewhere_is_not_answered() {
    let bytes = content(10);
    let (registry, elsewhere) = (Registry::with(Auth::Bearer(bearer())), Registry::with(Auth::Basic("user", SECRET)));
    registry.put_blob("a", &bytes);
    let client = client_with(&password(&registry, SECRET), |_| {});
    let repository = repository(&client, &registry, "a");
    // Once it is known what the registry asks for, its challenge is not the one that is answered.
    assert_eq!(read(&repository, &bytes, 0).await.unwrap(), bytes);
    redirecting(&registry, &elsewhere, 307);
    let (kind, message) = kind(read(&repository, &bytes, 0).await);
    assert_eq!(kind, Kind::Denied);
    assert!(message.contains(&elsewhere.host()) && !message.contains("credentials"), "{message}");
    assert_eq!(elsewhere.log().len(), 1);
    assert!(elsewhere.log()[0].header("authorization").is_none());
    registry.fault(|_, _| None);
    assert_eq!(read(&repository, &bytes, 0).await.unwrap(), bytes);
}

#[tokio::test]
async fn redirects_that_lead_nowhere() {
    for (location, kind_expected) in [
        (Some("/v2/a/manifests/1"), Kind::Content),
        (Some("http://169.254.169.254/latest"), Kind::Content),
        (Some("http://[::ffff:169.254.169.254]/latest"), Kind::Content),
        (Some("file:///etc/passwd"), Kind::Content),
        (Some("ftp://127.0.0.1/x"), Kind::Content),
        (Some("http://["), Kind::Content),
        (None, Kind::Content),
    ] {
        let registry = Registry::start();
        registry.fault(move |_, _| {
            let reply = Reply::new(302);
            Some(match location {
                Some(location) => reply.header("location", location),
                None => reply,
            })
        });
        assert_eq!(kind(open(&registry, "a").manifest(&tag("1")).await).0, kind_expected, "{location:?}");
        assert!(registry.log().len() <= 6);
    }
    // A redirected PUT must not turn into a GET that succeeds.
    let registry = Registry::start();
    registry.fault(|r, _| (r.method != "GET").then(|| Reply::new(302).header("location", "/v2/")));
    assert_eq!(kind(push(&open(&registry, "a"), b"x", None).await).0, Kind::Content);
}

#[tokio::test]
async fn a_tag_is_asked_for_once() {
    let registry = Registry::start();
    let digest = registry.put_manifest("a", Some("1"), "application/vnd.oci.image.manifest.v1+json; x=y", MANIFEST);
    // Neither a wrong header nor a tag that moves matters (faults.md B15, B16).
    registry.fault(|_, real| Some(real().header("docker-content-digest", Digest::of(b"something else"))));
    let manifest = open(&registry, "a").manifest(&tag("1")).await.unwrap().unwrap();
    assert_eq!((manifest.digest, &manifest.bytes[..]), (digest, MANIFEST));
    assert_eq!(manifest.media_type, "application/vnd.oci.image.manifest.v1+json; x=y");
    assert_eq!(registry.lines(), ["GET /v2/a/manifests/1"]);
    let accept = registry.log()[0].header("accept").unwrap().to_owned();
    assert!(accept.contains(OCI_INDEX) && accept.contains("manifest.list.v2+json"), "{accept}");
    assert!(open(&registry, "a").manifest(&tag("2")).await.unwrap().is_none());
    assert!(open(&registry, "nothing/here").manifest(&tag("2")).await.unwrap().is_none());
}

#[tokio::test]
async fn manifests_that_are_not_what_was_asked_for() {
    let digest = Target::Digest(Digest::of(MANIFEST));
    for body in [&b"{}"[..], b"", b"<html>", &content(5 << 20)] {
        let registry = Registry::start();
        let answer = body.to_vec();
        // A header that says what we want to hear must not help (GHSA-qv35-3gw6-8q4j).
        registry.fault(move |_, _| {
            Some(Reply::new(200).body(answer.clone()).header("docker-content-digest", Digest::of(MANIFEST)))
        });
        assert_eq!(kind(open(&registry, "a").manifest(&digest).await).0, Kind::Content);
    }
    let registry = Registry::start();
    registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
    registry.fault_times(2, |_| true, |real| real().ending(Ending::Cut(5)));
    assert_eq!(open(&registry, "a").manifest(&digest).await.unwrap().unwrap().bytes, MANIFEST);
    assert_eq!(registry.log().len(), 3);
}

#[tokio::test]
async fn a_download_goes_on_where_it_was_cut() {
    let bytes = content(100_000);
    type Change = fn(&Request, Reply) -> Reply;
    let whole: Change = |_, mut reply| {
        if reply.status == 206 {
            reply.headers.retain(|(name, _)| name != "content-range");
            reply.status = 200;
            reply.body = content(100_000);
        }
        reply
    };
    let cases: [(&str, Change, usize); 9] = [
        ("206", |_, reply| reply, 2),
        ("200 with everything", whole, 2),
        (
            "206 of another range",
            |r, reply| match r.header("range") {
                Some(_) => reply.header("content-range", "bytes 0-99999/100000"),
                None => reply,
            },
            3,
        ),
        (
            "206 of another size",
            |r, reply| match r.header("range") {
                Some(_) => reply.header("content-range", "bytes 30000-99999/100001"),
                None => reply,
            },
            3,
        ),
        (
            "206 without Content-Range",
            |_, mut reply| {
                reply.headers.retain(|(name, _)| name != "content-range");
                reply
            },
            3,
        ),
        ("416", |r, reply| if r.header("range").is_some() { Reply::new(416) } else { reply }, 3),
        ("503 first", |_, reply| reply, 2),
        ("no length", |_, reply| reply, 2),
        ("dropped first", |_, reply| reply, 2),
    ];
    for (name, change, requests) in cases {
        let registry = Registry::start();
        registry.put_blob("a", &bytes);
        let count = AtomicUsize::new(0);
        registry.fault(move |r, real| {
            let reply = change(r, real());
            Some(match (count.fetch_add(1, Ordering::SeqCst), name) {
                (0, "no length") => {
                    let mut reply = reply.ending(Ending::Unannounced);
                    reply.body.truncate(30_000);
                    reply
                }
                (0, "503 first") => Reply::new(503),
                (0, "dropped first") => reply.ending(Ending::Dropped),
                (0, _) => reply.ending(Ending::Cut(30_000)),
                _ => reply,
            })
        });
        let client = client_with("{}", |_| {});
        let got = read(&repository(&client, &registry, "a"), &bytes, 0).await;
        assert!(got.as_ref().is_ok_and(|got| *got == bytes), "{name}: {:?}", got.map(|g| g.len()));
        assert_eq!(registry.log().len(), requests, "{name}");
        assert_eq!(client.traffic().requests, requests as u64);
        for range in registry.log().iter().filter_map(|r| r.header("range")) {
            assert!(range.starts_with("bytes=") && range.ends_with("-99999"), "{range}");
        }
    }
}

#[tokio::test]
async fn downloads_start_anywhere() {
    let bytes = content(1000);
    let registry = Registry::start();
    registry.put_blob("a", &bytes);
    registry.put_blob("a", b"");
    let repository = open(&registry, "a");
    for offset in [0, 1, 999, 1000] {
        assert_eq!(read(&repository, &bytes, offset).await.unwrap(), &bytes[offset as usize..]);
    }
    assert_eq!(read(&repository, b"", 0).await.unwrap(), b"");
    assert!(read(&repository, &bytes, 1001).await.is_err());
    let (kind, message) = kind(read(&repository, b"missing", 0).await);
    assert!(kind == Kind::NotFound && message.contains("also say «not found» of what one may not see"), "{message}");
}

#[tokio::test]
async fn downloads_that_cannot_be_right() {
    let bytes = content(1000);
    type Change = fn(Reply) -> Reply;
    let cases: [(&str, Change); 5] = [
        ("too long", |reply| reply.body(content(1001))),
        ("too short", |reply| reply.body(content(999))),
        ("gzip", |reply| reply.body(content(500)).header("content-encoding", "gzip")),
        ("endless", |reply| reply.body(content(5000)).ending(Ending::Unannounced)),
        ("partial", |reply| Reply { status: 206, ..reply }),
    ];
    for (name, change) in cases {
        let registry = Registry::start();
        registry.put_blob("a", &bytes);
        registry.fault(move |_, real| Some(change(real())));
        let client = client_with("{}", |_| {});
        let (kind, message) = kind(read(&repository(&client, &registry, "a"), &bytes, 0).await);
        assert_eq!(kind, Kind::Content, "{name}");
        assert_eq!(client.traffic().downloaded > 0, name == "endless", "{name}: refused before it is read");
        assert!(name != "gzip" || message.contains("Content-Encoding: gzip"), "{message}");
    }
    // A label that changes nothing does no harm.
    let registry = Registry::start();
    registry.put_blob("a", &bytes);
    registry.fault(|_, real| Some(real().header("content-encoding", "gzip")));
    assert_eq!(read(&open(&registry, "a"), &bytes, 0).await.unwrap(), bytes);
    assert_eq!(registry.log()[0].header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn a_download_without_progress_ends() {
    let bytes = content(1000);
    let registry = Registry::start();
    registry.put_blob("a", &bytes);
    registry.fault(|_, real| Some(real().ending(Ending::Cut(0))));
    let (kind, message) = kind(read(&open(&registry, "a"), &bytes, 0).await);
    assert_eq!(kind, Kind::Failed, "{message}");
    assert_eq!(registry.log().len(), 5);
    // With some there is no end before the end.
    registry.clear_log();
    registry.fault(|_, real| Some(real().ending(Ending::Cut(100))));
    assert_eq!(read(&open(&registry, "a"), &bytes, 0).await.unwrap(), bytes);
    assert_eq!(registry.log().len(), 10);
}

// faults.md B18
#[tokio::test]
async fn a_slow_upload_is_waited_for_and_a_stuck_one_is_not() {
    let bytes = content(1000);
    let client = client_with("{}", |options| options.stall = Duration::from_millis(100));
    let all = bytes.clone();
    // Twice as slow as what is put up with when nothing moves.
    let slow = Content::elsewhere("from", move |_| {
        let pieces: Vec<_> = all.chunks(100).map(Bytes::copy_from_slice).collect();
        async move {
            let pieces = stream::iter(pieces).then(async |piece| {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(piece)
            });
            Ok(Box::pin(pieces) as capatch::transport::ByteStream)
        }
    });
    let registry = Registry::start();
    let target = repository(&client, &registry, "b");
    assert_eq!(target.push_blob(&describe(&bytes), &slow, None).await.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.count("PUT", "/blobs/"), 1);
    let registry = Registry::start();
    registry.fault_times(1, |r| r.method == "PUT", |_| Reply::new(200).ending(Ending::Silent));
    assert_eq!(push(&repository(&client, &registry, "b"), &bytes, None).await.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.count("PUT", "/blobs/"), 2);
}

#[tokio::test]
async fn silence_is_not_waited_for() {
    let registry = Registry::start();
    registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
    registry.fault_times(1, |_| true, |real| real().ending(Ending::Silent));
    let client = client_with("{}", |options| options.stall = Duration::from_millis(100));
    repository(&client, &registry, "a").manifest(&tag("1")).await.unwrap().unwrap();
}

#[tokio::test]
async fn rate_limits() {
    for (status, retry_after, body, expected) in [
        (429, Some("1"), "Too Many Requests (HAP429)", Ok(())),
        (429, None, "", Ok(())),
        (429, Some("soon"), "", Ok(())),
        (429, Some("1000000000"), "", Err(Kind::RateLimited)),
        (429, Some("Fri, 31 Dec 9999 23:59:59 GMT"), "", Err(Kind::RateLimited)),
        (403, None, r#"{"message":"You have exceeded a secondary rate limit"}"#, Ok(())),
        (403, Some("120"), "", Err(Kind::RateLimited)),
        (403, None, r#"{"errors":[{"code":"DENIED","message":"no"}]}"#, Err(Kind::Denied)),
        (503, Some("120"), "", Err(Kind::Failed)),
        (500, None, "", Ok(())),
        (502, None, "", Ok(())),
        (408, None, "", Ok(())),
        (400, None, "", Err(Kind::Failed)),
    ] {
        let registry = Registry::start();
        registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
        registry.fault_times(
            1,
            |_| true,
            move |_| {
                let reply = Reply::new(status).body(body);
                match retry_after {
                    Some(value) => reply.header("retry-after", value),
                    None => reply,
                }
            },
        );
        let begin = Instant::now();
        let answer = open(&registry, "a").manifest(&tag("1")).await;
        match expected {
            Ok(()) => assert!(answer.unwrap().is_some()),
            Err(expected) => {
                let (kind, message) = kind(answer);
                assert_eq!(kind, expected, "{status}: {message}");
                assert!(retry_after != Some("120") || message.contains("120 seconds"), "{message}");
            }
        }
        assert!(retry_after != Some("1") || begin.elapsed() >= Duration::from_millis(990));
    }
    let registry = Registry::start();
    registry.fault(|_, _| Some(Reply::error(503, "UNAVAILABLE")));
    let (kind, message) = kind(open(&registry, "a").manifest(&tag("1")).await);
    assert_eq!((kind, registry.log().len()), (Kind::Failed, 5));
    assert!(message.contains("because of UNAVAILABLE"), "{message}");
}

// faults.md B19
#[tokio::test]
async fn the_limit_that_one_request_met_is_waited_for_by_all() {
    let registry = Registry::start();
    registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
    let begin = Instant::now();
    registry.fault(move |_, _| {
        (begin.elapsed() < Duration::from_millis(900)).then(|| Reply::new(429).header("retry-after", 1))
    });
    let repository = open(&registry, "a");
    let (one, others) = (tag("1"), [tag("1"), tag("1"), tag("1"), tag("1")]);
    let first = repository.manifest(&one);
    let later = async {
        while registry.log().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        futures_util::future::join_all(others.iter().map(|target| repository.manifest(target))).await
    };
    let (first, later) = tokio::join!(first, later);
    assert!(first.unwrap().is_some() && later.into_iter().all(|answer| answer.unwrap().is_some()));
    assert_eq!(registry.log().len(), 1 + 5, "only the first was refused");
}

#[tokio::test]
async fn rate_limits_are_put_up_with_for_as_long_as_was_said() {
    for (max_wait, times, expected) in [(60, 12, None), (0, 12, Some(Kind::RateLimited))] {
        let registry = Registry::start();
        registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
        registry.fault_times(times, |_| true, |_| Reply::new(429));
        let client = client_with("{}", |options| options.max_wait = Duration::from_secs(max_wait));
        let answer = repository(&client, &registry, "a").manifest(&tag("1")).await;
        assert_eq!(answer.err().map(|e| e.kind()), expected, "{max_wait}");
    }
}

#[tokio::test]
async fn a_limit_that_was_waited_for_in_vain_is_not_waited_for_again() {
    let registry = Registry::start();
    registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
    let client = client_with("{}", |options| {
        (options.max_wait, options.retry_base) = (Duration::from_millis(200), Duration::from_millis(10));
    });
    let manifest = || async {
        registry.clear_log();
        let answer = repository(&client, &registry, "a").manifest(&tag("1")).await;
        (answer.err().map(|e| e.kind()), registry.log().len())
    };
    registry.fault(|_, _| Some(Reply::new(429)));
    let (kind, asked) = manifest().await;
    assert!(kind == Some(Kind::RateLimited) && asked > 1, "{kind:?} {asked}");
    // It may have given up a moment before.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(manifest().await, (Some(Kind::RateLimited), 1));
    registry.fault(|_, _| None);
    assert_eq!(manifest().await, (None, 1));
    registry.fault(|_, _| Some(Reply::new(429)));
    assert!(manifest().await.1 > 1, "another limit, another time");
}

#[tokio::test]
async fn a_web_page_is_no_manifest() {
    let registry = Registry::start();
    registry.fault(|_, _| Some(Reply::new(200).header("content-type", "text/html").body("\n<html>log in")));
    let (kind, message) = kind(open(&registry, "a").manifest(&tag("1")).await);
    assert!(kind == Kind::Content && message.contains("web page"), "{message}");
}

/// The command itself, with a home that has no credentials.
fn capatch(arguments: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_capatch"));
    command.args(arguments).env_clear().env("HOME", "/does/not/exist").output().unwrap()
}

const KONG: &str = concat!("oci:", env!("CARGO_MANIFEST_DIR"), "/testdata/kong:3.9");

#[tokio::test]
async fn force_replaces_what_cannot_be_read() {
    let registry = Registry::start();
    registry.put_manifest("a", Some("1"), "application/vnd.docker.distribution.manifest.v1+json", b"{}");
    let name = format!("{}/a:1", registry.host());
    let refused = capatch(&["patch", KONG, &name]);
    assert_eq!(refused.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--force"));
    assert!(registry.manifest("a", "1").unwrap().1 == b"{}");
    let forced = capatch(&["patch", KONG, &name, "--force"]);
    assert_eq!(forced.status.code(), Some(0), "{}", String::from_utf8_lossy(&forced.stderr));
    assert!(registry.manifest("a", "1").unwrap().1 != b"{}");
}

#[tokio::test]
async fn a_file_for_the_digest_is_no_reason_to_lose_the_digest() {
    let registry = Registry::start();
    let name = format!("{}/a:1", registry.host());
    let nowhere = capatch(&["patch", KONG, &name, "--digestfile", "/does/not/exist"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(registry.log().is_empty(), "refused before anything is done");
    let full = capatch(&["patch", KONG, &name, "--digestfile", "/dev/full"]);
    assert_eq!(full.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&full.stdout).contains("@sha256:"), "what was published is told");
}

// faults.md B15
#[tokio::test]
async fn a_header_that_names_another_digest_is_told() {
    let registry = Registry::start();
    let digest = registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
    let sha512 = |bytes: &[u8]| {
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(bytes);
        hasher.finish().to_string()
    };
    for (said, told) in [
        (Digest::of(b"something else").to_string(), true),
        (sha512(b"something else"), true),
        (sha512(MANIFEST), false),
        (digest.to_string().to_uppercase(), false),
        ("sha256:00".into(), false),
        (String::new(), false),
    ] {
        let (header, name) = (said.clone(), format!("{}/a:1", registry.host()));
        registry.fault(move |_, real| Some(real().header("docker-content-digest", &header)));
        let text = String::from_utf8(capatch(&["inspect", &name]).stderr).unwrap();
        let expected = format!("the registry says that this is {said}, but it is {digest}");
        assert!(text.contains(&expected) == told && text.contains("the manifest has no 'config'"), "{said}: {text}");
    }
}

#[tokio::test]
async fn documents_that_a_proxy_compressed() {
    for part in ["/manifests/", "/tags/", "/token"] {
        for (body, told) in [(Some(&b"\x1f\x8b\x08\0\0"[..]), true), (None, false)] {
            let registry = Registry::with(Auth::Bearer(bearer()));
            let digest = registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
            registry.fault(move |r, real| {
                let labelled = |reply: Reply| reply.header("content-encoding", "gzip");
                let sent = |reply: Reply| body.map_or(reply.clone(), |body| reply.clone().body(body));
                r.path.contains(part).then(|| labelled(sent(real())))
            });
            let repository = repository(&client_with(&password(&registry, SECRET), |_| {}), &registry, "a");
            let answers = if part == "/tags/" {
                vec![repository.tags().await.map(drop)]
            } else {
                let by_digest = Target::Digest(digest);
                vec![repository.manifest(&tag("1")).await.map(drop), repository.manifest(&by_digest).await.map(drop)]
            };
            for answer in answers {
                if told {
                    let (kind, message) = kind(answer);
                    assert!(kind == Kind::Content && message.contains("Content-Encoding: gzip"), "{part}: {message}");
                    assert!(message.contains("proxy"), "{part}: {message}");
                } else {
                    answer.unwrap();
                }
            }
        }
    }
}

#[tokio::test]
async fn what_is_logged_to_a_pipe_has_no_colours() {
    let registry = Registry::start();
    let output = capatch(&["inspect", &format!("{}/a:1", registry.host()), "-vv"]);
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("GET http://") && !text.contains('\x1b'), "{text}");
}

#[test]
fn mistakes_on_the_command_line() {
    for (arguments, said) in [
        (&["patch", KONG, "oci:x:1", "--listen", "0.0.0.0:80"][..], "--listen=VALUE"),
        (&["inspect", KONG, "--plain-http", "http://r.io"], "without http://"),
        (&["inspect", KONG, "--realm-host", "r.io/token"], "without a path"),
    ] {
        let output = capatch(arguments);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(said), "{text}");
        let json = capatch(&[arguments, &["--json"]].concat()).stdout;
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["error"]["kind"], "usage");
    }
}

#[test]
fn columns_stay_apart() {
    let text = String::from_utf8(capatch(&["inspect", KONG, "--no-layers"]).stdout).unwrap();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        assert_eq!(line.as_bytes()[15], b' ', "{line}");
    }
}

#[tokio::test]
async fn nobody_there() {
    // Bound, so that nobody else gets the port, and not listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let name = reference::Repository { registry: format!("localhost:{}", address.port()), path: "a".into() };
    let client = client_with("{}", |_| {});
    let error = client.repository(&name).unwrap().manifest(&tag("1")).await.unwrap_err();
    let expected = format!("cannot connect to localhost:{}: connection refused", address.port());
    assert!(error.to_string().ends_with(&expected), "{error}");
}

#[tokio::test]
async fn blobs_are_found_by_head() {
    let registry = Registry::start();
    registry.put_blob("a", b"hello");
    let repository = open(&registry, "a");
    assert!(repository.has_blob(&describe(b"hello")).await.unwrap());
    assert!(!repository.has_blob(&describe(b"other")).await.unwrap());
    assert!(!open(&registry, "b").has_blob(&describe(b"hello")).await.unwrap());
    let wrong = Descriptor::new("x", Digest::of(b"hello"), 6).unwrap();
    assert!(!repository.has_blob(&wrong).await.unwrap());
    for (body, ending, there) in [
        ("", Ending::Complete, false),
        ("hell", Ending::Complete, false),
        ("hello", Ending::Complete, true),
        ("hello", Ending::Unannounced, true),
    ] {
        registry.fault(move |r, _| (r.method == "HEAD").then(|| Reply::new(200).body(body).ending(ending)));
        assert_eq!(repository.has_blob(&describe(b"hello")).await.unwrap(), there, "{body} {ending:?}");
    }
    registry.fault(|r, _| (r.method == "HEAD").then(|| Reply::new(403)));
    assert!(repository.has_blob(&describe(b"hello")).await.unwrap());
    registry.fault(|r, _| Some(if r.method == "HEAD" { Reply::new(403) } else { Reply::error(403, "DENIED") }));
    let (_, message) = kind(repository.has_blob(&describe(b"hello")).await);
    assert!(message.contains("because of DENIED"), "{message}");
}

#[tokio::test]
async fn mounts_and_what_registries_make_of_them() {
    let bytes = content(1000);
    // The status of the answer to the mount, and how the blob got there.
    for (status, pushed) in [
        (201, Pushed::Mounted),
        (202, Pushed::Uploaded),
        (400, Pushed::Uploaded),
        (401, Pushed::Uploaded),
        (403, Pushed::Uploaded),
        (404, Pushed::Uploaded),
        (405, Pushed::Uploaded),
        (500, Pushed::Uploaded),
    ] {
        let registry = Registry::start();
        if status == 201 {
            registry.put_blob("source/x", &bytes);
        }
        registry
            .fault(move |r, real| (r.query("mount").is_some() && status >= 400).then(|| Reply { status, ..real() }));
        assert_eq!(push(&open(&registry, "b"), &bytes, Some("source/x")).await.unwrap(), pushed, "{status}");
        assert_eq!(registry.blob("b", &Digest::of(&bytes)).unwrap(), bytes);
        let posts = if status >= 400 { 2 } else { 1 };
        // 401 may be answered by a ping.
        assert_eq!(registry.count("POST", "/blobs/uploads/"), posts, "{status}");
        assert_eq!(registry.open_uploads(), if status >= 400 { 1 } else { 0 }, "the mount's own session is not ours");
    }
}

#[tokio::test]
async fn a_mount_asks_to_pull_from_the_source_too() {
    let bytes = content(10);
    let registry = Registry::with(Auth::Bearer(bearer()));
    registry.put_blob("source", &bytes);
    let client = client_with(&password(&registry, SECRET), |_| {});
    let repository = repository(&client, &registry, "b").for_push();
    assert!(!repository.has_blob(&describe(&bytes)).await.unwrap());
    assert_eq!(push(&repository, &bytes, Some("source")).await.unwrap(), Pushed::Mounted);
    let log = registry.log();
    let scopes: Vec<_> = log.iter().flat_map(|r| &r.query).filter(|(n, _)| n == "scope").map(|(_, v)| &v[..]).collect();
    assert_eq!(scopes, ["repository:b:pull,push", "repository:b:pull,push", "repository:source:pull"]);
}

// faults.md E4
#[tokio::test]
async fn who_may_not_read_the_source_sends_the_blob() {
    let bytes = content(10);
    let registry = Registry::with(Auth::Bearer(bearer()));
    registry.put_blob("source", &bytes);
    registry.fault(|r, _| {
        let is_asked = r.path == "/token" && r.query.iter().any(|(_, value)| value.contains("source"));
        is_asked.then(|| Reply::error(403, "DENIED"))
    });
    let client = client_with(&password(&registry, SECRET), |_| {});
    let target = repository(&client, &registry, "b").for_push();
    assert_eq!(push(&target, &bytes, Some("source")).await.unwrap(), Pushed::Uploaded);
    assert_eq!(registry.blob("b", &Digest::of(&bytes)).unwrap(), bytes);
}

#[tokio::test]
async fn uploads_send_the_length_and_keep_the_location() {
    for bytes in [content(0), content(1), content(300_000)] {
        let registry = Registry::start();
        let client = client_with("{}", |_| {});
        let target = repository(&client, &registry, "b");
        let spool = Spool::from_reader(&mut &bytes[..]).unwrap();
        let again = bytes.clone();
        let elsewhere = Content::elsewhere("from", move |offset| {
            let rest = again[offset as usize..].to_vec();
            async move { Ok(from_reader(std::io::Cursor::new(rest))) }
        });
        for content in [Content::from(spool), elsewhere] {
            assert_eq!(target.push_blob(&describe(&bytes), &content, None).await.unwrap(), Pushed::Uploaded);
        }
        assert_eq!(registry.blob("b", &Digest::of(&bytes)).unwrap(), bytes);
        assert_eq!(registry.lines().len(), 4, "{:?}", registry.lines());
        assert_eq!(client.traffic().uploaded, 2 * bytes.len() as u64);
        for put in registry.log().iter().filter(|r| r.method == "PUT") {
            assert_eq!(put.header("content-length").unwrap(), bytes.len().to_string());
            assert_eq!(put.query[0], ("_state".into(), "a+b".into()));
        }
    }
}

#[tokio::test]
async fn wrong_content_is_never_completed() {
    let bytes = content(300_000);
    let mut flipped = bytes.clone();
    flipped[150_000] ^= 1;
    for wrong in [flipped, bytes[..299_999].to_vec(), [&bytes[..], b"x"].concat(), Vec::new()] {
        for in_pieces in [false, true] {
            let registry = Registry::start();
            if in_pieces {
                registry.fault(|r, _| (r.method == "PUT" && !r.body.is_empty()).then(|| Reply::new(405)));
            }
            let spool = Spool::from_reader(&mut &wrong[..]).unwrap();
            let client = client_with("{}", |options| options.chunk = 50_000);
            let target = repository(&client, &registry, "b");
            let (kind, message) = kind(target.push_blob(&describe(&bytes), &spool.into(), None).await);
            assert_eq!(kind, Kind::Content, "{message}");
            assert!(registry.blob("b", &Digest::of(&bytes)).is_none());
            assert!(registry.log().iter().all(|r| r.method != "PUT" || !r.complete));
            assert_eq!(registry.open_uploads(), 0, "the session is cancelled");
        }
    }
    // The content's own failure is what is told.
    let registry = Registry::start();
    let broken = Content::elsewhere("from", |_| async {
        let pieces = [Ok(Bytes::from_static(b"abc")), Err(Error::not_found("the source is gone"))];
        Ok(Box::pin(stream::iter(pieces)) as capatch::transport::ByteStream)
    });
    let (kind, message) = kind(open(&registry, "b").push_blob(&describe(&bytes), &broken, None).await);
    assert_eq!(kind, Kind::NotFound);
    assert!(message.contains("the source is gone"), "{message}");
}

#[tokio::test]
async fn an_upload_is_not_sent_elsewhere() {
    for location in
        ["http://ELSEWHERE/up", "https://169.254.169.254/up", "http://u:p@REGISTRY/up", "http://[", "ftp://x/"]
    {
        let (registry, elsewhere) = (Registry::start(), Registry::start());
        let location = location.replace("ELSEWHERE", &elsewhere.host()).replace("REGISTRY", &registry.host());
        registry.fault(move |_, _| Some(Reply::new(202).header("location", &location)));
        assert_eq!(kind(push(&open(&registry, "b"), b"x", None).await).0, Kind::Content);
        assert!(elsewhere.log().is_empty());
        assert_eq!(registry.lines().len(), 1);
    }
}

#[tokio::test]
async fn pieces_for_registries_that_want_them() {
    let bytes = content(1_000_000);
    type Change = fn(&Request, Reply) -> Reply;
    let cases: [(&str, Change); 7] = [
        ("plain", |_, reply| reply),
        ("201", |r, reply| if r.method == "PATCH" { Reply { status: 201, ..reply } } else { reply }),
        ("204", |r, reply| if r.method == "PATCH" { Reply { status: 204, ..reply } } else { reply }),
        ("bytes=", |r, mut reply| {
            if r.method == "PATCH" {
                reply.headers.iter_mut().filter(|(n, _)| n == "range").for_each(|(_, v)| *v = format!("bytes={v}"));
            }
            reply
        }),
        ("no Range", |_, mut reply| {
            reply.headers.retain(|(n, _)| n != "range");
            reply
        }),
        ("relative Range", |r, reply| match r.method.as_str() {
            "PATCH" => reply.header("range", format!("0-{}", r.body.len() - 1)),
            _ => reply,
        }),
        ("minimum", |r, reply| match r.method.as_str() {
            "POST" => reply.header("oci-chunk-min-length", 400_000),
            _ => reply,
        }),
    ];
    for (name, change) in cases {
        let registry = Registry::start();
        registry.fault(move |r, real| {
            if r.method == "PUT" && !r.body.is_empty() {
                return Some(Reply::new(413));
            }
            Some(change(r, real()))
        });
        let client = client_with("{}", |options| options.chunk = 300_000);
        assert_eq!(push(&repository(&client, &registry, "b"), &bytes, None).await.unwrap(), Pushed::Uploaded, "{name}");
        assert_eq!(registry.blob("b", &Digest::of(&bytes)).unwrap(), bytes, "{name}");
        let sizes: Vec<_> = registry.log().iter().filter(|r| r.method == "PATCH").map(|r| r.body.len()).collect();
        let expected =
            if name == "minimum" { &[400_000, 400_000, 200_000][..] } else { &[300_000, 300_000, 300_000, 100_000] };
        assert_eq!(sizes, expected, "{name}");
        assert_eq!(registry.count("GET", "/uploads/"), 0, "nothing is unclear: {name}");
    }
}

#[tokio::test]
async fn pieces_for_registries_that_call_a_whole_blob_a_mismatch() {
    let bytes = content(1000);
    for code in ["SIZE_INVALID", "DIGEST_INVALID"] {
        for takes_pieces in [true, false] {
            let registry = Registry::start();
            registry.fault(move |r, _| {
                let refused = r.method == "PUT" && (!takes_pieces || !r.body.is_empty());
                refused.then(|| Reply::error(400, code))
            });
            let answer = push(&open(&registry, "b"), &bytes, None).await;
            assert_eq!(registry.open_uploads(), 0, "{code}");
            assert_eq!(registry.count("PUT", "/uploads/"), 2, "{code}");
            if takes_pieces {
                assert_eq!(answer.unwrap(), Pushed::Uploaded, "{code}");
                assert_eq!(registry.blob("b", &Digest::of(&bytes)).unwrap(), bytes, "{code}");
            } else {
                let (kind, message) = kind(answer);
                assert!(kind == Kind::Content && message.contains("got something else"), "{message}");
            }
        }
    }
}

#[tokio::test]
async fn pieces_for_proxies_that_hang_up_on_long_bodies() {
    let bytes = content(20_000_000);
    let registry = Registry::start();
    registry.limit_bodies(5_000_000);
    assert_eq!(push(&open(&registry, "b"), &bytes, None).await.unwrap(), Pushed::Uploaded);
    assert!(registry.blob("b", &Digest::of(&bytes)).unwrap() == bytes);
}

#[tokio::test]
async fn smaller_pieces_for_proxies_with_a_smaller_limit() {
    let bytes = content(5_000_000);
    for (limit, fits) in [(1 << 20, true), (1000, false)] {
        let registry = Registry::start();
        registry.fault(move |r, _| (r.body.len() > limit).then(|| Reply::new(413)));
        let answer = push(&open(&registry, "b"), &bytes, None).await;
        assert_eq!(registry.blob("b", &Digest::of(&bytes)).is_some_and(|stored| stored == bytes), fits);
        if !fits {
            let (_, message) = kind(answer);
            assert!(message.contains("client_max_body_size"), "{message}");
        }
    }
}

#[tokio::test]
async fn pieces_that_arrive_in_part_or_not_at_all() {
    let bytes = content(1_000_000);
    for (name, sessions) in [
        ("half, then 202", 1),
        ("half, then 416", 1),
        ("lost", 1),
        ("503", 1),
        ("session gone", 2),
        // What cannot be right makes it begin again.
        ("behind the piece", 2),
        ("beyond the piece", 2),
    ] {
        let registry = Registry::start();
        let patches = AtomicUsize::new(0);
        let inner = registry.clone();
        registry.fault(move |r, real| {
            if r.method == "PUT" && !r.body.is_empty() {
                return Some(Reply::new(413));
            }
            if r.method != "PATCH" || patches.fetch_add(1, Ordering::SeqCst) != 1 {
                return None;
            }
            let _ = &inner;
            let reply = real();
            Some(match name {
                // What arrived is more than what is said: the registry's word counts, and its 416 corrects it.
                "half, then 202" => reply.header("range", "0-449999"),
                "half, then 416" => Reply { status: 416, ..reply },
                "behind the piece" => reply.header("range", "0-99"),
                "beyond the piece" => reply.header("range", "0-700000"),
                "lost" => reply.ending(Ending::Dropped),
                "503" => Reply::new(503),
                _ => Reply::error(404, "BLOB_UPLOAD_UNKNOWN"),
            })
        });
        let client = client_with("{}", |options| options.chunk = 300_000);
        assert_eq!(push(&repository(&client, &registry, "b"), &bytes, None).await.unwrap(), Pushed::Uploaded, "{name}");
        assert_eq!(registry.blob("b", &Digest::of(&bytes)).unwrap(), bytes, "{name}");
        // One more for the blob as a whole, which is refused.
        assert_eq!(registry.count("POST", "/blobs/uploads/"), 1 + sessions, "{name}");
    }
}

#[tokio::test]
async fn uploads_start_over() {
    let bytes = content(300_000);
    for name in ["lost after it was stored", "lost before", "503", "500 for ever", "invalid digest", "denied"] {
        let registry = Registry::start();
        let reply = move |real: &dyn Fn() -> Reply| match name {
            "lost after it was stored" => real().ending(Ending::Dropped),
            "lost before" => Reply::new(200).ending(Ending::Dropped),
            "503" => Reply::new(503),
            "500 for ever" => Reply::error(500, "DISK_FULL"),
            "invalid digest" => Reply::error(400, "DIGEST_INVALID"),
            _ => Reply::error(403, "DENIED"),
        };
        let times = match name {
            "500 for ever" => 100,
            // Once is said of the way too.
            "invalid digest" => 2,
            _ => 1,
        };
        registry.fault_times(times, |r| r.method == "PUT", reply);
        let answer = push(&open(&registry, "b"), &bytes, None).await;
        match name {
            "500 for ever" => {
                let (kind, message) = kind(answer);
                assert_eq!(kind, Kind::Failed);
                assert!(message.contains("DISK_FULL"), "{message}");
                assert_eq!(registry.count("PUT", "/blobs/"), 5);
                assert_eq!(registry.open_uploads(), 0);
            }
            "invalid digest" => assert_eq!(kind(answer).0, Kind::Content),
            "denied" => assert_eq!(kind(answer).0, Kind::Denied),
            _ => {
                assert_eq!(answer.unwrap(), Pushed::Uploaded);
                assert_eq!(registry.blob("b", &Digest::of(&bytes)).unwrap(), bytes);
                let puts = if name == "lost after it was stored" { 1 } else { 2 };
                assert_eq!(registry.count("PUT", "/blobs/"), puts, "{name}");
            }
        }
    }
}

// faults.md E13
#[tokio::test]
async fn the_end_of_an_upload_needs_no_location_and_no_201() {
    for status in [200, 201, 202, 204] {
        let registry = Registry::start();
        registry.fault(move |r, real| {
            (r.method == "PUT").then(|| {
                let mut reply = Reply { status, ..real() };
                reply.headers.clear();
                reply
            })
        });
        let repository = open(&registry, "b");
        assert_eq!(push(&repository, b"x", None).await.unwrap(), Pushed::Uploaded, "{status}");
        let stored = repository.push_manifest(&tag("1"), OCI_MANIFEST, Bytes::from_static(MANIFEST)).await;
        assert!(matches!(stored, Ok(Stored::Stored)), "{status}");
        assert_eq!(registry.count("HEAD", "/blobs/"), 0, "the answer is enough: {status}");
    }
}

// faults.md E22
#[tokio::test]
async fn a_repository_that_must_be_created_first_is_told() {
    for method in ["POST", "PUT"] {
        let registry = Registry::start();
        registry.fault(move |r, _| (r.method == method).then(|| Reply::error(404, "NAME_UNKNOWN")));
        let repository = open(&registry, "b");
        let error = match method {
            "POST" => push(&repository, b"x", None).await.unwrap_err(),
            _ => repository.push_manifest(&tag("1"), OCI_MANIFEST, Bytes::from_static(MANIFEST)).await.unwrap_err(),
        };
        assert_eq!(error.kind(), Kind::NotFound, "{method}");
        assert!(error.hint_text().unwrap().contains("create the repository first"), "{method}: {error}");
    }
}

// faults.md E29
#[tokio::test]
async fn nobody_waits_long_for_a_session_to_be_cancelled() {
    let registry = Registry::start();
    registry.fault(|r, _| (r.method == "DELETE").then(|| Reply::new(204).ending(Ending::Silent)));
    let spool = Spool::from_reader(&mut &b"wrong"[..]).unwrap();
    let (repository, wanted, content) = (open(&registry, "b"), describe(b"right"), spool.into());
    let pushed = repository.push_blob(&wanted, &content, None);
    let ended = tokio::time::timeout(Duration::from_secs(20), pushed).await.unwrap();
    assert_eq!(kind(ended).0, Kind::Content);
    assert_eq!(registry.count("DELETE", "/uploads/"), 1);
}

// faults.md B30
#[tokio::test]
async fn a_failure_is_not_remembered() {
    let registry = Registry::with(Auth::Bearer(bearer()));
    registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
    registry.fault_times(1, |r| r.path == "/token", |_| Reply::new(404));
    let repository = repository(&client_with(&password(&registry, SECRET), |_| {}), &registry, "a");
    assert!(repository.manifest(&tag("1")).await.is_err());
    assert!(repository.manifest(&tag("1")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_token_that_ends_during_an_upload_is_renewed() {
    let bytes = content(300_000);
    for in_pieces in [false, true] {
        let registry = Registry::with(Auth::Bearer(Bearer { uses: 1, ..bearer() }));
        if in_pieces {
            registry.fault(|r, _| (r.method == "PUT" && !r.body.is_empty()).then(|| Reply::new(413)));
        }
        let client = client_with(&password(&registry, SECRET), |options| options.chunk = 50_000);
        assert_eq!(push(&repository(&client, &registry, "b"), &bytes, None).await.unwrap(), Pushed::Uploaded);
        assert_eq!(registry.blob("b", &Digest::of(&bytes)).unwrap(), bytes);
    }
}

#[tokio::test]
async fn manifests_are_stored_and_read_back() {
    let registry = Registry::start();
    let repository = open(&registry, "b");
    let bytes = Bytes::from_static(MANIFEST);
    let digest = Digest::of(MANIFEST);
    assert!(matches!(repository.push_manifest(&tag("1"), OCI_MANIFEST, bytes.clone()).await, Ok(Stored::Stored)));
    assert_eq!(registry.tag("b", "1").unwrap(), digest.as_str());
    assert_eq!(registry.lines(), ["PUT /v2/b/manifests/1".into(), format!("GET /v2/b/manifests/{digest}")]);
    assert_eq!(registry.manifest("b", "1").unwrap(), (OCI_MANIFEST.into(), MANIFEST.to_vec()));
    let other = Target::Digest(Digest::of(b"other"));
    assert_eq!(kind(repository.push_manifest(&other, OCI_MANIFEST, bytes.clone()).await).0, Kind::Content);
    let by_digest = Target::Digest(digest);
    assert!(matches!(repository.push_manifest(&by_digest, OCI_MANIFEST, bytes).await, Ok(Stored::Stored)));
    let large = Bytes::from(content(5 << 20));
    assert_eq!(kind(repository.push_manifest(&tag("1"), OCI_MANIFEST, large).await).0, Kind::Content);
}

/// A tag that moved, or may have, is never passed over in silence (faults.md E16, E24).
#[tokio::test]
async fn an_error_says_what_the_tag_names_by_then() {
    const OLD: &[u8] = br#"{"schemaVersion":2,"old":1}"#;
    const OTHER: &[u8] = br#"{"schemaVersion":2,"somebody":"else"}"#;
    type Fault = fn(&Registry, &Request, &dyn Fn() -> Reply) -> Option<Reply>;
    let digest = |bytes: &[u8]| Digest::of(bytes).to_string();
    type Expected = Result<(), (Kind, String)>;
    let cases: [(&str, Fault, Expected); 9] = [
        (
            "stored, and no answer arrives",
            |_, r, real| {
                (r.method == "PUT").then(|| {
                    real();
                    Reply::new(200).ending(Ending::Dropped)
                })
            },
            Ok(()),
        ),
        (
            "stored, and 502",
            |_, r, real| {
                (r.method == "PUT").then(|| {
                    real();
                    Reply::new(502)
                })
            },
            Ok(()),
        ),
        (
            "never stored",
            |_, r, _| (r.method == "PUT").then(|| Reply::new(200).ending(Ending::Dropped)),
            Err((Kind::Failed, format!("the tag names {} now", digest(OLD)))),
        ),
        (
            "never stored, and 503",
            |_, r, _| (r.method == "PUT").then(|| Reply::new(503)),
            Err((Kind::Failed, format!("the tag names {} now", digest(OLD)))),
        ),
        (
            "no answer, and somebody else moves it",
            |registry, r, real| {
                (r.method == "PUT").then(|| {
                    real();
                    registry.put_manifest("b", Some("1"), OCI_MANIFEST, OTHER);
                    Reply::new(200).ending(Ending::Dropped)
                })
            },
            Err((Kind::Failed, format!("the tag names {} now", digest(OTHER)))),
        ),
        (
            "somebody else moves it behind us, which is no failure of ours",
            |registry, r, _| {
                if r.is("GET", "/manifests/sha256:") {
                    registry.put_manifest("b", Some("1"), OCI_MANIFEST, OTHER);
                }
                None
            },
            Ok(()),
        ),
        (
            "other bytes by digest",
            |_, r, _| r.is("GET", "/manifests/sha256:").then(|| Reply::new(200).body(OTHER)),
            Err((Kind::Content, format!("the tag names {} now", digest(MANIFEST)))),
        ),
        (
            "other bytes by any name",
            |_, r, _| (r.method == "GET").then(|| Reply::new(200).body(OTHER)),
            Err((Kind::Content, format!("the tag names {} now", digest(OTHER)))),
        ),
        (
            "nothing can be read",
            |_, r, _| (r.method == "GET").then(|| Reply::new(500)),
            Err((Kind::Failed, "whether the tag has moved is not known".to_owned())),
        ),
    ];
    for (name, fault, expected) in cases {
        let registry = Registry::start();
        registry.put_manifest("b", Some("1"), OCI_MANIFEST, OLD);
        let server = registry.clone();
        registry.fault(move |request, real| fault(&server, request, real));
        let result = open(&registry, "b").push_manifest(&tag("1"), OCI_MANIFEST, Bytes::from_static(MANIFEST)).await;
        match (result, expected) {
            (Ok(Stored::Stored), Ok(())) => {}
            (Err(error), Err((kind, words))) => {
                assert!(error.kind() == kind && error.to_string().contains(&words), "{name}: {error}");
                assert!(error.hint_text().is_some(), "{name}");
            }
            (result, expected) => panic!("{name}: {result:?}, not {expected:?}"),
        }
    }
}

#[tokio::test]
async fn manifests_that_registries_do_not_keep_as_they_are() {
    type Change = fn(&Request, Reply) -> Reply;
    let cases: [(&str, Change, Option<Kind>); 8] = [
        (
            "other digest",
            |r, reply| match r.method.as_str() {
                "PUT" => reply.header("docker-content-digest", Digest::of(b"other")),
                _ => reply,
            },
            Some(Kind::Content),
        ),
        (
            "no digest",
            |_, mut reply| {
                reply.headers.retain(|(n, _)| n != "docker-content-digest");
                reply
            },
            None,
        ),
        ("empty digest", |_, reply| reply.header("docker-content-digest", ""), None),
        (
            "other bytes",
            |r, reply| if r.method == "GET" { reply.body("{\"schemaVersion\": 2}") } else { reply },
            Some(Kind::Content),
        ),
        ("not there", |r, reply| if r.method == "GET" { Reply::new(404) } else { reply }, Some(Kind::Failed)),
        (
            "lost answer",
            |r, reply| match r.header("x") {
                None if r.method == "PUT" => reply,
                _ => reply,
            },
            None,
        ),
        ("413", |r, reply| if r.method == "PUT" { Reply::new(413) } else { reply }, Some(Kind::Failed)),
        (
            "name unknown",
            |r, reply| if r.method == "PUT" { Reply::error(404, "NAME_UNKNOWN") } else { reply },
            Some(Kind::NotFound),
        ),
    ];
    for (name, change, expected) in cases {
        let registry = Registry::start();
        let first = AtomicUsize::new(0);
        registry.fault(move |r, real| {
            let reply = change(r, real());
            let dropped = name == "lost answer" && first.fetch_add(1, Ordering::SeqCst) == 0;
            Some(if dropped { reply.ending(Ending::Dropped) } else { reply })
        });
        let answer = open(&registry, "b").push_manifest(&tag("1"), OCI_MANIFEST, Bytes::from_static(MANIFEST)).await;
        match expected {
            None => assert!(matches!(answer, Ok(Stored::Stored)), "{name}: {answer:?}"),
            Some(expected) => assert_eq!(kind(answer).0, expected, "{name}"),
        }
    }
}

#[tokio::test]
async fn tags_that_do_not_move() {
    for (status, code, there, expected) in [
        (400, "TAG_INVALID", Some(MANIFEST), None),
        (409, "X", Some(MANIFEST), None),
        (400, "TAG_INVALID", Some(&b"{}"[..]), Some(Kind::DestinationRefused)),
        (409, "X", Some(b"{}"), Some(Kind::DestinationRefused)),
        (400, "MANIFEST_INVALID", Some(b"{}"), Some(Kind::Failed)),
        (403, "DENIED", Some(b"{}"), Some(Kind::Denied)),
        (403, "DENIED", None, Some(Kind::Denied)),
        (405, "DENIED", None, Some(Kind::Denied)),
        (400, "UNAUTHORIZED", Some(b"{}"), Some(Kind::Denied)),
        (405, "UNSUPPORTED", None, Some(Kind::Failed)),
    ] {
        let registry = Registry::start();
        if let Some(there) = there {
            registry.put_manifest("b", Some("1"), OCI_MANIFEST, there);
        }
        registry.fault(move |r, _| (r.method == "PUT").then(|| Reply::error(status, code)));
        let answer = open(&registry, "b").push_manifest(&tag("1"), OCI_MANIFEST, Bytes::from_static(MANIFEST)).await;
        match expected {
            None => assert!(matches!(answer, Ok(Stored::Stored)), "{status} {code}: {answer:?}"),
            Some(expected) => assert_eq!(kind(answer).0, expected, "{status} {code}"),
        }
    }
}

#[tokio::test]
async fn blobs_that_the_registry_forgot() {
    let manifest = format!(r#"{{"config":{{"digest":"{}"}},"layers":[]}}"#, Digest::of(b"config"));
    let registry = Registry::start();
    let repository = open(&registry, "b");
    let bytes = Bytes::from(manifest);
    let answer = repository.push_manifest(&tag("1"), OCI_MANIFEST, bytes.clone()).await.unwrap();
    assert!(matches!(answer, Stored::BlobUnknown(_)));
    assert_eq!(registry.count("PUT", "/manifests/"), 3);
    // Replicas that lag (faults.md E18).
    registry.put_blob("b", b"config");
    registry.fault_times(2, |r| r.method == "PUT", |_| Reply::error(404, "MANIFEST_BLOB_UNKNOWN"));
    assert!(matches!(repository.push_manifest(&tag("1"), OCI_MANIFEST, bytes.clone()).await, Ok(Stored::Stored)));
    // What distribution 2 says while another client stores the same.
    registry.fault_times(2, |r| r.method == "PUT", |_| Reply::error(400, "DIGEST_INVALID"));
    assert!(matches!(repository.push_manifest(&tag("2"), OCI_MANIFEST, bytes.clone()).await, Ok(Stored::Stored)));
    registry.fault_times(3, |r| r.method == "PUT", |_| Reply::error(400, "DIGEST_INVALID"));
    assert!(repository.push_manifest(&tag("3"), OCI_MANIFEST, bytes).await.is_err());
}

#[tokio::test]
async fn credentials_of_another_registry_are_not_sent() {
    let registry = Registry::with(Auth::Basic("user", SECRET));
    let other = Registry::start();
    let client = client_with(&password(&other, SECRET), |_| {});
    assert_eq!(kind(repository(&client, &registry, "a").manifest(&tag("1")).await).0, Kind::Denied);
    assert!(registry.log().iter().all(|r| r.header("authorization").is_none()));
    // Nothing is sent before it is asked for either.
    let client = client_with(&password(&registry, SECRET), |_| {});
    let _ = repository(&client, &registry, "a").manifest(&tag("1")).await;
    let log = registry.log();
    let sent: Vec<_> = log.iter().map(|r| r.header("authorization")).collect();
    assert_eq!(sent, [None, None, Some(&basic("user", SECRET)[..])]);
}

#[tokio::test]
async fn tags_come_in_pages() {
    let registry = Registry::start();
    let page = |body: &str, link: Option<&str>| {
        let reply = Reply::new(200).body(body);
        match link {
            Some(link) => reply.header("link", format!("<{link}>; rel=\"next\"")),
            None => reply,
        }
    };
    registry.fault(move |r, _| {
        Some(match r.query("last") {
            None => page(r#"{"tags":["a",null,"b","sha256:00"]}"#, Some("/v2/x/tags/list?last=b")),
            Some("b") => page(r#"{"tags":["b","c"]}"#, Some("list?last=c")),
            _ => page(r#"{"tags":null}"#, None),
        })
    });
    assert_eq!(open(&registry, "x").tags().await.unwrap(), ["a", "b", "c"]);

    let elsewhere = Registry::start();
    let with_login = format!("http://user:{SECRET}@{}/v2/x/tags/list?last=b", registry.host());
    let other = elsewhere.url("/v2/x/tags/list");
    for link in ["/v2/x/tags/list", &other, "http://169.254.169.254/", &with_login, "http://["] {
        let link = link.to_owned();
        let to = link.clone();
        registry.fault(move |r, _| Some(page(r#"{"tags":[]}"#, (r.query("last").is_none()).then_some(&to))));
        assert_eq!(kind(open(&registry, "x").tags().await).0, Kind::Content, "{link}");
    }
    assert!(elsewhere.log().is_empty());
    registry.clear_log();
    let (full, pages) = (format!(r#"{{"tags":["{}"]}}"#, "x".repeat(3 << 20)), std::sync::atomic::AtomicUsize::new(0));
    registry.fault(move |_, _| {
        let next = pages.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Some(page(&full, Some(&format!("/v2/x/tags/list?last={next}"))))
    });
    assert_eq!(kind(open(&registry, "x").tags().await).0, Kind::Content);
    assert!(registry.log().len() < 10, "a list without an end is not read for gigabytes");
    registry.fault(|_, _| Some(Reply::new(200).body("<html>")));
    assert_eq!(kind(open(&registry, "x").tags().await).0, Kind::Content);
    registry.fault(|_, _| None);
    assert_eq!(kind(open(&registry, "x").tags().await).0, Kind::NotFound);
}

#[tokio::test]
async fn referrers_by_the_api_or_by_a_tag() {
    let subject = Digest::of(MANIFEST);
    let entry = format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":3}}"#, Digest::of(b"sig"));
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#);
    let stand_in = subject.as_str().replace(':', "-");
    for (status, media_type, tagged, expected) in [
        (200, OCI_INDEX, None, Some(1)),
        (200, "text/html", None, Some(0)),
        (200, "text/html", Some(OCI_INDEX), Some(1)),
        (404, "", Some(OCI_INDEX), Some(1)),
        (400, "", Some(OCI_INDEX), Some(1)),
        (406, "", Some(OCI_MANIFEST), Some(0)),
        (404, "", None, Some(0)),
        (501, "", Some(OCI_INDEX), Some(1)),
        (501, "", None, Some(0)),
        (505, "", Some(OCI_INDEX), None),
    ] {
        let registry = Registry::start();
        if let Some(media_type) = tagged {
            registry.put_manifest("a", Some(&stand_in), media_type, index.as_bytes());
        }
        let body = index.clone();
        registry.fault(move |r, _| {
            let reply = Reply::new(status).header("content-type", media_type).body(body.clone());
            r.path.contains("/referrers/").then_some(reply)
        });
        let found = open(&registry, "a").referrers(&subject).await;
        assert_eq!(found.ok().map(|all| all.len()), expected, "{status} {media_type} {tagged:?}");
    }
    // An empty answer is none; behind a page it is not the end of the list.
    let registry = Registry::start();
    registry.put_manifest("a", Some(&stand_in), OCI_INDEX, index.as_bytes());
    let empty = || Reply::new(200).header("content-type", OCI_INDEX);
    registry.fault(move |r, _| r.path.contains("/referrers/").then(empty));
    assert_eq!(open(&registry, "a").referrers(&subject).await.unwrap().len(), 1);
    registry.fault(move |r, _| {
        let first = || empty().body(index.clone()).header("link", "<?page=2>; rel=next");
        r.path.contains("/referrers/").then(|| if r.query("page").is_some() { empty() } else { first() })
    });
    assert_eq!(kind(open(&registry, "a").referrers(&subject).await).0, Kind::Content);
    // Broken is not the same as none.
    let registry = Registry::start();
    registry.put_manifest("a", Some(&stand_in), OCI_INDEX, br#"{"manifests":[{}]}"#);
    assert_eq!(kind(open(&registry, "a").referrers(&subject).await).0, Kind::Content);
}
