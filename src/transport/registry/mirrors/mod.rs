//! Where a repository is really read from: the files with which users send their tools to mirrors. Nothing here is ever
//! written to, and no image is pushed anywhere else than to the registry that was typed.
//!
//! `registries.conf` (containers-registries.conf(5)) is asked first. If none of its tables is about the image, containerd's
//! `hosts.toml` for the image's host is (containerd `docs/hosts.md`); the two are never mixed for one image.
//!
//! Mirrors give manifests and blobs. A tag is resolved by a mirror only if the file allows that; what is named by digest
//! is verified, whoever gave it. Lists (tags, referrers) are asked of the registry, for a mirror has what it happens to
//! have. A mirror that fails is passed over, the registry is asked last. Each has credentials, trust and limits of its own.

mod hosts_toml;
mod registries_conf;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use reqwest::header::HeaderMap;

use self::hosts_toml::Hosts;
use self::registries_conf::RegistriesConf;
use super::origin::Origin;
use super::{Options, lock};
use crate::error::{Error, Result};
use crate::oci::reference::{Reference, Repository, Target};

const FILE_LIMIT: u64 = 4 << 20;

/// A place to read a repository from, or the place to write it to.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// What the repository is called there; credentials are looked up by it.
    pub(super) name: Repository,
    pub(super) settings: Arc<Settings>,
}

/// How to talk to one host about one repository.
#[derive(Debug, PartialEq)]
pub(super) struct Settings {
    /// Where it is; without one, the host of the name is asked as usual.
    pub(super) origin: Option<Origin>,
    /// Plain http will do if there is no TLS at a host that is asked for https.
    pub(super) http_will_do: bool,
    /// The path of the API.
    pub(super) root: String,
    pub(super) tls: Tls,
    /// Sent with each request to the host, and to no other.
    pub(super) headers: HeaderMap,
    /// The registry that a mirror stands for, sent as `ns`.
    pub(super) namespace: Option<String>,
    /// Passed over when it fails.
    pub(super) mirror: bool,
    /// May say what a tag is.
    pub(super) tags: bool,
    /// May give what is named by digest.
    pub(super) digests: bool,
}

/// Trust in one host, beside what the options say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Tls {
    /// Any certificate will do.
    pub(super) skip_verify: bool,
    /// Files of authorities, PEM.
    pub(super) authorities: Vec<PathBuf>,
    /// A file with a certificate, and one with its key, which may be the same.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    pub(super) connect_timeout: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            origin: None,
            http_will_do: false,
            root: "/v2".to_owned(),
            tls: Tls::default(),
            headers: HeaderMap::new(),
            namespace: None,
            mirror: false,
            tags: true,
            digests: true,
        }
    }
}

/// The files, each read when it is first needed.
pub(super) struct Mirrors {
    /// `registries.conf` files in the order in which they are read.
    files: Vec<(PathBuf, FileKind)>,
    conf: OnceLock<Result<RegistriesConf>>,
    hosts_dir: PathBuf,
    hosts: Mutex<HashMap<String, Result<Option<Arc<Hosts>>>>>,
}

#[derive(Clone, Copy, PartialEq)]
enum FileKind {
    /// The user named it: it must be there.
    Named,
    Default,
    /// `registries.conf.d`: all its `*.conf`.
    Directory,
}

impl Mirrors {
    /// The files that the options and the environment name.
    pub(super) fn new(options: &Options, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let system = PathBuf::from("/etc/containers");
        let user = set("HOME").map(|home| home.join(".config/containers"));
        let in_user = |name: &str| user.as_ref().map(|user| user.join(name));
        let files = match &options.registries_conf {
            Some(file) => vec![(file.clone(), FileKind::Named)],
            None => {
                // containers-registries.conf.d(5): the user's own file hides the directory of the system.
                let own = in_user("registries.conf").filter(|file| file.exists());
                let (file, hidden) = match (set("CONTAINERS_REGISTRIES_CONF"), own) {
                    (Some(file), _) => ((file, FileKind::Named), false),
                    (None, Some(file)) => ((file, FileKind::Default), true),
                    (None, None) => ((system.join("registries.conf"), FileKind::Default), false),
                };
                let directories = [(!hidden).then(|| system.join("registries.conf.d")), in_user("registries.conf.d")];
                let directories = directories.into_iter().flatten().map(|directory| (directory, FileKind::Directory));
                [file].into_iter().chain(directories).collect()
            }
        };
        let hosts_dir = options.hosts_dir.clone().unwrap_or_else(|| "/etc/containerd/certs.d".into());
        Mirrors { files, conf: OnceLock::new(), hosts_dir, hosts: Mutex::default() }
    }

    /// Where to read `name` from: mirrors in their order, then the registry. With a `target`, places that may not give it
    /// are left out.
    pub(super) fn sources(&self, name: &Repository, target: Option<&Target>) -> Result<Vec<Source>> {
        let conf = self.conf()?;
        conf.check_blocked(name, target)?;
        let mut sources = match conf.table(name) {
            Some(table) => table.sources(name)?,
            None => match self.hosts(&name.registry)? {
                Some(hosts) => hosts.sources(name),
                None => vec![Source { name: name.clone(), settings: Arc::default() }],
            },
        };
        sources.retain(|source| match target {
            None => true,
            Some(Target::Tag(_)) => source.settings.tags,
            Some(Target::Digest(_)) => source.settings.digests,
        });
        if sources.is_empty() {
            return Err(Error::not_found(format!("{name}: the configuration has no host that may give this"))
                .hint(format!("look at the capabilities in the hosts.toml for {}", name.registry)));
        }
        Ok(sources)
    }

