//! Which registries are trusted, and what is said of those that are not.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use capatch::error::{Kind, Result};
use capatch::oci::media_type::OCI_MANIFEST;
use capatch::oci::reference::{self, Target};
use capatch::transport::registry::{Client, Manifest, Options};
use common::library::options;
use common::registry::{Ending, Registry, Reply};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedKey, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
    generate_simple_self_signed,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

const MANIFEST: &[u8] = br#"{"schemaVersion":2}"#;

fn certificate(name: &str) -> CertifiedKey<KeyPair> {
    generate_simple_self_signed([name.to_owned()]).unwrap()
}

fn serve(certificate: &CertifiedKey<KeyPair>, client: Option<&CertifiedKey<KeyPair>>) -> Registry {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let mut roots = RootCertStore::empty();
            roots.add(client.cert.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der()));
    let registry = Registry::https(builder.with_single_cert(vec![certificate.cert.der().clone()], key).unwrap());
    registry.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
    registry
}

async fn get(host: &str, change: impl FnOnce(&mut Options)) -> Result<Option<Manifest>> {
    let empty = tempfile::NamedTempFile::new().unwrap();
    let mut options = Options { auth_file: Some(empty.path().into()), ..options() };
    change(&mut options);
    let name = reference::Repository { registry: host.into(), path: "a".into() };
    Client::new(options)?.repository(&name)?.manifest(&Target::Tag("1".into())).await
}

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join(name), text).unwrap();
}

#[tokio::test]
async fn certificates_are_trusted_by_file_and_by_host() {
    let (ours, stranger) = (certificate("127.0.0.1"), certificate("127.0.0.1"));
    let registry = serve(&ours, None);
    let host = registry.host();
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "ca.pem", &ours.cert.pem());
    write(directory.path(), "other.pem", &stranger.cert.pem());
    write(&directory.path().join("right").join(&host), "ca.crt", &ours.cert.pem());
    write(&directory.path().join("wrong").join(&host), "ca.crt", &stranger.cert.pem());
    write(&directory.path().join("broken").join(&host), "ca.crt", "no certificate");

    let file = |name: &str| Some(directory.path().join(name));
    assert!(get(&host, |o| o.ca_file = file("ca.pem")).await.unwrap().is_some());
    assert!(get(&host, |o| o.cert_dir = file("right")).await.unwrap().is_some());
    for (name, error) in [
        ("an unknown authority", get(&host, |o| o.ca_file = file("other.pem")).await),
        ("another authority for this host", get(&host, |o| o.cert_dir = file("wrong")).await),
    ] {
        let error = error.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{name}: {error}");
        assert!(error.hint_text().unwrap().contains("--ca-file"), "{name}");
    }
    let error = get(&host, |o| o.cert_dir = file("broken")).await.unwrap_err();
    assert!(error.to_string().contains("ca.crt: no certificate in PEM form"), "{error}");
    let error = get(&host, |o| o.ca_file = file("missing.pem")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    // No attempt went on without TLS, or past a certificate that was not trusted.
    assert_eq!(registry.lines(), ["GET /v2/a/manifests/1", "GET /v2/a/manifests/1"]);
}

/// What `openssl req -x509` makes for a server: it signed itself, and calls itself an authority.
fn authority(name: &str, years: (i32, i32), usages: &[ExtendedKeyUsagePurpose]) -> CertifiedKey<KeyPair> {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.extended_key_usages = usages.to_vec();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
    let signing_key = KeyPair::generate().unwrap();
    CertifiedKey { cert: params.self_signed(&signing_key).unwrap(), signing_key }
}

// A21
#[tokio::test]
async fn a_server_that_shows_a_named_authority_itself_is_trusted() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, EmailProtection, ServerAuth};
    let now = (2020, 3000);
    let (ours, stranger) = (authority("127.0.0.1", now, &[]), authority("127.0.0.1", now, &[]));
    let (elsewhere, old) = (authority("registry.test", now, &[]), authority("127.0.0.1", (1990, 2000), &[]));
    let server = authority("127.0.0.1", now, &[ClientAuth, ServerAuth]);
    let (client, any) = (authority("127.0.0.1", now, &[ClientAuth]), authority("127.0.0.1", now, &[Any]));
    let mail = authority("127.0.0.1", now, &[EmailProtection, ClientAuth]);
    for (shown, named, error) in [
        (&ours, &ours, None),
        (&ours, &stranger, Some("one of an authority")),
        (&ours, &certificate("127.0.0.1"), Some("one of an authority")),
        (&elsewhere, &elsewhere, Some("not valid for name")),
        (&old, &old, Some("xpired")),
        (&server, &server, None),
        (&any, &any, None),
        (&client, &client, Some("is not for servers")),
        (&mail, &mail, Some("is not for servers")),
    ] {
        let registry = serve(shown, None);
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "ca.pem", &named.cert.pem());
        write(&directory.path().join(registry.host()), "ca.crt", &named.cert.pem());
        for by_file in [true, false] {
            let host = registry.host();
            let answer = get(&host, |o| match by_file {
                true => o.ca_file = Some(directory.path().join("ca.pem")),
                false => o.cert_dir = Some(directory.path().into()),
            });
            match (answer.await, error) {
                (Ok(manifest), None) => assert!(manifest.is_some()),
                (Err(said), Some(words)) => assert!(said.to_string().contains(words), "{said}"),
                (answer, _) => panic!("{answer:?}, {error:?}"),
            }
        }
        assert_eq!(registry.log().is_empty(), error.is_some());
    }
}

