//! Registries: a client for the distribution specification.
//!
//! Every request goes through one function (`http::send`), which authenticates, follows redirects by hand, waits and
//! tries again; every hop away from the registry goes through another (`origin::allow_hop`). Headers are hints: content
//! is known by the digest of its bytes.
//!
//! `docker.io` is served by `registry-1.docker.io`. Plain http is spoken with the hosts that
//! [`Options::plain_http`] names, and with `localhost` and loopback addresses unless certificates are configured; a
//! failed https connection never falls back to it, unless a file of the user's calls the host insecure. Which mirrors
//! stand for a registry is said in the same files (module `mirrors`).

mod advice;
mod auth;
mod challenge;
mod credentials;
mod download;
mod endpoint;
#[cfg(fuzzing)]
pub mod fuzzing;
mod helper;
mod http;
mod manifest;
mod mirrors;
mod network;
mod origin;
mod pages;
mod proxy;
mod refusal;
mod retry;
mod tls;
mod upload;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use url::{Host, Url};

use self::endpoint::Endpoint;
use self::origin::{Origin, Reach};
use crate::error::{Error, Kind, Result};
use crate::limits::Limits;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::json::Object;
use crate::oci::reference::{self, Target};
use crate::transport::{ByteStream, Content};

/// How to talk to registries.
#[derive(Clone, Debug)]
pub struct Options {
    /// `HOST` or `HOST:PORT` of registries that speak plain http.
    pub plain_http: Vec<String>,
    /// Certificate authorities to trust beside the system's, in PEM form.
    pub ca_file: Option<PathBuf>,
    /// A directory with a `HOST[:PORT]` directory of `*.crt`, `*.cert` and `*.key` for each host; without it,
    /// `/etc/containers/certs.d`, `/etc/docker/certs.d` and `~/.config/containers/certs.d` are searched.
    pub cert_dir: Option<PathBuf>,
    /// The only file to read credentials from; without it, Docker's and Podman's files are searched.
    pub auth_file: Option<PathBuf>,
    /// The only `registries.conf` to read; without it, containers-registries.conf(5) says which ones.
    pub registries_conf: Option<PathBuf>,
    /// A directory with a `HOST[:PORT]/hosts.toml` for each registry; without it, `/etc/containerd/certs.d`.
    pub hosts_dir: Option<PathBuf>,
    /// `HOST` or `HOST:PORT` of token services that may have a registry's credentials although they are elsewhere.
    pub realm_hosts: Vec<String>,
    /// How long a rate limit is put up with, all waits of one request together; also the longest wait that is obeyed.
    pub max_wait: Duration,
    /// How long a connection may stay silent.
    pub stall: Duration,
    /// The unit of the waits between attempts; they grow exponentially from it, with jitter.
    pub retry_base: Duration,
    /// The largest piece of a chunked upload, should a registry insist on one.
    pub chunk: usize,
    /// Where to remember unfinished uploads, so that a later run goes on with them; without it, none does.
    pub journal_dir: Option<PathBuf>,
    /// Blobs that are read from one host at a time, and that are written to it; at least 1. All repositories share this.
    pub jobs: usize,
    /// What an answer may have.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            plain_http: Vec::new(),
            ca_file: None,
            cert_dir: None,
            auth_file: None,
            registries_conf: None,
            hosts_dir: None,
            realm_hosts: Vec::new(),
            max_wait: Duration::from_secs(60),
            stall: Duration::from_secs(60),
            retry_base: Duration::from_millis(250),
            // GHCR takes no more in one PATCH (faults.md E5).
            chunk: 4 << 20,
            jobs: 4,
            journal_dir: None,
            limits: Limits::default(),
        }
    }
}

