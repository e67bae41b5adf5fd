//! Connections: one client for each way to trust a host, the addresses behind names, and network errors as sentences.

use std::collections::{HashMap, HashSet};
use std::error::Error as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Proxy, redirect};
use url::Url;

use super::mirrors::Tls;
use super::origin::{Origin, Reach};
use super::{Options, lock, proxy, tls};
use crate::error::{Error, Kind, Result};
use crate::oci::time;

/// One HTTP client for each way to trust a host.
#[derive(Default)]
pub(super) struct Network {
    clients: Mutex<HashMap<Trust, Client>>,
    /// Who has answered a request.
    answered: Mutex<HashSet<Origin>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Trust {
    https: bool,
    /// The proxy on the way; `None`: directly.
    proxy: Option<Url>,
    /// `certs.d/HOST[:PORT]`.
    certificates: Option<PathBuf>,
    /// What the user's files say about this host.
    tls: Tls,
    guard: Option<u8>,
}

impl Network {
    /// The client for `origin`, about which the user's files say `tls`. With a `guard`, names that lead to an address of
    /// a smaller reach are not dialled.
    pub(super) fn client(&self, options: &Options, origin: &Origin, guard: Option<Reach>, tls: &Tls) -> Result<Client> {
        let trust = Trust {
            https: origin.is_https(),
            proxy: proxy::of(origin)?,
            certificates: if origin.is_https() { tls::directory(options, origin) } else { None },
            tls: tls.clone(),
            guard: guard.map(|reach| reach as u8),
        };
        if let Some(client) = lock(&self.clients).get(&trust) {
            return Ok(client.clone());
        }
        let client = build(options, &trust, guard)?;
        lock(&self.clients).insert(trust, client.clone());
        Ok(client)
    }

    /// Remembers that `origin` answered, so that its scheme is right.
    pub(super) fn note_answer(&self, origin: &Origin) {
        lock(&self.answered).insert(origin.clone());
    }