    /// Where to write `name`: to the registry of that name, whatever stands for it when reading.
    pub(super) fn destination(&self, name: &Repository) -> Result<Source> {
        let conf = self.conf()?;
        conf.check_blocked(name, None)?;
        let settings = match conf.table(name) {
            Some(table) => table.destination(name),
            None => self.hosts(&name.registry)?.map(|hosts| hosts.destination(&name.registry)).unwrap_or_default(),
        };
        Ok(Source { name: name.clone(), settings })
    }

    fn conf(&self) -> Result<&RegistriesConf> {
        let read = || {
            let mut conf = RegistriesConf::default();
            for (path, kind) in &self.files {
                match kind {
                    FileKind::Directory => {
                        for file in drop_ins(path)? {
                            conf.merge(&file, &read(&file)?.unwrap_or_default())?;
                        }
                    }
                    _ => match read(path)? {
                        Some(text) => conf.merge(path, &text)?,
                        None if *kind == FileKind::Default => {}
                        None => {
                            let missing = format!("{}: no such file", path.display());
                            return Err(Error::usage(missing).hint("it is named by CONTAINERS_REGISTRIES_CONF"));
                        }
                    },
                }
            }
            Ok(conf)
        };
        self.conf.get_or_init(read).as_ref().map_err(Clone::clone)
    }

    fn hosts(&self, registry: &str) -> Result<Option<Arc<Hosts>>> {
        let mut known = lock(&self.hosts);
        if let Some(hosts) = known.get(registry) {
            return hosts.clone();
        }
        let hosts = hosts_toml::find(&self.hosts_dir, registry).map(|hosts| hosts.map(Arc::new));
        known.insert(registry.to_owned(), hosts.clone());
        hosts
    }
}

/// The `*.conf` files of a directory, sorted; none if there is no such directory.
fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>> {
    let io = |e: std::io::Error| Error::io(directory.display(), &e);
    let entries = match std::fs::read_dir(directory) {
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        entries => entries.map_err(io)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == "conf") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The text of a file; `None` if it is not there.
fn read(path: &Path) -> Result<Option<String>> {
    let io = |e: std::io::Error| Error::io(path.display(), &e);
    let file = match std::fs::File::open(path) {
        Err(e) if is_absent(&e) => return Ok(None),
        file => file.map_err(io)?,
    };
    let mut text = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(Error::failed(format!("{}: larger than {FILE_LIMIT} bytes", path.display())));
    }
    String::from_utf8(text).map(Some).map_err(|_| Error::failed(format!("{}: not UTF-8", path.display())))
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// `FILE:LINE: why`.
fn malformed(path: &Path, text: &str, span: Option<Range<usize>>, why: &str) -> Error {
    let start = span.map_or(0, |span| span.start).min(text.len());
    let line = 1 + text.as_bytes()[..start].iter().filter(|b| **b == b'\n').count();
    Error::failed(format!("{}:{line}: {why}", path.display()))
}

/// Reads TOML into `T`.
fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|e| malformed(path, text, e.span(), e.message()))
}

/// `HOST[:PORT]/PATH` as a repository.
fn repository(text: &str) -> Option<Repository> {
    let host = text.split('/').next()?.to_ascii_lowercase();
    match format!("docker://{text}").parse().ok()? {
        // Without a dot or a port, the first part would be a path on docker.io.
        Reference::Registry { repository, target: None }
            if repository.registry == host || host.ends_with(".docker.io") =>
        {
            Some(repository)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_files_are_read() {
        let home = tempfile::tempdir().unwrap();
        let user = home.path().join(".config/containers");
        let (own, own_drop_ins) = (user.join("registries.conf"), user.join("registries.conf.d"));
        let (system, system_drop_ins) = ("/etc/containers/registries.conf", "/etc/containers/registries.conf.d");
        let files = |named: Option<&str>, variable: Option<&str>| {
            let options = Options { registries_conf: named.map(PathBuf::from), ..Options::default() };
            let mirrors = Mirrors::new(&options, |name| match name {
                "HOME" => Some(home.path().into()),
                "CONTAINERS_REGISTRIES_CONF" => variable.map(Into::into),
                _ => None,
            });
            mirrors.files.into_iter().map(|(path, _)| path).collect::<Vec<_>>()
        };
        assert_eq!(files(Some("/x"), Some("/y")), [Path::new("/x")], "the only one");
        assert_eq!(files(None, None), [Path::new(system), Path::new(system_drop_ins), &own_drop_ins]);
        assert_eq!(files(None, Some("/y")), [Path::new("/y"), Path::new(system_drop_ins), &own_drop_ins]);
        std::fs::create_dir_all(&own_drop_ins).unwrap();
        std::fs::write(&own, "").unwrap();
        assert_eq!(files(None, None), [own, own_drop_ins.clone()], "the user's own file hides the system's");

        for name in ["b.conf", "a.conf", "c.conf.bak"] {
            std::fs::write(own_drop_ins.join(name), "").unwrap();
        }
        std::fs::create_dir(own_drop_ins.join("d.conf")).unwrap();
        assert_eq!(drop_ins(&own_drop_ins).unwrap(), [own_drop_ins.join("a.conf"), own_drop_ins.join("b.conf")]);
    }
}