/// Connections, credentials and tokens for any number of registries. Clones share them.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    options: Options,
    network: network::Network,
    credentials: credentials::Credentials,
    auth: auth::Cache,
    traffic: Counters,
    mirrors: mirrors::Mirrors,
    journal: upload::Journal,
    gates: Mutex<HashMap<Origin, Instant>>,
    /// Since when hosts have answered nothing but that we ask too often.
    limited: Mutex<HashMap<Origin, Instant>>,
    /// Reads and writes apart, for a blob that goes from a registry to itself needs one of each.
    transfers: Mutex<HashMap<(Origin, Direction), Arc<Semaphore>>>,
    reaches: Mutex<HashMap<Origin, Reach>>,
    /// What hosts speak with which https is not required.
    schemes: Mutex<HashMap<Origin, Origin>>,
    /// `HOST:PORT` of mirrors that are not asked again.
    unreachable: Mutex<HashSet<String>>,
    /// Blobs for which a mirror gave other content, and its `HOST:PORT`.
    wrong: Mutex<HashSet<(Digest, String)>>,
    /// Uploads that are being cancelled.
    cancels: Mutex<JoinSet<()>>,
}

/// Which way a blob goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Direction {
    Read,
    Write,
}

impl Shared {
    /// Waits until another blob may be moved; it may as long as the permit lives. Whoever holds one to read must not wait
    /// for one to write, so that none can wait for another in a circle.
    async fn transfer(&self, host: &Origin, direction: Direction) -> Result<OwnedSemaphorePermit> {
        let new = || Arc::new(Semaphore::new(self.options.jobs.clamp(1, Semaphore::MAX_PERMITS)));
        let permits = lock(&self.transfers).entry((host.clone(), direction)).or_insert_with(new).clone();
        permits.acquire_owned().await.map_err(|e| Error::failed(format!("internal error: {e}")))
    }
}

#[derive(Default)]
struct Counters {
    downloaded: AtomicU64,
    uploaded: AtomicU64,
    requests: AtomicU64,
}

/// What went over the network so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of bodies received.
    pub downloaded: u64,
    /// Bytes of blobs sent, repeated ones too.
    pub uploaded: u64,
    /// Requests sent.
    pub requests: u64,
}

impl Client {
    /// A client; nothing is connected and no credentials are read before they are needed.
    pub fn new(options: Options) -> Result<Self> {
        for (flag, file) in [("--ca-file", &options.ca_file), ("--auth-file", &options.auth_file)] {
            if let Some(file) = file.as_ref().filter(|file| !file.is_file()) {
                return Err(Error::usage(format!("{flag} {}: no such file", file.display())));
            }
        }
        // Not «is a file»: /dev/null is how one says that there is none.
        for (flag, path) in [("--registries-conf", &options.registries_conf), ("--hosts-dir", &options.hosts_dir)] {
            if let Some(path) = path.as_ref().filter(|path| !path.exists()) {
                return Err(Error::usage(format!("{flag} {}: no such file or directory", path.display())));
            }
        }
        Ok(Client(Arc::new(Shared {
            credentials: credentials::Credentials::new(options.auth_file.clone(), |name| std::env::var_os(name)),
            mirrors: mirrors::Mirrors::new(&options, |name| std::env::var_os(name)),
            journal: upload::Journal::new(options.journal_dir.clone()),
            options,
            network: network::Network::default(),
            auth: auth::Cache::default(),
            traffic: Counters::default(),
            gates: Mutex::default(),
            limited: Mutex::default(),
            transfers: Mutex::default(),
            reaches: Mutex::default(),
            schemes: Mutex::default(),
            unreachable: Mutex::default(),
            wrong: Mutex::default(),
            cancels: Mutex::default(),
        })))
    }

    /// A repository, to be read from: by mirrors too, if the user's files name some. [`error::Kind::Denied`] if they
    /// block it.
    ///
    /// [`error::Kind::Denied`]: crate::error::Kind::Denied
    pub fn repository(&self, name: &reference::Repository) -> Result<Repository> {
        let repository = Repository { client: self.clone(), name: name.clone(), push: false };
        // Files that cannot be read are told before anything is done.
        repository.endpoints(None).map(|_| repository)
    }

    /// Waits until the uploads that came to nothing are cancelled, 2 seconds at most: best effort, for registries forget
    /// them too. Cancelling begins by itself when a future is dropped; what the journal has is left for the next run.
    pub async fn wait_for_cancels(&self) {
        upload::wait_for_cancels(&self.0).await;
    }

