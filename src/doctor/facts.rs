//! What the image says: its program, its user, its start command, where it listens.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::files::Files;
use super::start::DEFAULT_PATH;
use super::users::Users;
use crate::archive::path;
use crate::capability::{FileCapabilities, XATTR};
use crate::error::{Error, Result};
use crate::kong::{Version, listen};
use crate::layer::lookup::Found;
use crate::oci::config::ImageConfig;
use crate::oci::platform::Platform;
use crate::profile::Profile;

/// Names that entry points and start scripts are likely to ask for.
const LIKELY: [&str; 24] = [
    "sh",
    "bash",
    "dash",
    "busybox",
    "env",
    "kong",
    "kong-health",
    "resty",
    "perl",
    "nginx",
    "su-exec",
    "gosu",
    "tini",
    "dumb-init",
    "catatonit",
    "docker-init",
    "setpriv",
    "runuser",
    "su",
    "chroot",
    "setcap",
    "nice",
    "timeout",
    "openresty",
];

/// Directories whose scripts the entry points of official images run, and Kong's prefix, where they look for sockets.
const LISTED: [&str; 4] =
    ["/docker-entrypoint.d", "/docker-entrypoint-init.d", "/docker-entrypoint-initdb.d", "/usr/local/kong"];

/// Dynamic linkers, of glibc and musl.
const LINKERS: [&str; 4] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];

/// What a config says about the health check (Docker; Kubernetes does not look at it).
#[derive(Default, Deserialize)]
struct Healthcheck {
    #[serde(rename = "Test")]
    test: Option<Vec<String>>,
}

/// The facts about one image.
pub(super) struct Facts {
    pub platform: Platform,
    pub profile: &'static Profile,
    pub target: std::rc::Rc<Found>,
    /// The path that was asked for.
    pub asked: String,
    /// Its capabilities; an error if the value is malformed.
    pub capabilities: Option<Result<FileCapabilities>>,
    pub users: Users,
    /// `USER`; empty if it is not set.
    pub user: String,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub directory: String,
    pub volumes: Vec<String>,
    pub healthcheck: Option<Vec<String>>,
    pub version: Option<Version>,
    pub exposed: Vec<String>,
}

/// Where a container would listen, and what says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listen {
    /// The variable, if there is one for it.
    pub variable: Option<String>,
    /// Its value, or the default of this version.
    pub value: String,
    /// Whether the variable is set.
    pub set: bool,
    /// The ports in it.
    pub ports: Vec<u16>,
    /// Why the program would not start with it.
    pub error: Option<String>,
}

impl Facts {
    /// Reads them.
    ///
    /// # Errors
    /// The program is not there; a layer cannot be read; the config is malformed.
    pub(super) fn read(
        files: &mut Files<'_>,
        config: &ImageConfig,
        platform: &Platform,
        profile: &'static Profile,
        asked: Option<&str>,
    ) -> Result<Facts> {
        let strings = |name: &str| -> Result<Vec<String>> { Ok(config.run(name)?.unwrap_or_default()) };
        let text = |name: &str| -> Result<String> { Ok(config.run(name)?.unwrap_or_default()) };
        let (entrypoint, cmd) = (strings("Entrypoint")?, strings("Cmd")?);
        let mut env = BTreeMap::new();
        for entry in config.env()? {
            // The first of two counts for us as for `getenv`.
            let (name, value) = entry.split_once('=').unwrap_or((&entry, ""));
            env.entry(name.to_owned()).or_insert_with(|| value.replace('\0', ""));
        }
        let candidates: Vec<&str> = match asked {
            Some(path) => vec![path],
            None => profile.files.first().copied().unwrap_or_default().to_vec(),
        };
        if candidates.is_empty() {
            return Err(Error::usage(format!("the profile {} names no file", profile.name))
                .hint("name the program that binds the ports with --file PATH"));
        }
        let healthcheck = config.run::<Healthcheck>("Healthcheck")?.and_then(|check| check.test);
        expect(files, &candidates, entrypoint.iter().chain(&cmd).chain(healthcheck.iter().flatten()), &env);
        let mut target = None;
        for path in &candidates {
            if let Some(file) = files.file(path)? {
                target = Some(((*path).to_owned(), file));
                break;
            }
        }
        let Some((asked, target)) = target else {
            return Err(files.why_not(candidates[0]).hint("name the program that binds the ports with --file PATH"));
        };
        let value = target.entry.xattrs.get(XATTR.as_bytes());
        let directory = text("WorkingDir")?;
        Ok(Facts {
            platform: platform.clone(),
            profile,
            capabilities: value.map(|value| FileCapabilities::decode(value)),
            users: Users::read(files)?,
            user: text("User")?,
            healthcheck: healthcheck.and_then(|test| healthcheck_argv(&test)),
            version: profile.version_env.and_then(|name| env.get(name)).and_then(|version| version.parse().ok()),
            exposed: config.exposed_ports()?,
            volumes: config.volumes()?,
            directory: if directory.is_empty() { "/".to_owned() } else { directory },
            target,
            asked,
            entrypoint,
            cmd,
            env,
        })
    }

