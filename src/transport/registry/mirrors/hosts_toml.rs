//! containerd's `hosts.toml` (containerd `docs/hosts.md`), one for each registry, or `_default` for all.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::super::origin::{Origin, redacted};
use super::{Settings, Source, Tls, malformed, parse, read};
use crate::error::{Error, Result};
use crate::oci::reference::Repository;

/// What stands for one registry: other hosts in their order, and the server at the end.
#[derive(Debug)]
pub(super) struct Hosts {
    hosts: Vec<Arc<Settings>>,
    server: Arc<Settings>,
}

#[derive(Deserialize)]
struct File {
    server: Option<Spanned<String>>,
    #[serde(default)]
    host: IndexMap<Spanned<String>, Host>,
}

/// A `[host."URL"]`, or what stands outside of them, which is about the server.
#[derive(Deserialize)]
struct Host {
    #[serde(default)]
    capabilities: Vec<Spanned<String>>,
    ca: Option<Texts>,
    client: Option<Spanned<Clients>>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    header: IndexMap<Spanned<String>, Texts>,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum Texts {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a path, a list of paths, or a list of pairs of paths")]
enum Clients {
    One(PathBuf),
    Many(Vec<Client>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    Both(PathBuf),
    Pair(PathBuf, PathBuf),
}

impl From<Texts> for Vec<String> {
    fn from(texts: Texts) -> Self {
        match texts {
            Texts::One(text) => vec![text],
            Texts::Many(texts) => texts,
        }
    }
}

/// Headers that make a request what it is.
const OURS: [&str; 8] = [
    "accept-encoding",
    "connection",
    "content-length",
    "content-range",
    "content-type",
    "host",
    "range",
    "transfer-encoding",
];

/// The file for a registry below `directory`: `HOST_PORT_`, `HOST:PORT`, `_default`. The first directory decides.
pub(super) fn find(directory: &Path, registry: &str) -> Result<Option<Hosts>> {
    let windows = registry.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
    let names =
        [windows.map(|(host, port)| format!("{host}_{port}_")), Some(registry.to_owned()), Some("_default".into())];
    for name in names.into_iter().flatten() {
        let place = directory.join(name);
        if place.is_dir() {
            let file = place.join("hosts.toml");
            return read(&file)?.map(|text| Hosts::parse(&file, &text, registry)).transpose();
        }
    }
    Ok(None)
}

impl Hosts {
    fn parse(path: &Path, text: &str, registry: &str) -> Result<Self> {
        let file: File = parse(path, text)?;
        let server: Host = parse(path, text)?;
        let read = Reader { path, text, registry };
        let mut server = match file.server {
            Some(url) => read.host(url.get_ref(), url.span(), server)?,
            // The registry itself, with all capabilities; only trust is taken from the file.
            None => Settings { tags: true, digests: true, ..read.settings(server)? },
        };
        let mut hosts = Vec::new();
        for (url, host) in file.host {
            let settings = Settings { mirror: true, ..read.host(url.get_ref(), url.span(), host)? };
            if settings.origin == server.origin && settings.root == server.root {
                // The server, named once more: what is said there is about it.
                server = Settings { mirror: false, ..settings };
            } else {
                hosts.push(Arc::new(settings));
            }
        }
        Ok(Hosts { hosts, server: Arc::new(server) })
    }

    /// Hosts, then the server.
    pub(super) fn sources(&self, name: &Repository) -> Vec<Source> {
        let source = |settings: &Arc<Settings>| {
            let registry = settings.origin.as_ref().map_or_else(|| name.registry.clone(), registry_of);
            Source { name: Repository { registry, path: name.path.clone() }, settings: settings.clone() }
        };
        self.hosts.iter().chain([&self.server]).map(source).collect()
    }

    /// Settings for writing to the registry itself: those of the server or host that is it.
    pub(super) fn destination(&self, registry: &str) -> Arc<Settings> {
        let all = self.hosts.iter().chain([&self.server]);
        let mut own =
            all.filter(|settings| settings.origin.as_ref().is_none_or(|origin| registry_of(origin) == registry));
        match own.next_back() {
            Some(settings) if settings.mirror => {
                // The rest of a mirror's settings is about reading.
                let Settings { origin, http_will_do, root, tls, headers, .. } = &**settings;
                let (origin, root, tls, headers) = (origin.clone(), root.clone(), tls.clone(), headers.clone());
                Arc::new(Settings { origin, http_will_do: *http_will_do, root, tls, headers, ..Settings::default() })
            }
            Some(settings) => settings.clone(),
            None => Arc::default(),
        }
    }
}

/// A registry as references and credentials name it.
fn registry_of(origin: &Origin) -> String {
    match origin.name().as_str() {
        "registry-1.docker.io" | "index.docker.io" => "docker.io".to_owned(),
        name => name.to_owned(),
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    registry: &'a str,
}

impl Reader<'_> {
    fn fail(&self, span: Range<usize>, why: &str) -> Error {
        malformed(self.path, self.text, Some(span), why)
    }

    fn host(&self, address: &str, span: Range<usize>, host: Host) -> Result<Settings> {
        let full = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
        let mut url = Url::parse(&full).map_err(|e| self.fail(span.clone(), &format!("'{address}' is no URL: {e}")))?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            let why = format!("{} has a login, a query or a fragment", redacted(&url));
            return Err(self.fail(span, &why).hint("credentials come from docker login, podman login or --auth-file"));
        }
        if url.host_str() == Some("docker.io") {
            url.set_host(Some("registry-1.docker.io")).map_err(|e| self.fail(span.clone(), &e.to_string()))?;
        }
        let mut origin = Origin::of(&url).map_err(|e| self.fail(span, &e.to_string()))?;
        let mut root = url.path().trim_end_matches('/').to_owned();
        if !host.override_path && !root.ends_with("/v2") {
            root.push_str("/v2");
        }
        let certified = host.skip_verify || host.ca.is_some() || host.client.is_some();
        let mut settings = Settings { root, ..self.settings(host)? };
        // As containerd does: trust settings for an http host mean that TLS is tried there first.
        if !origin.is_https() && certified && url.port_or_known_default() != Some(80) && url.set_scheme("https").is_ok()
        {
            origin = Origin::of(&url)?;
            settings.http_will_do = true;
        }
        let registry = registry_of(&origin);
        settings.namespace = (registry != self.registry).then(|| self.registry.to_owned());
        settings.origin = Some(origin);
        Ok(settings)
    }

    fn settings(&self, host: Host) -> Result<Settings> {
        let (mut tags, mut digests) = (host.capabilities.is_empty(), host.capabilities.is_empty());
        for capability in &host.capabilities {
            match capability.get_ref().to_ascii_lowercase().as_str() {
                "pull" => digests = true,
                "resolve" => tags = true,
                "push" | "referrers" => {}
                other => {
                    let why = format!("there is no capability '{other}', only pull, resolve, push and referrers");
                    return Err(self.fail(capability.span(), &why));
                }
            }
        }
        let beside = |file: PathBuf| self.path.parent().map_or(file.clone(), |parent| parent.join(file));
        let authorities =
            host.ca.map(Vec::from).unwrap_or_default().into_iter().map(|file| beside(file.into())).collect();
        let connect_timeout = match &host.dial_timeout {
            None => None,
            Some(text) => Some(
                duration(text.get_ref())
                    .ok_or_else(|| self.fail(text.span(), "dial_timeout is a time such as 500ms or 3s"))?,
            ),
        };
        Ok(Settings {
            tls: Tls {
                skip_verify: host.skip_verify,
                authorities,
                identity: host.client.map(|client| self.identity(client)).transpose()?.flatten(),
                connect_timeout,
            },
            headers: self.headers(host.header)?,
            // Both are needed to give a tag.
            tags: tags && digests,
            digests,
            ..Settings::default()
        })
    }

    fn identity(&self, clients: Spanned<Clients>) -> Result<Option<(PathBuf, PathBuf)>> {
        let span = clients.span();
        let beside = |file: PathBuf| self.path.parent().map_or(file.clone(), |parent| parent.join(file));
        let mut all = match clients.into_inner() {
            Clients::One(file) => vec![Client::Both(file)],
            Clients::Many(clients) => clients,
        };
        if all.len() > 1 {
            return Err(self.fail(span, "capatch uses one client certificate for a host, and here are more"));
        }
        Ok(all.pop().map(|client| match client {
            Client::Pair(certificate, key) if !key.as_os_str().is_empty() => (beside(certificate), beside(key)),
            Client::Pair(both, _) | Client::Both(both) => (beside(both.clone()), beside(both)),
        }))
    }

    fn headers(&self, headers: IndexMap<Spanned<String>, Texts>) -> Result<HeaderMap> {
        let mut map = HeaderMap::new();
        for (name, values) in headers {
            let fail = |why: &str| self.fail(name.span(), &format!("header '{}' {why}", name.get_ref()));
            let key = HeaderName::try_from(name.get_ref()).map_err(|_| fail("has no name that a header can have"))?;
            if OURS.contains(&key.as_str()) {
                return Err(fail("is made for each request and cannot be set"));
            }
            for value in Vec::from(values) {
                let mut value =
                    HeaderValue::try_from(value).map_err(|_| fail("has a value that no header can carry"))?;
                value.set_sensitive(true);
                map.append(key.clone(), value);
            }
        }
        Ok(map)
    }
}

/// A time as Go writes it: `1m30s`, `1.5s`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        (total, rest) = (total.checked_add(part)?, tail);
    }
    (!total.is_zero()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(registry: &str, text: &str) -> Hosts {
        Hosts::parse(Path::new("/c/hosts.toml"), text, registry).unwrap()
    }

    /// `URL uses ns`.
    fn shown(source: &Source) -> String {
        let settings = &source.settings;
        let origin = settings.origin.as_ref().map_or("usual".to_owned(), Origin::to_string);
        let uses = match (settings.tags, settings.digests) {
            (true, true) => "all",
            (false, true) => "digests",
            (true, false) => "tags",
            (false, false) => "none",
        };
        format!("{origin}{} {uses} ns={}", settings.root, settings.namespace.as_deref().unwrap_or_default())
    }

    #[test]
    fn hosts_in_their_order_and_then_the_server() {
        for (registry, text, expected) in [
            ("docker.io", "", &["usual/v2 all ns="][..]),
            (
                "docker.io",
                "server = 'https://docker.io'\n[host.'https://registry-1.docker.io']\ncapabilities = ['pull', 'resolve']\n",
                &["https://registry-1.docker.io/v2 all ns="],
            ),
            (
                "docker.io",
                "server = 'https://registry-1.docker.io'\n[host.'https://z.com']\ncapabilities = ['pull']\n\
                 [host.'https://a.com']\nca = 'a.crt'\n[host.'https://a.com'.header]\nx = 'y'\n[host.'m.com:5000/us']\n",
                &[
                    "https://z.com/v2 digests ns=docker.io",
                    "https://a.com/v2 all ns=docker.io",
                    "https://m.com:5000/us/v2 all ns=docker.io",
                    "https://registry-1.docker.io/v2 all ns=",
                ],
            ),
            ("q.io", "server = 'http://only.mirror'\n", &["http://only.mirror/v2 all ns=q.io"]),
            (
                "q.io",
                "[host.'https://x.com/v2/up']\noverride_path = true\ncapabilities = ['resolve']\n",
                &["https://x.com/v2/up none ns=q.io", "usual/v2 all ns="],
            ),
            ("q.io:5000", "[host.'http://q.io:5000']\n", &["http://q.io:5000/v2 all ns=", "usual/v2 all ns="]),
        ] {
            let name = Repository { registry: registry.into(), path: "a/b".into() };
            let all = hosts(registry, text).sources(&name);
            assert_eq!(all.iter().map(shown).collect::<Vec<_>>(), expected, "{text}");
            assert!(all.iter().all(|source| source.name.path == "a/b"));
        }
    }

    #[test]
    fn trust_and_headers_are_of_one_host() {
        let hosts = hosts(
            "r.io",
            "[host.'http://m.io:5000']\nskip_verify = true\n[host.'https://n.io']\nca = ['x.crt', '/y.crt']\n\
             client = [['c.cert', 'c.key']]\ndial_timeout = '1m500ms'\n[host.'https://n.io'.header]\nx-a = ['1', '2']\n",
        );
        let (m, n) = (&hosts.hosts[0], &hosts.hosts[1]);
        assert_eq!(m.origin.as_ref().unwrap().to_string(), "https://m.io:5000");
        assert!(m.http_will_do && m.tls.skip_verify && m.mirror && m.headers.is_empty());
        let expected = Tls {
            skip_verify: false,
            authorities: vec!["/c/x.crt".into(), "/y.crt".into()],
            identity: Some(("/c/c.cert".into(), "/c/c.key".into())),
            connect_timeout: Some(Duration::from_millis(60_500)),
        };
        assert_eq!((&n.tls, n.http_will_do, n.headers.get_all("x-a").iter().count()), (&expected, false, 2));
        assert_eq!(*hosts.server, Settings::default());
        assert_eq!(*hosts.destination("r.io"), Settings::default());
    }

    #[test]
    fn what_is_written_goes_to_the_registry_itself() {
        for (text, expected) in [
            ("server = 'https://m.io'\n", "usual/v2"),
            ("[host.'https://m.io']\n", "usual/v2"),
            ("server = 'http://r.io'\n", "http://r.io/v2"),
            ("server = 'https://m.io'\n[host.'http://r.io']\ncapabilities = ['pull']\n", "http://r.io/v2"),
        ] {
            let settings = hosts("r.io", text).destination("r.io");
            let origin = settings.origin.as_ref().map_or("usual".to_owned(), Origin::to_string);
            assert_eq!(format!("{origin}{}", settings.root), expected, "{text}");
            assert!(!settings.mirror && settings.namespace.is_none(), "{text}");
        }
    }

    #[test]
    fn malformed_files_are_errors_with_a_line() {
        for (text, line, words) in [
            ("server = \n", 1, ""),
            ("server = 7\n", 1, "string"),
            ("\nserver = 'ftp://x'\n", 2, ""),
            ("[host.'https://u:hunter2@x']\n", 1, "login"),
            ("[host.'https://']\n", 1, ""),
            ("[host.'https://x']\ncapabilities = ['pull', 'fly']\n", 2, "fly"),
            ("[host.'https://x']\nca = 7\n", 2, "list of strings"),
            ("[host.'https://x']\nskip_verify = 'no'\n", 2, "boolean"),
            ("[host.'https://x']\ndial_timeout = 'soon'\n", 2, "dial_timeout"),
            ("[host.'https://x']\nclient = ['a', 'b']\n", 2, "one client certificate"),
            ("[host.'https://x'.header]\nhost = 'y'\n", 2, "cannot be set"),
            ("[host.'https://x'.header]\nx = \"a\\nb\"\n", 2, "value"),
        ] {
            let error = Hosts::parse(Path::new("h.toml"), text, "r.io").expect_err(text).to_string();
            assert!(error.starts_with(&format!("h.toml:{line}: ")) && error.contains(words), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn times_of_go() {
        for (text, millis) in [
            ("1s", Some(1000)),
            ("1.5s", Some(1500)),
            ("1m30s", Some(90_000)),
            ("", None),
            ("0s", None),
            ("3", None),
            ("1x", None),
            ("9e9s", None),
        ] {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }
}