    /// What went over the network so far.
    pub fn traffic(&self) -> Traffic {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { downloaded, uploaded, requests } = &self.0.traffic;
        Traffic { downloaded: count(downloaded), uploaded: count(uploaded), requests: count(requests) }
    }
}

/// Where the API of a registry is; `certified` if something is said about its certificates.
fn home(options: &Options, registry: &str, certified: bool) -> Result<Origin> {
    let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    let origin = |scheme: &str| {
        let url = Url::parse(&format!("{scheme}://{host}/"))
            .map_err(|e| Error::usage(format!("'{registry}' is not a registry host: {e}")))?;
        Origin::of(&url)
    };
    let (http, https) = (origin("http")?, origin("https")?);
    let name = http.host();
    let loopback = match name {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(_) | Host::Ipv6(_) => http.reach() == Some(Reach::Loopback),
    };
    let certificates = || certified || options.ca_file.is_some() || tls::directory(options, &https).is_some();
    let plain = options.plain_http.iter().any(|entry| http.is_named(entry));
    Ok(if plain || (loopback && !certificates()) { http } else { https })
}

/// A manifest or index as a registry stores it.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The `Content-Type` of the answer; empty if there was none.
    pub media_type: String,
    /// The digest of `bytes`, computed.
    pub digest: Digest,
    /// The document.
    pub bytes: Bytes,
}

/// How a blob got to where it was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The registry already had it in another repository.
    Mounted,
    /// Its content was sent.
    Uploaded,
}

/// What a registry made of a manifest.
#[derive(Debug)]
#[must_use]
pub enum Stored {
    /// It is there, and reads back as it was sent.
    Stored,
    /// The registry misses a blob of it, whatever it answered when asked for that blob: push them all, then try again
    /// (faults.md E17). The error is what to say if that was tried.
    BlobUnknown(Error),
}

/// A repository of a registry.
#[derive(Clone)]
pub struct Repository {
    client: Client,
    name: reference::Repository,
    push: bool,
}

impl Repository {
    /// The same repository, to be written to: no mirror has a say, and tokens are asked for both, so that one serves all
    /// requests.
    #[must_use]
    pub fn for_push(mut self) -> Self {
        self.push = true;
        self
    }

    /// What an answer may have.
    pub(crate) fn limits(&self) -> Limits {
        self.client.0.options.limits
    }

    /// Registry and path, as they were typed.
    pub fn name(&self) -> &reference::Repository {
        &self.name
    }

    /// Who may be asked: the mirrors in their order, and last the registry itself; just that one for writing.
    fn endpoints(&self, target: Option<&Target>) -> Result<Vec<Endpoint>> {
        let files = &self.client.0.mirrors;
        let (sources, actions) = match self.push {
            true => (vec![files.destination(&self.name)?], "pull,push"),
            false => (files.sources(&self.name, target)?, "pull"),
        };
        let mut endpoints = Vec::new();
        for source in sources {
            let endpoint = Endpoint::new(&self.client, source, actions)?;
            if !endpoint.is_given_up() {
                endpoints.push(endpoint);
            }
        }
        Ok(endpoints)
    }

    /// Whether somebody else than the registry itself may be asked for content.
    pub(crate) fn is_mirrored(&self) -> bool {
        self.endpoints(None).is_ok_and(|endpoints| endpoints.iter().any(|endpoint| endpoint.settings.mirror))
    }

    /// The registry itself.
    async fn registry(&self) -> Result<Endpoint> {
        let last = self.endpoints(None)?.pop();
        last.ok_or_else(|| Error::failed(format!("{}: there is nobody to ask", self.name)))?.settled().await
    }

