//! Who may be talked to, and who may be told a secret: the rules for every hop away from the registry that was named.
//!
//! Credentials belong to an [`Origin`]. Redirects, token realms, upload locations and links all pass [`allow_hop`].

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use crate::error::{Error, Kind, Result};

/// Scheme, host and effective port: what credentials are bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    scheme: String,
    host: Host<String>,
    port: u16,
}

impl Origin {
    /// The origin of an http or https URL.
    pub(super) fn of(url: &Url) -> Result<Self> {
        let refuse = |why: &str| Err(Error::new(Kind::Content, format!("{} {why}", redacted(url))));
        if !matches!(url.scheme(), "http" | "https") {
            return refuse("is neither http nor https");
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return refuse("has no host");
        };
        let host = match host {
            // A trailing dot names the same host.
            Host::Domain(name) => Host::Domain(name.trim_end_matches('.').to_owned()),
            Host::Ipv4(address) => Host::Ipv4(address),
            // `url` leaves IPv4-mapped addresses as they are (faults.md A4).
            Host::Ipv6(address) => match IpAddr::V6(address).to_canonical() {
                IpAddr::V4(address) => Host::Ipv4(address),
                IpAddr::V6(address) => Host::Ipv6(address),
            },
        };
        Ok(Origin { scheme: url.scheme().to_owned(), host, port })
    }

    /// Whether requests to it are encrypted.
    pub(super) fn is_https(&self) -> bool {
        self.scheme == "https"
    }

    /// The same host over plain http, at port 80 if it was 443.
    pub(super) fn without_tls(&self) -> Self {
        let port = if self.is_https() && self.port == 443 { 80 } else { self.port };
        Origin { scheme: "http".to_owned(), host: self.host.clone(), port }
    }

    /// The host without its port.
    pub(super) fn host(&self) -> &Host<String> {
        &self.host
    }

    /// `HOST:PORT`, the port always written.
    pub(super) fn host_port(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// `HOST`, and its port if that is not the scheme's own.
    pub(super) fn name(&self) -> String {
        match (self.scheme.as_str(), self.port) {
            ("https", 443) | ("http", 80) => self.host.to_string(),
            _ => self.host_port(),
        }
    }

    /// Whether `entry`, `HOST` or `HOST:PORT`, names this origin. Without a port, every port is meant.
    pub(super) fn is_named(&self, entry: &str) -> bool {
        let entry = entry.trim().to_ascii_lowercase();
        entry == self.host.to_string() || entry == self.host_port()
    }

    /// How far its host reaches, if that can be told without asking a name server.
    pub(super) fn reach(&self) -> Option<Reach> {
        match &self.host {
            Host::Domain(name) if name == "localhost" || name.ends_with(".localhost") => Some(Reach::Loopback),
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some(Reach::of((*address).into())),
            Host::Ipv6(address) => Some(Reach::of((*address).into())),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.name())
    }
}

/// How far an address can be reached from. A hop may not lead to an address of a smaller reach than the registry's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// The Internet.
    Public,
    /// A private network.
    Private,
    /// This host.
    Loopback,
    /// Link-local (cloud metadata), unspecified, multicast: no hop ever leads there.
    Special,
}

impl Reach {
    /// The reach of an address.
    pub(super) fn of(address: IpAddr) -> Self {
        const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254);
        const METADATA_ALIBABA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let octets = v4.octets();
                if v4.is_loopback() {
                    Reach::Loopback
                } else if octets[0] == 0
                    || v4.is_link_local()
                    || v4.is_multicast()
                    || v4.is_broadcast()
                    || v4 == METADATA_ALIBABA
                {
                    Reach::Special
                } else if v4.is_private() || (octets[0] == 100 && (octets[1] & 0xc0) == 64) {
                    Reach::Private
                } else {
                    Reach::Public
                }
            }
            IpAddr::V6(v6) => {
                if v6.is_loopback() {
                    Reach::Loopback
                } else if v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast() || v6 == METADATA {
                    Reach::Special
                } else if v6.is_unique_local() {
                    Reach::Private
                } else {
                    Reach::Public
                }
            }
        }
    }
}