    /// Whether its attribute is one that no kernel stores: setxattr(2) fails, and so does whoever unpacks the image.
    pub(super) fn is_malformed(&self) -> bool {
        self.capabilities.as_ref().is_some_and(Result::is_err)
    }

    /// The real path of the program.
    pub(super) fn path(&self) -> String {
        path::show(&self.target.path)
    }

    /// Where it listens with these variables.
    pub(super) fn listen(&self, env: &BTreeMap<String, String>) -> Listen {
        let Some(variable) = self.profile.listen_env else {
            let ports = self.profile.ports.iter().copied().chain(self.exposed.iter().map(String::as_str));
            let mut ports: Vec<u16> = ports.filter_map(|port| port.split('/').next()?.parse().ok()).collect();
            ports.sort_unstable();
            ports.dedup();
            let value = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
            return Listen { variable: None, value, set: false, ports, error: None };
        };
        let given = env.get(variable);
        let value = given.cloned().unwrap_or_else(|| listen::default_listen(self.version.as_ref()).to_owned());
        let mut ports = Vec::new();
        let mut error = None;
        match listen::parse(&value, self.version.as_ref()) {
            Ok(listeners) => ports = listeners.iter().map(|listener| listener.port).collect(),
            Err(e) => error = Some(e.to_string()),
        }
        ports.sort_unstable();
        ports.dedup();
        Listen { variable: Some(variable.to_owned()), value, set: given.is_some(), ports, error }
    }
}

/// Says what will be asked for, so that each layer is read once.
fn expect<'s>(
    files: &mut Files<'_>,
    candidates: &[&str],
    words: impl Iterator<Item = &'s String>,
    env: &BTreeMap<String, String>,
) {
    files.expect(candidates.iter().copied().chain(["/etc/passwd", "/etc/group"]));
    let search = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let names: Vec<&str> = words.map(String::as_str).filter(|word| !word.is_empty() && word.len() < 256).collect();
    files.expect(names.iter().copied().filter(|name| name.starts_with('/')));
    let bare = names.iter().copied().filter(|name| !name.contains(['/', ' ']));
    let bare: Vec<&str> = bare.take(50).chain(LIKELY).collect();
    for directory in search.split(':').filter(|directory| directory.starts_with('/')).take(20) {
        let paths: Vec<String> = bare.iter().map(|name| format!("{directory}/{name}")).collect();
        files.expect(paths.iter().map(String::as_str));
    }
    LISTED.iter().for_each(|directory| files.expect_list(directory));
    files.expect(LINKERS);
    // Links to these may come behind them in a layer.
    files.expect([
        "/bin/sh",
        "/bin/bash",
        "/usr/bin/env",
        "/bin/busybox",
        "/bin/dash",
        "/usr/local/openresty/bin/resty",
    ]);
}

/// What Docker executes for `HEALTHCHECK`.
fn healthcheck_argv(test: &[String]) -> Option<Vec<String>> {
    match test {
        [kind, argv @ ..] if kind == "CMD" && !argv.is_empty() => Some(argv.to_vec()),
        [kind, text] if kind == "CMD-SHELL" => Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()]),
        _ => None,
    }
}