#[tokio::test]
async fn a_certificate_is_for_its_name() {
    let ours = certificate("registry.test");
    let registry = serve(&ours, None);
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "ca.pem", &ours.cert.pem());
    let error = get(&registry.host(), |o| o.ca_file = Some(directory.path().join("ca.pem"))).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(registry.log().is_empty());
}

// A21, G7
#[tokio::test]
async fn of_a_certificate_at_the_wrong_time_the_clock_is_told() {
    for (from, to, words) in [(1990, 2000, "xpired"), (2990, 3000, "not valid")] {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        let signing_key = KeyPair::generate().unwrap();
        let ours = CertifiedKey { cert: params.self_signed(&signing_key).unwrap(), signing_key };
        let registry = serve(&ours, None);
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "ca.pem", &ours.cert.pem());
        let error = get(&registry.host(), |o| o.ca_file = Some(directory.path().join("ca.pem"))).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.hint_text().unwrap().contains("clock of this machine right? It says 20"), "{error:?}");
        assert!(registry.log().is_empty());
    }
}

// A21
#[tokio::test]
async fn an_old_tls_is_refused_and_told() {
    // A ServerHello of TLS 1.0, one of TLS 1.1, and the alert «protocol_version» (RFC 5246 §7.2, §7.4.1.3).
    let hello = |minor: u8| [&[22, 3, minor, 0, 42, 2, 0, 0, 38, 3, minor][..], &[7; 32], &[0, 0xc0, 0x14, 0]].concat();
    for answer in [hello(1), hello(2), vec![21, 3, 1, 0, 2, 2, 70]] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = count.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(&answer);
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        let ours = certificate("127.0.0.1");
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "ca.pem", &ours.cert.pem());
        let error = get(&host, |o| o.ca_file = Some(directory.path().join("ca.pem"))).await.unwrap_err();
        assert!(error.hint_text().unwrap_or_default().contains("TLS 1.2 and 1.3"), "{error:?}");
        // Nothing older is tried, nor the same again.
        assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 1, "{error}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_belongs() {
    let (ours, client) = (certificate("127.0.0.1"), certificate("client"));
    let registry = serve(&ours, Some(&client));
    let directory = tempfile::tempdir().unwrap();
    let host = directory.path().join(registry.host());
    write(&host, "ca.crt", &ours.cert.pem());
    let options = |o: &mut Options| o.cert_dir = Some(directory.path().into());
    let error = get(&registry.host(), options).await.unwrap_err();
    assert!(error.hint_text().unwrap_or_default().contains(".cert"), "{error:?}");
    write(&host, "client.cert", &client.cert.pem());
    let error = get(&registry.host(), options).await.unwrap_err();
    assert!(error.to_string().contains("client.key"), "{error}");
    write(&host, "client.key", &client.signing_key.serialize_pem());
    assert!(get(&registry.host(), options).await.unwrap().is_some());

    let good = (client.cert.pem(), client.signing_key.serialize_pem());
    let other = certificate("other").signing_key.serialize_pem();
    for (certificate, key, words) in [
        (Some(&good.0), None, "client.key: No such file"),
        (Some(&good.0), Some("no key"), "client.key: no private key in PEM form"),
        (Some(&good.0), Some(other.as_str()), "client.key is not the key of"),
        (None, Some(good.1.as_str()), "client.cert: Is a directory"),
        (Some(&good.1), Some(good.1.as_str()), "client.cert: no certificate in PEM form"),
    ] {
        std::fs::remove_dir_all(&host).unwrap();
        write(&host, "ca.crt", &ours.cert.pem());
        match certificate {
            Some(text) => write(&host, "client.cert", text),
            None => std::fs::create_dir(host.join("client.cert")).unwrap(),
        }
        if let Some(text) = key {
            write(&host, "client.key", text);
        }
        let error = get(&registry.host(), options).await.unwrap_err();
        assert!(error.kind() == Kind::Failed && error.to_string().contains(words), "{words}: {error:?}");
    }
}