    /// Whether `origin` has answered before.
    pub(super) fn has_answered(&self, origin: &Origin) -> bool {
        lock(&self.answered).contains(origin)
    }
}

fn build(options: &Options, trust: &Trust, guard: Option<Reach>) -> Result<Client> {
    let mut builder = Client::builder()
        .user_agent(concat!("capatch/", env!("CARGO_PKG_VERSION")))
        // The Referer would carry a signed query to the next host (faults.md A17).
        .referer(false)
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .http2_adaptive_window(true)
        .connect_timeout(trust.tls.connect_timeout.unwrap_or(Duration::from_secs(10)).min(options.stall))
        .pool_idle_timeout(Duration::from_secs(30));
    let failed = |e: reqwest::Error| Error::failed(format!("cannot set up connections: {}", innermost(&e)));
    // The library would connect directly if it does not understand the variable.
    builder = builder.no_proxy();
    if let Some(proxy) = &trust.proxy {
        builder = builder.proxy(Proxy::all(proxy.clone()).map_err(failed)?);
    }
    if let Some(reach) = guard {
        let proxy = trust.proxy.as_ref().and_then(Url::domain).map(str::to_owned);
        builder = builder.dns_resolver(Guard { reach, proxy });
    }
    let tls = match &trust.proxy {
        _ if trust.https => Some(tls::config(options, trust.certificates.as_deref(), &trust.tls)?),
        // What the user's files say is about the registry. Proxies are spoken to in HTTP/1.1, as by curl(1).
        Some(proxy) if proxy.scheme() == "https" => {
            let mut config = tls::config(options, None, &Tls::default())?;
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Some(config)
        }
        // Plain http must work where no certificate store is installed.
        _ => None,
    };
    builder = match tls {
        Some(config) => builder.tls_backend_preconfigured(config),
        None => builder.tls_certs_only([]),
    };
    builder.build().map_err(failed)
}

/// Whether TLS is spoken at `origin`, for hosts with which the user allows either; `None` if that cannot be told.
pub(super) async fn speaks_tls(client: &Client, origin: &Origin) -> Option<bool> {
    match client.get(format!("{origin}/v2/")).send().await {
        Err(error) if error.is_connect() => {
            let why = innermost(&error);
            // What a plain http server makes of a handshake; certificates are no such thing.
            let plain = ["corrupt message", "handshake eof", "reset by peer"].iter().any(|words| why.contains(words));
            plain.then_some(false)
        }
        _ => Some(true),
    }
}

/// Resolves names for hosts that a registry sent us to (faults.md A6).
struct Guard {
    reach: Reach,
    /// The name of the proxy on the way, which is the user's choice and does the dialling.
    proxy: Option<String>,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (name, reach) = (name.as_str().to_owned(), self.reach);
        let is_proxy = self.proxy.as_ref() == Some(&name);
        Box::pin(async move {
            let all: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if is_proxy {
                return Ok(Box::new(all.into_iter()) as Addrs);
            }
            let allowed: Vec<_> = all
                .into_iter()
                .filter(|address| {
                    let there = Reach::of(address.ip());
                    there <= reach && there != Reach::Special
                })
                .collect();
            if allowed.is_empty() {
                return Err(Error::new(
                    Kind::Content,
                    format!("{name} has a private address and the registry's is not: refused"),
                )
                .into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// A request without an answer.
pub(super) struct Lost {
    pub(super) error: Error,
    /// The connection was never made, so nothing can have happened at the other end.
    pub(super) unsent: bool,
    /// Another attempt would end the same way.
    pub(super) hopeless: bool,
}

/// A sentence for a network error on `host`. URLs stay out: they may carry signatures.
pub(super) fn explain(error: reqwest::Error, host: &str) -> Lost {
    let origin = error.url().and_then(|url| Origin::of(url).ok());
    let proxy = origin.as_ref().and_then(|origin| proxy::of(origin).ok()?);
    // For https it is asked for a tunnel, and what comes after that is between the registry and us.
    let mut at_proxy = origin.as_ref().is_some_and(|origin| !origin.is_https());
    let error = error.without_url();
    let mut source = error.source();
    while let Some(cause) = source {
        // The library keeps this kind of error to itself.
        at_proxy |= cause.to_string() == "tunnel error: failed to create underlying connection";
        if let Some(ours) = cause.downcast_ref::<Error>() {
            return Lost { error: ours.clone(), unsent: error.is_connect(), hopeless: true };
        }
        // io::Error hides what it wraps from source().
        if let Some(ours) = cause.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref()?.downcast_ref::<Error>())
        {
            return Lost { error: ours.clone(), unsent: error.is_connect(), hopeless: true };
        }
        source = cause.source();
    }
    let why = if error.is_timeout() { "it does not answer".to_owned() } else { innermost(&error) };
    let why = match why.strip_prefix("invalid peer certificate: Other(OtherError(").and_then(|e| e.strip_suffix("))")) {
        None if why.contains("InvalidPurpose") || why.contains("does not allow extended key usage") => {
            "its certificate is not for servers".to_owned()
        }
        Some("CaUsedAsEndEntity") => "its certificate is one of an authority, and none that was named".to_owned(),
        Some(other) => format!("invalid peer certificate: {other}"),
        None => why,
    };
    if error.is_builder() {
        return Lost { error: Error::failed(format!("{host}: {why}")), unsent: true, hopeless: true };
    }
    // The alert comes with the first answer in TLS 1.3, and with the handshake in TLS 1.2 (RFC 8446 §6.2).
    if why.contains("CertificateRequired") {
        let sentence = Error::failed(format!("{host} wants to see a client certificate"));
        let hint = format!("name one for it: NAME.cert and NAME.key in certs.d/{host}, or `client` in its hosts.toml");
        return Lost { error: sentence.hint(hint), unsent: error.is_connect(), hopeless: true };
    }
    if !error.is_connect() {
        return Lost {
            error: Error::failed(format!("the connection to {host} broke: {why}")),
            unsent: false,
            hopeless: false,
        };
    }
    if why.starts_with("tunnel error") {
        let (what, hopeless) = match why.contains("authorization required") {
            true => ("the proxy wants a login (407)", true),
            false => ("the proxy does not let us through", false),
        };
        let error = Error::failed(format!("cannot connect to {host}: {what}"));
        let hint = origin.as_ref().and_then(proxy::hint);
        let error = hint.map_or(error.clone(), |hint| error.hint(hint));
        return Lost { error, unsent: true, hopeless };
    }
    let (who, sentence) = match proxy.filter(|_| at_proxy) {
        Some(proxy) => {
            let address = proxy::address(&proxy);
            ("proxy", format!("cannot connect to the proxy {address} on the way to {host}: {why}"))
        }
        None => ("registry", format!("cannot connect to {host}: {why}")),
    };
    let sentence = Error::failed(sentence);
    let hopeless = why.contains("corrupt message");
    let (error, hopeless) = if hopeless || why.contains("handshake eof") {
        let hint = match who {
            "proxy" => "if the proxy speaks plain http, let its address begin with http://".to_owned(),
            _ => format!("if the registry speaks plain http, say --plain-http {host}"),
        };
        (sentence.hint(hint), hopeless)
    } else if why.contains("certificate") {
        let date = ["xpired", "NotValidYet", "not valid yet"].iter().any(|words| why.contains(words));
        (
            match why {
                // No authority mends a wrong date, name or purpose.
                _ if date => sentence.hint(format!("is the clock of this machine right? It says {}", now())),
                why if why.contains("not valid for name") || why.contains("not for servers") => sentence,
                _ => sentence
                    .hint(format!("if the {who} has a certificate authority of its own, name it with --ca-file")),
            },
            true,
        )
    } else if ["Tls12Or13", "Tls12NotOffered", "ProtocolVersion"].iter().any(|words| why.contains(words)) {
        (sentence.hint("it seems to speak an old TLS only, and capatch speaks TLS 1.2 and 1.3"), true)
    } else {
        let hint = origin.as_ref().and_then(proxy::hint);
        (hint.map_or(sentence.clone(), |hint| sentence.hint(hint)), false)
    };
    Lost { error, unsent: true, hopeless }
}

fn now() -> String {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    time::rfc3339(since_1970.as_secs())
}

/// The last cause, without the number that the system puts behind it.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if first.is_ascii_uppercase() && second.is_ascii_lowercase() => {
            format!("{}{}", first.to_ascii_lowercase(), &text[1..])
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_of_private_addresses_are_not_dialled_for_public_registries() {
        for (name, reach, proxy, allowed) in [
            ("localhost", Reach::Public, None, false),
            ("localhost", Reach::Public, Some("proxy.test"), false),
            ("localhost", Reach::Public, Some("localhost"), true),
            ("localhost", Reach::Private, None, false),
            ("localhost", Reach::Loopback, None, true),
            ("10.0.0.1", Reach::Public, None, false),
            ("::ffff:10.0.0.1", Reach::Public, None, false),
            ("10.0.0.1", Reach::Private, None, true),
            ("169.254.169.254", Reach::Special, None, false),
        ] {
            let answer = Guard { reach, proxy: proxy.map(str::to_owned) }.resolve(name.parse::<Name>().unwrap()).await;
            assert_eq!(answer.is_ok(), allowed, "{name} {reach:?}");
        }
    }

    #[tokio::test]
    async fn a_refused_address_is_told_and_not_tried_again() {
        let client =
            Client::builder().no_proxy().dns_resolver(Guard { reach: Reach::Public, proxy: None }).build().unwrap();
        let lost = explain(client.get("http://localhost:9/").send().await.unwrap_err(), "localhost:9");
        assert!(lost.hopeless && lost.error.to_string().contains("private address"), "{}", lost.error);
    }

    #[tokio::test]
    async fn a_public_registry_sends_nobody_to_a_private_address() {
        let options = Options { stall: Duration::from_millis(300), ..Options::default() };
        let shared = crate::transport::registry::Client::new(options).unwrap().0;
        let home = Origin::of(&url::Url::parse("http://registry.test/").unwrap()).unwrap();
        lock(&shared.reaches).insert(home.clone(), Reach::Public);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = format!("http://localhost:{}/", listener.local_addr().unwrap().port());
        let mut request = super::super::http::Request::new(reqwest::Method::GET, url::Url::parse(&there).unwrap());
        let answer = super::super::http::follow(&shared, &home, &Default::default(), &request, None).await;
        assert!(answer.err().unwrap().to_string().contains("private address"));
        // A token service is asked as if it were at home.
        request.reach = Some(Reach::Public);
        let there = Origin::of(&request.url).unwrap();
        let answer = super::super::http::follow(&shared, &there, &Default::default(), &request, None).await;
        assert!(answer.err().unwrap().to_string().contains("private address"));
    }
}