    /// Fetches a manifest with one request. By digest the bytes are verified, by tag the digest is computed from them.
    /// `None` if the registry says that there is no such manifest or repository.
    pub async fn manifest(&self, target: &Target) -> Result<Option<Manifest>> {
        let mut endpoints = self.endpoints(Some(target))?;
        let registry =
            endpoints.pop().ok_or_else(|| Error::failed(format!("{}: there is nobody to ask", self.name)))?;
        let mut failed = Vec::new();
        for mirror in endpoints {
            let mirror = mirror.settled().await?;
            match manifest::fetch(&mirror, target).await.and_then(|found| readable(target, found)) {
                Ok(None) => tracing::debug!("{}: not at the mirror {}", self.name, mirror.home),
                Err(error) => {
                    passed_over(&mirror, &error);
                    failed.push(error.to_string());
                }
                found => return found,
            }
        }
        let found = manifest::fetch(&registry.settled().await?, target).await;
        found.map_err(|error| match (failed.is_empty(), error.hint_text()) {
            (false, None) => error.hint(format!("its mirrors failed too: {}", failed.join("; "))),
            _ => error,
        })
    }

    /// All tags, in the registry's order.
    pub async fn tags(&self) -> Result<Vec<String>> {
        pages::tags(&self.registry().await?).await
    }

    /// What refers to the manifest `subject`, by the referrers API or the tag that stands in for it.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        pages::referrers(&self.registry().await?, subject).await
    }

    /// Whether the repository has a blob. Registries have been wrong about this.
    pub async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        self.registry().await?.has_blob(descriptor).await
    }

    /// The content of a blob from byte `offset` on, resumed when the connection breaks, by another mirror or the registry
    /// if need be. The consumer hashes it. It is one of [`Options::jobs`] until it is read to its end or dropped.
    pub async fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<ByteStream> {
        download::open(self.endpoints(None)?, descriptor, offset).await
    }

    /// Mounts a blob from the repository `from` of the same registry, or uploads `content`, which is hashed in passing:
    /// the upload of anything but what `descriptor` names is never completed.
    pub async fn push_blob(&self, descriptor: &Descriptor, content: &Content, from: Option<&str>) -> Result<Pushed> {
        upload::push(&self.clone().for_push().registry().await?, descriptor, content, from).await
    }

    /// Stores a manifest under a tag or its digest, and reads it back by digest.
    pub async fn push_manifest(&self, target: &Target, media_type: &str, bytes: Bytes) -> Result<Stored> {
        manifest::push(&self.clone().for_push().registry().await?, target, media_type, bytes).await
    }
}

/// Refuses what a mirror gives for a tag and is no document at all: there is no digest to hold it against.
fn readable(target: &Target, found: Option<Manifest>) -> Result<Option<Manifest>> {
    if let (Target::Tag(_), Some(manifest)) = (target, &found) {
        Object::parse(&manifest.bytes)?;
    }
    Ok(found)
}

fn passed_over(endpoint: &Endpoint, error: &Error) {
    let place = &endpoint.home;
    if error.kind() == Kind::Content {
        tracing::warn!("mirror {place} is passed over: {error}");
    } else {
        tracing::debug!("mirror {place} is passed over: {error}");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_and_named_hosts_only() {
        let options = Options {
            plain_http: vec!["plain.io".into(), "port.io:5000".into()],
            cert_dir: Some("/does/not/exist".into()),
            ..Options::default()
        };
        for (registry, origin) in [
            ("docker.io", "https://registry-1.docker.io"),
            ("ghcr.io", "https://ghcr.io"),
            ("localhost", "http://localhost"),
            ("localhost:5000", "http://localhost:5000"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("127.9.9.9", "http://127.9.9.9"),
            ("[::1]:5000", "http://[::1]:5000"),
            ("localhost.evil.com", "https://localhost.evil.com"),
            ("127.0.0.1.evil.com", "https://127.0.0.1.evil.com"),
            ("x.localhost", "https://x.localhost"),
            ("registry.local", "https://registry.local"),
            ("10.0.0.1:5000", "https://10.0.0.1:5000"),
            ("plain.io", "http://plain.io"),
            ("plain.io:81", "http://plain.io:81"),
            ("port.io:5000", "http://port.io:5000"),
            ("port.io", "https://port.io"),
        ] {
            assert_eq!(home(&options, registry, false).unwrap().to_string(), origin, "{registry}");
        }
        let trusting = Options { ca_file: Some("/some/ca.pem".into()), ..Options::default() };
        assert_eq!(home(&trusting, "localhost:5000", false).unwrap().to_string(), "https://localhost:5000");
    }
}