#[tokio::test]
async fn of_plain_http_with_a_registry_that_speaks_tls_the_way_to_tls_is_told() {
    // rustls closes the connection; Go's and nginx's servers answer.
    let strict = serve(&certificate("127.0.0.1"), None);
    let error = get(&strict.host(), |_| {}).await.unwrap_err();
    let hint = error.hint_text().unwrap_or_default();
    assert!(hint.contains("if the registry speaks TLS") && hint.contains("--ca-file"), "{error} {hint}");
    assert!(hint.contains(&format!("{}/ca.crt", strict.host())), "{hint}");
    assert!(strict.log().is_empty());

    let polite = Registry::start();
    for (body, told) in [
        ("Client sent an HTTP request to an HTTPS server.\n", true),
        ("<html><title>400 The plain HTTP request was sent to HTTPS port</title>", true),
        ("no", false),
    ] {
        polite.fault(move |_, _| Some(Reply::new(400).body(body)));
        let error = get(&polite.host(), |_| {}).await.unwrap_err();
        let hint = error.hint_text().unwrap_or_default();
        assert_eq!(hint.contains("the registry speaks TLS: name its") && hint.contains("--ca-file"), told, "{error:?}");
    }

    // It answered before.
    let broken = Registry::start();
    broken.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
    let client = Client::new(options()).unwrap();
    let repository = client.repository(&reference::Repository { registry: broken.host(), path: "a".into() }).unwrap();
    assert!(repository.manifest(&Target::Tag("1".into())).await.unwrap().is_some());
    broken.fault(|_, _| Some(Reply::new(200).ending(Ending::Dropped)));
    let error = repository.manifest(&Target::Tag("1".into())).await.unwrap_err();
    assert!(error.to_string().contains("broke") && error.hint_text().is_none(), "{error:?}");
}

#[tokio::test]
async fn https_never_becomes_http() {
    // A registry that speaks plain http only, asked over https.
    let plain = Registry::start();
    plain.put_manifest("a", Some("1"), OCI_MANIFEST, MANIFEST);
    let ours = certificate("127.0.0.1");
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "ca.pem", &ours.cert.pem());
    let ca = Some(directory.path().join("ca.pem"));
    let error = get(&plain.host(), |o| o.ca_file = ca.clone()).await.unwrap_err();
    assert!(error.hint_text().unwrap_or_default().contains("--plain-http"), "{error} {:?}", error.hint_text());
    let options = |o: &mut Options| (o.ca_file, o.plain_http) = (ca.clone(), vec![plain.host()]);
    assert!(get(&plain.host(), options).await.unwrap().is_some());

    // Redirects and realms that leave https.
    let before = plain.log().len();
    let registry = serve(&ours, None);
    let itself = format!("http://{}/v2/a/manifests/1", registry.host());
    let challenge = format!("Bearer realm=\"{}\"", plain.url("/token"));
    for (reply, realm_host, hint) in [
        (Reply::new(302).header("location", plain.url("/v2/a/manifests/1")), None, None),
        (Reply::new(302).header("location", itself), None, Some("X-Forwarded-Proto")),
        (Reply::new(401).header("www-authenticate", &challenge), None, None),
        // Not even where the user says that the token service is trusted.
        (Reply::new(401).header("www-authenticate", &challenge), Some(plain.host()), None),
    ] {
        registry.fault(move |_, _| Some(reply.clone()));
        let named = realm_host.into_iter().collect();
        let error = get(&registry.host(), |o| (o.ca_file, o.realm_hosts) = (ca.clone(), named)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Content, "{error}");
        assert!(error.to_string().contains("https"), "{error}");
        assert!(hint.is_none_or(|hint| error.hint_text().unwrap_or_default().contains(hint)), "{error:?}");
    }
    assert_eq!(plain.log().len(), before);
}

#[tokio::test]
async fn trust_in_one_host_is_not_trust_in_another() {
    let (ours, theirs) = (certificate("127.0.0.1"), certificate("127.0.0.1"));
    let (registry, storage) = (serve(&ours, None), serve(&theirs, None));
    let directory = tempfile::tempdir().unwrap();
    write(&directory.path().join(registry.host()), "ca.crt", &ours.cert.pem());
    let target = format!("https://{}/v2/a/manifests/1", storage.host());
    registry.fault(move |_, _| Some(Reply::new(307).header("location", &target)));
    let options = |o: &mut Options| o.cert_dir = Some(directory.path().into());
    let error = get(&registry.host(), options).await.unwrap_err();
    assert!(error.to_string().contains(&storage.host()), "{error}");
    assert!(storage.log().is_empty());
    write(&directory.path().join(storage.host()), "ca.crt", &theirs.cert.pem());
    assert!(get(&registry.host(), options).await.unwrap().is_some());
}

#[test]
fn an_image_without_certificate_authorities_is_told_what_it_needs() {
    // Nothing is connected: the address is one for documentation (RFC 5737).
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_capatch"));
    command.args(["inspect", "192.0.2.1:1/a:1"]).env_clear().env("HOME", "/does/not/exist");
    let said = command.env("SSL_CERT_FILE", "/dev/null").env("SSL_CERT_DIR", "/does/not/exist").output().unwrap();
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("No CA certificates") && said.contains("--ca-file or SSL_CERT_FILE"), "{said}");
}
