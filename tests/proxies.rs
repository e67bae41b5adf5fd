//! Proxies that the environment names. The rows are those of `faults.md` (A22).

#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;
use std::sync::Arc;

use common::cli::{Run, capatch, start};
use common::image::{Image, Scene};
use common::proxy::{Policy, Proxy};
use common::registry::{Auth, Registry, basic};
use rcgen::generate_simple_self_signed;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

const USER: &str = "proxy-user";
const PASSWORD: &str = "proxy-hunter2";

/// A registry that is `registry.test` to whoever asks for it through a proxy.
struct Site {
    registry: Registry,
    scene: Scene,
    https: bool,
}

impl Site {
    fn https() -> Self {
        let scene = Scene::new();
        let ours = generate_simple_self_signed(["registry.test".to_owned()]).unwrap();
        std::fs::write(scene.path("ca.pem"), ours.cert.pem()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(ours.signing_key.serialize_der()));
        let config = builder.with_single_cert(vec![ours.cert.der().clone()], key).unwrap();
        Site { registry: Registry::https(config), scene, https: true }.filled()
    }

    fn http(auth: Auth) -> Self {
        Site { registry: Registry::with(auth), scene: Scene::new(), https: false }.filled()
    }

    fn filled(self) -> Self {
        Image::kong().build().push(&self.registry, "kong", "3.9");
        self
    }

    /// `capatch ARGUMENTS` with these variables and nothing else of the environment.
    fn command<const N: usize>(&self, arguments: [&str; N], variables: &[(&str, &str)]) -> Command {
        let mut command = capatch(arguments);
        match self.https {
            true => command.arg("--ca-file").arg(self.scene.path("ca.pem")),
            false => command.args(["--plain-http", "registry.test,0.0.0.0"]),
        };
        command.envs(variables.iter().copied());
        command
    }

    fn patch(&self, variables: &[(&str, &str)]) -> Run {
        start(self.command(["patch", "registry.test/kong:3.9", "registry.test/kong:low", "-vv"], variables))
    }
}

#[test]
fn everything_goes_through_the_proxy_and_its_password_nowhere_else() {
    for (site, variable) in [(Site::https(), "HTTPS_PROXY"), (Site::http(Auth::None), "HTTP_PROXY")] {
        let proxy = Proxy::start(&site.registry, Policy::Login(USER, PASSWORD));
        let url = format!("http://{USER}:{PASSWORD}@{}", proxy.host());
        let said = site.patch(&[(variable, &url)]).succeeded();
        assert!(site.registry.tag("kong", "low").is_some());
        let heads = proxy.heads();
        assert!(!heads.is_empty() && heads.iter().all(|head| head.contains(&basic(USER, PASSWORD))), "{heads:?}");
        assert!(!site.https || heads.iter().all(|head| head.starts_with("CONNECT registry.test:443 ")), "{heads:?}");
        for secret in [PASSWORD, &basic(USER, PASSWORD)["Basic ".len()..]] {
            assert!(!said.stderr.contains(secret) && !said.stdout.contains(secret), "{said:?}");
            for request in site.registry.log() {
                assert!(!request.text().contains(secret), "{}", request.text());
            }
        }
    }
}