/// Where a `Location` or `Link` leads from `base`. Bytes that are not ASCII stand for themselves, percent-encoded (RFC 3986
/// §2.1), whatever they mean.
pub(super) fn join(base: &Url, reference: &[u8]) -> Option<Url> {
    let mut text = String::with_capacity(reference.len());
    for &byte in reference {
        match byte {
            0x80.. => write!(text, "%{byte:02X}").ok()?,
            _ => text.push(char::from(byte)),
        }
    }
    base.join(&text).ok()
}

/// Whether something that `from` answered may send us to `to`, when the registry itself has `reach`.
///
/// Refused: other schemes, userinfo, https to http, and addresses of a smaller reach than the registry's. The addresses
/// behind host names are checked when they are dialled.
pub(super) fn allow_hop(from: &Url, to: &Url, reach: Reach) -> Result<()> {
    let (from_origin, to_origin) = (Origin::of(from)?, Origin::of(to)?);
    let refuse =
        |why: &str| Err(Error::content(format!("{from_origin} points to {}: refused, because {why}", redacted(to))));
    if !to.username().is_empty() || to.password().is_some() {
        return refuse("the address carries a user name or password");
    }
    if from_origin == to_origin {
        return Ok(());
    }
    if from_origin.is_https() && !to_origin.is_https() {
        let hinted = refuse("it leaves https for http");
        return if from_origin.host == to_origin.host {
            hinted.map_err(|e| {
                e.hint("the registry advertises http although it is reached over https: fix X-Forwarded-Proto in its proxy")
            })
        } else {
            hinted
        };
    }
    match to_origin.reach() {
        Some(Reach::Special) => refuse("no registry is at such an address"),
        Some(there) if there > reach => refuse("that is a private address and the registry's is not"),
        _ => Ok(()),
    }
}

/// Whether the credentials of the registry `home` may be given to the token service at `realm`.
pub(super) fn may_have_credentials(home: &Origin, realm: &Origin, named: &[String]) -> bool {
    if home == realm || named.iter().any(|entry| realm.is_named(entry)) {
        return true;
    }
    match (&home.host, &realm.host) {
        (Host::Domain(home_name), Host::Domain(realm_name)) if home_name != realm_name => {
            realm.is_https() && registrable(home_name).is_some_and(|d| Some(d) == registrable(realm_name))
        }
        (Host::Domain(_), Host::Domain(_)) => realm.is_https() && home.is_https(),
        _ => false,
    }
}

/// Domains under which strangers get names; below them, only equal hosts are the same party.
const SHARED: [&str; 22] = [
    "amazonaws.com",
    "appspot.com",
    "azure.com",
    "azurecr.io",
    "azurewebsites.net",
    "cloudfront.net",
    "fly.dev",
    "github.io",
    "gitlab.io",
    "googleapis.com",
    "googleusercontent.com",
    "herokuapp.com",
    "netlify.app",
    "ngrok.app",
    "ngrok.io",
    "onrender.com",
    "pages.dev",
    "run.app",
    "vercel.app",
    "windows.net",
    "workers.dev",
    "on.aws",
];

/// The domain that someone registered, by a rule of thumb that errs towards «different»: the last two labels, three
/// under the likes of `co.uk`; none for single labels and for hosting platforms.
fn registrable(name: &str) -> Option<&str> {
    let tail = |count: usize| {
        let at = name.rmatch_indices('.').nth(count - 1).map_or(0, |(at, _)| at + 1);
        (name.split('.').count() >= count).then(|| &name[at..])
    };
    let two = tail(2)?;
    if SHARED.contains(&two) {
        return None;
    }
    let (second, top) = two.split_once('.')?;
    if top.len() == 2 && (second.len() <= 3 || matches!(second, "info" | "asso" | "gouv" | "govt")) {
        return tail(3);
    }
    Some(two)
}

