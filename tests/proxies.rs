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

/// A server's side of TLS as `name`, and the certificate that it shows.
fn certified(name: &str) -> (ServerConfig, String) {
    let ours = generate_simple_self_signed([name.to_owned()]).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(ours.signing_key.serialize_der()));
    (builder.with_single_cert(vec![ours.cert.der().clone()], key).unwrap(), ours.cert.pem())
}

/// A registry that is `registry.test` to whoever asks for it through a proxy.
struct Site {
    registry: Registry,
    scene: Scene,
    https: bool,
}

impl Site {
    fn https() -> Self {
        let scene = Scene::new();
        let (config, pem) = certified("registry.test");
        std::fs::write(scene.path("ca.pem"), pem).unwrap();
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

/// A proxy that speaks TLS, before `proxy`, and a file with its certificate in `site`: its `HOST:PORT`.
fn in_tls(site: &Site, proxy: &Proxy) -> String {
    let (config, pem) = certified("127.0.0.1");
    let path = site.scene.path("proxy.pem");
    let known = std::fs::read_to_string(site.scene.path("ca.pem")).unwrap_or_default();
    std::fs::write(path, pem + &known).unwrap();
    let (acceptor, plain) = (tokio_rustls::TlsAcceptor::from(Arc::new(config)), proxy.host());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, plain) = (acceptor.clone(), plain.clone());
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await?;
                    let mut onwards = tokio::net::TcpStream::connect(plain).await?;
                    tokio::io::copy_bidirectional(&mut stream, &mut onwards).await
                });
            }
        });
    });
    host
}

#[test]
fn a_proxy_that_speaks_tls_is_trusted_as_a_registry_is_and_named_if_it_is_not() {
    for (site, variable) in [(Site::https(), "HTTPS_PROXY"), (Site::http(Auth::None), "HTTP_PROXY")] {
        let proxy = Proxy::start(&site.registry, Policy::Pass);
        let host = in_tls(&site, &proxy);
        let inspect = |url: String, authorities: &str| {
            let mut command = capatch(["inspect", "registry.test/kong:3.9", "--max-wait", "0"]);
            if !site.https {
                command.args(["--plain-http", "registry.test"]);
            }
            if !authorities.is_empty() {
                command.arg("--ca-file").arg(site.scene.path(authorities));
            }
            command.env(variable, url);
            start(command)
        };
        inspect(format!("https://{host}"), "proxy.pem").succeeded();
        assert!(!proxy.heads().is_empty());
        let before = proxy.heads().len();
        std::fs::write(site.scene.path("other.pem"), certified("other.test").1).unwrap();
        let said = inspect(format!("https://{host}"), "other.pem");
        let said = said.failed(1, &["registry.test", &format!("the proxy {host}"), "certificate"]);
        assert!(said.hint().unwrap().contains("if the proxy has a certificate authority"), "{said:?}");
        // That it speaks TLS is not so.
        let said = inspect(format!("https://{}", proxy.host()), "proxy.pem");
        let said = said.failed(1, &[&format!("the proxy {}", proxy.host())]);
        assert!(said.hint().unwrap().contains("if the proxy speaks plain http"), "{said:?}");
        assert_eq!(proxy.heads().len(), before);
    }
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

#[test]
fn only_what_a_proxy_cache_says_is_taken_for_it() {
    let site = Site::http(Auth::None);
    for (status, code, words) in [
        (405, 4, "a proxy cache takes no pushes"),
        (400, 4, "check that this account may do that here"),
        (413, 1, "limits the size of requests"),
    ] {
        let reply = common::registry::Reply::error(status, "DENIED");
        site.registry.fault(move |request, _| (request.method == "POST").then(|| reply.clone()));
        let host = site.registry.host();
        let said = start(capatch(["patch", &format!("{host}/kong:3.9"), &format!("{host}/kong:low")]));
        let said = said.failed(code, &[&status.to_string(), "DENIED"]);
        let hint = said.hint().unwrap();
        assert!(hint.contains(words) && (status == 405) == hint.contains("proxy cache"), "{status}: {said:?}");
    }
}