#[test]
fn credentials_of_the_registry_go_through_the_tunnel_and_not_to_the_proxy() {
    let site = Site::https();
    let auth = site.scene.path("auth.json");
    let login = basic("kong", "hunter2");
    let encoded = &login["Basic ".len()..];
    std::fs::write(&auth, format!(r#"{{"auths":{{"registry.test":{{"auth":"{encoded}"}}}}}}"#)).unwrap();
    let expected = login.clone();
    site.registry.fault(move |request, _| {
        let challenge = common::registry::Reply::new(401).header("www-authenticate", "Basic realm=\"r\"");
        (request.header("authorization") != Some(&expected)).then_some(challenge)
    });
    let proxy = Proxy::start(&site.registry, Policy::Pass);
    let mut command = site.command(["inspect", "registry.test/kong:3.9"], &[("HTTPS_PROXY", &proxy.host())]);
    command.arg("--auth-file").arg(&auth);
    start(command).succeeded();
    assert!(site.registry.log().iter().any(|request| request.header("authorization") == Some(&login)));
    for head in proxy.heads() {
        assert!(!head.contains(encoded) && !head.to_ascii_lowercase().contains("authorization"), "{head}");
    }
}

// A6
#[test]
fn a_proxy_with_a_name_is_dialled_for_storage_with_a_name() {
    let site = Site::http(Auth::None);
    let proxy = Proxy::start(&site.registry, Policy::Pass);
    site.registry.fault(|request, _| {
        let here = request.is("GET", "/blobs/") && request.header("host") == Some("registry.test");
        here.then(|| {
            common::registry::Reply::new(307).header("location", format!("http://storage.test{}", request.path))
        })
    });
    // The proxy's address is private, and the registry's is not known: that of the storage is for the proxy to find out.
    let named = proxy.host().replace("127.0.0.1", "localhost");
    site.patch(&[("HTTP_PROXY", &named)]).succeeded();
    assert!(site.registry.log().iter().any(|request| request.header("host") == Some("storage.test")));
}

#[test]
fn a_proxy_that_refuses_is_named_and_not_asked_again() {
    for (policy, words, tries) in [
        (Policy::Login(USER, PASSWORD), "wants a login", 1),
        (Policy::Refuse(403), "does not let us through", 5),
        (Policy::HangUp, "cannot connect to registry.test", 5),
    ] {
        let site = Site::https();
        let proxy = Proxy::start(&site.registry, policy);
        let url = format!("http://someone:{PASSWORD}@{}", proxy.host());
        let said = site.patch(&[("HTTPS_PROXY", &url)]).failed(1, &[words]);
        assert!(said.hint().unwrap().contains(&format!("HTTPS_PROXY is {}", proxy.host())), "{said:?}");
        assert!(!said.stderr.contains(PASSWORD), "{said:?}");
        assert_eq!(proxy.heads().len(), tries, "{words}");
        assert!(site.registry.log().is_empty());
    }
    let site = Site::http(Auth::None);
    let proxy = Proxy::start(&site.registry, Policy::Login(USER, PASSWORD));
    let said = site.patch(&[("HTTP_PROXY", &proxy.host())]).failed(1, &["answered 407"]);
    assert!(said.hint().unwrap().contains(&format!("HTTP_PROXY is {}", proxy.host())), "{said:?}");
    // Nobody listens there.
    let site = Site::https();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let said = site.patch(&[("HTTPS_PROXY", &gone)]).failed(1, &["registry.test"]);
    assert!(said.hint().unwrap().contains(&format!("HTTPS_PROXY is {gone}")), "{said:?}");
}

#[test]
fn some_hosts_are_asked_without_the_proxy() {
    let site = Site::http(Auth::None);
    let proxy = Proxy::start(&site.registry, Policy::Pass);
    // An address that leads here and is none of loopback.
    let port = site.registry.host().split_once(':').unwrap().1.to_owned();
    let (by_address, by_name) = (format!("0.0.0.0:{port}/kong:3.9"), "registry.test/kong:3.9".to_owned());
    let local = format!("{}/kong:3.9", site.registry.host());
    let inspect = |image: &str, without: &str| {
        let before = proxy.heads().len();
        let variables = [("HTTP_PROXY", proxy.host()), ("NO_PROXY", without.to_owned())];
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let run = start(site.command(["inspect", image, "--max-wait", "0"], &variables));
        (run.code, proxy.heads().len() > before)
    };
    for (image, without, asked) in [
        (&by_address, "", true),
        (&by_address, "0.0.0.0/8", false),
        (&by_address, "10.0.0.0/8,0.0.0.0", false),
        (&by_address, "10.0.0.0/8", true),
        (&by_address, "*", false),
        (&by_name, "", true),
        (&by_name, "other.test,registry.testing", true),
        // Loopback is here and not where the proxy is, whatever anybody says.
        (&local, "", false),
    ] {
        assert_eq!(inspect(image, without), (0, asked), "{image} NO_PROXY={without}");
    }
    // Names that no name server knows, so that there is nobody to ask but the proxy.
    std::thread::scope(|scope| {
        for without in ["registry.test", ".test", "test", "a, REGISTRY.test"] {
            let inspect = &inspect;
            let image = &by_name;
            scope.spawn(move || assert_eq!(inspect(image, without).0, 1, "NO_PROXY={without}"));
        }
    });
}

#[test]
fn a_proxy_that_cannot_be_understood_is_refused_and_not_passed_by() {
    let (http, https) = (Site::http(Auth::None), Site::https());
    for value in
        ["http://[", "two words", "http://", "http://proxy:3128:1", "proxy:99999", "ftp://proxy:1", "socks5://proxy:1"]
    {
        for (site, variable) in [(&http, "HTTP_PROXY"), (&http, "all_proxy"), (&https, "https_proxy")] {
            let said = site.patch(&[(variable, value)]).failed(2, &[variable]);
            assert!(said.hint().unwrap().contains("http://proxy.example.com:3128"), "{said:?}");
        }
    }
    let url = format!("http://someone:{PASSWORD}@[");
    let said = http.patch(&[("HTTP_PROXY", &url)]).failed(2, &["HTTP_PROXY is not the address of a proxy"]);
    assert!(!said.stderr.contains(PASSWORD), "{said:?}");
    assert!(http.registry.log().is_empty() && https.registry.log().is_empty());
    // What is not asked, and what is not needed, is not looked at.
    let proxy = Proxy::start(&http.registry, Policy::Pass);
    http.patch(&[("HTTP_PROXY", &proxy.host()), ("ALL_PROXY", "socks5://proxy:1"), ("HTTPS_PROXY", "[")]).succeeded();
    let local = format!("{}/kong:3.9", http.registry.host());
    start(http.command(["inspect", &local], &[("HTTP_PROXY", "[")])).succeeded();
    let port = http.registry.host().split_once(':').unwrap().1.to_owned();
    let spared = format!("0.0.0.0:{port}/kong:3.9");
    start(http.command(["inspect", &spared], &[("ALL_PROXY", "socks5h://proxy:1"), ("NO_PROXY", "0.0.0.0")]))
        .succeeded();
}

#[test]
fn a_variable_that_the_client_of_a_cgi_script_may_set_names_no_proxy() {
    let site = Site::http(Auth::None);
    let (evil, proxy) = (Proxy::start(&site.registry, Policy::Pass), Proxy::start(&site.registry, Policy::Pass));
    let cgi = ("REQUEST_METHOD", "GET");
    site.patch(&[cgi, ("HTTP_PROXY", &evil.host()), ("http_proxy", &proxy.host())]).succeeded();
    site.patch(&[cgi, ("HTTP_PROXY", &evil.host()), ("ALL_PROXY", &proxy.host())]).succeeded();
    assert!(evil.heads().is_empty() && !proxy.heads().is_empty());
}