/// The URL without what may be secret: no userinfo, no query, no fragment.
pub(super) fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for URLs that cannot have userinfo.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    let had_query = shown.query().is_some();
    shown.set_query(None);
    shown.set_fragment(None);
    if had_query { format!("{shown}?…") } else { shown.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn origins_compare_by_scheme_host_and_effective_port() {
        for (one, other, same) in [
            ("https://h.io/a", "https://H.io:443/b?c", true),
            ("https://h.io/a", "https://h.io./", true),
            ("https://h.io", "http://h.io", false),
            ("https://h.io", "https://h.io:8443", false),
            ("https://good.com", "http://evil.com\\@good.com/", false),
            ("https://1.2.3.4", "https://[::ffff:1.2.3.4]/", true),
        ] {
            assert_eq!(Origin::of(&url(one)).unwrap() == Origin::of(&url(other)).unwrap(), same, "{one} {other}");
        }
        assert!(Origin::of(&url("file:///etc/passwd")).is_err());
        assert!(Origin::of(&url("ftp://h.io/")).is_err());
    }

    #[test]
    fn private_addresses_are_known_in_every_spelling() {
        for (text, reach) in [
            ("http://127.0.0.1/", Reach::Loopback),
            ("http://2130706433/", Reach::Loopback),
            ("http://0x7f000001/", Reach::Loopback),
            ("http://127.1/", Reach::Loopback),
            ("http://127.000.000.001/", Reach::Loopback),
            ("http://１２７.0.0.1/", Reach::Loopback),
            ("http://[::1]/", Reach::Loopback),
            ("http://[::ffff:127.0.0.1]/", Reach::Loopback),
            ("http://localhost/", Reach::Loopback),
            ("http://localhost./", Reach::Loopback),
            ("http://x.localhost/", Reach::Loopback),
            ("http://10.1.2.3/", Reach::Private),
            ("http://172.31.0.1/", Reach::Private),
            ("http://192.168.0.1/", Reach::Private),
            ("http://100.64.0.1/", Reach::Private),
            ("http://[fd12::1]/", Reach::Private),
            ("http://169.254.169.254/", Reach::Special),
            ("http://169.254.169.254./", Reach::Special),
            ("http://[::ffff:169.254.169.254]/", Reach::Special),
            ("http://[fd00:ec2::254]/", Reach::Special),
            ("http://[fe80::1]/", Reach::Special),
            ("http://[::]/", Reach::Special),
            ("http://0.0.0.0/", Reach::Special),
            ("http://100.100.100.200/", Reach::Special),
            ("http://224.0.0.1/", Reach::Special),
            ("http://255.255.255.255/", Reach::Special),
            ("http://[ff02::1]/", Reach::Special),
            ("http://8.8.8.8/", Reach::Public),
            ("http://172.32.0.1/", Reach::Public),
            ("http://[2001:db8::1]/", Reach::Public),
        ] {
            assert_eq!(Origin::of(&url(text)).unwrap().reach(), Some(reach), "{text}");
        }
        for name in ["http://localhost.evil.com/", "http://127.0.0.1.evil.com/", "http://evil.com/127.0.0.1"] {
            assert_eq!(Origin::of(&url(name)).unwrap().reach(), None, "{name}");
        }
        // As a name server may spell it.
        assert_eq!(Reach::of("::ffff:10.0.0.1".parse().unwrap()), Reach::Private);
    }

    #[test]
    fn hops() {
        for (from, to, reach, allowed) in [
            ("https://r.io/", "https://r.io/x", Reach::Public, true),
            ("https://r.io/", "https://cdn.io/x?sig=1", Reach::Public, true),
            ("https://r.io/", "http://r.io/x", Reach::Public, false),
            ("https://r.io/", "http://cdn.io/x", Reach::Public, false),
            ("http://r.io/", "https://r.io/x", Reach::Public, true),
            ("https://r.io/", "https://u:p@cdn.io/x", Reach::Public, false),
            ("https://r.io/", "https://u@r.io/x", Reach::Public, false),
            ("https://r.io/", "ftp://r.io/x", Reach::Public, false),
            ("https://r.io/", "https://169.254.169.254/x", Reach::Public, false),
            ("https://r.io/", "https://10.0.0.1/x", Reach::Public, false),
            ("https://r.io/", "https://127.0.0.1/x", Reach::Public, false),
            ("https://10.0.0.9/", "https://10.0.0.1:9000/x", Reach::Private, true),
            ("https://10.0.0.9/", "https://127.0.0.1/x", Reach::Private, false),
            ("http://10.0.0.9/", "http://169.254.169.254/x", Reach::Private, false),
            ("http://127.0.0.1:1/", "http://127.0.0.1:2/x", Reach::Loopback, true),
            ("http://127.0.0.1:1/", "http://169.254.169.254/x", Reach::Loopback, false),
            ("http://127.0.0.1:1/", "http://0.0.0.0:1/x", Reach::Loopback, false),
            ("http://0.0.0.0:1/", "http://0.0.0.0:1/x", Reach::Special, true),
            ("http://0.0.0.0:1/", "http://169.254.169.254/x", Reach::Special, false),
        ] {
            assert_eq!(allow_hop(&url(from), &url(to), reach).is_ok(), allowed, "{from} {to}");
        }
    }

    #[test]
    fn bytes_beyond_ascii_are_percent_encoded() {
        for (reference, expected) in [
            (&b"/u/1?_state=a%20b"[..], Some("https://r.io/u/1?_state=a%20b")),
            ("/é?é".as_bytes(), Some("https://r.io/%C3%A9?%C3%A9")),
            (b"/\xe9?x=\xff", Some("https://r.io/%E9?x=%FF")),
            (b"\xe9", Some("https://r.io/v2/%E9")),
            // A host is a name, which has its own encoding (RFC 3490).
            ("https://bücher.example/é".as_bytes(), Some("https://xn--bcher-kva.example/%C3%A9")),
            ("//169。254。169。254/".as_bytes(), Some("https://169.254.169.254/")),
            (b"https://b\xfccher.example/", None),
            (b"http://[", None),
        ] {
            let joined = join(&url("https://r.io/v2/"), reference);
            assert_eq!(joined.as_ref().map(Url::as_str), expected, "{}", String::from_utf8_lossy(reference));
        }
    }

    #[test]
    fn realms() {
        let named = ["auth.corp".to_owned(), "sso.corp:8443".to_owned()];
        for (home, realm, allowed) in [
            ("https://registry-1.docker.io", "https://auth.docker.io/token", true),
            ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", true),
            ("https://ghcr.io", "https://ghcr.io/token", true),
            ("https://registry.digitalocean.com", "https://api.digitalocean.com/v2/x", true),
            ("https://r.co.uk", "https://evil.co.uk", false),
            ("https://r.a.co.uk", "https://auth.a.co.uk", true),
            ("https://r.docker.io.evil.com", "https://auth.docker.io", false),
            ("https://victim.azurecr.io", "https://evil.azurecr.io", false),
            ("https://x.github.io", "https://y.github.io", false),
            ("https://r.io", "http://r.io", false),
            ("https://r.io", "https://r.io:8443", true),
            ("http://r.io", "http://auth.r.io", false),
            ("http://registry.io", "http://auth.registry.io", false),
            ("http://registry.io", "https://auth.registry.io", true),
            ("https://r.io", "https://evil.com", false),
            ("https://r", "https://s", false),
            ("https://127.0.0.1:1", "https://127.0.0.1:2", false),
            ("http://10.0.0.1:5000", "http://10.0.0.1:5000/token", true),
            ("https://r.io", "https://auth.corp:99/token", true),
            ("https://r.io", "https://sso.corp/token", false),
            ("https://r.io", "https://sso.corp:8443/token", true),
        ] {
            let (home, realm) = (Origin::of(&url(home)).unwrap(), Origin::of(&url(realm)).unwrap());
            assert_eq!(may_have_credentials(&home, &realm, &named), allowed, "{home} {realm}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = redacted(&url("https://user:hunter2@h.io/v2/x?sig=hunter2#hunter2"));
        assert_eq!(shown, "https://h.io/v2/x?…");
    }
}
